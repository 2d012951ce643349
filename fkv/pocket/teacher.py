"""Teacher-forced training pass: every chunk of a clip is a target that sees the clean chunks before it, all in one forward.

Block-causal training as in Self Forcing's first stage (arXiv 2506.08009, section 3) and CausVid (arXiv 2412.07772): tokens of the clean
chunks and of the noisy chunks go through the same network side by side; noisy chunk i attends to clean chunks before i and to itself. What
a head may see of the past is a `Sight`, so that the model meets in training the caches it will be given later. Half of the heads of each
layer ("local" heads) are shown only the first and the last frame of the past in most batches: this is built in, not discovered, and the
model card says so. What they look at beyond is measured as they go (`stray`) and trained away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fkv import rope
from fkv.cache import Policy, Roles
from fkv.policies.forcing_kv import ForcingKV
from fkv.policies.full import Full
from fkv.policies.window import Window
from fkv.spec import Geometry, ModelSpec
from fkv.wan import Block, CausalWan


@dataclass(frozen=True)
class Seen:
    """Clean frames that one chunk may see: whole ones, and of some others only the segments that a Forcing-KV cache keeps of them."""

    whole: tuple[int, ...] = ()
    part: tuple[int, ...] = ()


Past = list[Seen]


@dataclass(frozen=True)
class Sight:
    """What local and wide heads see of the clean past, per chunk, the policy whose cache shows wide heads the same in generation, and which
    heads of every layer are local here, where it is not those that mostly are."""

    local: Past
    wide: Past
    policy: Policy = field(default_factory=Full)
    roles: Roles | None = None


def local_heads(layers: int, heads: int) -> list[list[int]]:
    """The heads that are trained mostly on near context: half of every layer but the first, a different half in each (a fixed walk)."""
    rows = [sorted({(layer * 5 + step * 3) % heads for step in range(heads // 2)}) for layer in range(layers)]
    return [[], *rows[1:]]


def some_frames(chunks: int, geometry: Geometry, sink: int, recent: int) -> Past:
    """The first `sink` and the last `recent` frames before each chunk."""
    ends = [i * geometry.chunk for i in range(chunks)]
    return [Seen(tuple(frame for frame in range(end) if frame < sink or frame >= end - recent)) for end in ends]


def rolling(chunks: int, spec: ModelSpec) -> Past:
    """The last frames before each chunk, as many as with its own fill the model's window: the cache it generates with."""
    return some_frames(chunks, spec.geometry, 0, spec.window - spec.chunk)


def some_segments(chunks: int, geometry: Geometry, policy: ForcingKV) -> Past:
    """What dynamic heads of a Forcing-KV cache see before each chunk: its sink and its newest frames, and, from the second chunk on after
    heads have parted, segments of the frames that left the newest ones when the last chunk came in."""
    ends = some_frames(chunks, geometry, policy.sink, policy.dynamic_recent)
    out = []
    for number, seen in enumerate(ends):
        newest = number * geometry.chunk - policy.dynamic_recent
        leaving = tuple(frame for frame in range(newest - geometry.chunk, newest) if frame >= policy.sink)
        out.append(replace(seen, part=leaving) if number > policy.start_chunk + 1 else seen)
    return out


def sample_sight(chunks: int, spec: ModelSpec, rng: np.random.Generator, roles: Roles) -> Sight:
    """In two batches of five what a Forcing-KV cache with these roles shows, with all heads of layer 0 static. In the others local heads
    see two frames in four cases of five, and wide heads the model's window (two fifths of all) or a sink and a shorter one (a fifth)."""
    geometry, draw = spec.geometry, rng.random()
    near = some_frames(chunks, geometry, 1, 1)
    if draw >= 0.6:
        policy = ForcingKV(roles=roles).fitted(geometry)
        assert isinstance(policy, ForcingKV)
        static = (tuple(range(geometry.heads)), *roles[1:])
        return Sight(near, some_segments(chunks, geometry, policy), policy, static)
    if draw < 0.4:
        wide, policy = rolling(chunks, spec), Full(spec.window)
    else:
        sink, recent = int(rng.choice([0, 1, 3])), int(rng.choice([3, 6, 9]))
        wide, policy = some_frames(chunks, geometry, sink, recent), Window(sink, recent + geometry.chunk)
    return Sight(near if rng.random() < 0.8 else wide, wide, policy)


Picked = Sequence[Tensor | None]


def picked(k: Tensor, sight: Sight, wide: Sequence[int], geometry: Geometry) -> Picked | None:
    """Of the frames that a chunk sees only a part of, the tokens [b, n] that the Forcing-KV cache of a sight keeps by the clean keys k
    [b, heads, s, d] of its `wide` heads, for every chunk and clip; None for a sight without such frames."""
    policy = sight.policy
    if not isinstance(policy, ForcingKV) or not any(seen.part for seen in sight.wide):
        return None
    past = (len(sight.wide) - 1) * geometry.chunk * geometry.tokens
    scores = policy.likeness(k[:, list(wide), :past].detach(), geometry)
    return [policy.tokens_of(policy.least(scores[:, list(seen.part)]), geometry) if seen.part else None for seen in sight.wide]


def _collect(frames: Sequence[Tensor], seen: Seen, tokens: Tensor | None, own: Sequence[Tensor]) -> Tensor:
    """Tokens [b, h, s, d] of the frames a chunk sees, then its own."""
    pieces = [frames[frame] for frame in seen.whole]
    if tokens is not None:
        part = torch.cat([frames[frame] for frame in seen.part], dim=2)
        pieces.append(part.take_along_dim(tokens[:, None, :, None], dim=2))
    return torch.cat((*pieces, *own), dim=2)


def _attend(q: Tensor, k: Tensor, v: Tensor, past: Past, geometry: Geometry, kept: Picked | None = None) -> Tensor:
    """q [b, h, s, d] of the noisy chunks, or of clean and noisy chunks; k, v of clean then noisy chunks; returns q's shape."""
    chunk, chunks = geometry.chunk, len(past)
    keys, values = k.split(geometry.tokens, dim=2), v.split(geometry.tokens, dim=2)
    queries = q.split(geometry.tokens * chunk, dim=2)
    first = 2 * chunks - 1 - len(queries)
    out = []
    for i, query in enumerate(queries, start=first):
        number, own = i if i < chunks - 1 else i - (chunks - 1), slice(i * chunk, (i + 1) * chunk)
        seen, tokens = past[number], kept[number] if kept else None
        seen_keys, seen_values = _collect(keys, seen, tokens, keys[own]), _collect(values, seen, tokens, values[own])
        out.append(F.scaled_dot_product_attention(query, seen_keys, seen_values))
    return torch.cat(out, dim=2)


def attend(q: Tensor, k: Tensor, v: Tensor, sight: Sight, local: Sequence[int], geometry: Geometry, kept: Picked | None = None) -> Tensor:
    """Self-attention of one layer under a `Sight`, of whose partly seen frames these tokens are `kept`."""
    if not local or sight.local is sight.wide:
        return _attend(q, k, v, sight.wide, geometry, kept)
    if len(local) == geometry.heads:
        return _attend(q, k, v, sight.local, geometry)
    order = [*local, *(head for head in range(geometry.heads) if head not in local)]
    index = torch.tensor(order, device=q.device)
    q, k, v = (x.index_select(1, index) for x in (q, k, v))
    near = len(local)
    near_out = _attend(q[:, :near], k[:, :near], v[:, :near], sight.local, geometry)
    far_out = _attend(q[:, near:], k[:, near:], v[:, near:], sight.wide, geometry, kept)
    return torch.cat((near_out, far_out), dim=1).index_select(1, torch.argsort(index))


def stray(q: Tensor, k: Tensor, local: Sequence[int], geometry: Geometry) -> Tensor:
    """How far local heads look beyond the first and the last past frame when the last chunk reads the whole past: mean of -log(share of
    attention on those two and on the chunk itself), 0 at best. q and k [b, heads, s, d] end with that chunk; k starts with the past."""
    own, frame = geometry.chunk * geometry.tokens, geometry.tokens
    past = (k.shape[2] - own) // 2
    index = torch.tensor(local, device=q.device)
    if past <= 2 * frame or not local:
        return q.new_zeros(())
    q, k = q.index_select(1, index)[:, :, -own:], k.index_select(1, index)
    keys = torch.cat((k[:, :, -own:], k[:, :, :frame], k[:, :, past - frame : past], k[:, :, frame : past - frame]), dim=2)
    scores = q @ keys.transpose(2, 3) * geometry.head_dim**-0.5
    return (scores.logsumexp(-1) - scores[..., : own + 2 * frame].logsumexp(-1)).mean()


@dataclass(frozen=True)
class Clip:
    """One batch: clean latents (perhaps disturbed) and noisy ones [b, F, c, H, W], noise level per chunk sigma [b, n], text [b, len, dim],
    absolute frame numbers [F] and what may be seen."""

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    text: Tensor
    frames: Tensor
    sight: Sight


Rotation = tuple[Tensor, Tensor]


def before(block: Block, tokens: Tensor, shift: Tensor, scale: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, each [b, heads, s, d]."""
    inner = block.modulated(tokens, shift, scale)
    k, v = block.self_attn.keys_values(inner)
    return rope.rotate(block.self_attn.queries(inner), rotation), rope.rotate(k, rotation), v


def after(
    block: Block, tokens: Tensor, out: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, ffn_gate: Tensor, text: Rotation
) -> Tensor:
    """The rest of a block once self-attention has given `out` [b, heads, s, d]."""
    tokens = tokens + block.gated(block.self_attn.merge(out), gate)
    tokens = tokens + block.read(tokens, text)
    return tokens + block.gated(block.ffn(block.modulated(tokens, shift, scale)), ffn_gate)


@dataclass(frozen=True)
class Teacher:
    """The training pass of one model. `compiled` fuses what surrounds attention (worth it on any device, costs a minute at the start)."""

    model: CausalWan
    spec: ModelSpec
    local: Sequence[Sequence[int]]
    before: Callable[..., tuple[Tensor, Tensor, Tensor]] = before
    after: Callable[..., Tensor] = after

    @classmethod
    def compiled(cls, model: CausalWan, spec: ModelSpec, local: Sequence[Sequence[int]]) -> Teacher:
        return cls(model, spec, local, torch.compile(before), torch.compile(after))

    def predict(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Network output for every noisy chunk [b, F, c, H, W], and the mean `stray` of all layers."""
        geometry, model = self.spec.geometry, self.model
        past = clip.clean[:, : -geometry.chunk]
        t = torch.cat((torch.zeros(past.shape[:2], device=past.device), 1000 * clip.sigma.repeat_interleave(geometry.chunk, dim=1)), dim=1)
        frames = torch.cat((clip.frames[: -geometry.chunk], clip.frames))
        pos = torch.cartesian_prod(frames, torch.arange(geometry.rows), torch.arange(geometry.columns)).to(past.device)
        rotation = rope.rotation(pos, self.spec.net.head_dim)
        embedding, time = model.read_time(t)
        text = model.read_text(clip.text)
        learned = model.learned(frames.to(past.device), geometry.tokens)
        tokens = model.patchify(torch.cat((past, clip.noisy), dim=1), learned)
        skip, strays, kept = past.shape[1], [], None
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            shift, scale, *rest = block.parts(time)
            q, k, v = self.before(block, tokens, shift, scale, rotation)
            if layer == len(model.blocks) - 1:
                q, tokens = q[:, :, skip * geometry.tokens :], tokens[:, skip * geometry.tokens :]
                rest = [part[:, skip:] for part in rest]
            strays.append(stray(q, k, self.local[layer], geometry))
            local = (clip.sight.roles or self.local)[layer]
            if kept is None and (wide := [head for head in range(geometry.heads) if head not in local]):
                kept = picked(k, clip.sight, wide, geometry)
            out = attend(q, k, v, clip.sight, local, geometry, kept)
            tokens = self.after(block, tokens, out, *rest, text[layer])
        x0 = model.unpatchify(model.head(tokens, embedding[:, skip:]), clip.noisy.shape[1], geometry.rows, geometry.columns)
        return x0, torch.stack(strays).mean()
