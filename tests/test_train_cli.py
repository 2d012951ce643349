"""The train command: what it refuses in one line, what a stop leaves behind, and when weights are written."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from untrained import SMALL

from fkv.codec import PocketCodec, pocket_random
from fkv.pocket import choosing, report, run, train_codec, train_decoder, train_model
from fkv.pocket.recipe import ModelRecipe
from fkv.pocket.train import ASSETS, main
from fkv.pocket.train_decoder import DecoderRecipe

Told = pytest.CaptureFixture[str]


def status(words: str) -> object:
    """Exit status of a command, also where the parser ends it."""
    try:
        return main(words.split())
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "are required: what\n"),
        ("bogus", "invalid choice: 'bogus'"),
        ("codec --steps abc", "'abc'"),
        ("codec --device tpu", "device 'tpu' is unknown; use auto, cpu or cuda"),
        ("codec --threads -3", "--threads -3 is too small; use 1 or more"),
        ("codec --threads 99999", "--threads 99999 is above the"),
        ("codec --seed -1", "--seed -1 is outside"),
        (f"codec --seed {2**64}", "2^63"),
        ("codec --decay -5", "--decay -5 is too small; use 0 or more"),
        ("compare folder --json .", "--json . is a directory; name a file"),
        ("model --out /proc/foo", "--out /proc/foo: cannot write there"),
        ("report --work /proc/foo", "--work /proc/foo: cannot write there"),
        ("codec --out file", "--out file: cannot write there"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_any_work(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    for part in (train_codec.train_codec, train_model.train_model, report.write_report, choosing.compared):
        monkeypatch.setattr(f"{part.__module__}.{part.__name__}", lambda *_, **__: pytest.fail("work was done"))
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    assert status(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_a_stopped_model_run_leaves_no_weights_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    recipe, left = ModelRecipe(steps=4, passes=3, lengths=((1.0, 1, 1.0),)), []
    for name in ("whole", "stopped"):
        out = tmp_path / name
        out.mkdir()
        save_file(pocket_random().state_dict(), out / "codec.safetensors")
        if name == "stopped":
            asked = iter((False, False, True))
            with pytest.raises(run.Stopped, match="stopped at step 2"):
                train_model.train_model(SMALL, recipe, out / "work", out, "cpu", stop=lambda asked=asked: next(asked))
            assert (run.load(out / "work" / "model.pt") or {})["step"] == 2
            assert not (out / "model.safetensors").exists()
        train_model.train_model(SMALL, recipe, out / "work", out, "cpu")
        left.append(load_file(out / "model.safetensors"))
    assert all(torch.equal(left[0][name], left[1][name]) for name in left[0])


def test_a_killed_model_run_leaves_the_weights_that_were_there(tmp_path: Path) -> None:
    recipe = ModelRecipe(steps=4, passes=3, lengths=((1.0, 1, 1.0),))
    save_file(pocket_random().state_dict(), tmp_path / "codec.safetensors")
    (tmp_path / "model.safetensors").write_bytes(b"shipped")

    def killed(step: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_model.train_model(SMALL, recipe, tmp_path / "work", tmp_path, "cpu", after=killed)
    assert (tmp_path / "model.safetensors").read_bytes() == b"shipped"


def descended(work: Path, steps: int, stop: Callable[[], bool] = lambda: False) -> dict[str, Tensor]:
    torch.manual_seed(0)
    codec = PocketCodec(4, wide=8, fine=8)

    def losses(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(first, steps):
            noise = torch.randn(4, 4, 2, 3, generator=torch.Generator().manual_seed(step))
            error = codec.forward_decoder(noise, noise).square().mean()
            yield error, error

    recipe = DecoderRecipe(steps=steps, warmup=1, decay=3)
    train_codec.descend(codec, list(codec.draw.parameters()), recipe, work, "decoder", losses, stop)
    return codec.state_dict()


def test_a_stopped_codec_run_has_saved_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    answers = iter((False, False, False, True))
    with pytest.raises(run.Stopped, match="stopped at step 3"):
        descended(tmp_path / "stopped", 6, lambda: next(answers))
    again, whole = descended(tmp_path / "stopped", 6), descended(tmp_path / "whole", 6)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_a_run_asked_for_fewer_steps_than_it_has_done_does_not_forget_them(tmp_path: Path) -> None:
    descended(tmp_path, 6)
    descended(tmp_path, 2)
    assert (run.load(tmp_path / "decoder.pt") or {})["step"] == 6


def stop_at(last: int, number: int) -> Callable[[int], None]:
    def after(step: int) -> None:
        if step == last:
            os.kill(os.getpid(), number)

    return after


@pytest.fixture
def quick_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec training without what surrounds its steps."""
    monkeypatch.setattr(train_codec, "principal_components", lambda codec, seed: None)
    monkeypatch.setattr(train_codec, "renormalise", lambda codec, seed: None)
    monkeypatch.setattr(train_codec, "measure", lambda codec, seed: (30.0, None))


@pytest.mark.usefixtures("quick_codec")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so_in_one_line_and_the_same_command_writes_the_weights(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    words = ["codec", "--steps", "3", "--device", "cpu", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    before = signal.getsignal(number)
    with monkeypatch.context() as patched:
        step, stop = run.Progress.step, stop_at(0, number)
        patched.setattr(run.Progress, "step", lambda self, count, values: (step(self, count, values), stop(count)))
        assert main(words) == 130
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err.endswith("\nstopped at step 1; the same command goes on\n")
    assert list((tmp_path / "out").iterdir()) == []
    assert main(words) == 0
    assert (tmp_path / "out" / "codec.safetensors").is_file()
    told = capsys.readouterr().out
    assert "going on from" in told
    assert f"see {tmp_path / 'work' / 'codec_report.png'}" in told
    found = json.loads((tmp_path / "work" / "codec_report.json").read_text())
    assert (found["recipe"]["steps"], found["psnr_db"]) == (3, 30.0)
    with Image.open(tmp_path / "work" / "codec_report.png") as picture:
        assert picture.size == (6 * 128, 2 * 6 * 80), "six clips, each true above drawn, every second frame of twelve"
    assert f"`python -m fkv train report --out={tmp_path / 'out'} --work={tmp_path / 'work'}`" in told.splitlines()[-1]


def test_only_a_folder_that_is_not_the_usual_one_is_named_in_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_model, "train_model", lambda *_, **__: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert main(["model", "--device", "cpu", "--no-report"]) == 0
    assert capsys.readouterr().out.endswith(f"{ASSETS}: weights written; evaluate them with `python -m fkv train report`\n")


@pytest.mark.parametrize(("words", "reports"), [("model", 1), ("decoder", 1), ("model --no-report", 0), ("decoder --no-report", 0)])
def test_a_model_and_its_decoder_end_with_the_evaluation_unless_it_is_left_out(
    words: str, reports: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("codec", "model"):
        (tmp_path / f"{name}.safetensors").write_text("there")
    reported = []
    monkeypatch.setattr(train_model, "train_model", lambda *_, **__: None)
    monkeypatch.setattr(train_decoder, "train_decoder", lambda *_, **__: (1.0, 2.0))
    monkeypatch.setattr(report, "write_report", lambda out, work, device, prompts: reported.append((out, work, prompts)))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    assert main([*words.split(), "--device", "cpu", "--out", str(tmp_path), "--work", str(tmp_path / "work"), "--prompts", "5"]) == 0
    assert reported == [(tmp_path, tmp_path / "work", 5)] * reports


@pytest.mark.parametrize("stopped", [False, True])
def test_all_trains_the_model_on_the_new_codec_and_replaces_weights_when_the_last_part_has_ended(
    stopped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told
) -> None:
    """Stand-ins for the parts write down which codec they were given."""
    out = tmp_path / "out"
    out.mkdir()
    for name in ("codec", "model"):
        (out / f"{name}.safetensors").write_text("shipped")

    def model(spec: object, recipe: object, work: Path, made: Path, *about: object, **others: object) -> None:
        (made / "model.safetensors").write_text(f"model of {(made / 'codec.safetensors').read_text()}")

    def decoder(spec: object, recipe: object, work: Path, made: Path, *about: object, **others: object) -> tuple[float, float]:
        assert (out / "model.safetensors").read_text() == (out / "codec.safetensors").read_text() == "shipped"
        if stopped:
            raise run.Stopped(5)
        (made / "codec.safetensors").write_text("new codec, decoder trained")
        return 1.0, 2.0

    def codec(recipe: object, work: Path, made: Path, device: str, **others: object) -> float:
        made.mkdir(parents=True)
        (made / "codec.safetensors").write_text("new codec")
        return 30.0

    reported = []
    monkeypatch.setattr(train_codec, "train_codec", codec)
    monkeypatch.setattr(report, "write_codec_report", lambda out, work, recipe, psnr: work / "codec_report.png")
    monkeypatch.setattr(train_model, "train_model", model)
    monkeypatch.setattr(train_decoder, "train_decoder", decoder)
    monkeypatch.setattr(report, "write_report", lambda out, work, device, prompts: reported.append((out, work)))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    words = ["all", "--device", "cpu", "--out", str(out), "--work", str(tmp_path / "work")]
    assert main(words) == (130 if stopped else 0)
    left = [(out / f"{name}.safetensors").read_text() for name in ("codec", "model")]
    assert left == (["shipped"] * 2 if stopped else ["new codec, decoder trained", "model of new codec"])
    assert reported == ([] if stopped else [(out, tmp_path / "work" / "all")])
    assert ("stopped at step 5; the same command goes on" in capsys.readouterr().err) == stopped


def test_an_interrupted_comparison_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Told) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt  # what Ctrl-C raises, also where this process was started with SIGINT ignored

    monkeypatch.setattr(choosing, "compared", interrupted)
    assert main(["compare", str(ASSETS), "--device", "cpu", "--work", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_help_says_which_parts_evaluate_and_when_weights_are_written(capsys: Told) -> None:
    assert status("--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "which model and decoder end with too" in told
    assert "never by a run that was stopped" in told
