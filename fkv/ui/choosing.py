"""Which model, at which size of the picture: what the page says and shows when it is opened or another is chosen."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv.advice import trained
from fkv.engine import Engine
from fkv.events import sentence
from fkv.planner import name_of
from fkv.policies import discover, parse
from fkv.spec import MODELS
from fkv.ui import lab, run
from fkv.ui.controls import LanePicker
from fkv.ui.visitors import Visitor
from fkv.ui.wiring import QUIET
from fkv.views import messages

if TYPE_CHECKING:
    from fkv.spec import ModelSpec
    from fkv.ui.page import Widgets
    from fkv.ui.wiring import House

ENTRANCE: dict[str, Any] = {
    "show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None, "trigger_mode": "multiple",
}  # fmt: skip


def connect(blocks: gr.Blocks, widgets: Widgets, house: House) -> None:
    """A choice is loaded at once and shown; a run that goes on keeps what it began with."""

    def hello(request: gr.Request, model: str, size: str | None) -> Iterator[tuple[str, str]]:
        visitor, edition = house.visitor(request), house.backend.edition(model, size)
        visitor.asked_model = edition
        future = house.shelf.want(edition)
        waiting: dict[str, object] = {"type": "hello", "key": visitor.key, "state": "loading", "model": None, "profile": None}
        while not future.done() and not visitor.gone and visitor.asked_model == edition:
            yield run.say(waiting | {"text": house.backend.progress() or "Loading the model"}), _chips([])
            wait([future], timeout=1)
        if visitor.gone or visitor.asked_model != edition:
            return
        try:
            engine = future.result()
            facts, profile = house.backend.facts(engine)
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            yield run.trouble(sentence(error)), _chips([])
            return
        visitor.model = edition
        left = lab.keep_fitting(visitor, engine, house.defaults)
        profile = lab.brought(visitor, engine) or profile
        ready = {"state": "idle", "text": "Ready", "model": messages.model(facts), "profile": messages.profile(profile)}
        events = [waiting | ready | {"next": later(visitor, engine)}, run.parting(engine, house.defaults.right)]
        yield run.say(*events, *([left] if left else [])), _chips(messages.chips(facts))

    def offer(model: str, size: str | None) -> dict[str, Any]:
        return offered(house.backend.sizes(model), size)

    def follow(model: str, *values: Any) -> list[Any]:
        return followed(widgets.left, model, values)

    chosen, left = [widgets.model, widgets.size], widgets.left
    widgets.model.input(offer, chosen, widgets.size, **QUIET)  # first: events after `hello` wait for its end
    widgets.model.input(follow, [widgets.model, *left.inputs], [*left.inputs, *left.outputs], **QUIET)
    widgets.model.input(lambda: "", None, widgets.note, **QUIET)  # what it says is of the model before
    for event in (blocks.load, widgets.model.input, widgets.size.input):
        event(hello, chosen, [widgets.stage, widgets.chips], **ENTRANCE)


def offered(sizes: Sequence[str], size: str | None) -> dict[str, Any]:
    """The control of the size for a model's sizes: the one chosen where it is among them; hidden where there is nothing to choose."""
    if not sizes:
        return gr.update(visible=False)
    return gr.update(choices=list(sizes), value=size if size in sizes else sizes[0], visible=True)


def followed(picker: LanePicker, model: str, values: Sequence[Any]) -> list[Any]:
    """Updates of lane A's controls: a lane with the cache that some model was trained with takes the one this model was trained with."""
    usual = {spec.name: parse(trained(spec)) for spec in MODELS}
    with suppress(ValueError):
        policy = picker.policy(values, discover())
        if policy in usual.values() and policy != usual.get(model, policy):
            return picker.taken(usual[model])
    return [gr.skip() for _ in [*picker.inputs, *picker.outputs]]


def later(visitor: Visitor, engine: Engine) -> str:
    """A sentence where a run goes on with another model or size than the one now chosen; empty where none does."""
    session = visitor.session
    if session is None or session.engine.spec == engine.spec:
        return ""

    def told(spec: ModelSpec) -> str:
        return f"{spec.title} at {name_of(spec.pixels)}"

    return f"The run goes on with {told(session.engine.spec)}; the next Start takes {told(engine.spec)}."


def _chips(chips: list[tuple[str, str]]) -> str:
    return "".join(f'<span class="chip"><em>{html.escape(name)}</em> {html.escape(value)}</span>' for name, value in chips)
