"""Whether the fused kernels may be used: where they run on the device and agree with the same work in torch; else it is said why not."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from fkv.fast import ops
from fkv.fast.slots import Slot, placed
from fkv.spec import WanConfig

AGREEMENT = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}  # of the largest value


class Kernels(Protocol):
    """The fused steps of a block; see `fkv.fast.kernels`."""

    def residual_norm(self, x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor: ...

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor: ...

    def stored(self, qkv: Tensor, weight: Tensor, eps: float, turn: Tensor, slots: Sequence[Slot], place: Tensor) -> list[Tensor]: ...


def fused(config: WanConfig, dtype: torch.dtype, device: torch.device) -> tuple[Kernels | None, str]:
    """The kernels and "", or None and the reason."""
    try:
        kernels = cast(Kernels, import_module("fkv.fast.kernels"))
        with torch.inference_mode():
            apart = difference(kernels, config, dtype, device)
    except Exception as error:
        return None, (str(error).strip() or type(error).__name__).splitlines()[0]
    allowed = AGREEMENT.get(dtype, 1e-4)
    return (kernels, "") if apart <= allowed else (None, f"differs from torch by {apart:.1e}, {allowed:.0e} is allowed")


def difference(kernels: Kernels, config: WanConfig, dtype: torch.dtype, device: torch.device, length: int = 12) -> float:
    """Largest difference between the kernels and torch on random numbers of about 1, at the sizes of a network, as a share of the largest
    value.
    """
    drawn = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, device=device, dtype=torch.float32).to(dtype)

    heads, size, kept = config.heads, config.head_dim, 3
    x, y, gate, weight, bias = draw(1, length, config.dim), draw(1, length, config.dim), *draw(3, config.dim)
    (gates, weights, biases), pairs = draw(3, 2, config.dim), list[tuple[Tensor, Tensor]]()  # tables of two frames
    for g, w, b in ((gate, weight, bias), (None, weight, bias), (gates, weights, biases), (gates, weight, bias), (None, weights, biases)):
        ours, theirs = x.clone(), x.clone()
        pairs += [(kernels.residual_norm(ours, y, g, w, b, 1e-6), ops.residual_norm(theirs, y, g, w, b, 1e-6)), (ours, theirs)]
    pairs.append((kernels.normed(x.clone(), weight, 1e-6), ops.normed(x.clone(), weight, 1e-6)))
    ours, theirs = ([_slot(every, kept, length, config, dtype, device) for every in parted(heads)] for _ in "ab")
    qkv, norm = draw(2, length, 3, heads, size), draw(2, config.dim)
    turn = ops.cis(ops.rotation(5, 1, 1, length, size, device), heads)
    queries = kernels.stored(qkv, norm, 1e-6, turn, ours, placed(ours, heads))
    whole = ops.turned(qkv.clone(), norm, 1e-6, turn)
    pairs += [(q, ops.stored(whole, slot)) for q, slot in zip(queries, theirs, strict=True)]
    pairs += [(one.both, other.both) for one, other in zip(ours, theirs)]
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)


def parted(heads: int) -> list[tuple[int, ...]]:
    """Heads in three scattered groups, or as many as there are heads."""
    return [tuple(range(first, heads, 3)) for first in range(min(3, heads))]


def _slot(members: tuple[int, ...], kept: int, length: int, config: WanConfig, dtype: torch.dtype, device: torch.device) -> Slot:
    shape = (2, 2, len(members), kept + members[0] + length, config.head_dim)  # of another size in every group
    return Slot(torch.zeros(shape, dtype=dtype, device=device), kept + members[0], torch.tensor(members, device=device), members)
