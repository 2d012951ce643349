"""The Wan 2.1 VAE through diffusers' `AutoencoderKLWan`, for finished videos: exact, causal, and slow.

Its decoder takes one latent frame at a time and remembers what its causal convolutions need. diffusers keeps that memory on the model and
clears it around every call; here it belongs to a decoder, so that lanes share one VAE and a video decoded in chunks is bit-equal to one
decoded as a whole.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fkv.codec.base import to_bytes, to_pixels

REPO = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
PATTERNS = ("vae/*.json", "vae/*.safetensors")  # each must have a file
FOLDER = "vae"
SIZE = 507_600_000  # 126.9 million parameters in float32
GROUP, CELL = 4, 8


class WanVae:
    """Codec between uint8 RGB and normalised Wan 2.1 latents."""

    def __init__(self, vae: Any):
        self.vae = vae
        shape = (1, -1, 1, 1, 1)
        self.mean = torch.tensor(vae.config.latents_mean, device=self.device).view(shape)
        self.scale = torch.tensor(vae.config.latents_std, device=self.device).view(shape)

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    def decoder(self) -> WanVaeDecoder:
        return WanVaeDecoder(self)

    def raw(self, latents: Tensor) -> Tensor:
        """Normalised latents [b, f, c, rows, columns] as the VAE takes them: [b, c, f, rows, columns]."""
        z = latents.transpose(1, 2).to(self.device, torch.float32)
        return (z * self.scale + self.mean).to(self.dtype)

    @torch.inference_mode()
    def encode(self, frames: Tensor) -> Tensor:
        """The most likely latents of 4n + 1 frames."""
        _, count, height, width, _ = frames.shape
        if count % GROUP != 1 or height % CELL or width % CELL:
            cure = f"use {GROUP}n + 1 frames of sides divisible by {CELL}"
            raise ValueError(f"{count} frames of {height}x{width} cannot be encoded; {cure}")
        pixels = to_pixels(frames, self.device, self.dtype).mul(2).sub(1).transpose(1, 2)
        z = self.vae.encode(pixels).latent_dist.mode().float()
        return ((z - self.mean) / self.scale).transpose(1, 2)


class WanVaeDecoder:
    """One lane's decoder, with the memory of its causal convolutions."""

    def __init__(self, codec: WanVae):
        self.codec = codec
        self.memory: list[Any] = []

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self.codec.vae
        z = vae.post_quant_conv(self.codec.raw(latents))
        made = []
        for frame in range(z.shape[2]):
            first = not self.memory
            if first:
                vae.clear_cache()
                self.memory = [None] * vae._conv_num
            made.append(vae.decoder(z[:, :, frame : frame + 1], feat_cache=self.memory, feat_idx=[0], first_chunk=first))
        return to_bytes(torch.cat(made, dim=2).float().clamp(-1, 1).mul(0.5).add(0.5).transpose(1, 2))


def load_wan_vae(folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> WanVae:
    """The published VAE from a folder with its `config.json`. Raises ImportError or OSError in a sentence."""
    try:
        diffusers: Any = import_module("diffusers")
    except ImportError:
        raise ImportError("the Wan VAE needs diffusers; run `pip install diffusers`") from None
    from safetensors import SafetensorError

    try:
        vae, found = diffusers.AutoencoderKLWan.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True)
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"tensor {missing[0]!r} is missing")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise OSError(f"{folder} holds no complete Wan VAE ({why}); delete it and fetch it again") from None
    return WanVae(vae.to(device).eval().requires_grad_(False))
