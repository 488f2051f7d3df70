"""Options that name what a command writes: what cannot be written, or would be lost, is said before the work."""

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

__all__ = ["GRAPHS", "PAGES", "PICTURES", "TABLES", "Application", "output"]

_KEY = "cofire.outputs"

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
                raise InputError(f"--{parameter.name} names a file that ends in {wanted}", f"found {str(path)!r}")
            check_place(path, folder=folder)
            name, places = f"--{str(parameter.name).replace('_', '-')}", context.meta.setdefault(_KEY, [])
            if not folder:
                places.append((name, path))
            if endings == PAGES:
                places.append((f"the numbers of {name}", path.with_suffix(".json")))
        return path

    return typer.Option(*names, help=help, callback=checked)


class Command(TyperCommand):
    """A command that writes no file over another of its own files."""

    def invoke(self, ctx: Any) -> Any:
        """Run it, once all of its files are seen to be different ones."""
        from cofire.errors import InputError

        outputs = ctx.meta.get(_KEY, [])
        written = {name for name, _ in outputs}
        given = [(f"--{name.replace('_', '-')}", value) for name, value in ctx.params.items()]
        read = [(name, path) for name, value in given if name not in written for path in _paths(value)]
        for at, (name, path) in enumerate(outputs):
            for other, place in (*outputs[:at], *read):
                if path.resolve() == place.resolve():
                    found = f"{name} and {other} are both {str(path)!r}"
                    raise InputError("what a command reads and writes are different files", found, "Name another file.")
        return super().invoke(ctx)


class Application(typer.Typer):
    """An application of such commands."""

    def command(self, *given, **named):
        """As that of Typer."""
        return super().command(*given, **{"cls": Command, **named})


def _paths(value) -> list[Path]:
    return [path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path)]
