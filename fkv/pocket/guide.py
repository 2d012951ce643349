"""What the world does next from where a model has brought it.

Asked for a picture in which its own past does not end, a network learns to fade what it cannot place. But the world is known: what to draw
after its own frames is the scene as the script goes on from the place and the moment at which each object was last seen in them, drawn back
towards the script a little. These are labels of an expert for the states the learner itself gets into (DAgger, arXiv 1011.0686).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fkv.metrics.detect import track
from fkv.pocket.paint import Renderer, object_mask
from fkv.pocket.world import HEIGHT, WALL_TOP, WALL_WIDTH, WIDTH, Object, Scene

Array = np.ndarray
KEEP = 0.8  # what is left after a chunk of an object's delay and shift
DELAYS = np.arange(-60.0, 61.0, 4.0)  # pixel frames
LOOKS = (3, 7, 11)  # frames of a chunk that are looked at
WHOLE, DOUBLE, FAR, EDGE, CLOSE = 0.5, 1.6, 44.0, 13.0, 28.0
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


class Guide:
    """Follows one clip, chunk by chunk of `count` pixel frames: how many frames each object is late [objects], and how many pixels it is
    beside its place [2, objects]."""

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
            self.scene, self.delay, self.shift = scene, np.zeros(len(scene.objects)), np.zeros((2, len(scene.objects)))

    @property
    def strayed(self) -> bool:
        return bool(np.hypot(*self.shift).max() > 0.5 or np.abs(self.delay).max() > 1)

    def paths(self) -> tuple[Array, Array]:
        """Where objects are to be in the chunk: centres (x, y), each [n, objects], in frame pixels."""
        scene = self._scene
        times = np.arange(self.first, self.first + self.count, dtype=np.float64)
        left = np.linspace(1.0, KEEP, self.count)
        ways = [self._way(slot, times - left * self.delay[slot]) for slot in range(len(scene.objects))]
        view = np.asarray(scene.camera_x(times))[:, None]
        x, y = (np.stack(parts, 1) for parts in zip(*ways))
        return x + left[:, None] * self.shift[0] - view, y + left[:, None] * self.shift[1]

    def drawn(self) -> tuple[Array, Array]:
        """The chunk as it is to be: frames uint8 [n, 80, 128, 3] and object masks [n, rows, columns]."""
        self.painter = self.painter or Renderer(self._scene)
        paths = self.paths()
        return self.painter.frames(self.first, self.count, paths), object_mask(self._scene, self.first, self.count, paths)

    def passed(self) -> None:
        """The chunk was as it was to be."""
        self.delay, self.shift = KEEP * self.delay, KEEP * self.shift

    def seen(self, frames: Array) -> None:
        """The chunk came out as `frames` uint8 [n, 80, 128, 3]: find where every object is now."""
        scene, looks = self._scene, list(LOOKS)
        xs, ys = (way[looks] for way in self.paths())
        found = track(frames[looks], [thing.colour for thing in scene.objects])
        times = self.first + np.array(LOOKS, np.float64)
        view = np.asarray(scene.camera_x(times))
        clear = self._clear(xs, ys, view)
        self.passed()
        for slot, thing in enumerate(scene.objects):
            one = found[thing.colour]
            here = clear[:, slot] & (one.area > WHOLE) & (one.area < DOUBLE)
            here &= np.hypot(one.x - xs[:, slot], one.y - ys[:, slot]) < FAR
            if here.sum() >= 2:
                self.delay[slot], self.shift[:, slot] = self._fit(slot, times[here], one.x[here] + view[here], one.y[here])

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
