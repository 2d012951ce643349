"""Head profiles that people bring: what lane B then goes by, what is refused in one sentence, what can be taken away; and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from asking import SETTINGS, asked
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import HEADS, LAYERS, StandInEngine, StandInSession

from fkv.heads import HeadProfile
from fkv.spec import POCKET, Geometry
from fkv.ui.profiles import LARGEST
from fkv.ui.visitors import Visitor
from fkv.wishes import carried, named, roles_of

EVERY_OTHER = tuple(tuple(range(0, HEADS, 2)) for _ in range(LAYERS))
SCORED = HeadProfile.of_scores("mine", [[0.1 * head for head in range(HEADS)]] * LAYERS, recipe={"prompts": 3}).by_threshold(0.45)
CLASSES = HeadProfile("published", LAYERS, HEADS, EVERY_OTHER)
SMALL = Geometry(2, 3, 1, 1, 1, 1)


def running(visitor: Visitor) -> StandInSession:
    """A session of the visitor's own that has made two chunks."""
    session = StandInSession(StandInEngine(), SETTINGS)
    visitor.session = session  # type: ignore[assignment]
    session.pause = 0.0
    events = session.events()
    while session.chunk < 2:
        visitor.recording.take(next(events))
    return session


@pytest.mark.parametrize("text", [SCORED.to_json(), "\ufeff" + SCORED.to_json(), SCORED.to_published()])
def test_a_profile_read_from_a_file_is_what_lane_b_goes_by_from_then_on(text: str) -> None:
    visitor = Visitor("a")
    session, ask = running(visitor), asked(visitor)
    ask("choose", rule="inverted", overrides=[[1, 2, "static"]])
    answer = ask("profile", text=text, name="mine.json")
    assert answer["ok"]
    assert answer["profile"]["static"] == [list(layer) for layer in SCORED.static]
    assert answer["profile"]["name"] == "mine.json"
    assert "Read mine.json: 18 static and 30 dynamic heads" in answer["text"]
    assert session.settings.profile is not None
    assert (session.settings.rule, session.settings.overrides) == ("profile", ()), "a new profile begins without what was chosen on the old"
    assert roles_of(session.engine, session.settings) == SCORED.static  # type: ignore[arg-type]


def test_rules_thresholds_and_overrides_go_on_from_the_profile_that_was_brought() -> None:
    visitor = Visitor("a")
    ask = asked(visitor)
    ask("profile", text=SCORED.to_json(), name="mine.json")
    layer = [0, 1, 2, 3, 4, 5, 6, 7]
    assert ask("choose", rule="threshold", threshold=0.25)["static"][3] == layer[3:]
    assert ask("choose", rule="inverted", threshold=None)["static"][3] == layer[:5]
    assert ask("choose", rule="quota:0.25")["static"][3] == layer[6:]
    assert ask("choose", rule="profile", overrides=[[3, 0, "static"]])["static"][3] == [0, 5, 6, 7]
    back = ask("profile", text=None)
    assert "own head profile is in force again" in back["text"]
    assert ask("choose", rule="profile")["static"] == [list(line) for line in StandInEngine().profile.static]


def test_a_profile_of_classes_only_has_no_threshold_and_says_so() -> None:
    visitor = Visitor("a")
    ask = asked(visitor)
    answer = ask("profile", text=CLASSES.to_json(), name="published.json")
    assert answer["profile"]["scores"] == [[None] * HEADS] * LAYERS
    assert "classes only" in answer["text"]
    assert ask("choose", rule="inverted")["static"][0] == [1, 3, 5, 7]
    refused = ask("choose", rule="threshold", threshold=0.5)
    assert "classes but no scores" in refused["error"]
    assert visitor.wishes["rule"] == "inverted", "what is refused changes nothing"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{,", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (
            HeadProfile("sf", 30, 12, ((),) * 30).to_json(),
            "has 30 layers, the model 6, and 12 heads a layer, the model 8",
        ),
        (json.dumps([{"layer_idx": 0, "static_head": [0, 1], "dynamic_head": [1, 2, 3]}]), r"does not partition 8 heads (missing [4, 5"),
        ('{"format": "fkv-heads-1", "model": "m", "layers": 1000000000, "heads": 8, "static": []}', "1000000000 layers cannot be"),
        (" " * (LARGEST + 1), "is 2.0 MB, at most 2.0 MB are read"),
        (3, "is a text file"),
    ],
)
def test_a_profile_that_cannot_be_is_answered_in_a_sentence_and_the_old_one_stays(text: Any, words: str) -> None:
    visitor = Visitor("a")
    session, ask = running(visitor), asked(visitor)
    before = session.settings
    answer = ask("profile", text=text, name="theirs.json")
    assert not answer["ok"]
    assert words in answer["error"]
    assert answer["error"][0].isupper(), "a sentence"
    assert answer["error"].endswith(".")
    assert session.settings == before
    assert "profile" not in visitor.wishes


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["layers", "static_head", "layer_idx"]), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.fixed_dictionaries(
    {"format": st.just("fkv-heads-1")},
    optional=dict.fromkeys(("model", "layers", "heads", "static", "scores", "samples", "variants", "rule", "recipe", "colour"), JSONS),
)


def profile_or_reason(text: str, geometry: Geometry | None) -> HeadProfile | str:
    try:
        return HeadProfile.from_json(text, geometry)
    except ValueError as error:
        return str(error)


@settings(max_examples=100, deadline=None)
@given(JSONS | FIELDS | FIELDS.map(lambda drawn: {"model": "m", "layers": 2, "heads": 3, "static": [[0], []]} | drawn), st.booleans())
def test_whatever_a_file_holds_it_is_a_profile_or_a_sentence(data: Any, sized: bool) -> None:
    found = profile_or_reason(json.dumps(data), SMALL if sized else None)
    if isinstance(found, str):
        assert len(found) > 20, "a sentence"
    else:
        assert HeadProfile.from_json(found.to_json()).static == found.static
        assert all(type(head) is int for layer in found.static for head in layer)


def test_what_is_taken_away_holds_the_classes_in_force_and_how_they_came_about() -> None:
    visitor = Visitor("a")
    ask = asked(visitor)
    ask("profile", text=SCORED.to_json(), name="mine.json")
    static = ask("choose", rule="threshold", threshold=0.25, overrides=[[0, 0, "static"]])["static"]
    file = ask("profile_file")
    assert file["name"] == "heads-pocket.json"
    kept = HeadProfile.from_json(file["text"], POCKET.geometry)
    assert [list(line) for line in kept.static] == static
    assert kept.scores == SCORED.scores
    assert kept.recipe["prompts"] == 3
    assert kept.recipe["chosen"] == {"rule": "threshold", "threshold": 0.25, "overrides": [[0, 0, "static"]]}
    published = ask("profile_file", format="forcing-kv")
    assert HeadProfile.from_json(published["text"]).static == kept.static
    assert "Format 'xml' is unknown; use one of: fkv, forcing-kv" in ask("profile_file", format="xml")["error"]


def test_a_profile_of_another_model_is_let_go_of_with_both_sizes() -> None:
    chosen, said = carried(replace(SETTINGS, profile=SCORED), Geometry(30, 12, 128, 30, 52, 3))
    assert chosen.profile is None
    assert said == ("The head profile mine is of 6 layers of 8 heads, this model has 30 layers of 12 heads; its own profile is used.",)
    assert named(replace(SCORED, recipe={"file": "mine.json"})) == "mine.json"


@pytest.mark.parametrize(
    ("what", "body", "words"),
    [
        ("choose", {"layer": 6, "head": 0}, "Head on show: layer 6 is asked for, the model has layers 0..5"),
        ("choose", {"pinned": [[0, 8]]}, "Pinned head: head 8 is asked for, the model has heads 0..7"),
        ("choose", {"pinned": [[0, 1, 2]]}, "names no head"),
        ("choose", {"overrides": [[9, 0, "static"]]}, "Overridden head: layer 9 is asked for"),
        ("choose", {"threshold": 1.01}, "Threshold 1.01 is outside [0, 1]"),
        ("choose", {"threshold": -0.01}, "Threshold -0.01 is outside [0, 1]"),
        ("choose", {"threshold": "0.5"}, "Threshold 0.5 is outside [0, 1]"),
        ("paint", {"painted": "painted:static=1.9"}, "names a segment outside [0, 4]"),
        ("paint", {"painted": "painted:dynamic=99"}, "is of an age outside [1, 21]"),
        ("paint", {"painted": "paint it black"}, "is no painted policy; write painted:sink=1"),
        ("paint", {"painted": "painted:sink=99"}, "outside"),
        ("look", {"layer": 1, "head": 0, "frame": 5, "row": 5, "column": 0}, "Row 5 is asked for, a frame has rows 0..4"),
        ("look", {"layer": 1, "head": 0, "frame": 5, "row": 0, "column": 8}, "Column 8 is asked for, a frame has columns 0..7"),
        ("look", {"layer": 1, "head": 0, "frame": 5, "row": 0, "column": 0.5}, "not a whole number"),
        ("lookable", {"layer": -1, "head": 0}, "not a whole number"),
    ],
)
def test_bad_input_is_answered_in_a_sentence_and_the_run_goes_on(what: str, body: dict[str, Any], words: str) -> None:
    visitor = Visitor("a")
    session, ask = running(visitor), asked(visitor)
    before, wishes = session.settings, dict(visitor.wishes)
    answer = ask(what, **body)
    assert not answer["ok"]
    assert words in answer["error"]
    assert (session.settings, visitor.wishes) == (before, wishes)
    assert ask("choose", layer=2, head=1)["ok"]


def test_heads_can_be_looked_at_after_the_run_has_ended() -> None:
    visitor = Visitor("a")
    session, ask = running(visitor), asked(visitor)
    visitor.end(session)  # type: ignore[arg-type]
    answer = ask("lookable", layer=1, head=0)
    assert answer["chunks"] == [0, 1]
    assert answer["text"] == "chunks 1-2; 1.4 MB of at most 256 MB of queries and keys kept"
    assert ask("look", layer=1, head=0, frame=5, row=1, column=1)["ok"]


def test_a_painted_policy_is_given_a_time_once_other_policies_were_measured() -> None:
    visitor = Visitor("a")
    session, ask = running(visitor), asked(visitor)
    question = {"painted": "painted:sink=1,static=1,dynamic=1-3"}
    assert ask("paint", **question)["facts"][4][0] == "–"
    sample = session._sample("A", 9, session.settings, "full:21", recached=False)
    for chunk in range(3):
        visitor.recording.take(replace(sample, chunk=chunk + 3))
        small = replace(sample.ms, noisy=(40.0,) * 4, clean=40.0)
        visitor.recording.take(replace(sample, lane="B", chunk=chunk + 3, policy="forcing-kv", bytes_read=sample.bytes_read // 4, ms=small))
    value, unit, words, measured = ask("paint", **question)["facts"][4]
    assert 40 * 5 < float(value) < sample.ms.end_to_end
    assert (unit, measured) == ("ms", "")
    assert words.endswith("from 6 chunks of this run")
