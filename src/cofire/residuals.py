"""A linear correction of class scores in closed form, from sums that add across batches and machines."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["RIDGES", "Corrector", "Few", "Some", "Sums", "added", "probabilities"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1, 4.0, 40.0)
"""Penalties of which held-out samples choose."""

_FLOOR = 0.1
"""Of the curvature's weights, the share that is the same for every sample."""

_BLOCK = 256  # rows whose products are summed at once

_HELD = 2048  # samples, or columns, likewise

_SLACK = 2.0
"""How many times the rounding of their type, and the root of how many rows there are, the products of all pairs of rows may be
off together, as a share of their diagonal."""


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
        self.samples = 0
        self.weight = 0.0
        """The sum of w."""
        self.dtype: torch.dtype | None = None
        """Of the features."""
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
        p = probabilities(scores)
        weight = self.weights_of(p)
        self.few.append(Some(rows, weight.sqrt(), _error(p, labels)))
        self.dtype = rows.dtype if self.dtype is None else torch.promote_types(self.dtype, rows.dtype)
        self.samples += len(rows)
        self.weight += float(weight.sum())
        self._fold()

    @property
    def width(self) -> int:
        """Features and the 1."""
        return len(self._gradient)

    @property
    def summed(self) -> bool:
        """Whether products are summed: there are at least as many samples as features and the 1."""
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
        """Sum the products of the samples held, once they are as many as the features, and then of many at a time."""
        held = sum(len(some.rows) for some in self.few)
        if not held or (held < (_HELD if self.summed else self.width) and not at_once):
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
            _add_products(torch.cat(parts).T, self._curvature)

    @staticmethod
    def weights_of(p: Float[Tensor, "samples classes"]) -> Float[Tensor, " samples"]:
        """w, float64, of probabilities in float64."""
        return (1 - _FLOOR) * (1 - p.square().sum(1)) + _FLOOR * (1 - 1 / p.shape[1])

    @staticmethod
    def gradient_of(rows: Tensor, errors: Tensor) -> Float[Tensor, "rows classes"]:
        """What a batch adds to G, given y - p in float64."""
        return torch.cat(
            [_product(errors.to(rows).T, rows).T.double(), errors.sum(0, keepdim=True)]
        )  # in this order, for speed

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
        types = [sums.dtype for sums in (self, other) if sums.dtype is not None]
        both.dtype = torch.promote_types(types[0], types[-1]) if types else None
        both.few = [Some(*(part.to(device) for part in some)) for some in (*self.few, *other.few)]
        both._gradient = self._gradient + other._gradient.to(device)
        both._curvature = sum((part.to(device) for part in known[1:]), known[0].to(device, copy=True)) if known else None
        both._fold()
        return both


class Corrector:
    r"""Corrections at one curvature, for any ridge, slope and start.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept, which is the last row of W. It is one Newton step on the ridge-penalised
    log-loss; because H bounds the curvature at other scores nearly as well, its factors, made when first asked for and kept,
    serve further steps.

    Where samples are fewer than features, weights are sums of samples, and a correction is the coefficients of those, with an
    intercept as the last row. With X the rows, s the roots of w, S the diagonal matrix of them, and E the errors y - p,

    .. math:: W = X^\top A, \quad A = A_0 + S (\beta - \eta\, b^\top), \quad
              (S X X^\top S + n \lambda) [\beta, \eta] = [S^{-1} (E - n \lambda A_0), s],

    and b, which is added to the intercept, is such that A sums to 0 over samples, as the log-loss wants it. E is that of scores
    made with W, and so steps lead to the same end however X Xᵀ is rounded: products and factors are of the type of X, and their
    rounding is made up for on the diagonal.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm"; the sums
        of samples are those of Suykens & Vandewalle 1999, "Least squares support vector machine classifiers".

    Args:
        sums: Hold H and n, or fewer samples than features. Each ridge that is asked for takes as much memory as H, or as the
            square of the samples.
        like: One of the same samples with other weights, whose rows and products serve this one too.

    Raises:
        InputError: No samples, or features that are not finite.
    """

    def __init__(self, sums: Sums, like: "Corrector | None" = None):
        if not sums.samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        if not all(map(_finite, [sums.curvature] if sums.summed else [part for some in sums.few for part in some[:2]])):
            raise InputError("features must be finite", "found some that are not")
        self.sums, self.few = sums, None if sums.summed else Few.of(sums.few, like.few if like else None)
        self.slope = sums.gradient if self.few is None else torch.cat([some.errors for some in sums.few])
        """Of the log-loss at the scores of the sums: G, or E where samples are fewer than features."""
        self._factors: dict[float, Tensor | None] = {}

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The slope for the same samples, in their order, at other scores or towards other labels.

        Args:
            parts: By batch: features, probabilities in float64, and labels.
        """
        if self.few is not None:
            return torch.cat([_error(p, labels) for _, p, labels in parts])
        slope = torch.zeros_like(self.slope)
        for rows, p, labels in parts:
            slope += Sums.gradient_of(rows, _error(p, labels))
        return slope

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
        return self.each([ridge], start, slope).get(ridge)

    def each(
        self, ridges: Iterable[float], start: Float[Tensor, "numbers classes"] | None = None, slope: Tensor | None = None
    ) -> dict[float, Float[Tensor, "numbers classes"]]:
        """The corrections for several ridges, but those below the rounding of the sums; arguments as for one."""
        slope, start = self.slope if slope is None else slope, None if start is None else start.to(self.slope)
        factors = {ridge: self._factor(ridge) for ridge in ridges}
        return {ridge: self._moved(ridge, factor, start, slope) for ridge, factor in factors.items() if factor is not None}

    def _moved(self, ridge: float, factor: Tensor, start: Tensor | None, slope: Tensor) -> Float[Tensor, "numbers classes"]:
        """One correction, by the factor for its ridge."""
        if self.few is not None:
            before = slope.new_zeros(len(slope) + 1, slope.shape[1]) if start is None else start
            return before + self.few.step(factor, slope - self.sums.samples * ridge * before[:-1], -before[:-1].sum(0))
        before = torch.zeros_like(slope) if start is None else start
        shared, one = self.sums.curvature[:-1, -1:], self.sums.curvature[-1, -1]  # with the intercept, which is solved for last
        right = slope[:-1] - self.sums.samples * ridge * before[:-1] - shared * (slope[-1] / one)
        step = _solved(factor, (right / self.sums.samples).to(factor)).double()
        return before + torch.cat([step, (slope[-1:] - shared.T @ step) / one])

    def weights_of(
        self, corrections: Float[Tensor, "corrections numbers classes"]
    ) -> Float[Tensor, "corrections rows classes"]:
        """The weights of corrections; the last row is the intercept."""
        return corrections if self.few is None else self.few.weights_of(corrections)

    def _factor(self, ridge: float) -> Tensor | None:
        """The Cholesky factor of H / n + λ D without the intercept, or of the products of samples and n λ, if there is one."""
        if ridge not in self._factors:
            if self.few is None:
                shared, one = self.sums.curvature[:-1, -1], self.sums.curvature[-1, -1]
                matrix = torch.addr(self.sums.curvature[:-1, :-1], shared, shared, alpha=-1 / float(one))
                matrix = _steadied(matrix.div_(self.sums.samples).to(self.sums.dtype), ridge)
            else:
                matrix = self.few.matrix(self.sums.samples * ridge)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            self._factors[ridge] = None if failed else factor
        return self._factors[ridge]

    def forget(self) -> None:
        """Let go of the factors of all ridges."""
        self._factors = {}


@dataclass(frozen=True)
class Few:
    """Fewer samples than features, of which weights are sums.

    Args:
        rows: X, centred: with coefficients that sum to 0, only the intercept changes.
        centre: Means over the samples.
        products: X Xᵀ, of the type of X.
        root: s, float64.
    """

    rows: Float[Tensor, "samples features"]
    centre: Float[Tensor, " features"]
    products: Float[Tensor, "samples samples"]
    root: Float[Tensor, " samples"]

    @classmethod
    def of(cls, parts: Sequence[Some], like: "Few | None" = None) -> "Few":
        """These samples, or the same as others with other weights."""
        root = torch.cat([some.root for some in parts])
        if like is not None:
            return replace(like, root=root)
        rows = torch.cat([some.rows for some in parts])
        rows -= (centre := rows.mean(0))
        return cls(rows, centre, _products(rows), root)

    def matrix(self, penalty: float) -> Float[Tensor, "samples samples"]:
        """S X Xᵀ S with this added to its diagonal."""
        root = self.root.to(self.products)
        return _steadied((self.products * root).mul_(root[:, None]), penalty)

    def step(
        self,
        factor: Float[Tensor, "samples samples"],
        right: Float[Tensor, "samples classes"],
        total: Float[Tensor, " classes"],
    ) -> Float[Tensor, "numbers classes"]:
        """Coefficients of samples that sum to this total by class, and an intercept, float64; right is E - n λ A₀."""
        root = self.root[:, None]
        found = root * _solved(factor, torch.cat([right / root, root], 1).to(factor)).double()
        found, intercept = found[:, :-1], found[:, -1:]
        share = (found.sum(0) - total) / intercept.sum()
        return torch.cat([found - intercept * share, share[None]])

    def weights_of(
        self, corrections: Float[Tensor, "corrections numbers classes"]
    ) -> Float[Tensor, "corrections rows classes"]:
        """The weights of several corrections, float64."""
        wide = corrections[:, :-1].transpose(0, 1).flatten(1).to(self.rows)
        weights = _product(wide.T, self.rows).double()  # in this order, for speed
        weights = weights.view(len(corrections), -1, self.rows.shape[1]).mT
        return torch.cat([weights, corrections[:, -1:] - (self.centre.double() @ weights)[:, None]], 1)


def _steadied(matrix: Float[Tensor, "rows rows"], penalty: float) -> Float[Tensor, "rows rows"]:
    """A matrix of products with this added to its diagonal, in place, and what rounding may have taken from it."""
    slack = _SLACK * len(matrix) ** 0.5 * torch.finfo(matrix.dtype).eps
    matrix.diagonal().mul_(1 + slack).add_(penalty)
    return matrix


def _solved(factor: Tensor, right: Tensor) -> Tensor:
    """The solution by a Cholesky factor, which :func:`torch.cholesky_solve` would copy first."""
    half = torch.linalg.solve_triangular(factor, right, upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)


def probabilities(scores: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
    """Softmax in float64, held class by class: sums over few classes are several times faster so."""
    return scores.T.double().contiguous().softmax(0).T


def added(
    rows: Float[Tensor, "samples features"], weights: Float[Tensor, "corrections rows classes"]
) -> list[Float[Tensor, "samples classes"]]:
    """What each of several corrections adds to the scores."""
    wide = weights.to(rows).mT.flatten(0, 1)
    return list(_product(wide[:, :-1], rows.T).add_(wide[:, -1:]).T.split(weights.shape[2], 1))  # in this order, for speed


def _error(p: Tensor, labels: Tensor) -> Float[Tensor, "samples classes"]:
    """y - p."""
    return (-p).scatter_add_(1, labels[:, None], p.new_ones(len(p), 1))


def _finite(values: Tensor) -> bool:
    return bool(values.sum().isfinite() or values.isfinite().all())  # the sum is found much sooner


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product of two matrices, as exact as their type also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _products(rows: Tensor) -> Float[Tensor, "rows rows"]:
    """Of all pairs of rows, of their type."""
    total = rows.new_zeros(len(rows), len(rows))
    for some in rows.split(_HELD, 1):
        _add_products(some, total)
    return total


def _add_products(rows: Tensor, total: Tensor) -> None:
    """Add the products of all pairs of rows, which are the same above the diagonal as below it."""
    for first in range(0, len(rows), _BLOCK):
        last = min(first + _BLOCK, len(rows))
        part = _product(rows[first:last], rows[:last].T)
        total[first:last, :last] += part
        total[:first, first:last] += part[:, :first].T
