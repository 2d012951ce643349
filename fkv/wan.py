"""`CausalWan`: the one network class, for the pocket model, the 1.3B and the 14B checkpoints.

Wan 2.1 (arXiv 2503.20314) with one timestep per latent frame, run causally over chunks as in Self Forcing (arXiv 2506.08009).
Parameter names are the published ones, so a published state dict loads as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fkv import rope
from fkv.attention import scaled_dot
from fkv.cache import HeadGroup, KVCache, Policy, attend
from fkv.spec import Geometry, WanConfig

Time = float | tuple[float, ...]  # a timestep in [0, 1000], or one for every frame of a pass
TextKV = list[tuple[Tensor, Tensor]]


class Probe(Protocol):
    """Sees what self-attention sees, after the rotation. Must not change anything."""

    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None: ...


class RMSNorm(nn.Module):
    """Root-mean-square norm over the full width (all heads together), in float32."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), (x.shape[-1],), eps=self.eps).to(x.dtype) * self.weight


class Attention(nn.Module):
    """Projections q, k, v, o with RMS-normed q and k. `project` and `merge` frame whatever kernel runs between them."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(config.dim, config.eps), RMSNorm(config.dim, config.eps)

    def split(self, x: Tensor) -> Tensor:
        """[b, s, D] -> [b, heads, s, d]"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.q(x)))

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.norm_k(self.k(x))), self.split(self.v(x))

    def merge(self, out: Tensor) -> Tensor:
        """[b, heads, s, d] -> [b, s, D]"""
        return self.o(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward; the first and last modulated and gated per latent frame."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.eps = config.eps
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.self_attn = Attention(config)
        self.cross_attn = Attention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        gelu = nn.GELU(approximate="tanh" if config.gelu == "tanh" else "none")
        self.ffn = nn.Sequential(nn.Linear(config.dim, config.ffn), gelu, nn.Linear(config.ffn, config.dim))

    def parts(self, time: Tensor) -> tuple[Tensor, ...]:
        """Six [b, f, 1, D] tensors (shift, scale, gate for attention, then for feed-forward) from time [b, f, 6, D]."""
        return tuple(part for part in (self.modulation.unsqueeze(1) + time).unsqueeze(-2).unbind(2))

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Normed x [b, f*s, D], scaled and shifted per frame."""
        normed = F.layer_norm(x, (x.shape[-1],), eps=self.eps).unflatten(1, (shift.shape[1], -1))
        return (normed * (1 + scale) + shift).flatten(1, 2)

    def read(self, x: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-attention from x [b, s, D] to one layer's text keys and values."""
        return self.cross_attn.merge(scaled_dot(self.cross_attn.queries(self.norm3(x)), *text))

    @staticmethod
    def gated(y: Tensor, gate: Tensor) -> Tensor:
        return (y.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)


class Head(nn.Module):
    """Final modulated norm and projection to patches; modulated by the time embedding itself."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, config.channels * config.patch[0] * config.patch[1] * config.patch[2])
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.modulation.unsqueeze(1) + time.unsqueeze(2)).unsqueeze(-2).unbind(2)
        normed = F.layer_norm(x, (x.shape[-1],), eps=self.eps).unflatten(1, (time.shape[1], -1))
        return self.head((normed * (1 + scale) + shift).flatten(1, 2))


def timesteps(t: Time, frames: int, device: torch.device) -> Tensor:
    """float32 [1, frames] on a device, which is not waited for."""
    if not isinstance(t, tuple):
        return torch.full((1, frames), t, dtype=torch.float32, device=device)
    return torch.cat([torch.full((1, 1), each, dtype=torch.float32, device=device) for each in t], dim=1)


class CausalWan(nn.Module):
    """Diffusion transformer over chunks of latent frames whose past lives in a `KVCache`."""

    def __init__(self, config: WanConfig):
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.channels, dim, config.patch, stride=config.patch)
        self.place_embedding = nn.Parameter(torch.zeros(config.places, dim)) if config.places else None
        self.frame_embedding = nn.Parameter(torch.zeros(config.period, dim)) if config.period else None
        self.text_embedding = nn.Sequential(nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.head = Head(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    def layers(self) -> Iterator[Block]:
        """The blocks, first to last."""
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block

    def read_text(self, text: Tensor) -> TextKV:
        """Cross-attention keys and values of every layer for text [b, length, text_dim]; once per prompt. Padding rows are attended, as
        published."""
        context = self.text_embedding(text.to(self.dtype))
        return [block.cross_attn.keys_values(context) for block in self.layers()]

    def read_time(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Time embedding [b, f, D] and its six-fold projection [b, f, 6, D] for timesteps t [b, f] in [0, 1000]."""
        half = self.config.freq_dim // 2
        angles = t.double().unsqueeze(-1) * 10000.0 ** -(torch.arange(half, dtype=torch.float64, device=t.device) / half)
        embedding = self.time_embedding(torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.dtype))
        return embedding, self.time_projection(embedding).unflatten(-1, (6, -1))

    def learned(self, frames: Tensor, tokens: int) -> Tensor | None:
        """What is added to the tokens of latent frames with the numbers `frames` [f], so many `tokens` each, for where and when they are:
        [f * tokens, D]; None where the model has learned nothing of it."""
        places, numbers = self.place_embedding, self.frame_embedding
        if numbers is None:
            return None if places is None else places.repeat(len(frames), 1)
        when = numbers[frames % len(numbers)].repeat_interleave(tokens, dim=0)
        return when if places is None else when + places.repeat(len(frames), 1)

    def patchify(self, x: Tensor, learned: Tensor | None) -> Tensor:
        """Latents [b, f, c, H, W] to tokens [b, f*rows*columns, D], frame-major then row-major, with what is `learned` of them."""
        tokens = self.patch_embedding(x.to(self.dtype).transpose(1, 2)).flatten(2).transpose(1, 2)
        return tokens if learned is None else tokens + learned

    def unpatchify(self, tokens: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """[b, f*rows*columns, patch*c] to latents [b, f, c, H, W]; inside a patch the channel is last."""
        _, down, across = self.config.patch
        patches = tokens.unflatten(1, (frames, rows, columns)).unflatten(-1, (down, across, self.config.channels))
        return patches.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    @property
    def backend(self) -> str:
        """The attention kernels in use, in words for a page."""
        return "torch SDPA"

    def new_cache(self, policy: Policy, geometry: Geometry, batch: int = 1) -> KVCache:
        """An empty cache for one lane of this model. Raises ValueError where the policy does not fit."""
        return KVCache(policy, geometry, batch, self.dtype, self.patch_embedding.weight.device)

    def remember(self, x: Tensor, t: Time, text: TextKV, cache: KVCache, start: int) -> None:
        """A pass for the sake of what it writes; nobody reads its output."""
        self(x, t, text, cache, start)

    def forward(self, x: Tensor, t: Tensor | Time, text: TextKV, cache: KVCache, start: int, probe: Probe | None = None) -> Tensor:
        """Raw output (flow in every published model) [b, f, c, H, W] of a chunk x whose first frame is latent frame `start`.

        t in [0, 1000], one timestep for all, one per frame, or a tensor [b, f]. Inside `cache.committing(...)` each layer hands its keys
        and values to the cache after it has attended; otherwise the cache is only read.
        """
        if not isinstance(t, Tensor):
            t = timesteps(t, x.shape[1], x.device).expand(len(x), -1)
        frames, rows, columns = x.shape[1], x.shape[3] // self.config.patch[1], x.shape[4] // self.config.patch[2]
        rotation = rope.rotation(rope.grid(start, frames, rows, columns, x.device), self.config.head_dim)
        embedding, time = self.read_time(t)
        tokens = self.patchify(x, self.learned(torch.arange(start, start + frames, device=x.device), rows * columns))
        for layer, block in enumerate(self.layers()):
            shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = block.parts(time)
            inner = block.modulated(tokens, shift, scale)
            q = rope.rotate(block.self_attn.queries(inner), rotation)
            k, v = block.self_attn.keys_values(inner)
            k = rope.rotate(k, rotation)
            past = cache.read(layer, q, frames)
            if probe is not None:
                probe.see(layer, q, k, past, start)
            out = attend(q, k, v, past)
            if cache.writable:
                cache.write(layer, k, v, q)
            tokens = tokens + block.gated(block.self_attn.merge(out), gate)
            tokens = tokens + block.read(tokens, text[layer])
            inner = block.modulated(tokens, ffn_shift, ffn_scale)
            tokens = tokens + block.gated(block.ffn(inner), ffn_gate)
        return self.unpatchify(self.head(tokens, embedding), frames, rows, columns)
