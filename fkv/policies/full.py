"""Everything, or the last n frames: the cache a causal video model is trained with (Self Forcing, arXiv 2506.08009).

Differs from the released rolling cache in when it evicts, not in what is attended to: frames that the next chunk would push out are dropped
as soon as a chunk is committed, so n frames including the current chunk cost n - chunk stored ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fkv.cache import Commit, HeadGroup, Policy, cut, parameter
from fkv.spec import Geometry


@dataclass(frozen=True)
class Full(Policy):
    name: ClassVar[str] = "full"
    title: ClassVar[str] = "Full"
    summary: ClassVar[str] = "Every head keeps every token of the last frames, or of the whole history."
    asks_queries: ClassVar[bool] = False

    frames: int = parameter(0, "Frames", "Frames attended to, the current chunk included; 0 keeps all", minimum=0, maximum=4096)
    reread: int = parameter(21, "Re-read", "Where all are kept: frames read again at a change of prompt or policy", minimum=1, maximum=4096)

    @property
    def label(self) -> str:
        return f"Full, {self.frames} frames" if self.frames else "Full, whole history"

    def check(self, geometry: Geometry) -> None:
        super().check(geometry)
        if 0 < self.frames < geometry.chunk:
            cure = f"use >= {geometry.chunk}, or 0 for all"
            raise ValueError(f"full: {self.frames} frames leave no room for a chunk of {geometry.chunk}; {cure}")

    def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: Tensor, commit: Commit) -> list[HeadGroup]:
        total = sum(group.tokens for group in past) + new.tokens
        kept = min(total, (self.frames - commit.geometry.chunk) * commit.geometry.tokens) if self.frames else total
        return [cut([*past, new], [("recent", [(total - kept, total)])])]

    def replay(self, frames: int) -> int:
        return min(frames, self.frames or self.reread)

    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        if not chunks:
            return []
        written = (chunks - recached) * geometry.chunk + self.replay(recached * geometry.chunk)
        kept = min(written, self.frames - geometry.chunk) if self.frames else written
        return [(geometry.heads, kept * geometry.tokens)]
