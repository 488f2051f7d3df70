"""What the statistics say, in plain sentences, each with the numbers it rests on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cofire.errors import InputError
from cofire.firing import class_means, live_units
from cofire.information import class_selectivity, kl_selectivity, softmax_entropy
from cofire.layer import LayerStats
from cofire.measures import MEASURES, summary, unit_values
from cofire.stats import FiringStats

if TYPE_CHECKING:
    import pandas

__all__ = ["Finding", "carry_over", "check_pair", "findings"]

_SURE = 3.0  # standard errors beyond which a difference is stated; among many looks, 2 would be too few


@dataclass(frozen=True)
class Finding:
    """One statement.

    Args:
        text: A sentence or two of plain text.
        kind: What it is about: "data", "accuracy", "firing", "information", "selectivity", "softmax" or "carry".
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
    frame = summary(stats)
    found = [*_data(stats, frame), *_accuracy(stats, test), *_firing(frame), *_information(stats, frame)]
    found += [*_selectivity(stats), *_favourite(stats), *_softmax(stats)]
    if test is not None:
        found += _carry(stats, test)
    return found


def check_pair(stats: FiringStats, test: FiringStats) -> None:
    """Raise unless both are of one model, with the same layers, units and classes.

    Raises:
        InputError: Says what differs.
    """
    wanted = "train and test statistics must be of one model, with the same layers and classes"
    digests = [part.header.get("model", {}).get("digest") for part in (stats, test)]
    if None not in digests and digests[0] != digests[1]:
        raise InputError(wanted, f"found weights with digests {digests[0]} and {digests[1]}", "Record both with the same weights.")
    if list(stats) != list(test):
        odd = sorted(set(stats) ^ set(test))
        raise InputError(wanted, f"only one of them has {', '.join(map(repr, odd[:3]))}" if odd else "found another order of layers")
    if stats.classes != test.classes:
        raise InputError(wanted, f"found {stats.classes} and {test.classes} classes")
    for name, layer in stats.items():
        if layer.units != test[name].units:
            raise InputError(wanted, f"layer {name!r} has {layer.units} and {test[name].units} units")


def _data(stats: FiringStats, frame: "pandas.DataFrame") -> Iterator[Finding]:
    units, layers = int(frame["units"].sum()), len(stats)
    numbers = {"units": units, "layers": layers, "samples": stats.samples, "classes": stats.classes}
    text = f"{_count(units, 'unit')} in {_count(layers, 'layer')}, seen on {_count(stats.samples, 'sample')} of {_count(stats.classes, 'class')}."
    yield Finding(text, "data", numbers=numbers)
    counts = stats.class_counts
    empty = [_short(stats.class_names[c]) for c in (counts == 0).nonzero()[:, 0].tolist()]
    if empty:
        text = f"There is no sample of {_list(empty, 'class', 'classes')}: nothing is said of {'it' if len(empty) == 1 else 'them'}."
        yield Finding(text, "data", "caution", {"classes_without_samples": len(empty)})
    seen = counts[counts > 0]
    if len(seen) > 1 and int(seen.max()) >= 10 * int(seen.min()):
        rare, common = (stats.class_names[int((counts == value).nonzero()[0])] for value in (seen.min(), seen.max()))
        text = (
            f"Classes are uneven: {_count(int(seen.max()), 'sample')} of {_short(common)}, {int(seen.min()):,} of {_short(rare)}. "
            "Measures over all samples lean towards the large classes."
        )  # fmt: skip
        yield Finding(text, "data", "caution", {"largest_class": int(seen.max()), "smallest_class": int(seen.min())})


def _accuracy(stats: FiringStats, test: FiringStats | None) -> Iterator[Finding]:
    if stats.accuracy is None:
        return
    share, common = stats.accuracy, float(stats.class_counts.max() / max(stats.samples, 1))
    numbers = {"accuracy": share, "most_frequent_class": common}
    if test is None or test.accuracy is None:
        text = f"The model classifies {_percent(share)} of these samples correctly."
    else:
        gap = share - test.accuracy
        error = 1.96 * math.sqrt(sum(_variance(part.accuracy or 0.0, part.samples) for part in (stats, test)))
        numbers |= {"test_accuracy": test.accuracy, "gap": gap, "gap_low": gap - error, "gap_high": gap + error}
        text = f"The model classifies {_percent(share)} of these samples and {_percent(test.accuracy)} of the test samples correctly"
        if abs(gap) > error:
            side = "a gap of" if gap > 0 else "the test set is the easier one, by"
            low, high = sorted((abs(gap - error), abs(gap + error)))
            text += f": {side} {100 * abs(gap):.1f} points (95 % interval {100 * low:.1f} to {100 * high:.1f})."
        else:
            text += "; the difference is within chance."
    yield Finding(text, "accuracy", numbers=numbers)
    if share <= common + _SURE * math.sqrt(_variance(common, stats.samples)):
        text = f"That is no better than always naming the most frequent class ({_percent(common)})."
        yield Finding(text, "accuracy", "caution", numbers)
        return
    last = test if test is not None and test.accuracy is not None else stats
    if last.class_accuracy is None:
        return
    shares = torch.nan_to_num(last.class_accuracy, nan=2.0)
    worst, overall = int(shares.argmin()), float(last.accuracy or 0.0)
    count, low = int(last.class_counts[worst]), float(shares[worst])
    if count >= 20 and overall - low > _SURE * math.sqrt(_variance(overall, count)):
        where = "test samples" if last is test else "samples"
        text = f"Class {_short(last.class_names[worst])} is the hardest: {_percent(low)} of its {count:,} {where} are right, against {_percent(overall)} of all."
        yield Finding(text, "accuracy", numbers={"class": worst, "class_accuracy": low, "samples": count, "accuracy": overall})


def _firing(frame: "pandas.DataFrame") -> Iterator[Finding]:
    units = int(frame["units"].sum())
    for column, verb, verbs in (("dead", "never fires", "never fire"), ("always_on", "fires for every sample", "fire for every sample")):
        count = int(frame[column].sum())
        if not count:
            if column == "dead":
                yield Finding(f"Every one of the {units:,} units fires for some sample.", "firing", numbers={"dead": 0, "units": units})
            continue
        text = f"{count:,} of {_count(units, 'unit')} {verb if count == 1 else verbs} ({_percent(count / units)})"
        most = int(frame[column].to_numpy().argmax())
        here, name, size = int(frame[column][most]), str(frame["layer"][most]), int(frame["units"][most])
        if len(frame) > 1:
            text += f", all of them in {_short(name)}" if here == count > 1 else f", most of them in {_short(name)} ({here:,} of {size:,})" if 2 * here > count else ""
        numbers = {column: count, "units": units, f"{column}_there": here, "layer": name}
        if column == "always_on":
            text += "; whether they fire tells nothing about the class" if count > 1 else "; whether it fires tells nothing about the class"
        caution = column == "dead" and 4 * count > units
        yield Finding(f"{text}.", "firing", "caution" if caution else "fact", numbers)


def _information(stats: FiringStats, frame: "pandas.DataFrame") -> Iterator[Finding]:
    seen = int((stats.class_counts > 0).sum())
    live = frame[frame["live"] > 0]
    if seen < 2 or not len(live):
        return
    row = live.loc[live["mutual_information"].idxmax()]
    layer = stats[str(row["layer"])]
    mean, chance = float(row["mutual_information"]), float(row["mutual_information"] - row["mutual_information_excess"])
    numbers = {"layer": layer.name, "mutual_information": mean, "shuffled": chance}
    text = f"Knowing whether a unit of {_short(layer.name)} fires tells {_bits(mean)} about the class on average"
    text += ", more than in any other layer" if len(live) > 1 else ""
    if mean > 3 * chance:
        yield Finding(f"{text}; shuffled labels would give {_bits(chance)}.", "information", numbers=numbers)
    else:
        text += f"; shuffled labels would give {_bits(chance)}, so most of that is chance. More samples would tell."
        yield Finding(text, "information", "caution", numbers)
        return
    values = unit_values(layer, "mutual_information")
    if values is not None and float(values.max()) > 2 * mean:
        best, limit = int(values.argmax()), min(1.0, math.log2(seen))
        text = f"The most informative unit there is number {best}: {_bits(float(values[best]))} of at most {limit:.3g}."
        yield Finding(text, "information", numbers={"layer": layer.name, "unit": best, "mutual_information": float(values[best]), "most": limit})


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
    numbers = {"first": means[0], "last": means[-1], "layers": len(names)}
    if len(names) == 2:
        if abs(means[1] - means[0]) > _SURE * math.hypot(*errors) and means[0] > 0:
            change = means[1] / means[0] - 1
            text = (
                f"The second layer is {_percent(abs(change))} {'more' if change > 0 else 'less'} class-selective than the first "
                f"({means[1]:.2f} against {means[0]:.2f}, means over live units)."
            )  # fmt: skip
        else:
            text = f"Both layers are about equally class-selective ({means[0]:.2f} and {means[1]:.2f}, means over live units)."
        yield Finding(text, "selectivity", numbers=numbers)
        return
    trend, top = _rank_correlation(np.arange(len(means)), np.array(means)), int(np.argmax(means))
    clear = abs(trend) * math.sqrt(len(means) - 1) > _SURE or abs(trend) > 0.999
    if clear and abs(means[-1] - means[0]) > _SURE * math.hypot(errors[0], errors[-1]):
        text = (
            f"Units become {'more' if trend > 0 else 'less'} class-selective with depth: from {means[0]:.2f} in {_short(names[0])} "
            f"to {means[-1]:.2f} in {_short(names[-1])} (means over live units; rank correlation with depth {trend:.2f})."
        )  # fmt: skip
    else:
        text = (
            f"Class selectivity has no clear trend with depth; it is highest in {_short(names[top])} "
            f"({means[top]:.2f}, mean over live units)."
        )  # fmt: skip
    yield Finding(text, "selectivity", numbers={**numbers, "rank_correlation": trend, "highest": means[top], "highest_layer": names[top]})


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
    if int(votes[best]) - top * even < (_SURE + 0.5) * math.sqrt(top * even * (1 - even)):
        return
    text = (
        f"Of the {top} units of {_short(name)} with the largest KL selectivity, {int(votes[best])} are most active for class "
        f"{_short(stats.class_names[best])}; an equal share would be {top * even:.0f}."
    )  # fmt: skip
    yield Finding(text, "selectivity", numbers={"layer": name, "units": top, "class": best, "prefer_it": int(votes[best]), "equal_share": top * even})


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
        "classes": classes, "fall": int(falls.sum()), "fall_at_every_step": int(steps.sum()), "fall_scale_free": int(stays.sum()),
        "survive": int(both.sum()), "first": float(plain[0].mean()), "last": float(plain[-1].mean()),
        "first_scale_free": float(free[0].mean()), "last_scale_free": float(free[-1].mean()),
    }  # fmt: skip
    text = (
        f"From the first to the last layer, softmax entropy falls for {_of(int(falls.sum()), classes)} "
        f"(mean {_close(numbers['first'], numbers['last'])})"
    )  # fmt: skip
    text += f", at every step for {int(steps.sum())}." if len(layers) > 2 else "."
    if int(falls.sum()):
        survive = int(both.sum())
        change = _close(numbers["first_scale_free"], numbers["last_scale_free"])
        if survive:
            word = "all of them" if survive == int(falls.sum()) > 1 else f"{survive} of them"
            text += f" With the scale of the activations removed it still falls for {word} (mean {change})."
        else:
            text += f" With the scale of the activations removed it falls for none of them (mean {change}): the fall is one of scale, not of a sharper pattern."
    yield Finding(text, "softmax", numbers=numbers)


def carry_over(stats: FiringStats, test: FiringStats) -> list[dict[str, Any]]:
    """How far per-unit measures carry over to other data: for each layer and measure the two means and the correlation.

    Args:
        stats: Statistics.
        test: Statistics of the same model on other data.

    Returns:
        Rows with layer, measure, units (live in both), mean, test_mean, pearson and spearman (NaN where one of them is constant).
    """
    rows = []
    for name, layer in stats.items():
        live = (live_units(layer) & live_units(test[name])).numpy()
        for row in MEASURES:
            if not row.per_unit:
                continue
            mine, theirs = unit_values(layer, row.name), unit_values(test[name], row.name)
            if mine is None or theirs is None:
                continue
            a, b = mine.numpy()[live], theirs.numpy()[live]
            rows.append({
                "layer": name, "measure": row.name, "units": int(live.sum()), "mean": float(a.mean()) if len(a) else math.nan,
                "test_mean": float(b.mean()) if len(b) else math.nan, "pearson": _correlation(a, b), "spearman": _rank_correlation(a, b),
            })  # fmt: skip
    return rows


def _carry(stats: FiringStats, test: FiringStats) -> Iterator[Finding]:
    rows = [row for row in carry_over(stats, test) if row["measure"] == "mutual_information" and row["units"] >= 10]
    rows = [row for row in rows if not math.isnan(row["spearman"])]
    if not rows:
        return
    values = [row["spearman"] for row in rows]
    low, high = min(values), max(values)
    span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
    word = "carries over" if low > 0.9 else "carries over in part" if low > 0.5 else "does not carry over everywhere"
    text = (
        f"Which units are informative {word} to the {_count(test.samples, 'test sample')}: rank correlation of mutual information "
        f"{span} over {_count(len(rows), 'layer')}."
    )  # fmt: skip
    yield Finding(text, "carry", "fact" if low > 0.5 else "caution", {"lowest": low, "highest": high, "layers": len(rows)})


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 3 or a.std() < 1e-12 or b.std() < 1e-12:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    import pandas as pd

    if len(a) < 3 or a.std() < 1e-12 or b.std() < 1e-12:
        return math.nan
    return _correlation(pd.Series(a).rank().to_numpy(), pd.Series(b).rank().to_numpy())


def _variance(share: float, samples: int) -> float:
    return share * (1 - share) / max(samples, 1)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}{'es' if word.endswith('s') else 's'}"


def _of(number: int, classes: int) -> str:
    if number in (0, classes):
        return f"{'all' if number else 'none of the'} {classes} classes" if classes > 1 else "the one class" if number else "no class"
    return f"{number} of {classes} classes"


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
