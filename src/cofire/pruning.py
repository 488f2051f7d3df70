"""Pruning for real: a smaller model, its next layers' weights fitted again in closed form."""

import copy
import math
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cofire.attention import head_sizes, set_head_counts
from cofire.batches import as_batch, example_batch
from cofire.errors import CofireWarning, InputError
from cofire.grouping import Group
from cofire.plans import Plan
from cofire.readings import form_in, scores_in
from cofire.resizing import RESIZABLE, resize
from cofire.stats import FiringStats
from cofire.weights import load_weights, shapes
from cofire.wrappers import called, device_of, evaluating, unwrap

__all__ = ["Cost", "Pruned", "accuracy_of", "cost", "load_pruned", "prune", "pruned"]

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
    across: str | None = None, heads: bool = False,
) -> nn.Module:  # fmt: skip
    """A smaller model without the units of lowest value, whose next layers make up for them.

    A unit is removed with its weights in the layer before and in those that read it. Its mean goes into their biases; with
    compensation the weights of the units that stay are fitted again, by least squares over the recorded covariance, to give the
    inputs that the next layer had: no labels, no gradients.

    Layers between two linear maps need nothing else. For convolutions, residual blocks and transformers, torch-pruning (the
    extra ``prune``) says which modules belong together. Layers that a sum or a depthwise convolution couples lose the same
    units; the costs of "obs" are added, and scores, each in units of its standard deviation over the layer. A channel's weights
    at all positions of a kernel are fitted with one covariance of channels. What cannot be pruned is refused with a reason.

    Source:
        Ours; the cost of the default order is that of optimal brain surgeon on the next layer's input.

    Args:
        model: The model that the statistics are of; it stays as it is.
        example: Inputs of the model, or a batch (inputs, labels).
        stats: Statistics, recorded with covariance where the order or ``compensate`` needs it.
        by: The order, as for :func:`ablate`; units with the lowest values go.
        keep: Share (0 to 1) or number of units to keep in each layer, or either by layer; layers
            that are not named stay as they are.
        layers: Names or globs of layers to prune, and with them those that they are coupled to; by default all that can be,
            with ``heads`` all attention too, and a warning names the others.
        compensate: Fit the next weights again; else only the means go into the bias, and the outputs are those of an ablation
            with ``fill="mean"``, but for the border of convolutions with padding, where an ablated channel would be its mean
            inside and 0 outside. By default they are fitted where the covariance was recorded; a warning says where not.
        max_drop: In place of keep: remove as much as costs at most this much accuracy on ``batches`` (0.01 is a point), in
            steps of 5 %.
        batches: Labelled data for that, and for the gradients of ``by="fisher"``, readable more than once. For convolutions and
            tokens they serve the fit too, without labels: orders take the covariance over all positions from them, and up to
            512 samples run through the smaller model, whose modules are fitted one after the other, each to what those before
            it have become. In deep nets that keeps far more than the recorded covariance, that of means over positions.
        across: "shares" keeps the same share of every layer; "loss" takes as many units in all from wherever those that read
            them lose the least share of their input's variance, as ``by="obs"`` counts it. Wide layers that hold little then
            lose most. By default "shares", and with max_drop "loss" where the next layers make up for what goes.
        heads: Remove attention heads too, as units that go by the name of their attention module, in ``keep``, ``layers`` and
            scores as well; needs ``batches``. Orders are "obs", "reconstruction", "weight_std" (what the linear map that reads
            the heads loses, by the covariance of its columns), "random" and scores of your own. With compensation that map is
            fitted again; without, the outputs are those of the model with the heads at 0. For attention of timm's form and
            Hugging Face's; not for :class:`torch.nn.MultiheadAttention`, whose width is that of what it reads.

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
    given = {
        "layers": layers, "compensate": compensate, "max_drop": max_drop, "batches": batches, "across": across, "heads": heads,
    }  # fmt: skip
    return pruned(model, example, stats, by, keep, **given).model


class Pruned(NamedTuple):
    """A smaller model, and what makes others that are as small.

    Args:
        model: The smaller model.
        plan: What makes smaller models of the whole one.
        counts: How many units of each of its groups stayed.
    """

    model: nn.Module
    plan: Plan
    counts: list[int]


def pruned(
    model: nn.Module, example: Any, stats: FiringStats, by: str | Mapping[str, Tensor] = "obs",
    keep: float | int | Mapping[str, float | int] | None = None, *, layers: str | Iterable[str] | None = None,
    compensate: bool | None = None, max_drop: float | None = None, batches: Iterable | None = None,
    across: str | None = None, heads: bool = False,
) -> Pruned:  # fmt: skip
    """What :func:`prune` gives, with its plan; arguments and errors are those."""
    if (keep is None) == (max_drop is None):
        raise InputError("either keep= or max_drop= must be given", f"found keep={keep!r} and max_drop={max_drop!r}")
    if max_drop is not None and (batches is None or not 0 <= max_drop < 1):
        raise InputError("max_drop= is a share of at least 0, and needs batches=", f"found {max_drop!r}")
    if across not in (None, "shares", "loss"):
        raise InputError('across must be "shares" or "loss"', f"found {across!r}")
    if across == "loss" and max_drop is None and not (isinstance(keep, float) and 0 < keep <= 1):
        raise InputError('with across="loss", keep must be a share of all units above 0', f"found {keep!r}")
    plan = Plan(
        model, example, stats, list(keep) if layers is None and isinstance(keep, Mapping) else layers, batches, by == "fisher",
        heads=heads,
    )  # fmt: skip
    odd = [name for name in keep if not any(name in group.layers for group in plan.groups)] if isinstance(keep, Mapping) else []
    if odd:
        raise InputError(
            "keep must be of layers that are pruned", f"found {', '.join(map(repr, odd))}",
            f"These are: {', '.join(repr(name) for group in plan.groups for name in group.layers)}.",
        )  # fmt: skip
    orders = plan.order(by)
    bare = [name for name in plan.layers if name not in plan.spreads]
    if compensate is None and bare:
        warnings.warn(
            f"the covariance of {', '.join(map(repr, bare[:5]))} was not recorded: the layers after cannot make up for the "
            "units that go. Record with covariance=True",
            CofireWarning,
            stacklevel=2,
        )
    if across is None and max_drop is not None and not bare and compensate is not False:
        across = "loss"
    costs = plan.costs(orders) if across == "loss" else None
    if max_drop is None:
        counts = [_count(keep, group) for group in plan.groups] if costs is None else plan.counts(keep, costs)  # type: ignore[arg-type]
        return Pruned(plan.smaller(orders, counts, compensate), plan, counts)
    base = accuracy_of(plan.model, batches, stats.classes)  # type: ignore[arg-type]
    best = Pruned(copy.deepcopy(plan.model), plan, [group.units for group in plan.groups])
    for share in _SHARES:
        counts = plan.counts(share, costs)
        made = plan.smaller(orders, counts, compensate)
        if accuracy_of(made, batches, stats.classes) < base - max_drop:  # type: ignore[arg-type]
            break
        best = Pruned(made, plan, counts)
    return best


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
    heads = head_sizes(made)
    for name, module in made.named_modules():
        if isinstance(module, RESIZABLE):
            held = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            wanted = {key: found.get(f"{name}.{key}") for key in (*held, "bias")}
            changed = {
                key: shape for key, shape in wanted.items() if shape and (key not in held or tuple(held[key].shape) != shape)
            }
            resize(module, {key: torch.zeros(shape) for key, shape in changed.items()})
    set_head_counts(made, heads)
    load_weights(made, path)
    return made


def _count(keep, group: Group) -> int:
    found = [keep[name] for name in group.layers if name in keep] if isinstance(keep, Mapping) else [keep]
    wanted, words = found[0] if found else 1.0, ", ".join(map(repr, group.layers))
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not math.isfinite(wanted):
        raise InputError("keep must be a share, a number of units, or either by layer", f"found {wanted!r}")
    if any(other != wanted for other in found):
        raise InputError(f"layers {words} must keep the same units", f"found {', '.join(map(str, found))}", "They go together.")
    count = round(wanted * group.units) if isinstance(wanted, float) else wanted
    if not 1 <= count <= group.units:
        wide = f"layer{'s' if len(group.layers) > 1 else ''} {words} must keep between 1 and its {group.units:,} units"
        raise InputError(wide, f"found {wanted!r}, that is {count:,}")
    return count


def accuracy_of(model: nn.Module, batches: Iterable, classes: int) -> float:
    """Share of samples that a model classifies correctly, in eval mode; a single output stands for two classes."""
    right, total, form = 0, 0, ""
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        for index, item in enumerate(batches):
            batch = as_batch(item, device, classes, f"batch {index}")
            form = form or form_in(model, batch, classes)
            right += int((scores_in(called(model, batch.inputs), form).argmax(1) == batch.labels).sum())
            total += len(batch)
    if not total:
        raise InputError("there must be at least one sample", "the batches are empty")
    return right / total
