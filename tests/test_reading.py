"""Reading a prompt: a short one's values are projected once, with the same result, and a long one or a batch is read as ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from fkv import engine, planner
from fkv.fast import Text, fp8, prepare
from fkv.fast.model import FastWan
from fkv.policies import parse
from fkv.spec import MODELS, POCKET, WanConfig
from fkv.stream import Stream, seeded_noise
from tests.test_fast import Operations
from tests.tiny import tiny_model, tiny_policy, tiny_spec, tiny_stream, tiny_text


def test_only_the_pocket_models_prompts_are_short() -> None:
    assert [spec.name for spec in MODELS if spec.net.short_text] == [POCKET.name]
    net = WanConfig(dim=24, heads=3, text_len=11)  # 11 * 3 against 11 + 24 multiplications
    assert net.short_text
    assert not WanConfig(dim=24, heads=3, text_len=12).short_text


@pytest.mark.parametrize(("tokens", "batch", "short"), [(5, 1, True), (5, 2, False), (16, 1, False)])
@pytest.mark.parametrize("onednn", [True, False])
def test_frames_are_those_of_the_readable_model_also_after_a_change_of_prompt(tokens: int, batch: int, short: bool, onednn: bool) -> None:
    spec = tiny_spec(text_len=tokens)
    model = prepare(tiny_model(spec), spec) if onednn else FastWan(tiny_model(spec))
    policy = tiny_policy("forcing-kv", spec.geometry)
    stream = Stream(model, spec, tiny_text(spec, batch), policy, seeded_noise(0, spec, batch))
    readable = tiny_stream(spec, "forcing-kv", batch=batch)
    for chunk in range(6):
        if chunk == 3:
            for one in (stream, readable):
                one.recache(text=tiny_text(spec, batch, seed=1))
        torch.testing.assert_close(stream.step().latents, readable.step().latents, atol=1e-5, rtol=0)
    assert isinstance(stream.text, Text)
    assert bool(stream.text.readings) == short


def test_a_short_prompt_costs_a_pass_one_attention_call_and_no_product_more() -> None:
    def counted(tokens: int) -> Operations:
        spec = tiny_spec(layers=4, steps=1, text_len=tokens)
        stream = Stream(FastWan(tiny_model(spec)), spec, tiny_text(spec), tiny_policy("full:9", spec.geometry), seeded_noise(0, spec))
        for _ in range(5):
            stream.step()
        stream.commit()
        with Operations() as seen:
            stream.step()
        return seen

    short, long = counted(5), counted(16)
    calls = [sum(count for name, count in seen.calls.items() if "scaled_dot_product" in name) for seen in (short, long)]
    assert calls == [4, 8]
    assert short.products == long.products
    assert short.calls["aten::bmm"] == 4


def test_several_videos_may_be_drawn_from_one_short_prompt() -> None:
    spec = tiny_spec(text_len=5)
    models = FastWan(tiny_model(spec)), tiny_model(spec)
    x = torch.randn(2, spec.chunk, *spec.latent, generator=torch.Generator().manual_seed(0))
    policy = tiny_policy("full:9", spec.geometry)
    one, other = (model(x, 500.0, model.read_text(tiny_text(spec)), model.new_cache(policy, spec.geometry, 2), 0) for model in models)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    assert not one[0].allclose(one[1], atol=1e-2)


class Eight(torch.Tensor):
    """A weight of another kind: it can be multiplied with and cut into rows, and not be taken apart."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("unflatten", "einsum", "reshape"):
            raise AssertionError("only whole products are supported")
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
        return out.as_subclass(cls) if name in ("__getitem__", "detach", "requires_grad_") else out


def test_in_8_bit_floats_the_product_behind_a_short_prompt_stays_as_it_was() -> None:
    for tokens in (5, 16):
        spec = tiny_spec(text_len=tokens, heads=4)
        spec = replace(spec, net=replace(spec.net, text_len=tokens))
        model = FastWan(tiny_model(spec))
        fp8.quantised(model, spec, lambda weight: weight.as_subclass(Eight))
        kinds = {name: type(product.weight) for name, product in model.parts[0].products().items()}
        assert kinds.pop("cross_o") is (Eight if tokens == 16 else torch.Tensor)
        assert set(kinds.values()) == {Eight}


def test_the_plan_of_a_lane_has_the_bytes_of_a_short_prompt() -> None:
    loaded = engine.load(POCKET, "cpu", random_weights=True)
    text = loaded.model.read_text(loaded.text.encode(loaded.text.examples[0]).embedding)
    assert isinstance(text, Text)
    made = [*(side for sides in text for side in sides), *(side for own in text.readings for side in (own.keys, own.values.weight))]
    planned = planner.plan(planner.Wanted(POCKET, (parse("full:21"),), itemsize=4)).lanes[0].text_bytes
    assert planned == sum(side.numel() * side.element_size() for side in made)
