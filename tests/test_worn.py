"""Pasts that are worn as long rollouts wear them: what is lost is known, what is asked for is all there."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from untrained import SMALL, small_model

from fkv.codec import pocket_random
from fkv.pocket.data import Batch, draw, loader
from fkv.pocket.recipe import ModelRecipe
from fkv.pocket.tasks import Lesson
from fkv.pocket.teacher import Teacher, local_heads
from fkv.pocket.train_model import Pool
from fkv.pocket.worn import FADE, SOFT, Worn

ROLES = ((2,), (0, 3))


def worn_batch() -> Batch:
    return next(batch for batch in (draw(5, step, 4, 9, gaps=False, worn=True) for step in range(20)) if batch.bare is not None)


def latents(seed: int, clips: int = 4, frames: int = 9) -> Tensor:
    return torch.randn(clips, frames, 24, 10, 16, generator=torch.Generator().manual_seed(seed))


def test_objects_fade_where_they_are_and_views_go_soft_where_none_is() -> None:
    clean, bare, mask = latents(1), latents(2), torch.zeros(4, 9, 10, 16)
    mask[:, :, 2:4, 5:8], mask[:, :, 7, 0] = 4.0, 0.5
    faded, soft = torch.full((4, 9), 0.6), torch.full((4, 9), 0.2)
    for here in (slice(None), slice(3, 6)):
        found = Worn(bare, faded, soft).of(clean[:, here], mask[:, here], here)
        share = torch.full((10, 16), 0.2)
        share[2:4, 5:8], share[7, 0] = 0.6, 0.4
        torch.testing.assert_close(found, clean[:, here].lerp(bare[:, here], share.expand_as(clean[:, here])))
    part = Worn(bare, faded, soft).part(slice(1, 2))
    assert torch.equal(part.of(clean[1:2], mask[1:2]), Worn(bare, faded, soft).of(clean, mask)[1:2])


def test_half_of_the_clips_fade_and_half_are_soft_from_some_chunk_on_and_by_no_more_than_the_most() -> None:
    worn = Worn.drawn(latents(3, clips=300, frames=9)[:, :, :1, :1, :1], 3, torch.Generator().manual_seed(0))
    for shares, most in ((worn.faded, FADE), (worn.soft, SOFT)):
        assert shares.shape == (300, 9)
        assert (shares.diff(dim=1) >= 0).all()
        assert torch.equal(shares[:, ::3].repeat_interleave(3, dim=1), shares)
        assert 0.9 * most < shares.max() <= most
        assert 0.4 < (shares[:, -1] > 0).float().mean() < 0.6
        begun = (shares[shares[:, -1] > 0] == 0).sum(dim=1)
        assert set(begun.tolist()) == {0, 3, 6}
    assert not torch.equal(worn.faded > 0, worn.soft > 0)


def test_half_of_the_batches_that_are_to_be_worn_bring_their_scenery_alone_and_others_none() -> None:
    batches = [draw(5, step, 1, 6, worn=True) for step in range(60)]
    brought = [batch for batch in batches if batch.bare is not None]
    assert 18 <= len(brought) <= 42
    assert all(draw(5, step, 1, 6).bare is None and draw(5, step, 1, 3, worn=True).bare is None for step in range(6))
    moved = []
    for batch in brought:
        (reel,), bare = batch.reels, batch.bare
        assert bare is not None
        assert bare.shape == batch.frames.shape
        about = F.max_pool2d(batch.mask, 3, stride=1, padding=1)
        free = (about == 0).repeat_interleave(4, 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
        same = (bare == batch.frames).all(dim=-1)
        assert not same.all()
        if all(piece.scene.camera == "still" for piece in reel):
            assert same[free].float().mean() > 0.99, "the tip of a star may show where its mask has none"
        else:
            moved.append(float(same[free].float().mean()))
    assert min(moved) < 0.9


def test_a_run_gets_the_latents_of_the_scenery_with_those_of_the_batch() -> None:
    codec, steps = pocket_random(), range(4)
    pool = Pool(codec, loader(5, steps, [1] * 4, [6] * 4, workers=0, worn=True), 0, "cpu")
    brought = []
    for step in steps:
        fresh, (_, target, bare) = draw(5, step, 1, 6, worn=True), pool[step]
        assert torch.equal(target, codec.encode(fresh.frames))
        assert (bare is None) == (fresh.bare is None)
        if bare is not None and fresh.bare is not None:
            assert torch.equal(bare, codec.encode(fresh.bare))
        brought.append(bare is not None)
    assert any(brought)
    assert not all(brought)


def lost(found: Tensor, whole: Tensor, bare: Tensor) -> Tensor:
    """The share [b, n, H, W] of `whole` latents that has become `bare` in those found, which is the same in all channels."""
    shares = (found - whole) / (bare - whole)
    steady = (bare - whole).abs() > 0.1
    mean = shares.where(steady, torch.zeros(())).sum(dim=2) / steady.sum(dim=2)
    torch.testing.assert_close(shares[steady], mean[:, :, None].expand_as(shares)[steady], atol=1e-4, rtol=1e-4)
    return mean


def test_a_clip_with_a_worn_past_is_asked_to_go_on_as_it_was() -> None:
    batch, target, bare = worn_batch(), latents(4), latents(5)
    lesson = Lesson(SMALL, ModelRecipe(own=0.0, disturb=0.0), pocket_random(), ROLES)
    whole, worn = lesson.task(batch, target, 0), lesson.task(batch, target, 0, bare)
    assert torch.equal(whole.clip.clean, target)
    assert torch.equal(worn.target, target)
    assert torch.equal(worn.clip.noisy, whole.clip.noisy)
    assert torch.equal(worn.clip.sigma, whole.clip.sigma)
    gone = lost(worn.clip.clean, target, bare)
    assert gone.min() > -1e-4
    assert 0.05 < gone.max() <= max(FADE, SOFT) + 1e-4


def test_what_a_model_plays_itself_is_worn_before_it_remembers_it_and_not_in_what_it_is_asked_for() -> None:
    batch, target, bare = worn_batch(), latents(4), latents(5)
    batch.told.fill_(1)
    lesson = Lesson(SMALL, ModelRecipe(own=1.0, own_from=0.0, swap=1.0, met=0.0, disturb=0.0), pocket_random(), ROLES)
    teacher, task = Teacher(small_model(3), SMALL, local_heads(2, 4)), lesson.task(batch, target, 0, bare)
    assert task.own is not None
    assert task.own.worn is not None
    assert torch.equal(task.clip.clean, target)
    shares = torch.full((4, 9), 0.5)
    own = replace(task.own, worn=Worn(bare, shares, shares))
    whole, worn = replace(own, worn=None).played(teacher, task), own.played(teacher, task)
    first = slice(0, 3)
    gone = lost(worn.clip.clean[:, first], whole.clip.clean[:, first], bare[:, first])
    torch.testing.assert_close(gone, torch.full_like(gone, 0.5), atol=1e-4, rtol=1e-4)
    assert torch.equal(worn.target[:, first], whole.target[:, first])
    assert torch.equal(worn.clip.noisy[:, first], whole.clip.noisy[:, first])
    mine = (worn.clip.clean - 0.5 * bare)[:, 3:] * 2
    assert not torch.allclose(mine, whole.clip.clean[:, 3:], atol=1e-3), "its next chunks come from the worn past"
