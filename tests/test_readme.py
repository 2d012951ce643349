"""The README says what is measured, and the repository can be pushed as it is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from fkv import bench, figures
from fkv.flags import parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_table_of_figures_is_the_one_the_files_give() -> None:
    assert figures.replaced(README, figures.table()) == README, "run `python -m fkv figures`"


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        figures.replaced("no marks", "table")


def test_where_nothing_is_measured_only_the_awaited_benchmarks_have_rows_and_they_are_empty(tmp_path: Path) -> None:
    rows = figures.table(tmp_path).splitlines()[2:]
    assert rows == [f"| {what} |  | `{command}` |  |" for what, command in figures.AWAITED.items()]


def test_an_awaited_benchmark_goes_by_the_command_that_its_report_will_name() -> None:
    usual = parser().parse_args(["bench"])
    for command in figures.AWAITED.values():
        asked = parser().parse_args(command.removeprefix("python -m fkv ").split())
        assert command == " ".join(["python", "-m", "fkv", "bench", *bench.words(asked, usual), "--policies", asked.policies])


@pytest.mark.parametrize("more", ["", "--pieces "])
def test_a_benchmark_that_was_run_is_awaited_no_longer(tmp_path: Path, more: str) -> None:
    known = ROOT / "assets" / "benchmarks" / "pocket-cpu-1000-frames.json"
    (what, command), *others = figures.AWAITED.items()
    run = {"command": command.replace("--policies", f"{more}--policies")}
    (tmp_path / "assets" / "benchmarks").mkdir(parents=True)
    (tmp_path / "assets" / "benchmarks" / "one.json").write_text(json.dumps(json.loads(known.read_text()) | run))
    table = figures.table(tmp_path)
    assert what + " |" not in table
    assert all(f"| {other} |" in table for other, _ in others)


def test_long_rollouts_that_fail_are_counted_beside_the_mean(tmp_path: Path) -> None:
    report = json.loads((ROOT / "assets" / "pocket" / "report.json").read_text())
    report["long"]["full"]["each"] = {"kept": [1.0, 0.9, 0.89, None], "sharpness_drift": [-0.42, 0.21, 0.2, None]}
    (tmp_path / "assets" / "pocket").mkdir(parents=True)
    (tmp_path / "assets" / "pocket" / "report.json").write_text(json.dumps(report))
    (row,) = (line for line in figures.table(tmp_path).splitlines() if "frames, full" in line and "drifts by over 20 %" in line)
    assert "| 1; 2 |" in row


def test_the_readme_carries_the_front_matter_of_a_space() -> None:
    matter = README.split("---")[1]
    for line in ("sdk: gradio", 'python_version: "3.12"', "app_file: app.py"):
        assert line in matter


def test_no_file_is_too_large_for_a_space() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    sizes = {name: (ROOT / name).stat().st_size for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert {name: size for name, size in sizes.items() if size > 9_500_000} == {}
