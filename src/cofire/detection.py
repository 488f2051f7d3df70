"""How well a score tells two kinds of samples apart, and what is left when the doubtful ones are refused."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cofire.errors import InputError

__all__ = [
    "augrc",
    "aurc",
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "average_precision",
    "e_aurc",
    "fpr_at",
    "risk_bounds",
    "risk_coverage",
]

_NORMAL = torch.distributions.Normal(0.0, 1.0)


def auroc(scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"]) -> float:
    """Share of pairs (one positive, one negative sample) in which the positive one has the larger score, ties counted half.

    Range:
        0 to 1; 0.5 for a score that says nothing.

    Args:
        scores: Larger for samples that look positive.
        positive: Which ones are.

    Returns:
        The share; NaN where there is no positive or no negative sample.

    Raises:
        InputError: Scores that are not finite numbers, or another number of them.

    >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([False, False, True, True]))
    0.875
    """
    return float(_placements(*_checked(scores, positive))[0].mean())


def auroc_interval(
    scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"], level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of an AUROC, by the normal approximation of DeLong.

    Source:
        DeLong, DeLong and Clarke-Pearson 1988, with the ranks of Sun and Xu 2014.

    Args:
        scores: As for :func:`auroc`.
        positive: Likewise.
        level: Share of intervals that hold the true value.

    Returns:
        Lower and upper bound, cut to 0 and 1; NaN with fewer than two positive or two negative samples. A perfect score has
        an interval of no width, which is too narrow.
    """
    low, high = _interval(*_placements(*_checked(scores, positive)), level)
    return max(low, 0.0), min(high, 1.0)  # NaN stays: it compares with nothing


def auroc_difference(
    scores: Float[Tensor, " samples"], other: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"], level: float = 0.95
) -> tuple[float, float, float]:
    """AUROC of one score less that of another on the same samples, with its paired confidence interval.

    Source:
        As :func:`auroc_interval`.

    Args:
        scores: As for :func:`auroc`.
        other: The score to compare with.
        positive: Which samples are positive.
        level: Share of intervals that hold the true value.

    Returns:
        Difference, lower and upper bound.

    >>> scores = torch.tensor([0.1, 0.3, 0.2, 0.4])
    >>> auroc_difference(scores, scores, torch.tensor([False, False, True, True]))
    (0.0, 0.0, 0.0)
    """
    mine, theirs = _placements(*_checked(scores, positive)), _placements(*_checked(other, positive))
    of_positives, of_negatives = mine[0] - theirs[0], mine[1] - theirs[1]
    return float(of_positives.mean()), *_interval(of_positives, of_negatives, level)


def average_precision(scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"]) -> float:
    """Area under the precision-recall curve (AUPR), as a sum of steps: the mean precision at which a positive is found.

    Range:
        0 to 1; about the share of positives for a score that says nothing. Equal scores are found together.

    Args:
        scores: As for :func:`auroc`. With ``-scores`` and ``~positive`` it is the AUPR of the negatives.
        positive: Likewise.

    Returns:
        The area; NaN without a positive sample.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    true, false = _found(*_checked(scores, positive))
    steps = true.diff(prepend=true.new_zeros(1))
    return float((steps * true / (true + false)).sum() / positive.sum())


def fpr_at(scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"], recall: float = 0.95) -> float:
    """Share of negatives that are taken for positive at the first threshold that finds this share of the positives.

    Args:
        scores: As for :func:`auroc`.
        positive: Likewise; wrong predictions, or inputs from elsewhere.
        recall: Share of positives to find.

    Returns:
        The false positive rate; NaN where there is no positive or no negative sample.

    >>> fpr_at(torch.tensor([0.9, 0.8, 0.7, 0.1]), torch.tensor([True, False, True, False]))
    0.5
    """
    true, false = _found(*_checked(scores, positive))
    if not float(true[-1]) or not float(false[-1]):
        return float("nan")
    # A recall such as 0.95 of 20 must be reached by 19 whatever its last bit.
    first = int((true >= recall * true[-1] - 1e-9).to(torch.int8).argmax())
    return float(false[first] / false[-1])


def risk_coverage(
    confidence: Float[Tensor, " samples"], wrong: Bool[Tensor, " samples"]
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"]]:
    """Error rate among the 1, 2, ..., n samples of highest confidence: what is left when the others are refused.

    Source:
        Geifman and El-Yaniv 2017. *Departure:* samples of equal confidence come in a random order, and the expected value
        over these orders is given.

    Args:
        confidence: Larger where a prediction is trusted more.
        wrong: Which predictions are wrong.

    Returns:
        Coverage (share of samples accepted) and risk (share of them that are wrong), both [samples].

    >>> coverage, risk = risk_coverage(torch.tensor([3.0, 2.0, 1.0, 1.0]), torch.tensor([False, False, True, False]))
    >>> coverage.tolist(), risk.tolist()
    ([0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 0.16666666666666666, 0.25])
    """
    count = torch.arange(1, len(wrong) + 1, dtype=torch.float64)
    return count / len(wrong), _errors(confidence, wrong) / count


def aurc(confidence: Float[Tensor, " samples"], wrong: Bool[Tensor, " samples"]) -> float:
    """Area under the risk-coverage curve: the mean of the risks at the coverages 1/n, 2/n, ..., 1. Lower is better.

    Args:
        confidence: As for :func:`risk_coverage`.
        wrong: Likewise.
    """
    return float(risk_coverage(confidence, wrong)[1].mean())


def e_aurc(confidence: Float[Tensor, " samples"], wrong: Bool[Tensor, " samples"]) -> float:
    """AURC beyond that of a perfect confidence, which refuses all wrong predictions first.

    Source:
        Geifman, Uziel and El-Yaniv 2019. *Departure:* the perfect curve is summed, not approximated by an integral.

    Range:
        0 or more; 0 for a perfect confidence, whatever the accuracy.

    Args:
        confidence: As for :func:`risk_coverage`.
        wrong: Likewise.
    """
    return aurc(confidence, wrong) - aurc(-wrong.double(), wrong)


def augrc(confidence: Float[Tensor, " samples"], wrong: Bool[Tensor, " samples"]) -> float:
    r"""Area under the generalised risk-coverage curve: the mean share of *all* samples that is accepted and wrong.

    .. math:: \mathrm{AUGRC} = (1 - \mathrm{AUROC}) \, a (1 - a) + \tfrac{1}{2} (1 - a)^2 \quad \text{with accuracy } a

    Source:
        Traub et al. 2024; the area is that of trapezoids from coverage 0 on, for which the formula holds exactly.

    Args:
        confidence: As for :func:`risk_coverage`.
        wrong: Likewise.
    """
    errors = _errors(confidence, wrong)
    return float(torch.trapezoid(torch.cat([errors.new_zeros(1), errors]))) / len(errors) ** 2


def risk_bounds(
    confidence: Float[Tensor, " samples"], wrong: Bool[Tensor, " samples"], level: float = 0.95, steps: int = 20
) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Upper bounds on the error rate of new samples of the same kind, at the coverages 1/steps, 2/steps, ..., 1.

    With the stated probability all bounds hold at once, so that the largest coverage with a small enough one may be chosen.

    Source:
        Geifman and El-Yaniv 2017, with the bound of Clopper and Pearson. *Departure:* a fixed set of coverages, each at
        the share 1/steps of the level, in place of a search whose steps depend on the outcome.

    Args:
        confidence: As for :func:`risk_coverage`; samples of equal confidence are accepted together.
        wrong: Likewise.
        level: Probability that all bounds hold.
        steps: Number of coverages.

    Returns:
        Coverages and bounds, both [steps].

    >>> coverage, bound = risk_bounds(torch.arange(200.0), torch.arange(200) < 5)
    >>> bound[9].item() < bound[19].item()
    True
    """
    from scipy.special import betaincinv

    confidence, wrong = _checked(confidence, wrong)
    ordered = confidence.sort(descending=True).values
    coverage = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    least = ordered[-(-torch.arange(1, steps + 1) * len(wrong) // steps) - 1]  # rounded up, in whole numbers
    accepted = (confidence >= least[:, None]).sum(1)
    errors = ((confidence >= least[:, None]) & wrong).sum(1)
    bounds = betaincinv((errors + 1).numpy(), (accepted - errors).clamp(min=1).numpy(), 1 - (1 - level) / steps)
    return coverage, torch.where(errors == accepted, 1.0, torch.as_tensor(bounds))


def _checked(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    scores, positive = torch.as_tensor(scores).double().cpu(), torch.as_tensor(positive).cpu()
    if positive.dtype != torch.bool or positive.ndim != 1 or scores.shape != positive.shape or not len(scores):
        raise InputError(
            "there must be a score and a yes or no (bool) for each sample, and at least one sample",
            f"found {tuple(scores.shape)} scores and {tuple(positive.shape)} of {str(positive.dtype).removeprefix('torch.')}",
        )
    if not bool(scores.isfinite().all()):
        raise InputError("scores must be finite numbers", f"{int((~scores.isfinite()).sum()):,} of {len(scores):,} are not")
    return scores, positive


def _ranks(values: Tensor) -> Tensor:
    """Ranks from 1, equal values sharing the mean of theirs."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0).double() - (counts.double() - 1) / 2)[place]


def _placements(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    ranks, up, down = _ranks(scores), scores[positive], scores[~positive]
    if not len(up) or not len(down):
        return scores.new_full((1,), torch.nan), scores.new_full((1,), torch.nan)
    return (ranks[positive] - _ranks(up)) / len(down), 1 - (ranks[~positive] - _ranks(down)) / len(up)


def _interval(of_positives: Tensor, of_negatives: Tensor, level: float) -> tuple[float, float]:
    if min(len(of_positives), len(of_negatives)) < 2:
        return float("nan"), float("nan")
    deviation = (of_positives.var() / len(of_positives) + of_negatives.var() / len(of_negatives)).sqrt()
    far = float(_NORMAL.icdf(torch.tensor((1 + level) / 2)) * deviation)
    middle = float(of_positives.mean())
    return middle - far, middle + far


def _found(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Positives and negatives at or above each distinct score, from the largest down."""
    values, place = scores.unique(return_inverse=True)
    counts = torch.zeros(2, len(values), dtype=torch.float64)
    counts[0].index_add_(0, place, positive.double())
    counts[1].index_add_(0, place, (~positive).double())
    true, false = counts.flip(1).cumsum(1)
    return true, false


def _errors(confidence: Tensor, wrong: Tensor) -> Tensor:
    """Expected number of wrong predictions among the 1, 2, ..., n samples of highest confidence."""
    confidence, wrong = _checked(confidence, wrong)
    values, place, counts = confidence.unique(return_inverse=True, return_counts=True)
    shares = torch.zeros(len(values), dtype=torch.float64).index_add_(0, place, wrong.double()) / counts
    return shares.flip(0).repeat_interleave(counts.flip(0)).cumsum(0)
