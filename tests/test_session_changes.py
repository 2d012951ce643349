"""What is changed while a session runs takes effect at the next chunk, or is refused in a sentence with nothing lost."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import OTHER, SETTINGS, SPEC, of, pictures, run, until

from fkv import engine
from fkv.events import Event, Notice, Residency, Sample, Settings, Start, Verdict
from fkv.findings import Classes
from fkv.heads import HeadProfile
from fkv.lane import LaneRun
from fkv.session import Session, prompt_of
from fkv.text import PocketText, Prompt


def test_a_changed_policy_takes_effect_at_the_next_chunk_and_says_so_twice(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    seen = list(itertools.takewhile(lambda event: not (isinstance(event, Verdict) and event.chunk == 2), events))
    session.change(compress=False)
    seen = list(events)
    told = [(notice.state, notice.lane, notice.kind, notice.chunk) for notice in of(Notice, seen)]
    assert told == [("received", "B", "policy", 2), ("applied", "B", "policy", 3)]
    assert of(Notice, seen)[1].ms > 0
    samples = [sample for sample in of(Sample, seen) if sample.lane == "B"]
    assert [sample.recached for sample in samples] == [True, False, False]
    assert samples[0].ms.recache > 0
    assert {sample.policy for sample in samples} == {"full:frames=9"}
    assert all(sample.bytes_stored == sample.bytes_expected for sample in samples)


def test_a_prompt_changed_while_a_lane_works_is_received_in_that_chunk(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    until(events, Residency)
    session.change(prompt=OTHER)
    seen = list(events)
    told = [(notice.state, notice.lane, notice.chunk) for notice in of(Notice, seen) if notice.kind == "prompt"]
    assert told == [("received", None, 0), ("applied", "A", 1), ("applied", "B", 1)]
    assert pictures(seen)[-1] != pictures(run(small))[-1]
    assert {sample.chunk for sample in of(Sample, seen) if sample.recached} == {1}


def test_a_change_taken_back_in_time_changes_nothing(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    head = [next(events) for _ in range(2)]
    session.change(right="window:sink=1,recent=4")
    session.change(right="forcing-kv")
    tail = list(events)
    assert pictures(head + tail) == pictures(run(small))
    assert [notice.state for notice in of(Notice, tail)] == ["received", "applied"]
    assert not any(sample.recached for sample in of(Sample, tail))


def test_another_threshold_or_other_roles_move_heads_between_classes(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    until(events, Verdict)
    session.change(threshold=0.5)
    seen = list(events)
    told = [(notice.kind, notice.lane, notice.state) for notice in of(Notice, seen)]
    assert told == [("parameter", "B", "received"), ("parameter", "B", "applied")]
    static, dynamic = of(Residency, seen)[-1].kept
    assert (static.heads, dynamic.heads) == (2, 2)
    one = of(Residency, run(small, roles=((), (0, 1, 2)), layer=1))[-1]
    assert [kept.heads for kept in one.kept] == [3, 1]


def after_first_chunk(small: engine.Engine, settings: Settings = SETTINGS, **edits: Any) -> list[Event]:
    session = Session(small, settings)
    events = session.events()
    until(events, Verdict)
    session.change(**edits)
    return list(events)


def test_a_profile_that_was_brought_parts_the_heads_of_lane_b_from_the_next_chunk_and_is_named(small: engine.Engine) -> None:
    geometry = SPEC.geometry
    static = tuple(tuple(range(geometry.heads - 1)) for _ in range(geometry.layers))
    mine = HeadProfile("small", geometry.layers, geometry.heads, static, recipe={"file": "mine.json"})
    seen = after_first_chunk(small, profile=mine)
    told = of(Notice, seen)
    assert [(notice.kind, notice.lane, notice.state) for notice in told] == [("parameter", "B", "received"), ("parameter", "B", "applied")]
    assert told[0].text == "Head profile mine.json received; it takes effect at the next chunk."
    assert "by head profile mine.json;" in told[1].text
    assert of(Classes, seen)[-1].static == static
    assert [kept.heads for kept in of(Residency, seen)[-1].kept] == [geometry.heads - 1, 1]
    first = of(Start, run(small, profile=mine, chunks=1))[0]
    assert first.profile is not None
    assert (first.profile.name, first.profile.static) == ("mine.json", static)
    with pytest.raises(ValueError, match=r"the head profile has \d+ heads a layer, the model \d+"):
        Session(small, SETTINGS).change(profile=HeadProfile("wide", 2, 9, ((), ())))


def test_one_head_overridden_moves_at_the_next_chunk_and_is_told_in_words(small: engine.Engine) -> None:
    seen = after_first_chunk(small, overrides=((1, 3, "static"),))
    (classes,) = of(Classes, seen)
    assert (classes.chunk, classes.static, classes.overrides) == (1, ((0,), (0, 3)), ((1, 3, "static"),))
    applied = of(Notice, seen)[-1]
    assert applied.text.startswith("Lane B: head 3 of layer 1 is now static; re-cached ")
    assert [kept.heads for kept in of(Residency, seen)[-1].kept] == [2, 2]
    assert [sample.recached for sample in of(Sample, seen) if sample.lane == "B"] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("edits", "static"),
    [({"rule": "inverted"}, 3), ({"rule": "quota:0.5"}, 2), ({"rule": "all-static"}, 4), ({"rule": "random:5"}, 1)],
)
def test_a_rule_is_applied_to_the_running_lane(small: engine.Engine, edits: dict[str, Any], static: int) -> None:
    seen = after_first_chunk(small, **edits)
    kept = of(Residency, seen)[-1].kept
    assert sum(each.heads for each in kept if each.name == "static") == static


def test_a_rule_that_comes_to_the_same_roles_changes_nothing(small: engine.Engine) -> None:
    seen = after_first_chunk(small, rule="quota:0.25")
    assert of(Classes, seen) == []
    assert not any(sample.recached for sample in of(Sample, seen))


def test_classes_chosen_before_the_start_are_told_first_and_without_compression_too(small: engine.Engine) -> None:
    events = run(small, chunks=1, rule="inverted")
    assert isinstance(events[0], Start)
    assert of(Classes, events) == [Classes(0, ((1, 2, 3),) * 2, "inverted")]
    assert of(Classes, run(small, chunks=1, rule="inverted", compress=False)) == [Classes(0, ((1, 2, 3),) * 2, "inverted")]


def test_a_bad_choice_about_heads_is_refused_and_nothing_changes(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    head = [next(events)]
    for edit in ({"threshold": 2}, {"rule": "no"}, {"head": 9}, {"pinned": ((0, 0),) * 5}, {"overrides": ((7, 0, "static"),)}):
        with pytest.raises(ValueError, match=r"\w+ .*;"):
            session.change(**edit)
    assert session.settings == SETTINGS
    tail = list(events)
    assert of(Notice, tail) == []
    assert pictures(head + tail) == pictures(run(small))


def test_another_seed_draws_other_noise_from_the_next_chunk(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    first = next(event for event in events if isinstance(event, Verdict))
    session.change(seed=99)
    rest = list(events)
    assert first.chunk == 0
    assert pictures(rest)[0] != pictures(run(small))[2]
    assert any(notice.state == "applied" and "seed 99" in notice.text for notice in of(Notice, rest))
    assert pictures(rest)[-1] != pictures(run(small))[-1]


def test_a_prompt_that_means_the_same_changes_nothing(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    head = [next(events)]
    session.change(prompt="over green hills, a red ball is bouncing")
    tail = list(events)
    assert pictures(head + tail) == pictures(run(small))
    assert [(notice.kind, notice.state) for notice in of(Notice, tail)] == [("prompt", "received"), ("prompt", "applied")]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"right": "window:recent=1"}, "leaves no room"),
        ({"right": "wishful"}, "use one of"),
        ({"right": "forcing-kv:segments=5"}, "does not divide"),
        ({"prompt": "..."}, "The earlier prompt goes on"),
        ({"roles": ((0,),)}, "has 1 layers"),
    ],
)
def test_a_setting_that_cannot_be_is_said_once_and_the_old_one_goes_on(small: engine.Engine, edit: dict[str, Any], words: str) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    head = [next(events)]
    session.change(**edit)
    tail = list(events)
    errors = [notice for notice in of(Notice, tail) if notice.kind == "error"]
    assert len(errors) == 1
    assert words in errors[0].text
    assert errors[0].text.endswith(".")
    assert pictures(head + tail) == pictures(run(small))
    assert not [notice for notice in of(Notice, tail) if notice.state == "applied" and notice.lane != "A"]


@pytest.mark.parametrize("edit", [{"prompt": ""}, {"left": "nothing"}, {"layer": 3}, {"head": 4}, {"right": "full:2"}])
def test_first_settings_that_cannot_run_are_refused_at_once(small: engine.Engine, edit: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w+ .*;"):
        Session(small, replace(SETTINGS, **edit))


def test_a_policy_that_needs_roles_is_refused_without_a_profile(small: engine.Engine) -> None:
    with pytest.raises(ValueError, match="needs a head profile and small has none"):
        Session(replace(small, profile=None), SETTINGS)


def test_an_unknown_setting_is_refused(small: engine.Engine) -> None:
    with pytest.raises(ValueError, match="'colour' is unknown"):
        Session(small, SETTINGS).change(colour="red")


class Failing:
    """A text side that fails on one prompt."""

    examples = PocketText().examples

    def __init__(self, error: Exception):
        self.error = error

    def encode(self, text: str, seed: int = 0) -> Prompt:
        if text == OTHER:
            raise self.error
        return PocketText().encode(text, seed)


FULL = "The text encoder ran out of memory on cpu; close other programs on the device, or use an example prompt that is stored."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), FULL),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), FULL),
        (RuntimeError("the encoder is sour"), "The text encoder failed: the encoder is sour; use another prompt, or load the model again."),
        (OSError("a shard is gone"), "The text encoder failed: a shard is gone; use another prompt, or load the model again."),
    ],
)
def test_a_text_encoder_that_fails_is_said_once_and_both_lanes_go_on_with_the_earlier_prompt(
    small: engine.Engine, error: Exception, words: str
) -> None:
    session = Session(replace(small, text=Failing(error)), SETTINGS)
    events = session.events()
    head = [next(events)]
    session.change(prompt=OTHER)
    tail = list(events)
    told = [(notice.kind, notice.lane, notice.text) for notice in of(Notice, tail) if notice.state != "received"]
    assert told == [("error", None, f"{words} The earlier prompt goes on.")]
    assert pictures(head + tail) == pictures(run(small))


def test_on_a_graphics_card_an_encoder_without_room_is_to_encode_on_the_cpu(small: engine.Engine) -> None:
    here = replace(small, text=Failing(torch.OutOfMemoryError("CUDA out of memory")), device=torch.device("cuda"))
    with pytest.raises(ValueError, match=r"ran out of memory on cuda; encode the prompt on the CPU: write it to a file and run") as caught:
        prompt_of(here, OTHER, 0)
    assert "`python -m fkv embed --model small --prompts FILE`" in str(caught.value)


def test_first_settings_that_the_encoder_fails_on_are_refused_at_once(small: engine.Engine) -> None:
    with pytest.raises(ValueError, match="the text encoder failed: gone; use another prompt"):
        Session(replace(small, text=Failing(RuntimeError("gone"))), replace(SETTINGS, prompt=OTHER))


def test_advice_after_no_memory_is_for_the_policies_that_run_not_for_a_refused_one(
    small: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    until(events, Verdict)
    session.change(right="wishful")

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    until(events, Notice)
    monkeypatch.setattr(LaneRun, "step", full)
    lost = [notice for notice in of(Notice, list(events)) if "ran out of memory" in notice.text]
    assert [notice.lane for notice in lost] == ["A", "B"]
