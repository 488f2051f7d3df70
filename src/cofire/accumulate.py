"""From activations to the statistics of one layer: first the moments, then histograms over ranges that are known by then."""

import math
import warnings
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from cofire.cofiring import Cofiring, paired, pairing
from cofire.errors import ActivationError, CofireWarning, InputError
from cofire.kernels import Moments, Rows, Sketch, Workspace, add_histogram, bin_scale, refine

__all__ = ["Choices", "LayerAccumulator", "as_labels", "as_values", "check_finite", "covariance_limit"]


@dataclass(frozen=True)
class Choices:
    """What is counted, and how finely.

    Args:
        bins: Bins of the activation histogram.
        levels: Levels to which a unit is quantised for the information measures; 2 is firing or not.
        by_class: Keep a histogram of every class over that class's own range.
        top: Representative units per class.
        pool: How positions become units: "mean", "max" or "none".
        softmax: Also sum every sample's softmax over units.
        cofiring: Pairs to count: "class" for the pairs of each class's representative units, "union" for all pairs of
            representative units, "none"; "apart" in a sum of recordings over different class means, whose counts do not add.
        covariance: Sum the products of all pairs of units in layers of at most so many units.
    """

    bins: int = 30
    levels: int = 2
    by_class: bool = True
    top: int = 50
    pool: str = "mean"
    softmax: bool = False
    cofiring: str = "class"
    covariance: int = 256

    def __post_init__(self):
        for name, least in (("bins", 1), ("levels", 2), ("top", 1), ("covariance", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}", f"found {value!r}")
        if self.bins > 10_000:
            raise InputError("bins must be at most 10,000", f"found {self.bins:,}")
        if self.pool not in ("mean", "max", "none"):
            raise InputError('pool must be "mean", "max" or "none"', f"found {self.pool!r}")
        if self.cofiring not in ("class", "union", "none", "apart"):
            raise InputError('cofiring must be "class", "union" or "none"', f"found {self.cofiring!r}")

    def as_dict(self) -> dict:
        """The choices as plain values."""
        return asdict(self)


def covariance_limit(covariance: bool | int) -> int:
    """The largest layer whose covariance is kept, from what the user says."""
    if covariance is True:
        return 2**31
    return int(covariance) if covariance is False else covariance


def _tensor(value) -> Tensor:
    """A tensor of anything that holds numbers; arrays of another stride or byte order than torch takes are copied."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray) and (not value.dtype.isnative or min(value.strides, default=0) < 0):
        value = value.astype(value.dtype.newbyteorder("="))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes to it
        return torch.as_tensor(value)


def as_values(values, name: str = "activations") -> Tensor:
    """Activations as a contiguous float32 or float64 tensor [samples, units]; arrays and other number types are converted."""
    try:
        values = _tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} must be a tensor or an array [samples, units]", f"found {type(values)}") from error
    if values.ndim != 2:
        raise InputError(
            f"{name} must be [samples, units]",
            f"found shape {tuple(values.shape)}",
            "Average or flatten the positions first, for instance acts.mean((2, 3)) for [samples, channels, height, width].",
        )
    if not values.shape[1] or values.device.type == "meta" or values.layout != torch.strided:
        raise InputError(
            f"{name} must be a dense tensor with data, of at least one unit",
            f"found shape {tuple(values.shape)}, layout {values.layout}, device {values.device}",
        )
    if values.is_complex():
        raise InputError(f"{name} must be real", f"found {values.dtype}")
    if values.dtype not in (torch.float32, torch.float64):
        values = values.float()
    return values.detach().contiguous()


def as_labels(labels, samples: int | None = None, classes: int | None = None, device=None) -> Tensor:
    """Labels as an int64 tensor [samples] with values in [0, classes).

    Raises:
        InputError: Not one-dimensional, not integer, of another length than the samples, or out of range.
    """
    try:
        labels = _tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError("labels must be a tensor or an array of class indices", f"found {type(labels)}") from error
    if labels.device.type == "meta":
        raise InputError("labels must be on a device that holds data", "found the meta device")
    if labels.ndim != 1:
        column = labels.ndim == 2 and labels.shape[1] == 1
        remedy = "A column of labels becomes a row with labels[:, 0]." if column else ""
        if labels.ndim == 2 and not column:
            remedy = "One-hot labels become indices with labels.argmax(1)."
        raise InputError("labels must be one-dimensional, [samples]", f"found shape {tuple(labels.shape)}", remedy)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            "labels must be whole numbers, the class indices",
            f"found {str(labels.dtype).removeprefix('torch.')}",
            "Convert them with labels.long() if they are class indices.",
        )
    if samples is not None and len(labels) != samples:
        raise InputError("there must be one label per sample", f"found {len(labels):,} labels for {samples:,} samples")
    labels = labels.to(device=device, dtype=torch.int64)
    if len(labels):
        least, most = int(labels.min()), int(labels.max())
        if least < 0 or (classes is not None and most >= classes):
            limit = f"[0, {classes})" if classes is not None else "[0, classes)"
            raise InputError(f"labels must lie in {limit}", f"found {least if least < 0 else most}")
    return labels


class LayerAccumulator:
    """Collects one layer's statistics: :meth:`update` in the first phase, :meth:`open` and :meth:`count` in the second.

    Args:
        classes: Number of classes.
        units: Number of units.
        threshold: A unit fires above it.
        choices: What is counted.
        dtype: float32 or float64.
        work: Scratch buffers of the layer's device.
        sketch: Also fill the power-of-two sketch in the first phase.
        keep: Keep the activations, for :meth:`replay`.
    """

    def __init__(
        self, classes: int, units: int, threshold: float, choices: Choices, dtype: torch.dtype, work: Workspace,
        sketch: bool = False, keep: bool = False,
    ):  # fmt: skip
        self.classes, self.units, self.choices, self.dtype, self.work = classes, units, choices, dtype, work
        self.class_counts = torch.zeros(classes, dtype=torch.int64, device=work.device)
        self.moments = Moments(classes, units, threshold, dtype, choices.by_class, work)
        self.sketch = Sketch(units, work) if sketch else None
        self.maps: Tensor | None = None
        self.softmax_sum = torch.zeros_like(self.moments.sum) if choices.softmax else None
        narrow = units <= choices.covariance
        self.product_sum = torch.zeros(units, units, dtype=torch.float64, device=work.device) if narrow else None
        self._rows, self._keep, self._second = Rows(units, dtype, work.device), keep, False
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._histograms: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}
        self._cofiring: Cofiring | None = None
        self.shared: tuple[Tensor, ...] | None = None

    def update(self, values: Tensor, labels: Tensor) -> None:
        """First phase: values [samples, units] of the declared dtype, labels [samples] int64."""
        for block in self._rows.append(values, labels):
            self._take(*block)

    def count(self, values: Tensor, labels: Tensor) -> None:
        """Second phase: the same values again."""
        for block in self._rows.append(values, labels):
            self._count(*block)

    def settle(self) -> None:
        """Take in the rows that do not fill a block; ends a phase."""
        if self._rows.filled:
            (self._count if self._second else self._take)(*self._rows.rest())

    def _take(self, values: Tensor, labels: Tensor) -> None:
        self.class_counts += torch.bincount(labels, minlength=self.classes)
        self.moments.update(values, labels)
        if self.sketch is not None:
            self.sketch.update(values, self.moments)
        if self.product_sum is not None:
            wide = values.double()
            with torch.autocast(wide.device.type, enabled=False):
                self.product_sum.addmm_(wide.T, wide)
        if self.softmax_sum is not None:
            self.softmax_sum.index_add_(0, labels, torch.softmax(values.double(), 1))
        if self._histograms or self._cofiring is not None:  # the basis came from another recording
            self._count(values, labels)
        if self._keep:
            self._kept.append((values, labels))
            self._rows.renew()

    def release(self, sketch: bool) -> None:
        """Keep no more activations; with ``sketch``, go over to it, those seen so far included."""
        if sketch:
            self.sketch = Sketch(self.units, self.work)
            for values, _ in self._kept:
                self.sketch.update(values, self.moments)
        self._kept, self._keep = [], False

    def replay(self) -> None:
        """Second phase from the activations that were kept."""
        for block in self._kept:
            self._count(*block)
        self._kept = []

    def add_maps(self, maps: Tensor, labels: Tensor) -> None:
        """Add mean maps [samples, height, width] to the sums by class."""
        if self.maps is None:
            self.maps = torch.zeros(self.classes, *maps.shape[1:], dtype=torch.float64, device=maps.device)
        self.maps.index_add_(0, labels, maps.double())

    def pair(self, basis: dict[str, Tensor]) -> None:
        """Count co-firing from here on, over the ``representative`` units and ``cofire_means`` of another recording."""
        units = paired(basis["representative"].to(self.work.device), self.choices.cofiring)
        self._cofiring, self._basis = Cofiring(units, basis["cofire_means"].to(self.work.device), self.dtype), basis

    def open(self, basis: dict[str, Tensor] | None = None) -> None:
        """Begin the second phase over what the first has seen, or over the ``basis`` of another recording."""
        self._second, self._given = basis is None, basis is not None
        basis = dict(basis) if basis is not None else self.own_basis()
        bins, device = self.choices.bins, self.work.device
        shapes: dict[str, tuple[int, ...]] = {"histogram": (refine(bins), self.units)}
        if self.choices.by_class:
            shapes["class_histogram"] = (self.classes, bins, self.units)
        if self.choices.levels > 2:
            shapes["joint"] = (self.classes, self.choices.levels, self.units)
        for name, shape in shapes.items():
            pair = basis[f"{name}_edges"].to(device)
            if name == "joint":  # one range for every class
                pair = pair[:, None].expand(2, self.classes, self.units)
            self._histograms[name] = torch.zeros(shape, dtype=torch.int32, device=device)
            self._scales[name] = bin_scale(pair[0], pair[1], shape[-2])
            basis[f"{name}_edges"] = pair
        if self.choices.cofiring in ("class", "union"):
            self.pair(basis)
        self._basis = basis

    def own_basis(self) -> dict[str, Tensor]:
        """What the second phase counts over, as seen so far.

        ``histogram_edges`` [2, units] and, by class, [2, classes, units], float64; ``representative`` units [classes, top],
        int32, and the class means ``cofire_means`` of the units that are paired, float64.
        """
        low, high = (side.double() for side in self.moments.nonzero_range())
        basis = {"histogram_edges": torch.stack([low.amin(0), high.amax(0)])}
        if self.choices.by_class:
            basis["class_histogram_edges"] = torch.stack([low, high])
        if self.choices.levels > 2:
            everything = self.moments.lowest.amin(0), self.moments.highest.amax(0)
            basis["joint_edges"] = torch.stack(everything).double()
        if self.choices.cofiring in ("class", "union"):
            basis |= pairing(self.shared or self.totals(), self.choices.top, self.choices.cofiring)
        return basis

    def totals(self) -> tuple[Tensor, ...]:
        """Samples [classes], sums, firing counts and squares [classes, units]: what processes add up between the phases."""
        state = self.moments.state()
        return self.class_counts, state["sum"], state["fire"], state["square_sum"]

    def state(self) -> dict[str, Tensor]:
        """The tensors that the first phase changes: moments, sketch and co-firing counts, with all rows taken in."""
        self.settle()
        state = {"class_counts": self.class_counts, **self.moments.tensors()}
        if self.sketch is not None:
            state |= self.sketch.tensors()
        if self._cofiring is not None:
            state["cofire"] = self._cofiring.counts
        return state

    def _count(self, values: Tensor, labels: Tensor) -> None:
        for name, counts in self._histograms.items():
            if name == "histogram":
                add_histogram(counts, values, self._basis["histogram_edges"][0], self._scales[name], self.work)
        by_class = [name for name in self._histograms if name != "histogram"]
        if not by_class and self._cofiring is None:
            return
        for c in labels.unique().tolist():  # rows of one class share their edges, and their counts stay in the cache
            rows = values.index_select(0, (labels == c).nonzero()[:, 0])
            for name in by_class:
                low, scale = self._basis[f"{name}_edges"][0, c], self._scales[name][c]
                add_histogram(self._histograms[name][c], rows, low, scale, self.work)
            if self._cofiring is not None:
                self._cofiring.update(rows, c)

    def fields(self) -> dict[str, Tensor]:
        """Everything collected, by field name, with the zeros taken out of the bins they fell in."""
        state = {"class_counts": self.class_counts, **self.moments.state()}
        optional = {"maps": self.maps, "softmax_sum": self.softmax_sum, "product_sum": self.product_sum}
        state |= {name: value for name, value in optional.items() if value is not None}
        if self.sketch is not None:
            counts = self.sketch.counts.clone()
            zeros = state["zeros"].sum(0).to(counts.dtype)
            counts.scatter_add_(0, self.sketch.zero_bin()[None], -zeros[None])
            state |= {
                "sketch": counts,
                "sketch_exponent": self.sketch.exponent,
                "sketch_signed": self.sketch.signed,
            }
        for name, counts in self._histograms.items():
            edges = self._basis[f"{name}_edges"]
            if self._given and name == "histogram":
                self._warn_outside(state, edges)
            state[name], state[f"{name}_edges"] = counts, edges[:, 0] if name == "joint" else edges
            if name != "joint":  # the joint counts of levels and classes are over all values, zeros included
                zeros = state["zeros"] if name == "class_histogram" else state["zeros"].sum(0)
                state[name] = _without_zeros(counts, zeros, edges[0], self._scales[name])
        if self._cofiring is not None:
            state |= {"cofire": self._cofiring.counts}
            state |= {name: self._basis[name] for name in ("representative", "cofire_means")}
        return state

    def _warn_outside(self, state: dict[str, Tensor], edges: Tensor) -> None:
        low, high = state["low"].amin(0).double(), state["high"].amax(0).double()
        outside = int(((low < edges[0]) | (high > edges[1])).sum())
        if outside:
            warnings.warn(
                f"{outside:,} of {self.units:,} units have values outside the range that the reference saw; they are counted "
                "in its end bins. Take the reference from data that covers this one",
                CofireWarning,
                stacklevel=4,
            )


def _without_zeros(counts: Tensor, zeros: Tensor, low: Tensor, scale: Tensor) -> Tensor:
    """Counts [..., bins, units] less the zeros [..., units], which were counted where the value 0 falls."""
    low = torch.where(low.isfinite(), low, 0.0)
    place = (-low * scale).clamp_(0, counts.shape[-2] - 1).long()
    return counts.scatter_add(-2, place.unsqueeze(-2), -zeros.to(counts.dtype).unsqueeze(-2))


def check_finite(values: Tensor, layer: str, where: str) -> None:
    """Raise where a value is NaN or infinite.

    Raises:
        ActivationError: Names the layer, the batch and how many values.
    """
    if math.isfinite(float(values.sum())):
        return
    bad = ~torch.isfinite(values)
    count = int(bad.sum())
    if count:
        nans = int(torch.isnan(values).sum())
        raise ActivationError(
            f"activations must be finite numbers, in layer {layer!r}",
            f"found {nans:,} NaN and {count - nans:,} infinite among {values.numel():,} values of {where}, "
            f"in {int(bad.any(0).sum()):,} of {values.shape[1]:,} units",
            "Look at the inputs of that batch and at the weights before this layer.",
        )
