"""Papers 000 and 001 again: entropy and modularity over a training, and how they go with accuracy."""

import math
from collections.abc import Sequence

from cofire import data, zoo
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.recording import record
from cofire.stats import FiringStats, load
from cofire.training import fit
from cofire.trajectories import Trajectory, trajectory
from cofire.weights import load_weights

__all__ = ["communities", "entropy"]

_NETS = {
    "mnist": ("mnist", "zoo:001-mnist", False), "mnist-mixed": ("mnist", "zoo:001-mnist", True),
    "fashion-mnist": ("fashion-mnist", "zoo:001-fashion-mnist", False),
    "fashion-mnist-mixed": ("fashion-mnist", "zoo:001-fashion-mnist", True),
    "cifar10": ("cifar10", "zoo:001-cifar10", False),
}  # fmt: skip
_CLAIMED = {"mnist": -0.87, "mnist-mixed": 0.22, "fashion-mnist": -0.95, "fashion-mnist-mixed": 0.57, "cifar10": -0.95}
"""Paper 001, table 5: Pearson's correlation of entropy and training accuracy."""

_CLAIMED_LEVELS = {
    "modularity": {"mnist": (0.22, 0.23), "mnist-mixed": (-0.44, 0.46), "fashion-mnist": (0.42, 0.62)},
    "modularity_shen": {"mnist": (0.53, 0.78), "mnist-mixed": (-0.70, 0.36), "fashion-mnist": (0.71, 0.77)},
    "modularity_chen": {"mnist": (0.36, 0.77), "mnist-mixed": (-0.63, 0.48), "fashion-mnist": (0.56, 0.78)},
}  # fmt: skip
"""Paper 001, table 4: Pearson's correlation of modularity and training accuracy, by layer."""

_TOTAL = ("all layers", "activation_entropy_total")


def entropy(settings: Settings) -> Found:
    """The entropy of firing patterns and accuracy, checkpoint by checkpoint (000 §7.1, 001 §7.3)."""
    paths = _paths(settings)
    rows = [_entropy_row(name, seed, path) for (name, seed), path in paths.items()]
    return Found(_entropy_findings(rows), [_entropy_table(rows), _course(paths)], _scale(settings), rows)


def communities(settings: Settings) -> Found:
    """Modularity, communities and unique units over the checkpoints, layer by layer (001 §7.1 and §7.2)."""
    paths = _paths(settings)
    rows = [row for (name, seed), path in paths.items() for row in _layer_rows(name, seed, path)]
    return Found(_layer_findings(rows), _layer_tables(rows), _scale(settings), rows)


def _scale(settings: Settings) -> str:
    pictures = f"{settings.limit:,} training pictures" if settings.limit else "all training pictures"
    return (
        f"Nets of 001 table 1, {pictures}, {settings.epochs or 20} epochs of Adam at 1e-3 with dropout 0.2, a checkpoint "
        "after each and "
        "one before the first; statistics on the training pictures in eval mode, 30 bins. The papers give no optimizer, "
        "no bins, and no "
        "checkpoint 0."
    )


def _paths(settings: Settings) -> dict[tuple[str, int], Trajectory]:
    """A trajectory of every net and seed; checkpoints and statistics that are there already are taken as they are."""
    found = {}
    for name, (source, net_name, shuffled) in _NETS.items():
        if settings.only is not None and name not in settings.only:
            continue
        grey = 1 if source == "cifar10" else None
        images = {
            part: data.load(source, part, root=settings.root, limit=limit, channels=grey, shuffle_labels=shuffled)
            for part, limit in (("train", settings.limit), ("test", settings.test_limit))
        }
        for seed in range(settings.seeds):
            folder = settings.folder / f"{name}-{seed}"
            net = zoo.model(net_name, seed=seed)
            fit(
                net,
                images["train"],
                images["test"],
                epochs=settings.epochs or 20,
                seed=seed,
                checkpoints=folder,
                progress=False,
            )
            files = sorted(folder.glob("epoch-*.safetensors"))
            recorded = {part: [_recorded(net, file, images[part], part) for file in files] for part in images}
            found[name, seed] = trajectory(recorded["train"], recorded["test"], [file.stem for file in files])
            settings.say(f"{name}, seed {seed}: accuracy {found[name, seed].accuracy[-1]:.2%} on training data")
    return found


def _recorded(net, file, images, part: str) -> FiringStats:
    target = file.with_suffix(f".{part}.stats")
    if not target.exists():
        load_weights(net, file, ignore=("optimizer.", "history.", "rng."))
        way = "auto" if part == "train" else "none"
        record(net, images.batches(512), progress=False, maps=False, covariance=False, histograms=way).save(target)
    return load(target)


def _related(path: Trajectory, layer: str, measure: str, against: str = "accuracy") -> dict:
    frame = path.correlations()
    kept = frame[(frame.layer == layer) & (frame.measure == measure) & (frame.against == against)]
    row = kept.iloc[0]
    return {key: float(row[key]) for key in ("pearson", "spearman", "partial_spearman", "differences")}


def _entropy_row(name: str, seed: int, path: Trajectory) -> dict:
    series = path.values[_TOTAL]
    return {
        "net": name, "seed": seed, "train": float(path.accuracy[-1]), "test": float(path.test_accuracy[-1]),  # type: ignore[index]
        "entropy": _related(path, *_TOTAL), "entropy_test": _related(path, *_TOTAL, "test_accuracy"),
        "index": _related(path, "all layers", "checkpoint_index"), "active": _related(path, "all layers", "active_share"),
        "start": float(series[0]), "first": float(series[1]), "last": float(series[-1]),
        "series": [round(float(value), 3) for value in series], "accuracy": [round(float(value), 4) for value in path.accuracy],
    }  # fmt: skip


def _by_net(rows: Sequence[dict]) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["net"], []).append(row)
    return found


def _entropy_findings(rows: list[dict]) -> list[Finding]:
    true = [row for row in rows if not row["net"].endswith("mixed")]
    held = sum(row["entropy"]["pearson"] < -0.5 for row in true)
    lines = "; ".join(
        f"{name} {mean_and_range([row['entropy']['pearson'] for row in group])}" for name, group in _by_net(rows).items()
    )
    found = [
        Finding("Entropy falls as training accuracy rises.", verdict_of(held, len(true)),
                f"Pearson: {lines}. Below -0.5 in {held} of {len(true)} trainings with true labels."),
    ]  # fmt: skip
    index = sum(abs(row["index"]["spearman"]) >= abs(row["entropy"]["spearman"]) for row in rows)
    active = sum(
        abs(row["active"]["pearson"]) >= abs(row["entropy"]["pearson"])
        for row in rows
        if not math.isnan(row["active"]["pearson"])
    )
    changes = mean_and_range([row["entropy"]["differences"] for row in true])
    found.append(
        Finding("(So entropy tells more than that the net was trained for some time.)",
                "not shown" if 2 * max(index, active) >= len(rows) else "depends",
                f"The number of the checkpoint goes with accuracy as well or better in {index} of {len(rows)} trainings, "
                "the share of active "
                f"units in {active}. The changes from one checkpoint to the next correlate by {changes} with true labels: what "
                "is left when both drift is taken out.")
    )  # fmt: skip
    highest = sum(row["start"] > row["first"] for row in true)
    found.append(
        Finding("Entropy is highest at the random start.", verdict_of(highest, len(true)),
                f"It is higher before training than after the first epoch in {highest} of {len(true)} trainings with true "
                "labels.")
    )  # fmt: skip
    return found


def _entropy_table(rows: list[dict]) -> Table:
    lines = []
    for name, group in _by_net(rows).items():
        cells = [mean_and_range([row[part][key] for row in group]) for part, key in (
            ("entropy", "pearson"), ("entropy", "spearman"), ("entropy_test", "pearson"), ("entropy", "partial_spearman"),
            ("entropy", "differences"), ("index", "spearman"), ("active", "pearson"),
        )]  # fmt: skip
        accuracies = [mean_and_range([row[part] for row in group], 3) for part in ("train", "test")]
        lines.append([name, *accuracies, _CLAIMED.get(name, math.nan), *cells])
    columns = ["net", "train accuracy", "test accuracy", "001 table 5", "Pearson", "Spearman", "Pearson, test",
               "given the checkpoint", "changes", "checkpoint number, Spearman", "active share, Pearson"]  # fmt: skip
    note = "Correlation of the total entropy with training accuracy over checkpoints, 0 included: mean over seeds, "
    note += "smallest and largest."
    return Table("Entropy and accuracy", columns, lines, note)


def _course(paths: dict[tuple[str, int], Trajectory]) -> Table:
    lines = []
    for (name, seed), path in paths.items():
        series = path.values[_TOTAL]
        places = [0, 1, len(series) // 4, len(series) // 2, len(series) - 1]
        lines.append([name, seed, *(f"{series[at]:,.0f} at {path.accuracy[at]:.1%}" for at in places)])
    return Table(
        "Total entropy (bits) and training accuracy",
        ["net", "seed", "before", "first epoch", "a quarter", "half", "end"],
        lines,
    )


def _layer_rows(name: str, seed: int, path: Trajectory) -> list[dict]:
    found = []
    for layer in dict.fromkeys(layer for layer, _ in path.values if layer != "all layers"):
        for measure in ("modularity", "modularity_shen", "modularity_chen", "unique_units"):
            series = path.values.get((layer, measure))
            if series is None:
                continue
            found.append({
                "net": name, "seed": seed, "layer": layer, "measure": measure, **_related(path, layer, measure),
                "before": float(series[0]), "last": float(series[-1]),
            })  # fmt: skip
    return found


def _layer_findings(rows: list[dict]) -> list[Finding]:
    found = []
    overlapping = [row for row in rows if row["measure"] in ("modularity_shen", "modularity_chen")]
    true = [row for row in overlapping if not row["net"].endswith("mixed")]
    held = sum(row["pearson"] > 0.3 for row in true)
    found.append(
        Finding("Modularity of overlapping communities rises with training accuracy.", verdict_of(held, len(true)),
                f"Pearson above 0.3 in {held} of {len(true)} cases (a layer of a training with true labels): "
                f"{mean_and_range([row['pearson'] for row in true])}.")
    )  # fmt: skip
    mixed = [row for row in overlapping if row["net"].endswith("mixed")]
    if mixed:
        level, random = (
            mean_and_range([row["last"] for row in group if row["measure"] == "modularity_chen"]) for group in (true, mixed)
        )
        course = min(row["pearson"] for row in true) > max(row["pearson"] for row in mixed)
        ends = [[row["last"] for row in group if row["measure"] == "modularity_chen"] for group in (true, mixed)]
        apart = min(ends[0]) > max(ends[1])
        verdict = {
            (True, True): "by course and level",
            (True, False): "by its course",
            (False, True): "by its level, not its course",
        }
        found.append(
            Finding("(So it tells learning from memorising.)", verdict.get((course, apart), "does not hold"),
                    f"On shuffled labels the correlation is {mean_and_range([row['pearson'] for row in mixed])}. The "
                    "level at the end, "
                    f"weighted and overlapping, is {level} with true labels and {random} with shuffled ones; the same "
                    "sets with "
                    "independent firing have most of it (see the page on communities).")
        )  # fmt: skip
    unique = [row for row in rows if row["measure"] == "unique_units" and not row["net"].endswith("mixed")]
    grew = sum(row["last"] > row["before"] for row in unique)
    found.append(
        Finding("Units that represent one class only become more.", verdict_of(grew, len(unique)),
                f"More at the end than before training in {grew} of {len(unique)} layers: "
                f"{mean_and_range([row['before'] for row in unique], 1)} before, "
                f"{mean_and_range([row['last'] for row in unique], 1)} at the end, "
                "mean over classes.")
    )  # fmt: skip
    return found


def _layer_tables(rows: list[dict]) -> list[Table]:
    tables = []
    for name, group in _by_net(rows).items():
        lines = []
        layers = list(dict.fromkeys(row["layer"] for row in group))
        for measure in dict.fromkeys(row["measure"] for row in group):
            for at, layer in enumerate(layers):
                mine = [row for row in group if row["measure"] == measure and row["layer"] == layer]
                claimed = _CLAIMED_LEVELS.get(measure, {}).get(name, ())
                cells = [mean_and_range([row[key] for row in mine]) for key in
                         ("pearson", "spearman", "partial_spearman", "differences", "before", "last")]  # fmt: skip
                lines.append([measure, layer, f"{claimed[at]:.2f}" if at < len(claimed) else "-", *cells])
        columns = [
            "measure",
            "layer",
            "001 table 4, Pearson",
            "Pearson",
            "Spearman",
            "given the checkpoint",
            "changes",
            "before",
            "end",
        ]
        tables.append(
            Table(name, columns, lines, "Against training accuracy over checkpoints; mean over seeds, smallest and largest.")
        )
    return tables
