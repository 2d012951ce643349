"""Sampled attention of all heads, and the maps of single tokens: both against a dense reference, on odd sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fkv import rope
from fkv.cells import segments_of
from fkv.groups import HeadGroup
from fkv.heads import head_scores
from fkv.looking import Keeper, Looks, spelled
from fkv.spec import Geometry
from fkv.survey import Running, Survey, coverage, token_ids

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 5), st.integers(1, 3), st.integers(0, 4), st.integers(0, 99))
QUICK = settings(max_examples=25, deadline=None)


def draw(geometry: Geometry, heads: int, tokens: int, seed: int) -> Tensor:
    return 2 * torch.randn(1, heads, tokens, geometry.head_dim, generator=torch.Generator().manual_seed(seed))


def whole(geometry: Geometry, frames: int, seed: int) -> HeadGroup:
    """A group of all heads that holds the first `frames` frames."""
    k = draw(geometry, geometry.heads, frames * geometry.tokens, seed)
    return HeadGroup(torch.arange(geometry.heads), k, k, rope.grid(0, frames, geometry.rows, geometry.columns))


def part(group: HeadGroup, members: list[int], tokens: Tensor) -> HeadGroup:
    """Some heads and tokens of a group."""
    index = torch.tensor(members)
    k = group.k[:, index][:, :, tokens]
    return HeadGroup(index, k, k, group.pos[tokens])


def dense(q: Tensor, k: Tensor, past: HeadGroup) -> Tensor:
    """Token map [h, Q, s] in double."""
    return torch.softmax(q[0].double() @ torch.cat((past.k, k), dim=2)[0].double().mT * q.shape[-1] ** -0.5, dim=-1)


def made(sizes: tuple[int, int, int, int, int, int]) -> tuple[Geometry, HeadGroup, Tensor, Tensor, int]:
    heads, rows, columns, chunk, before, seed = sizes
    geometry = Geometry(1, heads, 4, rows, columns, chunk)
    q, k = (draw(geometry, heads, chunk * geometry.tokens, seed + n) for n in (1, 2))
    return geometry, whole(geometry, before, seed), q, k, before


@QUICK
@given(SIZES)
def test_with_all_queries_a_survey_is_the_dense_map_in_bands(sizes: tuple[int, int, int, int, int, int]) -> None:
    geometry, past, q, k, start = made(sizes)
    survey = Survey(geometry, (0,), queries=None)
    survey.see(0, q, k, [past] if start else [], start)
    seen, tokens = survey.found[0], dense(q, k, past)
    assert seen.frames.tolist() == list(range(start + geometry.chunk))
    bands = tokens.mean(dim=1).unflatten(1, (-1, segments_of(geometry), geometry.tokens // segments_of(geometry))).sum(-1)
    torch.testing.assert_close(seen.bands.double(), bands, atol=1e-5, rtol=0)
    maps = tokens.unflatten(2, (-1, geometry.tokens)).sum(-1)
    if len(seen.frames) > geometry.chunk + 1:
        torch.testing.assert_close(seen.score.double(), head_scores(maps, last_k=geometry.chunk + 1), atol=1e-5, rtol=1e-4)
        assert seen.error.abs().max() == 0
    else:
        assert seen.score.isnan().all()
    torch.testing.assert_close(seen.sink.double(), maps[..., 0].mean(dim=1), atol=1e-5, rtol=0)
    assert (seen.entropy <= 1 + 1e-5).all()
    assert (seen.entropy >= -1e-5).all()


@QUICK
@given(SIZES, st.randoms(use_true_random=False))
def test_coverage_is_the_attention_on_the_tokens_that_are_held(sizes: tuple[int, int, int, int, int, int], random: object) -> None:
    geometry, past, q, k, start = made(sizes)
    survey = Survey(geometry, (0,), queries=None)
    survey.see(0, q, k, [past], start)
    tokens = torch.tensor(sorted(random.sample(range(past.tokens), past.tokens // 2)), dtype=torch.long)  # type: ignore[attr-defined]
    members = sorted(random.sample(range(geometry.heads), (geometry.heads + 1) // 2))  # type: ignore[attr-defined]
    wanted = dense(q, k, past).mean(dim=1)
    kept = torch.zeros(geometry.heads, wanted.shape[1], dtype=torch.bool)
    kept[:, past.tokens :] = True
    kept[torch.tensor(members)[:, None], tokens] = True
    held = [part(past, members, tokens)]
    torch.testing.assert_close(coverage(survey.found[0], held, geometry).double(), (wanted * kept).sum(dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(coverage(survey.found[0], [past], geometry), torch.ones(geometry.heads), atol=1e-5, rtol=0)


def test_heads_that_keep_different_tokens_are_scored_on_what_they_see() -> None:
    geometry = Geometry(1, 3, 4, 2, 3, 2)
    past, q, k = whole(geometry, 8, 0), draw(geometry, 3, 12, 1), draw(geometry, 3, 12, 2)
    few = torch.cat((torch.arange(6), torch.arange(36, 48)))
    survey = Survey(geometry, (0,), queries=None, skip_first=1)
    survey.see(0, q, k, [part(past, [2, 0], torch.arange(48)), part(past, [1], few)], 8)
    seen = survey.found[0]
    assert seen.bands[1].isnan().all(dim=1).tolist() == [False, True, True, True, True, True, False, False, False, False]
    own = dense(q, k, part(past, [0, 1, 2], few))[1].unflatten(1, (-1, 6)).sum(-1)
    torch.testing.assert_close(seen.score[1].double(), head_scores(own, last_k=3), atol=1e-5, rtol=0)
    everything = dense(q, k, past).unflatten(2, (-1, 6)).sum(-1)
    torch.testing.assert_close(seen.score[[0, 2]].double(), head_scores(everything, last_k=3)[[0, 2]], atol=1e-5, rtol=0)


def test_the_standard_error_says_how_far_samples_lie_from_all_queries() -> None:
    geometry = Geometry(1, 40, 8, 8, 8, 3)
    past, q, k = whole(geometry, 9, 0), draw(geometry, 40, 192, 1), draw(geometry, 40, 192, 2)
    every = Survey(geometry, (0,), queries=None)
    every.see(0, q, k, [past], 9)
    ratios = []
    for seed in range(6):
        some = Survey(geometry, (0,), queries=24, generator=torch.Generator().manual_seed(seed))
        some.see(0, q, k, [past], 9)
        ratios.append((some.found[0].score - every.found[0].score) / some.found[0].error)
    assert 0.7 < float(torch.cat(ratios).std()) < 1.3
    assert not every.found[0].score.isnan().any()


def test_running_values_fade_by_half_in_a_half_life_and_errors_with_them() -> None:
    running = Running(2, 1, halflife=2)
    running.add(0, 4, np.array([1.0]), np.array([0.3]))
    running.add(0, 6, np.array([0.0]), np.array([0.4]))
    assert running.mean[0, 0] == pytest.approx(1 / 3)
    assert running.error[0, 0] == pytest.approx(math.hypot(0.15, 0.4) / 1.5)
    assert np.isnan(running.mean[1, 0])
    running.add(0, 7, np.array([np.nan]))
    assert running.mean[0, 0] == pytest.approx(1 / 3)


def looks(geometry: Geometry, past: HeadGroup, q: Tensor, k: Tensor, start: int, held: HeadGroup | None = None) -> Looks:
    found = Looks(geometry)
    every = {(0, head) for head in range(geometry.heads)}
    shots = {}
    for lane, group in (("A", past), ("B", held)):
        if group is not None:
            keeper = Keeper(geometry, every)
            keeper.see(0, q, k, [group] if group.tokens else [], start)
            shots.update({(lane, head): shot for head, shot in keeper.shots.items()})
    found.take(start // geometry.chunk, shots)
    return found


@QUICK
@given(SIZES, st.data())
def test_a_token_is_looked_up_exactly_in_both_directions(sizes: tuple[int, int, int, int, int, int], data: st.DataObject) -> None:
    heads, rows, columns, chunk, before, seed = sizes
    geometry, past, q, k, start = made((heads, rows, columns, chunk, before * chunk, seed))
    tokens, found = dense(q, k, past), looks(geometry, past, q, k, start)
    head, row, column = (data.draw(st.integers(0, count - 1)) for count in (heads, rows, columns))
    frame = data.draw(st.integers(start, start + chunk - 1))
    query = ((frame - start) * rows + row) * columns + column
    seen = found.look(0, head, frame, row, column)
    assert (seen.chunk, seen.frames) == (start // chunk, tuple(range(start + chunk)))
    np.testing.assert_allclose(seen.weights, tokens[head, query].reshape(-1, rows, columns), atol=1e-5)
    np.testing.assert_allclose(seen.share, seen.weights.sum((1, 2)), atol=1e-5)
    assert math.isnan(seen.unseen)
    key = data.draw(st.integers(0, start + chunk - 1))
    back = found.look(0, head, key, row, column, toward="queries")
    assert back.frames == tuple(range(start, start + chunk))
    np.testing.assert_allclose(back.weights, tokens[head, :, (key * rows + row) * columns + column].reshape(-1, rows, columns), atol=1e-5)
    matrix = found.pooled(0, head)
    pooled = tokens[head].unflatten(1, (-1, geometry.tokens)).sum(-1).unflatten(0, (chunk, -1)).mean(1)
    np.testing.assert_allclose(matrix.mass, pooled, atol=1e-5)


def test_one_bright_token_shines_where_it_is_and_not_with_rows_and_columns_swapped() -> None:
    geometry = Geometry(1, 1, 4, 3, 5, 1)
    past = whole(geometry, 4, 0)
    q, k = torch.zeros(1, 1, 15, 4), torch.zeros(1, 1, 15, 4)
    q[0, 0, 1 * 5 + 4, 0] = 20
    past.k[:] = 0
    past.k[0, 0, (2 * 3 + 0) * 5 + 3, 0] = 20
    found = looks(geometry, past, q, k, 4)
    seen = found.look(0, 0, 4, 1, 4)
    assert np.unravel_index(seen.weights.argmax(), seen.weights.shape) == (2, 0, 3)
    assert seen.weights.max() > 0.99
    assert found.look(0, 0, 4, 2, 1).weights.max() < 0.1
    back = found.look(0, 0, 2, 0, 3, toward="queries")
    assert np.unravel_index(back.weights.argmax(), back.weights.shape) == (0, 1, 4)


def test_what_a_lane_does_not_hold_is_absent_and_its_share_in_the_dense_lane_unseen() -> None:
    geometry = Geometry(1, 2, 4, 2, 3, 2)
    past, q, k = whole(geometry, 6, 0), draw(geometry, 2, 12, 1), draw(geometry, 2, 12, 2)
    tokens = torch.cat((torch.arange(6), torch.arange(27, 36)))
    held = part(past, [0, 1], tokens)
    found = looks(geometry, past, q, k, 6, held)
    a, b = (found.look(0, 1, 7, 1, 2, lane=lane) for lane in ("A", "B"))  # type: ignore[arg-type]
    assert a.frames == b.frames
    gone = np.isnan(b.weights)
    assert gone.reshape(8, 6).sum(1).tolist() == [0, 6, 6, 6, 3, 0, 0, 0]
    assert np.isnan(b.share).tolist() == [False, True, True, True, False, False, False, False]
    assert a.unseen == b.unseen == pytest.approx(float(a.weights[gone].sum()), abs=1e-6)
    np.testing.assert_allclose(b.weights[~gone], a.weights[~gone] / (1 - a.unseen), rtol=1e-4)
    assert np.isnan(found.look(0, 1, 2, 0, 0, lane="B", toward="queries").weights).all()
    assert np.isnan(found.pooled(0, 1, lane="B").mass).any(axis=0).tolist() == [False, True, True, True, False, False, False, False]


def kept(bound: int, chunks: tuple[int, ...]) -> tuple[Looks, int]:
    """Looks of one head in some chunks, and the bytes of one of them."""
    geometry = Geometry(1, 1, 4, 2, 2, 2)
    found, q, size = Looks(geometry, bound), draw(geometry, 1, 8, 0), 0
    for chunk in chunks:
        keeper = Keeper(geometry, {(0, 0)})
        keeper.see(0, q, q, [], 2 * chunk)
        size = keeper.shots[0, 0].nbytes
        found.take(chunk, {("A", (0, 0)): keeper.shots[0, 0]})
    return found, size


@pytest.mark.parametrize(("room", "there"), [(0, (5,)), (1, (5,)), (2.9, (4, 5)), (4, (1, 3, 4, 5)), (9, (0, 1, 3, 4, 5))])
def test_as_many_chunks_are_kept_as_there_are_bytes_for_and_the_newest_always(room: float, there: tuple[int, ...]) -> None:
    _, size = kept(0, (0,))
    assert size == 2 * 8 * 4 * 4 + 8 * 8, "queries, keys and the numbers of 8 tokens"
    found, _ = kept(int(room * size), (0, 1, 3, 4, 5))
    assert found.chunks(0, 0) == there
    assert found.chunks(0, 1) == ()
    assert found.nbytes == len(there) * size
    assert found.look(0, 0, 2 * there[0], 0, 0).chunk == there[0]


def test_chunks_are_spelled_from_one_with_runs_drawn_together() -> None:
    assert spelled((0, 1, 2, 5, 7, 8)) == "chunks 1-3, 6, 8-9"
    assert spelled((11,)) == "chunk 12"


def test_what_cannot_be_looked_at_is_said_with_why_and_what_can() -> None:
    found, size = kept(0, (0,))
    found, _ = kept(3 * size, (0, 1, 3, 4))
    geometry, chunk = found.geometry, found._kept[4]
    keeper = Keeper(geometry, {(0, 0)})
    drawn = draw(geometry, 1, 8, 1)
    keeper.see(0, drawn, drawn, [], 10)
    found.take(5, {("A", (0, 0)): keeper.shots[0, 0]})
    assert len(chunk) == 1
    assert found.look(0, 0, 8, 0, 0).chunk == 4
    assert found.look(0, 0, 10, 0, 0, toward="queries").chunk == 5
    for call, words in (
        (
            {"frame": 2},
            r"head 0 of layer 0 in chunk 2 is out of reach, 0 MB of .* are kept; choose a frame of chunks 4-6 \(frames 6\.\.11\)",
        ),
        ({"frame": 12}, "in chunk 7 is not measured yet; choose a frame of chunks 4-6"),
        ({"frame": 4, "toward": "queries"}, r"frame 4 is not to be seen in chunk 6; choose one of frames 10\.\.11"),
        ({"frame": 10, "row": 2}, r"row 2 is asked for, a frame has rows 0\.\.1; choose"),
        ({"frame": 10, "column": -1}, "column -1 is asked for"),
        ({"frame": 10, "head": 1}, "head 1 of layer 0 has not been kept in lane A; show or pin it"),
        ({"frame": 10, "lane": "B"}, "has not been kept in lane B"),
        ({"frame": 10, "lane": "C"}, "lane 'C' is unknown; use A or B"),
        ({"frame": 10, "toward": "me"}, "direction 'me' is unknown; use keys or queries"),
    ):
        with pytest.raises(ValueError, match=words):
            found.look(**{"layer": 0, "head": 0, "row": 0, "column": 0, **call})  # type: ignore[arg-type]


def test_tokens_are_numbered_frame_by_frame_and_row_by_row() -> None:
    geometry = Geometry(1, 1, 4, 3, 5, 2)
    assert token_ids(rope.grid(2, 2, 3, 5), geometry).tolist() == list(range(30, 60))
