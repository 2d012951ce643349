"""One JPEG atlas per lane and chunk: the frames of a chunk in a grid of four columns, left to right, top to bottom; and small pictures."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image

COLUMNS = 4
QUALITY = 90
SMALL, SMALL_QUALITY = 128, 80


def encode(frames: np.ndarray, quality: int = QUALITY) -> bytes:
    """JPEG bytes of uint8 RGB frames [n, H, W, 3], colour at full size; cells past n stay black. Raises ValueError on anything else."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"frames of shape {frames.shape} and type {frames.dtype} make no atlas; give uint8 [n, H, W, 3] with n >= 1")
    n, height, width, _ = frames.shape
    rows = -(-n // COLUMNS)
    sheet = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    sheet[:n] = frames
    sheet = sheet.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    out = BytesIO()
    Image.fromarray(sheet).save(out, "JPEG", quality=quality, subsampling=0)
    return out.getvalue()


def split(jpeg: bytes, n: int) -> np.ndarray:
    """The n frames of an atlas, uint8 [n, H, W, 3]. Raises ValueError if the atlas cannot hold n."""
    sheet = np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))
    rows = -(-n // COLUMNS)
    if n < 1 or sheet.shape[0] % rows or sheet.shape[1] % COLUMNS:
        raise ValueError(f"an atlas of {sheet.shape[1]} x {sheet.shape[0]} pixels does not hold {n} frames in {COLUMNS} columns")
    height, width = sheet.shape[0] // rows, sheet.shape[1] // COLUMNS
    cells = sheet.reshape(rows, height, COLUMNS, width, 3).swapaxes(1, 2)
    return cells.reshape(rows * COLUMNS, height, width, 3)[:n]


def picture(pixels: np.ndarray) -> str:
    """A JPEG of one uint8 RGB frame [H, W, 3] as a data URI, at most `SMALL` pixels wide."""
    image = Image.fromarray(pixels)
    if image.width > SMALL:
        image = image.resize((SMALL, round(image.height * SMALL / image.width)), Image.Resampling.LANCZOS)
    out = BytesIO()
    image.save(out, "JPEG", quality=SMALL_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
