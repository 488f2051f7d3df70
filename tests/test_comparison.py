"""How far measures carry over to other data."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofire.comparison import carry_over, check_pair
from cofire.correlations import correlation, rank_correlation
from cofire.errors import InputError
from cofire.stats import FiringStats

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far


def recorded(seed: int = 0, samples: int = 200, **kinds) -> FiringStats:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 4
    lift = torch.linspace(0, 3, 24)[None] * (labels[:, None] == torch.arange(24)[None] % 4)
    values = (torch.randn(samples, 24, generator=generator) + lift - 0.5).relu()
    return FiringStats.from_activations({"fc1": values}, labels, classes=4, **kinds)


def test_a_set_carries_over_to_itself():
    rows = carry_over(recorded(), recorded())
    assert {row["measure"] for row in rows} >= {"mutual_information", "activation_entropy", "class_selectivity"}
    for row in rows:
        assert row["mean"] == row["test_mean"]
        assert row["spearman"] == pytest.approx(1)
        assert row["pearson"] == pytest.approx(1)


def test_units_that_are_informative_stay_so():
    rows = {row["measure"]: row for row in carry_over(recorded(0), recorded(1))}
    assert 0.7 < rows["mutual_information"]["spearman"] < 1


@settings(deadline=None)
@given(st.lists(st.integers(-100, 100), min_size=3, max_size=30, unique=True))
def test_a_rank_correlation_sees_only_the_order(values):
    a = np.array(values, dtype=float)
    assert rank_correlation(a, np.exp(a / 20)) == pytest.approx(1)
    assert rank_correlation(a, -a) == pytest.approx(-1)


def test_rank_correlation_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 5, 40).astype(float), generator.normal(size=40)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)


def test_a_constant_series_has_no_correlation():
    assert math.isnan(correlation(np.ones(5), np.arange(5.0)))
    assert math.isnan(rank_correlation(np.arange(5.0), np.ones(5)))
    assert math.isnan(rank_correlation(np.arange(2.0), np.arange(2.0)))


def test_a_layer_of_dead_units_has_no_means():
    labels = torch.arange(8) % 2
    dead = FiringStats.from_activations({"fc1": torch.zeros(8, 3)}, labels)
    for row in carry_over(dead, dead):
        assert row["units"] == 0
        assert math.isnan(row["mean"])
        assert math.isnan(row["spearman"])


@pytest.mark.parametrize(
    ("other", "found"),
    [
        ({"fc2": torch.ones(8, 3)}, "only one of them has 'fc1', 'fc2'"),
        ({"fc1": torch.ones(8, 4)}, "layer 'fc1' has 3 and 4 units"),
    ],
)
def test_a_pair_that_does_not_belong_together_is_refused(other, found):
    labels = torch.arange(8) % 2
    mine = FiringStats.from_activations({"fc1": torch.ones(8, 3)}, labels)
    with pytest.raises(InputError) as caught:
        check_pair(mine, FiringStats.from_activations(other, labels))
    assert str(caught.value) == (f"train and test statistics must be of one model, with the same layers and classes; {found}.")


def test_other_weights_and_other_classes_are_refused():
    labels = torch.arange(8) % 2
    made = [FiringStats.from_activations({"fc1": torch.ones(8, 3)}, labels, classes=count) for count in (2, 2, 3)]
    for part, digest in zip(made, ("aa", "bb", "aa"), strict=True):
        part.header["model"] = {"digest": digest}
    with pytest.raises(InputError, match=r"weights with digests aa and bb\. Record both with the same weights\."):
        check_pair(made[0], made[1])
    with pytest.raises(InputError, match="found 2 and 3 classes"):
        check_pair(made[0], made[2])


def test_another_order_of_layers_is_refused():
    labels = torch.arange(8) % 2
    one = FiringStats.from_activations({"a": torch.ones(8, 3), "b": torch.ones(8, 3)}, labels)
    two = FiringStats.from_activations({"b": torch.ones(8, 3), "a": torch.ones(8, 3)}, labels)
    with pytest.raises(InputError, match="found another order of layers"):
        check_pair(one, two)
