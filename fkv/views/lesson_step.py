"""What a step of the lesson is made of, and the three kinds of questions. `**word**` is bold; nothing else is markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fkv.views.trace import Trace

Json = dict[str, Any]


@dataclass(frozen=True)
class Live:
    """What a step sets on the Live page: `edits` of the settings, and what the learner should look at there."""

    label: str
    text: str
    edits: Mapping[str, Any]
    restore: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A step without its title: paragraphs, a question, what is shown, the reveal's sentences."""

    text: Sequence[str]
    question: Json
    data: Json
    reveal: Sequence[str]
    live: Live | None = None

    def to_json(self) -> Json:
        live = self.live and {**vars(self.live), "edits": dict(self.live.edits), "restore": dict(self.live.restore)}
        return {"text": list(self.text), "question": self.question, "data": self.data, "reveal": list(self.reveal), "live": live}


def choice(prompt: str, options: Sequence[tuple[str, bool, str]]) -> Json:
    """Options as (text, right, why)."""
    return {"kind": "choice", "prompt": prompt, "options": [{"text": text, "right": right, "why": why} for text, right, why in options]}


def guess(prompt: str, value: float, *, low: float, high: float, step: float, unit: str, near: float, start: float) -> Json:
    """A slider; a guess within `near` of the value is close."""
    bounds = {"low": low, "high": high, "step": step, "unit": unit, "near": near, "start": start}
    return {"kind": "guess", "prompt": prompt, "value": round(value, 3), **bounds}


def source_of(trace: Trace) -> Json:
    """The badge of a step."""
    made = trace.source
    if made.kind == "live":
        return {"kind": "live", "text": f"your live run, {made.machine}", "prompt": trace.prompt}
    if made.kind == "profile":
        return {"kind": "profile", "text": f"head profile of the loaded model, {trace.model.title}, {trace.prompt}", "prompt": ""}
    words = [f"recorded on {made.date}", f"commit {made.commit}" if made.commit else "", made.machine]
    return {"kind": "recorded", "text": ", ".join(filter(None, words)), "prompt": trace.prompt}
