"""Two halves with little weight between them, by the Kernighan-Lin heuristic."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["bisect"]


def bisect(adjacency: Tensor, seed: int = 0, start: Tensor | None = None, sweeps: int = 10) -> Tensor:
    """Halves of a graph: each sweep swaps vertices between them while that lowers the weight cut.

    A sweep moves the vertex of the first half that gains most and then that of the second, in turn until one half is used
    up, and keeps the moves up to where the cut was smallest; a move reads one row of the matrix. From the same start the
    halves are those of networkx, but for ties.

    Args:
        adjacency: Weights, symmetric, [vertices, vertices].
        seed: Of the start.
        start: Halves to start from, 0 or 1 for each vertex; by default drawn at random, equal but for one vertex.
        sweeps: At most so many.

    Returns:
        0 or 1 for each vertex, int64.
    """
    weights = adjacency.cpu().double().numpy()
    count = len(weights)
    if start is None:
        side = np.zeros(count, dtype=np.int64)
        side[np.random.default_rng(seed).permutation(count)[: count // 2]] = 1
    else:
        side = start.cpu().numpy().astype(np.int64)
    tolerance = 1e-12 * max(float(weights.sum()), 1e-300)  # a rounding error is no gain
    while sweeps and _sweep(weights, side, tolerance):
        sweeps -= 1
    return torch.from_numpy(side).to(adjacency.device)


def _sweep(weights: np.ndarray, side: np.ndarray, tolerance: float) -> bool:
    """Improve the halves in place; whether they were."""
    sign = np.where(side == 1, 1.0, -1.0)
    gain = -(weights @ sign) * sign  # weight to the other half less weight to its own
    gain += weights.diagonal()
    open_gain = [np.where(side == half, gain, -np.inf) for half in (0, 1)]
    total, best, keep = 0.0, tolerance, 0
    moves: list[tuple[int, int]] = []
    for _ in range(int(min((side == 0).sum(), (side == 1).sum()))):
        pair = []
        for half in (0, 1):
            vertex = int(open_gain[half].argmax())
            total += open_gain[half][vertex]
            open_gain[half][vertex] = -np.inf
            open_gain[half] += 2 * weights[vertex]  # its neighbours there are now across the cut
            open_gain[1 - half] -= 2 * weights[vertex]
            pair.append(vertex)
        moves.append((pair[0], pair[1]))
        if total > best:
            best, keep = total, len(moves)
    for first, second in moves[:keep]:
        side[first], side[second] = 1, 0
    return keep > 0
