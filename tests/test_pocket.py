"""The pocket model's training: a killed run goes on as if nothing had happened; its codec; its report; its command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from untrained import SMALL, small_model

from fkv.codec import PocketCodec, load_pocket, pocket_random
from fkv.engine import Engine
from fkv.heads import HeadProfile
from fkv.pocket import evaluate, run
from fkv.pocket.choosing import Comparison
from fkv.pocket.evaluate import EACH, NUMBERS, SHARES, Trial, by_kind, rollouts, summary
from fkv.pocket.means import mean_of
from fkv.pocket.muon import orthogonal
from fkv.pocket.recipe import ModelRecipe
from fkv.pocket.stages import Pictures, Stages
from fkv.pocket.teacher import local_heads
from fkv.pocket.train import ASSETS, main
from fkv.pocket.train_model import known_roles, train_model
from fkv.spec import POCKET


def test_static_heads_are_those_of_the_profile_beside_the_weights_to_go_on_from(tmp_path: Path) -> None:
    profile = HeadProfile.from_json((ASSETS / "heads.json").read_text(), POCKET.geometry)
    assert known_roles(POCKET, ASSETS / "model.safetensors") == profile.roles()
    trained = tuple(map(tuple, local_heads(POCKET.geometry.layers, POCKET.geometry.heads)))
    assert known_roles(POCKET, None) == known_roles(POCKET, tmp_path / "model.safetensors") == trained != profile.roles()


def test_a_run_that_goes_on_takes_the_last_lengths_only_and_half_the_rates_and_plays_more_itself() -> None:
    recipe = ModelRecipe(steps=30).continued()
    assert (recipe.matrix_rate, recipe.rate) == (2.5e-3, 1.5e-3)
    assert {entry[0] for entry in recipe.lengths} == {1.0}
    assert set(recipe.plan()[0]) == {1, 3, 7, 10}
    assert (recipe.own_from, recipe.own, recipe.swap, recipe.keep) == (0, 0.75, 0.9, 1 / 3)
    assert recipe.with_rates(0.5) == replace(recipe, matrix_rate=1.25e-3, rate=0.75e-3)


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
    assert measure(codec, 977, scenes=12)[0] >= 32


def test_a_summary_says_none_where_no_clip_could_tell() -> None:
    assert summary([])["kept"] is None


def test_objects_are_counted_by_what_was_asked_for() -> None:
    ball = {"colour": "red", "shape": "ball", "motion": "fall", "right": True, "kept": 1.0, "motion_right": True}
    star = {**ball, "shape": "star", "right": False, "kept": 0.5, "motion_right": False}
    found = by_kind([{"objects": [ball, star]}, {"objects": [{**star, "colour": "blue"}]}])
    assert found["colour"] == {
        "blue": {"n": 1, "right": 0, "kept": 0.5, "motion_right": 0},
        "red": {"n": 2, "right": 0.5, "kept": 0.75, "motion_right": 0.5},
    }
    assert found["shape"]["ball"] == {"n": 1, "right": 1, "kept": 1, "motion_right": 1}
    assert found["motion"] == {"fall": {"n": 3, "right": 0.3333, "kept": 0.6667, "motion_right": 0.3333}}


def test_the_command_refuses_bad_numbers_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--steps", "0"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("model --keep 1.5 --init x", "--keep 1.5"),
        ("model --keep 0.5", "--init"),
        ("model --rates 0", "--rates 0"),
        ("model --rates 11", "(0, 10]"),
        ("compare", "folders"),
        ("mean", "folders"),
        ("report assets/pocket", "assets/pocket"),
        ("compare assets/pocket --chunks 1", "2 or more"),
        ("compare assets/pocket --policies nothing", "policy 'nothing' is unknown"),
        ("compare assets/pocket --policies=", "0 policies"),
        ("compare assets/pocket --json nowhere/found.json", "no folder nowhere"),
        ("compare nowhere --device cpu", "nowhere"),
        ("mean nowhere=2", "nowhere"),
        ("mean assets/pocket=none", "FOLDER=SHARE"),
    ],
)
def test_comparing_and_mixing_refuse_what_they_cannot_use_in_one_line(
    words: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--out", str(tmp_path), "--work", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_a_mean_of_weights_counts_them_by_their_shares_and_says_what_it_is_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = [small_model(seed).state_dict() for seed in (1, 2)]
    for name, state in zip("ab", states):
        (tmp_path / name).mkdir()
        save_file({key: tensor.half() for key, tensor in state.items()}, tmp_path / name / "model.safetensors")
    (tmp_path / "a" / "codec.safetensors").write_bytes(b"codec")
    assert main(["mean", "--out", str(tmp_path / "c"), f"{tmp_path / 'a'}=3", str(tmp_path / "b")]) == 0
    mixed = load_file(tmp_path / "c" / "model.safetensors")
    for key, tensor in mixed.items():
        torch.testing.assert_close(tensor.float(), 0.75 * states[0][key] + 0.25 * states[1][key], atol=2e-3, rtol=2e-3)
    assert [(part["weights"], part["share"]) for part in mean_of(tmp_path / "c")] == [("a", 0.75), ("b", 0.25)]
    assert mean_of(tmp_path / "a") == []
    assert (tmp_path / "c" / "codec.safetensors").read_bytes() == b"codec"
    (tmp_path / "d").mkdir()
    save_file({"other": torch.zeros(2)}, tmp_path / "d" / "model.safetensors")
    assert main(["mean", "--out", str(tmp_path / "c"), str(tmp_path / "a"), str(tmp_path / "d")]) == 2
    assert "another shape" in capsys.readouterr().err
    assert set(load_file(tmp_path / "c" / "model.safetensors")) == set(mixed)


@pytest.mark.parametrize("panning", [(), (1,), (1, 3)])
def test_panning_scenes_are_reported_by_themselves_where_there_are_two_or_more(
    panning: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric is made up of the number of its prompt, so that a mean says which prompts are in it."""
    prompts = [f"a red ball falling over green hills{', camera panning left' * (number in panning)}" for number in range(4)]
    weights, profile = tmp_path / "model.safetensors", HeadProfile.from_json((ASSETS / "heads.json").read_text(), POCKET.geometry)
    weights.write_bytes(b"weights")
    thing = {"colour": "red", "shape": "ball", "motion": "fall", "right": True, "kept": 1.0, "motion_right": True}

    def made_up(_: object, trial: Trial, texts: Sequence[str], *about: int) -> tuple[dict[str, Any], Pictures]:
        return {"rows": [dict.fromkeys(SHARES + NUMBERS, number / 4) | {"objects": [thing]} for number in range(len(texts))]}, {}

    monkeypatch.setattr(evaluate, "one_trial", made_up)
    monkeypatch.setattr(evaluate, "held_out", lambda count: prompts[:count])
    found, _ = evaluate.compare(cast("Engine", None), profile, Stages(tmp_path, weights), 4, 2, 2)
    assert (found["full"]["clips"], found["full"]["kept"]["mean"]) == (4, 0.375)
    assert (found["window"]["clips"], found["window"]["kept"]["mean"]) == (2, 0.125)
    apart = [found.get(f"{name}, panning camera") for name in ("full", "forcing-kv")]
    assert [one and (one["clips"], one["kept"]["mean"]) for one in apart] == ([(2, 0.5)] if len(panning) > 1 else [None]) * 2


def test_a_long_report_keeps_every_rollout_beside_the_mean() -> None:
    found = [
        dict.fromkeys(SHARES + NUMBERS, 0.5) | {"kept": kept, "sharpness_drift": drift}
        for kept, drift in ((0.95, -0.42), (float("nan"), 0.4))
    ]
    long = rollouts(found)
    assert set(long["each"]) == set(EACH)
    assert long["each"]["kept"] == [0.95, None]
    assert long["each"]["sharpness_drift"] == [-0.42, 0.4]
    assert long["sharpness_drift"]["mean"] == -0.01


def test_weights_are_compared_with_every_noise_and_what_was_measured_is_read_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", str(ASSETS), "--prompts", "2", "--chunks", "10", "--noises", "2", "--policies", "full:21,forcing-kv"]
    words += ["--work", str(tmp_path), "--device", "cpu", "--json", str(tmp_path / "found.json")]
    assert main(words) == 0
    full, other = json.loads((tmp_path / "found.json").read_text())
    assert (full["policy"], other["policy"]) == ("full:21", "forcing-kv")
    assert full["clips"] == 4, "two prompts, two noises"
    assert full["objects"] == sum(some["n"] for some in full["by motion"].values()) == other["objects"]
    assert 0.5 < full["kept"]["mean"] <= 1
    table = capsys.readouterr().out
    assert f"{100 * full['kept']['mean']:.1f}" in table
    monkeypatch.setattr(evaluate, "generate", lambda *_: pytest.fail("this was measured before"))
    assert main(words) == 0
    assert capsys.readouterr().out == table


def test_prompts_to_choose_by_are_all_different_and_three_are_in_the_report_too() -> None:
    chosen = Comparison(80).texts()
    assert len(set(chosen)) == 80
    assert Comparison(50).texts() == chosen[:50]
    assert len(set(evaluate.held_out(64)) & set(chosen)) == 3


def test_the_model_is_not_trained_without_a_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--out", str(tmp_path), "--work", str(tmp_path), "--device", "cpu"]) == 2
    assert "train codec" in capsys.readouterr().err


def test_weights_to_go_on_from_that_are_missing_damaged_or_of_another_model_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    (tmp_path / "codec.safetensors").write_bytes((ASSETS / "codec.safetensors").read_bytes())
    (tmp_path / "short.safetensors").write_bytes((ASSETS / "model.safetensors").read_bytes()[:1000])
    save_file(small_model().state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "model.safetensors").write_bytes((ASSETS / "model.safetensors").read_bytes())
    (tmp_path / "profile" / "heads.json").write_text("{}")
    words = {"nothing": "is missing", "short": "not a complete", "other": "another model", "profile/model": "heads.json"}
    for name, word in words.items():
        given = ["--init", str(tmp_path / f"{name}.safetensors"), "--out", str(tmp_path), "--work", str(tmp_path / "work")]
        assert main(["model", "--steps", "1", "--device", "cpu", *given]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert word in said
        assert not (tmp_path / "model.safetensors").exists()


def test_a_stopped_report_goes_on_with_the_parts_it_has_until_weights_or_scenes_change(tmp_path: Path) -> None:
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
    codec = tmp_path / "codec.safetensors"
    codec.write_bytes(b"one")
    _, pictures = Stages(tmp_path, weights, codec).measured("full", measure)
    assert pictures["full/0"].max() == 3
    for expected, asked in ((4, b"other scenes"), (4, b"other scenes"), (5, b"others yet")):
        _, pictures = Stages(tmp_path, weights, codec, asked=asked).measured("full", measure)
        assert pictures["full/0"].max() == expected
