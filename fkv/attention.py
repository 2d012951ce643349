"""The one home of attention kernels: unmasked softmax attention by torch's own or an installed flash-attn, and the choice among them.

The choice is made by timing, never by a device's name: every kernel that runs is checked against torch's plain one ("math") on some rows of
the real shapes, and the fastest of those that agree is used; "math" itself, which needs memory for every weight, only where no other runs.
A CPU has one kernel worth having, so nothing is timed there and results stay the same from run to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
TORCH_KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
PACKAGES = {"flash-attn-2": "flash_attn", "flash-attn-3": "flash_attn_interface", "flash-attn-4": "flash_attn.cute"}
NAMES = ("auto", "sdpa", *TORCH_KERNELS, *PACKAGES)
AGREEMENT = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 2e-2}
CHECKED_ROWS, TRIAL_SECONDS = 64, 0.02


def scaled_dot(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Unmasked softmax attention with scale 1/sqrt(d): q [b, h, L, d] over k, v [b, h, s, d], giving [b, h, L, d]."""
    return F.scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True)
class Backend:
    """One attention kernel family: does it run on this device and dtype, and if not, in torch's words, why."""

    name: str
    works: bool
    reason: str = ""


def probe_backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 128) -> list[Backend]:
    """Tries every backend on a small unmasked call. The first of the list that works need not be the one torch picks."""
    q = torch.zeros(1, 1, 16, head_dim, device=device, dtype=dtype)
    found = []
    for name, backend in SDPBackend.__members__.items():
        if backend in (SDPBackend.ERROR, SDPBackend.OVERRIDEABLE):
            continue
        try:
            with sdpa_kernel(backend):
                scaled_dot(q, q, q)
            found.append(Backend(name.lower(), True))
        except RuntimeError as error:
            found.append(Backend(name.lower(), False, str(error).splitlines()[0]))
    return found


def kernel(name: str) -> Kernel:
    """The kernel of a name. Raises ValueError on an unknown name, and whatever importing its package raises."""
    if name == "sdpa":
        return scaled_dot
    if name in TORCH_KERNELS:
        return _of_torch(TORCH_KERNELS[name])
    if name in PACKAGES:
        return _of_package(getattr(import_module(PACKAGES[name]), "flash_attn_func"))  # noqa: B009 (the packages carry no types)
    raise ValueError(f"attention {name!r} is unknown; use one of: {', '.join(NAMES)}")


def absence(name: str) -> str:
    """Why the kernel of a name cannot be had here, in the words of its package; empty where its function can be imported."""
    try:
        kernel(name)
    except Exception as problem:
        return _reason(problem)
    return ""


def _reason(problem: Exception) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0]


def _of_torch(backend: SDPBackend) -> Kernel:
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v)

    return call


def _of_package(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Kernel:
    """flash-attn packages want [b, s, h, d], and some give their statistics too."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = function(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return call


@dataclass(frozen=True)
class Trial:
    """One kernel on one family of shapes: milliseconds a call (None where it did not run or disagreed, with the reason)."""

    name: str
    ms: float | None
    error: float | None = None
    reason: str = ""


def disagreement(candidate: Kernel, q: Tensor, k: Tensor, v: Tensor) -> float:
    """Largest difference from the math kernel on evenly spread rows of queries, over the largest value there."""
    rows = torch.linspace(0, q.shape[2] - 1, min(CHECKED_ROWS, q.shape[2])).long().to(q.device)
    wanted = kernel("math")(q[:, :, rows].float(), k.float(), v.float())
    return float((candidate(q, k, v)[:, :, rows].float() - wanted).abs().max() / wanted.abs().max())


def timed(candidate: Kernel, q: Tensor, k: Tensor, v: Tensor, seconds: float = TRIAL_SECONDS) -> float:
    """Milliseconds of the fastest of a few calls, as many as fit into `seconds` and at least three."""
    best, began = float("inf"), time.perf_counter()
    for done in range(1000):
        start = time.perf_counter()
        candidate(q, k, v)
        if q.device.type == "cuda":
            torch.cuda.synchronize(q.device)
        best = min(best, time.perf_counter() - start)
        if done >= 2 and time.perf_counter() - began > seconds:
            break
    return 1000 * best


def tried(name: str, q: Tensor, k: Tensor, v: Tensor, clock: Callable[[Kernel, Tensor, Tensor, Tensor], float] = timed) -> Trial:
    """Checks and times one kernel; whatever keeps it from running is its reason, for an installed package may raise anything. That no
    memory is left says nothing of a kernel, and is passed on.
    """
    try:
        candidate = kernel(name)
        error = disagreement(candidate, q, k, v)
        if not error <= AGREEMENT.get(q.dtype, 1e-3):
            return Trial(name, None, error, f"differs from math by {error:.1e}")
        return Trial(name, clock(candidate, q, k, v), error)
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        return Trial(name, None, None, _reason(problem))


Family = tuple[str, torch.dtype, int, int, int, int]


@dataclass
class Attention:
    """Attention by the fastest kernel for each family of shapes, or always by the one called `name`.

    A family is a device, dtype, head count, query length, head size and power of two of keys. It is tried when it is first met, so meet
    every phase once before timing or recording. Owned by a model; `trials` says what was tried.
    """

    name: str = "auto"
    clock: Callable[[Kernel, Tensor, Tensor, Tensor], float] = timed
    chosen: dict[Family, tuple[str, Kernel]] = field(default_factory=dict)
    trials: dict[Family, list[Trial]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"attention {self.name!r} is unknown; use one of: {', '.join(NAMES)}")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        family = (str(q.device), q.dtype, q.shape[1], q.shape[2], q.shape[3], k.shape[2].bit_length())
        if family not in self.chosen:
            self.chosen[family] = self.choose(family, q, k, v)
        return self.chosen[family][1](q, k, v)

    def choose(self, family: Family, q: Tensor, k: Tensor, v: Tensor) -> tuple[str, Kernel]:
        """The kernel for these shapes. Raises ValueError where the one asked for does not run here."""
        if self.name == "auto" and q.device.type == "cpu":
            return "sdpa", scaled_dot
        fused = [name for name in (*TORCH_KERNELS, *PACKAGES) if name != "math"]
        for names in (fused, ["math"]) if self.name == "auto" else ([self.name],):
            self.trials[family] = [*self.trials.get(family, ()), *(tried(name, q, k, v, self.clock) for name in names)]
            ran = [trial for trial in self.trials[family] if trial.ms is not None]
            if ran:
                break
        else:
            reasons = "; ".join(f"{trial.name}: {trial.reason}" for trial in self.trials[family])
            raise ValueError(f"no attention kernel runs on {q.device} in {q.dtype} ({reasons}); use --attention auto or sdpa")
        best = min(ran, key=lambda trial: trial.ms or 0.0)
        return best.name, kernel(best.name)

    @property
    def label(self) -> str:
        """What runs, for a page: every kernel in use, the one of the longest keys first."""
        used = [name for _, (name, _) in sorted(self.chosen.items(), key=lambda item: -item[0][-1])]
        names = list(dict.fromkeys(used)) or [self.name]
        return " + ".join("torch SDPA" if name == "sdpa" else name for name in names)
