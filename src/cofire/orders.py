"""In which order to remove units: by a measure, by what the next layer loses, or at random."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.errors import InputError
from cofire.firing import unit_spread
from cofire.layer import LayerStats
from cofire.measures import MEASURES, measure
from cofire.stats import FiringStats

__all__ = [
    "ASCENDING",
    "GREEDY",
    "SIMPLE",
    "WEIGHTED",
    "check_statistics",
    "eliminate",
    "eliminate_blocks",
    "given_scores",
    "greedy",
    "greedy_reconstruction",
    "obs_order",
    "scores_of",
    "sequence",
]

SIMPLE = ("firing_rate", "mean", "std")
WEIGHTED = ("weight_std", "reconstruction", "obs")
"""Orders that look at the weights of the next layer."""
GREEDY = ("reconstruction", "obs")
"""Orders of these in which every removal changes what the next is worth; they need the covariance."""
ASCENDING = (*WEIGHTED, "fisher")
"""Orders that say what a unit is worth to what follows: only low values first makes sense."""


def scores_of(
    by: str | Mapping[str, Tensor], layer: LayerStats, weights: Tensor | None = None, covariance: Tensor | None = None,
    fisher: Tensor | None = None,
) -> Float[Tensor, " units"]:  # fmt: skip
    """What each unit of a layer is worth: the smallest goes first in ascending order.

    Args:
        by: A per-unit measure, "firing_rate", "mean", "std", "weight_std", "reconstruction", "obs", "fisher", or scores by
            layer name.
        layer: Statistics of the layer.
        weights: Outgoing weights [outputs, units], for those that need them.
        covariance: Covariance of the units, likewise.
        fisher: Their :func:`cofire.moments.fisher_moments`, likewise.

    Raises:
        InputError: No such measure, or scores that do not fit.
    """
    if isinstance(by, Mapping):
        return given_scores(by, layer.name, layer.units)
    if by in WEIGHTED:
        if weights is None:
            raise InputError(
                f"{by!r} needs the weights of the layer that reads {layer.name!r}", "it was not found",
                "Choose a measure of the units alone, such as 'mutual_information'.",
            )  # fmt: skip
        if by == "weight_std":
            return weights.double().norm(dim=0) * unit_spread(layer)[1].to(weights.device)
        if covariance is None:
            raise InputError(f"{by!r} needs the covariance of layer {layer.name!r}", "found none")
        return _places(greedy_reconstruction(weights, covariance) if by == "reconstruction" else obs_order(weights, covariance))
    if by == "fisher":
        if fisher is None:
            raise InputError("'fisher' needs gradients", "found none", "Pass batches= to take them on.")
        return _places(greedy(fisher))
    if by in SIMPLE:
        mean, std = unit_spread(layer)
        return {"firing_rate": layer.fire.sum(0).double() / layer.samples, "mean": mean, "std": std}[by]
    names = [row.name for row in MEASURES if row.per_unit]
    if by not in names:
        offered = ", ".join([*names, *SIMPLE, *ASCENDING, "random"])
        raise InputError(f"by must be one of {offered}, or scores by layer", f"found {by!r}")
    return measure(by).function(layer)


def given_scores(by: Mapping[str, Tensor], name: str, units: int) -> Float[Tensor, " units"]:
    """The scores that were given for a layer.

    Args:
        by: Scores by layer name.
        name: The layer.
        units: Its units.

    Raises:
        InputError: None for this layer, or not a number for each unit.
    """
    if name not in by:
        raise InputError(f"scores must be given for layer {name!r}", f"found {', '.join(map(repr, by))}")
    scores = torch.as_tensor(by[name]).double().cpu()
    if scores.shape != (units,):
        raise InputError(f"scores of layer {name!r} must be [{units} units]", f"found {tuple(scores.shape)}")
    if bool(scores.isnan().any()):
        raise InputError(f"scores of layer {name!r} must be numbers", "found NaN")
    return scores


def greedy_reconstruction(
    weights: Float[Tensor, "outputs units"], covariance: Float[Tensor, "units units"]
) -> Int[Tensor, " units"]:
    """Units in the order in which removing them disturbs the next layer least, each given those before it.

    With removed units at their means, the squared error of the next layer's input is the sum of Q over all pairs of removed
    units, Q = (WᵀW) times the covariance, element by element; each step takes the unit that adds least.

    Args:
        weights: Outgoing weights.
        covariance: Covariance of the units.
    """
    weights = weights.double()
    return greedy((weights.T @ weights) * covariance.to(weights))


def greedy(pairs: Float[Tensor, "units units"]) -> Int[Tensor, " units"]:
    """Units in the order in which the sum over all pairs of removed units grows least, each given those before it.

    Args:
        pairs: A symmetric matrix with no negative eigenvalue.

    >>> greedy(torch.tensor([[4.0, -2.0, 0.0], [-2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
    [2, 1, 0]
    """
    added, order = pairs.diagonal().clone(), []
    for _ in range(len(pairs)):
        unit = int(added.argmin())
        order.append(unit)
        added += 2 * pairs[:, unit]
        added[unit] = torch.inf
    return torch.tensor(order, dtype=torch.int64)


def _places(order: Tensor) -> Tensor:
    """The place of every unit in an order, as its score."""
    return torch.empty(len(order), dtype=torch.float64).scatter_(0, order.cpu(), torch.arange(len(order)).double())


def obs_order(
    weights: Float[Tensor, "outputs units"], covariance: Float[Tensor, "units units"], ridge: float = 1e-3
) -> Int[Tensor, " units"]:
    """Units in the order in which removing them costs least once the weights of the rest are fitted again: of one reader,
    what :func:`eliminate` says of several.

    Args:
        weights: Outgoing weights.
        covariance: Covariance of the units.
        ridge: Added to the diagonal, as a share of the mean variance.
    """
    return eliminate([(weights, covariance)], ridge=ridge)[0]


def eliminate(
    readers: Sequence[tuple[Tensor, Tensor]], order: Int[Tensor, " units"] | None = None, ridge: float = 1e-3
) -> tuple[Int[Tensor, " units"], Float[Tensor, " units"]]:
    r"""What removing units one by one costs those that read them, once their weights for the rest are fitted again.

    Optimal brain surgeon on the next layer's input: with P the inverse of the covariance S plus a ridge, removing unit j costs
    the squared norm of W_j over P_jj; P and W are then brought up to date. Each reader counts the share of its input's
    variance, tr(W S Wᵀ), that it loses.

    Args:
        readers: Outgoing weights [outputs, units] and covariance [units, units], by reader.
        order: The order of removal; by default that which costs least at each step.
        ridge: Added to the diagonal of the covariance, as a share of the mean variance.

    Returns:
        The order, and what each step costs: the sum over readers of a share of variance.

    >>> readers = [(torch.tensor([[3.0, 1.0]]), torch.eye(2))]
    >>> order, costs = eliminate(readers, ridge=0.0)
    >>> order.tolist(), [round(cost, 6) for cost in costs.tolist()]
    ([1, 0], [0.1, 0.9])
    """
    states, count = [], len(readers[0][1])
    for weights, covariance in readers:
        covariance, weights = covariance.double().cpu(), weights.double().cpu()
        trace = float(covariance.diagonal().mean())
        regular = covariance + torch.eye(count, dtype=torch.float64) * (ridge * trace if trace > 0 else 1.0)
        products = weights.T @ weights
        if len(weights) > count:  # only inner products of columns matter: as many rows as units have them too
            values, vectors = torch.linalg.eigh(products)
            weights = values.clamp(min=0).sqrt()[:, None] * vectors.T
        total = float((products * covariance).sum())
        states.append((weights.clone(), torch.linalg.inv(regular), total if total > 0 else 1.0))
    left, found, costs = torch.ones(count, dtype=torch.bool), [], []
    for step in range(count):
        cost = torch.stack([weights.square().sum(0) / inverse.diagonal() / total for weights, inverse, total in states]).sum(0)
        cost[~left] = torch.inf
        unit = int(cost.argmin() if order is None else order[step])
        found.append(unit)
        costs.append(float(cost[unit]))
        left[unit] = False
        for weights, inverse, _ in states:
            row, pivot = inverse[unit].clone(), float(inverse[unit, unit])
            weights -= torch.outer(weights[:, unit].clone(), row) / pivot
            inverse -= torch.outer(row, row) / pivot
            inverse[unit, unit] = 1.0  # it is out; its row and column are zero
    return torch.tensor(found, dtype=torch.int64), torch.tensor(costs, dtype=torch.float64)


def eliminate_blocks(
    weights: Float[Tensor, "outputs columns"], covariance: Float[Tensor, "columns columns"], width: int,
    order: Int[Tensor, " blocks"] | None = None, ridge: float = 1e-3,
) -> tuple[Int[Tensor, " blocks"], Float[Tensor, " blocks"]]:  # fmt: skip
    r"""What removing blocks of columns one by one costs a linear map, once its weights for the rest are fitted again.

    As :func:`eliminate`, with a block B of columns in place of one: with P the inverse of the covariance plus a ridge,

    .. math:: \Delta_B = \operatorname{tr}\bigl(W_B\, P_{BB}^{-1}\, W_B^\top\bigr), \qquad
        W \leftarrow W - W_B\, P_{BB}^{-1} P_{B\cdot}, \qquad P \leftarrow P - P_{\cdot B}\, P_{BB}^{-1} P_{B\cdot}

    Args:
        weights: Of the linear map, W.
        covariance: Of what it reads.
        width: Columns of a block; blocks lie side by side.
        order: The order of removal; by default that which costs least at each step.
        ridge: Added to the diagonal of the covariance, as a share of the mean variance.

    Returns:
        The order, and what each step costs: a share of the variance of what the map gives.

    >>> order, costs = eliminate_blocks(torch.tensor([[2.0, 1.0, 1.0, 0.0]]), torch.eye(4), width=2, ridge=0.0)
    >>> order.tolist(), [round(cost, 6) for cost in costs.tolist()]
    ([1, 0], [0.166667, 0.833333])
    """
    covariance, weights = covariance.double().cpu(), weights.double().cpu().clone()
    columns, mean = len(covariance), float(covariance.diagonal().mean())
    total = float(((weights.T @ weights) * covariance).sum()) or 1.0
    inverse = torch.linalg.inv(covariance + torch.eye(columns, dtype=torch.float64) * (ridge * mean if mean > 0 else 1.0))
    left, found, costs = torch.arange(columns // width), [], []
    for step in range(len(left)):
        held = weights.view(len(weights), -1, width)[:, left].permute(1, 2, 0)  # [blocks, width, outputs]
        pivots = inverse.view(-1, width, columns // width, width)[left, :, left]
        cost = (held * torch.linalg.solve(pivots, held)).sum((1, 2)) / total
        at = int(cost.argmin() if order is None else (left == order[step]).nonzero()[0, 0])
        block = int(left[at])
        found.append(block)
        costs.append(float(cost[at]))
        place = slice(block * width, (block + 1) * width)
        taken = torch.linalg.solve(inverse[place, place], inverse[place])
        weights -= weights[:, place] @ taken
        inverse -= inverse[:, place] @ taken
        left = left[left != block]
    return torch.tensor(found, dtype=torch.int64), torch.tensor(costs, dtype=torch.float64)


def sequence(
    scores: Mapping[str, Tensor] | None, units: Mapping[str, int], order: str, across: str = "shares", seed: int = 0
) -> list[tuple[str, int]]:
    """All units of some layers in the order of their removal.

    Args:
        scores: Scores by layer; None for a random order.
        units: Number of units by layer.
        order: "ascending", "descending" or "random".
        across: How layers are mixed: "shares" removes the same share of each, "raw" compares scores between layers.
        seed: Of a random order.

    >>> sequence({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([10.0, 20.0])}, {"a": 2, "b": 2}, "ascending")
    [('a', 1), ('b', 0), ('a', 0), ('b', 1)]
    """
    everyone = [(name, unit) for name, count in units.items() for unit in range(count)]
    if order == "random" or scores is None:
        shuffled = torch.randperm(len(everyone), generator=torch.Generator().manual_seed(seed)).tolist()
        return [everyone[place] for place in shuffled]
    sign = -1.0 if order == "descending" else 1.0
    keys: list[Tensor] = []
    for name, count in units.items():
        values = sign * scores[name].double().cpu()
        if across == "shares":
            ranks = torch.empty(count, dtype=torch.float64)
            ranks[values.sort(stable=True).indices] = torch.arange(count, dtype=torch.float64)
            values = (ranks + 0.5) / count
        keys.append(values)
    return [everyone[place] for place in torch.cat(keys).sort(stable=True).indices.tolist()]


def check_statistics(stats: FiringStats, digest: str) -> None:
    """Raise where statistics are of another model.

    Raises:
        InputError: The digests of the weights differ.
    """
    held = stats.header.get("model", {}).get("digest")
    if held is not None and held != digest:
        raise InputError(
            "statistics must be of this model", f"they are of weights with digest {held}, the model has {digest}",
            "Record them again; training changes the weights.",
        )  # fmt: skip
