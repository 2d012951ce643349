"""The elementwise work of a block in Triton, one launch each: what `fkv.fast.ops` does in several. Import it where Triton is installed.

Sums are taken in float32; what is stored is rounded once. Rows of up to 16384 numbers fit one program.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fkv.fast.slots import Slot

# Triton compiles these functions: what its annotations say of their arguments does not hold for callers.
# pyright: reportIndexIssue=false, reportAttributeAccessIssue=false, reportMissingImports=false
# pyright: reportGeneralTypeIssues=false, reportArgumentType=false, reportCallIssue=false


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
def _normed(x, weight, out, width, eps, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    a = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(a * a, 0) / width + eps)
    w = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row + column, (a * scale * w).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _pairs(x, some: tl.constexpr, wide: tl.constexpr):
    return tl.split(tl.reshape(x, (some, wide // 2, 2)))


@triton.jit
def _stored(
    qkv, weight, turn, place, q_out, first, second,
    length, heads, size, turn_row, turn_head, pair, eps,
    first_count, first_capacity, first_kept, first_side, second_count, second_capacity, second_kept, second_side,
    some: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    head, inner = tl.arange(0, some)[:, None], tl.arange(0, wide)[None, :]
    there, width = head < heads, heads * size
    inside, own = there & (inner < size), head * size + inner
    source = qkv + row * 3 * width + own
    cos, sin = _pairs(tl.load(turn + token * turn_row + head * turn_head + inner, mask=inside, other=0.0), some, wide)
    number = tl.load(place + head, mask=there, other=0)
    slot = tl.load(place + heads + head, mask=there, other=-1) - pair
    within = tl.load(place + 2 * heads + head, mask=there, other=0)
    in_first, in_second = inside & (slot == 0), inside & (slot == 1)
    to_q = q_out + (row * heads + number) * size + inner
    to_first = first + ((batch * first_count + within) * first_capacity + first_kept + token) * size + inner
    to_second = second + ((batch * second_count + within) * second_capacity + second_kept + token) * size + inner
    for which in tl.static_range(2):
        x = tl.load(source + which * width, mask=inside, other=0.0).to(tl.float32)
        scale = 1.0 / tl.sqrt(tl.sum(x * x) / width + eps)
        x *= scale * tl.load(weight + which * width + own, mask=inside, other=0.0).to(tl.float32)
        even, odd = _pairs(x, some, wide)
        x = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (some, wide)).to(q_out.dtype.element_ty)
        if which == 0:
            tl.store(to_q, x, mask=in_first | in_second)
        else:
            tl.store(to_first, x, mask=in_first)
            tl.store(to_second, x, mask=in_second)
    v = tl.load(source + 2 * width, mask=inside, other=0.0)
    tl.store(to_first + first_side, v, mask=in_first)
    tl.store(to_second + second_side, v, mask=in_second)


def warps(numbers: int) -> int:
    """How many warps share a row of so many numbers, a power of two: few enough numbers for each thread that they stay in registers."""
    return max(1, min(16, numbers // 256))


def residual_norm(x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`ops.residual_norm` in one launch; x and all tables must be contiguous."""
    out, width, gates = torch.empty_like(x), x.shape[-1], weight if gate is None else gate
    frames = max(len(table) if table.dim() > 1 else 1 for table in (gates, weight))
    block = triton.next_power_of_2(width)
    gate_step, norm_step = (width if table.dim() > 1 else 0 for table in (gates, weight))
    _residual_norm[(x.numel() // width,)](
        x, y.contiguous(), gates, weight, bias, out,
        width, x.shape[1], x.shape[1] // frames, gate_step, norm_step, eps, gate is not None, block, num_warps=warps(block),
    )  # fmt: skip
    return out


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`ops.normed` in one launch; x must be contiguous."""
    out, width = torch.empty_like(x), x.shape[-1]
    block = triton.next_power_of_2(width)
    _normed[(x.numel() // width,)](x, weight, out, width, eps, block, num_warps=warps(block))
    return out


def stored(qkv: Tensor, weight: Tensor, eps: float, turn: Tensor, slots: Sequence[Slot], place: Tensor) -> list[Tensor]:
    """Norms and rotates qkv [b, L, 3, h, d], writes the keys and values of every head into the room of its slot, and gives each slot's
    queries [b, its heads, L, d]. One launch for every two slots.

    weight [2, h * d]; turn complex [L, 1, 1 or h, d / 2]; place int32 [3, h], for every head: its number when the slots' heads follow one
    another, its slot, and its number there.
    """
    b, length, _, heads, size = qkv.shape
    angles = torch.view_as_real(turn)
    q = qkv.new_empty(b, length, heads, size)
    some, wide = triton.next_power_of_2(heads), triton.next_power_of_2(size)
    for pair in range(0, len(slots), 2):
        ends = slots[pair], slots[min(pair + 1, len(slots) - 1)]
        sizes = [number for slot in ends for number in (len(slot.members), slot.both.shape[3], slot.kept, slot.both.stride(0))]
        _stored[(b * length,)](
            qkv, weight, angles, place, q, ends[0].both, ends[1].both,
            length, heads, size, angles.stride(0), angles.stride(2) if turn.shape[2] > 1 else 0, pair, eps,
            *sizes, some, wide, num_warps=warps(some * wide),
        )  # fmt: skip
    return [part.transpose(1, 2) for part in q.split([len(slot.members) for slot in slots], dim=2)]
