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
from stand_in import HEADS, LAYERS, StandInEngine, StandInSession, facts

from fkv.heads import HeadProfile
from fkv.text import EXAMPLES
from fkv.ui import Backend, build, learn
from fkv.views import trace

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
LESSON = "window.fkvLesson.current"
READY = ".lesson[data-state='ready']"


@pytest.fixture(scope="module")
def page_and_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    path = tmp_path_factory.mktemp("lesson") / "recorded.json.gz"
    path.write_bytes(gzip.compress(trace.to_json(run()).encode()))
    patch = pytest.MonkeyPatch()
    patch.setattr(learn, "RECORDED", path)
    page = build(Backend(lambda _: StandInEngine(), facts, StandInSession), examples=EXAMPLES, chunks=0)  # type: ignore[arg-type,return-value]
    _, url, _ = page.blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **page.options)
    yield page, url
    page.blocks.close()
    patch.undo()


@pytest.fixture(scope="module")
def address(page_and_address: tuple[Any, str]) -> str:
    return page_and_address[1]


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
    assert "recorded run of 2026-11-20, commit abc123" in text(page, "[data-source]")
    page.click("#tab-live-button")
    page.uncheck("#compress input")
    start(page, 9)
    enter(page)
    page.wait_for_function("document.querySelector('[data-source]').textContent.startsWith('your run')")
    page.click(".lesson .try .button")
    page.wait_for_function("document.querySelector('#compress input').checked")
    assert page.locator("#tab-live-button").get_attribute("aria-selected") == "true"
    enter(page)
    page.click("[data-step='6']")
    page.click(".lesson .try .button")
    rule = "window.fkvStage.current.store.wanted.rule"
    page.wait_for_function(f"{rule} === 'random:1'")
    page.wait_for_selector("#tab-live-button[aria-selected='true']")
    assert "From the lesson, break it: Set." in text(page, "[data-sentence]"), "the Live tab says what was set"
    enter(page)
    page.click("[data-step='7']")
    page.wait_for_function(f"{rule} === 'profile'")


def test_a_token_chosen_while_a_run_goes_on_is_looked_at_in_that_run(visit: Callable[..., Any], page_and_address: tuple[Any, str]) -> None:
    house, _ = page_and_address
    page = visit()
    page.click("#tab-live-button")
    start(page, 8)
    enter(page)
    page.click("[data-step='1']")
    page.wait_for_function("document.querySelector('[data-source]').textContent.startsWith('your run, chunk')")
    heads = page.evaluate(f"{LESSON}.step.data.heads.map(({{layer, head}}) => [layer, head])")
    assert [1, 0] in heads, "the head on show is one of the two"
    place = page.locator(".lesson .grid [data-place='13']")
    place.click()
    chunk = page.evaluate(f"{LESSON}.step.data.chunk")
    page.wait_for_selector(f".lesson .film[data-map='{heads[0][0]},{heads[0][1]},{chunk},1,5']")
    visitor = next(one for one in house.visitors.open.values() if one.held)
    seen = visitor.held.looks.look(*heads[0], visitor.held.close.frames[-1], 1, 5)
    shown = [float(share) for share in page.locator(".lesson .film >> nth=0").locator("span").all_inner_texts()]
    assert shown == pytest.approx([100 * share for share in seen.share], abs=0.51), "the shares are those of the run's own head and token"
    assert f"L{heads[0][0]} H{heads[0][1]} most at frame {seen.frames[int(np.argmax(seen.share))]}" in text(page, ".lesson .told")
    page.click(".lesson .try .button")
    page.wait_for_selector("#tab-live-button[aria-selected='true']")
    now = visitor.session.settings
    assert {(now.layer, now.head), *now.pinned} == {tuple(head) for head in heads}, "both heads are kept on the Live page"
    page.click("#stop")
    enter(page)
    page.locator(".lesson .grid [data-place='2']").click()
    page.wait_for_selector(f".lesson .film[data-map='{heads[0][0]},{heads[0][1]},{chunk},0,2']")


def test_roles_tried_in_the_own_run_are_listed_with_their_chunks_and_judged_only_when_there_are_enough(visit: Callable[..., Any]) -> None:
    page = visit()
    page.click("[data-step='6']")
    assert "Nothing is running: press Start a run" in text(page, "[data-trial]")
    page.click(".lesson [data-rule='random:1']")
    page.wait_for_function("document.querySelector('[data-trial]').textContent.startsWith('Set: random roles, draw 1. Nothing is running')")
    page.get_by_role("button", name="Start a run").click()
    row = ".lesson tbody tr:has-text('random roles, draw 1')"
    page.wait_for_selector(f"{row}:has-text('of 8 chunks')")
    assert "Nothing is concluded from fewer than 8 chunks a trial" in text(page, ".lesson .slot")
    page.wait_for_selector(f"{row}:has-text('22.5 dB')")
    page.click(".lesson [data-rule='profile']")
    page.wait_for_selector(".lesson .slot p:has-text('lane B was further from lane A')")
    assert page.evaluate("document.activeElement.dataset.rule") == "profile", "the focus stays where it was"
    assert "random roles, draw 1" in text(page, ".lesson .dots.wide"), "the trials are drawn with their dots"


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


def test_two_profiles_are_compared_a_third_is_loaded_and_other_models_are_refused(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = visit()
    page.click("#tab-analysis-button")
    card = "#exhibit-profiles"
    page.wait_for_selector("#plot-profiles .main-svg")
    assert "They agree on 330 heads" in text(page, f"{card} .caption")

    def choose(menu: str, name: str) -> None:
        page.locator(card).get_by_label(menu, exact=True).click()
        page.get_by_role("option", name=name).click()

    def say(words: str) -> None:
        page.wait_for_function(f"document.querySelector('{card} .caption').textContent.includes({words!r})")

    mine = HeadProfile.of_scores("mine", [[0.1 * head for head in range(HEADS)]] * LAYERS, recipe={}).by_threshold(0.45)
    (tmp_path / "mine.json").write_text(mine.to_json())
    (tmp_path / "broken.json").write_text("{")
    page.locator(f"{card} input[type=file]").set_input_files(tmp_path / "mine.json")
    say(f"has 30 layers of 12 heads, mine.json, loaded {LAYERS} of {HEADS}")
    choose("First", "mine.json, loaded")
    say(f"They agree on {LAYERS * HEADS} heads")
    page.locator(f"{card} input[type=file]").set_input_files(tmp_path / "broken.json")
    page.wait_for_selector("#analysis-note .error")
    say(f"They agree on {LAYERS * HEADS} heads")
    with page.expect_download() as caught:
        page.click("#csv-profiles")
    caught.value.save_as(tmp_path / "compared.csv")
    assert len((tmp_path / "compared.csv").read_text().splitlines()) >= LAYERS * HEADS


def test_without_a_recording_the_lesson_says_to_press_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "RECORDED", tmp_path / "none.json.gz")
    assert learn.recorded() == (None, "")
    (tmp_path / "none.json.gz").write_bytes(b"broken")
    found, trouble = learn.recorded()
    assert found is None
    assert "python -m fkv record" in trouble
