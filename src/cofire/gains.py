"""What a boost gained, beside its controls: rows of a table, and the words that follow from them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cofire.scoring import accuracy, calibration_error, correct, losses, mcnemar, paired_interval, possible, reliability

__all__ = ["FEWEST", "are_gains", "class_rows", "reliability_rows", "rows_of", "words_of"]

FEWEST = 50
"""Samples below which a gain is not believed: intervals over so few leave out 0 by chance."""

_UNSEEN = 3
"""With 95 % confidence, n samples without an error leave room for an error rate of 3 / n."""


def rows_of(
    scores: Mapping[str, Tensor], labels: Tensor, split: str, base: str = "model", boost: str = "boosted"
) -> list[dict[str, Any]]:
    """One row per method: how good it is, what it gains over the model, and what the boost gains over it.

    Args:
        scores: Class scores by method, [samples, classes].
        labels: True classes.
        split: What the samples are.
        base: The method that gains are over.
        boost: The method whose gain over each other one is given.

    Returns:
        Accuracies and gains as shares, log-loss in nats (a positive gain is a fall); ``_low`` and ``_high`` are ends of 95 %
        bootstrap intervals over samples. The log-loss is that of samples whose class the model does not rule out.
    """
    right = {name: correct(values, labels).int() for name, values in scores.items()}
    judged = possible(scores[base], labels)
    loss = {name: _spread(losses(values, labels), judged) for name, values in scores.items()}
    columns = {
        (name, what): value
        for name in scores
        for what, value in (
            ("gain", right[name] - right[base]), ("loss_gain", loss[base] - loss[name]),
            ("boost_minus", right[boost] - right[name]), ("loss_boost_minus", loss[name] - loss[boost]),
        )
    }  # fmt: skip
    low, high = paired_interval(torch.stack([value.double() for value in columns.values()], 1))
    ends = dict(zip(columns, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    rows = []
    for name, values in scores.items():
        row: dict[str, Any] = {
            "method": name, "split": split, "samples": len(labels), "accuracy": accuracy(values, labels),
            "log_loss": float(loss[name].mean()), "calibration_error": calibration_error(values, labels),
        }  # fmt: skip
        for what in ("gain", "loss_gain", "boost_minus", "loss_boost_minus"):
            row[what] = float(columns[name, what].double().mean())
            row[f"{what}_low"], row[f"{what}_high"] = ends[name, what]
        rows.append({**row, "mcnemar": mcnemar(right[name].bool(), right[base].bool())})
    return rows


def class_rows(base: Tensor, boosted: Tensor, labels: Tensor, names: list[str], split: str) -> list[dict[str, Any]]:
    """Accuracy of every class that has samples, without and with the boost."""
    before, after = correct(base, labels), correct(boosted, labels)
    rows = []
    for place in labels.unique().tolist():
        mine = labels == place
        first, then = float(before[mine].double().mean()), float(after[mine].double().mean())
        rows.append({
            "class": names[place], "split": split, "samples": int(mine.sum()), "accuracy": first, "boosted": then,
            "change": then - first,
        })  # fmt: skip
    return rows


def reliability_rows(base: Tensor, boosted: Tensor, labels: Tensor, split: str) -> list[dict[str, Any]]:
    """How sure and how often right the predictions are without and with the boost, a row per bin that has samples.

    The bins are those of :func:`cofire.scoring.calibration_error`; ``low`` and ``high`` are Wilson's 95 % interval of the
    accuracy.
    """
    rows = []
    for method, scores in (("model", base), ("boosted", boosted)):
        for samples, confidence, right in reliability(scores, labels).T.tolist():
            if samples:
                low, high = _wilson(right, samples)
                rows.append({
                    "method": method, "split": split, "samples": int(samples), "confidence": confidence, "accuracy": right,
                    "low": low, "high": high,
                })  # fmt: skip
    return rows


def _wilson(share: float, samples: float, far: float = 1.96) -> tuple[float, float]:
    middle = share + far**2 / (2 * samples)
    width = far * math.sqrt(share * (1 - share) / samples + (far / (2 * samples)) ** 2)
    whole = 1 + far**2 / samples
    return max(0.0, (middle - width) / whole), min(1.0, (middle + width) / whole)


def words_of(rows: list[dict[str, Any]], decision: str, notes: list[str]) -> list[str]:
    """What the rows say, in sentences.

    Args:
        rows: By :func:`rows_of`; those of test data count where there are any.
        decision: What is given back: "auto" or "paper", a boost; "temperature" or "model", none.
        notes: What else is to be known.
    """
    split = rows[-1]["split"]
    table = {row["method"]: row for row in rows if row["split"] == split}
    boost = table["boosted"]
    where = f"{boost['samples']:,} {split} samples"
    if decision == "model":
        words = ["No gain is confirmed, neither of the hidden layers nor of a temperature. The model is given back."]
    elif decision == "temperature":
        words = [
            "The hidden layers add nothing that held-out samples confirm. The model is given back with a fitted temperature."
        ]
    else:
        words = [
            f"On {where} the boost changes accuracy by {_points(boost, 'gain')} and lowers the log-loss by "
            f"{boost['loss_gain']:.4f} [{boost['loss_gain_low']:.4f}, {boost['loss_gain_high']:.4f}] nats."
        ]
        controls = [name for name in table if name not in ("model", "boosted")]
        beaten = [name for name in controls if table[name]["boost_minus_low"] > 0]
        ahead = [name for name in controls if table[name]["boost_minus_high"] < 0]
        equal = [name for name in controls if name not in beaten and name not in ahead]
        if beaten:
            words.append(f"It is more accurate than {_list(beaten)}.")
        if equal:
            enough = ": what they use is enough for this gain" if boost["gain_low"] > 0 else ""
            words.append(f"It cannot be told from {_list(equal)}{enough}.")
        if ahead:
            words.append(f"It is less accurate than {_list(ahead)}.")
        if "one more epoch" in equal + ahead and table["one more epoch"]["gain_low"] > 0:
            words.append("Training on at a tenth of the rate gains as much: the model was not trained to its end.")
        if "random labels" in beaten and decision == "auto":
            said = "With random labels in place of the true ones the same fit gives less: the gain comes from the labels."
            words.append(said)
    return words + notes


def _points(row: dict[str, Any], what: str) -> str:
    return f"{100 * row[what]:+.2f} points [{100 * row[f'{what}_low']:+.2f}, {100 * row[f'{what}_high']:+.2f}]"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def are_gains(pairs: Sequence[tuple[Tensor, Tensor]], labels: Tensor) -> list[bool]:
    """Whether scores are better than others: a lower log-loss whose 95 % interval excludes 0, and no lower accuracy.

    The log-loss is that of samples whose class the model does not rule out; the others no factor of its scores can mend.

    Fewer than fifty samples confirm nothing. Scores that are wrong on none of the samples may still be wrong on three in as
    many new ones, and what that costs is seen nowhere; three more samples count on which both are as sure as usual and wrong.

    Args:
        pairs: Scores to compare with, the model's first, and scores that were fitted without the samples they are judged on.
        labels: True classes.
    """
    n = len(labels)
    if n < FEWEST:
        return [False] * len(pairs)
    judged = possible(pairs[0][0], labels)
    falls = torch.stack([_spread(losses(base, labels) - losses(other, labels), judged) for base, other in pairs], 1)
    finite, (low, _) = torch.isfinite(falls).all(0), paired_interval(falls.nan_to_num(0.0, 0.0, 0.0))
    gains = []
    for (base, other), known, least in zip(pairs, finite.tolist(), low.tolist(), strict=True):
        before, after = int(correct(base, labels).sum()), int(correct(other, labels).sum())
        if after == n:
            least = (n * least + _UNSEEN * min(_when_wrong(base) - _when_wrong(other), 0.0)) / (n + _UNSEEN)
        gains.append(known and least > 0 and after >= before)
    return gains


def _spread(values: Tensor, judged: Tensor) -> Tensor:
    """Numbers whose mean over all samples is that of the judged ones."""
    return values.where(judged, 0.0) * (len(values) / max(1, int(judged.sum())))


def _when_wrong(scores: Tensor) -> float:
    """The mean loss if the second most likely class were the true one, wherever it is possible."""
    second = scores.topk(2).indices[:, 1]
    return float(_spread(losses(scores, second), possible(scores, second)).mean())
