"""Rotary position embedding over three axes: latent frame, token row, token column.

The head dimension d splits into d - 4*(d//6) real dimensions for time and 2*(d//6) each for row and column; pairs are interleaved
(x[2j], x[2j+1]) and turned by position * 10000^(-2j/p) inside a part of size p (Wan 2.1, arXiv 2503.20314; RoPE, arXiv 2104.09864).
Angles are computed, not read from a table, so the number of frames has no limit.
"""

from __future__ import annotations

import torch
from torch import Tensor


def parts(head_dim: int) -> tuple[int, int, int]:
    """Real dimensions that encode (frame, row, column)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def grid(start: int, frames: int, rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """Positions of a run of frames, frame-major then row-major: [frames * rows * columns, 3] of (frame, row, column)."""
    axes = (torch.arange(first, end, device=device) for first, end in ((start, start + frames), (0, rows), (0, columns)))
    return torch.cartesian_prod(*axes)


def rotation(pos: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each [..., head_dim / 2] float32, of positions [..., 3]. Computed in float64."""
    angles = []
    for axis, part in enumerate(parts(head_dim)):
        exponents = torch.arange(0, part, 2, dtype=torch.float64, device=pos.device) / max(part, 1)
        angles.append(pos[..., axis, None].double() * 10000.0**-exponents)
    turned = torch.cat(angles, dim=-1)
    return turned.cos().float(), turned.sin().float()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """x [..., s, head_dim] turned by `rotation` [s, head_dim / 2] (broadcast over leading axes), in float32, returned in x's dtype."""
    cos, sin = rotation
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
