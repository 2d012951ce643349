"""What the pocket model is trained on: the clips that are drawn, its own past played through its cache, and the targets that follow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from untrained import SMALL, small_model

from fkv.codec import load_pocket, pocket_random
from fkv.metrics.detect import track
from fkv.pocket import data
from fkv.pocket.data import PLAYABLE, Batch, comes_back, draw, later_start, taught
from fkv.pocket.guide import Guide, Off, Piece
from fkv.pocket.paint import Renderer
from fkv.pocket.recipe import ModelRecipe
from fkv.pocket.tasks import Lesson, Own, Task, robust
from fkv.pocket.teacher import Teacher, local_heads
from fkv.pocket.train import ASSETS
from fkv.pocket.world import Object, Scene, layout_of, parsed_of
from fkv.spec import POCKET
from fkv.stream import Stream, Trace, noised
from fkv.text import MOTIONS, THEMES, encode_many
from fkv.text.meaning import plain
from fkv.text.motion import pan
from fkv.wan import CausalWan

ROLES = ((2,), (0, 3))


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    a, b, other = draw(5, 2, 3, 6), draw(5, 2, 3, 6), draw(5, 3, 3, 6)
    assert torch.equal(a.frames, b.frames)
    assert torch.equal(a.text, b.text)
    assert not torch.equal(a.frames, other.frames)
    assert a.frames.shape == (3, 24, 80, 128, 3)
    assert a.mask.shape == (3, 6, 10, 16)


def test_a_clip_that_cuts_to_another_scene_is_judged_from_the_cut_on() -> None:
    batches = [draw(5, step, 6, 9, gaps=False) for step in range(8)]
    whole = torch.tensor([not any(piece.begun for piece in reel) for b in batches for reel in b.reels])
    frames, told = torch.cat([b.frames for b in batches])[whole], torch.cat([b.told for b in batches])[whole]
    from_zero, late, cut_at = 0, 0, []
    for clip, known in zip(frames.float(), told):
        jumps = [(clip[12 * c] - clip[12 * c - 1]).abs().mean().item() for c in (1, 2)]
        start = int(known.argmax())
        assert known[start:].all()
        assert start % 3 == 0
        from_zero += start == 0
        late += start == 3
        if start == 6:
            cut_at.append(jumps[1])
    assert from_zero > 5
    assert late > 3
    assert cut_at
    assert min(cut_at) > 5


def test_a_clip_from_the_middle_of_a_scene_may_or_may_not_be_told_where_the_scene_began() -> None:
    told = set()
    for step in range(4):
        batch = draw(5, step, 6, 9, gaps=False)
        for reel, text in zip(batch.reels, batch.text.numpy()):
            scene, first = reel[-1].scene, reel[0].first
            with_places, without = (
                encode_many([parsed_of(scene)], [layout_of(scene, places=places)])[0].astype(text.dtype) for places in (True, False)
            )
            known = np.array_equal(text, with_places)
            assert known != np.array_equal(text, without)
            told.add((first == 0 or reel[0].scene is not scene, known))
    assert told == {(True, True), (False, True), (False, False)}


def test_scenes_to_train_on_lean_to_walls_panning_cameras_and_falling_things_and_leave_nothing_out() -> None:
    rng = np.random.default_rng(0)
    scenes = [taught(rng) for _ in range(400)]
    assert 0.35 < np.mean([scene.wall for scene in scenes]) < 0.55
    assert 0.55 < np.mean([scene.camera != "still" for scene in scenes]) < 0.75
    assert 0.4 < np.mean([any(thing.motion == "fall" for thing in scene.objects) for scene in scenes]) < 0.6
    assert {scene.theme for scene in scenes} == set(THEMES)
    assert {thing.motion for scene in scenes for thing in scene.objects} == set(MOTIONS)


@pytest.mark.parametrize(("gaps", "steps"), [(False, 12), (True, 20)])
def test_some_clips_lack_an_object_for_some_time_and_it_then_starts_anew(gaps: bool, steps: int) -> None:
    found = {"at first": 0, "after it was shown": 0, "after a gap": 0}
    for step in range(steps):
        batch = draw(5, step, 6, 9, gaps=gaps)
        for reel, text, told, frames in zip(batch.reels, batch.text.numpy(), batch.told.numpy(), batch.frames.numpy()):
            if not reel[-1].begun:
                continue
            *shown, lacking, anew = reel
            found["at first" if not shown else "after a gap" if batch.gap else "after it was shown"] += 1
            scene, slot = lacking.scene, int(np.isinf(lacking.begun).argmax())
            lost, back = sum(piece.count for piece in shown), 4 * 9 - anew.count
            assert all(piece.scene is scene and not piece.begun for piece in shown)
            assert anew.first == lacking.first + lacking.count
            assert anew.begun[slot] == scene.objects[slot].anew(anew.first)
            assert lacking.first == reel[0].first + lost + (12 * batch.gap if shown else 0)
            assert np.array_equal(text, encode_many([parsed_of(scene)], [layout_of(scene)])[0].astype(text.dtype))
            in_view = scene.visible(np.array([lacking.first]))[0] > 0.5
            assert in_view[slot] or not in_view.any(), "what has only left the view is not lost"
            assert not told[lost // 4 : back // 4].any()
            assert told[back // 4 :].all()
            assert all(told[: lost // 4]) == (not shown or reel[0].first == 0)
            colour = scene.objects[slot].colour
            area = track(frames, [colour])[colour].area
            assert area[lost:back].max() < 0.2
            if shown and reel[0].first == 0 and plain(parsed_of(scene), layout_of(scene)).all() and scene.camera == "still":
                assert area[:4].min() > 0.4
            if scene.objects[slot].motion == "fall":
                assert area[back] < 0.1
                assert -15 < anew.paths()[1][0, slot] < -9, "what falls comes in from above"
            elif plain(parsed_of(scene), layout_of(scene)).all() and scene.camera == "still":
                assert area[back : back + 4].min() > 0.4
                start = scene.objects[slot].path(np.arange(4.0), slot, len(scene.objects))
                where = track(frames[back : back + 4], [colour])[colour]
                assert np.hypot(where.x - start[0], where.y - start[1]).max() < 3
    assert all(found[kind] > 2 for kind in (["after a gap"] if gaps else ["at first", "after it was shown"]))


def test_clips_that_begin_late_lean_to_moments_at_which_something_comes_back() -> None:
    falling = Scene("green hills", (Object("red", "ball", "fall", phase=8),))
    orbiting = Scene("green hills", (Object("red", "ball", "orbit"),))
    away = [frame for frame in range(0, 200, 4) if falling.visible(np.array([frame]))[0, 0] < 0.1]
    assert comes_back(falling, away[0] - 20, 120)
    assert not comes_back(falling, away[0] - 20, 24), "it has gone and not come back"
    assert not comes_back(falling, away[-1] + 8, 60), "it has not gone"
    assert not comes_back(orbiting, 0, 240)
    rng = np.random.default_rng(0)
    begun = [later_start(falling, begin, 120, rng) for begin in (0, 36) for _ in range(40)]
    assert all(first > 0 and first % 120 == begin for begin, some in ((0, begun[:40]), (36, begun[40:])) for first in some)
    plain = np.mean([comes_back(falling, 12 * step, 120) for step in range(1, 60)])
    assert np.mean([comes_back(falling, first, 120) for first in begun]) > (1 + plain) / 2


def test_the_chunk_after_a_gap_in_time_is_no_target() -> None:
    batch = next(batch for batch in (draw(5, step, 4, 9) for step in range(20)) if batch.gap)
    assert batch.numbers[3] == batch.numbers[2] + 1 + 3 * batch.gap
    known = [list(clip[::3]) for clip in batch.told]
    assert all(one[2] for one in known)
    assert not any(one[1] for one in known if one[0])
    assert any(one == [1, 0, 1] for one in known)


def test_a_frames_number_stands_for_the_same_moment_of_the_pan_in_every_clip_also_after_a_cut() -> None:
    begun, after = set(), set()
    for step in range(12):
        batch = draw(5, step, 4, 9)
        begun.add(int(batch.numbers[0]))
        for reel in batch.reels:
            times = np.concatenate([np.arange(piece.first, piece.first + piece.count, 4) + piece.scene.after for piece in reel])
            assert np.array_equal(times % 120 // 4, batch.numbers % POCKET.net.period)
            after.add(reel[-1].scene.after > 0)
            assert all(piece.scene.camera_x(3.0) == pan(piece.scene.camera, piece.scene.after + 3.0) for piece in reel)
    assert 0 in begun
    assert len(begun) > 3
    assert after == {False, True}


def gapped(most: int, *, lean: bool = True) -> Batch:
    """A batch that leaves out one to `most` chunks of time; of scenes that `lean` to what is hard some lack an object for some time."""
    return next(batch for batch in (draw(5, step, 6, 9, lean=lean) for step in range(40)) if 0 < batch.gap <= most)


def played(*, told: bool, step: int = 0, batch: Batch | None = None) -> tuple[Batch, Task, Task, CausalWan]:
    """A batch, what a lesson makes of it with everything taken from the model itself, and the same once it is played."""
    recipe = ModelRecipe(own=1.0, own_from=0.0, swap=1.0, met=1.0, disturb=0.0)
    batch = batch or draw(5, 0, 6, 9, gaps=False)
    if told:
        batch.told.fill_(1)
    target = torch.randn(6, 9, 24, 10, 16, generator=torch.Generator().manual_seed(1))
    task, model = Lesson(SMALL, recipe, pocket_random(), ROLES).task(batch, target, step), small_model(3)
    assert task.own is not None
    return batch, task, task.own.played(Teacher(model, SMALL, local_heads(2, 4)), task), model


def test_only_what_is_told_becomes_the_models_own_past() -> None:
    batch, task, after, _ = played(told=False)
    changed = (after.clip.clean != task.clip.clean).flatten(2).any(dim=2)
    assert torch.equal(changed, batch.told.bool())
    assert not batch.told.all()


def test_what_comes_after_a_gap_is_the_models_own_where_the_gap_was_played_and_no_target_either_way() -> None:
    for batch, own in ((gapped(PLAYABLE), True), (replace(draw(5, 0, 6, 9, gaps=False), gap=PLAYABLE + 1), False)):
        batch.told[:, 3:6] = 0
        lacking = torch.tensor([bool(np.isinf(reel[1].starts).any()) for reel in batch.reels])
        assert lacking.any() or not own
        _, task, after, _ = played(told=False, batch=batch)
        changed = (after.clip.clean != task.clip.clean).flatten(2).any(dim=2)
        assert changed[~lacking, 3:6].all() == own
        assert changed[:, 3:6].any() == own
        assert not changed[lacking, 3:6].any(), "the model's own chunk would show what is left out of the script"
        assert not task.weight[:, 3:6].any()


def test_objects_are_followed_through_a_gap_that_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PLAYABLE", 3)
    batch = gapped(3)
    seen: list[tuple[int, int, bool]] = []

    def found(self: Guide, frames: np.ndarray) -> Off:
        seen.append((self.first, len(frames), self.scene is batch.reels[0][0].scene))
        return self.off

    monkeypatch.setattr(Guide, "found", found)
    played(told=True, batch=batch)
    mine = [(first, count) for first, count, first_clip in seen if first_clip]
    start = batch.reels[0][0].first
    assert mine == [(start + 12 * chunk, 12) for chunk in range(3 + batch.gap)]


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize(("step", "policy"), [(9, "full"), (4, "window"), (1, "forcing-kv")])
def test_what_is_played_is_what_a_stream_makes_and_what_its_sampler_meets(
    step: int, policy: str, gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "PLAYABLE", gap)
    _, task, after, model = played(told=True, step=step, batch=gapped(gap, lean=False) if gap else None)
    own, clip, steps = task.own, after.clip, SMALL.schedule.timesteps()
    assert own is not None
    assert bool(own.passed) == bool(gap)
    assert clip.sight.policy.name == policy
    assert clip.sight.policy.roles == (ROLES if policy == "forcing-kv" else None)

    def noise(chunk: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        first, *fresh = own.noises[:, :, 3 * chunk : 3 * chunk + 3]
        return first, fresh

    trace: Trace = []
    stream = Stream(model, SMALL, task.clip.text, clip.sight.policy, noise, trace=trace)
    chunks = [stream.step() for _ in range(3 + own.passed)]
    kept = [0, own.passed + 1, own.passed + 2]
    assert [chunks[number].start for number in kept] == clip.frames[::3].tolist()
    made = torch.cat([chunks[number].latents for number in kept], dim=1)
    torch.testing.assert_close(clip.clean, made, atol=1e-4, rtol=1e-4)
    tries = torch.stack([x0 for kind, x0 in trace if kind == "noisy"]).unflatten(0, (len(chunks), len(steps)))
    assert set(own.state[:, ::3].flatten().tolist()) == {1, 2, 3}
    for number in range(6):
        for chunk, state in enumerate(own.state[number, ::3].tolist()):
            sigma, here = SMALL.schedule.sigma(steps[state]), slice(3 * chunk, 3 * chunk + 3)
            assert float(task.clip.sigma[number, chunk]) == pytest.approx(sigma)
            there = slice(3 * kept[chunk], 3 * kept[chunk] + 3)
            met = noised(tries[kept[chunk], state - 1, number], own.noises[state, number, there], sigma)
            torch.testing.assert_close(clip.noisy[number, here], met, atol=1e-4, rtol=1e-4)


def test_the_target_follows_objects_that_the_past_has_moved() -> None:
    batch, codec = draw(6, 0, 6, 9, gaps=False), load_pocket(ASSETS)
    target = codec.encode(batch.frames)
    recipe = ModelRecipe(own=1.0, own_from=0.0, swap=0.0, met=0.0, disturb=0.0)
    task, model = Lesson(SMALL, recipe, codec, ROLES).task(batch, target, 0), small_model(3)
    teacher = Teacher(model, SMALL, local_heads(2, 4))
    assert task.own is not None
    still = task.own.played(teacher, task)
    assert torch.equal(still.target, task.target)
    torch.testing.assert_close(still.clip.noisy, task.clip.noisy)
    clip = int(np.flatnonzero(batch.told.all(1).numpy())[0])
    guides = [Guide(reel, 12) for reel in batch.reels]
    for index in range(2):
        here = slice(3 * index, 3 * index + 3)
        task.own.guided(guides, index, batch.told[:, 3 * index].tolist(), target[:, here].clone(), task.mask[:, here].clone())
    guides[clip].off[1][0] = 9.0
    drawn, mask = target[:, 3:6].clone(), task.mask[:, 3:6].clone()
    task.own.guided(guides, 1, batch.told[:, 3].tolist(), drawn, mask)
    changed = (drawn != target[:, 3:6]).flatten(1).any(1)
    assert torch.equal(changed, torch.arange(6) == clip)
    x, y, view = guides[clip].paths()
    frames = Renderer(guides[clip].chunks[1][0].scene).frames(guides[clip].first, 12, (x, y), view)
    torch.testing.assert_close(drawn[clip], codec.encode(torch.from_numpy(frames)[None])[0], atol=1e-4, rtol=1e-4)
    assert not torch.equal(mask[clip], task.mask[clip, 3:6])


def test_what_the_sampler_met_is_asked_to_come_out_sharp_where_it_came_out() -> None:
    scene = Scene("green hills", (Object("red", "star", "drift", 3, 1),))
    reels = [[Piece(scene, 24, 24)]] * 3
    guides = [Guide(reel, 12) for reel in reels]
    codec, painter, ones = load_pocket(ASSETS), Renderer(scene), torch.ones(3, 6)
    x, y = scene.paths(np.arange(24, 36))
    there = painter.frames(24, 12, (x + 5, y + 3))
    met, swap = torch.tensor([1, 0, 2])[:, None] * ones.int(), torch.tensor([1.0, 1.0, 0.0])[:, None] * ones
    own = Own(torch.zeros(4, 3, 6, 24, 10, 16), swap, met, ones, reels, codec, [False] * 3)
    target = codec.encode(torch.from_numpy(np.stack([painter.frames(24, 12)] * 3)))
    asked, mask = target.clone(), torch.zeros(3, 3, 10, 16)
    own.guided(guides, 0, [1, 1, 1], asked, mask)
    assert torch.equal(asked, target)
    own.draw(own.watch(guides, 0, np.stack([there] * 3), [0.3, 0.3, 0.8]), asked, mask)
    assert torch.equal(asked[1], target[1])
    for clip, left in ((0, 0.3), (2, 0.8)):
        sharp = codec.encode(torch.from_numpy(painter.frames(24, 12, (x + 5 * (1 - left), y + 3 * (1 - left))))[None])[0]
        assert float((asked[clip] - sharp).square().mean()) < 0.2 * float((target[clip] - sharp).square().mean())
        assert mask[clip].any()
    assert [guide.strayed for guide in guides] == [True, True, False]


def test_a_cell_counts_by_the_square_of_its_error_up_to_a_bend_and_by_the_error_beyond() -> None:
    near, far = torch.tensor([0.001, 0.002]).square(), torch.tensor([30.0, 60.0]).square()
    assert torch.allclose(robust(near, 0.3), near, rtol=1e-2, atol=0)
    assert torch.allclose(robust(far, 0.3), 0.6 * far.sqrt(), rtol=1e-1, atol=0)


def test_the_loss_counts_few_lost_cells_less_than_their_square_and_says_the_square_too() -> None:
    *_, task, _ = played(told=True)
    task = replace(task, own=None, mask=torch.zeros_like(task.mask), weight=torch.ones_like(task.weight))
    frames = task.target.shape[1]

    class Blind:
        spec = SMALL

        def predict(self, clip: object) -> tuple[torch.Tensor, torch.Tensor]:
            found = task.target.clone()
            found[:, -1, :, 0, 0] += 3.0
            return found, torch.zeros(())

    loss, later = task.loss(Blind())  # pyright: ignore[reportArgumentType]
    cells = frames * task.target.shape[3] * task.target.shape[4]
    assert float(loss) == pytest.approx(float(robust(torch.tensor(9.0), task.recipe.robust)) / cells, rel=1e-4)
    assert later == pytest.approx(9.0 / (cells * (frames - SMALL.chunk) / frames), rel=1e-4)
    assert float(loss) < later / 3


def test_half_of_the_chunks_are_drawn_from_noise_alone_and_the_others_from_levels_down_to_the_samplers_last() -> None:
    lesson = Lesson(POCKET, ModelRecipe(), pocket_random(), ROLES)
    levels = lesson.levels(50, 40, torch.Generator().manual_seed(0))
    last = POCKET.schedule.sigma(POCKET.schedule.timesteps()[-1])
    assert 0.46 < (levels == 1).float().mean() < 0.54
    assert last - 0.05 <= levels.min() < last
    assert levels.max() == 1


def test_scenes_count_more_where_the_camera_moves_objects_and_scenery_alike() -> None:
    batch = next(batch for batch in (draw(5, step, 6, 3) for step in range(20)) if {camera_of(reel) for reel in batch.reels} > {"still"})
    recipe = ModelRecipe(own=0.0)
    task, even = (
        Lesson(SMALL, one, pocket_random(), ROLES).task(batch, torch.zeros(6, 3, 24, 10, 16), 0)
        for one in (recipe, replace(recipe, panning=1.0))
    )
    moving = torch.tensor([1.0 if camera_of(reel) == "still" else recipe.panning for reel in batch.reels])
    assert moving.max() == recipe.panning > 1
    assert torch.equal(task.weight, even.weight * moving[:, None])


def camera_of(reel: list[Piece]) -> str:
    return reel[-1].scene.camera
