"""Muon (Jordan et al., 2024): momentum whose update is made nearly orthogonal, for the matrices inside a network.

Written here because the one in torch orthogonalises one matrix at a time in bfloat16, which is slow on processors without bfloat16 units:
this one stacks matrices of equal shape and works in float32. Step size is matched to AdamW's root-mean-square (Liu et al., arXiv
2502.16982).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(stack: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices of a stack [n, rows, columns], by a quintic Newton-Schulz iteration (singular values end in 0.7 to
    1.2)."""
    a, b, c = COEFFICIENTS
    wide = stack.shape[-1] >= stack.shape[-2]
    x = stack if wide else stack.mT
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """lr is in AdamW's units; every parameter must be a matrix."""

    def __init__(self, params: Iterable[Tensor], lr: float = 2e-3, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    alike[tuple(param.shape)].append(param)
            for shape, params in alike.items():
                updates = []
                for param in params:
                    grad = param.grad
                    assert grad is not None
                    buffer = self.state[param].setdefault("momentum", torch.zeros_like(param))
                    buffer.lerp_(grad, 1 - group["momentum"])
                    updates.append(torch.lerp(grad, buffer, group["momentum"]))
                turned = orthogonal(torch.stack(updates)) * (0.2 * max(shape) ** 0.5 * group["lr"])
                for param, update in zip(params, turned):
                    param.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update)
