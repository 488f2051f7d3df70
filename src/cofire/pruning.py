"""Pruning for real: a smaller model, its next layers' weights fitted again in closed form."""

import copy
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cofire.batches import Batch, as_batch, logits_of, samples_in
from cofire.calls import calls_of
from cofire.chains import chain_from, producer_of
from cofire.errors import CofireWarning, InputError, ModelError
from cofire.firing import covariance, unit_spread
from cofire.layer import LayerStats
from cofire.orders import GREEDY, check_statistics, scores_of, sequence
from cofire.resizing import resize
from cofire.stats import FiringStats
from cofire.taps import Taps
from cofire.weights import digest, load_weights, shapes
from cofire.wrappers import called, device_of, evaluating

__all__ = ["Cost", "accuracy_of", "compensated", "cost", "load_pruned", "prune"]

_RIDGE = 1e-3
_SHARES = tuple(place / 20 for place in range(19, 0, -1))


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Args:
        parameters: Numbers in its parameters.
        flops: Floating-point operations of one forward pass of one sample.
        milliseconds: Median time of a forward pass of the example, on this machine.
    """

    parameters: int
    flops: int
    milliseconds: float


@dataclass(frozen=True)
class _Prunable:
    """A hidden layer between two linear maps."""

    name: str
    producer: str
    consumer: str


def prune(
    model: nn.Module, example: Any, stats: FiringStats, by: str | Mapping[str, Tensor] = "obs",
    keep: float | int | Mapping[str, float | int] | None = None, *, layers: str | Iterable[str] | None = None,
    compensate: bool | None = None, max_drop: float | None = None, batches: Iterable | None = None,
) -> nn.Module:  # fmt: skip
    """A smaller model without the units of lowest value, whose next layers make up for them.

    A unit is removed with its row of the linear map before and its column of the one after. Its mean goes into the next bias;
    with compensation the weights of the units that stay are fitted again, by least squares over the recorded covariance, to
    give the inputs that the next layer had: no labels, no gradients.

    Source:
        Ours; the cost of the default order is that of optimal brain surgeon on the next layer's input.

    Args:
        model: The model that the statistics are of; it stays as it is.
        example: Inputs of the model, or a batch (inputs, labels).
        stats: Statistics, recorded with covariance where the order or ``compensate`` needs it.
        by: The order, as for :func:`ablate`; units with the lowest values go.
        keep: Share (0 to 1) or number of units to keep in each layer, or either by layer.
        layers: Layers to prune; by default all that can be.
        compensate: Fit the next weights again; else only the means go into the bias, and the outputs are those of an ablation
            with ``fill="mean"``. By default they are fitted where the covariance was recorded; a warning says where not.
        max_drop: In place of keep: remove as much as costs at most this much accuracy on ``batches`` (0.01 is a point), the
            same share of every layer, in steps of 5 %.
        batches: Labelled data for that.

    Returns:
        A model of the same class with smaller linear maps.

    Raises:
        InputError: Neither or both of keep and max_drop, or values that do not fit; statistics of another model.
        ModelError: No layer between two linear maps, or one that was named is not.

    >>> import cofire
    >>> digits = cofire.data.load("digits", limit=200)
    >>> net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    >>> stats = cofire.record(net, digits.batches(), covariance=True)
    >>> prune(net, next(iter(digits.batches())), stats, keep=0.5).fc1
    Linear(in_features=64, out_features=8, bias=True)
    """
    if (keep is None) == (max_drop is None):
        raise InputError("either keep= or max_drop= must be given", f"found keep={keep!r} and max_drop={max_drop!r}")
    if max_drop is not None and (batches is None or not 0 <= max_drop < 1):
        raise InputError("max_drop= is a share of at least 0, and needs batches=", f"found {max_drop!r}")
    check_statistics(stats, digest(model))
    found = _prunable(model, _as_batch(example, model), stats)
    asked = [layers] if isinstance(layers, str) else list(found) if layers is None else list(layers)
    for name in asked:
        stats[name]
        if name not in found:
            raise ModelError(
                f"layer {name!r} cannot be pruned here", "it does not lie between two linear maps and nothing else",
                f"These can: {', '.join(map(repr, found)) or 'none'}.",
            )  # fmt: skip
    if not asked:
        raise ModelError("no layer can be pruned here", "none lies between two linear maps and nothing else")
    bare = [name for name in asked if stats[name].product_sum is None]
    order = {name: _order(model, found[name], stats[name], by) for name in asked}
    if compensate is None and bare:
        warnings.warn(
            f"the covariance of {', '.join(map(repr, bare[:5]))} was not recorded: the layers after cannot make up for the "
            "units that go. Record with covariance=True",
            CofireWarning,
            stacklevel=2,
        )

    def smaller(kept: Mapping[str, int]) -> nn.Module:
        made = copy.deepcopy(model)
        for name, count in kept.items():
            fitted = name not in bare if compensate is None else compensate
            _shrink(made, found[name], stats[name], order[name][len(order[name]) - count :].sort().values, fitted)
        return made

    if max_drop is None:
        return smaller({name: _count(keep, name, stats[name].units) for name in asked})
    base, best = accuracy_of(model, batches, stats.classes), model  # type: ignore[arg-type]
    for share in _SHARES:
        made = smaller({name: max(1, round(share * stats[name].units)) for name in asked})
        if accuracy_of(made, batches, stats.classes) < base - max_drop:  # type: ignore[arg-type]
            break
        best = made
    return best if best is not model else copy.deepcopy(model)


def compensated(
    weights: Float[Tensor, "outputs units"], bias: Float[Tensor, " outputs"], mean: Float[Tensor, " units"],
    spread: Float[Tensor, "units units"], kept: Int[Tensor, " kept"], ridge: float = _RIDGE,
) -> tuple[Float[Tensor, "outputs kept"], Float[Tensor, " outputs"]]:  # fmt: skip
    """Weights and bias that give, from the kept units, the least squared error of the next layer's input.

    Args:
        weights: Outgoing weights of all units.
        bias: The next layer's bias.
        mean: Mean of the units.
        spread: Their covariance.
        kept: Units that stay.
        ridge: Added to the diagonal of the covariance of the kept units, as a share of the mean variance.
    """
    weights, mean, spread = weights.double(), mean.double(), spread.double()
    inner = spread[kept][:, kept]
    scale = float(spread.diagonal().mean())
    inner = inner + torch.eye(len(kept), dtype=torch.float64) * (ridge * scale if scale > 0 else 1.0)
    gone = torch.ones(len(mean), dtype=torch.bool)
    gone[kept] = False
    # What the kept units can say of the removed ones is added to their weights. So the ridge shrinks only that, and with all
    # units kept nothing changes.
    share = torch.linalg.solve(inner, spread[kept][:, gone] @ weights[:, gone].T).T
    fitted = weights[:, kept] + share
    return fitted, bias.double() + weights @ mean - fitted @ mean[kept]


def cost(model: nn.Module, example: Any, repeats: int = 20) -> Cost:
    """Parameters, operations per sample and latency of a model.

    Args:
        model: The model.
        example: Inputs of it, or a batch (inputs, labels).
        repeats: Forward passes to take the median of.
    """
    from torch.utils.flop_counter import FlopCounterMode

    batch = _as_batch(example, model)
    with evaluating(model), torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            called(model, batch.inputs)
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            called(model, batch.inputs)
            times.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Cost(parameters, counter.get_total_flops() // max(len(batch), 1), 1000 * sorted(times)[len(times) // 2])


def load_pruned(model: nn.Module, path: str | Path) -> nn.Module:
    """A pruned model from its weights and the model that it was pruned from.

    Args:
        model: The architecture before pruning; it stays as it is.
        path: Weights that :func:`cofire.zoo.save_weights` wrote.

    Raises:
        WeightsError: The file's tensors do not belong to this architecture, linear maps of other sizes aside.
    """
    made, found = copy.deepcopy(model), shapes(path)
    for name, module in list(made.named_modules()):
        shape = found.get(f"{name}.weight")
        if type(module) is nn.Linear and shape is not None and len(shape) == 2 and shape != module.weight.shape:
            bias = {} if module.bias is None else {"bias": module.weight.new_zeros(shape[0])}
            resize(module, {"weight": module.weight.new_zeros(shape)} | bias)
    load_weights(made, path)
    return made


def _as_batch(example: Any, model: nn.Module) -> Batch:
    if isinstance(example, tuple | list) and len(example) == 2 and isinstance(example[1], Tensor) and example[1].ndim == 1:
        return as_batch(example, device_of(model), None, "the example")
    count = samples_in(example)
    if count is None:
        raise InputError("the example must hold a tensor", f"found {type(example).__name__}")
    return as_batch((example, torch.zeros(count, dtype=torch.int64)), device_of(model), None, "the example")


def _prunable(model: nn.Module, batch: Batch, stats: FiringStats) -> dict[str, _Prunable]:
    """Layers between two linear maps, as a forward pass shows it."""
    names = {module: name for name, module in model.named_modules()}
    with Taps(model, list(stats)) as taps:
        taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
        taps.check()
        seen = calls_of(taps, batch)
    chain = next((made for name in stats if (made := chain_from(seen, name)) is not None), None)
    if chain is None:
        return {}
    producers = [producer_of(seen, chain.entry), *(link.module for link in chain.links)]
    return {
        name: _Prunable(name, names[producer], names[link.module])
        for name, producer, link in zip(chain.layers, producers, chain.links, strict=False)
        if producer is not None and name in stats
    }


def _order(model: nn.Module, place: _Prunable, layer: LayerStats, by) -> Tensor:
    """Units in the order of their removal."""
    weights = _linear(model, place.consumer).weight.detach().cpu()
    if by == "random":
        return torch.tensor([unit for _, unit in sequence(None, {layer.name: layer.units}, "random")])
    spread = covariance(layer) if by in GREEDY else None
    scores = scores_of(by, layer, weights, spread)
    return torch.tensor([unit for _, unit in sequence({layer.name: scores}, {layer.name: layer.units}, "ascending")])


def _count(keep, name: str, units: int) -> int:
    wanted = keep.get(name, 1.0) if isinstance(keep, Mapping) else keep
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        raise InputError("keep must be a share, a number of units, or either by layer", f"found {wanted!r}")
    count = round(wanted * units) if isinstance(wanted, float) else wanted
    if not 1 <= count <= units:
        raise InputError(f"layer {name!r} must keep between 1 and its {units:,} units", f"found {wanted!r}, that is {count:,}")
    return count


def _shrink(model: nn.Module, place: _Prunable, layer: LayerStats, kept: Tensor, compensate: bool) -> None:
    producer, consumer = _linear(model, place.producer), _linear(model, place.consumer)
    rows, columns = producer.weight.detach(), consumer.weight.detach()
    mean = unit_spread(layer)[0]
    bias = consumer.bias.detach().cpu() if consumer.bias is not None else torch.zeros(len(columns))
    if compensate:
        weights, bias = compensated(columns.cpu(), bias, mean, covariance(layer), kept)
    else:
        gone = torch.ones(layer.units, dtype=torch.bool)
        gone[kept] = False
        weights, bias = columns.cpu()[:, kept], bias.double() + columns.cpu().double()[:, gone] @ mean[gone]
    rows_bias = producer.bias
    resize(producer, {"weight": rows[kept]} | ({} if rows_bias is None else {"bias": rows_bias[kept]}))
    resize(consumer, {"weight": weights, "bias": bias})


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise ModelError(f"{name!r} must be a linear map", f"found {type(module).__name__}")
    return module


def accuracy_of(model: nn.Module, batches: Iterable, classes: int) -> float:
    """Share of samples that a model classifies correctly, in eval mode."""
    right = total = 0
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        for index, item in enumerate(batches):
            batch = as_batch(item, device, classes, f"batch {index}")
            logits = logits_of(called(model, batch.inputs))
            if logits is None:
                raise ModelError("the model must give logits [samples, classes]", "its output holds no such tensor")
            right += int((logits.argmax(1) == batch.labels).sum())
            total += len(batch)
    if not total:
        raise InputError("there must be at least one sample", "the batches are empty")
    return right / total
