"""What goes into a session (`Settings`) and what comes out of it (events): frozen plain data, no torch.

Lanes are called "A" (left) and "B" (right). Chunks and frames count from 0; *frame* is a latent frame, *pixel frame* an RGB one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fkv.findings import Classes, Grid, Heads, Lane, Maps, Roles

if TYPE_CHECKING:
    from fkv.heads import HeadProfile


@dataclass(frozen=True)
class Settings:
    """Everything a person can change while it runs; read once per chunk.

    `left` and `right` are policy spellings ("full:21", "forcing-kv:sink=1"). With `compress` off lane B runs the left policy. `layer` and
    `head` are the head on show, `pinned` up to four further (layer, head) whose attention is kept beside it; `skip_first` key frames are
    left out of the live head score. `chunks` 0 runs until stopped; with `benchmark` nothing is probed.

    Static heads: `roles` if given, else what `rule` makes of `profile` (None: the model's own): "profile" (its own classes, or those at
    `threshold` where that is set), "threshold" (at `threshold`), "quota:0.5" (that share of every layer, highest scores first), "inverted",
    "random:7" (as many per layer, drawn with that seed), "all-static", "all-dynamic". `overrides` (layer, head, "static" or "dynamic") come
    last.
    """

    prompt: str = ""
    seed: int = 0
    left: str = "full:21"
    right: str = "forcing-kv"
    compress: bool = True
    paused: bool = False
    layer: int = 1
    head: int = 0
    chunks: int = 0
    threshold: float | None = None
    roles: Roles | None = None
    profile: HeadProfile | None = None
    pinned: tuple[tuple[int, int], ...] = ()
    skip_first: int = 1
    rule: str = "profile"
    overrides: tuple[tuple[int, int, str], ...] = ()
    benchmark: bool = False


@dataclass(frozen=True)
class ModelFacts:
    """The model and what it runs on. `size` is (rows, columns) of a pixel frame, `rows` and `columns` count tokens of a frame.
    `frame_bytes` is what one head keeps of one frame, keys and values; 0 where unknown. `fp8_error` is what products in FP8 change one
    pass by, relative root mean square; None where they are in `dtype`.
    """

    name: str
    title: str
    parameters: int
    layers: int
    heads: int
    rows: int
    columns: int
    chunk: int
    pixel_frames: int
    first_frames: int
    fps: int
    size: tuple[int, int]
    window: int
    sink: int
    steps: int
    device: str
    dtype: str
    backend: str
    threads: int
    frame_bytes: int = 0
    fp8_error: float | None = None


@dataclass(frozen=True)
class ProfileFacts:
    """Head scores in [0, 1] (share of attention on the newest frames), their errors, and the heads called static by `rule`.

    Scores are nan where a profile gives classes only. `note` says what was built in by training or chosen by rank; empty when there is
    nothing to say. `name` is that of the file a person brought, empty for the model's own profile.
    """

    scores: Grid
    errors: Grid
    threshold: float
    rule: str
    static: Roles
    note: str = ""
    name: str = ""


@dataclass(frozen=True)
class Start:
    """First event of a run. `profile` is None when the model has none; policies that need roles are then refused."""

    run: str
    model: ModelFacts
    profile: ProfileFacts | None
    settings: Settings


@dataclass(frozen=True)
class Frames:
    """Decoded frames of one lane and chunk.

    `pixels` uint8 RGB [n, H, W, 3]; `start` is the first pixel frame's number, `latent_start` the first latent frame's. `jpeg` is what
    the session's `encode` made of them (None without one). `label` is the policy in words, `policy` its spelling. `latents` are the clean
    ones [f, c, rows, columns] where they were asked for.
    """

    lane: Lane
    chunk: int
    start: int
    latent_start: int
    pixels: np.ndarray
    jpeg: bytes | None
    label: str
    policy: str
    latents: np.ndarray | None = None


@dataclass(frozen=True)
class Phases:
    """Milliseconds of one lane and chunk. `probe` is the measuring itself and belongs to no lane's speed.

    `hidden` is how much of `decode` and `encode` ran beside the clean pass and cost the lane no time: 0 where they are in line, below 0
    where handing them over cost more than it hid.
    """

    noisy: tuple[float, ...] = ()
    clean: float = 0.0
    recache: float = 0.0
    text: float = 0.0
    decode: float = 0.0
    encode: float = 0.0
    probe: float = 0.0
    hidden: float = 0.0

    @property
    def diffusion(self) -> float:
        """Noisy passes and the clean pass: what papers time."""
        return sum(self.noisy) + self.clean

    @property
    def end_to_end(self) -> float:
        """Prompt to encoded pixels, re-caching included, probe and what is hidden left out: how long the lane's turn takes."""
        return self.diffusion + self.recache + self.text + self.decode + self.encode - self.hidden


@dataclass(frozen=True)
class Sample:
    """Measurements of one lane and chunk.

    FPS count pixel frames. Bytes are of keys and values: stored, read by one noisy pass, allocated; `bytes_expected` is the policy's
    closed formula for stored. `past` and `window` say how many frames the chunk could look back on, as a number and as a sentence.
    `warmup` marks chunks that medians leave out while caches fill and kernels warm up. `probe_share` is the run's probe time over its
    compute time so far, in [0, 1].
    """

    lane: Lane
    chunk: int
    frames: int
    ms: Phases
    fps_diffusion: float
    fps_end_to_end: float
    bytes_stored: int
    bytes_read: int
    bytes_allocated: int
    bytes_expected: int
    recached: bool
    warmup: bool
    past: int
    window: str
    probe_share: float
    memory_bytes: int
    policy: str


@dataclass(frozen=True)
class Kept:
    """What one class of heads keeps in the layer on show: (frame, occupancy) with one share in [0, 1] per segment of the frame, top to
    bottom.
    """

    name: str
    heads: int
    frames: tuple[tuple[int, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Similarity:
    """Segment similarity to the frame after it, as the policy saw it: one bar per segment and frame, the k below `cut` are kept."""

    frames: tuple[int, ...]
    bars: Grid  # [frames][segments]
    kept: tuple[tuple[bool, ...], ...]
    cut: float
    layer: int


@dataclass(frozen=True)
class Residency:
    """The cache of one lane after its last commit, in the layer on show, class by class. `current` are the frames of the chunk being
    drawn.
    """

    lane: Lane
    chunk: int
    layer: int
    current: tuple[int, ...]
    kept: tuple[Kept, ...]
    similarity: Similarity | None = None


@dataclass(frozen=True)
class Verdict:
    """B against A. `speed` is the median of paired end-to-end ratios A ms / B ms (over 1: B is faster) with its 10th and 90th percentile;
    None while measuring.

    `n` of `need` chunks are in, all since the last change; `first` and `last` are the chunks they cover. `kept` is B's stored bytes over
    A's. `psnr` is the median over `psnr_frames` pixel frames in dB, inf when every frame is equal. `window` says in a sentence what it
    refers to.
    """

    chunk: int
    speed: float | None
    speed_low: float | None
    speed_high: float | None
    n: int
    need: int
    first: int
    last: int
    kept: float | None
    bytes_left: int
    bytes_right: int
    psnr: float | None
    psnr_frames: int
    window: str
    chunk_psnr: float | None = None


@dataclass(frozen=True)
class Notice:
    """A sentence for a person. `state` tells a change's two moments apart; `ms` is the re-cache time of an applied one."""

    kind: Literal["policy", "prompt", "parameter", "info", "error"]
    lane: Lane | None
    chunk: int
    text: str
    state: Literal["", "received", "applied"] = ""
    ms: float = 0.0


@dataclass(frozen=True)
class Tick:
    """Nothing happened for half a second while paused: a point where a closed page ends the run."""

    chunk: int


@dataclass(frozen=True)
class Done:
    """Last event. `reason` is "finished" (chunk limit), "stopped" or "error" (no lane is left); `chunks` were begun and finished by a
    lane or both.
    """

    reason: Literal["finished", "stopped", "error"]
    chunks: int


Event = Start | Frames | Sample | Maps | Heads | Classes | Residency | Verdict | Notice | Tick | Done


def sentence(error: BaseException) -> str:
    """The first line of an error as a person reads it: capital first, full stop last."""
    text = (str(error).strip() or f"{type(error).__name__}: no further detail").splitlines()[0]
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
