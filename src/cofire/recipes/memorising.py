"""An experiment of our own: which number tells a net that memorises from one that learns, from training data alone?"""

import itertools
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofire import data, zoo
from cofire.errors import InputError
from cofire.files import atomic
from cofire.firing import live_units
from cofire.images import Images
from cofire.information import mutual_information_excess
from cofire.margins import Outputs, mean_accuracy, mean_loss, outputs
from cofire.nets import seeded
from cofire.recipes.running import Found, Settings
from cofire.recipes.telling import FAMILIES, STOPS, compared, findings, tables
from cofire.recording import record
from cofire.scoring import accuracy
from cofire.stats import FiringStats
from cofire.trajectories import ALL, values_of

__all__ = ["run"]

_NOISE = (0.0, 0.2, 0.4, 1.0)
_WIDTHS, _DROPOUTS, _RATES = (128, 256), (0.0, 0.25), (1e-3, 3e-3)
_SAMPLES, _EPOCHS, _BATCH = 1000, 200, 64
_KEYS = ("data", "family", "noise", "width", "dropout", "rate", "seed")
_CHUNK = 250  # pictures in a forward pass: a convolution's activations then stay in the cache

Batches = Sequence[tuple[Tensor, Tensor]]


def run(settings: Settings) -> Found:
    """Train a grid of small nets on partly random labels, stop each at the same points, and compare what can be measured."""
    samples, epochs = settings.limit or _SAMPLES, settings.epochs or _EPOCHS
    grid = list(itertools.product(range(settings.seeds), FAMILIES, _NOISE, _WIDTHS, _DROPOUTS, _RATES))
    rows: list[dict] = []
    names = settings.only or ("mnist", "fashion-mnist", "cifar10")
    for name in names:
        grey = 1 if name == "cifar10" else None
        train = data.load(name, "train", root=settings.root, limit=samples, channels=grey)
        test = data.load(name, "test", root=settings.root, limit=settings.test_limit, channels=grey)
        folder = settings.folder / f"{name}-{len(train)}-{len(test)}-{epochs}"
        x, tested = _standardised(train, test)
        for seed, *chosen in grid:
            setting: dict = dict(zip(_KEYS, (name, *chosen, seed), strict=True))
            file = folder / f"{'-'.join(map(str, (*chosen, seed)))}.json"
            if not file.exists():
                y = _labels(train, setting["noise"], seed)
                _keep(file, _trained(x, y, len(train.classes), tested, setting, epochs))
            mine = json.loads(file.read_text("utf8"))
            rows += [{**setting, **row} for row in mine]
            words = ", ".join(f"{key} {value}" for key, value in setting.items())
            settings.say(f"{words}: {len(mine)} of {len(STOPS)} stops")
    if not rows:
        raise InputError(
            f"no net reached the first of the stops, {STOPS[0]}", f"{epochs} epochs were too few", "Give --epochs more."
        )
    scopes = compared(rows)
    count = len({tuple(row[key] for key in _KEYS) for row in rows})
    scale = f"{count} nets that reached a stop, each trained on {samples:,} grey, standardised pictures for up to {epochs} "
    scale += f"epochs of Adam: labels 0, 20, 40 or 100 % random; width {_or(_WIDTHS)}, dropout {_or(_DROPOUTS)}, learning rate "
    scale += f"{_or(_RATES)}. Fully connected nets have two hidden layers of that width. Convolutional ones have a 5x5 "
    scale += "convolution of stride 2 with a sixteenth of the width as channels, a pooling, a 3x3 convolution with an eighth, "
    scale += "and a hidden linear layer of the width, the only one with dropout."
    return Found(findings(scopes, rows), tables(scopes, rows, len(grid) * len(names)), scale, _columns(rows))


def _or(values: tuple) -> str:
    return " or ".join(map(str, values))


def _standardised(train: Images, test: Images) -> tuple[Tensor, Batches]:
    """Training pictures with mean 0 and deviation 1, and test batches by the same numbers; else CIFAR-10 is hardly fitted."""
    x = torch.cat([inputs for inputs, _ in train.batches(1000)])
    mean, deviation = x.mean(), x.std()
    return (x - mean) / deviation, [((inputs - mean) / deviation, labels) for inputs, labels in test.batches(_CHUNK)]


def _labels(train: Images, noise: float, seed: int) -> Tensor:
    """Labels of which a share is drawn anew from all classes."""
    y, lots = train.labels.clone(), torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(y), generator=lots)[: round(noise * len(y))]
    y[chosen] = torch.randint(len(train.classes), (len(chosen),), generator=lots)
    return y


def _keep(file: Path, rows: list[dict]) -> None:
    with atomic(file) as temporary:
        temporary.write_text(json.dumps(rows, allow_nan=False) + "\n", "utf8")


def _columns(rows: list[dict]) -> dict:
    """Every net at every stop as a table, which is a third as long as a list of dictionaries."""
    keys = (*_KEYS, "stop", "test_accuracy")
    names = sorted({name for row in rows for name in row["values"]})
    return {"columns": [*keys, *names], "rows": [[*(row[key] for key in keys), *map(row["values"].get, names)] for row in rows]}


def _net(family: str, side: int, classes: int, setting: dict) -> nn.Module:
    """A small net for grey pictures of this side."""
    width, dropout, seed = setting["width"], setting["dropout"], setting["seed"]
    if family == "fcnn":
        return zoo.fcnn((width, width), side * side, classes, dropout=dropout, seed=seed)
    channels = width // 16
    with seeded(seed):
        layers = {
            "conv1": nn.Conv2d(1, channels, 5, stride=2, padding=2), "conv_relu1": nn.ReLU(), "pool1": nn.MaxPool2d(2),
            "conv2": nn.Conv2d(channels, 2 * channels, 3, padding=1), "conv_relu2": nn.ReLU(), "flatten": nn.Flatten(),
            "fc1": nn.Linear(2 * channels * (side // 4) ** 2, width), "relu1": nn.ReLU(), "dropout1": nn.Dropout(dropout),
            "head": nn.Linear(width, classes),
        }  # fmt: skip
    return nn.Sequential(OrderedDict(layers))


def _trained(x: Tensor, y: Tensor, classes: int, test: Batches, setting: dict, epochs: int) -> list[dict]:
    """What one net gives the first time that it reaches each stop."""
    batches = list(zip(x.split(_CHUNK), y.split(_CHUNK), strict=True))
    per_epoch = math.ceil(len(x) / _BATCH)
    rows: list[dict] = []
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(setting["seed"])
        net = _net(setting["family"], x.shape[-1], classes, setting)
        optimizer = torch.optim.Adam(net.parameters(), setting["rate"])
        waiting, step, due = list(STOPS), 0, 1
        for _ in range(epochs):
            for chosen in torch.randperm(len(x)).split(_BATCH):
                net.train()
                optimizer.zero_grad()
                F.cross_entropy(net(x[chosen]), y[chosen]).backward()
                optimizer.step()
                step += 1
                if step < due:
                    continue
                # Often enough that no net is far beyond a stop, also where an epoch changes much.
                due = step + max(1, min(per_epoch // 4, step // 16))
                seen = outputs(net.eval(), batches)
                for stop in [stop for stop in waiting if _reached(stop, seen)]:
                    waiting.remove(stop)
                    rows.append({"stop": stop, **_measured(net, batches, test, seen, step / per_epoch)})
                if not waiting:
                    return rows
    return rows


def _reached(stop: str, seen: Outputs) -> bool:
    of, value = stop.split()
    return mean_loss(seen) <= float(value) if of == "loss" else mean_accuracy(seen) >= float(value)


def _measured(net: nn.Module, batches: Batches, test: Batches, seen: Outputs, epochs: float) -> dict:
    stats = record(net, batches, progress=False, covariance=True, maps=False)
    whole: dict[str, float] = {
        "epochs": epochs,
        "weight_noise": _weight_noise(net, batches),
        "mutual_information_excess_total": _excess(stats),
    }
    layers: dict[str, list[float]] = {}
    for (layer, name), value in values_of(stats, net, seen).items():
        if layer == ALL:
            whole[name] = value
        else:
            layers.setdefault(name, []).append(value)
    found = {name: sum(values) / len(values) for name, values in layers.items()} | whole
    kept = {name: float(f"{value:.5g}") for name, value in sorted(found.items()) if math.isfinite(value)}
    return {"test_accuracy": round(_accuracy(net, test), 4), "values": kept}


def _excess(stats: FiringStats) -> float:
    """Sum over the live units of all layers of what their firing tells about the class beyond chance, in bits."""
    return sum(float(mutual_information_excess(layer)[live_units(layer)].sum()) for layer in stats.values())


@torch.no_grad()
def _accuracy(net: nn.Module, batches: Batches) -> float:
    return accuracy(torch.cat([net(inputs) for inputs, _ in batches]), torch.cat([labels for _, labels in batches]))


def _weight_noise(net: nn.Module, batches: Batches) -> float:
    """The largest noise, relative to each weight's size, under which accuracy falls by at most ten points on average."""
    before, base = [p.detach().clone() for p in net.parameters()], _accuracy(net, batches)
    low, high = 0.0, 2.0
    with torch.no_grad():
        for _ in range(6):
            middle, lost = (low + high) / 2, 0.0
            for draw in range(3):
                lots = torch.Generator().manual_seed(draw)
                for p, value in zip(net.parameters(), before, strict=True):
                    p.copy_(value + middle * value.abs() * torch.randn(value.shape, generator=lots))
                lost += (base - _accuracy(net, batches)) / 3
            low, high = (middle, high) if lost <= 0.1 else (low, middle)
        for p, value in zip(net.parameters(), before, strict=True):
            p.copy_(value)
    return low
