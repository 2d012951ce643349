"""A recorded run holds what the lesson asks of it, says how it was made, and reads back as it was written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fkv import engine
from fkv.__main__ import main
from fkv.heads import HeadProfile
from fkv.record import Recorder
from fkv.spec import POCKET, WanConfig
from fkv.views import trace as traces

NET = WanConfig(dim=16, heads=4, layers=2, ffn=16, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SPEC = replace(
    POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None, window=12, schedule=replace(POCKET.schedule, steps=(1000, 500))
)


@pytest.fixture(scope="module")
def small() -> engine.Engine:
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    return replace(loaded, profile=HeadProfile.of_scores("small", [[0.9, 0.1, 0.7, 0.3]] * 2).by_quota(0.5))


@pytest.fixture(scope="module")
def made(small: engine.Engine) -> traces.Trace:
    ticks: list[int] = []
    recorder = Recorder(small, prompts=2, chunks=4, tick=ticks.append)
    found = recorder.trace()
    assert sum(ticks) == recorder.total, "the progress bar ends where it said it would"
    return found


def test_a_recorded_run_reads_back_as_it_was_written(made: traces.Trace, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(traces.to_json(made))
    back = traces.read(path)
    assert back is not None
    assert traces.to_json(back) == path.read_text()
    assert back.lanes["A"].made == made.lanes["A"].made or back.lanes["A"].made[0].stored == made.lanes["A"].made[0].stored
    assert back.look is not None
    assert np.allclose(back.look.share, made.look.share if made.look else 0, atol=1e-5)


def test_attention_shares_are_whole_and_bands_add_up_to_them(made: traces.Trace) -> None:
    look = made.look
    assert look is not None
    assert look.frames == tuple(range(12))
    assert np.allclose(look.share.sum(axis=-1), 1, atol=1e-5)
    assert np.allclose(look.bands.sum(axis=-1), look.share, atol=1e-5)
    assert len(look.pictures) == len(look.frames)
    for atlas in made.atlases:
        assert np.allclose(atlas.share.sum(axis=-1), 1, atol=1e-5)
    assert [(atlas.layer, atlas.head) for atlas in made.atlases] == [(1, 0), (1, 1)], "the heads that differ most, past layer 0"


def test_every_trial_has_a_number_for_every_prompt_and_the_same_static_count(made: traces.Trace) -> None:
    names = [trial.name for trial in made.trials]
    assert names == ["full", "profile", "inverted", "random:1", "random:2", "all-static", "all-dynamic"]
    by = {trial.name: trial for trial in made.trials}
    assert all(len(trial.psnr) == len(trial.kept) == 2 for trial in made.trials)
    assert all(np.isfinite(trial.psnr).all() for trial in made.trials[1:])
    assert all(list(map(len, by[f"random:{seed}"].static)) == list(map(len, by["profile"].static)) for seed in (1, 2))
    assert by["all-static"].stored < by["profile"].stored < by["all-dynamic"].stored


def test_the_recipe_says_how_and_where(made: traces.Trace) -> None:
    assert made.source.kind == "recorded"
    assert {"prompts", "seeds", "left", "right", "pass", "torch", "threads", "commit"} <= set(made.source.recipe)


def test_too_few_chunks_and_a_missing_profile_are_said_in_a_sentence(small: engine.Engine) -> None:
    with pytest.raises(ValueError, match="use --chunks 4 or more"):
        Recorder(small, chunks=2)
    with pytest.raises(ValueError, match="no head profile"):
        Recorder(replace(small, profile=None))


def test_record_is_a_command(
    small: engine.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "load", lambda *rest, **more: small)
    path = tmp_path / "run.json.gz"
    assert main(f"record --prompts 1 --chunks 4 --json {path}".split()) == 0
    found = traces.read(path)
    assert found is not None
    assert len(found.lanes["B"].made) == 4
    assert "prompts: 1" in capsys.readouterr().out


def test_another_file_is_refused_with_the_cure(tmp_path: Path) -> None:
    assert traces.read(tmp_path / "none.json") is None
    (tmp_path / "other.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="python -m fkv record"):
        traces.read(tmp_path / "other.json")
