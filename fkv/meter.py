"""Measuring: times per phase, frames per second, medians and paired ratios, memory. Nothing here changes what is measured.

Three speeds, never one: *diffusion* counts the network passes alone (what papers print), *end to end* adds text, re-caching, decoding and
encoding, *displayed* is what a viewer saw, so it is counted where the frames are shown. Where decoding and encoding run beside the clean
pass, end to end counts what the lane still waits for them, once its clean pass has ended; their full times are told too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch

from fkv.events import Phases


class Moment(Protocol):
    """A point in the work of a device."""

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any, /) -> float: ...


@dataclass(frozen=True)
class Instant:
    """A moment on the CPU, in seconds."""

    seconds: float

    def synchronize(self) -> None:
        """Work on the CPU is done when it returns."""

    def elapsed_time(self, later: Instant, /) -> float:
        return 1000 * (later.seconds - self.seconds)


class Stopwatch:
    """Time between marks, in ms and by name. A mark ends the phase it names. On CUDA it is an event among the work, so marking waits for
    nothing and a phase holds its own work; reading `laps` waits for the newest event.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
        moment: Callable[[], Moment] | None = None,
    ):
        self.device = torch.device(device)
        self.clock = clock
        self._moment = moment
        self._laps: dict[str, list[float]] = {}
        self._open: list[tuple[str, Moment, Moment, list[tuple[Moment, Moment]]]] = []
        self.last = self.now()

    @property
    def last(self) -> Moment:
        """Where the present phase began."""
        return self._last

    @last.setter
    def last(self, moment: Moment) -> None:
        self._last = moment
        self._aside: list[tuple[Moment, Moment]] = []

    def now(self) -> Moment:
        """This moment in the device's work."""
        if self._moment is not None:
            return self._moment()
        if self.device.type != "cuda":
            return Instant(self.clock())
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    @property
    def laps(self) -> dict[str, list[float]]:
        """Milliseconds of every phase since `start`, by name."""
        if self._open:
            self._open[-1][2].synchronize()
        for name, began, ended, aside in self._open:
            spent = sum(first.elapsed_time(last) for first, last in aside)
            self._laps.setdefault(name, []).append(began.elapsed_time(ended) - spent)
        self._open = []
        return self._laps

    def start(self) -> None:
        """Forget the laps; the next phase begins here."""
        self._laps, self._open = {}, []
        self.last = self.now()

    def mark(self, name: str) -> None:
        """The phase `name` ends here and the next one begins."""
        now = self.now()
        self._open.append((name, self.last, now, self._aside))
        self.last = now

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Counts what runs inside under `name` and takes it out of the phase around it."""
        began = self.now()
        try:
            yield
        finally:
            ended = self.now()
            self._open.append((name, began, ended, []))
            self._aside.append((began, ended))

    def beside(self, name: str, began: Moment, ended: Moment) -> None:
        """Counts under `name` what ran between two moments off this timeline; both have come."""
        self._open.append((name, began, ended, []))

    def phases(self) -> Phases:
        """The laps since `start`; "wait" is what is left on the timeline of a "decode" and "encode" beside it. Raises ValueError on a name
        that is no phase.
        """
        laps = dict(self.laps)
        waits = laps.pop("wait", None)
        names = {field.name for field in fields(Phases)}
        if unknown := sorted(set(laps) - names):
            raise ValueError(f"phase {unknown[0]!r} is unknown; use one of: {', '.join(sorted(names))}")
        sums = {name: sum(times) for name, times in laps.items() if name != "noisy"}
        if waits is not None:
            sums["hidden"] = sums.get("decode", 0.0) + sums.get("encode", 0.0) - sum(waits)
        return Phases(noisy=tuple(laps.get("noisy", ())), **sums)


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


def free_bytes(device: torch.device | str = "cpu") -> int | None:
    """Memory of a CUDA device that nobody holds, what torch keeps in reserve counted; None elsewhere."""
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def forget_peak(device: torch.device | str = "cpu") -> None:
    """Lets `peak_bytes` of a CUDA device begin anew with what is allocated now: loading is no part of a run. Elsewhere nothing."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device | str = "cpu") -> int:
    """The most memory this process has used so far: allocated on a CUDA device, else resident; 0 where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # the kernel's own record of this program; `getrusage` also remembers the one that started it
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _peak_resident()


def _peak_resident() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
