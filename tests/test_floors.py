"""The plan of the house: a room imports only from lower floors, and the network-free rooms stay light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
# Half floors order the rooms that one floor holds; a room on the same floor is out of bounds.
FLOORS: dict[str, float] = {
    "spec": 0, "attention": 0, "findings": 0, "flags": 0, "events": 0.1, "hub": 0, "text": 0.5,
    "cells": 0.5, "rope": 1, "groups": 1, "cache": 1.5, "codec": 2, "wan": 2, "weights": 2, "policies": 2,
    "fast": 2.5, "planner": 2.5, "advice": 2.6, "metrics": 2.5, "stream": 3, "rolling": 3.1, "probe": 3, "meter": 3,
    "stability": 3.4, "heads_file": 3.4, "heads": 3.5, "parts": 3.5, "engine": 3.7,
    "survey": 3.2, "looking": 3.3, "delivery": 3.1, "lane": 3.8, "wishes": 3.8, "pairs": 3.8, "measuring": 3.9, "redraw": 3.9,
    "machine": 3.8, "video": 3, "session": 4, "views": 4, "pocket": 4.5,
    "ui": 5, "generate": 5, "doctor": 5, "fetch": 5, "figures": 5, "record": 5, "roofline": 3.9, "pieces": 5,
    "bench": 5.5, "profiling": 5.5, "__main__": 6, "app": 6,
}  # fmt: skip
LIGHT = {"views": {"torch", "gradio"}, "spec": {"torch", "gradio"}, "findings": {"torch", "gradio"}, "events": {"torch", "gradio"}}
FILES = sorted([*(HOUSE / "fkv").rglob("*.py"), *HOUSE.glob("app.py")])


def room(file: Path) -> str:
    return file.relative_to(HOUSE).with_suffix("").parts[1 if file.is_relative_to(HOUSE / "fkv") else 0]


def imported(file: Path) -> list[str]:
    """Full names of everything a file imports at any depth, what only a type checker sees left out."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file}: write imports in full"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_a_room_imports_only_from_lower_floors(file: Path) -> None:
    here = room(file)
    if here == "__init__":
        assert not imported(file), "fkv/__init__.py imports nothing, so that importing one room loads no other"
        return
    assert here in FLOORS, f"{file} is a new room; give it a floor here and in the plan"
    for name in imported(file):
        parts = name.split(".")
        assert parts[0] not in LIGHT.get(here, ()), f"{file} must do without {parts[0]}"
        if parts[0] == "fkv" and len(parts) > 1 and parts[1] != here:
            there = parts[1]
            assert there in FLOORS, f"{file} imports the unknown room {there}"
            assert FLOORS[there] < FLOORS[here], f"{file} ({here}, floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"
