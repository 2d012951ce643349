"""Means of weights, which are often better than any one of them (arXiv 2203.05482), and which say what they were made of."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fkv.parts import read_weights


@dataclass(frozen=True)
class Part:
    """Weights in a folder and how much they count in a mean; written `FOLDER` or `FOLDER=SHARE`."""

    folder: Path
    share: float = 1.0

    @classmethod
    def of(cls, written: str) -> Part:
        """Raises ValueError where the share is no number above 0."""
        folder, given, share = written.rpartition("=")
        if not given:
            return cls(Path(written))
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ValueError(f"{written!r}: the share {share!r} is no number above 0; write FOLDER or FOLDER=SHARE, as in runs/a=2")
        return cls(Path(folder), value)


def mean(parts: Sequence[Part], out: Path) -> None:
    """The weighted mean of weights as `model.safetensors` in `out`, which says of what it is made, with the codec and the head profile of
    the first. Raises ValueError or OSError in a sentence where weights are missing, damaged or not alike."""
    states, total = [read_weights(part.folder) for part in parts], sum(part.share for part in parts)
    shapes = {name: tensor.shape for name, tensor in states[0].items()}
    for part, state in zip(parts, states):
        if {name: tensor.shape for name, tensor in state.items()} != shapes:
            raise ValueError(f"{part.folder} holds weights of another shape than {parts[0].folder}; a mean needs weights of one model")
    shares = torch.tensor([part.share / total for part in parts])
    mixed = {name: torch.tensordot(shares, torch.stack([state[name].float() for state in states]), 1) for name in shapes}
    of = [{"weights": part.folder.name, "sha256": _digest(part.folder), "share": round(part.share / total, 4)} for part in parts]
    out.mkdir(parents=True, exist_ok=True)
    whole = out / "model.part"
    save_file({name: tensor.half().contiguous() for name, tensor in mixed.items()}, whole, metadata={"mean": json.dumps(of)})
    whole.replace(out / "model.safetensors")
    for name in ("codec.safetensors", "heads.json"):
        if (parts[0].folder / name).is_file() and parts[0].folder.resolve() != out.resolve():
            shutil.copyfile(parts[0].folder / name, out / name)


def mean_of(folder: Path) -> list[dict[str, Any]]:
    """What the weights in a folder are the mean of; empty where they say nothing of it."""
    with safe_open(folder / "model.safetensors", "pt") as state:
        return json.loads((state.metadata() or {}).get("mean", "[]"))


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
