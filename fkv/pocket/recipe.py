"""How the pocket model is trained: how long, on which lengths, at which rates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

BLOCK = 8


@dataclass(frozen=True)
class ModelRecipe:
    """`passes` is the number of chunk forwards of a batch (a clip of n chunks costs 2 n - 1); lengths of clips, in chunks, go from short
    to long as training proceeds: `lengths` are (until this share of the steps, chunks, weight). Every batch of clips is used `reuse`
    times, with other noise. A latent cell that is wrong by more than `robust` counts by how far it is wrong and no longer by the square of
    it (pseudo-Huber, arXiv 2310.14189 section 3.3): what cannot be known is then drawn sharp at one place rather than blurred over all, and
    few lost objects do not outweigh the rest of the picture. `object_weight` is what objects weigh more than scenery; all counts `panning`
    fold where the camera moves: there it is drawn anew in every chunk, and what softens it a little each time adds up. `near` weighs what
    local heads stray. `own` is the share of steps, late, with the model's own past in a share `swap` of its chunks; of the chunks of these
    steps a share `met` is denoised from what its sampler met, and all towards what the world does next from there (`fkv.pocket.guide`). A
    run that goes on from weights leaves the mean of both, those counted `keep` (arXiv 2109.01903)."""

    steps: int = 8000
    warmup: int = 100
    decay: int = 2000
    passes: int = 32
    reuse: int = 3
    lengths: tuple[tuple[float, int, float], ...] = (
        (0.35, 1, 0.6),
        (0.35, 2, 0.25),
        (0.35, 3, 0.15),
        (0.75, 1, 0.45),
        (0.75, 2, 0.1),
        (0.75, 3, 0.3),
        (0.75, 7, 0.15),
        (1.0, 1, 0.1),
        (1.0, 3, 0.25),
        (1.0, 7, 0.25),
        (1.0, 10, 0.4),
    )
    matrix_rate: float = 5e-3
    rate: float = 3e-3
    weight_decay: float = 0.01
    average: float = 0.995
    object_weight: float = 6.0
    panning: float = 2.0
    robust: float = 0.3
    near: float = 0.05
    disturb: float = 0.15
    own: float = 0.5
    own_from: float = 0.6
    swap: float = 0.75
    met: float = 0.5
    keep: float = 0.0
    seed: int = 21

    def batch_of(self, step: int) -> int:
        """Which batch a step uses: runs of BLOCK batches, each run gone through `reuse` times."""
        run_length = BLOCK * self.reuse
        return step // run_length * BLOCK + step % BLOCK

    def plan(self) -> tuple[list[int], list[int]]:
        """Chunks and clips of every batch."""
        chunks, count = [], self.batch_of(self.steps - 1) + BLOCK
        for step in range(count):
            share = (step + 0.5) / count
            until = next(edge for edge, _, _ in self.lengths if share <= edge)
            choices = [(count, weight) for edge, count, weight in self.lengths if edge == until]
            weights = np.array([weight for _, weight in choices])
            rng = np.random.default_rng((self.seed, 3, step))
            chunks.append(int(rng.choice([count for count, _ in choices], p=weights / weights.sum())))
        return chunks, [max(1, round(self.passes / (2 * count - 1))) for count in chunks]

    def continued(self) -> ModelRecipe:
        """The same for weights that a run has left: the last lengths and the own past from the first step on, in more steps and more chunks
        of them, at half the rates, and a third of those weights kept."""
        last = tuple(entry for entry in self.lengths if entry[0] == self.lengths[-1][0])
        return replace(self.with_rates(1 / 2), lengths=last, own=0.75, swap=0.9, own_from=0.0, keep=1 / 3)

    def with_rates(self, share: float) -> ModelRecipe:
        """The same at `share` of its learning rates."""
        return replace(self, matrix_rate=self.matrix_rate * share, rate=self.rate * share)
