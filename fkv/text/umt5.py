"""Prompts for the Wan 2.1 family: umT5-XXL (arXiv 2304.09151) through transformers, cleaned and padded as published.

The encoder is larger than the video model (11.4 GB in bfloat16), so it is opened only for a prompt that no store knows, moved to the device
for that one pass, and then dropped or kept in main memory. Rows behind the prompt's last token are zero; nothing masks them.
"""

from __future__ import annotations

import hashlib
import html
import logging
import re
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fkv.text.pocket import Prompt
from fkv.text.store import Bundle, Folder, address

REPO = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
PATTERNS = ("text_encoder/*.json", "text_encoder/*.safetensors", "tokenizer/tokenizer.json", "tokenizer/*")  # each must have a file
SPARE = 1_000_000_000  # bytes left for a pass and for what runs beside it
SIZE = 22_700_000_000  # 5.68 billion parameters in float32
NAME = "umt5-xxl"
PACKAGES = ("transformers", "ftfy")
EXAMPLES = (
    "A red fox trots through fresh snow at the edge of a birch forest, low winter sun, long blue shadows, the camera follows at its side",
    "A potter's hands shape a tall clay vase on a spinning wheel, close view, warm window light, fine wet texture",
    "Waves break on black volcanic rocks at dusk, spray caught in orange light, slow camera drift along the shore",
    "A yellow tram climbs a steep street between tiled houses, laundry moves in the wind, people step aside, sunny afternoon",
    "A hummingbird hovers in front of a purple flower, wings a blur, shallow depth of field, morning garden",
    "A paper boat sails along a gutter after rain, reflections of street lamps, the camera keeps just ahead of it",
)


class Encoder(Protocol):
    """Cleaned prompt to its embedding [tokens, width], padding left out."""

    def __call__(self, prompt: str) -> Tensor: ...


def clean(text: str) -> str:
    """A prompt as the encoder was given it: broken characters mended, HTML entities undone, white space collapsed. Raises ValueError on
    nothing."""
    try:
        from ftfy import fix_text  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("the prompt cannot be cleaned as published: ftfy is not installed; run `pip install ftfy`") from None
    text = html.unescape(html.unescape(fix_text(text)))
    text = re.sub(r"\s+", " ", text).strip()
    if not text:
        raise ValueError("the prompt is empty; describe a scene, for instance: " + EXAMPLES[0])
    return text


class Umt5Text:
    """The text side of a Wan model. `encode` is the same for every seed and may be called from any thread.

    Looks in memory, the bundle, the folder, and only then opens the encoder; `keep` says whether it stays in main memory after that.
    """

    def __init__(
        self,
        opener: Callable[[], Encoder],
        *,
        width: int = 4096,
        length: int = 512,
        bundle: Bundle | None = None,
        folder: Folder | None = None,
        name: str = NAME,
        keep: bool = True,
    ):
        self.opener, self.width, self.length, self.name, self.keep = opener, width, length, name, keep
        self.bundle, self.folder = bundle or Bundle(), folder
        self.known: dict[str, Tensor] = {}
        self.encoder: Encoder | None = None
        self.lock = threading.Lock()

    @property
    def examples(self) -> tuple[str, ...]:
        return self.bundle.prompts or EXAMPLES

    def encode(self, text: str, seed: int = 0) -> Prompt:
        """The embedding float32 [1, length, width]. Raises ValueError in a sentence where the prompt is empty or nothing can encode it."""
        found = self.rows(text)
        notes = (
            (f"The prompt is longer than {self.length} tokens; what comes after them is not read.",) if len(found) == self.length else ()
        )
        return Prompt(text, padded(found, self.length), notes)

    def rows(self, text: str) -> Tensor:
        """The embedding [tokens, width] without padding. Raises ValueError as `encode` does."""
        prompt = clean(text)
        key = address(self.name, prompt)
        with self.lock:
            found = self._stored(key)
            if found is None:
                found = self._encoded(prompt)
                if self.folder is not None:
                    self.folder.keep(key, found)
            self.known = {**dict(list(self.known.items())[-15:]), key: found}
        return found

    def _stored(self, key: str) -> Tensor | None:
        for find in (self.known.get, self.bundle.find, self.folder.find if self.folder else self.known.get):
            found = find(key)
            if found is not None and found.dim() == 2 and found.shape[1] == self.width and 0 < len(found) <= self.length:
                return found
        return None

    def _encoded(self, prompt: str) -> Tensor:
        try:
            encoder = self.encoder or self.opener()
        except (OSError, ImportError) as error:
            ready = f" Ready without it: {'; '.join(self.bundle.prompts)}." if self.bundle.prompts else ""
            raise ValueError(f"this prompt needs the text encoder, and {error}.{ready}") from None
        self.encoder = encoder if self.keep else None
        found = encoder(prompt)
        if found.dim() != 2 or found.shape[1] != self.width or not 0 < len(found) <= self.length:
            raise ValueError(f"the text encoder gave {list(found.shape)} for a prompt, expected at most {self.length} rows of {self.width}")
        return found


def padded(embedding: Tensor, length: int) -> Tensor:
    """[rows, width] as float32 [1, length, width], zero behind the last row."""
    out = torch.zeros(1, length, embedding.shape[1])
    out[0, : len(embedding)] = embedding.float()
    return out


def free_bytes(device: torch.device) -> int:
    """What a CUDA device has left; elsewhere more than anything needs."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 62


class Umt5Encoder:
    """umT5 in main memory, on `device` for each pass if it is another and has the room, there beside what else runs."""

    def __init__(
        self,
        tokenizer: Callable[..., dict[str, Tensor]],
        model: torch.nn.Module,
        device: torch.device,
        length: int = 512,
        free: Callable[[torch.device], int] = free_bytes,
    ):
        self.tokenizer, self.model, self.device, self.length, self.free = tokenizer, model, device, length, free
        self.nbytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())

    @torch.inference_mode()
    def __call__(self, prompt: str) -> Tensor:
        tokens = self.tokenizer(
            [prompt], padding="max_length", truncation=True, max_length=self.length, add_special_tokens=True, return_tensors="pt"
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        home = next(self.model.parameters()).device
        place = self.device if self.free(self.device) > self.nbytes + SPARE else home
        if place != self.device:
            logging.getLogger(__name__).warning("%s has no room for the text encoder; the prompt is read on %s", self.device, place)
        try:
            with torch.cuda.stream(torch.cuda.Stream(place)) if place.type == "cuda" else nullcontext():
                self.model.to(place)
                return self.model(ids.to(place), mask.to(place)).last_hidden_state[0, : int(mask.sum())].cpu()
        finally:
            self.model.to(home)


def open_umt5(folder: Path, device: torch.device, dtype: torch.dtype = torch.bfloat16, length: int = 512) -> Umt5Encoder:
    """The encoder in a folder with `text_encoder/` and `tokenizer/`. Raises ImportError or OSError in a sentence."""
    try:
        from transformers import AutoTokenizer, UMT5EncoderModel  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError("transformers is not installed; run `pip install transformers`") from None
    from safetensors import SafetensorError

    try:
        read: Any = UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, output_loading_info=True)
        model, found = read
        if missing := sorted(found["missing_keys"]):
            raise ValueError(f"tensor {missing[0]!r} is missing")
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = "some tensors have other shapes" if "ignore_mismatched_sizes" in str(error) else str(error).splitlines()[0]
        raise OSError(f"{folder} holds no complete umT5 encoder ({why}); delete it and fetch it again") from None
    if not bool(model.get_input_embeddings().weight.any()):
        raise OSError("this version of transformers loads umT5 with empty word embeddings; run `pip install -U transformers`")
    return Umt5Encoder(tokenizer, model.eval().requires_grad_(False), device, length)


class DrawnText:
    """Embeddings drawn from the prompt's letters, for models with random weights: the sizes of the real ones and no meaning."""

    examples: tuple[str, ...] = EXAMPLES

    def __init__(self, width: int = 4096, length: int = 512):
        self.width, self.length = width, length

    def encode(self, text: str, seed: int = 0) -> Prompt:
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        drawn = torch.randn(min(self.length, max(1, len(text.split()))), self.width, generator=torch.Generator().manual_seed(number))
        return Prompt(text, padded(drawn, self.length), ("Random weights: the prompt decides nothing but the numbers.",))
