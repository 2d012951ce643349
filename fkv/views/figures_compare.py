"""Figures that compare: the agreement of several classifications, and how far back each class looks."""

from __future__ import annotations

import numpy as np

from fkv.views import evidence, numbers
from fkv.views.figures import FLOOR, KINDS, STATIC, Figure, canvas, smoothed
from fkv.views.trace import Trace, facts_of


def classifications(trace: Trace) -> dict[str, np.ndarray]:
    """Every way of classing the heads that is at hand, as masks [layers, heads] of static heads."""
    found: dict[str, np.ndarray] = {}
    heads = trace.model.heads
    if trace.classes is not None:
        found["in force"] = evidence.static_mask(trace.classes, heads)
        if trace.classes.scores is not None:
            found["profile at 0.80"] = trace.classes.scores >= evidence.PUBLISHED
            found["profile, halves"] = trace.classes.scores >= np.median(trace.classes.scores)
    if trace.look is not None:
        scores = evidence.scores(trace.look.share, trace.model.chunk + 1)
        found["this clip, halves"] = scores >= np.median(scores)
    if trace.stability is not None and len(trace.stability.samples) > 1:
        for name, part in (("even prompts", trace.stability.samples[0::2]), ("odd prompts", trace.stability.samples[1::2])):
            mean = part.mean(axis=0)
            found[f"{name}, halves"] = mean >= np.median(mean)
    for trial in trace.trials:
        if trial.name.startswith("random:") or trial.name == "inverted":
            named = "random, draw " + trial.name.partition(":")[2] if ":" in trial.name else trial.name
            found[named] = np.array([[head in layer for head in range(heads)] for layer in trial.static])
    return found


def agreement(trace: Trace) -> Figure | None:
    """Share of heads that two classifications class alike, for every pair."""
    found = classifications(trace)
    if len(found) < 2:
        return None
    names = list(found)
    matrix = np.array([[float((a == b).mean()) for b in found.values()] for a in found.values()])
    plot = canvas("", "", height=110 + 34 * len(names))
    text = [[numbers.percent(value) for value in row] for row in matrix]
    plot.add_heatmap(
        x=names, y=names, z=matrix, zmin=0, zmax=1, text=text, texttemplate="%{text}", colorscale=[[0, "#F1F3F6"], [1, STATIC]],
        xgap=2, ygap=2, showscale=False,
    )  # fmt: skip
    plot.update_yaxes(autorange="reversed", showgrid=False)
    plot.update_xaxes(showgrid=False, tickangle=-30 if len(names) > 4 else 0)
    total = next(iter(found.values())).size
    shares = {name: float(mask.mean()) for name, mask in found.items()}
    split = ", ".join(f"{name} {numbers.percent(share)} %" for name, share in shares.items())
    caption = (
        f"Percent of {total} heads that two classifications class alike; exact counts. Static heads: {split}. 'Halves' calls the upper "
        f"half by score "
        f"static. Independent labels with shares p and q would agree on pq + (1 - p)(1 - q)."
    )
    pairs = [(a, b, float(matrix[i, j])) for i, a in enumerate(names) for j, b in enumerate(names)]
    columns = {"left": [pair[0] for pair in pairs], "right": [pair[1] for pair in pairs], "agreement": [pair[2] for pair in pairs]}
    masks = {name.replace(" ", "_").replace(",", "").replace(".", ""): mask for name, mask in found.items()}
    return Figure("agreement", "Do two classifications agree?", plot, caption, columns, {"agreement": matrix, **masks}, facts_of(trace))


def ages(trace: Trace) -> Figure | None:
    """Share of attention against age, mean and 10 to 90 % of the heads of each class, on a log axis."""
    look, classes = trace.look, trace.classes
    if look is None or classes is None:
        return None
    static = evidence.static_mask(classes, trace.model.heads)
    age = np.arange(look.share.shape[-1])[::-1]
    plot = canvas("frames ago (0: newest)", "share of attention", yaxis_type="log")
    columns: dict[str, list[object]] = {"class": [], "frames_ago": [], "mean": [], "low": [], "high": [], "heads": []}
    for (name, colour, symbol), mask in zip(KINDS, (static, ~static)):
        shares = look.share[mask]
        if not len(shares):
            continue
        mean = np.nanmean(shares, axis=0)
        low, high = np.nanquantile(shares, (0.1, 0.9), axis=0)
        fill = "rgba(0,114,178,0.18)" if colour == STATIC else "rgba(230,159,0,0.22)"
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
        plot.add_scatter(x=age, y=np.maximum(high, FLOOR), **band)
        plot.add_scatter(x=age, y=np.maximum(low, FLOOR), fill="tonexty", fillcolor=fill, **band)
        plot.add_scatter(
            x=age,
            y=np.maximum(mean, FLOOR),
            mode="lines+markers",
            name=f"{name}, {len(shares)} heads",
            marker={"symbol": symbol, "size": 7},
            line={"color": colour},
        )
        for key, values in (("frames_ago", age), ("mean", mean), ("low", low), ("high", high)):
            columns[key] += [float(value) for value in values]
        columns["class"] += [name] * len(age)
        columns["heads"] += [len(shares)] * len(age)
    plot.update_xaxes(autorange="reversed")
    plot.update_yaxes(dtick=1, tickformat="~%")
    last = trace.model.chunk + 1
    plot.add_vrect(x0=-0.5, x1=last - 0.5, fillcolor="rgba(128,138,150,0.12)", line_width=0, layer="below")
    caption = (
        f"Line: mean over the heads of a class; band: 10 to 90 % of its heads. n = {static.size} heads, {len(age)} key frames, "
        f"{look.queries}, chunk "
        f"{look.chunk + 1}, exact softmax. {smoothed(trace)} Shares below {FLOOR:g} are drawn there. Shaded: the newest {last} frames, "
        f"the score's part."
    )
    return Figure(
        "age-curves",
        "How far back do they look?",
        plot,
        caption,
        columns,
        {"share": look.share, "frames_ago": age, "static": static},
        facts_of(trace),
    )
