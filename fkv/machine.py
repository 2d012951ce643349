"""The machine a number was measured on, and a polite way to be interrupted."""

from __future__ import annotations

import platform
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import date
from importlib import metadata
from types import FrameType
from typing import IO, Any

import torch

from fkv.engine import ROOT, Engine, cores
from fkv.meter import spread

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
LOAD = ("clocks.sm", "power.draw", "temperature.gpu")


def nvidia_smi(device: torch.device, fields: tuple[str, ...], *more: str) -> list[str]:
    """The command that asks the NVIDIA driver about a device, values separated by commas. Devices are numbered otherwise there where some
    are hidden, so it is asked by its own name where torch knows that.
    """
    index = device.index or 0
    with suppress(AssertionError, RuntimeError, AttributeError):
        index = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    return ["nvidia-smi", f"--id={index}", f"--query-gpu={','.join(fields)}", *more]


def clocks(device: torch.device) -> dict[str, str] | None:
    """What the NVIDIA driver says of a device now: driver, clocks, power limit, temperature; None where it cannot be asked."""
    if device.type != "cuda":
        return None
    words = nvidia_smi(device, NVIDIA, "--format=csv,noheader")
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(NVIDIA, (part.strip() for part in told.split(","))))


class Load:
    """While it is open, the NVIDIA driver is asked each second how a CUDA device fares; `told` then has the spread of its SM clock (MHz),
    power (W) and temperature (degrees Celsius). None before, on another device, and where the driver cannot be asked.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.told: dict[str, Any] | None = None
        self._asking: subprocess.Popen[bytes] | None = None
        self._answers: IO[str] | None = None

    def __enter__(self) -> Load:
        if self.device.type == "cuda":
            words = nvidia_smi(self.device, LOAD, "--format=csv,noheader,nounits", "--loop-ms=1000")
            with suppress(OSError):
                self._answers = tempfile.TemporaryFile("w+")
                self._asking = subprocess.Popen(words, stdout=self._answers, stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._asking.wait(10)
        if self._answers is not None:
            self._answers.seek(0)
            self.told = fared(self._answers.read())
            self._answers.close()


def fared(text: str) -> dict[str, Any] | None:
    """The spread of each value of `LOAD` over lines of them; None where no line has them all."""
    rows = []
    for line in text.splitlines():
        with suppress(ValueError):
            rows.append([float(part) for part in line.split(",")])
    columns = list(zip(*(row for row in rows if len(row) == len(LOAD))))
    return {name: asdict(spread(values)) for name, values in zip(LOAD, columns)} if columns else None


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
