"""How much head classes and scores agree: of two profiles, and of the prompts, denoise steps and chunks one profile was measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch import Tensor

Roles = tuple[tuple[int, ...], ...]
Table = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Agreement:
    """Two lists of static heads compared head by head: share of equal classes, Cohen's kappa (nan where chance alone explains all), heads
    (layer, head) that differ, counts [static, dynamic in the first][static, dynamic in the second], and the share of equal classes that
    chance would give with as many static heads in each.
    """

    share: float
    kappa: float
    differing: tuple[tuple[int, int], ...]
    counts: tuple[tuple[int, int], tuple[int, int]]
    chance: float


def agreement(first: Roles, second: Roles, heads: int) -> Agreement:
    """Of the static heads of every layer of one model."""
    counts, differing = [[0, 0], [0, 0]], []
    for layer, (one, other) in enumerate(zip(first, second)):
        for head in range(heads):
            a, b = int(head not in one), int(head not in other)
            counts[a][b] += 1
            if a != b:
                differing.append((layer, head))
    total = len(first) * heads
    share = (counts[0][0] + counts[1][1]) / total
    chance = sum(sum(counts[kind]) * (counts[0][kind] + counts[1][kind]) for kind in (0, 1)) / total**2
    kappa = (share - chance) / (1 - chance) if chance < 1 else float("nan")
    return Agreement(share, kappa, tuple(differing), ((counts[0][0], counts[0][1]), (counts[1][0], counts[1][1])), chance)


def flips(samples: Sequence[Table], static: Roles, classes: Callable[[Table], Roles]) -> Table:
    """Share [layers][heads] of the samples [n][layers][heads] that, classed alone, put a head into the other class than `static` does."""
    alone = [classes(table) for table in samples]
    heads = len(samples[0][0])
    return tuple(
        tuple(fmean((head in one[layer]) != (head in line) for one in alone) for head in range(heads)) for layer, line in enumerate(static)
    )


def summary(groups: Mapping[str, Sequence[Table] | None], static: Roles, classes: Callable[[Table], Roles]) -> dict[str, float]:
    """For each group of samples, of two or more: "agreement_<group>", the mean share of heads that one alone classes as `static` does.

    Of the group "prompts" also "flips", the share of heads that one at least classes otherwise, and "spread", the mean standard deviation
    of a head's score.
    """
    out: dict[str, float] = {}
    for name, samples in groups.items():
        if not samples or len(samples) < 2:
            continue
        turned = [share for line in flips(samples, static, classes) for share in line]
        out[f"agreement_{name}"] = 1 - fmean(turned)
        if name == "prompts":
            out["flips"] = fmean(share > 0 for share in turned)
            columns = zip(*([score for line in table for score in line] for table in samples))
            out["spread"] = fmean(stdev(column) for column in columns)
    return {name: round(value, 6) for name, value in out.items()}


def halves(samples: Tensor) -> float | None:
    """Correlation between the means of the even and the odd samples [n, layers, heads]; None for fewer than two."""
    if len(samples) < 2:
        return None
    pair = torch.stack([samples[0::2].mean(dim=0).flatten(), samples[1::2].mean(dim=0).flatten()])
    return float(torch.corrcoef(pair)[0, 1])
