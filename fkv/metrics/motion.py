"""What a track of centroids says: which prompted motion it is, and how smoothly it runs."""

from __future__ import annotations

import numpy as np

from fkv.text.meaning import MOTIONS
from fkv.text.motion import path

Array = np.ndarray
WINDOW = 96


def misfit(motion: str, x: Array, y: Array, count: int) -> float:
    """Root mean square distance in pixels between a track (NaN where not seen) and the motion's path at its best phase and origin."""
    seen = ~np.isnan(x)
    frames = np.arange(len(x), dtype=np.float64)[seen][None]
    way_x, way_y = path(motion, frames, np.linspace(0, 1, 96, endpoint=False)[:, None], count)
    errors = []
    for way, track in ((way_x, x[seen]), (way_y, y[seen])):
        off = track[None] - way
        errors.append(np.mean((off - off.mean(1, keepdims=True)) ** 2, 1))
    best = (errors[0] + errors[1]).min() if motion == "orbit" else errors[0].min() + errors[1].min()
    return float(np.sqrt(best))


def motions_seen(x: Array, y: Array, count: int) -> list[str]:
    """The best fitting motion in each half-overlapping window of 96 frames in which the object is seen for at least 40; NaN = not seen."""
    found = []
    for start in range(0, max(len(x) - WINDOW, 0) + 1, WINDOW // 2):
        part = slice(start, start + WINDOW)
        if np.sum(~np.isnan(x[part])) >= 40:
            found.append(min(MOTIONS, key=lambda motion: misfit(motion, x[part], y[part], count)))
    return found


def _bends(x: Array, y: Array, limit: float = 8.0) -> Array:
    """Length of the second difference at each inner frame; NaN where not seen or where a step is over `limit` pixels (it re-enters)."""
    step = np.hypot(np.diff(x), np.diff(y))
    bend = np.hypot(np.diff(x, 2), np.diff(y, 2))
    return np.where((step[1:] < limit) & (step[:-1] < limit), bend, np.nan)


def jerk(x: Array, y: Array) -> float:
    """Mean length of the second difference in pixels per frame squared; NaN if the object is never seen three frames in a row."""
    bend = _bends(x, y)
    return float(np.nanmean(bend)) if np.isfinite(bend).any() else float("nan")


def chunk_jump(x: Array, y: Array, chunk: int = 12) -> float:
    """Second difference across chunk seams over that elsewhere (1 = no seam shows); `chunk` in pixel frames. NaN if it cannot be told."""
    bend = _bends(x, y)
    middle = np.arange(1, len(bend) + 1)
    seam = (middle % chunk == 0) | (middle % chunk == chunk - 1)
    if not (np.isfinite(bend[seam]).any() and np.isfinite(bend[~seam]).any()):
        return float("nan")
    return float(np.nanmean(bend[seam]) / max(np.nanmean(bend[~seam]), 1e-3))


def path_error(x: Array, y: Array, true_x: Array, true_y: Array, visible: Array) -> float:
    """Mean distance in pixels between track and truth where at least 95 % of the object is visible and it is seen; NaN if nowhere."""
    off = np.hypot(x - true_x, y - true_y)[visible >= 0.95]
    return float(np.nanmean(off)) if np.isfinite(off).any() else float("nan")
