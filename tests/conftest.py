"""What tests share: a small engine; a page served on drawn lanes, a Chromium, and visits that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from browsing import PATIENCE, READY, House, chromium, wait_until

if TYPE_CHECKING:
    from fkv.engine import Engine


@pytest.fixture(scope="module")
def small() -> Engine:
    from small import small_engine

    return small_engine()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    from stand_in import StandInEngine, StandInSession, facts

    from fkv.text import EXAMPLES
    from fkv.ui import Backend, build

    engine = StandInEngine()
    StandInSession.pause = 0.15
    page = build(Backend(lambda _: engine, facts, StandInSession), examples=EXAMPLES, seats=2, chunks=0)  # type: ignore[arg-type,return-value]
    _, url, _ = page.blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **page.options)
    yield House(engine, page, url)
    page.blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(house: House, browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens the page as a new person; at the end everybody leaves and all work must have ended."""
    contexts: list[Any] = []

    def open_page(**context: Any) -> Any:
        contexts.append(browser.new_context(**({"viewport": {"width": 1280, "height": 1000}} | context)))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(house.url)
        page.wait_for_function(READY)
        return page

    yield open_page
    for context in contexts:
        context.close()
    wait_until(house.idle)
