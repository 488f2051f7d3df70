"""Linear corrections of class scores in closed form, from sums, for several ridges and one step after the other."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from cofire.errors import InputError
from cofire.residuals import Sums, add_products, errors_of, product

__all__ = ["RIDGES", "Corrector", "Dual", "Primal"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1, 4.0, 40.0)
"""Penalties of which held-out samples choose."""

_COLUMNS = 2048  # columns of which products are taken at once

_SLACK = 2.0
"""How many times the rounding of their type, and the root of how many rows there are, the products of all pairs of rows may be
off together, as a share of their diagonal."""

_CLEAR = 200.0
"""How many times that half of the rows must have for themselves, once others are known, for a factor of that type."""


class Corrector(ABC):
    r"""Corrections at one curvature, for any ridge, slope and start.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept, which is the last row of W. It is one Newton step on the ridge-penalised
    log-loss; because H bounds the curvature at other scores nearly as well, its Cholesky factors, made when first asked for and
    kept, serve further steps. G is that of scores made with W, and so steps lead to the same end though H is rounded: factors
    are of the type of the features, and what rounding may have taken from products is added to the diagonal. Where rounding is
    not far below what is left of half of the rows once others are known, as where all share one strong component, factors are
    made in float64.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm".

    Args:
        sums: Hold H and n, or fewer samples than features. Each ridge that is asked for takes as much memory as the square of
            the features, or of the samples where they are fewer.
        slope: Of the log-loss at the scores of the sums.
    """

    def __init__(self, sums: Sums, slope: Tensor):
        self.sums, self.samples, self.slope = sums, sums.samples, slope
        self._factors: dict[float, Tensor | None] = {}

    @staticmethod
    def of(sums: Sums, like: "Corrector | None" = None) -> "Corrector":
        """By weights, or where samples are fewer than features by coefficients of samples.

        Args:
            sums: As for the class.
            like: One of the same samples with other weights, whose products may serve this one too.

        Raises:
            InputError: No samples, or features that are not finite.
        """
        if not sums.samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        if not all(map(_finite, [sums.curvature] if sums.summed else [part for some in sums.few for part in some[:2]])):
            raise InputError("features must be finite", "found some that are not")
        return Primal(sums) if sums.summed else Dual(sums, like if isinstance(like, Dual) else None)

    def __call__(
        self, ridge: float, start: Float[Tensor, "numbers classes"] | None = None, slope: Tensor | None = None
    ) -> Float[Tensor, "numbers classes"] | None:
        """The correction, float64: weights, or coefficients of samples; where nothing is left to correct they are 0.

        Args:
            ridge: Lambda.
            start: The correction that the scores of the slope already hold.
            slope: Of :meth:`slope_at`; by default at the scores of the sums.

        Returns:
            None where the ridge is below the rounding of the sums.
        """
        if ridge not in self._factors:
            self._factors[ridge] = self._factored(ridge)
        if (factor := self._factors[ridge]) is None:
            return None
        slope = self.slope if slope is None else slope
        return self.moved(ridge, factor, None if start is None else start.to(slope), slope)

    def _factored(self, ridge: float) -> Tensor | None:
        matrix = self.matrix(ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if matrix.dtype != torch.float64 and (failed or not _clear(factor, matrix)):
            self.refine()
            factor, failed = torch.linalg.cholesky_ex(self.matrix(ridge))
        return None if failed else factor

    def forget(self) -> None:
        """Let go of the factors of all ridges."""
        self._factors = {}

    @abstractmethod
    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The slope for the same samples, in their order, at other scores or towards other labels.

        Args:
            parts: By batch: features, probabilities in float64, and labels.
        """

    @abstractmethod
    def weights_of(self, corrections: Float[Tensor, "several numbers classes"]) -> Float[Tensor, "several rows classes"]:
        """The weights of corrections; the last row is the intercept."""

    @abstractmethod
    def matrix(self, ridge: float) -> Float[Tensor, "rows rows"]:
        """What is to be solved for this ridge."""

    @abstractmethod
    def refine(self) -> None:
        """From now on make matrices in float64."""

    @abstractmethod
    def moved(self, ridge: float, factor: Tensor, start: Tensor | None, slope: Tensor) -> Float[Tensor, "numbers classes"]:
        """The correction, by the factor of this matrix."""


class Primal(Corrector):
    """Corrections as weights; the intercept is solved for last."""

    def __init__(self, sums: Sums):
        super().__init__(sums, sums.gradient)
        self.shared, self.one = sums.curvature[:-1, -1:].clone(), float(sums.curvature[-1, -1])
        self.dtype = sums.dtype

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Float[Tensor, "rows classes"]:
        """G."""
        slope = torch.zeros_like(self.slope)
        for rows, p, labels in parts:
            slope += Sums.gradient_of(rows, errors_of(p, labels))
        return slope

    def weights_of(self, corrections: Float[Tensor, "several rows classes"]) -> Float[Tensor, "several rows classes"]:
        """As they are."""
        return corrections

    def matrix(self, ridge: float) -> Float[Tensor, "features features"]:
        """H / n + λ at the best intercept."""
        shared = self.shared[:, 0]
        matrix = torch.addr(self.sums.curvature[:-1, :-1], shared, shared, alpha=-1 / self.one)
        return _steadied(matrix.div_(self.samples).to(self.dtype), ridge, self.sums.dtype)

    def refine(self) -> None:
        """Only factors become more exact: products of features are as they were summed."""
        self.dtype = torch.float64

    def moved(self, ridge: float, factor: Tensor, start: Tensor | None, slope: Tensor) -> Float[Tensor, "rows classes"]:
        """The weights."""
        start = torch.zeros_like(slope) if start is None else start
        right = slope[:-1] - self.samples * ridge * start[:-1] - self.shared * (slope[-1] / self.one)
        step = _solved(factor, (right / self.samples).to(factor)).double()
        return start + torch.cat([step, (slope[-1:] - self.shared.T @ step) / self.one])


class Dual(Corrector):
    r"""Corrections as coefficients of samples, with an intercept as the last row, where samples are fewer than features.

    With X the rows, s the roots of w, S the diagonal matrix of them, and E the errors y - p, which are the slope,

    .. math:: W = X^\top A, \quad A = A_0 + S (\beta - \eta\, b^\top), \quad
              (S X X^\top S + n \lambda) [\beta, \eta] = [S^{-1} (E - n \lambda A_0), s],

    and b, which is added to the intercept, is such that A sums to 0 over samples, as the log-loss wants it. Then it makes no
    difference to W that X is centred.

    Source:
        Suykens & Vandewalle 1999, "Least squares support vector machine classifiers".
    """

    def __init__(self, sums: Sums, like: "Dual | None" = None):
        super().__init__(sums, torch.cat([some.errors for some in sums.few]))
        self.root = torch.cat([some.root for some in sums.few])[:, None]
        if like is None:
            self.rows = torch.cat([some.rows for some in sums.few])
            self.rows -= (centre := self.rows.mean(0))
            self.centre, self.products = centre.double(), _products(self.rows)
        else:
            self.rows, self.centre, self.products = like.rows, like.centre, like.products

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Float[Tensor, "samples classes"]:
        """E."""
        return torch.cat([errors_of(p, labels) for _, p, labels in parts])

    def weights_of(self, corrections: Float[Tensor, "several numbers classes"]) -> Float[Tensor, "several rows classes"]:
        """Xᵀ A, and the intercept for rows that are not centred."""
        wide = corrections[:, :-1].transpose(0, 1).flatten(1).to(self.rows)
        weights = product(wide.T, self.rows).double()  # in this order, for speed
        weights = weights.view(len(corrections), -1, self.rows.shape[1]).mT
        return torch.cat([weights, corrections[:, -1:] - (self.centre @ weights)[:, None]], 1)

    def matrix(self, ridge: float) -> Float[Tensor, "samples samples"]:
        """S X Xᵀ S + n λ."""
        root = self.root.to(self.products)
        return _steadied((self.products * root.T).mul_(root), self.samples * ridge, root.dtype)

    def refine(self) -> None:
        """With products of rows made anew."""
        self.rows = self.rows.double()
        self.products = _products(self.rows)

    def moved(self, ridge: float, factor: Tensor, start: Tensor | None, slope: Tensor) -> Float[Tensor, "numbers classes"]:
        """The coefficients and the intercept."""
        start = slope.new_zeros(len(slope) + 1, slope.shape[1]) if start is None else start
        right = (slope - self.samples * ridge * start[:-1]) / self.root
        found = self.root * _solved(factor, torch.cat([right, self.root], 1).to(factor)).double()
        found, intercept = found[:, :-1], found[:, -1:]
        share = (found.sum(0, keepdim=True) + start[:-1].sum(0)) / intercept.sum()
        return start + torch.cat([found - intercept * share, share])


def _steadied(matrix: Float[Tensor, "rows rows"], penalty: float, dtype: torch.dtype) -> Float[Tensor, "rows rows"]:
    """A matrix with this added to its diagonal, in place, and what rounding may have taken from products of that type."""
    matrix.diagonal().mul_(1 + _rounding(len(matrix), dtype)).add_(penalty)
    return matrix


def _rounding(rows: int, dtype: torch.dtype) -> float:
    return _SLACK * rows**0.5 * torch.finfo(dtype).eps


def _clear(factor: Float[Tensor, "rows rows"], matrix: Float[Tensor, "rows rows"]) -> bool:
    """Whether the squared pivots, which are what rows have for themselves, are mostly far above the rounding of the matrix."""
    noise = _rounding(len(matrix), matrix.dtype) * matrix.diagonal().mean()
    return not len(matrix) or bool(factor.diagonal().square().median() > _CLEAR * noise)


def _solved(factor: Tensor, right: Tensor) -> Tensor:
    """The solution by a Cholesky factor, which :func:`torch.cholesky_solve` would copy first."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def _products(rows: Tensor) -> Float[Tensor, "rows rows"]:
    """Of all pairs of rows, of their type."""
    total = rows.new_zeros(len(rows), len(rows))
    for some in rows.split(_COLUMNS, 1):
        add_products(some, total)
    return total


def _finite(values: Tensor) -> bool:
    return bool(values.sum().isfinite() or values.isfinite().all())  # the sum is found much sooner
