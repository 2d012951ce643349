"""The stopwatch, the three speeds, medians and pairs, on a clock that only moves when told."""

from __future__ import annotations

import pytest

from fkv import meter
from fkv.events import Phases


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_a_mark_ends_the_phase_it_names() -> None:
    clock = Clock()
    watch = meter.Stopwatch(clock=clock)
    for name, seconds in (("clean", 0.5), ("noisy", 0.25), ("noisy", 0.125), ("decode", 1.0)):
        clock.time += seconds
        watch.mark(name)
    assert watch.phases() == Phases(noisy=(250.0, 125.0), clean=500.0, decode=1000.0)


def test_time_aside_is_counted_once_and_not_in_the_phase_around_it() -> None:
    clock = Clock()
    watch = meter.Stopwatch(clock=clock)
    clock.time += 1
    with watch.aside("probe"):
        clock.time += 0.5
    clock.time += 2
    watch.mark("noisy")
    assert watch.phases() == Phases(noisy=(3000.0,), probe=500.0)


class Event:
    """A moment of a device that is never waited for while work is handed to it."""

    def __init__(self, clock: Clock) -> None:
        self.time, self.waited = clock.time, False

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, later: Event, /) -> float:
        return 1000 * (later.time - self.time)


def test_marking_waits_for_nothing_and_reading_for_the_newest_moment_only() -> None:
    clock, events = Clock(), list[Event]()

    def moment() -> Event:
        events.append(Event(clock))
        return events[-1]

    watch = meter.Stopwatch(moment=moment)
    for name in ("noisy", "noisy", "clean"):
        clock.time += 0.25
        watch.mark(name)
    assert not any(event.waited for event in events)
    assert watch.laps == {"noisy": [250.0, 250.0], "clean": [250.0]}
    assert [event.waited for event in events] == [False, False, False, True]
    clock.time += 0.5
    with watch.aside("probe"):
        clock.time += 1
    clock.time += 0.5
    watch.mark("clean")
    assert watch.laps["clean"] == [250.0, 1000.0]


def test_start_forgets_the_laps_before_it() -> None:
    clock = Clock()
    watch = meter.Stopwatch(clock=clock)
    clock.time += 1
    watch.mark("text")
    clock.time += 1
    watch.start()
    clock.time += 1
    watch.mark("text")
    assert watch.phases() == Phases(text=1000.0)


def test_a_mark_that_names_no_phase_is_refused() -> None:
    watch = meter.Stopwatch()
    watch.mark("dreaming")
    with pytest.raises(ValueError, match="'dreaming' is unknown; use one of: clean"):
        watch.phases()


def test_the_three_speeds_count_what_they_say() -> None:
    ms = Phases(noisy=(100, 100, 100, 100), clean=100, recache=50, text=50, decode=200, encode=200, probe=1e6)
    assert meter.fps_diffusion(12, ms) == pytest.approx(24)
    assert meter.fps_end_to_end(12, ms) == pytest.approx(12)
    assert meter.fps_displayed([1.0, 1.5, 2.0]) == pytest.approx(2)
    assert meter.fps_displayed([1.0]) == 0
    assert meter.fps_diffusion(12, Phases()) == 0


def test_a_spread_is_the_median_with_its_outer_tenths() -> None:
    result = meter.spread(range(11))
    assert (result.median, result.low, result.high, result.n) == (5, 1, 9, 11)
    with pytest.raises(ValueError, match="0 values"):
        meter.spread([])


def test_pairs_are_compared_chunk_by_chunk_so_drift_cancels() -> None:
    slow, fast = [10.0, 20.0, 40.0], [5.0, 10.0, 20.0]
    result = meter.paired_ratio(slow, fast)
    assert (result.median, result.low, result.high) == (2, 2, 2)
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        meter.paired_ratio(slow, fast[:2])


def test_the_interval_of_a_median_is_the_same_each_time_and_holds_the_median() -> None:
    values = [1.0, 1.2, 1.1, 1.4, 0.9, 1.3, 1.1]
    low, high = meter.interval(values)
    assert (low, high) == meter.interval(values)
    assert low <= 1.1 <= high


def test_process_memory_is_a_believable_number() -> None:
    assert 10e6 < meter.memory_bytes() < 1e12
