"""Where an object still stands that a model has all but faded: how far known scenery has taken on its colour."""

from __future__ import annotations

import numpy as np

from fkv.metrics.detect import FILL, REACH
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
    trace = _ramp(share, TRACE) * (1 - _ramp(other, OTHER)) * (length > CONTRAST**2)
    return trace * np.clip(share, 0, 1)


def faded(frames: Array, scenery: Array, colour: str, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Centres x, y [n] of what is left of an object within 20 pixels of where it is expected (x, y) [n], and bool [n] whether something is
    left that is as compact as an object."""
    weight = opacity(frames, scenery, colour)
    for _ in range(3):
        _, x, y, _ = _gathered(weight, x, y)
    mass, _, _, spread = _gathered(weight, x, y)
    return x, y, (mass > MASS * FILL) & (spread < SPREAD)


def _gathered(weight: Array, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Mass, centre (x, y), and mean (rms) distance from (x, y), of the weight [n, h, w] within 20 pixels of (x, y) [n]; each [n]."""
    dx, dy = np.arange(weight.shape[2]) - x[:, None, None], np.arange(weight.shape[1])[:, None] - y[:, None, None]
    near = weight * ((np.abs(dx) <= REACH) & (np.abs(dy) <= REACH))
    mass = np.maximum(near.sum((1, 2)), 1e-6)
    centre_x, centre_y = x + (near * dx).sum((1, 2)) / mass, y + (near * dy).sum((1, 2)) / mass
    return mass, centre_x, centre_y, np.sqrt((near * (dx * dx + dy * dy)).sum((1, 2)) / mass)


def _ramp(value: Array, between: tuple[float, float]) -> Array:
    low, high = between
    return np.clip((value - low) / (high - low), 0, 1)
