"""Head profiles: scores, classes, formats, and measuring them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from fkv.heads import HeadProfile, head_scores, measure
from fkv.spec import Geometry
from fkv.stream import Stream
from tests.tiny import tiny_spec, tiny_stream

SCORES = [[0.9, 0.5, 0.85, 0.1], [0.2, 0.3, 0.8, 0.79]]
PROFILE = HeadProfile.of_scores("tiny", SCORES)
GEOMETRY = Geometry(layers=2, heads=4, head_dim=8, rows=2, columns=2, chunk=3)


def test_a_score_is_the_share_of_the_newest_frames_without_the_first() -> None:
    shares = torch.tensor([0.5, 0.1, 0.0, 0.1, 0.1, 0.2])
    maps = shares.expand(1, 2, 3, 6)
    assert head_scores(maps).flatten().tolist() == pytest.approx([0.8, 0.8])
    assert head_scores(maps, last_k=1, skip_first_k=3).flatten().tolist() == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match="4 key frames are too few"):
        head_scores(maps[..., :4])


def test_classes_follow_from_a_threshold_or_from_the_rank_in_the_layer() -> None:
    assert PROFILE.static == ((), ())
    assert PROFILE.by_threshold(0.8).roles() == ((0, 2), (2,))
    assert PROFILE.by_quota(0.5).roles() == ((0, 2), (2, 3))
    assert PROFILE.by_quota(0.25).share == 0.25
    assert PROFILE.by_threshold(0.8).rule == "score >= 0.8"


def test_the_published_threshold_holds_unless_it_leaves_a_class_nearly_empty() -> None:
    assert PROFILE.classified().roles() == PROFILE.by_threshold(0.8).roles()
    assert PROFILE.classified(0.86).roles() == PROFILE.by_quota(0.5).roles()
    assert PROFILE.classified(0.86).rule == "the 2 highest of 4 in each layer"


def test_inverted_and_random_roles_are_controls_of_the_same_model() -> None:
    profile = PROFILE.by_threshold(0.8)
    assert profile.inverted().roles() == ((1, 3), (0, 1, 3))
    assert profile.inverted().inverted().roles() == profile.roles()
    drawn = [profile.random(seed).roles() for seed in range(8)]
    assert {tuple(map(len, roles)) for roles in drawn} == {(2, 1)}
    assert len(set(drawn)) > 1
    assert profile.random(3) == profile.random(3)


def test_a_profile_reads_back_as_it_was_written() -> None:
    profile = HeadProfile.of_scores("tiny", SCORES, errors=((0.1,) * 4,) * 2, recipe={"prompts": 3}, stability={"prompts": 0.9}).by_quota(
        0.5
    )
    assert HeadProfile.from_json(profile.to_json(), GEOMETRY) == profile


def test_published_profiles_are_written_and_read_under_every_name() -> None:
    profile = PROFILE.by_threshold(0.8)
    written = json.loads(profile.to_published())
    assert written["layers"][1] == {"layer_idx": 1, "static_head": [2], "dynamic_head": [0, 1, 3]}
    assert HeadProfile.from_json(profile.to_published()).roles() == profile.roles()
    for static, dynamic in (("local_heads", "temporal_head"), ("spatial_head", "dynamic_heads")):
        rows = [{"layer_idx": line["layer_idx"], static: line["static_head"], dynamic: line["dynamic_head"]} for line in written["layers"]]
        assert HeadProfile.from_json(json.dumps(rows), GEOMETRY).roles() == profile.roles()
    assert HeadProfile.from_json(json.dumps(written["layers"][1:]), GEOMETRY).roles() == ((), (2,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("3", "no list of layers"),
        ('[{"static_head": [0]}]', "no list of layers"),
        ('[{"layer_idx": 2, "static_head": [0, 1, 2, 3]}]', "layer 2 does not exist among 2"),
        ('[{"layer_idx": 0, "static_head": [0, 1], "dynamic_head": [1, 2]}]', r"does not partition 4 heads \(missing \[3\], twice \[1\]"),
        ('[{"layer_idx": 0, "static_head": [0, 1, 2, 3], "dynamic_head": [4]}]', r"foreign \[4\]"),
        ('{"format": "fkv-heads-1", "model": "tiny"}', "a field is missing"),
        (HeadProfile("big", 3, 4, ((), (), ())).to_json(), "has 3 layers, the model 2"),
        (HeadProfile("wide", 2, 8, ((), ())).to_json(), "has 8 heads a layer, the model 4"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        HeadProfile.from_json(text, GEOMETRY)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"threshold 1.2 is outside \[0, 1\]"):
        PROFILE.by_threshold(1.2)
    with pytest.raises(ValueError, match=r"quota -0.1 is outside \[0, 1\]"):
        PROFILE.by_quota(-0.1)
    with pytest.raises(ValueError, match="classes but no scores"):
        HeadProfile("given", 2, 4, ((0,), (1,))).by_threshold(0.8)
    with pytest.raises(ValueError, match="name the model it is for"):
        HeadProfile.from_json('[{"layer_idx": 0, "static_head": [0]}]')


def test_measuring_covers_prompts_and_passes_and_says_how_stable_it_is() -> None:
    spec = replace(tiny_spec(heads=2, layers=2, rows=2, columns=2, steps=2), name="little")
    told: list[tuple[int, int]] = []

    def make(prompt: str, number: int) -> Stream:
        return tiny_stream(spec, "full", seed=number)

    profile = measure(make, ["a", "b", "c", "d"], progress=lambda done, due: told.append((done, due)))
    assert (profile.model, profile.layers, profile.heads, profile.rule) == ("little", 2, 2, "none")
    assert profile.recipe["history"] == 21
    assert profile.recipe["passes"] == 2
    assert set(profile.stability) == {"prompts", "passes"}
    assert profile.errors is not None
    assert told[-1] == (32, 32)
    assert measure(make, ["a", "b", "c", "d"]).scores == profile.scores
    assert measure(make, ["a"]).stability.keys() == {"passes"}


def test_measuring_needs_prompts_and_the_whole_history() -> None:
    spec = tiny_spec(heads=2, layers=2, rows=2, columns=2, steps=1)
    with pytest.raises(ValueError, match="at least one prompt"):
        measure(lambda prompt, number: tiny_stream(spec, "full"), [])
    with pytest.raises(ValueError, match="forgets frames; measure heads with the whole history"):
        measure(lambda prompt, number: tiny_stream(spec, "full:6"), ["a"])
