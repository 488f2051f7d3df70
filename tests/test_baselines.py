"""Baselines: closed forms, laws of scatter, plain loops over samples, and what is missing said in words."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from torch import nn

import cofire
from activations import column, law, layer_of, realistic, recordings
from cofire import FiringStats
from cofire.baselines import (
    BASELINES,
    davies_bouldin,
    dormant_share,
    log_frobenius_norms,
    mean_class_selectivity,
    parameters,
    participation_ratio,
    scatter_ratio,
    table,
)
from cofire.errors import InputError, ModelError
from cofire.margins import Outputs, inverse_margin, mean_accuracy, mean_loss, mean_max_softmax, outputs
from cofire.weights import weight_norm

# ---------------------------------------------------------------- closed form


def test_two_classes_on_a_line():
    layer = layer_of(column(0, 2, 10, 14), [0, 0, 1, 1])
    assert davies_bouldin(layer) == pytest.approx((1 + 2) / (12 - 1))
    assert scatter_ratio(layer) == pytest.approx((2 * 1 + 2 * 4) / (4 * 5.5**2))


def test_the_worst_pair_of_each_class_counts():
    layer = layer_of(column(-1, 1, 3, 5, 99, 101), [0, 0, 1, 1, 2, 2])
    assert davies_bouldin(layer) == pytest.approx((2 / 4 + 2 / 4 + 2 / 96) / 3)


def test_dimensions_one_can_count():
    corners = torch.tensor([[a, b, c] for a in (0.0, 1) for b in (0.0, 1) for c in (0.0, 1)])
    assert participation_ratio(layer_of(corners)) == pytest.approx(3)
    assert participation_ratio(layer_of(corners[:, :1].repeat(1, 3))) == pytest.approx(1)
    wide = corners * torch.tensor([1.0, 1, math.sqrt(2)])  # variances 1 : 1 : 2
    assert participation_ratio(layer_of(wide)) == pytest.approx(16 / 6)


def test_dormant_is_small_beside_the_layer():
    acts = torch.tensor([[0.0, 0.1, 3.0, 4.9], [0.0, 0.1, 3.0, 4.9]])
    layer = layer_of(acts)  # means 0, 0.1, 3, 4.9 about 2
    assert dormant_share(layer, tau=0) == 0.25
    assert dormant_share(layer, tau=0.04) == 0.25
    assert dormant_share(layer, tau=0.06) == 0.5
    assert dormant_share(layer_of(torch.tensor([[3.0, 1.0], [-3.0, -1.0]]))) == 0  # means 0, yet neither sleeps


def test_selectivity_is_that_of_units_that_live():
    """One unit fires for its class alone, one alike for both, one never."""
    layer = layer_of(torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), [0, 0, 1])
    assert mean_class_selectivity(layer) == 0.5


def test_outputs_of_one_batch():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 0.0, 3.0]])
    seen = outputs(nn.Identity(), [(logits, torch.tensor([0, 1]))])
    assert seen.margins.tolist() == [1, -3]
    assert seen.right.tolist() == [True, False]
    assert mean_accuracy(seen) == 0.5
    assert mean_max_softmax(seen) == pytest.approx(float(logits.double().softmax(1).amax(1).mean()))
    assert mean_loss(seen) == pytest.approx(float(nn.functional.cross_entropy(logits.double(), torch.tensor([0, 1]))))


def test_the_margin_that_nine_of_ten_exceed():
    def of(margins):
        nothing = torch.zeros(len(margins), dtype=torch.float64)
        return Outputs(torch.as_tensor(margins, dtype=torch.float64), nothing, nothing, nothing > 0)

    assert inverse_margin(of([5.0] * 10)) == 1 / 25
    assert inverse_margin(of(range(11))) == 1  # the second smallest of eleven
    assert math.isnan(inverse_margin(of([-1.0, -1, 5, 5, 5])))


def test_weights_one_can_multiply():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 0], [0, 4]]))
        net[2].weight.copy_(torch.tensor([[0.0, 2]]))
        net[0].bias.fill_(100)
    assert log_frobenius_norms(net) == pytest.approx(math.log(5 * 2))
    assert weight_norm(net) == pytest.approx(math.sqrt(29))
    assert parameters(net) == 4 + 2 + 2 + 2 + 2 + 1
    net[2].weight.data.zero_()
    assert log_frobenius_norms(net) == -math.inf


# ---------------------------------------------------------------- laws


@law
@given(recordings(least=2), st.floats(0.1, 10), st.floats(-10, 10))
def test_scatter_adds_up_and_knows_no_scale_or_place(recording, scale, shift):
    """Within and between add up to the whole scatter; neither ratio changes with the unit of measurement or the origin."""
    acts, labels, classes = recording
    acts = acts.double()
    layer, moved = layer_of(acts, labels, classes), layer_of(acts * scale + shift, labels, classes)
    whole = float(acts.var(0, correction=0).sum() * len(acts))
    means = torch.stack([acts[labels == c].mean(0) for c in range(classes)])
    between = float(sum((labels == c).sum() * (means[c] - acts.mean(0)).square().sum() for c in range(classes)))
    if between > 1:
        assert scatter_ratio(layer) == pytest.approx((whole - between) / between, rel=1e-6, abs=1e-6)
        assert scatter_ratio(moved) == pytest.approx(scatter_ratio(layer), rel=1e-3, abs=1e-5)
    if whole > 1:
        ratio = participation_ratio(layer)
        assert 1 - 1e-9 <= ratio <= acts.shape[1] + 1e-9
        assert participation_ratio(moved) == pytest.approx(ratio, rel=1e-3)


@law
@given(recordings(negative=False))
def test_dormant_units_without_tolerance_are_dead_ones(recording):
    layer = layer_of(recording[0], recording[1], recording[2])
    dead = cofire.dead_units(layer).double().mean()
    assert dormant_share(layer, tau=0) == float(dead)
    assert dormant_share(layer, tau=0) <= dormant_share(layer, tau=0.1) <= dormant_share(layer, tau=1)


@law
@given(st.integers(1, 5))
def test_batches_and_modes_do_not_matter(size):
    images, net = cofire.data.load("digits", limit=23), cofire.zoo.model("fcnn:64-16-10", seed=0).train()
    whole, parts = outputs(net, images.batches(23)), outputs(net, images.batches(size))
    assert torch.allclose(whole.margins, parts.margins, atol=1e-5)
    assert net.training


# ---------------------------------------------------------------- reference


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_layers_against_loops_over_samples(kind):
    acts, labels = realistic(kind, 300, 6, classes=5)
    stats = FiringStats.from_activations({"fc1": acts}, labels)
    x, y = acts.double().numpy(), np.array(labels)
    means = [x[y == c].mean(0) for c in range(5)]
    spread = [math.sqrt(np.mean([np.sum((row - means[c]) ** 2) for row in x[y == c]])) for c in range(5)]
    apart = cdist(means, means)
    worst = [max((spread[c] + spread[d]) / apart[c, d] for d in range(5) if d != c) for c in range(5)]
    assert davies_bouldin(stats["fc1"]) == pytest.approx(np.mean(worst), rel=1e-6)
    within = sum(np.sum((row - means[c]) ** 2) for row, c in zip(x, y, strict=True))
    between = sum(np.sum((means[c] - x.mean(0)) ** 2) for c in y)
    assert scatter_ratio(stats["fc1"]) == pytest.approx(within / between, rel=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    assert participation_ratio(stats["fc1"]) == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum(), rel=1e-6)
    size = np.sqrt((x**2).mean(0)) if (x < 0).any() else x.mean(0)
    assert dormant_share(stats["fc1"], 0.3) == np.mean([s <= 0.3 * size.mean() for s in size])
    selective = cofire.table(stats)
    assert mean_class_selectivity(stats["fc1"]) == pytest.approx(selective.class_selectivity[~selective.dead].mean())


def test_outputs_against_loops_over_samples():
    images, net = cofire.data.load("digits", limit=60), cofire.zoo.model("fcnn:64-16-10", seed=0)
    cofire.fit(net, images, epochs=2, seed=0, progress=False)
    seen = outputs(net, images.batches(25))
    at = 0
    for x, y in images.batches(7):
        for row, label in zip(net.eval()(x).detach().double().tolist(), y.tolist(), strict=True):
            others = [score for c, score in enumerate(row) if c != label]
            assert float(seen.margins[at]) == pytest.approx(row[label] - max(others), abs=1e-5)
            assert float(seen.losses[at]) == pytest.approx(math.log(sum(map(math.exp, row))) - row[label], abs=1e-5)
            at += 1
    assert at == len(seen.margins)


def test_probabilities_and_a_single_output_are_understood():
    logits, labels = torch.tensor([[2.0, 0.0], [1.0, 4.0]]), torch.tensor([0, 1])
    plain = outputs(nn.Identity(), [(logits, labels)])
    single = (logits[:, 1] - logits[:, 0])[:, None]
    for model, given_ in ((nn.Identity(), logits.softmax(1)), (nn.Identity(), single), (nn.Sigmoid(), single)):
        again = outputs(model, [(given_, labels)])
        for name in ("margins", "confidences", "losses"):
            assert getattr(again, name).tolist() == pytest.approx(getattr(plain, name).tolist(), rel=1e-5)


def test_a_few_single_logits_between_0_and_1_are_no_probabilities():
    found = outputs(nn.Identity(), [(torch.tensor([[0.25], [0.75]]), torch.tensor([0, 1]))])
    assert found.margins.tolist() == [-0.25, 0.75]
    assert found.right.tolist() == [False, True]


def test_the_table_has_every_row():
    images, net = cofire.data.load("digits", limit=200), cofire.zoo.model("fcnn:64-24-16-10", seed=0)
    stats = cofire.record(net, images.batches(), covariance=True, progress=False)
    frame = table(stats, net, outputs(net, images.batches()))
    per_layer = [row.name for row in BASELINES if row.of == "layer"]
    of_model = [row.name for row in BASELINES if row.of != "layer"]
    assert frame.baseline[frame.layer == "relu1"].tolist() == per_layer
    assert sorted(frame.baseline[frame.layer == "all layers"]) == sorted(of_model)
    for row in BASELINES:
        assert row.words.endswith(".")
        assert row.function.__doc__
    known = frame.set_index(["layer", "baseline"]).value
    assert known["relu2", "participation_ratio"] == participation_ratio(stats["relu2"])
    assert known["all layers", "mean_accuracy"] == stats.accuracy
    assert known["all layers", "parameters"] == parameters(net)
    assert frame.note[frame.baseline == "inverse_margin"].item() == "a tenth of the samples or more is wrong"
    assert (frame.note[frame.value.notna()] == "").all()


# ---------------------------------------------------------------- degenerate


def test_a_dead_layer_and_a_single_class():
    dead = layer_of(torch.zeros(4, 3), [0, 0, 1, 1])
    for function in (davies_bouldin, scatter_ratio, participation_ratio, mean_class_selectivity):
        assert math.isnan(function(dead)), function.__name__
    assert dormant_share(dead) == 1
    assert math.isnan(davies_bouldin(layer_of(column(1, 2, 3))))
    assert scatter_ratio(layer_of(column(1, 2, 3))) == math.inf


def test_classes_that_coincide_or_collapse():
    assert davies_bouldin(layer_of(column(0, 2, -1, 3), [0, 0, 1, 1])) == math.inf
    collapsed = layer_of(column(0.1, 0.1, 0.3, 0.3), [0, 0, 1, 1])
    assert davies_bouldin(collapsed) == scatter_ratio(collapsed) == 0


def test_an_empty_class_is_left_out():
    acts, labels = realistic("relu", 60, 3, classes=2)
    for function in (davies_bouldin, scatter_ratio):
        assert function(layer_of(acts, labels, 4)) == function(layer_of(acts, labels, 2))


def test_a_missing_covariance_is_a_note():
    bare = FiringStats.from_activations({"fc1": torch.rand(8, 3)}, [0, 1] * 4, covariance=False)
    row = table(bare).set_index("baseline").loc["participation_ratio"]
    assert math.isnan(row.value)
    assert "it was recorded without. Record with covariance=True" in row.note


# ---------------------------------------------------------------- errors


def test_wrong_input():
    with pytest.raises(InputError, match=r"^layer 'fc1' must hold the covariance of its 3 units"):
        participation_ratio(layer_of(torch.rand(4, 3), covariance=False))
    with pytest.raises(InputError, match="there must be at least one sample; the batches are empty"):
        outputs(nn.Identity(), [])
    with pytest.raises(InputError, match=r"^labels must be below the model's 2 classes; batch 1 has 2\.$"):
        outputs(nn.Identity(), [(torch.rand(2, 2), torch.tensor([0, 1])), (torch.rand(1, 2), torch.tensor([2]))])
    with pytest.raises(ModelError, match="the model must give class scores"):
        outputs(nn.Identity(), [(torch.rand(2, 2, 2, 2), torch.tensor([0, 1]))])
