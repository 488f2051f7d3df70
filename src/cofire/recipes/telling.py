"""How well each number tells nets with true labels from those with random ones, and what follows for the claims."""

import math
from collections.abc import Sequence

import numpy as np

from cofire.rankings import granulated_kendall, kendall
from cofire.recipes.running import Finding, Table, mean_and_range, verdict_of

__all__ = ["FAMILIES", "STOPS", "areas", "compared", "findings", "tables"]

FAMILIES = {"fcnn": "Fully connected nets", "conv": "Convolutional nets"}
"""Kinds of nets."""

STOPS = ("loss 0.5", "accuracy 0.95", "loss 0.1", "loss 0.03")
"""Where nets are compared: the first time that the training loss, in nats, is as small, or training accuracy as large."""

_MIDDLE, _BOTH = "loss 0.1", "Both families"
_STRONG = 0.9
_RESAMPLES = 1000
_KNOWN = 0.9  # share of nets that must have a number for it to be compared
_CONTROLS = ("epochs", "mean_loss", "mean_accuracy", "mean_max_softmax", "parameters", "weight_norm")
_EXCESS = ("mutual_information_excess", "mutual_information_excess_total")
_RIVALS = ("davies_bouldin", "participation_ratio", "scatter_ratio")
_ENTROPIES = ("activation_entropy", "activation_entropy_total")

Area = tuple[float, float, float]


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
    return float(mean[0]), *map(float, np.quantile(mean[1:], [0.025, 0.975]))


def compared(rows: Sequence[dict]) -> dict[str, dict[str, dict]]:
    """For each family and for both: for every number AUROCs at each stop, and ranks with test accuracy.

    Args:
        rows: Nets at their stops.
    """
    scopes = {title: [row for row in rows if row["family"] == family] for family, title in FAMILIES.items()}
    scopes[_BOTH] = list(rows)
    names = sorted({name for row in rows for name in row["values"]})
    found = {scope: {name: _compared(mine, name) for name in names} for scope, mine in scopes.items()}
    return {scope: {name: line for name, line in lines.items() if line} for scope, lines in found.items()}


def _compared(rows: list[dict], measure: str) -> dict:
    at = {stop: [row for row in rows if row["stop"] == stop] for stop in STOPS}
    alike = {stop: areas(mine, measure, ("family", "data")) for stop, mine in at.items()}
    known = [area for area, _, _ in alike.values() if not math.isnan(area)]
    if not known:
        return {}
    middle = [row for row in at[_MIDDLE] if measure in row["values"]]
    little = [row for row in at[_MIDDLE] if row["noise"] <= 0.2]
    # Test accuracy on random labels alone differs by chance only. Each axis holds the task too, so that no pair spans two
    # tasks; families are kept apart, since an axis of two families would reward whatever follows the architecture.
    ranked = [row for row in middle if row["noise"] < 1]
    grid = [
        {key: (row["family"], row["data"], row["noise"], row[key]) for key in ("width", "dropout", "rate")} for row in ranked
    ]
    values, right = [row["values"][measure] for row in ranked], [row["test_accuracy"] for row in ranked]
    tau = granulated_kendall(values, right, grid) if grid else None
    return {
        "sign": 1 if sum(known) / len(known) >= 0.5 else -1, "alike": alike,
        "all": {stop: areas(mine, measure) for stop, mine in at.items()}, "little": areas(little, measure, ("family", "data")),
        "kendall": kendall([row["values"][measure] for row in middle], [row["test_accuracy"] for row in middle]),
        "granulated": (tau.mean, tau.low, tau.high) if tau else (math.nan,) * 3,
    }  # fmt: skip


def _turned(area: Area, sign: int) -> Area:
    value, low, high = area
    return area if sign > 0 else (1 - value, 1 - high, 1 - low)


def _worst(line: dict, kind: str) -> float:
    """The smallest AUROC over stops, in the direction that the number has here; what is not known counts as 0."""
    return min(0.0 if math.isnan(area[0]) else _turned(area, line["sign"])[0] for area in line[kind].values())


def findings(scopes: dict[str, dict[str, dict]], rows: Sequence[dict]) -> list[Finding]:
    """What became of the first study's claims.

    Args:
        scopes: From :func:`compared`.
        rows: Nets at their stops.
    """
    families = {title: scopes[title] for title in FAMILIES.values()}
    excess = "The excess of mutual information and its sum over units tell"
    rivals = "So do the Davies-Bouldin index, the participation ratio (an effective rank) and the ratio of scatters (like NC1)"
    alike, one = "on the same pictures", "with one threshold for all data"
    found = [
        _told(families, f"{excess} nets with true labels from those with partly random ones, {alike}.", _EXCESS, 1, "alike"),
        _told(families, f"{excess} them apart {one}.", _EXCESS, 1, "all"),
        _told(families, f"{rivals}, {alike}.", _RIVALS, -1, "alike"), _told(families, f"{rivals}, {one}.", _RIVALS, -1, "all"),
        _ranked(families), _entropies(families), _reversed(families), _matched(rows), _strong(scopes), _largest(scopes[_BOTH]),
    ]  # fmt: skip
    return [finding for finding in found if finding is not None]


def _told(families: dict, claim: str, names: Sequence[str], sign: int, kind: str) -> Finding | None:
    values, parts = [], []
    for name in names:
        for title, lines in families.items():
            if name in lines:
                mine = [_turned(area, sign)[0] for area in lines[name][kind].values()]
                values += [value for value in mine if not math.isnan(value)]
                parts.append(f"{name}, {title.lower()} {', '.join(_number(value) for value in mine)}")
    if not values:
        return None
    held = sum(value >= _STRONG for value in values)
    why = f"AUROC at least {_STRONG} in {held} of {len(values)} cases (number, family, stop), "
    why += f"{'higher' if sign > 0 else 'lower'} for true labels. By stop ({', '.join(STOPS)}): {'; '.join(parts)}."
    return Finding(claim, verdict_of(held, len(values)), why)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _tau(line: dict) -> str:
    value, low, high = line["granulated"]
    return "-" if math.isnan(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _apart(line: dict) -> int:
    """The sign of a granulated tau whose interval leaves out 0; else 0."""
    _, low, high = line["granulated"]
    return (low > 0) - (high < 0)


def _ranked(families: dict) -> Finding | None:
    cases = [(name, title, lines[name]) for title, lines in families.items() for name in _EXCESS if name in lines]
    if not cases:
        return None
    why = "; ".join(f"{name}, {title.lower()} {_tau(line)}" for name, title, line in cases)
    for title, lines in families.items():
        rivals = {name: lines[name] for name in _CONTROLS if name in lines and not math.isnan(lines[name]["granulated"][0])}
        if rivals:
            best = max(rivals, key=lambda name: abs(rivals[name]["granulated"][0]))
            why += f". The largest control of {title.lower()}: {best} {_tau(rivals[best])}"
    held = sum(_apart(line) > 0 for _, _, line in cases)
    return Finding(
        "The excess and its sum rank nets of one task by their test accuracy.", verdict_of(held, len(cases)),
        f"Granulated tau above 0, with its interval, in {held} of {len(cases)} cases: {why}.",
    )  # fmt: skip


def _entropies(families: dict) -> Finding | None:
    cases = [(name, title, lines[name]) for title, lines in families.items() for name in _ENTROPIES if name in lines]
    if not cases:
        return None
    held = sum(_worst(line, "alike") < _STRONG and not _apart(line) for _, _, line in cases)
    why = (
        f"In {held} of {len(cases)} cases it neither tells true labels on the same pictures (AUROC of {_STRONG} at every stop) "
    )
    why += "nor ranks nets of one task by test accuracy (granulated tau whose interval leaves out 0). Smallest AUROC and tau: "
    why += "; ".join(f"{name}, {title.lower()} {_worst(line, 'alike'):.2f} and {_tau(line)}" for name, title, line in cases)
    claim = "Activation entropy is no score of quality, neither its mean over live units nor its sum."
    return Finding(claim, verdict_of(held, len(cases)), f"{why}.")


def _reversed(families: dict) -> Finding | None:
    cases = [(title, lines["softmax_entropy"]) for title, lines in families.items() if "softmax_entropy" in lines]
    if not cases:
        return None
    held = sum(_apart(line) == -line["sign"] for _, line in cases)
    why = "; ".join(
        f"{title.lower()}: {'higher' if line['sign'] > 0 else 'lower'} for true labels (smallest AUROC on the same pictures "
        f"{_worst(line, 'alike'):.2f}), granulated tau with test accuracy {_tau(line)}" for title, line in cases
    )  # fmt: skip
    return Finding(
        "Softmax entropy reverses: what means true labels between tasks means worse within one.", verdict_of(held, len(cases)),
        f"{why[0].upper()}{why[1:]}.",
    )  # fmt: skip


def _matched(rows: Sequence[dict]) -> Finding | None:
    gaps = {}
    for stop in STOPS:
        true, random = (
            [100 * row["values"]["mean_accuracy"] for row in rows if row["stop"] == stop and (row["noise"] == 0) is clean]
            for clean in (True, False)
        )
        if true and random:
            gaps[stop] = sum(true) / len(true), sum(random) / len(random)
    if not gaps:
        return None
    largest = max(abs(true - random) for true, random in gaps.values())
    why = "; ".join(f"{true:.1f} and {random:.1f} % at {stop}" for stop, (true, random) in gaps.items())
    return Finding(
        "(Are nets compared at the same training accuracy?)", f"within {largest:.1f} points",
        f"Mean training accuracy of nets with true labels and of the others: {why}. How well training accuracy and loss alone "
        "tell them stands in the tables as mean_accuracy and mean_loss.",
    )  # fmt: skip


def _strong(scopes: dict[str, dict[str, dict]]) -> Finding:
    def strong(kind: str, titles: Sequence[str]) -> list[str]:
        names = [
            name
            for name in scopes[_BOTH]
            if all(_worst(scopes[title].get(name, {kind: {}}), kind) >= _STRONG for title in titles)
        ]
        return sorted(names, key=lambda name: -_worst(scopes[_BOTH][name], kind))

    alike, each, one = strong("alike", list(FAMILIES.values())), strong("all", list(FAMILIES.values())), strong("all", [_BOTH])
    why = f"Of {len(scopes[_BOTH])} numbers these have an AUROC of at least {_STRONG} at every stop: on the same pictures, in "
    why += f"each family {_list(alike)}; with one threshold for all data, in each family {_list(each)}; with one threshold for all "
    why += f"data and both families {_list(one)}."
    return Finding("(How hard is the question?)", "easy" if len(one) > 4 else "hard", why)


def _list(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _largest(lines: dict[str, dict]) -> Finding | None:
    known = [name for name in lines if not math.isnan(lines[name]["granulated"][0])]
    if not known:
        return None
    ranked = sorted(known, key=lambda name: -abs(lines[name]["granulated"][0]))
    best = "; ".join(f"{name} {_tau(lines[name])}" for name in ranked[:5])
    return Finding(
        "(Which ranks nets of one task by test accuracy?)", "the largest of many",
        f"Granulated tau over both families: {best}. Largest of {len(ranked)}: some of it is chance.",
    )  # fmt: skip


def tables(scopes: dict[str, dict[str, dict]], rows: Sequence[dict], nets: int) -> list[Table]:
    """Where nets were stopped, and every number for each family and both.

    Args:
        scopes: From :func:`compared`.
        rows: Nets at their stops.
        nets: How many were trained.
    """
    return [_stopped(rows, nets), *(_table(title, lines, at) for at, (title, lines) in enumerate(scopes.items()))]


def _stopped(rows: Sequence[dict], nets: int) -> Table:
    lines = []
    shares = sorted({row["noise"] for row in rows})
    for family, title in FAMILIES.items():
        for stop in STOPS:
            for noise in shares:
                mine = [row for row in rows if (row["family"], row["stop"], row["noise"]) == (family, stop, noise)]
                cells = [
                    mean_and_range([row["values"][name] for row in mine], 3)
                    for name in ("epochs", "mean_loss", "mean_accuracy")
                ]
                lines.append(
                    [title, stop, f"{noise:.0%}", len(mine), *cells, mean_and_range([row["test_accuracy"] for row in mine])]
                )
    columns = ["family", "stop", "random labels", "nets", "epochs", "training loss", "training accuracy", "test accuracy"]
    note = (
        f"{nets} nets were trained; a net is looked at every few steps, and counts where it first reaches a stop. Means, with "
    )
    note += "the smallest and the largest."
    return Table("Where nets were stopped", columns, lines, note)


def _table(title: str, found: dict[str, dict], at: int) -> Table:
    def area(line: dict, found: Area) -> str:
        value, low, high = _turned(found, line["sign"])
        return "-" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"

    order = sorted(found, key=lambda name: (-_worst(found[name], "alike"), name))
    lines = [
        [f"{name} (control)" if name in _CONTROLS else name, "higher" if found[name]["sign"] > 0 else "lower",
         *(area(found[name], found[name]["all"][stop]) for stop in STOPS),
         *(area(found[name], found[name]["alike"][stop]) for stop in STOPS), area(found[name], found[name]["little"]),
         f"{found[name]['kendall']:+.2f}", _tau(found[name])]
        for name in order
    ]  # fmt: skip
    columns = ["number", "with true labels", *(f"all data, {stop}" for stop in STOPS),
               *(f"same pictures, {stop}" for stop in STOPS), "0 against 20 %", "Kendall", "granulated"]  # fmt: skip
    note = (
        "AUROC of nets with true labels against those with any share of random ones. All data: one threshold. Same pictures: "
    )
    note += "within each data set and family, averaged; so is 0 against 20 % random labels, at a loss of 0.1. In brackets 95 % "
    note += (
        "intervals from drawing nets anew; one of no width, around 1.00, is too narrow. Kendall's tau with test accuracy over "
    )
    note += "all nets at a loss of 0.1, and granulated: between nets that differ in width, dropout or rate only, without those "
    note += (
        "whose labels are all random, with seeds averaged. Families are never compared there: their pairs would reward what "
    )
    note += "follows the architecture. Numbers of layers are averaged over them. The direction is the one that fits these nets "
    note += "best, so that 0.5 is the least."
    return Table(title, columns, lines, "" if at else note)
