"""The naive reference: every quantity as its paper writes it, with plain loops over samples and other code than ours.

Everything here takes activations ``[samples, units]`` as an array and labels as integers, and gives numpy arrays. A class
without samples is NaN. Nothing imports cofire.
"""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
from scipy import special, stats

__all__ = [
    "activation_entropy",
    "activation_entropy_by_class",
    "as_array",
    "class_means",
    "class_selectivity",
    "columns",
    "counts_in_bins",
    "exact_bin",
    "expected_information",
    "firing_entropy",
    "firing_probability",
    "kl_selectivity",
    "mutual_information",
    "mutual_information_excess",
    "nonzero_range",
    "softmax_entropy",
    "std",
]


def as_array(acts) -> np.ndarray:
    """Activations as float64; a bfloat16 tensor has no array of its own."""
    return np.array(acts.double().numpy() if hasattr(acts, "double") else acts, dtype=np.float64)


def columns(acts) -> list[np.ndarray]:
    """The units, one after the other."""
    return list(as_array(acts).T)


def bits(counts) -> float:
    """Entropy of counts in bits; 0 where nothing was counted."""
    counts = [c for c in counts if c]
    return abs(float(stats.entropy(counts, base=2))) if counts else 0.0


# ---------------------------------------------------------------- how often and how strongly


def firing_probability(acts, labels, classes: int, threshold: float = 0.0) -> np.ndarray:
    """Paper 000, equation 14: the share of class c's samples in which the unit is above the threshold."""
    table = []
    for c in range(classes):
        rows = [row for row, label in zip(as_array(acts), labels, strict=True) if label == c]
        fired = [sum(1 for row in rows if row[u] > threshold) for u in range(acts.shape[1])]
        table.append([count / len(rows) if rows else math.nan for count in fired])
    return np.array(table)


def class_means(acts, labels, classes: int) -> np.ndarray:
    """Paper 001, equation 6: the mean activation over class c's samples, summed without rounding."""
    table = []
    for c in range(classes):
        rows = [row for row, label in zip(as_array(acts), labels, strict=True) if label == c]
        table.append([math.fsum(row[u] for row in rows) / len(rows) if rows else math.nan for u in range(acts.shape[1])])
    return np.array(table)


def std(acts) -> np.ndarray:
    """Standard deviation over samples, from deviations, not corrected."""
    found = []
    for column in columns(acts):
        mean = math.fsum(column) / len(column)
        found.append(math.sqrt(math.fsum((value - mean) ** 2 for value in column) / len(column)))
    return np.array(found)


# ---------------------------------------------------------------- histograms


def exact_bin(value: float, low: float, high: float, bins: int) -> int:
    """k with k <= (value - low) bins / (high - low) < k + 1 in rational arithmetic, the last bin closed on both sides."""
    if low == high:
        return 0
    place = (Fraction(value) - Fraction(low)) * bins / (Fraction(high) - Fraction(low))
    return min(math.floor(place), bins - 1)


def nonzero_range(column) -> tuple[float, float]:
    """Smallest and largest non-zero value; inf and -inf where there is none."""
    kept = [value for value in column if value != 0]
    return (min(kept), max(kept)) if kept else (math.inf, -math.inf)


def spans(acts, span: str) -> list[tuple[np.ndarray, tuple[float, float] | None]]:
    """Each unit's non-zero values and the range to bin them in; for "common", of F_norm, one for all units."""
    kept = [column[column != 0] for column in columns(acts)]
    if span == "common":
        kept = [values / values.sum() if len(values) else values for values in kept]
        everything = np.concatenate(kept)
        ends = (everything.min(), everything.max()) if len(everything) else None
        return [(values, ends) for values in kept]
    if span == "zero":
        return [(v, (min(v.min(), 0.0), max(v.max(), 0.0)) if len(v) else None) for v in kept]
    return [(v, (v.min(), v.max()) if len(v) else None) for v in kept]


def counts_in_bins(acts, bins: int = 30, span: str = "own") -> np.ndarray:
    """``np.histogram`` of each unit's non-zero values, [bins, units]."""
    table = []
    for values, ends in spans(acts, span):
        if ends is None:
            table.append(np.zeros(bins))
        elif ends[0] == ends[1]:  # np.histogram would widen the range and count in the middle
            table.append(np.array([len(values)] + [0] * (bins - 1)))
        else:
            table.append(np.histogram(values, bins, ends)[0])
    return np.array(table).T


def activation_entropy(acts, bins: int = 30, span: str = "own") -> np.ndarray:
    """Papers 000 and 001: the entropy of the histogram of the unit's non-zero activations."""
    return np.array([bits(counts) for counts in counts_in_bins(acts, bins, span).T])


def activation_entropy_by_class(acts, labels, classes: int, bins: int = 30) -> np.ndarray:
    """Paper 001, section 7.3: the same approach with the data of one class only."""
    acts, labels = as_array(acts), np.asarray(labels)
    empty = np.full(acts.shape[1], np.nan)
    return np.array([activation_entropy(acts[labels == c], bins) if (labels == c).any() else empty for c in range(classes)])


# ---------------------------------------------------------------- information


def quantised(column, threshold: float = 0.0, levels: int = 2) -> list[int]:
    """Paper 004's quantiser: one bit against the threshold, or equal levels of the unit's own range."""
    if levels == 2:
        return [int(value > threshold) for value in column]
    low, high = min(column), max(column)
    return [exact_bin(value, low, high, levels) for value in column]


def firing_entropy(acts, threshold: float = 0.0, levels: int = 2) -> np.ndarray:
    """Paper 004, equation 3."""
    return np.array([bits(Counter(quantised(column, threshold, levels)).values()) for column in columns(acts)])


def mutual_information(acts, labels, classes: int, threshold: float = 0.0, levels: int = 2) -> np.ndarray:
    """Paper 004, equation 4, from the joint distribution: sum of p(q, y) log2 p(q, y) / (p(q) p(y))."""
    found, n = [], len(labels)
    for column in columns(acts):
        q = quantised(column, threshold, levels)
        joint, one, other = Counter(zip(q, labels, strict=True)), Counter(q), Counter(labels)
        pairs = ((a, c) for a in one for c in range(classes) if (a, c) in joint)
        found.append(
            math.fsum(joint[pair] / n * math.log2(joint[pair] * n / (one[pair[0]] * other[pair[1]])) for pair in pairs)
        )
    return np.array(found)


def kl_selectivity(acts, labels, classes: int, threshold: float = 0.0, levels: int = 2) -> np.ndarray:
    """Paper 004, equation 5: the largest KL(P(Q given y) to P(Q)) over the classes that have samples."""
    found = []
    for column in columns(acts):
        q = quantised(column, threshold, levels)
        overall = [q.count(level) for level in range(levels)]
        best = 0.0
        for c in range(classes):
            if c not in labels:
                continue
            given = [sum(a == level and b == c for a, b in zip(q, labels, strict=True)) for level in range(levels)]
            pairs = [(g, o) for g, o in zip(given, overall, strict=True) if o]
            best = max(best, float(stats.entropy(*zip(*pairs, strict=True), base=2)))
        found.append(best)
    return np.array(found)


def mutual_information_excess(acts, labels, classes: int, threshold: float = 0.0, levels: int = 2) -> np.ndarray:
    """I less (C - 1)(L - 1) / (2 n ln 2), the bias of Miller and Madow."""
    seen = sum(c in labels for c in range(classes))
    bias = (seen - 1) * (levels - 1) / (2 * len(labels) * math.log(2))
    return mutual_information(acts, labels, classes, threshold, levels) - bias


def expected_information(fires: int, class_counts) -> float:
    """Mean over all permutations of the labels of the information of a unit that fires in so many samples, in bits.

    Each class's firing count is hypergeometric (Vinh, Epps and Bailey 2009).
    """
    n, total = sum(class_counts), 0.0
    for count in class_counts:
        for k in range(count + 1):
            chance = stats.hypergeom.pmf(k, n, fires, count)
            for joint, level in ((k, fires), (count - k, n - fires)):
                if joint and chance:
                    total += chance * joint / n * math.log2(joint * n / (level * count))
    return total


# ---------------------------------------------------------------- selectivity and layers


def class_selectivity(acts, labels, classes: int) -> np.ndarray:
    """Leavitt and Morcos 2020: (m1 - m2) / (m1 + m2); 0 for a unit whose means are all zero, and with one class."""
    means = class_means(acts, labels, classes)
    found = []
    for column in means[~np.isnan(means).all(1)].T:
        ordered = sorted(column, reverse=True)
        m1, m2 = ordered[0], math.fsum(ordered[1:]) / max(len(ordered) - 1, 1)
        found.append((m1 - m2) / (m1 + m2) if len(ordered) > 1 and m1 + m2 else 0.0)
    return np.array(found)


def softmax_entropy(acts, labels, classes: int, order: str = "mean_first", scale_free: bool = False) -> np.ndarray:
    """Paper 002, section 2.2: average over the class's images, softmax over units, entropy, divided by log2 of the units."""
    acts = as_array(acts)
    if scale_free:
        size = math.fsum(acts.flat) / acts.size if (acts >= 0).all() else math.sqrt(math.fsum((acts**2).flat) / acts.size)
        acts = acts / size if size > 0 else acts
    found = []
    for c in range(classes):
        rows = acts[[label == c for label in labels]]
        if not len(rows):
            found.append(math.nan)
            continue
        if order == "mean_first":
            shares = special.softmax(rows.mean(0))
        else:
            shares = np.mean([special.softmax(row) for row in rows], axis=0)
        found.append(float(stats.entropy(shares, base=2)) / math.log2(acts.shape[1]) if acts.shape[1] > 1 else 0.0)
    return np.array(found)
