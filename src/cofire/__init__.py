"""Which neurons of a classifier fire for which class, and what that says about the classifier."""

from importlib import import_module
from typing import TYPE_CHECKING

from cofire.version import __version__

if TYPE_CHECKING:
    from cofire import baselines, data, errors, hypotheses, rankings, regularisation, runs, zoo
    from cofire.ablation import ablate
    from cofire.boosted import Boosted, load_boosted
    from cofire.boosting import boost
    from cofire.curves import Curve
    from cofire.depths import depth
    from cofire.errors import CofireError, CofireWarning
    from cofire.export import write_graph, write_units
    from cofire.familiarities import Familiarity, familiarity
    from cofire.firing import (
        always_on_units,
        class_means,
        covariance,
        dead_units,
        firing_probability,
        live_units,
        representative_units,
    )
    from cofire.following import follow
    from cofire.graphs import Coactivation, coactivation, shared_units, unique_units
    from cofire.information import (
        activation_entropy,
        class_selectivity,
        firing_entropy,
        kl_selectivity,
        mutual_information,
        mutual_information_excess,
        softmax_entropy,
    )
    from cofire.layer import LayerStats
    from cofire.measures import MEASURES, summary, table
    from cofire.modularities import modularity, modularity_bisection, modularity_chen, modularity_shen
    from cofire.monitoring import Monitor
    from cofire.partitions import Communities, communities
    from cofire.pruning import cost, load_pruned, prune
    from cofire.recording import layers, record
    from cofire.selective import Trust, load_trust
    from cofire.stats import FiringStats, load
    from cofire.training import fit
    from cofire.trajectories import Trajectory, trajectory
    from cofire.trusting import trust

_ROOMS = {
    "ablation": ("ablate",),
    "boosted": ("Boosted", "load_boosted"),
    "boosting": ("boost",),
    "curves": ("Curve",),
    "depths": ("depth",),
    "pruning": ("cost", "load_pruned", "prune"),
    "cofire": ("baselines", "data", "errors", "hypotheses", "rankings", "regularisation", "runs", "zoo"),
    "errors": ("CofireError", "CofireWarning"),
    "export": ("write_graph", "write_units"),
    "familiarities": ("Familiarity", "familiarity"),
    "firing": (
        "always_on_units", "class_means", "covariance", "dead_units", "firing_probability", "live_units",
        "representative_units",
    ),
    "following": ("follow",),
    "graphs": ("Coactivation", "coactivation", "shared_units", "unique_units"),
    "information": (
        "activation_entropy", "class_selectivity", "firing_entropy", "kl_selectivity", "mutual_information",
        "mutual_information_excess", "softmax_entropy",
    ),
    "layer": ("LayerStats",),
    "measures": ("MEASURES", "summary", "table"),
    "modularities": ("modularity", "modularity_bisection", "modularity_chen", "modularity_shen"),
    "monitoring": ("Monitor",),
    "partitions": ("Communities", "communities"),
    "recording": ("layers", "record"),
    "selective": ("Trust", "load_trust"),
    "stats": ("FiringStats", "load"),
    "training": ("fit",),
    "trajectories": ("Trajectory", "trajectory"),
    "trusting": ("trust",),
}  # fmt: skip
_PLACES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "MEASURES",
    "Boosted",
    "Coactivation",
    "CofireError",
    "CofireWarning",
    "Communities",
    "Curve",
    "Familiarity",
    "FiringStats",
    "LayerStats",
    "Monitor",
    "Trajectory",
    "Trust",
    "__version__",
    "ablate",
    "activation_entropy",
    "always_on_units",
    "baselines",
    "boost",
    "class_means",
    "class_selectivity",
    "coactivation",
    "communities",
    "cost",
    "covariance",
    "data",
    "dead_units",
    "depth",
    "errors",
    "familiarity",
    "firing_entropy",
    "firing_probability",
    "fit",
    "follow",
    "hypotheses",
    "kl_selectivity",
    "layers",
    "live_units",
    "load",
    "load_boosted",
    "load_pruned",
    "load_trust",
    "modularity",
    "modularity_bisection",
    "modularity_chen",
    "modularity_shen",
    "mutual_information",
    "mutual_information_excess",
    "prune",
    "rankings",
    "record",
    "regularisation",
    "representative_units",
    "runs",
    "shared_units",
    "softmax_entropy",
    "summary",
    "table",
    "trajectory",
    "trust",
    "unique_units",
    "write_graph",
    "write_units",
    "zoo",
]


def __getattr__(name: str):
    # Names are looked up on first use, so that `cofire --help` need not wait for torch.
    room = _PLACES.get(name)
    if room is None:
        raise AttributeError(f"module 'cofire' has no attribute {name!r}")
    value = import_module(f"cofire.{name}") if room == "cofire" else getattr(import_module(f"cofire.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
