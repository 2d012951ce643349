"""The lesson's arithmetic: every number a text prints is made here, once, from a `Trace`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fkv.views.trace import Atlas, Classes, Holding, Made

PUBLISHED = 0.8
FEWEST = 0.2  # share of heads a class must have for a threshold to tell something
ROUNDS = 4000


def scores(share: np.ndarray, last: int, skip: int = 1) -> np.ndarray:
    """Share of attention [..., frames] on the `last` newest frames, the `skip` first ones left out of the whole."""
    return np.nansum(share[..., -last:], axis=-1) / np.nansum(share[..., skip:], axis=-1)


def reach(share: np.ndarray, frames: Sequence[int]) -> np.ndarray:
    """How many frames back attention [..., frames] looks, on average; 0 is the newest of the `frames`, ascending numbers."""
    age = frames[-1] - np.asarray(frames)
    return np.nansum(share * age, axis=-1) / np.nansum(share, axis=-1)


def mean_map(atlas: Atlas) -> np.ndarray:
    """Mean [frames, tokens] over the tokens' maps, each scaled to a sum of 1."""
    if atlas.mean is not None:
        return atlas.mean
    tokens, frames = atlas.share.shape
    maps = (np.frombuffer(base64.b64decode(atlas.maps), np.uint8).reshape(tokens, frames * tokens) / 255.0) ** 2
    return (maps / np.maximum(maps.sum(axis=1, keepdims=True), 1e-12)).mean(axis=0).reshape(frames, tokens)


@dataclass(frozen=True)
class Cut:
    """A threshold with the share of heads it calls static; `published` says whether it is the published one, `at` what that one gives."""

    threshold: float
    static: float
    published: bool
    at: float


def cut(found: np.ndarray) -> Cut:
    """The published threshold, unless it leaves a class with hardly a head; then the one that parts the heads in halves."""
    at = float((found >= PUBLISHED).mean())
    if FEWEST <= at <= 1 - FEWEST:
        return Cut(PUBLISHED, at, True, at)
    ordered = np.sort(found.ravel())
    middle = len(ordered) // 2
    threshold = round(float(ordered[middle - 1] + ordered[middle]) / 2, 3)
    return Cut(threshold, float((found >= threshold).mean()), False, at)


@dataclass(frozen=True)
class Agreement:
    """How far classes [samples, heads] agree: share of heads with one class in all samples, mean share of equal classes of two samples,
    and what two random labellings with as many static heads would agree on."""

    always: float
    pairs: float
    chance: float
    n: int
    heads: int


def agreement(samples: np.ndarray, threshold: float) -> Agreement:
    """Of scores [n, layers, heads], classed at one threshold."""
    static = samples.reshape(len(samples), -1) >= threshold
    share = static.mean(axis=0)
    n, p = len(static), float(static.mean())
    equal = share**2 + (1 - share) ** 2
    pairs = float(((n * n * equal - n) / (n * (n - 1))).mean()) if n > 1 else float("nan")
    return Agreement(float(((share == 0) | (share == 1)).mean()), pairs, p * p + (1 - p) ** 2, n, static.shape[1])


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with its 95 % bootstrap interval over n pairs."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired(left: Sequence[float], right: Sequence[float], seed: int = 0) -> Difference:
    """left - right, pair by pair, pairs with nan left out. Fewer than two pairs have no interval (nan)."""
    gaps = np.asarray(left, float) - np.asarray(right, float)
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < 2:
        return Difference(float(gaps.mean()) if len(gaps) else float("nan"), float("nan"), float("nan"), len(gaps))
    means = np.random.default_rng(seed).choice(gaps, (ROUNDS, len(gaps))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(gaps.mean()), float(low), float(high), len(gaps))


def coverage(bands: np.ndarray, frames: Sequence[int], chunk: int, holds: Iterable[Holding]) -> np.ndarray:
    """Share of attention bands [layers, heads, frames, segments] that falls on what every head holds, the chunk being drawn included."""
    kept = np.zeros_like(bands)
    kept[:, :, -chunk:] = 1
    place = {frame: index for index, frame in enumerate(frames)}
    for hold in holds:
        for frame, occupancy in hold.frames:
            if frame in place:
                kept[hold.layer, list(hold.heads), place[frame]] = occupancy
    return np.nansum(bands * kept, axis=(2, 3)) / np.nansum(bands, axis=(2, 3))


def static_mask(classes: Classes, heads: int) -> np.ndarray:
    """True where a head is static, [layers, heads]."""
    return np.array([[head in layer for head in range(heads)] for layer in classes.static])


@dataclass(frozen=True)
class Speed:
    """How many times faster B is: median and 10th to 90th percentile of paired chunks; median milliseconds of both."""

    median: float
    low: float
    high: float
    n: int
    left: float
    right: float


def speed(left: Iterable[Made], right: Iterable[Made]) -> Speed | None:
    """Of the chunks that count in both lanes; None where there is none."""
    theirs = {made.chunk: made for made in right if made.counts}
    pairs = [(made.ms, theirs[made.chunk].ms) for made in left if made.counts and made.chunk in theirs]
    if not pairs:
        return None
    ratios = np.array([a / b for a, b in pairs])
    low, median, high = (float(q) for q in np.quantile(ratios, (0.1, 0.5, 0.9)))
    a, b = (float(np.median([pair[side] for pair in pairs])) for side in (0, 1))
    return Speed(median, low, high, len(ratios), a, b)


def history_cost(rows: Sequence[Made]) -> tuple[int, float, int, float] | None:
    """(past frames, median ms) of lane A's chunks with the shortest and the longest past, the first chunk left out; None if it never
    grew."""
    by: dict[int, list[float]] = {}
    for made in rows[1:]:
        by.setdefault(made.past, []).append(made.ms)
    if len(by) < 2:
        return None
    short, long = min(by), max(by)
    return short, float(np.median(by[short])), long, float(np.median(by[long]))
