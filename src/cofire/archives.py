"""Readers of labelled pictures: idx files, tar.gz archives and folders of images, torchvision, Hugging Face, digits."""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from cofire.errors import DataError, FileError

__all__ = [
    "SPLITS",
    "Source",
    "arrays",
    "digits",
    "folder_files",
    "huggingface",
    "image_folder",
    "image_tar",
    "read_idx",
]

SPLITS = ("train", "test", "val", "valid", "validation", "ood")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_THREADED_FROM = 16_384  # bytes of one file: for small pictures threads only fight over the interpreter's lock
_CHUNK = 64


@final
@dataclass(frozen=True, eq=False)
class Source:
    """What a reader found, before any picture is decoded.

    Attributes:
        labels: Class indices [samples], int64.
        classes: Class names in index order.
        pixels: Gives the pictures of some indices, as [samples, channels, height, width].
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    pixels: Callable[[np.ndarray], Tensor]


def arrays(pixels: np.ndarray, labels: Sequence[int] | np.ndarray, classes: Sequence[str]) -> Source:
    """A source of pictures that are in memory: [samples, height, width] or [samples, height, width, channels]."""
    whole = torch.from_numpy(pixels)
    whole = whole.unsqueeze(1) if whole.ndim == 3 else whole.permute(0, 3, 1, 2)

    def read(indices: np.ndarray) -> Tensor:
        return whole[torch.from_numpy(indices)].contiguous()

    return Source(np.asarray(labels, dtype=np.int64), tuple(classes), read)


def digits(split: str) -> Source:
    """scikit-learn's 1,797 digits of 8x8 pixels from 0 to 1, split 80/20 by class, always the same way."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    found: Any = load_digits()
    train, test = train_test_split(np.arange(len(found.target)), test_size=0.2, random_state=0, stratify=found.target)
    chosen = np.sort(train if split == "train" else test)
    pixels = (found.images[chosen] / 16).astype(np.float32)
    return arrays(pixels, found.target[chosen], [str(digit) for digit in range(10)])


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of bytes, gzipped or not.

    Args:
        path: The file; one whose name ends in `.gz` is decompressed.
        dimensions: 3 for pictures, 1 for labels.

    Returns:
        uint8 array of that many dimensions.

    Raises:
        FileError: The file is truncated, longer than its header says, or no idx file of bytes.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, error) from error
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < 4 + 4 * dimensions:
        found = content[:4].hex(" ") or "an empty file"
        raise _damaged(path, f"an idx file of {dimensions} dimensions starts with 00 00 08 {dimensions:02x}, not {found}")
    shape = np.frombuffer(content, ">u4", dimensions, 4).astype(int)
    wanted = 4 + 4 * dimensions + int(np.prod(shape))
    if len(content) != wanted:
        raise _damaged(path, f"{len(content):,} bytes where its header, {shape.tolist()}, wants {wanted:,}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape).copy()


def image_tar(path: Path, split: str) -> Source:
    """The pictures `<split>/<class>/*` of a tar.gz archive, in the archive's order; nothing is unpacked on the disk.

    Args:
        path: The archive.
        split: Its top folder.

    Raises:
        FileError: The archive is truncated, is none, or holds anything but files and folders.
        DataError: It has no pictures in that folder.
    """
    names, contents, splits = [], [], set()
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    if not member.isreg():
                        raise _damaged(path, f"{member.name} is a link or a device, and only plain files are read")
                    parts = member.name.removeprefix("./").split("/")
                    splits.add(parts[0])
                    if parts[0] == split and len(parts) == 3 and parts[2].lower().endswith(_SUFFIXES):
                        file = archive.extractfile(member)
                        contents.append(file.read() if file else b"")
                        names.append(parts[1])
            while stream.read(1 << 20):  # to the end, where gzip checks length and checksum
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise error if isinstance(error, FileError) else _damaged(path, error) from error
    if not names:
        raise DataError(f"{path} has no split {split!r}", f"it has {', '.join(sorted(splits)) or 'no files'}")
    classes = sorted(set(names))
    index = {name: position for position, name in enumerate(classes)}
    labels = np.array([index[name] for name in names], dtype=np.int64)
    return Source(labels, tuple(classes), lambda indices: _decode([contents[i] for i in indices], str(path), None))


def folder_files(root: Path, split: str) -> tuple[Path, list[Path], str]:
    """Where the classes of a folder are, its pictures in sorted order, and the name of the part they make.

    Args:
        root: Holds `<split>/<class>/*`, or `<class>/*`, which is then every split.
        split: The split.

    Returns:
        The folder of class folders, the pictures, and `split` (or `"all"` for a folder without splits).

    Raises:
        DataError: No such folder or split, or no pictures.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}", "", "Name one that holds <split>/<class>/* or <class>/* after folder:.")
    splits = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and entry.name in SPLITS)
    if splits and not (root / split).is_dir():
        raise DataError(f"{root} has no split {split!r}", f"it has {', '.join(splits)}", "Name one of these as split.")
    place, part = (root / split, split) if (root / split).is_dir() else (root, "all")
    files = sorted(file for file in place.glob("*/*") if file.suffix.lower() in _SUFFIXES and file.is_file())
    if not files:
        raise DataError(
            f"no pictures in {place}", f"looked for <class>/* ending in {' '.join(_SUFFIXES)}", "One folder per class."
        )
    return place, files, part


def image_folder(root: Path, split: str, size: tuple[int, int] | None) -> Source:
    """The pictures of a folder with one folder per class; the classes are numbered as in its `train`, if it has one.

    Args:
        root: As in `folder_files`.
        split: The split.
        size: Height and width for pictures that differ in size: cut to this shape from the middle, then resized.

    Raises:
        DataError: As in `folder_files`, or a class that `train` has not, or differing sizes and no `size`.
        FileError: A picture that cannot be decoded.
    """
    place, files, part = folder_files(root, split)
    train = root / "train"
    own = sorted({file.parent.name for file in files})
    classes = own
    if part in SPLITS and part != "ood" and train.is_dir():
        classes = sorted({file.parent.name for file in train.glob("*/*") if file.suffix.lower() in _SUFFIXES})
        if strange := set(own) - set(classes):
            raise DataError(f"{place} has classes that {train} has not", ", ".join(sorted(strange)), "Rename or move them.")
    index = {name: position for position, name in enumerate(classes)}
    labels = np.array([index[file.parent.name] for file in files], dtype=np.int64)
    return Source(labels, tuple(classes), lambda indices: _decode([files[i] for i in indices], str(place), size))


def huggingface(name: str, split: str, size: tuple[int, int] | None) -> Source:
    """A data set of Hugging Face's hub, or a local folder that `datasets.load_dataset` reads.

    The image column is the first of that type; the labels are the column `label`, else the first of class labels.

    Args:
        name: Its name, or a path.
        split: Its split, in its own words (`validation`).
        size: As in `image_folder`.

    Raises:
        DataError: `datasets` is not installed, the set or split was not found, or it has no images or labels.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError("datasets is needed for hf: names", str(error), "Run: pip install 'cofire[hf]'.") from error
    try:
        found: Any = datasets.load_dataset(name, split=split)
    except Exception as error:  # its errors have many types: connection, hub, value, file
        raise DataError(f"hf:{name} gave no split {split!r}", f"{type(error).__name__}: {error}") from error
    features = found.features
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    marks = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not marks:
        raise DataError(f"hf:{name} needs an image and a class label column", f"it has {dict(features)}")
    image, mark = images[0], "label" if "label" in marks else marks[0]
    coded = found.cast_column(image, datasets.Image(decode=False))
    labels = np.asarray(found[mark], dtype=np.int64)

    def read(indices: np.ndarray) -> Tensor:
        rows = coded.select(indices.tolist())[image]
        return _decode([row["bytes"] or Path(row["path"]) for row in rows], f"hf:{name}", size)

    return Source(labels, tuple(features[mark].names), read)


def _decode(files: Sequence[bytes | Path], place: str, size: tuple[int, int] | None) -> Tensor:
    found = _pictures(files, place, None)
    shapes = {item.shape[:2] for item in found}
    if len(shapes) > 1:
        if size is None:
            few = " and ".join(f"{height}x{width}" for height, width in sorted(shapes)[:2])
            raise DataError(
                f"the pictures of {place} differ in size", f"found {few} (height x width)", "Pass size= to resize them."
            )
        found = _pictures(files, place, size)
    if len({item.ndim for item in found}) > 1:  # some gray, some in colour
        found = [item if item.ndim == 3 else np.repeat(item[..., None], 3, axis=2) for item in found]
    whole = torch.from_numpy(np.stack(found))
    return whole.unsqueeze(1) if whole.ndim == 3 else whole.permute(0, 3, 1, 2).contiguous()


def _pictures(files: Sequence[bytes | Path], place: str, size: tuple[int, int] | None) -> list[np.ndarray]:
    """The decoded pictures; without a size, no more than the first and one that differs from it, if one does."""

    def chunk(start: int) -> list[np.ndarray]:
        return [_picture(file, place, size) for file in files[start : start + _CHUNK]]

    first = files[0]
    large = (len(first) if isinstance(first, bytes) else first.stat().st_size) >= _THREADED_FROM
    found: list[np.ndarray] = []
    with ThreadPoolExecutor(os.cpu_count() if large else 1) as pool:
        for part in pool.map(chunk, range(0, len(files), _CHUNK)):
            found += part
            other = next((item for item in part if item.shape[:2] != found[0].shape[:2]), None)
            if size is None and other is not None:
                pool.shutdown(cancel_futures=True)
                return [found[0], other]
    return found


def _picture(file: bytes | Path, place: str, size: tuple[int, int] | None) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            plain: Image.Image = image
            if image.mode.startswith("I"):  # 16-bit gray, which PIL's own conversion would clip at 255
                plain = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode == "F":
                raise ValueError("a picture of floating point numbers has no known range")
            elif image.mode not in ("L", "RGB"):
                plain = image.convert("L") if image.mode in ("1", "LA") else image.convert("RGBA").convert("RGB")
            if size is not None:
                plain = ImageOps.fit(plain, (size[1], size[0]), Image.Resampling.BILINEAR)
            return np.asarray(plain)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(Path(place) if isinstance(file, bytes) else file, error) from error


def _damaged(path: Path, what: object) -> FileError:
    return FileError(f"{path} could not be read", f"{what}", "Copy or download it again.")
