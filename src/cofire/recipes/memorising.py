"""An experiment of our own: which number tells a net that memorises from one that learns, from training data alone?"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofire import data, zoo
from cofire.detection import auroc, auroc_interval
from cofire.errors import InputError
from cofire.images import Images
from cofire.margins import Outputs, mean_accuracy, mean_loss, outputs
from cofire.rankings import granulated_kendall, kendall
from cofire.recipes.running import Finding, Found, Settings, Table
from cofire.recording import record
from cofire.scoring import accuracy, paired_interval
from cofire.trajectories import values_of

__all__ = ["run"]

_NOISE = (0.0, 0.2, 0.4, 1.0)
_WIDTHS, _DROPOUTS, _RATES = (128, 256), (0.0, 0.25), (1e-3, 3e-3)
_LEVELS = (0.5, 0.1, 0.03)
"""Training losses, in nats, at which nets are compared: the first epoch that reaches each."""

_SAMPLES, _EPOCHS, _BATCH = 2000, 120, 64
_WEAK, _STRONG = 0.7, 0.9
_NOTED = (
    "mutual_information_excess", "mutual_information", "davies_bouldin", "scatter_ratio", "participation_ratio",
    "softmax_entropy", "activation_entropy", "activation_entropy_total", "modularity_chen", "class_selectivity",
    "dormant_share", "inverse_margin", "weight_noise", "epochs",
)  # fmt: skip


def run(settings: Settings) -> Found:
    """Train a grid of small nets on partly random labels, stop each at the same losses, and compare what can be measured."""
    rows: list[dict] = []
    samples, epochs = settings.limit or _SAMPLES, settings.epochs or _EPOCHS
    for name in settings.only or ("mnist", "fashion-mnist", "cifar10"):
        grey = 1 if name == "cifar10" else None
        images = data.load(name, "train", root=settings.root, limit=samples, channels=grey)
        test = list(data.load(name, "test", root=settings.root, limit=settings.test_limit, channels=grey).batches(1000))
        for seed, noise, width, dropout, rate in itertools.product(range(settings.seeds), _NOISE, _WIDTHS, _DROPOUTS, _RATES):
            setting = {"data": name, "noise": noise, "width": width, "dropout": dropout, "rate": rate, "seed": seed}
            rows += [{**setting, **row} for row in _trained(_noisy(images, noise, seed), test, setting, epochs)]
        mine = [row for row in rows if row["data"] == name and row["level"] == _LEVELS[0]]
        settings.say(f"{name}: {len(mine)} of {settings.seeds * 32} nets reached a training loss of {_LEVELS[0]}")
    if not rows:
        raise InputError(
            f"no net reached a training loss of {_LEVELS[0]}", f"{epochs} epochs were too few", "Give --epochs more."
        )
    table = _compared(rows)
    scale = f"Fully connected nets with two hidden layers on {samples:,} training images, up to {epochs} epochs of Adam: "
    scale += "labels 0, 20, 40 or 100 % random, width 128 or 256, dropout 0 or 0.25, learning rate 0.001 or 0.003. No "
    scale += "convolutional nets."
    return Found(_findings(table), [_table(table)], scale, rows)


def _noisy(images: Images, noise: float, seed: int) -> tuple[Tensor, Tensor, int]:
    """Pictures and their labels, of which a share is drawn anew from all classes."""
    x = torch.cat([inputs for inputs, _ in images.batches(1000)])
    y, lots = images.labels.clone(), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=lots)[: round(noise * len(y))]
    y[chosen] = torch.randint(len(images.classes), (len(chosen),), generator=lots)
    return x, y, len(images.classes)


def _trained(task: tuple[Tensor, Tensor, int], test: list, setting: dict, epochs: int) -> list[dict]:
    """What one net gives when its training loss first reaches each level."""
    x, y, classes = task
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(setting["seed"])
        net = zoo.model(f"fcnn:{x[0].numel()}-{setting['width']}-{setting['width']}-{classes}", seed=setting["seed"])
        dropped = [net.get_submodule(name).register_forward_hook(_dropping(setting["dropout"])) for name in ("relu1", "relu2")]
        optimizer, rows = torch.optim.Adam(net.parameters(), setting["rate"]), []
        waiting = list(_LEVELS)
        for epoch in range(1, epochs + 1):
            net.train()
            for chosen in torch.randperm(len(x)).split(_BATCH):
                optimizer.zero_grad()
                F.cross_entropy(net(x[chosen]), y[chosen]).backward()
                optimizer.step()
            net.eval()
            seen = outputs(net, [(x, y)])
            while waiting and mean_loss(seen) <= waiting[0]:
                rows.append(_row(net, x, y, test, seen, waiting.pop(0), epoch))
            if not waiting:
                break
    for hook in dropped:
        hook.remove()
    return rows


def _dropping(share: float):
    return lambda module, _inputs, output: F.dropout(output, share, module.training)


def _row(net: nn.Module, x: Tensor, y: Tensor, test: list, seen: Outputs, level: float, epoch: int) -> dict:
    batches = list(zip(x.split(1000), y.split(1000), strict=True))
    stats = record(net, batches, progress=False, covariance=True, maps=False)
    values: dict[str, list[float]] = {}
    for (_, measure), value in values_of(stats, net, seen).items():
        values.setdefault(measure, []).append(value)
    found = {measure: sum(parts) / len(parts) for measure, parts in values.items()}
    found |= {"epochs": float(epoch), "weight_noise": _weight_noise(net, x, y), "train_accuracy": mean_accuracy(seen)}
    with torch.no_grad():
        scores = torch.cat([net(inputs) for inputs, _ in test])
    right = accuracy(scores, torch.cat([labels for _, labels in test]))
    kept = {measure: round(value, 6) for measure, value in sorted(found.items()) if math.isfinite(value)}
    return {"level": level, "test_accuracy": round(right, 4), "values": kept}


def _weight_noise(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """The largest noise, relative to each weight's size, under which training accuracy falls by at most ten points on "
    "average."""
    with torch.no_grad():
        before, base = [p.clone() for p in net.parameters()], accuracy(net(x), y)
        low, high = 0.0, 2.0
        for _ in range(6):
            middle, lost = (low + high) / 2, 0.0
            for draw in range(3):
                lots = torch.Generator().manual_seed(draw)
                for p, value in zip(net.parameters(), before, strict=True):
                    p.copy_(value + middle * value.abs() * torch.randn(value.shape, generator=lots))
                lost += (base - accuracy(net(x), y)) / 3
            low, high = (middle, high) if lost <= 0.1 else (low, middle)
        for p, value in zip(net.parameters(), before, strict=True):
            p.copy_(value)
    return low


def _compared(rows: list[dict]) -> list[dict]:
    """For every number: AUROC of clean against noisy labels at each loss, and ranks with test accuracy."""
    found = []
    for measure in dict.fromkeys(name for row in rows for name in row["values"]):
        held = [row for row in rows if measure in row["values"]]
        line: dict = {"measure": measure}
        areas = {}
        for level in _LEVELS:
            mine = [row for row in held if row["level"] == level]
            areas[level] = _area(mine, measure)
            line[f"auroc {level}"] = areas[level]
        known = [area for area, _, _ in areas.values() if not math.isnan(area)]
        if not known:
            continue
        line["sign"] = 1 if sum(known) / len(known) >= 0.5 else -1
        middle = [row for row in held if row["level"] == 0.1]
        line["auroc 20 %"] = _area([row for row in middle if row["noise"] in (0.0, 0.2)], measure)
        line["kendall"] = kendall([row["values"][measure] for row in middle], [row["test_accuracy"] for row in middle])
        names = dict.fromkeys(row["data"] for row in middle)
        tasks = [_within(middle, measure, name, noise) for name in names for noise in _NOISE]
        tasks = [value for value in tasks if not math.isnan(value)]
        line["granulated"] = sum(tasks) / len(tasks) if tasks else math.nan
        ends = paired_interval(torch.tensor(tasks)) if len(tasks) > 1 else (math.nan, math.nan)
        line["granulated_low"], line["granulated_high"] = ends
        found.append(line)
    return found


def _area(rows: list[dict], measure: str) -> tuple[float, float, float]:
    """AUROC of "larger means clean", and its interval."""
    scores = torch.tensor([row["values"][measure] for row in rows], dtype=torch.float64)
    clean = torch.tensor([row["noise"] == 0 for row in rows], dtype=torch.bool)
    if not len(rows) or clean.all() or not clean.any():
        return math.nan, math.nan, math.nan
    return auroc(scores, clean), *auroc_interval(scores, clean)


def _within(rows: list[dict], measure: str, name: str, noise: float) -> float:
    """Granulated tau with test accuracy over width, dropout and rate, among nets of one task."""
    mine = [row for row in rows if row["data"] == name and row["noise"] == noise]
    if len(mine) < 4:
        return math.nan
    grid = [{key: row[key] for key in ("width", "dropout", "rate")} for row in mine]
    return granulated_kendall([row["values"][measure] for row in mine], [row["test_accuracy"] for row in mine], grid).mean


def _turned(line: dict, key: str) -> float:
    """An AUROC in the direction that the measure has over all losses."""
    value = line[key][0]
    return value if line["sign"] > 0 else 1 - value


def _findings(table: list[dict]) -> list[Finding]:
    by_name = {line["measure"]: line for line in table}
    found = []
    keys = [f"auroc {level}" for level in _LEVELS]

    def areas(name: str) -> tuple[list[float], str]:
        values = [_turned(by_name[name], key) for key in keys]
        return values, ", ".join(f"{value:.2f}" for value in values)

    if "mutual_information_excess" in by_name:
        values, text = areas("mutual_information_excess")
        rivals = [name for name in ("davies_bouldin", "scatter_ratio", "participation_ratio") if name in by_name]
        beside = "; ".join(f"{name} {areas(name)[1]}" for name in rivals)
        verdict = "holds" if min(values) >= _STRONG and by_name["mutual_information_excess"]["sign"] > 0 else "does not hold"
        found.append(
            Finding("The excess of mutual information tells true labels from partly random ones.", verdict,
                    f"AUROC {text} at training losses of {', '.join(map(str, _LEVELS))}. Beside it: {beside}. So it is no "
                    "better "
                    "than these where they are as large.")
        )  # fmt: skip
    for name in ("activation_entropy", "activation_entropy_total"):
        if name in by_name:
            values, text = areas(name)
            weak = abs(by_name[name]["granulated"]) < 0.3
            found.append(
                Finding(f"{name} is no score of quality.", "holds" if weak and min(values) < _STRONG else "does not hold",
                        f"AUROC {text}; granulated tau with test accuracy {by_name[name]['granulated']:+.2f}.")
            )  # fmt: skip
    if "softmax_entropy" in by_name:
        line = by_name["softmax_entropy"]
        both = line["sign"] * line["granulated"]
        found.append(
            Finding("Softmax entropy reverses: what means clean between tasks means worse within one.",
                    "holds" if both < -0.1 else "does not hold",
                    f"Clean nets have {'higher' if line['sign'] > 0 else 'lower'} values (AUROC "
                    f"{areas('softmax_entropy')[1]}); within a task its "
                    f"granulated tau with test accuracy is {line['granulated']:+.2f}.")
        )  # fmt: skip
    strong = [line["measure"] for line in table if min(_turned(line, key) for key in keys) >= _STRONG]
    found.append(
        Finding("(How hard is the question?)", "easy" if len(strong) > 4 else "hard",
                f"{len(strong)} of {len(table)} numbers have an AUROC of at least {_STRONG} at every loss: "
                f"{', '.join(strong) or 'none'}.")
    )  # fmt: skip
    ranked = sorted(
        (line for line in table if line["granulated"] == line["granulated"]), key=lambda line: -abs(line["granulated"])
    )
    best = ", ".join(f"{line['measure']} {line['granulated']:+.2f}" for line in ranked[:5])
    found.append(
        Finding("(Which ranks nets of one task by test accuracy?)", "the largest of many",
                f"Granulated tau over width, dropout and learning rate: {best}. Largest of {len(ranked)}: some of it is "
                "chance.")
    )  # fmt: skip
    return found


def _table(table: list[dict]) -> Table:
    def area(line: dict, key: str) -> str:
        value, low, high = line[key]
        if math.isnan(value):
            return "-"
        low, high, value = (low, high, value) if line["sign"] > 0 else (1 - high, 1 - low, 1 - value)
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    def granulated(line: dict) -> str:
        return f"{line['granulated']:+.2f} [{line['granulated_low']:+.2f}, {line['granulated_high']:+.2f}]"

    lines = [
        [line["measure"], "higher" if line["sign"] > 0 else "lower", *(area(line, f"auroc {level}") for level in _LEVELS),
         area(line, "auroc 20 %"), round(line["kendall"], 2), granulated(line)]
        for line in sorted(table, key=lambda line: (line["measure"] not in _NOTED, -_turned(line, "auroc 0.1")))
    ]  # fmt: skip
    columns = ["number", "clean is", *(f"AUROC at {level}" for level in _LEVELS), "20 % at 0.1", "Kendall with test accuracy",
               "granulated"]  # fmt: skip
    note = "Clean against any share of random labels, one threshold for all data; in brackets 95 % intervals by DeLong. "
    note += "Kendall and "
    note += "granulated tau at a loss of 0.1; the granulated one over width, dropout and rate within a task, with an "
    note += "interval over tasks. "
    note += "Numbers of layers are averaged over them."
    return Table("Every number", columns, lines, note)
