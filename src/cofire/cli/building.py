"""Commands that make things: demo, layers, train, record."""

from pathlib import Path
from typing import Annotated

import typer

from cofire.cli.options import (
    BatchSize,
    Bins,
    Cache,
    Channels,
    Checkpoints,
    Classes,
    Data,
    Device,
    Download,
    Layers,
    Limit,
    Model,
    Normalize,
    Pool,
    Reference,
    Root,
    Seed,
    ShuffleLabels,
    Size,
    Split,
    Threshold,
    Weights,
    app,
    command,
    normal,
    say_all,
)
from cofire.cli.outputs import output
from cofire.sources import DataSource, ModelSource, processes, share

__all__ = ["demo", "layers_", "record", "train"]


@app.command(epilog="Example: cofire demo --out cofire-demo")
def demo(
    out: Annotated[Path, output(help="Folder to write.", folder=True)] = Path("cofire-demo"),
    seed: Seed = 0,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 20,
) -> None:
    """Train a small net on digits, record it, and write a report on its neurons."""
    from cofire import demo as room

    found = room.run(out, seed=seed, epochs=epochs, command=command())
    say_all(found)
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
    model: Model, out: Annotated[Path, output("--out", "-o", help="Safetensors file for the weights.")],
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
    order = images.batches(batch_size, shuffle=True, seed=seed, normalize=normal(normalize))
    history = fit(
        net, order, test.batches(256, normalize=normal(normalize)), epochs=epochs, lr=lr, weight_decay=weight_decay,
        seed=seed, checkpoints=checkpoints, augment=augment, device=device,
    )  # fmt: skip
    save_weights(net, out, {"model": model, "data": data, "seed": seed, "epochs": epochs, "command": command()})
    trained = f"train {history.train_accuracy[-1]:.2%} while the last epoch ran, " if epochs else ""
    typer.echo(f"accuracy: {trained}test {history.test_accuracy[-1]:.2%}; weights in {out}")


@app.command(
    epilog="Example: cofire record zoo:001-mnist --weights mnist.safetensors --data mnist --data-root data "
    "-o train.safetensors. "
    "Several processes: torchrun --nproc-per-node=4 -m cofire record ..."
)
def record(
    model: Model, out: Annotated[Path, output("--out", "-o", help="Statistics file to write.")],
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
        net = ModelSource(model, weights, classes, seed).build(images, device)
        stats = room(
            net, share(images, rank, world).batches(batch_size, normalize=normal(normalize)), layers, pool, threshold,
            bins, top, levels=levels, histograms=histograms, memory=memory, cofiring=cofiring, progress=rank == 0,
            reference=None if reference is None else load(reference),
        )  # fmt: skip
        stats.header.update(command=command(), seed=seed)
        stats.header["model"]["source"] = model
        if rank == 0:
            stats.save(out)
            typer.echo(f"{stats}\nwritten to {out}")
