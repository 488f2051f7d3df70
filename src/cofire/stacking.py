"""A few numbers, fitted on held-out samples, that put corrected class scores beside the model's own."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError
from cofire.scoring import losses, possible

__all__ = ["Paths", "Stack", "cross_fitted", "folds_of", "stacked", "stacks_of", "together"]

_ENOUGH = 1000
"""Labels from which an offset for each class is fitted too: to all of them, and so to those without a fold."""

_RIDGE, _LEAST = 2e-6, 1e-3
"""The smallest of ridges keeps the factors finite where every sample is right; the model's own factor stays above a bound, so
that a temperature changes no prediction."""

_SPREAD = 3.0
"""Deviation of the prior of factors that are fitted together."""

_RULED_OUT = -1e30
"""What minus infinity counts as: a class of probability 0 stays one, and 0 times its score is a number."""

_STEPS, _HALVINGS, _CLOSE = 50, 30, 1e-7

_BLOCK = 2**20  # numbers of a part that are summed at once


@dataclass(frozen=True)
class Stack:
    """Class scores ``a * own + b * other + c``.

    Args:
        own: Factor a of the model's scores: the inverse of a temperature.
        other: Factor b of the others; 0 where there are none.
        offset: c, one number per class, float64 [classes].
        place: Which of the offered scores these are.
        loss: The log-loss of the samples that it is fitted to, with what is added to keep it finite.
    """

    own: float
    other: float
    offset: Float[Tensor, " classes"]
    place: int = 0
    loss: float = math.nan

    def __call__(self, own: Tensor, others: Sequence[Tensor] = ()) -> Tensor:
        """The scores, float64 [samples, classes]."""
        scores = self.own * own.double() if self.own else torch.zeros_like(own, dtype=torch.float64)  # also of minus infinity
        if others:
            scores = scores + self.other * others[self.place].double() + self.offset.to(own.device)
        return scores


def stacked(
    own: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], others: Sequence[Tensor] = (),
    starts: Sequence[Stack] | None = None, offsets: bool | None = None,
) -> Stack:  # fmt: skip
    """The stack of lowest log-loss; without others, the model's temperature. Arguments as for :func:`stacks_of`."""
    return min(stacks_of(own, labels, others, starts, offsets), key=lambda stack: stack.loss)


def stacks_of(
    own: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], others: Sequence[Tensor] = (),
    starts: Sequence[Stack] | None = None, offsets: bool | None = None,
) -> list[Stack]:  # fmt: skip
    """The stack of each of the others, or the model's temperature alone.

    Offsets have a normal prior of variance 1, as one sample would weigh: a class that no held-out sample is of keeps its place.

    Args:
        own: The model's class scores on held-out samples.
        labels: Their true classes.
        others: Other scores of them.
        starts: A stack for each of the others from which to begin.
        offsets: Fit an offset of each class to others too; by default from 1,000 samples on.
    """
    if not len(labels):
        raise InputError("stacking needs held-out samples", "found none")
    found: list[Stack] = []
    for index, other in enumerate(others or [None]):
        start = starts[index] if starts else found[-1] if found else None  # neighbours are alike
        found.append(_fit(own, labels, other, index, start, len(labels) >= _ENOUGH if offsets is None else offsets))
    return found


def folds_of(labels: Int[Tensor, " samples"], folds: int = 5, seed: int = 0, *, even: bool = False) -> Int[Tensor, " samples"]:
    """A fold for every sample, at random.

    Args:
        labels: True classes.
        folds: How many.
        seed: Of the choice.
        even: Spread every class evenly over the folds. Then the others tell what classes a fold has, which must not be where
            class shares are fitted to them and judged by the fold.
    """
    lots = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=lots)
    if even:
        shuffled = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    found = torch.empty(len(labels), dtype=torch.int64)
    found[shuffled] = torch.arange(len(labels)) % folds
    return found.to(labels.device)


def cross_fitted(
    own: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], others: Sequence[Tensor] = (), *, folds: int = 5,
    seed: int = 0,
) -> Float[Tensor, "samples classes"]:  # fmt: skip
    """Scores of every sample from a stack that was fitted, and chosen, without its fold; float64."""
    place = folds_of(labels, folds, seed)
    offsets = len(labels) >= _ENOUGH
    starts = [_fit(own, labels, other, index, None, offsets) for index, other in enumerate(others)] or None
    scores = torch.empty_like(own, dtype=torch.float64)
    for fold in range(folds):
        inside, outside = place == fold, place != fold
        if not inside.any():
            continue
        if not outside.any():
            raise InputError("there must be at least two held-out samples", f"found {len(labels)}")
        stack = stacked(own[outside], labels[outside], [other[outside] for other in others], starts, offsets)
        scores[inside] = stack(own[inside], [other[inside] for other in others])
    return scores


def together(
    parts: Sequence[Float[Tensor, "samples classes"]], labels: Int[Tensor, " samples"], centre: Sequence[float],
    start: Tensor | None = None,
) -> Float[Tensor, " parts"]:  # fmt: skip
    """Factors of several class scores, all added up, of lowest log-loss.

    They have a normal prior of deviation 3.

    Args:
        parts: Class scores on held-out samples, the model's first.
        labels: Their true classes.
        centre: Of the prior; those that are not given are 0.
        start: Where to begin; by default there.
    """
    values = parts[0].new_zeros(len(parts), dtype=torch.float64)
    values[: len(centre)] = values.new_tensor(centre)
    prior = torch.full_like(values, 1 / (_SPREAD**2 * len(labels)))
    return _lowest(list(parts), labels, values if start is None else start, prior, values)[1]


@dataclass(frozen=True)
class _Path:
    """Class scores a z + f whose factors some of the held-out samples say: a, and f for all samples, [samples, classes]."""

    fitted: Tensor
    own: float
    other: Tensor


@dataclass(frozen=True)
class Paths:
    """Class scores a z + f on held-out samples, where f goes along directions as far as these samples say.

    One path is fitted to all of them, and one to all but each fold: what they say of the samples of that fold is what the way
    there is worth, since these had no say in it.

    Args:
        own: The model's class scores z.
        labels: True classes.
        whole: The path that is fitted to all samples.
        parts: Those that are fitted to all but one fold.
    """

    own: Float[Tensor, "samples classes"]
    labels: Int[Tensor, " samples"]
    whole: _Path
    parts: tuple[_Path, ...]

    @cached_property
    def loss(self) -> float:
        """Mean log-loss of all samples, each on the path without its fold, but those whose class the model rules out."""
        nothing = torch.zeros(self.own.shape[1], dtype=torch.float64)
        found = losses(self._judged([Stack(part.own, 1.0, nothing) for part in self.parts]), self.labels)
        return float(found[possible(self.own, self.labels)].mean())

    @classmethod
    def along_best(
        cls,
        own: Tensor,
        labels: Tensor,
        others: Sequence[Tensor],
        stacks: Sequence[Stack] = (),
        *,
        folds: int = 5,
        seed: int = 0,
    ) -> "tuple[Paths, Stack]":
        """Paths along the best of several directions, whose stacks may be known, and the one that all samples choose."""
        stacks = stacks or stacks_of(own, labels, others, offsets=False)
        best, place, paths = min(stacks, key=lambda stack: stack.loss), folds_of(labels, folds, seed), []
        for fold in place.unique().tolist():
            fitted = place != fold
            stack = stacked(own[fitted], labels[fitted], [other[fitted] for other in others], stacks, offsets=False)
            paths.append(_Path(fitted, stack.own, stack.other * others[stack.place]))
        whole = _Path(torch.ones_like(labels, dtype=torch.bool), best.own, best.other * others[best.place])
        return cls(own, labels, whole, tuple(paths)), best

    def along(self, directions: Sequence[Float[Tensor, "samples classes"]]) -> tuple["Paths", Float[Tensor, " parts"]]:
        """Paths that went on along several directions at once.

        Returns:
            The paths, and what all samples want: the factors of z, of f, and of each direction.
        """
        factors = self._factors(self.whole, directions)
        parts = [self._moved(part, self._factors(part, directions, factors), directions) for part in self.parts]
        return replace(self, whole=self._moved(self.whole, factors, directions), parts=tuple(parts)), factors

    def scores(self) -> Float[Tensor, "samples classes"]:
        """Scores of every sample by the stack of z and f on the path without its fold, float64."""
        start, offsets, stacks = stacked(self.own, self.labels, [self.whole.other]), len(self.labels) >= _ENOUGH, []
        for part in self.parts:
            own, labels, other = (each[part.fitted] for each in (self.own, self.labels, part.other))
            stacks.append(stacked(own, labels, [other], [start], offsets))
        return self._judged(stacks)

    def _factors(self, path: _Path, directions: Sequence[Tensor], start: Tensor | None = None) -> Tensor:
        parts = [part[path.fitted] for part in (self.own, path.other, *directions)]
        return together(parts, self.labels[path.fitted], [path.own, 1.0], start)

    def _moved(self, path: _Path, factors: Tensor, directions: Sequence[Tensor]) -> _Path:
        far = [float(factor) * part for factor, part in zip(factors[1:], (path.other, *directions), strict=True)]
        return replace(path, own=float(factors[0]), other=sum(far[1:], far[0]))

    def _judged(self, stacks: Sequence[Stack]) -> Tensor:
        """Scores of every sample by a stack of z and f on the path without its fold."""
        scores = torch.empty_like(self.own, dtype=torch.float64)
        for part, stack in zip(self.parts, stacks, strict=True):
            left_out = ~part.fitted
            scores[left_out] = stack(self.own[left_out], [part.other[left_out]])
        return scores


def _fit(own: Tensor, labels: Tensor, other: Tensor | None, place: int, start: Stack | None, offset_too: bool) -> Stack:
    """The stack of lowest log-loss: with a tiny penalty on the factors and a prior on the offsets."""
    n, classes = own.shape
    parts = [own] if other is None else [own, other]
    factors, offsets = len(parts), classes if other is not None and offset_too else 0
    start = start or Stack(1.0, 0.0, torch.zeros(classes, dtype=torch.float64))
    first = start.offset.new_tensor([start.own, start.other][:factors])
    values = torch.cat([first, start.offset[:offsets]]).to(own.device)
    prior = torch.cat([values.new_full((factors,), _RIDGE), values.new_full((offsets,), 1 / n)])
    loss, values = _lowest(parts, labels, values, prior, torch.zeros_like(values))
    offset = torch.zeros(classes, dtype=torch.float64)
    offset[:offsets] = values[factors:].cpu()
    return Stack(float(values[0]), float(values[1]) if factors > 1 else 0.0, offset, place, loss)


def _lowest(parts: list[Tensor], labels: Tensor, values: Tensor, prior: Tensor, centre: Tensor) -> tuple[float, Tensor]:
    """The lowest log-loss and its factors of scores, with or without offsets after them, by Newton's method.

    Args:
        parts: Scores, the model's first.
        labels: True classes.
        values: Where to start: a factor of each part, and an offset of each class or none.
        prior: The weight of half a squared distance of each value.
        centre: From where it is measured.
    """
    judged = possible(parts[0], labels)
    if not judged.all():  # no factor brings back a class that the model rules out
        parts, labels = [part[judged] for part in parts], labels[judged]
    n, classes = parts[0].shape
    if not n:
        return 0.0, values
    factors, offsets = len(parts), len(values) > len(parts)
    true = torch.stack([part.gather(1, labels[:, None]).double().clamp(min=_RULED_OUT).sum() for part in parts])
    if offsets:
        true = torch.cat([true, torch.bincount(labels, minlength=classes).to(true)])
    size = max(1, _BLOCK // classes)
    cuts = [slice(first, first + size) for first in range(0, n, size)]
    whole = _rows(parts, cuts[0]) if len(cuts) == 1 else None

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for cut in cuts:
            yield cut, _rows(parts, cut) if whole is None else whole

    def at(values: Tensor) -> tuple[float, Tensor]:
        """The loss, and the logarithms of the probabilities, [classes, samples]."""
        scores = torch.cat([(values[:factors] @ rows).view(classes, -1) for _, rows in blocks()], 1)
        logs = (scores + values[factors:, None] if offsets else scores).log_softmax(0)
        return float(-logs.gather(0, labels[None]).sum() / n + (prior * (values - centre).square()).sum() / 2), logs

    loss, logs = at(values)
    for _ in range(_STEPS):
        expected, curvature = torch.zeros_like(values), values.new_zeros(len(values), len(values))
        for cut, rows in blocks():
            p = logs[:, cut].exp()
            weighted = (rows * p.ravel()).view(factors, classes, -1)
            mean = weighted.sum(1)
            expected[:factors] += mean.sum(1)
            curvature[:factors, :factors] += weighted.flatten(1) @ rows.T - mean @ mean.T
            if offsets:
                share = p.sum(1)
                expected[factors:] += share
                curvature[:factors, factors:] += weighted.sum(2) - mean @ p.T
                curvature[factors:, factors:] += torch.diag(share) - p @ p.T
        curvature[factors:, :factors] = curvature[:factors, factors:].T
        slope, curvature = (expected - true) / n + prior * (values - centre), curvature / n + torch.diag(prior)
        step = -torch.linalg.solve(curvature, slope)
        if values[0] + step[0] < _LEAST:  # the model's factor stays at its bound, and the others move
            step[0] = _LEAST - values[0]
            step[1:] = -torch.linalg.solve(curvature[1:, 1:], slope[1:] + step[0] * curvature[1:, 0])
        expected_fall = -float(slope @ step)
        for _ in range(_HALVINGS):
            tried, there = at(values + step)
            if tried <= loss:
                break
            step = step / 2
        else:
            break
        values, loss, logs = values + step, tried, there
        if expected_fall < _CLOSE:
            break
    return loss, values


def _rows(parts: list[Tensor], cut: slice) -> Float[Tensor, "parts numbers"]:
    """Some samples of all parts, float64, class by class: sums over classes are several times faster so."""
    return torch.stack([part[cut].double().clamp(min=_RULED_OUT).T.ravel() for part in parts])
