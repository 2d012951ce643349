"""How fast a device could be: what a chunk takes in operations and bytes, and what the device gives of both, measured on the spot.

Operations are those of matrix products and attention, two per multiplication and addition. Bytes are those that no engine can avoid: the
weights once a pass, kept keys and values, and one fused reading and writing wherever a block must norm, rotate, gate or add.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fkv import meter
from fkv.cache import Policy
from fkv.spec import ModelSpec

FUSED = 19  # activations of model width a block reads and writes with everything fused: 2 + 4 + 4 + 2 + 4 + 3, from norm to last sum
PROBED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}


@dataclass(frozen=True)
class Work:
    """What one chunk takes: operations of projections, self-attention and cross-attention, and bytes."""

    projections: float
    self_attention: float
    cross_attention: float
    bytes: float

    @property
    def operations(self) -> float:
        return self.projections + self.self_attention + self.cross_attention


@dataclass(frozen=True)
class Rates:
    """What a device does: operations per second of a large matrix product, bytes per second of a large copy, read and written; and
    operations per second where a model takes its projections in another format, 0 where it does not.
    """

    operations: float
    bytes: float
    projections: float = 0.0


def work(spec: ModelSpec, policy: Policy, committed: int, itemsize: int, recached: int = 0) -> Work:
    """The work of the chunk that begins with `committed` chunks in the cache: its noisy passes, and a clean pass, which ends with the keys
    and values of the last layer.
    """
    net, geometry = spec.net, spec.geometry
    length, d, noisy = geometry.chunk * geometry.tokens, net.dim, len(spec.schedule.steps)
    own = length * geometry.heads
    kept = [sum(h * s for h, s in policy.expected(layer, committed, geometry, recached)) for layer in range(net.layers)]
    last, passes = kept[-1], noisy + 1
    rows = passes * net.layers - 1  # layers run whole, over all passes
    patch = net.channels * net.patch[0] * net.patch[1] * net.patch[2]
    block = length * d * (2 * (5 if net.short_text else 6) * d + 4 * net.ffn)
    text = 2 * length * net.text_len * d * (1 + (net.heads if net.short_text else 1))  # scores, and values, of all heads where short
    projections = rows * block + 6 * length * d * d + (passes + noisy) * 2 * length * d * patch
    reads = passes * sum(tokens + own for tokens in kept) - (last + own)
    last_product = net.heads * net.text_len if net.short_text else d
    weights = net.layers * d * (5 * d + last_product + 2 * net.ffn)
    moved = itemsize * (passes * weights + 2 * reads * geometry.head_dim + (rows * FUSED + 6) * length * d)
    return Work(
        projections=projections,
        self_attention=4 * length * geometry.head_dim * reads,
        cross_attention=rows * text,
        bytes=moved,
    )


def bandwidth(device: torch.device) -> float:
    """Bytes per second that a large copy reads and writes, the best of five."""
    size = PROBED_BYTES[device.type] // 4
    source, target = torch.rand(size, device=device), torch.empty(size, device=device)
    watch = meter.Stopwatch(device)
    for _ in range(6):
        target.copy_(source)
        watch.mark("noisy")
    return 2 * 4 * size / (min(watch.laps["noisy"][1:]) / 1000)


def compute_ms(work: Work, rates: Rates) -> float:
    """The shortest time for the operations of a piece of work, each at the device's best rate for its format."""
    attention = work.self_attention + work.cross_attention
    return 1000 * (work.projections / (rates.projections or rates.operations) + attention / rates.operations)


def least_ms(work: Work, rates: Rates) -> float:
    """The shortest time for a piece of work: operations at the device's best rate, then bytes at its best."""
    return compute_ms(work, rates) + 1000 * work.bytes / rates.bytes
