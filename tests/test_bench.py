"""Counting work, naming commands, and measuring memory apart: everything of a benchmark that needs no clock."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fkv import bench, doctor, engine, figures, machine, meter, policies, roofline, spec
from fkv.__main__ import main, parser
from fkv.attention import NAMES, Attention, Trial, disagreement, kernel, scaled_dot, tried
from fkv.events import Settings
from fkv.heads import HeadProfile
from fkv.lane import LaneRun
from fkv.policies import parse
from fkv.spec import ModelSpec, Schedule, WanConfig
from tests.small import SPEC
from tests.test_fast import Operations, fast_stream
from tests.tiny import tiny_policy, tiny_spec

WAN = ModelSpec("wan", "Wan", WanConfig(), Schedule(), "", "")


def test_the_work_of_a_published_chunk_is_the_one_counted_by_hand() -> None:
    full = roofline.work(WAN, parse("full:21"), 40, 2)
    assert full.self_attention / 1e12 == pytest.approx(141 * (1 - 1 / 150), rel=0.005)
    assert full.projections / 1e12 == pytest.approx(58.5, rel=0.01)
    assert full.cross_attention / 1e12 == pytest.approx(2.2, rel=0.01)
    window = roofline.work(WAN, parse("window:sink=3,recent=9"), 40, 2)
    assert window.self_attention / full.self_attention == pytest.approx(12 / 21)
    assert window.projections == full.projections


@pytest.mark.parametrize("tokens", [5, 16])
def test_what_is_counted_is_what_the_fast_path_multiplies(tokens: int) -> None:
    spec = tiny_spec(layers=3, steps=2, text_len=tokens)
    stream = fast_stream(spec, "forcing-kv")
    for _ in range(5):
        stream.step()
    with Operations() as seen:
        stream.step()
    counted = roofline.work(spec, stream.policy, 5, 4)
    scores = 2 * spec.chunk * spec.geometry.tokens * spec.net.dim * tokens
    values = scores * (spec.net.heads if tokens == 5 else 1)  # of a short prompt every head's are as wide as the model
    assert counted.cross_attention == (3 * 3 - 1) * (scores + values)
    products = counted.projections + (tokens == 5) * (3 * 3 - 1) * values
    assert seen.multiplied == pytest.approx(products, rel=0.05)


def test_a_window_may_be_written_by_its_frames_and_its_sink() -> None:
    assert parse("window:12:3") == parse("window:sink=3,recent=9")
    assert policies.split("full:21,window:12:3,forcing-kv") == ["full:21", "window:12:3", "forcing-kv"]
    for wrong, words in (("window:12:3:1", "one colon too many"), ("full:21:3", "one colon too many"), ("window:12:x", "value='x'")):
        with pytest.raises(ValueError, match=words):
            parse(wrong)


def test_the_least_time_adds_operations_and_bytes_at_the_best_rates() -> None:
    work = roofline.Work(projections=2e12, self_attention=1e12, cross_attention=1e12, bytes=1e12)
    assert roofline.least_ms(work, roofline.Rates(operations=4e12, bytes=2e12)) == pytest.approx(1500)


def test_projections_in_another_format_count_at_its_own_rate() -> None:
    work = roofline.Work(projections=2e12, self_attention=1e12, cross_attention=1e12, bytes=1e12)
    rates = roofline.Rates(operations=4e12, bytes=2e12, projections=8e12)
    assert roofline.compute_ms(work, replace(rates, projections=0.0)) == pytest.approx(1000)
    assert roofline.compute_ms(work, rates) == pytest.approx(750)
    assert roofline.least_ms(work, rates) == pytest.approx(1250)


def test_the_rate_of_a_product_is_that_of_the_weight_it_was_given() -> None:
    made = []
    assert doctor.matrix_rate(torch.device("cpu"), torch.float32, 64, lambda weight: made.append(weight.shape) or weight) > 0
    assert made == [(64, 64)]


def test_how_a_device_fares_is_asked_while_chunks_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\nprintf '1500, 400.5, 50\\n[N/A], 1, 1\\n1700, 500.5, 60\\n'\ntouch \"$0.told\"\nexec sleep 60\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with machine.Load(torch.device("cuda:0")) as load:
        until = time.monotonic() + 60
        while not driver.with_name("nvidia-smi.told").exists() and time.monotonic() < until:
            time.sleep(0.01)
    assert {name: (values["median"], values["n"]) for name, values in (load.told or {}).items()} == {
        "clocks.sm": (1600, 2), "power.draw": (450.5, 2), "temperature.gpu": (55, 2),
    }  # fmt: skip
    monkeypatch.setenv("PATH", "")
    for device in ("cpu", "cuda:0"):
        with machine.Load(torch.device(device)) as load:
            pass
        assert load.told is None
    assert machine.fared("No devices were found") is None


def test_a_bandwidth_is_a_believable_number() -> None:
    assert 1e7 < roofline.bandwidth(torch.device("cpu")) < 1e14


def test_a_bench_names_the_command_that_repeats_it() -> None:
    usual = parser().parse_args(["bench"])
    plain = parser().parse_args(["bench", "--policies", "full"])
    assert bench.words(plain, usual) == ["--model", "pocket"]
    wanted = ["--model", "self-forcing", "--resolution", "480", "--chunks", "40", "--random-weights"]
    asked = parser().parse_args(["bench", *wanted, "--memory"])
    assert bench.words(asked, usual) == wanted
    assert bench.words(parser().parse_args(["bench", "--heads", __file__]), usual) == ["--model", "pocket", "--heads", __file__]


def test_memory_is_measured_one_policy_at_a_time() -> None:
    found = {"policies": [{"policy": "full:frames=21"}, {"policy": "forcing-kv"}]}
    asked: list[list[str]] = []

    def run(words: list[str]) -> int:
        asked.append(list(words))
        return 1000 * len(asked)

    bench.alone(found, ["--chunks", "9"], run)  # type: ignore[arg-type]
    assert [words[-2:] for words in asked] == [["--policies", "full:frames=21"], ["--policies", "forcing-kv"]]
    assert [entry["peak_bytes"] for entry in found["policies"]] == [1000, 2000]
    assert meter.peak_bytes() >= 10e6


def test_the_table_of_figures_gives_the_command_a_report_names() -> None:
    spread = {"median": 2.0, "low": 1.0, "high": 3.0, "n": 4}
    entry = {
        "policy": "full", "label": "Full", "fps_end_to_end": spread, "fps_diffusion": spread,
        "faster": {"end_to_end": spread, "diffusion": spread}, "bytes": {"stored": 1},
    }  # fmt: skip
    found = {
        "environment": {"device": "a card", "cpu": "", "threads": 1}, "model": {"name": "m", "title": "M"}, "chunks": 3,
        "policies": [entry, entry], "command": "python -m fkv bench --model m",
    }  # fmt: skip
    (_, _, command, machine), _ = figures.benchmark(found)
    assert (command, machine) == ("`python -m fkv bench --model m`", "a card")
    parted = {**entry, "ms": {"noisy": {"median": 8.0}}, "pieces": [
        {"piece": name, "calls": 2, "ms": 1.0, "share_of_best": share}
        for name, share in (("product o", 0.5), ("product up", 0.75), ("attention of 4 heads to 3 frames", 0.25), ("add and norm", None))
    ]}  # fmt: skip
    command = "python -m fkv bench --model m --random-weights --resolution 64x96 --pieces"
    model = {**found["model"], "steps": 2}
    what, figure, *_ = figures.benchmark({**found, "policies": [entry, parted], "command": command, "model": model})[-1]
    assert what == "M, random weights, 64x96, Full, a noisy pass in pieces"
    assert figure == "8.0 of 4.0 ms (200 %); products at 50 to 75 %, self-attention at 25 % of the best product"
    del found["command"]
    assert figures.benchmark(found)[0][2] == "`python -m fkv bench --model m --policies full,full --chunks 3`"


def test_a_policy_benched_alone_tells_how_memory_grew() -> None:
    spread = {"median": 2.0, "low": 1.0, "high": 3.0, "n": 4}
    entry = {
        "policy": "full", "label": "Full", "fps_end_to_end": spread, "fps_diffusion": spread,
        "faster": {"end_to_end": spread, "diffusion": spread}, "bytes": {"stored": 1}, "memory_growth_bytes": 7_340_000,
    }  # fmt: skip
    found = {
        "environment": {"device": "a card", "cpu": "", "threads": 1}, "model": {"name": "m", "title": "M", "chunk": 3}, "chunks": 334,
        "counted": [6, 7], "policies": [entry], "command": "python -m fkv bench",
    }  # fmt: skip
    ((what, figure, _, _),) = figures.benchmark(found)
    assert what == "M, Full, 1002 latent frames: growth of the process's memory"
    assert figure == "7.3 MB from chunk 7 on"


def test_the_fastest_kernel_that_agrees_is_chosen_once_for_each_family_of_shapes() -> None:
    q = torch.randn(1, 2, 8, 16)
    times = iter((3.0, 1.0))
    attention = Attention("sdpa", clock=lambda *args: next(times))
    assert attention(q, q, q).equal(scaled_dot(q, q, q))
    attention(q, q, q)
    wide = torch.randn(1, 2, 70, 16)
    attention(q, wide, wide)
    assert [trial.ms for trials in attention.trials.values() for trial in trials] == [3.0, 1.0]
    assert attention.label == "torch SDPA"


def test_a_kernel_that_disagrees_or_is_not_there_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.randn(1, 2, 8, 16)
    assert disagreement(kernel("math"), q, q, q) == 0
    assert disagreement(lambda q, k, v: scaled_dot(q, k, v) + 1, q, q, q) > 0.1
    absent = tried("flash-attn-3", q, q, q)
    assert absent.ms is None
    assert "flash_attn" in absent.reason
    monkeypatch.setattr("fkv.attention.disagreement", lambda *args: 0.5)
    assert tried("math", q, q, q) == Trial("math", None, 0.5, "differs from math by 5.0e-01")


def test_an_attention_that_is_unknown_or_does_not_run_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=f"attention 'fast' is unknown; use one of: {', '.join(NAMES)}"):
        Attention("fast")
    q = torch.randn(1, 2, 8, 16)
    with pytest.raises(ValueError, match=r"no attention kernel runs on cpu in torch.float32 \(cudnn: .*\); use --attention auto or sdpa"):
        Attention("cudnn")(q, q, q)


def test_on_a_cpu_nothing_is_timed_so_that_runs_repeat() -> None:
    attention = Attention()
    q = torch.randn(1, 2, 8, 16)
    attention(q, q, q)
    assert attention.trials == {}


def test_policies_are_counted_with_the_roles_they_run_with() -> None:
    spec = replace(tiny_spec(heads=4), window=9)
    policy = tiny_policy("forcing-kv", spec.geometry)
    assert roofline.work(spec, policy, 6, 4).self_attention < roofline.work(spec, parse("full:9"), 6, 4).self_attention


PROMPT = "a red ball bouncing over green hills"
SPELLINGS = ("full", "full:9", "full:21", "window:1,5", "window:12:3", "forcing-kv", "forcing-kv:ratio=0.5", "painted")


@pytest.mark.parametrize("window", [9, 21])
def test_warm_up_is_foretold_as_it_is_measured(small: engine.Engine, window: int) -> None:
    here = replace(small, spec=replace(small.spec, window=window))
    fewest = []
    for spelling in SPELLINGS:
        found = bench.run(here, [spelling], Settings(prompt=PROMPT, chunks=12))
        fewest.append(found["counted"][0] + 1)
        with pytest.raises(ValueError, match=f"chunks are all warm-up while caches fill; use --chunks {fewest[-1]} or more"):
            bench.run(here, [spelling], Settings(prompt=PROMPT, chunks=fewest[-1] - 1))
    with pytest.raises(ValueError, match=f"use --chunks {max(fewest)} or more"):
        bench.run(here, SPELLINGS, Settings(prompt=PROMPT, chunks=1))


@pytest.mark.parametrize(("stopped", "counted"), [(1, 0), (8, 2)])
def test_an_interrupted_bench_reports_the_chunks_it_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small: engine.Engine,
    stopped: int,
    counted: int,
) -> None:
    step, path = LaneRun.step, tmp_path / "bench.json"

    def interrupting(run: LaneRun, probe: Any = None) -> Any:
        if run.stream.chunks == stopped - 1 and run.policy.name == "full":
            os.kill(os.getpid(), signal.SIGINT)
        return step(run, probe)

    monkeypatch.setattr(LaneRun, "step", interrupting)
    monkeypatch.setattr(engine, "load", lambda *_, **__: small)
    assert main(f"bench --chunks 200 --json {path}".split()) == 130
    found = json.loads(path.read_text())
    assert (found["interrupted"], found["chunks"], found["asked"], len(found["counted"])) == (True, stopped, 200, counted)
    assert len(found["samples"]) == 2 * stopped
    assert [entry["policy"].partition(":")[0] for entry in found["policies"]] == ["full", "forcing-kv"]
    assert ["faster" in entry for entry in found["policies"]] == [counted > 0] * 2
    said = capsys.readouterr().out
    assert f"{counted} of {stopped} chunks counted (interrupted, 200 were asked for)" in said
    assert said.count("\n") == (3 if counted else 1)


def test_roles_are_taken_from_a_profile_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(spec, "MODELS", (replace(SPEC, name="bare"),))
    right = "painted:static=1,dynamic=1-6"
    path, report = tmp_path / "own.json", tmp_path / "report.json"
    common = f"--model bare --random-weights --chunks 7 --json {report}"
    assert main(f"generate {common} --right {right} --out {tmp_path / 'out.mp4'}".split()) == 2
    assert "painted needs a head profile and bare has none" in capsys.readouterr().err
    profile = HeadProfile("bare", 2, 4, ((0, 1, 2), ()), rule="by hand")
    path.write_text(profile.to_published())
    assert main(f"generate {common} --right {right} --heads {path} --out {tmp_path / 'out.mp4'}".split()) == 0
    found = json.loads(report.read_text())
    assert found["heads"] == {"profile": "bare", "rule": "by hand"}
    stored = found["chunks"][-1]["bytes_stored"]
    path.write_text(replace(profile, static=((), ())).to_json())
    assert main(f"bench {common} --policies full:21,{right} --heads {path}".split()) == 0
    found = json.loads(report.read_text())
    assert f"--heads {path}" in found["command"]
    assert found["policies"][1]["bytes"]["stored"] > stored, "no head is static any more"
    path.write_text(HeadProfile("other", 1, 4, ((),)).to_json())
    assert main(f"bench {common} --policies full:21,{right} --heads {path}".split()) == 2
    assert f"{path}: the head profile has 1 layers, the model 2" in capsys.readouterr().err
