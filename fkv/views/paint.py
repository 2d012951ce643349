"""A painted policy before it runs: what of today's attention it would keep, and what it would store and read.

All of it follows from the last survey of lane A and from the formula of the policy; nothing here is a measurement of the painted policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fkv import cells
from fkv.events import ModelFacts
from fkv.findings import Heads, Roles


@dataclass(frozen=True)
class Painting:
    """Cells (age, segment) per class, as `fkv.cells` writes them, beside the first `sink` frames; a frame has `segments` segments."""

    sink: int
    static: str
    dynamic: str
    segments: int

    @classmethod
    def read(cls, spelling: str, segments: int) -> Painting:
        """From painted:sink=1,static=1,dynamic=1+2.0; `segments` where the spelling leaves them open. Raises ValueError."""
        name, _, rest = spelling.strip().partition(":")
        pairs = (part.partition("=") for part in rest.split(",") if part)
        values = {key.strip(): value.strip() for key, _, value in pairs}
        if name != "painted" or not set(values) <= {"sink", "static", "dynamic", "segments"}:
            raise ValueError(f"{spelling[:60]!r} is no painted policy; write painted:sink=1,static=1,dynamic=1+2.0")
        if not all(values.get(name, "0").isdecimal() for name in ("sink", "segments")):
            raise ValueError(f"{spelling[:60]!r}: sink and segments are whole numbers; write for instance sink=1")
        found = cls(
            int(values.get("sink", 1)), values.get("static", "1"), values.get("dynamic", "1-3"), int(values.get("segments", 0)) or segments
        )
        for text in (found.static, found.dynamic):
            cells.parse(text, found.segments)
        return found

    def kept(self, kind: str, chunk: int) -> cells.Cells:
        """Cells of a class, with those they come through."""
        return cells.completed(cells.parse(self.static if kind == "static" else self.dynamic, self.segments), chunk)


class Latest:
    """The newest survey of every layer: `bands` [heads, key frames, segments] and its key frames, by layer."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[tuple[int, ...], np.ndarray]] = {}

    def take(self, event: Heads) -> None:
        for layer, bands in zip(event.layers, event.bands):
            self.layers[layer] = (event.frames, bands)


def coverage(bands: np.ndarray, frames: tuple[int, ...], painting: Painting, kind: str, chunk: int) -> np.ndarray:
    """Share of attention [heads] that the painted cells of a class would keep, of bands [heads, frames, segments]; the sink and the chunk
    being drawn count as kept.

    Where the survey's segments are not the painting's, a band counts by how much of it is painted.
    """
    start = frames[-1] + 1 - chunk
    wanted = painting.kept(kind, chunk)
    keep = np.zeros((len(frames), painting.segments))
    for place, frame in enumerate(frames):
        if frame >= start or frame < painting.sink:
            keep[place] = 1
        else:
            keep[place] = [(start - frame, segment) in wanted for segment in range(painting.segments)]
    return np.nansum(bands * resampled(keep, bands.shape[-1]), axis=(1, 2))


def resampled(keep: np.ndarray, segments: int) -> np.ndarray:
    """Occupancy [frames, n] over other equal segments [frames, segments]."""
    fine = np.lcm(keep.shape[1], segments)
    return keep.repeat(fine // keep.shape[1], axis=1).reshape(len(keep), segments, -1).mean(axis=2)


def past_tokens(painting: Painting, kind: str, frames: int, facts: ModelFacts) -> int:
    """Tokens of the past that a head of a class keeps once `frames` frames have been made."""
    sink, tokens = min(painting.sink, frames), facts.rows * facts.columns
    seen = sum(frames - age >= sink for age, _ in painting.kept(kind, facts.chunk))
    return sink * tokens + seen * tokens // painting.segments


def predict(
    latest: Mapping[int, tuple[tuple[int, ...], np.ndarray]], painting: Painting, static: Roles, facts: ModelFacts
) -> dict[str, Any]:
    """What a painting would keep of lane A's attention, store and read, in numbers for the page.

    `coverage` by class is a mean over the heads of the layers surveyed so far (None where there are none), `layers` how many those are;
    `bytes` and `full_bytes` of keys and values with the caches full; `read_bytes` what a noisy pass reads, its own chunk included, and
    `reads` the share of that in what the model's own window reads; `cells` what is kept per class, completed.
    """
    history = facts.window - facts.chunk
    per_class: dict[str, list[float]] = {"static": [], "dynamic": []}
    for layer, (frames, bands) in latest.items():
        for kind in per_class:
            share = coverage(bands, frames, painting, kind, facts.chunk)
            own = [head for head in range(facts.heads) if (head in static[layer]) == (kind == "static")]
            per_class[kind] += share[own].tolist()
    tokens, current = facts.rows * facts.columns, facts.chunk * facts.rows * facts.columns
    heads = {"static": sum(map(len, static)), "dynamic": facts.layers * facts.heads - sum(map(len, static))}
    kept = {kind: past_tokens(painting, kind, 1_000_000, facts) for kind in heads}
    everything = facts.layers * facts.heads
    read = sum(count * (kept[kind] + current) for kind, count in heads.items())
    every = [value for values in per_class.values() for value in values]
    means = {kind: float(np.mean(values)) if values else None for kind, values in (*per_class.items(), ("all", every))}
    bytes_per_token = facts.frame_bytes / tokens
    return {
        "coverage": means,
        "layers": len(latest),
        "bytes": round(bytes_per_token * sum(count * kept[kind] for kind, count in heads.items())),
        "full_bytes": round(bytes_per_token * everything * history * tokens),
        "read_bytes": round(bytes_per_token * read),
        "reads": read / (everything * (history * tokens + current)),
        "cells": {kind: cells.spell(painting.kept(kind, facts.chunk), painting.segments) for kind in heads},
    }
