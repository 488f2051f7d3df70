"""The part of a model from one activation to its output, where that is a chain of linear maps and non-linearities."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofire.calls import Calls

__all__ = ["Chain", "Link", "Walk", "chain_from", "producer_of"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "elu": F.elu,
    "selu": F.selu, "softplus": F.softplus, "leaky_relu": F.leaky_relu, "hardtanh": F.hardtanh, "relu6": F.relu6,
    "hardswish": F.hardswish, "hardsigmoid": F.hardsigmoid, "mish": F.mish, "celu": F.celu, "softsign": F.softsign,
}  # fmt: skip


@dataclass(frozen=True)
class Link:
    """A linear map and what follows it.

    Args:
        module: The linear map.
        layer: Name of the activation after it; None after the last, whose outputs are the logits.
        function: That activation.
    """

    module: nn.Linear
    layer: str | None
    function: Callable[[Tensor], Tensor] | None


@dataclass(frozen=True)
class Chain:
    """What comes after an activation.

    Args:
        entry: Name of the activation.
        links: Linear maps, in order.
    """

    entry: str
    links: tuple[Link, ...]

    @property
    def layers(self) -> list[str]:
        """The activations of the chain, the entry first."""
        return [self.entry, *(link.layer for link in self.links if link.layer is not None)]


def chain_from(seen: Calls, entry: str) -> Chain | None:
    """The chain from an activation to the logits, as one forward pass shows it; None where there is something else between.

    A linear map belongs to it if its input is, in every bit, the activation before, and its activation is the function of
    its output that the name says; so what a chain computes is what the model computes.

    Args:
        seen: The forward pass.
        entry: Name of the activation.
    """
    found = seen.after(entry)
    if seen.logits is None or found is None:
        return None
    value, rest, links = found[0].output, list(found[1]), []
    while rest:
        linear, *rest = rest
        if type(linear.module) is not nn.Linear or not _same(linear.inputs, value):
            return None
        if any(other.module is linear.module for other in rest):
            return None  # it is used twice: removing a unit would change both
        if not rest:
            return Chain(entry, (*links, Link(linear.module, None, None))) if _same(linear.output, seen.logits) else None
        following, *rest = rest
        function, value = _FUNCTIONS.get(following.kind or ""), following.output
        if function is None or linear.output is None or not _same(function(linear.output), value):
            return None
        links.append(Link(linear.module, following.layer, function))
    return None


def producer_of(seen: Calls, entry: str) -> nn.Linear | None:
    """The linear map whose output, through a known non-linearity, is an activation; None where there is none."""
    call = next((call for call in seen.calls if call.layer == entry), None)
    function = _FUNCTIONS.get((call.kind if call is not None else None) or "")
    if call is None or function is None:
        return None
    maps = (other for other in seen.calls if type(other.module) is nn.Linear and other.output is not None)
    return next((other.module for other in maps if _same(function(other.output), call.output)), None)  # type: ignore[return-value]


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and one.shape == other.shape and one.equal(other)


class Walk:
    """Removes units of a chain one by one for a batch of samples, and keeps its logits up to date.

    Removing a unit takes one outer product off the next layer's input; only what comes after is computed again. Every so
    often, removed units are taken out of the matrices for good, their constant contribution going into the next bias: that
    makes later steps smaller, and it clears the rounding that has gathered.

    Args:
        chain: The chain.
        entry: Activations at its entry [samples, units].
        fill: What a removed unit gives, by layer [units].
    """

    def __init__(self, chain: Chain, entry: Tensor, fill: dict[str, Tensor]):
        self.chain, self.place = chain, {name: at for at, name in enumerate(chain.layers)}
        self.weights = [link.module.weight.detach() for link in chain.links]
        rows = [w.new_zeros(len(w)) if link.module.bias is None else link.module.bias.detach() for w, link in
                zip(self.weights, chain.links, strict=True)]  # fmt: skip
        self.biases = [bias.clone() for bias in rows]
        self.fill = [fill[name].to(entry.dtype) for name in chain.layers]
        self.kept = [torch.arange(len(values), device=entry.device) for values in self.fill]
        self.spot = [{unit: unit for unit in range(len(values))} for values in self.fill]
        self.gone: list[list[int]] = [[] for _ in self.fill]  # places in the present matrices
        self._waiting, self._stale = False, 0
        self._rows: Tensor | None = None  # samples that changed; None where all did
        self.values, self.inputs = [entry], []
        for at in range(len(self.weights)):
            self.inputs.append(F.linear(self.values[at], self.weights[at], self.biases[at]))
            self._activate(at)

    @property
    def logits(self) -> Tensor:
        """The model's output with the units removed so far [samples, classes]."""
        return self.inputs[-1]

    def remove(self, layer: str, unit: int) -> None:
        """Remove one more unit; the logits then wait for :meth:`settle`."""
        at = self.place[layer]
        spot = self.spot[at][unit]
        self.gone[at].append(spot)
        waiting, self._waiting = self._waiting, True
        if waiting and at > self._stale:
            return  # it is computed again from an earlier layer anyway
        self._rows, self._stale = None if waiting else self._rows, at
        values, fill, column = self.values[at][:, spot], self.fill[at][unit], self.weights[at][:, spot]
        shift = fill - values
        rows = shift.nonzero()[:, 0] if float(fill) == 0 else None  # where it was silent, nothing changes
        if rows is not None and 4 * len(rows) < 3 * len(shift):
            self.inputs[at].index_add_(0, rows, torch.outer(shift[rows], column))
            self._rows = None if waiting else rows
        else:
            self.inputs[at].addr_(shift, column)
        values.copy_(fill.expand_as(values))

    def settle(self) -> Tensor:
        """Bring what comes after the removed units up to date; gives the logits."""
        if self._waiting:
            for at in range(self._stale, len(self.weights) - 1):
                if self._rows is None:
                    self._activate(at)
                    torch.addmm(self.biases[at + 1], self.values[at + 1], self.weights[at + 1].T, out=self.inputs[at + 1])
                else:
                    values = self._activated(at, self.inputs[at][self._rows])
                    self.values[at + 1][self._rows] = values
                    self.inputs[at + 1][self._rows] = F.linear(values, self.weights[at + 1], self.biases[at + 1])
        self._waiting, self._rows = False, None
        return self.logits

    def _activated(self, at: int, inputs: Tensor) -> Tensor:
        """The activations after linear map ``at``, with what is removed there filled in."""
        values = self.chain.links[at].function(inputs)  # type: ignore[misc]
        gone = self.gone[at + 1]
        if gone:
            values[:, gone] = self.fill[at + 1][self.kept[at + 1][gone]]
        return values

    def _activate(self, at: int) -> None:
        if self.chain.links[at].function is None:
            return
        values = self._activated(at, self.inputs[at])
        if at + 1 < len(self.values):
            self.values[at + 1] = values
        else:
            self.values.append(values)

    def compact(self) -> None:
        """Take the removed units out of the matrices."""
        for at, gone in enumerate(self.gone):
            if not gone:
                continue
            mask = torch.ones(len(self.kept[at]), dtype=torch.bool, device=self.values[at].device)
            mask[gone] = False
            left = mask.nonzero()[:, 0]
            units = self.kept[at][gone]
            self.biases[at] = self.biases[at] + self.weights[at][:, gone] @ self.fill[at][units]
            self.weights[at] = self.weights[at][:, left].contiguous()
            self.values[at] = self.values[at][:, left].contiguous()
            if at:
                self.weights[at - 1] = self.weights[at - 1][left].contiguous()
                self.biases[at - 1] = self.biases[at - 1][left]
                self.inputs[at - 1] = self.inputs[at - 1][:, left].contiguous()
            self.kept[at] = self.kept[at][left]
            self.spot[at] = {unit: spot for spot, unit in enumerate(self.kept[at].tolist())}
            self.gone[at] = []
        for at in range(len(self.weights)):
            self.inputs[at] = F.linear(self.values[at], self.weights[at], self.biases[at])
            self._activate(at)
