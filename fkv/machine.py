"""The machine a number was measured on, and a polite way to be interrupted."""

from __future__ import annotations

import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib import metadata
from types import FrameType

import torch

from fkv.engine import ROOT, Engine, cores

PUBLISHED = ("huggingface-hub", "transformers", "diffusers", "ftfy")  # imported for published models only
PACKAGES = ("torch", "gradio", "plotly", "numpy", "safetensors", "pillow", "imageio-ffmpeg", "tqdm", *PUBLISHED)
POLITE = (signal.SIGINT, signal.SIGTERM)


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str | None]:
    """Installed versions; None where a package is not there."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def cpu_model() -> str:
    """The processor in its maker's words, as far as the system tells."""
    try:
        with open("/proc/cpuinfo") as info:
            names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit this code is, "+" behind it where tracked files differ; None outside a checkout."""
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for words in (("rev-parse", "--short=12", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + "+" * bool(changes)


NVIDIA = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu")


def clocks(device: torch.device) -> dict[str, str] | None:
    """What the NVIDIA driver says of a device now: driver, clocks, power limit, temperature; None where it cannot be asked."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    words = ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(NVIDIA)}", "--format=csv,noheader"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(NVIDIA, (part.strip() for part in told.split(","))))


def environment(engine: Engine) -> dict[str, object]:
    """What a reader needs to judge a measurement made now on this engine."""
    return {
        "commit": commit(),
        "python": platform.python_version(),
        **versions(("torch", "numpy")),
        **versions(("triton", "torchao")),
        "cudnn": torch.backends.cudnn.version(),
        "backend": engine.model.backend,
        "clocks": clocks(engine.device),
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name(engine.device) if engine.device.type == "cuda" else "cpu",
        "dtype": str(engine.dtype).removeprefix("torch."),
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


class Interruption:
    """Whether someone has asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The first request is noted, for the work to end at a good place; the second raises KeyboardInterrupt at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Inside, Ctrl-C and SIGTERM only ask; use in the main thread. The handlers before come back afterwards."""
    asked = Interruption()
    before = {number: signal.signal(number, asked) for number in POLITE}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
