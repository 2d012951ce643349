"""Finds the coloured objects in frames: by colour, at sub-pixel centroids, with the shape that fits best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkv.metrics.shapes import OUTLINE_WIDTH, PALETTE, SHAPES, cover, distance

Array = np.ndarray
REACH = 20
FILL = 370.0
PRESENT, FAINT, WHOLE, PAD = 0.25, 0.04, 0.88, 32


@dataclass(frozen=True)
class Track:
    """One colour through n frames: centroid x, y [n] in pixels (NaN where there is no trace of it), area [n] as a share of a whole object's
    fill, and the share of a second blob of that colour, extra [n]."""

    colour: str
    x: Array
    y: Array
    area: Array
    extra: Array

    @property
    def present(self) -> Array:
        """bool [n]: at least a quarter of an object is seen."""
        return self.area >= PRESENT


def likeness(frames: Array, colours: Sequence[str]) -> Array:
    """How much each pixel of frames uint8 [n, h, w, 3] looks like each object colour in any shade: float32 [colours, n, h, w] in [0, 1]."""
    pixels = np.ascontiguousarray(np.moveaxis(frames, -1, 0)).astype(np.float32)
    top = np.maximum(np.maximum(np.maximum(pixels[0], pixels[1]), pixels[2]), 1.0)
    pixels /= top
    out = np.empty((len(colours), *top.shape), np.float32)
    for i, colour in enumerate(colours):
        if colour == "white":
            out[i] = ramp(np.minimum(np.minimum(pixels[0], pixels[1]), pixels[2]), 0.92, 0.955) * ramp(top, 135, 175)
            continue
        brightest = max(PALETTE[colour])
        far = np.sqrt(sum((channel - value / brightest) ** 2 for channel, value in zip(pixels, PALETTE[colour])))
        out[i] = ramp(-far, -0.28, -0.16) * ramp(top / brightest, 0.45, 0.65)
    return out


def ramp(value: Array, low: float, high: float) -> Array:
    """0 up to `low`, 1 from `high` on, straight between."""
    return np.clip((value - low) / (high - low), 0, 1)


def track(frames: Array, colours: Sequence[str] = tuple(PALETTE), batch: int = 64) -> dict[str, Track]:
    """Follows every one of the colours through frames uint8 [n, h, w, 3]."""
    found: list[list[Array]] = [[] for _ in colours]
    for start in range(0, len(frames), batch):
        for parts, weight in zip(found, likeness(frames[start : start + batch], colours)):
            parts.append(_blobs(weight))
    return {colour: Track(colour, *np.concatenate(parts, 1)) for colour, parts in zip(colours, found)}


def _blobs(weight: Array) -> Array:
    """In likeness [n, h, w]: centroid x, y (NaN without a trace) and area of the heaviest blob, and the area of the next: [4, n]."""
    out = np.zeros((4, len(weight)))
    out[:2] = np.nan
    some = np.flatnonzero(weight.sum((1, 2)) >= FAINT * FILL)
    if not len(some):
        return out
    padded = np.pad(weight[some], ((0, 0), (PAD, PAD), (PAD, PAD)))
    x, y = _heaviest(weight[some])
    for _ in range(2):
        _, x, y = centroid(padded, x, y)
    area, x, y = centroid(padded, x, y)
    for frame, (left, top) in enumerate(zip(np.rint(x).astype(int), np.rint(y).astype(int))):
        padded[frame, max(top + PAD - REACH, 0) : top + PAD + REACH + 1, max(left + PAD - REACH, 0) : left + PAD + REACH + 1] = 0
    other_x, other_y = _heaviest(padded[:, PAD:-PAD, PAD:-PAD])
    out[2, some], out[3, some] = area / FILL, centroid(padded, other_x, other_y)[0] / FILL
    trace = area >= FAINT * FILL
    out[0, some[trace]], out[1, some[trace]] = x[trace], y[trace]
    return out


def centroid(padded: Array, x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Mass and centroid (x, y), each [n], of likeness [n, h + 2 PAD, w + 2 PAD] within 20 pixels of (x, y)."""
    left, top = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = window(padded, left, top)
    mass = inside.sum((1, 2))
    way = np.arange(-REACH, REACH + 1, dtype=np.float32)
    safe = np.maximum(mass, 1e-6)
    return mass, left + inside.sum(1) @ way / safe, top + inside.sum(2) @ way / safe


def window(padded: Array, left: Array, top: Array) -> Array:
    """The squares [n, 41, 41] of padded likeness around whole pixels (left, top) [n] of the unpadded one."""
    side = np.arange(-REACH, REACH + 1) + PAD
    return padded[np.arange(len(padded))[:, None, None], top[:, None, None] + side[:, None], left[:, None, None] + side]


def _heaviest(weight: Array, cell: int = 4, cells: int = 6) -> tuple[Array, Array]:
    """Centre (x, y) [n] of the 24 x 24 square on a grid of 4 pixels that holds most likeness."""
    n, height, width = weight.shape
    pooled = weight.reshape(n, height // cell, cell, width // cell, cell).sum((2, 4))
    total = np.pad(pooled, ((0, 0), (cells // 2 + 1, cells // 2), (cells // 2 + 1, cells // 2))).cumsum(1).cumsum(2)
    boxes = total[:, cells:, cells:] - total[:, :-cells, cells:] - total[:, cells:, :-cells] + total[:, :-cells, :-cells]
    row, column = np.divmod(boxes.reshape(n, -1).argmax(1), boxes.shape[2])
    return np.minimum(column * cell, width - 1).astype(np.float32), np.minimum(row * cell, height - 1).astype(np.float32)


def shapes_seen(frames: Array, found: Track, every: int = 1) -> list[str]:
    """The best fitting shape in every `every`-th frame in which the object is seen nearly whole."""
    if not found.present.any():
        return []
    full = max(WHOLE * float(np.quantile(found.area[found.present], 0.9)), 0.5)
    whole = np.flatnonzero((found.area >= full) & found.present)[::every]
    names = list(SHAPES)
    return [names[i] for start in range(0, len(whole), 32) for i in _fits(frames, found, whole[start : start + 32]).argmax(1)]


def _fits(frames: Array, found: Track, where: Array) -> Array:
    """Overlap (intersection over union) [m, shapes] of the object in frames `where` with each shape's fill, at the best of 9 positions."""
    padded = np.pad(likeness(frames[where], [found.colour])[0], ((0, 0), (PAD, PAD), (PAD, PAD)))
    left, top = np.rint(found.x[where]).astype(int), np.rint(found.y[where]).astype(int)
    seen, side = window(padded, left, top), np.arange(2 * REACH + 1)
    dx = (side[None, None, :] - REACH + (left - found.x[where])[:, None, None]).astype(np.float32)
    dy = (side[None, :, None] - REACH + (top - found.y[where])[:, None, None]).astype(np.float32)
    scores = np.zeros((len(where), len(SHAPES)), np.float32)
    for i, shape in enumerate(SHAPES):
        for shift_x in (-0.8, 0.0, 0.8):
            for shift_y in (-0.8, 0.0, 0.8):
                fill = cover(distance(shape, dx - shift_x, dy - shift_y) + OUTLINE_WIDTH)
                both = np.minimum(fill, seen).sum((1, 2)) / np.maximum(fill, seen).sum((1, 2))
                scores[:, i] = np.maximum(scores[:, i], both)
    return scores
