"""Familiarity and trust: what firing statistics alone say of inputs and predictions, and when they had better say nothing."""

import copy
import json
import math
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

import cofire
from cofire import rivals
from cofire.batches import fingerprints
from cofire.cli import app
from cofire.detection import auroc
from cofire.doubts import Doubts
from cofire.errors import CofireWarning, FileError, InputError, LayerError
from cofire.familiarities import Explanation
from cofire.likelihoods import Likelihood, share_above
from cofire.readings import Reader
from cofire.selective import CONTROL, HEAD, Head

law = settings(deadline=None, max_examples=40)


def layer_of(acts, labels, classes, **options):
    return cofire.FiringStats.from_activations({"fc1": acts}, labels, classes=classes, **options)["fc1"]


@st.composite
def recordings(draw):
    samples, units, classes = draw(st.integers(8, 40)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    acts = torch.relu(torch.randn(samples, units, generator=random))
    return acts, torch.arange(samples) % classes, classes


@pytest.fixture(scope="module")
def digits():
    return cofire.data.load("digits"), cofire.data.load("digits", "test")


@pytest.fixture(scope="module")
def net(digits):
    """A net that is wrong now and then."""
    net = cofire.zoo.model("fcnn:64-48-32-10", seed=0)
    cofire.fit(net, digits[0], epochs=6, seed=0, progress=False)
    return net


@pytest.fixture(scope="module")
def stats(net, digits):
    return cofire.record(net, digits[0].batches(), progress=False)


@pytest.fixture(scope="module")
def found(net, digits, stats):
    return cofire.trust(net, digits[0].batches(), stats, validation=digits[1].batches())


def hidden(net, inputs):
    with torch.no_grad():
        first = torch.relu(net.fc1(inputs.flatten(1)))
        return {"relu1": first, "relu2": torch.relu(net.fc2(first))}


def likelihood_by_loops(row, layer):
    """The definition, a unit and a class at a time."""
    values = []
    for c in range(layer.classes):
        total = 0.0
        for u in range(layer.units):
            share = (int(layer.fire[c, u]) + 0.5) / (int(layer.class_counts[c]) + 1)
            total += math.log(share) if float(row[u]) > layer.threshold else math.log(1 - share)
        values.append(total)
    return values


class Telltale(nn.Module):
    """Two classes: the output reads the first two units, the others tell the true class and are read by nobody."""

    def __init__(self, units):
        super().__init__()
        self.relu, self.head = nn.ReLU(), nn.Linear(units, 2, bias=False)
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.weight[:, :2] = torch.eye(2)

    def forward(self, x):
        return self.head(self.relu(x))


def telltale(samples, seed, tells=True, wrong=0.2):
    """Inputs whose first two units name a class that is sometimes not the true one."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (samples,), generator=random)
    named = torch.where(torch.rand(samples, generator=random) < wrong, 1 - labels, labels)
    outputs = nn.functional.one_hot(named, 2) * (1 + torch.rand(samples, 1, generator=random))
    source = labels if tells else torch.randint(2, (samples,), generator=random)
    noise = torch.randn(samples, 8, generator=random)
    pattern = noise + torch.where((torch.arange(8) % 2 == source[:, None]), 1.5, -1.5)
    return [(torch.cat([outputs, pattern], 1), labels)]


# ---------------------------------------------------------------- likelihoods


def test_a_unit_that_names_the_class():
    layer = layer_of(torch.tensor([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0]]), torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    likelihood = Likelihood.of(layer)
    assert likelihood(torch.tensor([[9.0]]))[0].exp().tolist() == pytest.approx([7 / 8, 1 / 8])
    assert likelihood(torch.tensor([[0.0]]))[0].exp().tolist() == pytest.approx([1 / 8, 7 / 8])


@law
@given(recordings())
def test_likelihoods_by_loops(recording):
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes)
    expected = [likelihood_by_loops(row, layer) for row in acts]
    assert torch.allclose(Likelihood.of(layer)(acts), torch.tensor(expected).double(), atol=1e-5)


@law
@given(recordings())
def test_the_expected_likelihood_is_the_mean_over_what_was_recorded(recording):
    """E[L_y] is exact, whatever units fire together."""
    acts, labels, classes = recording
    likelihood = Likelihood.of(layer_of(acts, labels, classes))
    own = likelihood(acts).gather(1, labels[:, None])
    assert likelihood.expected()[0] == pytest.approx(float(own.mean()), abs=1e-9)


def test_the_expected_deviation_is_that_of_independent_units():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(20_000) % 2
    shares = torch.tensor([[0.2, 0.7, 0.5], [0.6, 0.1, 0.9]])
    acts = (torch.rand(20_000, 3, generator=random) < shares[labels]).float()
    likelihood = Likelihood.of(layer_of(acts, labels, 2))
    own = likelihood(acts).gather(1, labels[:, None])
    assert likelihood.expected()[1] == pytest.approx(float(own.std()), rel=0.02)


@law
@given(recordings(), st.floats(-1, 4))
def test_shares_above_a_point_are_right_within_a_bin(recording, point):
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes)
    found = share_above(layer, torch.full((acts.shape[1],), point, dtype=torch.float64))
    for c in range(classes):
        mine = acts[labels == c]
        exact = (mine.double() > point).double().mean(0)
        most = layer.class_histogram[c].amax(0) / len(mine)
        assert bool(((found[c] - exact).abs() <= most + 1e-9).all())


def test_shares_above_a_point_count_zeros_and_single_values():
    acts = torch.tensor([[0.0, 2.0], [0.0, 2.0], [-1.0, 0.0], [3.0, 0.0]])
    layer = layer_of(acts, torch.zeros(4, dtype=torch.int64), 1)
    assert share_above(layer, torch.tensor([-2.0, 1.0]).double()).tolist() == [[1.0, 0.5]]
    assert share_above(layer, torch.tensor([5.0, 2.0]).double()).tolist() == [[0.0, 0.0]]


def test_a_unit_can_be_asked_to_lie_above_its_mean(net, stats, digits):
    acts = hidden(net, next(iter(digits[0].batches(2000)))[0])
    for name, layer in stats.items():
        likelihood = Likelihood.of(layer, "mean")
        mean = acts[name].double().mean(0)
        assert torch.allclose(likelihood.threshold, mean, atol=1e-5)
        exact = torch.stack([(acts[name] > mean)[digits[0].labels == c].double().mean(0) for c in range(10)])
        assert float((likelihood.share - exact).abs().mean()) < 0.01


# ---------------------------------------------------------------- familiarity


def test_familiarity_by_loops(net, stats, digits):
    inputs, _ = next(iter(digits[1].batches(12)))
    seen = cofire.familiarity(stats, net, inputs)
    total = np.zeros(12)
    for at, (name, acts) in enumerate(hidden(net, inputs).items()):
        values = np.array([likelihood_by_loops(row, stats[name]) for row in acts])
        assert seen.layers[name].numpy() == pytest.approx(values.max(1), abs=1e-4)
        assert seen.classes[:, at].tolist() == values.argmax(1).tolist()
        mean, deviation = Likelihood.of(stats[name]).expected()
        total += (values.max(1) - mean) / deviation / 2
    assert seen.score.numpy() == pytest.approx(total, abs=1e-4)
    with torch.no_grad():
        assert torch.equal(seen.predicted, net(inputs).argmax(1))
    assert torch.equal(seen.agrees, seen.classes == seen.predicted[:, None])


def test_batches_and_labels_do_not_matter(net, stats, digits):
    inputs, labels = next(iter(digits[1].batches(360)))
    alone = cofire.familiarity(stats, net, inputs)
    ways = (inputs, labels + 90), [inputs, labels], digits[1].batches(50), [inputs.numpy(), labels.numpy()]
    for batch in (*ways, (part for part, _ in digits[1].batches(50))):
        other = cofire.familiarity(stats, net, batch)
        assert torch.allclose(alone.score, other.score, atol=1e-9)
        assert torch.equal(alone.violations, other.violations)
        assert {n: sorted(map(tuple, p.tolist())) for n, p in alone.unexpected.items()} == {
            n: sorted(map(tuple, p.tolist())) for n, p in other.unexpected.items()
        }


def test_inputs_come_in_many_forms(net, stats, digits):
    inputs, labels = next(iter(digits[1].batches(60)))
    expected = cofire.familiarity(stats, net, inputs).score
    for batch in (
        [inputs[:40], inputs[40:]],
        [inputs[:40].numpy(), inputs[40:40].numpy(), inputs[40:].numpy()],
        (inputs, labels.tolist()),
        [inputs, labels],
        [(inputs[:40], labels[:40].tolist()), (inputs[:0], labels[:0]), {"input": inputs[40:], "labels": labels[40:]}],
        iter([inputs[:40], inputs[40:]]),
    ):
        assert torch.equal(cofire.familiarity(stats, net, batch).score, expected)


def test_inputs_that_are_no_numbers_are_refused(found, net, stats, digits):
    inputs, _ = next(iter(digits[1].batches(20)))
    inputs[3] = torch.nan
    for ask in (lambda: cofire.familiarity(stats, net, inputs), lambda: found.score(inputs)):
        with pytest.raises(InputError, match="they are not for 1 samples of the inputs"):
            ask()


def test_two_classes_of_one_name_are_two_classes(net, digits):
    names = ["crane", "crane", *map(str, range(2, 10))]
    stats = cofire.record(net, digits[0].batches(), class_names=names, progress=False)
    seen = cofire.familiarity(stats, net, digits[1].batches())
    for place in (seen.agrees.sum(1) < 2).nonzero()[:, 0].tolist():
        explanation = seen.explain(place)
        assert len(explanation.agree) == int(seen.agrees[place].sum())
        assert f"{len(explanation.agree)} of 2 layers fire most like that class" in str(explanation)


def test_layers_may_bear_the_names_of_columns():
    acts = torch.relu(torch.randn(60, 4, generator=torch.Generator().manual_seed(0)))

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.predicted = nn.ReLU()

        def forward(self, x):
            return self.predicted(x)[:, :2]

    net = Odd()
    stats = cofire.record(net, [(acts, torch.arange(60) % 2)], progress=False)
    seen = cofire.familiarity(stats, net, acts)
    assert list(seen.frame()) == ["predicted", "familiarity", "agreeing_layers", "unexpected_units", "layer predicted"]
    assert repr(seen).startswith("Familiarity(60 samples, 1 layers, median score")


def test_a_reference_standardises_on_its_data(net, stats, digits):
    seen = cofire.familiarity(stats, net, digits[0].batches(), reference=digits[0].batches(), layers="relu2")
    assert float(seen.score.mean()) == pytest.approx(0, abs=1e-9)
    assert float(seen.score.std(correction=0)) == pytest.approx(1)
    closed = cofire.familiarity(stats, net, digits[0].batches(), layers="relu2")
    assert torch.equal(closed.score.argsort(stable=True), seen.score.argsort(stable=True))
    assert float(closed.score.std()) > 1  # units are not independent


def test_an_explanation_names_what_is_unexpected(net, stats, digits):
    seen = cofire.familiarity(stats, net, digits[1].batches())
    sample = int(seen.violations.argmax())
    inputs, _ = next(iter(digits[1].batches(360)))
    acts, predicted = hidden(net, inputs), int(seen.predicted[sample])
    expected = []
    for name, layer in stats.items():
        for unit in range(layer.units):
            share = (int(layer.fire[predicted, unit]) + 0.5) / (int(layer.class_counts[predicted]) + 1)
            fires = float(acts[name][sample, unit]) > 0
            if (fires and share < 0.01) or (not fires and share > 0.99):
                expected.append((name, unit, fires))
    why = seen.explain(sample)
    assert expected
    assert sorted((name, unit, fires) for name, unit, fires, _ in why.units) == sorted(expected)
    assert len(why.frame()) == int(seen.violations[sample]) == len(expected)
    assert str(why).startswith(f"Sample {sample} is predicted '{predicted}'. ")
    assert f"{int(seen.agrees[sample].sum())} of 2 layers fire most like that class" in str(why)
    assert seen.explain(sample - 360).sample == sample


def test_an_explanation_in_words():
    acts = torch.cat([torch.tensor([[1.0, 0.0]]).repeat(100, 1), torch.tensor([[0.0, 1.0]]).repeat(100, 1)])
    net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]]))  # always class 0
    stats = cofire.record(net, [(acts, torch.arange(200) // 100)], class_names=["cat", "dog"], progress=False)
    seen = cofire.familiarity(stats, net, torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert str(seen.explain(0)) == (
        "Sample 0 is predicted 'cat'. 0 of 1 layers fire most like that class, layer '0' rather like 'dog'. 1 unit fires though fewer "
        "than 1 % of 'cat' samples make it: 0[1]. 1 unit is silent though more than 99 % make it fire: 0[0]."
    )
    assert str(seen.explain(1)) == (
        "Sample 1 is predicted 'cat'. 1 of 1 layers fire most like that class. No unit is unexpected for 'cat'."
    )
    assert list(seen.frame().columns) == ["predicted", "familiarity", "agreeing_layers", "unexpected_units", "0"]


def test_an_explanation_above_the_mean_does_not_speak_of_firing():
    said = Explanation(0, "cat", 0.0, {"a": "cat"}, [("a", 1, True, 0.001), ("a", 2, False, 0.999)], ["a"], "mean")
    assert str(said) == (
        "Sample 0 is predicted 'cat'. 1 of 1 layers fire most like that class. 1 unit is above its mean though fewer than 1 % of "
        "'cat' samples lift it above: a[1]. 1 unit is not above its mean though more than 99 % lift it above: a[2]."
    )


def test_convolutions_fire_by_their_pooled_value():
    net = nn.Sequential(nn.Conv2d(1, 5, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(5 * 36, 10))
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(5, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
    images = cofire.data.load("digits", limit=200)
    stats = cofire.record(net, images.batches(normalize=([0.3], [0.3])), progress=False)
    inputs, _ = next(iter(images.batches(10, normalize=([0.3], [0.3]))))
    with torch.no_grad():
        pooled = net[1](net[0](inputs)).mean((2, 3))
    expected = [max(likelihood_by_loops(row, stats["1"])) for row in pooled]
    assert cofire.familiarity(stats, net, inputs).layers["1"].tolist() == pytest.approx(expected, abs=1e-4)


def test_layers_that_always_fire_are_named():
    net = nn.Sequential(nn.Conv2d(1, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20 * 36, 10))
    with torch.no_grad():
        net[0].weight.copy_(torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0)))
        net[0].bias.fill_(10)
    images = cofire.data.load("digits", limit=200)
    stats = cofire.record(net, images.batches(), progress=False)
    with pytest.warns(CofireWarning, match="in '1' fewer than a tenth of the units fire for some inputs and not for others"):
        cofire.familiarity(stats, net, images.batches())
    assert float(cofire.familiarity(stats, net, images.batches(), at="mean").score.std()) > 0


def test_a_layer_that_never_varies_still_sees_a_silent_unit():
    net = nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
    stats = cofire.record(net, [(torch.ones(50, 3), torch.arange(50) % 2)], progress=False)
    with pytest.warns(CofireWarning, match="fewer than a tenth of the units"):
        score = cofire.familiarity(stats, net, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])).score
    assert float(score[0]) == pytest.approx(0, abs=1e-9)
    assert float(score[1]) == pytest.approx(math.log(0.5 / 25.5))


def test_turned_and_inverted_digits_are_less_familiar(net, stats, digits):
    inputs, _ = next(iter(digits[1].batches(360)))
    known = cofire.familiarity(stats, net, inputs).score
    for other in (1 - inputs, inputs.rot90(1, (2, 3))):
        strange = cofire.familiarity(stats, net, other).score
        assert auroc(-torch.cat([known, strange]), torch.arange(720) >= 360) > 0.9


# ---------------------------------------------------------------- outputs and rivals


@law
@given(st.integers(2, 6), st.integers(0, 10**6))
def test_outputs_by_loops(classes, seed):
    logits = torch.randn(4, classes, generator=torch.Generator().manual_seed(seed)).double() * 5
    for row, scores in zip(logits.tolist(), zip(*rivals.output_scores(logits).values(), strict=True), strict=True):
        total = sum(math.exp(z) for z in row)
        shares = [math.exp(z) / total for z in row]
        first, second = sorted(row, reverse=True)[:2]
        others = total - math.exp(first)
        expected = (
            math.log(math.exp(first) / others), sum(p * math.log(p) for p in shares), first, math.log(total), first - second,
        )  # fmt: skip
        assert [float(score) for score in scores] == pytest.approx(expected, abs=1e-6)


def test_the_softmax_keeps_its_order_where_it_saturates():
    scores = rivals.output_scores(torch.tensor([[60.0, 0.0], [61.0, 0.0]]))["msp"]
    assert float(torch.tensor([[60.0, 0.0], [61.0, 0.0]]).softmax(1).max(1).values.diff()) == 0
    assert float(scores[1] - scores[0]) == 1.0


def test_a_class_that_is_ruled_out_has_no_part_in_the_outputs():
    logits = torch.tensor([[2.0, 0.5, -torch.inf]])
    for name, score in rivals.output_scores(logits).items():
        assert float(score) == pytest.approx(float(rivals.output_scores(logits[:, :2])[name]))


def test_distances_by_loops():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 4, generator=random).double() + 2 * nn.functional.one_hot(labels, 4)
    new = torch.randn(5, 4, generator=random).double() * 3
    unit = nn.functional.normalize(features, dim=1)
    for values, normalised in ((features, False), (unit, True)):
        means = [values[labels == c].numpy().mean(0) for c in range(3)]
        centred = np.concatenate([values[labels == c].numpy() - means[c] for c in range(3)])
        inverse = np.linalg.inv(centred.T @ centred / 300)
        rows = nn.functional.normalize(new, dim=1) if normalised else new
        expected = [-min((row - m) @ inverse @ (row - m) for m in means) for row in rows.numpy()]
        assert rivals.mahalanobis(features, labels, normalised=normalised)(new).tolist() == pytest.approx(expected)
    whole = np.linalg.inv(np.cov(features.numpy().T, bias=True))
    overall = [-(row - features.numpy().mean(0)) @ whole @ (row - features.numpy().mean(0)) for row in new.numpy()]
    assert rivals.gaussian(features)(new).tolist() == pytest.approx(overall)
    plain = rivals.mahalanobis(features, labels)(new)
    relative = rivals.mahalanobis(features, labels, relative=True)(new)
    assert relative.tolist() == pytest.approx((plain - torch.tensor(overall)).tolist())
    far = [
        -sorted(float((row / row.norm() - known).norm()) for known in unit)[9] for row in new
    ]  # fmt: skip
    assert rivals.nearest(features)(new).tolist() == pytest.approx(far, abs=1e-5)


def test_virtual_logits_see_what_leaves_the_principal_space():
    random = torch.Generator().manual_seed(0)
    features = torch.cat([torch.randn(400, 2, generator=random) * 3, torch.randn(400, 2, generator=random) * 0.1], 1)
    weights = torch.randn(4, 3, generator=random)
    score = rivals.vim(features, features @ weights)
    outside = torch.tensor([[0.0, 0.0, 3.0, 0.0]])
    inside = torch.tensor([[3.0, 0.0, 0.0, 0.0]])
    assert float(score(inside, torch.zeros(1, 3))) > float(score(outside, torch.zeros(1, 3)))


# ---------------------------------------------------------------- signs of doubt


def test_signs_by_loops(net, stats, digits):
    likelihoods = {name: Likelihood.of(layer) for name, layer in stats.items()}
    with Reader(net, stats) as reader:
        doubts = Doubts.fitted(likelihoods, reader.over(digits[0].batches()))
        signs = doubts.signs(reader.over(digits[1].batches(20)))
    (inputs, labels), (test, _) = next(iter(digits[0].batches(2000))), next(iter(digits[1].batches(20)))
    with torch.no_grad():
        predicted, guess = net(inputs).argmax(1), net(test).argmax(1)
    for at, (name, acts) in enumerate(hidden(net, inputs).items()):
        values = likelihoods[name](acts)
        new = likelihoods[name](hidden(net, test)[name])
        prior = (torch.bincount(labels) / len(labels)).double().log()
        for row in range(20):
            c = int(guess[row])
            own = values[(predicted == c) & (labels == c), c]
            others = [float(new[row, k]) for k in range(10) if k != c]
            assert float(signs.firing[row, 3 * at]) == pytest.approx(float(new[row, c]) - max(others))
            height = (float(new[row, c]) - float(own.mean())) / float(own.std(correction=0))
            assert float(signs.firing[row, 3 * at + 1]) == pytest.approx(height, abs=1e-6)
            logs = new[row] / doubts.temperature[at] + prior
            assert float(signs.firing[row, 3 * at + 2]) == pytest.approx(float(logs[c] - logs.logsumexp(0)))
        losses = {
            float(t): float(nn.functional.cross_entropy(values / t + prior, labels))
            for t in 2.0 ** (torch.arange(21) / 2).double()
        }
        assert float(doubts.temperature[at]) == pytest.approx(min(losses, key=losses.get))
    assert float(doubts.temperature.min()) > 1  # units that fire together count as fewer witnesses


def test_samples_are_known_by_content():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 2, generator=random)
    assert fingerprints(x)[2:4] == fingerprints(x[2:4].clone())
    assert fingerprints((x, x[:, 0])) != fingerprints((x, x[:, 1]))
    assert fingerprints({"a": x, "b": x[:, 0]}) == fingerprints((x, x[:, 0]))
    assert len(set(fingerprints(x))) == 6


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 33, 33), (1, 5001)], ids=str)
def test_large_samples_are_known_by_content_and_place(shape):
    """Constant ones, single points wherever they are, and swapped parts stay apart."""
    places = torch.arange(0, math.prod(shape), 16)
    points = torch.nn.functional.one_hot(places, math.prod(shape)).float().view(-1, *shape)
    flat = torch.stack([torch.full(shape, value) for value in (0.0, 0.5, 1.0, 2.0, -1.0)])
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    swapped = noise.clone()
    swapped.flatten(1)[:, :512], swapped.flatten(1)[:, 512:1024] = (noise.flatten(1)[:, a : a + 512] for a in (512, 0))
    every = torch.cat([points, flat, noise, swapped])
    assert len(set(fingerprints(every))) == len(every)
    assert fingerprints(every[1:]) == fingerprints(every)[1:]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.uint8, torch.bool], ids=str)
def test_large_samples_of_few_values_are_known_by_content(dtype):
    """Every set of eight broad bars, and pictures of one grey: what is alike in all columns must not cancel out."""
    bars = torch.cartesian_prod(*[torch.arange(2)] * 8).repeat_interleave(8, 1)[:, :, None].expand(-1, -1, 64)
    greys = torch.arange(2, 256).view(-1, 1, 1).expand(-1, 64, 64)
    every = (bars if dtype == torch.bool else torch.cat([bars, greys])).to(dtype)
    assert len(set(fingerprints(every))) == len(every)
    if dtype == torch.uint8:
        assert len(set(fingerprints(torch.cat([3 * bars, bars]).to(dtype)))) == 2 * len(bars) - 1


def test_the_same_text_is_known_however_far_it_is_padded():
    ids, mask = torch.arange(24).view(4, 6) + 1, torch.arange(6) < torch.tensor([[4], [6], [1], [3]])
    plain = {"input_ids": ids, "attention_mask": mask.long()}
    further = {name: torch.nn.functional.pad(value * mask, (0, 3)) for name, value in plain.items()}
    before = {name: torch.nn.functional.pad(value * mask, (5, 0)) for name, value in plain.items()}
    assert fingerprints(plain) == fingerprints(further) == fingerprints(before)
    assert len(set(fingerprints(plain))) == 4
    assert fingerprints(plain) != fingerprints({**plain, "input_ids": ids + 1})


def test_what_all_samples_share_leaves_none_out():
    x = torch.arange(6.0).view(3, 2)
    assert fingerprints({"x": x, "scale": torch.ones(1)}) == fingerprints(x) == fingerprints(x.to_sparse())


# ---------------------------------------------------------------- trust


def test_a_head_is_the_answer_where_firing_tells():
    net, train, held = Telltale(10), telltale(2000, 0), telltale(1500, 1)
    stats = cofire.record(net, train, progress=False)
    found = cofire.trust(net, train, stats, validation=held)
    table = found.frame().set_index("score")
    assert found.answer == HEAD
    assert table.loc["msp", "auroc"] < 0.6
    assert table.loc[CONTROL, "auroc"] < 0.6
    assert table.loc[HEAD, "auroc"] > 0.95
    assert "Trust is the head, and firing has a part in its gain." in str(found)
    unseen, labels = telltale(1500, 2)[0]
    score = found.score(unseen)
    right = net(unseen).argmax(1) == labels
    assert auroc(score, right) > 0.95
    assert float(score.sigmoid().mean()) == pytest.approx(float(right.double().mean()), abs=0.03)


def test_the_softmax_is_the_answer_where_firing_tells_nothing():
    answers = []
    for seed in range(5):
        net, train, held = Telltale(10), telltale(1000, 10 + seed, tells=False), telltale(800, 100 + seed, tells=False)
        stats = cofire.record(net, train, progress=False)
        found = cofire.trust(net, train, stats, validation=held)
        answers.append(found.answer)
    assert answers.count("msp") >= 4
    assert "Trust is MSP: the head's gain is not significant." in str(found) or answers[-1] == HEAD


def test_scores_of_the_validation_data_are_held_out(found, net, stats, digits):
    """No sample's score comes from a head that saw it: the final head, which saw all, fits better."""
    wrong = found.wrong
    with Reader(net, stats) as reader:
        signs = found.doubts.signs(reader.over(digits[1].batches()))
    columns = signs.columns(10)
    assert torch.equal(signs.predicted != signs.labels, wrong)
    assert auroc(-found.head(columns), wrong) > auroc(-found.scores[HEAD], wrong)
    assert torch.allclose(found.scores["msp"], signs.outputs[:, 0])


def test_a_head_is_a_logistic_regression():
    random = torch.Generator().manual_seed(0)
    columns = torch.randn(3000, 2, generator=random).double() * torch.tensor([2.0, 0.5]) + 1
    truth = columns @ torch.tensor([1.0, -2.0]).double() + 0.5
    right = torch.rand(3000, generator=random) < truth.sigmoid()
    fitted = Head.fitted(columns, right)
    assert float((fitted(columns) - truth).abs().mean()) < 0.25
    assert float(torch.corrcoef(torch.stack([fitted(columns), truth]))[0, 1]) > 0.995


def test_a_coverage_gives_that_share(found, digits):
    for coverage in (0.5, 0.9, 0.95, 1.0):
        given = found.predict(digits[1].batches(), coverage) >= 0
        assert int(given.sum()) == math.ceil(coverage * 360 - 1e-9)
    everything = found.predict(digits[1].batches(), 1)
    kept = found.predict(digits[1].batches(), 0.8)
    assert torch.equal(kept[kept >= 0], everything[kept >= 0])
    assert bool((found.score(digits[1].batches())[kept >= 0] >= found.threshold(0.8)).all())


class Levelled(nn.Module):
    """A net of digits that gives probabilities, rounded as a type of few digits rounds them."""

    def __init__(self, net, dtype):
        super().__init__()
        self.net, self.dtype = copy.deepcopy(net).to(dtype), dtype

    def forward(self, x):
        return self.net(x.to(self.dtype)).softmax(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_probabilities_are_known_as_such_in_every_batch(net, digits, dtype):
    """Rows of probabilities sum to one only beyond their rounding; what the outputs are was judged when trust was fitted."""
    model = Levelled(net, dtype)
    stats = cofire.record(model, digits[0].batches(), progress=False)
    found = cofire.trust(model, digits[0].batches(), stats, validation=digits[1].batches())
    assert found.form == "probabilities"
    inputs, _ = next(iter(digits[1].batches(100)))
    alone = torch.cat([found.score(inputs[place : place + 1]) for place in range(100)])
    assert torch.allclose(found.score(inputs), alone, atol=1e-3 if dtype == torch.float32 else 0.3)
    assert float(found.scores["energy"].abs().max()) < 1e-5  # their exponentials sum to one: it tells nothing


def test_validation_samples_count_once_however_often_they_come():
    """A head would have seen the copies of those that it is judged by, and its interval be that of more samples."""
    net, train, held = Telltale(10), telltale(800, 1, tells=False), telltale(300, 2, tells=False)
    stats = cofire.record(net, train, progress=False)
    once = cofire.trust(net, train, stats, validation=held)
    with pytest.warns(CofireWarning, match="600 of 900 validation samples are there already: each counts once"):
        often = cofire.trust(net, train, stats, validation=held * 3)
    assert str(often) == str(once)
    assert torch.equal(often.final, once.final)
    assert torch.equal(often.places, torch.arange(300))


def few_patterns(samples, seed):
    """Three patterns of firing, whose predictions are wrong never, in a fifth and in half of the cases; no unit sees the rest."""
    random = torch.Generator().manual_seed(seed)
    level = torch.multinomial(torch.tensor([0.3, 0.4, 0.3]), samples, replacement=True, generator=random)
    labels = torch.randint(2, (samples,), generator=random)
    wrong = torch.rand(samples, generator=random) < torch.tensor([0.0, 0.2, 0.5])[level]
    outputs = nn.functional.one_hot(torch.where(wrong, 1 - labels, labels), 2)
    unseen = -torch.rand(samples, 2, generator=random)
    return [(torch.cat([outputs, nn.functional.one_hot(level, 3)[:, :2], unseen], 1), labels)]


def test_a_risk_is_kept_where_scores_are_equal():
    """A coverage that lies within equal scores is vouched for, all of them together are not."""
    net, train = Telltale(6), few_patterns(4000, 0)
    stats = cofire.record(net, train, progress=False)
    unseen, labels = few_patterns(20_000, 1)[0]
    risks, given_at = [], []
    for seed in range(4):
        found = cofire.trust(net, train, stats, validation=few_patterns(3000, 2 + seed))
        for risk in (0.04, 0.06, 0.08, 0.1):
            with suppress(InputError):  # that it cannot be had is an answer too
                predicted = found.predict(unseen, risk=risk)
                given = predicted >= 0
                risks.append(float((predicted != labels)[given].double().mean()) - risk)
                given_at.append(float(given.double().mean()))
    assert max(risks) <= 0
    assert len(risks) >= 8
    assert max(given_at) > 0.25


def test_a_risk_cannot_be_had_where_too_many_share_the_largest_score(found):
    tied = replace(found, final=torch.zeros(len(found.final)))
    with pytest.raises(InputError, match=r"cannot be had; 360 of 360 validation samples share the largest score"):
        tied.threshold(risk=0.15)


def test_a_prediction_beside_which_all_is_ruled_out_is_trusted():
    net, train, held = Telltale(10), telltale(2000, 0), telltale(1500, 1)
    stats = cofire.record(net, train, progress=False)
    found = cofire.trust(net, train, stats, validation=held)
    assert found.answer == HEAD
    unseen = telltale(100, 2)[0][0]
    net.head.register_forward_hook(lambda *given: given[2].masked_fill(given[2] < given[2].amax(1, keepdim=True), -torch.inf))
    assert bool((found.score(unseen) == torch.inf).all())
    assert bool((found.predict(unseen) >= 0).all())


def test_fewer_predictions_are_wrong_less_often(found, digits):
    errors = []
    for coverage in (1.0, 0.8, 0.5):
        predicted = found.predict(digits[1].batches(), coverage)
        given = predicted >= 0
        errors.append(float((predicted != digits[1].labels)[given].double().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0] / 2


def test_a_risk_is_kept_on_new_samples():
    net, train, held = Telltale(10), telltale(2000, 0), telltale(1500, 1)
    stats = cofire.record(net, train, progress=False)
    found = cofire.trust(net, train, stats, validation=held)
    unseen, labels = telltale(3000, 3)[0]
    predicted = found.predict((unseen, labels), risk=0.05)
    given = predicted >= 0
    assert 0.5 < float(given.double().mean()) < 0.95
    assert float((predicted != labels)[given].double().mean()) < 0.05


def test_the_table_and_the_curve(found):
    table = found.frame()
    assert list(table["score"]) == [*rivals.OUTPUTS, "familiarity", "posterior", CONTROL, HEAD]
    assert table.loc[0, ["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    assert bool(((table["low"] <= table["auroc"]) & (table["auroc"] <= table["high"])).all())
    curve = found.risk_coverage()
    assert curve["risk"].iloc[-1] == curve["msp"].iloc[-1] == pytest.approx(float(found.wrong.double().mean()))
    assert bool((curve["perfect"] <= curve["msp"] + 1e-12).all())


def test_the_model_is_left_as_it_was(net, stats, digits):
    before = cofire.zoo.digest(net)
    net.train()
    try:
        found = cofire.trust(net, digits[0].batches(), stats, validation=digits[1].batches())
        found.predict(digits[1].batches())
        assert net.training
    finally:
        net.eval()
    assert cofire.zoo.digest(net) == before


def test_saved_and_loaded_it_is_the_same(found, net, stats, digits, tmp_path):
    found.save(tmp_path / "trust.safetensors")
    again = cofire.load_trust(net, tmp_path / "trust.safetensors", stats)
    assert torch.equal(again.score(digits[1].batches()), found.score(digits[1].batches()))
    assert again.threshold(0.9) == found.threshold(0.9)
    assert str(again) == str(found)
    pd.testing.assert_frame_equal(again.frame(), found.frame())


def test_saved_in_one_process_and_loaded_in_another(found, net, stats, digits, tmp_path):
    from cofire.weights import save_weights

    found.save(tmp_path / "trust.safetensors")
    stats.save(tmp_path / "stats.safetensors")
    save_weights(net, tmp_path / "w.safetensors")
    code = (
        "import cofire; net = cofire.zoo.model('fcnn:64-48-32-10', weights='w.safetensors');"
        "found = cofire.load_trust(net, 'trust.safetensors', cofire.load('stats.safetensors'));"
        "print(found.answer, found.predict(cofire.data.load('digits', 'test').batches(), 0.8).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{found.answer} {found.predict(digits[1].batches(), 0.8).tolist()}"


# ---------------------------------------------------------------- degenerate


def test_a_model_that_is_never_wrong_is_trusted_by_its_softmax(tmp_path):
    net, train, held = Telltale(10), telltale(500, 0, wrong=0), telltale(300, 1, wrong=0)
    stats = cofire.record(net, train, progress=False)
    found = cofire.trust(net, train, stats, validation=held)
    assert found.answer == "msp"
    assert str(found) == (
        "Of 300 validation predictions 0 are wrong (0.0%). Trust is the maximum softmax probability (MSP): none is wrong, so "
        "nothing else could be fitted or judged."
    )
    assert found.frame()["auroc"].isna().all()
    assert HEAD not in found.scores
    assert int((found.predict(held, 0.9) >= 0).sum()) >= 270
    found.save(tmp_path / "t.safetensors")
    again = cofire.load_trust(net, tmp_path / "t.safetensors", stats)
    assert again.head is None
    assert str(again) == str(found)


def test_too_few_wrong_predictions_fit_no_head():
    net, train, held = Telltale(10), telltale(500, 0), telltale(300, 1, wrong=0.03)
    stats = cofire.record(net, train, progress=False)
    found = cofire.trust(net, train, stats, validation=held)
    assert 0 < int(found.wrong.sum()) < 20
    assert "(MSP): too few are wrong, so" in str(found)


def test_a_class_that_is_never_predicted_rightly_is_measured_by_all():
    net, train, held = Telltale(10), telltale(500, 0), telltale(400, 1)
    with torch.no_grad():
        net.head.weight[1] = -1.0  # class 1 is never predicted
    stats = cofire.record(net, train, progress=False)
    found = cofire.trust(net, train, stats, validation=held)
    assert torch.equal(found.doubts.mean[:, 1], found.doubts.mean[:, 0])
    assert bool(found.score(held).isfinite().all())


# ---------------------------------------------------------------- errors


def test_statistics_of_another_model_are_refused(stats, digits):
    other = cofire.zoo.model("fcnn:64-48-32-10", seed=1)
    for use in (
        lambda: cofire.familiarity(stats, other, next(iter(digits[1].batches()))),
        lambda: cofire.trust(other, digits[0].batches(), stats, validation=digits[1].batches()),
    ):
        with pytest.raises(InputError, match="statistics must be of this model; they are of weights with digest"):
            use()


@pytest.mark.filterwarnings("ignore:no sample of class")
def test_classes_without_samples_are_refused(net, digits):
    some = digits[0].subset((digits[0].labels != 3).nonzero()[:, 0])
    stats = cofire.record(net, some.batches(), progress=False)
    with pytest.raises(InputError, match="statistics must hold samples of every class; there are none of '3' in layer 'relu1'"):
        cofire.familiarity(stats, net, next(iter(digits[1].batches())))
    with pytest.raises(InputError, match="there are none of '3'"):
        cofire.trust(net, digits[0].batches(), stats, validation=digits[1].batches())


def test_validation_data_is_needed_and_must_be_unseen(net, stats, digits):
    with pytest.raises(InputError, match="trust needs labelled data that the model was not trained on; found no validation="):
        cofire.trust(net, digits[0].batches(), stats)
    mixed = [*digits[1].batches(), *digits[0].subset(range(5)).batches()]
    with pytest.warns(CofireWarning, match="5 of 365 validation samples are also in the training data"):
        cofire.trust(net, digits[0].batches(), stats, validation=mixed)


@pytest.mark.parametrize("coverage", [0, 0.0, -0.1, 1.01, float("nan"), True, "0.9"])
def test_a_coverage_is_a_share(found, digits, coverage):
    with pytest.raises(InputError, match="coverage must be above 0 and at most 1"):
        found.predict(digits[1].batches(), coverage)


def test_class_scores_that_say_nothing_are_refused(net, stats, digits):
    inputs, labels = next(iter(digits[1].batches(360)))
    inputs[2] = torch.nan
    said = "class scores must be finite, or minus infinity for some of the classes; they are not for 1 samples of batch 0"
    with pytest.raises(InputError, match=said):
        cofire.trust(net, digits[0].batches(), stats, validation=[(inputs, labels)])
    only = Telltale(10)
    train, held = telltale(500, 0), telltale(300, 1)
    only.head.register_forward_hook(lambda *given: given[2].masked_fill(given[2] < given[2].amax(1, keepdim=True), -torch.inf))
    theirs = cofire.record(only, train, progress=False)
    with pytest.raises(InputError, match="two largest class scores must be finite; they are not for 300 of 300 validation"):
        cofire.trust(only, train, theirs, validation=held)


def test_validation_samples_that_lack_a_class_are_said(net, stats, digits):
    """The first ones of a sorted file; a class that chance may leave out of a few samples is no matter."""
    held = digits[1].subset(digits[1].labels.sort(stable=True).indices[:150])
    words = "no validation sample is of 5, 6, 7, 8, 9, though a random choice would have some"
    with pytest.warns(CofireWarning, match=words):
        cofire.trust(net, digits[0].batches(), stats, validation=held.batches())
    few = digits[1].subset(range(12))
    assert len(few.labels.unique()) < 10
    cofire.trust(net, digits[0].batches(), stats, validation=few.batches())


def test_a_risk_that_cannot_be_had(found):
    with pytest.raises(
        InputError, match=r"a risk of 0\.01% cannot be had; the least that 360 validation samples can vouch for is"
    ):
        found.threshold(risk=0.0001)
    for risk in (0, 1, -0.5, True, "low"):
        with pytest.raises(InputError, match="risk must lie between 0 and 1"):
            found.threshold(risk=risk)


def test_wrong_arguments_are_named(net, stats, digits):
    inputs, _ = next(iter(digits[1].batches()))
    with pytest.raises(InputError, match='at must be "threshold" or "mean"; found \'zero\''):
        cofire.familiarity(stats, net, inputs, at="zero")
    with pytest.raises(LayerError, match="no layer named 'fc9' in these statistics"):
        cofire.familiarity(stats, net, inputs, layers="fc9")
    with pytest.raises(InputError, match="a batch must be inputs"):
        cofire.familiarity(stats, net, 3)
    with pytest.raises(InputError, match="there must be at least one sample; the batches are empty"):
        cofire.familiarity(stats, net, iter([]))
    with pytest.raises(InputError, match="sample must be one of the 256, from 0 on; found 256"):
        cofire.familiarity(stats, net, inputs).explain(256)
    with pytest.raises(InputError, match=r"stats must be firing statistics; found FCNN\. cofire\.record makes them\."):
        cofire.familiarity(net, stats, inputs)
    with pytest.raises(InputError, match=r"layers must be names of layers; found 2\."):
        cofire.familiarity(stats, net, inputs, layers=2)
    with pytest.raises(LayerError, match=r"layers must name at least one layer; found none\."):
        cofire.familiarity(stats, net, inputs, layers=[])
    bare = cofire.record(net, digits[0].batches(), by_class=False, progress=False)
    with pytest.raises(InputError, match="at=\"mean\" needs histograms by class of layer 'relu1'"):
        cofire.familiarity(bare, net, inputs, at="mean")
    with pytest.raises(InputError, match="k must lie between 1 and the 5 features of the bank; found 10"):
        rivals.nearest(torch.zeros(5, 2))
    with pytest.raises(InputError, match=r"logits must be .* at least two classes"):
        rivals.output_scores(torch.zeros(3, 1))


def test_files_belong_to_a_model_and_its_statistics(found, net, stats, digits, tmp_path):
    found.save(tmp_path / "trust.safetensors")
    other = cofire.zoo.model("fcnn:64-48-32-10", seed=1)
    theirs = cofire.record(other, digits[0].batches(), progress=False)
    with pytest.raises(InputError, match="trust must be that of this model; it is of weights with digest"):
        cofire.load_trust(other, tmp_path / "trust.safetensors", theirs)
    fewer = cofire.record(net, digits[0].subset(range(1000)).batches(), progress=False)
    with pytest.raises(InputError, match="trust must be loaded with the statistics that it was fitted with"):
        cofire.load_trust(net, tmp_path / "trust.safetensors", fewer)
    stats.save(tmp_path / "stats.safetensors")
    with pytest.raises(FileError, match=r"wanted a fitted trust; .* holds something else of cofire"):
        cofire.load_trust(net, tmp_path / "stats.safetensors", stats)
    with pytest.raises(FileError):
        cofire.load(tmp_path / "trust.safetensors")


# ---------------------------------------------------------------- the command line


def test_shares_above_the_mean_belong_to_their_statistics(net, stats, digits, tmp_path):
    """Statistics that differ in nothing but their histograms are others where shares are read off these."""
    found = cofire.trust(net, digits[0].batches(), stats, validation=digits[1].batches(), at="mean")
    found.save(tmp_path / "trust.safetensors")
    inputs, _ = next(iter(digits[1].batches(50)))
    assert torch.equal(cofire.load_trust(net, tmp_path / "trust.safetensors", stats).score(inputs), found.score(inputs))
    coarse = cofire.record(net, digits[0].batches(), bins=4, progress=False)
    with pytest.raises(InputError, match="trust must be loaded with the statistics that it was fitted with"):
        cofire.load_trust(net, tmp_path / "trust.safetensors", coarse)
    for wrong in ("stats.safetensors", None):
        with pytest.raises(InputError, match="stats must be firing statistics; found"):
            cofire.load_trust(net, tmp_path / "trust.safetensors", wrong)


def test_files_of_something_else_are_named(found, net, stats, tmp_path):
    found.save(tmp_path / "trust.safetensors")
    with pytest.raises(FileError, match=r"holds something else of cofire. cofire.load_trust\(model, path, stats\) reads it"):
        cofire.load(tmp_path / "trust.safetensors")
    with pytest.raises(FileError, match=r"wanted a fitted trust; found no file .* Make one with Trust.save\(path\)"):
        cofire.load_trust(net, tmp_path / "none.safetensors", stats)


def test_the_command_line_says_shows_and_saves(net, stats, tmp_path, monkeypatch):
    from cofire.weights import save_weights

    monkeypatch.chdir(tmp_path)
    save_weights(net, "w.safetensors")
    stats.save("train.stats")
    words = ["trust", "fcnn:64-48-32-10", "--weights", "w.safetensors", "--stats", "train.stats", "--doubtful", "2"]
    done = CliRunner().invoke(app, [*words, "--out", "t.safetensors", "--table", "scores.json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert HEAD in done.output
    assert "The maximum softmax probability (MSP) ranks" in done.output
    assert done.output.count("is predicted") == 2
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert rows[0]["score"] == "msp"
    loaded = cofire.load_trust(net, "t.safetensors", cofire.load("train.stats"))
    assert loaded.frame()["auroc"].tolist() == pytest.approx([row["auroc"] for row in rows])


# ---------------------------------------------------------------- real data


@pytest.mark.data
@pytest.mark.slow
def test_clothing_is_not_familiar_to_a_net_of_digits(data_root):
    train = cofire.data.load("mnist", root=data_root, limit=6000)
    test, other = (cofire.data.load(name, "test", root=data_root, limit=1000) for name in ("mnist", "fashion-mnist"))
    net = cofire.zoo.model("fcnn:784-512-512-10", seed=0)
    cofire.fit(net, train, epochs=4, seed=0, progress=False)
    stats = cofire.record(net, train.batches(), progress=False)
    strange = torch.arange(2000) >= 1000
    areas = {}
    for name, reference in (("closed", None), ("measured", train.batches())):
        known, new = (cofire.familiarity(stats, net, data.batches(), reference=reference).score for data in (test, other))
        areas[name] = auroc(-torch.cat([known, new]), strange)
    assert areas["closed"] > 0.8
    assert areas["closed"] == pytest.approx(areas["measured"], abs=0.02)  # the closed form orders as the measured one
    seen = cofire.familiarity(stats, net, test.batches())
    right = seen.predicted == test.labels
    agreeing = seen.agrees.sum(1)
    assert float(right[agreeing == 2].double().mean()) > float(right[agreeing < 2].double().mean()) + 0.1
