"""The predicted time of a chunk: exact where time follows the bytes read, robust to slow chunks, absent where too little is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkv.events import Phases, Sample
from fkv.views import forecast

QUICK = settings(max_examples=40, deadline=None)
MB = 1_000_000


def sample(read: int, ms: float, policy: str = "full:21", lane: str = "A") -> Sample:
    """A chunk of 12 pixel frames, whose four noisy passes take 60 % of its time."""
    phases = Phases((0.15 * ms,) * 4, 0.2 * ms, 0.0, 0.0, 0.1 * ms, 0.1 * ms, 9.0)
    return Sample(lane, 9, 12, phases, 1, 1, read // 2, read, read, read // 2, False, False, 18, "", 0.01, 1, policy)  # type: ignore[arg-type]


@QUICK
@given(st.floats(0, 500), st.floats(0, 1e-4), st.lists(st.integers(1, 40), min_size=2, max_size=4, unique=True), st.integers(0, 60))
def test_where_time_follows_bytes_the_prediction_is_exact(base: float, rate: float, sizes: list[int], asked: int) -> None:
    read = [size * MB for size in sizes for _ in range(forecast.ENOUGH)]
    found = forecast.line(read, [base + rate * size for size in read])
    if len(forecast.grouped(read)) < len(sizes):
        return
    assert found is not None
    told = found.at(asked * MB)
    assert told.ms == pytest.approx(base + rate * asked * MB, rel=1e-6, abs=1e-6)
    assert (told.low, told.high) == pytest.approx((told.ms, told.ms), rel=1e-6, abs=1e-6)
    assert (told.n, told.sizes) == (len(read), len(sizes))
    assert told.beyond == (not min(sizes) / forecast.APART <= asked <= max(sizes) * forecast.APART)


@QUICK
@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0.01, 1000)), min_size=6, max_size=24), st.integers(0, 90))
def test_a_predicted_time_is_never_negative(measured: list[tuple[int, float]], asked: int) -> None:
    found = forecast.line([size * MB for size, _ in measured], [ms for _, ms in measured])
    if found is not None:
        told = found.at(asked * MB)
        assert min(told.low, told.ms, told.high) >= 0


def test_time_that_falls_with_what_is_read_is_not_drawn_out_into_a_line() -> None:
    found = forecast.line([10 * MB] * 3 + [20 * MB] * 3, [90.0] * 3 + [80.0] * 3)
    assert found is not None
    assert (found.base, found.rate) == (85, 0)
    assert (found.at(MB).low, found.at(MB).high) == (80, 90), "the interval says how little the line explains"


def test_single_slow_chunks_bend_nothing() -> None:
    read, ms = [10 * MB] * 5 + [20 * MB] * 5, [50.0, 50, 50, 50, 900, 70, 70, 70, 70, 1500]
    found = forecast.line(read, ms)
    assert found is not None
    assert found.at(15 * MB).ms == pytest.approx(60)


@pytest.mark.parametrize("read", [[], [10 * MB] * 9, [10 * MB] * 9 + [10_900_000] * 9, [10 * MB] * 9 + [20 * MB] * (forecast.ENOUGH - 1)])
def test_too_little_to_go_by_gives_no_prediction(read: list[int]) -> None:
    assert forecast.line(read, [50.0] * len(read)) is None


def test_an_outlook_rests_on_other_policies_and_shows_what_its_own_chunks_took_beside_it() -> None:
    others = [sample(20 * MB, 80)] * 4 + [sample(5 * MB, 50, "forcing-kv", "B")] * 4
    unsteady = [replace(sample(10 * MB, 999), warmup=True), replace(sample(10 * MB, 999), recached=True)] * 4
    own = [sample(10 * MB, ms, "painted:sink=1", "B") for ms in (61.0, 62.0, 63.0)]
    before = forecast.outlook([*others, *unsteady], 10 * MB, "painted:sink=1")
    after = forecast.outlook([*others, *unsteady, *own], 10 * MB, "painted:sink=1")
    assert before.chunk is not None
    assert before.noisy is not None
    assert (before.chunk.ms, before.chunk.n, before.n) == (pytest.approx(60), 8, 0)
    assert before.noisy.ms == pytest.approx(36)
    assert after.chunk == before.chunk, "what was predicted does not change by what comes of it"
    assert (after.n, after.ms, after.read, after.stored) == (3, 62, 10 * MB, 5 * MB)


def test_chunks_of_the_same_cells_with_other_classes_are_not_its_own() -> None:
    other_roles = [sample(20 * MB, 90, "painted:sink=1", "B")] * 3
    assert forecast.outlook(other_roles, 10 * MB, "painted:sink=1").n == 0
