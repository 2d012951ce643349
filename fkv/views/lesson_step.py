"""What a step of the lesson is made of, and the three kinds of questions. `**word**` is bold; nothing else is markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fkv.views.trace import Trace

Json = dict[str, Any]


@dataclass(frozen=True)
class Live:
    """What a step sets on the Live page, and what the learner should look at there.

    `edits` by name: "compress" (bool), "policy" (lane B's, taken where its own tells no classes apart), "heads" (the first comes on show,
    all are pinned), "rule", and "prompt": "next" (another of the examples).
    """

    label: str
    text: str
    edits: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A step without its title: paragraphs, a question, what is shown, the reveal's sentences. `chunk` is the one chunk it is about, if it
    is about one; `mark` tells two questions apart that come from one run.
    """

    text: Sequence[str]
    question: Json
    data: Json
    reveal: Sequence[str]
    live: Live | None = None
    chunk: int | None = None
    mark: str = ""

    def to_json(self) -> Json:
        live = self.live and {**vars(self.live), "edits": dict(self.live.edits)}
        return {"text": list(self.text), "question": self.question, "data": self.data, "reveal": list(self.reveal), "live": live}


def choice(prompt: str, options: Sequence[tuple[str, bool, str]]) -> Json:
    """Options as (text, right, why)."""
    return {"kind": "choice", "prompt": prompt, "options": [{"text": text, "right": right, "why": why} for text, right, why in options]}


def guess(prompt: str, value: float, *, low: float, high: float, step: float, unit: str, near: float, start: float) -> Json:
    """A slider; a guess within `near` of the value is close."""
    bounds = {"low": low, "high": high, "step": step, "unit": unit, "near": near, "start": start}
    return {"kind": "guess", "prompt": prompt, "value": round(value, 3), **bounds}


def source_of(trace: Trace, step: Step) -> Json:
    """The badge of a step, and `of`: equal for what was asked of the same run."""
    made, about = trace.source, "" if step.chunk is None else f"chunk {step.chunk + 1}"
    of = ":".join((made.kind, made.run or made.date, made.commit, trace.model.title, step.mark))
    if made.kind == "profile":
        words = f"head profile of the loaded model, {trace.model.title}, {trace.prompt}"
        return {"kind": "profile", "text": words, "short": "the loaded model's head profile", "prompt": "", "of": of}
    if made.kind == "live":
        words = ", ".join(filter(None, ["your run", about]))
        return {"kind": "live", "text": f"{words}, {made.machine}", "short": words, "prompt": "", "of": of}
    words = [f"recorded run of {made.date}", about, f"commit {made.commit}" if made.commit else "", made.machine]
    return {"kind": "recorded", "text": ", ".join(filter(None, words)), "short": "the recorded run", "prompt": trace.prompt, "of": of}
