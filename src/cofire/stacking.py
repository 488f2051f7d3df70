"""A few numbers, fitted on held-out samples, that put corrected class scores beside the model's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["Stack", "cross_fitted", "folds_of", "stacked", "together"]

_ENOUGH = 1000
"""Labels from which an offset for each class is fitted too."""

_RIDGE, _LEAST = 2e-6, 1e-3
"""The smallest of ridges keeps the factors finite where every sample is right; the model's own factor stays above a bound, so
that a temperature changes no prediction."""

_SPREAD = 3.0
"""Deviation of the prior of factors that are fitted together."""

_RULED_OUT = -1e30
"""What minus infinity counts as: a class of probability 0 stays one, and 0 times its score is a number."""

_STEPS, _HALVINGS, _CLOSE = 50, 30, 1e-13


@dataclass(frozen=True)
class Stack:
    """Class scores ``a * own + b * other + c``.

    Args:
        own: Factor a of the model's scores: the inverse of a temperature.
        other: Factor b of the others; 0 where there are none.
        offset: c, one number per class, float64 [classes].
        place: Which of the offered scores these are.
    """

    own: float
    other: float
    offset: Float[Tensor, " classes"]
    place: int = 0

    def __call__(self, own: Tensor, others: Sequence[Tensor] = ()) -> Tensor:
        """The scores, float64 [samples, classes]."""
        scores = self.own * own.double()
        if others:
            scores = scores + self.other * others[self.place].double() + self.offset.to(own.device)
        return scores


def stacked(
    own: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], others: Sequence[Tensor] = (),
    starts: Sequence[Stack] | None = None,
) -> Stack:  # fmt: skip
    """The stack of lowest log-loss; without others, the model's temperature.

    Offsets have a normal prior of variance 1, as one sample would weigh: a class that no held-out sample is of keeps its place.

    Args:
        own: The model's class scores on held-out samples.
        labels: Their true classes.
        others: Other scores of them, of which the best is chosen.
        starts: A stack for each of the others from which to begin.

    Returns:
        Its offset is 0 below 1,000 samples.
    """
    if not len(labels):
        raise InputError("stacking needs held-out samples", "found none")
    found: list[tuple[float, Stack]] = []
    for index, other in enumerate(others or [None]):
        start = starts[index] if starts else found[-1][1] if found else None  # neighbours are alike
        found.append(_fit(own, labels, other, index, start))
    return min(found, key=lambda pair: pair[0])[1]


def folds_of(labels: Int[Tensor, " samples"], folds: int = 5, seed: int = 0) -> Int[Tensor, " samples"]:
    """A fold for every sample, at random, with every class spread evenly over the folds."""
    lots = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=lots)
    by_class = shuffled[labels.cpu()[shuffled].argsort(stable=True)]
    found = torch.empty(len(labels), dtype=torch.int64)
    found[by_class] = torch.arange(len(labels)) % folds
    return found.to(labels.device)


def cross_fitted(
    own: Float[Tensor, "samples classes"], labels: Int[Tensor, " samples"], others: Sequence[Tensor] = (), *, folds: int = 5,
    seed: int = 0,
) -> Float[Tensor, "samples classes"]:  # fmt: skip
    """Scores of every sample from a stack that was fitted, and chosen, without its fold; float64."""
    place = folds_of(labels, folds, seed)
    starts = [_fit(own, labels, other, index)[1] for index, other in enumerate(others)] or None
    scores = torch.empty_like(own, dtype=torch.float64)
    for fold in range(folds):
        inside, outside = place == fold, place != fold
        if not inside.any():
            continue
        if not outside.any():
            raise InputError("there must be at least two held-out samples", f"found {len(labels)}")
        stack = stacked(own[outside], labels[outside], [other[outside] for other in others], starts)
        scores[inside] = stack(own[inside], [other[inside] for other in others])
    return scores


def together(
    parts: Float[Tensor, "parts samples classes"], labels: Int[Tensor, " samples"], start: Sequence[float]
) -> Float[Tensor, " parts"]:
    """Factors of several class scores, all added up, of lowest log-loss.

    They have a normal prior of deviation 3 around where they start.

    Args:
        parts: Class scores on held-out samples, the model's first.
        labels: Their true classes.
        start: Factors to begin with; those that are not given are 0.
    """
    values = parts.new_zeros(len(parts), dtype=torch.float64)
    values[: len(start)] = values.new_tensor(start)
    prior = torch.full_like(values, 1 / (_SPREAD**2 * len(labels)))
    return _lowest(list(parts.double()), labels, values, prior, values)[1]


def _fit(own: Tensor, labels: Tensor, other: Tensor | None, place: int, start: Stack | None = None) -> tuple[float, Stack]:
    """The stack of lowest log-loss: with a tiny penalty on the factors and a prior on the offsets."""
    n, classes = own.shape
    parts = [own.double()] if other is None else [own.double(), other.double()]
    factors, offsets = len(parts), classes if other is not None and n >= _ENOUGH else 0
    start = start or Stack(1.0, 0.0, torch.zeros(classes, dtype=torch.float64))
    values = torch.cat([torch.tensor([start.own, start.other][:factors]).to(parts[0]), start.offset.to(parts[0])[:offsets]])
    prior = torch.cat([values.new_full((factors,), _RIDGE), values.new_full((offsets,), 1 / n)])
    loss, values = _lowest(parts, labels, values, prior, torch.zeros_like(values))
    offset = torch.zeros(classes, dtype=torch.float64)
    offset[:offsets] = values[factors:].cpu()
    return loss, Stack(float(values[0]), float(values[1]) if factors > 1 else 0.0, offset, place)


def _lowest(parts: list[Tensor], labels: Tensor, values: Tensor, prior: Tensor, centre: Tensor) -> tuple[float, Tensor]:
    """The lowest log-loss and its factors of scores, with or without offsets after them, by Newton's method.

    Args:
        parts: Scores, the model's first.
        labels: True classes.
        values: Where to start: a factor of each part, and an offset of each class or none.
        prior: The weight of half a squared distance of each value.
        centre: From where it is measured.
    """
    n, classes = parts[0].shape
    parts = [part.clamp(min=_RULED_OUT) for part in parts]
    factors, offsets = len(parts), len(values) > len(parts)
    mine = labels[:, None]
    true = torch.stack([part.gather(1, mine).sum() for part in parts])
    if offsets:
        true = torch.cat([true, torch.bincount(labels, minlength=classes).to(true)])

    def at(values: Tensor) -> tuple[float, Tensor]:
        """The loss, and the logarithms of the probabilities."""
        scores = values[0] * parts[0]
        for factor, part in zip(values[1:factors], parts[1:], strict=True):
            scores = scores + factor * part
        logs = (scores + values[factors:] if offsets else scores).log_softmax(1)
        return float(-logs.gather(1, mine).sum() / n + (prior * (values - centre).square()).sum() / 2), logs

    loss, logs = at(values)
    for _ in range(_STEPS):
        p = logs.exp()
        weighted = [p * part for part in parts]
        mean = torch.stack([each.sum(1) for each in weighted], 1)
        second = torch.stack([torch.stack([each.ravel() @ part.ravel() for part in parts]) for each in weighted])
        expected, curvature = mean.sum(0), second - mean.T @ mean
        if offsets:
            share = p.sum(0)
            cross = torch.stack([each.sum(0) for each in weighted], 1) - p.T @ mean
            expected = torch.cat([expected, share])
            curvature = torch.cat([torch.cat([curvature, cross.T], 1), torch.cat([cross, torch.diag(share) - p.T @ p], 1)])
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
