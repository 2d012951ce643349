"""The cache of the fast path: what a group keeps lies in one buffer with room behind it for the chunk that is being drawn.

A pass writes its keys and values into that room and attends to the whole buffer, so that nothing is joined: [kept | current]. Keys
carry their position, so their order does not matter. Policies decide as ever; what they decide on is moved into slots once per chunk, layer
by layer: at once where a policy is done with a layer, so that a clean pass needs room for one more layer and not for a second cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fkv.cache import HeadGroup, KVCache, Policy
from fkv.fast.graphs import Recorder, Recordings
from fkv.spec import Geometry


@dataclass(frozen=True)
class Slot:
    """Keys and values of one group, `kept` tokens and room behind them: both [2, b, h, kept + room, d]."""

    both: Tensor
    kept: int
    heads: Tensor
    members: tuple[int, ...]

    @property
    def run(self) -> tuple[int, int] | None:
        """First head and end where the members are consecutive."""
        first, end = self.members[0], self.members[-1] + 1
        return (first, end) if self.members == tuple(range(first, end)) else None

    def of(self, x: Tensor, dim: int) -> Tensor:
        """This group's heads of x, whose heads lie along `dim`: a view where they are consecutive."""
        run = self.run
        return x.narrow(dim, run[0], run[1] - run[0]) if run else x.index_select(dim, self.heads)

    def current(self, tokens: int) -> Tensor:
        """The room of a pass of `tokens` tokens: [2, b, h, tokens, d]."""
        return self.both.narrow(3, self.kept, tokens)

    def upto(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values that such a pass attends to."""
        k, v = self.both.narrow(3, 0, self.kept + tokens).unbind(0)
        return k, v


class SlotCache(KVCache):
    """A `KVCache` whose groups lie in slots. Every commit takes new ones, and what was read from the old stays as it was; but where passes
    are recorded, slots stay in place for as long as their sizes do, and `epoch` is another object when they have not.
    """

    def __init__(
        self,
        policy: Policy,
        geometry: Geometry,
        batch: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        recorder: Recorder | None = None,
    ) -> None:
        super().__init__(policy, geometry, batch, dtype, device)
        self.recordings = Recordings(recorder) if recorder is not None else None
        self.fixed = recorder is not None
        self.epoch = object()
        self.slots: list[list[Slot]] = [[] for _ in range(geometry.layers)]
        self._places: dict[tuple[tuple[int, ...], ...], Tensor] = {}
        self._plain = type(self.policy).load is Policy.load

    def rooms(self, layer: int, tokens: int) -> Sequence[Slot] | None:
        """The slots in which a pass of `tokens` tokens finds all it attends to; None where it must ask `read` instead."""
        self.check_whole()
        slots = self.slots[layer]
        if not self._plain or any(slot.both.shape[3] - slot.kept < tokens for slot in slots):
            return None
        if slots and sum(len(slot.members) for slot in slots) != self.geometry.heads:
            return None
        if not self.writable:
            kept = sum(len(slot.members) * slot.kept for slot in slots)
            self._touched[layer] = 2 * self.batch * self.geometry.head_dim * self.dtype.itemsize * (kept + self.geometry.heads * tokens)
        return slots

    def ready(self, tokens: int) -> bool:
        """Whether a noisy pass of so many tokens finds all it attends to in slots."""
        return all(self.rooms(layer, tokens) is not None for layer in range(self.geometry.layers))

    def takes(self, tokens: int) -> bool:
        """Whether a clean pass of so many tokens can leave its keys and values in slots, to be handed over when it has ended."""
        return not self.policy.asks_queries and all(self.rooms(layer, tokens) for layer in range(self.geometry.layers))

    def left(self, layer: int, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of all heads [b, h, tokens, d] that a pass has left in a layer's slots: views where there is one slot."""
        slots = self.slots[layer]
        if len(slots) == 1:
            both = slots[0].current(tokens)
        else:
            both = torch.empty((2, self.batch, self.geometry.heads, tokens, self.geometry.head_dim), dtype=self.dtype, device=self.device)
            for slot in slots:
                both.index_copy_(2, slot.heads, slot.current(tokens))
        k, v = both.unbind(0)
        return k, v

    def wipe(self) -> None:
        """Fills every room with numbers that nobody can overlook."""
        for slot in (slot for layer in self.slots for slot in layer):
            slot.both.narrow(3, slot.kept, slot.both.shape[3] - slot.kept).fill_(torch.nan)

    def place(self, slots: Sequence[Slot]) -> Tensor:
        """Where every head of a layer is in its slots, see `placed`; made once for every way in which heads are parted."""
        members = tuple(slot.members for slot in slots)
        if members not in self._places:
            self._places[members] = placed(slots, self.geometry.heads)
        return self._places[members]

    def write(self, layer: int, k: Tensor, v: Tensor, q: Tensor) -> None:
        super().write(layer, k, v, q)
        if self.policy.final(self._written[layer]):
            self.torn = True
            self._settle(layer, self._written.pop(layer))
            self._written[layer] = self.layers[layer]

    def settled(self, layers: list[list[HeadGroup]]) -> list[list[HeadGroup]]:
        """Moves every group that is not in a slot yet into one, layer by layer, so that at most one layer is held three times."""
        for layer in range(len(layers)):
            groups, layers[layer] = layers[layer], []
            if groups is not self.layers[layer]:
                self._settle(layer, groups)
        return self.layers

    def _settle(self, layer: int, groups: Sequence[HeadGroup]) -> None:
        """Moves what a layer keeps from now on into slots, in place of what it kept."""
        old = self.slots[layer]
        before = {slot.members: slot for slot in old} if self.fixed else {}
        self.layers[layer], self.slots[layer] = [], []
        for group in groups:
            slot = self._slot(group, before.get(group.members))
            _move(group, slot)
            k, v = slot.both.narrow(3, 0, slot.kept).unbind(0)
            self.slots[layer].append(slot)
            self.layers[layer].append(replace(group, heads=slot.heads, k=k, v=v))
        if list(map(id, old)) != list(map(id, self.slots[layer])):
            self.epoch = object()

    def _slot(self, group: HeadGroup, before: Slot | None) -> Slot:
        room = self.geometry.chunk * self.geometry.tokens
        shape = (2, self.batch, len(group.members), group.tokens + room, self.geometry.head_dim)
        if before is not None and tuple(before.both.shape) == shape:
            return before
        return Slot(torch.empty(shape, dtype=self.dtype, device=self.device), group.tokens, group.heads, group.members)

    @property
    def nbytes(self) -> int:
        """Bytes of kept keys and values, without the room behind them (see `allocated`)."""
        return sum(tensor.numel() * tensor.element_size() for group in self._groups() for tensor in (group.k, group.v))


def placed(slots: Sequence[Slot], heads: int) -> Tensor:
    """For every head its number when the heads of all slots follow one another, its slot, and its number there, -1 where it is in none:
    int32 [3, h], on the slots' device, which is not waited for.
    """
    device = slots[0].heads.device
    table = torch.full((3, heads), -1, dtype=torch.int32, device=device)
    before = 0
    for number, slot in enumerate(slots):
        there = torch.arange(len(slot.members), dtype=torch.int32, device=device)
        table.index_copy_(1, slot.heads, torch.stack((before + there, torch.full_like(there, number), there)))
        before += len(slot.members)
    return table


def _move(group: HeadGroup, slot: Slot) -> None:
    """Writes what a group keeps into its slot, also where the group is a view of that very slot."""
    for side, place in zip((group.k, group.v), slot.both.narrow(3, 0, slot.kept).unbind(0)):
        if side.data_ptr() != place.data_ptr() or side.stride() != place.stride():
            shared = side.untyped_storage().data_ptr() == place.untyped_storage().data_ptr()
            place.copy_(side.clone() if shared else side)
