"""The lesson's numbers by hand, and its sentences: each says what the run at hand shows, also where that is not what was hoped for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from lesson_run import FRAME_BYTES, SCORES, look, near, run

from fkv.views import evidence, lesson
from fkv.views.trace import Holding, Made, Trace

Json = dict


def steps(recorded: Trace | None, live: Trace | None = None) -> dict[str, Json]:
    return {step["key"]: step for step in lesson.message([trace for trace in (live, recorded) if trace])["steps"]}


def said(step: Json) -> str:
    return " ".join(step["reveal"]).replace("**", "")


def test_a_score_is_the_newest_frames_over_all_but_the_first() -> None:
    assert evidence.scores(np.array([0.4, 0.1, 0.2, 0.3]), last=2) == pytest.approx(0.5 / 0.6)
    assert evidence.scores(np.array([np.nan, 0.1, 0.2, 0.3]), last=1, skip=0) == pytest.approx(0.5)
    assert evidence.scores(np.array(near(0.7)), last=3) == pytest.approx(0.7)
    assert evidence.reach(np.array([0.5, 0.0, 0.5]), (0, 1, 2)) == pytest.approx(1.0)
    assert evidence.reach(np.array([0.5, 0.0, 0.5]), (0, 8, 9)) == pytest.approx(4.5), "frames count by their numbers, gaps included"


def test_the_published_threshold_is_used_unless_it_leaves_a_class_empty() -> None:
    both = evidence.cut(np.array([[0.9, 0.1], [0.85, 0.2]]))
    assert (both.threshold, both.published, both.static) == (0.8, True, 0.5)
    low = evidence.cut(np.array([[0.4, 0.1], [0.5, 0.2]]))
    assert (low.threshold, low.published, low.static, low.at) == (pytest.approx(0.3), False, 0.5, 0.0)


def test_agreement_counts_heads_that_never_change_and_pairs_of_samples() -> None:
    found = evidence.agreement(np.array([[[0.9, 0.1]], [[0.9, 0.9]], [[0.9, 0.1]]]), 0.8)
    assert (found.always, found.n, found.heads) == (0.5, 3, 2)
    assert found.pairs == pytest.approx((1 + 1 / 3) / 2), "of three pairs the first head agrees in all, the second in one"
    share = 4 / 6
    assert found.chance == pytest.approx(share**2 + (1 - share) ** 2)


def test_a_paired_difference_is_clear_only_if_its_interval_leaves_zero_out() -> None:
    assert evidence.paired([3, 4, 5], [1, 2, 3]) == evidence.Difference(2.0, 2.0, 2.0, 3)
    unclear = evidence.paired([1.0, -1.0, 0.5, -0.5], [0, 0, 0, 0])
    assert (unclear.mean, unclear.clear) == (0, False)
    assert not evidence.paired([3.0], [1.0]).clear, "one pair has no interval"
    assert evidence.paired([3, np.nan], [1, 1]).n == 1


def test_coverage_is_the_attention_that_falls_on_what_is_held() -> None:
    bands = np.array([[[[0.1, 0.1], [0.2, 0.2], [0.2, 0.2]]]])  # one head, three frames of two segments
    held = [Holding(0, "dynamic", (0,), ((4, (1.0, 0.0)),))]
    assert evidence.coverage(bands, (4, 5, 6), 1, held)[0, 0] == pytest.approx(0.5)
    assert evidence.coverage(bands, (4, 5, 6), 1, [])[0, 0] == pytest.approx(0.4), "the chunk being drawn is always seen"


def test_speed_pairs_chunks_that_count_in_both_lanes() -> None:
    a = [Made(chunk, 12, ms, 0, 0, True) for chunk, ms in enumerate((100.0, 200.0, 300.0))]
    b = [Made(0, 12, 50.0, 0, 0, True), Made(1, 12, 50.0, 0, 0, False), Made(2, 12, 100.0, 0, 0, True)]
    found = evidence.speed(a, b)
    assert found is not None
    assert (found.median, found.n, found.left, found.right) == (2.5, 2, 200.0, 75.0)
    assert evidence.speed(a, []) is None
    assert evidence.history_cost([Made(0, 12, 9.0, 0, 0, False), Made(1, 12, 100.0, 0, 3, True), Made(2, 12, 150.0, 0, 6, True)]) == (
        3,
        100.0,
        6,
        150.0,
    )


def test_eight_steps_have_a_text_a_question_and_a_reveal_of_finite_numbers() -> None:
    message = lesson.message([run()])
    assert json.loads(json.dumps(message, allow_nan=False)) == message
    assert [step["number"] for step in message["steps"]] == list(range(1, 9))
    for step in message["steps"]:
        assert not step["missing"], step["key"]
        assert step["text"]
        assert step["question"]["prompt"]
        assert len(step["reveal"]) >= 1
        assert all(line.count("**") % 2 == 0 and "nan" not in line for line in [*step["text"], *step["reveal"]])
        assert step["source"]["text"].startswith("recorded run of 2026-11-20")
        assert step["source"]["text"].endswith("commit abc123, a small machine, 2 threads")


def test_the_cache_is_said_to_grow_or_to_stop_by_what_it_did() -> None:
    step = steps(run())["chunks"]
    right = [option["text"] for option in step["question"]["options"] if option["right"]]
    assert right == ["It stops when the window of 8 frames is full: about 4.6 kB"]
    assert "it has not grown since chunk 4" in said(step)
    assert "exactly 2 (key and value) × 2 layers × 4 heads × 4 tokens × 3 numbers × 4 bytes" in said(step)
    assert "33 %" in said(step), "lane B holds 2 of 6 past frames"
    endless = run().lanes["A"]
    grown = replace(endless, made=tuple(replace(made, stored=2 * made.chunk * FRAME_BYTES, past=2 * made.chunk) for made in endless.made))
    step = steps(replace(run(), lanes={"A": grown}))["chunks"]
    assert "still growing" in said(step)
    assert step["question"]["options"][0]["right"]


def test_the_head_that_looks_further_back_is_the_measured_one() -> None:
    step = steps(run())["token"]
    assert [option["text"] for option in step["question"]["options"] if option["right"]] == ["L1 H3"]
    same = replace(run(), atlases=(run().atlases[0], replace(run().atlases[0], head=3)))
    step = steps(same)["token"]
    assert step["question"]["options"][2]["right"]
    assert "do not look at different things" in said(step)
    assert steps(run())["curve"]["question"]["value"] == pytest.approx(9.0), "a tenth of nine tenths"


def test_six_cards_are_classed_at_the_threshold_and_close_ones_are_undecided() -> None:
    step = steps(run())["predict"]
    cards = {(card["layer"], card["head"]): card for card in step["data"]["cards"]}
    assert len(cards) == 4, "layer 0 is compressed by rule and is not asked about"
    assert cards[1, 0]["kind"] == "static"
    assert cards[1, 1]["undecided"], "0.82 is nearer to 0.80 than two errors of 0.03"
    assert cards[1, 3]["kind"] == "dynamic"
    assert "4 of 8 heads of this model are static (50 %)" in said(step)
    low = replace(run(), look=look(SCORES / 2))
    step = steps(low)["predict"]
    assert "too few to tell classes apart here" in said(step)
    assert "head profile (score >= 0.8), measured beforehand, gives every head the same class" in said(steps(run())["predict"])


@pytest.mark.parametrize(
    ("random", "answer", "words"),
    [
        ((27.0, 28.0, 29.0), 0, "which heads are static matters"),
        ((30.5, 30.5, 32.0), 1, "makes no difference that can be told from chance"),
        ((33.0, 34.0, 35.5), 2, "worse than chance"),
    ],
)
def test_what_random_roles_do_is_said_as_it_was_measured(random: tuple[float, ...], answer: int, words: str) -> None:
    step = steps(run({"random:1": random, "random:2": random}))["break"]
    assert [option["right"] for option in step["question"]["options"]] == [index == answer for index in range(3)]
    assert words in said(step)


def test_stability_says_where_it_holds_and_where_it_does_not() -> None:
    step = steps(run())["stable"]
    assert step["question"]["value"] == pytest.approx(100 * 7 / 8)
    assert "7 of 8 heads" in said(step)
    assert "holds only in part" in said(step)
    assert "the line where two of them agree on 95 %" in said(step), "whose line it is"
    stable = run().stability
    assert stable is not None
    firm = replace(stable, samples=np.repeat(SCORES[None], 3, axis=0), steps=np.repeat(SCORES[None], 2, axis=0))
    assert "Here it holds:" in said(steps(replace(run(), stability=firm))["stable"])
    assert "holds over prompts, but not over denoise steps" in said(
        steps(replace(run(), stability=replace(stable, samples=firm.samples)))["stable"]
    ).replace("over steps", "over denoise steps")


def test_kept_segments_and_lost_attention_are_compared() -> None:
    step = steps(run())["forget"]
    assert "2 of 4 least similar" in said(step)
    assert "mean similarity 0.45 against 0.85" in said(step)
    assert "The static heads lose less" in said(step)
    turned = dict(run().residency or {})
    turned["similarity"] = turned["similarity"] | {"kept": [[True, False], [False, True]]}
    assert "most similar" in said(steps(replace(run(), residency=turned))["forget"])


def test_what_it_bought_names_the_ratio_and_what_no_policy_can_save() -> None:
    step = steps(run())["buy"]
    assert step["question"]["value"] == pytest.approx(160 / 120, abs=1e-3)
    assert "1.3× faster" in said(step)
    assert "looking back on the others costs 25 %" in said(step), "120 of 160 ms are left with the shortest past"
    assert "30.0 dB" in said(step)


def test_a_live_run_is_preferred_where_it_has_what_a_step_needs() -> None:
    mine = replace(run(), source=replace(run().source, kind="live", machine="cpu, 2 threads"), atlases=(), stability=None, trials=())
    kinds = {key: step["source"]["kind"] for key, step in steps(run(), mine).items()}
    assert [key for key, kind in kinds.items() if kind == "recorded"] == ["token", "curve", "stable", "break"]
    alone = steps(None, mine)
    assert "Press Start on the Live tab" in alone["break"]["missing"]
    assert not alone["buy"]["missing"]


def test_without_any_run_the_lesson_says_what_to_do() -> None:
    message = lesson.message([])
    assert "Press Start on the Live tab" in message["missing"]
    assert all(step["missing"] and "question" not in step for step in message["steps"])
    assert "cannot be read: broken." in lesson.message([], "broken.")["missing"]
