"""The command line: one command per job, each with an example in its help."""

import os
import sys
import warnings

import typer

from cofire.cli import boosting, building, looking, removing, reproducing, trusting  # noqa: F401 (each adds its commands)
from cofire.cli.options import app

__all__ = ["app", "run"]


def run() -> None:
    """The ``cofire`` command: errors and warnings of this package are one sentence; an error's exit code is 2, Ctrl-C's 130."""
    from cofire.errors import CofireError, CofireWarning

    usual = warnings.showwarning

    def show(message, category, *place):
        typer.echo(f"cofire: {message}", err=True) if issubclass(category, CofireWarning) else usual(message, category, *place)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            warnings.simplefilter("once", CofireWarning, append=True)  # wherever in a command it is said again
            app()
    except CofireError as error:
        typer.echo(f"cofire: {error}", err=True)
        sys.exit(2)
    except Exception as error:
        notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("cofire: ")]
        if not notes or os.environ.get("COFIRE_TRACEBACK"):
            raise
        typer.echo(f"{notes[0]}: {error}. Set COFIRE_TRACEBACK=1 to see where.", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("cofire: stopped", err=True)
        sys.exit(130)
