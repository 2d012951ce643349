"""What to run where something does not fit: the run itself if it does, else the nearest one that would.

Another decoder comes first, then lighter lanes, then smaller pictures. Whether a run fits is for `fkv.planner` to say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from fkv import policies
from fkv.cache import Policy, Roles
from fkv.hub import gigabytes
from fkv.planner import SIZES, Endless, Plan, Wanted, name_of, plan, resized, weights_bytes
from fkv.spec import ModelSpec

RELIEF = 0.8  # a run that has found no memory left is advised to need this much less
OTHER_DECODERS = {"taehv": ("wan-vae",), "wan-vae": ("taehv",)}


class Impossible(ValueError):
    """A run that cannot be on a device, and no estimate is part of why."""


def check(wanted: Wanted, memory: int, roles: Roles | None = None, *, fewer: bool = False) -> Plan:
    """The plan of a run that fits into `memory` bytes. Raises ValueError with what it needs, what there is, and the nearest that fits, with
    `fewer` lanes too where lanes can be left out; Impossible where what is exact is already too much.
    """
    try:
        found = plan(wanted, roles)
    except Endless as error:
        raise Impossible(f"{error.why}; {cure(wanted, memory, roles, fewer=fewer)}") from None
    except ValueError as error:
        raise Impossible(str(error)) from None
    if found.total > memory:
        alone = f", {gigabytes(found.exact)} by weights and caches alone," if found.exact > memory else ""
        need = f"{gigabytes(found.total)} are needed{alone} and {gigabytes(memory)} are there"
        remedy = cure(wanted, memory, roles, fewer=fewer)
        kind = Impossible if alone else ValueError
        raise kind(f"{wanted.spec.title} at {name_of(wanted.size)} does not fit: {need}; {remedy}")
    return found


def cure(wanted: Wanted, memory: int, roles: Roles | None = None, *, fewer: bool = False) -> str:
    """The nearest run that fits, as an order to follow."""
    found = nearest(wanted, memory, roles, fewer=fewer)
    if found is None:
        least = gigabytes(weights_bytes(wanted))
        return f"nothing near it fits either (its weights alone are {least}); use a smaller model or a larger device"
    return f"use {differences(wanted, found)}, which needs {gigabytes(plan(found, roles).total)}"


def differences(wanted: Wanted, found: Wanted) -> str:
    """What is different in `found`, in words."""
    words = []
    if found.size != wanted.size:
        words.append(f"{name_of(found.size)}")
    if found.draws_with != wanted.draws_with:
        words.append(f"the decoder {found.draws_with} (--decoder {found.draws_with})")
    if len(found.lanes) < len(wanted.lanes):
        words.append("one lane")
    words += [policies.spelling(new) for old, new in zip(wanted.lanes, found.lanes) if policies.spelling(old) != policies.spelling(new)]
    return ", ".join(dict.fromkeys(words)) or "the same"


def nearest(wanted: Wanted, memory: int, roles: Roles | None = None, *, fewer: bool = False) -> Wanted | None:
    """The run most like the wanted one that fits, None if none does: first another decoder, then lighter lanes (with `fewer` also the last
    one alone), then smaller pictures."""
    for found in candidates(wanted, fewer=fewer):
        try:
            if plan(found, roles).total <= memory:
                return found
        except ValueError:
            continue
    return None


def candidates(wanted: Wanted, *, fewer: bool = False) -> Iterator[Wanted]:
    """Runs ever less like the wanted one, the wanted one first; of as many lanes, or with `fewer` also of one."""
    area = math.prod(wanted.size)
    smaller = [] if wanted.spec.net.places else [size for size in SIZES.values() if math.prod(size) < area]
    choices = [lanes for lanes in (wanted.lanes, *lighter(wanted)) if fewer or len(lanes) == len(wanted.lanes)]
    for size in (wanted.size, *sorted(smaller, key=math.prod, reverse=True)):
        spec = resized(wanted.spec, size)
        for lanes in choices:
            for decoder in (wanted.decoder, *OTHER_DECODERS.get(wanted.draws_with, ())):
                yield replace(wanted, spec=spec, lanes=lanes, decoder=decoder)


def trained(spec: ModelSpec) -> str:
    """The spelling of the cache a model was trained with."""
    windowed = spec.sink and spec.schedule.sampler != "rolling"  # whose anchor is part of its "full", see `as_sampled`
    return f"window:{spec.window}:{spec.sink}" if windowed else f"full:{spec.window}"


def compressed(spec: ModelSpec) -> str:
    """The spelling of the cache to set beside it: Forcing-KV, or a window for a model that no head profile comes with."""
    return "forcing-kv" if spec.heads else "window"


def lighter(wanted: Wanted) -> list[tuple[Policy, ...]]:
    """The same lanes with bounded caches: as trained, then a short window in lane A, then the last lane alone."""
    spec = wanted.spec
    usual = policies.parse(trained(spec))
    short = policies.parse(f"window:sink={spec.chunk},recent={3 * spec.chunk}")
    lanes = [tuple(bound if policy.name == "full" or policy == usual else policy for policy in wanted.lanes) for bound in (usual, short)]
    return [*lanes, *([lanes[1][-1:]] if len(wanted.lanes) > 1 else [])]


def relief(wanted: Wanted, memory: int, roles: Roles | None = None) -> str:
    """A sentence of advice after a run has found no memory left in `memory` bytes; it never proposes the heavier of two decoders."""
    enough = min(memory, RELIEF * _total(wanted, roles))
    found = next((found for found in candidates(wanted) if _total(found, roles) <= enough), None)
    if found is None:
        return "Nothing near it needs much less; close other programs on the device, or use a smaller model."
    decoders = (found.decoder, *OTHER_DECODERS.get(found.draws_with, ()))
    found = min((replace(found, decoder=decoder) for decoder in decoders), key=lambda run: _total(run, roles))
    return f"Try {differences(wanted, found)}: about {gigabytes(_total(found, roles))} in all."


def _total(wanted: Wanted, roles: Roles | None) -> float:
    try:
        return plan(wanted, roles).total
    except ValueError:
        return math.inf
