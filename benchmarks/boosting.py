"""What a boost gains on real data, beside its controls: nets stopped early, in the middle, and annealed.

    python benchmarks/boosting.py --data-root data                          # about an hour
    python benchmarks/boosting.py --data-root data --seeds 1 --limit 4000 --only mnist --output boosting-small.json
    python benchmarks/boosting.py --quick --output boosting-quick.json      # a minute; checks that it runs

Writes benchmarks/boosting.json and the tables of docs/boost.md; nets that were measured before and are not asked for
stay. Each net is trained on the training set without 10,000 images,
boosted on the same images, chosen on the 10,000 held out, and measured on the test set.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch
from _results import VERSIONS, made, publish
from torch import nn

import cofire
from cofire.controls import keep
from cofire.files import atomic
from cofire.hidden import blocks_of, rows
from cofire.probes import residual_probes
from cofire.readings import Reader

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
    "fashion-mnist": ("fashion-mnist", {}, zoo("fcnn:784-512-512-10"), (1, 5), None),
    "fashion-mnist, annealed": ("fashion-mnist", {}, zoo("fcnn:784-512-512-10"), (5,), "cosine"),
    "cifar10": ("cifar10", {"channels": 1}, zoo("fcnn:1024-1024-1024-512-256-128-10"), (1, 5), None),
    "cifar10, convolutions": ("cifar10", {}, conv, (1, 3), None),
    "cifar10, VGG-16": ("cifar10", {}, zoo("zoo:vgg16_cifar", 10), (2,), None),
    "cifar10, ResNet-50": ("cifar10", {}, zoo("torchvision:resnet50", 10), (2, 8), None),
    "cifar100, ResNet-50": ("cifar100", {}, zoo("torchvision:resnet50", 100), (8,), None),
    "plantvillage, ResNet-50": ("plantvillage", {}, zoo("torchvision:resnet50", 14), (1, 4), None),
}
"""Data, how it is loaded, the net by seed, epochs after which it is boosted, and the schedule of the learning rate."""

QUICK = {"digits": ("digits", {}, zoo("fcnn:64-48-16-10"), (1,), None)}


def measured(cell: str, root, limit: int | None, seeds: int, say) -> list[dict]:
    """Rows of one cell: a net of every seed, boosted after each of its epochs."""
    name, how, build, stops, schedule = (CELLS | QUICK)[cell]
    images = cofire.data.load(name, "train", root=root, limit=limit, **how)
    few = limit if limit and limit < 10_000 else None
    test = cofire.data.load(name, "test", root=root, limit=few, **how).batches(500)
    train, held = images.split(1 / 6 if "mnist" in name else 1 / 5, seed=0)
    train, held = (train, held) if len(train) > len(held) else (held, train)
    found, folder = [], Path(tempfile.mkdtemp())
    for seed in range(seeds):
        net = build(seed)
        for epochs in stops:  # of one training
            cofire.fit(net, train, epochs=epochs, seed=seed, schedule=schedule, checkpoints=folder / str(seed), progress=False)
            batches, validation = train.batches(500), held.batches(500)
            stats = cofire.record(net, batches, progress=False, histograms="none")
            start = time.process_time()
            cofire.boost(net, batches, stats, validation=validation, controls=False, seed=seed, progress=False)
            ours = time.process_time() - start
            boosted = cofire.boost(net, batches, stats, validation=validation, test=test, seed=seed, progress=False)
            read, held_read, probe = probe_seconds(net, batches, validation, stats)
            table = boosted.summary()
            table = table[table.split == "test"].set_index("method")
            found.append({
                "cell": cell, "seed": seed, "epochs": epochs, "base": float(table.accuracy["model"]),
                "taken": boosted.record["decision"], "seconds": round(ours, 2),
                "read_seconds": round(read, 2), "held_seconds": round(held_read, 2), "probe_seconds": round(probe, 2),
                "samples": len(train), "features": sum(block.width for block in blocks_of(stats, list(stats), 4096)),
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
            say(f"{cell}, {epochs} epochs, seed {seed}: {found[-1]['base']:.4f} {row['gain']:+.4f} in {ours:.1f} s")
    shutil.rmtree(folder)
    return found


def warm() -> None:
    """Import whatever a boost imports, before it is timed."""
    digits = cofire.data.load("digits")
    net, batches = cofire.zoo.model("fcnn:64-16-10", seed=0), list(digits.batches(500))
    cofire.boost(net, batches, cofire.record(net, batches, progress=False), validation=batches[:1], progress=False)


def probe_seconds(net: nn.Module, batches, validation, stats) -> tuple[float, float, float]:
    """Processor time of reading the fitting data and the held-out data once, and of a logistic regression on the former.

    It holds them in memory and has five ridges.
    """
    blocks = blocks_of(stats, list(stats), 4096)
    parts = {
        "rows": lambda reading: rows(blocks, reading.units, reading.firing), "scores": lambda reading: reading.logits,
        "labels": lambda reading: reading.labels,
    }  # fmt: skip
    marks = [time.process_time()]
    for data in (validation, batches):
        with Reader(net, stats) as reader:
            kept, _ = keep(reader, data, parts, stats.samples, 0, False)
        marks.append(time.process_time())
    residual_probes(kept["rows"], kept["scores"], kept["labels"])
    return marks[2] - marks[1], marks[1] - marks[0], time.process_time() - marks[2]


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
        "How long the fit takes, in seconds of processor time: one reading of the fitting data and of the held-out data, which "
        "every way of fitting must do; the boost beyond that; and a logistic regression by gradients on the same numbers, "
        "held in memory, with five ridges. Means over seeds and epochs, with the smallest and the largest share. Where samples "
        "and numbers are not given, reading the held-out data was not timed by itself, and counts as the boost's.",
        "",
        "| net | samples fitted | numbers each | reading | boost | regression | share of the regression's time |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for cell in cells_:
        rows_ = [row for row in found if row["cell"] == cell]
        held = [row.get("held_seconds", 0.0) for row in rows_]
        beyond = [row["seconds"] - row["read_seconds"] - other for row, other in zip(rows_, held, strict=True)]
        shares = [own / row["probe_seconds"] for own, row in zip(beyond, rows_, strict=True)]
        read, probe = (
            _mean([row["read_seconds"] for row in rows_]) + _mean(held),
            _mean([r["probe_seconds"] for r in rows_]),
        )
        spread = f" ({min(shares):.2f} to {max(shares):.2f})" if len(shares) > 1 else ""
        lines.append(
            f"| {cell} | {_number(rows_[0], 'samples')} | {_number(rows_[0], 'features')} | {read:.1f} | "
            f"{_mean(beyond):.1f} | {probe:.1f} | {_mean(beyond) / probe:.2f}{spread} |"
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


def _number(row: dict, key: str) -> str:
    return f"{row[key]:,}" if key in row else ""


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
    parser.add_argument("--quick", action="store_true", help="a small net on digits")
    parser.add_argument("--output", type=Path, default=HERE / "boosting.json")
    options = parser.parse_args()
    root = Path(options.data_root) if options.data_root else None
    warm()
    scaled = f" --limit {options.limit}" if options.limit else ""
    for cell in QUICK if options.quick else options.only or CELLS:
        rows_ = measured(cell, root, options.limit, 1 if options.quick else options.seeds, lambda text: print(text, flush=True))
        result = json.loads(options.output.read_text()) if options.output.exists() else {"cells": {}}
        result["cells"][cell] = {
            **made(f"boosting.py --seeds {options.seeds}{scaled} --only '{cell}'"),
            **VERSIONS,
            "limit": options.limit,
            "rows": rows_,
        }
        result["cells"] = {name: result["cells"][name] for name in CELLS | QUICK if name in result["cells"]}
        with atomic(options.output) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n")
    result = json.loads(options.output.read_text())
    publish(result, page(result), options.output, "boosting", "boost.md")


if __name__ == "__main__":
    main()
