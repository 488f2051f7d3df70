"""Where the numbers of a training go: TensorBoard, a CSV file, or whatever takes a dictionary."""

import csv
import math
from collections.abc import Callable
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from cofire.errors import FileError, InputError
from cofire.files import atomic

__all__ = ["Log", "log_to"]

Log = Callable[[dict[str, float], int, int], object]
"""Takes scalars by name, the number of the window and that of the step."""


def log_to(target: Any) -> list[Log]:
    """What writes scalars to a target.

    Args:
        target: A path that ends with ``.csv``; another path, as TensorBoard's folder; TensorBoard's ``SummaryWriter``; an
            object with ``log_metrics(dict, step=)`` such as the module ``mlflow`` or a logger of Lightning; an object with
            ``log(dict)`` such as a run of wandb; a function of a dictionary; a list of these; None.

    Raises:
        InputError: Something else, or TensorBoard is not installed.

    >>> seen = []
    >>> [log] = log_to(seen.append)
    >>> log({"cofire/fc1/dead_units": 3.0, "cofire/fc1/modularity": math.nan}, 0, 120)
    >>> seen
    [{'cofire/fc1/dead_units': 3.0}]
    """
    if target is None:
        return []
    if isinstance(target, list | tuple):
        return [log for one in target for log in log_to(one)]
    if isinstance(target, str | Path):
        return [_Csv(target) if str(target).endswith(".csv") else _TensorBoard(target)]
    if hasattr(target, "add_scalar"):
        return [lambda scalars, _window, step: _add_scalars(target, scalars, step)]
    if hasattr(target, "log_metrics"):
        return [lambda scalars, _window, step: target.log_metrics(_numbers(scalars), step=step)]
    if hasattr(target, "log"):
        return [lambda scalars, _window, _step: target.log(_numbers(scalars))]
    if callable(target):
        return [lambda scalars, _window, _step: target(_numbers(scalars))]
    raise InputError(
        "log must be a path, a function of a dictionary, or an object with log, log_metrics or add_scalar",
        f"found {type(target).__name__}",
    )


def _numbers(scalars: dict[str, float]) -> dict[str, float]:
    """Those that exist: not every logger takes NaN."""
    return {name: value for name, value in scalars.items() if not math.isnan(value)}


def _add_scalars(writer: Any, scalars: dict[str, float], step: int) -> None:
    for name, value in _numbers(scalars).items():
        writer.add_scalar(name, value, step)
    writer.flush()


class _TensorBoard:
    """Writes event files; of a run that is resumed, those of later steps count no more."""

    def __init__(self, folder: str | Path):
        if find_spec("tensorboard") is None:
            raise InputError(
                "TensorBoard's files need the package tensorboard", "it is not installed",
                "pip install 'cofire[track]', or log to a path that ends with .csv.",
            )  # fmt: skip
        self._folder, self._writer = Path(folder), None

    def __call__(self, scalars: dict[str, float], window: int, step: int) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step if window else None)
        _add_scalars(self._writer, scalars, step)


class _Csv:
    """Writes a row for each window; of a run that is resumed, rows from its first window on are replaced."""

    def __init__(self, path: str | Path):
        self._path, self._columns = Path(path), []

    def __call__(self, scalars: dict[str, float], window: int, step: int) -> None:
        row = {"window": window, "step": step, **{name: _cell(value) for name, value in scalars.items()}}
        if self._columns and set(row) <= set(self._columns):
            with open(self._path, "a", encoding="utf-8", newline="") as file:
                file.write(_lines(self._columns, [row]))  # in one piece, so that a kill tears no more than this row
            return
        earlier = self._earlier(window)
        self._columns = list(dict.fromkeys([*(name for old in earlier for name in old), *row]))
        text = _lines(self._columns, [dict(zip(self._columns, self._columns, strict=True)), *earlier, row])
        with atomic(self._path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")

    def _earlier(self, window: int) -> list[dict[str, Any]]:
        if not window or not self._path.exists():
            return []
        with open(self._path, encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
        try:
            return [row for row in rows if int(row["window"]) < window]
        except (KeyError, ValueError) as error:
            raise FileError(
                f"wanted the CSV file of this training to go on with, {self._path}", f"found another file: {error}",
                "Name another path, or remove it.",
            ) from error  # fmt: skip


def _cell(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _lines(columns: list[str], rows: list[dict[str, Any]]) -> str:
    buffer = StringIO()
    csv.DictWriter(buffer, columns, restval="", lineterminator="\n").writerows(rows)
    return buffer.getvalue()
