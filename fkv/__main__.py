"""`python -m fkv COMMAND`: generate, profile, bench, record, figures, doctor, train. Exit status 0, 2 with one line on bad arguments,
130 when interrupted."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

INTERRUPTED = 130
PROMPT = "a red ball bouncing and a blue star orbiting over green hills"
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
    profile.add_argument("--json", type=output, default="heads.json", help="where the profile goes (default: heads.json)")

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
    add("doctor", "say what is installed, what the machine offers and what will run")
    train = commands.add_parser("train", help="train the pocket model (train --help says how)", add_help=False)
    train.add_argument("rest", nargs=argparse.REMAINDER)
    return top


def load(arguments: argparse.Namespace):
    import torch

    from fkv import engine

    dtype = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    return engine.load(arguments.model, arguments.device, dtype, threads=arguments.threads or 0)


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
    if arguments.json:
        write_json(arguments.json, found)
    print(bench.table(found) if arguments.markdown else bench.sentences(found))
    return INTERRUPTED if found["interrupted"] else 0


def run_profile(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from fkv.generate import write_text
    from fkv.pocket.evaluate import profile_heads

    engine = load(arguments)
    with tqdm(unit="chunk") as bar:

        def progress(done: int, due: int) -> None:
            bar.total = due
            bar.update(done - bar.n)

        profile = profile_heads(engine, arguments.prompts, progress)
    write_text(arguments.json, profile.to_json() + "\n")
    stability = "".join(f", split-half correlation over {name} {value:.3f}" for name, value in profile.stability.items())
    print(f"{100 * profile.share:.0f} % of {profile.layers * profile.heads} heads are static by rule: {profile.rule}{stability}")
    return 0


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


def run_doctor(_: argparse.Namespace) -> int:
    from fkv.doctor import report

    return report()


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
        "doctor": run_doctor,
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
