"""Pruning three nets: how many units can go at a loss of one point, by order, beside torch-pruning and chance.

    python benchmarks/pruning.py --data-root data                                  # some hours at one thread
    python benchmarks/pruning.py --data-root data --nets VGG-16 --seeds 2          # rows of others stay as they were written
    python benchmarks/pruning.py --data-root data --quick --output pruning.json    # minutes; checks that it runs

Writes benchmarks/pruning.json and the table of docs/ablation.md after every net. Nets are trained once and kept in --cache.
ResNet-18 and VGG-16 have a quarter of the usual width, and training is short. No number is tuned on the test images that the
tables are of; the best of torch-pruning's rows is chosen on others.
"""

import argparse
import copy
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torch_pruning
from _results import publish
from torch import nn
from torch_pruning import importance

import cofire
from cofire.data import Images
from cofire.files import atomic
from cofire.grouping import Group
from cofire.plans import Plan
from cofire.pruning import accuracy_of
from cofire.weights import load_weights, save_weights

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- pruned nets: begin -->", "<!-- pruned nets: end -->"
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)
TUNED = 0.5
"""Share removed before the epoch of fine-tuning."""
OURS = (
    "obs", "reconstruction", "weight_std", "fisher", "mutual_information", "activation_entropy", "kl_selectivity", "random",
)  # fmt: skip
PEERS = {
    "magnitude": importance.GroupMagnitudeImportance(),
    "magnitude, L1": importance.GroupMagnitudeImportance(p=1),
    "BN scale": importance.BNScaleImportance(),
    "Taylor": importance.GroupTaylorImportance(),
    "Hessian": importance.GroupHessianImportance(),
}
"""torch-pruning's, as its documentation makes them."""
MAIN = ("magnitude", "Taylor")
"""Those of them that are tried with cofire's compensation and with batch norms taken again."""
PARTS = ("net", "seed", "source", "by", "way")
"""What names a row."""
WAYS = {
    "bare": "no compensation",
    "compensated": "compensation",
    "loss": 'compensation, across="loss"',
    "global": "no compensation, global",
    "norms": "no compensation, global, batch norms taken again",
}
PEER_WAYS = ("bare", "global")
"""torch-pruning's own."""


class Setting(NamedTuple):
    """A net: what makes it from a seed, what it is trained on and how."""

    make: object
    data: str
    epochs: int
    lr: float
    words: str


NETS = {
    "FCNN": Setting(partial(cofire.zoo.model, "zoo:001-mnist"), "mnist", 10, 1e-3, "784-512-512-10, MNIST"),
    "ResNet-18": Setting(partial(cofire.zoo.resnet18_cifar, 10, width=16), "cifar10", 3, 3e-3, "a quarter as wide, CIFAR-10"),
    "VGG-16": Setting(partial(cofire.zoo.vgg16_cifar, 10, width=16), "cifar10", 4, 3e-3, "a quarter as wide, CIFAR-10"),
}
QUICK = {
    "FCNN": Setting(partial(cofire.zoo.model, "fcnn:64-48-32-10"), "digits", 4, 3e-3, "64-48-32-10, digits"),
    "ResNet-18": Setting(partial(cofire.zoo.resnet18_cifar, 10, channels=1, width=4), "digits", 1, 3e-3, "slim, digits"),
}


class Row(NamedTuple):
    """Accuracies of smaller and smaller nets, by the share of units that is gone."""

    removed: list[float]
    accuracy: list[float]
    chosen_on: list[float] | None
    operations: list[float]


def trained(name: str, train: Images, seed: int, options) -> nn.Module:
    """A net after its short training, from the cache where it has been trained before."""
    setting = options.settings[name]
    net = setting.make(seed=seed)
    path = options.cache / f"{name}-{len(train)}-{setting.epochs}-{seed}.safetensors"
    if path.exists():
        load_weights(net, path)
    else:
        net.to(memory_format=torch.channels_last)
        cofire.fit(
            net, train, epochs=setting.epochs, lr=setting.lr, batch_size=128, schedule="cosine", seed=seed, progress=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(net.to(memory_format=torch.contiguous_format), path)
    return net.eval()


class Bench:
    """One net with one seed, and the data that it is pruned and measured with."""

    def __init__(self, name: str, seed: int, options):
        root, data = options.data_root, options.settings[name].data
        self.name, self.seed, self.options = name, seed, options
        train = cofire.data.load(data, "train", root=root, limit=options.limit)
        self.train, self.net = shuffled(train, seed), trained(name, train, seed, options)
        test = shuffled(cofire.data.load(data, "test", root=root), 0)
        self.choose = list(test.subset(range(options.test)).batches(250))
        self.test = list(test.subset(range(options.test, 3 * options.test)).batches(250))
        self.known = list(self.train.subset(range(min(options.known, len(self.train)))).batches(250))
        stats = cofire.record(self.net, self.known, progress=False, covariance=True)
        self.plan = Plan(self.net, self.known[0], stats, batches=self.known[:2], fisher=True, samples=options.fit)
        self.groups: list[Group] = self.plan.groups
        self.units = sum(group.units for group in self.groups)
        self.head = [module for module in self.net.modules() if isinstance(module, nn.Linear)][-1]
        self.graph = torch_pruning.DependencyGraph().build_dependency(self.net, self.known[0][0][:2])

    def removed(self, made: nn.Module) -> float:
        """Share of the units that a smaller net is without."""
        left = 0
        for group in self.groups:
            weights = [made.get_submodule(member.module).weight for member in group.members if member.side == "out"]
            left += len(next(weight for weight in weights if weight.ndim > 1))  # not a batch norm's
        return 1 - left / self.units

    def row(self, make, choose: bool) -> Row:
        """Measure the nets that are made without each share of the units."""
        row = Row([], [], [] if choose else None, [])
        whole = cofire.cost(self.net, self.known[0][0][:1], repeats=1).flops
        for share in SHARES:
            made = make(share).to(memory_format=torch.channels_last)
            row.removed.append(round(self.removed(made), 4))
            row.accuracy.append(round(accuracy_of(made, self.test, 10), 4))
            if row.chosen_on is not None:
                row.chosen_on.append(round(accuracy_of(made, self.choose, 10), 4))
            row.operations.append(round(cofire.cost(made, self.known[0][0][:1], repeats=1).flops / whole, 4))
        return row

    def ours(self, by, way: str):
        """What makes nets that cofire prunes, by the share that goes."""
        orders = self.plan.order(by)
        costs = self.plan.costs(orders) if way == "loss" else None
        return lambda share: self.plan.smaller(orders, self.plan.counts(1 - share, costs), compensate=way != "bare")

    def scores(self, rate: importance.Importance) -> dict[str, torch.Tensor]:
        """torch-pruning's importance of the units of every group, by the module that its group begins with.

        Its gradients are those of all known samples; the Hessian's, which needs each sample's own, are of 250. They are summed
        here, for its own ``accumulate_grad`` (1.6) keeps the last sample's only.
        """
        self.net.requires_grad_(True).zero_grad()
        if isinstance(rate, importance.GroupHessianImportance):
            squares = [torch.zeros_like(parameter) for parameter in self.net.parameters()]
            for image, label in zip(*self.known[0], strict=True):
                loss = F.cross_entropy(self.net(image[None]), label[None])
                for square, slope in zip(squares, torch.autograd.grad(loss, list(self.net.parameters())), strict=True):
                    square += slope.square() / len(self.known[0][1])
            for parameter, square in zip(self.net.parameters(), squares, strict=True):
                parameter.grad = square
        elif isinstance(rate, importance.GroupTaylorImportance):
            for inputs, labels in self.known:
                F.cross_entropy(self.net(inputs), labels).backward()
        names = {module: path for path, module in self.net.named_modules()}
        found = self.graph.get_all_groups(ignored_layers=[self.head], root_module_types=[nn.Conv2d, nn.Linear])
        scores = {names[group[0].dep.target.module]: rate(group) for group in found}
        self.net.zero_grad()
        return scores

    def pruned_by_peer(self, scores: dict[str, torch.Tensor], share: float, way: str) -> nn.Module:
        """A net that torch-pruning prunes: the same share of every group, or what is lowest of all."""
        made = copy.deepcopy(self.net)
        names = {module: path for path, module in made.named_modules()}
        torch_pruning.pruner.BasePruner(
            made, self.known[0][0][:2], importance=lambda group: scores[names[group[0].dep.target.module]], pruning_ratio=share,
            global_pruning=way != "bare", ignored_layers=[made.get_submodule(name_of(self.net, self.head))],
        ).step()  # fmt: skip
        if way == "norms":
            norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # the mean over all batches
                norm.train()
            with torch.no_grad():
                for inputs, _ in self.known[:2]:
                    made(inputs)
        return made.eval()

    def for_plan(self, scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """torch-pruning's scores by layer."""
        found = {}
        for group in self.groups:
            giver = next(member.module for member in group.members if member.side == "out" and member.module in scores)
            found[group.layers[0]] = scores[giver]
        return found

    def makers(self):
        """What makes smaller nets by the share that goes: source, order, way and the maker, one after the other."""
        norms = any(isinstance(module, nn.BatchNorm2d) for module in self.net.modules())
        for by in OURS:
            for way in ("bare", "compensated", *(["loss"] if by in ("obs", "random") else [])):
                if by in self.options.by:
                    yield "cofire", by, way, self.ours(by, way)
        for by, rate in PEERS.items():
            if by not in self.options.by or (not norms and isinstance(rate, importance.BNScaleImportance)):
                continue
            scores = self.scores(rate)
            for way in ("bare", "global", *(["norms"] if norms and by in MAIN else [])):
                yield "torch-pruning", by, way, partial(self.pruned_by_peer, scores, way=way)
            for way in ("compensated", "loss") if by in MAIN else ():
                yield "torch-pruning", by, way, self.ours(self.for_plan(scores), way)

    def rows(self) -> Iterator[dict]:
        """Accuracy without each of the shares."""
        base, chosen_on = (accuracy_of(self.net, part, 10) for part in (self.test, self.choose))
        for source, by, way, make in self.makers():
            row = self.row(make, source == "torch-pruning" and way in PEER_WAYS)
            entry = {"net": self.name, "seed": self.seed, "source": source, "by": by, "way": way, "base": round(base, 4)}
            entry |= row._asdict() | {
                "removable": removable(row.removed, row.accuracy, base),
                "removable_chosen_on": row.chosen_on and removable(row.removed, row.chosen_on, chosen_on),
            }
            print(*(entry[key] for key in ("net", "seed", "source", "by", "way", "removable")), entry["accuracy"], flush=True)
            yield entry

    def tuned(self) -> Iterator[dict]:
        """Accuracy after one more epoch of training, of nets without half of their units, and of the whole net."""
        train = self.train.subset(range(min(self.options.tune, len(self.train))))
        for source, by, way, make in chain([("whole", "", "", lambda _: copy.deepcopy(self.net))], self.makers()):
            if way == "norms":  # training takes them again anyway
                continue
            made = make(TUNED)
            before = accuracy_of(made, self.test, 10)
            made.requires_grad_(
                True
            )  # not in channels-last format: with some odd widths PyTorch 2.15 crashes in backward there
            cofire.fit(made, train, epochs=1, lr=3e-4, batch_size=128, seed=self.seed, progress=False)
            after = accuracy_of(made, self.test, 10)
            entry = {"net": self.name, "seed": self.seed, "source": source, "by": by, "way": way}
            entry |= {"before": round(before, 4), "after": round(after, 4)}
            print("one epoch", *entry.values(), flush=True)
            yield entry


def shuffled(images: Images, seed: int) -> Images:
    """The pictures in another order: files are in the order of the classes."""
    return images.subset(torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)))


def name_of(net: nn.Module, wanted: nn.Module) -> str:
    """The name of a module."""
    return next(path for path, module in net.named_modules() if module is wanted)


def removable(removed: list[float], accuracy: list[float], base: float, loss: float = 0.01) -> float:
    """Share of the units that can go before accuracy has fallen by a point, by straight lines between the shares tried.

    >>> removable([0.1, 0.2], [0.9, 0.87], 0.9)
    0.1333
    """
    before, drop = 0.0, 0.0
    for share, found in zip(removed, accuracy, strict=True):
        fall = base - found
        if fall > loss:
            return round(before + (share - before) * (loss - drop) / (fall - drop), 4)
        before, drop = share, max(fall, 0.0)
    return before


def mean(values) -> float:
    """Mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)


def spread(values) -> str:
    """Mean of some shares, and the least and largest of several."""
    values = list(values)
    return f"{mean(values):.0%} ({min(values):.0%} to {max(values):.0%})" if len(values) > 1 else f"{values[0]:.0%}"


def place(key: tuple[str, str, str]) -> tuple[int, int]:
    """Where a row of a table stands, by its source, order and way."""
    _, by, way = key
    orders, ways = ["", *OURS, *PEERS], ["", *WAYS]
    return orders.index(by), ways.index(way)


def best_peer(rows: list[dict]) -> tuple[str, str]:
    """The row of torch-pruning's that removes most on the images that are for choosing."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["source"] == "torch-pruning" and row["way"] in PEER_WAYS:
            found.setdefault((row["by"], row["way"]), []).append(row["removable_chosen_on"])
    return max(found, key=lambda key: mean(found[key]))


def page(result: dict) -> str:
    """The generated part of docs/ablation.md."""
    rows, settings = result["rows"], QUICK if result["quick"] else NETS
    nets = [name for name in NETS if any(row["net"] == name for row in rows)]
    seeds = {name: sorted({row["seed"] for row in rows if row["net"] == name}) for name in nets}
    base = {name: mean({row["seed"]: row["base"] for row in rows if row["net"] == name}.values()) for name in nets}
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, torch-pruning "
        f"{result['torch_pruning']}, cofire {result['cofire']}. Accuracy is of {2 * result['test']:,} test images. Statistics "
        f"and torch-pruning's gradients are of {result['known']:,} training images (the Hessian's of 250), covariances over "
        f"positions and gradients of `fisher` of 500, and modules are fitted along the way on {result['fit']}.",
        "",
        *(
            f"- {name}: {settings[name].words}, {settings[name].epochs} epochs, seeds {seeds[name]}, accuracy {base[name]:.1%}."
            for name in nets
        ),
        "",
        "**Share of the units that can go at a loss of one point, without fine-tuning**, mean and range over seeds:",
        "",
        f"| order | removed how | {' | '.join(nets)} |",
        "| --- | --- |" + " --: |" * len(nets),
    ]
    for source, by, way in sorted({(row["source"], row["by"], row["way"]) for row in rows}, key=place):
        found = [
            [row["removable"] for row in rows if (row["net"], row["source"], row["by"], row["way"]) == (name, source, by, way)]
            for name in nets
        ]
        title = f"{by} (torch-pruning)" if source == "torch-pruning" else by
        lines.append(f"| {title} | {WAYS[way]} | {' | '.join(spread(values) if values else '' for values in found)} |")
    lines += ["", "**Against torch-pruning's best**, the row that removes most on test images of another part:", ""]
    lines += ['| net | torch-pruning\'s best | it removes | `obs`, compensated | times | `obs`, `across="loss"` | times |']
    lines += ["| --- | --- | --: | --: | --: | --: | --: |"]
    for name in nets:
        of_net = [row for row in rows if row["net"] == name]
        if not {"torch-pruning", "cofire"} <= {row["source"] for row in of_net}:
            continue
        by, way = best_peer(of_net)
        peer = mean(row["removable"] for row in of_net if (row["by"], row["way"]) == (by, way))
        cells = []
        for how in ("compensated", "loss"):
            own = mean(row["removable"] for row in of_net if (row["source"], row["by"], row["way"]) == ("cofire", "obs", how))
            cells += [f"{own:.0%}", f"{own / peer:.1f}" if peer else ""]
        lines.append(f"| {name} | {by}, {WAYS[way]} | {peer:.0%} | {' | '.join(cells)} |")
    if result["tuned"]:
        lines += [
            "",
            f"**Without {TUNED:.0%} of the units → after one epoch of {result['tune']:,} images**, test accuracy:",
            "",
        ]
        lines += [f"| order | removed how | {' | '.join(nets)} |", "| --- | --- |" + " --: |" * len(nets)]
        for key in sorted({(row["source"], row["by"], row["way"]) for row in result["tuned"]}, key=place):
            cells = []
            for name in nets:
                found = [row for row in result["tuned"] if (row["net"], row["source"], row["by"], row["way"]) == (name, *key)]
                cells.append(f"{mean(r['before'] for r in found):.1%} → {mean(r['after'] for r in found):.1%}" if found else "")
            source, by, way = key
            title = "the whole net" if source == "whole" else f"{by} (torch-pruning)" if source == "torch-pruning" else by
            lines.append(f"| {title} | {WAYS.get(way, '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written(options) -> dict:
    """What the file holds, if it was measured in the same way."""
    keys = ("limit", "test", "known", "fit", "tune", "quick")
    if options.output.exists():
        held = json.loads(options.output.read_text("utf8"))
        if all(held.get(key) == getattr(options, key) for key in keys):
            return held
    return {"rows": [], "tuned": []} | {key: getattr(options, key) for key in keys}


def keep(options, part: str, row: dict) -> None:
    """Write a row in place of an earlier one of its kind, as soon as it is measured; another process may write others."""
    result = written(options)
    names = [row[key] for key in PARTS]
    rows = [row, *(other for other in result[part] if [other[key] for key in PARTS] != names)]
    result[part] = sorted(rows, key=lambda row: (list(NETS).index(row["net"]), row["seed"]))
    result |= {
        "command": "python benchmarks/pruning.py" + (" --quick" if options.quick else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()} {platform.system()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__, "torch_pruning": torch_pruning.__version__, "cofire": cofire.__version__,
    }  # fmt: skip
    with atomic(options.output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--nets", nargs="+", choices=NETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--by", nargs="+", choices=(*OURS, *PEERS), default=(*OURS, *PEERS), help="orders to try")
    parser.add_argument("--limit", type=int, help="training images; all by default")
    parser.add_argument("--test", type=int, default=500, help="test images to choose on; twice as many are measured on")
    parser.add_argument("--known", type=int, default=2000, help="training images that pruning may look at")
    parser.add_argument("--fit", type=int, default=250, help="those of them on which modules are fitted one after the other")
    parser.add_argument("--tune", type=int, default=10_000, help="training images of the epoch of fine-tuning")
    parser.add_argument("--parts", nargs="+", choices=("rows", "tuned"), default=["rows", "tuned"], help="tables to fill")
    parser.add_argument("--quick", action="store_true", help="small nets on digits")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "cofire-pruning")
    parser.add_argument("--output", type=Path, default=HERE / "pruning.json")
    options = parser.parse_args()
    options.settings = QUICK if options.quick else NETS
    if options.quick:
        options.test, options.known, options.tune = 100, 500, 500
    for name in options.nets or options.settings:
        for seed in options.seeds:
            bench = Bench(name, seed, options)
            for part in options.parts:
                for row in getattr(bench, part)():
                    keep(options, part, row)
            result = written(options)
            publish(result, page(result), options.output, "pruning", "ablation.md", BEGIN, END)


if __name__ == "__main__":
    main()
