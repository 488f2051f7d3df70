"""Modules with other weights: their sizes follow, and they compute what those weights say."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cofire.errors import ModelError
from cofire.resizing import RESIZABLE, resize


def test_a_convolution_computes_with_its_new_weights():
    layer, weight, x = nn.Conv2d(4, 6, 3, padding=1, bias=False), torch.randn(2, 3, 3, 3), torch.randn(2, 3, 5, 5)
    resize(layer, {"weight": weight, "bias": torch.ones(2)})
    assert (layer.in_channels, layer.out_channels, layer.groups) == (3, 2, 1)
    assert torch.equal(layer(x), F.conv2d(x, weight, torch.ones(2), padding=1))


def test_groups_follow_the_channels_of_a_depthwise_convolution_and_no_other():
    layer, x = nn.Conv2d(6, 6, 3, groups=6), torch.randn(2, 4, 5, 5)
    weight = torch.randn(4, 1, 3, 3)
    resize(layer, {"weight": weight, "bias": torch.zeros(4)})
    assert torch.equal(layer(x), F.conv2d(x, weight, torch.zeros(4), groups=4))
    layer = nn.Conv2d(6, 6, 3, groups=2)
    resize(layer, {"weight": torch.randn(4, 2, 3, 3), "bias": torch.zeros(4)})
    assert (layer.in_channels, layer.out_channels, layer.groups) == (4, 4, 2)


@pytest.mark.parametrize("affine", [True, False])
def test_a_batch_norm_keeps_its_statistics(affine):
    layer, mean, x = nn.BatchNorm2d(5, affine=affine).eval(), torch.tensor([1.0, 2.0]), torch.randn(3, 2, 4, 4)
    ours = {"weight": torch.full((2,), 2.0), "bias": torch.zeros(2)} if affine else {}
    resize(layer, ours | {"running_mean": mean, "running_var": torch.ones(2)})
    assert layer.num_features == 2
    expected = (x - mean[:, None, None]) * (2 if affine else 1) / (1 + layer.eps) ** 0.5
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_norms_and_slopes_follow_too():
    norm, slope = nn.LayerNorm(6), nn.PReLU(6)
    resize(norm, {"weight": torch.ones(4), "bias": torch.zeros(4)})
    resize(slope, {"weight": torch.ones(4)})
    assert norm.normalized_shape == (4,)
    assert slope.num_parameters == 4
    assert norm(torch.randn(2, 4)).shape == slope(torch.randn(2, 4)).shape


def test_type_and_wish_for_gradients_stay():
    layer = nn.Linear(3, 2).double().requires_grad_(False)
    resize(layer, {"weight": torch.ones(2, 1)})
    assert layer.weight.dtype == torch.float64
    assert not layer.weight.requires_grad


def test_other_modules_are_refused():
    with pytest.raises(ModelError, match="only modules with weights of a known form can be made smaller; found GroupNorm"):
        resize(nn.GroupNorm(2, 4), {"weight": torch.ones(2)})
    assert nn.Linear in RESIZABLE
