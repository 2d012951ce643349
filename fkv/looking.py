"""Where one token of one head looks, on demand: queries and keys of the heads on show, kept for the newest chunks of both lanes.

They are taken after the rotation in the last noisy pass, as they are, so that what is computed from them later is what that head did.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from fkv.findings import LANES, FrameLook, FrameMatrix, Lane, TokenMap
from fkv.groups import HeadGroup
from fkv.spec import Geometry
from fkv.survey import token_ids

BOUND = 256_000_000  # bytes of queries and keys kept for looking, of all heads and chunks of a run
AT_ONCE = 256
Toward = Literal["keys", "queries"]
Head = tuple[int, int]


@dataclass(frozen=True)
class Shot:
    """One head in one pass, on the CPU: queries q [L, d] of the chunk that starts at frame `start`, keys k [s, d] of the tokens `ids` [s],
    which count through the video; the chunk's own come last."""

    start: int
    q: Tensor
    k: Tensor
    ids: Tensor

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.q, self.k, self.ids))

    def attention(self, rows: Tensor) -> Tensor:
        """Exact attention [rows, s] of some queries, float32."""
        return torch.softmax(self.q[rows].float() @ self.k.float().T * self.q.shape[1] ** -0.5, dim=-1)


class Keeper:
    """A probe that takes shots of some heads of a model."""

    def __init__(self, geometry: Geometry, heads: Collection[Head]) -> None:
        self.geometry, self.heads = geometry, frozenset(heads)
        self.wanted = frozenset(layer for layer, _ in heads)
        self.shots: dict[Head, Shot] = {}

    @torch.inference_mode()
    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None:
        """Takes the rotated queries and keys [b, h, L, d] of a pass that starts at frame `start`, and what its heads keep. Of a joint pass
        over several chunks the queries of the first are taken."""
        tokens = self.geometry.tokens
        own = torch.arange(start * tokens, start * tokens + k.shape[2], device=k.device)
        for head in (head for place, head in self.heads if place == layer):
            keys, ids = [k[0, head]], [own]
            for group in (group for group in past if head in group.members):
                row = group.members.index(head)
                keys.insert(0, group.k[0, row])
                ids.insert(0, token_ids(group.pos if group.pos.dim() == 2 else group.pos[row], self.geometry))
            taken = (q[0, head, : self.geometry.chunk * tokens].clone(), torch.cat(keys), torch.cat(ids))
            self.shots[layer, head] = Shot(start, *(part.cpu() for part in taken))


class Looks:
    """The shots of the newest chunks, `bound` bytes of them at most and of one chunk at least, and what follows from them; `take` by the
    session, the rest from any thread, one at a time.
    """

    def __init__(self, geometry: Geometry, bound: int = BOUND) -> None:
        self.geometry, self.bound = geometry, bound
        self._guard, self._turn = threading.Lock(), threading.Lock()
        self._kept: dict[int, dict[tuple[Lane, Head], Shot]] = {}

    def take(self, chunk: int, shots: dict[tuple[Lane, Head], Shot]) -> None:
        """One chunk's shots of all lanes; the oldest chunks beyond the bound go."""
        with self._guard:
            kept, left = {**self._kept, chunk: shots}, self.bound
            self._kept = {}
            for number in sorted(kept, reverse=True):
                left -= sum(shot.nbytes for shot in kept[number].values())
                if left < 0 and self._kept:
                    break
                self._kept[number] = kept[number]

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        with self._guard:
            return sum(shot.nbytes for shots in self._kept.values() for shot in shots.values())

    def chunks(self, layer: int, head: int) -> tuple[int, ...]:
        """Chunks in which this head of lane A can be looked at, in order."""
        with self._guard:
            return tuple(sorted(number for number, shots in self._kept.items() if ("A", (layer, head)) in shots))

    @property
    def newest(self) -> int:
        """The newest kept chunk; -1 where none is."""
        with self._guard:
            return max(self._kept, default=-1)

    @property
    def heads(self) -> tuple[Head, ...]:
        """Heads of lane A in the newest kept chunk, in order."""
        with self._guard:
            newest = self._kept.get(max(self._kept, default=-1), {})
            return tuple(sorted(head for lane, head in newest if lane == "A"))

    def still(self) -> Looks | None:
        """Lane A in the newest kept chunk by itself: it stays when newer chunks come. None before there is one."""
        with self._guard:
            newest = max(self._kept, default=-1)
            shots = {place: shot for place, shot in self._kept.get(newest, {}).items() if place[0] == "A"}
        if not shots:
            return None
        alone = Looks(self.geometry)
        alone.take(newest, shots)
        return alone

    @torch.inference_mode()
    def overview(self, layer: int, head: int) -> FrameLook:
        """Where every token of the newest frame of the newest kept chunk looks in lane A. Raises ValueError with the cure."""
        geometry, tokens = self.geometry, self.geometry.tokens
        chunk, shots = self._of((layer, head), "A", None)
        shot = shots["A"]
        frames = _frames([shot], geometry)
        column = torch.searchsorted(torch.tensor(frames), shot.ids // tokens)
        share, mean = torch.zeros(tokens, len(frames)), torch.zeros(len(shot.ids))
        with self._turn:
            for rows in torch.arange(tokens).split(AT_ONCE):
                found = shot.attention(len(shot.q) - tokens + rows)
                share[rows] = torch.zeros(len(rows), len(frames)).index_add_(1, column, found)
                mean += found.sum(dim=0) / tokens
        newest = shot.start + geometry.chunk - 1
        return FrameLook(chunk, layer, head, newest, frames, share.numpy(), _placed(shot.ids, mean, frames, geometry))

    @torch.inference_mode()
    def look(
        self,
        layer: int,
        head: int,
        frame: int,
        row: int,
        column: int,
        *,
        lane: Lane = "A",
        toward: Toward = "keys",
        chunk: int | None = None,
    ) -> TokenMap:
        """Where the token (row, column) of `frame` looks, toward "keys", or what looks at it, toward "queries".

        Toward keys the frame is one of a kept chunk; toward queries it is any frame held in `chunk` (None: the newest kept). Raises
        ValueError with the cure.
        """
        geometry = self.geometry
        self._check(lane, toward, row, column)
        if chunk is None and toward == "keys":
            chunk = frame // geometry.chunk
        chunk, shots = self._of((layer, head), lane, chunk)
        shot, token = shots[lane], (frame * geometry.rows + row) * geometry.columns + column
        frames = _frames(shots.values(), geometry)
        if frame not in frames or (toward == "keys" and not shot.start <= frame < shot.start + geometry.chunk):
            there = frames if toward == "queries" else (shot.start, shot.start + geometry.chunk - 1)
            raise ValueError(f"frame {frame} is not to be seen in chunk {chunk + 1}; choose one of frames {there[0]}..{there[-1]}")
        about = (chunk, layer, head, lane, frame, row, column, toward)
        with self._turn:
            if toward == "keys":
                query = token - shot.start * geometry.tokens
                weights = _placed(shot.ids, shot.attention(torch.tensor([query]))[0], frames, geometry)
                held = ~np.isnan(weights).all(axis=(1, 2))
                share = np.where(held, np.nansum(weights, axis=(1, 2)), np.nan)
                return TokenMap(*about, frames, weights, tuple(share.tolist()), _unseen(shots, query))
            frames = tuple(range(shot.start, shot.start + geometry.chunk))
            weights = self._attended(shot, token)
            return TokenMap(*about, frames, weights, tuple(weights.mean(axis=(1, 2)).tolist()), float("nan"))

    @torch.inference_mode()
    def pooled(self, layer: int, head: int, *, lane: Lane = "A", chunk: int | None = None) -> FrameMatrix:
        """Attention of a head by frames, all queries, in `chunk` (None: the newest kept). Raises ValueError with the cure."""
        self._check(lane, "keys", 0, 0)
        geometry = self.geometry
        chunk, shots = self._of((layer, head), lane, chunk)
        shot, frames = shots[lane], _frames(shots.values(), geometry)
        column = torch.searchsorted(torch.tensor(frames), shot.ids // geometry.tokens)
        mass = torch.zeros(geometry.chunk, len(frames))
        with self._turn:
            for rows in torch.arange(len(shot.q)).split(AT_ONCE):
                binned = torch.zeros(len(rows), len(frames)).index_add_(1, column, shot.attention(rows))
                mass.index_add_(0, rows // geometry.tokens, binned / geometry.tokens)
        unheld = torch.ones(len(frames), dtype=torch.bool).index_fill_(0, column, False)
        queries = tuple(range(shot.start, shot.start + geometry.chunk))
        return FrameMatrix(chunk, layer, head, frames, queries, mass.masked_fill(unheld, torch.nan).numpy())

    def _attended(self, shot: Shot, token: int) -> np.ndarray:
        """Weight [frames, rows, columns] that each query of a chunk gives to one token; nan where it is not held."""
        grid = (self.geometry.chunk, self.geometry.rows, self.geometry.columns)
        places = (shot.ids == token).nonzero().flatten()
        if not len(places):
            return np.full(grid, np.nan, np.float32)
        rows = torch.arange(len(shot.q)).split(AT_ONCE)
        return torch.cat([shot.attention(some)[:, places].sum(dim=1) for some in rows]).reshape(grid).numpy()

    def _check(self, lane: str, toward: str, row: int, column: int) -> None:
        if lane not in LANES:
            raise ValueError(f"lane {lane!r} is unknown; use A or B")
        if toward not in get_args(Toward):
            raise ValueError(f"direction {toward!r} is unknown; use keys or queries")
        for name, number, count in (("row", row, self.geometry.rows), ("column", column, self.geometry.columns)):
            if not 0 <= number < count:
                raise ValueError(f"{name} {number} is asked for, a frame has {name}s 0..{count - 1}; choose among them")

    def _of(self, head: Head, lane: Lane, chunk: int | None) -> tuple[int, dict[Lane, Shot]]:
        """The chunk meant, and both lanes' shots of the head in it."""
        with self._guard:
            kept = self._kept
        numbers = sorted(number for number, shots in kept.items() if (lane, head) in shots)
        if not numbers:
            pin = f"head {head[1]} of layer {head[0]} has not been kept in lane {lane}"
            raise ValueError(f"{pin}; show or pin it, its turn comes within a few chunks")
        chunk = numbers[-1] if chunk is None else chunk
        if chunk not in numbers:
            why = (
                "is not measured yet"
                if chunk > numbers[-1]
                else "was not measured, the probe's time went elsewhere or the head was not pinned"
                if chunk > min(kept)
                else f"is out of reach, {self.bound // 1_000_000} MB of queries and keys are kept"
            )
            first, last = numbers[0] * self.geometry.chunk, (numbers[-1] + 1) * self.geometry.chunk - 1
            raise ValueError(
                f"head {head[1]} of layer {head[0]} in chunk {chunk + 1} {why}; choose a frame of {spelled(numbers)} "
                f"(frames {first}..{last})"
            )
        return chunk, {place: shot for (place, of), shot in kept[chunk].items() if of == head}


def spelled(chunks: Collection[int]) -> str:
    """Chunks as a person counts them, from 1, runs drawn together: (4,) -> "chunk 5", (0, 1, 2, 5) -> "chunks 1-3, 6"."""
    runs: list[list[int]] = []
    for number in sorted(chunks):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    text = ", ".join(f"{low + 1}-{high + 1}" if high > low else f"{low + 1}" for low, high in runs)
    return f"chunk{'s' if len(chunks) > 1 else ''} {text}"


def _frames(shots: Collection[Shot], geometry: Geometry) -> tuple[int, ...]:
    return tuple(sorted({int(frame) for shot in shots for frame in torch.unique(shot.ids // geometry.tokens)}))


def _placed(ids: Tensor, weights: Tensor, frames: tuple[int, ...], geometry: Geometry) -> np.ndarray:
    """Weights [s] of the tokens `ids` on a grid [frames, rows, columns]; nan where there is no token."""
    grid = torch.full((len(frames), geometry.tokens), torch.nan)
    place = torch.searchsorted(torch.tensor(frames), ids // geometry.tokens)
    grid[place, ids % geometry.tokens] = weights
    return grid.unflatten(1, (geometry.rows, geometry.columns)).numpy()


def _unseen(shots: dict[Lane, Shot], query: int) -> float:
    """Share of a query's attention in lane A that falls on tokens lane B does not hold; nan unless both are kept."""
    if len(shots) < len(LANES):
        return float("nan")
    dense = shots["A"]
    return float(dense.attention(torch.tensor([query]))[0][~torch.isin(dense.ids, shots["B"].ids)].sum())
