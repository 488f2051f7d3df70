"""Real data sets by name, from what is on the disk."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cofire.archives import (
    Source,
    arrays,
    digits,
    folder_files,
    huggingface,
    image_folder,
    image_tar,
    read_idx,
)
from cofire.errors import DataError, FileError, InputError, checked_seed
from cofire.files import atomic, sweep
from cofire.images import Batches, Images, spread

__all__ = ["Batches", "catalog", "load"]

_SETS = {
    "digits": "8x8 gray digits of scikit-learn: 1,437 train, 360 test; needs no files",
    "mnist": "28x28 gray digits: 60,000 train, 10,000 test",
    "fashion-mnist": "28x28 gray clothing: 60,000 train, 10,000 test",
    "cifar10": "32x32 colour pictures of 10 classes: 50,000 train, 10,000 test",
    "cifar100": "32x32 colour pictures of 100 classes: 50,000 train, 10,000 test",
    "plantvillage": "64x64 colour leaves, 14 plants and diseases: 11,547 train, 2,886 test, 371 ood",
    "plantvillage-crops": "the same leaves by crop, 6 classes",
}
_OPEN = {
    "folder:PATH": "pictures in PATH/<split>/<class>/* or PATH/<class>/*",
    "hf:NAME": "a data set of Hugging Face's hub, or a local folder that its library reads",
}
_CLOTHING = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_TORCHVISION = {
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}
_FORMAT = 1


def catalog() -> dict[str, str]:
    """The names that `load` knows, each with a line about it.

    Example:
        >>> print(catalog()["mnist"])
        28x28 gray digits: 60,000 train, 10,000 test
    """
    return _SETS | _OPEN


def load(
    name: str,
    split: str = "train",
    *,
    root: str | os.PathLike[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    clip: bool = False,
    seed: int = 0,
    shuffle_labels: bool = False,
    cache: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Images:
    """A data set by name.

    Files are looked for under `root`, else the environment's `COFIRE_DATA`, else `./data`: idx files in `mnist/` or
    torchvision's `MNIST/raw/`; `cifar10/cifar10-jpg95.tar.gz` or torchvision's `cifar-10-batches-py/`; and so on.
    An archive is read as it is and never unpacked on the disk.

    Args:
        name: One of `catalog()`.
        split: `train` or `test`; `ood` too for PlantVillage, whose one class there is none of the others and has
            label 0. A folder may have others; one without splits gives all its pictures for any.
        root: The folder that holds the data sets.
        size: Height and width to read the pictures at, see `Images`; needed for folders of differing sizes.
        channels: 1 or 3, see `Images`.
        limit: Take this many, as equally from all classes as they allow, and decode no others.
        clip: Take all where there are fewer than the limit, in place of an error.
        seed: Which ones `limit` takes, and how `shuffle_labels` shuffles.
        shuffle_labels: Shuffle the labels over the pictures (the papers' "Mixed" sets): nothing left to learn.
        cache: A folder in which decoded pictures of archives and folders are kept; None leaves nothing behind.
        download: Let torchvision download MNIST, Fashion-MNIST or CIFAR into `root` first.

    Returns:
        The pictures, in the order of the files.

    Raises:
        DataError: An unknown name or split, or data that is not there; the message says where it was looked for.
        FileError: A file that is truncated, damaged or of another kind.
        InputError: A limit that is not between 1 and the number of pictures, or a bad `size`, `channels` or seed.

    Example:
        >>> load("digits", "test")
        Images(digits test: 360 of 1x8x8, 10 classes)
    """
    seed = checked_seed(seed)
    shape = (size, size) if isinstance(size, int) else size
    files, part, read = _find(name, split, Path(root or os.environ.get("COFIRE_DATA") or "data"), shape, download)
    kept = None
    if cache is not None and files:
        sweep(cache)
        kept = Path(cache) / _cache_name(name, part, files, limit, seed, shape)
    found = None if kept is None else _read_cache(kept)
    if found is None:
        found = _decoded(read(), limit, clip, seed, part)
        if kept is not None:
            _write_cache(kept, *found)
    pixels, labels, classes = found
    if shuffle_labels:
        name += " mixed"
        labels = labels[torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(labels)))]
    return Images(pixels, labels, classes, name, part, shape, channels)


def _decoded(source: Source, limit: int | None, clip: bool, seed: int, part: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    samples = len(source.labels)
    if limit is not None and not (limit >= 1 and (clip or limit <= samples)):
        raise InputError(f"limit is between 1 and the {samples:,} pictures there are in {part}", f"found {limit}")
    chosen = np.arange(samples) if limit is None or limit >= samples else spread(source.labels, limit, seed, equal=True)
    return source.pixels(chosen), torch.from_numpy(source.labels[chosen]), source.classes


def _find(
    name: str, split: str, root: Path, size: tuple[int, int] | None, download: bool
) -> tuple[Sequence[Path], str, Callable[[], Source]]:
    """The files of a data set (none where they need no cache), the name of the part, and what reads it."""
    kind, _, rest = name.partition(":")
    if kind == "folder" and rest:
        place = Path(rest).expanduser()
        _, files, part = folder_files(place, split)
        return files, part, partial(image_folder, place, split, size)
    if kind == "hf" and rest:
        return (), split, partial(huggingface, rest, split, size)
    if name not in _SETS:
        closest = difflib.get_close_matches(name, _SETS, n=1)
        hint = f"closest: {closest[0]!r}" if closest else "known: " + ", ".join(catalog())
        raise DataError(f"no data set named {name!r}", hint, "See cofire.data.catalog().")
    splits = ("train", "test", "ood") if name.startswith("plantvillage") else ("train", "test")
    if split not in splits:
        raise DataError(f"{name} has no split {split!r}", f"it has {', '.join(splits)}")
    if name == "digits":
        return (), split, partial(digits, split)
    if download:
        _download(name, split, root)
    if name.endswith("mnist"):
        return (), split, _find_idx(name, split, root)
    archive = _archive(name, root)
    if archive.is_file() and not (download and _unpacked(name, root)):
        read = partial(image_tar, archive, split)
        return (archive,), split, partial(_crops, read, archive.parent) if name.endswith("-crops") else read
    if name in _TORCHVISION and _unpacked(name, root):
        return (), split, partial(_cifar, name, split, root)
    places = [archive, root / _TORCHVISION[name][1]] if name in _TORCHVISION else [archive]
    raise _absent(name, places)


def _find_idx(name: str, split: str, root: Path) -> Callable[[], Source]:
    stem = "train" if split == "train" else "t10k"
    classes = _CLOTHING if name == "fashion-mnist" else tuple(str(digit) for digit in range(10))
    looked = []
    for folder in (root / name, root / _TORCHVISION[name][1]):
        for end in (".gz", ""):
            images, labels = folder / f"{stem}-images-idx3-ubyte{end}", folder / f"{stem}-labels-idx1-ubyte{end}"
            if images.is_file() and labels.is_file():
                return partial(_idx, images, labels, classes)
            looked.append(images)
    raise _absent(name, looked[::2])


def _idx(images: Path, labels: Path, classes: Sequence[str]) -> Source:
    pixels, marks = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(marks):
        raise FileError(f"{images} and {labels} belong together", f"found {len(pixels)} pictures, {len(marks)} labels")
    return arrays(pixels, marks, classes)


def _archive(name: str, root: Path) -> Path:
    if name.startswith("plantvillage"):
        return root / "plantvillage" / "plantvillage-segmented64-jpg95.tar.gz"
    return root / name / f"{name}-jpg95.tar.gz"


def _unpacked(name: str, root: Path) -> bool:
    return name in _TORCHVISION and (root / _TORCHVISION[name][1]).is_dir()


def _crops(read: Callable[[], Source], folder: Path) -> Source:
    source = read()
    try:
        crops = json.loads((folder / "crops.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"{folder / 'crops.json'} maps class folders to crops", f"{error}") from error
    named = [crops.get(name) for name in source.classes]
    classes = tuple(sorted({crop for crop in named if crop is not None}))
    if not classes:  # out of distribution: none of its plants is among the crops, so they keep their names
        return source
    index = np.array([-1 if crop is None else classes.index(crop) for crop in named])
    labels = index[source.labels]
    inside = np.flatnonzero(labels >= 0)
    return Source(labels[inside], classes, lambda chosen: source.pixels(inside[chosen]))


def _torchvision(name: str, split: str, root: Path, download: bool) -> Any:
    try:
        import torchvision.datasets as sets
    except (ImportError, RuntimeError) as error:
        raise DataError("torchvision is needed for this", f"{error}", "Run: pip install 'cofire[vision]'.") from error
    try:
        return getattr(sets, _TORCHVISION[name][0])(str(root), train=split == "train", download=download)
    except (OSError, RuntimeError) as error:
        raise DataError(f"torchvision could not bring {name} to {root}", f"{error}", "Try again, or remove it.") from error


def _download(name: str, split: str, root: Path) -> None:
    if name not in _TORCHVISION:
        raise (
            _absent(name, [_archive(name, root)])
            if not _archive(name, root).is_file()
            else InputError(f"{name} cannot be downloaded", "its archive is there already", "Leave --download out.")
        )
    _torchvision(name, split, root, download=True)


def _cifar(name: str, split: str, root: Path) -> Source:
    found = _torchvision(name, split, root, download=False)  # its files are pickles: it checks their sums first
    return arrays(found.data, found.targets, found.classes)


def _absent(name: str, places: Sequence[Path]) -> DataError:
    ways = "Put it there, or name the folder that holds it with --data-root (root=) or COFIRE_DATA"
    ways += ", or pass --download (download=True)." if name in _TORCHVISION else "."
    return DataError(f"{name} is not on this disk", "looked for " + " and ".join(str(place) for place in places), ways)


def _cache_name(name: str, part: str, files: Sequence[Path], limit: int | None, seed: int, size: tuple[int, int] | None) -> str:
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    chosen = None if limit is None else (limit, seed)
    resized = size if name.startswith("folder:") else None  # only folders may hold sizes that need it while decoding
    key = hashlib.sha256(json.dumps([_FORMAT, name, part, stamps, chosen, resized]).encode()).hexdigest()[:16]
    slug = re.sub(r"[^a-z0-9]+", "-", Path(name.partition(":")[2] or name).name.lower()).strip("-")
    return f"{slug}-{part}-{key}.safetensors"


def _read_cache(path: Path) -> tuple[Tensor, Tensor, tuple[str, ...]] | None:
    try:
        with safe_open(str(path), framework="pt") as file:
            classes = json.loads(file.metadata()["cofire"])["classes"]
            return file.get_tensor("pixels"), file.get_tensor("labels"), tuple(classes)
    except (OSError, SafetensorError):  # not there yet, or damaged: it is written anew
        return None


def _write_cache(path: Path, pixels: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
    header = {"cofire": json.dumps({"format": _FORMAT, "classes": classes})}
    with atomic(path) as temporary:
        save_file({"pixels": pixels.contiguous(), "labels": labels}, str(temporary), metadata=header)
