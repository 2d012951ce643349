"""Rolling Forcing's joint window, against the published numbers of its schedule and cache."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest
import torch

from fkv import rope
from fkv.fast import prepare
from fkv.policies import parse
from fkv.policies.anchored import Anchored, moved, trained
from fkv.rolling import RollingStream, clock, stream_class, windows
from fkv.spec import ROLLING_FORCING, ModelSpec, Schedule
from fkv.stream import Stream, seeded_noise
from tests.test_fast import WAITS, Operations
from tests.tiny import kept_bytes, tiny_model, tiny_spec, tiny_text


def rolling_spec(levels: int = 5) -> ModelSpec:
    steps = tuple(1000 - 1000 / levels * level for level in range(levels))
    return replace(tiny_spec(), schedule=Schedule(steps=steps, sampler="rolling"), window=21)


def rolling(spec: ModelSpec, policy: str = "full:21", marks: list[str] | None = None) -> Stream:
    mark = (marks if marks is not None else []).append
    return stream_class(spec)(tiny_model(spec), spec, tiny_text(spec), parse(policy), seeded_noise(0, spec), mark)


def test_the_published_noise_levels() -> None:
    assert ROLLING_FORCING.schedule.timesteps() == pytest.approx((1000, 952.38104, 882.35291, 769.23077, 555.55560), abs=1e-4)


def test_windows_grow_to_five_chunks_and_then_move_one_chunk_at_a_time() -> None:
    first = list(islice(windows(5), 8))
    assert [(window.first, window.last) for window in first] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (2, 6), (3, 7)]
    assert [window.levels for window in first[:2]] == [(0,), (1, 0)]
    assert all(window.levels == (4, 3, 2, 1, 0) for window in first[4:])


def test_each_chunk_of_a_window_is_one_level_behind_the_one_before_it() -> None:
    grown = list(islice(windows(5), 5))[-1]
    levels = (555.55560, 769.23077, 882.35291, 952.38104, 1000)
    assert clock(ROLLING_FORCING.schedule, grown, 3) == pytest.approx([level for level in levels for _ in range(3)], abs=1e-4)


def test_the_first_chunk_takes_one_pass_per_level_and_each_later_one_a_single_pass() -> None:
    marks: list[str] = []
    stream = rolling(rolling_spec(), marks=marks)
    seen = []
    for _ in range(4):
        stream.step()
        seen.append((marks.count("noisy"), marks.count("clean")))
    assert seen == [(5, 0), (6, 1), (7, 2), (8, 3)]


def test_a_joint_pass_sees_the_anchor_right_before_its_working_frames_and_a_clean_pass_the_newest_as_they_are() -> None:
    spec = rolling_spec()
    stream = rolling(spec)
    assert isinstance(stream.policy, Anchored)
    joint, clean = [], []
    load = Anchored.load

    def watching(policy: Anchored, layer: int, past: list, q: torch.Tensor, frames: int) -> list:
        seen = load(policy, layer, past, q, frames)
        if layer == 0:
            numbers = list(dict.fromkeys(seen[0].pos[:, 0].tolist())) if seen else []
            (joint if frames > spec.chunk else clean).append(numbers)
        return seen

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Anchored, "load", watching)
        for _ in range(10):
            stream.step()
    assert joint[4:9] == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5, 6, 7, 8], [6, 7, 8, 9, 10, 11], [9, 10, 11, 12, 13, 14]]
    assert clean[1:4] == [[], [0, 1, 2], list(range(6))]
    assert clean[7] == list(range(18))
    assert clean[8] == list(range(3, 21))
    assert clean[9] == list(range(6, 24))


@pytest.mark.parametrize("change", ["prompt", "policy"])
def test_a_recache_sees_the_anchor_right_before_the_frames_it_reads_again(change: str) -> None:
    """After 30 frames the newest 18 are read again, 12 to 29: the anchor stands at 9 to 11."""
    spec = rolling_spec()
    stream = rolling(spec)
    for _ in range(10):
        stream.step()
    seen, load = [], Anchored.load

    def watching(policy: Anchored, layer: int, past: list, q: torch.Tensor, frames: int) -> list:
        found = load(policy, layer, past, q, frames)
        seen.append((frames, [sorted(set(group.pos[:, 0].tolist())) for group in found]))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Anchored, "load", watching)
        stream.recache(text=tiny_text(spec, seed=1)) if change == "prompt" else stream.recache(policy=trained(spec))
    assert seen[-1] == (18, [[9, 10, 11]])


def test_a_turned_anchor_is_the_anchor_rotated_for_its_new_place() -> None:
    spec = tiny_spec()
    geometry = spec.geometry
    stream = rolling(rolling_spec())
    stream.step()
    stream.commit()
    group = stream.cache.layers[1][0]
    plain = torch.randn_like(group.k, generator=None)
    places = [rope.grid(start, 3, geometry.rows, geometry.columns) for start in (0, 40)]
    here, there = (rope.rotate(plain, rope.rotation(grid, geometry.head_dim)) for grid in places)
    turned = moved(replace(group, k=here, pos=places[0]), group.tokens, 40)
    torch.testing.assert_close(turned.k, there, atol=1e-5, rtol=0)
    assert torch.equal(turned.pos, places[1])


def test_a_step_neither_waits_for_the_device_nor_draws_noise_but_of_the_chunk_that_joins() -> None:
    spec = rolling_spec()
    stream = RollingStream(prepare(tiny_model(spec)), spec, tiny_text(spec), parse("full:21"), seeded_noise(0, spec))
    for _ in range(9):
        stream.step()
    with Operations() as seen:
        stream.step()
    assert not WAITS & set(seen.calls)
    assert seen.calls["aten::randn"] == len(spec.schedule.steps)
    stream.draw()
    with Operations() as seen:
        stream.step()
    assert not seen.calls["aten::randn"]


@pytest.mark.parametrize("policy", ["full:21", "window:sink=3,recent=9"])
def test_the_fast_path_draws_the_same_frames_also_across_a_change_of_prompt(policy: str) -> None:
    spec = rolling_spec()
    fast = RollingStream(prepare(tiny_model(spec)), spec, tiny_text(spec), parse(policy), seeded_noise(0, spec))
    readable = rolling(spec, policy)
    for chunk in range(9):
        if chunk == 6:
            for stream in (fast, readable):
                stream.recache(text=tiny_text(spec, seed=1))
        torch.testing.assert_close(fast.step().latents, readable.step().latents, atol=1e-5, rtol=0)


def test_with_one_noise_level_it_is_the_ordinary_rollout() -> None:
    spec = rolling_spec(levels=1)
    ordinary = replace(spec, schedule=replace(spec.schedule, sampler="renoise"))
    one = RollingStream(tiny_model(spec), spec, tiny_text(spec), parse("full:9"), seeded_noise(0, spec))
    other = Stream(tiny_model(spec), ordinary, tiny_text(spec), parse("full:9"), seeded_noise(0, ordinary))
    for _ in range(5):
        torch.testing.assert_close(one.step().latents, other.step().latents, atol=1e-6, rtol=0)


def test_what_is_kept_is_the_anchor_and_the_newest_frames_of_the_formula() -> None:
    stream = rolling(rolling_spec(levels=2), "full:21")
    for chunk in range(11):
        stream.step()
        assert stream.cache.nbytes == kept_bytes(stream.cache, chunk)
    frames = sorted(set(stream.cache.layers[0][0].pos[:, 0].tolist()))
    assert frames == [0, 1, 2, *range(12, 30)]


@pytest.mark.parametrize("policy", ["full:21", "full:9", "window:sink=3,recent=9"])
def test_other_policies_and_a_change_of_prompt_work_under_the_joint_window(policy: str) -> None:
    spec = rolling_spec(levels=3)
    stream = rolling(spec, policy)
    for chunk in range(8):
        if chunk == 5:
            stream.recache(text=tiny_text(spec, seed=1))
        assert stream.step().latents.isfinite().all()
    stream.recache(policy=parse("window"))
    assert stream.step().latents.shape == (1, 3, *spec.latent)


def test_a_rolling_model_is_not_quietly_run_one_chunk_at_a_time() -> None:
    spec = rolling_spec()
    stream = Stream(tiny_model(spec), spec, tiny_text(spec), parse("full"), seeded_noise(0, spec))
    with pytest.raises(ValueError, match="Tiny denoises several chunks jointly, which cannot be done here"):
        stream.step()


def test_the_trained_cache_of_the_row_is_an_anchor_of_one_chunk_in_twenty_one_frames() -> None:
    policy = trained(ROLLING_FORCING)
    assert (policy.label, policy.anchors) == ("Anchor of 3, 21 frames in all", 3)
    with pytest.raises(ValueError, match="17 frames leave no room for 15 joint ones and an anchor of 3; use frames >= 18"):
        Anchored(frames=17).check(ROLLING_FORCING.geometry)
