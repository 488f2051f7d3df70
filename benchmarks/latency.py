"""What a boosted model costs when it is used: forward passes of ResNet-50 plain and boosted, in turn in one process.

    python benchmarks/latency.py                # about two minutes
    python benchmarks/latency.py --rounds 3 --output latency-small.json
    python benchmarks/latency.py --quick        # two rounds, one picture at a time; writes no file unless told where

One thread, processor time, 224 x 224 pictures, random weights. The head reads all units of all 49 hidden activations, hashed
into as many numbers as a boost fits by default; its weights are random, which changes no time. Writes benchmarks/latency.json
and its table on docs/benchmarks.md.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and torch are loaded

import argparse
import time
from pathlib import Path

import torch
import torchvision
from _results import VERSIONS, made, publish
from _timing import spread

import cofire
from cofire.boosted import Boosted, Rereading, plan_of
from cofire.hidden import columns_of
from cofire.readings import Reader
from cofire.stacking import Stack

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- latency: begin -->", "<!-- latency: end -->"
FEATURES = 2048


def boosted_resnet(classes: int = 1000) -> tuple[torch.nn.Module, Boosted, int]:
    """ResNet-50, the same with a head on all its hidden activations, and how many units the head reads."""
    torch.manual_seed(0)
    net = torchvision.models.get_model("resnet50", weights=None, num_classes=classes).eval()
    pictures, labels = torch.randn(20, 3, 64, 64), torch.arange(20)
    stats = cofire.record(net, [(pictures, labels)], progress=False, cofiring="none", covariance=False, maps=False, classes=20)
    with Reader(net, stats) as reader:
        reader.taps.forward(pictures, 20, lambda *_: None)
        plan = plan_of(reader.taps, dict.fromkeys(stats, 0.0), "logits")
    columns = columns_of(stats, list(stats), FEATURES)
    weights = torch.randn(columns.width + 1, classes, dtype=torch.float64) / 100
    head = Rereading.of(Stack(1.0, 0.1, torch.zeros(classes, dtype=torch.float64)), columns, weights, torch.float32)
    head.requires_grad_(False)
    return net, Boosted(net, head, plan, {}), columns.numbers


def seconds(model: torch.nn.Module, pictures: torch.Tensor) -> float:
    """Processor time of a forward pass."""
    start = time.process_time()
    model(pictures)
    return time.process_time() - start


def page(result: dict) -> str:
    """The generated part of docs/benchmarks.md."""
    lines = [
        f"{result['date']}, {result['machine']}, one thread, torch {result['torch']}; {result['rounds']} rounds, "
        f"{result['units']:,} units of 49 layers read.",
        "",
        "| ResNet-50, 224 x 224 | plain, s | boosted | bar |",
        "| --- | --: | --: | --: |",
    ]
    for row in result["rows"]:
        ratio = "**{median:.2f}** ({min:.2f} to {max:.2f})".format(**row["ratio"])
        lines.append(f"| batch of {row['batch']} | {row['seconds']:.3f} | {ratio} | 1.10 |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--quick", action="store_true", help="two rounds, one picture at a time")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/latency.json)")
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    torch.set_num_threads(1)
    net, boosted, units = boosted_resnet()
    rows = []
    with torch.no_grad():
        for batch in (1,) if options.quick else (1, 8):
            pictures = torch.randn(batch, 3, 224, 224)
            seconds(net, pictures), seconds(boosted, pictures)
            times = [(seconds(net, pictures), seconds(boosted, pictures)) for _ in range(options.rounds if batch == 1 else 5)]
            ratio = spread([mine / plain for plain, mine in times])
            rows.append({"batch": batch, "seconds": sorted(plain for plain, _ in times)[len(times) // 2], "ratio": ratio})
    result = {
        **made(f"latency.py --rounds {options.rounds}" + (" --quick" if options.quick else ""), cores=True),
        **VERSIONS,
        "rounds": options.rounds,
        "units": units,
        "rows": rows,
    }
    output = options.output or (None if options.quick else HERE / "latency.json")
    publish(result, page(result), output, "latency", "benchmarks.md", BEGIN, END)


if __name__ == "__main__":
    main()
