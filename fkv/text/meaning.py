"""What a pocket prompt can say, its canonical wording, and its fixed one-hot code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fkv.text.motion import WALL_CENTRES, behind_wall, pan, place

COLOURS = ("red", "blue", "yellow", "purple", "white")
SHAPES = ("ball", "box", "star", "triangle")
MOTIONS = ("bounce", "drift", "orbit", "fall")
THEMES = ("green hills", "snowy night", "desert sunset", "calm sea")
CAMERAS = ("still", "left", "right")
MOVING = {"bounce": "bouncing", "drift": "drifting", "orbit": "orbiting", "fall": "falling"}
PLACE = {
    "green hills": "over green hills",
    "snowy night": "on a snowy night",
    "desert sunset": "in a desert sunset",
    "calm sea": "over a calm sea",
}
EXAMPLES = (
    "a red ball bouncing over green hills",
    "a blue star orbiting and a yellow ball drifting on a snowy night",
    "a purple triangle drifting over a calm sea, camera panning right",
    "a white star falling in a desert sunset",
    "a yellow box bouncing over green hills, behind a wall",
    "a red ball bouncing and a blue star orbiting over green hills, camera panning left",
)
MOST_OBJECTS, ROWS, WIDTH = 3, 16, 112
PHASES, LANES, SUNS, HILLS, LANDMARKS, CLOUDS, WALLS = 16, 3, 4, 8, 6, 4, 3
LAYOUT_ROW = 13
PLACED = 64  # first column of the places
TRIES = 256
INSIDE, APART = 9.0, 24.0  # pixels from the centre of an object in plain view to the frame and the wall, and to a nearer object
SEEN_AT = (1.5, 9.5)  # pixel frames of the first chunk whose places are told
ACROSS, DOWN = (-16.0, 144.0, 15), (-16.0, 96.0, 9)  # first and last knot of a place in pixels, number of knots
VALUES = {
    value: index
    for index, value in enumerate(("none", *COLOURS, *SHAPES, *MOTIONS, *THEMES, *CAMERAS, "open", "wall", "one", "two", "three"))
}


@dataclass(frozen=True)
class Thing:
    """One prompted object."""

    colour: str
    shape: str
    motion: str


@dataclass(frozen=True)
class Parsed:
    """What a prompt means: objects in the order of COLOURS, theme, wall, camera. Notes, sentences to the user, do not count as meaning."""

    objects: tuple[Thing, ...]
    theme: str = THEMES[0]
    wall: bool = False
    camera: str = CAMERAS[0]
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Layout:
    """What a prompt leaves open and the seed decides: sun, hills, landmarks, clouds, the wall's place, and (phase, lane) of each object,
    each a number from a small set. No places: nothing is said of where objects start."""

    sun: int
    hills: int
    landmarks: int
    clouds: int
    wall: int
    places: tuple[tuple[int, int], ...] = ()


def seeded_layout(parsed: Parsed, seed: int) -> Layout:
    """The layout that a seed gives a prompt. Wall and places are drawn until every object starts in plain view and none is behind the wall
    half of the time, so that what a prompt says is seen before anything hides it; or, where that cannot be, most of them do."""
    rng = np.random.default_rng((seed, 17))
    sun, hills, landmarks, clouds = (int(rng.integers(size)) for size in (SUNS, HILLS, LANDMARKS, CLOUDS))
    best, most = Layout(sun, hills, landmarks, clouds, 0), -1
    for _ in range(TRIES):
        wall = int(rng.integers(WALLS))
        places = tuple((int(rng.integers(PHASES)), int(rng.integers(LANES))) for _ in parsed.objects)
        layout = Layout(sun, hills, landmarks, clouds, wall, places)
        shown = int(plain(parsed, layout).sum())
        if shown > most:
            best, most = layout, shown
        if shown == len(parsed.objects):
            break
    return best


def plain(parsed: Parsed, layout: Layout) -> np.ndarray:
    """Which objects [bool] start in plain view (inside the frame, beside wall and nearer objects) and stay behind the wall for less than
    half of a long time."""
    start, ever = np.array(SEEN_AT), np.arange(0.0, 720.0, 15.0)
    centre, seen, good = WALL_CENTRES[layout.wall], [], []
    for slot in range(len(parsed.objects)):
        x, y = _path(parsed, layout, slot, start)
        view_x = x - pan(parsed.camera, start)
        clear = (view_x > INSIDE) & (view_x < 128 - INSIDE) & (y > INSIDE) & (y < 80 - INSIDE)
        if parsed.wall:
            clear &= ~behind_wall(x, y, centre, INSIDE)
            clear &= behind_wall(*_path(parsed, layout, slot, ever), centre, 4).mean() < 0.5
        for nearer_x, nearer_y in seen:
            clear &= np.hypot(x - nearer_x, y - nearer_y) > APART
        seen.append((x, y))
        good.append(bool(clear.all()))
    return np.array(good)


def describe(parsed: Parsed) -> str:
    """The canonical wording; `parse` reads it back to an equal value."""
    named = [f"a {thing.colour} {thing.shape} {MOVING[thing.motion]}" for thing in parsed.objects]
    things = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    wall = ", behind a wall" if parsed.wall else ""
    camera = "" if parsed.camera == "still" else f", camera panning {parsed.camera}"
    return f"{things} {PLACE[parsed.theme]}{wall}{camera}"


def _words(parsed: Parsed) -> list[str]:
    """The value in each used row: colour, shape and motion of three objects, theme, camera, wall, number of objects."""
    words = [word for thing in parsed.objects for word in (thing.colour, thing.shape, thing.motion)]
    words += ["none"] * (3 * MOST_OBJECTS - len(words))
    return [*words, parsed.theme, parsed.camera, "wall" if parsed.wall else "open", ("one", "two", "three")[len(parsed.objects) - 1]]


def encode_many(prompts: Sequence[Parsed], layouts: Sequence[Layout] = ()) -> np.ndarray:
    """Embeddings float32 [n, 16, 112]: each used row is its row number one-hot (16) and its value one-hot (48); unused rows are zero.

    A layout, where given, has a row of its own; an object's phase and lane stand in the row of its motion, and where it is early and late
    in the first chunk in all its rows: x, then y, each shared between the two nearest knots.
    """
    values = np.array([[VALUES[word] for word in _words(parsed)] for parsed in prompts])
    out = np.zeros((len(prompts), ROWS, WIDTH), np.float32)
    rows = np.arange(values.shape[1])
    out[:, rows, rows] = 1
    out[np.arange(len(prompts))[:, None], rows[None], ROWS + values] = 1
    for code, parsed, layout in zip(out, prompts, layouts):
        _write_layout(code, parsed, layout)
    return out


def _write_layout(code: np.ndarray, parsed: Parsed, layout: Layout) -> None:
    offset = ROWS
    code[LAYOUT_ROW, LAYOUT_ROW] = 1
    for choice, size in zip(
        (layout.sun, layout.hills, layout.landmarks, layout.clouds, layout.wall), (SUNS, HILLS, LANDMARKS, CLOUDS, WALLS)
    ):
        code[LAYOUT_ROW, offset + choice] = 1
        offset += size
    for slot, (phase, lane) in enumerate(layout.places):
        code[3 * slot + 2, ROWS + len(VALUES) + phase] = 1
        code[3 * slot + 2, ROWS + len(VALUES) + PHASES + lane] = 1
        code[3 * slot : 3 * slot + 3, PLACED:] = _places(parsed, layout, slot)


def _path(parsed: Parsed, layout: Layout, slot: int, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre (x, y) [n] of an object in world pixels at pixel frames [n]."""
    thing, (phase, lane) = parsed.objects[slot], layout.places[slot]
    return place(thing.shape, thing.motion, phase / PHASES, lane - 1, slot, len(parsed.objects), frames)


def _places(parsed: Parsed, layout: Layout, slot: int) -> np.ndarray:
    """Where an object of the scene is in the view at the frames SEEN_AT [48]."""
    frames = np.array(SEEN_AT)
    x, y = _path(parsed, layout, slot, frames)
    x = x - pan(parsed.camera, frames)
    return np.concatenate([_between(value, *knots) for pair in zip(x, y) for value, knots in zip(pair, (ACROSS, DOWN))])


def _between(value: float, first: float, last: float, count: int) -> np.ndarray:
    """Weights [count], of sum 1, of the two knots on either side of a value; values beyond the ends count as the ends."""
    at = (np.clip(value, first, last) - first) / (last - first) * (count - 1)
    return np.maximum(0, 1 - np.abs(np.arange(count) - at))
