"""Head groups, attention over them, and the rules of writing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fkv import rope
from fkv.attention import probe_backends, scaled_dot
from fkv.cache import Commit, HeadGroup, KVCache, attend, cut, merge
from fkv.spec import Geometry
from tests.tiny import tiny_cache, tiny_policy, tiny_spec

GEOMETRY = tiny_spec().geometry


def filled(commit: Commit, seed: int = 0, batch: int = 1) -> tuple[Tensor, Tensor]:
    geometry = commit.geometry
    shape = (batch, geometry.heads, commit.frames * geometry.tokens, geometry.head_dim)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def commit_chunk(cache: KVCache, chunk: int, layers: range | None = None) -> None:
    commit = Commit(chunk, chunk * cache.geometry.chunk, cache.geometry.chunk, cache.geometry)
    with cache.committing(commit):
        for layer in layers or range(cache.geometry.layers):
            k, v = filled(commit, seed=10 * chunk + layer)
            cache.write(layer, k, v, k)


def masked_reference(q: Tensor, k: Tensor, v: Tensor, past: list[HeadGroup]) -> Tensor:
    """One dense attention over every kept token of every group, masked per head to its own."""
    b, heads, length, _ = q.shape
    keys, values, columns = [k], [v], [torch.ones(heads, length, dtype=torch.bool)]
    for group in past:
        wide = torch.zeros(b, heads, group.tokens, q.shape[-1])
        seen = torch.zeros(heads, group.tokens, dtype=torch.bool)
        full_k, full_v = wide.clone(), wide.clone()
        full_k[:, group.heads], full_v[:, group.heads], seen[group.heads] = group.k, group.v, True
        keys, values, columns = [*keys, full_k], [*values, full_v], [*columns, seen]
    mask = torch.cat(columns, dim=1)[None, :, None]
    return F.scaled_dot_product_attention(q, torch.cat(keys, dim=2), torch.cat(values, dim=2), attn_mask=mask)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 5).flatmap(lambda heads: st.lists(st.integers(-1, 2), min_size=heads, max_size=heads)),
    st.lists(st.integers(0, 7), min_size=3, max_size=3),
    st.integers(1, 2),
)
def test_grouped_attention_equals_one_masked_attention(owner: list[int], lengths: list[int], batch: int) -> None:
    heads, size, new = len(owner), 6, 4
    generator = torch.Generator().manual_seed(sum(lengths) + heads)

    def draw(count: int, tokens: int) -> Tensor:
        return torch.randn(batch, count, tokens, size, generator=generator)

    past = []
    for number, length in enumerate(lengths):
        members = torch.tensor([head for head, group in enumerate(owner) if group == number], dtype=torch.long)
        if len(members):
            past.append(
                HeadGroup(members, draw(len(members), length), draw(len(members), length), torch.zeros(length, 3, dtype=torch.long))
            )
    q, k, v = draw(heads, new), draw(heads, new), draw(heads, new)
    torch.testing.assert_close(attend(q, k, v, past), masked_reference(q, k, v, past), atol=1e-5, rtol=0)


def test_without_a_past_a_chunk_attends_to_itself() -> None:
    q, k, v = (torch.randn(1, 2, 3, 4) for _ in range(3))
    assert attend(q, k, v, []).equal(scaled_dot(q, k, v))


def test_a_cut_has_a_storage_of_its_own_and_exact_size() -> None:
    k = torch.randn(1, 2, 6, 4)
    group = HeadGroup(torch.arange(2), k, k, rope.grid(0, 6, 1, 1))
    kept = cut([group, group], [("sink", [(0, 1)]), ("recent", [(4, 8), (11, 12)])])
    assert kept.pos[:, 0].tolist() == [0, 4, 5, 0, 1, 5]
    assert kept.runs == (("sink", 1), ("recent", 5))
    assert kept.span("recent") == (1, 6)
    assert kept.k.is_contiguous()
    assert kept.k.untyped_storage().nbytes() == 4 * kept.k.numel()
    assert kept.k.data_ptr() != k.data_ptr()


def test_a_cut_joins_shared_and_per_head_positions() -> None:
    k = torch.randn(1, 2, 3, 4)
    shared = HeadGroup(torch.arange(2), k, k, rope.grid(0, 3, 1, 1))
    own = HeadGroup(torch.arange(2), k, k, torch.stack([rope.grid(0, 3, 1, 1), rope.grid(5, 3, 1, 1)]))
    assert cut([shared, own], [("all", [(2, 5)])]).pos[..., 0].tolist() == [[2, 0, 1], [2, 5, 6]]


def test_merging_puts_heads_back_in_order_and_refuses_unequal_runs() -> None:
    k = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, 2, 4)
    whole = HeadGroup(torch.arange(3), k, k, rope.grid(0, 2, 1, 1), runs=(("sink", 1), ("recent", 1)))
    parts = [whole.pick((0, 2), torch.tensor([0, 2]), "a"), whole.pick((1,), torch.tensor([1]), "b")]
    merged = merge(parts, "sink")
    assert merged.members == (0, 1, 2)
    assert merged.k[0, :, 0, 0].tolist() == [0, 1, 2]
    longer = HeadGroup(torch.tensor([1]), k[:, 1:2], k[:, 1:2], rope.grid(0, 2, 1, 1), runs=(("sink", 2),))
    with pytest.raises(ValueError, match="only equal runs"):
        merge([parts[0], longer], "sink")


def test_writing_outside_committing_raises_and_noisy_reads_change_nothing() -> None:
    cache = tiny_cache(tiny_spec(), "full")
    commit_chunk(cache, 0)
    before = [group.k.clone() for layer in cache.layers for group in layer]
    k, v = filled(Commit(1, 3, 3, GEOMETRY))
    assert not cache.writable
    with pytest.raises(RuntimeError, match=r"only inside cache\.committing"):
        cache.write(0, k, v, k)
    cache.read(0, k, 3)
    assert all(a.equal(b.k) for a, b in zip(before, (group for layer in cache.layers for group in layer)))


def test_a_clean_pass_that_fails_or_skips_a_layer_leaves_the_cache_as_it_was() -> None:
    cache = tiny_cache(tiny_spec(), "full")
    commit_chunk(cache, 0)
    before, last = cache.layers, cache.last
    with pytest.raises(RuntimeError, match=r"layers \[2\] wrote nothing"):
        commit_chunk(cache, 1, range(2))
    with pytest.raises(ZeroDivisionError), cache.committing(Commit(1, 3, 3, GEOMETRY)):
        raise ZeroDivisionError
    assert cache.layers is before
    assert cache.last is last
    assert not cache.writable


def test_a_cache_refuses_to_commit_twice_at_once_and_tensors_of_another_model() -> None:
    cache = tiny_cache(tiny_spec(), "full")
    with cache.committing(Commit(0, 0, 3, GEOMETRY)):
        with pytest.raises(RuntimeError, match="already committing"), cache.committing(Commit(0, 0, 3, GEOMETRY)):
            pass
        k = torch.zeros(1, GEOMETRY.heads + 1, 3 * GEOMETRY.tokens, GEOMETRY.head_dim)
        with pytest.raises(ValueError, match="make one for this model"):
            cache.write(0, k, k, k)
        good, _ = filled(Commit(0, 0, 3, GEOMETRY))
        with pytest.raises(ValueError, match=r"torch\.bfloat16"):
            cache.write(0, good.bfloat16(), good.bfloat16(), good)
        for layer in range(GEOMETRY.layers):
            cache.write(layer, good, good, good)


def test_stored_read_and_allocated_bytes_are_three_numbers() -> None:
    spec = tiny_spec()
    cache = tiny_cache(spec, "full:6")
    assert cache.nbytes == cache.read_bytes == 0
    for chunk in range(3):
        commit_chunk(cache, chunk)
    frame = 2 * 4 * GEOMETRY.tokens * GEOMETRY.heads * GEOMETRY.head_dim * GEOMETRY.layers
    q, _ = filled(Commit(3, 9, 3, GEOMETRY))
    for layer in range(GEOMETRY.layers):
        cache.read(layer, q, 3)
    assert cache.nbytes == 3 * frame
    assert cache.read_bytes == 6 * frame
    assert cache.allocated > cache.nbytes
    assert cache.residency()[0][0][:2] == ("all", GEOMETRY.heads)


def test_an_evicted_frame_frees_its_memory() -> None:
    cache = tiny_cache(tiny_spec(), "window:sink=1,recent=5")
    sizes = []
    for chunk in range(6):
        commit_chunk(cache, chunk)
        sizes.append((cache.nbytes, cache.allocated))
    assert set(sizes) == {sizes[0]}


@pytest.mark.parametrize(("heads", "rows", "columns", "chunk"), [(1, 1, 1, 1), (5, 3, 5, 2), (7, 5, 8, 3)])
def test_odd_grids_and_head_counts_are_cut_where_frames_begin(heads: int, rows: int, columns: int, chunk: int) -> None:
    geometry = Geometry(2, heads, 4, rows, columns, chunk)
    cache = KVCache(tiny_policy(f"window:sink=1,recent={2 * chunk}", geometry), geometry)
    for number in range(4):
        commit_chunk(cache, number)
    (_, count, pos) = cache.residency()[1][0]
    frames = [0, *range(3 * chunk, 4 * chunk)]
    assert count == heads
    assert pos.tolist() == [[frame, row, column] for frame in frames for row in range(rows) for column in range(columns)]


def test_the_machine_runs_at_least_one_attention_backend() -> None:
    found = probe_backends(head_dim=16)
    assert any(backend.works for backend in found)
    assert all(backend.works or backend.reason for backend in found)
