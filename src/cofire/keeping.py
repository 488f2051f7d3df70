"""What is read again of a data set, kept while it fits into memory, so that most fits read their data once."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from cofire.batches import firsts, marks_of
from cofire.errors import InputError
from cofire.hidden import Columns
from cofire.readings import Reader, Reading

__all__ = ["Part", "Rows"]

_ROOM = 2**29  # bytes


class Part(NamedTuple):
    """A batch of :class:`Rows`.

    Args:
        rows: Features, [samples, features].
        scores: The model's class scores, [samples, classes].
        labels: True classes, [samples].
    """

    rows: Tensor
    scores: Tensor
    labels: Tensor


class Rows:
    """Features, class scores and labels of a data set, batch by batch, as often as one likes.

    They are kept from the first time on if all of them fit into 512 MB; else the model reads the data again each time.

    Args:
        reader: The model's reader.
        batches: Labelled data that can be read more than once.
        columns: What is read of a sample.
        what: What the data are called.
        progress: Show one on a terminal.
    """

    def __init__(self, reader: Reader, batches: Iterable, columns: Columns, what: str, progress: bool = False):
        self.reader, self.batches, self.columns, self.what, self.progress = reader, batches, columns, what, progress
        self.order: list[int] = []
        """Fingerprints of the samples, as they came when all of them were first read."""
        self.fixed = True
        """Whether they must come so again."""
        self._kept: list[Part] | None = None

    @property
    def fingerprints(self) -> set[int]:
        """Of the samples."""
        return set(self.order)

    @cached_property
    def first(self) -> Int[Tensor, " different"]:
        """Where each of the different samples came first, once all of them were read."""
        return torch.tensor(firsts(self.order))

    def __iter__(self) -> Iterator[Part]:
        if self._kept is not None:
            yield from self._kept
            return
        kept, room = [], _ROOM
        for _, part in self.read():
            room -= sum(value.numel() * value.element_size() for value in part)
            if room >= 0:
                kept.append(part)
            else:
                kept.clear()
            yield part
        self._kept = kept if room >= 0 else None

    def read(self) -> Iterator[tuple[Reading, Part]]:
        """All that the model shows of each batch, read anew, beside its part."""
        found: list[int] = []
        for reading in self.reader.over(self.batches, self.what, self.progress):
            found += (new := marks_of(reading.inputs, len(reading), self.what, len(found)))
            if self.order and self.fixed and new != self.order[len(found) - len(new) : len(found)]:
                raise self._moved()
            rows = self.columns.of(reading.units, reading.firing)
            if not rows.sum().isfinite() and (unknown := int((~rows.isfinite()).any(1).sum())):  # the sum is found much sooner
                raise InputError("hidden units must be finite", f"they are not for {unknown:,} samples of {self.what}")
            yield reading, Part(rows, reading.logits.clone(), reading.labels)  # they may be a small part of a large output
        if self.order and self.fixed and len(found) != len(self.order):
            raise self._moved()
        if not self.order:
            self.order = found

    def _moved(self) -> InputError:
        return InputError(
            f"{self.what} must hold the same samples in the same order whenever they are read",
            "found others, or another order",
            "Pass them without shuffling and without random changes.",
        )
