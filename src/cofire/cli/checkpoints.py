"""Recording the checkpoints of a training one after the other, so that a run that was stopped goes on."""

import re
from pathlib import Path

import typer

from cofire.sources import DataSource, ModelSource

__all__ = ["checkpoint_list", "record_checkpoints"]


def checkpoint_list(paths: list[Path]) -> list[Path]:
    """The files that are named and those in the folders that are named, numbers in their names in numerical order."""
    from cofire.errors import FileError

    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            held = [file for file in path.iterdir() if file.suffix in (".safetensors", ".stats")]
            ours = [file for file in held if re.fullmatch(r"epoch-\d+\.safetensors", file.name)]  # not the optimiser's state
            found = sorted(ours or held, key=_natural)
            if not found:
                raise FileError("wanted a folder of checkpoints", f"{str(path)!r} holds no .safetensors or .stats file")
            files += found
        else:
            files.append(path)
    return files


def _natural(path: Path) -> list:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def record_checkpoints(
    files: list[Path], folder: Path, model: ModelSource, source: DataSource, normalize, device: str | None
) -> tuple[list[Path], list[float]]:
    """Statistics of every checkpoint's weights in a folder, and the norms of the weights; what is there already is left.

    Args:
        files: Weights, in order.
        folder: Where to write `NAME.stats`; made if it does not exist.
        model: The model.
        source: The data.
        normalize: As for batches.
        device: Where to run.
    """
    from cofire.baselines import weight_norm
    from cofire.recording import record
    from cofire.weights import load_weights

    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / f"{file.stem}.stats" for file in files]
    images, norms = source.load(), []
    net = model.build(images)
    net = net if device is None else net.to(device)
    for file, target in zip(files, targets, strict=True):
        load_weights(net, file, ignore=("optimizer.", "history.", "rng."))
        norms.append(weight_norm(net))
        if not target.exists():
            record(net, images.batches(256, normalize=normalize)).save(target)
            typer.echo(f"recorded {file.name}")
    return targets, norms
