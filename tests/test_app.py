"""The page without a browser: seats, one run's messages, controls from metadata, downloads in bounds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from asking import SETTINGS, asked
from stand_in import StandInEngine, StandInSession

import app
from fkv import engine
from fkv.events import Settings
from fkv.policies import discover, parse, spelling
from fkv.ui import run
from fkv.ui.controls import cast, picker
from fkv.ui.lab import keep_fitting
from fkv.ui.recording import Recording
from fkv.ui.shelf import Shelf
from fkv.ui.theme import HEADS, SCRIPTS, SHEETS, STAGE, head
from fkv.ui.visitors import DOUBLE_CLICK, Allowance, Lobby, Visitor, Visitors
from fkv.video import write_video
from fkv.views import encode

ROOT = Path(__file__).parent.parent
ENDLESS = replace(SETTINGS, chunks=0)


def session(settings: Settings = SETTINGS, engine: StandInEngine | None = None) -> StandInSession:
    made = StandInSession(engine or StandInEngine(), settings, encode)
    made.pause = 0
    return made


def quick(engine: StandInEngine, settings: Settings, encoder: object = None, *, latents: bool = False) -> StandInSession:
    return session(settings, engine)


def play(visitor: Visitor, lobby: Lobby, engine: StandInEngine | None = None, settings: Settings = SETTINGS) -> Generator[str, None, None]:
    made = engine or StandInEngine()
    shelf = Shelf(lambda _: made)  # type: ignore[arg-type,return-value]
    return run.play(visitor, lobby, shelf, "pocket", settings, quick)  # type: ignore[arg-type]


def told(texts: list[str]) -> list[dict[str, object]]:
    return [event for text in texts for event in json.loads(text)["events"]]


def test_importing_the_entry_starts_nothing_and_loads_no_torch() -> None:
    code = "import sys, app; assert 'torch' not in sys.modules and 'gradio' not in sys.modules; assert callable(app.main)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_pocket_model_and_the_page_load_nothing_of_the_published_models() -> None:
    code = (
        "import sys; from fkv.engine import load; import fkv.ui; load('pocket', random_weights=True); "
        "assert not {'transformers', 'diffusers', 'ftfy'} & set(sys.modules), 'loaded too early'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("allowed", "said", "given", "taken"), [(4, None, [], 3), (1, None, [], 1), (4, "2", [], 2), (4, "2", ["--threads", "4"], 4)]
)
def test_a_model_leaves_a_core_to_the_rest_of_the_machine_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, allowed: int, said: str | None, given: list[str], taken: int
) -> None:
    asked = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        monkeypatch.setattr(torch, "get_num_threads", lambda: int(said))
    monkeypatch.setattr(engine, "cores", lambda: allowed)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    app.backend(app.arguments(given)).load("pocket")
    assert asked == [taken]


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "cores", lambda: 2)
    with pytest.raises(ValueError, match="--threads 3 is above the 2 cores"):
        engine.load("pocket", threads=3)


def test_the_page_asks_nobody_else_for_anything() -> None:
    text, files = head(), {path.name for folder in (STAGE, HEADS) for path in folder.iterdir()}
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert all(f"{name}.js" in files for name in SCRIPTS)
    assert all(f"{name}.css" in files for name in SHEETS)


def test_a_run_begins_with_start_numbers_its_messages_and_frees_its_seat() -> None:
    lobby, visitor, engine = Lobby(), Visitor("abcdefghij"), StandInEngine()
    texts = list(play(visitor, lobby, engine))
    streamed = [json.loads(text) for text in texts if json.loads(text)["run"]]
    assert [message["seq"] for message in streamed] == list(range(len(streamed)))
    assert streamed[0]["events"][0]["type"] == "start"
    assert streamed[-1]["events"][-1]["type"] == "done"
    assert not lobby.seated
    assert visitor.session is None
    assert len(visitor.recording.pairs()) == 4
    assert (engine.begun, engine.ended) == (1, 1)


def test_a_closed_page_ends_the_run_at_its_next_yield() -> None:
    lobby, visitor, engine = Lobby(), Visitor("a"), StandInEngine()
    stream = play(visitor, lobby, engine, ENDLESS)
    while not any(event["type"] == "frames" for event in told([next(stream)])):
        pass
    stream.close()
    assert (engine.begun, engine.ended) == (1, 1)
    assert not lobby.seated


def test_a_double_click_makes_one_run_and_a_later_start_replaces_it() -> None:
    lobby, visitor, engine = Lobby(), Visitor("a"), StandInEngine()

    first = play(visitor, lobby, engine, ENDLESS)
    while not any(event["type"] == "frames" for event in told([next(first)])):
        pass
    visitor.asked = time.monotonic()
    assert list(play(visitor, lobby, engine)) == []
    visitor.asked -= 2 * DOUBLE_CLICK
    second = play(visitor, lobby, engine)
    assert any(event["type"] == "start" for event in told(list(second)))
    assert told(list(first))[-1]["type"] == "done"
    assert (engine.begun, engine.ended) == (2, 2)
    assert not lobby.seated


def test_a_start_right_after_a_stop_is_meant() -> None:
    visitor = Visitor("a")
    assert visitor.begin(100.0) is not None
    assert visitor.begin(100.1) is None
    visitor.stop()
    assert visitor.begin(100.2) is not None


def test_the_third_waits_sees_his_place_and_gets_the_next_seat() -> None:
    lobby = Lobby(seats=2)
    one, two, three, four = (lobby.ask(name) for name in "abcd")
    assert [lobby.place(ticket) for ticket in (one, two, three, four)] == [0, 0, 1, 2]
    lobby.leave("a", one)
    assert [lobby.place(ticket) for ticket in (two, three, four)] == [0, 0, 1]
    again = lobby.ask("b")
    assert lobby.place(again) == 0, "who restarts keeps the seat"
    lobby.leave("b", two)
    assert lobby.place(again) == 0, "the old run's end takes nothing from the new one"
    lobby.leave("c", three)
    assert lobby.place(four) == 0
    with pytest.raises(KeyError):
        lobby.place(one)


def test_waiting_is_said_in_a_sentence_and_stop_leaves_the_line() -> None:
    lobby = Lobby(seats=1)
    held = lobby.ask("other")
    visitor = Visitor("a")
    stream = play(visitor, lobby)
    assert "You are number 1 in line" in str(told([next(stream)])[0]["text"])
    visitor.stop()
    assert list(stream) == []
    assert not lobby.line
    lobby.leave("other", held)


def test_what_cannot_start_is_said_in_one_sentence() -> None:
    def broken(name: str) -> StandInEngine:
        raise FileNotFoundError(f"{name} weights are missing; restore them")

    failed = told(list(run.play(Visitor("a"), Lobby(), Shelf(broken), "pocket", SETTINGS, quick)))[-1]  # type: ignore[arg-type]
    assert (failed["kind"], failed["text"]) == ("error", "Pocket weights are missing; restore them.")
    nothing = replace(SETTINGS, prompt="...")
    refused = told(list(play(Visitor("a"), Lobby(), settings=nothing)))[-1]
    assert refused["kind"] == "error"
    assert str(refused["text"]).startswith("The prompt")


def test_a_model_is_loaded_once_and_again_after_a_failure() -> None:
    calls: list[str] = []

    def load(name: str) -> StandInEngine:
        calls.append(name)
        if len(calls) == 1:
            raise OSError("no network")
        return StandInEngine()

    shelf = Shelf(load)  # type: ignore[arg-type]
    assert isinstance(shelf.want("x").exception(5), OSError)
    assert shelf.want("x").result(5) is shelf.want("x").result(5)
    assert calls == ["x", "x"]


def test_visitors_share_nothing_and_leave_nothing() -> None:
    visitors = Visitors(most=2)
    a, b = visitors.of("a"), visitors.of("b")
    assert a is visitors.of("a")
    assert a.recording is not b.recording
    folder = a.folder()
    visitors.leave("a")
    assert a.gone
    assert not folder.exists()
    visitors.of("c"), visitors.of("d")
    assert len(visitors) == 2


def test_a_fast_model_waits_for_the_playback() -> None:
    now = [0.0]
    pacer = run.Pacer(24, lead=2.0, clock=lambda: now[0])
    pacer.sent(24)
    assert pacer.ahead() == 0
    pacer.sent(48)
    assert pacer.ahead() == pytest.approx(1.0)
    now[0] = 1.0
    assert pacer.ahead() == 0
    now[0] = 60.0
    pacer.sent(12)
    assert pacer.ahead() == 0, "a pause does not save up time"


@pytest.mark.parametrize("name", discover())
def test_controls_of_every_policy_follow_from_its_fields(name: str) -> None:
    import gradio as gr

    with gr.Blocks():
        made = picker("A", name, discover())
    values = [name, *(control.value for control in made.controls.values())]
    policy = made.policy(values, discover())
    assert policy == parse(name)
    assert {parameter for owner, parameter in made.controls if owner == name} == {item.name for item in policy.parameters()}
    assert parse(spelling(policy)) == policy


def test_an_emptied_or_crooked_field_is_named() -> None:
    with pytest.raises(ValueError, match="window: recent is empty"):
        cast("window", "recent", None, int)
    with pytest.raises(ValueError, match="whole number"):
        cast("window", "recent", 2.5, int)
    assert cast("x", "ratio", 1, float) == 1.0


def test_a_recording_is_bounded_and_its_report_is_finite_json() -> None:
    recording = Recording(chunks=3, measurements=10)
    for event in session(replace(SETTINGS, chunks=8)).events():
        recording.take(event)
    assert [chunk for chunk, _, _ in recording.pairs()] == [5, 6, 7]
    report = json.loads(recording.report())
    assert report["older_measurements_left_out"] == 8 * 3 - 10
    assert len(report["samples"]) + len(report["verdicts"]) == 10
    sample = report["samples"][-1]
    assert sample["ms"]["end_to_end"] == pytest.approx(sample["ms"]["diffusion"] + sample["ms"]["decode"] + sample["ms"]["encode"])
    with pytest.raises(ValueError, match="press Start"):
        Recording().report()


def test_a_recording_becomes_a_video_of_both_lanes(tmp_path: Path) -> None:
    import imageio_ffmpeg

    recording = Recording()
    for event in session(replace(SETTINGS, chunks=2)).events():
        recording.take(event)
    path, reel = tmp_path / "both.mp4", recording.reel()
    assert write_video(path, reel.frames(), reel.fps) == 24
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert frames == 24
    first = next(reel.frames())
    assert first[0].shape == first[1].shape == (80, 128, 3)
    assert np.any(first[0] != first[1])


def test_what_is_chosen_about_heads_waits_for_the_next_run_and_is_checked() -> None:
    visitor = Visitor("a")
    ask = asked(visitor)
    answer = ask("choose", rule="threshold", threshold=0.5, overrides=[[2, 3, "static"]], pinned=[[4, 1]])
    assert answer["ok"]
    assert 3 in answer["static"][2]  # type: ignore[index]
    assert visitor.wishes == {"rule": "threshold", "threshold": 0.5, "overrides": ((2, 3, "static"),), "pinned": ((4, 1),)}
    for wrong in ({"threshold": 2}, {"threshold": True}, {"rule": "loudest"}, {"pinned": [[6, 0]]}, {"head": "1"}, {"skip_first": 2}):
        refused = ask("choose", **wrong)
        assert not refused["ok"]
        assert not str(refused["error"])[0].islower(), "a sentence"
    assert visitor.wishes["threshold"] == 0.5, "what is refused changes nothing"


def test_questions_of_strangers_and_too_many_questions_are_refused() -> None:
    visitor = Visitor("a")
    ask = asked(visitor)
    assert "nothing was generated yet" in str(ask("look", layer=1, head=0, frame=0, row=0, column=0)["error"]).lower()
    assert "reload" in str(ask("choose", key="somebody else", rule="profile")["error"])
    visitor.allowance = Allowance(2)
    assert [ask("choose", rule="profile")["ok"] for _ in range(3)] == [True, True, False]


def test_choices_of_another_model_are_let_go_of_in_a_sentence() -> None:
    visitor = Visitor("a", wishes={"layer": 29, "head": 11, "pinned": ((29, 3),)})
    notice = keep_fitting(visitor, StandInEngine(), SETTINGS)  # type: ignore[arg-type]
    assert notice is not None
    assert "does not exist here" in notice["text"]
    assert visitor.wishes == {"layer": 0, "head": 0, "pinned": ()}
    assert keep_fitting(visitor, StandInEngine(), SETTINGS) is None  # type: ignore[arg-type]


def test_layers_that_a_policy_does_not_part_are_known_from_its_formula() -> None:
    engine = StandInEngine()
    assert run.parting(engine, "forcing-kv")["alike"] == [0]  # type: ignore[arg-type]
    assert run.parting(engine, "full:21") == {"type": "parting", "policy": "full:21", "classes": False, "alike": []}  # type: ignore[arg-type]
