"""Quality without downloaded networks: what is seen in generated frames, compared with what the prompt asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fkv.metrics.detect import Track, shapes_seen, track
from fkv.metrics.motion import chunk_jump, jerk, motions_seen, path_error
from fkv.metrics.picture import (
    CAMERA_PERIOD,
    CAMERA_SHIFT,
    background_kept,
    camera_shift,
    clear_of,
    psnr,
    saturation,
    sharpness,
    theme_seen,
    wall_seen,
)

if TYPE_CHECKING:
    from fkv.text import Parsed, Thing

Array = np.ndarray
LONGEST_HIDING, SHAPE_EVERY = 200, 3


@dataclass(frozen=True)
class ObjectMetrics:
    """One prompted object. Shares are of frames (present, kept, doubled), of frames seen whole (shape) or of 4-second windows (motion)."""

    colour: str
    present: float
    kept: float
    doubled: float
    shape: str | None
    shape_share: float
    shape_right: bool
    motion: str | None
    motion_share: float
    motion_right: bool
    jerk: float
    chunk_jump: float

    @property
    def right(self) -> bool:
        """Colour there in most frames in which it can be seen, with the prompted shape."""
        return self.kept >= 0.5 and self.shape_right


@dataclass(frozen=True)
class WorldMetrics:
    """A clip against its prompt. Shares in [0, 1], that of the camera of the pans it is to make; NaN where a clip is too short to tell.
    Drifts compare the last chunk with the third, that of sharpness without the objects, which may come and go."""

    objects: tuple[ObjectMetrics, ...]
    objects_right: float
    present: float
    kept: float
    shape_right: float
    motion_right: float
    ghost: float
    theme: str
    theme_right: bool
    wall_right: bool
    camera_right: float
    jerk: float
    chunk_jump: float
    sharpness: float
    saturation: float
    sharpness_drift: float
    saturation_drift: float
    background_psnr: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN becomes None."""
        return _plain(asdict(self))


def world_metrics(frames: Array, parsed: Parsed, chunk: int = 12) -> WorldMetrics:
    """Measures frames uint8 [n, 80, 128, 3], whose first is the start of a scene, against what the prompt means; `chunk` in pixel frames.

    Raises ValueError if the frames are not uint8 RGB of that size or fewer than two chunks.
    """
    if frames.dtype != np.uint8 or frames.shape[1:] != (80, 128, 3) or len(frames) < 2 * chunk:
        raise ValueError(f"got {frames.dtype} frames of shape {frames.shape}; need uint8 [n, 80, 128, 3] with n >= {2 * chunk}")
    tracks = track(frames)
    wanted = [tracks[thing.colour] for thing in parsed.objects]
    walls = wall_seen(frames)
    keep = clear_of(tuple(tracks.values()), len(frames))
    shift = camera_shift(frames, keep)
    world_shift = shift if parsed.camera != "still" else np.zeros(len(frames))
    things = tuple(
        _object(frames, thing, own, [t for t in wanted if t is not own], walls, world_shift, len(parsed.objects), chunk)
        for thing, own in zip(parsed.objects, wanted)
    )
    ghosts = [t.present.mean() for colour, t in tracks.items() if colour not in {thing.colour for thing in parsed.objects}]
    sharp, strong = sharpness(frames), saturation(frames)
    theme = theme_seen(frames)
    return WorldMetrics(
        objects=things,
        objects_right=_mean([thing.right for thing in things]),
        present=_mean([thing.present for thing in things]),
        kept=_mean([thing.kept for thing in things]),
        shape_right=_mean([thing.shape_right for thing in things]),
        motion_right=_mean([thing.motion_right for thing in things]),
        ghost=_mean(ghosts),
        theme=theme,
        theme_right=theme == parsed.theme,
        wall_right=bool(np.isfinite(walls[:, 0]).mean() > 0.5) == parsed.wall,
        camera_right=camera_obeyed(shift, parsed.camera),
        jerk=_mean([thing.jerk for thing in things]),
        chunk_jump=_mean([thing.chunk_jump for thing in things]),
        sharpness=float(sharp.mean()),
        saturation=float(strong.mean()),
        sharpness_drift=_drift(sharpness(frames, keep), chunk),
        saturation_drift=_drift(strong, chunk),
        background_psnr=background_kept(frames, keep, parsed.camera),
    )


def camera_obeyed(shift: Array, camera: str) -> float:
    """Whether the foreground stayed, or went left (camera right) or right (camera left) by more than half of what the camera should; of a
    clip of one pan or more the share of its whole pans in which it did. It counts as going to neither side where it goes to both."""
    if camera == "still":
        return float(np.abs(shift).max() < 6)
    signed = shift if camera == "right" else -shift
    far = min(1.0, 2 * len(shift) / CAMERA_PERIOD) * CAMERA_SHIFT / 2
    if signed.max() <= far or signed.min() <= -far:
        return 0.0
    pans = [signed[first : first + CAMERA_PERIOD] for first in range(0, len(signed) - CAMERA_PERIOD + 1, CAMERA_PERIOD)]
    return _mean([float(np.ptp(pan) > far) for pan in pans]) if pans else 1.0


def _object(
    frames: Array, thing: Thing, own: Track, others: Sequence[Track], walls: Array, shift: Array, count: int, chunk: int
) -> ObjectMetrics:
    shapes = Counter(shapes_seen(frames, own, SHAPE_EVERY))
    x, y = np.where(own.present, own.x, np.nan), np.where(own.present, own.y, np.nan)
    motions = Counter(motions_seen(x + shift, y, count))
    shape, motion = _most(shapes), _most(motions)
    return ObjectMetrics(
        colour=thing.colour,
        present=float(own.present.mean()),
        kept=float((own.present | excused(own, others, walls)).mean()),
        doubled=float((own.extra >= 0.5).mean()),
        shape=shape,
        shape_share=shapes[thing.shape] / max(shapes.total(), 1),
        shape_right=shape == thing.shape,
        motion=motion,
        motion_share=motions[thing.motion] / max(motions.total(), 1),
        motion_right=motion == thing.motion,
        jerk=jerk(x, y),
        chunk_jump=chunk_jump(x, y, chunk),
    )


def excused(own: Track, others: Sequence[Track], walls: Array) -> Array:
    """bool [n]: frames of an absence of at most 200 frames that begins or ends where an object may hide: at the frame's edge, at the wall,
    or near another object."""
    present = own.present
    out = np.zeros(len(present), bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[1], present.astype(int), [1]])))
    for start, stop in zip(edges[::2], edges[1::2]):
        beside = [t for t in (start - 1, stop) if 0 <= t < len(present)]
        if beside and stop - start <= LONGEST_HIDING and any(_may_hide(t, own, others, walls) for t in beside):
            out[start:stop] = True
    return out


def _may_hide(frame: int, own: Track, others: Sequence[Track], walls: Array) -> bool:
    x, y = float(own.x[frame]), float(own.y[frame])
    at_edge = not (14 < x < 114 and 14 < y < 66)
    left, right = walls[frame]
    at_wall = bool(left - 14 < x < right + 14 and y > 12)
    return at_edge or at_wall or any(np.hypot(t.x[frame] - x, t.y[frame] - y) < 30 for t in others)


def _most(counts: Counter[str]) -> str | None:
    return counts.most_common(1)[0][0] if counts else None


def _mean(values: Sequence[float]) -> float:
    kept = [float(value) for value in values if np.isfinite(value)]
    return float(np.mean(kept)) if kept else float("nan")


def _drift(values: Array, chunk: int) -> float:
    """The last chunk's mean over the third chunk's (over the second's in a shorter clip), less one."""
    base = values[2 * chunk : 3 * chunk] if len(values) > 3 * chunk else values[chunk : 2 * chunk]
    return float(values[-chunk:].mean() / max(float(base.mean()), 1e-6) - 1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


__all__ = [
    "ObjectMetrics",
    "Track",
    "WorldMetrics",
    "background_kept",
    "camera_obeyed",
    "camera_shift",
    "chunk_jump",
    "clear_of",
    "excused",
    "jerk",
    "motions_seen",
    "path_error",
    "psnr",
    "saturation",
    "shapes_seen",
    "sharpness",
    "theme_seen",
    "track",
    "wall_seen",
    "world_metrics",
]
