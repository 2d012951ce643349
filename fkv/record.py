"""`python -m fkv record`: one run with everything the lesson asks of it, small enough to ship, so that the lesson needs no model.

Two lanes in turn (times, bytes, pictures, residency); one chunk of lane A looked at closely (all heads, exact); head scores over prompts
and denoise steps; and lane B under other roles, of the same size and of other sizes, on every prompt, against lane A.
"""

from __future__ import annotations

import base64
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fkv import machine, policies
from fkv.cache import Policy, Roles
from fkv.engine import Engine, model_facts
from fkv.findings import LANES
from fkv.groups import HeadGroup
from fkv.heads import HeadProfile, head_scores
from fkv.lane import LaneRun, kept_frames
from fkv.metrics import world_metrics
from fkv.metrics.picture import psnr
from fkv.probe import FrameProbe
from fkv.spec import ModelSpec
from fkv.stream import Stream, seeded_noise
from fkv.text import parse as meaning
from fkv.views import cache, encode, numbers
from fkv.views.atlas import picture
from fkv.views.live import made, model_of
from fkv.views.trace import Atlas, Classes, Holding, LaneTrace, Look, Source, Stability, Trace, Trial
from fkv.wan import Probe

SEEDS = (1, 2)  # of the random roles
Tick = Callable[[int], object]


class Closely:
    """Looks at the last noisy pass of one step under a policy that keeps everything: segments of all heads, and every token of a few.

    `bands` [heads, frames, segments] by layer; `tokens` [tokens of the newest frame, frames, tokens] by (layer, head).
    """

    def __init__(self, spec: ModelSpec, segments: int, heads: Sequence[tuple[int, int]], queries: int):
        self.geometry, self.last = spec.geometry, len(spec.schedule.steps) - 1
        self.segments, self.heads, self.queries = segments, heads, queries
        self.calls: dict[int, int] = {}
        self.bands: dict[int, np.ndarray] = {}
        self.tokens: dict[tuple[int, int], np.ndarray] = {}

    @torch.inference_mode()
    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None:
        number = self.calls.get(layer, 0)
        self.calls[layer] = number + 1
        if number != self.last:
            return
        tokens, keys = self.geometry.tokens, torch.cat([*(group.k for group in past), k], dim=2)
        rows = torch.linspace(0, q.shape[2] - 1, min(self.queries, q.shape[2]), device=q.device).round().long()
        mass = weights(q[:, :, rows], keys).mean(dim=1)
        self.bands[layer] = mass.unflatten(-1, (-1, self.segments, tokens // self.segments)).sum(dim=-1).cpu().numpy()
        for head in [head for where, head in self.heads if where == layer]:
            own = weights(q[:, head : head + 1, -tokens:], keys[:, head : head + 1])[0]
            self.tokens[layer, head] = own.unflatten(-1, (-1, tokens)).cpu().numpy()


def weights(q: Tensor, k: Tensor) -> Tensor:
    """Softmax [h, Q, K] of the first item of a batch."""
    return torch.softmax((q[0] @ k[0].transpose(-1, -2)).float() * q.shape[-1] ** -0.5, dim=-1)


class Both:
    """Two probes that look at the same passes."""

    def __init__(self, *probes: Probe):
        self.probes = probes

    def see(self, layer: int, q: Tensor, k: Tensor, past: list[HeadGroup], start: int) -> None:
        for probe in self.probes:
            probe.see(layer, q, k, past, start)


class Recorder:
    """One recording. `tick` is told how many chunks were made; `total` how many there will be."""

    def __init__(self, engine: Engine, *, prompts: int = 6, chunks: int = 20, right: str = "forcing-kv", tick: Tick = lambda done: None):
        spec = engine.spec
        self.engine, self.tick, self.chunks, self.right = engine, tick, chunks, right
        self.look_at = max(1, -(-spec.window // spec.chunk) - 1)
        if chunks <= self.look_at:
            raise ValueError(f"{chunks} chunks do not fill the window of {spec.window} frames; use --chunks {self.look_at + 1} or more")
        if engine.profile is None:
            raise ValueError(f"{spec.name} has no head profile to learn from; make one with `python -m fkv profile`")
        self.profile = engine.profile
        examples = engine.text.examples
        self.prompts = [examples[number % len(examples)] for number in range(prompts)]
        self.policy = policies.parse(right).with_roles(self.profile.roles()).fitted(spec.geometry)
        self.segments = int(getattr(self.policy, "segments", 1))
        self.total = len(LANES) * chunks + (prompts + (1 + len(self.roles())) * prompts) * (self.look_at + 1)

    def roles(self) -> dict[str, Roles]:
        """The roles lane B is tried under; random ones are of the same size layer by layer."""
        profile, heads = self.profile, tuple(range(self.profile.heads))
        drawn = {f"random:{seed}": profile.random(seed).roles() for seed in SEEDS}
        ends = {"all-static": (heads,) * profile.layers, "all-dynamic": ((),) * profile.layers}
        return {"profile": profile.roles(), "inverted": profile.inverted().roles(), **drawn, **ends}

    def noise(self, seed: int) -> Any:
        return seeded_noise(seed, self.engine.spec, 1, self.engine.device, self.engine.dtype)

    def text(self, number: int) -> Tensor:
        return self.engine.text.encode(self.prompts[number], number).embedding.to(self.engine.device)

    def trace(self) -> Trace:
        """Everything, in the order in which it is cheapest to be wrong about."""
        spec, facts = self.engine.spec, model_facts(self.engine)
        stability, closely, share, frames = self.scores()
        lanes, residency, decibels, shots = self.lanes()
        trials = self.trials()
        samples = stability.samples
        errors = samples.std(axis=0, ddof=1) if len(samples) > 1 else np.full(samples.shape[1:], np.nan)
        spread = f"standard deviation over {len(samples)} prompts" if len(samples) > 1 else "not measured"
        bands = np.stack([closely.bands[layer] for layer in range(spec.net.layers)])
        queries = min(closely.queries, spec.chunk * spec.geometry.tokens)
        exact = "all" if queries == spec.chunk * spec.geometry.tokens else str(queries)
        return Trace(
            source=self.source(),
            model=model_of(facts, numbers=spec.geometry.head_dim, width=self.engine.dtype.itemsize),
            prompt=self.prompts[0],
            lanes=lanes,
            classes=classes(self.profile),
            psnr=tuple(decibels),
            look=Look(self.look_at, tuple(frames), share, bands, errors, spread, f"{exact} queries of the chunk", pictures=tuple(shots)),
            atlases=tuple(atlas(layer, head, seen) for (layer, head), seen in closely.tokens.items()),
            stability=stability,
            trials=trials,
            residency=residency,
        )

    def source(self) -> Source:
        where = machine.environment(self.engine)
        device = where["cpu"] if where["device"] == "cpu" else where["device"]
        recipe = {
            "prompts": self.prompts, "seeds": list(range(len(self.prompts))), "chunks": self.chunks, "left": self.left, "right": self.right,
            "looked_at_chunk": self.look_at, "pass": "last noisy pass", "skip_first": 1, "last": self.engine.spec.chunk + 1, **where,
        }  # fmt: skip
        return Source(
            "recorded",
            time.strftime("%Y-%m-%d"),
            str(where["commit"] or ""),
            f"{device}, {numbers.count(torch.get_num_threads(), 'thread')}",
            recipe,
        )

    @property
    def left(self) -> str:
        return f"full:{self.engine.spec.window}"

    def scores(self) -> tuple[Stability, Closely, np.ndarray, list[int]]:
        """Scores over prompts and steps; on the first prompt also all segments, shares [layers, heads, frames] and the frames' numbers."""
        found, closely, share, frames = [], None, np.empty(0), []
        for number in range(len(self.prompts)):
            stream = self.stream(number, policies.parse(self.left))
            probe = FrameProbe(self.engine.spec.geometry, queries=None)
            for index in range(self.look_at + 1):
                if index < self.look_at:
                    stream.step()
                elif closely is None:
                    closely = Closely(self.engine.spec, self.segments, telling(self.profile), queries=240)
                    stream.step(Both(probe, closely))
                else:
                    stream.step(probe)
                self.tick(1)
            layers = range(self.engine.spec.net.layers)
            passes = [torch.stack([one.mass for one in probe.per_pass(layer)]).double() for layer in layers]
            last_k = self.engine.spec.chunk + 1
            found.append(torch.stack([head_scores(one, last_k=last_k) for one in passes], dim=1).cpu().numpy())
            if not frames:
                frames = probe.map(0).frames.tolist()
                share = torch.stack([one[-1].mean(dim=1) for one in passes]).cpu().numpy()
        scores = np.stack(found)  # [prompts, steps, layers, heads]
        assert closely is not None
        return Stability(tuple(self.prompts), scores.mean(axis=1), scores.mean(axis=0)), closely, share, frames

    def stream(self, number: int, policy: Policy) -> Stream:
        return Stream(self.engine.model, self.engine.spec, self.text(number), policy, self.noise(number))

    def lanes(self) -> tuple[dict[str, LaneTrace], dict[str, Any] | None, list[float], list[str]]:
        """Both lanes on the first prompt, in turn and with the first place changing; B's residency; PSNR; a picture per frame looked at."""
        policy = {"A": policies.parse(self.left), "B": self.policy}
        runs = {lane: LaneRun(lane, self.engine, self.text(0), policy[lane], self.noise(0), encode) for lane in LANES}
        samples, shots, decibels, frames = [], {lane: [] for lane in LANES}, [], []
        held: dict[str, Any] | None = None
        for chunk in range(self.chunks):
            pixels: dict[str, np.ndarray] = {}
            for lane in LANES if chunk % 2 else LANES[::-1]:
                seen = runs[lane].step()
                samples.append(runs[lane].sample(seen, 0.0))
                pixels[lane] = seen.pixels
                shots[lane].append(picture(middle(seen.pixels)))
                self.tick(1)
                if lane == "B" and chunk == self.look_at:
                    found = runs[lane].residency(seen, min(1, self.engine.spec.net.layers - 1))
                    held = cache.residency(found)
            decibels.append(statistics.median(psnr(a, b) for a, b in zip(pixels["A"], pixels["B"])))
            if chunk <= self.look_at:
                frames += [picture(middle(part)) for part in np.array_split(pixels["A"], self.engine.spec.chunk)]
        rows = made(samples)
        lanes = {
            lane: LaneTrace(policies.spelling(policy[lane]), policies.label(policy[lane]), rows[lane], tuple(shots[lane])) for lane in LANES
        }
        return lanes, held, decibels, frames

    def trials(self) -> tuple[Trial, ...]:
        """Lane A and then lane B under every roles, on every prompt."""
        full = [self.clip(number, policies.parse(self.left))[0] for number in range(len(self.prompts))]
        kept = tuple(objects_kept(frames, prompt) for frames, prompt in zip(full, self.prompts))
        every = (float("nan"),) * len(full)
        found = [Trial("full", (), every, kept, 0, picture(full[0][-1]))]
        parted = self.engine.spec.first_frames + 2 * self.engine.spec.chunk * self.engine.spec.pixel_frames
        for name, static in self.roles().items():
            decibels, kept, holds, stored, last = [], [], (), 0, ""
            for number, prompt in enumerate(self.prompts):
                frames, stream = self.clip(number, self.policy.with_roles(static))
                pairs = zip(full[number][parted:], frames[parted:])
                decibels.append(statistics.median(psnr(a, b) for a, b in pairs))
                kept.append(objects_kept(frames, prompt))
                if not number:
                    holds, stored, last = self.holding(stream), stream.cache.nbytes, picture(frames[-1])
            found.append(Trial(name, static, tuple(decibels), tuple(kept), stored, last, holds))
        return tuple(found)

    def clip(self, number: int, policy: Policy) -> tuple[np.ndarray, Stream]:
        """Pixel frames [n, H, W, 3] up to the chunk looked at, and the stream after it."""
        stream, decoder, frames = self.stream(number, policy), self.engine.codec.decoder(), []
        for _ in range(self.look_at + 1):
            frames.append(decoder.decode(stream.step().latents)[0].cpu().numpy())
            self.tick(1)
        return np.concatenate(frames), stream

    def holding(self, stream: Stream) -> tuple[Holding, ...]:
        """What every head holds of the past, from the positions in its group."""
        found = []
        for layer, groups in enumerate(stream.cache.layers):
            for group in groups:
                frames = kept_frames(group.name, len(group.members), group.pos, stream.cache, self.segments).frames
                found.append(Holding(layer, group.name, group.members, frames))
        return tuple(found)


def telling(profile: HeadProfile) -> list[tuple[int, int]]:
    """The two heads of the profile that differ most in score, past layer 0, which is compressed by rule; without scores the first of each
    class."""
    places = [(layer, head) for layer in range(min(1, profile.layers - 1), profile.layers) for head in range(profile.heads)]
    if profile.scores is None:
        static = [place for place in places if place[1] in profile.static[place[0]]]
        dynamic = [place for place in places if place not in static]
        return [*static[:1], *dynamic[:1]]
    scores = profile.scores
    order = sorted(places, key=lambda place: scores[place[0]][place[1]])
    return [order[-1], order[0]]


def classes(profile: HeadProfile) -> Classes:
    scores, errors = (None if table is None else np.asarray(table, float) for table in (profile.scores, profile.errors))
    return Classes(profile.static, profile.rule, profile.threshold, scores, errors)


def atlas(layer: int, head: int, seen: np.ndarray) -> Atlas:
    """Bytes of a head's token maps [tokens, frames, tokens], and the exact share per frame beside them."""
    most = seen.max(axis=(1, 2), keepdims=True)
    scaled = np.round(255 * np.sqrt(seen / np.where(most > 0, most, 1))).astype(np.uint8)
    return Atlas(layer, head, seen.sum(axis=-1), base64.b64encode(scaled.tobytes()).decode("ascii"))


def middle(pixels: np.ndarray) -> np.ndarray:
    return pixels[len(pixels) // 2]


def objects_kept(frames: np.ndarray, prompt: str) -> float:
    """Share of frames in which a prompted object is there, mean over objects; nan where the clip is not of the world the metric knows."""
    try:
        return world_metrics(frames, meaning(prompt)).kept
    except ValueError:
        return math.nan
