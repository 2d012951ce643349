"""Step 7 in the learner's own run: what lane B measured under each choice of static heads since it was made, and what may be said of it.

A trial is a stretch of chunks of one run with one prompt, one seed, one pair of policies and one choice of heads. Stretches are never put
together, and a new run, prompt or seed begins a new list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fkv.events import Notice, Sample, Start, Verdict
from fkv.findings import Classes
from fkv.views import numbers
from fkv.views.lesson_judging import NAMES
from fkv.views.lesson_step import Json

LEAST = 8  # chunks a trial needs before anything is concluded from it
EQUAL = 99.0  # dB, of equal pictures
OWN = "profile"
WAIT = f"Nothing is concluded from fewer than {LEAST} chunks a trial, nor before there is a trial of the measured roles and one of others."
CAVEATS = (
    "n counts chunks of one clip that follow each other, not prompts: their spread says how this clip wavers, not what another prompt "
    "would give. A later trial also begins where the one before it had left lane B.",
    "Once the lanes have parted, PSNR says that they differ, not which is better.",
)


@dataclass
class Stretch:
    """A trial while it grows: per chunk that counts its number, PSNR of B against A in dB, and milliseconds of A over those of B."""

    key: object
    rule: str
    overrides: int
    parted: bool
    chunks: list[int] = field(default_factory=list)
    psnr: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    kept: float = float("nan")

    @property
    def name(self) -> str:
        more = f", {numbers.count(self.overrides, 'override')}" if self.overrides else ""
        return named(self.rule) + more

    @property
    def spread(self) -> tuple[float, float, float]:
        """10th percentile, median and 90th percentile of the PSNR."""
        low, median, high = np.quantile(self.psnr, (0.1, 0.5, 0.9))
        return float(low), float(median), float(high)

    @property
    def enough(self) -> bool:
        return len(self.chunks) >= LEAST


def named(rule: str) -> str:
    """A rule in the words of the recorded trials."""
    kind, _, value = rule.partition(":")
    words = {
        "random": f"random roles, draw {value}",
        "quota": f"the same share of every layer, {value}",
        "threshold": "roles by your threshold",
    }
    return NAMES.get(rule) or words.get(kind, rule)


def stretches(events: Iterable[object], parts: Callable[[str], bool]) -> tuple[Stretch, ...]:
    """The trials of the newest run, prompt and seed, from its events, oldest first. `parts` tells whether a policy, as it is written, tells
    classes of heads apart."""
    found: list[Stretch] = []
    roles: tuple[object, str, int] = (None, OWN, 0)
    pair: dict[str, Sample] = {}
    for event in events:
        match event:
            case Start(settings=settings):
                found, pair, roles = [], {}, (None, settings.rule, len(settings.overrides))
            case Notice(kind="prompt", state="applied") | Notice(kind="parameter", state="applied", lane=None):
                found = []
            case Classes():
                roles = (event.static, event.rule, len(event.overrides))
            case Sample():
                pair[event.lane] = event
            case Verdict() if {one.chunk for one in pair.values()} == {event.chunk} and len(pair) == 2:
                add(found, event, pair["A"], pair["B"], roles, parts(pair["B"].policy))
    return tuple(found)


def add(found: list[Stretch], verdict: Verdict, a: Sample, b: Sample, roles: tuple[object, str, int], parted: bool) -> None:
    """One chunk, to the stretch that goes on or to a new one."""
    static, rule, overrides = roles
    key = (a.policy, b.policy, static if parted else None)
    if not found or found[-1].key != key:
        found.append(Stretch(key, rule, overrides, parted))
    now = found[-1]
    now.kept = verdict.kept if verdict.kept is not None else now.kept
    if verdict.chunk_psnr is not None:
        now.chunks.append(verdict.chunk)
        now.psnr.append(min(verdict.chunk_psnr, EQUAL))
        now.ratios.append(a.ms.end_to_end / b.ms.end_to_end)


def message(events: Iterable[object], parts: Callable[[str], bool]) -> Json:
    """The trials for the page, oldest first, and what may be said of them."""
    found = stretches(events, parts)
    tried = [one for one in found if one.parted]
    last = found[-1] if found else None
    compared = conclusions(tried)
    words = [*(compared or [WAIT]), *CAVEATS] if tried else []
    return {"least": LEAST, "trials": [shown(one, one is last) for one in tried], "words": words, "parted": last is None or last.parted}


def shown(one: Stretch, current: bool) -> Json:
    """One trial: its dots, and the same in words."""
    n, median, spread, speed = len(one.chunks), None, f"{len(one.chunks)} of {LEAST} chunks", "–"
    if one.enough:
        low, median, high = one.spread
        spread = f"{median:.1f} dB ({low:.1f} to {high:.1f})"
        speed = " ".join(numbers.ratio(float(np.median(one.ratios))))
    return {
        "name": one.name, "rule": one.rule, "current": current, "n": n, "psnr": [round(value, 2) for value in one.psnr],
        "median": None if median is None else round(median, 2), "spread": spread, "speed": speed, "chunks": span(one.chunks),
        "kept": f"{numbers.percent(one.kept)} %" if np.isfinite(one.kept) else "–",
    }  # fmt: skip


def span(chunks: Sequence[int]) -> str:
    """Chunks as a person counts them: "chunks 9 to 17"."""
    if not chunks:
        return "none yet"
    return f"chunk {chunks[0] + 1}" if len(chunks) == 1 else f"chunks {chunks[0] + 1} to {chunks[-1] + 1}"


def conclusions(tried: Sequence[Stretch]) -> list[str]:
    """The newest long enough trial of every other choice against the newest of the measured roles; empty while there is no such pair."""
    enough = {one.name: one for one in tried if one.enough}
    own = enough.pop(named(OWN), None)
    return [] if own is None else [compared(own, other) for other in enough.values()]


def compared(own: Stretch, other: Stretch) -> str:
    """Two trials, as far as their middle 8 in 10 chunks can be told apart."""
    (low, middle, high), (its_low, its_middle, its_high) = own.spread, other.spread
    said = (
        f"**{other.name}**: {its_middle:.1f} dB ({span(other.chunks)}, n = {len(other.chunks)}) against {middle:.1f} dB with the measured "
        f"roles ({span(own.chunks)}, n = {len(own.chunks)})."
    )
    if low <= its_high and its_low <= high:
        return f"{said} The middle 8 in 10 chunks of the two overlap: **this run cannot tell them apart**."
    where = "further from" if its_middle < middle else "nearer to"
    return f"{said} The middle 8 in 10 chunks of the two do not overlap: in these chunks lane B was **{where} lane A**."
