"""A linear correction of class scores in closed form, from sums that add across batches and machines."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["RIDGES", "Corrector", "Sums"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1)
"""Penalties of which held-out samples choose."""


@dataclass
class Sums:
    r"""The curvature and the gradient of the log-loss at the present scores.

    With a row of features x (its last entry 1), probabilities p = softmax(scores), the true class y as a row of zeros and a
    one, and :math:`w = 1 - |p|^2`,

    .. math:: H = \sum w\, x x^\top, \qquad G = \sum x (y - p)^\top .

    One H stands in for the curvature of all pairs of classes: w is the trace of diag(p) - p pᵀ, so no step goes too far, and
    the step is that of Newton where two classes are in question.

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
        weight = (1 - p.square().sum(1)).clamp(min=0)
        scaled = rows * weight.sqrt().to(rows)[:, None]
        self.curvature[:-1, :-1] += scaled.T @ scaled
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
        return torch.cat([(rows.T @ residual.to(rows)).double(), residual.sum(0, keepdim=True)])

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
    r"""Weights of a correction at one curvature, for any gradient and start; the last row is the intercept.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept. It is one Newton step on the ridge-penalised log-loss; because H bounds the
    curvature at other scores nearly as well, the factors of H serve further steps.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm".

    Args:
        sums: Hold H and n.
        ridges: Values of lambda, of which each takes (features + 1)² numbers; those too small for the rounding of the sums are
            left out.

    Raises:
        InputError: No samples, or features that are not finite.
    """

    def __init__(self, sums: Sums, ridges: Sequence[float] = RIDGES):
        if not sums.samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        self.samples = sums.samples
        self.penalised = torch.ones(len(sums.gradient), 1, dtype=torch.float64, device=sums.gradient.device)
        self.penalised[-1] = 0
        self._factors: dict[float, Tensor] = {}
        for ridge in ridges:
            matrix = sums.curvature / sums.samples + torch.diag(ridge * self.penalised[:, 0])
            matrix[-1, -1] += 1e-12  # the intercept, where every probability is 0 or 1
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:  # a ridge below the rounding of sums in float32 is no use
                self._factors[ridge] = factor
        if not self._factors:
            raise InputError(
                "features must be finite and of like size", f"no ridge up to {max(ridges)} makes their sums definite"
            )

    def __call__(
        self, gradient: Float[Tensor, "rows classes"], start: Float[Tensor, "rows classes"] | None = None
    ) -> Float[Tensor, "ridges rows classes"]:
        """The weights, one for each ridge that is used, float64; where nothing is left to correct they are 0.

        Args:
            gradient: G over all samples, taken at the scores to correct, or with ``start`` at those already corrected by it.
            start: Weights that these scores already hold.
        """
        before = torch.zeros_like(gradient) if start is None else start.to(gradient)
        found = []
        for ridge, factor in self._factors.items():
            slope = gradient / self.samples - ridge * self.penalised * before
            found.append(before + torch.cholesky_solve(slope, factor))
        return torch.stack(found)
