"""Size and refusals as a person meets them, in headless Chromium, on drawn lanes: one model of one size, and one that can be resized."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from browsing import PHONE, STAGE, WIDER, House, reach, start, text, wait_until
from stand_in import StandInEngine, StandInSession, facts

from fkv import planner
from fkv.events import Settings
from fkv.spec import POCKET
from fkv.text import EXAMPLES
from fkv.ui import Backend, build
from fkv.wishes import Concern

SLOW = replace(POCKET, name="slow", title="Slow")
WIDE = replace(POCKET, name="wide", title="Wide", net=replace(POCKET.net, places=0), latent=(24, 20, 32))
MODELS = {spec.name: spec for spec in (POCKET, WIDE, SLOW)}
CANVAS = "(() => { const {width, height} = document.querySelector('.screen[data-lane=A] canvas'); return [height, width]; })()"
SHAPE = (
    """() => { const {width, height} = document.querySelector('.screen[data-lane=A]').getBoundingClientRect(); return width / height; }"""
)
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@dataclass
class Rooms:
    """What the page was given: models loaded, engines by size, and what speaks against a run."""

    slow: threading.Event = field(default_factory=threading.Event)
    loads: list[str] = field(default_factory=list)
    begun: list[StandInEngine] = field(default_factory=list)
    against: Concern = field(default_factory=Concern)

    def load(self, name: str) -> Any:
        self.loads.append(name)
        if name == "slow":
            self.slow.wait(60)
        return StandInEngine(MODELS[name])

    def resize(self, engine: Any, size: planner.Size) -> Any:
        return replace(engine, spec=planner.resized(engine.spec, size))

    def session(self, engine: StandInEngine, settings: Settings, encode: Any, *, latents: bool = False) -> Any:
        self.begun.append(engine)
        return StandInSession(engine, settings, encode)

    def facts(self, engine: Any) -> Any:
        model, profile = facts(engine)
        return replace(model, name=engine.spec.name, title=engine.spec.title), profile


@pytest.fixture(scope="module")
def rooms() -> Rooms:
    return Rooms()


@pytest.fixture(scope="module")
def house(rooms: Rooms) -> Iterator[House]:
    StandInSession.pause = 0.15
    backend = Backend(
        rooms.load, rooms.facts, rooms.session, models=lambda: [(spec.title, spec.name) for spec in MODELS.values()],
        sizes=lambda name: planner.sizes(MODELS[name]), resize=rooms.resize, concern=lambda engine, settings: rooms.against,
    )  # fmt: skip
    page = build(backend, examples=EXAMPLES, seats=2, chunks=0)
    _, url, _ = page.blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **page.options)
    yield House(StandInEngine(), page, url)
    page.blocks.close()


@pytest.fixture(autouse=True)
def nothing_against(rooms: Rooms) -> Iterator[None]:
    yield
    rooms.against = Concern()


def pick(page: Any, control: str, choice: str) -> None:
    page.click(f"#{control} input")
    page.get_by_role("option", name=choice, exact=True).click()
    page.wait_for_function("!document.querySelector('[role=option]')")


def shape(page: Any, rows: int, columns: int) -> None:
    """Waits until a pane has the proportions of a picture."""
    page.wait_for_function(f"Math.abs(({SHAPE})() - {columns / rows}) < 0.02")


def test_a_model_of_one_size_has_no_control_for_it_and_another_keeps_the_size_chosen(visit: Callable[..., Any]) -> None:
    page = visit()
    assert page.locator("#size:visible").count() == 0
    pick(page, "model", "Wide")
    page.wait_for_selector("#size input")
    assert page.input_value("#size input") == "160x256"
    page.click("#size input")
    assert [words.split()[-1] for words in page.locator("[role='option']").all_inner_texts()] == ["160x256", *planner.SIZES]
    page.get_by_role("option", name="256p", exact=True).click()
    pick(page, "model", "Pocket")
    page.wait_for_selector("#size", state="hidden")
    start(page)
    assert page.evaluate(f"{STAGE}.model.size") == [80, 128]
    pick(page, "model", "Wide")
    page.wait_for_selector("#size input")
    assert page.input_value("#size input") == "256p"


def test_another_size_changes_the_panes_and_the_pictures_and_loads_nothing_again(visit: Callable[..., Any], rooms: Rooms) -> None:
    page = visit()
    pick(page, "model", "Wide")
    page.wait_for_selector("#size input")
    shape(page, 160, 256)
    pick(page, "size", "720p")
    shape(page, 720, 1280)
    pick(page, "size", "256p")
    shape(page, 256, 448)
    start(page)
    page.wait_for_function(f"JSON.stringify({CANVAS}) === '[512,896]'")
    assert page.evaluate(f"{STAGE}.model.size") == [256, 448]
    assert sorted(set(rooms.loads)) == sorted(rooms.loads)


def test_a_run_goes_on_at_its_size_until_the_next_start(visit: Callable[..., Any]) -> None:
    page = visit()
    pick(page, "model", "Wide")
    page.wait_for_selector("#size input")
    start(page)
    pick(page, "size", "256p")
    page.wait_for_selector(".sentence:not([hidden])")
    said = "The run goes on with Wide at 160x256; the next Start takes Wide at 256x448 (256p)."
    assert text(page, "[data-sentence]") == said
    assert page.get_attribute("[data-sentence]", "class") == "sentence", "no error"
    reach(page, 6)
    assert page.evaluate(f"[{STAGE}.model.size[0], {CANVAS}[0]]") == [160, 640]
    pick(page, "size", "160x256")
    page.wait_for_selector(".sentence", state="hidden")
    pick(page, "size", "256p")
    page.wait_for_selector(".sentence:not([hidden])")
    page.click("#start")
    page.wait_for_function(f"{STAGE}.model.size[0] === 256 && {CANVAS}[0] === 512")
    assert page.locator(".sentence:visible").count() == 0


def test_two_people_at_two_sizes_of_one_model_do_not_see_each_other(visit: Callable[..., Any], house: House) -> None:
    one, two = visit(), visit()
    for page, size in ((one, "160x256"), (two, "256p")):
        pick(page, "model", "Wide")
        page.wait_for_selector("#size input")
        pick(page, "size", size)
        start(page)
    reach(one, 6)
    assert [page.evaluate(f"[{STAGE}.model.size[0], {CANVAS}[0]]") for page in (one, two)] == [[160, 640], [256, 512]]
    assert [one.input_value("#size input"), two.input_value("#size input")] == ["160x256", "256p"]


def test_a_run_that_cannot_be_is_refused_and_the_one_before_goes_on(visit: Callable[..., Any], house: House, rooms: Rooms) -> None:
    page = visit()
    rooms.against = Concern("Wide does not fit: 50 GB are needed and 24 GB are there; use 384x672 (384p), which needs 20 GB", certain=True)
    begun = len(rooms.begun)
    page.click("#start")
    page.wait_for_selector(".sentence.error")
    assert text(page, "[data-sentence]").endswith("; use 384x672 (384p), which needs 20 GB.")
    assert text(page, ".screen[data-lane='A'] .empty") == "Nothing was generated"
    assert page.locator("#trouble .error").count() == 0, "said once"
    assert len(rooms.begun) == begun
    assert house.idle()
    rooms.against = Concern()
    start(page)
    rooms.against = Concern("It does not fit; use 256p", certain=True)
    page.click("#start")
    page.wait_for_selector(".sentence.error")
    reach(page, page.evaluate(f"{STAGE}.newest") + 4)
    assert len(rooms.begun) == begun + 1


def test_a_change_that_cannot_be_is_refused_and_the_run_goes_on_as_it_was(visit: Callable[..., Any], house: House, rooms: Rooms) -> None:
    page = visit()
    rooms.against = Concern()
    start(page)
    session = next(visitor.session for visitor in house.page.visitors.open.values() if visitor.session is not None)
    before = session.settings
    rooms.against = Concern("It does not fit; use 256p", certain=True)
    pick(page, "policy-b", "Full")
    page.wait_for_selector("#trouble .error")
    assert text(page, "#trouble") == "Lane B: It does not fit; use 256p."
    page.click("#compress input")
    page.wait_for_function("document.querySelector('#compress input').checked")
    assert text(page, "#trouble") == "Lane B: It does not fit; use 256p."
    reach(page, page.evaluate(f"{STAGE}.newest") + 4)
    assert session.settings == before
    rooms.against = Concern()
    page.uncheck("#compress input")
    wait_until(lambda: not session.settings.compress)
    page.wait_for_selector("#trouble .error", state="detached")


def test_where_estimates_alone_speak_against_it_a_run_starts_with_a_warning(visit: Callable[..., Any], rooms: Rooms) -> None:
    page = visit()
    rooms.against = Concern("it may not fit: 25 GB are needed and 24 GB are there; use window")
    start(page)
    page.wait_for_selector("#trouble .error")
    assert text(page, "#trouble") == "It may not fit: 25 GB are needed and 24 GB are there; use window."
    assert page.locator(".sentence.error").count() == 0


def test_the_header_of_a_phone_holds_the_size_too(visit: Callable[..., Any]) -> None:
    page = visit(**PHONE)
    pick(page, "model", "Wide")
    page.wait_for_selector("#size input")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(WIDER) == []
    tops = {page.evaluate(f"document.querySelector('{name}').getBoundingClientRect().top") for name in ("#model", "#size")}
    assert len(tops) == 1


def test_a_choice_made_while_another_is_loading_is_the_one_that_stays(visit: Callable[..., Any], house: House, rooms: Rooms) -> None:
    page = visit()
    pick(page, "model", "Slow")
    page.wait_for_function("document.querySelector('.fkv').dataset.state === 'loading'")
    pick(page, "model", "Wide")
    page.wait_for_selector("#size input")
    for size in ("320p", "256p"):
        pick(page, "size", size)
    shape(page, 256, 448)
    rooms.slow.set()
    wait_until(lambda: house.page.shelf.ready("slow") is not None)
    page.wait_for_timeout(1500)
    shape(page, 256, 448)
    assert {visitor.model for visitor in house.page.visitors.open.values()} == {"wide@256p"}
    assert text(page, ".status") == "Ready"
