"""What is computed once: everything a network takes from a timestep."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fkv.wan import CausalWan, Time, timesteps


@dataclass(frozen=True)
class Moment:
    """What one layer takes from a timestep, each [D], or from one for every frame, each [f, D]: weight and bias of its two modulated norms,
    and their gates.
    """

    weight: Tensor
    bias: Tensor
    gate: Tensor
    ffn_weight: Tensor
    ffn_bias: Tensor
    ffn_gate: Tensor


@dataclass(frozen=True)
class Clock:
    """All layers' moments at one timestep, and weight and bias of the final norm."""

    layers: tuple[Moment, ...]
    weight: Tensor
    bias: Tensor


def moment(part: Tensor) -> Moment:
    """A layer's moment from its modulation [..., 6, D]: shift, scale, gate, and the same of the feed-forward."""
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (side.contiguous() for side in part.unbind(-2))
    return Moment(1 + scale, shift, gate, 1 + ffn_scale, ffn_shift, ffn_gate)


def clock(model: CausalWan, t: Time) -> Clock:
    """The moments of a timestep in [0, 1000], or of one for every frame."""
    many = t if isinstance(t, tuple) else (t,)
    embedding, time = model.read_time(timesteps(many, len(many), model.head.modulation.device))
    parts = torch.stack([block.modulation for block in model.layers()]) + time
    ends = model.head.modulation + embedding[0][:, None]
    if not isinstance(t, tuple):
        parts, ends = parts.squeeze(1), ends.squeeze(0)
    shift, scale = (side.contiguous() for side in ends.unbind(-2))
    return Clock(tuple(moment(part) for part in parts), 1 + scale, shift)
