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

_EXACT = 1e5
"""How many times the rounding of float32 products a ridge must be; below, they are made in float64."""


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
        both.few = [Some(*(part.to(device) for part in some)) for some in (*self.few, *other.few)]
        both._gradient = self._gradient + other._gradient.to(device)
        both._curvature = sum((part.to(device) for part in known[1:]), known[0].to(device, copy=True)) if known else None
        both._fold()
        return both


class Corrector:
    r"""Weights of a correction at one curvature, for any ridge, slope and start; the last row is the intercept.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept. It is one Newton step on the ridge-penalised log-loss; because H bounds the
    curvature at other scores nearly as well, its factors, made when first asked for and kept, serve further steps.

    Where samples are fewer than features the same weights are sums of samples: with X the rows, s the roots of w, S the
    diagonal matrix of them, and R the errors (y - p) / s,

    .. math:: W = X^\top S (\beta - \eta\, b), \quad (S X X^\top S + n \lambda) [\beta, \eta] = [R + S X W_0, s], \quad
              b = \frac{s^\top \beta}{s^\top \eta},

    and b is added to the intercept.

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
        self.slope = sums.gradient if self.few is None else self.few.slope_of([some.errors for some in sums.few])
        """Of the log-loss at the scores of the sums: G, or R where samples are fewer than features."""
        self.penalised = torch.ones(sums.width, 1, dtype=torch.float64, device=self.slope.device)
        self.penalised[-1] = 0
        self._factors: dict[float, Tensor] = {}
        self._unusable: set[float] = set()

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The slope for the same samples, in their order, at other scores or towards other labels.

        Args:
            parts: By batch: features, probabilities in float64, and labels.
        """
        if self.few is not None:
            return self.few.slope_of([_error(p, labels) for _, p, labels in parts])
        slope = torch.zeros_like(self.slope)
        for rows, p, labels in parts:
            slope += Sums.gradient_of(rows, _error(p, labels))
        return slope

    def __call__(
        self, ridge: float, start: Float[Tensor, "rows classes"] | None = None, slope: Tensor | None = None
    ) -> Float[Tensor, "rows classes"] | None:
        """The weights, float64; where nothing is left to correct they are 0.

        Args:
            ridge: Lambda.
            start: Weights that the scores of the slope already hold.
            slope: Of :meth:`slope_at`; by default at the scores of the sums.

        Returns:
            None where the ridge is below the rounding of the sums.
        """
        return self.each([ridge], start, slope).get(ridge)

    def each(
        self, ridges: Iterable[float], start: Float[Tensor, "rows classes"] | None = None, slope: Tensor | None = None
    ) -> dict[float, Float[Tensor, "rows classes"]]:
        """The weights for several ridges, but those below the rounding of the sums; arguments as for one."""
        usable = [ridge for ridge in ridges if self._has_factor(ridge)]
        slope, start = self.slope if slope is None else slope, None if start is None else start.to(self.slope)
        if not usable:
            return {}
        if self.few is not None:
            factors = [self._factors[ridge] for ridge in usable]
            return dict(zip(usable, self.few.weights_of(factors, start, slope), strict=True))
        found = {}
        for ridge in usable:
            right = slope / self.sums.samples
            if start is None:
                found[ridge] = _solved(self._factors[ridge], right)
            else:
                found[ridge] = start + _solved(self._factors[ridge], right - ridge * self.penalised * start)
        return found

    def _has_factor(self, ridge: float) -> bool:
        """Whether H / n + λ D has a Cholesky factor, or that of the products of fewer samples than features and n λ."""
        if ridge not in self._factors and ridge not in self._unusable:
            if self.few is None:
                matrix = self.sums.curvature / self.sums.samples
                matrix.diagonal().add_(ridge * self.penalised[:, 0])
            else:
                self.few = self.few.exact_for(self.sums.samples * ridge)
                matrix = self.few.products * self.few.root
                matrix.mul_(self.few.root[:, None]).diagonal().add_(self.sums.samples * ridge)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if failed:
                self._unusable.add(ridge)
            else:
                self._factors[ridge] = factor
        return ridge in self._factors

    def forget(self) -> None:
        """Let go of the factors of all ridges."""
        self._factors = {}

    def as_before(self, slope: Tensor) -> Float[Tensor, "ridges rows classes"]:
        """The weights for another slope, one for each ridge that was asked for and can be used."""
        return torch.stack(list(self.each(sorted(self._factors), slope=slope).values()))


@dataclass(frozen=True)
class Few:
    """Fewer samples than features, of which weights are sums.

    Args:
        rows: X.
        products: X Xᵀ, float64.
        root: s.
    """

    rows: Float[Tensor, "samples features"]
    products: Float[Tensor, "samples samples"]
    root: Float[Tensor, " samples"]

    @classmethod
    def of(cls, parts: Sequence[Some], like: "Few | None" = None) -> "Few":
        """These samples, or the same as others with other weights."""
        root = torch.cat([some.root for some in parts])
        if like is not None:
            return replace(like, root=root)
        rows = torch.cat([some.rows for some in parts])
        return cls(rows, _products(rows), root)

    def exact_for(self, ridge: float) -> "Few":
        """These, or the same with rows in float64 where the rounding of their products is not far below n λ."""
        rounding = torch.finfo(self.rows.dtype).eps * float((self.products.diagonal() * self.root.square()).mean())
        if self.rows.dtype == torch.float64 or ridge > _EXACT * rounding:
            return self
        rows = self.rows.double()
        return replace(self, rows=rows, products=_products(rows))

    def slope_of(self, errors: Sequence[Float[Tensor, "samples classes"]]) -> Float[Tensor, "samples classes"]:
        """R, given y - p by batch."""
        return torch.cat(list(errors)) / self.root[:, None]

    def weights_of(self, factors: Sequence[Tensor], start: Tensor | None, slope: Tensor) -> list[Tensor]:
        """The weights for each of several factors of S X Xᵀ S + n λ, which share the products with all rows."""
        root = self.root[:, None]
        wanted = slope if start is None else slope + root * _product(start[:-1].to(self.rows).T, self.rows.T).T
        shares, intercepts = [], []
        for factor in factors:
            found = _solved(factor, torch.cat([wanted, root], 1))
            total = root.T @ found
            intercepts.append(total[:, :-1] / total[:, -1:])
            shares.append(found[:, :-1] - found[:, -1:] * intercepts[-1])
        before = 0.0 if start is None else start[-1:]
        weights = _product((root * torch.cat(shares, 1)).to(self.rows).T, self.rows).T.split(slope.shape[1], 1)
        return [torch.cat([each.double(), before + own]) for each, own in zip(weights, intercepts, strict=True)]


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
    """Of all pairs of rows, float64."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
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
