"""The fused kernels against the same work in torch: interpreted on a CPU where Triton is installed, and on a GPU where there is one.

Tolerance 1e-5 in float32: both sum in float32, in another order.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from fkv.fast import Slot, ops, prepare
from fkv.fast.fusing import AGREEMENT, fused
from fkv.fast.model import FastWan
from fkv.spec import WanConfig
from fkv.stream import Stream, seeded_noise
from tests.tiny import tiny_model, tiny_policy, tiny_spec, tiny_stream, tiny_text

TRITON = pytest.mark.skipif(find_spec("triton") is None, reason="Triton, which also interprets its kernels on a CPU, is not installed")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
INTERPRETED = """
import torch
from fkv.fast import kernels
from fkv.fast.fusing import difference
from fkv.spec import WanConfig
from tests.test_fast import fast_stream, tiny_spec
odd = WanConfig(dim=30, heads=3, layers=1, ffn=8, freq_dim=4, text_dim=4, text_len=2, channels=4)
print(difference(kernels, odd, torch.float32, torch.device("cpu"), 4))
spec = tiny_spec(layers=2, rows=2, columns=2, steps=1)
plain, fused = fast_stream(spec, "forcing-kv:segments=2"), fast_stream(spec, "forcing-kv:segments=2")
fused.model.kernels = kernels
for _ in range(4):
    print(float((plain.step().latents - fused.step().latents).abs().max()))
"""


@TRITON
def test_interpreted_kernels_give_what_torch_gives_alone_and_in_a_rollout() -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    apart = [float(line) for line in run.stdout.split()]
    assert len(apart) == 5
    assert max(apart) < 1e-5


def test_where_the_kernels_do_not_run_the_reason_is_said() -> None:
    kernels, reason = fused(WanConfig(dim=24, heads=2), torch.float32, torch.device("cpu"))
    assert kernels is None
    assert reason


@pytest.mark.gpu
@GPU
def test_on_a_gpu_the_kernels_are_used_and_agree_in_both_dtypes() -> None:
    for dtype in AGREEMENT:
        kernels, reason = fused(WanConfig(), dtype, torch.device("cuda"))
        assert kernels is not None, reason


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("text", ["full:9", "window:sink=1,recent=5", "forcing-kv"])
def test_on_a_gpu_a_step_waits_for_nothing_and_draws_what_the_cpu_draws(text: str) -> None:
    spec, device = tiny_spec(head_dim=16), torch.device("cuda")
    model = prepare(tiny_model(spec).to(device), spec)
    policy = tiny_policy(text, spec.geometry)
    fast = Stream(model, spec, tiny_text(spec).to(device), policy, seeded_noise(0, spec, 1, device))
    known = tiny_stream(spec, text)
    for _ in range(6):
        torch.testing.assert_close(fast.step().latents.cpu(), known.step().latents, atol=1e-3, rtol=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            fast.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Counted:
    """The fused kernels as torch does them, each of their calls one launch."""

    def __init__(self) -> None:
        self.launches = 0

    def residual_norm(self, x: Tensor, y: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        self.launches += 1
        with _disable_current_modes():
            return ops.residual_norm(x, y, gate, weight, bias, eps)

    def normed(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        self.launches += 1
        with _disable_current_modes():
            return ops.normed(x, weight, eps)

    def stored(self, qkv: Tensor, weight: Tensor, eps: float, turn: Tensor, slots: Sequence[Slot], place: Tensor) -> list[Tensor]:
        self.launches += 1
        with _disable_current_modes():
            whole = ops.turned(qkv, weight, eps, turn)
            return [ops.stored(whole, slot) for slot in slots]


class Launches(TorchDispatchMode):
    """Counts operations that a device would be asked for: all but views and empty memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = any(value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns)
        if not view and "empty" not in func._schema.name:
            self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("text", "asked"), [("full:9", 13), ("forcing-kv", 13 + 3)])
def test_a_layer_of_a_noisy_pass_is_thirteen_launches_and_three_more_where_its_heads_are_parted(text: str, asked: int) -> None:
    """Six products, GELU in one of them; three sums with their norms; two norms of queries, one of which also rotates and stores; two calls
    of attention. Parted heads take one call of attention more, and each group's result is put in its place.
    """
    made = list[int]()
    for layers in (3, 4):
        spec = tiny_spec(layers=layers, steps=1, text_len=16)
        spec = replace(spec, net=replace(spec.net, gelu="erf"))
        model = FastWan(tiny_model(spec, dtype=torch.bfloat16))
        model.parts = tuple(replace(layer, up=replace(layer.up, epilogue=True)) for layer in model.parts)
        model.kernels = kernels = Counted()
        stream = Stream(model, spec, tiny_text(spec), tiny_policy(text, spec.geometry), seeded_noise(0, spec, dtype=torch.bfloat16))
        for _ in range(5):
            stream.step()
        stream.commit()
        kernels.launches = 0
        with Launches() as seen:
            stream.step()
        made.append(len(seen.names) + kernels.launches)
    assert made[1] - made[0] == asked
