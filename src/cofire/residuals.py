"""A linear correction of class scores in closed form, from sums that add across batches and machines."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["RIDGES", "Corrector", "Sums", "added"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1, 4.0, 40.0)
"""Penalties of which held-out samples choose."""

_FLOOR = 0.1
"""Of the curvature's weights, the share that is the same for every sample."""

_BLOCK = 256  # rows whose products are summed at once


class Sums:
    r"""The curvature and the gradient of the log-loss at the present scores.

    With a row of features x (its last entry 1), probabilities p = softmax(scores), the true class y as a row of zeros and a
    one, and with C classes,

    .. math:: H = \sum w\, x x^\top, \qquad G = \sum x (y - p)^\top, \qquad w = 0.9\,(1 - |p|^2) + 0.1\,(1 - 1/C) .

    One H stands in for the curvature of all pairs of classes: 1 - \|p\|² is the trace of diag(p) - p pᵀ, so that no step goes
    too far, and the step is nearly that of Newton where two classes are in question. 1 - 1/C is the largest that this trace can
    be: a tenth of it keeps the samples in H of which the model is sure and wrong, and on which later steps depend.

    Fewer samples than features are held as they are, since they take less memory than H.

    Args:
        features: Features, without the 1.
        classes: Classes.
        device: Where to sum.
    """

    def __init__(self, features: int, classes: int, device=None):
        self.gradient: Float[Tensor, "rows classes"] = torch.zeros(features + 1, classes, dtype=torch.float64, device=device)
        """G, float64."""
        self.samples = 0
        self.weight = 0.0
        """The sum of w."""
        self.few: list[Float[Tensor, "samples rows"]] = []
        """Rows times the root of w, while their products are not summed."""
        self._curvature: Tensor | None = None

    def update(
        self, rows: Float[Tensor, "samples features"], scores: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"]
    ) -> None:
        """Add a batch.

        Args:
            rows: Features, centred and scaled so that float32 products of a batch are exact enough.
            scores: Present class scores.
            labels: True classes.
        """
        weight = self.weights_of(scores)
        self.few.append(torch.cat([rows, rows.new_ones(len(rows), 1)], 1) * weight.sqrt().to(rows)[:, None])
        self.gradient += self.gradient_of(rows, scores, labels)
        self.samples += len(rows)
        self.weight += float(weight.sum())
        self._fold()

    @property
    def curvature(self) -> Float[Tensor, "rows rows"]:
        """H, float64."""
        self._fold(at_once=True)
        width = len(self.gradient)
        return self.gradient.new_zeros(width, width) if self._curvature is None else self._curvature

    def _fold(self, at_once: bool = False) -> None:
        """Sum the products of the rows held, once they are as many as the features."""
        width = len(self.gradient)
        if not self.few or (self._curvature is None and self.samples < width and not at_once):
            return
        if self._curvature is None:
            self._curvature = torch.zeros(width, width, dtype=torch.float64, device=self.gradient.device)
        for rows in self.few:
            _add_products(rows.T, self._curvature)
        self.few = []

    @staticmethod
    def weights_of(scores: Float[Tensor, "samples classes"]) -> Float[Tensor, " samples"]:
        """w, float64."""
        p = scores.double().softmax(1)
        return (1 - _FLOOR) * (1 - p.square().sum(1)) + _FLOOR * (1 - 1 / p.shape[1])

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
        device, known = self.gradient.device, [part for part in (self._curvature, other._curvature) if part is not None]
        both = Sums(len(self.gradient) - 1, self.gradient.shape[1], device)
        both.gradient = self.gradient + other.gradient.to(device)
        both.samples = self.samples + other.samples
        both.weight = self.weight + other.weight
        both.few = [rows.to(device) for rows in (*self.few, *other.few)]
        both._curvature = sum((part.to(device) for part in known[1:]), known[0].to(device, copy=True)) if known else None
        both._fold()
        return both


class Corrector:
    r"""Weights of a correction at one curvature, for any ridge, gradient and start; the last row is the intercept.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept. It is one Newton step on the ridge-penalised log-loss; because H bounds the
    curvature at other scores nearly as well, its factors, made when first asked for and kept, serve further steps.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm".

    Args:
        sums: Hold H and n, or fewer samples than features. Each ridge that is asked for takes as much memory as H, or as the
            square of the samples.

    Raises:
        InputError: No samples, or features that are not finite.
    """

    def __init__(self, sums: Sums):
        if not sums.samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        self.rows = torch.cat(sums.few).double() if sums.few else None
        if not (sums.curvature if self.rows is None else self.rows).isfinite().all():
            raise InputError("features must be finite", "found some that are not")
        self.sums = sums
        self._products = torch.empty(0)  # of the samples, for all ridges
        if self.rows is not None:
            self._products = self.rows.new_zeros(len(self.rows), len(self.rows))
            _add_products(self.rows[:, :-1], self._products)
        self.penalised = torch.ones(len(sums.gradient), 1, dtype=torch.float64, device=sums.gradient.device)
        self.penalised[-1] = 0
        self._solvers: dict[float, Callable[[Tensor], Tensor] | None] = {}

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
        if ridge not in self._solvers:
            self._solvers[ridge] = self._of_sums(ridge) if self.rows is None else self._of_rows(self.rows, ridge)
        solve = self._solvers[ridge]
        if solve is None:
            return None
        before = torch.zeros_like(gradient) if start is None else start.to(gradient)
        return before + solve(gradient / self.sums.samples - ridge * self.penalised * before)

    def _of_sums(self, ridge: float) -> Callable[[Tensor], Tensor] | None:
        """What solves with H / n + λ D."""
        matrix = self.sums.curvature / self.sums.samples
        matrix.diagonal().add_(ridge * self.penalised[:, 0])
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return None if failed else lambda right: _solved(factor, right)

    def _of_rows(self, rows: Tensor, ridge: float) -> Callable[[Tensor], Tensor] | None:
        """The same from fewer samples than features, by Woodbury's identity; the intercept is eliminated first."""
        x, ones, n = rows[:, :-1], rows[:, -1], len(rows)
        matrix = self._products.clone()
        matrix.diagonal().add_(n * ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if failed:
            return None

        def inner(right: Tensor) -> Tensor:
            return (right - (_solved(factor, x @ right).T @ x).T) / ridge  # in this order, for speed

        edge = x.T @ ones[:, None] / n
        against = inner(edge)
        left = ones @ ones / n - edge.T @ against

        def solve(right: Tensor) -> Tensor:
            found = inner(right[:-1])
            intercept = (right[-1:] - edge.T @ found) / left
            return torch.cat([found - against * intercept, intercept])

        return solve

    def as_before(self, gradient: Float[Tensor, "rows classes"]) -> Float[Tensor, "ridges rows classes"]:
        """The weights for another gradient, one for each ridge that was asked for and can be used."""
        found = [self(gradient, ridge) for ridge in sorted(self._solvers)]
        return torch.stack([weights for weights in found if weights is not None])


def added(
    rows: Float[Tensor, "samples features"], weights: Float[Tensor, "corrections rows classes"]
) -> list[Float[Tensor, "samples classes"]]:
    """What each of several corrections adds to the scores."""
    wide = torch.cat(list(weights.to(rows)), 1)
    return list(torch.addmm(wide[-1], rows, wide[:-1]).split(weights.shape[2], 1))


def _solved(factor: Tensor, right: Tensor) -> Tensor:
    """The solution by a lower Cholesky factor, which :func:`torch.cholesky_solve` would copy first."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def _add_products(rows: Tensor, total: Tensor) -> None:
    """Add the products of all pairs of rows, which are the same above the diagonal as below it."""
    for first in range(0, len(rows), _BLOCK):
        last = min(first + _BLOCK, len(rows))
        part = rows[first:last] @ rows[:last].T
        total[first:last, :last] += part
        total[:first, first:last] += part[:, :first].T
