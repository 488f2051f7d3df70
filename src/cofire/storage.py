"""The statistics file: named tensors and one JSON header in a safetensors container; nothing is ever unpickled."""

import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from cofire.errors import FileError, InputError
from cofire.files import atomic

__all__ = ["FORMAT_VERSION", "is_pickle", "read", "write"]

FORMAT_VERSION = 1
"""Raised when a file can no longer be read by older code. Fields may be added without it."""

_KEY = "cofire"
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save today, and before 1.6


def is_pickle(path: str | Path) -> bool:
    """Whether a file is what ``torch.save`` or ``pickle`` writes, by its first bytes alone.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[2:] == b"\0\0\0\0\0\0{":  # a safetensors header whose length happens to begin as a pickle does
        return False
    return start.startswith(_PICKLES)


def write(path: str | Path, tensors: dict[str, Tensor], header: dict) -> None:
    """Write tensors and a header of plain values; an existing file is replaced only once the new one is complete.

    Raises:
        InputError: Something else in place of a path.
        FileError: The folder does not exist or is not writable, or the disk is full.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("path names a file", f"found {type(path).__name__}")
    text = json.dumps({"format_version": FORMAT_VERSION, **header}, sort_keys=True, ensure_ascii=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(Path(path)) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata={_KEY: text})
        except safetensors.SafetensorError as error:  # its own error for a full disk
            raise FileError(f"could not write {path}", str(error), "Free some space there.") from error


def read(
    path: str | Path, what: str = "a statistics file", made_by: str = "cofire.record(...).save(path)"
) -> tuple[dict[str, Tensor], dict]:
    """The tensors and the header of a file that :func:`write` made.

    Args:
        path: The file.
        what: What is wanted of it, for errors.
        made_by: What makes such a file, likewise.

    Raises:
        InputError: Something else in place of a path.
        FileError: No such file, truncated, not of cofire, or written by a newer version.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError("path names a file", f"found {type(path).__name__}")
    path = Path(path)
    if not path.is_file():
        raise FileError(f"wanted {what}", f"found no file {str(path)!r}", f"Make one with {made_by}.")
    if is_pickle(path):
        raise FileError(
            f"wanted {what} of cofire", f"{str(path)!r} is a pickle, which is never opened here", f"Make one with {made_by}."
        )
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            if not isinstance(header, dict) or not isinstance(header.get("format_version"), int):
                raise FileError(
                    f"wanted {what} of cofire",
                    f"found another safetensors file, {str(path)!r}",
                    "Files that cofire makes carry a 'cofire' header; this may be a file of weights.",
                )
            if header["format_version"] > FORMAT_VERSION:
                raise FileError(
                    f"{str(path)!r} has format version {header['format_version']}",
                    f"this cofire reads up to {FORMAT_VERSION}",
                    "Update cofire: pip install --upgrade cofire.",
                )
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (safetensors.SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(
            f"wanted {what} of cofire",
            f"{str(path)!r} is truncated or of another format ({error})",
            "Make it again, or copy it again from where it was made.",
        ) from error
