"""The statistics of one layer: its fields, and how two recordings of it become one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from cofire.accumulate import Choices, LayerAccumulator
from cofire.errors import InputError, MergeError
from cofire.kernels import SKETCH_BINS, Sketch, Workspace

__all__ = ["FIELDS", "LayerStats"]

FIELDS: dict[str, str] = {
    "class_counts": "sum",
    "fire": "sum",
    "zeros": "sum",
    "sum": "sum",
    "square_sum": "sum",
    "low": "min",
    "high": "max",
    "histogram": "sum",
    "histogram_edges": "same",
    "class_histogram": "sum",
    "class_histogram_edges": "same",
    "joint": "sum",
    "joint_edges": "same",
    "cofire": "sum",
    "representative": "same",
    "cofire_means": "same",
    "sketch": "sketch",
    "sketch_exponent": "sketch",
    "sketch_signed": "sketch",
    "maps": "sum",
    "softmax_sum": "sum",
    "product_sum": "sum",
}
"""Every field of a layer and how two recordings of it become one. A new statistic is a field here and a row there."""

_BASIS = {
    "histogram": ("histogram_edges",),
    "class_histogram": ("class_histogram_edges",),
    "joint": ("joint_edges",),
    "cofire": ("representative", "cofire_means"),
}
"""What a count was taken over: two counts add only where this is the same in both."""


@dataclass(frozen=True, eq=False)
class LayerStats:
    """What one layer's units did, class by class.

    Args:
        name: The layer's name, as listed by :func:`cofire.layers`.
        kind: The non-linearity, such as "relu".
        layout: Where its units lie: "dense", "conv", "tokens", "recurrent" or "positions".
        shape: Shape of one sample's activation before positions were pooled.
        threshold: A unit fires above it.
        choices: What was counted.
        class_counts: Samples seen, int64 [classes].
        fire: Samples in which the unit fired, int64 [classes, units].
        zeros: Samples in which the unit was exactly zero, int64 [classes, units].
        sum: Sum of activations, float64 [classes, units].
        square_sum: Sum of squared activations, float64 [classes, units].
        low: Smallest non-zero activation, [classes, units] or, without ranges by class, [1, units]; inf if there is none.
        high: Largest non-zero activation, likewise; -inf if there is none.
        histogram: Non-zero activations in sub-bins of the unit's own range, int32 [sub-bins, units].
        histogram_edges: That range, float64 [2, units].
        class_histogram: Non-zero activations in bins of the class's own range, int32 [classes, bins, units].
        class_histogram_edges: Those ranges, float64 [2, classes, units].
        joint: All activations in equal levels of the unit's whole range, int32 [classes, levels, units].
        joint_edges: That range, float64 [2, units].
        cofire: Samples of a class in which two of its paired units are both above their class means, int32
            [classes, width, width]; the paired units are the representative ones, or with cofiring "union" those of all
            classes in rising order.
        representative: Units with the largest class means, int32 [classes, top], filled up with -1.
        cofire_means: Class means of the paired units, lifted by the rounding of their sums, float64
            [classes, width]; inf where there is none.
        sketch: Non-zero activations on the power-of-two grid, int32 [1024, units].
        sketch_exponent: The grid's range is 2 to this power, int32 [units].
        sketch_signed: The grid extends below zero, bool [units].
        maps: Sum over samples of the activation's mean over channels, float64 [classes, height, width].
        softmax_sum: Sum over samples of the softmax over units, float64 [classes, units].
        product_sum: Sum over samples of the products of all pairs of units, float64 [units, units].
    """

    name: str
    kind: str
    layout: str
    shape: tuple[int, ...]
    threshold: float
    choices: Choices
    class_counts: Tensor
    fire: Tensor
    zeros: Tensor
    sum: Tensor
    square_sum: Tensor
    low: Tensor
    high: Tensor
    histogram: Tensor | None = None
    histogram_edges: Tensor | None = None
    class_histogram: Tensor | None = None
    class_histogram_edges: Tensor | None = None
    joint: Tensor | None = None
    joint_edges: Tensor | None = None
    cofire: Tensor | None = None
    representative: Tensor | None = None
    cofire_means: Tensor | None = None
    sketch: Tensor | None = None
    sketch_exponent: Tensor | None = None
    sketch_signed: Tensor | None = None
    maps: Tensor | None = None
    softmax_sum: Tensor | None = None
    product_sum: Tensor | None = None

    @property
    def units(self) -> int:
        """Number of units."""
        return self.fire.shape[1]

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.fire.shape[0]

    @property
    def samples(self) -> int:
        """Number of samples in which the layer was called."""
        return int(self.class_counts.sum())

    @property
    def bins(self) -> int:
        """Bins of the activation histogram."""
        return self.choices.bins

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The fields that were recorded, by name."""
        return {name: value for name in FIELDS if (value := getattr(self, name)) is not None}

    @property
    def counted_pairs(self) -> str:
        """Which pairs of units are counted: "class", "union" or "none"."""
        return self.choices.cofiring if self.cofire is not None else "none"

    def basis_for(self, other: LayerAccumulator) -> dict[str, Tensor]:
        """Histogram edges and class means for a recording whose statistics are to add to these exactly.

        Raises:
            InputError: The recording counts other things, or these statistics hold a sketch.
        """
        mine = {"units": self.units, "classes": self.classes, "threshold": self.threshold, **self.choices.as_dict()}
        counted = {"units": other.units, "classes": other.classes, "threshold": other.moments.threshold}
        theirs = {**counted, **other.choices.as_dict()}
        if self.cofire is None or theirs["cofiring"] == "none":  # said below, or not asked for
            mine.pop("cofiring")
        odd = next((name for name in mine if mine[name] != theirs[name]), None)
        if odd is not None:
            raise InputError(
                f"a reference must be recorded with the same {odd}",
                f"layer {self.name!r} has {mine[odd]} there, {theirs[odd]} here",
            )  # fmt: skip
        if self.histogram is None:
            raise InputError(
                "a reference must hold exact histograms", f"layer {self.name!r} of it has none",
                'Sketches add without a reference: record both with histograms="sketch".',
            )  # fmt: skip
        if other.choices.cofiring != "none" and self.cofire is None:
            raise InputError(
                "a reference must hold co-firing counts", f"layer {self.name!r} of it has none",
                'Record with cofiring="none", or take another reference.',
            )  # fmt: skip
        held = self.tensors
        return {name: held[name] for names in _BASIS.values() for name in names if name in held}

    def header(self) -> dict[str, Any]:
        """Everything but the tensors, as plain values."""
        return {
            "name": self.name, "kind": self.kind, "layout": self.layout, "shape": list(self.shape), "threshold": self.threshold,
            "choices": self.choices.as_dict(),
        }  # fmt: skip

    @classmethod
    def from_header(cls, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "LayerStats":
        """The inverse of :meth:`header`; fields that this version does not know are left out."""
        known = {f.name for f in fields(Choices)}
        size = tensors["fire"].shape
        for name in ("zeros", "sum", "square_sum"):
            if tensors[name].shape != size or len(tensors["class_counts"]) != size[0] or tensors["low"].shape[1] != size[1]:
                raise InputError("the tensors of a layer must fit each other", f"{name} or fire of {header['name']!r} does not")
        chosen = {"cofiring": "none", "covariance": 0, **header["choices"]}  # files of older versions hold no pairs
        return cls(
            name=header["name"], kind=header["kind"], layout=header["layout"], shape=tuple(header["shape"]),
            threshold=header["threshold"],
            choices=Choices(**{key: value for key, value in chosen.items() if key in known}),
            **{name: tensors[name] for name in FIELDS if name in tensors},
        )  # fmt: skip

    def __repr__(self) -> str:
        size = f"{self.units:,} units, {self.samples:,} samples, {self.classes} classes"
        return f"LayerStats({self.name!r}, {self.kind} {self.layout}, {size})"

    def equal(self, other: "LayerStats") -> bool:
        """Whether both hold the same values, bit for bit."""
        mine, theirs = self.tensors, other.tensors
        return (
            self.header() == other.header()
            and mine.keys() == theirs.keys()
            and all(a.dtype == theirs[name].dtype and torch.equal(a, theirs[name]) for name, a in mine.items())
        )

    def __add__(self, other: "LayerStats") -> "LayerStats":
        if not isinstance(other, LayerStats):
            return NotImplemented
        for what, mine, theirs in (
            ("units", self.units, other.units),
            ("classes", self.classes, other.classes),
            ("thresholds", self.threshold, other.threshold),
            ("non-linearities", self.kind, other.kind),
            *(
                (name, value, other.choices.as_dict()[name])
                for name, value in self.choices.as_dict().items()
                if name not in ("by_class", "cofiring")
            ),
        ):
            if mine != theirs:
                raise MergeError(
                    f"statistics of layer {self.name!r} can be added only where both have the same {what}",
                    f"found {mine} and {theirs}",
                    "Record both in the same way.",
                )
        merged: dict[str, Tensor] = {}
        for name, rule in FIELDS.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if (mine is None) != (theirs is None) and 0 in (self.samples, other.samples):
                merged[name] = theirs if mine is None else mine  # a share without samples never saw what the others have
                continue
            if mine is None or theirs is None or rule in ("same", "sketch"):
                continue
            if name in _BASIS:
                if not self._same_basis(other, name):
                    continue  # counted over other ranges or means: of all these, only histograms can go over to the sketch
                merged |= {key: getattr(self, key) for key in _BASIS[name]}
            if rule in ("min", "max") and len(mine) != len(theirs):  # one holds ranges by class, the other does not
                mine, theirs = (_combine_classes(rule, side) for side in (mine, theirs))
            if mine.shape != theirs.shape:
                raise MergeError(
                    f"{name} of layer {self.name!r} can be added only where both have one shape",
                    f"found {tuple(mine.shape)} and {tuple(theirs.shape)}",
                )
            merged[name] = _combine(rule, mine, theirs)
        if "histogram" not in merged and not (self._bare and other._bare):
            merged |= self._add_sketch(other)
        choices = replace(self.choices, by_class=len(merged["low"]) > 1 or (self.choices.by_class and other.choices.by_class))
        choices = replace(choices, cofiring=_common(self.choices.cofiring, other.choices.cofiring, "cofire" in merged))
        return replace(self, choices=choices, **{name: merged.get(name) for name in FIELDS})

    def _same_basis(self, other: "LayerStats", name: str) -> bool:
        pairs = ((getattr(self, key), getattr(other, key)) for key in _BASIS[name])
        return all(torch.equal(mine, theirs.to(mine.device)) for mine, theirs in pairs)

    @property
    def _bare(self) -> bool:
        return self.histogram is None and self.sketch is None

    def _add_sketch(self, other: "LayerStats") -> dict[str, Tensor]:
        sketch = self.as_sketch()
        counts = other.as_sketch()
        sketch.add(counts.counts, counts.exponent, counts.signed)
        return {"sketch": sketch.counts, "sketch_exponent": sketch.exponent, "sketch_signed": sketch.signed}

    def as_sketch(self) -> Sketch:
        """The recorded sketch, or one made from the histogram: every sub-bin goes whole to where its middle lies."""
        sketch = Sketch(self.units, Workspace(self.fire.device))
        if self.sketch is not None and self.sketch_exponent is not None and self.sketch_signed is not None:
            sketch.add(self.sketch, self.sketch_exponent, self.sketch_signed)
        elif self.histogram is not None and self.histogram_edges is not None:
            low, high = self.low.amin(0).double(), self.high.amax(0).double()
            seen = low.isfinite()
            low, high = torch.where(seen, low, 0.0), torch.where(seen, high, 0.0)
            largest = torch.maximum(-low, high)
            sketch.widen(torch.where(largest > 0, torch.frexp(largest).exponent, -1000), low < 0)
            first, last = self.histogram_edges
            first, last = torch.where(seen, first, 0.0), torch.where(seen, last, 0.0)
            parts = self.histogram.shape[0]
            middles = first + (last - first) * ((torch.arange(parts, device=first.device) + 0.5) / parts)[:, None]
            middles = middles.clamp(low, high)
            steps = 10 - sketch.signed.int() - sketch.exponent
            place = (middles * torch.exp2(steps.double())).floor().long() + sketch.zero_bin()
            sketch.counts.scatter_add_(0, place.clamp_(0, SKETCH_BINS - 1), self.histogram)
        else:
            raise MergeError(
                f"statistics of layer {self.name!r} cannot be added", "one of them holds no histogram",
                'Record both with histograms="sketch", or the second with reference= the first.',
            )  # fmt: skip
        return sketch

    def to(self, device) -> "LayerStats":
        """The same statistics on another device."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors.items()})


def _common(mine: str, theirs: str, counted: bool) -> str:
    """What a sum says of its co-firing counts."""
    if "none" in (mine, theirs):
        return "none"
    return mine if counted else "apart"


def _combine_classes(rule: str, value: Tensor) -> Tensor:
    return value.amin(0, keepdim=True) if rule == "min" else value.amax(0, keepdim=True)


def _combine(rule: str, mine: Tensor, theirs: Tensor) -> Tensor:
    theirs = theirs.to(mine.device)
    if rule == "sum":
        return mine + theirs
    return torch.minimum(mine, theirs) if rule == "min" else torch.maximum(mine, theirs)
