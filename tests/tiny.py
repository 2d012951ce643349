"""Tiny models for tests: random weights, sizes to choose, a stream in one call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fkv.cache import KVCache, Policy, Roles
from fkv.policies import parse
from fkv.spec import Geometry, ModelSpec, Schedule, WanConfig
from fkv.stream import Stream, Trace, seeded_noise
from fkv.wan import CausalWan


def tiny_spec(
    *,
    heads: int = 3,
    layers: int = 3,
    rows: int = 4,
    columns: int = 3,
    chunk: int = 3,
    head_dim: int = 8,
    steps: int = 2,
    sampler: str = "renoise",
    period: int = 0,
    text_len: int = 16,
) -> ModelSpec:
    """A model row with `rows` x `columns` tokens a frame and 4 latent channels; one layer row is 2 x 2 latents a token. With a `period`
    places in the frame are learned too. Its prompts are long, as those of published models; with a `text_len` of 5 they are short, as those
    of the pocket model.
    """
    net = WanConfig(
        dim=heads * head_dim, heads=heads, layers=layers, ffn=32, freq_dim=8, text_dim=6, text_len=text_len, channels=4,
        places=rows * columns if period else 0, period=period,
    )  # fmt: skip
    schedule = Schedule(steps=tuple(1000 - i * 750 / steps for i in range(steps)), sampler=sampler)
    return ModelSpec("tiny", "Tiny", net, schedule, "", "", chunk=chunk, latent=(4, 2 * rows, 2 * columns))


def tiny_model(spec: ModelSpec, seed: int = 0, dtype: torch.dtype = torch.float32) -> CausalWan:
    """The network of a row with random weights; the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CausalWan(spec.net)
        for learned in (model.place_embedding, model.frame_embedding):
            if learned is not None:
                torch.nn.init.normal_(learned)
        return model.to(dtype).eval().requires_grad_(False)


def tiny_text(spec: ModelSpec, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, spec.net.text_len, spec.net.text_dim, generator=torch.Generator().manual_seed(seed))


def tiny_roles(geometry: Geometry) -> Roles:
    """Every second head static, starting at 0 or 1 by turns."""
    return tuple(tuple(range(layer % 2, geometry.heads, 2)) for layer in range(geometry.layers))


def tiny_policy(spelling: str, geometry: Geometry) -> Policy:
    """The policy of a spelling, with roles if it needs any and segments that divide a frame."""
    policy = parse(spelling)
    return (policy.with_roles(tiny_roles(geometry)) if policy.needs_roles else policy).fitted(geometry)


def tiny_stream(
    spec: ModelSpec,
    policy: Policy | str,
    *,
    seed: int = 0,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    mark: Callable[[str], None] | None = None,
    trace: Trace | None = None,
) -> Stream:
    """A stream over random weights."""
    chosen = tiny_policy(policy, spec.geometry) if isinstance(policy, str) else policy
    return Stream(tiny_model(spec, dtype=dtype), spec, tiny_text(spec, batch), chosen, seeded_noise(seed, spec, batch), mark, trace=trace)


def tiny_cache(spec: ModelSpec, policy: Policy | str) -> KVCache:
    return KVCache(tiny_policy(policy, spec.geometry) if isinstance(policy, str) else policy, spec.geometry)


def kept_bytes(cache: KVCache, chunks: int, recached: int = 0) -> int:
    """What the closed formula of a cache's policy says it stores after `chunks` commits."""
    geometry = cache.geometry
    groups = [group for layer in range(geometry.layers) for group in cache.policy.expected(layer, chunks, geometry, recached)]
    return sum(heads * tokens for heads, tokens in groups) * 2 * geometry.head_dim * cache.batch * cache.dtype.itemsize


def frames_of(cache: KVCache, layer: int) -> dict[str, list[int]]:
    """Frames that every group of a layer keeps tokens of."""
    return {name: sorted(set(pos[:, 0].tolist())) for name, _, pos in cache.residency()[layer]}


def timeline(text: str, chunks: int, layer: int = 1, spec: ModelSpec | None = None) -> list[dict[str, list[int]]]:
    """Frames each group of a layer keeps when chunk 1, 2, ... begins."""
    stream = tiny_stream(spec or tiny_spec(steps=1), text)
    seen = []
    for _ in range(chunks):
        stream.step()
        seen.append(frames_of(stream.cache, layer))
    return seen[1:]
