"""A linear correction of class scores in closed form, from sums that add across batches and machines."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["RIDGES", "Corrector", "Sums", "added", "probabilities"]

RIDGES = (4e-5, 4e-4, 4e-3, 4e-2, 4e-1, 4.0, 40.0)
"""Penalties of which held-out samples choose."""

_FLOOR = 0.1
"""Of the curvature's weights, the share that is the same for every sample."""

_BLOCK = 256  # rows whose products are summed at once

_HELD = 2048  # samples, likewise


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
        self.errors: list[Float[Tensor, "samples classes"]] = []
        """Of these samples, (y - p) over the root of w, float64."""
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
        p = probabilities(scores)
        weight = self.weights_of(p)
        root, held = weight.sqrt().to(rows)[:, None], rows.new_empty(len(rows), rows.shape[1] + 1)
        torch.mul(rows, root, out=held[:, :-1])
        held[:, -1:] = root
        self.few.append(held)
        if not self.summed:
            self.errors.append(_error(p, labels) / held[:, -1:].double())
        self.gradient += self.gradient_of(rows, p, labels)
        self.samples += len(rows)
        self.weight += float(weight.sum())
        self._fold()

    @property
    def summed(self) -> bool:
        """Whether products are summed: there are at least as many samples as features and the 1."""
        return self._curvature is not None

    def held(self) -> Float[Tensor, "samples rows"]:
        """Rows times the root of w, float64, of the samples whose products are not summed."""
        rows = self.gradient.new_empty(sum(map(len, self.few)), len(self.gradient))
        for some, few in zip(rows.split([len(few) for few in self.few]), self.few, strict=True):
            some.copy_(few)
        return rows

    @property
    def curvature(self) -> Float[Tensor, "rows rows"]:
        """H, float64."""
        self._fold(at_once=True)
        width = len(self.gradient)
        return self.gradient.new_zeros(width, width) if self._curvature is None else self._curvature

    def _fold(self, at_once: bool = False) -> None:
        """Sum the products of the rows held, once they are as many as the features, and then of many at a time."""
        width, held = len(self.gradient), sum(map(len, self.few))
        if not held or (held < (_HELD if self.summed else width) and not at_once):
            return
        if self._curvature is None:
            self._curvature = torch.zeros(width, width, dtype=torch.float64, device=self.gradient.device)
            self.errors = []
        while self.few:
            count = next((at for at in range(1, len(self.few)) if sum(map(len, self.few[:at])) >= _HELD), len(self.few))
            _add_products(torch.cat(self.few[:count]).T, self._curvature)
            del self.few[:count]

    @staticmethod
    def weights_of(p: Float[Tensor, "samples classes"]) -> Float[Tensor, " samples"]:
        """w, float64, of probabilities in float64."""
        return (1 - _FLOOR) * (1 - p.square().sum(1)) + _FLOOR * (1 - 1 / p.shape[1])

    @staticmethod
    def gradient_of(rows: Tensor, p: Tensor, labels: Tensor) -> Float[Tensor, "rows classes"]:
        """What a batch adds to G, given its probabilities in float64."""
        residual = _error(p, labels)
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
        if not known:
            both.errors = [each.to(device) for each in (*self.errors, *other.errors)]
        both._curvature = sum((part.to(device) for part in known[1:]), known[0].to(device, copy=True)) if known else None
        both._fold()
        return both


class Corrector:
    r"""Weights of a correction at one curvature, for any ridge, slope and start; the last row is the intercept.

    .. math:: W = W_0 + (H / n + \lambda D)^{-1} (G / n - \lambda D W_0)

    with D the identity, and 0 for the intercept. It is one Newton step on the ridge-penalised log-loss; because H bounds the
    curvature at other scores nearly as well, its factors, made when first asked for and kept, serve further steps.

    Where samples are fewer than features the same weights are sums of samples: with X the rows times the root of w, without
    their last number s, and R the errors (y - p) / s,

    .. math:: W = X^\top (\beta - \eta\, b), \quad (X X^\top + n \lambda) [\beta, \eta] = [R + X W_0, s], \quad
              b = \frac{s^\top \beta}{s^\top \eta},

    and b is added to the intercept.

    Source:
        Ours; the bound of the curvature is in the spirit of Böhning 1992, "Multinomial logistic regression algorithm"; the sums
        of samples are those of Suykens & Vandewalle 1999, "Least squares support vector machine classifiers".

    Args:
        sums: Hold H and n, or fewer samples than features. Each ridge that is asked for takes as much memory as H, or as the
            square of the samples.
        like: One of the same samples with other weights, whose products are used up.

    Raises:
        InputError: No samples, or features that are not finite.
    """

    def __init__(self, sums: Sums, like: "Corrector | None" = None):
        if not sums.samples:
            raise InputError("a correction needs at least one sample", "the sums are empty")
        if not all(map(_finite, [sums.curvature] if sums.summed else sums.few)):
            raise InputError("features must be finite", "found some that are not")
        self.sums = sums
        self.rows = None if sums.summed else sums.held()
        self.slope = sums.gradient if self.rows is None else torch.cat(sums.errors)
        """Of the log-loss at the scores of the sums: G, or R where samples are fewer than features."""
        self._products = torch.empty(0)  # of the samples, for all ridges
        if self.rows is not None:
            self._products = self._products_of(self.rows, like)
        self.penalised = torch.ones(len(sums.gradient), 1, dtype=torch.float64, device=sums.gradient.device)
        self.penalised[-1] = 0
        self._factors: dict[float, Tensor] = {}
        self._unusable: set[float] = set()

    @staticmethod
    def _products_of(rows: Tensor, like: "Corrector | None") -> Float[Tensor, "samples samples"]:
        """Of all pairs of samples: those of the others, times the ratios of the roots of their weights, which are the ones."""
        if like is not None and like.rows is not None:
            ratio = rows[:, -1] / like.rows[:, -1]
            return like._products.mul_(ratio).mul_(ratio[:, None])
        products = rows.new_zeros(len(rows), len(rows))
        _add_products(rows[:, :-1], products)
        return products

    def slope_at(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The slope for the same samples, in their order, at other scores or towards other labels.

        Args:
            parts: By batch: features, probabilities in float64, and labels.
        """
        if self.rows is not None:
            return torch.cat([_error(p, labels) for _, p, labels in parts]) / self.rows[:, -1:]
        slope = torch.zeros_like(self.slope)
        for rows, p, labels in parts:
            slope += Sums.gradient_of(rows, p, labels)
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
        if self.rows is not None:
            return dict(zip(usable, self._sums_of(self.rows, usable, start, slope), strict=True))
        found = {}
        for ridge in usable:
            right = slope / self.sums.samples
            found[ridge] = (
                self._solved(ridge, right)
                if start is None
                else start + self._solved(ridge, right - ridge * self.penalised * start)
            )
        return found

    def _has_factor(self, ridge: float) -> bool:
        """Whether H / n + λ D has a Cholesky factor, or that of the products of fewer samples than features and n λ."""
        if ridge not in self._factors and ridge not in self._unusable:
            if self.rows is None:
                matrix = self.sums.curvature / self.sums.samples
                matrix.diagonal().add_(ridge * self.penalised[:, 0])
            else:
                matrix = self._products.clone()
                matrix.diagonal().add_(len(self.rows) * ridge)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if failed:
                self._unusable.add(ridge)
            else:
                self._factors[ridge] = factor
        return ridge in self._factors

    def _solved(self, ridge: float, right: Tensor) -> Tensor:
        """The solution by the factor, which :func:`torch.cholesky_solve` would copy first."""
        factor = self._factors[ridge]
        half = torch.linalg.solve_triangular(factor, right, upper=False)
        return torch.linalg.solve_triangular(factor.mT, half, upper=True)

    def _sums_of(self, rows: Tensor, ridges: list[float], start: Tensor | None, slope: Tensor) -> list[Tensor]:
        """The weights as sums of samples; ridges share the products with all rows."""
        x, ones = rows[:, :-1], rows[:, -1:]
        wanted = slope if start is None else slope + x @ start[:-1]
        shares, intercepts = [], []
        for ridge in ridges:
            found = self._solved(ridge, torch.cat([wanted, ones], 1))
            total = ones.T @ found
            intercepts.append(total[:, :-1] / total[:, -1:])
            shares.append(found[:, :-1] - found[:, -1:] * intercepts[-1])
        before = 0.0 if start is None else start[-1:]
        weights = (torch.cat(shares, 1).T @ x).T.split(slope.shape[1], 1)  # in this order, for speed
        return [torch.cat([each, before + own]) for each, own in zip(weights, intercepts, strict=True)]

    def forget(self) -> None:
        """Let go of the factors of all ridges."""
        self._factors = {}

    def as_before(self, slope: Tensor) -> Float[Tensor, "ridges rows classes"]:
        """The weights for another slope, one for each ridge that was asked for and can be used."""
        return torch.stack(list(self.each(sorted(self._factors), slope=slope).values()))


def probabilities(scores: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples classes"]:
    """Softmax in float64, held class by class: sums over few classes are several times faster so."""
    return scores.T.double().contiguous().softmax(0).T


def added(
    rows: Float[Tensor, "samples features"], weights: Float[Tensor, "corrections rows classes"]
) -> list[Float[Tensor, "samples classes"]]:
    """What each of several corrections adds to the scores."""
    wide = weights.to(rows).mT.flatten(0, 1)
    return list(torch.addmm(wide[:, -1:], wide[:, :-1], rows.T).T.split(weights.shape[2], 1))  # in this order, for speed


def _error(p: Tensor, labels: Tensor) -> Float[Tensor, "samples classes"]:
    """y - p."""
    return (-p).scatter_add_(1, labels[:, None], p.new_ones(len(p), 1))


def _finite(values: Tensor) -> bool:
    return bool(values.sum().isfinite() or values.isfinite().all())  # the sum is found much sooner


def _add_products(rows: Tensor, total: Tensor) -> None:
    """Add the products of all pairs of rows, which are the same above the diagonal as below it."""
    for first in range(0, len(rows), _BLOCK):
        last = min(first + _BLOCK, len(rows))
        part = rows[first:last] @ rows[:last].T
        total[first:last, :last] += part
        total[:first, first:last] += part[:, :first].T
