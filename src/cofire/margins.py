"""What a model's outputs say of labelled samples: margins, confidences and losses, and the baselines made of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cofire.batches import as_batch
from cofire.errors import InputError
from cofire.progress import track
from cofire.readings import form_in, scores_in
from cofire.scoring import correct, losses
from cofire.wrappers import called, device_of, evaluating

__all__ = ["Outputs", "inverse_margin", "mean_accuracy", "mean_loss", "mean_max_softmax", "outputs"]


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model said of labelled samples, one number each.

    Args:
        margins: Logit of the true class less the largest other, float64 [samples].
        confidences: Largest softmax probability, float64 [samples].
        losses: Negative log-likelihood of the true class in nats, float64 [samples].
        right: Classified correctly, [samples].
    """

    margins: Float[Tensor, " samples"]
    confidences: Float[Tensor, " samples"]
    losses: Float[Tensor, " samples"]
    right: Bool[Tensor, " samples"]


@torch.no_grad()
def outputs(model: nn.Module, batches: Iterable, device: Any = None, progress: bool = False) -> Outputs:
    """Margins, confidences and losses of a model, in one pass in eval mode.

    Args:
        model: A classifier that gives logits or probabilities.
        batches: (inputs, labels) or mappings with labels, as for :func:`cofire.record`; training data, for the baselines.
        device: Where to run; by default where the model is.
        progress: Show a progress bar on a terminal.

    Raises:
        InputError: No sample, or labels beyond the model's classes.
        ModelError: The model gives no class scores.

    >>> seen = outputs(nn.Identity(), [(torch.tensor([[2.0, 0.0], [1.0, 4.0]]), torch.tensor([0, 0]))])
    >>> seen.margins.tolist(), seen.right.tolist()
    ([2.0, -3.0], [True, False])
    """
    device, form, parts = device_of(model, device), "", []
    with evaluating(model):
        for index, item in enumerate(track(batches, "outputs", progress)):
            batch = as_batch(item, device, None, f"batch {index}")
            if not len(batch):
                continue
            form = form or form_in(model, batch)
            parts.append(_of_batch(scores_in(called(model, batch.inputs), form).double(), batch.labels, index))
    if not parts:
        raise InputError("there must be at least one sample", "the batches are empty")
    return Outputs(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def _of_batch(scores: Tensor, labels: Tensor, index: int) -> tuple[Tensor, ...]:
    if int(labels.max()) >= scores.shape[1]:
        raise InputError(
            f"labels must be below the model's {scores.shape[1]} classes", f"batch {index} has {int(labels.max())}"
        )
    at = labels[:, None]
    margins = scores.gather(1, at)[:, 0] - scores.scatter(1, at, -torch.inf).amax(1)
    return margins, scores.softmax(1).amax(1), losses(scores, labels), correct(scores, labels)


def inverse_margin(seen: Outputs) -> float:
    r"""Inverse square of the margin that nine samples of ten exceed.

    .. math:: 1 / \gamma^2

    with gamma the 10th percentile of the margins: the logit of the true class less the largest other.

    Range:
        Above 0; larger for a model that is less sure of its training data.

    Source:
        Jiang et al. 2020, "Fantastic generalization measures and where to find them". *Departure:* it is theirs for models
        that fit their data; where a tenth of the samples or more is wrong, gamma has no such meaning, and the value is NaN.

    Args:
        seen: The model's outputs on its training data.
    """
    gamma = float(np.quantile(seen.margins.numpy(), 0.1))
    return gamma**-2 if gamma > 0 else math.nan


def mean_max_softmax(seen: Outputs) -> float:
    """Mean of the largest softmax probability; range: one over the classes to 1."""
    return float(seen.confidences.mean())


def mean_loss(seen: Outputs) -> float:
    """Mean negative log-likelihood of the true class, in nats; on training data, the training loss in eval mode."""
    return float(seen.losses.mean())


def mean_accuracy(seen: Outputs) -> float:
    """Share of samples classified correctly."""
    return float(seen.right.double().mean())
