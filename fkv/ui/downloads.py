"""Downloads of what this visitor's run produced: a side-by-side video with labels, and every measurement as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv.events import sentence
from fkv.ui.visitors import Visitor, Visitors
from fkv.ui.wiring import paragraph
from fkv.video import write_video

if TYPE_CHECKING:
    from fkv.ui.page import Widgets

Maker = Callable[[Visitor, Path], None]
CLICK = "() => {{ setTimeout(() => document.querySelector('#{name} a, #{name} button, a#{name}, button#{name}')?.click(), 300); }}"


def connect(widgets: Widgets, visitors: Visitors) -> None:
    """Each button makes its file and then presses the hidden link that holds it."""

    def video(visitor: Visitor, path: Path) -> None:
        start = visitor.recording.start
        if start is None or not visitor.recording.pairs():
            raise ValueError("nothing was generated yet; press Start first")
        write_video(path, visitor.recording.frames(), start.model.fps)

    def report(visitor: Visitor, path: Path) -> None:
        path.write_text(visitor.recording.report(), encoding="utf-8")

    buttons = (widgets.video, widgets.video_file, "mp4", video), (widgets.report, widgets.report_file, "json", report)
    for button, link, ending, make in buttons:
        done = button.click(
            _maker(visitors, make, ending), None, [link, widgets.download_note], show_progress="hidden", concurrency_limit=1,
            concurrency_id="downloads", api_visibility="private",
        )  # fmt: skip
        done.success(None, None, None, js=CLICK.format(name=link.elem_id))


def _maker(visitors: Visitors, make: Maker, ending: str) -> Callable[..., Any]:
    def file(request: gr.Request) -> tuple[Any, str]:
        visitor = visitors.of(str(request.session_hash))
        path = visitor.folder() / f"fkv-{time.strftime('%Y%m%d-%H%M%S')}.{ending}"
        try:
            make(visitor, path)
        except ValueError as error:
            return gr.skip(), paragraph(sentence(error), error=True)
        return gr.update(value=str(path)), ""

    return file
