"""What a long rollout does to its past, done to a training clip at once: objects fade into the scenery, and a panning view goes soft.

A network that passes on a little less than it sees loses a thing for good, only later than a clip lasts. So some clips have a past of which
much is gone already, and are asked for all of it. As in restoration by a denoiser, what is lost is known because it was taken away; a view
goes soft as the mean of itself and of the same scenery a few pixels beside its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

FADE, SOFT, BESIDE = 0.8, 0.5, 4.0  # the most: of an object, of a view, and by how many pixels the other view is beside it


@dataclass(frozen=True)
class Worn:
    """`bare` latents [b, F, c, H, W] of the scenery alone, perhaps from beside its place; the share of objects `faded` [b, F] and the share
    of each view that is `soft` [b, F]."""

    bare: Tensor
    faded: Tensor
    soft: Tensor

    @classmethod
    def drawn(cls, bare: Tensor, chunk: int, generator: torch.Generator) -> Worn:
        """Half of the clips fade and half are soft, each from a chunk of its own on and no less later."""
        clips, frames = bare.shape[:2]

        def shares(most: float) -> Tensor:
            strength, is_so, since = torch.rand(3, clips, 1, generator=generator)
            numbers = torch.arange(frames)[None] // chunk
            return (most * strength * (is_so < 1 / 2) * (numbers >= (since * (frames // chunk)).floor())).to(bare)

        return cls(bare, shares(FADE), shares(SOFT))

    def part(self, clips: slice) -> Worn:
        return replace(self, bare=self.bare[clips], faded=self.faded[clips], soft=self.soft[clips])

    def of(self, latents: Tensor, mask: Tensor, here: slice = slice(None)) -> Tensor:
        """Latents [b, n, c, H, W] of the frames `here` with what their objects, by their mask [b, n, H, W], and their views have lost."""
        bare, cover = self.bare[:, here], mask.clamp(max=1)[:, :, None]
        faded, soft = (share[:, here, None, None, None] for share in (self.faded, self.soft))
        return latents + (faded * cover + soft * (1 - cover)) * (bare - latents)
