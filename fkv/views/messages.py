"""Events as JSON-able dicts for the stage. Every number that is printed carries its words with it; no nan, no infinity."""

from __future__ import annotations

import base64
import math
from dataclasses import asdict, replace

import numpy as np

from fkv.events import Done, Event, Frames, ModelFacts, Notice, ProfileFacts, Residency, Sample, Settings, Start, Tick, Verdict
from fkv.findings import Classes, Heads, Maps
from fkv.views import cache, heads, numbers

Json = dict[str, object]


def message(event: Event) -> Json:
    """One event for the stage, told apart by "type". Raises TypeError on anything else."""
    match event:
        case Start():
            return {
                "type": "start",
                "model": model(event.model),
                "profile": profile(event.profile),
                "settings": settings(event.settings),
                "chunks": event.settings.chunks,
            }
        case Frames():
            return frames(event)
        case Sample():
            return sample(event)
        case Maps():
            return maps(event)
        case Heads():
            return heads.heads(event)
        case Classes():
            return heads.classes(event)
        case Residency():
            return cache.residency(event)
        case Verdict():
            return verdict(event)
        case Notice():
            return {"type": "notice", **asdict(event), "cost": numbers.milliseconds(event.ms) + " ms" if event.ms else ""}
        case Tick():
            return {"type": "tick", "chunk": event.chunk}
        case Done():
            return {"type": "done", "reason": event.reason, "chunks": event.chunks, "text": _ending(event)}
    raise TypeError(f"{type(event).__name__} is no event")


def model(facts: ModelFacts) -> Json:
    """The model's facts, as the stage needs them."""
    return asdict(facts)


def chips(facts: ModelFacts) -> list[tuple[str, str]]:
    """What the model is and runs on, as (name, words)."""
    device = f"CPU, {numbers.count(facts.threads, 'thread')}" if facts.device == "cpu" else facts.device
    size = f"{numbers.parameters(facts.parameters)}, {facts.dtype.replace('float', 'fp').replace('bfp', 'bf')}"
    fp8 = [] if facts.fp8_error is None else [("Products", f"FP8, changing a pass by {100 * facts.fp8_error:.1f} %")]
    return [("Weights", size), ("Device", device), ("Attention", facts.backend.removeprefix("torch ")), *fp8]


def profile(facts: ProfileFacts | None) -> Json | None:
    """Scores and classes of all heads, with the words beside them; None when the model has no profile."""
    if facts is None:
        return None
    heads = sum(map(len, facts.scores))
    static = sum(map(len, facts.static))
    return {
        "scores": _rounded(facts.scores),
        "errors": _rounded(facts.errors),
        "threshold": facts.threshold,
        "static": [list(layer) for layer in facts.static],
        "counts": {"static": static, "dynamic": heads - static, "all": heads},
        "rule": f"Static heads: {facts.rule.rstrip('.')}.",
        "note": facts.note,
        "name": facts.name,
    }


def settings(chosen: Settings) -> Json:
    """Settings without roles and profile, which the profile already tells."""
    out = asdict(replace(chosen, roles=None, profile=None))
    return {name: value for name, value in out.items() if name not in ("roles", "profile")}


def frames(event: Frames) -> Json:
    """Frames as a base64 JPEG atlas. Raises ValueError when the session was given no encoder."""
    if event.jpeg is None:
        raise ValueError("frames without JPEG cannot be sent; give the session an `encode`")
    n, height, width, _ = event.pixels.shape
    return {
        "type": "frames",
        "lane": event.lane,
        "chunk": event.chunk,
        "start": event.start,
        "latent": event.latent_start,
        "count": n,
        "width": width,
        "height": height,
        "label": event.label,
        "policy": event.policy,
        "atlas": base64.b64encode(event.jpeg).decode("ascii"),
    }


def sample(event: Sample) -> Json:
    """Measurements of one lane and chunk, raw for the charts and in words for the pane."""
    stored, unit = numbers.size(event.bytes_stored)
    phases = event.ms
    return {
        "type": "sample",
        "lane": event.lane,
        "chunk": event.chunk,
        "fps": round(event.fps_end_to_end, 3),
        "fps_diffusion": round(event.fps_diffusion, 3),
        "ms": round(phases.end_to_end, 2),
        "phases": {
            "noisy": round(sum(phases.noisy), 2),
            "clean": round(phases.clean, 2),
            "recache": round(phases.recache + phases.text, 2),
            "decode": round(phases.decode + phases.encode - phases.hidden, 2),
            "probe": round(phases.probe, 2),
        },
        "passes": len(phases.noisy),
        "stored": event.bytes_stored,
        "read": event.bytes_read,
        "allocated": event.bytes_allocated,
        "expected": event.bytes_expected,
        "warmup": event.warmup,
        "recached": event.recached,
        "text": {
            "fps": numbers.plain(event.fps_end_to_end),
            "diffusion": numbers.plain(event.fps_diffusion),
            "ms": numbers.milliseconds(phases.end_to_end),
            "stored": stored,
            "unit": unit,
            "window": event.window,
            "probe": numbers.percent(event.probe_share),
            "memory": numbers.size_text(event.memory_bytes),
        },
    }


def maps(event: Maps) -> Json:
    """Attention shares of one head in percent; None where a frame is out of a lane's cache. `reach`: what B still sees of it."""
    left, right = np.asarray(event.left, float), np.asarray(event.right, float)
    both = ~np.isnan(left)
    total = float(left[both].sum())
    reach = float(left[both & ~np.isnan(right)].sum()) / total if total > 0 else 0.0
    return {
        "type": "maps",
        "chunk": event.chunk,
        "layer": event.layer,
        "head": event.head,
        "frames": list(event.frames),
        "left": [None if math.isnan(x) else round(100 * x, 2) for x in left],
        "right": [None if math.isnan(x) else round(100 * x, 2) for x in right],
        "reach": f"B still holds something of the frames that get {numbers.percent(reach)} % of this head's attention in A.",
    }


def verdict(event: Verdict) -> Json:
    """B against A in three statements, each with a number only once it is entitled to one."""
    span = f"chunks {event.first + 1} to {event.last + 1}" if event.n > 1 else f"chunk {event.last + 1}"
    measuring = f"measuring, {min(event.n, event.need)} of {event.need}"
    speed: Json = {"title": "B against A, end to end", "value": "", "unit": measuring, "detail": event.window}
    if event.speed is not None:
        value, word = numbers.ratio(event.speed)
        spread = f" 8 in 10 chunks: {event.speed_low:.1f} to {event.speed_high:.1f}×." if event.speed_low and event.speed_high else ""
        speed |= {"value": value, "unit": word, "detail": f"Median of {span}, same run, lanes in turn.{spread} {event.window}".strip()}
    kept: Json = {"title": "of the cache", "value": "", "unit": "measuring", "detail": "Stored bytes of both lanes.", "share": None}
    if event.kept is not None:
        (a, unit), (b, own) = numbers.size(event.bytes_left), numbers.size(event.bytes_right)
        sizes = f"{b} of {a} {unit}" if own == unit else f"{b} {own} of {a} {unit}"
        kept |= {"value": f"{numbers.percent(event.kept)} %", "unit": "kept", "title": f"of A's cache, {sizes}", "share": event.kept}
        kept["detail"] = f"Keys and values stored after chunk {event.chunk + 1}, counted in memory."
    quality: Json = {"title": "B against A, frame by frame", "value": "", "unit": measuring, "detail": "Difference from A, not quality."}
    if event.psnr is not None and not math.isnan(event.psnr):
        value, unit = numbers.decibel(event.psnr)
        quality |= {"value": value, "unit": unit}
        quality["detail"] = f"Median of {numbers.count(event.psnr_frames, 'pixel frame')}. Difference from A, not quality."
    return {"type": "verdict", "chunk": event.chunk, "measured": event.speed is not None, "speed": speed, "kept": kept, "psnr": quality}


def _ending(event: Done) -> str:
    made = f"after {numbers.count(event.chunks, 'chunk')}"
    return {"finished": f"Finished {made}", "stopped": f"Stopped {made}", "error": f"Ended {made}"}[event.reason]


def _rounded(grid: tuple[tuple[float, ...], ...]) -> list[list[float | None]]:
    return [[round(float(value), 4) if math.isfinite(value) else None for value in row] for row in grid]
