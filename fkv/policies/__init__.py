"""KV methods, one file each. A class here with a `name` is a policy; nothing else has to know it.

A policy is written `name`, `name:key=value,...` or with values in the order of its parameters: `full:21`, `window:sink=3,recent=9`. Some
have a short form of numbers between colons: `window:12:3` is a window of 12 frames of which 3 are the sink.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from typing import Any

from fkv.cache import Policy


def discover() -> dict[str, type[Policy]]:
    """Every policy by name, in alphabetical order of the files."""
    found: dict[str, type[Policy]] = {}
    for name in sorted(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)):
        for value in vars(importlib.import_module(name)).values():
            if isinstance(value, type) and issubclass(value, Policy) and value.name and value.__module__ == name:
                found[value.name] = value
    return found


def parse(text: str) -> Policy:
    """The policy a spelling stands for. Raises ValueError naming what is unknown and what there is."""
    name, _, rest = text.strip().partition(":")
    known = discover()
    if name not in known:
        raise ValueError(f"policy {name!r} is unknown; use one of: {', '.join(known)}")
    if ":" in rest and "=" not in rest:
        return known[name].of(*(_number(name, "value", value.strip(), int) for value in rest.split(":")))
    parameters = {item.name: item.default for item in known[name].parameters()}
    values: dict[str, Any] = {}
    for place, part in enumerate(filter(None, (part.strip() for part in rest.split(",")))):
        key, equals, value = part.partition("=")
        if not equals:
            if place >= len(parameters):
                raise ValueError(f"{name}: value {part!r} is one too many; it has {len(parameters)} parameters: {', '.join(parameters)}")
            key, value = list(parameters)[place], part
        if key not in parameters:
            raise ValueError(f"{name}: parameter {key!r} is unknown; use one of: {', '.join(parameters)}")
        if key in values:
            raise ValueError(f"{name}: parameter {key} is given twice; give it once")
        values[key] = _number(name, key, value.strip(), type(parameters[key]))
    return known[name](**values)


def split(text: str) -> list[str]:
    """Spellings in a list whose commas also separate parameters: a comma ends a policy where the name of one follows. Raises
    ValueError on a word that is no policy's name and no value of the policy before it.
    """
    known = discover()
    names = "|".join(sorted(map(re.escape, known), key=len, reverse=True))
    parts = [part.strip() for part in re.split(rf",(?=\s*(?:{names})\s*(?::|,|$))", text) if part.strip()]
    for first, *rest in (part.split(",") for part in parts):
        if (kind := known.get(first.partition(":")[0].strip())) is None:
            continue
        values = {value for item in kind.parameters() for value in item.metadata["choices"]}
        words = [found[1].strip() for value in rest if (found := re.fullmatch(r"\s*([^\W\d][^:=]*)(:.*)?", value))]
        if strange := [word for word in words if word not in values]:
            raise ValueError(f"{strange[0]!r} is neither a policy nor a value of {kind.name}; policies are: {', '.join(known)}")
    return parts


def _number(name: str, key: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name}: {key}={value!r} is not a number; write for instance {key}=1") from None


def spelling(policy: Policy) -> str:
    """The shortest text that `parse` turns back into this policy (its roles aside)."""
    changed = [item for item in policy.parameters() if getattr(policy, item.name) != item.default]
    return ":".join(filter(None, (policy.name, ",".join(f"{item.name}={getattr(policy, item.name)}" for item in changed))))


def label(policy: Policy) -> str:
    """A few words for the caption of a pane."""
    return policy.label
