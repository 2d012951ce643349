"""What the pocket codec draws with, arranged for speed: channels stay last in memory, and pixels are put in their place once, as bytes.

The same weights as `PocketCodec.forward_decoder`. The 1x1 convolutions give their numbers in the order in which they lie in a picture, so
that what two of them make can be added as it comes; the step from [-1, 1] to [0, 255] is in their weights. Sums are taken in another order,
so a byte may differ by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from fkv.codec.pocket import PocketCodec

RGB, GROUP, TILE = 3, 4, 4  # colours, pixel frames of a latent frame, pixels along a side of what the last convolution draws at once
WORDS = RGB * TILE // 4  # a tile's row in words of four bytes
LEVEL, MIDDLE = 127.5, 128.0  # [-1, 1] to [0, 255], with a half more, so that cutting off rounds

Layer = Callable[[Tensor], Tensor]


class Drawing:
    """Latents of this and the previous latent frame to pictures. Of a codec's 1x1 convolutions it holds copies, the others are the codec's
    own: one is made when the weights are as they are to stay.
    """

    def __init__(self, codec: PocketCodec) -> None:
        first, coarse, next_coarse, widen, _, fine, next_fine, swish, last, _ = codec.draw
        self.coarse: tuple[Layer, ...] = (first, coarse, next_coarse)
        self.fine: tuple[Layer, ...] = (fine, next_fine, swish)
        spread = torch.arange(out_channels(widen)).view(-1, 2, 2).permute(1, 2, 0)  # from (channel, down, across)
        tile = torch.arange(out_channels(last)).view(GROUP, RGB, TILE, TILE).permute(0, 2, 3, 1)
        cell = torch.arange(out_channels(codec.synthesis)).view(GROUP, RGB, 2, TILE, 2, TILE).permute(2, 4, 0, 3, 5, 1)
        self.widen = reordered(widen, spread)
        self.last = reordered(last, tile, LEVEL)
        self.base = reordered(codec.synthesis, cell, LEVEL, MIDDLE)

    def __call__(self, now: Tensor, earlier: Tensor) -> Tensor:
        """Latents as the codec's encoder leaves them, each [n, channels, rows, columns], to uint8 RGB [n, 4, height, width, 3]."""
        now, x = (one.contiguous(memory_format=torch.channels_last) for one in (now, torch.cat((now, earlier), dim=1)))
        for layer in self.coarse:
            x = layer(x)
        x = shuffled(self.widen(x))
        for layer in self.fine:
            x = layer(x)
        pictures = self.last(x).add_(shuffled(self.base(now))).clamp_(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
        return placed(pictures)


def out_channels(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Conv2d)
    return layer.out_channels


def reordered(layer: nn.Module, order: Tensor, scale: float = 1.0, shift: float = 0.0) -> Layer:
    """A 1x1 convolution whose output is scaled and shifted and comes in another order of channels; by oneDNN on a CPU that has it, which
    torch itself does not take for one thread.
    """
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    order = order.flatten().to(layer.weight.device)
    weight = (layer.weight.detach()[order] * scale).contiguous(memory_format=torch.channels_last)
    bias = layer.bias.detach()[order] * scale + shift
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return lambda x: torch.ops.aten.mkldnn_convolution.default(x, weight, bias, [0, 0], [1, 1], [1, 1], 1)
    return lambda x: F.conv2d(x, weight, bias)


def shuffled(x: Tensor) -> Tensor:
    """[n, 4c, h, w] with channels last in memory, ordered (down, across, channel), to [n, c, 2h, 2w], channels last."""
    cells = x.permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1)).permute(0, 1, 3, 2, 4, 5)
    return cells.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def placed(tiles: Tensor) -> Tensor:
    """Bytes [n, h, w, frames * 4 * 4 * 3], contiguous, to [n, frames, 4h, 4w, 3]. A tile's row is 12 bytes and moved as three words."""
    rows = tiles.view(torch.int32).unflatten(-1, (GROUP, TILE, WORDS)).permute(0, 3, 1, 4, 2, 5)
    return rows.contiguous().view(torch.uint8).flatten(4).unflatten(-1, (-1, RGB)).flatten(2, 3)
