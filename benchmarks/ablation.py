"""What an ablation curve costs: cofire beside a masked forward pass for every number of removed units, in turn.

    python benchmarks/ablation.py --data-root data        # some minutes
    python benchmarks/ablation.py --quick                 # digits, a smaller net, seconds; writes no file unless told where

The net is paper 004's 784-200-200-200-10 on MNIST's 10,000 test images, every number of removed units. The naive ways are timed
at some numbers of removed units and scaled to all of them: the masked forward pass in batches of 32 from tensors that are
loaded already, and the way of the code published with paper 004, which goes through a data loader that turns pictures into
tensors one by one each time. Accuracies must be equal where the naive way was run. The products are the matrix products of the
maps after the next one, nothing else: with mean fill every sample changes at every step, so that no way that computes
these maps again can be faster. Processor time, one thread; all take turns, and a ratio is within its round. Writes
benchmarks/ablation.json and its table on docs/benchmarks.md.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and torch are loaded

import argparse
import sys
import time
from pathlib import Path

import torch
from _results import VERSIONS, made, publish
from _timing import spread
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import cofire

HERE = Path(__file__).resolve().parent
BARS = {"relu1": 10, "relu2": 30, "relu3": 80, "all layers": 13}
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


def products(maps: list[nn.Linear], samples: int, times: int) -> float:
    """Seconds of these maps' matrix products alone, in the layout in which they are fastest."""
    blocks = [(torch.rand(2048, m.in_features), m.weight.detach().T, torch.empty(m.out_features, 2048).T) for m in maps]
    start = time.process_time()
    for _ in range(times):
        for values, weight, output in blocks:
            torch.mm(values, weight, out=output)
    return (time.process_time() - start) / times * samples / 2048


def compared(net, stats, images, layers: list[str] | None, fill: str, points: int, rounds: int, bars: dict) -> dict:
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
    later = [m for m in sequential[names[layers[0]] + 2 :] if isinstance(m, nn.Linear)] if layers and fill == "mean" else []
    at = [round(curve.units * place / (points + 1)) for place in range(1, points + 1)]
    means = {name: layer.sum.sum(0).div(layer.samples).float() for name, layer in stats.items()}
    times: dict[str, list[float]] = {"ours": [], "masked": [], "published": [], "products": []}
    unequal = 0
    for turn in range(rounds):
        start = time.process_time()
        run()
        times["ours"].append(time.process_time() - start)
        if later:
            times["products"].append(products(later, curve.samples, 20) * (curve.units + 1))
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
    where = " and ".join(layers) if layers else "all layers"
    print(f"{where}, {fill}: {times}", file=sys.stderr)
    if unequal > 2:
        raise SystemExit(f"accuracies differ by {unequal} of {curve.samples} samples")
    pairs = {"masked": ("masked", "ours"), "published": ("published", "ours"), "products": ("masked", "products")}
    return {
        "layers": where,
        "fill": fill,
        "points": curve.units + 1,
        "samples": curve.samples,
        "bar": bars.get(where),
        "seconds": {way: spread(values) for way, values in times.items()},
        "ratio": {
            name: spread([one / other for one, other in zip(times[slow], times[fast], strict=False)])
            for name, (slow, fast) in pairs.items()
        },
        "most_samples_unequal": unequal,
        "timed_points": {"masked": len(at), "published": 1},
    }


def page(result: dict) -> str:
    """The generated part of docs/benchmarks.md."""
    lines = [
        f"{result['date']}, {result['machine']}, one thread. cofire {result['cofire']}, torch {result['torch']}. "
        f"{result['net']}, {result['rows'][0]['samples']:,} images, every number of removed units; rounds: {result['rounds']}.",
        "",
        "| layers | fill | points | cofire, s | masked forward / cofire | bar | masked forward / products | published / cofire "
        "| samples that differ |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in result["rows"]:
        ratio, best = row["ratio"]["masked"], row["ratio"]["products"]
        cells = (
            row["layers"], row["fill"], str(row["points"]), f"{row['seconds']['ours']['median']:.2f}",
            f"**{ratio['median']:.1f}** ({ratio['min']:.1f} to {ratio['max']:.1f})", str(row["bar"] or ""),
            f"{best['median']:.1f}" if best else "", f"{row['ratio']['published']['median']:.1f}",
            str(row["most_samples_unequal"]),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for row in result["rows"]:
        ratio, best = row["ratio"]["masked"]["median"], row["ratio"]["products"]
        if ratio < (row["bar"] or 0):
            words = f"; the products alone, with nothing else done, are at {best['median']:.1f}" if best else ""
            lines += ["", f"Below its bar: {row['layers']}, {row['fill']} fill, {ratio:.1f} of {row['bar']}{words}."]
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--quick", action="store_true", help="digits and a small net")
    parser.add_argument("--rounds", type=int, default=5)
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
        compared(
            net,
            stats,
            test,
            group,
            fill,
            2 if chosen.quick else 4,
            1 if chosen.quick else chosen.rounds,
            {} if chosen.quick else BARS,
        )
        for group in (*([layer] for layer in layers), None)
        for fill in ("mean", "zero")
    ]
    result = {
        **made(" ".join(["ablation.py", *(word for word in sys.argv[1:] if "/" not in word)]), cores=True),
        **VERSIONS,
        "net": name,
        "rounds": 1 if chosen.quick else chosen.rounds,
        "rows": rows,
    }
    output = chosen.output or (None if chosen.quick else HERE / "ablation.json")
    publish(result, page(result), output, "ablation", "benchmarks.md", BEGIN, END)


if __name__ == "__main__":
    main()
