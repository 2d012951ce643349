"""Properties that every discovered policy has, and the timelines of each written out."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from fkv.cache import KVCache, Policy
from fkv.policies import discover, label, parse, spelling, split
from fkv.policies.forcing_kv import ForcingKV
from fkv.policies.full import Full
from fkv.policies.painted import Painted
from fkv.policies.window import Window
from fkv.probe import FrameProbe
from fkv.spec import Geometry
from fkv.stream import Stream
from tests.test_cache import attend, commit_chunk, masked_reference
from tests.tiny import frames_of, kept_bytes, timeline, tiny_policy, tiny_roles, tiny_spec, tiny_stream, tiny_text

UNLIMITED = {
    "full": "full",
    "window": "window:sink=0,recent=99",
    "forcing-kv": "forcing-kv:static_recent=21,dynamic_recent=21",
    "painted": "painted:static=1-21,dynamic=1-21",
}
SPELLINGS = [
    "full", "full:9", "full:3", "window:sink=1,recent=5", "window:sink=4,recent=3", "window:sink=0,recent=4", "window:1,5,on_switch=renew",
    "forcing-kv", "forcing-kv:start_chunk=0,sink=0", "forcing-kv:static_recent=2,dynamic_recent=3,start_chunk=2", "forcing-kv:dynamic=0",
    "forcing-kv:similarity=layer", "forcing-kv:similarity_layer=2,history=accumulate,cap=2,segments=4", "forcing-kv:sink=5,start_chunk=0",
    "painted", "painted:sink=0,static=,dynamic=7.1", "painted:sink=4,static=1.0+2-3,dynamic=1+5.2-3,segments=4",
]  # fmt: skip
POLICIES = pytest.mark.parametrize("text", SPELLINGS)


def latents(stream: Stream, chunks: int) -> Tensor:
    return torch.cat([stream.step().latents for _ in range(chunks)], dim=1)


def test_every_policy_on_disk_is_listed_in_these_tests() -> None:
    assert set(discover()) == set(UNLIMITED) == {parse(text).name for text in SPELLINGS}


@pytest.mark.parametrize("text", UNLIMITED.values())
def test_an_unlimited_budget_equals_the_whole_history(text: str) -> None:
    spec = tiny_spec()
    torch.testing.assert_close(latents(tiny_stream(spec, text), 4), latents(tiny_stream(spec, "full"), 4), atol=1e-5, rtol=0)


@POLICIES
@pytest.mark.parametrize(("batch", "dtype"), [(1, torch.float32), (2, torch.float32), (2, torch.bfloat16)])
def test_groups_partition_the_heads_and_bytes_equal_the_formula_in_every_phase(text: str, batch: int, dtype: torch.dtype) -> None:
    spec = tiny_spec(heads=5, rows=4, columns=3, steps=1)
    stream = tiny_stream(spec, text, batch=batch, dtype=dtype)
    recached = 0
    for chunk in range(6):
        if chunk == 4:
            stream.recache(text=tiny_text(spec, batch, seed=1))
            recached = 4
            assert stream.cache.nbytes == kept_bytes(stream.cache, 4, 4)
        assert stream.step().latents.isfinite().all()
        assert stream.cache.nbytes == kept_bytes(stream.cache, chunk, recached), f"before chunk {chunk}"
        assert stream.cache.read_bytes == stream.cache.nbytes + stream.spec.chunk * kept_bytes(one_frame(stream), 1)
        for groups in stream.cache.layers:
            assert sorted(head for group in groups for head in group.members) == (list(range(5)) if chunk else [])
            assert all(sum(length for _, length in group.runs) == group.tokens == group.pos.shape[-2] for group in groups)


def one_frame(stream: Stream) -> KVCache:
    """A cache in which one chunk is one frame."""
    cache, geometry = stream.cache, stream.spec.geometry
    return KVCache(
        Full(), Geometry(geometry.layers, geometry.heads, geometry.head_dim, geometry.rows, geometry.columns, 1), cache.batch, cache.dtype
    )


@POLICIES
def test_a_policy_keeps_the_tokens_its_positions_name_and_attends_to_no_others(text: str) -> None:
    spec = tiny_spec(heads=4)
    stream = tiny_stream(spec, text)
    geometry, write, cache = spec.geometry, stream.cache.write, stream.cache
    written: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in range(geometry.layers)}

    def spied(layer: int, k: Tensor, v: Tensor, q: Tensor) -> None:
        written[layer].append((k.clone(), v.clone()))
        write(layer, k, v, q)

    cache.write = spied
    latents(stream, 5)
    for layer, groups in enumerate(cache.layers):
        k, v = (torch.cat(side, dim=2) for side in zip(*written[layer]))
        for group in groups:
            index = (group.pos[:, 0] * geometry.rows + group.pos[:, 1]) * geometry.columns + group.pos[:, 2]
            assert len(index.unique()) == len(index), "a token is kept twice"
            assert group.k.equal(k[:, group.heads][:, :, index])
            assert group.v.equal(v[:, group.heads][:, :, index])
        q, new_k, new_v = torch.randn(3, 1, geometry.heads, 7, geometry.head_dim, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(attend(q, new_k, new_v, groups), masked_reference(q, new_k, new_v, groups), atol=1e-5, rtol=0)


@POLICIES
@pytest.mark.parametrize(("heads", "rows", "columns"), [(1, 1, 1), (5, 3, 5), (7, 5, 8)])
def test_odd_grids_and_head_counts_keep_as_much_as_the_formula_says_and_no_token_twice(
    text: str, heads: int, rows: int, columns: int
) -> None:
    geometry = Geometry(3, heads, 4, rows, columns, 3)
    fitting = re.sub(r",segments=4|\.\d(-\d)?", "", text)  # these grids have fewer segments than some spellings name
    cache = KVCache(tiny_policy(fitting, geometry), geometry)
    for chunk in range(6):
        commit_chunk(cache, chunk)
        assert cache.nbytes == kept_bytes(cache, chunk + 1)
        for groups in cache.layers:
            assert sorted(head for group in groups for head in group.members) == list(range(heads))
            for pos in (own for group in groups for own in (group.pos if group.pos.dim() == 3 else group.pos[None])):
                assert len({tuple(place) for place in pos.tolist()}) == len(pos)
                assert all(0 <= row < rows and 0 <= column < columns and frame < 3 * chunk + 3 for frame, row, column in pos.tolist())


@POLICIES
@pytest.mark.parametrize(("batch", "dtype"), [(1, torch.float32), (2, torch.float32), (2, torch.bfloat16)])
def test_two_interleaved_streams_equal_two_sequential_ones_bit_for_bit(text: str, batch: int, dtype: torch.dtype) -> None:
    spec = tiny_spec()
    sequential = [latents(tiny_stream(spec, text, seed=seed, batch=batch, dtype=dtype), 5) for seed in (0, 1)]
    streams = [tiny_stream(spec, text, seed=seed, batch=batch, dtype=dtype) for seed in (0, 1)]
    chunks = [[stream.step().latents for stream in streams] for _ in range(5)]
    for number in (0, 1):
        assert torch.cat([pair[number] for pair in chunks], dim=1).equal(sequential[number])


@POLICIES
def test_a_probe_changes_nothing(text: str) -> None:
    spec = tiny_spec()
    watched, plain = tiny_stream(spec, text), tiny_stream(spec, text)
    probe = FrameProbe(spec.geometry, head=(1, 2), queries=6)
    for _ in range(4):
        probe.clear()
        assert watched.step(probe).latents.equal(plain.step().latents)
    assert probe.seen == list(range(spec.geometry.layers))


@POLICIES
def test_the_spelling_of_a_policy_reads_back_as_the_same_policy(text: str) -> None:
    policy = parse(text)
    assert parse(spelling(policy)) == policy
    assert label(policy)


@POLICIES
def test_a_change_of_policy_needs_no_history_beyond_what_the_stream_keeps(text: str) -> None:
    spec = tiny_spec(steps=1)
    stream = tiny_stream(spec, "full:6")
    latents(stream, 9)
    stream.recache(policy=tiny_policy(text, spec.geometry))
    assert stream.cache.nbytes == kept_bytes(stream.cache, 9, 9)
    assert stream.cache.last is not None
    assert stream.cache.last.recache
    for chunk in range(9, 11):
        stream.step()
        assert stream.cache.nbytes == kept_bytes(stream.cache, chunk, 9)


def test_the_last_nine_frames_are_six_past_ones_and_the_chunk() -> None:
    assert timeline("full:9", 5) == [
        {"all": [0, 1, 2]},
        {"all": [0, 1, 2, 3, 4, 5]},
        {"all": [3, 4, 5, 6, 7, 8]},
        {"all": [6, 7, 8, 9, 10, 11]},
    ]


def test_the_timeline_of_a_window_with_one_sink_frame() -> None:
    assert timeline("window:sink=1,recent=5", 5) == [{"all": [0, 1, 2]}, {"all": [0, 4, 5]}, {"all": [0, 7, 8]}, {"all": [0, 10, 11]}]


def test_the_published_window_of_twelve_keeps_three_first_and_six_newest_past_frames() -> None:
    assert timeline("window", 6)[-2:] == [{"all": [0, 1, 2, 6, 7, 8, 9, 10, 11]}, {"all": [0, 1, 2, 9, 10, 11, 12, 13, 14]}]


def test_a_painted_frame_is_kept_at_the_ages_it_comes_through() -> None:
    assert timeline("painted:sink=1,static=1,dynamic=5", 5) == [
        {"static": [0, 2], "dynamic": [0, 1]},
        {"static": [0, 5], "dynamic": [0, 1, 4]},
        {"static": [0, 8], "dynamic": [0, 4, 7]},
        {"static": [0, 11], "dynamic": [0, 7, 10]},
    ]
    policy = tiny_policy("painted:sink=1,static=1,dynamic=5", tiny_spec().geometry)
    assert spelling(policy) == "painted:dynamic=2+5,segments=4"


def test_painted_segments_are_bands_of_the_frame() -> None:
    spec = tiny_spec(steps=1)
    stream = tiny_stream(spec, "painted:sink=0,static=,dynamic=2.1-2")
    latents(stream, 4)
    kept = {name: pos[:, :2].unique(dim=0).tolist() for name, _, pos in stream.cache.residency()[2]}
    assert kept == {"static": [], "dynamic": [[7, 1], [7, 2]]}


def test_a_sink_outlives_a_prompt_switch_or_is_taken_anew() -> None:
    spec = tiny_spec(steps=1)
    for mode, first in (("keep", 0), ("renew", 9)):
        stream = tiny_stream(spec, f"window:sink=1,recent=5,on_switch={mode}")
        latents(stream, 5)
        stream.recache(text=tiny_text(spec, seed=1))
        assert frames_of(stream.cache, 1) == {"all": [first, 13, 14]}


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Full(frames=2), "2 frames leave no room for a chunk of 3; use >= 3"),
        (Full(frames=-1), r"frames -1 is outside \[0, 4096\]"),
        (Window(sink=-1), r"sink -1 is outside \[0, 21\]"),
        (Window(recent=2), "recent 2 leaves no room for a chunk of 3 frames; use recent >= 3"),
        (Window(on_switch="drop"), "on_switch 'drop' is unknown; use one of: keep, renew"),
        (ForcingKV(segments=7), r"a frame of 12 tokens does not divide into 7 segments; use one of \[3, 4, 6\]"),
        (ForcingKV(ratio=0.0), r"ratio 0.0 is outside \(0, 1\]"),
        (ForcingKV(ratio=1.5), r"ratio 1.5 is outside \(0, 1\]"),
        (ForcingKV(sink=-1), r"sink -1 is outside \[0, 21\]"),
        (ForcingKV(similarity_layer=3), "similarity_layer 3 does not exist; use one of 1..2"),
        (ForcingKV(history="accumulate", cap=1, dynamic=2), "cap 1 is below the 2 frames one chunk adds; use cap >= 2"),
        (Painted(static="0"), r"painted part '0' is of an age outside \[1, 21\]; age 1 is the newest"),
        (Painted(static="1+20-22"), r"painted part '20-22' is of an age outside \[1, 21\]"),
        (Painted(dynamic="2.4"), r"painted part '2.4' names a segment outside \[0, 3\]; a frame has 4"),
        (Painted(dynamic="2.3-1"), "painted part '2.3-1' names a segment outside"),
        (Painted(dynamic="all"), "painted part 'all' cannot be read; write for instance 1"),
        (Painted(segments=5), r"a frame of 12 tokens does not divide into 5 segments; use one of \[3, 4, 6\]"),
        (ForcingKV(similarity="both"), "similarity 'both' is unknown; use one of: shared, layer"),
    ],
)
def test_parameters_that_do_not_fit_are_named_with_both_values_and_the_cure(policy: Policy, words: str) -> None:
    geometry = tiny_spec().geometry
    with pytest.raises(ValueError, match=words):
        KVCache(policy.with_roles(tiny_roles(geometry)), geometry)


def test_roles_of_another_model_are_refused() -> None:
    geometry = tiny_spec().geometry
    for roles, words in (
        (None, "give it the roles"),
        (((0,),), "has 1 layers, the model 3"),
        (((0,), (3,), ()), r"layer 1 .* heads 0\.\.2"),
    ):
        with pytest.raises(ValueError, match=words):
            KVCache(ForcingKV(roles=roles), geometry)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("belady", "policy 'belady' is unknown; use one of: forcing-kv, full, painted, window"),
        ("full:frams=3", "parameter 'frams' is unknown; use one of: frames, reread"),
        ("full:3,4,5", "value '5' is one too many"),
        ("full:three", "frames='three' is not a number"),
        ("full:frames=3,frames=4", "frames is given twice"),
    ],
)
def test_a_spelling_that_cannot_be_read_says_what_would_be(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_spellings_take_values_by_name_or_in_order() -> None:
    assert parse("full:21") == Full(frames=21)
    assert parse(" window:2, recent=6 ") == Window(sink=2, recent=6)
    assert spelling(Full()) == "full"
    assert spelling(Full(frames=21)) == "full:frames=21"
    assert spelling(ForcingKV(ratio=0.5)) == "forcing-kv:ratio=0.5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("full:21,wishful", "'wishful' is neither a policy nor a value of full; policies are: forcing-kv, full, painted, window"),
        ("full,wishful:sink=3,recent=9", "'wishful' is neither a policy nor a value of full"),
        ("forcing-kv,window:3,9,kep", "'kep' is neither a policy nor a value of window"),
    ],
)
def test_a_word_in_a_list_that_is_no_policy_is_not_laid_to_the_one_before_it(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        split(text)


def test_a_word_in_a_list_may_be_a_value_of_the_policy_before_it() -> None:
    assert split("window:3,9,keep,painted:1,2.3,1-3,full") == ["window:3,9,keep", "painted:1,2.3,1-3", "full"]
