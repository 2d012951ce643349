"""`python -m fkv generate`: two lanes into an MP4, a JSON report and a contact sheet."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fkv import machine, meter, video
from fkv.codec import Codec
from fkv.engine import Engine, model_facts
from fkv.events import Frames, Notice, Sample, Settings, Verdict
from fkv.findings import LANES, Lane
from fkv.pairs import EQUAL_DB, frame_psnr
from fkv.redraw import Clean, Undrawn, redrawn
from fkv.session import Session
from fkv.wishes import named

ABOUT = (
    "Chunks and frames count from 0. Times in ms, sizes in bytes, PSNR of lane B against lane A in dB (99: equal). FPS count pixel frames. "
    "Lanes run in turn in one process; the video is encoded after the run. 'hidden' is what of decoding ran beside the clean pass and cost "
    "no time. Warm-up and re-cached chunks are left out of the summary. Times and PSNR are those of the live decoder, also where the video "
    "is drawn anew by another."
)


@dataclass
class Film:
    """What a run leaves behind: frames go to the spool, thumbnails and measurements are kept."""

    spool: video.Spool
    rows: list[dict[str, Any]] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    thumbnails: dict[Lane, list[np.ndarray]] = field(default_factory=lambda: {"A": [], "B": []})
    labels: dict[Lane, str] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)
    verdict: Verdict | None = None
    pending: dict[Lane, Frames] = field(default_factory=dict)
    clean: list[dict[Lane, Clean]] = field(default_factory=list)

    def take(self, event: object) -> None:
        if isinstance(event, Frames):
            if any(frames.chunk != event.chunk for frames in self.pending.values()):
                self.flush()
            self.pending[event.lane], self.labels[event.lane] = event, event.label
        elif isinstance(event, Sample):
            self.rows.append(row(event))
        elif isinstance(event, Verdict):
            self.verdict = event
        elif isinstance(event, Notice):
            self.notices.append(event)

    def flush(self) -> None:
        """Puts the chunk that is waiting aside; a lane that has ended is black."""
        if not self.pending:
            return
        some = next(iter(self.pending.values()))
        black = np.zeros_like(some.pixels)
        sides = [self.pending[lane].pixels if lane in self.pending else black for lane in LANES]
        labels = [self.pending[lane].label if lane in self.pending else "ended" for lane in LANES]
        self.spool.add(sides[0], sides[1], *labels)
        if len(self.pending) == len(LANES) and self.rows and self.rows[-1]["chunk"] == some.chunk:
            values = frame_psnr(self.pending["A"], self.pending["B"])
            self.rows[-1]["psnr"] = round(min(EQUAL_DB, statistics.median(values)), 3)
        self.numbers.append(some.chunk)
        for lane, pixels in zip(LANES, sides):
            self.thumbnails[lane].append(pixels[0].copy())
        clean: dict[Lane, Clean] = {}
        for lane, frames in self.pending.items():
            if frames.latents is not None:
                clean[lane] = Clean(frames.latents, frames.label)
        if clean:
            self.clean.append(clean)
        self.pending = {}

    def sheet(self, title: str) -> Any:
        return video.sheet([(lane, self.labels.get(lane, "ended"), self.thumbnails[lane]) for lane in LANES], self.numbers, title)


def row(sample: Sample) -> dict[str, Any]:
    """A sample for the report, rounded to what was measured."""
    out = asdict(sample)
    phases = {name: [round(ms, 3) for ms in value] if isinstance(value, tuple) else round(value, 3) for name, value in out["ms"].items()}
    totals = {"diffusion": round(sample.ms.diffusion, 3), "end_to_end": round(sample.ms.end_to_end, 3)}
    return out | {"ms": phases | totals, "fps_diffusion": round(sample.fps_diffusion, 3), "fps_end_to_end": round(sample.fps_end_to_end, 3)}


def summary(rows: Sequence[dict[str, Any]], verdict: Verdict | None) -> dict[str, Any]:
    """Medians per lane over chunks that count, and how the lanes compare. None where nothing counts yet."""
    out: dict[str, Any] = {}
    for lane in LANES:
        counted = [entry for entry in rows if entry["lane"] == lane and not entry["warmup"] and not entry["recached"]]
        last = next((entry for entry in reversed(rows) if entry["lane"] == lane), None)
        numbers = {name: [entry[name] for entry in counted] for name in ("fps_diffusion", "fps_end_to_end")}
        out[lane] = {name: asdict(meter.spread(values)) if values else None for name, values in numbers.items()}
        out[lane] |= {name: last[name] if last else None for name in ("bytes_stored", "bytes_read", "bytes_allocated", "bytes_expected")}
    decibels = [entry["psnr"] for entry in rows if "psnr" in entry]
    speed = verdict and {
        "median": verdict.speed,
        "low": verdict.speed_low,
        "high": verdict.speed_high,
        "n": verdict.n,
        "need": verdict.need,
    }
    return out | {"speed_b_over_a": speed, "kept": verdict and verdict.kept, "psnr": statistics.median(decibels) if decibels else None}


def generate(
    engine: Engine,
    settings: Settings,
    out: Path,
    report: Path | None = None,
    sheet: Path | None = None,
    export: Callable[[], Codec] | None = None,
) -> bool:
    """Runs the session unprobed, then encodes the video, both with a progress bar, and writes the files; false if it was interrupted, which
    leaves them whole up to that chunk. With `export` the video is drawn anew, after the run, by the decoder that it opens.

    Raises ValueError if the settings cannot run or a file cannot be written.
    """
    session = Session(engine, replace(settings, benchmark=True), latents=export is not None)
    with machine.interruptible() as stop, video.Spool(out) as spool, video.Spool(out) as again:
        film = Film(spool)
        run(session, film, stop)
        interrupted = stop.asked
        if sheet is not None and film.numbers:
            film.sheet(f"{settings.prompt}, seed {settings.seed}").save(sheet)
        if report is not None:
            write_json(report, document(engine, session.settings, film, interrupted=interrupted))
        drawn = again if export is not None and film.clean and drawn_anew(engine, film, export, again, stop) else spool
        interrupted = stop.asked  # who stops the drawing gets the frames there are
        with tqdm(drawn.frames(), total=len(drawn), desc="video", unit="frame") as frames:
            video.write_video(out, takewhile(lambda _: stop.asked == interrupted, frames), engine.spec.fps)
    return not stop.asked


def drawn_anew(engine: Engine, film: Film, export: Callable[[], Codec], spool: video.Spool, stop: machine.Interruption) -> bool:
    """Puts every chunk into the spool as it is drawn again, in order; false, and why in a line, where that cannot be done or someone asks
    to stop meanwhile.
    """
    asked = stop.asked
    try:
        drawn = redrawn(engine, export, film.clean)
        for chunk in tqdm(drawn, desc=engine.spec.export, total=len(film.clean), unit="chunk", delay=1e-3):  # no bar where nothing is drawn
            spool.add(*chunk)
            if stop.asked != asked:
                return False
    except Undrawn as error:
        tqdm.write(f"The video is drawn by {engine.decoder}, not by {engine.spec.export}: {error}")
        return False
    return True


def run(session: Session, film: Film, stop: machine.Interruption) -> None:
    """Takes a session's events until it ends or, within one chunk, someone asks to stop."""
    with tqdm(total=session.settings.chunks, unit="chunk") as bar:
        for event in session.events():
            film.take(event)
            if isinstance(event, Verdict):
                bar.set_postfix_str(progress(film))
            if isinstance(event, Notice) and event.kind in ("info", "error"):
                bar.write(event.text)
            bar.update(len(film.numbers) - bar.n)
            if stop.asked:
                session.stop()
        if not stop.asked or len(film.pending) == len(LANES):
            film.flush()
        bar.update(len(film.numbers) - bar.n)


def progress(film: Film) -> str:
    newest = {entry["lane"]: entry["fps_end_to_end"] for entry in film.rows[-2:]}
    text = ", ".join(f"{lane} {value:.1f} FPS" for lane, value in sorted(newest.items()))
    ratio = film.verdict.speed if film.verdict else None
    return text + (f", B {ratio:.2f}x" if ratio else "")


def document(engine: Engine, settings: Settings, film: Film, *, interrupted: bool) -> dict[str, Any]:
    return {
        "about": ABOUT,
        "interrupted": interrupted,
        "environment": machine.environment(engine),
        "model": asdict(model_facts(engine)),
        "heads": {"profile": named(engine.profile), "rule": engine.profile.rule} if engine.profile else None,
        "settings": asdict(settings),
        "summary": summary(film.rows, film.verdict),
        "chunks": film.rows,
        "notices": [asdict(notice) for notice in film.notices],
    }


def write_json(path: Path, data: object) -> None:
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file that is whole or not there. Raises ValueError where that cannot be done."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ValueError(f"{path} could not be written: {error.strerror}; choose another place") from None
