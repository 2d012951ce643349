"""Attention kernels of installed packages: whatever keeps one from running is a reason, never the end of the run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fkv import doctor
from fkv.attention import PACKAGES, Attention, absence, tried

Install = Callable[[str, str], None]
unless_real = pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed and hides a namespace package")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a module of that dotted name and source on the path; every folder above it is a namespace package."""

    def forget() -> None:
        for name in [name for name in sys.modules if name.startswith("flash_attn")]:
            del sys.modules[name]

    def put(name: str, source: str) -> None:
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))

    forget()
    yield put
    forget()


@unless_real
def test_flash_attn_4_alone_leaves_flash_attn_2_out_with_the_reason(install: Install) -> None:
    install("flash_attn.cute", "from fkv.attention import scaled_dot as flash_attn_func")
    q = torch.randn(1, 2, 8, 16)
    trial = tried("flash-attn-2", q, q, q)
    assert (trial.ms, trial.reason) == (None, "module 'flash_attn' has no attribute 'flash_attn_func'")
    assert absence("flash-attn-2") == trial.reason
    assert absence("flash-attn-4") == ""
    with pytest.raises(ValueError, match=r"\(flash-attn-2: module 'flash_attn' has no .*'\); use --attention auto or sdpa"):
        Attention("flash-attn-2")(q, q, q)


@unless_real
def test_auto_goes_on_to_the_next_kernel_where_a_package_breaks(install: Install) -> None:
    install("flash_attn.cute", "raise OSError('libcuda.so.1 is missing')")
    q = torch.empty(1, 2, 8, 16, device="meta")
    with pytest.raises(ValueError, match="no attention kernel runs on meta") as caught:
        Attention("auto")(q, q, q)
    for words in ("flash-attn-2: module 'flash_attn'", "flash-attn-4: libcuda.so.1 is missing", "math: "):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise AttributeError('triton has no language')", "triton has no language"),
        ("def flash_attn_func(q, k, v):\n    raise NotImplementedError('head size 16')", "head size 16"),
        ("def flash_attn_func(q, k, v):\n    raise KeyError", "KeyError"),
        ("def flash_attn_func(q, k, v):\n    return None", "'NoneType' object has no attribute 'transpose'"),
    ],
)
def test_whatever_a_package_raises_on_import_or_call_is_its_reason(install: Install, source: str, reason: str) -> None:
    install("flash_attn_interface", source)
    q = torch.randn(1, 2, 8, 16)
    trial = tried("flash-attn-3", q, q, q)
    assert (trial.ms, trial.reason) == (None, reason)


def test_an_interruption_while_a_kernel_is_tried_is_not_taken_for_a_reason(install: Install) -> None:
    install("flash_attn_interface", "def flash_attn_func(q, k, v):\n    raise KeyboardInterrupt")
    q = torch.randn(1, 2, 8, 16)
    with pytest.raises(KeyboardInterrupt):
        tried("flash-attn-3", q, q, q)


@unless_real
def test_the_doctor_reports_each_flash_attn_by_importing_its_function(install: Install) -> None:
    install("flash_attn.cute", "from fkv.attention import scaled_dot as flash_attn_func")
    install("flash_attn_interface", "raise OSError('libcuda.so.1 is missing')")
    rest = "optional, torch's own kernels are used)"
    assert [finding for finding in doctor.devices() if finding[1] in PACKAGES] == [
        (True, "flash-attn-2", f"not here (module 'flash_attn' has no attribute 'flash_attn_func'; {rest}"),
        (True, "flash-attn-3", f"not here (libcuda.so.1 is missing; {rest}"),
        (True, "flash-attn-4", "flash_attn.cute can be imported"),
    ]


def test_a_kernel_that_finds_no_memory_is_not_called_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("fkv.attention.disagreement", full)
    q = torch.randn(1, 2, 4, 8)
    chooser = Attention("math")
    with pytest.raises(torch.OutOfMemoryError):
        chooser(q, q, q)
    assert not chooser.chosen
