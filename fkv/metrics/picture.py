"""Measures of whole pictures: PSNR, sharpness, saturation, theme, wall, camera shift, and whether the background stayed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fkv.metrics.detect import Track

Array = np.ndarray
THEME_COLOURS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "green hills": ((98, 166, 237), (92, 172, 70)),
    "snowy night": ((23, 27, 65), (172, 188, 221)),
    "desert sunset": ((227, 108, 107), (205, 132, 81)),
    "calm sea": ((125, 201, 222), (24, 106, 137)),
}
BRICKS = ((158, 120, 106), (106, 90, 88))
WALL_ROWS, GROUND_ROWS = slice(30, 68), slice(50, 68, 2)
CAMERA_PERIOD, CAMERA_SHIFT = 120, 32.0
CLEAR = 23.0


def psnr(a: Array, b: Array, keep: Array | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures or clips of one shape, over pixels where `keep` (no channel axis) is true.

    At most 99 (equal); NaN if nothing is kept. Raises ValueError if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"cannot compare {a.shape} with {b.shape}; cut both to the same frames and size")
    return _decibels(_square_error(a, b, np.ones(a.shape[:-1], bool) if keep is None else keep))


def _square_error(a: Array, b: Array, keep: Array) -> float:
    off = ((a.astype(np.float32) - b.astype(np.float32)) ** 2)[np.broadcast_to(keep, a.shape[:-1])]
    return float(off.mean()) if off.size else float("nan")


def _decibels(square_error: float) -> float:
    return float(np.minimum(99.0, 10 * np.log10(255**2 / np.maximum(square_error, 1e-6))))


def sharpness(frames: Array, keep: Array | None = None) -> Array:
    """Gradient energy [n] of frames uint8 [n, h, w, 3]: root mean square step of luma between neighbouring pixels, in grey levels; over
    pixels where `keep` [n, h, w] is true."""
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    step = np.diff(luma, axis=1)[:, :, :-1] ** 2 + np.diff(luma, axis=2)[:, :-1] ** 2
    weight = np.ones_like(step) if keep is None else keep[:, :-1, :-1].astype(np.float32)
    return np.sqrt((step * weight).sum((1, 2)) / np.maximum(weight.sum((1, 2)), 1))


def saturation(frames: Array) -> Array:
    """Mean HSV saturation [n] in [0, 1] of frames uint8 [n, h, w, 3]."""
    red, green, blue = np.moveaxis(frames.astype(np.float32), -1, 0)
    top, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return ((top - low) / np.maximum(top, 1)).mean((1, 2))


def theme_seen(frames: Array) -> str:
    """The theme whose sky and ground colours are nearest to those of frames uint8 [n, h, w, 3] (medians, so objects do not count)."""
    sky = np.median(frames[:, :12].reshape(-1, 3), axis=0)
    ground = np.median(frames[:, -6:].reshape(-1, 3), axis=0)
    off = {theme: np.hypot(np.linalg.norm(sky - a), np.linalg.norm(ground - b)) for theme, (a, b) in THEME_COLOURS.items()}
    return min(off, key=lambda theme: float(off[theme]))


def wall_seen(frames: Array) -> Array:
    """Left and right edge [n, 2] in pixels of the brick wall in each frame, NaN where none is seen."""
    rows = frames[:, WALL_ROWS].astype(np.float32)
    off = np.minimum.reduce([np.linalg.norm(rows - np.array(brick, np.float32), axis=-1) for brick in BRICKS])
    brick = (off < 38).mean(1) > 0.65
    edges = np.full((len(frames), 2), np.nan)
    for i, columns in enumerate(brick):
        found = np.flatnonzero(columns)
        if len(found) >= 12 and found[-1] - found[0] < 60:
            edges[i] = found[0], found[-1] + 1
    return edges


def clear_of(tracks: Sequence[Track], count: int, size: tuple[int, int] = (80, 128)) -> Array:
    """bool [count, h, w]: pixels at least 23 pixels from every tracked centroid."""
    rows, columns = np.arange(size[0])[None, :, None], np.arange(size[1])[None, None, :]
    keep = np.ones((count, *size), bool)
    for found in tracks:
        x, y = np.nan_to_num(found.x, nan=-999)[:, None, None], np.nan_to_num(found.y, nan=-999)[:, None, None]
        keep &= np.hypot(columns - x, rows - y) > CLEAR
    return keep


def camera_shift(frames: Array, keep: Array, reach: int = 40, every: int = 4, step: int = 5) -> Array:
    """How far [n], in pixels, the foreground has moved to the left since the first frame: the course, within `reach`, on which the ground
    band of every fourth frame best matches both the first and the one before; straight lines between. `keep` as from `clear_of`."""
    band, mask = frames[::every, GROUND_ROWS, :, 0].astype(np.float32), keep[::every, GROUND_ROWS]
    first = _mismatch(band[:1], band, mask[:1], mask, reach)
    before = _mismatch(band[:-1], band[1:], mask[:-1], mask[1:], step)
    return np.interp(np.arange(len(frames)), np.arange(len(band)) * every, _course(first, before) - reach)


def _mismatch(then: Array, now: Array, keep_then: Array, keep_now: Array, reach: int) -> Array:
    """Mean square difference [m, 2 reach + 1] of bands [m, h, w] when the later has moved to the left by -reach .. reach pixels."""
    width = now.shape[2]
    costs = np.zeros((len(now), 2 * reach + 1))
    for i, shift in enumerate(range(-reach, reach + 1)):
        a, b = slice(max(shift, 0), width + min(shift, 0)), slice(max(-shift, 0), width - max(shift, 0))
        both = keep_then[:, :, a] & keep_now[:, :, b]
        count = both.sum((1, 2))
        off = ((then[:, :, a] - now[:, :, b]) ** 2 * both).sum((1, 2))
        costs[:, i] = np.where(count > 200, off / np.maximum(count, 1), np.nan)
    known = np.isfinite(costs)
    return np.where(known, costs, costs[known].mean() if known.any() else 0.0)


def _course(first: Array, before: Array, ease: float = 0.5) -> Array:
    """The cheapest course [m] of column numbers through costs `first` [m, columns] from the middle column, each step at the price `before`
    [m - 1, steps] plus `ease` times its square; refined between columns by a parabola."""
    rows, columns = first.shape
    step = before.shape[1] // 2
    total = np.full(columns, np.inf)
    total[columns // 2] = 0.0
    back = np.zeros((rows, columns), int)
    for row in range(1, rows):
        wide = np.pad(total, step, constant_values=np.inf)
        moves = [wide[step - k : step - k + columns] + before[row - 1, k + step] + ease * k * k for k in range(-step, step + 1)]
        back[row] = np.argmin(moves, 0) - step
        total = np.min(moves, 0) + first[row]
    at = int(total.argmin())
    course = np.full(rows, float(columns // 2))
    for row in range(rows - 1, 0, -1):
        course[row] = at
        if 0 < at < columns - 1:
            a, b, c = first[row, at - 1 : at + 2]
            course[row] += float(np.clip(0.5 * (a - c) / max(a - 2 * b + c, 1e-6), -0.5, 0.5)) if b <= min(a, c) else 0.0
        at -= back[row, at]
    return course


def background_kept(frames: Array, keep: Array, camera: str) -> float:
    """PSNR in dB of the background against the first frame, objects left out, pooled over every twelfth frame for a still camera, over the
    camera's returns (the best frame within 8 of each) for a moving one. NaN if the clip is too short. `keep` as from `clear_of`."""

    def error(frame: int) -> float:
        return _square_error(frames[frame], frames[0], keep[frame] & keep[0])

    if camera == "still":
        errors = [error(frame) for frame in range(12, len(frames), 12)]
    else:
        returns = range(CAMERA_PERIOD, len(frames), CAMERA_PERIOD)
        errors = [min(error(frame) for frame in range(at - 8, min(at + 9, len(frames)))) for at in returns]
    known = [value for value in errors if np.isfinite(value)]
    return _decibels(float(np.mean(known))) if known else float("nan")
