"""What measuring finds out about attention heads: frozen plain data, no torch.

Lanes are called "A" (left) and "B" (right). Chunks and frames count from 0; *frame* is a latent frame. Layers and heads count from 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Lane = Literal["A", "B"]
Grid = tuple[tuple[float, ...], ...]  # [layers][heads]
Roles = tuple[tuple[int, ...], ...]  # the static heads of every layer

LANES: tuple[Lane, Lane] = ("A", "B")


@dataclass(frozen=True)
class Maps:
    """Attention of one head to each key frame, per lane: shares in [0, 1] that sum to 1, nan where the frame is not in that lane's cache.

    `frames` are absolute latent frame numbers, ascending; the last `chunk` of them are the chunk being drawn.
    """

    chunk: int
    layer: int
    head: int
    frames: tuple[int, ...]
    left: tuple[float, ...]
    right: tuple[float, ...]


@dataclass(frozen=True)
class Heads:
    """What every head of lane A looks at, from sampled queries of the last noisy pass of a chunk, each with its exact softmax.

    `frames` are key frames, ascending, the last `chunk` of them being drawn; `layers` were measured in this chunk, the others wait their
    turn. `share` float32 [layers measured, heads, key frames] and `bands` float32 [layers measured, heads, key frames, segments] are
    means over the queries, nan where a head cannot see the frame. The grids are running values over chunks with a half-life of
    `halflife` chunks, nan where never measured: head score and its standard error, entropy over (frame, segment) bins as a share of its
    largest value, share on the first frame, and coverage: the share of this attention that falls on tokens lane B still holds.
    `queries` were sampled per head and chunk. `static` is the class now in force in lane B. `probe_share` is the probe's time over the
    compute time so far, `covered` how many layers a chunk the governor now allows.
    """

    chunk: int
    frames: tuple[int, ...]
    layers: tuple[int, ...]
    share: np.ndarray
    bands: np.ndarray
    scores: Grid
    errors: Grid
    entropy: Grid
    sink: Grid
    coverage: Grid
    queries: int
    halflife: float
    static: Roles
    probe_share: float
    covered: int


@dataclass(frozen=True)
class Classes:
    """The static heads now in force in lane B, from `chunk` on, by `rule` and `overrides`; sent whenever they change."""

    chunk: int
    static: Roles
    rule: str
    overrides: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True)
class TokenMap:
    """Attention between one token and every token of the frames a head holds, exact for that head, pass and chunk.

    The token is (`row`, `column`) of `frame`. Toward "keys": `weights` float32 [frames, rows, columns] is where that query looks and sums
    to 1; `frames` are those that either lane holds. Toward "queries": it is the weight each query token of the chunk being drawn gives to
    that key, in [0, 1] each; `frames` are the query frames. nan where the lane does not hold the token. `share` is the sum per frame
    (toward keys) or the mean per query frame. `unseen`, toward keys, is the share of the same token's attention in lane A that falls on
    tokens lane B does not hold; nan where unknown.
    """

    chunk: int
    layer: int
    head: int
    lane: Lane
    frame: int
    row: int
    column: int
    toward: Literal["keys", "queries"]
    frames: tuple[int, ...]
    weights: np.ndarray
    share: tuple[float, ...]
    unseen: float


@dataclass(frozen=True)
class FrameMatrix:
    """Attention of one head by frames: `mass` float32 [query frames, key frames], all queries, rows sum to 1; nan where nothing is held."""

    chunk: int
    layer: int
    head: int
    frames: tuple[int, ...]
    queries: tuple[int, ...]
    mass: np.ndarray


@dataclass(frozen=True)
class FrameLook:
    """Attention of all tokens of one frame of the chunk being drawn, exact for that head, pass and chunk.

    `share` float32 [tokens, key frames], rows sum to 1, says where each token looks; `mean` float32 [key frames, rows, columns] is the mean
    of their maps, nan where the lane does not hold the token.
    """

    chunk: int
    layer: int
    head: int
    frame: int
    frames: tuple[int, ...]
    share: np.ndarray
    mean: np.ndarray
