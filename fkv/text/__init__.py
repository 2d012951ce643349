"""Prompt to embeddings. The pocket model reads a small English grammar, free in wording, fixed in meaning; Wan models read umT5."""

from __future__ import annotations

from fkv.text.meaning import (
    CAMERAS,
    COLOURS,
    EXAMPLES,
    MOTIONS,
    SHAPES,
    THEMES,
    Layout,
    Parsed,
    Thing,
    describe,
    encode_many,
    seeded_layout,
)
from fkv.text.pocket import PocketText, Prompt
from fkv.text.reader import parse
from fkv.text.umt5 import DrawnText, Umt5Text

__all__ = [
    "CAMERAS",
    "COLOURS",
    "EXAMPLES",
    "MOTIONS",
    "SHAPES",
    "THEMES",
    "DrawnText",
    "Layout",
    "Parsed",
    "PocketText",
    "Prompt",
    "Thing",
    "Umt5Text",
    "describe",
    "encode_many",
    "parse",
    "seeded_layout",
]
