"""Every error that cofire raises: what was wanted, what was found, what to do."""

from numbers import Integral
from typing import Any

__all__ = [
    "ActivationError",
    "CofireError",
    "CofireWarning",
    "DataError",
    "FileError",
    "InputError",
    "LayerError",
    "MergeError",
    "ModelError",
    "WeightsError",
    "checked_count",
    "checked_seed",
]


class CofireError(Exception):
    """Base of all errors of this package.

    Args:
        wanted: What was expected, or which rule was broken.
        found: What was there instead, with its values.
        remedy: What the reader can do about it.
    """

    def __init__(self, wanted: str, found: str = "", remedy: str = ""):
        self.wanted, self.found, self.remedy = wanted, found, remedy
        sentence = f"{wanted}; {found}" if found else wanted
        super().__init__(f"{sentence}. {remedy}" if remedy else f"{sentence}.")

    def __reduce__(self):
        return type(self), (self.wanted, self.found, self.remedy)


class InputError(CofireError, ValueError):
    """An argument, a batch or its labels are not what they should be."""


class LayerError(CofireError, LookupError):
    """A layer that does not exist, or that was never called."""


class ModelError(CofireError, TypeError):
    """A model that cannot be watched, built or loaded."""


class ActivationError(CofireError, ArithmeticError):
    """Activations that are not finite numbers."""


class MergeError(CofireError, ValueError):
    """Statistics that do not belong together."""


class FileError(CofireError, OSError):
    """A file that cannot be read or written."""


class WeightsError(CofireError, ValueError):
    """Weights that do not fit the model, or that come in a format that is never read (pickle)."""


class DataError(CofireError, LookupError):
    """A data set that is unknown or not where it was looked for."""


class CofireWarning(UserWarning):
    """Something that changes the meaning of a result without stopping it."""


def checked_count(value: Any, name: str) -> int:
    """A whole number of at least 1.

    Raises:
        InputError: It is none.

    >>> checked_count(3, "seeds")
    3
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1", f"found {value!r}")
    return int(value)


def checked_seed(seed: Any) -> int:
    """A seed as a plain number.

    Raises:
        InputError: It is no whole number that every generator takes.

    >>> checked_seed(3)
    3
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise InputError("seed must be a whole number from 0 to 4,294,967,295", f"found {seed!r}")
    return int(seed)
