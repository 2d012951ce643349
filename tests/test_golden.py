"""The engine against numbers made by running the published code (see golden/README.md). A missing file fails and is named.

FKV_GOLDEN names another directory of vectors in the same format; every size comes from the files' metadata.
Tolerance 1e-4 in float32 on values of RMS about 1: an explicit float64 softmax moves them by up to 3.3e-6, another kernel by as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fkv import rope
from fkv.cache import Commit, HeadGroup, KVCache, Policy
from fkv.fast import prepare
from fkv.heads import HeadProfile, head_scores
from fkv.policies.forcing_kv import ForcingKV
from fkv.policies.full import Full
from fkv.policies.window import Window
from fkv.probe import FrameProbe, framewise
from fkv.spec import Geometry, Schedule, WanConfig
from fkv.stream import cleaned, noised
from fkv.wan import Block, CausalWan
from tests.vectors import GOLDEN, Rollout, network, published, read, same

FORCING_KV = (
    "G4a_forcingkv_selfforcing",
    "G4b_forcingkv_longlive",
    "G4c_forcingkv_ctx2",
    "G4d_forcingkv_nodynamic",
    "G4e_forcingkv_prompt_switch",
)
ROLLING = ("G3_selfforcing_rolling", "G3_selfforcing_rolling_nosink")
TWO_ULPS_AT_1000 = 2**-13  # the table was rounded to float32 once as sigma and once more as timestep
INTERMEDIATES = {
    "mid_patch_embedding": "patch_embedding",
    "mid_text_embedding": "text_embedding",
    "mid_time_embedding": "time_embedding",
    "mid_time_projection": "time_projection",
    "mid_block0_selfattn": "blocks.0.self_attn.o",
    "mid_block0_crossattn": "blocks.0.cross_attn.o",
    "mid_head": "head",
}
SWITCH = ("G8_longlive_switch_globalsink", "G8_longlive_switch_resetsink")
Arrange = Callable[[CausalWan], CausalWan]
PATHS = pytest.mark.parametrize("arrange", [pytest.param(lambda model: model, id="readable"), pytest.param(prepare, id="fast")])


def test_one_chunk_without_history_equals_g1_with_every_intermediate() -> None:
    data, meta = read("G1_forward")
    model = network(meta)
    (height, width), (_, down, across) = meta["latent_hw"], model.config.patch
    geometry = Geometry(model.config.layers, model.config.heads, model.config.head_dim, height // down, width // across, data["x"].shape[1])
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, out: seen.__setitem__(name, out)

    def keep_input(name: str) -> Any:
        return lambda module, args: seen.__setitem__(name, args[0])

    for name, module in INTERMEDIATES.items():
        model.get_submodule(module).register_forward_hook(keep(name))
    model.head.register_forward_pre_hook(keep_input(f"mid_block{model.config.layers - 1}_out"))
    for block in range(model.config.layers - 1):
        spy_on_input(model.blocks[block + 1], f"mid_block{block}_out", seen)

    cache = KVCache(Full(), geometry)
    text = model.read_text(data["text"])
    write = cache.write

    def watched(layer: int, k: Tensor, v: Tensor, q: Tensor) -> None:
        seen[f"roped_k_layer{layer}"], seen[f"v_layer{layer}"] = published(k), published(v)
        write(layer, k, v, q)

    cache.write = watched
    with cache.committing(Commit(0, 0, data["x"].shape[1], geometry)):
        flow = model(data["x"], data["t_frames"], text, cache, 0)
    same("flow_frames", flow, data["flow_frames"])
    same("cross_k_layer1", published(text[1][0]), data["cross_k_layer1"])
    for name in (name for name in data if name.startswith(("mid_", "roped_k", "v_layer"))):
        assert name in seen, f"{name} is in the file but was not looked at"
        same(name, seen[name].reshape(data[name].shape), data[name])
    uniform = model(data["x"], data["t_uniform"], text, KVCache(Full(), geometry), 0)
    same("flow_uniform", uniform, data["flow_uniform"])
    for kind, out in (("uniform", uniform), ("frames", flow)):
        sigmas = [Schedule().sigma(float(t)) for t in data[f"t_{kind}"][0]]
        x0 = torch.stack([cleaned(data["x"][0, i], out[0, i], sigma) for i, sigma in enumerate(sigmas)]).unsqueeze(0)
        same(f"x0_{kind}", x0, data[f"x0_{kind}"])


def spy_on_input(block: nn.Module, name: str, seen: dict[str, Tensor]) -> None:
    """Notes what a block is first given; its first act is to modulate it."""
    assert isinstance(block, Block)
    modulated = block.modulated

    def watched(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        seen.setdefault(name, x)
        return modulated(x, shift, scale)

    block.modulated = watched  # pyright: ignore[reportAttributeAccessIssue]


@PATHS
def test_a_full_cache_equals_g2(arrange: Arrange) -> None:
    rollout = Rollout("G2_selfforcing_full_cache", Full(), arrange=arrange)
    rollout.play()
    rollout.check()
    assert rollout.attended == rollout.meta["attended_frames_per_block"]
    (group,) = rollout.stream.cache.layers[1]
    frames = rollout.check_kept(group)
    assert frames == list(range(rollout.blocks * rollout.spec.chunk))
    rollout.check_written(frames)


def window_policy(meta: dict[str, Any]) -> Policy:
    window, sink = meta["local_attn_size"], meta["sink_size"]
    return Window(sink=sink, recent=window - sink, on_switch="keep" if meta.get("global_sink", True) else "renew")


def room_for_a_chunk(frames: list[int], sink: int, chunk: int) -> list[int]:
    """What a published rolling cache of these frames still holds once the next chunk has pushed its own number out."""
    return frames[:sink] + frames[sink + chunk :]


@PATHS
@pytest.mark.parametrize("name", ROLLING)
def test_a_rolling_window_equals_g3(name: str, arrange: Arrange) -> None:
    _, meta = read(name)
    rollout = Rollout(name, window_policy(meta), arrange=arrange)
    rollout.play()
    rollout.check()
    assert rollout.attended == meta["attended_frames_per_block"]
    frames = rollout.data["cache_frames"].tolist()
    rollout.check_written(frames)
    assert rollout.check_kept(rollout.stream.cache.layers[1][0]) == room_for_a_chunk(frames, meta["sink_size"], rollout.spec.chunk)


@PATHS
def test_the_last_n_frames_of_full_equal_g3_without_a_sink(arrange: Arrange) -> None:
    _, meta = read("G3_selfforcing_rolling_nosink")
    rollout = Rollout("G3_selfforcing_rolling_nosink", Full(frames=meta["local_attn_size"]), arrange=arrange)
    rollout.play()
    rollout.check()


@PATHS
@pytest.mark.parametrize("name", SWITCH)
def test_a_prompt_switch_with_a_window_equals_g8(name: str, arrange: Arrange) -> None:
    data, meta = read(name)
    rollout = Rollout(name, window_policy(meta), arrange=arrange)
    rollout.play()
    rollout.check()
    (flow,) = [tensor for phase, tensor in rollout.trace if phase == "recache"]
    replayed = flow.shape[1]
    start = meta["recache_start_frame"]
    assert replayed == meta["recache_frames"] - (meta["sink_size"] if meta["global_sink"] and start else 0)
    same("recache_flow of the frames whose keys are kept", flow, data["recache_flow"][:, -replayed:])
    same("recache_x", data["latents"][:, start : start + meta["recache_frames"]], data["recache_x"])
    total = rollout.blocks * rollout.spec.chunk
    sink = list(range(meta["sink_size"])) if meta["global_sink"] else list(range(start, start + meta["sink_size"]))
    frames = sink + list(range(total - meta["local_attn_size"] + meta["sink_size"], total))
    rollout.check_written(frames)
    assert rollout.check_kept(rollout.stream.cache.layers[1][0]) == room_for_a_chunk(frames, meta["sink_size"], rollout.spec.chunk)


def forcing_policy(meta: dict[str, Any]) -> ForcingKV:
    own = meta["forcingkv"]
    layers = sorted(meta["profile"], key=lambda layer: layer["layer_idx"])
    return ForcingKV(
        sink=meta["sink_size"], static_recent=own["spatial_context_length"], dynamic_recent=own["temporal_context_length"],
        dynamic=own["dynamic_context_length"] if own["dynamic_temporal_enabled"] else 0, segments=own["num_frame_patch"],
        ratio=own["sim_retention_ratio"], start_chunk=own["ar_start"], roles=tuple(tuple(layer["static_head"]) for layer in layers),
    )  # fmt: skip


@PATHS
@pytest.mark.parametrize("name", FORCING_KV)
def test_forcing_kv_equals_g4(name: str, arrange: Arrange) -> None:
    data, meta = read(name)
    rollout = Rollout(name, forcing_policy(meta), arrange=arrange)
    calls: list[list[list[int]]] = []

    def before(block: int) -> None:
        chunk = rollout.spec.chunk * rollout.spec.geometry.tokens
        groups = [layer or [None] for layer in rollout.stream.cache.layers]
        calls.append([[len(g.members), g.tokens + chunk] if g else [rollout.spec.net.heads, chunk] for layer in groups for g in layer])

    def watch(block: int) -> None:
        last = rollout.stream.cache.last
        assert last is not None
        none = data["selected_segments"][block].eq(-1).all()
        assert none == ("segments" not in last.shared), f"block {block}: whether anything is selected"
        if not none:
            for layer, roles in enumerate(rollout.stream.policy.roles or ()):
                if layer and len(roles) < rollout.spec.net.heads:
                    selected = last.shared["segments"][layer].tolist()
                    assert selected == data["selected_segments"][block].tolist(), f"block {block}, layer {layer}"
            same(f"segment_scores of block {block}", last.shared["scores"][1], data["segment_scores"][block])

    rollout.play(watch, before)
    assert calls == meta["heads_keytokens_per_call_first_step"]
    rollout.check()
    check_group_caches(rollout)
    if "recache_flow" in data:
        (flow,) = [tensor for phase, tensor in rollout.trace if phase == "recache"]
        same("recache_flow", flow, data["recache_flow"])
        start = meta["recache_start_frame"]
        same("recache_x", data["latents"][:, start : start + meta["recache_frames"]], data["recache_x"])


def check_group_caches(rollout: Rollout) -> None:
    data, layers = rollout.data, rollout.stream.cache.layers
    static, dynamic = layers[1]
    runs = {
        "layer0_sink": (layers[0][0], "sink"), "layer0_local": (layers[0][0], "recent"),
        "layer1_group_sink_spatial": (static, "sink"), "layer1_group_spatial": (static, "recent"),
        "layer1_group_sink_temporal": (dynamic, "sink"), "layer1_group_temporal": (dynamic, "recent"),
        "layer1_group_dynamic_temporal": (dynamic, "dynamic"),
    }  # fmt: skip
    enabled = rollout.meta["forcingkv"]["dynamic_temporal_enabled"]
    for name in (name for name in data if name.startswith("final_")):
        group, run = runs[name.removeprefix("final_")[:-2]]
        if run == "dynamic" and not enabled:
            assert group.span(run)[0] == group.span(run)[1]
            continue
        a, b = group.span(run)
        same(name, published((group.k if name.endswith("_k") else group.v)[:, :, a:b]), data[name])


def test_forcing_kv_reads_the_bundled_profile_as_the_files_do() -> None:
    path = GOLDEN / "head_profile.json"
    if not path.is_file():
        pytest.fail(f"golden file {path} is missing")
    _, meta = read(FORCING_KV[0])
    assert HeadProfile.from_json(path.read_text()).roles() == forcing_policy(meta).roles


class Repeat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x] * 6, dim=-1)


def test_schedule_rotary_and_time_embeddings_equal_g6() -> None:
    data, meta = read("G6_scheduler_rope")
    for shift in (5, 8):
        schedule = Schedule(steps=(1000, 750, 500, 250), shift=shift)
        same(f"sigmas_shift{shift}", torch.tensor(schedule.table()), data[f"sigmas_shift{shift}"], 1e-6)
        same(f"timesteps_shift{shift}", 1000 * torch.tensor(schedule.table()), data[f"timesteps_shift{shift}"], TWO_ULPS_AT_1000)
        same(f"warped_4step_shift{shift}", torch.tensor(schedule.timesteps()), data[f"warped_4step_shift{shift}"])
        rolling = replace(schedule, steps=(1000, 800, 600, 400, 200))
        same(f"warped_rolling5_shift{shift}", torch.tensor(rolling.timesteps()), data[f"warped_rolling5_shift{shift}"])
    sigmas = [Schedule().sigma(float(t)) for t in data["addnoise_t"]]
    x0, noise = data["addnoise_x0"], data["addnoise_noise"]
    same("addnoise", torch.stack([noised(a, b, s) for a, b, s in zip(x0, noise, sigmas)]), data["addnoise_out"])
    same("flow2x0", torch.stack([cleaned(b, a, s) for a, b, s in zip(x0, noise, sigmas)]), data["flow2x0_out"])
    krea = [Schedule().sigma(t) for t in (1000, 937, 833, 0)]
    same("flow2x0 at unwarped steps", torch.stack([cleaned(b, a, s) for a, b, s in zip(x0, noise, krea)]), data["flow2x0_out_krea_t"])
    frames, rows, columns = meta["grid"]
    for name in (name for name in data if name.startswith("rope") and "_start" in name):
        size, start = (int(part) for part in name.removeprefix("rope").split("_start"))
        rotation = rope.rotation(rope.grid(start, frames, rows, columns), size)
        same(name, published(rope.rotate(published(data[f"rope{size}_x"]), rotation)), data[name])
    for name in (name for name in data if name.startswith("sinus_") and name != "sinus_t"):
        same(name, sinusoid(data["sinus_t"], data[name].shape[1]), data[name], 1e-6)


def sinusoid(t: Tensor, size: int) -> Tensor:
    """What the network feeds its time embedding: the embedding replaced by the identity."""
    model = CausalWan(WanConfig(dim=8, heads=2, layers=0, ffn=8, freq_dim=size, text_dim=4)).double()
    model.time_embedding, model.time_projection = nn.Sequential(), nn.Sequential(Repeat())
    return model.read_time(t.unsqueeze(0))[0][0]


def test_head_scores_equal_g7() -> None:
    data, meta = read("G7_head_profile")
    maps = data["framewise_attn"].double()
    for skip in (1, 3):
        scores = head_scores(maps, last_k=meta["LAST_K"], skip_first_k=skip)
        same(f"score_skip{skip}", scores, data[f"score_skip{skip}"], 1e-6)
    layers, heads = maps.shape[:2]
    scores = head_scores(maps, last_k=meta["LAST_K"], skip_first_k=meta["SKIP_FIRST_K"])
    profile = HeadProfile.of_scores("golden", scores.tolist()).by_threshold(meta["THRESHOLD"])
    mask = torch.zeros(layers, heads, dtype=torch.long)
    for layer, static in enumerate(profile.roles()):
        mask[layer, list(static)] = 1
    assert mask.equal(data[f"static_mask_skip{meta['SKIP_FIRST_K']}_thr{meta['THRESHOLD']}"])


def test_the_probe_sees_the_attention_of_g7b() -> None:
    data, meta = read("G7b_attention_map")
    model = network(meta)
    (height, width), (_, down, across) = meta["latent_hw"], model.config.patch
    tokens, total = meta["tokens_per_frame"], meta["key_frames"]
    chunk = data["q"].shape[1] // tokens
    geometry = Geometry(model.config.layers, model.config.heads, model.config.head_dim, height // down, width // across, chunk)
    wanted = framewise(data["attn"], tokens)
    q, k = data["q"].transpose(1, 2), data["k"].transpose(1, 2)
    past = (total - chunk) * tokens
    pos = rope.grid(0, total - chunk, geometry.rows, geometry.columns)
    group = HeadGroup(torch.arange(geometry.heads), k[:, :, :past], k[:, :, :past], pos)
    probe = FrameProbe(geometry, queries=None)
    probe.see(meta["layer"], q, k[:, :, past:], [group], total - chunk)
    seen = probe.map(meta["layer"])
    assert seen.frames.tolist() == list(range(total))
    same("frame-wise attention", seen.mass, wanted)
    same("head scores", head_scores(seen.mass.double()), head_scores(wanted.double()))
    one = FrameProbe(geometry, layers=(), head=(meta["layer"], 1))
    one.see(meta["layer"], q, k[:, :, past:], [group], total - chunk)
    assert one.pinned is not None
    same("attention of one head", one.pinned.mass[0], wanted[1])


@PATHS
def test_the_probe_sees_the_same_attention_in_the_rollout_the_map_was_taken_from(arrange: Arrange) -> None:
    data, meta = read("G7b_attention_map")
    rollout = Rollout("G2_selfforcing_full_cache", Full(), arrange=arrange)
    for _ in range(meta["ar_step"]):
        rollout.stream.step()
    probe = FrameProbe(rollout.spec.geometry, layers=(meta["layer"],), queries=None, passes=(meta["denoise_step"],))
    rollout.stream.step(probe)
    same("frame-wise attention", probe.map(meta["layer"]).mass, framewise(data["attn"], meta["tokens_per_frame"]))
