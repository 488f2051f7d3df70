"""Figures for papers and slides: ablation curves, distributions of measures over units, and trainings; matplotlib draws them.

A report shows more, and answers to the mouse; these are for where a file is wanted: ``save(figure, "curves.pdf")``.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cofire.checkpointing import History
from cofire.curves import Curve
from cofire.errors import InputError
from cofire.files import atomic
from cofire.measures import MEASURES, table
from cofire.stats import FiringStats
from cofire.trajectories import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["curves", "distributions", "form_of", "learning", "save", "trainings", "violins"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's, which colour-blind readers tell apart."""

_CHANCE = "#777777"
_DATES = {"pdf": "CreationDate", "svg": "Date"}
"""What must be left out of files that are to be the same each time."""

_DIRECTIONS = {"ascending": ("low first", "--"), "descending": ("high first", "-"), "random": ("", "-")}


def curves(curves: Iterable[Curve], names: Mapping[str, str] | None = None) -> "Figure":
    """Accuracy against the share of units removed: a panel for each layer and fill, a line for each order.

    Bands are from the least to the largest accuracy over runs, where a curve has several.

    Source:
        Paper 004, figures 6 to 22.

    Args:
        curves: From :func:`cofire.ablate` or :func:`cofire.ablation.curves_of`.
        names: Titles of layers, by name; by default the names themselves.

    Raises:
        InputError: No curves.

    >>> import cofire
    >>> digits = list(cofire.data.load("digits", limit=300).batches(100))
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    >>> stats = cofire.record(net, digits, progress=False)
    >>> figure = curves([cofire.ablate(net, digits, stats, order=order) for order in ("ascending", "descending", "random")])
    >>> [line.get_label() for line in figure.axes[0].lines]
    ['mutual_information, low first', 'mutual_information, high first', 'random']
    """
    panels: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        where = curve.layers[0] if len(curve.layers) == 1 else f"all {len(curve.layers)} layers"
        panels.setdefault((curve.fill, where), []).append(curve)
    if not panels:
        raise InputError("a figure needs at least one curve", "found none")
    fills, places = (list(dict.fromkeys(key[part] for key in panels)) for part in (0, 1))
    measures = dict.fromkeys(curve.by for found in panels.values() for curve in found if curve.order != "random")
    colours = {by: _COLOURS[at % len(_COLOURS)] for at, by in enumerate(measures)}
    figure, grid = _grid(len(fills), len(places), sharey=True)
    for (fill, where), found in panels.items():
        axes = grid[fills.index(fill)][places.index(where)]
        axes.set_title(f"{(names or {}).get(where, where)}, {fill} fill")
        for curve in found:
            direction, style = _DIRECTIONS[curve.order]
            share, colour = 100 * curve.removed / max(curve.units, 1), colours.get(curve.by, _CHANCE)
            label = f"{curve.by}, {direction}" if direction else "random"
            axes.plot(share, 100 * curve.accuracy, style, color=colour, label=label, linewidth=1.4)
            if len(curve.accuracies) > 1:
                low, high = curve.band
                axes.fill_between(share, 100 * low, 100 * high, color=colour, alpha=0.15, linewidth=0)
    _label(grid, "units removed, %", "accuracy, %")
    _legend(figure, grid)
    return figure


def violins(
    stats: FiringStats, measures: Sequence[str] = ("firing_entropy", "mutual_information", "kl_selectivity")
) -> "Figure":
    """How measures are distributed over the units of each layer: a panel for each measure, a violin with its median per layer.

    Source:
        The form of paper 004's figures of its measures.

    Args:
        stats: Statistics.
        measures: Columns of :func:`cofire.table`.

    Raises:
        InputError: A measure that the table does not have.

    >>> import cofire
    >>> digits = list(cofire.data.load("digits", limit=300).batches(100))
    >>> stats = cofire.record(cofire.zoo.model("fcnn:64-16-16-10", seed=0), digits, progress=False)
    >>> [axes.get_title() for axes in violins(stats, ["firing_entropy", "activation_entropy"]).axes]
    ['firing_entropy', 'activation_entropy']
    """
    units = dict(list(table(stats).groupby("layer")))
    offered = list(next(iter(units.values())).columns[2:])
    for measure in measures:
        if measure not in offered:
            raise InputError(f"a measure is one of {', '.join(offered)}", f"found {measure!r}")
    return distributions({measure: {layer: units[layer][measure].tolist() for layer in stats} for measure in measures})


def distributions(values: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """Violins of numbers: a panel for each measure, a violin with its median per layer; NaN is left out.

    Args:
        values: Numbers by measure and layer.
    """
    figure, grid = _grid(1, len(values), sharey=False)
    for axes, (measure, layers) in zip(grid[0], values.items(), strict=True):
        for place, found in enumerate(layers.values()):
            known = [value for value in found if value == value]
            if known:
                axes.violinplot([known], [place], showmedians=True, showextrema=False, widths=0.8)
        for drawn in axes.collections:
            drawn.set(color=_COLOURS[0])
        crowded = len(layers) > 3
        axes.set_xticks(range(len(layers)), list(layers), rotation=45 if crowded else 0, ha="right" if crowded else "center")
        axes.set(title=measure, ylabel=next((row.unit for row in MEASURES if row.name == measure), ""))
    return figure


def learning(histories: Mapping[str, History]) -> "Figure":
    """Loss and accuracy over the epochs of trainings, each a line; dashed on test data.

    Source:
        The form of paper 004's figures of its trainings.

    Args:
        histories: From :func:`cofire.fit`, by name.

    Raises:
        InputError: No histories.

    >>> import cofire
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    >>> history = cofire.fit(net, cofire.data.load("digits", limit=200), epochs=2, seed=0, progress=False)
    >>> [axes.get_title() for axes in learning({"one": history}).axes]
    ['loss', 'accuracy']
    """
    if not histories:
        raise InputError("a figure needs at least one training", "found none")
    figure, grid = _grid(1, 2, sharey=False)
    losses, accuracies = grid[0]
    for at, (name, history) in enumerate(histories.items()):
        colour = _COLOURS[at % len(_COLOURS)]
        losses.plot(history.epochs, history.train_loss, color=colour, label=name)
        accuracies.plot(history.epochs, 100 * np.array(history.train_accuracy), color=colour, label=name)
        tested = 100 * np.array(history.test_accuracy)
        if np.isfinite(tested).any():
            accuracies.plot(history.epochs, tested, "--", color=colour, label=f"{name}, test")
    losses.set(title="loss", ylabel="nats")
    accuracies.set(title="accuracy", ylabel="%")
    for axes in grid[0]:
        axes.set_xlabel("epoch")
        axes.locator_params("x", integer=True)
    _legend(figure, [[accuracies]])
    return figure


def trainings(
    trajectories: Mapping[str, Trajectory], layer: str = "all layers", measure: str = "activation_entropy_total"
) -> "Figure":
    """A measure and the accuracy over the checkpoints of trainings: a panel for each of them.

    Source:
        Paper 000, figure 2.

    Args:
        trajectories: From :func:`cofire.trajectory`, by the name that stands above the panel.
        layer: Whose measure.
        measure: Which.

    Raises:
        InputError: No trainings, or a series that one of them does not have.
    """
    if not trajectories:
        raise InputError("a figure needs at least one training", "found none")
    figure, grid = _grid(-(-len(trajectories) // 3), min(len(trajectories), 3), sharey=False)
    places = [axes for row in grid for axes in row]
    for axes, (name, path) in zip(places, trajectories.items(), strict=False):
        if (layer, measure) not in path.values:
            offered = ", ".join(f"{one} of {where}" for where, one in list(path.values)[:5])
            raise InputError(f"{name!r} has no {measure} of {layer}", f"it has {offered}, ...")
        axes.locator_params("x", integer=True)
        (own,) = axes.plot(path.values[layer, measure], color=_COLOURS[0], marker=".", label=f"{measure}, {layer}")
        other = axes.twinx()
        lines = [own, *other.plot(100 * path.accuracy, color=_COLOURS[1], label="accuracy, %")]
        if path.test_accuracy is not None:
            lines += other.plot(100 * path.test_accuracy, "--", color=_COLOURS[1], label="test accuracy, %")
        axes.set(title=name, xlabel="checkpoint")
        axes.tick_params("y", labelcolor=_COLOURS[0])
        other.tick_params("y", labelcolor=_COLOURS[1])
        other.spines["top"].set_visible(False)
        if axes is places[0]:
            figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False)
    for axes in places[len(trajectories) :]:
        axes.remove()
    return figure


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure as .pdf, .svg or .png: the same bytes for the same numbers, and words as words.

    Args:
        figure: The figure.
        path: The file; its ending says which.

    Raises:
        InputError: Another ending.
        FileError: The file cannot be written.
    """
    import matplotlib

    form, path = form_of(path), Path(path)
    with (
        matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none", "pdf.fonttype": 42}),
        atomic(path) as temporary,
    ):
        figure.savefig(temporary, format=form, dpi=150, metadata=None if form == "png" else {_DATES[form]: None})


def form_of(path: str | Path) -> str:
    """What a figure's file is by its ending: "pdf", "svg" or "png".

    Raises:
        InputError: Another ending.
    """
    form = Path(path).suffix.lower().removeprefix(".")
    if form not in (*_DATES, "png"):
        raise InputError("a figure is a .pdf, .svg or .png", f"found {str(path)!r}")
    return form


def _grid(rows: int, columns: int, sharey: bool) -> tuple["Figure", "list[list[Axes]]"]:
    """A figure of equal panels; made without pyplot, so that it leaves nothing open."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.6 + 3.2 * columns, 0.9 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid.tolist()


def _label(grid: "list[list[Axes]]", x: str, y: str) -> None:
    for axes in grid[-1]:
        axes.set_xlabel(x)
    for row in grid:
        row[0].set_ylabel(y)


def _legend(figure: "Figure", grid: "list[list[Axes]]") -> None:
    """One legend for all panels, below them, in as many columns as fit; each line after two makes the figure higher."""
    known = {line.get_label(): line for row in grid for axes in row for line in axes.lines}
    columns = min(len(known), 4)
    while True:
        legend = figure.legend(handles=list(known.values()), loc="outside lower center", ncols=columns, frameon=False)
        if columns <= 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
        columns -= 1
    lines = -(-len(known) // max(columns, 1))
    figure.set_figheight(figure.get_figheight() + 0.2 * max(lines - 2, 0))
