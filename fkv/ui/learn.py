"""The Learn tab: a stage for the lesson, fed by one message made of the recorded run and, where it has measured enough, the visitor's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv.ui import held
from fkv.ui.theme import STAGE
from fkv.views import lesson, live
from fkv.views.trace import Trace, read

if TYPE_CHECKING:
    from fkv.ui.wiring import House

LESSON = STAGE.parent / "lesson"
RECORDED = LESSON / "recorded.json.gz"
SHEETS = ("lesson", "analysis")
SCRIPTS = ("scenes", "cards", "trials", "judging", "answers", "live", "lesson")
ON_LOAD = """
const events = ['lesson_open'];
const begin = () => (window.fkvLesson ? window.fkvLesson.mount(element, trigger, props, watch) : setTimeout(begin, 20));
begin();
"""
QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "trigger_mode": "multiple", "api_visibility": "private"}


def head() -> str:
    """Style and script for the page's <head>: one closed scope that leaves only `window.fkvLesson`.

    The style is that of the Analysis tab too.
    """
    scripts = "\n".join([(STAGE / "kit.js").read_text(encoding="utf-8"), *(text(f"{name}.js") for name in SCRIPTS)])
    scope = f'(() => {{\n"use strict";\n{scripts}\nwindow.fkvLesson = {{ mount }};\n}})();'
    styles = "\n".join(text(f"{name}.css") for name in SHEETS)
    return f"<style>{styles}</style>\n<script>{scope}</script>"


def text(name: str) -> str:
    return (LESSON / name).read_text(encoding="utf-8")


def build() -> gr.HTML:
    """The lesson's stage, where it is called."""
    return gr.HTML("", html_template=text("lesson.html"), js_on_load=ON_LOAD, apply_default_css=False, elem_id="learn")


def recorded() -> tuple[Trace | None, str]:
    """The run that ships with the page, and why there is none where its file cannot be read."""
    try:
        return read(RECORDED), ""
    except ValueError as error:
        return None, str(error)


def connect(stage: gr.HTML, house: House) -> None:
    """Answers the lesson when it is opened and while a run goes on. What a step sets, its script sets by the page's own controls."""
    trace, trouble = recorded()

    def opened(event: gr.EventData, request: gr.Request) -> str:
        visitor = house.visitor(request)
        held.hold(visitor, renew=bool(getattr(event, "renew", False)))
        return say(lesson.message(at_hand(house, request, trace), trouble, held.waiting(visitor)))

    stage.lesson_open(opened, None, stage, **QUIET)


def at_hand(house: House, request: gr.Request, trace: Trace | None) -> list[Trace]:
    """The visitor's run, what the loaded model's profile knows, the recorded run: in the order in which they are preferred."""
    visitor = house.visitor(request)
    engine = house.shelf.ready(visitor.model) if visitor.model else None
    own: Trace | None = None
    if engine is not None and (profile := engine.profile) is not None:
        samples, steps, recipe = (getattr(profile, name, None) for name in ("samples", "steps", "recipe"))
        own = live.profiled(*house.backend.facts(engine), samples, steps, recipe or {})
    pairs = visitor.recording.pairs()
    labels = {"A": pairs[-1][1].label, "B": pairs[-1][2].label} if pairs else {}
    recording = visitor.recording
    mine = live.live(recording.events(), labels, recording.pictures(), held.close(visitor))
    return [one for one in (mine, own, trace) if one is not None]


def say(message: Mapping[str, Any]) -> str:
    return json.dumps(message, allow_nan=False, separators=(",", ":"))
