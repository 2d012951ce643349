"""What a teacher-forced pass computes: the same as generation through a cache, with heads that see only what they may."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from untrained import SMALL, small_model

from fkv.cache import Commit, KVCache, Policy
from fkv.pocket.teacher import Clip, Sight, Teacher, local_heads, rolling, sample_sight, some_frames, some_segments, stray
from fkv.policies import parse
from fkv.policies.forcing_kv import ForcingKV
from fkv.policies.full import Full
from fkv.spec import POCKET
from fkv.wan import CausalWan


def clip_of(chunks: int, sight: Sight, seed: int = 3, clips: int = 2) -> Clip:
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, 3 * chunks, *SMALL.latent)
    clean, noisy = (torch.randn(shape, generator=generator) for _ in range(2))
    sigma = torch.rand(clips, chunks, generator=generator)
    text = torch.randn(clips, 16, 112, generator=generator)
    return Clip(clean, noisy, sigma, text, torch.arange(3 * chunks), sight)


@torch.inference_mode()
def in_turn(model: CausalWan, clip: Clip, policy: Policy) -> torch.Tensor:
    """The same targets, chunk by chunk through a cache."""
    text, clips = model.read_text(clip.text), len(clip.clean)
    cache = KVCache(policy, SMALL.geometry, clips)
    out = []
    for chunk in range(clip.sigma.shape[1]):
        part = slice(3 * chunk, 3 * chunk + 3)
        t = 1000 * clip.sigma[:, chunk : chunk + 1].repeat(1, 3)
        out.append(model(clip.noisy[:, part], t, text, cache, 3 * chunk))
        with cache.committing(Commit(chunk, 3 * chunk, 3, SMALL.geometry)):
            model(clip.clean[:, part], torch.zeros(clips, 3), text, cache, 3 * chunk)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize(("policy", "window", "chunks"), [("full", 21, 3), ("full:9", 9, 5)])
def test_a_teacher_forced_pass_equals_generation_with_the_window_of_the_model(policy: str, window: int, chunks: int) -> None:
    model, past = small_model(), rolling(chunks, replace(SMALL, window=window))
    clip = clip_of(chunks, Sight(past, past))
    with torch.inference_mode():
        trained = Teacher(model, SMALL, local_heads(2, 4)).predict(clip)[0]
    torch.testing.assert_close(trained, in_turn(model, clip, parse(policy)), atol=2e-5, rtol=1e-4)


def test_a_teacher_forced_pass_equals_generation_with_a_sink_and_a_window() -> None:
    model, past = small_model(), some_frames(4, SMALL.geometry, 1, 3)
    clip = clip_of(4, Sight(past, past))
    with torch.inference_mode():
        trained = Teacher(model, SMALL, local_heads(2, 4)).predict(clip)[0]
    torch.testing.assert_close(trained, in_turn(model, clip, parse("window:sink=1,recent=6")), atol=2e-5, rtol=1e-4)


def test_a_teacher_forced_pass_equals_generation_with_forcing_kv() -> None:
    model, geometry = small_model(), SMALL.geometry
    policy = ForcingKV(roles=((), (0, 2))).fitted(geometry)
    assert isinstance(policy, ForcingKV)
    near, static = some_frames(6, geometry, 1, 1), ((0, 1, 2, 3), (0, 2))
    clips = [clip_of(6, Sight(near, some_segments(6, geometry, policy), policy, static), seed, 1) for seed in (3, 4)]
    both = {name: torch.cat([getattr(clip, name) for clip in clips]) for name in ("clean", "noisy", "sigma", "text")}
    with torch.inference_mode():
        teacher = Teacher(model, SMALL, local_heads(2, 4))
        trained, near_only = (teacher.predict(replace(clips[0], **both, sight=sight))[0] for sight in (clips[0].sight, Sight(near, near)))
    torch.testing.assert_close(trained, torch.cat([in_turn(model, clip, policy) for clip in clips]), atol=2e-5, rtol=1e-4)
    assert torch.equal(trained[:, :9], near_only[:, :9])
    assert not torch.allclose(trained[:, 9:], near_only[:, 9:], atol=1e-3)


def test_only_local_heads_are_cut_off_from_old_frames() -> None:
    model, geometry = small_model(), SMALL.geometry
    near, wide = some_frames(4, geometry, 1, 1), rolling(4, SMALL)
    teacher = Teacher(model, SMALL, local_heads(2, 4))
    with torch.inference_mode():
        split = teacher.predict(clip_of(4, Sight(near, wide)))[0]
        whole = teacher.predict(clip_of(4, Sight(wide, wide)))[0]
    assert torch.equal(split[:, :3], whole[:, :3])
    assert not torch.allclose(split[:, 6:9], whole[:, 6:9], atol=1e-4)


def test_a_sight_may_say_itself_which_heads_are_local() -> None:
    model, geometry = small_model(), SMALL.geometry
    near, wide, roles = some_frames(4, geometry, 1, 1), rolling(4, SMALL), ((0, 1, 2, 3), (1, 2))
    with torch.inference_mode():
        said = Teacher(model, SMALL, local_heads(2, 4)).predict(clip_of(4, Sight(near, wide, roles=roles)))[0]
        trained = Teacher(model, SMALL, roles).predict(clip_of(4, Sight(near, wide)))[0]
        other = Teacher(model, SMALL, local_heads(2, 4)).predict(clip_of(4, Sight(near, wide)))[0]
    assert torch.equal(said, trained)
    assert not torch.allclose(said, other, atol=1e-4)


def test_two_batches_of_five_show_a_forcing_kv_cache_with_the_roles_given_and_as_many_the_window() -> None:
    rng, roles = np.random.default_rng(0), tuple((layer,) for layer in range(POCKET.geometry.layers))
    sights = [sample_sight(4, POCKET, rng, roles) for _ in range(2000)]
    hybrid = [sight for sight in sights if isinstance(sight.policy, ForcingKV)]
    assert 0.36 < len(hybrid) / 2000 < 0.44
    assert 0.36 < np.mean([isinstance(sight.policy, Full) for sight in sights]) < 0.44
    assert 0.16 < np.mean([sight.policy.name == "window" for sight in sights]) < 0.24
    assert all(sight.policy.roles == roles for sight in hybrid)
    assert all(sight.roles == (tuple(range(8)), *roles[1:]) for sight in hybrid)
    assert all(seen.whole == ((0, 3 * i - 1) if i else ()) for sight in hybrid for i, seen in enumerate(sight.local))
    assert all(sight.roles is None for sight in sights if not isinstance(sight.policy, ForcingKV))


def test_straying_is_the_attention_that_local_heads_spend_between_the_first_and_the_last_past_frame() -> None:
    geometry, heads, past = SMALL.geometry, [1, 3], 9
    generator = torch.Generator().manual_seed(2)
    tokens, own = geometry.tokens, geometry.tokens * 3
    k = torch.randn(2, 4, (past + 12) * tokens, geometry.head_dim, generator=generator)
    q = torch.randn(2, 4, 12 * tokens, geometry.head_dim, generator=generator)
    keys = torch.cat((k[:, :, : past * tokens], k[:, :, -own:]), dim=2)
    shares = torch.softmax(q[:, :, -own:] @ keys.transpose(2, 3) * geometry.head_dim**-0.5, dim=-1)
    near = 1 - shares[..., tokens : (past - 1) * tokens].sum(-1)
    assert stray(q, k, heads, geometry).item() == pytest.approx(-near[:, heads].log().mean().item(), rel=1e-4)
    assert stray(q, k, [], geometry) == 0
    assert stray(q[:, :, :own], k[:, :, -own:], heads, geometry) == 0


def test_segments_are_seen_of_the_three_frames_before_the_newest_once_heads_have_parted() -> None:
    policy = ForcingKV().fitted(POCKET.geometry)
    assert isinstance(policy, ForcingKV)
    seen = some_segments(5, POCKET.geometry, policy)
    assert [one.whole for one in seen] == [(), (0, 2), (0, 5), (0, 8), (0, 11)]
    assert [one.part for one in seen] == [(), (), (), (5, 6, 7), (8, 9, 10)]


def test_half_of_the_heads_of_every_layer_but_the_first_are_local() -> None:
    rows = local_heads(6, 8)
    assert rows[0] == []
    assert [len(row) for row in rows[1:]] == [4] * 5
    assert len({tuple(row) for row in rows[1:]}) > 2
