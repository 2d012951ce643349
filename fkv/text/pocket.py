"""The pocket model's text side, and what a prompt is to every model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fkv.text.meaning import EXAMPLES, Parsed, encode_many, seeded_layout
from fkv.text.reader import parse


@dataclass(frozen=True)
class Prompt:
    """A prompt as a model reads it: embedding float32 [1, rows, width], sentences for the user, and what was understood of it."""

    text: str
    embedding: torch.Tensor
    notes: tuple[str, ...] = ()
    parsed: Parsed | None = None


class PocketText:
    """The pocket model's text side: a fixed one-hot code of the parsed prompt and of the layout the seed gives it, without weights."""

    examples: tuple[str, ...] = EXAMPLES

    def encode(self, text: str, seed: int = 0) -> Prompt:
        """The embedding [1, 16, 112] of any English; raises ValueError as `parse` does."""
        parsed = parse(text)
        code = encode_many([parsed], [seeded_layout(parsed, seed)])
        return Prompt(text, torch.from_numpy(code), parsed.notes, parsed)
