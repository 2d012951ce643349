"""One run as the stage sees it: a generator of JSON strings, from the line at the door to the last chunk."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import TimeoutError as NotYet
from typing import TYPE_CHECKING

from fkv import redraw
from fkv.engine import Engine
from fkv.events import Done, Event, Frames, Notice, Settings, Start, Tick, Verdict, sentence
from fkv.policies import parse
from fkv.ui.recording import Recording
from fkv.ui.shelf import Shelf
from fkv.ui.visitors import Lobby, Visitor
from fkv.views import encode, message

if TYPE_CHECKING:
    from fkv.session import Session

AT_ONCE = (Start, Frames, Verdict, Notice, Tick, Done)
LEAD = 2.5  # seconds of video a fast model may be ahead of playback
BEAT = 0.25


class Wire:
    """Packs events into the messages of one run, numbered from 0; cheap ones wait for the next that must go at once."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.seq = 0
        self.waiting: list[dict[str, object]] = []

    def pack(self, event: Event) -> str | None:
        self.waiting.append(message(event))
        return self.send() if isinstance(event, AT_ONCE) else None

    def send(self) -> str | None:
        if not self.waiting:
            return None
        text = say(*self.waiting, run=self.run, seq=self.seq)
        self.waiting, self.seq = [], self.seq + 1
        return text


def say(*events: dict[str, object], run: str = "", seq: int = 0) -> str:
    """A message for the stage; without a run it is about the page itself."""
    return json.dumps({"run": run, "seq": seq, "events": events}, allow_nan=False, separators=(",", ":"))


def trouble(text: str) -> str:
    """A sentence in the stage's own card."""
    return say({"type": "notice", "kind": "error", "lane": None, "chunk": 0, "text": text, "state": "", "ms": 0, "cost": ""})


class Pacer:
    """Keeps production at most `lead` seconds ahead of playback at `fps`: a bucket that frames fill and time empties."""

    def __init__(self, fps: float, lead: float = LEAD, clock: Callable[[], float] = time.monotonic) -> None:
        self.fps, self.lead, self.clock = fps, lead, clock
        self.level, self.then = 0.0, clock()

    def sent(self, frames: int) -> None:
        self.ahead()
        self.level += frames

    def ahead(self) -> float:
        """Seconds to wait before the next chunk may begin."""
        now = self.clock()
        self.level = max(0.0, self.level - self.fps * (now - self.then))
        self.then = now
        return max(0.0, self.level / self.fps - self.lead)


def play(
    visitor: Visitor, lobby: Lobby, shelf: Shelf, model: str, settings: Settings, opening: Callable[..., Session]
) -> Generator[str, None, None]:
    """JSON strings for the stage until the run ends, is replaced, or the page is closed; then the seat is free and the session stopped."""
    run = visitor.begin(time.monotonic())
    if run is None:
        return
    ticket = lobby.ask(visitor.key)
    session: Session | None = None
    try:
        yield from _wait(visitor, run, lobby, ticket)
        engine = yield from _load(shelf, model, visitor, run)
        if engine is None or not visitor.current(run):
            return
        session, recording = opening(engine, settings, encode, latents=redraw.useful(engine)), Recording(engine=engine)
        if visitor.open(run, session, recording):
            yield from _stream(session, recording, f"{visitor.key[:8]}-{run}", engine)
    except (ValueError, RuntimeError, OSError) as error:
        logging.getLogger(__name__).error("a run ended early", exc_info=error)
        yield trouble(sentence(error))
    finally:
        visitor.end(session)
        lobby.leave(visitor.key, ticket)


def parting(engine: Engine, policy: str) -> dict[str, object]:
    """For the stage: whether lane B's policy tells classes of heads apart, and in which layers it does not."""
    chosen, geometry = parse(policy), engine.spec.geometry
    alike: list[int] = []
    if chosen.needs_roles and geometry.heads > 1:
        half = (tuple(range(geometry.heads // 2)),) * geometry.layers
        fitted = chosen.with_roles(half).fitted(geometry)
        parts = [len(fitted.expected(layer, 4, geometry, 1)) for layer in range(geometry.layers)]
        alike = [layer for layer, count in enumerate(parts) if count == 1 < max(parts)]
    return {"type": "parting", "policy": policy, "classes": chosen.needs_roles, "alike": alike}


def _wait(visitor: Visitor, run: int, lobby: Lobby, ticket: object) -> Iterator[str]:
    while visitor.current(run):
        try:
            place = lobby.wait(ticket, 1.0)
        except KeyError:
            return
        if not place or not visitor.current(run):
            return
        others = f"{lobby.seats} people are using the model" if lobby.seats > 1 else "Someone is using the model"
        words = f"{others}. You are number {place} in line; it starts by itself."
        yield say({"type": "queue", "ask": run, "place": place, "text": words})  # a message equal to the last one would not arrive


def _load(shelf: Shelf, model: str, visitor: Visitor, run: int) -> Iterator[str]:
    future = shelf.want(model)
    while visitor.current(run):
        try:
            return future.result(timeout=0 if future.done() else BEAT)
        except NotYet:
            yield say({"type": "hello", "state": "loading", "text": "Loading the model", "model": None, "profile": None})
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            yield trouble(sentence(error))
            return None
    return None


def _stream(session: Session, recording: Recording, name: str, engine: Engine) -> Iterator[str]:
    wire, pacer, policy = Wire(name), Pacer(engine.spec.fps), ""
    for event in session.events():
        recording.take(event)
        if isinstance(event, Frames) and event.lane == "B" and event.policy != policy:
            policy = event.policy
            wire.waiting.append(parting(engine, policy))
        if (text := wire.pack(event)) is not None:
            yield text
        if isinstance(event, Frames) and event.lane == "B":
            pacer.sent(len(event.pixels))
        while isinstance(event, Verdict) and (wait := pacer.ahead()):
            time.sleep(min(wait, BEAT))
            yield say()
    if (text := wire.send()) is not None:
        yield text
