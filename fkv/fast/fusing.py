"""Whether the fused kernels may be used: where they run on the device and agree with the same work in torch; else it is said why not."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

from fkv.fast import ops
from fkv.fast.slots import Slot
from fkv.spec import WanConfig

AGREEMENT = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}  # of the largest value


class Kernels(Protocol):
    """The two fused steps of a block; see `fkv.fast.kernels`."""

    def residual_norm(self, x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor: ...

    def stored(self, qkv: Tensor, weight: Tensor, eps: float, turn: Tensor, slot: Slot, place: Tensor) -> Tensor: ...


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
    members = tuple(range(0, heads, 2))
    numbers = torch.tensor(members, device=device)
    place = torch.full((heads,), -1, dtype=torch.int32, device=device)
    place[numbers] = torch.arange(len(members), dtype=torch.int32, device=device)
    slots = [Slot(torch.zeros(2, 1, len(members), kept + length, size, device=device, dtype=dtype), kept, numbers, members) for _ in "ab"]
    qkv, norm = draw(1, length, 3, heads, size), draw(2, config.dim)
    turn = ops.cis(ops.rotation(5, 1, 1, length, size, device), heads)
    q = kernels.stored(qkv, norm, 1e-6, turn, slots[0], place)
    pairs.append((q, ops.stored(ops.turned(qkv.clone(), norm, 1e-6, turn), slots[1])))
    pairs.append((slots[0].both, slots[1].both))
    return max(float((a.float() - b.float()).abs().max() / b.float().abs().max()) for a, b in pairs)
