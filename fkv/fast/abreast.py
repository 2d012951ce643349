"""The attention calls of a layer's groups, one after the other or side by side on streams of their own, whichever was faster.

A call of a few heads leaves part of a large GPU idle while its last blocks run; another call can run there. Whether that pays for parting
and joining the streams is measured on the real shapes when they are first met, as kernels are chosen, and never assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fkv.attention import Kernel
from fkv.fast.products import Timer

Call = tuple[Tensor, Tensor, Tensor]  # queries [b, h, L, d], keys and values [b, h, s, d]
Family = tuple[int, int, int, int]  # heads, queries, head size, power of two of keys
Shape = tuple[Family, ...]  # of every call
Fork = Callable[[Sequence[Callable[[], Tensor]]], list[Tensor]]
LAPS, LAP_SECONDS = 3, 0.02


class CudaFork:
    """Runs pieces of work on streams side by side: the first on the present stream, which goes on when all are done.

    Every stream waits for the present one before it begins, so memory that an earlier piece of work has given back is free by then; inside
    a recording of a CUDA graph the streams become branches of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.streams: list[torch.cuda.Stream] = []

    def __call__(self, works: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        while len(self.streams) < len(works) - 1:
            self.streams.append(torch.cuda.Stream(self.device))
        here, sides = torch.cuda.current_stream(self.device), self.streams[: len(works) - 1]
        for side in sides:
            side.wait_stream(here)
        parts = list[Tensor]()
        try:
            for work, side in zip(works[1:], sides):
                with torch.cuda.stream(side):
                    parts.append(work())
            return [works[0](), *parts]
        finally:
            for side in sides:
                here.wait_stream(side)


def cuda_timer(device: torch.device) -> Timer:
    """Gives the milliseconds of some work: the least of three laps, each of as many runs as take about 20 ms and waited for at its end."""

    def lap(work: Callable[[], object], calls: int) -> float:
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / calls

    def timed(work: Callable[[], object]) -> float:
        work()
        calls = max(1, min(1000, int(LAP_SECONDS / lap(work, 1))))
        return 1000 * min(lap(work, calls) for _ in range(LAPS))

    return timed


@dataclass
class Abreast:
    """Chooses for each family of shapes; meet every phase once before timing or recording. `trials` holds the milliseconds of the calls one
    after the other and side by side. Owned by a model.
    """

    fork: Fork
    timer: Timer
    trials: dict[Shape, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, calls: Sequence[Call], kernel: Kernel) -> list[Tensor]:
        """What the kernel gives for every call."""
        shape = shape_of(calls)
        works = [lambda call=call: kernel(*call) for call in calls]
        if shape not in self.trials:
            for work in works:
                work()  # its kernel is chosen, and nobody else's is tried in a lap
            self.trials[shape] = self.timer(lambda: [work() for work in works]), self.timer(lambda: self.fork(works))
        return self.fork(works) if self.pays(shape) else [work() for work in works]

    @property
    def used(self) -> bool:
        """Whether calls of any shapes run side by side."""
        return any(map(self.pays, self.trials))

    def pays(self, shape: Shape) -> bool:
        """Whether calls of such shapes run side by side."""
        serial, forked = self.trials.get(shape, (0.0, 0.0))
        return forked < serial


def shape_of(calls: Sequence[Call]) -> Shape:
    return tuple(family(q.shape[1], q.shape[2], q.shape[3], k.shape[2]) for q, k, _ in calls)


def family(heads: int, queries: int, size: int, keys: int) -> Family:
    return heads, queries, size, keys.bit_length()
