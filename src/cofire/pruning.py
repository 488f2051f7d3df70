"""Pruning for real: a smaller model, its next layers' weights fitted again in closed form."""

import copy
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cofire.batches import Batch, as_batch, example_batch, logits_of
from cofire.errors import CofireWarning, InputError, ModelError
from cofire.firing import covariance, unit_spread
from cofire.grouping import Group, Member, groups_of, shrink
from cofire.layer import LayerStats
from cofire.moments import covariances, fisher_moments
from cofire.orders import GREEDY, WEIGHTED, check_statistics, scores_of, sequence
from cofire.resizing import RESIZABLE, resize
from cofire.stats import FiringStats
from cofire.taps import Taps
from cofire.weights import digest, load_weights, shapes
from cofire.wrappers import called, device_of, evaluating, unwrap

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


def prune(
    model: nn.Module, example: Any, stats: FiringStats, by: str | Mapping[str, Tensor] = "obs",
    keep: float | int | Mapping[str, float | int] | None = None, *, layers: str | Iterable[str] | None = None,
    compensate: bool | None = None, max_drop: float | None = None, batches: Iterable | None = None,
) -> nn.Module:  # fmt: skip
    """A smaller model without the units of lowest value, whose next layers make up for them.

    A unit is removed with its weights in the layer before and in those that read it. Its mean goes into their biases; with
    compensation the weights of the units that stay are fitted again, by least squares over the recorded covariance, to give the
    inputs that the next layer had: no labels, no gradients.

    Layers between two linear maps need nothing else. For convolutions, residual blocks and transformers, torch-pruning (the
    extra ``prune``) says which modules belong together. Layers that a sum or a depthwise convolution couples lose the same
    units; their scores are added, each in units of its standard deviation over the layer. A channel's weights at all positions
    of a kernel are fitted with one covariance of channels. What cannot be pruned is refused with a reason.

    Source:
        Ours; the cost of the default order is that of optimal brain surgeon on the next layer's input.

    Args:
        model: The model that the statistics are of; it stays as it is.
        example: Inputs of the model, or a batch (inputs, labels).
        stats: Statistics, recorded with covariance where the order or ``compensate`` needs it.
        by: The order, as for :func:`ablate`; units with the lowest values go.
        keep: Share (0 to 1) or number of units to keep in each layer, or either by layer; layers
            that are not named stay as they are.
        layers: Layers to prune, and with them those that they are coupled to; by default all that can be, and a warning names
            the others.
        compensate: Fit the next weights again; else only the means go into the bias, and the outputs are those of an ablation
            with ``fill="mean"``, but for the border of convolutions with padding, where an ablated channel would be its mean
            inside and 0 outside. By default they are fitted where the covariance was recorded; a warning says where not.
        max_drop: In place of keep: remove as much as costs at most this much accuracy on ``batches`` (0.01 is a point), the
            same share of every layer, in steps of 5 %.
        batches: Labelled data for that, and for the gradients of ``by="fisher"``. From them, without labels, also comes the
            covariance of channels and of tokens' features over all positions; it fits better than the recorded one, which is
            that of means over positions, and in deep nets by far.

    Returns:
        A model of the same class with smaller modules.

    Raises:
        InputError: Neither or both of keep and max_drop, or values that do not fit; statistics of another model.
        ModelError: No layer can be pruned, or one that was named cannot; torch-pruning is needed and missing.

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
    model = unwrap(model)
    check_statistics(stats, digest(model))
    batch = example_batch(example, device_of(model))
    groups = _groups(model, batch, stats, list(keep) if layers is None and isinstance(keep, Mapping) else layers)
    spreads, fishers = _moments(model, batch, batches, stats, groups, by == "fisher")
    bare = list(dict.fromkeys(name for group in groups for name in group.layers if name not in spreads))
    orders = [_order(model, group, stats, by, spreads, fishers) for group in groups]
    if compensate is None and bare:
        warnings.warn(
            f"the covariance of {', '.join(map(repr, bare[:5]))} was not recorded: the layers after cannot make up for the "
            "units that go. Record with covariance=True",
            CofireWarning,
            stacklevel=2,
        )

    def smaller(counts: Iterable[int]) -> nn.Module:
        made, gone = copy.deepcopy(model), []
        for group, order, count in zip(groups, orders, counts, strict=True):
            if count == group.units:
                continue
            leaving, kept = order[: group.units - count], order[group.units - count :].sort().values
            for member in group.members:
                if member.side == "in" and member.layer is not None:
                    layer = stats[member.layer]
                    fit = compensate or (compensate is None and layer.name in spreads)
                    spread = _spread(layer, spreads) if fit else None
                    _refit(made.get_submodule(member.module), member, unit_spread(layer)[0], spread, kept)
            gone.append((group, leaving))
        shrink(made, gone)
        return made

    if max_drop is None:
        return smaller(_count(keep, group) for group in groups)
    base, best = accuracy_of(model, batches, stats.classes), model  # type: ignore[arg-type]
    for share in _SHARES:
        made = smaller(max(1, round(share * group.units)) for group in groups)
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

    batch = example_batch(example, device_of(model))
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
        WeightsError: The file's tensors do not belong to this architecture, other sizes of linear maps, convolutions and norms
            and new biases aside.
    """
    made, found = copy.deepcopy(unwrap(model)), shapes(path)
    for name, module in made.named_modules():
        if isinstance(module, RESIZABLE):
            held = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            wanted = {key: found.get(f"{name}.{key}") for key in (*held, "bias")}
            changed = {
                key: shape for key, shape in wanted.items() if shape and (key not in held or tuple(held[key].shape) != shape)
            }
            resize(module, {key: torch.zeros(shape) for key, shape in changed.items()})
    load_weights(made, path)
    return made


def _groups(model: nn.Module, batch: Batch, stats: FiringStats, layers: str | Iterable[str] | None) -> list[Group]:
    """The groups to prune."""
    asked = [layers] if isinstance(layers, str) else list(stats) if layers is None else list(layers)
    for name in asked:
        if stats[name].choices.pool == "max" and stats[name].layout != "dense":
            raise InputError(
                "units are held at their means", f'{name!r} was recorded with pool="max"', 'Record with pool="mean".'
            )
    groups, refused = groups_of(model, batch, list(stats), asked)
    reasons = "; ".join(f"{name!r}: {reason}" for name, reason in list(refused.items())[:3])
    able = ", ".join(dict.fromkeys(repr(name) for group in groups for name in group.layers)) or "none"
    if refused and (layers is not None or not groups):
        raise ModelError(f"{'these' if len(refused) > 1 else 'this'} cannot be pruned", reasons, f"These can: {able}.")
    if refused:
        warnings.warn(f"left as they are: {reasons}", CofireWarning, stacklevel=3)
    return [group for group in groups if set(group.layers) & set(asked)]


def _moments(
    model: nn.Module, example: Batch, batches: Iterable | None, stats: FiringStats, groups: list[Group], fisher: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Covariances of the groups' layers, where there are any, and their Fisher moments, where they are asked for."""
    if fisher and batches is None:
        raise InputError("'fisher' needs gradients", "found no batches=", "Pass batches= to take them on.")
    layers = {name: stats[name] for group in groups for name in group.layers}
    spreads = {name: covariance(layer) for name, layer in layers.items() if layer.product_sum is not None}
    spatial = [name for name, layer in layers.items() if layer.layout in ("conv", "tokens")]
    if batches is None or not (fisher or spatial):
        return spreads, {}
    device = device_of(model)

    def read() -> Iterator[Batch]:
        for index, item in enumerate(batches):
            yield as_batch(item, device, stats.classes, f"batch {index}")

    with Taps(model, list(stats)) as taps:
        taps.forward(example.inputs, len(example), lambda *_: None, example.mask)  # which call is which layer is judged here
        spreads |= covariances(taps, read(), spatial, positions=True) if spatial else {}
        means = {name: unit_spread(layer)[0] for name, layer in layers.items()}
        return spreads, fisher_moments(taps, read(), means, stats.classes) if fisher else {}


def _order(
    model: nn.Module, group: Group, stats: FiringStats, by, spreads: Mapping[str, Tensor], fishers: Mapping[str, Tensor]
) -> Tensor:
    """Units in the order of their removal."""
    units = {"": group.units}
    if by == "random":
        return torch.tensor([unit for _, unit in sequence(None, units, "random")])
    total = torch.zeros(group.units, dtype=torch.float64)
    for name in group.layers:
        readers = [member for member in group.members if member.layer == name and member.side == "in"]
        if (by in WEIGHTED and not readers) or (isinstance(by, Mapping) and name not in by and set(group.layers) & set(by)):
            continue  # a depthwise convolution alone reads it, or scores were given for another layer of the group
        rows = [_rows(model.get_submodule(member.module), member)[0] for member in readers]
        spread = _spread(stats[name], spreads) if by in GREEDY else None
        scores = scores_of(by, stats[name], torch.cat(rows).cpu() if rows else None, spread, fishers.get(name))
        # So that layers of a group count alike; adding a number to all of a layer's scores would change nothing.
        width = float(scores.std()) if len(scores) > 1 else 0.0
        total += scores if len(group.layers) == 1 else scores / width if width > 0 else 0.0
    return torch.tensor([unit for _, unit in sequence({"": total}, units, "ascending")])


def _spread(layer: LayerStats, spreads: Mapping[str, Tensor]) -> Tensor:
    return spreads[layer.name] if layer.name in spreads else covariance(layer)  # which says that it was not recorded


def _count(keep, group: Group) -> int:
    found = [keep[name] for name in group.layers if name in keep] if isinstance(keep, Mapping) else [keep]
    wanted, words = found[0] if found else 1.0, ", ".join(map(repr, group.layers))
    if any(other != wanted for other in found):
        raise InputError(f"layers {words} must keep the same units", f"found {', '.join(map(str, found))}", "They go together.")
    if isinstance(wanted, bool) or not isinstance(wanted, int | float):
        raise InputError("keep must be a share, a number of units, or either by layer", f"found {wanted!r}")
    count = round(wanted * group.units) if isinstance(wanted, float) else wanted
    if not 1 <= count <= group.units:
        wide = f"layer{'s' if len(group.layers) > 1 else ''} {words} must keep between 1 and its {group.units:,} units"
        raise InputError(wide, f"found {wanted!r}, that is {count:,}")
    return count


def _rows(module: nn.Module, member: Member) -> tuple[Tensor, Tensor]:
    """The weights that read units, [outputs and positions, units], and, in their form, [outputs, units, positions]."""
    columns = module.weight.detach()[:, member.index.to(module.weight.device)].flatten(2)  # type: ignore[operator, union-attr]
    return columns.transpose(1, 2).reshape(-1, columns.shape[1]), columns


def _refit(module: nn.Module, member: Member, mean: Tensor, spread: Tensor | None, kept: Tensor) -> None:
    """Let a module make up, in place, for units that it will no longer read: by the covariance, or by means alone."""
    rows, columns = _rows(module, member)
    outputs = len(columns)
    if spread is not None:
        fitted, shift = compensated(rows.cpu(), torch.zeros(len(rows)), mean, spread, kept)
    else:
        gone = torch.ones(len(mean), dtype=torch.bool)
        gone[kept] = False
        fitted, shift = rows.cpu()[:, kept], rows.cpu().double()[:, gone] @ mean[gone]
    columns[:, kept] = fitted.view(outputs, -1, len(kept)).transpose(1, 2).to(columns)
    weight = module.weight.detach().clone()  # type: ignore[operator, union-attr]
    place = member.index.to(weight.device)
    weight[:, place] = columns.view(outputs, *place.shape, *weight.shape[2:])
    bias = torch.zeros(outputs) if module.bias is None else module.get_parameter("bias").detach().cpu()
    resize(module, {"weight": weight, "bias": bias.double() + shift.view(outputs, -1).sum(1)})


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
