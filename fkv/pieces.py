"""`python -m fkv bench --pieces`: what a noisy pass is made of, each piece timed alone on the shapes that a lane has come to.

A piece runs again and again on the same numbers, so it finds them in the device's caches and its kernels queued one behind the other: its
time is the least that this engine needs for it, or, on CUDA, what asking for it takes where that is longer. What the pieces of a pass leave
unexplained of the time measured in the run is what is no piece (the last projection, the joining of groups), waiting for memory, and for
whoever asks for the next piece; with graphs nobody asks, and the pieces may come to more than the pass.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fkv import meter, roofline
from fkv.cache import Policy
from fkv.engine import Engine
from fkv.fast import Slot, SlotCache, Text, ops
from fkv.lane import LaneRun
from fkv.spec import ModelSpec
from fkv.views import encode

LAPS, LAP_MS, MOST = 7, 20.0, 200


def refusal(spec: ModelSpec, policies: Sequence[Policy]) -> str:
    """Why a pass under one of these policies cannot be taken apart, in a sentence; empty where all can."""
    if spec.schedule.sampler == "rolling":
        return f"{spec.title} denoises several chunks jointly, and such a pass cannot be taken apart; leave --pieces out"
    chosen = next((policy for policy in policies if type(policy).load is not Policy.load), None)
    return "" if chosen is None else f"{chosen.label} chooses what to read in every pass, which cannot be taken apart; leave --pieces out"


@dataclass(frozen=True)
class Piece:
    """A piece of work that is done `calls` times in a noisy pass (0: once a chunk), with its operations each time."""

    name: str
    calls: int
    operations: float
    work: Callable[[], object]


def measured(engine: Engine, lane: LaneRun, rates: roofline.Rates) -> list[dict[str, Any]]:
    """Every piece of a lane: name, calls a pass, ms a call, operations a call and their share of the device's best rate (None where they
    are not what takes the time). Hold the engine's lock.
    """
    found = []
    with torch.inference_mode():
        for piece in pieces(engine, lane):
            ms = timed(piece.work, engine.device)
            best = rates.projections if piece.name.startswith("product") and rates.projections else rates.operations
            share = 1000 * piece.operations / ms / best if piece.operations and ms else None
            found.append({"piece": piece.name, "calls": piece.calls, "ms": ms, "operations": piece.operations, "share_of_best": share})
    return found


def merging(engine: Engine) -> float:
    """Milliseconds that products and norms of two passes taken at once, on twice the rows, save of what they take one after the other: most
    of what a clean pass would save by being merged with the first noisy pass of the next chunk. Self-attention they cannot share; reading
    the text and rotating are left out, and that a clean pass ends before the last layer does. Negative where they are slower so. Hold the
    engine's lock.
    """
    length = engine.spec.geometry.chunk * engine.spec.geometry.tokens
    with torch.inference_mode():
        draws = Drawn(engine), Drawn(engine)
        pairs = list(zip(*(rowwise(engine, rows, draw) for rows, draw in zip((length, 2 * length), draws)), strict=True))
        saved = [(one.calls, 2 * timed(one.work, engine.device) - timed(two.work, engine.device)) for one, two in pairs]
    return sum(calls * ms for calls, ms in saved)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call: the median of seven laps of as many calls as fill 20 ms, after one lap."""
    watch, calls = meter.Stopwatch(device), 1
    work()
    watch.start()
    work()
    watch.mark("noisy")
    calls = max(1, min(MOST, int(LAP_MS / max(watch.laps["noisy"][0], 1e-3))))
    watch.start()
    for _ in range(1 + LAPS):
        for _ in range(calls):
            work()
        watch.mark("noisy")
    return statistics.median(watch.laps["noisy"][1:]) / calls


def pieces(engine: Engine, lane: LaneRun) -> Iterator[Piece]:
    """The pieces of one lane on the slots it has now, for what is not refused; none of them changes what it keeps."""
    model, cache, geometry = engine.model, lane.stream.cache, engine.spec.geometry
    length = geometry.chunk * geometry.tokens
    assert isinstance(cache, SlotCache)
    draw = Drawn(engine)
    when = model.when(0, geometry.chunk, geometry.rows, geometry.columns)
    yield from rowwise(engine, length, draw)
    yield from attentions(engine, cache, draw)
    yield reading(engine, lane, draw)
    yield from stores(engine, cache, when.turn, draw)
    latents = draw(1, geometry.chunk, *engine.spec.latent)
    yield Piece("latents to tokens", 1, 0.0, lambda: model.patchify(latents, when.learned))
    decoder = engine.codec.decoder()
    yield Piece("decode", 0, 0.0, lambda: decoder.decode(latents))
    pixels = decoder.decode(latents)[0].cpu().numpy()
    yield Piece("encode", 0, 0.0, lambda: encode(pixels))


def rowwise(engine: Engine, rows: int, draw: Drawn) -> Iterator[Piece]:
    """What is done with every token alone: the products of a layer, and what comes between them."""
    model, layers, width = engine.model, engine.spec.net.layers, engine.spec.net.dim
    products = model.parts[0].products()
    if engine.spec.net.short_text:
        del products["cross_o"]  # a part of reading the text
    for name, product in products.items():
        x = draw(1, rows, product.weight.shape[1])
        yield Piece(f"product {name}", layers, 2.0 * rows * product.weight.numel(), lambda x=x, product=product: product(x))
    times = model.clock(engine.spec.schedule.timesteps()[0]).layers[0]
    tokens, y = draw(1, rows, width), draw(1, rows, width)
    normed = ops.residual_norm if model.kernels is None else model.kernels.residual_norm
    weights = (times.gate * 1e-6, times.weight, times.bias, engine.spec.net.eps)
    yield Piece("add and norm", 3 * layers, 0.0, lambda: normed(tokens, y, *weights))
    scaled, own = ops.normed if model.kernels is None else model.kernels.normed, model.parts[0]
    q = draw(1, rows, width)
    yield Piece("norm before the text", layers, 0.0, lambda: scaled(q, own.cross_norm, engine.spec.net.eps))


def reading(engine: Engine, lane: LaneRun, draw: Drawn) -> Piece:
    """Attention to the lane's prompt; of a short one with the projection behind it, which is a part of it then."""
    model, geometry, net, text = engine.model, engine.spec.geometry, engine.spec.net, lane.stream.text
    length, tokens = geometry.chunk * geometry.tokens, text[0][0].shape[2]
    if isinstance(text, Text) and text.readings:
        q, own = draw(1, length, geometry.heads, geometry.head_dim), text.readings[0]
        return Piece("attention to the text, projected", net.layers, 2.0 * length * tokens * net.dim * (1 + net.heads), lambda: own(q))
    q, (k, v) = draw(1, geometry.heads, length, geometry.head_dim), (side.clone() for side in text[0])
    return Piece("attention to the text", net.layers, 4.0 * length * net.dim * tokens, lambda: model.attention(q, k, v))


def attentions(engine: Engine, cache: SlotCache, draw: Drawn) -> Iterator[Piece]:
    """Self-attention of every kind of group there is, by its heads and what they keep; of groups that run side by side, together."""
    geometry, model = engine.spec.geometry, engine.model
    length = geometry.chunk * geometry.tokens
    for slots, count in kinds(cache, length, model.side_by_side):
        calls = [(draw(1, len(slot.members), length, geometry.head_dim), *slot.upto(length)) for slot in slots]
        names = [f"{q.shape[1]} heads to {k.shape[2] / geometry.tokens:.4g} frames" for q, k, _ in calls]
        operations = sum(4.0 * length * k.shape[2] * q.shape[1] * geometry.head_dim for q, k, _ in calls)
        yield Piece(f"attention of {' beside '.join(names)}", count, operations, lambda calls=calls: model.attended(calls))


def stores(engine: Engine, cache: SlotCache, turn: Tensor, draw: Drawn) -> Iterator[Piece]:
    """Norm and rotation of a chunk's queries and keys, and their way into the rooms of copied slots."""
    model, geometry, eps = engine.model, engine.spec.geometry, engine.spec.net.eps
    length, norm, seen = geometry.chunk * geometry.tokens, model.parts[0].norm, Counter[tuple[tuple[int, int], ...]]()
    samples: dict[tuple[tuple[int, int], ...], list[Slot]] = {}
    for layer in range(geometry.layers):
        slots = list(cache.rooms(layer, length) or ())
        shape = tuple((len(slot.members), slot.kept) for slot in slots)
        seen[shape] += 1
        samples.setdefault(shape, slots)
    for shape, count in seen.items():
        slots = [Slot(slot.both.clone(), slot.kept, slot.heads, slot.members) for slot in samples[shape]]
        qkv = draw(1, length, 3, geometry.heads, geometry.head_dim)

        def store(slots: list[Slot] = slots, qkv: Tensor = qkv) -> None:
            if model.kernels is not None and slots:
                model.kernels.stored(qkv, norm, eps, turn, slots, cache.place(slots))
                return
            turned = ops.turned(qkv, norm, eps, turn)
            for slot in slots:
                ops.stored(turned, slot)

        heads = " and ".join(str(count) for count, _ in shape) or str(geometry.heads)
        yield Piece(f"norm, rotate and store {heads} heads", count, 0.0, store)


def kinds(cache: SlotCache, length: int, together: Callable[[Sequence[Slot], int], bool]) -> list[tuple[list[Slot], int]]:
    """Slots that are attended to in one piece: a sample of every combination of sizes, with how often it comes in a pass."""
    found: dict[tuple[tuple[int, int], ...], tuple[list[Slot], int]] = {}
    for layer in range(cache.geometry.layers):
        slots = list(cache.rooms(layer, length) or ())
        for part in [slots] if together(slots, length) else [[slot] for slot in slots]:
            key = tuple((len(slot.members), slot.kept) for slot in part)
            first, count = found.get(key, (part, 0))
            found[key] = (first, count + 1)
    return list(found.values())


class Drawn:
    """Random numbers of about 1 in an engine's place and dtype, the same each time."""

    def __init__(self, engine: Engine) -> None:
        self.place, self.dtype = engine.device, engine.dtype
        self.generator = torch.Generator(self.place).manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.place, dtype=torch.float32).to(self.dtype)
