"""The record of a training and its checkpoints on the disk: what is kept, and what a training goes on from."""

import json
import math
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from cofire.errors import FileError, InputError
from cofire.files import atomic, sweep
from cofire.weights import digest, load_weights, save_weights

if TYPE_CHECKING:
    import pandas

__all__ = ["History", "checkpoint_files", "keep", "resume", "settings_in", "start_anew"]

_FORMAT = 1
_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)
_CHECKPOINT = re.compile(r"epoch-(\d{3,})\.safetensors")


@final
@dataclass
class History:
    """What each epoch of a training gave; all lists have one entry per epoch.

    Attributes:
        epochs: 0 for the untrained net, then 1, 2, ...
        train_loss: Mean loss while the epoch trained (dropout on, weights moving); NaN at 0.
        train_accuracy: Likewise, the share of samples that were right.
        test_accuracy: Of the epoch's last weights in eval mode; NaN without test data.
        seconds: The epoch's time, its test included.
    """

    epochs: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    train_accuracy: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def frame(self) -> "pandas.DataFrame":
        """A pandas frame with a row per epoch.

        Example:
            >>> list(History([0], [math.nan], [math.nan], [0.1], [0.5]).frame())
            ['epochs', 'train_loss', 'train_accuracy', 'test_accuracy', 'seconds']
        """
        import pandas

        return pandas.DataFrame(asdict(self))

    def to_json(self) -> str:
        """The lists as JSON, NaN as null."""
        plain = {name: [None if value != value else value for value in values] for name, values in asdict(self).items()}
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> "History":
        """The history that `to_json` wrote.

        Example:
            >>> History.from_json(History([0], [0.5], [0.5], [0.1], [0.5]).to_json()).epochs
            [0]
        """
        lists: dict[str, Any] = json.loads(text)
        for name, values in lists.items():
            lists[name] = [math.nan if value is None else value for value in values]
        return cls(**lists)

    def add(self, epoch: int, loss: float, accuracy: float, test: float, seconds: float) -> None:
        """Append one epoch."""
        for values, value in zip(vars(self).values(), (epoch, loss, accuracy, test, seconds), strict=True):
            values.append(value)

    def until(self, epoch: int) -> "History":
        """The history up to and with this epoch."""
        return History(**{name: values[: epoch + 1] for name, values in asdict(self).items()})


def checkpoint_files(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The checkpoints that `fit` kept in a folder: epoch to file, in order.

    Example:
        >>> checkpoint_files("no such folder")
        {}
    """
    found = ((_CHECKPOINT.fullmatch(path.name), path) for path in Path(folder).glob("epoch-*.safetensors"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def keep(folder: Path, model: nn.Module, optimizer: optim.Optimizer, settings: dict[str, Any], history: History) -> None:
    """Write the last epoch's checkpoint, then the state to go on from, then `history.json`.

    In that order, each whole or not at all: the state on the disk always belongs to a checkpoint that is there.

    Raises:
        FileError: A file cannot be written.
    """
    epoch = history.epochs[-1]
    save_weights(model, _path(folder, epoch), {"epoch": epoch})
    tensors = {
        f"{index}.{name}": value.contiguous()
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }
    content = {"format": _FORMAT, "settings": settings, "history": history.to_json(), "weights": digest(model)}
    with atomic(folder / "state.safetensors") as temporary:
        save_file(tensors, str(temporary), metadata={"cofire": json.dumps(content)})
    with atomic(folder / "history.json") as temporary:
        temporary.write_text(history.to_json() + "\n", encoding="utf-8")


def resume(folder: Path, model: nn.Module, optimizer: optim.Optimizer, settings: dict[str, Any], epochs: int) -> History:
    """Fill model and optimizer from a folder's state.

    Args:
        folder: Where `keep` wrote; without a state there nothing is changed.
        model: Gets the weights of the state's epoch, or of `epochs` if the state is already past it.
        optimizer: Gets the moments.
        settings: Must be those of the state.
        epochs: How many the training is to have.

    Returns:
        The history so far, empty without a state.

    Raises:
        InputError: The state has other settings, or is past `epochs` and that checkpoint was not kept.
        FileError: The state or its checkpoint is damaged or does not belong to the other.
    """
    sweep(folder)
    path = folder / "state.safetensors"
    if not path.exists():
        return History()
    try:
        with safe_open(str(path), framework="pt") as file:
            content = json.loads(file.metadata()["cofire"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except _UNREADABLE as error:
        raise FileError(f"{path} could not be read", f"{error}", "Pass resume=False to start anew.") from error
    settings = json.loads(json.dumps(settings))  # tuples become lists, as they did in the file
    for name, value in settings.items():
        before = content["settings"].get(name)
        if before != value:
            raise InputError(
                f"the checkpoints in {folder} were made with {name}={before}",
                f"found {name}={value}",
                "Name another folder, or pass resume=False to remove them and start anew.",
            )
    history = History.from_json(content["history"])
    epoch = history.epochs[-1]
    if epoch > epochs and not _path(folder, epochs).exists():
        raise InputError(f"the training in {folder} has {epoch} epochs", f"{epochs} were wanted", "Ask for as many.")
    load_weights(model, _path(folder, min(epoch, epochs)))
    if epoch <= epochs and digest(model) != content["weights"]:
        raise FileError(
            f"{path} belongs to other weights than {_path(folder, epoch).name}", "", "Pass resume=False to start anew."
        )
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, kind = name.partition(".")
        moments.setdefault(int(index), {})[kind] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return history.until(epochs)


def settings_in(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings of the training that `fit` keeps in a folder: its seed, the digest of its data, ...; empty without one.

    Example:
        >>> settings_in("no such folder")
        {}
    """
    try:
        with safe_open(str(Path(folder) / "state.safetensors"), framework="pt") as file:
            return json.loads(file.metadata()["cofire"])["settings"]
    except _UNREADABLE:
        return {}


def start_anew(folder: Path) -> None:
    """Remove the state first, then the checkpoints and the history, and nothing else, from a folder.

    Raises:
        FileError: One cannot be removed.
    """
    sweep(folder)
    try:
        for path in (folder / "state.safetensors", *checkpoint_files(folder).values(), folder / "history.json"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"old checkpoints in {folder} could not be removed", f"{error}") from error


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"epoch-{epoch:03d}.safetensors"
