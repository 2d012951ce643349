"""What a session measures of the heads while it runs: within its share of time, changing nothing, and where it was asked to look."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import SETTINGS, of, pictures, run

from fkv import engine
from fkv.events import Event, Notice, Residency, Sample
from fkv.findings import Heads, Maps
from fkv.pairs import Governor, Plan
from fkv.session import Session


def watched(small: engine.Engine, limit: float, **edits: Any) -> tuple[Session, list[Event]]:
    session = Session(small, replace(SETTINGS, **edits))
    session._measuring.governor = Governor(limit=limit)
    return session, list(session.events())


def test_measuring_changes_no_pixel(small: engine.Engine) -> None:
    pins = ((0, 0), (0, 3), (1, 2))
    _, events = watched(small, 1e9, pinned=pins)
    assert len(of(Maps, events)) == len(of(Heads, events)) == 5
    _, without = watched(small, 0, pinned=pins)
    _, off = watched(small, 1e9, pinned=pins, benchmark=True)
    assert of(Maps, without) == of(Heads, without) == of(Maps, off) == of(Heads, off) == of(Residency, off) == []
    assert all(sample.ms.probe == sample.probe_share == 0 for sample in of(Sample, off))
    assert pictures(events) == pictures(without) == pictures(off)


def test_the_governor_keeps_all_measuring_within_its_share_and_lets_no_kind_starve() -> None:
    for shown, layer in ((0.5, 0.4), (2, 2), (5, 1), (40, 3), (1, 40)):
        governor, took = Governor(limit=0.03), {"shown": 0, "layers": 0}
        assert governor.plan(30) == Plan(), "nothing is known yet"
        for _ in range(400):
            plan = governor.plan(30)
            cost = {"shown": shown * plan.shown, "layers": layer * plan.layers}
            governor.add(plan, 100, standing=0.3, **cost)
            took["shown"] += plan.shown
            took["layers"] += plan.layers
        assert governor.share <= 0.03 + (shown + layer) / 40000
        assert governor.share > 0.02
        assert min(took.values()) >= 5
    assert Governor(limit=0).plan(30) == Plan()


def test_a_stall_of_the_machine_silences_measuring_for_a_few_chunks_only() -> None:
    governor = Governor(limit=0.03)
    seen = []
    for chunk in range(60):
        plan = governor.plan(6)
        stalled = chunk in (20, 21)
        cost = {"shown": (300 if stalled else 2) * plan.shown, "layers": (300 if stalled else 2) * plan.layers}
        governor.add(plan, 100, **cost)
        if plan.shown:
            seen.append(chunk)
    after = [chunk for chunk in seen if chunk > 21]
    assert any(chunk in (20, 21) for chunk in seen), "the stall hit a chunk that was measured"
    assert after[0] - 21 <= 18
    assert len(after) > 8


def test_heads_that_nothing_has_been_seen_of_come_before_the_survey() -> None:
    governor = Governor(limit=0.03)
    for _ in range(40):
        plan = governor.plan(6)
        governor.add(plan, 100, shown=2.5 * plan.shown, layers=2.5 * plan.layers)
    governor.add(Plan(True, 1), 100, shown=300, layers=2.5)
    assert governor.plan(6) == Plan(), "a stall is owed"
    for _ in range(6):
        plan = governor.plan(6, wanted=True)
        assert plan == Plan(shown=True)
        governor.add(plan, 100, shown=2.5)
    assert Governor().plan(6, wanted=True) == Plan(), "nothing is known yet"


def test_a_head_newly_on_show_is_wanted_until_it_has_been_seen(small: engine.Engine) -> None:
    session = Session(small, replace(SETTINGS, layer=1, head=1))
    asked: list[bool] = []

    def plan(layers: int, *, wanted: bool = False) -> Plan:
        asked.append(wanted)
        return Plan(shown=len(asked) in (2, 5))

    session._measuring.governor.plan = plan  # type: ignore[method-assign]
    for event in session.events():
        if isinstance(event, Sample) and (event.lane, event.chunk) == ("B", 2):
            session.change(head=2)
    assert asked == [True, True, False, True, True, False]


def test_heads_tell_of_the_layers_measured_and_keep_what_was_known_of_the_others(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    session._measuring.governor.plan = lambda layers, wanted: Plan(False, 1)  # type: ignore[method-assign]
    told = of(Heads, list(session.events()))
    assert [event.layers for event in told] == [(0,), (1,)] * 3
    last = told[-1]
    assert last.frames == tuple(range(9, 18))
    assert last.share.shape == (1, 4, 9)
    assert last.bands.shape == (1, 4, 9, 2)
    np.testing.assert_allclose(last.share.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(last.bands.sum(-1), last.share, atol=1e-6)
    assert (last.queries, last.covered, last.static) == (18, 1, ((0,), (0,)))
    for name in ("scores", "entropy", "sink", "coverage"):
        assert np.isfinite(getattr(last, name)).all()
        assert 0 <= np.min(getattr(last, name)) <= np.max(getattr(last, name)) <= 1 + 1e-5
    assert np.isnan(told[0].scores).all(), "a chunk alone has no score"
    assert np.isnan(told[2].scores[1]).any() or told[2].scores[1] == told[1].scores[1]


def test_where_measuring_runs_out_of_memory_the_lanes_go_on_and_it_is_said_once(
    small: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = run(small)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for place in ("fkv.survey.Survey.see", "fkv.measuring.coverage"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            _, events = watched(small, 1e9)
        assert pictures(events) == pictures(usual)
        assert of(Heads, events) == []
        assert [notice.text for notice in of(Notice, events)] == [
            "No memory is left on cpu to measure heads; the lanes go on without. A new run measures again."
        ]


def test_coverage_is_whole_where_both_lanes_keep_the_same(small: engine.Engine) -> None:
    _, events = watched(small, 1e9, right="full:9")
    np.testing.assert_allclose(of(Heads, events)[-1].coverage, 1, atol=1e-5)
    _, events = watched(small, 1e9)
    assert np.max(of(Heads, events)[-1].coverage) < 0.99


def test_a_token_of_a_pinned_head_is_looked_up_in_both_lanes_while_it_runs_and_after(small: engine.Engine) -> None:
    session, events = watched(small, 1e9, pinned=((0, 3),))
    maps = of(Maps, events)[-1]
    dense = session.looks.pooled(1, 0)
    assert dense.frames == tuple(frame for frame in maps.frames)
    np.testing.assert_allclose(np.nan_to_num(dense.mass).sum(1), 1, atol=1e-5)
    for layer, head in ((1, 0), (0, 3)):
        a, b = (session.looks.look(layer, head, 16, 1, 2, lane=lane) for lane in ("A", "B"))  # type: ignore[arg-type]
        assert a.frames == b.frames == (0, *range(9, 18))
        assert np.isnan(b.weights[1]).all()
        assert np.isnan(a.weights[0]).all()
        assert a.unseen == b.unseen == pytest.approx(float(np.nansum(a.weights[np.isnan(b.weights)])), abs=1e-5)
    with pytest.raises(ValueError, match="head 2 of layer 0 has not been kept in lane A; show or pin it"):
        session.looks.look(0, 2, 16, 1, 2)
    chunks, kept, bound = session.looks.chunks(1, 0), session.looks.nbytes, session.looks.bound
    assert chunks[-1] == 5
    assert 0 < kept < bound
    assert session.looks.look(1, 0, 3 * chunks[0], 1, 2).chunk == chunks[0]
    assert session.looks.chunks(0, 2) == ()
