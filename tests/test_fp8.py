"""Products in 8-bit floats: which layers they reach, that the error told is the network's, and that refusing is said in a sentence.

torchao's float8 runs on no CPU. Weights rounded to float8 by rows stand in for it; a GPU test runs the real one.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fkv import bench, engine, machine
from fkv.__main__ import main
from fkv.cache import KVCache
from fkv.events import Settings
from fkv.fast import fp8, prepare
from fkv.policies import parse
from fkv.spec import POCKET, ModelSpec, WanConfig, find
from fkv.stream import Stream, seeded_noise
from fkv.views import messages, report
from tests.tiny import tiny_model, tiny_policy, tiny_spec, tiny_text

REACHED = {
    f"{name}.weight"
    for name in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "cross_attn.q", "cross_attn.o", "ffn.0", "ffn.2")
}
NET = WanConfig(dim=32, heads=2, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SMALL = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None)


def rounded(weight: Tensor) -> Tensor:
    """A weight [out, in] as float8 by rows holds it."""
    scale = weight.abs().amax(dim=1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    return (weight / scale).to(torch.float8_e4m3fn).to(weight.dtype) * scale


def wide() -> ModelSpec:
    return tiny_spec(heads=2, head_dim=8)


def readable(spec: ModelSpec) -> nn.Module:
    """The network in its readable form, with the weights that FP8 reaches rounded."""
    model = tiny_model(spec)
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and name.split(".", 2)[2] in REACHED:
            parameter.data = rounded(parameter.data)
    return model


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device has FP8, and weights are rounded where torchao would quantise them."""
    monkeypatch.setattr(fp8, "refusal", lambda device, dtype: "")
    monkeypatch.setattr(engine, "refusal", lambda device, dtype: "")
    monkeypatch.setattr(engine, "by_torchao", rounded)


def test_the_large_projections_of_every_block_are_quantised_and_nothing_else() -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model(wide()).named_parameters()}
    fast = prepare(tiny_model(wide()), wide(), quantise=rounded)
    changed = {name for name, tensor in fast.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {f"blocks.{layer}.{name}" for layer in range(wide().net.layers) for name in REACHED}
    for block, layer in zip(fast.layers(), fast.parts):
        attn = block.self_attn
        assert torch.equal(layer.qkv.weight, torch.cat([attn.q.weight, attn.k.weight, attn.v.weight]))
        assert attn.k.weight.untyped_storage().data_ptr() == layer.qkv.weight.untyped_storage().data_ptr()
        assert all(product.laid is None for product in layer.products().values()), "the weights before would still be used"


def test_the_error_told_is_what_the_networks_output_changes_by() -> None:
    spec = wide()
    fast = prepare(tiny_model(spec), spec, quantise=rounded)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, spec.chunk, *spec.latent, generator=generator)
    text = torch.randn(1, spec.net.text_len, spec.net.text_dim, generator=generator)
    outs = []
    for model in (tiny_model(spec), readable(spec)):
        with torch.inference_mode():
            cache = KVCache(parse("full"), spec.geometry)
            outs.append(model(x, spec.schedule.timesteps()[0], model.read_text(text), cache, 0))  # type: ignore[operator]
    change = (outs[1] - outs[0]).square().mean().sqrt() / outs[0].square().mean().sqrt()
    assert fast.fp8_error == pytest.approx(float(change), rel=1e-3)
    assert 1e-4 < float(change) < 0.5


@pytest.mark.parametrize("text", ["full:9", "forcing-kv"])
def test_a_quantised_rollout_is_that_of_the_readable_network_with_such_weights(text: str) -> None:
    spec = wide()
    fast = prepare(tiny_model(spec), spec, quantise=rounded)
    streams = [
        Stream(model, spec, tiny_text(spec), tiny_policy(text, spec.geometry), seeded_noise(0, spec))  # type: ignore[arg-type]
        for model in (fast, readable(spec))
    ]
    for _ in range(5):
        one, two = (stream.step().latents for stream in streams)
        torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_left_out_it_measures_nothing_and_replaces_no_weight() -> None:
    model = tiny_model(wide())
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    fast = prepare(model, wide())
    assert fast.fp8_error is None
    assert {name: id(parameter) for name, parameter in fast.named_parameters()} == before
    loaded = engine.load(SMALL, "cpu", random_weights=True)
    assert engine.model_facts(loaded).fp8_error is None
    assert "Products" not in dict(messages.chips(engine.model_facts(loaded)))


def test_weights_that_float8_cannot_multiply_are_refused_with_nothing_changed() -> None:
    spec = tiny_spec(heads=3, head_dim=8)
    model = tiny_model(spec)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    with pytest.raises(ValueError, match="multiples of 16, Tiny has 24; leave --fp8 out"):
        prepare(model, spec, quantise=rounded)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())


def test_a_device_a_precision_or_a_package_that_will_not_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    card = torch.device("cuda")
    assert "of compute capability 8.9 or higher and the model is on cpu; leave --fp8 out" in fp8.refusal(
        torch.device("cpu"), torch.bfloat16
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A10G")
    assert fp8.refusal(card, torch.bfloat16).endswith("8.9 or higher and A10G has 8.6; leave --fp8 out")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert "the model is in float32; use --dtype bfloat16 or leave --fp8 out" in fp8.refusal(card, torch.float32)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert fp8.refusal(card, torch.bfloat16) == "FP8 needs the package torchao; run `pip install torchao` or leave --fp8 out"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert fp8.refusal(card, torch.bfloat16) == ""


@pytest.mark.parametrize("command", ["generate --out {}/x.mp4", "bench"])
def test_asked_for_where_it_cannot_be_had_it_costs_one_line(command: str, tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.format(tmp_path).split(), "--chunks", "2", "--device", "cpu", "--fp8"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_error_is_told_with_every_benchmark_and_on_the_page(stand_in: None) -> None:
    loaded = engine.load(SMALL, "cpu", random_weights=True, fp8=True)
    error = loaded.model.fp8_error
    assert error is not None
    found = bench.run(loaded, ["full:6"], Settings(prompt="a red ball bouncing over green hills", chunks=5))
    assert found["model"]["fp8_error"] == error > 0
    assert f"float32 with products in FP8 (relative error {100 * error:.1f} %)" in report.table(found)
    assert dict(messages.chips(engine.model_facts(loaded)))["Products"] == f"FP8, changing a pass by {100 * error:.1f} %"
    assert "torchao" in machine.environment(loaded)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_torchao_quantises_the_layers_meant_and_the_error_is_small() -> None:
    pytest.importorskip("torchao", reason="torchao, which makes float8 products, is not installed")
    device = torch.device("cuda")
    if reason := fp8.refusal(device, torch.bfloat16):
        pytest.skip(reason)
    spec = replace(find("self-forcing"), net=replace(WanConfig(), dim=256, heads=2, layers=4, ffn=1024), latent=(16, 16, 16), heads=None)
    loaded = engine.load(spec, "cuda", random_weights=True, fp8=True)
    assert loaded.model.fp8_error is not None
    assert 0 < loaded.model.fp8_error < 0.2
    kinds = {name for name, parameter in loaded.model.named_parameters() if type(parameter.data) is not Tensor}
    assert kinds == {f"blocks.{layer}.{name}" for layer in range(4) for name in REACHED}
    stream = Stream(loaded.model, spec, torch.randn(1, 512, 4096, device=device), parse("full:9"), seeded_noise(0, spec, 1, device))
    assert stream.step().latents.isfinite().all()
