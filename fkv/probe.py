"""Attention measured beside the fast kernel: how much of each head's attention falls on each key frame.

Exact softmax for every query looked at, over all keys its head sees; summed over the tokens of a key frame, averaged over the queries of a
query frame. Queries may be sampled (stratified over the tokens of a frame); keys never are. Nothing the network computes is touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fkv.groups import HeadGroup
from fkv.spec import Geometry

AT_ONCE = 2**26  # scores looked at together, a quarter of a gibibyte


def framewise(attention: Tensor, tokens: int) -> Tensor:
    """Frame map [..., query frames, key frames] of a token map [..., queries, keys]: mean over queries, sum over keys."""
    return attention.unflatten(-1, (-1, tokens)).sum(-1).unflatten(-2, (-1, tokens)).mean(-2)


def sample_rows(length: int, tokens: int, queries: int | None, generator: torch.Generator) -> Tensor:
    """Sampled query rows of `length` ones, the same number in every frame of `tokens`, one from each of equally long stretches of it; all
    for `queries` None.
    """
    frames = length // tokens
    each = tokens if queries is None else min(tokens, max(1, queries // frames))
    if each == tokens:
        return torch.arange(length)
    drawn = torch.rand(frames, each, generator=generator)
    within = ((torch.arange(each) + drawn) * (tokens / each)).long().clamp(max=tokens - 1)
    return (within + tokens * torch.arange(frames)[:, None]).flatten()


def logits(q: Tensor, k: Tensor) -> Tensor:
    """Scaled scores [b, h, Q, s] in float32 of q [b, h, Q, d] on k [b, h, s, d]; narrower types are widened one head at a time."""
    if k.dtype == torch.float32:
        return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    heads = [q[:, head].float() @ k[:, head].float().transpose(-1, -2) for head in range(q.shape[1])]
    return torch.stack(heads, dim=1) * q.shape[-1] ** -0.5


@dataclass(frozen=True)
class FrameMap:
    """Share of attention [heads, query frames, key frames] of one layer in one pass, and the latent frame of every column.

    A row sums to 1 over the frames its head can see; a frame a head sees nothing of is NaN.
    """

    frames: Tensor
    mass: Tensor

    @property
    def share(self) -> Tensor:
        """[heads, key frames], averaged over the query frames."""
        return self.mass.mean(dim=1)


class FrameProbe:
    """Looks at the noisy passes of the steps it is handed to.

    layers: which layers to map, all heads each (None: every layer). head: one (layer, head) mapped with all its queries, as `pinned`.
    queries: how many per pass and head are looked at (None: all). passes: which passes of a step, from 0 (None: every pass).
    Raises ValueError for a layer or head the model does not have.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        layers: Collection[int] | None = None,
        head: tuple[int, int] | None = None,
        queries: int | None = 24,
        passes: Collection[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.geometry, self.head, self.queries, self.passes = geometry, head, queries, passes
        self.layers = frozenset(range(geometry.layers) if layers is None else layers)
        self.generator = generator or torch.Generator().manual_seed(0)
        if any(not 0 <= layer < geometry.layers for layer in self.wanted):
            raise ValueError(
                f"layers {sorted(self.wanted)} are asked for, the model has layers 0..{geometry.layers - 1}; choose among them"
            )
        if head and not 0 <= head[1] < geometry.heads:
            raise ValueError(f"head {head[1]} is asked for, the model has heads 0..{geometry.heads - 1}; choose among them")
        self.clear()

    def clear(self) -> None:
        """Forgets what was seen; call it before each step."""
        self._maps: dict[int, list[FrameMap]] = {}
        self._pinned: list[FrameMap] = []
        self._calls: dict[int, int] = {}

    @property
    def wanted(self) -> frozenset[int]:
        """Layers it looks at."""
        return self.layers | ({self.head[0]} if self.head else frozenset())

    @property
    def seen(self) -> list[int]:
        """Layers that have a map, in order."""
        return sorted(self._maps)

    def map(self, layer: int) -> FrameMap:
        """The layer's map, averaged over the passes seen. Raises KeyError where none was."""
        return _mean(self._maps[layer])

    def per_pass(self, layer: int) -> list[FrameMap]:
        return list(self._maps[layer])

    @property
    def pinned(self) -> FrameMap | None:
        """The map [1, query frames, key frames] of the pinned head, averaged over the passes seen."""
        return _mean(self._pinned) if self._pinned else None

    @torch.inference_mode()
    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None:
        """Takes the rotated queries and keys [b, h, L, d] of a chunk that starts at frame `start`, and what its heads keep."""
        number = self._calls.get(layer, 0)
        self._calls[layer] = number + 1
        if self.passes is not None and number not in self.passes:
            return
        if layer in self.layers:
            rows = sample_rows(q.shape[2], self.geometry.tokens, self.queries, self.generator).to(q.device)
            self._maps.setdefault(layer, []).append(self._look(q[:, :, rows], k, past, start, tuple(range(q.shape[1]))))
        if self.head and self.head[0] == layer:
            head = self.head[1]
            index = torch.tensor([head], device=q.device)
            own = [group.pick((head,), index, group.name) for group in past if head in group.members]
            self._pinned.append(self._look(q[:, head : head + 1], k[:, head : head + 1], own, start, (head,)))

    def _look(self, q: Tensor, k: Tensor, past: Sequence[HeadGroup], start: int, members: tuple[int, ...]) -> FrameMap:
        """Map of heads `members`, whose queries [b, h, Q, d] hold equally many of every frame of the chunk."""
        frames = k.shape[2] // self.geometry.tokens
        own = torch.arange(start, start + frames, device=k.device)
        known = torch.unique(torch.cat([own, *(group.pos[..., 0].flatten() for group in past)]))
        new = torch.searchsorted(known, own.repeat_interleave(self.geometry.tokens))
        mass = torch.full((len(members), frames, len(known)), torch.nan, device=q.device)
        left = set(members)
        for group in past:
            rows = [members.index(head) for head in group.members]
            left.difference_update(group.members)
            kept = torch.searchsorted(known, group.pos[..., 0].contiguous()).expand(len(rows), -1)
            column = torch.cat((kept, new.expand(len(rows), -1)), dim=1)
            mass[rows] = _mass(q[:, rows], torch.cat((group.k, k[:, rows]), dim=2), column, mass[rows])
        if left:
            rows = [members.index(head) for head in sorted(left)]
            mass[rows] = _mass(q[:, rows], k[:, rows], new.expand(len(rows), -1), mass[rows])
        return FrameMap(known, mass)


def _mass(q: Tensor, k: Tensor, column: Tensor, empty: Tensor) -> Tensor:
    """Softmax mass of q [b, h, Q, d] on the tokens k [b, h, s, d] of every `column` [h, s]; NaN where a column has no token."""
    frames = empty.shape[1]
    per_frame = torch.zeros(*empty.shape[:2], k.shape[2], device=q.device)
    for frame, rows in enumerate(q.chunk(frames, dim=2)):
        for some in rows.split(max(1, AT_ONCE // (q.shape[0] * q.shape[1] * k.shape[2])), dim=2):
            per_frame[:, frame] += torch.softmax(logits(some, k), dim=-1).mean(dim=0).sum(dim=1) / rows.shape[2]
    index = column[:, None].expand_as(per_frame)
    summed = torch.zeros_like(empty).scatter_add_(2, index, per_frame)
    visible = torch.zeros_like(empty, dtype=torch.bool).scatter_(2, index, True)
    return summed.where(visible, torch.nan)


def _mean(maps: list[FrameMap]) -> FrameMap:
    return FrameMap(maps[0].frames, torch.stack([seen.mass for seen in maps]).mean(dim=0))
