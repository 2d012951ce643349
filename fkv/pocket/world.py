"""The pocket world: a small scene in closed form, so any frame is known exactly and every picture has its truth.

A scene is what the prompt says (objects, theme, wall, camera) and a few hidden choices it does not say (phases, layout), each from
a small set. Positions are in pixels of an 80 x 128 frame; time is the pixel-frame index, 24 frames a second.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fkv.metrics.shapes import cover, distance
from fkv.text import CAMERAS, COLOURS, MOTIONS, SHAPES, THEMES, Layout, Parsed, Thing, describe, seeded_layout
from fkv.text.meaning import CLOUDS, HILLS, LANDMARKS, LANES, PHASES, SUNS, WALLS
from fkv.text.motion import BOTTOM, FALL_FROM, FALL_SPAN, SPEED, WALL_CENTRES, WALL_FOOT, WALL_TOP, WALL_WIDTH, behind_wall, pan, place

Array = np.ndarray
HEIGHT, WIDTH, FPS = 80, 128, 24


@dataclass(frozen=True)
class Object:
    """One thing in a scene: what the prompt says of it, and its hidden phase in [0, 16) and lane in [0, 3)."""

    colour: str
    shape: str
    motion: str
    phase: int = 0
    lane: int = 0

    def path(self, frames: Array, slot: int = 0, count: int = 1) -> tuple[Array, Array]:
        """Centre (x, y) [n] in world pixels at pixel frames [n], as object `slot` of `count`; slots lie from left to right."""
        return place(self.shape, self.motion, self.phase / PHASES, self.lane - 1, slot, count, frames)

    def anew(self, frame: float) -> float:
        """The pixel frame at which the way begins of one that was lost and is to come back at `frame`: then, from the place where the text
        has it start; but what falls has its foot at the upper edge then, as each time it comes back of itself."""
        if self.motion != "fall":
            return frame
        return frame + (self.phase / PHASES * FALL_SPAN + FALL_FROM + BOTTOM[self.shape]) / SPEED["fall"]


@dataclass(frozen=True)
class Truth:
    """Where an object is in one frame: centre in frame pixels after the camera, and its visible share in [0, 1]."""

    colour: str
    shape: str
    x: float
    y: float
    visible: float


@dataclass(frozen=True)
class Scene:
    """Objects (1 to 3, in the order of COLOURS, nearest first), theme, wall and camera; then the hidden layout choices, and after how many
    pixel frames of another scene this one begins: the camera's pan goes on where a prompt changes."""

    theme: str
    objects: tuple[Object, ...]
    wall: bool = False
    camera: str = "still"
    sun: int = 0
    hills: int = 0
    landmarks: int = 0
    clouds: int = 0
    wall_place: int = 0
    after: int = 0

    @property
    def wall_x(self) -> float:
        """Centre of the wall in world pixels."""
        return WALL_CENTRES[self.wall_place]

    def camera_x(self, frame: float | Array) -> float | Array:
        """World pixel at the left edge of the view."""
        return pan(self.camera, np.asarray(frame) + self.after)

    def paths(self, frames: Array, starts: Array | None = None) -> tuple[Array, Array]:
        """Centres (x, y), each [n, objects], in frame pixels after the camera, at pixel frames [n]; ways begin at frame 0 or at `starts`
        [objects]."""
        frames = np.asarray(frames, np.float64)
        count = len(self.objects)
        since = frames[:, None] - (np.zeros(count) if starts is None else starts)
        pairs = [thing.path(since[:, slot], slot, count) for slot, thing in enumerate(self.objects)]
        view = np.asarray(self.camera_x(frames))[:, None]
        return np.stack([x for x, _ in pairs], 1) - view, np.stack([y for _, y in pairs], 1)

    def state(self, frame: int) -> list[Truth]:
        """The truth about every object in one pixel frame."""
        frames = np.array([frame])
        x, y = self.paths(frames)
        visible = self.visible(frames)
        return [Truth(o.colour, o.shape, float(x[0, i]), float(y[0, i]), float(visible[0, i])) for i, o in enumerate(self.objects)]

    def visible(self, frames: Array) -> Array:
        """Visible share [n, objects] of each object: inside the frame, not behind the wall, not behind a nearer object."""
        frames = np.asarray(frames, np.float64)
        xs, ys = self.paths(frames)
        grid = np.arange(-20.0, 21.0)
        shares = np.zeros(xs.shape)
        for i, thing in enumerate(self.objects):
            area = cover(distance(thing.shape, grid[None, :], grid[:, None]))
            px, py = xs[:, i, None, None] + grid[None, None, :], ys[:, i, None, None] + grid[None, :, None]
            seen = ((px >= -0.5) & (px < WIDTH - 0.5) & (py >= -0.5) & (py < HEIGHT - 0.5)).astype(np.float64)
            if self.wall:
                left = self.wall_x - WALL_WIDTH / 2 - np.asarray(self.camera_x(frames))[:, None, None]
                seen *= ~((px >= left) & (px < left + WALL_WIDTH) & (py >= WALL_TOP) & (py < WALL_FOOT))
            for j in range(i):
                near = distance(self.objects[j].shape, px - xs[:, j, None, None], py - ys[:, j, None, None])
                seen *= 1 - cover(near)
            shares[:, i] = (seen * area).sum((1, 2)) / area.sum()
        return shares


def parsed_of(scene: Scene) -> Parsed:
    """What the prompt of a scene says, without its hidden choices."""
    things = tuple(Thing(o.colour, o.shape, o.motion) for o in scene.objects)
    return Parsed(things, scene.theme, scene.wall, scene.camera)


def layout_of(scene: Scene, *, places: bool = True) -> Layout:
    """The hidden choices of a scene; without `places` those of its objects stay hidden."""
    return Layout(
        scene.sun,
        scene.hills,
        scene.landmarks,
        scene.clouds,
        scene.wall_place,
        tuple((o.phase, o.lane) for o in scene.objects) if places else (),
    )


def laid_out(parsed: Parsed, seed: int) -> Scene:
    """The scene that a prompt and a seed mean."""
    layout = seeded_layout(parsed, seed)
    things = tuple(Object(t.colour, t.shape, t.motion, *place) for t, place in zip(parsed.objects, layout.places))
    hidden = (layout.sun, layout.hills, layout.landmarks, layout.clouds, layout.wall)
    return Scene(parsed.theme, things, parsed.wall, parsed.camera, *hidden)


def prompt_of(scene: Scene) -> str:
    """The scene in the canonical English wording, which `fkv.text.parse` reads back."""
    return describe(parsed_of(scene))


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene: 62 / 30 / 8 % with one / two / three objects, 30 % panning, 25 % with a wall, all else uniform."""
    count = int(rng.choice(3, p=(0.62, 0.30, 0.08))) + 1
    colours = np.sort(rng.choice(len(COLOURS), count, replace=False))
    things = tuple(Thing(COLOURS[c], SHAPES[rng.integers(4)], MOTIONS[rng.integers(4)]) for c in colours)
    camera = CAMERAS[int(rng.choice(3, p=(0.70, 0.15, 0.15)))]
    return stage(Parsed(things, THEMES[rng.integers(4)], bool(rng.random() < 0.25), camera), rng)


def stage(parsed: Parsed, rng: np.random.Generator) -> Scene:
    """A scene for what a prompt says, its hidden choices drawn from `rng` such that no object stays behind the wall most of the time."""
    scene = None
    for _ in range(12):
        scene = Scene(
            parsed.theme,
            tuple(Object(t.colour, t.shape, t.motion, int(rng.integers(PHASES)), int(rng.integers(LANES))) for t in parsed.objects),
            parsed.wall,
            parsed.camera,
            *(int(rng.integers(n)) for n in (SUNS, HILLS, LANDMARKS, CLOUDS, WALLS)),
        )
        if not scene.wall or _behind_wall(scene).max() < 0.5:
            break
    assert scene is not None
    return scene


def _behind_wall(scene: Scene) -> Array:
    """Share [objects] of a long time that the centre of each object spends behind the wall."""
    frames = np.arange(0.0, 720.0, 15.0)
    count = len(scene.objects)
    shares = []
    for slot, thing in enumerate(scene.objects):
        x, y = thing.path(frames, slot, count)
        shares.append(np.mean(behind_wall(x, y, scene.wall_x, 4)))
    return np.array(shares)
