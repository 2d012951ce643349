"""A noisy pass in pieces: they are all of it, they change nothing, and what cannot be taken apart is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fkv import bench, engine, pieces, roofline
from fkv.events import Settings
from fkv.heads import HeadProfile
from fkv.lane import LaneRun
from fkv.policies import parse
from fkv.policies.window import Window
from fkv.spec import POCKET
from fkv.stream import seeded_noise
from fkv.views import report
from tests.small import SPEC

RATES = roofline.Rates(operations=1e12, bytes=1e11)


@pytest.fixture(scope="module")
def small() -> engine.Engine:
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    rows = [[0.1, 0.9, 0.2, 0.8][: SPEC.net.heads]] * SPEC.net.layers
    return replace(loaded, profile=HeadProfile.of_scores("small", rows).by_threshold(0.5))


def lane(small: engine.Engine, spelling: str, chunks: int = 5) -> LaneRun:
    policy = parse(spelling)
    assert small.profile is not None
    policy = policy.with_roles(small.profile.roles()) if policy.needs_roles else policy
    text, noise = small.text.encode("a red ball bouncing over green hills").embedding, seeded_noise(0, small.spec)
    run = LaneRun("A", small, text, policy, noise)
    for _ in range(chunks):
        run.sample(run.step(), 0.0)
    return run


def test_reading_a_short_prompt_is_a_piece_with_its_projection() -> None:
    loaded = engine.load(POCKET, "cpu", random_weights=True)
    text, noise = loaded.text.encode("a red ball bouncing over green hills").embedding, seeded_noise(0, POCKET)
    run = LaneRun("A", loaded, text, parse("full:9"), noise)
    for _ in range(4):
        run.step()
    found = {piece.name: piece for piece in pieces.pieces(loaded, run)}
    net, rows = POCKET.net, POCKET.chunk * POCKET.geometry.tokens
    assert "product cross_o" not in found
    assert found["attention to the text, projected"].operations == 2 * rows * net.dim * net.text_len * (1 + net.heads)
    products = sum(piece.calls * piece.operations for name, piece in found.items() if name.startswith("product"))
    assert products == net.layers * rows * net.dim * (10 * net.dim + 4 * net.ffn)


@pytest.mark.parametrize("spelling", ["full:21", "forcing-kv", "window:6:1"])
def test_the_pieces_of_a_pass_have_its_operations(small: engine.Engine, spelling: str) -> None:
    run = lane(small, spelling)
    found = list(pieces.pieces(small, run))
    of = {
        start: sum(piece.calls * piece.operations for piece in found if piece.name.startswith(start)) for start in ("product", "attention")
    }
    net, geometry = small.spec.net, small.spec.geometry
    length, committed = geometry.chunk * geometry.tokens, run.stream.chunks - 1
    keys = [sum(h * s for h, s in run.policy.expected(layer, committed, geometry)) + geometry.heads * length for layer in range(net.layers)]
    assert of["product"] == net.layers * length * net.dim * (12 * net.dim + 4 * net.ffn)
    assert of["attention"] == 4 * length * (geometry.head_dim * sum(keys) + net.layers * net.dim * net.text_len)


def test_groups_that_run_side_by_side_are_one_piece(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lane(small, "forcing-kv")

    def attention() -> dict[str, float]:
        found = [piece for piece in pieces.pieces(small, run) if piece.name.startswith("attention of")]
        return {piece.name: piece.calls * piece.operations for piece in found}

    apart = attention()
    monkeypatch.setattr(small.model, "side_by_side", lambda slots, tokens: len(slots) > 1)
    together = attention()
    assert not any(" beside " in name for name in apart)
    assert sum(" beside " in name for name in together) == 1
    assert sum(together.values()) == sum(apart.values())
    assert len(together) < len(apart)


@pytest.mark.parametrize("spelling", ["full:9", "forcing-kv"])
def test_timing_pieces_changes_nothing_of_what_comes(small: engine.Engine, spelling: str) -> None:
    timed, plain = lane(small, spelling), lane(small, spelling)
    found = pieces.measured(small, timed, RATES)
    assert all(entry["ms"] > 0 for entry in found)
    assert {entry["piece"] for entry in found if not entry["calls"]} == {"decode", "encode"}
    for _ in range(2):
        assert torch.equal(timed.stream.step().latents, plain.stream.step().latents)


def test_a_bench_takes_its_passes_apart_when_asked(small: engine.Engine) -> None:
    settings = Settings(prompt="a red ball bouncing over green hills", chunks=8)
    found = bench.run(small, ["full:9", "forcing-kv"], settings, apart=True)
    found["merging_ms"] = found["policies"][0]["ms"]["diffusion"]["median"] / 8
    for told in (report.sentences(found), report.table(found)):
        assert told.count("| product qkv |") == told.count("The pieces of a pass come to ") == 2
        assert "of what a chunk's passes take: 12.5 % under `full:frames=9`, " in told.splitlines()[-1]
    plain = bench.run(small, ["full:9"], settings)
    assert "pieces" not in plain["policies"][0]
    assert "merging_ms" not in plain
    assert "taken at once" not in report.sentences(plain)


def test_merging_saves_what_twice_the_rows_take_less_than_two_calls(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list[int]()

    def timed(work: Callable[[], object], device: torch.device) -> float:
        made = work()
        assert isinstance(made, torch.Tensor)
        rows.append(made.shape[1])
        return 1.0 if made.shape[1] == length else 1.5

    length = small.spec.chunk * small.spec.geometry.tokens
    monkeypatch.setattr(pieces, "timed", timed)
    layers = small.spec.net.layers
    assert pieces.merging(small) == pytest.approx(0.5 * layers * (6 + 3 + 1))
    assert rows == [length, 2 * length] * 8


def test_a_share_of_the_best_rate_is_what_a_call_takes_at_that_rate(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "timed", lambda work, device: 2.0)
    run = lane(small, "full:9")
    plain, eight = (pieces.measured(small, run, rates) for rates in (RATES, replace(RATES, projections=2e12)))
    first = plain[0]
    assert first["share_of_best"] == pytest.approx(first["operations"] / 2e-3 / 1e12)
    assert eight[0]["share_of_best"] == pytest.approx(first["share_of_best"] / 2)
    assert report.explained(plain) == 2.0 * sum(entry["calls"] for entry in plain)
    assert [entry["share_of_best"] for entry in plain if entry["piece"] == "add and norm"] == [None]
    assert report.apart(plain, 4 * report.explained(plain)).endswith("that one took (25 %).")


def test_a_pass_that_cannot_be_taken_apart_is_refused_before_the_first_chunk(small: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LaneRun, "step", lambda run, probe=None: pytest.fail("a chunk was drawn"))
    settings = Settings(prompt="a red ball bouncing over green hills", chunks=8)
    rolling = replace(small, spec=replace(small.spec, schedule=replace(small.spec.schedule, sampler="rolling")))
    with pytest.raises(ValueError, match="several chunks jointly, and such a pass cannot be taken apart; leave --pieces out"):
        bench.run(rolling, ["full:9"], settings, apart=True)
    monkeypatch.setattr(Window, "load", lambda policy, layer, past, q, frames: past)
    with pytest.raises(ValueError, match="Window, 3 first \\+ 3 newest chooses what to read in every pass"):
        bench.run(small, ["full:9", "window:6:3"], settings, apart=True)
