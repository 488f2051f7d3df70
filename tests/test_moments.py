"""Second moments of units: the covariance is numpy's, and Fisher moments are those of finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cofire
from cofire.batches import Batch
from cofire.errors import ModelError
from cofire.moments import covariances, fisher_moments, random_directions
from cofire.taps import Taps


def batched(x, size=None):
    return [Batch(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(size or len(x))]


def watched(net, x, layers=None):
    taps = Taps(net, layers)
    with taps:
        taps.forward(x, len(x), lambda *_: None)
        taps.check()
    return taps


def moments(net, x, means, size=None, seed=0, classes=3):
    with watched(net, x) as taps:
        return fisher_moments(taps, batched(x, size), means, classes, seed)


def net_of(*modules, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*(module() for module in modules)).double()


# ---------------------------------------------------------------- closed forms


def test_directions_have_the_fisher_information_as_their_second_moment():
    logits = torch.tensor([[0.3, -1.0, 0.8, 0.0]], dtype=torch.float64).expand(200_000, 4)
    found = random_directions(logits, torch.Generator().manual_seed(0))
    shares = logits[0].softmax(0)
    assert torch.allclose(found.T @ found / len(found), shares.diag() - torch.outer(shares, shares), atol=2e-3)


def test_on_a_linear_net_the_moments_are_in_closed_form():
    net = net_of(lambda: nn.Linear(4, 5), nn.ReLU, lambda: nn.Linear(5, 3))
    x = torch.randn(6, 4, dtype=torch.float64)
    acts = net[1](net[0](x)).detach()
    mean, weights = acts.mean(0), net[2].weight.detach()
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for act, share in zip(acts, net(x).detach().softmax(1), strict=True):
        information = share.diag() - torch.outer(share, share)
        expected += torch.outer(act - mean, act - mean) * (weights.T @ information @ weights) / 6
    (found,) = moments(net, x.repeat(20_000, 1), {"1": mean}, size=10_000).values()
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))


def test_a_unit_that_is_always_at_its_mean_or_not_read_has_no_moment():
    net = net_of(lambda: nn.Linear(4, 5), nn.ReLU, lambda: nn.Linear(5, 3))
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].bias[0] = 2
        net[2].weight[:, 1] = 0
    x = torch.randn(30, 4, dtype=torch.float64)
    mean = net[1](net[0](x)).detach().mean(0)
    found = moments(net, x, {"1": mean})["1"]
    assert float(found[:2].abs().max()) < 1e-20
    assert float(found[2:, 2:].abs().max()) > 1e-3


def test_a_single_output_is_the_second_of_two_scores():
    """Whether it is a logit, here always between 0 and 1, or the probability that a sigmoid makes of it."""
    net = net_of(lambda: nn.Linear(4, 5), nn.ReLU, lambda: nn.Linear(5, 2))
    with torch.no_grad():
        net[2].weight.mul_(0.1)[0] = 0
        net[2].bias.copy_(torch.tensor([0.0, 0.5]))
    single = nn.Linear(5, 1).double()
    single.load_state_dict({"weight": net[2].weight[1:], "bias": net[2].bias[1:]})
    x, means = torch.randn(30, 4, dtype=torch.float64), {"1": torch.zeros(5, dtype=torch.float64)}
    wanted = moments(net, x, means, classes=2)["1"]
    for ending in ([], [nn.Sigmoid()]):
        same = nn.Sequential(net[0], net[1], single, *ending)
        assert bool(((same(x) >= 0) & (same(x) <= 1)).all())
        assert torch.allclose(moments(same, x, means, classes=2)["1"], wanted, rtol=1e-6, atol=1e-12)


# ---------------------------------------------------------------- reference


class Convolutional(nn.Module):
    """Channels and, after them, tokens, with a ReLU in place and a tensor that is changed later."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.mix, self.head = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 4, 1), nn.Linear(4, 5), nn.Linear(5, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x, held=None, moved=0.0):
        values = self.relu(self.one(x))
        values = values + moved if held == "relu" else values
        values = F.softplus(self.two(values))
        values = values + moved if held == "softplus" else values
        values *= 2
        values = F.gelu(self.mix(values.flatten(2).transpose(1, 2)))
        values = values + moved if held == "gelu" else values
        return self.head(values.mean(1))


@pytest.mark.parametrize("layer", ["relu", "softplus", "gelu"])
def test_moments_are_those_of_finite_differences(layer):
    torch.manual_seed(0)
    net, x = Convolutional().double().eval(), torch.randn(4, 1, 4, 4, dtype=torch.float64)
    values = {}
    with watched(net, x) as taps:
        taps.edit = lambda info, output: values.update({info.name: output.detach().clone()})
        logits = taps.forward(x, 4, lambda *_: None)
    acts, units = values[layer], values[layer].shape[-1 if layer == "gelu" else 1]
    mean = torch.linspace(0.1, 0.5, units, dtype=torch.float64)
    directions = random_directions(logits, torch.Generator().manual_seed(3))
    u = torch.zeros(4, units, dtype=torch.float64)
    for place in np.ndindex(*acts.shape[1:]):
        step = torch.zeros_like(acts)
        step[(slice(None), *place)] = 1e-6
        with torch.no_grad():
            slope = ((net(x, layer, step) - net(x, layer, -step)) * directions).sum(1) / 2e-6
        unit = place[-1 if layer == "gelu" else 0]
        u[:, unit] += (acts[(slice(None), *place)] - mean[unit]) * slope
    assert torch.allclose(moments(net, x, {layer: mean}, seed=3)[layer], u.T @ u / 4, rtol=1e-6, atol=1e-10)


def test_the_covariance_is_that_of_numpy():
    net, x = net_of(lambda: nn.Linear(4, 6), nn.ReLU, lambda: nn.Linear(6, 3)), torch.randn(25, 4, dtype=torch.float64)
    with watched(net, x) as taps:
        found = covariances(taps, batched(x, 7), ["1"])
    acts = net[1](net[0](x)).detach()
    assert list(found) == ["1"]
    assert np.allclose(found["1"], np.cov(acts.T.numpy(), bias=True))


def test_the_covariance_over_positions_takes_every_position_that_counts():
    torch.manual_seed(0)
    net, x = Convolutional().double().eval(), torch.randn(5, 1, 4, 4, dtype=torch.float64)
    with watched(net, x) as taps:
        found = covariances(taps, batched(x, 2), ["relu", "gelu"], positions=True)
    values = F.relu(net.one(x)).detach()
    assert np.allclose(found["relu"], np.cov(values.transpose(0, 1).flatten(1).numpy(), bias=True))
    tokens = F.gelu(net.mix((2 * F.softplus(net.two(values))).flatten(2).transpose(1, 2))).detach()
    assert np.allclose(found["gelu"], np.cov(tokens.flatten(0, 1).T.numpy(), bias=True))


def test_tokens_that_only_fill_up_do_not_count():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x, attention_mask):
            return (self.b(F.relu(self.a(x))) * attention_mask[..., None]).sum(1)

    net, x, mask = Tokens(), torch.randn(6, 5, 3), torch.arange(5) < torch.arange(6)[:, None]
    batch = Batch({"x": x, "attention_mask": mask.long()}, torch.zeros(6, dtype=torch.int64), mask.long())
    with Taps(net) as taps:
        taps.forward(batch.inputs, 6, lambda *_: None, batch.mask)
        found = covariances(taps, [batch], ["relu"], positions=True)["relu"]
    assert np.allclose(found, np.cov(F.relu(net.a(x))[mask].detach().double().T.numpy(), bias=True), atol=1e-6)


# ---------------------------------------------------------------- laws


def test_batches_do_not_matter_and_the_seed_decides():
    net = net_of(lambda: nn.Linear(4, 5), nn.Tanh, lambda: nn.Linear(5, 4), nn.ReLU, lambda: nn.Linear(4, 3))
    x = torch.randn(40, 4, dtype=torch.float64)
    means = {"1": torch.zeros(5, dtype=torch.float64), "3": torch.ones(4, dtype=torch.float64)}
    whole, parts = moments(net, x, means), moments(net, x, means, size=7)
    other = moments(net, x, means, seed=1)
    for name in means:
        assert torch.allclose(whole[name], parts[name], atol=1e-12)
        assert torch.equal(whole[name], moments(net, x, means)[name])
        assert not torch.allclose(whole[name], other[name])
        assert float(torch.linalg.eigvalsh(whole[name]).min()) > -1e-12


def test_frozen_weights_are_no_hindrance_and_nothing_is_left():
    net, x = net_of(lambda: nn.Linear(4, 5), nn.ReLU, lambda: nn.Linear(5, 3)), torch.randn(9, 4, dtype=torch.float64)
    means = {"1": torch.zeros(5, dtype=torch.float64)}
    open_ = moments(net, x, means)["1"]
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(moments(net.requires_grad_(False), x, means)["1"], open_)


# ---------------------------------------------------------------- errors, and the order


class Cut(nn.Module):
    """A net whose first layer has no gradient."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Linear(4, 5), nn.Linear(5, 3), nn.ReLU()

    def forward(self, x):
        return self.b(self.relu(self.a(x)).detach())


def test_a_layer_without_a_gradient_is_named():
    with pytest.raises(ModelError, match="a gradient must reach layer 'relu'; the logits do not depend on it"):
        moments(Cut(), torch.randn(4, 4), {"relu": torch.zeros(5)})


def test_the_order_is_the_same_in_every_run_and_beats_chance():
    digits, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
    net = cofire.zoo.model("fcnn:64-48-32-10", seed=0)
    cofire.fit(net, digits, epochs=8, seed=0, progress=False)
    stats = cofire.record(net, digits.batches(), progress=False)
    curves = [cofire.ablate(net, test.batches(size), stats, by="fisher", progress=False) for size in (256, 100)]
    assert curves[0].sequences == curves[1].sequences
    assert "Gradients were taken on the inputs" in curves[0].notes[0]
    random = cofire.ablate(net, test.batches(), stats, order="random", progress=False)
    assert curves[0].area > float(random.accuracies.mean(1).max())
