"""The pocket codec's fast drawing: the same pictures as the readable decoder, in every place and however they are laid out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fkv.codec import PocketCodec, load_pocket, pocket_random
from fkv.codec.drawing import placed, shuffled
from fkv.engine import ROOT
from fkv.spec import POCKET


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def alive(codec: PocketCodec) -> PocketCodec:
    """With a last layer that is not zero, as it is before any training."""
    for parameter in codec.draw[-2].parameters():
        parameter.data = 0.1 * noise(*parameter.shape)
    return codec


@torch.no_grad()
def readable(codec: PocketCodec, latents: Tensor) -> Tensor:
    """Pictures [b, n, height, width, 3] of a video's first latents, as `forward_decoder` and a few lines of torch make them."""
    before = torch.cat((latents[:, :1], latents[:, :-1]), dim=1)
    pixels = codec.forward_decoder(latents.flatten(0, 1), before.flatten(0, 1)).unflatten(1, (4, 3)).movedim(2, -1)
    return pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).unflatten(0, latents.shape[:2]).flatten(1, 2)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("grid", [(10, 16), (3, 5), (1, 1)])
def test_bytes_are_those_of_the_readable_decoder_but_for_the_rounding_of_a_few(
    onednn: bool, grid: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums are taken in another order: a number near the middle between two bytes may fall to the other side."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: onednn)
    for codec in (alive(pocket_random()), load_pocket(ROOT / POCKET.file)):
        latents = noise(2, 6, codec.channels, *grid)
        wanted = readable(codec, latents).int()
        made = codec.decoder().decode(latents)
        assert made.shape == (2, 24, 8 * grid[0], 8 * grid[1], 3)
        assert made.is_contiguous()
        apart = (made.int() - wanted).abs()
        assert apart.max() <= 1
        assert (apart > 0).float().mean() < 1e-3
        assert wanted.float().std() > 10


def test_a_decoder_draws_a_video_in_parts_as_it_draws_it_whole() -> None:
    codec = alive(pocket_random())
    latents = noise(1, 9, codec.channels, 5, 4)
    decoder = codec.decoder()
    parts = torch.cat([decoder.decode(part) for part in latents.split((1, 3, 3, 2), dim=1)], dim=1).int()
    assert (parts - codec.decoder().decode(latents).int()).abs().max() <= 1


def test_numbers_go_where_the_shuffling_of_pixels_puts_them() -> None:
    x = noise(2, 8, 3, 5)
    by_place = x.unflatten(1, (2, 2, 2)).permute(0, 2, 3, 1, 4, 5).flatten(1, 3).contiguous(memory_format=torch.channels_last)
    assert shuffled(by_place).equal(torch.pixel_shuffle(x, 2))
    tiles = torch.arange(2 * 3 * 5 * 192).remainder(251).to(torch.uint8).view(2, 3, 5, 192)
    wanted = tiles.unflatten(-1, (4, 4, 4, 3)).permute(0, 3, 1, 4, 2, 5, 6).reshape(2, 4, 12, 20, 3)
    assert placed(tiles).equal(wanted)
