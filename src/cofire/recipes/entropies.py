"""Papers 000 and 001 again: the entropy of firing patterns over a training, and how it goes with accuracy."""

import copy
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofire import plots
from cofire.correlations import correlation, rank_correlation
from cofire.files import atomic
from cofire.images import Images, spread
from cofire.information import activation_entropy
from cofire.recipes.following import NETS, Followed, all_rows, by_net, follow, judged, load_checkpoint, made, origin_of, related
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.recording import record
from cofire.stats import FiringStats
from cofire.trajectories import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "run"]

_CLAIMED = {
    "mnist": (-0.87, -0.94), "mnist-mixed": (0.22, 0.51), "fashion-mnist": (-0.95, -0.99), "fashion-mnist-mixed": (0.57, 0.67),
    "cifar10": (-0.95, -0.97), "plantvillage": (-0.94, -1.0),
    "resnet50-cifar10": (-0.68, -0.67), "inception-v3-cifar100": (-0.51, -0.58), "resnet50-plantvillage": (0.29, -0.22),
}  # fmt: skip
"""Pearson's and Spearman's correlation of entropy and training accuracy: paper 001, table 5, and of deep nets 000, table 1."""

_CLAIMED_BY_CLASS = {
    "mnist": (-0.55, -0.54, -0.22, -0.35, -0.71, -0.55, 0.0, -0.09, -0.67, -0.39),
    "mnist-mixed": (-0.06, 0.18, 0.47, 0.36, 0.33, -0.14, 0.19, 0.09, 0.46, 0.09),
    "fashion-mnist": (0.1, -0.24, 0.37, -0.57, -0.41, -0.67, -0.83, -0.43, -0.9, -0.67),
    "fashion-mnist-mixed": (-0.13, 0.77, 0.47, 0.25, 0.48, 0.33, 0.67, 0.7, 0.63, 0.90),
    "cifar10": (0.22, 0.7, 0.38, 0.13, -0.40, -0.5, 0.59, 0.16, 0.01, -0.18),
    "plantvillage": (-0.85, -0.86, -0.46, -0.88, -0.39, -0.86, -0.87, -0.91, -0.81),
}
"""Paper 001, table 6: Pearson's correlation of a class's entropy and its training accuracy, by class."""

_WELL_TRAINED = ("mnist", "fashion-mnist", "plantvillage")
"""Those that 001 calls so."""

_TOTAL = ("all layers", "activation_entropy_total")

_SCALE = (
    "Adam at 1e-3, a checkpoint after each epoch and one before the first; statistics on the training pictures in eval mode, "
    "30 bins. Fully connected nets are those of 001 table 1, with dropout 0.2; ResNet-50 and Inception-v3 are torchvision's, "
    "from random weights, on far fewer pictures than the paper's. The papers give no optimizer, no bins, and no checkpoint 0. "
    "PlantVillage is 6 crops here, segmented, at 64 x 64 or less; the papers have 9 at 256 x 256, so the classes differ. "
    "CIFAR-10 is gray in the fully connected net. The last table says how each net was trained, and by which command."
)


def run(settings: Settings) -> Found:
    """The entropy of firing patterns and accuracy, checkpoint by checkpoint (000 section 7.1, 001 section 7.3)."""
    new, paths, stats = [], {}, None
    for followed in follow(settings, list(NETS)):
        new.append(_row(followed, settings))
        paths[f"{followed.name}, seed {followed.seed}"] = followed.path
        stats = stats or followed.train[-1]
    rows = all_rows(settings, new)
    tables = [_correlations(rows), _choices(rows), *_by_class(rows), _course(rows), made(rows)]
    return Found(_findings(rows), tables, _SCALE, rows, trajectories=paths, stats=stats)


# ---------------------------------------------------------------- what is measured


def draw(numbers: Sequence[dict]) -> dict[str, "Figure"]:
    """Entropy and accuracy over the first training of every net: figure 2 of paper 000."""
    paths = {}
    for row in numbers:
        names = tuple(str(epoch) for epoch in range(len(row["series"])))
        entropy = {("all layers", "activation_entropy_total"): np.asarray(row["series"])}
        path = Trajectory(names, entropy, np.asarray(row["accuracy"]), np.asarray(row["test_accuracy"]))
        paths.setdefault(row["net"], path)
    return {"Entropy (bits) and accuracy over the first training of each net": plots.trainings(paths)} if paths else {}


def _row(followed: Followed, settings: Settings) -> dict:
    path = followed.path
    return {
        "net": followed.name, "seed": followed.seed, "made": origin_of(followed, settings),
        "entropy": related(path, *_TOTAL), "entropy_test": related(path, *_TOTAL, "test_accuracy"),
        "index": related(path, "all layers", "checkpoint_index"), "active": related(path, "all layers", "active_share"),
        "series": _short(path.values[_TOTAL], 3), "accuracy": _short(path.accuracy),
        "test_accuracy": _short(path.test_accuracy),
        "choices": _by_choice(followed), "classes": _of_classes(followed) if NETS[followed.name].dense else [],
    }  # fmt: skip


def _short(series: Any, digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in series]


def _by_choice(followed: Followed) -> dict[str, dict[str, float]]:
    """How entropy goes with training accuracy if one choice that the papers leave open is made in another way."""
    path, train = followed.path, followed.train
    units = sum(layer.units for layer in train[0].values())
    series: dict[str, Sequence[float] | np.ndarray] = {
        "10 bins": [_bits(stats, bins=10) for stats in train],
        "30 bins": path.values[_TOTAL],
        "100 bins": [_bits(stats, bins=100) for stats in train],
        "bins from 0": [_bits(stats, span="zero") for stats in train],
        "mean of live units": path.values[_TOTAL] / (units * path.values["all layers", "active_share"]),
    }
    again = [_recorded_otherwise(followed, file) for file in followed.files]
    series |= {choice: [bits[choice] for bits in again] for choice in again[0]}
    found = {choice: _of(bits, path.accuracy) for choice, bits in series.items()}
    return found | {"without checkpoint 0": _of(path.values[_TOTAL][1:], path.accuracy[1:])}


def _of(bits: Sequence[float] | np.ndarray, accuracy: np.ndarray) -> dict[str, float]:
    series = np.asarray(bits, dtype=float)
    return {"pearson": correlation(series, accuracy), "spearman": rank_correlation(series, accuracy)}


def _bits(stats: FiringStats, **choice: Any) -> float:
    return sum(float(activation_entropy(layer, **choice).sum()) for layer in stats.values())


def _recorded_otherwise(followed: Followed, file: Path) -> dict[str, float]:
    """Total entropy on other pictures, and with dropout; kept beside the checkpoint."""
    target = file.with_suffix(".otherwise.json")
    if not target.exists():
        load_checkpoint(followed.model, file)
        count = math.ceil(len(followed.images["train"]) / 10)
        tenth, test = (images.subset(spread(images.labels.numpy(), min(count, len(images)), 0, equal=True))
                       for images in followed.images.values())  # fmt: skip
        bits = {
            "a tenth of the pictures": _bits_on(followed.model, tenth),
            "as many test pictures": _bits_on(followed.model, test),
        }
        if NETS[followed.name].dense:
            bits["a tenth, dropout on"] = _bits_on(_dropping(followed.model), tenth)
        with atomic(target) as temporary:
            temporary.write_text(json.dumps(bits), "utf8")
    return json.loads(target.read_text("utf8"))


def _bits_on(model: nn.Module, images: Images) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        stats = record(
            model, images.batches(128), progress=False, maps=False, covariance=False, histograms="cache", by_class=False,
            cofiring="none",
        )  # fmt: skip
    return _bits(stats)


class _Dropping(nn.Module):
    """Dropout that does not stop in eval mode."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.share, training=True)


def _dropping(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for name, module in list(model.named_children()):
        if isinstance(module, nn.Dropout):
            setattr(model, name, _Dropping(module.p))
    return model


def _of_classes(followed: Followed) -> list[dict]:
    """How the entropy over a class's pictures goes with the accuracy on them."""
    entropies = np.array([
        np.sum([activation_entropy(layer, by_class=True).sum(1).tolist() for layer in stats.values()], 0)
        for stats in followed.train
    ])  # fmt: skip
    accuracies = np.array([stats.class_accuracy.tolist() for stats in followed.train])  # type: ignore[union-attr]
    return [
        {"class": name, **_of(entropies[:, at], accuracies[:, at])} for at, name in enumerate(followed.train[0].class_names)
    ]


# ---------------------------------------------------------------- what follows


def _findings(every: list[dict]) -> list[Finding]:
    rows, left = judged(every)
    true = [row for row in rows if not NETS[row["net"]].shuffled]
    return [_falls(true, rows, left), _beyond_drift(true, rows), _highest_at_start(true), _one_sign(true), *_classes_fall(rows)]


def _falls(true: list[dict], rows: list[dict], left: str) -> Finding:
    held = sum(row["entropy"]["pearson"] < -0.5 for row in true)
    lines = [f"{name} {mean_and_range([row['entropy']['pearson'] for row in group])}" for name, group in by_net(rows).items()]
    why = f"Pearson: {'; '.join(lines)}. Below -0.5 in {held} of {len(true)} trainings with true labels.{left}"
    return Finding("Entropy falls as training accuracy rises.", verdict_of(held, len(true)), why)


def _beyond_drift(true: list[dict], rows: list[dict]) -> Finding:
    index = sum(abs(row["index"]["spearman"]) >= abs(row["entropy"]["spearman"]) for row in rows)
    active = sum(abs(row["active"]["pearson"]) >= abs(row["entropy"]["pearson"]) for row in rows)
    changes = mean_and_range([row["entropy"]["differences"] for row in true])
    why = (
        f"The number of the checkpoint goes with accuracy as well or better in {index} of {len(rows)} trainings, the share of "
        f"active units in {active}. The changes from one checkpoint to the next correlate by {changes} with true labels: what "
        "is left when both drift is taken out."
    )
    verdict = "not judged" if not rows else "not shown" if 2 * max(index, active) >= len(rows) else "depends"
    return Finding("(So entropy tells more than that the net was trained for some time.)", verdict, why)


def _highest_at_start(true: list[dict]) -> Finding:
    held = sum(row["series"][0] > row["series"][1] for row in true)
    why = f"It is higher before training than after the first epoch in {held} of {len(true)} trainings with true labels."
    return Finding("Entropy is highest at the random start.", verdict_of(held, len(true)), why)


def _one_sign(true: list[dict]) -> Finding:
    nets, odd = by_net(true), []
    for name, group in nets.items():
        usual = sum(row["entropy"]["pearson"] for row in group)
        turned = {choice: None for row in group for choice, found in row["choices"].items() if found["pearson"] * usual < 0}
        if turned:
            odd.append(f"{name} ({', '.join(turned)})")
    why = (
        f"One sign for all bins, pictures, checkpoints and seeds in {len(nets) - len(odd)} of {len(nets)} nets with true labels"
    )
    why += f"; it turns for {', '.join(odd)}." if odd else "."
    claim = "(The sign does not depend on what the papers leave open.)"
    return Finding(claim, verdict_of(len(nets) - len(odd), len(nets)), why)


def _classes_fall(rows: list[dict]) -> list[Finding]:
    """Of 001, section 7.3: what is said of single classes."""

    def share(group: list[dict]) -> str:
        of = [one["pearson"] < 0 for row in group for one in row["classes"]]
        return f"Negative in {sum(of)} of {len(of)} classes of {len(group)} trainings, "

    def most(row: dict, sign: int) -> bool:
        return 2 * sum(sign * one["pearson"] > 0 for one in row["classes"]) > len(row["classes"])

    dense = [row for row in rows if row["classes"]]
    well = [row for row in dense if row["net"] in _WELL_TRAINED]
    others = [row for row in dense if row["net"] not in _WELL_TRAINED]
    fell, rose = sum(most(row, -1) for row in well), sum(most(row, 1) for row in others)
    return [
        Finding("Class by class, entropy falls as the accuracy on the class rises, in the well-trained nets.",
                verdict_of(fell, len(well)), f"{share(well)}in most classes of {fell} of them."),
        Finding("On CIFAR-10 and shuffled labels it rises with it, in most classes.",
                verdict_of(rose, len(others)), f"{share(others)}positive in most classes of {rose} of them."),
    ]  # fmt: skip


# ---------------------------------------------------------------- tables


def _correlations(rows: list[dict]) -> Table:
    lines = []
    for name, group in by_net(rows).items():
        cells = [mean_and_range([row[part][key] for row in group]) for part, key in (
            ("entropy", "pearson"), ("entropy", "spearman"), ("entropy_test", "pearson"), ("entropy", "partial_spearman"),
            ("entropy", "differences"), ("index", "spearman"), ("active", "pearson"),
        )]  # fmt: skip
        accuracies = [mean_and_range([row[part][-1] for row in group], 3) for part in ("accuracy", "test_accuracy")]
        lines.append([name, *accuracies, *_CLAIMED[name], *cells])
    columns = ["net", "train accuracy", "test accuracy", "paper, Pearson", "paper, Spearman", "Pearson", "Spearman",
               "Pearson, test", "given the checkpoint", "changes", "checkpoint number, Spearman",
               "active share, Pearson"]  # fmt: skip
    note = (
        "Correlation of the total entropy with training accuracy over checkpoints, 0 included: mean over seeds, smallest and "
        "largest. The paper's numbers are of 001 table 5, and of 000 table 1 for deep nets."
    )
    return Table("Entropy and accuracy", columns, lines, note)


def _choices(rows: list[dict]) -> Table:
    choices = list(dict.fromkeys(choice for row in rows for choice in row["choices"]))
    lines = [
        [name, *(mean_and_range([row["choices"].get(choice, {}).get("pearson", math.nan) for row in group])
                 for choice in choices)]
        for name, group in by_net(rows).items()
    ]  # fmt: skip
    note = (
        "Pearson's correlation of entropy with training accuracy, one choice changed at a time: mean over seeds, smallest and "
        "largest. The total over units is of 30 bins between a unit's own extremes, on all training pictures, without dropout, "
        "checkpoint 0 included, but for what the heading says."
    )
    return Table("What depends on which choice", ["net", *choices], lines, note)


def _by_class(rows: list[dict]) -> list[Table]:
    lines = []
    for name, group in by_net([row for row in rows if row["classes"]]).items():
        here = [mean_and_range([row["classes"][at]["pearson"] for row in group]) for at in range(len(group[0]["classes"]))]
        claimed = [f"{value:.2f}" for value in _CLAIMED_BY_CLASS[name]]
        for source, cells in (("001 table 6", claimed), ("here", here)):
            lines.append([name, source, *cells, *["-"] * (10 - len(cells))])
    if not lines:
        return []
    note = (
        "Pearson's correlation of a class's entropy, over its training pictures alone, with the accuracy on them; mean over "
        "seeds, smallest and largest. Classes in the order of the data; the paper does not say its order."
    )
    return [Table("Class by class", ["net", "", *map(str, range(1, 11))], lines, note)]


def _course(rows: list[dict]) -> Table:
    lines = []
    for row in rows:
        series, accuracy = row["series"], row["accuracy"]
        places = [0, 1, len(series) // 4, len(series) // 2, len(series) - 1]
        lines.append([row["net"], row["seed"], *(f"{series[at]:,.0f} at {accuracy[at]:.1%}" for at in places)])
    columns = ["net", "seed", "before", "first epoch", "a quarter", "half", "end"]
    return Table("Total entropy (bits) and training accuracy", columns, lines)
