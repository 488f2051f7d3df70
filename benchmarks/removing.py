"""Removing units and layers on real data: paper 004's curves, and depth. Pruned nets are the subject of pruning.py.

    python benchmarks/removing.py --data-root data                     # about 15 minutes
    python benchmarks/removing.py --data-root data --seeds 1 --epochs 1 --limit 5000 --output removing.json

Writes benchmarks/removing.json and the tables of docs/ablation.md.
"""

import argparse
import os
from pathlib import Path

from _results import VERSIONS, made, publish

import cofire
from cofire.ablation import curves_of
from cofire.removals import check_layer

HERE = Path(__file__).resolve().parent
MEASURES = ("firing_entropy", "mutual_information", "kl_selectivity")
POINTS = 41


def ablation(root, limit, epochs: int, seeds: int) -> list[dict]:
    """Paper 004's three-layer net: trained on 50,000 images, measured on 10,000 others, ablated on the test set."""
    images = cofire.data.load("mnist", "train", root=root, limit=limit)
    cut = len(images) * 5 // 6
    train, held = images.subset(range(cut)), images.subset(range(cut, len(images)))
    test = cofire.data.load("mnist", "test", root=root, limit=limit)
    rows = []
    for seed in range(seeds):
        net = cofire.zoo.model("zoo:004-3x200", seed=seed)
        cofire.fit(net, train, epochs=epochs, lr=1e-3, weight_decay=1e-3, seed=seed, progress=False)
        stats = cofire.record(net, held.batches(256), progress=False, covariance=True)
        curves = curves_of(
            net, list(test.batches(256)), stats, [*MEASURES, "weight_std", "reconstruction", "obs"], each=True, fill="both",
            steps=POINTS, seeds=3, seed=seed, progress=False,
        )  # fmt: skip
        for curve in curves:
            rows.append(
                {
                    "seed": seed,
                    "layers": "all" if len(curve.layers) > 1 else curve.layers[0],
                    "by": curve.by,
                    "order": curve.order,
                    "fill": curve.fill,
                    "accuracy": round(float(curve.accuracy[0]), 4),
                    "area": round(curve.area, 4),
                    "removable": curve.removable() / curve.units,
                }
            )
        summary = cofire.summary(stats).set_index("layer")
        for layer in stats:
            values = {name: round(float(summary.loc[layer, name]), 4) for name in MEASURES}
            rows.append({"seed": seed, "layers": layer, "measures": values})
    return rows


def depth(root, limit, epochs: int) -> list[dict]:
    """Nets of two, four and six hidden layers on MNIST: verdicts, and what removing each layer costs."""
    images = cofire.data.load("mnist", "train", root=root, limit=limit)
    train, test = (
        images.batches(128, shuffle=True, seed=0),
        list(cofire.data.load("mnist", "test", root=root, limit=limit).batches(256)),
    )
    rows = []
    for count in (2, 4, 6):
        net = cofire.zoo.model("fcnn:784-" + "256-" * count + "10", seed=0)
        cofire.fit(net, images, epochs=epochs, seed=0, progress=False)
        stats = cofire.record(net, images.batches(256), progress=False)
        for row in cofire.depth(stats).layers:
            entry = {
                "hidden_layers": count,
                "layer": row.layer,
                "entropy": round(float(row.entropy.mean()), 4),
                "scale_free": round(float(row.scale_free.mean()), 4),
                "verdict": row.verdict,
            }
            if row.verdict != "first":
                found = check_layer(net, stats, row.layer, train, test, epochs=1)
                entry |= {
                    "before": found.before,
                    "refitted": found.refitted,
                    "trained": found.trained,
                    "control": found.control,
                }
            rows.append(entry)
    return rows


def mean(values) -> float:
    """Mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)


def page(result: dict) -> str:
    """The generated part of docs/ablation.md."""
    curves = [row for row in result["ablation"] if "area" in row]
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, cofire "
        f"{result['cofire']}; means over {result['seeds']} seeds.",
        "",
        f"**Paper 004's net**, 784-200-200-200-10 sigmoid, MNIST, test accuracy {mean(row['accuracy'] for row in curves):.1%}; "
        f"mean accuracy over all shares removed, {POINTS} points a curve:",
        "",
        "| order | fill | layer 1 | layer 2 | layer 3 | all layers |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    layers = list(dict.fromkeys(row["layers"] for row in curves))
    for by, order in dict.fromkeys((row["by"], row["order"]) for row in curves):
        for fill in ("mean", "zero"):
            cells = [
                mean(r["area"] for r in curves if (r["by"], r["order"], r["fill"], r["layers"]) == (by, order, fill, layer))
                for layer in layers
            ]
            name = "random" if order == "random" else f"{by}, {'low' if order == 'ascending' else 'high'} first"
            lines.append(f"| {name} | {fill} | " + " | ".join(f"{cell:.1%}" for cell in cells) + " |")
    lines += ["", "| layer | firing entropy | mutual information | KL selectivity |", "| --- | --: | --: | --: |"]
    for layer in layers[:-1]:
        held = [row["measures"] for row in result["ablation"] if "measures" in row and row["layers"] == layer]
        lines.append(f"| {layer} | " + " | ".join(f"{mean(row[name] for row in held):.3f}" for name in MEASURES) + " |")
    lines += [
        "",
        "**Depth**, nets of 2, 4 and 6 hidden layers of 256 units on MNIST, one seed; test accuracy before, without the layer "
        "once the next map is fitted, after one epoch of training, and of the whole net after one epoch more:",
        "",
        "| hidden layers | layer | entropy | scale-free | verdict | before | refitted | trained | whole, trained as long |",
        "| --: | --- | --: | --: | --- | --: | --: | --: | --: |",
    ]
    for row in result["depth"]:
        cells = [f"{row[key]:.2%}" if key in row else "" for key in ("before", "refitted", "trained", "control")]
        start = f"| {row['hidden_layers']} | {row['layer']} | {row['entropy']:.3f} | {row['scale_free']:.3f} | {row['verdict']}"
        lines.append(f"{start} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--limit", type=int, help="images of each split; by default all")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "removing.json")
    options = parser.parse_args()
    root = Path(options.data_root) if options.data_root else None
    scaled = f" --limit {options.limit}" if options.limit else ""
    result = {
        **made(f"removing.py --epochs {options.epochs} --seeds {options.seeds}{scaled}"),
        **VERSIONS,
        "seeds": options.seeds,
        "ablation": ablation(root, options.limit, options.epochs, options.seeds),
        "depth": depth(root, options.limit, max(1, options.epochs // 3)),
    }
    publish(result, page(result), options.output, "removing", "ablation.md")


if __name__ == "__main__":
    main()
