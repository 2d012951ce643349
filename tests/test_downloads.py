"""The page's video: drawn by the decoder for finished videos where there is one, told while it is, one at a time, whole whatever fails."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import House, start, text, wait_until
from stand_in import StandInEngine, StandInSession, facts
from torch import Tensor

from fkv import parts
from fkv.codec import Codec, pocket_random
from fkv.engine import Engine, Turns
from fkv.events import Settings
from fkv.session import Session
from fkv.spec import POCKET, ModelSpec
from fkv.text import EXAMPLES
from fkv.ui import Backend, build, downloads, run
from fkv.ui.recording import Recording
from fkv.ui.shelf import Shelf
from fkv.ui.visitors import Lobby, Visitor

SETTINGS = Settings(prompt="a red ball bouncing over green hills", chunks=3, left="full:9")
Frames = list[tuple[np.ndarray, np.ndarray, str, str]]
NO_LATENTS = "it was not on this machine when this run began; press Start again"


@pytest.fixture
def shelved(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Codec]], None]:
    """Puts a codec for finished videos where codecs are opened, or what fails there."""

    def put(opened: Callable[[], Codec]) -> None:
        monkeypatch.setitem(parts.CODECS, "stand-in", lambda opening: opened())  # type: ignore[arg-type]

    return put


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Frames:
    """The frames of the video that was written last."""
    frames: Frames = []

    def write(path: Path, given: Iterator[tuple[np.ndarray, np.ndarray, str, str]], fps: float) -> int:
        frames[:] = given
        path.write_bytes(b"mp4")
        return len(frames)

    monkeypatch.setattr(downloads, "write_video", write)
    return frames


@pytest.fixture
def exporting(small: Engine) -> Engine:
    return replace(small, spec=replace(small.spec, export="stand-in"))


def played(engine: Engine, settings: Settings = SETTINGS, most: int | None = None) -> Visitor:
    """A visitor whose run is over."""
    visitor = Visitor("me")
    for _ in run.play(visitor, Lobby(), Shelf(lambda _: engine), "small", settings, Session):
        if most is not None:
            visitor.recording.most = most
    return visitor


def told(visitor: Visitor, line: Lobby | None = None) -> tuple[list[str], Any]:
    """The notes of a download, and what the link holds at the end."""
    answers = list(downloads.film(visitor, line or Lobby(1)))
    return [str(note).removeprefix('<p class="note">').removesuffix("</p>") for _, note in answers], answers[-1][0]["value"]


def sides(frames: Frames) -> np.ndarray:
    return np.stack([np.stack(frame[:2]) for frame in frames])


def at_once(codec: Codec, recording: Recording) -> np.ndarray:
    """Both lanes of the latents that are kept, decoded as one video: uint8 [n, 2, H, W, 3]."""
    lanes = []
    for lane in ("A", "B"):
        clean = torch.from_numpy(np.concatenate([chunk[lane].latents for _, chunk in sorted(recording.clean.items())]))
        lanes.append(codec.decoder().decode(clean[None])[0].numpy())
    return np.stack(lanes, axis=1)


def test_the_rows_decoder_for_finished_videos_draws_the_download_and_the_note_says_how_far_it_is(
    exporting: Engine, shelved: Callable[..., None], written: Frames
) -> None:
    codec = pocket_random(9)
    shelved(lambda: codec)
    visitor = played(exporting)
    notes, path = told(visitor)
    drawing = [f"Drawing chunk {n} of 3 with stand-in" for n in (1, 2, 3)]
    last = "The video is drawn by stand-in."
    assert notes == [*drawing, "Writing the file", last, last]
    assert Path(path).read_bytes() == b"mp4"
    assert np.array_equal(sides(written), at_once(codec, visitor.recording))
    assert [labels for *_, labels in written[::12]] == [visitor.recording.pairs()[0][2].label] * 3


def test_a_download_of_the_newest_chunks_only_has_all_their_frames(
    exporting: Engine, shelved: Callable[..., None], written: Frames
) -> None:
    codec = pocket_random(9)
    shelved(lambda: codec)
    visitor = played(exporting, replace(SETTINGS, chunks=5), most=2)
    assert told(visitor)[0][0] == "Drawing chunk 1 of 2 with stand-in"
    assert np.array_equal(sides(written), at_once(codec, visitor.recording)[3 * 12 :])
    assert len(written) == len(list(visitor.recording.reel().frames())) == 2 * 12


@pytest.mark.parametrize("export", ["", "pocket"])
def test_without_another_decoder_no_latents_are_kept_and_the_download_is_what_was_shown(
    small: Engine, written: Frames, export: str
) -> None:
    visitor = played(replace(small, spec=replace(small.spec, export=export)))
    notes, path = told(visitor)
    assert notes == [""]
    assert path.endswith(".mp4")
    assert visitor.recording.clean == {}
    assert np.array_equal(sides(written), sides(list(visitor.recording.reel().frames())))


class Failing:
    """A codec that draws one chunk of both lanes and then finds no memory."""

    def __init__(self) -> None:
        self.left = 2

    def decoder(self) -> Failing:
        return self

    def decode(self, latents: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return torch.zeros(1, 12, 4, 4, 3, dtype=torch.uint8)

    def encode(self, frames: Tensor) -> Tensor:
        return frames


def absent() -> Codec:
    raise FileNotFoundError("its files are not here; fetch them.")


@pytest.mark.parametrize(
    ("opened", "why"), [(absent, "its files are not here; fetch them"), (Failing, "it ran out of memory on cpu")], ids=["absent", "memory"]
)
def test_a_decoder_that_fails_leaves_the_live_one_and_one_sentence(
    exporting: Engine, shelved: Callable[..., None], written: Frames, opened: Callable[[], Codec], why: str
) -> None:
    shelved(opened)
    visitor = played(exporting)
    notes, path = told(visitor)
    assert notes[-1] == f"The video is drawn by pocket, not by stand-in: {why}."
    assert path.endswith(".mp4")
    assert np.array_equal(sides(written), sides(list(visitor.recording.reel().frames())))
    assert not exporting.lock.waiting


def test_where_no_room_is_left_for_frames_the_live_ones_are_taken(
    exporting: Engine, shelved: Callable[..., None], written: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise ValueError("frames could not be put aside (No space left on device); free some space")

    shelved(pocket_random)
    monkeypatch.setattr(downloads, "Spool", full)
    notes, path = told(played(exporting))
    assert notes[-1].endswith("not by stand-in: frames could not be put aside (No space left on device); free some space.")
    assert path.endswith(".mp4")
    assert len(written) == 3 * 12


def test_a_decoder_that_is_not_here_costs_a_run_nothing_and_is_named_with_the_cure(
    exporting: Engine, shelved: Callable[..., None], written: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelved(pocket_random)
    need = parts.Need("the stand-in", here=False, cure="run `fetch`")
    monkeypatch.setattr(parts, "LOOKS", {"stand-in": lambda cure: [need]})
    visitor = played(exporting)
    assert visitor.recording.clean == {}
    assert told(visitor)[0][-1] == "The video is drawn by pocket, not by stand-in: this machine lacks the stand-in; run `fetch`."
    monkeypatch.setattr(parts, "LOOKS", {})
    assert told(visitor)[0][-1] == f"The video is drawn by pocket, not by stand-in: {NO_LATENTS}."
    assert len(written) == 3 * 12


def test_what_was_recorded_at_the_click_is_drawn_whatever_begins_meanwhile(
    exporting: Engine, shelved: Callable[..., None], written: Frames
) -> None:
    codec = pocket_random(9)
    shelved(lambda: codec)
    visitor = played(exporting)
    before, film = visitor.recording, downloads.film(visitor, Lobby(1))
    next(film)
    assert visitor.open(visitor.run, Session(exporting, SETTINGS), Recording())
    before.clips.clear()
    list(film)
    assert np.array_equal(sides(written), at_once(codec, before))


def test_a_second_click_takes_the_place_of_the_first_and_a_closed_page_leaves_the_line_and_the_device_free(
    exporting: Engine, shelved: Callable[..., None], written: Frames
) -> None:
    shelved(pocket_random)
    visitor, line = played(exporting), Lobby(1)
    first = downloads.film(visitor, line)
    next(first), next(first)
    second = downloads.film(visitor, line)
    next(second)
    assert list(first) == []
    assert written == []
    assert line.seated
    second.close()  # type: ignore[attr-defined]
    assert not line.seated
    assert not exporting.lock.waiting
    assert told(visitor, line)[1].endswith(".mp4")


def test_one_video_is_made_at_a_time_and_who_waits_is_told(exporting: Engine, shelved: Callable[..., None], written: Frames) -> None:
    shelved(pocket_random)
    one, two, line = played(exporting), played(exporting), Lobby(1)
    two.key = "you"
    first, second = downloads.film(one, line), downloads.film(two, line)
    next(first)
    assert "Another video is being made. You are number 1 in line." in next(second)[1]
    list(first)
    assert "Drawing chunk 1 of 3" in next(second)[1]
    second.close()  # type: ignore[attr-defined]


def test_nothing_to_download_is_a_sentence_and_lets_go_of_the_file_before() -> None:
    for answer in (downloads.measurements(Visitor("me")), *downloads.film(Visitor("me"), Lobby(1))):
        assert answer[0]["value"] is None
        assert answer[1] == '<p class="error">Nothing was generated yet; press Start first.</p>'


class Drawn:
    """A codec that draws each chunk in one grey, which says the chunk's number, and takes its time."""

    def decoder(self) -> Drawn:
        return self

    def decode(self, latents: Tensor) -> Tensor:
        time.sleep(0.2)
        return torch.full((1, 12, 80, 128, 3), 20 * int(latents[0, 0]), dtype=torch.uint8)

    def encode(self, frames: Tensor) -> Tensor:
        return frames


@dataclass
class ExportingEngine(StandInEngine):
    """A stand-in whose row has another decoder for finished videos."""

    spec: ModelSpec = field(default_factory=lambda: replace(POCKET, export="stand-in"))
    decoder: str = "pocket"
    untrained: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    lock: Turns = field(default_factory=Turns)


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    engine = ExportingEngine()
    StandInSession.pause = 0.15
    page = build(Backend(lambda _: engine, facts, StandInSession), examples=EXAMPLES, chunks=0)  # type: ignore[arg-type,return-value]
    _, url, _ = page.blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **page.options)
    yield House(engine, page, url)
    page.blocks.close()


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
def test_while_it_is_drawn_the_page_says_how_far_it_is_and_then_who_drew_it(
    visit: Callable[..., Any], shelved: Callable[..., None], tmp_path: Path
) -> None:
    import imageio_ffmpeg

    shelved(Drawn)
    page = visit()
    start(page, 5)
    page.click("#stop")
    with page.expect_download() as caught:
        page.dblclick("#video")
        page.wait_for_function("/Drawing chunk 2 of \\d+ with stand-in/.test(document.querySelector('#download-note').textContent)")
        page.click("#report")
        report = caught.value
    report.save_as(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["samples"], "measurements do not wait for the video"
    with page.expect_download() as caught:
        page.wait_for_function("document.querySelector('#download-note').innerText.trim() === 'The video is drawn by stand-in.'")
        video = caught.value
    video.save_as(tmp_path / "both.mp4")
    about, *frames = imageio_ffmpeg.read_frames(str(tmp_path / "both.mp4"))
    width, height = about["size"]  # type: ignore[call-overload,index]
    shots = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames]
    assert [abs(int(shots[12 * n + 6][200, 200].mean()) - 20 * n) <= 3 for n in range(4)] == [True] * 4
    wait_until(lambda: not page.locator("#download-note .error").count())


@pytest.mark.browser
@pytest.mark.xdist_group("browser")
def test_a_page_that_is_closed_while_its_video_is_drawn_leaves_the_line_to_the_next(
    visit: Callable[..., Any], shelved: Callable[..., None]
) -> None:
    shelved(Drawn)
    one, two = visit(), visit()
    for page in (one, two):
        start(page, 4)
        page.click("#stop")
    one.click("#video")
    one.wait_for_function("document.querySelector('#download-note').textContent.includes('Drawing chunk')")
    two.click("#video")
    two.wait_for_function("document.querySelector('#download-note').textContent.includes('You are number 1 in line')")
    one.context.close()
    with two.expect_download():
        two.wait_for_function("document.querySelector('#download-note').textContent.includes('Drawing chunk')")
    assert text(two, "#download-note") == "The video is drawn by stand-in."
