"""What the stage asks of the visitor's own session: choices about heads, a token's map, a head's matrix, the price of a painted policy.

Calls come past the queue and from any client: each is checked, counted against the visitor's allowance, and answered with data or with
one sentence that says what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fkv.cache import Roles
from fkv.cells import segments_of
from fkv.engine import Engine, profile_facts
from fkv.events import ProfileFacts, Sample, Settings, sentence
from fkv.findings import LANES, Lane
from fkv.looking import spelled
from fkv.policies import parse, spelling
from fkv.ui import held, profiles
from fkv.ui.visitors import Visitor
from fkv.views import heads, lesson_trials, numbers
from fkv.views.forecast import outlook
from fkv.views.paint import Painting, predict
from fkv.wishes import RULES, carried, check_head, profile_of, roles_of

if TYPE_CHECKING:
    from fkv.session import Session
    from fkv.ui.wiring import House

Json = dict[str, Any]
PINNED, OVERRIDES, LONGEST = 4, 4096, 40


def asker(house: House) -> Callable[[Json], Json]:
    """The one function that the stage calls in the server: {key, what, ...} to {ok, ...} or {ok: false, error}."""

    def ask(given: Json) -> Json:
        try:
            visitor = house.visitors.known(str(given["key"]))
            if not visitor.allowance.take(time.monotonic()):
                raise ValueError("that was asked too often within a second; wait a moment")
            if given["what"] not in ANSWERS:
                raise ValueError(f"the question {str(given['what'])[:LONGEST]!r} is unknown; ask one of: {', '.join(ANSWERS)}")
            return {"ok": True, **ANSWERS[given["what"]](house, visitor, given)}
        except (KeyError, TypeError) as error:
            return {"ok": False, "error": f"The question is incomplete ({error}); reload the page."}
        except (ValueError, RuntimeError) as error:
            return {"ok": False, "error": sentence(error)}

    return ask


def choose(house: House, visitor: Visitor, given: Json) -> Json:
    """Settings about heads, taken over by the running session at its next chunk and kept for the next run."""
    edits = {name: read(given[name]) for name, read in EDITS.items() if name in given}
    engine = loaded(house, visitor)
    roles = fitting(engine, replace(house.defaults, **{**visitor.wishes, **edits}))
    visitor.change(**edits)
    visitor.wishes |= edits
    return {"static": None if roles is None else [list(layer) for layer in roles]}


def fitting(engine: Engine, settings: Settings) -> Roles | None:
    """The static heads that settings come to; None for a model without profile. Raises ValueError where they do not fit the model."""
    check_head(engine, settings)
    return None if profile_of(engine, settings) is None and settings.roles is None else roles_of(engine, settings)


def keep_fitting(visitor: Visitor, engine: Engine, defaults: Settings) -> Json | None:
    """Lets go of what a visitor chose for another model and does not fit this one; gives the notice that says so, None where all fits."""
    settings, said = carried(replace(defaults, **visitor.wishes), engine.spec.geometry)
    try:
        fitting(engine, settings)
    except ValueError as error:
        said, settings = (*said, sentence(error)), replace(settings, rule=defaults.rule, threshold=None, overrides=())
    visitor.wishes = {name: getattr(settings, name) for name in visitor.wishes}
    return {"type": "notice", "kind": "error", "mild": True, "lane": None, "chunk": 0, "text": " ".join(said)} if said else None


def brought(visitor: Visitor, engine: Engine) -> ProfileFacts | None:
    """The head profile a visitor goes by in place of the model's own, for the stage; None where there is none."""
    mine = visitor.wishes.get("profile")
    return profile_facts(engine, mine) if mine is not None else None


def look(house: House, visitor: Visitor, given: Json) -> Json:
    """Where one token looks (toward keys) or what looks at it (toward queries), in lane A and where it holds the frame in lane B."""
    layer, head, frame, row, column = (whole(given, name) for name in ("layer", "head", "frame", "row", "column"))
    toward = given.get("toward", "keys")
    if toward not in ("keys", "queries"):
        raise ValueError(f"direction {str(toward)[:20]!r} is unknown; use keys or queries")
    chunk = whole(given, "chunk") if toward == "queries" and "chunk" in given else None
    looks, maps = looked(visitor).looks, {}
    for lane in LANES:
        try:
            maps[lane] = heads.token_map(looks.look(layer, head, frame, row, column, lane=lane, toward=toward, chunk=chunk))
        except ValueError:
            if lane == "A":
                raise
            maps[lane] = None
    return {"maps": maps}


def pooled(house: House, visitor: Visitor, given: Json) -> Json:
    """One head's attention by frames, all queries."""
    lane: Lane = "B" if given.get("lane") == "B" else "A"
    return {"matrix": heads.matrix(looked(visitor).looks.pooled(whole(given, "layer"), whole(given, "head"), lane=lane))}


def paint(house: House, visitor: Visitor, given: Json) -> Json:
    """What a painted policy would keep, store and read, before it runs."""
    engine = loaded(house, visitor)
    facts, _ = house.backend.facts(engine)
    painting = Painting.read(str(given["painted"]), segments_of(engine.spec.geometry))
    static = fitting(engine, replace(house.defaults, **visitor.wishes)) or ((),) * facts.layers
    policy = parse(str(given["painted"])).with_roles(static).fitted(engine.spec.geometry)
    policy.check(engine.spec.geometry)
    predicted = predict(visitor.recording.latest.layers, painting, static, facts)
    samples = [event for event in visitor.recording.events() if isinstance(event, Sample)]
    return heads.price(predicted, facts.layers, outlook(samples, predicted["read_bytes"], spelling(policy)))


def profile(house: House, visitor: Visitor, given: Json) -> Json:
    """Takes a head profile from the text of a file (None: back to the model's own); lane B goes by it from its next chunk."""
    return profiles.bring(visitor, loaded(house, visitor), given["text"], given.get("name", ""))


def profile_file(house: House, visitor: Visitor, given: Json) -> Json:
    """The profile in force with its recipe, as a file's name and text."""
    settings = replace(house.defaults, **visitor.wishes)
    return dict(profiles.file(loaded(house, visitor), settings, str(given.get("format", "fkv"))))


def lookable(house: House, visitor: Visitor, given: Json) -> Json:
    """In which chunks a head can be looked at, and in words how far back that goes."""
    looks = looked(visitor).looks
    chunks = looks.chunks(whole(given, "layer"), whole(given, "head"))
    sizes = f"{numbers.size_text(looks.nbytes)} of at most {numbers.size_text(looks.bound)} of queries and keys kept"
    return {"chunks": list(chunks), "text": f"{spelled(chunks) if chunks else 'no chunk yet'}; {sizes}"}


def token(house: House, visitor: Visitor, given: Json) -> Json:
    """Where one token looks through some heads, in the chunk that the lesson holds still."""
    chunk, row, column = (whole(given, name) for name in ("chunk", "row", "column"))
    return {"maps": [heads.token_map(held.token(visitor, chunk, layer, head, row, column)) for layer, head in _pinned(given["heads"])]}


def trials(house: House, visitor: Visitor, given: Json) -> Json:
    """What the run has measured under each choice of static heads."""
    return lesson_trials.message(visitor.recording.events(), lambda policy: parse(policy).needs_roles)


def loaded(house: House, visitor: Visitor) -> Engine:
    engine = house.shelf.ready(visitor.model) if visitor.model else None
    if engine is None:
        raise ValueError("the model is still being loaded; try again in a moment")
    return engine


def looked(visitor: Visitor) -> Session:
    """The session whose heads can be looked at: the one that runs, else the one that ran last."""
    session = visitor.session or visitor.last
    if session is None:
        raise ValueError("nothing was generated yet; press Start first")
    return session


def whole(given: Mapping[str, Any], name: str) -> int:
    """A whole number, not negative. Raises ValueError on anything else."""
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} {str(value)[:20]!r} is not a whole number from 0 on; choose a head or token that is on the page")
    return value


def _threshold(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"threshold {str(value)[:20]} is outside [0, 1]; the published one is 0.8")
    return float(value)


def _rule(value: Any) -> str:
    if not isinstance(value, str) or len(value) > LONGEST:
        raise ValueError(f"rule {str(value)[:20]!r} is unknown; use one of: {RULES}")
    return value


def _head(value: Any) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"{str(value)[:20]!r} names no head; give its layer and its number, for instance [1, 0]")
    layer, head = value
    return whole({"layer": layer}, "layer"), whole({"head": head}, "head")


def _pinned(value: Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(value, list) or len(value) > PINNED:
        raise ValueError(f"at most {PINNED} heads can be pinned; unpin one first")
    return tuple(_head(entry) for entry in value)


def _overrides(value: Any) -> tuple[tuple[int, int, str], ...]:
    if not isinstance(value, list) or len(value) > OVERRIDES:
        raise ValueError(f"more than {OVERRIDES} heads cannot be overridden one by one; use a rule")
    kinds = {kind for _, _, kind in value}
    if unknown := kinds - {"static", "dynamic"}:
        raise ValueError(f"class {str(unknown.pop())[:20]!r} is unknown; use static or dynamic")
    return tuple((*_head((layer, head)), str(kind)) for layer, head, kind in value)


def _skip(value: Any) -> int:
    if value not in (1, 3):
        raise ValueError(f"{str(value)[:20]} first frames cannot be left out; use 1 or 3")
    return int(value)


EDITS: dict[str, Callable[[Any], Any]] = {
    "layer": lambda value: whole({"layer": value}, "layer"),
    "head": lambda value: whole({"head": value}, "head"),
    "pinned": _pinned,
    "rule": _rule,
    "threshold": _threshold,
    "overrides": _overrides,
    "skip_first": _skip,
    "benchmark": bool,
}
ANSWERS: dict[str, Callable[[House, Visitor, Json], Json]] = {
    "choose": choose,
    "look": look,
    "lookable": lookable,
    "pooled": pooled,
    "paint": paint,
    "profile": profile,
    "profile_file": profile_file,
    "token": token,
    "trials": trials,
}
