"""Attention measured beside the kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fkv import rope
from fkv.groups import HeadGroup
from fkv.probe import FrameProbe, framewise, sample_rows
from fkv.spec import Geometry
from tests.tiny import tiny_spec, tiny_stream

GEOMETRY = Geometry(layers=2, heads=3, head_dim=4, rows=2, columns=3, chunk=2)


def draw(heads: int, frames: int, seed: int, batch: int = 1) -> Tensor:
    shape = (batch, heads, frames * GEOMETRY.tokens, GEOMETRY.head_dim)
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def group(members: list[int], frames: list[int], seed: int) -> HeadGroup:
    k = draw(len(members), len(frames), seed)
    pos = torch.cat([rope.grid(frame, 1, GEOMETRY.rows, GEOMETRY.columns) for frame in frames])
    return HeadGroup(torch.tensor(members), k, k, pos)


def test_all_queries_give_the_frame_map_of_the_token_map() -> None:
    past = group([0, 1, 2], [0, 1, 2], 0)
    q, k = draw(3, 2, 1), draw(3, 2, 2)
    probe = FrameProbe(GEOMETRY, queries=None)
    probe.see(1, q, k, [past], 3)
    tokens = torch.softmax(q[0] @ torch.cat((past.k, k), dim=2)[0].mT / 2, dim=-1)
    seen = probe.map(1)
    assert seen.frames.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(seen.mass, framewise(tokens, GEOMETRY.tokens))
    torch.testing.assert_close(seen.share.sum(dim=1), torch.ones(3))


def test_frames_a_head_cannot_see_are_absent_and_the_rest_sums_to_one() -> None:
    past = [group([2, 0], [0, 4], 0), group([1], [4], 1)]
    probe = FrameProbe(GEOMETRY, head=(0, 1))
    probe.see(0, draw(3, 2, 2), draw(3, 2, 3), past, 5)
    seen = probe.map(0)
    assert seen.frames.tolist() == [0, 4, 5, 6]
    assert seen.mass[1].isnan().tolist() == [[True, False, False, False]] * 2
    assert not seen.mass[[0, 2]].isnan().any()
    torch.testing.assert_close(seen.mass.nansum(dim=2), torch.ones(3, 2))
    assert probe.pinned is not None
    assert probe.pinned.frames.tolist() == [4, 5, 6]


def test_heads_in_no_group_see_their_own_chunk_only() -> None:
    probe = FrameProbe(GEOMETRY)
    probe.see(0, draw(3, 2, 2), draw(3, 2, 3), [group([1], [0], 0)], 5)
    assert probe.map(0).mass[0].isnan().tolist() == [[True, False, False]] * 2
    probe.see(1, draw(3, 2, 2), draw(3, 2, 3), [], 5)
    assert probe.map(1).frames.tolist() == [5, 6]


def test_positions_of_each_head_are_followed() -> None:
    k = draw(2, 1, 0)
    own = torch.stack([rope.grid(frame, 1, GEOMETRY.rows, GEOMETRY.columns) for frame in (0, 3)])
    past = [HeadGroup(torch.tensor([0, 2]), k, k, own)]
    probe = FrameProbe(GEOMETRY)
    probe.see(0, draw(3, 2, 2), draw(3, 2, 3), past, 5)
    assert probe.map(0).frames.tolist() == [0, 3, 5, 6]
    assert probe.map(0).mass[:, 0].isnan().tolist() == [
        [False, True, False, False],
        [True, True, False, False],
        [True, False, False, False],
    ]


def test_sampled_queries_come_equally_from_every_frame_and_stretch_and_err_little() -> None:
    geometry = Geometry(1, 2, 8, 8, 8, 3)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 3 * geometry.tokens, 8, generator=generator)
    every, some = FrameProbe(geometry, queries=None), FrameProbe(geometry, queries=48)
    rows = sample_rows(3 * geometry.tokens, geometry.tokens, 48, generator)
    assert torch.bincount(rows // geometry.tokens).tolist() == [16, 16, 16]
    assert torch.bincount(rows % geometry.tokens // 16, minlength=4).tolist() == [12, 12, 12, 12]
    for probe in (every, some):
        probe.see(0, q, k, [], 0)
    torch.testing.assert_close(some.map(0).mass, every.map(0).mass, atol=0.03, rtol=0)


def test_the_same_generator_looks_at_the_same_queries() -> None:
    a, b, c = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    assert sample_rows(12, 6, 4, a).equal(sample_rows(12, 6, 4, b))
    assert not all(sample_rows(12, 6, 4, a).equal(sample_rows(12, 6, 4, c)) for _ in range(5))


def test_passes_layers_and_a_pinned_head_are_chosen() -> None:
    spec = tiny_spec(steps=3)
    stream = tiny_stream(spec, "full")
    for _ in range(2):
        stream.step()
    probe = FrameProbe(spec.geometry, layers=(0, 2), head=(1, 0), passes=(2,))
    every = FrameProbe(spec.geometry, layers=(0,), queries=None)
    stream.step(probe)
    stream.step(every)
    assert probe.seen == [0, 2]
    assert len(probe.per_pass(0)) == 1
    assert len(every.per_pass(0)) == 3
    assert probe.pinned is not None
    assert probe.pinned.mass.shape == (1, 3, 9)
    probe.clear()
    assert probe.seen == []
    assert probe.pinned is None


def test_what_the_model_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layers \[2\] are asked for, the model has layers 0\.\.1"):
        FrameProbe(GEOMETRY, layers=(2,))
    with pytest.raises(ValueError, match=r"head 3 is asked for, the model has heads 0\.\.2"):
        FrameProbe(GEOMETRY, head=(0, 3))
