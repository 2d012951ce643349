"""One lane's rollout: noise, samplers, phases, deferred commits and re-caches."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fkv.policies import parse
from fkv.stream import Stream, Trace, cleaned, implied, noised, seeded_noise
from tests.tiny import tiny_cache, tiny_model, tiny_policy, tiny_spec, tiny_stream, tiny_text


def test_noise_depends_on_seed_and_chunk_only() -> None:
    spec = tiny_spec(steps=3)
    first, again, other = (seeded_noise(seed, spec) for seed in (0, 0, 1))
    assert first(4)[0].equal(again(4)[0])
    assert not first(4)[0].equal(first(5)[0])
    assert not first(4)[0].equal(other(4)[0])
    initial, fresh = seeded_noise(0, spec, batch=2)(0)
    assert initial.shape == (2, 3, *spec.latent)
    assert len(fresh) == 2
    assert not initial[0].equal(initial[1])
    assert seeded_noise(0, tiny_spec(steps=3, sampler="euler"))(0)[1] == []


def test_lanes_with_one_source_share_the_noise_they_draw_and_old_noise_is_forgotten() -> None:
    source = seeded_noise(0, tiny_spec())
    first = source(4)[0]
    assert source(5)[0] is not first
    assert source(4)[0] is first
    source(6)
    assert source(4)[0] is not first
    assert source(4)[0].equal(first)


def test_noising_and_cleaning_undo_each_other() -> None:
    x0, noise = torch.randn(2, 1, 3, 4, 2, 2)
    x = noised(x0, noise, 0.7)
    torch.testing.assert_close(cleaned(x, noise - x0, 0.7), x0)
    torch.testing.assert_close(implied(x, x0, 0.7), noise, atol=1e-5, rtol=0)


def test_a_chunk_is_committed_when_the_next_one_is_asked_for() -> None:
    marks: list[str] = []
    stream = tiny_stream(tiny_spec(steps=2), "full", mark=marks.append)
    assert stream.frames == 0
    stream.step()
    assert marks == ["noisy", "noisy"]
    assert stream.cache.nbytes == 0
    stream.step()
    assert marks == ["noisy", "noisy", "clean", "noisy", "noisy"]
    stream.commit()
    stream.commit()
    assert marks[5:] == ["clean"]
    chunk = stream.step()
    assert (chunk.index, chunk.start, stream.chunks, stream.frames) == (2, 6, 3, 9)


def steps_by_hand(stream: Stream, spec_steps: int) -> Tensor:
    """The first chunk of a stream whose network puts out x0, with the noise the network implies."""
    schedule, (x, _) = stream.spec.schedule, stream.noise(0)
    x0 = x
    times = schedule.timesteps()
    for step, t in enumerate(times):
        x0 = stream.model(x, torch.full((1, stream.spec.chunk), t), stream.text, stream.cache, 0)
        if step + 1 < spec_steps:
            here, there = schedule.sigma(t), schedule.sigma(times[step + 1])
            x = (1 - there) * x0 + there / here * (x - (1 - here) * x0)
    return x0


def test_a_network_that_predicts_x0_is_sampled_with_the_noise_it_implies() -> None:
    spec = replace(tiny_spec(steps=3, sampler="euler"), prediction="x0")
    stream = tiny_stream(spec, "full")
    with torch.no_grad():
        wanted = steps_by_hand(stream, 3)
    torch.testing.assert_close(stream.step().latents, wanted, atol=1e-5, rtol=0)


def test_the_trace_holds_what_every_pass_predicted() -> None:
    trace: Trace = []
    spec = tiny_spec(steps=2)
    stream = tiny_stream(spec, "window:sink=1,recent=5", trace=trace)
    first = stream.step()
    stream.step()
    stream.recache(text=tiny_text(spec, seed=1))
    assert [phase for phase, _ in trace] == ["noisy", "noisy", "clean", "noisy", "noisy", "recache"]
    assert trace[1][1].equal(first.latents)
    assert trace[-1][1].shape[1] == 6


def test_items_of_a_batch_do_not_mix() -> None:
    spec = tiny_spec()
    model, text = tiny_model(spec), tiny_text(spec, 2)
    noise = seeded_noise(0, spec, batch=2)
    both = Stream(model, spec, text, parse("full:6"), noise)
    pair = torch.cat([both.step().latents for _ in range(3)], dim=1)
    for item in range(2):

        def own(chunk: int, item: int = item) -> tuple[Tensor, list[Tensor]]:
            initial, fresh = noise(chunk)
            return initial[item : item + 1], [eps[item : item + 1] for eps in fresh]

        one = Stream(model, spec, text[item : item + 1], parse("full:6"), own)
        alone = torch.cat([one.step().latents for _ in range(3)], dim=1)
        torch.testing.assert_close(pair[item : item + 1], alone, atol=1e-5, rtol=0)


def test_a_bfloat16_network_stays_near_its_float32_twin() -> None:
    spec = tiny_spec(steps=1)
    exact, rough = (tiny_stream(spec, "window:sink=1,recent=5", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    for _ in range(3):
        torch.testing.assert_close(rough.step().latents, exact.step().latents, atol=0.1, rtol=0)
    assert {group.k.dtype for groups in rough.cache.layers for group in groups} == {torch.bfloat16}


def test_a_new_prompt_changes_the_next_chunk_and_the_cache_at_once() -> None:
    spec = tiny_spec()
    changed, same = tiny_stream(spec, "full:9"), tiny_stream(spec, "full:9")
    for _ in range(2):
        assert changed.step().latents.equal(same.step().latents)
    changed.recache(text=tiny_text(spec, seed=7))
    assert changed.cache.last is not None
    assert (changed.cache.last.start, changed.cache.last.frames, changed.cache.last.recache) == (0, 6, True)
    assert changed.chunks == 2
    assert not changed.step().latents.equal(same.step().latents)


def test_a_recache_before_the_first_chunk_only_changes_prompt_and_policy() -> None:
    spec = tiny_spec()
    late, early = tiny_stream(spec, "full"), Stream(
        tiny_model(spec), spec, tiny_text(spec, seed=3), tiny_policy("window:sink=1,recent=5", spec.geometry), seeded_noise(0, spec)
    )  # fmt: skip
    late.recache(tiny_text(spec, seed=3), tiny_policy("window:sink=1,recent=5", spec.geometry))
    for _ in range(4):
        assert late.step().latents.equal(early.step().latents)


def test_a_new_policy_reads_its_sink_again_and_then_the_newest_frames() -> None:
    marks: list[str] = []
    spec = tiny_spec(steps=1)
    stream = tiny_stream(spec, "full:6", mark=marks.append)
    for _ in range(12):
        stream.step()
    stream.recache(policy=tiny_policy("forcing-kv:sink=2", spec.geometry))
    assert marks[-3:] == ["noisy", "recache", "recache"]
    assert stream.cache.layers[0][0].pos[:: spec.geometry.tokens, 0].tolist() == [0, 1, 35]
    assert [group.name for group in stream.cache.layers[1]] == ["static", "dynamic"]


def test_a_switch_before_the_sink_was_committed_commits_it_under_the_old_prompt() -> None:
    marks: list[str] = []
    spec = tiny_spec(steps=1)
    stream = tiny_stream(spec, "forcing-kv", mark=marks.append)
    stream.step()
    stream.recache(text=tiny_text(spec, seed=1))
    assert marks == ["noisy", "clean", "recache"]
    assert stream.cache.layers[0][0].pos[:: spec.geometry.tokens, 0].tolist() == [0, 2]


def test_a_policy_or_prompt_that_does_not_fit_changes_nothing() -> None:
    spec = tiny_spec()
    stream, twin = tiny_stream(spec, "full:6"), tiny_stream(spec, "full:6")
    for one in (stream, twin):
        one.step()
    with pytest.raises(ValueError, match="which heads are static"):
        stream.recache(policy=parse("forcing-kv"))
    with pytest.raises(ValueError, match="give one prompt per video"):
        stream.recache(text=tiny_text(spec, batch=2))
    for _ in range(2):
        assert stream.step().latents.equal(twin.step().latents)


def test_a_stream_does_not_grow_however_long_it_runs() -> None:
    spec = tiny_spec(heads=2, layers=2, rows=2, columns=2, steps=1)
    stream = tiny_stream(spec, "forcing-kv:segments=2")
    sizes = []
    for _ in range(40):
        stream.step()
        assert stream._newest is not None
        assert stream._opening is not None
        sizes.append((stream.cache.allocated, stream._newest.untyped_storage().nbytes(), stream._opening.shape[1]))
    assert sizes[12] == sizes[-1]


def test_what_is_learned_of_a_frames_number_begins_anew_after_a_period() -> None:
    spec = tiny_spec(period=4)
    model, x = tiny_model(spec), torch.randn(1, 3, *spec.latent, generator=torch.Generator().manual_seed(0))
    text = model.read_text(tiny_text(spec))
    first, next_one, again = (model(x, 500.0, text, tiny_cache(spec, "full"), start) for start in (2, 3, 6))
    torch.testing.assert_close(again, first, atol=1e-5, rtol=0)
    assert (next_one - first).abs().max() > 0.05
