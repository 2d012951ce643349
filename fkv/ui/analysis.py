"""The Analysis tab: figures of the run at hand, each with its caption and four ways to take it away."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gradio as gr

from fkv.ui.downloads import CLICK
from fkv.ui.learn import at_hand, recorded
from fkv.ui.wiring import paragraph
from fkv.views import figures, figures_compare, lesson_step
from fkv.views.figures import Figure
from fkv.views.trace import Trace

if TYPE_CHECKING:
    from fkv.ui.wiring import House

MAKERS: tuple[tuple[str, Callable[[Trace], Figure | None]], ...] = (
    ("score-histogram", figures.histogram),
    ("age-curves", figures_compare.ages),
    ("stability-prompts", figures.stability),
    ("stability-steps", partial(figures.stability, over="steps")),
    ("agreement", figures_compare.agreement),
)
PICTURE = """() => {{ const plot = document.querySelector('#plot-{name} .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.downloadImage(plot, {{ format: '{format}', filename: 'fkv-{name}',
    width: plot.clientWidth, height: plot.clientHeight, scale: {scale}, setBackground: 'opaque' }}); }}"""
NOTHING = "There is nothing to draw yet: press Start on the Live tab, or record a run with `python -m fkv record`."
LEDE = (
    "Every figure is drawn from your live run as far as it has measured what is shown, else from the recorded run. SVG and PNG are made by "
)
LEDE += "your browser; CSV and NPZ carry the numbers, the caption and the recipe."


@dataclass(frozen=True)
class Exhibit:
    """One figure's widgets."""

    name: str
    title: gr.HTML
    plot: gr.Plot
    caption: gr.HTML
    pictures: dict[str, gr.Button]
    tables: dict[str, gr.Button]


@dataclass(frozen=True)
class Analysis:
    """The tab's widgets. `link` is the hidden button that a made file is fetched by."""

    exhibits: Sequence[Exhibit]
    link: gr.DownloadButton
    note: gr.HTML


def build() -> Analysis:
    """The tab's contents, where it is called."""
    with gr.Column(elem_id="analysis"):
        gr.HTML(f"<p>{LEDE}</p>", elem_classes=["lede"])
        note = gr.HTML("", elem_id="analysis-note")
        with gr.Row(elem_id="exhibits"):
            shown = [exhibit(name) for name, _ in MAKERS]
        link = gr.DownloadButton("Numbers", elem_id="analysis-file")
    return Analysis(shown, link, note)


def exhibit(name: str) -> Exhibit:
    with gr.Column(elem_classes=["fkv-card", "exhibit"], elem_id=f"exhibit-{name}"):
        with gr.Row(elem_classes=["exhibit-head"]):
            title = gr.HTML("")
            pictures = {kind: gr.Button(kind.upper(), size="sm", min_width=0, elem_id=f"{kind}-{name}") for kind in ("svg", "png")}
            tables = {kind: gr.Button(kind.upper(), size="sm", min_width=0, elem_id=f"{kind}-{name}") for kind in ("csv", "npz")}
        plot = gr.Plot(show_label=False, container=False, elem_id=f"plot-{name}")
        caption = gr.HTML("", elem_classes=["caption"])
    return Exhibit(name, title, plot, caption, pictures, tables)


def drawn(name: str, sources: Sequence[Trace]) -> tuple[Figure, Trace] | None:
    """A figure from the first trace that has what it shows."""
    make = dict(MAKERS)[name]
    for trace in sources:
        if (figure := make(trace)) is not None:
            return figure, trace
    return None


def connect(analysis: Analysis, tab: gr.Tab, house: House) -> None:
    """Draws when the tab is opened; the buttons take away what is then at hand."""
    trace, trouble = recorded()

    def draw(request: gr.Request) -> list[Any]:
        sources, found = at_hand(house, request, trace), []
        for one in analysis.exhibits:
            made = drawn(one.name, sources)
            if made is None:
                found += [f"<h3>{one.name}</h3>", None, "<p>Not measured in the run at hand.</p>"]
                continue
            figure, source = made
            words = f"{figure.caption} Source: {lesson_step.source_of(source)['text']}."
            found += [f"<h3>{html.escape(figure.title)}</h3>", figure.plot, f"<p>{html.escape(words)}</p>"]
        return [paragraph(trouble or NOTHING, error=bool(trouble)) if not sources else "", *found]

    def take(name: str, kind: str, request: gr.Request) -> tuple[Any, str]:
        made = drawn(name, at_hand(house, request, trace))
        if made is None:
            return gr.skip(), paragraph(NOTHING, error=True)
        file = house.visitor(request).folder() / f"fkv-{name}.{kind}"
        file.write_bytes(made[0].to_npz() if kind == "npz" else made[0].to_csv().encode())
        return gr.update(value=str(file)), ""

    outputs = [analysis.note, *(part for one in analysis.exhibits for part in (one.title, one.plot, one.caption))]
    tab.select(draw, None, outputs, show_progress="hidden", api_visibility="private", concurrency_limit=None)
    for one in analysis.exhibits:
        for kind, button in one.pictures.items():
            button.click(None, None, None, js=PICTURE.format(name=one.name, format=kind, scale=1 if kind == "svg" else 2))
        for kind, button in one.tables.items():
            made = button.click(
                taker(take, one.name, kind), None, [analysis.link, analysis.note], show_progress="hidden", api_visibility="private"
            )
            made.success(None, None, None, js=CLICK.format(name=analysis.link.elem_id))


def taker(take: Callable[[str, str, gr.Request], tuple[Any, str]], name: str, kind: str) -> Callable[..., tuple[Any, str]]:
    def made(request: gr.Request) -> tuple[Any, str]:
        return take(name, kind, request)

    return made
