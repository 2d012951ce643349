"""What a run will need before it runs: memory per lane from closed formulas, operations, and what cannot be.

Weights, cached text and KV cache are exact, from the network's sizes and each policy's own formula. While a chunk is committed, one layer
of what a lane keeps is there more than once, and every layer that waits for another's decision: planned at its most. What one pass needs
while it runs, the decoder's pictures and the device's own share are estimates and called so. Sizes are (rows, columns) in pixels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fkv import policies
from fkv.cache import Policy, Roles
from fkv.policies.anchored import as_sampled
from fkv.spec import Geometry, ModelSpec, WanConfig

Size = tuple[int, int]
SIZES: dict[str, Size] = {
    "256p": (256, 448),
    "320p": (320, 576),
    "384p": (384, 672),
    "480p": (480, 832),
    "720p": (720, 1280),
    "1080p": (1088, 1920),
}
SETTLED = 32  # commits within which a cache has its fullest moment, or grows on
LONG = 4200  # latent frames beyond which no bounded policy grows any more


class Endless(ValueError):
    """A cache that keeps more with every chunk of a run without end; `why` is the sentence without its cure."""

    def __init__(self, label: str) -> None:
        self.why = f"{label} keeps more with every chunk and a run without end would need memory without end"
        super().__init__(f"{self.why}; give the run a number of chunks, or use full:21")


@dataclass(frozen=True)
class Drawing:
    """A decoder's memory: its weights, and an estimate per pixel of a frame while one chunk is decoded."""

    weights_bytes: int
    bytes_per_pixel: int


# TAEHV: 12 frames of 64 channels, Wan VAE: 4 frames of 96; both in 2 bytes and a few copies. Pocket: 12 frames of 16 numbers, in 4 bytes.
DECODERS = {"pocket": Drawing(4_000_000, 2304), "taehv": Drawing(23_000_000, 4608), "wan-vae": Drawing(254_000_000, 4608)}


def decoder_bytes(name: str, size: Size, lanes: int = 1) -> int:
    """An estimate of what a decoder needs for the pictures of so many lanes at a time."""
    return DECODERS[name].weights_bytes + lanes * DECODERS[name].bytes_per_pixel * math.prod(size)


@dataclass(frozen=True)
class Wanted:
    """What is to run: one policy per lane, a size, chunks (0: without end), bytes per number, a decoder; whether the large projections are
    in 8-bit floats.
    """

    spec: ModelSpec
    lanes: tuple[Policy, ...]
    chunks: int = 0
    itemsize: int = 2
    decoder: str = ""
    cuda: bool = True
    quantised: bool = False

    @property
    def size(self) -> Size:
        return self.spec.pixels

    @property
    def draws_with(self) -> str:
        return self.decoder or self.spec.codec


@dataclass(frozen=True)
class LanePlan:
    """Bytes of one lane, all exact: kept keys and values at their most, those of the chunk being drawn, cached text."""

    policy: str
    cache_bytes: int
    chunk_bytes: int
    text_bytes: int

    @property
    def total(self) -> int:
        return self.cache_bytes + self.chunk_bytes + self.text_bytes


@dataclass(frozen=True)
class Plan:
    """Bytes of a run. `commit_bytes` is the most that one commit holds besides the lanes' own, once for all lanes, which take turns;
    `pass_bytes`, `decoder_bytes` and `device_bytes` are estimates; the rest is exact."""

    weights_bytes: int
    lanes: tuple[LanePlan, ...]
    commit_bytes: int
    pass_bytes: int
    decoder_bytes: int
    device_bytes: int

    @property
    def exact(self) -> int:
        """Weights, and what the lanes themselves hold."""
        return self.weights_bytes + sum(lane.total for lane in self.lanes)

    @property
    def total(self) -> int:
        working = self.commit_bytes + self.pass_bytes + self.decoder_bytes
        return self.exact + working + self.device_bytes


def parameters(net: WanConfig) -> int:
    """Numbers a network has learned."""
    d, patch = net.dim, net.channels * math.prod(net.patch)
    attention = 4 * (d * d + d) + 2 * d
    block = 6 * d + 2 * attention + 2 * d + (d * net.ffn + net.ffn) + (net.ffn * d + d)
    text, time = net.text_dim * d + d + d * d + d, net.freq_dim * d + d + d * d + d
    return (patch + 1) * d + (net.places + net.period) * d + text + time + 6 * (d * d + d) + net.layers * block + 2 * d + (d + 1) * patch


def weights_bytes(wanted: Wanted) -> int:
    """Bytes of a network's weights; in 8-bit floats, what `fkv.fast.fp8` quantises takes one byte a number, scales not counted."""
    net = wanted.spec.net
    large = net.layers * (6 * net.dim**2 + 2 * net.dim * net.ffn) if wanted.quantised else 0
    return parameters(net) * wanted.itemsize - large * (wanted.itemsize - 1)


def resized(spec: ModelSpec, size: Size) -> ModelSpec:
    """The row at another size. Raises ValueError naming the nearest size where it cannot be."""
    if size == spec.pixels:
        return spec
    if spec.net.places:
        raise ValueError(f"{spec.title} has learned the places of a {name_of(spec.pixels)} picture; {name_of(size)} needs another model")
    steps = (spec.spatial * spec.net.patch[1], spec.spatial * spec.net.patch[2])
    if any(side < step or side % step for side, step in zip(size, steps)):
        near = tuple(max(step, round(side / step) * step) for side, step in zip(size, steps))
        raise ValueError(f"a size of {name_of(size)} does not divide into patches of {steps[0]}x{steps[1]} pixels; use {name_of(near)}")
    return replace(spec, latent=(spec.latent[0], size[0] // spec.spatial, size[1] // spec.spatial))


def size_of(text: str | None) -> Size | None:
    """(rows, columns) of "480p" or "480x832"; None for None. Raises ValueError naming the sizes with a name."""
    if text is None:
        return None
    rows, cross, columns = text.lower().partition("x")
    if cross and rows.isdigit() and columns.isdigit():
        return int(rows), int(columns)
    label = text if text.endswith("p") else f"{text}p"
    if label not in SIZES:
        raise ValueError(f"resolution {text!r} is unknown; use one of: {', '.join(SIZES)}, or rows x columns, for instance 480x832")
    return SIZES[label]


def short_name(size: Sequence[int]) -> str:
    """ "480p", or "448x768" where the size has no name; `size_of` reads both."""
    return next((label for label, known in SIZES.items() if known == tuple(size)), f"{size[0]}x{size[1]}")


def name_of(size: Sequence[int]) -> str:
    """ "480x832 (480p)", or the numbers alone where the size has no name."""
    numbers, label = f"{size[0]}x{size[1]}", short_name(size)
    return numbers if label == numbers else f"{numbers} ({label})"


def sizes(spec: ModelSpec) -> tuple[str, ...]:
    """Short names of the sizes that a model can be taken to, its own first; none where it has learned the places of one size."""
    return () if spec.net.places else tuple(dict.fromkeys(map(short_name, (spec.pixels, *SIZES.values()))))


def fitted(policy: Policy, geometry: Geometry, roles: Roles | None = None) -> Policy:
    """A policy as it runs on a model; where it needs roles and there are none, every head is dynamic, which costs most."""
    if policy.needs_roles and policy.roles is None:
        policy = policy.with_roles(roles or ((),) * geometry.layers)
    policy = policy.fitted(geometry)
    policy.check(geometry)
    return policy


@functools.lru_cache(maxsize=4096)
def kept_tokens(policy: Policy, geometry: Geometry, chunks: int) -> tuple[int, ...]:
    """Tokens times heads that every layer keeps after so many commits."""
    return tuple(sum(heads * tokens for heads, tokens in policy.expected(layer, chunks, geometry)) for layer in range(geometry.layers))


def full_moments(geometry: Geometry, chunks: int) -> set[int]:
    """Numbers of commits after one of which a cache is at its fullest, in a run of `chunks`, 0 for one without end."""
    last = chunks - 1 if chunks else LONG // geometry.chunk
    return {*range(1, min(last, SETTLED) + 1), last}


def most_kept(policy: Policy, geometry: Geometry, chunks: int) -> int:
    """Tokens times heads kept at the fullest moment of a run of `chunks`, 0 for one without end. Raises ValueError where it never ends to
    grow."""
    points = full_moments(geometry, chunks)
    most = max(sum(kept_tokens(policy, geometry, point)) for point in points)
    if not chunks and sum(kept_tokens(policy, geometry, max(points) + 1)) > most:
        raise Endless(policy.label)
    return most


def committed(policy: Policy, geometry: Geometry, chunks: int, per_token: int) -> int:
    """The most bytes a commit holds besides the lane's own, in a run of `chunks`, with so many bytes per kept token of a head.

    Layer by layer, what one keeps from now on is there twice, and room for a chunk, while what it kept so far still is; the chunk too where
    a policy looks at it before it decides. Layers that wait for another one's decision keep their chunk until then.
    """
    kept = [kept_tokens(policy, geometry, point) for point in full_moments(geometry, chunks)]
    widest, chunk = max(map(max, kept)), geometry.chunk * geometry.tokens * geometry.heads
    return per_token * ((2 + policy.looks_back) * widest + (1 + policy.looks_back) * chunk + policy.waiting(geometry) * (widest + chunk))


def plan(wanted: Wanted, roles: Roles | None = None) -> Plan:
    """The memory of a run. Raises ValueError where it cannot be at all."""
    net, geometry, item = wanted.spec.net, wanted.spec.geometry, wanted.itemsize
    if wanted.draws_with not in DECODERS:
        raise ValueError(f"decoder {wanted.draws_with!r} is unknown; use one of: {', '.join(DECODERS)}")
    chunk_tokens = geometry.chunk * geometry.tokens
    per_token = 2 * geometry.head_dim * item  # of one head: a key and a value
    lanes, widest, commit = [], 0, 0
    for asked in wanted.lanes:
        policy = fitted(as_sampled(wanted.spec, asked), geometry, roles)
        kept = most_kept(policy, geometry, wanted.chunks)
        widest = max(widest, math.ceil(kept / (geometry.layers * geometry.heads)))
        sides = 2 + (1 + net.heads if net.short_text else 0)  # keys, values; of a short text again, each head's projected
        text = sides * net.layers * net.text_len * net.dim * item
        chunk = per_token * chunk_tokens * geometry.heads * geometry.layers
        lanes.append(LanePlan(policies.spelling(policy if policy.name else asked), kept * per_token, chunk, text))
        commit = max(commit, committed(policy, geometry, wanted.chunks, per_token))
    drawn = wanted.spec.frames_at_once * geometry.tokens
    hidden = drawn * (10 * net.dim + 2 * net.ffn) * item + 3 * drawn * net.dim * 4
    joined = 2 * (widest + drawn) * net.dim * item
    pictures = decoder_bytes(wanted.draws_with, wanted.size)
    own = 1_000_000_000 if wanted.cuda else 500_000_000
    return Plan(weights_bytes(wanted), tuple(lanes), commit, hidden + joined, pictures, own)


def tera_operations(wanted: Wanted, roles: Roles | None = None) -> tuple[float, ...]:
    """Tera floating-point operations per chunk of each lane when its cache is full: every noisy pass and the clean one."""
    net, geometry = wanted.spec.net, wanted.spec.geometry
    queries, d = geometry.chunk * geometry.tokens, net.dim
    passes = len(wanted.spec.schedule.steps) + 1
    found = []
    for policy in (fitted(policy, geometry, roles) for policy in wanted.lanes):
        keys = queries + most_kept(policy, geometry, wanted.chunks) / (geometry.layers * geometry.heads)
        dense = (10 if net.short_text else 12) * queries * d * d + 4 * queries * d * net.ffn
        text = 2 * queries * d * net.text_len * (1 + (net.heads if net.short_text else 1))
        found.append(passes * net.layers * (dense + text + 4 * queries * d * keys) / 1e12)
    return tuple(found)


def pace(spec: ModelSpec, frames_per_second: float) -> str:
    """What a speed means to somebody watching."""
    if frames_per_second >= spec.fps:
        return f"real time ({spec.fps} frames per second) is possible"
    if frames_per_second >= 1:
        return "slower than real time, watchable as it comes"
    return "less than a frame per second: not for live use"
