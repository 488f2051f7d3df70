"""Paper 002 again: how many fully connected layers a net needs, and whether the entropy of its layers tells."""

import itertools

import torch
from torch import nn

from cofire import data
from cofire.depths import depth
from cofire.errors import CofireError
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.recording import record
from cofire.removals import check_layer
from cofire.training import fit

__all__ = ["run"]

_DEPTHS = (2, 3, 4, 6)
_CLAIMED = {2: 0.774, 4: 0.7686, 6: 0.7187}
_CHAIN = {4: 0.3935, 3: 0.6283, 2: 0.6626}
_NETS = {
    "mnist": ("mnist", "fully connected"),
    "cifar10": ("cifar10", "fully connected"),
    "cifar10-conv": ("cifar10", "convolutions"),
}
_WIDTH = 256


def net_of(kind: str, channels: int, side: int, layers: int, seed: int) -> nn.Sequential:
    """Fully connected hidden layers of 256 units, bare or on top of two convolutions.

    Args:
        kind: "fully connected" or "convolutions".
        channels: Channels of the pictures.
        side: Their side.
        layers: Hidden fully connected layers.
        seed: Of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, width = nn.Sequential(), channels * side * side
        if kind == "convolutions":
            for at, (before, after) in enumerate(((channels, 16), (16, 32)), 1):
                net.add_module(f"conv{at}", nn.Conv2d(before, after, 3, padding=1))
                net.add_module(f"conv_relu{at}", nn.ReLU())
                net.add_module(f"pool{at}", nn.MaxPool2d(2))
            width = 32 * (side // 4) ** 2
        net.add_module("flatten", nn.Flatten())
        for at in range(1, layers + 1):
            net.add_module(f"fc{at}", nn.Linear(width, _WIDTH))
            net.add_module(f"relu{at}", nn.ReLU())
            width = _WIDTH
        net.add_module("head", nn.Linear(width, 10))
    return net


def run(settings: Settings) -> Found:
    """Train nets with 2, 3, 4 and 6 hidden layers; follow the entropy through them; take each layer out in turn."""
    limit, epochs = settings.limit, settings.epochs or 5
    rows: list[dict] = []
    for name, (source, kind) in _NETS.items():
        if settings.only is not None and name not in settings.only:
            continue
        train = data.load(source, "train", root=settings.root, limit=limit)
        test = data.load(source, "test", root=settings.root, limit=settings.test_limit).batches(256)
        for layers in _DEPTHS:
            for seed in range(settings.seeds):
                net = net_of(kind, *train.shape[:2], layers, seed)
                folder = settings.folder / f"{name}-{layers}-{seed}"
                fit(net, train, epochs=epochs, seed=seed, checkpoints=folder, every=epochs, progress=False)
                stats = record(net, test, layers=[f"relu{at}" for at in range(1, layers + 1)], progress=False)
                rows.append({"net": name, "layers": layers, "seed": seed, **_seen(net, stats, train, test, seed)})
                settings.say(f"{name}, {layers} layers, seed {seed}: test accuracy {rows[-1]['accuracy']:.2%}")
    scale = f"{f'{limit:,}' if limit else 'All'} training pictures, {epochs} epochs of Adam at 1e-3; entropies on the "
    scale += "test pictures. "
    scale += (
        f"The paper gives neither widths nor training: ours have {_WIDTH} units a layer, on the pixels or on two convolutions."
    )
    return Found(_findings(rows), _tables(rows), scale, rows)


def _seen(net, stats, train, test, seed: int) -> dict:
    found = depth(stats)
    layers = [
        {
            "layer": layer.layer, "entropy": round(float(layer.entropy.mean()), 4),
            "scale_free": round(float(layer.scale_free.mean()), 4), "verdict": layer.verdict,
            "fall": None if layer.fall is None else round(layer.fall, 4), "classes_that_fall": layer.falls,
            "entropies": [round(value, 4) for value in layer.entropy.tolist()],
            "scale_free_entropies": [round(value, 4) for value in layer.scale_free.tolist()],
        }
        for layer in found.layers
    ]  # fmt: skip
    batches = train.batches(128, shuffle=True, seed=seed)
    for layer in layers[1:]:
        try:
            layer["without"] = round(check_layer(net, stats, layer["layer"], batches, test, epochs=1, seed=seed).trained, 4)
        except CofireError as error:
            layer["without"], layer["why"] = None, str(error)
    return {"accuracy": round(float(stats.accuracy or 0.0), 4), "found": layers}


def _monotone(row: dict, which: str) -> tuple[int, int]:
    """In how many classes the entropy falls from every layer to the next, and of how many."""
    by_class = list(zip(*(layer[which] for layer in row["found"]), strict=True))
    return sum(all(b < a for a, b in itertools.pairwise(values)) for values in by_class), len(by_class)


def _findings(rows: list[dict]) -> list[Finding]:
    counts = {which: [_monotone(row, which) for row in rows] for which in ("entropies", "scale_free_entropies")}
    plain, free = ([sum(part) for part in zip(*values, strict=True)] for values in counts.values())
    words = f"In {plain[0]} of {plain[1]} cases (a class in a net) the entropy falls from every layer to the next; with "
    words += "activations "
    words += f"scaled to the same mean in {free[0]} of {free[1]}."
    found = [Finding("The entropy falls with depth in a well trained net.", verdict_of(plain[0], plain[1]), words)]
    groups = {(row["net"], row["seed"]): {} for row in rows}
    for row in rows:
        groups[row["net"], row["seed"]][row["layers"]] = row["accuracy"]
    whole = [group for group in groups.values() if {2, 6} <= group.keys()]
    if whole:
        held = sum(group[2] >= group[6] - 0.005 for group in whole)
        leads = [100 * (group[2] - group[6]) for group in whole]
        words = f"Two layers are ahead of six by {mean_and_range(leads)} points, and no worse (by half a point at most) "
        words += f"in {held} of "
        words += f"{len(whole)} pairs. The paper has {_CLAIMED[2]}, {_CLAIMED[4]} and {_CLAIMED[6]} for two, four and six."
        found.append(Finding("Fewer fully connected layers are no worse.", verdict_of(held, len(whole)), words))
    found += _chained(rows, groups)
    ranks, cases, costs = 0, 0, []
    for row in rows:
        known = [layer for layer in row["found"][1:] if layer["without"] is not None]
        if len(known) < 2:
            continue
        flattest = min(known, key=lambda layer: abs(layer["fall"]))
        best = max(known, key=lambda layer: layer["without"])
        cases, ranks = cases + 1, ranks + (flattest["layer"] == best["layer"])
        costs.append(100 * (flattest["without"] - sum(layer["without"] for layer in known) / len(known)))
    if cases:
        words = "Of the layers of nets with three and more, taken out one at a time with one epoch of training after, the "
        words += "flattest was the "
        words += f"best to remove in {ranks} of {cases} nets; its removal leaves {mean_and_range(costs)} points more "
        words += "accuracy than that of "
        words += "the average layer."
        verdict = "holds" if min(costs) > 0 else "does not hold" if sum(costs) <= 0 or 3 * ranks < cases else "depends"
        found.append(Finding("A layer where the entropy is flat is the one to remove.", verdict, words))
    return found


def _chained(rows: list[dict], groups: dict[tuple[str, int], dict[int, float]]) -> list[Finding]:
    """Whether the paper's way from four layers over three to two gains each time."""
    whole = {key: [group[layers] for layers in _CHAIN] for key, group in groups.items() if _CHAIN.keys() <= group.keys()}
    if not whole:
        return []
    held = sum(all(after > before for before, after in itertools.pairwise(chain)) for chain in whole.values())
    odd = sum(
        any(layer["fall"] <= 0 for layer in row["found"][1:]) for row in rows if row["layers"] in (4, 3)
        and (row["net"], row["seed"]) in whole
    )  # fmt: skip
    means = [
        f"{name}: {', '.join(mean_and_range(column, 4) for column in zip(*chains, strict=True))}"
        for name in dict.fromkeys(net for net, _ in whole)
        if (chains := [chain for (net, _), chain in whole.items() if net == name])
    ]
    words = (
        f"Nets of four, three and two layers, each trained anew; accuracy rises both times in {held} of {len(whole)} cases: "
    )
    words += f"{'; '.join(means)}. The paper has {', '.join(map(str, _CHAIN.values()))}, on CIFAR-10. A layer whose entropy "
    words += f"does not fall is in {odd} of {2 * len(whole)} of the nets with four and three."
    return [
        Finding("Deleting layers whose entropy does not fall, from four to three to two, gains each time.",
                verdict_of(held, len(whole)), words)
    ]  # fmt: skip


def _tables(rows: list[dict]) -> list[Table]:
    tables = []
    for name in dict.fromkeys(row["net"] for row in rows):
        mine = [row for row in rows if row["net"] == name]
        lines = []
        for layers in _DEPTHS:
            here = [row for row in mine if row["layers"] == layers]
            for at in range(layers if here else 0):
                parts = [row["found"][at] for row in here]
                accuracy = mean_and_range([row["accuracy"] for row in here], 4) if not at else ""
                without = [part["without"] for part in parts if part.get("without") is not None]
                lines.append([
                    layers if not at else "", accuracy, parts[0]["layer"],
                    mean_and_range([part["entropy"] for part in parts], 3),
                    mean_and_range([part["scale_free"] for part in parts], 3), ", ".join(part["verdict"] for part in parts),
                    mean_and_range(without, 4) if without else "-",
                ])  # fmt: skip
        columns = [
            "layers",
            "test accuracy",
            "layer",
            "softmax entropy",
            "scale-free",
            "verdicts by seed",
            "accuracy without it",
        ]
        tables.append(Table(name, columns, lines, "Entropies are means over classes, as shares of the largest possible."))
    return tables
