"""Two head profiles of one model side by side: both class maps, the heads on which they differ, and how far they agree in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from fkv.views import numbers
from fkv.views.figures import CLEAR, DYNAMIC, GREY, GRID, INK, STATIC, Figure

if TYPE_CHECKING:
    from fkv.stability import Agreement

APART = "#D55E00"  # the page's colour of what departs from the profile


@dataclass(frozen=True)
class Side:
    """A profile to compare: its name, static heads bool [layers, heads], the rule and the recipe it came by."""

    name: str
    static: np.ndarray
    rule: str
    recipe: Mapping[str, Any] = field(default_factory=dict)


def profiles(first: Side, second: Side, found: Agreement) -> Figure:
    """Of two profiles of the same layers and heads; `found` is how far they agree."""
    layers, heads = first.static.shape
    equal = first.static == second.static
    titles = [f"{side.name}: {side.static.sum()} static, {(~side.static).sum()} dynamic" for side in (first, second)]
    plot = make_subplots(
        rows=2, cols=2, specs=[[{}, {}], [{"colspan": 2}, None]], row_heights=[0.62, 0.38], vertical_spacing=0.17,
        horizontal_spacing=0.06, subplot_titles=[*titles, "Share of heads on which they agree, by layer; dashed: by chance"],
    )  # fmt: skip
    for column, side in enumerate((first, second), 1):
        for trace in marks(side.static, ~equal, size=max(5, min(12, 330 // layers)), legend=column == 1):
            plot.add_trace(trace, row=1, col=column)
    per_layer = equal.mean(axis=1)
    plot.add_bar(x=list(range(layers)), y=per_layer, marker={"color": GREY}, showlegend=False, row=2, col=1)
    plot.add_hline(y=found.chance, line={"color": APART, "dash": "dash"}, row=2, col=1)  # type: ignore[arg-type]
    dressed(plot, layers, heads)
    return Figure("profiles", "Do two profiles agree?", plot, caption(first, second, found), *kept(first, second, found))


def marks(static: np.ndarray, apart: np.ndarray, *, size: int, legend: bool) -> list[go.Scatter]:
    """Layers to the right, heads down: a square for a static head, a ring for a dynamic one, a frame around those that differ."""
    found = []
    kinds = (
        ("static", static, STATIC, "square"),
        ("dynamic", ~static, DYNAMIC, "circle-open"),
        ("they differ", apart, APART, "square-open"),
    )
    for name, mask, colour, symbol in kinds:
        layer, head = np.nonzero(mask)
        marker = {"color": colour, "symbol": symbol, "size": size * (1.5 if mask is apart else 1), "line": {"width": 2, "color": colour}}
        text = [f"layer {a}, head {b}: {name}" for a, b in zip(layer, head)]
        found.append(go.Scatter(x=layer, y=head, mode="markers", name=name, marker=marker, text=text, hoverinfo="text", showlegend=legend))
    return found


def dressed(plot: go.Figure, layers: int, heads: int) -> None:
    """The page's style."""
    plot.update_layout(
        paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, height=130 + 34 * max(heads, 9), margin={"l": 48, "r": 16, "t": 72, "b": 52},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK}, legend={"orientation": "h", "y": 1.16, "x": 0},
    )  # fmt: skip
    plot.update_annotations(font={"size": 12})
    plot.update_xaxes(gridcolor=GRID, showgrid=False, zeroline=False, range=[-0.7, layers - 0.3], showticklabels=True)
    plot.update_yaxes(gridcolor=GRID, showgrid=False, zeroline=False)
    plot.update_yaxes(range=[heads - 0.3, -0.7], title={"text": "head"}, row=1, col=1)
    plot.update_yaxes(range=[heads - 0.3, -0.7], row=1, col=2)
    plot.update_yaxes(range=[0, 1.02], tickformat=".0%", row=2, col=1)
    plot.update_xaxes(title={"text": "layer"}, row=2, col=1)


def caption(first: Side, second: Side, found: Agreement) -> str:
    both = first.static.size
    equal, apart = both - len(found.differing), len(found.differing)
    lost, gained = found.counts[0][1], found.counts[1][0]
    kappa = "is not defined" if np.isnan(found.kappa) else f"{found.kappa:.2f}"
    return (
        f"n = {both} heads in {len(first.static)} layers; exact counts, nothing sampled or smoothed. They agree on {equal} heads "
        f"({numbers.percent(found.share)} %); chance alone, with as many static heads in each, would give "
        f"{numbers.percent(found.chance)} %; Cohen's kappa {kappa}. Of the {apart} that differ {lost} are static in {first.name} only, "
        f"{gained} in {second.name} only. Rules: {first.rule.rstrip('.')}; {second.rule.rstrip('.')}."
    )


def kept(first: Side, second: Side, found: Agreement) -> tuple[dict[str, list[Any]], dict[str, np.ndarray], dict[str, Any]]:
    """The numbers behind it: columns, arrays, recipe."""
    layers, heads = (axis.ravel() for axis in np.indices(first.static.shape))
    words = [["static" if on else "dynamic" for on in side.static.ravel()] for side in (first, second)]
    columns = {"layer": layers.tolist(), "head": heads.tolist(), "first": words[0], "second": words[1]}
    columns["agree"] = [a == b for a, b in zip(*words)]
    arrays = {"first": first.static, "second": second.static, "agreement_by_layer": (first.static == second.static).mean(axis=1)}
    told = {name: {"name": side.name, "rule": side.rule, **side.recipe} for name, side in (("first", first), ("second", second))}
    return columns, arrays, {**told, "share": found.share, "chance": found.chance, "kappa": found.kappa, "n": first.static.size}
