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

_IN_PLACE: dict[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] = {
    torch.relu: torch.relu_, torch.sigmoid: torch.sigmoid_, torch.tanh: torch.tanh_,
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
        if linear.output is None or linear.output.dtype != linear.module.weight.dtype:
            return None  # under autocast, what is computed is not what the weights say
        if any(other.module is linear.module for other in rest):
            return None  # it is used twice: removing a unit would change both
        if not rest:
            return Chain(entry, (*links, Link(linear.module, None, None))) if _same(linear.output, seen.logits) else None
        following, *rest = rest
        function, value = _FUNCTIONS.get(following.kind or ""), following.output
        if function is None or not _same(function(linear.output), value):
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


def _activate(function: Callable[[Tensor], Tensor], values: Tensor) -> None:
    """Apply a non-linearity in place."""
    if function in _IN_PLACE:
        _IN_PLACE[function](values)
    else:
        values.copy_(function(values))


class Walk:
    """Removes units of a chain one by one for a batch of samples, and keeps its logits up to date.

    What a removed unit gives is constant: it goes into the next bias, and the unit's weights become zero. The next layer's
    input changes by one outer product; only what comes after is computed again. Every so often, removed units are taken out
    of the matrices: that makes later steps smaller, and it clears the rounding that has gathered.

    Args:
        chain: The chain.
        entry: Activations at its entry [samples, units].
        fill: What a removed unit gives [units], of the layers that units are removed from.
    """

    def __init__(self, chain: Chain, entry: Tensor, fill: dict[str, Tensor]):
        modules = [link.module for link in chain.links]
        self.functions = [link.function for link in chain.links if link.function is not None]
        self.place = {name: at for at, name in enumerate(chain.layers)}
        self.fill = {self.place[name]: values.tolist() for name, values in fill.items()}
        self.weights = [module.weight.detach().clone() for module in modules]
        self.biases = [entry.new_zeros(len(w)) if m.bias is None else m.bias.detach().clone() for m, w in
                       zip(modules, self.weights, strict=True)]  # fmt: skip
        self.spot = [{unit: unit for unit in range(module.in_features)} for module in modules]  # places in the matrices
        self.gone: list[set[int]] = [set() for _ in modules]  # units that are removed, but still in the matrices
        self.values = [entry.T.contiguous().T]  # a unit's values lie side by side
        self.compact()

    @property
    def logits(self) -> Tensor:
        """The model's output with the units removed so far [samples, classes]."""
        return self.inputs[-1]

    def remove(self, layer: str, unit: int) -> None:
        """Remove one more unit; the logits then wait for :meth:`settle`."""
        at = self.place[layer]
        spot, fill = self.spot[at][unit], self.fill[at][unit]
        self.gone[at].add(unit)
        column = self.weights[at][:, spot]
        if at <= self._stale:  # else it is computed again from an earlier layer anyway
            excess = self.values[at][:, spot] - fill
            self.inputs[at].addr_(excess, column.contiguous(), alpha=-1)
            self._rows = None
            alone = self._stale == len(self.weights)
            if fill == 0 and alone and at == max(self.fill) and at + 1 < len(self.weights):
                rows = excess.nonzero()[:, 0]  # where it was silent, nothing changes
                self._rows = rows if 8 * len(rows) < 7 * len(excess) else None
            self._stale = at
        self.biases[at].add_(column, alpha=fill)
        column.zero_()

    def settle(self) -> Tensor:
        """Bring what comes after the removed units up to date; gives the logits."""
        if self._stale < len(self.weights) - 1:
            self._compute(self._stale, self._rows)
        self._stale, self._rows = len(self.weights), None
        return self.logits

    def _compute(self, first: int, rows: Tensor | None) -> None:
        """Compute everything from the inputs of an activation on, for all samples or for some.

        It may be some where no later layer loses a unit, so that nobody reads what lies between.
        """
        count = len(self.logits) if rows is None else len(rows)
        found = self.logits if rows is None else torch.empty_like(self.logits)[:count]
        for at in range(first, len(self.weights) - 1):
            values = self.values[at + 1][:count]
            if at in self.fill:
                values.copy_(self.inputs[at]) if rows is None else torch.index_select(self.inputs[at], 0, rows, out=values)
            _activate(self.functions[at], values)
            target = self.inputs[at + 1][:count] if at + 2 < len(self.weights) else found
            torch.addmm(self.biases[at + 1], values, self.weights[at + 1].T, out=target)
        if rows is not None:
            self.logits.T.scatter_(1, rows.expand(found.shape[1], -1), found.T)

    def compact(self) -> None:
        """Take the removed units out of the matrices, and compute everything again."""
        for at, gone in enumerate(self.gone):
            if not gone:
                continue
            kept = {unit: spot for unit, spot in self.spot[at].items() if unit not in gone}
            left = torch.tensor(list(kept.values()), dtype=torch.int64, device=self.biases[0].device)
            self.weights[at] = self.weights[at].index_select(1, left)
            if at:
                self.weights[at - 1], self.biases[at - 1] = self.weights[at - 1][left], self.biases[at - 1][left]
            else:
                self.values[0] = self.values[0].T[left].T
            self.spot[at] = {unit: spot for spot, unit in enumerate(kept)}
            gone.clear()
        samples = len(self.values[0])
        self.inputs = [bias.new_empty(samples, len(bias)) for bias in self.biases]
        self.inputs[-1] = self.biases[-1].new_empty(len(self.biases[-1]), samples).T  # and so do a class's logits
        # All memory is taken here: fresh memory at every step would cost more than the arithmetic. Inputs are kept only where
        # outer products are to come; elsewhere the activations take their place.
        kept = [torch.empty_like(inputs) if at in self.fill else inputs for at, inputs in enumerate(self.inputs[:-1])]
        self.values = [self.values[0], *kept]
        torch.addmm(self.biases[0], self.values[0], self.weights[0].T, out=self.inputs[0])
        self._stale, self._rows = 0, None
        self.settle()
