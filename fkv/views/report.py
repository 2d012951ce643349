"""The report of `python -m fkv bench` in words: a Markdown table, a line per policy, and the pieces of a pass."""

from __future__ import annotations

from typing import Any

from fkv.views.numbers import machine

COLUMNS = (
    "policy", "FPS end to end", "FPS diffusion", "ms per chunk (p10 to p90)", "faster, end to end (p10 to p90)", "faster, diffusion", "MFU",
    "stored", "read", "allocated", "kept", "peak memory",
)  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The report as a Markdown table with a line that says where it was measured."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for entry in found["policies"]:
        ms, speed, size = entry["ms"]["end_to_end"], entry["faster"]["end_to_end"], entry["bytes"]
        kept = "-" if entry["kept"] is None else f"{100 * entry['kept']:.0f} %"
        cells = [
            f"`{entry['policy']}`",
            f"{entry['fps_end_to_end']['median']:.1f}",
            f"{entry['fps_diffusion']['median']:.1f}",
            f"{ms['median']:.0f} ({ms['low']:.0f} to {ms['high']:.0f})",
            f"{speed['median']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})",
            f"{entry['faster']['diffusion']['median']:.2f}x",
            f"{100 * entry['mfu']['median']:.0f} %" if "mfu" in entry else "",
            *(f"{size[name] / 1e6:.2f} MB" for name in ("stored", "read", "allocated")),
            kept,
            "" if entry.get("peak_bytes") is None else f"{entry['peak_bytes'] / 1e6:.0f} MB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    where = found["environment"]
    error = found["model"].get("fp8_error")
    dtype = where["dtype"] + (f" with products in FP8 (relative error {100 * error:.1f} %)" if error is not None else "")
    about = f"{found['model']['title']}, {dtype}, {machine(where)}, torch {where['torch']}, {tally(found)}, commit {where['commit']}."
    return "\n".join([*lines, "", about, *in_pieces(found)])


def in_pieces(found: dict[str, Any]) -> list[str]:
    """The pieces of every policy that has been taken apart, as a table with a heading, against the noisy pass that was measured; and what
    merging passes would save.
    """
    known = [entry for entry in found["policies"] if "pieces" in entry]
    passes = [entry["ms"]["noisy"]["median"] / found["model"]["steps"] for entry in known]
    lines = [f"\n`{entry['policy']}`, a noisy pass in pieces:\n\n{apart(entry['pieces'], ms)}" for entry, ms in zip(known, passes)]
    if "merging_ms" not in found:
        return lines
    saved, chunks = found["merging_ms"], [(entry["policy"], entry["ms"]["diffusion"]["median"]) for entry in known]
    shares = ", ".join(f"{100 * saved / ms:.1f} % under `{policy}`" for policy, ms in chunks)
    what = "Products and norms of a clean pass and the next first pass, taken at once, would save"
    return [*lines, f"\n{what} {saved:.2f} ms of what a chunk's passes take: {shares}."]


def sentences(found: dict[str, Any]) -> str:
    """The report in a line per policy."""
    lines = []
    for entry in found["policies"]:
        speed, size = entry["faster"]["end_to_end"], entry["bytes"]["stored"] / 1e6
        ratio = f"{speed['median']:.2f}x ({speed['low']:.2f} to {speed['high']:.2f})"
        lines.append(f"{entry['policy']}: {entry['fps_end_to_end']['median']:.1f} FPS end to end, {ratio}, {size:.2f} MB stored")
    lines.append(f"{tally(found)}; ratios are paired with {found['policies'][0]['policy']}")
    return "\n".join([*lines, *in_pieces(found)])


def tally(found: dict[str, Any]) -> str:
    """How many chunks count, and how many were asked for where the bench was interrupted."""
    asked = f" (interrupted, {found['asked']} were asked for)" if found["interrupted"] else ""
    return f"{len(found['counted'])} of {found['chunks']} chunks counted{asked}"


def apart(found: list[dict[str, Any]], pass_ms: float) -> str:
    """Pieces as a Markdown table, against the milliseconds that a noisy pass took in the run."""
    lines = ["| piece | calls a pass | ms a call | ms a pass | share of the best rate |", "|---|---|---|---|---|"]
    for entry in found:
        share = "" if entry["share_of_best"] is None else f"{100 * entry['share_of_best']:.0f} %"
        whole = f"{entry['calls'] * entry['ms']:.3f}" if entry["calls"] else "beside it"
        lines.append(f"| {entry['piece']} | {entry['calls'] or ''} | {entry['ms']:.4f} | {whole} | {share} |")
    known = explained(found)
    share = f"{100 * known / pass_ms:.0f} %"
    return "\n".join([*lines, "", f"The pieces of a pass come to {known:.2f} ms of the {pass_ms:.2f} ms that one took ({share})."])


def explained(found: list[dict[str, Any]]) -> float:
    """Milliseconds of a pass that its pieces come to."""
    return sum(entry["calls"] * entry["ms"] for entry in found)
