"""Forcing-KV: static heads keep a sink and the newest frames, dynamic heads also the segments that change most.

Hybrid KV Cache Compression for Efficient AR Video Diffusion Models (arXiv 2605.09681), as the released code for the 1.3B models does it
(zju-jiyicheng/Forcing-KV at 50ac1f4):
* until the clean pass of `start_chunk`, and in layer 0 always, all heads keep the sink and the longer of the two recent windows;
* when a chunk is committed, the frames that leave a dynamic head's recent window are compared, token by token, with the frame after them
  (cosine of the rotated keys, dynamic heads side by side); the segments with the lowest mean similarity go to the dynamic buffer;
* a change of prompt keeps the sink, replays the longest window, and parts the heads at once, with an empty dynamic buffer.

Where it differs: `dynamic` and `ratio` are two ceilings and the lower one holds (the release raises where they disagree; its own numbers
agree). For a batch the similarity is the mean over its items (the release scores the first). A window that is not full yet offers only what
leaves it (the release always offers a chunk's worth, some of it still held). A replay is that long for every model (the release replays all
frames where the model was trained without a window). All state belongs to the lane, none to the class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fkv.cache import Commit, HeadGroup, Policy, cut, ends, merge, parameter
from fkv.spec import Geometry


@dataclass(frozen=True)
class ForcingKV(Policy):
    name: ClassVar[str] = "forcing-kv"
    title: ClassVar[str] = "Forcing-KV"
    summary: ClassVar[str] = "Static heads keep the sink and the newest frames; dynamic heads also the segments that changed most."
    needs_roles: ClassVar[bool] = True
    asks_queries: ClassVar[bool] = False

    sink: int = parameter(1, "Sink", "First frames of the video, kept for ever", minimum=0, maximum=21)
    static_recent: int = parameter(1, "Static recent", "Newest past frames a static head keeps", minimum=0, maximum=21)
    dynamic_recent: int = parameter(1, "Dynamic recent", "Newest past frames a dynamic head keeps", minimum=0, maximum=21)
    dynamic: int = parameter(1, "Dynamic budget", "Ceiling, in frames, for what one chunk adds; 0 for none", minimum=0, maximum=21)
    segments: int = parameter(0, "Segments", "Equal parts of a frame that are kept or dropped whole; 0 chooses", minimum=0, maximum=128)
    ratio: float = parameter(0.33, "Ratio", "Ceiling for the share of the leaving segments that is kept", minimum=0, maximum=1, step=0.01)
    start_chunk: int = parameter(1, "Start chunk", "Chunk after which static and dynamic heads part", minimum=0, maximum=1024)
    similarity: str = parameter("shared", "Similarity", "One layer decides for all, or each for itself", choices=("shared", "layer"))
    similarity_layer: int = parameter(1, "Similarity layer", "The layer that decides for all", minimum=1, maximum=1024)
    history: str = parameter("replace", "History", "Whether new segments replace or join the older", choices=("replace", "accumulate"))
    cap: int = parameter(4, "Cap", "Frames the dynamic buffer may hold when it accumulates", minimum=1, maximum=1024)

    @property
    def label(self) -> str:
        budget = f"{self.dynamic} dynamic" if self.history == "replace" else f"<= {self.cap} dynamic"
        return f"Forcing-KV, {self.sink} first + {self.static_recent}/{self.dynamic_recent} newest + {budget}"

    @property
    def anchors(self) -> int:
        return self.sink

    def fitted(self, geometry: Geometry) -> Policy:
        if self.segments:
            return self
        of_rows = [count for count in range(1, geometry.rows + 1) if geometry.rows % count == 0]
        return replace(self, segments=6 if geometry.tokens % 6 == 0 else min(of_rows, key=lambda count: abs(count - 6)))

    def check(self, geometry: Geometry) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"forcing-kv: ratio {self.ratio} is outside (0, 1]; 0.33 keeps a third of the leaving segments")
        super().check(geometry)
        if self.segments < 1 or geometry.tokens % self.segments:
            fits = [count for count in range(1, geometry.tokens + 1) if geometry.tokens % count == 0]
            near = sorted(sorted(fits, key=lambda count: abs(count - self.segments))[:3])
            frame = f"a frame of {geometry.tokens} tokens"
            raise ValueError(f"forcing-kv: {frame} does not divide into {self.segments} segments; use one of {near}")
        if self.similarity_layer >= max(geometry.layers, 2):
            there = f"use one of 1..{geometry.layers - 1}"
            raise ValueError(f"forcing-kv: similarity_layer {self.similarity_layer} does not exist; {there}")
        if self.history == "accumulate" and self.cap < self.dynamic:
            raise ValueError(f"forcing-kv: cap {self.cap} is below the {self.dynamic} frames one chunk adds; use cap >= {self.dynamic}")

    def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: Tensor, commit: Commit) -> list[HeadGroup]:
        if any(group.name != "all" for group in past):
            groups = [self._advance(group, new.pick(group.members, group.heads, group.name), commit.geometry) for group in past]
        else:
            groups = [self._slide([*past, new], max(self.static_recent, self.dynamic_recent), commit.geometry)]
            if layer and (commit.recache or commit.chunk >= self.start_chunk):
                groups = self._part(layer, groups[0], commit.geometry)
        if self.similarity == "layer" or layer >= self.similarity_layer:
            return [self._closed(layer, group, commit) for group in groups]
        return groups

    def finish(self, layers: list[list[HeadGroup]], commit: Commit) -> list[list[HeadGroup]]:
        open = [layer for layer, groups in enumerate(layers) if not self.final(groups)]
        for layer in reversed(open):  # where none from `similarity_layer` on was open, the last one decides
            layers[layer] = [self._closed(layer, group, commit) for group in layers[layer]]
        return layers

    def final(self, groups: list[HeadGroup]) -> bool:
        return not any(group.has("open") for group in groups)

    def waiting(self, geometry: Geometry) -> int:
        if self.similarity == "layer":
            return 0
        parted = [layer for layer in range(1, geometry.layers) if len((self.roles or ())[layer]) < geometry.heads]
        early = [layer for layer in parted if layer < self.similarity_layer]
        return len(early)

    def replay(self, frames: int) -> int:
        wanted = max(self.static_recent, self.dynamic_recent, self.dynamic, self.sink, 1)
        return wanted if frames - wanted >= self.sink else frames

    def retain(self, layer: int, past: list[HeadGroup], start: int) -> list[HeadGroup]:
        return [merge(past, "sink")] if self.sink and past else []

    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        parted, frames = recached or self.start_chunk + 1, chunks * geometry.chunk
        sink = min(self.sink, frames)
        if not chunks:
            return []
        if layer == 0 or chunks < parted:
            return [(geometry.heads, (sink + min(max(self.static_recent, self.dynamic_recent), frames - sink)) * geometry.tokens)]
        added = [self._kept(self._candidates(self._fresh(done * geometry.chunk, geometry.chunk))) for done in range(parted, chunks)] or [0]
        segments = min(self.cap * self.segments, sum(added)) if self.history == "accumulate" else added[-1]
        static = len((self.roles or ())[layer])
        windows = [(sink + min(recent, frames - sink)) * geometry.tokens for recent in (self.static_recent, self.dynamic_recent)]
        sizes = [(static, windows[0]), (geometry.heads - static, windows[1] + segments * geometry.tokens // self.segments)]
        return [(heads, tokens) for heads, tokens in sizes if heads]

    def _fresh(self, frames: int, chunk: int) -> int:
        """Frames that a dynamic head's open run holds when a chunk is committed after `frames` others."""
        sink, later_sink = min(self.sink, frames), min(self.sink, frames + chunk)
        return min(self.dynamic_recent, frames - sink) + chunk - (later_sink - sink)

    def _candidates(self, frames: int) -> int:
        """How many of the frames in an open run leave the recent window and have a successor to be compared with."""
        return max(0, min(frames - self.dynamic_recent, frames - 1))

    def _kept(self, candidates: int) -> int:
        """Segments kept out of those of some candidate frames."""
        return min(self.dynamic * self.segments, round(self.ratio * candidates * self.segments))

    def _slide(self, parts: list[HeadGroup], recent: int, geometry: Geometry) -> HeadGroup:
        """The sink and the newest frames of parts that follow one another."""
        return ends(parts, self.sink * geometry.tokens, recent * geometry.tokens)

    def _advance(self, group: HeadGroup, new: HeadGroup, geometry: Geometry) -> HeadGroup:
        """A group after one more chunk. A dynamic group stays open until its frames are compared."""
        if group.name == "static" or not self.dynamic:
            return self._slide([group, new], self.static_recent if group.name == "static" else self.dynamic_recent, geometry)
        (_, sink), dynamic, recent = group.span("sink"), group.span("dynamic"), group.span("recent")
        fresh = group.tokens + min(self.sink * geometry.tokens - sink, new.tokens)
        runs = [
            ("sink", [(0, sink), (group.tokens, fresh)]),
            ("dynamic", [dynamic]),
            ("open", [recent, (fresh, group.tokens + new.tokens)]),
        ]
        return cut([group, new], runs)

    def _closed(self, layer: int, group: HeadGroup, commit: Commit) -> HeadGroup:
        """A group that is not open any more: it keeps the segments its own layer chooses, or those the first to choose chose for all."""
        if not group.has("open"):
            return group
        if self.similarity == "layer" or "chosen" not in commit.shared:
            scores = self._similarity(group, commit.geometry)
            commit.shared["chosen"] = self.least(scores)
            self._noted(layer, "scores", scores, math.nan, commit)
        self._noted(layer, "segments", commit.shared["chosen"], -1, commit)
        return self._settle(group, commit.shared["chosen"], commit.geometry)

    def _noted(self, layer: int, name: str, values: Tensor, blank: float, commit: Commit) -> None:
        """Leaves a layer's values in the commit, in a table of all layers; `blank` where a layer has none."""
        if name not in commit.shared:
            commit.shared[name] = values.new_full((commit.geometry.layers, *values.shape), blank)
        commit.shared[name][layer] = values

    def _similarity(self, group: HeadGroup, geometry: Geometry) -> Tensor:
        """Mean cosine [candidates, segments] between each candidate frame's keys and the next frame's, in float32."""
        start, end = group.span("open")
        candidates = self._candidates((end - start) // geometry.tokens)
        compared = group.k[:, :, start : start + (candidates + 1) * geometry.tokens]
        return self.likeness(compared, geometry).mean(dim=0)

    def likeness(self, keys: Tensor, geometry: Geometry) -> Tensor:
        """Mean cosine [b, n - 1, segments] between keys of each frame and the next, of keys [b, heads, n * tokens, d], in float32."""
        frames = keys.float().unflatten(2, (-1, geometry.tokens)).permute(0, 2, 3, 1, 4).flatten(3)
        per_token = F.cosine_similarity(frames[:, :-1], frames[:, 1:], dim=-1)
        return per_token.unflatten(2, (self.segments, -1)).mean(dim=3)

    def least(self, scores: Tensor) -> Tensor:
        """The segments that are kept of those with these scores [..., candidates, segments], ascending, numbered frame * segments +
        segment."""
        kept = self._kept(scores.shape[-2])
        return scores.flatten(-2).argsort(stable=True)[..., :kept].sort().values

    def tokens_of(self, segments: Tensor, geometry: Geometry) -> Tensor:
        """The tokens [..., n * size] of segments [..., n], numbered over their frames laid end to end."""
        size = geometry.tokens // self.segments
        return (segments[..., None] * size + torch.arange(size, device=segments.device)).flatten(-2)

    def _settle(self, group: HeadGroup, segments: Tensor, geometry: Geometry) -> HeadGroup:
        """An open group cut down to sink, dynamic buffer and newest frames."""
        (_, sink), (first, last), (start, end) = group.span("sink"), group.span("dynamic"), group.span("open")
        picked = start + self.tokens_of(segments, geometry)
        older = min(last - first, self.cap * geometry.tokens - len(picked)) if self.history == "accumulate" else 0
        recent = min(self.dynamic_recent * geometry.tokens, end - start)
        spans = [torch.arange(a, b, device=segments.device) for a, b in ((0, sink), (last - older, last), (end - recent, end))]
        index = torch.cat((spans[0], spans[1], picked, spans[2]))
        k, v, pos = group.k.index_select(2, index), group.v.index_select(2, index), group.pos.index_select(0, index)
        return replace(group, k=k, v=v, pos=pos, runs=(("sink", sink), ("dynamic", older + len(picked)), ("recent", recent)))

    def _part(self, layer: int, everyone: HeadGroup, geometry: Geometry) -> list[HeadGroup]:
        """Static and dynamic groups cut out of a layer's one group."""
        recent = {"static": self.static_recent, "dynamic": self.dynamic_recent}
        parted = []
        for name, members in self.classes(layer, geometry.heads):
            heads = torch.tensor(members, device=everyone.k.device)
            parted.append(self._slide([everyone.pick(members, heads, name)], recent[name], geometry))
        return parted
