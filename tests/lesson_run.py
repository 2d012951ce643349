"""A small recorded run, written by hand, for tests of lesson and analysis: 2 layers of 4 heads, 2 x 2 tokens, chunks of 2 frames."""

from __future__ import annotations

import base64

import numpy as np

from fkv.views.trace import Atlas, Classes, Holding, LaneTrace, Look, Made, Model, Source, Stability, Trace, Trial

FRAMES = 8
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"  # 1 x 1, so that a page has something to draw
MODEL = Model("Little", layers=2, heads=4, rows=2, columns=2, chunk=2, pixel_frames=4, window=8, steps=2, numbers=3, width=4)
FRAME_BYTES = 2 * 2 * 4 * 4 * 3 * 4
STATIC = ((0, 1), (0, 1))


def lane(stored_per_frame: int, ms: float, most: int, label: str, chunks: int = 12) -> LaneTrace:
    """A lane whose chunk takes `ms`, plus 10 for each past frame it keeps, up to `most`."""
    pasts = [min(2 * chunk, most) for chunk in range(chunks)]
    made = tuple(Made(chunk, 8, ms + 10 * past, past * stored_per_frame, past, chunk > 3) for chunk, past in enumerate(pasts))
    return LaneTrace(label.lower(), label, made, (PIXEL,) * chunks)


def near(share: float) -> list[float]:
    """A head with this share of its attention, the first frame left out, on the newest three frames; a tenth is on the first frame."""
    return [0.1, *[0.9 * (1 - share) / 4] * 4, *[0.9 * share / 3] * 3]


SCORES = np.array([[0.9, 0.85, 0.3, 0.2], [0.95, 0.82, 0.4, 0.1]])


def look(scores: np.ndarray = SCORES) -> Look:
    """Every head's shares by its score; two segments a frame, equally looked at."""
    share = np.array([[near(float(score)) for score in row] for row in scores])
    bands = np.repeat(share[..., None] / 2, 2, axis=-1)
    errors, error_is = np.full(scores.shape, 0.03), "standard deviation over 3 prompts"
    return Look(3, tuple(range(FRAMES)), share, bands, errors, error_is, "all queries of the chunk", pictures=(PIXEL,) * FRAMES)


def atlas(layer: int, head: int, score: float) -> Atlas:
    share = np.array([near(score)] * 4)
    maps = np.full((4, FRAMES, 4), 128, np.uint8)
    return Atlas(layer, head, share, base64.b64encode(maps.tobytes()).decode())


def trial(name: str, psnr: tuple[float, ...], static: tuple[tuple[int, ...], ...] = STATIC) -> Trial:
    ends = ((0, (1.0, 1.0)), (5, (1.0, 1.0)))
    parts = (*ends, (4, (1.0, 0.0)))
    holds = tuple(
        Holding(layer, kind, tuple(head for head in range(4) if (head in static[layer]) == (kind == "static")), frames)
        for layer in range(2)
        for kind, frames in (("static", ends), ("dynamic", parts))
    )
    return Trial(name, static, psnr, (0.9,) * len(psnr), 4000, PIXEL, holds)


def residency() -> dict[str, object]:
    """Two frames of two segments each, of which the two least similar are kept."""
    first, newest, drawn = [0, "S", [1.0, 1.0]], [5, "L", [1.0, 1.0]], [6, "C", [1.0]]
    kept = [
        {"name": "static", "heads": "2 heads", "text": "2 frames", "frames": [first, newest, drawn]},
        {"name": "dynamic", "heads": "2 heads", "text": "2 frames", "frames": [first, [4, "D", [1.0, 0.0]], drawn]},
    ]
    similarity = {"frames": [3, 4], "bars": [[0.9, 0.5], [0.4, 0.8]], "kept": [[False, True], [True, False]], "cut": 0.5, "text": ""}
    return {"type": "residency", "lane": "B", "chunk": 3, "layer": 1, "current": [6, 7], "kept": kept, "similarity": similarity}


def run(psnr: dict[str, tuple[float, ...]] | None = None) -> Trace:
    """The whole run. `psnr` replaces the trials' decibels over three prompts."""
    decibels = {
        "profile": (30.0, 31.0, 32.0),
        "inverted": (25.0, 26.0, 27.5),
        "random:1": (27.0, 28.5, 29.0),
        "random:2": (28.0, 28.5, 29.0),
    }
    trials = [Trial("full", (), (float("nan"),) * 3, (0.9,) * 3, 0, PIXEL)]
    trials += [trial(name, values) for name, values in (decibels | (psnr or {})).items()]
    samples = SCORES + np.array([0, 0.01, -0.01])[:, None, None]
    samples[1, 1, 1] = 0.7
    return Trace(
        source=Source("recorded", "2026-11-20", "abc123", "a small machine, 2 threads", {"prompts": ["a ball"] * 3, "last": 3}),
        model=MODEL,
        prompt="a ball",
        lanes={"A": lane(FRAME_BYTES, 100, 6, "Full, 8 frames"), "B": lane(FRAME_BYTES, 100, 2, "Forcing-KV")},
        classes=Classes(STATIC, "score >= 0.8", 0.8, SCORES, np.full(SCORES.shape, 0.03)),
        psnr=(30.0,) * 12,
        look=look(),
        atlases=(atlas(1, 0, 0.95), atlas(1, 3, 0.1)),
        stability=Stability(("a ball", "a box", "a star"), samples, samples[:2]),
        trials=tuple(trials),
        residency=residency(),
    )
