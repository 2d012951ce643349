"""The look of the pocket world's objects: palette and shapes as signed distances. What is drawn and what is recognised share it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (228, 48, 52),
    "blue": (44, 88, 236),
    "yellow": (252, 208, 32),
    "purple": (164, 62, 222),
    "white": (248, 248, 250),
}
OUTLINE = (26, 24, 40)
OUTLINE_WIDTH = 1.7
EXTENT = 20.0


def _ball(x: Array, y: Array) -> Array:
    return np.sqrt(x * x + y * y) - 13.0


def _box(x: Array, y: Array, half: float = 11.6, corner: float = 1.5) -> Array:
    qx, qy = np.abs(x) - (half - corner), np.abs(y) - (half - corner)
    outside = np.sqrt(np.maximum(qx, 0) ** 2 + np.maximum(qy, 0) ** 2)
    return outside + np.minimum(np.maximum(qx, qy), 0) - corner


def _triangle(x: Array, y: Array, inner: float = 9.7) -> Array:
    return np.maximum(np.maximum(0.8660254 * np.abs(x) - 0.5 * y, y) - inner, 0.9 * (np.sqrt(x * x + y * y) - 18.0))


def _star(x: Array, y: Array, outer: float = 17.5, ratio: float = 0.5) -> Array:
    px, py = np.abs(x), -y
    fold = 2 * np.maximum(0.809017 * px - 0.587785 * py, 0)
    px, py = px - fold * 0.809017, py + fold * 0.587785
    fold = 2 * np.maximum(-0.809017 * px - 0.587785 * py, 0)
    px, py = np.abs(px + fold * 0.809017), py + fold * 0.587785 - outer
    ex, ey = ratio * 0.587785, ratio * 0.809017 - 1.0
    return (px * -ey + py * ex) / float(np.hypot(ex, ey))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {"ball": _ball, "box": _box, "star": _star, "triangle": _triangle}


def distance(shape: str, x: Array, y: Array) -> Array:
    """Signed distance in pixels from an object's outer edge, negative inside; (x, y) in pixels from its centre, y pointing down."""
    return SHAPES[shape](x, y)


def cover(d: Array) -> Array:
    """Share in [0, 1] of a pixel inside an edge at signed distance `d` pixels."""
    return np.clip(0.5 - d, 0.0, 1.0)
