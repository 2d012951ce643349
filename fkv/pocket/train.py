"""`python -m fkv train codec|model|decoder|report|all|compare|mean`: makes the pocket model from nothing, or goes on where a killed run
stopped, and chooses among weights."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import fields, replace
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "pocket"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fkv train",
        description="Train the pocket model. A stopped run goes on from its last checkpoint when the same command is given again.",
    )
    parser.add_argument(
        "what",
        choices=("codec", "decoder", "model", "report", "all", "compare", "mean"),
        help="codec: autoencoder; model: the diffusion transformer; decoder: the codec's decoder alone, on what the model draws; "
        "report: head profile and evaluation; all: codec, model, decoder, report; compare: world metrics of several weights on prompts "
        "drawn under other seeds than the report's; mean: the weighted mean of several weights",
    )
    about = "for compare and mean: folders with model.safetensors and codec.safetensors; for mean FOLDER=SHARE (default: equal shares)"
    parser.add_argument("weights", nargs="*", metavar="FOLDER", help=about)
    parser.add_argument("--steps", type=int, help="training steps of the chosen part (default: the recipe's)")
    parser.add_argument("--decay", type=int, help="last steps in which the learning rate falls to zero (default: the recipe's)")
    parser.add_argument("--rates", type=float, help="multiply the recipe's learning rates of the model by this (default: 1)")
    parser.add_argument("--passes", type=int, help="chunk forwards per batch of the model (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="seed of data and noise (default: the recipe's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: all)")
    parser.add_argument("--compile", action="store_true", help="fuse the training pass with torch.compile")
    parser.add_argument("--work", type=Path, default=Path("runs/pocket"), help="checkpoints and logs (default: runs/pocket)")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where the weights go (default: assets/pocket)")
    about = "go on from these weights (safetensors; heads.json beside them is read) with the recipe's last part; leaves the mean of both"
    parser.add_argument("--init", type=Path, help=about)
    about = "share of the weights to go on from in that mean, 0 to 1 (default: 1/3); may be changed after the run"
    parser.add_argument("--keep", type=float, help=about)
    parser.add_argument("--fresh", action="store_true", help="discard the checkpoint of an earlier run")
    parser.add_argument("--prompts", type=int, help="prompts of the report (default: 64) or of compare (default: 80)")
    choosing = parser.add_argument_group("compare")
    choosing.add_argument("--policies", default="full:21,forcing-kv", help="separated by commas (default: full:21,forcing-kv)")
    choosing.add_argument("--noises", type=int, default=1, help="noises of every prompt, each with a layout of its own (default: 1)")
    choosing.add_argument("--chunks", type=int, default=20, help="chunks of a clip (default: 20)")
    choosing.add_argument("--json", type=Path, help="write the comparison here too")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit status 0, or 2 with one line on bad arguments."""
    arguments = parser().parse_intermixed_args(argv)
    if refused := _refusal(arguments):
        print(refused, file=sys.stderr)
        return 2
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
    import torch

    device = arguments.device if arguments.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        print(f"--device {device}: no CUDA device is visible; use --device cpu", file=sys.stderr)
        return 2
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part in ("codec", "model", "decoder", "report") if arguments.what == "all" else (arguments.what,):
        try:
            status = PARTS[part](part, arguments, device)
        except (ValueError, OSError) as error:
            print(f"python -m fkv train {part}: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        if status:
            return status
    return 0


def _refusal(arguments: argparse.Namespace) -> str:
    """What is wrong with the arguments, in a sentence; empty where nothing is."""
    for name, least in {"steps": 1, "passes": 1, "prompts": 1, "noises": 1, "chunks": 2}.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            return f"--{name} {value} is too small; use {least} or more"
    if arguments.rates is not None and not 0 < arguments.rates <= 10:
        return f"--rates {arguments.rates:g} is outside (0, 10]; use 1 for the recipe's rates, 0.5 for half of them"
    if arguments.keep is not None and not 0 <= arguments.keep <= 1:
        return f"--keep {arguments.keep:g} is no share; use 0 (the run alone) to 1 (the weights it began from)"
    if arguments.keep is not None and not arguments.init:
        return f"--keep {arguments.keep:g} is a share of the weights a run began from; name them with --init"
    if arguments.json and not arguments.json.parent.is_dir():
        return f"--json {arguments.json}: there is no folder {arguments.json.parent}; make it or name another"
    chooses = arguments.what in ("compare", "mean")
    if chooses and not arguments.weights:
        return f"train {arguments.what} needs folders with weights; name one or more, for example assets/pocket"
    if not chooses and arguments.weights:
        return f"train {arguments.what} takes no folders ({' '.join(arguments.weights)}); use --init, --work and --out"
    return ""


def _recipe(recipe: object, arguments: argparse.Namespace) -> object:
    known = {field.name for field in fields(recipe)}  # type: ignore[arg-type]
    edits = {
        name: value
        for name in ("steps", "decay", "passes", "seed", "keep")
        if (value := getattr(arguments, name)) is not None and name in known
    }
    return replace(recipe, **edits)  # type: ignore[type-var]


def _start(checkpoint: Path, arguments: argparse.Namespace) -> None:
    if arguments.fresh:
        checkpoint.unlink(missing_ok=True)
    if checkpoint.is_file():
        print(f"going on from {checkpoint}")


def _codec(part: str, arguments: argparse.Namespace, device: str) -> int:
    from fkv.pocket.train_codec import CodecRecipe, train_codec

    recipe = _recipe(CodecRecipe(), arguments)
    assert isinstance(recipe, CodecRecipe)
    _start(arguments.work / f"{part}.pt", arguments)
    print(f"held-out PSNR: {train_codec(recipe, arguments.work, arguments.out, device):.2f} dB")
    return 0


def _decoder(part: str, arguments: argparse.Namespace, device: str) -> int:
    from fkv.pocket.train_decoder import DecoderRecipe, train_decoder
    from fkv.spec import POCKET

    recipe = _recipe(DecoderRecipe(), arguments)
    assert isinstance(recipe, DecoderRecipe)
    if missing := [name for name in ("codec", "model") if not (arguments.out / f"{name}.safetensors").is_file()]:
        print(f"{arguments.out / missing[0]}.safetensors is missing; run `python -m fkv train {missing[0]}` first", file=sys.stderr)
        return 2
    _start(arguments.work / f"{part}.pt", arguments)
    before, after = train_decoder(POCKET, recipe, arguments.work, arguments.out, device)
    print(f"held-out PSNR of what the model draws: {before:.2f} dB before, {after:.2f} dB after")
    return 0


def _model(part: str, arguments: argparse.Namespace, device: str) -> int:
    import torch

    from fkv.pocket.recipe import ModelRecipe
    from fkv.pocket.train_model import train_model
    from fkv.spec import POCKET

    recipe = _recipe(ModelRecipe().continued() if arguments.init else ModelRecipe(), arguments)
    assert isinstance(recipe, ModelRecipe)
    recipe = recipe.with_rates(arguments.rates or 1.0)
    if not (arguments.out / "codec.safetensors").is_file():
        print(f"{arguments.out / 'codec.safetensors'} is missing; run `python -m fkv train codec` first", file=sys.stderr)
        return 2
    _start(arguments.work / f"{part}.pt", arguments)
    workers = 1 if device != "cpu" else torch.get_num_threads()
    torch.set_num_threads(torch.get_num_threads() // workers)
    train_model(POCKET, recipe, arguments.work, arguments.out, device, compiled=arguments.compile, init=arguments.init, workers=workers)
    return 0


def _report(part: str, arguments: argparse.Namespace, device: str) -> int:
    from fkv.pocket.report import write_report

    write_report(arguments.out, arguments.work, device, prompts=arguments.prompts or 64)
    return 0


def _compare(part: str, arguments: argparse.Namespace, device: str) -> int:
    from fkv.pocket.choosing import Comparison, compared, table
    from fkv.policies import split

    what = Comparison(arguments.prompts or 80, arguments.noises, arguments.chunks)
    found = compared([Path(folder) for folder in arguments.weights], split(arguments.policies), what, arguments.work, device)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    return 0


def _mean(part: str, arguments: argparse.Namespace, device: str) -> int:
    from fkv.pocket.means import Part, mean

    parts = [Part.of(written) for written in arguments.weights]
    mean(parts, arguments.out)
    print(f"{arguments.out / 'model.safetensors'}: the mean of {', '.join(str(part.folder) for part in parts)}")
    return 0


PARTS = {"codec": _codec, "decoder": _decoder, "model": _model, "report": _report, "compare": _compare, "mean": _mean}
