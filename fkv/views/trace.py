"""A run as the lesson and the analysis read it: what was measured, where, and by which recipe.

`fkv record` writes one into a file (`to_json`), the page reads it back (`read`). Frames are latent frames, chunks count from 0, shares are
in [0, 1]; a part that was not measured is None or empty.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fkv.findings import Roles

FORMAT = "fkv-lesson-1"
DIGITS = 5


@dataclass(frozen=True)
class Source:
    """Where the numbers come from. `recipe` says how they were measured, in words by name. A profile is the loaded model's own. `run` tells
    live runs apart."""

    kind: Literal["recorded", "live", "profile"]
    date: str = ""
    commit: str = ""
    machine: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


@dataclass(frozen=True)
class Model:
    """What the texts say of the model. `numbers` is the count of numbers in one key, `width` the bytes of one of them."""

    title: str
    layers: int
    heads: int
    rows: int
    columns: int
    chunk: int
    pixel_frames: int
    window: int
    steps: int
    numbers: int = 0
    width: int = 0


@dataclass(frozen=True)
class Made:
    """One chunk of one lane: pixel frames, milliseconds end to end, bytes stored, frames looked back on; `counts` for a median."""

    chunk: int
    frames: int
    ms: float
    stored: int
    past: int
    counts: bool


@dataclass(frozen=True)
class LaneTrace:
    """A lane's chunks, and a picture of each as a data URI (none for a live run)."""

    policy: str
    label: str
    made: tuple[Made, ...]
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Look:
    """What all heads look at in one chunk of lane A, seeing everything: share [layers, heads, frames], bands [layers, heads, frames,
    segments] (mean over `queries`). `errors` [layers, heads] are as `error_is` says, nan where unknown.
    """

    chunk: int
    frames: tuple[int, ...]
    share: np.ndarray
    bands: np.ndarray
    errors: np.ndarray
    error_is: str
    queries: str
    halflife: float = 0.0
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Atlas:
    """One head's attention from every token of the newest frame: share [tokens, frames]; `maps` are bytes in base64, [tokens, frames,
    tokens], 255 the square root of the largest weight of that token, empty where each token is asked for by itself. `mean` [frames, tokens]
    is the mean of the maps where it was measured.
    """

    layer: int
    head: int
    share: np.ndarray
    maps: str
    mean: np.ndarray | None = None


@dataclass(frozen=True)
class Close:
    """One chunk of lane A through a few heads, all of it exact: from every token of the newest frame (`atlases`), and over all queries of
    the chunk (`whole` [heads, frames]). `pictures` are data URIs of the frames."""

    chunk: int
    frames: tuple[int, ...]
    pictures: tuple[str, ...]
    atlases: tuple[Atlas, ...]
    whole: np.ndarray


@dataclass(frozen=True)
class Stability:
    """Head scores [prompts, layers, heads] (mean over steps) and [steps, layers, heads] (mean over prompts)."""

    prompts: tuple[str, ...]
    samples: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class Holding:
    """What some heads of a layer hold of the past: (frame, occupancy per segment)."""

    layer: int
    name: str
    heads: tuple[int, ...]
    frames: tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Trial:
    """Lane B under some roles, over prompts: PSNR against A in dB and objects kept in [0, 1], nan where not to be told. `holds` is the
    cache beside the chunk of `Look`."""

    name: str
    static: Roles
    psnr: tuple[float, ...]
    kept: tuple[float, ...]
    stored: int
    picture: str
    holds: tuple[Holding, ...] = ()


@dataclass(frozen=True)
class Classes:
    """The classes in force and the rule they came from; `scores` and `errors` [layers, heads] where the profile has them."""

    static: Roles
    rule: str
    threshold: float | None = None
    scores: np.ndarray | None = None
    errors: np.ndarray | None = None


@dataclass(frozen=True)
class Trace:
    """Everything at hand of one run. `held` is the chunk that a live run was asked to hold still; a recorded one has `look` and
    `atlases`."""

    source: Source
    model: Model
    prompt: str
    lanes: Mapping[str, LaneTrace]
    classes: Classes | None = None
    psnr: tuple[float, ...] = ()
    look: Look | None = None
    atlases: tuple[Atlas, ...] = ()
    stability: Stability | None = None
    trials: tuple[Trial, ...] = ()
    residency: Mapping[str, Any] | None = None
    held: Close | None = None

    @property
    def close(self) -> Close | None:
        """The chunk in which single tokens can be looked at, through two heads or more; None where there is none."""
        look = self.look
        if self.held is not None or look is None or not look.pictures or len(self.atlases) < 2:
            return self.held
        whole = np.stack([look.share[atlas.layer, atlas.head] for atlas in self.atlases])
        return Close(look.chunk, look.frames, look.pictures, self.atlases, whole)


def to_json(trace: Trace) -> str:
    """The file `read` reads; arrays rounded, nan as null."""
    return json.dumps({"format": FORMAT, **_plain(replace(trace, held=None))}, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in vars(value).items()}
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, DIGITS) if np.isfinite(value) else None
    return value


def read(path: Path) -> Trace | None:
    """The trace of a file (.json or .json.gz); None where there is none. Raises ValueError on a file of another kind."""
    if not path.is_file():
        return None
    raw = path.read_bytes()
    try:
        data = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path.name} is no recorded run ({error}); make it again with `python -m fkv record`") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path.name} is not of format {FORMAT}; make it again with `python -m fkv record`")
    return _trace(data)


def _trace(data: Mapping[str, Any]) -> Trace:
    look, stable, classes = data["look"], data["stability"], data["classes"]
    return Trace(
        source=Source(**data["source"]),
        model=Model(**data["model"]),
        prompt=data["prompt"],
        lanes={lane: LaneTrace(**{**one, "made": tuple(Made(**made) for made in one["made"])}) for lane, one in data["lanes"].items()},
        classes=classes and Classes(**{**classes, **_arrays(classes, "scores", "errors"), "static": _roles(classes["static"])}),
        psnr=_numbers(data["psnr"]),
        look=look and Look(**{**look, **_arrays(look, "share", "bands", "errors"), "frames": tuple(look["frames"])}),
        atlases=tuple(Atlas(**{**one, **_arrays(one, "share")}) for one in data["atlases"]),
        stability=stable and Stability(**{**stable, **_arrays(stable, "samples", "steps")}),
        trials=tuple(_trial(one) for one in data["trials"]),
        residency=data["residency"],
    )


def _trial(one: Mapping[str, Any]) -> Trial:
    holds = tuple(Holding(**{**hold, "heads": tuple(hold["heads"]), "frames": _frames(hold["frames"])}) for hold in one["holds"])
    return Trial(**{**one, "static": _roles(one["static"]), "psnr": _numbers(one["psnr"]), "kept": _numbers(one["kept"]), "holds": holds})


def _frames(rows: Iterable[Any]) -> tuple[tuple[int, tuple[float, ...]], ...]:
    return tuple((frame, tuple(occupancy)) for frame, occupancy in rows)


def _roles(rows: Iterable[Iterable[int]]) -> Roles:
    return tuple(tuple(row) for row in rows)


def _numbers(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(float("nan") if value is None else float(value) for value in values)


def _arrays(data: Mapping[str, Any], *names: str) -> dict[str, np.ndarray | None]:
    return {name: None if data[name] is None else np.asarray(data[name], dtype=float) for name in names}


def facts_of(trace: Trace) -> dict[str, Any]:
    """The recipe to put beside every figure and table made of a trace."""
    return {**asdict(trace.source), "model": trace.model.title, "prompt": trace.prompt}
