"""Corrections by blocks of few samples in turn."""

import pytest
import torch
from torch import nn

import cofire
from cofire import correctors, steps
from cofire.boosting import _Fitting
from cofire.correctors import RIDGES, Primal
from cofire.keeping import Part
from cofire.readings import Reader
from cofire.residuals import Sums, added
from cofire.scoring import log_loss
from cofire.stacking import Stack
from cofire.steps import Blocks, corrections


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(steps, "_BLOCK", 100)


def samples(count: int = 250, features: int = 30, classes: int = 3, size: int = 60) -> list[Part]:
    lots = torch.Generator().manual_seed(0)
    whole = (
        torch.randn(count, features, generator=lots), torch.randn(count, classes, generator=lots),
        torch.randint(classes, (count,), generator=lots),
    )  # fmt: skip
    return [Part(*each) for each in zip(*(part.split(size) for part in whole), strict=True)]


def test_every_sample_is_in_one_block_however_they_are_batched():
    found = {}
    for size in (7, 60, 250):
        blocks, rows = Blocks(samples(size=size), 1.0, seed=3), []
        for _ in range(blocks.count):
            rows.append(blocks.parts[0].rows)
            blocks.further(1.0, torch.zeros(31, 3, dtype=torch.float64), 5)
        found[size] = rows
        assert torch.equal(blocks.parts[0].rows, rows[0])  # each has had its turn
    assert [len(rows) for rows in found[60]] == [84, 83, 83]
    assert torch.equal(torch.cat(found[60]).sort(0).values, torch.cat([part.rows for part in samples()]).sort(0).values)
    for size in (7, 250):
        assert all(map(torch.equal, found[size], found[60]))
    assert not torch.equal(Blocks(samples(), 1.0, seed=4).parts[0].rows, found[60][0])


@pytest.mark.parametrize("features", [30, 200])
def test_a_step_is_the_correction_of_the_next_block_at_the_scores_that_it_meets(features):
    blocks = Blocks(samples(features=features), 0.7, seed=0)
    weights = torch.randn(features + 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 10
    found = [corrections(blocks.corrector, {4, 5}), *(blocks.further(0.9, weights, 5) for _ in range(4))]
    assert [list(each) for each in found] == [[4, 5], [5], [5], [5], [5]]
    again = Blocks(samples(features=features), 0.7, seed=0)
    for turn, step in enumerate(found):
        (part,) = again.parts
        sums = Sums(features, 3)
        scores = 0.9 * part.scores + added(part.rows, weights[None])[0] if turn else 0.7 * part.scores
        sums.update(part.rows.double(), scores, part.labels)
        assert sums.curvature.any()  # from here on it is summed
        torch.testing.assert_close(step[5], Primal(sums)(RIDGES[5]), rtol=1e-4, atol=1e-7)
        again.further(1.0, weights, 5)


def test_products_of_a_block_are_made_once(monkeypatch):
    made = []
    whole = correctors._products
    monkeypatch.setattr(correctors, "_products", lambda rows: made.append(rows.dtype) or whole(rows))
    blocks, weights = Blocks(samples(features=200), 1.0, seed=0), torch.zeros(201, 3, dtype=torch.float64)
    for _ in range(10):
        blocks.further(1.0, weights, 5)
    assert made == [torch.float32] * 3
    for _ in range(10):
        blocks.further(1.0, weights, 0)  # such a ridge needs float64
    assert made == [torch.float32] * 3 + [torch.float64] * 3


def wide(seed: int = 0):
    """A net of random units whose last layer knows nothing, and data whose classes are those of a teacher."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(12, 900), nn.ReLU(), nn.Linear(900, 3))
    x = torch.randn(2600, 12)
    y = (x @ torch.randn(12, 3)).relu().argmax(1)
    return net, *((x[some], y[some]) for some in (slice(600), slice(600, 1100), slice(1100, None)))


def fitted(net, fit, held, size: int = 100, **named):
    batches = list(zip(*(part.split(size) for part in fit), strict=True))
    stats = cofire.record(net, batches, progress=False)
    return cofire.boost(net, batches, stats, validation=[held], controls=False, progress=False, **named)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_blocks_have_a_say(seed, monkeypatch):
    """Six of a hundred samples each are worth nearly as much as one of all of them, and more than one of them alone."""
    net, fit, held, (x, y) = wide(seed)
    losses = []
    with torch.no_grad():
        losses.append(log_loss(fitted(net, fit, held)(x), y))
        monkeypatch.setattr(steps, "_BLOCK", 600)
        losses.append(log_loss(fitted(net, fit, held)(x), y))
        losses.append(log_loss(fitted(net, [part[:100] for part in fit], held)(x), y))
    blocks, whole, one = losses
    assert blocks < whole + (one - whole) / 3
    assert whole < one - 0.05


@pytest.mark.parametrize(("block", "turns"), [(600, 1), (300, 2), (100, 4)])
def test_turns_end_once_every_block_or_four_of_them_took_away_too_little(block, turns, monkeypatch):
    net, (x, y), held, _ = wide()
    monkeypatch.setattr(steps, "_BLOCK", block)
    taken, whole = [], Blocks.further
    monkeypatch.setattr(Blocks, "further", lambda self, *given: taken.append(self.turn) or whole(self, *given))
    lots = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert not fitted(net, (x, lots), (held[0], held[1][torch.randperm(500)])).gained
    assert len(taken) - turns in (0, 1)  # chance may give one
    taken.clear()
    assert fitted(net, (x, y), held).gained
    assert turns < (before := len(taken)) <= Blocks.most
    monkeypatch.setattr(Blocks, "most", 2)
    taken.clear()
    fitted(net, (x, y), held)
    assert len(taken) == 2 < before


def test_a_boost_by_blocks_does_not_depend_on_batches_and_comes_out_the_same_again():
    net, fit, held, (x, _) = wide()
    with torch.no_grad():
        found = [fitted(net, fit, held, size)(x) for size in (100, 100, 17, 600)]
    assert torch.equal(found[0], found[1])
    for other in found[2:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-3)


def test_blocks_serve_samples_sorted_by_class():
    net, fit, held, (x, y) = wide()
    order = fit[1].argsort(stable=True)
    with torch.no_grad():
        found = [log_loss(fitted(net, some, held)(x), y) for some in (fit, [part[order] for part in fit])]
    assert found[1] == pytest.approx(found[0], abs=0.05)


def test_the_ridge_of_all_blocks_is_the_largest_that_is_as_good_as_can_be_told():
    """By one standard error of the differences of log-losses between samples."""
    net, fit, held, _ = wide()
    batches = list(zip(*(part.split(100) for part in fit), strict=True))
    stats = cofire.record(net, batches, progress=False)
    with Reader(net, stats) as reader:
        descent = _Fitting(reader, batches, [held], 2048, 0, False).descent
        descent.sum()
        descent.first()
    count = 400
    descent.own, descent.labels = torch.zeros(count, 3), torch.zeros(count, dtype=torch.int64)
    descent.own[0, 0] = -torch.inf  # such a sample is left out
    descent.tried, descent.place = [4, 5, 6, 3], 4
    noise = torch.randn(count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = (noise - noise[1:].mean()) / noise[1:].std()
    best = 1 + torch.rand(count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def chosen(*more):
        """Given by how much the log-loss of each sample is above that of place 4."""
        losses = [best, *(best + each for each in more)]
        scores = [torch.stack([-(each.exp() - 1).log() + torch.tensor(2.0).log(), each * 0, each * 0], 1) for each in losses]
        stacks = [Stack(1.0, 1.0, torch.zeros(3), at, float(each[1:].mean())) for at, each in enumerate(losses)]
        return descent.calmest(stacks, scores)

    error, none = 0.1 / 20, torch.zeros(count, dtype=torch.float64)
    assert chosen(0.1 * noise + 0.9 * error, none + 1e-3, none - 0) == 5
    assert chosen(0.1 * noise + 1.1 * error, none + 1e-3, none) == 4
    assert chosen(none + 1e-3, 0.1 * noise + 0.9 * error, none) == 6
    assert chosen(none, none, none) == 6
    descent.own[:] = -torch.inf
    assert chosen(none, none, none) == 4  # nothing tells them apart
