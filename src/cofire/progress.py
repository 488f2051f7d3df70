"""A progress bar where somebody watches, and silence elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["track", "watched"]

T = TypeVar("T")


def watched(progress: bool | None = True) -> bool:
    """Whether to show progress: asked for, and standard error is a terminal."""
    return progress is not False and sys.stderr.isatty()


def track(items: Iterable[T], what: str, progress: bool | None = True) -> Iterator[T]:
    """The items, with a bar on standard error while they last.

    Args:
        items: Anything iterable; with a length, the bar tells the time that is left.
        what: A word or two on what is being done.
        progress: False for silence; otherwise shown only on a terminal.
    """
    if not watched(progress):
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        for item in items:
            yield item
            bar.advance(task)
