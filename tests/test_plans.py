"""Plans of smaller models: which units go, from which layers, and in which order where several read them."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import cofire
from cofire.errors import InputError
from cofire.orders import eliminate
from cofire.plans import Plan


def repeated(copies=(4, 1), width=6):
    """A net in whose layers every unit stands several times, and its data."""
    torch.manual_seed(0)
    sizes = [5, *(width * count for count in copies), 3]
    layers = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).eval()
    with torch.no_grad():
        for place, count in enumerate(copies):
            for values in (net[2 * place].weight, net[2 * place].bias):
                values.copy_(values[:width].repeat(count, *[1] * (values.ndim - 1)))
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(1))
    return net, (x, torch.arange(400) % 3)


def lost(weights, covariance, kept, ridge):
    """Share of the variance of W x that the kept units do not give, by plain least squares with a ridge."""
    count = len(covariance)
    regular = covariance + ridge * covariance.diagonal().mean() * torch.eye(count, dtype=torch.float64)
    gone = [unit for unit in range(count) if unit not in kept]
    if not gone:
        return 0.0
    block = regular[gone][:, gone]
    if kept:
        block = block - regular[gone][:, kept] @ torch.linalg.inv(regular[kept][:, kept]) @ regular[kept][:, gone]
    taken = weights[:, gone]
    return float((taken @ block * taken).sum() / (weights @ covariance * weights).sum())


# ---------------------------------------------------------------- in closed form


def test_units_are_taken_from_where_they_are_repeated():
    net, batch = repeated()
    stats = cofire.record(net, [batch], progress=False, covariance=True)
    plan = Plan(net, batch, stats)
    assert plan.counts(0.5) == [12, 3]
    counts = plan.counts(14 / 30, plan.costs(plan.order("obs")))
    assert (sum(counts), counts[1] >= 5) == (14, True)
    small = cofire.prune(net, batch, stats, keep=14 / 30, across="loss")
    assert [small[0].out_features, small[2].out_features] == counts
    with torch.no_grad():
        assert torch.allclose(small(batch[0]), net(batch[0]), atol=0.02)


def test_with_max_drop_units_are_taken_from_where_they_are_repeated():
    net, (x, labels) = repeated()
    stats = cofire.record(net, [(x, labels)], progress=False, covariance=True)
    with torch.no_grad():
        batch = x, net(x).argmax(1)
    plain, across = (cofire.prune(net, batch, stats, max_drop=0.02, batches=[batch], across=how) for how in ("shares", None))
    units = [made[0].out_features + made[2].out_features for made in (plain, across)]
    assert units[1] < units[0] < 30
    bare = cofire.prune(net, batch, stats, max_drop=0.02, batches=[batch], compensate=False)
    assert bare[0].out_features == pytest.approx(4 * bare[2].out_features, abs=2)


def test_one_unit_of_every_layer_stays():
    net, batch = repeated()
    plan = Plan(net, batch, cofire.record(net, [batch], progress=False, covariance=True))
    assert plan.counts(0.001) == plan.counts(0.001, plan.costs(plan.order("obs"))) == [1, 1]
    assert plan.counts(1.0, plan.costs(plan.order("obs"))) == [24, 6]


def test_random_orders_of_equally_large_layers_differ_and_come_again():
    net, batch = repeated(copies=(4, 4))
    plan = Plan(net, batch, cofire.record(net, [batch], progress=False))
    first, second = plan.order("random")
    assert first.tolist() != second.tolist()
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(24))
    assert [order.tolist() for order in plan.order("random")] == [first.tolist(), second.tolist()]


# ---------------------------------------------------------------- reference


def test_costs_are_what_least_squares_loses_summed_over_readers():
    random = torch.Generator().manual_seed(0)
    readers = []
    for outputs in (2, 9):
        x = torch.randn(50, 5, generator=random, dtype=torch.float64) @ torch.randn(5, 5, generator=random, dtype=torch.float64)
        readers.append((torch.randn(outputs, 5, generator=random, dtype=torch.float64), x.T @ x / 50))

    def total(kept):
        return sum(lost(*reader, kept, 1e-3) for reader in readers)

    order, costs = eliminate(readers)
    kept = list(range(5))
    for unit, cost in zip(order.tolist(), costs.tolist(), strict=True):
        rises = {other: total([one for one in kept if one != other]) - total(kept) for other in kept}
        assert cost == pytest.approx(rises[unit], rel=1e-6)
        assert rises[unit] == pytest.approx(min(rises.values()), rel=1e-6)
        kept.remove(unit)
    given, again = eliminate(readers, order=order.flip(0))
    assert torch.equal(given, order.flip(0))
    assert float(again.sum()) == pytest.approx(float(costs.sum()), rel=1e-6)


def test_a_plan_makes_what_prune_makes():
    net, batch = repeated((2, 2))
    stats = cofire.record(net, [batch], progress=False, covariance=True)
    plan = Plan(net, batch, stats)
    made = plan.smaller(plan.order("obs"), plan.counts(0.5))
    small = cofire.prune(net, batch, stats, keep=0.5)
    with torch.no_grad():
        assert torch.equal(made(batch[0]), small(batch[0]))


def test_fitting_along_a_convolutional_net_keeps_more_than_fitting_each_alone():
    pytest.importorskip("torch_pruning")
    digits, test = cofire.data.load("digits"), list(cofire.data.load("digits", "test").batches())
    torch.manual_seed(0)
    layers, before = [], 1
    for width in (16, 16, 16, 16, 16):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        before = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    cofire.fit(net, digits, epochs=4, lr=3e-3, seed=0, progress=False)
    stats = cofire.record(net, digits.batches(), progress=False, covariance=True)
    alone, along = (cofire.prune(net, test[0], stats, keep=0.6, batches=given) for given in (None, digits.batches()))
    with torch.no_grad():
        apart = [
            sum(float((net(x).log_softmax(1) - small(x).log_softmax(1)).square().sum()) for x, _ in test)
            for small in (alone, along)
        ]
    assert apart[1] < 0.5 * apart[0]


# ---------------------------------------------------------------- errors


def test_statistics_of_other_units_are_refused():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10)
    )
    digits = cofire.data.load("digits", limit=50)
    stats, batch = cofire.record(net, digits.batches(), pool="none", progress=False), next(iter(digits.batches()))
    with pytest.raises(
        InputError, match=r"the statistics of '1' must be of its 4 units; they are of 256. Record .* pool=\"mean\""
    ):
        cofire.prune(net, batch, stats, by="mutual_information", keep=0.5, layers="1", compensate=False)
    chain = cofire.zoo.model("fcnn:64-16-10", seed=0)
    other = cofire.FiringStats.from_activations({"relu1": torch.rand(20, 12)}, torch.arange(20) % 10)
    with pytest.raises(InputError, match="must be of its 16 units; they are of 12"):
        cofire.prune(chain, batch, other, by="mutual_information", keep=0.5, compensate=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.5, "across": "raw"}, 'across must be "shares" or "loss"; found \'raw\''),
        ({"keep": 5, "across": "loss"}, 'with across="loss", keep must be a share of all units above 0; found 5'),
        ({"keep": {"1": 0.5}, "across": "loss"}, "keep must be a share of all units"),
    ],
)
def test_wrong_input(options, words):
    net, batch = repeated()
    with pytest.raises(InputError, match=words):
        cofire.prune(net, batch, cofire.record(net, [batch], progress=False, covariance=True), **options)
