"""Where a model has brought a scene: objects and cameras drawn late or beside their place are found, and lead what is drawn next."""

from __future__ import annotations

import numpy as np
import pytest

from fkv.metrics.detect import track
from fkv.metrics.shapes import PALETTE
from fkv.pocket.faded import faded
from fkv.pocket.guide import KEEP, Guide, Piece
from fkv.pocket.paint import Renderer
from fkv.pocket.world import Object, Scene
from fkv.text import MOTIONS, SHAPES
from fkv.text.motion import SPEED

MOVES = ("bounce", "drift", "orbit", "fall")


def scene_of(motion: str, *, wall: bool = False, camera: str = "still") -> Scene:
    return Scene("green hills", (Object("red", "ball", motion, 3, 1), Object("blue", "star", "drift", 9, 0)), wall, camera)


def entered(scene: Scene, first: int) -> Guide:
    guide = Guide([Piece(scene, first, 48)], 12)
    guide.enter(0, told=True)
    return guide


@pytest.mark.parametrize("motion", MOVES)
@pytest.mark.parametrize("camera", ["still", "left"])
def test_an_object_drawn_late_and_beside_its_place_is_found_and_followed(motion: str, camera: str) -> None:
    scene = scene_of(motion, camera=camera)
    guide = entered(scene, 24)
    times = np.arange(24, 60.0)
    x, y = scene.paths(times)
    view = np.asarray(scene.camera_x(times))
    late_x, late_y = scene.objects[0].path(times - 12, 0, 2)
    x[:, 0], y[:, 0] = late_x - view + 4, late_y - 3
    guide.off = guide.found(Renderer(scene).frames(24, 12, (x[:12], y[:12])))
    guide.enter(1, told=True)
    found_x, found_y, _ = guide.paths()
    assert guide.strayed
    assert np.hypot(found_x[0, 0] - x[12, 0], found_y[0, 0] - y[12, 0]) < 1.5
    script_x, script_y = (way[12:24] for way in scene.paths(times))
    last = np.hypot(found_x[-1, 0] - x[23, 0], found_y[-1, 0] - y[23, 0])
    assert last < np.hypot(script_x[-1, 0] - x[23, 0], script_y[-1, 0] - y[23, 0]) / 2
    assert np.abs(found_x[:, 1] - script_x[:, 1]).max() < 1.5


def test_an_object_where_the_script_has_it_has_not_strayed() -> None:
    scene = scene_of("orbit")
    guide = entered(scene, 24)
    guide.off = guide.found(Renderer(scene).frames(24, 12))
    guide.enter(1, told=True)
    assert not guide.strayed


def test_the_camera_is_asked_for_where_the_script_has_it_whatever_came_out() -> None:
    scene = scene_of("drift", camera="left")
    guide, times = entered(scene, 24), np.arange(24, 48.0)
    view = np.asarray(scene.camera_x(times - 12))
    x, y = scene.paths(times)
    x += (np.asarray(scene.camera_x(times)) - view)[:, None]
    guide.off = guide.found(Renderer(scene).frames(24, 12, (x[:12], y[:12]), view[:12]))
    guide.enter(1, told=True)
    next_x, _, next_view = guide.paths()
    assert np.array_equal(next_view, scene.camera_x(times[12:]))
    assert np.abs(next_x[0] - x[12]).max() < 2, "objects go on from where they are in view"


def test_an_object_that_is_not_seen_is_expected_where_it_was_last_and_ever_nearer_its_place() -> None:
    scene = scene_of("drift")
    guide = entered(scene, 0)
    guide.off[1][0] = 10.0
    empty = Renderer(Scene("green hills", ())).frames(0, 12, (np.zeros((12, 0)), np.zeros((12, 0))))
    for chunk in (1, 2):
        guide.off = guide.found(empty)
        assert guide.off[1][0] == pytest.approx(10 * KEEP**chunk)
    guide.off = guide.planned
    assert guide.off[1][0] == pytest.approx(10 * KEEP**3)
    for index in range(4):
        guide.enter(index, told=True)
        x, _, _ = guide.paths()
        assert x.shape == (12, 2)


@pytest.mark.parametrize("colour", ["white", "yellow", "blue"])
@pytest.mark.parametrize("camera", ["still", "left"])
def test_an_object_that_has_faded_by_half_is_found_beside_its_place(colour: str, camera: str) -> None:
    scene = Scene("desert sunset", (Object(colour, "star", "drift", 3, 1),), camera=camera)
    guide, painter = entered(scene, 24), Renderer(scene)
    x, y = scene.paths(np.arange(24, 36))
    view = np.asarray(scene.camera_x(np.arange(24, 36.0))) * np.ones(12)
    solid, bare = painter.frames(24, 12, (x + 6, y - 5)).astype(float), painter.scenery(view)
    guide.off = guide.found((0.5 * solid + 0.5 * bare).astype(np.uint8))
    found_x, found_y, _ = guide.paths(guide.off)
    assert np.hypot(found_x - x - 6, found_y - y + 5).max() < 1.5


def test_scenery_alone_is_no_faded_object() -> None:
    scene = Scene("desert sunset", (), camera="left")
    bare = Renderer(scene).scenery(np.array([0.0, 4.0, 8.0]))
    beside = Renderer(scene).scenery(np.array([2.0, 6.0, 10.0]))
    for colour in PALETTE:
        for x, y in ((30.0, 20.0), (64.0, 40.0), (98.0, 60.0)):
            *_, seen = faded(beside, bare, colour, np.full(3, x), np.full(3, y))
            assert not seen.any()


def test_an_object_behind_the_wall_is_not_taken_for_one_that_moved() -> None:
    scene = scene_of("bounce", wall=True)
    times = np.arange(0, 400)
    behind = np.abs(scene.paths(times)[0][:, 0] - scene.wall_x) < 18
    guide = entered(scene, int(times[behind][0]))
    guide.off = guide.found(Renderer(scene).frames(guide.first, 12))
    assert guide.off[0][0] == 0
    assert guide.off[1][:, 0] == pytest.approx([0, 0])


def test_another_scene_and_what_nothing_tells_of_start_anew() -> None:
    first, second = scene_of("orbit"), scene_of("fall")
    guide = Guide([Piece(first, 120, 24), Piece(second, 0, 24)], 12)
    for index, told, kept in ((0, False, 0), (1, True, 5), (2, True, 0), (3, True, 5), (3, False, 0)):
        guide.enter(index, told=told)
        assert guide.off[1][0, 0] == kept
        guide.off[1][0] = 5.0
    assert [start for _, start in guide.chunks] == [120, 132, 0, 12]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("phase", [0, 7])
def test_what_falls_and_was_lost_comes_in_from_above_and_anything_else_starts_as_the_text_says(shape: str, phase: int) -> None:
    for motion in MOTIONS:
        scene = Scene("green hills", (Object("red", shape, motion, phase=phase, lane=1),))
        lost, start = scene.objects[0].anew(240), scene.objects[0].path(np.zeros(1))
        seen = scene.paths(np.arange(236, 264.0), np.array([lost]))
        area = track(Renderer(scene).frames(236, 28, seen), ["red"])["red"].area
        if motion == "fall":
            assert area[:4].max() < 0.05 < area[20] < area[27]
            assert np.diff(seen[1][:, 0]) == pytest.approx(np.full(27, SPEED["fall"]))
        else:
            assert lost == 240
            assert (seen[0][4, 0], seen[1][4, 0]) == pytest.approx((start[0][0], start[1][0]))


def without(scene: Scene, first: int) -> np.ndarray:
    """A chunk of a scene with its first object out of the picture."""
    x, y = scene.paths(np.arange(first, first + 12.0))
    x[:, 0] = -200
    return Renderer(scene).frames(first, 12, (x, y))


@pytest.mark.parametrize("placed", [False, True])
def test_what_is_missing_for_two_chunks_is_asked_for_where_the_text_says_it_starts_until_it_is_there(*, placed: bool) -> None:
    scene = scene_of("drift")
    guide = Guide([Piece(scene, 24, 84)], 12, placed=placed)
    start = scene.objects[0].path(np.arange(24.0), 0, 2)
    for index in range(4):
        guide.enter(index, told=True)
        x, y, _ = guide.paths()
        lost = placed and index >= 2
        script = [way[:, 0] for way in scene.paths(np.arange(24 + 12 * index, 36 + 12 * index))]
        expected = [way[:12] for way in start] if lost else script
        assert np.abs(x[:, 0] - expected[0]).max() < 1e-6
        assert np.abs(y[:, 0] - expected[1]).max() < 1e-6
        assert guide.strayed == lost
        guide.off = guide.found(without(scene, guide.first))
    if not placed:
        return
    guide.enter(4, told=True)
    guide.off = guide.found(guide.drawn()[0])
    guide.enter(5, told=True)
    x, y, _ = guide.paths()
    assert np.abs(x[:, 0] - start[0][12:]).max() < 1.5, "once it is there it goes on from there"
    assert np.abs(x[:, 1] - scene.paths(np.arange(84, 96))[0][:, 1]).max() < 1.5, "the other object has not been missed"


def test_what_is_hidden_or_elsewhere_is_not_missing() -> None:
    hidden = Scene("green hills", (Object("red", "ball", "drift", 0, 2),), wall=True, wall_place=1)
    times = np.arange(0, 720, 12)
    behind = np.flatnonzero((hidden.visible(times)[:, 0] < 0.1) & (hidden.visible(times + 11)[:, 0] < 0.1))
    guide = Guide([Piece(hidden, int(times[behind[0]]), 24)], 12, placed=True)
    guide.enter(0, told=True)
    assert guide.found(without(hidden, guide.first)).missing.tolist() == [0]
    scene = scene_of("drift")
    guide = Guide([Piece(scene, 24, 24)], 12, placed=True)
    guide.enter(0, told=True)
    x, y = scene.paths(np.arange(24, 36.0))
    x[:, 0] = np.where(x[:, 0] > 64, x[:, 0] - 60, x[:, 0] + 60)
    assert guide.found(Renderer(scene).frames(24, 12, (x, y))).missing.tolist() == [0, 0]


def test_an_object_that_starts_late_in_a_clip_is_followed_from_there() -> None:
    scene = scene_of("orbit")
    reel = [Piece(scene, 24, 12, (np.inf, 0.0)), Piece(scene, 36, 24, (36.0, 0.0))]
    x, y = reel[1].paths()
    start = scene.objects[0].path(np.arange(24.0), 0, 2)
    assert np.abs(x[:, 0] - start[0]).max() < 1e-6
    assert reel[0].paths()[0][:, 0].max() < -100
    guide = Guide(reel, 12, placed=True)
    guide.enter(0, told=False)
    guide.enter(1, told=True)
    guide.off = guide.found(Renderer(scene).frames(36, 12, (x[:12], y[:12])))
    guide.enter(2, told=True)
    planned_x, planned_y, _ = guide.paths()
    assert np.abs(planned_x - x[12:]).max() < 1.5
    assert np.abs(planned_y - y[12:]).max() < 1.5
