"""What a session measures of its heads beside the two lanes: how much of it, in which chunk, and what it tells of that."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fkv.cache import Roles
from fkv.engine import Engine
from fkv.events import Notice, Settings
from fkv.findings import LANES, Grid, Heads, Lane, Maps
from fkv.lane import LaneRun, Timed, Watching
from fkv.looking import Head, Keeper, Looks, Shot
from fkv.pairs import Governor, Plan
from fkv.probe import FrameMap, FrameProbe
from fkv.survey import HALFLIFE, Running, Survey, Surveyed, coverage

METRICS = ("scores", "entropy", "sink", "coverage")


@dataclass
class Chunk:
    """What is measured in one chunk."""

    number: int
    settings: Settings
    plan: Plan
    layers: tuple[int, ...] = ()
    standing: float = 0.0
    timed: dict[Lane, Timed] = field(default_factory=dict)
    maps: dict[Lane, FrameProbe] = field(default_factory=dict)
    keepers: dict[Lane, Keeper] = field(default_factory=dict)
    survey: Survey | None = None

    def spent(self, *names: str) -> float:
        return sum(timed.spent(name) for timed in self.timed.values() for name in names)


class Measuring:
    """`begin` before a chunk's lanes, `probe` for each of them, `told` after them; `looks` from any thread."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.geometry = engine, engine.spec.geometry
        self.governor, self.looks = Governor(), Looks(engine.spec.geometry)
        self._turn, self._off = 0, False
        self._running: dict[str, Running] = {}
        self._basis: dict[str, object] = {}
        self._chunk = Chunk(0, Settings(), Plan())

    def begin(self, number: int, settings: Settings) -> None:
        """Plans a chunk: nothing in a benchmark or after a failure, else what the governor allows, layers in turn."""
        layers = self.geometry.layers
        wanted = not _on_show(settings) <= set(self.looks.heads)
        plan = Plan() if settings.benchmark or self._off else self.governor.plan(layers, wanted=wanted)
        turn = tuple(sorted((self._turn + step) % layers for step in range(plan.layers)))
        self._turn = (self._turn + plan.layers) % layers
        self._chunk = Chunk(number, settings, plan, turn)

    def probe(self, run: LaneRun) -> Timed | None:
        """What looks at a lane in this chunk."""
        chunk, lane = self._chunk, run.name
        probes: dict[str, Watching] = {}
        if chunk.plan.shown:
            chunk.maps[lane] = FrameProbe(self.geometry, layers=(), head=(chunk.settings.layer, chunk.settings.head))
            chunk.keepers[lane] = Keeper(self.geometry, _on_show(chunk.settings))
            probes |= {"maps": chunk.maps[lane], "keeper": chunk.keepers[lane]}
        if chunk.layers and lane == "A":
            generator = torch.Generator().manual_seed(chunk.number)
            chunk.survey = Survey(self.geometry, chunk.layers, skip_first=chunk.settings.skip_first, generator=generator)
            probes["survey"] = chunk.survey
        if not probes:
            return None
        schedule = self.engine.spec.schedule
        passes = 1 if schedule.sampler == "rolling" and run.stream.chunks else len(schedule.steps)
        chunk.timed[lane] = Timed(probes, passes, run.watch)
        return chunk.timed[lane]

    def read(self, ms: float) -> None:
        """Something else was read back from a lane, for `ms`."""
        self._chunk.standing += ms

    def told(self, lanes: Mapping[Lane, LaneRun], static: Roles, compute: float) -> list[Maps | Heads | Notice]:
        """Events of a chunk that `lanes` have made in `compute` ms, with the classes in force; the governor learns what they cost. Where
        memory runs out nothing is measured any more, which is said once."""
        chunk = self._chunk
        try:
            if not any(timed.failed for timed in chunk.timed.values()):
                return self._events(chunk, lanes, static, compute)
        except (MemoryError, torch.OutOfMemoryError):
            pass
        self._off = True
        text = f"No memory is left on {self.engine.device} to measure heads; the lanes go on without. A new run measures again."
        return [Notice("error", None, chunk.number, text)]

    def _events(self, chunk: Chunk, lanes: Mapping[Lane, LaneRun], static: Roles, compute: float) -> list[Maps | Heads | Notice]:
        if not chunk.timed:
            self.governor.add(chunk.plan, compute, standing=chunk.standing)
            return []
        marks = [time.perf_counter()]
        shares = self._shares(chunk)
        marks.append(time.perf_counter())
        seen = self._take(chunk, lanes) if chunk.survey is not None and chunk.survey.found and "A" in lanes else None
        marks.append(time.perf_counter())
        shown, digest = (1000 * (after - before) for before, after in itertools.pairwise(marks))
        cost = {"shown": chunk.spent("maps", "keeper") + shown, "layers": chunk.spent("survey") + digest}
        self.governor.add(chunk.plan, compute, standing=chunk.standing, **cost)
        events: list[Maps | Heads | Notice] = [] if shares is None else [shares]
        return events if seen is None else [*events, self._heads(chunk, *seen, static)]

    def _shares(self, chunk: Chunk) -> Maps | None:
        """Both lanes' shares of the head on show on one common axis of frames; the shots are put where they can be looked at."""
        shots: dict[tuple[Lane, Head], Shot] = {}
        for lane, keeper in chunk.keepers.items():
            shots.update({(lane, head): shot for head, shot in keeper.shots.items()})
        if not shots:
            return None
        self.looks.take(chunk.number, shots)
        left, right = (_side(chunk.maps[lane].pinned if lane in chunk.maps else None) for lane in LANES)
        frames = tuple(sorted(left.keys() | right.keys()))
        a, b = (tuple(side.get(frame, float("nan")) for frame in frames) for side in (left, right))
        return Maps(chunk.number, chunk.settings.layer, chunk.settings.head, frames, a, b)

    def _take(self, chunk: Chunk, lanes: Mapping[Lane, LaneRun]) -> tuple[tuple[int, ...], np.ndarray]:
        """Takes a survey into the running values; gives its key frames and attention [layers, heads, frames, segments]."""
        assert chunk.survey is not None
        found = [chunk.survey.found[layer] for layer in chunk.layers]
        self._renew(chunk.settings, lanes)
        for layer, seen in zip(chunk.layers, found):
            values = {"scores": seen.score, "entropy": seen.entropy, "sink": seen.sink}
            if "B" in lanes:
                values["coverage"] = coverage(seen, lanes["B"].held.layers[layer], self.geometry)
            for name, value in values.items():
                errors = seen.error.double().cpu().numpy() if name == "scores" else None
                self._running[name].add(layer, chunk.number, value.double().cpu().numpy(), errors)
        return _aligned(found)

    def _renew(self, settings: Settings, lanes: Mapping[Lane, LaneRun]) -> None:
        """Begins the averages again that mean something else now: all with lane A's policy, scores with what they leave out, coverage with
        lane B's policy."""
        a, b = (lanes[lane].policy if lane in lanes else None for lane in LANES)
        basis = {"scores": (a, settings.skip_first), "entropy": a, "sink": a, "coverage": (a, b)}
        for name in METRICS:
            if name not in self._running or self._basis[name] != basis[name]:
                self._running[name] = Running(self.geometry.layers, self.geometry.heads)
        self._basis = basis

    def _heads(self, chunk: Chunk, frames: tuple[int, ...], bands: np.ndarray, static: Roles) -> Heads:
        visible = ~np.isnan(bands).all(axis=3)
        share = np.where(visible, np.nansum(bands, axis=3), np.nan).astype(np.float32)
        grids = {name: _grid(self._running[name].mean) for name in METRICS} | {"errors": _grid(self._running["scores"].error)}
        many, covered = len(chunk.survey.rows) if chunk.survey else 0, len(chunk.layers)
        about = {"queries": many, "halflife": HALFLIFE, "static": static, "probe_share": self.governor.share, "covered": covered}
        return Heads(chunk.number, frames, chunk.layers, share, bands, **grids, **about)


def _on_show(settings: Settings) -> set[Head]:
    """The head that is chosen, and those pinned."""
    return {(settings.layer, settings.head), *settings.pinned}


def _side(seen: FrameMap | None) -> dict[int, float]:
    return dict(zip(seen.frames.tolist(), seen.share[0].tolist())) if seen else {}


def _grid(values: np.ndarray) -> Grid:
    return tuple(tuple(row) for row in values.tolist())


def _aligned(found: Sequence[Surveyed]) -> tuple[tuple[int, ...], np.ndarray]:
    """All layers' bands float32 [layers, heads, frames, segments] on one axis of frames; nan where a layer or head sees nothing."""
    frames = sorted({frame for seen in found for frame in seen.frames.tolist()})
    heads, segments = found[0].bands.shape[0], found[0].bands.shape[2]
    bands = np.full((len(found), heads, len(frames), segments), np.nan, np.float32)
    for layer, seen in enumerate(found):
        bands[layer][:, np.searchsorted(frames, seen.frames.tolist())] = seen.bands.float().cpu().numpy()
    return tuple(frames), bands
