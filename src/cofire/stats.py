"""The statistics of a recording: plain, frozen, mergeable, saveable. Every measure is a function of them."""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cofire import storage
from cofire.accumulate import Choices, LayerAccumulator, as_labels, as_values, check_finite, covariance_limit
from cofire.errors import FileError, InputError, LayerError, MergeError
from cofire.kernels import Workspace
from cofire.layer import FIELDS, LayerStats

__all__ = ["FiringStats", "check_kind", "load"]


@dataclass(frozen=True, eq=False)
class FiringStats(Mapping):
    """Class-conditional firing statistics of a model's hidden layers, in the order of the forward pass.

    A mapping from layer names to :class:`LayerStats`. ``a + b`` joins recordings of disjoint data; :meth:`all_reduce` joins
    those of all processes; :meth:`save` and :func:`cofire.load` keep them, without the model.

    Args:
        layers: Layer statistics by name.
        class_counts: Samples of each class, int64 [classes].
        confusion: Samples by true and predicted class, int64 [classes, classes]; None without a model's predictions.
        header: Where the numbers come from: versions, model, data, class names, choices; plain values.
    """

    layers: dict[str, LayerStats]
    class_counts: Tensor
    confusion: Tensor | None = None
    header: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> LayerStats:
        try:
            return self.layers[name]
        except KeyError:
            close = get_close_matches(str(name), self.layers, n=1, cutoff=0.3) or list(self.layers)[:1]
            raise LayerError(
                f"no layer named {name!r} in these statistics", f"closest: {close[0]!r}" if close else "they are empty",
                "list(stats) names them all.",
            ) from None  # fmt: skip

    def named(self, layers: str | Sequence[str]) -> list[str]:
        """Names of the layers that a name or glob says, or one of several, input side first.

        Raises:
            InputError: Something that is no name.
            LayerError: One that no layer's name matches.
        """
        if not isinstance(layers, Iterable):
            raise InputError("layers must be names of layers", f"found {layers!r}", "list(stats) names them all.")
        found: set[str] = set()
        for pattern in [layers] if isinstance(layers, str) else layers:
            found |= {name for name in self if fnmatchcase(name, pattern)} or {self[pattern].name}
        return [name for name in self if name in found]

    def __contains__(self, name: object) -> bool:
        return name in self.layers

    def get(self, name: str, default=None):
        """A layer's statistics, or the default where there is no such layer."""
        return self.layers.get(name, default)

    @property
    def samples(self) -> int:
        """Number of samples recorded."""
        return int(self.class_counts.sum())

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_counts)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; their numbers where none were given."""
        return list(self.header.get("class_names") or map(str, range(self.classes)))

    @property
    def accuracy(self) -> float | None:
        """Share of samples that the model classified correctly; None without a model's predictions."""
        if self.confusion is None or not self.samples:
            return None
        return int(self.confusion.diagonal().sum()) / int(self.confusion.sum())

    @property
    def class_accuracy(self) -> Tensor | None:
        """The same for each class, float64 [classes]; NaN for a class without samples."""
        if self.confusion is None:
            return None
        return self.confusion.diagonal().double() / self.confusion.sum(1)

    def __repr__(self) -> str:
        accuracy = "" if self.accuracy is None else f", accuracy {self.accuracy:.2%}"
        units = sum(layer.units for layer in self.layers.values())
        how = self.header.get("histograms", "none")
        return (
            f"FiringStats({len(self)} layers, {units:,} units, {self.samples:,} samples of {self.classes} classes{accuracy}, "
            f"histograms: {how})"
        )

    def equal(self, other: "FiringStats") -> bool:
        """Whether both hold the same statistics, bit for bit (where and when they were recorded does not count)."""

        def same(mine, theirs):
            return (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))

        return (
            list(self) == list(other)
            and same(self.class_counts, other.class_counts)
            and same(self.confusion, other.confusion)
            and all(layer.equal(other[name]) for name, layer in self.items())
        )

    def __eq__(self, other: object) -> bool:
        return self.equal(other) if isinstance(other, FiringStats) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __add__(self, other: "FiringStats") -> "FiringStats":
        if not isinstance(other, FiringStats):
            return NotImplemented
        models = self.header.get("model", {}).get("digest"), other.header.get("model", {}).get("digest")
        if None not in models and models[0] != models[1]:
            raise MergeError(
                "statistics can be added only where they are of one model",
                f"found weights with digests {models[0]} and {models[1]}",
                "Record both with the same weights.",
            )
        if set(self) != set(other):
            odd = sorted(set(self) ^ set(other))
            raise MergeError(
                "statistics can be added only where they have the same layers",
                f"only one of them has {', '.join(map(repr, odd[:3]))}{' and more' if len(odd) > 3 else ''}",
                "Record both with the same layers=.",
            )
        if self.classes != other.classes:
            raise MergeError(
                "statistics can be added only where they have the same classes",
                f"found {self.classes} and {other.classes}", "Record both with the same classes=.",
            )  # fmt: skip
        names = self.header.get("class_names"), other.header.get("class_names")
        if names[0] is not None and names[1] is not None and names[0] != names[1]:
            raise MergeError(
                "statistics can be added only where the classes have the same names in the same order",
                f"found {names[0][:5]} and {names[1][:5]}", "Record both with the same class_names=.",
            )  # fmt: skip
        layers = {name: layer + other[name] for name, layer in self.items()}
        both = self.confusion is not None and other.confusion is not None
        return FiringStats(
            layers,
            self.class_counts + other.class_counts.to(self.class_counts.device),
            self.confusion + other.confusion.to(self.confusion.device) if both else None,  # type: ignore[union-attr]
            _join(self.header, other.header, layers),
        )

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, completely or not at all.

        Raises:
            FileError: The folder does not exist or is not writable, or the disk is full.
        """
        tensors = {"class_counts": self.class_counts}
        if self.confusion is not None:
            tensors["confusion"] = self.confusion
        for index, layer in enumerate(self.layers.values()):
            tensors |= {f"{index}.{name}": value for name, value in layer.tensors.items()}
        storage.write(path, tensors, {**self.header, "layers": [layer.header() for layer in self.layers.values()]})

    def to(self, device) -> "FiringStats":
        """The same statistics on another device."""
        confusion = None if self.confusion is None else self.confusion.to(device)
        return replace(
            self, layers={name: layer.to(device) for name, layer in self.items()},
            class_counts=self.class_counts.to(device), confusion=confusion,
        )  # fmt: skip

    def all_reduce(self) -> "FiringStats":
        """The sum of the statistics of all processes of ``torch.distributed``, the same on each of them.

        Counts are summed exactly. Histograms are too where the edges agree, as they do within one :func:`cofire.record`.
        """
        import torch.distributed as dist

        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self.to("cpu"))
        return functools.reduce(lambda a, b: a + b, parts)

    @classmethod
    def from_activations(
        cls, activations, labels, classes: int | None = None, threshold: float = 0.0, bins: int = 30, top: int = 50, *,
        levels: int = 2, by_class: bool = True, softmax: bool = False, histograms: str = "exact",
        cofiring: str = "auto", covariance: bool | int = 256, reference: "FiringStats | None" = None, class_names=None,
    ) -> "FiringStats":  # fmt: skip
        """Statistics of activations that are already at hand, without a model.

        Args:
            activations: ``{layer name: tensor or array [samples, units]}``.
            labels: True classes, integers [samples].
            classes: Number of classes; by default one more than the largest label.
            threshold: A unit fires above it.
            bins: Bins of the activation histogram.
            top: Representative units per class.
            levels: Levels to which units are quantised for the information measures.
            by_class: Keep histograms by class.
            softmax: Also sum every sample's softmax over units.
            histograms: "exact" or "sketch".
            cofiring: Count pairs of representative units that are above their class means: "class" for pairs of each class's
                own, "union" for all pairs, "none"; "auto" is "union" while a layer's counts take at most 64 MB, else "class".
            covariance: Also sum the products of all pairs of units in layers of at most so many units; True in all.
            reference: Statistics whose histogram edges and class means to use, so that the results add exactly.
            class_names: Names of the classes.

        Raises:
            InputError: Not [samples, units], labels that do not fit, or no sample.
            ActivationError: NaN or infinite values.

        >>> import torch
        >>> acts = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0], [0.0, 5.0]])
        >>> stats = FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]))
        >>> stats["fc1"].fire.tolist()
        [[2, 0], [0, 2]]
        """
        if not isinstance(activations, Mapping) or not activations:
            raise InputError(
                "activations must be a mapping {layer name: [samples, units]}", f"found {type(activations).__name__}"
            )
        if not isinstance(threshold, int | float) or not math.isfinite(threshold):
            raise InputError("threshold must be a finite number", f"found {threshold!r}")
        if classes is not None and (not isinstance(classes, int) or classes < 1):
            raise InputError("classes must be a whole number of at least 1", f"found {classes!r}")
        if histograms not in ("exact", "sketch"):
            raise InputError('histograms must be "exact" or "sketch"', f"found {histograms!r}")
        if cofiring not in ("auto", "class", "union", "none"):
            raise InputError('cofiring must be "auto", "class", "union" or "none"', f"found {cofiring!r}")
        exact = histograms == "exact"
        layers: dict[str, LayerStats] = {}
        for name, values in activations.items():
            values = as_values(values, f"activations of {name!r}")
            names = as_labels(labels, len(values), classes, values.device)
            if not len(values):
                raise InputError("there must be at least one sample", f"layer {name!r} has none")
            count = classes if classes is not None else int(names.max()) + 1
            check_finite(values, name, "the array")
            pairs = _pairs(cofiring, count, values.shape[1], top) if exact else "none"
            if reference is not None and cofiring == "auto":
                pairs = reference[name].counted_pairs
            choices = Choices(
                bins, levels, by_class and exact, top, softmax=softmax, cofiring=pairs, covariance=covariance_limit(covariance)
            )
            layer = LayerAccumulator(
                count,
                values.shape[1],
                threshold,
                choices,
                values.dtype,
                Workspace(values.device),
                histograms == "sketch",
            )
            if reference is not None:
                layer.open(reference[name].basis_for(layer))
            layer.update(values, names)
            layer.settle()
            if histograms == "exact" and reference is None:
                layer.open()
                layer.count(values, names)
                layer.settle()
            layers[name] = LayerStats(name, "given", "dense", tuple(values.shape[1:]), threshold, choices, **layer.fields())
        first = next(iter(layers.values()))
        if class_names is not None and len(class_names) != first.classes:
            raise InputError("there must be one name per class", f"found {len(class_names)} names for {first.classes} classes")
        header = {"histograms": histograms, "class_names": list(class_names) if class_names is not None else None}
        return cls(layers, first.class_counts.clone(), None, header)


def _pairs(cofiring: str, classes: int, units: int, top: int) -> str:
    """Which pairs "auto" counts."""
    if cofiring != "auto" or not isinstance(top, int):
        return "class" if cofiring == "auto" else cofiring
    return "union" if 4 * classes * min(units, classes * top) ** 2 <= 2**26 else "class"


def _join(mine: dict, theirs: dict, layers: dict[str, LayerStats]) -> dict:
    """The header of a sum: what both say alike, and how the histograms came together."""
    header = {key: value for key, value in mine.items() if theirs.get(key) == value}
    header["parts"] = mine.get("parts", 1) + theirs.get("parts", 1)
    if "histograms" not in header or any(layer.histogram is None for layer in layers.values()):
        held = ("histogram", "exact"), ("sketch", "sketch")
        found = [way for name, way in held if all(getattr(layer, name) is not None for layer in layers.values())]
        header["histograms"] = found[0] if found else "none"
    data = [part["data"] for part in (mine, theirs) if part.get("data")]
    if data and "data" not in header:
        header["data"] = {"name": " + ".join(dict.fromkeys(str(part.get("name")) for part in data))}
    return header


def check_kind(stats: Any, name: str = "stats") -> None:
    """Raise where something else stands in place of statistics.

    Raises:
        InputError: It does.
    """
    if not isinstance(stats, FiringStats):
        raise InputError(f"{name} must be firing statistics", f"found {type(stats).__name__}", "cofire.record makes them.")


_READERS = {"boosted": "cofire.load_boosted(model, path)", "trust": "cofire.load_trust(model, path, stats)"}
"""What reads files that are no statistics, by what their header holds."""


def load(path: str | Path) -> FiringStats:
    """Statistics that :meth:`FiringStats.save` wrote; neither the model nor the data is needed.

    Raises:
        FileError: No such file, truncated, of another format or written by a newer version.
    """
    tensors, header = storage.read(path)
    other = next((reader for kind, reader in _READERS.items() if kind in (header.get("kind"), *header)), None)
    if other is not None:
        raise FileError("wanted a statistics file", f"{str(path)!r} holds something else of cofire", f"{other} reads it.")
    try:
        headers = header.pop("layers")
        header.pop("format_version")
        layers = {}
        for index, entry in enumerate(headers):
            mine = {name: tensors[f"{index}.{name}"] for name in FIELDS if f"{index}.{name}" in tensors}
            layers[entry["name"]] = LayerStats.from_header(entry, mine)
        return FiringStats(layers, tensors["class_counts"], tensors.get("confusion"), header)
    except InputError as error:
        raise FileError("wanted a statistics file of cofire", f"{str(path)!r} contradicts itself: {error}") from error
    except (KeyError, TypeError) as error:
        raise FileError("wanted a complete statistics file", f"{str(path)!r} lacks {error}", "Record it again.") from error
