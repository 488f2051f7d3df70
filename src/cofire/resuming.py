"""The state of a long run in a file, so that a run that was stopped goes on where it was."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from cofire import storage
from cofire.errors import FileError, InputError

__all__ = ["Resumable"]


class Resumable:
    """Sums that are written now and then, for one run and no other.

    Args:
        path: The file; None keeps nothing.
    """

    def __init__(self, path: str | Path | None):
        self.path = None if path is None else Path(path)
        self.run = ""

    def of(self, run: dict[str, Any]) -> None:
        """Say what the run is, in plain values; a file of another run will be refused."""
        self.run = hashlib.sha256(json.dumps(run, sort_keys=True, default=list).encode()).hexdigest()

    def begin(self, empty: dict[str, Tensor]) -> tuple[dict[str, Tensor], int]:
        """The sums and the number of batches in them, from the file if there is one.

        Raises:
            InputError: The file is of another run.
            FileError: It cannot be read.
        """
        if self.path is None or not self.path.exists():
            return empty, 0
        tensors, header = storage.read(self.path)
        if header.get("run") != self.run:
            raise InputError(
                "a run is resumed from its own file", f"{str(self.path)!r} is of another run, or the model has changed",
                "Name another file, or remove it.",
            )  # fmt: skip
        if tensors.keys() != empty.keys():
            raise FileError("wanted the state of a run", f"{str(self.path)!r} holds {', '.join(tensors)}", "Remove it.")
        return tensors, int(header["batches"])

    def keep(self, sums: dict[str, Tensor], batches: int) -> None:
        """Write the sums of so many batches."""
        if self.path is not None:
            storage.write(self.path, sums, {"run": self.run, "batches": batches})

    def done(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
