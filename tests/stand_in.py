"""A stand-in for engine and session: the same events, drawn instead of generated, so that page tests need no weights and no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from fkv.engine import profile_facts as engine_facts
from fkv.events import (
    Done,
    Event,
    Frames,
    Kept,
    ModelFacts,
    Notice,
    Phases,
    ProfileFacts,
    Residency,
    Sample,
    Settings,
    Similarity,
    Start,
    Tick,
    Verdict,
)
from fkv.findings import LANES, Classes, FrameMatrix, Heads, Lane, Maps, TokenMap
from fkv.heads import HeadProfile
from fkv.looking import Looks, Shot
from fkv.policies import label, parse
from fkv.spec import POCKET, ModelSpec
from fkv.text import PocketText
from fkv.wishes import check_head, roles_of

LAYERS, HEADS, CHUNK = POCKET.net.layers, POCKET.net.heads, POCKET.chunk
FRAME_BYTES = 2 * 4 * LAYERS * POCKET.net.dim * POCKET.geometry.tokens


@dataclass
class StandInEngine:
    """What the page asks of an engine."""

    spec: ModelSpec = POCKET
    text: PocketText = field(default_factory=PocketText)
    profile: HeadProfile = field(default_factory=lambda: HeadProfile.of_scores("pocket", profile_facts().scores).by_threshold(0.8))
    lose: int = -1  # the chunk at which lane B ends with an error
    begun: int = 0
    ended: int = 0


def facts(engine: Any) -> tuple[ModelFacts, ProfileFacts]:
    """A model and its profile."""
    geometry = engine.spec.geometry
    model = ModelFacts(
        "pocket", "Pocket", 3_400_000, LAYERS, HEADS, geometry.rows, geometry.columns, CHUNK, 4, 4, 24, engine.spec.pixels, 21, 0, 4,
        "cpu", "float32", "SDPA", 2, 2 * 4 * geometry.tokens * geometry.head_dim,
    )  # fmt: skip
    return model, profile_facts()


def profile_facts() -> ProfileFacts:
    """Invented scores; every head at or above the threshold is static."""
    rng = np.random.default_rng(7)
    grid = np.where(rng.random((LAYERS, HEADS)) < 0.4, 0.8 + 0.19 * rng.random((LAYERS, HEADS)), 0.15 + 0.62 * rng.random((LAYERS, HEADS)))
    scores = tuple(tuple(float(x) for x in row) for row in grid)
    static = tuple(tuple(i for i, x in enumerate(row) if x >= 0.8) for row in scores)
    errors = tuple(tuple(0.02 for _ in row) for row in scores)
    return ProfileFacts(scores, errors, 0.8, "score at or above 0.80", static, "In training, half of the heads had old frames hidden.")


class StandInSession:
    """A session whose lanes are drawn: a ball that moves, a little lower in lane B, which takes half the time while it compresses."""

    pause = 0.05  # seconds a lane takes
    nbytes, bound = 1_400_000, 256_000_000  # of queries and keys kept for looking

    def __init__(
        self, engine: StandInEngine, settings: Settings, encode: Callable[[np.ndarray], bytes] | None = None, *, latents: bool = False
    ):
        engine.text.encode(settings.prompt)
        check_head(engine, settings)  # type: ignore[arg-type]
        self.static = roles_of(engine, settings)  # type: ignore[arg-type]
        self.engine, self.settings, self.encode, self.latents = engine, settings, encode, latents
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.notices: list[Notice] = []
        self.since = self.chunk = 0

    @property
    def looks(self) -> StandInSession:
        """What answers for looking at heads, too."""
        return self

    def change(self, **edits: Any) -> Settings:
        with self.lock:
            before, after = self.settings, replace(self.settings, **edits)
            roles_of(self.engine, after)  # type: ignore[arg-type]
            self.settings = after
            if self.settings.prompt != before.prompt:
                self._note("prompt", None, self.settings.prompt)
            for side, lane in (("left", "A"), ("right", "B")):
                if getattr(self.settings, side) != getattr(before, side):
                    self._note("policy", lane, getattr(self.settings, side))
            if self.settings.compress != before.compress:
                self._note("policy", "B", "compression on" if self.settings.compress else "compression off")
            return self.settings

    def _note(self, kind: Any, lane: Any, text: str) -> None:
        self.notices.append(Notice(kind, lane, self.chunk, text, "received"))

    def stop(self) -> None:
        self.stopped.set()

    def look(
        self, layer: int, head: int, frame: int, row: int, column: int, *, lane: Lane = "A", toward: str = "keys", chunk: int | None = None
    ) -> TokenMap:
        """Half of the weight on the token asked for in the newest frame before the one asked for, the rest spread evenly."""
        now = self.settings
        Looks(self.engine.spec.geometry)._check(lane, toward, row, column)
        if (layer, head) not in {(now.layer, now.head), *now.pinned}:
            raise ValueError(f"head {head} of layer {layer} is not kept; pin it and wait for the next chunk")
        newest = CHUNK * self.chunk
        frames = tuple(range(max(0, newest - 21), newest)) if toward == "keys" else tuple(range(newest - CHUNK, newest))
        if frame not in frames:
            raise ValueError(f"frame {frame} is no longer kept; choose one of frames {frames[0]}..{frames[-1]}")
        geometry = self.engine.spec.geometry
        weights = np.full((len(frames), geometry.rows, geometry.columns), 0.5 / (len(frames) * geometry.tokens), np.float32)
        weights[frames.index(frame) - 1, row, column] += 0.5
        if lane == "B" and now.compress:
            weights[1:-6] = np.nan
        share = tuple(float(x) for x in weights.sum((1, 2)))
        return TokenMap(self.chunk - 1, layer, head, lane, frame, row, column, toward, frames, weights, share, 0.25)  # type: ignore[arg-type]

    def chunks(self, layer: int, head: int) -> tuple[int, ...]:
        now = self.settings
        there = (layer, head) in {(now.layer, now.head), *now.pinned}
        return tuple(range(max(0, self.chunk - 7), self.chunk)) if there else ()

    def still(self) -> Looks | None:
        """Drawn queries and keys of the heads on show and pinned in lane A's newest chunk, over a window of 21 frames."""
        if not self.chunk:
            return None
        geometry, now, start = self.engine.spec.geometry, self.settings, CHUNK * (self.chunk - 1)
        frames = range(max(0, start + CHUNK - 21), start + CHUNK)
        ids = torch.arange(frames[0] * geometry.tokens, (frames[-1] + 1) * geometry.tokens)
        looks = Looks(geometry)
        draw = torch.Generator().manual_seed(self.chunk)

        def shot() -> Shot:
            q, k = (4 * torch.randn(n, geometry.head_dim, generator=draw) for n in (CHUNK * geometry.tokens, len(ids)))
            return Shot(start, q, k, ids)

        looks.take(self.chunk - 1, {("A", place): shot() for place in ((now.layer, now.head), *now.pinned)})
        return looks

    def pooled(self, layer: int, head: int, *, lane: Lane = "A", chunk: int | None = None) -> FrameMatrix:
        maps = self._maps(self.chunk - 1, replace(self.settings, layer=layer, head=head))
        row = np.asarray(maps.left if lane == "A" else maps.right, np.float32)
        return FrameMatrix(maps.chunk, layer, head, maps.frames, maps.frames[-CHUNK:], np.tile(row, (CHUNK, 1)))

    def events(self) -> Iterator[Event]:
        self.engine.begun += 1
        try:
            model, profile = facts(self.engine)
            brought = self.settings.profile
            yield Start("stand-in", model, engine_facts(self.engine, brought) if brought else profile, self.settings)  # type: ignore[arg-type]
            while not self.stopped.is_set() and (not self.settings.chunks or self.chunk < self.settings.chunks):
                if self.settings.paused:
                    time.sleep(0.1)
                    yield Tick(self.chunk)
                    continue
                yield from self._turn(self.chunk)
                self.chunk += 1
            yield Done("stopped" if self.stopped.is_set() else "finished", self.chunk)
        finally:
            self.engine.ended += 1

    def _turn(self, chunk: int) -> Iterator[Event]:
        with self.lock:
            pending, self.notices, now = self.notices, [], self.settings
        for notice in pending:
            yield notice
            yield replace(notice, chunk=chunk, state="applied", ms=31.0)
            self.since = chunk
        if (static := roles_of(self.engine, now)) != self.static:  # type: ignore[arg-type]
            self.static, self.since = static, chunk
            yield Classes(chunk, static, now.rule, now.overrides)
        spoken = {"A": now.left, "B": now.right if now.compress else now.left}
        for lane in LANES:
            if lane == "B" and 0 <= self.engine.lose <= chunk:
                if chunk == self.engine.lose:
                    yield Notice("error", "B", chunk, "Lane B ran out of memory and has ended. Lane A goes on.")
                continue
            time.sleep(self.pause / (2 if lane == "B" and now.compress else 1))
            pixels = self._draw(lane, chunk)
            jpeg = self.encode(pixels) if self.encode else None
            clean = np.full((CHUNK, 1, 1, 1), chunk, np.float32) if self.latents else None
            yield Frames(lane, chunk, 12 * chunk, CHUNK * chunk, pixels, jpeg, label(parse(spoken[lane])), spoken[lane], clean)
            yield self._sample(lane, chunk, now, spoken[lane], recached=bool(pending))
        if not now.benchmark:
            yield self._maps(chunk, now)
            yield self._heads(chunk, now)
        for lane in LANES:
            yield self._residency(lane, chunk, now)
        if not 0 <= self.engine.lose <= chunk:
            yield self._verdict(chunk, now)

    def _draw(self, lane: Lane, chunk: int) -> np.ndarray:
        high, wide = self.engine.spec.pixels
        rows, columns = (axis * of // side for axis, of, side in zip(np.mgrid[0:high, 0:wide], (80, 128), (high, wide)))
        out = np.empty((12, high, wide, 3), np.uint8)
        for i in range(12):
            t = 12 * chunk + i
            out[i] = np.stack([90 + rows, 150 + rows // 2, 235 - rows // 2], -1)
            out[i][rows >= 60] = (106, 176, 76)
            x, y = 64 + 46 * np.sin(t / 17), 34 - 16 * np.cos(t / 7) + (2 if lane == "B" else 0)
            out[i][(columns - x) ** 2 + (rows - y) ** 2 < 121] = (210, 50, 50)
        return out

    def _sample(self, lane: Lane, chunk: int, now: Settings, policy: str, recached: bool) -> Sample:
        small, past = lane == "B" and now.compress, min(CHUNK * chunk, 18)
        ms = (420.0 if small else 420.0 + 40 * past) * (1 + 0.02 * np.sin(chunk * 3))
        phases = Phases((ms / 5,) * 4, ms / 5, 31.0 if recached else 0.0, 0.0, 30.0, 6.0, 9.0)
        kept = min(past, 3) if small else past
        stored, frames = kept * FRAME_BYTES, 12
        fps = frames * 1000 / phases.diffusion, frames * 1000 / phases.end_to_end
        sizes = stored, stored + CHUNK * FRAME_BYTES, int(1.1 * stored), stored
        return Sample(
            lane, chunk, frames, phases, *fps, *sizes, recached, chunk < 2, kept, f"{kept} past frames", 0.014, 512_000_000, policy
        )

    def _maps(self, chunk: int, now: Settings) -> Maps:
        newest = CHUNK * (chunk + 1)
        frames = tuple(range(max(0, newest - 21), newest)) if newest <= 21 else (0, *range(newest - 21, newest))
        weight = np.array([0.2 + np.exp(-(newest - f) / (2 + now.head)) for f in frames])
        left = np.where([f >= newest - 21 for f in frames], weight, np.nan)
        seen = [f == 0 or f >= newest - 6 for f in frames] if now.compress else [f >= newest - 21 for f in frames]
        right = np.where(seen, weight, np.nan)
        return Maps(chunk, now.layer, now.head, frames, tuple(left / np.nansum(left)), tuple(right / np.nansum(right)))

    def _heads(self, chunk: int, now: Settings) -> Heads:
        """Two layers a chunk in turn; the scores wander a little around the profile's."""
        newest, rng, segments = CHUNK * (chunk + 1), np.random.default_rng(chunk), 5
        frames = tuple(range(max(0, newest - 21), newest))
        layers = tuple(sorted({2 * chunk % LAYERS, (2 * chunk + 1) % LAYERS}))
        reach = np.array([[0.3 + 9 * (1 - score) for score in self.engine.profile.scores[layer]] for layer in layers])  # type: ignore[index]
        age = newest - np.array(frames)
        share = np.exp(-age / reach[:, :, None])
        share = (share / share.sum(-1, keepdims=True)).astype(np.float32)
        bands = np.repeat(share[..., None] / segments, segments, -1)
        running = np.array(profile_facts().scores) + 0.005 * rng.standard_normal((LAYERS, HEADS))
        running[2 * (chunk + 1) :] = np.nan if chunk < LAYERS // 2 else running[2 * (chunk + 1) :]

        def grid(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(float(x) for x in row) for row in values)

        known = np.where(np.isnan(running), np.nan, 1.0)
        metrics = grid(running), grid(0.02 * known), grid(1 - running), grid(0.1 * known), grid(np.minimum(1, 0.1 + running))
        return Heads(chunk, frames, layers, share, bands, *metrics, 24, 3.0, roles_of(self.engine, now), 0.014, 2)  # type: ignore[arg-type]

    def _residency(self, lane: Lane, chunk: int, now: Settings) -> Residency:
        first = CHUNK * chunk
        current, whole = tuple(range(first, first + CHUNK)), (1.0,) * 5
        if lane == "A" or not now.compress:
            everything = Kept("all", HEADS, tuple((f, whole) for f in range(max(0, first - 18), first)))
            return Residency(lane, chunk, now.layer, current, (everything,))
        if not chunk:
            return Residency(lane, chunk, now.layer, current, (Kept("all", HEADS, ()),))
        ends = tuple(dict.fromkeys(((0, whole), (first - 1, whole))))
        parts = tuple((f, tuple(float((f + s) % 3 == 0) for s in range(5))) for f in range(max(1, first - 4), first - 1))
        similar = None
        if parts:
            bars = tuple(tuple(0.5 + 0.4 * (1 - p) + 0.02 * s for s, p in enumerate(row)) for _, row in parts)
            similar = Similarity(tuple(f for f, _ in parts), bars, tuple(tuple(p > 0 for p in row) for _, row in parts), 0.7, 1)
        static, dynamic = Kept("static", 3, ends), Kept("dynamic", 5, tuple(sorted((*ends, *parts))))
        return Residency(lane, chunk, now.layer, current, (static, dynamic), similar)

    def _verdict(self, chunk: int, now: Settings) -> Verdict:
        first = max(self.since + 1, 2)
        n, past = max(0, chunk - first + 1), min(CHUNK * chunk, 18)
        known = n >= 5
        left, right = past * FRAME_BYTES, (min(past, 3) if now.compress else past) * FRAME_BYTES
        speed = 1.93 if now.compress else 1.0
        ratio = (speed, speed - 0.1, speed + 0.1) if known else (None, None, None)
        psnr = (27.4, 12 * n) if known else (None, 0)
        kept, words = right / left if left else None, "A holds 21 frames; warm-up and re-cache chunks are left out."
        own = (27.4 if now.rule == "profile" else 22.4) + 0.1 * (chunk % 3) if n else None
        return Verdict(chunk, *ratio, min(n, 5), 5, first, chunk, kept, left, right, *psnr, words, own)
