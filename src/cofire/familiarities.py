"""Is an input like the training data? From firing statistics alone, layer by layer, and with what speaks against it."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from cofire.batches import LABELS, samples_in
from cofire.errors import CofireWarning, InputError
from cofire.likelihoods import Likelihood, check_classes
from cofire.readings import Reader, Reading
from cofire.stats import FiringStats, check_kind

if TYPE_CHECKING:
    import pandas

__all__ = ["Explanation", "Familiarity", "familiarity", "likelihoods_of", "readings_of"]

_RARE = 0.01
_SHOWN = 5


@dataclass(frozen=True, eq=False, repr=False)
class Familiarity:
    """How much inputs look like the training data.

    Args:
        score: Mean over layers of the standardised familiarity, float64 [samples]; larger is more familiar.
        layers: Log-likelihood of the firing pattern for the class that it suits best, in nats, by layer, float64 [samples].
        classes: That class, int64 [samples, layers].
        predicted: The class that the model predicts, int64 [samples].
        unexpected: Units that fire though fewer than 1 % of the predicted class's samples make them, or are silent though more
            than 99 % make them fire, by layer: int64 [pairs, 2], sample and unit.
        likelihoods: What the statistics expect, by layer.
        class_names: Names of the classes.
        at: Above what a unit fires: "threshold" or "mean".
    """

    score: Tensor
    layers: dict[str, Tensor]
    classes: Tensor
    predicted: Tensor
    unexpected: dict[str, Tensor]
    likelihoods: dict[str, Likelihood]
    class_names: list[str]
    at: str = "threshold"

    def __len__(self) -> int:
        return len(self.score)

    def __repr__(self) -> str:
        return f"Familiarity({len(self):,} samples, {len(self.layers)} layers, median score {float(self.score.median()):.3g})"

    @property
    def agrees(self) -> Bool[Tensor, "samples layers"]:
        """Whether the likeliest class of a layer's pattern is the predicted one."""
        return self.classes == self.predicted[:, None]

    @property
    def violations(self) -> Int[Tensor, " samples"]:
        """Number of unexpected units of each sample, over all layers."""
        pairs = torch.cat([pairs[:, 0] for pairs in self.unexpected.values()])
        return torch.bincount(pairs, minlength=len(self))

    def explain(self, sample: int) -> "Explanation":
        """What speaks against one sample: its unexpected units, and the layers whose pattern suits another class.

        Raises:
            InputError: There is no such sample.
        """
        if isinstance(sample, bool) or not isinstance(sample, Integral) or not -len(self) <= sample < len(self):
            raise InputError(f"sample must be one of the {len(self):,}, from 0 on", f"found {sample!r}")
        sample = int(sample)
        sample %= len(self)
        predicted = int(self.predicted[sample])
        units = []
        for name, pairs in self.unexpected.items():
            for unit in pairs[pairs[:, 0] == sample, 1].tolist():
                share = float(self.likelihoods[name].probability[predicted, unit])
                units.append((name, unit, share < 0.5, share))
        suits = {name: self.class_names[c] for name, c in zip(self.layers, self.classes[sample].tolist(), strict=True)}
        agree = [name for name, agrees in zip(self.layers, self.agrees[sample].tolist(), strict=True) if agrees]
        return Explanation(sample, self.class_names[predicted], float(self.score[sample]), suits, units, agree, self.at)

    def frame(self) -> "pandas.DataFrame":
        """A row per sample: predicted class, score, layers that agree, unexpected units, and each layer's familiarity."""
        import pandas as pd

        columns = {
            "predicted": [self.class_names[c] for c in self.predicted.tolist()], "familiarity": self.score.numpy(),
            "agreeing_layers": self.agrees.sum(1).numpy(), "unexpected_units": self.violations.numpy(),
        }  # fmt: skip
        layers = {f"layer {name}" if name in columns else name: values.numpy() for name, values in self.layers.items()}
        return pd.DataFrame(columns | layers)


@dataclass(frozen=True)
class Explanation:
    """What speaks against one prediction, by the firing of hidden units; prints as sentences.

    Args:
        sample: Its place in the batch.
        predicted: The class that the model predicts.
        score: Its familiarity.
        suits: The class that each layer's pattern suits best.
        units: Layer, unit, whether it fires, and the share of the predicted class's samples in which it does.
        agree: The layers whose pattern suits the predicted class best.
        at: Above what a unit fires: "threshold" or "mean".
    """

    sample: int
    predicted: str
    score: float
    suits: dict[str, str]
    units: list[tuple[str, int, bool, float]]
    agree: list[str]
    at: str = "threshold"

    def frame(self) -> "pandas.DataFrame":
        """A row per unexpected unit, the least expected first."""
        import pandas as pd

        ranked = sorted(self.units, key=lambda row: (min(row[3], 1 - row[3]), row[0], row[1]))
        return pd.DataFrame(ranked, columns=["layer", "unit", "fires", "probability"])

    def __str__(self) -> str:
        others = [f"{_layer(name)} rather like {suits!r}" for name, suits in self.suits.items() if name not in self.agree]
        text = f"Sample {self.sample} is predicted {self.predicted!r}. {len(self.suits) - len(others)} of {len(self.suits)} "
        text += f"layers fire most like that class{', ' + ', '.join(others) if others else ''}."
        fire = [(name, unit) for name, unit, fires, _ in self.units if fires]
        silent = [(name, unit) for name, unit, fires, _ in self.units if not fires]
        if not self.units:
            return text + f" No unit is unexpected for {self.predicted!r}."
        fires, quiet, makes = ("fires", "fire"), ("is silent", "are silent"), ("make {}", "make {} fire")
        if self.at == "mean":
            fires, quiet = (
                ("is above its mean", "are above their means"),
                ("is not above its mean", "are not above their means"),
            )
            makes = ("lift {} above", "lift {} above")
        if fire:
            caused = makes[0].format(_them(fire))
            text += f" {_counted(fire, fires)} though fewer than 1 % of {self.predicted!r} samples {caused}: {_some(fire)}."
        if silent:
            text += f" {_counted(silent, quiet)} though more than 99 % {makes[1].format(_them(silent))}: {_some(silent)}."
        return text


def _layer(name: str) -> str:
    return name if name[:1].isalpha() else f"layer {name!r}"


def _counted(units: list, verb: tuple[str, str]) -> str:
    return f"1 unit {verb[0]}" if len(units) == 1 else f"{len(units)} units {verb[1]}"


def _them(units: list) -> str:
    return "it" if len(units) == 1 else "them"


def _some(units: list[tuple[str, int]]) -> str:
    more = f" and {len(units) - _SHOWN} more" if len(units) > _SHOWN else ""
    return ", ".join(f"{name}[{unit}]" for name, unit in units[:_SHOWN]) + more


def familiarity(
    stats: FiringStats, model: nn.Module, batch: Any, *, layers: str | Sequence[str] | None = None, at: str = "threshold",
    reference: Iterable | None = None, device: Any = None,
) -> Familiarity:  # fmt: skip
    r"""How much inputs look like the data that the statistics are of, by which of their hidden units fire.

    .. math:: U_l = \max_c L_{lc}(b), \qquad \text{score} = \frac{1}{L} \sum_l \frac{U_l - m_l}{s_l}

    with :math:`L_{lc}` the :class:`~cofire.likelihoods.Likelihood` of layer l's pattern b for class c. For inputs that are
    quite unlike the training data; not for wrong predictions, nor for other classes of the same kind.

    Source:
        Ours. *Departure:* :math:`m_l` and :math:`s_l` are what the statistics give in closed form: the mean of a sample's
        likelihood for its own class, which is a little below that of U, and the deviation as if units fired independently,
        which is up to several times too small, about alike in all layers. The order of samples hardly changes; the zero and
        the unit of the score do. With ``reference`` they are those of U over that data.

    Args:
        stats: Statistics of the model, by default its training data's.
        model: The model.
        batch: Inputs, (inputs, labels), or an iterable of either. Labels are not used, and may be of other classes. A tuple of
            tensors is one batch of a model with several inputs, a list of pictures or other numbers is batches.
        layers: Layers to read; by default all that the statistics hold.
        at: "threshold", or "mean": a unit fires above its own mean, for layers in which nearly all units always fire, as
            with convolutions whose positions are pooled.
        reference: Labelled batches over which to standardise.
        device: Where to run; by default where the model is.

    Raises:
        InputError: Statistics of another model, or in which a class has no samples.

    >>> import cofire
    >>> digits = cofire.data.load("digits", limit=300)
    >>> net = cofire.zoo.model("fcnn:64-32-10", seed=0)
    >>> stats = cofire.record(net, digits.batches(), progress=False)
    >>> inputs, _ = next(iter(digits.batches(50)))
    >>> known, strange = (cofire.familiarity(stats, net, x).score.mean() for x in (inputs, 1 - inputs))
    >>> bool(known > strange)
    True
    """
    likelihoods = likelihoods_of(stats, layers, at)
    with Reader(model, stats, list(likelihoods), device, shares=()) as reader:
        if reference is None:
            scale = {name: likelihood.expected() for name, likelihood in likelihoods.items()}
        else:
            scale = _measured(reader.over(reference, "reference"), likelihoods)
        parts = [_part(reading, likelihoods) for reading in readings_of(reader, batch)]
    best = {name: torch.cat([part[0][name].values for part in parts]) for name in likelihoods}
    # A layer whose pattern never varied has no deviation; there, a pattern that was never seen counts in nats.
    standardised = [
        (values - mean) / (deviation if deviation > 1e-6 else 1.0)
        for values, (mean, deviation) in ((best[name], scale[name]) for name in likelihoods)
    ]
    starts = torch.tensor([0, *(len(part[1]) for part in parts)]).cumsum(0).tolist()
    unexpected = {
        name: torch.cat([part[2][name] + torch.tensor([start, 0]) for part, start in zip(parts, starts, strict=False)])
        for name in likelihoods
    }
    classes = torch.cat([torch.stack([part[0][name].indices for name in likelihoods], 1) for part in parts])
    predicted = torch.cat([part[1] for part in parts])
    score = torch.stack(standardised).mean(0)
    return Familiarity(score, best, classes, predicted, unexpected, likelihoods, stats.class_names, at)


def likelihoods_of(stats: FiringStats, layers: str | Sequence[str] | None, at: str) -> dict[str, Likelihood]:
    """The likelihood of each layer, with a warning where nearly no unit's firing tells anything.

    Raises:
        InputError: A class without samples, or something in place of the statistics.
        LayerError: No such layer.
    """
    check_kind(stats)
    found = {name: Likelihood.of(stats[name], at) for name in (list(stats) if layers is None else stats.named(layers))}
    check_classes(stats)
    flat = [name for name, likelihood in found.items() if likelihood.varied < 0.1]
    if flat and at == "threshold":
        warnings.warn(
            f"in {', '.join(map(repr, flat[:_SHOWN]))}{' and more' if len(flat) > _SHOWN else ''} fewer than a tenth of the "
            'units fire for some inputs and not for others, so their patterns say little; at="mean" asks which units are above '
            "their own mean",
            CofireWarning,
            stacklevel=3,
        )
    return found


def readings_of(reader: Reader, batch: Any) -> Iterator[Reading]:
    """Readings of inputs, of (inputs, labels), or of an iterable of either; labels are left aside.

    Raises:
        InputError: None of these, or no sample.
    """
    single = _is_array(batch) or isinstance(batch, Mapping)
    if isinstance(batch, tuple | list) and batch:
        single = (_is_array(batch[0]) or _is_array(batch[-1])) and not (
            isinstance(batch, list) and all(map(_are_inputs, batch))
        )
    if not (single or isinstance(batch, Iterable)):
        raise InputError("a batch must be inputs, (inputs, labels) or batches of them", f"found {type(batch).__name__}")
    items: Iterable[Any] = [batch] if single else batch
    empty = True
    for item in items:
        labelled = isinstance(item, tuple | list) and len(item) > 1 and _are_labels(item[-1])
        inputs = item if not labelled else item[0] if len(item) == 2 else tuple(item[:-1])
        if isinstance(item, Mapping):
            held = next((name for name in LABELS if name in item), None)
            inputs = {name: value for name, value in item.items() if name != held}
        if not single and samples_in(inputs) == 0:
            continue
        empty = False
        yield reader.unlabelled(inputs)
    if empty:
        raise InputError("there must be at least one sample", "the batches are empty")


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "__array__")


def _are_labels(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(each, Integral) for each in value)
    return _is_array(value) and value.ndim == 1 and not torch.as_tensor(value).is_floating_point()


def _are_inputs(value: Any) -> bool:
    return _is_array(value) and value.ndim > 1 and torch.as_tensor(value).is_floating_point()


def _part(reading: Reading, likelihoods: dict[str, Likelihood]) -> tuple[dict[str, Any], Tensor, dict[str, Tensor]]:
    """Likeliest class by layer, prediction, and unexpected units of one batch."""
    predicted = reading.logits.argmax(1).cpu()
    best, unexpected = {}, {}
    for name, likelihood in likelihoods.items():
        best[name] = likelihood(reading.units[name]).max(1)
        fires, expected = likelihood.fires(reading.units[name]), likelihood.probability[predicted]
        unexpected[name] = ((fires & (expected < _RARE)) | (~fires & (expected > 1 - _RARE))).nonzero()
    return best, predicted, unexpected


def _measured(readings: Iterable[Reading], likelihoods: dict[str, Likelihood]) -> dict[str, tuple[float, float]]:
    """Mean and deviation of each layer's familiarity over some data."""
    values: dict[str, list[Tensor]] = {name: [] for name in likelihoods}
    for reading in readings:
        for name, likelihood in likelihoods.items():
            values[name].append(likelihood(reading.units[name]).amax(1))
    joined = {name: torch.cat(parts) for name, parts in values.items()}
    return {name: (float(found.mean()), float(found.std(correction=0))) for name, found in joined.items()}
