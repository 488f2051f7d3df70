import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from cofire.errors import InputError
from cofire.scoring import accuracy, calibration_error, correct, log_loss, losses, mcnemar, paired_interval, reliability


def drawn(seed: int, samples: int = 200, classes: int = 4):
    lots = torch.Generator().manual_seed(seed)
    return torch.randn(samples, classes, generator=lots) * 3, torch.randint(classes, (samples,), generator=lots)


# ---------------------------------------------------------------- closed forms


def test_scores_that_say_nothing_lose_the_logarithm_of_the_classes():
    assert log_loss(torch.zeros(6, 8), torch.arange(6)) == pytest.approx(math.log(8))


def test_a_model_that_is_sure_and_half_right_is_half_off():
    logits = torch.tensor([[100.0, 0.0]] * 4)
    assert calibration_error(logits, torch.tensor([0, 0, 1, 1])) == pytest.approx(0.5)


def test_mcnemar_of_ten_gained_and_none_lost_is_two_to_the_minus_nine():
    better, worse = torch.ones(10, dtype=torch.bool), torch.zeros(10, dtype=torch.bool)
    assert mcnemar(better, worse) == pytest.approx(2**-9)
    assert mcnemar(better, better) == 1.0


def test_the_interval_of_a_fair_coin_has_the_width_of_its_standard_error():
    low, high = paired_interval(torch.tensor([0.0, 1.0] * 5000))
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / math.sqrt(10_000), rel=0.1)


# ---------------------------------------------------------------- laws


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_the_interval_holds_the_mean_and_turns_with_the_sign(seed):
    values = torch.randn(300, generator=torch.Generator().manual_seed(seed)).double()
    low, high = paired_interval(values)
    assert low < float(values.mean()) < high
    turned = paired_interval(-values)
    assert turned[0] == pytest.approx(-high, abs=0.03)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        values = (torch.rand(400, generator=torch.Generator().manual_seed(seed)) < 0.3).double()
        low, high = paired_interval(values, seed=seed)
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


# ---------------------------------------------------------------- reference


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_log_loss_are_scikit_learns(seed):
    logits, labels = drawn(seed)
    p = logits.double().softmax(1)
    assert log_loss(logits, labels) == pytest.approx(metrics.log_loss(labels, p))
    assert accuracy(logits, labels) == metrics.accuracy_score(labels, p.argmax(1))
    assert losses(logits, labels).shape == (200,)
    assert correct(logits, labels).dtype == torch.bool


@pytest.mark.parametrize("seed", range(3))
def test_calibration_error_is_that_of_plain_loops(seed):
    logits, labels = drawn(seed)
    p = logits.double().softmax(1)
    total, bins = 0.0, reliability(logits, labels).T.tolist()
    for b in range(15):
        inside = [i for i in range(200) if b / 15 <= float(p[i].max()) < (b + 1) / 15 or (b == 14 and float(p[i].max()) == 1)]
        if not inside:
            assert bins[b] == [0.0, 0.0, 0.0]
        else:
            right = sum(int(p[i].argmax()) == int(labels[i]) for i in inside) / len(inside)
            sure = sum(float(p[i].max()) for i in inside) / len(inside)
            total += len(inside) / 200 * abs(right - sure)
            assert bins[b] == pytest.approx([len(inside), sure, right])
    assert calibration_error(logits, labels) == pytest.approx(total)


def test_several_comparisons_are_resampled_together():
    few = torch.tensor([-1.0, 0.0, 0.0, 1.0, 1.0] * 400)
    low, high = paired_interval(torch.stack([few, 2 * few], 1))
    assert (low[0], high[0]) == pytest.approx(paired_interval(few))
    assert (low[1], high[1]) == pytest.approx((2 * low[0], 2 * high[0]))


# ---------------------------------------------------------------- errors


def test_labels_must_fit():
    with pytest.raises(InputError, match=r"class scores must be \[samples, classes\] with a label for each"):
        accuracy(torch.zeros(3, 2), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="an interval needs at least one sample"):
        paired_interval(torch.zeros(0))
