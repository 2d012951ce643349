"""What heads look at, as JSON for the page: shares and maps as 16-bit numbers in base64, and the words beside them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fkv.findings import Classes, FrameMatrix, Grid, Heads, TokenMap
from fkv.views import numbers

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


def price(predicted: Mapping[str, Any], layers: int) -> Json:
    """What a painted policy would keep, store and read, as (value, unit, name) and a sentence on where the numbers come from."""
    covered, full = predicted["coverage"], predicted["full_bytes"]
    facts = [
        (_share(covered["static"]), "", "of static heads' attention kept"),
        (_share(covered["dynamic"]), "", "of dynamic heads' attention kept"),
        (*numbers.size(predicted["bytes"]), f"stored, of {numbers.size_text(full)} for all past frames") if full else ("–", "", "stored"),
        (_share(predicted["reads"]), "", "of the keys read by a pass, against the full window"),
    ]
    seen = predicted["layers"]
    source = (
        f"Attention: newest survey of lane A, {seen} of {numbers.count(layers, 'layer')}." if seen else "Attention is known once lanes run."
    )
    return {"facts": [list(fact) for fact in facts], "text": f"Predicted, not measured. {source} Bytes and reads: by formula, caches full."}


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{numbers.percent(value)} %"


def _grid(values: Grid) -> list[list[float | None]]:
    return [[round(float(value), 4) if math.isfinite(value) else None for value in row] for row in values]
