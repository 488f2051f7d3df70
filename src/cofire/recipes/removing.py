"""Paper 004 again: sigmoid nets, units removed in the order of entropy, information and selectivity."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import torch

from cofire import data, plots, zoo
from cofire.ablation import ablate, curves_of
from cofire.checkpointing import History
from cofire.correlations import rank_correlation
from cofire.curves import Curve
from cofire.information import firing_entropy, kl_selectivity, mutual_information
from cofire.recipes.running import Finding, Found, Settings, Table, mean_and_range, verdict_of
from cofire.recording import record
from cofire.stats import FiringStats
from cofire.training import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw", "run"]

_NETS = {"004-2x200": "784-200-200-10", "004-3x200": "784-200-200-200-10"}
_MEASURES = {"firing_entropy": firing_entropy, "mutual_information": mutual_information, "kl_selectivity": kl_selectivity}
_POINTS = 41
_RAW = "all, scores compared"


def run(settings: Settings) -> Found:
    """Train both nets, take the measures on 10,000 images that the training left out, and remove units on the test set."""
    images = data.load("mnist", "train", root=settings.root, limit=settings.limit)
    cut = len(images) * 5 // 6
    train, held = images.subset(range(cut)), images.subset(range(cut, len(images)))
    test = list(data.load("mnist", "test", root=settings.root, limit=settings.test_limit).batches(256))
    epochs = settings.epochs or 10
    rows: list[dict] = []
    curves: list[Curve] = []
    stats: FiringStats | None = None
    for name in [name for name in _NETS if settings.only is None or name in settings.only]:
        for seed in range(settings.seeds):
            net = zoo.model(f"zoo:{name}", seed=seed)
            folder = settings.folder / f"{name}-{seed}"
            history = fit(
                net, train, held, epochs=epochs, lr=1e-3, weight_decay=1e-3, seed=seed, checkpoints=folder, every=epochs,
                progress=False,
            )  # fmt: skip
            stats = record(net, held.batches(256), progress=False)
            curves = curves_of(
                net, test, stats, list(_MEASURES), each=True, fill="both", steps=_POINTS, seeds=3, seed=seed, progress=False
            )  # fmt: skip
            rows += [_row(name, seed, curve) for curve in curves]
            rows += _as_they_are(net, test, stats, name, seed)
            rows += _wrong_sign(net, test, stats, name, seed)
            rows += _levels(stats, name, seed)
            rows.append({"net": name, "seed": seed, "history": {**asdict(history), "seconds": []}})
            settings.say(f"{name}, seed {seed}: test accuracy {float(curves[0].accuracy[0]):.2%}")
    scale = f"The paper's sizes: {cut:,} training and {len(held):,} held-out images, {epochs} epochs, Adam at 1e-3 with weight "
    scale += f"decay 1e-3; curves at {_POINTS} points in place of every one."
    return Found(_findings(rows), _tables(rows), scale, rows, curves, stats)


def draw(numbers: Sequence[dict]) -> dict[str, "Figure"]:
    """The curves of each net: figures 6 to 22 of the paper, over seeds; the last two as the paper has them, and by shares."""
    figures = _before(numbers)
    spread = "mean over seeds, with the least and the largest"
    for net, title in _NETS.items():
        found: dict[tuple[str, str, str, str], list[list[float]]] = {}
        for row in numbers:
            if row["net"] == net and row.get("by") in (*_MEASURES, "random"):
                found.setdefault((row["layer"], row["fill"], row["by"], row["order"]), []).append(row["curve"])
        if found:
            curves = [_drawn(*key, runs) for key, runs in found.items() if key[0] != _RAW]
            figures[f"{title}: {spread}. All layers at once, the same share of each, on the right."] = plots.curves(
                curves, {"all": "all layers"}
            )
        if any(key[0] == _RAW for key in found):
            found[_RAW, "mean", "random", "random"] = found["all", "mean", "random", "random"]
            figures[f"{title}, all layers at once, scores of different layers compared as the paper does: {spread}."] = (
                plots.curves([_drawn(*key, runs) for key, runs in found.items() if key[0] == _RAW], {_RAW: "all layers"})
            )
    return figures


def _before(numbers: Sequence[dict]) -> dict[str, "Figure"]:
    """What the paper shows before it removes units: trainings, and how the measures are distributed."""
    figures = {}
    for net, title in _NETS.items():
        mine = [row for row in numbers if row["net"] == net]
        histories = {f"seed {row['seed']}": History(**row["history"]) for row in mine if "history" in row}
        if histories:
            figures[f"{title}: cost and accuracy in training, dashed on images left out."] = plots.learning(histories)
        units = [row for row in mine if "units" in row]
        if units:
            figures[f"{title}: the measures over the units of each layer, in the net of seed 0."] = plots.distributions(
                {measure: {row["layer"]: row["units"] for row in units if row["level"] == measure} for measure in _MEASURES}
            )
    return figures


def _drawn(layer: str, fill: str, by: str, order: str, runs: list[list[float]]) -> Curve:
    """A curve with the accuracies of all seeds, and nothing else."""
    accuracies, removed = torch.tensor(runs, dtype=torch.float64), torch.arange(len(runs[0]))
    return Curve(
        removed, accuracies, torch.full_like(accuracies, torch.nan), accuracies[..., None].expand(-1, -1, 0), by, order, fill,
        (layer,), len(removed) - 1, (), 0,
    )  # fmt: skip


def _row(net: str, seed: int, curve: Curve) -> dict:
    where = curve.layers[0] if len(curve.layers) == 1 else "all"
    return {
        "net": net, "seed": seed, "layer": where, "by": curve.by, "order": curve.order, "fill": curve.fill,
        "accuracy": round(float(curve.accuracy[0]), 4), "area": round(curve.area, 4),
        "removable": round(curve.removable() / curve.units, 4), "curve": [round(value, 4) for value in curve.accuracy.tolist()],
    }  # fmt: skip


def _as_they_are(net, test, stats: FiringStats, name: str, seed: int) -> list[dict]:
    """All layers at once, scores of different layers compared as they are: the paper's way."""
    return [
        {**_row(name, seed, ablate(net, test, stats, by, order, steps=_POINTS, across="raw", progress=False)), "layer": _RAW}
        for by in _MEASURES
        for order in ("ascending", "descending")
    ]


def _wrong_sign(net, test, stats: FiringStats, name: str, seed: int) -> list[dict]:
    """The published notebook's "mutual information": H(Q) + H(Q given Y) in place of the difference."""
    scores = {layer: 2 * firing_entropy(stats[layer]) - mutual_information(stats[layer]) for layer in stats}
    found: list[dict] = []
    for layer in stats:
        alike = rank_correlation(scores[layer].numpy(), firing_entropy(stats[layer]).numpy())
        found.append({"net": name, "seed": seed, "layer": layer, "wrong_sign_and_entropy": round(alike, 4)})
        for order in ("ascending", "descending"):
            curve = ablate(net, test, stats, scores, order, layers=layer, steps=_POINTS, progress=False)
            found.append({**_row(name, seed, curve), "by": "mutual_information, wrong sign"})
    return found


def _levels(stats: FiringStats, name: str, seed: int) -> list[dict]:
    found = []
    for layer in stats:
        for measure, function in _MEASURES.items():
            values = function(stats[layer])
            row = {"net": name, "seed": seed, "layer": layer, "level": measure, "mean": round(float(values.mean()), 4)}
            found.append(row if seed else {**row, "units": [round(value, 4) for value in values.tolist()]})
    return found


class _Cases:
    """Look-ups in the rows, by net, layer and seed."""

    def __init__(self, rows: list[dict]):
        self.curves = [row for row in rows if "area" in row]
        self.levels = [row for row in rows if "level" in row]
        self.alike = [row["wrong_sign_and_entropy"] for row in rows if "wrong_sign_and_entropy" in row]
        self.nets = list(dict.fromkeys(row["net"] for row in rows))
        self.seeds = sorted({row["seed"] for row in rows})

    def layers(self, net: str) -> list[str]:
        return list(dict.fromkeys(row["layer"] for row in self.levels if row["net"] == net))

    def area(self, net: str, seed: int, layer: str, by: str, order: str, fill: str, what: str = "area") -> float:
        wanted = {"net": net, "seed": seed, "layer": layer, "by": by, "order": order, "fill": fill}
        return next(row[what] for row in self.curves if all(row[key] == value for key, value in wanted.items()))

    def level(self, net: str, seed: int, layer: str, measure: str) -> float:
        wanted = {"net": net, "seed": seed, "layer": layer, "level": measure}
        return next(row["mean"] for row in self.levels if all(row[key] == value for key, value in wanted.items()))

    def lead(self, net: str, layer: str, by: str, fill: str) -> list[float]:
        """By how many points of mean accuracy "high value first" is ahead of "low value first", by seed."""
        return [
            100 * (self.area(net, seed, layer, by, "descending", fill) - self.area(net, seed, layer, by, "ascending", fill))
            for seed in self.seeds
        ]


def _findings(rows: list[dict]) -> list[Finding]:
    cases = _Cases(rows)
    found = [_flatter(cases)]
    leads = {
        fill: [lead for net in cases.nets for by in ("mutual_information", "kl_selectivity")
               for lead in cases.lead(net, cases.layers(net)[-1], by, fill)]
        for fill in ("mean", "zero")
    }  # fmt: skip
    ahead = {fill: sum(lead > 0 for lead in values) for fill, values in leads.items()}
    both = len(leads["mean"])
    found.append(
        Finding(
            "Counter-intuitively, in the last layer high values first is better than low values first, for mutual information "
            "and KL selectivity.",
            verdict_of(ahead["mean"] + ahead["zero"], 2 * both),
            f"It is better in {ahead['mean']} of {both} cases with units held at their mean, and in {ahead['zero']} of "
            f"{both} with "
            f"zero: by {mean_and_range(leads['mean'])} and {mean_and_range(leads['zero'])} points of mean accuracy.",
        )
    )
    first = [lead for net in cases.nets for by in ("mutual_information", "kl_selectivity")
             for lead in cases.lead(net, cases.layers(net)[0], by, "mean")]  # fmt: skip
    found.append(
        Finding(
            "In the first layer low values first is better.", verdict_of(sum(lead < 0 for lead in first), len(first)),
            f"In {sum(lead < 0 for lead in first)} of {len(first)} cases with mean fill; high values first is ahead by "
            f"{mean_and_range(first)} points.",
        )
    )  # fmt: skip
    found += [_redundant(cases), _moderate(cases), _shallow(cases), _selective(cases), _whole(cases), _sign(cases)]
    return found


def _flatter(cases: _Cases) -> Finding:
    gains = [
        100 * (cases.area(net, seed, layer, by, order, "mean") - cases.area(net, seed, layer, by, order, "zero"))
        for net in cases.nets for seed in cases.seeds for layer in [*cases.layers(net), "all"]
        for by in _MEASURES for order in ("ascending", "descending")
    ]  # fmt: skip
    held = sum(gain > 0 for gain in gains)
    why = f"Mean accuracy is higher with mean fill in {held} of {len(gains)} curves, by {mean_and_range(gains)} points."
    return Finding("Bias balancing flattens the curves.", verdict_of(held, len(gains)), why)


def _redundant(cases: _Cases) -> Finding:
    shares, held, all_ = [], 0, 0
    for net in cases.nets:
        for seed in cases.seeds:
            by_layer = [cases.area(net, seed, layer, "random", "random", "mean", "removable") for layer in cases.layers(net)]
            held += by_layer == sorted(by_layer)
            all_ += 1
        means = [
            mean_and_range([cases.area(net, seed, layer, "random", "random", "mean", "removable") for seed in cases.seeds])
            for layer in cases.layers(net)
        ]
        shares.append(f"{_NETS[net]}: {', '.join(means)}")
    why = f"Share of units that can go at random at one point of accuracy, first layer to last: {'; '.join(shares)}. "
    return Finding("Deeper layers are more redundant.", verdict_of(held, all_), why + f"It rises in {held} of {all_} nets.")


def _moderate(cases: _Cases) -> Finding:
    ranks = []
    for net in cases.nets:
        for seed in cases.seeds:
            for layer in [*cases.layers(net), "all"]:
                others = [
                    cases.area(net, seed, layer, by, order, "mean") for by in _MEASURES for order in ("ascending", "descending")
                ]
                random = cases.area(net, seed, layer, "random", "random", "mean")
                ranks.append(sum(other > random for other in others))
    middle = sum(0 < rank < 6 for rank in ranks)
    why = (
        f"Of six orders, {mean_and_range([float(rank) for rank in ranks], 1)} are better than random; it is neither first nor "
    )
    return Finding(
        "Random is a moderate choice.", verdict_of(middle, len(ranks)), f"{why}last in {middle} of {len(ranks)} cases."
    )


def _shallow(cases: _Cases) -> Finding:
    held, all_, lines = 0, 0, []
    for measure in ("firing_entropy", "mutual_information"):
        for net in cases.nets:
            layers = cases.layers(net)
            for seed in cases.seeds:
                values = [cases.level(net, seed, layer, measure) for layer in layers]
                held, all_ = held + (values[0] == min(values)), all_ + 1
            means = [mean_and_range([cases.level(net, seed, layer, measure) for seed in cases.seeds]) for layer in layers]
            lines.append(f"{measure} of {_NETS[net]}, first layer to last: {', '.join(means)} bits")
    why = f"The first layer is lowest in {held} of {all_} cases. {'; '.join(lines)}."
    return Finding("Shallow neurons have lower entropy and mutual information.", verdict_of(held, all_), why)


def _selective(cases: _Cases) -> Finding:
    """The paper says both that KL selectivity rises with depth and that it falls."""
    values = {
        (net, seed): [cases.level(net, seed, layer, "kl_selectivity") for layer in cases.layers(net)]
        for net in cases.nets for seed in cases.seeds
    }  # fmt: skip
    held = sum(found == sorted(found) for found in values.values())
    means = [
        f"{_NETS[net]}: {', '.join(map(mean_and_range, zip(*(values[net, seed] for seed in cases.seeds), strict=True)))}"
        for net in cases.nets
    ]
    why = f"It rises from layer to layer in {held} of {len(values)} nets; first layer to last: {'; '.join(means)} bits. "
    why += "In another place the paper says that shallow layers have more."
    return Finding("Deeper layers have larger KL selectivity.", verdict_of(held, len(values)), why)


def _whole(cases: _Cases) -> Finding:
    """What comparing scores of different layers costs when low values go first."""
    losses = [
        100 * (cases.area(net, seed, _RAW, by, "ascending", "mean") - cases.area(net, seed, "all", "random", "random", "mean"))
        for net in cases.nets for seed in cases.seeds for by in ("firing_entropy", "mutual_information")
    ]  # fmt: skip
    gains = [
        100 * (cases.area(net, seed, "all", by, "ascending", "mean") - cases.area(net, seed, _RAW, by, "ascending", "mean"))
        for net in cases.nets for seed in cases.seeds for by in ("firing_entropy", "mutual_information")
    ]  # fmt: skip
    held = sum(loss < 0 for loss in losses)
    why = f"Mean accuracy is below that of random in {held} of {len(losses)} cases, by {mean_and_range(losses)} points, where "
    why += "scores of different layers are compared as they are. Taking the same share of each layer in place of that gains "
    why += f"{mean_and_range(gains)} points."
    return Finding(
        "Over the whole net, low entropy or low mutual information first does badly.", verdict_of(held, len(losses)), why
    )


def _sign(cases: _Cases) -> Finding:
    parts = []
    for net in cases.nets:
        layer = cases.layers(net)[-1]
        right, wrong = (
            cases.lead(net, layer, "mutual_information", "mean"),
            cases.lead(net, layer, "mutual_information, wrong sign", "mean"),
        )
        parts.append(f"{_NETS[net]}: {mean_and_range(right)} with the right sign, {mean_and_range(wrong)} with the wrong one")
    why = "Lead of high values first in the last layer, in points of mean accuracy with mean fill: " + "; ".join(parts)
    claim = "(The published notebook adds H(Q given Y) to H(Q), where mutual information subtracts it.)"
    why += f". Scores with the wrong sign have a rank correlation of {mean_and_range(cases.alike)} with the entropy."
    return Finding(claim, "what it changes", why)


def _tables(rows: list[dict]) -> list[Table]:
    cases, tables = _Cases(rows), []
    for net in cases.nets:
        accuracy = [cases.area(net, seed, cases.layers(net)[0], "random", "random", "mean", "accuracy") for seed in cases.seeds]
        lines = []
        for layer in [*cases.layers(net), "all"]:
            for by, order in [(by, order) for by in _MEASURES for order in ("descending", "ascending")] + [
                ("random", "random")
            ]:
                cells = [
                    mean_and_range([cases.area(net, seed, layer, by, order, fill, what) for seed in cases.seeds])
                    for fill in ("mean", "zero") for what in ("area", "removable")
                ]  # fmt: skip
                lines.append([layer, by, {"descending": "high first", "ascending": "low first"}.get(order, order), *cells])
        columns = [
            "layer",
            "order by",
            "direction",
            "mean fill: mean accuracy",
            "can go at one point",
            "zero fill: mean accuracy",
            "can go at one point",
        ]
        note = (
            f"Test accuracy with all units {mean_and_range(accuracy, 3)}; a published run has 0.945. Mean accuracy is the area "
        )
        note += "under the curve over all shares removed."
        tables.append(Table(_NETS[net], columns, lines, note))
    return tables
