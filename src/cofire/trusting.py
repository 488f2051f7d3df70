"""Will a prediction be wrong? A head on outputs and firing, and whether it does better than the softmax alone."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cofire.batches import check_iterable, firsts, marks_of
from cofire.detection import auroc_difference
from cofire.doubts import Doubts
from cofire.errors import CofireWarning, InputError, checked_seed
from cofire.familiarities import likelihoods_of
from cofire.readings import Reader, Reading
from cofire.rivals import OUTPUTS
from cofire.scoring import lacking
from cofire.selective import CONTROL, HEAD, Head, Trust
from cofire.stacking import folds_of
from cofire.stats import FiringStats

__all__ = ["cross_fitted", "trust"]

_FOLDS = 5
_FEWEST = 20
"""Wrong (or right) predictions below which no head is fitted: with fewer, four to a fold, it could not be judged either."""


def trust(
    model: nn.Module, batches: Iterable, stats: FiringStats, *, validation: Iterable | None = None,
    layers: str | Sequence[str] | None = None, at: str = "threshold", seed: int = 0, device: Any = None,
    progress: bool = False,
) -> Trust:  # fmt: skip
    """How far a frozen model's predictions can be trusted, one by one.

    The maximum softmax probability (MSP) is hard to beat at telling wrong predictions from right ones, and it is the answer
    unless a logistic regression on five scores of the outputs, the predicted class and three signs of each layer's firing
    pattern beats it significantly: the 95 % interval of the gain in AUROC on the validation data, in five parts of which each
    is scored by a head fitted on the other four, lies above 0. Beside it stands the control, the same without the firing.
    Validation samples that come more than once count once.

    Source:
        Ours; MSP is Hendrycks and Gimpel 2017, the test DeLong's (1988).

    Args:
        model: The model that the statistics are of; it stays as it is.
        batches: The labelled data that the statistics are of, or data like it: what is usual in each layer is measured here.
        stats: Statistics of the model.
        validation: Labelled data that the model was not trained on.
        layers: Layers to read; by default all that the statistics hold.
        at: Above what a unit fires, as for :func:`familiarity`.
        seed: Of the five parts.
        device: Where to run; by default where the model is.
        progress: Show progress bars on a terminal.

    Returns:
        The fitted trust: ``score``, ``predict``, ``threshold``, ``frame``, ``risk_coverage``, ``save``; its text says what was
        chosen and why.

    Raises:
        InputError: No validation data, statistics of another model, or in which a class has no samples, class scores that are
            not finite.

    >>> import cofire
    >>> digits, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
    >>> net = cofire.zoo.model("fcnn:64-32-10", seed=0)
    >>> _ = cofire.fit(net, digits, epochs=1, seed=0, progress=False)
    >>> stats = cofire.record(net, digits.batches(), progress=False)
    >>> found = cofire.trust(net, digits.batches(), stats, validation=test.batches())
    >>> int((found.predict(test.batches(), coverage=0.9) >= 0).sum()), len(test)
    (324, 360)
    """
    if validation is None:
        raise InputError(
            "trust needs labelled data that the model was not trained on", "found no validation=",
            "On training data nearly all predictions are right, and nothing can be learned of the wrong ones.",
        )  # fmt: skip
    check_iterable(batches)
    check_iterable(validation, "validation")
    likelihoods, seed = likelihoods_of(stats, layers, at), checked_seed(seed)
    seen: list[int] = []
    theirs: list[int] = []
    with Reader(model, stats, list(likelihoods), device, shares=()) as reader:
        doubts = Doubts.fitted(likelihoods, _noted(reader.over(batches, "batches", progress), seen, "batches"))
        signs = doubts.signs(_noted(reader.over(validation, "validation", progress), theirs, "validation"))
        form = reader.form
    known = set(seen)
    both = sum(mark in known for mark in theirs)
    if both:
        warnings.warn(
            f"{both:,} of {len(theirs):,} validation samples are also in the training data: trust that is fitted on them is "
            "too high. Hold them out of one of the two",
            CofireWarning,
            stacklevel=2,
        )
    places = torch.tensor(firsts(theirs))
    if len(places) < len(theirs):
        said = f"{len(theirs) - len(places):,} of {len(theirs):,} validation samples are there already: each counts once"
        warnings.warn(said, CofireWarning, stacklevel=2)
        signs = signs.at(places)
    if endless := int((~signs.outputs.isfinite()).any(1).sum()):
        raise InputError(
            "the model's two largest class scores must be finite",
            f"they are not for {endless:,} of {len(places):,} validation samples",
        )
    missing, lopsided = lacking(signs.labels, stats.class_counts)
    if lopsided:
        named = ", ".join(stats.class_names[place] for place in missing[:5]) + ", ..." * (len(missing) > 5)
        warnings.warn(
            f"no validation sample is of {named}, though a random choice would have some: all predictions of such a class are "
            "wrong there, and the head learns that. Shuffle the data first",
            CofireWarning,
            stacklevel=2,
        )
    wrong = signs.predicted != signs.labels
    scores = dict(zip(OUTPUTS, signs.outputs.T.contiguous(), strict=True)) | {
        "familiarity": signs.familiarity, "posterior": signs.firing[:, 2::3].mean(1),
    }  # fmt: skip
    head, answer, final = None, "msp", scores["msp"]
    if min(int(wrong.sum()), int((~wrong).sum())) >= _FEWEST:
        columns = signs.columns(stats.classes)
        scores[CONTROL] = cross_fitted(signs.control(stats.classes), ~wrong, seed)
        scores[HEAD] = cross_fitted(columns, ~wrong, seed)
        head = Head.fitted(columns, ~wrong)
        if auroc_difference(-scores[HEAD], -scores["msp"], wrong)[1] > 0:
            answer, final = HEAD, head(columns)
    return Trust(model, stats, doubts, head, answer, scores, wrong, final, places, form, at, device)


def _noted(readings: Iterable[Reading], marks: list[int], data: str) -> Iterator[Reading]:
    """The readings as they are, the fingerprints of their inputs put aside."""
    for reading in readings:
        marks.extend(marks_of(reading.inputs, len(reading), data, len(marks)))
        yield reading


def cross_fitted(
    columns: Float[Tensor, "samples columns"], right: Bool[Tensor, " samples"], seed: int = 0
) -> Float[Tensor, " samples"]:
    """Each sample's score by a head that was fitted without it: five parts, wrong and right spread evenly over them.

    Args:
        columns: What the head may look at.
        right: Which predictions are right.
        seed: Of the parts.
    """
    part = folds_of(right, _FOLDS, seed, even=True)
    scores = torch.empty(len(right), dtype=torch.float64)
    for fold in range(_FOLDS):
        mine = part == fold
        scores[mine] = Head.fitted(columns[~mine], right[~mine])(columns[mine])
    return scores
