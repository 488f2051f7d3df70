"""Cumulative ablation: remove units in some order, one after the other, and measure what that does to accuracy."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofire.batches import Batch, as_batch, check_iterable, check_readable_again
from cofire.calls import calls_of
from cofire.chains import Chain, Walk, chain_from
from cofire.consumers import outgoing_weights
from cofire.curves import Curve
from cofire.errors import InputError, LayerError, checked_count, checked_seed
from cofire.firing import covariance, unit_spread
from cofire.layer import LayerStats
from cofire.listing import LayerInfo
from cofire.moments import covariances, fisher_moments
from cofire.orders import ASCENDING, GREEDY, WEIGHTED, check_statistics, scores_of, sequence
from cofire.prefixes import kept_before
from cofire.progress import track
from cofire.readings import form_of, scores_in
from cofire.resuming import Resumable
from cofire.stats import FiringStats, check_kind
from cofire.taps import Taps
from cofire.weights import digest
from cofire.wrappers import device_of

__all__ = ["ablate", "curves_of"]

_EVERY = 48  # steps after which removed units are taken out of the matrices
_ROWS = 2048  # samples walked at once
_FEW = 20  # steps where every one is a whole forward pass


def ablate(
    model: nn.Module, batches: Iterable, stats: FiringStats, by: str | Mapping[str, Tensor] = "mutual_information",
    order: str = "ascending", layers: str | Sequence[str] | None = None, fill: str = "mean",
    steps: int | Sequence[int] | None = None, seeds: int = 5, *, across: str = "shares", seed: int = 0, device=None,
    progress: bool = True, resume: str | Path | None = None,
) -> Curve:  # fmt: skip
    """Remove units in the order of a measure, and measure accuracy as they go.

    Where the model goes from the first of the layers to its output by linear maps and non-linearities alone, what comes before
    is computed once, and removing one more unit is an outer product; everywhere else each step is a forward pass with the
    removed units held at their fill, in which modules that are through before the first of the layers are not run again.
    Both give the accuracies of a masked forward pass.

    Source:
        Paper 004 (cumulative ablation; "bias balancing" is ``fill="mean"``). *Departure:* a random order removes the same
        units and more at every step; the published code draws a new set each time.

    Args:
        model: The model that the statistics are of.
        batches: Labelled data to measure accuracy on; not that of the statistics, unless that is what is asked.
        stats: Statistics of the units.
        by: A per-unit measure; "firing_rate", "mean" or "std"; "weight_std", "reconstruction" or "obs", which look at the next
            layer's weights; "fisher", which takes gradients of the logits on the batches, without labels; scores, {layer:
            [units]}; or "random", which is ``order="random"``.
        order: "ascending" removes low values first, "descending" high values, "random" needs no measure.
        layers: Names or globs of one or more layers; all of them together by default.
        fill: What a removed unit gives: "mean", its mean in the statistics, or "zero".
        steps: Numbers of removed units to measure at, or how many such numbers; by default every one where that is cheap, and
            20 even steps elsewhere. Whoever names them names 0 too, where the whole model is wanted to compare with.
        seeds: Runs of a random order.
        across: With several layers, "shares" removes the same share of each, "raw" compares scores between layers.
        seed: The first seed, and that of "fisher".
        device: Where to run; by default where the model is.
        progress: Show a progress bar on a terminal.
        resume: A file to keep the state in; a run that was stopped goes on from there, over the same batches in the same order,
            and the file is removed at the end.

    Raises:
        InputError: An unknown measure, order or fill, scores or steps that do not fit, statistics of another model.
        LayerError: A layer that the statistics do not hold, or that the model did not call.
        ModelError: The model gives no class scores, or for another number of classes than the statistics have.

    >>> import cofire
    >>> digits = cofire.data.load("digits", limit=200)
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    >>> stats = cofire.record(net, digits.batches())
    >>> curve = ablate(net, digits.batches(), stats, steps=[0, 8, 16], progress=False)
    >>> curve.removed.tolist(), curve.accuracy.shape
    ([0, 8, 16], torch.Size([3]))
    """
    state = Resumable(resume)
    curve = _curve(model, batches, stats, by, order, layers, fill, steps, seeds, across, seed, device, progress, state)
    state.done()
    return curve


def _curve(
    model: nn.Module, batches: Iterable, stats: FiringStats, by, order: str, layers, fill: str, steps, seeds: int, across: str,
    seed: int, device, progress: bool, state: Resumable,
) -> Curve:  # fmt: skip
    """What :func:`ablate` gives; the state stays where it is kept."""
    check_kind(stats)
    check_iterable(batches)
    names, seed = _layers(stats, layers), checked_seed(seed)
    order = "random" if isinstance(by, str) and by == "random" else order
    if order not in ("ascending", "descending", "random"):
        raise InputError('order must be "ascending", "descending" or "random"', f"found {order!r}")
    if fill not in ("mean", "zero"):
        raise InputError('fill must be "mean" or "zero"', f"found {fill!r}")
    if across not in ("shares", "raw"):
        raise InputError('across must be "shares" or "raw"', f"found {across!r}")
    seeds = checked_count(seeds, "seeds")
    weights = digest(model)
    check_statistics(stats, weights)
    units = {name: stats[name].units for name in names}
    if (fill == "mean" or by == "fisher") and any(stats[name].choices.pool == "max" for name in names):
        raise InputError(
            'fill="mean" and by="fisher" need means', 'the statistics were recorded with pool="max"', 'Record with pool="mean".'
        )
    fills = {name: _fill(stats[name], fill) for name in names}
    runner = _Ablation(model, stats, names, units, fills, device)
    with runner:
        runner.open(batches)
        at = _steps(steps, sum(units.values()), runner.chain is not None)
        if order == "random":
            runs = [sequence(None, units, "random", seed=seed + step) for step in range(seeds)]
        else:
            runs = [sequence(runner.scores(by, batches, seed), units, order, across)]
        state.of({"digest": weights, "runs": runs, "steps": at, "fill": fill, "layers": names})
        correct, losses, counts = runner.measure(batches, runs, at, state, progress)
    samples = int(counts.sum())
    label = "random" if order == "random" else by if isinstance(by, str) else "scores"
    return Curve(
        torch.tensor(at), correct.sum(2).double() / samples, losses / samples, correct.double() / counts, label, order, fill,
        tuple(names), sum(units.values()), tuple(map(tuple, runs)), samples, tuple(runner.notes),
    )  # fmt: skip


def curves_of(
    model: nn.Module, batches: Iterable, stats: FiringStats, by: Sequence[str], *, order: str = "both",
    layers: str | Sequence[str] | None = None, each: bool = False, fill: str = "mean", steps=None, seeds: int = 5,
    seed: int = 0, device=None, progress: bool = True, resume: str | Path | None = None,
) -> list[Curve]:  # fmt: skip
    """Curves of several orders beside a random one, as paper 004 draws them.

    Args:
        model: The model.
        batches: Labelled data to measure accuracy on.
        stats: Statistics of the model's units.
        by: Names of orders.
        order: "ascending", "descending" or "both"; orders that look at what follows are ascending only.
        layers: Names or globs of the layers to look at; all by default.
        each: Curves of every layer by itself, before those of all together.
        fill: "mean", "zero" or "both".
        steps: As for :func:`ablate`.
        seeds: Runs of the random order.
        seed: The first seed.
        device: Where to run; by default where the model is.
        progress: Show progress bars on a terminal.
        resume: A folder to keep the state of every curve in; a run that was stopped goes on from there, over the same batches
            in the same order, and the folder is emptied at the end.

    Raises:
        InputError: As :func:`ablate`; or another order.
    """
    if order not in ("ascending", "descending", "both"):
        raise InputError('order must be "ascending", "descending" or "both"', f"found {order!r}")
    directions = ("ascending", "descending") if order == "both" else (order,)
    names = _layers(stats, layers)
    groups = [*([name] for name in names if each or len(names) == 1), *([names] if len(names) > 1 else [])]
    curves: list[Curve] = []
    states: list[Resumable] = []
    for group in groups:
        for held in ("mean", "zero") if fill == "both" else (fill,):
            named = [name for name in by if name != "random"]
            runs = [(name, way) for name in named for way in (("ascending",) if name in ASCENDING else directions)]
            for name, way in [*runs, ("random", "random")]:
                states.append(Resumable(None if resume is None else Path(resume) / f"curve-{len(curves):03d}.safetensors"))
                curves.append(_curve(
                    model, batches, stats, name, way, group, held, steps, seeds, "shares", seed, device, progress, states[-1],
                ))  # fmt: skip
    for state in states:
        state.done()
    return curves


def _layers(stats: FiringStats, layers: str | Sequence[str] | None) -> list[str]:
    if layers is None:
        return list(stats)
    found = stats.named(layers)
    if not found:
        raise LayerError("layers must name at least one layer", "found none", "layers=None takes all.")
    return found


def _fill(layer: LayerStats, fill: str) -> Tensor:
    return unit_spread(layer)[0] if fill == "mean" else torch.zeros(layer.units, dtype=torch.float64)


def _steps(steps: int | Sequence[int] | None, units: int, cheap: bool) -> list[int]:
    if isinstance(steps, bool) or (isinstance(steps, int) and steps < 1):
        raise InputError("steps must be at least 1, or numbers of removed units", f"found {steps!r}")
    if steps is None:
        steps = units + 1 if cheap and units <= 2048 else (201 if cheap else _FEW + 1)
    if isinstance(steps, int):
        count = min(steps, units + 1)
        return sorted({round(units * place / max(count - 1, 1)) for place in range(count)})
    try:
        asked = [float(step) for step in steps]
    except (TypeError, ValueError):
        asked = []
    if not asked or not all(step.is_integer() and 0 <= step <= units for step in asked):
        raise InputError(f"steps must be whole numbers between 0 and the {units:,} units of these layers", f"found {steps!r}")
    return sorted({int(step) for step in asked})


class _Ablation:
    """One call of :func:`ablate`: taps on the model, and the chain after its first layer where there is one."""

    def __init__(self, model, stats: FiringStats, names: list[str], units, fills: dict[str, Tensor], device):
        self.stats, self.names, self.units, self.fills = stats, names, units, fills
        pools = {stats[name].choices.pool for name in names}
        self.taps = Taps(model, list(stats), pools.pop() if len(pools) == 1 else "mean")
        self.device = device_of(model, device)
        self.chain: Chain | None = None
        self.notes: list[str] = []

    def __enter__(self):
        self.taps.__enter__()
        return self

    def __exit__(self, *exception):
        self.taps.__exit__(*exception)

    def open(self, batches: Iterable) -> None:
        """Look at the first batch: which layers there are, and whether a chain follows the first."""
        check_readable_again(batches)
        item = next(iter(batches), None)
        if item is None:
            raise InputError("there must be at least one sample", "the batches are empty")
        batch = as_batch(item, self.device, self.stats.classes, "batch 0")
        output = self.taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
        self.form = form_of(output, self.stats.classes, self.taps.sigmoid)
        self.taps.check()
        for name in self.names:
            info = self.taps.known.get(name)
            if info is None or info.units != self.units[name]:
                found = "was not called" if info is None else f"has {info.units} units, not {self.units[name]}"
                raise LayerError(f"layer {name!r} of the statistics must be one of the model's", f"it {found}")
        self.first, self.seen = batch, calls_of(self.taps, batch)
        chain = chain_from(self.seen, self.names[0])
        if chain is not None and set(self.names) <= set(chain.layers):
            self.chain = chain

    def scores(self, by, batches: Iterable, seed: int) -> dict[str, Tensor]:
        """Scores of all units."""
        layers = {name: self.stats[name] for name in self.names}
        word = by if isinstance(by, str) else ""
        bare = [name for name, layer in layers.items() if word in GREEDY and layer.product_sum is None]
        weights: dict[str, Tensor] = {}
        if word in WEIGHTED:
            weights = outgoing_weights(self.seen, self.taps, self.first, {n: layer.units for n, layer in layers.items()})
        spreads = {n: covariance(layer) for n, layer in layers.items() if word in GREEDY and n not in bare}
        fishers: dict[str, Tensor] = {}
        if bare:
            spreads |= covariances(self.taps, self._read(batches), bare)
            self.notes.append(
                f"The covariance of {', '.join(map(repr, bare))} was not recorded and was taken from the inputs, without "
                "labels, that accuracy is measured on; record with covariance=True to take it from the statistics."
            )
        if word == "fisher":
            means = {name: unit_spread(layer)[0] for name, layer in layers.items()}
            fishers = fisher_moments(self.taps, self._read(batches), means, self.stats.classes, seed)
            self.notes.append("Gradients were taken on the inputs, without labels, that accuracy is measured on.")
        return {
            name: scores_of(by, layer, weights.get(name), spreads.get(name), fishers.get(name))
            for name, layer in layers.items()
        }

    def _read(self, batches: Iterable) -> Iterator[Batch]:
        for index, item in enumerate(batches):
            batch = as_batch(item, self.device, self.stats.classes, f"batch {index}")
            if len(batch):
                yield batch

    def measure(self, batches, runs, at, state: Resumable, progress) -> tuple[Tensor, Tensor, Tensor]:
        """Correct predictions [runs, steps, classes], summed losses [runs, steps] and samples [classes]."""
        classes = self.stats.classes
        shape = (len(runs), len(at), classes)
        empty = {
            "correct": torch.zeros(shape, dtype=torch.int64), "losses": torch.zeros(shape[:2], dtype=torch.float64),
            "counts": torch.zeros(classes, dtype=torch.int64),
        }  # fmt: skip
        totals, done = state.begin(empty)
        waiting: list[tuple[Any, Tensor]] = []
        index = -1
        for index, item in enumerate(track(batches, "ablation", progress)):
            if index < done:
                continue
            batch = as_batch(item, self.device, classes, f"batch {index}")
            if not len(batch):
                continue
            waiting.append((self._entry(batch) if self.chain is not None else batch, batch.labels))
            if self.chain is None or sum(len(labels) for _, labels in waiting) >= _ROWS:
                self._add(waiting, runs, at, totals)
                waiting = []
                state.keep(totals, index + 1)
        if waiting:
            self._add(waiting, runs, at, totals)
            state.keep(totals, index + 1)
        if not int(totals["counts"].sum()):
            raise InputError("there must be at least one sample", "the batches are empty")
        return totals["correct"], totals["losses"], totals["counts"]

    def _entry(self, batch: Batch) -> Tensor:
        """The activations at the chain's entry; everything before it is computed once."""
        found: list[Tensor] = []
        self.taps.edit = lambda info, output: found.append(output.detach().clone()) if info.name == self.names[0] else None
        try:
            self.taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
        finally:
            self.taps.edit = None
        return found[0]

    @torch.no_grad()
    def _add(self, waiting: list[tuple[Any, Tensor]], runs, at: list[int], totals: dict[str, Tensor]) -> None:
        """Measure all runs on some samples."""
        labels = torch.cat([labels for _, labels in waiting])
        member = F.one_hot(labels, self.stats.classes).float()
        totals["counts"] += member.sum(0).long().cpu()
        with nullcontext() if self.chain is not None else kept_before(self.taps, waiting[0][0], self.names[0]):
            for run, order in enumerate(runs):
                right, losses = [], []
                for output in self._walk(waiting, order, at) if self.chain is not None else self._masked(waiting, order, at):
                    scores = scores_in(output, self.form).float()
                    right.append(scores.max(1).indices == labels)
                    # several times as fast along rows
                    losses.append(F.cross_entropy(scores.T[None], labels[None], reduction="sum"))
                totals["correct"][run] += (torch.stack(right).float() @ member).long().cpu()
                totals["losses"][run] += torch.stack(losses).cpu()

    def _walk(self, waiting: list[tuple[Any, Tensor]], order, at: list[int]) -> Iterator[Tensor]:
        """The logits at each step."""
        walk, gone, since = Walk(self.chain, torch.cat([entry for entry, _ in waiting]), self.fills), 0, 0  # type: ignore[arg-type]
        for removed in at:
            for layer, unit in order[gone:removed]:
                walk.remove(layer, unit)
            since += removed - gone
            gone = removed
            if since >= _EVERY:
                walk.compact()
                since = 0
            yield walk.settle()

    def _masked(self, waiting: list[tuple[Any, Tensor]], order, at: list[int]) -> Iterator[Any]:
        """The outputs at each step, each by what follows the first layer of a forward pass."""
        ((batch, _),) = waiting
        for removed in at:
            gone: dict[str, list[int]] = {}
            for layer, unit in order[:removed]:
                gone.setdefault(layer, []).append(unit)
            places = {name: torch.tensor(sorted(units)) for name, units in gone.items()}

            def edit(info: LayerInfo, output: Tensor, places=places) -> None:
                if info.name in places:
                    info.arrangement.hold(output, places[info.name], self.fills[info.name][places[info.name]])

            self.taps.edit = edit
            try:
                output = self.taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
            finally:
                self.taps.edit = None
            yield output
