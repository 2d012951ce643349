"""`python -m fkv train codec|model|decoder|report|all|compare|mean`: makes the pocket model from nothing, or goes on where a run
stopped, and chooses among weights. Until all steps of a part are done, what it has reached is in --work only."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from fkv.flags import Parser

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "pocket"
WORK = Path("runs/pocket")
INTERRUPTED = 130
Stop = Callable[[], bool]


def parser() -> Parser:
    parser = Parser(
        prog="python -m fkv train",
        description="Train the pocket model. A stopped run goes on from its last checkpoint when the same command is given again. Weights "
        "are written into --out when all steps of a part are done (all: of codec, model and decoder), never by a run that was stopped.",
    )
    parser.add_argument(
        "what",
        choices=("codec", "decoder", "model", "report", "all", "compare", "mean"),
        help="codec: autoencoder; model: the diffusion transformer; decoder: the codec's decoder alone, on what the model draws; "
        "report: head profile and evaluation, which model and decoder end with too; all: codec, model, decoder, report; "
        "compare: world metrics of several weights on prompts drawn under other seeds than the report's; "
        "mean: the weighted mean of several weights",
    )
    about = "for compare and mean: folders with model.safetensors and codec.safetensors; for mean FOLDER=SHARE (default: equal shares)"
    parser.add_argument("weights", nargs="*", default=[], metavar="FOLDER", help=about)
    parser.add_argument("--steps", type=int, help="training steps of the chosen part (default: the recipe's)")
    parser.add_argument("--decay", type=int, help="last steps in which the learning rate falls to zero (default: the recipe's)")
    parser.add_argument("--rates", type=float, help="multiply the recipe's learning rates of the model by this (default: 1)")
    parser.add_argument("--passes", type=int, help="chunk forwards per batch of the model (default: the recipe's)")
    parser.add_argument("--seed", type=int, help="seed of data and noise (default: the recipe's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    about = "after model, decoder or all, leave the evaluation out, which takes about half an hour on two cores"
    parser.add_argument("--no-report", action="store_true", help=about)
    parser.add_argument("--compile", action="store_true", help="fuse the training pass with torch.compile")
    about = "checkpoints and logs; those of all go into its folder all (default: runs/pocket)"
    parser.add_argument("--work", type=Path, default=WORK, help=about)
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
    """Exit status 0, or with one line 2 on bad arguments and 130 when stopped."""
    arguments = parser().parse_intermixed_args(argv)
    if refused := _refusal(arguments):
        print(refused, file=sys.stderr)
        return 2
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**34))
    try:
        _run(arguments)
        return 0
    except (ValueError, OSError) as error:
        print(f"python -m fkv train {arguments.what}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        again = f"{stopped}; the same command{' without --fresh' if arguments.fresh else ''} goes on"
        print(again if str(stopped) else "interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> None:
    """Raises ValueError or OSError on what cannot be used, before any work, and run.Stopped where a training was asked to stop."""
    import torch

    from fkv import engine, machine

    device = str(engine.pick_device(arguments.device))
    _set_threads(arguments.threads)
    threads = torch.get_num_threads()
    for flag in {"compare": ("work",), "mean": ("out",)}.get(arguments.what, ("work", "out")):
        _check_folder(flag, getattr(arguments, flag))
    if arguments.json:
        _check_folder("json", arguments.json.parent)
    if arguments.what in OTHERS:
        return OTHERS[arguments.what](arguments, device)
    with machine.interruptible() as asked:
        TRAININGS[arguments.what](arguments, device, lambda: asked.asked)
    torch.set_num_threads(threads)  # a model's training shares them among its workers
    if arguments.what == "codec" or arguments.no_report:
        return print(_afterwards(arguments))
    if asked.asked:
        raise KeyboardInterrupt
    return _report(_placed(arguments, work=arguments.work / "all") if arguments.what == "all" else arguments, device)


def _set_threads(threads: int | None) -> None:
    """Sets how many threads torch takes: so many, else as OMP_NUM_THREADS says, else all cores; also for models loaded to be evaluated."""
    import torch

    from fkv.engine import affordable, cores

    if affordable(threads or 0) or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or cores())
        os.environ["OMP_NUM_THREADS"] = str(threads or cores())


def _check_folder(flag: str, folder: Path) -> None:
    """Makes a folder. Raises ValueError in a sentence where files cannot be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return
    except OSError as error:
        raise ValueError(f"--{flag} {folder}: cannot write there ({error.strerror}); name a folder that can be written") from None


def _afterwards(arguments: argparse.Namespace) -> str:
    """What to do with what a part has left, in a line."""
    places = [f"--{flag}={path}" for flag, path, usual in (("out", arguments.out, ASSETS), ("work", arguments.work, WORK)) if path != usual]
    model, report = (shlex.join(["python", "-m", "fkv", "train", part, *places]) for part in ("model", "report"))
    first = f"train the model on this codec with `{model}`, then " if arguments.what == "codec" else ""
    return f"{arguments.out}: weights written; {first}evaluate them with `{report}`"


def _refusal(arguments: argparse.Namespace) -> str:
    """What is wrong with the arguments, in a sentence; empty where nothing is."""
    for name, least in {"steps": 1, "decay": 0, "passes": 1, "threads": 1, "prompts": 1, "noises": 1, "chunks": 2}.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            return f"--{name} {value} is too small; use {least} or more"
    if arguments.seed is not None and not 0 <= arguments.seed < 2**63:
        return f"--seed {arguments.seed} is outside [0, 2^63); use a whole number in it, for instance 0"
    if arguments.rates is not None and not 0 < arguments.rates <= 10:
        return f"--rates {arguments.rates:g} is outside (0, 10]; use 1 for the recipe's rates, 0.5 for half of them"
    if arguments.keep is not None and not 0 <= arguments.keep <= 1:
        return f"--keep {arguments.keep:g} is no share; use 0 (the run alone) to 1 (the weights it began from)"
    if arguments.keep is not None and not arguments.init:
        return f"--keep {arguments.keep:g} is a share of the weights a run began from; name them with --init"
    if arguments.json and arguments.json.is_dir():
        return f"--json {arguments.json} is a directory; name a file"
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


def _missing(path: Path, part: str) -> FileNotFoundError:
    return FileNotFoundError(f"{path} is missing; run `python -m fkv train {part}` first")


def _codec(arguments: argparse.Namespace, device: str, stop: Stop) -> None:
    from fkv.pocket.report import write_codec_report
    from fkv.pocket.train_codec import CodecRecipe, train_codec

    recipe = _recipe(CodecRecipe(), arguments)
    assert isinstance(recipe, CodecRecipe)
    _start(arguments.work / "codec.pt", arguments)
    psnr = train_codec(recipe, arguments.work, arguments.out, device, stop=stop)
    print(f"held-out PSNR: {psnr:.2f} dB; see {write_codec_report(arguments.out, arguments.work, recipe, psnr)}")


def _decoder(arguments: argparse.Namespace, device: str, stop: Stop) -> None:
    from fkv.pocket.train_decoder import DecoderRecipe, train_decoder
    from fkv.spec import POCKET

    recipe = _recipe(DecoderRecipe(), arguments)
    assert isinstance(recipe, DecoderRecipe)
    for part in ("codec", "model"):
        if not (arguments.out / f"{part}.safetensors").is_file():
            raise _missing(arguments.out / f"{part}.safetensors", part)
    _start(arguments.work / "decoder.pt", arguments)
    before, after = train_decoder(POCKET, recipe, arguments.work, arguments.out, device, stop=stop)
    print(f"held-out PSNR of what the model draws: {before:.2f} dB before, {after:.2f} dB after")


def _model(arguments: argparse.Namespace, device: str, stop: Stop) -> None:
    import torch

    from fkv.pocket.recipe import ModelRecipe
    from fkv.pocket.train_model import train_model
    from fkv.spec import POCKET

    recipe = _recipe(ModelRecipe().continued() if arguments.init else ModelRecipe(), arguments)
    assert isinstance(recipe, ModelRecipe)
    recipe, work, out = recipe.with_rates(arguments.rates or 1.0), arguments.work, arguments.out
    if not (out / "codec.safetensors").is_file():
        raise _missing(out / "codec.safetensors", "codec")
    _start(work / "model.pt", arguments)
    workers = 1 if device != "cpu" else torch.get_num_threads()
    torch.set_num_threads(torch.get_num_threads() // workers)
    train_model(POCKET, recipe, work, out, device, compiled=arguments.compile, init=arguments.init, workers=workers, stop=stop)


def _all(arguments: argparse.Namespace, device: str, stop: Stop) -> None:
    """Codec, model and decoder in a folder of their own, for weights of different codecs do not go together; then all into --out."""
    made = arguments.work / "all"
    for train in (_codec, _model, _decoder):
        train(_placed(arguments, work=made, out=made), device, stop)
    for name in ("codec.safetensors", "model.safetensors"):
        part = shutil.copyfile(made / name, arguments.out / f"{name}.part")
        part.replace(arguments.out / name)


def _placed(arguments: argparse.Namespace, **places: Path) -> argparse.Namespace:
    """The same arguments with other folders."""
    return argparse.Namespace(**{**vars(arguments), **places})


def _report(arguments: argparse.Namespace, device: str) -> None:
    from fkv.pocket.report import write_report

    write_report(arguments.out, arguments.work, device, prompts=arguments.prompts or 64)


def _compare(arguments: argparse.Namespace, device: str) -> None:
    from fkv.pocket.choosing import Comparison, compared, table
    from fkv.policies import split

    what = Comparison(arguments.prompts or 80, arguments.noises, arguments.chunks)
    found = compared([Path(folder) for folder in arguments.weights], split(arguments.policies), what, arguments.work, device)
    print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _mean(arguments: argparse.Namespace, device: str) -> None:
    from fkv.pocket.means import Part, mean

    parts = [Part.of(written) for written in arguments.weights]
    mean(parts, arguments.out)
    print(f"{arguments.out / 'model.safetensors'}: the mean of {', '.join(str(part.folder) for part in parts)}")


TRAININGS = {"codec": _codec, "model": _model, "decoder": _decoder, "all": _all}
OTHERS = {"report": _report, "compare": _compare, "mean": _mean}
