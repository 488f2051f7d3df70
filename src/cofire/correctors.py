"""Linear corrections of class scores in closed form, from sums, for several ridges and one step after the other."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cofire.errors import InputError
from cofire.residuals import Some, Sums, add_products, errors_of, product

__all__ = ["RIDGES", "Corrector", "Dual", "Gram", "Primal"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1, 4.0, 40.0)
"""Penalties of which held-out samples choose."""

_SLACK = 2.0
"""How many times the rounding of their type, and the root of how many rows there are, the products of all pairs of rows may be
off together, as a share of their diagonal."""

_CLEAR = 200.0
"""How many times that half of the rows must have for themselves, once others are known, for a factor of that type."""

_FAR = 1000.0
"""How many times that the penalty of a ridge must be, where products are of that type."""

_AGAIN = 2
"""How often what a factor of lower precision leaves is solved for."""


class Corrector(ABC):
    r"""Corrections at one curvature, for any ridge and slope.

    .. math:: W = (H / n + \lambda D)^{-1} G / n

    with D the identity, and 0 for the intercept, which is the last row of W. It is one Newton step on the ridge-penalised
    log-loss; because H bounds the curvature at other scores nearly as well, its Cholesky factors, made when first asked for and
    kept, serve further steps. G is that of scores as they are, and so rounding of H changes a step and not where steps lead:
    factors are of the type of the features, and what rounding may have taken from products is added to the diagonal. Where
    rounding is not far below what is left of half of the rows once others are known, as where all share one strong component,
    factors are made in float64.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm".

    Args:
        samples: n. Each ridge that is asked for takes as much memory as the square of the rows of its matrix.
        slope: Of the log-loss at the scores of the curvature.

    Raises:
        InputError: No samples, or features that are not finite.
    """

    def __init__(self, samples: int, slope: Tensor):
        if not samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        self.samples, self.slope = samples, slope
        self._factors: dict[float, Tensor | None] = {}

    def __call__(self, ridge: float, slope: Tensor | None = None) -> Float[Tensor, "rows classes"] | None:
        """The weights of the correction, float64; the last row is the intercept. Where nothing is left to correct they are 0.

        Args:
            ridge: Lambda.
            slope: Of :meth:`slope_at`; by default at the scores of the curvature.

        Returns:
            None where the ridge is below the rounding of the sums.
        """
        if ridge not in self._factors:
            self._factors[ridge] = self._factored(ridge)
        factor = self._factors[ridge]
        return None if factor is None else self.solved(ridge, factor, self.slope if slope is None else slope)

    def _factored(self, ridge: float) -> Tensor | None:
        """The Cholesky factor for this ridge, float64 where rounding would hide what is left of the rows."""
        matrix = self.matrix(ridge, self.type_for(ridge))
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if matrix.dtype != torch.float64 and (failed or not _clear(factor, matrix)):
            factor, failed = torch.linalg.cholesky_ex(self.matrix(ridge, torch.float64))
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
    def type_for(self, ridge: float) -> torch.dtype:
        """In which type a factor is tried first."""

    @abstractmethod
    def matrix(self, ridge: float, dtype: torch.dtype) -> Float[Tensor, "rows rows"]:
        """What is to be solved for this ridge, of this type."""

    @abstractmethod
    def times(self, ridge: float, values: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The matrix for this ridge times these, float64, as exact as it is known without float64 products."""

    @abstractmethod
    def solved(self, ridge: float, factor: Tensor, slope: Tensor) -> Float[Tensor, "rows classes"]:
        """The weights, by the factor for this ridge."""

    def _found(self, ridge: float, factor: Tensor, right: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """What the matrix takes to the right side: by the factor, and again for what its rounding leaves."""
        found = _by_factor(factor, right)
        for _ in range(_AGAIN * (factor.dtype != torch.float64)):
            found += _by_factor(factor, right - self.times(ridge, found))
        return found


class Primal(Corrector):
    """Corrections as weights; the intercept is solved for last."""

    def __init__(self, sums: Sums):
        super().__init__(sums.samples, sums.gradient)
        if not _finite(sums.curvature):
            raise _unknown()
        self.sums = sums
        self.shared, self.one = sums.curvature[:-1, -1:].clone(), float(sums.curvature[-1, -1])

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Float[Tensor, "rows classes"]:
        """G."""
        slope = torch.zeros_like(self.slope)
        for rows, p, labels in parts:
            slope += Sums.gradient_of(rows, errors_of(p, labels))
        return slope

    def type_for(self, ridge: float) -> torch.dtype:  # noqa: ARG002 - float64 sums hide no ridge
        """That of the features."""
        return self.sums.dtype

    def matrix(self, ridge: float, dtype: torch.dtype) -> Float[Tensor, "features features"]:
        """H / n + λ at the best intercept; products of features are as they were summed."""
        shared = self.shared[:, 0]
        matrix = torch.addr(self.sums.curvature[:-1, :-1], shared, shared, alpha=-1 / self.one)
        return _steadied(matrix.div_(self.samples).to(dtype), ridge, self.sums.dtype)

    def times(self, ridge: float, values: Float[Tensor, "features columns"]) -> Float[Tensor, "features columns"]:
        """In float64."""
        found = self.sums.curvature[:-1, :-1] @ values - self.shared * ((self.shared.T @ values) / self.one)
        return found / self.samples + ridge * values

    def solved(self, ridge: float, factor: Tensor, slope: Tensor) -> Float[Tensor, "rows classes"]:
        """The weights."""
        right = slope[:-1] - self.shared * (slope[-1] / self.one)
        step = self._found(ridge, factor, right / self.samples)
        return torch.cat([step, (slope[-1:] - self.shared.T @ step) / self.one])

    def penalised(self, ridge: float, start: Float[Tensor, "rows classes"], slope: Tensor) -> Float[Tensor, "rows classes"]:
        """The slope of the penalised log-loss, given that of the log-loss, at the scores that hold what these weights add.

        The correction for it, and the weights, are the weights W of one more step.
        """
        return slope - torch.cat([self.samples * ridge * start[:-1], start.new_zeros(1, start.shape[1])])


@dataclass
class Gram:
    """Products of all pairs of samples, whatever they weigh.

    Args:
        centre: The mean of their rows, float64.
        products: Of the rows from there on, and all of them more by an equal share of the mean of the diagonal.
        exact: The same in float64, once they were asked for.
    """

    centre: Float[Tensor, " features"]
    products: Float[Tensor, "samples samples"]
    exact: Float[Tensor, "samples samples"] | None = None


class Dual(Corrector):
    r"""Corrections as coefficients of samples, where there are few of them.

    With X the rows, s the roots of w, S the diagonal matrix of them, and E the errors y - p, which are the slope,

    .. math:: W = X^\top A, \quad A = S (\beta - \eta\, b^\top), \quad (S X X^\top S + n \lambda) [\beta, \eta] = [S^{-1} E, s],

    and b, the intercept, is such that A sums to 0 over samples, as the log-loss wants it. Then it makes no difference to W
    that X is centred, nor that a number is added to all products, without which their matrix would be singular.

    Source:
        Suykens & Vandewalle 1999, "Least squares support vector machine classifiers".

    Args:
        some: The samples.
        gram: Theirs, where it is known.
    """

    def __init__(self, some: Some, gram: Gram | None = None):
        super().__init__(len(some.rows), some.errors)
        if not all(map(_finite, some[:2] if gram is None else some[1:2])):
            raise _unknown()
        self.root = some.root[:, None]
        centre = some.rows.mean(0) if gram is None else gram.centre
        self.rows = some.rows - centre.to(some.rows)
        self.gram = gram or Gram(centre.double(), _products(self.rows))

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Float[Tensor, "samples classes"]:
        """E."""
        return torch.cat([errors_of(p, labels) for _, p, labels in parts])

    def type_for(self, ridge: float) -> torch.dtype:
        """That of the products, or float64 where their rounding would hide the ridge."""
        products = self.gram.products
        noise = _rounding(len(products), products.dtype) * float((products.diagonal() * self.root[:, 0].square()).mean())
        return products.dtype if self.samples * ridge > _FAR * noise else torch.float64

    def matrix(self, ridge: float, dtype: torch.dtype) -> Float[Tensor, "samples samples"]:
        """S X Xᵀ S + n λ."""
        root, products = self.root.to(dtype), self.gram.products
        if products.dtype != dtype:  # made anew
            products = self.gram.exact = _products(self.rows.double()) if self.gram.exact is None else self.gram.exact
        return _steadied((products * root.T).mul_(root), self.samples * ridge, dtype)

    def times(self, ridge: float, values: Float[Tensor, "samples columns"]) -> Float[Tensor, "samples columns"]:
        """By products of their type."""
        found = product(self.gram.products, (self.root * values).to(self.gram.products)).double()
        return self.root * found + self.samples * ridge * values

    def solved(self, ridge: float, factor: Tensor, slope: Tensor) -> Float[Tensor, "rows classes"]:
        """The weights."""
        found = self.root * self._found(ridge, factor, torch.cat([slope / self.root, self.root], 1))
        found, intercept = found[:, :-1], found[:, -1:]
        share = found.sum(0, keepdim=True) / intercept.sum()
        rows = self.rows.to(factor.dtype)
        weights = product((found - intercept * share).T.to(rows), rows).T.double()  # in this order, for speed
        return torch.cat([weights, share - self.gram.centre @ weights])


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


def _by_factor(factor: Tensor, right: Tensor) -> Tensor:
    """The solution by a Cholesky factor, which :func:`torch.cholesky_solve` would copy first; float64."""
    half = torch.linalg.solve_triangular(factor, right.to(factor), upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True).double()


def _products(rows: Tensor) -> Float[Tensor, "rows rows"]:
    """Of all pairs of centred rows, of their type, as if they had one more feature, the same for all."""
    add_products(rows, total := rows.new_zeros(len(rows), len(rows)))
    return total.add_(total.diagonal().mean() / len(total))


def _finite(values: Tensor) -> bool:
    return bool(values.sum().isfinite() or values.isfinite().all())  # the sum is found much sooner


def _unknown() -> InputError:
    return InputError("features must be finite", "found some that are not")
