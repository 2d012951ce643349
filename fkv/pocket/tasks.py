"""What the pocket model is asked for in one step: batches become clips with a disturbed past, and targets.

The clean past is disturbed with a little noise, in some clips worn (`fkv.pocket.worn`) and, towards the end of training, partly replaced by
what the model itself makes of it, chunk after chunk through the cache, so that long rollouts hold (diffusion forcing, arXiv 2407.01392;
Self Forcing, arXiv 2506.08009). What is to be denoised is then partly what its own sampler met on the way, and what is to come out is how
the world goes on from there (`fkv.pocket.guide`). Chunks that nothing in text and past tells of are neither targets nor replaced. Where a
clip leaves out some time after its first chunk and that is not too long, the model plays it, so that what is trained on comes late in its
own play.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fkv.cache import Commit, KVCache, Roles
from fkv.codec import PocketCodec, PocketDecoder
from fkv.pocket.data import GROUP, PLAYABLE, Batch
from fkv.pocket.guide import Guide, Piece, apart, between, cells
from fkv.pocket.recipe import ModelRecipe
from fkv.pocket.teacher import Clip, Teacher, sample_sight
from fkv.pocket.worn import Worn
from fkv.spec import ModelSpec
from fkv.stream import noised
from fkv.wan import TextKV

Drawn = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Task:
    """A batch ready for the network: the clip, its x0 target [b, F, c, H, W], its object masks [b, F, H, W] and loss weights [b, F], and,
    where the clip is first to be partly the network's own, what that takes."""

    clip: Clip
    target: Tensor
    mask: Tensor
    weight: Tensor
    recipe: ModelRecipe
    own: Own | None = None

    def part(self, clips: slice) -> Task:
        c = self.clip
        clip = Clip(c.clean[clips], c.noisy[clips], c.sigma[clips], c.text[clips], c.frames, c.sight)
        own = None if self.own is None else self.own.part(clips)
        parts = {name: getattr(self, name)[clips] for name in ("target", "mask", "weight")}
        return replace(self, clip=clip, own=own, **parts)

    def loss(self, teacher: Teacher) -> tuple[Tensor, float]:
        """Weighted error of x0, square up to `robust` and linear beyond it, and what local heads stray; and the plain square error of all
        chunks but the first."""
        task = self if self.own is None else self.own.played(teacher, self)
        found, stray = teacher.predict(task.clip)
        error = (found - task.target).square().mean(dim=2)
        weight = (1 + self.recipe.object_weight * task.mask) * task.weight[:, :, None, None]
        later = float(error[:, teacher.spec.chunk :].detach().mean())
        return (robust(error, self.recipe.robust) * weight).mean() + self.recipe.near * stray, later


def robust(square: Tensor, bend: float) -> Tensor:
    """Square errors as they are while small, and 2 * `bend` times their root where that is far beyond `bend` (pseudo-Huber)."""
    return 2 * bend * ((square + bend**2).sqrt() - bend)


@dataclass(frozen=True)
class Player:
    """A model at work on clips: its sampler, and the cache in which it remembers what it made."""

    teacher: Teacher
    text: TextKV
    cache: KVCache
    noises: Tensor

    def sampled(self, number: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Each step's input and x0 for chunk `number` of the play, whose first latent frame is `first`."""
        spec = self.teacher.spec
        noises, schedule = self.noises[:, :, number * spec.chunk : (number + 1) * spec.chunk], spec.schedule
        made = noises[0]
        for step, t in enumerate(schedule.timesteps()):
            x = noised(made, noises[step], schedule.sigma(t)) if step else noises[0]
            made = self.teacher.model(x, t, self.text, self.cache, first)
            yield x, made

    def remember(self, number: int, first: int, latents: Tensor) -> None:
        spec = self.teacher.spec
        with self.cache.committing(Commit(number, first, spec.chunk, spec.geometry)):
            self.teacher.model.remember(latents, spec.schedule.context, self.text, self.cache, first)


@dataclass(frozen=True)
class Own:
    """What it takes to play a clip as the sampler does: its noises [steps, b, F, c, H, W], the share [b, F] to which the past becomes the
    network's own, the state of the sampler [b, F] that a noisy chunk is taken from (0: from the truth), what is told [b, F], the scenes
    and the codec to see by where the network's objects are, whether the text of each clip says where they start, and how many chunks are
    played between the first of the clip and the next, so that the others come late in a long play (noises and scenes have these too); and
    how its past is `worn`, if it is."""

    noises: Tensor
    swap: Tensor
    state: Tensor
    told: Tensor
    reels: Sequence[Sequence[Piece]]
    codec: PocketCodec
    placed: Sequence[bool]
    passed: int = 0
    worn: Worn | None = None

    def part(self, clips: slice) -> Own:
        noises, swap, state, told = self.noises[:, clips], self.swap[clips], self.state[clips], self.told[clips]
        reels, placed, worn = self.reels[clips], self.placed[clips], self.worn and self.worn.part(clips)
        return replace(self, noises=noises, swap=swap, state=state, told=told, reels=reels, placed=placed, worn=worn)

    @torch.no_grad()
    def played(self, teacher: Teacher, task: Task) -> Task:
        """The clip chunk after chunk as the network makes it with the cache of its sight, each with what it made before as its past and the
        world's own continuation of that past as its target, or, from half-way through the sampler, what comes out of it, made sharp."""
        model, chunk, clip = teacher.model, teacher.spec.chunk, task.clip
        cache = model.new_cache(clip.sight.policy, teacher.spec.geometry, len(clip.clean))
        player, decoder = Player(teacher, model.read_text(clip.text), cache, self.noises), self.codec.decoder()
        guides = [Guide(reel, chunk * GROUP, placed=placed) for reel, placed in zip(self.reels, self.placed)]
        level = clip.sigma.repeat_interleave(chunk, dim=1)[:, :, None, None, None]
        clean, noisy, target, mask = clip.clean.clone(), clip.noisy.clone(), task.target.clone(), task.mask.clone()
        for index, first in enumerate(clip.frames[::chunk].tolist()):
            if index == 1:
                self.pass_time(player, decoder, guides, first)
            here, number = slice(index * chunk, (index + 1) * chunk), index + (self.passed if index else 0)
            self.guided(guides, number, self.told[:, here.start].tolist(), target[:, here], mask[:, here])
            moved = target[:, here] - task.target[:, here]
            clean[:, here] += moved
            noisy[:, here] += (1 - level[:, here]) * moved
            met = list(player.sampled(number, first))
            for step, (x, _) in enumerate(met[1:], start=1):
                noisy[:, here] = torch.where(self.state[:, here, None, None, None] == step, x, noisy[:, here])
            made = met[-1][1]
            clean[:, here] += self.swap[:, here, None, None, None] * (made - clean[:, here])
            if self.worn:
                clean[:, here] = self.worn.of(clean[:, here], mask[:, here], here)
            placed = self.watch(guides, here.start, decoder.decode(made).cpu().numpy(), clip.sigma[:, index].tolist())
            self.draw(placed, target[:, here], mask[:, here])
            if index + 1 < clip.sigma.shape[1]:
                player.remember(number, first, clean[:, here])
        return replace(task, clip=replace(clip, clean=clean, noisy=noisy), target=target, mask=mask)

    def pass_time(self, player: Player, decoder: PocketDecoder, guides: Sequence[Guide], end: int) -> None:
        """Play the chunks after the first of the clip up to latent frame `end`, and see where objects come to be in them."""
        chunk = player.teacher.spec.chunk
        for number in range(1, self.passed + 1):
            first = end - (self.passed + 1 - number) * chunk
            *_, (_, made) = player.sampled(number, first)
            player.remember(number, first, made)
            for guide, frames in zip(guides, decoder.decode(made).cpu().numpy()):
                guide.enter(number, told=True)
                guide.off = guide.found(frames)

    def guided(self, guides: Sequence[Guide], number: int, told: Sequence[float], target: Tensor, mask: Tensor) -> None:
        """Draw anew the target [b, chunk, c, H, W] and the mask of chunk `number` of the play, in place, where objects are not where the
        script has them; whether it is `told` where they are, per clip."""
        for guide, known in zip(guides, told):
            guide.enter(number, told=bool(known))
        self.draw({number: guide.drawn() for number, guide in enumerate(guides) if guide.strayed}, target, mask)

    def watch(self, guides: Sequence[Guide], frame: int, pixels: np.ndarray, levels: Sequence[float]) -> dict[int, Drawn]:
        """See where the network's objects are in the pixels [b, n, h, w, 3] of the chunk from latent `frame` on. A clip goes on from there
        where the chunk becomes its past; what is to come out of a state of the sampler at a noise level is given per clip."""
        asked = {}
        for number, (guide, frames, level) in enumerate(zip(guides, pixels, levels)):
            found, planned = guide.found(frames), guide.planned
            if self.state[number, frame] and apart(found, planned):
                asked[number] = guide.drawn(between(found, planned, level))
            guide.off = found if self.swap[number, frame] else planned
        return asked

    def draw(self, drawn: dict[int, Drawn], target: Tensor, mask: Tensor) -> None:
        """Put drawn frames and masks in the place of some clips' target [b, chunk, c, H, W] and mask."""
        if drawn:
            which, (frames, masks) = list(drawn), zip(*drawn.values())
            target[which] = self.codec.encode(torch.from_numpy(np.stack(frames)))
            mask[which] = torch.from_numpy(np.stack([cells(one, GROUP) for one in masks])).to(mask)


@dataclass(frozen=True)
class Lesson:
    """Turns encoded batches into tasks; what a task is made of depends on the seed and the step alone. `roles` are the static heads of the
    Forcing-KV caches that some tasks show."""

    spec: ModelSpec
    recipe: ModelRecipe
    codec: PocketCodec
    roles: Roles

    def task(self, batch: Batch, target: Tensor, step: int, bare: Tensor | None = None) -> Task:
        """The task of a step for a batch with these latents, and those of its scenery alone where its past is worn."""
        recipe, chunk = self.recipe, self.spec.chunk
        rng = np.random.default_rng((recipe.seed, 7, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clips, frames = target.shape[:2]
        sigma = self.levels(clips, frames // chunk, generator)
        noise = torch.randn(target.shape, generator=generator).to(target)
        strength = torch.rand(clips, generator=generator) * (torch.rand(clips, generator=generator) < 0.6)
        disturbance = recipe.disturb * strength[:, None, None, None, None] * torch.randn(target.shape, generator=generator)
        own = None
        if step >= recipe.own_from * recipe.steps and rng.random() < recipe.own and frames > chunk:
            own, sigma = self.own(batch, target, sigma, generator)
        mask, worn = batch.mask.to(target), None if bare is None else Worn.drawn(bare, chunk, generator)
        past = worn.of(target, mask) if worn and not own else target
        level = sigma.repeat_interleave(chunk, dim=1)[:, :, None, None, None].to(target)
        clip = Clip(
            clean=past + disturbance.to(target),
            noisy=(1 - level) * target + level * noise,
            sigma=sigma.to(target),
            text=batch.text.to(target),
            frames=batch.numbers,
            sight=sample_sight(frames // chunk, self.spec, rng, self.roles),
        )
        moving = torch.tensor([recipe.panning if reel[-1].scene.camera != "still" else 1.0 for reel in batch.reels]).to(target)
        weight = batch.told.to(target) * moving[:, None] / (level[:, :, 0, 0, 0].square() + 0.1)
        return Task(clip, target, mask, weight, recipe, own and replace(own, worn=worn))

    def own(self, batch: Batch, target: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Own, Tensor]:
        """What a clip is played with, and its noise levels, which are the sampler's where a chunk is taken from one of its states. A gap in
        time that is not too long is played too: what comes after it is then told, where nothing is left out of it."""
        schedule, chunk = self.spec.schedule, self.spec.chunk
        levels = torch.tensor([schedule.sigma(t) for t in schedule.timesteps()])
        passed, (clips, frames, *latent) = batch.gap if batch.gap <= PLAYABLE else 0, target.shape
        noises = torch.randn((len(levels), clips, frames + passed * chunk, *latent), generator=generator).to(target)
        swap = (torch.rand(sigma.shape, generator=generator) < self.recipe.swap).to(target).repeat_interleave(chunk, dim=1)
        state = torch.randint(1, len(levels), sigma.shape, generator=generator)
        state *= torch.rand(sigma.shape, generator=generator) < self.recipe.met
        sigma = torch.where(state > 0, levels[state], sigma)
        told, reels = batch.told.to(target, copy=True), batch.reels
        if passed:
            for known, (_, later, *_) in zip(told, reels):
                known[chunk : 2 * chunk] = bool(np.isfinite(later.starts).all())
            reels = [[first, Piece(first.scene, first.first + first.count, passed * first.count), *rest] for first, *rest in reels]
        state = state.repeat_interleave(chunk, dim=1).to(target.device)
        return Own(noises, swap * told, state, told, reels, self.codec, batch.placed, passed), sigma

    def levels(self, clips: int, chunks: int, generator: torch.Generator) -> Tensor:
        """Noise level of every chunk [clips, chunks]: half at 1, where it is decided how far things move, and the others uniform down to a
        little below the sampler's last."""
        low = self.spec.schedule.sigma(self.spec.schedule.timesteps()[-1]) - 0.05
        uniform = low + (1 - low) * torch.rand(clips, chunks, generator=generator)
        return torch.where(torch.rand(clips, chunks, generator=generator) < 1 / 2, torch.ones(()), uniform)
