"""Products in 8-bit floats: the large projections of every block, weights and activations scaled row by row (torchao's dynamic float8).

Quantised are self-attention's q, k, v and o, cross-attention's q and o (for short prompts q alone: there o is a part of what is made of
each prompt), and the feed-forward. Not quantised: what runs once per prompt or timestep (the text's keys and values, all embeddings), and
the patch embedding and the head, which are small and see the picture itself. What that changes is measured, on the very network, when it is
loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fkv.policies import parse
from fkv.spec import ModelSpec

if TYPE_CHECKING:
    from fkv.fast.model import FastWan

CAPABILITY = (8, 9)
EDGE = 16
Quantise = Callable[[Tensor], Tensor]


def refusal(device: torch.device, dtype: torch.dtype) -> str:
    """Why FP8 cannot be had, in a sentence; empty where it can."""
    wanted, cure = f"FP8 needs a CUDA device of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or higher", "leave --fp8 out"
    if device.type != "cuda":
        return f"{wanted} and the model is on {device}; {cure}"
    found = torch.cuda.get_device_capability(device)
    if found < CAPABILITY:
        return f"{wanted} and {torch.cuda.get_device_name(device)} has {found[0]}.{found[1]}; {cure}"
    if dtype != torch.bfloat16:
        return f"FP8 is made of bfloat16 weights and the model is in {str(dtype).removeprefix('torch.')}; use --dtype bfloat16 or {cure}"
    if importlib.util.find_spec("torchao") is None:
        return f"FP8 needs the package torchao; run `pip install torchao` or {cure}"
    return ""


def by_torchao(weight: Tensor) -> Tensor:
    """A weight [out, in] as a tensor whose products are taken in float8."""
    torchao: Any = import_module("torchao.quantization")
    shell = nn.Sequential(nn.Linear(1, 1, bias=False))
    shell[0].weight = nn.Parameter(weight, requires_grad=False)
    torchao.quantize_(shell, torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow(), set_inductor_config=False))
    return shell[0].weight.data


def quantised(model: FastWan, spec: ModelSpec, quantise: Quantise = by_torchao) -> float:
    """Quantises a model's blocks, one after the other, in place, and gives the error of `spec`'s chunk: root mean square of what its output
    changes by, as a share of its own. Raises ValueError where a weight's sides are no multiples of 16, with nothing changed.
    """
    net = spec.net
    for side in (net.dim, net.ffn):
        if side % EDGE:
            raise ValueError(f"FP8 needs weights whose sides are multiples of {EDGE}, {spec.title} has {side}; leave --fp8 out")
    before = drawn(model, spec)
    for number, (block, layer) in enumerate(zip(model.layers(), model.parts)):
        kept = ("cross_o",) if net.short_text else ()  # merged with each prompt's values, see `fkv.fast.reading`
        layer = layer.changed(lambda product: replace(product, weight=quantise(product.weight), laid=None, epilogue=False), kept)
        attn, cross = block.self_attn, block.cross_attn
        q, k, v = (layer.qkv.weight[side * net.dim : (side + 1) * net.dim] for side in range(3))
        own = [(attn.o, layer.o), (cross.q, layer.cross_q), (cross.o, layer.cross_o), (block.ffn[0], layer.up), (block.ffn[2], layer.down)]
        for linear, weight in ((attn.q, q), (attn.k, k), (attn.v, v), *((linear, product.weight) for linear, product in own)):
            assert isinstance(linear, nn.Linear)
            linear.weight = nn.Parameter(weight, requires_grad=False)
        model.parts = (*model.parts[:number], layer, *model.parts[number + 1 :])
    change = drawn(model, spec) - before
    return float(change.square().mean().sqrt() / before.square().mean().sqrt())


@torch.inference_mode()
def drawn(model: FastWan, spec: ModelSpec) -> Tensor:
    """What a model makes of a seeded chunk of noise and a seeded text, float32 [1, f, c, rows, columns]."""
    place = model.head.modulation.device
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, spec.chunk, *spec.latent, generator=generator).to(place, model.dtype)
    text = model.read_text(torch.randn(1, spec.net.text_len, spec.net.text_dim, generator=generator).to(place))
    cache = model.new_cache(parse("full"), spec.geometry)
    return model(x, spec.schedule.timesteps()[0], text, cache, 0).float()
