"""The cache as a strip: which letter each kept frame carries, what a class keeps in words. From positions, not from the policy's name."""

from __future__ import annotations

from fkv.events import Kept, Residency
from fkv.views import numbers

WHOLE = 0.999


def letters(kept: Kept, current: tuple[int, ...]) -> list[tuple[int, str, tuple[float, ...]]]:
    """(frame, letter, occupancy) of every frame a class keeps, ascending, the chunk being drawn included.

    C current; S the oldest frames of the video, L the newest before the current chunk, D anything else (whole or in part), all once
    something between them is gone; "" while nothing is.
    """
    past = [(frame, occupancy) for frame, occupancy in sorted(kept.frames) if frame not in current and any(occupancy)]
    now = [(frame, "C", (1.0,)) for frame in current]
    whole = {frame for frame, occupancy in past if min(occupancy) >= WHOLE}
    end = current[0] if current else past[-1][0] + 1 if past else 0
    recent = _run(whole, end - 1, -1)
    if len(recent) == len(past):
        return [(frame, "", occupancy) for frame, occupancy in past] + now
    sink = _run(whole, 0, 1) - recent
    letter = {**dict.fromkeys(sink, "S"), **dict.fromkeys(recent, "L")}
    return [(frame, letter.get(frame, "D"), occupancy) for frame, occupancy in past] + now


def _run(frames: set[int], start: int, step: int) -> set[int]:
    """The unbroken run of frames from `start` on."""
    run: set[int] = set()
    while start in frames:
        run.add(start)
        start += step
    return run


def summary(kept: Kept, current: tuple[int, ...]) -> str:
    """What one head of the class holds of the past: "2 frames and 5 segments"."""
    past = [occupancy for frame, occupancy in kept.frames if frame not in current and any(occupancy)]
    whole = sum(min(occupancy) >= WHOLE for occupancy in past)
    segments = sum(sum(share > 0 for share in occupancy) for occupancy in past if min(occupancy) < WHOLE)
    parts = [numbers.count(whole, "frame")] if whole or not segments else []
    return " and ".join(parts + ([numbers.count(segments, "segment")] if segments else []))


def residency(event: Residency) -> dict[str, object]:
    """The strip of one lane, class by class."""
    out: dict[str, object] = {
        "type": "residency",
        "lane": event.lane,
        "chunk": event.chunk,
        "layer": event.layer,
        "current": list(event.current),
        "kept": [
            {
                "name": kept.name,
                "heads": numbers.count(kept.heads, "head"),
                "text": summary(kept, event.current),
                "frames": [
                    [frame, letter, [round(share, 3) for share in occupancy]] for frame, letter, occupancy in letters(kept, event.current)
                ],
            }
            for kept in event.kept
        ],
    }
    if (similar := event.similarity) is not None:
        out["similarity"] = {
            "frames": list(similar.frames),
            "bars": [[round(bar, 4) for bar in bars] for bars in similar.bars],
            "kept": [list(row) for row in similar.kept],
            "cut": round(similar.cut, 4),
            "text": f"The {numbers.count(sum(map(sum, similar.kept)), 'segment')} that changed most, chosen in layer {similar.layer}.",
        }
    return out
