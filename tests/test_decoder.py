"""The pocket decoder learns from what the model draws; the encoder and what the model was trained on stay as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fkv.codec import PocketCodec, load_pocket, pocket_random
from fkv.pocket import report, run
from fkv.pocket.data import draw
from fkv.pocket.teacher import Clip
from fkv.pocket.train import main
from fkv.pocket.train_codec import descend, write
from fkv.pocket.train_decoder import DecoderRecipe, changes, example, redrawn, train_decoder, upsampled
from fkv.pocket.train_model import export
from fkv.spec import ModelSpec
from tests.untrained import SMALL, small_model

TINY = DecoderRecipe(steps=36, batch=2, latents=3, warmup=2, decay=8)


@dataclass
class Echo:
    """Stands for a teacher: gives back what it is asked to clean, and remembers what it was asked."""

    spec: ModelSpec = SMALL
    asked: list[Clip] = field(default_factory=list)

    def predict(self, clip: Clip) -> tuple[Tensor, Tensor]:
        self.asked.append(clip)
        return clip.noisy, torch.zeros(())


def test_the_model_redraws_from_its_samplers_last_noise_levels_with_the_true_past() -> None:
    batch, echo = draw(3, 0, 2, 6, gaps=False), Echo()
    latents = torch.randn(2, 6, 24, 10, 16, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    made = redrawn(echo, latents, batch.text, batch.numbers, 2, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    first, second = (torch.randn(latents.shape, generator=generator) for _ in range(2))
    torch.testing.assert_close(made, 0.7 * (0.45 * latents + 0.55 * first) + 0.3 * second)
    assert [clip.sigma.unique().item() for clip in echo.asked] == [pytest.approx(0.55), pytest.approx(0.3)]
    assert all(torch.equal(clip.clean, latents) for clip in echo.asked)


def test_frames_that_nothing_tells_of_are_asked_for_from_true_latents_only() -> None:
    codec, batch = pocket_random(), draw(5, 0, 8, 6, gaps=False)
    assert 0 < batch.told.mean() < 1
    latents, weight = example(codec, Echo(), DecoderRecipe(clean=0.0), batch, 0)  # type: ignore[arg-type]
    assert weight.shape == (8, 6, 1, 80, 128)
    assert torch.equal(weight.amax((2, 3, 4)) > 0, batch.told > 0)
    torch.testing.assert_close(weight[:, :, 0, ::8, ::8], (1 + batch.mask) * batch.told[:, :, None, None])
    echo = Echo()
    true, weight = example(codec, echo, DecoderRecipe(clean=1.0), batch, 0)  # type: ignore[arg-type]
    assert echo.asked == []
    assert (weight >= 1).all()
    assert (true - codec.encode(batch.frames)).std() == pytest.approx(0.06, rel=0.05)
    assert (latents - true).std() > 0.2


def test_weights_of_cells_lie_on_the_pixels_of_their_cells() -> None:
    cells = torch.zeros(1, 1, 10, 16)
    cells[0, 0, 2, 3] = 1
    pixels = upsampled(cells)[0, 0, 0]
    assert pixels.shape == (80, 128)
    assert pixels[16:24, 24:32].sum() == pixels.sum() == 64


def test_a_seam_and_a_flicker_are_wrong_changes_and_an_even_error_is_none() -> None:
    weight = torch.ones(1, 2, 1, 4, 6)
    seam, flicker = torch.full((2, 1, 2, 12, 4, 6), 0.5)
    assert changes(seam, weight) == 0
    seam[..., 3:] += 1
    assert changes(seam, weight) == pytest.approx(1 / 5), "one of five steps to the right is wrong by 1"
    flicker[:, 1, 3:6] += 1
    assert changes(flicker, weight) == pytest.approx(2 / 7), "two of seven steps in time are wrong by 1"
    weight[:, 1] = 0
    assert changes(flicker, weight) == 0, "nothing tells what the second latent frame shows"


def lane(tmp_path: Path) -> Path:
    """A folder with an untrained codec and model."""
    write(pocket_random(2), tmp_path)
    export(small_model().state_dict(), tmp_path)
    return tmp_path


def test_training_changes_the_decoder_alone_and_draws_nearer_to_the_truth(tmp_path: Path) -> None:
    out = lane(tmp_path / "out")
    before, after = train_decoder(SMALL, TINY, tmp_path / "work", out, "cpu")
    assert after > before + 0.5
    old, new = pocket_random(2).state_dict(), load_pocket(out).state_dict()
    changed = {name.split(".")[0] for name, tensor in old.items() if not torch.equal(tensor, new[name])}
    assert changed == {"synthesis", "draw"}


def test_a_killed_training_goes_on_as_if_nothing_had_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randn(4, 3, 16, 24, generator=torch.Generator().manual_seed(0))

    def trained(work: Path, stops: int | None) -> dict[str, Any]:
        torch.manual_seed(0)
        codec = PocketCodec(4, wide=8, fine=8)

        def losses(first: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step in range(first, 6):
                if step == stops:
                    raise KeyboardInterrupt
                noise = torch.randn(4, 4, 2, 3, generator=torch.Generator().manual_seed(step))
                error = (codec.forward_decoder(noise, noise)[:, :3] - pixels).square().mean()
                yield error, error

        descend(codec, list(codec.draw.parameters()), DecoderRecipe(steps=6, warmup=1, decay=3), work, "decoder", losses)
        return codec.state_dict()

    monkeypatch.setattr(run.Progress, "due", lambda self: True)
    whole = trained(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", 4)
    again = trained(tmp_path / "killed", None)
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_the_decoder_is_not_trained_without_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(pocket_random(), tmp_path)
    assert main(["decoder", "--out", str(tmp_path), "--work", str(tmp_path), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "model.safetensors is missing; run `python -m fkv train model` first" in said
    assert said.count("\n") == 1


def test_a_second_training_by_the_same_recipe_leaves_the_first_in_the_report(tmp_path: Path) -> None:
    recipe = tmp_path / "decoder.json"
    recipe.write_text(json.dumps({"steps": 3}))
    first = report.trained(recipe, [{"step": 1, "loss": 0.5}], {"log": []})
    longer = report.trained(recipe, [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}], first)
    assert (len(longer["log"]), longer["before"]) == (2, first["before"]), "the same run, reported again"
    second = report.trained(recipe, [{"step": 1, "loss": 0.3}], longer)
    assert (second["log"], second["before"]) == ([{"step": 1, "loss": 0.3}], longer)
    assert report.trained(tmp_path / "none.json", [], longer) == longer
