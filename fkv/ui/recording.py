"""What one run produced, within bounds: the newest chunks as JPEG and, where they are told, as clean latents; every measurement until a
limit that is named in the file.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np

from fkv.engine import Engine
from fkv.events import Event, Frames, ModelFacts, Notice, Residency, Sample, Start, Verdict
from fkv.findings import LANES, Classes, Heads, Lane
from fkv.redraw import WARM_UP, Clean
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


@dataclass(frozen=True)
class Reel:
    """What a video is made of: (chunk, A, B) of the chunks both lanes had finished when it was cut, oldest first, at `fps`.

    `clean` are their clean latents, after those of `warm_up` chunks before them; empty where they were not kept. `engine` made them.
    """

    fps: int
    pairs: list[tuple[int, Clip, Clip]]
    clean: list[dict[Lane, Clean]]
    warm_up: int
    engine: Engine | None

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray, str, str]]:
        """Pixel frames of both lanes as they were sent, uint8 [H, W, 3], with their labels, chunk by chunk."""
        for _, left, right in self.pairs:
            for a, b in zip(split(left.jpeg, left.count), split(right.jpeg, right.count)):
                yield a, b, left.label, right.label


class Recording:
    """Bounded memory of a run of `engine`; written by the run, read by a download at the same time. `latest` holds the
    newest survey of every layer, `heads` the event it came with, `held` the newest choice of segments in lane B.

    Clean latents, where the run tells them, are kept in half precision for as many chunks as pictures, and for those a decoder warms up
    on: 0.6 MB per chunk and lane at 480p, 81 MB in all; at 1080p 3.1 MB, 426 MB in all.
    """

    def __init__(self, chunks: int = CHUNKS, measurements: int = MEASUREMENTS, *, engine: Engine | None = None) -> None:
        self.lock = threading.Lock()
        self.most = chunks
        self.engine = engine
        self.start: Start | None = None
        self.clips: dict[int, dict[Lane, Clip]] = {}
        self.clean: dict[int, dict[Lane, Clean]] = {}
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
                self._keep(event, event.jpeg)
            elif isinstance(event, Heads):
                self.latest.take(event)
                self.heads |= dict.fromkeys(event.layers, event)
            elif isinstance(event, Measured):
                self.dropped += len(self.measured) == self.measured.maxlen
                self.measured.append(event)
            elif isinstance(event, Residency) and event.similarity:
                self.held = event

    def _keep(self, event: Frames, jpeg: bytes) -> None:
        """A chunk's pictures and latents; the oldest go."""
        self.clips.setdefault(event.chunk, {})[event.lane] = Clip(jpeg, len(event.pixels), event.label, event.latent_start)
        if event.latents is not None:
            self.clean.setdefault(event.chunk, {})[event.lane] = Clean(event.latents.astype(np.float16), event.label)
        for kept, most in ((self.clips, self.most), (self.clean, self.most + WARM_UP)):
            for old in [chunk for chunk in kept if chunk <= event.chunk - most]:
                del kept[old]

    def events(self) -> list[Event]:
        """What a lesson or a figure is made of: the start, measurements oldest first, the newest looks at the heads and at a choice."""
        with self.lock:
            looks = {event.chunk: event for event in self.heads.values()}
            found: list[Event | None] = [self.start, *self.measured, *(looks[chunk] for chunk in sorted(looks)), self.held]
            return [event for event in found if event is not None]

    def pairs(self) -> list[tuple[int, Clip, Clip]]:
        """(chunk, A, B) of the chunks both lanes finished, oldest first."""
        with self.lock:
            return self._pairs()

    def _pairs(self) -> list[tuple[int, Clip, Clip]]:
        return [(chunk, lanes["A"], lanes["B"]) for chunk, lanes in sorted(self.clips.items()) if len(lanes) == len(LANES)]

    def reel(self) -> Reel:
        """What a video of this moment is made of. Raises ValueError where no chunk is there yet."""
        with self.lock:
            start, pairs, known = self.start, self._pairs(), dict(self.clean)
        if start is None or not pairs:
            raise ValueError("nothing was generated yet; press Start first")
        first = pairs[0][0]
        wanted = range(max(0, first - WARM_UP), pairs[-1][0] + 1)
        clean = [known[chunk] for chunk in wanted] if known.keys() >= set(wanted) else []
        return Reel(start.model.fps, pairs, clean, first - wanted[0], self.engine)

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
