"""What a boost gains on real data, beside its controls: nets stopped early, in the middle, and annealed.

    python benchmarks/boosting.py --data-root data                          # some hours
    python benchmarks/boosting.py --data-root data --seeds 1 --limit 4000 --only mnist --output boosting-small.json
    python benchmarks/boosting.py --data-root data --timing --seeds 1       # only how long it takes
    python benchmarks/boosting.py --data-root data --timing --seeds 1 --peer    # beside scikit-learn too
    python benchmarks/boosting.py --quick --output boosting-quick.json      # a minute; checks that it runs

Writes benchmarks/boosting.json and the tables of docs/boost.md; nets that were measured before and are not asked for
stay. Each net is trained on the training set without a sixth (MNIST, Fashion-MNIST) or a fifth of its images, boosted on the
same images, chosen on those held out, and measured on the test set. A logistic regression on all hidden units is timed beside
it; with the first seed also one with four times as many steps, which the quicker one may need.
"""

import argparse
import functools
import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import sklearn
import torch
from _results import VERSIONS, made, publish
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import nn

import cofire
from cofire.controls import keep
from cofire.files import atomic
from cofire.hidden import Columns, columns_of, usual_features
from cofire.probes import RIDGES, residual_probes
from cofire.readings import Reader
from cofire.scoring import accuracy
from cofire.stacking import stacked

HERE = Path(__file__).resolve().parent
SHOWN = ("boosted", "last hidden layer", "all hidden layers by gradients", "one more epoch", "class scores alone", "paper")
CONTROLS = ("inputs", "random labels", "paper: predictions only", "paper: permuted units", "temperature")


def conv(seed: int) -> nn.Module:
    """Three blocks of convolution, normalisation and ReLU, and one fully connected layer."""
    torch.manual_seed(seed)
    blocks = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        blocks += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(128 * 16, 128), nn.ReLU(), nn.Linear(128, 10))


def zoo(name: str, classes: int | None = None):
    """Nets by name, by seed."""
    return lambda seed: cofire.zoo.model(name, classes=classes, seed=seed)


CELLS = {
    "mnist": ("mnist", {}, zoo("fcnn:784-512-512-10"), (1, 5), None),
    "mnist, annealed": ("mnist", {}, zoo("fcnn:784-512-512-10"), (5,), "cosine"),
    "mnist, to its end": ("mnist", {}, zoo("fcnn:784-512-512-10"), (20,), "cosine"),
    "fashion-mnist": ("fashion-mnist", {}, zoo("fcnn:784-512-512-10"), (1, 5), None),
    "fashion-mnist, annealed": ("fashion-mnist", {}, zoo("fcnn:784-512-512-10"), (5,), "cosine"),
    "fashion-mnist, to its end": ("fashion-mnist", {}, zoo("fcnn:784-512-512-10"), (20,), "cosine"),
    "cifar10": ("cifar10", {"channels": 1}, zoo("fcnn:1024-1024-1024-512-256-128-10"), (1, 5), None),
    "cifar10, convolutions": ("cifar10", {}, conv, (1, 3), None),
    "cifar10, VGG-16": ("cifar10", {}, zoo("zoo:vgg16_cifar", 10), (2,), None),
    "cifar10, ResNet-50": ("cifar10", {}, zoo("torchvision:resnet50", 10), (2, 8), None),
    "cifar100, ResNet-50": ("cifar100", {}, zoo("torchvision:resnet50", 100), (8,), None),
    "plantvillage, ResNet-50": ("plantvillage", {}, zoo("torchvision:resnet50", 14), (1, 4), None),
    "plantvillage, ResNet-50, more pictures": ("plantvillage", {}, zoo("torchvision:resnet50", 14), (1,), None),
    "plantvillage, ResNet-50, all pictures": ("plantvillage", {}, zoo("torchvision:resnet50", 14), (1,), None),
}
"""Data, how it is loaded, the net by seed, epochs after which it is boosted, and the schedule of the learning rate."""

STEPS, MORE = 25, 100
"""Of the regression, for each of five ridges: as in the controls of a boost, and with the first seed also more."""

QUICK = {"digits": ("digits", {}, zoo("fcnn:64-48-16-10"), (1,), None)}


def measured(cell: str, root, limit: int | None, seeds: int, timing: bool, beside: bool, say) -> tuple[list[dict], list[dict]]:
    """Rows of one cell, for a net of every seed, boosted after each of its epochs; and how long a boost takes, or only that."""
    name, how, build, stops, schedule = (CELLS | QUICK)[cell]
    images = cofire.data.load(name, "train", root=root, limit=limit, **how)
    few = limit if limit and limit < 10_000 else None
    test = cofire.data.load(name, "test", root=root, limit=few, clip=True, **how).batches(500)
    train, held = images.split(1 / 6 if "mnist" in name else 1 / 5, seed=0)
    train, held = (train, held) if len(train) > len(held) else (held, train)
    found, times, folder = [], [], Path(tempfile.mkdtemp())
    for seed in range(seeds):
        net = build(seed)
        for epochs in stops:  # of one training
            cofire.fit(net, train, epochs=epochs, seed=seed, schedule=schedule, checkpoints=folder / str(seed), progress=False)
            batches, validation = train.batches(500), held.batches(500)
            stats = cofire.record(net, batches, progress=False, histograms="none")
            kept = numbers_of(net, batches, validation, test, stats)
            regression = [rival(kept, steps) for steps in ((STEPS,) if seed else (STEPS, MORE))]
            times.append({"seed": seed, "epochs": epochs, **seconds_of(net, batches, validation, stats, seed),
                          "regressions": [each["seconds"] for each in regression]})  # fmt: skip
            if beside:
                times[-1]["peer"] = peer(kept)
            say(f"{cell}, {epochs} epochs, seed {seed}: {times[-1]}")
            if timing:
                continue
            boosted = cofire.boost(net, batches, stats, validation=validation, test=test, seed=seed, progress=False)
            table = boosted.summary()
            table = table[table.split == "test"].set_index("method")
            found.append({
                "cell": cell, "seed": seed, "epochs": epochs, "base": float(table.accuracy["model"]),
                "taken": boosted.record["decision"], "regressions": regression,
                "samples": len(train), "units": columns_for(stats, train).numbers, "features": columns_for(stats, train).width,
                "words": boosted.words,
                "methods": {
                    method: {
                        key: round(float(table[key][method]), 5)
                        for key in ("gain", "gain_low", "gain_high", "boost_minus", "boost_minus_low", "boost_minus_high",
                                    "loss_gain", "loss_gain_low", "loss_gain_high", "calibration_error")
                    }
                    for method in table.index
                },
            })  # fmt: skip
            row = found[-1]["methods"]["boosted"]
            say(f"{cell}, {epochs} epochs, seed {seed}: {found[-1]['base']:.4f} {row['gain']:+.4f}")
    shutil.rmtree(folder)
    return found, times


def seconds_of(net: nn.Module, batches, validation, stats, seed: int) -> dict[str, float]:
    """Processor time of a boost without its controls: of reading, which is the data and the model, and of all else."""
    spent, whole = [0.0], Reader.over

    def over(self, *given, **named):
        readings = whole(self, *given, **named)
        while True:
            start = time.process_time()
            reading = next(readings, None)
            spent[0] += time.process_time() - start
            if reading is None:
                return
            yield reading

    Reader.over, start = over, time.process_time()
    try:
        cofire.boost(net, batches, stats, validation=validation, controls=False, seed=seed, progress=False)
    finally:
        Reader.over = whole
    return {"seconds": round(time.process_time() - start - spent[0], 2), "read_seconds": round(spent[0], 2)}


def warm() -> None:
    """Import whatever a boost imports, before it is timed."""
    digits = cofire.data.load("digits")
    net, batches = cofire.zoo.model("fcnn:64-16-10", seed=0), list(digits.batches(500))
    cofire.boost(net, batches, cofire.record(net, batches, progress=False), validation=batches[:1], progress=False)


def columns_for(stats, data) -> Columns:
    """What a boost reads, if it is fitted to these data."""
    return columns_of(stats, list(stats), usual_features(len(data), sum(layer.units for layer in stats.values())))


def numbers_of(net: nn.Module, batches, validation, test, stats) -> dict[str, dict]:
    """All hidden units of each data set, held in memory, with the model's scores and the labels."""
    columns = columns_for(stats, batches.dataset)
    parts = {
        "numbers": lambda reading: columns.plain(reading.units, reading.firing), "scores": lambda reading: reading.logits,
        "labels": lambda reading: reading.labels,
    }  # fmt: skip
    kept = {}
    for name, data in (("held", validation), ("read", batches), ("test", test)):
        with Reader(net, stats) as reader:
            kept[name] = keep(reader, data, parts, stats.samples if name == "read" else 1, 0, False)[0]
    return kept


def rival(kept: dict[str, dict], steps: int) -> dict:
    """A logistic regression by gradients on all hidden units: its processor time, and its accuracy on test."""
    start = time.process_time()
    weights = residual_probes(*kept["read"].values(), steps=steps)
    seconds = round(time.process_time() - start, 2)
    held, tested = (
        [kept[name]["numbers"] @ each[:-1].float() + each[-1].float() for each in weights] for name in ("held", "test")
    )
    stack = stacked(kept["held"]["scores"], kept["held"]["labels"], held)
    right = accuracy(stack(kept["test"]["scores"], tested), kept["test"]["labels"])
    return {"steps": steps, "seconds": seconds, "accuracy": round(right, 5)}


def peer(kept: dict[str, dict]) -> dict:
    """scikit-learn's logistic regression as it comes, for the ridges of ours, of which held-out log-loss chooses."""
    x, labels = ({name: part[key].numpy() for name, part in kept.items()} for key in ("numbers", "labels"))
    seconds, found = 0.0, []
    for ridge in RIDGES:
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # at the end of its own 100 iterations
            fitted = LogisticRegression(C=1 / (ridge * len(x["read"]))).fit(x["read"], labels["read"])
        seconds += time.process_time() - start
        loss = float(-fitted.predict_log_proba(x["held"])[range(len(labels["held"])), labels["held"]].mean())
        found.append((loss, float(fitted.score(x["test"], labels["test"])), int(fitted.n_iter_.max())))
    return {
        "version": sklearn.__version__, "seconds": round(seconds, 2), "accuracy": round(min(found)[1], 5),
        "iterations": [each[2] for each in found],
    }  # fmt: skip


def page(result: dict) -> str:
    """The tables, in Markdown."""
    cells_ = result["cells"]
    found = [row for cell in cells_.values() for row in cell["rows"]]
    any_ = next(iter(cells_.values()))
    images = {name: f"{cell['limit']:,}" if cell["limit"] else "all" for name, cell in cells_.items()}
    lines = [
        f"`python benchmarks/boosting.py` with `--limit` as the column *images* says, {any_['date']}, {any_['machine']}, "
        f"torch {any_['torch']}; "
        "gains in points of test accuracy: mean "
        "over seeds, with the smallest and the largest.",
        "",
        f"| net | images | epochs | seeds | model | {' | '.join(SHOWN)} | taken |",
        f"| --- | --: | --: | --: | --: | {' | '.join('--:' for _ in SHOWN)} | --: |",
    ]
    groups: dict[tuple, list[dict]] = {}
    for row in found:
        groups.setdefault((row["cell"], row["epochs"]), []).append(row)
    for (cell, epochs), rows_ in groups.items():
        cells = [_gain([row["methods"].get(name, {}).get("gain") for row in rows_]) for name in SHOWN]
        taken = sum(row["taken"] == "auto" for row in rows_)
        base = 100 * sum(row["base"] for row in rows_) / len(rows_)
        lines.append(
            f"| {cell} | {images[cell]} | {epochs} | {len(rows_)} | {base:.2f} | {' | '.join(cells)} | "
            f"{taken} of {len(rows_)} |"
        )
    lines += [
        "",
        "How long the fit takes, for the first seed and over its epochs, in seconds of processor time: one reading of the "
        "fitting data and of the held-out data, which every way of fitting must do; the boost beyond that; and a logistic "
        "regression by gradients on all hidden units, held in memory, with five ridges and "
        f"{STEPS} or {MORE} steps for each. Then what share of the regression's time the boost takes, and how many "
        "points each gains.",
        "",
        f"| net | samples fitted | units | numbers fitted | reading | boost | {STEPS} steps | {MORE} steps | "
        f"share of {STEPS} | share of {MORE} | gain of {STEPS} | gain of {MORE} | gain of the boost |",
        "| --- |" + " --: |" * 12,
    ]
    for cell, held in cells_.items():
        times, first = held["timing"], [row for row in held["rows"] if row["seed"] == 0]
        once = [each for each in times if each["seed"] == 0]
        read, own = (_mean([each[key] for each in once]) for key in ("read_seconds", "seconds"))
        theirs = [_mean([each["regressions"][at] for each in once]) for at in (0, 1)]
        gains = [_mean([100 * (row["regressions"][at]["accuracy"] - row["base"]) for row in first]) for at in (0, 1)]
        gains.append(_mean([100 * row["methods"]["boosted"]["gain"] for row in first]))
        lines.append(
            f"| {cell} | {first[0]['samples']:,} | {first[0]['units']:,} | {first[0]['features']:,} | {read:.1f} | {own:.1f} | "
            + " | ".join([f"{each:.1f}" for each in theirs] + [f"{own / each:.2f}" for each in theirs])
            + " | " + " | ".join(f"{each:+.2f}" for each in gains) + " |"
        )  # fmt: skip
    asked = [(cell, each, held) for cell, held in cells_.items() for each in held["timing"] if "peer" in each]
    if asked:
        lines += [
            "",
            f"scikit-learn {asked[0][1]['peer']['version']}'s `LogisticRegression` as it comes, with at most 100 iterations, "
            "on the same units without the model's scores, for the same five ridges, of which held-out samples choose:",
            "",
            "| net | epochs | seconds | the boost's share | gain | gain of the boost |",
            "| --- | --: | --: | --: | --: | --: |",
        ]
    for cell, each, held in asked:
        row = next(row for row in held["rows"] if (row["seed"], row["epochs"]) == (each["seed"], each["epochs"]))
        lines.append(
            f"| {cell} | {each['epochs']} | {each['peer']['seconds']:.1f} | {each['seconds'] / each['peer']['seconds']:.2f} | "
            f"{100 * (each['peer']['accuracy'] - row['base']):+.2f} | {100 * row['methods']['boosted']['gain']:+.2f} |"
        )
    lines += [
        "",
        "What it is not:",
        "",
        f"| net | epochs | {' | '.join(CONTROLS)} |",
        f"| --- | --: | {' | '.join('--:' for _ in CONTROLS)} |",
    ]
    for (cell, epochs), rows_ in groups.items():
        cells = [_gain([row["methods"].get(name, {}).get("gain") for row in rows_]) for name in CONTROLS]
        lines.append(f"| {cell} | {epochs} | {' | '.join(cells)} |")
    lines += ["", "The boost against the linear probe of the last hidden layer, and the fall of the log-loss:", ""]
    lines += [
        "| net | epochs | more accurate by, each seed with its 95 % interval | log-loss falls by, nats |",
        "| --- | --: | --- | --- |",
    ]
    for (cell, epochs), rows_ in groups.items():
        against = [row["methods"]["last hidden layer"] for row in rows_]
        pairs = "; ".join(
            f"{100 * a['boost_minus']:+.2f} [{100 * a['boost_minus_low']:+.2f}, {100 * a['boost_minus_high']:+.2f}]"
            for a in against
        )
        falls = "; ".join(f"{row['methods']['boosted']['loss_gain']:.3f}" for row in rows_)
        lines.append(f"| {cell} | {epochs} | {pairs} | {falls} |")
    for method, words in (
        ("last hidden layer", "the linear probe of the last hidden layer"),
        ("all hidden layers by gradients", "the logistic regression by gradients on all hidden layers"),
    ):
        against = [row["methods"][method] for row in found]
        above = sum(each["boost_minus_low"] > 0 for each in against)
        below = sum(each["boost_minus_high"] < 0 for each in against)
        lines += [
            "",
            f"It is more accurate than {words} in {above} of {len(against)} nets by their intervals, less in {below}.",
        ]
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _gain(values: list) -> str:
    values = [100 * value for value in values if value is not None]
    if not values:
        return ""
    mean = f"{sum(values) / len(values):+.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):+.2f}, {max(values):+.2f})"


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--limit", type=int, help="images of each split; by default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=CELLS, help="these nets only; may be repeated")
    parser.add_argument("--timing", action="store_true", help="only time boost and regression; the other numbers stay")
    parser.add_argument("--peer", action="store_true", help="time scikit-learn's regression too")
    parser.add_argument("--quick", action="store_true", help="a small net on digits")
    parser.add_argument("--output", type=Path, default=HERE / "boosting.json")
    options = parser.parse_args()
    root = Path(options.data_root) if options.data_root else None
    warm()
    scaled = f" --limit {options.limit}" if options.limit else ""
    more = " --timing" * options.timing + " --peer" * options.peer
    for cell in QUICK if options.quick else options.only or CELLS:
        say = functools.partial(print, flush=True)
        rows_, times = measured(
            cell, root, options.limit, 1 if options.quick else options.seeds, options.timing, options.peer, say
        )
        result = json.loads(options.output.read_text()) if options.output.exists() else {"cells": {}}
        asked = made(f"boosting.py --seeds {options.seeds}{scaled} --only '{cell}'{more}")
        if not options.timing:
            result["cells"][cell] = {**asked, **VERSIONS, "limit": options.limit, "rows": rows_}
        result["cells"][cell] |= {"timing": times, "timed": asked["command"]}
        result["cells"] = {name: result["cells"][name] for name in CELLS | QUICK if name in result["cells"]}
        with atomic(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    result = json.loads(options.output.read_text())
    publish(result, page(result), options.output, "boosting", "boost.md")


if __name__ == "__main__":
    main()
