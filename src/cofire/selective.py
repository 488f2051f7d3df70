"""A fitted trust in a model's predictions: scores, refusal at a coverage or a risk, tables, and files."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from cofire import detection, storage
from cofire.doubts import Doubts, Signs
from cofire.errors import FileError, InputError
from cofire.familiarities import likelihoods_of, readings_of
from cofire.orders import check_statistics
from cofire.readings import Reader
from cofire.stats import FiringStats, check_kind
from cofire.version import __version__
from cofire.weights import digest

if TYPE_CHECKING:
    import pandas

__all__ = ["CONTROL", "HEAD", "Head", "Trust", "load_trust"]

HEAD, CONTROL = "outputs + class + firing", "outputs + class"
"""The head, and what it has to be compared with to say that firing has a part in its gain: the same without firing."""


@dataclass(frozen=True, eq=False)
class Head:
    """A logistic regression of whether a prediction is right.

    Args:
        mean: Of each column over the validation data, float64 [columns].
        deviation: Likewise.
        weights: Of the standardised columns.
        bias: Log-odds at the mean, float64 [1].
    """

    mean: Tensor
    deviation: Tensor
    weights: Tensor
    bias: Tensor

    @classmethod
    def fitted(cls, columns: Float[Tensor, "samples columns"], right: Tensor) -> "Head":
        """The head that fits some predictions, of which some are right and some are not."""
        from sklearn.linear_model import LogisticRegression

        mean, deviation = columns.mean(0), columns.std(0, correction=0)
        deviation = torch.where(deviation > 1e-6 * mean.abs().clamp(min=1), deviation, 1.0)  # less is rounding
        found = LogisticRegression(C=0.1, max_iter=1000).fit(((columns - mean) / deviation).numpy(), right.numpy())
        return cls(mean, deviation, torch.from_numpy(found.coef_[0].copy()), torch.from_numpy(found.intercept_.copy()))

    def __call__(self, columns: Float[Tensor, "samples columns"]) -> Float[Tensor, " samples"]:
        """Log-odds that the prediction is right."""
        return ((columns - self.mean) / self.deviation) @ self.weights + self.bias


@dataclass(frozen=True, eq=False, repr=False)
class Trust:
    """Whether to trust a model's predictions, as fitted and judged on validation data by :func:`cofire.trust`.

    Args:
        model: The model; it stays as it is.
        stats: Its statistics.
        doubts: Signs of wrong predictions in its layers.
        head: The head; None where there were too few wrong or right predictions to fit one.
        answer: Which score is given: "msp", or "outputs + class + firing", the head's, where that gains significantly.
        scores: Each score of the validation samples, larger is more trusted, float64 [samples]. Those of heads come from
            heads that were fitted without the sample.
        wrong: Which of the validation predictions are wrong.
        final: The given score of the validation samples by the head as it is, which sets what coverages mean.
        places: Where each of these samples stands in the validation data, of which the later of equal ones do not count.
        form: What the model's output holds, by :func:`cofire.readings.form_of`.
        at: Above what a unit fires, as for :func:`cofire.familiarity`.
        device: Where to run.
    """

    model: nn.Module
    stats: FiringStats
    doubts: Doubts
    head: Head | None
    answer: str
    scores: dict[str, Tensor]
    wrong: Tensor
    final: Tensor
    places: Tensor
    form: str
    at: str = "threshold"
    device: Any = None

    def score(self, batch: Any) -> Float[Tensor, " samples"]:
        """Log-odds that each prediction is right: larger is more trusted, and ``score.sigmoid()`` a probability.

        Args:
            batch: Inputs, (inputs, labels), or an iterable of either; labels are not used.
        """
        return self._given(self._signs(batch))

    def predict(self, batch: Any, coverage: float | None = None, *, risk: float | None = None) -> Int[Tensor, " samples"]:
        """Predicted classes, -1 where the model had better say nothing.

        Args:
            batch: As for :meth:`score`.
            coverage: Share of predictions to give, above 0 and at most 1, if new samples are like the validation data; by
                default 0.95.
            risk: In place of it: the largest error rate among those given, see :meth:`threshold`.

        Raises:
            InputError: A coverage outside (0, 1], a risk that cannot be had, or both a coverage and a risk.
        """
        least, signs = self.threshold(coverage, risk=risk), self._signs(batch)
        return torch.where(self._given(signs) >= least, signs.predicted, -1)

    def threshold(self, coverage: float | None = None, *, risk: float | None = None) -> float:
        """The score from which on predictions are given.

        Args:
            coverage: Share of the validation predictions to give; by default 0.95.
            risk: In place of it, the largest error rate among those given. Takes the largest of the coverages 5 %, 10 %, ...
                whose bound by :func:`cofire.detection.risk_bounds` is no larger, which holds with 95 % confidence for
                new samples of the same kind. Where equal scores lie across that coverage, none of them are given.

        Raises:
            InputError: A coverage outside (0, 1], a risk outside (0, 1) or one that the validation data cannot vouch for, or
                both a coverage and a risk.
        """
        if risk is not None:
            if coverage is not None:
                raise InputError("either a coverage or a risk is asked for", f"found coverage={coverage!r} and risk={risk!r}")
            return self._least_at(risk)
        coverage = 0.95 if coverage is None else coverage
        if isinstance(coverage, bool) or not isinstance(coverage, int | float) or not 0 < coverage <= 1:
            raise InputError("coverage must be above 0 and at most 1", f"found {coverage!r}")
        if coverage == 1:
            return -math.inf
        ordered = self.final.sort(descending=True).values
        return float(ordered[max(math.ceil(coverage * len(ordered) - 1e-9), 1) - 1])

    def _least_at(self, risk: float) -> float:
        """The score from which on predictions are given at that risk."""
        coverage = self._coverage_at(risk)
        if coverage == 1:
            return -math.inf
        values, counts = self.final.unique(return_counts=True)  # from the smallest on
        given = counts.flip(0).cumsum(0).flip(0)
        enough = values[given <= math.ceil(coverage * len(self.final) - 1e-9)]
        if not len(enough):
            raise InputError(
                f"a risk of {risk:.2%} cannot be had",
                f"{int(given[-1]):,} of {len(self.final):,} validation samples share the largest score, and too many are wrong",
                "Accept a larger risk.",
            )
        return float(enough[0])

    def risk_coverage(self) -> "pandas.DataFrame":
        """Error rate against coverage on the validation data: of the given score, MSP and a perfect one."""
        import pandas as pd

        coverage, risk = detection.risk_coverage(self.scores[self.answer], self.wrong)
        columns = {"coverage": coverage.numpy(), "risk": risk.numpy()}
        columns["msp"] = detection.risk_coverage(self.scores["msp"], self.wrong)[1].numpy()
        columns["perfect"] = detection.risk_coverage(-self.wrong.double(), self.wrong)[1].numpy()
        return pd.DataFrame(columns)

    def frame(self) -> "pandas.DataFrame":
        """A row per score: how well it tells wrong predictions from right ones on the validation data.

        AUROC with its 95 % interval; the gain over MSP with its paired one; AUPR of wrong and of right predictions; the
        share of right predictions refused when 95 % of the wrong ones are; AURC, E-AURC and AUGRC. NaN where no prediction
        is wrong.
        """
        import pandas as pd

        wrong, rows = self.wrong, []
        for name, score in self.scores.items():
            low, high = detection.auroc_interval(-score, wrong)
            gain, least, most = detection.auroc_difference(-score, -self.scores["msp"], wrong)
            rows.append(
                {
                    "score": name, "auroc": detection.auroc(-score, wrong), "low": low, "high": high,
                    "gain": gain, "gain_low": least, "gain_high": most,
                    "aupr_wrong": detection.average_precision(-score, wrong),
                    "aupr_right": detection.average_precision(score, ~wrong), "fpr95": detection.fpr_at(-score, wrong),
                    "aurc": detection.aurc(score, wrong), "e_aurc": detection.e_aurc(score, wrong),
                    "augrc": detection.augrc(score, wrong),
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"Trust({type(self.model).__name__}, {self.answer}, {len(self.wrong):,} validation samples)"

    def __str__(self) -> str:
        count, errors = len(self.wrong), int(self.wrong.sum())
        text = f"Of {count:,} validation predictions {errors:,} are wrong ({errors / count:.1%})."
        if self.head is None:
            why = "none is wrong" if not errors else "too few are wrong" if errors < count / 2 else "too few are right"
            return f"{text} Trust is the maximum softmax probability (MSP): {why}, so nothing else could be fitted or judged."
        area = detection.auroc(-self.scores["msp"], self.wrong)
        gains = {
            "head": detection.auroc_difference(-self.scores[HEAD], -self.scores["msp"], self.wrong),
            "control": detection.auroc_difference(-self.scores[CONTROL], -self.scores["msp"], self.wrong),
            "beyond": detection.auroc_difference(-self.scores[HEAD], -self.scores[CONTROL], self.wrong),
        }
        said = {name: f"{100 * gain:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" for name, (gain, low, high) in gains.items()}
        text += f" The maximum softmax probability (MSP) ranks {area:.1%} of pairs of a wrong and a right one rightly (AUROC)."
        text += f" The head of outputs, predicted class and firing differs by {said['head']} points, without the firing by "
        text += f"{said['control']}; the firing adds {said['beyond']}."
        if self.answer == "msp":
            return text + " Trust is MSP: the head's gain is not significant."
        if gains["beyond"][1] > 0:
            return text + " Trust is the head, and firing has a part in its gain."
        return text + " Trust is the head; that firing has a part in its gain is not shown."

    def save(self, path: str | Path) -> None:
        """Write the fitted numbers to one safetensors file, whole or not at all; neither the model nor the statistics.

        Raises:
            FileError: The file cannot be written.
        """
        tensors = {f"doubts.{name}": value for name, value in self.doubts.tensors().items()}
        if self.head is not None:
            tensors |= {f"head.{name}": getattr(self.head, name) for name in ("mean", "deviation", "weights", "bias")}
        tensors |= {"scores": torch.stack(list(self.scores.values()))}
        tensors |= {name: getattr(self, name) for name in ("wrong", "final", "places")}
        header = {
            "kind": "trust", "answer": self.answer, "at": self.at, "form": self.form, "read": list(self.doubts.likelihoods),
            "scores": list(self.scores), "model": {"name": type(self.model).__name__, "digest": digest(self.model)},
            "statistics": _identity(self.stats, list(self.doubts.likelihoods), self.at),
            "validation": {"samples": len(self.wrong), "wrong": int(self.wrong.sum())},
            "versions": {"cofire": __version__, "torch": torch.__version__},
        }  # fmt: skip
        storage.write(path, tensors, header)

    def _signs(self, batch: Any) -> Signs:
        with Reader(self.model, self.stats, list(self.doubts.likelihoods), self.device, self.form, shares=()) as reader:
            return self.doubts.signs(readings_of(reader, batch))

    def _given(self, signs: Signs) -> Tensor:
        if self.answer == "msp" or self.head is None:
            return signs.outputs[:, 0]
        sure = signs.outputs[:, 0] == torch.inf  # all other classes are ruled out, which no validation sample showed
        return torch.where(sure, torch.inf, self.head(signs.columns(self.stats.classes)))

    def _coverage_at(self, risk: float) -> float:
        if isinstance(risk, bool) or not isinstance(risk, int | float) or not 0 < risk < 1:
            raise InputError("risk must lie between 0 and 1", f"found {risk!r}")
        coverage, bound = detection.risk_bounds(self.scores[self.answer], self.wrong)
        enough = (bound <= risk).nonzero()[:, 0]
        if not len(enough):
            best = int(bound.argmin())
            raise InputError(
                f"a risk of {risk:.2%} cannot be had",
                f"the least that {len(self.wrong):,} validation samples can vouch for is {float(bound[best]):.2%}, at coverage "
                f"{float(coverage[best]):.0%}",
                "Accept a larger risk, or give more validation data.",
            )  # fmt: skip
        return float(coverage[enough[-1]])


def load_trust(model: nn.Module, path: str | Path, stats: FiringStats, device: Any = None) -> Trust:
    """A trust that :meth:`Trust.save` wrote.

    Args:
        model: The model that it was fitted for.
        path: The file.
        stats: The statistics that it was fitted with.
        device: Where to run; by default where the model is.

    Raises:
        FileError: No such file, truncated, of another kind or written by a newer version.
        InputError: Another model, or other statistics.
    """
    tensors, header = storage.read(path, "a fitted trust", "Trust.save(path)")
    if header.get("kind") != "trust":
        raise FileError("wanted a fitted trust", f"{str(path)!r} holds something else of cofire", "Trust.save writes one.")
    check_kind(stats)
    found = digest(model)
    check_statistics(stats, found)
    if header["model"]["digest"] != found:
        raise InputError(
            "trust must be that of this model",
            f"it is of weights with digest {header['model']['digest']}, the model has {found}",
            "Fit it again with cofire.trust; training changes the weights.",
        )  # fmt: skip
    if header["statistics"] != (mine := _identity(stats, header["read"], header["at"])):
        raise InputError(
            "trust must be loaded with the statistics that it was fitted with",
            f"those have digest {header['statistics']}, these {mine}", "Load that file of statistics.",
        )  # fmt: skip
    likelihoods = likelihoods_of(stats, header["read"], header["at"])
    try:
        doubts = Doubts(
            likelihoods,
            *(tensors[f"doubts.{name}"] for name in ("mean", "deviation", "temperature", "scale")),
        )
        head = None
        if "head.weights" in tensors:
            head = Head(*(tensors[f"head.{name}"] for name in ("mean", "deviation", "weights", "bias")))
        scores = dict(zip(header["scores"], tensors["scores"], strict=True))
        judged = {name: tensors[name] for name in ("wrong", "final", "places")}
        chosen = {name: header[name] for name in ("answer", "form", "at")}
        return Trust(model, stats, doubts, head, scores=scores, device=device, **judged, **chosen)
    except (KeyError, TypeError, ValueError) as error:
        raise FileError("wanted a complete file of Trust.save", f"{str(path)!r} lacks {error}", "Fit it again.") from error


def _identity(stats: FiringStats, layers: list[str], at: str) -> str:
    """A digest of the counts that likelihoods are made of."""
    total = hashlib.sha256()
    for name in layers:
        layer = stats[name]
        total.update(f"{name} {tuple(layer.fire.shape)} {layer.threshold}".encode())
        histograms = (layer.class_histogram, layer.class_histogram_edges, layer.zeros) if at == "mean" else ()
        for tensor in (layer.class_counts, layer.fire, layer.sum, *histograms):
            if tensor is not None:
                total.update(tensor.cpu().contiguous().numpy().data)
    return total.hexdigest()[:16]
