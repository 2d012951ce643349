"""Forcing-KV: what it keeps when, which segments it picks, and that its formula holds for any parameters."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, ones

from fkv.cache import Commit, KVCache, Policy
from fkv.policies.forcing_kv import ForcingKV
from fkv.spec import Geometry
from tests.tiny import kept_bytes, timeline, tiny_spec, tiny_stream, tiny_text


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_forcing_kv_keeps_what_its_formula_says_for_any_parameters(data: Any) -> None:
    draw = data.draw
    chunk = draw(st.integers(1, 3))
    spec = tiny_spec(heads=2, layers=2, rows=2, columns=3, chunk=chunk, head_dim=6, steps=1)
    small = st.integers(0, 4)
    policy = ForcingKV(
        sink=draw(small),
        static_recent=draw(small),
        dynamic_recent=draw(small),
        dynamic=draw(small),
        segments=draw(st.sampled_from([0, 1, 2, 3, 6])),
        ratio=draw(st.sampled_from([0.1, 0.33, 0.5, 1.0])),
        start_chunk=draw(st.integers(0, 3)),
        history=draw(st.sampled_from(["replace", "accumulate"])),
        cap=draw(st.integers(4, 6)),
        similarity=draw(st.sampled_from(["shared", "layer"])),
        roles=draw(st.sampled_from([((0,), (1,)), ((), ()), ((), (0, 1))])),
    )
    stream, recached = tiny_stream(spec, policy), 0
    switch = draw(st.integers(1, 5))
    for number in range(6):
        if number == switch:
            stream.recache(text=tiny_text(spec, seed=1))
            recached = number
        stream.step()
        assert stream.cache.nbytes == kept_bytes(stream.cache, number, recached)


def test_the_timeline_of_forcing_kv_up_to_and_after_heads_part() -> None:
    spec = tiny_spec(steps=1, rows=6)
    assert timeline("forcing-kv", 5, 0, spec) == [{"all": [0, 2]}, {"all": [0, 5]}, {"all": [0, 8]}, {"all": [0, 11]}]
    seen = timeline("forcing-kv", 5, 1, spec)
    assert seen[:2] == [{"all": [0, 2]}, {"static": [0, 5], "dynamic": [0, 5]}]
    assert [line["static"] for line in seen[2:]] == [[0, 8], [0, 11]]
    assert set(seen[2]["dynamic"]) <= {0, 5, 6, 7, 8}
    assert set(seen[3]["dynamic"]) <= {0, 8, 9, 10, 11}


def drive(policy: Policy, geometry: Geometry, keys: Tensor) -> KVCache:
    """A cache that was given keys [frames, tokens, d], the same in every head and layer, chunk by chunk."""
    cache = KVCache(policy, geometry)
    for chunk, part in enumerate(keys.split(geometry.chunk)):
        k = part.flatten(0, 1).expand(1, geometry.heads, -1, -1)
        with cache.committing(Commit(chunk, chunk * geometry.chunk, geometry.chunk, geometry)):
            for layer in range(geometry.layers):
                cache.write(layer, k, k, k)
    return cache


def changing(geometry: Geometry, frames: int, changes: list[tuple[int, int]]) -> Tensor:
    """Keys that stay as they are from frame to frame but in the given (frame, row), where the next frame points elsewhere."""
    keys = ones(frames, geometry.rows, geometry.columns, geometry.head_dim)
    for frame, line in changes:
        keys[frame + 1 :, line] *= -1
    return keys.flatten(1, 2)


def test_dynamic_heads_keep_the_segments_that_change_most_from_the_earlier_frame_of_each_pair() -> None:
    geometry = Geometry(3, 2, 4, 6, 2, 3)
    policy = ForcingKV(roles=((0,), (0,), (1,)))
    changes = [(5, 0), (5, 3), (6, 1), (7, 0), (7, 4), (7, 5)]
    cache = drive(policy, geometry, changing(geometry, 9, changes))
    dynamic = next(group for group in cache.layers[1] if group.name == "dynamic")
    a, b = dynamic.span("dynamic")
    assert dynamic.pos[a:b].tolist() == [[frame, line, column] for frame, line in changes for column in (0, 1)]
    assert dynamic.members == (1,)
    assert cache.last is not None
    assert cache.last.shared["segments"].tolist() == [[-1] * 6, [0, 3, 7, 12, 16, 17], [0, 3, 7, 12, 16, 17]]
    assert cache.last.shared["scores"][1, 0].tolist() == [-1, 1, 1, -1, 1, 1]


def test_an_accumulating_buffer_keeps_the_newest_segments_under_its_cap() -> None:
    geometry = Geometry(2, 2, 4, 6, 2, 3)
    changes = [(frame, line) for frame in range(2, 17) for line in (frame % 6, (frame + 1) % 6)]
    keys = changing(geometry, 18, changes)
    frames = []
    for history in ("replace", "accumulate"):
        cache = drive(ForcingKV(history=history, cap=2, roles=((), ())), geometry, keys)
        group = cache.layers[1][0]
        a, b = group.span("dynamic")
        frames.append(sorted(set(group.pos[a:b, 0].tolist())))
        assert b - a == {"replace": 1, "accumulate": 2}[history] * geometry.tokens
    assert frames == [[14, 15, 16], [11, 12, 13, 14, 15, 16]]


def test_segments_that_are_left_open_fit_the_frame() -> None:
    for rows, columns, wanted in ((30, 52, 6), (5, 8, 5), (7, 4, 7), (4, 6, 6), (1, 7, 1)):
        fitted = ForcingKV().fitted(Geometry(2, 2, 4, rows, columns, 3))
        assert isinstance(fitted, ForcingKV)
        assert fitted.segments == wanted
