"""Two lanes on a small random model: what a session tells, how it ends, and that sessions never meet."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import OTHER, SETTINGS, SPEC, of, pictures, run, until

from fkv import engine
from fkv.events import Done, Event, Frames, Notice, Phases, Residency, Sample, Start, Tick, Verdict
from fkv.findings import Maps
from fkv.lane import LaneRun
from fkv.pairs import Governor, Pairs
from fkv.session import Session


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
