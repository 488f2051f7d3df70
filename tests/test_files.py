"""Files are written whole or not at all, whatever happens in between."""

import os
import subprocess
import sys
import time

import pytest

from cofire.errors import FileError
from cofire.files import atomic, check_place, sweep


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_at_the_end_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "deep" / "a.bin"
    for content in (b"old", b"new"):
        with atomic(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.name.startswith(f"a.bin.tmp-{os.getpid()}-")
            temporary.write_bytes(content)
            assert path.exists() == (content == b"new")
        assert path.read_bytes() == content
    assert names(path.parent) == ["a.bin"]


def write(path, content: bytes | None, fault: BaseException | None = None):
    with atomic(path) as temporary:
        if content is not None:
            temporary.write_bytes(content)
        if fault is not None:
            raise fault


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, fault):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(fault):
        write(path, b"half", fault())
    assert (names(tmp_path), path.read_bytes()) == (["a.bin"], b"old")


def test_the_disks_errors_are_explained(tmp_path):
    with pytest.raises(FileError) as raised:
        write(tmp_path / "a.bin", b"half", OSError(28, "No space left on device"))
    assert str(raised.value) == (
        f"could not write {tmp_path}/a.bin; OSError: No space left on device. Free some space there, or name a place "
        "that can be written; nothing was left behind."
    )
    assert isinstance(raised.value.__cause__, OSError)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path, content, words in (
        ("folder", b"x", "IsADirectoryError"),
        ("file/a.bin", b"x", "could not write"),
        ("forgotten", None, "No such file"),
    ):
        with pytest.raises(FileError, match=words):
            write(tmp_path / path, content)
    assert names(tmp_path) == ["file", "folder"]


def test_a_place_is_checked_without_being_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for path, folder in (("file", False), ("new/deep/a.bin", False), (".", True), ("new/deep", True)):
        check_place(tmp_path / path, folder)
    for path, folder, words in (
        (".", False, "is a folder"),
        ("file", True, "is a file, where a folder is wanted"),
        ("file/deep/a.bin", False, "is a file, where a folder is wanted"),
    ):
        with pytest.raises(FileError, match=words):
            check_place(tmp_path / path, folder)
    assert names(tmp_path) == ["file"]


WRITER = """
import sys, time
from cofire.files import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps such files for a day")
def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "a.bin")], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        (left,) = names(tmp_path)
        assert sweep(tmp_path) == []
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    for name in ("a.bin", "b.tmp-99999999-nothex00", "c.tmp-1-abc"):
        (tmp_path / name).write_bytes(b"mine")
    start = time.monotonic()
    assert sweep(tmp_path) == [tmp_path / left]
    assert time.monotonic() - start < 5
    assert names(tmp_path) == ["a.bin", "b.tmp-99999999-nothex00", "c.tmp-1-abc"]
