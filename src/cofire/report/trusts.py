"""The trust of a report and its most unusual predictions, as plain values and pictures."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from cofire.detection import risk_bounds
from cofire.errors import InputError
from cofire.familiarities import Familiarity
from cofire.images import Images
from cofire.report.columns import Column, column
from cofire.selective import CONTROL, HEAD, Trust

__all__ = ["SCORES", "trust_contents", "unusual_contents"]

SCORES = {
    "msp": "Maximum softmax probability p, as log-odds.",
    "entropy": "Entropy of the softmax, with its sign turned.",
    "max_logit": "Largest logit.",
    "energy": "Logarithm of the sum of the exponentials of the logits.",
    "margin": "Largest logit less the second.",
    "familiarity": "How much the firing looks like the training data's, the mean over layers.",
    "posterior": "Log-probability of the predicted class given the firing, the mean over layers.",
    CONTROL: "Logistic regression on the five scores of the outputs and the predicted class: the control, without firing.",
    HEAD: "The same, and three signs of each layer's firing pattern.",
}
"""What each score of a prediction is."""

_POINTS = 200
_UNUSUAL = 24
_SIDE = 64


def trust_contents(trust: Trust) -> dict[str, Any]:
    """What a report shows of a trust: words, scores, curves of at most 200 points, and thresholds."""
    samples, curve = len(trust.wrong), trust.risk_coverage()
    points = np.unique(np.linspace(0, samples - 1, min(samples, _POINTS)).round().astype(int))
    coverages, bounds = risk_bounds(trust.scores[trust.answer], trust.wrong)
    thresholds = [
        {
            "coverage": coverage, "samples": (given := math.ceil(coverage * samples - 1e-9)),
            "threshold": trust.threshold(coverage), "risk": curve["risk"].iloc[given - 1],
            "msp": curve["msp"].iloc[given - 1], "bound": bound,
        }
        for coverage, bound in zip(coverages.tolist(), bounds.tolist(), strict=True)
    ]  # fmt: skip
    return {
        "words": str(trust), "answer": trust.answer, "samples": samples, "wrong": int(trust.wrong.sum()),
        "scores": [{**row, "words": SCORES[row["score"]]} for row in trust.frame().to_dict("records")],
        "curve": curve.iloc[points].to_dict("list"), "thresholds": thresholds[::-1],
    }  # fmt: skip


def unusual_contents(seen: Familiarity, images: Images) -> tuple[dict[str, Any], dict[str, Column]]:
    """The least familiar predictions, at most 24, and their pictures, each of at most 64 pixels a side.

    Raises:
        InputError: Pictures that are not those of the familiarity.
    """
    if len(seen) != len(images):
        raise InputError(
            "familiar must be a familiarity and the pictures that it is of",
            f"found a familiarity of {len(seen):,} samples and pictures of {len(images):,}",
        )
    places = seen.score.sort(stable=True).indices[:_UNUSUAL].tolist()
    explained = [seen.explain(place) for place in places]
    rows = [
        {
            "sample": said.sample, "predicted": said.predicted, "true": images.classes[int(images.labels[said.sample])],
            "familiarity": said.score, "suits": list(said.suits.values()), "words": str(said),
            "disagree": [layer for layer in said.suits if layer not in said.agree],
        }
        for said in explained
    ]  # fmt: skip
    pictures = torch.stack([_small(images[place][0]) for place in places])
    about = {"samples": len(seen), "median": float(seen.score.median()), "layers": list(seen.layers), "rows": rows}
    return about, {"unusual": column(pictures, "predictions channels rows columns", 100)}


def _small(picture: Float[Tensor, "channels rows columns"]) -> Float[Tensor, "shown rows columns"]:
    rows, columns = picture.shape[1:]
    shrink = max(rows / _SIDE, columns / _SIDE, 1)
    shape = max(round(rows / shrink), 1), max(round(columns / shrink), 1)
    picture = F.adaptive_avg_pool2d(picture.float(), shape)
    return (picture if len(picture) in (1, 3) else picture.mean(0, keepdim=True)).clamp(0, 1)
