"""The Leiden algorithm on a dense matrix: communities that are connected inside, the same for the same seed."""

import numpy as np

__all__ = ["leiden"]

_TOLERANCE = 1e-12  # a smaller gain, as a share of the graph's weight, is rounding
_PASSES = 10
_WARMTH = 0.01  # of the refinement's lots: the larger, the less they follow the gain


def leiden(weights: np.ndarray, resolution: float = 1.0, seed: int = 0) -> np.ndarray:
    """Communities of an undirected graph by modularity.

    Nodes move to the neighbouring community that gains most until none gains; each community is then refined into parts that
    are connected well, from single nodes, by lot in favour of larger gains; the parts become the nodes of a smaller graph, and
    so on until nothing changes.

    Source:
        Traag, Waltman and van Eck 2019. (scikit-network has it in float32, where its refinement may go on for ever, and with
        lots that no seed reaches.)

    Args:
        weights: Symmetric weights, not negative, float64 [vertices, vertices].
        resolution: Larger gives more communities.
        seed: Of the order of visits and the lots.

    Returns:
        Each vertex's community, int64 [vertices].
    """
    random, total = np.random.default_rng(seed), float(weights.sum())
    labels = np.arange(len(weights))
    if not total:
        return labels
    best, found = -np.inf, labels
    for _ in range(_PASSES):  # each starts from what the last one found
        labels = _pass(weights, labels, resolution / total, total, random)
        quality = _quality(weights, labels, resolution / total)
        if quality <= best + _TOLERANCE * total:
            break
        best, found = quality, labels
    return _connected(weights, found)


def _pass(weights, labels, share: float, total: float, random) -> np.ndarray:
    place = np.arange(len(weights))  # of every vertex among the present nodes
    while True:
        degrees = weights.sum(1)
        labels = _moved(weights, degrees, labels, share, total, random)
        parts = _refined(weights, degrees, labels, share, total, random)
        _, first, parts = np.unique(parts, return_index=True, return_inverse=True)
        if len(first) == len(labels):  # nothing to join any more
            return labels[place]
        place, labels = parts[place], labels[first]
        weights = _joined(weights, parts, len(first))


def _quality(weights, labels, share: float) -> float:
    degrees = np.bincount(labels, weights=weights.sum(1))
    return float((weights * (labels[:, None] == labels)).sum() - share * np.square(degrees).sum())


def _connected(weights, labels) -> np.ndarray:
    """Communities taken apart where no path inside joins them, which never costs modularity."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    return connected_components(csr_array(weights * (labels[:, None] == labels)), directed=False)[1].astype(np.int64)


def _moved(weights, degrees, labels, share: float, total: float, random) -> np.ndarray:
    """Nodes moved one by one to the community that gains most."""
    _, labels = np.unique(labels, return_inverse=True)
    count, least = len(labels), _TOLERANCE * total
    sizes = np.bincount(labels, weights=degrees, minlength=count)
    queue, waiting = list(random.permutation(count)), np.ones(count, dtype=bool)
    at = 0
    while at < len(queue):
        node = queue[at]
        at += 1
        waiting[node] = False
        mine, row = labels[node], weights[node]
        gains = np.bincount(labels, weights=row, minlength=count)
        gains[mine] -= row[node]
        sizes[mine] -= degrees[node]
        gains -= share * degrees[node] * sizes
        best = int(gains.argmax())
        if gains[best] <= gains[mine] + least:
            best = mine
        sizes[best] += degrees[node]
        if best != mine:
            labels[node] = best
            again = np.flatnonzero((row > 0) & (labels != best) & ~waiting)
            waiting[again] = True
            queue.extend(again.tolist())
    return np.unique(labels, return_inverse=True)[1]


def _refined(weights, degrees, labels, share: float, total: float, random) -> np.ndarray:
    """Parts of the communities, grown from single nodes that are connected well to the rest of their community."""
    parts = np.arange(len(labels))
    least = _TOLERANCE * total
    for community in range(labels.max() + 1):
        members = np.flatnonzero(labels == community)
        if len(members) == 1:
            continue
        inner = weights[np.ix_(members, members)]
        degree = degrees[members]
        own, whole = np.arange(len(members)), degree.sum()
        sizes, alone = degree.copy(), np.ones(len(members), dtype=bool)
        outward = inner.sum(1) - inner.diagonal()  # of each part to the rest of its community
        for node in random.permutation(len(members)):
            if not alone[node] or outward[own[node]] < share * degree[node] * (whole - degree[node]):
                continue
            linked = np.bincount(own, weights=inner[node], minlength=len(members))
            linked[own[node]] -= inner[node, node]
            gains = linked - share * degree[node] * sizes
            gains[own[node]] = 0.0
            open_parts = outward >= share * sizes * (whole - sizes)
            able = (gains > least) & open_parts & (sizes > 0)
            if not able.any():
                continue
            choices = np.flatnonzero(able)
            chances = np.exp((gains[choices] - gains[choices].max()) / (_WARMTH * max(float(degree.mean()), least)))
            target = int(random.choice(choices, p=chances / chances.sum()))
            source = own[node]
            sizes[source], outward[source] = 0.0, 0.0
            sizes[target] += degree[node]
            outward[target] += inner[node].sum() - inner[node, node] - 2 * linked[target]
            own[node] = target
            alone[node] = alone[target] = False
        parts[members] = members[own]
    return parts


def _joined(weights: np.ndarray, parts: np.ndarray, count: int) -> np.ndarray:
    """The graph of the parts, weights inside a part on the diagonal."""
    order = np.argsort(parts, kind="stable")
    starts = np.searchsorted(parts[order], np.arange(count))
    rows = np.add.reduceat(weights[order], starts, axis=0)
    return np.add.reduceat(rows[:, order], starts, axis=1)
