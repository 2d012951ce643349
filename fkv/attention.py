"""The one home of attention kernels: torch's scaled_dot_product_attention, and a probe that says which of its backends run here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def scaled_dot(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Unmasked softmax attention with scale 1/sqrt(d): q [b, h, L, d] over k, v [b, h, s, d], giving [b, h, L, d]."""
    return F.scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True)
class Backend:
    """One attention kernel family: does it run on this device and dtype, and if not, in torch's words, why."""

    name: str
    works: bool
    reason: str = ""


def probe_backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 128) -> list[Backend]:
    """Tries every backend on a small unmasked call. The first of the list that works need not be the one torch picks."""
    q = torch.zeros(1, 1, 16, head_dim, device=device, dtype=dtype)
    found = []
    for name, backend in SDPBackend.__members__.items():
        if backend in (SDPBackend.ERROR, SDPBackend.OVERRIDEABLE):
            continue
        try:
            with sdpa_kernel(backend):
                scaled_dot(q, q, q)
            found.append(Backend(name.lower(), True))
        except RuntimeError as error:
            found.append(Backend(name.lower(), False, str(error).splitlines()[0]))
    return found
