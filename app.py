"""Entry for a laptop and for a Space: `python app.py`. Safe to import; nothing starts until it is run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fkv.flags import HEADS, Parser, readable
from fkv.spec import MODELS, POCKET, ModelSpec, find

if TYPE_CHECKING:
    from fkv.events import ModelFacts, ProfileFacts
    from fkv.ui import Backend

ADDRESS, PORT, SEATS, CHUNKS = "127.0.0.1", 7860, 2, 360
PORTS = 65535


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; host and port follow GRADIO_SERVER_NAME and GRADIO_SERVER_PORT where they are set and no flag is."""
    parser = Parser(prog="app.py", description="The live page: two lanes, one with a compressed KV cache.")
    host, port = os.environ.get("GRADIO_SERVER_NAME", ADDRESS), os.environ.get("GRADIO_SERVER_PORT", str(PORT))
    parser.add_argument("--host", default=host, help=f"address to listen on (default {host}; 0.0.0.0 for every interface)")
    parser.add_argument("--port", type=int, default=port, help=f"port to listen on (default {port})")
    parser.add_argument("--model", choices=[spec.name for spec in MODELS], default=POCKET.name, help="model shown first")
    parser.add_argument("--download", action="store_true", help="fetch what is missing of a published model when it is chosen")
    parser.add_argument("--resolution", default=None, help="size published models begin at: 480p, 720p, a smaller one, or rows x columns")
    parser.add_argument("--random-weights", action="store_true", help="the true shapes without the weights: for timing and memory")
    parser.add_argument("--decoder", default="", help="decoder of published models: taehv (live) or wan-vae (exact, slow)")
    parser.add_argument("--attention", default="auto", help="attention kernel: auto (the fastest that agrees), sdpa, cudnn, flash, ...")
    parser.add_argument("--graphs", action="store_true", help="replay passes as CUDA graphs")
    parser.add_argument("--fp8", action="store_true", help="large products in 8-bit floats, and what that changes is measured")
    parser.add_argument("--heads", type=readable, metavar="FILE", help=f"for the model shown first: {HEADS}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default auto)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of the model (default: OMP_NUM_THREADS, or all cores but one)")
    parser.add_argument("--seats", type=int, default=SEATS, help=f"visitors that may run at once (default {SEATS})")
    parser.add_argument("--chunks", type=int, default=CHUNKS, help=f"chunks after which a run ends, 0 for never (default {CHUNKS})")
    parser.add_argument("--root-path", default=None, help="path prefix behind a proxy, for instance /fkv")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    found = parser.parse_args(given)
    for name, least in (("port", 1), ("threads", 0), ("seats", 1), ("chunks", 0)):
        if getattr(found, name) < least:
            parser.error(f"--{name} {getattr(found, name)} is below {least}; use {least} or more")
    if found.port > PORTS:
        parser.error(f"--port {found.port} is above {PORTS}; use 1 to {PORTS}")
    return found


def check(chosen: argparse.Namespace) -> None:
    """Raises ValueError where no model could be loaded with these flags, so that it is said before the page is there."""
    import torch

    from fkv import engine, parts, planner
    from fkv.attention import Attention
    from fkv.fast.fp8 import refusal

    device, size = engine.pick_device(chosen.device), planner.size_of(chosen.resolution)
    engine.affordable(chosen.threads)
    if chosen.graphs and device.type != "cuda":
        raise ValueError(f"--graphs needs a CUDA device and the device is {device}; leave it out")
    if chosen.fp8 and (why := refusal(device, torch.bfloat16)):
        raise ValueError(why)
    Attention(chosen.attention)
    for spec in (spec for spec in MODELS if not spec.net.places):
        parts.known(spec, chosen.decoder)
        planner.resized(spec, size or spec.pixels)


def backend(chosen: argparse.Namespace) -> Backend:
    """What the page asks of the engine room. All models share one lock, so that one is loaded between the chunks of another. Raises
    ValueError on a head profile that is none of the model shown first.
    """
    from fkv import planner
    from fkv.engine import Engine, Turns, available, load, model_facts, profile_facts
    from fkv.fetch import News
    from fkv.session import Session
    from fkv.ui import Backend
    from fkv.ui.profiles import read
    from fkv.wishes import concern

    news, turns = News(), Turns()
    names = ("device", "threads", "download", "random_weights", "attention", "graphs", "fp8")
    opening = {name: getattr(chosen, name) for name in names}
    heads = read(chosen.heads.read_text(encoding="utf-8"), chosen.heads.name, find(chosen.model).geometry) if chosen.heads else None

    def row(name: str) -> ModelSpec:
        spec, size = find(name), planner.size_of(chosen.resolution)
        return spec if spec.net.places or size is None else planner.resized(spec, size)

    def opened(name: str) -> Engine:
        spec = row(name)
        codec, own = "" if spec.net.places else chosen.decoder, heads if name == chosen.model else None
        return load(spec, codec=codec, heads=own, report=news.report, lock=turns, **opening)

    def sizes(name: str) -> tuple[str, ...]:
        return planner.sizes(row(name))

    def models() -> list[tuple[str, str]]:
        rows = () if chosen.download or chosen.random_weights else available(chosen.device)
        absent = {row.spec.name for row in rows if row.reason}
        return [(f"{spec.title} (not here)" if spec.name in absent else spec.title, spec.name) for spec in MODELS]

    def facts(engine: Engine) -> tuple[ModelFacts, ProfileFacts | None]:
        return model_facts(engine), profile_facts(engine)

    return Backend(opened, facts, Session, progress=lambda: news.text, models=models, sizes=sizes, concern=concern)


def main(given: Sequence[str] | None = None) -> None:
    """Builds the page, loads the model in the background and serves until stopped."""
    chosen = arguments(given)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1,localhost")))

    from fkv.text import EXAMPLES
    from fkv.ui import build

    try:
        check(chosen)
        room = backend(chosen)
    except (ValueError, OSError) as error:
        Parser(prog="app.py").error(" ".join(str(error).split()))
    page = build(room, examples=EXAMPLES, seats=chosen.seats, chunks=chosen.chunks, model=chosen.model)
    page.shelf.want(chosen.model)
    place = {"server_name": chosen.host, "server_port": chosen.port, "root_path": chosen.root_path}
    try:
        page.blocks.launch(share=chosen.share, inbrowser=chosen.open, **place, **page.options)
    except OSError as error:
        raise SystemExit(f"app.py: port {chosen.port} on {chosen.host} cannot be opened ({error}); choose another with --port") from None


if __name__ == "__main__":
    main()
