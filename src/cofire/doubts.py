"""What a model's outputs and its layers' firing patterns say of each prediction: the numbers that trust is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cofire.likelihoods import Likelihood
from cofire.readings import Reading
from cofire.rivals import OUTPUTS, output_scores

__all__ = ["Doubts", "Signs"]

_TEMPERATURES = torch.logspace(0, 10, 21, base=2.0, dtype=torch.float64)  # 1 to 1,024


@dataclass(frozen=True, eq=False)
class Signs:
    """The signs of some predictions.

    Args:
        outputs: Scores of the outputs, float64 [samples, 5], see :func:`cofire.rivals.output_scores`.
        firing: Ratio, height and posterior of each layer, float64 [samples, 3 layers], see :class:`Doubts`.
        familiarity: Mean standardised familiarity, float64 [samples].
        predicted: Predicted classes, int64 [samples].
        labels: True classes, -1 where nobody knows, int64 [samples].
    """

    outputs: Tensor
    firing: Tensor
    familiarity: Tensor
    predicted: Tensor
    labels: Tensor

    def at(self, places: Int[Tensor, " some"]) -> "Signs":
        """Those of some of the predictions."""
        return Signs(*(getattr(self, each.name)[places] for each in fields(self)))

    def control(self, classes: int) -> Float[Tensor, "samples columns"]:
        """What can be said without any firing: the outputs, and the predicted class as zeros and ones."""
        return torch.cat([self.outputs, torch.nn.functional.one_hot(self.predicted, classes).double()], 1)

    def columns(self, classes: int) -> Float[Tensor, "samples columns"]:
        """All that a head looks at: the control's columns, and those of the firing."""
        return torch.cat([self.control(classes), self.firing], 1)


@dataclass(frozen=True, eq=False)
class Doubts:
    r"""Three signs of each layer that a prediction :math:`\hat y` may be wrong, from the log-likelihoods :math:`L_c`.

    - ratio: :math:`L_{\hat y} - \max_{c \ne \hat y} L_c`
    - height: :math:`(L_{\hat y} - m_{\hat y}) / s_{\hat y}`, mean and deviation over rightly predicted training samples
    - posterior: :math:`\ln \mathrm{softmax}_c (L_c / \tau + \ln \pi_c)` at :math:`\hat y`, with the share :math:`\pi_c` of
      the class and the temperature :math:`\tau` that gives training labels the largest likelihood; without it, units that
      fire together are counted as many witnesses

    Args:
        likelihoods: By layer.
        mean: :math:`m`, float64 [layers, classes].
        deviation: :math:`s`, likewise.
        temperature: :math:`\tau`, float64 [layers].
        scale: Mean and deviation of the familiarity :math:`\max_c L_c` over training samples, float64 [2, layers].
    """

    likelihoods: dict[str, Likelihood]
    mean: Tensor
    deviation: Tensor
    temperature: Tensor
    scale: Tensor

    @classmethod
    def fitted(cls, likelihoods: Mapping[str, Likelihood], readings: Iterable[Reading]) -> "Doubts":
        """Means, deviations and temperatures over labelled data, in one pass that keeps sums only."""
        layers, classes = len(likelihoods), len(next(iter(likelihoods.values())).counts)
        sums = torch.zeros(3, layers, classes, dtype=torch.float64)  # of ones, L and its square, at the predicted class
        best = torch.zeros(3, layers, dtype=torch.float64)  # likewise of max L, over all samples
        losses = torch.zeros(layers, len(_TEMPERATURES), dtype=torch.float64)
        for reading in readings:
            predicted, labels = reading.logits.argmax(1).cpu(), reading.labels.cpu()
            right = predicted == labels
            for at, (name, likelihood) in enumerate(likelihoods.items()):
                values = likelihood(reading.units[name])
                own, top = values.gather(1, predicted[:, None])[:, 0], values.amax(1)
                powers = torch.stack([torch.ones_like(own), own, own.square()])
                sums[:, at].index_add_(1, predicted[right], powers[:, right])
                best[:, at] += torch.stack([torch.ones_like(top), top, top.square()]).sum(1)
                for place, temperature in enumerate(_TEMPERATURES):
                    logs = _posterior(likelihood, values, temperature)
                    losses[at, place] -= logs.gather(1, labels[:, None]).sum()
        mean, deviation = _moments(sums)
        together = _moments(sums.sum(2, keepdim=True))
        few = sums[0] < 2  # a class that is hardly ever predicted rightly is measured by all of them
        mean, deviation = (torch.where(few, both, each) for each, both in zip((mean, deviation), together, strict=True))
        return cls(dict(likelihoods), mean, deviation, _TEMPERATURES[losses.argmin(1)], torch.stack(_moments(best)))

    def signs(self, readings: Iterable[Reading]) -> Signs:
        """The signs of the predictions in some readings."""
        parts = [self._part(reading) for reading in readings]
        return Signs(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _part(self, reading: Reading) -> tuple[Tensor, ...]:
        logits = reading.logits.cpu()
        predicted = logits.argmax(1)
        outputs = output_scores(logits)
        signs, familiar = [], []
        for at, (name, likelihood) in enumerate(self.likelihoods.items()):
            values = likelihood(reading.units[name])
            own = values.gather(1, predicted[:, None])[:, 0]
            others = values.scatter(1, predicted[:, None], -torch.inf).amax(1)
            posterior = _posterior(likelihood, values, self.temperature[at]).gather(1, predicted[:, None])[:, 0]
            signs += [own - others, (own - self.mean[at, predicted]) / self.deviation[at, predicted], posterior]
            familiar.append((values.amax(1) - self.scale[0, at]) / self.scale[1, at])
        return (
            torch.stack([outputs[name] for name in OUTPUTS], 1), torch.stack(signs, 1), torch.stack(familiar).mean(0),
            predicted, reading.labels.cpu(),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds; the likelihoods come from the statistics."""
        return {name: getattr(self, name) for name in ("mean", "deviation", "temperature", "scale")}


def _posterior(
    likelihood: Likelihood, values: Float[Tensor, "samples classes"], temperature: Tensor
) -> Float[Tensor, "samples classes"]:
    return (values / temperature + (likelihood.counts / likelihood.counts.sum()).log()).log_softmax(1)


def _moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation from counts, sums and sums of squares; a deviation of 0 becomes 1."""
    count = sums[0].clamp(min=1)
    mean = sums[1] / count
    deviation = (sums[2] / count - mean.square()).clamp(min=0).sqrt()
    return mean, torch.where(deviation > 1e-6, deviation, 1.0)
