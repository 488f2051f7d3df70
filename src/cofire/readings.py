"""A frozen model read batch by batch: its hidden units, its class scores and the labels, with nothing kept."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from cofire.batches import Batch, as_batch, check_iterable, is_probability, logits_of, samples_in
from cofire.errors import InputError, LayerError, ModelError
from cofire.listing import LayerInfo
from cofire.orders import check_statistics
from cofire.progress import track
from cofire.stats import FiringStats
from cofire.taps import Taps
from cofire.weights import digest
from cofire.wrappers import device_of

__all__ = ["Reader", "Reading", "Sight", "form_in", "form_of", "scores_in"]


@dataclass(frozen=True)
class Reading:
    """What one batch showed.

    Args:
        units: Hidden units by layer, [samples, units], pooled as in the statistics.
        firing: Share of positions at which a unit fires, [samples, units], by layer of which it is asked for; zeros and ones
            where there is one.
        logits: Class scores whose softmax are the model's probabilities, [samples, classes].
        labels: True classes, int64 [samples].
        inputs: The model's inputs.
    """

    units: dict[str, Tensor]
    firing: dict[str, Tensor]
    logits: Tensor
    labels: Tensor
    inputs: Any

    def __len__(self) -> int:
        return len(self.logits)


class Reader:
    """A context in which a model's hidden units are read beside its class scores, batch by batch.

    The model runs in eval mode without gradients and is as it was when the context ends.

    Args:
        model: The model that the statistics are of.
        stats: Its statistics: they name the layers, and say how positions become units and above what a unit fires.
        layers: Some of their layers; by default all.
        device: Where to run; by default where the model is.
        form: What the model's output holds, by :func:`form_of`; by default the first batch tells.
        shares: Layers whose firing is asked for; by default all. It takes a pass over every position.

    Raises:
        InputError: Statistics of another model, or recorded with ``pool="none"`` in some layers and not in others.
        LayerError: A layer that the statistics do not hold, or none.

    >>> import cofire
    >>> digits = cofire.data.load("digits", limit=100)
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    >>> stats = cofire.record(net, digits.batches())
    >>> with Reader(net, stats) as reader:
    ...     [reading.units["relu1"].shape for reading in reader.over(digits.batches(batch_size=60))]
    [torch.Size([60, 16]), torch.Size([40, 16])]
    """

    def __init__(
        self,
        model: nn.Module,
        stats: FiringStats,
        layers: str | Sequence[str] | None = None,
        device: Any = None,
        form: str = "",
        shares: Collection[str] | None = None,
    ):
        names = [layers] if isinstance(layers, str) else list(stats) if layers is None else list(layers)
        if not names:
            raise LayerError("layers must name at least one layer", "found none", "layers=None takes all.")
        pools = {stats[name].choices.pool for name in names}
        if len(pools) != 1:
            raise InputError("layers must be recorded with one way of pooling", f"found {', '.join(sorted(pools))}")
        check_statistics(stats, digest(model))
        self.stats, self.names, self.device = stats, names, device_of(model, device)
        self.taps = Taps(model, names, pools.pop())
        self.form = form
        """What the model's output holds, once a batch was read."""
        self.shares = shares
        """Layers whose firing is asked for."""
        self._ready = False

    def __enter__(self):
        self.taps.__enter__()
        return self

    def __exit__(self, *exception):
        self.taps.__exit__(*exception)

    def over(self, batches: Iterable, what: str = "batches", progress: bool = False) -> Iterator[Reading]:
        """Readings of labelled batches.

        Args:
            batches: (inputs, labels) or mappings with labels, as for :func:`cofire.record`.
            what: What they are called.
            progress: Show one on a terminal.

        Raises:
            InputError: Batches or labels of another form, or none, or inputs whose class scores have no softmax.
        """
        check_iterable(batches, what)
        seen = 0
        for index, item in enumerate(track(batches, f"reading {what}", progress)):
            place = f"batch {index} of {what}"
            batch = as_batch(item, self.device, self.stats.classes, place)
            if len(batch):
                seen += len(batch)
                yield self.read(batch, place)
        if not seen:
            raise InputError("there must be at least one sample", f"found none in {what}")

    def unlabelled(self, inputs: Any) -> Reading:
        """The reading of inputs whose classes nobody knows; its labels are all -1."""
        count = samples_in(inputs)
        if not count:
            raise InputError("inputs must hold at least one sample", f"found {type(inputs).__name__}")
        batch = as_batch((inputs, torch.zeros(count, dtype=torch.int64)), self.device, None, "the inputs")
        return replace(self.read(batch, "the inputs"), labels=torch.full_like(batch.labels, -1))

    def read(self, batch: Batch, what: str = "the batch") -> Reading:
        """The reading of one batch on the reader's device.

        Args:
            batch: The batch.
            what: What to call it in an error.

        Raises:
            InputError: Class scores that have no softmax.
            LayerError: A layer was not called.
            ModelError: The output holds no class scores, or for another number of classes.
        """
        if not self._ready:  # which call is which layer is judged in the first forward pass, and units are seen from the second
            output = self.taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
            self.taps.check()
            self.form, self._ready = self.form or form_of(output, self.stats.classes, self.taps.sigmoid), True
        thresholds = {name: self.stats[name].threshold for name in self.names}
        sight = Sight(thresholds, self.taps.pool, batch.mask, self.shares)
        self.taps.edit = sight.see
        try:
            output = self.taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
        finally:
            self.taps.edit = None
        scores = scores_in(output, self.form)
        if unknown := int((~scores.amax(1).isfinite()).sum()):  # also where NaN is among them
            wanted = "class scores must be finite, or minus infinity for some of the classes"
            raise InputError(wanted, f"they are not for {unknown:,} samples of {what}")
        return Reading(*sight.all(), scores, batch.labels.clone(), batch.inputs)  # some loaders fill one tensor again and again


class Sight:
    """What a forward pass shows of some layers: pooled units, and the share of positions at which they fire.

    Args:
        thresholds: The layers, and above what their units fire.
        pool: How positions become units.
        mask: Which tokens count.
        shares: The layers whose firing is asked for; by default all.
    """

    def __init__(self, thresholds: Mapping[str, float], pool: str, mask: Tensor | None, shares: Collection[str] | None = None):
        self.thresholds, self.pool, self.mask = thresholds, pool, mask
        self.shares = thresholds if shares is None else shares
        self.units: dict[str, Tensor] = {}
        self.firing: dict[str, Tensor] = {}

    def see(self, info: LayerInfo, output: Tensor) -> None:
        """Take up one layer's activation."""
        place, name = info.arrangement, info.name
        self.units[name] = place.pool(output, self.pool, self.mask)
        if name not in self.shares:
            return
        if place.layout in ("conv", "tokens", "recurrent") and output.ndim > 2:
            self.firing[name] = place.pool(output > self.thresholds[name], "mean", self.mask)
        else:
            self.firing[name] = (self.units[name] > self.thresholds[name]).to(self.units[name].dtype)

    def all(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Units and firing of every layer.

        Raises:
            ModelError: A layer was not called.
        """
        missing = next((name for name in self.thresholds if name not in self.units), None)
        if missing is not None:
            raise ModelError(f"layer {missing!r} must be called in every batch", "it was not called in this one")
        return {name: self.units[name] for name in self.thresholds}, self.firing


def form_of(output: Any, classes: int | None, sigmoid: bool) -> str:
    """What a model's output holds for each class: "logits" or "probabilities", of every class or, of two, of the second.

    Rows of numbers of at least 0 that sum to 1 are probabilities; so is the single output of a model that ends with a sigmoid.

    Args:
        output: The model's output.
        classes: Number of classes; None for as many as the output has, and two where it has one.
        sigmoid: What :attr:`cofire.watching.Watch.sigmoid` says of the model.

    Returns:
        "logits", "probabilities", "logit" or "probability".

    Raises:
        ModelError: No tensor of class scores, or another number of classes.
    """
    logits = logits_of(output)
    if logits is None:
        raise ModelError("the model must give class scores [samples, classes]", "its output holds no such tensor")
    if logits.shape[1] == 1 and classes in (2, None):
        return "probability" if is_probability(logits, sigmoid) else "logit"
    if classes is not None and logits.shape[1] != classes:
        raise ModelError(
            "the model must give a score for every class of the statistics", f"it gives {logits.shape[1]} for {classes} classes"
        )
    rounding = max(1e-3, torch.finfo(logits.dtype).eps) if logits.is_floating_point() else 1e-3
    shares = bool((logits >= 0).all()) and bool(((logits.double().sum(1) - 1).abs() < rounding).all())
    return "probabilities" if shares else "logits"


def form_in(model: nn.Module, batch: Batch, classes: int | None = None) -> str:
    """What a model's outputs hold, by :func:`form_of`, as a forward pass of one batch shows it."""
    with Taps(model) as taps:
        output = taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
    return form_of(output, classes, taps.sigmoid)


def scores_in(output: Any, form: str) -> Tensor:
    """Class scores whose softmax are the model's probabilities, float32 or float64 [samples, classes].

    Those of probabilities are their logarithms, whose exponentials sum to one beyond the rounding of the model's type.

    Args:
        output: The model's output.
        form: What it holds, by :func:`form_of`.

    >>> scores_in(torch.tensor([[0.25, 0.75]]), "probabilities").exp().round(decimals=4).tolist()
    [[0.25, 0.75]]
    """
    logits = logits_of(output)
    if logits is None:
        raise ModelError("the model must give class scores [samples, classes]", "its output holds no such tensor")
    logits = logits if logits.dtype in (torch.float32, torch.float64) else logits.float()
    if form == "probabilities":
        return logits.clamp(min=1e-12).log().log_softmax(1)
    if form in ("logit", "probability"):
        logits = torch.logit(logits, 1e-6) if form == "probability" else logits
        return torch.cat([torch.zeros_like(logits), logits], 1)
    return logits
