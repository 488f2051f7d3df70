"""What every recipe shares: its settings, what it finds, and the page and file that it leaves."""

import json
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cofire.errors import FileError
from cofire.files import atomic
from cofire.plots import save
from cofire.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Finding",
    "Found",
    "Settings",
    "Table",
    "held",
    "mean_and_range",
    "measured",
    "page_of",
    "put",
    "read",
    "verdict_of",
    "write",
]

_TESTS = 10_000  # pictures in the test set of each of the recipes' data


Draw = Callable[[Sequence[dict]], Mapping[str, "Figure"]]
"""Makes figures, by what they show, of the numbers of a recipe."""


@dataclass(frozen=True)
class Settings:
    """How a recipe is run.

    Args:
        root: Folder of the data sets.
        seeds: Trainings of every net.
        limit: Training pictures; None for the recipe's own number, as a rule all. Of the test pictures no more are taken.
        epochs: Epochs of every training; None for the recipe's own.
        only: Parts of the recipe; None for all.
        folder: Where checkpoints and statistics are kept, so that a run that was stopped goes on.
        say: Told of every step.
        command: The command that gives the same numbers elsewhere.
        earlier: Gives what earlier runs measured, for a recipe whose parts may be run one by one.
    """

    root: Path | None
    seeds: int
    limit: int | None
    epochs: int | None
    only: tuple[str, ...] | None
    folder: Path
    say: Callable[[str], None] = print
    command: str = ""
    earlier: Callable[[], Sequence[dict]] = list

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
        verdict: "holds", "does not hold", "depends", or a word of its own.
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
        curves: Ablation curves to draw, where there are some.
        stats: The statistics that curves or trajectories go with.
        trajectories: Trajectories to draw, by name, where there are some.
    """

    findings: Sequence[Finding]
    tables: Sequence[Table]
    scale: str
    numbers: Any
    curves: Sequence[Any] = field(default=())
    stats: Any = None
    trajectories: Mapping[str, Any] = field(default_factory=dict)


def verdict_of(held: int, cases: int) -> str:
    """ "holds" in every case, "does not hold" in fewer than a third, else "depends"; "not judged" where there is no case.

    >>> verdict_of(4, 4), verdict_of(3, 4), verdict_of(1, 4), verdict_of(0, 0)
    ('holds', 'depends', 'does not hold', 'not judged')
    """
    if not cases:
        return "not judged"
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


def write(name: str, title: str, settings: Settings, found: Found, out: Path, draw: Draw | None = None) -> tuple[Path, Path]:
    """Write a recipe's page, the numbers behind it, and its figures.

    Args:
        name: The recipe.
        title: What it reproduces.
        settings: How it was run, and by which command.
        found: What it found.
        out: The folder.
        draw: Makes the figures of the numbers.

    Returns:
        The Markdown page and the JSON file.
    """
    import torch

    said = {
        "recipe": name, "command": settings.command, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "seeds": settings.seeds,
        "machine": f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads",
        "versions": {"cofire": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    return put(name, title, {**said, **held(found)}, out, draw)


def put(name: str, title: str, whole: dict[str, Any], out: Path, draw: Draw | None = None) -> tuple[Path, Path]:
    """Write a recipe's file of numbers, the page that is made of it, and its figures; gives the page and the file."""
    page, numbers = out / f"{name}.md", out / f"{name}.json"
    figures = draw(_numbers(whole["numbers"])) if draw else {}
    whole = whole | {"figures": [{"file": f"{name}-{at}.svg", "shows": shows} for at, shows in enumerate(figures, 1)]}
    for drawn, figure in zip(whole["figures"], figures.values(), strict=True):
        save(figure, out / drawn["file"])
    with atomic(numbers) as temporary:
        temporary.write_text(json.dumps(whole, allow_nan=False) + "\n", "utf8")
    with atomic(page) as temporary:
        temporary.write_text(page_of(title, whole), "utf8")
    return page, numbers


def held(found: Found) -> dict[str, Any]:
    """What a file of numbers holds of what a recipe found."""
    return _plain({
        "scale": found.scale, "findings": [asdict(finding) for finding in found.findings],
        "tables": [asdict(table) for table in found.tables], "numbers": found.numbers,
    })  # fmt: skip


def page_of(title: str, whole: Mapping[str, Any]) -> str:
    """The page of what :func:`write` wrote into a file of numbers.

    Args:
        title: What it reproduces.
        whole: What the file of numbers holds.
    """
    versions = whole["versions"]
    lines = [
        f"# {title}", "",
        f"Made by `{whole['command']}` on {whole['date']}, {whole['machine']}, torch {versions['torch']}, "
        f"cofire {versions['cofire']}. {whole['scale']}",
        "", "| claim | here | why |", "| --- | --- | --- |",
        *(f"| {finding['claim']} | **{finding['verdict']}** | {finding['why']} |" for finding in whole["findings"]),
    ]  # fmt: skip
    for figure in whole.get("figures", []):
        lines += ["", f"![{figure['shows']}]({figure['file']})", "", f"*{figure['shows']}*"]
    for table in whole["tables"]:
        lines += ["", f"## {table['title']}", "", *([table["note"], ""] if table["note"] else [])]
        lines += [
            f"| {' | '.join(table['columns'])} |",
            f"| {' | '.join('---' if not at else '--:' for at in range(len(table['columns'])))} |",
        ]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in table["rows"]]
    return "\n".join(lines) + "\n"


def read(numbers: Path) -> dict[str, Any]:
    """What a recipe's file of numbers holds.

    Raises:
        FileError: No such file, or something else in it.
    """
    if not numbers.exists():
        raise FileError("wanted what a recipe measured", f"there is no {str(numbers)!r}", "Run the recipe, or name its folder.")
    try:
        whole = json.loads(numbers.read_text("utf8"))
    except ValueError:
        whole = None
    if not isinstance(whole, dict) or not {"recipe", "findings", "tables", "numbers"} <= set(whole):
        raise FileError(
            "wanted what a recipe measured", f"{str(numbers)!r} holds something else", "Remove it, or choose another folder."
        )
    return whole


def measured(numbers: Path) -> list[dict]:
    """What an earlier run of a recipe measured, from its file of numbers; nothing where there is none.

    Raises:
        FileError: A file that is no file of numbers.
    """
    return _numbers(read(numbers)["numbers"]) if numbers.exists() else []


def _numbers(value: Any) -> Any:
    """The same with NaN for None: what `_plain` made of it, undone."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    """The same with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
