"""A long report in parts that survive a stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Pictures = dict[str, np.ndarray]


class Stages:
    """Parts of a report, each written to `work` as soon as it is measured and read back from there while these files are the same and so is
    what is `asked` of the model."""

    def __init__(self, work: Path, *weights: Path, asked: bytes = b""):
        self.work = work / "report"
        self.work.mkdir(parents=True, exist_ok=True)
        digest, mark = hashlib.sha256(b"".join(path.read_bytes() for path in weights) + asked).hexdigest(), self.work / "weights.txt"
        if not mark.is_file() or mark.read_text() != digest:
            for old in self.work.glob("*.npz"):
                old.unlink()
            mark.write_text(digest)

    def measured(self, name: str, measure: Callable[[], tuple[dict[str, Any], Pictures]]) -> tuple[dict[str, Any], Pictures]:
        """Numbers and pictures of one part."""
        path = self.work / f"{name}.npz"
        if not path.is_file():
            numbers, pictures = measure()
            arrays: dict[str, Any] = {"__numbers__": np.array(json.dumps(numbers)), **pictures}
            part = path.with_suffix(".part")
            with part.open("wb") as out:
                np.savez_compressed(out, **arrays)
            part.replace(path)
        with np.load(path) as saved:
            return json.loads(str(saved["__numbers__"])), {key: saved[key] for key in saved.files if key != "__numbers__"}
