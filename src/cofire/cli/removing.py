"""Commands that remove units and layers: ablate, prune, depth."""

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
    Layers,
    Limit,
    Model,
    Normalize,
    Page,
    Root,
    Seed,
    Size,
    Statistics,
    Weights,
    app,
    command,
    normal,
    say_all,
)
from cofire.cli.outputs import PICTURES, TABLES, output
from cofire.sources import DataSource, ModelSource, subject

__all__ = ["ablate", "depth", "prune"]


_ORDERS = "Any measure of units, firing_rate, mean, std, weight_std, reconstruction, obs or fisher."
_ORDERED = ["firing_entropy", "mutual_information", "kl_selectivity", "reconstruction"]


@app.command(
    epilog="Example: cofire ablate zoo:001-mnist --weights mnist.safetensors --data mnist --data-root data --each-layer "
    "-o ablation.html --csv curves.csv"
)
def ablate(
    model: Model, weights: Weights = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics of the model; else its training data is recorded.")] = None,
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, classes: Classes = None,
    by: Annotated[list[str] | None, typer.Option("--by", help="What orders units; may be repeated. " + _ORDERS)] = None,
    order: Annotated[str, typer.Option(help="ascending, descending or both.")] = "both",
    layers: Layers = None,
    each: Annotated[bool, typer.Option("--each-layer", help="A curve for every layer, not only for all together.")] = False,
    fill: Annotated[str, typer.Option(help="mean, zero or both: what a removed unit gives.")] = "mean",
    steps: Annotated[int | None, typer.Option(help="Points of a curve; by default every unit where that is cheap.")] = None,
    seeds: Annotated[int, typer.Option(help="Random orders, as a control.")] = 5,
    out: Page = Path("ablation.html"),
    work: Annotated[
        Path | None, output(help="Folder for the state of the curves; a run that was stopped goes on there.", folder=True)
    ] = None,
    csv: Annotated[Path | None, output(help="Write all curves to this table: .csv, .json or .parquet.", endings=TABLES)] = None,
    figure: Annotated[Path | None, output(help="Draw them for a paper: a .pdf, .svg or .png.", endings=PICTURES)] = None,
    seed: Seed = 0, device: Device = None, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Remove units in several orders and measure test accuracy as they go; write the curves and a report."""
    from cofire import plots
    from cofire import report as room
    from cofire.ablation import curves_of
    from cofire.export import write_curves
    from cofire.recording import record as reader
    from cofire.stats import load
    from cofire.verdicts import curve_findings

    source = DataSource(data, "train", data_root, size, channels, limit, seed, False, cache, download)
    test = DataSource(data, "test", data_root, size, channels, limit, seed, False, cache, download).load()
    net = ModelSource(model, weights, classes, seed).build(test, device)
    norm = normal(normalize)
    loaded = load(stats) if stats is not None else reader(net, source.load().batches(256, normalize=norm), covariance=True)
    curves = curves_of(
        net, test.batches(256, normalize=norm), loaded, by or _ORDERED, order=order, layers=layers, each=each, fill=fill,
        steps=steps, seeds=seeds, seed=seed, resume=work,
    )  # fmt: skip
    for curve in curves:
        typer.echo(f"- {curve}")
    say_all(curve_findings(curves))
    if csv is not None:
        write_curves(curves, csv)
        typer.echo(f"curves written to {csv}")
    if figure is not None:
        plots.save(plots.curves(curves), figure)
        typer.echo(f"figure drawn in {figure}")
    written = room.write(loaded, out, title=f"Ablation of {model}", command=command(), seed=seed, curves=curves)
    typer.echo(f"report written to {written}")


@app.command(
    epilog="Example: cofire prune zoo:001-mnist --weights mnist.safetensors --data mnist --data-root data --keep 0.3 "
    "-o small.safetensors. Loaded again in Python with cofire.load_pruned(model, path)."
)
def prune(
    model: Model, out: Annotated[Path, output("--out", "-o", help="Safetensors file for the smaller model's weights.")],
    weights: Weights = None,
    stats: Annotated[Path | None, typer.Option(help="Statistics with covariance; else training data is recorded.")] = None,
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, classes: Classes = None,
    by: Annotated[str, typer.Option(help="What orders units. " + _ORDERS)] = "obs",
    keep: Annotated[float | None, typer.Option(help="Share of units to keep in every layer.")] = None,
    layers: Layers = None,
    max_drop: Annotated[float | None, typer.Option(help="Or: remove what costs this training accuracy at most; 0.01.")] = None,
    compensate: Annotated[bool, typer.Option(help="Fit the next layer's weights again.")] = True,
    across: Annotated[str | None, typer.Option(help="shares: as much of each layer; loss: where least is lost.")] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Remove attention heads too.")] = False,
    seed: Seed = 0, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Make a smaller model without the units of lowest value; say what it costs and keeps, beside units taken by lot."""
    from cofire.pruning import accuracy_of, cost, pruned
    from cofire.weights import save_weights

    source = DataSource(data, "train", data_root, size, channels, limit, seed, False, cache, download)
    test, norm = source.load("test"), normal(normalize)
    unseen = test.batches(256, normalize=norm)
    net, batches, loaded = subject(ModelSource(model, weights, classes, seed), source, stats, norm, covariance=True)
    keep = 0.5 if keep is None and max_drop is None else keep
    example = next(iter(test.batches(32, normalize=norm)))
    found = pruned(
        net, example, loaded, by, keep, layers=layers, max_drop=max_drop, batches=batches, compensate=compensate, across=across,
        heads=heads,
    )  # fmt: skip
    save_weights(found.model, out, {"model": model, "data": data, "pruned": True, "command": command()})
    chance = found.plan.order("random")
    rows = {"before": net, "after": found.model, "random": found.plan.smaller(chance, found.counts, compensate)}
    if compensate:
        rows["random, not fitted"] = found.plan.smaller(chance, found.counts, False)
    typer.echo(
        f"{'':>18} {'parameters':>14} {'operations a sample':>20} {'ms for ' + str(len(example[0])):>10} {'test accuracy':>14}"
    )
    for what, made in rows.items():
        costs = cost(made, example)
        right = accuracy_of(made, unseen, loaded.classes)
        typer.echo(f"{what:>18} {costs.parameters:>14,} {costs.flops:>20,} {costs.milliseconds:>10.2f} {right:>14.2%}")
    typer.echo("random: as many units of every layer as after, chosen by lot")
    typer.echo(f"weights in {out}")


@app.command(
    epilog="Example: cofire depth train.safetensors. With a check: cofire depth train.safetensors --check "
    "--model zoo:001-mnist --weights mnist.safetensors --data mnist --data-root data"
)
def depth(
    stats: Statistics,
    check: Annotated[bool, typer.Option("--check", help="Remove every flat layer in turn, and train briefly.")] = False,
    layer: Annotated[list[str] | None, typer.Option("--layer", help="Check these layers in place of the flat ones.")] = None,
    model: Annotated[str | None, typer.Option(help="The model, for --check.")] = None, weights: Weights = None,
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, classes: Classes = None,
    epochs: Annotated[int, typer.Option(help="Epochs of training after the removal, for --check.")] = 1,
    seed: Seed = 0, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Say what every fully connected layer adds, by the softmax entropy of the classes."""
    from cofire.depths import RULE
    from cofire.depths import depth as room
    from cofire.errors import InputError
    from cofire.removals import check_layer
    from cofire.stats import load

    loaded = load(stats)
    found = room(loaded)
    typer.echo(found.frame().to_string(index=False))
    typer.echo(f"\n{found}\n\n{RULE}")
    if not check:
        return
    if model is None:
        raise InputError("--check needs the model", "found no --model", "Name it as for cofire record, with --weights.")
    names = layer or found.flat
    if not names:
        typer.echo("\nno layer is flat: there is nothing to check; --layer names one all the same")
    source = DataSource(data, "train", data_root, size, channels, limit, seed, False, cache, download)
    images, norm = source.load(), normal(normalize)
    net = ModelSource(model, weights, classes, seed).build(images)
    train, test = images.batches(128, shuffle=True, seed=seed, normalize=norm), source.load("test").batches(256, normalize=norm)
    for name in names:
        typer.echo(f"\n{check_layer(net, loaded, name, train, test, epochs=epochs, seed=seed)}")
