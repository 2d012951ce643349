"""The KV cache of one lane, and what a policy is that chooses what it keeps.

A noisy pass only reads. The clean pass of a chunk runs inside `KVCache.committing`, where every layer hands over its keys and values once.
Sizes are in latent frames unless a name says tokens or bytes. Keys are stored rotated, at their absolute positions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from fkv import rope
from fkv.findings import Roles
from fkv.groups import HeadGroup, attend, cut, ends, merge
from fkv.spec import Geometry

__all__ = ["Commit", "HeadGroup", "KVCache", "Policy", "Roles", "attend", "cut", "ends", "merge", "parameter"]


@dataclass(frozen=True)
class Commit:
    """One clean pass: chunk number, first frame, frames in the pass. `shared` is scratch in which one layer leaves decisions for others."""

    chunk: int
    start: int
    frames: int
    geometry: Geometry
    recache: bool = False
    shared: dict[str, Tensor] = field(default_factory=dict)


def parameter(
    default: Any,
    label: str,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    step: float = 1,
    choices: tuple[str, ...] = (),
) -> Any:
    """A policy parameter: a dataclass field that says how to show, bound and explain itself."""
    details = {"label": label, "help": help, "minimum": minimum, "maximum": maximum, "step": step, "choices": choices}
    return field(default=default, metadata=details)


@dataclass(frozen=True)
class Policy(ABC):
    """What to keep. Frozen numbers and a few hooks; all state lives in the groups the hooks return."""

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    needs_roles: ClassVar[bool] = False
    asks_queries: ClassVar[bool] = True  # whether `update` looks at queries, else it may get none; say it anew in a subclass
    roles: Roles | None = field(default=None, kw_only=True)  # static heads of every layer

    @classmethod
    def parameters(cls) -> list[Field[Any]]:
        """The fields a person may set, in order."""
        return [item for item in fields(cls) if "label" in item.metadata and item.default is not MISSING]

    @classmethod
    def of(cls, *numbers: int) -> Policy:
        """The policy that the short form `name:number:number` stands for. Raises ValueError where there is none."""
        raise ValueError(f"{cls.name}: {':'.join(map(str, numbers))} has one colon too many; write key=value with commas between")

    @property
    def label(self) -> str:
        """A few words for the caption of a pane."""
        return self.title

    @property
    def anchors(self) -> int:
        """Frames at the very start of the video that are kept for ever; read again when a stream changes to this policy."""
        return 0

    def with_roles(self, roles: Roles | None) -> Policy:
        return replace(self, roles=roles)

    def classes(self, layer: int, heads: int) -> list[tuple[str, tuple[int, ...]]]:
        """The classes of a layer of so many heads that have any, with their heads in order. Needs roles."""
        static = tuple(sorted((self.roles or ())[layer]))
        dynamic = tuple(head for head in range(heads) if head not in static)
        return [(name, members) for name, members in (("static", static), ("dynamic", dynamic)) if members]

    def fitted(self, geometry: Geometry) -> Policy:
        """This policy with parameters left open filled in for a model."""
        return self

    def check(self, geometry: Geometry) -> None:
        """Raises ValueError where a parameter is out of its bounds or the roles are not those of the model."""
        for item in self.parameters():
            value, low, high = getattr(self, item.name), item.metadata["minimum"], item.metadata["maximum"]
            if item.metadata["choices"] and value not in item.metadata["choices"]:
                raise ValueError(f"{self.name}: {item.name} {value!r} is unknown; use one of: {', '.join(item.metadata['choices'])}")
            if (low is not None and value < low) or (high is not None and value > high):
                raise ValueError(f"{self.name}: {item.name} {value} is outside [{low}, {high}]; choose a value inside")
        if self.needs_roles:
            check_roles(self.name, self.roles, geometry)

    @abstractmethod
    def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: Tensor, commit: Commit) -> list[HeadGroup]:
        """The groups a layer keeps after a clean pass whose tokens, all heads, are `new`. Must not return views of `new`. Queries q
        [b, h, L, d]; empty, maybe, for a policy that does not ask for them."""

    def finish(self, layers: list[list[HeadGroup]], commit: Commit) -> list[list[HeadGroup]]:
        """Decisions across layers, once every layer has been updated. Gives back as it is the list of a layer that was `final`."""
        return layers

    @property
    def looks_back(self) -> bool:
        """Whether anything is decided in `finish`."""
        return type(self).finish is not Policy.finish

    def final(self, groups: list[HeadGroup]) -> bool:
        """Whether `finish` will leave what `update` gave for a layer as it is."""
        return not self.looks_back

    def waiting(self, geometry: Geometry) -> int:
        """The most layers that are not `final` when they have been updated."""
        return geometry.layers if self.looks_back else 0

    def load(self, layer: int, past: list[HeadGroup], q: Tensor, frames: int) -> list[HeadGroup]:
        """What a pass of `frames` frames attends to, besides itself."""
        return past

    @abstractmethod
    def replay(self, frames: int) -> int:
        """How many of the newest clean frames a re-cache reads again, when `frames` exist."""

    def retain(self, layer: int, past: list[HeadGroup], start: int) -> list[HeadGroup]:
        """What survives into a re-cache that replays from frame `start` on; asked only when start > 0."""
        return []

    @abstractmethod
    def expected(self, layer: int, chunks: int, geometry: Geometry, recached: int = 0) -> list[tuple[int, int]]:
        """(heads, kept tokens) of every group after `chunks` commits, the last re-cache having come after `recached` of them (0: none)."""


def check_roles(name: str, roles: Roles | None, geometry: Geometry) -> None:
    """Raises ValueError where `roles` does not name heads of every layer of the model."""
    if roles is None:
        raise ValueError(f"{name} needs to know which heads are static; give it the roles of a head profile")
    if len(roles) != geometry.layers:
        raise ValueError(f"{name}: the head profile has {len(roles)} layers, the model {geometry.layers}; use a profile of this model")
    for layer, static in enumerate(roles):
        if len(set(static)) != len(static) or any(not 0 <= head < geometry.heads for head in static):
            there = f"the model has heads 0..{geometry.heads - 1}"
            raise ValueError(f"{name}: layer {layer} lists static heads {static}, {there}; use a profile of this model")


class KVCache:
    """The groups of every layer of one lane. `write` is legal only inside `committing`; a pass that fails there changes nothing, or leaves
    a cache that is `torn`: some of its layers hold the chunk and others do not, and it refuses to be used.
    """

    def __init__(
        self, policy: Policy, geometry: Geometry, batch: int = 1, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.policy = policy.fitted(geometry)
        self.policy.check(geometry)
        self.geometry, self.batch, self.dtype, self.device = geometry, batch, dtype, torch.device(device)
        self.layers: list[list[HeadGroup]] = [[] for _ in range(geometry.layers)]
        self.last: Commit | None = None
        self.torn = False
        self._commit: Commit | None = None
        self._written: dict[int, list[HeadGroup]] = {}
        self._pos = torch.empty(0)
        self._touched = [0] * geometry.layers
        self._members = tuple(range(geometry.heads))
        self._heads = torch.arange(geometry.heads, device=device)

    @property
    def writable(self) -> bool:
        return self._commit is not None

    def read(self, layer: int, q: Tensor, frames: int) -> list[HeadGroup]:
        """What queries q [b, h, L, d] of a pass of `frames` frames attend to, besides the pass itself."""
        self.check_whole()
        past = self.policy.load(layer, self.layers[layer], q, frames)
        if not self.writable:
            kept = sum(group.k.numel() + group.v.numel() for group in past)
            self._touched[layer] = (kept + 2 * q.numel()) * q.element_size()
        return past

    @contextmanager
    def committing(self, commit: Commit) -> Iterator[None]:
        """Opens the cache for one clean pass, in which every layer must write once."""
        if self.writable:
            raise RuntimeError("the cache is already committing a chunk; finish that clean pass first")
        self.check_whole()
        grid = rope.grid(commit.start, commit.frames, self.geometry.rows, self.geometry.columns, self.device)
        self._commit, self._pos, self._written = commit, grid, {}
        try:
            yield
            missing = [layer for layer in range(self.geometry.layers) if layer not in self._written]
            if missing:
                raise RuntimeError(f"layers {missing} wrote nothing in the clean pass of chunk {commit.chunk}; every layer must write once")
            self.layers = self.settled(self.policy.finish([self._written.pop(layer) for layer in range(self.geometry.layers)], commit))
            self.last, self.torn = commit, False
        finally:
            self._commit, self._written = None, {}

    def write(self, layer: int, k: Tensor, v: Tensor, q: Tensor) -> None:
        """Hands over the clean keys and values [b, h, L, d] of a layer, and its queries, which may be empty where the policy does not ask
        for them. Raises RuntimeError outside `committing`."""
        if self._commit is None:
            raise RuntimeError("keys and values may be written only inside cache.committing(...); noisy passes never write")
        wanted = (self.batch, self.geometry.heads, self._commit.frames * self.geometry.tokens, self.geometry.head_dim)
        if tuple(k.shape) != wanted or k.dtype != self.dtype:
            given = f"{tuple(k.shape)} {k.dtype}"
            raise ValueError(f"layer {layer} wrote {given}, the cache was made for {wanted} {self.dtype}; make one for this model")
        new = HeadGroup(self._heads, k, v, self._pos, members=self._members)
        self._written[layer] = self.policy.update(layer, self.layers[layer], new, q, self._commit)

    def check_whole(self) -> None:
        """Raises RuntimeError outside a clean pass of a cache that an earlier one has left torn."""
        if self.torn and not self.writable:
            raise RuntimeError("a clean pass failed and left only some layers of this cache with its chunk; begin with a new cache")

    def retain(self, start: int) -> None:
        """Forgets all but what the policy lets survive into a re-cache that replays from frame `start` on."""
        self.layers = self.settled([self.policy.retain(layer, past, start) if start else [] for layer, past in enumerate(self.layers)])

    def settled(self, layers: list[list[HeadGroup]]) -> list[list[HeadGroup]]:
        """The groups a policy has decided on, as this cache holds them."""
        return layers

    def residency(self) -> list[list[tuple[str, int, Tensor]]]:
        """For every layer its groups as (name, number of heads, positions)."""
        return [[(group.name, len(group.members), group.pos) for group in groups] for groups in self.layers]

    @property
    def nbytes(self) -> int:
        """Bytes of kept keys and values, counted from storages."""
        return _storage_bytes(tensor for group in self._groups() for tensor in (group.k, group.v))

    @property
    def read_bytes(self) -> int:
        """Bytes of keys and values the last noisy pass attended to, its own chunk included."""
        return sum(self._touched)

    @property
    def allocated(self) -> int:
        """Bytes of every storage the cache holds on to, positions and head numbers included."""
        return _storage_bytes(tensor for group in self._groups() for tensor in (group.k, group.v, group.pos, group.heads))

    def _groups(self) -> Iterator[HeadGroup]:
        return (group for groups in self.layers for group in groups)


def _storage_bytes(tensors: Iterator[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
