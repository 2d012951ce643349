"""The first frames and the newest ones: LongLive (arXiv 2509.22622), after attention sinks (StreamingLLM, arXiv 2309.17453).

The published window of 12 frames with a sink of 3 is sink=3, recent=9. Differs from the release in when it evicts, not in what is attended
to (see `full`), and in a re-cache that keeps the sink: the release replays the whole window and throws away the keys and values of as many
of its first frames as the sink has; here those frames are not replayed at all, which leaves the same cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fkv.cache import Commit, HeadGroup, Policy, ends, merge, parameter
from fkv.spec import Geometry


@dataclass(frozen=True)
class Window(Policy):
    name: ClassVar[str] = "window"
    title: ClassVar[str] = "Window"
    summary: ClassVar[str] = "Every head keeps the first frames of the video (the sink) and the newest ones."
    asks_queries: ClassVar[bool] = False

    sink: int = parameter(3, "Sink", "First frames of the video, kept for ever", minimum=0, maximum=21)
    recent: int = parameter(9, "Recent", "Newest frames attended to, the current chunk included", minimum=1, maximum=4096)
    on_switch: str = parameter("keep", "Sink at a switch", "Whether the sink outlives a change of prompt", choices=("keep", "renew"))

    @classmethod
    def of(cls, *numbers: int) -> Policy:
        """`window:12:3`: 12 frames, the current chunk included, of which 3 are the sink."""
        if len(numbers) != 2:
            return super().of(*numbers)
        frames, sink = numbers
        return cls(sink=sink, recent=frames - sink)

    @property
    def label(self) -> str:
        return f"Window, {self.sink} first + {self.recent} newest"

    @property
    def anchors(self) -> int:
        return self.sink if self.on_switch == "keep" else 0

    def check(self, geometry: Geometry) -> None:
        super().check(geometry)
        if self.recent < geometry.chunk:
            cure = f"use recent >= {geometry.chunk}"
            raise ValueError(f"window: recent {self.recent} leaves no room for a chunk of {geometry.chunk} frames; {cure}")

    def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: Tensor, commit: Commit) -> list[HeadGroup]:
        size = commit.geometry.tokens
        return [ends([*past, new], self.sink * size, (self.recent - commit.geometry.chunk) * size)]

    def replay(self, frames: int) -> int:
        window = self.sink + self.recent
        return frames if frames <= window else window - self.anchors

    def retain(self, layer: int, past: list[HeadGroup], start: int) -> list[HeadGroup]:
        return [merge(past, "sink")] if self.anchors and past else []

    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        frames = chunks * geometry.chunk
        sink = min(self.sink, frames)
        return [(geometry.heads, (sink + min(self.recent - geometry.chunk, frames - sink)) * geometry.tokens)] if chunks else []
