"""The pocket model's training: what it draws, what a pass computes, and that a killed run goes on as if nothing had happened."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fkv.cache import Commit, KVCache
from fkv.codec import PocketCodec, load_pocket, pocket_random
from fkv.pocket import run
from fkv.pocket.data import Batch, draw, taught
from fkv.pocket.evaluate import by_kind, summary
from fkv.pocket.guide import Guide, Piece
from fkv.pocket.muon import orthogonal
from fkv.pocket.paint import Renderer
from fkv.pocket.recipe import ModelRecipe
from fkv.pocket.stages import Stages
from fkv.pocket.tasks import Lesson, Own, Task
from fkv.pocket.teacher import Clip, Sight, Teacher, local_heads, rolling, some_frames, some_segments, stray
from fkv.pocket.train import ASSETS, main
from fkv.pocket.train_model import initialise, train_model
from fkv.pocket.world import Object, Scene, layout_of, parsed_of
from fkv.policies import parse
from fkv.spec import POCKET, WanConfig
from fkv.stream import Stream, Trace, noised
from fkv.text import MOTIONS, THEMES, encode_many
from fkv.wan import CausalWan

SMALL = replace(POCKET, net=WanConfig(dim=48, heads=4, layers=2, ffn=64, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf"))


def small_model(seed: int = 0) -> CausalWan:
    model = CausalWan(SMALL.net)
    initialise(model, seed)
    torch.nn.init.normal_(model.head.head.weight, std=0.2)
    torch.nn.init.normal_(model.time_projection.get_parameter("1.weight"), std=0.05)
    return model.eval()


def clip_of(chunks: int, sight: Sight) -> Clip:
    generator = torch.Generator().manual_seed(3)
    shape = (2, 3 * chunks, *SMALL.latent)
    clean, noisy = (torch.randn(shape, generator=generator) for _ in range(2))
    sigma = torch.rand(2, chunks, generator=generator)
    text = torch.randn(2, 16, 112, generator=generator)
    return Clip(clean, noisy, sigma, text, torch.arange(3 * chunks), sight)


@torch.inference_mode()
def in_turn(model: CausalWan, clip: Clip, policy: str) -> torch.Tensor:
    """The same targets, chunk by chunk through a cache."""
    text = model.read_text(clip.text)
    cache = KVCache(parse(policy), SMALL.geometry, 2)
    out = []
    for chunk in range(clip.sigma.shape[1]):
        part = slice(3 * chunk, 3 * chunk + 3)
        t = 1000 * clip.sigma[:, chunk : chunk + 1].repeat(1, 3)
        out.append(model(clip.noisy[:, part], t, text, cache, 3 * chunk))
        with cache.committing(Commit(chunk, 3 * chunk, 3, SMALL.geometry)):
            model(clip.clean[:, part], torch.zeros(2, 3), text, cache, 3 * chunk)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize(("policy", "window", "chunks"), [("full", 21, 3), ("full:9", 9, 5)])
def test_a_teacher_forced_pass_equals_generation_with_the_window_of_the_model(policy: str, window: int, chunks: int) -> None:
    model, past = small_model(), rolling(chunks, replace(SMALL, window=window))
    clip = clip_of(chunks, Sight(past, past))
    with torch.inference_mode():
        trained = Teacher(model, SMALL, local_heads(2, 4)).predict(clip)[0]
    torch.testing.assert_close(trained, in_turn(model, clip, policy), atol=2e-5, rtol=1e-4)


def test_a_teacher_forced_pass_equals_generation_with_a_sink_and_a_window() -> None:
    model, past = small_model(), some_frames(4, SMALL.geometry, 1, 3)
    clip = clip_of(4, Sight(past, past))
    with torch.inference_mode():
        trained = Teacher(model, SMALL, local_heads(2, 4)).predict(clip)[0]
    torch.testing.assert_close(trained, in_turn(model, clip, "window:sink=1,recent=6"), atol=2e-5, rtol=1e-4)


def test_only_local_heads_are_cut_off_from_old_frames() -> None:
    model, geometry = small_model(), SMALL.geometry
    near, wide = some_frames(4, geometry, 1, 1), rolling(4, SMALL)
    teacher = Teacher(model, SMALL, local_heads(2, 4))
    with torch.inference_mode():
        split = teacher.predict(clip_of(4, Sight(near, wide)))[0]
        whole = teacher.predict(clip_of(4, Sight(wide, wide)))[0]
    assert torch.equal(split[:, :3], whole[:, :3])
    assert not torch.allclose(split[:, 6:9], whole[:, 6:9], atol=1e-4)


def test_straying_is_the_attention_that_local_heads_spend_between_the_first_and_the_last_past_frame() -> None:
    geometry, heads, past = SMALL.geometry, [1, 3], 9
    generator = torch.Generator().manual_seed(2)
    tokens, own = geometry.tokens, geometry.tokens * 3
    k = torch.randn(2, 4, (past + 12) * tokens, geometry.head_dim, generator=generator)
    q = torch.randn(2, 4, 12 * tokens, geometry.head_dim, generator=generator)
    keys = torch.cat((k[:, :, : past * tokens], k[:, :, -own:]), dim=2)
    shares = torch.softmax(q[:, :, -own:] @ keys.transpose(2, 3) * geometry.head_dim**-0.5, dim=-1)
    near = 1 - shares[..., tokens : (past - 1) * tokens].sum(-1)
    assert stray(q, k, heads, geometry).item() == pytest.approx(-near[:, heads].log().mean().item(), rel=1e-4)
    assert stray(q, k, [], geometry) == 0
    assert stray(q[:, :, :own], k[:, :, -own:], heads, geometry) == 0


def test_segments_are_whole_rows_of_the_three_frames_before_the_last() -> None:
    geometry = POCKET.geometry
    for chunk, seen in enumerate(some_segments(5, geometry, np.random.default_rng(0))):
        if chunk < 1:
            assert seen.whole == ()
            continue
        assert seen.whole == (0, 3 * chunk - 1)
        assert seen.tokens is not None
        assert all(0 < frame < 3 * chunk - 1 for frame in seen.part)
        assert len(seen.tokens) % geometry.columns == 0


def test_half_of_the_heads_of_every_layer_but_the_first_are_local() -> None:
    rows = local_heads(6, 8)
    assert rows[0] == []
    assert [len(row) for row in rows[1:]] == [4] * 5
    assert len({tuple(row) for row in rows[1:]}) > 2


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    a, b, other = draw(5, 2, 3, 6), draw(5, 2, 3, 6), draw(5, 3, 3, 6)
    assert torch.equal(a.frames, b.frames)
    assert torch.equal(a.text, b.text)
    assert not torch.equal(a.frames, other.frames)
    assert a.frames.shape == (3, 24, 80, 128, 3)
    assert a.mask.shape == (3, 6, 10, 16)


def test_a_clip_that_cuts_to_another_scene_is_judged_from_the_cut_on() -> None:
    batches = [draw(5, step, 6, 9, gaps=False) for step in range(5)]
    frames, told = torch.cat([b.frames for b in batches]), torch.cat([b.told for b in batches])
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


def test_scenes_to_train_on_lean_to_walls_and_panning_cameras_and_leave_nothing_out() -> None:
    rng = np.random.default_rng(0)
    scenes = [taught(rng) for _ in range(400)]
    assert 0.4 < np.mean([scene.wall for scene in scenes]) < 0.6
    assert 0.4 < np.mean([scene.camera != "still" for scene in scenes]) < 0.6
    assert {scene.theme for scene in scenes} == set(THEMES)
    assert {thing.motion for scene in scenes for thing in scene.objects} == set(MOTIONS)


def test_the_chunk_after_a_gap_in_time_is_no_target() -> None:
    batch = next(batch for batch in (draw(5, step, 4, 9) for step in range(20)) if batch.numbers[3] > 3)
    known = [list(clip[::3]) for clip in batch.told]
    assert all(one[2] for one in known)
    assert not any(one[1] for one in known if one[0])
    assert any(one == [1, 0, 1] for one in known)


def played(*, told: bool, step: int = 0) -> tuple[Batch, Task, Task, CausalWan]:
    """A batch, what a lesson makes of it with everything taken from the model itself, and the same once it is played."""
    recipe = ModelRecipe(own=1.0, own_from=0.0, swap=1.0, met=1.0, disturb=0.0)
    batch = draw(5, 0, 6, 9)
    if told:
        batch.told.fill_(1)
    target = torch.randn(6, 9, 24, 10, 16, generator=torch.Generator().manual_seed(1))
    task, model = Lesson(SMALL, recipe, pocket_random()).task(batch, target, step), small_model(3)
    assert task.own is not None
    return batch, task, task.own.played(Teacher(model, SMALL, local_heads(2, 4)), task), model


def test_only_what_is_told_becomes_the_models_own_past() -> None:
    batch, task, after, _ = played(told=False)
    changed = (after.clip.clean != task.clip.clean).flatten(2).any(dim=2)
    assert torch.equal(changed, batch.told.bool())
    assert not batch.told.all()


@pytest.mark.parametrize(("step", "policy"), [(2, "full"), (4, "window"), (1, "forcing-kv")])
def test_what_is_played_is_what_a_stream_makes_and_what_its_sampler_meets(step: int, policy: str) -> None:
    _, task, after, model = played(told=True, step=step)
    own, clip, steps = task.own, after.clip, SMALL.schedule.timesteps()
    assert own is not None
    assert clip.sight.policy.name == policy

    def noise(chunk: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        first, *fresh = own.noises[:, :, 3 * chunk : 3 * chunk + 3]
        return first, fresh

    trace: Trace = []
    stream = Stream(model, SMALL, task.clip.text, clip.sight.policy, noise, trace=trace)
    made = torch.cat([stream.step().latents for _ in range(3)], dim=1)
    torch.testing.assert_close(clip.clean, made, atol=1e-4, rtol=1e-4)
    tries = torch.stack([x0 for kind, x0 in trace if kind == "noisy"]).unflatten(0, (3, len(steps)))
    assert set(own.state[:, ::3].flatten().tolist()) == {1, 2, 3}
    for number in range(6):
        for chunk, state in enumerate(own.state[number, ::3].tolist()):
            sigma, here = SMALL.schedule.sigma(steps[state]), slice(3 * chunk, 3 * chunk + 3)
            assert float(task.clip.sigma[number, chunk]) == pytest.approx(sigma)
            met = noised(tries[chunk, state - 1, number], own.noises[state, number, here], sigma)
            torch.testing.assert_close(clip.noisy[number, here], met, atol=1e-4, rtol=1e-4)


def test_the_target_follows_objects_that_the_past_has_moved() -> None:
    batch, codec = draw(5, 0, 6, 9, gaps=False), load_pocket(ASSETS)
    target = codec.encode(batch.frames)
    recipe = ModelRecipe(own=1.0, own_from=0.0, swap=0.0, met=0.0, disturb=0.0)
    task, model = Lesson(SMALL, recipe, codec).task(batch, target, 0), small_model(3)
    teacher = Teacher(model, SMALL, local_heads(2, 4))
    assert task.own is not None
    still = task.own.played(teacher, task)
    assert torch.equal(still.target, task.target)
    torch.testing.assert_close(still.clip.noisy, task.clip.noisy)
    clip = int(np.flatnonzero(batch.told.all(1).numpy())[0])
    guides = [Guide(reel, 12) for reel in batch.reels]
    for index in range(2):
        task.own.guided(guides, index, target[:, 3 * index : 3 * index + 3].clone(), task.mask[:, 3 * index : 3 * index + 3].clone())
    guides[clip].off[1][0] = 9.0
    drawn, mask = target[:, 3:6].clone(), task.mask[:, 3:6].clone()
    task.own.guided(guides, 1, drawn, mask)
    changed = (drawn != target[:, 3:6]).flatten(1).any(1)
    assert torch.equal(changed, torch.arange(6) == clip)
    paths = guides[clip].paths()
    frames = Renderer(guides[clip].chunks[1][0]).frames(guides[clip].first, 12, paths)
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
    own = Own(torch.zeros(4, 3, 6, 24, 10, 16), swap, met, ones, reels, codec)
    target = codec.encode(torch.from_numpy(np.stack([painter.frames(24, 12)] * 3)))
    asked, mask = target.clone(), torch.zeros(3, 3, 10, 16)
    own.guided(guides, 0, asked, mask)
    assert torch.equal(asked, target)
    own.draw(own.watch(guides, 0, np.stack([there] * 3), [0.3, 0.3, 0.8]), asked, mask)
    assert torch.equal(asked[1], target[1])
    for clip, left in ((0, 0.3), (2, 0.8)):
        sharp = codec.encode(torch.from_numpy(painter.frames(24, 12, (x + 5 * (1 - left), y + 3 * (1 - left))))[None])[0]
        assert float((asked[clip] - sharp).square().mean()) < 0.2 * float((target[clip] - sharp).square().mean())
        assert mask[clip].any()
    assert [guide.strayed for guide in guides] == [True, True, False]


def test_a_run_that_goes_on_takes_the_last_lengths_only() -> None:
    recipe = ModelRecipe(steps=30).continued()
    assert {entry[0] for entry in recipe.lengths} == {1.0}
    assert set(recipe.plan()[0]) == {1, 3, 7, 10}
    assert (recipe.own_from, recipe.keep) == (0, 1 / 3)


def test_a_run_that_goes_on_leaves_the_mean_of_its_weights_and_those_it_began_from(tmp_path: Path) -> None:
    save_file(pocket_random().state_dict(), tmp_path / "codec.safetensors")
    save_file(small_model(5).state_dict(), tmp_path / "first.safetensors")
    left = []
    for keep in (0.0, 0.25, 1.0):
        recipe = ModelRecipe(steps=3, warmup=1, decay=1, passes=3, lengths=((1.0, 1, 1.0),), keep=keep)
        train_model(SMALL, recipe, tmp_path / f"work{keep}", tmp_path, "cpu", init=tmp_path / "first.safetensors")
        left.append({name: tensor.float() for name, tensor in load_file(tmp_path / "model.safetensors").items()})
    alone, mixed, first = left
    assert max(float((alone[name] - first[name]).abs().max()) for name in first) > 5e-3
    for name, tensor in mixed.items():
        torch.testing.assert_close(tensor, 0.75 * alone[name] + 0.25 * first[name], atol=2e-4, rtol=1e-3)


def test_orthogonal_updates_have_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(orthogonal(torch.randn(2, 24, 40, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_the_rate_warms_up_holds_and_falls_to_zero() -> None:
    plan = run.Plan(steps=100, warmup=10, decay=20)
    assert [plan.rate(step) for step in (0, 9, 50, 80, 90, 100)] == [0.1, 1.0, 1.0, 1.0, 0.5, 0.0]


def test_a_killed_run_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    recipe = ModelRecipe(steps=5, passes=3, lengths=((1.0, 2, 1.0),), own_from=0.5, own=1.0)
    for name in ("whole", "broken"):
        out = tmp_path / name
        out.mkdir()
        save_file(pocket_random().state_dict(), out / "codec.safetensors")
    train_model(SMALL, recipe, tmp_path / "a", tmp_path / "whole", "cpu")
    with pytest.raises(KeyboardInterrupt):
        train_model(SMALL, recipe, tmp_path / "b", tmp_path / "broken", "cpu", after=interrupt_at(3))
    train_model(SMALL, recipe, tmp_path / "b", tmp_path / "broken", "cpu")
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_killed_run_that_goes_on_from_the_file_it_writes_keeps_what_was_there_first(tmp_path: Path) -> None:
    recipe = ModelRecipe(steps=4, passes=3, lengths=((1.0, 1, 1.0),), keep=0.5)
    left = []
    for name, stop in (("whole", 9), ("broken", 1)):
        out = tmp_path / name
        out.mkdir()
        save_file(pocket_random().state_dict(), out / "codec.safetensors")
        save_file(small_model(5).state_dict(), out / "model.safetensors")
        with suppress(KeyboardInterrupt):
            train_model(SMALL, recipe, out / "work", out, "cpu", init=out / "model.safetensors", after=interrupt_at(stop))
        train_model(SMALL, recipe, out / "work", out, "cpu", init=out / "model.safetensors")
        left.append(load_file(out / "model.safetensors"))
    assert all(torch.equal(left[0][name], left[1][name]) for name in left[0])


def interrupt_at(last: int):
    def after(step: int) -> None:
        if step == last:
            raise KeyboardInterrupt

    return after


def test_two_workers_learn_what_one_learns(tmp_path: Path) -> None:
    recipe = ModelRecipe(steps=2, passes=9, lengths=((1.0, 2, 1.0),))
    for workers in (1, 2):
        out = tmp_path / str(workers)
        out.mkdir()
        save_file(pocket_random().state_dict(), out / "codec.safetensors")
        train_model(SMALL, recipe, tmp_path / f"work{workers}", out, "cpu", workers=workers)
    one, two = (load_file(tmp_path / str(workers) / "model.safetensors") for workers in (1, 2))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-3, rtol=2e-2)


def test_the_codec_streams_as_it_decodes_at_once() -> None:
    codec = pocket_random(1)
    latents = torch.randn(1, 6, 24, 10, 16, generator=torch.Generator().manual_seed(0))
    whole, stream = codec.decoder().decode(latents), codec.decoder()
    pieces = torch.cat([stream.decode(latents[:, :2]), stream.decode(latents[:, 2:])], dim=1)
    assert whole.shape == (1, 24, 80, 128, 3)
    assert (whole.int() - pieces.int()).abs().max() <= 1


def test_two_decoders_of_one_codec_do_not_meet() -> None:
    codec = pocket_random(1)
    a, b = (torch.randn(1, 3, 24, 10, 16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    alone = codec.decoder()
    expected = [alone.decode(a), alone.decode(a)]
    mine, other = codec.decoder(), codec.decoder()
    first = mine.decode(a)
    other.decode(b)
    assert torch.equal(first, expected[0])
    assert torch.equal(mine.decode(a), expected[1])


def test_frames_that_do_not_fit_the_blocks_are_named() -> None:
    with pytest.raises(ValueError, match="7 frames of 80x128 do not divide"):
        pocket_random().encode(torch.zeros(1, 7, 80, 128, 3, dtype=torch.uint8))


@pytest.mark.parametrize(("content", "said"), [(None, "is missing"), (b"broken", "not a complete safetensors file")])
def test_a_missing_or_broken_codec_file_is_named_with_the_cure(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "codec.safetensors").write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        load_pocket(tmp_path)


def test_the_shipped_codec_reaches_its_target_on_scenes_it_has_not_seen() -> None:
    from fkv.pocket.train_codec import measure

    codec = load_pocket(Path(__file__).parents[1] / "assets" / "pocket")
    assert isinstance(codec, PocketCodec)
    assert measure(codec, 977, scenes=12)[0] >= 31


def test_a_summary_says_none_where_no_clip_could_tell() -> None:
    assert summary([])["kept"] is None


def test_objects_are_counted_by_what_was_asked_for() -> None:
    ball = {"colour": "red", "shape": "ball", "motion": "fall", "right": True, "kept": 1.0}
    star = {**ball, "shape": "star", "right": False, "kept": 0.5}
    found = by_kind([{"objects": [ball, star]}, {"objects": [{**star, "colour": "blue"}]}])
    assert found["colour"] == {"blue": {"n": 1, "right": 0, "kept": 0.5}, "red": {"n": 2, "right": 0.5, "kept": 0.75}}
    assert found["shape"]["ball"] == {"n": 1, "right": 1, "kept": 1}
    assert found["motion"] == {"fall": {"n": 3, "right": 0.3333, "kept": 0.6667}}


def test_the_command_refuses_bad_numbers_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--steps", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_model_is_not_trained_without_a_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--out", str(tmp_path), "--work", str(tmp_path), "--device", "cpu"]) == 2
    assert "train codec" in capsys.readouterr().err


def test_a_stopped_report_goes_on_with_the_parts_it_has_until_the_weights_change(tmp_path: Path) -> None:
    weights, calls = tmp_path / "model.safetensors", []
    weights.write_bytes(b"one")

    def measure() -> tuple[dict[str, float], dict[str, np.ndarray]]:
        calls.append(1)
        return {"kept": 0.5}, {"full/0": np.full((2, 3), len(calls), np.uint8)}

    first = Stages(tmp_path, weights).measured("full", measure)
    again = Stages(tmp_path, weights).measured("full", measure)
    assert first[0] == again[0] == {"kept": 0.5}
    assert np.array_equal(first[1]["full/0"], again[1]["full/0"])
    assert len(calls) == 1
    weights.write_bytes(b"two")
    _, pictures = Stages(tmp_path, weights).measured("full", measure)
    assert pictures["full/0"].max() == 2
