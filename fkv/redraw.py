"""Finished videos drawn anew, chunk after chunk from clean latents, by a decoder that is exact and too slow to be live."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fkv import meter, parts, planner
from fkv.codec import Codec, Decoder
from fkv.engine import Engine
from fkv.findings import LANES, Lane
from fkv.hub import gigabytes
from fkv.lane import out_of_memory

WARM_UP = 8  # chunks that decoders are shown before the first one of a video that does not begin at chunk 0


class Undrawn(Exception):
    """Why a decoder draws nothing, in words that end a sentence."""


@dataclass(frozen=True)
class Clean:
    """One lane's chunk before it is decoded: clean latents [f, c, rows, columns], and what to write over its pictures."""

    latents: np.ndarray
    label: str


Drawn = tuple[np.ndarray, np.ndarray, str, str]


def decoder_of(engine: Engine) -> str:
    """The codec that finished videos of an engine are drawn with; "" where its row names none, or the one in use, or where
    no weights were read."""
    return engine.spec.export if engine.spec.export and engine.spec.export != engine.decoder and not engine.untrained else ""


def obstacle(engine: Engine) -> str:
    """Why that codec cannot be opened now, in words; "" where it can, or there is none. Looks at files only."""
    name = decoder_of(engine)
    return parts.lacking(engine.spec, name) if name else ""


def useful(engine: Engine) -> bool:
    """Whether clean latents of a run are worth keeping: another codec draws finished videos, and it is here."""
    return bool(decoder_of(engine)) and not obstacle(engine)


def opened(engine: Engine) -> Codec:
    """The codec for finished videos on the engine's device. Raises OSError or ImportError in a sentence."""
    return parts.CODECS[engine.spec.export](parts.Opening(engine.spec, engine.device, engine.dtype))


def redrawn(
    engine: Engine, export: Callable[[], Codec], chunks: Sequence[Mapping[Lane, Clean]], *, warm_up: int = 0
) -> Generator[Drawn, None, None]:
    """Both lanes of every chunk as a `Spool` takes them (uint8 RGB [n, H, W, 3] and labels), drawn by the codec that `export` opens, once;
    a lane that has ended is black. The engine's lock is held while the codec is opened, then for one lane's chunk at a time: sessions go on
    between.

    Decoders are causal and begin a video with what they never do again: TAEHV and the Wan VAE make one pixel frame of the first latent
    frame and four of every later one. So a video that begins in the middle comes after `warm_up` chunks that are decoded and not shown;
    its chunks then have all their frames. How long a wrong past is remembered was measured on weights drawn at random, by the first chunk
    shown: the Wan VAE, whose convolutions reach back about 38 latent frames, is off by 30 of 255 levels after one chunk of three frames,
    by 2.2 after six chunks, by 0.12 and nowhere by more than 2 after eight, by nothing after thirteen; TAEHV by rounding after one.

    Raises Undrawn where the codec cannot be opened, fails or finds no memory, and before it takes any where a device has too little free,
    so that no lane that runs is short of it; what it held is freed, then as at the end.
    """
    if words := _short(engine):
        raise Undrawn(words)
    try:
        yield from _drawn(engine, export, chunks, warm_up)
    except (OSError, ImportError, RuntimeError, ValueError, MemoryError) as error:
        traceback.clear_frames(error.__traceback__)
        raise Undrawn(_reason(engine, error)) from None
    finally:
        if engine.device.type == "cuda":
            torch.cuda.empty_cache()


def _drawn(engine: Engine, export: Callable[[], Codec], chunks: Sequence[Mapping[Lane, Clean]], warm_up: int) -> Iterator[Drawn]:
    with engine.lock:
        codec = export()
        decoders = dict(zip(LANES, (codec.decoder(), codec.decoder())))
    for number, chunk in enumerate(chunks):
        pixels = dict[Lane, np.ndarray]()
        for lane, clean in chunk.items():
            pixels[lane] = _decoded(engine, decoders[lane], clean.latents)
        if number >= warm_up:
            black = np.zeros_like(next(iter(pixels.values())))
            labels = {lane: clean.label for lane, clean in chunk.items()}
            yield pixels.get("A", black), pixels.get("B", black), labels.get("A", "ended"), labels.get("B", "ended")


def _short(engine: Engine) -> str:
    """How much memory a device lacks for the codec of finished videos, by an estimate; "" where it lacks none, or does not say."""
    free = meter.free_bytes(engine.device)
    if free is None:
        return ""
    need = planner.decoder_bytes(engine.spec.export, engine.spec.pixels, len(LANES))
    return f"it needs about {gigabytes(need)} and {engine.device} has {gigabytes(free)} free" if need > free else ""


def _decoded(engine: Engine, decoder: Decoder, latents: np.ndarray) -> np.ndarray:
    with engine.lock:
        return decoder.decode(torch.from_numpy(latents)[None])[0].cpu().numpy()


def _reason(engine: Engine, error: Exception) -> str:
    if out_of_memory(error):
        return f"it ran out of memory on {engine.device}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
