"""`load(spec) -> Engine`: a model with its codec, text side, head profile and device, and the one lock that shares the device among
sessions.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fkv.codec import Codec, load_pocket, pocket_random
from fkv.events import ModelFacts, ProfileFacts
from fkv.heads import HeadProfile
from fkv.spec import ModelSpec, find
from fkv.text import PocketText, Prompt
from fkv.wan import CausalWan

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED_THRESHOLD = 0.8
RESTORE = "restore it from the repository or run `python -m fkv train model`"


class Text(Protocol):
    """Prompt to embeddings, with examples for a page."""

    @property
    def examples(self) -> tuple[str, ...]: ...

    def encode(self, text: str, seed: int = 0) -> Prompt: ...


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
    """Everything sessions share; nothing in it changes while they run. Hold `lock` while the device works."""

    spec: ModelSpec
    model: CausalWan
    codec: Codec
    text: Text
    profile: HeadProfile | None
    device: torch.device
    dtype: torch.dtype
    lock: Turns = field(default_factory=Turns)

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


def read_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of `model-*.safetensors` shards. Raises FileNotFoundError or ValueError with the file and
    the cure.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    paths = sorted(directory.glob("model*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{directory / 'model.safetensors'} is missing; {RESTORE}")
    state: dict[str, Tensor] = {}
    for path in paths:
        try:
            state.update(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a complete safetensors file ({error}); {RESTORE}") from None
    return state


def fit(model: CausalWan, state: Mapping[str, Tensor], source: Path) -> None:
    """Loads `state` into `model`, every tensor and no other. Raises ValueError naming the first tensor that does not fit."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            have = f"{list(found[name])}" if name in found else "missing"
            want = f"{list(wanted[name])}" if name in wanted else "no such tensor"
            raise ValueError(f"{source} holds weights of another model: tensor {name!r} is {have}, this model has {want}; {RESTORE}")
    model.load_state_dict({name: tensor.to(model.dtype) for name, tensor in state.items()})


def _pocket_codec(directory: Path | None, device: torch.device) -> Codec:
    """Always float32: bfloat16 has fewer steps than a byte."""
    return pocket_random().to(device) if directory is None else load_pocket(directory, device)


CODECS: Mapping[str, Callable[[Path | None, torch.device], Codec]] = {"pocket": _pocket_codec}
TEXTS: Mapping[str, Callable[[], Text]] = {"pocket": PocketText}


def _profile(spec: ModelSpec) -> HeadProfile | None:
    """The bundled head profile, None if there is no file. Raises ValueError if it belongs to another model."""
    path = ROOT / spec.heads if spec.heads else None
    if path is None or not path.is_file():
        return None
    return HeadProfile.from_json(path.read_text(), spec.geometry)


def load(
    spec: ModelSpec | str, device: str = "auto", dtype: torch.dtype | None = None, *, random_weights: bool = False, threads: int = 0
) -> Engine:
    """A model ready to run: float32 on a CPU, bfloat16 on CUDA unless `dtype` says otherwise.

    `threads` limits CPU threads of the whole process (0: what torch and the container allow). `random_weights` reads no weights and is
    the same each time. Raises ValueError or FileNotFoundError in one sentence with the cure.
    """
    spec = find(spec) if isinstance(spec, str) else spec
    place = pick_device(device)
    dtype = dtype or (torch.bfloat16 if place.type == "cuda" else torch.float32)
    for kind, name, registry in (("codec", spec.codec, CODECS), ("text", spec.text, TEXTS)):
        if name not in registry:
            raise ValueError(f"{kind} {name!r} of model {spec.name!r} is unknown; use one of: {', '.join(registry)}")
    torch.set_num_threads(threads or min(torch.get_num_threads(), cores()))
    directory = None if random_weights else ROOT / spec.file
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CausalWan(spec.net)
    if directory is not None:
        fit(model, read_weights(directory), directory)
    model = model.to(place, dtype).eval().requires_grad_(False)
    return Engine(spec, model, CODECS[spec.codec](directory, place), TEXTS[spec.text](), _profile(spec), place, dtype)


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
        backend="SDPA",
        threads=torch.get_num_threads(),
    )


def profile_facts(engine: Engine) -> ProfileFacts | None:
    """The head profile for a page; None without one that has scores."""
    profile = engine.profile
    if profile is None or profile.scores is None:
        return None
    blank = tuple((0.0,) * profile.heads for _ in range(profile.layers))
    threshold = PUBLISHED_THRESHOLD if profile.threshold is None else profile.threshold
    built = profile.recipe.get("built_in", {})
    note = f"Trained in, not discovered: {built['what']}." if built else ""
    return ProfileFacts(profile.scores, profile.errors or blank, threshold, profile.rule, profile.static, note)
