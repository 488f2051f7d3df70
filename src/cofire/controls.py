"""The controls of a boost: what else, fitted to the same samples, could have brought the gain."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofire.batches import as_batch
from cofire.boosted import PaperHead
from cofire.firing import firing_probability
from cofire.hidden import Columns
from cofire.probes import Auxiliary, residual_probes, train_auxiliary
from cofire.readings import Reader, Reading, scores_in
from cofire.scoring import possible
from cofire.stats import FiringStats
from cofire.watching import tensors_in
from cofire.wrappers import called, evaluating

__all__ = ["AS_THEY_ARE", "Method", "inputs_of", "keep", "paper_head", "predictions_only", "probes", "trained_on"]

AS_THEY_ARE = ("paper", "paper: predictions only", "paper: permuted units", "one more epoch")
"""Controls that give scores of their own; the others are added to the model's by held-out samples."""

Method = Callable[[Reading], list[Tensor]]
"""Class scores of a batch, or several candidates of which held-out samples choose."""

_ROOM = 2**29  # bytes of features that are kept
_PIXELS = 4096


def keep(
    reader: Reader, batches: Iterable, parts: dict[str, Callable[[Reading], Tensor]], samples: int, seed: int, progress: bool
) -> tuple[dict[str, Tensor], float]:
    """What functions give of every sample, or of as many random ones as fit into 512 MB.

    Args:
        reader: The model's reader.
        batches: Labelled data.
        parts: Functions of a reading, [samples, numbers] or [samples].
        samples: How many there are.
        seed: Of the choice.
        progress: Show a progress bar.

    Returns:
        Their values, but those whose numbers are not as many in every batch, and the share of samples that was kept.
    """
    lots, share = torch.Generator().manual_seed(seed), 1.0
    held: dict[str, list[Tensor]] = {name: [] for name in parts}
    for index, reading in enumerate(reader.over(batches, "batches", progress)):
        found = {name: part(reading) for name, part in parts.items()}
        if index == 0:
            bytes_ = sum(value[0].numel() * value.element_size() for value in found.values()) * samples
            share = min(1.0, _ROOM / max(bytes_, 1))
        chosen = torch.rand(len(reading), generator=lots).to(reader.device) < share if share < 1 else slice(None)
        for name, value in found.items():
            held[name].append(value[chosen].clone())  # not a part of what is much larger, or is filled again
    kept = {name: torch.cat(values) for name, values in held.items() if len({value.shape[1:] for value in values}) == 1}
    return kept, share


def inputs_of(reading: Reading) -> Tensor:
    """The first input of a batch as plain numbers [samples, numbers]; large pictures are averaged down to 4,096."""
    first = tensors_in(reading.inputs)[0]
    if first.ndim == 4 and first[0].numel() > _PIXELS:
        side = math.isqrt(_PIXELS // first.shape[1])
        first = F.adaptive_avg_pool2d(first.float(), (min(side, first.shape[2]), min(side, first.shape[3])))
    return first.flatten(1)[:, :_PIXELS].float()


def probes(kept: dict[str, Tensor], columns: Columns, last: str) -> dict[str, Method]:
    """Logistic regressions by gradients, beside the model's scores: on these alone, the inputs, the last layer, and all.

    Args:
        kept: "numbers" of all layers, "scores", "labels", "inputs" (if they are alike) and the last layer's ``units of NAME``,
            of the same samples.
        columns: What the numbers are.
        last: The last layer's name.
    """
    some = possible(kept["scores"], kept["labels"])  # others have no log-loss
    kept = kept if bool(some.all()) else {name: values[some] for name, values in kept.items()}
    units = kept[f"units of {last}"]
    sources: dict[str, tuple[Tensor, Callable[[Reading], Tensor]]] = {
        "class scores alone": (_centred(kept["scores"]), lambda reading: _centred(reading.logits)),
        "last hidden layer": (units, lambda reading: reading.units[last]),
        "all hidden layers by gradients": (kept["numbers"], lambda reading: columns.plain(reading.units, reading.firing)),
    }
    if "inputs" in kept:
        width = kept["inputs"].shape[1]
        sources["inputs"] = (kept["inputs"], lambda reading: F.pad(found := inputs_of(reading), (0, width - found.shape[1])))
    if columns.numbers == units.shape[1]:
        sources.pop("last hidden layer")  # it is all of them
    return {name: _probe(values, kept, source) for name, (values, source) in sources.items()}


def _probe(values: Tensor, kept: dict[str, Tensor], source: Callable[[Reading], Tensor]) -> Method:
    mean = values.mean(0)
    scale = values.var(0).mean().sqrt().clamp(min=1e-6)
    weights = residual_probes((values - mean) / scale, kept["scores"], kept["labels"]).to(values)
    return lambda reading: [((source(reading) - mean) / scale) @ each[:-1] + each[-1] for each in weights]


def _centred(scores: Tensor) -> Tensor:
    return scores.float().log_softmax(1).clamp(min=-30)


def paper_head(
    kept: dict[str, Tensor], stats: FiringStats, names: list[str], scaled: bool, seed: int, mixed: bool = False
) -> PaperHead:
    """The paper's head, trained.

    Args:
        kept: "scores", "labels" and for every name ``units of NAME``.
        stats: Statistics that hold P.
        names: The layers whose firing it reads.
        scaled: Whether the second opinion sums to one.
        seed: Of the net.
        mixed: Put the units of P in another order: a control.
    """
    thresholds = {name: stats[name].threshold for name in names}
    probability = {name: firing_probability(stats[name]).nan_to_num(0.0) for name in names}
    if mixed:
        lots = torch.Generator().manual_seed(seed)
        probability = {name: value[:, torch.randperm(value.shape[1], generator=lots)] for name, value in probability.items()}
    head = PaperHead(probability, thresholds, Auxiliary(stats.classes), scaled).to(kept["scores"].device)
    units = {name: kept[f"units of {name}"] for name in names}
    head.net = train_auxiliary(head.inputs(kept["scores"], units), kept["labels"], stats.classes, seed=seed)
    return head


def predictions_only(kept: dict[str, Tensor], classes: int, seed: int) -> Method:
    """The paper's auxiliary net without any firing; arguments as for :func:`paper_head`."""
    alone = train_auxiliary(kept["scores"].float().softmax(1), kept["labels"], classes, seed=seed)
    return lambda reading: [alone(reading.logits.float().softmax(1))]


def trained_on(copied: nn.Module, batches: Iterable, classes: int, device: Any, form: str, rate: float, seed: int) -> Method:
    """The model after one more epoch with Adam.

    Args:
        copied: A copy of the model, which is trained.
        batches: Labelled data.
        classes: Number of classes.
        device: Where to train.
        form: What its output holds.
        rate: The learning rate.
        seed: Of dropout.
    """
    copied = copied.to(device).train().requires_grad_(True)
    optimizer, largest = torch.optim.Adam(copied.parameters(), rate), 0
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        for index, item in enumerate(batches):
            batch = as_batch(item, device, classes, f"batch {index}")
            largest = max(largest, len(batch))
            if len(batch) == 1 < largest:
                continue  # the one sample that is left over has no spread to normalise by
            optimizer.zero_grad()
            scores = scores_in(called(copied, batch.inputs), form)
            some = possible(scores.detach(), batch.labels)
            if bool(some.any()):
                F.cross_entropy(scores[some], batch.labels[some]).backward()
                optimizer.step()

    def scores_of(reading: Reading) -> list[Tensor]:
        with evaluating(copied), torch.no_grad():
            return [scores_in(called(copied, reading.inputs), form)]

    return scores_of
