"""CUDA graphs: what a noisy or clean pass does is recorded once for each size of the cache and timestep, and replayed without Python.

A recording reads fixed places: its own copies of the latents and of what their frames' numbers give, the lane's fixed slots, the prompt's
keys and values. A clean pass leaves its own in the rooms of those slots; what a policy keeps of them is no part of it. A recording is made
the second time a pass is met, so that kernels have been chosen and compiled, checked against the pass itself, and forgotten with the slots
or the prompt it reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from fkv.wan import Time

Key = tuple[str, Time]  # what kind of pass, and its timestep
Given = tuple[Tensor, ...]  # the latents, and what else changes from chunk to chunk
Work = Callable[..., Tensor]
Replay = Callable[[], object]
ALLOWED = 1e-2  # share of the largest value by which a replay may differ from the pass it was recorded from


class Recorder(Protocol):
    """Runs work once while noting what it does; gives what does it again, and where the result lies then."""

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Replay, Tensor]: ...


class CudaRecorder:
    """Records into CUDA graphs that share one pool of memory: a result is to be copied before the next replay."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            out = work()
        self.pool = graph.pool()
        return graph.replay, out


@dataclass(frozen=True)
class Recording:
    """One recorded pass and the places it reads; `held` are those that nobody else may keep."""

    given: Given
    replay: Replay
    out: Tensor
    held: object = None

    def again(self, given: Given) -> Tensor:
        for own, new in zip(self.given, given, strict=True):
            own.copy_(new)
        self.replay()
        return self.out.clone()


@dataclass
class Recordings:
    """A lane's recordings by kind of pass, timestep and shape, as long as its slots and its prompt stay what they are; `fresh` counts those
    tried.
    """

    recorder: Recorder
    made: dict[tuple[Key, torch.Size], Recording | None] = field(default_factory=dict)
    places: tuple[object, ...] = ()
    replayed: int = 0
    fresh: int = 0
    refused: str = ""

    def run(
        self, key: Key, given: Given, places: tuple[object, ...], work: Work, held: object = None, wipe: Callable[[], None] = lambda: None
    ) -> Tensor:
        """The result of `work(*given)`, replayed where it can be. `places`, compared by identity, are all else that the work reads, but for
        what is `held` for a timestep. `wipe` spoils what the work writes besides its result, so that a replay that does not write it is
        found out.
        """
        if len(self.places) != len(places) or any(old is not new for old, new in zip(self.places, places)):
            self.made, self.places = {}, places
        place = (key, given[0].shape)
        if self.refused or place not in self.made:
            self.made.setdefault(place, None)
            return work(*given)
        found = self.made[place] or self._record(place, given, work, held, wipe)
        if found is None:
            return work(*given)
        self.replayed += 1
        return found.again(given)

    def _record(self, place: tuple[Key, torch.Size], given: Given, work: Work, held: object, wipe: Callable[[], None]) -> Recording | None:
        """A recording that gives what the work gives; None, for good and with the reason, where there is none."""
        self.fresh += 1
        wanted = work(*given)
        own = tuple(one.clone() for one in given)
        try:
            replay, out = self.recorder(lambda: work(*own))
        except RuntimeError as error:
            self.refused = str(error).splitlines()[0]
            return None
        found = Recording(own, replay, out, held)
        wipe()
        apart = float((found.again(given).float() - wanted.float()).abs().max() / wanted.float().abs().max())
        if not apart <= ALLOWED:
            self.refused = f"a replay differs from its pass by {apart:.1e}"
            return None
        self.made[place] = found
        return found
