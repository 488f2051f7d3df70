"""What watching a training costs: steps of a plain training and of one under cofire.Monitor, in turn in one process.

    python benchmarks/monitor.py --data-root FOLDER     # some minutes
    python benchmarks/monitor.py --quick                # small digits, seconds; writes no file unless told where

One thread, processor time, Adam, batches of 128. Every contender trains a net of its own from the same weights on the same
batches; they take turns step by step. A round ends with ``state_dict``, so that no row that was seen waits for the next; a
ratio is a contender's time over that of the plain training in that round. All are in their second window, where co-firing is
counted too. In the end all must have the same weights, bit for bit. Writes benchmarks/monitor.json and its table on
docs/benchmarks.md.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and torch are loaded

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import torch
import torch.nn.functional as F
from _results import VERSIONS, made, publish
from _timing import spread
from torch import Tensor, nn

import cofire

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- monitor: begin -->", "<!-- monitor: end -->"
EVERY = (1, 10)


class Training:
    """One contender: a net, its optimizer and, where it is watched, its monitor."""

    def __init__(self, net: nn.Module, every: int | None):
        self.net, self.optimizer = net.train(), torch.optim.Adam(net.parameters())
        self.monitor = None if every is None else cofire.Monitor(net, every=every)
        self.seconds = 0.0

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of the training, timed."""
        start = time.process_time()
        F.cross_entropy(self.net(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.monitor is not None:
            self.monitor.step(y)
        self.seconds += time.process_time() - start

    def settle(self) -> None:
        """Take in the rows that wait, timed."""
        start = time.process_time()
        if self.monitor is not None:
            self.monitor.state_dict()
        self.seconds += time.process_time() - start


def compared(title: str, bar: float | None, name: str, batches: list, steps: int, rounds: int) -> dict:
    """One net's results."""
    print(title, file=sys.stderr)
    everyone = {every: Training(cofire.zoo.model(name, classes=10, seed=0), every) for every in (None, *EVERY)}
    watched = [one for one in everyone.values() if one.monitor is not None]
    ratios: dict[int, list[float]] = {every: [] for every in EVERY}
    plain = []
    with ExitStack() as stack:
        for one in watched:
            stack.enter_context(one.monitor)
        for one in everyone.values():
            one.step(*batches[0])
        for one in watched:
            one.monitor.log()  # the first window, which has no co-firing counts
        number = 1
        for turn in range(rounds):
            for one in everyone.values():
                one.seconds = 0.0
            for _ in range(steps):
                for one in list(everyone.values())[:: -1 if number % 2 else 1]:
                    one.step(*batches[number % len(batches)])
                number += 1
            for one in watched:
                one.settle()
            plain.append(everyone[None].seconds / steps)
            for every in EVERY:
                ratios[every].append(everyone[every].seconds / everyone[None].seconds)
            print(f"  round {turn + 1} of {rounds}", file=sys.stderr)
        start = time.process_time()
        scalars = everyone[1].monitor.log()
        log = time.process_time() - start
    weights = [torch.cat([p.flatten() for p in one.net.parameters()]) for one in everyone.values()]
    assert all(torch.equal(weights[0], other) for other in weights[1:]), "watching has changed the training"
    return {
        "title": title, "bar": bar, "steps": steps, "layers": len(everyone[1].monitor.stats), "scalars": len(scalars),
        "seconds_of_a_plain_step": spread(plain), "seconds_of_log": log,
        "ratios": {str(every): {"rounds": ratios[every], **(spread(ratios[every]) or {})} for every in EVERY},
    }  # fmt: skip


def page(result: dict) -> str:
    """The generated part of docs/benchmarks.md."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [f"{result['date']}, {result['machine']}, one thread. {versions}.", ""]
    lines += [
        "| training step, batch 128 | plain, s | every=1 | every=10 | bar | one log(), s |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for row in result["nets"]:
        cells = [row["title"], f"{row['seconds_of_a_plain_step']['median']:.4f}"]
        cells += ["**{median:.2f}** ({min:.2f} to {max:.2f})".format(**row["ratios"][str(every)]) for every in EVERY]
        cells += [f"{row['bar']:.2f}" if row["bar"] else "", f"{row['seconds_of_log']:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="folder of the data sets; else COFIRE_DATA, else ./data")
    parser.add_argument("--quick", action="store_true", help="small digits, two rounds; writes no file unless told where")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; of the ResNet three at most")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/monitor.json)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)

    def batches(data: str, count: int) -> list:
        images = cofire.data.load(data, root=chosen.data_root, limit=128 * count)
        return list(images.batches(128, shuffle=True, seed=0))

    if chosen.quick:
        nets = [compared("64-32-10, digits", None, "fcnn:64-32-10", batches("digits", 8), 40, 2)]
    else:
        nets = [
            compared("784-512-512-10, MNIST", 1.3, "fcnn:784-512-512-10", batches("mnist", 64), 160, chosen.rounds),
            compared(
                "ResNet-18, CIFAR-10 at 32x32", 1.1, "zoo:resnet18_cifar", batches("cifar10", 8), 10, min(3, chosen.rounds)
            ),
        ]
    result = {
        **made(" ".join(["monitor.py", *sys.argv[1:]]), cores=True), "quick": chosen.quick, "versions": VERSIONS,
        "nets": nets,
    }  # fmt: skip
    output = chosen.output or (None if chosen.quick else HERE / "monitor.json")
    publish(result, page(result), output, "monitor", "benchmarks.md", BEGIN, END)


if __name__ == "__main__":
    main()
