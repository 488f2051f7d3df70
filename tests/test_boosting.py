import copy
import itertools
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn

import cofire
from cofire import stacking, storage
from cofire.batches import count_in
from cofire.boosted import Rereading
from cofire.boosting import _Fitting
from cofire.controls import keep
from cofire.correctors import Dual, Primal
from cofire.errors import CofireWarning, FileError, InputError, LayerError, ModelError
from cofire.gains import are_gains, words_of
from cofire.hidden import Columns, columns_of
from cofire.probes import proposed, residual_probes
from cofire.readings import Reader, Sight, form_of, scores_in
from cofire.residuals import Some, Sums, added, probabilities
from cofire.scoring import accuracy, calibration_error, lacking, log_loss, mcnemar
from cofire.stacking import Paths, Stack, cross_fitted, folds_of, stacked, together
from cofire.steps import Blocks, Whole


class Damaged(nn.Module):
    """A net whose hidden layers know the class and whose last layer has forgotten part of it."""

    def __init__(self, ending=None):
        super().__init__()
        self.fc1, self.relu, self.fc2, self.ending = nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3), ending

    def forward(self, x):
        out = self.fc2(self.relu(self.fc1(x)))
        return out if self.ending is None else self.ending(out)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(1, 6, 3), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.fc2(torch.nn.functional.gelu(self.fc1(x)))


class Shuffled(list):
    """Batches in another order each time."""

    times = 0

    def __iter__(self):
        self.times += 1
        return iter(self[self.times % 2 :] + self[: self.times % 2])


class Shortened(list):
    """Batches that become fewer."""

    times = 0

    def __iter__(self):
        self.times += 1
        return iter(self[: 3 if self.times < 3 else 2])


def problem(seed: int, samples: int = 900, ending=None, classes: int = 3):
    """A net, and data whose classes are those of a teacher."""
    lots = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = Damaged(ending)
    x = torch.randn(samples, 12, generator=lots)
    teacher = torch.randn(12, classes, generator=lots)
    y = (x @ teacher).relu().argmax(1)
    return net, x, y


def split(x, y, size: int = 100):
    pairs = list(zip(x.split(size), y.split(size), strict=True))
    third = len(pairs) // 3
    return pairs[:third], pairs[third : 2 * third], pairs[2 * third :]


def labels_of(batches):
    return torch.cat([y for _, y in batches])


def scores_over(model, batches):
    with torch.no_grad():
        return torch.cat([model(x) for x, _ in batches])


def corrector_of(sums, like=None):
    """By weights, or where samples are held as they are by coefficients of samples."""
    if sums.summed or not sums.few:
        return Primal(sums)
    return Dual(Some(*map(torch.cat, zip(*sums.few, strict=True))), like and like.gram)


def stepped(sums, ridge, start):
    """One step from weights whose scores the sums hold."""
    corrector = corrector_of(sums)
    return start + corrector(ridge, corrector.penalised(ridge, start, corrector.slope))


# ---------------------------------------------------------------- closed forms


def test_where_every_probability_is_right_there_is_nothing_to_correct():
    labels = torch.arange(4).repeat(5)
    sums = Sums(3, 4)
    sums.update(torch.randn(20, 3), torch.nn.functional.one_hot(labels, 4) * 1e4, labels)
    assert torch.equal(corrector_of(sums)(1e-3), torch.zeros(4, 4, dtype=torch.float64))


def test_without_features_the_correction_moves_to_the_class_shares():
    labels = torch.tensor([0] * 30 + [1] * 10)
    weights = torch.zeros(1, 2, dtype=torch.float64)
    for _ in range(30):  # Newton steps with a bound of the curvature
        sums = Sums(0, 2)
        sums.update(torch.zeros(40, 0), weights[-1].expand(40, 2), labels)
        weights = stepped(sums, 1.0, weights)
    assert weights[-1].softmax(0).tolist() == pytest.approx([0.75, 0.25], abs=1e-6)


def test_a_temperature_is_found_and_changes_no_prediction():
    lots = torch.Generator().manual_seed(0)
    true = torch.randn(20_000, 4, generator=lots) * 2
    labels = torch.multinomial(true.softmax(1), 1, generator=lots)[:, 0]
    stack = stacked(3 * true, labels)
    assert stack.own == pytest.approx(1 / 3, rel=0.05)
    assert stack.other == 0
    assert torch.equal(stack(3 * true).argmax(1), true.argmax(1))


def test_a_temperature_turns_no_scores_around():
    labels = torch.arange(3).repeat(50)
    worst = -5.0 * torch.nn.functional.one_hot(labels, 3)
    assert stacked(worst, labels).own > 0


def test_a_class_without_held_out_samples_keeps_its_place():
    lots = torch.Generator().manual_seed(3)
    own, labels = torch.randn(2000, 3, generator=lots), torch.randint(2, (2000,), generator=lots)
    stack = stacked(own, labels, [torch.randn(2000, 3, generator=lots)])
    assert stack.offset[2] < stack.offset[:2].min() - 2
    assert stack.offset.abs().max() < 10  # the likelihood alone would go to minus infinity


def test_the_papers_second_opinion():
    probability = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    fires = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    predicted = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    assert proposed(probability, fires, predicted, scaled=False).tolist() == [[0.5, 0.5], [0.0, pytest.approx(0.05)]]
    assert proposed(probability, fires, predicted).tolist() == [[0.5, 0.5], [0.0, pytest.approx(1.0)]]


# ---------------------------------------------------------------- laws


@given(st.integers(0, 10_000), st.sampled_from([5, 30, 58, 59, 60, 80]), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_sums_do_not_depend_on_batches(seed, features, parts):
    lots = torch.Generator().manual_seed(seed)
    x, z = torch.randn(60, features, generator=lots).double(), torch.randn(60, 3, generator=lots)
    y = torch.randint(3, (60,), generator=lots)
    whole = Sums(features, 3)
    whole.update(x, z, y)
    shards = []
    for part in torch.randperm(60, generator=lots).tensor_split(parts):
        shard = Sums(features, 3)
        shard.update(x[part], z[part], y[part])
        shards.append(shard)
    joined = sum(shards[1:], shards[0])
    assert joined.samples == 60
    before = [corrector_of(sums)(1e-2) for sums in (whole, joined)]
    assert torch.allclose(*before, rtol=0, atol=1e-12)
    assert torch.allclose(joined.curvature, whole.curvature, rtol=0, atol=1e-12)
    assert torch.allclose(joined.gradient, whole.gradient, rtol=0, atol=1e-12)


def test_folds_hold_every_sample_once_and_every_class_evenly_where_asked():
    labels = torch.arange(4).repeat_interleave(25)
    assert torch.bincount(folds_of(labels)).tolist() == [20] * 5
    place = folds_of(labels, even=True)
    table = torch.stack([torch.bincount(labels[place == fold], minlength=4) for fold in range(5)])
    assert table.tolist() == [[5] * 4] * 5


def test_a_fit_sees_nothing_of_its_own_fold():
    lots = torch.Generator().manual_seed(3)
    own, labels = torch.zeros(500, 2), torch.randint(2, (500,), generator=lots)
    cheat = torch.nn.functional.one_hot(labels, 2).float()
    place = folds_of(labels)
    wrong = torch.where((place == 0)[:, None], 1 - cheat, cheat)  # turned around in one fold only
    scores = cross_fitted(own, labels, [wrong])
    assert accuracy(scores[place == 0], labels[place == 0]) == 0.0
    assert accuracy(scores[place != 0], labels[place != 0]) == 1.0


@pytest.mark.parametrize("case", range(30))
def test_where_there_is_nothing_to_gain_the_model_comes_back(case):
    """Labels drawn from the model's own probabilities: no head can do better than the model."""
    torch.manual_seed(case)
    net, x = Damaged(), torch.randn(1500, 12)
    with torch.no_grad():
        net.fc2.weight *= 1 + case % 5  # from unsure to sure
        y = torch.multinomial(net(x).softmax(1), 1)[:, 0]
    fit, held, test = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    base, now, labels = scores_over(net, test), scores_over(better, test), labels_of(test)
    right = [scores.argmax(1) == labels for scores in (now, base)]
    assert accuracy(now, labels) >= accuracy(base, labels) or mcnemar(*right) > 0.05
    assert log_loss(now, labels) <= log_loss(base, labels) + 0.01
    assert not better.gained


@pytest.mark.parametrize("seed", [1, 2])
def test_offsets_of_many_classes_are_no_gain(seed):
    """As above, with offsets that fit the held-out samples: no step may carry them into what those samples judge."""
    lots = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 100))
    x = torch.randn(5000, 12, generator=lots)
    with torch.no_grad():
        net[2].weight *= 6
        y = torch.multinomial(net(x).softmax(1), 1, generator=lots)[:, 0]
    y[:100] = torch.arange(100)  # each class at least once
    fit, held = [(x[:4000], y[:4000])], [(x[4000:], y[4000:])]
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert not better.gained
    assert better.summary().loss_gain_low.max() <= 0


@pytest.mark.parametrize("case", range(10))
def test_a_model_that_is_rightly_sure_is_not_made_surer(case):
    """As above, with probabilities so near to 1 that 50 held-out samples often show no error: one that they do not show counts."""
    torch.manual_seed(case)
    net, x = Damaged(), torch.randn(3400, 12)
    with torch.no_grad():
        net.fc2.weight *= 40 * 2 ** (case % 3)
        y = torch.multinomial(net(x).softmax(1), 1)[:, 0]
    fit, held, test = ([(x[part], y[part])] for part in (slice(300), slice(300, 350), slice(350, None)))
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert log_loss(scores_over(better, test), labels_of(test)) <= log_loss(scores_over(net, test), labels_of(test)) + 1e-6


@pytest.mark.parametrize(("samples", "gain"), [(100, False), (400, True)])
def test_scores_without_an_error_are_judged_with_three_unseen_ones(samples, gain):
    """Twice as sure: 0.0461 nats less on each sample, and 3 more on each of the three."""
    labels = torch.arange(samples) % 2
    base = 3.0 * torch.nn.functional.one_hot(labels, 2)
    assert (samples * 0.0461 > 3 * 3) == gain
    assert are_gains([(base, 2 * base)], labels) == [gain]


def test_a_few_held_out_samples_confirm_nothing():
    """Five that all gain are as easily luck: an interval over so few leaves out 0 too often."""
    labels = torch.tensor([0, 1] * 25)
    base, surer = torch.zeros(50, 2), 3.0 * torch.nn.functional.one_hot(labels, 2)
    assert are_gains([(base, surer)], labels) == [True]
    assert are_gains([(base[:49], surer[:49])], labels[:49]) == [False]
    net, x, y = problem(0)
    batches = [(x[:600], y[:600])]
    stats = cofire.record(net, batches, progress=False)
    better = cofire.boost(net, batches, stats, validation=[(x[600:605], y[600:605])], controls=False, progress=False)
    assert better.record["decision"] == "model"
    assert better.words[-1] == "Fewer than 50 different held-out samples confirm nothing."


def test_held_out_samples_count_once_however_often_they_come():
    """Each would be judged by fits to its own copies, and intervals would be of more samples than there are."""
    net, x, y = problem(3)
    batches, held, test = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    once = cofire.boost(net, batches, stats, validation=held, test=test, progress=False)
    with pytest.warns(CofireWarning, match="samples of validation are there already: each counts once"):
        more = cofire.boost(net, batches, stats, validation=[*held, *held[::-1]], test=test, progress=False)
    assert more.record == once.record
    assert torch.equal(more(test[0][0]), once(test[0][0]))


def test_the_same_held_out_samples_again_and_again_confirm_nothing():
    net, x, y = problem(0)
    batches, few = [(x[:600], y[:600])], torch.arange(600, 610).repeat(10)
    stats = cofire.record(net, batches, progress=False)
    with pytest.warns(CofireWarning, match="90 samples of validation are there already: each counts once"):
        better = cofire.boost(net, batches, stats, validation=[(x[few], y[few])], controls=False, progress=False)
    assert better.record["decision"] == "model"
    assert "Fewer than 50 different held-out samples confirm nothing." in better.words


# ---------------------------------------------------------------- reference


def direct(x, z, y, ridge, classes):
    """The sums in plain NumPy-like float64, sample by sample, and one dense solve."""
    size = x.shape[1] + 1
    curvature, gradient = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, classes, dtype=torch.float64)
    for row, scores, label in zip(x.double(), z.double(), y.tolist(), strict=True):
        full, p = torch.cat([row, torch.ones(1, dtype=torch.float64)]), scores.softmax(0)
        curvature += (0.9 * (1 - (p**2).sum()) + 0.1 * (1 - 1 / classes)) * torch.outer(full, full)
        gradient += torch.outer(full, torch.eye(classes, dtype=torch.float64)[label] - p)
    penalty = torch.diag(torch.tensor([ridge] * (size - 1) + [0.0], dtype=torch.float64))
    return torch.linalg.solve(curvature / len(x) + penalty, gradient / len(x))


@pytest.mark.parametrize("samples", [5, 60, 70, 71, 72, 300])
@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
def test_corrections_are_those_of_a_direct_solve(samples, ridge):
    """With fewer samples than features too, of which no curvature is summed."""
    lots = torch.Generator().manual_seed(1)
    x, z = torch.randn(samples, 70, generator=lots).double(), torch.randn(samples, 4, generator=lots)
    y = torch.randint(4, (samples,), generator=lots)
    sums = Sums(70, 4)
    for part in zip(x.split(64), z.split(64), y.split(64), strict=True):
        sums.update(*part)
    assert sums.summed == (samples >= 71)
    found = corrector_of(sums)(ridge)
    assert torch.allclose(found, direct(x, z, y, ridge, 4), rtol=1e-5, atol=1e-6)
    start = torch.randn(71, 4, generator=lots).double()
    summed = sums.curvature  # from here on it is
    again = stepped(sums, ridge, start)
    penalised = torch.diag(torch.tensor([ridge] * 70 + [0.0], dtype=torch.float64))
    left = (summed / samples + penalised) @ (again - start) - (sums.gradient / samples - penalised @ start)
    assert left.abs().max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("samples", [40, 300])
def test_several_ridges_do_not_touch_each_other(samples, dtype):
    lots = torch.Generator().manual_seed(3)
    x, y = torch.randn(samples, 70, generator=lots).to(dtype), torch.randint(4, (samples,), generator=lots)
    sums = Sums(70, 4)
    sums.update(x, torch.randn(samples, 4, generator=lots), y)
    corrector = corrector_of(sums)
    for slope in (None, torch.randn_like(corrector.slope)):
        for ridge in (1e-3, 1e-1, 10.0):
            assert torch.equal(corrector(ridge, slope), corrector_of(sums)(ridge, slope))


@pytest.mark.parametrize("samples", [40, 300])
def test_other_weights_of_the_same_samples_need_no_new_products(samples):
    lots = torch.Generator().manual_seed(4)
    x, y = torch.randn(samples, 70, generator=lots), torch.randint(4, (samples,), generator=lots)
    old, new = Sums(70, 4), Sums(70, 4)
    old.update(x, torch.randn(samples, 4, generator=lots), y)
    new.update(x, 5 * torch.randn(samples, 4, generator=lots), y)
    corrector = corrector_of(old)
    corrector(1e-2)
    corrector.forget()
    wanted = corrector_of(new)(1e-2)
    others, found = corrector_of(old)(1e-2), corrector_of(new, corrector)(1e-2)
    assert torch.equal(found, wanted)
    assert float((others - wanted).norm() / wanted.norm()) > 0.1


@pytest.mark.parametrize("samples", [40, 300])
def test_a_slope_at_other_scores_is_that_of_sums_there(samples):
    """With the curvature as it is."""
    lots = torch.Generator().manual_seed(6)
    x, y = torch.randn(samples, 70, generator=lots), torch.randint(4, (samples,), generator=lots)
    z, there = torch.randn(2, samples, 4, generator=lots)
    sums, others = Sums(70, 4), Sums(70, 4)
    sums.update(x, z, y)
    others.update(x, there, y)
    corrector = corrector_of(sums)
    parts = [(x[some], there[some].double().softmax(1), y[some]) for some in (slice(0, 30), slice(30, None))]
    slope = corrector.slope_at(parts)
    penalised = torch.diag(torch.tensor([0.1] * 70 + [0.0], dtype=torch.float64))
    found, curvature = corrector(0.1, slope), sums.curvature / samples
    assert torch.allclose((curvature + penalised) @ found, others.gradient / samples, rtol=0, atol=1e-5)


def hard(samples=200, features=900, centre=0.0, most=0):
    """Correlated features, and random labels, which scores must go far to meet."""
    lots = torch.Generator().manual_seed(7)
    strength = torch.logspace(most, -3, 300)[:, None]
    x = centre + (torch.randn(samples, 300, generator=lots) * strength.T) @ torch.randn(300, features, generator=lots)
    return x, torch.randn(samples, 5, generator=lots), torch.randint(5, (samples,), generator=lots)


def left_of(found, x, z, y, ridge):
    """What a correction leaves of the slope that it is for, as a share."""
    samples, classes = z.shape
    p = z.double().softmax(1)
    weight = 0.9 * (1 - p.square().sum(1)) + 0.1 * (1 - 1 / classes)
    full = torch.cat([x.double(), torch.ones(samples, 1, dtype=torch.float64)], 1)
    slope = full.T @ (torch.nn.functional.one_hot(y, classes).double() - p) / samples
    penalised = torch.cat([ridge * found[:-1], torch.zeros(1, classes, dtype=torch.float64)])
    left = full.T @ (weight[:, None] * (full @ found)) / samples + penalised - slope
    return float(left.norm() / slope.norm())


@pytest.mark.parametrize("ridge", [4e-4, 4e-2, 4.0])
def test_fewer_samples_than_features_are_solved_for_as_exactly_as_rounding_allows(ridge):
    """Correlated float32 features, and weak ridges."""
    x, z, y = hard(most=2)
    x /= 17
    sums = Sums(900, 5)
    sums.update(x, z, y)
    assert left_of(corrector_of(sums)(ridge), x, z, y, ridge) < 1e-4


@pytest.mark.parametrize("off", [0.0, 1e-2])
def test_steps_end_where_the_slope_is_zero_however_products_are_rounded(off):
    """At the minimum of the ridge-penalised log-loss, with products as they come, and with worse ones."""
    ridge, (x, z, y) = 10.0, hard(1200)
    sums = Sums(900, 5)
    sums.update(x, z, y)
    exact = corrector_of(sums)(ridge)
    size = sums.curvature.diagonal().sqrt()
    noise = torch.randn(901, 901, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sums.curvature.add_(off * (noise + noise.T) * size * size[:, None] / 900**0.5)
    corrector = corrector_of(sums)
    now, slopes = torch.zeros_like(exact), []
    assert (float((corrector(ridge) - exact).norm() / exact.norm()) > 0.01) == (off > 0)
    for _ in range(80):
        slope = corrector.slope_at([(x.double(), probabilities(z + added(x.double(), now[None])[0]), y)])
        slopes.append(float((left := corrector.penalised(ridge, now, slope)).norm()))
        now = now + corrector(ridge, left)
    assert slopes[-1] < 1e-4 * slopes[0]


@pytest.mark.parametrize("centre", [0.0, 10.0])
def test_products_of_all_pairs_are_off_by_less_than_is_added_to_their_diagonal(centre):
    x, z, y = hard(400, 2000, centre=centre)
    sums = Sums(2000, 5)
    sums.update(x, z, y)
    corrector = corrector_of(sums)
    rows = corrector.rows.double()
    same = corrector.rows.square().sum(1).mean() / len(rows)
    exact = corrector.root * (rows @ rows.T + same) * corrector.root.T
    root = exact.diagonal().rsqrt()
    off = (corrector.matrix(0.0, torch.float32).double() - exact) * root * root[:, None]
    assert float(torch.linalg.eigvalsh(off)[0]) > 0
    assert float(off.diagonal().max()) < 2e-4


def alike(samples, features, strong):
    """Rows that share a component so much stronger than the rest, each feature of variance 1."""
    lots = torch.Generator().manual_seed(11)
    x = torch.randn(samples, features, generator=lots) / strong
    x += torch.randn(samples, 1, generator=lots) * (1 + 0.3 * torch.rand(features, generator=lots))
    return x, torch.randn(samples, 3, generator=lots), torch.randint(3, (samples,), generator=lots)


@pytest.mark.parametrize(("strong", "ridge", "kept"), [(1, None, True), (1000, 4e-5, False)])
@pytest.mark.parametrize(("samples", "features"), [(300, 900), (2000, 300)])
def test_where_rounding_hides_what_rows_do_not_share_factors_are_float64(samples, features, strong, ridge, kept):
    """With float32 factors repeated steps would run away there; with these the loss falls, and what is penalised of it."""
    x, z, y = alike(samples, features, strong)
    sums, losses = Sums(features, 3), []
    sums.update(x, z, y)
    corrector, now = corrector_of(sums), torch.zeros(features + 1, 3, dtype=torch.float64)
    ridge = ridge or (4e-5 if sums.summed else 0.4)  # products of samples must be exact enough for the ridge too
    penalty = ridge * sums.summed  # corrections by samples are not drawn back
    for _ in range(20):
        scores = z.double() + x.double() @ now[:-1] + now[-1]
        losses.append(log_loss(scores, y) + penalty / 2 * float(now[:-1].square().sum()))
        slope = corrector.slope_at([(x, probabilities(scores), y)])
        now = now + corrector(ridge, corrector.penalised(ridge, now, slope) if sums.summed else slope)
    assert (corrector._factors[ridge].dtype == torch.float32) == kept
    assert max(later - before for before, later in itertools.pairwise(losses)) < 1e-4
    assert losses[-1] < losses[0] - 0.001


def test_steps_by_samples_are_steps_by_weights():
    x, z, y = (part.double() if part.is_floating_point() else part for part in hard(60, 90, centre=1.0))
    now, last = torch.zeros(91, 5, dtype=torch.float64), None
    for _ in range(3):
        few, many = Sums(90, 5), Sums(90, 5)
        for sums in (few, many):
            sums.update(x, z + added(x, now[None])[0], y)
        assert many.curvature.any()  # from here on it is summed
        by_samples, by_weights = last, _ = corrector_of(few, last), corrector_of(many)
        assert not few.summed
        found = by_samples(0.1)
        assert torch.allclose(found, by_weights(0.1), rtol=0, atol=1e-9)
        now = now + found


@pytest.mark.parametrize(("features", "most"), [(30, 30), (2048, 2048), (2049, 4099)])
def test_so_many_samples_are_held_as_they_are(features, most):
    sums = Sums(features, 2)
    for samples, summed in ((most - 2, False), (2, False), (1, True), (1, True)):
        sums.update(torch.randn(samples, features), torch.randn(samples, 2), torch.arange(samples) % 2)
        assert sums.summed == summed
    assert sums.samples == most + 2


def test_sums_are_of_the_most_exact_type():
    x, z, y = torch.randn(20, 3), torch.randn(20, 2), torch.arange(20) % 2
    sums = []
    for types in ((torch.float32,), (torch.float64,), (torch.float64, torch.float32)):
        sums.append(Sums(3, 2))
        for dtype in types:
            sums[-1].update(x.to(dtype), z, y)
    types = [each.dtype for each in (*sums, sums[0] + sums[1], sums[1] + sums[0], sums[0] + sums[0])]
    assert types == [torch.float32, *[torch.float64] * 4, torch.float32]
    for each, dtype in zip(sums, (torch.float32, torch.float64, torch.float64), strict=True):
        corrector = corrector_of(each)
        assert corrector(4.0).isfinite().all()
        assert corrector._factors[4.0].dtype == dtype


def test_what_random_labels_give_is_not_what_true_ones_give():
    net, x, y = problem(3)
    batches, held, test = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    table = cofire.boost(net, batches, stats, validation=held, test=test, progress=False).summary()
    table = table[table.split == "test"].set_index("method").accuracy
    assert table["boosted"] - table["model"] > 0.03 > table["random labels"] - table["model"]


@pytest.mark.parametrize("samples", [40, 300])
def test_scores_that_are_not_finite_are_refused(samples):
    sums, z = Sums(50, 4), torch.randn(samples, 4)
    z[3, 1] = torch.nan
    sums.update(torch.randn(samples, 50), z, torch.randint(4, (samples,)))
    with pytest.raises(InputError, match="features must be finite"):
        corrector_of(sums)


@pytest.mark.parametrize("samples", [60, 400])
def test_a_fit_is_as_exact_under_autocast(samples):
    lots = torch.Generator().manual_seed(9)
    x, z = 5 + torch.randn(samples, 200, generator=lots), torch.randn(samples, 3, generator=lots)
    y = torch.randint(3, (samples,), generator=lots)

    def fitted():
        sums = Sums(200, 3)
        sums.update(x, z, y)
        corrector = corrector_of(sums)
        first = corrector(4e3)
        parts = [(x, (z + added(x, first[None])[0]).double().softmax(1), y)]
        return first + corrector(4e3, corrector.slope_at(parts))

    wanted = fitted()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fitted(), wanted)


def test_ten_thousand_features_of_few_samples():
    lots = torch.Generator().manual_seed(5)
    x, z = torch.randn(200, 10_000, generator=lots), torch.randn(200, 1000, generator=lots)
    y = torch.randint(1000, (200,), generator=lots)
    sums = Sums(10_000, 1000)
    sums.update(x, z, y)
    assert left_of(corrector_of(sums)(1e-3), x, z, y, 1e-3) < 1e-5


@pytest.mark.parametrize(("samples", "classes"), [(300, 4), (1500, 4), (1200, 30)])
def test_a_stack_is_that_of_a_general_optimiser(samples, classes):
    lots = torch.Generator().manual_seed(classes)
    labels = torch.randint(classes, (samples,), generator=lots)
    right = torch.nn.functional.one_hot(labels, classes)
    own, other = (3 * (right + torch.randn(samples, classes, generator=lots)).double() for _ in range(2))
    offsets = samples >= 1000

    def loss(values):
        logs = (values[0] * own + values[1] * other + torch.as_tensor(values[2:] if offsets else 0.0)).log_softmax(1)
        prior = values[2:] @ values[2:] / samples if offsets else 0.0
        return float(-logs[torch.arange(samples), labels].mean()) + prior / 2 + 1e-6 * values[:2] @ values[:2]

    found = minimize(loss, [1.0, 0.0, *[0.0] * classes * offsets], method="BFGS", options={"gtol": 1e-7}).x
    stack = stacked(own, labels, [other])
    assert (stack.own, stack.other) == pytest.approx(found[:2], abs=1e-4)
    assert stack.offset.tolist() == pytest.approx(found[2:] if offsets else [0.0] * classes, abs=1e-3)


def test_what_does_not_fit_into_memory_is_read_again_and_gives_the_same(monkeypatch):
    net, x, y = problem(8)
    batches, held, test = split(x, y)
    stats = cofire.record(net, batches, progress=False)

    class Counted(list):
        times = 0

        def __iter__(self):
            self.times += 1
            return super().__iter__()

    found, times = [], []
    for room in (2**20, 2**12):
        monkeypatch.setattr("cofire.keeping._ROOM", room)
        fitted = Counted(batches)
        found.append(cofire.boost(net, fitted, stats, validation=held, controls=False, progress=False))
        times.append(fitted.times)
    assert times[0] == 2  # once to see that it is no iterator
    assert times[1] > 3
    assert found[0].gained
    assert torch.equal(scores_over(found[0], test), scores_over(found[1], test))


def test_a_fit_reads_its_samples_once_where_they_are_held_and_in_any_order_where_they_are_summed(monkeypatch):
    net, x, y = problem(8)
    batches, held, _ = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    few = Shuffled((x[part : part + 5], y[part : part + 5]) for part in (0, 5, 10))
    monkeypatch.setattr("cofire.keeping._ROOM", 0)
    before = few.times
    cofire.boost(net, few, stats, validation=held, controls=False, progress=False)
    assert few.times - before == 2  # once to see that it is no iterator
    enough = Shuffled(batches)
    cofire.boost(net, enough, stats, validation=held, controls=False, progress=False)
    assert enough.times > 3


def test_held_out_samples_that_move_are_named():
    """Their controls read them again: what was chosen in one order must not be judged in another."""
    net, x, y = problem(8)
    batches, held, _ = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    pairs = torch.utils.data.TensorDataset(*map(torch.cat, zip(*held, strict=True)))
    for moving in (torch.utils.data.DataLoader(pairs, 100, shuffle=True), Shortened(held)):
        with pytest.raises(InputError, match="validation must hold the same samples in the same order whenever they are read"):
            cofire.boost(net, batches, stats, validation=moving, progress=False)


def test_a_correction_starts_from_what_the_model_knows():
    """From nearly none of its scores where they say nothing, from nearly all of them where they say all."""
    net, x, y = problem(11, 3000)
    batches, held, _ = split(x, y)
    nothing, all_ = copy.deepcopy(net), copy.deepcopy(net)
    nothing.fc2.requires_grad_(False).weight.zero_()
    nothing.fc2.bias.zero_()
    cofire.fit(all_, batches, epochs=60, lr=0.01, progress=False)
    shares = []
    for model in (nothing, net, all_):
        stats = cofire.record(model, batches, progress=False)
        with Reader(model, stats) as reader:
            descent = _Fitting(reader, batches, held, 2048, 0, False).descent
            descent.sum()
        shares.append(descent.start / stacked(descent.own, descent.labels).own)
    assert shares[0] == pytest.approx(1e-3)
    assert 1e-3 <= shares[1] < 0.6
    assert shares[2] == 1


def test_few_samples_are_hashed_into_more_columns():
    _, x, y = problem(0, 4200)
    wide = nn.Sequential(nn.Linear(12, 2100), nn.ReLU(), nn.Linear(2100, 3))
    stats = cofire.record(wide, [(x, y)], progress=False)
    pairs = torch.utils.data.TensorDataset(x, y)
    few = torch.utils.data.Subset(pairs, range(4199))
    for batches, words in (
        ([(x[:4000], y[:4000]), (x[4000:-1], y[4000:-1])], 0), (torch.utils.data.DataLoader(few, 500), 0),
        ([(x[:4000], y[:4000]), (x[4000:], y[4000:])], 1), (torch.utils.data.DataLoader(pairs, 500), 1),
    ):  # fmt: skip
        better = cofire.boost(wide, batches, stats, validation=[(-x, y)], controls=False, progress=False)
        assert better.words.count("Its 2,100 hidden units are hashed into 2,048 numbers.") == words


def test_raw_and_centred_features_give_one_correction():
    """Units far from zero: float32 rows are centred first; in float64 the raw sums give the same scores."""
    lots = torch.Generator().manual_seed(2)
    raw = torch.rand(400, 6, generator=lots).double() + 100
    z, y = torch.randn(400, 3, generator=lots), torch.randint(3, (400,), generator=lots)
    both = []
    for x in (raw, (raw - raw.mean(0)).float()):
        sums = Sums(6, 3)
        sums.update(x, z, y)
        weights = corrector_of(sums)(1e-3)
        both.append(x.double() @ weights[:-1] + weights[-1])
    assert torch.allclose(both[0], both[1], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_thousands_of_features_and_classes():
    lots = torch.Generator().manual_seed(0)
    x, z = torch.randn(4000, 3000, generator=lots), torch.randn(4000, 1000, generator=lots)
    y = torch.randint(1000, (4000,), generator=lots)
    sums = Sums(3000, 1000)
    for part in range(0, 4000, 1000):
        sums.update(x[part : part + 1000], z[part : part + 1000], y[part : part + 1000])
    assert sums.curvature.any()  # from here on it is summed
    found = corrector_of(sums)(1e-2)
    p = z.double().softmax(1)
    full = torch.cat([x.double(), torch.ones(4000, 1, dtype=torch.float64)], 1)
    weight = 0.9 * (1 - p.square().sum(1)) + 0.1 * (1 - 1 / 1000)
    curvature = (full * weight[:, None]).T @ full / 4000
    curvature[:-1, :-1] += 1e-2 * torch.eye(3000, dtype=torch.float64)
    wanted = torch.linalg.solve(curvature, full.T @ (torch.nn.functional.one_hot(y, 1000).double() - p) / 4000)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-5


def test_a_ridge_below_the_rounding_of_sums_is_left_out():
    lots = torch.Generator().manual_seed(0)
    x = torch.randn(400, 1, generator=lots) * torch.ones(300) * 30 + 1e-3 * torch.randn(400, 300, generator=lots)
    sums = Sums(300, 3)
    sums.update(x, torch.randn(400, 3, generator=lots), torch.randint(3, (400,), generator=lots))
    corrector = corrector_of(sums)
    assert corrector(1e-9) is None
    found = corrector(1e-1)
    assert found.isfinite().all()
    sums.curvature[0, 0] = torch.nan
    with pytest.raises(InputError, match="features must be finite"):
        corrector_of(sums)


def test_steps_fall_to_a_logistic_regression_and_never_rise():
    lots = torch.Generator().manual_seed(4)
    x = torch.randn(2000, 5, generator=lots)
    y = torch.multinomial((x @ torch.randn(5, 3, generator=lots)).softmax(1), 1, generator=lots)[:, 0]
    z, weights = torch.zeros(2000, 3), torch.zeros(6, 3, dtype=torch.float64)
    seen = []
    for _ in range(60):
        sums = Sums(5, 3)
        sums.update(x, z + (x.double() @ weights[:-1] + weights[-1]), y)
        weights = stepped(sums, 1e-3, weights)
        seen.append(log_loss(x.double() @ weights[:-1] + weights[-1], y) + 1e-3 / 2 * float(weights[:-1].square().sum()))
    regression = residual_probes(x.double(), z.double(), y, ridges=[1e-3])[0]
    assert all(later <= before + 1e-12 for before, later in itertools.pairwise(seen))
    assert torch.allclose(weights - weights.mean(1, keepdim=True), regression - regression.mean(1, keepdim=True), atol=1e-2)


def test_units_come_before_shares_of_firing_positions():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 6), nn.ReLU(), nn.Linear(6, 2))
    stats = cofire.record(net, [(torch.randn(40, 1, 6, 6), torch.arange(40) % 2)], progress=False)
    read = {}
    for features in (22, 21, 14, 7):
        columns = columns_of(stats, list(stats), features)
        read[features] = [(block.width, block.share) for block in columns.blocks], columns.width
    assert read == {
        22: ([(16, True), (6, False)], 22), 21: ([(8, False), (6, False)], 14), 14: ([(8, False), (6, False)], 14),
        7: ([(8, False), (6, False)], 7),
    }  # fmt: skip


def test_few_samples_take_a_ridge_beyond_the_first_ones():
    """A hundred samples and six hundred units: a weak ridge fits what is only theirs."""
    _, x, y = problem(11, 3000)
    lots = torch.Generator().manual_seed(0)
    wide = nn.Sequential(nn.Linear(12, 600), nn.ReLU(), nn.Linear(600, 3))
    with torch.no_grad():
        wide[0].weight.copy_(torch.randn(600, 12, generator=lots))
    batches, held, _ = split(x, y)
    stats = cofire.record(wide, batches, progress=False)
    with Reader(wide, stats) as reader:
        fitting = _Fitting(reader, batches[:1], held, 2048, 0, False)
        fitting.descent.sum()
        assert fitting.descent.place == Blocks.first
        fitting.descent.place = Whole.first
        fitting.descent.first()
    assert fitting.descent.place > Whole.first + 1


def test_factors_fitted_together_are_those_of_a_general_search():
    lots = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=lots)
    parts = [
        (size * torch.nn.functional.one_hot(labels, 3) + torch.randn(300, 3, generator=lots)).double()
        for size in (1, 2, 0.5, 0)
    ]
    start = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)

    def loss(values):
        values = torch.as_tensor(values)
        far = (values - start).square().sum() / (9 * 300)
        return log_loss(sum(value * part for value, part in zip(values, parts, strict=True)), labels) + float(far) / 2

    found = minimize(loss, start.tolist(), method="BFGS", options={"gtol": 1e-8}).x
    assert together(parts, labels, [1.0, 1.0]).tolist() == pytest.approx(found.tolist(), abs=1e-4)


@pytest.mark.parametrize("count", [120, 1200])
def test_factors_do_not_depend_on_how_many_samples_are_summed_at_once(count, monkeypatch):
    lots = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (count,), generator=lots)
    own, first, second = (torch.nn.functional.one_hot(labels, 5) + torch.randn(count, 5, generator=lots) for _ in range(3))
    found = []
    for block in (stacking._BLOCK, 5 * 7):
        monkeypatch.setattr(stacking, "_BLOCK", block)
        stack = stacked(own, labels, [first])
        found.append([*together([own, first, second], labels, [1.0]).tolist(), stack.own, stack.other, *stack.offset.tolist()])
    assert found[0] == pytest.approx(found[1], rel=1e-9, abs=1e-12)
    assert any(found[0][5:]) == (count >= 1000)


def test_directions_of_noise_look_good_only_to_the_samples_that_chose_how_far_to_go():
    """Forty random directions and eighty samples: factors fit them, and what they are worth is seen without the samples' say."""
    lots = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 3
    own = torch.nn.functional.one_hot(labels, 3) + torch.randn(80, 3, generator=lots)
    paths, _ = Paths.along_best(own, labels, [torch.randn(80, 3, generator=lots) for _ in range(3)])
    start, before = log_loss(stacked(own, labels)(own), labels), paths.loss
    for _ in range(10):
        paths, _ = paths.along([torch.randn(80, 3, generator=lots) for _ in range(4)])
    whole = paths.whole.own * own.double() + paths.whole.other
    assert log_loss(whole, labels) < start - 0.2  # nats
    assert paths.loss > before > start
    assert log_loss(paths.scores(), labels) > start


def test_a_path_without_a_fold_is_fitted_to_the_others_alone():
    lots = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=lots)
    own, first, second, third = (torch.nn.functional.one_hot(labels, 4) + torch.randn(200, 4, generator=lots) for _ in range(4))
    paths, stack = Paths.along_best(own, labels, [first, second])
    alone = stacked(own, labels, [first])
    assert (stack.own, stack.other) == pytest.approx((alone.own, alone.other))
    gone, factors = paths.along([second, third])
    assert factors.tolist() == pytest.approx(
        together([own, paths.whole.other, second, third], labels, [stack.own, 1.0]).tolist()
    )
    place = folds_of(labels)
    for fold, (before, after) in enumerate(zip(paths.parts, gone.parts, strict=True)):
        others = place != fold
        parts = [part[others] for part in (own, before.other, second, third)]
        mine = together(parts, labels[others], [before.own, 1.0])
        assert after.own == pytest.approx(float(mine[0]), abs=1e-6)
        other = mine[1] * before.other + mine[2] * second + mine[3] * third
        torch.testing.assert_close(after.other, other.float(), rtol=0, atol=1e-5)
        scores = stacked(own[others], labels[others], [after.other[others]])(own, [after.other])
        torch.testing.assert_close(gone.scores()[~others], scores[~others], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [1000, 1200, 2000])
def test_what_offsets_cost_is_in_what_they_are_judged_by(samples):
    """With 100 classes some 0.03 nats: fits to four fifths have offsets too, and know nothing of the classes in the last fifth."""
    lots = torch.Generator().manual_seed(0)
    own, other = torch.randn(samples + 20_000, 100, generator=lots), torch.randn(samples + 20_000, 100, generator=lots)
    labels = torch.multinomial(own.softmax(1), 1, generator=lots)[:, 0]
    stack = stacked(own[:samples], labels[:samples], [other[:samples]])
    rise = log_loss(stack(own, [other])[samples:], labels[samples:]) - log_loss(own[samples:], labels[samples:])
    assert rise > 0.015
    paths, _ = Paths.along_best(own[:samples], labels[:samples], [other[:samples]])
    for judged in (cross_fitted(own[:samples], labels[:samples], [other[:samples]]), paths.scores()):
        assert log_loss(judged, labels[:samples]) - log_loss(own[:samples], labels[:samples]) > rise / 2


def test_where_a_net_has_learned_nothing_steps_go_most_of_the_way_to_the_regression():
    """From even odds the curvature falls to a fraction, and sums taken at the start would make short steps."""
    digits = cofire.data.load("digits")
    net = cofire.zoo.model("fcnn:64-64-10", seed=0)
    losses = torch.zeros(3)
    for seed in range(3):
        fit, rest = digits.split(0.5, seed=seed)
        batches, held, new = (list(part.batches(200)) for part in (fit, *rest.split(0.5, seed=seed)))
        stats = cofire.record(net, batches, progress=False)
        with Reader(net, stats) as reader:
            fitting = _Fitting(reader, batches, held, 2048, 0, False)
            fitting.descent.sum()
            fitting.descent.first()
            found = [fitting.descent.best[None]]
            fitting.descent.further()
            found += [fitting.descent.weights, residual_probes(*map(torch.cat, zip(*fitting.batches, strict=True)), steps=100)]
            assert fitting.descent.ways.renewed
            fresh = fitting.rows_of(new, "")
            for place, weights in enumerate(found):
                chosen, tested = (fitting.measured(data, {}, weights) for data in (fitting.validation, fresh))
                stack = stacked(chosen.own, chosen.labels, chosen.others["auto"])
                losses[place] += log_loss(stack(tested.own, tested.others["auto"]), tested.labels) / 3
    first, steps, regression = losses
    assert regression < 0.2
    assert steps - regression < (first - regression) / 2


def test_a_model_that_is_sure_and_wrong_is_mended_as_well_as_a_calm_one():
    """The sums are taken at the temperature that held-out samples want, so that a factor of the scores changes nothing."""
    net, x, y = problem(12, 3000)
    batches, held, test = split(x, y)
    found = []
    for factor in (1, 50):
        with torch.no_grad():
            net.fc2.weight *= factor
            net.fc2.bias *= factor
        stats = cofire.record(net, batches, progress=False)
        better = cofire.boost(net, batches, stats, validation=held, controls=False, progress=False)
        found.append(scores_over(better, test))
        assert better.gained
    assert torch.allclose(found[0], found[1], atol=2e-2)


def test_the_linear_probe_reads_all_units_of_its_layer():
    net, x, y = problem(13)
    batches, held, test = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    found = []
    for features in (2048, 5):
        better = cofire.boost(net, batches, stats, validation=held, test=test, features=features, progress=False)
        table = better.summary().set_index(["split", "method"]).accuracy
        found.append(table["test", "all hidden layers by gradients"])
    assert found[0] == found[1]


def test_the_linear_probe_stays_where_all_layers_are_cut_to_as_many_numbers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    _, x, y = problem(0)
    batches, held, _ = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    better = cofire.boost(net, batches, stats, validation=held, features=20, progress=False)
    assert {"last hidden layer", "all hidden layers by gradients"} <= set(better.summary().method)


@pytest.mark.filterwarnings("ignore")
def test_a_model_in_float16_is_boosted_without_the_control_that_it_cannot_be_trained_for():
    net, x, y = problem(0)
    batches, held, _ = split(x.half(), y)
    net = net.half()
    stats = cofire.record(net, batches, progress=False)
    better = cofire.boost(net, batches, stats, validation=held, progress=False)
    assert "one more epoch" not in set(better.summary().method)
    assert "Another epoch of training leaves weights that are not finite: that control is left out." in better.words


class Masked(nn.Module):
    """Padded text: the mean over the tokens that count."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc1, self.relu, self.fc2 = nn.Embedding(50, 16), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)

    def forward(self, input_ids, attention_mask):
        kept = attention_mask[..., None].float()
        return self.fc2((self.relu(self.fc1(self.embed(input_ids))) * kept).sum(1) / kept.sum(1))


def test_tokens_that_do_not_count_do_not_count_however_inputs_are_given():
    lots = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net, ids = Masked(), torch.randint(50, (900, 10), generator=lots)
    mask = (torch.arange(10) < torch.randint(3, 11, (900, 1), generator=lots)).long()
    mean = (ids * mask).sum(1) / mask.sum(1)
    with torch.no_grad():
        net.embed.weight[:, 0] = torch.arange(50) / 10
    parts = [
        {
            "input_ids": ids[part],
            "attention_mask": mask[part],
            "labels": torch.bucketize(mean[part], torch.tensor([21.0, 28.0])),
        }
        for part in (slice(300), slice(300, 600))
    ]
    stats = cofire.record(net, parts[:1], progress=False)
    better = cofire.boost(net, parts[:1], stats, validation=parts[1:], controls=False, progress=False)
    assert better.gained
    other = torch.where(mask.bool(), ids, 49 - ids)  # other words where none counts
    named = better(input_ids=ids, attention_mask=mask)
    assert torch.allclose(better({"input_ids": other, "attention_mask": mask}), named, atol=1e-5)
    with pytest.raises(InputError, match="inputs must all be given by position or all by name; found 1 and 'attention_mask'"):
        better(ids, attention_mask=mask)
    plain = {"input_ids": ids[:300], "attention_mask": mask[:300]}
    familiar = [cofire.familiarity(stats, net, asked).score for asked in (plain, parts[0])]  # with labels and without
    assert torch.equal(familiar[0], familiar[1])


def test_one_logit_between_0_and_1_is_no_probability():
    net, x, y = problem(3)
    net.fc2 = nn.Linear(24, 1)
    stats = cofire.record(net, [(x, (y > 0).long())], progress=False)
    with torch.no_grad():
        inside = x[((net(x) > 0.1) & (net(x) < 0.4))[:, 0]]
    assert len(inside)
    with Reader(net, stats) as reader:
        assert torch.equal(reader.unlabelled(inside[:1]).logits[:, 1:], net(inside[:1]).detach())
    assert cofire.familiarity(stats, net, inside[:1]).predicted.tolist() == [1]


class RulesOut(Damaged):
    def forward(self, x):
        return super().forward(x).masked_fill(torch.stack([x[:, 0] < -9, x[:, 0] < -9, x[:, 0] > 0.5], 1), -torch.inf)


def test_classes_that_are_ruled_out_do_not_stop_a_boost():
    _, x, y = problem(1, 1800)
    torch.manual_seed(1)
    net, y = RulesOut(), torch.where((x[:, 0] > 0.5) & (y == 2), 0, y)
    fit, held, test = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, test=test, controls=False, progress=False)
    assert better.gained
    assert bool((better(x)[x[:, 0] > 0.5, 2] == -torch.inf).all())
    assert accuracy(scores_over(better, test), labels_of(test)) > accuracy(scores_over(net, test), labels_of(test)) + 0.1


def test_samples_whose_class_is_ruled_out_are_judged_by_accuracy_alone():
    """No factor of the scores brings such a class back, so that their log-loss is infinite with and without a boost."""
    _, x, y = problem(1, 1800)
    torch.manual_seed(1)
    net, ruled = RulesOut(), (x[:, 0] > 0.5) & (y == 2)
    fit, held, test = split(x, y)
    assert 0 < int(ruled[:600].sum()) < 300
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, test=test, controls=False, progress=False)
    assert better.gained
    lost = int(ruled[600:1200].sum())
    assert f"The model rules out the class of {lost} held-out samples: they are left out of the log-loss." in better.words
    before, after, labels = scores_over(net, test), scores_over(better, test), labels_of(test)
    table, kept = better.summary().set_index(["split", "method"]).loc["test"], ~ruled[1200:]
    assert table.accuracy["boosted"] == pytest.approx(accuracy(after, labels))
    assert table.log_loss["boosted"] == pytest.approx(log_loss(after[kept], labels[kept]), abs=1e-6)
    gain = log_loss(before[kept], labels[kept]) - log_loss(after[kept], labels[kept])
    assert table.loss_gain["boosted"] == pytest.approx(gain, abs=1e-6)
    assert table.loss_gain_low["boosted"] < gain < table.loss_gain_high["boosted"]


def test_controls_of_a_model_that_rules_classes_out_are_finite_and_fitted_to_the_others():
    _, x, y = problem(1, 1800)
    torch.manual_seed(1)
    net = RulesOut()
    fit, held, test = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, test=test, progress=False)
    table = better.summary().set_index(["split", "method"])
    assert bool(table.log_loss.notna().all())
    for name in ("paper", "paper: predictions only", "one more epoch", "all hidden layers by gradients"):
        assert table.accuracy["test", name] == pytest.approx(table.accuracy["held-out", name], abs=0.1)
    # as good as where all classes are possible: the log-loss of the others is finite, and is what is minimised
    assert table.accuracy["test", "all hidden layers by gradients"] > table.accuracy["test", "boosted"] - 0.05
    paper = cofire.boost(net, fit, stats, held, "paper", test=test, controls=False, progress=False).summary()
    assert bool(paper.log_loss.notna().all())


class Refilled(list):
    """Batches that are read into the same two tensors again and again."""

    def __iter__(self):
        x, y = self[0][0].clone(), self[0][1].clone()
        for index in range(len(self)):
            yield x.copy_(self[index][0]), y.copy_(self[index][1])


def test_batches_may_be_read_into_the_same_tensors():
    net, x, y = problem(5)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    plain = cofire.boost(net, fit, stats, validation=held, features=32, progress=False)
    again = cofire.boost(net, Refilled(fit), stats, validation=Refilled(held), features=32, progress=False)
    assert again.record == plain.record


def test_texts_of_different_lengths_have_controls_but_that_of_the_inputs():
    lots = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net, parts = Masked(), []
    for tokens in (10, 13, 8, 12, 9, 11):
        ids = torch.randint(50, (100, tokens), generator=lots)
        labels = torch.bucketize(ids.double().mean(1), torch.tensor([22.0, 27.0], dtype=torch.float64))
        parts.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    stats = cofire.record(net, parts[:3], progress=False)
    better = cofire.boost(net, parts[:3], stats, validation=parts[3:], progress=False)
    assert "Batches hold inputs of different sizes: the control of the inputs is left out." in better.words
    assert {"last hidden layer", "one more epoch", "paper"} <= set(better.summary().method)
    assert "inputs" not in set(better.summary().method)
    alike = cofire.boost(net, parts[:1], stats, validation=parts[3:], progress=False)  # and longer where they are measured
    assert "inputs" in set(alike.summary().method)


class Spelled(nn.Module):
    """Words as they are written, without a tensor among the inputs."""

    def __init__(self):
        super().__init__()
        self.embed, self.fc1, self.relu, self.fc2 = nn.Embedding(26, 16), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3)

    def forward(self, words):
        letters = torch.tensor([[ord(letter) - ord("a") for letter in word] for word in words])
        return self.fc2(self.relu(self.fc1(self.embed(letters).mean(1))))


def test_inputs_without_a_tensor_are_different_ones():
    lots = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net, letters = Spelled(), torch.randint(10, (1200, 6), generator=lots)
    labels = ((letters == 0).sum(1) + 2 * (letters == 1).sum(1)) % 3
    words = ["".join(chr(ord("a") + letter) for letter in row) for row in letters.tolist()]
    parts = [({"words": words[at : at + 100]}, labels[at : at + 100]) for at in range(0, 1200, 100)]
    stats = cofire.record(net, parts[:6], progress=False)
    better = cofire.boost(net, parts[:6], stats, validation=parts[6:], controls=False, progress=False)
    assert better.gained
    assert len(cofire.trust(net, parts[:6], stats, validation=parts[6:]).wrong) == 600


class Stores(Damaged):
    """A module that holds its last output, which cannot be copied."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


class Refuses(Damaged):
    def forward(self, x):
        assert not self.training, "for use, not for training"
        return super().forward(x)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Stores, "The model cannot be copied (Only Tensors created explicitly by the user"),
        (Refuses, "The model cannot be trained for another epoch (for use, not for training): that control is left out."),
    ],
)
def test_a_model_that_cannot_be_copied_or_trained_has_the_other_controls(kind, words):
    _, x, y = problem(0)
    torch.manual_seed(0)
    net = kind().eval()
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    net(x)
    better = cofire.boost(net, fit, stats, validation=held, progress=False)
    assert any(word.startswith(words) for word in better.words)
    assert {"inputs", "all hidden layers by gradients", "random labels", "paper"} <= set(better.summary().method)
    assert "one more epoch" not in set(better.summary().method)


def test_controls_need_gradients():
    net, x, y = problem(0)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    with torch.inference_mode():
        with pytest.raises(InputError, match=r"controls are fitted by gradients; found torch\.inference_mode"):
            cofire.boost(net, fit, stats, validation=held, progress=False)
        better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert better.gained


class Distant(nn.Module):
    """A net whose hidden units lie far from zero, beside how little they vary."""

    def __init__(self, far: float, scale: float, dtype: torch.dtype):
        super().__init__()
        self.fc1, self.relu, self.fc2 = nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3)
        self.far, self.scale = far, scale
        self.to(dtype)

    def forward(self, x):
        hidden = self.relu(self.far + self.scale * self.fc1(x))
        return self.fc2((hidden - self.far) / self.scale)


@pytest.mark.parametrize(
    ("far", "scale", "dtype"), [(1e4, 0.1, torch.float32), (1e4, 0.01, torch.float64), (1e6, 0.01, torch.float64)]
)
def test_what_is_given_back_is_what_was_judged(far, scale, dtype, tmp_path):
    _, x, y = problem(2)
    torch.manual_seed(2)
    net = Distant(far, scale, dtype)
    fit, held, test = split(x.to(dtype), y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, test=test, controls=False, progress=False)
    assert better.gained
    table = better.summary().set_index(["split", "method"]).loc["test"]
    found = scores_over(better, test)
    assert found.dtype == dtype
    assert log_loss(found, labels_of(test)) == pytest.approx(table.log_loss["boosted"], rel=1e-4)
    better.save(tmp_path / "b.safetensors")
    assert torch.equal(scores_over(cofire.load_boosted(net, tmp_path / "b.safetensors"), test), found)


class Endless(torch.utils.data.IterableDataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __iter__(self):
        return iter(self.pairs)


def test_samples_are_counted_only_where_their_number_is_known():
    data = torch.utils.data
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    pairs = data.TensorDataset(x, y)
    ready = data.DataLoader([(x[:20], y[:20]), (x[20:], y[20:])], batch_size=None)
    many = data.DataLoader(pairs, 8, sampler=data.WeightedRandomSampler(torch.ones(40), 64_000))
    joined = data.DataLoader(data.ChainDataset([Endless(pairs)]), 8)
    own = data.DataLoader(pairs, batch_sampler=[[0, 1], [2, 3]])
    loaders = (data.DataLoader(pairs, 8), ready, many, joined, data.DataLoader(Endless(pairs), 8), own, [(x, y), (x, y)])
    assert [count_in(loader) for loader in loaders] == [40, None, 64_000, None, None, 40, 80]


def test_units_that_are_not_finite_are_said():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Hardtanh(), nn.Linear(24, 3))
    _, x, y = problem(0)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, layers=["1"], progress=False)
    held[0][0][3] = 3e38
    said = r"hidden units must be finite; they are not for 1 samples of validation"
    with pytest.raises(InputError, match=said):
        cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)


def test_scores_that_are_not_numbers_have_no_calibration():
    scores = torch.tensor([[2.0, 0.0], [torch.nan, 0.0]])
    assert calibration_error(scores, torch.tensor([0, 1])) != calibration_error(scores, torch.tensor([0, 1]))


class Untrainable(Damaged):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


def test_a_model_that_cannot_be_trained_is_boosted_without_that_control():
    net, x, y = problem(0)
    net = Untrainable()
    batches, held, _ = split(x, y)
    stats = cofire.record(net, batches, progress=False)
    better = cofire.boost(net, batches, stats, validation=held, progress=False)
    assert better.gained
    assert "one more epoch" not in set(better.summary().method)
    assert any(word.startswith("The model cannot be trained for another epoch (element 0 of tensors") for word in better.words)


def test_a_sample_that_is_left_over_does_not_stop_batch_normalisation():
    _, x, y = problem(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    stats = cofire.record(net, [(x[:301], y[:301])], progress=False)
    batches = list(zip(x[:301].split(100), y[:301].split(100), strict=True))
    better = cofire.boost(net, batches, stats, validation=[(x[301:], y[301:])], progress=False)
    assert "one more epoch" in set(better.summary().method)


def test_rows_that_are_not_kept_are_not_held_elsewhere(monkeypatch):
    net, x, y = problem(0)
    batches, held, _ = split(x, y, 20)
    stats = cofire.record(net, batches, progress=False)
    made, most = weakref.WeakSet(), 0

    def counted(*given):
        nonlocal most
        made.add(found := plain(*given))
        most = max(most, len(made))
        return found

    plain = Columns.plain
    monkeypatch.setattr(Columns, "plain", counted)
    monkeypatch.setattr("cofire.keeping._ROOM", 0)
    cofire.boost(net, batches[:3], stats, validation=held, controls=False, progress=False)
    assert most < 5  # of fifteen batches


def test_a_folded_head_gives_the_scores_of_the_rows(tmp_path):
    net, x, y = problem(0)
    fit, held, test = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert better.gained
    columns = columns_of(stats, list(stats), 2048)
    with Reader(net, stats) as reader:
        reading = reader.unlabelled(test[0][0])
    found = better(test[0][0])
    weights = better.head.weights.double()
    plain = columns.plain(reading.units, reading.firing).double() * columns.blocks[0].scale
    wanted = float(better.head.factor) * reading.logits.double() + plain @ weights + better.head.intercept.double()
    assert torch.allclose(found.double(), wanted, atol=1e-4)


# ---------------------------------------------------------------- what it is for


def test_what_the_last_layer_forgot_is_found_in_the_hidden_one():
    net, x, y = problem(1, 3000)
    fit, held, test = split(x, y)
    before = copy.deepcopy(net.state_dict())
    stats = cofire.record(net, fit, progress=False)
    net.train()
    better = cofire.boost(net, fit, stats, validation=held, test=test, progress=False)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    table = better.summary()
    assert set(table.split) == {"held-out", "test"}
    tested = table[table.split == "test"].set_index("method")
    assert tested.gain["boosted"] > 0.2
    assert tested.gain_low["boosted"] <= tested.gain["boosted"] <= tested.gain_high["boosted"]
    assert tested.accuracy["boosted"] == pytest.approx(accuracy(scores_over(better, test), labels_of(test)), abs=2e-3)
    assert {
        "temperature", "paper", "paper: predictions only", "paper: permuted units", "class scores alone", "inputs",
        "all hidden layers by gradients", "random labels", "one more epoch",
    } < set(tested.index)  # fmt: skip
    assert tested.boost_minus_low["random labels"] > 0
    assert better.words[0].startswith("On 1,000 test samples the boost changes accuracy by +")
    assert better.by_class()["samples"].sum() == 1000
    bins = better.reliability()
    assert bins.groupby("method")["samples"].sum().to_dict() == {"boosted": 1000, "model": 1000}
    gaps = bins["samples"] * (bins["accuracy"] - bins["confidence"]).abs() / 1000
    errors = gaps.groupby(bins["method"]).sum()
    assert errors["boosted"] == pytest.approx(tested.calibration_error["boosted"])
    assert errors["model"] == pytest.approx(tested.calibration_error["model"])


def test_the_papers_net_is_trained_and_always_taken():
    net, x, y = problem(2)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, method="paper", controls=False, progress=False)
    assert [tuple(p.shape) for p in better.head.net.parameters()] == [(6, 6), (6,), (3, 6), (3,)]
    assert better.summary().method.tolist() == ["model", "boosted", "temperature", "closed form"]
    x0 = held[0][0]
    with torch.no_grad():
        hidden, z = net.relu(net.fc1(x0)), net(x0)
    p = z.softmax(1)
    second = (hidden > 0).float() @ cofire.firing_probability(stats["relu"]).float().T * p
    wanted = better.head.net(torch.cat([p, second / second.sum(1, keepdim=True)], 1))
    assert torch.allclose(better(x0), wanted, atol=1e-5)


@pytest.mark.parametrize("shape", ["functional", "softmax", "sigmoid"])
def test_any_output_and_any_call(shape, tmp_path):
    lots = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    if shape == "functional":
        net, x = Functional(), torch.randn(900, 1, 6, 6, generator=lots)
        y = (x.mean((1, 2, 3)) * 20).round().clamp(-1, 1).long() + 1
    else:
        net, x, y = problem(3, ending=nn.Softmax(1) if shape == "softmax" else nn.Sigmoid())
        if shape == "sigmoid":
            net.fc2, y = nn.Linear(24, 1), (y > 0).long()
    fit, held, test = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert better.gained
    assert better(test[0][0][:1]).shape == (1, stats.classes)
    assert accuracy(scores_over(better, test), labels_of(test)) > 0.6
    better.save(tmp_path / "b.safetensors")
    assert torch.equal(cofire.load_boosted(net, tmp_path / "b.safetensors")(x), better(x))


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(12, 24), nn.Linear(24, 3)

    def forward(self, x):
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.GRU(3, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.rnn(x.view(-1, 4, 3))[0][:, -1])


@pytest.mark.parametrize(("make", "layers"), [(ByHand, None), (Recurrent, None), (Damaged, ["fc1"]), (ByHand, ["fc1"])])
def test_a_boosted_model_reads_what_was_recorded(make, layers, tmp_path):
    _, x, y = problem(11)
    torch.manual_seed(0)
    net = make()
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, layers=layers, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert better.gained
    with Reader(net, stats) as reader:
        reading = reader.unlabelled(x)
    wanted = better.head(reading.logits, reading.units, reading.firing)
    assert torch.allclose(better(x), wanted, atol=1e-5)
    better.save(tmp_path / "b.safetensors")
    assert torch.equal(cofire.load_boosted(net, tmp_path / "b.safetensors")(x), better(x))


def test_many_units_become_few_sums_with_random_signs(tmp_path):
    net, x, y = problem(4)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, features=6, progress=False)
    assert any("24 hidden units are hashed into 6 numbers" in word for word in better.words)
    columns = columns_of(stats, list(stats), 6)
    place, sign = columns.hashing
    assert torch.bincount(place).tolist() == [4] * 6
    numbers = torch.randn(5, 24)
    by_hand = torch.stack([(numbers * sign)[:, place == each].sum(1) for each in range(6)], 1)
    assert torch.allclose(columns.hashing.of(numbers, 6), by_hand, atol=1e-6)
    assert not torch.equal(place, columns_of(stats, list(stats), 6, seed=1).hashing.place)
    better.save(tmp_path / "b.safetensors")
    assert torch.equal(cofire.load_boosted(net, tmp_path / "b.safetensors")(x), better(x))


def test_a_folded_head_of_sums_gives_the_scores_of_the_fit():
    net, x, y = problem(1, 3000)
    fit, _, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    columns = columns_of(stats, list(stats), 10)
    weights = torch.randn(columns.width + 1, 3, dtype=torch.float64)
    stack = Stack(0.7, 2.0, torch.randn(3, dtype=torch.float64))
    head = Rereading.of(stack, columns, weights, torch.float32)
    with Reader(net, stats) as reader:
        reading = reader.unlabelled(x)
    rows = columns.of(reading.units, reading.firing).double()
    wanted = stack(reading.logits, [rows @ weights[:-1] + weights[-1]])
    assert torch.allclose(head(reading.logits, reading.units, reading.firing).double(), wanted, atol=1e-4)


def test_shares_of_firing_positions_are_made_only_for_those_that_read_them(monkeypatch):
    """They cost a pass over every position."""
    lots = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 6), nn.ReLU(), nn.Linear(6, 2))
    batches = [(torch.randn(80, 1, 6, 6, generator=lots), torch.randint(2, (80,), generator=lots)) for _ in range(3)]
    stats = cofire.record(net, batches, progress=False)
    with Reader(net, stats) as reader:
        whole = reader.unlabelled(batches[0][0])
    with Reader(net, stats, shares=()) as reader:
        bare = reader.unlabelled(batches[0][0])
    assert list(whole.firing) == list(stats)
    assert bare.firing == {}
    assert all(torch.equal(bare.units[name], whole.units[name]) for name in stats)
    asked, see = set(), Sight.see

    def seen(self, info, output):
        asked.add(tuple(self.shares))
        see(self, info, output)

    monkeypatch.setattr(Sight, "see", seen)
    for features in (None, 4):  # all of them, and too few for shares
        cofire.boost(net, batches[:2], stats, validation=batches[2:], controls=False, progress=False, features=features)
        several = [name for name in stats if stats[name].layout == "conv"]
        assert asked == {tuple(several) if features is None else ()}
        asked.clear()
    cofire.familiarity(stats, net, batches[0][0], at="mean")
    assert asked == {()}


def test_hashing_keeps_inner_products_on_average():
    net, x, y = problem(1)
    stats = cofire.record(net, split(x, y)[0], progress=False)
    numbers = torch.randn(6, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [columns_of(stats, list(stats), 12, seed).hashing.of(numbers, 12) for seed in range(2000)]
    products = torch.stack([each @ each.T for each in found])
    error = (products.mean(0) - numbers @ numbers.T).abs()
    assert bool((error < 5 * products.std(0) / 2000**0.5 + 1e-9).all())
    assert products.std(0).max() > 0.5  # each by itself is off


def test_saved_in_one_process_and_loaded_in_another(tmp_path):
    digits = cofire.data.load("digits", limit=900)
    parts = list(digits.batches(batch_size=300))
    net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    stats = cofire.record(net, parts[:1], progress=False)
    better = cofire.boost(net, parts[:1], stats, validation=parts[1:2], test=parts[2:], controls=False, progress=False)
    assert better.gained
    better.save(tmp_path / "b.safetensors")
    torch.save(better(parts[2][0]), tmp_path / "scores.pt")
    code = (
        "import cofire, torch; parts = list(cofire.data.load('digits', limit=900).batches(batch_size=300)); "
        f"b = cofire.load_boosted(cofire.zoo.model('fcnn:64-16-10', seed=0), r'{tmp_path / 'b.safetensors'}'); "
        f"assert torch.equal(b(parts[2][0]), torch.load(r'{tmp_path / 'scores.pt'}')); print(len(b.summary()), b.words[0][:7])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["6", "On", "300"]


def test_exported_and_run_elsewhere(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net, x, y = problem(5)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    wanted = better(x)
    sizes = (({0: torch.export.Dim.AUTO},),)
    program = torch.export.export(better, (x[:3],), dynamic_shapes=sizes)
    assert torch.allclose(program.module()(x), wanted, atol=1e-6)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own making
        torch.onnx.export(better, (x[:3],), tmp_path / "b.onnx", dynamo=True, dynamic_shapes=sizes, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx")
    for part in (x, x[:1]):
        scores = session.run(None, {session.get_inputs()[0].name: part.numpy()})[0]
        assert torch.allclose(torch.from_numpy(scores), better(part), atol=1e-5)


@pytest.mark.slow
def test_a_boosted_resnet_in_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torchvision = pytest.importorskip("torchvision")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    net = torchvision.models.get_model("resnet18", weights=None, num_classes=4)
    x = torch.randn(96, 3, 32, 32)
    y = torch.arange(96) % 4
    batches = list(zip(x.split(32), y.split(32), strict=True))
    stats = cofire.record(net, batches, progress=False)
    better = cofire.boost(net, batches[:1], stats, validation=batches[1:2], controls=False, features=512, progress=False)
    columns = columns_of(stats, list(stats), 512)
    assert columns.width == 512 < columns.numbers
    lots = torch.randn(columns.width + 1, 4).double() / 30
    better.head = Rereading.of(stacked(x[:9, 0, 0, :4], y[:9]), columns, lots, torch.float32)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            better, (x[:2],), tmp_path / "b.onnx", dynamo=True, dynamic_shapes=(({0: torch.export.Dim.AUTO},),), verbose=False
        )
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx")
    scores = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    assert torch.equal(scores.argmax(1), better(x).argmax(1))


def test_a_boosted_model_is_copied_and_pickled():
    net, x, y = problem(6)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    for other in (copy.deepcopy(better), pickle.loads(pickle.dumps(better))):
        assert torch.equal(other(x), better(x))
    assert better.train() is better
    assert not any(p.requires_grad for p in better.head.parameters())


def test_controls_are_kept_whole_or_at_random(monkeypatch):
    net, x, y = problem(7)
    stats = cofire.record(net, [(x, y)], progress=False)
    parts = {"scores": lambda reading: reading.logits, "labels": lambda reading: reading.labels}
    with Reader(net, stats) as reader:
        kept, share = keep(reader, [(x, y)], parts, 900, 0, False)
        assert share == 1
        assert torch.equal(kept["labels"], y)
        monkeypatch.setattr("cofire.controls._ROOM", 900 * (3 * 4 + 8) // 2)
        kept, share = keep(reader, [(x, y)], parts, 900, 0, False)
    assert share == 0.5
    assert len(kept["labels"]) == len(kept["scores"]) == pytest.approx(450, abs=60)


# ---------------------------------------------------------------- degenerate


def test_forms_of_output():
    assert form_of(torch.randn(4, 3), 3, False) == "logits"
    assert form_of(torch.randn(4, 3).softmax(1), 3, False) == "probabilities"
    assert [form_of(torch.rand(4, 1), 2, sigmoid) for sigmoid in (True, False)] == ["probability", "logit"]
    assert form_of(torch.tensor([[-1.0], [2.0]]), 2, True) == "logit"  # a sigmoid somewhere before the end
    assert scores_in(torch.tensor([[0.0], [2.0]]), "logit").softmax(1)[:, 1].tolist() == pytest.approx([0.5, 0.8808], abs=1e-4)


def test_a_model_that_is_always_right_comes_back():
    torch.manual_seed(0)
    net, x = Damaged(), torch.randn(900, 12)
    with torch.no_grad():
        net.fc2.weight *= 100
        y = net(x).argmax(1)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert torch.equal(better(x).argmax(1), y)
    assert any("is right on all 300 samples of batches" in word for word in better.words)


def test_a_gain_needs_an_interval_and_no_loss_of_accuracy():
    labels = torch.tensor([0, 1] * 100)
    base = torch.zeros(200, 2)
    base[:, 0] = 0.1
    surer = 3.0 * torch.nn.functional.one_hot(labels, 2)
    unknown = torch.full((200, 2), torch.nan)
    pairs = [(base, surer), (surer, base), (base, base), (base, unknown)]
    assert are_gains(pairs, labels) == [True, False, False, False]


def test_words_say_no_more_than_the_table():
    """Against a control whose gain could be nothing, no word of training; without a gain, none of where it comes from."""
    zero = {f"{what}{end}": 0.0 for what in ("gain", "loss_gain", "boost_minus") for end in ("", "_low", "_high")}
    row = {"split": "test", "samples": 100, **zero}
    model = {"method": "model", **row}
    for low, sentences in ((0.1, ["", "what they use is enough", "not trained to its end"]), (-0.1, [""])):
        gained = {**row, "gain_low": low, "gain_high": 0.3}
        table = [model, {"method": "boosted", **gained}, {"method": "one more epoch", **gained}]
        words = words_of(table, "auto", [])
        assert len(words) == (3 if low > 0 else 2)
        assert all(sentence in word for sentence, word in zip(sentences, words, strict=False))
    assert words[1] == "It cannot be told from one more epoch."
    table.append({"method": "random labels", **gained, "boost_minus_low": 0.1})
    assert any("random labels in place" in word for word in words_of(table, "auto", []))
    assert not any("random labels in place" in word for word in words_of(table, "paper", []))


# ---------------------------------------------------------------- errors


class Overflows(Damaged):
    value = 0.0

    def forward(self, x):
        return super().forward(x).masked_fill(x[:, :1] > 9, self.value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_class_scores_without_a_softmax(value):
    _, x, y = problem(8)
    net = Overflows()
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    net.value, broken = value, held[0][0].clone()
    broken[3] = 10.0
    said = "class scores must be finite, or minus infinity for some of the classes; they are not for 1 samples of batch 1"
    with pytest.raises(InputError, match=said):
        cofire.boost(net, fit, stats, validation=[held[1], (broken, held[0][1])], progress=False)


def test_wrong_input():
    net, x, y = problem(8)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    for features in (0, 2.5, True, "many"):
        with pytest.raises(InputError, match=f"features must be a whole number of at least 1; found {features!r}"):
            cofire.boost(net, fit, stats, validation=held, features=features)
    for rate in (0, -1.0, "fast", float("nan")):
        with pytest.raises(InputError, match=f"rate must be above 0; found {rate!r}"):
            cofire.boost(net, fit, stats, validation=held, rate=rate)
    with pytest.raises(InputError, match=r"layers as a number is how many of the last, 1 to 1; found 1\.5"):
        cofire.boost(net, fit, stats, validation=held, layers=1.5)
    with pytest.raises(InputError, match="a boost needs validation="):
        cofire.boost(net, fit, stats)
    with pytest.raises(InputError, match='method must be "auto" or "paper"; found \'best\''):
        cofire.boost(net, fit, stats, validation=held, method="best")
    with pytest.raises(InputError, match="validation must be readable more than once"):
        cofire.boost(net, fit, stats, validation=iter(held))
    with pytest.raises(InputError, match="statistics must be of this model"):
        cofire.boost(Damaged(), fit, stats, validation=held)
    for wrong in (net, "model.stats", held):
        with pytest.raises(
            InputError, match=rf"stats must be firing statistics; found {type(wrong).__name__}\. cofire\.record"
        ):
            cofire.boost(net, fit, wrong, validation=held)
    with pytest.raises(InputError, match="layers as a number is how many of the last, 1 to 1; found 2"):
        cofire.boost(net, fit, stats, validation=held, layers=2)
    with pytest.raises(LayerError, match="no layer named 'relu9' in these statistics; closest: 'relu'"):
        cofire.boost(net, fit, stats, validation=held, layers=["relu", "relu9"])
    some = [(x[y != 2], y[y != 2])]
    with pytest.raises(InputError, match="batches must hold samples of every class; found none of '2'"):
        cofire.boost(net, some, stats, validation=held)
    with pytest.raises(InputError, match="there must be at least one sample; found none in validation"):
        cofire.boost(net, fit, stats, validation=[])


def test_a_class_without_held_out_samples_is_said():
    """Where a random choice would have had some, as it would not of sorted samples or a rare class, nothing is confirmed."""
    net, x, y = problem(9)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    for least, named in ((1, "1, 2"), (2, "2")):
        some = [(x[y < least], y[y < least]) for x, y in held]
        better = cofire.boost(net, fit, stats, validation=some, controls=False, progress=False)
        assert (
            f"No held-out sample is of {named}, though a random choice would have some: nothing is confirmed." in better.words
        )
        assert better.record["decision"] == "model"
    rare = [(x[(y < 2) | (torch.arange(len(y)) < 8)], y[(y < 2) | (torch.arange(len(y)) < 8)]) for x, y in fit[:1]]
    stats = cofire.record(net, rare, progress=False)
    some = [(x[y < 2][:60], y[y < 2][:60]) for x, y in held[:1]]
    better = cofire.boost(net, rare, stats, validation=some, controls=False, progress=False)
    assert "No held-out sample is of 2: what is done to that class is not judged." in better.words
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    assert not any("held-out sample is of" in words for words in better.words)


@pytest.mark.parametrize(("classes", "samples"), [(10, 40), (100, 700), (100, 300), (1000, 7000)])
@pytest.mark.parametrize("even", [True, False])
def test_random_samples_may_lack_classes_and_sorted_ones_may_not(classes, samples, even):
    """Of a thousand classes chance leaves out some, though each of them hardly ever; of sorted samples each could be missing."""
    lots = torch.Generator().manual_seed(0)
    shares = (torch.randn(classes, generator=lots, dtype=torch.float64) * (not even)).softmax(0)
    seen, counts = 0, (1e9 * shares).long()
    for _ in range(100):
        missing, never = lacking(torch.multinomial(shares, samples, replacement=True, generator=lots), counts)
        seen += bool(missing)
        assert not never
    assert seen
    assert lacking(torch.arange(samples) % (classes // 5), counts) == (list(range(classes // 5, classes)), True)


def test_a_frequent_class_is_not_missing_among_rare_ones_by_chance():
    counts = torch.tensor([500, 400, *[1] * 100])
    assert lacking(torch.arange(60) % 2, counts) == (list(range(2, 102)), False)
    assert lacking(torch.zeros(60, dtype=torch.int64), counts) == (list(range(1, 102)), True)
    assert lacking(torch.arange(60) % 2, counts[:2]) == ([], False)
    assert lacking(torch.zeros(60, dtype=torch.int64), torch.tensor([0, 9])) == ([1], True)


def test_samples_that_are_in_two_of_the_data_sets_are_said():
    net, x, y = problem(9)
    fit, held, test = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    with pytest.warns(CofireWarning, match="100 samples of validation are in batches too"):
        cofire.boost(net, fit, stats, validation=[*held, fit[0]], controls=False, progress=False)
    with (
        pytest.warns(CofireWarning, match="100 samples of test are in batches too"),
        pytest.warns(CofireWarning, match="200 samples of test are in validation too"),
    ):
        cofire.boost(net, fit, stats, validation=held, test=[*test, fit[1], *held[:2]], controls=False, progress=False)


def test_files_of_something_else(tmp_path):
    net, x, y = problem(10)
    fit, held, _ = split(x, y)
    stats = cofire.record(net, fit, progress=False)
    stats.save(tmp_path / "stats.safetensors")
    with pytest.raises(FileError, match="wanted a boosted model"):
        cofire.load_boosted(net, tmp_path / "stats.safetensors")
    better = cofire.boost(net, fit, stats, validation=held, controls=False, progress=False)
    better.save(tmp_path / "b.safetensors")
    tensors, header = storage.read(tmp_path / "b.safetensors")
    storage.write(tmp_path / "c.safetensors", {"factor": tensors["factor"]}, {"boosted": header["boosted"]})
    with pytest.raises(FileError, match="wanted a complete boosted model"):
        cofire.load_boosted(net, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="a boosted model needs the weights that it was fitted to"):
        cofire.load_boosted(Damaged(), tmp_path / "b.safetensors")
    for other in (net, None):
        with pytest.raises(InputError, match=f"path names a file; found {type(other).__name__}"):
            cofire.load_boosted(tmp_path / "b.safetensors", other)
    with pytest.raises(ModelError, match=r"the model must be a torch\.nn\.Module; found str"):
        cofire.load_boosted("net", tmp_path / "b.safetensors")
