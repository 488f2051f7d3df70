"""What every number in a report means, and in which unit: the measures' own words, and those of the other columns."""

from typing import Any

from cofire.measures import MEASURES

__all__ = ["COLUMNS", "glossary"]

COLUMNS: dict[str, tuple[str, str]] = {
    "firing_rate": ("share", "Share of all samples in which the unit fires."),
    "mean": ("activation", "Mean activation over all samples."),
    "std": ("activation", "Standard deviation of the activation over samples."),
    "low": ("activation", "Smallest non-zero activation seen; 0 if there is none."),
    "high": ("activation", "Largest non-zero activation seen; 0 if there is none."),
    "zeros": ("samples", "Samples in which the activation is exactly zero; they are in no bin of the histogram."),
    "preferred_class": ("class number", "The class with the largest mean activation."),
    "dead": ("yes or no", "The unit fires for no sample."),
    "always_on": ("yes or no", "The unit fires for every sample."),
    "unit": ("number", "Number of the unit in its layer, from 0."),
    "quartiles": ("as the measure", "Smallest value, quartiles, largest value and mean over a layer's live units."),
    "outline": (
        "share of the peak",
        "Density of the measure over live units, at equal steps over its range.",
    ),
    "profile_units": ("number", "The units for which values by class are given."),
    "firing": ("share", "Share of a class's samples in which the unit fires."),
    "means": ("activation", "Mean activation over a class's samples."),
    "shares": ("share", "The unit's share of the softmax over the layer's mean activations for a class."),
    "order_class": ("place", "Units by preferred class, the most class-selective first; dead ones last."),
    "order_likeness": ("place", "Units so that those that fire for like classes are neighbours."),
    "histogram_units": ("number", "The units for which a histogram is given."),
    "histogram": ("samples", "Non-zero activations in equal bins between the unit's smallest and largest one."),
    "by_class_units": ("number", "The units for which histograms by class are given."),
    "by_class": ("samples", "A class's non-zero activations in equal bins between its smallest and largest one."),
    "by_class_zeros": ("samples", "Samples of the class in which the activation is exactly zero."),
    "by_class_low": ("activation", "Smallest non-zero activation for the class."),
    "by_class_high": ("activation", "Largest non-zero activation for the class."),
    "maps": ("activation", "Mean over the layer's channels and a class's samples, at each position of the picture."),
    "maps_mean": ("activation", "The same, averaged over classes."),
    "entropy": ("share", "Softmax entropy of the layer for each class; scale_free: after dividing activations by their mean."),
    "graph": (
        "weight, or units",
        "Units that represent a class (vertices), joined by the share of a class's samples in which both are above their mean "
        "over that class, summed over classes (weight). Strength is the sum of a unit's weights; a community is a group of "
        "units joined more than their strengths alone would join them. Places (x, y) are those of the drawing; unique and "
        "shared count the units that two classes have in common, without and with those that represent a third.",
    ),
    "ablation": (
        "share, or nats",
        "Accuracy and loss (mean cross entropy) while units are removed, each held at its mean or at zero from then on, in the "
        "order of a measure, low or high values first, or at random. Area is the mean accuracy over all shares removed; "
        "removable counts the units that go before accuracy first falls by more than one point.",
    ),
    "boost": (
        "share, or nats",
        "The model with its hidden layers read again, beside its controls, on the same samples. Gain is the accuracy less the "
        "model's, loss_gain the model's log-loss less the method's, boost_minus the boost's accuracy less the method's; low "
        "and high are ends of 95 % intervals. Reliability: of each bin of the largest probability, its mean (confidence) and "
        "the share that is right (accuracy).",
    ),
    "trust": (
        "share, or log-odds",
        "How well scores tell wrong predictions from right ones, on validation data. Coverage is the share of predictions that "
        "are given, the most trusted first; risk the share of these that is wrong; bound what the risk for new samples of the "
        "same kind does not exceed, with 95 % confidence for all coverages at once.",
    ),
    "unusual": (
        "share of the brightest",
        "Pictures of the least familiar predictions. Familiarity is the mean over layers of the standardised log-likelihood of "
        "the firing pattern for the class that it suits best; suits names that class for each layer, disagree the layers "
        "where it is not the predicted one.",
    ),
    "training": (
        "as the measure, or share",
        "Measures and accuracy at each checkpoint of a training, the first as a rule before it. Beside each series stands how "
        "it goes with training accuracy: Pearson's and Spearman's correlation, Spearman's given the number of the checkpoint, "
        "and Pearson's of the changes from one checkpoint to the next.",
    ),
    "test": ("as the measure", "The per-unit values on the test data."),
}
"""Unit and words of every column that is not itself a measure, by the part of its name before the slash or after it."""

_NAMES = {
    "mean": "Mean activation", "std": "Standard deviation", "means": "Mean activation for a class",
    "shares": "Share of the softmax", "maps": "Mean map", "graph": "Co-firing graph",
}  # fmt: skip
_ORDERS = {
    "weight_std": ("Weight × deviation", "Norm of a unit's outgoing weights times its standard deviation."),
    "reconstruction": (
        "Reconstruction",
        "What removing the unit adds to the squared error of the next layer's input, given the units that went before it.",
    ),
    "obs": (
        "Brain surgeon (obs)",
        "Optimal brain surgeon: what removing the unit costs the next layer's input once the weights of the others are "
        "fitted again.",
    ),
    "fisher": (
        "Fisher",
        "How far the predicted probabilities move, to second order, when the unit is held at its mean, given the units that "
        "went before it.",
    ),
    "scores": ("Given scores", "Scores of units that were given to the ablation."),
    "random": ("Random", "An order by lot."),
}
_LAYER = {
    "layer": ("", "Name of the layer, in the order of the forward pass."),
    "kind": ("", "The non-linearity whose output is recorded."),
    "layout": ("", "Where units lie: dense, channels of a convolution (conv), features of tokens, recurrent, or positions."),
    "units": ("units", "Units in the layer."),
    "live": ("units", "Units that fire for some sample."),
    "dead": ("units", "Units that fire for no sample."),
    "always_on": ("units", "Units that fire for every sample."),
    "samples": ("samples", "Samples in which the layer was called."),
    "bins": ("bins", "Bins of the activation histogram, on which the activation entropy depends."),
    "firing_rate": ("share", "Share of units that fire, over units and samples."),
    "activation_entropy_total": ("bits", "Sum over all units, the E of papers 000 and 001; it falls by itself when units die."),
}


def glossary() -> dict[str, Any]:
    """Words for measures, for columns of units, for orders of removal and for columns of the table of layers."""
    measures = [
        {
            "name": row.name, "label": _label(row.name), "symbol": row.symbol, "unit": row.unit, "axes": row.axes,
            "words": row.words, "better": row.better, "source": row.source,
        }
        for row in MEASURES
    ]  # fmt: skip
    return {
        "measures": measures,
        "columns": {
            name: {"unit": unit, "words": words, "label": _NAMES.get(name, _label(name))}
            for name, (unit, words) in COLUMNS.items()
        },
        "orders": {name: {"label": label, "words": words} for name, (label, words) in _ORDERS.items()},
        "layers": {name: {"unit": unit, "words": words, "label": _label(name)} for name, (unit, words) in _LAYER.items()},
    }


def _label(name: str) -> str:
    words = name.replace("_", " ").replace("kl selectivity", "KL selectivity").replace("scale free", "scale-free")
    return words[0].upper() + words[1:]
