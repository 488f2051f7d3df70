"""Corrections of class scores, one after the other, each from where those before it led, as far as held-out samples say."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from cofire.correctors import RIDGES
from cofire.errors import InputError
from cofire.keeping import Part, Rows
from cofire.residuals import Sums, added, probabilities
from cofire.scoring import lacking, losses, possible
from cofire.stacking import Paths, Stack, stacked, stacks_of
from cofire.stats import FiringStats
from cofire.steps import Blocks, Whole, corrections, near

__all__ = ["Descent"]

_WORTH = 0.001
"""The share of the held-out log-loss that a correction must take away."""

_LEAST, _HALF = 1e-3, 0.5
"""Of the factor of the model's scores, at least what a fit starts from, as 0 times a score of minus infinity is no number; and
the share of the log-loss of equal shares that a model takes away whose scores are all believed."""


class Descent:
    """A linear correction of a model's class scores: its weights, and what it is worth to held-out samples.

    Args:
        batches: What it is fitted to.
        validation: Held-out samples, which say how far to go.
        stats: The model's statistics.
        seed: Of the folds and of random labels.
        device: Where sums are made.
    """

    def __init__(self, batches: Rows, validation: Rows, stats: FiringStats, seed: int, device: torch.device):
        self.batches, self.validation, self.stats, self.seed, self.device = batches, validation, stats, seed, device
        self.notes: list[str] = []
        """What is to be known of the samples."""
        self.lopsided = False
        """Whether held-out samples lack a class as no random ones would."""
        self.weights: Tensor = torch.empty(0)
        """Of the correction, [1, rows, classes]."""
        self.tried: list[int] = []
        """Places of the ridges by which first corrections were made."""
        self.noise: Tensor = torch.empty(0)
        """Weights of first corrections towards random labels, by ridge, where they are asked for."""

    def run(self, random: bool = False) -> None:
        """All of it, and where asked first corrections towards random labels."""
        self.sum()
        self.first()
        if random:
            slope = self.ways.corrector.slope_at(self.blind())
            self.noise = torch.stack(list(corrections(self.ways.corrector, self.tried, slope).values()))
        self.further()

    def sum(self) -> None:
        """Sums at the model's scores, as far as held-out samples believe them."""
        held = [(part.scores, part.labels) for part in self.validation]
        self.own, self.labels = (torch.cat(parts)[self.validation.first] for parts in zip(*held, strict=True))
        if len(self.labels) < 2:
            raise InputError("there must be at least two held-out samples", f"found {len(self.labels)}")
        self.start, classes, right = self.believed(), self.stats.classes, 0
        self._look_at_labels()
        sums, parts = Sums(self.batches.columns.width, classes, self.device), []
        counts = torch.zeros(classes, dtype=torch.int64)
        for row, scores, labels in self.batches:
            sums.update(row, self.start * scores, labels)
            parts.append(Part(row, scores, labels))
            if sums.summed:
                parts.clear()
            counts += torch.bincount(labels, minlength=classes).cpu()
            right += int((scores.argmax(1) == labels).sum())
        empty = [name for name, count in zip(self.stats.class_names, counts.tolist(), strict=True) if not count]
        if empty:
            raise InputError("batches must hold samples of every class", f"found none of {', '.join(map(repr, empty[:5]))}")
        if right == sums.samples:
            self.notes.append(f"The model is right on all {right:,} samples of batches: there is little left to fit.")
        self.samples = sums.samples
        self.ways = Whole(self.batches, sums) if sums.summed else Blocks(parts, self.start, self.seed)
        self.place = self.ways.first

    def believed(self) -> float:
        """The factor of the model's scores from which to start: of the temperature that held-out samples want, and less where
        the scores take away less than half of the log-loss of equal shares of classes.

        What such a model says is mostly taken back by a correction, which need not start there.
        """
        calm = stacked(self.own, self.labels)
        known = 1 - calm.loss / math.log(self.stats.classes)
        return calm.own * min(1.0, max(_LEAST, known / _HALF))

    def _look_at_labels(self) -> None:
        """Note classes that no held-out sample is of, whether chance would have some, and labels that are ruled out."""
        if impossible := int((~possible(self.own, self.labels)).sum()):
            said = f"The model rules out the class of {impossible:,} held-out samples: they are left out of the log-loss."
            self.notes.append(said)
        missing, self.lopsided = lacking(self.labels, self.stats.class_counts)
        if missing:
            named = ", ".join(self.stats.class_names[place] for place in missing[:5]) + ", ..." * (len(missing) > 5)
            chance = ", though a random choice would have some: nothing is confirmed."
            words = chance if self.lopsided else ": what is done to that class is not judged."
            self.notes.append(f"No held-out sample is of {named}{words}")

    def first(self) -> None:
        """First corrections by the best ridge and its neighbours, and paths along the best of them."""
        found, others, stacks, asked = [], [], [], set()
        while wanted := {*near(self.place)} - asked:
            asked |= wanted
            new = corrections(self.ways.corrector, wanted)
            if not new:
                self.place += not found  # all of them are below the rounding of the sums
                continue
            scores = self.scores_of(torch.stack(list(new.values())))
            fitted = stacks_of(self.own, self.labels, scores, offsets=False)
            stacks += [replace(stack, place=len(stacks) + at) for at, stack in enumerate(fitted)]
            self.tried, found, others = [*self.tried, *new], [*found, *new.values()], [*others, *scores]
            self.place = self.tried[min(stacks, key=lambda stack: stack.loss).place]
        if not found:
            raise InputError("features must be of like size", f"no ridge up to {RIDGES[-1]:g} makes their sums definite")
        self.paths, best = Paths.along_best(self.own, self.labels, others, stacks, seed=self.seed)
        self.best = best.other * torch.stack(found)[best.place]
        if isinstance(self.ways, Blocks):
            self.place = self.calmest(stacks, others)

    def calmest(self, stacks: list[Stack], others: list[Tensor]) -> int:
        """The place of the largest ridge whose log-loss is within a standard error of the lowest.

        Where many steps by one ridge follow, less of each is wanted than of a single one.

        Source:
            Breiman et al. 1984, "Classification and regression trees": the rule of one standard error, here of differences.
        """
        seen, best = possible(self.own, self.labels), min(stacks, key=lambda stack: stack.loss)
        if not seen.any():
            return self.place
        each = [losses(stack(self.own, others), self.labels)[seen] for stack in stacks]
        more = torch.stack(each) - each[best.place]
        alike = more.mean(1) <= more.std(1, correction=0) / len(each[0]) ** 0.5
        return max([self.place, *(place for place, like in zip(self.tried, alike.tolist(), strict=True) if like)])

    def further(self) -> None:
        """More corrections, while the log-loss of samples falls that had no say in how far to go.

        Each goes along new steps and the last change at once.
        """
        best, change, idle = self.best, None, 0
        for _ in range(self.ways.most):
            before, steps = self.paths.loss, self.ways.further(self.paths.whole.own, best, self.place)
            if steps:  # else all of these ridges are below the rounding of the sums
                along = torch.stack([*steps.values(), *([] if change is None else [change])])
                paths, factors = self.paths.along(self.scores_of(along))
                if paths.loss < before:
                    far = factors[2 : 2 + len(steps)].abs() * along[: len(steps)].flatten(1).norm(dim=1)
                    self.place = list(steps)[int(far.argmax())]
                    change = (factors[1] - 1) * best + torch.tensordot(factors[2:], along, 1)
                    best, self.paths = best + change, paths
            idle = 0 if self.paths.loss < (1 - _WORTH) * before else idle + 1
            if idle == self.ways.patience:
                break
        self.weights = best[None]

    def scores_of(self, weights: Tensor) -> list[Tensor]:
        """What the weights of each of several corrections add to the scores of the different held-out samples."""
        found = [added(row, weights) for row, _, _ in self.validation]
        return [torch.cat(parts)[self.validation.first] for parts in zip(*found, strict=True)]

    def blind(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """By batch, of what first corrections were made of: features, probabilities at the first scores, and random labels."""
        lots, shares = torch.Generator().manual_seed(self.seed), self.stats.class_counts.double() / self.stats.samples
        for row, scores, labels in self.ways.parts:
            drawn = torch.multinomial(shares, len(row), replacement=True, generator=lots).to(labels)
            yield row, probabilities(self.start * scores), drawn
