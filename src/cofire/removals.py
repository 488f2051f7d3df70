"""Taking a whole layer out of a model, and what that costs."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cofire.batches import as_batch, check_readable_again
from cofire.calls import calls_of
from cofire.chains import chain_from
from cofire.errors import ModelError
from cofire.orders import check_statistics
from cofire.pruning import accuracy_of, cost
from cofire.resizing import resize
from cofire.stats import FiringStats
from cofire.taps import Taps
from cofire.training import fit
from cofire.weights import digest
from cofire.wrappers import device_of

__all__ = ["Removal", "check_layer", "without_layer"]

_RIDGE = 1e-3


@dataclass(frozen=True)
class Removal:
    """What removing a layer costs.

    Args:
        layer: The layer.
        before: Test accuracy of the model.
        refitted: Test accuracy without the layer, the next map fitted in closed form.
        trained: The same after some epochs of training.
        control: Test accuracy of the whole model after as many more epochs.
        epochs: How many.
        parameters: Parameters of the model, and without the layer.
    """

    layer: str
    before: float
    refitted: float
    trained: float
    control: float
    epochs: int
    parameters: tuple[int, int]

    def __str__(self) -> str:
        gone = 1 - self.parameters[1] / self.parameters[0]
        return (
            f"without {self.layer}: {self.refitted:.2%} once the next map is fitted, {self.trained:.2%} after {self.epochs} "
            f"epoch{'' if self.epochs == 1 else 's'} of training ({gone:.0%} fewer parameters); with it: {self.before:.2%}, "
            f"and {self.control:.2%} trained as long"
        )


def without_layer(model: nn.Module, stats: FiringStats, layer: str, batches: Iterable) -> nn.Module:
    """The model without one of its fully connected layers: the map after it reads the layer before, fitted by least squares.

    Args:
        model: The model; it stays as it is.
        stats: Statistics of it.
        layer: A layer between two linear maps that is not the first of its chain.
        batches: Labelled data to fit on, readable more than once; the labels are not used.

    Raises:
        ModelError: The layer is not such a one, or its non-linearity is no module of its own and does not leave the layer
            before as it is.
    """
    check_statistics(stats, digest(model))
    check_readable_again(batches)
    stats[layer]
    names = {module: name for name, module in model.named_modules()}
    first = as_batch(next(iter(batches)), device_of(model), stats.classes, "batch 0")
    with Taps(model, list(stats)) as taps:
        taps.forward(first.inputs, len(first), lambda *_: None, first.mask)
        taps.check()
        seen = calls_of(taps, first)
        chain = next((made for name in stats if (made := chain_from(seen, name)) is not None), None)
        if chain is None or layer not in chain.layers[1:]:
            raise ModelError(
                f"layer {layer!r} cannot be removed", "it does not lie in a chain of linear maps, after the first of them",
                f"These can: {', '.join(map(repr, chain.layers[1:] if chain else [])) or 'none'}.",
            )  # fmt: skip
        at = chain.layers.index(layer)
        producer, consumer, before = chain.links[at - 1].module, chain.links[at].module, chain.layers[at - 1]
        kinds = taps.known[before].kind, taps.known[layer].kind  # type: ignore[union-attr]
        weight, bias = _fitted(taps, batches, before, consumer, stats.classes)
    path = layer.partition("#")[0]
    module = dict(model.named_modules()).get(path)
    alone = sum(name.partition("#")[0] == path for name in taps.known) == 1
    if kinds != ("relu", "relu") and (module is None or not alone):
        found = "is a function call and cannot be taken out" if module is None else f"is that of other calls of {path!r} too"
        remedy = "" if module is None else "Give every layer a module of its own."
        raise ModelError(f"layer {layer!r} cannot be removed", f"its non-linearity, {kinds[1]}, {found}", remedy)
    made = copy.deepcopy(model)
    made.set_submodule(names[producer], nn.Identity())
    if module is not None and alone:  # else it stays: the ReLU of a ReLU is that ReLU
        made.set_submodule(path, nn.Identity())
    resize(made.get_submodule(names[consumer]), {"weight": weight, "bias": bias})
    return made


def _fitted(taps: Taps, batches: Iterable, before: str, consumer: nn.Linear, classes: int) -> tuple[Tensor, Tensor]:
    """Weights and bias that take the layer before to what the consumer gave, by ridge regression."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    handle = consumer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.detach().double()))
    device = consumer.weight.device
    count = taps.known[before].units + 1  # type: ignore[union-attr]
    total = torch.zeros(count, count, dtype=torch.float64, device=device)
    cross = torch.zeros(count, consumer.out_features, dtype=torch.float64, device=device)
    try:
        taps.edit = lambda info, output: inputs.append(output.detach().double()) if info.name == before else None
        for index, item in enumerate(batches):
            batch = as_batch(item, device, classes, f"batch {index}")
            taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
            x = torch.cat([inputs.pop(), torch.ones(len(batch), 1, dtype=torch.float64, device=device)], 1)
            z = outputs.pop()
            total += x.T @ x
            cross += x.T @ z
    finally:
        taps.edit = None
        handle.remove()
    ridge = torch.full((count,), _RIDGE * float(total.diagonal()[:-1].mean()), dtype=torch.float64, device=device)
    ridge[-1] = 0  # the intercept
    solution = torch.linalg.solve(total + ridge.diag(), cross).T
    return solution[:, :-1], solution[:, -1]


def check_layer(
    model: nn.Module, stats: FiringStats, layer: str, train, test: Iterable, *, epochs: int = 1, lr: float = 1e-3, seed: int = 0
) -> Removal:
    """Remove a layer, train briefly, and compare with the whole model trained as long.

    Args:
        model: The model; it stays as it is.
        stats: Statistics of it.
        layer: The layer.
        train: Training batches, readable more than once.
        test: Test batches.
        epochs: Epochs of training.
        lr: Step size of Adam.
        seed: Of training.
    """
    made, whole = without_layer(model, stats, layer, train), copy.deepcopy(model)
    before, refitted = (accuracy_of(net, test, stats.classes) for net in (model, made))
    for net in (made, whole):
        fit(net, train, epochs=epochs, lr=lr, seed=seed, progress=False)
    trained, control = (accuracy_of(net, test, stats.classes) for net in (made, whole))
    example = next(iter(test))
    sizes = cost(model, example, repeats=1).parameters, cost(made, example, repeats=1).parameters
    return Removal(layer, before, refitted, trained, control, epochs, sizes)
