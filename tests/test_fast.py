"""The fast path gives what the readable path gives, from the same weights, with less work.

Tolerance 1e-5 in float32 on values of RMS about 1: the same sums in another order move them by up to 2e-6.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fkv.cache import KVCache
from fkv.fast import SlotCache, prepare
from fkv.fast.model import FastWan, Pass
from fkv.policies import parse
from fkv.probe import FrameProbe
from fkv.spec import ModelSpec, Schedule, WanConfig
from fkv.stream import Stream, seeded_noise
from tests.test_policies import POLICIES
from tests.tiny import kept_bytes, tiny_model, tiny_policy, tiny_spec, tiny_stream, tiny_text

ATOL = 1e-5
TWO = pytest.mark.parametrize("text", ["full:9", "forcing-kv"])
WAITS = {
    "aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select",
    "aten::lift_fresh",  # numbers made into a tensor, which a device would have to be sent
}  # fmt: skip


def fast_stream(spec: ModelSpec, text: str, *, batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0) -> Stream:
    model = prepare(tiny_model(spec, dtype=dtype))
    return Stream(model, spec, tiny_text(spec, batch), tiny_policy(text, spec.geometry), seeded_noise(seed, spec, batch))


class Operations(TorchDispatchMode):
    """Counts every operation by name, the shapes that are joined, the operations of matrix products, two per multiplication, and how many
    products there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.joined: list[tuple[int, ...]] = []
        self.multiplied = 0

    @property
    def products(self) -> int:
        return self.calls["aten::addmm"] + self.calls["mkldnn::_linear_pointwise"]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            out = func.decompose(*args, **(kwargs or {}))
        if out is not NotImplemented:
            return out
        out, name = func(*args, **(kwargs or {})), func._schema.name
        self.calls[name] += 1
        if name == "aten::cat":
            self.joined.append(tuple(out.shape))
        if name in ("aten::addmm", "aten::mm"):
            self.multiplied += 2 * out.numel() * args[-1].shape[0]
        elif name == "mkldnn::_linear_pointwise":
            self.multiplied += 2 * out.numel() * args[0].shape[-1]
        return out


@POLICIES
def test_every_policy_draws_the_same_frames_on_both_paths_also_across_a_change_of_prompt(text: str) -> None:
    spec = tiny_spec(heads=5, rows=4, columns=3)
    readable, fast = tiny_stream(spec, text, batch=2), fast_stream(spec, text, batch=2)
    for chunk in range(6):
        if chunk == 4:
            for stream in (readable, fast):
                stream.recache(text=tiny_text(spec, 2, seed=1))
        torch.testing.assert_close(fast.step().latents, readable.step().latents, atol=ATOL, rtol=0)
        assert fast.cache.nbytes == readable.cache.nbytes == kept_bytes(fast.cache, chunk, 4 if chunk >= 4 else 0)
        assert fast.cache.read_bytes == readable.cache.read_bytes
        for ours, theirs in zip(fast.cache.layers, readable.cache.layers):
            assert [(a.name, a.members, a.runs, a.pos.tolist()) for a in ours] == [
                (b.name, b.members, b.runs, b.pos.tolist()) for b in theirs
            ]


def test_what_is_learned_of_places_and_frames_is_the_same_on_both_paths() -> None:
    spec = tiny_spec(period=4)
    readable, fast = tiny_stream(spec, "forcing-kv"), fast_stream(spec, "forcing-kv")
    for _ in range(6):
        torch.testing.assert_close(fast.step().latents, readable.step().latents, atol=ATOL, rtol=0)


@TWO
def test_bfloat16_on_the_fast_path_stays_as_near_to_float32_as_on_the_readable_one(text: str) -> None:
    spec = tiny_spec(steps=1)
    exact, rough = tiny_stream(spec, text), fast_stream(spec, text, dtype=torch.bfloat16)
    for _ in range(4):
        torch.testing.assert_close(rough.step().latents, exact.step().latents, atol=0.1, rtol=0, check_dtype=False)


def test_a_change_of_policy_is_the_same_on_both_paths() -> None:
    spec = tiny_spec(steps=1)
    readable, fast = tiny_stream(spec, "full:6"), fast_stream(spec, "full:6")
    for chunk in range(8):
        if chunk in (3, 6):
            policy = tiny_policy("forcing-kv:sink=2" if chunk == 3 else "window:sink=1,recent=5", spec.geometry)
            for stream in (readable, fast):
                stream.recache(policy=policy)
        torch.testing.assert_close(fast.step().latents, readable.step().latents, atol=ATOL, rtol=0)


@TWO
def test_a_probe_sees_the_same_attention_and_changes_nothing_on_the_fast_path(text: str) -> None:
    spec = tiny_spec()
    watched, plain, readable = fast_stream(spec, text), fast_stream(spec, text), tiny_stream(spec, text)
    seen, known = (FrameProbe(spec.geometry, queries=None) for _ in range(2))
    for _ in range(4):
        seen.clear()
        known.clear()
        assert watched.step(seen).latents.equal(plain.step().latents)
        readable.step(known)
    for layer in range(spec.geometry.layers):
        assert seen.map(layer).frames.equal(known.map(layer).frames)
        torch.testing.assert_close(seen.map(layer).mass, known.map(layer).mass, atol=ATOL, rtol=0, equal_nan=True)


def test_two_lanes_on_one_fast_model_do_not_touch_each_other() -> None:
    spec = tiny_spec()
    model = prepare(tiny_model(spec))

    def stream(text: str) -> Stream:
        return Stream(model, spec, tiny_text(spec), tiny_policy(text, spec.geometry), seeded_noise(0, spec))

    alone = [torch.cat([one.step().latents for _ in range(5)], dim=1) for one in (stream("full:9"), stream("forcing-kv"))]
    pair = [stream("full:9"), stream("forcing-kv")]
    turns = [[one.step().latents for one in pair] for _ in range(5)]
    for number in (0, 1):
        assert torch.cat([turn[number] for turn in turns], dim=1).equal(alone[number])


def test_a_timestep_per_frame_and_a_plain_cache_give_what_the_readable_path_gives() -> None:
    spec = tiny_spec()
    readable, fast = tiny_model(spec), prepare(tiny_model(spec))
    x, text = seeded_noise(0, spec)(0)[0], tiny_text(spec)
    for t in (torch.tensor([[900.0, 500.0, 0.0]]), (900.0, 500.0, 0.0), 750.0):
        caches = [KVCache(parse("full"), spec.geometry) for _ in range(2)]
        with torch.inference_mode():
            ours, theirs = (model(x, t, model.read_text(text), cache, 0) for model, cache in zip((fast, readable), caches))
        torch.testing.assert_close(ours, theirs, atol=ATOL, rtol=0)


def test_no_weight_is_held_twice_and_the_names_stay() -> None:
    spec = tiny_spec()
    model = tiny_model(spec)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = prepare(model)
    after = fast.state_dict()
    assert list(after) == list(before)
    assert all(after[name].equal(tensor) for name, tensor in before.items())
    attn = next(fast.layers()).self_attn
    assert attn.q.weight.untyped_storage().data_ptr() == fast.parts[0].qkv.weight.untyped_storage().data_ptr()
    assert fast.patch_embedding is model.patch_embedding


def test_a_clean_pass_ends_with_the_last_keys_and_a_noisy_pass_joins_nothing() -> None:
    spec = tiny_spec(layers=4, steps=1, text_len=16)
    stream = fast_stream(spec, "full:9")
    for _ in range(5):
        stream.step()
    with Operations() as clean:
        stream.commit()
    with Operations() as noisy:
        stream.step()
    attention = [name for name in noisy.calls if "scaled_dot_product" in name]
    assert sum(noisy.calls[name] for name in attention) == 2 * 4
    assert sum(clean.calls[name] for name in attention) == 2 * 3
    assert noisy.products == 1 + 6 * 4 + 1, "into tokens, layers, out of them: what a timestep gives is not computed again"
    assert clean.products == 1 + 6 * 3 + 1, "into tokens, three whole layers, keys and values of the last"
    assert all(len(shape) != 4 for shape in noisy.joined), "keys and values are never joined"


@pytest.mark.parametrize("text", ["full:9", "window:6:1", "forcing-kv", "painted:sink=1,static=1,dynamic=1+4"])
def test_no_operation_of_a_step_waits_for_the_device(text: str) -> None:
    spec = tiny_spec()
    stream = fast_stream(spec, text)
    for _ in range(4):
        stream.step()
    with Operations() as seen:
        for _ in range(2):
            stream.step()
    assert not WAITS & set(seen.calls)


def test_a_commit_leaves_what_was_read_before_as_it_was_unless_slots_are_fixed() -> None:
    spec = tiny_spec(steps=1)
    for fixed in (False, True):
        stream = fast_stream(spec, "full:9")
        assert isinstance(stream.cache, SlotCache)
        stream.cache.fixed = fixed
        for _ in range(5):
            stream.step()
        (group,) = stream.cache.layers[0]
        before, place = group.k.clone(), stream.cache.slots[0][0].both.data_ptr()
        stream.step()
        assert group.k.equal(before) != fixed
        assert (stream.cache.slots[0][0].both.data_ptr() == place) == fixed


@TWO
def test_a_clean_pass_whose_network_fails_halfway_changes_nothing_that_is_kept(text: str) -> None:
    stream, plain = fast_stream(tiny_spec(), text), fast_stream(tiny_spec(), text)
    for _ in range(4):
        stream.step()
        plain.step()
    model, kept = stream.model, [group.k.clone() for groups in stream.cache.layers for group in groups]
    assert isinstance(model, FastWan)
    pending, mixed = stream._pending, model._mixed

    def failing(this: Pass, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        if layer == 1:
            raise MemoryError("no memory is left")
        return mixed(this, layer, qkv)

    model._mixed = failing
    with pytest.raises(MemoryError, match="no memory is left"):
        stream.step()
    model._mixed = mixed
    assert not stream.cache.torn
    assert all(group.k.equal(k) for group, k in zip((group for groups in stream.cache.layers for group in groups), kept, strict=True))
    stream._pending = pending
    assert stream.step().latents.equal(plain.step().latents)


@TWO
def test_handing_over_that_fails_halfway_leaves_a_cache_that_refuses_to_be_used(text: str) -> None:
    stream = fast_stream(tiny_spec(), text)
    for _ in range(3):
        stream.step()
    cache, write = stream.cache, stream.cache.write

    def failing(layer: int, k: torch.Tensor, v: torch.Tensor, q: torch.Tensor) -> None:
        if layer == 2:
            raise MemoryError("no memory is left")
        write(layer, k, v, q)

    cache.write = failing
    with pytest.raises(MemoryError, match="no memory is left"):
        stream.step()
    assert cache.torn
    with pytest.raises(RuntimeError, match="only some layers of this cache"):
        stream.step()


def test_the_room_behind_the_kept_tokens_is_allocated_and_not_counted_as_kept() -> None:
    spec = tiny_spec(steps=1)
    stream = fast_stream(spec, "forcing-kv")
    for _ in range(5):
        stream.step()
    frame = 2 * 4 * spec.geometry.tokens * spec.geometry.heads * spec.geometry.head_dim * spec.geometry.layers
    numbers = sum(g.pos.numel() + g.heads.numel() for groups in stream.cache.layers for g in groups) * 8
    assert stream.cache.allocated <= stream.cache.nbytes + spec.chunk * frame + numbers
    assert stream.cache.allocated > stream.cache.nbytes + spec.chunk * frame


def test_what_a_model_remembers_of_times_and_places_does_not_grow() -> None:
    spec = tiny_spec(steps=1)
    stream = fast_stream(spec, "window:sink=1,recent=5")
    for _ in range(12):
        stream.step()
    model = stream.model
    assert isinstance(model, FastWan)
    assert len(model._whens) <= 8
    assert len(model._clocks) == 2


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, ATOL), (torch.bfloat16, 0.06)])
def test_at_the_published_width_both_paths_agree_on_one_set_of_weights(dtype: torch.dtype, atol: float) -> None:
    """bfloat16 has 8 bits, so values near 1 are rounded by up to 0.004 at each of the ten or so steps of a layer."""
    net = WanConfig(layers=2, text_dim=16, text_len=8)
    spec = ModelSpec("wide", "Wide", net, Schedule(steps=(1000, 500)), "", "", latent=(16, 4, 6))
    model, text = tiny_model(spec, dtype=dtype), tiny_text(spec)
    roles = tuple(tuple(range(layer, net.heads, 3)) for layer in range(net.layers))
    policy = parse("forcing-kv").with_roles(roles).fitted(spec.geometry)
    drawn = []
    for path in (model, prepare(model)):
        stream = Stream(path, spec, text, policy, seeded_noise(0, spec, dtype=dtype))
        drawn.append(torch.cat([stream.step().latents for _ in range(4)], dim=1).float())
    torch.testing.assert_close(drawn[1], drawn[0], atol=atol, rtol=0)
