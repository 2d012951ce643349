"""TAEHV for Wan 2.1 (madebyollin/taehv, MIT; weights taew2_1): a small autoencoder of the latents the network itself makes, live.

Written from its method and its tensor names. Frames pass through 2-d convolutions; time enters in two places: a memory block also sees its
own input of the frame before, and a growth layer makes several frames of one. So the last input of every memory block is all a lane has to
carry, and decoding in chunks is decoding as a whole. Of the first latent frame only the last of its four pixel frames exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fkv import hub
from fkv.codec.base import to_bytes, to_pixels

URL = "https://github.com/madebyollin/taehv/raw/refs/heads/main/safetensors/taew2_1.safetensors"
FILE = "taew2_1.safetensors"
SIZE = 22_600_000  # about: 11.3 million parameters of two bytes
CHANNELS, GROWTH, CELL = 16, 4, 8
WIDE = (256, 128, 64, 64)
State = dict[int, Tensor]  # last input of every memory block, by its number


class Soft(nn.Module):
    """Latents held softly inside [-3, 3]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class Memory(nn.Module):
    """Three convolutions over a frame and the frame before it, around an identity."""

    def __init__(self, width: int):
        super().__init__()
        layers = (nn.Conv2d(2 * width if first else width, width, 3, padding=1) for first in (True, False, False))
        one, two, three = layers
        self.conv = nn.Sequential(one, nn.ReLU(), two, nn.ReLU(), three)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat((x, before), dim=1)) + x)


class Shrink(nn.Module):
    """`stride` frames side by side into one."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.reshape(-1, self.stride * x.shape[1], *x.shape[2:]))


class Grow(nn.Module):
    """One frame into `stride` frames."""

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grown = self.conv(x)
        if self.stride == 1:
            return grown
        frames = grown.permute(0, 2, 3, 1).unflatten(-1, (self.stride, -1)).permute(0, 3, 1, 2, 4)
        return frames.flatten(0, 1).permute(0, 3, 1, 2)  # channels stay last in memory


def decoder_layers() -> nn.Sequential:
    """The decoder in the published order, so that tensors keep their numbers."""
    layers: list[nn.Module] = [Soft(), nn.Conv2d(CHANNELS, WIDE[0], 3, padding=1), nn.ReLU()]
    for width, after, stride in zip(WIDE, WIDE[1:], (1, 2, 2)):
        layers += [Memory(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), Grow(width, stride), nn.Conv2d(width, after, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(WIDE[-1], 3, 3, padding=1))


def encoder_layers() -> nn.Sequential:
    """The encoder in the published order."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU()]
    for stride in (2, 2, 1):
        layers += [Shrink(64, stride), nn.Conv2d(64, 64, 3, padding=1, stride=2, bias=False), *(Memory(64) for _ in range(3))]
    return nn.Sequential(*layers, nn.Conv2d(64, CHANNELS, 3, padding=1))


def through(layers: nn.Sequential, x: Tensor, batch: int, state: State) -> Tensor:
    """Frames x [b * f, c, H, W] through all layers; `state`, empty at the start of a video, is brought up to date."""
    for number, layer in enumerate(layers):
        if isinstance(layer, Memory):
            count = len(x) // batch
            before = state[number] if number in state else torch.zeros_like(x[::count])
            state[number] = x[count - 1 :: count].clone()
            videos = zip(before.split(1), x.split(count))
            x = layer(x, torch.cat([part for first, frames in videos for part in (first, frames[:-1])]))
        else:
            x = layer(x)
    return x


class Taehv(nn.Module):
    """Codec between uint8 RGB and normalised Wan 2.1 latents, 8x8 pixels x 4 frames each."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder_stack = encoder_layers(), decoder_layers()

    @property
    def weight(self) -> Tensor:
        found = self.decoder_stack[1].weight
        assert isinstance(found, Tensor)
        return found

    def decoder(self) -> TaehvDecoder:
        return TaehvDecoder(self)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """As published: a video of 4n + 1 frames is filled up at its end with its last frame."""
        batch, count, height, width, _ = frames.shape
        if height % CELL or width % CELL:
            raise ValueError(f"frames of {height}x{width} do not divide into cells of {CELL}x{CELL} pixels; crop them to multiples")
        frames = torch.cat((frames, frames[:, -1:].expand(-1, -count % GROWTH, -1, -1, -1)), dim=1)
        pixels = to_pixels(frames, self.weight.device, self.weight.dtype)
        return through(self.encoder, pixels.flatten(0, 1), batch, {}).unflatten(0, (batch, -1))


class TaehvDecoder:
    """One lane's decoder: its state is the last input of every memory block."""

    def __init__(self, codec: Taehv):
        self.codec = codec
        self.state: State = {}

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        start, batch = not self.state, latents.shape[0]
        x = latents.to(self.codec.weight.device, self.codec.weight.dtype).flatten(0, 1)
        pixels = through(self.codec.decoder_stack, x, batch, self.state).unflatten(0, (batch, -1))
        return to_bytes(pixels[:, GROWTH - 1 :] if start else pixels)


def fitted(state: Mapping[str, Tensor], codec: Taehv) -> dict[str, Tensor]:
    """Published tensors under this class's names; of a growth layer stored with more frames than are used, the last ones."""
    wanted = codec.state_dict()
    found = {}
    for key, tensor in state.items():
        name = key.replace("decoder.", "decoder_stack.", 1) if key.startswith("decoder.") else key
        grows = name in wanted and name.endswith(".conv.weight") and tensor.dim() == 4 and tensor.shape[1:] == wanted[name].shape[1:]
        found[name] = tensor[-wanted[name].shape[0] :] if grows and tensor.shape[0] > wanted[name].shape[0] else tensor
    return found


def load_taehv(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Taehv:
    """The published weights. Raises FileNotFoundError or ValueError naming the file, what does not fit and the cure."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; run `python -m fkv fetch` for the model that is to be decoded")
    try:
        raw = load_file(path)
    except SafetensorError:
        raise ValueError(hub.damaged(path)) from None
    codec = Taehv()
    state = fitted(raw, codec)
    wanted = {name: tuple(tensor.shape) for name, tensor in codec.state_dict().items()}
    for name in sorted(wanted.keys() | state.keys()):
        have = tuple(state[name].shape) if name in state else "missing"
        if have != wanted.get(name):
            want = wanted.get(name, "no such tensor")
            published = name.replace("decoder_stack.", "decoder.")
            raise ValueError(
                f"{path} is not TAEHV for Wan 2.1: tensor {published!r} is {have}, expected {want}; delete it and fetch it again"
            )
    codec.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return laid(codec, device, dtype)


def taehv_random(seed: int = 0) -> Taehv:
    """Untrained, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Taehv().eval().requires_grad_(False)


def laid(codec: Taehv, device: torch.device | str, dtype: torch.dtype) -> Taehv:
    """For inference, with channels last in memory, as convolutions want them; every layer of the decoder hands them on so."""
    return codec.to(device, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)  # pyright: ignore[reportCallIssue]
