"""The pocket world: exact truth for any frame, smooth and slow, drawn as the truth says."""

from __future__ import annotations

import numpy as np
import pytest

from fkv.metrics.shapes import PALETTE
from fkv.pocket.paint import Renderer, object_mask, render
from fkv.pocket.world import HEIGHT, WIDTH, Object, Scene, laid_out, parsed_of, prompt_of, sample_scene
from fkv.text import COLOURS, MOTIONS, parse


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(count)]


def test_a_prompt_read_back_says_what_the_scene_shows() -> None:
    for scene in scenes(200):
        assert parse(prompt_of(scene)) == parsed_of(scene)
        order = [COLOURS.index(thing.colour) for thing in scene.objects]
        assert order == sorted(set(order))


def test_scenes_follow_the_stated_shares() -> None:
    many = scenes(1500)
    counts = np.bincount([len(scene.objects) for scene in many], minlength=4) / len(many)
    assert counts[1:] == pytest.approx((0.62, 0.30, 0.08), abs=0.04)
    assert np.mean([scene.wall for scene in many]) == pytest.approx(0.25, abs=0.04)
    assert np.mean([scene.camera == "still" for scene in many]) == pytest.approx(0.70, abs=0.04)


def test_a_frame_does_not_depend_on_which_clip_it_is_asked_in() -> None:
    for scene in scenes(12):
        whole = Renderer(scene).frames(100, 40)
        assert whole.shape == (40, HEIGHT, WIDTH, 3)
        assert whole.dtype == np.uint8
        assert np.array_equal(whole[17:20], render(scene, 117, 3))


@pytest.mark.parametrize("motion", MOTIONS)
def test_no_object_is_faster_than_1_1_pixels_a_frame(motion: str) -> None:
    frames = np.arange(2000.0)
    for count in (1, 2, 3):
        for slot in range(count):
            for lane in range(3):
                x, y = Object("red", "ball", motion, 3, lane).path(frames, slot, count)
                step = np.hypot(np.diff(x), np.diff(y))
                assert np.sum(step > 1.1) <= (2000 / 200 + 1 if motion == "fall" else 0), (motion, step.max())


def test_the_camera_goes_out_and_comes_back_to_the_same_picture() -> None:
    scene = Scene("green hills", (Object("red", "ball", "fall"),), wall=True, camera="right")
    assert scene.camera_x(0) == 0
    assert scene.camera_x(60) == pytest.approx(32)
    first, out, back = (render(scene, frame, 1)[0, :, 100:] for frame in (0, 60, 600))
    assert np.abs(first.astype(int) - back).max() <= 1
    assert np.abs(first.astype(int) - out).mean() > 5


def test_the_drawn_colour_lies_where_the_truth_says() -> None:
    checked = 0
    for scene in scenes(60, seed=1):
        frame = render(scene, 30, 1)[0].astype(float)
        for truth in scene.state(30):
            if truth.visible < 0.98:
                continue
            ys, xs = np.mgrid[:HEIGHT, :WIDTH]
            near = np.hypot(xs - truth.x, ys - truth.y) < 20
            match = near & (np.abs(frame - np.array(PALETTE[truth.colour])).max(2) < 60)
            if truth.colour in ("red", "blue", "purple"):
                assert abs(xs[match].mean() - truth.x) < 1.0
                assert abs(ys[match].mean() - truth.y) < 1.5
                checked += 1
    assert checked > 15


def test_visible_share_falls_to_zero_behind_the_wall_and_outside_the_frame() -> None:
    hidden = Scene("calm sea", (Object("red", "ball", "fall", 0, 1),), wall=True, wall_place=1)
    frames = np.arange(200)
    y = hidden.paths(frames)[1][:, 0]
    visible = hidden.visible(frames)[:, 0]
    assert visible[(y > 40) & (y < 56)].max() < 0.01
    assert visible[y < -14].max() == 0
    free = Scene("calm sea", (Object("red", "ball", "orbit"), Object("blue", "star", "drift", 4)))
    assert free.visible(frames)[:, 0].min() > 0.99


def test_the_mask_covers_an_objects_area_and_lies_on_it() -> None:
    scene = Scene("calm sea", (Object("red", "box", "orbit"),))
    mask = object_mask(scene, 10, 36)
    assert mask.shape == (36, 10, 16)
    assert mask.dtype == np.float32
    assert mask.sum((1, 2)) * 64 == pytest.approx(576, rel=0.01)
    x, y = scene.paths(np.arange(10, 46))
    assert (mask.sum(1) @ (np.arange(16) * 8 + 3.5) / mask.sum((1, 2))) == pytest.approx(x[:, 0], abs=4)
    assert (mask.sum(2) @ (np.arange(10) * 8 + 3.5) / mask.sum((1, 2))) == pytest.approx(y[:, 0], abs=4)


def test_what_a_prompt_says_is_in_plain_view_in_the_first_chunk() -> None:
    rng = np.random.default_rng(3)
    prompts = [parsed_of(sample_scene(rng)) for _ in range(150)]
    shares = [laid_out(prompt, seed).visible(np.array([0, 11])).min(axis=0) for seed, prompt in enumerate(prompts)]
    assert np.mean(np.concatenate(shares) > 0.7) > 0.95
    hidden = [prompt for prompt, share in zip(prompts, shares) if share.min() < 0.7]
    assert all(prompt.wall and len(prompt.objects) > 1 for prompt in hidden)


def test_nothing_a_prompt_says_alone_stays_behind_the_wall_most_of_the_time() -> None:
    rng = np.random.default_rng(4)
    prompts = [prompt for prompt in (parsed_of(sample_scene(rng)) for _ in range(400)) if prompt.wall and len(prompt.objects) == 1]
    seen = [(laid_out(prompt, seed).visible(np.arange(0, 720, 5)) > 0.5).mean() for seed, prompt in enumerate(prompts)]
    assert len(seen) > 40
    assert min(seen) > 0.4
