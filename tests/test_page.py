"""The page as a person meets it, in headless Chromium, on drawn lanes instead of a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import PHONE, PICTURE, READY, STAGE, WIDER, House, light, reach, start, text, wait_until
from gradio.route_utils import delete_files_created_by_app

from fkv.policies import discover
from fkv.text import EXAMPLES

PAINTED = """([width, height]) => { const canvas = document.createElement('canvas'), bitmap = document.createElement('canvas');
  window.fkvStage.current.player.paint(canvas, { width, height, start: 0, bitmap }, 0); return [canvas.width, canvas.height]; }"""
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def test_start_moves_both_pictures_in_step_and_nothing_is_lost(visit: Callable[..., Any]) -> None:
    page = visit()
    seen: set[str] = set()
    page.on("request", lambda request: seen.add(re.sub(r"^(\w+://[^/:]+).*", r"\1", request.url)))
    assert "Press Start" in text(page, ".screen[data-lane='A'] .empty")
    start(page)
    before = [page.evaluate(PICTURE, lane) for lane in "AB"]
    reach(page, 9)
    assert all(page.evaluate(PICTURE, lane) != old for lane, old in zip("AB", before))
    counts = page.evaluate(f"({{...{STAGE}.player.counts, head: {STAGE}.player.head, lost: {STAGE}.lost}})")
    assert counts["lost"] == 0
    assert counts["drawn"] > 0
    assert abs(counts["drawn"] + counts["dropped"] - counts["head"]) <= 2
    assert page.evaluate(f"{STAGE}.player.onscreen.A === {STAGE}.player.onscreen.B")
    assert "shown" in text(page, ".numbers[data-lane='B']")
    assert {address for address in seen if address.startswith("http")} == {"http://127.0.0.1"}


def test_the_verdict_measures_first_and_starts_over_after_a_change(visit: Callable[..., Any]) -> None:
    page = visit()
    start(page, 3)
    assert "measuring" in text(page, "[data-claim='speed']")
    page.wait_for_function("document.querySelector('[data-claim=speed] b').textContent === '1.9×'")
    page.click("#compress input")
    page.wait_for_selector(".sign.diamond.b", state="attached")
    page.wait_for_function("document.querySelector('[data-claim=speed] .big').textContent.includes('measuring')")
    page.wait_for_function("document.querySelector('[data-claim=kept] b').textContent === '100 %'")
    assert "Full, 21 frames" in text(page, ".screen[data-lane='B'] .tag")


def test_two_people_do_not_see_each_other(visit: Callable[..., Any], house: House) -> None:
    one, two = visit(), visit(color_scheme="dark")
    start(one)
    start(two)
    one.fill("#prompt input", "a blue star falling")
    one.click("#prompt .submit-button")
    one.wait_for_selector(".sign.disc", state="attached")
    one.click(".cell[data-layer='2'][data-head='3']")
    one.wait_for_function("document.querySelector('.film h3').textContent.includes('Layer 2, head 3')")
    reach(two, 8)
    assert two.locator(".sign").count() == 0
    assert "Layer 1, head 0" in text(two, ".film h3")
    chosen = sorted((settings.prompt, settings.head) for settings in house.settings())
    assert chosen == [("a blue star falling", 3), (EXAMPLES[0], 0)]


def test_the_third_sees_his_place_and_starts_when_one_leaves(visit: Callable[..., Any], house: House) -> None:
    one, two, three = visit(), visit(), visit()
    start(one)
    start(two)
    three.click("#start")
    three.wait_for_function("document.querySelector('.fkv').dataset.state === 'queue'")
    assert "You are number 1 in line" in text(three, ".status")
    three.click("#stop")
    wait_until(lambda: not house.page.lobby.line)
    assert text(three, ".status") == "Ready"
    three.click("#start")
    three.wait_for_function("document.querySelector('.fkv').dataset.state === 'queue'")
    one.context.close()
    reach(three, 2)
    assert "Running" in text(three, ".status")


def test_a_closed_tab_ends_its_work_also_while_paused(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    page.click("#pause")
    page.wait_for_function("document.querySelector('.fkv').dataset.state === 'paused'")
    page.context.close()
    wait_until(house.idle, 20)


def test_pause_holds_resume_goes_on_and_stop_ends(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    page.click("#pause")
    page.wait_for_function("document.querySelector('.fkv').dataset.state === 'paused'")
    assert text(page, "#pause") == "Resume"
    held = page.evaluate(f"[{STAGE}.newest, {STAGE}.player.head]")
    page.wait_for_timeout(1500)
    assert page.evaluate(f"[{STAGE}.newest, {STAGE}.player.head]") == held
    page.click("#pause")
    reach(page, held[0] + 3)
    page.click("#stop")
    page.wait_for_function("document.querySelector('.fkv').dataset.state === 'ended'")
    assert "Stopped after" in text(page, ".status")
    wait_until(house.idle)


def test_the_speeds_of_a_lane_are_those_of_one_chunk(visit: Callable[..., Any]) -> None:
    page = visit()
    start(page)
    told = page.evaluate(f"""() => {{
      const {{ board, model }} = {STAGE}, sample = board.samples.A;
      board.number("A", {{ ...sample, text: {{ ...sample.text, fps: "98.7", diffusion: "123.4" }} }}, model);
      return board.box("A").innerText;
    }}""")
    assert "98.7" in told
    assert "123.4 diffusion" in told


def test_a_double_click_makes_one_run_and_start_again_begins_anew(visit: Callable[..., Any], house: House) -> None:
    page, begun = visit(), house.engine.begun
    page.dblclick("#start")
    reach(page, 16)
    assert house.engine.begun == begun + 1
    run = page.evaluate(f"{STAGE}.run")
    page.click("#start")
    page.wait_for_function(f"{STAGE}.run !== '{run}' && {STAGE}.newest >= 1 && {STAGE}.newest < 16")
    wait_until(lambda: house.engine.begun - house.engine.ended == 1)
    page.reload()
    page.wait_for_function(READY)
    wait_until(house.idle)
    start(page)


def test_a_prompt_that_cannot_be_read_is_answered_in_a_sentence(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    page.fill("#prompt input", "a red ball with a green zeppelin")
    assert page.evaluate("document.body.classList.contains('fkv-pending')")
    page.click("#prompt .submit-button")
    page.wait_for_selector("#note .note")
    assert "zeppelin" in text(page, "#note")
    page.fill("#prompt input", "...")
    page.click("#prompt .submit-button")
    page.wait_for_selector("#note .error")
    assert "Traceback" not in page.content()
    assert house.settings()[0].prompt == "a red ball with a green zeppelin", "what cannot be read changes nothing"
    page.click(".example >> nth=3")
    wait_until(lambda: house.settings()[0].prompt == EXAMPLES[3])


def test_parameters_of_a_policy_apply_and_refuse_in_their_own_card(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    page.click("#fold-b .label-wrap")
    page.wait_for_selector("#fold-b .parameters input[type=number]")
    field = page.get_by_label("Segments", exact=True)
    field.fill("7")
    field.press("Enter")
    page.wait_for_selector("#trouble .error")
    assert "7 segments" in text(page, "#trouble")
    field.fill("5")
    field.press("Enter")
    page.wait_for_function("!document.querySelector('#trouble .error')")
    wait_until(lambda: house.settings()[0].right == "forcing-kv:segments=5")
    page.click("#policy-b input")
    page.get_by_role("option", name=discover()["window"].title).click()
    wait_until(lambda: house.settings()[0].right == "window")
    page.wait_for_function("document.querySelector('#fold-b .label-wrap').textContent.includes('3')")


def test_a_phone_needs_no_sideways_scroll(visit: Callable[..., Any]) -> None:
    page = visit(**PHONE)
    start(page, 8)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(WIDER) == []
    assert page.evaluate("document.querySelector('.fkv').dataset.view") == "wipe"
    handle = page.locator(".wipe")
    handle.focus()
    handle.press("ArrowLeft")
    page.wait_for_selector(".wipe[aria-valuenow='45']")


def test_pictures_of_examples_stay_when_the_cache_is_cleared(visit: Callable[..., Any], house: House) -> None:
    delete_files_created_by_app(house.page.blocks, age=None)
    page = visit()
    page.wait_for_function("[...document.querySelectorAll('#try img')].every(picture => picture.complete)")
    assert page.evaluate("[...document.querySelectorAll('#try img')].map(picture => picture.naturalWidth > 0)") == [True] * len(EXAMPLES)


@pytest.mark.parametrize(("width", "height", "scale"), [(128, 80, 4), (832, 480, 1), (1920, 1088, 1)])
def test_only_small_pictures_are_drawn_larger_than_they_are(visit: Callable[..., Any], width: int, height: int, scale: int) -> None:
    drawn = visit().evaluate(PAINTED, [width, height])
    assert drawn == [width * scale, height * scale]


def test_on_a_wide_screen_the_page_stands_in_the_middle(visit: Callable[..., Any]) -> None:
    page = visit(viewport={"width": 1920, "height": 900})
    box = page.locator("main.contain").bounding_box()
    assert box["width"] == 1280
    assert abs(box["x"] - (1920 - box["x"] - box["width"])) <= 20, "a scroll bar is all the difference there may be"


def test_dark_is_dark_light_is_light_and_the_button_changes_it(visit: Callable[..., Any]) -> None:
    dark, bright = visit(color_scheme="dark"), visit(color_scheme="light")
    assert light(dark) < 70
    assert light(bright) > 200
    bright.click("#theme")
    bright.wait_for_timeout(500)
    assert light(bright) < 70


def test_the_head_map_is_walked_with_the_keyboard(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    assert page.locator("#stage .cell[tabindex='0']").count() == 1
    page.locator("#stage .cell[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("[document.activeElement.dataset.layer, document.activeElement.dataset.head]") == ["2", "1"]
    page.keyboard.press("Enter")
    page.wait_for_selector("#stage .cell[data-layer='2'][data-head='1'][aria-selected='true']")
    wait_until(
        lambda: any((visitor.wishes.get("layer"), visitor.wishes.get("head")) == (2, 1) for visitor in house.page.visitors.open.values())
    )
    start(page, 3)
    page.wait_for_function("document.querySelector('.film [data-lede]').textContent.includes('still holds')")
    assert "Layer 2, head 1" in text(page, ".film h3")
    assert page.get_attribute(".cell[data-layer='0'][data-head='0']", "aria-label") != ""


def test_the_past_can_be_looked_at_while_the_run_goes_on(visit: Callable[..., Any]) -> None:
    page = visit()
    start(page, 6)
    page.locator(".strip").focus()
    page.keyboard.press("Home")
    page.wait_for_function(f"{STAGE}.on === 0")
    reach(page, 8)
    assert page.evaluate(f"{STAGE}.on") == 0
    assert text(page, ".screen[data-lane='A'] [data-frame]") in ("frame 0", "frame 1", "frame 2")
    page.click("[data-live]")
    page.wait_for_function(f"{STAGE}.on > 5")
    page.click("[data-value='race']")
    page.wait_for_function("/B is \\d+ frames? ahead/.test(document.querySelector('[data-sentence]').textContent)")


def test_a_lane_that_ends_is_said_and_the_other_goes_on(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    house.engine.lose = 4
    start(page, 10)
    house.engine.lose = -1
    assert text(page, "[data-sentence]") == "Lane B ran out of memory and has ended. Lane A goes on."
    page.wait_for_function("document.querySelector('.screen[data-lane=B] [data-frame]').textContent === 'ended'")
    before = page.evaluate(PICTURE, "A")
    page.wait_for_function(f"{STAGE}.on >= 8")
    assert page.evaluate(PICTURE, "A") != before


def test_downloads_are_a_video_and_every_measurement(visit: Callable[..., Any], tmp_path: Path) -> None:
    import imageio_ffmpeg

    page = visit()
    page.click("#report")
    page.wait_for_selector("#download-note .error")
    assert "press Start" in text(page, "#download-note")
    start(page, 5)  # by one lane at least, so that four are whole
    for button, name in (("#report", "report.json"), ("#video", "both.mp4")):
        with page.expect_download() as caught:
            page.click(button)
        caught.value.save_as(tmp_path / name)
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["samples"]) >= 8
    assert report["start"]["settings"]["prompt"] == EXAMPLES[0]
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "both.mp4"))
    assert frames is not None
    assert frames >= 48
    assert frames % 12 == 0
