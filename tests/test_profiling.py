"""The full calibration: what it writes, that it can be interrupted, formats both ways, and the error of the live estimate."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fkv import engine, profiling
from fkv.__main__ import INTERRUPTED, main
from fkv.heads import HeadProfile
from fkv.machine import Interruption
from fkv.spec import POCKET, WanConfig

NET = WanConfig(dim=32, heads=4, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SPEC = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None, window=9, schedule=replace(POCKET.schedule, steps=(1000, 500)))


@pytest.fixture(scope="module")
def small() -> engine.Engine:
    return engine.load(SPEC, "cpu", random_weights=True)


@pytest.fixture(autouse=True)
def _loaded(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "load", lambda *_, **__: small)


def test_a_profile_holds_scores_errors_classes_stability_and_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "heads.json"
    assert main(f"profile --prompts 2 --chunks 2 --quota 0.5 --sampling-error --json {path}".split()) == 0
    profile = HeadProfile.from_json(path.read_text(), SPEC.geometry)
    assert profile.share == 0.5
    assert profile.recipe["history"] == 6
    assert (profile.recipe["chunks"], profile.recipe["passes"], profile.recipe["skip_first_k"]) == (2, 2, 1)
    assert set(profile.variants) == {"skip_first_k=3"}
    rows = profile.sampling["counts"]
    assert [row["queries"] for row in rows] == [12, 24, 48]
    assert all(abs(row["worst"]["gap"]) >= row["rmse"] >= 0 for row in rows)
    assert rows[-1]["rmse"] == 0, "18 queries are all there are"
    assert 0 < profile.sampling["live"]["probe_share"] < 1
    said = capsys.readouterr().out
    assert "50 % of 8 heads are static by rule: the 2 highest of 4 in each layer" in said
    assert "24 sampled queries: score error" in said
    assert [file.name for file in tmp_path.iterdir()] == ["heads.json"]


def test_an_interrupted_calibration_keeps_its_prompts_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small: engine.Engine
) -> None:
    path = tmp_path / "heads.json"
    monkeypatch.setattr(Interruption, "asked", True, raising=False)
    monkeypatch.setattr(Interruption, "__init__", lambda self: None)
    assert main(f"profile --prompts 2 --chunks 1 --json {path}".split()) == INTERRUPTED
    assert HeadProfile.from_json(path.read_text()).recipe["prompts"] == 1
    assert "interrupted: 1 of 2 prompts measured; the same command goes on from there\n" in capsys.readouterr().out
    kept = path.with_name("heads.json.measured")
    assert len(json.loads(kept.read_text())["measured"]) == 1
    recipe = profiling.Recipe(2, 1)
    told: list[int] = []
    resumed, complete = profiling.calibrate(small, recipe, kept, lambda done, due: told.append(done))
    assert complete
    assert told == [4, 5, 6], "the first prompt is not measured again"
    assert not kept.exists()
    assert resumed == profiling.calibrate(small, recipe, kept)[0]
    kept.write_text('{"key": {"model": "other"}, "measured": [[1]]}')
    assert profiling.calibrate(small, profiling.Recipe(1, 1), kept)[0].recipe["prompts"] == 1


def test_published_files_are_read_compared_and_written_both_ways(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, published, back = (tmp_path / name for name in ("own.json", "published.json", "back.json"))
    geometry = POCKET.geometry
    profile = HeadProfile("pocket", geometry.layers, geometry.heads, ((0, 2),) * geometry.layers)
    published.write_text(profile.to_published())
    assert main(f"profile --from {published} --json {own}".split()) == 0
    assert HeadProfile.from_json(own.read_text(), geometry).roles() == profile.roles()
    assert main(f"profile --from {own} --published --json {back}".split()) == 0
    assert json.loads(back.read_text())["layers"] == json.loads(published.read_text())["layers"]
    assert "25 % of 48 heads are static" in capsys.readouterr().out
    bad = json.loads(published.read_text())
    bad["layers"][1]["dynamic_head"].append(0)
    published.write_text(json.dumps(bad))
    assert main(f"profile --from {published}".split()) == 2
    assert "layer 1 does not partition 8 heads (missing [], twice [0], foreign [])" in capsys.readouterr().err
