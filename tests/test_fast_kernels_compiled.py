"""The fused kernels compiled for GPUs that are not here: Triton and its assembler need none. What a launch would pass is taken from the
calls themselves, for every published width.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from fkv.fast import Slot, ops
from fkv.fast.slots import placed
from fkv.spec import KREA, SELF_FORCING, WanConfig

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton, which compiles its kernels without a GPU, is not installed")
CARDS = {"A100": 80, "RTX 4090": 89, "H200": 90, "B200": 100, "RTX Pro 6000": 120}
NETS = {"1.3B": SELF_FORCING.net, "14B": KREA.net}
ROWS = 3


class Launch:
    """Takes the place of a kernel and keeps what it was launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *arguments, **options: self.given.append((arguments, options))

    def compiled(self, card: int) -> Any:
        """The last launch as Triton specialises it: what 16 divides is known to be so divided."""
        import triton
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        arguments, options = self.given[-1]
        signature, constants, known = {}, {}, {}
        for place, (parameter, value) in enumerate(zip(self.kernel.params, arguments, strict=True)):
            kind = _kind(value)
            if parameter.is_constexpr or value is None:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            signature[parameter.name] = kind
            if not isinstance(value, float) and (value.data_ptr() if isinstance(value, torch.Tensor) else value) % 16 == 0:
                known[place,] = [["tt.divisibility", 16]]
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants, attrs=known)
        return triton.compile(source, target=GPUTarget("cuda", card, 32), options=options)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32"}[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def norm(kernels: Any, net: WanConfig) -> None:
    x, y = torch.zeros(2, 1, ROWS, net.dim, dtype=torch.bfloat16)
    gate, weight, bias = torch.zeros(3, net.dim, dtype=torch.bfloat16)
    kernels.residual_norm(x, y, gate, weight, bias, 1e-6)


def norm_before_text(kernels: Any, net: WanConfig) -> None:
    kernels.normed(torch.zeros(1, ROWS, net.dim, dtype=torch.bfloat16), torch.zeros(net.dim, dtype=torch.bfloat16), 1e-6)


def store(kernels: Any, net: WanConfig) -> None:
    parted = (tuple(range(0, net.heads, 2)), tuple(range(1, net.heads, 2)))
    sides = [torch.zeros(2, 1, len(members), 5 + ROWS, net.head_dim, dtype=torch.bfloat16) for members in parted]
    slots = [Slot(both, 5, torch.tensor(members), members) for both, members in zip(sides, parted)]
    qkv = torch.zeros(1, ROWS, 3, net.heads, net.head_dim, dtype=torch.bfloat16)
    turn = torch.complex(*ops.rotation(0, 1, 1, ROWS, net.head_dim, torch.device("cpu")))[:, None, None]
    kernels.stored(qkv, torch.zeros(2, net.dim, dtype=torch.bfloat16), 1e-6, turn, slots, placed(slots, net.heads))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str, Callable[[Any, WanConfig], None], WanConfig, int], Any]:
    """Compiles, for a card, the kernel of a name as a call of it would launch it."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = import_module("fkv.fast.kernels")

    def compiled(name: str, call: Callable[[Any, WanConfig], None], net: WanConfig, card: int) -> Any:
        launch = Launch(getattr(kernels, name))
        with monkeypatch.context() as patch:
            patch.setattr(kernels, name, launch)
            call(kernels, net)
        return launch.compiled(card)

    return compiled


def told(binary: bytes, place: Path, *flags: str) -> str:
    """What NVIDIA's own tool, which Triton brings, says of a compiled kernel."""
    nvidia = find_spec("triton.backends.nvidia")
    assert nvidia is not None
    assert nvidia.origin is not None
    place.write_bytes(binary)
    tool = Path(nvidia.origin).parent / "bin" / "cuobjdump"
    return subprocess.run([str(tool), *flags, str(place)], capture_output=True, text=True, check=True).stdout


def accesses(binary: bytes, place: Path) -> Counter[int]:
    """How many reads and writes of global memory a thread makes, by their bytes."""
    sizes = {".128": 16, ".64": 8, ".U16": 2, ".S16": 2, ".U8": 1, ".S8": 1}
    found = re.findall(r"\b(?:LDG|STG)\.E((?:\.\w+)*)", told(binary, place, "-sass"))
    return Counter(next((count for mark, count in sizes.items() if mark in marks), 4) for marks in found)


def spilled(binary: bytes, place: Path) -> int:
    """Bytes of its registers that a thread has to keep in memory."""
    (stack,) = re.findall(r"STACK:(\d+)", told(binary, place, "-res-usage"))
    return int(stack)


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("size", NETS)
@pytest.mark.parametrize(
    ("name", "call", "tables"), [("_residual_norm", norm, False), ("_normed", norm_before_text, False), ("_stored", store, True)]
)
def test_kernels_compile_keep_to_registers_and_move_sixteen_bytes_at_a_time(
    name: str, call: Callable[[Any, WanConfig], None], tables: bool, size: str, card: str, launched: Callable[..., Any], tmp_path: Path
) -> None:
    """But for a head's three numbers in the table of places, of 4 bytes, which lie in the nearest cache."""
    made = launched(name, call, NETS[size], CARDS[card]).asm["cubin"]
    moved = accesses(made, tmp_path / "kernel.cubin")
    assert set(moved) == ({16, 4} if tables else {16})
    assert moved[4] % 3 == 0
    assert moved[4] < moved[16]
    assert spilled(made, tmp_path / "kernel.cubin") == 0
