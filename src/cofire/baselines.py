"""What any measure has to beat: baselines of layers, of outputs and of weights, and controls such as the training loss."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cofire.errors import InputError
from cofire.firing import class_means, covariance, live_units
from cofire.information import class_selectivity
from cofire.layer import LayerStats
from cofire.margins import Outputs, inverse_margin, mean_accuracy, mean_loss, mean_max_softmax
from cofire.stats import FiringStats
from cofire.weights import matrix_squares, weight_norm

if TYPE_CHECKING:
    import pandas

__all__ = [
    "BASELINES",
    "Baseline",
    "davies_bouldin",
    "dormant_share",
    "log_frobenius_norms",
    "mean_class_selectivity",
    "parameters",
    "participation_ratio",
    "scatter_ratio",
    "table",
]


def davies_bouldin(layer: LayerStats) -> float:
    r"""How far classes spread in a layer, as a ratio to the distance of their means: each class's worst, on average.

    .. math:: \frac{1}{C} \sum_c \max_{d \ne c} \frac{S_c + S_d}{\lVert m_c - m_d \rVert}, \qquad
        S_c = \sqrt{\operatorname{tr} \Sigma_c}

    with m the class means and Sigma the covariance of a class's samples (divided by their number).

    Range:
        0 (every class is a point) upwards; smaller for classes that lie apart.

    Source:
        Davies and Bouldin 1979, with their exponents p = q = 2. *Departure:* many programs take q = 1, the mean distance to the
        class mean, which needs the samples again; the trace comes from sums.

    Args:
        layer: Statistics of one layer. Classes without samples are left out.

    Returns:
        The index; infinite where the means of two classes coincide, NaN where nothing spreads around coinciding means, as in
        a dead layer, and with fewer than two classes.

    >>> import cofire
    >>> acts = torch.tensor([[0.0], [2.0], [7.0], [9.0]])
    >>> davies_bouldin(cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]))["fc1"])
    0.2857142857142857
    """
    seen = layer.class_counts > 0
    means, spread = class_means(layer)[seen], _class_scatter(layer)[seen].sqrt()
    if len(means) < 2:
        return math.nan
    others = ~torch.eye(len(means), dtype=torch.bool, device=means.device)
    pairs = ((spread[:, None] + spread) / torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist"))[others]
    return float(pairs.view(len(means), -1).amax(1).mean())


def scatter_ratio(layer: LayerStats) -> float:
    r"""Scatter within classes over scatter between them.

    .. math:: \frac{\sum_c n_c \operatorname{tr} \Sigma_c}{\sum_c n_c \lVert m_c - m \rVert^2}

    Range:
        0 (every class is a point) upwards.

    Source:
        Fisher's ratio turned over; falls as classes collapse, like NC1 of Papyan, Han and Donoho 2020. *Departure:* the ratio
        of two traces in place of the trace of a product with an inverse, so that no covariance is needed.

    Args:
        layer: Statistics of one layer.

    Returns:
        The ratio; infinite where all class means coincide, NaN in a layer whose units are constant.
    """
    seen = layer.class_counts > 0
    counts, means = layer.class_counts[seen].double(), class_means(layer)[seen]
    within = counts @ _class_scatter(layer)[seen]
    between = counts @ (means - layer.sum.sum(0) / layer.samples).square().sum(1)
    return float(within / between)


def _class_scatter(layer: LayerStats) -> Float[Tensor, " classes"]:
    """Trace of each class's covariance; a unit that its sums cannot tell from a constant adds nothing."""
    squares = layer.square_sum / layer.class_counts[:, None]
    variance = squares - class_means(layer).square()
    return torch.where(variance > 1e-12 * squares, variance, 0.0).sum(1)


def participation_ratio(layer: LayerStats) -> float:
    r"""Dimensions that a layer's activations fill: about how many principal components share their variance.

    .. math:: \frac{(\sum_i \lambda_i)^2}{\sum_i \lambda_i^2} = \frac{(\operatorname{tr} S)^2}{\lVert S \rVert_F^2}

    with the eigenvalues of the covariance S of the units.

    Range:
        1 (all on a line) to the number of units (the same variance in every direction).

    Source:
        Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement".

    Args:
        layer: Statistics of one layer, recorded with covariance.

    Returns:
        The ratio; NaN where no unit varies.

    Raises:
        InputError: Recorded without covariance.

    >>> import cofire
    >>> acts = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> participation_ratio(cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]))["fc1"])
    2.0
    """
    spread = covariance(layer)
    return float(spread.trace().square() / spread.square().sum())


def dormant_share(layer: LayerStats, tau: float = 0.025) -> float:
    r"""Share of units whose mean activation is at most tau times the layer's.

    .. math:: \frac{1}{U} \left| \left\{ u : a_u \le \frac{\tau}{U} \sum_v a_v \right\} \right|

    Range:
        0 to 1. With tau = 0 and ReLUs it is the share of dead units.

    Source:
        Sokar et al. 2023, "The dormant neuron phenomenon in deep reinforcement learning". *Departure:* where some activations
        are negative, a is the root mean square in place of the mean size.

    Args:
        layer: Statistics of one layer.
        tau: What counts as dormant.

    Returns:
        The share; 1 for a layer that is always 0.
    """
    low = layer.low[layer.low.isfinite()]
    size = layer.sum.sum(0) if bool((low >= 0).all()) else layer.square_sum.sum(0).sqrt()
    return float((size <= tau * size.mean()).double().mean())


def mean_class_selectivity(layer: LayerStats) -> float:
    """Mean class selectivity of the live units, see :func:`cofire.class_selectivity`; NaN where none lives."""
    return float(class_selectivity(layer)[live_units(layer)].mean())


def log_frobenius_norms(model: nn.Module) -> float:
    r"""Sum of the logarithms of the weight matrices' Frobenius norms.

    .. math:: \sum_l \ln \lVert W_l \rVert_F

    Weight matrices are the parameters with two or more axes: no bias, no normalisation's gain. One that is shared counts once.

    Source:
        Jiang et al. 2020. *Departure:* theirs is that of the squared norms, twice as large.

    Args:
        model: The model.

    Returns:
        The sum; minus infinity where a matrix is 0.

    >>> layer = nn.Linear(2, 2)
    >>> _ = nn.init.eye_(layer.weight)
    >>> log_frobenius_norms(layer) == math.log(2) / 2
    True
    """
    return sum(math.log(square) if square > 0 else -math.inf for square in matrix_squares(model)) / 2


def parameters(model: nn.Module) -> int:
    """Number of parameters, frozen ones included; one that is shared counts once.

    >>> parameters(nn.Linear(3, 2))
    8
    """
    return sum(weight.numel() for weight in model.parameters())


@dataclass(frozen=True)
class Baseline:
    """One baseline or control.

    Args:
        name: As tables and files call it.
        of: What the function takes: a "layer", the "outputs" or the "weights" of a model.
        function: Takes it, gives a number.
        source: Paper.
        words: What the number says, in one sentence.
    """

    name: str
    of: str
    function: Callable[[Any], float]
    source: str
    words: str


BASELINES: tuple[Baseline, ...] = (
    Baseline(
        "davies_bouldin", "layer", davies_bouldin, "Davies and Bouldin 1979",
        "Spread of two classes over the distance of their means, each class's worst pair.",
    ),
    Baseline(
        "scatter_ratio", "layer", scatter_ratio, "like NC1 of Papyan, Han and Donoho 2020",
        "Scatter within classes over scatter between them.",
    ),
    Baseline(
        "participation_ratio", "layer", participation_ratio, "Gao et al. 2017", "Dimensions that the activations fill.",
    ),
    Baseline(
        "class_selectivity", "layer", mean_class_selectivity, "Leavitt and Morcos 2020",
        "Class selectivity, mean over live units.",
    ),
    Baseline("dormant_share", "layer", dormant_share, "Sokar et al. 2023", "Share of units that hardly ever fire."),
    Baseline(
        "inverse_margin", "outputs", inverse_margin, "Jiang et al. 2020",
        "Inverse square of the 10th percentile of the margins.",
    ),
    Baseline("mean_max_softmax", "outputs", mean_max_softmax, "control", "Mean of the largest softmax probability."),
    Baseline("mean_loss", "outputs", mean_loss, "control", "Loss on the same data."),
    Baseline("mean_accuracy", "outputs", mean_accuracy, "control", "Accuracy on the same data."),
    Baseline(
        "log_frobenius_norms", "weights", log_frobenius_norms, "Jiang et al. 2020",
        "Sum of the logarithms of the Frobenius norms of the weight matrices.",
    ),
    Baseline("weight_norm", "weights", weight_norm, "control", "Euclidean norm of the weight matrices."),
    Baseline("parameters", "weights", parameters, "control", "Number of parameters."),
)  # fmt: skip
"""All baselines. A new one is a function, a row here and a test."""


def table(stats: FiringStats, model: nn.Module | None = None, seen: Outputs | None = None) -> "pandas.DataFrame":
    """Every baseline of a trained model: those of layers, and where they are given those of its weights and its outputs.

    Args:
        stats: Statistics, with covariance for the participation ratio.
        model: The model.
        seen: Its outputs on training data, from :func:`outputs`.

    Returns:
        A pandas frame with columns layer ("all layers" for those of the model), baseline, value, and a note where the value
        is missing.
    """
    import pandas as pd

    things = [("layer", layer, stats[layer]) for layer in stats]
    things += [("weights", "all layers", model)] if model is not None else []
    things += [("outputs", "all layers", seen)] if seen is not None else []
    rows = []
    for of, place, thing in things:
        for row in BASELINES:
            if row.of == of:
                value, note = math.nan, ""
                try:
                    value = float(row.function(thing))
                except InputError as error:  # not recorded
                    note = str(error)
                if math.isnan(value):
                    note = note or _UNDEFINED[of]
                rows.append((place, row.name, value, note))
    return pd.DataFrame(rows, columns=["layer", "baseline", "value", "note"])


_UNDEFINED = {
    "layer": "the layer's units are constant, or one class has samples",
    "outputs": "a tenth of the samples or more is wrong",
    "weights": "a weight is no number",
}
