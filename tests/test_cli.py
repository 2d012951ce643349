"""The command line on a small random model: what it writes, what it refuses in one line, and what an interruption leaves behind."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from fkv import __main__ as command
from fkv import engine, generate, machine, policies, video
from fkv.__main__ import main
from fkv.heads import HeadProfile
from fkv.lane import LaneRun
from fkv.spec import POCKET, WanConfig

NET = WanConfig(dim=32, heads=4, layers=2, ffn=32, freq_dim=16, text_dim=112, text_len=16, channels=24, gelu="erf")
SCHEDULE = replace(POCKET.schedule, steps=(1000, 500))
SPEC = replace(POCKET, name="small", net=NET, latent=(24, 4, 6), heads=None, schedule=SCHEDULE)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> engine.Engine:
    """Every `--model pocket` is a small random model with a profile."""
    loaded = engine.load(SPEC, "cpu", random_weights=True)
    loaded = replace(loaded, profile=HeadProfile.of_scores("small", [[0.9, 0.1, 0.7, 0.3]] * 2).by_threshold(0.8))
    real = engine.load
    monkeypatch.setattr(engine, "load", lambda name, *rest, **more: loaded if name == "pocket" else real(name, *rest, **more))
    return loaded


def shape(path: Path) -> tuple[int, tuple[int, int]]:
    """Frames and size (width, height) of a video that ffmpeg can read to its end."""
    reader = imageio_ffmpeg.read_frames(str(path))
    size = next(reader)["size"]  # type: ignore[call-overload,index]
    return sum(1 for _ in reader), size


def test_generate_leaves_a_video_a_report_and_a_contact_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report, sheet = tmp_path / "out.mp4", tmp_path / "report.json", tmp_path / "sheet.png"
    command = f"generate --left full:6 --right forcing-kv --seed 4 --chunks 3 --out {out} --json {report} --sheet {sheet}"
    assert main(command.split()) == 0
    assert shape(out) == (36, (2 * 480 + 8, 360))
    found = json.loads(report.read_text())
    assert not found["interrupted"]
    assert [(row["lane"], row["chunk"]) for row in found["chunks"]] == list(zip("ABABAB", (0, 0, 1, 1, 2, 2)))
    assert all(row["bytes_stored"] == row["bytes_expected"] for row in found["chunks"])
    assert all(row["ms"]["end_to_end"] >= row["ms"]["diffusion"] > 0 for row in found["chunks"])
    assert ["psnr" in row for row in found["chunks"]] == [False, True] * 3
    assert found["chunks"][1]["psnr"] == 99
    assert (found["settings"]["seed"], found["model"]["name"]) == (4, "small")
    assert set(found["summary"]) == {"A", "B", "speed_b_over_a", "kept", "psnr"}
    assert np.asarray(Image.open(sheet)).std() > 1
    assert "3/3" in capsys.readouterr().err


def test_an_interruption_leaves_whole_files_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = LaneRun.step

    def interrupting(run: LaneRun, probe: Any = None) -> Any:
        if run.name == "B" and run.stream.chunks == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(run, probe)

    monkeypatch.setattr(LaneRun, "step", interrupting)
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    before = signal.getsignal(signal.SIGINT)
    assert main(f"generate --chunks 50 --out {out} --json {report}".split()) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert shape(out)[0] == 24
    found = json.loads(report.read_text())
    assert found["interrupted"]
    assert len(found["chunks"]) == 4


def test_no_encoder_runs_while_a_lane_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    step, add = LaneRun.step, video.SideBySide.add

    def stepping(run: LaneRun, probe: Any = None) -> Any:
        order.append("lane")
        return step(run, probe)

    def adding(film: video.SideBySide, *frame: Any) -> None:
        order.append("video")
        add(film, *frame)

    monkeypatch.setattr(LaneRun, "step", stepping)
    monkeypatch.setattr(video.SideBySide, "add", adding)
    assert main(f"generate --chunks 3 --out {tmp_path / 'out.mp4'}".split()) == 0
    assert order == ["lane"] * 6 + ["video"] * 36


def test_an_interruption_of_the_encoder_leaves_a_shorter_video_and_the_whole_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = video.SideBySide.add

    def interrupting(film: video.SideBySide, *frame: Any) -> None:
        add(film, *frame)
        if film.frames == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(video.SideBySide, "add", interrupting)
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    assert main(f"generate --chunks 2 --out {out} --json {report}".split()) == 130
    assert shape(out)[0] == 5
    found = json.loads(report.read_text())
    assert not found["interrupted"]
    assert len(found["chunks"]) == 4


def test_frames_put_aside_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    chunks = [rng.integers(0, 256, (2, n, 4, 6, 3), dtype=np.uint8) for n in (1, 4)]
    with video.Spool(tmp_path / "out.mp4") as spool:
        for chunk, label in zip(chunks, "xy"):
            spool.add(chunk[0], chunk[1], "left", label)
        found = list(spool.frames())
        assert len(spool) == len(found) == 5
    assert [names for *_, names in found] == ["x", "y", "y", "y", "y"]
    assert np.array_equal(np.stack([left for left, *_ in found[1:]]), chunks[1][0])
    assert np.array_equal(np.stack([right for _, right, *_ in found[1:]]), chunks[1][1])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Full:
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None: ...

    monkeypatch.setattr(video, "tempfile", SimpleNamespace(TemporaryFile=lambda **_: Full()))
    assert main(f"generate --chunks 2 --out {tmp_path / 'out.mp4'}".split()) == 2
    assert "No space left on device); free some space or choose another place" in capsys.readouterr().err


def test_a_lane_that_ends_leaves_its_half_black(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = LaneRun.step

    def failing(run: LaneRun, probe: Any = None) -> Any:
        if run.name == "B" and run.stream.chunks == 1:
            raise RuntimeError("gone")
        return step(run, probe)

    monkeypatch.setattr(LaneRun, "step", failing)
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    assert main(f"generate --chunks 3 --out {out} --json {report}".split()) == 0
    assert shape(out)[0] == 36
    found = json.loads(report.read_text())
    assert [row["lane"] for row in found["chunks"]] == ["A", "B", "A", "A"]
    assert "Lane A goes on." in found["notices"][0]["text"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("generate --model nemo --out {out}", "model 'nemo' is unknown"),
        ("generate --right wishful --out {out}", "policy 'wishful' is unknown"),
        ("generate --right forcing-kv:ratio=3 --out {out}", "outside (0, 1]"),
        ("generate --left full:2 --out {out}", "no room for a chunk"),
        ("generate --prompt ... --out {out}", "prompt has no"),
        ("generate --chunks 0 --out {out}", "--chunks: 0 is too small"),
        ("generate --chunks many --out {out}", "--chunks: 'many' is not a whole number"),
        ("generate --seed 1.5 --out {out}", "--seed: '1.5' is not a whole number"),
        ("generate --seed -1 --out {out}", "--seed: -1 is too small; use 0 or more"),
        ("bench --seed -1", "--seed: -1 is too small; use 0 or more"),
        ("generate --out {out} --json {dir}/./out.mp4", "--out and --json are both"),
        ("generate --out {out} --json {dir}/x.png --sheet {dir}/x.png", "--json and --sheet are both"),
        ("generate --heads {dir}/nowhere.json --out {out}", "--heads: {dir}/nowhere.json is no file"),
        ("profile --from {dir}/nowhere.json", "--from: {dir}/nowhere.json is no file"),
        ("generate --threshold 2 --out {out}", "--threshold: '2' is not a number in [0, 1]"),
        ("generate --out {dir}/nowhere/out.mp4", "cannot write into"),
        ("generate --out {dir}/out.avi", "let it end in .mp4"),
        ("generate --json {dir} --out {out}", "is a directory"),
        ("generate --model nemo --device mps --out {out}", "is unknown"),
        ("bench --policies full:21,full:21", "given twice"),
        ("bench --policies ,", "policy ',' is unknown"),
        ("bench --policies full:21,wishful", "'wishful' is neither a policy nor a value"),
        ("bench --chunks 2", "2 chunks are all warm-up while caches fill; use --chunks 7 or more"),
        ("bench --json {dir}/nowhere/x.json", "cannot write into"),
        ("profile --prompts 0", "--prompts: 0 is too small"),
        ("dance", "invalid choice: 'dance'"),
        ("", "COMMAND"),
    ],
)
def test_bad_arguments_cost_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, words: str) -> None:
    try:
        status = main(command.format(out=tmp_path / "out.mp4", dir=tmp_path).split())
    except SystemExit as exit:
        status = exit.code
    said = [line for line in capsys.readouterr().err.splitlines() if not line.lstrip().startswith(("0%", "\r")) and "chunk/s" not in line]
    assert status == 2
    assert words.format(dir=tmp_path) in said[-1]
    assert len([line for line in said if line.startswith("python -m fkv")]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["bench", "--prompt", ""], "prompt has no"),
        (["bench", "--policies", ""], "0 policies"),
        (["bench", "--chunks", "6"], "use --chunks 7 or more"),
        (["embed", "--model", "pocket"], "there is nothing to store"),
    ],
)
def test_what_cannot_run_is_refused_before_a_progress_bar_is_drawn(
    capsys: pytest.CaptureFixture[str], command: list[str], words: str
) -> None:
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"python -m fkv {command[0]}: ")
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["--help", "generate --help", "profile --help", "bench --help", "doctor --help", "train --help"])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as exit:
        main(command.split())
    assert exit.value.code == 0
    assert "usage: python -m fkv" in capsys.readouterr().out


def test_a_list_of_policies_is_cut_only_where_a_policy_begins() -> None:
    assert policies.split("full:21,window:sink=3,recent=9, forcing-kv:1,2,dynamic=1,full") == [
        "full:21",
        "window:sink=3,recent=9",
        "forcing-kv:1,2,dynamic=1",
        "full",
    ]


def test_bench_interleaves_pairs_and_prints_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    step = LaneRun.step
    monkeypatch.setattr(LaneRun, "step", lambda run, probe=None: order.append(run.policy.name) or step(run, probe))
    path = tmp_path / "bench.json"
    assert main(f"bench --policies full:6,forcing-kv --chunks 5 --json {path} --markdown".split()) == 0
    assert order[:4] == ["full", "forcing-kv", "forcing-kv", "full"]
    found = json.loads(path.read_text())
    assert found["counted"] == [3, 4]
    assert len(found["samples"]) == 10
    base, other = found["policies"]
    assert base["faster"]["end_to_end"]["median"] == 1
    pairs = [[row["ms"]["end_to_end"] for row in found["samples"] if row["chunk"] == chunk] for chunk in (3, 4)]
    assert other["faster"]["end_to_end"]["median"] == pytest.approx(float(np.median([a / b for a, b in pairs])), abs=1e-3)
    assert other["kept"] == pytest.approx(other["bytes"]["stored"] / base["bytes"]["stored"])
    assert other["bytes"]["stored"] == other["bytes"]["expected"]
    assert found["environment"]["threads"] >= 1
    table = capsys.readouterr().out
    assert path.with_suffix(".md").read_text() == table
    assert f"{other['fps_end_to_end']['median']:.1f}" in table
    assert table.count("\n|") == 3


def test_profile_scores_every_head_and_writes_what_forcing_kv_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "heads.json"
    assert main(f"profile --prompts 2 --json {path}".split()) == 0
    profile = HeadProfile.from_json(path.read_text(), SPEC.geometry)
    assert profile.scores is not None
    assert all(0 <= score <= 1 for line in profile.scores for score in line)
    assert profile.rule in capsys.readouterr().out


def test_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, small: engine.Engine) -> None:
    monkeypatch.setattr(engine, "load", lambda spec: small)
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("python", "torch", "attention", "flash-attn", "ffmpeg", "will run", "weights valid"))

    def missing(spec: object) -> None:
        raise FileNotFoundError("model.safetensors is missing; restore it")

    monkeypatch.setattr(engine, "load", missing)
    assert main(["doctor"]) == 1
    assert "FAIL pocket           model.safetensors is missing; restore it" in capsys.readouterr().out


def test_the_second_request_to_stop_is_obeyed_at_once() -> None:
    with machine.interruptible() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_labels_that_are_too_long_are_cut_and_sizes_are_even() -> None:
    lane = np.zeros((45, 33, 3), np.uint8)
    picture = video.beside(lane, lane, "a very long label " * 20, "B")
    assert picture.width % 2 == picture.height % 2 == 0


def test_a_report_is_whole_or_not_there(tmp_path: Path) -> None:
    generate.write_json(tmp_path / "a.json", {"x": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="could not be written"):
        generate.write_json(tmp_path / "no" / "a.json", {})


def test_the_lanes_of_a_command_are_the_cache_its_model_was_trained_with_and_the_compression_it_can_follow() -> None:
    for name, *lanes in (
        ("pocket", "full:21", "forcing-kv"), ("longlive", "window:12:3", "forcing-kv"), ("rolling-forcing", "full:21", "window"),
        (f"krea-14b --heads {__file__}", "full:21", "forcing-kv"),
    ):  # fmt: skip
        for kind in ("bench", "generate --out x.mp4"):
            assert list(command.usual(command.parser().parse_args([*kind.split(), "--model", *name.split()]))) == lanes
