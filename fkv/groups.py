"""Head groups: heads of one layer that keep equally many tokens; cutting and merging them, and attention over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fkv.attention import scaled_dot

Span = tuple[int, int]
Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class HeadGroup:
    """Heads of one layer that keep the same number of tokens.

    `runs` names consecutive stretches of the kept tokens, for instance (("sink", 40), ("recent", 80)); a policy finds its parts by it,
    and a view its legend. `members` is `heads` as plain numbers, so that nobody has to read them back from a device; for the same reason a
    policy that turns keys in time notes in `end` the frame after the newest.
    """

    heads: Tensor  # [h] model head numbers
    k: Tensor  # [b, h, s, d]
    v: Tensor  # [b, h, s, d]
    pos: Tensor  # [s, 3] or [h, s, 3]: (frame, row, column) of every kept token
    name: str = "all"
    runs: tuple[tuple[str, int], ...] = ()
    members: tuple[int, ...] = ()
    end: int = 0

    def __post_init__(self) -> None:
        if not self.members:
            object.__setattr__(self, "members", tuple(self.heads.tolist()))
        if not self.runs:
            object.__setattr__(self, "runs", (("recent", self.tokens),))

    @property
    def tokens(self) -> int:
        return self.k.shape[2]

    def has(self, run: str) -> bool:
        return any(name == run for name, _ in self.runs)

    def span(self, run: str) -> Span:
        """First token and end of a run; (0, 0) where there is none."""
        start = 0
        for name, length in self.runs:
            if name == run:
                return start, start + length
            start += length
        return 0, 0

    def pick(self, members: tuple[int, ...], heads: Tensor, name: str) -> HeadGroup:
        """The same tokens for some of this group's heads; views of this group where the heads are a run, copies elsewhere."""
        rows = [self.members.index(head) for head in members]
        if rows == list(range(rows[0], rows[0] + len(rows))):
            k, v = (x[:, rows[0] : rows[0] + len(rows)] for x in (self.k, self.v))
            pos = self.pos if self.pos.dim() == 2 else self.pos[rows[0] : rows[0] + len(rows)]
        else:
            index = heads if self.members == tuple(range(len(self.members))) else torch.tensor(rows, device=heads.device)
            k, v = self.k.index_select(1, index), self.v.index_select(1, index)
            pos = self.pos if self.pos.dim() == 2 else self.pos.index_select(0, index)
        return HeadGroup(heads, k, v, pos, name, self.runs, members)


def cut(parts: Sequence[HeadGroup], runs: Sequence[tuple[str, Sequence[Span]]]) -> HeadGroup:
    """A group with storage of its own: token spans of `parts` laid end to end, as named runs. All parts hold the same heads in order."""
    pieces: list[tuple[HeadGroup, int, int]] = []
    lengths = []
    for name, spans in runs:
        lengths.append((name, sum(end - start for start, end in spans)))
        for start, end in spans:
            for part in parts:
                first, last = max(start, 0), min(end, part.tokens)
                if first < last:
                    pieces.append((part, first, last))
                start, end = start - part.tokens, end - part.tokens
    pieces = pieces or [(parts[0], 0, 0)]
    k = torch.cat([part.k[:, :, a:b] for part, a, b in pieces], dim=2).contiguous()
    v = torch.cat([part.v[:, :, a:b] for part, a, b in pieces], dim=2).contiguous()
    shared = all(part.pos.dim() == 2 for part, _, _ in pieces)
    pos = torch.cat([(part.pos if shared else part.pos.expand(len(part.members), -1, -1))[..., a:b, :] for part, a, b in pieces], dim=-2)
    return replace(parts[0], k=k, v=v, pos=pos, runs=tuple(lengths))


def ends(parts: Sequence[HeadGroup], first: int, last: int) -> HeadGroup:
    """A group of the `first` tokens of `parts` laid end to end (its sink) and of the `last` ones of the rest, as far as there are any."""
    total = sum(part.tokens for part in parts)
    sink = min(first, total)
    return cut(parts, [("sink", [(0, sink)]), ("recent", [(total - min(last, total - sink), total)])])


def merge(groups: Sequence[HeadGroup], run: str) -> HeadGroup:
    """One group of all heads, in order, that holds one run. Raises ValueError where the groups hold different numbers of its tokens."""
    lengths = {group.span(run)[1] - group.span(run)[0] for group in groups}
    if len(lengths) != 1:
        raise ValueError(f"run {run!r} has {sorted(lengths)} tokens in different groups of a layer; only equal runs can be merged")
    parts = [cut([group], [(run, [group.span(run)])]) for group in groups]
    members = tuple(head for part in parts for head in part.members)
    if members == tuple(sorted(members)) and len(parts) == 1:
        return replace(parts[0], name="all")
    order = torch.tensor(sorted(range(len(members)), key=members.__getitem__), device=parts[0].k.device)
    k, v = (torch.cat(sides, dim=1).index_select(1, order) for sides in ([part.k for part in parts], [part.v for part in parts]))
    heads = torch.cat([part.heads for part in parts]).index_select(0, order)
    return HeadGroup(heads, k, v, parts[0].pos, "all", parts[0].runs, tuple(sorted(members)))


def attend(q: Tensor, k: Tensor, v: Tensor, past: Sequence[HeadGroup], kernel: Kernel = scaled_dot) -> Tensor:
    """Attention of queries q [b, h, L, d] over their own chunk's k, v [b, h, L, d] and what their group keeps; one unmasked call per group.

    Heads in no group attend to their own chunk only.
    """
    if not past:
        return kernel(q, k, v)
    everyone = tuple(range(q.shape[1]))
    if len(past) == 1 and past[0].members == everyone:
        return _attend_group(q, k, v, past[0], kernel)
    out = torch.empty_like(q)
    left = set(everyone)
    for group in past:
        left.difference_update(group.members)
        own_q, own_k, own_v = (x.index_select(1, group.heads) for x in (q, k, v))
        out.index_copy_(1, group.heads, _attend_group(own_q, own_k, own_v, group, kernel))
    if left:
        rest = torch.tensor(sorted(left), device=q.device)
        out.index_copy_(1, rest, kernel(*(x.index_select(1, rest) for x in (q, k, v))))
    return out


def _attend_group(q: Tensor, k: Tensor, v: Tensor, group: HeadGroup, kernel: Kernel) -> Tensor:
    return kernel(q, torch.cat((group.k, k), dim=2), torch.cat((group.v, v), dim=2))
