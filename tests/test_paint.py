"""Cells painted by hand: how they are written, and that what is predicted of them is what then happens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_in import StandInEngine, facts

from fkv import cells
from fkv.spec import Geometry
from fkv.survey import Survey, coverage
from fkv.views import paint
from tests.tiny import tiny_policy, tiny_roles, tiny_spec, tiny_stream

QUICK = settings(max_examples=50, deadline=None)
PAINTED = st.tuples(st.integers(1, 6), st.frozensets(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=20)).map(
    lambda drawn: (drawn[0], frozenset((age, segment % drawn[0]) for age, segment in drawn[1]))
)


@QUICK
@given(PAINTED)
def test_what_is_spelled_reads_back_as_the_same_cells(painted: tuple[int, cells.Cells]) -> None:
    segments, chosen = painted
    text = cells.spell(chosen, segments)
    assert cells.parse(text, segments) == chosen
    assert cells.spell(cells.parse(text, segments), segments) == text


@QUICK
@given(PAINTED, st.integers(1, 4))
def test_completed_cells_hold_all_they_come_through_and_nothing_else(painted: tuple[int, cells.Cells], chunk: int) -> None:
    _, chosen = painted
    whole = cells.completed(chosen, chunk)
    assert chosen <= whole
    assert all(age <= chunk or (age - chunk, segment) in whole for age, segment in whole)
    assert all(any(segment == other and (older - age) % chunk == 0 <= older - age for older, other in chosen) for age, segment in whole)


def test_cells_are_written_as_frames_ranges_and_segments() -> None:
    assert cells.parse("1+3-4+6.0+6.2-3", 5) == {(1, s) for s in range(5)} | {(a, s) for a in (3, 4) for s in range(5)} | {
        (6, 0),
        (6, 2),
        (6, 3),
    }
    assert cells.spell(cells.parse("6.2-3+6.0+4+3+1.0-4", 5), 5) == "1+3-4+6.0+6.2-3"
    assert cells.parse("", 5) == frozenset()


@settings(max_examples=6, deadline=None)
@given(PAINTED, st.integers(0, 2))
def test_predicted_coverage_and_bytes_are_those_of_the_policy_when_it_runs(painted: tuple[int, cells.Cells], sink: int) -> None:
    spec = tiny_spec(rows=5, columns=2, heads=3, layers=2, steps=1)
    geometry = spec.geometry
    chosen = frozenset((age, segment % 5) for age, segment in painted[1])
    spelling = f"painted:sink={sink},static=1.0+2,dynamic={cells.spell(chosen, 5)}"
    dense, lane = tiny_stream(spec, "full:15"), tiny_stream(spec, spelling)
    for _ in range(6):
        dense.step()
        lane.step()
    survey = Survey(geometry, (0, 1), queries=None)
    dense.step(survey)
    lane.step()
    painting = paint.Painting.read(spelling, 5)
    roles = tiny_roles(geometry)
    for layer in (0, 1):
        seen = survey.found[layer]
        wanted = coverage(seen, lane.cache.layers[layer], geometry)
        for kind in ("static", "dynamic"):
            heads = [head for head in range(3) if (head in roles[layer]) == (kind == "static")]
            found = paint.coverage(seen.bands.numpy(), tuple(seen.frames.tolist()), painting, kind, 3)
            np.testing.assert_allclose(found[heads], wanted[heads], atol=1e-5)
    model = replace(facts(StandInEngine())[0], layers=2, heads=3, rows=5, columns=2, chunk=3, window=15, frame_bytes=2 * 4 * 8 * 10)
    bands = {layer: (tuple(survey.found[layer].frames.tolist()), survey.found[layer].bands.numpy()) for layer in (0, 1)}
    told = paint.predict(bands, painting, roles, model)
    assert told["bytes"] == lane.cache.nbytes
    assert told["full_bytes"] == dense.cache.nbytes
    assert told["read_bytes"] == lane.cache.read_bytes
    assert told["reads"] == pytest.approx(lane.cache.read_bytes / dense.cache.read_bytes)
    policy = tiny_policy(spelling, geometry)
    assert told["cells"] == {"static": policy.static, "dynamic": policy.dynamic}  # type: ignore[attr-defined]


def test_without_a_survey_nothing_is_predicted_of_attention() -> None:
    model, profile = facts(StandInEngine())
    told = paint.predict({}, paint.Painting.read("painted:static=1,dynamic=1-3", 5), profile.static, model)
    assert told["coverage"] == {"static": None, "dynamic": None, "all": None}
    assert told["layers"] == 0


def test_a_band_counts_by_how_much_of_it_is_painted() -> None:
    assert paint.resampled(np.array([[1.0, 0.0]]), 3).tolist() == [[1.0, 0.5, 0.0]]
    assert paint.resampled(np.array([[1.0, 0.0, 0.0, 1.0]]), 2).tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("full:21", "is no painted policy; write painted:sink=1"),
        ("painted:colour=1", "is no painted policy"),
        ("painted:sink=many", "whole numbers; write for instance sink=1"),
        ("painted:static=1.9", r"names a segment outside \[0, 4\]"),
    ],
)
def test_a_painting_that_cannot_be_read_is_refused_with_the_cure(spelling: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        paint.Painting.read(spelling, 5)


def test_segments_are_bands_of_whole_rows() -> None:
    assert [cells.segments_of(Geometry(1, 1, 4, rows, 5, 1)) for rows in (1, 5, 30, 7, 10)] == [1, 5, 6, 7, 5]
