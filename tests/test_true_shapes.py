"""Published models at their true shapes on a device that holds no numbers: whatever would read one back fails there, and bytes are real.

torch's "meta" device knows shapes, types and places alone. A step that waits for its device by reading from it, or joins what does not fit,
cannot run here; on CUDA the same Python asks for the same work.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fkv import advice, planner
from fkv.attention import scaled_dot
from fkv.codec.taehv import Taehv
from fkv.doctor import profile_roles
from fkv.fast import SlotCache
from fkv.fast.model import FastWan
from fkv.policies import parse
from fkv.rolling import stream_class
from fkv.spec import KREA, LONGLIVE, ROLLING_FORCING, SELF_FORCING, ModelSpec
from fkv.stream import Noise, Stream
from fkv.wan import CausalWan
from tests.tiny import kept_bytes

CHUNKS, CHANGED = 7, 5


def empty_model(spec: ModelSpec) -> FastWan:
    """A network of a row's size in bfloat16, without its numbers."""
    with torch.device("meta"):
        model = FastWan(CausalWan(spec.net).to(torch.bfloat16).eval())
    model.attention = scaled_dot  # type: ignore[assignment]
    return model


def empty_noise(spec: ModelSpec) -> Noise:
    def noise(chunk: int) -> tuple[Tensor, list[Tensor]]:
        shape = (1, spec.chunk, *spec.latent)
        first, *rest = (torch.empty(shape, dtype=torch.bfloat16, device="meta") for _ in range(1 + len(spec.schedule.steps)))
        return first, rest

    return noise


def rolled(spec: ModelSpec, spelling: str, size: planner.Size | None = None) -> Stream:
    """A lane after seven chunks, with a change of prompt before the sixth, of as few noisy passes as its sampler takes."""
    spec = planner.resized(spec, size) if size else spec
    if spec.schedule.sampler != "rolling":
        spec = replace(spec, schedule=replace(spec.schedule, steps=spec.schedule.steps[:1]))
    policy = planner.fitted(parse(spelling), spec.geometry, profile_roles(spec))
    text = torch.empty(1, spec.net.text_len, spec.net.text_dim, dtype=torch.bfloat16, device="meta")
    stream = stream_class(spec)(empty_model(spec), spec, text, policy, empty_noise(spec))
    for chunk in range(CHUNKS):
        if chunk == CHANGED:
            stream.recache(text=text.clone())
        assert stream.step().latents.shape == (1, spec.chunk, *spec.latent)
    stream.commit()
    return stream


def taken(stream: Stream) -> tuple[int, int]:
    """Bytes kept and bytes allocated for keys and values."""
    assert isinstance(stream.cache, SlotCache)
    slots = [slot.both for layer in stream.cache.slots for slot in layer]
    return stream.cache.nbytes, sum(both.numel() * both.element_size() for both in slots)


@pytest.mark.parametrize("size", [None, (1088, 1920)], ids=["480p", "1080p"])
def test_forcing_kv_keeps_and_allocates_what_the_targets_allow_of_the_full_cache_and_reads_nothing_back(size: planner.Size | None) -> None:
    (full, full_room), (kept, room) = (taken(rolled(SELF_FORCING, text, size)) for text in ("full:21", "forcing-kv"))
    frame = 2 * 2 * 30 * 12 * 128 * (1560 if size is None else 8160)  # keys and values in two bytes; layers, heads, head size, tokens
    assert full == 18 * frame
    assert full_room == 21 * frame
    assert kept / full < 0.15
    assert room / full_room < 0.27
    assert room == kept + 3 * frame


@pytest.mark.parametrize("spec", [LONGLIVE, KREA, ROLLING_FORCING], ids=lambda spec: spec.name)
def test_both_lanes_that_a_model_begins_with_keep_what_their_formulas_say_of_four_layers_and_read_nothing_back(spec: ModelSpec) -> None:
    short = replace(spec, net=replace(spec.net, layers=4), heads=None)
    for spelling in (advice.trained(short), advice.compressed(short)):
        stream = rolled(short, spelling)
        assert stream.cache.nbytes == kept_bytes(stream.cache, CHUNKS, recached=CHANGED)


def test_the_live_decoder_reads_nothing_back_at_1080p() -> None:
    with torch.device("meta"):
        decoder = Taehv().to(torch.bfloat16).decoder()
    latents = torch.empty(1, 3, 16, 136, 240, dtype=torch.bfloat16, device="meta")
    assert [tuple(decoder.decode(latents).shape) for _ in range(2)] == [(1, frames, 1088, 1920, 3) for frames in (9, 12)]


def test_a_device_without_numbers_lets_nothing_be_read() -> None:
    x = torch.empty(3, device="meta")
    for reading in (torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.cpu, torch.Tensor.nonzero, bool):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reading(x[:1])
