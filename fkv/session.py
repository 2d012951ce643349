"""`Session`: two lanes of one model, side by side, with live changes; events are pulled."""

from __future__ import annotations

from fkv.events import (
    LANES,
    Done,
    Event,
    Frames,
    Kept,
    Lane,
    Maps,
    ModelFacts,
    Notice,
    Phases,
    ProfileFacts,
    Residency,
    Sample,
    Settings,
    Similarity,
    Start,
    Tick,
    Verdict,
)

__all__ = [
    "LANES",
    "Done",
    "Event",
    "Frames",
    "Kept",
    "Lane",
    "Maps",
    "ModelFacts",
    "Notice",
    "Phases",
    "ProfileFacts",
    "Residency",
    "Sample",
    "Settings",
    "Similarity",
    "Start",
    "Tick",
    "Verdict",
]
