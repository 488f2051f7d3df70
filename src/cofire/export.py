"""Statistics in files that other tools open."""

from pathlib import Path

from cofire.errors import InputError
from cofire.files import atomic
from cofire.measures import table
from cofire.stats import FiringStats

__all__ = ["write_units"]


def write_units(stats: FiringStats, path: str | Path) -> None:
    """Write the table of units, by the file's ending: ``.csv``, ``.json`` (records) or ``.parquet`` (needs pyarrow).

    Raises:
        InputError: Another ending.
        FileError: The file cannot be written.
    """
    path, frame = Path(path), table(stats)
    writers = {
        ".csv": lambda temporary: frame.to_csv(temporary, index=False),
        ".json": lambda temporary: frame.to_json(temporary, orient="records", indent=1),
        ".parquet": lambda temporary: frame.to_parquet(temporary, index=False),
    }
    if path.suffix not in writers:
        raise InputError(f"a table of units is written as {', '.join(writers)}", f"found {path.name!r}")
    with atomic(path) as temporary:
        writers[path.suffix](temporary)
