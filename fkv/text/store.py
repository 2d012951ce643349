"""Prompt embeddings that need no encoder any more: a folder that fills itself, and one file of examples that comes with the repository.

An embedding is stored without its padding, under the SHA-256 of encoder name and cleaned prompt. A damaged file is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

KEY = "embedding"


def address(encoder: str, prompt: str) -> str:
    """Where a cleaned prompt's embedding is kept, under any store."""
    return hashlib.sha256(f"{encoder}\n{prompt}".encode()).hexdigest()


class Folder:
    """One small file per prompt. `find` and `keep` from any thread."""

    def __init__(self, path: Path):
        self.path = path

    def find(self, key: str) -> Tensor | None:
        """The embedding [rows, width] stored under a key."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(self.path / f"{key}.safetensors")[KEY]
        except (FileNotFoundError, SafetensorError, KeyError):
            return None

    def keep(self, key: str, embedding: Tensor) -> None:
        """Writes beside the place and moves, so that a reader finds a whole file or none."""
        from safetensors.torch import save_file

        self.path.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path, suffix=".part")
        os.close(handle)
        save_file({KEY: embedding.contiguous().cpu()}, name)
        os.replace(name, self.path / f"{key}.safetensors")


class Bundle:
    """Embeddings of example prompts in one file; empty where there is no file."""

    def __init__(self, prompts: tuple[str, ...] = (), tensors: Mapping[str, Tensor] | None = None):
        self.prompts, self.tensors = prompts, dict(tensors or {})

    def find(self, key: str) -> Tensor | None:
        return self.tensors.get(key)

    @classmethod
    def read(cls, path: Path) -> Bundle:
        """The file's embeddings. Raises ValueError where it is damaged."""
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            return cls()
        try:
            with safe_open(path, "pt") as file:
                prompts = json.loads((file.metadata() or {}).get("prompts", "[]"))
                return cls(tuple(prompts), {key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a complete file of prompt embeddings ({error}); restore it from the repository") from None

    def write(self, path: Path) -> None:
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: tensor.contiguous().cpu() for key, tensor in self.tensors.items()}, path, {"prompts": json.dumps(self.prompts)})
