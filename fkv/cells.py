"""What of the past is painted to be kept, as cells (age, segment), and how that is written.

Age 1 is the newest frame before the chunk being drawn, age 2 the one before it; segments count from 0 at the top of a frame. Written with
"+" between parts: "1" a whole frame, "4-6" whole frames of these ages, "2.3" one segment of a frame, "2.0-3" several; "" is nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fkv.spec import Geometry

OLDEST = 21
PART = re.compile(r"(\d+)(?:-(\d+)|\.(\d+)(?:-(\d+))?)?")
Cells = frozenset[tuple[int, int]]


def segments_of(geometry: Geometry) -> int:
    """Into how many horizontal bands of whole token rows a frame is cut: the divisor of its rows nearest to 6."""
    fits = [count for count in range(1, geometry.rows + 1) if geometry.rows % count == 0]
    return min(fits, key=lambda count: abs(count - 6))


def parse(text: str, segments: int) -> Cells:
    """The cells a text stands for, in frames of `segments` segments. Raises ValueError with the part that cannot be and the cure."""
    cells: set[tuple[int, int]] = set()
    for part in filter(None, (part.strip() for part in text.split("+"))):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(f"painted part {part!r} cannot be read; write for instance 1 (a frame), 4-6 (frames) or 2.3 (a segment)")
        age, last, first_segment, last_segment = (None if group is None else int(group) for group in found.groups())
        ages = range(age or 0, (last or age or 0) + 1)
        low = 0 if first_segment is None else first_segment
        high = segments - 1 if first_segment is None else low if last_segment is None else last_segment
        if not ages or ages[0] < 1 or ages[-1] > OLDEST:
            raise ValueError(f"painted part {part!r} is of an age outside [1, {OLDEST}]; age 1 is the newest past frame")
        if not 0 <= low <= high < segments:
            raise ValueError(f"painted part {part!r} names a segment outside [0, {segments - 1}]; a frame has {segments} of them")
        cells |= {(age, segment) for age in ages for segment in range(low, high + 1)}
    return frozenset(cells)


def spell(cells: Iterable[tuple[int, int]], segments: int) -> str:
    """The shortest text that `parse` turns back into these cells."""
    chosen = frozenset(cells)
    ages = sorted({age for age, _ in chosen})
    whole = [age for age in ages if all((age, segment) in chosen for segment in range(segments))]
    parts = [(low, f"{low}-{high}" if high > low else f"{low}") for low, high in _runs(whole)]
    for age in (age for age in ages if age not in whole):
        for low, high in _runs([segment for segment in range(segments) if (age, segment) in chosen]):
            parts.append((age, f"{age}.{low}-{high}" if high > low else f"{age}.{low}"))
    return "+".join(text for _, text in sorted(parts, key=lambda part: part[0]))


def completed(cells: Iterable[tuple[int, int]], chunk: int) -> Cells:
    """The cells and all they were before: what is to be there at age 7 has to be kept at ages 4 and 1, where a chunk has 3 frames."""
    return frozenset((younger, segment) for age, segment in cells for younger in range(age, 0, -chunk))


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """First and last of every unbroken run of ascending numbers."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
