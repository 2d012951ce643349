"""`python -m fkv bench`: policies against each other, chunk by chunk in turn, from the same prompt and noise.

All lanes live in one process on one engine. In each chunk the lane that begins moves on by one, so that drift and order fall on all alike.
Chunks count once no lane is warming up; ratios are paired within a chunk.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fkv import doctor, machine, meter, pieces, policies, roofline
from fkv.cache import Policy
from fkv.delivery import InLine
from fkv.engine import Engine, model_facts
from fkv.events import Sample, Settings
from fkv.fast import SlotCache
from fkv.generate import row
from fkv.lane import FIRST_CHUNKS, LaneRun
from fkv.stream import seeded_noise
from fkv.views import encode
from fkv.wishes import policy_of

AGAIN = ("device", "dtype", "threads", "resolution", "decoder", "attention", "prompt", "seed", "chunks", "threshold", "heads")
FORMULA = (
    "stored = 2 (keys, values) x head size x bytes per number x sum over layers and head groups of heads x kept tokens; read adds the "
    "chunk being drawn; allocated adds the room for it in every layer, and positions"
)
ABOUT = (
    "Times in ms, sizes in bytes. Spreads are median, 10th and 90th percentile over n chunks; 'interval' is the 95 % bootstrap interval "
    "of the median. 'faster' is the first policy's time over this one's, paired chunk by chunk. End to end includes decoding and JPEG "
    "encoding, diffusion does not; where they run beside the clean pass, 'hidden' is what of their time cost none. Chunks count from 0. "
    "MFU is the operations of a chunk over its diffusion time, as a share of the best "
    "matrix product measured on the device just then (with FP8, projections as a share of the best one in FP8); least_ms is what "
    "operations and bytes would take at the device's best rates. Peak memory is that of a process that runs one policy alone, on CUDA once "
    "the model is loaded. 'pieces' are the parts of a noisy pass, each timed alone; 'merging_ms' is what their products and norms save on "
    "twice the rows against two calls. 'load' is what the NVIDIA driver said each second while the chunks were made."
)


def chosen(engine: Engine, spellings: Sequence[str], settings: Settings) -> list[Policy]:
    """The policies to compare. Raises ValueError if one is given twice or cannot run."""
    found = [policy_of(engine, Settings(left=spelling, threshold=settings.threshold), "A") for spelling in spellings]
    if not found:
        raise ValueError("0 policies cannot be compared; name one or more, for instance full:21,forcing-kv")
    for place, policy in enumerate(found):
        if policy in found[:place]:
            raise ValueError(f"policy {spellings[place]!r} is given twice; name each once")
    return found


def run(
    engine: Engine,
    spellings: Sequence[str],
    settings: Settings,
    over: Callable[[range], Iterable[int]] = iter,
    stop: Callable[[], bool] = lambda: False,
    *,
    in_line: bool = False,
    apart: bool = False,
) -> dict[str, Any]:
    """Generates `settings.chunks` chunks under every policy and gives the report. `over` goes through the chunks, under a progress bar
    for instance; `stop` is asked before each. With `in_line` nothing runs beside a clean pass, so that each phase is timed alone; with
    `apart` each piece of a pass is timed alone at the end.

    Raises ValueError, before the first chunk, for policies or a prompt that cannot run and for chunks that would all be warm-up.
    """
    kinds = chosen(engine, spellings, settings)
    if apart and (why := pieces.refusal(engine.spec, kinds)):
        raise ValueError(why)
    text = engine.text.encode(settings.prompt, settings.seed).embedding
    noise = seeded_noise(settings.seed, engine.spec, 1, engine.device, engine.dtype)
    meter.forget_peak(engine.device)
    with engine.lock:
        lanes = [LaneRun("A", engine, text, policy, noise, encode, in_line=in_line) for policy in kinds]
    if settings.chunks < (least := least_chunks(lanes)):
        raise ValueError(f"{settings.chunks} chunks are all warm-up while caches fill; use --chunks {least} or more")
    samples: list[list[Sample]] = [[] for _ in lanes]
    with machine.Load(engine.device) as load:
        for chunk in over(range(settings.chunks)):
            if stop():
                break
            for turn in range(len(lanes)):
                place = (chunk + turn) % len(lanes)
                with engine.lock:
                    frames = lanes[place].step()
                    samples[place].append(lanes[place].sample(frames, 0.0))
    peak = meter.peak_bytes(engine.device)
    rows = list(zip(*samples))
    with engine.lock:
        rates = measured(engine) if counted(rows) else None
    found = {**report(engine, settings, kinds, rows, rates), "peak_bytes": peak, "load": load.told}
    apart = apart and rates is not None and not found["interrupted"]
    for entry, lane in zip(found["policies"], lanes):
        entry["graphs"] = replays(lane)
        if apart and rates is not None:
            with engine.lock:
                entry["pieces"] = pieces.measured(engine, lane, rates)
    if apart:
        with engine.lock:
            found["merging_ms"] = pieces.merging(engine)
    return found


def least_chunks(lanes: Sequence[LaneRun]) -> int:
    """So many chunks that one is sure to count in every lane, from the policies' closed formulas; no lane is re-cached meanwhile. Where
    passes are recorded, one chunk more goes by before that, and one in which they are; in line a third, as a clean pass is a part of the
    next step there.
    """
    full = next(chunk for chunk in itertools.count(FIRST_CHUNKS) if not any(lane.filling(chunk, past(lane, chunk)) for lane in lanes))
    recorded = [2 + isinstance(lane.deliver, InLine) for lane in lanes if replays(lane) is not None]
    return full + 1 + max(recorded, default=0)


def past(lane: LaneRun, chunk: int) -> int:
    """Frames' worth of tokens that the fullest head group of a lane is to hold after so many chunks, rounded up."""
    geometry = lane.engine.spec.geometry
    kept = [tokens for layer in range(geometry.layers) for _, tokens in lane.policy.expected(layer, chunk, geometry)]
    return math.ceil(max(kept, default=0) / geometry.tokens)


def counted(rows: Sequence[Sequence[Sample]]) -> list[Sequence[Sample]]:
    """The chunks in which no lane is warming up."""
    return [samples for samples in rows if not any(sample.warmup for sample in samples)]


def replays(lane: LaneRun) -> dict[str, Any] | None:
    """How many passes of a lane were replayed, and why no more, if recording failed; None where none was asked for."""
    recordings = lane.stream.cache.recordings if isinstance(lane.stream.cache, SlotCache) else None
    return None if recordings is None else {"replayed": recordings.replayed, "refused": recordings.refused}


def measured(engine: Engine) -> roofline.Rates:
    """What the engine's device can do in the engine's dtype, and in 8-bit floats where its projections are."""
    place, quantise = (engine.device, engine.dtype), engine.model.quantise
    projections = doctor.matrix_rate(*place, quantise=quantise) if quantise else 0.0
    return roofline.Rates(1e12 * doctor.matrix_rate(*place), roofline.bandwidth(engine.device), 1e12 * projections)


def report(
    engine: Engine,
    settings: Settings,
    kinds: Sequence[Policy],
    rows: Sequence[Sequence[Sample]],
    rates: roofline.Rates | None = None,
) -> dict[str, Any]:
    """Rows of one sample per policy, one row per chunk, as medians, pairs and the measurements themselves. Where no row counts, a policy
    has its name and no figures.
    """
    counting = counted(rows)
    return {
        "about": ABOUT,
        "interrupted": len(rows) < settings.chunks,
        "environment": machine.environment(engine),
        "model": asdict(model_facts(engine)),
        "prompt": settings.prompt,
        "seed": settings.seed,
        "chunks": len(rows),
        "asked": settings.chunks,
        "counted": [samples[0].chunk for samples in counting],
        "formula": FORMULA,
        "rates": asdict(rates) if rates else None,
        "policies": [
            {
                "policy": policies.spelling(policy),
                "label": policies.label(policy),
                **(figures(place, counting) if counting else {}),
                **(against(engine, policy, place, counting, rates) if counting and rates else {}),
                "peak_bytes": None,
            }
            for place, policy in enumerate(kinds)
        ],
        "samples": [{**row(sample), "lane": place} for samples in rows for place, sample in enumerate(samples)],
    }


def figures(place: int, counted: Sequence[Sequence[Sample]]) -> dict[str, Any]:
    """One policy's medians, bytes after the last chunk, and how it compares with the first policy."""
    own, first = [samples[place] for samples in counted], [samples[0] for samples in counted]
    times: dict[str, Callable[[Sample], float]] = {
        "end_to_end": lambda sample: sample.ms.end_to_end,
        "diffusion": lambda sample: sample.ms.diffusion,
        "noisy": lambda sample: sum(sample.ms.noisy),
        "clean": lambda sample: sample.ms.clean,
        "decode": lambda sample: sample.ms.decode,
        "encode": lambda sample: sample.ms.encode,
        "hidden": lambda sample: sample.ms.hidden,
    }
    last, base = own[-1], first[-1]
    return {
        "ms": {name: asdict(meter.spread([time(sample) for sample in own])) for name, time in times.items()},
        "fps_end_to_end": asdict(meter.spread([sample.fps_end_to_end for sample in own])),
        "fps_diffusion": asdict(meter.spread([sample.fps_diffusion for sample in own])),
        "past_frames": last.past,
        "bytes": {"stored": last.bytes_stored, "read": last.bytes_read, "allocated": last.bytes_allocated, "expected": last.bytes_expected},
        "kept": last.bytes_stored / base.bytes_stored if base.bytes_stored else None,
        "faster": {
            name: faster([times[name](sample) for sample in first], [times[name](sample) for sample in own])
            for name in ("end_to_end", "diffusion")
        },
        "memory_growth_bytes": last.memory_bytes - own[0].memory_bytes,
    }


def against(engine: Engine, policy: Policy, place: int, counted: Sequence[Sequence[Sample]], rates: roofline.Rates) -> dict[str, Any]:
    """One policy's counted chunks against what the device can do: operations a chunk, share of the best rate, least time."""
    own = [samples[place] for samples in counted]
    works = [roofline.work(engine.spec, policy, sample.chunk, engine.dtype.itemsize) for sample in own]
    shares = [roofline.compute_ms(work, rates) / sample.ms.diffusion for work, sample in zip(works, own)]
    return {
        "operations": {**asdict(works[-1]), "all": works[-1].operations},
        "mfu": asdict(meter.spread(shares)),
        "least_ms": roofline.least_ms(works[-1], rates),
    }


def alone(found: dict[str, Any], command: Sequence[str], run: Callable[[Sequence[str]], int]) -> None:
    """Adds every policy's peak memory to a report: `run` is asked to measure one policy with `command`, in a fresh process, and gives the
    peak in bytes.
    """
    for entry in found["policies"]:
        entry["peak_bytes"] = run([*command, "--policies", entry["policy"]])


def words(arguments: Namespace, usual: Namespace) -> list[str]:
    """The words of a bench that are not as they are when left out, but for its policies and where its report goes."""
    names = [name for name in AGAIN if getattr(arguments, name) != getattr(usual, name)]
    given = [word for name in names for word in (f"--{name}", str(getattr(arguments, name)))]
    flags = [f"--{name.replace('_', '-')}" for name in ("random_weights", "graphs", "fp8", "in_line") if getattr(arguments, name)]
    return ["--model", arguments.model, *given, *flags]


def in_a_fresh_process(command: Sequence[str]) -> int:
    """Peak memory in bytes of `python -m fkv bench` with these arguments. Raises ValueError with its words where it fails."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "report.json")
        words = [sys.executable, "-m", "fkv", "bench", *command, "--json", str(path)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"measuring memory with {' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}")
        return int(json.loads(path.read_text())["peak_bytes"])


def faster(first: Sequence[float], own: Sequence[float]) -> dict[str, Any]:
    """How many times faster `own` is, paired."""
    ratios = [a / b for a, b in zip(first, own)]
    return {**asdict(meter.spread(ratios)), "interval": list(meter.interval(ratios))}
