"""Measuring: times per phase, frames per second, medians and paired ratios, memory. Nothing here changes what is measured.

Three speeds, never one: *diffusion* counts the network passes alone (what papers print), *end to end* adds text, re-caching, decoding and
encoding, *displayed* is what a viewer saw, so it is counted where the frames are shown.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import torch

from fkv.events import Phases


class Stopwatch:
    """Time between marks, in ms and by name. A mark ends the phase it names; on CUDA it waits for the device first, so a phase holds its
    own work.
    """

    def __init__(self, device: torch.device | str = "cpu", clock: Callable[[], float] = time.perf_counter):
        self.device = torch.device(device)
        self.clock = clock
        self.laps: dict[str, list[float]] = {}
        self.last = self.now()

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def start(self) -> None:
        """Forget the laps; the next phase begins here."""
        self.laps = {}
        self.last = self.now()

    def mark(self, name: str) -> None:
        """The phase `name` ends here and the next one begins."""
        now = self.now()
        self.laps.setdefault(name, []).append(1000 * (now - self.last))
        self.last = now

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Counts what runs inside under `name` and takes it out of the phase around it."""
        began = self.now()
        try:
            yield
        finally:
            spent = self.now() - began
            self.laps.setdefault(name, []).append(1000 * spent)
            self.last += spent

    def phases(self) -> Phases:
        """The laps since `start`. Raises ValueError on a name that is no phase."""
        names = {field.name for field in fields(Phases)}
        if unknown := sorted(set(self.laps) - names):
            raise ValueError(f"phase {unknown[0]!r} is unknown; use one of: {', '.join(sorted(names))}")
        sums = {name: sum(laps) for name, laps in self.laps.items() if name != "noisy"}
        return Phases(noisy=tuple(self.laps.get("noisy", ())), **sums)


def fps(frames: int, ms: float) -> float:
    """Frames per second; 0 when no time has passed."""
    return 1000 * frames / ms if ms > 0 else 0.0


def fps_diffusion(frames: int, ms: Phases) -> float:
    """Pixel frames of a chunk per second of noisy and clean passes."""
    return fps(frames, ms.diffusion)


def fps_end_to_end(frames: int, ms: Phases) -> float:
    """Pixel frames of a chunk per second from prompt to encoded pixels."""
    return fps(frames, ms.end_to_end)


def fps_displayed(shown: Sequence[float]) -> float:
    """Frames per second a viewer saw, from the times (s) at which frames were put on screen; 0 below two frames."""
    return fps(len(shown) - 1, 1000 * (shown[-1] - shown[0])) if len(shown) > 1 else 0.0


@dataclass(frozen=True)
class Spread:
    """Median with the 10th and 90th percentile of n values."""

    median: float
    low: float
    high: float
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Raises ValueError on an empty sequence."""
    if not len(values):
        raise ValueError("0 values have no median; measure at least 1")
    low, median, high = (float(q) for q in np.quantile(np.asarray(values, float), (0.1, 0.5, 0.9)))
    return Spread(median, low, high, len(values))


def paired_ratio(left: Sequence[float], right: Sequence[float]) -> Spread:
    """Spread of left / right, value by value: of times it says how many times faster `right` is. Raises ValueError on unequal lengths."""
    if len(left) != len(right):
        raise ValueError(f"{len(left)} values cannot be paired with {len(right)}; measure the same chunks on both sides")
    return spread([a / b for a, b in zip(left, right)])


def interval(values: Sequence[float], rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the median of `values`."""
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(np.asarray(values, float), (rounds, len(values))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def memory_bytes(device: torch.device | str = "cpu") -> int:
    """Memory in use now: allocated on a CUDA device, else resident in this process; 0 where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return _peak_resident()


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
