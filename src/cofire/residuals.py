"""Sums for a linear correction of class scores, which add across batches and machines, and what such a correction adds."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["Some", "Sums", "add_products", "added", "errors_of", "probabilities", "product"]

_FLOOR = 0.1
"""Of the curvature's weights, the share that is the same for every sample."""

_BLOCK = 256  # rows whose products are summed at once

_HELD = 2048  # samples whose products are summed at once

_FEATURES = 2048
"""Where features are more, samples are held while they are fewer than twice as many: products of features would take long."""


class Some(NamedTuple):
    """Samples as they are, whose products are not summed.

    Args:
        rows: Features.
        root: The root of w, float64.
        errors: y - p, float64.
    """

    rows: Float[Tensor, "samples features"]
    root: Float[Tensor, " samples"]
    errors: Float[Tensor, "samples classes"]

    @classmethod
    def at(
        cls, rows: Float[Tensor, "samples features"], scores: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
    ) -> "Some":
        """Samples at these class scores."""
        p = probabilities(scores)
        return cls(rows, Sums.weights_of(p).sqrt(), errors_of(p, labels))


class Sums:
    r"""The curvature and the gradient of the log-loss at the present scores.

    With a row of features x (its last entry 1), probabilities p = softmax(scores), the true class y as a row of zeros and a
    one, and with C classes,

    .. math:: H = \sum w\, x x^\top, \qquad G = \sum x (y - p)^\top, \qquad w = 0.9\,(1 - |p|^2) + 0.1\,(1 - 1/C) .

    One H stands in for the curvature of all pairs of classes: 1 - \|p\|² is the trace of diag(p) - p pᵀ, so that no step goes
    too far, and the step is nearly that of Newton where two classes are in question. 1 - 1/C is the largest that this trace can
    be: a tenth of it keeps the samples in H of which the model is sure and wrong, and on which later steps depend.

    Fewer samples than features are held as they are, since they take less memory than H, and fewer than twice as many where
    features are more than 2,048.

    Args:
        features: Features, without the 1.
        classes: Classes.
        device: Where to sum.
    """

    def __init__(self, features: int, classes: int, device=None):
        self.samples = 0
        self.weight = 0.0
        """The sum of w."""
        self.dtype = torch.float32
        """Of the features: that of the most exact ones."""
        self.few: list[Some] = []
        """Samples while their products are not summed."""
        self._gradient = torch.zeros(features + 1, classes, dtype=torch.float64, device=device)
        self._curvature: Tensor | None = None

    def update(
        self, rows: Float[Tensor, "samples features"], scores: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
    ) -> None:
        """Add a batch.

        Args:
            rows: Features, centred and scaled so that float32 products of a batch are exact enough. They are held, not copied,
                until many are summed at once, and must stay as they are.
            scores: Present class scores.
            labels: True classes.
        """
        self.few.append(some := Some.at(rows, scores, labels))
        self.dtype = torch.promote_types(self.dtype, rows.dtype)
        self.samples += len(rows)
        self.weight += float(some.root.square().sum())
        self._fold()

    @property
    def width(self) -> int:
        """Features and the 1."""
        return len(self._gradient)

    @property
    def summed(self) -> bool:
        """Whether products are summed."""
        return self._curvature is not None

    @property
    def gradient(self) -> Float[Tensor, "rows classes"]:
        """G, float64."""
        return sum((self.gradient_of(some.rows, some.errors) for some in self.few), self._gradient)

    @property
    def curvature(self) -> Float[Tensor, "rows rows"]:
        """H, float64."""
        self._fold(at_once=True)
        return self._gradient.new_zeros(self.width, self.width) if self._curvature is None else self._curvature

    def _fold(self, at_once: bool = False) -> None:
        """Sum the products of the samples held, once they are many, and then of many at a time."""
        held = sum(len(some.rows) for some in self.few)
        most = _HELD if self.summed else self.width * (1 + (self.width > _FEATURES + 1))
        if not held or (held < most and not at_once):
            return
        if self._curvature is None:
            self._curvature = self._gradient.new_zeros(self.width, self.width)
        self._gradient = self.gradient
        while self.few:
            parts: list[Tensor] = []
            while self.few and sum(map(len, parts)) < _HELD:
                some = self.few.pop(0)
                parts.append(some.rows.new_empty(len(some.rows), self.width))
                torch.mul(some.rows, root := some.root.to(some.rows)[:, None], out=parts[-1][:, :-1])
                parts[-1][:, -1:] = root
            add_products(torch.cat(parts).T, self._curvature)

    @staticmethod
    def weights_of(p: Float[Tensor, "samples classes"]) -> Float[Tensor, " samples"]:
        """w, float64, of probabilities in float64."""
        return (1 - _FLOOR) * (1 - p.square().sum(1)) + _FLOOR * (1 - 1 / p.shape[1])

    @staticmethod
    def gradient_of(rows: Tensor, errors: Tensor) -> Float[Tensor, "rows classes"]:
        """What a batch adds to G, given y - p in float64."""
        return torch.cat([product(errors.to(rows).T, rows).T.double(), errors.sum(0, keepdim=True)])  # in this order, for speed

    def __add__(self, other: "Sums") -> "Sums":
        if not isinstance(other, Sums):
            return NotImplemented
        if self._gradient.shape != other._gradient.shape:
            raise InputError(
                "sums can be added only where they have the same features and classes",
                f"found {tuple(self._gradient.shape)} and {tuple(other._gradient.shape)}",
            )  # fmt: skip
        device, known = self._gradient.device, [part for part in (self._curvature, other._curvature) if part is not None]
        both = Sums(self.width - 1, self._gradient.shape[1], device)
        both.samples = self.samples + other.samples
        both.weight = self.weight + other.weight
        both.dtype = torch.promote_types(self.dtype, other.dtype)
        both.few = [Some(*(part.to(device) for part in some)) for some in (*self.few, *other.few)]
        both._gradient = self._gradient + other._gradient.to(device)
        both._curvature = sum((part.to(device) for part in known[1:]), known[0].to(device, copy=True)) if known else None
        both._fold()
        return both


def probabilities(scores: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
    """Softmax in float64, held class by class: sums over few classes are several times faster so."""
    return scores.T.double().contiguous().softmax(0).T


def added(
    rows: Float[Tensor, "samples features"], weights: Float[Tensor, "corrections rows classes"]
) -> list[Float[Tensor, "samples classes"]]:
    """What each of several corrections adds to the scores."""
    wide = weights.to(rows).mT.flatten(0, 1)
    return list(product(wide[:, :-1], rows.T).add_(wide[:, -1:]).T.split(weights.shape[2], 1))  # in this order, for speed


def errors_of(p: Tensor, labels: Tensor) -> Float[Tensor, "samples classes"]:
    """y - p."""
    return (-p).scatter_add_(1, labels[:, None], p.new_ones(len(p), 1))


def product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices, as exact as their type also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def add_products(rows: Tensor, total: Tensor) -> None:
    """Add the products of all pairs of rows, which are the same above the diagonal as below it."""
    for first in range(0, len(rows), _BLOCK):
        last = min(first + _BLOCK, len(rows))
        part = product(rows[first:last], rows[:last].T)
        total[first:last, :last] += part
        total[:first, first:last] += part[:, :first].T
