"""Numbers as whole multiples of a decimal step, so that what a page shows is what it stores, to the last digit."""

import base64
import gzip
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Column", "column", "decimals", "encode", "plain"]

_TYPES = {"u1": np.uint8, "u2": np.uint16, "u4": np.uint32, "i1": np.int8, "i2": np.int16, "i4": np.int32}


@dataclass(frozen=True, eq=False)
class Column:
    """An array of numbers, each a whole number divided by ``per``; the type's extreme value stands for "not known".

    Args:
        stored: Whole numbers, little-endian.
        per: A power of ten.
        axes: Axes of the array, such as "units classes".
    """

    stored: np.ndarray
    per: float
    axes: str

    @property
    def missing(self) -> int:
        """The stored value that stands for a number that is not known."""
        info = np.iinfo(self.stored.dtype)
        return int(info.max if info.min == 0 else info.min)

    def header(self, offset: int) -> dict[str, Any]:
        """What a reader of the bytes must know."""
        kind = f"{self.stored.dtype.kind}{self.stored.dtype.itemsize}"
        return {"type": kind, "at": offset, "shape": list(self.stored.shape), "per": self.per, "axes": self.axes}


def column(values: np.ndarray | Tensor, axes: str, per: float = 1) -> Column:
    """Numbers as a column, rounded to the step, in the smallest type that holds them; NaN and infinities are not known.

    >>> made = column(np.array([0.25, 1.0, np.nan]), "units", per=100)
    >>> made.stored.dtype.name, made.stored.tolist(), plain(made)
    ('uint8', [25, 100, 255], [0.25, 1.0, None])
    """
    array = np.asarray(values)
    known = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    whole = np.rint(np.where(known, array, 0) * per).astype(np.int64)
    low, high = (int(whole.min()), int(whole.max())) if whole.size else (0, 0)
    names = ("u1", "u2", "u4") if low >= 0 else ("i1", "i2", "i4")
    kind = next((t for t in names if np.iinfo(_TYPES[t]).min < low + (low >= 0) and high < np.iinfo(_TYPES[t]).max), names[-1])
    info = np.iinfo(_TYPES[kind])
    missing = info.max if low >= 0 else info.min
    stored = np.where(known, np.clip(whole, info.min, info.max), missing)
    return Column(np.ascontiguousarray(stored.astype(np.dtype(_TYPES[kind]).newbyteorder("<"))), per, axes)


def decimals(largest: float, digits: int = 4, most: float = 2e9) -> float:
    """The power of ten that leaves so many significant digits to a number of this size, as long as it fits an integer.

    >>> decimals(0.27), decimals(31.0), decimals(0.0)
    (10000, 100, 1)
    """
    if not math.isfinite(largest) or largest <= 0:
        return 1
    power = digits - 1 - math.floor(math.log10(largest))
    power = min(power, math.floor(math.log10(most / largest)))
    return 10**power if power >= 0 else 1 / 10**-power


def plain(made: Column) -> Any:
    """The numbers of a column as nested lists, None where one is not known."""
    flat = made.stored.ravel()
    values: list[Any] = flat.tolist() if made.per == 1 else (flat.astype(np.float64) / made.per).tolist()
    for index in np.flatnonzero(flat == made.missing).tolist():
        values[index] = None
    for length in reversed(made.stored.shape[1:]):
        values = [values[start : start + length] for start in range(0, len(values), length)] if length else []
    return values


def encode(columns: Mapping[str, Column]) -> tuple[dict[str, dict[str, Any]], str]:
    """All columns as one table of bytes: where each one lies, and the bytes, compressed (gzip), as base64 text."""
    headers, parts, offset = {}, [], 0
    for name, made in columns.items():
        data = made.stored.tobytes()
        headers[name] = made.header(offset)
        padding = -len(data) % 4  # every column starts where a 32-bit array may
        parts.append(data + bytes(padding))
        offset += len(data) + padding
    return headers, base64.b64encode(gzip.compress(b"".join(parts), 9, mtime=0)).decode("ascii")
