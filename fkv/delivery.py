"""Delivery: a chunk's clean latents become pixels on the host and a picture file, in line on a CPU, beside the clean pass on a CUDA device.

`InLine` decodes, copies and encodes on the lane's own timeline, and leaves the clean pass to the next step, so that the last chunk of a
video costs none. `Beside` hands the latents to a second stream right after the last noisy pass: there the decoder and the copy into pinned
memory run; a thread waits for the copy and encodes; the denoiser goes on with the clean pass. What is not ready when that has ended is
waited for, and only this wait is on the lane's timeline.

Pictures can be told while the clean pass still runs, a lane's numbers when it has ended. Why pictures are waited for, and not left to run
on into the turn of the next lane: no lane's time holds another lane's decoder. What encoding takes beyond the clean pass is the price.
Kernels of the decoder also take their share of the device from the clean pass, which measures that much longer; what is gained is all the
time in which the device would have had nothing to do. Where phases are to be timed apart, a lane delivers in line on CUDA too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fkv.codec import Decoder
from fkv.meter import Instant, Moment, Stopwatch

Encode = Callable[[np.ndarray], bytes]


@dataclass(frozen=True)
class Pictures:
    """A chunk's pixels, uint8 RGB [n, H, W, 3], what `encode` made of them (None without one), and, where they were asked for, its clean
    latents, float32 [f, c, rows, columns].
    """

    pixels: np.ndarray
    jpeg: bytes | None
    latents: np.ndarray | None = None


class Delivery(Protocol):
    """Turns a chunk's latents [1, f, c, rows, columns] into pictures. `commit` runs the chunk's clean pass and may be run meanwhile; with
    `keep` the latents are given too: in line in a time that belongs to no phase, beside with what is waited for.
    """

    def __call__(self, latents: Tensor, commit: Callable[[], None], *, keep: bool = False) -> Pictures: ...


class Side(Protocol):
    """A second place of work of a device."""

    def after(self, given: Tensor) -> AbstractContextManager[None]:
        """What is asked of the device inside runs there, once `given` and everything asked before is done."""
        ...

    def fetch(self, made: Tensor) -> tuple[Tensor, Moment]:
        """Starts a copy to the host; gives it, and the moment from which it holds what was made."""
        ...


class CudaSide:
    """A second CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    @contextmanager
    def after(self, given: Tensor) -> Iterator[None]:
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        given.record_stream(self.stream)
        with torch.cuda.stream(self.stream):
            yield

    def fetch(self, made: Tensor) -> tuple[Tensor, Moment]:
        host = torch.empty(made.shape, dtype=made.dtype, pin_memory=True)
        host.copy_(made, non_blocking=True)
        ready = torch.cuda.Event(enable_timing=True, blocking=True)
        ready.record(self.stream)
        return host, ready


def side_of(device: torch.device) -> Side | None:
    """The second place of work of a device; None where it has none."""
    return CudaSide(device) if device.type == "cuda" else None


class InLine:
    """Decodes, copies and encodes one after the other."""

    def __init__(self, decoder: Decoder, encode: Encode | None, watch: Stopwatch) -> None:
        self.decoder, self.encode, self.watch = decoder, encode, watch

    def __call__(self, latents: Tensor, commit: Callable[[], None], *, keep: bool = False) -> Pictures:
        pixels = self.decoder.decode(latents)[0].cpu().numpy()
        self.watch.mark("decode")
        jpeg = self.encode(pixels) if self.encode else None
        self.watch.mark("encode")
        if not keep:
            return Pictures(pixels, jpeg)
        with self.watch.aside("probe"):
            return Pictures(pixels, jpeg, latents[0].float().cpu().numpy())


class Errand(threading.Thread):
    """Work done once in a thread of its own, which ends with it: there is never a thread left to close."""

    def __init__(self, work: Callable[[], tuple[Pictures, Instant, Instant]]) -> None:
        super().__init__(name="delivery", daemon=True)
        self.work = work
        self.made: tuple[Pictures, Instant, Instant] | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.made = self.work()
        except BaseException as error:
            self.error = error

    def result(self) -> tuple[Pictures, Instant, Instant]:
        """What the work gave, once it is done. Raises what it raised."""
        self.join()
        if self.error is not None:
            raise self.error
        assert self.made is not None
        return self.made


class Beside:
    """Decodes and copies at a second place, encodes in a thread, and runs the clean pass meanwhile. Every thread has ended on return."""

    def __init__(self, decoder: Decoder, encode: Encode | None, watch: Stopwatch, side: Side) -> None:
        self.decoder, self.encode, self.watch, self.side = decoder, encode, watch, side

    def __call__(self, latents: Tensor, commit: Callable[[], None], *, keep: bool = False) -> Pictures:
        with self.side.after(latents):
            began = self.watch.now()
            host, ready = self.side.fetch(self.decoder.decode(latents)[0])
            kept = self.side.fetch(latents[0].float()) if keep else None
        errand = Errand(lambda: self._encoded(host, ready, kept))
        errand.start()
        try:
            commit()
        finally:
            errand.join()
        made, *encoding = errand.result()
        self.watch.beside("decode", began, ready)
        self.watch.beside("encode", *encoding)
        self.watch.mark("wait")
        return made

    def _encoded(self, host: Tensor, ready: Moment, kept: tuple[Tensor, Moment] | None) -> tuple[Pictures, Instant, Instant]:
        """Pictures in ordinary memory, pinned memory being scarce, and when that began and ended."""
        ready.synchronize()
        began = Instant(self.watch.clock())
        pixels = host.numpy().copy()
        jpeg = self.encode(pixels) if self.encode else None
        ended = Instant(self.watch.clock())
        if kept is None:
            return Pictures(pixels, jpeg), began, ended
        kept[1].synchronize()
        return Pictures(pixels, jpeg, kept[0].numpy().copy()), began, ended


def delivery(decoder: Decoder, encode: Encode | None, watch: Stopwatch, side: Side | None) -> Delivery:
    """Beside the clean pass where there is a side, else in line."""
    return InLine(decoder, encode, watch) if side is None else Beside(decoder, encode, watch, side)
