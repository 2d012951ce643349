"""Trials in the learner's own run: which chunks belong to which, and when something may be said of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from stand_in import FRAME_BYTES, facts

from fkv.events import Event, Notice, Phases, Sample, Settings, Start, Verdict
from fkv.findings import LANES, Classes
from fkv.spec import POCKET
from fkv.views import lesson_trials
from fkv.views.lesson_trials import LEAST, stretches

STATIC = {"profile": ((0,), (1,)), "random:1": ((1,), (0,)), "inverted": ((2,), (2,))}


def parts(policy: str) -> bool:
    return policy.startswith("forcing-kv")


def begun(run: str = "one", rule: str = "profile") -> Start:
    class Engine:
        spec = POCKET

    return Start(run, *facts(Engine()), Settings(rule=rule))


def chunk(number: int, psnr: float | None, right: str = "forcing-kv") -> Iterator[Event]:
    """One chunk of both lanes, A in 300 ms and B in 200."""
    for lane, policy, ms in zip(LANES, ("full:21", right), (300.0, 200.0)):
        sizes = FRAME_BYTES, FRAME_BYTES, FRAME_BYTES, FRAME_BYTES
        yield Sample(lane, number, 12, Phases(noisy=(ms,)), 1.0, 1.0, *sizes, psnr is None, False, 3, "", 0.0, 0, policy)
    yield Verdict(number, None, None, None, 0, 5, 0, number, 0.25, 0, 0, None, 0, "", psnr)


def trial(rule: str, first: int, psnr: Sequence[float | None], **more: str) -> list[Event]:
    events: list[Event] = [Classes(first, STATIC[rule], rule)]
    for number, value in enumerate(psnr, start=first):
        events += chunk(number, value, **more)
    return events


def test_every_choice_of_roles_is_a_trial_of_the_chunks_measured_since() -> None:
    events = [begun(), *trial("profile", 0, [None, 30.0, 31.0]), *trial("random:1", 3, [None, 25.0]), *trial("profile", 5, [None, 28.0])]
    found = stretches(events, parts)
    assert [(one.rule, one.chunks, one.psnr) for one in found] == [
        ("profile", [1, 2], [30.0, 31.0]),
        ("random:1", [4], [25.0]),
        ("profile", [6], [28.0]),
    ], "roles taken again begin a trial of their own: other chunks, another past"
    assert found[1].ratios == [1.5]
    assert found[1].kept == 0.25


@pytest.mark.parametrize(
    "between",
    [
        begun("two"),
        Notice("prompt", None, 3, "new prompt", "applied"),
        Notice("parameter", None, 3, "New noise from seed 5, in both lanes.", "applied"),
    ],
    ids=["another run", "another prompt", "another seed"],
)
def test_another_run_prompt_or_seed_begins_a_new_list(between: Event) -> None:
    events = [begun(), *trial("profile", 0, [None, 30.0, 31.0]), between, *chunk(3, None), *chunk(4, 20.0)]
    assert [(one.chunks, one.psnr) for one in stretches(events, parts)] == [([4], [20.0])]


def test_a_change_that_is_only_received_does_not_end_a_trial() -> None:
    waiting = Notice("prompt", None, 2, "New prompt received", "received")
    events = [begun(), *trial("profile", 0, [None, 30.0]), waiting, *chunk(2, 31.0)]
    assert [one.chunks for one in stretches(events, parts)] == [[1, 2]]


def test_a_policy_that_treats_all_heads_alike_makes_no_trial() -> None:
    events = [begun(), *trial("profile", 0, [None, 30.0], right="window:6"), *trial("random:1", 2, [30.0], right="window:6")]
    assert [(one.parted, one.chunks) for one in stretches(events, parts)] == [(False, [1, 2])], "other roles change nothing in it"
    found = lesson_trials.message(events, parts)
    assert (found["trials"], found["words"], found["parted"]) == ([], [], False)


def test_nothing_is_concluded_from_fewer_chunks_than_stated() -> None:
    many, few = [30.0, 31.0] * (LEAST // 2), [20.0] * (LEAST - 1)
    found = lesson_trials.message([begun(), *trial("profile", 0, many), *trial("random:1", LEAST, few)], parts)
    assert [(one["median"], one["spread"]) for one in found["trials"]] == [
        (30.5, "30.5 dB (30.0 to 31.0)"),
        (None, f"{LEAST - 1} of {LEAST} chunks"),
    ]
    assert f"Nothing is concluded from fewer than {LEAST} chunks" in found["words"][0]
    assert not any("lane A**" in words for words in found["words"])


@pytest.mark.parametrize(
    ("other", "words"),
    [(24.0, "further from lane A**"), (36.0, "nearer to lane A**"), (30.2, "this run cannot tell them apart**")],
)
def test_two_trials_are_told_apart_only_where_their_chunks_do_not_overlap(other: float, words: str) -> None:
    own, its = ([value, value + 1.0] * (LEAST // 2) for value in (30.0, other))
    found = lesson_trials.message([begun(), *trial("profile", 0, own), *trial("random:1", LEAST, its)], parts)
    assert words in found["words"][0]
    assert f"n = {LEAST}" in found["words"][0]
    assert any("not which is better" in line for line in found["words"]), "what PSNR cannot say is said"
    assert [one["current"] for one in found["trials"]] == [False, True]


def test_equal_pictures_count_as_the_largest_psnr() -> None:
    [one] = stretches([begun(), *trial("profile", 0, [float("inf"), 40.0])], parts)
    assert one.psnr == [99.0, 40.0]
    assert np.isfinite(one.spread).all()
