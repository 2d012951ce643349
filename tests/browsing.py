"""What the page's tests share: a headless Chromium, waiting for what is shown, and reading it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from stand_in import StandInEngine

    from fkv.events import Settings
    from fkv.ui import Page

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--no-proxy-server"]
PATIENCE = 90_000  # ms; shared cores
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
STAGE = "window.fkvStage.current"
READY = "window.fkvStage && window.fkvStage.current && document.querySelector('#stage .cell')"
PICTURE = """lane => { const canvas = document.querySelector(`.screen[data-lane="${lane}"] canvas`);
  return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
  .reduce((sum, x, i) => (sum * 31 + x * (i % 251)) % 1e9, 7); }"""
WIDER = """() => [...document.querySelectorAll('body *')].filter(node => node.getBoundingClientRect().right > innerWidth + 1
  && !node.closest('.scroll, #try, .said')).map(node => node.tagName + '.' + node.className)"""


@dataclass
class House:
    """A page that is served, and the engine behind it."""

    engine: StandInEngine
    page: Page
    url: str

    def settings(self) -> list[Settings]:
        """Settings of everybody who is running."""
        return [visitor.session.settings for visitor in self.page.visitors.open.values() if visitor.session]

    def idle(self) -> bool:
        return self.engine.begun == self.engine.ended and not self.page.lobby.seated and not self.page.lobby.line


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = os.environ.get("FKV_CHROMIUM") or next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(p).exists()), None)
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing happened in time"
        time.sleep(0.05)


def reach(page: Any, chunk: int) -> None:
    """Waits until a chunk (from 1) has arrived, in one lane at least."""
    page.wait_for_function(f"{STAGE}.newest >= {chunk - 1}")


def start(page: Any, chunk: int = 2) -> None:
    page.click("#start")
    reach(page, chunk)


def text(page: Any, selector: str) -> str:
    return page.inner_text(selector).strip()


def light(page: Any) -> float:
    """Mean brightness of the page in [0, 255]."""
    return float(np.asarray(Image.open(BytesIO(page.screenshot())).convert("L")).mean())
