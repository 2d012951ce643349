"""`load(spec) -> Engine`: a model with its codec, text side, head profile and device, and the one lock that shares the device among
sessions.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from fkv import advice, hub, parts, planner
from fkv.cache import Roles
from fkv.codec import Codec
from fkv.events import ModelFacts, ProfileFacts
from fkv.fast import FastWan, prepare
from fkv.fast.fp8 import by_torchao, refusal
from fkv.heads import HeadProfile
from fkv.parts import CODECS, ROOT, TEXTS, Text
from fkv.policies import parse
from fkv.spec import MODELS, ModelSpec, find

PUBLISHED_THRESHOLD = 0.8


class Turns:
    """A lock that is taken in the order of asking, so that sessions alternate and none waits for ever."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.waiting: deque[object] = deque()

    def __enter__(self) -> Turns:
        ticket = object()
        with self.changed:
            self.waiting.append(ticket)
            try:
                self.changed.wait_for(lambda: self.waiting[0] is ticket)
            except BaseException:
                self.waiting.remove(ticket)
                self.changed.notify_all()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.waiting.popleft()
            self.changed.notify_all()


@dataclass(frozen=True)
class Engine:
    """Everything sessions share; nothing in it changes while they run. Hold `lock` while the device works. `decoder` is the codec's name,
    empty for the row's own; `untrained` says that no weights were read.
    """

    spec: ModelSpec
    model: FastWan
    codec: Codec
    text: Text
    profile: HeadProfile | None
    device: torch.device
    dtype: torch.dtype
    lock: Turns = field(default_factory=Turns)
    decoder: str = ""
    untrained: bool = False

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def cores() -> int:
    """CPU cores this process may use: its affinity, cut to the container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, round(int(quota) / int(period))))


def usual_threads() -> int:
    """CPU threads a model takes unless told otherwise: as many as OMP_NUM_THREADS says, else all cores but one, and at least one. With the
    last core as well every product waits for whatever else the machine does, a browser for instance, and lanes slow down alike.
    """
    return min(torch.get_num_threads(), cores()) if "OMP_NUM_THREADS" in os.environ else max(1, cores() - 1)


def affordable(threads: int) -> int:
    """A number of threads as it is. Raises ValueError where it is more than the cores there are: far more end a process without a word."""
    if threads > cores():
        raise ValueError(f"--threads {threads} is above the {cores()} cores this process may use; use 1 to {cores()}, or leave it out")
    return threads


def pick_device(name: str = "auto") -> torch.device:
    """`auto` is the first CUDA device, else the CPU. Raises ValueError on a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} is not supported; use auto, cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: torch sees {torch.cuda.device_count()} CUDA devices; use auto or cpu")
    return device


def _profile(spec: ModelSpec) -> HeadProfile | None:
    """The bundled head profile, None if there is no file. Raises ValueError if it belongs to another model."""
    path = ROOT / spec.heads if spec.heads else None
    if path is None or not path.is_file():
        return None
    return HeadProfile.from_json(path.read_text(), spec.geometry)


def load(
    spec: ModelSpec | str,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    *,
    random_weights: bool = False,
    threads: int = 0,
    size: planner.Size | None = None,
    codec: str = "",
    download: bool = False,
    attention: str = "auto",
    graphs: bool = False,
    fp8: bool = False,
    heads: HeadProfile | None = None,
    report: hub.Report = hub.silent,
    lock: Turns | None = None,
) -> Engine:
    """A model ready to run: float32 on a CPU, bfloat16 on CUDA unless `dtype` says otherwise.

    `threads` limits CPU threads of the whole process (0: `usual_threads`). `random_weights` reads no weights and is
    the same each time. `size` is (rows, columns) in pixels, `codec` another decoder than the row's. What is not on this machine is fetched
    only with `download`, and `report` is told how far. `attention` names a kernel (auto: the fastest that agrees); `graphs` replays
    passes as CUDA graphs; `fp8` takes the large products in 8-bit floats and measures what that changes. `heads` takes the place of the
    bundled head profile. Models on one device share a `lock`: loading one waits its turn between the chunks of another. Raises ValueError
    or OSError in one sentence with the cure.
    """
    spec = find(spec) if isinstance(spec, str) else spec
    spec = planner.resized(spec, size) if size else spec
    parts.known(spec, codec)
    place = pick_device(device)
    dtype = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    if fp8 and (why := refusal(place, dtype)):
        raise ValueError(why)
    torch.set_num_threads(affordable(threads) or usual_threads())
    opening = parts.Opening(spec, place, dtype, random_weights, download, report)
    if download and spec.repo and not random_weights:
        parts.fetch(spec, report)
    lock = lock or Turns()
    with lock:
        model = prepare(parts.network(opening), spec, attention, graphs=graphs, quantise=by_torchao if fp8 else None)
        made = CODECS[codec or spec.codec](opening)
    return Engine(
        spec, model, made, TEXTS[spec.text](opening), heads or _profile(spec), place, dtype, lock, codec or spec.codec, random_weights
    )


def resized(engine: Engine, size: planner.Size) -> Engine:
    """The same model at another size, (rows, columns) in pixels: its weights, codec, text, profile and lock are those of `engine`. On CUDA
    the attention kernel is chosen now, on the shapes of the new size, if there is memory for that. Raises ValueError naming the nearest
    size where it cannot be.
    """
    spec = planner.resized(engine.spec, size)
    if engine.device.type == "cuda":
        geometry = spec.geometry
        with engine.lock, suppress(torch.OutOfMemoryError):
            engine.model.meet(geometry.chunk * geometry.tokens, max(spec.window, geometry.chunk) * geometry.tokens)
    return replace(engine, spec=spec)


@dataclass(frozen=True)
class Row:
    """A model for a list to choose from; `reason` says in a sentence why it cannot be loaded now, empty where it can."""

    spec: ModelSpec
    reason: str = ""


def available(device: str = "auto") -> list[Row]:
    """Every model, with what keeps it from being loaded on a device. Looks at files and sizes only."""
    place = pick_device(device)
    return [Row(spec, obstacle(spec, place)) for spec in MODELS]


def obstacle(spec: ModelSpec, device: torch.device) -> str:
    """Why a model cannot be loaded now, in a sentence; empty where it can."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        parts.known(spec)
        parts.affordable(parts.Opening(spec, device, dtype))
    except ValueError as error:
        return str(error)
    vital = [need for need in parts.needs(spec) if not need.here and need.vital]
    return f"{spec.title} cannot be loaded: {vital[0].what} is not on this machine; {vital[0].cure}" if vital else ""


def wanted(engine: Engine, lanes: Sequence[str], chunks: int = 0) -> planner.Wanted:
    """A run of these lanes' spellings here, as the planner takes it. Raises ValueError on a spelling that is none."""
    kinds = tuple(parse(lane) for lane in lanes)
    on_cuda, quantised = engine.device.type == "cuda", engine.model.quantise is not None
    return planner.Wanted(engine.spec, kinds, chunks, engine.dtype.itemsize, engine.decoder, on_cuda, quantised)


def check(engine: Engine, lanes: Sequence[str], chunks: int = 0, *, roles: Roles | None = None, fewer: bool = False) -> None:
    """Raises ValueError where these lanes' spellings may not fit here, with the nearest run that does, with `fewer` also of one lane;
    `advice.Impossible` where they cannot be. `roles` take the place of the profile's.
    """
    there = parts.memory(engine.device) or 1 << 62
    roles = roles or (engine.profile.roles() if engine.profile else None)
    advice.check(wanted(engine, lanes, chunks), there, roles, fewer=fewer)


def relief(engine: Engine, lanes: Sequence[str]) -> str:
    """A sentence of advice after a run with these lanes' spellings found no memory left."""
    roles = engine.profile.roles() if engine.profile else None
    there = parts.memory(engine.device) or 1 << 62
    return advice.relief(wanted(engine, lanes), there, roles)


def model_facts(engine: Engine) -> ModelFacts:
    """The model and its device, for a page."""
    spec, geometry = engine.spec, engine.spec.geometry
    name = torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else engine.device.type
    return ModelFacts(
        name=spec.name,
        title=spec.title,
        parameters=engine.parameters,
        layers=geometry.layers,
        heads=geometry.heads,
        rows=geometry.rows,
        columns=geometry.columns,
        chunk=spec.chunk,
        pixel_frames=spec.pixel_frames,
        first_frames=spec.first_frames,
        fps=spec.fps,
        size=spec.pixels,
        window=spec.window,
        sink=spec.sink,
        steps=len(spec.schedule.steps),
        device=name,
        dtype=str(engine.dtype).removeprefix("torch."),
        backend=engine.model.backend,
        threads=torch.get_num_threads(),
        frame_bytes=2 * geometry.tokens * geometry.head_dim * engine.dtype.itemsize,
        fp8_error=engine.model.fp8_error,
    )


def profile_facts(engine: Engine, brought: HeadProfile | None = None) -> ProfileFacts | None:
    """The head profile for a page, one a person brought or the model's own; None without one. Scores are nan where it has classes only."""
    profile = brought or engine.profile
    if profile is None:
        return None
    blank, unknown = (tuple((value,) * profile.heads for _ in range(profile.layers)) for value in (0.0, float("nan")))
    threshold = PUBLISHED_THRESHOLD if profile.threshold is None else profile.threshold
    built = profile.recipe.get("built_in")
    note = f"Trained in, not discovered: {built['what']}." if isinstance(built, dict) and "what" in built else ""
    name = "" if brought is None else str(brought.recipe.get("file", brought.model))
    return ProfileFacts(profile.scores or unknown, profile.errors or blank, threshold, profile.rule, profile.static, note, name)
