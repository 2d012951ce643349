"""Rolling Forcing's sampler: a window of chunks denoised jointly, each one noise level behind the next (arXiv 2509.25161).

With n noise levels a window holds n chunks, the oldest at the lowest level. One pass moves every chunk down one level; the oldest is then
finished and leaves, its clean pass writes the cache, and a chunk of pure noise joins at the other end. The video begins with n - 1 shorter
windows. Differs from the release in three ways that change no picture: the clean passes of the first n - 1 windows, which nobody reads, are
not run; the video has no planned end, so the window never shrinks; the anchor is turned from where it was to where it is wanted, instead of
being kept unturned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from fkv import rope
from fkv.cache import Commit, HeadGroup, KVCache, Policy, cut, ends, merge, parameter
from fkv.policies import parse
from fkv.spec import Geometry, ModelSpec, Schedule
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


@dataclass(frozen=True)
class Anchored(Policy):
    """The cache Rolling Forcing was trained with: the first frames of the video, seen right before the newest ones.

    A joint pass of f frames attends to `frames` in all: itself, the anchor turned to stand just before the working frames, and
    frames - f - anchor working frames. The clean pass of one chunk sees the newest frames where they are, the anchor only while it is one
    of them.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = "Anchor and newest"
    summary: ClassVar[str] = "The first frames, seen right before the newest ones, and the newest ones."

    anchor: int = parameter(3, "Anchor", "First frames of the video, kept for ever", minimum=1, maximum=21)
    frames: int = parameter(21, "Frames", "Frames a pass attends to, its own included", minimum=1, maximum=4096)
    joint: int = parameter(15, "Joint", "Frames of a joint pass", minimum=1, maximum=4096)

    @property
    def label(self) -> str:
        return f"Anchor of {self.anchor}, {self.frames} frames in all"

    @property
    def anchors(self) -> int:
        return self.anchor

    def check(self, geometry: Geometry) -> None:
        super().check(geometry)
        if self.joint + self.anchor > self.frames:
            cure = f"use frames >= {self.joint + self.anchor}"
            raise ValueError(
                f"anchored: {self.frames} frames leave no room for {self.joint} joint ones and an anchor of {self.anchor}; {cure}"
            )

    def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: Tensor, commit: Commit) -> list[HeadGroup]:
        size = commit.geometry.tokens
        return [ends([*past, new], self.anchor * size, (self.frames - commit.geometry.chunk) * size)]

    def load(self, layer: int, past: list[HeadGroup], q: Tensor, frames: int) -> list[HeadGroup]:
        if not past or not past[0].has("sink"):
            return past
        group, size = past[0], q.shape[2] // frames
        (_, sink), (_, end) = group.span("sink"), group.span("recent")
        if frames < self.joint:
            room = (self.frames - frames) * size
            return [group] if end <= room else [cut([group], [("recent", [(end - room, end)])])]
        working = min((self.frames - frames) * size - sink, end - sink)
        seen = cut([group], [("sink", [(0, sink)]), ("recent", [(end - working, end)])])
        start = int(self._next(group) - working // size - sink // size)
        return [moved(seen, sink, start)]

    def replay(self, frames: int) -> int:
        return min(frames, self.frames - self.anchor)

    def retain(self, layer: int, past: list[HeadGroup], start: int) -> list[HeadGroup]:
        return [merge(past, "sink")] if past else []

    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        frames = chunks * geometry.chunk
        sink = min(self.anchor, frames)
        return [(geometry.heads, (sink + min(self.frames - geometry.chunk, frames - sink)) * geometry.tokens)] if chunks else []

    @staticmethod
    def _next(group: HeadGroup) -> int:
        """The frame after the newest kept one."""
        return int(group.pos[-1, 0]) + 1


def moved(group: HeadGroup, tokens: int, start: int) -> HeadGroup:
    """A group whose first `tokens` are turned in time so that they begin at frame `start`."""
    shift = start - int(group.pos[0, 0])
    if not shift or not tokens:
        return group
    angle = rope.rotation(torch.tensor([[shift, 0, 0]], device=group.k.device), group.k.shape[-1])
    k, pos = group.k.clone(), group.pos.clone()
    k[:, :, :tokens] = rope.rotate(k[:, :, :tokens], angle)
    pos[:tokens, 0] += shift
    return replace(group, k=k, pos=pos)


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
        return super()._new_cache(trained(self.spec) if policy == parse(f"full:{self.spec.window}") else policy)

    def _pass(self, window: Window, probe: Probe | None) -> Tensor:
        """One joint pass; gives the first chunk's x0 and leaves every unfinished chunk at its next level."""
        size = self.spec.chunk
        self._joint.append(self.noise(window.last)[0])
        x = torch.cat(self._joint, dim=1)
        t = torch.tensor(clock(self.spec.schedule, window, size), device=x.device).expand(x.shape[0], -1)
        out = self.model(x, t, self._text, self.cache, window.first * size, probe)
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


def trained(spec: ModelSpec) -> Policy:
    """The cache a rolling model was trained with."""
    return Anchored(anchor=spec.chunk, frames=spec.window, joint=spec.chunk * len(spec.schedule.steps))


def stream_class(spec: ModelSpec) -> type[Stream]:
    """The stream a row's sampler asks for."""
    return RollingStream if spec.schedule.sampler == "rolling" else Stream
