"""`python -m fkv profile`: the full calibration of a model's heads, kept prompt by prompt, and how far the live estimate lies from it.

All queries, all denoise steps, several prompts and chunks, with the cache the model was trained with. What is measured lies beside the
profile until all prompts are in, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
import statistics
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkv import machine, meter
from fkv.engine import Engine
from fkv.events import Sample, Settings
from fkv.findings import Heads
from fkv.generate import write_text
from fkv.heads import HeadProfile, measure
from fkv.lane import Timed
from fkv.pocket.evaluate import held_out
from fkv.policies import parse
from fkv.session import Session
from fkv.stream import Stream, seeded_noise
from fkv.survey import QUERIES, Survey, Surveyed

COUNTS = (12, 24, 48)  # sampled queries whose error is measured
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Recipe:
    """What to measure: prompts, chunks of each, and first key frames left out of the score."""

    prompts: int = 16
    chunks: int = 3
    skip_first_k: int = 1


def prompts_of(engine: Engine, count: int) -> list[str]:
    """Prompts to measure on: of the pocket world none that training drew, else the model's examples in turn."""
    examples = engine.text.examples
    return held_out(count) if engine.spec.text == "pocket" else [examples[number % len(examples)] for number in range(count)]


def stream_of(engine: Engine, prompt: str, number: int, mark: Callable[[str], None] | None = None) -> Stream:
    """A rollout with the cache the model was trained with; the seed is the prompt's number."""
    spec, text = engine.spec, engine.text.encode(prompt, number).embedding.to(engine.device)
    noise = seeded_noise(number, spec, 1, engine.device, engine.dtype)
    return Stream(engine.model, spec, text, parse(f"full:{spec.window}"), noise, mark)


def calibrate(
    engine: Engine, recipe: Recipe, part: Path, progress: Progress | None = None, stopped: Callable[[], bool] = lambda: False
) -> tuple[HeadProfile, bool]:
    """A profile without classes, and whether all prompts are in it. `part` keeps what is measured and is read first; it is removed at the
    end. `stopped` is asked after every prompt.
    """
    prompts = prompts_of(engine, recipe.prompts)
    key = _key(engine, recipe, prompts)
    tables = _kept(part, key)

    def keep(measured: Tensor) -> bool:
        tables.append(measured)
        write_text(part, json.dumps({"key": key, "measured": [table.tolist() for table in tables]}))
        return not stopped()

    with engine.lock:
        profile = measure(
            lambda prompt, number: stream_of(engine, prompt, number),
            prompts,
            chunks=recipe.chunks,
            skip_first_k=recipe.skip_first_k,
            progress=progress,
            known=tuple(tables),
            keep=keep,
        )
    built_in = engine.profile.recipe.get("built_in") if engine.profile else None
    if built_in:
        profile = replace(profile, recipe={**profile.recipe, "built_in": built_in})
    complete = profile.recipe["prompts"] == len(prompts)
    if complete:
        part.unlink(missing_ok=True)
    return profile, complete


def classed(profile: HeadProfile, threshold: float | None, quota: float | None) -> HeadProfile:
    """With classes by a threshold or by quota; by neither, the published threshold unless it leaves a class nearly empty."""
    if quota is not None:
        return profile.by_quota(quota)
    return profile.classified() if threshold is None else profile.by_threshold(threshold)


def _key(engine: Engine, recipe: Recipe, prompts: Sequence[str]) -> dict[str, Any]:
    """What a measurement depends on; not how many prompts are to come."""
    weights = zlib.crc32(b"".join(p.detach().flatten()[:64].float().cpu().numpy().tobytes() for p in engine.model.parameters()))
    spec = engine.spec
    about = {"model": spec.name, "weights": weights, "latent": list(spec.latent), "dtype": str(engine.dtype), "first": prompts[0]}
    return about | {"window": spec.window, "chunks": recipe.chunks, "skip_first_k": recipe.skip_first_k}


def _kept(part: Path, key: dict[str, Any]) -> list[Tensor]:
    """Tables of prompts measured earlier, of the same key."""
    try:
        data = json.loads(part.read_text(encoding="utf-8"))
        return [torch.tensor(table, dtype=torch.float64) for table in data["measured"]] if data["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def sampling_error(engine: Engine, prompts: int = 4, counts: Sequence[int] = COUNTS, progress: Progress | None = None) -> dict[str, Any]:
    """How far scores from sampled queries lie from those of all queries in the same pass, and what looking costs.

    `rmse` and `worst` are of head scores over all heads and prompts, `stated` the mean standard error the samples state themselves,
    `band_rmse` of attention per (frame, segment). `share` is the time of a survey of all layers over that of a chunk's passes.
    """
    spec, geometry = engine.spec, engine.spec.geometry
    warm = spec.window // spec.chunk - 1
    found: dict[int, list[dict[int, Surveyed]]] = {count: [] for count in (0, *counts)}
    costs: dict[int, list[float]] = {count: [] for count in found}
    chunks: list[float] = []
    for number, prompt in enumerate(prompts_of(engine, prompts)):
        watch = meter.Stopwatch(engine.device)
        with engine.lock:
            stream = stream_of(engine, prompt, number, watch.mark)
            for index in range(warm):
                stream.step()
                if progress is not None:
                    progress(number * (warm + 1) + index + 1, prompts * (warm + 1))
            watch.start()
            surveys = {count: _survey(engine, count, number) for count in found}
            timed = Timed({str(count): survey for count, survey in surveys.items()}, len(spec.schedule.steps), watch)
            stream.step(timed)
        laps = watch.laps
        chunks.append(sum(laps["noisy"]) + sum(laps["clean"]))
        for count, survey in surveys.items():
            found[count].append(survey.found)
            costs[count].append(timed.spent(str(count)))
        if progress is not None:
            progress((number + 1) * (warm + 1), prompts * (warm + 1))
    out: dict[str, Any] = {"prompts": prompts, "pass": "last noisy", "key_frames": spec.window, "of_queries": spec.chunk * geometry.tokens}
    rows = [_row(count, found[count], found[0], statistics.median(costs[count]), statistics.median(chunks)) for count in counts]
    out |= {"machine": machine.environment(engine), "chunk_ms": round(statistics.median(chunks), 3), "layers": geometry.layers}
    return out | {"counts": rows}


def _survey(engine: Engine, count: int, number: int) -> Survey:
    geometry = engine.spec.geometry
    generator = torch.Generator().manual_seed(1000 + number)
    return Survey(geometry, range(geometry.layers), queries=count or None, generator=generator)


def _row(count: int, some: list[dict[int, Surveyed]], every: list[dict[int, Surveyed]], ms: float, chunk: float) -> dict[str, Any]:
    def stacked(name: str, found: list[dict[int, Surveyed]]) -> np.ndarray:
        return np.stack([[getattr(one[layer], name).double().cpu().numpy() for layer in sorted(one)] for one in found])

    gaps = stacked("score", some) - stacked("score", every)
    prompt, layer, head = (int(place) for place in np.unravel_index(np.abs(gaps).argmax(), gaps.shape))
    bands = stacked("bands", some) - stacked("bands", every)
    return {
        "queries": count,
        "rmse": round(float(np.sqrt(np.mean(gaps**2))), 5),
        "stated": round(float(np.sqrt(np.mean(stacked("error", some) ** 2))), 5),
        "worst": {"gap": round(float(gaps[prompt, layer, head]), 5), "prompt": prompt, "layer": layer, "head": head},
        "band_rmse": round(float(np.sqrt(np.mean(bands**2))), 6),
        "ms": round(ms, 3),
        "share": round(ms / chunk, 5),
    }


def live_cost(engine: Engine, chunks: int = 16) -> dict[str, Any]:
    """What measuring takes in a session as the page runs it: its share of the compute time, and layers surveyed per chunk."""
    events = list(Session(engine, Settings(prompt=prompts_of(engine, 1)[0], right=f"full:{engine.spec.window}", chunks=chunks)).events())
    covered = [event.covered for event in events if isinstance(event, Heads)]
    share = [event.probe_share for event in events if isinstance(event, (Heads, Sample))][-1]
    layers = round(sum(covered) / chunks, 2)
    return {
        "chunks": chunks,
        "probe_share": round(share, 5),
        "layers_per_chunk": layers,
        "layers": engine.spec.net.layers,
        "queries": QUERIES,
    }


def told(profile: HeadProfile) -> str:
    """A profile in a few lines."""
    heads = profile.layers * profile.heads
    lines = [f"{100 * profile.share:.0f} % of {heads} heads are static by rule: {profile.rule}"]
    for skip, table in profile.variants.items():
        share = sum(score >= 0.8 for line in table for score in line) / heads
        lines.append(f"by {skip} {100 * share:.0f} % score 0.8 or more")
    for name in ("prompts", "passes"):
        if name in profile.stability:
            lines.append(f"split-half correlation over {name} {profile.stability[name]:.3f}")
    for name in ("prompts", "passes", "chunks"):
        if f"agreement_{name}" in profile.stability:
            lines.append(f"one of the {name} alone classes {100 * profile.stability[f'agreement_{name}']:.1f} % of the heads the same")
    if "flips" in profile.stability:
        lines.append(f"{100 * profile.stability['flips']:.1f} % of the heads are classed otherwise by one prompt at least")
    for row in profile.sampling.get("counts", ()):
        worst = row["worst"]
        lines.append(
            f"{row['queries']} sampled queries: score error {row['rmse']:.4f} rms, worst {abs(worst['gap']):.4f} (layer {worst['layer']}, "
            f"head {worst['head']}); all layers take {100 * row['share']:.1f} % of a chunk"
        )
    if live := profile.sampling.get("live"):
        lines.append(
            f"live: {100 * live['probe_share']:.1f} % of the time for {live['layers_per_chunk']:g} of {live['layers']} layers a chunk"
        )
    return "\n".join(lines)


def compared(profile: HeadProfile, other: HeadProfile, name: str) -> str:
    """How two profiles of one model agree, in a line."""
    found = profile.agreement(other)
    same = f"{100 * found.share:.1f} % of the heads are of the same class"
    return f"against {name}: {same}, kappa {found.kappa:.2f}, {len(found.differing)} differ"
