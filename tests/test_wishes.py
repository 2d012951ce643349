"""What a person asks for about heads: rules, overrides and pins, in the order that decides, and refused with the cure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fkv import engine
from fkv.events import Settings
from fkv.heads import HeadProfile
from fkv.spec import POCKET, Geometry, WanConfig
from fkv.wishes import carried, check_head, moved, roles_of

NET = WanConfig(dim=32, heads=4, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SPEC = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None)
SCORES = [[0.9, 0.1, 0.7, 0.3], [0.2, 0.85, 0.6, 0.95]]


@pytest.fixture(scope="module")
def small() -> engine.Engine:
    return replace(engine.load(SPEC, "cpu", random_weights=True), profile=HeadProfile.of_scores("small", SCORES).by_threshold(0.8))


@pytest.mark.parametrize(
    ("edit", "static"),
    [
        ({}, ((0,), (1, 3))),
        ({"threshold": 0.6}, ((0, 2), (1, 2, 3))),
        ({"rule": "threshold", "threshold": 0.92}, ((), (3,))),
        ({"rule": "quota:0.5"}, ((0, 2), (1, 3))),
        ({"rule": "inverted"}, ((1, 2, 3), (0, 2))),
        ({"rule": "inverted", "threshold": 0.6}, ((1, 3), (0,))),
        ({"rule": "all-static"}, ((0, 1, 2, 3),) * 2),
        ({"rule": "all-dynamic"}, ((), ())),
        ({"rule": "all-static", "roles": ((1,), ())}, ((1,), ())),
        ({"overrides": ((0, 0, "dynamic"), (1, 0, "static"), (1, 1, "static"))}, ((), (0, 1, 3))),
    ],
)
def test_roles_come_from_the_list_given_else_the_rule_and_then_the_overrides(
    small: engine.Engine, edit: dict[str, Any], static: tuple[tuple[int, ...], ...]
) -> None:
    assert roles_of(small, Settings(**edit)) == static


def test_a_random_rule_draws_as_many_heads_per_layer_and_the_same_for_the_same_seed(small: engine.Engine) -> None:
    drawn = [roles_of(small, Settings(rule=f"random:{seed}")) for seed in range(8)]
    assert {tuple(map(len, roles)) for roles in drawn} == {(1, 2)}
    assert len(set(drawn)) > 1
    assert roles_of(small, Settings(rule="random:3")) == drawn[3]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"threshold": 1.2}, r"threshold 1\.2 is outside \[0, 1\]; the published one"),
        ({"threshold": float("nan")}, r"threshold nan is outside \[0, 1\]"),
        ({"rule": "wishful"}, "rule 'wishful' is unknown; use one of: profile"),
        ({"rule": "threshold"}, r"no threshold to go by; set one in \[0, 1\]"),
        ({"rule": "quota"}, "'quota' is incomplete .*; use one of"),
        ({"rule": "inverted:1"}, "a value too many; use one of"),
        ({"rule": "quota:half"}, "quota 'half' is no number; write"),
        ({"rule": "quota:1.5"}, r"quota 1\.5 is outside \[0, 1\]; quota:0\.5 makes half"),
        ({"rule": "random:-1"}, "random seed '-1' is no whole number from 0 on; write"),
        ({"overrides": ((2, 0, "static"),)}, r"overridden head: layer 2 is asked for, the model has layers 0\.\.1; choose"),
        ({"overrides": ((0, 4, "static"),)}, r"overridden head: head 4 is asked for, the model has heads 0\.\.3; choose"),
        ({"overrides": ((0, 0, "both"),)}, "head 0 of layer 0 is to be 'both'; use static or dynamic"),
        ({"pinned": ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0))}, "5 heads are pinned .* at most 4 can be; unpin some"),
        ({"pinned": ((0, -1),)}, r"pinned head: head -1 is asked for, the model has heads 0\.\.3; choose"),
        ({"skip_first": 30}, r"skip_first 30 is outside \[0, 18\]; the published ones"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_value_limit_and_cure(small: engine.Engine, edit: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_head(small, Settings(**edit))


def test_without_a_profile_only_rules_that_need_none_can_be_followed(small: engine.Engine) -> None:
    bare = replace(small, profile=None)
    assert roles_of(bare, Settings(rule="all-static")) == ((0, 1, 2, 3),) * 2
    with pytest.raises(ValueError, match="small has no head profile for the rule 'inverted'; use all-static or all-dynamic"):
        roles_of(bare, Settings(rule="inverted"))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.data())
def test_settings_carried_to_another_model_name_only_heads_it_has(layers: int, heads: int, data: st.DataObject) -> None:
    at = st.tuples(st.integers(0, 9), st.integers(0, 9))
    pinned = data.draw(st.lists(at, max_size=4, unique=True).map(tuple))
    overrides = data.draw(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(("static", "dynamic"))), max_size=5).map(tuple)
    )
    layer, head = data.draw(at)
    geometry = Geometry(layers, heads, 8, 3, 5, 3)
    chosen, said = carried(Settings(layer=layer, head=head, pinned=pinned, overrides=overrides, roles=((0,),) * 9), geometry)
    assert all(row < layers and column < heads for row, column, *_ in (*chosen.pinned, *chosen.overrides, (chosen.layer, chosen.head)))
    assert chosen.roles is None
    assert all(text.endswith(".") for text in said)
    assert carried(chosen, geometry) == (chosen, ())


def test_a_change_of_roles_is_told_head_by_head_while_few_have_moved() -> None:
    assert moved(((0,), (1,)), ((0, 3), (1,))) == "head 3 of layer 0 is now static"
    assert moved(((0,), (1,)), ((), (1, 2))) == "head 2 of layer 1 is now static and head 0 of layer 0 is now dynamic"
    assert moved(((), ()), ((0, 1, 2, 3), ())) == "4 heads are now static"
    assert moved(((0,),), ((0,),)) == ""
