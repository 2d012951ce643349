"""Pixels beside the clean pass: the same pictures and numbers as in line, every error where it belongs, no thread left, honest times.

A second stream is stood in for: what is asked of it is done at once, and a copy holds when the test says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fkv import delivery, engine, meter, policies
from fkv.delivery import Beside, InLine
from fkv.events import Done, Frames, Notice, Phases, Sample, Settings
from fkv.heads import HeadProfile
from fkv.lane import LaneRun
from fkv.policies import parse
from fkv.session import Session
from fkv.spec import POCKET, WanConfig
from fkv.stream import seeded_noise

NET = WanConfig(dim=32, heads=4, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SPEC = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None, schedule=replace(POCKET.schedule, steps=(1000, 500)))
SETTINGS = Settings(prompt="a red ball bouncing over green hills", seed=3, left="full:9", right="forcing-kv", chunks=7)


class Ready:
    """The moment from which a copy holds: waiting for it waits for `gate`."""

    def __init__(self, gate: Callable[[], object] = lambda: None, seconds: float = 0.0):
        self.gate, self.seconds = gate, seconds

    def synchronize(self) -> None:
        self.gate()

    def elapsed_time(self, later: Any, /) -> float:
        return 1000 * (later.seconds - self.seconds)


class StandIn:
    """A second stream that notes its order among everything else."""

    def __init__(self, order: list[str] | None = None, ready: Ready | None = None):
        self.order, self.ready = [] if order is None else order, ready

    @contextmanager
    def after(self, given: Tensor) -> Iterator[None]:
        self.order.append("side begins")
        yield
        self.order.append("side ends")

    def fetch(self, made: Tensor) -> tuple[Tensor, meter.Moment]:
        return made.clone(), self.ready or meter.Stopwatch().now()


class Drawn:
    """A decoder of one picture."""

    def __init__(self, order: list[str], error: Exception | None = None):
        self.order, self.error = order, error

    def decode(self, latents: Tensor) -> Tensor:
        self.order.append("decode")
        if self.error:
            raise self.error
        return torch.full((1, 2, 4, 4, 3), 7, dtype=torch.uint8)


@pytest.fixture(scope="module")
def small() -> engine.Engine:
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    return replace(loaded, profile=HeadProfile.of_scores("small", [[0.9, 0.1, 0.7, 0.3]] * 2).by_threshold(0.8))


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lanes deliver beside their clean pass, as on CUDA; gives the order of what their second stream does."""
    order = list[str]()
    monkeypatch.setattr("fkv.lane.side_of", lambda device: StandIn(order))
    return order


def lane(small: engine.Engine, spelling: str, encode: Any = None, **more: Any) -> LaneRun:
    policy = parse(spelling)
    assert small.profile is not None
    policy = policy.with_roles(small.profile.roles()) if policy.needs_roles else policy
    text, noise = small.text.encode(SETTINGS.prompt).embedding, seeded_noise(0, SPEC)
    return LaneRun("A", small, text, policy, noise, encode, **more)


def untimed(sample: Sample) -> Sample:
    return replace(sample, ms=Phases(), fps_diffusion=0, fps_end_to_end=0, memory_bytes=0)


@pytest.mark.parametrize("spelling", [*sorted(policies.discover()), "full:6", "window:12:3"])
def test_beside_its_clean_pass_a_lane_shows_and_tells_what_it_does_in_line_also_after_changes(
    small: engine.Engine, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    in_line = lane(small, spelling)
    monkeypatch.setattr("fkv.lane.side_of", lambda device: StandIn())
    beside = lane(small, spelling)
    for chunk in range(7):
        if chunk in (2, 4):
            other = small.text.encode("a blue star orbiting over a calm sea").embedding
            for run in (in_line, beside):
                run.change(other if chunk == 2 else None, None if chunk == 2 else parse("full:9"))
        one, two = in_line.step(), beside.step()
        assert np.array_equal(one.pixels, two.pixels), f"chunk {chunk}"
        assert in_line.residency(one, 1) == beside.residency(two, 1), f"chunk {chunk}"
        assert untimed(in_line.sample(one, 0.0)) == untimed(beside.sample(two, 0.0)), f"chunk {chunk}"
        assert (in_line.stream._pending is None, beside.stream._pending is None) == (False, True)


def test_frames_are_told_before_anything_waits_for_the_clean_pass_and_leave_the_device_to_others(
    small: engine.Engine, aside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    for name in ("residency", "sample"):
        real = getattr(LaneRun, name)
        monkeypatch.setattr(LaneRun, name, lambda run, *given, real=real, name=name: asked.append(name) or real(run, *given))
    for event in Session(small, replace(SETTINGS, chunks=2), lambda pixels: b"jpeg").events():
        if isinstance(event, Frames):
            assert not asked
            assert not small.lock.waiting
        if isinstance(event, Sample):
            assert asked == ["residency", "sample"]
            asked.clear()
    assert aside


def test_latents_that_are_asked_for_come_with_the_pictures_and_cost_no_phase(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    in_line = lane(small, "full:9", latents=True)
    monkeypatch.setattr("fkv.lane.side_of", lambda device: StandIn())
    beside, without = lane(small, "full:9", latents=True), lane(small, "full:9")
    for _ in range(2):
        one, two = in_line.step(), beside.step()
        assert one.latents is not None
        assert two.latents is not None
        assert without.step().latents is None
        assert (one.latents.shape, one.latents.dtype) == ((3, 24, 4, 6), np.float32)
        assert np.array_equal(one.latents, two.latents)
    assert len(in_line.watch.laps["probe"]) == 2
    assert "probe" not in beside.watch.laps


def test_on_a_cpu_a_lane_delivers_in_line_and_leaves_the_clean_pass_to_the_next_step(small: engine.Engine) -> None:
    run, order = lane(small, "full:9"), list[str]()
    assert isinstance(run.deliver, InLine)
    made = InLine(Drawn(order), lambda pixels: order.append("encode") or b"", run.watch)(torch.zeros(1), lambda: order.append("clean"))
    assert order == ["decode", "encode"]
    assert made.pixels.shape == (2, 4, 4, 3)
    ms = run.sample(run.step(), 0.0).ms
    assert ms.hidden == 0 < ms.decode
    assert ms.end_to_end == pytest.approx(ms.text + sum(ms.noisy) + ms.decode + ms.encode)


def test_the_clean_pass_runs_while_the_pictures_are_not_ready(small: engine.Engine) -> None:
    order, cleaned = list[str](), threading.Event()
    ready = Ready(lambda: cleaned.wait(60) or pytest.fail("the pictures waited for were never let go"))
    deliver = Beside(Drawn(order), lambda pixels: order.append("encode") or b"jpeg", meter.Stopwatch(), StandIn(order, ready))

    def clean() -> None:
        order.append("clean")
        cleaned.set()

    made = deliver(torch.zeros(1), clean)
    assert order == ["side begins", "decode", "side ends", "clean", "encode"]
    assert (made.pixels.tolist(), made.jpeg) == (np.full((2, 4, 4, 3), 7).tolist(), b"jpeg")


@pytest.mark.parametrize(
    ("decoding", "encoding", "clean", "hidden", "turn"),
    [(10, 20, 40, 30, 140), (10, 60, 40, 40, 170), (0, 0, 40, 0, 140)],
    ids=["all hidden", "in part", "nothing to hide"],
)
def test_what_runs_beside_the_clean_pass_is_told_apart_from_what_is_waited_for(
    decoding: float, encoding: float, clean: float, hidden: float, turn: float
) -> None:
    now, at = [0.0], [0.1 + decoding / 1000, 0.1 + (decoding + encoding) / 1000]
    times = iter(at)
    watch = meter.Stopwatch(clock=lambda: next(times), moment=lambda: Ready(seconds=now[0]))
    now[0] = 0.1
    watch.mark("noisy")

    def commit() -> None:
        now[0] += clean / 1000
        watch.mark("clean")
        now[0] = max(now[0], at[1])

    Beside(Drawn([]), lambda pixels: b"", watch, StandIn(ready=Ready(seconds=at[0])))(torch.zeros(1), commit)
    ms = watch.phases()
    assert (ms.decode, ms.encode, ms.clean) == pytest.approx((decoding, encoding, clean))
    assert ms.hidden == pytest.approx(hidden)
    assert ms.end_to_end == pytest.approx(turn)
    assert ms.diffusion == pytest.approx(100 + clean)


def fails(error: Exception) -> Any:
    def work(*args: Any) -> Any:
        raise error

    return work


@pytest.mark.parametrize("where", ["decode", "clean", "encode"])
def test_an_error_reaches_the_lane_wherever_it_happens_and_leaves_no_thread(where: str) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory")
    before = threading.active_count()
    decoder = Drawn([], error if where == "decode" else None)
    deliver = Beside(decoder, fails(error) if where == "encode" else None, meter.Stopwatch(), StandIn())
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        deliver(torch.zeros(1), fails(error) if where == "clean" else lambda: None)
    assert threading.active_count() == before


def test_no_memory_left_while_encoding_in_the_background_ends_that_lane_with_a_proposal(small: engine.Engine, aside: list[str]) -> None:
    calls = [0]

    def encode(pixels: np.ndarray) -> bytes:
        calls[0] += 1
        if calls[0] == 4:
            raise MemoryError
        return b""

    before = threading.active_count()
    session = Session(small, SETTINGS, encode)
    events = list(session.events())
    (notice,) = [event for event in events if isinstance(event, Notice)]
    assert (notice.kind, notice.lane, notice.chunk) == ("error", "B", 1)
    assert "ran out of memory on cpu and has ended." in notice.text
    assert notice.text.endswith("Lane A goes on.")
    assert [event.chunk for event in events if isinstance(event, Frames) and event.lane == "A"] == list(range(7))
    assert events[-1] == Done("finished", 7)
    assert threading.active_count() == before
    assert not small.lock.waiting


def test_a_lane_begins_only_when_the_pictures_of_the_one_before_are_there(
    small: engine.Engine, aside: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, told = LaneRun.step, Beside._encoded

    def stepping(run: LaneRun, probe: Any = None) -> Frames:
        aside.append(f"{run.name} begins")
        return step(run, probe)

    monkeypatch.setattr(LaneRun, "step", stepping)
    monkeypatch.setattr(Beside, "_encoded", lambda self, *given: (told(self, *given), aside.append("encoded"))[0])
    list(Session(small, replace(SETTINGS, chunks=2)).events())
    turn = ["side begins", "side ends", "encoded"]
    assert aside == ["A begins", *turn, "B begins", *turn] * 2


def test_stopping_or_closing_leaves_no_thread(small: engine.Engine, aside: list[str]) -> None:
    before = threading.active_count()
    for end in ("stop", "close"):
        session = Session(small, replace(SETTINGS, chunks=0))
        events = session.events()
        next(event for event in events if isinstance(event, Sample))
        if end == "stop":
            session.stop()
            list(events)
        events.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before


def test_a_session_beside_its_clean_passes_draws_what_one_in_line_draws(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def pictures() -> list[bytes]:
        return [event.pixels.tobytes() for event in Session(small, SETTINGS).events() if isinstance(event, Frames)]

    in_line = pictures()
    monkeypatch.setattr("fkv.lane.side_of", lambda device: StandIn())
    assert pictures() == in_line


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_a_gpu_a_second_stream_delivers_what_is_delivered_in_line_and_handing_over_waits_for_nothing() -> None:
    loaded = engine.load(replace(SPEC, latent=(24, 8, 12)), "cuda", random_weights=True)
    text, noise = loaded.text.encode(SETTINGS.prompt).embedding, seeded_noise(0, loaded.spec, 1, loaded.device, loaded.dtype)
    runs = [LaneRun("A", loaded, text, parse("full:9"), noise, lambda pixels: pixels.tobytes()[:9], in_line=flat) for flat in (True, False)]
    assert isinstance(runs[1].deliver, Beside)
    for _ in range(6):
        one, two = (run.step() for run in runs)
        assert np.array_equal(one.pixels, two.pixels)
        assert one.jpeg == two.jpeg
        assert runs[1].sample(two, 0.0).ms.decode > 0
    chunk = runs[1].stream.step()
    runs[1].stream.commit()
    side = delivery.CudaSide(loaded.device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with side.after(chunk.latents):
            host, ready = side.fetch(runs[1].deliver.decoder.decode(chunk.latents)[0])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    ready.synchronize()
    assert host.float().std() > 0
