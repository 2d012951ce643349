"""From settings to policies: what a person asked for, in the engine's words, or a sentence that says why not."""

from __future__ import annotations

from fkv import policies
from fkv.cache import Policy
from fkv.engine import Engine
from fkv.events import LANES, Lane, Notice, Settings
from fkv.probe import FrameProbe


def wish(settings: Settings, lane: Lane) -> tuple[object, ...]:
    """The settings a lane's policy follows from, its spelling first."""
    spelling = settings.right if lane == "B" and settings.compress else settings.left
    kind = policies.discover().get(spelling.partition(":")[0].strip())
    return (spelling, settings.threshold, settings.roles) if kind and kind.needs_roles else (spelling,)


def policy_of(engine: Engine, settings: Settings, lane: Lane) -> Policy:
    """A lane's policy with its roles, checked against the model. Raises ValueError with the cure."""
    policy = policies.parse(str(wish(settings, lane)[0]))
    if policy.needs_roles:
        roles = settings.roles
        if roles is None and engine.profile is None:
            raise ValueError(f"{policy.name} needs a head profile and {engine.spec.name} has none; run `python -m fkv profile`")
        if roles is None and engine.profile is not None:
            roles = (engine.profile if settings.threshold is None else engine.profile.by_threshold(settings.threshold)).roles()
        policy = policy.with_roles(roles)
    policy = policy.fitted(engine.spec.geometry)
    policy.check(engine.spec.geometry)
    return policy


def check_head(engine: Engine, settings: Settings) -> None:
    """Raises ValueError where the head on show does not exist."""
    FrameProbe(engine.spec.geometry, layers=(), head=(settings.layer, settings.head))


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
            news[lane] = Notice(kind, lane, chunk, f"Change of lane {lane} received; it takes effect at the next chunk.", "received")
    return news
