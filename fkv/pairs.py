"""What two lanes are to each other: the verdict over the chunks both have made since the last change, and the governor of the probe."""

from __future__ import annotations

import statistics
from collections import deque

from fkv import meter
from fkv.events import Frames, Sample, Verdict
from fkv.metrics.picture import psnr

NEED, SPAN = 5, 24
EQUAL_DB = 99.0


class Pairs:
    """Chunks of both lanes, paired. Warm-up and re-cached chunks do not count; at most the newest `span` do."""

    def __init__(self, need: int = NEED, span: int = SPAN):
        self.need = need
        self.pairs: deque[tuple[Sample, Sample]] = deque(maxlen=span)
        self.decibels: deque[list[float]] = deque(maxlen=span)

    def restart(self) -> None:
        """Forget everything: a setting has changed."""
        self.pairs.clear()
        self.decibels.clear()

    def add(self, left: tuple[Frames, Sample], right: tuple[Frames, Sample]) -> Verdict:
        """One more chunk, and what follows from all of them."""
        (a, ours), (b, theirs) = left, right
        if not (ours.warmup or theirs.warmup or ours.recached or theirs.recached):
            self.pairs.append((ours, theirs))
            self.decibels.append(frame_psnr(a, b))
        return self.verdict(ours, theirs)

    def verdict(self, left: Sample, right: Sample) -> Verdict:
        enough = len(self.pairs) >= self.need
        times = [(a.ms.end_to_end, b.ms.end_to_end) for a, b in self.pairs]
        speed = meter.paired_ratio([a for a, _ in times], [b for _, b in times]) if enough else None
        frames = [value for row in self.decibels for value in row]
        return Verdict(
            chunk=left.chunk,
            speed=speed.median if speed else None,
            speed_low=speed.low if speed else None,
            speed_high=speed.high if speed else None,
            n=len(self.pairs),
            need=self.need,
            first=self.pairs[0][0].chunk if self.pairs else left.chunk,
            last=self.pairs[-1][0].chunk if self.pairs else left.chunk,
            kept=right.bytes_stored / left.bytes_stored if left.bytes_stored else None,
            bytes_left=left.bytes_stored,
            bytes_right=right.bytes_stored,
            psnr=statistics.median(frames) if frames else None,
            psnr_frames=len(frames),
            window=f"A looks back on up to {left.past} frames, B on up to {right.past}. Warm-up and re-cached chunks are left out.",
        )


def frame_psnr(left: Frames, right: Frames) -> list[float]:
    """PSNR of every pixel frame of B against A in dB, inf where they are equal."""
    values = [psnr(a, b) for a, b in zip(left.pixels, right.pixels)]
    return [float("inf") if value >= EQUAL_DB else value for value in values]


class Governor:
    """Keeps measuring cheap: allows a probe only while all probe time, the next one included, stays within a share of all compute time."""

    def __init__(self, limit: float = 0.03):
        self.limit = limit
        self.probe = self.compute = self.last = 0.0

    @property
    def share(self) -> float:
        """Probe time over compute time so far, in [0, 1]."""
        return self.probe / self.compute if self.compute else 0.0

    def allows(self) -> bool:
        return self.compute > 0 and self.probe + self.last <= self.limit * self.compute

    def add(self, probe: float, compute: float, *, probed: bool) -> None:
        """One chunk of all lanes, in ms."""
        self.probe += probe
        self.compute += compute
        if probed:
            self.last = probe
