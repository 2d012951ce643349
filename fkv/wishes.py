"""From settings to policies and roles: what a person asked for, in the engine's words, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fkv import policies
from fkv.advice import Impossible
from fkv.cache import Policy, Roles, check_roles
from fkv.engine import Engine, check
from fkv.events import Notice, Settings
from fkv.findings import LANES, Lane
from fkv.heads import HeadProfile
from fkv.spec import Geometry

PINS, SKIP = 4, 18
CLASSES = ("static", "dynamic")
RULES = "profile, threshold, quota:0.5, inverted, random:7, all-static or all-dynamic"


def wish(settings: Settings, lane: Lane) -> tuple[object, ...]:
    """The settings a lane's policy follows from, its spelling first."""
    spelling = settings.right if lane == "B" and settings.compress else settings.left
    kind = policies.discover().get(spelling.partition(":")[0].strip())
    return (spelling, *about_roles(settings)) if kind and kind.needs_roles else (spelling,)


def about_roles(settings: Settings) -> tuple[object, ...]:
    """The settings that roles follow from."""
    return settings.roles, settings.profile, settings.rule, settings.threshold, settings.overrides


def profile_of(engine: Engine, settings: Settings) -> HeadProfile | None:
    """The profile that classes follow from: one a person brought, else the model's own."""
    return settings.profile or engine.profile


def policy_of(engine: Engine, settings: Settings, lane: Lane) -> Policy:
    """A lane's policy with its roles, checked against the model. Raises ValueError with the cure."""
    policy = policies.parse(str(wish(settings, lane)[0]))
    if policy.needs_roles:
        if settings.roles is None and profile_of(engine, settings) is None and not settings.rule.startswith("all-"):
            raise ValueError(f"{policy.name} needs a head profile and {engine.spec.name} has none; give one with --heads")
        policy = policy.with_roles(roles_of(engine, settings))
    policy = policy.fitted(engine.spec.geometry)
    policy.check(engine.spec.geometry)
    return policy


def roles_of(engine: Engine, settings: Settings) -> Roles:
    """The static heads that settings come to: explicit roles, else the rule, then the overrides. Raises ValueError with the cure."""
    geometry = engine.spec.geometry
    check_choices(settings, geometry)
    if settings.roles is not None:
        check_roles("roles", settings.roles, geometry)
        static = [set(line) for line in settings.roles]
    else:
        static = [set(line) for line in _by_rule(engine, settings)]
    for layer, head, kind in settings.overrides:
        (static[layer].add if kind == "static" else static[layer].discard)(head)
    return tuple(tuple(sorted(line)) for line in static)


def _by_rule(engine: Engine, settings: Settings) -> Roles:
    kind, _, value = settings.rule.partition(":")
    geometry = engine.spec.geometry
    if kind in ("all-static", "all-dynamic"):
        return (tuple(range(geometry.heads)) if kind == "all-static" else (),) * geometry.layers
    profile = profile_of(engine, settings)
    if profile is None:
        raise ValueError(f"{engine.spec.name} has no head profile for the rule {settings.rule!r}; use all-static or all-dynamic")
    if kind == "quota":
        return profile.by_quota(float(value)).roles()
    base = profile if settings.threshold is None else profile.by_threshold(settings.threshold)
    if kind == "random":
        base = base.random(int(value))
    return (base.inverted() if kind == "inverted" else base).roles()


@dataclass(frozen=True)
class Concern:
    """What speaks against a run, in a sentence with the nearest run that fits, empty where nothing does; `certain` where no estimate is
    part of it."""

    words: str = ""
    certain: bool = False


def concern(engine: Engine, settings: Settings) -> Concern:
    """Whether both lanes of these settings fit the device, by the roles they come to."""
    lanes = [str(wish(settings, lane)[0]) for lane in LANES]
    try:
        parted = any(policies.parse(lane).needs_roles for lane in lanes)
        check(engine, lanes, settings.chunks, roles=roles_of(engine, settings) if parted else None)
    except Impossible as error:
        return Concern(str(error), certain=True)
    except ValueError as error:
        return Concern(str(error))
    return Concern()


def check_head(engine: Engine, settings: Settings) -> None:
    """Raises ValueError where a head on show, pinned or overridden does not exist, or a choice about heads cannot be."""
    check_choices(settings, engine.spec.geometry)
    if settings.profile is not None:
        settings.profile.check(engine.spec.geometry)


def check_choices(settings: Settings, geometry: Geometry) -> None:
    """Raises ValueError, with the value, the limit and the cure, on a choice about heads that this model cannot follow."""
    _exists((settings.layer, settings.head), "head on show", geometry)
    if len(settings.pinned) > PINS:
        raise ValueError(f"{len(settings.pinned)} heads are pinned beside the one on show, at most {PINS} can be; unpin some")
    for pin in settings.pinned:
        _exists(pin, "pinned head", geometry)
    for layer, head, kind in settings.overrides:
        _exists((layer, head), "overridden head", geometry)
        if kind not in CLASSES:
            raise ValueError(f"head {head} of layer {layer} is to be {kind!r}; use static or dynamic")
    if settings.threshold is not None and not 0 <= settings.threshold <= 1:
        raise ValueError(f"threshold {settings.threshold} is outside [0, 1]; the published one is 0.8")
    if not 0 <= settings.skip_first <= SKIP:
        raise ValueError(f"skip_first {settings.skip_first} is outside [0, {SKIP}]; the published ones are 1 and 3")
    _check_rule(settings)


def _exists(at: Sequence[int], what: str, geometry: Geometry) -> None:
    layer, head = at
    for name, number, count in (("layer", layer, geometry.layers), ("head", head, geometry.heads)):
        if not 0 <= number < count:
            raise ValueError(f"{what}: {name} {number} is asked for, the model has {name}s 0..{count - 1}; choose among them")


def _check_rule(settings: Settings) -> None:
    kind, colon, value = settings.rule.partition(":")
    if kind not in ("profile", "threshold", "quota", "inverted", "random", "all-static", "all-dynamic"):
        raise ValueError(f"rule {settings.rule!r} is unknown; use one of: {RULES}")
    if bool(colon) != (kind in ("quota", "random")):
        raise ValueError(f"rule {settings.rule!r} is incomplete or has a value too many; use one of: {RULES}")
    if kind == "threshold" and settings.threshold is None:
        raise ValueError("rule 'threshold' has no threshold to go by; set one in [0, 1], the published one is 0.8")
    if kind == "quota":
        try:
            quota = float(value)
        except ValueError:
            raise ValueError(f"quota {value!r} is no number; write for instance quota:0.5") from None
        if not 0 <= quota <= 1:
            raise ValueError(f"quota {value} is outside [0, 1]; quota:0.5 makes half the heads of every layer static")
    if kind == "random" and not value.isdecimal():
        raise ValueError(f"random seed {value!r} is no whole number from 0 on; write for instance random:7")


def carried(settings: Settings, geometry: Geometry) -> tuple[Settings, tuple[str, ...]]:
    """Settings for another model: heads it does not have are let go of, with a sentence for each kind."""

    def there(entry: Sequence[object]) -> bool:
        layer, head = entry[:2]
        return isinstance(layer, int) and isinstance(head, int) and 0 <= layer < geometry.layers and 0 <= head < geometry.heads

    said, has = [], f"this model has {geometry.layers} layers of {geometry.heads} heads"
    if not there((settings.layer, settings.head)):
        said.append(f"Head {settings.head} of layer {settings.layer} does not exist here, {has}; head 0 of layer 0 is on show.")
        settings = replace(settings, layer=0, head=0)
    for name, what in (("pinned", "pinned"), ("overrides", "overridden")):
        kept = tuple(entry for entry in getattr(settings, name) if there(entry))
        if lost := len(getattr(settings, name)) - len(kept):
            said.append(f"{lost} {what} {'head does' if lost == 1 else 'heads do'} not exist here, {has}; let go.")
        settings = replace(settings, **{name: kept})
    if settings.roles is not None:
        try:
            check_roles("roles", settings.roles, geometry)
        except ValueError:
            said.append(f"The roles chosen were those of another model, {has}; its own are used.")
            settings = replace(settings, roles=None)
    if settings.profile is not None and (settings.profile.layers, settings.profile.heads) != (geometry.layers, geometry.heads):
        sizes = f"{settings.profile.layers} layers of {settings.profile.heads} heads"
        said.append(f"The head profile {named(settings.profile)} is of {sizes}, {has}; its own profile is used.")
        settings = replace(settings, profile=None)
    return settings, tuple(said)


def named(profile: HeadProfile) -> str:
    """What a profile is called: the file it was read from, else the model it was made for."""
    return str(profile.recipe.get("file") or profile.model or "without a name")


def received(before: Settings, after: Settings, chunk: int) -> dict[str, Notice]:
    """What a person has just asked for, by what it touches: "prompt", "seed" or a lane."""
    news: dict[str, Notice] = {}
    if after.prompt != before.prompt:
        news["prompt"] = Notice("prompt", None, chunk, "New prompt received; it takes effect at the next chunk.", "received")
    if after.seed != before.seed:
        news["seed"] = Notice("parameter", None, chunk, "New seed received; it takes effect at the next chunk.", "received")
    for lane in LANES:
        old, new = wish(before, lane), wish(after, lane)
        if old != new:
            kind = "parameter" if str(old[0]).split(":")[0] == str(new[0]).split(":")[0] else "policy"
            what = f"Change of lane {lane}"
            if after.profile is not before.profile:
                what = f"Head profile {named(after.profile)}" if after.profile else "The model's own head profile"
            news[lane] = Notice(kind, lane, chunk, f"{what} received; it takes effect at the next chunk.", "received")
    return news


def moved(before: Roles | None, after: Roles | None) -> str:
    """Which heads a change of roles moves, in words: "head 3 of layer 2 is now static"; empty where none."""
    now = {name: [] for name in CLASSES}
    for layer, (old, new) in enumerate(zip(before or (), after or ())):
        now["static"] += [(layer, head) for head in sorted(set(new) - set(old))]
        now["dynamic"] += [(layer, head) for head in sorted(set(old) - set(new))]
    return " and ".join(f"{_named(heads)} now {kind}" for kind, heads in now.items() if heads)


def _named(heads: Sequence[tuple[int, int]]) -> str:
    if len(heads) > 3:
        return f"{len(heads)} heads are"
    words = [f"head {head} of layer {layer}" for layer, head in heads]
    return f"{words[0]} is" if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]} are"
