"""Two lanes in one picture: MP4 files with a label over each lane, and contact sheets."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, SOFT = (246, 247, 249), (21, 27, 35), (97, 108, 122)
COLOURS = {"A": (89, 102, 117), "B": (107, 75, 195)}
HEIGHT, GAP, BAND = 320, 8, 40
COLUMNS = 12


class SideBySide(AbstractContextManager["SideBySide"]):
    """An MP4 (H.264, yuv420p) written frame by frame: lane A left, lane B right, scaled up to at least 320 rows.

    The file is complete after `close`, however many frames it got; without a frame there is no file. Raises ValueError where ffmpeg is
    missing or ends early.
    """

    def __init__(self, path: Path, fps: float):
        self.path, self.fps = path, fps
        self.frames = 0
        self._pipe: Generator[None, Any, None] | None = None

    def add(self, left: np.ndarray, right: np.ndarray, left_label: str, right_label: str) -> None:
        """One frame: uint8 RGB [H, W, 3] of both lanes, equal in size, and what to write over them."""
        picture = beside(left, right, left_label, right_label)
        if self._pipe is None:
            self._pipe = self._open(picture.size)
        try:
            self._pipe.send(picture.tobytes())
        except OSError as error:
            raise ValueError(f"{self.path} could not be written: {error}; free some space or choose another place") from None
        self.frames += 1

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, size: tuple[int, int]) -> Generator[None, Any, None]:
        import imageio_ffmpeg

        details: dict[str, Any] = {"fps": self.fps, "codec": "libx264", "quality": 8, "macro_block_size": 2}
        try:
            pipe = imageio_ffmpeg.write_frames(str(self.path), size, output_params=["-movflags", "+faststart"], **details)
            pipe.send(None)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"ffmpeg does not run ({error}); reinstall imageio-ffmpeg") from None
        return pipe


class Spool(AbstractContextManager["Spool"]):
    """Frames put aside as they are, in a nameless file beside `path`, while lanes are timed: an encoder at work would take cores from the
    lane whose turn it is. Raises ValueError where they cannot be written.
    """

    def __init__(self, path: Path):
        self.path = path
        self._chunks: list[tuple[tuple[int, ...], str, str]] = []
        try:
            self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        except OSError as error:
            raise self._refusal(error) from None

    def __len__(self) -> int:
        return sum(shape[0] for shape, _, _ in self._chunks)

    def add(self, left: np.ndarray, right: np.ndarray, left_label: str, right_label: str) -> None:
        """One chunk: uint8 RGB [n, H, W, 3] of both lanes, equal in size, and what to write over them."""
        try:
            for pixels in (left, right):
                self._file.write(np.ascontiguousarray(pixels).data)
        except OSError as error:
            raise self._refusal(error) from None
        self._chunks.append((left.shape, left_label, right_label))

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, str, str]]:
        """Every frame as `write_video` takes it, in order."""
        self._file.seek(0)
        for shape, left_label, right_label in self._chunks:
            lanes = (np.frombuffer(self._file.read(math.prod(shape)), np.uint8).reshape(shape) for _ in range(2))
            for left, right in zip(*lanes):
                yield left, right, left_label, right_label

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _refusal(self, error: OSError) -> ValueError:
        return ValueError(f"frames could not be put aside beside {self.path} ({error.strerror}); free some space or choose another place")


def write_video(path: Path, frames: Iterable[tuple[np.ndarray, np.ndarray, str, str]], fps: float) -> int:
    """Writes (left, right, left label, right label) frames as one MP4; gives their number."""
    with SideBySide(path, fps) as film:
        for left, right, left_label, right_label in frames:
            film.add(left, right, left_label, right_label)
    return film.frames


def beside(left: np.ndarray, right: np.ndarray, left_label: str, right_label: str) -> Image.Image:
    """Both lanes under their labels, with even width and height."""
    rows, columns = left.shape[:2]
    scale = max(1, math.ceil(HEIGHT / rows))
    width, height = scale * columns, scale * rows
    canvas = Image.new("RGB", (2 * width + GAP, height + BAND), PAPER)
    for lane, pixels, label, x in (("A", left, left_label, 0), ("B", right, right_label, width + GAP)):
        canvas.paste(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), (x, BAND))
        canvas.paste(_band(lane, label, width), (x, 0))
    return canvas if canvas.height % 2 == 0 else canvas.crop((0, 0, canvas.width, canvas.height + 1))


@lru_cache(maxsize=16)
def _band(lane: str, label: str, width: int) -> Image.Image:
    """The strip over a lane: its letter on its colour, and the label, cut where it is too long."""
    band = Image.new("RGB", (width, BAND), PAPER)
    draw = ImageDraw.Draw(band)
    draw.rounded_rectangle((8, 8, 32, 32), 5, fill=COLOURS[lane])
    draw.text((20, 20), lane, fill=PAPER, font=_font(15), anchor="mm")
    text = label
    while text and draw.textlength(text, font=_font(15)) > width - 50:
        text = f"{text.removesuffix('...')[:-1].rstrip()}..." if len(text) > 4 else ""
    draw.text((42, 20), text, fill=INK, font=_font(15), anchor="lm")
    return band


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def sheet(lanes: Sequence[tuple[str, str, Sequence[np.ndarray]]], numbers: Sequence[int], title: str) -> Image.Image:
    """A contact sheet: one row per (letter, label, frames uint8 [H, W, 3]), a column per number, at most 12 of them, spread evenly."""
    count = min(len(numbers), COLUMNS)
    chosen = [round(place) for place in np.linspace(0, len(numbers) - 1, count)] if count else []
    rows, columns = lanes[0][2][0].shape[:2] if count else (0, 0)
    scale = max(1, round(120 / rows)) if rows else 1
    width, height = max(scale * columns, 1), max(scale * rows, 1)
    canvas = Image.new("RGB", (max(count * (width + GAP) + GAP, 640), BAND + len(lanes) * (height + 2 * BAND)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 12), title, fill=INK, font=_font(15))
    for row, (lane, label, frames) in enumerate(lanes):
        top = BAND + row * (height + 2 * BAND)
        canvas.paste(_band(lane, label, canvas.width), (0, top))
        for column, index in enumerate(chosen):
            x = GAP + column * (width + GAP)
            canvas.paste(Image.fromarray(frames[index]).resize((width, height), Image.Resampling.BICUBIC), (x, top + BAND))
            draw.text((x, top + BAND + height + 6), f"chunk {numbers[index] + 1}", fill=SOFT, font=_font(12))
    return canvas
