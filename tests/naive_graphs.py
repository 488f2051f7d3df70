"""The naive reference for graphs: co-firing, sets, modularity and planted graphs, in plain loops and other code than ours.

Activations are ``[samples, units]``, labels and sets are integers, a graph is a square array. Sums over samples are exact
(fractions), so that a value that equals its mean is not above it. Nothing imports cofire.
"""

from fractions import Fraction

import numpy as np

__all__ = [
    "belonging",
    "by_size",
    "cofire_counts",
    "cofiring_graph",
    "exact_means",
    "modularity",
    "modularity_chen",
    "modularity_shen",
    "paired",
    "planted",
    "random_graph",
    "representative_units",
    "shared_units",
    "unique_units",
]


def rows_of(acts, labels, c: int) -> list[list[float]]:
    """The samples of a class."""
    return [[float(value) for value in row] for row, label in zip(acts, labels, strict=True) if label == c]


def exact_means(acts, labels, classes: int) -> list[list[Fraction] | None]:
    """Paper 001, equation 6, without rounding; None for a class without samples."""
    table = []
    for c in range(classes):
        rows = rows_of(acts, labels, c)
        table.append([sum(map(Fraction, column)) / len(rows) for column in zip(*rows, strict=True)] if rows else None)
    return table


def representative_units(acts, labels, classes: int, top: int, threshold: float = 0.0) -> list[list[int]]:
    """Paper 001, section 5.1: each class's units of largest mean, the largest first, ties by index, no dead units."""
    units = range(len(acts[0]))
    live = [unit for unit in units if any(float(row[unit]) > threshold for row in acts)]
    means = exact_means(acts, labels, classes)
    return [sorted(live, key=lambda unit: (-row[unit], unit))[:top] if row is not None else [] for row in means]


def paired(chosen: list[list[int]], restrict: str) -> list[list[int]]:
    """Each class's own units, or for "union" all of them in rising order."""
    everyone = sorted({unit for units in chosen for unit in units})
    return chosen if restrict == "class" else [everyone for _ in chosen]


def cofire_counts(acts, labels, classes: int, units: list[list[int]]) -> list[dict[tuple[int, int], int]]:
    """Paper 001, equation 7 as its text has it: samples of the class in which both units are above their class means."""
    found = []
    for c, mean in enumerate(exact_means(acts, labels, classes)):
        counts = {(p, q): 0 for p in units[c] for q in units[c]}
        for row in rows_of(acts, labels, c):
            for p, q in counts:
                if row[p] > mean[p] and row[q] > mean[q]:
                    counts[p, q] += 1
        found.append(counts)
    return found


def cofiring_graph(acts, labels, classes: int, top: int, restrict: str = "class", threshold: float = 0.0):
    """Vertices, and the sum over classes of the counts over the class's samples, without self-loops."""
    chosen = representative_units(acts, labels, classes, top, threshold)
    vertices = paired(chosen, "union")[0]
    weights = np.zeros((len(vertices), len(vertices)))
    for c, counts in enumerate(cofire_counts(acts, labels, classes, paired(chosen, restrict))):
        samples = len(rows_of(acts, labels, c))
        for (p, q), count in counts.items():
            if p != q and samples:
                weights[vertices.index(p), vertices.index(q)] += count / samples
    return vertices, weights


# ---------------------------------------------------------------- sets


def unique_units(sets: list[set[int]]) -> list[list[int]]:
    """Paper 001, section 7.1: units in both sets and in no third."""
    names = range(len(sets))

    def others(i, j):
        return set().union(*(sets[k] for k in names if k not in (i, j)))

    return [[len((sets[i] & sets[j]) - others(i, j)) for j in names] for i in names]


def shared_units(sets: list[set[int]]) -> list[list[int]]:
    """Paper 001, Table 2: the overlap of two sets; on the diagonal what no other set has."""
    unique = unique_units(sets)
    return [[unique[i][i] if i == j else len(a & b) for j, b in enumerate(sets)] for i, a in enumerate(sets)]


# ---------------------------------------------------------------- modularity


def modularity(weights, partition) -> float:
    """Paper 001, equation 2."""
    vertices, degrees, twice = range(len(weights)), np.sum(weights, 0), np.sum(weights)
    return sum(
        (weights[v][w] - degrees[v] * degrees[w] / twice) / twice
        for v in vertices
        for w in vertices
        if partition[v] == partition[w]
    )


def modularity_shen(weights, cover) -> float:
    """Shen et al. 2009 on the 0/1 graph: paper 001, equation 3, with the sum over communities that its print lacks."""
    edges = np.array([[float(weight > 0) for weight in row] for row in weights])
    degrees, twice = edges.sum(0), edges.sum()
    memberships = [sum(bool(row[v]) for row in cover) for v in range(len(edges))]
    total = 0.0
    for row in cover:
        inside = [v for v in range(len(edges)) if row[v]]
        for v in inside:
            for w in inside:
                total += (edges[v, w] - degrees[v] * degrees[w] / twice) / (memberships[v] * memberships[w])
    return total / twice


def belonging(weights, cover) -> np.ndarray:
    """Paper 001, below equation 4, for members only: a vertex's weight to a community over that to all of its own."""
    communities, vertices = range(len(cover)), range(len(weights))
    inside = [[sum(weights[v][p] for p in vertices if row[p]) for v in vertices] for row in cover]
    found = np.zeros((len(cover), len(weights)))
    for v in vertices:
        own = [c for c in communities if cover[c][v]]
        whole = sum(inside[c][v] for c in own)
        for c in own:
            found[c, v] = inside[c][v] / whole if whole else 1 / len(own)
    return found


def modularity_chen(weights, cover) -> float:
    """Paper 001, equation 4."""
    alpha, degrees, twice = belonging(weights, cover), np.sum(weights, 0), np.sum(weights)
    total = 0.0
    for row in alpha:
        for v, a in enumerate(row):
            for w, b in enumerate(row):
                total += (weights[v][w] - degrees[v] * degrees[w] / twice) * a * b
    return total / twice


# ---------------------------------------------------------------- graphs with known answers


def planted(sizes, inside: float = 1.0, outside: float = 0.0, seed: int | None = None) -> tuple[np.ndarray, list[int]]:
    """Blocks with one weight within and one between, in an order drawn by the seed; and each vertex's block."""
    blocks = [block for block, size in enumerate(sizes) for _ in range(size)]
    if seed is not None:
        np.random.default_rng(seed).shuffle(blocks)
    weights = np.array([[inside if a == b else outside for b in blocks] for a in blocks], dtype=float)
    np.fill_diagonal(weights, 0)
    return weights.reshape(len(blocks), len(blocks)), blocks


def random_graph(vertices: int, density: float, seed: int) -> np.ndarray:
    """Weights drawn from 0 to 1 on a share of the pairs."""
    random = np.random.default_rng(seed)
    upper = np.triu(random.random((vertices, vertices)) * (random.random((vertices, vertices)) < density), 1)
    return upper + upper.T


def by_size(partition) -> list[set[int]]:
    """The communities as sets of vertices, the largest first, those of one size by their first vertex."""
    groups: dict = {}
    for vertex, community in enumerate(partition):
        groups.setdefault(community, set()).add(vertex)
    return sorted(groups.values(), key=lambda group: (-len(group), min(group)))
