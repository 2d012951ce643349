"""Training batches of the pocket world: drawn by (seed, step), so that any step can be made again after a restart."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fkv.pocket.guide import Piece, cells
from fkv.pocket.paint import Renderer, camera_path, object_mask
from fkv.pocket.world import Scene, laid_out, layout_of, parsed_of, sample_scene
from fkv.pocket.worn import BESIDE
from fkv.text import encode_many
from fkv.text.motion import PAN_PERIOD

GROUP = 4
TRIES, ROUNDS = 4, 6
PERIOD = int(PAN_PERIOD)
PLAYABLE, FAR = 24, 350  # chunks


@dataclass
class Batch:
    """frames uint8 [b, 4 * f, height, width, 3]; text [b, len, dim]; mask [b, f, rows, columns] object share per latent cell; told [b, f]
    is 1 where text and past say what the frame shows (not at an untold start, before a cut, or right after a gap); numbers [f] absolute
    latent frame numbers, up to whole pans; how many chunks of time are left out after the first chunk; what each clip was cut from, and
    whether its text says where objects start; where its past is to be worn, the scenery alone from beside its place, as frames are."""

    frames: Tensor
    text: Tensor
    mask: Tensor
    told: Tensor
    numbers: Tensor
    gap: int
    reels: list[list[Piece]]
    placed: list[bool]
    bare: Tensor | None = None


def taught(rng: np.random.Generator, *, lean: bool = True) -> Scene:
    """A random scene, laid out as for a prompt. To `lean` to what is hard half have a panning camera for certain, one in four a wall and
    one in four something falling, since that is where a model loses things or their way."""
    kind, scene = int(rng.integers(4)), sample_scene(rng)
    while lean and not (bool(scene.wall), any(thing.motion == "fall" for thing in scene.objects), *2 * (scene.camera != "still",))[kind]:
        scene = sample_scene(rng)
    return laid_out(parsed_of(scene), int(rng.integers(2**31)))


def comes_back(scene: Scene, first: int, count: int) -> bool:
    """Whether in these pixel frames an object that was in view goes out of sight and comes back: from behind a wall, an edge, another."""
    shares = scene.visible(np.arange(first, first + count, GROUP))
    for share in shares.T:
        seen = np.flatnonzero(share > 0.5)
        if len(seen) and (share[seen[0] : seen[-1]] < 0.1).any():
            return True
    return False


def later_start(scene: Scene, begin: int, count: int, rng: np.random.Generator) -> int:
    """A pixel frame beyond 0, some whole pans after `begin`, from which to film `count`: of up to four drawn the first from which something
    comes back, for such moments are rare and a model that has not met them loses what went out of sight."""
    first = begin
    for _ in range(TRIES):
        first = begin + int(rng.integers(begin == 0, ROUNDS)) * PERIOD
        if comes_back(scene, first, count):
            break
    return first


def forgotten(scene: Scene, first: int, group: int, chunks: int, gap: int, rng: np.random.Generator) -> list[Piece]:
    """A clip of `chunks` times `group` pixel frames that lacks one object for some chunks, which then starts `anew`. Half of the clips lack
    it from the first chunk on, the others, and all with a gap of time after the first chunk, once they have shown it: the sink of a rolling
    cache then still has what is gone from all that is newer. What is lost would be in view when it goes, where anything is: what has only
    left the view is to come back by its own way."""
    shown = 1 if gap else int(rng.integers(1, chunks - 1)) if rng.random() < 1 / 2 and chunks > 2 else 0
    without = int(rng.integers(1, chunks - shown))
    lost, back = first + (shown + gap) * group, first + (shown + gap + without) * group
    in_view = np.flatnonzero(scene.visible(np.array([lost]))[0] > 0.5)
    slot = int(rng.choice(in_view if len(in_view) else len(scene.objects)))
    starts = (math.inf, scene.objects[slot].anew(back))
    gone, anew = (tuple(at if other == slot else 0.0 for other in range(len(scene.objects))) for at in starts)
    before = [Piece(scene, first, shown * group)] if shown else []
    return [*before, Piece(scene, lost, back - lost, gone), Piece(scene, back, (chunks - shown - without) * group, anew)]


def painters(pieces: list[Piece]) -> list[Renderer]:
    """One for every piece; pieces of one scene share theirs."""
    scenes = {id(piece.scene): piece.scene for piece in pieces}
    made = {key: Renderer(scene) for key, scene in scenes.items()}
    return [made[id(piece.scene)] for piece in pieces]


def film(pieces: list[Piece], painted: list[Renderer]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel frames and object masks per latent frame of pieces laid one after the other, as their `painters` draw them."""
    frames = np.concatenate([painter.frames(piece.first, piece.count, piece.paths()) for piece, painter in zip(pieces, painted)])
    mask = np.concatenate([object_mask(piece.scene, piece.first, piece.count, piece.paths()) for piece in pieces])
    return frames, cells(mask, GROUP)


def bared(pieces: list[Piece], painted: list[Renderer], beside: float) -> np.ndarray:
    """Pixel frames of the scenery alone; where the camera moves, from `beside` pixels to the right of its place."""
    views = []
    for piece, painter in zip(pieces, painted):
        cameras = camera_path(piece.scene, np.arange(piece.first, piece.first + piece.count))
        views.append(painter.scenery(cameras + beside * (piece.scene.camera != "still")))
    return np.concatenate(views)


def draw(
    seed: int, step: int, batch: int, latents: int, chunk: int = 3, *, gaps: bool = True, lean: bool = True, worn: bool = False
) -> Batch:
    """One batch, of scenes that `lean` to what is hard (`taught`), or as prompts have them. In half of the batches clips start at scene
    time 0, in the others later (`later_start`), half of these with a text that tells where things were at time 0, which a rolling cache has
    forgotten by then; a frame's number stands for the same moment of the pan in all clips. With `gaps`, in 40 % of the batches of three
    chunks or more time jumps forward after the first chunk, which then plays the part of a distant sink: by less than `FAR` chunks, most
    often by so few that a model can play them itself. One long clip in seven that has no gap cuts to its scene from another one, as after a
    change of prompt; with `lean`, a third of the others whose text tells where things start, and a quarter of those with a gap, lack an
    object for some time (`forgotten`): a model learns to draw what it has lost. With `worn`, half of the batches with a past come with what
    it takes to make that worn."""
    rng = np.random.default_rng((seed, step))
    gap = int(rng.integers(1, rng.choice([PLAYABLE + 1, FAR], p=[0.6, 0.4]))) if gaps and latents > 2 * chunk and rng.random() < 0.4 else 0
    scenes, reels, told = [], [], np.ones((batch, latents), np.float32)
    group, rest = GROUP * chunk, GROUP * (latents - chunk)
    late = rest > 0 and rng.random() < 0.5
    begin = int(rng.integers(PERIOD // group)) * group if late else 0
    for clip in range(batch):
        scene = taught(rng, lean=lean)
        start = later_start(scene, begin, group + rest, rng) if late else 0
        cut = rest > 0 and not gap and rng.random() < 1 / 7
        known = cut or not late or rng.random() < 0.5
        if cut:
            other = int(rng.integers(1, latents // chunk)) * group
            before = Piece(taught(rng, lean=lean), begin + int(rng.integers(ROUNDS)) * PERIOD, other)
            reel = [before, Piece(replace(scene, after=begin + other), 0, group + rest - other)]
            told[clip, : other // GROUP] = 0
        elif lean and rest and known and rng.random() < (1 / 4 if gap else 1 / 3):
            reel = forgotten(scene, start, group, latents // chunk, gap, rng)
            told[clip] = np.repeat([np.isfinite(piece.starts).all() for piece in reel], [piece.count // GROUP for piece in reel])
            told[clip, :chunk] *= start == 0
        else:
            reel = [Piece(scene, start, group), Piece(scene, start + group * (1 + gap), rest)][: 2 if rest else 1]
            told[clip, :chunk] = start == 0
            told[clip, chunk : 2 * chunk] = gap == 0
        scenes.append((scene, known))
        reels.append(reel)
    numbers = begin // GROUP + np.arange(latents)
    numbers[chunk:] += gap * chunk
    painted = [painters(reel) for reel in reels]
    films = [film(reel, own) for reel, own in zip(reels, painted)]
    layouts = [layout_of(scene, places=known) for scene, known in scenes]
    wears = worn and rest > 0 and rng.random() < 1 / 2
    bare = np.stack([bared(reel, own, rng.uniform(-BESIDE, BESIDE)) for reel, own in zip(reels, painted)]) if wears else None
    return Batch(
        frames=torch.from_numpy(np.stack([frames for frames, _ in films])),
        text=torch.from_numpy(encode_many([parsed_of(scene) for scene, _ in scenes], layouts)),
        mask=torch.from_numpy(np.stack([mask for _, mask in films])),
        told=torch.from_numpy(told),
        numbers=torch.from_numpy(numbers),
        gap=gap,
        reels=reels,
        placed=[known for _, known in scenes],
        bare=None if bare is None else torch.from_numpy(bare),
    )


class Stream(IterableDataset[Batch]):
    """Batches of the given steps, some to be `worn`; `clips[step]` and `lengths[step]` give the number of clips of a step and their latent
    frames."""

    def __init__(self, seed: int, steps: range, clips: list[int], lengths: list[int], *, worn: bool = False):
        self.seed, self.steps, self.clips, self.lengths, self.worn = seed, steps, clips, lengths, worn

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        offset, stride = (info.id, info.num_workers) if info else (0, 1)
        for step in self.steps[offset::stride]:
            yield draw(self.seed, step, self.clips[step], self.lengths[step], worn=self.worn)


def _apart(worker: int) -> None:
    """Puts a painting process where Ctrl-C and signals to the whole group do not reach it: the training that is asked to stop ends it."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loader(seed: int, steps: range, clips: list[int], lengths: list[int], workers: int = 1, *, worn: bool = False) -> Iterator[Batch]:
    """Batches in step order, painted ahead by `workers` processes."""
    stream = Stream(seed, steps, clips, lengths, worn=worn)
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None, worker_init_fn=_apart))
