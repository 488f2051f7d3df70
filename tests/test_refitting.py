"""Weights fitted again: least squares on what is read now, module after module, and nothing where nothing changed."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cofire.batches import Batch, spread_out
from cofire.errors import ModelError
from cofire.grouping import Member
from cofire.refitting import compensated, fit_along, refitted


def moments(x, y):
    """Means, cross covariance and covariance of what was and what is, each sample a row."""
    mean, now = x.mean(0), y.mean(0)
    return mean, now, (x - mean).T @ (y - now) / len(x), (y - now).T @ (y - now) / len(y)


def least_squares(inputs, outputs):
    """Weights and bias of the best linear map, and its squared error."""
    design = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=inputs.dtype)], 1)
    found = torch.linalg.lstsq(design, outputs).solution
    return found[:-1].T, found[-1]


def samples(count, length):
    return Batch(torch.randn(count, length, generator=torch.Generator().manual_seed(0)), torch.zeros(count, dtype=torch.int64))


def reader(name, units, positions=1):
    return Member(name, "in", torch.arange(units * positions).view(units, positions), "layer")


# ---------------------------------------------------------------- in closed form


def test_a_unit_that_grew_is_read_with_less_weight():
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    weights, bias = refitted(torch.tensor([[6.0]]), torch.tensor([1.0]), torch.tensor([0]), *moments(x, 2 * x + 1), 0.0)
    assert (weights.item(), bias.item()) == (3.0, -2.0)


def test_units_that_say_nothing_leave_their_mean_in_the_bias():
    x = torch.tensor([[1.0, 5.0], [1.0, 7.0]], dtype=torch.float64)
    weights, bias = compensated(torch.tensor([[2.0, 3.0]]), torch.zeros(1), x.mean(0), moments(x, x)[3], torch.tensor([0]))
    assert weights.tolist() == [[2.0]]
    assert bias.item() == pytest.approx(18.0)


# ---------------------------------------------------------------- laws


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0, 10))
def test_what_did_not_change_is_read_as_before(seed, units, ridge):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(40, units, generator=random, dtype=torch.float64)
    weights, bias = torch.randn(3, units, generator=random, dtype=torch.float64), torch.randn(3, generator=random).double()
    fitted, shift = refitted(weights, bias, torch.arange(units), *moments(x, x), ridge)
    assert torch.allclose(fitted, weights, atol=1e-6)
    assert torch.allclose(shift, bias, atol=1e-6)


# ---------------------------------------------------------------- reference


def test_changed_units_are_read_by_least_squares():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=random, dtype=torch.float64) + 2
    kept = torch.tensor([1, 2, 5])
    y = x[:, kept] * 1.5 + 0.3 * torch.randn(300, 3, generator=random, dtype=torch.float64)
    weights, bias = torch.randn(4, 6, generator=random, dtype=torch.float64), torch.randn(4, generator=random).double()
    fitted, shift = refitted(weights, bias, kept, *moments(x, y), 0.0)
    expected = least_squares(y, x @ weights.T + bias)
    assert torch.allclose(fitted, expected[0], atol=1e-9)
    assert torch.allclose(shift, expected[1], atol=1e-9)


def test_every_module_is_fitted_to_what_those_before_it_have_become():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 3)).double().eval()
    batch = samples(400, 5)
    batch = Batch(batch.inputs.double(), batch.labels)
    first, second = torch.tensor([0, 2, 3, 7, 8, 11]), torch.tensor([1, 4, 5, 9])
    made = copy.deepcopy(net)
    fit_along(net, made, batch, {"2": [(reader("2", 12), first)], "4": [(reader("4", 10), second)]})
    with torch.no_grad():
        hidden = net[1](net[0](batch.inputs))
        weights, bias = least_squares(hidden[:, first], net[2](hidden))
        changed = torch.relu(hidden[:, first] @ weights.T + bias)[:, second]
        last = least_squares(changed, net[4](torch.relu(net[2](hidden))))
        assert torch.allclose(made[2].weight[:, first], weights, atol=0.02)
        given = torch.relu(hidden[:, first] @ made[2].weight[:, first].T + made[2].bias)[:, second]
        apart = [float((read @ w.T + b - net(batch.inputs)).square().sum()) for read, w, b in (
            (given, made[4].weight[:, second], made[4].bias), (changed, *last),
        )]  # fmt: skip
        assert apart[1] < apart[0] < 1.01 * apart[1]
        assert not made[4].weight[:, [0, 2, 3, 6, 7, 8]].any()


def test_fitting_leaves_the_model_and_its_hooks_as_they_were():
    net, batch = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3)), samples(50, 5)
    before = copy.deepcopy(net.state_dict())
    fit_along(net, copy.deepcopy(net), batch, {"2": [(reader("2", 12), torch.arange(6))]})
    assert net.training
    assert all(torch.equal(before[name], values) for name, values in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())


def test_the_positions_of_a_unit_are_fitted_with_one_covariance():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Unflatten(1, (2, 4)), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    inputs = torch.randn(200, 2, 4, dtype=torch.float64)
    inputs[:, 1] = 0.5 * inputs[:, 0]
    batch = Batch(inputs.flatten(1), torch.zeros(200, dtype=torch.int64))
    made = copy.deepcopy(net)
    fit_along(net, made, batch, {"3": [(reader("3", 2, 4), torch.tensor([0]))]})
    with torch.no_grad():
        assert torch.allclose(made(batch.inputs), net(batch.inputs), atol=1e-2)
        assert torch.allclose(made[3].weight[:, :4], net[3].weight[:, :4] + net[3].weight[:, 4:] / 2, atol=1e-2)


def test_tokens_that_do_not_count_are_not_fitted_on():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(2, 1)

        def forward(self, inputs, attention_mask):
            return self.out(torch.relu(inputs)).mean(1)

    torch.manual_seed(0)
    net, inputs = Tokens().double(), torch.rand(100, 6, 2, dtype=torch.float64)
    inputs[:, :3, 1] = 2 * inputs[:, :3, 0]  # the second unit says nothing new, in the tokens that count
    mask = torch.tensor([1, 1, 1, 0, 0, 0]).repeat(100, 1)
    batch = Batch({"inputs": inputs, "attention_mask": mask}, torch.zeros(100, dtype=torch.int64), mask)
    made = copy.deepcopy(net)
    fit_along(net, made, batch, {"out": [(reader("out", 2), torch.tensor([0]))]})
    expected = net.out.weight[0, 0] + 2 * net.out.weight[0, 1]
    assert made.out.weight[0, 0].item() == pytest.approx(expected.item(), rel=0.01)


# ---------------------------------------------------------------- degenerate, and errors


def test_samples_are_taken_from_all_over_the_batches():
    batches = [Batch((torch.arange(at, at + 10), {"x": torch.arange(at, at + 10) % 3}), torch.arange(10)) for at in (0, 10, 20)]
    found = spread_out(batches, 8)
    assert found.inputs[0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert found.inputs[1]["x"].tolist() == [value % 3 for value in found.inputs[0].tolist()]
    assert found.labels.tolist() == [value % 10 for value in found.inputs[0].tolist()]
    assert spread_out(batches, 30).inputs[0].tolist() == list(range(30))


def test_batches_of_another_form_are_left_out():
    batches = [Batch(torch.zeros(4, length), torch.zeros(4), torch.ones(4, length)) for length in (5, 7, 5)]
    assert spread_out(batches, 100).inputs.shape == spread_out(batches, 100).mask.shape == (8, 5)


def test_a_module_that_reads_no_row_for_each_sample_is_refused():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            return self.out(x.relu().mean(0)[None]).expand(len(x), -1)

    words = r"'out' must read a row for each of 20 samples to be fitted on batches=; found \(1, 4\)\. Leave batches= out"
    net = Turned()
    with pytest.raises(ModelError, match=words):
        fit_along(net, copy.deepcopy(net), samples(10, 4), {"out": [(reader("out", 4), torch.tensor([0]))]})
