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
    assert profile.recipe["history"] == 18, "what the model was trained to see, less the chunk"
    assert profile.recipe["passes"] == 2
    assert set(profile.stability) == {"prompts", "passes"}
    assert profile.errors is not None
    assert told[-1] == (28, 28)
    assert measure(make, ["a", "b", "c", "d"]).scores == profile.scores
    assert measure(make, ["a"]).stability.keys() == {"passes"}


def test_measuring_keeps_every_prompt_step_and_chunk_and_both_published_recipes() -> None:
    spec = tiny_spec(heads=2, layers=2, rows=2, columns=2, steps=3)

    def make(prompt: str, number: int) -> Stream:
        return tiny_stream(spec, "full:9", seed=number)

    profile = measure(make, ["a", "b"], history=6, chunks=2)
    assert [len(tables or ()) for tables in (profile.samples, profile.steps, profile.chunks)] == [2, 3, 2]
    for tables in (profile.samples, profile.steps, profile.chunks):
        assert torch.tensor(tables).mean(dim=0).flatten().tolist() == pytest.approx(sum(profile.scores or (), ()), abs=1e-4)
    assert set(profile.variants) == {"skip_first_k=3"}
    other = measure(make, ["a", "b"], history=6, chunks=2, skip_first_k=3)
    assert profile.variants["skip_first_k=3"] == pytest.approx(torch.tensor(other.scores).numpy(), abs=1e-4)
    assert other.variants["skip_first_k=1"] == pytest.approx(torch.tensor(profile.scores).numpy(), abs=1e-4)
    again = profile.by_quota(0.5)
    assert set(again.stability) > {"agreement_prompts", "agreement_passes", "agreement_chunks", "flips", "spread"}
    assert HeadProfile.from_json(again.to_json()) == again


def test_a_measurement_goes_on_where_it_was_interrupted_and_comes_to_the_same() -> None:
    spec = tiny_spec(heads=2, layers=2, rows=2, columns=2, steps=1)
    kept: list[torch.Tensor] = []

    def make(prompt: str, number: int) -> Stream:
        return tiny_stream(spec, "full", seed=number)

    def once(measured: torch.Tensor) -> bool:
        kept.append(measured)
        return False

    prompts = ["a", "b", "c"]
    first = measure(make, prompts, history=6, keep=once)
    assert (len(kept), first.recipe["prompts"]) == (1, 1)
    told: list[int] = []
    rest = measure(make, prompts, history=6, known=kept, progress=lambda done, due: told.append(done))
    assert told == [4, 5, 6, 7, 8, 9]
    assert rest == measure(make, prompts, history=6)


def test_stability_counts_what_single_prompts_class_otherwise() -> None:
    one, two = ((0.9, 0.1), (0.3, 0.8)), ((0.9, 0.5), (0.4, 0.7))
    profile = replace(HeadProfile.of_scores("t", [[0.9, 0.3], [0.35, 0.75]]), samples=(one, two)).by_threshold(0.4)
    assert profile.roles() == ((0,), (1,))
    assert profile.flips == ((0.0, 0.5), (0.5, 0.0))
    assert profile.stability == pytest.approx({"agreement_prompts": 0.75, "flips": 0.5, "spread": 0.15 / 2**0.5}, abs=1e-5)
    by_rank = profile.by_quota(0.5)
    assert by_rank.stability["agreement_prompts"] == 1
    assert by_rank.inverted().flips == by_rank.flips
    assert by_rank.random(1).flips is None


def test_two_profiles_agree_by_share_kappa_and_head() -> None:
    profile = PROFILE.by_threshold(0.8)
    found = profile.agreement(PROFILE.by_quota(0.5))
    assert found.differing == ((1, 3),)
    assert found.counts == ((3, 0), (1, 4))
    assert found.share == 7 / 8
    assert found.kappa == pytest.approx((7 / 8 - 1 / 2) / (1 / 2))
    assert profile.agreement(profile.inverted()).share == 0
    assert profile.agreement(profile).kappa == 1
    with pytest.raises(ValueError, match="has 8 heads a layer, the model 4"):
        profile.agreement(HeadProfile("wide", 2, 8, ((), ())))


def test_measuring_needs_prompts_and_the_whole_history() -> None:
    spec = tiny_spec(heads=2, layers=2, rows=2, columns=2, steps=1)
    with pytest.raises(ValueError, match="at least one prompt"):
        measure(lambda prompt, number: tiny_stream(spec, "full"), [])
    with pytest.raises(ValueError, match="forgets frames; measure heads with the whole history"):
        measure(lambda prompt, number: tiny_stream(spec, "full:6"), ["a"])
