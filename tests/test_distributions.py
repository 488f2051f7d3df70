"""Histograms for any number of bins and range: what nests is exact, what is interpolated stays within stated bounds."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import naive
from activations import KINDS, apart, column, law, layer_of, realistic, recordings
from cofire import activation_entropy
from cofire.distributions import activation_counts, nonzero_range
from cofire.errors import InputError

NESTED = [1, 2, 3, 5, 10, 15, 30, 60, 100, 600]  # divisors of 600, the sub-bins kept


# ---------------------------------------------------------------- closed form


def test_one_value_a_bin():
    layer = layer_of(column(*range(1, 11)), bins=10)
    assert activation_counts(layer).tolist() == [[1]] * 10
    assert activation_counts(layer, 5).tolist() == [[2]] * 5
    assert activation_counts(layer, 1).tolist() == [[10]]
    assert [float(end) for end in nonzero_range(layer)] == [1, 10]


def test_bins_are_closed_on_the_left_and_the_last_on_both_sides():
    layer = layer_of(column(1, 2, 3, 4, 5), bins=4)  # edges 1, 2, 3, 4, 5
    assert activation_counts(layer)[:, 0].tolist() == [1, 1, 1, 2]


def test_zeros_do_not_count_wherever_they_would_fall():
    for values in ((0, 0, 1, 2), (0, -0.0, -2, -1), (0, 0, -1, 1), (0, -0.0, 0.0, 0)):
        layer = layer_of(column(*values), bins=2)
        assert int(activation_counts(layer).sum()) == sum(value != 0 for value in values)
        assert int(activation_counts(layer).min()) >= 0


def test_the_range_from_zero():
    layer = layer_of(column(3, 3, 3, 3.9, 4), bins=4)
    assert activation_counts(layer, 4, "zero")[:, 0].tolist() == pytest.approx([0, 0, 0, 5])
    assert activation_counts(layer, 4)[:, 0].tolist() == [3, 0, 0, 2]


def test_one_range_for_all_units_is_of_shares_of_their_sums():
    """Shares (1, 2, 3) / 6 and (1, 1, 4) / 6: one range from 1/6 to 4/6, whatever the units' scales."""
    layer = layer_of(torch.tensor([[1.0, 10.0], [2.0, 10.0], [3.0, 40.0]]), bins=2)
    assert activation_counts(layer, 2, "common").tolist() == [[2, 2], [1, 1]]
    assert activation_counts(layer, 2, "own").tolist() == [[1, 2], [2, 1]]


def test_what_is_interpolated_is_spread_evenly_over_a_sub_bin():
    layer = layer_of(column(*range(601)), bins=600)  # one value a sub-bin, zero left out: the range is 1 to 600
    assert torch.allclose(activation_counts(layer, 7), torch.full((7, 1), 600 / 7).double(), atol=1)


# ---------------------------------------------------------------- laws


@law
@given(recordings(), st.sampled_from([*NESTED, 4, 7, 64, 1000]), st.sampled_from(["own", "zero"]), st.booleans())
def test_every_non_zero_activation_is_counted_once(recording, bins, span, sketch):
    """sum over bins = number of non-zero activations; no count is negative."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes, histograms="sketch" if sketch else "exact")
    counts = activation_counts(layer, bins, span)
    assert counts.shape == (bins, acts.shape[1])
    assert counts.dtype == torch.float64
    assert bool((counts >= 0).all())
    assert torch.allclose(counts.sum(0), (acts != 0).sum(0).double(), rtol=1e-12)


@law
@given(recordings(negative=False), st.sampled_from([10, 30, 64]))
def test_one_range_for_all_counts_each_once_too(recording, bins):
    """The same for span="common" where activations are not negative."""
    acts, labels, classes = recording
    counts = activation_counts(layer_of(acts, labels, classes), bins, "common")
    assert torch.allclose(counts.sum(0), (acts != 0).sum(0).double(), rtol=1e-12)


@law
@given(recordings(), st.sampled_from([(600, 60, 30), (600, 100, 10), (30, 15, 3), (30, 10, 1)]))
def test_coarser_bins_are_sums_of_finer_ones(recording, chain):
    """Bins that nest: counts(R) = sums of neighbours in counts(R'), exactly, and H(R) <= H(R')."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes)
    for fine, coarse in pairwise(chain):
        finer, coarser = activation_counts(layer, fine), activation_counts(layer, coarse)
        assert torch.equal(finer.view(coarse, -1, acts.shape[1]).sum(1), coarser)
        assert bool((activation_entropy(layer, bins=coarse) <= activation_entropy(layer, bins=fine) + 1e-12).all())


@law
@given(recordings(), st.sampled_from(NESTED))
def test_nested_bins_are_those_of_rational_arithmetic(recording, bins):
    """Value x lies in bin k exactly if k <= (x - low) R / (high - low) < k + 1, the last bin closed."""
    acts, labels, classes = recording
    acts = (acts * 64).round() / 64  # a lattice: ties with edges are frequent
    counts = activation_counts(layer_of(acts, labels, classes), bins)
    for unit, values in enumerate(naive.columns(acts)):
        low, high = naive.nonzero_range(values)
        places = [naive.exact_bin(value, low, high, bins) for value in values if value]
        assert counts[:, unit].tolist() == np.bincount(places, minlength=bins).tolist() if places else [0] * bins


@law
@given(recordings(), st.integers(-60, 60), st.sampled_from([7, 30]))
def test_powers_of_two_move_no_value_to_another_bin(recording, power, bins):
    """counts(2^k x) = counts(x), bit for bit, exact histogram and sketch alike (short of denormal numbers)."""
    acts, labels, classes = recording
    acts = torch.where(acts.abs() < 2.0**-20, 0.0, acts)
    for histograms in ("exact", "sketch"):
        layer = layer_of(acts, labels, classes, histograms=histograms)
        scaled = layer_of(acts * 2.0**power, labels, classes, histograms=histograms)
        assert torch.equal(activation_counts(layer, bins), activation_counts(scaled, bins))


# ---------------------------------------------------------------- reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_nested_bins_against_numpy(kind, dtype):
    acts, labels = realistic(kind, 5000, 8, dtype=dtype)
    layer = layer_of(acts, labels)
    for bins in (1, 10, 30, 100, 600):
        assert apart(activation_counts(layer, bins), naive.counts_in_bins(acts, bins)) == 0


@pytest.mark.parametrize("kind", ["relu", "tanh", "all negative"])
def test_other_bins_and_ranges_against_numpy(kind):
    """Interpolation: within 6e-3 bits at 6,000 samples where activations have a density; not so with atoms, see below."""
    acts, labels = realistic(kind, 6000, 12)
    layer = layer_of(acts, labels)
    for bins, span in ((7, "own"), (64, "own"), (30, "zero"), *([(30, "common")] if kind == "relu" else [])):
        assert apart(activation_entropy(layer, bins=bins, span=span), naive.activation_entropy(acts, bins, span)) <= 6e-3


@pytest.mark.parametrize(
    ("kind", "mean", "most"),
    [
        ("relu", 2.5e-4, 3.5e-3),
        ("sigmoid", 5e-4, 3.5e-3),
        ("tanh", 5e-4, 3.5e-3),
        ("all negative", 7e-3, 3e-2),
        ("gelu", 3e-2, 0.3),  # most values close below zero, where a bin of the sketch is wider than what they differ by
        ("heavy tails", 5e-2, 0.25),  # nearly all values in two or three bins of the sketch
    ],
)
def test_the_sketch_against_numpy(kind, mean, most):
    """At 60,000 samples and 100 bins; the first row is the claim of the design, the others are what is true."""
    acts, labels = realistic(kind, 60_000, 24)
    layer = layer_of(acts, labels, histograms="sketch")
    error = np.abs(activation_entropy(layer, bins=100).numpy() - naive.activation_entropy(acts, 100))
    assert error.mean() <= mean
    assert error.max() <= most


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_the_sketch_of_values_far_from_zero_cannot_tell_them_apart(kind):
    """Where the spread is below a thousandth of the size, all values share a bin of the sketch and look uniform."""
    acts, _ = realistic(kind, 5000, 4)
    acts = 1000 + acts / acts.abs().max()
    assert bool((activation_entropy(layer_of(acts, histograms="sketch")) >= activation_entropy(layer_of(acts)) - 0.1).all())


# ---------------------------------------------------------------- degenerate

DEAD_OR_SINGLE = torch.tensor(
    [[0.0, 2.0, -3.0, 0.0, 1e-45, 3e38], [-0.0, 2.0, -3.0, 5.0, 1e-45, 3e38], [0.0, 2.0, -3.0, -0.0, 1e-45, 3e38]]
)


@pytest.mark.parametrize("histograms", ["exact", "sketch"])
def test_dead_units_and_single_values_have_no_entropy(histograms):
    layer = layer_of(DEAD_OR_SINGLE, histograms=histograms)
    assert activation_entropy(layer).tolist() == [0] * 6
    assert activation_counts(layer).sum(0).tolist() == [0, 3, 3, 1, 3, 3]
    assert activation_counts(layer)[0].tolist() == [0, 3, 3, 1, 3, 3]


@pytest.mark.parametrize("span", ["zero", "common"])
def test_single_values_have_no_entropy_over_other_ranges(span):
    layer = layer_of(DEAD_OR_SINGLE[:, :4])
    assert activation_entropy(layer, span=span).tolist() == [0] * 4


def test_one_range_for_all_with_a_negative_sum():
    """Dividing by a negative sum mirrors the unit, which changes no entropy."""
    acts, _ = realistic("all negative", 5000, 6)
    layer = layer_of(acts)
    assert activation_counts(layer, 30, "common").sum(0).tolist() == pytest.approx([5000] * 6, rel=1e-12)
    assert apart(activation_entropy(layer, span="common"), naive.activation_entropy(acts, 30, "common")) <= 6e-3


@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-38, 1e36])
def test_the_smallest_and_largest_numbers(scale):
    acts = (torch.tensor([1.0, 2, 4, 8, 16, 32, 64, 100])[:, None] * scale).float()
    assert apart(activation_counts(layer_of(acts), 10), naive.counts_in_bins(acts, 10)) == 0


@pytest.mark.xfail(
    reason="the width of the range overflows float64, or bins / width does", raises=(AssertionError, RuntimeError)
)
@pytest.mark.parametrize("scale", [1.7e306, 5e-324])
def test_the_smallest_and_largest_float64_numbers(scale):
    acts = torch.tensor([-100.0, -50, 1, 2, 4, 8, 16, 32, 64, 100]).double()[:, None] * scale
    assert float(activation_entropy(layer_of(acts, bins=10))) > 1


def test_negative_values_and_exact_zeros():
    acts = column(-4, -3, -2, -1, 0, 0, -0.0)
    for histograms in ("exact", "sketch"):
        layer = layer_of(acts, bins=4, histograms=histograms)
        assert [float(end) for end in nonzero_range(layer)] == [-4, -1]
        assert float(activation_counts(layer).sum()) == 4
    assert float(activation_entropy(layer_of(acts, bins=3))) == pytest.approx(naive.activation_entropy(acts, 3)[0])


def test_an_atom_between_bins_is_what_interpolation_cannot_know():
    """Half of the values are one number: 7 bins, which do not nest in 600, may share it out over two."""
    acts = torch.cat([torch.full((500,), 3 / 7 - 1e-4), torch.linspace(1e-6, 1, 500)])[:, None]
    error = abs(float(activation_entropy(layer_of(acts), bins=7)) - naive.activation_entropy(acts, 7)[0])
    assert 0.05 < error < 1


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("bins", [0, -1, 2.0, "30"])
def test_bins_that_are_no_number_of_bins(bins):
    with pytest.raises(InputError, match=f"^bins must be a whole number of at least 1; found {bins!r}.$"):
        activation_counts(layer_of(column(1, 2)), bins)


def test_an_unknown_span():
    with pytest.raises(InputError, match=r'^span must be "own", "zero" or "common"; found \'unit\'.$'):
        activation_counts(layer_of(column(1, 2)), span="unit")


def test_no_histogram():
    layer = replace(layer_of(column(1, 2)), histogram=None, histogram_edges=None)
    with pytest.raises(
        InputError, match=r"^this needs the histogram of layer 'fc1'; it was recorded with histograms='none'\. Record"
    ):
        activation_counts(layer)
