"""What the lesson holds still of a visitor's run: one chunk of lane A through the heads on show, so that any token of it can be asked for
while the run goes on, and after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fkv.events import Sample
from fkv.findings import FrameLook, TokenMap
from fkv.views.trace import Atlas, Close

if TYPE_CHECKING:
    from fkv.looking import Head, Looks
    from fkv.ui.visitors import Visitor

ENOUGH = 2  # heads that the lesson compares


@dataclass(frozen=True)
class Held:
    """A chunk of lane A by itself, and what follows from it for the head on show and those pinned beside it."""

    looks: Looks
    close: Close


def hold(visitor: Visitor, *, renew: bool = False) -> None:
    """Holds the newest chunk of the visitor's run once lane A's window is full and two heads are kept; again when asked to `renew`, or when
    other heads are on show."""
    session = visitor.session
    newest = None if session is None else session.looks.still()
    if session is None or newest is None or len(newest.heads) < ENOUGH or not full(visitor):
        return
    now, had = session.settings, visitor.held
    asked = [(now.layer, now.head), *now.pinned]
    changed = had is not None and set(newest.heads) == set(asked) != set(had.looks.heads)
    if had is None or renew or changed:
        visitor.held = Held(newest, closely(newest, [head for head in asked if head in newest.heads] or newest.heads))


def closely(looks: Looks, heads: list[Head] | tuple[Head, ...]) -> Close:
    """All that the lesson shows of a chunk by itself; the pictures come later. `heads` begin with the one on show."""
    seen = {head: looks.overview(*head) for head in heads}
    whole = np.stack([looks.pooled(*head).mass.mean(axis=0) for head in heads])
    one = seen[heads[0]]
    return Close(one.chunk, one.frames, (), tuple(atlas(look) for look in seen.values()), whole)


def atlas(look: FrameLook) -> Atlas:
    """A head whose tokens are asked for one by one."""
    return Atlas(look.layer, look.head, look.share, "", np.nan_to_num(look.mean).reshape(len(look.frames), -1))


def close(visitor: Visitor) -> Close | None:
    """The chunk held, with the pictures that are still kept of it; None where nothing is held or a picture is gone."""
    if visitor.held is None:
        return None
    found, shots = visitor.held.close, visitor.recording.pictures()
    had = found.pictures or tuple(shots[frame] for frame in found.frames if frame in shots)
    if len(had) < len(found.frames):
        return None
    whole = replace(found, pictures=had)
    visitor.held = replace(visitor.held, close=whole)
    return whole


def full(visitor: Visitor) -> bool:
    """Whether lane A looks back as far as it ever will: the window is full, or what it looks back on has stopped growing."""
    start = visitor.recording.start
    past = [event.past for event in visitor.recording.events() if isinstance(event, Sample) and event.lane == "A"]
    if start is None or len(past) < 3:
        return False
    return past[-1] + start.model.chunk >= start.model.window or past[-1] == past[-2]


def waiting(visitor: Visitor) -> dict[str, Any] | None:
    """What a running session still needs for its own maps to be shown: in words, and the head to pin where there is only one. None where
    they are shown or nothing runs."""
    session, start = visitor.session, visitor.recording.start
    if session is None or start is None or visitor.held is not None:
        return None
    now, scores = session.settings, start.profile and start.profile.scores
    if now.benchmark:
        return {"text": "Your run measures no heads: benchmark mode is on. Switch it off on the Heads tab.", "pin": None}
    pin = None if now.pinned else other(scores, now.layer, now.head)
    return {"text": "Your run is not used yet: it is shown here as soon as its window is full and two heads are measured.", "pin": pin}


def other(scores: Any, layer: int, head: int) -> list[int] | None:
    """The head whose score is furthest from that of the one on show, past layer 0, which is compressed by rule; None without scores."""
    if scores is None:
        return None
    found = np.asarray(scores, float)
    away = np.abs(found - found[layer, head])
    away[: min(1, len(found) - 1)] = -1
    away[layer, head] = -2
    return [int(place) for place in np.unravel_index(int(away.argmax()), away.shape)]


def token(visitor: Visitor, chunk: int, layer: int, head: int, row: int, column: int) -> TokenMap:
    """Where one token of the newest frame of the chunk held looks. Raises ValueError where that chunk is no longer held."""
    held = visitor.held
    if held is None or held.close.chunk != chunk:
        raise ValueError(f"chunk {chunk + 1} of your run is no longer held; take the newest chunk")
    return held.looks.look(layer, head, held.close.frames[-1], row, column)
