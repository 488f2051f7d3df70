"""What has to be known of a model to make smaller ones of it, found once: groups of units, their moments, orders, numbers."""

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cofire.batches import Batch, as_batch, check_readable_again, example_batch, spread_out
from cofire.errors import CofireWarning, InputError, LayerError, ModelError
from cofire.firing import covariance, unit_spread
from cofire.grouping import Group, Member, groups_of, shrink
from cofire.heads import Heads, head_order, heads_of
from cofire.layer import LayerStats
from cofire.moments import covariances, fisher_moments, input_covariances
from cofire.orders import GREEDY, WEIGHTED, check_statistics, eliminate, eliminate_blocks, scores_of, sequence
from cofire.refitting import columns_of, fill, fit, fit_along
from cofire.stats import FiringStats
from cofire.taps import Taps
from cofire.weights import digest
from cofire.wrappers import device_of, unwrap

__all__ = ["Plan"]


class Plan:
    """A model about to be made smaller; any number of smaller models can be made of it.

    Args:
        model: The model; it stays as it is.
        example: Inputs of it, or a batch.
        stats: Statistics of it.
        layers: Names or globs of layers to prune; by default all that can be.
        batches: Labelled data; see :func:`cofire.prune`.
        fisher: Take gradients for the order "fisher" too.
        samples: Of the batches, at most so many are kept, to run side by side through the model and each smaller one.
        heads: Look at attention heads too; see :func:`cofire.prune`.

    Raises:
        InputError: Statistics of another model, or of another kind.
        ModelError: No layer can be pruned, or one that was named cannot.
    """

    def __init__(
        self, model: nn.Module, example: Any, stats: FiringStats, layers: str | Iterable[str] | None = None,
        batches: Iterable | None = None, fisher: bool = False, samples: int = 512, heads: bool = False,
    ):  # fmt: skip
        self.model, self.stats = unwrap(model), stats
        check_statistics(stats, digest(self.model))
        if batches is not None:
            check_readable_again(batches)
        batch = example_batch(example, device_of(self.model))
        if heads and batches is None:
            raise InputError("heads=True needs the covariance of heads", "found no batches=", "Pass batches= to take it from.")
        self.groups = self._groups(batch, layers, heads)
        self.layers = {name: stats[name] for group in self.groups if not isinstance(group, Heads) for name in group.layers}
        self.spreads = {name: covariance(layer) for name, layer in self.layers.items() if layer.product_sum is not None}
        self.fishers: dict[str, Tensor] = {}
        self.samples: Batch | None = None
        if fisher and batches is None:
            raise InputError("'fisher' needs gradients", "found no batches=", "Pass batches= to take them on.")
        if batches is not None:
            self._look(batch, batches, fisher, samples)

    def order(self, by: str | Mapping[str, Tensor]) -> list[Tensor]:
        """Units of every group in the order of their removal.

        Args:
            by: As for :func:`cofire.prune`.
        """
        if by == "random":
            drawn = torch.Generator().manual_seed(0)  # one for all groups: those of equal size must not be shuffled alike
            return [torch.randperm(group.units, generator=drawn) for group in self.groups]
        return [self._order(group, by) for group in self.groups]

    def costs(self, orders: Sequence[Tensor]) -> list[Tensor]:
        """What each removal costs the modules that read the units, for every group: a share of their inputs' variance, summed.

        Args:
            orders: Of the removal.
        """
        return [
            eliminate_blocks(*self._heads(group), group.width, order)[1]
            if isinstance(group, Heads)
            else eliminate(self._readers(group), order)[1]
            for group, order in zip(self.groups, orders, strict=True)
        ]

    def counts(self, share: float, costs: Sequence[Tensor] | None = None) -> list[int]:
        """How many units of every group stay, so that a share of all does; a head is as many units as it has features.

        Args:
            share: Share of the units that stays.
            costs: What the removals cost: they are done where they cost least. None keeps the same share of every group.
        """
        if costs is None:
            return [max(1, round(share * group.units)) for group in self.groups]
        rising, widths = [values[:-1].cummax(0).values for values in costs], torch.tensor([g.width for g in self.groups])
        owners = torch.cat([torch.full((len(values),), place) for place, values in enumerate(rising)])  # one unit of each stays
        owners = owners[(torch.cat(rising) / widths[owners]).argsort(stable=True)]
        total = sum(group.units * group.width for group in self.groups)
        gone = owners[widths[owners].cumsum(0) <= total - round(share * total)]
        return [group.units - int((gone == place).sum()) for place, group in enumerate(self.groups)]

    def smaller(self, orders: Sequence[Tensor], counts: Sequence[int], compensate: bool | None = None) -> nn.Module:
        """A model without the units that come first.

        Args:
            orders: Of the removal.
            counts: Units of every group that stay.
            compensate: As for :func:`cofire.prune`.
        """
        made, gone = copy.deepcopy(self.model), []
        along: dict[str, list[tuple[Member, Tensor]]] = {}
        for group, order, count in zip(self.groups, orders, counts, strict=True):
            if count == group.units:
                continue
            leaving, kept = order[: group.units - count], order[group.units - count :].sort().values
            gone.append((group, leaving))
            if isinstance(group, Heads):
                if compensate is not False:
                    along.setdefault(group.members[-1].module, []).append(group.columns(kept))
                continue
            for member in group.members:
                if member.side == "out" or member.layer is None:
                    continue
                module, layer = made.get_submodule(member.module), self.layers[member.layer]
                if compensate is False or (compensate is None and layer.name not in self.spreads):
                    fill(module, member, unit_spread(layer)[0], kept)
                elif self.samples is not None:
                    along.setdefault(member.module, []).append((member, kept))
                else:
                    fit(module, member, unit_spread(layer)[0], self._spread(layer), kept)
        if self.samples is not None and along:
            fit_along(self.model, made, self.samples, along)
        shrink(made, gone)
        return made

    def _groups(self, batch: Batch, layers: str | Iterable[str] | None, heads: bool) -> list[Group]:
        found, refused = heads_of(self.model, batch) if heads else ([], {})
        attention = [*refused, *(group.layers[0] for group in found)]
        named = [layers] if isinstance(layers, str) else [*self.stats, *attention] if layers is None else list(layers)
        if not named:
            raise LayerError("layers must name at least one layer", "found none", "layers=None takes all that can be pruned.")
        asked = self.stats.named([name for name in named if name not in attention])
        named = [*asked, *(name for name in named if name in attention)]
        for name in asked:
            if self.stats[name].choices.pool == "max" and self.stats[name].layout != "dense":
                raise InputError(
                    "units are held at their means", f'{name!r} was recorded with pool="max"', 'Record with pool="mean".'
                )
        groups, left = groups_of(self.model, batch, list(self.stats), asked)
        for name, units in ((name, group.units) for group in groups for name in group.layers):
            if self.stats[name].units != units:
                raise InputError(
                    f"the statistics of {name!r} must be of its {units:,} units", f"they are of {self.stats[name].units:,}",
                    'Record the model again, with pool="mean".',
                )  # fmt: skip
        groups, refused = [*groups, *found], {name: refused[name] for name in refused if name in named} | left
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in list(refused.items())[:3])
        if heads and not found:
            raise ModelError(
                "heads=True needs attention whose heads can be removed", reasons or "found no attention of a known form"
            )
        able = ", ".join(dict.fromkeys(repr(name) for group in groups for name in group.layers)) or "none"
        if refused and (layers is not None or not groups):
            raise ModelError(f"{'these' if len(refused) > 1 else 'this'} cannot be pruned", reasons, f"These can: {able}.")
        if refused:
            warnings.warn(f"left as they are: {reasons}", CofireWarning, stacklevel=4)
        return [group for group in groups if set(group.layers) & set(named)]

    def _look(self, example: Batch, batches: Iterable, fisher: bool, samples: int) -> None:
        """Take from the batches what the statistics do not hold."""
        spatial = [name for name, layer in self.layers.items() if layer.layout in ("conv", "tokens")]
        device = device_of(self.model)

        def read() -> Iterator[Batch]:
            for index, item in enumerate(batches):
                yield as_batch(item, device, self.stats.classes, f"batch {index}")

        with Taps(self.model, list(self.stats)) as taps:
            taps.forward(
                example.inputs, len(example), lambda *_: None, example.mask
            )  # which call is which layer is judged here
            if spatial:
                self.spreads |= covariances(taps, read(), spatial, positions=True)
            if fisher:
                means = {name: unit_spread(layer)[0] for name, layer in self.layers.items()}
                self.fishers = fisher_moments(taps, read(), means, self.stats.classes)
        attention = [group for group in self.groups if isinstance(group, Heads)]
        if attention:
            found = input_covariances(self.model, read(), [group.members[-1].module for group in attention])
            self.spreads |= {group.layers[0]: found[group.members[-1].module] for group in attention}
        if spatial or attention:
            self.samples = spread_out(read(), samples)

    def _order(self, group: Group, by: str | Mapping[str, Tensor]) -> Tensor:
        if isinstance(group, Heads):
            return head_order(group, by, *self._heads(group))
        return eliminate(self._readers(group))[0] if by == "obs" else self._by_scores(group, by)

    def _by_scores(self, group: Group, by: str | Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(group.units, dtype=torch.float64)
        for name in group.layers:
            readers = [member for member in group.members if member.layer == name and member.side == "in"]
            if (by in WEIGHTED and not readers) or (isinstance(by, Mapping) and name not in by and set(group.layers) & set(by)):
                continue  # a depthwise convolution alone reads it, or scores were given for another layer of the group
            rows = [columns_of(self.model.get_submodule(member.module), member) for member in readers]
            spread = self._spread(self.layers[name]) if by in GREEDY else None
            scores = scores_of(by, self.layers[name], torch.cat(rows).cpu() if rows else None, spread, self.fishers.get(name))
            # So that layers of a group count alike; adding a number to all of a layer's scores would change nothing.
            width = float(scores.std()) if len(scores) > 1 else 0.0
            total += scores if len(group.layers) == 1 else scores / width if width > 0 else 0.0
        return torch.tensor([unit for _, unit in sequence({"": total}, {"": group.units}, "ascending")])

    def _readers(self, group: Group) -> list[tuple[Tensor, Tensor]]:
        """The weights with which the units of every layer of a group are read, and their covariance."""
        rows: dict[str, list[Tensor]] = {}
        for member in group.members:
            if member.side == "in" and member.layer is not None:
                rows.setdefault(member.layer, []).append(columns_of(self.model.get_submodule(member.module), member).cpu())
        return [(torch.cat(found), self._spread(self.layers[name])) for name, found in rows.items()]

    def _heads(self, heads: Heads) -> tuple[Tensor, Tensor]:
        """The weights with which heads are read, and the covariance of their features."""
        return self.model.get_submodule(heads.members[-1].module).weight.detach().cpu(), self.spreads[heads.layers[0]]  # type: ignore[union-attr]

    def _spread(self, layer: LayerStats) -> Tensor:
        return (
            self.spreads[layer.name] if layer.name in self.spreads else covariance(layer)
        )  # which says that it was not recorded
