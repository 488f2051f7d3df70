"""Communities of a co-firing graph: found without the classes, and how they match them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from cofire.bisection import bisect
from cofire.errors import InputError, checked_count, checked_seed
from cofire.graphs import Coactivation
from cofire.leiden import leiden
from cofire.modularities import modularity

if TYPE_CHECKING:
    import pandas

__all__ = ["Communities", "communities"]


@dataclass(frozen=True, eq=False)
class Communities:
    """Communities of a co-firing graph, the largest first. It can stand wherever a partition can.

    Args:
        labels: Each vertex's community, int64 [vertices].
        sizes: Vertices of each community, falling, int64 [communities].
        method: How they were found.
        resolution: Resolution of the search.
        modularity: Newman's weighted modularity of the partition (at resolution 1, whatever the search's).
        by_class: How many vertices of each community belong to each class of the class partition, int64
            [communities, classes].
        stability: Mean adjusted mutual information between the partitions of all pairs of seeds: 1 where every seed gives the
            same, 0 where they agree no more than by chance; None with one seed.
        modularities: The modularity at every seed.
    """

    labels: Int[Tensor, " vertices"]
    sizes: Int[Tensor, " communities"]
    method: str
    resolution: float
    modularity: float
    by_class: Int[Tensor, "communities classes"]
    stability: float | None = None
    modularities: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[int]:
        return iter(self.labels.tolist())

    def __getitem__(self, vertex: int) -> int:
        return int(self.labels[vertex])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.labels.cpu().numpy().astype(dtype if dtype is not None else np.int64, copy=bool(copy))

    @property
    def count(self) -> int:
        """Number of communities."""
        return len(self.sizes)

    @property
    def mean_size(self) -> float:
        """Vertices per community, as in paper 001, Table 3; 0 without vertices."""
        return len(self.labels) / self.count if self.count else 0.0

    @property
    def purity(self) -> float:
        """Share of vertices whose class is the most frequent one of their community; NaN without vertices.

        Small communities are pure by construction: with one vertex each, it is 1. :attr:`agreement` is not deceived by that.
        """
        return int(self.by_class.amax(1).sum()) / len(self.labels) if len(self.labels) else float("nan")

    @property
    def agreement(self) -> float:
        """Adjusted mutual information between communities and the class partition: 1 where they are the same, 0 by chance.

        Where the classes' sets are nearly the same, as with shuffled labels, the class partition follows the communities: units
        that fire together have their largest mean in one class, however little larger. Look at :func:`unique_units` first.
        """
        classes = [c for row in self.by_class.tolist() for c, count in enumerate(row) for _ in range(count)]
        found = [k for k, size in enumerate(self.sizes.tolist()) for _ in range(size)]
        if self.count == 1 and len(set(classes)) == 1:
            return float("nan")  # nothing is told apart by either
        return _alike(found, classes)

    def table(self, class_names=None) -> "pandas.DataFrame":
        """A pandas frame with a row per community: its size, purity, and vertices of every class.

        Args:
            class_names: Names of the classes; by default their numbers.
        """
        import pandas as pd

        names = [str(c) for c in range(self.by_class.shape[1])] if class_names is None else list(class_names)
        frame = pd.DataFrame(self.by_class.cpu().numpy(), columns=names)
        frame.insert(0, "community", range(self.count))
        frame.insert(1, "size", self.sizes.cpu().numpy())
        frame.insert(2, "purity", self.by_class.cpu().amax(1).numpy() / self.sizes.cpu().numpy())
        return frame

    def __repr__(self) -> str:
        stable = "" if self.stability is None else f", stability {self.stability:.2f}"
        return (
            f"Communities({self.method}, resolution {self.resolution:g}: {self.count} of {len(self.labels):,} vertices, "
            f"modularity {self.modularity:.3f}, purity {self.purity:.2f}{stable})"
        )


def communities(
    graph: Coactivation, method: str = "louvain", resolution: float = 1.0, seed: int = 0, seeds: int = 1
) -> Communities:
    """Groups of units that fire together more than their degrees alone would make them.

    Source:
        Paper 001, section 7.1 and Table 3 (Louvain, in Gephi at its resolution 0.5). Gephi's resolution is the inverse of
        the one here: its 0.5 is 2.

    Args:
        graph: A co-firing graph.
        method: "louvain" or "leiden"; "bisection" for the two halves of Kernighan and Lin; "classes" for the class partition.
        resolution: For Louvain and Leiden: larger gives more and smaller communities. On a graph in which nearly every pair
            has an edge, 2 already leaves almost every vertex alone.
        seed: Of the order in which vertices are visited, or of the first halves.
        seeds: With more than one, the search is done for seed, seed + 1, ... as well, and the result says how alike they are.

    Returns:
        The communities that ``seed`` gives.

    Raises:
        InputError: No such method, or a resolution or a number of seeds that is not positive.

    >>> import cofire, torch
    >>> acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 4], [0, 0, 1, 2]]).repeat_interleave(4, 1)
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]), top=4)
    >>> communities(cofire.coactivation(stats["fc1"])).sizes.tolist()
    [4, 4]
    """
    finders: dict[str, Callable[[int], Tensor]] = {
        "louvain": lambda seed: _search(graph, "louvain", resolution, seed),
        "leiden": lambda seed: _search(graph, "leiden", resolution, seed),
        "bisection": lambda seed: bisect(graph.adjacency, seed),
        "classes": lambda _seed: graph.partition,
    }
    if method not in finders:
        raise InputError(f"method must be one of {', '.join(finders)}", f"found {method!r}")
    if not isinstance(graph, Coactivation):
        raise InputError("graph must be a co-firing graph", f"found {type(graph).__name__}", "cofire.coactivation makes one.")
    if not isinstance(resolution, int | float) or not 0 < resolution < float("inf"):
        raise InputError("resolution must be a positive number", f"found {resolution!r}")
    seeds, seed = checked_count(seeds, "seeds"), checked_seed(seed)
    found = [finders[method](seed + step) for step in range(seeds)]
    pairs = [_alike(one.tolist(), other.tolist()) for one, other in combinations(found, 2)]
    numbered = [_by_size(partition) for partition in found]
    labels, sizes = numbered[0]
    by_class = torch.zeros(len(sizes), graph.classes, dtype=torch.int64, device=labels.device)
    by_class.index_put_((labels, graph.partition), torch.ones_like(labels), accumulate=True)
    stability = sum(pairs) / len(pairs) if pairs else None
    values = tuple(modularity(graph, partition) for partition, _ in numbered)
    return Communities(labels, sizes, method, resolution, values[0], by_class, stability, values)


def _search(graph: Coactivation, method: str, resolution: float, seed: int) -> Tensor:
    if not graph.edges:  # the search needs an edge; without one, every vertex is alone
        return torch.arange(len(graph), device=graph.vertices.device)
    if method == "leiden":
        found = leiden(graph.adjacency.cpu().numpy(), resolution, seed)
    else:
        from scipy.sparse import csr_matrix
        from sknetwork.clustering import Louvain

        search = Louvain(
            resolution, modularity="newman", tol_optimization=1e-6, tol_aggregation=1e-6, shuffle_nodes=True, random_state=seed
        )
        found = search.fit_predict(csr_matrix(graph.to_scipy()))
    return torch.as_tensor(found, dtype=torch.int64, device=graph.vertices.device)


def _by_size(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Communities numbered by falling size, those of one size by their first vertex; and the sizes."""
    _, labels, sizes = labels.unique(return_inverse=True, return_counts=True)
    first = torch.full_like(sizes, len(labels)).scatter_reduce(
        0, labels, torch.arange(len(labels), device=labels.device), "amin"
    )
    order = (first - sizes * (len(labels) + 1)).argsort()
    return order.argsort()[labels], sizes[order]


def _alike(one: list[int], other: list[int]) -> float:
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(one, other)) if one else float("nan")
