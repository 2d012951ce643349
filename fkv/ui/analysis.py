"""The Analysis tab: figures of the run at hand, each with its caption and four ways to take it away."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np

from fkv.events import sentence
from fkv.ui import comparing, profiles
from fkv.ui.downloads import CLICK
from fkv.ui.learn import at_hand, recorded
from fkv.ui.wiring import QUIET, paragraph
from fkv.views import figures, figures_compare
from fkv.views.figures import Figure
from fkv.views.trace import Classes, Trace

if TYPE_CHECKING:
    from fkv.ui.wiring import House

MAKERS: tuple[tuple[str, Callable[[Trace], Figure | None]], ...] = (
    ("score-histogram", figures.histogram),
    ("age-curves", figures_compare.ages),
    ("stability-prompts", figures.stability),
    ("stability-steps", partial(figures.stability, over="steps")),
    ("agreement", figures_compare.agreement),
)
TITLES = {
    "score-histogram": "Heads by score",
    "age-curves": "How far back do they look?",
    "stability-prompts": "Is the class stable over prompts?",
    "stability-steps": "Is the class stable over steps?",
    "agreement": "Do two classifications agree?",
    "profiles": "Do two profiles agree?",
}
PICTURE = """() => {{ const plot = document.querySelector('#plot-{name} .js-plotly-plot');
  if (plot && window.Plotly) window.Plotly.downloadImage(plot, {{ format: '{format}', filename: 'fkv-{name}',
    width: plot.clientWidth, height: plot.clientHeight, scale: {scale}, setBackground: 'opaque' }}); }}"""
REACHABLE = """() => { for (const area of document.querySelectorAll('.exhibit .scroll'))
  Object.assign(area, { tabIndex: 0, role: 'group', ariaLabel: area.closest('.exhibit').querySelector('h3').textContent }); }"""
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
class Pair:
    """Two profiles to compare: which, a file to add, and their figure."""

    first: gr.Dropdown
    second: gr.Dropdown
    load: gr.UploadButton
    exhibit: Exhibit


@dataclass(frozen=True)
class Analysis:
    """The tab's widgets. `link` is the hidden button that a made file is fetched by."""

    exhibits: Sequence[Exhibit]
    pair: Pair
    link: gr.DownloadButton
    note: gr.HTML


def build() -> Analysis:
    """The tab's contents, where it is called."""
    with gr.Column(elem_id="analysis"):
        gr.HTML(f"<p>{LEDE}</p>", elem_classes=["lede"])
        note = gr.HTML("", elem_id="analysis-note")
        with gr.Row(elem_id="exhibits"):
            shown = [exhibit(name) for name, _ in MAKERS]
            pair = choosing()
        link = gr.DownloadButton("Numbers", elem_id="analysis-file")
    return Analysis(shown, pair, link, note)


def choosing() -> Pair:
    """The card that compares two profiles."""
    with gr.Column(elem_classes=["fkv-card", "exhibit"], elem_id="exhibit-profiles"):
        title, pictures, tables = heading("profiles")
        with gr.Row(elem_id="pair-of-profiles"):
            menus = zip(("First", "Second"), comparing.PUBLISHED)
            first, second = (
                gr.Dropdown(list(comparing.PUBLISHED), value=value, label=label, filterable=False, min_width=160) for label, value in menus
            )
            load = gr.UploadButton("Load a profile to compare…", file_types=[".json"], size="sm", elem_id="load-profile", min_width=0)
        plot, caption = drawing("profiles")
    return Pair(first, second, load, Exhibit("profiles", title, plot, caption, pictures, tables))


def exhibit(name: str) -> Exhibit:
    with gr.Column(elem_classes=["fkv-card", "exhibit"], elem_id=f"exhibit-{name}"):
        title, pictures, tables = heading(name)
        plot, caption = drawing(name)
    return Exhibit(name, title, plot, caption, pictures, tables)


def heading(name: str) -> tuple[gr.HTML, dict[str, gr.Button], dict[str, gr.Button]]:
    """Title and buttons of a figure, where it is called."""

    def button(kind: str) -> gr.Button:
        return gr.Button(kind.upper(), size="sm", min_width=0, elem_id=f"{kind}-{name}")

    with gr.Row(elem_classes=["exhibit-head"]):
        title = gr.HTML(f"<h3>{TITLES[name]}</h3>")
        pictures, tables = ({kind: button(kind) for kind in kinds} for kinds in (("svg", "png"), ("csv", "npz")))
    return title, pictures, tables


def drawing(name: str) -> tuple[gr.Plot, gr.HTML]:
    """A figure, which scrolls by itself where it is too wide, and what stands under it, where it is called."""
    with gr.Column(elem_classes=["scroll"]):
        plot = gr.Plot(show_label=False, container=False, elem_id=f"plot-{name}")
    return plot, gr.HTML("<p>Drawing …</p>", elem_classes=["caption"])


def drawn(name: str, sources: Sequence[Trace]) -> tuple[Figure, Trace] | None:
    """A figure from the first trace that has what it shows."""
    make = dict(MAKERS)[name]
    for trace in sources:
        if (figure := make(trace)) is not None:
            return figure, trace
    return None


def traces(house: House, request: gr.Request, trace: Trace | None) -> list[Trace]:
    """What figures are drawn from; the classes of a visitor's own run and model are those now in force, however they came about."""
    visitor, found = house.visitor(request), at_hand(house, request, trace)
    engine = house.shelf.ready(visitor.model) if visitor.model else None
    if engine is None or engine.profile is None:
        return found
    now = profiles.in_force(engine, replace(house.defaults, **visitor.wishes))
    scores, errors = (None if table is None else np.asarray(table, float) for table in (now.scores, now.errors))
    classes = Classes(now.static, now.rule, now.threshold, scores, errors)
    return [one if one.source.kind == "recorded" else replace(one, classes=classes) for one in found]


def connect(analysis: Analysis, tab: gr.Tab, house: House) -> None:
    """Draws when the tab is opened; the buttons take away what is then at hand."""
    trace, trouble = recorded()

    def draw(request: gr.Request) -> list[Any]:
        sources, found = traces(house, request, trace), []
        for one in analysis.exhibits:
            made = drawn(one.name, sources)
            if made is None:
                found += [f"<h3>{TITLES[one.name]}</h3>", None, "<p>Not measured in the run at hand.</p>"]
                continue
            figure, source = made
            words = f"{figure.caption} Source: {figures.source(source)}."
            found += [f"<h3>{html.escape(figure.title)}</h3>", figure.plot, f"<p>{html.escape(words)}</p>"]
        return [paragraph(trouble or NOTHING, error=bool(trouble)) if not sources else "", *found]

    def take(name: str, kind: str, request: gr.Request) -> tuple[Any, str]:
        made = drawn(name, traces(house, request, trace))
        if made is None:
            return gr.skip(), paragraph(NOTHING, error=True)
        return filed(house, request, made[0], kind), ""

    outputs = [analysis.note, *(part for one in analysis.exhibits for part in (one.title, one.plot, one.caption))]
    tab.select(draw, None, outputs, show_progress="hidden", api_visibility="private", concurrency_limit=None)
    tab.select(None, None, None, js=REACHABLE)
    pairing(analysis, tab, house)
    for one in (*analysis.exhibits, analysis.pair.exhibit):
        for kind, button in one.pictures.items():
            button.click(None, None, None, js=PICTURE.format(name=one.name, format=kind, scale=1 if kind == "svg" else 2))
    for one in analysis.exhibits:
        for kind, button in one.tables.items():
            made = button.click(
                taker(take, one.name, kind), None, [analysis.link, analysis.note], show_progress="hidden", api_visibility="private"
            )
            made.success(None, None, None, js=CLICK.format(name=analysis.link.elem_id))


def pairing(analysis: Analysis, tab: gr.Tab, house: House) -> None:
    """Compares two profiles when the tab is opened, when another is chosen and when one is loaded."""
    pair, exhibit = analysis.pair, analysis.pair.exhibit

    def compare(request: gr.Request, first: str, second: str) -> list[Any]:
        found = comparing.choices(house, request)
        first, second = (name if name in found else own for name, own in zip((first, second), comparing.PUBLISHED))
        menus = [gr.update(choices=list(found), value=name) for name in (first, second)]
        try:
            figure = comparing.compared(first, second, found)
        except ValueError as error:
            return [*menus, None, paragraph(sentence(error), error=True)]
        return [*menus, figure.plot, paragraph(figure.caption, *filter(None, [comparing.unlike(first, found)]))]

    def load(request: gr.Request, path: str) -> tuple[Any, str]:
        try:
            if Path(path).stat().st_size > profiles.LARGEST:
                raise ValueError(f"the file is larger than the {profiles.LARGEST // 1_000_000} MB that are read; choose a head profile")
            brought = profiles.read(Path(path).read_text(encoding="utf-8", errors="replace"), Path(path).name)
        except (ValueError, OSError) as error:
            return gr.skip(), paragraph(sentence(error), error=True)
        house.visitor(request).brought = brought
        found = comparing.choices(house, request)
        return gr.update(choices=list(found), value=f"{comparing.named(brought)}, {comparing.LOADED}"), ""

    def take(kind: str, request: gr.Request, first: str, second: str) -> tuple[Any, str]:
        try:
            figure = comparing.compared(first, second, comparing.choices(house, request))
        except ValueError as error:
            return gr.skip(), paragraph(sentence(error), error=True)
        return filed(house, request, figure, kind), ""

    inputs, outputs = [pair.first, pair.second], [pair.first, pair.second, exhibit.plot, exhibit.caption]
    tab.select(compare, inputs, outputs, show_progress="hidden", api_visibility="private", concurrency_limit=None)
    for menu in inputs:
        menu.input(compare, inputs, outputs, **QUIET)
    pair.load.upload(load, pair.load, [pair.second, analysis.note], **QUIET).success(compare, inputs, outputs, **QUIET)
    for kind, button in exhibit.tables.items():
        made = button.click(taken(take, kind), inputs, [analysis.link, analysis.note], show_progress="hidden", api_visibility="private")
        made.success(None, None, None, js=CLICK.format(name=analysis.link.elem_id))


def taken(take: Callable[[str, gr.Request, str, str], tuple[Any, str]], kind: str) -> Callable[..., tuple[Any, str]]:
    def made(request: gr.Request, first: str, second: str) -> tuple[Any, str]:
        return take(kind, request, first, second)

    return made


def filed(house: House, request: gr.Request, figure: Figure, kind: str) -> Any:
    """A figure's numbers as a file, for the link."""
    file = house.visitor(request).folder() / f"fkv-{figure.name}.{kind}"
    file.write_bytes(figure.to_npz() if kind == "npz" else figure.to_csv().encode())
    return gr.update(value=str(file))


def taker(take: Callable[[str, str, gr.Request], tuple[Any, str]], name: str, kind: str) -> Callable[..., tuple[Any, str]]:
    def made(request: gr.Request) -> tuple[Any, str]:
        return take(name, kind, request)

    return made
