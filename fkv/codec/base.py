"""What a codec is: it makes streaming decoders, one per lane."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Decoder(Protocol):
    """One lane's decoder; remembers what it needs between chunks."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [b, f, c, rows, columns] to uint8 RGB [b, frames, height, width, 3]."""
        ...


class Codec(Protocol):
    """Makes decoders. `encode` turns uint8 RGB [b, n, height, width, 3] into latents [b, f, c, rows, columns]."""

    def decoder(self) -> Decoder: ...

    def encode(self, frames: Tensor) -> Tensor: ...


def to_bytes(pixels: Tensor) -> Tensor:
    """RGB [b, n, 3, height, width] in [0, 1], clamped, to uint8 [b, n, height, width, 3]."""
    return pixels.float().clamp(0, 1).mul(255).round().to(torch.uint8).movedim(2, -1)


def to_pixels(frames: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """uint8 RGB [b, n, height, width, 3] to [b, n, 3, height, width] in [0, 1]."""
    return frames.to(device).movedim(-1, 2).to(dtype).div(255)
