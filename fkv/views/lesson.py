"""The lesson as one message: eight steps, each with a text, a question, what it sets in the page, and a reveal.

A text is a template whose numbers, and whose comparisons, come from the run at hand; nothing is carried over from a paper. A live run is
preferred step by step, as far as it has measured what the step needs; else the recorded one; a step that has neither says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fkv.views import lesson_judging, lesson_looking
from fkv.views.lesson_step import Json, Step, source_of
from fkv.views.trace import Trace

Maker = Callable[[Trace], Step | None]

STEPS: tuple[tuple[str, str, Maker], ...] = (
    ("chunks", "Chunks and cache", lesson_looking.chunks),
    ("token", "One token, one head", lesson_looking.token),
    ("curve", "From pixels to a curve", lesson_looking.curve),
    ("predict", "Predict, then score", lesson_looking.predict),
    ("stable", "Is it stable?", lesson_judging.stable),
    ("forget", "What may we forget?", lesson_judging.forget),
    ("break", "Break it", lesson_judging.broken),
    ("buy", "What did it buy?", lesson_judging.buy),
)
CLOSE = ("token", "curve")  # the steps that look at one chunk from close by
NOTHING = "There is no recorded run here. Press Start on the Live tab and come back after a dozen chunks: the lesson then uses your run."
PARTLY = "This step needs a recorded run or more chunks than yours has made. Press Start on the Live tab and let it run a little longer."
UNREADABLE = "The recorded run cannot be read: {}. Press Start on the Live tab; the lesson then uses your run."


def message(sources: Sequence[Trace], trouble: str = "", waiting: Json | None = None) -> Json:
    """Everything the page needs, from the first of `sources` that has it. `trouble` says why there is no recording, where a file was;
    `waiting` what the visitor's run needs before single tokens can be asked for in it."""
    steps = [step(number, *made, sources) for number, made in enumerate(STEPS, start=1)]
    for one in steps:
        one["waiting"] = waiting if one["key"] in CLOSE else None
    note = UNREADABLE.format(trouble.rstrip(".")) if trouble else NOTHING
    return {"type": "lesson", "missing": "" if sources else note, "steps": steps}


def step(number: int, key: str, title: str, make: Maker, sources: Sequence[Trace]) -> Json:
    """One step from the first source that has what it needs."""
    head: Json = {"key": key, "title": title, "number": number}
    for trace in sources:
        found = make(trace)
        if found is not None:
            return head | found.to_json() | {"source": source_of(trace, found), "missing": ""}
    return head | {"missing": PARTLY if sources else NOTHING}
