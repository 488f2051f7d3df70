"""How well each number tells nets with true labels from those with random ones, and what follows for the claims."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cofire.rankings import granulated_kendall, kendall
from cofire.recipes.running import Finding, Table, mean_and_range, verdict_of

__all__ = ["FAMILIES", "STOPS", "Area", "Told", "areas", "compared", "findings", "tables"]

FAMILIES = {"fcnn": "fully connected nets", "conv": "convolutional nets"}
"""Kinds of nets."""

STOPS: tuple[str, ...] = ("loss 0.5", "accuracy 0.95", "loss 0.1", "loss 0.03")
"""Where nets are compared: the first time that the training loss, in nats, is as small, or training accuracy as large."""

_MIDDLE, _BOTH = "loss 0.1", "both families"
_SETTINGS = ("width", "dropout", "rate")
_STRONG = 0.9
_RESAMPLES = 1000
_KNOWN = 0.9  # share of nets that must have a number for it to be compared
_CONTROLS = ("epochs", "mean_loss", "mean_accuracy", "mean_max_softmax", "parameters", "weight_norm")
_EXCESS = ("mutual_information_excess", "mutual_information_excess_total")
_RIVALS = ("davies_bouldin", "participation_ratio", "scatter_ratio")
_ENTROPIES = ("activation_entropy", "activation_entropy_total")

_NOTE = (
    "AUROC of nets with true labels against those with any share of random ones. All data: one threshold. Same pictures: "
    "within each data set and family, averaged. Twins: among nets that differ in their labels only, the stop with the "
    "smallest. 0 against 20 % random labels: on the same pictures, at a loss of 0.1. In brackets 95 % "
    "intervals from drawing nets anew: they say nothing of other data, and one of no width, around 1.00, is too narrow. "
    "Kendall's tau with test accuracy is over all nets at a loss of 0.1. The granulated one is between nets that differ in "
    "width, dropout or rate only, averaged over seeds first, without those whose labels are all random; families are never "
    "compared there, since that would reward what follows the architecture. Numbers of layers are averaged over them. The "
    "direction is the one that fits these nets better over all stops."
)

Area = tuple[float, float, float]
"""An AUROC, and the ends of its interval."""


@dataclass(frozen=True)
class Told:
    """What one number tells of some nets.

    Args:
        sign: 1 where true labels have the larger values, -1 where they have the smaller ones.
        alike: By stop, the AUROC of "larger means true labels" among nets of one family on the same pictures, averaged.
        twins: As `alike`, among nets that differ in their labels only.
        whole: By stop, the AUROC with one threshold for all nets.
        tasks: By (family, data), the AUROC at the middle stop.
        little: As `alike` at the middle stop, true labels against 20 % random ones.
        tau: Kendall's tau with test accuracy over all nets at the middle stop.
        granulated: The same between nets that differ in one hyper-parameter only, and its interval.
    """

    sign: int
    alike: Mapping[str, Area]
    twins: Mapping[str, Area]
    whole: Mapping[str, Area]
    tasks: Mapping[tuple[str, str], Area]
    little: Area
    tau: float
    granulated: Area

    def turned(self, area: Area) -> Area:
        """An area in the direction that the number has."""
        value, low, high = area
        return area if self.sign > 0 else (1 - value, 1 - high, 1 - low)

    def least(self, by_stop: Mapping[str, Area]) -> float:
        """The smallest area over stops in the direction that the number has; what is not known counts as 0."""
        return min(0.0 if math.isnan(area[0]) else self.turned(area)[0] for area in by_stop.values())

    @property
    def ranks(self) -> int:
        """The sign of a granulated tau whose interval leaves out 0; else 0."""
        _, low, high = self.granulated
        return (low > 0) - (high < 0)


Scopes = Mapping[str, Mapping[str, Told]]


def areas(rows: Sequence[dict], measure: str, within: Sequence[str] = ()) -> Area:
    """AUROC of "larger means true labels", with an interval over nets.

    Args:
        rows: Nets at one stop.
        measure: The number.
        within: Only nets that agree in these are compared, and the AUROCs of the groups averaged; by default all with all.

    Returns:
        The area, and the ends of a 95 % interval from drawing nets anew among those with true labels and among the others of
        each group. NaN where more than a tenth of the nets has no such number or one kind of nets is missing.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        if measure in row["values"]:
            groups.setdefault(tuple(row[key] for key in within), []).append(row)
    lots, means = np.random.default_rng(0), []
    for group in groups.values():
        true, random = (
            np.array([row["values"][measure] for row in group if (row["noise"] == 0) is clean]) for clean in (True, False)
        )
        if not len(true) or not len(random):
            continue
        wins = (np.sign(true[:, None] - random) + 1) / 2
        first, second = (
            np.concatenate([np.ones((1, n)), lots.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)]) for n in wins.shape
        )
        means.append(((first @ wins) * second).sum(1) / wins.size)
    if not means or sum(map(len, groups.values())) < _KNOWN * len(rows):
        return math.nan, math.nan, math.nan
    mean = np.mean(means, 0)
    low, high = np.quantile(mean[1:], [0.025, 0.975])
    return float(mean[0]), float(low), float(high)


def compared(rows: Sequence[dict]) -> dict[str, dict[str, Told]]:
    """What every number tells of each family and of both; families and numbers of which nothing is known are left out.

    Args:
        rows: Nets at their stops, with "family", "data", "noise", "width", "dropout", "rate", "stop", "test_accuracy" and
            "values" by the name of the number.
    """
    scopes = {title: [row for row in rows if row["family"] == family] for family, title in FAMILIES.items()}
    names = sorted({name for row in rows for name in row["values"]})
    found = {}
    for scope, mine in {**scopes, _BOTH: rows}.items():
        told = {name: _told(mine, name) for name in names}
        found[scope] = {name: one for name, one in told.items() if one is not None}
    return {scope: told for scope, told in found.items() if told}


def _told(rows: Sequence[dict], measure: str) -> Told | None:
    at = {stop: [row for row in rows if row["stop"] == stop] for stop in STOPS}
    alike = {stop: areas(mine, measure, ("family", "data")) for stop, mine in at.items()}
    known = [area for area, _, _ in alike.values() if not math.isnan(area)]
    if not known:
        return None
    middle = [row for row in at[_MIDDLE] if measure in row["values"]]
    values, right = [row["values"][measure] for row in middle], [row["test_accuracy"] for row in middle]
    places = dict.fromkeys((row["family"], row["data"]) for row in rows)
    tasks = {place: [row for row in at[_MIDDLE] if (row["family"], row["data"]) == place] for place in places}
    return Told(
        1 if sum(known) / len(known) >= 0.5 else -1, alike,
        {stop: areas(mine, measure, ("family", "data", *_SETTINGS)) for stop, mine in at.items()},
        {stop: areas(mine, measure) for stop, mine in at.items()},
        {place: areas(mine, measure) for place, mine in tasks.items()},
        areas([row for row in at[_MIDDLE] if row["noise"] <= 0.2], measure, ("family", "data")),
        kendall(values, right), _granulated(middle, measure),
    )  # fmt: skip


def _granulated(rows: Sequence[dict], measure: str) -> Area:
    """Granulated tau with test accuracy between nets of one family and task.

    Every setting holds the task too, so that nets that differ in one setting only share it. The family is part of the task, no
    hyper-parameter: an axis of two families would reward whatever follows the architecture. On random labels alone test
    accuracy differs by chance, so those nets are left out.
    """
    rows = [row for row in rows if row["noise"] < 1]
    if not rows:
        return math.nan, math.nan, math.nan
    grid = [{key: (*(row[of] for of in ("family", "data", "noise")), row[key]) for key in _SETTINGS} for row in rows]
    found = granulated_kendall([row["values"][measure] for row in rows], [row["test_accuracy"] for row in rows], grid)
    return found.mean, found.low, found.high


def findings(scopes: Scopes, rows: Sequence[dict]) -> list[Finding]:
    """What became of the first study's claims, and what to know beside them.

    Args:
        scopes: From :func:`compared`.
        rows: Nets at their stops.
    """
    families = {title: told for title, told in scopes.items() if title != _BOTH}
    if not families:
        return []
    excess = "The excess of mutual information and its sum over units tell nets with true labels from those with random ones"
    rivals = "So do the Davies-Bouldin index, the participation ratio (an effective rank) and the ratio of scatters (like NC1)"
    among = {
        "twins": "where nothing but the labels differs", "alike": "among nets with other settings on the same pictures",
        "whole": "with one threshold for all data",
    }  # fmt: skip
    return [
        *(_apart(families, f"{excess}, {words}.", _EXCESS, 1, kind) for kind, words in among.items()),
        *(_apart(families, f"{rivals}, {words}.", _RIVALS, -1, kind) for kind, words in among.items()),
        _ranked(families), _entropies(families), _reversed(families), _matched(rows), _learned(scopes[_BOTH], rows),
        _strong(scopes), _largest(scopes[_BOTH]),
    ]  # fmt: skip


def _cases(families: Scopes, names: Sequence[str]) -> list[tuple[str, Told]]:
    return [(f"{name}, {title}", told[name]) for name in names for title, told in families.items()]


def _apart(families: Scopes, claim: str, names: Sequence[str], sign: int, kind: str) -> Finding:
    values, parts = [], []
    for case, told in _cases(families, names):
        mine = [area if sign > 0 else 1 - area for area, _, _ in getattr(told, kind).values()]
        values += [value for value in mine if not math.isnan(value)]
        parts.append(f"{case} {', '.join('-' if math.isnan(value) else f'{value:.2f}' for value in mine)}")
    held = sum(value >= _STRONG for value in values)
    why = f"AUROC at least {_STRONG} in {held} of {len(values)} cases (number, family, stop), "
    why += f"{'higher' if sign > 0 else 'lower'} for true labels. By stop ({', '.join(STOPS)}): {'; '.join(parts)}."
    return Finding(claim, verdict_of(held, len(values)), why)


def _tau(told: Told) -> str:
    value, low, high = told.granulated
    return "-" if math.isnan(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _by_size(told: Mapping[str, Told], names: Sequence[str]) -> list[str]:
    """Those with a granulated tau, the largest first."""
    known = [name for name in names if not math.isnan(told[name].granulated[0])]
    return sorted(known, key=lambda name: -abs(told[name].granulated[0]))


def _ranked(families: Scopes) -> Finding:
    cases = _cases(families, _EXCESS)
    held = sum(told.ranks > 0 for _, told in cases)
    why = f"Granulated tau above 0, with its interval, in {held} of {len(cases)} cases: "
    why += "; ".join(f"{case} {_tau(told)}" for case, told in cases)
    for title, told in families.items():
        for name in _by_size(told, [name for name in _CONTROLS if name in told])[:1]:
            why += f". The largest control of {title}: {name} {_tau(told[name])}"
    claim = "The excess and its sum rank nets of one task by their test accuracy."
    return Finding(claim, verdict_of(held, len(cases)), f"{why}.")


def _entropies(families: Scopes) -> Finding:
    cases = _cases(families, _ENTROPIES)
    held = sum(told.least(told.alike) < _STRONG and not told.ranks for _, told in cases)
    why = f"In {held} of {len(cases)} cases it neither tells true labels on the same pictures (AUROC of {_STRONG} at every "
    why += "stop) nor ranks nets of one task by test accuracy (granulated tau whose interval leaves out 0). Smallest AUROC and "
    why += f"tau: {'; '.join(f'{case} {told.least(told.alike):.2f} and {_tau(told)}' for case, told in cases)}."
    claim = "Activation entropy is no score of quality, neither its mean over live units nor its sum."
    return Finding(claim, verdict_of(held, len(cases)), why)


def _reversed(families: Scopes) -> Finding:
    cases = _cases(families, ["softmax_entropy"])
    held = sum(told.ranks == -told.sign for _, told in cases)
    parts = [
        f"{case}: {'higher' if told.sign > 0 else 'lower'} for true labels (smallest AUROC on the same pictures "
        f"{told.least(told.alike):.2f}), granulated tau with test accuracy {_tau(told)}" for case, told in cases
    ]  # fmt: skip
    claim = "Softmax entropy reverses: what means true labels between tasks means worse within one."
    return Finding(claim, verdict_of(held, len(cases)), f"In {held} of {len(cases)} families. {'; '.join(parts)}.")


def _matched(rows: Sequence[dict]) -> Finding:
    gaps = {}
    for stop in STOPS:
        true, random = (
            [100 * row["values"]["mean_accuracy"] for row in rows if row["stop"] == stop and (row["noise"] == 0) is clean]
            for clean in (True, False)
        )
        if true and random:
            gaps[stop] = sum(true) / len(true), sum(random) / len(random)
    why = "; ".join(f"{true:.1f} and {random:.1f} % at {stop}" for stop, (true, random) in gaps.items())
    why = (
        f"Mean training accuracy of nets with true labels and of the others: {why}. How well training accuracy and loss alone "
    )
    why += "tell them stands in the tables, as mean_accuracy and mean_loss."
    largest = max(abs(true - random) for true, random in gaps.values())
    return Finding("(Are nets compared at the same training accuracy?)", f"within {largest:.1f} points", why)


def _learned(told: Mapping[str, Told], rows: Sequence[dict]) -> Finding:
    """Test accuracy with true labels beside the areas: where it is low, those nets memorise as well."""
    parts, names = [], [_EXCESS[0], *_RIVALS]
    for family, name in told[_EXCESS[0]].tasks:
        right = [
            row["test_accuracy"] for row in rows
            if (row["family"], row["data"], row["noise"], row["stop"]) == (family, name, 0, _MIDDLE)
        ]  # fmt: skip
        found = [(of, told[of].turned(told[of].tasks[family, name])[0]) for of in names]
        parts.append(
            f"{name}, {FAMILIES[family]} {mean_and_range(right)}: {', '.join(f'{of} {area:.2f}' for of, area in found)}"
        )
    why = f"Test accuracy with true labels at {_MIDDLE}, and the AUROC there: {'; '.join(parts)}. Where nets with true labels "
    why += "are wrong on most test pictures, they memorise as well, and there is less to tell."
    each = [told[_EXCESS[0]].turned(area)[0] for area in told[_EXCESS[0]].tasks.values()]
    return Finding(
        "(Do nets with true labels learn?)", f"AUROC of the excess by data set {min(each):.2f} to {max(each):.2f}", why
    )


def _strong(scopes: Scopes) -> Finding:
    def named(titles: Sequence[str], kind: str) -> str:
        names = [
            name for name in scopes[titles[0]]
            if all(name in scopes[title] and scopes[title][name].least(getattr(scopes[title][name], kind)) >= _STRONG
                   for title in titles)
        ]  # fmt: skip
        return f"{len(names)} ({', '.join(names)})" if names else "none"

    families = [title for title in scopes if title != _BOTH]
    alone = named(families, "whole")
    why = f"Of {len(scopes[_BOTH])} numbers these have an AUROC of at least {_STRONG} at every stop. In each family, where "
    why += (
        f"nothing but the labels differs: {named(families, 'twins')}; on the same pictures: {named(families, 'alike')}; with "
    )
    why += f"one threshold for all data: {alone}. With one threshold for both families too: {named([_BOTH], 'whole')}."
    return Finding("(Does any number tell without a net to compare with?)", "no" if alone == "none" else "yes", why)


def _largest(told: Mapping[str, Told]) -> Finding:
    ranked = _by_size(told, list(told))
    best = "; ".join(f"{name} {_tau(told[name])}" for name in ranked[:5])
    why = f"Granulated tau over both families: {best}. Largest of {len(ranked)}: some of it is chance."
    return Finding("(Which ranks nets of one task by test accuracy?)", "the largest of many", why)


def tables(scopes: Scopes, rows: Sequence[dict], nets: int) -> list[Table]:
    """Where nets were stopped, and every number for each family and both.

    Args:
        scopes: From :func:`compared`.
        rows: Nets at their stops.
        nets: How many were trained.
    """
    each = [_table(title, told, "" if at else _NOTE) for at, (title, told) in enumerate(scopes.items())]
    return [_stopped(rows, nets), *each, *([_by_data(scopes[_BOTH])] if _BOTH in scopes else [])]


def _stopped(rows: Sequence[dict], nets: int) -> Table:
    groups: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: (list(FAMILIES).index(row["family"]), STOPS.index(row["stop"]), row["noise"])):
        groups.setdefault((FAMILIES[row["family"]], row["stop"], f"{row['noise']:.0%}"), []).append(row)
    lines = []
    for key, mine in groups.items():
        seen = [[row["values"][name] for row in mine] for name in ("epochs", "mean_loss", "mean_accuracy")]
        seen.append([row["test_accuracy"] for row in mine])
        lines.append(
            [*key, len(mine), *(mean_and_range(values, digits) for values, digits in zip(seen, (1, 3, 3, 2), strict=True))]
        )
    columns = ["family", "stop", "random labels", "nets", "epochs", "training loss", "training accuracy", "test accuracy"]
    note = (
        f"{nets} nets were trained. A net is looked at every few steps, and counts where it first reaches a stop. Means, with "
    )
    return Table("Where nets were stopped", columns, lines, note + "the smallest and the largest.")


def _table(title: str, found: Mapping[str, Told], note: str) -> Table:
    def cell(told: Told, area: Area) -> str:
        value, low, high = told.turned(area)
        return "-" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"

    lines = [
        [f"{name} (control)" if name in _CONTROLS else name, "higher" if told.sign > 0 else "lower",
         *(cell(told, told.whole[stop]) for stop in STOPS), *(cell(told, told.alike[stop]) for stop in STOPS),
         f"{told.least(told.twins):.2f}" if told.least(told.twins) else "-", cell(told, told.little), f"{told.tau:+.2f}",
         _tau(told)]
        for name, told in sorted(found.items(), key=lambda item: -item[1].least(item[1].alike))
    ]  # fmt: skip
    columns = ["number", "with true labels", *(f"all data, {stop}" for stop in STOPS),
               *(f"same pictures, {stop}" for stop in STOPS), "twins", "0 against 20 %", "Kendall", "granulated"]  # fmt: skip
    return Table(f"Every number: {title}", columns, lines, note)


def _by_data(found: Mapping[str, Told]) -> Table:
    ordered = sorted(found.items(), key=lambda item: -item[1].least(item[1].alike))
    lines = [[name, *(round(told.turned(area)[0], 2) for area in told.tasks.values())] for name, told in ordered]
    columns = ["number", *(f"{data}, {FAMILIES[family]}" for family, data in ordered[0][1].tasks)]
    note = f"AUROC within each data set and family at {_MIDDLE}, in the direction that fits both families."
    return Table("By data set", columns, lines, note)
