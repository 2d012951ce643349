"""What the page asks of the engine room, and the shelf of models that are loaded once and shared by all visitors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fkv.engine import Engine, resized
from fkv.events import ModelFacts, ProfileFacts, Settings
from fkv.planner import Size, size_of
from fkv.spec import MODELS
from fkv.wishes import Concern

if TYPE_CHECKING:
    from fkv.session import Session


@dataclass(frozen=True)
class Backend:
    """`load` makes an engine by model name, `facts` says what it is, `session` opens a run (engine, settings, encode). `progress` says how
    a load goes on, in words; `models` are the (title, name) to choose from, `sizes` the short names of the sizes of a model, the one it is
    loaded at first, none where it has only that; `resize` gives a loaded model at another, (rows, columns) in pixels. `concern` says what
    speaks against a run on the device.
    """

    load: Callable[[str], Engine]
    facts: Callable[[Engine], tuple[ModelFacts, ProfileFacts | None]]
    session: Callable[..., Session]
    progress: Callable[[], str] = lambda: ""
    models: Callable[[], Sequence[tuple[str, str]]] = lambda: [(spec.title, spec.name) for spec in MODELS]
    sizes: Callable[[str], Sequence[str]] = lambda name: ()
    resize: Callable[[Engine, Size], Engine] = resized
    concern: Callable[[Engine, Settings], Concern] = lambda engine, settings: Concern()

    def edition(self, model: str, size: str | None) -> str:
        """What the shelf calls a model at a size: its name, with "@720p" behind it where that is another size than it is loaded at. A size
        that the model cannot be taken to leaves it at its own."""
        return f"{model}@{size}" if size in self.sizes(model)[1:] else model


class Shelf:
    """Loads each model at most once at a time, whatever the sizes it is wanted at (see `Backend.edition`): `resize` gives the others on the
    same weights. A failed load is tried again when it is next wanted."""

    def __init__(self, load: Callable[[str], Engine], resize: Callable[[Engine, Size], Engine] = resized) -> None:
        self.load, self.resize = load, resize
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
            model, _, label = name.partition("@")
            size = size_of(label or None)
            future.set_result(self.load(name) if size is None else self.resize(self.want(model).result(), size))
        except BaseException as error:  # the waiting visitor reads it as a sentence
            future.set_exception(error)
