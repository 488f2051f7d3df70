"""The tables on which paper 001 rests its hypotheses, for any training that was followed: tables 3 to 6.

Each is a function of one trajectory. Over several seeds, :meth:`cofire.runs.Runs.frame` takes the function:
``over_runs([first, second, third]).frame(modularities)``.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cofire.trajectories import ALL, TRIVIAL, Trajectory, related

if TYPE_CHECKING:
    import pandas

__all__ = ["TABLES", "class_entropies", "community_sizes", "entropies", "modularities"]

_FORMS = ("modularity_bisection", "modularity", "modularity_shen", "modularity_chen")
_SHOWN = 8


def community_sizes(path: Trajectory) -> "pandas.DataFrame":
    """Table 3: vertices of the largest communities at the first and the last checkpoint, and how their mean goes with accuracy.

    Checkpoints without co-firing counts, such as the first window of a :class:`cofire.Monitor`, are passed over.

    Source:
        Paper 001, section 7.1. *Departure:* resolution 1. The paper's 0.5 in Gephi, 2 here, leaves nearly every vertex of a
        graph as dense as these alone.

    Args:
        path: The trajectory.

    Returns:
        A row for each layer: layer; the communities and the vertices of the largest eight at both ends, as words; and how the
        mean number of vertices goes with accuracy, as in :meth:`cofire.Trajectory.correlations`.
    """
    import pandas as pd

    rows = []
    for layer in [layer for layer, measure in path.values if measure == "nodes_per_community"]:
        held = [sizes[layer] for sizes in path.communities if layer in sizes]
        ends = {"first": held[0], "last": held[-1]}
        said = {end: f"{len(sizes)}: {' '.join(map(str, sizes[:_SHOWN]))}" for end, sizes in ends.items()}
        rows.append({"layer": layer, **said, **related(path.values[layer, "nodes_per_community"], path.accuracy)})
    return pd.DataFrame(rows)


def modularities(path: Trajectory) -> "pandas.DataFrame":
    """Table 4: how four forms of modularity go with accuracy, layer by layer.

    They are the paper's KLB (of one random start, on which it depends), no overlap, unweighted overlap and weighted overlap.

    Source:
        Paper 001, section 7.2. *Departure:* beside each correlation stand that given the checkpoint's index and that of the
        changes.

    Args:
        path: The trajectory.

    Returns:
        A row for each layer and form, with the columns of :meth:`cofire.Trajectory.correlations`.
    """
    return _rows(path, (key for form in _FORMS for key in path.values if key[1] == form))


def entropies(path: Trajectory) -> "pandas.DataFrame":
    """Table 5: how the entropy of all units together goes with accuracy.

    Source:
        Paper 001, section 7.3. *Departure:* beside it stand the series that anyone could have used.

    Args:
        path: The trajectory.

    Returns:
        A row for the entropy and for each of :data:`cofire.trajectories.TRIVIAL`, with the columns of
        :meth:`cofire.Trajectory.correlations`.
    """
    return _rows(path, ((ALL, measure) for measure in ("activation_entropy_total", *TRIVIAL) if (ALL, measure) in path.values))


def class_entropies(path: Trajectory) -> "pandas.DataFrame":
    """Table 6: how the entropy over one class's samples goes with the accuracy on that class.

    Source:
        Paper 001, section 7.3.

    Args:
        path: The trajectory.

    Returns:
        A row for each class, with its correlations as in :meth:`cofire.Trajectory.correlations`; none where histograms by class
        or predictions were not recorded.
    """
    import pandas as pd

    names = [name for name, measure in path.by_class if measure == "accuracy"]
    both = [(path.by_class[name, "activation_entropy_total"], path.by_class[name, "accuracy"]) for name in names]
    return pd.DataFrame([{"class": name, **related(*series)} for name, series in zip(names, both, strict=True)])


def _rows(path: Trajectory, keys: Iterable[tuple[str, str]]) -> "pandas.DataFrame":
    """The rows of the correlations of some series, in this order."""
    rows = path.correlations()
    if not len(rows):
        return rows
    places = rows.set_index(["layer", "measure"])
    return places.loc[list(keys)].reset_index()


TABLES: dict[int, Callable[[Trajectory], "pandas.DataFrame"]] = {
    3: community_sizes, 4: modularities, 5: entropies, 6: class_entropies,
}  # fmt: skip
"""By the paper's numbers."""
