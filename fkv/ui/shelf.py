"""What the page asks of the engine room, and the shelf of models that are loaded once and shared by all visitors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fkv.engine import Engine
from fkv.events import ModelFacts, ProfileFacts
from fkv.spec import MODELS

if TYPE_CHECKING:
    from fkv.session import Session


@dataclass(frozen=True)
class Backend:
    """`load` makes an engine by model name, `facts` says what it is, `session` opens a run (engine, settings, encode). `progress` says how
    a load goes on, in words; `models` are the (title, name) to choose from; `concern` says why lanes of these policies will not fit the
    device, "" where they do.
    """

    load: Callable[[str], Engine]
    facts: Callable[[Engine], tuple[ModelFacts, ProfileFacts | None]]
    session: Callable[..., Session]
    progress: Callable[[], str] = lambda: ""
    models: Callable[[], Sequence[tuple[str, str]]] = lambda: [(spec.title, spec.name) for spec in MODELS]
    concern: Callable[[Engine, Sequence[str], int], str] = lambda engine, policies, chunks: ""


class Shelf:
    """Loads each model at most once at a time; a failed load is tried again when it is next wanted."""

    def __init__(self, load: Callable[[str], Engine]) -> None:
        self.load = load
        self.lock = threading.Lock()
        self.loading: dict[str, Future[Engine]] = {}

    def want(self, name: str) -> Future[Engine]:
        """The engine to come; starts loading it if nothing has."""
        with self.lock:
            future = self.loading.get(name)
            if future is None or (future.done() and future.exception() is not None):
                future = self.loading[name] = Future()
                threading.Thread(target=self._load, args=(name, future), name=f"load {name}", daemon=True).start()
            return future

    def ready(self, name: str) -> Engine | None:
        """The engine if it is loaded."""
        future = self.want(name)
        return future.result() if future.done() and future.exception() is None else None

    def _load(self, name: str, future: Future[Engine]) -> None:
        try:
            future.set_result(self.load(name))
        except BaseException as error:  # the waiting visitor reads it as a sentence
            future.set_exception(error)
