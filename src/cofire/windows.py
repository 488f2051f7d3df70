"""A window of a training: the statistics of the batches between two looks, and its state in mid-way."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cofire.accumulate import Choices, LayerAccumulator
from cofire.cofiring import pairing
from cofire.errors import InputError
from cofire.kernels import Workspace
from cofire.layer import LayerStats
from cofire.listing import LayerInfo
from cofire.pooling import Arrangement
from cofire.stats import FiringStats

__all__ = ["Basis", "Window", "basis_of"]

Basis = Mapping[str, dict[str, Tensor]]
"""By layer, the representative units and their class means over which co-firing is counted."""


class Window:
    """Collects the statistics of batches as they come: moments, sketches and, over the means of another window, co-firing.

    Args:
        classes: Number of classes.
        choices: What is counted.
        threshold: A unit fires above it; None leaves that to the kind of layer.
        basis: From the window before; a layer that it does not hold has no co-firing counts.
    """

    def __init__(self, classes: int, choices: Choices, threshold: float | None = None, basis: Basis | None = None):
        self.classes, self.choices, self.threshold, self.basis = classes, choices, threshold, dict(basis or {})
        self.class_counts = torch.zeros(classes, dtype=torch.int64)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self._infos: dict[str, LayerInfo] = {}
        self._accumulators: dict[str, LayerAccumulator] = {}
        self._waiting: dict[str, tuple[torch.dtype, dict[str, Tensor]]] = {}
        self._work: dict[torch.device, Workspace] = {}

    @property
    def samples(self) -> int:
        """Number of samples taken in."""
        return int(self.class_counts.sum())

    def add(self, seen: Mapping[LayerInfo, Tensor], labels: Tensor, guess: Tensor | None) -> None:
        """Take in samples.

        Args:
            seen: Units by layer, [samples, units].
            labels: True classes, int64 [samples].
            guess: Predicted classes [samples]; None where the model's output does not say.
        """
        for info, units in seen.items():
            self._accumulator(info, units.dtype, units.device).update(units, labels.to(units.device))
        # On a device, bincount would wait for it; so would moving the counts.
        self.class_counts, self.confusion = self.class_counts.to(labels.device), self.confusion.to(labels.device)
        ones = torch.ones_like(labels)
        self.class_counts.index_add_(0, labels, ones)
        if guess is not None:
            self.confusion.view(-1).index_add_(0, labels * self.classes + guess.to(labels.device), ones)

    def _accumulator(self, info: LayerInfo, dtype: torch.dtype, device: torch.device) -> LayerAccumulator:
        if info.name in self._accumulators:
            return self._accumulators[info.name]
        work = self._work.setdefault(device, Workspace(device))
        threshold = info.threshold if self.threshold is None else self.threshold
        accumulator = LayerAccumulator(self.classes, info.units, threshold, self.choices, dtype, work, sketch=True)
        if info.name in self.basis:
            accumulator.pair(self.basis[info.name])
        state = accumulator.state()
        for name, value in self._waiting.pop(info.name, (dtype, {}))[1].items():
            state[name].copy_(value)
        self._infos[info.name], self._accumulators[info.name] = info, accumulator
        return accumulator

    def _settle(self) -> None:
        """Layers of a state that was loaded, and that no batch has shown since, have their accumulators too."""
        for name, (dtype, _) in list(self._waiting.items()):
            self._accumulator(self._infos[name], dtype, torch.device("cpu"))
        for accumulator in self._accumulators.values():
            accumulator.settle()

    def stats(self, header: dict[str, Any]) -> FiringStats:
        """The statistics so far, of this process alone, on the CPU."""
        self._settle()
        layers = {}
        for name, info in self._infos.items():
            accumulator = self._accumulators[name]
            fields = {key: value.cpu() for key, value in accumulator.fields().items()}
            choices = replace(self.choices, cofiring=self.choices.cofiring if "cofire" in fields else "none")
            threshold = accumulator.moments.threshold
            layers[name] = LayerStats(name, info.kind, info.layout, info.shape, threshold, choices, **fields)
        confusion = self.confusion.cpu().clone() if bool(self.confusion.any()) else None
        return FiringStats(layers, self.class_counts.cpu().clone(), confusion, header)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """A header of plain values and copies of all tensors, from which :meth:`restore` goes on bit for bit."""
        self._settle()
        tensors = {"class_counts": self.class_counts.cpu().clone(), "confusion": self.confusion.cpu().clone()}
        layers = []
        for index, (name, info) in enumerate(self._infos.items()):
            accumulator = self._accumulators[name]
            tensors |= {f"{index}.{key}": value.cpu().clone() for key, value in accumulator.state().items()}
            place = info.arrangement
            layers.append(
                {"name": name, "kind": info.kind, "layout": place.layout, "sample_axis": place.sample_axis,
                 "shape": list(place.shape), "double": accumulator.dtype == torch.float64}
            )  # fmt: skip
        for index, basis in enumerate(self.basis.values()):
            tensors |= {f"basis.{index}.{key}": value.clone() for key, value in basis.items()}
        return {**self._settings(), "layers": layers, "basis": list(self.basis)}, tensors

    def _settings(self) -> dict[str, Any]:
        return {"classes": self.classes, "threshold": self.threshold, **self.choices.as_dict()}

    def restore(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state; the window must be new.

        Raises:
            InputError: The state is of a window with other choices.
        """
        for name, value in self._settings().items():
            if header[name] != value:
                raise InputError(
                    f"a state goes on with the same {name}", f"it has {header[name]}, this monitor {value}",
                    "Make the monitor as it was.",
                )  # fmt: skip

        def held(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        self.class_counts, self.confusion = tensors["class_counts"].clone(), tensors["confusion"].clone()
        self.basis = {name: held(f"basis.{index}.") for index, name in enumerate(header["basis"])}
        for index, entry in enumerate(header["layers"]):
            place = Arrangement(entry["layout"], entry["sample_axis"], tuple(entry["shape"]))
            self._infos[entry["name"]] = LayerInfo(entry["name"], entry["kind"], place)
            self._waiting[entry["name"]] = torch.float64 if entry["double"] else torch.float32, held(f"{index}.")


def basis_of(stats: FiringStats) -> dict[str, dict[str, Tensor]]:
    """What the next window counts co-firing over: each layer's representative units, and their class means."""
    return {
        name: pairing((layer.class_counts, layer.sum, layer.fire, layer.square_sum), layer.choices.top, "class")
        for name, layer in stats.items()
    }
