"""The README's table of figures, made from the measurement files in `assets`; a figure nobody has measured is an empty cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fkv.views.numbers import machine as named
from fkv.views.report import explained

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures: written by `python -m fkv figures` -->", "<!-- end of figures -->"
REPORT = "`python -m fkv train report`"
PROFILE = "`python -m fkv profile --prompts 16 --sampling-error`"
PAGE = "`FKV_PAGE_JSON=assets/pocket/page.json python -m pytest tests/test_live.py`"
LANES = "full:21,window:12:3,forcing-kv"
AWAITED = {
    f"Self Forcing 1.3B, random weights, {what}": f"python -m fkv bench --model self-forcing --resolution {words} --policies {LANES}"
    for what, words in (
        ("480p", "480p --chunks 40 --random-weights"),
        ("480p, products in FP8", "480p --chunks 40 --random-weights --fp8"),
        ("720p", "720p --chunks 40 --random-weights"),
        ("1080p", "1080p --chunks 40 --random-weights"),
    )
}
Row = tuple[str, str, str, str]


def table(root: Path = ROOT) -> str:
    """Markdown of every figure with the command that made it and the machine it was made on."""
    pocket = root / "assets/pocket"
    rows = [*_pocket(_read(pocket / "report.json")), *_heads(_read(pocket / "heads.json")), *_page(_read(pocket / "page.json"))]
    rows += _benchmarks(sorted((root / "assets/benchmarks").glob("*.json")))
    lines = ["| what | figure | command | machine |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def write(root: Path = ROOT) -> bool:
    """Put the table into README.md between its two marks; tells whether the file changed. Raises ValueError if the marks are missing."""
    path = root / "README.md"
    text = path.read_text()
    fresh = replaced(text, table(root))
    if fresh != text:
        path.write_text(fresh)
    return fresh != text


def replaced(text: str, table: str) -> str:
    """README text with the table between its marks."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"README.md lacks the marks {BEGIN!r} and {END!r}; put them where the table belongs")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.split(END, 1)[1]}"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _pocket(report: dict[str, Any]) -> list[Row]:
    if not report:
        return []
    where, worlds, long = report["machine"], report["worlds"], report["long"]
    machine = named(where)
    frames = report["clip_frames"]
    full, held = worlds["full"], worlds["full"]["clips"]
    drawn, background = report["codec"].get("drawn_psnr_db"), full["background_psnr"]
    found: list[tuple[str, str]] = [
        ("codec, held-out PSNR in stream", f"{report['codec']['psnr_db']:.1f} dB"),
        ("the same of frames as the model draws them from their true past", "" if drawn is None else f"{drawn:.1f} dB"),
        (f"full cache, {held} held-out prompts, {frames} pixel frames: colour and shape of an object right", _share(full, "objects_right")),
        ("the same: objects kept in view, share of frames", _share(full, "kept")),
        ("the same: theme right", _share(full, "theme_right")),
        ("the same: motion right", _share(full, "motion_right")),
        ("the same: camera right", _share(full, "camera_right")),
        ("the same: background against the first frame", f"{background['mean']:.1f} dB ± {background['error']:.1f}"),
    ]
    for name in ("full", "forcing-kv"):
        pans = worlds.get(f"{name}, panning camera", {})
        if not (seen := pans.get("background_psnr")):
            continue
        what = f"{name}, those of them with a panning camera (n = {pans['clips']}): share of pans made; background back at its start"
        found.append((what, f"{_share(pans, 'camera_right')}; {seen['mean']:.1f} dB ± {seen['error']:.1f}"))
    for kind, groups in worlds.get("full, by what was asked for", {}).items():
        shares = [f"{value} {100 * some['right']:.0f} % (n = {some['n']})" for value, some in groups.items()]
        found.append((f"the same, by {kind} asked for: colour and shape right", ", ".join(shares)))
    gaps = worlds["differences to full, in points"]
    for name, metrics in gaps.items():
        what = f"{name} less full cache, same prompts (n = {worlds[name]['clips']}): kept; shape right; motion right"
        found.append((what, "; ".join(_gap(metrics, metric) for metric in ("kept", "shape_right", "motion_right"))))
    for name, metrics in worlds["differences of measured roles to others, in points"].items():
        what = f"forcing-kv with measured roles less {name}, same prompts (n = {worlds[name]['clips']}): kept; shape right; motion right"
        found.append((what, "; ".join(_gap(metrics, metric) for metric in ("kept", "shape_right", "motion_right"))))
    for name in (name for name in ("full", "window", "forcing-kv") if name in long):
        what = f"{long['latent_frames']} latent frames, {name} (n = {long[name]['clips']})"
        cells = (_share(long[name], "kept"), _share(long[name], "sharpness_drift"), _share(long[name], "saturation_drift"))
        found.append((f"{what}: kept; drift of sharpness; of saturation", "; ".join(cells)))
        if each := long[name].get("each"):
            few = sum(kept is not None and kept < 0.9 for kept in each["kept"])
            far = sum(drift is not None and abs(drift) > 0.2 for drift in each["sharpness_drift"])
            found.append((f"{what}: rollouts that keep under 90 %; whose sharpness drifts by over 20 %", f"{few}; {far}"))
    return [(what, figure, REPORT, machine) for what, figure in found]


def _heads(profile: dict[str, Any]) -> list[Row]:
    """How the pocket model's heads score, how stable that is, and what measuring it live costs."""
    if not profile:
        return []
    scores = [score for line in profile["scores"] for score in line]
    recipe, stable, sampling = profile["recipe"], profile.get("stability", {}), profile.get("sampling") or {}
    what = f"heads, {recipe['prompts']} prompts"
    share = len([score for score in scores if score >= 0.8]) / len(scores)
    halves, passes = stable.get("prompts"), stable.get("passes")
    found = [
        (f"{what}: score 0.8 or more", f"{100 * share:.0f} %"),
        (f"{what}: static as shipped ({profile['rule']})", f"{100 * sum(map(len, profile['static'])) / len(scores):.0f} %"),
        (f"{what}: correlation of scores, two halves of the prompts", "" if halves is None else f"{halves:.4f}"),
        (f"{what}: correlation of scores, denoise steps", "" if passes is None else f"{passes:.4f}"),
    ]
    for row in sampling.get("counts", ()):
        worst = row["worst"]
        cell = f"{row['rmse']:.4f} rms, worst {abs(worst['gap']):.3f} (layer {worst['layer']}, head {worst['head']})"
        found.append((f"sampling error of a head's score, {row['queries']} of {sampling['of_queries']} queries of a chunk", cell))
    if live := sampling.get("live"):
        cell = f"{100 * live['probe_share']:.1f} % of the time, {live['layers_per_chunk']:g} of {live['layers']} layers a chunk"
        found.append(("live measuring of all heads", cell))
    machine = named(sampling["machine"]) if "machine" in sampling else ""
    return [(name, figure, PROFILE, machine) for name, figure in found]


def _page(found: dict[str, Any]) -> list[Row]:
    """How soon the app answers and moves, and how much of what it makes is shown."""
    if not found:
        return []
    machine = named(found["machine"])
    rows = [
        ("the app: page answers after", f"{found['page_s']:.1f} s"),
        ("the app: both lanes move after Start within", f"{found['video_s']:.1f} s"),
        ("the app: frames shown of those played", f"{100 * found['shown']:.0f} %"),
        ("the app: both lanes live, end to end", "; ".join(f"lane {lane} {fps} FPS" for lane, fps in found["fps"].items())),
    ]
    return [(name, figure, PAGE, machine) for name, figure in rows]


def _share(metrics: dict[str, Any], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return ""
    return f"{100 * value['mean']:.1f} %" + ("" if value["error"] is None else f" ± {100 * value['error']:.1f}")


def _gap(metrics: dict[str, Any], name: str) -> str:
    value = metrics.get(name)
    return "" if value is None else f"{value['mean']:+.1f} points ({value['low']:+.1f} to {value['high']:+.1f})"


def _benchmarks(paths: list[Path]) -> list[Row]:
    """Every benchmark's rows, and an empty one for each that needs a GPU and has not been run."""
    reports = [_read(path) for path in paths]
    run = {str(found.get("command")).replace(" --pieces", "") for found in reports}
    awaited = [(what, "", f"`{command}`", "") for what, command in AWAITED.items() if command not in run]
    return [row for found in reports for row in benchmark(found)] + awaited


def benchmark(found: dict[str, Any]) -> list[Row]:
    """A row for every policy of one report of `python -m fkv bench`; where it ran alone, how much memory the process took on the way."""
    names = ",".join(entry["policy"] for entry in found["policies"])
    usual = f"python -m fkv bench --model {found['model']['name']} --policies {names} --chunks {found['chunks']}"
    command, machine, rows = f"`{found.get('command', usual)}`", named(found["environment"]), []
    for entry in found["policies"]:
        speed, noisy, fps = entry["faster"]["end_to_end"], entry["faster"]["diffusion"], entry["fps_end_to_end"]
        figure = (
            f"{fps['median']:.1f} FPS end to end, {entry['fps_diffusion']['median']:.1f} diffusion; {speed['median']:.2f}x "
            f"({speed['low']:.2f} to {speed['high']:.2f}), {noisy['median']:.2f}x ({noisy['low']:.2f} to {noisy['high']:.2f}) diffusion; "
            f"{entry['bytes']['stored'] / 1e6:.2f} MB stored"
        )
        rows.append((f"{_subject(found)}, {entry['label']}, one stream each in turn", figure, command, machine))
    if len(rows) == 1:
        return [_growth(found, command, machine)]
    for entry in found["policies"]:
        if "pieces" in entry:
            rows.append((f"{_subject(found)}, {entry['label']}, a noisy pass in pieces", _apart(found, entry), command, machine))
    if "merging_ms" in found:
        rows.append(
            (
                f"{_subject(found)}, products and norms of a clean pass and the next first pass taken at once",
                _merged(found),
                command,
                machine,
            )
        )
    return rows


def _subject(found: dict[str, Any]) -> str:
    """The model of a report, with what its command asks of it."""
    words = str(found.get("command", "")).split()
    size = [words[words.index("--resolution") + 1]] if "--resolution" in words else []
    return ", ".join([found["model"]["title"], *(["random weights"] if "--random-weights" in words else []), *size])


def _apart(found: dict[str, Any], entry: dict[str, Any]) -> str:
    """How much of a pass its pieces explain, each timed alone, and how near they come to the best matrix product of the device."""
    whole = entry["ms"]["noisy"]["median"] / found["model"]["steps"]
    known = explained(entry["pieces"])
    near = []
    for kind, words in (("product ", "products"), ("attention of ", "self-attention")):
        shares = [round(100 * piece["share_of_best"]) for piece in entry["pieces"] if piece["piece"].startswith(kind)]
        near.append(f"{words} at {' to '.join(map(str, sorted({min(shares), max(shares)})))} %")
    return f"{known:.1f} of {whole:.1f} ms ({100 * known / whole:.0f} %); {', '.join(near)} of the best product"


def _merged(found: dict[str, Any]) -> str:
    """What products and norms of two passes save when they are taken at once, of what a chunk's passes take."""
    shares = [f"{100 * found['merging_ms'] / entry['ms']['diffusion']['median']:.1f} % ({entry['label']})" for entry in found["policies"]]
    return f"{found['merging_ms']:.2f} ms less a chunk: {', '.join(shares)}"


def _growth(found: dict[str, Any], command: str, machine: str) -> Row:
    """What a run of one policy alone says of memory."""
    model, entry = found["model"], found["policies"][0]
    what = f"{_subject(found)}, {entry['label']}, {found['chunks'] * model['chunk']} latent frames: growth of the process's memory"
    return what, f"{entry['memory_growth_bytes'] / 1e6:.1f} MB from chunk {found['counted'][0] + 1} on", command, machine
