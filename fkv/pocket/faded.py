"""Where an object still stands that a model has all but faded: how far known scenery has taken on its colour."""

from __future__ import annotations

import numpy as np

from fkv.metrics.detect import FILL, PAD, REACH, centroid, ramp, window
from fkv.metrics.shapes import PALETTE

Array = np.ndarray
TRACE = (0.15, 0.3)  # opacity from which on a pixel counts a little, and in full
OTHER = (0.25, 0.5)  # share of another colour up to which a pixel counts in full, and at all
CONTRAST = 40.0  # grey levels between colour and scenery below which nothing can be told
MASS, SPREAD = 0.3, 12.0  # share of a whole object's fill, and pixels of its mean (rms) distance from its centre


def opacity(frames: Array, scenery: Array, colour: str) -> Array:
    """How opaque an object of that colour lies over each pixel of the scenery, both uint8 [n, h, w, 3]: float32 [n, h, w] in [0, 1]."""
    step = np.array(PALETTE[colour], np.float32) - scenery
    change = frames.astype(np.float32) - scenery
    length = np.square(step).sum(-1)
    share = (change * step).sum(-1) / np.maximum(length, 1)
    other = np.sqrt(np.square(change - share[..., None] * step).sum(-1) / np.maximum(length, 1))
    trace = ramp(share, *TRACE) * (1 - ramp(other, *OTHER)) * (length > CONTRAST**2)
    return trace * np.clip(share, 0, 1)


def faded(frames: Array, scenery: Array, colour: str, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Centres x, y [n] of what is left of an object within 20 pixels of where it is expected (x, y) [n], inside the frame, and bool [n]
    whether something is left that is as compact as an object."""
    padded = np.pad(opacity(frames, scenery, colour), ((0, 0), (PAD, PAD), (PAD, PAD)))
    mass = np.zeros(len(x))
    for _ in range(3):
        mass, x, y = centroid(padded, x, y)
    left, top = np.rint(x).astype(int), np.rint(y).astype(int)
    way = np.square(np.arange(-REACH, REACH + 1, dtype=np.float32))
    spread = (window(padded, left, top) * (way[:, None] + way)).sum((1, 2)) / np.maximum(mass, 1e-6)
    return x, y, (mass > MASS * FILL) & (spread < SPREAD**2)
