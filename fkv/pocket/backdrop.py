"""The scenery of the pocket world as three strips wider than the view: sky, far hills, ground with landmarks; and the brick wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fkv.metrics.shapes import cover
from fkv.pocket.world import HEIGHT, WALL_FOOT, WALL_TOP, WALL_WIDTH, WIDTH, Scene

Array = np.ndarray
Colour = tuple[int, int, int]
MARGIN = 34
LENGTH = WIDTH + 2 * MARGIN
FAR_TOP, NEAR_TOP = 34, 34


@dataclass(frozen=True)
class Look:
    """The colours of a theme, RGB."""

    zenith: Colour
    horizon: Colour
    light: Colour
    cloud: Colour
    far: Colour
    near: Colour
    ground: Colour
    depth: Colour
    landmark: Colour
    trunk: Colour


LOOKS: dict[str, Look] = {
    "green hills": Look(
        (86, 158, 236), (206, 232, 250), (255, 240, 186), (226, 240, 252), (112, 178, 150), (98, 178, 92), (122, 200, 84),
        (78, 158, 62), (36, 118, 66), (112, 78, 54),
    ),
    "snowy night": Look(
        (18, 22, 58), (64, 74, 128), (226, 226, 206), (48, 54, 100), (74, 88, 142), (150, 168, 210), (196, 210, 236),
        (158, 176, 214), (32, 72, 84), (58, 50, 62),
    ),
    "desert sunset": Look(
        (224, 98, 104), (255, 196, 136), (255, 232, 184), (248, 166, 138), (186, 92, 88), (206, 122, 82), (228, 158, 98),
        (194, 118, 72), (70, 118, 76), (70, 118, 76),
    ),
    "calm sea": Look(
        (112, 196, 222), (234, 244, 226), (255, 238, 180), (206, 234, 240), (104, 166, 164), (64, 164, 176), (48, 148, 168),
        (20, 98, 130), (214, 112, 84), (112, 70, 58),
    ),
}  # fmt: skip
SUN_AT = ((24, 17), (50, 13), (78, 15), (106, 18))
CLOUDS_AT = (
    ((8, 12, 1.0), (70, 24, 0.8), (128, 10, 0.9)),
    ((30, 26, 0.9), (96, 9, 1.0), (150, 24, 0.8)),
    ((-14, 20, 0.9), (52, 9, 0.9), (112, 26, 1.0)),
    ((14, 28, 0.8), (62, 18, 1.0), (134, 22, 0.9)),
)
LANDMARKS_AT = (
    ((-20, 1.0), (16, 0.9), (104, 1.1), (148, 0.9)),
    ((-8, 0.9), (44, 1.1), (118, 0.9), (154, 1.0)),
    ((-24, 1.1), (28, 1.0), (82, 0.9), (136, 1.1)),
    ((4, 1.1), (60, 0.9), (94, 1.0), (150, 1.0)),
    ((-16, 0.9), (36, 0.9), (54, 1.1), (126, 1.0)),
    ((-4, 1.0), (76, 1.1), (110, 0.9), (142, 0.9)),
)


@dataclass(frozen=True)
class Strip:
    """Float32 pixels [rows, width, 3 or 4] whose first column is world pixel `left` and first row is `top`; RGBA is premultiplied."""

    pixels: Array
    left: int
    top: int

    @property
    def width(self) -> int:
        return self.pixels.shape[1]

    @property
    def opaque(self) -> bool:
        return self.pixels.shape[2] == 3

    def at(self, camera: float, x0: int, x1: int) -> Array:
        """View columns x0 to x1 seen from `camera`; columns between two pixels are mixed linearly."""
        where = camera - self.left
        column, part = int(np.floor(where)), float(where % 1.0)
        pixels = self.pixels
        if column + x0 < 0 or column + x1 + 1 > self.width:
            before, after = max(-(column + x0), 0), max(column + x1 + 1 - self.width, 0)
            pixels, column = np.pad(pixels, ((0, 0), (before, after), (0, 0))), column + before
        here = pixels[:, column + x0 : column + x1]
        if part < 1e-6:
            return here
        return here * np.float32(1 - part) + pixels[:, column + x0 + 1 : column + x1 + 1] * np.float32(part)


class Canvas:
    """A premultiplied RGBA strip being painted; x in world pixels, y in frame pixels."""

    def __init__(self, top: int, bottom: int) -> None:
        self.pixels = np.zeros((bottom - top, LENGTH, 4), np.float32)
        self.top = top
        self.x = np.arange(-MARGIN, LENGTH - MARGIN, dtype=np.float32)[None, :]
        self.y = np.arange(top, bottom, dtype=np.float32)[:, None]

    def lay(self, colour: Colour | Array, alpha: Array) -> None:
        """Paints a colour (RGB, or one per row) with alpha [rows, width] over the whole canvas."""
        _lay(self.pixels, colour, alpha)

    def patch(self, x: float, y: float, reach: float) -> tuple[Array, Array, Array]:
        """Pixels, dx [1, w] and dy [h, 1] of the square of half-width `reach` around (x, y), cut at the canvas edges."""
        c0, c1 = (int(np.clip(v + MARGIN, 0, LENGTH)) for v in (x - reach, x + reach + 1))
        r0, r1 = (int(np.clip(v - self.top, 0, len(self.pixels))) for v in (y - reach, y + reach + 1))
        return self.pixels[r0:r1, c0:c1], self.x[:, c0:c1] - x, self.y[r0:r1] - y

    def strip(self, *, opaque: bool = False) -> Strip:
        """The finished strip."""
        return Strip(np.ascontiguousarray(self.pixels[..., :3]) if opaque else self.pixels, -MARGIN, self.top)


def _lay(pixels: Array, colour: Colour | Array, alpha: Array) -> None:
    alpha = np.asarray(alpha, np.float32)[..., None]
    pixels *= 1 - alpha
    pixels[..., :3] += np.asarray(colour, np.float32) * alpha
    pixels[..., 3:] += alpha


def _blend(a: Colour, b: Colour, share: Array) -> Array:
    """Colours [rows, 1, 3] between a and b."""
    share = np.clip(share, 0, 1)[..., None]
    return np.asarray(a, np.float32) * (1 - share) + np.asarray(b, np.float32) * share


def backdrop(scene: Scene) -> tuple[Strip, Strip, Strip]:
    """Sky (opaque), far hills and ground of a scene, back to front."""
    look = LOOKS[scene.theme]
    sky = Canvas(0, HEIGHT)
    sky.lay(_blend(look.zenith, look.horizon, sky.y / 60), np.ones((HEIGHT, LENGTH), np.float32))
    _bodies(sky, scene, look)
    far = Canvas(FAR_TOP, HEIGHT)
    turn = 2 * np.pi * scene.hills / 8
    far.lay(_blend(look.far, look.horizon, (far.y - 44) / 44), cover(_ridge(far.x, 48, 6, 92, turn) - far.y))
    near = Canvas(NEAR_TOP, HEIGHT)
    if scene.theme == "calm sea":
        _sea(near, look, turn)
    else:
        near.lay(look.near, cover(_ridge(near.x, 59, 3.5, 120, -turn + 1) - near.y))
        near.lay(_blend(look.ground, look.depth, (near.y - 65) / 14), np.broadcast_to(cover(65 - near.y), (len(near.y), LENGTH)))
    for x, size in LANDMARKS_AT[scene.landmarks]:
        _LANDMARK[scene.theme](near, float(x), size, look)
    return sky.strip(opaque=True), far.strip(), near.strip()


def _ridge(x: Array, base: float, height: float, length: float, turn: float) -> Array:
    """Row of the top of rolling hills at each column."""
    way = 2 * np.pi * x / length + turn
    return base - height * np.sin(way) - 0.4 * height * np.sin(2.3 * way + 1.0)


def _bodies(sky: Canvas, scene: Scene, look: Look) -> None:
    x, y = SUN_AT[scene.sun]
    pixels, dx, dy = sky.patch(x, y, 34)
    r = np.sqrt(dx * dx + dy * dy)
    _lay(pixels, look.light, 0.5 * np.exp(-((r / 15) ** 2)))
    _lay(pixels, look.light, cover(r - 8.5))
    if scene.theme == "snowy night":
        for i in range(9):
            spot, dx, dy = sky.patch((scene.clouds * 29 + i * 61) % 167 - 20, 4 + (i * 11 + scene.clouds * 7) % 31, 3)
            _lay(spot, (214, 220, 246), cover(np.sqrt(dx * dx + dy * dy) - 0.9))
        return
    for x, y, size in CLOUDS_AT[scene.clouds]:
        pixels, dx, dy = sky.patch(x, y, 22)
        puffs = ((-9, 1.5, 5.0), (0, -1.5, 7.0), (9, 1.5, 5.5))
        d = np.minimum.reduce([np.sqrt((dx / size - a) ** 2 + (dy / size - b) ** 2) - c for a, b, c in puffs])
        _lay(pixels, look.cloud, 0.9 * cover(d * size) * cover(dy - 4 * size))


def _sea(near: Canvas, look: Look, turn: float) -> None:
    level = np.broadcast_to(cover(53 - near.y), (len(near.y), LENGTH))
    near.lay(_blend(look.near, look.depth, (near.y - 53) / 26), level)
    for row, (depth, share) in enumerate(((58.0, 0.35), (65.0, 0.3), (73.0, 0.25))):
        wave = depth + 0.8 * np.sin(2 * np.pi * near.x / 32 + turn + row)
        near.lay((168, 224, 224), share * cover(np.abs(near.y - wave) - 0.7))


def _tree(canvas: Canvas, x: float, size: float, look: Look) -> None:
    pixels, dx, dy = canvas.patch(x, 56, 22)
    _lay(pixels, look.trunk, cover(np.maximum(np.abs(dx) - 1.6 * size, np.abs(dy - 6) - 6)))
    crown = np.minimum(np.sqrt(dx**2 + (dy + 6 * size) ** 2) - 7.5 * size, np.sqrt(dx**2 + (dy - 0.5) ** 2) - 8.5 * size)
    _lay(pixels, look.landmark, cover(crown))
    _lay(pixels, (66, 152, 84), 0.8 * cover(np.sqrt((dx + 2) ** 2 + (dy + 7 * size) ** 2) - 4.5 * size))


def _fir(canvas: Canvas, x: float, size: float, look: Look) -> None:
    pixels, dx, dy = canvas.patch(x, 56, 22)
    _lay(pixels, look.trunk, cover(np.maximum(np.abs(dx) - 1.5, np.abs(dy - 8) - 4)))
    for tier in (0, 1, 2):
        foot = 7 - 7 * tier * size
        cone = np.maximum((np.abs(dx) - 0.62 * (dy - foot + 13 * size)) * 0.85, dy - foot)
        _lay(pixels, look.landmark, cover(cone))
        _lay(pixels, (206, 218, 240), cover(np.maximum(cone, dy - foot + 8.5 * size)))


def _cactus(canvas: Canvas, x: float, size: float, look: Look) -> None:
    pixels, dx, dy = canvas.patch(x, 56, 22)

    def bar(cx: float, top: float, foot: float) -> Array:
        return np.sqrt((dx - cx) ** 2 + np.maximum(np.maximum(top - dy, dy - foot), 0) ** 2)

    def arm(cx: float, top: float, foot: float) -> Array:
        inner = np.maximum(np.maximum(min(cx, 0) - dx, dx - max(cx, 0)), 0)
        return np.minimum(bar(cx, top, foot), np.sqrt(inner**2 + (dy - foot) ** 2))

    d = np.minimum(bar(0, -11 * size, 12) - 3.2, np.minimum(arm(-7.5 * size, -5, 1), arm(7.5 * size, -8, -2)) - 2.2)
    _lay(pixels, look.landmark, cover(d))
    _lay(pixels, (104, 150, 96), 0.8 * cover(np.maximum(np.abs(dx + 1) - 0.8, np.abs(dy) - 9 * size)))


def _boat(canvas: Canvas, x: float, size: float, look: Look) -> None:
    pixels, dx, dy = canvas.patch(x, 56, 22)
    _lay(pixels, look.trunk, cover(np.maximum(np.abs(dx) - 0.8, np.abs(dy + 6 * size) - 9 * size)))
    sail = np.maximum((np.abs(dx - 1.5 * size) * 1.0 + dx * 0.35 - 0.6 * (dy + 15 * size)) * 0.8, dy + 1)
    _lay(pixels, look.landmark, cover(np.maximum(sail, 1.2 - dx)))
    _lay(pixels, (240, 208, 164), cover(np.maximum(np.maximum(-dx - 0.5 * (dy + 13 * size), dy + 1), dx + 1.2)))
    hull = np.maximum(np.abs(dx) - (11 * size - 0.9 * np.maximum(dy - 2, 0)), np.abs(dy - 3.5) - 2.8)
    _lay(pixels, look.trunk, cover(hull))


_LANDMARK = {"green hills": _tree, "snowy night": _fir, "desert sunset": _cactus, "calm sea": _boat}


def wall_strip(scene: Scene) -> Strip:
    """The brick wall, with one clear column on either side."""
    x = np.arange(-1.0, WALL_WIDTH + 1.0)[None, :]
    y = np.arange(float(WALL_FOOT - WALL_TOP))[:, None]
    course = np.floor((y - 4) / 8)
    along = (x + 6.5 * (course % 2)) % 13
    joint = (np.minimum(along, 13 - along) < 0.8) | (((y - 4) % 8) < 1.2)
    brick = np.where(joint[..., None], (106, 90, 88), (158, 120, 106)).astype(np.float32)
    brick[:4] = (182, 150, 134)
    brick[4:5] = (92, 76, 76)
    brick[:, -5:-1] *= 0.86
    inside = np.broadcast_to(((x >= 0) & (x < WALL_WIDTH)).astype(np.float32), (y.size, x.size))[..., None]
    pixels = np.concatenate([brick * inside, inside], 2).astype(np.float32)
    return Strip(pixels, int(scene.wall_x - WALL_WIDTH / 2) - 1, WALL_TOP)
