"""The parts of a model by the names its row gives them: network, codec, text side; what of them is here, what is missing, what fetches it.

Each registry maps a name to a function of an `Opening`; a new codec or text side is one entry.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from fkv import hub, planner, weights
from fkv.codec import Codec, load_pocket, load_taehv, load_wan_vae, pocket_random, taehv, taehv_random, wan_vae
from fkv.spec import ModelSpec
from fkv.text import DrawnText, PocketText, Prompt, Umt5Text, umt5
from fkv.text.store import Bundle, Folder
from fkv.wan import CausalWan

ROOT = Path(__file__).resolve().parents[1]
RESTORE = "restore it from the repository or run `python -m fkv train model`"
BUNDLE = ROOT / "assets" / "prompts" / "umt5.safetensors"


class Text(Protocol):
    """Prompt to embeddings, with examples for a page."""

    @property
    def examples(self) -> tuple[str, ...]: ...

    def encode(self, text: str, seed: int = 0) -> Prompt: ...


@dataclass(frozen=True)
class Opening:
    """How parts are opened: on which device, in which precision, with random weights or real ones, downloading what is missing or not."""

    spec: ModelSpec
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    random: bool = False
    download: bool = False
    report: hub.Report = hub.silent


def store() -> Path:
    """Where files outside the Hub and prompt embeddings are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "fkv"


def network(opening: Opening) -> CausalWan:
    """The network with its weights. Raises ValueError or OSError in a sentence."""
    spec, device, dtype = opening.spec, opening.device, opening.dtype
    affordable(opening)
    if opening.random:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
            torch.manual_seed(0)
            model = CausalWan(spec.net).to(dtype)
    else:
        with torch.device("meta"):
            model = CausalWan(spec.net)
        if spec.repo:
            files = weights.fetch(spec, opening.report) if opening.download else weights.here(spec)
            weights.load(model, spec, files, device, dtype)
        else:
            state, folder = read_weights(ROOT / spec.file), ROOT / spec.file
            weights.check(weights.shapes(model), weights.shapes_of(state), folder, spec, RESTORE)
            weights.fill(model, weights.renamed(state, folder), device, dtype, str(folder))
    return model.eval().requires_grad_(False)


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


def affordable(opening: Opening) -> None:
    """Raises ValueError where the weights alone are more than the device has; a network drawn at random is drawn in float32 first."""
    needed = planner.parameters(opening.spec.net) * (4 if opening.random else opening.dtype.itemsize)
    there = memory(opening.device)
    if there and needed > there:
        size = f"its weights need {hub.gigabytes(needed)} and {opening.device} has {hub.gigabytes(there)}"
        raise ValueError(f"{opening.spec.title} cannot be loaded: {size}; use a smaller model or a larger device")


def memory(device: torch.device) -> int:
    """Bytes a device has in all, a container's limit counted; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    found = []
    for path, scale in (("/sys/fs/cgroup/memory.max", 1), ("/proc/meminfo", 1024)):
        try:
            word = next(word for word in Path(path).read_text().split() if word.isdigit())
        except (OSError, StopIteration):
            continue
        found.append(int(word) * scale)
    return min(found, default=0)


def _pocket_codec(opening: Opening) -> Codec:
    """Always float32: bfloat16 has fewer steps than a byte."""
    return pocket_random().to(opening.device) if opening.random else load_pocket(ROOT / opening.spec.file, opening.device)


def _taehv(opening: Opening) -> Codec:
    dtype = torch.float16 if opening.device.type == "cuda" else torch.float32
    if opening.random:
        return taehv.laid(taehv_random(), opening.device, dtype)
    path = store() / taehv.FILE
    if opening.download:
        hub.fetch_url(taehv.URL, path, opening.report)
    if not path.is_file():
        raise FileNotFoundError(f"the decoder {path} is missing; {weights.fetch_command(opening.spec)}")
    return load_taehv(path, opening.device, dtype)


def _wan_vae(opening: Opening) -> Codec:
    folder = hub.snapshot(wan_vae.REPO, wan_vae.PATTERNS, opening.report, download=opening.download)
    return load_wan_vae(folder / wan_vae.FOLDER, opening.device, opening.dtype)


def _umt5(opening: Opening) -> Text:
    net = opening.spec.net
    if opening.random:
        return DrawnText(net.text_dim, net.text_len)

    def opened() -> umt5.Encoder:
        folder = hub.snapshot(umt5.REPO, umt5.PATTERNS, opening.report, download=opening.download)
        return umt5.open_umt5(folder, opening.device, length=net.text_len)

    return Umt5Text(opened, width=net.text_dim, length=net.text_len, bundle=Bundle.read(BUNDLE), folder=Folder(store() / "prompts"))


CODECS: Mapping[str, Callable[[Opening], Codec]] = {"pocket": _pocket_codec, "taehv": _taehv, "wan-vae": _wan_vae}
TEXTS: Mapping[str, Callable[[Opening], Text]] = {"pocket": lambda opening: PocketText(), "umt5": _umt5}


def called(codec: str) -> str:
    """A codec in a sentence."""
    return {"taehv": "TAEHV", "wan-vae": "the Wan VAE"}.get(codec, codec)


def known(spec: ModelSpec, codec: str = "") -> None:
    """Raises ValueError where a row names a part that is in no registry, or `codec` does not fit its latents."""
    for kind, name, registry in (("codec", codec or spec.codec, CODECS), ("text", spec.text, TEXTS)):
        if name not in registry:
            raise ValueError(f"{kind} {name!r} of model {spec.name!r} is unknown; use one of: {', '.join(registry)}")
    fits = [name for name in (spec.codec, spec.export) if name]
    if codec and codec not in fits:
        raise ValueError(f"decoder {codec!r} does not fit the latents of {spec.title}; use one of: {', '.join(fits)}")


@dataclass(frozen=True)
class Need:
    """Something a model needs: whether it is here, its bytes (0: not known), what to do, and whether nothing runs without it."""

    what: str
    here: bool
    size: int = 0
    cure: str = ""
    vital: bool = True


def needs(spec: ModelSpec) -> list[Need]:
    """Weights, decoders, text encoder and packages of a row. Looks, and fetches nothing."""
    cure = weights.fetch_command(spec) if spec.repo else RESTORE
    if not spec.repo:
        return [Need(spec.file, any((ROOT / spec.file).glob("model*.safetensors")), cure=cure)]
    sizes = {spec.file: spec.size_bytes} | ({spec.adapter.file: spec.adapter.size_bytes} if spec.adapter else {})
    absent = weights.missing(spec)
    found = [Need(f"{file} of {spec.repo}", file not in absent, sizes[file], cure) for file in sizes]
    return [*found, *(need for name in (spec.codec, spec.text, spec.export) if name in LOOKS for need in LOOKS[name](cure))]


def _package(name: str, *, vital: bool = True) -> Need:
    return Need(f"the package {name}", importlib.util.find_spec(name) is not None, cure=f"run `pip install {name}`", vital=vital)


def _folder(repo: str, patterns: tuple[str, ...]) -> bool:
    try:
        return bool(hub.snapshot(repo, patterns, download=False))
    except OSError:
        return False


def _look_taehv(cure: str) -> list[Need]:
    return [Need(f"the decoder {taehv.FILE}", (store() / taehv.FILE).is_file(), taehv.SIZE, cure)]


def _look_wan_vae(cure: str) -> list[Need]:
    here = _folder(wan_vae.REPO, wan_vae.PATTERNS)
    return [Need("the Wan VAE, for export", here, wan_vae.SIZE, cure, vital=False), _package("diffusers", vital=False)]


def _look_umt5(cure: str) -> list[Need]:
    """The encoder is vital where no example prompts are stored: those run without it."""
    vital = not BUNDLE.is_file()
    encoder = Need("the text encoder umT5-XXL", _folder(umt5.REPO, umt5.PATTERNS), umt5.SIZE, f"{cure[:-1]} --text`", vital)
    return [encoder, _package("transformers", vital=vital), _package("ftfy")]


LOOKS: Mapping[str, Callable[[str], list[Need]]] = {"taehv": _look_taehv, "wan-vae": _look_wan_vae, "umt5": _look_umt5}


def lacking(spec: ModelSpec, codec: str) -> str:
    """What of a codec is not on this machine, with the cure, in words; "" where it can be opened. Looks, and fetches nothing."""
    wanted = LOOKS[codec](weights.fetch_command(spec)) if codec in LOOKS else []
    return next((f"this machine lacks {need.what}; {need.cure}" for need in wanted if not need.here), "")


def fetch(spec: ModelSpec, report: hub.Report = hub.silent, *, text: bool = False) -> None:
    """Downloads what is missing of a row; the text encoder only with `text`, because it is larger than all the rest. Raises OSError."""
    if not spec.repo:
        raise ValueError(f"{spec.title} comes with the repository; there is nothing to fetch")
    weights.fetch(spec, report)
    patterns = {"wan-vae": (wan_vae.REPO, wan_vae.PATTERNS), "umt5": (umt5.REPO, umt5.PATTERNS)}
    if "taehv" in (spec.codec, spec.export):
        hub.fetch_url(taehv.URL, store() / taehv.FILE, report)
    for name in (spec.codec, spec.export, spec.text if text else ""):
        if name in patterns:
            repo, wanted = patterns[name]
            hub.snapshot(repo, wanted, report)


def embed(spec: ModelSpec, prompts: tuple[str, ...], path: Path, report: Callable[[str], None] = lambda prompt: None) -> None:
    """Writes the embeddings of example prompts, so that they need no encoder afterwards. Raises ValueError where there is none now."""
    opened = TEXTS[spec.text](Opening(spec))
    if not isinstance(opened, Umt5Text):
        raise ValueError(f"{spec.title} reads prompts without an encoder; there is nothing to store")
    rows = {}
    for prompt in prompts:
        rows[prompt] = opened.rows(prompt)
        report(prompt)
    Bundle(prompts, {umt5.address(opened.name, umt5.clean(prompt)): found for prompt, found in rows.items()}).write(path)
