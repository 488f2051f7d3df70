"""The main job on real data and real models, from end to end; writes benchmarks/models.json and the tables of docs/results.md.

    python benchmarks/models.py --data-root data            # MNIST and the whole CIFAR-10 test set: some minutes
    python benchmarks/models.py --data-root data --limit 2000 --pictures 200 --epochs 1 --output models.json
    python benchmarks/models.py --data-root data --limit 300 --pictures 20 --epochs 1 --models resnet50 --output models.json

MNIST: trains the 512-512 net, records its 60,000 training images, and compares with the papers' way, a stored matrix and
np.histogram. CIFAR-10: records the test images with ResNet-50, VGG-16 and Inception-v3, each at an input size that it
accepts, with random weights (none can be fetched offline, so the numbers say what recording costs, not what the nets know).
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from _results import VERSIONS, made, publish

import cofire
from cofire import report

HERE = Path(__file__).resolve().parent
MODELS = {"resnet50": 64, "vgg16": 64, "inception_v3": 96}
"""Input sizes."""


def papers_way(model, images, classes: int, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Firing probabilities [classes, units] and entropies [units] of the first hidden layer, from a stored matrix."""
    kept = []
    hook = model.relu1.register_forward_hook(lambda _module, _inputs, output: kept.append(output.numpy().copy()))
    with torch.no_grad():
        for inputs, _ in images.batches(256):
            model(inputs)
    hook.remove()
    matrix, labels = np.concatenate(kept), images.labels.numpy()
    probability = np.stack([(matrix[labels == c] > 0).mean(0) for c in range(classes)])
    entropies = []
    for column in matrix.T:
        values = column[column != 0]
        shares = np.histogram(values, bins)[0] / max(len(values), 1)
        entropies.append(-sum(h * np.log2(h) for h in shares if h > 0))
    return probability, np.array(entropies)


def mnist(root: Path | None, limit: int | None, epochs: int, seed: int) -> dict:
    """Train, record and compare."""
    train = cofire.data.load("mnist", "train", root=root, limit=limit)
    test = cofire.data.load("mnist", "test", root=root, limit=limit)
    model = cofire.zoo.model("zoo:001-mnist", seed=seed)
    start = time.perf_counter()
    history = cofire.fit(model, train, test, epochs=epochs, seed=seed)
    trained = time.perf_counter() - start
    start = time.perf_counter()
    stats = cofire.record(model, train.batches(256))
    recorded = time.perf_counter() - start
    probability, entropy = papers_way(model, train, 10, stats["relu1"].bins)
    ours = cofire.firing_probability(stats["relu1"]).numpy(), cofire.activation_entropy(stats["relu1"]).numpy()
    with TemporaryDirectory() as folder:
        page = report.write(stats, Path(folder) / "report.html", test=cofire.record(model, test.batches(256)))
        size = page.stat().st_size
    rows = cofire.summary(stats).round(4).to_dict("records")
    return {
        "samples": stats.samples,
        "epochs": epochs,
        "train_accuracy": stats.accuracy,
        "test_accuracy": history.test_accuracy[-1],
        "seconds_of_training": round(trained, 1),
        "seconds_of_recording": round(recorded, 2),
        "largest_difference_of_firing_probability": float(abs(ours[0] - probability).max()),
        "largest_difference_of_activation_entropy_bits": float(abs(ours[1] - entropy).max()),
        "report_bytes": size,
        "layers": rows,
    }


def cifar(name: str, size: int, root: Path | None, limit: int | None, seed: int) -> dict:
    """Record the test images with one model, and write its report."""
    images = cofire.data.load("cifar10", "test", root=root, size=size, limit=limit)
    model = cofire.zoo.model(f"torchvision:{name}", classes=10, seed=seed)
    start = time.perf_counter()
    stats = cofire.record(model, images.batches(128))
    recorded = time.perf_counter() - start
    with TemporaryDirectory() as folder:
        stats.save(Path(folder) / "stats.safetensors")
        page = report.write(stats, Path(folder) / "report.html")
        saved, written = (Path(folder) / "stats.safetensors").stat().st_size, page.stat().st_size
    return {
        "model": name,
        "input_size": size,
        "samples": stats.samples,
        "layers": len(stats),
        "units": sum(layer.units for layer in stats.values()),
        "seconds_of_recording": round(recorded, 1),
        "statistics_bytes": saved,
        "report_bytes": written,
        "histograms": stats.header["histograms"],
    }


def page(result: dict) -> str:
    """The generated part of docs/results.md."""
    m = result["mnist"]
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, cofire "
        f"{result['cofire']}, seed {result['seed']}.",
        "",
        f"**MNIST, 784-512-512-10**, {m['epochs']} epochs of Adam: test accuracy {m['test_accuracy']:.2%}. Recording "
        f"{m['samples']:,} training images took {m['seconds_of_recording']} s. Against the stored matrix and np.histogram, "
        f"firing probabilities differ by at most {m['largest_difference_of_firing_probability']:.1e} and activation "
        f"entropies by at most {m['largest_difference_of_activation_entropy_bits']:.1e} bits. The report has "
        f"{m['report_bytes'] / 1e6:.1f} MB.",
        "",
        "| layer | units | dead | activation entropy | mutual information | excess | class selectivity | softmax entropy "
        "| scale-free |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in m["layers"]:
        cells = [row["layer"], row["units"], row["dead"]]
        cells += [
            row[k] for k in ("activation_entropy", "mutual_information", "mutual_information_excess", "class_selectivity")
        ]
        cells += [row["softmax_entropy"], row["softmax_entropy_scale_free"]]
        lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    lines += [
        "",
        "**CIFAR-10 test images**, random weights:",
        "",
        "| model | input | images | layers | units | recording | statistics | report |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in result["cifar10"]:
        sizes = f"{row['statistics_bytes'] / 1e6:.0f} MB | {row['report_bytes'] / 1e6:.1f} MB"
        lines.append(
            f"| {row['model']} | {row['input_size']} px | {row['samples']:,} | {row['layers']} | {row['units']:,} | "
            f"{row['seconds_of_recording']} s | {sizes} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--limit", type=int, help="MNIST images of each split; by default all")
    parser.add_argument("--pictures", type=int, help="CIFAR-10 images; by default all 10,000")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "models.json")
    options = parser.parse_args()
    root = Path(options.data_root) if options.data_root else None
    scaled = "".join(f" --{name} {value}" for name in ("limit", "pictures") if (value := getattr(options, name)))
    if options.models != list(MODELS):
        scaled += f" --models {' '.join(options.models)}"
    result = {
        **made(f"models.py --epochs {options.epochs} --seed {options.seed}{scaled}"),
        **VERSIONS,
        "seed": options.seed,
        "mnist": mnist(root, options.limit, options.epochs, options.seed),
        "cifar10": [cifar(name, MODELS[name], root, options.pictures, options.seed) for name in options.models],
    }
    publish(result, page(result), options.output, "models", "results.md")


if __name__ == "__main__":
    main()
