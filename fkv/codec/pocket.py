"""The pocket codec, a temporal autoencoder of this project: 8x8 pixels x 4 frames per latent.

The encoder looks at one group of four frames at a time, so latents are random access; the decoder also sees the previous latent, which is
all the state a lane has to carry. Both are a linear map (initialised from principal components) plus a small convolutional correction.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fkv.codec.drawing import Drawing

GROUP, CELL = 4, 8


class Residual(nn.Module):
    """Two 3x3 convolutions around an identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class PocketCodec(nn.Module):
    """Autoencoder of 80x128 RGB at 24 frames per second; `channels` numbers per 8x8x4 block, each of zero mean and unit variance on the
    training world."""

    def __init__(self, channels: int = 24, wide: int = 128, fine: int = 64):
        super().__init__()
        self.channels = channels
        block = 3 * GROUP * CELL * CELL
        self.analysis = nn.Conv2d(block, channels, 1)
        self.look = nn.Sequential(
            nn.Conv2d(block // 4, 48, 1),
            Residual(48),
            nn.PixelUnshuffle(2),
            nn.Conv2d(192, 96, 1),
            Residual(96),
            nn.SiLU(),
            nn.Conv2d(96, channels, 1),
        )
        self.synthesis = nn.Conv2d(channels, block, 1)
        self.draw = nn.Sequential(
            nn.Conv2d(2 * channels, wide, 3, padding=1),
            Residual(wide),
            Residual(wide),
            nn.Conv2d(wide, 4 * fine, 1),
            nn.PixelShuffle(2),
            Residual(fine),
            Residual(fine),
            nn.SiLU(),
            nn.Conv2d(fine, block // 4, 1),
            nn.PixelShuffle(4),
        )
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        for last in (self.look[-1], self.draw[-2]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        return self.analysis.weight.device

    def forward_encoder(self, pixels: Tensor) -> Tensor:
        """Pixels [n, 3 * 4, height, width] in [-1, 1] (frame-major channels) to raw latents [n, channels, rows, columns]."""
        return self.analysis(F.pixel_unshuffle(pixels, CELL)) + self.look(F.pixel_unshuffle(pixels, CELL // 2))

    def forward_decoder(self, latents: Tensor, before: Tensor) -> Tensor:
        """Normalised latents and those one frame earlier, each [n, channels, rows, columns], to pixels [n, 12, height, width] in about
        [-1, 1]."""
        now, earlier = self.restored(latents), self.restored(before)
        return F.pixel_shuffle(self.synthesis(now), CELL) + self.draw(torch.cat((now, earlier), dim=1))

    def normalise(self, raw: Tensor) -> Tensor:
        return (raw - self.mean[:, None, None]) / self.scale[:, None, None]

    def restored(self, latents: Tensor) -> Tensor:
        """The raw latents that `normalise` makes these of."""
        return latents * self.scale[:, None, None] + self.mean[:, None, None]

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        batch, count, height, width, _ = frames.shape
        if count % GROUP or height % CELL or width % CELL:
            raise ValueError(f"{count} frames of {height}x{width} do not divide into blocks of {GROUP} frames x {CELL}x{CELL} pixels")
        pixels = frames.to(self.device).to(self.mean.dtype).div(127.5).sub(1)
        groups = pixels.unflatten(1, (-1, GROUP)).permute(0, 1, 2, 5, 3, 4).reshape(-1, 3 * GROUP, height, width)
        return self.normalise(self.forward_encoder(groups)).unflatten(0, (batch, -1))

    def decoder(self) -> PocketDecoder:
        return PocketDecoder(self)


class PocketDecoder:
    """Streaming decoder of a codec whose weights stay as they are: remembers the last latent frame of the lane."""

    def __init__(self, codec: PocketCodec):
        self.codec, self.draw = codec, Drawing(codec)
        self.last: Tensor | None = None

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.codec.device, self.codec.mean.dtype)
        first = latents[:, :1] if self.last is None else self.last
        before = torch.cat((first, latents[:, :-1]), dim=1)
        self.last = latents[:, -1:].clone()
        pictures = self.draw(*(self.codec.restored(x.flatten(0, 1)) for x in (latents, before)))
        return pictures.unflatten(0, (latents.shape[0], -1)).flatten(1, 2)


def load_pocket(directory: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> PocketCodec:
    """The shipped codec. Raises FileNotFoundError or ValueError with the file's name and the cure."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(directory) / "codec.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run `python -m fkv train codec` or restore it from the repository")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a complete safetensors file ({error}); restore it from the repository") from None
    if "analysis.weight" not in state:
        raise ValueError(f"{path} holds no pocket codec: the tensor 'analysis.weight' is missing; restore it from the repository")
    codec = PocketCodec(channels=state["analysis.weight"].shape[0])
    problems = codec.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    if problems.missing_keys or problems.unexpected_keys:
        wrong = (problems.missing_keys + problems.unexpected_keys)[0]
        raise ValueError(f"{path} does not fit this version: first differing tensor {wrong!r}; restore it from the repository")
    return codec.to(device, dtype).to(memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]


def pocket_random(seed: int = 0) -> PocketCodec:
    """An untrained pocket codec for tests; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PocketCodec().eval()
