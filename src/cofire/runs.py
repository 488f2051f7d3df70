"""Trainings that differ in their seed: correlations of measures with accuracy, averaged, with intervals over runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cofire.errors import InputError, checked_seed
from cofire.scoring import paired_interval
from cofire.trajectories import ALL, KNOWN, TRIVIAL, Trajectory

if TYPE_CHECKING:
    import pandas

__all__ = ["Runs", "averaged", "over_runs"]

_STATISTICS = ("pearson", "spearman", "partial_spearman", "differences")
_KEYS = ("layer", "class", "measure", "against")  # what a row of a table is about; its other words and numbers are one run's

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Runs:
    """Several trainings that differ in their seed.

    Args:
        runs: Their trajectories.
        shuffled: Those of trainings on shuffled labels, the control.
    """

    runs: tuple[Trajectory, ...]
    shuffled: tuple[Trajectory, ...] = ()

    def frame(
        self, table: Callable[[Trajectory], "pandas.DataFrame"] | None = None, level: float = 0.95, seed: int = 0
    ) -> "pandas.DataFrame":
        """Correlations with accuracy, averaged over runs, with bootstrap intervals over runs.

        A row for each series, accuracy and statistic (as in :meth:`cofire.Trajectory.correlations`), with the columns of
        :func:`averaged`; how much larger its size is than that of each trivial baseline in the same run, as
        ``beyond_checkpoint_index`` and so on; and with a control the mean there as ``shuffled``. Each has its interval in
        ``beyond_checkpoint_index_low`` and so on.

        Args:
            table: A table of one run, such as :func:`cofire.hypotheses.modularities`, whose rows are to be averaged in its
                order; by default all correlations, the largest means first. Baselines stand beside rows on the accuracy of
                the model, not beside those on a class.
            level: Share of resampled means inside an interval. Three runs have ten different resamples: their interval is
                about from the smallest to the largest.
            seed: Of the resampling.
        """
        import pandas as pd

        known = _joined([run.correlations() for run in self.runs])
        mine = known if table is None else _joined([table(run) for run in self.runs])
        control = _joined([(table or Trajectory.correlations)(run) for run in self.shuffled])
        rows = []
        for key, values in mine.items():
            row = _row(key, values, level, seed)
            for name in TRIVIAL:
                other = known.get(tuple((dict(key) | {"layer": ALL, "measure": name}).items()))
                if other is not None:
                    row |= _interval(f"beyond_{name}", np.abs(values) - np.abs(other), level, seed)
            if self.shuffled:
                row |= _interval("shuffled", control.get(key, np.array([])), level, seed)
            rows.append(row)
        frame = pd.DataFrame(rows)
        if table is not None:
            return frame
        return frame.sort_values("mean", key=lambda column: -column.abs(), kind="stable", ignore_index=True)

    def verdict(self, against: str = "accuracy") -> str:
        """What the runs say together, in a few sentences.

        Args:
            against: "accuracy" or "test_accuracy".
        """
        what, count = against.replace("_", " "), len(self.runs)
        rows = [row for row in self.frame().to_dict("records") if row["against"] == against and row["measure"] not in KNOWN]
        enough = min(count, 2)
        partial = [row for row in rows if row["statistic"] == "partial_spearman" and row["runs"] >= enough]
        if not partial:
            least = "two runs or more" if enough == 2 else "the run"
            text = f"Nothing can be said: given the checkpoint's number, no measure relates to {what} in {least}. "
            return text + f"Where {what} rises with every checkpoint, the number leaves nothing to relate: train for longer."
        known = max(row["runs"] for row in partial)  # fewer where accuracy rises with every checkpoint of a run
        partial = [row for row in partial if row["runs"] == known]
        best, *_ = partial
        place = best["layer"], best["measure"], "spearman"
        (raw,) = [row for row in rows if (row["layer"], row["measure"], row["statistic"]) == place]
        over = "In one run" if count == 1 else f"Over {count if known == count else f'{known} of {count}'} runs"
        text = f"{over} and given the checkpoint's number, {best['measure']} of {best['layer']} goes most with {what}: "
        text += f"{_ends(best, 'mean')}, the largest of {len(partial)}. "
        if known > 1:
            text += f"Its interval {'leaves out' if best['mean_low'] > 0 or best['mean_high'] < 0 else 'holds'} 0. "
        for name in TRIVIAL:
            beyond = f"beyond_{name}"
            if not math.isnan(raw.get(beyond, math.nan)):
                word = "beats" if raw[f"{beyond}_low" if known > 1 else beyond] > 0 else "does not beat"
                text += f"Its Spearman correlation {word} that of {name} ({_ends(raw, beyond)}). "
        if not math.isnan(best.get("shuffled", math.nan)):
            text += f"On shuffled labels it has {_ends(best, 'shuffled')}. "
        if known == 1:
            text += "One run has no interval: repeat it with other seeds before you believe it."
        elif known < 6:
            text += f"With {known} runs an interval is hardly more than the smallest and the largest."
        return text.rstrip()


def over_runs(runs: Sequence[Trajectory], shuffled: Sequence[Trajectory] = ()) -> Runs:
    """Trajectories of trainings that differ in their seed, joined: means over runs with intervals.

    Args:
        runs: Trajectories of one architecture on one data set.
        shuffled: The same trainings on shuffled labels, as a control.

    Raises:
        InputError: Fewer than two runs, or none beside a control; other layers or classes in one of them, or no accuracy.
    """
    if len(runs) < (1 if shuffled else 2):
        raise InputError("an interval over runs needs at least two of them", f"found {len(runs)}")
    every = (*runs, *shuffled)
    layers = [{layer for layer, _ in run.values} - {ALL} for run in every]
    odd = next((at for at, held in enumerate(layers) if held != layers[0]), None)
    if odd is not None:
        raise InputError("all runs must be of one architecture", f"number {odd} has other layers than the first")
    classes = [{name for name, _ in run.by_class} for run in every]
    first = next(filter(None, classes), set())
    odd = next((at for at, held in enumerate(classes) if held and held != first), None)
    if odd is not None:
        raise InputError("all runs must be on one data set", f"number {odd} has other classes than those before it")
    silent = next((at for at, run in enumerate(every) if np.isnan(run.accuracy).all()), None)
    if silent is not None:
        raise InputError("every run must know its accuracy", f"number {silent} was recorded without a model's predictions")
    return Runs(tuple(runs), tuple(shuffled))


def averaged(tables: Sequence["pandas.DataFrame"], level: float = 0.95, seed: int = 0) -> "pandas.DataFrame":
    """A table of correlations that several runs have, averaged over them, with bootstrap intervals over runs.

    Args:
        tables: The table of each run, such as that of :meth:`cofire.Trajectory.correlations`.
        level: Share of resampled means inside an interval.
        seed: Of the resampling.

    Returns:
        A row for each row of the tables and each of its statistics (pearson, spearman, partial_spearman, differences):
        what the row is about (of layer, class, measure and against, what there is), statistic, runs (in which it is known),
        mean, mean_low, mean_high, and same_sign, the runs in which it has the sign of the mean. With one run there is no
        interval.

    >>> import pandas as pd
    >>> tables = [pd.DataFrame([{"layer": "fc1", "pearson": value}]) for value in (0.5, 0.75, -0.5)]
    >>> averaged(tables).to_dict("records")[0]
    {'layer': 'fc1', 'statistic': 'pearson', 'runs': 3, 'mean': 0.25, 'mean_low': -0.5, 'mean_high': 0.75, 'same_sign': 2}
    """
    import pandas as pd

    return pd.DataFrame([_row(key, values, level, seed) for key, values in _joined(tables).items()])


def _joined(tables: Sequence["pandas.DataFrame"]) -> dict[Key, np.ndarray]:
    """Each statistic of each row in each run, by what the row is about; NaN where a run has none."""
    found: dict[Key, np.ndarray] = {}
    for at, table in enumerate(tables):
        for row in table.to_dict("records"):
            about = tuple((name, row[name]) for name in _KEYS if name in row)
            for statistic in (name for name in _STATISTICS if name in row):
                key = (*about, ("statistic", statistic))
                found.setdefault(key, np.full(len(tables), math.nan))[at] = row[statistic]
    return found


def _row(key: Key, values: np.ndarray, level: float, seed: int) -> dict[str, Any]:
    found = _interval("mean", values, level, checked_seed(seed))
    shared = int((np.sign(values) == np.sign(found["mean"])).sum())
    return {**dict(key), "runs": int(np.isfinite(values).sum()), **found, "same_sign": shared}


def _interval(name: str, values: np.ndarray, level: float, seed: int) -> dict[str, float]:
    """Mean over the runs in which there is a number, and its interval; with one run no interval, with none nothing."""
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else math.nan
    low, high = paired_interval(torch.from_numpy(known), level, seed) if len(known) > 1 else (math.nan, math.nan)
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _ends(row: dict, column: str) -> str:
    if math.isnan(row[f"{column}_low"]):
        return f"{row[column]:+.2f}"
    return f"{row[column]:+.2f} ({row[f'{column}_low']:+.2f} to {row[f'{column}_high']:+.2f})"
