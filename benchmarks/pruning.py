"""Pruning ResNet-18 and VGG-16 on CIFAR-10 without fine-tuning: orders beside each other, with and without compensation.

    python benchmarks/pruning.py --data-root data                      # about half an hour at one thread
    python benchmarks/pruning.py --data-root data --limit 500 --test 100 --output pruning.json

Writes benchmarks/pruning.json and the table of docs/ablation.md. Weights are trained once and kept in --cache. Training is
short, so accuracies are low: the table compares orders, and says nothing of what these nets reach.
"""

import argparse
import json
import os
import tempfile
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
import torch_pruning
from _results import VERSIONS, made, publish
from torch import nn

import cofire
from cofire.batches import example_batch
from cofire.firing import unit_spread
from cofire.grouping import groups_of
from cofire.moments import fisher_moments
from cofire.orders import scores_of
from cofire.pruning import accuracy_of
from cofire.taps import Taps
from cofire.weights import load_weights, save_weights

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- pruned nets: begin -->", "<!-- pruned nets: end -->"
NETS = {"ResNet-18": ("zoo:resnet18_cifar", 2), "VGG-16": ("zoo:vgg16_cifar", 3)}
"""Name of a net, and epochs of its training."""
OURS = ("obs", "reconstruction", "weight_std", "mutual_information", "random")
SHARES = (0.8, 0.6, 0.4)
WAYS = {"positions": True, "means": True, "none": False}
"""Covariance of channels over all positions of the batches, the recorded one of their means, no compensation."""


def trained(name: str, train, options) -> nn.Module:
    """A net after its short training, from the cache where it has been trained before."""
    spec, epochs = NETS[name]
    net = cofire.zoo.model(spec, classes=10, seed=options.seed)
    path = options.cache / f"{spec.removeprefix('zoo:')}-{len(train)}-{epochs}-{options.seed}.safetensors"
    if path.exists():
        load_weights(net, path)
    else:
        cofire.fit(net, train, epochs=epochs, lr=1e-3, batch_size=64, schedule="cosine", seed=options.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(net, path)
    return net.eval()


def peer_scores(net: nn.Module, stats, batches: list, importance) -> dict[str, torch.Tensor]:
    """torch-pruning's importance of every group, under the name of one of its layers."""
    groups, _ = groups_of(net, example_batch(batches[0], None), list(stats), list(stats))
    graph = torch_pruning.DependencyGraph().build_dependency(net, batches[0][0][:2])
    net.zero_grad()
    for inputs, labels in batches:
        F.cross_entropy(net(inputs), labels).backward()
    scores = {}
    for group in groups:
        giver = next(
            m for m in group.members if m.side == "out" and isinstance(net.get_submodule(m.module), nn.Conv2d | nn.Linear)
        )
        module = net.get_submodule(giver.module)
        everything = graph.get_pruning_group(
            module, graph.get_pruner_of_module(module).prune_out_channels, list(range(group.units))
        )
        scores[group.layers[0]] = importance(everything).detach()
    net.zero_grad()
    return scores


def fisher_scores(net: nn.Module, stats, batches: list) -> dict[str, torch.Tensor]:
    """The order "fisher" as scores, so that its batches are used for nothing else."""
    read = [example_batch(batch, None) for batch in batches]
    with Taps(net, list(stats)) as taps:
        taps.forward(read[0].inputs, len(read[0]), lambda *_: None)
        found = fisher_moments(taps, read, {name: unit_spread(stats[name])[0] for name in stats}, stats.classes)
    return {name: scores_of("fisher", stats[name], fisher=found[name]) for name in stats}


def rows_of(name: str, root, options) -> list[dict]:
    """Accuracy of one net by order, compensation and share of units kept in every layer."""
    train = cofire.data.load("cifar10", "train", root=root, limit=options.limit)
    test = list(cofire.data.load("cifar10", "test", root=root, limit=options.test).batches(100))
    net = trained(name, train, options)
    known = list(islice(train.batches(100, shuffle=True, seed=0), 10))  # the files are in the order of the classes
    stats = cofire.record(net, known, progress=False, covariance=True)
    few = known[:2]
    orders = {by: by for by in OURS} | {
        "fisher": fisher_scores(net, stats, few),
        "magnitude (torch-pruning)": peer_scores(net, stats, few, torch_pruning.importance.GroupMagnitudeImportance()),
        "Taylor (torch-pruning)": peer_scores(net, stats, few, torch_pruning.importance.GroupTaylorImportance()),
    }
    base, rows = accuracy_of(net, test, 10), []
    for by, order in orders.items():
        for way, compensate in WAYS.items():
            batches = known[:5] if way == "positions" else None
            kept = {}
            for share in SHARES:
                small = cofire.prune(net, few[0], stats, order, share, compensate=compensate, batches=batches)
                kept[str(share)] = round(accuracy_of(small, test, 10), 4)
            rows.append({"net": name, "by": by, "way": way, "accuracy": round(base, 4), "kept": kept})
            print(rows[-1], flush=True)
    return rows


def page(result: dict) -> str:
    """The generated part of docs/ablation.md."""
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, torch-pruning "
        f"{result['torch_pruning']}, cofire {result['cofire']}; one seed. Nets are trained on {result['limit']:,} images, "
        f"measured on {result['test']:,} test images; statistics are of 1,000 training images, covariances "
        "over positions of 500, gradients of 200.",
    ]
    for name in dict.fromkeys(row["net"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["net"] == name]
        lines += [
            "",
            f"**{name}**, CIFAR-10, {NETS[name][1]} epochs, test accuracy {rows[0]['accuracy']:.1%}; that of the smaller net, "
            "without any training, by the share of units kept in every layer and the "
            "covariance that compensates: that over positions, that of means, or none:",
            "",
            "| order | " + " | ".join(f"{share:.0%}, {how}" for how in WAYS for share in SHARES) + " |",
            "| --- |" + " --: |" * (len(WAYS) * len(SHARES)),
        ]
        for by in dict.fromkeys(row["by"] for row in rows):
            found = {row["way"]: row["kept"] for row in rows if row["by"] == by}
            cells = [f"{found[how][str(share)]:.1%}" for how in WAYS for share in SHARES]
            lines.append(f"| {by} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--limit", type=int, default=3500, help="training images")
    parser.add_argument("--test", type=int, default=400, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), help="rows of others stay as they were written")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cofire-pruning")
    parser.add_argument("--output", type=Path, default=HERE / "pruning.json")
    options = parser.parse_args()
    held = json.loads(options.output.read_text())["rows"] if options.output.exists() else []
    root = Path(options.data_root) if options.data_root else None
    result = {
        **made(f"pruning.py --limit {options.limit} --test {options.test}"), **VERSIONS,
        "torch_pruning": torch_pruning.__version__, "limit": options.limit, "test": options.test,
        "rows": [
            row
            for name in NETS
            for row in (rows_of(name, root, options) if name in options.nets else held)
            if row["net"] == name
        ],
    }  # fmt: skip
    publish(result, page(result), options.output, "pruning", "ablation.md", BEGIN, END)


if __name__ == "__main__":
    main()
