"""How prompted things and the camera move, in closed form, and where the wall stands, in pixels of an 80 x 128 frame; time is the
pixel-frame index, 24 a second."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
SPEED = {"bounce": 0.25, "drift": 0.5, "fall": 0.6}
HOP, HOP_PERIOD = 28.0, 108.0
ORBIT_PERIOD, ORBIT_HEIGHT = 240.0, 18.0
FALL_SPAN, FALL_FROM = 120.0, -20.0
REACH = {1: 46.0, 2: 20.0, 3: 8.0}
ORBIT_WIDTH = {1: 34.0, 2: 20.0, 3: 12.0}
FLOOR = 69.0
CENTRES = {1: (64.0,), 2: (36.0, 92.0), 3: (22.0, 64.0, 106.0)}
SPREAD = {1: 20.0, 2: 6.0, 3: 2.0}
BOTTOM = {"ball": 13.0, "box": 11.6, "star": 14.2, "triangle": 9.7}  # from the centre of a shape down to its foot
PAN, PAN_PERIOD = 32.0, 120.0
WALL_WIDTH, WALL_TOP, WALL_FOOT = 40, 26, 71
WALL_CENTRES = (34.0, 64.0, 94.0)


def path(motion: str, frames: Array, turn: float | Array, count: int) -> tuple[Array, Array]:
    """Way (x, y) in pixels from a motion's origin at pixel frames [n], `turn` in [0, 1) of its period on, in a scene of `count` objects."""
    if motion == "orbit":
        angle = 2 * np.pi * (frames / ORBIT_PERIOD + turn)
        return ORBIT_WIDTH[count] * np.cos(angle), ORBIT_HEIGHT * np.sin(angle)
    if motion == "fall":
        drop = (frames * SPEED["fall"] + turn * FALL_SPAN) % FALL_SPAN
        return np.zeros_like(drop), drop
    way = frames * SPEED[motion] + turn * 4 * REACH[count]
    x = np.abs(way % (4 * REACH[count]) - 2 * REACH[count]) - REACH[count]
    if motion == "drift":
        return x, np.zeros_like(x)
    hop = (frames / HOP_PERIOD + turn) % 1.0
    return x, -HOP * 4 * hop * (1 - hop)


def place(shape: str, motion: str, turn: float, lane: int, slot: int, count: int, frames: Array) -> tuple[Array, Array]:
    """Centre (x, y) [n] in world pixels at pixel frames [n] of object `slot` of `count` from the left; `lane` is -1, 0 or 1."""
    centre = CENTRES[count][slot]
    way_x, way_y = path(motion, frames, turn, count)
    if motion == "orbit":
        return centre + lane * SPREAD[count] * 0.5 + way_x, 36 + way_y
    if motion == "fall":
        return centre + lane * SPREAD[count] + way_x, FALL_FROM + way_y
    ground = 30.0 + 10 * lane if motion == "drift" else FLOOR - BOTTOM[shape]
    return centre + way_x, ground + way_y


def pan(camera: str, frames: float | Array) -> float | Array:
    """World pixel at the left edge of the view: 0, out to 32 to the side the camera pans to, and back every 120 frames."""
    sign = {"still": 0.0, "left": -1.0, "right": 1.0}[camera]
    return sign * PAN * (1 - np.cos(2 * np.pi * np.asarray(frames) / PAN_PERIOD)) / 2


def behind_wall(x: Array, y: Array, centre: float, reach: float) -> Array:
    """Whether world places (x, y) [n] lie behind a wall with this centre, or less than `reach` pixels from its sides or its top."""
    return (np.abs(x - centre) < WALL_WIDTH / 2 + reach) & (y > WALL_TOP - reach)
