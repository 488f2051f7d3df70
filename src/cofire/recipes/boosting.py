"""Paper 000 again: the auxiliary net on firing patterns, checkpoint by checkpoint, with its controls."""

import math
import warnings
from collections.abc import Iterable

import torch
from torch import nn

from cofire import data, zoo
from cofire.boosting import boost
from cofire.errors import CofireWarning
from cofire.images import Images
from cofire.recipes.following import NETS, Net, all_rows, by_net, load_checkpoint, origin
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.recording import record
from cofire.scoring import accuracy
from cofire.training import fit
from cofire.wrappers import evaluating

__all__ = ["run"]

_NETS = NETS | {"vgg16-cifar10": Net("cifar10", "zoo:vgg16_cifar", (50_000, 10_000), limit=2_000, epochs=10, batch=32)}
_CLAIMED = {
    "mnist": 1.5, "fashion-mnist": 0.4, "cifar10": 5.4, "vgg16-cifar10": 0.6, "resnet50-cifar10": 1.1,
    "resnet50-plantvillage": 2.9, "inception-v3-cifar100": 1.0,
}  # fmt: skip
"""The paper's average gain in test accuracy in points (tables 2 and 3)."""

_ROWS = (
    "paper",
    "paper: predictions only",
    "paper: permuted units",
    "class scores alone",
    "last hidden layer",
    "one more epoch",
    "boosted",
)

_SCALE = (
    "The paper's nets, trained with Adam at 1e-3; a sixth of the training pictures is held out and chooses, the statistics "
    "are those of the others. Every epoch is a checkpoint, 20 as in the paper; of deep nets 1, 2, 5 and 10 of ten. The fully "
    "connected nets are those of 001 table 1. The auxiliary net reads the product of equation 16 as it is printed, where "
    "`cofire.boost(method='paper')` scales it to sum one. Deep nets are scaled down to what one core bears: see the last table."
)


def run(settings: Settings) -> Found:
    """Train the nets, and boost checkpoints of each by the paper's net and by ours, all controls beside them."""
    new: list[dict] = []
    for name in _CLAIMED:
        if settings.only is not None and name not in settings.only:
            continue
        net = _NETS[name]
        limit = settings.limit or net.limit
        images, test = (
            data.load(net.data, part, root=settings.root, limit=most, channels=net.channels, size=net.size)
            for part, most in (("train", limit), ("test", limit if limit and limit < net.pictures[1] else None))
        )
        held, train = images.split(1 / 6, seed=0)
        for seed in range(settings.seeds):
            new += _trained(settings, name, net, seed, (train, held, test))
    rows = all_rows(settings, new, list(_CLAIMED))
    return Found(_findings(rows), [*_tables(rows), _made(rows)], _SCALE, rows)


def _trained(settings: Settings, name: str, net: Net, seed: int, images: tuple[Images, Images, Images]) -> list[dict]:
    """A row for each of the checkpoints of one training."""
    train, held, test = images
    epochs, folder = settings.epochs or net.epochs, settings.folder / f"{name}-{seed}"
    model = zoo.model(net.model, classes=len(train.classes), seed=seed)
    fit(model, train, epochs=epochs, batch_size=net.batch, seed=seed, checkpoints=folder, progress=False)
    rows = []
    every = range(1, epochs + 1)
    for epoch in every if net.limit is None else sorted({1, 2, epochs // 2, epochs} & set(every)):
        load_checkpoint(model, folder / f"epoch-{epoch:03d}.safetensors")
        row = _boosted(model, train, held, test, seed)
        rows.append({"net": name, "seed": seed, "epoch": epoch, "made": origin(settings, train, test, model), **row})
        settings.say(f"{name}, seed {seed}, epoch {epoch}: {row['base']:.2%}, paper {100 * row['gains']['paper']:+.2f} points")
    return rows


def _boosted(net: nn.Module, train: Images, held: Images, test: Images, seed: int) -> dict:
    batches, chosen, unseen = train.batches(250), held.batches(250), test.batches(250)
    stats = record(net, batches, progress=False, histograms="none", covariance=False)
    found = boost(net, batches, stats, chosen, test=unseen, scaled=False, seed=seed, progress=False)
    table = found.summary().query("split == 'test'").set_index("method")
    gains, base = {name: float(table.gain[name]) for name in table.index}, {}
    for name, layers, over in (("paper, last two layers", 2, unseen), ("paper, on training data", 1, batches)):
        asked = {"layers": min(layers, len(stats)), "test": over, "scaled": False, "controls": False, "seed": seed}
        with warnings.catch_warnings(category=CofireWarning, action="ignore"):  # of what is measured on training data
            paper = boost(net, batches, stats, chosen, "paper", **asked, progress=False).summary()
        paper = paper.query("split == 'test'").set_index("method")
        gains[name], base[name] = float(paper.gain["boosted"]), float(paper.accuracy["model"])
    return {
        "base": float(table.accuracy["model"]), "base_on_training": base["paper, on training data"],
        "with_dropout": _with_dropout(net, unseen, seed), "decision": found.record["decision"],
        "gains": {name: round(value, 5) for name, value in gains.items()},
        "loss_gains": {name: round(float(table.loss_gain[name]), 5) for name in table.index},
    }  # fmt: skip


def _with_dropout(net: nn.Module, batches: Iterable, seed: int) -> float:
    """Accuracy with dropout left on, as a model that was never put into eval mode has; NaN without dropout."""
    parts, labels = [], []
    droppers = [module for module in net.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    with evaluating(net), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in droppers:
            module.train()
        for inputs, truth in batches:
            parts.append(net(inputs))
            labels.append(truth)
    return accuracy(torch.cat(parts), torch.cat(labels)) if droppers else math.nan


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def _average(rows: list[dict], net: str, method: str) -> list[float]:
    """Average gain over checkpoints in points, by seed."""
    mine = [row for row in rows if row["net"] == net]
    return [
        100 * _mean(row["gains"].get(method, math.nan) for row in mine if row["seed"] == seed)
        for seed in sorted({row["seed"] for row in mine})
    ]


def _findings(rows: list[dict]) -> list[Finding]:
    nets = list(by_net(rows))
    lines = [f"{net} {mean_and_range(_average(rows, net, 'paper'))} (the paper: {_CLAIMED[net]})" for net in nets]
    better = [value > 0 for net in nets for value in _average(rows, net, "paper")]
    found = [Finding("The auxiliary net raises test accuracy.", verdict_of(sum(better), len(better)),
                     f"Average over checkpoints, in points: {'; '.join(lines)}.")]  # fmt: skip
    for control, claim in (
        ("paper: permuted units", "its units in another order"),
        ("paper: predictions only", "no firing at all"),
    ):
        leads = [
            mine - other
            for net in nets
            for mine, other in zip(_average(rows, net, "paper"), _average(rows, net, control), strict=True)
        ]
        held = sum(lead > 0.1 for lead in leads)
        found.append(
            Finding(f"The gain comes from the firing pattern: more than with {claim}.", verdict_of(held, len(leads)),
                    f"It is ahead by {mean_and_range(leads)} points, and by more than a tenth of a point in {held} of "
                    f"{len(leads)} trainings.")
        )  # fmt: skip
    linear = [
        mine - other
        for net in nets
        for mine, other in zip(_average(rows, net, "paper"), _average(rows, net, "last hidden layer"), strict=True)
    ]
    found.append(
        Finding("(It is more than a linear probe of the last hidden layer.)",
                verdict_of(sum(lead > 0 for lead in linear), len(linear)),
                f"It is ahead by {mean_and_range(linear)} points on average.")
    )  # fmt: skip
    two = [
        a - b
        for net in nets
        for a, b in zip(_average(rows, net, "paper, last two layers"), _average(rows, net, "paper"), strict=True)
    ]
    close = sum(abs(value) < 0.2 for value in two)
    found.append(
        Finding("The last layer gives about what the last two give (table 4).", verdict_of(close, len(two)),
                f"Two layers are ahead by {mean_and_range(two)} points; within 0.2 in {close} of {len(two)} trainings.")
    )  # fmt: skip
    lost = {
        net: [100 * (row["base"] - row["with_dropout"]) for row in group]
        for net, group in by_net(rows).items() if not math.isnan(group[0]["with_dropout"])
    }  # fmt: skip
    parts = "; ".join(f"{net} {mean_and_range(values)}" for net, values in lost.items())
    enough = sum(_mean(values) >= _CLAIMED[net] / 2 for net, values in lost.items())
    found.append(
        Finding("(The paper's base may have been scored with dropout on.)",
                "possible" if 2 * enough >= max(len(lost), 1) else "not enough",
                f"Points that dropout costs at the same checkpoints: {parts}. It costs at least half of the paper's gain in "
                f"{enough} of {len(lost)} nets that have dropout.")
    )  # fmt: skip
    return found


def _tables(rows: list[dict]) -> list[Table]:
    tables, shown = [], (*_ROWS, "paper, on training data")
    for net, mine in by_net(rows).items():
        lines = []
        for epoch in sorted({row["epoch"] for row in mine}):
            here = [row for row in mine if row["epoch"] == epoch]
            columns = [[100 * row.get(key, math.nan) for row in here] for key in ("base", "with_dropout", "base_on_training")]
            columns += [[100 * row["gains"].get(name, math.nan) for row in here] for name in shown]
            lines.append([epoch, *map(mean_and_range, columns)])
        averages = [mean_and_range(_average(rows, net, name)) for name in shown]
        lines.append(["average", "", "", "", *averages])
        note = f"Test accuracy in per cent and gains in points. The paper's average gain is {_CLAIMED[net]}. *boosted* is "
        note += "`cofire.boost`."
        tables.append(Table(net, ["epoch", "model", "dropout on", "model, on training data", *shown], lines, note))
    return tables


def _made(rows: list[dict]) -> Table:
    lines = [
        [net, _NETS[net].model, how["shape"], f"{how['pictures']:,}", f"{how['tests']:,}",
         len({row["seed"] for row in group}), f"`{how['command']}`", f"{how['date']}, torch {how['torch']}"]
        for net, group in by_net(rows).items() for how in [group[0]["made"]]
    ]  # fmt: skip
    columns = ["net", "model", "pictures of", "to train and fit", "to test", "seeds", "command", "made"]
    return Table("How each net was trained", columns, lines)
