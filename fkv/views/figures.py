"""Figures for the Analysis tab: a Plotly figure, a caption that says what is exact, what is sampled and n, and the numbers behind it.

Colours are those of the head classes in the page's tokens; ink, grid and background are left to the page, so that light and dark both fit.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from fkv.views import evidence, numbers
from fkv.views.trace import Trace, facts_of

STATIC, DYNAMIC, GREY = "#0072B2", "#E69F00", "#8A94A0"  # Okabe-Ito blue and orange; a grey that reads on light and on dark
INK, GRID, CLEAR = "#151B23", "rgba(128,138,150,0.25)", "rgba(0,0,0,0)"
BINS, FLOOR, NEAREST = 25, 1e-4, 16
KINDS = (("static", STATIC, "square"), ("dynamic", DYNAMIC, "circle-open"))


@dataclass(frozen=True)
class Figure:
    """`columns` are equally long; `arrays` are the numbers as they were measured; `recipe` says how."""

    name: str
    title: str
    plot: go.Figure
    caption: str
    columns: Mapping[str, list[Any]]
    arrays: Mapping[str, np.ndarray]
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def to_csv(self) -> str:
        """The columns, with title, caption and recipe as comment lines before them."""
        out = io.StringIO()
        for line in (self.title, self.caption, json.dumps(self.recipe, default=str)):
            out.write(f"# {line}\n")
        table = csv.writer(out, lineterminator="\n")
        table.writerow(self.columns)
        table.writerows(zip(*self.columns.values()))
        return out.getvalue()

    def to_npz(self) -> bytes:
        """The arrays, with `recipe` (JSON) and `caption` as strings."""
        out = io.BytesIO()
        words = {"recipe": np.array(json.dumps(self.recipe, default=str)), "caption": np.array(self.caption)}
        np.savez_compressed(out, **{**dict(self.arrays), **words})  # type: ignore[arg-type]
        return out.getvalue()


def canvas(x: str, y: str, height: int = 320, **layout: Any) -> go.Figure:
    """An empty figure in the page's style."""
    plot = go.Figure()
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": GRID, "ticks": ""}
    plot.update_layout(
        paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, height=height, margin={"l": 56, "r": 16, "t": 24, "b": 48},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK}, legend={"orientation": "h", "y": 1.12, "x": 0},
        xaxis={**axis, "title": {"text": x}}, yaxis={**axis, "title": {"text": y}}, **layout,
    )  # fmt: skip
    return plot


def histogram(trace: Trace) -> Figure | None:
    """Heads by score, by the class in force, with the threshold."""
    look, classes = trace.look, trace.classes
    if look is None or classes is None:
        return None
    found = evidence.scores(look.share, trace.model.chunk + 1)
    static = evidence.static_mask(classes, trace.model.heads)
    edges = np.linspace(0, 1, BINS + 1)
    plot = canvas("head score", "heads", barmode="stack", bargap=0.06)
    for (name, colour, _), mask in zip(KINDS, (static, ~static)):
        counts, _ = np.histogram(np.clip(found[mask], 0, 1), edges)
        pattern = {"shape": "" if name == "static" else "/", "fgcolor": "white", "solidity": 0.15}
        plot.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
            width=0.9 / BINS,
            name=f"{name}, {int(mask.sum())}",
            marker={"color": colour, "pattern": pattern},
        )
    cut = evidence.cut(found)
    plot.add_vline(x=cut.threshold, line={"color": GREY, "width": 2}, annotation={"text": f"{cut.threshold:.2f}"})
    plot.update_xaxes(range=[0, 1])
    layers, heads = (axis.ravel() for axis in np.indices(found.shape))
    caption = (
        f"n = {found.size} heads, from {look.queries}, chunk {look.chunk + 1}; every query's softmax is exact. {smoothed(trace)} "
        f"Classes by: "
        f"{classes.rule}. Line: {'published threshold' if cut.published else 'threshold that halves the heads'}."
    )
    columns = {
        "layer": layers.tolist(), "head": heads.tolist(), "score": found.ravel().tolist(), "error": look.errors.ravel().tolist(),
        "class": ["static" if on else "dynamic" for on in static.ravel()],
    }  # fmt: skip
    return Figure(
        "score-histogram",
        "Heads by score",
        plot,
        caption,
        columns,
        {"score": found, "error": look.errors, "static": static},
        facts_of(trace),
    )


def source(trace: Trace) -> str:
    """Where a trace's numbers come from, in words."""
    made = trace.source
    if made.kind == "live":
        return f"your live run, {made.machine}"
    if made.kind == "profile":
        return f"head profile of the loaded model, {trace.model.title}, {trace.prompt}"
    return ", ".join(filter(None, [f"recorded on {made.date}", f"commit {made.commit}" if made.commit else "", made.machine]))


def smoothed(trace: Trace) -> str:
    half = trace.look.halflife if trace.look else 0
    return f"Errors are smoothed with a half-life of {numbers.plain(half)} chunks; shares are not." if half else "Nothing is smoothed."


def stability(trace: Trace, over: str = "prompts") -> Figure | None:
    """Scores of the heads nearest to the threshold, one mark per prompt or per denoise step."""
    seen = trace.stability
    if seen is None or over not in ("prompts", "steps"):
        return None
    table = seen.samples if over == "prompts" else seen.steps
    mean = seen.samples.mean(axis=0)
    cut = evidence.cut(mean)
    places = sorted(np.ndindex(*mean.shape), key=lambda place: abs(float(mean[place]) - cut.threshold))[:NEAREST]
    places.sort(key=lambda place: float(mean[place]))
    names = [f"L{layer} H{head}" for layer, head in places]
    plot = canvas("head score", "", height=60 + 24 * len(places))
    for name, (layer, head) in zip(names, places):
        values = table[:, layer, head]
        plot.add_scatter(
            x=[values.min(), values.max()],
            y=[name, name],
            mode="lines",
            line={"color": GRID, "width": 8},
            showlegend=False,
            hoverinfo="skip",
        )
    for kind, colour, symbol in KINDS:
        cells = [(name, float(value)) for name, place in zip(names, places) for value in table[(slice(None), *place)]]
        marks = [(value, name) for name, value in cells if (value >= cut.threshold) == (kind == "static")]
        plot.add_scatter(
            x=[mark[0] for mark in marks], y=[mark[1] for mark in marks], mode="markers", name=kind,
            marker={"color": colour, "symbol": symbol, "size": 9, "line": {"width": 2, "color": colour}},
        )  # fmt: skip
    plot.add_vline(x=cut.threshold, line={"color": GREY, "width": 2})
    plot.update_yaxes(categoryorder="array", categoryarray=names)
    found = evidence.agreement(table, cut.threshold)
    percent = numbers.percent
    caption = (
        f"The {len(places)} heads nearest to the threshold {cut.threshold:.2f}; n = {len(table)} {over}, all queries, exact, nothing "
        f"smoothed. Of all "
        f"{found.heads} heads {percent(found.always)} % keep one class; two {over} agree on {percent(found.pairs)} % (chance "
        f"{percent(found.chance)} %)."
    )
    index = np.indices(table.shape).reshape(3, -1)
    columns = {over[:-1]: index[0].tolist(), "layer": index[1].tolist(), "head": index[2].tolist(), "score": table.ravel().tolist()}
    recipe = facts_of(trace) | {"threshold": cut.threshold, "prompts": list(seen.prompts)}
    return Figure(f"stability-{over}", f"Is the class stable over {over}?", plot, caption, columns, {"scores": table}, recipe)
