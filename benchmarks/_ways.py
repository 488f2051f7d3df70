"""Our own recordings in their several modes, the papers' way of doing the same, and the statistics in NumPy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from _timing import Job
from _workloads import Workload
from torch import Tensor, nn

import cofire

__all__ = ["BINS", "JOB", "Contender", "Matrices", "channels", "entropies", "numpy_job", "ours", "papers", "plain"]

BINS = 30
JOB = "the job"
BY_CLASS = "the job, and histograms over each class's own range"


@dataclass(frozen=True)
class Contender:
    """A row of the table.

    Args:
        name: For the command line.
        title: For the table.
        does: What it computes, and where that is less than the job or something else.
        make: From a workload to the job; called in the contender's process, where it imports what it needs.
        package: The peer's package, for its version.
        shares: Share of the batches that it gets, by workload, where all would take too long.
        only: The workloads that it runs on; all by default.
        exact: Whether its entropies must be those of the papers' way.
    """

    name: str
    title: str
    does: str
    make: Callable[[Workload], Job]
    package: str | None = None
    shares: dict[str, float] | None = None
    only: tuple[str, ...] = ("*",)
    exact: bool = True


def plain(workload: Workload) -> Job:
    """The forward pass alone."""

    @torch.no_grad()
    def run():
        for inputs, _ in workload.batches:
            workload.model(inputs)

    return Job(run)


# ---------------------------------------------------------------- ours


def _ours(**options) -> Callable[[Workload], Job]:
    def make(workload: Workload) -> Job:
        def run():
            return cofire.record(
                workload.model, workload.batches, bins=BINS, progress=False, classes=workload.classes, **options
            )

        def answer(stats) -> dict:
            entropy = {} if options["histograms"] == "none" else _each(stats, cofire.activation_entropy)
            if options.get("by_class"):
                entropy |= {f"{k} by class": v for k, v in _each(stats, _by_class).items()}
            return {"entropy": entropy, "fire": _each(stats, lambda layer: layer.fire)}

        return Job(run, answer=answer)

    return make


def _by_class(layer):
    return cofire.activation_entropy(layer, by_class=True)


def _each(stats, measure) -> dict[str, np.ndarray]:
    """A measure of every layer, by the layer's place: names differ between tools."""
    return {str(place): measure(layer).numpy() for place, layer in enumerate(stats.values())}


def ours(convolutional: bool) -> list[Contender]:
    """The modes of :func:`cofire.record`."""
    off = {"maps": False} if convolutional else {}
    rows = [
        ("none", "no histograms", "the job without histograms", {"histograms": "none"}),
        ("cache", "exact histograms from a cache", JOB, {"histograms": "cache", "by_class": False}),
        ("cache-by-class", "the same, and by class", BY_CLASS, {"histograms": "cache", "by_class": True}),
        ("two-pass", "exact histograms in two passes", JOB, {"histograms": "two-pass", "by_class": False}),
        ("sketch", "histograms from the sketch", "the job, histograms approximate", {"histograms": "sketch"}),
    ]
    if convolutional:  # few units: what tells the others apart does not show
        rows = [row for row in rows if row[0] in ("none", "cache")]
    found = [
        Contender(f"cofire-{name}", f"cofire, {title}", does, _ours(**options, **off), exact=name != "sketch")
        for name, title, does, options in rows
    ]
    if convolutional:
        default = _ours(histograms="cache", by_class=True, maps=True)
        found.append(Contender("cofire-maps", "cofire, as it comes", f"{BY_CLASS}, and mean maps", default))
    return found


# ---------------------------------------------------------------- the papers' way


def channels(values: Tensor) -> Tensor:
    """Units [samples, units] of an activation; of a feature map, the means of its channels."""
    return values.mean((2, 3)) if values.ndim == 4 else values


def entropies(histograms: np.ndarray) -> np.ndarray:
    """Entropy in bits over the last axis but one of counts [..., bins, units]."""
    shares = histograms / np.maximum(histograms.sum(-2, keepdims=True), 1)
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return np.abs(-(shares * logs).sum(-2))


def statistics(values: np.ndarray, labels: np.ndarray, classes: int, by_class: bool) -> dict[str, np.ndarray]:
    """The statistics of activations [samples, units] as one writes them in NumPy."""
    units = values.shape[1]
    found = {name: np.zeros((classes, units)) for name in ("sum", "square_sum", "low", "high")}
    found |= {name: np.zeros((classes, units), np.int64) for name in ("fire", "zeros")}
    found["histogram"] = np.zeros((BINS, units), np.int64)
    for c in range(classes):
        rows = values[labels == c]
        found["fire"][c] = (rows > 0).sum(0)
        found["zeros"][c] = (rows == 0).sum(0)
        found["sum"][c] = rows.sum(0, dtype=np.float64)
        found["square_sum"][c] = np.square(rows, dtype=np.float64).sum(0)
        found["low"][c] = np.where(rows == 0, np.inf, rows).min(0, initial=np.inf)
        found["high"][c] = np.where(rows == 0, -np.inf, rows).max(0, initial=-np.inf)
    for u in range(units):
        found["histogram"][:, u] = _histogram(values[:, u])
    if by_class:
        found["class_histogram"] = np.zeros((classes, BINS, units), np.int64)
        for c in range(classes):
            rows = values[labels == c]
            for u in range(units):
                found["class_histogram"][c, :, u] = _histogram(rows[:, u])
    return found


def _histogram(column: np.ndarray) -> np.ndarray:
    # In float64, since NumPy would round the edges to float32 and so put values that lie on them into other bins.
    return np.histogram(column[column != 0].astype(np.float64), BINS)[0]


def numpy_job(workload: Workload, read: Callable[[], list[Tensor]], by_class: bool = False) -> Job:
    """A job whose reader gives each layer's activations [samples, units] and NumPy does the rest."""

    def finish(activations: list[Tensor]) -> list[dict]:
        labels = workload.labels.numpy()
        return [statistics(a.numpy(), labels, workload.classes, by_class) for a in activations]

    def answer(result: list[dict]) -> dict:
        entropy = {str(place): entropies(layer["histogram"]) for place, layer in enumerate(result)}
        if by_class:
            entropy |= {f"{place} by class": entropies(layer["class_histogram"]) for place, layer in enumerate(result)}
        return {"entropy": entropy, "fire": {str(place): layer["fire"] for place, layer in enumerate(result)}}

    return Job(finish, read, answer)


class Matrices:
    """The full matrices of activations [samples, units], one a layer, filled batch by batch: no second copy is ever needed."""

    def __init__(self, workload: Workload):
        self.samples, self.layers, self.first, self.place, self.rows = workload.samples, [], 0, 0, 0

    def add(self, values: Tensor) -> None:
        """Take the batch's next layer."""
        units = channels(values)
        if self.place == len(self.layers):
            self.layers.append(torch.empty(self.samples, units.shape[1]))
        self.layers[self.place][self.first : self.first + len(units)] = units
        self.place, self.rows = self.place + 1, len(units)

    def next_batch(self) -> None:
        """What comes is of the next batch."""
        self.first, self.place = self.first + self.rows, 0


def _hooked(workload: Workload) -> Callable[[], list[Tensor]]:
    """Reads through forward hooks on the ReLU modules, in the order of their calls."""

    @torch.no_grad()
    def read() -> list[Tensor]:
        found = Matrices(workload)
        relus = [module for module in workload.model.modules() if isinstance(module, nn.ReLU)]
        handles = [module.register_forward_hook(lambda _module, _inputs, output: found.add(output)) for module in relus]
        try:
            for inputs, _ in workload.batches:
                workload.model(inputs)
                found.next_batch()
        finally:
            for handle in handles:
                handle.remove()
        return found.layers

    return read


def _one_by_one(workload: Workload) -> Job:
    """The program of paper 004 goes through the samples one at a time."""

    def finish(activations: list[Tensor]) -> list[dict]:
        found = []
        for values in activations:
            fire = torch.zeros(workload.classes, values.shape[1], dtype=torch.int64)
            sums = torch.zeros(workload.classes, values.shape[1], dtype=torch.float64)
            for row, label in zip(values, workload.labels, strict=True):
                fire[label] += row > 0
                sums[label] += row
            found.append({"fire": fire, "sum": sums})
        return found

    def answer(result: list[dict]) -> dict:
        return {"entropy": {}, "fire": {str(place): layer["fire"].numpy() for place, layer in enumerate(result)}}

    return Job(finish, _hooked(workload), answer)


def papers() -> list[Contender]:
    """The papers' ways."""
    return [
        Contender(
            "papers", "papers' way: the full matrix, np.histogram per unit", JOB,
            lambda workload: numpy_job(workload, _hooked(workload)),
        ),
        Contender(
            "papers-by-class", "the same, and by class", BY_CLASS,
            lambda workload: numpy_job(workload, _hooked(workload), by_class=True),
            only=("mlp", "digits*"),
        ),
        Contender(
            "papers-one-by-one", "paper 004's way: one sample at a time", "class-wise firing counts and sums only", _one_by_one,
            shares={"mlp": 0.05}, only=("mlp", "digits"),
        ),
    ]  # fmt: skip


def share_of(contender: Contender, workload: Workload) -> float:
    """Share of the batches that this contender gets there, rounded up to whole batches."""
    wanted = (contender.shares or {}).get(workload.name, 1.0)
    return math.ceil(wanted * len(workload.batches)) / len(workload.batches)
