"""The elementwise work of a block, in torch: on every device what `fkv.fast.kernels` does in one launch each. For inference: in place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fkv import rope
from fkv.fast.slots import Slot

Turn = tuple[Tensor, Tensor]


def cis(turn: Turn, heads: int) -> Tensor:
    """Complex rotation [L, 1, heads or 1, d / 2] of a cosine and sine [L, d / 2]; on a CPU written out for every head, whose loops are then
    long enough to be worth a vector unit.
    """
    whole = torch.complex(*turn)[:, None, None]
    return whole.expand(-1, -1, heads, -1).contiguous() if whole.device.type == "cpu" else whole


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, float32, kept as a dimension of 1."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS-normed x [..., D], in place in float32."""
    if x.dtype == torch.float32:
        return x.mul_(inverse_rms(x, eps)).mul_(weight)
    return (x.float() * inverse_rms(x, eps)).to(x.dtype) * weight


def turned(qkv: Tensor, weight: Tensor, eps: float, rotation: Tensor) -> Tensor:
    """qkv [b, L, 3, h, d] with its queries and keys RMS-normed over all heads, scaled by weight [2, h * d] and rotated, in place.

    Other dtypes than float32 are normed and rotated in float32 and rounded once.
    """
    both = qkv[:, :, :2]
    flat = both.flatten(3)
    if qkv.dtype == torch.float32:
        flat.mul_(inverse_rms(flat, eps)).mul_(weight)
        torch.view_as_complex(both.unflatten(-1, (-1, 2))).mul_(rotation)
        return qkv
    wide = (flat.float() * inverse_rms(flat, eps) * weight).unflatten(-1, both.shape[3:]).unflatten(-1, (-1, 2))
    both.copy_(torch.view_as_real(torch.view_as_complex(wide) * rotation).flatten(-2))
    return qkv


def stored(qkv: Tensor, slot: Slot) -> Tensor:
    """Writes keys and values of a group's heads, out of a rotated qkv [b, L, 3, h, d], into the room of its slot; gives its queries
    [b, group's heads, L, d].
    """
    own = slot.of(qkv, 3).permute(2, 0, 3, 1, 4)
    slot.current(qkv.shape[1]).copy_(own[1:])
    return own[0]


def residual_norm(x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Adds y (times gate) to x [b, L, D], in place, and gives x layer-normed, times weight, plus bias: each [D], or [f, D] for f frames of
    L / f tokens.
    """
    if gate is None:
        x.add_(y)
    elif gate.dim() == 1:
        x.addcmul_(y, gate)
    else:
        x.unflatten(1, (len(gate), -1)).addcmul_(y.unflatten(1, (len(gate), -1)), gate[:, None])
    return layer_norm(x, weight, bias, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x [b, L, D] layer-normed, times weight, plus bias: each [D], or [f, D] for f frames of L / f tokens."""
    if weight.dim() == 1:
        return F.layer_norm(x, (x.shape[-1],), weight, bias, eps)
    frames = F.layer_norm(x, (x.shape[-1],), eps=eps).unflatten(1, (len(weight), -1))
    return torch.addcmul(bias[:, None], frames, weight[:, None]).flatten(1, 2)


def rotation(start: int, frames: int, rows: int, columns: int, head_dim: int, device: torch.device) -> Turn:
    """Cosine and sine [L, d / 2] of a run of frames."""
    return rope.rotation(rope.grid(start, frames, rows, columns, device), head_dim)
