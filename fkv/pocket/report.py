"""The pocket model's report: everything that is measured of the weights in a folder, how they were trained, contact sheets to look at."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fkv import machine
from fkv.codec import load_pocket
from fkv.engine import Engine, load
from fkv.heads import HeadProfile
from fkv.pocket.data import draw
from fkv.pocket.evaluate import compare, endurance, held_out, measured_heads
from fkv.pocket.means import mean_of
from fkv.pocket.stages import Stages
from fkv.pocket.teacher import local_heads
from fkv.pocket.train_codec import CodecRecipe
from fkv.spec import POCKET


def sheet(rows: dict[str, np.ndarray], path: Path) -> None:
    """One row of frames per clip, to be looked at."""
    width = min(len(frames) for frames in rows.values())
    picture = np.concatenate([np.concatenate(list(frames[:width]), axis=1) for frames in rows.values()])
    Image.fromarray(picture).save(path, optimize=True)


def training_log(work: Path, name: str) -> list[dict[str, Any]]:
    path = work / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def trained(recipe: Path, log: list[dict[str, Any]], earlier: dict[str, Any]) -> dict[str, Any]:
    """How the weights came about: this run's recipe and log, and `before` it those of the run whose weights it went on from. The run that
    an earlier report tells of is this one where its recipe is the same and its log is how this one begins."""
    if not recipe.is_file():
        return earlier
    own, told = json.loads(recipe.read_text()), earlier.get("log", [])
    before = earlier.get("before") if earlier.get("recipe") == own and log[: len(told)] == told else earlier
    return {"recipe": own, "log": log, **({"before": before} if before else {})}


def write_report(
    out: Path,
    work: Path,
    device: str,
    *,
    prompts: int = 64,
    few: int = 32,
    profiled: int = 16,
    chunks: int = 20,
    long_clips: int = 16,
    long_frames: int = 1000,
) -> None:
    """Profile the heads, measure everything, and write `heads.json`, `report.json` and `report.png` into `out`. A stopped report goes on
    where it was, as long as the weights and what prompts mean are the same."""
    engine = load(replace(POCKET, file=str(out.resolve())), device)
    asked = b"".join(engine.text.encode(prompt, seed).embedding.numpy().tobytes() for seed, prompt in enumerate(held_out(prompts)))
    stages = Stages(work, out / "model.safetensors", out / "codec.safetensors", asked=asked)
    measured, _ = stages.measured("heads", lambda: ({"profile": measured_heads(engine, profiled)}, {}))
    profile = HeadProfile.from_json(measured["profile"], engine.spec.geometry)
    (out / "heads.json").write_text(profile.to_json())
    worlds, pictures = compare(engine, profile, stages, prompts, few, chunks)
    long, long_pictures = endurance(engine, profile, stages, long_clips, long_frames)
    previous = json.loads((out / "report.json").read_text()) if (out / "report.json").is_file() else {}
    training = trained(work / "recipe.json", training_log(work, "model"), previous.get("training", {}))
    drawing = trained(work / "decoder.json", training_log(work, "decoder"), previous.get("codec", {}).get("decoder", {}))
    report = {
        "model": {**asdict(engine.spec.net), "parameters": engine.parameters, "schedule": asdict(engine.spec.schedule)},
        "commit": machine.commit(),
        "machine": machine.environment(engine),
        "training": {**training, "mean": mean_of(out)},
        "codec": {**codec_summary(engine, out), "decoder": drawing},
        "heads": heads_summary(profile),
        "clip_frames": 12 * chunks,
        "worlds": worlds,
        "long": {"latent_frames": long_frames, **long},
    }
    (out / "report.json").write_text(json.dumps(report, indent=1))
    few_rows = {name: frames for name, frames in pictures.items() if name.startswith(("full/", "forcing-kv/"))}
    sheet(few_rows, out / "report.png")
    sheet({name: frames for name, frames in long_pictures.items() if name.endswith(("/0", "/1"))}, out / "report_long.png")


def write_codec_report(out: Path, work: Path, recipe: CodecRecipe, psnr: float, clips: int = 6) -> Path:
    """How the codec in `out` was trained and what it reaches, into `work/codec_report.json`, and held-out clips, each above what is drawn
    of it, beside that; gives the picture's path.
    """
    codec, picture = load_pocket(out), work / "codec_report.png"
    frames = draw(recipe.seed + 2, 0, clips, 3, gaps=False, lean=False).frames
    drawn = codec.decoder().decode(codec.encode(frames))
    sheet(
        {f"{clip} {side}": shown[clip].numpy()[::2] for clip in range(clips) for side, shown in (("true", frames), ("drawn", drawn))},
        picture,
    )
    about = {"commit": machine.commit(), "versions": machine.versions(), "cpu": machine.cpu_model()}
    found = {"psnr_db": round(psnr, 2), "recipe": asdict(recipe), "log": training_log(work, "codec"), **about}
    (work / "codec_report.json").write_text(json.dumps(found, indent=1))
    return picture


def codec_summary(engine: Engine, out: Path) -> dict[str, float]:
    """PSNR in dB of held-out frames, encoded and decoded, and as the model draws them from their true past (`drawn_psnr`)."""
    from fkv.codec import PocketCodec
    from fkv.pocket.train_codec import measure
    from fkv.pocket.train_decoder import DecoderRecipe, drawn_psnr, reader

    codec, model = engine.codec, reader(engine.spec, out / "model.safetensors", str(engine.device))
    assert isinstance(codec, PocketCodec)
    psnr, drawn = measure(codec, CodecRecipe().seed)[0], drawn_psnr(codec, model, DecoderRecipe())
    return {"psnr_db": round(psnr, 2), "drawn_psnr_db": round(drawn, 2)}


def heads_summary(profile: HeadProfile) -> dict[str, Any]:
    """How scores are spread, how stable they are, and whether what training built in is what the profile finds."""
    assert profile.scores is not None
    scores = np.array(profile.scores)
    near = np.zeros(scores.shape, bool)
    for layer, heads in enumerate(local_heads(*scores.shape)):
        near[layer, heads] = True
    agree = np.mean([head in profile.static[layer] for layer, head in zip(*np.nonzero(near))])
    return {
        "rule": profile.rule,
        "static": profile.share,
        "static_at_0.8": float((scores >= 0.8).mean()),
        "quantiles": {str(q): round(float(np.quantile(scores, q)), 4) for q in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)},
        "stability": profile.stability,
        "mean_score_trained_near": round(float(scores[near].mean()), 4),
        "mean_score_others": round(float(scores[~near].mean()), 4),
        "trained_near_called_static": round(float(agree), 4),
    }
