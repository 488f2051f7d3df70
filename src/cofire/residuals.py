"""A linear correction of class scores in closed form, from sums that add across batches and machines."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["Sums", "corrections"]

_RIDGES = (4e-5, 2e-4, 1e-3, 4e-3, 2e-2, 1e-1, 1.0)


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


def corrections(
    sums: Sums, ridges: Sequence[float] = _RIDGES, start: Float[Tensor, "rows classes"] | None = None
) -> Float[Tensor, "ridges rows classes"]:
    r"""Weights of the correction, one for each ridge; the last row is the intercept.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept. It is one Newton step on the ridge-penalised log-loss.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm".

    Args:
        sums: Taken at the scores to correct, or with ``start`` at those already corrected by it.
        ridges: Values of lambda.
        start: Weights that the scores in the sums already hold.

    Returns:
        float64. Where nothing is left to correct (all probabilities 0 or 1 and right) they are 0.
    """
    if not sums.samples:
        raise InputError("a correction needs at least one sample", "the sums are empty")
    curvature, gradient = sums.curvature / sums.samples, sums.gradient / sums.samples
    before = torch.zeros_like(gradient) if start is None else start.to(gradient)
    penalised = torch.ones(len(gradient), dtype=torch.float64, device=gradient.device)
    penalised[-1] = 0
    found = []
    for ridge in ridges:
        matrix = curvature + torch.diag(ridge * penalised)
        matrix[-1, -1] += 1e-12  # the intercept, where every probability is 0 or 1
        step = gradient - ridge * penalised[:, None] * before
        found.append(before + torch.cholesky_solve(step, torch.linalg.cholesky(matrix)))
    return torch.stack(found)
