"""Draws a scene: three parallax strips built once per scene, then objects and wall at sub-pixel positions. uint8 RGB frames."""

from __future__ import annotations

import numpy as np

from fkv.metrics.shapes import OUTLINE, OUTLINE_WIDTH, PALETTE, cover, distance
from fkv.pocket.backdrop import Strip, backdrop, wall_strip
from fkv.pocket.world import HEIGHT, WALL_FOOT, WALL_TOP, WALL_WIDTH, WIDTH, Scene

Array = np.ndarray
REACH = 21
PARALLAX = (0.15, 0.5, 1.0)
CELL = 8
WHITE = 4.0


class Renderer:
    """Frames of one scene at random access; holds the scene's background strips."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.strips = backdrop(scene)
        self.wall = wall_strip(scene) if scene.wall else None
        self._still = self._view(0.0) if scene.camera == "still" else None

    def frames(self, start: int, count: int, paths: tuple[Array, Array] | None = None, cameras: Array | None = None) -> Array:
        """uint8 RGB [count, 80, 128, 3] of pixel frames start .. start + count - 1; objects at `paths` and the view from `cameras` [count]
        rather than as the scene has them."""
        times = np.arange(start, start + count)
        cameras = camera_path(self.scene, times) if cameras is None else cameras
        out = self._backdrops(cameras)
        xs, ys = self.scene.paths(times) if paths is None else paths
        for index in reversed(range(len(self.scene.objects))):
            thing = self.scene.objects[index]
            _paste(out, thing.shape, PALETTE[thing.colour], xs[:, index], ys[:, index])
        return self._walled(out, cameras)

    def scenery(self, cameras: Array) -> Array:
        """uint8 RGB [n, 80, 128, 3]: background and wall without objects, seen from `cameras` [n] in world pixels."""
        return self._walled(self._backdrops(cameras), cameras)

    def _backdrops(self, cameras: Array) -> Array:
        out = np.empty((len(cameras), HEIGHT, WIDTH, 3), np.uint8)
        if self._still is not None:
            out[:] = self._still
            return out
        for frame, camera in enumerate(cameras):
            out[frame] = self._view(float(camera))
        return out

    def _walled(self, out: Array, cameras: Array) -> Array:
        if self.wall is not None:
            for frame, camera in enumerate(cameras):
                _over(out[frame], self.wall, float(camera))
        return out

    def _view(self, camera: float) -> Array:
        """The background uint8 [80, 128, 3] seen from `camera` world pixels."""
        canvas = np.empty((HEIGHT, WIDTH, 3), np.float32)
        for strip, parallax in zip(self.strips, PARALLAX, strict=True):
            seen = strip.at(camera * parallax, 0, WIDTH)
            rows = canvas[strip.top : strip.top + len(seen)]
            if strip.opaque:
                rows[:] = seen
            else:
                rows *= 1 - seen[..., 3:]
                rows += seen[..., :3]
        return (canvas + 0.5).clip(0, 255).astype(np.uint8)


def render(scene: Scene, start: int, count: int) -> Array:
    """uint8 RGB [count, 80, 128, 3]; builds the background anew, so keep a `Renderer` for many calls on one scene."""
    return Renderer(scene).frames(start, count)


def camera_path(scene: Scene, times: Array) -> Array:
    """World pixel [n] at the left edge of the view at pixel frames `times` [n]."""
    return np.broadcast_to(np.asarray(scene.camera_x(times), np.float64), len(times))


def object_mask(scene: Scene, start: int, count: int, paths: tuple[Array, Array] | None = None, cameras: Array | None = None) -> Array:
    """Share float32 [count, 10, 16] of every 8 x 8 cell that objects cover (equal-area boxes), less what the wall hides; objects at `paths`
    and the view from `cameras` rather than as the scene has them. White ones count `WHITE` fold: a trace of what lies behind takes their
    colour away."""
    times = np.arange(start, start + count)
    cameras = camera_path(scene, times) if cameras is None else cameras
    xs, ys = scene.paths(times) if paths is None else paths
    left, top = np.arange(WIDTH // CELL) * float(CELL), np.arange(HEIGHT // CELL) * float(CELL)
    wide = _overlap(xs[..., None] - 12, xs[..., None] + 12, left)
    high = _overlap(ys[..., None] - 12, ys[..., None] + 12, top)
    counts = [WHITE if thing.colour == "white" else 1.0 for thing in scene.objects]
    mask = (high[:, :, :, None] * wide[:, :, None, :] * np.array(counts)[:, None, None]).max(axis=1)
    if scene.wall:
        edge = scene.wall_x - WALL_WIDTH / 2 - cameras[:, None]
        hidden = _overlap(edge, edge + WALL_WIDTH, left)[:, None, :]
        mask *= 1 - hidden * _overlap(np.array(float(WALL_TOP)), np.array(float(WALL_FOOT)), top)[None, :, None]
    return mask.astype(np.float32)


def _overlap(low: Array, high: Array, cells: Array) -> Array:
    """Share of each cell [cell, cell + 8) that lies within [low, high)."""
    return np.clip(np.minimum(high, cells + CELL) - np.maximum(low, cells), 0, CELL) / CELL


def _paste(out: Array, shape: str, colour: tuple[int, int, int], xs: Array, ys: Array) -> None:
    """Draws one object into every frame of `out` uint8 [n, 80, 128, 3], centred on xs, ys [n]."""
    left, top = np.floor(xs).astype(int) - REACH, np.floor(ys).astype(int) - REACH
    grid = np.arange(2 * REACH + 2, dtype=np.float32)
    dx = (grid - REACH)[None, None, :] - (xs % 1.0).astype(np.float32)[:, None, None]
    dy = (grid - REACH)[None, :, None] - (ys % 1.0).astype(np.float32)[:, None, None]
    d = distance(shape, dx, dy)
    body = cover(d + OUTLINE_WIDTH)[..., None]
    shade = np.clip(1.0 - (dx + 1.6 * dy) * 0.0085, 0.82, 1.12)[..., None]
    paint = np.minimum(np.array(colour, np.float32) * shade, 255)
    paint = paint * body + np.array(OUTLINE, np.float32) * (1 - body)
    alpha = cover(d)[..., None]
    paint = paint * alpha + 0.5
    clear = 1 - alpha
    size = len(grid)
    for frame, (x, y) in enumerate(zip(left, top, strict=True)):
        x0, x1, y0, y1 = max(x, 0), min(x + size, WIDTH), max(y, 0), min(y + size, HEIGHT)
        if x0 < x1 and y0 < y1:
            seen = (slice(y0, y1), slice(x0, x1))
            patch = (frame, slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
            out[frame][seen] = (out[frame][seen] * clear[patch] + paint[patch]).astype(np.uint8)


def _over(frame: Array, strip: Strip, camera: float) -> None:
    """Lays a strip that is narrower than the view over `frame` uint8 [80, 128, 3], in place."""
    left = strip.left - camera
    x0, x1 = max(int(np.floor(left)) - 1, 0), min(int(np.ceil(left + strip.width)) + 1, WIDTH)
    if x0 >= x1:
        return
    seen = strip.at(camera, x0, x1)
    rows = frame[strip.top : strip.top + len(seen), x0:x1]
    rows[:] = (rows * (1 - seen[..., 3:]) + seen[..., :3] + 0.5).astype(np.uint8)
