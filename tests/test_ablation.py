"""Cumulative ablation: the same accuracies as a masked forward pass, orders that do what their formulas say, clear errors."""

import itertools
import math
import pickle
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cofire
from activations import layer_of
from cofire import ablation
from cofire.errors import ActivationError, InputError, LayerError
from cofire.orders import greedy_reconstruction, obs_order, sequence
from cofire.verdicts import curve_findings


def blobs(samples=400, features=12, classes=4, seed=0):
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    middles = 1.5 * torch.randn(classes, features, generator=random)
    return middles[labels] + torch.randn(samples, features, generator=random), labels


def batched(x, y, size=64):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def fitted(*widths, activation=nn.ReLU, seed=0):
    """A trained multilayer perceptron without any help from cofire."""
    torch.manual_seed(seed)
    parts = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        parts += [nn.Linear(inputs, outputs), activation()]
    net = nn.Sequential(*parts, nn.Linear(*widths[-2:]))
    x, y = blobs(features=widths[0], classes=widths[-1])
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net.eval()


def masked_by_hand(net, x, y, order, fills, removed):
    """Correct predictions of a Sequential whose activations are held at their fills, one plain forward pass."""
    with torch.no_grad():
        for name, module in net.named_children():
            x = module(x)
            for layer, unit in order[:removed]:
                if layer == name:
                    x[:, unit] = fills[name][unit]
        return int((x.argmax(1) == y).sum()), float(F.cross_entropy(x, y))


def with_one_output(net):
    """The same classifier of two classes, with the difference of its logits as its output."""
    last = nn.Linear(net[-1].in_features, 1)
    with torch.no_grad():
        last.weight.copy_(net[-1].weight[1:] - net[-1].weight[:1])
        last.bias.copy_(net[-1].bias[1:] - net[-1].bias[:1])
    return nn.Sequential(*net[:-1], last)


# ---------------------------------------------------------------- the same as a masked forward pass


@pytest.mark.parametrize("layers", [["1"], ["3"], ["5"], ["1", "5"], None], ids=str)
@pytest.mark.parametrize("fill", ["mean", "zero"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.GELU])
def test_every_point_is_that_of_a_masked_forward_pass(activation, fill, layers, monkeypatch):
    monkeypatch.setattr(ablation, "_EVERY", 7)  # so that removed units leave the matrices several times
    net, (x, y) = fitted(12, 20, 16, 14, 4, activation=activation), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    curve = cofire.ablate(net, batched(x, y), stats, layers=layers, fill=fill, progress=False)
    assert curve.removed.tolist() == list(range(curve.units + 1))
    fills = {n: stats[n].sum.sum(0).div(stats.samples).float() if fill == "mean" else torch.zeros(99) for n in stats}
    for removed in range(0, curve.units + 1, 3):
        correct, loss = masked_by_hand(net, x, y, curve.sequences[0], fills, removed)
        assert abs(round(float(curve.accuracy[removed]) * len(y)) - correct) <= 1  # a tie of the argmax may go either way
        assert float(curve.loss[removed]) == pytest.approx(loss, abs=1e-4)


def test_units_that_never_fire_and_units_that_always_do_can_go():
    net, (x, y) = fitted(12, 20, 16, 14, 4), blobs(seed=1)
    with torch.no_grad():
        net[0].bias[3], net[0].bias[7] = -1000, 1000
    stats = cofire.record(net, batched(x, y), progress=False)
    curve = cofire.ablate(net, batched(x, y), stats, layers="1", by="firing_rate", fill="zero", progress=False)
    assert (curve.sequences[0][0], curve.sequences[0][-1]) == (("1", 3), ("1", 7))
    assert float(curve.accuracy[1]) == float(curve.accuracy[0])
    for removed in range(21):
        correct, loss = masked_by_hand(net, x, y, curve.sequences[0], {"1": torch.zeros(20)}, removed)
        assert abs(round(float(curve.accuracy[removed]) * len(y)) - correct) <= 1
        assert float(curve.loss[removed]) == pytest.approx(loss, rel=1e-4)


def test_under_autocast_every_step_is_a_masked_forward_pass():
    net, (x, y) = fitted(12, 20, 16, 4), blobs(seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        stats = cofire.record(net, batched(x, y), progress=False)
        curve = cofire.ablate(net, batched(x, y), stats, fill="zero", steps=[0, 9, 36], progress=False)
        correct, loss = masked_by_hand(net, x, y, curve.sequences[0], {name: torch.zeros(20) for name in stats}, 9)
    assert abs(round(float(curve.accuracy[1]) * len(y)) - correct) <= 1
    assert float(curve.loss[1]) == pytest.approx(loss, rel=1e-2)


def test_removing_several_units_at_a_step_is_removing_them_one_by_one():
    net, (x, y) = fitted(12, 20, 16, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    every = cofire.ablate(net, batched(x, y), stats, progress=False)
    some = cofire.ablate(net, batched(x, y), stats, steps=[0, 5, 11, 30, 36], progress=False)
    assert torch.equal(some.accuracy, every.accuracy[some.removed])
    assert torch.allclose(some.loss, every.loss[some.removed], atol=1e-5)
    assert torch.allclose(some.class_accuracy, every.class_accuracy[some.removed])


class Small(nn.Module):
    """Convolutions with a residual sum, one ReLU used twice, functional calls, and tokens: nothing that is a chain."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.mix, self.head = nn.ReLU(inplace=True), nn.Linear(8, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.one(x)))
        x = self.relu(self.two(x) + x)
        tokens = F.gelu(self.mix(x.flatten(2).transpose(1, 2)))
        return self.head(tokens.mean(1))


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_channels_and_tokens_are_held_at_their_fill(fill):
    torch.manual_seed(0)
    net, x, y = Small().eval(), torch.randn(40, 3, 6, 6), torch.arange(40) % 4
    stats = cofire.record(net, batched(x, y, 16), progress=False)
    assert list(stats) == ["relu", "relu#2", "gelu"]
    curve = cofire.ablate(net, batched(x, y, 16), stats, fill=fill, steps=[0, 3, 13, 26], progress=False)
    means = {name: layer.sum.sum(0).div(40).float() if fill == "mean" else torch.zeros(99) for name, layer in stats.items()}
    for step, removed in enumerate(curve.removed.tolist()):
        gone = {name: [unit for layer, unit in curve.sequences[0][:removed] if layer == name] for name in stats}

        def held(name, values, axis, gone=gone):
            view = values.movedim(axis, -1).clone()
            view[..., gone[name]] = means[name][gone[name]]
            return view.movedim(-1, axis)

        with torch.no_grad():
            h = held("relu", F.relu(net.norm(net.one(x))), 1)
            h = held("relu#2", F.relu(net.two(h) + h), 1)
            tokens = held("gelu", F.gelu(net.mix(h.flatten(2).transpose(1, 2))), 2)
            expected = net.head(tokens.mean(1))
        assert float(curve.accuracy[step]) == float((expected.argmax(1) == y).double().mean())
        assert float(curve.loss[step]) == pytest.approx(float(F.cross_entropy(expected, y)), abs=1e-5)


def test_a_resnet_is_ablated_by_channel_and_left_as_it_was():
    net = cofire.zoo.model("zoo:resnet18_cifar", classes=10, seed=0).train()
    x, y = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 10
    stats = cofire.record(net, [(x, y)], progress=False)
    before = pickle.dumps(net)
    last = list(stats)[-1]
    curve = cofire.ablate(net, [(x, y)], stats, layers=last, steps=3, progress=False)
    assert curve.removed.tolist() == [0, 256, 512]
    assert pickle.dumps(net) == before
    assert net.training
    assert float(curve.accuracy[-1]) == pytest.approx(0.1)  # all channels at one value: one class for all


class Branched(nn.Module):
    """Activations in place, one called twice, functional ones, a sum in place, a tuple handed on, and a token mixer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        self.left, self.right = nn.Conv2d(6, 6, 3, padding=1), nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(inplace=True))
        self.mixer = nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True)
        self.pair = Pair()
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.stem(x)))
        y = self.left(x)
        y += self.right(x)
        x, y = self.pair(F.relu(y, inplace=True), self.relu(x))
        x = self.mixer((x + y).flatten(2).transpose(1, 2))
        return self.head(F.gelu(x).mean(1))


class Pair(nn.Module):
    def forward(self, x, y):
        return x + 1, y * 2


@pytest.mark.parametrize("training", [False, True])
def test_what_comes_before_a_layer_is_kept_and_changes_nothing(training, monkeypatch):
    net = Branched().train(training)
    x, y = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 4
    parts = batched(x, y, 15)
    stats = cofire.record(net, parts, progress=False)
    before, state = pickle.dumps(net), set(vars(net.stem))
    kept = [cofire.ablate(net, parts, stats, "std", layers=name, steps=4, progress=False) for name in stats]
    kept.append(cofire.ablate(net, parts, stats, "std", steps=4, progress=False))
    assert set(vars(net.stem)) == state
    assert pickle.dumps(net) == before
    monkeypatch.setattr(ablation, "kept_before", lambda *_: nullcontext())
    whole = [cofire.ablate(net, parts, stats, "std", layers=name, steps=4, progress=False) for name in stats]
    whole.append(cofire.ablate(net, parts, stats, "std", steps=4, progress=False))
    assert len(kept) > 6
    for mine, other in zip(kept, whole, strict=True):
        assert torch.equal(mine.accuracies, other.accuracies)
        assert torch.equal(mine.losses, other.losses)


def test_modules_before_a_layer_run_once_for_each_batch():
    net = Branched().eval()
    x, y = torch.randn(40, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 4
    parts = batched(x, y, 15)
    stats = cofire.record(net, parts, progress=False)
    ran = {}
    for name, module in net.named_modules():
        real = type(module).forward

        def counted(self, *given, real=real, name=name, **named):
            ran[name] = ran.get(name, 0) + 1
            return real(self, *given, **named)

        module.forward = counted.__get__(module)
    cofire.ablate(net, parts, stats, "std", layers=list(stats)[-1], steps=6, progress=False)
    assert ran["head"] == 2 + 3 * 7  # two looks at the first batch; then one pass and six steps for each of three batches
    assert ran["stem"] == ran["left"] == ran["right.0"] == ran["mixer"] == 2 + 3
    assert ran["relu"] == 2 * ran["head"]  # called twice, so that nobody can know which call is which
    assert ran["pair"] == ran["head"]  # gives a tuple
    assert all("forward" in vars(module) for module in net.modules())  # as they were given


def test_where_a_batch_does_not_come_to_the_first_layer_nothing_is_kept():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Sequential(nn.Linear(6, 8), nn.ReLU())
            self.head = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 3))

        def forward(self, x):
            return self.head(self.second(self.first(x) if x.sum() > 0 else x))

    net, x, y = Sometimes().eval(), torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
    stats = cofire.record(net, [(x + 1, y)], progress=False)
    both = cofire.ablate(net, [(x + 1, y), (x - 1, y)], stats, "std", steps=[0, 14], progress=False)
    with torch.no_grad():
        constant = stats["second.1"].sum.sum(0) / 60
        last = net.head(constant.float()[None]).argmax(1)
    assert float(both.accuracy[-1]) == float((last == y).double().mean())


def test_a_model_whose_pass_fails_is_left_as_it_was():
    net = Branched().eval()
    x, y = torch.randn(20, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(20) % 4
    stats = cofire.record(net, [(x, y)], progress=False)
    calls = []

    def fails(*_):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("no more")

    net.head.register_forward_hook(fails)
    with pytest.raises(RuntimeError, match="no more"):
        cofire.ablate(net, [(x, y)], stats, "std", layers=list(stats)[-1], steps=6, progress=False)
    assert not any("forward" in vars(module) for module in net.modules())
    assert sum(len(module._forward_hooks) for module in net.modules()) == 1


def test_all_units_at_their_mean_leave_one_prediction():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    curve = cofire.ablate(net, batched(x, y), stats, progress=False)
    assert float(curve.accuracy[-1]) == 0.25
    assert curve.class_accuracy[-1].tolist().count(1.0) == 1


# ---------------------------------------------------------------- orders


def test_ascending_is_descending_backwards_and_ties_go_by_index():
    scores = {"a": torch.tensor([2.0, 1.0, 1.0, 3.0])}
    assert sequence(scores, {"a": 4}, "ascending") == [("a", 1), ("a", 2), ("a", 0), ("a", 3)]
    assert sequence(scores, {"a": 4}, "descending") == [("a", 3), ("a", 0), ("a", 1), ("a", 2)]


def test_layers_mix_by_equal_shares_or_by_raw_scores():
    scores = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([10.0, 20.0, 30.0, 40.0])}
    shares = sequence(scores, {"a": 2, "b": 4}, "ascending")
    assert [layer for layer, _ in shares] == ["b", "a", "b", "b", "a", "b"]
    raw = sequence(scores, {"a": 2, "b": 4}, "ascending", across="raw")
    assert [layer for layer, _ in raw] == ["a", "a", "b", "b", "b", "b"]


def test_of_curves_that_start_without_some_units_nobody_says_how_many_can_go():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    found = [
        cofire.ablate(net, batched(x, y), stats, "std", order=order, steps=[5, 20], seeds=2, progress=False)
        for order in ("ascending", "random")
    ]
    (said,) = curve_findings(found)
    assert "over the shares removed, the least of which is 25%. Removing at random gives" in said.text
    assert "can go" not in said.text
    assert {"removable", "random_removable"}.isdisjoint(said.numbers)


class Branches(nn.Module):
    """Two branches of the same width, side by side: each later convolution of that width reads another layer first."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.then = nn.Conv2d(1, 5, 3), nn.Conv2d(1, 5, 3), nn.Conv2d(5, 5, 1)
        self.both, self.head = nn.Conv2d(10, 7, 1), nn.Linear(7 * 4, 3)

    def forward(self, x):
        left = torch.relu(self.left(x))
        right = torch.relu(self.then(torch.relu(self.right(x))))
        x = torch.relu(self.both(torch.cat([right, left], 1)))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


def test_weights_are_those_of_the_modules_that_read_a_layer():
    net, x, y = Branches().eval(), torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    stats = cofire.record(net, [(x, y)], progress=False)
    readers = [net.both.weight[:, 5:, 0, 0], net.then.weight[:, :, 0, 0], net.both.weight[:, :5, 0, 0]]
    readers.append(net.head.weight.view(3, 7, 4).transpose(1, 2).reshape(12, 7))
    assert len(stats) == len(readers)
    for name, weights in zip(stats, readers, strict=True):
        spread = cofire.table(stats).query("layer == @name")["std"].to_numpy()
        wanted = (weights.detach().double().norm(dim=0) * torch.tensor(spread.tolist())).argsort().tolist()
        curve = cofire.ablate(net, [(x, y)], stats, by="weight_std", layers=name, steps=2, progress=False)
        assert [unit for _, unit in curve.sequences[0]] == wanted


def test_behind_a_sum_weights_are_those_of_the_next_module_of_the_width():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.third(x + torch.tanh(self.second(x)))

    net, x, y = Residual().eval(), torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3
    stats = cofire.record(net, [(x, y)], progress=False)
    values = torch.tanh(net.second(torch.relu(net.first(x)))).detach().double()
    wanted = (net.third.weight.detach().double().norm(dim=0) * values.std(0, correction=0)).argsort().tolist()
    curve = cofire.ablate(net, [(x, y)], stats, by="weight_std", layers=list(stats)[-1], steps=2, progress=False)
    assert [unit for _, unit in curve.sequences[0]] == wanted


def test_random_orders_are_cumulative_and_differ_by_seed():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    curve = cofire.ablate(net, batched(x, y), stats, order="random", seeds=3, progress=False)
    assert curve.accuracies.shape == (3, 21)
    assert len({tuple(order) for order in curve.sequences}) == 3
    assert all(sorted(order) == sorted(curve.sequences[0]) for order in curve.sequences)
    low, high = curve.band
    assert bool(((low <= curve.accuracy + 1e-12) & (curve.accuracy <= high + 1e-12)).all())


def test_random_is_an_order_and_a_name_of_it():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    one = cofire.ablate(net, batched(x, y), stats, "random", seeds=2, progress=False)
    other = cofire.ablate(net, batched(x, y), stats, order="random", seeds=2, progress=False)
    assert (one.by, one.order, one.sequences) == (other.by, other.order, other.sequences)
    found = ablation.curves_of(net, batched(x, y), stats, ["random", "std"], seeds=2, progress=False)
    assert [(curve.by, curve.order) for curve in found] == [("std", "ascending"), ("std", "descending"), ("random", "random")]


def test_layers_go_by_names_and_globs():
    net, (x, y) = fitted(12, 20, 16, 4), blobs(seed=1)
    stats = cofire.record(net, batched(x, y), progress=False)
    assert stats.named("*") == list(stats)
    assert stats.named(["3", "1"]) == ["1", "3"]
    assert cofire.ablate(net, batched(x, y), stats, layers="[23]", steps=2, progress=False).layers == ("3",)
    with pytest.raises(LayerError, match=r"no layer named 'fc\*'"):
        stats.named(["1", "fc*"])


def test_reconstruction_removes_what_disturbs_the_next_layer_least():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(200, 7, generator=random, dtype=torch.float64) @ torch.randn(7, 7, generator=random, dtype=torch.float64)
    weights = torch.randn(5, 7, generator=random, dtype=torch.float64)
    centred = x - x.mean(0)
    order, gone = greedy_reconstruction(weights, centred.T @ centred / 200).tolist(), []
    for unit in order:
        left = [u for u in range(7) if u not in gone]
        costs = {u: float((centred[:, [*gone, u]] @ weights[:, [*gone, u]].T).square().sum()) for u in left}
        assert unit == min(costs, key=costs.get)
        gone.append(unit)


def test_obs_removes_what_costs_least_once_the_rest_is_fitted_again():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(300, 6, generator=random, dtype=torch.float64) @ torch.randn(6, 6, generator=random, dtype=torch.float64)
    weights = torch.randn(4, 6, generator=random, dtype=torch.float64)
    centred = x - x.mean(0)
    spread, target = centred.T @ centred / 300, centred @ weights.T
    order, gone = obs_order(weights, spread, ridge=1e-12).tolist(), []
    for unit in order[:-1]:
        left = [u for u in range(6) if u not in gone]
        costs = {}
        for u in left:
            rest = centred[:, [v for v in left if v != u]]
            costs[u] = float((rest @ torch.linalg.lstsq(rest, target).solution - target).square().sum())
        assert unit == min(costs, key=costs.get)
        gone.append(unit)


@pytest.mark.parametrize(
    "by", ["fisher", "reconstruction", "obs", "weight_std", "firing_rate", "mean", "std", "class_selectivity"]
)
def test_every_order_runs_on_a_chain_and_on_convolutions(by):
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    assert cofire.ablate(net, batched(x, y), stats, by=by, progress=False).by == by
    torch.manual_seed(0)
    net, x, y = Small().eval(), torch.randn(24, 3, 6, 6), torch.arange(24) % 4
    stats = cofire.record(net, [(x, y)], progress=False)
    assert cofire.ablate(net, [(x, y)], stats, by=by, steps=2, progress=False).accuracy.isfinite().all()


def test_good_orders_beat_random_ones():
    net, (x, y) = fitted(12, 60, 4), blobs(2000, seed=0)
    stats = cofire.record(net, batched(*blobs()), progress=False, covariance=True)
    area = {by: cofire.ablate(net, batched(x, y), stats, by=by, progress=False).area for by in ("reconstruction", "weight_std")}
    random = cofire.ablate(net, batched(x, y), stats, order="random", seeds=5, progress=False)
    assert min(area.values()) > float(random.accuracies.mean(1).max())


def test_covariance_that_was_not_recorded_is_taken_from_the_inputs_and_said():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    recorded = cofire.record(net, batched(x, y), progress=False, covariance=True)
    without = cofire.record(net, batched(x, y), progress=False, covariance=False)
    one = cofire.ablate(net, batched(x, y), recorded, by="obs", progress=False)
    other = cofire.ablate(net, batched(x, y), without, by="obs", progress=False)
    assert one.notes == ()
    assert "was not recorded" in other.notes[0]
    assert one.sequences == other.sequences


def test_covariance_is_that_of_numpy_and_adds():
    acts = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 3
    whole = layer_of(acts, labels)
    expected = torch.from_numpy(__import__("numpy").cov(acts.T.double().numpy(), bias=True))
    assert torch.allclose(cofire.covariance(whole), expected, atol=1e-12)
    parts = layer_of(acts[:20], labels[:20], 3, cofiring="none") + layer_of(acts[20:], labels[20:], 3, cofiring="none")
    assert torch.allclose(cofire.covariance(parts), expected, atol=1e-12)
    with pytest.raises(InputError, match="must hold the covariance of its 6 units"):
        cofire.covariance(layer_of(acts, labels, covariance=5))


# ---------------------------------------------------------------- what a curve says


def curve_of(accuracy, removed=None, **changes):
    accuracy = torch.tensor([accuracy], dtype=torch.float64) if not isinstance(accuracy[0], list) else torch.tensor(accuracy)
    count = accuracy.shape[1]
    removed = list(range(count)) if removed is None else removed
    fields = {
        "removed": torch.tensor(removed), "accuracies": accuracy.double(), "losses": torch.zeros_like(accuracy),
        "class_accuracies": accuracy[..., None], "by": "mutual_information", "order": "ascending", "fill": "mean",
        "layers": ("fc1",), "units": removed[-1], "sequences": ((),), "samples": 10_000,
    } | changes  # fmt: skip
    return cofire.Curve(**fields)


def test_area_and_removable_in_closed_form():
    curve = curve_of([0.9, 0.9, 0.895, 0.5, 0.1])
    assert curve.area == pytest.approx((0.45 + 0.9 + 0.895 + 0.5 + 0.05) / 4)
    assert (curve.removable(), curve.removable(0.0), curve.removable(1.0)) == (2, 1, 4)
    columns = ["removed", "share", "accuracy", "accuracy_least", "accuracy_most", "loss"]
    assert list(curve.frame().columns) == columns
    split = curve_of(
        [[0.9, 0.5], [0.7, 0.3]], class_accuracies=torch.tensor([[[1.0, 0.8], [0.6, 0.4]], [[0.8, 0.6], [0.4, 0.2]]])
    )
    frame = split.frame(by_class=True)
    assert list(frame.columns) == [*columns, "class 0", "class 1"]
    assert frame["class 1"].tolist() == pytest.approx([0.7, 0.3])


def test_without_the_whole_model_nothing_is_said_of_how_many_can_go():
    curve = curve_of([0.5, 0.4], removed=[8, 10])
    with pytest.raises(InputError, match=r"takes the accuracy with all of them; the curve starts without 8. Name 0 among"):
        curve.removable()
    assert repr(curve).endswith("fc1: 50.00% without 8 of 10 units, 40.00% without 10)")
    assert curve.area == pytest.approx(0.45)


def test_an_order_no_better_than_random_is_said():
    good, random = curve_of([0.9, 0.9, 0.8]), curve_of([[0.9, 0.7, 0.6], [0.9, 0.71, 0.6]], by="random", order="random")
    (said,) = curve_findings([good, random])
    assert "low values first keeps accuracy longest: 87.5%" in said.text
    assert "no order is better" not in said.text
    (said,) = curve_findings([curve_of([0.9, 0.7, 0.6]), random])
    assert "no order is better than chance here" in said.text
    (said,) = curve_findings([good, curve_of([0.9, 0.3, 0.2], order="descending"), random])
    assert said.text.endswith("Worse than random: mutual information, high values first.")


# ---------------------------------------------------------------- stopping, resuming, wrong input


def test_a_run_that_was_stopped_goes_on_and_gives_the_same(tmp_path, monkeypatch):
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    monkeypatch.setattr(ablation, "_ROWS", 100)
    whole = cofire.ablate(net, batched(x, y, 50), stats, progress=False)
    seen = 0

    class Stopping(list):
        def __iter__(self):
            nonlocal seen
            for at, batch in enumerate(super().__iter__()):
                if at == 5 and not seen:
                    seen = 1
                    raise KeyboardInterrupt
                yield batch

    file, batches = tmp_path / "state", Stopping(batched(x, y, 50))
    with pytest.raises(KeyboardInterrupt):
        cofire.ablate(net, batches, stats, progress=False, resume=file)
    assert file.exists()
    with pytest.raises(InputError, match="is of another run"):
        cofire.ablate(net, batches, stats, fill="zero", progress=False, resume=file)
    again = cofire.ablate(net, batches, stats, progress=False, resume=file)
    assert torch.equal(again.accuracies, whole.accuracies)
    assert torch.equal(again.losses, whole.losses)
    assert not file.exists()


@pytest.mark.parametrize("chain", [True, False])
def test_curves_that_were_stopped_go_on_and_those_that_were_whole_are_not_measured_again(chain, tmp_path):
    net = fitted(12, 20, 4) if chain else nn.Sequential(fitted(12, 20, 4), nn.LayerNorm(4))
    x, y = blobs(seed=1)
    stats = cofire.record(net, batched(*blobs()), progress=False)
    batches = batched(x, y, 90)
    whole = ablation.curves_of(net, batches, stats, ["std", "mean"], steps=5, seeds=2, progress=False)
    passes = []
    net[0].register_forward_hook(lambda *_: passes.append(1))

    class Stopping(list):
        reads = 0

        def __iter__(self):
            self.reads += 1
            for at, batch in enumerate(super().__iter__()):
                if at == 2 and self.reads == 2 * 3:  # each curve looks at the first batch and then reads all
                    raise KeyboardInterrupt
                yield batch

    folder = tmp_path / "work"
    with pytest.raises(KeyboardInterrupt):
        ablation.curves_of(net, Stopping(batches), stats, ["std", "mean"], steps=5, seeds=2, progress=False, resume=folder)
    assert len(list(folder.iterdir())) >= 2
    passes.clear()
    again = ablation.curves_of(net, batches, stats, ["std", "mean"], steps=5, seeds=2, progress=False, resume=folder)
    after = len(passes)
    passes.clear()
    ablation.curves_of(net, batches, stats, ["std", "mean"], steps=5, seeds=2, progress=False)
    assert after < len(passes)
    assert list(folder.iterdir()) == []
    for mine, other in zip(again, whole, strict=True):
        assert (mine.by, mine.order) == (other.by, other.order)
        assert torch.equal(mine.accuracies, other.accuracies)
        assert torch.equal(mine.losses, other.losses)


WRONG = [
    ({"by": "beauty"}, InputError, "by must be one of activation_entropy, .* or scores by layer; found 'beauty'"),
    ({"by": "firing_probability"}, InputError, "by must be one of"),
    ({"order": "upwards"}, InputError, "order must be"),
    ({"fill": "noise"}, InputError, "fill must be"),
    ({"across": "all"}, InputError, "across must be"),
    ({"layers": "fc9"}, LayerError, "no layer named 'fc9'"),
    ({"layers": []}, LayerError, "at least one layer"),
    ({"steps": [0, 21]}, InputError, "steps must be whole numbers between 0 and the 20 units"),
    ({"steps": [1.5]}, InputError, r"steps must be whole numbers .*; found \[1.5\]"),
    ({"steps": 0.5}, InputError, "steps must be whole numbers .*; found 0.5"),
    ({"steps": []}, InputError, r"steps must be whole numbers .*; found \[\]"),
    ({"steps": 0}, InputError, "steps must be at least 1"),
    ({"seeds": 0}, InputError, "seeds must be"),
    ({"by": {"1": torch.ones(19)}}, InputError, r"scores of layer '1' must be \[20 units\]"),
    ({"by": {"1": torch.full((20,), math.nan)}}, InputError, "must be numbers; found NaN"),
    ({"by": {"other": torch.ones(20)}}, InputError, "scores must be given for layer '1'"),
]


@pytest.mark.parametrize(("options", "kind", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input(options, kind, words):
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(x, y), progress=False)
    with pytest.raises(kind, match=words):
        cofire.ablate(net, batched(x, y), stats, **options, progress=False)


def test_statistics_of_another_model_are_refused():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(x, y), progress=False)
    with torch.no_grad():
        net[0].weight.add_(0.1)
    with pytest.raises(InputError, match="statistics must be of this model"):
        cofire.ablate(net, batched(x, y), stats, progress=False)
    with pytest.raises(InputError, match="at least one sample"):
        cofire.ablate(fitted(12, 20, 4), [], cofire.record(fitted(12, 20, 4), batched(x, y), progress=False), progress=False)


def test_activations_of_nan_and_iterators_are_refused():
    net, (x, y) = fitted(12, 20, 4), blobs(seed=1)
    stats = cofire.record(net, batched(x, y), progress=False)
    with pytest.raises(InputError, match="readable more than once"):
        cofire.ablate(net, iter(batched(x, y)), stats, progress=False)
    x[3] = math.nan
    with pytest.raises(ActivationError):
        cofire.record(net, batched(x, y), progress=False)


@pytest.mark.parametrize("output", ["logit", "probability", "probabilities"])
def test_any_form_of_output_gives_the_same_curve(output):
    net, (x, y) = fitted(12, 16, 2), blobs(classes=2)
    same = {
        "logit": lambda: with_one_output(net),
        "probability": lambda: nn.Sequential(*with_one_output(net), nn.Sigmoid()),
        "probabilities": lambda: nn.Sequential(*net, nn.Softmax(1)),
    }[output]()
    wanted, found = (
        cofire.ablate(model, batched(x, y), cofire.record(model, batched(x, y), progress=False), "std", steps=5, progress=False)
        for model in (net, same)
    )
    assert torch.equal(found.accuracies, wanted.accuracies)
    assert torch.allclose(found.losses, wanted.losses, rtol=1e-4)


@pytest.mark.parametrize("options", [{"fill": "mean"}, {"fill": "zero", "by": "fisher"}], ids=str)
def test_means_are_asked_for_where_they_are_needed(options):
    net, x, y = Small().eval(), torch.randn(24, 3, 6, 6), torch.arange(24) % 4
    stats = cofire.record(net, [(x, y)], pool="max", progress=False)
    with pytest.raises(
        InputError, match=r'fill="mean" and by="fisher" need means; the statistics were recorded with pool="max"'
    ):
        cofire.ablate(net, [(x, y)], stats, steps=2, progress=False, **options)
