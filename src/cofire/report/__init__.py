"""A report as one HTML file that needs no network, and beside it a JSON file with every number that it shows."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cofire.boosted import Boosted
from cofire.curves import Curve
from cofire.errors import InputError
from cofire.familiarities import Familiarity
from cofire.files import atomic
from cofire.images import Images
from cofire.orders import check_statistics
from cofire.report.contents import Payload, payload, twin
from cofire.report.page import assembled
from cofire.selective import Trust
from cofire.stats import FiringStats, check_kind
from cofire.trajectories import Trajectory
from cofire.weights import digest

__all__ = ["Payload", "payload", "twin", "write"]


def write(
    stats: FiringStats,
    path: str | os.PathLike[str],
    *,
    test: FiringStats | None = None,
    title: str | None = None,
    command: str | None = None,
    seed: int | None = None,
    notes: str | None = None,
    curves: Sequence[Curve] = (),
    boost: Boosted | None = None,
    trust: Trust | None = None,
    familiar: tuple[Familiarity, Images] | None = None,
    trajectories: Mapping[str, Trajectory] | None = None,
) -> Path:
    """Write a report on statistics: an HTML file that a browser opens without a network, and a JSON file of its numbers.

    Both are written whole or not at all.

    Args:
        stats: Statistics, as a rule of the training set.
        path: The HTML file to write; the JSON file has the same name and ends in `.json`.
        test: Statistics of the same model on other data: for its accuracy, and for how far measures carry over.
        title: Title of the page; by default it names the model.
        command: The command that made the statistics, for the section on reproduction.
        seed: The seed, likewise.
        notes: A paragraph to show below the title.
        curves: Ablation curves to draw, as :func:`cofire.ablate` gives them.
        boost: What :func:`cofire.boost` gave: its gains beside the controls, and its calibration.
        trust: What :func:`cofire.trust` gave: its scores, risk and coverage.
        familiar: What :func:`cofire.familiarity` gave, and the pictures that it is of: the least familiar are shown.
        trajectories: What :func:`cofire.trajectory` gave, by the name of the training; the first is shown first.

    Returns:
        The path of the HTML file.

    Raises:
        InputError: Something else in place of statistics, a boost or what else is given; a path that ends in `.json`, test
            statistics of another model, other layers or classes, or pictures that are not those of the familiarity.
        FileError: The place cannot be written.

    >>> import cofire, tempfile, torch
    >>> acts = {"fc1": torch.tensor([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])}
    >>> stats = cofire.FiringStats.from_activations(acts, torch.tensor([0, 0, 1]))
    >>> made = write(stats, Path(tempfile.mkdtemp()) / "report.html")
    >>> json.loads(made.with_suffix(".json").read_text(encoding="utf-8"))["columns"]["firing/0"]["values"]
    [[0.5, 1.0], [0.0, 1.0]]
    """
    check_kind(stats)
    if test is not None:
        check_kind(test, "test")
    first = familiar[0] if isinstance(familiar, Sequence) and familiar else familiar
    given: list[tuple[str, Any, type]] = [("boost", boost, Boosted), ("trust", trust, Trust), ("familiar", first, Familiarity)]
    given += [("curves", curve, Curve) for curve in (curves if isinstance(curves, Sequence) else [curves])]
    given += [("trajectories", each, Trajectory) for each in (trajectories or {}).values()]
    for name, value, kind in given:
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{name} must hold a cofire.{kind.__name__}", f"found {type(value).__name__}")
    if familiar is not None and not (isinstance(familiar, Sequence) and len(familiar) == 2 and isinstance(familiar[1], Images)):
        raise InputError("familiar must be a cofire.Familiarity and the pictures that it is of", "found no cofire.Images")
    for fitted in (boost, trust):
        if fitted is not None:
            check_statistics(stats, digest(fitted.model))
    path = Path(path)
    numbers = path.with_suffix(".json")
    if numbers == path:
        raise InputError(
            "path names the HTML file", f"found {str(path)!r}, which is where the numbers go", "Let it end in .html."
        )
    shown = payload(
        stats, test, title=title, command=command, seed=seed, notes=notes, created=datetime.now(UTC), curves=curves,
        boost=boost, trust=trust, familiar=familiar, trajectories=trajectories,
    )  # fmt: skip
    html = assembled(shown, numbers.name)
    with atomic(numbers) as temporary:
        temporary.write_text(
            json.dumps(twin(shown), ensure_ascii=False, separators=(",", ":"), allow_nan=False), encoding="utf-8"
        )
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8", newline="\n")
    return path
