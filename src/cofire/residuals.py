"""A linear correction of class scores in closed form, from sums that add across batches and machines."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["RIDGES", "Corrector", "Sums"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1, 4.0, 40.0)
"""Penalties of which held-out samples choose."""

_FLOOR = 0.1
"""Of the curvature's weights, the share that is the same for every sample."""

_BLOCK = 256  # features whose products are summed at once


@dataclass
class Sums:
    r"""The curvature and the gradient of the log-loss at the present scores.

    With a row of features x (its last entry 1), probabilities p = softmax(scores), the true class y as a row of zeros and a
    one, and with C classes,

    .. math:: H = \sum w\, x x^\top, \qquad G = \sum x (y - p)^\top, \qquad w = 0.9\,(1 - |p|^2) + 0.1\,(1 - 1/C) .

    One H stands in for the curvature of all pairs of classes: 1 - \|p\|² is the trace of diag(p) - p pᵀ, so that no step goes
    too far, and the step is nearly that of Newton where two classes are in question. 1 - 1/C is the largest that this trace can
    be: a tenth of it keeps the samples in H of which the model is sure and wrong, and on which later steps depend.

    Args:
        curvature: H, float64 [features + 1, features + 1].
        gradient: G, float64 [features + 1, classes].
        samples: Samples summed.
    """

    curvature: Float[Tensor, "rows rows"]
    gradient: Float[Tensor, "rows classes"]
    samples: int = 0

    @classmethod
    def empty(cls, features: int, classes: int, device=None) -> "Sums":
        """Sums over no sample."""
        size = {"dtype": torch.float64, "device": device}
        return cls(torch.zeros(features + 1, features + 1, **size), torch.zeros(features + 1, classes, **size))

    def update(
        self, rows: Float[Tensor, "samples features"], scores: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
    ) -> None:
        """Add a batch.

        Args:
            rows: Features, centred and scaled so that float32 products of a batch are exact enough.
            scores: Present class scores.
            labels: True classes.
        """
        p = scores.double().softmax(1)
        weight = (1 - _FLOOR) * (1 - p.square().sum(1)) + _FLOOR * (1 - 1 / p.shape[1])
        scaled = rows * weight.sqrt().to(rows)[:, None]
        for first in range(0, scaled.shape[1], _BLOCK):  # below the diagonal and above it the same
            last = min(first + _BLOCK, scaled.shape[1])
            part = scaled[:, first:last].T @ scaled[:, :last]
            self.curvature[first:last, :last] += part
            self.curvature[:first, first:last] += part[:, :first].T
        edge = rows.double().T @ weight
        self.curvature[-1, :-1] += edge
        self.curvature[:-1, -1] += edge
        self.curvature[-1, -1] += weight.sum()
        self.gradient += self.gradient_of(rows, scores, labels)
        self.samples += len(rows)

    @staticmethod
    def gradient_of(rows: Tensor, scores: Tensor, labels: Tensor) -> Float[Tensor, "rows classes"]:
        """What a batch adds to G."""
        p = scores.double().softmax(1)
        residual = torch.nn.functional.one_hot(labels, p.shape[1]).double() - p
        return torch.cat([(residual.to(rows).T @ rows).T.double(), residual.sum(0, keepdim=True)])  # in this order, for speed

    def __add__(self, other: "Sums") -> "Sums":
        if not isinstance(other, Sums):
            return NotImplemented
        if self.gradient.shape != other.gradient.shape:
            raise InputError(
                "sums can be added only where they have the same features and classes",
                f"found {tuple(self.gradient.shape)} and {tuple(other.gradient.shape)}",
            )  # fmt: skip
        return Sums(
            self.curvature + other.curvature,
            self.gradient + other.gradient.to(self.gradient.device),
            self.samples + other.samples,
        )


class Corrector:
    r"""Weights of a correction at one curvature, for any ridge, gradient and start; the last row is the intercept.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept. It is one Newton step on the ridge-penalised log-loss; because H bounds the
    curvature at other scores nearly as well, its factors, made when first asked for and kept, serve further steps.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm".

    Args:
        sums: Hold H and n. Each ridge that is asked for takes as much memory as H.

    Raises:
        InputError: No samples, or features that are not finite.
    """

    def __init__(self, sums: Sums):
        if not sums.samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        if not sums.curvature.isfinite().all():
            raise InputError("features must be finite", "found sums that are not")
        self.sums = sums
        self.penalised = torch.ones(len(sums.gradient), 1, dtype=torch.float64, device=sums.gradient.device)
        self.penalised[-1] = 0
        self._factors: dict[float, Tensor | None] = {}

    def __call__(
        self, gradient: Float[Tensor, "rows classes"], ridge: float, start: Float[Tensor, "rows classes"] | None = None
    ) -> Float[Tensor, "rows classes"] | None:
        """The weights, float64; where nothing is left to correct they are 0.

        Args:
            gradient: G over all samples, taken at the scores to correct, or with ``start`` at those already corrected by it.
            ridge: Lambda.
            start: Weights that these scores already hold.

        Returns:
            None where the ridge is below the rounding of the sums.
        """
        if ridge not in self._factors:
            matrix = self.sums.curvature / self.sums.samples
            matrix.diagonal().add_(ridge * self.penalised[:, 0])
            factor, failed = torch.linalg.cholesky_ex(matrix)
            self._factors[ridge] = None if failed else factor
        factor = self._factors[ridge]
        if factor is None:
            return None
        before = torch.zeros_like(gradient) if start is None else start.to(gradient)
        return before + torch.cholesky_solve(gradient / self.sums.samples - ridge * self.penalised * before, factor)

    def as_before(self, gradient: Float[Tensor, "rows classes"]) -> Float[Tensor, "ridges rows classes"]:
        """The weights for another gradient, one for each ridge that was asked for and can be used."""
        found = [self(gradient, ridge) for ridge in sorted(self._factors)]
        return torch.stack([weights for weights in found if weights is not None])
