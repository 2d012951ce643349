"""Reading a short prompt: its values and the projection behind them, both the same for every pass, are one product.

Attention weighs a prompt's values head by head, and what merges heads projects the result; where a prompt has few tokens, it is less work
to weigh projected values. By the associativity of products nothing changes but the order of sums and what is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fkv.fast.products import Layer, Product
from fkv.spec import WanConfig
from fkv.wan import TextKV


@dataclass(frozen=True)
class Reading:
    """What a layer needs of a short prompt of s tokens: keys [h, d, s], scaled, and a product from h * s weights to D."""

    keys: Tensor
    values: Product

    def __call__(self, q: Tensor) -> Tensor:
        """Cross-attention and its projection [b, L, D] for normed queries q [b, L, h, d] to one prompt."""
        scores = torch.matmul(q.transpose(1, 2), self.keys)
        return self.values(scores.transpose(1, 2).softmax(-1).flatten(2))


class Text(list[tuple[Tensor, Tensor]]):
    """A prompt's keys and values of every layer, and where the prompt is short, how each layer reads it."""

    def __init__(self, text: TextKV, readings: Sequence[Reading]) -> None:
        super().__init__(text)
        self.readings = tuple(readings)


def read(text: TextKV, layers: Sequence[Layer], config: WanConfig) -> Text:
    """A prompt, ready to be read by these layers; of a batch of prompts or of long ones keys and values are all there is."""
    short = config.short_text and len(text[0][0]) == 1
    return Text(text, [_reading(k[0], v[0], own.cross_o) for (k, v), own in zip(text, layers)] if short else ())


def _reading(k: Tensor, v: Tensor, after: Product) -> Reading:
    """From keys and values [h, s, d] and the product that merges heads."""
    heads, tokens, size = v.shape
    merging = after.weight.float().unflatten(1, (heads, size))
    weight = torch.einsum("hsd,ohd->ohs", v.float(), merging).reshape(-1, heads * tokens).to(v.dtype)
    keys = (k.float() * size**-0.5).to(k.dtype).transpose(1, 2).contiguous()
    return Reading(keys, replace(after, weight=weight, laid=None if after.laid is None else weight))
