"""Streaming kernels: class-wise moments, exact histograms and the power-of-two sketch, in plain tensor operations.

Three habits make them fast. Every intermediate goes to a reused buffer, because a fresh allocation costs more in page
faults than the arithmetic does. Rows are taken in chunks that stay in the processor's cache. Class-wise sums, minima and
maxima are ``index_add_`` and ``index_reduce_`` over the label, one pass each, with no sort and no one-hot matrix.
"""

import math
import warnings

import torch
from torch import Tensor

__all__ = ["SKETCH_BINS", "Moments", "Rows", "Sketch", "Workspace", "add_histogram", "bin_index", "bin_scale", "refine"]

SKETCH_BINS = 1024
"""Bins of the sketch: its range doubles by powers of two, so that two sketches always have a common grid."""

_BLOCK = 1 << 21  # values in a block of rows
_CHUNK = 1 << 18  # elements handled at once: more would leave the cache, fewer would go on calls
_FLUSH = 1 << 23  # rows after which float32 counts move to int64, well before they stop being exact at 2**24
_LOWEST_EXPONENT = -100  # 2**(10 + 100) is still a float32; smaller activations share the first bin

with warnings.catch_warnings():  # index_reduce_ announces its beta state once per process; it is tested here
    warnings.simplefilter("ignore", UserWarning)
    torch.zeros(1).index_reduce_(0, torch.zeros(1, dtype=torch.long), torch.zeros(1), "amax")


class Workspace:
    """Scratch buffers of one device, grown on demand and reused by every call."""

    def __init__(self, device: torch.device):
        self.device = device
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor of this shape, valid until the next request of the same name."""
        size = math.prod(shape)
        held = self._buffers.get((name, dtype))
        if held is None or held.numel() < size:
            held = self._buffers[name, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return held[:size].view(shape)

    def ones(self, size: int) -> Tensor:
        """So many int32 ones (an expanded scalar in their place halves the speed of a scatter)."""
        held = self._buffers.get(("ones", torch.int32))
        if held is None or held.numel() < size:
            held = self._buffers["ones", torch.int32] = torch.ones(size, dtype=torch.int32, device=self.device)
        return held[:size]


def _chunks(values: Tensor) -> tuple[Tensor, ...]:
    rows = max(1, _CHUNK // max(1, values.shape[1]))
    return (values,) if len(values) <= rows else values.split(rows)


class Rows:
    """Collects rows into blocks, large enough that every class has many rows in one and small enough for many layers."""

    def __init__(self, units: int, dtype: torch.dtype, device: torch.device):
        self.rows = min(4096, max(256, _BLOCK // max(1, units)))
        self.shape, self.dtype, self.device = (self.rows, units), dtype, device
        self.filled = 0
        self.renew()

    def renew(self) -> None:
        """Start on fresh memory, leaving the last block to whoever keeps it."""
        self.values = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        self.labels = torch.empty(self.rows, dtype=torch.int64, device=self.device)

    def append(self, values: Tensor, labels: Tensor):
        """Take rows; yields a block whenever one is full."""
        start = 0
        while start < len(values):
            count = min(len(values) - start, self.rows - self.filled)
            self.values[self.filled : self.filled + count] = values[start : start + count]
            self.labels[self.filled : self.filled + count] = labels[start : start + count]
            self.filled, start = self.filled + count, start + count
            if self.filled == self.rows:
                yield self.rest()

    def rest(self) -> tuple[Tensor, Tensor]:
        """The block as far as it is filled."""
        count, self.filled = self.filled, 0
        return self.values[:count], self.labels[:count]


class Moments:
    """Firing counts, sums, sums of squares and the range of non-zero values, class by class.

    Counts are exact integers and the range is exact, so neither depends on how the samples were batched; sums are float64.

    Args:
        classes: Number of classes.
        units: Number of units.
        threshold: A unit fires where its value is larger than this.
        dtype: float32 or float64, that of the values.
        by_class: Keep the range of every class, not only that of all samples.
        work: Scratch buffers; its device is the device of all state.
    """

    def __init__(self, classes: int, units: int, threshold: float, dtype: torch.dtype, by_class: bool, work: Workspace):
        device, ranges = work.device, classes if by_class else 1
        self.threshold, self.by_class, self.work = threshold, by_class, work
        self.fire = torch.zeros(classes, units, dtype=torch.int64, device=device)
        self.zeros = torch.zeros_like(self.fire)
        self.sum = torch.zeros(classes, units, dtype=torch.float64, device=device)
        self.square_sum = torch.zeros_like(self.sum)
        self.lowest = torch.full((ranges, units), torch.inf, dtype=dtype, device=device)
        self.highest = torch.full((ranges, units), -torch.inf, dtype=dtype, device=device)
        self._bits = torch.int32 if dtype == torch.float32 else torch.int64
        self._top = torch.iinfo(self._bits).max
        self.least_positive = torch.full((ranges, units), self._top, dtype=self._bits, device=device)
        self.least_negative = torch.full_like(self.least_positive, self._top)
        self._pending = torch.zeros(2, classes, units, dtype=torch.float32, device=device)
        self._pending_rows = 0

    def update(self, values: Tensor, labels: Tensor) -> None:
        """Add samples: values [samples, units] of the declared dtype, labels [samples] int64, both on the device."""
        start = 0
        for chunk in _chunks(values):
            self._update(chunk, labels[start : start + len(chunk)])
            start += len(chunk)
        self._pending_rows += len(values)
        if self._pending_rows >= _FLUSH:
            self._flush()

    def _update(self, values: Tensor, labels: Tensor) -> None:
        shape, work = tuple(values.shape), self.work
        groups = labels if self.by_class else torch.zeros_like(labels)
        self.lowest.index_reduce_(0, groups, values, "amin")
        self.highest.index_reduce_(0, groups, values, "amax")
        # On a device, the look itself would cost a sync; where there is a NaN, the answer is no.
        unsigned = values.device.type == "cpu" and bool(self.lowest.amin() >= 0)
        flags = work.buffer("flags", shape, torch.float32)
        fire, zeros = work.buffer("counts", self._pending.shape, torch.float32).zero_()
        fire.index_add_(0, labels, torch.gt(values, self.threshold, out=flags))
        if unsigned and self.threshold == 0:  # what does not fire is zero
            torch.sub(torch.bincount(labels, minlength=len(fire))[:, None], fire, out=zeros)
        else:
            zeros.index_add_(0, labels, torch.eq(values, 0, out=flags))
        self._pending[0] += fire
        self._pending[1] += zeros
        wide = work.buffer("wide", shape, torch.float64).copy_(values)
        self.sum.index_add_(0, labels, wide)
        self.square_sum.index_add_(0, labels, wide.square_())
        # The bit pattern of a positive float, read as an integer and shifted so that zero becomes the largest integer,
        # has its minimum at the smallest positive value; the same for negative values with another shift.
        bits, shifted = values.view(self._bits), work.buffer("bits", shape, self._bits)
        self.least_positive.index_reduce_(0, groups, torch.add(bits, self._top, out=shifted), "amin")
        if not unsigned:
            self.least_negative.index_reduce_(0, groups, torch.sub(bits, 1, out=shifted), "amin")

    def _flush(self) -> None:
        self.fire += self._pending[0].long()
        self.zeros += self._pending[1].long()
        self._pending.zero_()
        self._pending_rows = 0

    def nonzero_range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest non-zero value, each [classes or 1, units]; inf and -inf where there is none."""
        inf = torch.full((), torch.inf, dtype=self.lowest.dtype, device=self.lowest.device)
        # Undo the shifts; patterns outside the finite positive (negative) floats mean that none was seen.
        positive = torch.where(self.least_positive < -1, self.least_positive - self._top, 0).view(inf.dtype)
        negative = torch.where(self.least_negative < -1, self.least_negative + 1, 0).view(inf.dtype)
        low = torch.where(self.lowest < 0, self.lowest, torch.where(positive > 0, positive, inf))
        high = torch.where(self.highest > 0, self.highest, torch.where(negative < 0, negative, -inf))
        return low, high

    def largest(self) -> Tensor:
        """Largest absolute value seen so far, [units]; 0 before the first sample."""
        return torch.maximum(-self.lowest.amin(0), self.highest.amax(0)).clamp_(min=0)

    def tensors(self) -> dict[str, Tensor]:
        """All state, in the very tensors that :meth:`update` changes."""
        self._flush()
        names = "fire", "zeros", "sum", "square_sum", "lowest", "highest", "least_positive", "least_negative"
        return {name: getattr(self, name) for name in names}

    def state(self) -> dict[str, Tensor]:
        """The accumulated fields: fire, zeros, sum, square_sum, low, high."""
        self._flush()
        low, high = self.nonzero_range()
        return {
            "fire": self.fire,
            "zeros": self.zeros,
            "sum": self.sum,
            "square_sum": self.square_sum,
            "low": low,
            "high": high,
        }


def refine(bins: int) -> int:
    """Sub-bins kept for a histogram of so many bins: 600 where they nest (10, 30, 100, ...), else a near multiple."""
    return 600 if 600 % bins == 0 else bins * max(1, round(600 / bins))


def bin_scale(low: Tensor, high: Tensor, bins: int) -> Tensor:
    """Bins per unit of value, float64; 0 where the range is empty or a single value, so that all falls in the first bin.

    The last factor lifts a value that lies exactly on an edge over the rounding error of the product, so that bins are
    closed on the left as in exact arithmetic. Only a value within about one part in 2**49 below an edge counts as on it.
    """
    width = high.double() - low.double()
    return torch.where((width > 0) & width.isfinite(), bins / width * (1 + 2.0**-50), 0.0).nan_to_num_(0.0, 0.0, 0.0)


def bin_index(values: Tensor, low: Tensor, scale: Tensor, bins: int, work: Workspace) -> Tensor:
    """Bin of every value, int32, in a scratch buffer; values outside the range go to the first or last bin."""
    shape = tuple(values.shape)
    wide = work.buffer("wide", shape, torch.float64).copy_(values)
    wide.sub_(low).mul_(scale).clamp_(0, bins - 1)
    return work.buffer("bin", shape, torch.int32).copy_(wide)


def add_histogram(counts: Tensor, values: Tensor, low: Tensor, scale: Tensor, work: Workspace) -> None:
    """Count values into ``counts``, zeros included.

    Args:
        counts: [bins, units] int32, contiguous, changed in place.
        values: [samples, units].
        low: Lower end of the range, float64 [units].
        scale: Bins per unit of value from :func:`bin_scale`, float64 [units].
        work: Scratch buffers.
    """
    bins, units = counts.shape
    columns = torch.arange(units, dtype=torch.int32, device=counts.device)
    low = torch.where(low.isfinite(), low, 0.0)
    for chunk in _chunks(values):
        index = bin_index(chunk, low, scale, bins, work)
        torch.add(columns, index, alpha=units, out=index)
        place = work.buffer("place", tuple(chunk.shape), torch.int64).copy_(index).view(-1)
        counts.view(-1).scatter_add_(0, place, work.ones(len(place)))


class Sketch:
    """A histogram whose range need not be known: 1,024 equal bins over [0, 2**e) or, with negative values, [-2**e, 2**e).

    ``e`` is the smallest integer that holds every value of the unit. Growing it folds neighbouring bins, which loses
    nothing that a merge would need: the counts are those of a single pass at the final ``e``, whatever the order.
    """

    def __init__(self, units: int, work: Workspace):
        self.work = work
        self.counts = torch.zeros(SKETCH_BINS, units, dtype=torch.int32, device=work.device)
        self.exponent = torch.full((units,), _LOWEST_EXPONENT, dtype=torch.int32, device=work.device)
        self.signed = torch.zeros(units, dtype=torch.bool, device=work.device)
        self._filled = False

    def widen(self, exponent: Tensor, signed: Tensor) -> None:
        """Make room for values below 2**exponent [units] in size, and for negative ones where signed [units]."""
        exponent = torch.maximum(exponent.to(torch.int32), self.exponent)
        steps, fresh = exponent - self.exponent, signed & ~self.signed
        if self._filled:
            for step in steps.unique().tolist():
                if step:
                    self._fold(step, (steps == step) & ~self.signed, 0)
                    self._fold(step, (steps == step) & self.signed, SKETCH_BINS // 2)
            self._fold(1, fresh, 0, SKETCH_BINS // 2)
        self.exponent, self.signed = exponent, self.signed | signed

    def _fold(self, step: int, where: Tensor, zero: int, new_zero: int | None = None) -> None:
        """Join 2**step neighbouring bins of the chosen units, whose value 0 lies at bin ``zero`` and goes to ``new_zero``."""
        chosen = where.nonzero()[:, 0]
        if not len(chosen):
            return
        width = 1 << min(step, 9 if zero else 10)  # negative and positive values never share a bin
        joined = self.counts[:, chosen].view(SKETCH_BINS // width, width, -1).sum(1, dtype=torch.int32)
        first = (zero if new_zero is None else new_zero) - zero // width
        folded = torch.zeros(SKETCH_BINS, len(chosen), dtype=torch.int32, device=self.counts.device)
        folded[first : first + len(joined)] = joined
        self.counts[:, chosen] = folded

    def update(self, values: Tensor, moments: Moments) -> None:
        """Add values [samples, units] that ``moments`` has already seen (it knows their range)."""
        largest, signed = moments.largest(), moments.lowest.amin(0) < 0
        exponent = torch.where(largest > 0, torch.frexp(largest).exponent, _LOWEST_EXPONENT)
        if bool((exponent > self.exponent).any()) or bool((signed & ~self.signed).any()):
            self.widen(exponent, signed)
        self._filled = True
        bins, units = self.counts.shape
        scale = torch.ldexp(torch.ones_like(moments.lowest[0]), 10 - self.signed.int() - self.exponent)
        shift = self.signed.int() * (bins // 2 * units) + torch.arange(units, dtype=torch.int32, device=scale.device)
        any_signed = bool(self.signed.any())
        for chunk in _chunks(values):
            shape = tuple(chunk.shape)
            scaled = torch.mul(chunk, scale, out=self.work.buffer("scaled", shape, chunk.dtype))
            if any_signed:
                scaled.floor_()
            index = self.work.buffer("bin", shape, torch.int32).copy_(scaled).mul_(units).add_(shift)
            place = self.work.buffer("place", shape, torch.int64).copy_(index)
            self.counts.view(-1).scatter_add_(0, place.view(-1), self.work.ones(place.numel()))

    def add(self, counts: Tensor, exponent: Tensor, signed: Tensor) -> None:
        """Add another sketch's counts [1024, units] on its own grid; both end on the common grid."""
        other = Sketch(counts.shape[1], self.work)
        other.counts, other.exponent, other.signed, other._filled = (
            counts.clone(),
            exponent.clone(),
            signed.clone(),
            True,
        )
        self._filled = True
        common, either = torch.maximum(self.exponent, exponent), self.signed | signed
        self.widen(common, either)
        other.widen(common, either)
        self.counts += other.counts

    def tensors(self) -> dict[str, Tensor]:
        """All state, in the very tensors that :meth:`update` changes."""
        self._filled = True  # whoever fills them from elsewhere need not say so
        return {"sketch": self.counts, "sketch_exponent": self.exponent, "sketch_signed": self.signed}

    def zero_bin(self) -> Tensor:
        """Bin in which the value 0 falls, [units] int64."""
        return self.signed.long() * (SKETCH_BINS // 2)
