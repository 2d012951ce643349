"""Downloads of what this visitor's run produced: a side-by-side video with labels, and every measurement as JSON.

Where the model's row has a decoder for finished videos and it is here, the video is drawn anew by it, one visitor's at a time and between
the chunks of runs; else it is made of the pictures the stage was sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv import redraw
from fkv.engine import Engine
from fkv.events import sentence
from fkv.parts import called
from fkv.redraw import Undrawn
from fkv.ui.recording import Reel
from fkv.ui.visitors import Lobby, Visitor, Visitors
from fkv.ui.wiring import paragraph
from fkv.video import Spool, write_video

if TYPE_CHECKING:
    from fkv.ui.page import Widgets

Answer = tuple[Any, Any]  # for the hidden link and for the note
WAITING = 8  # visitors that are told how far their video is; more wait without a word
CLICK = "() => {{ setTimeout(() => document.querySelector('#{name} a, #{name} button, a#{name}, button#{name}')?.click(), 300); }}"


def connect(widgets: Widgets, visitors: Visitors) -> None:
    """Each button makes its file and then presses the hidden link that holds it. A button that is at work does not hear a second click."""
    line = Lobby(seats=1)

    def video(request: gr.Request) -> Iterator[Answer]:
        yield from film(visitors.of(str(request.session_hash)), line)

    def report(request: gr.Request) -> Answer:
        return measurements(visitors.of(str(request.session_hash)))

    for button, link, make, most in (
        (widgets.video, widgets.video_file, video, WAITING),
        (widgets.report, widgets.report_file, report, 1),
    ):
        done = button.click(
            make, None, [link, widgets.download_note], show_progress="hidden", concurrency_limit=most, api_visibility="private"
        )
        done.success(None, None, None, js=CLICK.format(name=link.elem_id))


def measurements(visitor: Visitor) -> Answer:
    """The link to a report, or why there is none."""
    path = place(visitor, "json")
    try:
        path.write_text(visitor.recording.report(), encoding="utf-8")
    except ValueError as error:
        return refused(error)
    return gr.update(value=str(path)), ""


def film(visitor: Visitor, line: Lobby) -> Iterator[Answer]:
    """The link to a video of what is recorded now, whatever runs or ends meanwhile, after words on how far it is; or why there is none.
    Another call for the same visitor takes the place of this one, which then ends.
    """
    ticket, said = line.ask(visitor.key), ""
    try:
        reel = visitor.recording.reel()
        while ahead := _ahead(line, ticket, 1.0):
            yield gr.skip(), paragraph(f"Another video is being made. You are number {ahead} in line.")
        path = place(visitor, "mp4")
        for words in filmed(reel, path):
            if _ahead(line, ticket) is None:
                return
            said = paragraph(words)
            yield gr.skip(), said
        yield gr.update(value=str(path)), said
    except ValueError as error:
        yield refused(error)
    finally:
        line.leave(visitor.key, ticket)


def filmed(reel: Reel, path: Path) -> Iterator[str]:
    """Writes a video and says how far it is, and at the end which decoder drew it; says nothing where there is one only."""
    engine = reel.engine
    if engine is None or not redraw.decoder_of(engine):
        write_video(path, reel.frames(), reel.fps)
        return
    name = called(redraw.decoder_of(engine))
    try:
        yield from _redrawn(reel, engine, name, path)
        told = f"The video is drawn by {name}."
    except (Undrawn, ValueError) as error:
        told = f"The video is drawn by {called(engine.decoder)}, not by {name}: {str(error).rstrip('.')}."
        write_video(path, reel.frames(), reel.fps)
    yield told


def _redrawn(reel: Reel, engine: Engine, name: str, path: Path) -> Iterator[str]:
    """Frames wait on disk, 29 MB per chunk at 480p, so that no encoder works beside a run for as long as it is drawn. Raises Undrawn, or
    ValueError where there is no room for them.
    """
    if not reel.clean:
        raise Undrawn(redraw.obstacle(engine) or "it was not on this machine when this run began; press Start again")
    count = len(reel.pairs)
    with Spool(path) as spool:
        with closing(redraw.redrawn(engine, partial(redraw.opened, engine), reel.clean, warm_up=reel.warm_up)) as chunks:
            for number in range(1, count + 1):
                yield f"Drawing chunk {number} of {count} with {name}"
                spool.add(*next(chunks))
        yield "Writing the file"
        write_video(path, spool.frames(), reel.fps)


def _ahead(line: Lobby, ticket: object, seconds: float = 0.0) -> int | None:
    """How many are ahead in the line, after that changed or after `seconds`; None where a newer call took the place."""
    try:
        return line.wait(ticket, seconds)
    except KeyError:
        return None


def place(visitor: Visitor, ending: str) -> Path:
    return visitor.folder() / f"fkv-{time.strftime('%Y%m%d-%H%M%S')}.{ending}"


def refused(error: ValueError) -> Answer:
    """Lets go of an earlier file, so that it is not taken for this one."""
    return gr.update(value=None), paragraph(sentence(error), error=True)
