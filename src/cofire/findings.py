"""What the statistics say, in plain sentences, each with the numbers it rests on."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from cofire.comparison import carry_over, check_pair
from cofire.correlations import rank_correlation
from cofire.errors import CofireWarning
from cofire.firing import class_means, live_units
from cofire.graphs import coactivation, sensible_top, unique_units
from cofire.information import class_selectivity, kl_selectivity, mutual_information, softmax_entropy
from cofire.measures import summary
from cofire.modularities import modularity_chen
from cofire.stats import FiringStats
from cofire.structure import entangled_pairs

__all__ = ["Finding", "findings"]

_SURE = 3.0  # standard errors beyond which a difference is stated; among many looks, 2 would be too few


@dataclass(frozen=True)
class Finding:
    """One statement.

    Args:
        text: A sentence or two of plain text.
        kind: What it is about: "data", "accuracy", "firing", "information", "selectivity", "softmax", "graph",
            "ablation" or "carry".
        level: "fact", or "caution" where something limits what the other numbers mean.
        numbers: The values that the sentence is made from, by name.
    """

    text: str
    kind: str
    level: Literal["fact", "caution"] = "fact"
    numbers: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.text


def findings(stats: FiringStats, test: FiringStats | None = None) -> list[Finding]:
    """What can be said of a recording, most general first; what the numbers do not support is left unsaid.

    Args:
        stats: Statistics, as a rule of the training set.
        test: Statistics of the same model on other data.

    Raises:
        InputError: The two are not of one model and one set of layers and classes.

    >>> import cofire, torch
    >>> acts = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]))
    >>> [finding.text for finding in findings(stats) if finding.kind == "firing"]
    ['1 of 2 units never fires (50 %).']
    """
    if test is not None:
        check_pair(stats, test)
    if not len(stats):
        return [Finding("No layer was recorded.", "data", "caution")]
    rows = summary(stats).to_dict("records")
    found = [*_data(stats), *_accuracy(stats, test), *_firing(rows), *_information(stats, rows)]
    found += [*_selectivity(stats), *_favourite(stats), *_softmax(stats), *_entangled(stats)]
    if test is not None:
        found += _carry(stats, test)
    return found


def _data(stats: FiringStats) -> Iterator[Finding]:
    units, layers = sum(layer.units for layer in stats.values()), len(stats)
    text = f"{_count(units, 'unit')} in {_count(layers, 'layer')}, "
    text += f"seen on {_count(stats.samples, 'sample')} of {_count(stats.classes, 'class')}."
    numbers = {"units": units, "layers": layers, "samples": stats.samples, "classes": stats.classes}
    yield Finding(text, "data", numbers=numbers)
    counts = stats.class_counts
    empty = [_short(stats.class_names[c]) for c in (counts == 0).nonzero()[:, 0].tolist()]
    if empty:
        text = f"There is no sample of {_list(empty, 'class', 'classes')}: nothing is said of "
        text += "it." if len(empty) == 1 else "them."
        yield Finding(text, "data", "caution", {"classes_without_samples": len(empty)})
    seen = counts[counts > 0]
    if len(seen) > 1 and int(seen.max()) >= 10 * int(seen.min()):
        most, least = int(seen.max()), int(seen.min())
        common, rare = (_short(stats.class_names[int((counts == value).nonzero()[0])]) for value in (most, least))
        text = f"Classes are uneven: {_count(most, 'sample')} of {common}, {least:,} of {rare}. "
        text += "Measures over all samples lean towards the large classes."
        yield Finding(text, "data", "caution", {"largest_class": most, "smallest_class": least})


def _accuracy(stats: FiringStats, test: FiringStats | None) -> Iterator[Finding]:
    if stats.accuracy is None:
        return
    share, common = stats.accuracy, float(stats.class_counts.max() / max(stats.samples, 1))
    numbers = {"accuracy": share, "most_frequent_class": common}
    last = stats
    if test is None or test.accuracy is None:
        text = f"The model classifies {_percent(share)} of these samples correctly."
    else:
        last, gap = test, share - test.accuracy
        digits = 2 if min(stats.samples, test.samples) >= 5000 else 1
        error = 1.96 * math.sqrt(_variance(share, stats.samples) + _variance(test.accuracy, test.samples))
        numbers |= {"test_accuracy": test.accuracy, "gap": gap, "gap_low": gap - error, "gap_high": gap + error}
        text = f"The model classifies {100 * share:.{digits}f} % of these samples "
        text += f"and {100 * test.accuracy:.{digits}f} % of the test samples correctly"
        if abs(gap) > error:
            side = "a gap of" if gap > 0 else "the test set is the easier one, by"
            low, high = sorted((abs(gap - error), abs(gap + error)))
            interval = f"95 % interval {100 * low:.{digits}f} to {100 * high:.{digits}f}"
            text += f": {side} {100 * abs(gap):.{digits}f} points ({interval})."
        else:
            text += "; the difference is within chance."
    yield Finding(text, "accuracy", numbers=numbers)
    if share <= common + _SURE * math.sqrt(_variance(common, stats.samples)):
        text = f"That is no better than always naming the most frequent class ({_percent(common)})."
        yield Finding(text, "accuracy", "caution", numbers)
        return
    shares, overall = last.class_accuracy, last.accuracy
    if shares is None or overall is None:
        return
    worst = int(torch.nan_to_num(shares, nan=2.0).argmin())
    count, low = int(last.class_counts[worst]), float(shares[worst])
    if count >= 20 and overall - low > _SURE * math.sqrt(_variance(overall, count)):
        text = f"Class {_short(last.class_names[worst])} is the hardest: {_percent(low)} of its {count:,} "
        text += f"{'test samples' if last is test else 'samples'} are right, against {_percent(overall)} of all."
        numbers = {"class": worst, "class_accuracy": low, "samples": count, "accuracy": overall}
        yield Finding(text, "accuracy", numbers=numbers)


def _firing(rows: list[dict]) -> Iterator[Finding]:
    units, dead = sum(row["units"] for row in rows), sum(row["dead"] for row in rows)
    if dead:
        caution = 4 * dead > units
        text = _where(rows, "dead", "never fires" if dead == 1 else "never fire")
        yield Finding(f"{text}.", "firing", "caution" if caution else "fact", {"dead": dead, "units": units})
    else:
        text = f"Every one of the {units:,} units fires for some sample."
        yield Finding(text, "firing", numbers={"dead": 0, "units": units})
    if count := sum(row["always_on"] for row in rows):
        text = _where(rows, "always_on", "fires for every sample" if count == 1 else "fire for every sample")
        text += f"; whether {'it fires' if count == 1 else 'they fire'} tells nothing about the class."
        yield Finding(text, "firing", numbers={"always_on": count, "units": units})


def _where(rows: list[dict], column: str, verb: str) -> str:
    """How many units are so, and in which layer most of them are, if they are."""
    count, units = sum(row[column] for row in rows), sum(row["units"] for row in rows)
    most = max(rows, key=lambda row: row[column])
    text = f"{count:,} of {_count(units, 'unit')} {verb} ({_percent(count / units)})"
    if len(rows) > 1 and most[column] == count > 1:
        text += f", all of them in {_short(most['layer'])}"
    elif len(rows) > 1 and 2 * most[column] > count:
        here = f", most of them in {_short(most['layer'])} ({most[column]:,} of {most['units']:,})"
        text += here if count > 1 else f", in {_short(most['layer'])}"
    return text


def _information(stats: FiringStats, rows: list[dict]) -> Iterator[Finding]:
    seen = int((stats.class_counts > 0).sum())
    live = [row for row in rows if row["live"]]
    if seen < 2 or not live:
        return
    row = max(live, key=lambda row: row["mutual_information"])
    layer, mean = stats[row["layer"]], row["mutual_information"]
    chance = mean - row["mutual_information_excess"]
    numbers = {"layer": layer.name, "mutual_information": mean, "shuffled": chance}
    text = f"Knowing whether a unit of {_short(layer.name)} fires tells {_bits(mean)} about the class on average"
    if mean <= 3 * chance:
        text += ", the most of all layers; but" if len(live) > 1 else ";"
        part = "it may be chance" if mean < 1.5 * chance else "part of it is chance"
        text += f" shuffled labels would give up to {_bits(chance)}, so {part}. More samples would tell."
        yield Finding(text, "information", "caution", numbers)
        return
    text += ", more than in any other layer" if len(live) > 1 else ""
    yield Finding(f"{text}; shuffled labels would give {_bits(chance)}.", "information", numbers=numbers)
    values = mutual_information(layer)
    best, limit = int(values.argmax()), min(1.0, math.log2(seen))
    if float(values[best]) > 2 * mean:
        text = f"The most informative unit there is number {best}: {_bits(float(values[best]))} of at most {limit:.3g}."
        numbers = {"layer": layer.name, "unit": best, "mutual_information": float(values[best]), "most": limit}
        yield Finding(text, "information", numbers=numbers)


def _selectivity(stats: FiringStats) -> Iterator[Finding]:
    """How class selectivity changes with depth; only among layers whose activations are never negative."""
    names, means, errors = [], [], []
    for name, layer in stats.items():
        values = class_selectivity(layer)[live_units(layer)].numpy()
        if len(values) < 2 or float(layer.low.nan_to_num(posinf=0.0).min()) < 0 or int((layer.class_counts > 0).sum()) < 2:
            continue
        names.append(name)
        means.append(float(values.mean()))
        errors.append(float(values.std(ddof=1)) / math.sqrt(len(values)))
    if len(names) < 2 or len(names) < len(stats):
        return
    numbers: dict[str, Any] = {"first": means[0], "last": means[-1], "layers": len(names)}
    if len(names) == 2:
        if abs(means[1] - means[0]) > _SURE * math.hypot(*errors) and means[0] > 0:
            change = means[1] / means[0] - 1
            text = f"The second layer is {_percent(abs(change))} {'more' if change > 0 else 'less'} class-selective "
            text += f"than the first ({means[1]:.2f} against {means[0]:.2f}, means over live units)."
        else:
            text = f"Both layers are about equally class-selective ({means[0]:.2f} and {means[1]:.2f}, means over live units)."
        yield Finding(text, "selectivity", numbers=numbers)
        return
    trend, top = rank_correlation(np.arange(len(means)), np.array(means)), int(np.argmax(means))
    clear = abs(trend) * math.sqrt(len(means) - 1) > _SURE or abs(trend) > 0.999
    if clear and abs(means[-1] - means[0]) > _SURE * math.hypot(errors[0], errors[-1]):
        text = f"Units become {'more' if trend > 0 else 'less'} class-selective with depth: from {means[0]:.2f} "
        text += f"in {_short(names[0])} to {means[-1]:.2f} in {_short(names[-1])} "
        text += f"(means over live units; rank correlation with depth {trend:.2f})."
    else:
        text = f"Class selectivity has no clear trend with depth; it is highest in {_short(names[top])} "
        text += f"({means[top]:.2f}, mean over live units)."
    numbers |= {"rank_correlation": trend, "highest": means[top], "highest_layer": names[top]}
    yield Finding(text, "selectivity", numbers=numbers)


def _favourite(stats: FiringStats) -> Iterator[Finding]:
    """The class that the most selective units of the last layer prefer, where one stands out."""
    name, layer = list(stats.items())[-1]
    seen = (layer.class_counts > 0).nonzero()[:, 0]
    live = live_units(layer).nonzero()[:, 0]
    top = max(20, len(live) // 10)
    if len(seen) < 3 or len(live) < 2 * top:
        return
    chosen = live[kl_selectivity(layer)[live].argsort(descending=True, stable=True)[:top]]
    votes = torch.bincount(torch.nan_to_num(class_means(layer), nan=-torch.inf)[:, chosen].argmax(0), minlength=layer.classes)
    best, even = int(votes.argmax()), 1 / len(seen)
    if int(votes[best]) < 5 or int(votes[best]) - top * even < (_SURE + 0.5) * math.sqrt(top * even * (1 - even)):
        return
    text = f"Of the {top} units of {_short(name)} with the largest KL selectivity, {int(votes[best])} are most active "
    text += f"for class {_short(stats.class_names[best])}; an equal share would be {max(top * even, 1):.0f}."
    numbers = {"layer": name, "units": top, "class": best, "prefer_it": int(votes[best]), "equal_share": top * even}
    yield Finding(text, "selectivity", numbers=numbers)


def _softmax(stats: FiringStats) -> Iterator[Finding]:
    layers = [layer for layer in stats.values() if layer.units > 1]
    if len(layers) < 2:
        return
    plain = torch.stack([softmax_entropy(layer) for layer in layers])
    free = torch.stack([softmax_entropy(layer, scale_free=True) for layer in layers])
    known = ~plain.isnan().any(0)
    plain, free, classes = plain[:, known], free[:, known], int(known.sum())
    if not classes:
        return
    falls, stays = plain[-1] < plain[0] - 1e-6, free[-1] < free[0] - 1e-6
    steps, both = (plain.diff(dim=0) < 0).all(0), falls & stays
    numbers = {
        "classes": classes, "fall": int(falls.sum()), "fall_at_every_step": int(steps.sum()),
        "fall_scale_free": int(stays.sum()), "survive": int(both.sum()),
        "first": float(plain[0].mean()), "last": float(plain[-1].mean()),
        "first_scale_free": float(free[0].mean()), "last_scale_free": float(free[-1].mean()),
    }  # fmt: skip
    text = f"From the first to the last layer, softmax entropy falls for {_of(int(falls.sum()), classes)} "
    text += f"(mean {_close(numbers['first'], numbers['last'])})"
    text += f", at every step for {int(steps.sum()) or 'none'}." if len(layers) > 2 else "."
    if int(falls.sum()):
        survive = int(both.sum())
        change = _close(numbers["first_scale_free"], numbers["last_scale_free"])
        if survive:
            word = "all of them" if survive == int(falls.sum()) > 1 else f"{survive} of them"
            text += f" With the scale of the activations removed it still falls for {word} (mean over all {change})."
        else:
            text += f" With the scale of the activations removed it falls for none of them (mean over all {change}): "
            text += "the fall is one of scale, not of a sharper pattern."
    yield Finding(text, "softmax", numbers=numbers)


def _entangled(stats: FiringStats) -> Iterator[Finding]:
    """Which classes share their representative units in the last layer, and what firing together adds to the sets."""
    name, layer = list(stats.items())[-1]
    if layer.cofire is None or sensible_top(layer) < 3 or int((layer.class_counts > 0).sum()) < 3:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CofireWarning)
        graph = coactivation(layer, sensible_top(layer))
    pairs, alone = entangled_pairs(graph), unique_units(graph).diagonal()
    if not pairs:
        return
    most, apart = pairs[0], int(alone.argmax())
    names = [_short(stats.class_names[c]) for c in (most.first, most.second)]
    text = (
        f"In {_short(name)}, classes {names[0]} and {names[1]} are the most entangled: {most.shared} of the {most.size} units "
    )
    text += f"that represent each represent both; sets drawn by lot would share {most.expected:.1f}. "
    text += f"Class {_short(stats.class_names[apart])} stands apart most: {int(alone[apart])} of its "
    text += f"{int(graph.cover[apart].sum())} represent no other class."
    numbers: dict[str, Any] = {"layer": name, "shared": most.shared, "expected": most.expected, "unique": int(alone[apart])}
    if most.shared > most.expected + _SURE * math.sqrt(most.expected):
        yield Finding(text, "graph", numbers=numbers)
    value, sets = modularity_chen(graph), modularity_chen(graph.independent())
    text = (
        f"The co-firing graph of {_short(name)} has a modularity of {value:.3f} (class cover, weighted). With the same sets of "
    )
    text += f"units but independent firing within each class it would have {sets:.3f}: "
    text += (
        "nearly all of it comes from the sets, not from units firing together."
        if value - sets < 0.1 * abs(value)
        else (f"firing together adds {value - sets:.3f}.")
    )
    yield Finding(text, "graph", "caution", {"layer": name, "modularity": value, "independent": sets})


def _carry(stats: FiringStats, test: FiringStats) -> Iterator[Finding]:
    rows = [row for row in carry_over(stats, test) if row["measure"] == "mutual_information" and row["units"] >= 10]
    chance = (int((test.class_counts > 0).sum()) - 1) / (2 * max(test.samples, 1) * math.log(2))
    rows = [row for row in rows if not math.isnan(row["spearman"]) and row["test_mean"] > _SURE * chance]
    if not rows:
        return
    values = [row["spearman"] for row in rows]
    low, high = min(values), max(values)
    span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    word = "carries over" if low > 0.9 else "carries over in part" if low > 0.5 else "does not carry over everywhere"
    where = f"in {_short(rows[0]['layer'])}" if len(rows) == 1 else f"over {len(rows)} layers"
    if len(rows) < len(stats):
        where += ", the only one that tells more than chance" if len(rows) == 1 else ", those that tell more than chance"
    text = f"Which units are informative {word} to the {_count(test.samples, 'test sample')}: "
    text += f"rank correlation of mutual information {span} {where}."
    yield Finding(text, "carry", "fact" if low > 0.5 else "caution", {"lowest": low, "highest": high, "layers": len(rows)})


def _variance(share: float, samples: int) -> float:
    return share * (1 - share) / max(samples, 1)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}{'es' if word.endswith('s') else 's'}"


def _of(number: int, classes: int) -> str:
    if number in (0, classes):
        if classes == 1:
            return "the one class" if number else "no class"
        return f"{'all' if number else 'none of the'} {classes:,} classes"
    return f"{number:,} of {classes:,} classes"


def _percent(share: float) -> str:
    value = 100 * share
    if 0 < value < 0.05:
        return "less than 0.1 %"
    if 99.95 <= value < 100:
        return "more than 99.9 %"
    text = f"{value:.1f}" if 0 < value < 10 or value > 90 else f"{value:.0f}"
    return f"{text.removesuffix('.0')} %"


def _bits(value: float) -> str:
    return f"{max(value, 0.0):.2f} bits" if value >= 0.095 else f"{max(value, 0.0):.1g} bits"


def _close(first: float, last: float) -> str:
    """Two numbers near each other, with the digits that tell them apart."""
    digits = next((d for d in range(2, 6) if f"{first:.{d}f}" != f"{last:.{d}f}"), 5)
    return f"{first:.{digits}f} to {last:.{digits}f}"


def _short(name: str, most: int = 40) -> str:
    return repr(name if len(name) <= most else f"{name[: most - 1]}…")


def _list(names: list[str], one: str, many: str) -> str:
    if len(names) == 1:
        return f"{one} {names[0]}"
    if len(names) <= 4:
        return f"{many} {', '.join(names[:-1])} and {names[-1]}"
    return f"{many} {', '.join(names[:3])} and {len(names) - 3:,} more"
