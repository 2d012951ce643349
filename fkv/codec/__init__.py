"""Codecs: pixels to latents and back, streaming. Pocket is this project's own; TAEHV decodes Wan 2.1 latents live; the Wan VAE exports."""

from __future__ import annotations

from fkv.codec.base import Codec, Decoder
from fkv.codec.pocket import CELL, GROUP, PocketCodec, PocketDecoder, load_pocket, pocket_random
from fkv.codec.taehv import Taehv, TaehvDecoder, load_taehv, taehv_random
from fkv.codec.wan_vae import WanVae, WanVaeDecoder, load_wan_vae

__all__ = [
    "CELL",
    "GROUP",
    "Codec",
    "Decoder",
    "PocketCodec",
    "PocketDecoder",
    "Taehv",
    "TaehvDecoder",
    "WanVae",
    "WanVaeDecoder",
    "load_pocket",
    "load_taehv",
    "load_wan_vae",
    "pocket_random",
    "taehv_random",
]
