"""A forward pass's calls: in order, with values as they were, and with nothing left behind."""

import torch
import torch.nn.functional as F
from torch import nn

from cofire.batches import Batch
from cofire.calls import calls_of
from cofire.taps import Taps


class Net(nn.Module):
    """A convolution, a ReLU that works in place, and two linear maps with a function between."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.one, self.two = nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.relu(self.conv(x)).flatten(1)
        return self.two(F.gelu(self.one(x)))


def seen(net, x, edit=None):
    with Taps(net) as taps:
        taps.edit = edit
        taps.forward(x, len(x), lambda *_: None)
        found = calls_of(taps, Batch(x, torch.zeros(len(x), dtype=torch.int64)))
        assert taps.edit is edit
    return found


def test_calls_come_in_order_with_the_values_of_their_time():
    net, x = Net(), torch.randn(4, 1, 4, 4)
    found = seen(net, x)
    assert [call.layer or call.module for call in found.calls] == [net.conv, "relu", net.one, "gelu", net.two]
    with torch.no_grad():
        read = F.relu(net.conv(x)).flatten(1)
        between = F.gelu(net.one(read))
        assert torch.equal(found.calls[2].inputs, read)
        assert torch.equal(found.calls[2].output, net.one(read))
        assert torch.equal(found.calls[3].output, between)
        assert torch.equal(found.logits, net(x))
    assert (found.calls[0].inputs, found.calls[0].output, found.calls[1].output) == (None, None, None)
    assert found.calls[3].kind == "gelu"


def test_a_value_that_is_changed_in_place_later_stays_as_it_was():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), torch.randn(5, 3)
    with torch.no_grad():
        assert torch.equal(seen(net, x).calls[0].output, net[0](x))


def test_after_a_layer_comes_what_was_called_later():
    found = seen(Net(), torch.randn(2, 1, 4, 4))
    call, rest = found.after("relu")
    assert (call.layer, len(rest)) == ("relu", 3)
    assert found.after("gelu")[1] == found.calls[-1:]
    assert found.after("tanh") is None


def test_no_hook_is_left():
    net = Net()
    seen(net, torch.randn(2, 1, 4, 4), edit=lambda info, output: None)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
