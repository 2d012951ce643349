"""`python -m fkv doctor`: what is installed, what the machine offers, and what will run."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
from collections.abc import Iterator

import torch

from fkv import engine, machine
from fkv.attention import probe_backends
from fkv.spec import MODELS, ModelSpec

NEEDED = ("torch", "gradio", "plotly", "numpy", "safetensors", "pillow", "imageio-ffmpeg")


def examine() -> Iterator[tuple[bool, str, str]]:
    """(in order, what, finding) of everything looked at, one at a time; ends with what will run."""
    python = platform.python_version_tuple()
    yield (3, 10) <= (int(python[0]), int(python[1])) < (3, 14), "python", f"{platform.python_version()} (3.10 to 3.13 are supported)"
    for package, version in machine.versions().items():
        yield version is not None or package not in NEEDED, package, version or "not installed; run `pip install -r requirements.txt`"
    yield True, "commit", machine.commit() or "not a git checkout"
    yield True, "cpu", f"{machine.cpu_model()}, {engine.cores()} cores usable, torch uses {torch.get_num_threads()} threads"
    yield from devices()
    yield ffmpeg()
    broken: list[str] = []
    for spec in MODELS:
        for order, what, finding in weights(spec):
            broken += [] if order else [spec.name]
            yield order, what, finding
    working = [spec.name for spec in MODELS if spec.name not in broken]
    device = engine.pick_device()
    text = f"{', '.join(working)} on {device}: `python app.py`, `python -m fkv generate`, `python -m fkv bench`" if working else "nothing"
    yield bool(working), "will run", text


def devices() -> Iterator[tuple[bool, str, str]]:
    """CUDA, and the attention kernels of the device that will be used."""
    count = torch.cuda.device_count()
    names = ", ".join(
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)" for i in range(count)
    )
    yield True, "cuda", names or "no CUDA device; the pocket model runs on the CPU"
    device = engine.pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = probe_backends(device, dtype, MODELS[0].net.head_dim)
    works = [backend.name for backend in found if backend.works]
    yield bool(works), "attention", f"scaled_dot_product_attention on {device}: {', '.join(works) or 'no backend works'}"
    present = importlib.util.find_spec("flash_attn") is not None
    yield True, "flash-attn", "installed" if present else "not installed (optional; torch's own kernels are used)"


def ffmpeg() -> tuple[bool, str, str]:
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        first = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return False, "ffmpeg", f"does not run ({error}); reinstall imageio-ffmpeg"
    return True, "ffmpeg", first


def weights(spec: ModelSpec) -> Iterator[tuple[bool, str, str]]:
    """Whether a model loads, and its head profile."""
    try:
        loaded = engine.load(spec)
    except (ValueError, OSError) as error:
        yield False, spec.name, str(error)
        return
    net = spec.net
    yield True, spec.name, f"{loaded.parameters / 1e6:.1f}M parameters, {net.layers} layers of {net.heads} heads, weights valid"
    profile = loaded.profile
    if profile is None:
        yield True, f"{spec.name} heads", "no head profile; forcing-kv needs one: run `python -m fkv profile`"
    else:
        yield True, f"{spec.name} heads", f"{100 * profile.share:.0f} % static by rule: {profile.rule}"


def report() -> int:
    """Prints every finding as it is made; 0 if something will run."""
    order = True
    for order, what, finding in examine():
        print(f"{'ok  ' if order else 'FAIL'} {what:<16} {finding}", flush=True)
    return 0 if order else 1
