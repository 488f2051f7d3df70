"""The command that runs the papers' experiments again: reproduce."""

from pathlib import Path
from typing import Annotated

import typer

from cofire.cli.options import Limit, Root, app, command
from cofire.cli.outputs import output

__all__ = ["reproduce"]


@app.command(
    epilog="Example: cofire reproduce 004 --data-root data --seeds 3. To try it out: cofire reproduce 000-entropy --only mnist "
    "--seeds 1 --epochs 3 --limit 5000 --data-root data"
)
def reproduce(
    recipe: Annotated[str, typer.Argument(help="000-entropy, 000-boost, 001, 002, 004 or memorise.")],
    data_root: Root = None, limit: Limit = None,
    seeds: Annotated[int, typer.Option(help="Trainings of every net.")] = 3,
    epochs: Annotated[int | None, typer.Option(help="Epochs of every training; else the recipe's.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="One part, such as mnist; may be repeated.")] = None,
    out: Annotated[Path, output("--out", "-o", help="Folder for the page and its numbers.", folder=True)] = Path("reproduced"),
    work: Annotated[
        Path | None, output(help="Folder for checkpoints; a run that was stopped goes on there.", folder=True)
    ] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Only write the page again, from the numbers in the folder --out.")
    ] = False,
) -> None:  # fmt: skip
    """Run a paper's experiment again, and write which of its claims hold."""
    from cofire import report as room
    from cofire.recipes import Settings, rewrite
    from cofire.recipes import reproduce as run

    if page_only:
        typer.echo(f"page written to {rewrite(recipe, out)}")
        return
    settings = Settings(
        data_root, seeds, limit, epochs, tuple(only) if only else None, work or out / "work" / recipe, typer.echo
    )
    found, page, numbers = run(recipe, settings, out)
    for finding in found.findings:
        typer.echo(f"- {finding.claim} {finding.verdict.capitalize()}. {finding.why}")
    if found.curves:
        written = room.write(
            found.stats, out / f"{recipe}-curves.html", title=f"Paper {recipe}", command=command(), curves=found.curves
        )
        typer.echo(f"curves drawn in {written}")
    if found.trajectories:
        written = room.write(
            found.stats, out / f"{recipe}-trainings.html", title=f"Paper {recipe}", command=command(),
            trajectories=found.trajectories,
        )  # fmt: skip
        typer.echo(f"trainings drawn in {written}")
    typer.echo(f"page written to {page}, numbers to {numbers}")
