"""What each control does: edits of the visitor's own settings, read by the session once per chunk."""

from __future__ import annotations

import html
import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv.cache import Policy
from fkv.engine import Engine
from fkv.events import Settings, sentence
from fkv.policies import discover, parse, spelling
from fkv.session import prompt_of
from fkv.ui import run
from fkv.ui.controls import LanePicker
from fkv.ui.shelf import Backend, Shelf
from fkv.ui.visitors import Lobby, Visitor, Visitors
from fkv.wishes import Concern, policy_of

if TYPE_CHECKING:
    from fkv.delivery import Encode
    from fkv.session import Session
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

    def accepted(self, policy: Policy, edition: str) -> str:
        """The spelling of a policy that fits a model at its size, as far as that is loaded. Raises ValueError."""
        text = spelling(policy)
        engine = self.shelf.ready(edition)
        if engine is not None:
            policy_of(engine, replace(self.defaults, left=text), "A")
        return text

    def check(self, engine: Engine | None, settings: Settings) -> None:
        """Raises ValueError, with the nearest run that fits, where a run cannot be on a model, as far as that is loaded."""
        found = Concern() if engine is None else self.backend.concern(engine, settings)
        if found.certain:
            raise ValueError(found.words)

    def warning(self, engine: Engine | None, settings: Settings) -> str:
        """What estimates alone say against a run on a model, as far as that is loaded."""
        found = Concern() if engine is None else self.backend.concern(engine, settings)
        return "" if found.certain else found.words

    def change(self, visitor: Visitor, **edits: Any) -> None:
        """Hands edits to the run a visitor has, if any. Raises ValueError, with nothing changed, where it cannot be with them."""
        session = visitor.session
        if session is not None:
            self.check(session.engine, replace(session.settings, **edits))
        visitor.change(**edits)

    def opened(self, engine: Engine, settings: Settings, encode: Encode, *, latents: bool = False) -> Session:
        """A session for a run. Raises ValueError where the run cannot be."""
        self.check(engine, settings)
        return self.backend.session(engine, settings, encode, latents=latents)


def connect(blocks: gr.Blocks, widgets: Widgets, house: House) -> None:
    """All events of the page but the downloads and the choice of a model."""
    _running(widgets, house)
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
    def before(request: gr.Request, model: str, size: str | None, prompt: str, *asked: Any) -> tuple[str, str, dict[str, Any]]:
        """What is said at the start: that the lanes may not fit the device, and what of the prompt cannot be read. A start that is refused
        leaves the run before as it is, paused or not.
        """
        edition = house.backend.edition(model, size)
        engine, words, label = house.shelf.ready(edition), "", gr.skip()
        with suppress(ValueError):
            chosen = _asked(widgets, house, house.visitor(request), edition, prompt, *asked)
            house.check(engine, chosen)
            words, label = house.warning(engine, chosen), gr.update(value="Pause")
        note = "" if engine is None else reading(engine, prompt)[1]
        return words and paragraph(sentence(ValueError(words)), error=True), note, label

    def start(request: gr.Request, model: str, size: str | None, *asked: Any) -> Iterator[str]:
        visitor, edition = house.visitor(request), house.backend.edition(model, size)
        try:
            chosen = _asked(widgets, house, visitor, edition, *asked)
            house.check(house.shelf.ready(edition), chosen)
        except ValueError as error:
            yield run.trouble(sentence(error))
            return
        yield from run.play(visitor, house.lobby, house.shelf, edition, chosen, house.opened)

    def pause(request: gr.Request) -> dict[str, Any]:
        visitor = house.visitor(request)
        wanted = not visitor.paused
        visitor.paused = wanted if visitor.change(paused=wanted) else False
        return gr.update(value="Resume" if visitor.paused else "Pause")

    def stop(request: gr.Request) -> dict[str, Any]:
        house.visitor(request).stop()
        return gr.update(value="Pause")

    left, right = widgets.left, widgets.right
    inputs = [widgets.model, widgets.size, widgets.prompt, widgets.seed, widgets.compress, *left.inputs, *right.inputs]
    widgets.start.click(before, inputs, [widgets.trouble, widgets.note, widgets.pause], **QUIET)  # events after `start` wait for its end
    widgets.start.click(
        start, inputs, widgets.stage, concurrency_limit=house.lobby.seats + LINE, concurrency_id="engine",
        trigger_mode="multiple", show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    widgets.pause.click(pause, None, widgets.pause, **QUIET)
    widgets.stop.click(stop, None, widgets.pause, **QUIET)


def _asked(
    widgets: Widgets, house: House, visitor: Visitor, edition: str, prompt: str, seed: float | None, compress: bool, *values: Any
) -> Settings:
    """The run a visitor asks for. Raises ValueError on a policy that the model cannot follow."""
    left, right, known = widgets.left, widgets.right, discover()
    a = house.accepted(left.policy(values[: len(left.inputs)], known), edition)
    b = house.accepted(right.policy(values[len(left.inputs) :], known), edition)
    chosen = replace(house.defaults, prompt=prompt, seed=int(seed or 0), left=a, right=b, compress=compress)
    return replace(chosen, **visitor.wishes)


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

    def reseed(request: gr.Request, seed: float | None) -> None:
        house.visitor(request).change(seed=int(seed or 0))

    inputs = [widgets.prompt, widgets.model]
    widgets.prompt.submit(apply, inputs, widgets.note, **QUIET)
    for button in widgets.examples:
        text = str(button.value)
        button.click(lambda text=text: text, None, widgets.prompt, **QUIET).then(apply, inputs, widgets.note, **QUIET)
    rolled = widgets.dice.click(lambda: random.SystemRandom().randrange(10000), None, widgets.seed, **QUIET)
    rolled.then(reseed, widgets.seed, None, **QUIET)
    widgets.seed.submit(reseed, widgets.seed, None, **QUIET)


def _picking(widgets: Widgets, picker: LanePicker, side: str, house: House) -> None:
    known = discover()

    def change(request: gr.Request, model: str, size: str | None, *values: Any) -> list[Any]:
        try:
            policy = picker.policy(values, known)
            house.change(house.visitor(request), **{side: house.accepted(policy, house.backend.edition(model, size))})
        except ValueError as error:
            shown = [gr.skip() for _ in picker.outputs] if not isinstance(known.get(values[0]), type) else picker.fresh(known[values[0]]())
            return [paragraph(f"Lane {picker.lane}: {sentence(error)}", error=True), *shown]
        return ["", *picker.fresh(policy)]

    inputs, outputs = [widgets.model, widgets.size, *picker.inputs], [widgets.trouble, *picker.outputs]
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

    def paint(event: gr.EventData, request: gr.Request, model: str, size: str | None) -> list[Any]:
        try:
            policy = parse(str(event.policy))
            house.change(house.visitor(request), right=house.accepted(policy, house.backend.edition(model, size)), compress=True)
        except (AttributeError, ValueError) as error:
            untouched = [gr.skip() for _ in [*picker.inputs, *picker.outputs, widgets.compress]]
            return [paragraph(f"Lane B: {sentence(error)}", error=True), *untouched]
        return ["", *picker.taken(policy), gr.update(value=True)]

    outputs = [widgets.trouble, *picker.inputs, *picker.outputs, widgets.compress]
    widgets.stage.run_painted(paint, [widgets.model, widgets.size], outputs, **QUIET)


def _page(blocks: gr.Blocks, widgets: Widgets, house: House) -> None:
    def compress(request: gr.Request, on: bool) -> tuple[Any, str]:
        try:
            house.change(house.visitor(request), compress=on)
        except ValueError as error:
            return gr.update(value=not on), paragraph(f"Lane B: {sentence(error)}", error=True)
        return gr.skip(), ""

    def leave(request: gr.Request) -> None:
        house.visitors.leave(str(request.session_hash))

    widgets.compress.input(compress, widgets.compress, [widgets.compress, widgets.trouble], **QUIET)
    widgets.theme.click(None, None, None, js=TOGGLE_THEME)
    blocks.unload(leave)
