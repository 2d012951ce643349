"""What the pocket model is measured by: its heads, world metrics under every policy, a thousand frames.

Whatever the right picture is, the world knows it, so quality needs no downloaded network (`fkv.metrics`). Every share is a mean over
prompts with the standard error beside it; policies are compared on the same prompts and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fkv.cache import Policy
from fkv.engine import Engine
from fkv.heads import HeadProfile, measure
from fkv.metrics import WorldMetrics, world_metrics
from fkv.pocket.paint import render
from fkv.pocket.stages import Pictures, Stages
from fkv.pocket.teacher import local_heads
from fkv.pocket.world import laid_out, parsed_of, prompt_of, sample_scene
from fkv.policies import parse
from fkv.stream import Stream, seeded_noise
from fkv.text import parse as read

HELD_OUT = 90_001
SHARES = ("objects_right", "kept", "shape_right", "motion_right", "theme_right", "wall_right", "camera_right", "ghost")
KINDS, OF_OBJECTS = ("colour", "shape", "motion"), ("right", "kept", "motion_right")
NUMBERS = ("jerk", "chunk_jump", "background_psnr", "sharpness", "saturation", "sharpness_drift", "saturation_drift")
EACH = ("kept", "sharpness_drift", "saturation_drift")


@dataclass(frozen=True)
class Trial:
    """One way of generating: a policy and the roles it uses (None: it needs none)."""

    name: str
    spelling: str
    roles: tuple[tuple[int, ...], ...] | None = None

    def policy(self) -> Policy:
        return parse(self.spelling).with_roles(self.roles)


def generate(engine: Engine, prompts: Sequence[str], policy: Policy, seeds: Sequence[int], chunks: int) -> np.ndarray:
    """Pixel frames uint8 [clips, n, 80, 128, 3] of rollouts side by side, each with the noise of its own seed."""
    spec = engine.spec
    text = torch.cat([engine.text.encode(prompt, seed).embedding for prompt, seed in zip(prompts, seeds)]).to(engine.device)
    sources = [seeded_noise(seed, spec, 1, engine.device, engine.dtype) for seed in seeds]

    def noise(chunk: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        drawn = [source(chunk) for source in sources]
        return torch.cat([first for first, _ in drawn]), [torch.cat(fresh) for fresh in zip(*(rest for _, rest in drawn))]

    stream, decoder = Stream(engine.model, spec, text, policy, noise), engine.codec.decoder()
    return np.concatenate([decoder.decode(stream.step().latents).cpu().numpy() for _ in range(chunks)], axis=1)


def clips(engine: Engine, prompts: Sequence[str], trial: Trial, chunks: int, seed: int = 0) -> Iterator[np.ndarray]:
    """One clip [n, 80, 128, 3] per prompt, seeded by its number and `seed`; eight at a time where the policy does not choose by content."""
    policy = trial.policy()
    together = 1 if policy.needs_roles else 8
    for first in range(0, len(prompts), together):
        some = prompts[first : first + together]
        yield from generate(engine, some, policy, range(seed + first, seed + first + len(some)), chunks)


def held_out(count: int) -> list[str]:
    """Prompts of scenes that training never draws (another seed)."""
    rng = np.random.default_rng(HELD_OUT)
    return [prompt_of(sample_scene(rng)) for _ in range(count)]


def shares(found: WorldMetrics) -> dict[str, Any]:
    """The metrics of one clip by name, as a report keeps them."""
    return {name: float(getattr(found, name)) for name in SHARES + NUMBERS}


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard error of every metric over clips; None where no clip could tell."""
    out: dict[str, Any] = {"clips": len(found)}
    for name in SHARES + NUMBERS:
        values = np.array([one[name] for one in found])
        values = values[np.isfinite(values)]
        if len(values):
            error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            out[name] = {"mean": round(float(values.mean()), 4), "error": error if error is None else round(error, 4), "n": len(values)}
        else:
            out[name] = None
    return out


def rollouts(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The summary of long rollouts and, since a mean hides the few that fail, what matters of `each` in the order of their prompts."""
    each = {name: [round(one[name], 4) if np.isfinite(one[name]) else None for one in found] for name in EACH}
    return summary(found) | {"each": each}


def profile_heads(engine: Engine, prompts: int, progress: Callable[[int, int], None] | None = None) -> HeadProfile:
    """The bundled head profile: full history, all queries, all denoise steps, classes by the published threshold or, where it leaves a
    class with fewer than a fifth of the heads, by rank; it says what training built in."""

    policy = parse(f"full:{engine.spec.window}")

    def stream(prompt: str, number: int) -> Stream:
        text = engine.text.encode(prompt, number).embedding.to(engine.device)
        return Stream(engine.model, engine.spec, text, policy, seeded_noise(number, engine.spec, 1, engine.device, engine.dtype))

    profile = measure(stream, held_out(prompts), chunks=3, progress=progress)
    net = engine.spec.net
    near = local_heads(net.layers, net.heads)
    built_in = {
        "near_heads": near,
        "what": "these heads saw only the first and the last past frame in 80 % of training batches, and in every "
        "batch were trained away from what they would look at beyond",
    }
    return replace(profile.classified(), recipe={**profile.recipe, "built_in": built_in})


def measured_heads(engine: Engine, prompts: int) -> str:
    """The profile as JSON, measured under a progress bar."""
    bar = tqdm(desc="heads", mininterval=5)

    def progress(done: int, due: int) -> None:
        bar.total = due
        bar.update(done - bar.n)

    with bar:
        return profile_heads(engine, prompts, progress).to_json()


def trials(profile: HeadProfile) -> list[Trial]:
    kinds = [Trial("full", "full:21"), Trial("window", "window:sink=3,recent=9"), Trial("no sink", "window:sink=0,recent=6")]
    kinds += [Trial("forcing-kv", "forcing-kv", profile.roles()), Trial("forcing-kv inverted", "forcing-kv", profile.inverted().roles())]
    return kinds + [Trial(f"forcing-kv random {seed}", "forcing-kv", profile.random(seed).roles()) for seed in (1, 2)]


def truths(count: int, frames: int) -> list[WorldMetrics]:
    """The same metrics on drawn clips of the held-out prompts' scenes: what a perfect model would get."""
    scenes = [laid_out(read(prompt), seed) for seed, prompt in enumerate(held_out(count))]
    return [world_metrics(render(scene, 0, frames), parsed_of(scene)) for scene in scenes]


def one_trial(engine: Engine, trial: Trial, texts: Sequence[str], chunks: int, seed: int = 0) -> tuple[dict[str, Any], Pictures]:
    """World metrics of every prompt under one trial, and some frames of the first six."""
    rows, keep = [], {}
    for number, frames in enumerate(tqdm(clips(engine, texts, trial, chunks, seed), desc=trial.name, total=len(texts), mininterval=5)):
        asked = read(texts[number])
        found = world_metrics(frames, asked)
        objects = [
            {**{kind: getattr(thing, kind) for kind in KINDS}, **{name: getattr(seen, name) for name in OF_OBJECTS}}
            for thing, seen in zip(asked.objects, found.objects)
        ]
        rows.append(shares(found) | {"objects": objects})
        if number < 6:
            keep[f"{trial.name}/{number}"] = frames[:: max(1, len(frames) // 10)]
    return {"rows": rows}, keep


def by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of the objects asked for with one colour, shape or motion: how many, the shares with colour and shape right and with motion right,
    the mean share kept."""
    objects = [thing for row in rows for thing in row["objects"]]
    out: dict[str, Any] = {}
    for kind in KINDS:
        groups = {value: [one for one in objects if one[kind] == value] for value in sorted({one[kind] for one in objects})}
        out[kind] = {
            value: {"n": len(some), **{name: round(float(np.mean([one[name] for one in some])), 4) for name in OF_OBJECTS}}
            for value, some in groups.items()
        }
    return out


def compare(engine: Engine, profile: HeadProfile, stages: Stages, prompts: int, few: int, chunks: int) -> tuple[dict[str, Any], Pictures]:
    """World metrics per trial (the full cache and Forcing-KV over all prompts, the others over the first `few`) and frames to look at."""
    texts = held_out(prompts)
    out: dict[str, Any] = {"ground truth": summary([shares(one) for one in truths(few, 12 * chunks)])}
    keep: Pictures = {}
    found: dict[str, list[dict[str, Any]]] = {}
    for trial in trials(profile):
        some = texts if trial.name in ("full", "forcing-kv") else texts[:few]
        numbers, pictures = stages.measured(trial.name, lambda trial=trial, some=some: one_trial(engine, trial, some, chunks))
        found[trial.name] = numbers["rows"]
        keep.update(pictures)
        out[trial.name] = summary(found[trial.name])
    out["full, by what was asked for"] = by_kind(found["full"])
    panning = [read(text).camera != "still" for text in texts]
    for name in ("full", "forcing-kv") if sum(panning) > 1 else ():
        out[f"{name}, panning camera"] = summary([row for row, pans in zip(found[name], panning) if pans])
    out["differences to full, in points"] = {name: _paired(rows, found["full"]) for name, rows in found.items() if name != "full"}
    others = {name: rows for name, rows in found.items() if name.startswith("forcing-kv ")}
    out["differences of measured roles to others, in points"] = {name: _paired(found["forcing-kv"], rows) for name, rows in others.items()}
    return out, keep


def _paired(found: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Difference of every share to a base on the same prompts, in points, with a 95 % interval from 2000 bootstrap samples."""
    rng = np.random.default_rng(0)
    out = {}
    for name in SHARES:
        gaps = np.array([100 * (a[name] - b[name]) for a, b in zip(found, base)])
        gaps = gaps[np.isfinite(gaps)]
        if len(gaps):
            means = gaps[rng.integers(len(gaps), size=(2000, len(gaps)))].mean(1)
            low, high = np.quantile(means, (0.025, 0.975))
            out[name] = {"mean": round(float(gaps.mean()), 2), "low": round(float(low), 2), "high": round(float(high), 2), "n": len(gaps)}
    return out


def endurance(engine: Engine, profile: HeadProfile, stages: Stages, count: int, frames: int) -> tuple[dict[str, Any], Pictures]:
    """Rollouts of `frames` latent frames: objects kept, drift of sharpness and saturation against the third chunk."""
    chunks = -(-frames // engine.spec.chunk)
    texts = held_out(count)
    length = 4 * engine.spec.chunk * chunks
    drawn, _ = stages.measured(f"{frames} frames, ground truth", lambda: ({"rows": [shares(one) for one in truths(count, length)]}, {}))
    out: dict[str, Any] = {"ground truth": rollouts(drawn["rows"])}
    keep: Pictures = {}
    for trial in trials(profile):
        if trial.name in ("full", "window", "forcing-kv"):
            numbers, pictures = stages.measured(
                f"{frames} frames, {trial.name}", lambda trial=trial: one_trial(engine, trial, texts, chunks)
            )
            out[trial.name] = rollouts(numbers["rows"])
            keep.update(pictures)
    return out, keep
