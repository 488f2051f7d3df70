"""Entropies, information and selectivity: closed forms, theorems, the naive reference, degenerate units, errors."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import naive
from activations import KINDS, apart, column, law, layer_of, realistic, recordings
from cofire import (
    activation_entropy,
    class_selectivity,
    firing_entropy,
    kl_selectivity,
    mutual_information,
    mutual_information_excess,
    softmax_entropy,
)
from cofire.errors import InputError
from cofire.measures import unit_values

PER_UNIT = {
    "activation_entropy": activation_entropy,
    "firing_entropy": firing_entropy,
    "mutual_information": mutual_information,
    "mutual_information_excess": mutual_information_excess,
    "kl_selectivity": kl_selectivity,
    "class_selectivity": class_selectivity,
}


def h(*shares) -> float:
    """Entropy in bits of a distribution."""
    return -sum(p * math.log2(p) for p in shares if p)


def bias(classes: int, samples: int, levels: int = 2) -> float:
    return (classes - 1) * (levels - 1) / (2 * samples * math.log(2))


# ---------------------------------------------------------------- closed form


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_unit_that_names_one_class_of_many(classes):
    """It fires for one of C equally likely classes: H(Q) = I = h(1/C), and the class's KL is log2 C."""
    labels = torch.arange(7 * classes) % classes
    layer = layer_of((labels == 1).float()[:, None], labels)
    assert float(firing_entropy(layer)) == pytest.approx(h(1 / classes, 1 - 1 / classes), abs=1e-12)
    assert float(mutual_information(layer)) == pytest.approx(h(1 / classes, 1 - 1 / classes), abs=1e-12)
    assert float(kl_selectivity(layer)) == pytest.approx(math.log2(classes), abs=1e-12)
    assert float(class_selectivity(layer)) == pytest.approx(1)


def test_units_that_are_the_bits_of_the_class():
    """Each carries one bit: H(Q) = I = KL = 1."""
    labels = torch.arange(40) % 8
    layer = layer_of(torch.stack([labels >> k & 1 for k in range(3)], 1), labels)
    for quantity in (firing_entropy, mutual_information, kl_selectivity):
        assert quantity(layer).tolist() == pytest.approx([1, 1, 1], abs=1e-12)


@pytest.mark.parametrize("levels", [3, 4, 8])
def test_a_unit_that_counts_the_class_carries_all_of_it(levels):
    """As many levels as classes: H(Q) = I = KL = log2 C; one bit of it can be 1 at most."""
    labels = torch.arange(5 * levels) % levels
    layer = layer_of(labels.float()[:, None], labels, levels=levels)
    for quantity in (firing_entropy, mutual_information, kl_selectivity):
        assert float(quantity(layer, levels)) == pytest.approx(math.log2(levels), abs=1e-12)
    assert float(mutual_information(layer)) == pytest.approx(h(1 / levels, 1 - 1 / levels), abs=1e-12)


def test_an_independent_unit_carries_nothing():
    """Every class sees the same shares: I = KL = 0, whatever H(Q)."""
    labels = torch.arange(24) % 3
    layer = layer_of(torch.tensor([1.0, 0.0, 0.0, 2.0]).repeat_interleave(3).repeat(2)[:, None], labels)
    assert float(firing_entropy(layer)) == 1
    assert float(mutual_information(layer)) == pytest.approx(0, abs=1e-15)
    assert float(kl_selectivity(layer)) == pytest.approx(0, abs=1e-15)
    assert float(mutual_information_excess(layer)) == pytest.approx(-bias(3, 24), abs=1e-15)
    assert float(class_selectivity(layer)) == 0


def test_a_binary_symmetric_channel():
    """The class bit, wrong once in four: I = 1 - h(1/4), the channel's capacity."""
    labels = torch.arange(2).repeat_interleave(8)
    fires = torch.tensor([0, 0, 0, 1] * 2 + [1, 1, 1, 0] * 2).float()
    layer = layer_of(fires[:, None], labels)
    assert float(mutual_information(layer)) == pytest.approx(1 - h(0.25, 0.75), abs=1e-12)
    assert float(kl_selectivity(layer)) == pytest.approx(1 - h(0.25, 0.75), abs=1e-12)


def test_an_erasure_channel():
    """Only half of the first class's samples make it fire: H(Q) - h(1/2)/2; the other class's KL is log2(4/3)."""
    layer = layer_of(column(1, 1, 0, 0, 0, 0, 0, 0), [0, 0, 0, 0, 1, 1, 1, 1])
    assert float(mutual_information(layer)) == pytest.approx(h(0.25, 0.75) - 0.5, abs=1e-12)
    own = 0.5 * math.log2(0.5 / 0.25) + 0.5 * math.log2(0.5 / 0.75)
    assert float(kl_selectivity(layer)) == pytest.approx(max(own, math.log2(4 / 3)), abs=1e-12)


@pytest.mark.parametrize("bins", [2, 7, 10, 30, 100])
@pytest.mark.parametrize("each", [1, 13])
def test_even_values_fill_all_bins(bins, each):
    """1, 2, ..., m R are m a bin: log2 R bits."""
    layer = layer_of(column(*range(1, each * bins + 1)), bins=bins)
    assert float(activation_entropy(layer)) == pytest.approx(math.log2(bins), abs=1e-12)
    assert float(activation_entropy(layer, by_class=True)) == pytest.approx(math.log2(bins), abs=1e-12)


@pytest.mark.parametrize(("few", "many"), [(1, 1), (1, 3), (1, 99)])
def test_two_values_are_a_coin(few, many):
    """Whatever the bins, h(p) bits."""
    for bins in (2, 30, 77):
        layer = layer_of(column(*[1.5] * few, *[40.0] * many, *[0.0] * 50), bins=bins)
        assert float(activation_entropy(layer)) == pytest.approx(h(few / (few + many), many / (few + many)), abs=1e-12)


def test_halving_counts():
    """1/2, 1/4, 1/8, 1/16, 1/16 have 1.875 bits."""
    layer = layer_of(column(*[1] * 8, *[2] * 4, *[3] * 2, 4, 5), bins=5)
    assert float(activation_entropy(layer)) == pytest.approx(1.875, abs=1e-12)


def test_every_class_has_its_own_range():
    labels = torch.arange(4).repeat_interleave(16)
    within = torch.stack([torch.arange(16.0) ** 0, torch.arange(16) // 8, torch.arange(16) // 4, torch.arange(16)])
    layer = layer_of((within * 10.0 ** torch.arange(4)[:, None] + 1).reshape(-1, 1), labels, bins=16)
    assert activation_entropy(layer, by_class=True)[:, 0].tolist() == pytest.approx([0, 1, 2, 4], abs=1e-12)


def test_selectivity_of_known_means():
    """Means 3 and 1: 2/4. Means 6, 2, 1: the others' mean is 1.5, so 4.5/7.5."""
    assert float(class_selectivity(layer_of(column(2, 4, 1, 1), [0, 0, 1, 1]))) == pytest.approx(0.5)
    assert float(class_selectivity(layer_of(column(1, 6, 2), [0, 1, 2]))) == pytest.approx(0.6)


def test_softmax_entropy_of_known_shares():
    """Means (ln 3, 0) give shares 3/4 and 1/4; equal means are the most even; a large gap leaves one unit."""
    layer = layer_of(torch.tensor([[math.log(3), 0.0], [5.0, 5.0], [900.0, 0.0]], dtype=torch.float64), [0, 1, 2], softmax=True)
    for order in ("mean_first", "softmax_first"):
        assert softmax_entropy(layer, order).tolist() == pytest.approx([h(0.75, 0.25), 1, 0], abs=1e-12)


def test_the_two_orders_of_softmax_differ():
    """Two samples that name one unit each: their mean is even, and so is the mean of their softmax, but not alike."""
    layer = layer_of(torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]), [0, 0, 0], softmax=True)
    p, q = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-9))
    assert float(softmax_entropy(layer)) == pytest.approx(h(p, 1 - p), abs=1e-12)
    share = (2 * q + 1 - q) / 3
    assert float(softmax_entropy(layer, "softmax_first")) == pytest.approx(h(share, 1 - share), abs=1e-12)


# ---------------------------------------------------------------- laws


@law
@given(recordings(), st.sampled_from([2, 3, 5]))
def test_information_inequalities(recording, levels):
    """0 <= I <= min(H(Q), H(Y)) <= log2 min(L, C);  I <= max KL <= log2(n / n_rarest)."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes, levels=levels)
    information, entropy = mutual_information(layer, levels), firing_entropy(layer, levels)
    selectivity, counts = kl_selectivity(layer, levels), layer.class_counts
    assert bool((information >= 0).all())
    assert bool((information <= entropy + 1e-12).all())
    assert bool((information <= h(*(counts.double() / len(labels)).tolist()) + 1e-12).all())
    assert bool((information <= min(math.log2(levels), math.log2(classes)) + 1e-12).all())
    assert bool((entropy <= math.log2(levels) + 1e-12).all())
    assert bool((information <= selectivity + 1e-12).all())
    assert bool((selectivity <= math.log2(len(labels) / int(counts.min())) + 1e-12).all())


@law
@given(recordings())
def test_merging_classes_loses_information(recording):
    """Data processing: I(Q; f(Y)) <= I(Q; Y), while H(Q) stays."""
    acts, labels, classes = recording
    fine, coarse = layer_of(acts, labels, classes), layer_of(acts, labels // 2, (classes + 1) // 2)
    assert bool((mutual_information(coarse) <= mutual_information(fine) + 1e-12).all())
    assert bool((kl_selectivity(coarse) <= kl_selectivity(fine) + 1e-12).all())
    assert torch.equal(firing_entropy(coarse), firing_entropy(fine))


@law
@given(recordings(), st.sampled_from([(4, 8), (3, 6), (3, 12), (5, 10)]))
def test_merging_levels_loses_information(recording, pair):
    """Data processing on the other side: levels that nest."""
    acts, labels, classes = recording
    coarse, fine = (layer_of(acts, labels, classes, levels=levels) for levels in pair)
    for quantity in (mutual_information, firing_entropy, kl_selectivity):
        assert bool((quantity(coarse, pair[0]) <= quantity(fine, pair[1]) + 1e-12).all())


@law
@given(recordings())
def test_silence_says_as_much_as_firing(recording):
    """Q and 1 - Q carry the same."""
    acts, labels, classes = recording
    fires = (acts > 0).float()
    plain, mirrored = layer_of(fires, labels, classes), layer_of(1 - fires, labels, classes)
    for quantity in (firing_entropy, mutual_information, kl_selectivity):
        assert apart(quantity(plain), quantity(mirrored)) <= 1e-12


@law
@given(recordings(), st.randoms(use_true_random=False))
def test_order_of_samples_units_and_classes_is_only_a_name(recording, random):
    """Permuting samples or classes changes nothing, permuting units permutes."""
    acts, labels, classes = recording
    rows, cols, names = (torch.tensor(random.sample(range(n), n)) for n in (*acts.shape, classes))
    before = layer_of(acts, labels, classes, levels=3, softmax=True)
    after = layer_of(acts[rows][:, cols], names[labels[rows]], classes, levels=3, softmax=True)
    size = max(1.0, float(acts.abs().max()))
    for name, quantity in PER_UNIT.items():
        if name != "class_selectivity":  # it has no bounds where means cancel
            assert apart(quantity(before)[cols], quantity(after)) <= 1e-12, name
    assert apart(mutual_information(before, 3)[cols], mutual_information(after, 3)) <= 1e-12
    assert torch.equal(activation_entropy(before, by_class=True)[:, cols], activation_entropy(after, by_class=True)[names])
    for options in ({}, {"order": "softmax_first"}, {"scale_free": True}):
        assert apart(softmax_entropy(before, **options), softmax_entropy(after, **options)[names]) <= 1e-12 * size


@law
@given(recordings(negative=False))
def test_selectivity_lies_between_none_and_one(recording):
    """0 <= selectivity <= 1 for activations that are not negative, whatever the order; doubling them changes nothing."""
    acts, labels, classes = recording
    layer, double = layer_of(acts, labels, classes), layer_of(2 * acts, labels, classes)
    selectivity = class_selectivity(layer)
    assert bool(((selectivity >= 0) & (selectivity <= 1)).all())
    assert torch.equal(selectivity, class_selectivity(double))


@law
@given(recordings())
def test_seeing_everything_twice_changes_only_the_excess(recording):
    """All measures are functions of shares; the excess grows by the half of the bias that is gone."""
    acts, labels, classes = recording
    once = layer_of(acts, labels, classes, levels=3)
    twice = layer_of(acts.repeat(2, 1), labels.repeat(2), classes, levels=3)
    for name in ("activation_entropy", "firing_entropy", "mutual_information", "kl_selectivity"):
        assert apart(PER_UNIT[name](once), PER_UNIT[name](twice)) <= 1e-12
    for levels in (2, 3):
        grown = mutual_information_excess(twice, levels) - mutual_information_excess(once, levels)
        assert apart(grown, [bias(classes, 2 * len(labels), levels)] * acts.shape[1]) <= 1e-12


@law
@given(recordings(), st.integers(1, 40))
def test_activation_entropy_is_bounded_and_blind_to_zeros(recording, zeros):
    """0 <= H <= log2 min(R, non-zero values); more samples that are zero change nothing, bit for bit."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes)
    entropy, kept = activation_entropy(layer), (acts != 0).sum(0).clamp(min=1)
    assert bool((entropy >= 0).all())
    assert bool((entropy <= kept.clamp(max=30).double().log2() + 1e-12).all())
    more = layer_of(torch.cat([acts, torch.zeros(zeros, acts.shape[1])]), [*labels.tolist(), *[0] * zeros], classes)
    assert torch.equal(entropy, activation_entropy(more))
    assert torch.equal(activation_entropy(layer, by_class=True), activation_entropy(more, by_class=True))


@law
@given(recordings(), st.sampled_from([1, 7, 30, 64]))
def test_one_class_is_everything(recording, bins):
    """With one class, the entropy by class is the entropy, bit for bit."""
    acts, _, _ = recording
    layer = layer_of(acts, bins=bins)
    assert torch.equal(activation_entropy(layer), activation_entropy(layer, by_class=True)[0])


@law
@given(recordings(), st.integers(-80, 80))
def test_activation_entropy_has_no_unit(recording, power):
    """H(2^k a) = H(a), bit for bit (short of denormal numbers)."""
    acts, labels, classes = recording
    acts = torch.where(acts.abs() < 2.0**-20, 0.0, acts)
    before, after = layer_of(acts, labels, classes), layer_of(acts * 2.0**power, labels, classes)
    assert torch.equal(activation_entropy(before), activation_entropy(after))
    assert torch.equal(activation_entropy(before, by_class=True), activation_entropy(after, by_class=True))


@law
@given(st.floats(1e-3, 1e3), st.sampled_from(list(KINDS)))
def test_activation_entropy_has_hardly_a_unit_in_floating_point(factor, kind):
    """H(s a) = H(a) but for values that rounding carries over an edge; the papers' division by the column sum is such an s."""
    acts, labels = realistic(kind, 400, 3, dtype=torch.float64)
    assert apart(activation_entropy(layer_of(acts, labels)), activation_entropy(layer_of(acts * factor, labels))) <= 1e-9
    normed = acts / acts.sum(0).abs()
    assert apart(activation_entropy(layer_of(acts, labels)), activation_entropy(layer_of(normed, labels))) <= 1e-9


@law
@given(recordings(), st.floats(0.01, 100))
def test_softmax_entropy_without_scale(recording, factor):
    """scale_free: S(s a) = S(a). Both forms lie between 0 and 1."""
    acts, labels, classes = recording
    acts = acts.double()
    layer, scaled = (layer_of(a, labels, classes) for a in (acts, acts * factor))
    assert apart(softmax_entropy(layer, scale_free=True), softmax_entropy(scaled, scale_free=True)) <= 1e-9
    for quantity in (softmax_entropy(layer), softmax_entropy(layer, scale_free=True)):
        assert bool(((quantity >= 0) & (quantity <= 1 + 1e-12)).all())


@law
@given(recordings(), st.floats(1.5, 10))
def test_softmax_entropy_falls_by_scale_alone(recording, factor):
    """S(s a) <= S(a) for s > 1, and less where units differ: the entropy of a Gibbs distribution grows with temperature."""
    acts, labels, classes = recording
    acts = acts.double() / 50
    plain, louder = (softmax_entropy(layer_of(a, labels, classes)) for a in (acts, acts * factor))
    assert bool((louder <= plain + 1e-12).all())
    means = torch.stack([acts[labels == c].mean(0) for c in range(classes)])
    differ = (means.amax(1) - means.amin(1)) > 0.05
    assert bool((louder[differ] < plain[differ]).all())


@law
@given(recordings(), st.floats(-50, 50))
def test_softmax_entropy_sees_differences_only(recording, shift):
    """S(a + s) = S(a) without the scale-free division; and with one sample a class, both orders are the same."""
    acts, labels, classes = recording
    acts = acts.double()
    layer, shifted = (layer_of(a, labels, classes) for a in (acts, acts + shift))
    assert apart(softmax_entropy(layer), softmax_entropy(shifted)) <= 1e-9
    single = layer_of(acts[:classes], labels[:classes], classes, softmax=True)
    assert apart(softmax_entropy(single), softmax_entropy(single, "softmax_first")) <= 1e-12


# What shuffled labels leave.


@pytest.mark.parametrize(("labels", "fires"), [([0, 0, 0, 1, 1, 2], 2), ([0, 0, 1, 1], 3), ([0, 1, 1, 1, 1], 1)])
def test_the_reference_for_shuffled_labels_is_the_mean_over_all_permutations(labels, fires):
    acts = column(*[1.0] * fires, *[0.0] * (len(labels) - fires))
    every = [float(mutual_information(layer_of(acts, list(p), max(labels) + 1))) for p in itertools.permutations(labels)]
    counts = [labels.count(c) for c in range(max(labels) + 1)]
    assert np.mean(every) == pytest.approx(naive.expected_information(fires, counts), abs=1e-12)


@pytest.mark.parametrize(("classes", "samples", "fires"), [(2, 200, 100), (4, 400, 200), (10, 1000, 250), (5, 500, 450)])
def test_the_excess_of_shuffled_labels_averages_nothing(classes, samples, fires):
    """Thousands of shuffles: the mean excess is what is left of the exact expectation, within five standard errors.

    Where a unit fires and is silent some ten times in every class, that is under 3 % of the bias.
    """
    copies = 8000
    random = torch.Generator().manual_seed(samples)
    order = torch.rand(samples, copies, generator=random).argsort(0)
    labels = torch.arange(samples) % classes
    excess = mutual_information_excess(layer_of((order < fires).float(), labels, histograms="sketch"))
    left = naive.expected_information(fires, [samples // classes] * classes) - bias(classes, samples)
    error = float(excess.std()) / math.sqrt(copies)
    assert abs(float(excess.mean()) - left) <= 5 * error
    assert abs(left) <= 0.03 * bias(classes, samples)
    assert 5 * error <= 0.1 * bias(classes, samples)  # or else the test could not see a bias that is off by a tenth


@pytest.mark.parametrize(
    ("classes", "samples", "fires", "share"),
    [(10, 1000, 1, 0.51), (10, 1000, 10, 1.19), (100, 10_000, 10, 0.48), (2, 100, 1, 1.4)],
)
def test_the_bias_is_rough_for_units_that_hardly_ever_fire(classes, samples, fires, share):
    """Shuffled labels leave this share of the bias of Miller and Madow; for a constant unit, nothing of it."""
    left = naive.expected_information(fires, [samples // classes] * classes)
    assert left / bias(classes, samples) == pytest.approx(share, abs=0.02)
    assert naive.expected_information(0, [samples // classes] * classes) == 0


# ---------------------------------------------------------------- reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_information_against_the_naive_reference(kind, dtype):
    acts, labels = realistic(kind, 700, 5, dtype=dtype)
    threshold = 0.5 if kind == "sigmoid" else 0.0
    for levels in (2, 3, 10):
        layer = layer_of(acts, labels, threshold=threshold, levels=levels)
        chosen = {"threshold": threshold, "levels": levels}
        assert apart(firing_entropy(layer, levels), naive.firing_entropy(acts, **chosen)) <= 1e-9
        assert apart(mutual_information(layer, levels), naive.mutual_information(acts, labels, 4, **chosen)) <= 1e-9
        assert apart(kl_selectivity(layer, levels), naive.kl_selectivity(acts, labels, 4, **chosen)) <= 1e-9
        excess = naive.mutual_information_excess(acts, labels, 4, **chosen)
        assert apart(mutual_information_excess(layer, levels), excess) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_activation_entropy_against_the_naive_reference(kind, dtype):
    acts, labels = realistic(kind, 4000, 8, dtype=dtype)
    for recorded in (10, 30, 100, 7):
        layer = layer_of(acts, labels, bins=recorded)
        assert apart(activation_entropy(layer), naive.activation_entropy(acts, recorded)) <= 1e-9
        by_class = naive.activation_entropy_by_class(acts, labels, 4, recorded)
        assert apart(activation_entropy(layer, by_class=True), by_class) <= 1e-9
    layer = layer_of(acts, labels)
    for bins in (10, 100, 600):
        assert apart(activation_entropy(layer, bins=bins), naive.activation_entropy(acts, bins)) <= 1e-9


@pytest.mark.parametrize("kind", KINDS)
def test_activation_entropy_of_bfloat16_against_rational_arithmetic(kind):
    """Values of 8 bits often lie on an edge, where np.histogram's floats go either way and ours are exact."""
    acts, labels = realistic(kind, 600, 4, dtype=torch.bfloat16)
    layer = layer_of(acts, labels, bins=10)
    expected = []
    for values in naive.columns(acts):
        low, high = naive.nonzero_range(values)
        expected.append(naive.bits(np.bincount([naive.exact_bin(v, low, high, 10) for v in values if v])))
    assert apart(activation_entropy(layer), expected) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_against_the_naive_reference(kind, dtype):
    acts, labels = realistic(kind, 500, 6, dtype=dtype)
    layer = layer_of(acts, labels, softmax=True)
    for options in ({}, {"order": "softmax_first"}, {"scale_free": True}):
        assert apart(softmax_entropy(layer, **options), naive.softmax_entropy(acts, labels, 4, **options)) <= 1e-9
    selectivity = naive.class_selectivity(acts, labels, 4)
    assert apart(class_selectivity(layer).numpy() / np.abs(selectivity), np.sign(selectivity)) <= 1e-9


# ---------------------------------------------------------------- degenerate


@pytest.mark.parametrize("value", [0.0, -0.0, 2.0, -2.0, 1e-45, 3e38])
def test_a_constant_unit_says_nothing(value):
    layer = layer_of(torch.full((12, 1), value), torch.arange(12) % 3, levels=4, softmax=True)
    for name in ("activation_entropy", "firing_entropy", "mutual_information", "kl_selectivity", "class_selectivity"):
        assert float(PER_UNIT[name](layer)) == 0, name
    assert activation_entropy(layer, by_class=True).tolist() == [[0]] * 3
    assert [float(q(layer, 4)) for q in (firing_entropy, mutual_information, kl_selectivity)] == [0, 0, 0]
    assert float(mutual_information_excess(layer)) == pytest.approx(-bias(3, 12))
    for options in ({}, {"order": "softmax_first"}, {"scale_free": True}):
        assert softmax_entropy(layer, **options).tolist() == [0, 0, 0]  # one unit


def test_no_entropy_is_not_minus_zero():
    layer = layer_of(torch.zeros(4, 2), [0, 0, 1, 1])
    for quantity in (activation_entropy, firing_entropy):
        assert not bool(quantity(layer).signbit().any())


def test_one_sample():
    layer = layer_of([[3.0, 0.0, -1.0]], [0], softmax=True)
    for name, quantity in PER_UNIT.items():
        assert quantity(layer).tolist() == [0, 0, 0], name
    assert softmax_entropy(layer).shape == (1,)


def test_one_class_carries_no_information():
    acts, _ = realistic("relu", 50, 4)
    layer = layer_of(acts)
    for quantity in (mutual_information, mutual_information_excess, kl_selectivity, class_selectivity):
        assert quantity(layer).tolist() == [0] * 4
    assert bool((firing_entropy(layer) > 0.5).all())


def test_a_class_without_samples_is_left_out_or_nan():
    """What is per class is NaN there; what is per unit is as if the class did not exist."""
    acts, labels = realistic("relu", 300, 4, classes=3)
    few, more = layer_of(acts, labels, levels=3, softmax=True), layer_of(acts, labels, 5, levels=3, softmax=True)
    for quantity in PER_UNIT.values():
        assert torch.equal(quantity(few), quantity(more))
    assert torch.equal(mutual_information(few, 3), mutual_information(more, 3))
    by_class = activation_entropy(more, by_class=True)
    assert torch.equal(by_class[:3], activation_entropy(few, by_class=True))
    assert bool(by_class[3:].isnan().all())
    for options in ({}, {"order": "softmax_first"}, {"scale_free": True}):
        entropies = softmax_entropy(more, **options)
        assert torch.equal(entropies[:3], softmax_entropy(few, **options))
        assert bool(entropies[3:].isnan().all())


def test_one_unit_of_a_class_without_samples():
    assert torch.equal(softmax_entropy(layer_of(column(1.0), [0], 2)).isnan(), torch.tensor([False, True]))


def test_a_dead_layer_is_as_even_as_can_be():
    layer = layer_of(torch.zeros(6, 4), [0, 1] * 3, softmax=True)
    for options in ({}, {"order": "softmax_first"}, {"scale_free": True}):
        assert softmax_entropy(layer, **options).tolist() == pytest.approx([1, 1], abs=1e-12)


def test_a_unit_silent_for_some_class_has_no_nan():
    """0 log 0 = 0: the published program of 004 gives NaN here and ranks it first."""
    layer = layer_of(column(1, 1, 0, 0, 0, 1), [0, 0, 1, 1, 2, 2])
    for name, quantity in PER_UNIT.items():
        assert bool(quantity(layer).isfinite().all()), name


def test_extreme_sizes():
    acts = torch.tensor(
        [[1e-45, 3e38, -3e38, 1e-40], [3e-45, 1e38, 3e38, -1e-40], [1e-44, 2e38, -1e38, 0.0], [0.0, 3e38, 1e38, 1e-38]]
    )
    layer = layer_of(acts, [0, 0, 1, 1], levels=3)
    assert apart(activation_entropy(layer), naive.activation_entropy(acts)) <= 1e-9
    assert apart(mutual_information(layer, 3), naive.mutual_information(acts, [0, 0, 1, 1], 2, levels=3)) <= 1e-9
    assert bool(softmax_entropy(layer).isfinite().all())
    assert bool(softmax_entropy(layer, scale_free=True).isfinite().all())


def test_class_means_that_cancel_have_no_ratio():
    """m1 + m2 = 0: 0, not infinity. Negative means give values beyond 1, which is said in the docs."""
    assert float(class_selectivity(layer_of(column(1, -1), [0, 1]))) == 0
    assert float(class_selectivity(layer_of(column(3, -1), [0, 1]))) == pytest.approx(2)


def test_always_float64():
    layer = layer_of(torch.ones(4, 3).half(), [0, 0, 1, 1], levels=3, softmax=True)
    for quantity in (*PER_UNIT.values(), softmax_entropy):
        assert quantity(layer).dtype == torch.float64


# ---------------------------------------------------------------- errors


def test_histograms_by_class_that_were_not_kept():
    words = r"^by_class=True needs histograms by class, which layer 'fc1' does not hold; they are left out by by_class=False, .*\. Record with"
    for options in ({"by_class": False}, {"histograms": "sketch"}):
        with pytest.raises(InputError, match=words):
            activation_entropy(layer_of(column(1, 2), **options), by_class=True)


@pytest.mark.parametrize("options", [{"bins": 10}, {"span": "zero"}])
def test_histograms_by_class_have_one_number_of_bins(options):
    with pytest.raises(InputError, match=r"^by_class=True has the recorded bins over each class's own range; asked for bins="):
        activation_entropy(layer_of(column(1, 2)), by_class=True, **options)


@pytest.mark.parametrize("quantity", [firing_entropy, mutual_information, mutual_information_excess, kl_selectivity])
def test_levels_that_were_not_recorded(quantity):
    with pytest.raises(
        InputError, match=r"^levels=4 must have been recorded; layer 'fc1' has levels=3\. Record with levels=4\.$"
    ):
        quantity(layer_of(column(1, 2), levels=3), 4)


def test_levels_that_a_sketch_or_a_sum_cannot_hold():
    sketch = layer_of(column(1, 2), levels=4, histograms="sketch")
    summed = layer_of(column(1, 2), levels=4) + layer_of(column(3, 4), levels=4)
    for layer in (sketch, summed):
        with pytest.raises(InputError, match="levels") as raised:
            mutual_information(layer, 4)
        assert "has levels=4" not in str(raised.value)


def test_an_unknown_order_of_softmax():
    with pytest.raises(InputError, match=r'^order must be "mean_first" or "softmax_first"; found \'last\'\.$'):
        softmax_entropy(layer_of(column(1, 2)), "last")
    with pytest.raises(InputError, match=r"^the scale-free companion is defined for mean_first; found"):
        softmax_entropy(layer_of(column(1, 2), softmax=True), "softmax_first", scale_free=True)
    with pytest.raises(
        InputError,
        match=r"needs the sum of every sample's softmax; layer 'fc1' was recorded without\. Record with softmax=True\.$",
    ):
        softmax_entropy(layer_of(column(1, 2)), "softmax_first")


def test_no_histogram_at_all():
    layer = replace(layer_of(column(1, 2)), histogram=None, histogram_edges=None)
    with pytest.raises(InputError, match="this needs the histogram of layer 'fc1'"):
        activation_entropy(layer)
    assert unit_values(layer, "activation_entropy") is None
