"""Paper 001 again: modularity and unique units over a training, and how they go with accuracy."""

import itertools
import math
from typing import TYPE_CHECKING

from cofire.recipes.following import NETS, Followed, all_rows, by_net, follow, judged, made, origin_of, related
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.runs import averaged

if TYPE_CHECKING:
    import pandas

__all__ = ["run"]

_DENSE = [name for name, net in NETS.items() if net.dense]

_CLAIMED = {
    "modularity_bisection": {
        "mnist": (0.24, 0.50), "mnist-mixed": (-0.76, -0.73), "fashion-mnist": (-0.04, 0.42),
        "fashion-mnist-mixed": (-0.03, -0.44), "cifar10": (0.16, 0.68, 0.69, -0.18, -0.29, -0.01),
        "plantvillage": (0.22, 0.57, 0.76, 0.84, -0.16, -0.34, -0.21),
    },
    "modularity": {
        "mnist": (0.22, 0.23), "mnist-mixed": (-0.44, 0.46), "fashion-mnist": (0.42, 0.62),
        "fashion-mnist-mixed": (0.28, 0.14), "cifar10": (-0.05, 0.62, 0.29, 0.06, 0.01, -0.49),
        "plantvillage": (0.24, 0.05, 0.40, -0.15, 0.04, 0.03, 0.46),
    },
    "modularity_shen": {
        "mnist": (0.53, 0.78), "mnist-mixed": (-0.70, 0.36), "fashion-mnist": (0.71, 0.77),
        "fashion-mnist-mixed": (0.43, 0.22), "cifar10": (0.34, 0.87, 0.73, 0.82, 0.66, -0.37),
        "plantvillage": (0.14, 0.49, 0.83, 0.91, 0.63, 0.46, 0.74),
    },
    "modularity_chen": {
        "mnist": (0.36, 0.77), "mnist-mixed": (-0.63, 0.48), "fashion-mnist": (0.56, 0.78),
        "fashion-mnist-mixed": (0.43, 0.26), "cifar10": (0.42, 0.78, 0.71, 0.71, 0.71, 0.02),
        "plantvillage": (0.24, 0.59, 0.84, 0.88, 0.71, 0.66, 0.62),
    },
}  # fmt: skip
"""Paper 001, table 4: Pearson's correlation of modularity and training accuracy, by layer."""

_MEASURES = (*_CLAIMED, "unique_units", "nodes_per_community")
_STATISTICS = {
    "pearson": "Pearson", "spearman": "Spearman", "partial_spearman": "given the checkpoint", "differences": "changes",
}  # fmt: skip

_NOTE = (
    "Against training accuracy over checkpoints: mean over seeds with a 95 % bootstrap interval over seeds, which with three "
    "seeds is from the smallest to the largest. Same sign: in how many of the seeds Pearson's correlation has the sign of its "
    "mean. Before training and at the end: mean over seeds, smallest and largest. modularity_bisection is the paper's KLB; "
    "nodes_per_community is of its table 3, where it took another resolution."
)

_SCALE = (
    "Nets of 001 table 1, Adam at 1e-3 with dropout 0.2, a checkpoint after each epoch and one before the first; statistics on "
    "the training pictures in eval mode. The paper gives no optimizer, and no checkpoint 0. PlantVillage is 6 crops here, "
    "segmented, at 64 x 64; the paper has 9 at 256 x 256. The last table says how each net was trained, and by which command."
)


def run(settings: Settings) -> Found:
    """Modularity, communities and unique units over the checkpoints, layer by layer (001 sections 7.1 and 7.2)."""
    trainings = all_rows(settings, [_row(followed, settings) for followed in follow(settings, _DENSE)])
    kept, left = judged(trainings)
    layers = _layers(kept)
    findings = [*_findings(layers, left), *_communities_grow(layers), _consistent(kept)]
    return Found(findings, [*_tables(trainings), made(trainings)], _SCALE, trainings)


def _layers(trainings: list[dict]) -> list[dict]:
    return [{"net": one["net"], "seed": one["seed"], **cell} for one in trainings for cell in one["layers"]]


def _row(followed: Followed, settings: Settings) -> dict:
    path = followed.path
    layers = [
        {"layer": layer, "measure": measure, **related(path, layer, measure), "before": float(path.values[layer, measure][0]),
         "last": float(path.values[layer, measure][-1])}
        for layer in followed.train[0]
        for measure in _MEASURES
    ]  # fmt: skip
    return {"net": followed.name, "seed": followed.seed, "made": origin_of(followed, settings), "layers": layers}


def _findings(rows: list[dict], left: str) -> list[Finding]:
    overlapping = [row for row in rows if row["measure"] in ("modularity_shen", "modularity_chen")]
    true, mixed = ([row for row in overlapping if NETS[row["net"]].shuffled is shuffled] for shuffled in (False, True))
    held = sum(row["pearson"] > 0.3 for row in true)
    found = [
        Finding("Modularity of overlapping communities rises with training accuracy.", verdict_of(held, len(true)),
                f"Pearson above 0.3 in {held} of {len(true)} cases (a layer of a training with true labels): "
                f"{mean_and_range([row['pearson'] for row in true])}.{left}"),
    ]  # fmt: skip
    twins = [row for row in true if f"{row['net']}-mixed" in by_net(mixed)]
    if twins:
        found.append(_told_apart(twins, mixed))
    unique = [row for row in rows if row["measure"] == "unique_units" and not NETS[row["net"]].shuffled]
    grew = sum(row["last"] > row["before"] for row in unique)
    before, end = (mean_and_range([row[key] for row in unique], 1) for key in ("before", "last"))
    found.append(
        Finding("Units that represent one class only become more.", verdict_of(grew, len(unique)),
                f"More at the end than before training in {grew} of {len(unique)} layers: {before} before, {end} at the end, "
                "mean over classes.")
    )  # fmt: skip
    return found


def _communities_grow(rows: list[dict]) -> list[Finding]:
    """What the paper reads off its table 3."""
    true, mixed = (
        [
            row["pearson"]
            for row in rows
            if row["measure"] == "nodes_per_community"
            and NETS[row["net"]].shuffled is shuffled
            and not math.isnan(row["pearson"])  # as where it is constant
        ]
        for shuffled in (False, True)
    )
    rose, flat = sum(pearson > 0 for pearson in true), sum(abs(pearson) < 0.3 for pearson in mixed)
    said = "Pearson of the mean number of nodes per community"
    return [
        Finding("Communities grow as training accuracy rises.", verdict_of(rose, len(true)),
                f"{said} above 0 in {rose} of {len(true)} cases with true labels: {mean_and_range(true)}."),
        Finding("On shuffled labels they do not.", verdict_of(flat, len(mixed)),
                f"{said} between -0.3 and 0.3 in {flat} of {len(mixed)} cases: {mean_and_range(mixed)}."),
    ]  # fmt: skip


def _consistent(trainings: list[dict]) -> Finding:
    """What the paper says of the bisection, as far as seeds can tell."""
    held, layers, turned = 0, 0, {}
    for name, group in by_net(trainings).items():
        frame = _over_seeds(group).query("measure == 'modularity_bisection' and statistic == 'pearson' and runs > 1")
        same = frame[frame.same_sign == frame.runs]
        held, layers = held + len(same), layers + len(frame)
        if len(same) < len(frame):
            turned[name] = [layer for layer in frame.layer if layer not in set(same.layer)]
    why = f"All seeds give Pearson's correlation one sign in {held} of {layers} layers of nets that were trained more than once"
    why += "; not in " + "; ".join(f"{', '.join(names)} of {name}" for name, names in turned.items()) if turned else ""
    return Finding("Kernighan-Lin bisection gives consistent results.", verdict_of(held, layers), f"{why}.")


def _told_apart(true: list[dict], mixed: list[dict]) -> Finding:
    course = min(row["pearson"] for row in true) > max(row["pearson"] for row in mixed)
    learned, random = ([row["last"] for row in group if row["measure"] == "modularity_chen"] for group in (true, mixed))
    apart = min(learned) > max(random)
    verdict = {
        (True, True): "by course and level", (True, False): "by its course", (False, True): "by its level, not its course",
        (False, False): "does not hold",
    }[course, apart]  # fmt: skip
    return Finding(
        "(So it tells learning from memorising.)", verdict,
        f"In nets trained on both, the correlation is {mean_and_range([row['pearson'] for row in true])} with true labels and "
        f"{mean_and_range([row['pearson'] for row in mixed])} with shuffled ones. The level at the end, weighted and "
        f"overlapping, is {mean_and_range(learned)} and {mean_and_range(random)}. How much of a level the sets alone give is "
        "on the page on communities.",
    )  # fmt: skip


def _over_seeds(group: list[dict]) -> "pandas.DataFrame":
    """Correlations of a net's trainings, averaged over its seeds."""
    import pandas as pd

    return averaged([pd.DataFrame(one["layers"]) for one in group])


def _tables(trainings: list[dict]) -> list[Table]:
    columns = [
        "measure",
        "layer",
        "001 table 4, Pearson",
        "Pearson",
        "same sign",
        *list(_STATISTICS.values())[1:],
        "before",
        "end",
    ]
    tables: list[Table] = []
    for name, group in by_net(trainings).items():
        cells = {(row["layer"], row["measure"], row["statistic"]): row for row in _over_seeds(group).to_dict("records")}
        layers, lines = list(dict.fromkeys(layer for layer, _, _ in cells)), []
        for measure, layer in itertools.product(_MEASURES, layers):
            claimed = f"{_CLAIMED[measure][name][layers.index(layer)]:.2f}" if measure in _CLAIMED else "-"
            pearson, *others = (cells.get((layer, measure, statistic)) for statistic in _STATISTICS)
            shared = f"{pearson['same_sign']} of {pearson['runs']}" if pearson else "-"
            ends = (
                mean_and_range([cell[key] for one in group for cell in one["layers"]
                                if (cell["layer"], cell["measure"]) == (layer, measure)])
                for key in ("before", "last")
            )  # fmt: skip
            lines.append([measure, layer, claimed, _interval(pearson), shared, *map(_interval, others), *ends])
        tables.append(Table(name, columns, lines, "" if tables else _NOTE))
    return tables


def _interval(row: dict | None) -> str:
    """A mean over seeds, with its interval."""
    if row is None or math.isnan(row["mean"]):
        return "-"
    ends = "" if math.isnan(row["mean_low"]) else f" ({row['mean_low']:.2f} to {row['mean_high']:.2f})"
    return f"{row['mean']:.2f}{ends}"
