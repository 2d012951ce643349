"""One lane at work: a stream and a decoder under a stopwatch, giving frames and measurements chunk by chunk."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from fkv import meter, policies
from fkv.cache import Commit, KVCache, Policy
from fkv.delivery import Encode, delivery, side_of
from fkv.engine import Engine
from fkv.events import Frames, Kept, Residency, Sample, Similarity
from fkv.fast import SlotCache
from fkv.findings import Lane
from fkv.groups import HeadGroup
from fkv.rolling import stream_class
from fkv.spec import Geometry
from fkv.stream import Noise

FIRST_CHUNKS = 2


class Watching(Protocol):
    """A probe that says which layers it looks at."""

    @property
    def wanted(self) -> Collection[int]: ...

    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None: ...


class Timed:
    """Probes by name that see the last of a chunk's `passes`; their time is taken out of that pass. Where the device has no memory left for
    them they stop, the lane goes on, and `failed` is true.
    """

    def __init__(self, probes: Mapping[str, Watching], passes: int, watch: meter.Stopwatch):
        self.probes, self.passes, self.watch = probes, passes, watch
        self.failed = False
        self._calls: Counter[int] = Counter()
        self._moments: list[tuple[str, meter.Moment, meter.Moment]] = []

    def spent(self, name: str) -> float:
        """Milliseconds a probe has taken; waits for the device."""
        times = [(began, ended) for probe, began, ended in self._moments if probe == name]
        if times:
            times[-1][1].synchronize()
        return sum(began.elapsed_time(ended) for began, ended in times)

    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None:
        self._calls[layer] += 1
        if self._calls[layer] != self.passes or self.failed:
            return
        for name, probe in self.probes.items():
            if layer in probe.wanted:
                with self.watch.aside("probe"):
                    began = self.watch.now()
                    try:
                        probe.see(layer, q, k, past, start)
                    except torch.OutOfMemoryError:
                        self.failed = True
                    self._moments.append((name, began, self.watch.now()))


@dataclass(frozen=True)
class Held:
    """What a cache holds when a chunk is drawn: its groups without their numbers (on the device "meta"), the last commit, and bytes. The
    cache may change meanwhile.
    """

    geometry: Geometry
    layers: list[list[HeadGroup]]
    last: Commit | None
    stored: int
    read: int
    allocated: int


def held(cache: KVCache) -> Held:
    layers = [[replace(group, k=group.k.to("meta"), v=group.v.to("meta")) for group in groups] for groups in cache.layers]
    return Held(cache.geometry, layers, cache.last, cache.nbytes, cache.read_bytes, cache.allocated)


class LaneRun:
    """One lane of a session. `change` takes effect at once and is timed with the next `step`; call both while holding the engine's lock.

    Pictures are delivered beside the clean pass where the device has a second stream; `in_line` has them on the lane's timeline anyway.
    Either way what is told of a chunk, its cache included, is the same. With `latents` its clean latents are told too.
    """

    def __init__(
        self,
        name: Lane,
        engine: Engine,
        text: Tensor,
        policy: Policy,
        noise: Noise,
        encode: Encode | None = None,
        *,
        in_line: bool = False,
        latents: bool = False,
    ):
        self.name: Lane = name
        self.engine = engine
        self.watch = meter.Stopwatch(engine.device)
        self.stream = stream_class(engine.spec)(engine.model, engine.spec, text.to(engine.device), policy, noise, self.watch.mark)
        self.watch.mark("text")
        self.deliver = delivery(engine.codec.decoder(), encode, self.watch, None if in_line else side_of(engine.device))
        self.held = held(self.stream.cache)
        self.pixel_frames = self.recached = 0
        self.recorded: tuple[int, int] | None = None
        self.latents = latents

    @property
    def policy(self) -> Policy:
        return self.stream.policy

    def change(self, text: Tensor | None = None, policy: Policy | None = None) -> float:
        """Re-caches with another prompt embedding or policy; gives the milliseconds it took."""
        before = sum(sum(laps) for laps in self.watch.laps.values())
        self.watch.last = self.watch.now()
        self.stream.recache(None if text is None else text.to(self.engine.device), policy)
        self.recached = self.stream.chunks
        return sum(sum(laps) for laps in self.watch.laps.values()) - before

    def step(self, probe: Timed | None = None) -> Frames:
        """Generates, decodes and encodes the next chunk. Its noise, which lanes share, is drawn before the time begins."""
        self.stream.draw()
        self.watch.last = self.watch.now()
        chunk = self.stream.step(probe)
        self.held = held(self.stream.cache)
        made = self.deliver(chunk.latents, self._commit, keep=self.latents)
        start, self.pixel_frames = self.pixel_frames, self.pixel_frames + len(made.pixels)
        label, spelling = policies.label(self.policy), policies.spelling(self.policy)
        return Frames(self.name, chunk.index, start, chunk.start, made.pixels, made.jpeg, label, spelling, made.latents)

    def _commit(self) -> None:
        """Runs the clean pass, and draws the next chunk's noise while the device is at it."""
        self.stream.commit()
        self.stream.draw()

    def sample(self, frames: Frames, probe_share: float) -> Sample:
        """Measurements of the step that gave `frames`. The stopwatch begins again."""
        ms, spec = self.watch.phases(), self.engine.spec
        past, committed = self.past(), self.stream.chunks - 1
        recording = self._recording(committed)
        self.watch.start()
        return Sample(
            lane=self.name,
            chunk=frames.chunk,
            frames=len(frames.pixels),
            ms=ms,
            fps_diffusion=meter.fps_diffusion(len(frames.pixels), ms),
            fps_end_to_end=meter.fps_end_to_end(len(frames.pixels), ms),
            bytes_stored=self.held.stored,
            bytes_read=self.held.read,
            bytes_allocated=self.held.allocated,
            bytes_expected=self.expected_bytes(committed),
            recached=0 < self.recached == committed,
            warmup=frames.chunk < FIRST_CHUNKS or recording or self.filling(committed, past),
            past=past,
            window=f"{spec.chunk} new frames, looking back on up to {past} kept ones",
            probe_share=probe_share,
            memory_bytes=meter.memory_bytes(self.engine.device),
            policy=frames.policy,
        )

    def _recording(self, committed: int) -> bool:
        """Whether passes of the newest chunk were recorded, or met for the first time and will be, their cache being as large again."""
        before, self.recorded = self.recorded, recorded(self.stream.cache)
        if self.recorded is None:
            return False
        fresh, replayed = self.recorded
        again = self.expected_bytes(committed) == self.expected_bytes(committed + 1)
        return fresh != (before or (0, 0))[0] or (again and replayed == (before or (0, 0))[1])

    def past(self) -> int:
        """Frames' worth of tokens of the fullest head group the newest chunk saw, rounded up."""
        tokens = [group.tokens for groups in self.held.layers for group in groups]
        return math.ceil(max(tokens, default=0) / self.engine.spec.geometry.tokens)

    def filling(self, committed: int, past: int) -> bool:
        """Whether a cache that holds `past` frames after so many chunks is still to grow, by the policy's closed formula."""
        spec = self.engine.spec
        later = committed + spec.window // spec.chunk
        return past + spec.chunk < spec.window and self.expected_bytes(committed) < self.expected_bytes(later)

    def expected_bytes(self, committed: int) -> int:
        """What the policy's closed formula says the cache stores after `committed` chunks."""
        geometry, cache = self.engine.spec.geometry, self.stream.cache
        kept = [cache.policy.expected(layer, committed, geometry, self.recached) for layer in range(geometry.layers)]
        numbers = 2 * geometry.head_dim * sum(heads * tokens for groups in kept for heads, tokens in groups)
        return numbers * cache.batch * cache.dtype.itemsize

    def residency(self, frames: Frames, layer: int) -> Residency:
        """What `layer` keeps beside the chunk just drawn. Reads positions back from the device."""
        chunk, similarity = self.engine.spec.chunk, similar(self.held, layer)
        segments = len(similarity.bars[0]) if similarity else 1
        groups = self.held.layers[layer]
        kept = tuple(kept_frames(group.name, len(group.members), group.pos, self.held, segments) for group in groups)
        current = tuple(range(frames.latent_start, frames.latent_start + chunk))
        return Residency(self.name, frames.chunk, layer, current, kept, similarity)


def recorded(cache: KVCache) -> tuple[int, int] | None:
    """How many recordings of passes have been tried on a cache, and how many passes replayed; None where none can be."""
    recordings = cache.recordings if isinstance(cache, SlotCache) else None
    return None if recordings is None or recordings.refused or not recordings.made else (recordings.fresh, recordings.replayed)


def kept_frames(name: str, heads: int, pos: Tensor, cache: KVCache | Held, segments: int) -> Kept:
    """Occupancy per frame and segment of one group's positions [s, 3] or [h, s, 3]; a mean over heads where they differ."""
    geometry = cache.geometry
    rows = pos.reshape(-1, 3)
    slots = (rows[:, 1] * geometry.columns + rows[:, 2]) * segments // geometry.tokens
    whole = (1 if pos.dim() == 2 else len(pos)) * geometry.tokens / segments
    codes, counts = torch.unique(rows[:, 0] * segments + slots, return_counts=True)
    share = {code: count / whole for code, count in zip(codes.tolist(), counts.tolist())}
    numbers = sorted({code // segments for code in share})
    occupied = ((frame, tuple(share.get(frame * segments + slot, 0.0) for slot in range(segments))) for frame in numbers)
    return Kept(name, heads, tuple(occupied))


def similar(cache: Held, layer: int) -> Similarity | None:
    """The similarities behind the last choice of segments, if the policy shared any (`scores` and `segments`) that `layer` went by."""
    shared = cache.last.shared if cache.last else {}
    if "scores" not in shared or "segments" not in shared:
        return None
    scores, chosen = shared["scores"].float().cpu(), shared["segments"][layer].tolist()
    decided = [number for number in range(len(scores)) if scores[number].numel() and not scores[number].isnan().any()]
    group = next((group for group in cache.layers[layer] if group.has("dynamic")), None)
    if not chosen or min(chosen) < 0 or not decided or group is None:
        return None
    by = layer if layer in decided else decided[0]
    bars = scores[by].tolist()
    size, end = cache.geometry.tokens // len(bars[0]), group.span("dynamic")[1]
    newest = int(group.pos[..., end - size * len(chosen), 0].flatten()[0])
    first = newest - chosen[0] // len(bars[0])
    kept = tuple(tuple(frame * len(row) + place in chosen for place in range(len(row))) for frame, row in enumerate(bars))
    cut = max(bars[index // len(bars[0])][index % len(bars[0])] for index in chosen)
    return Similarity(tuple(range(first, first + len(bars))), tuple(map(tuple, bars)), kept, cut, by)


def out_of_memory(error: Exception) -> bool:
    """Whether an exception means that the device or the machine has no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
