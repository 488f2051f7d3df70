"""Modularity of disjoint and overlapping communities, in closed form on dense matrices."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cofire.bisection import bisect
from cofire.errors import InputError, checked_seed
from cofire.graphs import Coactivation

__all__ = ["modularity", "modularity_bisection", "modularity_chen", "modularity_shen"]

_BLOCK = 1 << 16  # elements of a block of rows
Graph = Coactivation | Float[Tensor, "vertices vertices"]


def modularity(graph: Graph, partition: Tensor | Sequence[int] | None = None, weighted: bool = True) -> float:
    r"""Newman's modularity of a partition: the share of the weight inside communities, beyond what the degrees alone give.

    .. math:: Q = \frac{1}{2m} \sum_{vw} \left(A_{vw} - \frac{k_v k_w}{2m}\right) [C_v = C_w]

    Range:
        -0.5 to 1; 0 for a graph without edges, where nothing departs from chance.

    Source:
        Paper 001, equation 2. It is weighted here by default; the paper's own is of the 0/1 graph.

    Args:
        graph: A co-firing graph or a symmetric matrix of weights that are not negative.
        partition: Each vertex's community; by default the class partition, where it is a co-firing graph.
        weighted: Use the weights; else every edge counts one.

    Raises:
        InputError: Not a symmetric matrix of finite weights that are not negative, or a partition that does not fit.

    >>> two_pairs = torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]])
    >>> modularity(two_pairs, [0, 0, 1, 1])
    0.5
    """
    adjacency = _matrix(graph)
    if partition is None:
        partition = _graph(graph, "partition").partition
    labels = _labels(partition, len(adjacency), adjacency.device)
    if not len(labels):
        return 0.0
    count = int(labels.max()) + 1
    rows = adjacency.new_zeros(count, len(adjacency))
    for first, block in _blocks(adjacency, weighted):  # the one reading of the matrix
        rows.index_add_(0, labels[first : first + len(block)], block)
    degrees = rows.sum(0)
    total = degrees.sum()
    if not total:
        return 0.0
    inside = rows.gather(0, labels[None]).sum()
    shares = degrees.new_zeros(count).index_add_(0, labels, degrees) / total
    return float(inside / total - shares.square().sum())


def modularity_shen(graph: Graph, cover: Bool[Tensor, "communities vertices"] | None = None) -> float:
    r"""Modularity of overlapping communities on the 0/1 graph: a vertex counts less the more communities it is in.

    .. math:: Q = \frac{1}{2m} \sum_c \sum_{v,w \in c} \left(A_{vw} - \frac{k_v k_w}{2m}\right) \frac{1}{O_v O_w}

    Range:
        -1 to 1; 0 for a graph without edges. On a disjoint cover it is :func:`modularity` with ``weighted=False``.

    Source:
        Paper 001, equation 3; Shen et al. 2009. *Departure:* the printed equation lacks the sum over communities.

    Args:
        graph: A co-firing graph or a symmetric matrix of weights that are not negative.
        cover: Members of each community; by default the classes' representative sets, where it is a co-firing graph.

    Raises:
        InputError: Not a symmetric matrix of finite weights that are not negative, or a cover that does not fit.
    """
    adjacency = _matrix(graph)
    members = _members(graph, cover, adjacency)
    belonging = members / members.sum(0).clamp(min=1)
    return _overlapping(belonging, *_within(adjacency, belonging, weighted=False))


def modularity_chen(graph: Graph, cover: Bool[Tensor, "communities vertices"] | None = None) -> float:
    r"""Modularity of overlapping communities on the weighted graph: a vertex belongs to its communities by its weight in them.

    .. math:: Q = \frac{1}{2m} \sum_c \sum_{vw} \left(A_{vw} - \frac{k_v k_w}{2m}\right) \alpha_{cv} \alpha_{cw}, \qquad
        \alpha_{cv} = \frac{k_{cv}}{\sum_{c' \ni v} k_{c'v}}, \quad k_{cv} = \sum_{p \in c} A_{vp}

    for members v of c, and 0 for all others; a member without weight in any of its communities belongs to each alike.

    Range:
        -1 to 1; 0 for a graph without edges. On a disjoint cover it is :func:`modularity`.

    Source:
        Paper 001, equation 4; Chen et al. 2010, Nicosia et al. 2009. *Departure:* the printed coefficient is not 0 outside
        a community, as the paper's text says that it is.

    Args:
        graph: A co-firing graph or a symmetric matrix of weights that are not negative.
        cover: Members of each community; by default the classes' representative sets, where it is a co-firing graph.

    Raises:
        InputError: Not a symmetric matrix of finite weights that are not negative, or a cover that does not fit.
    """
    adjacency = _matrix(graph)
    members = _members(graph, cover, adjacency)
    weights = _within(adjacency, members)[0] * members
    whole = weights.sum(0)
    belonging = torch.where(whole > 0, weights / whole, members / members.sum(0).clamp(min=1))
    return _overlapping(belonging, *_within(adjacency, belonging))


def modularity_bisection(graph: Graph, seed: int = 0, weighted: bool = True) -> float:
    """Modularity of the two halves of a Kernighan-Lin bisection from a random start.

    The halves depend on the start: give several seeds, and report the spread.

    Source:
        Paper 001, section 7.2, "KLB", by equation 2.

    Args:
        graph: A co-firing graph or a symmetric matrix of weights that are not negative.
        seed: Of the start.
        weighted: Use the weights, for the bisection too; else every edge counts one.

    Raises:
        InputError: Not a symmetric matrix of finite weights that are not negative.
    """
    adjacency, seed = _matrix(graph), checked_seed(seed)
    return modularity(graph, bisect(adjacency if weighted else adjacency.sign(), seed), weighted)


def _overlapping(belonging: Tensor, within: Tensor, degrees: Tensor) -> float:
    total = degrees.sum()
    if not total:
        return 0.0
    inside = (within * belonging).sum()
    return float(inside / total - ((belonging @ degrees) / total).square().sum())


def _graph(graph: Graph, wanted: str) -> Coactivation:
    if not isinstance(graph, Coactivation):
        raise InputError(f"a matrix alone does not know the classes: {wanted}= must be given", "found None")
    return graph


def _matrix(graph: Graph) -> Tensor:
    """The adjacency, checked and in float64."""
    if isinstance(graph, Coactivation):
        return graph.adjacency
    adjacency = _numbers(graph, "a graph must be a co-firing graph or a square matrix [vertices, vertices]")
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise InputError("a graph must be a square matrix [vertices, vertices]", f"found shape {tuple(adjacency.shape)}")
    adjacency = adjacency.double()
    _check(adjacency)
    return adjacency


def _blocks(adjacency: Tensor, weighted: bool) -> Iterator[tuple[int, Tensor]]:
    """Rows of the matrix or of its 0/1 graph, and where they start; a block of the latter stays in the cache."""
    if weighted:
        yield 0, adjacency
        return
    step = max(1, _BLOCK // max(1, len(adjacency)))
    buffer = torch.empty_like(adjacency[:step])
    for first in range(0, len(adjacency), step):
        block = adjacency[first : first + step]
        yield first, torch.sign(block, out=buffer[: len(block)])


def _within(adjacency: Tensor, belonging: Tensor, weighted: bool = True) -> tuple[Tensor, Tensor]:
    """Each vertex's weight to each community [communities, vertices], and its degree, in one reading."""
    count = len(belonging)
    sides = adjacency.new_ones(-(-(count + 1) // 4) * 4, len(adjacency))  # products of four rows at a time are faster
    sides[:count] = belonging
    found = torch.zeros_like(sides)
    for first, block in _blocks(adjacency, weighted):
        found.addmm_(sides[:, first : first + len(block)], block)
    return found[:count], found[count]


def _check(adjacency: Tensor) -> None:
    if not len(adjacency):
        return
    least, most = (float(end) for end in adjacency.aminmax())
    if not 0 <= least <= most < float("inf"):
        raise InputError("weights must be finite and not negative", f"found {least:g} to {most:g}")
    # A matrix and its transpose take a random vector to the same place only if they are the same; comparing them element by
    # element would take longer than all the rest.
    probe = torch.rand(len(adjacency), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(adjacency.device)
    apart = float((adjacency @ probe - probe @ adjacency).abs().max())
    if apart > 1e-9 * most * len(adjacency):
        raise InputError("a graph must be symmetric", "found a matrix that differs from its transpose")


def _numbers(value, wanted: str) -> Tensor:
    if hasattr(value, "adjacency") and not isinstance(value, Coactivation):  # a networkx graph passes for an array of its nodes
        raise InputError(wanted, f"found {type(value).__name__}")
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_complex():
            raise InputError(
                wanted, f"found a tensor of layout {value.layout} and type {value.dtype}", "Make it dense and real."
            )
        return value.detach()
    try:
        array = np.array(value)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(wanted, f"found {type(value).__name__}") from error


def _labels(partition, vertices: int, device) -> Tensor:
    wanted = f"a partition must name the community of each of {vertices:,} vertices"
    labels = _numbers(partition, wanted).to(device)
    if labels.shape != (vertices,):
        raise InputError(wanted, f"found {tuple(labels.shape)}")
    if bool(labels.isnan().any()):
        raise InputError(wanted, "found NaN")
    return labels.unique(return_inverse=True)[1]


def _members(graph: Graph, cover, adjacency: Tensor) -> Tensor:
    wanted = f"a cover must be [communities, {len(adjacency):,} vertices]"
    members = _numbers(_graph(graph, "cover").cover if cover is None else cover, wanted).to(adjacency.device)
    if members.ndim != 2 or members.shape[1] != len(adjacency):
        raise InputError(wanted, f"found {tuple(members.shape)}")
    return (members != 0).double()
