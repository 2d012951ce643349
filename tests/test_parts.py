"""What a published model needs: what is here, what is missing, what is fetched, and what the doctor says before anything is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fkv import doctor, fetch, hub, parts, planner
from fkv.__main__ import main
from fkv.spec import KREA, LONGLIVE, MODELS, POCKET, RAVEN, SELF_FORCING
from fkv.text import Umt5Text, umt5
from fkv.text.store import Bundle

Calls = list[tuple[str, ...]]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any published file, and without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))

    def unreachable(repo: str, file: str, **_: object) -> hub.Remote:
        raise OSError(f"{file} of {repo} cannot be fetched (no route); check the network, then try again: it goes on where it stopped")

    monkeypatch.setattr(hub, "ask", unreachable)
    monkeypatch.setattr(doctor, "matrix_rate", lambda device, dtype: 600.0)


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What would have been fetched."""
    asked: Calls = []

    def took(*names: str) -> Path:
        asked.append(names)
        return tmp_path

    monkeypatch.setattr(hub, "fetch", lambda repo, file, report, *, endpoint=None: (report(file, 1, 2), took(repo, file))[1])
    monkeypatch.setattr(hub, "fetch_url", lambda url, path, report: took(url))
    monkeypatch.setattr(hub, "snapshot", lambda repo, patterns, report=None, *, download=True: took(repo, *patterns))
    return asked


def test_a_bare_machine_needs_every_file_and_names_the_command_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BUNDLE", tmp_path / "none")
    needs = {need.what: need for need in parts.needs(LONGLIVE)}
    base, adapter = (needs[f"{file} of {LONGLIVE.repo}"] for file in ("models/longlive_base.pt", "models/lora.pt"))
    assert (base.here, base.size, adapter.size) == (False, 5_676_334_208, 2_800_056_690)
    assert base.cure == adapter.cure == "run `python -m fkv fetch --model longlive`"
    assert needs["the text encoder umT5-XXL"].cure == "run `python -m fkv fetch --model longlive --text`"
    assert needs["the text encoder umT5-XXL"].size == pytest.approx(22.7e9, rel=0.01)
    assert [need.what for need in needs.values() if not need.size and not need.what.startswith("the package")] == []
    assert [what for what, need in needs.items() if not need.vital] == ["the Wan VAE, for export", "the package diffusers"]
    stored = tmp_path / "umt5.safetensors"
    stored.touch()
    monkeypatch.setattr(parts, "BUNDLE", stored)
    assert [need.what for need in parts.needs(LONGLIVE) if not need.vital][:2] == ["the text encoder umT5-XXL", "the package transformers"]
    assert all(need.here for need in parts.needs(POCKET))


def test_fetching_takes_the_weights_the_decoders_and_the_encoder_only_when_asked(calls: Calls) -> None:
    told: list[str] = []
    parts.fetch(LONGLIVE, lambda file, done, total: told.append(file))
    assert [call[:2] for call in calls[:2]] == [(LONGLIVE.repo, "models/longlive_base.pt"), (LONGLIVE.repo, "models/lora.pt")]
    assert calls[2][0].endswith("taew2_1.safetensors")
    assert calls[3] == ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vae/*.json", "vae/*.safetensors")
    assert len(calls) == 4
    assert told == ["models/longlive_base.pt", "models/lora.pt"]
    parts.fetch(LONGLIVE, text=True)
    assert calls[-1] == ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", *umt5.PATTERNS)


def test_the_terminal_shows_a_bar_per_file(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fetch", "--model", "longlive"])
    assert "longlive_base.pt:  50%" in capsys.readouterr().err


def test_fetching_fails_while_something_vital_is_missing_and_only_tells_what_the_model_can_do_without(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = parts.Need("the text encoder", here=False, size=22_700_000_000, cure="run `fetch --text`")
    monkeypatch.setattr(parts, "needs", lambda spec: [encoder, parts.Need("the Wan VAE", here=True)])
    assert main(["fetch", "--model", "longlive"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "python -m fkv fetch: LongLive 1.3B cannot run yet: the text encoder (22.7 GB) is missing; run `fetch --text`"
    monkeypatch.setattr(parts, "needs", lambda spec: [replace(encoder, vital=False)])
    assert main(["fetch", "--model", "longlive"]) == 0
    assert capsys.readouterr().out == "the text encoder is missing; run `fetch --text`\n"


def test_the_pocket_model_has_nothing_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "--model", "pocket"]) == 2
    assert "comes with the repository; there is nothing to fetch" in capsys.readouterr().err


def test_embeddings_of_examples_are_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(opening: parts.Opening) -> Umt5Text:
        return Umt5Text(lambda: lambda prompt: torch.full((2, 4), float(len(prompt))), width=4, length=6)

    monkeypatch.setattr(parts, "TEXTS", {"umt5": text})
    lines, out = tmp_path / "lines.txt", tmp_path / "out.safetensors"
    lines.write_text("a fox\n\n  a tram \n")
    assert main(f"embed --model self-forcing --prompts {lines} --out {out}".split()) == 0
    stored = Umt5Text(lambda: pytest.fail("opened"), width=4, length=6, bundle=Bundle.read(out))
    assert stored.examples == ("a fox", "a tram")
    assert stored.encode("a tram").embedding[0, :2].unique().tolist() == [6.0]


def findings(spec_name: str, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    status = main(["doctor", "--model", spec_name, "--device", "cpu", *flags])
    return status, capsys.readouterr().out


def test_the_doctor_says_all_of_a_model_before_anything_is_fetched(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "memory", lambda device: 64 * 10**9)
    status, text = findings("longlive", capsys)
    assert status == 1
    for words in (
        "ok   model            LongLive 1.3B: 1.42 billion parameters, 30 layers of 12 heads",
        "ok   licence          CC-BY-NC-SA-4.0 (weights)",
        "FAIL needs            models/longlive_base.pt of Efficient-Large-Model/LongLive-1.3B (5.7 GB): missing; run `python -m fkv fetch",
        "FAIL network          models/longlive_base.pt of Efficient-Large-Model/LongLive-1.3B cannot be fetched",
        "size             480x832 (480p), 3 latent frames a chunk, float32",
        "weights          5.7 GB, shared by all lanes",
        "lane A           7.1 GB with window: cache 5.2 GB + chunk being drawn 1.7 GB + text 188.7 MB",
        "estimate         one pass ",
        "in all: it fits",
        "at the 600 TFLOP/s measured now): real time (16 frames per second) is possible",
    ):
        assert words in text, words


def test_the_doctor_proposes_the_nearest_run_that_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "memory", lambda device: 16 * 10**9)
    text = findings("self-forcing", capsys)[1]
    assert "FAIL memory           Self Forcing 1.3B at 480x832 (480p) does not fit: " in text
    assert "16.0 GB are there; use " in text
    assert "the checkpoint's size is not known here, 5.7 GB if it is one copy in float32" in text
    text = findings("krea-14b", capsys, "--resolution", "720p")[1]
    assert "nothing near it fits either (its weights alone are 57.2 GB)" in text
    assert "no head profile comes with it: planned as if every head were dynamic" in text


def test_an_unknown_resolution_costs_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "raven", "--resolution", "huge"]) == 2
    assert "resolution 'huge' is unknown; use one of: 256p, 320p" in capsys.readouterr().err
    assert planner.size_of("480") == planner.size_of("480p") == planner.size_of("480x832") == (480, 832)


def test_rows_say_what_is_known_and_leave_the_rest_empty() -> None:
    assert [spec.name for spec in MODELS if not spec.licence] == ["raven"]
    assert [spec.name for spec in MODELS if spec.size_bytes] == ["longlive"]
    assert RAVEN.entry == ()
    assert (KREA.schedule.timesteps(), KREA.net.heads) == ((1000.0, 937.0, 833.0, 625.0, 0.0), 40)
    assert SELF_FORCING.schedule.timesteps() == pytest.approx((1000, 937.5, 833.33331298828125, 625))
    assert (LONGLIVE.window, LONGLIVE.sink) == (12, 3)


def test_a_bar_follows_what_is_reported() -> None:
    with fetch.Bars() as bars:
        bars.report("a/b.pt", 10, 0)
        bars.report("a/b.pt", 30, 40)
        assert (bars.bars["a/b.pt"].n, bars.bars["a/b.pt"].total) == (30, 40)


def test_the_device_has_memory_as_far_as_the_system_says() -> None:
    assert parts.memory(torch.device("cpu")) >= 0
    small = replace(SELF_FORCING, net=replace(SELF_FORCING.net, dim=24, heads=2, layers=1, ffn=8))
    parts.affordable(parts.Opening(small))


def test_a_decoder_of_other_latents_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="decoder 'taehv' does not fit the latents of Pocket; use one of: pocket"):
        parts.known(POCKET, "taehv")
    for codec in ("", "taehv", "wan-vae"):
        parts.known(SELF_FORCING, codec)
