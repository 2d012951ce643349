"""What the lesson holds still of a visitor's own run: whose numbers the steps then show, and when it lets go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from lesson_run import run
from stand_in import StandInEngine, StandInSession

from fkv.events import Settings, Verdict
from fkv.ui import held
from fkv.ui.recording import Recording
from fkv.ui.visitors import Visitor
from fkv.views import encode, evidence, lesson, live

Visiting = tuple[Visitor, Callable[[int], None]]


@pytest.fixture
def visiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Visiting]:
    """A visitor whose run is taken on chunk by chunk; the newest chunk is not quite over."""
    monkeypatch.setattr(StandInSession, "pause", 0)
    visitor, session, recording = (
        Visitor("me"),
        StandInSession(StandInEngine(), Settings(prompt="a red ball bouncing"), encode),
        Recording(),
    )
    assert visitor.open(0, session, recording)  # type: ignore[arg-type]
    events = session.events()

    def go_on(chunks: int) -> None:
        while chunks:
            event = next(events)
            recording.take(event)
            chunks -= isinstance(event, Verdict)

    yield visitor, go_on
    session.stop()


def close_steps(visitor: Visitor) -> dict[str, Any]:
    recording = visitor.recording
    own = live.live(recording.events(), None, recording.pictures(), held.close(visitor))
    sources = [trace for trace in (own, run()) if trace is not None]
    return {step["key"]: step for step in lesson.message(sources, "", held.waiting(visitor))["steps"]}


def test_until_two_heads_and_a_full_window_are_there_the_recorded_run_is_shown_and_the_head_to_pin_is_named(visiting: Visiting) -> None:
    visitor, go_on = visiting
    go_on(8)
    held.hold(visitor)
    step = close_steps(visitor)["token"]
    assert step["source"]["kind"] == "recorded"
    scores = np.array(visitor.recording.start.profile.scores)  # type: ignore[union-attr]
    away = np.abs(scores - scores[1, 0])
    assert step["waiting"]["pin"] == list(np.unravel_index(1 * away.shape[1] + int(away[1:].argmax()), away.shape))
    assert "as soon as its window is full and two heads are measured" in step["waiting"]["text"]


def test_a_live_run_replaces_the_recorded_one_in_the_steps_about_single_tokens(visiting: Visiting) -> None:
    visitor, go_on = visiting
    visitor.change(pinned=((2, 3),))
    go_on(8)
    held.hold(visitor)
    steps = close_steps(visitor)
    assert visitor.held is not None
    seen = visitor.held.looks.overview(2, 3)
    for key in ("token", "curve"):
        assert steps[key]["source"]["text"].startswith("your run, chunk 7, cpu")
        assert steps[key]["waiting"] is None
        assert steps[key]["data"]["frames"] == list(seen.frames)
        assert len(set(steps[key]["data"]["pictures"])) == len(seen.frames), "a picture of each frame of this run"
    heads = [(head["layer"], head["head"]) for head in steps["token"]["data"]["heads"]]
    assert heads == [(1, 0), (2, 3)]
    back = [float(evidence.reach(visitor.held.looks.overview(*head).share, seen.frames).mean()) for head in heads]
    assert all(f"looks {frames:.1f} frames back" in steps["token"]["reveal"][0] for frames in back), "the words' numbers are the run's"
    further = heads[int(np.argmax(back))]
    bars = visitor.held.looks.overview(*further).share.mean(axis=0)
    assert steps["curve"]["question"]["value"] == pytest.approx(100 * bars[-4:].sum(), abs=0.01)
    assert f"head score: {bars[-4:].sum() / bars[1:].sum():.2f}" in steps["curve"]["reveal"][1]


def test_a_token_is_answered_from_the_held_chunk_also_when_the_run_has_gone_on_or_ended(visiting: Visiting) -> None:
    visitor, go_on = visiting
    visitor.change(pinned=((2, 3),))
    go_on(8)
    held.hold(visitor)
    before = held.token(visitor, 6, 2, 3, 1, 5)
    assert (before.chunk, before.frame, before.row, before.column) == (6, 20, 1, 5)
    go_on(5)
    held.hold(visitor)
    visitor.end(visitor.session)
    after = held.token(visitor, 6, 2, 3, 1, 5)
    assert np.array_equal(before.weights, after.weights)
    with pytest.raises(ValueError, match="chunk 8 of your run is no longer held; take the newest chunk"):
        held.token(visitor, 7, 2, 3, 1, 5)


def test_the_newest_chunk_is_held_on_demand_and_when_other_heads_are_shown(visiting: Visiting) -> None:
    visitor, go_on = visiting
    visitor.change(pinned=((2, 3),))
    go_on(8)
    held.hold(visitor)
    go_on(2)
    held.hold(visitor, renew=True)
    assert visitor.held is not None
    assert visitor.held.close.chunk == 8
    visitor.change(pinned=((4, 4),))
    go_on(1)
    held.hold(visitor)
    assert visitor.held.looks.heads == ((1, 0), (4, 4))


def test_another_run_lets_go_of_what_was_held(visiting: Visiting) -> None:
    visitor, go_on = visiting
    visitor.change(pinned=((2, 3),))
    go_on(8)
    held.hold(visitor)
    assert held.close(visitor) is not None
    assert visitor.open(0, StandInSession(StandInEngine(), Settings(prompt="a blue star"), encode), Recording())  # type: ignore[arg-type]
    assert held.close(visitor) is None


def test_benchmark_mode_is_named_where_it_is_what_keeps_the_own_run_away(visiting: Visiting) -> None:
    visitor, go_on = visiting
    visitor.change(benchmark=True)
    go_on(1)
    assert "benchmark mode is on" in (held.waiting(visitor) or {})["text"]
