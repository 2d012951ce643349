"""Training of the pocket codec: principal components first, then encoder and decoder together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from fkv.codec import CELL, PocketCodec
from fkv.pocket import run
from fkv.pocket.data import draw, loader


@dataclass(frozen=True)
class CodecRecipe:
    """`noise` is the standard deviation added to normalised latents before decoding, so that the decoder forgives the generator's
    errors."""

    steps: int = 1800
    batch: int = 8
    latents: int = 3
    rate: float = 2e-3
    warmup: int = 50
    decay: int = 700
    noise: float = 0.06
    seed: int = 11
    channels: int = 24


class Descent(Protocol):
    """What `descend` takes from a recipe."""

    @property
    def steps(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def decay(self) -> int: ...


def groups(frames: Tensor) -> Tensor:
    """uint8 [b, 4 f, h, w, 3] to [b, f, 12, h, w] in [-1, 1]."""
    pixels = frames.float().div(127.5).sub(1).unflatten(1, (-1, 4)).permute(0, 1, 2, 5, 3, 4)
    return pixels.flatten(2, 3)


def principal_components(codec: PocketCodec, seed: int, scenes: int = 192) -> None:
    """Set the linear maps of a codec to the leading components of world blocks."""
    pixels = groups(draw(seed + 1, 0, scenes, 3, gaps=False).frames).flatten(0, 1)
    blocks = F.pixel_unshuffle(pixels, CELL).permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = blocks.mean(0)
    values, vectors = torch.linalg.eigh((blocks - mean).T @ (blocks - mean) / len(blocks))
    basis = vectors[:, -codec.channels :].T.flip(0)
    scale = values[-codec.channels :].flip(0).sqrt().clamp_min(1e-3)
    assert codec.analysis.bias is not None
    assert codec.synthesis.bias is not None
    with torch.no_grad():
        codec.analysis.weight.copy_((basis / scale[:, None])[:, :, None, None])
        codec.analysis.bias.copy_(-(basis / scale[:, None]) @ mean)
        codec.synthesis.weight.copy_((basis * scale[:, None]).T[:, :, None, None])
        codec.synthesis.bias.copy_(mean)


def measure(codec: PocketCodec, seed: int, scenes: int = 64) -> tuple[float, Tensor]:
    """PSNR in dB over held-out clips of three latent frames, decoded in stream, and their normalised latents."""
    frames = draw(seed + 2, 0, scenes, 3, gaps=False, lean=False).frames
    latents = codec.encode(frames)
    error = (codec.decoder().decode(latents).float() - frames.float()).square().mean()
    return float(10 * torch.log10(255.0**2 / error)), latents


def renormalise(codec: PocketCodec, seed: int) -> None:
    """Set the latent mean and scale from world clips; both are 0 and 1 while the encoder still changes."""
    raw = codec.forward_encoder(groups(draw(seed + 3, 0, 192, 3, gaps=False).frames).flatten(0, 1))
    codec.mean.copy_(raw.mean((0, 2, 3)))
    codec.scale.copy_(raw.std((0, 2, 3)))


def descend(
    codec: PocketCodec,
    params: list[nn.Parameter],
    recipe: Descent,
    work: Path,
    name: str,
    losses: Callable[[int], Iterator[tuple[Tensor, Tensor]]],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run or resume, from `work/name.pt` and with a log beside it: one update for each of `losses(first step)`, a loss and a squared error
    of pixels in [-1, 1]. Leaves the codec with the mean of its last weights. `stop` is asked before every update; where it says so, this
    saves and raises run.Stopped."""
    optimiser = torch.optim.AdamW(params, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0)
    checkpoint, average, first = work / f"{name}.pt", run.Average(codec, 0.998), 0
    if state := run.load(checkpoint):
        codec.load_state_dict(state["codec"])
        optimiser.load_state_dict(state["optimiser"])
        average.shadow, first = state["average"], state["step"]
    plan = run.Plan(recipe.steps, recipe.warmup, recipe.decay)
    progress = run.Progress(work / f"{name}.jsonl", first, recipe.steps, name)

    def store(step: int) -> None:
        run.save(checkpoint, {"codec": codec.state_dict(), "optimiser": optimiser.state_dict(), "average": average.shadow, "step": step})

    with progress.bar:
        for step, (loss, error) in enumerate(losses(first), start=first):
            if stop():
                store(step)
                raise run.Stopped(step)
            run.set_rate([optimiser], [recipe.rate], plan.rate(step))
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimiser.step()
            average.update(codec, step)
            progress.step(step, {"loss": float(loss.detach()), "psnr": float(-10 * torch.log10(error.detach() / 4))})
            if progress.due():
                store(step + 1)
    store(max(first, recipe.steps))
    codec.load_state_dict(average.shadow)


def write(codec: PocketCodec, out: Path) -> None:
    """Put a codec into `out` as `codec.safetensors`, so that a kill at any moment leaves the old or the new one whole."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in codec.state_dict().items()}, out / "codec.part")
    (out / "codec.part").replace(out / "codec.safetensors")


def train_codec(recipe: CodecRecipe, work: Path, out: Path, device: str, *, stop: Callable[[], bool] = lambda: False) -> float:
    """Run or resume; writes `codec.safetensors` into `out` once all steps are done; returns the held-out PSNR in dB. Raises run.Stopped
    after a step where `stop` says so."""
    torch.manual_seed(recipe.seed)
    codec = PocketCodec(recipe.channels).to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if not (work / "codec.pt").is_file():
        principal_components(codec, recipe.seed)

    def losses(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = loader(recipe.seed, range(first, recipe.steps), [recipe.batch] * recipe.steps, [recipe.latents] * recipe.steps)
        for step, batch in enumerate(batches, start=first):
            yield codec_loss(codec, groups(batch.frames.to(device)), recipe, np.random.default_rng((recipe.seed, 5, step)))

    descend(codec, list(codec.parameters()), recipe, work, "codec", losses, stop)
    with torch.no_grad():
        renormalise(codec, recipe.seed)
    write(codec, out)
    return measure(codec.eval(), recipe.seed)[0]


def codec_loss(codec: PocketCodec, pixels: Tensor, recipe: CodecRecipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Squared error of decoding frames from latents and the frame before, with a little noise on both; with what keeps the latents at zero
    mean and unit variance, and without."""
    count = pixels.shape[1]
    latents = codec.forward_encoder(pixels.flatten(0, 1)).unflatten(0, (-1, count))
    noise = torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(latents)
    before = torch.cat((latents[:, :1], latents[:, :-1]), dim=1)
    noisy = latents + recipe.noise * noise
    drawn = codec.forward_decoder(noisy.flatten(0, 1), (before + recipe.noise * noise.roll(1, 1)).flatten(0, 1))
    error = F.mse_loss(drawn, pixels.flatten(0, 1))
    moments = latents.mean((0, 1, 3, 4)).square().mean() + (latents.std((0, 1, 3, 4)) - 1).square().mean()
    return error + 1e-4 * moments, error
