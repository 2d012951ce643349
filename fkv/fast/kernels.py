"""The elementwise work of a block in Triton, one launch each: what `fkv.fast.ops` does in several. Import it where Triton is installed.

Sums are taken in float32; what is stored is rounded once. Rows of up to 16384 numbers fit one program.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fkv.fast.slots import Slot

# Triton compiles these functions: what its annotations say of their arguments does not hold for callers.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportMissingImports=false
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false


@triton.jit
def _residual_norm(
    x, y, gate, weight, bias, out, width, length, tokens, gate_step, norm_step, eps, gated: tl.constexpr, block: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    frame = row % length // tokens
    row, gate, weight, bias = row * width, gate + frame * gate_step, weight + frame * norm_step, bias + frame * norm_step
    column = tl.arange(0, block)
    inside = column < width
    a = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(y + row + column, mask=inside, other=0.0).to(tl.float32)
    if gated:
        b *= tl.load(gate + column, mask=inside, other=0.0).to(tl.float32)
    summed = (a + b).to(x.dtype.element_ty)
    tl.store(x + row + column, summed, mask=inside)
    a = summed.to(tl.float32)
    centred = tl.where(inside, a - tl.sum(a, 0) / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + column, (centred * scale * w + s).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _turn(even, odd, weight_even, weight_odd, scale, cos, sin):
    even = even * scale * weight_even
    odd = odd * scale * weight_odd
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def _stored(
    qkv, weight, turn, place, q_out, both,
    length, half, pairs, turn_row, turn_head, count, capacity, kept, side, eps,
    block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    pair = tl.arange(0, block)
    inside = pair < pairs
    head, inner = pair // half, pair % half
    wide = 2 * pairs
    source = qkv + row * 3 * wide + 2 * pair
    spot = turn + token * turn_row + head * turn_head + 2 * inner
    cos, sin = tl.load(spot, mask=inside, other=0.0), tl.load(spot + 1, mask=inside, other=0.0)
    there = tl.load(place + head, mask=inside, other=-1)
    ours = inside & (there >= 0)
    line = (batch * count + there).to(tl.int64)
    target_q = q_out + (line * length + token) * 2 * half + 2 * inner
    target = both + (line * capacity + kept + token) * 2 * half + 2 * inner
    for which in tl.static_range(2):
        even = tl.load(source + which * wide, mask=inside, other=0.0).to(tl.float32)
        odd = tl.load(source + which * wide + 1, mask=inside, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(even * even + odd * odd, 0) / wide + eps)
        weight_even = tl.load(weight + which * wide + 2 * pair, mask=inside, other=0.0).to(tl.float32)
        weight_odd = tl.load(weight + which * wide + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
        even, odd = _turn(even, odd, weight_even, weight_odd, scale, cos, sin)
        if which == 0:
            tl.store(target_q, even.to(q_out.dtype.element_ty), mask=ours)
            tl.store(target_q + 1, odd.to(q_out.dtype.element_ty), mask=ours)
        else:
            tl.store(target, even.to(both.dtype.element_ty), mask=ours)
            tl.store(target + 1, odd.to(both.dtype.element_ty), mask=ours)
    even = tl.load(source + 2 * wide, mask=inside, other=0.0)
    odd = tl.load(source + 2 * wide + 1, mask=inside, other=0.0)
    tl.store(target + side, even, mask=ours)
    tl.store(target + side + 1, odd, mask=ours)


def residual_norm(x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`ops.residual_norm` in one launch; x and all tables must be contiguous."""
    out, width, gates = torch.empty_like(x), x.shape[-1], weight if gate is None else gate
    frames = max(len(table) if table.dim() > 1 else 1 for table in (gates, weight))
    gate_step, norm_step = (width if table.dim() > 1 else 0 for table in (gates, weight))
    _residual_norm[(x.numel() // width,)](
        x, y.contiguous(), gates, weight, bias, out,
        width, x.shape[1], x.shape[1] // frames, gate_step, norm_step, eps, gate is not None, triton.next_power_of_2(width),
    )  # fmt: skip
    return out


def stored(qkv: Tensor, weight: Tensor, eps: float, turn: Tensor, slot: Slot, place: Tensor) -> Tensor:
    """Norms and rotates what a group's heads take from qkv [b, L, 3, h, d], writes keys and values into the room of its slot, and gives its
    queries [b, group's heads, L, d].

    weight [2, h * d]; turn complex [L, 1, 1 or h, d / 2]; place int32 [h] is a head's number in the group, -1 outside.
    """
    b, length, _, heads, size = qkv.shape
    angles = torch.view_as_real(turn)
    q = qkv.new_empty(b, len(slot.members), length, size)
    _stored[(b * length,)](
        qkv, weight, angles, place, q, slot.both,
        length, size // 2, heads * size // 2, angles.stride(0), angles.stride(2) if turn.shape[2] > 1 else 0,
        len(slot.members), slot.both.shape[3], slot.kept, slot.both.stride(0), eps,
        triton.next_power_of_2(heads * size // 2),
    )  # fmt: skip
    return q
