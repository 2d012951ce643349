"""Training of the pocket decoder on what the model draws. The codec was trained with a little noise on its latents, but the model errs in
another way: whole tokens a little off, which show as blocks. A decoder that has met such latents next to the true pixels smooths them out.
The encoder stays as it is, and with it what the model was trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from fkv.codec import CELL, PocketCodec, load_pocket
from fkv.pocket.data import GROUP, Batch, draw, loader
from fkv.pocket.teacher import Clip, Sight, Teacher, rolling
from fkv.pocket.train_codec import descend, groups, write
from fkv.spec import ModelSpec
from fkv.stream import noised
from fkv.wan import CausalWan


@dataclass(frozen=True)
class DecoderRecipe:
    """Batches of `batch` clips of `latents` frames. A share `clean` of the clips is decoded from true latents with a noise of standard
    deviation `noise`, the others from what the model makes of them in the last steps of its sampler, `passes` at most. `object_weight` is
    what pixels of objects weigh beyond others, `edges` what the absolute error weighs beside the squared one: it keeps edges sharp.
    `change` is what the absolute error of the change from a pixel to the next weighs (`changes`): it shows as seams and flicker."""

    steps: int = 1600
    batch: int = 4
    latents: int = 6
    clean: float = 0.5
    noise: float = 0.06
    passes: int = 2
    object_weight: float = 1.0
    edges: float = 0.1
    change: float = 0.3
    rate: float = 1e-3
    warmup: int = 50
    decay: int = 1400
    seed: int = 13


def reader(spec: ModelSpec, weights: Path, device: str) -> Teacher:
    """The model of a `model.safetensors`, to predict whole clips with."""
    model = CausalWan(spec.net).to(device).eval()
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return Teacher(model, spec, [[]] * spec.net.layers)


@torch.no_grad()
def redrawn(teacher: Teacher, latents: Tensor, text: Tensor, numbers: Tensor, passes: int, generator: torch.Generator) -> Tensor:
    """What the model makes of latents [b, F, c, H, W], frames `numbers` [F] of what `text` [b, len, dim] says, in the last `passes` steps
    of its sampler, chunks seeing the true past."""
    spec, made = teacher.spec, latents
    past = rolling(latents.shape[1] // spec.chunk, spec)
    for t in spec.schedule.timesteps()[-passes:]:
        sigma = spec.schedule.sigma(t)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        level = latents.new_full((len(latents), len(past)), sigma)
        made, _ = teacher.predict(Clip(latents, noised(made, noise, sigma), level, text.to(latents), numbers, Sight(past, past)))
    return made


def example(codec: PocketCodec, teacher: Teacher, recipe: DecoderRecipe, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
    """Latents [b, F, c, H, W] to decode in a step, and the weights [b, F, 1, h, w] of the pixels that should come out: where nothing tells
    what a frame shows, the model draws a blur that no decoder can know better, so only true latents count there."""
    rng = np.random.default_rng((recipe.seed, 5, step))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    latents = codec.encode(batch.frames)
    made = latents + recipe.noise * torch.randn(latents.shape, generator=generator).to(latents)
    drawn = (torch.rand(len(latents), generator=generator) >= recipe.clean).to(latents.device)
    if drawn.any():
        passes = int(rng.integers(1, recipe.passes + 1))
        made[drawn] = redrawn(teacher, latents[drawn], batch.text.to(latents)[drawn], batch.numbers, passes, generator)
    told = torch.maximum(batch.told.to(latents), (~drawn)[:, None].to(latents))
    weight = (1 + recipe.object_weight * batch.mask.to(latents)) * told[:, :, None, None]
    return made, upsampled(weight)


def upsampled(weight: Tensor) -> Tensor:
    """Numbers per latent cell [b, F, H, W] as numbers per pixel [b, F, 1, h, w]."""
    return weight.repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)[:, :, None]


def decoded(codec: PocketCodec, latents: Tensor) -> Tensor:
    """Pixels [b, F, 12, h, w] of latents [b, F, c, H, W], the first frame of a clip with itself for its past."""
    before = torch.cat((latents[:, :1], latents[:, :-1]), dim=1)
    return codec.forward_decoder(latents.flatten(0, 1), before.flatten(0, 1)).unflatten(0, latents.shape[:2])


def changes(off: Tensor, weight: Tensor) -> Tensor:
    """How wrong, on average, the change is from a pixel to the next in time, below and to the right, summed (gradient difference, arXiv
    1511.05440 section 3.2), of errors [b, F, 12, h, w] and weights [b, F, 1, h, w]. Of two pixels the one counts that weighs less."""
    film, heavy = off.unflatten(2, (GROUP, 3)).flatten(1, 2), weight.repeat_interleave(GROUP, dim=1)
    total = off.new_zeros(())
    for axis in (1, 3, 4):
        last = heavy.shape[axis] - 1
        pair = torch.minimum(heavy.narrow(axis, 0, last), heavy.narrow(axis, 1, last))
        total = total + (film.diff(dim=axis).abs() * pair).mean()
    return total


@torch.no_grad()
def drawn_psnr(codec: PocketCodec, teacher: Teacher, recipe: DecoderRecipe, scenes: int = 64) -> float:
    """PSNR in dB of held-out frames as the model draws them, against the true pixels; those that text and past tell of."""
    batch = draw(recipe.seed + 2, 0, scenes, recipe.latents, gaps=False, lean=False)
    told = batch.told.bool().repeat_interleave(GROUP, dim=1)
    generator, latents = torch.Generator().manual_seed(recipe.seed), codec.encode(batch.frames)
    made = redrawn(teacher, latents, batch.text, batch.numbers, recipe.passes, generator)
    error = (codec.decoder().decode(made).cpu().float() - batch.frames.float()).square()[told].mean()
    return float(10 * torch.log10(255.0**2 / error))


def train_decoder(
    spec: ModelSpec, recipe: DecoderRecipe, work: Path, out: Path, device: str, *, stop: Callable[[], bool] = lambda: False
) -> tuple[float, float]:
    """Run or resume; writes `codec.safetensors` into `out` once all steps are done; gives the PSNR in dB of what the model draws, before
    and after. Raises run.Stopped after a step where `stop` says so."""
    before, codec = load_pocket(out, device), load_pocket(out, device).train()
    teacher = reader(spec, out / "model.safetensors", device)

    def losses(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        batches = loader(recipe.seed, range(first, recipe.steps), [recipe.batch] * recipe.steps, [recipe.latents] * recipe.steps)
        for step, batch in enumerate(batches, start=first):
            latents, weight = example(before, teacher, recipe, batch, step)
            off = decoded(codec, latents) - groups(batch.frames.to(device))
            loss = ((off.square() + recipe.edges * off.abs()) * weight).mean() + recipe.change * changes(off, weight)
            yield loss, off.square().mean()

    work.mkdir(parents=True, exist_ok=True)
    (work / "decoder.json").write_text(json.dumps(asdict(recipe), indent=1))
    descend(codec, [*codec.synthesis.parameters(), *codec.draw.parameters()], recipe, work, "decoder", losses, stop)
    write(codec, out)
    return drawn_psnr(before, teacher, recipe), drawn_psnr(codec.eval(), teacher, recipe)
