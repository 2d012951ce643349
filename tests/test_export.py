"""A finished video is drawn anew by a decoder of its own, chunk after chunk from clean latents; where that cannot be, by the live one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fkv import generate, video
from fkv.__main__ import exporter
from fkv.codec import Codec, pocket_random
from fkv.engine import Engine
from fkv.events import Frames, Settings
from fkv.flags import parser
from fkv.lane import LaneRun
from fkv.session import Session
from fkv.spec import SELF_FORCING

SETTINGS = Settings(prompt="a red ball bouncing over green hills", chunks=3)
Film = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture
def filmed(small: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Film]:
    """The frames of both lanes in the video that `generate` makes with an export decoder."""

    def make(export: Callable[[], Codec] | None, complete: bool = True) -> Film:
        kept: Film = []

        def write(path: Path, frames: Iterable[tuple[np.ndarray, np.ndarray, str, str]], fps: float) -> int:
            kept.extend((left, right) for left, right, _, _ in frames)
            return len(kept)

        monkeypatch.setattr(video, "write_video", write)
        assert generate.generate(small, SETTINGS, tmp_path / "out.mp4", export=export) == complete
        return kept

    return make


def lanes(film: Film) -> np.ndarray:
    return np.stack([np.stack(pair) for pair in film])


def test_a_run_whose_lanes_are_lost_before_their_numbers_leaves_its_frames(
    small: Engine, filmed: Callable[..., Film], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(run: LaneRun, frames: Frames, probe_share: float) -> None:
        raise MemoryError

    monkeypatch.setattr(LaneRun, "sample", failing)
    assert len(filmed(None)) == 12


def test_the_same_decoder_draws_the_same_video_again(small: Engine, filmed: Callable[..., Film]) -> None:
    live = filmed(None)
    assert len(live) == 3 * 12
    assert np.array_equal(lanes(filmed(lambda: small.codec)), lanes(live))


def test_another_decoder_draws_each_lane_as_one_long_video(small: Engine, filmed: Callable[..., Film]) -> None:
    codec = pocket_random(seed=9)
    events = [event for event in Session(small, replace(SETTINGS, benchmark=True), latents=True).events() if isinstance(event, Frames)]
    wanted = []
    for lane in "AB":
        clean = [torch.from_numpy(event.latents) for event in events if event.lane == lane and event.latents is not None]
        assert len(clean) == 3
        wanted.append(codec.decoder().decode(torch.cat(clean)[None])[0].numpy())
    assert np.array_equal(lanes(filmed(lambda: codec)), np.stack(wanted, axis=1))


def test_a_decoder_that_is_not_here_leaves_the_live_one_and_says_why(
    filmed: Callable[..., Film], capsys: pytest.CaptureFixture[str]
) -> None:
    def absent() -> Codec:
        raise FileNotFoundError("the Wan VAE is not here; run fetch")

    assert np.array_equal(lanes(filmed(absent)), lanes(filmed(None)))
    said = capsys.readouterr().out
    assert "The video is drawn by pocket" in said
    assert "the Wan VAE is not here; run fetch" in said


def test_who_stops_the_drawing_gets_the_whole_video_of_the_live_decoder(filmed: Callable[..., Film]) -> None:
    def opened() -> Codec:
        os.kill(os.getpid(), signal.SIGTERM)
        return pocket_random(seed=9)

    live = filmed(None)
    assert np.array_equal(lanes(filmed(opened, complete=False)), lanes(live))


def test_latents_come_only_where_they_are_asked_for_and_change_nothing_else(small: Engine) -> None:
    plain, asked = ([e for e in Session(small, SETTINGS, latents=told).events() if isinstance(e, Frames)] for told in (False, True))
    assert all(frames.latents is None for frames in plain)
    assert all(frames.latents is not None and frames.latents.shape[0] == small.spec.chunk for frames in asked)
    assert all(np.array_equal(one.pixels, two.pixels) for one, two in zip(plain, asked))


@pytest.mark.parametrize(
    ("words", "draws"), [("", True), ("--decoder taehv", False), ("--decoder wan-vae", False), ("--random-weights", False)]
)
def test_a_row_with_a_decoder_for_finished_videos_uses_it_unless_one_is_named(small: Engine, words: str, draws: bool) -> None:
    arguments: Any = parser().parse_args(["generate", "--model", "self-forcing", *words.split()])
    assert (exporter(arguments, replace(small, spec=SELF_FORCING, untrained="random" in words)) is not None) == draws
    assert exporter(arguments, small) is None
