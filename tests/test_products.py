"""Products by oneDNN: the same numbers from the same weights, and torch's own wherever oneDNN's cannot be had.

Tolerance 1e-5 in float32 on values of RMS about 1: the same sums in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fkv.fast import prepare, products
from fkv.fast.model import FastWan
from fkv.fast.products import Product
from fkv.stream import Stream, seeded_noise
from tests.tiny import tiny_model, tiny_policy, tiny_spec, tiny_stream, tiny_text

WITHOUT = products.refusal()
ONEDNN = pytest.mark.skipif(bool(WITHOUT), reason=f"torch has no oneDNN products here: {WITHOUT}")
SPEC = tiny_spec()


def lanes(model: FastWan) -> list[Stream]:
    return [
        Stream(model, SPEC, tiny_text(SPEC), tiny_policy(text, SPEC.geometry), seeded_noise(0, SPEC)) for text in ("full:9", "forcing-kv")
    ]


def same_as_readable(model: FastWan) -> None:
    for fast, text in zip(lanes(model), ("full:9", "forcing-kv")):
        readable = tiny_stream(SPEC, text)
        for _ in range(5):
            torch.testing.assert_close(fast.step().latents, readable.step().latents, atol=1e-5, rtol=0)


def laid(model: FastWan) -> list[tuple[Product, torch.Tensor | None]]:
    return [(product, product.laid) for layer in model.parts for product in layer.products().values()]


@ONEDNN
@pytest.mark.parametrize("gelu", ["", "none", "tanh"])
@pytest.mark.parametrize("rows", [1, 7, 120])
def test_a_product_laid_out_for_other_rows_gives_what_torch_gives(gelu: str, rows: int) -> None:
    drawn = torch.Generator().manual_seed(rows)
    x, weight, bias = (torch.randn(shape, generator=drawn) for shape in ((2, rows, 24), (40, 24), (40,)))
    plain = Product(weight / 24**0.5, bias, gelu)
    with torch.inference_mode():
        torch.testing.assert_close(Product(plain.weight, bias, gelu, products.laid_out(plain.weight, 12))(x), plain(x), atol=1e-5, rtol=0)


@ONEDNN
def test_a_small_model_has_its_weights_laid_out_and_says_so() -> None:
    model = prepare(tiny_model(SPEC), SPEC)
    assert all(own is not None and own.is_mkldnn for _, own in laid(model))
    assert model.backend == "torch SDPA + oneDNN"
    same_as_readable(model)


@ONEDNN
def test_the_weights_of_a_large_model_are_not_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "COPIED_BYTES", 0)
    model = prepare(tiny_model(SPEC), SPEC)
    assert all(own is product.weight for product, own in laid(model))
    same_as_readable(model)


def test_where_onednn_is_refused_the_products_are_torchs_and_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(weight: torch.Tensor, rows: int) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(products, "laid_out", gone)
    model = prepare(tiny_model(SPEC), SPEC)
    assert all(own is None for _, own in laid(model))
    assert "products not by oneDNN: no such operator" in model.backend
    same_as_readable(model)


@ONEDNN
def test_a_product_that_disagrees_is_refused_with_its_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "laid_out", lambda weight, rows: weight * 1.01)
    assert "differ from torch's own by" in products.refusal()


def test_other_dtypes_than_float32_keep_torchs_products() -> None:
    model = prepare(tiny_model(SPEC, dtype=torch.bfloat16), SPEC)
    assert all(own is None for _, own in laid(model))
    assert "oneDNN" not in model.backend


def takes(*milliseconds: float) -> Callable[[Callable[[], object]], float]:
    times = list(milliseconds)
    return lambda work: times.pop(0)


def test_gelu_is_done_by_the_product_before_it_where_that_is_the_same_and_faster() -> None:
    """torch's operator does the exact GELU on a CPU and its approximation on CUDA: here only the exact one agrees."""
    for kind, times, fused in (("erf", (1.0, 2.0), True), ("erf", (2.0, 1.0), False), ("tanh", (1.0, 2.0), False)):
        spec = replace(SPEC, net=replace(SPEC.net, gelu=kind))
        model = FastWan(tiny_model(spec))
        model.parts = products.with_epilogues(model.parts, 7, takes(*times))
        assert [layer.up.epilogue for layer in model.parts] == [fused] * spec.net.layers
        assert not any(product.epilogue for layer in model.parts for name, product in layer.products().items() if name != "up")
        assert (", GELU in its product" in model.backend) == fused
        stream, readable = (
            Stream(network, spec, tiny_text(spec), tiny_policy("forcing-kv", spec.geometry), seeded_noise(0, spec))
            for network in (model, tiny_model(spec))
        )
        for _ in range(4):
            torch.testing.assert_close(stream.step().latents, readable.step().latents, atol=1e-5, rtol=0)


def test_an_operator_that_torch_does_not_have_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(product: Product, x: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(Product, "_with_gelu", missing)
    parts = FastWan(tiny_model(SPEC)).parts
    assert products.with_epilogues(parts, 7, takes()) is parts
