"""Familiarity and trust beside what others use, on real data: wrong predictions, and inputs from elsewhere.

    python benchmarks/trust.py --data-root data                    # about an hour, most of it for NAC
    python benchmarks/trust.py --quick                             # digits, seconds; writes no file unless told where

Small nets: 784-512-512-10 for MNIST and Fashion-MNIST, three strided convolutions and a hidden layer for CIFAR-10 and
PlantVillage at 32x32. Everything is fitted on training data; heads are scored on parts of the test set that they were not
fitted on. NAC is pytorch-ood's, where that is installed; since its settings matter, it is run with several, and the one that is
best on the very data of a table stands in it, which is more than it could have in use. Writes benchmarks/trust.json and the
tables of docs/trust.md.
"""

import argparse
import importlib.util
import itertools
import os
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from _results import VERSIONS, made, publish
from torch import Tensor, nn

import cofire
from cofire import detection, rivals
from cofire.nets import seeded
from cofire.readings import Reader
from cofire.selective import CONTROL, HEAD
from cofire.trusting import cross_fitted

HERE = Path(__file__).resolve().parent
SETS = {
    "mnist": {"other": ("fashion-mnist", "test"), "epochs": 4},
    "fashion-mnist": {"other": ("mnist", "test"), "epochs": 8},
    "cifar10": {"other": ("cifar100", "test"), "epochs": 8},
    "plantvillage": {"other": ("plantvillage", "ood"), "epochs": 12},
}
NAC = "NAC"
BANK = 5_000  # training samples that distances and neighbours are fitted on


def convolutional(classes: int, seed: int) -> nn.Sequential:
    """Three strided convolutions and a hidden layer, for pictures of 3 x 32 x 32."""
    layers: dict[str, nn.Module] = {}
    with seeded(seed):
        for index, (before, width) in enumerate(((3, 32), (32, 64), (64, 96)), 1):
            layers[f"conv{index}"] = nn.Conv2d(before, width, 3, stride=2, padding=1)
            layers[f"relu{index}"] = nn.ReLU()
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(96 * 16, 128), "relu4": nn.ReLU(), "head": nn.Linear(128, classes)}
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


class Seen:
    """What some data showed: outputs, last hidden layer, pixels and familiarity."""

    def __init__(self, net: nn.Module, stats: cofire.FiringStats, images, ways: Iterable[str]):
        inputs = [x for x, _ in images.batches(256)]
        batches = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in inputs]  # their labels may be of other classes
        last = list(stats)[-1]
        with Reader(net, stats) as reader:
            readings = [(reading.logits, reading.units[last]) for reading in reader.over(batches)]
        self.logits, self.features = (torch.cat(parts) for parts in zip(*readings, strict=True))
        self.labels, self.inputs = images.labels, inputs
        pixels = torch.cat(inputs)
        self.pixels = (F.avg_pool2d(pixels, 2) if pixels[0].numel() > 1000 else pixels).flatten(1)
        self.familiar = {at: cofire.familiarity(stats, net, batches, at=at) for at in ways}


def nac(net: nn.Module, stats: cofire.FiringStats, bank: Seen) -> dict:
    """Neuron activation coverage of pytorch-ood by its settings; nothing where it is not installed."""
    if importlib.util.find_spec("pytorch_ood") is None:
        return {}
    from pytorch_ood.detector import NACUE

    found = {}
    for names, alpha, filled in itertools.product((list(stats), list(stats)[-1:]), (1.0, 10.0, 100.0, 1000.0), (50, 500)):
        layers = [net.get_submodule(name) for name in names]
        detector = NACUE(net, layers=layers, alpha=alpha, o_star=filled).fit(bank.inputs)
        found[f"{NAC} {len(found)}"] = lambda seen, detector=detector: -torch.cat([detector.predict(x) for x in seen.inputs])
    return found


def best_of(values: dict[str, Tensor], strange: Tensor) -> dict[str, Tensor]:
    """The scores with NAC in the best of its settings alone."""
    settings = {name: value for name, value in values.items() if name.startswith(f"{NAC} ")}
    others = {name: value for name, value in values.items() if name not in settings}
    if settings:
        best = max(settings.values(), key=lambda value: detection.auroc(-value, strange))
        others[f"{NAC}, best of {len(settings)} settings"] = best
    return others


def fitted(net: nn.Module, stats: cofire.FiringStats, bank: Seen) -> dict:
    """Every score as a function of what data showed, larger where it is more trusted or more like the training data."""
    vim = rivals.vim(bank.features, bank.logits)
    scores = {name: (lambda seen, name=name: rivals.output_scores(seen.logits)[name]) for name in rivals.OUTPUTS}
    for name, score in (
        ("KNN", rivals.nearest(bank.features)),
        ("Mahalanobis", rivals.mahalanobis(bank.features, bank.labels)),
        ("relative Mahalanobis", rivals.mahalanobis(bank.features, bank.labels, relative=True)),
        ("Mahalanobis, normalised", rivals.mahalanobis(bank.features, bank.labels, normalised=True)),
    ):
        scores[name] = lambda seen, score=score: score(seen.features)
    scores["ViM"] = lambda seen: vim(seen.features, seen.logits)
    scores |= nac(net, stats, bank)
    pixels = rivals.gaussian(bank.pixels)
    scores["pixel Gaussian, no network"] = lambda seen: pixels(seen.pixels)
    for at in bank.familiar:
        scores[f"familiarity, {at}"] = lambda seen, at=at: seen.familiar[at].score
        scores[f"familiarity, {at}, last layer"] = lambda seen, at=at: list(seen.familiar[at].layers.values())[-1]
    for name, other in (("Mahalanobis, normalised", "normalised Mahalanobis"), ("msp", "msp")):
        ours = f"familiarity, {list(bank.familiar)[-1]}"
        scores[f"{other} + {ours}"] = summed(scores[name], scores[ours], bank)
    return scores


def summed(first, second, bank: Seen):
    """Sum of two scores, each standardised on training data."""
    known = [(score, score(bank).double()) for score in (first, second)]
    return lambda seen: sum((score(seen).double() - values.mean()) / values.std() for score, values in known)


def figures(score: Tensor, strange: Tensor, wrong: bool) -> dict[str, float]:
    """The figures of one score; `strange` are wrong predictions or inputs from elsewhere."""
    low, high = detection.auroc_interval(-score, strange)
    found = {
        "auroc": detection.auroc(-score, strange), "low": low, "high": high,
        "aupr_strange": detection.average_precision(-score, strange),
        "aupr_known": detection.average_precision(score, ~strange), "fpr95": detection.fpr_at(-score, strange),
    }  # fmt: skip
    if wrong:
        found |= {name: getattr(detection, name)(score, strange) for name in ("aurc", "e_aurc", "augrc")}
    return {name: round(value, 5) for name, value in found.items()}


def run(data: str, root, limit: int, epochs: int, seed: int) -> list[dict]:
    """One net: its wrong predictions on the test set, and the other data beside its test set."""
    size = {"size": 32} if data == "plantvillage" else {}
    train, test = (cofire.data.load(data, split, root=root, **size) for split in ("train", "test"))
    if limit < len(train):
        train = cofire.data.load(data, "train", root=root, limit=limit, **size)
    if data == "digits":
        net = cofire.zoo.model("fcnn:64-32-10", seed=seed)
    elif data.endswith("mnist"):
        net = cofire.zoo.model("zoo:001-mnist", seed=seed)
    else:
        net = convolutional(len(train.classes), seed)
    history = cofire.fit(net, train, test, epochs=epochs, seed=seed, progress=False)
    stats = cofire.record(net, train.batches(256), progress=False)
    shown = {"data": data, "seed": seed, "accuracy": round(history.test_accuracy[-1], 4)}
    # Units of pooled convolutions fire for nearly every picture: there, only "mean" is worth its row.
    ways = ("mean",) if isinstance(net, nn.Sequential) and hasattr(net, "conv1") else ("threshold", "mean")

    generator = torch.Generator().manual_seed(seed)
    bank = Seen(net, stats, train.subset(torch.randperm(len(train), generator=generator)[:BANK]), ways)
    here = Seen(net, stats, test, ways)
    scores = fitted(net, stats, bank)
    values = {name: score(here).double() for name, score in scores.items()}

    rows = []
    trusts = {at: cofire.trust(net, train.batches(256), stats, validation=test.batches(256), at=at, seed=seed) for at in ways}
    for at, found in trusts.items():
        if found.head is not None:
            values["outputs + class"] = found.scores[CONTROL]
            values[f"trust head, {at}"] = found.scores[HEAD]
    wrong = trusts[ways[0]].wrong
    if trusts[ways[0]].head is not None:
        columns = [values[name] for name in (*rivals.OUTPUTS, "KNN", "Mahalanobis, normalised")]
        values["outputs + neighbours"] = cross_fitted(torch.stack(columns, 1), ~wrong, seed)
    for name, score in best_of(values, wrong).items():
        gain = detection.auroc_difference(-score, -values["msp"], wrong)
        rows.append(
            {
                **shown,
                "task": "wrong",
                "score": name,
                "gain": [round(value, 5) for value in gain],
                **figures(score, wrong, True),
            }
        )
    for at, found in trusts.items():
        if found.head is not None:
            beyond = detection.auroc_difference(-found.scores[HEAD], -found.scores[CONTROL], wrong)
            rows.append(
                {**shown, "task": "answer", "at": at, "answer": found.answer, "beyond": [round(value, 5) for value in beyond]}
            )
    agreeing = here.familiar[ways[0]].agrees.sum(1)
    for count in range(len(stats) + 1):
        among = ~wrong[agreeing == count]
        rows.append(
            {
                **shown,
                "task": "agreement",
                "agreeing": count,
                "layers": len(stats),
                "samples": len(among),
                "right": int(among.sum()),
            }
        )

    if data in SETS:
        name, split = SETS[data]["other"]
        there = Seen(net, stats, cofire.data.load(name, split, root=root, **size), ways)
        strange = torch.arange(len(here.labels) + len(there.labels)) >= len(here.labels)
        both = {score: torch.cat([values[score], function(there).double()]) for score, function in scores.items()}
        for score, value in best_of(both, strange).items():
            rows.append(
                {**shown, "task": "elsewhere", "other": f"{name} {split}", "score": score, **figures(value, strange, False)}
            )
    return rows


def mean(values: Iterable[float]) -> float:
    """Mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)


def page(result: dict) -> str:
    """The generated part of docs/trust.md."""
    rows = result["rows"]
    sets = list(dict.fromkeys(row["data"] for row in rows))
    accuracy = {data: mean(row["accuracy"] for row in rows if row["data"] == data) for data in sets}
    lines = [
        f"Made by `{result['command']}` on {result['date']}, {result['machine']}, torch {result['torch']}, cofire "
        f"{result['cofire']}; means over {result['seeds']} seeds. Test accuracy: "
        + ", ".join(f"{data} {share:.1%}" for data, share in accuracy.items())
        + f". {BANK:,} training samples for distances and neighbours.",
    ]
    for data in sets:
        lines += [
            "",
            f"**Wrong predictions, {data}**; gain is that of AUROC over MSP in points, in brackets the seeds in which its 95 % "
            "interval lies above / below 0; AURC, E-AURC and AUGRC times 1,000:",
            "",
            "| score | AUROC | gain | AUPR wrong | AUPR right | FPR at 95 % | AURC | E-AURC | AUGRC |",
            "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
        ]
        found = [row for row in rows if row["data"] == data and row["task"] == "wrong"]
        ranked = []
        for score in dict.fromkeys(row["score"] for row in found):
            mine = [row for row in found if row["score"] == score]
            cells = [f"{100 * mean(row['auroc'] for row in mine):.1f}"]
            up, down = sum(row["gain"][1] > 0 for row in mine), sum(row["gain"][2] < 0 for row in mine)
            cells.append(f"{100 * mean(row['gain'][0] for row in mine):+.2f} ({up} / {down})" if score != "msp" else "")
            cells += [f"{100 * mean(row[key] for row in mine):.1f}" for key in ("aupr_strange", "aupr_known", "fpr95")]
            cells += [f"{1000 * mean(row[key] for row in mine):.2f}" for key in ("aurc", "e_aurc", "augrc")]
            ranked.append((mean(row["auroc"] for row in mine), f"| {score} | " + " | ".join(cells) + " |"))
        lines += [line for _, line in sorted(ranked, reverse=True)]
        for at in dict.fromkeys(row["at"] for row in rows if row["data"] == data and row["task"] == "answer"):
            mine = [row for row in rows if row["data"] == data and row["task"] == "answer" and row["at"] == at]
            heads = sum(row["answer"] != "msp" for row in mine)
            beyond, part = 100 * mean(row["beyond"][0] for row in mine), sum(row["beyond"][1] > 0 for row in mine)
            lines += [
                "",
                f'`cofire.trust(at="{at}")` answers with the head in {heads} of {len(mine)} seeds; it lies '
                f"{beyond:+.2f} points from outputs and predicted class, significantly above in {part}.",
            ]
    lines += [
        "",
        "**Accuracy by the number of layers that agree with the prediction**, all seeds together:",
        "",
        "| data | " + " | ".join(str(count) for count in range(5)) + " |",
        "| --- |" + " --: |" * 5,
    ]
    for data in sets:
        cells = []
        for count in range(5):
            mine = [row for row in rows if row["data"] == data and row["task"] == "agreement" and row["agreeing"] == count]
            samples, right = sum(row["samples"] for row in mine), sum(row["right"] for row in mine)
            cells.append(f"{right / samples:.1%} of {samples:,}" if samples else "")
        lines.append(f"| {data} | " + " | ".join(cells) + " |")
    found = [row for row in rows if row["task"] == "elsewhere"]
    pairs = list(dict.fromkeys((row["data"], row["other"]) for row in found))
    for key, title in (
        ("auroc", "AUROC"),
        ("fpr95", "FPR at 95 %"),
        ("aupr_strange", "AUPR of the strange"),
        ("aupr_known", "AUPR of the known"),
    ):
        lines += [
            "",
            f"**Inputs from elsewhere**, {title}:",
            "",
            "| score | " + " | ".join(f"{data} against {other}" for data, other in pairs) + " |",
            "| --- |" + " --: |" * len(pairs),
        ]
        for score in dict.fromkeys(row["score"] for row in found):
            cells = []
            for pair in pairs:
                mine = [row[key] for row in found if row["score"] == score and (row["data"], row["other"]) == pair]
                cells.append(f"{100 * mean(mine):.1f}" if mine else "")
            lines.append(f"| {score} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=os.environ.get("COFIRE_DATA"))
    parser.add_argument("--limit", type=int, default=20_000, help="training images of each set")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(SETS), choices=list(SETS), help="data sets")
    parser.add_argument("--quick", action="store_true", help="digits alone, one seed")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    root = Path(options.data_root) if options.data_root else None
    jobs = [("digits", 2)] if options.quick else [(data, SETS[data]["epochs"]) for data in options.only]
    rows = []
    for data, epochs in jobs:
        for seed in range(1 if options.quick else options.seeds):
            rows += run(data, root, options.limit, epochs, seed)
            print(f"{data}, seed {seed}: done", flush=True)
    result = {
        **made(f"trust.py --limit {options.limit} --seeds {options.seeds}"),
        **VERSIONS,
        "seeds": 1 if options.quick else options.seeds,
        "rows": rows,
    }
    output = options.output or (None if options.quick else HERE / "trust.json")
    publish(result, page(result), output, "trust", "trust.md")


if __name__ == "__main__":
    main()
