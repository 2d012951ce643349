"""A policy painted by hand: the first frames, and of the newest ones exactly the cells (age, segment) painted for each class of heads.

Written painted:sink=1,static=1,dynamic=1+2.0+2.3; `fkv.cells` says how cells are written. What is to be seen at an age has to be kept until
then, so the younger cells it comes through are kept and seen too; `fitted` adds them. All layers are parted, from the first commit on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from fkv import cells
from fkv.cache import Commit, HeadGroup, Policy, cut, merge, parameter
from fkv.spec import Geometry

SINK = "sink"


@dataclass(frozen=True)
class Painted(Policy):
    name: ClassVar[str] = "painted"
    title: ClassVar[str] = "Painted"
    summary: ClassVar[str] = "Each class of heads keeps the first frames and what was painted for it: frames by age, or segments of them."
    needs_roles: ClassVar[bool] = True
    asks_queries: ClassVar[bool] = False

    sink: int = parameter(1, "Sink", "First frames of the video, kept for ever", minimum=0, maximum=21)
    static: str = parameter("1", "Static keeps", "Cells of static heads, by age: 1 is the newest past frame, 2.3 a segment, 4-6 frames")
    dynamic: str = parameter("1-3", "Dynamic keeps", "Cells of dynamic heads, written like those of static ones")
    segments: int = parameter(0, "Segments", "Equal parts of a frame; 0 chooses", minimum=0, maximum=128)

    @property
    def label(self) -> str:
        return f"Painted, {self.sink} first + {self.static or 'nothing'} / {self.dynamic or 'nothing'}"

    @property
    def anchors(self) -> int:
        return self.sink

    def fitted(self, geometry: Geometry) -> Policy:
        """With segments chosen and cells completed; left as it is where something cannot be read, for `check` to say so."""
        segments = self.segments or cells.segments_of(geometry)
        try:
            static, dynamic = (cells.completed(cells.parse(text, segments), geometry.chunk) for text in (self.static, self.dynamic))
        except ValueError:
            return self
        return replace(self, static=cells.spell(static, segments), dynamic=cells.spell(dynamic, segments), segments=segments)

    def check(self, geometry: Geometry) -> None:
        super().check(geometry)
        segments = self.segments or cells.segments_of(geometry)
        if geometry.tokens % segments:
            fits = [count for count in range(1, geometry.tokens + 1) if geometry.tokens % count == 0]
            near = sorted(sorted(fits, key=lambda count: abs(count - segments))[:3])
            raise ValueError(f"painted: a frame of {geometry.tokens} tokens does not divide into {segments} segments; use one of {near}")
        for text in (self.static, self.dynamic):
            cells.parse(text, segments)

    def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: torch.Tensor, commit: Commit) -> list[HeadGroup]:
        geometry, end = commit.geometry, commit.start + commit.frames
        kept, known = [], {group.members: group.heads for group in past}
        for name, members in self.classes(layer, geometry.heads):
            heads = known[members] if members in known else torch.tensor(members, device=new.k.device)
            parts = [group.pick(members, heads, name) for group in past if set(members) <= set(group.members)]
            held = [run for part in parts for run in part.runs]
            runs = self._chosen(name, held, commit.start, end, geometry)
            kept.append(cut([*parts, new.pick(members, heads, name)], runs))
        return kept

    def replay(self, frames: int) -> int:
        wanted = max([1, *(age for name in ("static", "dynamic") for age, _ in self._cells(name))])
        return min(frames, wanted) if frames - wanted >= self.sink else frames

    def retain(self, layer: int, past: list[HeadGroup], start: int) -> list[HeadGroup]:
        return [merge(past, SINK)] if self.sink and past else []

    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        if not chunks:
            return []
        frames = chunks * geometry.chunk
        sink, size = min(self.sink, frames), geometry.tokens // self.segments
        sizes = []
        for name, members in self.classes(layer, geometry.heads):
            seen = sum(frames - age >= sink for age, _ in self._cells(name))
            sizes.append((len(members), sink * geometry.tokens + seen * size))
        return sizes

    def _cells(self, name: str) -> cells.Cells:
        return cells.parse(self.static if name == "static" else self.dynamic, self.segments)

    def _chosen(
        self, name: str, held: list[tuple[str, int]], start: int, end: int, geometry: Geometry
    ) -> list[tuple[str, list[tuple[int, int]]]]:
        """Named runs for `cut` over what is held, run by run, and the new frames [start, end): the sink first, then a run per segment."""
        size, place = geometry.tokens // self.segments, 0
        spans: dict[str, list[tuple[int, int]]] = {SINK: []}
        wanted = self._cells(name)
        for run, length, frame, segment in self._laid(held, start, end, geometry):
            if run == SINK or frame < self.sink:
                spans[SINK].append((place, place + length))
            elif (end - frame, segment) in wanted:
                spans[f"{frame}.{segment}"] = [(place, place + size)]
            place += length
        return list(spans.items())

    def _laid(self, held: list[tuple[str, int]], start: int, end: int, geometry: Geometry) -> Iterator[tuple[str, int, int, int]]:
        """(run, tokens, frame, segment) of everything there is to choose from, in order; the sink is one run."""
        size = geometry.tokens // self.segments
        for run, length in held:
            frame, _, segment = run.partition(".")
            yield (run, length, 0, 0) if run == SINK else (run, length, int(frame), int(segment))
        for frame in range(start, end):
            for segment in range(self.segments):
                yield "", size, frame, segment
