"""Differentiable measures: closed forms, gradients checked in float64, and the hard measure in the limit."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cofire
from activations import column, law, layer_of, realistic, recordings
from cofire.errors import InputError
from cofire.regularisation import soft_class_selectivity, soft_entropy, soft_modularity

COLD = 1e-7


def sample(samples=40, units=8, classes=3, kind="relu", seed=0):
    acts, labels = realistic(kind, samples, units, classes, torch.float64, seed)
    return acts, torch.tensor(labels)


def hard_modularity(acts, labels, top):
    return cofire.modularity(cofire.coactivation(layer_of(acts, labels, top=top)))


# ---------------------------------------------------------------- closed form


def test_values_that_fill_the_bins_evenly():
    assert soft_entropy(torch.arange(1.0, 9)[:, None].double(), bins=8, temperature=COLD).item() == pytest.approx(3)
    assert soft_entropy(column(0, 0, 1, 1, 3, 3).double(), bins=2, temperature=COLD).item() == pytest.approx(1)
    hot = soft_entropy(torch.rand(50, 1, dtype=torch.float64) + 1, bins=4, temperature=1e9)
    assert hot.item() == pytest.approx(1)  # each inner edge is passed by a half: nothing lies between them


def test_two_classes_that_never_fire_together():
    acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 4], [0, 0, 1, 2]]).double()
    assert soft_modularity(acts, torch.tensor([0, 0, 1, 1]), top=2, temperature=COLD).item() == pytest.approx(0.5)
    assert soft_modularity(acts, torch.tensor([0, 0, 0, 0]), top=2, temperature=COLD).item() == pytest.approx(0)


def test_one_class_and_all_classes():
    labels = torch.tensor([0, 0, 1, 2])
    acts = torch.tensor([[2.0, 1.0], [4.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert soft_class_selectivity(acts, labels).tolist() == [1, 0]


# ---------------------------------------------------------------- laws


@law
@given(recordings(least=3))
def test_selectivity_is_the_hard_measure(recording):
    acts, labels, classes = recording
    hard = cofire.class_selectivity(layer_of(acts.double(), labels, classes))
    soft = soft_class_selectivity(acts.double(), labels)
    assert torch.allclose(soft, hard, rtol=1e-6, atol=1e-9) or bool((hard.abs() > 1e6).any())


@law
@given(recordings(least=3), st.floats(0.01, 10), st.sampled_from([0.5, 4.0]))
def test_entropy_is_in_range_and_knows_no_scale(recording, temperature, scale):
    acts = recording[0].double()
    values = soft_entropy(acts, 5, temperature)
    assert bool(((values >= -1e-9) & (values <= math.log2(5) + 1e-9)).all())
    assert torch.allclose(soft_entropy(acts * scale, 5, temperature), values, atol=1e-6)


@law
@given(recordings(least=3), st.floats(0.01, 10))
def test_modularity_is_in_range(recording, temperature):
    acts, labels, _ = recording
    assert -0.5 - 1e-9 <= float(soft_modularity(acts.double(), labels, 2, temperature)) <= 1


# ---------------------------------------------------------------- reference: the gradient, and the hard measure in the limit


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh, torch.nn.functional.gelu], ids=lambda f: f.__name__)
def test_gradients_are_those_of_differences(activation):
    inputs = torch.randn(14, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(14) % 3
    for term in (
        lambda acts: soft_entropy(acts, 4, 0.5),
        lambda acts: soft_modularity(acts, labels, 2, 0.5),
        lambda acts: soft_class_selectivity(acts, labels),
    ):
        assert term(activation(inputs)).abs().sum() > 0.01
        assert torch.autograd.gradcheck(lambda x: term(activation(x)), inputs)  # noqa: B023


@pytest.mark.parametrize("kind", ["relu", "gelu", "tanh", "heavy tails"])
@pytest.mark.parametrize("bins", [4, 30])
def test_entropy_falls_to_the_hard_measure(kind, bins):
    acts, _ = sample(200, kind=kind)
    hard = cofire.activation_entropy(layer_of(acts, bins=bins))
    far = [float((soft_entropy(acts, bins, heat) - hard).abs().max()) for heat in (1.0, 0.1, COLD)]
    assert far[0] > far[1] > far[2]
    assert far[2] < 1e-4


@pytest.mark.parametrize("kind", ["relu", "gelu", "tanh"])
def test_modularity_falls_to_the_hard_measure(kind):
    acts, labels = sample(200, 24, kind=kind)
    far = [abs(float(soft_modularity(acts, labels, 6, heat)) - hard_modularity(acts, labels, 6)) for heat in (10.0, 0.1, COLD)]
    assert far[0] > far[1]
    assert far[2] < 1e-9


def test_the_default_top_is_a_quarter():
    acts, labels = sample(60, 24)
    assert float(soft_modularity(acts, labels)) == float(soft_modularity(acts, labels, top=6))


def test_a_step_down_the_gradient_lowers_each_term():
    inputs, labels = next(iter(cofire.data.load("digits", limit=200).batches(200)))
    terms = {
        "entropy": lambda acts: soft_entropy(acts, 10).mean(), "selectivity": lambda acts: soft_class_selectivity(acts, labels).mean(),
        "modularity": lambda acts: soft_modularity(acts, labels),
    }  # fmt: skip
    for name, term in terms.items():
        for sign in (1, -1):
            net, found, kept = cofire.zoo.model("fcnn:64-32-10", seed=0).eval(), [], {}
            net.relu1.register_forward_hook(lambda _module, _inputs, output, kept=kept: kept.update(acts=output))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
            for _ in range(5):
                net(inputs)
                value = term(kept["acts"])
                found.append(value.item())
                optimizer.zero_grad()
                (sign * value).backward()
                optimizer.step()
            assert sign * found[-1] < sign * found[0], name


# ---------------------------------------------------------------- degenerate


def test_dead_and_constant_units_have_a_gradient_of_zero():
    acts = torch.stack([torch.zeros(6), torch.full((6,), 2.0), torch.arange(6.0)], 1).double().requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    assert soft_entropy(acts)[:2].tolist() == [0, 0]
    assert soft_class_selectivity(acts, labels)[0] == 0
    for value in (soft_entropy(acts).sum(), soft_class_selectivity(acts, labels).sum(), soft_modularity(acts, labels, 3)):
        (gradient,) = torch.autograd.grad(value, acts)
        assert bool(gradient.isfinite().all())
        assert gradient[:, 0].tolist() == [0] * 6


def test_a_batch_with_nothing_to_say():
    dead, labels = torch.zeros(4, 3, requires_grad=True), torch.tensor([0, 0, 1, 1])
    total = soft_modularity(dead, labels) + soft_entropy(dead).sum() + soft_class_selectivity(dead, labels).sum()
    total.backward()
    assert total == 0
    assert dead.grad.abs().sum() == 0
    one = torch.rand(4, 3, requires_grad=True)
    soft_class_selectivity(one, torch.zeros(4, dtype=torch.long)).sum().backward()
    assert one.grad.abs().sum() == 0


# ---------------------------------------------------------------- errors


def test_wrong_input():
    acts, labels = torch.rand(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match=r"^temperature must be a number above 0; found 0\.$"):
        soft_entropy(acts, temperature=0)
    with pytest.raises(InputError, match="bins must be a whole number of at least 2; found 1"):
        soft_entropy(acts, bins=1)
    with pytest.raises(InputError, match=r"found \(4, 3\)\. Pool positions first: activations\.mean\(\(2, 3\)\)"):
        soft_class_selectivity(torch.randint(9, (4, 3)), labels)
    with pytest.raises(InputError, match=r"^there must be one label per sample; found \(3,\) for 4 samples\.$"):
        soft_modularity(acts, labels[:3])
