"""Groups side by side: run so where that was faster on their shapes, tried once, and never with another result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from fkv.attention import scaled_dot
from fkv.fast import SlotCache, prepare
from fkv.fast.abreast import Abreast, Call, CudaFork, cuda_timer, shape_of
from fkv.fast.model import FastWan
from fkv.stream import Stream, seeded_noise
from tests.test_fast import fast_stream
from tests.tiny import tiny_model, tiny_policy, tiny_spec, tiny_text

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class Fork:
    """Pieces of work in the order in which streams may run them: any, so here the last first."""

    def __init__(self) -> None:
        self.forked = 0

    def __call__(self, works: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        self.forked += 1
        return [work() for work in reversed(works)][::-1]


def timer(*milliseconds: float) -> Callable[[Callable[[], object]], float]:
    """Runs work and says that it took what was given, by turns."""
    times = list(milliseconds)

    def timed(work: Callable[[], object]) -> float:
        work()
        return times.pop(0)

    return timed


def calls(*kept: int) -> list[Call]:
    drawn = torch.Generator().manual_seed(0)
    shapes = [[(1, 2, tokens, 8) for tokens in (4, many + 4, many + 4)] for many in kept]
    drawings = [[torch.randn(shape, generator=drawn) for shape in sides] for sides in shapes]
    return [(q, k, v) for q, k, v in drawings]


def test_calls_run_side_by_side_where_that_was_faster_and_are_tried_once_for_a_family_of_shapes() -> None:
    for times, pays in (((2.0, 1.5), True), ((1.5, 2.0), False), ((1.5, 1.5), False)):
        fork = Fork()
        abreast = Abreast(fork, timer(*times))
        assert not abreast.used
        for asked in (calls(12, 24), calls(13, 25)):
            wanted = [scaled_dot(*call) for call in asked]
            for _ in range(2):
                made = abreast(asked, scaled_dot)
                assert all(one.equal(other) for one, other in zip(made, wanted, strict=True))
        assert abreast.trials == {shape_of(calls(12, 24)): times}
        assert abreast.used == pays
        assert fork.forked == 1 + 4 * pays


def test_shapes_of_another_family_are_tried_anew() -> None:
    abreast = Abreast(Fork(), timer(2.0, 1.0, 1.0, 2.0))
    for kept in ((12, 24), (12, 60)):
        abreast(calls(*kept), scaled_dot)
    assert [abreast.pays(shape_of(calls(*kept))) for kept in ((12, 24), (12, 60), (60, 60))] == [True, False, False]


def test_a_kernel_is_chosen_before_calls_are_timed() -> None:
    seen: list[str] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen.append("kernel")
        return scaled_dot(q, k, v)

    def timed(work: Callable[[], object]) -> float:
        seen.append("timed")
        return 1.0

    Abreast(Fork(), timed)(calls(12, 24), kernel)
    assert seen == ["kernel", "kernel", "timed", "timed", "kernel", "kernel"]


@pytest.mark.parametrize("text", ["full:9", "forcing-kv"])
def test_a_model_draws_the_same_with_groups_side_by_side_and_says_so(text: str) -> None:
    spec = tiny_spec()
    together, plain = fast_stream(spec, text), fast_stream(spec, text)
    assert isinstance(together.model, FastWan)
    fork = Fork()
    together.model.abreast = Abreast(fork, timer(*[2.0, 1.0] * 20))
    for _ in range(6):
        assert together.step().latents.equal(plain.step().latents)
    parted = text == "forcing-kv"
    assert (fork.forked > 0) == parted
    assert ("head groups side by side" in together.model.backend) == parted
    assert isinstance(together.cache, SlotCache)
    tokens = spec.chunk * spec.geometry.tokens
    assert together.model.side_by_side(together.cache.slots[1], tokens) == parted


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("graphs", [False, True])
def test_on_a_gpu_streams_side_by_side_draw_what_one_stream_draws(graphs: bool) -> None:
    spec, device = tiny_spec(head_dim=16), torch.device("cuda")
    policy, noise = tiny_policy("forcing-kv", spec.geometry), seeded_noise(0, spec, 1, device)
    together, plain = (prepare(tiny_model(spec).to(device), spec, "math", graphs=graphs) for _ in range(2))
    together.abreast, plain.abreast = Abreast(CudaFork(device), timer(*[2.0, 1.0] * 50)), None
    streams = [Stream(model, spec, tiny_text(spec).to(device), policy, noise) for model in (together, plain)]
    for _ in range(10):
        first, second = (stream.step().latents for stream in streams)
        torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
    assert together.abreast.used


@pytest.mark.gpu
@GPU
def test_on_a_gpu_more_work_takes_longer() -> None:
    x = torch.randn(2048, 2048, device="cuda")
    short, long = (cuda_timer(x.device)(lambda n=n: [x @ x for _ in range(n)]) for n in (1, 8))
    assert 0 < short < long
