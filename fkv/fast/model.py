"""`FastWan`: `CausalWan` called in the same way on the same weights, with the work arranged for speed.

What differs: query, key and value come from one projection, and on a CPU products from oneDNN; what depends on the timestep alone is
computed once per timestep, and the angles of a chunk once for all its passes; a short prompt's values are projected once; normalising,
scaling and shifting are one operation; keys and values go straight into the cache's slots; a clean pass ends with the last layer's keys and
values, since nobody reads more of it. Heads keep their order in the weights, as their classes change while a lane runs: a group of
scattered heads costs one gather of the chunk's projection, never one of the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fkv.attention import Attention
from fkv.cache import KVCache, Policy, attend
from fkv.fast import fp8, ops
from fkv.fast.abreast import Abreast, Call, family
from fkv.fast.fusing import Kernels
from fkv.fast.graphs import Recorder
from fkv.fast.products import Layer, Product, layer_of, product_of
from fkv.fast.reading import Text, read
from fkv.fast.slots import Slot, SlotCache
from fkv.fast.tables import Clock, clock
from fkv.spec import Geometry
from fkv.wan import CausalWan, Probe, TextKV, Time

REMEMBERED = 8


class When(NamedTuple):
    """What the numbers of a chunk's frames give: complex rotation [L, 1, h or 1, d / 2], and what is learned of them [L, D], if any."""

    turn: Tensor
    learned: Tensor | None = None


@dataclass(frozen=True)
class Pass:
    """One pass of `frames` frames from frame `start` on: its timestep, what it reads, and who looks on. Not `whole`, it ends with the last
    layer's keys and values; where it `commits`, every layer hands its own over as soon as it has them.
    """

    t: Time
    when: When
    text: TextKV
    cache: KVCache
    start: int
    frames: int
    probe: Probe | None = None
    whole: bool = True
    commits: bool = False


class FastWan(CausalWan):
    """The fast form of a `CausalWan`. For inference; weights must stay where they are."""

    def __init__(self, model: CausalWan, attention: str = "auto") -> None:
        nn.Module.__init__(self)
        self.config = model.config
        for name, child in model.named_children():
            self.add_module(name, child)
        self.place_embedding, self.frame_embedding = model.place_embedding, model.frame_embedding
        self.train(model.training).requires_grad_(False)
        self.attention = Attention(attention)
        self.abreast: Abreast | None = None
        self.kernels: Kernels | None = None
        self.unfused = self.no_onednn = ""
        self.quantise: fp8.Quantise | None = None
        self.fp8_error: float | None = None  # relative, of one pass; None where products are not in FP8
        self.recorder: Callable[[], Recorder] | None = None
        self.parts = tuple(layer_of(block) for block in self.layers())
        patches = model.patch_embedding
        assert patches.bias is not None
        self.into, self.out_of = Product(patches.weight.data.flatten(1), patches.bias.data), product_of(model.head.head)
        self._clocks: dict[Time, Clock] = {}
        self._whens: dict[tuple[int, int, int, int], When] = {}

    @property
    def backend(self) -> str:
        missing = (("not fused", self.unfused), ("products not by oneDNN", self.no_onednn))
        fused = ", fused by Triton" if self.kernels is not None else ""
        products = " + oneDNN" if self.parts[0].qkv.laid is not None else ""
        abreast = ", head groups side by side" if self.abreast is not None and self.abreast.used else ""
        epilogue = ", GELU in its product" if self.parts[0].up.epilogue else ""
        return self.attention.label + abreast + fused + epilogue + products + "".join(f" ({what}: {why})" for what, why in missing if why)

    @torch.inference_mode()
    def meet(self, queries: int, keys: int) -> None:
        """Chooses the attention kernel for so many tokens."""
        place = self.head.modulation.device
        shapes = ((1, self.config.heads, count, self.config.head_dim) for count in (queries, keys))
        drawn = torch.Generator(place).manual_seed(0)
        q, k = (torch.randn(shape, generator=drawn, dtype=self.dtype, device=place) for shape in shapes)
        self.attention(q, k, k)

    def new_cache(self, policy: Policy, geometry: Geometry, batch: int = 1) -> SlotCache:
        recorder = self.recorder() if self.recorder is not None else None
        return SlotCache(policy, geometry, batch, self.dtype, self.patch_embedding.weight.device, recorder=recorder)

    def clock(self, t: Time) -> Clock:
        """What is taken from a timestep in [0, 1000], or from one for every frame, computed when it is first met."""
        if t not in self._clocks:
            while len(self._clocks) >= REMEMBERED:
                del self._clocks[next(iter(self._clocks))]
            self._clocks[t] = clock(self, t)
        return self._clocks[t]

    def when(self, start: int, frames: int, rows: int, columns: int) -> When:
        """What the passes of a chunk, in every lane, share."""
        key = (start, frames, rows, columns)
        if key not in self._whens:
            while len(self._whens) >= REMEMBERED:
                del self._whens[next(iter(self._whens))]
            device = self.head.modulation.device
            turn = ops.cis(ops.rotation(*key, self.config.head_dim, device), self.config.heads)
            self._whens[key] = When(turn, self.learned(torch.arange(start, start + frames, device=device), rows * columns))
        return self._whens[key]

    @torch.inference_mode()
    def read_text(self, text: Tensor) -> Text:
        return read(super().read_text(text), self.parts, self.config)

    @torch.inference_mode()
    def forward(self, x: Tensor, t: Tensor | Time, text: TextKV, cache: KVCache, start: int, probe: Probe | None = None) -> Tensor:
        """As in `CausalWan`; timesteps in a tensor go the readable way."""
        if isinstance(t, Tensor):
            return super().forward(x, t, text, cache, start, probe)
        when = self.when(start, x.shape[1], *self._grid(x))
        this = Pass(t, when, text, cache, start, x.shape[1], probe, commits=cache.writable)
        if probe is None and not cache.writable and isinstance(cache, SlotCache) and cache.ready(when.turn.shape[0]):
            return self._recorded("noisy", x, this, cache, self._flow)
        return self._flow(x, this)

    @torch.inference_mode()
    def remember(self, x: Tensor, t: Time, text: TextKV, cache: KVCache, start: int) -> None:
        """As in `CausalWan`. Where the cache's slots have room, the pass leaves its keys and values there as a noisy one does, and they are
        handed over when it has ended: until then nothing is changed that anybody reads.
        """
        when = self.when(start, x.shape[1], *self._grid(x))
        this = Pass(t, when, text, cache, start, x.shape[1], whole=False, commits=True)
        if not (isinstance(cache, SlotCache) and cache.takes(when.turn.shape[0])):
            self._through(x, this)
            return
        self._recorded("clean", x, replace(this, commits=False), cache, self._left)
        for layer in range(self.config.layers):
            k, v = cache.left(layer, when.turn.shape[0])
            cache.write(layer, k, v, k.new_empty(0))

    def _recorded(self, phase: str, x: Tensor, this: Pass, cache: SlotCache, work: Callable[[Tensor, Pass], Tensor]) -> Tensor:
        """What work gives for latents and a pass that finds all it reads in slots, replayed where the cache has recordings."""
        if cache.recordings is None:
            return work(x, this)
        given, places = (x, *(part for part in this.when if part is not None)), (cache.epoch, this.text)

        def again(x: Tensor, *when: Tensor) -> Tensor:
            return work(x, replace(this, when=When(*when)))

        return cache.recordings.run((phase, this.t), given, places, again, self.clock(this.t), cache.wipe)

    def patchify(self, x: Tensor, learned: Tensor | None) -> Tensor:
        """As in `CausalWan`, by one product."""
        _, down, across = self.config.patch
        cells = x.to(self.dtype).unflatten(4, (-1, across)).unflatten(3, (-1, down)).permute(0, 1, 3, 5, 2, 4, 6)
        tokens = self.into(cells.flatten(4).flatten(1, 3))
        return tokens if learned is None else tokens + learned

    def _grid(self, x: Tensor) -> tuple[int, int]:
        """Rows and columns of tokens in a frame of latents."""
        return x.shape[3] // self.config.patch[1], x.shape[4] // self.config.patch[2]

    def _flow(self, x: Tensor, this: Pass) -> Tensor:
        tokens = self._through(x, this)
        return self.unpatchify(self.out_of(tokens), x.shape[1], *self._grid(x))

    def _left(self, x: Tensor, this: Pass) -> Tensor:
        """Runs a pass for what it leaves in the rooms of its slots; gives a copy of the last layer's, which all others go into."""
        tokens = self._through(x, this).shape[1]
        assert isinstance(this.cache, SlotCache)
        return torch.stack(this.cache.left(self.config.layers - 1, tokens))

    def _through(self, x: Tensor, this: Pass) -> Tensor:
        """Normed tokens [b, L, D] before the final projection, or, where a pass is not whole, before the last layer."""
        times, eps = self.clock(this.t), self.config.eps
        residual_norm = ops.residual_norm if self.kernels is None else self.kernels.residual_norm
        tokens = self.patchify(x, this.when.learned).contiguous()
        inner = ops.layer_norm(tokens, times.layers[0].weight, times.layers[0].bias, eps)
        for layer, (own, now) in enumerate(zip(self.parts, times.layers)):
            qkv = own.qkv(inner).unflatten(-1, (3, self.config.heads, -1))
            last = layer == self.config.layers - 1
            if last and not this.whole:
                self._kept(this, layer, qkv)
                break
            out = self._mixed(this, layer, qkv)
            y = own.o(out.transpose(1, 2).flatten(2))
            inner = residual_norm(tokens, y, now.gate, *own.before_cross, eps)
            inner = residual_norm(tokens, self._read(own, inner, this.text, layer), None, now.ffn_weight, now.ffn_bias, eps)
            y = own.down(own.up(inner))
            weight, bias = (times.weight, times.bias) if last else (times.layers[layer + 1].weight, times.layers[layer + 1].bias)
            inner = residual_norm(tokens, y, now.ffn_gate, weight, bias, eps)
        return inner

    def _read(self, own: Layer, inner: Tensor, text: TextKV, layer: int) -> Tensor:
        """Cross-attention of normed tokens to one layer's text, and its projection."""
        normed = ops.normed if self.kernels is None else self.kernels.normed
        q = normed(own.cross_q(inner), own.cross_norm, self.config.eps).unflatten(-1, (self.config.heads, -1))
        if isinstance(text, Text) and text.readings:
            return text.readings[layer](q)
        return own.cross_o(self.attention(q.transpose(1, 2), *text[layer]).transpose(1, 2).flatten(2))

    def _mixed(self, this: Pass, layer: int, qkv: Tensor) -> Tensor:
        """Self-attention [b, h, L, d] of a projection [b, L, 3, h, d] over its own chunk and what the cache keeps."""
        cache = this.cache
        rooms = cache.rooms(layer, qkv.shape[1]) if isinstance(cache, SlotCache) else None
        if rooms and this.probe is None and not this.commits:
            return self._grouped(qkv, rooms, self._stored(this, layer, qkv, rooms))
        q, k, v = self._turned(this, layer, qkv)
        past = cache.read(layer, q, this.frames) if rooms is None else cache.layers[layer]
        if this.probe is not None:
            this.probe.see(layer, q, k, past, this.start)
        out = self._grouped(qkv, rooms, [ops.stored(qkv, slot) for slot in rooms]) if rooms else attend(q, k, v, past, self.attention)
        if this.commits:
            cache.write(layer, k, v, q)
        return out

    def _kept(self, this: Pass, layer: int, qkv: Tensor) -> None:
        """Stores or commits the keys and values of a layer that a pass needs nothing else of."""
        rooms = this.cache.rooms(layer, qkv.shape[1]) if isinstance(this.cache, SlotCache) and not this.commits else None
        if rooms:
            self._stored(this, layer, qkv, rooms)
        else:
            q, k, v = self._turned(this, layer, qkv)
            this.cache.write(layer, k, v, q)

    def _turned(self, this: Pass, layer: int, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [b, h, L, d], of a projection [b, L, 3, h, d], normed and rotated in place."""
        q, k, v = ops.turned(qkv, self.parts[layer].norm, self.config.eps, this.when.turn).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _stored(self, this: Pass, layer: int, qkv: Tensor, rooms: Sequence[Slot]) -> list[Tensor]:
        """Norms and rotates a projection [b, L, 3, h, d], writes keys and values into the rooms of slots, and gives each slot's queries
        [b, its heads, L, d].
        """
        norm, eps, turn, cache = self.parts[layer].norm, self.config.eps, this.when.turn, this.cache
        if self.kernels is not None and isinstance(cache, SlotCache):
            return self.kernels.stored(qkv, norm, eps, turn, rooms, cache.place(rooms))
        ops.turned(qkv, norm, eps, turn)
        return [ops.stored(qkv, slot) for slot in rooms]

    def _grouped(self, qkv: Tensor, rooms: Sequence[Slot], queries: Sequence[Tensor]) -> Tensor:
        """Attention [b, h, L, d] of each group's queries [b, its heads, L, d] in its slot."""
        parts = self.attended([(q, *slot.upto(q.shape[2])) for q, slot in zip(queries, rooms)])
        if len(rooms) == 1:
            return parts[0]
        out = qkv.new_empty(*qkv.shape[:2], *qkv.shape[3:]).transpose(1, 2)
        for slot, part in zip(rooms, parts):
            out.index_copy_(1, slot.heads, part)
        return out

    def attended(self, calls: Sequence[Call]) -> list[Tensor]:
        """Attention of each group's queries to its keys and values, side by side where that is faster."""
        if self.abreast is None or len(calls) == 1:
            return [self.attention(*call) for call in calls]
        return self.abreast(calls, self.attention)

    def side_by_side(self, slots: Sequence[Slot], tokens: int) -> bool:
        """Whether a pass of so many tokens attends to these slots side by side."""
        shape = tuple(family(len(slot.members), tokens, self.config.head_dim, slot.kept + tokens) for slot in slots)
        return self.abreast is not None and self.abreast.pays(shape)
