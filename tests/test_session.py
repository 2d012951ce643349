"""Two lanes on a small random model: what a session tells, what changes it, and that sessions never meet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from fkv import engine
from fkv.events import Done, Event, Frames, Notice, Phases, Residency, Sample, Settings, Start, Tick, Verdict
from fkv.findings import Classes, Heads, Maps
from fkv.heads import HeadProfile
from fkv.lane import LaneRun
from fkv.pairs import Governor, Pairs, Plan
from fkv.session import Session
from fkv.spec import POCKET, WanConfig

NET = WanConfig(dim=32, heads=4, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SPEC = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None, schedule=replace(POCKET.schedule, steps=(1000, 500)))
PROMPT, OTHER = "a red ball bouncing over green hills", "a blue star orbiting over a calm sea"
SETTINGS = Settings(prompt=PROMPT, seed=3, left="full:9", right="forcing-kv", chunks=6)
Kind = TypeVar("Kind")


@pytest.fixture(scope="module")
def small() -> engine.Engine:
    scores = [[0.9, 0.1, 0.7, 0.3]] * 2
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    return replace(
        loaded, profile=HeadProfile.of_scores("small", scores, recipe={"built_in": {"what": "head 0 sees little"}}).by_threshold(0.8)
    )


def of(kind: type[Kind], events: list[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


def run(small: engine.Engine, **edits: Any) -> list[Event]:
    return list(Session(small, replace(SETTINGS, **edits)).events())


def pictures(events: list[Event]) -> list[tuple[str, int, bytes]]:
    return [(event.lane, event.chunk, event.pixels.tobytes()) for event in of(Frames, events)]


def until(events: Iterator[Event], kind: type[Kind]) -> Kind:
    return next(event for event in events if isinstance(event, kind))


def test_a_run_tells_of_every_chunk_of_both_lanes_in_turn(small: engine.Engine) -> None:
    events = run(small, chunks=3)
    assert isinstance(events[0], Start)
    assert events[-1] == Done("finished", 3)
    assert [(event.lane, event.chunk) for event in of(Frames, events)] == list(zip("ABABAB", (0, 0, 1, 1, 2, 2)))
    assert [(event.lane, event.chunk) for event in of(Sample, events)] == list(zip("ABABAB", (0, 0, 1, 1, 2, 2)))
    assert len(of(Residency, events)) == 6
    assert [verdict.chunk for verdict in of(Verdict, events)] == [0, 1, 2]


def test_start_says_what_runs_and_how_the_heads_were_classed(small: engine.Engine) -> None:
    start = of(Start, run(small, chunks=1))[0]
    assert (start.model.name, start.model.size, start.model.dtype, start.model.device) == ("small", (32, 48), "float32", "cpu")
    assert start.model.parameters == sum(p.numel() for p in small.model.parameters())
    assert start.profile is not None
    assert (start.profile.static, start.profile.rule, start.profile.note) == (
        ((0,),) * 2,
        "score >= 0.8",
        "Trained in, not discovered: head 0 sees little.",
    )


def test_frames_carry_pixels_their_numbers_and_what_the_encoder_made(small: engine.Engine) -> None:
    events = list(Session(small, replace(SETTINGS, chunks=2), encode=lambda pixels: b"%d" % len(pixels)).events())
    last = of(Frames, events)[-1]
    assert last.pixels.shape == (12, 32, 48, 3)
    assert last.pixels.dtype == np.uint8
    assert (last.start, last.latent_start, last.jpeg, last.policy) == (12, 3, b"12", "forcing-kv:segments=6")


def test_both_lanes_draw_from_the_same_noise_and_prompt(small: engine.Engine) -> None:
    frames = of(Frames, run(small, right="full:9", chunks=3))
    for left, right in zip(frames[::2], frames[1::2]):
        assert np.array_equal(left.pixels, right.pixels)


def test_a_sample_counts_bytes_as_the_formula_does_and_times_every_phase(small: engine.Engine) -> None:
    samples = of(Sample, run(small))
    assert all(sample.bytes_stored == sample.bytes_expected for sample in samples)
    assert all(sample.bytes_stored <= sample.bytes_allocated for sample in samples)
    last = samples[-1]
    assert len(last.ms.noisy) == len(SPEC.schedule.steps)
    assert last.ms.clean > 0 < last.ms.decode
    assert samples[0].ms.clean == 0 < samples[0].ms.text
    assert last.fps_diffusion == pytest.approx(12000 / last.ms.diffusion)
    assert last.fps_end_to_end == pytest.approx(12000 / last.ms.end_to_end)
    assert last.fps_end_to_end < last.fps_diffusion


def test_warm_up_lasts_while_a_cache_fills(small: engine.Engine) -> None:
    samples = of(Sample, run(small, left="full:12", chunks=7))
    assert [sample.warmup for sample in samples if sample.lane == "A"] == [True, True, True, False, False, False, False]
    assert [sample.past for sample in samples if sample.lane == "A"] == [0, 3, 6, 9, 9, 9, 9]


def test_the_verdict_waits_for_five_pairs_and_says_what_it_rests_on(small: engine.Engine) -> None:
    verdicts = of(Verdict, run(small, left="full:6", chunks=9))
    assert [verdict.n for verdict in verdicts[:3]] == [0, 0, 0]
    assert [verdict.speed is not None for verdict in verdicts] == [verdict.n >= 5 for verdict in verdicts]
    last = verdicts[-1]
    assert last.n >= 5
    assert last.speed is not None
    assert last.speed_low is not None
    assert last.speed_low <= last.speed
    assert last.kept == pytest.approx(last.bytes_right / last.bytes_left)
    assert last.psnr_frames == 12 * last.n
    assert (last.last, last.first) == (8, 9 - last.n)


def test_equal_lanes_differ_by_nothing(small: engine.Engine) -> None:
    last = of(Verdict, run(small, right="full:6", left="full:6", chunks=5))[-1]
    assert last.psnr == math.inf
    assert last.kept == 1


def test_residency_is_what_the_cache_holds_by_class_and_segment(small: engine.Engine) -> None:
    events = of(Residency, run(small))
    left, right = events[-2:]
    assert [(kept.name, kept.heads, [frame for frame, _ in kept.frames]) for kept in left.kept] == [("all", 4, [9, 10, 11, 12, 13, 14])]
    static, dynamic = right.kept
    assert (static.name, static.heads, [frame for frame, _ in static.frames]) == ("static", 1, [0, 14])
    assert dynamic.heads == 3
    assert right.current == (15, 16, 17)
    similarity = right.similarity
    assert similarity is not None
    chosen = [(frame, place) for frame, row in zip(similarity.frames, similarity.kept) for place, kept in enumerate(row) if kept]
    resident = [
        (frame, place) for frame, shares in dynamic.frames if frame in similarity.frames for place, share in enumerate(shares) if share == 1
    ]
    assert chosen == resident
    assert len(chosen) == 6
    assert similarity.layer == 1
    highest = max(bar for bars, kept in zip(similarity.bars, similarity.kept) for bar, stays in zip(bars, kept) if stays)
    assert similarity.cut == pytest.approx(highest)


def test_maps_share_one_axis_and_leave_out_what_a_lane_has_forgotten(small: engine.Engine) -> None:
    session = Session(small, replace(SETTINGS, layer=1, head=1))
    session._measuring.governor = Governor(limit=1e9)
    maps = of(Maps, list(session.events()))[-1]
    assert (maps.layer, maps.head, maps.chunk) == (1, 1, 5)
    assert maps.frames == (0, *range(9, 18))
    assert sum(share for share in maps.left if not math.isnan(share)) == pytest.approx(1, abs=1e-4)
    assert sum(share for share in maps.right if not math.isnan(share)) == pytest.approx(1, abs=1e-4)
    assert math.isnan(maps.left[0])
    assert math.isnan(maps.right[1])
    assert not math.isnan(maps.right[0])


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


def test_two_interleaved_sessions_equal_two_sequential_ones(small: engine.Engine) -> None:
    other = replace(SETTINGS, prompt=OTHER, seed=8, left="window:sink=1,recent=5")
    alone = [list(Session(small, settings).events()) for settings in (SETTINGS, other)]
    mixed: tuple[list[Event], list[Event]] = ([], [])
    for events in itertools.zip_longest(Session(small, SETTINGS).events(), Session(small, other).events()):
        for kept, event in zip(mixed, events):
            if event is not None:
                kept.append(event)
    assert pictures(mixed[0]) == pictures(alone[0])
    assert pictures(mixed[1]) == pictures(alone[1])
    assert pictures(alone[0]) != pictures(alone[1])


def test_sessions_in_threads_of_their_own_do_not_meet(small: engine.Engine) -> None:
    two = [replace(SETTINGS, chunks=3), replace(SETTINGS, chunks=3, prompt=OTHER, seed=8)]
    alone = [pictures(list(Session(small, settings).events())) for settings in two]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda settings: pictures(list(Session(small, settings).events())), two))
    assert together == alone


def test_a_session_begins_once(small: engine.Engine) -> None:
    session = Session(small, replace(SETTINGS, chunks=1))
    list(session.events())
    with pytest.raises(RuntimeError, match="already begun"):
        next(session.events())


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


def test_pause_holds_with_ticks_and_goes_on_where_it_was(small: engine.Engine) -> None:
    session = Session(small, SETTINGS)
    events = session.events()
    head = [next(events)]
    session.change(paused=True)
    ticks = [until(events, Tick) for _ in range(2)]
    session.change(paused=False)
    tail = list(events)
    assert {tick.chunk for tick in ticks} == {0}
    assert pictures(head + tail) == pictures(run(small))


def test_stop_ends_within_the_chunk(small: engine.Engine) -> None:
    session = Session(small, replace(SETTINGS, chunks=0))
    events = session.events()
    until(events, Verdict)
    until(events, Frames)
    session.stop()
    rest = list(events)
    assert len(of(Frames, rest)) == 0
    assert rest[-1].__class__ is Done
    assert of(Done, rest)[0].reason == "stopped"


def test_closing_the_events_frees_the_lanes_and_the_lock(small: engine.Engine) -> None:
    session = Session(small, replace(SETTINGS, chunks=0))
    events = session.events()
    until(events, Sample)
    events.close()  # type: ignore[attr-defined]
    assert session._lanes == {}
    assert not small.lock.waiting


class Broken:
    """A step that fails from some chunk on, in one lane."""

    def __init__(self, lane: str, chunk: int, error: Exception):
        self.lane, self.chunk, self.error, self.step = lane, chunk, error, LaneRun.step

    def __call__(self, run: LaneRun, probe: Any = None) -> Frames:
        if run.name in self.lane and run.stream.chunks >= self.chunk:
            raise self.error
        return self.step(run, probe)


@pytest.mark.parametrize(
    ("error", "words"),
    [(torch.OutOfMemoryError("CUDA out of memory"), "ran out of memory"), (RuntimeError("the kernel is sour"), "The kernel is sour.")],
)
def test_an_error_ends_its_own_lane_only(small: engine.Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    usual = run(small)
    broken = Broken("B", 2, error)
    monkeypatch.setattr(LaneRun, "step", lambda self, probe=None: broken(self, probe))
    events = run(small)
    (notice,) = of(Notice, events)
    assert (notice.kind, notice.lane, notice.chunk) == ("error", "B", 2)
    assert words in notice.text
    assert "Lane A goes on." in notice.text
    assert [made for made in pictures(events) if made[0] == "A"] == [made for made in pictures(usual) if made[0] == "A"]
    assert events[-1] == Done("finished", 6)
    assert not small.lock.waiting


def test_without_lanes_the_run_ends_in_error(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken("AB", 1, RuntimeError("gone"))
    monkeypatch.setattr(LaneRun, "step", lambda self, probe=None: broken(self, probe))
    events = run(small)
    assert isinstance(events[-1], Done)
    assert events[-1].reason == "error"
    assert [notice.lane for notice in of(Notice, events)] == ["A", "B"]


def test_pairs_forget_when_a_setting_changes_and_never_count_warm_up() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)

    def made(lane: Any, chunk: int, ms: float, warmup: bool = False) -> tuple[Frames, Sample]:
        sample = Sample(lane, chunk, 1, Phases(clean=ms), 0, 0, 100, 0, 0, 0, False, warmup, 1, "", 0, 0, "")
        return Frames(lane, chunk, 0, 0, pixels, None, "", ""), sample

    pairs = Pairs(need=2)
    assert pairs.add(made("A", 0, 9, True), made("B", 0, 1)).n == 0
    assert pairs.add(made("A", 1, 30), made("B", 1, 10)).speed is None
    assert pairs.add(made("A", 2, 30), made("B", 2, 10)).speed == pytest.approx(3)
    pairs.restart()
    assert pairs.add(made("A", 3, 30), made("B", 3, 10)).n == 1
