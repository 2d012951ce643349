"""The cache Rolling Forcing was trained with (arXiv 2509.25161): the first frames of the video, seen right before the newest ones.

It belongs to the sampler and has no name to choose it by: where a model denoises jointly, "full" with the trained number of frames is this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from fkv import rope
from fkv.cache import Commit, HeadGroup, Policy, cut, ends, merge, parameter
from fkv.policies.full import Full
from fkv.spec import Geometry, ModelSpec


@dataclass(frozen=True)
class Anchored(Policy):
    """An anchor and the newest frames.

    A joint pass of f frames attends to `frames` in all: itself, the anchor turned to stand just before the working frames, and
    frames - f - anchor working frames. The clean pass of one chunk sees the newest frames where they are, the anchor only while it is one
    of them.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = "Anchor and newest"
    summary: ClassVar[str] = "The first frames, seen right before the newest ones, and the newest ones."
    asks_queries: ClassVar[bool] = False

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
        kept = ends([*past, new], self.anchor * size, (self.frames - commit.geometry.chunk) * size)
        return [replace(kept, end=commit.start + commit.frames)]

    def load(self, layer: int, past: list[HeadGroup], q: Tensor, frames: int) -> list[HeadGroup]:
        if not past or not past[0].has("sink"):
            return past
        group, size = past[0], q.shape[2] // frames
        (_, sink), (_, end) = group.span("sink"), group.span("recent")
        if frames < self.joint:
            room = (self.frames - frames) * size
            return [group] if end <= room else [cut([group], [("recent", [(end - room, end)])])]
        working = max(0, min((self.frames - frames) * size, end) - sink)
        seen = cut([group], [("sink", [(0, sink)]), ("recent", [(end - working, end)])])
        return [moved(seen, sink, group.end - (working + sink) // size)]

    def replay(self, frames: int) -> int:
        return min(frames, self.frames - self.anchor)

    def retain(self, layer: int, past: list[HeadGroup], start: int) -> list[HeadGroup]:
        return [replace(merge(past, "sink"), end=start)] if past else []

    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        frames = chunks * geometry.chunk
        sink = min(self.anchor, frames)
        return [(geometry.heads, (sink + min(self.frames - geometry.chunk, frames - sink)) * geometry.tokens)] if chunks else []


def moved(group: HeadGroup, tokens: int, shift: int) -> HeadGroup:
    """A group whose first `tokens` are turned on in time by `shift` frames."""
    if not shift or not tokens:
        return group
    later = torch.zeros(1, 3, dtype=group.pos.dtype, device=group.k.device)
    later[:, 0] += shift
    k, pos = group.k.clone(), group.pos.clone()
    k[:, :, :tokens] = rope.rotate(k[:, :, :tokens], rope.rotation(later, group.k.shape[-1]))
    pos[:tokens] += later
    return replace(group, k=k, pos=pos)


def trained(spec: ModelSpec) -> Policy:
    """The cache a rolling model was trained with."""
    return Anchored(anchor=spec.chunk, frames=spec.window, joint=spec.frames_at_once)


def as_sampled(spec: ModelSpec, policy: Policy) -> Policy:
    """A policy as a model's sampler runs it."""
    return trained(spec) if spec.schedule.sampler == "rolling" and policy == Full(frames=spec.window) else policy
