"""What the world does next from where a model has brought it.

Asked for a picture in which its own past does not end, a network learns to fade what it cannot place. But the world is known: what to draw
after its own frames is the scene as the script goes on from the place and the moment at which each object was last seen in them, drawn back
towards the script a little. These are labels of an expert for the states the learner itself gets into (DAgger, arXiv 1011.0686).

Within a chunk the same holds for the sampler: what it has met half-way already says where its objects will come out. Asked there for
another place it learns to blur, so it is asked for the same objects, sharp, the nearer to where they came out the less noise is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkv.metrics.detect import track
from fkv.pocket.paint import Renderer, object_mask
from fkv.pocket.world import HEIGHT, WALL_TOP, WALL_WIDTH, WIDTH, Object, Scene

Array = np.ndarray
Off = tuple[Array, Array]
KEEP = 0.8  # what is left after a chunk of an object's delay and shift
DELAYS = np.arange(-60.0, 61.0, 4.0)  # pixel frames
LOOKS = (3, 7, 11)  # frames of a chunk that are looked at
TRACE, DOUBLE, FAR, EDGE, CLOSE = 0.2, 1.6, 44.0, 13.0, 28.0
SHIFT_SPREAD, DELAY_SPREAD = 6.0, 40.0


@dataclass(frozen=True)
class Piece:
    """Pixel frames [first, first + count) of a scene."""

    scene: Scene
    first: int
    count: int


def cells(mask: Array, group: int) -> Array:
    """Object masks per latent frame from those per pixel frame, each the largest of its `group`."""
    return mask.reshape(-1, group, *mask.shape[1:]).max(axis=1)


def at_place(objects: int) -> Off:
    return np.zeros(objects), np.zeros((2, objects))


def apart(one: Off, other: Off) -> bool:
    """Whether any object is more than half a pixel or a frame elsewhere in one than in the other."""
    (delay, shift), (other_delay, other_shift) = one, other
    return bool(np.hypot(*(shift - other_shift)).max() > 0.5 or np.abs(delay - other_delay).max() > 1)


def between(one: Off, other: Off, share: float) -> Off:
    """`share` of the way from one to the other."""
    (delay, shift), (other_delay, other_shift) = one, other
    return delay + share * (other_delay - delay), shift + share * (other_shift - shift)


class Guide:
    """Follows one clip, chunk by chunk of `count` pixel frames. How far an object is `off` is how many frames it is late [objects] and how
    many pixels it is beside its place [2, objects]."""

    def __init__(self, reel: Sequence[Piece], count: int):
        self.count = count
        self.chunks = [(piece.scene, first) for piece in reel for first in range(piece.first, piece.first + piece.count, count)]
        self.scene: Scene | None = None
        self.painter: Renderer | None = None

    def enter(self, index: int, *, told: bool) -> None:
        """Go on to a chunk: what objects were off is left behind where the scene changes, or nothing tells where they are."""
        scene, self.first = self.chunks[index]
        if scene is not self.scene or not told:
            self.painter = self.painter if scene is self.scene else None
            self.scene, self.off = scene, at_place(len(scene.objects))

    @property
    def strayed(self) -> bool:
        return apart(self.off, at_place(len(self._scene.objects)))

    @property
    def planned(self) -> Off:
        """How far objects are off at the end of a chunk that is as it is to be."""
        return KEEP * self.off[0], KEEP * self.off[1]

    def paths(self, off: Off | None = None) -> tuple[Array, Array]:
        """Where objects are in the chunk, on their way back to the script, or as far `off` all along: centres (x, y), each [n, objects], in
        frame pixels."""
        scene, (delay, shift) = self._scene, off or self.off
        times = np.arange(self.first, self.first + self.count, dtype=np.float64)
        left = np.ones(self.count) if off else np.linspace(1.0, KEEP, self.count)
        ways = [self._way(slot, times - left * delay[slot]) for slot in range(len(scene.objects))]
        view = np.asarray(scene.camera_x(times))[:, None]
        x, y = (np.stack(parts, 1) for parts in zip(*ways))
        return x + left[:, None] * shift[0] - view, y + left[:, None] * shift[1]

    def drawn(self, off: Off | None = None) -> tuple[Array, Array]:
        """The chunk with objects on these paths: frames uint8 [n, 80, 128, 3] and object masks [n, rows, columns]."""
        self.painter = self.painter or Renderer(self._scene)
        paths = self.paths(off)
        return self.painter.frames(self.first, self.count, paths), object_mask(self._scene, self.first, self.count, paths)

    def found(self, frames: Array) -> Off:
        """How far objects are off in a chunk that came out as `frames` uint8 [n, 80, 128, 3]: as planned where one cannot be seen."""
        scene, looks = self._scene, list(LOOKS)
        xs, ys = (way[looks] for way in self.paths())
        found = track(frames[looks], [thing.colour for thing in scene.objects])
        times = self.first + np.array(LOOKS, np.float64)
        view = np.asarray(scene.camera_x(times))
        clear = self._clear(xs, ys, view)
        delay, shift = self.planned
        for slot, thing in enumerate(scene.objects):
            one = found[thing.colour]
            here = clear[:, slot] & (one.area > TRACE) & (one.area < DOUBLE)
            here &= np.hypot(one.x - xs[:, slot], one.y - ys[:, slot]) < FAR
            if here.sum() >= 2:
                delay[slot], shift[:, slot] = self._fit(slot, times[here], one.x[here] + view[here], one.y[here])
        return delay, shift

    def _fit(self, slot: int, times: Array, x: Array, y: Array) -> tuple[float, Array]:
        """The delay and the shift by which the script explains an object at world places (x, y) [n] best, small ones first."""
        way_x, way_y = self._way(slot, times[None, :] - DELAYS[:, None])
        off = np.stack((x - way_x, y - way_y))
        shift = off.mean(2)
        misfit = np.square(off - shift[:, :, None]).sum((0, 2)) + np.square(shift / SHIFT_SPREAD).sum(0) + np.square(DELAYS / DELAY_SPREAD)
        best = int(misfit.argmin())
        return float(DELAYS[best]), shift[:, best]

    def _clear(self, xs: Array, ys: Array, view: Array) -> Array:
        """Where [n, objects] nothing keeps an object from being seen whole: edge of the frame, wall, a nearer object."""
        scene = self._scene
        clear = (xs > EDGE) & (xs < WIDTH - EDGE) & (ys > EDGE) & (ys < HEIGHT - EDGE)
        if scene.wall:
            clear &= (np.abs(xs + view[:, None] - scene.wall_x) > WALL_WIDTH / 2 + EDGE) | (ys < WALL_TOP - EDGE)
        for slot in range(len(scene.objects)):
            for nearer in range(slot):
                clear[:, slot] &= np.hypot(xs[:, slot] - xs[:, nearer], ys[:, slot] - ys[:, nearer]) > CLOSE
        return clear

    def _way(self, slot: int, times: Array) -> tuple[Array, Array]:
        thing: Object = self._scene.objects[slot]
        return thing.path(times, slot, len(self._scene.objects))

    @property
    def _scene(self) -> Scene:
        assert self.scene is not None, "enter a chunk first"
        return self.scene
