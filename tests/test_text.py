"""Prompts: one canonical wording, a tolerant reader, an embedding without weights."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from fkv.text import (
    CAMERAS,
    COLOURS,
    EXAMPLES,
    MOTIONS,
    SHAPES,
    THEMES,
    Parsed,
    PocketText,
    Thing,
    describe,
    encode_many,
    parse,
    seeded_layout,
)
from fkv.text.meaning import plain
from fkv.text.motion import pan, place


def combinations(most: int) -> list[Parsed]:
    draw = random.Random(0)
    things = [list(itertools.product([colour], SHAPES, MOTIONS)) for colour in COLOURS]
    out = []
    for count in (1, 2, 3):
        for colours in itertools.combinations(range(len(COLOURS)), count):
            for parts in itertools.product(*(things[c] for c in colours)):
                if count == 1 or draw.random() < most / 40_000:
                    scenes = itertools.product(THEMES, (False, True), CAMERAS)
                    out += [Parsed(tuple(Thing(*part) for part in parts), *scene) for scene in scenes]
    return out


def test_the_canonical_wording_reads_back_to_the_same_meaning_without_notes() -> None:
    for parsed in combinations(most=150):
        again = parse(describe(parsed))
        assert again == parsed, describe(parsed)
        assert again.notes == ()


def test_every_example_is_understood_without_notes() -> None:
    assert PocketText().examples == EXAMPLES
    assert len(EXAMPLES) == 6
    for text in EXAMPLES:
        assert parse(text).notes == ()


def thing(text: str) -> tuple[Thing, ...]:
    return parse(text).objects


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("A CRIMSON sphere hopping over a meadow", "a red ball bouncing over green hills"),
        ("golden squares circling in the winter", "a yellow box orbiting on a snowy night"),
        ("a bouncing red ball, a dropping white cube by the ocean", "a red ball bouncing and a white box falling over a calm sea"),
        ("a red and a blue star orbiting over sand dunes", "a red star orbiting and a blue star orbiting in a desert sunset"),
        ("a purple triangle flying over the blue sea", "a purple triangle drifting over a calm sea"),
        ("a red ball jumping on a snowy night behind a red brick wall", "a red ball bouncing on a snowy night, behind a wall"),
        ("camera moving left, a blue box floating over green hills", "a blue box drifting over green hills, camera panning left"),
        ("the view pans to the right: white star falls, sunset", "a white star falling in a desert sunset, camera panning right"),
        ("a blue star orbiting and a red ball bouncing at sea", "a red ball bouncing and a blue star orbiting over a calm sea"),
        ("a red ball bouncing over hills, no wall, still camera", "a red ball bouncing over green hills"),
    ],
)
def test_free_wording_means_the_same_as_the_canonical_wording(text: str, meaning: str) -> None:
    parsed = parse(text)
    assert describe(parsed) == meaning
    assert parsed.notes == ()


def test_two_balls_get_different_colours_by_a_fixed_rule_and_it_is_said() -> None:
    parsed = parse("two balls bouncing over green hills")
    assert [t.colour for t in parsed.objects] == ["red", "blue"]
    assert any("red" in note for note in parsed.notes)
    assert any("blue" in note for note in parsed.notes)
    twice = parse("a red ball bouncing and a red star falling over green hills")
    assert [t.colour for t in twice.objects] == ["red", "blue"]
    assert "cannot both be red" in " ".join(twice.notes)


def test_an_unknown_word_is_named_with_its_nearest_known_words() -> None:
    notes = " ".join(parse("a grean balll bouncng over green hills").notes)
    assert '"balll"' in notes
    assert "ball" in notes.replace('"balll"', "")
    assert '"bouncng"' in notes
    assert "bouncing" in notes
    assert "blue" in " ".join(parse("a green ball bouncing over green hills").notes)


def test_what_is_missing_is_filled_in_and_said() -> None:
    parsed = parse("a red ball")
    assert describe(parsed) == "a red ball bouncing over green hills"
    assert len(parsed.notes) == 2
    assert describe(parse("xyzzy")) == "a red ball bouncing over green hills"
    assert describe(parse("a bouncing cat over a calm sea")) == "a red ball bouncing over a calm sea"


def test_left_of_an_object_is_not_taken_for_the_camera() -> None:
    parsed = parse("a red ball drifting left over green hills, camera panning right")
    assert parsed.camera == "right"
    assert '"left"' in " ".join(parsed.notes)


@pytest.mark.parametrize(("text", "words"), [("", "no English words"), (" ?! ", "no English words"), ("five stars", "5 objects")])
def test_a_prompt_without_words_or_with_too_many_objects_is_refused_with_the_limit(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        parse(text)
    assert "1 to 3" in str(error.value)


def test_the_embedding_is_one_hot_in_row_and_value_and_differs_between_meanings() -> None:
    prompts = combinations(most=20)
    codes = encode_many(prompts)
    assert codes.shape == (len(prompts), 16, 112)
    assert codes.dtype == np.float32
    assert (codes.sum(2)[:, :13] == 2).all()
    assert (codes[:, 13:] == 0).all()
    assert len(np.unique(codes.reshape(len(prompts), -1), axis=0)) == len(prompts)


def test_encode_gives_the_embedding_the_notes_and_the_meaning() -> None:
    prompt = PocketText().encode("a red ball")
    assert prompt.embedding.shape == (1, 16, 112)
    assert prompt.embedding.dtype == torch.float32
    assert prompt.parsed == parse("a red ball")
    assert prompt.notes
    meaning = parse("a red ball bouncing over green hills")
    assert torch.equal(prompt.embedding, torch.from_numpy(encode_many([meaning], [seeded_layout(meaning, 0)])))


def test_the_seed_picks_the_layout_and_leaves_the_meaning() -> None:
    text = PocketText()
    codes = [text.encode("a red ball and a blue star", seed).embedding[0] for seed in (3, 3, 4)]
    assert torch.equal(codes[0], codes[1])
    changed = (codes[0] != codes[2]).any(dim=1).nonzero().flatten().tolist()
    assert set(changed) <= {0, 1, 2, 3, 4, 5, 13}
    assert changed


def test_scenery_is_the_seeds_alone() -> None:
    one, other = parse("a red ball"), parse("a blue star falling and a white box, behind a wall, camera panning left")
    layouts = [(seeded_layout(one, seed), seeded_layout(other, seed)) for seed in range(20)]
    assert all((a.sun, a.hills, a.landmarks, a.clouds) == (b.sun, b.hills, b.landmarks, b.clouds) for a, b in layouts)
    assert len({(a.sun, a.hills, a.landmarks, a.clouds) for a, _ in layouts}) > 15


def test_where_not_everything_can_start_in_plain_view_most_does() -> None:
    meaning = parse("a red box bouncing, a blue box bouncing and a white box bouncing, behind a wall")
    shown = [plain(meaning, seeded_layout(meaning, seed)) for seed in range(10)]
    assert [int(one.sum()) for one in shown] == [2] * 10, "each keeps to a third of the view, and the wall takes up one"


def test_a_layout_without_places_says_nothing_of_where_objects_start() -> None:
    meaning = parse("a red ball and a blue star")
    whole = seeded_layout(meaning, 5)
    bare = encode_many([meaning], [replace(whole, places=())])[0]
    without = encode_many([meaning])[0]
    assert np.array_equal(bare[:13], without[:13])
    assert bare[13].sum() == 6


@pytest.mark.parametrize("text", ["a red ball bouncing", "a blue star falling and a white box drifting, camera panning right"])
def test_the_code_says_where_an_object_is_early_and_late_in_the_first_chunk(text: str) -> None:
    meaning, across, down = parse(text), np.linspace(-16, 144, 15), np.linspace(-16, 96, 9)
    layout = seeded_layout(meaning, 11)
    code = encode_many([meaning], [layout])[0]
    for slot, (thing, (phase, lane)) in enumerate(zip(meaning.objects, layout.places)):
        frames = np.array([1.5, 9.5])
        x, y = place(thing.shape, thing.motion, phase / 16, lane - 1, slot, len(meaning.objects), frames)
        x = x - pan(meaning.camera, frames)
        for row in code[3 * slot : 3 * slot + 3, 64:]:
            early_x, early_y, late_x, late_y = np.split(row, [15, 24, 39])
            assert (early_x @ across, late_x @ across) == pytest.approx(tuple(x.clip(-16, 144)), abs=1e-4)
            assert (early_y @ down, late_y @ down) == pytest.approx(tuple(y.clip(-16, 96)), abs=1e-4)
            assert np.count_nonzero(row) <= 8
