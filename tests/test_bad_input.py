"""What goes wrong while a run goes on: a checkpoint swapped on the disk, another model wanted meanwhile, no memory left."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fkv import engine, parts
from fkv.__main__ import main
from fkv.codec import load_taehv, taehv_random
from fkv.events import Event, Frames, Notice, Settings
from fkv.lane import LaneRun
from fkv.session import Session
from fkv.spec import find
from tests.test_engine import SMALL, shipped
from tests.test_weights import drawn, loaded, same, small

SETTINGS = Settings(prompt="a red ball bouncing over green hills", seed=3, left="full:9", right="window:sink=1,recent=5", chunks=4)


def pictures(events: list[Event]) -> list[tuple[str, int, bytes]]:
    return [(event.lane, event.chunk, event.pixels.tobytes()) for event in events if isinstance(event, Frames)]


def overwritten(path: Path) -> None:
    """Other bytes in the same file, as a program writes that replaces nothing."""
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)


def test_a_checkpoint_swapped_on_the_disk_during_a_run_changes_nothing(tmp_path: Path) -> None:
    here = engine.load(shipped(tmp_path), "cpu")
    kept = pictures(list(Session(here, SETTINGS).events()))
    run, seen = Session(here, SETTINGS).events(), list[Event]()
    while len(pictures(seen)) < 3:
        seen.append(next(run))
    for name in ("model.safetensors", "codec.safetensors"):
        overwritten(tmp_path / name)
    assert pictures([*seen, *run]) == kept
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        engine.load(here.spec, "cpu")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_nothing_of_a_published_checkpoint_is_read_once_it_is_loaded(tmp_path: Path, name: str) -> None:
    path, ours = tmp_path / name, drawn()
    torch.save({"generator_ema": ours}, path) if name.endswith(".pt") else save_file(ours, path)
    state = loaded(small(find("self-forcing")), path)
    overwritten(path)
    assert same(state, ours)


def test_nothing_of_a_decoder_is_read_once_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "taew2_1.safetensors"
    state = {name.replace("decoder_stack.", "decoder."): tensor for name, tensor in taehv_random().state_dict().items()}
    save_file(state, path)
    codec = load_taehv(path)
    overwritten(path)
    assert all(torch.equal(tensor, state[name.replace("decoder_stack.", "decoder.")]) for name, tensor in codec.state_dict().items())


class Told(deque[object]):
    """A line that tells whoever watches it of everyone who joins."""

    def __init__(self, changed: threading.Condition) -> None:
        super().__init__()
        self.changed = changed

    def append(self, ticket: object, /) -> None:
        super().append(ticket)
        self.changed.notify_all()


def test_another_model_is_loaded_between_the_chunks_of_a_run_and_changes_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = engine.load(SMALL, "cpu", random_weights=True)
    kept, step, made = pictures(list(Session(here, SETTINGS).events())), LaneRun.step, list[engine.Engine]()
    switch = threading.Thread(target=lambda: made.append(engine.load(SMALL, "cpu", random_weights=True, lock=here.lock)))

    def stepping(run: LaneRun, probe: Any = None) -> Frames:
        if run.name == "A" and run.stream.chunks == 2:
            switch.start()
            with here.lock.changed:
                assert here.lock.changed.wait_for(lambda: len(here.lock.waiting) > 1, timeout=60)
            assert not made, "the model is loaded while a lane works"
        return step(run, probe)

    monkeypatch.setattr(LaneRun, "step", stepping)
    monkeypatch.setattr(here.lock, "waiting", Told(here.lock.changed))
    assert pictures(list(Session(here, SETTINGS).events())) == kept
    switch.join(60)
    assert made[0].lock is here.lock


def test_a_lane_without_memory_has_freed_what_it_held_when_its_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here, held, step = engine.load(SMALL, "cpu", random_weights=True), list[weakref.ref[Any]](), LaneRun.step

    def stepping(run: LaneRun, probe: Any = None) -> Frames:
        if run.name == "B" and run.stream.chunks == 2:
            group = run.stream.cache.layers[0][0]
            held.extend(map(weakref.ref, (run, run.stream, run.stream.cache, group.k, group.v)))
            run.stream.mark = lambda phase: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
        return step(run, probe)

    monkeypatch.setattr(LaneRun, "step", stepping)
    for event in Session(here, SETTINGS).events():
        if isinstance(event, Notice):
            assert [ref() for ref in held] == [None] * 5
            assert event.text.startswith("Lane B ran out of memory on cpu and has ended. ")
            assert event.text.endswith(" Lane A goes on.")
            break
    else:
        pytest.fail("nothing was told of the lane's end")


@pytest.mark.parametrize("command", ["generate --out {}/x.mp4 --left", "bench --policies"])
def test_a_run_that_cannot_fit_is_refused_with_the_nearest_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    net = replace(SMALL.net, channels=16, text_dim=6)
    here = engine.load(replace(find("self-forcing"), net=net, heads=None), "cpu", random_weights=True)
    monkeypatch.setattr(engine, "load", lambda *given, **more: here)
    monkeypatch.setattr(parts, "memory", lambda device: 10**9)
    assert main([*command.format(tmp_path).split(), "full:21", "--chunks", "40"]) == 2
    assert "does not fit: " in capsys.readouterr().err
