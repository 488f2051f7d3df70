"""The command that says how far predictions can be trusted: trust."""

from pathlib import Path
from typing import Annotated

import typer

from cofire.cli.options import (
    Cache,
    Channels,
    Classes,
    Data,
    Device,
    Download,
    Limit,
    Model,
    Normalize,
    Report,
    Root,
    Seed,
    Size,
    Weights,
    app,
    command,
    normal,
    write_results,
)
from cofire.cli.outputs import TABLES, output
from cofire.sources import DataSource, ModelSource, subject

__all__ = ["trust"]

_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.5)
_SHOWN = ["score", "auroc", "low", "high", "gain", "gain_low", "gain_high", "aupr_wrong", "fpr95", "aurc", "augrc"]


@app.command(
    epilog="Example: cofire trust zoo:001-mnist --weights mnist.safetensors --stats train.stats --data mnist --data-root data "
    "-o trust.safetensors --report trust.html. Loaded again in Python with cofire.load_trust(model, path, stats)."
)
def trust(
    model: Model, weights: Weights = None,
    out: Annotated[Path | None, output("--out", "-o", help="Safetensors file for the fitted trust.")] = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics of the model; else its training data is recorded.")] = None,
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, classes: Classes = None,
    validation: Annotated[str, typer.Option(help="Split that the model was not trained on.")] = "test",
    layers: Annotated[list[str] | None, typer.Option("--layers", help="Name of a layer; may be repeated.")] = None,
    at: Annotated[str, typer.Option(help="A unit fires above its threshold, or above its own mean.")] = "threshold",
    doubtful: Annotated[int, typer.Option(min=0, help="Explain this many of the most doubtful predictions.")] = 5,
    table: Annotated[Path | None, output(help="Write the table of scores: .csv, .json or .parquet.", endings=TABLES)] = None,
    report: Report = None, seed: Seed = 0, device: Device = None, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Say whether wrong predictions can be told from right ones, by the softmax or by the firing of hidden units."""
    from cofire import report as page
    from cofire.familiarities import familiarity
    from cofire.trusting import trust as room

    source = DataSource(data, "train", data_root, size, channels, limit, seed, False, cache, download)
    held, norm = source.load(validation), normal(normalize)
    unseen = held.batches(256, normalize=norm)
    net, batches, loaded = subject(ModelSource(model, weights, classes, seed), source, stats, norm, device)
    found = room(net, batches, loaded, validation=unseen, layers=layers, at=at, seed=seed)
    frame = found.frame()
    typer.echo(frame[_SHOWN].round(4).to_string(index=False))
    typer.echo(
        "auroc: the share of pairs of a wrong and a right prediction that a score ranks rightly; gain: its lead over MSP;"
    )
    typer.echo("fpr95: of the right ones refused where 95 % of the wrong ones are; aurc, augrc: mean risk, lower is better.")
    typer.echo(f"\n{found}\n\nError rate when only the most trusted predictions are given:")
    curve = found.risk_coverage()
    for coverage in _COVERAGES:
        row = curve.iloc[max(round(coverage * len(curve)) - 1, 0)]
        typer.echo(f"  {coverage:4.0%} given: {row.risk:.2%} (MSP {row.msp:.2%}, at best {row.perfect:.2%})")
    write_results(frame, table, "a table of scores", found, out, "trust")
    if not doubtful and report is None:
        return
    seen = familiarity(loaded, net, unseen, layers=layers, at=at, device=device)
    if doubtful:
        typer.echo("\nThe most doubtful predictions, the least trusted first; a report shows the least familiar ones:")
    for sample in found.places[found.final.sort(stable=True).indices[:doubtful]].tolist():
        said = str(seen.explain(sample)).removeprefix(f"Sample {sample} ")
        typer.echo(f"  {validation} {sample}, labelled {held.classes[int(held.labels[sample])]!r}, {said}")
    if report is not None:
        title = f"Trust in {model}"
        notes = "The section Trust is what this page is about. It is fitted to and judged on the "
        notes += f"{len(held):,} pictures of {held.name} {held.part}; the other sections are of the statistics."
        page.write(loaded, report, title=title, command=command(), seed=seed, notes=notes, trust=found, familiar=(seen, held))
        typer.echo(f"report written to {report}")
