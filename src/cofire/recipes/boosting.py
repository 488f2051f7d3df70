"""Paper 000 again: the auxiliary net on firing patterns, checkpoint by checkpoint, with its controls."""

import math

import torch

from cofire import data, zoo
from cofire.boosting import boost
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.recording import record
from cofire.scoring import accuracy
from cofire.training import fit
from cofire.weights import load_weights
from cofire.wrappers import evaluating

__all__ = ["run"]

_NETS = {
    "mnist": ("mnist", "zoo:001-mnist", 1.5), "fashion-mnist": ("fashion-mnist", "zoo:001-fashion-mnist", 0.4),
    "cifar10": ("cifar10", "zoo:001-cifar10", 5.4),
}  # fmt: skip
"""Data, net, and the paper's average gain in test accuracy in points (tables 2 and 3)."""

_ROWS = (
    "paper",
    "paper: predictions only",
    "paper: permuted units",
    "class scores alone",
    "last hidden layer",
    "one more epoch",
    "boosted",
)


def run(settings: Settings) -> Found:
    """Train the nets, and boost checkpoints of each by the paper's net and by ours, all controls beside them."""
    epochs, rows = settings.epochs or 20, []
    at = sorted({1, 2, 5, 10, 15, 20} & set(range(1, epochs + 1)) | {epochs})
    for name, (source, net_name, _) in _NETS.items():
        if settings.only is not None and name not in settings.only:
            continue
        grey = 1 if source == "cifar10" else None
        images = data.load(source, "train", root=settings.root, limit=settings.limit, channels=grey)
        test = data.load(source, "test", root=settings.root, limit=settings.test_limit, channels=grey).batches(500)
        held, train = images.split(1 / 6, seed=0)
        for seed in range(settings.seeds):
            folder, net = settings.folder / f"{name}-{seed}", zoo.model(net_name, seed=seed)
            fit(net, train, epochs=epochs, seed=seed, checkpoints=folder, progress=False)
            for epoch in at:
                load_weights(net, folder / f"epoch-{epoch:03d}.safetensors", ignore=("optimizer.", "history.", "rng."))
                rows.append({"net": name, "seed": seed, "epoch": epoch, **_boosted(net, train, held, test, seed)})
                settings.say(
                    f"{name}, seed {seed}, epoch {epoch}: {rows[-1]['base']:.2%}, paper "
                    f"{100 * rows[-1]['gains']['paper']:+.2f} points"
                )
    pictures = f"{settings.limit:,}" if settings.limit else "all"
    scale = f"Fully connected nets of 001 table 1 on {pictures} training pictures less a sixth that chooses; {epochs} "
    scale += "epochs of Adam at 1e-3; "
    scale += f"checkpoints {', '.join(map(str, at))} of the paper's 20. No ResNet-50, VGG-16 or Inception-v3: they need a GPU."
    return Found(_findings(rows), _tables(rows), scale, rows)


def _boosted(net, train, held, test, seed: int) -> dict:
    batches = train.batches(500)
    stats = record(net, batches, progress=False, histograms="none", covariance=False)
    found = boost(net, batches, stats, held.batches(500), test=test, seed=seed, progress=False)
    table = found.summary()
    table = table[table["split"] == "test"].set_index("method")
    two = boost(
        net,
        batches,
        stats,
        held.batches(500),
        "paper",
        layers=min(2, len(stats)),
        test=test,
        controls=False,
        seed=seed,
        progress=False,
    )
    last_two = two.summary().query("split == 'test' and method == 'boosted'")["gain"].iloc[0]
    return {
        "base": float(table.accuracy["model"]), "with_dropout": _with_dropout(net, test, seed),
        "decision": found.record["decision"],
        "gains": {
            **{name: round(float(table.gain[name]), 5) for name in table.index},
            "paper, last two layers": round(float(last_two), 5),
        },
        "loss_gains": {name: round(float(table.loss_gain[name]), 5) for name in table.index},
    }  # fmt: skip


def _with_dropout(net, batches, seed: int) -> float:
    """Accuracy with dropout left on, as a model that was never put into eval mode has."""
    parts, labels = [], []
    with evaluating(net), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net.train()
        for inputs, truth in batches:
            parts.append(net(inputs))
            labels.append(truth)
    return accuracy(torch.cat(parts), torch.cat(labels))


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
    nets = list(dict.fromkeys(row["net"] for row in rows))
    lines = [f"{net} {mean_and_range(_average(rows, net, 'paper'))} (the paper: {_NETS[net][2]})" for net in nets]
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
    lost = {net: [100 * (row["base"] - row["with_dropout"]) for row in rows if row["net"] == net] for net in nets}
    parts = "; ".join(f"{net} {mean_and_range(values)}" for net, values in lost.items())
    enough = sum(_mean(values) >= _NETS[net][2] / 2 for net, values in lost.items())
    found.append(
        Finding("(The paper's base may have been scored with dropout on.)",
                "possible" if 2 * enough >= len(nets) else "not enough",
                f"Points that dropout costs at the same checkpoints: {parts}. It costs at least half of the paper's gain in "
                f"{enough} of {len(nets)} data sets.")
    )  # fmt: skip
    return found


def _tables(rows: list[dict]) -> list[Table]:
    tables = []
    for net in dict.fromkeys(row["net"] for row in rows):
        mine = [row for row in rows if row["net"] == net]
        lines = []
        for epoch in sorted({row["epoch"] for row in mine}):
            here = [row for row in mine if row["epoch"] == epoch]
            gains = [mean_and_range([100 * row["gains"].get(name, math.nan) for row in here]) for name in _ROWS]
            base = [mean_and_range([100 * row[key] for row in here]) for key in ("base", "with_dropout")]
            lines.append([epoch, *base, *gains])
        averages = [mean_and_range(_average(rows, net, name)) for name in _ROWS]
        lines.append(["average", "", "", *averages])
        note = f"Test accuracy in per cent and gains in points. The paper's average gain is {_NETS[net][2]}. *boosted* is "
        note += "`cofire.boost`."
        tables.append(Table(net, ["epoch", "model", "dropout on", *_ROWS], lines, note))
    return tables
