"""Small picture files in every layout, for the tests of what reads them."""

import gzip
import io
import tarfile

import numpy as np
import torch
from PIL import Image

from cofire.data import Images


def png(value: int, side=(8, 8), mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(side, value, np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def tar_of(path, files: dict[str, bytes]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder_of(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def idx_of(path, values: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def cifar_of(root, side=(8, 8)):
    """A root whose CIFAR-10 archive has three classes, in two splits."""
    names = {"test": 2, "train": 5}
    files = {
        f"{split}/{name}/{index}.png": png(40 * place + index + 7 * (split == "test"), side)
        for split, count in names.items()
        for place, name in enumerate(("cat", "dog", "ship"))
        for index in range(count)
    }
    return tar_of(root / "cifar10" / "cifar10-jpg95.tar.gz", files)


def counts(images: Images) -> list[int]:
    return torch.bincount(images.labels, minlength=len(images.classes)).tolist()


def same(one: Images, other: Images) -> bool:
    return (one.digest, one.classes, one.shape) == (other.digest, other.classes, other.shape)
