"""Options that name what a command writes: a place that cannot be written is said before the work, not after it."""

from pathlib import Path

import typer
from typer.models import OptionInfo

__all__ = ["GRAPHS", "PAGES", "PICTURES", "TABLES", "output"]

TABLES = (".csv", ".json", ".parquet")
"""Endings of tables, as :func:`cofire.export.write_frame` knows them."""

PAGES = (".html", ".htm")
"""Of reports."""

PICTURES = (".pdf", ".svg", ".png")
"""Of figures, as :func:`cofire.plots.save` knows them."""

GRAPHS = (".gexf", ".graphml")
"""Of graphs, as :func:`cofire.export.write_graph` knows them."""


def output(*names: str, help: str, endings: tuple[str, ...] = (), folder: bool = False) -> OptionInfo:
    """An option that names a file, or a folder, to write.

    Args:
        names: Of the option; by default that of the parameter.
        help: Its help.
        endings: What the file's name may end in; by default anything.
        folder: Whether it is a folder.
    """

    def checked(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
        if path is not None and not context.resilient_parsing:
            from cofire.errors import InputError
            from cofire.files import check_place

            if endings and path.suffix.lower() not in endings:
                wanted = " or ".join([", ".join(endings[:-1]), endings[-1]])
                raise InputError(f"{max(parameter.opts, key=len)} names a file that ends in {wanted}", f"found {str(path)!r}")
            check_place(path, folder=folder)
        return path

    return typer.Option(*names, help=help, callback=checked)
