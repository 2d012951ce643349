"""What all heads look at, live and cheaply: some queries of a chunk, all keys, exact softmax for every query looked at.

One layer is looked at a time, for its sampled queries only; queries times keys of all heads at once never exist. Of every head stays its
attention per (frame, segment), its score with the standard error of the sample, the entropy, the share on the first frame, and the mean
attention per token, from which follows what another lane's cache covers of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fkv.cells import segments_of
from fkv.groups import HeadGroup
from fkv.probe import logits, sample_rows
from fkv.spec import Geometry

QUERIES, HALFLIFE = 24, 3.0


def token_ids(pos: Tensor, geometry: Geometry) -> Tensor:
    """Numbers [...] of positions [..., 3], counted frame by frame and row by row through the video."""
    return (pos[..., 0] * geometry.rows + pos[..., 1]) * geometry.columns + pos[..., 2]


@dataclass(frozen=True)
class Weights:
    """Mean attention [h, s] of heads `members` on the tokens `ids` [s] or [h, s], over the sampled queries."""

    members: tuple[int, ...]
    ids: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Surveyed:
    """One layer in one pass. bands [heads, frames, segments] is nan where a head sees nothing; the others [heads]."""

    frames: Tensor
    bands: Tensor
    score: Tensor
    error: Tensor
    entropy: Tensor
    sink: Tensor
    weights: tuple[Weights, ...]


class Survey:
    """A probe of whole layers. `queries` are sampled per head (None: all), stratified over the tokens of each frame, the same in every
    layer. The score leaves out `skip_first` key frames and counts the newest `chunk + 1`.
    """

    def __init__(
        self,
        geometry: Geometry,
        layers: Collection[int],
        *,
        queries: int | None = QUERIES,
        skip_first: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        self.geometry, self.wanted, self.skip_first = geometry, frozenset(layers), skip_first
        generator = generator or torch.Generator().manual_seed(0)
        self.rows = sample_rows(geometry.chunk * geometry.tokens, geometry.tokens, queries, generator)
        self.segments = segments_of(geometry)
        self.found: dict[int, Surveyed] = {}

    @torch.inference_mode()
    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None:
        """Takes the rotated queries and keys [b, h, L, d] of a chunk that starts at frame `start`, and what its heads keep. A joint pass
        over several chunks is left out: it has no newest frames to score."""
        if layer not in self.wanted or k.shape[2] != self.geometry.chunk * self.geometry.tokens:
            return
        geometry = self.geometry
        own = torch.arange(start * geometry.tokens, start * geometry.tokens + k.shape[2], device=k.device)
        q = q[:, :, self.rows.to(q.device)]
        parts: list[tuple[tuple[int, ...], Tensor, Tensor]] = []
        for group in past:
            held = token_ids(group.pos, geometry)
            ids = torch.cat((held, own.expand(*held.shape[:-1], -1)), dim=-1)
            some_q, some_k = (q, k) if group.members == tuple(range(q.shape[1])) else (q[:, group.heads], k[:, group.heads])
            parts.append((group.members, ids, torch.cat((logits(some_q, group.k), logits(some_q, some_k)), dim=-1)))
        left = sorted(set(range(q.shape[1])) - {head for members, _, _ in parts for head in members})
        if left:
            parts.append((tuple(left), own, logits(q[:, left], k[:, left])))
        self.found[layer] = self._gathered(parts, q.shape[1])

    def _gathered(self, parts: Sequence[tuple[tuple[int, ...], Tensor, Tensor]], heads: int) -> Surveyed:
        """Everything of a layer from the scores [b, h, Q, s] of its parts."""
        size = self.geometry.tokens // self.segments
        frames = torch.unique(torch.cat([ids.flatten() for _, ids, _ in parts]) // self.geometry.tokens)
        bands = torch.full((heads, len(frames), self.segments), torch.nan, device=frames.device)
        numbers = torch.full((4, heads), torch.nan, device=frames.device)
        weights = []
        for members, ids, scores in parts:
            attention = scores.softmax(dim=-1).transpose(0, 1).flatten(1, 2)
            column = torch.searchsorted(frames, ids // self.geometry.tokens) * self.segments + ids % self.geometry.tokens // size
            binned, visible = _binned(attention, column, len(frames) * self.segments)
            index = torch.tensor(members, device=frames.device)
            bands[index] = binned.mean(dim=1).where(visible, torch.nan).unflatten(1, (-1, self.segments))
            numbers[:, index] = self._numbers(*(part.unflatten(-1, (-1, self.segments)) for part in (binned, visible)))
            weights.append(Weights(members, ids, attention.mean(dim=1)))
        score, error, entropy, sink = numbers.unbind()
        return Surveyed(frames, bands, score, error, entropy, sink, tuple(weights))

    def _numbers(self, binned: Tensor, visible: Tensor) -> Tensor:
        """Score, its standard error, entropy and share on the first frame [4, h] of attention [h, Q, frames, segments] where it is
        visible [h, frames, segments]."""
        bins, visible = visible.sum(dim=(1, 2)), visible.any(dim=2)
        mass, rank = binned.sum(dim=3), visible.cumsum(dim=1)
        total, last = rank[:, -1:], self.geometry.chunk + 1
        new = (mass * (visible & (rank > total - last))[:, None]).sum(dim=2)
        rest = (mass * (visible & (rank > self.skip_first))[:, None]).sum(dim=2)
        enough = total[:, 0] > max(last, self.skip_first)
        score = new.sum(dim=1) / rest.sum(dim=1)
        n, whole = new.shape[1], self.geometry.chunk * self.geometry.tokens
        residual = (new - score[:, None] * rest).square().sum(dim=1) / max(n * (n - 1), 1)
        error = (residual * max(0.0, 1 - n / whole)).sqrt() / rest.mean(dim=1)
        flat = binned.flatten(2)
        entropy = -(flat * flat.clamp_min(1e-30).log()).sum(dim=2).mean(dim=1) / bins.clamp_min(2).log()
        first = (mass * (visible & (rank == 1))[:, None]).sum(dim=2).mean(dim=1)
        return torch.stack((score.where(enough, torch.nan), error.where(enough, torch.nan), entropy, first))


def _binned(attention: Tensor, column: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Sums [h, Q, columns] of attention [h, Q, s] over the tokens of each column [s] or [h, s], and which columns [h, columns] have any."""
    heads, queries, _ = attention.shape
    binned = attention.new_zeros(heads, queries, columns)
    visible = torch.zeros(heads, columns, dtype=torch.bool, device=attention.device)
    if column.dim() == 1:
        visible[:, column] = True
        return binned.index_add_(2, column, attention), visible
    visible.scatter_(1, column, True)
    return binned.scatter_add_(2, column[:, None].expand(-1, queries, -1), attention), visible


@torch.inference_mode()
def coverage(seen: Surveyed, held: Sequence[HeadGroup], geometry: Geometry) -> Tensor:
    """Share [heads] of each head's attention on tokens that `held`, another cache's groups of the same layer, holds for that head. The
    chunk being drawn is always held."""
    out = torch.zeros(len(seen.score), device=seen.score.device)
    first = (seen.frames[-1] + 1 - geometry.chunk) * geometry.tokens
    for part in seen.weights:
        left = set(part.members)
        for group in held:
            both = [head for head in part.members if head in group.members]
            left.difference_update(both)
            if both:
                rows, theirs = ([members.index(head) for head in both] for members in (part.members, group.members))
                there = _held(part.ids, rows, token_ids(group.pos, geometry), theirs) | (_rows(part.ids, rows) >= first)
                out[both] = (part.mean[rows] * there).sum(dim=1)
        if left:
            rows = [part.members.index(head) for head in sorted(left)]
            out[sorted(left)] = (part.mean[rows] * (_rows(part.ids, rows) >= first)).sum(dim=1)
    return out


def _rows(ids: Tensor, rows: list[int]) -> Tensor:
    """Ids [s] that all heads share, or those [h, s] of some rows."""
    return ids if ids.dim() == 1 else ids[rows]


def _held(ids: Tensor, rows: list[int], kept: Tensor, theirs: list[int]) -> Tensor:
    """Which ids are among those kept, [s] where all heads share both, else [h, s]."""
    if ids.dim() == kept.dim() == 1:
        return torch.isin(ids, kept)
    pairs = zip(_rows(ids, rows).expand(len(rows), -1), _rows(kept, theirs).expand(len(theirs), -1))
    return torch.stack([torch.isin(own, other) for own, other in pairs])


class Running:
    """Averages over chunks [layers, heads], in which what came `halflife` chunks ago counts half; nan where nothing came."""

    def __init__(self, layers: int, heads: int, halflife: float = HALFLIFE):
        self.halflife = halflife
        self.at = np.zeros(layers)
        self.weight, self.total, self.squares = (np.zeros((layers, heads)) for _ in range(3))

    def add(self, layer: int, chunk: int, values: np.ndarray, errors: np.ndarray | None = None) -> None:
        """One chunk's values [heads] of a layer, nan where there is none, and their standard errors."""
        fade, self.at[layer] = 0.5 ** ((chunk - self.at[layer]) / self.halflife), chunk
        known = np.isfinite(values)
        self.weight[layer] = fade * self.weight[layer] + known
        self.total[layer] = fade * self.total[layer] + np.where(known, values, 0)
        spread = 0 if errors is None else np.where(known, errors, 0) ** 2
        self.squares[layer] = fade**2 * self.squares[layer] + spread

    @property
    def mean(self) -> np.ndarray:
        return self._of(self.total)

    @property
    def error(self) -> np.ndarray:
        """Standard error of the mean by the errors given: that of sampling queries, not the spread over chunks."""
        return self._of(np.sqrt(self.squares))

    def _of(self, sums: np.ndarray) -> np.ndarray:
        return np.divide(sums, self.weight, out=np.full_like(sums, np.nan), where=self.weight > 0)
