"""Recorded passes: a replay without Python gives what the pass gives, for every later chunk, and is forgotten with what it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fkv import bench, engine
from fkv.cache import Commit, HeadGroup
from fkv.fast import SlotCache, prepare
from fkv.fast.graphs import Recorder, Recordings
from fkv.fast.model import FastWan, Pass
from fkv.lane import LaneRun
from fkv.policies import parse
from fkv.policies.full import Full
from fkv.spec import ModelSpec
from fkv.stream import Stream, seeded_noise
from tests.small import SPEC
from tests.test_delivery import StandIn
from tests.test_fast import fast_stream
from tests.tiny import tiny_model, tiny_policy, tiny_spec, tiny_text


class Tape(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the operations of some work with their numbers and the very tensors they touched; no Python."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, out))
        return out

    def again(self, wanted: Tensor) -> Tensor:
        made: dict[int, Tensor] = {}

        def now(value: Any) -> Any:
            return made.get(id(value), value)

        for func, args, kwargs, out in self.steps:
            fresh = func(*tree_map(now, args), **tree_map(now, kwargs))
            made.update((id(old), new) for old, new in zip(tree_leaves(out), tree_leaves(fresh)))
        return made[id(wanted)]


def tape(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    with Tape() as written:
        out = work()
    place = out.clone()
    return lambda: place.copy_(written.again(out)), place


def recorded_stream(text: str, recorder: Recorder = tape, spec: ModelSpec | None = None) -> Stream:
    spec = spec or tiny_spec()
    model = prepare(tiny_model(spec))
    model.recorder = lambda: recorder
    return Stream(model, spec, tiny_text(spec), tiny_policy(text, spec.geometry), seeded_noise(0, spec))


def recordings(stream: Stream) -> Recordings:
    assert isinstance(stream.cache, SlotCache)
    assert stream.cache.recordings is not None
    return stream.cache.recordings


@pytest.mark.parametrize("period", [0, 4])
@pytest.mark.parametrize("text", ["full:9", "forcing-kv"])
def test_replayed_passes_draw_the_same_frames_also_across_a_change_of_prompt(text: str, period: int) -> None:
    spec = tiny_spec(period=period)
    recorded, plain = recorded_stream(text, spec=spec), fast_stream(spec, text)
    for chunk in range(10):
        if chunk == 6:
            for stream in (recorded, plain):
                stream.recache(text=tiny_text(stream.spec, seed=1))
        assert recorded.step().latents.equal(plain.step().latents), f"chunk {chunk}"
        assert recorded.cache.read_bytes == plain.cache.read_bytes
    assert {kind for (kind, _), _ in recordings(recorded).made} == {"noisy", "clean"}
    assert all(recordings(recorded).made.values())
    assert recordings(recorded).replayed >= 7
    assert recordings(recorded).refused == ""


@pytest.mark.parametrize("text", ["full:9", "window:sink=1,recent=5", "forcing-kv", "painted"])
def test_in_a_steady_state_a_chunk_is_replayed_whole(text: str) -> None:
    stream = recorded_stream(text)
    for _ in range(8):
        stream.step()
    before, passes = recordings(stream).replayed, list[Pass]()
    assert isinstance(stream.model, FastWan)

    def through(x: Tensor, this: Pass) -> Tensor:
        passes.append(this)
        return x

    stream.model._through = through
    for _ in range(3):
        stream.step()
    assert recordings(stream).replayed == before + 3 * (len(stream.spec.schedule.steps) + 1)
    assert passes == []


def test_a_policy_that_asks_for_queries_gets_them_in_every_clean_pass_and_its_clean_passes_are_not_recorded() -> None:
    spec = tiny_spec()
    seen = list[tuple[int, ...]]()

    @dataclass(frozen=True)
    class Asking(Full):
        asks_queries: ClassVar[bool] = True

        def update(self, layer: int, past: list[HeadGroup], new: HeadGroup, q: Tensor, commit: Commit) -> list[HeadGroup]:
            seen.append(tuple(q.shape))
            return super().update(layer, past, new, q, commit)

    stream = recorded_stream("full:6", spec=spec)
    stream.recache(policy=Asking(frames=6))
    plain = fast_stream(spec, "full:6")
    for _ in range(6):
        assert stream.step().latents.equal(plain.step().latents)
    geometry = spec.geometry
    assert set(seen) == {(1, geometry.heads, spec.chunk * geometry.tokens, geometry.head_dim)}
    assert {kind for (kind, _), _ in recordings(stream).made} == {"noisy"}


def test_a_recorder_that_fails_or_lies_is_not_used_again_and_says_why() -> None:
    def fails(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        raise RuntimeError("operation not permitted\nwhile capturing")

    def lies(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        return (lambda: None), 2 * work()

    for recorder, reason in ((fails, "operation not permitted"), (lies, "a replay differs from its pass by 1.0e+00")):
        stream, plain = recorded_stream("full:6", recorder), fast_stream(tiny_spec(), "full:6")
        for _ in range(4):
            assert stream.step().latents.equal(plain.step().latents)
        assert recordings(stream).refused == reason
        assert recordings(stream).replayed == 0


def test_a_replay_that_leaves_no_keys_and_values_is_found_out() -> None:
    """The pass that it is compared with has just left them where the replay would read them."""

    def forgets(work: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        with Tape() as written:
            out = work()
        rooms = {id(step[1][0]) for step in written.steps if step[0] is torch.ops.aten.copy_.default and step[1][0].dim() == 5}
        written.steps = [step for step in written.steps if not (step[0] is torch.ops.aten.copy_.default and id(step[1][0]) in rooms)]
        place = out.clone()
        return lambda: place.copy_(written.again(out)), place

    stream, plain = recorded_stream("full:6", forgets), fast_stream(tiny_spec(), "full:6")
    for _ in range(5):
        assert stream.step().latents.equal(plain.step().latents)
    assert recordings(stream).refused == "a replay differs from its pass by nan"
    assert recordings(stream).replayed == 0


def test_a_chunk_in_which_passes_are_recorded_is_warm_up() -> None:
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    loaded.model.recorder = lambda: tape
    text, noise = loaded.text.encode("a red ball bouncing over green hills").embedding, seeded_noise(0, SPEC)
    run, warm, made = LaneRun("A", loaded, text, parse("full:6"), noise), [], []
    for _ in range(6):
        warm.append(run.sample(run.step(), 0.0).warmup)
        made.append(recordings(run.stream).fresh)
    assert made == [0, 0, 2, 3, 3, 3]  # in line, a chunk's clean pass belongs to the next step
    assert warm == [True, True, True, True, False, False]
    assert bench.least_chunks([run]) == 6


def test_beside_the_delivery_a_chunk_and_its_clean_pass_are_recorded_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fkv.lane.side_of", lambda device: StandIn())
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    loaded.model.recorder = lambda: tape
    text, noise = loaded.text.encode("a red ball bouncing over green hills").embedding, seeded_noise(0, SPEC)
    run = LaneRun("A", loaded, text, parse("full:12"), noise)
    warm = [run.sample(run.step(), 0.0).warmup for _ in range(8)]
    assert recordings(run.stream).fresh == 3
    assert warm.index(False) == 5
    assert bench.least_chunks([run]) == 6


def test_a_chunk_before_its_passes_are_recorded_is_warm_up_where_they_will_be() -> None:
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    loaded.model.recorder = lambda: tape
    text, noise = loaded.text.encode("a red ball bouncing over green hills").embedding, seeded_noise(0, SPEC)
    for spelling, first in (("full:12", 6), ("full", 6)):
        run = LaneRun("A", loaded, text, parse(spelling), noise)
        warm = [run.sample(run.step(), 0.0).warmup for _ in range(9)]
        assert warm.index(False) == first, spelling
        assert not any(warm[first:])


def test_graphs_without_cuda_are_refused() -> None:
    with pytest.raises(ValueError, match="graphs need a CUDA device and the model is on cpu; leave --graphs out"):
        prepare(tiny_model(tiny_spec()), graphs=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("text", ["full:9", "window:sink=1,recent=5", "forcing-kv"])
def test_on_a_gpu_graphs_draw_what_passes_draw(text: str) -> None:
    spec, device = tiny_spec(head_dim=16), torch.device("cuda")
    policy, noise = tiny_policy(text, spec.geometry), seeded_noise(0, spec, 1, device)
    models = [prepare(tiny_model(spec).to(device), spec, "math", graphs=graphs) for graphs in (True, False)]
    streams = [Stream(model, spec, tiny_text(spec).to(device), policy, noise) for model in models]
    assert isinstance(models[0], FastWan)
    for _ in range(8):
        recorded, plain = (stream.step().latents for stream in streams)
        torch.testing.assert_close(recorded, plain, atol=1e-4, rtol=0)
    assert recordings(streams[0]).replayed > 0
