"""Writing a file whole or not at all, and clearing what a killed process left behind."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cofire.errors import FileError

__all__ = ["atomic", "check_place", "sweep"]

_TEMPORARY = re.compile(r"\.tmp-(\d+)-[0-9a-f]{8}$")


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path`; what is written there becomes `path` in one step.

    Other processes see the old file or the new one, never a part: the new one is flushed to the disk before it is
    renamed, and is removed when the body fails, `KeyboardInterrupt` included. Missing folders are made.

    Args:
        path: Where the file will be.

    Yields:
        The path to write to, `<name>.tmp-<pid>-<random>` in the same folder.

    Raises:
        FileError: The disk is full, the folder cannot be written, or `path` is a folder.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with atomic(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        os.chmod(temporary, mode)  # a writer with a temporary file of its own may have left it private
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except FileError:
        raise
    except OSError as error:
        raise FileError(
            f"could not write {path}",
            f"{type(error).__name__}: {error.strerror or error}",
            "Free some space there, or name a place that can be written; nothing was left behind.",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def check_place(path: str | os.PathLike[str], folder: bool = False) -> None:
    """Check before long work that its result can be written; nothing is made.

    Args:
        path: Where it will be. Missing folders are no hindrance, since :func:`atomic` makes them.
        folder: Whether it is a folder.

    Raises:
        FileError: A folder where a file is wanted, or a file where a folder is, there or on the way; or no right to write.
    """
    path = Path(path)
    if path.is_dir() and not folder:
        raise FileError("wanted the name of a file to write", f"{str(path)!r} is a folder", "Name a file in it.")
    there = next((place for place in (path, *path.absolute().parents) if place.exists()), path)
    if there.is_file() and (folder or there != path):
        raise FileError(f"could not write {path}", f"{str(there)!r} is a file, where a folder is wanted", "Name another place.")
    if not os.access(there, os.W_OK):
        raise FileError(f"could not write {path}", f"{str(there)!r} cannot be written to", "Name another place.")


def sweep(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files in `folder` whose process is dead.

    Args:
        folder: The folder to look in, not below it. One that does not exist holds nothing to remove.

    Returns:
        The paths that were removed.

    Example:
        >>> sweep("no such folder")
        []
    """
    removed = []
    for path in sorted(Path(folder).glob("*.tmp-*-*")):
        match = _TEMPORARY.search(path.name)
        if match and not _alive(int(match[1]), path):
            with suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def _alive(pid: int, path: Path) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl-C there, so a day without a change has to do
        with suppress(OSError):
            return time.time() - path.stat().st_mtime < 86_400
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's process
        return True
    return True


def _flush_folder(folder: Path) -> None:
    # Without this the rename itself can be lost with the power; Windows has no handle on a folder to flush.
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
