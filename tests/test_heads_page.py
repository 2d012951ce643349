"""The Heads page as a person meets it: the map, the threshold, a token's map, overrides, a painted policy. On drawn lanes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browsing import PHONE, STAGE, WIDER, House, reach, start, text, wait_until
from stand_in import HEADS, LAYERS

from fkv.heads import HeadProfile

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

LAB = "#lab"
SHOWN = "document.querySelector('#lab [data-gaze]').dataset.map"
BRIGHT = """frame => { const canvas = document.querySelector(`#lab .shots canvas[data-frame="${frame}"]`);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let best = [-1, 0, 0];
  for (let row = 0; row < 5; row++) for (let column = 0; column < 8; column++) {
    const at = 4 * (Math.round((row + 0.5) * canvas.height / 5) * canvas.width + Math.round((column + 0.5) * canvas.width / 8));
    const light = data[at] + data[at + 1] - data[at + 2];
    if (light > best[0]) best = [light, row, column];
  }
  return best.slice(1); }"""


def heads(page: Any) -> None:
    page.get_by_role("tab", name="Heads").click()
    page.wait_for_selector(f"{LAB} .cell")


def cell(layer: int, head: int) -> str:
    return f"{LAB} .cell[data-layer='{layer}'][data-head='{head}']"


def one(house: House) -> Any:
    return house.settings()[0]


def test_the_profile_is_there_before_anything_runs(visit: Callable[..., Any]) -> None:
    page = visit()
    heads(page)
    assert page.locator(f"{LAB} .cell").count() == 48
    assert page.locator(f"{LAB} .cell.ruled").count() == 8, "the policy treats the heads of layer 0 alike"
    assert "40 heads by score" in text(page, f"{LAB} .histogram .caption")
    assert "when it starts" in text(page, f"{LAB} [data-when]")
    assert page.locator(f"{LAB} .cell[tabindex='0']").count() == 1


def test_the_map_is_walked_pinned_and_overridden_with_the_keyboard(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    heads(page)
    page.locator(cell(1, 0)).focus()
    for key in ("ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    wait_until(lambda: (one(house).layer, one(house).head, one(house).pinned) == (2, 1, ((1, 0),)))
    page.wait_for_function("document.querySelector('#lab .head-card h3').textContent.trim() === 'Layer 2, head 1'")
    page.keyboard.press("o")
    wait_until(lambda: one(house).overrides == ((2, 1, "static"),))
    page.wait_for_selector(f"{cell(2, 1)}.override.static")
    page.wait_for_function("document.querySelector('#lab [data-when]').textContent.includes('In force in lane B since chunk')")
    page.locator(cell(2, 1)).focus()
    page.keyboard.press("t")
    page.keyboard.press("ArrowLeft")
    wait_until(lambda: (one(house).rule, one(house).threshold) == ("threshold", 0.79))
    page.locator(cell(2, 1)).focus()
    page.keyboard.press("Escape")
    wait_until(lambda: one(house).pinned == ())


def test_dragging_the_threshold_reclassifies_at_once_and_reaches_lane_b(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    heads(page)
    before = page.locator(f"{LAB} .cell.static").count()
    box, pile = page.locator(f"{LAB} .grip").bounding_box(), page.locator(f"{LAB} .piles").bounding_box()
    page.mouse.move(box["x"] + 16, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(pile["x"] + 0.4 * pile["width"], box["y"] + 10, steps=4)
    page.wait_for_function(f"document.querySelectorAll('#lab .cell.static').length > {before}")
    assert one(house).rule == "profile", "nothing is asked for until the threshold is let go"
    page.mouse.up()
    wait_until(lambda: one(house).rule == "threshold")
    assert abs(one(house).threshold - 0.4) < 0.03
    page.wait_for_function(
        "document.querySelector('#lab .grip').getAttribute('aria-valuetext')"
        ".includes(`${document.querySelectorAll('#lab .cell.static:not(.ruled)').length} static`)"
    )
    page.wait_for_function("document.querySelector('#lab [data-when]').textContent.includes('In force in lane B')")


def test_the_map_shown_is_that_of_the_token_pointed_at(visit: Callable[..., Any]) -> None:
    page = visit()
    start(page, 4)
    heads(page)
    page.wait_for_function(f"{STAGE}.lab.gaze.frame >= 6")
    page.click("#lab [data-run]")
    page.wait_for_function("document.querySelector('.fkv').dataset.state === 'paused'")
    page.locator(f"{LAB} .onscreen").scroll_into_view_if_needed()
    box = page.locator(f"{LAB} .onscreen").bounding_box()
    for row, column in ((1, 6), (4, 2)):
        page.mouse.move(box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 5)
        frame = page.evaluate(f"{STAGE}.lab.gaze.frame")
        page.wait_for_function(f"{SHOWN} === '1,0,{frame},{row},{column},keys'")
        assert page.evaluate(BRIGHT, frame - 1) == [row, column], "rows are rows and columns are columns"
    assert "is on tokens lane B does not hold" in text(page, f"{LAB} .told")
    page.wait_for_function("document.querySelectorAll('#lab .reach .kept').length >= 3")
    assert "of at most 256 MB" in text(page, f"{LAB} .reach")


def test_a_held_place_without_a_map_moves_on_until_there_is_one(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page, 4)
    heads(page)
    page.wait_for_function(f"{STAGE}.lab.gaze.frame >= 6")
    page.locator(f"{LAB} .onscreen").click(position={"x": 20, "y": 20})
    page.wait_for_function(f"{SHOWN}.startsWith('1,0,')")
    session: Any = next(visitor.session for visitor in house.page.visitors.open.values() if visitor.session)
    look = session.looks.look
    measured: list[int] = []

    def unmeasured(layer: int, head: int, frame: int, row: int, column: int, **how: Any) -> Any:
        if not measured or frame < measured[0]:
            raise ValueError(f"head {head} of layer {layer} has not been kept; its turn comes")
        return look(layer, head, frame, row, column, **how)

    session.look = unmeasured
    page.locator(cell(2, 1)).click()
    page.wait_for_function("document.querySelector('#lab .told').textContent.includes('its turn comes')")
    held = page.evaluate(f"{STAGE}.lab.gaze.token.frame")
    page.wait_for_function(f"{STAGE}.lab.gaze.token.frame > {held} + 3")
    measured.append(3 * session.chunk)
    page.wait_for_function(f"{SHOWN}.startsWith('2,1,')")
    shown = page.evaluate(f"{STAGE}.lab.gaze.token.frame")
    assert shown >= measured[0]
    page.wait_for_function(f"{STAGE}.lab.gaze.frame > {shown} + 3")
    assert page.evaluate(f"{STAGE}.lab.gaze.token.frame") == shown, "a place with a map is held"


def test_other_ways_to_choose_classes_reach_lane_b_and_its_chunks(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    heads(page)
    page.get_by_role("button", name="Invert").click()
    wait_until(lambda: one(house).rule == "inverted")
    page.get_by_role("button", name="Random, same size").click()
    wait_until(lambda: one(house).rule.startswith("random:"))
    page.wait_for_function(f"{STAGE}.store.applied")
    page.get_by_role("button", name="All static").click()
    page.wait_for_function(f"{STAGE}.store.applied && {STAGE}.store.counts().dynamic === 0")
    page.get_by_role("button", name="As profiled").click()
    wait_until(lambda: (one(house).rule, one(house).threshold) == ("profile", None))


def test_what_cannot_be_is_answered_in_a_sentence_and_the_page_goes_on(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page)
    ask = f"([what, body]) => {STAGE}.ask(what, body)"
    refused = [
        ("choose", {"rule": "threshold", "threshold": 1.3}, "outside [0, 1]"),
        ("choose", {"layer": 99, "head": 0}, "layers 0..5"),
        ("choose", {"overrides": [[0, 0, "sleepy"]]}, "use static or dynamic"),
        ("choose", {"pinned": [[0, 0]] * 5}, "most 4"),
        ("look", {"layer": 3, "head": 3, "frame": 0, "row": 0, "column": 0}, "pin it"),
        ("look", {"layer": 1, "head": 0, "frame": -1, "row": 0, "column": 0}, "not a whole number"),
        ("look", {"layer": 1}, "incomplete"),
        ("open", {}, "unknown"),
    ]
    for what, body, words in refused:
        answer = page.evaluate(ask, [what, body])
        assert not answer["ok"]
        assert words in answer["error"]
    assert one(house).rule == "profile"
    newest = page.evaluate(f"{STAGE}.newest")
    reach(page, newest + 3)


def test_a_profile_is_loaded_refused_and_taken_away_on_the_page(visit: Callable[..., Any], house: House, tmp_path: Path) -> None:
    page = visit()
    start(page)
    heads(page)
    mine = HeadProfile("mine", LAYERS, HEADS, ((0, 1, 2),) * LAYERS, recipe={"prompts": 3})
    file, foreign = tmp_path / "mine.json", tmp_path / "foreign.json"
    file.write_text(mine.to_json())
    foreign.write_text(HeadProfile("sf", 30, 12, ((),) * 30).to_json())
    chooser = page.locator(f"{LAB} [data-profile-file]")
    chooser.set_input_files(file)
    page.wait_for_function("document.querySelector('#lab .profile-name').textContent === 'mine.json, classes only'")
    wait_until(lambda: one(house).profile is not None and one(house).profile.static == mine.static)
    page.wait_for_function(f"{STAGE}.store.applied && {STAGE}.store.counts().static === 15")
    chooser.set_input_files(foreign)
    page.wait_for_function("document.querySelector('#lab .profile .error').textContent.includes('30 layers, the model 6')")
    assert text(page, f"{LAB} .profile-name") == "mine.json, classes only", "the page goes on with what it had"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    assert HeadProfile.from_json(Path(download.value.path()).read_text()).static == mine.static
    page.get_by_role("button", name="Back to the model's own").click()
    wait_until(lambda: one(house).profile is None)
    page.wait_for_function("document.querySelector('#lab .profile-name').textContent.includes('own')")


def test_a_painted_policy_is_priced_first_and_then_runs_in_lane_b(visit: Callable[..., Any], house: House) -> None:
    page = visit()
    start(page, 4)
    heads(page)
    page.get_by_role("button", name="Nothing", exact=True).click()
    field = page.locator("#lab .ages button[data-kind='dynamic'][data-age='2'][data-segment='3']")
    field.click()
    page.wait_for_selector("#lab .ages button[data-kind='dynamic'][data-age='2'][data-segment='3'][aria-selected='true']")
    page.wait_for_function("document.querySelector('#lab .paint-card .facts').textContent.includes('of dynamic heads')")
    assert "Predicted, not measured" in text(page, f"{LAB} .paint-card .foot")
    assert page.locator(f"{LAB} .foretold em").all_inner_texts() == ["predicted"] * 5, "nothing of it is measured before it runs"
    page.get_by_role("button", name="Run it in lane B").click()
    wait_until(lambda: one(house).right == "painted:static=,dynamic=2.3")


def test_two_people_choose_heads_apart(visit: Callable[..., Any], house: House) -> None:
    mine, other = visit(), visit()
    start(mine)
    start(other)
    heads(mine)
    mine.locator(cell(3, 4)).click()
    mine.get_by_role("button", name="All dynamic").click()
    wait_until(lambda: sorted((settings.layer, settings.rule) for settings in house.settings()) == [(1, "profile"), (3, "all-dynamic")])
    assert other.evaluate(f"{STAGE}.store.wanted.rule") == "profile"


def test_the_heads_page_needs_no_sideways_scroll_on_a_phone(visit: Callable[..., Any]) -> None:
    page = visit(**PHONE)
    start(page, 3)
    heads(page)
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(WIDER) == []
