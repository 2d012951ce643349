"""The Learn and Analysis tabs as a person meets them, in headless Chromium, with a small recorded run and no model running."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import PATIENCE, PHONE, WIDER, chromium, light, start, text
from lesson_run import run
from stand_in import StandInEngine, StandInSession, facts

from fkv.text import EXAMPLES
from fkv.ui import Backend, build, learn
from fkv.views import trace

pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
LESSON = "window.fkvLesson.current"
READY = ".lesson[data-state='ready']"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = tmp_path_factory.mktemp("lesson") / "recorded.json.gz"
    path.write_bytes(gzip.compress(trace.to_json(run()).encode()))
    patch = pytest.MonkeyPatch()
    patch.setattr(learn, "RECORDED", path)
    page = build(Backend(lambda _: StandInEngine(), facts, StandInSession), examples=EXAMPLES, chunks=0)  # type: ignore[arg-type,return-value]
    _, url, _ = page.blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **page.options)
    yield url
    page.blocks.close()
    patch.undo()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(address: str, browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the Learn tab as a new person."""
    contexts: list[Any] = []

    def open_page(**context: Any) -> Any:
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 1000}} | context)))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        enter(page)
        return page

    yield open_page
    for context in contexts:
        context.close()


def enter(page: Any) -> None:
    page.click("#tab-learn-button")
    page.wait_for_selector(READY)


def test_a_question_is_answered_by_keyboard_and_the_reveal_shows_the_number_that_was_computed(visit: Callable[..., Any]) -> None:
    page = visit()
    assert text(page, ".lesson .intro h2") == "Chunks and cache"
    assert page.locator("[data-next]").is_disabled()
    page.locator(".lesson .row .button").first.focus()
    page.keyboard.press("Enter")
    assert text(page, ".lesson .counter") == "0 B stored beside chunk 1: 0 past frames"
    page.locator(".lesson .option input").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector(".lesson .revealed")
    found = run().lanes["A"].made[-1]
    assert f"At chunk 12 lane A stores {found.stored / 1000:.1f} kB" in text(page, ".lesson .revealed")
    assert "✓ Right." in text(page, ".lesson .revealed")
    assert "4.6 kB" in text(page, ".lesson [data-said]"), "a screen reader hears the reveal"
    page.click("[data-next]")
    assert text(page, ".lesson .intro h2") == "One token, one head"
    assert page.evaluate("document.activeElement.tagName") == "H2"


def test_six_heads_are_classed_with_s_d_enter_and_arrows_and_progress_survives_a_reload(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("[data-step='3']")
    cards = page.evaluate(f"{LESSON}.step.data.cards")
    page.locator(".lesson .head").first.focus()
    for number, card in enumerate(cards[:2]):
        page.keyboard.press("s")
        page.keyboard.press("Enter")
        page.wait_for_function(f"document.querySelectorAll('.lesson .head .tag').length === {number + 1}")
        assert text(page, f".lesson .head >> nth={number} >> .tag") == f"{card['kind']} {card['score']:.2f}"
        page.keyboard.press("ArrowRight")
    assert text(page, "[data-left]") == f"{len(cards) - 2} heads left"
    page.reload()
    enter(page)
    assert text(page, ".lesson .intro h2") == "Predict, then score"
    assert page.locator(".lesson .head .tag").count() == 2
    assert page.locator(".lesson .pin").count() == 2, "what was revealed lies on the scale"
    handle = page.locator(".lesson .handle")
    handle.focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".lesson .handle[aria-valuenow='0.79']")


def test_segments_are_chosen_and_a_guess_is_measured_against_the_run(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("[data-step='5']")
    for band in (1, 2):
        page.click(f".lesson [data-band='{band}']")
    page.click(".lesson [data-reveal]")
    assert "You chose 2 of the 2 the policy kept." in text(page, ".lesson .revealed")
    assert page.locator(".lesson .band.kept").count() == 2
    page.click("[data-step='7']")
    page.locator(".lesson .slider input").press("ArrowRight")
    page.click(".lesson [data-reveal]")
    assert "You said 1.1×, measured is 1.3×." in text(page, ".lesson .revealed")


def test_a_step_sets_the_live_page_and_a_live_run_replaces_the_recorded_one(visit: Callable[..., Any]) -> None:
    page = visit()
    assert "recorded on 2026-11-20, commit abc123" in text(page, "[data-source]")
    page.click("#tab-live-button")
    page.uncheck("#compress input")
    start(page, 9)
    enter(page)
    page.wait_for_function("document.querySelector('[data-source]').textContent.startsWith('your live run')")
    page.click(".lesson .try .button")
    page.wait_for_function("document.querySelector('#compress input').checked")
    assert page.locator("#tab-live-button").get_attribute("aria-selected") == "true"
    enter(page)
    page.click("[data-step='6']")
    page.click(".lesson .try .button")
    rule = "window.fkvStage.current.store.wanted.rule"
    page.wait_for_function(f"{rule} === 'random:1'")
    enter(page)
    page.click("[data-step='7']")
    page.wait_for_function(f"{rule} === 'profile'")


def test_the_lesson_fits_a_phone_and_the_dark(visit: Callable[..., Any]) -> None:
    page = visit(**PHONE, color_scheme="dark")
    assert light(page) < 70
    for step in range(8):
        page.click(f"[data-step='{step}']")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(WIDER) == [], f"step {step + 1} is too wide"


def test_figures_are_drawn_and_taken_away_as_pictures_and_numbers(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit()
    page.click("#tab-analysis-button")
    page.wait_for_selector("#plot-agreement .main-svg")
    assert "n = 8 heads, from all queries of the chunk" in text(page, "#exhibit-score-histogram .caption")
    for kind in ("svg", "csv", "npz"):
        with page.expect_download() as caught:
            page.click(f"#{kind}-score-histogram")
        caught.value.save_as(tmp_path / f"figure.{kind}")
    assert "<svg" in (tmp_path / "figure.svg").read_text()[:200]
    assert "layer,head,score,error,class" in (tmp_path / "figure.csv").read_text()
    assert np.load(tmp_path / "figure.npz")["score"].shape == (2, 4)


def test_without_a_recording_the_lesson_says_to_press_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "RECORDED", tmp_path / "none.json.gz")
    assert learn.recorded() == (None, "")
    (tmp_path / "none.json.gz").write_bytes(b"broken")
    found, trouble = learn.recorded()
    assert found is None
    assert "python -m fkv record" in trouble
