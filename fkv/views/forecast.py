"""How long a chunk would take if a noisy pass read so many bytes: a line through what this run has measured, and how far to trust it.

A chunk's time is taken as base + rate * bytes read, both at least 0. The line goes through the medians of each read size measured
(Theil-Sen: the median of the slopes between them), so that single slow chunks do not bend it. Chunks of warm-up and with a re-cache do
not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fkv.events import Sample

APART, ENOUGH = 1.1, 3  # read sizes this factor apart are distinct; chunks that a size needs to count


@dataclass(frozen=True)
class Line:
    """Milliseconds = base + rate * bytes, from `n` chunks of `sizes` read sizes in [least, most]; 8 in 10 chunks lie between the line plus
    `low` and the line plus `high`."""

    base: float
    rate: float
    low: float
    high: float
    n: int
    sizes: int
    least: int
    most: int

    def at(self, read: int) -> Forecast:
        """What the line says of a chunk whose noisy passes read so many bytes."""
        middle = self.base + self.rate * read
        low, high = (max(0.0, middle + gap) for gap in (self.low, self.high))
        return Forecast(middle, low, high, self.n, self.sizes, not self.least / APART <= read <= self.most * APART)


@dataclass(frozen=True)
class Forecast:
    """Milliseconds a chunk is predicted to take, and between which 8 in 10 should lie; `beyond` says that no read size near it was
    measured."""

    ms: float
    low: float
    high: float
    n: int
    sizes: int
    beyond: bool


def line(read: Sequence[int], ms: Sequence[float]) -> Line | None:
    """Through chunks that read so many bytes and took so many milliseconds; None with fewer than two distinct sizes of `ENOUGH` chunks."""
    sizes = grouped(read)
    groups = [index for index in sizes if len(index) >= ENOUGH]
    if len(groups) < 2:
        return None
    x, y = np.asarray(read, float), np.asarray(ms, float)
    middles = [(float(np.median(x[index])), float(np.median(y[index]))) for index in groups]
    rate = max(0.0, float(np.median([(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(middles, 2)])))
    base = max(0.0, float(np.median([time - rate * size for size, time in middles])))
    used = np.concatenate(groups)
    low, high = (float(gap) for gap in np.quantile(y[used] - base - rate * x[used], (0.1, 0.9)))
    return Line(base, rate, low, high, len(used), len(groups), int(x[used].min()), int(x[used].max()))


def grouped(read: Sequence[int]) -> list[np.ndarray]:
    """Places of the sizes that are alike, smallest first; a size more than `APART` times the smallest of a group begins the next."""
    order = np.argsort(np.asarray(read, float), kind="stable")
    groups: list[list[int]] = []
    for place in order.tolist():
        if not groups or read[place] > APART * read[groups[-1][0]]:
            groups.append([])
        groups[-1].append(place)
    return [np.array(group, int) for group in groups]


def counting(samples: Sequence[Sample]) -> list[Sample]:
    """The chunks whose times tell of steady running: no warm-up, no re-cache."""
    return [one for one in samples if not (one.warmup or one.recached)]


@dataclass(frozen=True)
class Outlook:
    """A chunk's time before a policy runs and, where it has run, what it then took: medians over `n` chunks."""

    chunk: Forecast | None
    noisy: Forecast | None
    n: int = 0
    ms: float = 0.0
    read: int = 0
    stored: int = 0


def outlook(samples: Sequence[Sample], read: int, policy: str) -> Outlook:
    """Of a policy, by its spelling, that would read so many bytes a pass: predicted from the chunks of every other policy in this run, so
    that a prediction never rests on what it predicts, beside what its own chunks took."""
    known = counting(samples)
    own = [one for one in known if one.policy == policy and read / APART <= one.bytes_read <= read * APART]
    others = [one for one in known if one.policy != policy]
    sizes = [one.bytes_read for one in others]
    lines = line(sizes, [one.ms.end_to_end for one in others]), line(sizes, [sum(one.ms.noisy) for one in others])
    chunk, noisy = (found.at(read) if found else None for found in lines)
    if not own:
        return Outlook(chunk, noisy)
    ms, taken, stored = (
        float(np.median(values)) for values in zip(*((one.ms.end_to_end, one.bytes_read, one.bytes_stored) for one in own))
    )
    return Outlook(chunk, noisy, len(own), ms, round(taken), round(stored))
