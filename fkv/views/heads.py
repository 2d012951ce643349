"""What heads look at, as JSON for the page: shares and maps as 16-bit numbers in base64, and the words beside them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fkv.findings import Classes, FrameMatrix, Grid, Heads, TokenMap
from fkv.views import numbers
from fkv.views.forecast import ENOUGH, Outlook

Json = dict[str, object]
TOP, NOTHING = 65534, 65535  # the largest value, and "not there"


def packed(values: np.ndarray) -> Json:
    """Numbers in [0, peak] as little-endian uint16 in base64, nan as 65535, with the shape and the peak that 65534 stands for."""
    known = np.nan_to_num(np.asarray(values, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    peak = float(known.max(initial=0.0)) or 1.0
    levels = np.where(np.isfinite(values), np.round(np.clip(known / peak, 0, 1) * TOP), NOTHING).astype("<u2")
    return {"shape": list(levels.shape), "peak": peak, "data": base64.b64encode(levels.tobytes()).decode("ascii")}


def heads(event: Heads) -> Json:
    """Shares of the layers measured in this chunk and the running values of all heads; None where nothing was measured yet."""
    metrics = {name: _grid(getattr(event, name)) for name in ("scores", "errors", "entropy", "sink", "coverage")}
    layers = f"{event.covered} of {numbers.count(len(event.scores), 'layer')} a chunk" if event.covered else "no layer fits its budget now"
    return {
        "type": "heads",
        "chunk": event.chunk,
        "frames": list(event.frames),
        "layers": list(event.layers),
        "share": packed(event.share),
        "metrics": metrics,
        "queries": event.queries,
        "static": [list(layer) for layer in event.static],
        "text": {
            "probe": f"probe {numbers.percent(event.probe_share)} %, {layers}",
            "how": f"Sampled: {numbers.count(event.queries, 'query', 'queries')} per head and chunk, exact softmax for each; "
            f"running values with a half-life of {numbers.count(round(event.halflife), 'chunk')}.",
            "shares": f"{numbers.count(event.queries, 'sampled query', 'sampled queries')} per head, exact softmax for each; not smoothed.",
        },
    }


def classes(event: Classes) -> Json:
    """The classes now in force in lane B."""
    overrides = [list(override) for override in event.overrides]
    return {
        "type": "classes",
        "chunk": event.chunk,
        "static": [list(layer) for layer in event.static],
        "rule": event.rule,
        "overrides": overrides,
    }


def token_map(found: TokenMap) -> Json:
    """One token's map: weights per frame, row and column, the share of every frame, and what the lane cannot see of it in words."""
    about = {name: getattr(found, name) for name in ("chunk", "layer", "head", "lane", "frame", "row", "column", "toward")}
    share = [None if math.isnan(value) else round(float(value), 5) for value in found.share]
    unseen = None if math.isnan(found.unseen) else round(float(found.unseen), 5)
    words = (
        ""
        if unseen is None
        else f"{numbers.percent(unseen)} % of this token's attention in A is on tokens lane {found.lane} does not hold."
    )
    return {**about, "frames": list(found.frames), "weights": packed(found.weights), "share": share, "unseen": unseen, "text": words}


def matrix(found: FrameMatrix) -> Json:
    """One head's attention by frames, all queries."""
    about = {name: getattr(found, name) for name in ("chunk", "layer", "head")}
    return {**about, "frames": list(found.frames), "queries": list(found.queries), "mass": packed(found.mass)}


def price(predicted: Mapping[str, Any], layers: int, outlook: Outlook) -> Json:
    """What a painted policy would keep, store, read and take: predictions as (value, unit, name, measured), where `measured` is what came
    of it in words, "" before it runs; and sentences on where the numbers come from."""
    covered, full, ran = predicted["coverage"], predicted["full_bytes"], outlook.n
    size = (*numbers.size(predicted["bytes"]), f"stored, of {numbers.size_text(full)} for all past frames") if full else ("–", "", "stored")
    reads = _share(predicted["reads"] * outlook.read / predicted["read_bytes"]) if ran else ""
    facts = [
        (_share(covered["static"]), "", "of static heads' attention kept", ""),
        (_share(covered["dynamic"]), "", "of dynamic heads' attention kept", ""),
        (*size, numbers.size_text(outlook.stored) if ran else ""),
        (_share(predicted["reads"]), "", "of the keys read by a pass, against the full window", reads),
        (*_time(outlook), f"{numbers.milliseconds(outlook.ms)} ms, median of {numbers.count(ran, 'chunk')}" if ran else ""),
    ]
    seen = predicted["layers"]
    source = (
        f"Attention: newest survey of lane A, {seen} of {numbers.count(layers, 'layer')}." if seen else "Attention is known once lanes run."
    )
    words = f"Predicted, not measured. {source} Bytes and reads: by formula, caches full. {_foretold(outlook)}"
    return {"facts": [list(fact) for fact in facts], "text": words}


def _time(outlook: Outlook) -> tuple[str, str, str]:
    chunk = outlook.chunk
    if chunk is None:
        return "–", "", "a chunk: no prediction yet"
    low, high = (numbers.milliseconds(value) for value in (chunk.low, chunk.high))
    return numbers.milliseconds(chunk.ms), "ms", f"a chunk ({low} to {high}), from {numbers.count(chunk.n, 'chunk')} of this run"


def _foretold(outlook: Outlook) -> str:
    """How the time of a chunk is foretold, or what to do for it."""
    chunk, noisy = outlook.chunk, outlook.noisy
    if chunk is None or noisy is None:
        return f"Time: let the lanes run with different caches, {ENOUGH} chunks each after their caches are full; then it can be predicted."
    far = " Nothing near this size was measured, so trust it less." if chunk.beyond else ""
    return (
        f"Time: a line through {numbers.count(chunk.sizes, 'read size')} of other policies in this run, end to end; in brackets where 8 in "
        f"10 chunks should lie; {numbers.milliseconds(noisy.ms)} ms of it noisy passes.{far}"
    )


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{numbers.percent(value)} %"


def _grid(values: Grid) -> list[list[float | None]]:
    return [[round(float(value), 4) if math.isfinite(value) else None for value in row] for row in values]
