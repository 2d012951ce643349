"""`prepare`: a loaded network in its fast form, with what its device allows."""

from __future__ import annotations

from dataclasses import replace

import torch

from fkv.fast import fp8
from fkv.fast.abreast import Abreast, CudaFork, cuda_timer
from fkv.fast.fusing import fused
from fkv.fast.graphs import CudaRecorder
from fkv.fast.model import FastWan
from fkv.fast.products import by_onednn, laid_out, refusal, with_epilogues
from fkv.spec import ModelSpec
from fkv.wan import CausalWan

SMALL = 64


def prepare(
    model: CausalWan, spec: ModelSpec | None = None, attention: str = "auto", *, graphs: bool = False, quantise: fp8.Quantise | None = None
) -> FastWan:
    """The fast form of a model that is on its device, in its dtype and loaded; it takes the model's modules over and copies none;
    only of small weights a CPU gets copies, as oneDNN reads them.

    With `graphs`, passes are recorded and replayed, which needs CUDA. There, with a `spec`, the attention kernel and the product with GELU
    are chosen now, on the shapes of its window. `quantise` makes the weights of a `spec`'s large projections 8-bit (see `fkv.fast.fp8`).
    Raises ValueError on an attention that does not run, and on graphs without CUDA.
    """
    fast = _prepared(FastWan(model, attention), spec, graphs)
    if quantise is not None and spec is not None:
        fast.quantise = quantise
        fast.fp8_error = fp8.quantised(fast, spec, quantise)
    return fast


def _prepared(fast: FastWan, spec: ModelSpec | None, graphs: bool) -> FastWan:
    """With its kernels chosen."""
    device = fast.head.modulation.device
    if device.type != "cuda":
        if graphs:
            raise ValueError(f"graphs need a CUDA device and the model is on {device}; leave --graphs out")
        fast.meet(SMALL, SMALL)
        if device.type == "cpu" and fast.dtype == torch.float32:
            fast.no_onednn = refusal()
            rows = spec.chunk * spec.geometry.tokens if spec is not None else SMALL
            if not fast.no_onednn:
                fast.parts = by_onednn(fast.parts, rows)
                fast.into, fast.out_of = (replace(end, laid=laid_out(end.weight, rows)) for end in (fast.into, fast.out_of))
        return fast
    fast.recorder = CudaRecorder if graphs else None
    timer = cuda_timer(device)
    fast.abreast = Abreast(CudaFork(device), timer)
    fast.kernels, fast.unfused = fused(fast.config, fast.dtype, device)
    if spec is not None:
        geometry = spec.geometry
        rows = geometry.chunk * geometry.tokens
        fast.meet(rows, max(spec.window, geometry.chunk) * geometry.tokens)
        fast.parts = with_epilogues(fast.parts, rows, timer)
    return fast
