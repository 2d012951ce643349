"""What the doctor says of packages, and of the lanes it plans for a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from fkv import advice, doctor, machine
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
