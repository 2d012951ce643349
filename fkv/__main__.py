"""`python -m fkv COMMAND`: generate, profile, bench, record, figures, doctor, fetch, embed, train. Exit status 0, 2 with one line on bad
arguments, 130 when interrupted."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from fkv.heads import HeadProfile

INTERRUPTED = 130
PROMPT = "a red ball bouncing and a blue star orbiting over green hills"
RESOLUTION = "480p, 720p, 1080p, a smaller one, or rows x columns (default: the model's own)"
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
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def share(text: str) -> float:
    """A number in [0, 1]."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number in [0, 1]; the published one is 0.8")
    return number


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
        command.add_argument("--threads", type=count, help="CPU threads (default: all that may be used)")
        command.add_argument("--resolution", help=RESOLUTION)
        command.add_argument("--decoder", default="", help="decoder of Wan models: taehv (live) or wan-vae (exact, slow) (default: taehv)")
        command.add_argument("--random-weights", action="store_true", help="the true shapes without the weights: for timing and memory")

    generate = add("generate", "generate one video in two lanes, side by side, and measure it")
    common(generate)
    generate.add_argument("--left", default="full:21", help=f"policy of lane A (default: full:21), {POLICY}")
    generate.add_argument("--right", default="forcing-kv", help="policy of lane B (default: forcing-kv)")
    generate.add_argument("--prompt", default=PROMPT, help=f"what to show (default: {PROMPT})")
    generate.add_argument("--seed", type=whole, default=0, help="seed of the noise, the same in both lanes (default: 0)")
    generate.add_argument("--chunks", type=count, default=20, help="chunks of 3 latent frames to generate (default: 20)")
    generate.add_argument("--threshold", type=share, help="head score from which a head is static (default: as the profile says)")
    generate.add_argument("--out", type=film, default="out.mp4", help="the video, lanes side by side with labels (default: out.mp4)")
    generate.add_argument("--json", type=output, help="report: ms, FPS, bytes and PSNR of every chunk, and a summary")
    generate.add_argument("--sheet", type=picture, help="contact sheet of both lanes, a PNG")

    profile = add("profile", "score every attention head and say which are static")
    common(profile)
    profile.add_argument(
        "--prompts", type=count, default=16, help="prompts to measure on; 2 or more give errors and a stability (default: 16)"
    )
    profile.add_argument("--chunks", type=count, default=3, help="chunks measured of each prompt, once the window is full (default: 3)")
    profile.add_argument("--skip-first", type=whole, choices=(1, 3), default=1, help="first key frames left out of the score (default: 1)")
    classes = profile.add_mutually_exclusive_group()
    classes.add_argument("--threshold", type=share, help="static from this score on (default: 0.8, by rank where that empties a class)")
    classes.add_argument("--quota", type=share, help="this share of every layer's heads is static, those with the highest scores")
    profile.add_argument("--sampling-error", action="store_true", help="also measure how far the live, sampled scores lie from these")
    profile.add_argument("--from", dest="source", type=Path, metavar="FILE", help="measure nothing: read a profile, say what is in it")
    profile.add_argument("--published", action="store_true", help="write the format that the released Forcing-KV reads")
    profile.add_argument("--json", type=output, help="where the profile goes (default: heads.json; with --from: nowhere)")

    bench = add("bench", "time policies against each other, interleaved chunk by chunk, with paired ratios")
    common(bench)
    bench.add_argument(
        "--policies",
        default="full:21,forcing-kv",
        help=f"policies separated by commas, the first is the baseline (default: full:21,forcing-kv); each {POLICY}",
    )
    bench.add_argument("--chunks", type=count, default=24, help="chunks per policy, warm-up included (default: 24)")
    bench.add_argument("--prompt", default=PROMPT, help="what to show while timing")
    bench.add_argument("--seed", type=whole, default=0, help="seed of the noise (default: 0)")
    bench.add_argument("--threshold", type=share, help="head score from which a head is static (default: as the profile says)")
    bench.add_argument("--json", type=output, help="every measurement and the figures, with device, versions and commit")
    bench.add_argument(
        "--attention", default="auto", help="attention kernel: auto (the fastest that agrees), sdpa, cudnn, flash, math, ..."
    )
    bench.add_argument("--graphs", action="store_true", help="replay noisy passes as CUDA graphs")
    bench.add_argument("--memory", action="store_true", help="also run each policy alone, in a fresh process, for its peak memory")
    bench.add_argument("--markdown", action="store_true", help="print the figures as a Markdown table")

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


def load(arguments: argparse.Namespace):
    import torch

    from fkv import engine, planner

    dtype = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    return engine.load(
        arguments.model, arguments.device, dtype, threads=arguments.threads or 0, random_weights=arguments.random_weights,
        size=planner.size_of(arguments.resolution), codec=arguments.decoder,
        attention=getattr(arguments, "attention", "auto"), graphs=getattr(arguments, "graphs", False),
    )  # fmt: skip


def run_generate(arguments: argparse.Namespace) -> int:
    from fkv.events import Settings
    from fkv.generate import generate

    settings = Settings(
        prompt=arguments.prompt,
        seed=arguments.seed,
        left=arguments.left,
        right=arguments.right,
        chunks=arguments.chunks,
        threshold=arguments.threshold,
    )
    complete = generate(load(arguments), settings, arguments.out, arguments.json, arguments.sheet)
    return 0 if complete else INTERRUPTED


def run_bench(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fkv import bench, machine
    from fkv.events import Settings
    from fkv.generate import write_json

    settings = Settings(prompt=arguments.prompt, seed=arguments.seed, chunks=arguments.chunks, threshold=arguments.threshold)
    engine = load(arguments)
    with machine.interruptible() as stop, tqdm(total=arguments.chunks, unit="chunk") as bar:
        found = bench.run(engine, bench.split_policies(arguments.policies), settings, lambda chunk: bar.update(), lambda: stop.asked)
    words = bench.words(arguments, parser().parse_args(["bench"]))
    found["command"] = shlex.join(["python", "-m", "fkv", "bench", *words, "--policies", arguments.policies])
    if arguments.memory and not found["interrupted"]:
        bench.alone(found, words, bench.in_a_fresh_process)
    if arguments.json:
        write_json(arguments.json, found)
    print(bench.table(found) if arguments.markdown else bench.sentences(found))
    return INTERRUPTED if found["interrupted"] else 0


def run_profile(arguments: argparse.Namespace) -> int:
    from fkv import profiling
    from fkv.generate import write_text

    complete = True
    if arguments.source:
        profile = read_profile(arguments)
    else:
        profile, complete = measured_profile(arguments)
    path = arguments.json or (None if arguments.source else Path("heads.json"))
    if path:
        write_text(path, (profile.to_published() if arguments.published else profile.to_json()) + "\n")
    print(profiling.told(profile))
    return 0 if complete else INTERRUPTED


def read_profile(arguments: argparse.Namespace) -> HeadProfile:
    """A profile from a file, checked against the model, and how it agrees with the bundled one."""
    from fkv import engine, profiling
    from fkv.heads import HeadProfile
    from fkv.spec import find

    spec = find(arguments.model)
    profile = HeadProfile.from_json(arguments.source.read_text(encoding="utf-8"), spec.geometry)
    if arguments.threshold is not None or arguments.quota is not None:
        profile = profiling.classed(profile, arguments.threshold, arguments.quota)
    bundled = engine.ROOT / spec.heads if spec.heads else None
    if bundled and bundled.is_file():
        print(profiling.compared(profile, HeadProfile.from_json(bundled.read_text(), spec.geometry), "the bundled profile"))
    return profile


def measured_profile(arguments: argparse.Namespace) -> tuple[HeadProfile, bool]:
    """A profile measured under a progress bar, and whether all prompts are in it; Ctrl-C keeps those that are."""
    from dataclasses import replace

    from tqdm import tqdm

    from fkv import machine, profiling

    path = arguments.json or Path("heads.json")
    engine, recipe = load(arguments), profiling.Recipe(arguments.prompts, arguments.chunks, arguments.skip_first)
    with machine.interruptible() as stop, tqdm(unit="chunk") as bar:

        def progress(done: int, due: int) -> None:
            bar.total = due
            bar.update(done - bar.n)

        part = path.with_name(path.name + ".measured")
        profile, complete = profiling.calibrate(engine, recipe, part, progress, lambda: stop.asked)
        profile = profiling.classed(profile, arguments.threshold, arguments.quota)
        if arguments.sampling_error and complete:
            bar.reset()
            found = profiling.sampling_error(engine, min(4, arguments.prompts), progress=progress)
            profile = replace(profile, sampling=found | {"live": profiling.live_cost(engine)})
    return profile, complete


def run_record(arguments: argparse.Namespace) -> int:
    import gzip

    from tqdm import tqdm

    from fkv.record import Recorder
    from fkv.views.trace import to_json

    recorder = Recorder(load(arguments), prompts=arguments.prompts, chunks=arguments.chunks, right=arguments.right)
    with tqdm(total=recorder.total, unit="chunk") as bar:
        recorder.tick = bar.update
        text = to_json(recorder.trace())
    path = Path(arguments.json)
    packed = gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode()
    path.write_bytes(packed)
    print(f"{path}: {len(packed) / 1e6:.2f} MB, prompts: {arguments.prompts}, chunks in two lanes: {arguments.chunks}")
    return 0


def run_doctor(arguments: argparse.Namespace) -> int:
    from fkv import doctor, engine, planner
    from fkv.spec import find

    if arguments.model is None:
        return doctor.report()
    spec, device = find(arguments.model), engine.pick_device(arguments.device)
    return doctor.report(doctor.model(spec, device, size=planner.size_of(arguments.resolution)))


def run_fetch(arguments: argparse.Namespace) -> int:
    from fkv import fetch
    from fkv.spec import find

    left = fetch.fetch(find(arguments.model), text=arguments.text)
    print("\n".join(left) or f"everything {arguments.model} needs is here")
    return 0


def run_embed(arguments: argparse.Namespace) -> int:
    from fkv import fetch, parts
    from fkv.spec import find

    out = arguments.out or parts.BUNDLE
    print(f"{fetch.embed(find(arguments.model), out, arguments.prompts)} prompts stored in {out}")
    return 0


def run_figures(_: argparse.Namespace) -> int:
    from fkv import figures

    print("README.md: table of figures renewed" if figures.write() else "README.md: table of figures is as the files say")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Runs one command and gives its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["train"]:
        from fkv.pocket.train import main as train

        return train(argv[1:])
    arguments = parser().parse_args(argv)
    commands = {
        "generate": run_generate, "bench": run_bench, "profile": run_profile, "record": run_record, "figures": run_figures,
        "doctor": run_doctor, "fetch": run_fetch, "embed": run_embed,
    }  # fmt: skip
    try:
        return commands[arguments.command](arguments)
    except (ValueError, OSError) as error:
        print(f"python -m fkv {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
