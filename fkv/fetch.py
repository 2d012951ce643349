"""`python -m fkv fetch` and `embed`: published files with progress, and example prompts for machines without the encoder."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from fkv import parts
from fkv.hub import gigabytes
from fkv.spec import ModelSpec
from fkv.text.umt5 import EXAMPLES


class Bars:
    """A terminal bar per file, driven by what is reported of it."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for bar in self.bars.values():
            bar.close()

    def report(self, file: str, done: int, total: int) -> None:
        bar = self.bars.get(file)
        if bar is None:
            bar = self.bars[file] = tqdm(total=total or None, unit="B", unit_scale=True, desc=Path(file).name[:32])
        bar.total = total or bar.total
        bar.update(done - bar.n)


class News(Bars):
    """What is being fetched, for a page to show beside the terminal's bars. `text` may be asked from any thread."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def report(self, file: str, done: int, total: int) -> None:
        super().report(file, done, total)
        of = f" of {gigabytes(total)}" if total else ""
        self.text = f"Fetching {Path(file).name}: {gigabytes(done)}{of}" if done != total else ""


def fetch(spec: ModelSpec, *, text: bool = False) -> list[str]:
    """Downloads what is missing of a model; gives what it can do without and is still missing afterwards, each with its cure. Raises
    FileNotFoundError where it cannot do without.
    """
    with Bars() as bars:
        parts.fetch(spec, bars.report, text=text)
    absent = [need for need in parts.needs(spec) if not need.here]
    if vital := [need for need in absent if need.vital]:
        size = f" ({gigabytes(vital[0].size)})" if vital[0].size else ""
        raise FileNotFoundError(f"{spec.title} cannot run yet: {vital[0].what}{size} is missing; {vital[0].cure}")
    return [f"{need.what} is missing; {need.cure}" for need in absent]


def embed(spec: ModelSpec, out: Path, prompts: Path | None) -> int:
    """Writes the embeddings of the prompts in a file, one a line, or of the written examples; gives their number."""
    lines = tuple(filter(None, (line.strip() for line in prompts.read_text().splitlines()))) if prompts else EXAMPLES
    if not lines:
        raise ValueError(f"{prompts} holds no prompt; write one a line")
    with tqdm(total=len(lines), unit="prompt", delay=1e-3) as bar:  # drawn when an encoder is there
        parts.embed(spec, lines, out, bar.set_postfix_str)
    return len(lines)
