"""A few numbers, fitted on held-out samples, that put corrected class scores beside the model's own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["Stack", "cross_fitted", "folds_of", "stacked"]

_ENOUGH = 1000  # labels from which an offset for each class is fitted too


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
    found = [_fit(own, labels, other, index, starts) for index, other in enumerate(others or [None])]
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
    starts = [_fit(own, labels, other, index, None)[1] for index, other in enumerate(others)] or None
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


def _fit(own: Tensor, labels: Tensor, other: Tensor | None, place: int, starts) -> tuple[float, Stack]:
    from scipy.optimize import minimize

    own, n = own.double(), len(labels)
    classes, target = own.shape[1], torch.nn.functional.one_hot(labels, own.shape[1]).double()
    other = None if other is None else other.double()
    begun = starts[place] if starts else Stack(1.0, 0.0, torch.zeros(classes, dtype=torch.float64), place)
    count = classes if other is not None and n >= _ENOUGH else 0  # of offsets

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        offset = torch.from_numpy(values[2:]).to(own.device) if count else 0.0
        scores = math.exp(values[0]) * own + (0.0 if other is None else values[1] * other) + offset
        logs = scores.log_softmax(1)
        residual = (logs.exp() - target) / n
        factors = math.exp(values[0]) * float((residual * own).sum()), 0.0 if other is None else float((residual * other).sum())
        slope = np.array(factors) + 2e-6 * values[:2]
        offsets = residual.sum(0).cpu().numpy() if count else np.empty(0)
        # The smallest of ridges keeps the factors finite where every sample is right.
        return float(-(target * logs).sum() / n) + 1e-6 * float(values[:2] @ values[:2]), np.concatenate([slope, offsets])

    # The factor of the model's own scores is the exponential of what is fitted, so a temperature alone changes no prediction.
    start = np.concatenate([[math.log(begun.own), begun.other], begun.offset.numpy()[:count]])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "ftol": 1e-12, "gtol": 1e-7})
    offset = torch.zeros(classes, dtype=torch.float64)
    offset[:count] = torch.from_numpy(found.x[2:])
    return float(found.fun), Stack(math.exp(found.x[0]), float(found.x[1]) if other is not None else 0.0, offset, place)
