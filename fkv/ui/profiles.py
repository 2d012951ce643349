"""Head profiles that people bring and take away: one that lane B goes by from its next chunk, the one in force as a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fkv.engine import Engine, profile_facts
from fkv.events import Settings
from fkv.heads import HeadProfile
from fkv.spec import Geometry
from fkv.views import messages, numbers
from fkv.wishes import named, profile_of, roles_of

if TYPE_CHECKING:
    from fkv.ui.visitors import Visitor

LARGEST = 2_000_000  # bytes of a profile: 40 layers of 40 heads with scores of 16 prompts take 0.4 MB
LONGEST = 60
FORMATS = ("fkv", "forcing-kv")


def read(text: Any, name: Any, geometry: Geometry | None = None) -> HeadProfile:
    """A profile from the text of a file, called by the file's name. Raises ValueError saying why not and what to do."""
    if not isinstance(text, str):
        raise ValueError("a head profile is a text file; choose a JSON file")
    if (size := len(text.encode("utf-8", "replace"))) > LARGEST:
        most = numbers.size_text(LARGEST)
        raise ValueError(f"the head profile is {numbers.size_text(size)}, at most {most} are read; leave the samples out of it")
    profile = HeadProfile.from_json(text, geometry)
    return replace(profile, recipe={**profile.recipe, "file": str(name)[:LONGEST] or "a file"})


def bring(visitor: Visitor, engine: Engine, text: Any, name: Any) -> dict[str, Any]:
    """Puts a profile (None: the model's own) in the place of the one in force, its own classes and no override; gives it for the stage."""
    profile = None if text is None else read(text, name, engine.spec.geometry)
    edits = {"profile": profile, "rule": "profile", "threshold": None, "overrides": ()}
    visitor.change(**edits)
    visitor.wishes |= edits
    visitor.brought = profile or visitor.brought
    facts = profile_facts(engine, profile)
    static = sum(map(len, facts.static)) if facts else 0
    told = "The model's own head profile is in force again."
    if profile is not None:
        scores = "with scores" if profile.scores else "classes only, so no threshold can be drawn"
        told = f"Read {named(profile)}: {static} static and {profile.layers * profile.heads - static} dynamic heads, {scores}."
    return {"profile": messages.profile(facts), "text": told}


def in_force(engine: Engine, settings: Settings) -> HeadProfile:
    """The profile that classes follow from, with the classes that settings come to and how they came about in its recipe."""
    geometry, base = engine.spec.geometry, profile_of(engine, settings)
    static = roles_of(engine, settings)
    if base is None:
        base = HeadProfile(engine.spec.name, geometry.layers, geometry.heads, static, rule=settings.rule)
    if static == base.static:
        return base
    chosen = {"rule": settings.rule, "threshold": settings.threshold, "overrides": [list(one) for one in settings.overrides]}
    words = f"{settings.rule}, {numbers.count(len(settings.overrides), 'override')}" if settings.overrides else settings.rule
    recipe = {**base.recipe, "chosen": chosen}
    return replace(base, static=static, rule=words, threshold=settings.threshold, stability={}, flips=None, recipe=recipe)


def file(engine: Engine, settings: Settings, kind: str) -> dict[str, str]:
    """The profile in force as a file's name and text, in this project's format or in that of the released Forcing-KV."""
    if kind not in FORMATS:
        raise ValueError(f"format {kind[:20]!r} is unknown; use one of: {', '.join(FORMATS)}")
    profile = in_force(engine, settings)
    text = profile.to_json() if kind == "fkv" else profile.to_published()
    return {"name": f"heads-{engine.spec.name}{'' if kind == 'fkv' else '-forcing-kv'}.json", "text": text}
