"""The command that makes a frozen model better: boost."""

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

__all__ = ["boost"]

_COLUMNS = {
    "method": "", "accuracy": "{:.2%}", "gain": "{:+.2%}", "gain_low": "{:+.2%}", "gain_high": "{:+.2%}", "log_loss": "{:.4f}",
    "calibration_error": "{:.4f}",
}  # fmt: skip


@app.command(
    epilog="Example: cofire boost zoo:001-mnist --weights mnist.safetensors --data mnist --data-root data "
    "-o boosted.safetensors --report boost.html. Loaded again in Python with cofire.load_boosted(model, path)."
)
def boost(
    model: Model, weights: Weights = None,
    out: Annotated[Path | None, output("--out", "-o", help="Safetensors file for the boost.")] = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics of the model; else its training data is recorded.")] = None,
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, classes: Classes = None,
    method: Annotated[str, typer.Option(help="auto, in closed form, or paper, the auxiliary net of the paper.")] = "auto",
    last: Annotated[int | None, typer.Option(help="Read only so many of the last hidden layers.")] = None,
    held: Annotated[float, typer.Option(help="Share of the test data that chooses; the rest measures.")] = 0.5,
    controls: Annotated[bool, typer.Option(help="Fit the controls too; they take longer than the boost.")] = True,
    rate: Annotated[float, typer.Option(help="Learning rate of the control that trains on: a tenth of the model's.")] = 1e-4,
    table: Annotated[Path | None, output(help="Write the table of gains: .csv, .json or .parquet.", endings=TABLES)] = None,
    report: Report = None, seed: Seed = 0, device: Device = None, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Read a frozen model's hidden layers again, and say what that gains and where the gain comes from."""
    from cofire import report as page
    from cofire.boosting import boost as room
    from cofire.errors import InputError

    if not 0 < held < 1:
        raise InputError("--held is a share between 0 and 1", f"found {held}")
    source = DataSource(data, "train", data_root, size, channels, limit, seed, False, cache, download)
    norm = normal(normalize)
    validation, test = (part.batches(256, normalize=norm) for part in source.load("test").split(held, seed=seed))
    net, batches, loaded = subject(ModelSource(model, weights, classes, seed), source, stats, norm, device)
    boosted = room(net, batches, loaded, validation, method, layers=last, test=test, controls=controls, rate=rate, seed=seed)
    frame = boosted.summary()
    shown = frame.loc[frame["split"] == "test", list(_COLUMNS)]
    typer.echo(shown.to_string(index=False, formatters={k: v.format for k, v in _COLUMNS.items() if v}))
    typer.echo("")
    for word in boosted.words:
        typer.echo(f"- {word}")
    write_results(frame, table, "a table of gains", boosted, out, "boost")
    if report is not None:
        held_out, measured = len(validation.dataset), len(test.dataset)
        notes = f"The section Boost is what this page is about. It is fitted to {len(batches.dataset):,} pictures of "
        notes += f"{batches.dataset.name} train; {held_out:,} of its test pictures decide how much of it is taken, and "
        notes += f"{measured:,} others measure it. The other sections are of the statistics."
        page.write(loaded, report, title=f"Boost of {model}", command=command(), seed=seed, notes=notes, boost=boosted)
        typer.echo(f"report written to {report}")
