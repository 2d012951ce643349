"""Figures say what they show, their numbers can be taken away whole, and a live run becomes a trace without inventing anything."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lesson_run import run
from stand_in import HEADS, LAYERS, StandInEngine, StandInSession
from stand_in import facts as stand_in_facts

from fkv.events import Event, Sample, Settings
from fkv.findings import Heads
from fkv.heads import HeadProfile
from fkv.stability import Agreement
from fkv.ui import comparing
from fkv.ui.analysis import MAKERS, TITLES
from fkv.views import figures, figures_compare, figures_profiles, lesson, live
from fkv.views.figures import Figure
from fkv.views.figures_profiles import Side
from fkv.views.trace import Trace

BLUE, ORANGE = "#0072B2", "#E69F00"


@pytest.mark.parametrize(("name", "make"), MAKERS, ids=[name for name, _ in MAKERS])
def test_every_figure_has_a_caption_with_n_and_numbers_that_go_with_it(name: str, make: Callable[[Trace], Figure | None]) -> None:
    figure = make(run())
    assert figure is not None
    assert figure.name == name
    assert figure.title == TITLES[name]
    assert "exact" in figure.caption
    assert any(words in figure.caption for words in ("n = 8 heads", "n = 3 prompts", "n = 2 steps", "8 heads that"))
    rows = list(csv.reader(line for line in figure.to_csv().splitlines() if not line.startswith("#")))
    assert rows[0] == list(figure.columns)
    assert all(len(row) == len(rows[0]) for row in rows)
    loaded = np.load(io.BytesIO(figure.to_npz()))
    assert json.loads(str(loaded["recipe"]))["commit"] == "abc123"
    assert set(figure.arrays) < set(loaded.files)
    layout = figure.plot.to_plotly_json()["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"


def test_the_histogram_counts_every_head_once_in_the_colour_of_its_class() -> None:
    figure = figures.histogram(run())
    assert figure is not None
    drawn: Any = figure.plot.data
    bars = {bar.name: bar for bar in drawn}
    assert {name: int(np.sum(bar.y)) for name, bar in bars.items()} == {"static, 4": 4, "dynamic, 4": 4}
    assert [bar.marker.color for bar in bars.values()] == [BLUE, ORANGE]


def test_classifications_agree_with_themselves_and_the_inverted_one_with_none() -> None:
    figure = figures_compare.agreement(run())
    assert figure is not None
    matrix = figure.arrays["agreement"]
    assert np.allclose(np.diag(matrix), 1)
    assert np.allclose(matrix, matrix.T)
    names = list(figures_compare.classifications(run()))
    assert matrix[names.index("in force"), names.index("profile at 0.80")] == 1


def test_age_curves_are_means_and_quantiles_of_the_heads_of_a_class() -> None:
    figure = figures_compare.ages(run())
    assert figure is not None
    columns = figure.columns
    newest = [index for index, age in enumerate(columns["frames_ago"]) if age == 0]
    assert [columns["class"][index] for index in newest] == ["static", "dynamic"]
    assert columns["mean"][newest[0]] == pytest.approx(0.9 * np.mean([0.9, 0.85, 0.95, 0.82]) / 3)
    assert all(low <= mean <= high for low, mean, high in zip(columns["low"], columns["mean"], columns["high"]))


def test_what_was_not_measured_has_no_figure() -> None:
    bare = replace(run(), look=None, classes=None, stability=None, trials=())
    assert all(make(bare) is None for _, make in MAKERS)


def heads(chunk: int, layers: tuple[int, ...]) -> Heads:
    grid = tuple((0.5,) * HEADS for _ in range(LAYERS))
    share = np.full((len(layers), HEADS, 6), 1 / 6, np.float32)
    bands = np.repeat(share[..., None] / 5, 5, axis=-1)
    frames = tuple(range(3 * chunk - 3, 3 * chunk + 3))
    return Heads(chunk, frames, layers, share, bands, grid, grid, grid, grid, grid, 48, 3.0, ((),) * LAYERS, 0.01, 3)


def events(chunks: int = 8) -> list[Event]:
    StandInSession.pause = 0.0
    session = StandInSession(StandInEngine(), Settings(prompt="a red ball", chunks=chunks))
    return list(session.events())


def test_a_live_run_has_its_lanes_and_no_look_before_every_layer_was_measured() -> None:
    assert live.live([]) is None
    found = live.live([*events(), heads(6, (0, 1, 2))])
    assert found is not None
    assert found.look is None, "layers 3 to 5 wait their turn"
    assert found.source.kind == "live"
    assert [made.chunk for made in found.lanes["A"].made] == list(range(8))
    assert found.stability is None
    assert found.trials == ()


def test_chunks_before_a_change_do_not_count() -> None:
    changed = [replace(event, recached=True) if isinstance(event, Sample) and event.chunk == 4 else event for event in events()]
    found = live.live(changed, {"A": "Full, 21 frames", "B": "Forcing-KV"})
    assert found is not None
    assert [made.chunk for made in found.lanes["A"].made if made.counts] == [5, 6, 7]
    assert found.lanes["A"].label == "Full, 21 frames"


def test_layers_measured_in_different_chunks_make_one_look() -> None:
    found = live.live([*events(), heads(5, (0, 1, 2)), heads(6, (3, 4, 5))])
    assert found is not None
    assert found.look is not None
    assert found.look.share.shape == (LAYERS, HEADS, 6)
    assert found.look.chunk == 6
    steps = {step["key"]: step for step in lesson.message([found])["steps"]}
    assert steps["predict"]["source"]["kind"] == "live"
    assert "48 sampled queries a head" in steps["predict"]["data"]["exact"]
    assert "half-life 3.0 chunks" in steps["predict"]["data"]["exact"]
    figure = figures.histogram(found)
    assert figure is not None
    assert "half-life of 3.0 chunks" in figure.caption


def test_a_loaded_profile_with_samples_tells_of_stability_and_of_nothing_else() -> None:
    facts, profile = stand_in_facts(StandInEngine())
    samples = np.random.default_rng(0).random((4, LAYERS, HEADS))
    assert live.profiled(facts, profile, None, None, {}) is None
    found = live.profiled(facts, profile, samples, samples[:2], {"prompts": 4})
    assert found is not None
    steps = {step["key"]: step for step in lesson.message([found])["steps"]}
    assert [key for key, step in steps.items() if not step["missing"]] == ["stable"]
    assert steps["stable"]["source"]["text"] == "head profile of the loaded model, Pocket, 4 prompts"
    assert "n = 4 prompts" in getattr(figures.stability(found), "caption", "")


def published_pair() -> tuple[Side, Side, Agreement]:
    first, second = comparing.published().values()
    return comparing.side("first", first), comparing.side("second", second), first.agreement(second)


def test_the_published_lists_are_compared_head_by_head_with_chance_and_kappa() -> None:
    first, second, found = published_pair()
    figure = figures_profiles.profiles(first, second, found)
    assert "n = 360 heads in 30 layers" in figure.caption
    assert "They agree on 330 heads (92 %)" in figure.caption
    assert "5 are static in first only, 25 in second only" in figure.caption
    a, b = first.static.mean(), second.static.mean()
    chance = a * b + (1 - a) * (1 - b)
    assert found.chance == pytest.approx(chance)
    assert figure.recipe["kappa"] == pytest.approx((330 / 360 - chance) / (1 - chance))
    assert figure.columns["agree"].count(False) == 30
    assert figure.arrays["agreement_by_layer"].mean() == pytest.approx(330 / 360)
    framed: Any = [trace for trace in figure.plot.data if trace.name == "they differ"]  # type: ignore[attr-defined]
    assert [len(trace.x) for trace in framed] == [30, 30]


def test_lists_of_different_sizes_are_not_compared_and_both_sizes_are_said() -> None:
    found = {**comparing.published(), "Pocket, own profile": HeadProfile("pocket", LAYERS, HEADS, ((0,),) * LAYERS)}
    first, _, own = found
    with pytest.raises(ValueError, match="has 30 layers of 12 heads, Pocket, own profile 6 of 8: these are not the same heads"):
        comparing.compared(first, own, found)
    assert comparing.unlike(first, found) == (
        "Not comparable with Self Forcing 1.3B, published (30 layers of 12 heads): Pocket, own profile (6 of 8)."
    )
    with pytest.raises(ValueError, match="is not at hand any more; choose one of"):
        comparing.compared(first, "gone", found)
    assert "agree on 48 heads (100 %)" in comparing.compared(own, own, found).caption
