"""Measures over the checkpoints of a training, and what relates to accuracy beyond that both drift."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cofire import baselines
from cofire.correlations import constant, correlation, partial_correlation, rank_correlation, ranks
from cofire.errors import InputError
from cofire.graphs import Coactivation, coactivation, sensible_top, unique_units
from cofire.information import activation_entropy
from cofire.margins import Outputs
from cofire.measures import MEASURES, summary
from cofire.modularities import modularity, modularity_bisection, modularity_chen, modularity_shen
from cofire.partitions import communities
from cofire.stats import FiringStats

if TYPE_CHECKING:
    import pandas

__all__ = ["ALL", "KNOWN", "TRIVIAL", "Trajectory", "related", "trajectory", "values_of"]

TRIVIAL = ("checkpoint_index", "weight_norm", "active_share")
"""What any measure has to beat: the checkpoint's number, the norm of its weights, and the share of units that fire at all."""

ALL = "all layers"
"""The place of what is of the whole model."""
KNOWN = {*TRIVIAL, *(row.name for row in baselines.BASELINES)} - {row.name for row in MEASURES}
"""The series that are baselines, not measures."""
_SUMMARISED = ("activation_entropy_total", *(row.name for row in MEASURES))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Measures of a model's layers over its checkpoints.

    Args:
        names: Names of the checkpoints, in order.
        values: A series over checkpoints for each (layer, measure), float64 [checkpoints].
        accuracy: Accuracy on the recorded data at each checkpoint, float64 [checkpoints]; NaN where it is not known.
        test_accuracy: The same on test data; None without it.
        by_class: Series for each (class, "accuracy") and (class, "activation_entropy_total"), the latter over the class's own
            samples and summed over all units; empty where either was not recorded.
        communities: At each checkpoint and by layer, the vertices of the communities of the co-firing graph (Louvain), the
            largest first.
    """

    names: tuple[str, ...]
    values: dict[tuple[str, str], np.ndarray]
    accuracy: np.ndarray
    test_accuracy: np.ndarray | None = None
    by_class: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    communities: tuple[dict[str, tuple[int, ...]], ...] = ()

    def frame(self) -> "pandas.DataFrame":
        """A tidy pandas frame: checkpoint, name, layer, measure, value, and accuracy beside it."""
        import pandas as pd

        rows = [
            (at, self.names[at], layer, measure, series[at], self.accuracy[at],
             math.nan if self.test_accuracy is None else self.test_accuracy[at])
            for (layer, measure), series in self.values.items()
            for at in range(len(self.names))
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["checkpoint", "name", "layer", "measure", "value", "accuracy", "test_accuracy"])

    def correlations(self) -> "pandas.DataFrame":
        """How each series goes with accuracy: a pandas frame, the largest partial correlations first, baselines among them.

        Columns: layer, measure, against ("accuracy" or "test_accuracy"), checkpoints, pearson, spearman, partial_spearman
        (given the checkpoint's index), differences (Pearson's of the changes from one checkpoint to the next), and a note
        where a number is missing. Of one run, none of them has an interval: checkpoints of one training are no independent
        samples.
        """
        import pandas as pd

        frame = pd.DataFrame(self._rows())
        if len(frame):
            frame = frame.sort_values("partial_spearman", key=lambda column: -column.abs(), kind="stable", ignore_index=True)
        return frame

    def verdict(self, against: str = "accuracy") -> str:
        """What the correlations say, in a few sentences.

        Args:
            against: "accuracy" or "test_accuracy".
        """
        what, count = against.replace("_", " "), len(self.names)
        rows = [row for row in self._rows() if row["against"] == against]
        own = [row for row in rows if row["measure"] not in KNOWN and not math.isnan(row["spearman"])]
        if not own:
            return f"Nothing can be said: no measure and {what} both change over the checkpoints."
        raw = max(own, key=lambda row: abs(row["spearman"]))
        text = f"Of {len(own)} series over {count} checkpoints, {raw['measure']} of {raw['layer']} goes most with {what} "
        text += f"(Spearman {raw['spearman']:+.2f}). "
        index = max(abs(row["spearman"]) for row in rows if row["measure"] == "checkpoint_index")
        if index >= abs(raw["spearman"]) - 1e-12:
            text += f"The number of the checkpoint alone does as well ({index:.2f}), so that says nothing. "
        partial = [row for row in own if not math.isnan(row["partial_spearman"])]
        if not partial:
            return (
                text
                + f"Given the checkpoint's number, nothing is left to relate: {what}, or each of the measures, only follows it."
            )
        best = max(partial, key=lambda row: abs(row["partial_spearman"]))
        text += f"Given the checkpoint's number, the strongest is {best['measure']} of {best['layer']} "
        text += f"({best['partial_spearman']:+.2f}), the largest of {len(partial)}: with {count} checkpoints, "
        limit = math.sqrt(2 * math.log(2 * len(partial)) / max(count - 3, 1))  # the largest of so many by chance, about
        text += "chance alone may give as much." if abs(best["partial_spearman"]) < limit else "more than chance would give."
        return text + " Repeat the training with other seeds before you believe it."

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for against in ("accuracy", "test_accuracy"):
            target = getattr(self, against)
            if target is None or np.isnan(target).all():
                continue
            for (layer, measure), series in self.values.items():
                rows.append({"layer": layer, "measure": measure, "against": against, **related(series, target)})
        return rows


def trajectory(
    checkpoints: Iterable[FiringStats], test: Iterable[FiringStats] | None = None, names: Sequence[str] | None = None
) -> Trajectory:
    """Every measure of every layer over the checkpoints of one training.

    Per-unit measures are means over live units, those by class means over classes; ``activation_entropy_total`` is the papers'
    sum. Where co-firing counts were recorded, modularities, the mean number of unique units and the mean size of a community
    are there too, and always the baselines of :data:`cofire.baselines.BASELINES` that come from statistics, and the norm of the
    weights where the statistics are a recording's. :func:`cofire.follow` makes the statistics of checkpoints on the disk, and
    :mod:`cofire.hypotheses` paper 001's tables.

    Source:
        Papers 000 (section 7.1) and 001 (section 7). *Departure:* beside each raw correlation stand that given the checkpoint's
        index, that of the changes, and the same for series that know nothing of firing.

    Args:
        checkpoints: Statistics of the same data with the weights of each checkpoint, in order; before training is one. They
            are read one by one, so that a generator need not hold them all.
        test: The same on test data; only accuracy is taken from it.
        names: Names of the checkpoints; by default their numbers.

    Raises:
        InputError: Fewer than three checkpoints; other layers, samples, labels or classes in one of them; names or test
            statistics that do not fit.

    >>> import cofire
    >>> digits = cofire.data.load("digits", limit=300)
    >>> net = cofire.zoo.model("fcnn:64-32-10", seed=0)
    >>> seen = [cofire.record(net, digits.batches())]
    >>> for epoch in range(3):
    ...     _ = cofire.fit(net, digits, epochs=1, seed=epoch, progress=False)
    ...     seen.append(cofire.record(net, digits.batches()))
    >>> path = trajectory(seen)
    >>> len(path.names), path.values["relu1", "mutual_information"].shape
    (4, (4,))
    """
    first, found, by_class, sizes, accuracy = None, [], [], [], []
    for at, stats in enumerate(checkpoints):
        first = stats if first is None else first
        _compare(first, stats, str(at) if names is None or at >= len(names) else names[at])
        norm = stats.header.get("weight_norm")
        trivial = {(ALL, "checkpoint_index"): float(at), **({} if norm is None else {(ALL, "weight_norm"): norm})}
        graphs = _graphs(stats)
        groups = {name: communities(graph) for name, graph in graphs.items()}
        searched = {(name, "modularity_bisection"): modularity_bisection(graph) for name, graph in graphs.items()}
        searched |= {(name, "nodes_per_community"): group.mean_size for name, group in groups.items()}
        found.append(trivial | _values(stats, graphs, baselines.table(stats)) | searched)
        by_class.append(_by_class(stats))
        sizes.append({name: tuple(found.sizes.tolist()) for name, found in groups.items()})
        accuracy.append(_accuracy(stats))
    count = len(found)
    if count < 3:
        raise InputError("a trajectory needs at least three checkpoints", f"found {count}")
    names = list(map(str, range(count) if names is None else names))
    if len(names) != count:
        raise InputError("there must be one name per checkpoint", f"found {len(names)} for {count}")
    tested = None if test is None else np.array([_accuracy(stats) for stats in test])
    if tested is not None and len(tested) != count:
        raise InputError("there must be test statistics for every checkpoint", f"found {len(tested)} for {count}")
    return Trajectory(tuple(names), _series(found), np.array(accuracy), tested, _series(by_class), tuple(sizes))


def _compare(first: FiringStats, stats: FiringStats, name: str) -> None:
    """Raise where a checkpoint cannot stand beside the first."""
    if list(stats) != list(first) or any(stats[layer].units != first[layer].units for layer in first):
        raise InputError("all checkpoints must be of one architecture", f"checkpoint {name!r} has other layers than the first")
    digests = [one.header.get("data", {}).get("digest") for one in (first, stats)]
    odd = (
        ("numbers of samples by class", stats.class_counts.tolist() != first.class_counts.tolist()),
        ("classes", stats.class_names != first.class_names),
        ("pictures or labels", None not in digests and digests[0] != digests[1]),
    )
    for what, differs in odd:
        if differs:
            raise InputError("all checkpoints must be recorded on the same samples", f"checkpoint {name!r} has other {what}")


def _series(found: Sequence[dict]) -> dict[Any, np.ndarray]:
    """A series for each key of any of the dictionaries, NaN where one lacks it."""
    keys = dict.fromkeys(key for values in found for key in values)
    return {key: np.array([values.get(key, math.nan) for values in found]) for key in keys}


def _accuracy(stats: FiringStats) -> float:
    return math.nan if stats.accuracy is None else stats.accuracy


def _by_class(stats: FiringStats) -> dict[tuple[str, str], float]:
    """Each class's accuracy, and the entropy of its samples' activations summed over all units, where both were recorded."""
    if stats.class_accuracy is None or any(layer.class_histogram is None for layer in stats.values()):
        return {}
    entropy = torch.stack([activation_entropy(layer, by_class=True).sum(1) for layer in stats.values()]).sum(0)
    numbers = {"activation_entropy_total": entropy, "accuracy": stats.class_accuracy}
    return {(name, key): float(of[c]) for c, name in enumerate(stats.class_names) for key, of in numbers.items()}


def values_of(stats: FiringStats, model: nn.Module | None = None, seen: Outputs | None = None) -> dict[tuple[str, str], float]:
    """Every measure and baseline of one model, a number for each (layer, measure): a line of a comparison of models.

    Args:
        stats: Its statistics.
        model: The model, for the baselines of its weights.
        seen: Its outputs on training data from :func:`cofire.margins.outputs`, for theirs.

    Returns:
        Numbers by layer and measure; those of the whole model under "all layers". Baselines without a value are left out.
    """
    return _values(stats, _graphs(stats), baselines.table(stats, model, seen))


def _graphs(stats: FiringStats) -> dict[str, Coactivation]:
    """The co-firing graph of each layer whose counts were recorded."""
    return {name: coactivation(layer, sensible_top(layer)) for name, layer in stats.items() if layer.cofire is not None}


def _values(stats: FiringStats, graphs: Mapping[str, Coactivation], frame: "pandas.DataFrame") -> dict[tuple[str, str], float]:
    frame = frame.dropna(subset=["value"])
    found = dict(zip(zip(frame.layer, frame.baseline, strict=True), frame.value, strict=True))
    rows = summary(stats).to_dict("records")
    for row in rows:
        name = row["layer"]
        here = {"active_share": row["live"] / row["units"], **{key: row[key] for key in _SUMMARISED if key in row}}
        here |= _of_graph(graphs[name]) if name in graphs else {}
        found |= {(name, measure): value for measure, value in here.items()}
    live, units = (sum(row[key] for row in rows) for key in ("live", "units"))
    entropy = sum(row.get("activation_entropy_total", math.nan) for row in rows)
    return found | {(ALL, "active_share"): live / max(units, 1), (ALL, "activation_entropy_total"): entropy}


def _of_graph(graph: Coactivation) -> dict[str, float]:
    forms = {"modularity": modularity, "modularity_shen": modularity_shen, "modularity_chen": modularity_chen}
    unique = float(unique_units(graph).diagonal().double().mean())
    return {**{name: form(graph) for name, form in forms.items()}, "unique_units": unique}


def related(series: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """How a series over checkpoints goes with another: a line of :meth:`Trajectory.correlations`."""
    known = np.isfinite(series) & np.isfinite(target)
    x, y, index = series[known], target[known], np.flatnonzero(known).astype(float)
    both = {"the measure": x, "accuracy": y}
    flat = [what for what, values in both.items() if constant(values)]
    drifts = [what for what, values in both.items() if abs(rank_correlation(values, index)) > 1 - 1e-12]
    if len(x) < 3:
        note = "fewer than three checkpoints have both"
    else:
        note = f"{flat[0]} is constant" if flat else f"{drifts[0]} only follows the checkpoint's number" if drifts else ""
    numbers = {
        "pearson": correlation(x, y), "spearman": rank_correlation(x, y),
        "partial_spearman": partial_correlation(ranks(x), ranks(y), index), "differences": correlation(np.diff(x), np.diff(y)),
    }  # fmt: skip
    return {"checkpoints": len(x), **numbers, "note": note}
