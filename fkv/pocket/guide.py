"""What the world does next from where a model has brought it.

Asked for a picture in which its own past does not end, a network learns to fade what it cannot place. But the world is known: what to draw
after its own frames is the scene as the script goes on from the place and the moment at which each object was last seen in them, drawn back
towards the script a little. These are labels of an expert for the states the learner itself gets into (DAgger, arXiv 1011.0686). The camera
is never off: every frame's number tells where it is.

Within a chunk the same holds for the sampler: what it has met half-way already says where its objects will come out. Asked there for
another place it learns to blur, so it is asked for the same objects, sharp, the nearer to where they came out the less noise is left.

What has been missing where it should be in full view is asked for where the text says that it starts, and goes on from there: the past says
nothing of it any more, and a network that is asked for it at a place that it cannot know leaves it out for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fkv.metrics.detect import track
from fkv.pocket.faded import faded
from fkv.pocket.paint import Renderer, object_mask
from fkv.pocket.world import HEIGHT, WIDTH, Object, Scene
from fkv.text.motion import behind_wall

Array = np.ndarray
KEEP = 0.8  # what is left after a chunk of an object's delay or shift
DELAYS = np.arange(-60.0, 61.0, 4.0)  # pixel frames
LOOKS = (3, 7, 11)  # frames of a chunk that are looked at
LOST = 2  # chunks of full view without a trace of an object, after which it is asked for at its start
AWAY = -1000.0  # pixels
TRACE, DOUBLE, FAR, EDGE, CLOSE = 0.2, 1.6, 44.0, 13.0, 28.0
SHIFT_SPREAD, DELAY_SPREAD = 6.0, 40.0


class Off(NamedTuple):
    """How many frames objects are late [objects], how many pixels they are beside their places [2, objects] and for how many chunks they
    have been missing [objects]."""

    delay: Array
    shift: Array
    missing: Array


@dataclass(frozen=True)
class Piece:
    """Pixel frames [first, first + count) of a scene. `begun`, where given, has for every object the frame at which its way begins rather
    than at 0: infinity for one that is left out."""

    scene: Scene
    first: int
    count: int
    begun: tuple[float, ...] = ()

    @property
    def starts(self) -> Array:
        """The frame [objects] at which each object's way begins."""
        return np.array(self.begun or (0.0,) * len(self.scene.objects))

    def paths(self) -> tuple[Array, Array]:
        """Centres (x, y), each [count, objects], in frame pixels; of what is left out far outside."""
        gone = np.isinf(self.starts)
        x, y = self.scene.paths(np.arange(self.first, self.first + self.count), np.where(gone, 0.0, self.starts))
        return np.where(gone, AWAY, x), y


def cells(mask: Array, group: int) -> Array:
    """Object masks per latent frame from those per pixel frame, each the largest of its `group`."""
    return mask.reshape(-1, group, *mask.shape[1:]).max(axis=1)


def at_place(objects: int) -> Off:
    return Off(np.zeros(objects), np.zeros((2, objects)), np.zeros(objects, int))


def apart(one: Off, other: Off) -> bool:
    """Whether any object is more than half a pixel or a frame elsewhere in one than in the other."""
    beside, late = np.hypot(*(one.shift - other.shift)), np.abs(one.delay - other.delay)
    return bool(beside.max() > 0.5 or late.max() > 1)


def between(one: Off, other: Off, share: float) -> Off:
    """`share` of the way from one to the other, with nothing missing."""
    delay, shift = (here + share * (there - here) for here, there in ((one.delay, other.delay), (one.shift, other.shift)))
    return Off(delay, shift, np.zeros_like(one.missing))


class Guide:
    """Follows one clip, chunk by chunk of `count` pixel frames, and holds how far what the model made of it is `off`. `placed` says whether
    the text tells where objects start, and lost ones are asked for there."""

    def __init__(self, reel: Sequence[Piece], count: int, *, placed: bool = False):
        self.count, self.placed = count, placed
        self.chunks = [(piece, first) for piece in reel for first in range(piece.first, piece.first + piece.count, count)]
        self.scene: Scene | None = None
        self.painter: Renderer | None = None

    def enter(self, index: int, *, told: bool) -> None:
        """Go on to a chunk: what things were off is left behind where the scene changes, or nothing tells where they are; what is lost
        starts `anew`."""
        piece, self.first = self.chunks[index]
        scene = piece.scene
        self.script = np.where(np.isinf(piece.starts), 0.0, piece.starts)
        if scene is not self.scene or not told:
            if scene is not self.scene:
                self.painter = None
            self.scene, self.off, self.begun = scene, at_place(len(scene.objects)), self.script
        self.begun = np.maximum(self.script, self.begun)
        if self.placed:
            lost = self.off.missing >= LOST
            self.begun = np.where(lost, [thing.anew(self.first) for thing in scene.objects], self.begun)
            self.off = self.off._replace(delay=np.where(lost, 0.0, self.off.delay), shift=np.where(lost, 0.0, self.off.shift))

    @property
    def strayed(self) -> bool:
        return bool((self.begun != self.script).any()) or apart(self.off, at_place(len(self._scene.objects)))

    @property
    def planned(self) -> Off:
        """How far things are off at the end of a chunk that is as it is to be."""
        off = self.off
        return Off(KEEP * off.delay, KEEP * off.shift, np.zeros_like(off.missing))

    def paths(self, off: Off | None = None) -> tuple[Array, Array, Array]:
        """Where objects and camera are in the chunk, objects on their way back to the script, or as far `off` all along: centres (x, y),
        each [n, objects], in frame pixels, and the world pixel [n] at the left edge of the view."""
        scene, (delay, shift, _) = self._scene, off or self.off
        times = np.arange(self.first, self.first + self.count, dtype=np.float64)
        left = np.ones(self.count) if off else np.linspace(1.0, KEEP, self.count)
        ways = [self._way(slot, times - left * delay[slot]) for slot in range(len(scene.objects))]
        view = np.asarray(scene.camera_x(times))
        x, y = (np.stack(parts, 1) for parts in zip(*ways))
        return x + left[:, None] * shift[0] - view[:, None], y + left[:, None] * shift[1], view

    def drawn(self, off: Off | None = None) -> tuple[Array, Array]:
        """The chunk with objects on these paths: frames uint8 [n, 80, 128, 3] and object masks [n, rows, columns]."""
        x, y, view = self.paths(off)
        mask = object_mask(self._scene, self.first, self.count, (x, y), view)
        return self._painter.frames(self.first, self.count, (x, y), view), mask

    def found(self, frames: Array) -> Off:
        """How far things are off in a chunk that came out as `frames` uint8 [n, 80, 128, 3]: as planned where nothing is left of one."""
        scene, looks, times = self._scene, list(LOOKS), self.first + np.array(LOOKS, np.float64)
        xs, ys, view = (way[looks] for way in self.paths())
        found = track(frames[looks], [thing.colour for thing in scene.objects])
        delay, shift, missing = self.planned
        clear = self._clear(xs, ys, view)
        for slot, thing in enumerate(scene.objects):
            one = found[thing.colour]
            x, y, seen = one.x, one.y, clear[:, slot] & (one.area > TRACE) & (one.area < DOUBLE)
            seen &= np.hypot(x - xs[:, slot], y - ys[:, slot]) < FAR
            here = clear[:, slot]
            if seen.sum() < 2 <= here.sum():
                x, y, seen = xs[:, slot].copy(), ys[:, slot].copy(), np.zeros_like(seen)
                x[here], y[here], seen[here] = faded(frames[looks][here], self._painter.scenery(view[here]), thing.colour, x[here], y[here])
            if seen.sum() < 2 and (one.area <= TRACE).all():
                missing[slot] = self.off.missing[slot] + (here.sum() >= 2)
            if seen.sum() >= 2:
                delay[slot], shift[:, slot] = self._fit(slot, times[seen], x[seen] + view[seen], y[seen])
        return Off(delay, shift, missing)

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
            clear &= ~behind_wall(xs + view[:, None], ys, scene.wall_x, EDGE)
        for slot in range(len(scene.objects)):
            for nearer in range(slot):
                clear[:, slot] &= np.hypot(xs[:, slot] - xs[:, nearer], ys[:, slot] - ys[:, nearer]) > CLOSE
        return clear

    def _way(self, slot: int, times: Array) -> tuple[Array, Array]:
        thing: Object = self._scene.objects[slot]
        return thing.path(times - self.begun[slot], slot, len(self._scene.objects))

    @property
    def _painter(self) -> Renderer:
        self.painter = self.painter or Renderer(self._scene)
        return self.painter

    @property
    def _scene(self) -> Scene:
        assert self.scene is not None, "enter a chunk first"
        return self.scene
