"""Who is here: one `Visitor` per browser page, and the `Lobby` that lets a few run at a time. Visitors share nothing."""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fkv.ui.recording import Recording

if TYPE_CHECKING:
    from fkv.heads import HeadProfile
    from fkv.session import Session
    from fkv.ui.held import Held

DOUBLE_CLICK = 0.7  # seconds
QUESTIONS = 30  # a page may ask that many at once, and as many a second


class Allowance:
    """A bucket of questions that refills with time; `take` says whether one more is allowed."""

    def __init__(self, most: float = QUESTIONS) -> None:
        self.most = self.left = most
        self.then = -math.inf
        self.lock = threading.Lock()

    def take(self, now: float) -> bool:
        with self.lock:
            self.left = min(self.most, self.left + self.most * (now - self.then))
            self.then = now
            if self.left < 1:
                return False
            self.left -= 1
            return True


@dataclass
class Visitor:
    """One page's state: its model as the shelf calls it and the one asked for last, what it has chosen about heads (settings by name) and
    the head profile it brought last, its running session if any, the one that ran last, what that session produced, and the chunk of it
    that the lesson holds still.
    """

    key: str
    recording: Recording = field(default_factory=Recording)
    session: Session | None = None
    last: Session | None = None
    brought: HeadProfile | None = None
    held: Held | None = None
    paused: bool = False
    model: str = ""
    asked_model: str = ""
    wishes: dict[str, Any] = field(default_factory=dict)
    allowance: Allowance = field(default_factory=Allowance)
    gone: bool = False
    run: int = 0
    asked: float = -DOUBLE_CLICK
    files: tempfile.TemporaryDirectory[str] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, now: float) -> int | None:
        """Number of a new run, which ends the one before; None for the second half of a double click."""
        with self.lock:
            if now - self.asked < DOUBLE_CLICK:
                return None
            self.asked = now
            self.run += 1
            self.paused = False
            if self.session is not None:
                self.session.stop()
            return self.run

    def open(self, run: int, session: Session, recording: Recording) -> bool:
        """Makes `session` this visitor's own; False if something newer has begun or the page is gone."""
        with self.lock:
            if self.gone or run != self.run:
                return False
            self.session, self.recording, self.held, self.last = session, recording, None, None
            return True

    def end(self, session: Session | None) -> None:
        """Stops `session`; safe to call twice."""
        if session is not None:
            session.stop()
        with self.lock:
            if self.session is session:
                self.session, self.last = None, self.session

    def current(self, run: int) -> bool:
        return not self.gone and run == self.run

    def stop(self) -> None:
        """Ends whatever runs or waits; a start right after it is meant."""
        with self.lock:
            self.asked = float("-inf")
            self.run += 1
            self.paused = False
            if self.session is not None:
                self.session.stop()

    def folder(self) -> Path:
        """Where this visitor's downloads are made; removed when the page is closed."""
        with self.lock:
            self.files = self.files or tempfile.TemporaryDirectory(prefix="fkv-")
            return Path(self.files.name)

    def change(self, **edits: object) -> bool:
        """Changes the running session; False when nothing runs."""
        with self.lock:
            if self.session is None:
                return False
            self.session.change(**edits)
            return True


class Visitors:
    """All pages that are open, by their session hash."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.lock = threading.Lock()
        self.open: dict[str, Visitor] = {}

    def __len__(self) -> int:
        return len(self.open)

    def of(self, key: str) -> Visitor:
        """The visitor of a page; a new one at its first call. The one idle for longest makes room beyond `most`."""
        with self.lock:
            if key not in self.open and len(self.open) >= self.most:
                idle = [old for old, visitor in self.open.items() if visitor.session is None]
                self.open.pop(idle[0] if idle else next(iter(self.open))).stop()
            return self.open.setdefault(key, Visitor(key))

    def known(self, key: str) -> Visitor:
        """The visitor of a page that is open. Raises ValueError for any other."""
        with self.lock:
            if key not in self.open:
                raise ValueError("this page is not known any more; reload it")
            return self.open[key]

    def leave(self, key: str) -> None:
        """The page was closed: its work ends and nothing of it is kept."""
        with self.lock:
            visitor = self.open.pop(key, None)
        if visitor is not None:
            visitor.gone = True
            visitor.stop()
            if visitor.files is not None:
                visitor.files.cleanup()


class Lobby:
    """Seats for those who run and a line, first come first served, for those who wait."""

    def __init__(self, seats: int = 2, clock: Callable[[], float] = time.monotonic) -> None:
        self.seats = seats
        self.clock = clock
        self.changed = threading.Condition()
        self.seated: dict[str, object] = {}
        self.line: list[tuple[str, object]] = []

    def ask(self, key: str) -> object:
        """A ticket for `key`. Who already sits, or stands in the line, keeps the place with the new ticket."""
        ticket = object()
        with self.changed:
            if key in self.seated:
                self.seated[key] = ticket
            elif any(waiting == key for waiting, _ in self.line):
                self.line = [(waiting, ticket if waiting == key else old) for waiting, old in self.line]
            else:
                self.line.append((key, ticket))
                self._admit()
        return ticket

    def place(self, ticket: object) -> int:
        """0 with a seat, else the position in the line from 1. Raises KeyError for a ticket that is no longer good."""
        with self.changed:
            return self._place(ticket)

    def wait(self, ticket: object, seconds: float) -> int:
        """`place`, after it changed or after `seconds`."""
        with self.changed:
            before = self._place(ticket)
            if before:
                self.changed.wait_for(lambda: self._held(ticket) != before, seconds)
            return self._place(ticket)

    def leave(self, key: str, ticket: object) -> None:
        """Gives back what `ticket` holds; nothing if a newer ticket of `key` took it over."""
        with self.changed:
            if self.seated.get(key) is ticket:
                del self.seated[key]
            self.line = [(waiting, other) for waiting, other in self.line if other is not ticket]
            self._admit()

    def _admit(self) -> None:
        while self.line and len(self.seated) < self.seats:
            key, ticket = self.line.pop(0)
            self.seated[key] = ticket
        self.changed.notify_all()

    def _held(self, ticket: object) -> int | None:
        if any(other is ticket for other in self.seated.values()):
            return 0
        return next((index + 1 for index, (_, other) in enumerate(self.line) if other is ticket), None)

    def _place(self, ticket: object) -> int:
        place = self._held(ticket)
        if place is None:
            raise KeyError("this ticket was given back or replaced")
        return place
