"""Training of the pocket model: flow matching on clean chunks ahead of noisy ones, with the network's x0 as output.

Loss: squared error of x0, weighted by 1 / (sigma^2 + 0.1), more where objects are. Noise levels are those the sampler meets, from 1 to a
little below its last. What a step asks for is in `fkv.pocket.tasks`. Matrices inside blocks move by Muon, all else by AdamW.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fkv import weights
from fkv.cache import Roles
from fkv.codec import PocketCodec, load_pocket
from fkv.heads import HeadProfile
from fkv.pocket import run
from fkv.pocket.data import Batch, loader
from fkv.pocket.muon import Muon
from fkv.pocket.recipe import BLOCK, ModelRecipe
from fkv.pocket.tasks import Lesson, Task
from fkv.pocket.teacher import Teacher, local_heads
from fkv.spec import ModelSpec
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
        self.held: dict[int, tuple[Batch, Tensor, Tensor | None]] = {}

    def __getitem__(self, index: int) -> tuple[Batch, Tensor, Tensor | None]:
        while self.next <= index:
            batch = next(self.batches)
            target = self.codec.encode(batch.frames.to(self.device))
            bare = None if batch.bare is None else self.codec.encode(batch.bare.to(self.device))
            batch.frames, batch.bare = batch.frames[:0], None
            self.held[self.next] = batch, target, bare
            self.held.pop(self.next - BLOCK, None)
            self.next += 1
        return self.held[index]


class ModelRun:
    """One training run on disk: resumed where its checkpoint is, saved whenever asked."""

    def __init__(self, spec: ModelSpec, recipe: ModelRecipe, work: Path, device: str, init: Path | None):
        self.recipe, self.checkpoint = recipe, work / "model.pt"
        self.model = CausalWan(spec.net).to(device)
        initialise(self.model, recipe.seed)
        self.begun = weights_of(init, self.model, spec) if init is not None else {}
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
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run or resume, from nothing or from the weights in `init` and the head profile beside them; writes `model.safetensors` (weights
    averaged over the last steps, and with those in `init`) into `out` once all steps are done. `stop` is asked before every step; where it
    says so, this saves and raises run.Stopped. A kill loses a minute at most. `after` is told each step done."""
    codec = load_pocket(out, device)
    training = ModelRun(spec, recipe, work, device, init)
    crew, lesson = Crew(training.model, spec, workers, compiled=compiled), Lesson(spec, recipe, codec, known_roles(spec, init))
    plan = run.Plan(recipe.steps, recipe.warmup, recipe.decay)
    chunks, clips = recipe.plan()
    work.mkdir(parents=True, exist_ok=True)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    begin = recipe.batch_of(training.next) // BLOCK * BLOCK
    batches = loader(recipe.seed, range(begin, len(clips)), clips, [count * spec.chunk for count in chunks], worn=True)
    pool = Pool(codec, batches, begin, device)
    progress = run.Progress(work / "model.jsonl", training.next, recipe.steps, "model")
    try:
        for step in range(training.next, recipe.steps):
            if stop():
                raise run.Stopped(step)
            batch, target, bare = pool[recipe.batch_of(step)]
            progress.step(step, training.step(crew, lesson.task(batch, target, step, bare), plan.rate(step)))
            if progress.due():
                training.save()
            if after is not None:
                after(step)
    finally:
        training.save()
        progress.bar.close()
    export(kept(training.average.shadow, training.begun, recipe.keep), out)


def weights_of(path: Path, model: CausalWan, spec: ModelSpec) -> dict[str, Tensor]:
    """Weights of the model in float32. Raises FileNotFoundError or ValueError where the file is missing, damaged or of another model."""
    with weights.opened(path) as state:
        weights.check(weights.shapes(model), weights.shapes_of(state), path, spec, "give weights of the pocket model to --init")
        return {name: state[name].float().to(model.patch_embedding.weight.device) for name in state}


def known_roles(spec: ModelSpec, init: Path | None) -> Roles:
    """The static heads by the profile `heads.json` beside the weights to go on from; without one the heads that are trained to be local.
    Raises ValueError where it is no profile of the model."""
    profile = init.with_name("heads.json") if init is not None else None
    if profile is None or not profile.is_file():
        return tuple(map(tuple, local_heads(spec.net.layers, spec.net.heads)))
    try:
        return HeadProfile.from_json(profile.read_text(), spec.geometry).roles()
    except ValueError as error:
        raise ValueError(f"{profile}: {error}") from None


def kept(state: dict[str, Tensor], begun: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The mean of what a run has reached and what it began from, the latter counted `share`; as it is where it began from nothing."""
    return {name: tensor.lerp(begun[name], share) for name, tensor in state.items()} if begun else state


def export(state: dict[str, Tensor], out: Path) -> None:
    """Averaged weights as `model.safetensors` in float16, which keeps them below the size limit of one file."""
    tensors = {name: tensor.half().contiguous() for name, tensor in state.items()}
    part = out / "model.part"
    save_file(tensors, part)
    part.replace(out / "model.safetensors")
