"""Attention heads as units: which modules become smaller with them, and in which order they go."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cofire.attention import head_count, maps_of
from cofire.batches import Batch
from cofire.errors import InputError
from cofire.grouping import Group, Member, RefusalError, check_group
from cofire.orders import eliminate_blocks, given_scores, greedy, sequence
from cofire.wrappers import called, evaluating

__all__ = ["Heads", "head_order", "heads_of"]

_ORDERS = ("obs", "reconstruction", "weight_std")


class Heads(Group):
    """The heads of an attention module, whose name stands for a layer's; the last member reads them."""

    @property
    def width(self) -> int:
        """Features of a head: as many units each counts as where a share of all units goes."""
        return self.members[-1].index.shape[1]

    def columns(self, kept: Int[Tensor, " kept"]) -> tuple[Member, Int[Tensor, " columns"]]:
        """What reads the heads, with every column as a unit of its own, and the columns that stay.

        Args:
            kept: Heads that stay.
        """
        reader = self.members[-1]
        places = torch.arange(reader.index.numel()).view(reader.index.shape)
        return replace(reader, index=reader.index.reshape(-1, 1)), places[kept].flatten()


def heads_of(model: nn.Module, batch: Batch) -> tuple[list[Heads], dict[str, str]]:
    """The attention modules whose heads can be removed, and those whose heads cannot, with the reason.

    What makes queries, keys and values is known by name, and what reads the heads is found by numbers: attention to values that
    are the same everywhere gives those values. Each group of heads is tried, as :func:`cofire.grouping.groups_of` does.

    Args:
        model: The model; it stays as it is.
        batch: Some samples.
    """
    batch, found, refused = batch.first(2), [], {}
    attention = {
        path: module for path, module in model.named_modules() if isinstance(module, nn.MultiheadAttention) or maps_of(module)
    }
    readers, calls = _readers(model, batch, attention)
    for path in attention:
        try:
            group = _heads(model, path, readers[path], calls)
            check_group(model, batch, group)
            found.append(group)
        except RefusalError as reason:
            refused[path] = str(reason)
    return found, refused


def _readers(
    model: nn.Module, batch: Batch, attention: Mapping[str, nn.Module]
) -> tuple[dict[str, list[str]], dict[nn.Linear, int]]:
    """By attention module, the linear maps that read its values as they are; and how often every linear map is called."""
    generator, numbers = torch.Generator().manual_seed(0), {}
    readers: dict[str, list[str]] = {path: [] for path in attention}
    names = {module: path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    calls = dict.fromkeys(names, 0)

    def hold(path: str, features: int):
        numbers[path] = torch.randn(features, generator=generator)
        return lambda _module, _inputs, output: numbers[path].to(output).expand_as(output)

    def look(module, inputs):
        calls[module] += 1
        if not inputs:  # called by keyword
            return
        for path, values in numbers.items():
            # Where one map makes queries, keys and values, the values come last.
            expected = values[-module.in_features :].to(inputs[0])
            if len(expected) == module.in_features and bool(((inputs[0] - expected).abs() < 0.05).all()):
                readers[path].append(names[module])

    handles = [module.register_forward_pre_hook(look) for module in names]
    for path, module in attention.items():
        maps = maps_of(module)
        if maps and isinstance(maps[-1], nn.Linear):
            handles.append(maps[-1].register_forward_hook(hold(path, maps[-1].out_features)))
    try:
        with evaluating(model), torch.no_grad():
            called(model, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return readers, calls


def _heads(model: nn.Module, path: str, readers: list[str], calls: Mapping[nn.Linear, int]) -> Heads:
    """The heads of an attention module."""
    module = model.get_submodule(path)
    if isinstance(module, nn.MultiheadAttention):
        raise RefusalError("torch.nn.MultiheadAttention must have heads that are together as wide as what it reads")
    made, names = maps_of(module), {part: name for name, part in model.named_modules()}
    maps = [part for part in made if isinstance(part, nn.Linear)]
    if len(maps) < len(made):
        raise RefusalError("its queries, keys and values do not come from linear maps")
    heads, features = head_count(module), {part.out_features for part in maps}
    if len(features) > 1:
        raise RefusalError("its queries, keys and values are not equally wide")
    total = features.pop() // (3 if len(maps) == 1 else 1)
    if heads is None or heads < 2 or total % heads:
        raise RefusalError(f"it says that it has {heads} heads, for {total} features")
    if any(calls[part] != 1 for part in maps):
        raise RefusalError("it is called more than once, or not at all")
    if len(readers) != 1:
        raise RefusalError(f"{len(readers) or 'no'} linear maps read its heads as they are")
    index = torch.arange(total).view(heads, -1)
    rows = torch.cat([index + total * place for place in range(3)], 1) if len(maps) == 1 else index
    makers = [Member(names[part], "out", rows) for part in maps]
    return Heads(heads, (*makers, Member(readers[0], "in", index, path)))


def head_order(
    heads: Heads, by: str | Mapping[str, Tensor], weights: Float[Tensor, "outputs columns"],
    covariance: Float[Tensor, "columns columns"],
) -> Int[Tensor, " heads"]:  # fmt: skip
    """Heads in the order of their removal.

    Args:
        heads: Of an attention module.
        by: "obs", "reconstruction" or "weight_std", each of what the linear map that reads the heads loses; or scores by name.
        weights: Of that map.
        covariance: Of its columns.

    Raises:
        InputError: Another order, or no scores for this module.
    """
    if by == "obs":
        return eliminate_blocks(weights, covariance, heads.width)[0]
    pairs = (weights.double().T @ weights.double()).cpu() * covariance
    if by == "reconstruction":
        return greedy(pairs.view(heads.units, heads.width, heads.units, heads.width).sum((1, 3)))
    if by == "weight_std":
        scores = pairs.diagonal().view(heads.units, heads.width).sum(1)
    elif isinstance(by, Mapping):
        scores = given_scores(by, heads.layers[0], heads.units)
    else:
        raise InputError(
            f"heads can be ordered by {', '.join(map(repr, _ORDERS))}, 'random' or scores of your own", f"found {by!r}",
            "No activations of heads are recorded: leave heads= out, or give scores by name.",
        )  # fmt: skip
    return torch.tensor([head for _, head in sequence({"": scores}, {"": heads.units}, "ascending")])
