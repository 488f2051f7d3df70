"""Second moments of units from batches: their covariance, and how far the logits feel them leave their means."""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from cofire.batches import Batch
from cofire.errors import ModelError
from cofire.listing import LayerInfo
from cofire.pooling import Arrangement
from cofire.readings import form_of, scores_in
from cofire.taps import Taps
from cofire.wrappers import called, evaluating

__all__ = ["covariances", "fisher_moments", "input_covariances", "random_directions"]


def covariances(
    taps: Taps, batches: Iterable[Batch], names: Iterable[str], positions: bool = False
) -> dict[str, Float[Tensor, "units units"]]:
    """Covariance of the units of some layers.

    Args:
        taps: Watching the model; its layers are known.
        batches: Samples.
        names: The layers.
        positions: Over all positions of all samples, in place of the samples' values, which are pooled over positions.
    """
    sums: dict[str, Tensor] = {}
    wanted = set(names)
    mask: Tensor | None = None

    def add(info: LayerInfo, output: Tensor) -> None:
        if info.name in wanted:
            rows = _rows(info.arrangement, output, mask) if positions else info.arrangement.pool(output, taps.pool, mask)
            sums[info.name] = sums.get(info.name, 0) + _products(rows)

    before, taps.edit = taps.edit, add
    try:
        for batch in batches:
            mask = batch.mask
            taps.forward(batch.inputs, len(batch), lambda *_: None, mask)
    finally:
        taps.edit = before
    return {name: _spread(total) for name, total in sums.items()}


def input_covariances(
    model: nn.Module, batches: Iterable[Batch], names: Iterable[str]
) -> dict[str, Float[Tensor, "columns columns"]]:
    """Covariance of what some linear maps read, over all tokens of all samples that count.

    Args:
        model: The model.
        batches: Samples.
        names: The linear maps.
    """
    sums: dict[str, Tensor] = {}
    mask: Tensor | None = None

    def hook(name: str):
        def add(_module, inputs):
            sums[name] = sums.get(name, 0) + _products(_tokens(inputs[0], mask))

        return add

    handles = [model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                mask = batch.mask
                called(model, batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _spread(total) for name, total in sums.items()}


def fisher_moments(
    taps: Taps, batches: Iterable[Batch], means: Mapping[str, Tensor], classes: int, seed: int = 0
) -> dict[str, Float[Tensor, "units units"]]:
    r"""What holding units at their means does to the predicted probabilities, to second order, for all pairs of units.

    .. math:: T = E[u u^\top], \qquad u_j = \sum_i (x_{ij} - m_j)\, \frac{\partial\, v^\top z}{\partial x_{ij}}

    with positions i, logits z and a random direction v for every sample, :func:`random_directions`. The sum of T over all
    pairs of some units is, in expectation, the squared change of the logits, weighed by the Fisher information of the
    probabilities, when these units are held at their means, as far as the net is linear; no labels.

    Args:
        taps: Watching the model; its layers are known.
        batches: Samples.
        means: Means of the units by layer: of these layers the moments are taken.
        classes: Number of classes.
        seed: Of the directions.

    Raises:
        ModelError: A layer from which no gradient reaches.
    """
    generator = torch.Generator().manual_seed(seed)
    totals = {name: torch.zeros(len(mean), len(mean), dtype=torch.float64) for name, mean in means.items()}
    count, seen = 0, {}

    def keep(info: LayerInfo, output: Tensor) -> None:
        if info.name in means:
            if not output.requires_grad:  # nothing before it is trained
                output.requires_grad_()
            # The edge and the copy stay those of this moment, whatever changes the tensor in place later.
            seen[info.name] = info.arrangement, output.detach().clone(), get_gradient_edge(output)

    form = ""
    before, taps.edit = taps.edit, keep
    try:
        for batch in batches:
            seen.clear()
            output = taps.forward(batch.inputs, len(batch), lambda *_: None, batch.mask, gradients=True)
            form = form or form_of(output, classes, taps.sigmoid)
            logits = scores_in(output, form)
            found = list(seen.items())
            slopes = torch.autograd.grad(
                logits, [edge for _, (_, _, edge) in found], random_directions(logits, generator), allow_unused=True
            )
            for (name, (place, values, _)), slope in zip(found, slopes, strict=True):
                if slope is None:
                    raise ModelError(f"a gradient must reach layer {name!r}", "the logits do not depend on it through autograd")
                u = _summed(place, values.double() * slope) - means[name].to(values.device) * _summed(place, slope.double())
                totals[name] += (u.T @ u).cpu()
            count += len(batch)
    finally:
        taps.edit = before
    return {name: total / count for name, total in totals.items()}


def random_directions(logits: Float[Tensor, "samples classes"], generator: torch.Generator) -> Float[Tensor, "samples classes"]:
    r"""Random directions v of the logits with the Fisher information of the probabilities p as their second moment.

    .. math:: v = \sqrt{p}\, e - p\, (\sqrt{p}^\top e), \qquad E[v v^\top] = \mathrm{diag}(p) - p p^\top

    where e holds random signs.

    Args:
        logits: Class scores.
        generator: On the CPU; draws the signs.
    """
    shares = logits.detach().double().softmax(1)
    signs = 2 * torch.randint(2, logits.shape, generator=generator, dtype=torch.float64) - 1
    turned = shares.sqrt() * signs.to(shares.device)
    return (turned - shares * turned.sum(1, keepdim=True)).to(logits.dtype)


def _summed(place: Arrangement, values: Tensor) -> Tensor:
    """Sum over the positions of every unit, [samples, units]."""
    values = values.movedim(place.sample_axis, 0)
    if values.ndim <= 2 or place.layout == "positions":
        return values.flatten(1)
    return values.flatten(2).sum(2) if place.layout == "conv" else values.flatten(1, -2).sum(1)


def _rows(place: Arrangement, values: Tensor, mask: Tensor | None) -> Tensor:
    """The values of all units at every position that counts, [samples and positions, units]."""
    values = values.detach().movedim(place.sample_axis, 0)
    if values.ndim <= 2 or place.layout == "positions":
        return values.flatten(1)
    if place.layout == "conv":
        return values.movedim(1, -1).flatten(0, -2)
    return _tokens(values, mask)


def _tokens(values: Tensor, mask: Tensor | None) -> Tensor:
    """The rows of all tokens that count."""
    return values[mask.bool()] if mask is not None and mask.shape == values.shape[:-1] else values.flatten(0, -2)


def _products(rows: Tensor) -> Tensor:
    """Sums of the products of all columns, and of a last one of ones."""
    wide = torch.cat([rows.double(), rows.new_ones(len(rows), 1, dtype=torch.float64)], 1)
    return wide.T @ wide


def _spread(total: Tensor) -> Tensor:
    """Covariance of the columns from such sums."""
    mean = total[:-1, -1] / total[-1, -1]
    return (total[:-1, :-1] / total[-1, -1] - torch.outer(mean, mean)).cpu()
