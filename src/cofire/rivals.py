"""Other ways to say whether a prediction or an input can be trusted: from the outputs, from distances, from neighbours."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError

__all__ = ["OUTPUTS", "Score", "gaussian", "mahalanobis", "nearest", "output_scores", "vim"]

Score = Callable[[Float[Tensor, "samples features"]], Float[Tensor, " samples"]]
"""A score of features: larger where they are more like those that it was fitted on."""

OUTPUTS = ("msp", "entropy", "max_logit", "energy", "margin")


def output_scores(logits: Float[Tensor, "samples classes"]) -> dict[str, Float[Tensor, " samples"]]:
    """Five scores of a model's outputs, larger where the prediction looks surer.

    ``msp`` is the largest softmax probability p as log-odds, ln p - ln(1 - p): the same order, without the ties at p = 1;
    ``entropy`` that of the softmax in nats, with its sign turned; ``max_logit`` the largest logit; ``energy`` the logarithm of
    the sum of their exponentials; ``margin`` the largest less the second.

    Source:
        Hendrycks and Gimpel 2017 (msp); Hendrycks et al. 2022 (max_logit); Liu et al. 2020 (energy).

    Args:
        logits: Class scores, of at least two classes.

    Raises:
        InputError: Fewer classes.

    >>> output_scores(torch.tensor([[2.0, 0.0]]))["msp"].tolist()
    [2.0]
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError("logits must be [samples, classes] with at least two classes", f"found {tuple(logits.shape)}")
    logits = logits.double()
    largest = logits.topk(2)
    others = logits.scatter(1, largest.indices[:, :1], -torch.inf).logsumexp(1)
    logs = logits.log_softmax(1)
    return {
        "msp": largest.values[:, 0] - others,
        "entropy": -torch.special.entr(logs.exp()).sum(1),
        "max_logit": largest.values[:, 0],
        "energy": logits.logsumexp(1),
        "margin": largest.values[:, 0] - largest.values[:, 1],
    }


def nearest(bank: Float[Tensor, "bank features"], k: int = 10) -> Score:
    """Distance to the k-th nearest of some training features, all scaled to length 1, with its sign turned.

    Source:
        Sun et al. 2022.

    Args:
        bank: Features of training samples, which are kept.
        k: Which neighbour.

    Raises:
        InputError: The bank holds fewer than k.
    """
    if not 1 <= k <= len(bank):
        raise InputError(f"k must lie between 1 and the {len(bank):,} features of the bank", f"found {k}")
    bank = F.normalize(bank.float(), dim=1)
    return lambda features: torch.cat(
        [-torch.cdist(part, bank).kthvalue(k, dim=1).values for part in F.normalize(features.float(), dim=1).split(1024)]
    )


def gaussian(features: Float[Tensor, "samples features"]) -> Score:
    """Squared Mahalanobis distance to the mean of all samples, with its sign turned; of pixels, a control without a network.

    Args:
        features: Of training samples.
    """
    return mahalanobis(features, torch.zeros(len(features), dtype=torch.int64))


def mahalanobis(
    features: Float[Tensor, "samples features"], labels: Int[Tensor, " samples"], normalised: bool = False,
    relative: bool = False,
) -> Score:  # fmt: skip
    """Smallest squared Mahalanobis distance to a class mean, one covariance for all classes, with its sign turned.

    Source:
        Lee et al. 2018; Ren et al. 2021 (relative); Müller and Hein 2025 (normalised).

    Args:
        features: Of training samples.
        labels: Their classes.
        normalised: Scale features to length 1 first.
        relative: Take off the distance to the mean of all samples, with their covariance.
    """

    def prepared(values: Tensor) -> Tensor:
        return F.normalize(values.double(), dim=1) if normalised else values.double()

    features = prepared(features)
    means = torch.stack([features[labels == c].mean(0) for c in labels.unique()])
    place = torch.searchsorted(labels.unique(), labels)
    within = _inverse(features - means[place])
    overall, total = features.mean(0), _inverse(features - features.mean(0)) if relative else None

    def score(values: Tensor) -> Tensor:
        values = prepared(values)
        near = torch.stack([_distance(values - mean, within) for mean in means]).amin(0)
        return -near if total is None else _distance(values - overall, total) - near

    return score


def vim(features: Float[Tensor, "samples features"], logits: Float[Tensor, "samples classes"], kept: int | None = None):
    """Virtual-logit matching: energy, less the scaled norm of what lies outside the principal space of the features.

    Source:
        Wang et al. 2022. *Departure:* the linear map to the logits is found by least squares, which is exact where it is one.

    Args:
        features: Of training samples.
        logits: Their class scores.
        kept: Dimensions of the principal space; by default half of the features, at most 512.

    Returns:
        A function of features and logits [samples], larger where they are more like the training data.
    """
    features, logits = features.double(), logits.double()
    design = torch.cat([features, features.new_ones(len(features), 1)], 1)
    fitted = torch.linalg.lstsq(design, logits, driver="gelsd").solution
    origin = -torch.linalg.pinv(fitted[:-1].T) @ fitted[-1]
    centred = features - origin
    axes = torch.linalg.eigh(centred.T @ centred / len(centred)).eigenvectors.flip(1)
    kept = min(512, features.shape[1] // 2) if kept is None else kept
    rest = axes[:, kept:]
    scale = float(logits.amax(1).mean() / (centred @ rest).norm(dim=1).mean().clamp(min=1e-12))

    def score(values: Tensor, their_logits: Tensor) -> Tensor:
        return their_logits.double().logsumexp(1) - scale * ((values.double() - origin) @ rest).norm(dim=1)

    return score


def _inverse(centred: Tensor) -> Tensor:
    """Pseudo-inverse of a covariance: directions in which nothing varies count nothing."""
    return torch.linalg.pinv(centred.T @ centred / len(centred), hermitian=True, rtol=1e-10)


def _distance(centred: Tensor, inverse: Tensor) -> Tensor:
    return ((centred @ inverse) * centred).sum(1)
