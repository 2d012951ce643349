"""The command line's words: commands, flags, and what values they take. Bad ones cost one line and status 2."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NoReturn

PROMPT = "a red ball bouncing and a blue star orbiting over green hills"
DECODER = "decoder of Wan models: taehv or wan-vae (exact, slow) (default: taehv live)"
RESOLUTION = "480p, 720p, 1080p, a smaller one, or rows x columns (default: the model's own)"
HEADS = "head profile to take the roles of heads from, of `profile` or of Forcing-KV (default: the bundled one)"
POLICY = "written name, name:key=value,... or with values in order: full, full:21, window:sink=3,recent=9, forcing-kv:sink=1"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def count(text: str) -> int:
    """A whole number of 1 or more."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; use 1 or more") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; use 1 or more")
    return number


def whole(text: str) -> int:
    """A whole number of 0 or more."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number; use 0 or more") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is too small; use 0 or more")
    return number


def share(text: str) -> float:
    """A number in [0, 1]."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in [0, 1]; the published one is 0.8")
    return number


def readable(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text} is no file; name one that is there")
    return path


def output(text: str) -> Path:
    """A file that can be written. Raises ArgumentTypeError before any work is done for it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            return path
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"cannot write into {path.parent}: {error.strerror}; choose a directory that can be written"
        ) from None


def film(text: str) -> Path:
    if not text.endswith(".mp4"):
        raise argparse.ArgumentTypeError(f"{text!r} is no MP4 file name; let it end in .mp4")
    return output(text)


def picture(text: str) -> Path:
    if not text.endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text!r} is no PNG file name; let it end in .png")
    return output(text)


def apart(**paths: Path | None) -> None:
    """Raises ValueError where two outputs are one file, whose second would take the place of the first."""
    seen: dict[Path, str] = {}
    for name, path in paths.items():
        if path is not None and (other := seen.setdefault(path.resolve(), name)) != name:
            raise ValueError(f"--{other} and --{name} are both {path}; give each a file of its own")


def parser() -> Parser:
    top = Parser(
        prog="python -m fkv", description="The live laboratory for KV-cache compression in video diffusion, from the command line."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, help: str) -> Parser:
        return commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")

    def common(command: Parser) -> None:
        command.add_argument("--model", default="pocket", help="model to run (default: pocket)")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
        command.add_argument(
            "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="default: bfloat16 on CUDA, else float32"
        )
        command.add_argument("--threads", type=count, help="CPU threads (default: OMP_NUM_THREADS, or all cores but one)")
        command.add_argument("--resolution", help=RESOLUTION)
        command.add_argument("--decoder", default="", help=DECODER)
        command.add_argument("--fp8", action="store_true", help="large products in 8-bit floats, and what that changes is measured")
        command.add_argument(
            "--attention", default="auto", help="attention kernel: auto (the fastest that agrees), sdpa, cudnn, flash, math, ..."
        )
        command.add_argument("--graphs", action="store_true", help="replay passes as CUDA graphs")
        command.add_argument("--random-weights", action="store_true", help="the true shapes without the weights: for timing and memory")

    generate = add("generate", "generate one video in two lanes, side by side, and measure it")
    common(generate)
    generate.add_argument("--left", help=f"policy of lane A (default: the cache the model was trained with), {POLICY}")
    generate.add_argument("--right", help="policy of lane B (default: forcing-kv, or window for a model without a head profile)")
    generate.add_argument("--prompt", default=PROMPT, help=f"what to show (default: {PROMPT})")
    generate.add_argument("--seed", type=whole, default=0, help="seed of the noise, the same in both lanes (default: 0)")
    generate.add_argument("--chunks", type=count, default=20, help="chunks of 3 latent frames to generate (default: 20)")
    generate.add_argument("--threshold", type=share, help="head score from which a head is static (default: as the profile says)")
    generate.add_argument("--heads", type=readable, metavar="FILE", help=HEADS)
    about = "the video, lanes side by side with labels; of Wan models drawn by the Wan VAE where it is here (default: out.mp4)"
    generate.add_argument("--out", type=film, default="out.mp4", help=about)
    generate.add_argument("--json", type=output, help="report: ms, FPS, bytes and PSNR of every chunk, and a summary")
    generate.add_argument("--sheet", type=picture, help="contact sheet of both lanes, a PNG")

    profile = add("profile", "score every attention head and say which are static")
    common(profile)
    profile.add_argument(
        "--prompts", type=count, default=16, help="prompts to measure on; 2 or more give errors and a stability (default: 16)"
    )
    profile.add_argument("--chunks", type=count, default=3, help="chunks measured of each prompt, once the window is full (default: 3)")
    profile.add_argument("--skip-first", type=count, choices=(1, 3), default=1, help="first key frames left out of the score (default: 1)")
    classes = profile.add_mutually_exclusive_group()
    classes.add_argument("--threshold", type=share, help="static from this score on (default: 0.8, by rank where that empties a class)")
    classes.add_argument("--quota", type=share, help="this share of every layer's heads is static, those with the highest scores")
    profile.add_argument("--sampling-error", action="store_true", help="also measure how far the live, sampled scores lie from these")
    profile.add_argument("--from", dest="source", type=readable, metavar="FILE", help="measure nothing: read a profile, say what is in it")
    profile.add_argument("--published", action="store_true", help="write the format that the released Forcing-KV reads")
    profile.add_argument("--json", type=output, help="where the profile goes (default: heads.json; with --from: nowhere)")

    bench = add("bench", "time policies against each other, interleaved chunk by chunk, with paired ratios")
    common(bench)
    bench.add_argument(
        "--policies",
        help=f"policies separated by commas, the first is the baseline (default: those of generate's lanes); each {POLICY}",
    )
    bench.add_argument("--chunks", type=count, default=24, help="chunks per policy, warm-up included (default: 24)")
    bench.add_argument("--prompt", default=PROMPT, help="what to show while timing")
    bench.add_argument("--seed", type=whole, default=0, help="seed of the noise (default: 0)")
    bench.add_argument("--threshold", type=share, help="head score from which a head is static (default: as the profile says)")
    bench.add_argument("--heads", type=readable, metavar="FILE", help=HEADS)
    bench.add_argument("--json", type=output, help="every measurement and the figures, with device, versions and commit")
    bench.add_argument("--in-line", action="store_true", help="decode and encode before the clean pass, not beside it: phases timed alone")
    bench.add_argument("--pieces", action="store_true", help="also time each piece of a noisy pass alone, beside the device's best rate")
    bench.add_argument("--memory", action="store_true", help="also run each policy alone, in a fresh process, for its peak memory")
    bench.add_argument("--markdown", action="store_true", help="print the figures as a Markdown table, and write it beside --json")

    record = add("record", "record one run with everything the lesson shows, so that it needs no model")
    common(record)
    record.add_argument("--prompts", type=count, default=6, help="prompts to compare roles on (default: 6)")
    record.add_argument("--chunks", type=count, default=20, help="chunks of the timed run (default: 20)")
    record.add_argument("--right", default="forcing-kv", help="policy of lane B (default: forcing-kv)")
    record.add_argument(
        "--json", type=output, default="assets/lesson/recorded.json.gz", help="where it goes (default: assets/lesson/recorded.json.gz)"
    )

    add("figures", "write the README's table of figures from the measurement files in assets")
    doctor = add("doctor", "say what is installed, what the machine offers and what will run, or what one model would need")
    doctor.add_argument("--model", help="a model to look into before anything of it is fetched")
    doctor.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    doctor.add_argument("--resolution", help=RESOLUTION)
    doctor.add_argument("--policies", help=f"lanes to plan, separated by commas (default: as trained, and forcing-kv); each {POLICY}")
    doctor.add_argument("--decoder", default="", help=DECODER)
    doctor.add_argument("--fp8", action="store_true", help="plan the large products in 8-bit floats")
    fetch = add("fetch", "download what is missing of a published model")
    fetch.add_argument("--model", required=True, help="the model whose files are to be fetched")
    fetch.add_argument("--text", action="store_true", help="the text encoder too, which is larger than all the rest")
    embed = add("embed", "store the embeddings of example prompts, which then need no text encoder")
    embed.add_argument("--model", required=True, help="a model with the text encoder to use")
    embed.add_argument("--prompts", type=Path, help="a file with one prompt a line (default: the written examples)")
    embed.add_argument("--out", type=output, help="where they go (default: assets/prompts/umt5.safetensors, which every run reads)")
    train = commands.add_parser("train", help="train the pocket model (train --help says how)", add_help=False)
    train.add_argument("rest", nargs=argparse.REMAINDER)
    return top
