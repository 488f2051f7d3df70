"""Scores that tell two kinds of samples apart: AUROC and its kin, risk at a coverage, and bounds on it."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as distributions
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cofire.detection import (
    augrc,
    aurc,
    auroc,
    auroc_difference,
    auroc_interval,
    average_precision,
    e_aurc,
    fpr_at,
    risk_bounds,
    risk_coverage,
)
from cofire.errors import InputError

law = settings(deadline=None, max_examples=60)


@st.composite
def scored(draw, both=True, most=25):
    """Scores with many ties, and which samples are positive."""
    count = draw(st.integers(2, most))
    scores = torch.tensor(draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count)), dtype=torch.float64)
    positive = torch.tensor(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    if both:
        assume(0 < int(positive.sum()) < count)
    return scores, positive


# ---------------------------------------------------------------- closed forms


def test_a_perfect_score():
    scores, positive = torch.arange(10.0), torch.arange(10) >= 7
    assert auroc(scores, positive) == average_precision(scores, positive) == 1.0
    assert fpr_at(scores, positive) == 0.0
    assert e_aurc(-scores, positive) == 0.0
    assert augrc(-scores, positive) == pytest.approx(0.3**2 / 2)
    assert aurc(-scores, positive) == pytest.approx((1 / 8 + 2 / 9 + 3 / 10) / 10)


def test_a_score_that_says_nothing():
    scores, positive = torch.zeros(20), torch.arange(20) < 5
    assert auroc(scores, positive) == 0.5
    assert average_precision(scores, positive) == 0.25
    assert fpr_at(scores, positive) == 1.0
    assert risk_coverage(scores, positive)[1].tolist() == pytest.approx([0.25] * 20)
    assert aurc(scores, positive) == pytest.approx(0.25)


def test_nineteen_of_twenty_are_95_percent():
    scores = torch.tensor([float(i) for i in range(20, 0, -1)] + [1.5])
    positive = torch.tensor([True] * 20 + [False])
    assert fpr_at(scores, positive) == 0.0


# ---------------------------------------------------------------- laws


@law
@given(scored())
def test_turning_the_sign_or_the_sides(case):
    """auroc(s, p) = 1 - auroc(-s, p) = auroc(-s, not p)."""
    scores, positive = case
    assert auroc(scores, positive) == pytest.approx(1 - auroc(-scores, positive))
    assert auroc(scores, positive) == pytest.approx(auroc(-scores, ~positive))


@law
@given(scored())
def test_only_the_order_counts(case):
    scores, positive = case
    for quantity in (auroc, average_precision, fpr_at, aurc, e_aurc, augrc):
        assert quantity(scores.exp() + 5, positive) == pytest.approx(quantity(scores, positive))


@law
@given(scored(both=False))
def test_augrc_is_auroc_and_accuracy(case):
    """AUGRC = (1 - AUROC) a (1 - a) + (1 - a)^2 / 2, ties included (Traub et al. 2024)."""
    confidence, wrong = case
    error = float(wrong.double().mean())
    area = 0.0 if error in (0, 1) else 1 - auroc(-confidence, wrong)
    assert augrc(confidence, wrong) == pytest.approx(area * error * (1 - error) + error**2 / 2)


@law
@given(scored(both=False))
def test_risk_ends_at_the_error_rate_and_no_score_beats_the_perfect_one(case):
    confidence, wrong = case
    coverage, risk = risk_coverage(confidence, wrong)
    assert float(risk[-1]) == pytest.approx(float(wrong.double().mean()))
    assert float(coverage[-1]) == 1.0
    assert e_aurc(confidence, wrong) >= -1e-12


@law
@given(scored(), st.randoms(use_true_random=False))
def test_differences_are_paired(case, random):
    """d(a, b) = -d(b, a), and a score differs from itself by nothing."""
    scores, positive = case
    other = scores[torch.tensor(random.sample(range(len(scores)), len(scores)))]
    there, back = auroc_difference(scores, other, positive), auroc_difference(other, scores, positive)
    assert there[0] == pytest.approx(auroc(scores, positive) - auroc(other, positive))
    assert there == pytest.approx((-back[0], -back[2], -back[1]), nan_ok=True)
    assert auroc_difference(scores, scores, positive)[0] == 0.0


@law
@given(scored())
def test_intervals_hold_their_value(case):
    scores, positive = case
    low, high = auroc_interval(scores, positive)
    assert math.isnan(low) or 0 <= low <= auroc(scores, positive) + 1e-12
    assert math.isnan(high) or auroc(scores, positive) - 1e-12 <= high <= 1


# ---------------------------------------------------------------- reference


@law
@given(scored())
def test_against_scikit_learn(case):
    scores, positive = case
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert average_precision(scores, positive) == pytest.approx(average_precision_score(positive, scores))
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    for recall in (0.5, 0.8, 0.95, 1.0):
        assert fpr_at(scores, positive, recall) == pytest.approx(false[np.argmax(true >= recall - 1e-9)])


@law
@given(scored())
def test_auroc_by_pairs(case):
    scores, positive = case
    pairs = [
        1.0 if up > down else 0.5 if up == down else 0.0
        for up, is_up in zip(scores.tolist(), positive.tolist(), strict=True) if is_up
        for down, also in zip(scores.tolist(), positive.tolist(), strict=True) if not also
    ]  # fmt: skip
    assert auroc(scores, positive) == pytest.approx(sum(pairs) / len(pairs))


@law
@given(scored(both=False, most=6))
def test_risk_is_the_mean_over_all_orders_of_ties(case):
    confidence, wrong = case
    count, curves = len(wrong), []
    for order in itertools.permutations(range(count)):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            curves.append([sum(bool(wrong[i]) for i in order[:n]) / n for n in range(1, count + 1)])
    expected = np.mean(curves, axis=0)
    assert risk_coverage(confidence, wrong)[1].tolist() == pytest.approx(expected.tolist())
    assert aurc(confidence, wrong) == pytest.approx(expected.mean())


@law
@given(scored())
def test_intervals_by_loops(case):
    """DeLong: the variance of each sample's share of pairs, over positives and over negatives."""
    scores, positive = case
    up, down = scores[positive].tolist(), scores[~positive].tolist()
    assume(min(len(up), len(down)) >= 2)
    beats = [[(u > d) + 0.5 * (u == d) for d in down] for u in up]
    of_up = [sum(row) / len(down) for row in beats]
    of_down = [sum(row[j] for row in beats) / len(up) for j in range(len(down))]
    far = 1.959963985 * math.sqrt(np.var(of_up, ddof=1) / len(up) + np.var(of_down, ddof=1) / len(down))
    middle = np.mean(of_up)
    expected = max(middle - far, 0.0), min(middle + far, 1.0)
    assert auroc_interval(scores, positive) == pytest.approx(expected, abs=1e-6)


def test_differences_have_the_spread_of_a_bootstrap():
    random = torch.Generator().manual_seed(0)
    positive = torch.rand(600, generator=random) < 0.3
    shared = torch.randn(600, generator=random) + positive
    scores, other = (shared + torch.randn(600, generator=random) * size for size in (0.5, 1.0))
    drawn = []
    for _ in range(400):
        rows = torch.randint(600, (600,), generator=random)
        drawn.append(auroc(scores[rows], positive[rows]) - auroc(other[rows], positive[rows]))
    _, low, high = auroc_difference(scores, other, positive)
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(drawn), rel=0.15)


def test_bounds_are_those_of_clopper_and_pearson():
    """At its bound, so few errors would be seen with one twentieth of 5 % probability."""
    confidence, wrong = torch.arange(300.0), torch.arange(300) % 7 == 0
    coverage, bound = risk_bounds(confidence, wrong)
    for share, limit in zip(coverage.tolist(), bound.tolist(), strict=True):
        accepted = math.ceil(share * 300 - 1e-9)
        errors = int(wrong[300 - accepted :].sum())
        assert distributions.binom.cdf(errors, accepted, limit) == pytest.approx(0.05 / 20, rel=1e-6)


def test_bounds_hold_as_often_as_they_say():
    """With the true risk known, the largest coverage whose bound is small enough is too risky at most 5 % of the time."""
    random = torch.Generator().manual_seed(0)
    too_risky = 0
    for _ in range(300):
        right = torch.rand(400, generator=random)  # both the confidence and the probability to be right
        wrong = torch.rand(400, generator=random) > right
        coverage, bound = risk_bounds(right, wrong)
        enough = (bound <= 0.2).nonzero()[:, 0]
        if len(enough):
            least = right.sort(descending=True).values[math.ceil(float(coverage[enough[-1]]) * 400) - 1]
            too_risky += float((1 - least) / 2) > 0.2  # the mean of 1 - right above a threshold
    assert too_risky <= 0.05 * 300


# ---------------------------------------------------------------- degenerate


def test_one_kind_alone_has_no_answer():
    for positive in (torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)):
        scores = torch.arange(4.0)
        assert math.isnan(auroc(scores, positive))
        assert math.isnan(fpr_at(scores, positive))
        assert all(map(math.isnan, auroc_interval(scores, positive)))
        assert all(map(math.isnan, auroc_difference(scores, -scores, positive)))
    assert math.isnan(average_precision(torch.arange(4.0), torch.zeros(4, dtype=torch.bool)))


def test_a_single_positive_has_no_interval():
    assert all(map(math.isnan, auroc_interval(torch.arange(4.0), torch.arange(4) == 3)))


def test_all_wrong_or_all_right():
    scores = torch.arange(40.0)
    assert aurc(scores, torch.ones(40, dtype=torch.bool)) == 1.0
    assert aurc(scores, torch.zeros(40, dtype=torch.bool)) == 0.0
    assert risk_bounds(scores, torch.ones(40, dtype=torch.bool))[1].tolist() == [1.0] * 20
    assert 0 < float(risk_bounds(scores, torch.zeros(40, dtype=torch.bool))[1][-1]) < 0.2


# ---------------------------------------------------------------- errors


def test_errors_say_what_is_wrong():
    yes = torch.tensor([True, False])
    with pytest.raises(InputError, match=r"there must be a score and a yes or no \(bool\) for each sample, and at least one"):
        auroc(torch.arange(3.0), yes)
    with pytest.raises(InputError, match=r"found \(2,\) scores and \(2,\) of int64"):
        aurc(torch.arange(2.0), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="scores must be finite numbers; 1 of 2 are not"):
        average_precision(torch.tensor([0.0, torch.nan]), yes)


def test_a_coverage_is_rounded_up_in_whole_numbers():
    """0.55 times 100 is a little more than 55 in floating point, and 55 samples are 55 % of 100."""
    wrong = torch.zeros(100, dtype=torch.bool)
    wrong[55] = True
    _, bound = risk_bounds(-torch.arange(100.0), wrong)
    assert float(bound[10]) == pytest.approx(1 - (0.05 / 20) ** (1 / 55))
