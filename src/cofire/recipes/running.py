"""What every recipe shares: its settings, what it finds, and the page and file that it leaves."""

import json
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cofire.files import atomic
from cofire.version import __version__

__all__ = ["Finding", "Found", "Settings", "Table", "mean_and_range", "verdict_of", "write"]

_TESTS = 10_000  # pictures in the test set of each of the recipes' data


@dataclass(frozen=True)
class Settings:
    """How a recipe is run.

    Args:
        root: Folder of the data sets.
        seeds: Trainings of every net.
        limit: Training pictures; None for all. Of the 10,000 test pictures no more are taken.
        epochs: Epochs of every training; None for the recipe's own.
        only: Parts of the recipe; None for all.
        folder: Where checkpoints and statistics are kept, so that a run that was stopped goes on.
        say: Told of every step.
    """

    root: Path | None
    seeds: int
    limit: int | None
    epochs: int | None
    only: tuple[str, ...] | None
    folder: Path
    say: Callable[[str], None] = print

    @property
    def test_limit(self) -> int | None:
        """Test pictures; None for all."""
        return self.limit if self.limit is not None and self.limit < _TESTS else None


@dataclass(frozen=True)
class Table:
    """A table of results.

    Args:
        title: What it shows.
        columns: Headings.
        rows: Cells: text, or numbers that the page rounds to four digits.
        note: What to know when reading it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what became of it.

    Args:
        claim: The claim.
        verdict: "holds", "does not hold" or "depends".
        why: What was seen, with numbers; on what it depends.
    """

    claim: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Found:
    """What a recipe found.

    Args:
        findings: Claims and what became of them.
        tables: Tables.
        scale: How the run differs from the paper's.
        numbers: Everything that was measured, as plain values.
        curves: Ablation curves to draw, where there are some, and the statistics that they go with.
    """

    findings: Sequence[Finding]
    tables: Sequence[Table]
    scale: str
    numbers: Any
    curves: Sequence[Any] = field(default=())
    stats: Any = None


def verdict_of(held: int, cases: int) -> str:
    """ "holds" in every case, "does not hold" in fewer than a third, else "depends".

    >>> verdict_of(4, 4), verdict_of(3, 4), verdict_of(1, 4)
    ('holds', 'depends', 'does not hold')
    """
    return "holds" if held == cases else "does not hold" if 3 * held < cases else "depends"


def mean_and_range(values: Sequence[float], digits: int = 2) -> str:
    """Mean over seeds, with the smallest and the largest.

    >>> mean_and_range([0.5, 0.7]), mean_and_range([0.25])
    ('0.60 (0.50 to 0.70)', '0.25')
    """
    known = [value for value in values if value == value]
    if not known:
        return "-"
    mean = f"{sum(known) / len(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def write(name: str, title: str, command: str, settings: Settings, found: Found, out: Path) -> tuple[Path, Path]:
    """Write a recipe's page and the numbers behind it.

    Args:
        name: The recipe.
        title: What it reproduces.
        command: The command that ran it.
        settings: How it was run.
        found: What it found.
        out: The folder.

    Returns:
        The Markdown page and the JSON file.
    """
    import torch

    said = {
        "recipe": name, "command": command, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "seeds": settings.seeds,
        "machine": f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads",
        "versions": {"cofire": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    page, numbers = out / f"{name}.md", out / f"{name}.json"
    whole = {
        **said, "scale": found.scale, "findings": [asdict(finding) for finding in found.findings],
        "tables": [asdict(table) for table in found.tables], "numbers": found.numbers,
    }  # fmt: skip
    with atomic(numbers) as temporary:
        temporary.write_text(json.dumps(_plain(whole), allow_nan=False) + "\n", "utf8")
    lines = [
        f"# {title}", "",
        f"Made by `{command}` on {said['date']}, {said['machine']}, torch {torch.__version__}, cofire {__version__}; "
        f"{settings.seeds} seed{'s' if settings.seeds > 1 else ''}. {found.scale}",
        "", "| claim | here | why |", "| --- | --- | --- |",
        *(f"| {finding.claim} | **{finding.verdict}** | {finding.why} |" for finding in found.findings),
    ]  # fmt: skip
    for table in found.tables:
        lines += ["", f"## {table.title}", "", *([table.note, ""] if table.note else [])]
        lines += [
            f"| {' | '.join(table.columns)} |",
            f"| {' | '.join('---' if not at else '--:' for at in range(len(table.columns)))} |",
        ]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table.rows]
    with atomic(page) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf8")
    return page, numbers


def _plain(value: Any) -> Any:
    """The same with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    return str(value)
