"""What a checkpoint is: one `ModelSpec` row per model, and the plain numbers the rest of the engine takes its sizes from. No torch.

Sources: Self Forcing (arXiv 2506.08009) for the sampler and its warped step list, Wan 2.1 (arXiv 2503.20314) for the network sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WanConfig:
    """Sizes of a `CausalWan` network. `gelu` is "tanh" in every published checkpoint; "erf" is cheaper on a CPU. `places` is the number of
    tokens of a frame that have a learned embedding of their place besides the rotary one, `period` that of latent frames that have one of
    their number, which begins anew after so many; 0, none, in every published checkpoint."""

    dim: int = 1536
    heads: int = 12
    layers: int = 30
    ffn: int = 8960
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    channels: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    gelu: str = "tanh"
    places: int = 0
    period: int = 0

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads; use a multiple of {self.heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary embedding needs pairs")
        if self.gelu not in ("tanh", "erf"):
            raise ValueError(f"gelu {self.gelu!r} is unknown; use 'tanh' or 'erf'")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def short_text(self) -> bool:
        """Whether a text is so short that its values are better projected once than read and projected in every pass: heads * text_len
        against text_len + dim multiplications for every number of a token."""
        return self.text_len * (self.heads - 1) < self.dim


@dataclass(frozen=True)
class Schedule:
    """Flow-matching noise levels of one chunk.

    `steps` are positions on the unshifted clock (1000 = pure noise). With `warp` each is looked up in the shifted table of `train_steps`
    entries, as Self Forcing does; without, they are model timesteps as they stand. `sampler` says how x0 becomes the next input: "renoise"
    draws fresh noise, "euler" keeps the noise the network itself implies, "rolling" renoises a window of chunks jointly (`fkv/rolling.py`).
    `context` is the timestep of the clean pass (its input is never noised).
    """

    steps: tuple[float, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    warp: bool = True
    sampler: str = "renoise"
    context: float = 0.0
    train_steps: int = 1000

    def __post_init__(self) -> None:
        if not self.steps or any(not 0 <= step <= self.train_steps for step in self.steps):
            raise ValueError(f"steps {self.steps} must be one or more numbers in [0, {self.train_steps}]")
        if self.sampler not in ("renoise", "euler", "rolling"):
            raise ValueError(f"sampler {self.sampler!r} is unknown; use 'renoise', 'euler' or 'rolling'")

    def table(self) -> list[float]:
        """Sigma of every training step, from 1 down to just above 0."""
        levels = [1 - i / self.train_steps for i in range(self.train_steps)]
        return [self.shift * u / (1 + (self.shift - 1) * u) for u in levels]

    def timesteps(self) -> tuple[float, ...]:
        """Model timesteps of the noisy passes, in [0, 1000], highest noise first."""
        if not self.warp:
            return tuple(float(step) for step in self.steps)
        table = [*self.table(), 0.0]
        return tuple(1000 * table[round(self.train_steps - step)] for step in self.steps)

    def sigma(self, timestep: float) -> float:
        """Noise share of the table entry whose timestep is nearest: t = 0 gives 0.00498 at shift 5, as in the published sampler."""
        return min(self.table(), key=lambda sigma: abs(1000 * sigma - timestep))


@dataclass(frozen=True)
class Geometry:
    """What a cache policy may know of a model: head counts, the token grid of one latent frame, frames per chunk."""

    layers: int
    heads: int
    head_dim: int
    rows: int
    columns: int
    chunk: int

    @property
    def tokens(self) -> int:
        """Tokens of one latent frame."""
        return self.rows * self.columns


@dataclass(frozen=True)
class Adapter:
    """Low-rank additions to a checkpoint (W + alpha/rank * B A), from another file of its repository."""

    file: str
    rank: int
    alpha: float
    entry: tuple[str, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """One checkpoint. `prediction` names what the network puts out: "flow" (noise - x0, every published model) or "x0".

    With a `repo` the weights are `file` of that Hub repository, without one they lie in the directory `file`. `entry` names where the
    tensors lie in a nested file, the first that is there; `size_bytes` is 0 where the size has not been looked up. `note` is what a person
    should know before choosing the row.
    """

    name: str
    title: str
    net: WanConfig
    schedule: Schedule
    codec: str
    text: str
    repo: str = ""
    file: str = ""
    licence: str = ""
    chunk: int = 3
    latent: tuple[int, int, int] = (16, 60, 104)  # channels, rows, columns
    spatial: int = 8  # pixels per latent row or column
    pixel_frames: int = 4  # pixel frames per latent frame
    first_frames: int = 1  # pixel frames of the very first latent frame
    fps: int = 16  # playback
    window: int = 21
    sink: int = 0
    prediction: str = "flow"
    heads: str | None = None
    entry: tuple[str, ...] = ()
    size_bytes: int = 0
    adapter: Adapter | None = None
    export: str = ""  # codec for finished videos, where it is another than the live one
    note: str = ""

    @property
    def frames_at_once(self) -> int:
        """Latent frames of a noisy pass."""
        return self.chunk * (len(self.schedule.steps) if self.schedule.sampler == "rolling" else 1)

    @property
    def geometry(self) -> Geometry:
        _, rows, columns = self.latent
        _, down, across = self.net.patch
        if rows % down or columns % across:
            raise ValueError(f"latent {rows}x{columns} does not divide into patches of {down}x{across}")
        return Geometry(self.net.layers, self.net.heads, self.net.head_dim, rows // down, columns // across, self.chunk)

    @property
    def pixels(self) -> tuple[int, int]:
        """Rows and columns of a decoded frame."""
        return self.latent[1] * self.spatial, self.latent[2] * self.spatial


POCKET = ModelSpec(
    name="pocket",
    title="Pocket",
    net=WanConfig(
        dim=192, heads=8, layers=6, ffn=512, freq_dim=64, text_dim=112, text_len=16, channels=24, gelu="erf", places=40, period=30
    ),
    schedule=Schedule(steps=(1000, 800, 550, 300), shift=1.0, warp=False, sampler="renoise"),
    codec="pocket",
    text="pocket",
    file="assets/pocket",
    licence="Apache-2.0",
    latent=(24, 10, 16),
    first_frames=4,
    fps=24,
    window=21,
    sink=0,
    prediction="x0",
    heads="assets/pocket/heads.json",
)

WAN_1_3B = WanConfig()
WAN_14B = WanConfig(dim=5120, heads=40, layers=40, ffn=13824)


def _published(name: str, title: str, repo: str, file: str, **more: Any) -> ModelSpec:
    """A row with what all published checkpoints share: text encoder, decoders, and unless said otherwise sizes and sampler."""
    shared: dict[str, Any] = {"net": WAN_1_3B, "schedule": Schedule(), "codec": "taehv", "text": "umt5", "export": "wan-vae"}
    return ModelSpec(name, title, repo=repo, file=file, **(shared | more))


SELF_FORCING = _published(
    "self-forcing",
    "Self Forcing 1.3B",
    "gdhe17/Self-Forcing",
    "checkpoints/self_forcing_dmd.pt",
    entry=("generator_ema",),
    licence="Apache-2.0 (code)",
    heads="assets/heads/self-forcing.json",
    note="Trained on 21 latent frames (81 pixel frames); longer videos need a bounded cache and drift.",
)
LONGLIVE = _published(
    "longlive",
    "LongLive 1.3B",
    "Efficient-Large-Model/LongLive-1.3B",
    "models/longlive_base.pt",
    entry=("generator",),
    size_bytes=5_676_334_208,
    adapter=Adapter("models/lora.pt", rank=256, alpha=256.0, entry=("generator_lora",), size_bytes=2_800_056_690),
    licence="CC-BY-NC-SA-4.0 (weights)",
    window=12,
    sink=3,
    heads="assets/heads/longlive.json",
    note="The adapter is part of the model: the base alone is only its start for short clips.",
)
CAUSAL_FORCING = _published(
    "causal-forcing",
    "Causal Forcing 1.3B",
    "zhuhz22/Causal-Forcing",
    "chunkwise/causal_forcing.pt",
    entry=("generator",),
    licence="Apache-2.0 (code)",
    heads="assets/heads/self-forcing.json",
)
RAVEN = _published(
    "raven",
    "RAVEN 1.3B",
    "mvp-lab/RAVEN",
    "cmgrpo_raven_merge.pt",
    heads="assets/heads/self-forcing.json",
    note="How this file names its tensors is not known; it is opened by the rule that fits the other checkpoints, or refused.",
)
KREA = _published(
    "krea-14b",
    "Krea Realtime 14B",
    "krea/krea-realtime-video",
    "krea-realtime-video-14b.safetensors",
    net=WAN_14B,
    schedule=Schedule(steps=(1000, 937, 833, 625, 0), warp=False),
    licence="CC-BY-NC-SA-4.0",
    note="Its last noisy pass is already at t = 0; the clean pass is kept all the same, as in the published loop.",
)
ROLLING_FORCING = _published(
    "rolling-forcing",
    "Rolling Forcing 1.3B",
    "TencentARC/RollingForcing",
    "checkpoints/rolling_forcing_dmd.pt",
    entry=("generator_ema",),
    schedule=Schedule(steps=(1000, 800, 600, 400, 200), sampler="rolling"),
    licence="Tencent licence, see the repository",
    sink=3,
    note="Denoises five chunks jointly: the first picture takes five windows, each one after it a single window.",
)

MODELS: tuple[ModelSpec, ...] = (POCKET, SELF_FORCING, LONGLIVE, CAUSAL_FORCING, RAVEN, KREA, ROLLING_FORCING)


def find(name: str) -> ModelSpec:
    """The row called `name`. Raises ValueError naming the rows there are."""
    for spec in MODELS:
        if spec.name == name:
            return spec
    raise ValueError(f"model {name!r} is unknown; use one of: {', '.join(spec.name for spec in MODELS)}")
