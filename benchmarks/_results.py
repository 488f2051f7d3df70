"""Where the numbers of a benchmark go: a JSON file, and the generated part of a page."""

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch

import cofire
from cofire.files import atomic

HERE = Path(__file__).resolve().parent
MARK = "<!-- results -->"
VERSIONS = {"torch": torch.__version__, "cofire": cofire.__version__}


def made(command: str, cores: bool = False) -> dict[str, str]:
    """How, when and where a result was made.

    Args:
        command: Words after ``python benchmarks/``.
        cores: Say how many processors there are, as for timings, in place of the threads that were used.
    """
    count = f"{os.cpu_count()} cores" if cores else f"{torch.get_num_threads()} threads"
    return {
        "command": f"python benchmarks/{command}".rstrip(), "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()} {platform.system()}, {count}",
    }  # fmt: skip


def publish(result: dict, text: str, output: Path | None, name: str, document: str, begin: str = MARK, end: str = "") -> None:
    """Print the page, write the numbers, and put the page into the documents if they are the benchmark's own.

    Args:
        result: The numbers.
        text: The page made of them.
        output: Where the numbers go; None for nowhere.
        name: The benchmark; its own file is ``benchmarks/NAME.json``.
        document: The file in ``docs``.
        begin: The line after which the generated part begins.
        end: The line before which it ends; by default it goes on to the end of the file.
    """
    print(text)
    if output is None:
        return
    with atomic(output) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", "utf8")
    if output == HERE / f"{name}.json":
        path = HERE.parent / "docs" / document
        whole = path.read_text("utf8")
        head = whole[: whole.index(begin) + len(begin)]
        tail = f"\n{whole[whole.index(end) :]}" if end else ""
        with atomic(path) as temporary:
            temporary.write_text(f"{head}\n\n{text}\n{tail}", "utf8")
