"""Files of head profiles, in this project's format and in those that were published: read into the fields of a profile, or refused in one
sentence. Nothing is made of a size that a file names before that size is checked.
"""

from __future__ import annotations

import json
from typing import Any

from fkv.spec import Geometry

FORMAT = "fkv-heads-1"
STATIC = ("static_head", "static_heads", "local_head", "local_heads", "spatial_head", "spatial_heads")
DYNAMIC = ("dynamic_head", "dynamic_heads", "temporal_head", "temporal_heads")
ONE, MANY = ("scores", "errors", "flips"), ("samples", "steps", "chunks")
NEEDED = ("model", "layers", "heads", "static")
FIELDS = {*NEEDED, *ONE, *MANY, "rule", "threshold", "recipe", "stability", "variants", "sampling"}
MOST = 256  # layers, and heads a layer, that a file may speak of
CURE = "use a file written by `python -m fkv profile` or by Forcing-KV"


def fields_of(text: str, geometry: Geometry | None = None) -> dict[str, Any]:
    """The fields of a profile from a file's text; published lists that name no sizes need `geometry`. Raises ValueError saying why not."""
    try:
        data = json.loads(text.lstrip("\ufeff"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"head profile is not JSON ({error}); {CURE}") from None
    try:
        return _own(data, geometry) if isinstance(data, dict) and data.get("format") == FORMAT else _published(data, geometry)
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"head profile: a part of it is not what it should be ({error}); {CURE}") from None


def _sizes(layers: Any, heads: Any, geometry: Geometry | None) -> tuple[int, int]:
    """Layers and heads that a file names, checked before anything of that size is made."""
    for name, count in (("layers", layers), ("heads", heads)):
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST:
            raise ValueError(f"head profile: {str(count)[:20]} {name} cannot be, a model has 1 to {MOST}; {CURE}")
    if geometry is not None:
        sizes = ("layers", layers, geometry.layers), ("heads a layer", heads, geometry.heads)
        if apart := [f"{count} {name}, the model {there}" for name, count, there in sizes if count != there]:
            raise ValueError(f"the head profile has {', and '.join(apart)}; use a profile of this model")
    return layers, heads


def _own(data: dict[str, Any], geometry: Geometry | None) -> dict[str, Any]:
    given = {name: value for name, value in data.items() if name != "format"}
    if absent := [name for name in NEEDED if name not in data]:
        raise ValueError(f"head profile: a field is missing ({', '.join(absent)}); {CURE}")
    _sizes(data["layers"], data["heads"], geometry)
    for name in ("static", *ONE):
        given[name] = None if given.get(name) is None else tuple(tuple(line) for line in given[name])
    for name in MANY:
        given[name] = None if given.get(name) is None else tuple(tuple(tuple(line) for line in table) for table in given[name])
    given["variants"] = {name: tuple(tuple(line) for line in table) for name, table in given.get("variants", {}).items()}
    tables = [table for name in ONE if (table := given[name]) is not None] + [table for name in MANY for table in given[name] or ()]
    numbers = [value for table in (*tables, *given["variants"].values()) for line in table for value in line]
    if wrong := [value for value in numbers if isinstance(value, bool) or not isinstance(value, (int, float))]:
        raise ValueError(f"head profile: {str(wrong[0])[:20]!r} stands where a number should; {CURE}")
    if wrong := [head for line in given["static"] or () for head in line if isinstance(head, bool) or not isinstance(head, int)]:
        raise ValueError(f"head profile: {str(wrong[0])[:20]!r} stands where the number of a head should; {CURE}")
    if not isinstance(given.get("recipe", {}), dict) or not isinstance(given.get("rule", ""), str):
        raise ValueError(f"head profile: its recipe is no object, or its rule no text; {CURE}")
    if (cut := given.get("threshold")) is not None and not (isinstance(cut, (int, float)) and 0 <= cut <= 1):
        raise ValueError(f"head profile: its threshold {str(cut)[:20]!r} is no number in [0, 1]; {CURE}")
    if foreign := sorted(set(given) - FIELDS):
        raise ValueError(f"head profile: the field {str(foreign[0])[:20]!r} is unknown; {CURE}")
    return given


def _published(data: Any, geometry: Geometry | None) -> dict[str, Any]:
    """A published profile: a dict with `layers`, or that list alone; layers that are absent are all dynamic."""
    head, rows = (data, data.get("layers")) if isinstance(data, dict) else ({}, data)
    if not isinstance(rows, list) or not all(isinstance(line, dict) and "layer_idx" in line for line in rows):
        raise ValueError(f"head profile: no list of layers with layer_idx in it; {CURE}")
    layers = head.get("num_layers", geometry.layers if geometry else 0)
    heads = head.get("num_heads", geometry.heads if geometry else 0)
    if not layers or not heads:
        raise ValueError("head profile: it does not say how many layers and heads the model has; name the model it is for")
    layers, heads = _sizes(layers, heads, geometry)
    static: list[tuple[int, ...]] = [()] * layers
    for line in rows:
        layer = line["layer_idx"]
        if not 0 <= layer < layers:
            raise ValueError(f"head profile: layer {layer} does not exist among {layers}; use a profile of this model")
        kinds = [[head for name in names for head in line.get(name, [])] for names in (STATIC, DYNAMIC)]
        named = kinds[0] + kinds[1]
        if sorted(named) != list(range(heads)):
            missing, twice = sorted(set(range(heads)) - set(named)), sorted({head for head in named if named.count(head) > 1})
            foreign = sorted(set(named) - set(range(heads)))
            faults = f"missing {missing}, twice {twice}, foreign {foreign}"
            raise ValueError(f"head profile: layer {layer} does not partition {heads} heads ({faults}); name each head once")
        static[layer] = tuple(sorted(map(int, kinds[0])))
    names = {"model": str(head.get("profile", "")), "rule": str(head.get("description") or "published")}
    return {**names, "layers": layers, "heads": heads, "static": tuple(static)}
