"""Reading a prompt: a short one's values are projected once, with the same result, and a long one or a batch is read as ever."""

from __future__ import annotations

import pytest
import torch

from fkv.fast import Text, prepare
from fkv.fast.model import FastWan
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
