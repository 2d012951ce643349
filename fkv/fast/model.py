"""`FastWan`: `CausalWan` called in the same way on the same weights, with the work arranged for speed.

What differs: query, key and value come from one projection; what depends on the timestep alone is computed once per timestep, and the
angles of a chunk once for all its passes; normalising, scaling and shifting are one operation; keys and values go straight into the cache's
slots; a clean pass ends with the last layer's keys and values, since nobody reads more of it. Heads keep their order in the weights, as
their classes change while a lane runs: a group of scattered heads costs one gather of the chunk's projection, never one of the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fkv.attention import Attention
from fkv.cache import KVCache, Policy, attend
from fkv.fast import ops
from fkv.fast.fusing import Kernels, fused
from fkv.fast.slots import Slot, SlotCache
from fkv.spec import Geometry, ModelSpec
from fkv.wan import Block, CausalWan, Probe, TextKV

REMEMBERED, SMALL = 8, 64


@dataclass(frozen=True)
class Moment:
    """What one layer takes from a timestep, each [D]: weight and bias of its two modulated norms, and their gates."""

    weight: Tensor
    bias: Tensor
    gate: Tensor
    ffn_weight: Tensor
    ffn_bias: Tensor
    ffn_gate: Tensor


@dataclass(frozen=True)
class Clock:
    """All layers' moments at one timestep, and weight and bias of the final norm."""

    layers: tuple[Moment, ...]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Pass:
    """One layer of one pass: norm weights of queries and keys [2, D], rotation, first frame, number of frames."""

    layer: int
    norm: Tensor
    turn: Tensor
    start: int
    frames: int


@dataclass(frozen=True)
class Projection:
    """One layer's merged query, key and value: weight [3 * D, D], bias [3 * D], and the norm weights of queries and keys [2, D]."""

    weight: Tensor
    bias: Tensor
    norm: Tensor


def moment(part: Tensor) -> Moment:
    """A layer's moment from its modulation [6, D]: shift, scale, gate, and the same of the feed-forward."""
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = part.unbind(0)
    return Moment(1 + scale, shift, gate, 1 + ffn_scale, ffn_shift, ffn_gate)


def joined(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The parameters end to end in one storage, of which each becomes a view: nothing is held twice."""
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, whole.split([len(parameter) for parameter in parameters])):
        parameter.data = part
    return whole


def project(block: Block) -> Projection:
    attn = block.self_attn
    weight, bias = (joined([getattr(linear, name) for linear in (attn.q, attn.k, attn.v)]) for name in ("weight", "bias"))
    return Projection(weight, bias, joined([attn.norm_q.weight, attn.norm_k.weight]).unflatten(0, (2, -1)))


def prepare(model: CausalWan, spec: ModelSpec | None = None, attention: str = "auto") -> FastWan:
    """The fast form of a model that is on its device, in its dtype and loaded; it takes the model's modules over and copies none.

    On CUDA with a `spec`, the attention kernel is chosen now, on the shapes of its window. Raises ValueError on an attention that does not
    run.
    """
    fast = FastWan(model, attention)
    if fast.head.modulation.device.type != "cuda":
        fast.meet(SMALL, SMALL)
        return fast
    fast.kernels, fast.unfused = fused(model.config, fast.dtype, fast.head.modulation.device)
    if spec is not None:
        geometry = spec.geometry
        fast.meet(geometry.chunk * geometry.tokens, max(spec.window, geometry.chunk) * geometry.tokens)
    return fast


class FastWan(CausalWan):
    """The fast form of a `CausalWan`. For inference; weights must stay where they are."""

    def __init__(self, model: CausalWan, attention: str = "auto") -> None:
        nn.Module.__init__(self)
        self.config = model.config
        for name, child in model.named_children():
            self.add_module(name, child)
        self.place_embedding = model.place_embedding
        self.train(model.training).requires_grad_(False)
        self.attention = Attention(attention)
        self.kernels: Kernels | None = None
        self.unfused = ""
        self._projections = tuple(project(block) for block in self.layers())
        self._clocks: dict[float, Clock] = {}
        self._turns: dict[tuple[int, int, int, int], Tensor] = {}

    @property
    def backend(self) -> str:
        fused = ", fused by Triton" if self.kernels is not None else ""
        return self.attention.label + fused + (f" (not fused: {self.unfused})" if self.unfused else "")

    @torch.inference_mode()
    def meet(self, queries: int, keys: int) -> None:
        """Chooses the attention kernel for so many tokens."""
        place = self.head.modulation.device
        shapes = ((1, self.config.heads, count, self.config.head_dim) for count in (queries, keys))
        q, k = (torch.randn(shape, dtype=self.dtype, device=place) for shape in shapes)
        self.attention(q, k, k)

    def new_cache(self, policy: Policy, geometry: Geometry, batch: int = 1) -> SlotCache:
        return SlotCache(policy, geometry, batch, self.dtype, self.patch_embedding.weight.device)

    def clock(self, t: float) -> Clock:
        """The moments of a timestep in [0, 1000], computed when it is first met."""
        if t not in self._clocks:
            while len(self._clocks) >= REMEMBERED:
                del self._clocks[next(iter(self._clocks))]
            embedding, time = self.read_time(torch.full((1, 1), t, dtype=torch.float32, device=self.head.modulation.device))
            parts = torch.cat([block.modulation for block in self.layers()]) + time[0]
            shift, scale = (self.head.modulation + embedding).squeeze(0).unbind(0)
            self._clocks[t] = Clock(tuple(moment(part) for part in parts), 1 + scale, shift)
        return self._clocks[t]

    def turn(self, start: int, frames: int, rows: int, columns: int) -> Tensor:
        """The complex rotation of a run of frames; the passes of a chunk, in every lane, share it."""
        key = (start, frames, rows, columns)
        if key not in self._turns:
            while len(self._turns) >= REMEMBERED:
                del self._turns[next(iter(self._turns))]
            angles = ops.rotation(*key, self.config.head_dim, self.head.modulation.device)
            self._turns[key] = ops.cis(angles, self.config.heads)
        return self._turns[key]

    @torch.inference_mode()
    def forward(self, x: Tensor, t: Tensor | float, text: TextKV, cache: KVCache, start: int, probe: Probe | None = None) -> Tensor:
        """As in `CausalWan`; a timestep per frame goes the readable way."""
        if isinstance(t, Tensor):
            return super().forward(x, t, text, cache, start, probe)
        tokens = self._through(x, t, text, cache, start, probe, whole=True)
        rows, columns = x.shape[3] // self.config.patch[1], x.shape[4] // self.config.patch[2]
        return self.unpatchify(F.linear(tokens, self.head.head.weight, self.head.head.bias), x.shape[1], rows, columns)

    @torch.inference_mode()
    def remember(self, x: Tensor, t: Tensor | float, text: TextKV, cache: KVCache, start: int) -> None:
        if isinstance(t, Tensor):
            super().forward(x, t, text, cache, start)
        else:
            self._through(x, t, text, cache, start, None, whole=False)

    def _through(self, x: Tensor, t: float, text: TextKV, cache: KVCache, start: int, probe: Probe | None, *, whole: bool) -> Tensor:
        """Normed tokens [b, L, D] before the final projection; not `whole`, the last layer only hands over its keys and values."""
        rows, columns = x.shape[3] // self.config.patch[1], x.shape[4] // self.config.patch[2]
        clock, turn, eps = self.clock(t), self.turn(start, x.shape[1], rows, columns), self.config.eps
        residual_norm = ops.residual_norm if self.kernels is None else self.kernels.residual_norm
        tokens = self.patchify(x).contiguous()
        inner = F.layer_norm(tokens, tokens.shape[-1:], clock.layers[0].weight, clock.layers[0].bias, eps)
        for layer, (block, projection, now) in enumerate(zip(self.layers(), self._projections, clock.layers)):
            qkv = F.linear(inner, projection.weight, projection.bias).unflatten(-1, (3, self.config.heads, -1))
            last = layer == self.config.layers - 1
            if last and not whole:
                q, k, v = _sides(ops.turned(qkv, projection.norm, eps, turn))
                cache.write(layer, k, v, q)
                break
            out = self._mixed(Pass(layer, projection.norm, turn, start, x.shape[1]), qkv, cache, probe)
            y = F.linear(out.transpose(1, 2).flatten(2), block.self_attn.o.weight, block.self_attn.o.bias)
            inner = residual_norm(tokens, y, now.gate, block.norm3.weight, block.norm3.bias, eps)
            inner = residual_norm(tokens, self._read(block, inner, text[layer]), None, now.ffn_weight, now.ffn_bias, eps)
            y = block.ffn(inner)
            weight, bias = (clock.weight, clock.bias) if last else (clock.layers[layer + 1].weight, clock.layers[layer + 1].bias)
            inner = residual_norm(tokens, y, now.ffn_gate, weight, bias, eps)
        return inner

    def _read(self, block: Block, inner: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-attention of normed tokens to one layer's text."""
        attn = block.cross_attn
        q = ops.normed(F.linear(inner, attn.q.weight, attn.q.bias), attn.norm_q.weight, self.config.eps)
        return attn.merge(self.attention(attn.split(q), *text))

    def _mixed(self, here: Pass, qkv: Tensor, cache: KVCache, probe: Probe | None) -> Tensor:
        """Self-attention [b, h, L, d] of a projection [b, L, 3, h, d] over its own chunk and what the cache keeps."""
        rooms = cache.rooms(here.layer, qkv.shape[1]) if isinstance(cache, SlotCache) else None
        if self.kernels is not None and rooms and probe is None and not cache.writable and isinstance(cache, SlotCache):
            places = [cache.place(slot) for slot in rooms]
            stored = self.kernels.stored
            return self._grouped(qkv, rooms, [stored(qkv, here.norm, self.config.eps, here.turn, *slot) for slot in zip(rooms, places)])
        qkv = ops.turned(qkv, here.norm, self.config.eps, here.turn)
        q, k, v = _sides(qkv)
        past = cache.read(here.layer, q, here.frames) if rooms is None else cache.layers[here.layer]
        if probe is not None:
            probe.see(here.layer, q, k, past, here.start)
        if rooms:
            out = self._grouped(qkv, rooms, [ops.stored(qkv, slot) for slot in rooms])
        else:
            out = attend(q, k, v, past, self.attention)
        if cache.writable:
            cache.write(here.layer, k, v, q)
        return out

    def _grouped(self, qkv: Tensor, rooms: Sequence[Slot], queries: Sequence[Tensor]) -> Tensor:
        """Attention [b, h, L, d] of each group's queries [b, its heads, L, d] in its slot."""
        parts = [self.attention(q, *slot.upto(q.shape[2])) for q, slot in zip(queries, rooms)]
        if len(rooms) == 1:
            return parts[0]
        out = qkv.new_empty(*qkv.shape[:2], *qkv.shape[3:]).transpose(1, 2)
        for slot, part in zip(rooms, parts):
            out.index_copy_(1, slot.heads, part)
        return out


def _sides(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [b, h, L, d], of qkv [b, L, 3, h, d]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v
