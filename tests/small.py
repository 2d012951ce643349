"""A session on a small random model, and what it told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from fkv import engine
from fkv.events import Event, Frames, Settings
from fkv.heads import HeadProfile
from fkv.session import Session
from fkv.spec import POCKET, WanConfig

NET = WanConfig(dim=32, heads=4, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SPEC = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None, schedule=replace(POCKET.schedule, steps=(1000, 500)))
PROMPT, OTHER = "a red ball bouncing over green hills", "a blue star orbiting over a calm sea"
SETTINGS = Settings(prompt=PROMPT, seed=3, left="full:9", right="forcing-kv", chunks=6)
Kind = TypeVar("Kind")


def small_engine() -> engine.Engine:
    """A small random model, which passes for a trained one, with a head profile whose rule makes the first head of each layer static."""
    profile = HeadProfile.of_scores("small", [[0.9, 0.1, 0.7, 0.3]] * 2, recipe={"built_in": {"what": "head 0 sees little"}})
    return replace(engine.load(SPEC, "cpu", random_weights=True), profile=profile.by_threshold(0.8), untrained=False)


def of(kind: type[Kind], events: list[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


def run(small: engine.Engine, **edits: Any) -> list[Event]:
    return list(Session(small, replace(SETTINGS, **edits)).events())


def pictures(events: list[Event]) -> list[tuple[str, int, bytes]]:
    return [(event.lane, event.chunk, event.pixels.tobytes()) for event in of(Frames, events)]


def until(events: Iterator[Event], kind: type[Kind]) -> Kind:
    return next(event for event in events if isinstance(event, kind))
