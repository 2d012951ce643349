"""How the weights that ship are chosen: several are compared on prompts drawn under other seeds than the report's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fkv.engine import Engine, load
from fkv.pocket.evaluate import Trial, by_kind, one_trial, summary
from fkv.pocket.stages import Stages
from fkv.pocket.world import prompt_of, sample_scene
from fkv.policies import parse
from fkv.spec import POCKET

FIRST_SEED, EACH = 777, 40
NOISES_APART = 1000
COLUMNS = {"right": "objects_right", "kept": "kept", "motion": "motion_right", "camera": "camera_right"}


@dataclass(frozen=True)
class Comparison:
    """What weights are compared on: how many prompts, each with how many noises (and the layouts that come with them), and the chunks of a
    clip."""

    prompts: int = 80
    noises: int = 1
    chunks: int = 20

    def texts(self) -> list[str]:
        """Prompts of scenes drawn under other seeds than those of the report; by chance three of the first 80 are among its 64."""
        rngs = [np.random.default_rng(FIRST_SEED + number) for number in range(-(-self.prompts // EACH))]
        return [prompt_of(sample_scene(rng)) for rng in rngs for _ in range(EACH)][: self.prompts]


def opened(folder: Path, device: str) -> Engine:
    """The pocket model with the weights and the codec in a folder, and the head profile in it; where it has none, with the bundled one."""
    heads = folder / "heads.json"
    return load(replace(POCKET, file=str(folder.resolve()), heads=str(heads.resolve()) if heads.is_file() else POCKET.heads), device)


def compared(folders: Sequence[Path], policies: Sequence[str], what: Comparison, work: Path, device: str) -> list[dict[str, Any]]:
    """World metrics of every folder's weights under every policy. What an earlier call has measured with the same weights and left in
    `work` is read from there. Raises ValueError or OSError in a sentence where a folder or a policy is not usable."""
    if not policies:
        raise ValueError("0 policies cannot be compared; name one or more, for instance full:21,forcing-kv")
    kinds = [(spelling, parse(spelling).needs_roles) for spelling in policies]
    found = []
    for folder in folders:
        engine, texts, files = opened(folder, device), what.texts(), [folder / "model.safetensors", folder / "codec.safetensors"]
        roles = engine.profile.roles() if engine.profile else None
        asked = repr(roles).encode() + b"".join(
            engine.text.encode(text, seed).embedding.numpy().tobytes() for seed, text in enumerate(texts)
        )
        digest = hashlib.sha256(b"".join(path.read_bytes() for path in files) + asked).hexdigest()
        stages = Stages(work / "compare" / digest[:16], *files, asked=asked)
        for spelling, by_roles in kinds:
            trial = Trial(f"{folder.name}, {spelling}", spelling, roles if by_roles else None)
            rows = [row for noise in range(what.noises) for row in _rows(engine, stages, trial, what, noise)]
            about = {"weights": str(folder), "policy": spelling, "chunks": what.chunks, "prompts": what.prompts, "noises": what.noises}
            objects = sum(len(row["objects"]) for row in rows)
            found.append({**about, **summary(rows), "objects": objects, "by motion": by_kind(rows)["motion"]})
    return found


def _rows(engine: Engine, stages: Stages, trial: Trial, what: Comparison, noise: int) -> list[dict[str, Any]]:
    """World metrics of every prompt with one noise."""
    part = f"{re.sub(r'[^a-z0-9]+', '-', trial.spelling)} {what.prompts} prompts {what.chunks} chunks noise {noise}"
    numbers, _ = stages.measured(part, lambda: one_trial(engine, trial, what.texts(), what.chunks, noise * NOISES_APART))
    return numbers["rows"]


def table(found: Sequence[dict[str, Any]]) -> str:
    """Comparisons as Markdown, shares in percent with their standard errors."""
    motions = sorted({motion for one in found for motion in one["by motion"]})
    heads = ["weights", "cache", "objects", *COLUMNS, *(f"motion of {motion}" for motion in motions)]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|--:" + "|--:" * (len(heads) - 3) + "|"]
    for one in found:
        cells = [_percent(one[metric]) for metric in COLUMNS.values()]
        own = [one["by motion"].get(motion) for motion in motions]
        cells += [f"{100 * some['motion_right']:.0f} % of {some['n']}" if some else "" for some in own]
        lines.append("| " + " | ".join([one["weights"], one["policy"], str(one["objects"]), *cells]) + " |")
    return "\n".join(lines)


def _percent(share: dict[str, Any] | None) -> str:
    if share is None:
        return ""
    return f"{100 * share['mean']:.1f}" + ("" if share["error"] is None else f" ± {100 * share['error']:.1f}")
