"""`python -m fkv COMMAND`: generate, profile, bench, record, figures, doctor, fetch, embed, train. Exit status 0, 2 with one line on bad
arguments, 130 when interrupted."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fkv.flags import apart, parser

if TYPE_CHECKING:
    from fkv.codec import Codec
    from fkv.engine import Engine
    from fkv.heads import HeadProfile
    from fkv.spec import ModelSpec

INTERRUPTED = 130


def load(arguments: argparse.Namespace, heads: HeadProfile | None = None) -> Engine:
    import torch

    from fkv import engine, planner

    dtype = None if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    return engine.load(
        arguments.model, arguments.device, dtype, threads=arguments.threads or 0, random_weights=arguments.random_weights,
        size=planner.size_of(arguments.resolution), codec=arguments.decoder,
        attention=arguments.attention, graphs=arguments.graphs, fp8=arguments.fp8, heads=heads,
    )  # fmt: skip


def brought(path: Path, spec: ModelSpec) -> HeadProfile:
    """The head profile in a file, checked against a model. Raises ValueError naming the file."""
    from fkv.heads import HeadProfile

    try:
        return HeadProfile.from_json(path.read_text(encoding="utf-8"), spec.geometry)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def planned(arguments: argparse.Namespace, lanes: Sequence[str], chunks: int, *, fewer: bool = False) -> Engine:
    """The engine, with the head profile of --heads, where these lanes fit its device; else raises ValueError with the nearest run that
    does, with `fewer` also of one lane.
    """
    from fkv.engine import check
    from fkv.spec import find

    engine = load(arguments, brought(arguments.heads, find(arguments.model)) if arguments.heads else None)
    check(engine, lanes, chunks, fewer=fewer)
    return engine


def usual(arguments: argparse.Namespace) -> tuple[str, str]:
    """The spellings of both lanes' policies where none are asked for: the cache that the model was trained with, and a compressed one."""
    from fkv import advice
    from fkv.spec import find

    spec = find(arguments.model)
    return advice.trained(spec), "forcing-kv" if arguments.heads else advice.compressed(spec)


def run_generate(arguments: argparse.Namespace) -> int:
    from fkv.events import Settings
    from fkv.generate import generate

    apart(out=arguments.out, json=arguments.json, sheet=arguments.sheet)
    settings = Settings(
        prompt=arguments.prompt,
        seed=arguments.seed,
        left=usual(arguments)[0] if arguments.left is None else arguments.left,
        right=usual(arguments)[1] if arguments.right is None else arguments.right,
        chunks=arguments.chunks,
        threshold=arguments.threshold,
    )
    engine = planned(arguments, (settings.left, settings.right), settings.chunks)
    complete = generate(engine, settings, arguments.out, arguments.json, arguments.sheet, exporter(arguments, engine))
    return 0 if complete else INTERRUPTED


def exporter(arguments: argparse.Namespace, engine: Engine) -> Callable[[], Codec] | None:
    """What opens the decoder for finished videos, where the row has one of its own and none was asked for."""
    from functools import partial

    from fkv import redraw

    return None if arguments.decoder or not redraw.decoder_of(engine) else partial(redraw.opened, engine)


def run_bench(arguments: argparse.Namespace) -> int:
    from functools import partial

    from tqdm import tqdm

    from fkv import bench, machine, policies
    from fkv.events import Settings
    from fkv.generate import write_json, write_text
    from fkv.views import report

    beside = arguments.json.with_suffix(".md") if arguments.json and arguments.markdown else None
    apart(json=arguments.json, markdown=beside)
    settings = Settings(prompt=arguments.prompt, seed=arguments.seed, chunks=arguments.chunks, threshold=arguments.threshold)
    asked = ",".join(usual(arguments)) if arguments.policies is None else arguments.policies
    kinds = policies.split(asked)
    engine = planned(arguments, kinds, settings.chunks, fewer=True)
    with machine.interruptible() as stop:
        how = {"in_line": arguments.in_line, "apart": arguments.pieces}
        found = bench.run(engine, kinds, settings, partial(tqdm, unit="chunk"), lambda: stop.asked, **how)
    words = bench.words(arguments, parser().parse_args(["bench"]))
    extra = ["--pieces"] if arguments.pieces else []
    found["command"] = shlex.join(["python", "-m", "fkv", "bench", *words, *extra, "--policies", asked])
    if arguments.memory and not found["interrupted"]:
        bench.alone(found, words, bench.in_a_fresh_process)
    told = (report.tally if not found["counted"] else report.table if arguments.markdown else report.sentences)(found)
    if arguments.json:
        write_json(arguments.json, found)
    if beside:
        write_text(beside, told + "\n")
    print(told)
    return INTERRUPTED if found["interrupted"] else 0


def run_profile(arguments: argparse.Namespace) -> int:
    from fkv import profiling
    from fkv.generate import write_text

    complete = True
    if arguments.source:
        profile = read_profile(arguments)
    else:
        profile, complete = measured_profile(arguments)
    if not complete:
        print(f"interrupted: {profile.recipe['prompts']} of {arguments.prompts} prompts measured; the same command goes on from there")
    path = arguments.json or (None if arguments.source else Path("heads.json"))
    if path:
        write_text(path, (profile.to_published() if arguments.published else profile.to_json()) + "\n")
    print(profiling.told(profile))
    return 0 if complete else INTERRUPTED


def read_profile(arguments: argparse.Namespace) -> HeadProfile:
    """A profile from a file, checked against the model, and how it agrees with the bundled one."""
    from fkv import engine, profiling
    from fkv.spec import find

    spec = find(arguments.model)
    profile = brought(arguments.source, spec)
    if arguments.threshold is not None or arguments.quota is not None:
        profile = profiling.classed(profile, arguments.threshold, arguments.quota)
    bundled = engine.ROOT / spec.heads if spec.heads else None
    if bundled and bundled.is_file():
        print(profiling.compared(profile, brought(bundled, spec), "the bundled profile"))
    return profile


def measured_profile(arguments: argparse.Namespace) -> tuple[HeadProfile, bool]:
    """A profile measured under a progress bar, and whether all prompts are in it; Ctrl-C keeps those that are."""
    from dataclasses import replace

    from tqdm import tqdm

    from fkv import machine, profiling

    path = arguments.json or Path("heads.json")
    engine, recipe = load(arguments), profiling.Recipe(arguments.prompts, arguments.chunks, arguments.skip_first)
    with machine.interruptible() as stop, tqdm(unit="chunk", delay=1e-3) as bar:  # drawn when something is measured

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
    from fkv import doctor, engine, planner, policies
    from fkv.spec import find

    if arguments.model is None:
        given = [name for name in ("resolution", "policies", "decoder", "fp8") if getattr(arguments, name)]
        if given:
            raise ValueError(f"--{given[0]} is of one model; name it with --model")
        return doctor.report()
    spec, device = find(arguments.model), engine.pick_device(arguments.device)
    lanes = policies.split(arguments.policies) if arguments.policies else ()
    size, how = planner.size_of(arguments.resolution), {"decoder": arguments.decoder, "quantised": arguments.fp8}
    return doctor.report(doctor.model(spec, device, lanes=lanes, size=size, **how))


def run_fetch(arguments: argparse.Namespace) -> int:
    from fkv import fetch
    from fkv.spec import find

    left = fetch.fetch(find(arguments.model), text=arguments.text)
    print("\n".join(left) or f"everything {arguments.model} needs is here")
    return 0


def run_embed(arguments: argparse.Namespace) -> int:
    from fkv import fetch, parts
    from fkv.spec import find

    spec, out = find(arguments.model), arguments.out or parts.BUNDLE
    if not spec.repo:
        raise ValueError(f"{spec.title} reads prompts without an encoder; there is nothing to store")
    print(f"{fetch.embed(spec, out, arguments.prompts)} prompts stored in {out}")
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
