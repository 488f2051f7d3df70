"""What a co-firing graph says in numbers: modularities beside what the sets alone give, communities, entangled classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cofire.graphs import Coactivation, shared_units, unique_units
from cofire.modularities import modularity, modularity_bisection, modularity_chen, modularity_shen
from cofire.partitions import Communities, communities

if TYPE_CHECKING:
    import pandas

__all__ = ["FORMS", "Modularity", "Pair", "Structure", "entangled_pairs", "in_words", "structure"]

FORMS = {
    "newman": ("class partition, weighted", "001, eq. 2"),
    "unweighted": ("class partition, 0/1", "001, eq. 2"),
    "shen": ("class cover, 0/1", "001, eq. 3"),
    "chen": ("class cover, weighted", "001, eq. 4"),
    "bisection": ("two halves (Kernighan-Lin)", "001, KLB"),
    "louvain": ("communities (Louvain)", "001, Table 3"),
    "leiden": ("communities (Leiden)", ""),
}
"""The rows of a modularity table: what is divided, and where that comes from."""


@dataclass(frozen=True)
class Modularity:
    """One row of a modularity table.

    Args:
        form: A key of :data:`FORMS`.
        value: The modularity; for what depends on a seed, the mean over seeds.
        spread: Standard deviation over seeds; None for what depends on none.
        independent: The same on the graph of units that fire independently within each class, which is what the classes' sets
            alone give; None for what is found anew on every graph.
    """

    form: str
    value: float
    spread: float | None = None
    independent: float | None = None


@dataclass(frozen=True)
class Pair:
    """Two classes and what their representative units have in common.

    Args:
        first: Index of a class.
        second: Index of another.
        shared: Units that represent both.
        unique: Those of them that represent no third class.
        size: Units that represent the class with fewer of them.
        expected: Shared units to be expected of sets of these sizes drawn by lot from the layer's live units.
    """

    first: int
    second: int
    shared: int
    unique: int
    size: int
    expected: float


@dataclass(frozen=True, eq=False)
class Structure:
    """What a co-firing graph says in numbers.

    Args:
        graph: The graph.
        modularities: The table.
        communities: Louvain communities, with their stability over seeds.
        pairs: All pairs of classes, those that share most first.
    """

    graph: Coactivation
    modularities: tuple[Modularity, ...]
    communities: Communities
    pairs: tuple[Pair, ...]

    def frame(self) -> "pandas.DataFrame":
        """The modularity table as a pandas frame."""
        import pandas as pd

        rows = [{"of": FORMS[row.form][0], **row.__dict__, "source": FORMS[row.form][1]} for row in self.modularities]
        return pd.DataFrame(rows)


def structure(graph: Coactivation, seed: int = 0, seeds: int = 5) -> Structure:
    """Modularities, communities and class pairs of a graph.

    Args:
        graph: The graph.
        seed: The first seed of whatever is drawn.
        seeds: Seeds for what depends on a start: bisection, Louvain and Leiden.
    """
    alone = _of_classes(graph.independent())
    rows = [Modularity(form, value, None, alone[form]) for form, value in _of_classes(graph).items()]
    halves = [modularity_bisection(graph, seed + step) for step in range(seeds)]
    rows.append(_over_seeds("bisection", halves))
    found = communities(graph, "louvain", seed=seed, seeds=seeds)
    refined = communities(graph, "leiden", seed=seed, seeds=seeds)
    rows += [_over_seeds(groups.method, groups.modularities) for groups in (found, refined)]
    return Structure(graph, tuple(rows), found, tuple(entangled_pairs(graph)))


def _of_classes(graph: Coactivation) -> dict[str, float]:
    return {
        "newman": modularity(graph), "unweighted": modularity(graph, weighted=False),
        "shen": modularity_shen(graph), "chen": modularity_chen(graph),
    }  # fmt: skip


def _over_seeds(form: str, values: Sequence[float]) -> Modularity:
    table = torch.tensor(values, dtype=torch.float64)
    return Modularity(form, float(table.mean()), float(table.std()) if len(values) > 1 else None)


def entangled_pairs(graph: Coactivation) -> list[Pair]:
    """Pairs of classes by the share of representative units that they have in common, the largest first.

    Args:
        graph: The graph.

    >>> import cofire, torch
    >>> acts = torch.tensor([[3.0, 2, 1, 0, 0, 0, 0, 0], [0, 2, 3, 0, 0, 0, 0, 0], [0, 0, 0, 0, 3, 2, 0, 0]])
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 1, 2]), top=2)
    >>> entangled_pairs(cofire.coactivation(stats["fc1"]))[0]
    Pair(first=0, second=1, shared=1, unique=1, size=2, expected=0.8)
    """
    sizes, shared, unique = graph.cover.sum(1).tolist(), shared_units(graph).tolist(), unique_units(graph).tolist()
    pairs = []
    for i in range(graph.classes):
        for j in range(i + 1, graph.classes):
            size = min(sizes[i], sizes[j])
            if size:
                expected = sizes[i] * sizes[j] / graph.live
                pairs.append(Pair(i, j, shared[i][j], unique[i][j], size, expected))
    return sorted(pairs, key=lambda pair: (-pair.shared / pair.size, pair.first, pair.second))


def in_words(found: Structure, groups: Communities, class_names: list[str], most: int = 5) -> list[str]:
    """Lines of text on a graph: what it is, its communities, its entangled classes, its modularities.

    Args:
        found: The graph's numbers.
        groups: Communities to speak of.
        class_names: Names of the classes.
        most: Pairs of classes to name.
    """
    graph = found.graph
    lines = [
        f"{graph.name}: {len(graph):,} units represent the {graph.classes} classes ({graph.representative.shape[1]} each), "
        f"{graph.edges:,} pairs of them fire together ({graph.density:.0%} of all).",
        f"{groups.method} finds {groups.count} communities of {groups.mean_size:.1f} units on average; agreement with the "
        f"classes {groups.agreement:.2f} (0 by chance, 1 the same), purity {groups.purity:.2f}"
        + ("." if groups.stability is None else f", stability over seeds {groups.stability:.2f}."),
        "",
        "Classes that share most of their units:",
    ]
    for pair in found.pairs[:most]:
        lines.append(
            f"  {class_names[pair.first]} and {class_names[pair.second]}: {pair.shared} of {pair.size}, {pair.unique} of them "
            f"in no third class (by lot {pair.expected:.1f})"
        )
    lines += ["", "Modularity, and what it would be if the units of a class fired independently of each other:"]
    for row in found.modularities:
        spread = "" if row.spread is None else f" (sd over seeds {row.spread:.3f})"
        alone = "" if row.independent is None else f"; if independent {row.independent:.3f}"
        lines.append(f"  {FORMS[row.form][0]}: {row.value:.3f}{spread}{alone}")
    return lines
