"""Rolling Forcing's sampler: a window of chunks denoised jointly, each one noise level behind the next (arXiv 2509.25161).

With n noise levels a window holds n chunks, the oldest at the lowest level. One pass moves every chunk down one level; the oldest is then
finished and leaves, its clean pass writes the cache, and a chunk of pure noise joins at the other end. The video begins with n - 1 shorter
windows. Differs from the release in three ways that change no picture: the clean passes of the first n - 1 windows, which nobody reads, are
not run; the video has no planned end, so the window never shrinks; the anchor is turned from where it was to where it is wanted, instead of
being kept unturned (see `fkv.policies.anchored`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fkv.cache import KVCache, Policy
from fkv.policies.anchored import as_sampled
from fkv.spec import ModelSpec, Schedule
from fkv.stream import Chunk, Stream, cleaned, noised
from fkv.wan import Probe


@dataclass(frozen=True)
class Window:
    """One joint pass: chunks `first` to `last`, and for each the number of its noise level (0: pure noise)."""

    first: int
    last: int
    levels: tuple[int, ...]


def windows(levels: int) -> Iterator[Window]:
    """The windows of a video without end, for a schedule of so many noise levels."""
    index = 0
    while True:
        first = max(0, index - levels + 1)
        yield Window(first, index, tuple(range(index - first, -1, -1)))
        index += 1


def clock(schedule: Schedule, window: Window, chunk: int) -> tuple[float, ...]:
    """Timesteps of every frame of a window, oldest first."""
    steps = schedule.timesteps()
    return tuple(steps[level] for level in window.levels for _ in range(chunk))


class RollingStream(Stream):
    """A rollout with the joint window. `step` runs as many passes as it takes to finish one more chunk: at first one per noise level, then
    one."""

    @cached_property
    def _windows(self) -> Iterator[Window]:
        return windows(len(self._timesteps))

    @cached_property
    def _joint(self) -> list[Tensor]:
        """The chunks of the window, each at its noise level."""
        return []

    def draw(self) -> None:
        """Draws the noise of the chunk that joins the window next, for a source that remembers it."""
        self.noise(self.chunks + len(self._timesteps) - 1 if self._joint else 0)

    @torch.inference_mode()
    def step(self, probe: Probe | None = None) -> Chunk:
        """Commits the chunk before, then finishes the next one."""
        self.commit()
        while True:
            window = next(self._windows)
            x0 = self._pass(window, probe)
            if window.levels[0] == len(self._timesteps) - 1:
                break
        return self._finished(x0)

    def _new_cache(self, policy: Policy) -> KVCache:
        """The cache of a policy, where "full" with the trained number of frames means the trained cache, which is anchored."""
        return super()._new_cache(as_sampled(self.spec, policy))

    def _pass(self, window: Window, probe: Probe | None) -> Tensor:
        """One joint pass; gives the first chunk's x0 and leaves every unfinished chunk at its next level."""
        size = self.spec.chunk
        self._joint.append(self.noise(window.last)[0])
        x = torch.cat(self._joint, dim=1)
        t = clock(self.spec.schedule, window, size)
        out = self.model(x, t, self.text, self.cache, window.first * size, probe)
        sigmas = [self._sigmas[level] for level in window.levels]
        parts = [cleaned(*pair) for pair in zip(x.split(size, dim=1), out.split(size, dim=1), sigmas)]
        if self.trace is not None:
            self.trace.append(("noisy", torch.cat(parts, dim=1)))
        last = len(self._timesteps) - 1
        self._joint[:] = [
            noised(x0, self._fresh(window.first + number, level), self._sigmas[level + 1])
            for number, (x0, level) in enumerate(zip(parts, window.levels))
            if level < last
        ]
        self.mark("noisy")
        return parts[0]

    def _fresh(self, chunk: int, level: int) -> Tensor:
        """The noise a chunk meets on its way from a level to the next."""
        return self.noise(chunk)[1][level]


def stream_class(spec: ModelSpec) -> type[Stream]:
    """The stream a row's sampler asks for."""
    return RollingStream if spec.schedule.sampler == "rolling" else Stream
