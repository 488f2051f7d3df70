"""The checkpoints of a training: found on the disk, recorded one after the other, and followed; a stopped run goes on."""

import copy
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from re import fullmatch, split

from torch import nn

from cofire.checkpointing import settings_in
from cofire.errors import CofireWarning, FileError, InputError
from cofire.files import sweep
from cofire.images import Batches
from cofire.recording import described, record
from cofire.stats import load
from cofire.trajectories import Trajectory, trajectory
from cofire.weights import digest, load_weights
from cofire.wrappers import device_of

__all__ = ["checkpoint_list", "follow", "followed"]

_AUXILIARY = ("optimizer.", "history.", "rng.")  # what a checkpoint may hold beside the model
_DATA = {"digest": "other pictures or labels", "shape": "another size or other channels", "normalize": "another normalisation"}
_ACCURACY = {"histograms": "none", "cofiring": "none", "covariance": False, "maps": False}


def checkpoint_list(places: Sequence[str | Path], endings: Sequence[str] = (".safetensors",)) -> dict[str, Path]:
    """Checkpoints by name: the files that are named, and those in the folders that are named, in the order of their numbers.

    Of a folder that :func:`cofire.fit` filled these are its epochs; of one with folders inside, as the Trainer of Transformers
    makes them, the ``model.safetensors`` of each. Names are the files' where these differ, else their folders'.

    Args:
        places: Files and folders.
        endings: Of the files to look for in folders: the first of which a folder has any.

    Raises:
        FileError: A folder without any, fewer than three in all, or two of one name.
    """
    files: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            files += _inside(place, endings)
        elif place.exists():
            files.append(place)
        else:
            raise FileError("wanted checkpoints", f"there is no {str(place)!r}")
    if len(files) < 3:
        raise FileError(
            "a trajectory needs at least three checkpoints", f"found {', '.join(map(str, files)) or 'none'}",
            "Name the folder that holds all of one training; its untrained model is one.",
        )  # fmt: skip
    for named in (lambda file: file.stem, lambda file: file.parent.name, lambda file: f"{file.parent.name}-{file.stem}"):
        found = {named(file): file for file in files}
        if len(found) == len(files):
            return found
    raise FileError("checkpoints must have different names", f"found {', '.join(map(str, files))}")


def _inside(folder: Path, endings: Sequence[str]) -> list[Path]:
    by_ending = ([file for file in folder.iterdir() if file.suffix == ending] for ending in endings)
    held = next(filter(None, by_ending), [])
    ours = [file for file in held if fullmatch(r"epoch-\d+\.safetensors", file.name)]  # not the optimiser's state
    found = sorted(ours or held or folder.glob("*/model.safetensors"), key=_natural)
    if not found:
        pickles = sorted(file.name for file in folder.rglob("*") if file.suffix in (".pt", ".pth", ".ckpt", ".bin"))
        also = f"; {pickles[0]!r} is a pickle, which is never opened here: reading one can run any code" if pickles else ""
        raise FileError(
            f"wanted a folder of checkpoints, {' or '.join(endings)} files", f"{str(folder)!r} has none{also}",
            "Write weights with cofire.weights.save_weights(model, path), or safetensors.torch.save_model.",
        )  # fmt: skip
    return found


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part for part in split(r"(\d+)", str(path))]


def follow(
    model: nn.Module, checkpoints: str | Path | Sequence[str | Path], batches: Iterable, folder: str | Path,
    test: Iterable | None = None, say: Callable[[str], object] | None = None,
) -> Trajectory:  # fmt: skip
    """Record every checkpoint of a training, and follow its measures; what was recorded before is not recorded again.

    The statistics of each checkpoint are written to the folder once they are complete. A run that was stopped, at whatever
    point, goes on there, and ends with the same numbers. Where the weights are no longer those of a file, or the data as far
    as the batches say what they hold (those of :class:`cofire.images.Images` do), that checkpoint is recorded again.

    Args:
        model: A model of the checkpoints' architecture; it is left as it is.
        checkpoints: Safetensors files of weights, in order, or a folder of them, see :func:`checkpoint_list`.
        batches: Batches of training data that can be read again and again.
        folder: Where to keep ``NAME.stats``, and those of test data in ``test``; made if it does not exist.
        test: Batches of test data, of which only accuracy is taken.
        say: Told of every checkpoint that is recorded.

    Raises:
        FileError: Fewer than three checkpoints, or files that cannot be read or written.
        WeightsError: Weights that are a pickle, or that do not fit the model.
        InputError: Batches that can be read only once.

    >>> import tempfile, cofire
    >>> digits = cofire.data.load("digits", limit=300)
    >>> net, kept = cofire.zoo.model("fcnn:64-32-10", seed=0), tempfile.mkdtemp()
    >>> _ = cofire.fit(net, digits, epochs=3, checkpoints=f"{kept}/weights", progress=False)
    >>> path = follow(net, f"{kept}/weights", digits.batches(), f"{kept}/stats", say=print)
    recorded epoch-000, 1 of 4
    recorded epoch-001, 2 of 4
    recorded epoch-002, 3 of 4
    recorded epoch-003, 4 of 4
    >>> path.names[-1], path.accuracy[-1] > path.accuracy[0]
    ('epoch-003', np.True_)
    >>> len(follow(net, f"{kept}/weights", digits.batches(), f"{kept}/stats", say=print).names)
    4
    """
    files = checkpoint_list([checkpoints] if isinstance(checkpoints, str | Path) else checkpoints)
    for data in (batches, test):
        if isinstance(data, Iterator):
            raise InputError("every checkpoint reads the batches anew", "found an iterator", "Pass a DataLoader or a list.")
    _compare_training(next(iter(files.values())).parent, batches)
    folder, net = Path(folder), copy.deepcopy(model)
    for at, (name, file) in enumerate(files.items(), 1):
        net = _loaded(net, file)
        recorded = _record(net, batches, folder / f"{name}.stats", {})
        if test is not None:
            recorded |= _record(net, test, folder / "test" / f"{name}.stats", _ACCURACY)
        if recorded and say is not None:
            say(f"recorded {name}, {at} of {len(files)}")
    return followed({name: folder / f"{name}.stats" for name in files}, test is not None)


def followed(files: dict[str, Path], test: bool | None = None) -> Trajectory:
    """The trajectory of statistics files, read one by one.

    Args:
        files: By name, in order.
        test: Whether to read those of test data, of the same names in the folder ``test`` beside them; None if all are there.
    """
    beside = [file.parent / "test" / file.name for file in files.values()]
    if test is None:
        test = all(file.exists() for file in beside)
    return trajectory(map(load, files.values()), map(load, beside) if test else None, list(files))


def _loaded(net: nn.Module, file: Path) -> nn.Module:
    """The model with a checkpoint's weights."""
    if hasattr(net, "from_pretrained") and file.name == "model.safetensors" and (file.parent / "config.json").is_file():
        # Transformers may write other names of tensors than the model has, and only itself can read them.
        return type(net).from_pretrained(file.parent, use_safetensors=True).to(device_of(net))  # type: ignore[operator]
    load_weights(net, file, ignore=_AUXILIARY)
    return net


def _record(net: nn.Module, batches: Iterable, target: Path, choices: dict) -> bool:
    """Record a model unless the target holds its statistics on this data; whether that was needed."""
    sweep(target.parent)
    if target.exists():
        header = load(target).header
        if header.get("model", {}).get("digest") == digest(net) and header.get("data") == described(batches):
            return False
    record(net, batches, **choices).save(target)
    return True


def _compare_training(folder: Path, batches: Iterable) -> None:
    """Warn where the folder's training is known to have had other data, or to have read it otherwise."""
    trained = settings_in(folder).get("train", {})
    if "digest" not in trained or not isinstance(batches, Batches):
        return
    here = {"digest": batches.dataset.digest, "shape": batches.dataset.shape, "normalize": batches.normalize}
    here = json.loads(json.dumps(here))  # as the file gives them back
    odd = [words for key, words in _DATA.items() if trained.get(key) != here[key]]
    if odd:
        warnings.warn(
            f"the training in {folder} had {', '.join(odd)} than these: accuracy is not that on its training data. "
            "Name the data and options that it had, a limit among them.",
            CofireWarning,
            stacklevel=3,
        )
