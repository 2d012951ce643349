"""The size of the picture, and runs that cannot be: one set of weights at every size, refusals with a run that can be done instead."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import gradio as gr
import pytest
import torch
from stand_in import StandInEngine, StandInSession, facts

import app
from fkv import advice, engine, parts, planner
from fkv.events import Frames, Settings
from fkv.heads import HeadProfile
from fkv.planner import SIZES, Wanted
from fkv.policies import discover, parse, spelling
from fkv.session import Session
from fkv.spec import MODELS, POCKET, SELF_FORCING
from fkv.ui import build, run
from fkv.ui.choosing import followed
from fkv.ui.controls import picker
from fkv.ui.shelf import Backend, Shelf
from fkv.ui.visitors import Lobby, Visitor, Visitors
from fkv.ui.wiring import House
from fkv.wishes import Concern, concern
from tests.test_engine import NET

SMALL, OTHER = (32, 48), (64, 32)
SPEC = replace(SELF_FORCING, net=replace(NET, channels=16, text_dim=6), latent=(16, 4, 6), heads=None)
RUN = Settings(prompt="a red ball", seed=3, left="full:9", right="window:sink=1,recent=5", chunks=2)
BOTH = (parse("full:21"), parse("forcing-kv"))


@pytest.fixture(scope="module")
def loaded() -> engine.Engine:
    return engine.load(SPEC, "cpu", random_weights=True)


def frames(here: engine.Engine, settings: Settings = RUN) -> list[Frames]:
    return [event for event in Session(here, settings).events() if isinstance(event, Frames)]


def test_a_model_at_another_size_is_the_same_model(loaded: engine.Engine) -> None:
    other = engine.resized(loaded, OTHER)
    assert (loaded.spec.pixels, other.spec.pixels) == (SMALL, OTHER)
    assert replace(other, spec=loaded.spec) == loaded
    assert all(getattr(other, name) is getattr(loaded, name) for name in ("model", "codec", "text", "profile", "lock"))
    assert engine.model_facts(other).size == OTHER
    for here, size in ((loaded, SMALL), (other, OTHER)):
        assert {event.pixels.shape[1:3] for event in frames(here)} == {size}


def test_a_resized_model_draws_what_one_loaded_at_that_size_draws(loaded: engine.Engine) -> None:
    apart = frames(engine.load(SPEC, "cpu", random_weights=True, size=OTHER))
    for one, two in zip(apart, frames(engine.resized(loaded, OTHER))):
        assert abs(one.pixels.astype(int) - two.pixels).max() <= 1, "weights may be laid out for other row counts"


def test_sessions_at_two_sizes_do_not_disturb_each_other(loaded: engine.Engine) -> None:
    both = (loaded, engine.resized(loaded, OTHER))
    alone = [[event.pixels.tobytes() for event in frames(here)] for here in both]
    seen: list[list[bytes]] = [[], []]
    running = [Session(here, RUN).events() for here in both]
    for turn in zip(*running):
        for place, event in enumerate(turn):
            if isinstance(event, Frames):
                seen[place].append(event.pixels.tobytes())
    assert seen == alone


def test_a_size_that_cannot_be_is_refused_and_names_the_nearest(loaded: engine.Engine) -> None:
    with pytest.raises(ValueError, match="use 32x48"):
        engine.resized(loaded, (30, 50))


def test_on_cuda_the_attention_kernel_is_chosen_on_the_shapes_of_the_new_size(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []
    monkeypatch.setattr(loaded.model, "meet", lambda queries, keys: met.append((queries, keys, len(loaded.lock.waiting))))
    engine.resized(replace(loaded, device=torch.device("cuda")), OTHER)
    assert met == [(3 * 8, 21 * 8, 1)], "4 x 2 tokens a frame, while the device's lock is held"


def test_sizes_begin_with_the_models_own_or_the_one_asked_for() -> None:
    assert planner.sizes(POCKET) == ()
    assert planner.sizes(SELF_FORCING) == ("480p", "256p", "320p", "384p", "720p", "1080p")
    assert planner.sizes(planner.resized(SELF_FORCING, (448, 768))) == ("448x768", *SIZES)
    assert all(planner.size_of(name) == size for name, size in SIZES.items())
    room = app.backend(app.arguments(["--resolution", "448x768"]))
    assert room.sizes("pocket") == ()
    assert {room.sizes(spec.name)[0] for spec in MODELS[1:]} == {"448x768"}
    assert room.edition("self-forcing", "448x768") == room.edition("self-forcing", None) == "self-forcing"
    assert room.edition("self-forcing", "720p") == "self-forcing@720p"
    assert room.edition("pocket", "720p") == "pocket"
    assert room.edition("self-forcing", "7x7") == "self-forcing", "what is not offered is not made"


def test_a_model_at_two_sizes_is_loaded_once() -> None:
    calls: list[str] = []
    waited = threading.Event()

    def load(name: str) -> StandInEngine:
        calls.append(name)
        waited.wait(5)
        return StandInEngine(spec=replace(SPEC, name=name))

    def resize(engine: StandInEngine, size: tuple[int, int]) -> StandInEngine:
        return replace(engine, spec=planner.resized(engine.spec, size))

    shelf = Shelf(load, resize)  # type: ignore[arg-type]
    coming = [shelf.want(name) for name in ("a@480p", "a", "a@720p", "a@480p")]
    waited.set()
    assert [future.result(5).spec.pixels for future in coming] == [(480, 832), SMALL, (720, 1280), (480, 832)]
    assert coming[0].result() is coming[3].result()
    assert calls == ["a"]


def test_a_size_of_a_model_that_failed_to_load_is_tried_again_with_it() -> None:
    calls: list[str] = []

    def load(name: str) -> Any:
        calls.append(name)
        if len(calls) == 1:
            raise OSError("no network")
        return SPEC

    shelf = Shelf(load, lambda engine, size: engine)
    assert isinstance(shelf.want("a@480p").exception(5), OSError)
    assert shelf.want("a@480p").result(5) is SPEC  # type: ignore[comparison-overlap]
    assert calls == ["a", "a"]


def test_a_run_that_cannot_be_is_refused_also_where_its_model_was_still_loading() -> None:
    made, visitor, lobby = StandInEngine(), Visitor("a"), Lobby()
    shelf = Shelf(lambda name: made)  # type: ignore[arg-type,return-value]

    def tried(against: Concern) -> dict[str, Any]:
        """The last event of a start."""
        backend = Backend(shelf.load, facts, StandInSession, concern=lambda engine, settings: against)  # type: ignore[arg-type]
        opened = House(Visitors(), lobby, shelf, backend, RUN).opened
        visitor.stop()
        return json.loads(list(run.play(visitor, lobby, shelf, "pocket", RUN, opened))[-1])["events"][-1]

    refused = tried(Concern("it does not fit; use 384x672 (384p)", certain=True))
    assert (refused["kind"], refused["text"]) == ("error", "It does not fit; use 384x672 (384p).")
    assert made.begun == 0
    assert not lobby.seated
    assert tried(Concern("it may not fit; use window"))["type"] == "done"
    assert made.begun == 1


def test_only_where_lanes_can_be_left_out_is_one_alone_proposed() -> None:
    wanted = Wanted(planner.resized(SELF_FORCING, SIZES["256p"]), BOTH)
    small = Wanted(wanted.spec, advice.lighter(wanted)[-1])
    memory = planner.plan(small).total
    assert advice.nearest(wanted, memory) is None
    assert advice.nearest(wanted, memory, fewer=True) == small
    with pytest.raises(ValueError, match="; nothing near it fits either"):
        advice.check(wanted, memory)
    with pytest.raises(ValueError, match="; use one lane, forcing-kv, which needs "):
        advice.check(wanted, memory, fewer=True)
    assert all(len(found.lanes) == 2 for found in advice.candidates(wanted))


def test_a_run_is_impossible_only_by_what_is_exact() -> None:
    wanted = Wanted(SELF_FORCING, BOTH)
    need = planner.plan(wanted)
    assert need.exact == need.weights_bytes + sum(lane.cache_bytes + lane.chunk_bytes + lane.text_bytes for lane in need.lanes)
    with pytest.raises(advice.Impossible, match=r"by weights and caches alone, and 8\.0 GB are there; use "):
        advice.check(wanted, 8 * 10**9)
    with pytest.raises(ValueError, match="are needed and ") as caught:
        advice.check(wanted, need.exact)
    assert not isinstance(caught.value, advice.Impossible)
    with pytest.raises(advice.Impossible, match="would need memory without end; use full:frames=21, which needs "):
        advice.check(Wanted(SELF_FORCING, (parse("full"), parse("forcing-kv"))), 24 * 10**9)


def test_what_speaks_against_a_run_counts_the_lanes_that_run_and_their_roles(
    loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lane B keeps most where every head is dynamic, and as much as lane A where compression is off."""
    here = replace(loaded, profile=HeadProfile("small", 2, 2, ((0, 1), (0, 1))))
    usual = replace(RUN, left="full:21", right="forcing-kv", chunks=40)

    def exact(settings: Settings) -> int:
        """The least memory in which a run is not impossible."""
        low, high = 0, 10**9
        while high - low > 1:
            middle = (low + high) // 2
            monkeypatch.setattr(parts, "memory", lambda device, middle=middle: middle)
            low, high = (middle, high) if concern(here, settings).certain else (low, middle)
        return high

    static, dynamic, off = exact(usual), exact(replace(usual, rule="all-dynamic")), exact(replace(usual, compress=False))
    assert static < dynamic < off
    monkeypatch.setattr(parts, "memory", lambda device: static)
    assert concern(here, usual).words.startswith("Self Forcing 1.3B at 32x48 does not fit: ")
    assert not concern(here, usual).certain, "estimates alone"
    monkeypatch.setattr(parts, "memory", lambda device: 0)
    assert concern(here, usual) == Concern(), "a system that does not say what it has refuses nothing"


def test_a_backend_without_sizes_has_one_edition_of_a_model() -> None:
    assert Backend(lambda name: None, lambda engine: None, Session).edition("pocket", None) == "pocket"  # type: ignore[arg-type,return-value]


def test_lane_a_begins_with_the_cache_its_model_was_trained_with_and_follows_the_model_while_it_has_such_a_one() -> None:
    known = discover()
    with gr.Blocks():
        lane = picker("A", advice.trained(POCKET), known)

    def taken(model: str, text: str) -> str | None:
        """What lane A is given when a model is chosen while it has a policy."""
        policy = parse(text)
        values = [getattr(policy if owner == policy.name else known[owner](), name) for owner, name in lane.controls]
        updates = followed(lane, model, [policy.name, *values])
        assert len(updates) == len([*lane.inputs, *lane.outputs])
        if "value" not in updates[0]:
            return None
        new = [update.get("value", value) for update, value in zip(updates, [policy.name, *values])]
        return spelling(lane.policy(new, known))

    assert taken("longlive", "full:21") == "window"
    assert taken("self-forcing", "window:12:3") == taken("rolling-forcing", "window:12:3") == "full:frames=21"
    assert taken("krea-14b", "full:21") is None
    for chosen in ("full", "window:9:3", "forcing-kv"):
        assert taken("longlive", chosen) is None
    page = build(Backend(lambda name: pytest.fail("loaded"), lambda engine: pytest.fail("asked"), Session), model="longlive")
    shown = {block.elem_id: block for block in page.blocks.blocks.values() if getattr(block, "elem_id", None)}
    assert getattr(shown["policy-a"], "value", None) == "window"
