"""Which units of a model can be removed, and which modules become smaller with them."""

import copy
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain as joined
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from cofire.attention import head_sizes, set_head_counts
from cofire.batches import Batch, logits_of
from cofire.calls import READERS, calls_of
from cofire.chains import chain_from, producer_of
from cofire.consumers import by_unit, reads_of
from cofire.errors import ModelError
from cofire.resizing import RESIZABLE, resize
from cofire.taps import Taps, tensors_in
from cofire.wrappers import called, evaluating

__all__ = ["Group", "Member", "RefusalError", "check_group", "groups_of", "shrink"]


@dataclass(frozen=True)
class Member:
    """A module that becomes smaller with the units of a group.

    Args:
        module: Its name.
        side: "out" where units are its outputs, "in" where it reads them with weights.
        index: Its channels or features that belong to each unit.
        layer: The activation that it reads; None where it reads none.
    """

    module: str
    side: Literal["in", "out"]
    index: Int[Tensor, "units positions"]
    layer: str | None = None


@dataclass(frozen=True)
class Group:
    """Units that can only go together: of one layer, or of several that a sum or a depthwise convolution couples.

    Args:
        units: How many.
        members: The modules that become smaller.
    """

    units: int
    members: tuple[Member, ...]

    @property
    def layers(self) -> list[str]:
        """The activations whose units they are."""
        return list(dict.fromkeys(member.layer for member in self.members if member.layer is not None))

    @property
    def width(self) -> int:
        """How many units each counts as where a share of all units goes."""
        return 1


class RefusalError(Exception):
    """Why units cannot be removed."""


def groups_of(
    model: nn.Module, batch: Batch, names: Sequence[str], wanted: Iterable[str]
) -> tuple[list[Group], dict[str, str]]:
    """The groups of units that can be removed, and the layers that cannot be pruned, with the reason.

    Layers in a chain of linear maps are found by one forward pass. For all others torch-pruning says which modules belong
    together. What reads a layer is found by holding every unit at a number of its own and looking where the number arrives.
    Every group is tried: without its units the model must give what it gives with the weights that read them at zero.

    Args:
        model: The model.
        batch: Some samples.
        names: All layers of which there are statistics.
        wanted: Those to prune.

    Raises:
        ModelError: torch-pruning is needed and is not installed, or cannot follow the model.
    """
    batch = batch.first(2)
    with Taps(model, list(names)) as taps:
        taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
        taps.check()
        groups = _chained(taps, batch, names)
        rest = [name for name in wanted if not any(name in group.layers for group in groups)]
        if not rest:
            return groups, {}
        tracer = _Tracer(taps, batch, list(names))
    refused: dict[str, str] = {}
    for name in rest:
        if any(name in group.layers for group in groups):
            continue
        try:
            group = tracer.group(name)
            check_group(model, batch, group)
            groups.append(group)
        except RefusalError as reason:
            refused[name] = str(reason)
    taken = {name for group in groups for name in group.layers}
    return groups, {name: reason for name, reason in refused.items() if name not in taken}


def _chained(taps: Taps, batch: Batch, names: Sequence[str]) -> list[Group]:
    """The layers of a chain of linear maps."""
    paths = {module: path for path, module in taps.model.named_modules()}
    seen = calls_of(taps, batch)
    chain = next((made for name in names if (made := chain_from(seen, name)) is not None), None)
    if chain is None:
        return []
    producers = [producer_of(seen, chain.entry), *(link.module for link in chain.links)]
    groups = []
    for name, producer, link in zip(chain.layers, producers, chain.links, strict=False):
        if producer is not None and name in names:
            index = torch.arange(producer.out_features)[:, None]
            ends = Member(paths[producer], "out", index), Member(paths[link.module], "in", index, name)
            groups.append(Group(len(index), ends))
    return groups


class _Tracer:
    """A model's dependency graph, and what reads its layers."""

    def __init__(self, taps: Taps, batch: Batch, names: list[str]):
        self.paths = dict(taps.model.named_modules())
        self.units = {name: info.units for name in names if (info := taps.known.get(name)) is not None}
        self.reads, self.starts, self.counts = reads_of(taps, batch, self.units)
        self.graph, traced = _traced(taps.model, batch)
        self.names = {module: path for path, module in traced.named_modules()}
        self.traced = {path: module for module, path in self.names.items()}

    def _layer(self, path: str, index: Tensor) -> str | None:
        """The layer whose units, in their order, a module reads at these places; None where it is none."""
        found = self.reads[path][index] if path in self.reads else torch.full_like(index, -1)
        for name, start in self.starts.items():
            if len(index) == self.units[name] and bool((found == start + torch.arange(len(index))[:, None]).all()):
                return name
        return None

    def group(self, name: str) -> Group:
        """The group of a layer's units."""
        start, units = self.starts[name], self.units[name]
        places = {path: ((read >= start) & (read < start + units)).nonzero()[:, 0] for path, read in self.reads.items()}
        indices = {path: by_unit(self.reads[path][at] - start, at, units) for path, at in places.items()}
        readers = [p for p, index in indices.items() if index is not None and getattr(self.paths[p], "groups", 1) == 1]
        if not readers:
            raise RefusalError("no linear map or convolution reads its units as they are")
        reader = min(readers, key=lambda path: indices[path].shape[1])  # type: ignore[union-attr]
        index: Tensor = indices[reader]  # type: ignore[assignment]
        module = self.traced[reader]
        pruner = self.graph.get_pruner_of_module(module)
        unit_of = {place: unit for unit, places in enumerate(index.tolist()) for place in places}
        found = self.graph.get_pruning_group(module, pruner.prune_in_channels, sorted(unit_of))
        members = [member for item in found if (member := self._member(item, unit_of, units)) is not None]
        if not any(member.side == "out" for member in members):
            raise RefusalError("nothing gives its units that could be made smaller")
        return Group(units, tuple(members))

    def _member(self, item: Any, unit_of: dict[int, int], units: int) -> Member | None:
        module = item.dep.target.module
        if module not in self.names:
            if type(module).__name__ == "_OutputOp" or isinstance(module, nn.Parameter):
                what = "a parameter of its own" if isinstance(module, nn.Parameter) else "the model's output"
                raise RefusalError(f"its units belong to {what}")
            return None  # an operation without weights
        path, kind = self.names[module], type(module).__name__
        if isinstance(module, nn.PReLU) and module.num_parameters == 1:
            return None
        depthwise = isinstance(module, READERS[1:]) and module.groups == module.in_channels == module.out_channels > 1
        if not isinstance(module, RESIZABLE) or isinstance(module, nn.LayerNorm):
            raise RefusalError(f"{path!r} ({kind}), which goes with it, cannot do without some of its units")
        if not depthwise and getattr(module, "groups", 1) > 1:
            raise RefusalError(f"{path!r} ({kind}), which goes with it, works in {module.groups} groups")
        if self.counts.get(path, 1) > 1:
            raise RefusalError(f"{path!r}, which goes with it, is called more than once")
        inside = not depthwise and self.graph.is_in_channel_pruning_fn(item.dep.handler) and isinstance(module, READERS)
        at = torch.tensor(item.idxs)
        index = by_unit(torch.tensor([unit_of[root] for root in item.root_idxs]), at, units)
        if index is None:
            raise RefusalError(f"{path!r} holds only some of its units, or others too")
        if not inside and not depthwise:
            return Member(path, "out", index)
        layer = self._layer(path, index)
        if layer is None:
            raise RefusalError(f"{path!r} reads its units too, and not as a layer of the statistics gives them")
        return Member(path, "in" if inside else "out", index, layer)


def _traced(model: nn.Module, batch: Batch) -> tuple[Any, nn.Module]:
    """torch-pruning's dependency graph, and the copy of the model that it is of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torch_pruning import DependencyGraph
    except ImportError as error:
        raise ModelError(
            "torch-pruning is needed to prune layers outside a chain of linear maps", "it is not installed",
            "Run: pip install 'cofire[prune]'.",
        ) from error  # fmt: skip
    made = copy.deepcopy(model).eval().requires_grad_(True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # it warns of parameters that it will not prune either
            graph = DependencyGraph().build_dependency(
                made, batch.inputs, forward_fn=called, verbose=False,
                output_transform=lambda output: [tensor for tensor in tensors_in(output) if tensor.requires_grad],
            )  # fmt: skip
    except Exception as error:
        raise ModelError(
            f"torch-pruning must be able to follow {type(model).__name__}", f"it fails with {type(error).__name__}: {error}",
            "Layers in a chain of linear maps are pruned without it; name them with layers=.",
        ) from error  # fmt: skip
    return graph, made


def check_group(model: nn.Module, batch: Batch, group: Group) -> None:
    """Raise where the model without every other unit is not the model that does not read them.

    Args:
        model: The model; it stays as it is.
        batch: A few samples.
        group: The units.

    Raises:
        RefusalError: It is not, or it fails.
    """
    gone = torch.arange(0, group.units, 2)
    smaller = copy.deepcopy(model)
    shrink(smaller, [(group, gone)])

    def silence(member: Member):
        def hook(module, inputs):
            values = inputs[0].clone()
            values.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[member.index[gone].flatten()] = 0
            return values, *inputs[1:]

        return hook

    readers = [member for member in group.members if member.side == "in"]
    handles = [model.get_submodule(member.module).register_forward_pre_hook(silence(member)) for member in readers]
    try:
        with torch.no_grad(), evaluating(model), evaluating(smaller):
            expected = logits_of(called(model, batch.inputs))
            found = logits_of(called(smaller, batch.inputs))
    except Exception as error:
        raise RefusalError(f"the model fails without some of its units: {type(error).__name__}: {error}") from error
    finally:
        for handle in handles:
            handle.remove()
    if expected is None or found is None or found.shape != expected.shape:
        raise RefusalError("without some of its units the model gives no class scores, or not as many")
    if not torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        raise RefusalError("without some of its units the model gives something else than without what reads them")


def shrink(model: nn.Module, gone: Iterable[tuple[Group, Tensor]]) -> None:
    """Take units out of a model, in place; attention modules then say how many heads they have left.

    Args:
        model: The model.
        gone: Groups, and the units of each that go.
    """
    places: dict[str, dict[str, list[Tensor]]] = {}
    heads = head_sizes(model)
    for group, units in gone:
        for member in group.members:
            places.setdefault(member.module, {}).setdefault(member.side, []).append(member.index[units].flatten())
    for name, sides in places.items():
        module = model.get_submodule(name)
        held = joined(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        tensors = {key: values for key, values in held if values.ndim}
        if "out" in sides:
            tensors = {key: _without(values, sides["out"], 0) for key, values in tensors.items()}
        if "in" in sides:
            tensors["weight"] = _without(tensors["weight"], sides["in"], 1)
        resize(module, tensors)
    set_head_counts(model, heads)


def _without(values: Tensor, places: list[Tensor], axis: int) -> Tensor:
    left = torch.ones(values.shape[axis], dtype=torch.bool)
    left[torch.cat(places)] = False
    return values.detach().index_select(axis, left.nonzero()[:, 0].to(values.device))
