"""The command line: one command per job, each with an example in its help."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cofire.sources import DataSource, ModelSource, processes, share
from cofire.version import __version__

__all__ = ["app", "run"]

app = typer.Typer(
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
Limit = Annotated[int | None, typer.Option(help="Take this many pictures, equally from all classes.")]
Normalize = Annotated[str | None, typer.Option(help="'imagenet' takes off its mean and divides by its deviation.")]
Download = Annotated[bool, typer.Option("--download", help="Let torchvision download the data.")]
Cache = Annotated[Path | None, typer.Option(help="Keep decoded pictures in this folder.")]
Seed = Annotated[int, typer.Option(help="Of initial weights, subsets and training.")]
BatchSize = Annotated[int, typer.Option(help="Samples per batch.")]
Layers = Annotated[list[str] | None, typer.Option("--layers", help="Name or glob of a layer; may be repeated.")]
Pool = Annotated[str, typer.Option(help="How positions become units: mean, max or none.")]
Bins = Annotated[int, typer.Option(help="Bins of the activation histogram.")]
ShuffleLabels = Annotated[bool, typer.Option("--shuffle-labels", help="Shuffle the labels, as a control.")]
Checkpoints = Annotated[Path | None, typer.Option(help="Folder for a checkpoint per epoch; a killed run resumes there.")]
Threshold = Annotated[float | None, typer.Option(help="A unit fires above it; else by kind of non-linearity.")]
Reference = Annotated[Path | None, typer.Option(help="Statistics whose histogram edges to use, so that both add exactly.")]
Table = Annotated[Path | None, typer.Option(help="Write the table of units: .csv, .json or .parquet.")]
Page = Annotated[Path, typer.Option("--out", "-o", help="HTML file to write; its numbers go beside it as JSON.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default where the model is.")]
Statistics = Annotated[Path, typer.Argument(help="Statistics file, made by `cofire record`.")]

_ORDERS = "Any measure of units, firing_rate, mean, std, weight_std, reconstruction or obs."
_ORDERED = ["firing_entropy", "mutual_information", "kl_selectivity", "reconstruction"]


def _version(show: bool) -> None:
    if show:
        typer.echo(f"cofire {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command(epilog="Example: cofire demo --out cofire-demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("cofire-demo"),
    seed: Seed = 0,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 20,
) -> None:
    """Train a small net on digits, record it, and write a report on its neurons."""
    from cofire import demo as room

    found = room.run(out, seed=seed, epochs=epochs, command=_command())
    _say_all(found)
    files = "units.csv, stats.safetensors, test-stats.safetensors and weights.safetensors"
    typer.echo(f"\nThe report is {out / 'report.html'}; beside it are {files}.")


@app.command("layers", epilog="Example: cofire layers torchvision:resnet50 --data cifar10 --data-root data --size 64")
def layers_(
    model: Model, data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None,
    weights: Weights = None, classes: Classes = None, layers: Layers = None, pool: Pool = "mean",
) -> None:  # fmt: skip
    """List the hidden activations of a model: name, kind, layout, shape, units."""
    from cofire.recording import layers as room

    images = DataSource(data, "test", data_root, size, channels, limit=2 if data != "digits" else None).load()
    example, _ = next(iter(images.batches(2)))
    typer.echo(str(room(ModelSource(model, weights, classes).build(images), example, layers=layers, pool=pool)))


@app.command(epilog="Example: cofire train zoo:001-mnist --data mnist --data-root data --epochs 10 -o mnist.safetensors")
def train(
    model: Model, out: Annotated[Path, typer.Option("--out", "-o", help="Safetensors file for the weights.")],
    data: Data = "digits", data_root: Root = None, size: Size = None, channels: Channels = None, limit: Limit = None,
    normalize: Normalize = None, shuffle_labels: ShuffleLabels = False,
    classes: Classes = None, epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 10,
    lr: Annotated[float, typer.Option(help="Step size of Adam.")] = 1e-3,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = 0.0, batch_size: BatchSize = 128,
    checkpoints: Checkpoints = None,
    augment: Annotated[bool, typer.Option("--augment", help="Flip and shift pictures at random.")] = False,
    seed: Seed = 0, device: Device = None, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Train a classifier with Adam and write its weights."""
    from cofire.training import fit
    from cofire.weights import save_weights

    source = DataSource(data, "train", data_root, size, channels, limit, seed, shuffle_labels, cache, download)
    images = source.load()
    test = DataSource(data, "test", data_root, size, channels, None, seed, shuffle_labels, cache, download).load()
    net = ModelSource(model, None, classes, seed).build(images)
    order = images.batches(batch_size, shuffle=True, seed=seed, normalize=_normal(normalize))
    history = fit(
        net, order, test.batches(256, normalize=_normal(normalize)), epochs=epochs, lr=lr, weight_decay=weight_decay,
        seed=seed, checkpoints=checkpoints, augment=augment, device=device,
    )  # fmt: skip
    save_weights(net, out, {"model": model, "data": data, "seed": seed, "epochs": epochs, "command": _command()})
    typer.echo(f"accuracy: train {history.train_accuracy[-1]:.2%}, test {history.test_accuracy[-1]:.2%}; weights in {out}")


@app.command(
    epilog="Example: cofire record zoo:001-mnist --weights mnist.safetensors --data mnist --data-root data "
    "-o train.safetensors. "
    "Several processes: torchrun --nproc-per-node=4 -m cofire record ..."
)
def record(
    model: Model, out: Annotated[Path, typer.Option("--out", "-o", help="Statistics file to write.")],
    weights: Weights = None, data: Data = "digits", split: Split = "train", data_root: Root = None, size: Size = None,
    channels: Channels = None, limit: Limit = None, normalize: Normalize = None, classes: Classes = None,
    shuffle_labels: ShuffleLabels = False,
    layers: Layers = None, pool: Pool = "mean",
    threshold: Threshold = None,
    bins: Bins = 30, levels: Annotated[int, typer.Option(help="Levels for the information measures.")] = 2,
    histograms: Annotated[str, typer.Option(help="auto, cache, two-pass, sketch or none.")] = "auto",
    memory: Annotated[str, typer.Option(help="Budget of the cache.")] = "2GB", batch_size: BatchSize = 256,
    top: Annotated[int, typer.Option(help="Representative units per class.")] = 50,
    cofiring: Annotated[str, typer.Option(help="Pairs to count: auto, class, union (slower, all pairs) or none.")] = "auto",
    reference: Reference = None,
    device: Device = None, seed: Seed = 0, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Run a model over labelled data and write the firing statistics of its hidden layers."""
    from cofire.recording import record as room
    from cofire.stats import load

    with processes() as (rank, world):
        source = DataSource(data, split, data_root, size, channels, limit, seed, shuffle_labels, cache, download)
        images = source.load()
        net = ModelSource(model, weights, classes, seed).build(images)
        if device is not None:
            net = net.to(device)
        stats = room(
            net, share(images, rank, world).batches(batch_size, normalize=_normal(normalize)), layers, pool, threshold,
            bins, top, levels=levels, histograms=histograms, memory=memory, cofiring=cofiring, progress=rank == 0,
            reference=None if reference is None else load(reference),
        )  # fmt: skip
        stats.header.update(command=_command(), seed=seed)
        stats.header["model"]["source"] = model
        if rank == 0:
            stats.save(out)
            typer.echo(f"{stats}\nwritten to {out}")


@app.command(epilog="Example: cofire measure train.safetensors --csv units.csv")
def measure(
    stats: Statistics, csv: Table = None,
    units: Annotated[bool, typer.Option("--units", help="Print units instead of layers.")] = False,
    by: Annotated[str, typer.Option(help="Sort units by this column, largest first.")] = "mutual_information",
    top: Annotated[int, typer.Option(help="Units to print.")] = 20,
) -> None:  # fmt: skip
    """Print every measure by layer, or by unit, and write the table of units."""
    from cofire.errors import InputError
    from cofire.export import write_units
    from cofire.findings import findings
    from cofire.measures import summary, table
    from cofire.stats import load

    loaded = load(stats)
    if csv is not None:
        write_units(loaded, csv)
    if units:
        frame = table(loaded)
        if by not in frame.columns:
            raise InputError(f"no column {by!r} to sort by", f"there are {', '.join(frame.columns)}")
        typer.echo(frame.sort_values(by, ascending=False).head(top).to_string(index=False))
    else:
        typer.echo(summary(loaded).set_index("layer").T.to_string())
        typer.echo("")
        _say_all(findings(loaded))
    if csv is not None:
        typer.echo(f"\ntable of units written to {csv}")


@app.command(epilog="Example: cofire graph train.safetensors --layer relu2 -o relu2.gexf")
def graph(
    stats: Statistics,
    layer: Annotated[str | None, typer.Option(help="Name of a layer; by default the last.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Graph to write: .gexf or .graphml, for Gephi.")] = None,
    top: Annotated[int | None, typer.Option(help="Units per class; by default at most a quarter of the layer.")] = None,
    restrict: Annotated[str, typer.Option(help="class: pairs within a class's units; union: all pairs.")] = "class",
    method: Annotated[str, typer.Option(help="louvain, leiden, bisection or classes.")] = "louvain",
    resolution: Annotated[float, typer.Option(help="Larger gives more communities; Gephi's is the inverse.")] = 1.0,
    edges: Annotated[int | None, typer.Option(help="Write only so many edges, the strongest.")] = None,
    seed: Seed = 0,
) -> None:
    """Print the communities, modularities and entangled classes of a layer, and write its co-firing graph."""
    from cofire.export import write_graph
    from cofire.graphs import coactivation, sensible_top
    from cofire.partitions import communities
    from cofire.stats import load
    from cofire.structure import in_words, structure

    loaded = load(stats)
    chosen = loaded[layer if layer is not None else list(loaded)[-1]]
    made = coactivation(chosen, sensible_top(chosen) if top is None else top, restrict)
    groups = communities(made, method, resolution, seed, seeds=5 if method != "classes" else 1)
    for line in in_words(structure(made, seed), groups, loaded.class_names):
        typer.echo(line)
    if out is not None:
        write_graph(made, out, layer=chosen, class_names=loaded.class_names, groups=groups, edges=edges)
        typer.echo(f"\ngraph written to {out}")


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
    csv: Annotated[Path | None, typer.Option(help="Write all curves to this table.")] = None,
    seed: Seed = 0, device: Device = None, download: Download = False, cache: Cache = None,
) -> None:  # fmt: skip
    """Remove units in several orders and measure test accuracy as they go; write the curves and a report."""
    from cofire import report as room
    from cofire.ablation import curves_of
    from cofire.export import write_curves
    from cofire.recording import record as reader
    from cofire.stats import load
    from cofire.verdicts import curve_findings

    source = DataSource(data, "train", data_root, size, channels, limit, seed, False, cache, download)
    test = DataSource(data, "test", data_root, size, channels, limit, seed, False, cache, download).load()
    net = ModelSource(model, weights, classes, seed).build(test)
    if device is not None:
        net = net.to(device)
    normal = _normal(normalize)
    loaded = load(stats) if stats is not None else reader(net, source.load().batches(256, normalize=normal), covariance=True)
    curves = curves_of(
        net, test.batches(256, normalize=normal), loaded, by or _ORDERED, order=order, layers=layers, each=each, fill=fill,
        steps=steps, seeds=seeds, seed=seed,
    )  # fmt: skip
    for curve in curves:
        typer.echo(f"- {curve}")
    _say_all(curve_findings(curves))
    if csv is not None:
        write_curves(curves, csv)
        typer.echo(f"curves written to {csv}")
    written = room.write(loaded, out, title=f"Ablation of {model}", command=_command(), seed=seed, curves=curves)
    typer.echo(f"report written to {written}")


@app.command(epilog="Example: cofire report train.safetensors --test test.safetensors -o report.html")
def report(
    stats: Statistics, out: Page = Path("report.html"),
    test: Annotated[Path | None, typer.Option(help="Statistics of the same model on test data.")] = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
) -> None:  # fmt: skip
    """Write a report that a browser opens, with no network."""
    from cofire import report as room
    from cofire.stats import load

    loaded = load(stats)
    command = loaded.header.get("command") or _command()
    written = room.write(
        loaded,
        out,
        test=None if test is None else load(test),
        title=title,
        command=command,
        seed=loaded.header.get("seed"),
    )
    typer.echo(
        f"written to {written}, {written.stat().st_size / 1e6:.1f} MB; its numbers are in {written.with_suffix('.json')}"
    )


def _normal(name: str | None):
    from cofire.errors import InputError

    if name not in (None, "imagenet"):
        raise InputError("--normalize takes 'imagenet'", f"found {name!r}", "In Python, Images.batches(normalize=(mean, std)).")
    return name


def _command() -> str:
    return shlex.join(["cofire", *sys.argv[1:]])


def _say_all(found) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    for finding in found:
        console.print(f"- {finding.text}", markup=False)


def run() -> None:
    """The ``cofire`` command: errors of this package are one sentence and exit code 2, Ctrl-C is 130."""
    from cofire.errors import CofireError

    try:
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
