"""Attention heads that go: accuracy of a small transformer of pictures without some, by order, with and without compensation.

    python benchmarks/heads.py --data-root data       # most of an hour at one thread, nearly all of it training
    python benchmarks/heads.py --quick                # digits, seconds; writes no file unless told where

A vision transformer of timm's form with four blocks of four heads, trained with cofire.fit. Nets are trained once and kept in
--cache. Random orders are five, drawn for each block. Writes benchmarks/heads.json and its table of docs/ablation.md.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from _results import VERSIONS, made, publish
from torch import nn

import cofire
from cofire.data import Images
from cofire.heads import Heads
from cofire.nets import seeded
from cofire.plans import Plan
from cofire.pruning import accuracy_of
from cofire.weights import load_weights, save_weights

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- heads: begin -->", "<!-- heads: end -->"
DEPTH, HEADS, RANDOM = 4, 4, 5
ORDERS = ("obs", "reconstruction", "weight_std", "random")
WAYS = {"bare": "no compensation", "compensated": "compensation", "loss": 'compensation, across="loss"'}


class Setting(NamedTuple):
    """A net and its training."""

    data: str
    size: int
    channels: int
    patch: int
    width: int
    epochs: int
    batch: int


FULL = Setting("cifar10", 32, 3, 4, 64, 6, 128)
QUICK = Setting("digits", 8, 1, 4, 32, 4, 32)


def trained(setting: Setting, train: Images, seed: int, cache: Path) -> nn.Module:
    """A net after its training, from the cache where it has been trained before."""
    with seeded(seed):
        net = timm.models.VisionTransformer(
            img_size=setting.size, in_chans=setting.channels, patch_size=setting.patch, embed_dim=setting.width,
            num_classes=10, depth=DEPTH, num_heads=HEADS, mlp_ratio=2,
        )  # fmt: skip
    path = cache / f"heads-{setting.data}-{len(train)}-{setting.epochs}-{seed}.safetensors"
    if path.exists():
        load_weights(net, path)
    else:
        cofire.fit(net, train, epochs=setting.epochs, batch_size=setting.batch, schedule="cosine", seed=seed, progress=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(net, path)
    return net.eval()


def measured(setting: Setting, seed: int, options) -> list[dict]:
    """Accuracies of one net without one, two and three of the four heads of every block."""
    train, test = (cofire.data.load(setting.data, part, root=options.data_root) for part in ("train", "test"))
    net = trained(setting, train, seed, options.cache)
    shuffle = torch.Generator().manual_seed(0)
    unseen = list(test.subset(torch.randperm(len(test), generator=shuffle)[: options.test]).batches(250))
    known = list(train.subset(torch.randperm(len(train), generator=shuffle)[: options.known]).batches(250))
    stats = cofire.record(net, known, progress=False)
    names = [f"blocks.{block}.attn" for block in range(DEPTH)]
    plan = Plan(net, known[0], stats, names, known, heads=True)
    groups = [group for group in plan.groups if isinstance(group, Heads)]

    def row(by: str, way: str, orders: list[torch.Tensor], draw: int = 0) -> dict:
        costs = plan.costs(orders) if way == "loss" else None
        found = []
        for kept in range(HEADS - 1, 0, -1):
            small = plan.smaller(orders, plan.counts(kept / HEADS, costs), way != "bare")
            found.append(round(accuracy_of(small, unseen, 10), 4))
        print(seed, by, way, draw, found, flush=True)
        return {"seed": seed, "base": base, "by": by, "way": way, "draw": draw, "accuracy": found}

    base, rows = round(accuracy_of(net, unseen, 10), 4), []
    for by in ORDERS[:-1]:
        rows += [row(by, way, plan.order(by)) for way in WAYS if way != "loss" or by == "obs"]
    generator = torch.Generator().manual_seed(seed)
    for draw in range(RANDOM):
        orders = [torch.randperm(group.units, generator=generator) for group in groups]
        rows += [row("random", way, orders, draw) for way in WAYS]
    return rows


def page(result: dict) -> str:
    """The generated part of docs/ablation.md."""
    rows, setting = result["rows"], QUICK if result["quick"] else FULL
    base = {row["seed"]: row["base"] for row in rows}
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, timm "
        f"{result['timm']}, cofire {result['cofire']}.",
        "",
        f"**Attention heads**: a vision transformer of {DEPTH} blocks of {HEADS} heads, {setting.width} wide, {setting.data}, "
        f"{setting.epochs} epochs, seeds {sorted(base)}; accuracy {sum(base.values()) / len(base):.1%} of {result['test']:,} "
        f"test images. What heads give, and the fit, are of {result['known']:,} training images. Accuracy without some of the "
        f"heads, mean over seeds, and over {RANDOM} draws and the least and largest of them where order is chance:",
        "",
        f"| order | removed how | {' | '.join(f'{kept} of {HEADS} heads left' for kept in range(HEADS - 1, 0, -1))} |",
        f"| --- | --- |{' --: |' * (HEADS - 1)}",
    ]
    for by in ORDERS:
        for way, words in WAYS.items():
            found = [row["accuracy"] for row in rows if (row["by"], row["way"]) == (by, way)]
            if found:
                lines.append(
                    f"| {by} | {words} | {' | '.join(map(spread if by == 'random' else mean, zip(*found, strict=True)))} |"
                )
    return "\n".join(lines)


def mean(values) -> str:
    """Mean of some accuracies."""
    return f"{sum(values) / len(values):.1%}"


def spread(values) -> str:
    """Mean of some accuracies, and the least and largest."""
    return f"{mean(values)} ({min(values):.1%} to {max(values):.1%})"


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--test", type=int, default=2000, help="test images to measure on")
    parser.add_argument("--known", type=int, default=2000, help="training images that pruning may look at")
    parser.add_argument("--quick", action="store_true", help="a net on digits, one seed")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cofire-heads")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/heads.json)")
    options = parser.parse_args()
    setting = QUICK if options.quick else FULL
    if options.quick:
        options.seeds, options.test, options.known = 1, 360, 500
    result = {
        **made(f"heads.py --seeds {options.seeds}" + (" --quick" if options.quick else "")), **VERSIONS,
        "timm": timm.__version__, "quick": options.quick, "test": options.test, "known": options.known,
        "rows": [row for seed in range(options.seeds) for row in measured(setting, seed, options)],
    }  # fmt: skip
    output = options.output or (None if options.quick else HERE / "heads.json")
    publish(result, page(result), output, "heads", "ablation.md", BEGIN, END)


if __name__ == "__main__":
    main()
