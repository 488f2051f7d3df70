"""Kendall's tau and its granulated form: closed forms, plain loops over groups, and what is left out said in words."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from activations import law
from cofire.errors import InputError
from cofire.rankings import compare, granulated_kendall, kendall


def grid(**axes):
    return [dict(zip(axes, levels, strict=True)) for levels in itertools.product(*axes.values())]


SMALL = grid(rate=(0.1, 0.01, 0.001), width=(16, 64), decay=(0.0, 1e-4, 1e-3))

numbers = st.lists(st.integers(-3, 3), min_size=len(SMALL), max_size=len(SMALL))


# ---------------------------------------------------------------- closed form


def test_the_same_order_and_its_reverse():
    values = np.random.default_rng(0).normal(size=len(SMALL))
    same, reverse = granulated_kendall(values, np.exp(values), SMALL), granulated_kendall(values, -values, SMALL)
    assert same.axes == {"rate": 1, "width": 1, "decay": 1}
    assert (same.mean, same.low, same.high, same.notes) == (1, 1, 1, ())
    assert (reverse.mean, reverse.low, reverse.high) == (-1, -1, -1)
    assert kendall(values, values**3) == 1


def test_a_measure_that_only_follows_one_hyper_parameter_is_found_out():
    """The rate decides the target, and the measure follows the rate; along the other axis it ranks in reverse."""
    settings = grid(rate=range(10), width=range(2))
    values = [100 * s["rate"] + s["width"] for s in settings]
    targets = [100 * s["rate"] - s["width"] for s in settings]
    found = granulated_kendall(values, targets, settings)
    assert kendall(values, targets) == pytest.approx((180 - 10) / 190)
    assert found.axes == {"rate": 1, "width": -1}
    assert found.mean == 0


def test_a_pair_among_three():
    assert kendall([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    assert kendall([1, 1, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))


# ---------------------------------------------------------------- laws


@law
@given(numbers, numbers)
def test_tau_is_that_of_scipy(x, y):
    theirs = kendalltau(x, y).statistic
    assert kendall(x, y) == pytest.approx(theirs, nan_ok=True, abs=1e-12)


@law
@given(numbers, numbers, st.permutations(range(len(SMALL))))
def test_the_order_of_the_models_does_not_matter(x, y, order):
    ours = granulated_kendall(x, y, SMALL)
    theirs = granulated_kendall([x[i] for i in order], [y[i] for i in order], [SMALL[i] for i in order])
    assert theirs.mean == pytest.approx(ours.mean, abs=1e-12, nan_ok=True)
    assert theirs.axes == pytest.approx(ours.axes, abs=1e-12, nan_ok=True)


@law
@given(numbers, numbers)
def test_a_rising_function_changes_nothing(x, y):
    assert repr(granulated_kendall(np.exp(x), y, SMALL)) == repr(granulated_kendall(x, y, SMALL))


# ---------------------------------------------------------------- reference


def by_loops(values, targets, settings):
    """Every pair of models that differ in one hyper-parameter, group by group; tau-b counted by hand."""
    names, psi = list(settings[0]), {}
    for name in names:
        rests = []
        for setting in settings:
            rest = {other: setting[other] for other in names if other != name}
            if rest not in rests:
                rests.append(rest)
        taus = []
        for rest in rests:
            inside = [i for i, s in enumerate(settings) if all(s[other] == rest[other] for other in rest)]
            alike = unlike = untied_x = untied_y = 0
            for a in range(len(inside)):
                for b in range(a):
                    i, j = inside[a], inside[b]
                    untied_x += values[i] != values[j]
                    untied_y += targets[i] != targets[j]
                    product = (values[i] - values[j]) * (targets[i] - targets[j])
                    alike, unlike = alike + (product > 0), unlike + (product < 0)
            if untied_x and untied_y:
                taus.append((alike - unlike) / math.sqrt(untied_x * untied_y))
        psi[name] = sum(taus) / len(taus) if taus else math.nan
    known = [value for value in psi.values() if not math.isnan(value)]
    return psi, sum(known) / len(known) if known else math.nan


@law
@given(numbers, numbers)
def test_granulated_tau_against_plain_loops(x, y):
    psi, mean = by_loops(x, y, SMALL)
    found = granulated_kendall(x, y, SMALL)
    assert found.axes == pytest.approx(psi, abs=1e-12, nan_ok=True)
    assert found.mean == pytest.approx(mean, abs=1e-12, nan_ok=True)


def test_an_incomplete_grid_against_plain_loops():
    random = np.random.default_rng(1)
    some = [SMALL[i] for i in random.choice(len(SMALL), 11, replace=False)]
    x, y = random.normal(size=(2, 11))
    psi, mean = by_loops(x, y, some)
    found = granulated_kendall(x, y, some)
    assert found.axes == pytest.approx(psi)
    assert found.mean == pytest.approx(mean)


def test_the_interval_holds_what_it_claims_to_hold():
    """Of 95 % intervals around measures that know nothing, about 95 % hold 0; five standard errors of leeway."""
    random, held = np.random.default_rng(2), 0
    for trial in range(100):
        found = granulated_kendall(*random.normal(size=(2, len(SMALL))), SMALL, seed=trial)
        held += found.low <= 0 <= found.high
    assert held >= 84


# ---------------------------------------------------------------- degenerate


def test_seeds_of_one_setting_are_averaged():
    twice = [setting for setting in SMALL for _ in range(2)]
    x, y = np.random.default_rng(3).normal(size=(2, len(SMALL)))
    noisy = np.stack([x + 5, x - 5], 1).ravel()
    assert granulated_kendall(noisy, np.repeat(y, 2), twice) == granulated_kendall((noisy.reshape(-1, 2)).mean(1), y, SMALL)


def test_a_constant_series_is_no_zero():
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3]))
    found = granulated_kendall([1.0] * len(SMALL), range(len(SMALL)), SMALL)
    assert all(math.isnan(value) for value in (found.mean, found.low, found.high, *found.axes.values()))
    assert found.notes[0] == "6 of 6 groups of rate left out: a series is constant there"


def test_a_group_that_is_constant_and_an_axis_that_is_none():
    settings = grid(rate=(1, 2), width=(1, 2), seed=(0,))
    found = granulated_kendall([1, 1, 2, 3], [1, 2, 3, 4], settings)
    assert found.axes["rate"] == found.axes["width"] == found.mean == 1
    assert math.isnan(found.axes["seed"])
    assert found.notes == (
        "1 of 2 groups of width left out: a series is constant there", "no two models differ in seed only",
    )  # fmt: skip


def test_a_number_that_is_missing():
    x, y = np.random.default_rng(4).normal(size=(2, len(SMALL)))
    x[3] = math.nan
    found = granulated_kendall(x, y, SMALL)
    without = [i for i in range(len(SMALL)) if i != 3]
    assert found.axes == granulated_kendall(x[without], y[without], [SMALL[i] for i in without]).axes
    assert found.notes == ("1 of 18 settings have no number",)
    assert kendall(x, y) == kendall(x[without], y[without])


def test_the_frame_puts_the_strongest_first():
    random = np.random.default_rng(5)
    y = random.normal(size=len(SMALL))
    models = [{("fc1", "noise"): random.normal(), ("fc1", "reverse"): -value} for value in y]
    models[0]["fc2", "rare"] = 1.0
    frame = compare(models, y, SMALL)
    assert frame.measure.tolist() == ["reverse", "noise", "rare"]
    assert frame.iloc[0][["kendall", "granulated", "low", "high", "rate", "width", "decay"]].tolist() == [-1] * 7
    assert frame.note[2].startswith("17 of 18 settings have no number; no two models differ in rate only")


# ---------------------------------------------------------------- errors


def test_wrong_input():
    with pytest.raises(InputError, match=r"^there must be one value and one target per model; found 2 and 3\.$"):
        kendall([1, 2], [1, 2, 3])
    with pytest.raises(
        InputError, match=r"^there must be one value, one target and one setting per model; found 1, 2 and 2\.$"
    ):
        granulated_kendall([1], [1, 2], [{"rate": 1}, {"rate": 2}])
    with pytest.raises(
        InputError, match=r"^all settings must have the same hyper-parameters; the first has rate, number 1 has rate, width\.$"
    ):
        granulated_kendall([1, 2], [1, 2], [{"rate": 1}, {"rate": 2, "width": 3}])
    with pytest.raises(InputError, match=r"^there must be at least one model with a hyper-parameter; found none\.$"):
        granulated_kendall([], [], [])
