"""Published checkpoints into a `CausalWan`: opened without running code, unwrapped, renamed, merged with their adapter, checked key by key.

One tensor is in flight at a time: files are mapped, not read, and each tensor goes straight into the model's precision on the model's
device. Sources of the layouts: the loaders of Self Forcing, LongLive, Causal Forcing, Rolling Forcing and Krea Realtime.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fkv import hub
from fkv.spec import Adapter, ModelSpec

ENTRIES = ("generator_ema", "generator", "model")
WRAPPERS = ("_fsdp_wrapped_module.",)
PREFIX = "model."
ZIP = b"PK\x03\x04"  # how the newer pickles begin
PEFT = "base_model.model."
SIDES = (".lora_A.weight", ".lora_B.weight")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Files:
    """A checkpoint on this machine."""

    base: Path
    adapter: Path | None = None


def names(spec: ModelSpec) -> list[str]:
    """The files of a row's repository."""
    return [spec.file, *([spec.adapter.file] if spec.adapter else [])]


def fetch_command(spec: ModelSpec) -> str:
    return f"run `python -m fkv fetch --model {spec.name}`"


def missing(spec: ModelSpec) -> list[str]:
    """The files of a row that are not in the Hub's cache."""
    return [file for file in names(spec) if hub.local(spec.repo, file) is None]


def here(spec: ModelSpec) -> Files:
    """A row's files in the Hub's cache. Raises FileNotFoundError naming what is missing and the command that fetches it."""
    if absent := missing(spec):
        known = spec.size_bytes if absent[0] == spec.file else spec.adapter.size_bytes if spec.adapter else 0
        size = f" ({hub.gigabytes(known)})" if known else ""
        what = f"{absent[0]} of {spec.repo}{size} is not on this machine"
        raise FileNotFoundError(f"{spec.title} cannot be loaded: {what}; {fetch_command(spec)}")
    paths = [hub.local(spec.repo, file) for file in names(spec)]
    assert paths[0] is not None
    return Files(paths[0], paths[1] if len(paths) > 1 else None)


def fetch(spec: ModelSpec, report: hub.Report = hub.silent, *, endpoint: str | None = None) -> Files:
    """A row's files, downloaded where they are missing. Raises OSError in a sentence."""
    paths = [hub.fetch(spec.repo, file, report, endpoint=endpoint) for file in names(spec)]
    return Files(paths[0], paths[1] if len(paths) > 1 else None)


def load(model: nn.Module, spec: ModelSpec, files: Files, device: torch.device, dtype: torch.dtype) -> None:
    """Fills a model built on the meta device. Raises ValueError where a file is damaged or holds another model; then nothing was taken,
    unless it is a number that is not finite, which is seen when its tensor is.
    """
    with opened(files.base, spec.entry) as base:
        found = renamed(base, files.base)
        check(shapes(model), shapes_of(found), files.base, spec)
        if files.adapter is None or spec.adapter is None:
            fill(model, found, device, dtype, str(files.base))
            return
        with opened(files.adapter, spec.adapter.entry) as raw:
            pairs = adapted(raw, files.adapter, found, spec.adapter)
            merged = Merged(found, pairs, spec.adapter.alpha / spec.adapter.rank)
            fill(model, merged, device, dtype, f"{files.base} with {files.adapter.name}")


def fill(model: nn.Module, state: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype, source: str) -> None:
    """Gives a model on the meta device its storage and every tensor, one after the other. Raises ValueError, naming the `source`, on a
    tensor with a number that is not finite.
    """
    model.to(dtype).to_empty(device=device)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(state[name])
            if not bool(tensor.sum(dtype=torch.float32).isfinite()):
                raise ValueError(f"{source} is damaged: tensor {name!r} has NaN or infinite numbers; delete it and fetch it again")


class Merged(Mapping[str, Tensor]):
    """A state dict with low-rank additions, added in float32 when a tensor is asked for."""

    def __init__(self, base: Mapping[str, Tensor], pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float):
        self.base, self.pairs, self.scale = base, pairs, scale

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.pairs:
            return self.base[name]
        down, up = (side.float() for side in self.pairs[name])
        return self.base[name].float() + self.scale * (up @ down)

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)


def adapted(raw: Mapping[str, Tensor], path: Path, base: Mapping[str, Tensor], adapter: Adapter) -> dict[str, tuple[Tensor, Tensor]]:
    """(A [rank, in], B [out, rank]) by the name of the weight they change. Raises ValueError on a pair that is not whole or fits no
    weight, and where not all blocks are adapted alike."""
    named = renamed(raw, path)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for key in named:
        side = next((side for side in SIDES if key.endswith(side)), None)
        weight = key.removesuffix(side or "") + ".weight"
        if side is None or weight not in base:
            raise ValueError(f"{path} is no adapter of this model: tensor {key!r} changes no weight of it; check the file's name")
        whole = [named.get(weight.removesuffix(".weight") + each) for each in SIDES]
        down, up = whole
        if down is None or up is None:
            raise ValueError(f"{path} is not complete: {key!r} has no counterpart; fetch it again")
        if (down.shape[0], up.shape[1]) != (adapter.rank,) * 2 or (up.shape[0], down.shape[1]) != tuple(base[weight].shape):
            given = f"{list(up.shape)} x {list(down.shape)}"
            raise ValueError(f"{path} does not fit: {weight!r} is {list(base[weight].shape)} and rank {adapter.rank}, the file has {given}")
        pairs[weight] = (down, up)
    if not pairs:
        raise ValueError(f"{path} holds no adapter: no tensor ends in {' or '.join(SIDES)}; check the file's name")
    alike(pairs, path, base)
    return pairs


def alike(pairs: Mapping[str, Any], path: Path, base: Mapping[str, Tensor]) -> None:
    """Raises ValueError where an adapter changes a layer in one block and leaves it in another."""
    blocks = {tuple(name.split(".")[:2]) for name in base if name.startswith("blocks.")}
    layers = {name.split(".", 2)[2] for name in pairs if name.startswith("blocks.")}
    wanted = {".".join((*block, layer)) for block in blocks for layer in layers}
    if lacking := sorted(wanted - pairs.keys()):
        count = f"{len(wanted) - len(lacking)} of {len(wanted)} layers are adapted"
        raise ValueError(f"{path} is not complete: {count}, the first without is {lacking[0]!r}; fetch it again")


def plain(key: str) -> str:
    """A published tensor name without what training wrapped around it."""
    for wrapper in WRAPPERS:
        key = key.replace(wrapper, "")
    return key.removeprefix(PEFT).removeprefix(PREFIX)


def renamed(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors by their plain names. Raises ValueError on a name that two tensors share, or on numbers that are not floats."""
    keys: dict[str, str] = {}
    for key, tensor in state.items():
        first = keys.setdefault(plain(key), key)
        if first != key:
            raise ValueError(f"{path} holds one tensor twice, as {first!r} and {key!r}; get the published file")
        if tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"{path} has tensor {key!r} in {kind}, expected 16-bit or 32-bit floats; get the published file")
    return {name: state[key] for name, key in keys.items()}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return shapes_of(model.state_dict())


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], path: Path, spec: ModelSpec, cure: str = "") -> None:
    """Raises ValueError naming the first tensor that is missing, not expected, or of another shape, and how many more there are."""
    absent, foreign = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    odd = sorted(name for name in wanted.keys() & found.keys() if tuple(wanted[name]) != tuple(found[name]))
    faults = []
    if absent:
        faults.append(f"tensor {absent[0]!r} is missing, this model has {list(wanted[absent[0]])}{more(absent)}")
    if foreign:
        faults.append(f"tensor {foreign[0]!r} is {list(found[foreign[0]])}, this model has no such tensor{more(foreign)}")
    if odd:
        faults.append(f"tensor {odd[0]!r} is {list(found[odd[0]])}, this model has {list(wanted[odd[0]])}{more(odd)}")
    if faults:
        cure = cure or f"check the file, or {fetch_command(spec)}"
        raise ValueError(f"{path} holds weights of another model than {spec.title}: {'; '.join(faults)}; {cure}")


def more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more like it)" if len(names) > 1 else ""


@contextmanager
def opened(path: Path, entry: Sequence[str] = ()) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of a safetensors file or of a pickle that holds nothing but tensors, mapped into memory while the context lasts.

    Raises FileNotFoundError, or ValueError where the file is damaged, holds other things than tensors, or lacks them at `entry`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".safetensors":
        with _safetensors(path) as state:
            yield state
    else:
        yield unwrapped(_unpickled(path), path, entry)


@contextmanager
def _safetensors(path: Path) -> Iterator[Mapping[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError:
        raise ValueError(hub.damaged(path)) from None
    yield state


def _unpickled(path: Path) -> Any:
    """Whatever a pickle of tensors holds; mapped where the format allows it, read where it is the old one."""
    try:
        with open(path, "rb") as file:
            mapped = file.read(len(ZIP)) == ZIP
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) and "Unsupported operand" not in str(error):
            raise ValueError(f"{path} holds Python objects besides tensors and is not opened; get a file of tensors only") from None
        raise ValueError(hub.damaged(path)) from None
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, struct.error):
        raise ValueError(hub.damaged(path)) from None


def unwrapped(state: Any, path: Path, entry: Sequence[str] = ()) -> Mapping[str, Tensor]:
    """The dict of tensors inside a published file: under the first of `entry`; of the usual names, where `entry` is empty; or the file
    itself. Raises ValueError where only another entry is there: it holds other weights of the same training.
    """
    looked = tuple(dict.fromkeys((*entry, *ENTRIES)))
    there = [name for name in looked if isinstance(state, dict) and isinstance(state.get(name), dict)]
    if entry and there and there[0] not in entry:
        wanted = " or ".join(entry)
        raise ValueError(f"{path} holds {', '.join(there)}, expected {wanted}: other weights of this training; get the published file")
    inner = state[there[0]] if there else state
    if not isinstance(inner, dict) or not inner or not all(isinstance(key, str) and isinstance(inner[key], Tensor) for key in inner):
        holds = ", ".join(map(str, list(state)[:5])) if isinstance(state, dict) else type(state).__name__
        where = ", ".join(looked)
        raise ValueError(f"{path} has no named tensors under any of {where}; it holds: {holds or 'nothing'}; check the file's name")
    return inner
