"""Training of the pocket model: flow matching on clean chunks ahead of noisy ones, with the network's x0 as output.

Loss: squared error of x0, weighted by 1 / (sigma^2 + 0.1), more where objects are. Noise levels are those the four-step sampler meets,
sigma in [0.45, 1]. The clean past is disturbed with a little noise and, towards the end, partly replaced by what the model itself makes
of it, chunk after chunk through the cache, so that long rollouts hold (diffusion forcing, arXiv 2407.01392; Self Forcing,
arXiv 2506.08009); what is to be denoised is then partly what its own sampler met on the way, and what is to come out is how the world goes
on from there (`fkv.pocket.guide`). Chunks that nothing in text and past tells of are neither targets nor replaced. Matrices inside blocks
move by Muon, all else by AdamW.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fkv.cache import Commit
from fkv.codec import PocketCodec, load_pocket
from fkv.pocket import run
from fkv.pocket.data import GROUP, Batch, loader
from fkv.pocket.guide import Guide, Piece, cells
from fkv.pocket.muon import Muon
from fkv.pocket.recipe import BLOCK, ModelRecipe
from fkv.pocket.teacher import Clip, Teacher, local_heads, sample_sight
from fkv.policies.full import Full
from fkv.spec import ModelSpec
from fkv.stream import noised
from fkv.wan import Block, CausalWan


def initialise(model: CausalWan, seed: int) -> None:
    """Open gates, zero modulation from time and zero output at the start: short trainings get going at once."""
    torch.manual_seed(seed)
    depth = len(model.blocks)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    nn.init.zeros_(model.time_projection.get_parameter("1.weight"))
    nn.init.zeros_(model.head.head.weight)
    nn.init.zeros_(model.head.modulation)
    with torch.no_grad():
        for block in model.blocks:
            assert isinstance(block, Block)
            block.modulation.zero_()
            block.modulation[:, [2, 5]] = 1
            for matrix in (block.self_attn.o.weight, block.cross_attn.o.weight, block.ffn.get_parameter("2.weight")):
                matrix.mul_((3 * depth) ** -0.5)


def optimisers(model: CausalWan, recipe: ModelRecipe) -> list[torch.optim.Optimizer]:
    named = dict(model.named_parameters())
    matrices = [param for name, param in named.items() if name.startswith("blocks.") and param.ndim == 2]
    rest = [param for name, param in named.items() if not (name.startswith("blocks.") and param.ndim == 2)]
    return [
        *(Muon(matrices[half::2], lr=recipe.matrix_rate, weight_decay=recipe.weight_decay) for half in (0, 1)),
        torch.optim.AdamW(rest, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


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
        return replace(self, clip=clip, target=self.target[clips], mask=self.mask[clips], weight=self.weight[clips], own=own)

    def loss(self, teacher: Teacher) -> tuple[Tensor, float]:
        """Weighted squared error of x0 and what local heads stray, and the plain error of all chunks but the first."""
        task = self if self.own is None else self.own.played(teacher, self)
        found, stray = teacher.predict(task.clip)
        error = (found - task.target).square().mean(dim=2)
        weight = (1 + self.recipe.object_weight * task.mask) * task.weight[:, :, None, None]
        return (error * weight).mean() + self.recipe.near * stray, float(error[:, teacher.spec.chunk :].detach().mean())


@dataclass(frozen=True)
class Own:
    """What it takes to play a clip as the sampler does: its noises [steps, b, F, c, H, W], the share [b, F] to which the past becomes the
    network's own, the state of the sampler [b, F] that a noisy chunk is taken from (0: from the truth), what is told [b, F], and the scenes
    and the codec to see by where the network's objects are."""

    noises: Tensor
    swap: Tensor
    state: Tensor
    told: Tensor
    reels: Sequence[Sequence[Piece]]
    codec: PocketCodec

    def part(self, clips: slice) -> Own:
        noises, swap, state, told = self.noises[:, clips], self.swap[clips], self.state[clips], self.told[clips]
        return Own(noises, swap, state, told, self.reels[clips], self.codec)

    @torch.no_grad()
    def played(self, teacher: Teacher, task: Task) -> Task:
        """The clip chunk after chunk as the network makes it, each with what it made before as its past and the world's own continuation of
        that past as its target."""
        model, chunk, schedule, clip = teacher.model, teacher.spec.chunk, teacher.spec.schedule, task.clip
        sigmas = [schedule.sigma(t) for t in schedule.timesteps()]
        text, cache = model.read_text(clip.text), model.new_cache(Full(), teacher.spec.geometry, len(clip.clean))
        guides = [Guide(reel, chunk * GROUP) for reel in self.reels]
        level = clip.sigma.repeat_interleave(chunk, dim=1)[:, :, None, None, None]
        clean, noisy, target, mask = clip.clean.clone(), clip.noisy.clone(), task.target.clone(), task.mask.clone()
        decoder = self.codec.decoder()
        for index, first in enumerate(clip.frames[::chunk].tolist()):
            here = slice(index * chunk, (index + 1) * chunk)
            self.guided(guides, index, target[:, here], mask[:, here])
            moved = target[:, here] - task.target[:, here]
            clean[:, here] += moved
            noisy[:, here] += (1 - level[:, here]) * moved
            x = made = self.noises[0, :, here]
            for step, (t, sigma) in enumerate(zip(schedule.timesteps(), sigmas)):
                if step:
                    x = noised(made, self.noises[step, :, here], sigma)
                    noisy[:, here] = torch.where(self.state[:, here, None, None, None] == step, x, noisy[:, here])
                made = model(x, t, text, cache, first)
            clean[:, here] += self.swap[:, here, None, None, None] * (made - clean[:, here])
            if index + 1 < clip.sigma.shape[1]:
                self.watch(guides, here.start, decoder.decode(clean[:, here]).cpu().numpy())
                with cache.committing(Commit(index, first, chunk, teacher.spec.geometry, recache=False)):
                    model.remember(clean[:, here], schedule.context, text, cache, first)
        return replace(task, clip=replace(clip, clean=clean, noisy=noisy), target=target, mask=mask)

    def guided(self, guides: Sequence[Guide], index: int, target: Tensor, mask: Tensor) -> None:
        """Draw anew the target [b, chunk, c, H, W] and the mask of a chunk, in place, where objects are not where the script has them."""
        for guide, told in zip(guides, self.told[:, index * target.shape[1]].tolist()):
            guide.enter(index, told=bool(told))
        strayed = [number for number, guide in enumerate(guides) if guide.strayed]
        if strayed:
            frames, masks = zip(*(guides[number].drawn() for number in strayed))
            target[strayed] = self.codec.encode(torch.from_numpy(np.stack(frames)))
            mask[strayed] = torch.from_numpy(np.stack([cells(one, GROUP) for one in masks])).to(mask)

    def watch(self, guides: Sequence[Guide], frame: int, pixels: np.ndarray) -> None:
        """See in a chunk's pixels [b, n, h, w, 3], which begins at latent `frame`, where the network has drawn objects of its own."""
        for guide, own, frames in zip(guides, self.swap[:, frame].tolist(), pixels):
            guide.seen(frames) if own else guide.passed()


@dataclass(frozen=True)
class Lesson:
    """Turns encoded batches into tasks; what a task is made of depends on the seed and the step alone."""

    spec: ModelSpec
    recipe: ModelRecipe
    codec: PocketCodec

    def task(self, batch: Batch, target: Tensor, step: int) -> Task:
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
        level = sigma.repeat_interleave(chunk, dim=1)[:, :, None, None, None].to(target)
        clip = Clip(
            clean=target + disturbance.to(target),
            noisy=(1 - level) * target + level * noise,
            sigma=sigma.to(target),
            text=batch.text.to(target),
            frames=batch.numbers,
            sight=sample_sight(frames // chunk, self.spec.geometry, rng),
        )
        weight = batch.told.to(target) / (level[:, :, 0, 0, 0].square() + 0.1)
        return Task(clip, target, batch.mask.to(target), weight, recipe, own)

    def own(self, batch: Batch, target: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Own, Tensor]:
        """What a clip is played with, and its noise levels, which are the sampler's where a chunk is taken from one of its states."""
        schedule, chunk = self.spec.schedule, self.spec.chunk
        levels = torch.tensor([schedule.sigma(t) for t in schedule.timesteps()])
        noises = torch.randn((len(levels), *target.shape), generator=generator).to(target)
        swap = (torch.rand(sigma.shape, generator=generator) < self.recipe.swap).to(target).repeat_interleave(chunk, dim=1)
        state = torch.randint(1, len(levels), sigma.shape, generator=generator)
        state *= torch.rand(sigma.shape, generator=generator) < self.recipe.met
        sigma = torch.where(state > 0, levels[state], sigma)
        told = batch.told.to(target)
        state = state.repeat_interleave(chunk, dim=1).to(target.device)
        return Own(noises, swap * told, state, told, batch.reels, self.codec), sigma

    def levels(self, clips: int, chunks: int, generator: torch.Generator) -> Tensor:
        """Noise level of every chunk [clips, chunks]: a quarter at 1, the others uniform in [0.45, 1]."""
        uniform = 0.45 + 0.55 * torch.rand(clips, chunks, generator=generator)
        return torch.where(torch.rand(clips, chunks, generator=generator) < 0.25, torch.ones(()), uniform)


class Crew:
    """Replicas of one model that share its weights and work on shares of a batch in threads of their own, one core each: on a CPU that
    wastes less time than many threads inside every operation. With one worker it is the plain loop."""

    def __init__(self, model: CausalWan, spec: ModelSpec, workers: int, *, compiled: bool):
        local = local_heads(spec.net.layers, spec.net.heads)
        make = Teacher.compiled if compiled else Teacher
        self.replicas = [model]
        for _ in range(workers - 1):
            twin = CausalWan(spec.net)
            for mine, shared in zip(twin.parameters(), model.parameters()):
                mine.data = shared.data
            self.replicas.append(twin)
        self.teachers = [make(replica, spec, local) for replica in self.replicas]
        self.pool = ThreadPoolExecutor(workers)

    def work(self, task: Task) -> tuple[float, float]:
        """Loss and plain error of a task, its gradients left on the model."""
        clips = len(task.target)
        edges = [clips * i // len(self.replicas) for i in range(len(self.replicas) + 1)]
        shares = [
            (teacher, task.part(slice(low, high)), (high - low) / clips)
            for teacher, low, high in zip(self.teachers, edges, edges[1:])
            if high > low
        ]
        results = list(self.pool.map(self._share, *zip(*shares)))
        for param, *others in zip(*(replica.parameters() for replica in self.replicas)):
            for other in others:
                if other.grad is not None:
                    param.grad = other.grad if param.grad is None else param.grad.add_(other.grad)
                    other.grad = None
        return sum(loss for loss, _ in results), sum(later for _, later in results)

    @staticmethod
    def _share(teacher: Teacher, task: Task, share: float) -> tuple[float, float]:
        loss, later = task.loss(teacher)
        (loss * share).backward()
        return float(loss.detach()) * share, later * share

    def step(self, optimisers: Sequence[torch.optim.Optimizer]) -> None:
        list(self.pool.map(lambda optimiser: optimiser.step(), optimisers))


class Pool:
    """Encoded batches of the current run of BLOCK batches, pulled from the loader as they are asked for."""

    def __init__(self, codec: PocketCodec, batches: Iterator[Batch], first: int, device: str):
        self.codec, self.batches, self.next, self.device = codec, batches, first, device
        self.held: dict[int, tuple[Batch, Tensor]] = {}

    def __getitem__(self, index: int) -> tuple[Batch, Tensor]:
        while self.next <= index:
            batch = next(self.batches)
            target = self.codec.encode(batch.frames.to(self.device))
            batch.frames = batch.frames[:0]
            self.held[self.next] = batch, target
            self.held.pop(self.next - BLOCK, None)
            self.next += 1
        return self.held[index]


class ModelRun:
    """One training run on disk: resumed where its checkpoint is, saved whenever asked."""

    def __init__(self, spec: ModelSpec, recipe: ModelRecipe, work: Path, out: Path, device: str, init: Path | None):
        self.recipe, self.checkpoint, self.out = recipe, work / "model.pt", out
        self.model = CausalWan(spec.net).to(device)
        initialise(self.model, recipe.seed)
        self.begun = {name: tensor.float().to(device) for name, tensor in load_file(init).items()} if init is not None else {}
        if self.begun:
            self.model.load_state_dict(self.begun)
        self.optimisers = optimisers(self.model, recipe)
        self.average, self.next = run.Average(self.model, recipe.average), 0
        if state := run.load(self.checkpoint):
            self.model.load_state_dict(state["model"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"]):
                optimiser.load_state_dict(saved)
            self.average.shadow, self.next, self.begun = state["average"], state["step"], state.get("begun", self.begun)

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "optimisers": run.optimisers_state(self.optimisers)}
        run.save(self.checkpoint, {**state, "average": self.average.shadow, "step": self.next, "begun": self.begun})
        export(kept(self.average.shadow, self.begun, self.recipe.keep), self.out)

    def step(self, crew: Crew, task: Task, rate: float) -> dict[str, float]:
        """One update at a share `rate` of the full learning rates; gives numbers for the log."""
        recipe = self.recipe
        run.set_rate(self.optimisers, (recipe.matrix_rate, recipe.matrix_rate, recipe.rate), rate)
        self.model.zero_grad(set_to_none=True)
        loss, later = crew.work(task)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        crew.step(self.optimisers)
        self.average.update(self.model, self.next)
        self.next += 1
        return {"loss": loss, "later": later, "norm": float(norm)}


def train_model(
    spec: ModelSpec,
    recipe: ModelRecipe,
    work: Path,
    out: Path,
    device: str,
    *,
    compiled: bool = False,
    init: Path | None = None,
    workers: int = 1,
    after: Callable[[int], None] | None = None,
) -> None:
    """Run or resume, from nothing or from the weights in `init`; writes `model.safetensors` (weights averaged over the last steps, and
    with those in `init`) into `out` every minute and at the end. An interrupt saves first; a kill loses a minute at most.
    `after` is told each step done."""
    codec = load_pocket(out, device)
    training = ModelRun(spec, recipe, work, out, device, init)
    crew, lesson = Crew(training.model, spec, workers, compiled=compiled), Lesson(spec, recipe, codec)
    plan = run.Plan(recipe.steps, recipe.warmup, recipe.decay)
    chunks, clips = recipe.plan()
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    begin = recipe.batch_of(training.next) // BLOCK * BLOCK
    pool = Pool(codec, loader(recipe.seed, range(begin, len(clips)), clips, [count * spec.chunk for count in chunks]), begin, device)
    progress = run.Progress(work / "model.jsonl", training.next, recipe.steps, "model")
    try:
        for step in range(training.next, recipe.steps):
            batch, target = pool[recipe.batch_of(step)]
            progress.step(step, training.step(crew, lesson.task(batch, target, step), plan.rate(step)))
            if progress.due():
                training.save()
            if after is not None:
                after(step)
    finally:
        training.save()


def kept(state: dict[str, Tensor], begun: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The mean of what a run has reached and what it began from, the latter counted `share`; as it is where it began from nothing."""
    return {name: tensor.lerp(begun[name], share) for name, tensor in state.items()} if begun else state


def export(state: dict[str, Tensor], out: Path) -> None:
    """Averaged weights as `model.safetensors` in float16, which keeps them below the size limit of one file."""
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items()}
    part = out / "model.part"
    save_file(tensors, part)
    part.replace(out / "model.safetensors")
