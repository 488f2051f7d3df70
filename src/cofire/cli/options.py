"""What the commands share: the application, their options, and how they speak."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cofire.cli.outputs import PAGES, TABLES, Application, output
from cofire.version import __version__

__all__ = [
    "BatchSize",
    "Bins",
    "Cache",
    "Channels",
    "Checkpoints",
    "Classes",
    "Data",
    "Device",
    "Download",
    "Layers",
    "Limit",
    "Model",
    "Normalize",
    "Page",
    "Pool",
    "Reference",
    "Report",
    "Root",
    "Seed",
    "ShuffleLabels",
    "Size",
    "Split",
    "Statistics",
    "Table",
    "Threshold",
    "Weights",
    "app",
    "command",
    "normal",
    "say_all",
    "write_results",
]

app = Application(
    name="cofire",
    help="Which neurons of a classifier fire for which class, and what that says about the classifier.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help starts twice as fast
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str,
    typer.Argument(help="zoo:NAME, fcnn:784-512-10, torchvision:NAME, timm:NAME, package.module:callable or a .pt2 file."),
]
Weights = Annotated[Path | None, typer.Option(help="Safetensors file with the model's weights.")]
Classes = Annotated[int | None, typer.Option(help="Outputs of the model; by default the data's classes.")]
Data = Annotated[
    str,
    typer.Option(help="digits, mnist, fashion-mnist, cifar10, cifar100, plantvillage, folder:PATH or hf:NAME."),
]
Split = Annotated[str, typer.Option(help="train, test, or what else the data has.")]
Root = Annotated[Path | None, typer.Option("--data-root", help="Folder of the data sets; else COFIRE_DATA, else ./data.")]
Size = Annotated[int | None, typer.Option(help="Resize pictures to this many pixels a side.")]
Channels = Annotated[int | None, typer.Option(help="3 repeats grey, 1 makes grey.")]
Limit = Annotated[int | None, typer.Option(help="Take this many pictures of each split, equally from all classes.")]
Normalize = Annotated[str | None, typer.Option(help="'imagenet' takes off its mean and divides by its deviation.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download the data.")]
Cache = Annotated[Path | None, typer.Option(help="Keep decoded pictures in this folder.")]
Seed = Annotated[int, typer.Option(help="Of initial weights, subsets and training.")]
BatchSize = Annotated[int, typer.Option(help="Samples per batch.")]
Layers = Annotated[list[str] | None, typer.Option("--layers", help="Name or glob of a layer; may be repeated.")]
Pool = Annotated[str, typer.Option(help="How positions become units: mean, max or none.")]
Bins = Annotated[int, typer.Option(help="Bins of the activation histogram.")]
ShuffleLabels = Annotated[bool, typer.Option("--shuffle-labels", help="Shuffle the labels, as a control.")]
Checkpoints = Annotated[Path | None, output(help="Folder for a checkpoint per epoch; a killed run resumes there.", folder=True)]
Threshold = Annotated[float | None, typer.Option(help="A unit fires above it; else by kind of non-linearity.")]
Reference = Annotated[Path | None, typer.Option(help="Statistics whose histogram edges to use, so that both add exactly.")]
Table = Annotated[Path | None, output(help="Write the table of units: .csv, .json or .parquet.", endings=TABLES)]
Page = Annotated[Path, output("--out", "-o", help="HTML file to write; its numbers go beside it as JSON.", endings=PAGES)]
Report = Annotated[
    Path | None, output("--report", help="Write a report to this HTML file; its numbers go beside it.", endings=PAGES)
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default where the model is.")]
Statistics = Annotated[Path, typer.Argument(help="Statistics file, made by `cofire record`.")]


def _version(show: bool) -> None:
    if show:
        typer.echo(f"cofire {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def normal(name: str | None):
    """The normalisation of that name; InputError for another."""
    from cofire.errors import InputError

    if name not in (None, "imagenet"):
        raise InputError("--normalize takes 'imagenet'", f"found {name!r}", "In Python, Images.batches(normalize=(mean, std)).")
    return name


def command() -> str:
    """The command as it was given."""
    return shlex.join(["cofire", *sys.argv[1:]])


def say_all(found) -> None:
    """Print findings, a line each."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for finding in found:
        console.print(f"- {finding.text}", markup=False)


def write_results(frame, table: Path | None, what: str, result, out: Path | None, name: str) -> None:
    """Write a table and a result where files for them were named, and say so."""
    from cofire.export import write_frame

    if out is not None:
        result.save(out)
        typer.echo(f"{name} written to {out}")
    if table is not None:
        write_frame(frame, table, what)
        typer.echo(f"table written to {table}")
