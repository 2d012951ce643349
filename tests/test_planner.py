"""The planner's formulas against built networks and filled caches; what cannot run is refused with the nearest thing that can."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fkv import advice, engine, planner, policies
from fkv.planner import SIZES, Wanted
from fkv.policies import parse
from fkv.rolling import stream_class
from fkv.spec import KREA, LONGLIVE, MODELS, POCKET, ROLLING_FORCING, SELF_FORCING, ModelSpec, WanConfig
from fkv.stream import seeded_noise
from fkv.wan import CausalWan
from tests.tiny import kept_bytes, tiny_roles, tiny_spec, tiny_stream

H200, CARD = 141 * 10**9, 24 * 10**9
BOTH = (parse("full:21"), parse("forcing-kv"))
LANES = ("full:21", "full:9", "window:sink=3,recent=9", "forcing-kv", "forcing-kv:dynamic=2,ratio=1", "full")


@pytest.mark.parametrize("net", [*(spec.net for spec in MODELS[:2]), KREA.net, WanConfig(dim=24, heads=2, layers=1, ffn=8, text_dim=6)])
def test_the_number_of_parameters_is_that_of_the_built_network(net: WanConfig) -> None:
    with torch.device("meta"):
        model = CausalWan(net)
    assert planner.parameters(net) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("lane", LANES)
def test_a_lanes_cache_at_its_fullest_is_the_most_a_stream_stores(lane: str) -> None:
    spec, chunks = tiny_spec(rows=6, columns=2, steps=1), 9
    stream = tiny_stream(spec, lane)
    fullest = 0
    for _ in range(chunks):
        stream.step()
        fullest = max(fullest, stream.cache.nbytes)
    wanted = Wanted(replace(spec, codec="taehv"), (stream.policy,), chunks, itemsize=4)
    assert planner.plan(wanted, tiny_roles(spec.geometry)).lanes[0].cache_bytes == fullest
    assert kept_bytes(stream.cache, chunks - 1) <= fullest


def test_a_commit_holds_one_layer_more_of_the_widest_lane_and_those_that_wait_for_a_decision() -> None:
    """A frame is 2 (keys, values) x 4 bytes x 8 numbers x 3 heads x 12 tokens = 2304 bytes in a layer. full:21 keeps 18 frames, window:12:3
    nine: a layer's are there twice more, and a chunk of three. forcing-kv, every head dynamic, keeps three frames in layers past the first:
    they are there once more before it has chosen, with the chunk. Where the last of three layers decides, the one before it waits."""
    spec, frame = replace(tiny_spec(), codec="taehv"), 2304

    def commit(*lanes: str) -> int:
        return planner.plan(Wanted(spec, tuple(parse(lane) for lane in lanes), itemsize=4)).commit_bytes

    assert commit("full:21") == commit("full:21", "full:21") == commit("window:12:3", "full:21") == (2 * 18 + 3) * frame
    assert commit("window:12:3") == (2 * 9 + 3) * frame
    assert commit("forcing-kv") == (3 * 3 + 2 * 3) * frame
    assert commit("forcing-kv:similarity_layer=2") == (3 * 3 + 2 * 3 + 3 + 3) * frame
    one, two = (planner.plan(Wanted(spec, (parse("full:21"),) * lanes, itemsize=4)) for lanes in (1, 2))
    assert two.total - one.total == one.lanes[0].total
    assert one.total - one.commit_bytes == (one.weights_bytes + one.lanes[0].total + one.pass_bytes + one.decoder_bytes + one.device_bytes)


class Live(TorchDispatchMode):
    """Bytes of all storages made inside that are still alive, and the most there were; a view of what was there before makes none."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and not x.is_mkldnn]  # which show no storage
        given = {x.untyped_storage()._cdata for x in tensors}
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in {*self.alive, *given}:
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.most = max(self.most, sum(self.alive.values()))
        return out


LATE = "forcing-kv:similarity_layer=5"  # layers 1 to 4 wait for it
WIDE = "forcing-kv:dynamic=3,dynamic_recent=4,ratio=1"


@pytest.mark.parametrize("lane", ["full:21", "window:12:3", "forcing-kv", LATE, "forcing-kv:similarity=layer", WIDE, "painted"])
def test_a_stream_never_holds_more_than_planned(lane: str) -> None:
    net = replace(SELF_FORCING.net, dim=384, heads=4, layers=6, ffn=1536, freq_dim=16, text_dim=12, text_len=6)
    spec = replace(SELF_FORCING, net=net, latent=(16, 16, 16), heads=None, schedule=replace(SELF_FORCING.schedule, steps=(1000,)))
    loaded, roles = engine.load(spec, "cpu", random_weights=True), ((0, 1),) * 6
    policy = planner.fitted(parse(lane), spec.geometry, roles)
    prompt = loaded.text.encode(loaded.text.examples[0]).embedding
    with torch.inference_mode(), Live() as live:
        stream = stream_class(spec)(loaded.model, spec, prompt, policy, seeded_noise(0, spec))
        for _ in range(9):
            stream.step()
    planned = planner.plan(Wanted(spec, (policy,), 9, itemsize=4), roles)
    lasting = planned.lanes[0].total
    assert lasting < live.most <= lasting + planned.commit_bytes + planned.pass_bytes


def test_a_model_that_denoises_jointly_is_planned_with_its_five_chunks_at_once_and_its_anchor() -> None:
    """Rolling Forcing keeps an anchor of 3 frames beside the 18 newest, and a pass works on 15; a frame of all layers is 287.5 MB."""
    one, joint = (planner.plan(Wanted(spec, (parse("full:21"),))) for spec in (SELF_FORCING, ROLLING_FORCING))
    assert joint.lanes[0].policy == one.lanes[0].policy == "full:frames=21"
    assert joint.lanes[0].cache_bytes - one.lanes[0].cache_bytes == 3 * 287_539_200
    assert 3 * one.pass_bytes < joint.pass_bytes < 5 * one.pass_bytes


@pytest.mark.parametrize(
    "lane", ["forcing-kv:static_recent=5,dynamic_recent=20,start_chunk=7", "forcing-kv:start_chunk=13,dynamic_recent=9"]
)
def test_the_fullest_moment_is_found_wherever_heads_part(lane: str) -> None:
    policy = planner.fitted(parse(lane), tiny_spec().geometry)
    kept = [sum(planner.kept_tokens(policy, tiny_spec().geometry, chunks)) for chunks in range(60)]
    assert planner.most_kept(policy, tiny_spec().geometry, 0) == max(kept)


def test_projections_in_8_bit_floats_take_one_byte_a_number() -> None:
    """Krea: 40 layers of width 5120 and 13824; six projections of attention and two of the feed-forward are quantised."""
    wanted = Wanted(KREA, BOTH)
    plain, eight = (planner.plan(replace(wanted, quantised=quantised)) for quantised in (False, True))
    assert plain.weights_bytes - eight.weights_bytes == 40 * (6 * 5120**2 + 2 * 5120 * 13824)
    assert plain.lanes == eight.lanes


def test_published_memory_of_480p_is_met() -> None:
    """A latent frame of all layers is 287.5 MB; 21 frames in place 6.04 GB, 12 frames 3.45 GB; Forcing-KV keeps 0.75 GB (here with the
    published head profile)."""
    roles = _roles(SELF_FORCING)
    found = planner.plan(Wanted(SELF_FORCING, (parse("full:21"), parse("window:sink=3,recent=9"), parse("forcing-kv"))), roles)
    in_place = [lane.cache_bytes + lane.chunk_bytes for lane in found.lanes]
    assert in_place[0] == 21 * 287_539_200
    assert in_place[1] == 12 * 287_539_200
    assert found.lanes[2].cache_bytes / 1e9 == pytest.approx(0.75, abs=0.005)
    assert found.weights_bytes / 1e9 == pytest.approx(2.84, abs=0.01)
    assert found.lanes[0].text_bytes / 1e9 == pytest.approx(0.094, abs=0.001)


def _roles(spec: ModelSpec) -> tuple[tuple[int, ...], ...]:
    from pathlib import Path

    from fkv.heads import HeadProfile

    assert spec.heads is not None
    return HeadProfile.from_json((Path(__file__).parents[1] / spec.heads).read_text(), spec.geometry).roles()


def test_published_operations_of_480p_are_met() -> None:
    """Per forward: dense 11.7 TF (QKVO 2.65, cross 1.33, feed-forward 7.73), text 0.44, self-attention 28.3 over 21 frames and 7.55 with
    Forcing-KV; five forwards a chunk."""
    full, forcing = planner.tera_operations(Wanted(SELF_FORCING, BOTH), _roles(SELF_FORCING))
    assert full / 5 == pytest.approx(2.65 + 1.33 + 7.73 + 0.44 + 28.3, abs=0.1)
    assert forcing / 5 == pytest.approx(2.65 + 1.33 + 7.73 + 0.44 + 7.55, abs=0.1)


def test_a_cache_that_grows_without_end_is_refused_for_a_run_without_end() -> None:
    with pytest.raises(ValueError, match="memory without end; give the run a number of chunks, or use full:21"):
        planner.plan(Wanted(SELF_FORCING, (parse("full"),)))
    kept = planner.plan(Wanted(SELF_FORCING, (parse("full"),), chunks=40)).lanes[0].cache_bytes
    assert kept == 117 * 287_539_200


def test_a_size_that_does_not_divide_into_patches_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="a size of 500x830 does not divide into patches of 16x16 pixels; use 496x832"):
        planner.resized(SELF_FORCING, (500, 830))
    assert planner.resized(SELF_FORCING, SIZES["1080p"]).geometry.tokens == 8160
    with pytest.raises(ValueError, match="Pocket has learned the places of a 80x128 picture"):
        planner.resized(POCKET, (96, 128))


def test_what_does_not_fit_is_refused_with_value_limit_and_the_nearest_that_fits() -> None:
    large = replace(planner.resized(SELF_FORCING, SIZES["1080p"]))
    with pytest.raises(ValueError, match=r"^Self Forcing 1\.3B at 1088x1920 \(1080p\) does not fit: [\d.]+ GB are needed") as caught:
        advice.check(Wanted(large, BOTH), CARD)
    said = str(caught.value)
    assert "24.0 GB are there; use " in said
    assert ", which needs " in said
    with pytest.raises(ValueError, match=r"nothing near it fits either \(its weights alone are 28\.6 GB\)"):
        advice.check(Wanted(KREA, BOTH), CARD)


def test_the_nearest_run_changes_lanes_before_it_changes_the_picture() -> None:
    wanted = Wanted(SELF_FORCING, (parse("full"), parse("forcing-kv")), chunks=40)
    found = advice.nearest(wanted, CARD)
    assert found is not None
    assert (found.size, policies.spelling(found.lanes[0])) == ((480, 832), "full:frames=21")
    assert advice.nearest(wanted, H200) == wanted


def test_relief_needs_clearly_less_and_says_how_much() -> None:
    said = advice.relief(Wanted(SELF_FORCING, BOTH), CARD)
    assert said.startswith("Try ")
    assert said.endswith(" in all.")
    assert advice.relief(Wanted(KREA, BOTH[:1]), CARD) == (
        "Nothing near it needs much less; close other programs on the device, or use a smaller model."
    )


def test_what_a_speed_means_is_told_in_words() -> None:
    assert planner.pace(SELF_FORCING, 29) == "real time (16 frames per second) is possible"
    assert planner.pace(SELF_FORCING, 5).startswith("slower than real time")
    assert planner.pace(SELF_FORCING, 0.2).startswith("less than a frame per second")


def test_the_lane_of_a_model_trained_with_a_sink_is_made_lighter_too() -> None:
    lanes = advice.lighter(Wanted(LONGLIVE, (parse("full"), parse("forcing-kv"))))
    assert [policies.spelling(policy) for policy in lanes[0]] == ["window", "forcing-kv"]
    rolling = advice.lighter(Wanted(ROLLING_FORCING, (parse("full:21"), parse("window:6:3"))))
    assert [[policies.spelling(policy) for policy in lanes] for lanes in rolling] == [
        ["full:frames=21", "window:recent=3"],
        ["window", "window:recent=3"],
        ["window:recent=3"],
    ]


ordered = sorted(SIZES.values(), key=math.prod)
bounded = st.sampled_from([lane for lane in LANES if lane != "full"])


@settings(max_examples=12, deadline=None)
@given(lane=bounded, small=st.integers(0, len(ordered) - 1), large=st.integers(0, len(ordered) - 1), chunks=st.integers(0, 40))
def test_a_larger_picture_never_needs_less(lane: str, small: int, large: int, chunks: int) -> None:
    sizes = sorted((small, large))
    totals = [planner.plan(Wanted(planner.resized(SELF_FORCING, ordered[size]), (parse(lane),), chunks)).total for size in sizes]
    assert totals[0] <= totals[1]


@settings(max_examples=12, deadline=None)
@given(lane=st.sampled_from(LANES), chunks=st.integers(1, 60), longer=st.integers(0, 60))
def test_a_longer_video_never_needs_less(lane: str, chunks: int, longer: int) -> None:
    totals = [planner.plan(Wanted(SELF_FORCING, (parse(lane),), length)).total for length in (chunks, chunks + longer)]
    assert totals[0] <= totals[1]


@settings(max_examples=12, deadline=None)
@given(
    lanes=st.lists(st.sampled_from(LANES), min_size=1, max_size=2),
    size=st.sampled_from(ordered),
    memory=st.integers(1, 160),
    spec=st.sampled_from(MODELS),
    chunks=st.integers(1, 120),
)
def test_a_proposal_always_fits_and_is_the_wanted_run_where_that_fits(
    lanes: list[str], size: tuple[int, int], memory: int, spec: ModelSpec, chunks: int
) -> None:
    spec = spec if spec.net.places else planner.resized(spec, size)
    wanted = Wanted(spec, tuple(parse(lane) for lane in lanes), chunks)
    found = advice.nearest(wanted, memory * 10**9)
    fits = planner.plan(wanted).total <= memory * 10**9
    assert (found == wanted) == fits
    if found is not None:
        assert planner.plan(found).total <= memory * 10**9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: compares the plan with the memory a run takes")
def test_a_run_takes_no_more_memory_than_planned() -> None:
    loaded = engine.load("self-forcing", "cuda", random_weights=True)
    prompt = loaded.text.encode(loaded.text.examples[0]).embedding.to(loaded.device)
    noise = seeded_noise(0, loaded.spec, 1, loaded.device, loaded.dtype)
    stream, decoder = stream_class(loaded.spec)(loaded.model, loaded.spec, prompt, parse("full:21"), noise), loaded.codec.decoder()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(9):
        decoder.decode(stream.step().latents)
    taken = torch.cuda.max_memory_allocated()
    planned = planner.plan(Wanted(loaded.spec, (parse("full:21"),)))
    assert planned.weights_bytes + planned.lanes[0].cache_bytes < taken < planned.total
