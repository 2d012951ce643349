"""What every training run needs: checkpoints that survive a kill, a stop, a learning-rate plan, averaged weights, a progress line."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm


@dataclass(frozen=True)
class Plan:
    """Warm up, hold, then fall linearly to zero over the last `decay` steps. A longer run can go on from any checkpoint before the fall."""

    steps: int
    warmup: int
    decay: int

    def rate(self, step: int) -> float:
        """Share of the full learning rate at a step, in [0, 1]."""
        return max(0.0, min(1.0, (step + 1) / max(self.warmup, 1), (self.steps - step) / max(self.decay, 1)))


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill at any moment leaves the old or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load(path: Path) -> dict[str, Any] | None:
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None


class Stopped(KeyboardInterrupt):
    """A run has been asked to stop after `step` steps, and its checkpoint is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}")


class Average:
    """Exponential moving average of a module's floating-point state, faster at the beginning."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.shadow = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in module.state_dict().items():
            self.shadow[name].lerp_(tensor, 1 - decay) if tensor.is_floating_point() else self.shadow[name].copy_(tensor)


class Progress:
    """A bar with loss and time left, a JSON line every `every` steps, and the question whether it is time to save."""

    def __init__(self, log: Path, first: int, steps: int, title: str, every: int = 50, save_seconds: float = 60):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log, self.every, self.save_seconds = log, every, save_seconds
        self.bar = tqdm(total=steps, initial=first, desc=title, unit="step", mininterval=5)
        self.saved = self.began = time.monotonic()
        self.sums: dict[str, list[float]] = {}

    def step(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self.sums.setdefault(name, []).append(value)
        self.bar.update()
        if (step + 1) % self.every == 0:
            means = {name: sum(row) / len(row) for name, row in self.sums.items()}
            self.sums.clear()
            self.bar.set_postfix({name: f"{value:.4g}" for name, value in means.items()})
            with self.log.open("a") as out:
                out.write(json.dumps({"step": step + 1, "seconds": round(time.monotonic() - self.began, 1), **means}) + "\n")

    def due(self) -> bool:
        if time.monotonic() - self.saved < self.save_seconds:
            return False
        self.saved = time.monotonic()
        return True


def optimisers_state(optimisers: Iterable[torch.optim.Optimizer]) -> list[dict[str, Any]]:
    return [optimiser.state_dict() for optimiser in optimisers]


def set_rate(optimisers: Iterable[torch.optim.Optimizer], base: Iterable[float], share: float) -> None:
    for optimiser, rate in zip(optimisers, base):
        for group in optimiser.param_groups:
            group["lr"] = rate * share
