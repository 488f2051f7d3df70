"""The co-firing graph on real data: what training does to it, and what shuffled labels give.

    python benchmarks/communities.py --data-root data                     # 20 epochs, four trainings: about 20 minutes
    python benchmarks/communities.py --data-root data --epochs 2 --limit 5000 --output communities.json
    python benchmarks/communities.py --quick                              # digits, seconds; writes no file unless told where

Trains the papers' 784-512-512-10 net on MNIST and on Fashion-MNIST, with their labels and with shuffled ones, and looks at
the graph of both hidden layers after the first and after the last epoch. Writes benchmarks/communities.json and the tables of
docs/communities.md.
"""

import argparse
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from _results import VERSIONS, made, publish

import cofire
from cofire.structure import structure

HERE = Path(__file__).resolve().parent
NETS = {"mnist": "zoo:001-mnist", "fashion-mnist": "zoo:001-fashion-mnist"}
QUICK = {"digits": "fcnn:64-64-64-10"}


def measured(stats, layer: str, restrict: str, seed: int) -> dict:
    """Everything about one graph."""
    graph = cofire.coactivation(stats[layer], restrict=restrict)
    found = structure(graph, seed)
    gephi = cofire.communities(graph, resolution=2.0, seed=seed)
    off = ~torch.eye(graph.classes, dtype=torch.bool)
    return {
        "layer": layer,
        "restrict": restrict,
        "vertices": len(graph),
        "edges": graph.edges,
        "unique_units": round(float(cofire.unique_units(graph).diagonal().double().mean()), 2),
        "unique_to_pairs": round(float(cofire.unique_units(graph)[off].double().mean()), 2),
        "shared_units": round(float(cofire.shared_units(graph)[off].double().mean()), 2),
        "modularity": {
            row.form: {
                "value": round(row.value, 4),
                "independent": None if row.independent is None else round(row.independent, 4),
                "spread": None if row.spread is None else round(row.spread, 4),
            }
            for row in found.modularities
        },
        "communities": found.communities.count,
        "agreement": round(found.communities.agreement, 3),
        "stability": None if found.communities.stability is None else round(found.communities.stability, 3),
        "communities_at_resolution_2": gephi.count,
        "mean_size_at_resolution_2": round(gephi.mean_size, 1),
        "most_entangled": [
            [stats.class_names[pair.first], stats.class_names[pair.second], pair.shared] for pair in found.pairs[:3]
        ],
    }


def trained(data: str, net: str, shuffled: bool, root: Path | None, limit: int | None, epochs: int, seed: int) -> dict:
    """One training, looked at after its first and its last epoch."""
    train = cofire.data.load(data, "train", root=root, limit=limit, seed=seed, shuffle_labels=shuffled)
    test = cofire.data.load(data, "test", root=root, limit=limit)
    model = cofire.zoo.model(net, seed=seed)
    rows = []
    with TemporaryDirectory() as folder:
        for epoch in sorted({1, epochs}):
            history = cofire.fit(model, train, test, epochs=epoch, seed=seed, checkpoints=folder)
            stats = cofire.record(model, train.batches(256), cofiring="union")
            rows += [
                {
                    "epoch": epoch,
                    "train_accuracy": stats.accuracy,
                    "test_accuracy": history.test_accuracy[-1],
                    **measured(stats, layer, restrict, seed),
                }
                for layer in stats
                for restrict in ("class", "union")
            ]
    return {"data": data, "shuffled_labels": shuffled, "samples": len(train.labels), "graphs": rows}


def page(result: dict) -> str:
    """The generated part of docs/communities.md."""
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, cofire "
        f"{result['cofire']}, seed {result['seed']}.",
        "",
        "Representative units, 50 per class; means over classes or pairs of classes:",
        "",
        "| data | layer | epoch | test accuracy | unique to a class | unique to a pair | shared by a pair | most entangled |",
        "| --- | --- | --: | --: | --: | --: | --: | --- |",
    ]
    for run in result["runs"]:
        for row in run["graphs"]:
            if row["restrict"] == "class":
                pair = row["most_entangled"][0]
                cells = [f"{row[key]:.1f}" for key in ("unique_units", "unique_to_pairs", "shared_units")]
                start = f"| {_name(run)} | {row['layer']} | {row['epoch']} | {row['test_accuracy']:.2%}"
                lines.append(f"{start} | {' | '.join(cells)} | {pair[0]} and {pair[1]} ({pair[2]}) |")
    for restrict, words in (
        ("class", "Modularity of the graph as papers define it (pairs within a class's own units)"),
        ("union", "Modularity where every class counts all pairs of representative units"),
    ):
        lines += [
            "",
            f"{words}; in brackets what the same sets give if units fire independently within each class:",
            "",
            "| data | layer | epoch | class partition | 0/1 | cover, 0/1 (Shen) | cover (Chen) | bisection | Louvain | its "
            "communities | agreement |",
            "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        for run in result["runs"]:
            for row in run["graphs"]:
                if row["restrict"] == restrict:
                    cells = [_cell(row["modularity"][form]) for form in ("newman", "unweighted", "shen", "chen")]
                    cells += [f"{row['modularity'][form]['value']:.3f}" for form in ("bisection", "louvain")]
                    cells += [str(row["communities"]), f"{row['agreement']:.2f}"]
                    lines.append(f"| {_name(run)} | {row['layer']} | {row['epoch']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(run: dict) -> str:
    return f"{run['data']}, labels shuffled" if run["shuffled_labels"] else run["data"]


def _cell(value: dict) -> str:
    return f"{value['value']:.3f} ({value['independent']:.3f})"


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--limit", type=int, help="images of each split; by default all")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="digits, two epochs")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/communities.json)")
    options = parser.parse_args()
    if options.quick:
        options.epochs = 2
    root = Path(options.data_root) if options.data_root else None
    scaled = f" --limit {options.limit}" if options.limit else ""
    result = {
        **made(
            f"communities.py --epochs {options.epochs} --seed {options.seed}{scaled}" + (" --quick" if options.quick else "")
        ),
        **VERSIONS,
        "seed": options.seed,
        "runs": [
            trained(data, net, shuffled, root, options.limit, options.epochs, options.seed)
            for data, net in (QUICK if options.quick else NETS).items()
            for shuffled in (False, True)
        ],
    }
    output = options.output or (None if options.quick else HERE / "communities.json")
    publish(result, page(result), output, "communities", "communities.md")


if __name__ == "__main__":
    main()
