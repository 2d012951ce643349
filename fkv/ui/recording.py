"""What one run produced, within bounds: the newest chunks as JPEG, and every measurement until a limit that is named in the file."""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np

from fkv.events import Event, Frames, ModelFacts, Notice, Residency, Sample, Start, Verdict
from fkv.findings import LANES, Classes, Heads, Lane
from fkv.views import split
from fkv.views.atlas import picture
from fkv.views.paint import Latest

CHUNKS, MEASUREMENTS = 60, 4000
Measured = Sample | Verdict | Notice | Classes


@dataclass(frozen=True)
class Clip:
    """One lane's chunk as it was sent: `count` pixel frames in a JPEG atlas, the first of them of latent frame `latent`."""

    jpeg: bytes
    count: int
    label: str
    latent: int


class Recording:
    """Bounded memory of a run; written by the run, read by a download at the same time. `latest` holds the
    newest survey of every layer, `heads` the event it came with, `held` the newest choice of segments in lane B.
    """

    def __init__(self, chunks: int = CHUNKS, measurements: int = MEASUREMENTS) -> None:
        self.lock = threading.Lock()
        self.most = chunks
        self.start: Start | None = None
        self.clips: dict[int, dict[Lane, Clip]] = {}
        self.measured: deque[Event] = deque(maxlen=measurements)
        self.dropped = 0
        self.latest = Latest()
        self.heads: dict[int, Heads] = {}
        self.held: Residency | None = None
        self.stills: dict[int, str] = {}

    def take(self, event: Event) -> None:
        """Keeps what a download needs of an event."""
        with self.lock:
            if isinstance(event, Start):
                self.start = event
            elif isinstance(event, Frames) and event.jpeg is not None:
                self.clips.setdefault(event.chunk, {})[event.lane] = Clip(event.jpeg, len(event.pixels), event.label, event.latent_start)
                for old in [chunk for chunk in self.clips if chunk <= event.chunk - self.most]:
                    del self.clips[old]
            elif isinstance(event, Heads):
                self.latest.take(event)
                self.heads |= dict.fromkeys(event.layers, event)
            elif isinstance(event, Measured):
                self.dropped += len(self.measured) == self.measured.maxlen
                self.measured.append(event)
            elif isinstance(event, Residency) and event.similarity:
                self.held = event

    def events(self) -> list[Event]:
        """What a lesson or a figure is made of: the start, measurements oldest first, the newest looks at the heads and at a choice."""
        with self.lock:
            looks = {event.chunk: event for event in self.heads.values()}
            found: list[Event | None] = [self.start, *self.measured, *(looks[chunk] for chunk in sorted(looks)), self.held]
            return [event for event in found if event is not None]

    def pairs(self) -> list[tuple[int, Clip, Clip]]:
        """(chunk, A, B) of the chunks both lanes finished, oldest first."""
        with self.lock:
            return [(chunk, lanes["A"], lanes["B"]) for chunk, lanes in sorted(self.clips.items()) if len(lanes) == len(LANES)]

    def pictures(self) -> dict[int, str]:
        """The middle pixel frame of every latent frame of lane A that is kept, as data URIs by the frame's number."""
        with self.lock:
            start, clips = self.start, [lanes["A"] for _, lanes in sorted(self.clips.items()) if "A" in lanes]
        if start is None or not clips:
            return {}
        known, found = self.stills, {}
        for clip in clips:
            places = middles(clip, start.model)
            if not places.keys() <= known.keys():
                shots = split(clip.jpeg, clip.count)
                known = known | {frame: picture(shots[place]) for frame, place in places.items()}
            found |= {frame: known[frame] for frame in places}
        self.stills = found
        return found

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, str, str]]:
        """Pixel frames of both lanes, uint8 [H, W, 3], with their labels, chunk by chunk."""
        for _, left, right in self.pairs():
            for a, b in zip(split(left.jpeg, left.count), split(right.jpeg, right.count)):
                yield a, b, left.label, right.label

    def report(self) -> str:
        """Every measurement as JSON; raises ValueError when nothing was measured yet."""
        with self.lock:
            start, events, dropped = self.start, list(self.measured), self.dropped
        if start is None:
            raise ValueError("nothing was generated yet; press Start first")
        kinds: dict[str, list[Any]] = {"sample": [], "verdict": [], "notice": [], "classes": []}
        for event in events:
            entry = _plain(event)
            if isinstance(event, Sample):
                entry["ms"] |= {"diffusion": event.ms.diffusion, "end_to_end": event.ms.end_to_end}
            kinds[type(event).__name__.lower()].append(entry)
        note = "Chunks and frames count from 0. Times in ms, sizes in bytes, shares in [0, 1]; FPS count pixel frames. null: not measured."
        head = {"about": note, "older_measurements_left_out": dropped, "start": _plain(start)}
        body = {"samples": kinds["sample"], "verdicts": kinds["verdict"], "changes": kinds["notice"], "classes": kinds["classes"]}
        return json.dumps(head | body, indent=1, allow_nan=False)


def middles(clip: Clip, model: ModelFacts) -> dict[int, int]:
    """The latent frames of a clip, each with the place of its middle pixel frame."""
    found, at, frame = {}, 0, clip.latent
    while at < clip.count:
        span = model.pixel_frames if frame else model.first_frames
        found[frame] = min(at + span // 2, clip.count - 1)
        at, frame = at + span, frame + 1
    return found


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and numpy numbers as JSON types; what is not finite as None."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value
