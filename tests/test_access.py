"""What a screen reader meets: axe-core's rules for WCAG 2 A and AA on every tab, in light and dark, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import PHONE, STAGE, start

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


def broken(page: Any) -> list[str]:
    """What breaks a rule: the rule, the place, and why."""
    found = Axe().run(page, context=".gradio-container", options=RULES).response["violations"]
    assert page.locator(".gradio-container").count() == 1, "the rules were put to the page"
    places = [(one["id"], node) for one in found for node in one["nodes"]]
    return [f"{rule}: {node['html'][:160]} {' '.join(why['message'] for why in node['any'])}" for rule, node in places]


@pytest.mark.parametrize("context", [{}, {**PHONE, "color_scheme": "dark"}], ids=["desk, light", "phone, dark"])
def test_every_tab_keeps_the_rules_of_accessibility(visit: Callable[..., Any], context: dict[str, Any]) -> None:
    page = visit(**context)
    start(page, 4)
    page.click("#pause")
    page.wait_for_function("document.querySelector('.fkv').dataset.state === 'paused'")
    assert page.evaluate(f"{STAGE}.newest") >= 3
    assert broken(page) == [], "Live"
    page.evaluate("document.querySelectorAll('.fkv .shot').forEach((shot) => shot.classList.add('blank'))")
    assert broken(page) == [], "Live, pictures still on their way"
    page.click("#tab-heads-button")
    page.wait_for_selector("#lab .cell")
    assert broken(page) == [], "Heads"
    page.click("#tab-learn-button")
    for step in range(8):
        page.click(f"[data-step='{step}']")
        assert broken(page) == [], f"Learn, step {step + 1}"
    page.click("#tab-analysis-button")
    page.wait_for_selector("#plot-profiles .main-svg")
    assert broken(page) == [], "Analysis"
