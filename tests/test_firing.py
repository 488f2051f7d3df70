"""How often and how strongly units fire: closed forms, laws, the naive reference, degenerate cases, the warning's words."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import naive
from activations import KINDS, apart, column, law, layer_of, realistic, recordings
from cofire.errors import CofireWarning
from cofire.firing import always_on_units, class_means, dead_units, firing_probability, live_units, unit_spread

# ---------------------------------------------------------------- closed form


def test_a_unit_that_names_a_class():
    labels = torch.arange(12) % 3
    layer = layer_of(torch.nn.functional.one_hot(labels).float(), labels)
    assert torch.equal(firing_probability(layer), torch.eye(3).double())
    assert torch.equal(class_means(layer), torch.eye(3).double())


def test_firing_is_strictly_above_the_threshold():
    layer = layer_of(column(-1, -0.0, 0.0, 1e-45, 1), [0] * 5)
    assert firing_probability(layer).tolist() == [[0.4]]
    layer = layer_of(column(0.25, 0.5, 0.75, 1), [0, 0, 0, 0], threshold=0.5)
    assert firing_probability(layer).tolist() == [[0.5]]


def test_mean_and_spread():
    layer = layer_of(torch.tensor([[1.0, 3.0], [-1.0, 3.0], [1.0, 7.0], [-1.0, 7.0]]), [0, 0, 1, 1])
    mean, std = unit_spread(layer)
    assert (mean.tolist(), std.tolist()) == ([0, 5], [1, 2])
    assert class_means(layer).tolist() == [[0, 3], [0, 7]]


def test_dead_live_and_always_on():
    layer = layer_of(torch.tensor([[0.0, 1.0, 1.0, -1.0], [0.0, 2.0, 0.0, -2.0]]), [0, 1])
    assert dead_units(layer).tolist() == [True, False, False, True]  # negative values do not fire
    assert live_units(layer).tolist() == [False, True, True, False]
    assert always_on_units(layer).tolist() == [False, True, False, False]


# ---------------------------------------------------------------- laws


@law
@given(recordings())
def test_a_share_of_the_samples(recording):
    """0 <= P <= 1, and P times the class's samples is a whole number, the firing count."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes)
    probability = firing_probability(layer)
    assert probability.dtype == torch.float64
    assert bool(((probability >= 0) & (probability <= 1)).all())
    assert torch.equal((probability * layer.class_counts[:, None]).round().long(), layer.fire)


@law
@given(recordings())
def test_the_classes_make_up_the_whole(recording):
    """sum over classes of P_c n_c = firing count of the unit: what a single class would have had."""
    acts, labels, classes = recording
    parts, whole = layer_of(acts, labels, classes), layer_of(acts, torch.zeros_like(labels))
    total = (firing_probability(parts) * parts.class_counts[:, None]).sum(0) / len(labels)
    assert torch.allclose(total, firing_probability(whole)[0], rtol=0, atol=1e-14)


@law
@given(recordings(), st.floats(-2, 2), st.floats(0, 2))
def test_a_higher_threshold_never_fires_more(recording, threshold, step):
    """t <= t' implies P(t') <= P(t)."""
    acts, labels, classes = recording
    low = firing_probability(layer_of(acts, labels, classes, threshold=threshold))
    high = firing_probability(layer_of(acts, labels, classes, threshold=threshold + step))
    assert bool((high <= low).all())


@law
@given(recordings(), st.randoms(use_true_random=False))
def test_order_of_samples_units_and_classes_is_only_a_name(recording, random):
    """Permuting samples changes nothing; permuting units or classes permutes the result. Bit for bit."""
    acts, labels, classes = recording
    rows, cols, names = (torch.tensor(random.sample(range(n), n)) for n in (*acts.shape, classes))
    before = firing_probability(layer_of(acts, labels, classes))
    after = firing_probability(layer_of(acts[rows][:, cols], names[labels[rows]], classes))
    assert torch.equal(after[names], before[:, cols])


@law
@given(recordings())
def test_seeing_everything_twice_changes_no_share(recording):
    """P of a data set joined with itself is P; so are dead, live and always on."""
    acts, labels, classes = recording
    once, twice = layer_of(acts, labels, classes), layer_of(acts.repeat(2, 1), labels.repeat(2), classes)
    for quantity in (firing_probability, dead_units, always_on_units):
        assert torch.equal(quantity(once), quantity(twice))


@law
@given(recordings())
def test_every_unit_is_dead_or_live(recording):
    """dead = not live; always on implies live; dead means P = 0 and always on P = 1 for every class."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes)
    dead, on, probability = dead_units(layer), always_on_units(layer), firing_probability(layer)
    assert torch.equal(dead, ~live_units(layer))
    assert torch.equal(dead, (probability == 0).all(0))
    assert torch.equal(on, (probability == 1).all(0))


# ---------------------------------------------------------------- reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_naive_reference(kind, dtype):
    acts, labels = realistic(kind, 800, 6, dtype=dtype)
    threshold = 0.5 if kind == "sigmoid" else 0.0
    layer = layer_of(acts, labels, threshold=threshold)
    assert apart(firing_probability(layer), naive.firing_probability(acts, labels, 4, threshold)) == 0
    size = naive.as_array(acts.abs()).mean(0)
    assert apart(class_means(layer).numpy() / size, naive.class_means(acts, labels, 4) / size) <= 1e-12
    mean, std = unit_spread(layer)
    assert apart(mean.numpy() / size, naive.as_array(acts).mean(0) / size) <= 1e-12
    assert apart(std.numpy() / naive.std(acts), np.ones(6)) <= 1e-9


# ---------------------------------------------------------------- degenerate


def test_one_sample_one_unit():
    layer = layer_of([[2.0]], [0])
    mean, std = unit_spread(layer)
    assert (firing_probability(layer).tolist(), mean.tolist(), std.tolist()) == ([[1]], [2], [0])


@pytest.mark.parametrize(
    "value",
    [0.0, 1.0, 0.1, 1e-40, 3e38],
)
def test_a_constant_unit_has_its_mean_and_hardly_a_spread(value):
    """The second moment is a difference of sums, so that a constant's spread is only within 1e-7 of its size."""
    layer = layer_of(torch.full((1000, 1), value), [0] * 1000)
    exact = float(torch.tensor(value))
    mean, std = unit_spread(layer)
    assert float(mean) == pytest.approx(exact, rel=1e-12)
    assert float(std) <= 1e-7 * exact


@pytest.mark.xfail(reason="the variance is a difference of float64 sums: it is lost where the mean is 1e7 times the spread")
def test_a_small_spread_on_a_large_mean():
    acts = torch.tensor(np.random.default_rng(0).normal(1e6, 0.1, (1000, 1)), dtype=torch.float32)
    _, std = unit_spread(layer_of(acts, [0] * 1000))
    assert float(std) == pytest.approx(naive.std(acts)[0], rel=0.01)


def test_a_class_without_samples_is_nan_and_named():
    layer = layer_of(column(1, 0), [0, 2], classes=4)
    with pytest.warns(CofireWarning, match=r"no sample of class 1, 3 in layer 'fc1': its firing probability is NaN$"):
        probability = firing_probability(layer)
    assert torch.equal(probability.isnan()[:, 0], torch.tensor([False, True, False, True]))
    assert torch.equal(class_means(layer).isnan(), probability.isnan())
    assert probability[[0, 2]].tolist() == [[1], [0]]


def test_many_classes_without_samples_are_not_all_named():
    with pytest.warns(CofireWarning, match=r"no sample of class 1, 2, 3, 4, 5 and more in layer"):
        firing_probability(layer_of(column(1), [0], classes=50))


# ---------------------------------------------------------------- errors


def test_the_warning_can_be_an_error():
    assert issubclass(CofireWarning, UserWarning)
    with pytest.raises(CofireWarning):  # warnings are errors in these tests
        firing_probability(layer_of(column(1), [0], classes=2))
