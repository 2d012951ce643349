"""Numbers as a person reads them: the one place where digits, units and separators are chosen."""

from __future__ import annotations

import math
from typing import Any


def plain(value: float) -> str:
    """Three significant digits at most, thousands with a comma: 8.13 -> "8.1", 1480.4 -> "1,480", 0.42 -> "0.42"."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    if size >= 0.995 or value == 0:
        return f"{value:.1f}"
    return f"{value:.2f}"


def milliseconds(ms: float) -> str:
    """Whole milliseconds from 10 on."""
    return f"{ms:,.0f}" if ms >= 9.95 else plain(ms)


def size(count: int) -> tuple[str, str]:
    """Bytes in decimal units, as (number, unit): 17_200_000 -> ("17.2", "MB"). Below 1 kB whole bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:
            return plain(count / scale), unit
    return f"{count:.0f}", "B"


def size_text(count: int) -> str:
    """Bytes with their unit: "2.1 MB"."""
    return " ".join(size(count))


def percent(share: float) -> str:
    """A share in [0, 1] as a percentage without its sign; one decimal below 1 %: 0.123 -> "12", 0.004 -> "0.4"."""
    value = 100 * share
    return f"{value:.1f}" if 0 < value < 0.95 else f"{value:.0f}"


def ratio(value: float) -> tuple[str, str]:
    """A speed ratio as (number, word), never below one: 1.93 -> ("1.9×", "faster"), 0.5 -> ("2.0×", "slower")."""
    if not math.isfinite(value) or value <= 0:
        return "–", ""
    shown = value if value >= 1 else 1 / value
    if shown < 1.05:
        return "1.0×", "as fast"
    return f"{shown:.1f}×" if shown < 99.95 else f"{shown:.0f}×", "faster" if value > 1 else "slower"


def decibel(value: float) -> tuple[str, str]:
    """PSNR as (number, unit); infinite when all frames are equal."""
    return ("=", "identical") if math.isinf(value) else (f"{value:.1f}", "dB PSNR")


def count(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: (1, "frame") -> "1 frame", (2, "frame") -> "2 frames"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def machine(where: dict[str, Any]) -> str:
    """What a figure was measured on, of `fkv.machine.environment`: "Intel(R) Core(TM) i7, 4 threads", or the name of the GPU."""
    return f"{where['cpu']}, {count(where['threads'], 'thread')}" if where["device"] == "cpu" else str(where["device"])


def parameters(number: int) -> str:
    """Model size: 4_300_000 -> "4.3M"."""
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            value = number / scale
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}{unit}"
    return str(number)
