"""Which modules read a layer's units, and with which weights."""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cofire.batches import Batch
from cofire.calls import READERS, Calls
from cofire.errors import InputError
from cofire.listing import LayerInfo
from cofire.taps import Taps

__all__ = ["by_unit", "outgoing_weights", "reads_of"]

_FIRST_CODE = 1000


def reads_of(
    taps: Taps, batch: Batch, units: Mapping[str, int]
) -> tuple[dict[str, Int[Tensor, " inputs"]], dict[str, int], dict[str, int]]:
    """What linear maps and convolutions read, found by holding every unit at a number of its own and looking for the numbers.

    Args:
        taps: Watching the model; its layers are known.
        batch: Some samples.
        units: Units by layer, of the layers to look for.

    Returns:
        By module path, the unit that each of its inputs is, counted over all layers, -1 for none; by layer, the count its units
        begin with; and how often each module is called.
    """
    starts = dict(zip(units, torch.tensor([0, *units.values()]).cumsum(0).tolist(), strict=False))
    total, medians = sum(units.values()), {}
    paths = {module: path for path, module in taps.model.named_modules() if isinstance(module, READERS)}

    def look(module, inputs, named):
        read = inputs[0] if inputs else named["input"]
        axis = -1 if isinstance(module, nn.Linear) else 1
        medians.setdefault(paths[module], []).append(read.detach().movedim(axis, 0).flatten(1).median(1).values.cpu())

    def hold(info: LayerInfo, output: Tensor, numbers: Tensor) -> None:
        if info.name in starts:
            start = starts[info.name]
            info.arrangement.hold(output, torch.arange(info.units), numbers[start : start + info.units])

    handles = [module.register_forward_pre_hook(look, with_kwargs=True) for module in paths]
    # Twice, with other numbers: what is a unit's number by chance is not so again.
    codes = torch.stack([torch.arange(total), torch.arange(total).flip(0)]) + _FIRST_CODE
    before = taps.edit
    try:
        for numbers in codes:
            taps.edit = lambda info, output, numbers=numbers: hold(info, output, numbers)
            taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask)
    finally:
        taps.edit = before
        for handle in handles:
            handle.remove()
    reads = {}
    for path, values in medians.items():
        if len(values) == 2 and values[0].shape == values[1].shape:
            unit = values[0].double().round().long() - _FIRST_CODE
            unit[(unit < 0) | (unit >= total)] = -1
            right = (torch.stack(values).double() - codes[:, unit]).abs().amax(0) < 0.2
            reads[path] = torch.where(right, unit, -1)
    return reads, starts, {path: len(values) // 2 for path, values in medians.items()}


def by_unit(units: Tensor, places: Tensor, count: int) -> Int[Tensor, "units positions"] | None:
    """The places of each unit; None where units have none or not as many.

    Args:
        units: The unit at each place.
        places: The places.
        count: How many units there are.
    """
    per = len(places) // count
    if per == 0 or not bool((torch.bincount(units, minlength=count) == per).all()):
        return None
    return places[torch.argsort(units * (int(places.max()) + 1) + places)].view(count, per)


def outgoing_weights(
    seen: Calls, taps: Taps, batch: Batch, names: Mapping[str, int]
) -> dict[str, Float[Tensor, "outputs units"]]:
    """The weights with which units are read, by layer, as forward passes show it.

    All linear maps and convolutions that read the units as they are count, wherever they are; behind a sum or a normalisation,
    where none does, it is the first one called later that has as many inputs, or, behind a flattening, a multiple of them. A
    convolution's weights over positions, those of the positions of a unit, and those of several modules are laid one below the
    other.

    Args:
        seen: A forward pass.
        taps: Watching the model; its layers are known.
        batch: The samples of that pass.
        names: Units by layer.

    Raises:
        InputError: A layer that nothing follows.
    """
    known = {name: info.units for name, info in taps.known.items() if info is not None}
    reads, starts, _ = reads_of(taps, batch, known)
    modules = dict(taps.model.named_modules())
    found = {}
    for name, units in names.items():
        rows = [
            weights
            for path, read in reads.items()
            if (weights := _read(modules[path], _places(read, starts[name], units))) is not None
        ]
        found[name] = torch.cat(rows) if rows else _following(seen, name, units)
    return found


def _places(read: Tensor, start: int, units: int) -> Tensor | None:
    at = ((read >= start) & (read < start + units)).nonzero()[:, 0]
    return by_unit(read[at] - start, at, units)


def _following(seen: Calls, name: str, units: int) -> Tensor:
    after = seen.after(name)
    for call in after[1] if after is not None else ():
        wide = None if call.module is None else _width(call.module)
        if wide is not None and wide % units == 0 and (wide == units or isinstance(call.module, nn.Linear)):
            weights = _read(call.module, torch.arange(wide).view(units, -1))  # type: ignore[arg-type]
            if weights is not None:
                return weights
    raise InputError(
        f"the order needs the weights of the layer that reads {name!r}", "no linear map or convolution of its width follows it",
        "Choose a measure of the units alone, such as 'mutual_information'.",
    )  # fmt: skip


def _width(module: nn.Module) -> int:
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels  # type: ignore[return-value]


def _read(module: nn.Module, places: Tensor | None) -> Tensor | None:
    """Weights [outputs, units] of a module that reads units at these places."""
    if places is None:
        return None
    weights, units, groups = module.weight.detach().cpu(), len(places), getattr(module, "groups", 1)  # type: ignore[union-attr]
    if groups == 1:
        return weights[:, places].flatten(2).transpose(1, 2).reshape(-1, units)
    if module.in_channels != units:
        return None
    per = weights.view(groups, -1, units // groups, *weights.shape[2:])  # each unit's own norm, in the order of the channels
    norms = per.transpose(1, 2).reshape(units, -1).norm(dim=1)
    return norms[places[:, 0]][None]
