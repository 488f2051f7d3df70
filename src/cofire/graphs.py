"""The co-firing graph of a layer: units as vertices, how often two fire together for a class as edges."""

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cofire.cofiring import paired, union
from cofire.errors import CofireWarning, InputError
from cofire.firing import class_means, live_units, representative_units
from cofire.layer import LayerStats

if TYPE_CHECKING:
    import networkx
    import scipy.sparse

__all__ = ["Coactivation", "coactivation", "representative_sets", "sensible_top", "shared_units", "unique_units"]


@dataclass(frozen=True, eq=False)
class Coactivation:
    """The co-firing graph of one layer.

    Args:
        adjacency: Weights, symmetric with a zero diagonal, float64 [vertices, vertices]. The weight of two units is the sum
            over classes of the share of the class's samples in which both are above their means over that class.
        vertices: Their unit indices, rising, int64 [vertices].
        representative: The classes' representative units, by falling class mean, int64 [classes, top], filled up with -1.
        means: Class means of the vertices, float64 [classes, vertices]; NaN for a class without samples.
        name: The layer's name.
        restrict: Whether a class's pairs are within its own representative units ("class") or all ("union").
        samples: Samples of each class, int64 [classes].
        live: Units of the layer that fire for some sample, whether or not they represent a class.
        rates: Share of each class's samples in which each vertex is above its mean over that class, float64
            [classes, vertices]; 0 where its pairs were not counted.
    """

    adjacency: Float[Tensor, "vertices vertices"]
    vertices: Int[Tensor, " vertices"]
    representative: Int[Tensor, "classes top"]
    means: Float[Tensor, "classes vertices"]
    name: str
    restrict: str
    samples: Int[Tensor, " classes"]
    live: int
    rates: Float[Tensor, "classes vertices"]

    def __len__(self) -> int:
        return len(self.vertices)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.representative)

    @property
    def edges(self) -> int:
        """Number of pairs of units with a weight above zero."""
        return int((self.adjacency > 0).sum()) // 2

    @property
    def density(self) -> float:
        """Share of the pairs of vertices that have an edge; 0 with fewer than two vertices."""
        pairs = len(self) * (len(self) - 1) // 2
        return self.edges / pairs if pairs else 0.0

    @property
    def cover(self) -> Bool[Tensor, "classes vertices"]:
        """Which vertices represent which class: the class cover, whose sets overlap."""
        everything = representative_sets(self.representative, int(self.vertices[-1]) + 1 if len(self) else 0)
        return everything[:, self.vertices]

    @property
    def partition(self) -> Int[Tensor, " vertices"]:
        """Each vertex's class: of the classes that it represents the one with the largest mean, ties to the first."""
        if not len(self):
            return torch.zeros(0, dtype=torch.int64, device=self.vertices.device)
        known = self.means.nan_to_num(
            nan=torch.finfo(torch.float64).min
        )  # after all others, but before what it does not represent
        return torch.where(self.cover, known, -torch.inf).argmax(0)

    def independent(self) -> "Coactivation":
        """The graph that the same sets and rates would give if, within a class, units fired independently of each other.

        With ``restrict="class"`` only units of one set can have an edge, so sets that overlap little make a modular graph
        whatever the units do. What a measure of this graph lacks is what firing together adds.
        """
        return replace(self, adjacency=(self.rates.T @ self.rates).fill_diagonal_(0))

    def __repr__(self) -> str:
        return (
            f"Coactivation({self.name!r}, {len(self):,} vertices, {self.edges:,} edges, {self.classes} classes, "
            f"top {self.representative.shape[1]}, restrict {self.restrict!r})"
        )

    def to_scipy(self) -> "scipy.sparse.csr_array":
        """The adjacency as a sparse array of scipy, float64 [vertices, vertices]."""
        import scipy.sparse

        return scipy.sparse.csr_array(self.adjacency.cpu().numpy())

    def to_networkx(self, edges: int | None = None) -> "networkx.Graph":
        """A networkx graph whose nodes are unit indices with their class, and whose edges have a weight.

        Args:
            edges: Keep only so many edges, the strongest.
        """
        import networkx

        graph = networkx.Graph(layer=self.name)
        vertices, adjacency = self.vertices.cpu(), self.adjacency.cpu()
        for unit, c in zip(vertices.tolist(), self.partition.tolist(), strict=True):
            graph.add_node(unit, **{"class": c})
        rows, columns = adjacency.triu(1).nonzero(as_tuple=True)
        weights = adjacency[rows, columns]
        kept = weights.argsort(descending=True, stable=True)[:edges].sort().values
        ends = vertices[rows[kept]].tolist(), vertices[columns[kept]].tolist()
        graph.add_weighted_edges_from(zip(*ends, weights[kept].tolist(), strict=True))
        return graph


def coactivation(layer: LayerStats, top: int | None = None, restrict: str = "class") -> Coactivation:
    r"""The co-firing graph of a layer.

    .. math:: A = \sum_c \frac{1}{n_c} B_c^\top B_c, \qquad B_{c,su} = [x_{su} > \bar x_{cu}]

    for the samples s of class c and its representative units u, without self-loops. With ``restrict="union"`` every class
    counts the pairs of all representative units.

    Source:
        Paper 001, section 5.1, equations 6 and 7. *Departure:* equation 7 as printed tests only the first unit of a pair;
        its text says both.

    Args:
        layer: Statistics of one layer, recorded with co-firing counts.
        top: Representative units per class, at most as many as were recorded (the default).
        restrict: "class" or "union".

    Returns:
        The graph. Its vertices are the units that represent some class.

    Raises:
        InputError: No counts were recorded, or not those of this top or restriction.

    >>> import cofire, torch
    >>> acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 4], [0, 0, 1, 2]]).repeat(1, 3)[:, :8]
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]), top=2)
    >>> graph = coactivation(stats["fc1"])
    >>> graph.vertices.tolist(), graph.adjacency[0].tolist()
    ([0, 2, 3, 4], [0.0, 0.0, 0.0, 0.5])
    """
    if restrict not in ("class", "union"):
        raise InputError('restrict must be "class" or "union"', f"found {restrict!r}")
    counts, recorded = _recorded(layer, restrict)
    most = layer.choices.top
    if top is not None and (not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= most):
        raise InputError(
            f"top must be a whole number from 1 to {most}, the number of representative units recorded", f"found {top!r}",
            "Record with a larger top= for more.",
        )  # fmt: skip
    top = most if top is None else top
    _warn_wide(layer, top)
    representative = recorded[:, :top]
    vertices = union(representative)
    adjacency = torch.zeros(len(vertices), len(vertices), dtype=torch.float64, device=counts.device)
    rates = torch.zeros(len(counts), len(vertices), dtype=torch.float64, device=counts.device)
    held = paired(recorded, layer.choices.cofiring)
    for c, samples in enumerate(layer.class_counts.tolist()):
        units = vertices if restrict == "union" else representative[c][representative[c] >= 0]
        if samples and len(units):
            order = held[c].argsort()
            inside = order[torch.searchsorted(held[c][order], units.contiguous())]
            at = torch.searchsorted(vertices, units.contiguous())
            shares = counts[c][inside[:, None], inside].double() / samples
            adjacency[at[:, None], at] += shares
            rates[c, at] = shares.diagonal()
    adjacency.fill_diagonal_(0)
    means = class_means(layer)[:, vertices]
    live = int(live_units(layer).sum())
    return Coactivation(adjacency, vertices, representative, means, layer.name, restrict, layer.class_counts, live, rates)


def sensible_top(layer: LayerStats) -> int:
    """The largest recorded number of representative units that is at most a quarter of the layer's units."""
    return max(min(layer.choices.top, layer.units // 4), 1)


def _recorded(layer: LayerStats, restrict: str) -> tuple[Tensor, Tensor]:
    """Counts, and the representative units that they were taken over."""
    if layer.cofire is None or layer.representative is None:
        why = 'they were recorded without: with cofiring="none", the histograms "sketch" or "none", or over the budget'
        if layer.choices.cofiring == "apart":
            why = "they are a sum of recordings over different class means, whose counts do not add"
        remedy = 'Record with histograms="cache" or "two-pass" and cofiring="class"; parts that are to add, with reference=.'
        raise InputError(f"layer {layer.name!r} must hold co-firing counts", why, remedy)
    if restrict == "union" and layer.choices.cofiring != "union":
        raise InputError(
            'restrict="union" needs the counts of all pairs of representative units',
            f"layer {layer.name!r} holds those of each class's own",
            'Record with cofiring="union".',
        )
    return layer.cofire, layer.representative.long()


def _warn_wide(layer: LayerStats, top: int) -> None:
    if 4 * top > layer.units and layer.classes > 1 and top > 1:
        warnings.warn(
            f"top {top} is more than a quarter of the {layer.units} units of layer {layer.name!r}: the classes' sets overlap "
            f"by construction. Take top={sensible_top(layer)} or less",
            CofireWarning,
            stacklevel=3,
        )


def representative_sets(representative: Tensor, units: int) -> Bool[Tensor, "classes units"]:
    """Representative units [classes, top] as membership [classes, units]."""
    member = torch.zeros(len(representative), units + 1, dtype=torch.bool, device=representative.device)
    member.scatter_(1, torch.where(representative >= 0, representative, units).long(), True)
    return member[:, :units]


def _sets(graph: "Coactivation | LayerStats") -> Tensor:
    if isinstance(graph, LayerStats):
        return representative_sets(representative_units(graph), graph.units)
    return graph.cover


def unique_units(graph: Coactivation | LayerStats) -> Int[Tensor, "classes classes"]:
    """How many units represent only these classes.

    Source:
        Paper 001, section 7.1. *Departure:* its Table 2 shows on the diagonal what is defined here, and elsewhere
        :func:`shared_units`: its row sums exceed the size of a set, which the definition cannot give.

    Args:
        graph: A co-firing graph, or a layer's statistics for the sets of the recorded top.

    Returns:
        Symmetric counts: on the diagonal the units in that class's representative set and no other; at (i, j) the units in
        both of these sets and in no third.

    >>> import cofire, torch
    >>> acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 3, 5, 0], [0, 4, 1, 0]]).repeat(1, 3)[:, :8]
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]), top=2)
    >>> unique_units(coactivation(stats["fc1"])).tolist()
    [[2, 0], [0, 2]]
    """
    sets = _sets(graph).double()
    classes = sets.sum(0)
    once, twice = sets[:, classes == 1], sets[:, classes == 2]
    found = twice @ twice.T
    return found.fill_diagonal_(0).add(torch.diag(once.sum(1))).long()


def shared_units(graph: Coactivation | LayerStats) -> Int[Tensor, "classes classes"]:
    """How many units two classes share, whoever else has them too; the diagonal is that of :func:`unique_units`.

    Source:
        Paper 001, Table 2, which this reproduces.

    Args:
        graph: A co-firing graph, or a layer's statistics for the sets of the recorded top.

    Returns:
        Symmetric counts: at (i, j) the size of the intersection of the two representative sets.
    """
    sets = _sets(graph).double()
    found = sets @ sets.T
    return found.fill_diagonal_(0).long() + torch.diag(unique_units(graph).diagonal())
