"""One pass over labelled data with a model: its firing statistics."""

import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor, nn

from cofire.accumulate import Choices, LayerAccumulator, check_finite, covariance_limit
from cofire.batches import (
    Batch,
    as_batch,
    check_iterable,
    class_names_of,
    classes_of,
    logits_of,
    predictions,
    samples_in,
    valid_rows,
)
from cofire.errors import ActivationError, CofireWarning, InputError, LayerError
from cofire.kernels import Workspace
from cofire.layer import LayerStats
from cofire.listing import LayerInfo, LayerList
from cofire.processes import gather, share_ranges, share_totals, world_size
from cofire.progress import track
from cofire.stats import FiringStats
from cofire.taps import Taps
from cofire.version import __version__
from cofire.weights import digest, weight_norm
from cofire.wrappers import device_of

__all__ = ["described", "layers", "record"]

_WAYS = ("auto", "cache", "two-pass", "sketch", "none")
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def layers(model: nn.Module, example: Any, *, layers=None, pool: str = "mean") -> LayerList:
    """The hidden activations of a model in the order of its forward pass: name, kind, layout, shape, units.

    Args:
        model: The model; it is run once on the example, in eval mode, and left as it was.
        example: Inputs of the model: a tensor, a tuple of arguments, a mapping, or a batch (inputs, labels).
        layers: Names, globs or a predicate, as for :func:`record`.
        pool: How positions become units.

    Raises:
        ModelError: Nothing was seen, or the model is scripted.
        LayerError: A named layer does not exist.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> print(layers(net, torch.zeros(2, 4)))
    name  kind  layout  shape  units
    1     relu  dense   8      8
    """
    if isinstance(example, tuple | list) and len(example) == 2 and isinstance(example[1], Tensor):
        labels = example[1]
        if labels.ndim == 1 and not labels.is_floating_point() and len(labels) == samples_in(example[0]):
            example = example[0]
    samples = samples_in(example)
    if samples is None:
        raise InputError("the example must hold a tensor", f"found {type(example).__name__}")
    if samples == 1 and isinstance(example, Tensor):
        example, samples = (
            torch.cat([example, example]),
            2,
        )  # with one sample, any table of one row would look like a layer
    with Taps(model, layers, pool) as taps:
        device = device_of(taps.model)
        taps.forward(example.to(device) if isinstance(example, Tensor) else example, samples, lambda *_: None)
    taps.check()
    return taps.layers


def record(
    model: nn.Module, batches: Iterable, layers=None, pool: str = "mean", threshold: float | None = None, bins: int = 30,
    top: int = 50, device=None, progress: bool = True, *, classes: int | None = None, class_names=None,
    histograms: str = "auto", memory: str | int = "2GB", by_class: bool | str = "auto", levels: int = 2, maps: bool = True,
    softmax: bool = False, cofiring: str = "auto", covariance: bool | int = 256, reference: FiringStats | None = None,
) -> FiringStats:  # fmt: skip
    """Firing statistics of a model's hidden layers over labelled data, class by class.

    The model runs in eval mode without gradients and is left as it was. Counts are exact and do not depend on batch size or
    order. The activation histograms need every unit's range, which is known only at the end; ``histograms`` says how:
    ``"cache"`` keeps the activations until then, ``"two-pass"`` reads the data twice, ``"sketch"`` bins them on a grid whose
    range doubles (entropies within about 0.01 bits, memory independent of the number of samples), and ``"auto"`` caches while
    ``memory`` allows and then takes the second pass, or the sketch where the data can be read only once. ``"none"`` leaves
    histograms out, and with them the activation entropy.

    Under ``torch.distributed`` every process passes its own share of the data and all get the statistics of the whole;
    the samples that a DistributedSampler repeats to fill the last round are counted once.

    Args:
        model: Any eager PyTorch classifier.
        batches: An iterable of (inputs, labels), of (input, ..., labels), or of mappings with labels.
        layers: None for all hidden activations; names or globs of activations (see :func:`layers`) or of modules; a predicate.
        pool: How positions become units: "mean" or "max" over them, or "none" for a unit per position.
        threshold: A unit fires above it; by default 0.5 for sigmoids and 0 for all others.
        bins: Bins of the activation histogram.
        top: Representative units per class.
        device: Where to run; by default where the model is. The model is not moved.
        progress: Show a progress bar on a terminal.
        classes: Number of classes; by default the data's class names, else the width of the model's output.
        class_names: Names of the classes; by default the data's.
        histograms: "auto", "cache", "two-pass", "sketch" or "none".
        memory: Budget of the cache, such as "2GB" or a number of bytes.
        by_class: Keep histograms over each class's own range; "auto" leaves them out where they would not fit the budget.
        levels: Levels to which units are quantised for the information measures.
        maps: Keep the mean map of each class for convolutional layers.
        softmax: Also sum every sample's softmax over units, for ``softmax_entropy(order="softmax_first")``.
        cofiring: Count the samples in which two representative units are both above their class means, which
            :func:`coactivation` needs: "class" for the pairs of each class's own representative units, "union" for all pairs
            of representative units, "none"; "auto" is "class" where the counts fit the budget. It takes the second phase, so
            there is none with the histograms "sketch" and "none".
        covariance: Also sum the products of all pairs of units, which some orders of :func:`ablate` need, in layers of at most
            so many units; True in all of them.
        reference: Statistics of an earlier recording whose histogram edges and class means to use, so that the two add exactly.

    Raises:
        InputError: No sample, batches or labels of another form, labels out of range.
        LayerError: A named layer does not exist or was not called.
        ModelError: No hidden activation, or a scripted model.
        ActivationError: NaN or infinite activations, or a second pass that saw other values than the first.
    """
    if histograms not in _WAYS:
        raise InputError(f"histograms must be one of {', '.join(_WAYS)}", f"found {histograms!r}")
    if by_class not in (True, False, "auto"):
        raise InputError('by_class must be True, False or "auto"', f"found {by_class!r}")
    rereadable = iter(batches) is not batches if hasattr(batches, "__iter__") else False
    if histograms == "two-pass" and not rereadable:
        raise InputError(
            'histograms="two-pass" reads the data twice', "these batches are an iterator, which can be read only once",
            'Pass a DataLoader or a list, or choose histograms="sketch".',
        )  # fmt: skip
    if cofiring not in ("auto", "class", "union", "none"):
        raise InputError('cofiring must be "auto", "class", "union" or "none"', f"found {cofiring!r}")
    pairs = "class" if cofiring == "auto" else cofiring
    choices = Choices(bins, levels, by_class is not False, top, pool, softmax, pairs, covariance_limit(covariance))
    recording = _Recording(choices, threshold, classes, _bytes(memory), histograms, by_class, cofiring, rereadable, reference)
    with Taps(model, layers, pool, maps) as taps:
        place = device_of(taps.model, device)
        for batch in _read(batches, place, recording, "recording", progress):
            recording.first(taps, batch, batches)
        recording.meet()
        taps.check() if world_size() == 1 else None
        if recording.way == "two-pass":
            recording.open()
            for batch in _read(batches, place, recording, "second pass", progress):
                recording.second(taps, batch)
            recording.check_second()
        elif recording.way == "cache":
            recording.open()
    header = {
        "model": {"name": type(taps.model).__name__, "digest": digest(taps.model)},
        "weight_norm": weight_norm(taps.model),
        "data": described(batches),
        "class_names": list(class_names) if class_names is not None else class_names_of(batches),
        "histograms": recording.said,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"cofire": __version__, "torch": torch.__version__, "python": sys.version.split()[0]},
    }
    stats = recording.finish(header, [info.name for info in taps.layers])
    if len(stats.class_names) < stats.classes:
        raise InputError(
            "there must be one name per class", f"found {len(stats.class_names)} names for {stats.classes} classes",
            "Pass class_names= for all of them.",
        )  # fmt: skip
    empty = [stats.class_names[c] for c in range(stats.classes) if not stats.class_counts[c]]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        warnings.warn(
            f"no sample of class {', '.join(map(repr, empty[:5]))}{more}; what is said of it is NaN",
            CofireWarning,
            stacklevel=2,
        )
    return stats


def _read(batches: Iterable, device, recording: "_Recording", what: str, progress: bool):
    check_iterable(batches)
    own, seen = valid_rows(batches), 0
    for index, item in enumerate(track(batches, what, progress)):
        recording.place = f"batch {index}"
        batch = as_batch(item, device, recording.classes, recording.place)
        recording.keep = len(batch) if own is None else max(0, min(len(batch), own - seen))
        seen += len(batch)
        if len(batch):
            yield batch


class _Recording:
    """The state of one call of :func:`record`."""

    def __init__(self, choices, threshold, classes, memory, histograms, by_class, cofiring, rereadable, reference):
        self.choices, self.threshold, self.classes, self.memory = choices, threshold, classes, memory
        self.by_class, self.cofiring, self.rereadable, self.reference = by_class, cofiring, rereadable, reference
        self.explicit = histograms != "auto"
        self.way = "reference" if reference is not None else "cache" if histograms == "auto" else histograms
        self.accumulators: dict[str, LayerAccumulator] = {}
        self.infos: dict[str, LayerInfo] = {}
        self.cached = 0
        self.work: dict[torch.device, Workspace] = {}
        self.class_counts: Tensor | None = None
        self.confusion: Tensor | None = None
        self.second_sums: dict[str, float] = {}
        self.place, self.keep = "batch 0", 0

    def first(self, taps: Taps, batch: Batch, batches: Iterable) -> None:
        """First phase of one batch."""
        seen: list[tuple] = []
        waiting = self.class_counts is None  # until the output has shown the classes; in a first pass all are clones

        def sink(info, units, maps):
            seen.append((info, units, maps)) if waiting else self._add(info, units, maps, batch.labels)

        output = taps.forward(batch.inputs, len(batch), sink, batch.mask)
        logits = logits_of(output)
        if self.class_counts is None:
            if self.classes is None:
                self.classes = classes_of(batches, logits, batch.labels)
                as_batch((batch.labels, batch.labels), None, self.classes, self.place)  # are the labels in range?
            self.class_counts = torch.zeros(self.classes, dtype=torch.int64, device=batch.labels.device)
            self._decide_by_class([units.shape[1] for _, units, _ in seen])
            for info, units, maps in seen:
                self._add(info, units, maps, batch.labels)
        labels = batch.labels[: self.keep]
        self.class_counts += torch.bincount(labels, minlength=self.classes)
        guess = predictions(logits, self.classes, taps.sigmoid)  # type: ignore[arg-type]
        if guess is not None:
            if self.confusion is None:
                self.confusion = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=guess.device)  # type: ignore[arg-type]
            pairs = labels.to(guess.device) * self.classes + guess[: self.keep]
            self.confusion += torch.bincount(pairs, minlength=self.classes**2).view_as(self.confusion)  # type: ignore[operator]

    def _decide_by_class(self, units: list[int]) -> None:
        budget, classes = self.memory / 4, self.classes or 0
        needed = 4 * classes * self.choices.bins * sum(units)
        if self.way in ("sketch", "none") or (self.by_class == "auto" and needed > budget):
            self.choices = replace(self.choices, by_class=False)
        pairs = 4 * classes * sum(min(self.choices.top, width) ** 2 for width in units)
        if self.way in ("sketch", "none") or (self.cofiring == "auto" and pairs > budget):
            self.choices = replace(self.choices, cofiring="none")

    def _add(self, info: LayerInfo, units: Tensor, maps: Tensor | None, labels: Tensor) -> None:
        units, labels = units[: self.keep], labels[: self.keep].to(units.device)
        check_finite(units, info.name, self.place)
        accumulator = self.accumulators.get(info.name) or self._new(info, units.dtype, units.device)
        accumulator.update(units, labels)
        if maps is not None:
            accumulator.add_maps(maps[: self.keep], labels)
        if self.way == "cache" and not self.explicit:
            self.cached += units.numel() * units.element_size()
            if self.cached > self.memory:
                self._leave_cache()

    def _new(self, info: LayerInfo, dtype: torch.dtype, device: torch.device) -> LayerAccumulator:
        work = self.work.setdefault(device, Workspace(device))
        threshold = info.threshold if self.threshold is None else float(self.threshold)
        choices = self.choices
        if self.reference is not None and self.cofiring == "auto":
            choices = replace(choices, cofiring=self.reference[info.name].counted_pairs)
        accumulator = LayerAccumulator(
            self.classes or 1,
            info.units,
            threshold,
            choices,
            dtype,
            work,
            self.way == "sketch",
            self.way == "cache",
        )
        if self.reference is not None:
            accumulator.open(self.reference[info.name].basis_for(accumulator))
        self.accumulators[info.name], self.infos[info.name] = accumulator, info
        return accumulator

    def _leave_cache(self) -> None:
        """The cache is full: read the data again later or, where that is not possible, go over to the sketch."""
        self.way = "two-pass" if self.rereadable and world_size() == 1 else "sketch"
        for accumulator in self.accumulators.values():
            accumulator.release(sketch=self.way == "sketch")

    def meet(self) -> None:
        """Between the phases: all processes agree on layers, ranges and the way to go on."""
        for accumulator in self.accumulators.values():
            accumulator.settle()
        if world_size() == 1:
            if self.class_counts is None:
                raise InputError("there must be at least one sample", "the batches are empty")
            return
        mine = {
            "classes": self.classes, "way": self.way, "by_class": self.choices.by_class, "cofiring": self.choices.cofiring,
            "confusion": self.confusion is not None,
            "layers": {name: (info, self.accumulators[name].dtype) for name, info in self.infos.items()},
        }  # fmt: skip
        parts = gather(mine)
        everyone = [part for part in parts if part["classes"] is not None and part["layers"]]
        if not everyone:
            raise InputError("there must be at least one sample", "the batches of every process are empty")
        self.classes = everyone[0]["classes"]
        self.choices = replace(self.choices, by_class=everyone[0]["by_class"], cofiring=everyone[0]["cofiring"])
        device = next((a.work.device for a in self.accumulators.values()), torch.device("cpu"))
        if self.class_counts is None:
            self.class_counts = torch.zeros(self.classes, dtype=torch.int64, device=device)  # type: ignore[arg-type]
        if self.confusion is None and any(part["confusion"] for part in everyone):
            self.confusion = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=device)  # type: ignore[arg-type]
        if self.way == "cache" and any(part["way"] == "sketch" for part in parts):
            self._leave_cache()
        for part in everyone:
            for name, (info, dtype) in part["layers"].items():
                if name not in self.accumulators:
                    self._new(info, dtype, device)
        if self.way in ("cache", "two-pass"):
            for name in sorted(self.accumulators):
                accumulator = self.accumulators[name]
                share_ranges(accumulator.moments)
                accumulator.shared = share_totals(accumulator.totals())

    def open(self) -> None:
        """Begin the second phase; from the cache, it ends here too."""
        for accumulator in self.accumulators.values():
            accumulator.open()
            accumulator.replay()

    def second(self, taps: Taps, batch: Batch) -> None:
        """Second phase of one batch, run again."""

        def sink(info, units, _maps):
            units, labels = units[: self.keep], batch.labels[: self.keep].to(units.device)
            accumulator = self.accumulators.get(info.name)
            if accumulator is None:
                raise LayerError(f"layer {info.name!r} was called in the second pass only", "", "Leave it out with layers=.")
            accumulator.count(units, labels)
            self.second_sums[info.name] = self.second_sums.get(info.name, 0.0) + float(units.sum(dtype=torch.float64))

        taps.forward(batch.inputs, len(batch), sink, batch.mask)

    def check_second(self) -> None:
        """Raise if the second pass saw other values, as it does under random augmentation."""
        for name, accumulator in self.accumulators.items():
            accumulator.settle()
            first, size = float(accumulator.moments.sum.sum()), float(accumulator.moments.square_sum.sum())
            count = int(accumulator.class_counts.sum()) * accumulator.units
            if abs(self.second_sums.get(name, 0.0) - first) > 1e-5 * (size * count) ** 0.5:
                raise ActivationError(
                    "the second pass must see the samples of the first",
                    f"the activations of layer {name!r} sum to {self.second_sums.get(name, 0.0):.6g} after {first:.6g}",
                    'Switch random augmentation off, or choose histograms="cache" or "sketch".',
                )

    @property
    def said(self) -> str:
        """How the histograms came about, for the header."""
        return {
            "cache": "exact (cache)", "two-pass": "exact (two passes)", "sketch": "sketch", "none": "none",
            "reference": "exact (edges of a reference)",
        }[self.way]  # fmt: skip

    def finish(self, header: dict, order: list[str]) -> FiringStats:
        """The statistics, on the CPU and, with several processes, of all of them."""
        names = [name for name in order if name in self.accumulators]
        names += [name for name in self.accumulators if name not in names]
        layers = {}
        for name in names:
            info, accumulator = self.infos[name], self.accumulators[name]
            fields = {key: value.cpu() for key, value in accumulator.fields().items()}
            choices = accumulator.choices if "cofire" in fields else replace(accumulator.choices, cofiring="none")
            threshold = accumulator.moments.threshold
            layers[name] = LayerStats(name, info.kind, info.layout, info.shape, threshold, choices, **fields)
        counts, confusion = self.class_counts.cpu(), None if self.confusion is None else self.confusion.cpu()  # type: ignore[union-attr]
        return FiringStats(layers, counts, confusion, header).all_reduce()


def _bytes(memory: str | int) -> int:
    if isinstance(memory, int) and not isinstance(memory, bool) and memory >= 0:
        return memory
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(memory), re.IGNORECASE)
    if match is None:
        raise InputError("memory must be bytes or a size such as '2GB'", f"found {memory!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def described(batches: Iterable) -> dict[str, str]:
    """What batches say of their data: its name, and of :class:`cofire.images.Images` the split, a digest and how it is read."""
    dataset = getattr(batches, "dataset", None)
    name = getattr(dataset, "name", None) or type(dataset if dataset is not None else batches).__name__
    found = {"name": str(name), "split": getattr(dataset, "part", None), "digest": getattr(dataset, "digest", None)}
    found["reading"] = getattr(batches, "reading", None)
    return {key: value for key, value in found.items() if isinstance(value, str)}
