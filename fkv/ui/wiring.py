"""What each control does: edits of the visitor's own settings, read by the session once per chunk."""

from __future__ import annotations

import html
import random
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv.cache import Policy
from fkv.engine import Engine
from fkv.events import Settings, sentence
from fkv.policies import discover, parse, spelling
from fkv.session import prompt_of
from fkv.ui import lab, run
from fkv.ui.controls import LanePicker
from fkv.ui.shelf import Backend, Shelf
from fkv.ui.visitors import Lobby, Visitor, Visitors
from fkv.views import messages
from fkv.wishes import policy_of

if TYPE_CHECKING:
    from fkv.ui.page import Widgets

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "trigger_mode": "multiple", "api_visibility": "private"}
LINE = 30  # visitors that may wait for a seat
TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"


@dataclass(frozen=True)
class House:
    """What one launch shares among its visitors."""

    visitors: Visitors
    lobby: Lobby
    shelf: Shelf
    backend: Backend
    defaults: Settings

    def visitor(self, request: gr.Request) -> Visitor:
        return self.visitors.of(str(request.session_hash))

    def accepted(self, policy: Policy, model: str) -> str:
        """The spelling of a policy that fits the model, as far as the model is loaded. Raises ValueError."""
        text = spelling(policy)
        engine = self.shelf.ready(model)
        if engine is not None:
            policy_of(engine, replace(self.defaults, left=text), "A")
        return text


def connect(blocks: gr.Blocks, widgets: Widgets, house: House) -> None:
    """All events of the page but the downloads."""
    _running(widgets, house)
    _warning(widgets, house)
    _prompting(widgets, house)
    for picker, side in ((widgets.left, "left"), (widgets.right, "right")):
        _picking(widgets, picker, side, house)
    _painting(widgets, house)
    _page(blocks, widgets, house)


def paragraph(*sentences: str, error: bool = False) -> str:
    """Sentences for the card they belong to, safe as HTML; empty for none."""
    kind = "error" if error else "note"
    return "".join(f'<p class="{kind}">{html.escape(text)}</p>' for text in sentences)


def _running(widgets: Widgets, house: House) -> None:
    left, right = widgets.left, widgets.right
    known = discover()

    def start(request: gr.Request, model: str, prompt: str, seed: float | None, compress: bool, *values: Any) -> Iterator[str]:
        visitor = house.visitor(request)
        try:
            a = house.accepted(left.policy(values[: len(left.inputs)], known), model)
            b = house.accepted(right.policy(values[len(left.inputs) :], known), model)
        except ValueError as error:
            yield run.trouble(sentence(error))
            return
        chosen = replace(house.defaults, prompt=prompt, seed=int(seed or 0), left=a, right=b, compress=compress)
        chosen = replace(chosen, **visitor.wishes)
        yield from run.play(visitor, house.lobby, house.shelf, model, chosen, house.backend.session)

    def pause(request: gr.Request) -> dict[str, Any]:
        visitor = house.visitor(request)
        wanted = not visitor.paused
        visitor.paused = wanted if visitor.change(paused=wanted) else False
        return gr.update(value="Resume" if visitor.paused else "Pause")

    def stop(request: gr.Request) -> dict[str, Any]:
        house.visitor(request).stop()
        return gr.update(value="Pause")

    inputs = [widgets.model, widgets.prompt, widgets.seed, widgets.compress, *left.inputs, *right.inputs]
    widgets.start.click(
        start, inputs, widgets.stage, concurrency_limit=house.lobby.seats + LINE, concurrency_id="engine",
        trigger_mode="multiple", show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    widgets.start.click(lambda: gr.update(value="Pause"), None, widgets.pause, **QUIET)
    widgets.pause.click(pause, None, widgets.pause, **QUIET)
    widgets.stop.click(stop, None, widgets.pause, **QUIET)


def _warning(widgets: Widgets, house: House) -> None:
    """At the start, a sentence where both lanes will not fit the device."""
    left, right, known = widgets.left, widgets.right, discover()

    def room(model: str, *values: Any) -> str:
        engine = house.shelf.ready(model)
        try:
            lanes = left.policy(values[: len(left.inputs)], known), right.policy(values[len(left.inputs) :], known)
        except ValueError:
            return ""
        words = "" if engine is None else house.backend.concern(engine, [spelling(policy) for policy in lanes], house.defaults.chunks)
        return paragraph(sentence(ValueError(words)), error=True) if words else ""

    widgets.start.click(room, [widgets.model, *left.inputs, *right.inputs], widgets.trouble, **QUIET)


def reading(engine: Engine, prompt: str) -> tuple[bool, str]:
    """Whether the model can follow a prompt, and what to say under it."""
    try:
        return True, paragraph(*prompt_of(engine, prompt, 0).notes)
    except ValueError as error:
        return False, paragraph(sentence(error), error=True)


def _prompting(widgets: Widgets, house: House) -> None:
    def apply(request: gr.Request, prompt: str, model: str) -> str:
        engine = house.shelf.ready(model)
        fits, words = reading(engine, prompt) if engine is not None else (False, "")
        if fits:
            house.visitor(request).change(prompt=prompt)
        return words

    def check(prompt: str, model: str) -> str:
        engine = house.shelf.ready(model)
        return reading(engine, prompt)[1] if engine is not None else ""

    def reseed(request: gr.Request, seed: float | None) -> None:
        house.visitor(request).change(seed=int(seed or 0))

    inputs = [widgets.prompt, widgets.model]
    widgets.prompt.submit(apply, inputs, widgets.note, **QUIET)
    widgets.start.click(check, inputs, widgets.note, **QUIET)
    for button in widgets.examples:
        text = str(button.value)
        button.click(lambda text=text: text, None, widgets.prompt, **QUIET).then(apply, inputs, widgets.note, **QUIET)
    rolled = widgets.dice.click(lambda: random.SystemRandom().randrange(10000), None, widgets.seed, **QUIET)
    rolled.then(reseed, widgets.seed, None, **QUIET)
    widgets.seed.submit(reseed, widgets.seed, None, **QUIET)


def _picking(widgets: Widgets, picker: LanePicker, side: str, house: House) -> None:
    known = discover()

    def change(request: gr.Request, model: str, *values: Any) -> list[Any]:
        try:
            policy = picker.policy(values, known)
            accepted = house.accepted(policy, model)
        except ValueError as error:
            shown = [gr.skip() for _ in picker.outputs] if not isinstance(known.get(values[0]), type) else picker.fresh(known[values[0]]())
            return [paragraph(f"Lane {picker.lane}: {sentence(error)}", error=True), *shown]
        house.visitor(request).change(**{side: accepted})
        return ["", *picker.fresh(policy)]

    inputs, outputs = [widgets.model, *picker.inputs], [widgets.trouble, *picker.outputs]
    picker.choice.input(change, inputs, outputs, **QUIET)
    for control in picker.controls.values():
        typed = isinstance(control, gr.Number | gr.Textbox)
        event = control.release if isinstance(control, gr.Slider) else control.submit if typed else control.input
        event(change, inputs, outputs, **QUIET)
        if typed:
            control.blur(change, inputs, outputs, **QUIET)


def _painting(widgets: Widgets, house: House) -> None:
    """The painted policy goes to lane B and into its picker, with the switch on."""
    picker = widgets.right

    def paint(event: gr.EventData, request: gr.Request, model: str) -> list[Any]:
        try:
            policy = parse(str(event.policy))
            accepted = house.accepted(policy, model)
        except (AttributeError, ValueError) as error:
            untouched = [gr.skip() for _ in [*picker.inputs, *picker.outputs, widgets.compress]]
            return [paragraph(f"Lane B: {sentence(error)}", error=True), *untouched]
        house.visitor(request).change(right=accepted, compress=True)
        values = [
            gr.update(value=getattr(policy, parameter)) if owner == policy.name else gr.skip() for owner, parameter in picker.controls
        ]
        return ["", gr.update(value=policy.name), *values, *picker.fresh(policy), gr.update(value=True)]

    outputs = [widgets.trouble, *picker.inputs, *picker.outputs, widgets.compress]
    widgets.stage.run_painted(paint, widgets.model, outputs, **QUIET)


def _page(blocks: gr.Blocks, widgets: Widgets, house: House) -> None:
    def hello(request: gr.Request, model: str) -> Iterator[tuple[str, str]]:
        visitor, future = house.visitor(request), house.shelf.want(model)
        waiting: dict[str, object] = {"type": "hello", "key": visitor.key, "state": "loading", "model": None, "profile": None}
        while not future.done() and not visitor.gone:
            yield run.say(waiting | {"text": house.backend.progress() or "Loading the model"}), _chips([])
            wait([future], timeout=1)
        if visitor.gone:
            return
        try:
            engine = future.result()
            facts, profile = house.backend.facts(engine)
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            yield run.trouble(sentence(error)), _chips([])
            return
        visitor.model = model
        left = lab.keep_fitting(visitor, engine, house.defaults)
        profile = lab.brought(visitor, engine) or profile
        ready = {"state": "idle", "text": "Ready", "model": messages.model(facts), "profile": messages.profile(profile)}
        events = [waiting | ready, run.parting(engine, house.defaults.right)]
        yield run.say(*events, *([left] if left else [])), _chips(messages.chips(facts))

    def compress(request: gr.Request, on: bool) -> None:
        house.visitor(request).change(compress=on)

    def leave(request: gr.Request) -> None:
        house.visitors.leave(str(request.session_hash))

    for event in (blocks.load, widgets.model.input):
        event(
            hello, widgets.model, [widgets.stage, widgets.chips], show_progress="hidden", api_visibility="private", concurrency_limit=None
        )
    widgets.compress.input(compress, widgets.compress, None, **QUIET)
    widgets.theme.click(None, None, None, js=TOGGLE_THEME)
    blocks.unload(leave)


def _chips(chips: list[tuple[str, str]]) -> str:
    return "".join(f'<span class="chip"><em>{html.escape(name)}</em> {html.escape(value)}</span>' for name, value in chips)
