"""What the doctor says of packages, and of the lanes it plans for a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fkv import advice, doctor, machine, parts
from fkv.__main__ import main
from fkv.spec import LONGLIVE, POCKET, ROLLING_FORCING, SELF_FORCING


def test_every_requirement_is_listed() -> None:
    lines = (Path(__file__).parents[1] / "requirements.txt").read_text().splitlines()
    assert {re.split(r"[<>=;\[ ]", line)[0] for line in lines if line} == set(machine.PACKAGES)


def test_packages_of_published_models_are_marked_so_and_do_not_fail_where_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "versions", lambda: {"tqdm": None, "ftfy": None, "diffusers": "0.42"})
    assert list(doctor.packages()) == [
        (False, "tqdm", "not installed; run `pip install -r requirements.txt`"),
        (True, "ftfy", "not installed (for published models); run `pip install -r requirements.txt`"),
        (True, "diffusers", "0.42 (for published models)"),
    ]


def test_the_first_lane_planned_is_the_cache_a_model_was_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (POCKET, SELF_FORCING, LONGLIVE, ROLLING_FORCING)
    assert [advice.trained(spec) for spec in rows] == ["full:21", "full:21", "window:12:3", "full:21"]
    monkeypatch.setattr(doctor, "missing", lambda spec, count: iter(()))
    monkeypatch.setattr(doctor, "matrix_rate", lambda device, dtype: 600.0)
    said = {what: text for _, what, text in doctor.model(LONGLIVE, torch.device("cpu"))}
    assert " with window: cache 5.2 GB + chunk being drawn 1.7 GB" in said["lane A"]
    assert " with forcing-kv:segments=6: " in said["lane B"]


def test_the_plan_of_a_model_names_what_a_commit_holds_besides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing", lambda spec, count: iter(()))
    monkeypatch.setattr(doctor, "matrix_rate", lambda device, dtype: 600.0)
    said = {what: text for _, what, text in doctor.model(SELF_FORCING, torch.device("cpu"))}
    assert ", one commit 747.6 MB, decoder taehv " in said["estimate"]


def test_the_doctor_plans_the_lanes_the_decoder_and_the_products_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "missing", lambda spec, count: iter(()))
    monkeypatch.setattr(doctor, "matrix_rate", lambda device, dtype: 600.0)

    def said(*words: str) -> dict[str, str]:
        main(["doctor", "--model", "self-forcing", "--device", "cpu", *words])
        return {line[5:21].strip(): line[22:] for line in capsys.readouterr().out.splitlines()}

    usual, asked = said(), said("--policies", "window:12:3,full:9,forcing-kv", "--decoder", "wan-vae", "--fp8")
    assert [name for name in asked if name.startswith("lane")] == ["lane A", "lane B", "lane C"]
    assert " with window: cache 5.2 GB" in asked["lane A"]
    assert ", decoder wan-vae " in asked["estimate"]
    assert asked["fp8"].startswith("FP8 needs a CUDA device")
    assert float(asked["weights"].split()[0]) < float(usual["weights"].split()[0])
    assert "fp8" not in usual


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model krea-14b --fp8", "nothing near it fits either (its weights alone are 21.3 GB); use a smaller model or a larger device"),
        ("--decoder vhs", "codec 'vhs' of model 'self-forcing' is unknown; use one of: "),
        ("--decoder pocket", "decoder 'pocket' does not fit the latents of Self Forcing 1.3B; use one of: taehv, wan-vae"),
        ("--policies full:2", "full: 2 frames leave no room for a chunk of 3; use >= 3, or 0 for all"),
        ("--policies fulll", "'fulll' is unknown"),
        ("--policies full", "Full, whole history keeps more with every chunk and a run without end would need memory without end"),
    ],
)
def test_what_the_doctor_cannot_plan_is_said_in_a_line(
    words: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "missing", lambda spec, count: iter(()))
    monkeypatch.setattr(doctor, "matrix_rate", lambda device, dtype: 600.0)
    monkeypatch.setattr(parts, "memory", lambda device: 25_000_000_000)
    assert main(["doctor", "--model", "self-forcing", "--device", "cpu", *words.split()]) != 0
    out, err = capsys.readouterr()
    assert sum(sentence in line for line in (out + err).splitlines()) == 1


def test_what_is_asked_of_a_model_that_is_not_named_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("--resolution 480p", "--policies full:21", "--decoder taehv", "--fp8"):
        assert main(["doctor", *words.split()]) == 2
        assert capsys.readouterr().err.endswith(f"{words.split()[0]} is of one model; name it with --model\n")
