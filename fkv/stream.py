"""One lane's rollout: chunks of latent frames, each denoised from noise with the cache only read, then committed by a clean pass.

The loop is Self Forcing's (arXiv 2506.08009) and the re-cache LongLive's (arXiv 2509.22622): at a change of prompt or policy the newest
clean frames are read again, in one unmasked pass at their true positions. A chunk is committed when the next one is asked for, so that the
last chunk of a video costs no clean pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fkv.cache import Commit, KVCache, Policy
from fkv.spec import ModelSpec
from fkv.wan import CausalWan, Probe, TextKV

Noise = Callable[[int], tuple[Tensor, list[Tensor]]]
Trace = list[tuple[str, Tensor]]


@dataclass(frozen=True)
class Chunk:
    """Clean latents [b, f, C, H, W] of chunk number `index`, whose first frame is latent frame `start`."""

    index: int
    start: int
    latents: Tensor


def seeded_noise(
    seed: int, spec: ModelSpec, batch: int = 1, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Noise:
    """Noise that depends on the seed and the chunk number only, so that lanes and devices share it. Drawn on the CPU in float32; that of
    the newest chunks, as many as a pass works on and the next, is remembered, so that lanes with one source draw it once.
    """
    levels, rolling = len(spec.schedule.steps), spec.schedule.sampler == "rolling"
    fresh = levels - 1 if rolling or spec.schedule.sampler == "renoise" else 0
    drawn: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def noise(chunk: int) -> tuple[Tensor, list[Tensor]]:
        if chunk not in drawn:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + chunk) % 2**63)
            shape = (batch, spec.chunk, *spec.latent)
            first, *rest = (sent(torch.randn(shape, generator=generator), torch.device(device)).to(dtype) for _ in range(1 + fresh))
            while len(drawn) > (levels if rolling else 1):
                del drawn[next(iter(drawn))]
            drawn[chunk] = first, rest
        return drawn[chunk]

    return noise


def sent(x: Tensor, device: torch.device) -> Tensor:
    """x on a device, without waiting for the device to be done with what it is doing."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def cleaned(x: Tensor, flow: Tensor, sigma: float) -> Tensor:
    """x0 under a predicted flow (noise - x0), for input x of noise share `sigma`; in float32, returned in x's dtype."""
    return (x.float() - sigma * flow.float()).to(x.dtype)


def noised(x0: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x0 mixed with a share `sigma` of noise."""
    return (1 - sigma) * x0 + sigma * noise


def implied(x: Tensor, x0: Tensor, sigma: float) -> Tensor:
    """The noise that, mixed into x0 with share `sigma`, gives x."""
    return (x - (1 - sigma) * x0) / sigma


class Stream:
    """A rollout under one policy. `step` gives the next chunk; `recache` changes prompt or policy from there on.

    `mark` is told the name of a phase ("clean", "noisy", "recache") each time one ends; `trace`, where given, collects what every pass
    predicted: ("noisy", x0), ("clean", raw output), ("recache", raw output).
    """

    def __init__(
        self,
        model: CausalWan,
        spec: ModelSpec,
        text: Tensor,
        policy: Policy,
        noise: Noise,
        mark: Callable[[str], None] | None = None,
        *,
        trace: Trace | None = None,
    ) -> None:
        self.model, self.spec, self.noise, self.trace = model, spec, noise, trace
        self.mark = mark or (lambda phase: None)
        self.chunks = 0
        self._timesteps = spec.schedule.timesteps()
        self._sigmas = [spec.schedule.sigma(t) for t in self._timesteps]
        self._pending: Chunk | None = None
        self._batch = text.shape[0]
        self.cache = self._new_cache(policy)
        self._opening: Tensor | None = None
        self._newest: Tensor | None = None
        self.text = self._read(text)

    @property
    def policy(self) -> Policy:
        return self.cache.policy

    @property
    def frames(self) -> int:
        """Latent frames made so far."""
        return self.chunks * self.spec.chunk

    def draw(self) -> None:
        """Draws the noise that the next step begins with, for a source that remembers it."""
        self.noise(self.chunks)

    @torch.inference_mode()
    def step(self, probe: Probe | None = None) -> Chunk:
        """Commits the chunk before, then denoises the next one. `probe` sees the noisy passes."""
        if self.spec.schedule.sampler == "rolling":
            raise ValueError(f"{self.spec.title} denoises several chunks jointly, which cannot be done here; use it with generate or bench")
        self.commit()
        x, fresh = self.noise(self.chunks)
        x0 = x
        for step, (t, sigma) in enumerate(zip(self._timesteps, self._sigmas)):
            x0 = self._denoise(x, t, sigma, probe)
            if step + 1 < len(self._timesteps):
                eps = fresh[step] if self.spec.schedule.sampler == "renoise" else implied(x, x0, sigma)
                x = noised(x0, eps, self._sigmas[step + 1])
            self.mark("noisy")
        return self._finished(x0)

    def _finished(self, x0: Tensor) -> Chunk:
        self._pending = Chunk(self.chunks, self.frames, x0)
        self.chunks += 1
        self._remember(x0)
        return self._pending

    @torch.inference_mode()
    def commit(self) -> None:
        """Runs the clean pass of the newest chunk, if it is still due."""
        if self._pending is not None:
            chunk, self._pending = self._pending, None
            self._clean(chunk.latents, chunk.start, recache=False)

    @torch.inference_mode()
    def recache(self, text: Tensor | None = None, policy: Policy | None = None) -> None:
        """Changes prompt [b, length, text_dim] or policy at once, by reading the newest clean frames again.

        With the same policy, what it retains (a sink) stays as the old prompt left it. A new policy starts from an empty cache and
        also reads its first frames again. Raises ValueError, with nothing changed, where the policy does not fit.
        """
        fresh = self._new_cache(policy) if policy is not None else None
        read = self._read(text) if text is not None else None
        if fresh is None and self._pending is not None and self._pending.start < self.policy.anchors:
            self.commit()
        self._pending = None
        if fresh is not None:
            self.cache = fresh
        if read is not None:
            self.text = read
        if self._newest is None or self._opening is None:
            return
        start = self.frames - min(self.policy.replay(self.frames), self._newest.shape[1])
        start = max(start, min(self.policy.anchors, self.frames - 1)) if start else 0
        if fresh is not None and start and self.policy.anchors:
            self._clean(self._opening[:, : self.policy.anchors], 0, recache=True)
        self.cache.retain(start)
        self._clean(self._newest[:, start - self.frames :], start, recache=True)

    def _new_cache(self, policy: Policy) -> KVCache:
        return self.model.new_cache(policy, self.spec.geometry, self._batch)

    def _read(self, text: Tensor) -> TextKV:
        if text.shape[0] != self._batch:
            raise ValueError(f"text has a batch of {text.shape[0]}, the stream of {self._batch}; give one prompt per video")
        with torch.inference_mode():
            return self.model.read_text(text)

    def _denoise(self, x: Tensor, t: float, sigma: float, probe: Probe | None) -> Tensor:
        out = self.model(x, t, self.text, self.cache, self.frames, probe)
        x0 = cleaned(x, out, sigma) if self.spec.prediction == "flow" else out.to(x.dtype)
        if self.trace is not None:
            self.trace.append(("noisy", x0))
        return x0

    def _clean(self, latents: Tensor, start: int, *, recache: bool) -> None:
        commit = Commit(self.chunks - 1, start, latents.shape[1], self.spec.geometry, recache)
        phase, clock = "recache" if recache else "clean", self.spec.schedule.context
        with self.cache.committing(commit):
            if self.trace is None:
                self.model.remember(latents, clock, self.text, self.cache, start)
            else:
                self.trace.append((phase, self.model(latents, clock, self.text, self.cache, start)))
        self.mark(phase)

    def _remember(self, latents: Tensor) -> None:
        """Keeps the clean frames a re-cache may ask for: the newest ones, and those at the start of the video."""
        span = max(self.spec.window, self.policy.replay(self.frames), self.spec.chunk)
        self._newest = latents if self._newest is None else torch.cat((self._newest, latents), dim=1)[:, -span:].clone()
        if self._opening is None or self._opening.shape[1] < max(self.spec.window, self.policy.anchors):
            self._opening = latents if self._opening is None else torch.cat((self._opening, latents), dim=1)
