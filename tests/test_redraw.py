"""Finished videos drawn anew: by which decoder, from which latents, equal to one decode of the whole, and what a failure leaves behind."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fkv import parts, redraw
from fkv.codec import Codec, WanVae, pocket_random, taehv_random
from fkv.engine import Engine
from fkv.events import Frames, ModelFacts, Start
from fkv.findings import LANES, Lane
from fkv.redraw import WARM_UP, Clean, Undrawn, redrawn
from fkv.spec import POCKET, SELF_FORCING, ModelSpec
from fkv.ui.recording import CHUNKS, Recording

FACTS = ModelFacts("x", "X", 1, 1, 1, 2, 3, 3, 4, 4, 24, (16, 24), 21, 0, 2, "cpu", "float32", "SDPA", 1)


def video(chunks: int, channels: int = 24, seed: int = 0) -> dict[Lane, np.ndarray]:
    """Latents [chunks, 3, c, 2, 3] of both lanes."""
    draw = np.random.default_rng(seed)
    return {lane: draw.standard_normal((chunks, 3, channels, 2, 3)).astype(np.float32) for lane in LANES}


def chunks_of(latents: dict[Lane, np.ndarray], first: int = 0) -> list[dict[Lane, Clean]]:
    return [{lane: Clean(latents[lane][n], f"{lane} {n}") for lane in LANES} for n in range(first, len(latents["A"]))]


def whole(codec: Codec, latents: np.ndarray) -> np.ndarray:
    return codec.decoder().decode(torch.from_numpy(latents).flatten(0, 1)[None])[0].numpy()


@pytest.mark.parametrize(
    ("spec", "live", "drawn"),
    [
        (SELF_FORCING, "taehv", "wan-vae"),
        (SELF_FORCING, "wan-vae", ""),
        (POCKET, "pocket", ""),
        (replace(POCKET, export="pocket"), "pocket", ""),
    ],
)
def test_the_rows_decoder_for_finished_videos_draws_them_where_it_is_another_than_the_live_one(
    small: Engine, spec: ModelSpec, live: str, drawn: str
) -> None:
    assert redraw.decoder_of(replace(small, spec=spec, decoder=live)) == drawn


def test_latents_are_useful_only_where_that_decoder_is_here_and_what_lacks_is_named(
    small: Engine, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    engine = replace(small, spec=SELF_FORCING, decoder="taehv")
    assert not redraw.useful(engine)
    assert redraw.obstacle(engine) == "this machine lacks the Wan VAE, for export; run `python -m fkv fetch --model self-forcing`"
    monkeypatch.setattr(parts, "LOOKS", {"wan-vae": lambda cure: [parts.Need("the Wan VAE", True)]})
    assert redraw.useful(engine)
    assert not redraw.useful(replace(engine, decoder="wan-vae"))
    assert not redraw.useful(small)


def test_a_video_is_drawn_as_if_it_were_decoded_at_once(small: Engine) -> None:
    codec, latents = pocket_random(3), video(4)
    drawn = list(redrawn(small, lambda: codec, chunks_of(latents)))
    for place, lane in enumerate(LANES):
        assert np.array_equal(np.concatenate([chunk[place] for chunk in drawn]), whole(codec, latents[lane]))
    assert [chunk[2:] for chunk in drawn] == [(f"A {n}", f"B {n}") for n in range(4)]


def test_a_video_that_begins_in_the_middle_is_the_rest_of_the_whole(small: Engine) -> None:
    codec, latents = pocket_random(3), video(5)
    drawn = list(redrawn(small, lambda: codec, chunks_of(latents, 1), warm_up=1))
    assert np.array_equal(np.concatenate([chunk[1] for chunk in drawn]), whole(codec, latents["B"])[24:])


@pytest.fixture(scope="module", params=["taehv", "wan-vae"])
def causal(request: pytest.FixtureRequest) -> Codec:
    """A decoder whose first latent frame is one picture, of random weights whose pictures are not all of one grey."""
    if request.param == "taehv":
        codec = taehv_random()
        last = codec.decoder_stack[-1]
        assert isinstance(last, torch.nn.Conv2d)
        last.weight.mul_(100)
        return codec
    diffusers: Any = import_module("diffusers")
    sizes: dict[str, Any] = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = diffusers.AutoencoderKLWan(**sizes, temperal_downsample=[False, True, True], latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    return WanVae(made.eval().requires_grad_(False))


def test_warmed_up_a_causal_decoder_draws_of_a_video_that_begins_in_the_middle_what_it_draws_of_the_whole(
    small: Engine, causal: Codec
) -> None:
    latents = video(12, channels=16)
    at_once = whole(causal, latents["A"])[9:].reshape(11, -1, 16, 24, 3)
    cold, warm = ([chunk[0] for chunk in redrawn(small, lambda: causal, chunks_of(latents, 2), warm_up=n)] for n in (0, WARM_UP))
    assert [len(drawn) for drawn in cold] == [9] + [12] * 9
    assert [len(drawn) for drawn in warm] == [12, 12]
    assert off(cold[0], at_once[1, 3:]) > 1, "without a past the first chunk is another"
    assert max(off(drawn, wanted) for drawn, wanted in zip(warm, at_once[WARM_UP + 1 :])) <= 1


def off(one: np.ndarray, other: np.ndarray) -> int:
    """The largest difference of two pictures, in 255 levels."""
    return int(np.abs(one.astype(int) - other).max())


def test_a_lane_that_has_ended_is_black(small: Engine) -> None:
    chunks = chunks_of(video(2))
    del chunks[1]["B"]
    _, (left, right, *labels) = redrawn(small, lambda: pocket_random(), chunks)
    assert left.any()
    assert right.shape == left.shape
    assert not right.any()
    assert labels == ["A 1", "ended"]


def test_the_device_is_held_for_one_lanes_chunk_at_a_time(small: Engine) -> None:
    codec, held = pocket_random(), list[int]()

    class Decoder:
        def decode(self, latents: Tensor) -> Tensor:
            held.append(len(small.lock.waiting))
            return codec.decoder().decode(latents)

    class Watched:
        def decoder(self) -> Decoder:
            return Decoder()

        def encode(self, frames: Tensor) -> Tensor:
            return frames

    opened = list[Watched]()
    for _ in redrawn(small, lambda: opened.append(Watched()) or opened[0], chunks_of(video(3))):
        assert not small.lock.waiting
    assert held == [1] * 6
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "it ran out of memory on cpu"),
        (MemoryError(), "it ran out of memory on cpu"),
        (RuntimeError("a kernel\nfailed"), "a kernel"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_decoder_that_fails_says_why_and_leaves_nothing_held(small: Engine, error: Exception, said: str) -> None:
    kept = list[weakref.ref[Any]]()

    class Failing:
        def decoder(self) -> Failing:
            return self

        def decode(self, latents: Tensor) -> Tensor:
            big = torch.zeros(9)
            kept.extend((weakref.ref(self), weakref.ref(big)))
            raise error

        def encode(self, frames: Tensor) -> Tensor:
            return frames

    with pytest.raises(Undrawn) as caught:
        list(redrawn(small, Failing, chunks_of(video(1))))
    assert str(caught.value) == said
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert not small.lock.waiting


def test_where_a_device_has_too_little_free_no_decoder_is_opened(small: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lanes of 480p: 254 MB of weights and twice 4608 bytes for each of 399,360 pixels, 3.9 GB."""
    engine = replace(small, spec=SELF_FORCING, decoder="taehv")
    monkeypatch.setattr("fkv.meter.free_bytes", lambda device: 3 * 10**9)
    with pytest.raises(Undrawn, match=r"it needs about 3\.9 GB and cpu has 3\.0 GB free"):
        next(redrawn(engine, lambda: pytest.fail("a decoder was opened"), chunks_of(video(1))))
    monkeypatch.setattr("fkv.meter.free_bytes", lambda device: 4 * 10**9)
    assert len(list(redrawn(engine, pocket_random, chunks_of(video(1))))) == 1


def test_who_stops_in_the_middle_frees_the_decoder(small: Engine) -> None:
    made = list[weakref.ref[Any]]()

    def export() -> Codec:
        codec = pocket_random()
        made.append(weakref.ref(codec))
        return codec

    drawn = redrawn(small, export, chunks_of(video(3)))
    next(drawn)
    drawn.close()
    gc.collect()
    assert made[0]() is None
    assert not small.lock.waiting


def recorded(chunks: int, latents: bool = True, most: int = CHUNKS) -> Recording:
    recording, clean = Recording(most), video(chunks)
    for n in range(chunks):
        for lane in LANES:
            told = clean[lane][n] if latents else None
            recording.take(Frames(lane, n, 12 * n, 3 * n, np.empty((12, 1, 1, 3), np.uint8), b"jpeg", f"{lane} {n}", "full", told))
    return recording


def begun(recording: Recording) -> Recording:
    recording.take(Start("run", FACTS, None, None))  # type: ignore[arg-type]
    return recording


def test_a_recording_keeps_latents_of_as_many_chunks_as_pictures_and_those_to_warm_up_on_in_half_precision() -> None:
    recording = begun(recorded(14, most=4))
    assert sorted(recording.clips) == [10, 11, 12, 13]
    assert sorted(recording.clean) == list(range(2, 14))
    kept = recording.clean[13]["B"].latents
    assert kept.dtype == np.float16
    assert np.array_equal(kept, video(14)["B"][13].astype(np.float16))
    reel = recording.reel()
    assert ([n for n, _, _ in reel.pairs], reel.warm_up) == ([10, 11, 12, 13], 8)
    assert [chunk["A"].label for chunk in reel.clean] == [f"A {n}" for n in range(2, 14)]


@pytest.mark.parametrize(("chunks", "warm_up"), [(3, 0), (4, 0), (6, 2)])
def test_a_video_warms_up_on_no_more_chunks_than_there_were(chunks: int, warm_up: int) -> None:
    reel = begun(recorded(chunks, most=4)).reel()
    assert (len(reel.pairs), len(reel.clean), reel.warm_up) == (chunks - warm_up, chunks, warm_up)


def test_latents_of_a_chunk_and_lane_at_480p_take_less_than_a_megabyte() -> None:
    recording, (channels, rows, columns) = Recording(), SELF_FORCING.latent
    clean = np.zeros((SELF_FORCING.chunk, channels, rows, columns), np.float32)
    recording.take(Frames("A", 0, 0, 0, np.empty((9, 1, 1, 3), np.uint8), b"", "", "", clean))
    assert recording.clean[0]["A"].latents.nbytes == 599_040


def test_a_run_that_tells_no_latents_has_none_and_a_chunk_of_one_lane_is_not_shown() -> None:
    recording = begun(recorded(3, latents=False))
    del recording.clips[2]["B"]
    reel = recording.reel()
    assert [n for n, _, _ in reel.pairs] == [0, 1]
    assert reel.clean == []
