"""The page: tabs over one run. Live has the native controls and the stage, Heads the lab of the same stage. Nothing numeric here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from fkv.advice import compressed, trained
from fkv.events import Settings
from fkv.policies import discover
from fkv.spec import MODELS, find
from fkv.ui import analysis, choosing, downloads, lab, learn, wiring
from fkv.ui.controls import LanePicker, picker
from fkv.ui.shelf import Backend, Shelf
from fkv.ui.theme import LAB_ON_LOAD, ON_LOAD, STAGE, head, read, theme
from fkv.ui.visitors import Lobby, Visitors

EXAMPLES = STAGE.parent / "examples"


@dataclass
class Page:
    """A built page: the Blocks and what one launch of it shares."""

    blocks: gr.Blocks
    visitors: Visitors
    lobby: Lobby
    shelf: Shelf
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Widgets:
    """The native controls that have events."""

    model: gr.Dropdown
    size: gr.Dropdown
    chips: gr.HTML
    theme: gr.Button
    prompt: gr.Textbox
    note: gr.HTML
    start: gr.Button
    pause: gr.Button
    stop: gr.Button
    seed: gr.Number
    dice: gr.Button
    examples: tuple[gr.Button, ...]
    left: LanePicker
    right: LanePicker
    compress: gr.Checkbox
    trouble: gr.HTML
    stage: gr.HTML
    video: gr.Button
    video_file: gr.DownloadButton
    report: gr.Button
    report_file: gr.DownloadButton
    download_note: gr.HTML


def build(
    backend: Backend,
    *,
    examples: Sequence[str] = (),
    seats: int = 2,
    chunks: int = 360,
    model: str = MODELS[0].name,
) -> Page:
    """The page. `seats` visitors run at once, a run ends after `chunks`; `examples` are prompts to try, the first is there at the start."""
    gr.set_static_paths([EXAMPLES])  # served where they lie: copies in Gradio's cache are deleted with age, and by any other page that ends
    visitors, lobby, shelf = Visitors(), Lobby(seats), Shelf(backend.load, backend.resize)
    own, other = trained(find(model)), compressed(find(model))
    defaults = Settings(prompt=examples[0] if examples else "", left=own, right=other, chunks=chunks)
    with gr.Blocks(title="fkv: KV-cache compression, live", analytics_enabled=False, fill_width=True, delete_cache=(1800, 3600)) as blocks:
        house = wiring.House(visitors, lobby, shelf, backend, defaults)
        widgets = _layout(house, examples, model)
        choosing.connect(blocks, widgets, house)
        wiring.connect(blocks, widgets, house)
        downloads.connect(widgets, visitors)
    options = {"theme": theme(), "head": head() + learn.head(), "footer_links": [], "run_history": False, "ssr_mode": False}
    options["_frontend"] = False  # else Gradio asks its own address before it serves, and aborts where a busy machine takes three seconds
    return Page(blocks, visitors, lobby, shelf, options)


def _layout(house: wiring.House, examples: Sequence[str], model: str) -> Widgets:
    with gr.Row(elem_id="top"):
        gr.HTML(read("header.html"), elem_id="brand")
        choice = gr.Dropdown(list(house.backend.models()), value=model, label="Model", elem_id="model", filterable=False, min_width=120)
        sizes = list(house.backend.sizes(model))
        size = gr.Dropdown(
            sizes, value=next(iter(sizes), None), label="Size", elem_id="size", filterable=False, min_width=80, visible=bool(sizes)
        )
        chips = gr.HTML("", elem_id="chips")
        switch = gr.Button("Light or dark", elem_id="theme", min_width=36)
    gr.HTML(read("lede.html"), elem_id="lede")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("Live", id="live", elem_id="tab-live", render_children=True):
            live = _live(house, examples)
        with gr.Tab("Heads", id="heads", elem_id="tab-heads", render_children=True):
            gr.HTML("", html_template=read("lab.html"), js_on_load=LAB_ON_LOAD, apply_default_css=False, elem_id="lab")
        with gr.Tab("Learn", id="learn", elem_id="tab-learn", render_children=True):
            learn.connect(learn.build(), house)
        with gr.Tab("Analysis", id="analysis", elem_id="tab-analysis") as tab:
            analysis.connect(analysis.build(), tab, house)
    return Widgets(model=choice, size=size, chips=chips, theme=switch, **live)


def _live(house: wiring.House, examples: Sequence[str]) -> dict[str, Any]:
    """The Live tab; gives its widgets by name."""
    with gr.Column(elem_id="ask", elem_classes=["fkv-card"]):
        asked = _asking(house.defaults, examples)
    with gr.Column(elem_id="lanes", elem_classes=["fkv-card"]):
        picked = _picking(house.defaults)
    stage = gr.HTML(
        "", html_template=read("stage.html"), js_on_load=ON_LOAD, apply_default_css=False, elem_id="stage",
        server_functions=[lab.asker(house)],
    )  # fmt: skip
    with gr.Row(elem_id="take"):
        taken = {
            "video": gr.Button("Download video", size="sm", elem_id="video", min_width=0),
            "video_file": gr.DownloadButton("Video", elem_id="video-file"),
            "report": gr.Button("Download measurements", size="sm", elem_id="report", min_width=0),
            "report_file": gr.DownloadButton("Measurements", elem_id="report-file"),
            "download_note": gr.HTML("", elem_id="download-note"),
        }
    gr.HTML(read("about.html"), elem_id="about")
    return {"stage": stage, **asked, **picked, **taken}


def _asking(defaults: Settings, examples: Sequence[str]) -> dict[str, Any]:
    """The card with the prompt, what starts and stops a run, and examples."""
    with gr.Row(elem_id="ask-row"):
        prompt = gr.Textbox(
            defaults.prompt, label="Prompt", lines=1, max_lines=1, max_length=400, submit_btn="Apply at next chunk", elem_id="prompt"
        )
        start = gr.Button("Start", variant="primary", elem_id="start", min_width=0)
        pause = gr.Button("Pause", elem_id="pause", min_width=0)
        stop = gr.Button("Stop", elem_id="stop", min_width=0)
        with gr.Row(elem_id="seed-box"):
            seed = gr.Number(defaults.seed, label="Seed", precision=0, minimum=0, maximum=2**31 - 1, elem_id="seed", min_width=60)
            dice = gr.Button("Another seed", elem_id="dice", min_width=0)
    note = gr.HTML("", elem_id="note")
    with gr.Row(elem_id="try"):
        gr.HTML("<span>Try</span>", elem_id="try-word")
        chosen = tuple(_example(index, text) for index, text in enumerate(examples))
    return {"prompt": prompt, "start": start, "pause": pause, "stop": stop, "seed": seed, "dice": dice, "note": note, "examples": chosen}


def _picking(defaults: Settings) -> dict[str, Any]:
    """The card with both lanes' policies and the switch."""
    known = discover()
    with gr.Row(elem_id="pickers"):
        with gr.Column(elem_id="pick-a", min_width=0):
            left = picker("A", defaults.left, known)
        with gr.Column(elem_id="pick-b", min_width=0):
            right = picker("B", defaults.right, known)
        with gr.Column(elem_id="switch", min_width=0):
            compress = gr.Checkbox(defaults.compress, label="Compression", info="Lane B, at the next chunk, no restart", elem_id="compress")
    return {"left": left, "right": right, "compress": compress, "trouble": gr.HTML("", elem_id="trouble")}


def _example(index: int, text: str) -> gr.Button:
    path: Path = EXAMPLES / f"{index}.png"
    return gr.Button(text, icon=str(path) if path.is_file() else None, size="sm", elem_classes=["example"], min_width=0)
