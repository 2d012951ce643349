"""One page's questions, asked as the stage asks them, without a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stand_in import StandInEngine, StandInSession, facts

from fkv.events import Settings
from fkv.ui.lab import asker
from fkv.ui.shelf import Backend, Shelf
from fkv.ui.visitors import Lobby, Visitor, Visitors
from fkv.ui.wiring import House

SETTINGS = Settings(prompt="a red ball bouncing", chunks=4)


def asked(visitor: Visitor, engine: StandInEngine | None = None) -> Callable[..., dict[str, Any]]:
    """`ask(what, **body)` of a visitor whose model is loaded."""
    made = engine or StandInEngine()
    shelf, visitors = Shelf(lambda _: made), Visitors()  # type: ignore[arg-type,return-value]
    shelf.want("pocket").result(5)
    visitors.open[visitor.key], visitor.model = visitor, "pocket"
    ask = asker(House(visitors, Lobby(), shelf, Backend(shelf.load, facts, StandInSession), SETTINGS))  # type: ignore[arg-type]
    return lambda what, **body: ask({"key": visitor.key, "what": what, **body})
