"""Two head profiles compared in the Analysis tab: which there are to choose from, and why two of them cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np

from fkv.heads import HeadProfile
from fkv.parts import ROOT
from fkv.spec import LONGLIVE, SELF_FORCING
from fkv.ui import profiles
from fkv.views.figures import Figure
from fkv.views.figures_profiles import Side
from fkv.views.figures_profiles import profiles as drawn
from fkv.wishes import named

if TYPE_CHECKING:
    from fkv.ui.wiring import House

PUBLISHED = tuple(f"{spec.title}, published" for spec in (SELF_FORCING, LONGLIVE))
OWN, FORCE, LOADED = "own profile", "in force in lane B", "loaded"


def published() -> dict[str, HeadProfile]:
    """The two published lists that differ, by title."""
    specs = (SELF_FORCING, LONGLIVE)
    return {
        name: HeadProfile.from_json((ROOT / str(spec.heads)).read_text(encoding="utf-8"), spec.geometry)
        for name, spec in zip(PUBLISHED, specs)
    }


def choices(house: House, request: gr.Request) -> dict[str, HeadProfile]:
    """Every profile at hand, by what it is called: published ones, the model's own, the one in force, the one a visitor brought last."""
    visitor, found = house.visitor(request), dict(published())
    engine = house.shelf.ready(visitor.model) if visitor.model else None
    if engine is not None and engine.profile is not None:
        found[f"{engine.spec.title}, {OWN}"] = engine.profile
        found[f"{engine.spec.title}, {FORCE}"] = profiles.in_force(engine, replace(house.defaults, **visitor.wishes))
    if visitor.brought is not None:
        found[f"{named(visitor.brought)}, {LOADED}"] = visitor.brought
    return found


def side(name: str, profile: HeadProfile) -> Side:
    static = np.array([[head in layer for head in range(profile.heads)] for layer in profile.static])
    return Side(name, static, profile.rule, profile.recipe)


def compared(first: str, second: str, found: dict[str, HeadProfile]) -> Figure:
    """The figure of two of these profiles. Raises ValueError with both sizes where they are of different models."""
    for name in (first, second):
        if name not in found:
            raise ValueError(f"profile {name[:60]!r} is not at hand any more; choose one of: {'; '.join(found)}")
    a, b = found[first], found[second]
    if (a.layers, a.heads) != (b.layers, b.heads):
        sizes = f"{first} has {a.layers} layers of {a.heads} heads, {second} {b.layers} of {b.heads}"
        raise ValueError(f"{sizes}: these are not the same heads, so they cannot be compared one by one; choose two lists of one size")
    return drawn(side(first, a), side(second, b), a.agreement(b))


def unlike(first: str, found: dict[str, HeadProfile]) -> str:
    """A sentence on the profiles that cannot be compared with one, by their sizes; empty where all can."""
    own = found[first]
    others = [name for name, other in found.items() if (other.layers, other.heads) != (own.layers, own.heads)]
    if not others:
        return ""
    other = found[others[0]]
    names = "; ".join(others)
    return f"Not comparable with {first} ({own.layers} layers of {own.heads} heads): {names} ({other.layers} of {other.heads})."
