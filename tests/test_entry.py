"""The entry of the page, `app.py`: its flags, and what it refuses in one line before anything is served."""

from __future__ import annotations

from pathlib import Path

import pytest

import app
from fkv import engine, ui
from fkv.heads import HeadProfile
from fkv.spec import POCKET


def test_flags_follow_gradios_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    found = app.arguments([])
    assert (found.port, found.host, found.model) == (7999, "0.0.0.0", "pocket")
    assert app.arguments(["--port", "80"]).port == 80


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("--port 0", "--port 0 is below 1; use 1 or more"),
        ("--port 99999", "--port 99999 is above 65535; use 1 to 65535"),
        ("--threads -1", "--threads -1 is below 0"),
        ("--threads 3", "--threads 3 is above the 2 cores"),
        ("--seats 0", "--seats 0 is below 1"),
        ("--chunks -1", "--chunks -1 is below 0"),
        ("--model sora", "invalid choice: 'sora'"),
        ("--device tpu", "device 'tpu' is unknown; use auto, cpu or cuda"),
        ("--device cuda:99", "device 'cuda:99' is not there"),
        ("--resolution 999p", "resolution '999p' is unknown; use one of: 256p,"),
        ("--resolution 250x450", "use 256x448"),
        ("--attention foo", "attention 'foo' is unknown; use one of: auto,"),
        ("--decoder foo", "'foo'"),
        ("--device cpu --graphs", "--graphs needs a CUDA device"),
        ("--device cpu --fp8", "FP8 needs a CUDA device"),
        ("--heads {dir}/nowhere.json", "nowhere.json is no file"),
        ("--heads {dir}/other.json", "the head profile has 1 layers, the model 6"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str, words: str
) -> None:
    (tmp_path / "other.json").write_text(HeadProfile("other", 1, 8, ((),)).to_json())
    monkeypatch.setattr(engine, "cores", lambda: 2)
    monkeypatch.setattr(ui, "build", lambda *_, **__: pytest.fail("the page is built"))
    with pytest.raises(SystemExit) as ended:
        app.main(given.format(dir=tmp_path).split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("app.py: ")
    assert words in said
    assert said.count("\n") == 1


def test_flags_that_can_be_served_pass() -> None:
    app.check(app.arguments([]))
    app.check(app.arguments(["--model", "longlive", "--resolution", "480p", "--decoder", "wan-vae", "--attention", "sdpa"]))


def test_a_head_profile_is_taken_for_the_model_shown_first_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry, path, asked = POCKET.geometry, tmp_path / "own.json", dict[str, HeadProfile | None]()
    profile = HeadProfile("pocket", geometry.layers, geometry.heads, ((0, 2),) * geometry.layers)
    path.write_text(profile.to_published())
    monkeypatch.setattr(engine, "load", lambda spec, **more: asked.update({spec.name: more["heads"]}))
    room = app.backend(app.arguments(["--heads", str(path)]))
    room.load("pocket")
    room.load("longlive")
    given = asked["pocket"]
    assert given is not None
    assert given.roles() == profile.roles()
    assert asked["longlive"] is None
