"""A visitor's own run as a `Trace`: the newest of what its events have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fkv.events import ModelFacts, ProfileFacts, Residency, Sample, Start, Verdict
from fkv.findings import LANES, Heads
from fkv.views import cache, numbers
from fkv.views.trace import Classes, Close, LaneTrace, Look, Made, Model, Source, Stability, Trace


def made(samples: Sequence[Sample]) -> dict[str, tuple[Made, ...]]:
    """A run's measurements, lane by lane; what was measured before the last change of a lane does not count."""
    rows: dict[str, list[Made]] = {lane: [] for lane in LANES}
    since = changed(samples)
    for one in samples:
        counts = not one.warmup and one.chunk > since
        rows[one.lane].append(Made(one.chunk, one.frames, one.ms.end_to_end, one.bytes_stored, one.past, counts))
    return {lane: tuple(found) for lane, found in rows.items()}


def changed(samples: Sequence[Sample]) -> int:
    """The last chunk in which a lane re-cached; -1 where none did."""
    return max((one.chunk for one in samples if one.recached), default=-1)


def live(
    events: Sequence[object], labels: Mapping[str, str] | None = None, pictures: Mapping[int, str] | None = None, held: Close | None = None
) -> Trace | None:
    """A visitor's own run from its events, oldest first; None before its first chunk. `labels` are the policies in words, by lane,
    `pictures` data URIs of lane A's frames that are kept, `held` the chunk held still for the lesson.
    """
    start = next((event for event in reversed(events) if isinstance(event, Start)), None)
    samples = [event for event in events if isinstance(event, Sample)]
    if start is None or not samples:
        return None
    facts = start.model
    model = model_of(facts)
    rows, since = made(samples), changed(samples)
    spoken = {one.lane: one.policy for one in samples}
    words = {**spoken, **(labels or {})}
    shots = pictures or {}
    middle = [shots.get(one.chunk * model.chunk + model.chunk // 2, "") for one in rows["A"]]
    strip = {"A": tuple(middle) if any(middle) else ()}
    lanes = {lane: LaneTrace(spoken[lane], words[lane], rows[lane], strip.get(lane, ())) for lane in LANES if rows[lane]}
    heads = [event for event in events if isinstance(event, Heads)]
    profile = start.profile
    verdicts = [event for event in events if isinstance(event, Verdict)]
    decibels = [one.chunk_psnr for one in verdicts if one.chunk_psnr is not None and one.chunk > since]
    chosen = next((event for event in reversed(events) if isinstance(event, Residency) and event.lane == "B" and event.similarity), None)
    machine, recipe = f"{facts.device}, {numbers.count(facts.threads, 'thread')}", {"prompt": start.settings.prompt}
    source = Source("live", machine=machine, recipe=recipe, run=start.run)
    look = look_of(heads, facts.layers)
    if look is not None and all(frame in shots for frame in look.frames):
        look = replace(look, pictures=tuple(shots[frame] for frame in look.frames))
    return Trace(
        source=source,
        model=model,
        prompt=start.settings.prompt,
        lanes=lanes,
        classes=profile and classes_of(profile),
        psnr=tuple(decibels),
        look=look,
        residency=chosen and cache.residency(chosen),
        held=held,
    )


def profiled(facts: ModelFacts, profile: ProfileFacts | None, samples: Any, steps: Any, recipe: Mapping[str, Any]) -> Trace | None:
    """What a loaded model's profile knows by itself: classes, and scores over prompts and steps; None where it has no samples."""
    if profile is None or samples is None or steps is None:
        return None
    over = np.asarray(samples, float)
    prompts = tuple(f"prompt {number + 1}" for number in range(len(over)))
    known = Stability(prompts, over, np.asarray(steps, float))
    source = Source("profile", recipe=recipe)
    said = f"{numbers.count(len(over), 'prompt')}"
    return Trace(source=source, model=model_of(facts), prompt=said, lanes={}, classes=classes_of(profile), stability=known)


def classes_of(profile: ProfileFacts) -> Classes:
    scores, errors = np.asarray(profile.scores, float), np.asarray(profile.errors, float)
    known = np.isfinite(scores).any()
    return Classes(profile.static, profile.rule, profile.threshold, scores if known else None, errors if known else None)


def model_of(facts: ModelFacts, *, numbers: int = 0, width: int = 0) -> Model:
    """What the texts need of a model's facts."""
    shape = facts.layers, facts.heads, facts.rows, facts.columns
    return Model(facts.title, *shape, facts.chunk, facts.pixel_frames, facts.window, facts.steps, numbers, width)


def look_of(events: Sequence[Heads], layers: int) -> Look | None:
    """The newest live measurement of every layer, on the frames of the newest of all; None while a layer is missing.

    A layer that waited for its turn was measured some chunks earlier: its frames are put where they were then, counted back from the end.
    """
    if not events:
        return None
    newest = events[-1]
    latest: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for event in events:
        if len(event.frames) == len(newest.frames):
            latest |= {layer: (event.share[place], event.bands[place]) for place, layer in enumerate(event.layers)}
    if len(latest) < layers:
        return None
    share, bands = (np.stack([latest[layer][part] for layer in range(layers)]) for part in (0, 1))
    said = f"{newest.queries} sampled queries a head"
    errors = np.asarray(newest.errors, float)
    return Look(newest.chunk, newest.frames, share, bands, errors, "standard error over sampled queries", said, newest.halflife)
