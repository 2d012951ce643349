"""The app itself, with the model that comes with it: it answers, it moves, it shows what it made. How soon is printed, not judged."""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsing import PATIENCE, STAGE, chromium, reach, text, wait_until

from fkv.engine import load
from fkv.machine import environment

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture
def app_itself() -> Iterator[tuple[str, float]]:
    """`python app.py` as anybody starts it: its address and the seconds until the page answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "app.py", "--port", str(port)], cwd=Path(__file__).parent.parent)

    def answers() -> bool:
        assert process.poll() is None, "app.py ended at once"
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30).status == 200
        except OSError:
            return False

    try:
        wait_until(answers, 240)
        yield f"http://127.0.0.1:{port}/", time.monotonic() - began
    finally:
        process.terminate()
        process.wait(30)


def test_the_app_itself_answers_and_moves_in_time(app_itself: tuple[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    url, answered = app_itself
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        page.wait_for_function("window.fkvStage && window.fkvStage.current && document.querySelector('.fkv .map')")
        began = time.monotonic()
        page.click("#start")
        page.wait_for_function(f"{STAGE}.player.onscreen.A > 1 && {STAGE}.player.onscreen.B > 1")
        moved = time.monotonic() - began
        speeds: dict[str, list[float]] = {"A": [], "B": []}
        for chunk in range(4, 13):
            reach(page, chunk)
            for lane, seen in speeds.items():
                seen.append(float(text(page, f".numbers[data-lane='{lane}'] [data-fps]")))
        counts = page.evaluate(f"({{...{STAGE}.player.counts, head: {STAGE}.player.head, lost: {STAGE}.lost}})")
        shown = min(1.0, counts["drawn"] / counts["head"])
    speed = {lane: f"{statistics.median(seen):.1f}" for lane, seen in speeds.items()}
    with capsys.disabled():
        print(f"\npage after {answered:.1f} s, video after {moved:.1f} s, {100 * shown:.0f} % of frames shown, end to end {speed} FPS")
    if "FKV_PAGE_JSON" in os.environ:
        found = {"page_s": round(answered, 2), "video_s": round(moved, 2), "shown": round(shown, 4), "fps": speed}
        machine = environment(load("pocket"))
        Path(os.environ["FKV_PAGE_JSON"]).write_text(json.dumps(found | {"machine": machine}, indent=1) + "\n")
    assert counts["lost"] == 0
    assert abs(counts["drawn"] + counts["dropped"] - counts["head"]) <= 2
