"""Orders of a layer's units in which the structure of a heat map shows."""

import numpy as np

__all__ = ["by_class", "by_likeness"]


def by_class(preferred: np.ndarray, selectivity: np.ndarray) -> np.ndarray:
    """Units by the class that they prefer, in each class the most selective first; dead ones (preferred below 0) last."""
    group = np.where(preferred < 0, np.iinfo(np.int64).max, preferred)
    return np.lexsort((-np.nan_to_num(selectivity), group))


def by_likeness(profiles: np.ndarray) -> np.ndarray:
    """Units so that those with alike profiles [units, classes] are neighbours: by their angle in the plane of most variance.

    Units that fire for no class come last.
    """
    values = np.nan_to_num(profiles.astype(np.float64))
    live = np.flatnonzero(values.any(1))
    if len(live) < 3 or values.shape[1] < 2:
        return np.concatenate([live, np.setdiff1d(np.arange(len(values)), live)])
    shape = values[live] - values[live].mean(1, keepdims=True)
    size = np.linalg.norm(shape, axis=1, keepdims=True)
    _, _, axes = np.linalg.svd(shape / np.where(size > 0, size, 1), full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]  # a sign that does not depend on the library
    first, second = (shape @ axes[:2].T).T
    angle = np.arctan2(second, first)
    order = np.argsort(angle, kind="stable")
    gaps = np.diff(np.append(angle[order], angle[order[0]] + 2 * np.pi))
    order = np.roll(order, -(int(gaps.argmax()) + 1))  # open the circle where it is emptiest
    return np.concatenate([live[order], np.setdiff1d(np.arange(len(values)), live)])
