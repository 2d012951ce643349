"""What two lanes are to each other, the verdict over the chunks both have made since the last change; and the governor, which keeps what is
measured beside them small."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, replace

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
        counts = not (ours.warmup or theirs.warmup or ours.recached or theirs.recached)
        if counts:
            self.pairs.append((ours, theirs))
            self.decibels.append(frame_psnr(a, b))
        return replace(self.verdict(ours, theirs), chunk_psnr=statistics.median(self.decibels[-1]) if counts else None)

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


@dataclass(frozen=True)
class Plan:
    """What may be measured in a chunk: the heads on show and pinned, and how many layers of all heads."""

    shown: bool = False
    layers: int = 0


class Governor:
    """Keeps measuring cheap: plans so much that all probe time, what it plans included, stays within a share of all compute time.

    What a layer and what the heads on show cost is the median of what they cost lately, and time not used is saved up. Where a chunk's
    measuring took longer than planned, as when other programs took the processor, that is owed for `owed` chunks at most: a stall must
    not blind the page for long. Heads that nothing has been seen of yet are measured on credit.
    """

    def __init__(self, limit: float = 0.03, recent: int = 5, owed: int = 16):
        self.limit, self.owed = limit, owed
        self.probe = self.compute = self.saved = 0.0
        self.standing = 0.0  # ms a chunk that is read anyway
        self.shown: deque[float] = deque(maxlen=recent)  # ms of the heads on show
        self.layer: deque[float] = deque(maxlen=recent)  # ms a layer of all heads
        self._layers_next = False

    @property
    def share(self) -> float:
        """Probe time over compute time so far, in [0, 1]."""
        return self.probe / self.compute if self.compute else 0.0

    def plan(self, layers: int, *, wanted: bool = False) -> Plan:
        """For the next chunk of a model of `layers` layers. Where both kinds do not fit in one chunk they take turns, and time is saved up
        for the one whose turn it is. Heads on show that are `wanted`, because nothing of them has been seen, are measured at once."""
        left = self.saved - self.standing
        if left <= 0:
            return Plan(wanted and self.limit * self.compute > 0)
        shown = statistics.median(self.shown) if self.shown else 0.0
        both = self._fit(left - shown, layers)
        if both:
            return Plan(True, both)
        plan = Plan(False, self._fit(left, layers)) if self._layers_next and not wanted else Plan(wanted or shown <= left)
        if plan != Plan():
            self._layers_next = plan.shown
        return plan

    def _fit(self, left: float, layers: int) -> int:
        """Layers that fit into `left` ms; one, to learn from, where their cost is unknown."""
        if left < 0:
            return 0
        if not self.layer:
            return min(layers, 1)
        cost = statistics.median(self.layer)
        return layers if cost * layers <= left else int(left / cost)

    def add(self, plan: Plan, compute: float, *, standing: float = 0.0, shown: float = 0.0, layers: float = 0.0) -> None:
        """One chunk of all lanes as it was planned, in ms: compute, and what each kind of measuring took."""
        spent, earned = standing + shown + layers, self.limit * compute
        self.probe += spent
        self.compute += compute
        self.saved = max(self.saved + earned - spent, -self.owed * earned)
        self.standing = standing
        if plan.shown:
            self.shown.append(shown)
        if plan.layers:
            self.layer.append(layers / plan.layers)
