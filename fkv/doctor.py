"""`python -m fkv doctor`: what is installed, what the machine offers, and what will run."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from fkv import advice, attention, engine, hub, machine, meter, parts, planner, policies
from fkv.cache import Roles
from fkv.fast import fp8, products
from fkv.heads import HeadProfile
from fkv.hub import gigabytes
from fkv.spec import MODELS, ModelSpec

Finding = tuple[bool, str, str]  # in order, what, finding
NAMES = "ABCDEFGH"  # of lanes


def examine() -> Iterator[tuple[bool, str, str]]:
    """(in order, what, finding) of everything looked at, one at a time; ends with what will run."""
    python = platform.python_version_tuple()
    yield (3, 10) <= (int(python[0]), int(python[1])) < (3, 14), "python", f"{platform.python_version()} (3.10 to 3.13 are supported)"
    yield from packages()
    yield True, "commit", machine.commit() or "not a git checkout"
    yield True, "cpu", f"{machine.cpu_model()}, {engine.cores()} cores usable, torch uses {torch.get_num_threads()} threads"
    yield from devices()
    yield ffmpeg()
    working: list[str] = []
    device = engine.pick_device()
    for spec in MODELS:
        reason = engine.obstacle(spec, device) if spec.repo else ""
        findings = [(True, spec.name, reason)] if reason else list(weights(spec))
        working += [spec.name] if findings[0][0] and not reason else []
        yield from findings
    text = f"{', '.join(working)} on {device}: `python app.py`, `python -m fkv generate`, `python -m fkv bench`" if working else "nothing"
    yield bool(working), "will run", text


def packages() -> Iterator[Finding]:
    """Installed versions; what only published models need may be absent."""
    for package, version in machine.versions().items():
        extra = package in machine.PUBLISHED
        text = (version or "not installed") + " (for published models)" * extra
        yield version is not None or extra, package, text if version else f"{text}; run `pip install -r requirements.txt`"


def devices() -> Iterator[tuple[bool, str, str]]:
    """CUDA, and the attention kernels of the device that will be used."""
    count = torch.cuda.device_count()
    names = ", ".join(
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)" for i in range(count)
    )
    yield True, "cuda", names or "no CUDA device; the pocket model runs on the CPU"
    device = engine.pick_device()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found = attention.probe_backends(device, dtype, MODELS[0].net.head_dim)
    works = [backend.name for backend in found if backend.works]
    yield bool(works), "attention", f"scaled_dot_product_attention on {device}: {', '.join(works) or 'no backend works'}"
    if device.type == "cpu":
        reason = products.refusal()
        yield True, "products", f"torch's own, as oneDNN's cannot be had: {reason}" if reason else "by oneDNN in float32"
    for name, package in attention.PACKAGES.items():
        reason = attention.absence(name)
        text = f"not here ({reason}; optional, torch's own kernels are used)" if reason else f"{package} can be imported"
        yield True, name, text
    reason = fp8.refusal(device, dtype)
    yield True, "fp8", f"not here: {reason}" if reason else "runs with --fp8"


def ffmpeg() -> tuple[bool, str, str]:
    try:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
        first = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        return False, "ffmpeg", f"does not run ({error}); reinstall imageio-ffmpeg"
    return True, "ffmpeg", first


def weights(spec: ModelSpec) -> Iterator[tuple[bool, str, str]]:
    """Whether a model loads, and its head profile; of a published one only that its files are here."""
    if spec.repo:
        yield True, spec.name, f"its files are here; run `python -m fkv doctor --model {spec.name}`"
        return
    try:
        loaded = engine.load(spec)
    except (ValueError, OSError) as error:
        yield False, spec.name, str(error)
        return
    net = spec.net
    yield True, spec.name, f"{loaded.parameters / 1e6:.1f}M parameters, {net.layers} layers of {net.heads} heads, weights valid"
    profile = loaded.profile
    if profile is None:
        yield True, f"{spec.name} heads", "no head profile; forcing-kv needs one: give it with --heads, `python -m fkv profile` makes it"
    else:
        yield True, f"{spec.name} heads", f"{100 * profile.share:.0f} % static by rule: {profile.rule}"
    if not fp8.refusal(loaded.device, loaded.dtype):
        error = engine.load(spec, fp8=True).model.fp8_error or 0.0
        yield True, f"{spec.name} fp8", f"products in FP8 change one pass by {100 * error:.1f} %"


def model(
    spec: ModelSpec,
    device: torch.device,
    *,
    lanes: Sequence[str] = (),
    size: planner.Size | None = None,
    decoder: str = "",
    quantised: bool = False,
) -> Iterator[Finding]:
    """What a model would need on a device, before anything of it is fetched: size, licence, memory by lane (unless told otherwise the
    cache it was trained with, and Forcing-KV), speed, what is missing. `decoder` is another than the row's; `quantised` takes the large
    products in 8-bit floats. Raises ValueError on lanes or a decoder that the model cannot have, and on more than eight lanes.
    """
    spec = planner.resized(spec, size) if size else spec
    parts.known(spec, decoder)
    if len(lanes) > len(NAMES):
        raise ValueError(f"{len(lanes)} lanes are too many to plan; name at most {len(NAMES)}")
    itemsize = 2 if device.type == "cuda" else 4
    dtype = "bfloat16" if itemsize == 2 else "float32"
    net = spec.net
    count = planner.parameters(net)
    yield True, "model", f"{spec.title}: {count / 1e9:.2f} billion parameters, {net.layers} layers of {net.heads} heads"
    yield True, "licence", spec.licence or f"not known here; read the model card on https://huggingface.co/{spec.repo}"
    if spec.note:
        yield True, "note", spec.note
    yield from missing(spec, count)
    chosen = tuple(policies.parse(lane) for lane in lanes or (advice.trained(spec), "forcing-kv"))
    wanted = planner.Wanted(spec, chosen, 0, itemsize, decoder, device.type == "cuda", quantised)
    roles = profile_roles(spec)
    if quantised:
        reason = fp8.refusal(device, torch.bfloat16 if itemsize == 2 else torch.float32)
        yield not reason, "fp8", reason or "its large products can be in 8-bit floats here"
    try:
        yield from sizes(wanted, planner.plan(wanted, roles), dtype)
    except ValueError as error:
        yield False, "memory", str(error)
        return
    there = parts.memory(device)
    yield True, "device", f"{device}, {gigabytes(there)} in all" if there else f"{device}; the system does not say how much memory it has"
    if there:
        yield fits(wanted, there, roles)
    yield from speed(wanted, roles, device)


def missing(spec: ModelSpec, count: int) -> Iterator[Finding]:
    """What is here of a model and what is not, the room for it on the disk, and whether the Hub answers."""
    needs = parts.needs(spec)
    for need in needs:
        size = f" ({gigabytes(need.size)})" if need.size else ""
        yield need.here or not need.vital, "needs", f"{need.what}{size}: {'here' if need.here else f'missing; {need.cure}'}"
    absent = [need for need in needs if not need.here]
    if not spec.repo or not absent:
        return
    total, unknown = sum(need.size for need in absent), any(need.vital and not need.size for need in absent[:1])
    guess = f"; the checkpoint's size is not known here, {gigabytes(4 * count)} if it is one copy in float32" if unknown else ""
    folder = next(folder for folder in (parts.store(), *parts.store().parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    text = f"{gigabytes(free)} free at {folder}, {gigabytes(total)} known to be fetched{guess}"
    yield free > total + (4 * count if unknown else 0) + hub.SPARE, "disk", text
    try:
        said = hub.ask(spec.repo, spec.file)
    except OSError as error:
        yield False, "network", str(error)
    else:
        yield True, "network", f"https://huggingface.co/{spec.repo} answers: {spec.file} has {gigabytes(said.size)}"


def sizes(wanted: planner.Wanted, plan: planner.Plan, dtype: str) -> Iterator[Finding]:
    yield True, "size", f"{planner.name_of(wanted.size)}, {wanted.spec.chunk} latent frames a chunk, {dtype}"
    yield True, "weights", f"{gigabytes(plan.weights_bytes)}, shared by all lanes"
    for name, lane in zip(NAMES, plan.lanes):
        cache, chunk, text = map(gigabytes, (lane.cache_bytes, lane.chunk_bytes, lane.text_bytes))
        yield True, f"lane {name}", f"{gigabytes(lane.total)} with {lane.policy}: cache {cache} + chunk being drawn {chunk} + text {text}"
    if wanted.spec.heads is None and any(policy.needs_roles for policy in wanted.lanes):
        yield True, "heads", "no head profile comes with it: planned as if every head were dynamic; --heads takes one from a file"
    work = f"one pass {gigabytes(plan.pass_bytes)}, one commit {gigabytes(plan.commit_bytes)}"
    rest = f"{work}, decoder {wanted.draws_with} {gigabytes(plan.decoder_bytes)}"
    yield True, "estimate", f"{rest}, the device's own share {gigabytes(plan.device_bytes)}"


def fits(wanted: planner.Wanted, there: int, roles: Roles | None) -> Finding:
    try:
        return True, "memory", f"{gigabytes(advice.check(wanted, there, roles).total)} in all: it fits"
    except ValueError as error:
        return False, "memory", str(error)


def speed(wanted: planner.Wanted, roles: Roles | None, device: torch.device) -> Iterator[Finding]:
    """The most frames per second that this device's own matrix products allow: a bound from a measurement made now, not a measurement of
    the model."""
    dtype = torch.bfloat16 if wanted.itemsize == 2 else torch.float32
    eight = wanted.quantised and not fp8.refusal(device, dtype)
    rate = matrix_rate(device, dtype, quantise=fp8.by_torchao) if eight else matrix_rate(device, dtype)
    frames = wanted.spec.chunk * wanted.spec.pixel_frames
    for name, work in zip(NAMES, planner.tera_operations(wanted, roles)):
        most = frames * rate / work
        words = f"at most {most:.3g} FPS diffusion alone ({work:.3g} TFLOP a chunk at the {rate:.3g} TFLOP/s measured now)"
        yield True, f"speed {name}", f"{words}: {planner.pace(wanted.spec, most)}"


def matrix_rate(device: torch.device, dtype: torch.dtype, side: int = 0, quantise: fp8.Quantise | None = None) -> float:
    """Tera floating-point operations per second of one matrix product, the best of five; on a CPU by the faster of two libraries. With
    `quantise` of a product by a weight so made, what is done to its other side included.
    """
    side = side or (4096 if device.type == "cuda" else 1024)
    a = torch.randn(side, side, device=device, dtype=dtype)
    own = products.Product(quantise(a) if quantise else a, a[0])
    ways = [own]
    if device.type == "cpu" and dtype == torch.float32 and not quantise and not products.refusal():
        ways.append(replace(own, laid=products.laid_out(a, side)))
    watch, best = meter.Stopwatch(device), []
    for way in ways:
        watch.start()
        for _ in range(6):
            way(a)
            watch.mark("noisy")
        best.append(min(watch.laps["noisy"][1:]))
    return 2 * side**3 / (min(best) / 1000) / 1e12


def profile_roles(spec: ModelSpec) -> Roles | None:
    """The static heads of a row's bundled profile."""
    path = engine.ROOT / spec.heads if spec.heads else None
    return HeadProfile.from_json(path.read_text(), spec.geometry).roles() if path and path.is_file() else None


def report(findings: Iterator[Finding] | None = None) -> int:
    """Prints every finding as it is made; 0 if something will run, or of one model, if nothing is missing."""
    orders = []
    for order, what, finding in findings or examine():
        orders.append(order)
        print(f"{'ok  ' if order else 'FAIL'} {what:<16} {finding}", flush=True)
    return 0 if (all(orders) if findings else orders[-1]) else 1
