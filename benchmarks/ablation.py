"""What an ablation curve costs: cofire beside a masked forward pass for every number of removed units, in turn.

    python benchmarks/ablation.py --data-root data        # some minutes
    python benchmarks/ablation.py --quick                 # digits, a smaller net, seconds; writes no file unless told where

The net is paper 004's 784-200-200-200-10 on MNIST's 10,000 test images, every number of removed units. The naive ways are timed
at some numbers of removed units and scaled to all of them: the masked forward pass in batches of 32 from tensors that are
loaded already, and the way of the code published with paper 004, which goes through a data loader that turns pictures into
tensors one by one each time. Accuracies must be equal where the naive way was run. Processor time, one thread. Writes
benchmarks/ablation.json and its table on docs/benchmarks.md.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and torch are loaded

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from _results import VERSIONS, made, publish
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import cofire

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- ablation: begin -->", "<!-- ablation: end -->"


class Pictures(Dataset):
    """Pictures that become tensors one by one, as a transform does it."""

    def __init__(self, images):
        self.pixels, self.labels = images.pixels.numpy(), images.labels.tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        picture = torch.from_numpy(self.pixels[index])
        return picture if picture.is_floating_point() else picture.float().div(255), self.labels[index]


def naive(layers: nn.Sequential, batches, masks: dict[int, Tensor], fills: dict[int, Tensor]) -> int:
    """Correct predictions with some activations held at their fill."""
    correct = 0
    with torch.no_grad():
        for inputs, labels in batches:
            x = inputs.flatten(1)
            for at, layer in enumerate(layers):
                x = layer(x)
                if at in masks:
                    x = torch.where(masks[at], fills[at], x)
            correct += int((x.argmax(1) == labels).sum())
    return correct


def compared(net, stats, images, layers: list[str] | None, fill: str, points: int, rounds: int, limit: int) -> dict:
    """One set of layers: ours in full, the naive ways at some points."""
    tensors = [(x, y) for x, y in images.batches(32)]
    loader = DataLoader(Pictures(images), batch_size=32)
    ours = [(x, y) for x, y in images.batches(256)]
    sequential = nn.Sequential(*[module for module in net.modules() if isinstance(module, nn.Linear | nn.ReLU | nn.Sigmoid)])
    places = [at for at, module in enumerate(sequential) if not isinstance(module, nn.Linear)]
    names = dict(zip(stats, places, strict=True))

    def run():
        return cofire.ablate(net, ours, stats, layers=layers, fill=fill, progress=False)

    curve = run()
    at = [round(curve.units * place / (points + 1)) for place in range(1, points + 1)]
    means = {name: layer.sum.sum(0).div(layer.samples).float() for name, layer in stats.items()}
    times: dict[str, list[float]] = {"ours": [], "masked": [], "published": []}
    unequal = 0
    for turn in range(rounds):
        start = time.process_time()
        run()
        times["ours"].append(time.process_time() - start)
        for way, batches in (("masked", tensors), ("published", loader)):
            if way == "published" and turn:
                continue
            start = time.process_time()
            for removed in at if way == "masked" else at[:1]:
                masks, fills = {}, {}
                for name, place in names.items():
                    gone = [unit for layer, unit in curve.sequences[0][:removed] if layer == name]
                    if gone:
                        masks[place] = torch.zeros(stats[name].units, dtype=torch.bool)
                        masks[place][gone] = True
                        fills[place] = means[name] if fill == "mean" else torch.zeros(())
                correct = naive(sequential, batches, masks, fills)
                unequal = max(unequal, abs(correct - round(float(curve.accuracy[removed]) * curve.samples)))
            count = len(at) if way == "masked" else 1
            times[way].append((time.process_time() - start) / count * (curve.units + 1))
    seconds = {way: statistics.median(values) for way, values in times.items()}
    where = " and ".join(layers) if layers else "all layers"
    print(f"{where}, {fill}: {seconds}", file=sys.stderr)
    if unequal > limit:
        raise SystemExit(f"accuracies differ by {unequal} of {curve.samples} samples")
    return {
        "layers": where,
        "fill": fill,
        "points": curve.units + 1,
        "samples": curve.samples,
        "seconds": seconds,
        "ratio": {way: seconds[way] / seconds["ours"] for way in ("masked", "published")},
        "most_samples_unequal": unequal,
        "timed_points": {"masked": len(at), "published": 1},
    }


def page(result: dict) -> str:
    """The generated part of docs/benchmarks.md."""
    lines = [
        f"{result['date']}, {result['machine']}, one thread. cofire {result['cofire']}, torch {result['torch']}. "
        f"{result['net']}, {result['rows'][0]['samples']:,} images, every number of removed units.",
        "",
        "| layers | fill | points | cofire, s | masked forward, batches of 32 | the published way | samples that differ |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for row in result["rows"]:
        times = " | ".join(f"**{row['ratio'][way]:.1f}** times as long" for way in ("masked", "published"))
        cells = (row["layers"], row["fill"], str(row["points"]), f"{row['seconds']['ours']:.2f}", times)
        lines.append(f"| {' | '.join(cells)} | {row['most_samples_unequal']} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--quick", action="store_true", help="digits and a small net")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/ablation.json)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    data, name = ("digits", "fcnn:64-32-32-32-10") if chosen.quick else ("mnist", "fcnn:784-200-200-200-10")
    train = cofire.data.load(data, "train", root=chosen.data_root, limit=None if chosen.quick else 20_000)
    test = cofire.data.load(data, "test", root=chosen.data_root)
    net = cofire.zoo.model(name, seed=0)
    cofire.fit(net, train, epochs=2, seed=0, progress=False)
    stats = cofire.record(net, train.batches(256), progress=False)
    layers = list(stats)
    rows = [
        compared(net, stats, test, group, fill, 2 if chosen.quick else 4, 1 if chosen.quick else chosen.rounds, 2)
        for group in (*([layer] for layer in layers), None)
        for fill in ("mean", "zero")
    ]
    result = {
        **made(" ".join(["ablation.py", *(word for word in sys.argv[1:] if "/" not in word)]), cores=True),
        **VERSIONS,
        "net": name,
        "rows": rows,
    }
    output = chosen.output or (None if chosen.quick else HERE / "ablation.json")
    publish(result, page(result), output, "ablation", "benchmarks.md", BEGIN, END)


if __name__ == "__main__":
    main()
