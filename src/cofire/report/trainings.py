"""The trainings of a report: measures and accuracy over checkpoints, as plain values."""

from collections.abc import Mapping
from typing import Any

from cofire.baselines import BASELINES
from cofire.measures import MEASURES
from cofire.trajectories import KNOWN, Trajectory

__all__ = ["FIRST", "training_contents"]

FIRST = ("all layers", "activation_entropy_total")
"""What the figure shows first: the quantity of papers 000 and 001."""

_OWN = {
    "activation_entropy_total": ("bits", "Sum of the activation entropy over units; it falls by itself when units die."),
    "active_share": ("share", "Share of units that fire for some sample."),
    "checkpoint_index": ("number", "Number of the checkpoint: what anything that only drifts goes with."),
    "modularity": ("", "Modularity of the co-firing graph, units divided among the classes that they represent."),
    "modularity_shen": ("", "The same for overlapping classes, pairs counted without weights."),
    "modularity_chen": ("", "The same for overlapping classes, pairs counted with their weights."),
    "modularity_bisection": ("", "Modularity of the co-firing graph in two halves (Kernighan-Lin)."),
    "nodes_per_community": ("units", "Vertices in a community of the co-firing graph, mean over communities."),
    "unique_units": ("units", "Units that represent one class only, mean over classes."),
}


def training_contents(trajectories: Mapping[str, Trajectory]) -> dict[str, Any] | None:
    """What a report shows of trainings: every series, how it goes with accuracy, and what the measures mean."""
    if not trajectories:
        return None
    words = {row.name: {"unit": row.unit, "words": row.words} for row in MEASURES}
    words |= {row.name: {"unit": "", "words": row.words} for row in BASELINES if row.name not in words}
    words |= {name: {"unit": unit, "words": said} for name, (unit, said) in _OWN.items()}
    runs = [_run(name, path) for name, path in trajectories.items()]
    seen = {series["measure"] for run in runs for series in run["series"]}
    return {"runs": runs, "measures": {name: said for name, said in words.items() if name in seen}, "first": list(FIRST)}


def _run(name: str, path: Trajectory) -> dict[str, Any]:
    related = path.correlations()
    rows = [] if related.empty else related.query("against == 'accuracy'").to_dict("records")
    found = {(row["layer"], row["measure"]): row for row in rows}
    keys = ("pearson", "spearman", "partial_spearman", "differences")
    return {
        "name": name, "checkpoints": list(path.names), "words": path.verdict(), "accuracy": path.accuracy.tolist(),
        "test_accuracy": None if path.test_accuracy is None else path.test_accuracy.tolist(),
        "series": [
            {"layer": layer, "measure": measure, "baseline": measure in KNOWN, "values": values.tolist(),
             **{key: found.get((layer, measure), {}).get(key) for key in keys}}
            for (layer, measure), values in path.values.items()
        ],
    }  # fmt: skip
