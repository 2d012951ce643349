"""The look: Gradio's variables set to the page's CSS tokens, and the stage's files joined for its head. Nothing comes from elsewhere."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base

STAGE = Path(__file__).resolve().parents[2] / "assets" / "stage"
HEADS = STAGE.parent / "heads"
SCRIPTS = (
    "kit", "player", "plot", "charts", "timeline", "film", "board", "store", "grid", "histogram", "heads",
    "card", "heat", "shots", "reach", "gaze", "strip", "curves", "scatter", "paint", "profile", "lab", "hands", "stage",
)  # fmt: skip
SHEETS = ("tokens", "page", "stage", "heads", "lab")
SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "Liberation Sans", "sans-serif"]
ON_LOAD = """
const events = ['run_painted'];
const begin = () => (window.fkvStage ? window.fkvStage.mount(element, trigger, props, watch, server) : setTimeout(begin, 20));
begin();
"""
LAB_ON_LOAD = """
const begin = () => (window.fkvStage ? window.fkvStage.mountLab(element) : setTimeout(begin, 20));
begin();
"""


def read(name: str) -> str:
    """A file of the stage or of the head lab as text."""
    path = STAGE / name
    return (path if path.is_file() else HEADS / name).read_text(encoding="utf-8")


def head() -> str:
    """Style and script for the page's <head>: one closed scope that leaves only `window.fkvStage`."""
    styles = "\n".join(read(f"{name}.css") for name in SHEETS)
    scripts = "\n".join(read(f"{name}.js") for name in SCRIPTS)
    scope = f'(() => {{\n"use strict";\n{scripts}\nwindow.fkvStage = {{ mount, mountLab }};\n}})();'
    return f'<meta name="color-scheme" content="light dark">\n<style>{styles}</style>\n<script>{scope}</script>'


def theme() -> Base:
    """Gradio's base theme with every colour taken from the tokens, so light and dark follow them."""
    made = Base(font=SANS, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"])
    colours = {
        "body_background_fill": "var(--page)",
        "background_fill_primary": "var(--card)",
        "background_fill_secondary": "var(--sunk)",
        "body_text_color": "var(--ink)",
        "body_text_color_subdued": "var(--ink-3)",
        "block_background_fill": "transparent",
        "block_border_color": "var(--line)",
        "block_label_text_color": "var(--ink-2)",
        "block_title_text_color": "var(--ink-2)",
        "block_info_text_color": "var(--ink-3)",
        "border_color_primary": "var(--line)",
        "border_color_accent": "var(--ink)",
        "input_background_fill": "var(--card)",
        "input_border_color": "var(--line-2)",
        "input_border_color_focus": "var(--ink)",
        "input_placeholder_color": "var(--ink-3)",
        "button_primary_background_fill": "var(--ink)",
        "button_primary_background_fill_hover": "var(--ink-2)",
        "button_primary_text_color": "var(--on-ink)",
        "button_primary_border_color": "var(--ink)",
        "button_secondary_background_fill": "var(--card)",
        "button_secondary_background_fill_hover": "var(--sunk)",
        "button_secondary_text_color": "var(--ink)",
        "button_secondary_border_color": "var(--line-2)",
        "slider_color": "var(--ink)",
        "color_accent_soft": "var(--sunk)",
        "panel_background_fill": "transparent",
        "checkbox_background_color": "var(--card)",
        "checkbox_background_color_selected": "var(--ink)",
        "checkbox_border_color": "var(--line-2)",
        "checkbox_label_background_fill": "var(--card)",
        "checkbox_label_background_fill_selected": "var(--sunk)",
        "checkbox_label_text_color": "var(--ink)",
        "checkbox_label_text_color_selected": "var(--ink)",
    }
    dark = {f"{name}_dark": value for name, value in colours.items()}
    flat = {
        "block_border_width": "0px",
        "block_border_width_dark": "0px",
        "block_shadow": "none",
        "block_shadow_dark": "none",
        "block_padding": "0px",
    }
    return made.set(**colours, **dark, **flat)
