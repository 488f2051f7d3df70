"""What a boost does where nothing can be gained: labels drawn from the model's own probabilities.

    python benchmarks/gate.py --data-root data                                          # a quarter of an hour
    python benchmarks/gate.py --quick --output gate-quick.json                          # seconds; checks that it runs

Writes benchmarks/gate.json and a table of docs/boost.md. No scores can be better than the model's own, on average over new
samples: whatever a boost changes, it loses. How often does it, and how much, by the number of held-out samples? Beside it
stands what would be lost if the correction were always taken.
"""

import argparse
import functools
import json
import os
import warnings
from pathlib import Path

import torch
from _results import HERE, VERSIONS, made, publish
from torch import nn

import cofire
from cofire.errors import CofireWarning

HELD = (50, 100, 200, 500, 2000)
FITTED, NEW = 1000, 4000
MANY, WIDE = "random nets of 100 classes", "wide random nets, 2,500 fitted"
LARGE = {MANY: FITTED, WIDE: 2500}
"""Kinds that take longer, and how many samples are fitted: a wide net's in blocks."""
BEGIN, END = "<!-- gate -->", "## What it gave"


def random_net(case: int, classes: int = 3, units: int = 24):
    """A net that was never trained, sharper and sharper, and normal numbers."""
    torch.manual_seed(case)
    net = nn.Sequential(nn.Linear(12, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, classes))
    with torch.no_grad():
        net[4].weight.mul_(1 + 2 * (case % 5))
    return net, torch.randn


def mnist_net(root: Path):
    """A net that was trained on MNIST for two epochs, and its pictures."""
    images = cofire.data.load("mnist", root=root)
    few, rest = images.split(1 / 12, seed=0)
    net = cofire.zoo.model("fcnn:784-64-64-10", seed=0)
    cofire.fit(net, few, epochs=2, seed=0, progress=False)
    inputs = torch.cat([inputs for inputs, _ in rest.batches(1000)])

    def drawn(case: int):
        lots = torch.Generator().manual_seed(case)
        return net, lambda count, _: inputs[torch.randperm(len(inputs), generator=lots)[:count]]

    return drawn


def row_of(case, held: int, cases: int, fitted: int) -> dict:
    """Data sets of one kind with so many held-out samples: what was taken, and what it cost on new samples."""
    taken, rises, without = [], [], []
    for seed in range(cases):
        net, draw = case(seed)
        x = draw(fitted + held + NEW, 12)
        with torch.no_grad():
            p = net(x).softmax(1)
        y = torch.multinomial(p, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
        y[: p.shape[1]] = torch.arange(p.shape[1])  # every class has a sample to fit
        fit, chosen, new = (
            [(part, label)] for part, label in zip(*(all_.split([fitted, held, NEW]) for all_ in (x, y)), strict=True)
        )
        stats = cofire.record(net, fit, progress=False)
        with warnings.catch_warnings(category=CofireWarning, action="ignore"):
            found = cofire.boost(net, fit, stats, validation=chosen, test=new, controls=False, seed=seed, progress=False)
        table = found.summary()
        table = table[table.split == "test"].set_index("method")
        always = "boosted" if found.gained else "hidden layers, not taken"
        taken.append(found.record["decision"])
        rises.append(0.0 - float(table.loss_gain["boosted"]))
        without.append(0.0 - float(table.loss_gain[always]))
    return {
        "held": held, "cases": cases, "boosts": taken.count("auto"), "temperatures": taken.count("temperature"),
        "mean": sum(rises) / cases, "largest": max(rises), "always": sum(without) / cases,
    }  # fmt: skip


def page(result: dict) -> str:
    """The table, in Markdown."""
    lines = [
        f"`{result['command']}`, {result['date']}, {result['machine']}, torch {result['torch']}; {FITTED:,} samples fitted "
        f"unless said, {NEW:,} new ones measured; log-loss in nats.",
        "",
        "| labels drawn from | held-out samples | data sets | boost taken | temperature taken | log-loss rises by, mean | "
        "at most | if it were always taken |",
        "| --- |" + " --: |" * 7,
    ]
    lines += [
        f"| {kind} | {row['held']:,} | {row['cases']} | {row['boosts']} | {row['temperatures']} | {row['mean']:.5f} | "
        f"{row['largest']:.3f} | {row['always']:.3f} |"
        for kind, rows in result["rows"].items()
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="random nets only, three data sets of each kind")
    parser.add_argument("--output", type=Path, default=HERE / "gate.json")
    options = parser.parse_args()
    kinds, cases = {"random nets": random_net}, 3 if options.quick else options.cases
    if options.data_root and not options.quick:
        kinds["a net trained on MNIST"] = mnist_net(Path(options.data_root))
    kinds |= {MANY: functools.partial(random_net, classes=100), WIDE: functools.partial(random_net, units=1500)}
    rows: dict[str, list[dict]] = {}
    for kind, case in kinds.items():
        for held in HELD:
            few = max(1, cases // 10) if kind in LARGE else cases
            rows.setdefault(kind, []).append(row_of(case, held, few, LARGE.get(kind, FITTED)))
            print(kind, json.dumps(rows[kind][-1]), flush=True)
    result = {**made(f"gate.py --cases {cases}"), **VERSIONS, "rows": rows}
    publish(result, page(result), options.output, "gate", "boost.md", BEGIN, END)


if __name__ == "__main__":
    main()
