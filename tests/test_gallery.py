"""Every script of docs/gallery runs in an empty folder, prints something, and writes the files that it says it writes."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "docs" / "gallery").glob("*.py"))


def promised(docstring: str) -> list[str] | None:
    """The files named, in backticks, on the line `Writes: ...`; None if there is no such line."""
    line = re.search(r"^Writes:(.*(?:\n.+)*)", docstring, re.M)
    return re.findall(r"`+([^`]+)`+", line.group(1)) if line else None


@pytest.mark.skipif(not SCRIPTS, reason="docs/gallery holds no script")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_does_what_it_says(script, tmp_path):
    files = promised(ast.get_docstring(ast.parse(script.read_text("utf8"))) or "")
    assert files is not None, "add a line 'Writes: `file`.' (or 'Writes: nothing.') to its docstring"

    environment = {**os.environ, "COFIRE_GALLERY_FAST": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert [name for name in files if not (tmp_path / name).is_file() or not (tmp_path / name).stat().st_size] == []


def test_the_promise_is_read():
    assert promised("Title.\n\nWrites: `a.svg` and\n``b.html``.\n\nSee `c.txt`.") == ["a.svg", "b.html"]
    assert promised("Title.\n\nWrites: nothing.") == []
    assert promised("Title.") is None
