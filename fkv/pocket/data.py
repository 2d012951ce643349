"""Training batches of the pocket world: drawn by (seed, step), so that any step can be made again after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fkv.pocket.paint import Renderer, object_mask
from fkv.pocket.world import Scene, layout_of, parsed_of, sample_scene
from fkv.text import encode_many

GROUP = 4


@dataclass
class Batch:
    """frames uint8 [b, 4 * f, height, width, 3]; text [b, len, dim]; mask [b, f, rows, columns] object share per latent cell; opening [b]
    is 1 where the clip starts at scene time 0; numbers [f] absolute latent frame numbers (with a gap after the first chunk when there is
    one)."""

    frames: Tensor
    text: Tensor
    mask: Tensor
    opening: Tensor
    numbers: Tensor


def scene_clip(scene: Scene, starts: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pixel frames and object masks per latent frame of pieces (first pixel frame, count) of a scene, one after the other."""
    painter = Renderer(scene)
    frames = np.concatenate([painter.frames(start, count) for start, count in starts])
    mask = np.concatenate([object_mask(scene, start, count) for start, count in starts])
    return frames, mask.reshape(-1, GROUP, *mask.shape[1:]).max(axis=1)


def draw(seed: int, step: int, batch: int, latents: int, chunk: int = 3, gaps: bool = True) -> Batch:
    """One batch. Half of the clips start at scene time 0, the others anywhere; with `gaps`, in a quarter of the batches of three chunks or
    more the scene jumps forward by up to 600 latent frames after its first chunk, which then plays the part of a distant sink."""
    rng = np.random.default_rng((seed, step))
    gap = int(rng.integers(1, 200)) * chunk if gaps and latents > 2 * chunk and rng.random() < 0.25 else 0
    scenes = [sample_scene(rng) for _ in range(batch)]
    starts = [0 if latents == chunk or rng.random() < 0.5 else int(rng.integers(1, 60)) * GROUP * chunk for _ in scenes]
    pieces = [[(start, GROUP * chunk), (start + GROUP * (chunk + gap), GROUP * (latents - chunk))] for start in starts]
    clips = [scene_clip(scene, piece if latents > chunk else piece[:1]) for scene, piece in zip(scenes, pieces)]
    layouts = [layout_of(scene, places=start == 0) for scene, start in zip(scenes, starts)]
    numbers = np.arange(latents)
    numbers[chunk:] += gap
    return Batch(
        frames=torch.from_numpy(np.stack([frames for frames, _ in clips])),
        text=torch.from_numpy(encode_many([parsed_of(scene) for scene in scenes], layouts)),
        mask=torch.from_numpy(np.stack([mask for _, mask in clips])),
        opening=torch.tensor([float(start == 0) for start in starts]),
        numbers=torch.from_numpy(numbers),
    )


class Stream(IterableDataset[Batch]):
    """Batches of the given steps; `clips[step]` and `lengths[step]` give the number of clips of a step and their latent frames."""

    def __init__(self, seed: int, steps: range, clips: list[int], lengths: list[int]):
        self.seed, self.steps, self.clips, self.lengths = seed, steps, clips, lengths

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        offset, stride = (info.id, info.num_workers) if info else (0, 1)
        for step in self.steps[offset::stride]:
            yield draw(self.seed, step, self.clips[step], self.lengths[step])


def loader(seed: int, steps: range, clips: list[int], lengths: list[int], workers: int = 1) -> Iterator[Batch]:
    """Batches in step order, painted ahead by `workers` processes."""
    stream = Stream(seed, steps, clips, lengths)
    return iter(DataLoader(stream, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))
