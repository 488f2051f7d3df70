"""What a batch holds: inputs, labels and, for padded text, which tokens count; and what a model's output predicts."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofire.accumulate import as_labels
from cofire.errors import InputError

__all__ = [
    "LABELS",
    "Batch",
    "as_batch",
    "check_iterable",
    "check_readable_again",
    "class_names_of",
    "classes_of",
    "example_batch",
    "fingerprints",
    "is_probability",
    "logits_of",
    "predictions",
    "samples_in",
    "spread_out",
    "valid_rows",
]

LABELS = ("labels", "label", "targets", "target", "y")
"""Names under which a mapping holds labels."""


@dataclass(frozen=True)
class Batch:
    """One batch, on the device.

    Args:
        inputs: A tensor, a tuple of positional or a mapping of keyword arguments of the model.
        labels: int64 [samples].
        mask: Which tokens count, [samples, tokens]; from a mapping's ``attention_mask``.
    """

    inputs: Any
    labels: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Batch":
        """The first samples alone."""
        return self.take(slice(count))

    def take(self, samples: slice | Tensor) -> "Batch":
        """Some samples alone."""
        mask = None if self.mask is None else self.mask[samples]
        return Batch(_taken(self.inputs, len(self), samples), self.labels[samples], mask)

    @staticmethod
    def joined(batches: "Sequence[Batch]") -> "Batch":
        """Batches of equal form, one after the other."""
        masks = [batch.mask for batch in batches if batch.mask is not None]
        inputs = _joined([batch.inputs for batch in batches], [len(batch) for batch in batches])
        return Batch(inputs, torch.cat([batch.labels for batch in batches]), torch.cat(masks) if masks else None)


def check_iterable(batches: Any, name: str = "batches") -> None:
    """Raise where something else stands in place of batches.

    Raises:
        InputError: It does.
    """
    if not hasattr(batches, "__iter__"):
        raise InputError(
            f"{name} must be iterable", f"found {type(batches).__name__}", "Pass a DataLoader or a list of batches."
        )


def check_readable_again(batches: Iterable | None, name: str = "batches") -> None:
    """Raise where batches can be read only once.

    Args:
        batches: The batches.
        name: What they are called.

    Raises:
        InputError: They are an iterator, or something else.
    """
    check_iterable(batches, name)
    if iter(batches) is batches:  # type: ignore
        raise InputError(f"{name} must be readable more than once", "found an iterator", "Pass a DataLoader or a list.")


def as_batch(item: Any, device: torch.device | None, classes: int | None, place: str) -> Batch:
    """A batch from (inputs, labels), (input, ..., labels) or a mapping that holds labels.

    Raises:
        InputError: Another form, or labels that do not fit.
    """
    if isinstance(item, Mapping):
        key = next((name for name in LABELS if name in item), None)
        if key is None:
            raise InputError(
                f"a batch that is a mapping must hold its labels under one of {', '.join(LABELS)}",
                f"{place} has {', '.join(map(repr, item))}",
                "Rename the column, or yield (inputs, labels).",
            )
        inputs: Any = {name: value for name, value in item.items() if name != key}
        labels, mask = item[key], item.get("attention_mask")
    elif isinstance(item, tuple | list) and len(item) >= 2:
        inputs, labels = item[0] if len(item) == 2 else tuple(item[:-1]), item[-1]
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    else:
        shape = f" of shape {tuple(item.shape)}" if isinstance(item, Tensor) else ""
        raise InputError(
            "a batch must be (inputs, labels) or a mapping with labels",
            f"{place} is {type(item).__name__}{shape}",
            "Every sample needs its true class. A single batch goes into a list: [(inputs, labels)].",
        )
    if isinstance(labels, int) or getattr(labels, "ndim", 1) == 0:
        raise InputError(
            "a batch must hold the labels of its samples",
            f"{place} has the one label {labels}",
            "A data set of single samples needs a DataLoader around it; cofire's own have .batches().",
        )
    samples = samples_in(inputs)
    try:
        labels = as_labels(labels, samples, classes, device)
    except InputError as error:
        raise InputError(error.wanted, f"{error.found} in {place}", error.remedy) from None
    return Batch(_move(inputs, device), labels, None if mask is None else torch.as_tensor(mask).to(device))


def spread_out(batches: Iterable[Batch], count: int) -> Batch:
    """Samples from all over the batches, as one batch: every second, fourth, ... one, until at most ``count`` are left.

    Batches whose samples have another form than the first one's, such as longer texts, are left out.

    >>> spread_out([Batch(torch.arange(6), torch.zeros(6)), Batch(torch.arange(6, 10), torch.zeros(4))], 4).inputs.tolist()
    [0, 4, 8]
    """
    step, seen, parts, form = 1, 0, [], None
    for batch in batches:
        shapes = [tensor.shape[1:] for tensor in _tensors(batch.inputs)]
        form = form or shapes
        if shapes == form:
            parts.append(_every(step, torch.arange(seen, seen + len(batch)), batch))
            seen += len(batch)
        while sum(len(part) for _, part in parts) > count:
            step *= 2
            parts = [_every(step, *part) for part in parts]
    if not parts:
        raise InputError("there must be at least one sample", "the batches are empty")
    return Batch.joined([part for _, part in parts if len(part)])


def _every(step: int, places: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
    chosen = (places % step == 0).nonzero()[:, 0]
    return places[chosen], batch.take(chosen)


def example_batch(example: Any, device: torch.device | None) -> Batch:
    """A batch from inputs of a model alone, whose labels are then all 0, or from (inputs, labels).

    Raises:
        InputError: There is no tensor in it.
    """
    labelled = isinstance(example, tuple | list) and len(example) == 2 and isinstance(example[1], Tensor)
    if not labelled or example[1].ndim != 1:
        count = samples_in(example)
        if count is None:
            raise InputError("the example must hold a tensor", f"found {type(example).__name__}")
        example = example, torch.zeros(count, dtype=torch.int64)
    return as_batch(example, device, None, "the example")


def samples_in(inputs: Any) -> int | None:
    """Number of samples in a model's inputs: the length of the first tensor found; None where there is none."""
    if isinstance(inputs, Tensor):  # no len(): under torch.export the batch may be of any size
        return inputs.shape[0] if inputs.ndim else None
    if hasattr(inputs, "__array__"):
        return len(inputs) if getattr(inputs, "ndim", 1) else None
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, tuple | list):
        return next((n for n in map(samples_in, inputs) if n is not None), None)
    return None


def count_in(batches: Iterable) -> int | None:
    """Number of samples, where it is known without reading: in a list of batches, or by the sampler or data set of a loader."""
    if type(batches) in (list, tuple):  # others may be costly to walk through
        counts = [samples_in(item) for item in batches]
        return None if None in counts else sum(filter(None, counts))
    if getattr(batches, "batch_size", 1) is None and getattr(batches, "batch_sampler", None) is None:
        return None  # a loader whose data set holds ready batches
    for holder in (getattr(batches, "sampler", None), getattr(batches, "dataset", None)):
        with suppress(TypeError, RuntimeError):  # of those that have no length
            return len(holder)  # type: ignore[arg-type]
    return None


def _taken(value: Any, length: int, samples: slice | Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[samples] if value.ndim and len(value) == length else value
    if isinstance(value, Mapping):
        return {key: _taken(item, length, samples) for key, item in value.items()}
    return tuple(_taken(item, length, samples) for item in value) if isinstance(value, tuple | list) else value


def _joined(values: list, lengths: list[int]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        alike = all(value.ndim and len(value) == length for value, length in zip(values, lengths, strict=True))
        return torch.cat(values) if alike else first
    if isinstance(first, Mapping):
        return {key: _joined([value[key] for value in values], lengths) for key in first}
    return (
        tuple(_joined(list(items), lengths) for items in zip(*values, strict=True))
        if isinstance(first, tuple | list)
        else first
    )


def _move(value: Any, device: torch.device | None) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if hasattr(value, "__array__"):
        return torch.as_tensor(value).to(device)
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(_move(item, device) for item in value)
    return value


def logits_of(output: Any) -> Tensor | None:
    """Class scores [samples, classes] in a model's output: a tensor, the first of a tuple, or what is named ``logits``."""
    if isinstance(output, Tensor):
        return output if output.ndim == 2 else output[:, None] if output.ndim == 1 else None
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits_of(logits)
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, tuple | list):
        return next((found for item in output if (found := logits_of(item)) is not None), None)
    return None


def classes_of(batches: Iterable, logits: Tensor | None, labels: Tensor) -> int:
    """Number of classes: what the data says, else the width of the model's output, else one more than the largest label."""
    names = class_names_of(batches)
    if names:
        return len(names)
    largest = int(labels.max()) + 1 if len(labels) else 1
    if logits is not None:
        return max(logits.shape[1], 2)
    return largest


def class_names_of(batches: Iterable) -> list[str] | None:
    """Class names that a loader or its data set carries as ``classes``."""
    for holder in (batches, getattr(batches, "dataset", None)):
        names = getattr(holder, "classes", None)
        if isinstance(names, tuple | list) and names:
            return [str(name) for name in names]
    return None


def is_probability(output: Tensor, sigmoid: bool) -> bool:
    """Whether a model's single output is the probability of the second of two classes; else it is its logit.

    It is where the model ends with a sigmoid. That the output lies between 0 and 1 does not say so: a few logits may.

    Args:
        output: The model's output, [samples, 1].
        sigmoid: What :attr:`cofire.watching.Watch.sigmoid` says of the model.
    """
    return sigmoid and bool(((output >= 0) & (output <= 1)).all())


def predictions(logits: Tensor | None, classes: int, sigmoid: bool = False) -> Tensor | None:
    """Predicted classes [samples]; None where the output's width is not the number of classes.

    A single output stands for two classes: the second above 0, or above a half where :func:`is_probability` says so.
    """
    if logits is None:
        return None
    if logits.shape[1] == 1 and classes == 2:
        return (logits[:, 0] > (0.5 if is_probability(logits, sigmoid) else 0.0)).long()
    return logits.argmax(1) if logits.shape[1] == classes else None


def valid_rows(batches: Iterable) -> int | None:
    """Samples of this process that are its own, where a DistributedSampler pads the last round with repeated ones."""
    inner = getattr(getattr(batches, "batch_sampler", None), "sampler", None)  # of a batch sampler that the user made
    sampler = inner if hasattr(inner, "total_size") else getattr(batches, "sampler", None)
    size = getattr(sampler, "total_size", None)
    if size is None or getattr(sampler, "drop_last", True):
        return None
    total = len(sampler.dataset)  # type: ignore[union-attr]
    return -(-(total - sampler.rank) // sampler.num_replicas)  # type: ignore[union-attr]


def fingerprints(inputs: Any) -> list[int]:
    """A digest of each sample of a model's inputs, the same in this process wherever its content is, however far it is padded.

    >>> a, b, c = fingerprints(torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]))
    >>> a == c, a == b
    (True, False)
    >>> len(set(fingerprints({"text": ["yes", "no"], "length": torch.tensor([3, 3])})))
    2
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    digests = [0] * (samples_in(inputs) or 0)
    for tensor in _tensors(inputs):
        if len(tensor) == len(digests):
            digests = [hash((before, bytes(row))) for before, row in zip(digests, _rows(tensor, mask), strict=True)]
    for value in inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple | list) else ():
        if isinstance(value, tuple | list) and len(value) == len(digests) and all(isinstance(text, str) for text in value):
            digests = [hash((before, text)) for before, text in zip(digests, value, strict=True)]
    return digests


def marks_of(inputs: Any, samples: int, data: str, before: int) -> list[int]:
    """Fingerprints of the samples of a batch; of inputs without a tensor, which cannot be compared, one for each place.

    Args:
        inputs: A model's inputs.
        samples: How many there are.
        data: What the data set is called.
        before: How many came before them.

    >>> len(set(marks_of(["a", "b", "a"], 3, "test", 0)))
    3
    """
    found = fingerprints(inputs) if samples_in(inputs) == samples else []
    return found or [hash((data, before + place)) for place in range(samples)]


def firsts(marks: Sequence[int]) -> list[int]:
    """Where each of the different fingerprints came first, in their order.

    >>> firsts([7, 5, 7, 3])
    [0, 1, 3]
    """
    found: dict[int, int] = {}
    for place, mark in enumerate(marks):
        found.setdefault(mark, place)
    return list(found.values())


def _tensors(inputs: Any) -> list[Tensor]:
    if isinstance(inputs, Mapping):
        inputs = list(inputs.values())
    if isinstance(inputs, tuple | list):
        return [tensor for value in inputs for tensor in _tensors(value)]
    return [inputs] if isinstance(inputs, Tensor) and inputs.ndim else []


def _rows(tensor: Tensor, mask: Tensor | None) -> list[memoryview]:
    """The bytes of every sample; of texts those of the tokens that count."""
    if mask is None or tensor.shape[:2] != mask.shape:
        return [row.data for row in _bytes(tensor)]
    kept = mask.bool()
    return [rows.data for rows in np.split(_bytes(tensor[kept]), kept.sum(1).cumsum(0)[:-1].cpu().numpy())]


def _bytes(tensor: Tensor) -> np.ndarray:
    """uint8 [rows, bytes]."""
    return tensor.detach().cpu().to_dense().reshape(len(tensor), -1).contiguous().view(torch.uint8).numpy()
