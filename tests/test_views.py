"""Views are pure: the same event gives the same words, JSON stays finite, and no number appears before it is entitled to."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from stand_in import StandInEngine, StandInSession, facts, profile_facts

from fkv.events import Done, Event, Frames, Kept, Notice, Phases, Sample, Settings, Start, Verdict
from fkv.findings import Maps, TokenMap
from fkv.views import atlas, cache, encode, heads, message, messages, numbers, split
from fkv.views.forecast import Forecast, Outlook

PHASES = Phases((100.0, 100.0, 100.0, 100.0), 80.0, 0.0, 0.0, 30.0, 6.0, 9.0)
SAMPLE = Sample(
    "B", 4, 12, PHASES, 25.0, 23.3, 2_100_000, 4_300_000, 2_400_000, 2_100_000, False, False, 3, "3 past frames", 0.014, 500_000_000, "full"
)
PRICED = {
    "coverage": {"static": 0.9, "dynamic": 0.5}, "layers": 6, "bytes": 2_000_000, "full_bytes": 9_000_000, "read_bytes": 3_000_000,
    "reads": 0.25,
}  # fmt: skip
VERDICT = Verdict(13, 1.93, 1.8, 2.0, 5, 5, 9, 13, 0.122, 17_200_000, 2_100_000, 27.4, 60, "A looks back on 18 frames.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.13, "8.1"), (1480.4, "1,480"), (0.42, "0.42"), (0, "0.0"), (99.96, "100"), (1.0, "1.0"), (math.nan, "–"), (math.inf, "–")],
)
def test_numbers_have_at_most_three_digits_that_matter(value: float, text: str) -> None:
    assert numbers.plain(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(17_200_000, "17.2 MB"), (891_000, "891 kB"), (999_600, "1.0 MB"), (512, "512 B"), (0, "0 B"), (6_040_000_000, "6.0 GB")],
)
def test_bytes_are_shown_in_decimal_units(count: int, text: str) -> None:
    assert numbers.size_text(count) == text


@pytest.mark.parametrize(("value", "words"), [(1.93, ("1.9×", "faster")), (0.5, ("2.0×", "slower")), (1.02, ("1.0×", "as fast"))])
def test_a_ratio_below_one_is_said_as_slower(value: float, words: tuple[str, str]) -> None:
    assert numbers.ratio(value) == words


def test_small_shares_keep_a_decimal() -> None:
    assert [numbers.percent(share) for share in (0.122, 0.004, 0, 1)] == ["12", "0.4", "0", "100"]


@pytest.mark.parametrize("n", [1, 4, 9, 12])
def test_an_atlas_gives_back_its_frames(n: int) -> None:
    rng = np.random.default_rng(n)
    frames = np.repeat(np.repeat(rng.integers(0, 256, (n, 10, 16, 3), np.uint8), 8, 1), 8, 2)
    back = split(encode(frames), n)
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames.astype(int)).mean() < 3


def test_an_atlas_refuses_what_is_no_video() -> None:
    with pytest.raises(ValueError, match="uint8"):
        encode(np.zeros((2, 8, 8, 3), np.float32))
    with pytest.raises(ValueError, match="does not hold 5 frames"):
        split(encode(np.zeros((1, 9, 9, 3), np.uint8)), 5)
    assert atlas.COLUMNS == 4


def test_every_event_of_a_run_becomes_finite_json() -> None:
    session = StandInSession(StandInEngine(), Settings(prompt="a red ball", chunks=9), encode)
    session.pause = 0
    events: list[Event] = []
    for event in session.events():
        events.append(event)
        if len(events) == 30:
            session.change(prompt="a blue star", compress=False)
    sent = [message(event) for event in events]
    assert {entry["type"] for entry in sent} == {"start", "frames", "sample", "maps", "heads", "residency", "verdict", "notice", "done"}
    assert json.dumps(sent, allow_nan=False)


def test_something_that_is_no_event_is_refused() -> None:
    with pytest.raises(TypeError, match="no event"):
        message("frames")  # type: ignore[arg-type]


def test_frames_cannot_be_sent_without_an_encoder() -> None:
    session = StandInSession(StandInEngine(), Settings(prompt="a ball"))
    frames = next(event for event in session.events() if isinstance(event, Frames))
    with pytest.raises(ValueError, match="encode"):
        message(frames)


def test_a_sample_says_its_three_speeds_and_counts_no_probe() -> None:
    sent = messages.sample(SAMPLE)
    assert sent["text"] == {
        "fps": "23.3", "diffusion": "25.0", "ms": "516", "stored": "2.1", "unit": "MB",
        "window": "3 past frames", "probe": "1", "memory": "500 MB",
    }  # fmt: skip
    assert sent["phases"] == {"noisy": 400.0, "clean": 80.0, "recache": 0.0, "decode": 36.0, "probe": 9.0}
    assert sent["ms"] == 516.0


def test_the_verdict_keeps_silent_until_it_may_speak() -> None:
    sent = messages.verdict(replace(VERDICT, speed=None, speed_low=None, speed_high=None, n=2, kept=None, psnr=None, psnr_frames=0))
    assert [sent[name]["value"] for name in ("speed", "kept", "psnr")] == ["", "", ""]  # type: ignore[index]
    assert sent["speed"]["unit"] == "measuring, 2 of 5"  # type: ignore[index]
    assert not sent["measured"]


def test_the_verdict_names_window_spread_and_what_it_counts() -> None:
    sent = messages.verdict(VERDICT)
    speed, kept, psnr = sent["speed"], sent["kept"], sent["psnr"]
    assert (speed["value"], speed["unit"]) == ("1.9×", "faster")  # type: ignore[index]
    assert "chunks 10 to 14" in speed["detail"]  # type: ignore[index]
    assert "1.8 to 2.0×" in speed["detail"]  # type: ignore[index]
    assert (kept["value"], kept["title"]) == ("12 %", "of A's cache, 2.1 of 17.2 MB")  # type: ignore[index]
    assert (psnr["value"], psnr["unit"]) == ("27.4", "dB PSNR")  # type: ignore[index]
    equal = messages.verdict(replace(VERDICT, psnr=math.inf))
    assert equal["psnr"]["unit"] == "identical"  # type: ignore[index]


def test_maps_leave_out_what_a_lane_does_not_hold_and_say_what_b_reaches() -> None:
    nan = math.nan
    sent = messages.maps(Maps(3, 2, 5, (0, 4, 5, 6), (nan, 0.25, 0.25, 0.5), (0.1, nan, 0.4, 0.5)))
    assert sent["left"] == [None, 25.0, 25.0, 50.0]
    assert sent["right"] == [10.0, None, 40.0, 50.0]
    assert "75 %" in str(sent["reach"])


def strip(frames: dict[int, tuple[float, ...]], current: tuple[int, ...]) -> dict[int, str]:
    return {frame: letter for frame, letter, _ in cache.letters(Kept("x", 2, tuple(frames.items())), current)}


def test_letters_follow_from_positions() -> None:
    whole, part = (1.0, 1.0), (1.0, 0.0)
    assert strip({0: whole, 7: part, 8: whole}, (9, 10, 11)) == {0: "S", 7: "D", 8: "L", 9: "C", 10: "C", 11: "C"}
    assert strip({0: whole, 1: whole, 2: whole}, (3, 4)) == {0: "", 1: "", 2: "", 3: "C", 4: "C"}, "nothing was forgotten yet"
    assert strip({5: whole, 6: whole}, (7,)) == {5: "", 6: "", 7: "C"}, "a sliding window has no sink"
    assert strip({0: whole, 1: whole, 2: whole, 8: whole}, (9,)) == {0: "S", 1: "S", 2: "S", 8: "L", 9: "C"}
    assert strip({0: whole, 4: whole}, (9,)) == {0: "S", 4: "D", 9: "C"}, "a whole frame from the middle was chosen"
    assert strip({}, (0, 1)) == {0: "C", 1: "C"}


def test_what_a_class_keeps_is_counted_in_words() -> None:
    whole, part = (1.0, 1.0, 1.0), (1.0, 0.0, 1.0)
    assert cache.summary(Kept("x", 2, ((0, whole), (7, part), (8, whole))), (9,)) == "2 frames and 2 segments"
    assert cache.summary(Kept("x", 2, ((7, part),)), (9,)) == "2 segments"
    assert cache.summary(Kept("x", 2, ((9, whole),)), (9,)) == "0 frames"


def test_the_profile_says_how_roles_were_chosen_and_adds_up() -> None:
    sent = messages.profile(profile_facts())
    assert sent is not None
    counts = sent["counts"]
    assert counts["static"] + counts["dynamic"] == counts["all"]  # type: ignore[index,operator]
    assert sent["rule"] == "Static heads: score at or above 0.80."
    assert messages.profile(None) is None


def test_chips_and_endings_are_words() -> None:
    model, profile = facts(StandInEngine())
    assert messages.chips(model) == [("Weights", "3.4M, fp32"), ("Device", "CPU, 2 threads"), ("Attention", "SDPA")]
    assert message(Done("stopped", 1))["text"] == "Stopped after 1 chunk"
    assert "roles" not in message(Start("x", model, profile, Settings()))["settings"]  # type: ignore[operator]
    assert message(Notice("prompt", "A", 3, "x", "applied", 31.4))["cost"] == "31 ms"


def unpacked(sent: dict[str, object]) -> np.ndarray:
    """What the page reads: uint16 levels of the peak, 65535 for nan."""
    levels = np.frombuffer(base64.b64decode(str(sent["data"])), "<u2").reshape(sent["shape"])  # type: ignore[call-overload]
    return np.where(levels == 65535, np.nan, levels / 65534 * float(sent["peak"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 1, 5), (0, 4)])
def test_packed_numbers_come_back_to_a_65th_of_a_thousandth_with_nan_apart(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(3).random(shape).astype(np.float32) * 0.3
    values[values < 0.03] = np.nan
    back = unpacked(heads.packed(values))
    assert back.shape == shape
    np.testing.assert_allclose(back, values, atol=0.3 / 65534)


def test_heads_say_what_was_never_measured_and_how_they_were_sampled() -> None:
    session = StandInSession(StandInEngine(), Settings(prompt="a ball", chunks=2))
    sent = next(message(event) for event in session.events() if type(event).__name__ == "Heads")
    metrics = sent["metrics"]
    assert metrics["scores"][0][0] is not None  # type: ignore[index]
    assert metrics["scores"][5] == [None] * 8, "no number before it was measured"  # type: ignore[index]
    assert "24 queries per head" in sent["text"]["how"]  # type: ignore[index]
    assert json.dumps(sent, allow_nan=False)


def test_a_token_map_keeps_rows_rows_and_says_what_a_lane_cannot_see() -> None:
    weights = np.zeros((2, 3, 4), np.float32)
    weights[1, 2, 0] = 1
    sent = heads.token_map(TokenMap(5, 1, 2, "B", 7, 0, 3, "keys", (6, 7), weights, (0.0, 1.0), 0.41))
    assert unpacked(sent["weights"])[1, 2, 0] == 1  # type: ignore[arg-type]
    assert sent["weights"]["shape"] == [2, 3, 4]  # type: ignore[index]
    assert "41 %" in str(sent["text"])
    assert heads.token_map(TokenMap(5, 1, 2, "A", 7, 0, 3, "keys", (6, 7), weights, (0.0, math.nan), math.nan))["text"] == ""


def test_a_painted_policy_without_a_survey_promises_no_coverage() -> None:
    sent = heads.price(PRICED | {"coverage": {"static": None, "dynamic": None}, "layers": 0}, 6, Outlook(None, None))
    assert [fact[0] for fact in sent["facts"]] == ["–", "–", "2.0", "25 %", "–"]  # type: ignore[index,attr-defined]
    assert "Predicted, not measured" in str(sent["text"])
    assert "let the lanes run with different caches, 3 chunks each" in str(sent["text"])


def test_what_a_painted_policy_was_said_to_take_stands_beside_what_it_took() -> None:
    chunk, noisy = Forecast(71.2, 62.0, 80.4, 24, 3, True), Forecast(52.0, 50.0, 54.0, 24, 3, True)
    before = heads.price(PRICED, 6, Outlook(chunk, noisy))
    after = heads.price(PRICED, 6, Outlook(chunk, noisy, 12, 73.4, 3_000_000, 2_100_000))
    assert before["facts"][4] == ["71", "ms", "a chunk (62 to 80), from 24 chunks of this run", ""]  # type: ignore[index]
    assert [fact[3] for fact in before["facts"]] == [""] * 5, "nothing is measured before it runs"  # type: ignore[attr-defined]
    assert [fact[3] for fact in after["facts"][2:]] == ["2.1 MB", "25 %", "73 ms, median of 12 chunks"]  # type: ignore[index]
    assert [fact[:3] for fact in after["facts"]] == [fact[:3] for fact in before["facts"]]  # type: ignore[attr-defined]
    assert "52 ms of it noisy passes. Nothing near this size was measured" in str(after["text"])
