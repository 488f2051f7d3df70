"""Trainings followed from checkpoint to checkpoint: what the recipes of papers 000 and 001 share."""

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import nn

from cofire import data, trajectories, zoo
from cofire.images import Images
from cofire.recipes.running import Settings, Table
from cofire.recording import record
from cofire.stats import FiringStats, load
from cofire.training import fit
from cofire.trajectories import Trajectory, trajectory
from cofire.version import __version__
from cofire.weights import load_weights

__all__ = [
    "NETS",
    "Followed",
    "Net",
    "all_rows",
    "by_net",
    "follow",
    "judged",
    "load_checkpoint",
    "made",
    "origin",
    "origin_of",
    "related",
]


@dataclass(frozen=True)
class Net:
    """A net of the papers and how it is trained.

    Args:
        data: Name of the data.
        model: Name of the model.
        pictures: Training and test pictures that there are.
        shuffled: Train on shuffled labels.
        channels: Of the pictures; None for what they have.
        size: Of the pictures; None for what they have.
        limit: Training pictures that are taken where the settings name no number; None for all.
        epochs: Epochs where the settings name no number.
        batch: Pictures in a batch.
    """

    data: str
    model: str
    pictures: tuple[int, int]
    shuffled: bool = False
    channels: int | None = None
    size: int | None = None
    limit: int | None = None
    epochs: int = 20
    batch: int = 128

    @property
    def dense(self) -> bool:
        """Whether all layers are fully connected: of those alone the papers look at classes and communities."""
        return self.model.startswith("zoo:001-")


_LEAVES = (11_547, 2_886)

NETS = {
    "mnist": Net("mnist", "zoo:001-mnist", (60_000, 10_000)),
    "mnist-mixed": Net("mnist", "zoo:001-mnist", (60_000, 10_000), shuffled=True),
    "fashion-mnist": Net("fashion-mnist", "zoo:001-fashion-mnist", (60_000, 10_000)),
    "fashion-mnist-mixed": Net("fashion-mnist", "zoo:001-fashion-mnist", (60_000, 10_000), shuffled=True),
    "cifar10": Net("cifar10", "zoo:001-cifar10", (50_000, 10_000), channels=1),
    "plantvillage": Net("plantvillage-crops", "zoo:001-plantvillage", _LEAVES, channels=1, limit=6_000),
    "resnet50-cifar10": Net("cifar10", "torchvision:resnet50", (50_000, 10_000), limit=2_000, epochs=10, batch=32),
    "inception-v3-cifar100": Net("cifar100", "torchvision:inception_v3", (50_000, 10_000), size=75, limit=1_000, epochs=10,
                                 batch=32),
    "resnet50-plantvillage": Net("plantvillage-crops", "torchvision:resnet50", _LEAVES, size=32, limit=1_000, epochs=10,
                                 batch=32),
}  # fmt: skip
"""Nets by the name of the part; those with a limit of their own are what one core trains in about a quarter of an hour."""


_FEWEST = 10


@dataclass(frozen=True, eq=False)
class Followed:
    """One training, followed.

    Args:
        name: Name of the net.
        seed: Its seed.
        images: Training and test pictures, by part.
        model: The net itself, with whichever weights were loaded last.
        files: Its checkpoints, that before training first.
        train: Statistics of the training pictures at each.
        path: Its trajectory.
    """

    name: str
    seed: int
    images: dict[str, Images]
    model: nn.Module
    files: Sequence[Path]
    train: Sequence[FiringStats]
    path: Trajectory


def follow(settings: Settings, names: Sequence[str]) -> Iterator[Followed]:
    """Train each of these nets with every seed; checkpoints and statistics that are there already are taken as they are."""
    for name in names:
        if settings.only is not None and name not in settings.only:
            continue
        net = NETS[name]
        limit = settings.limit or net.limit or net.pictures[0]
        images = {
            part: data.load(net.data, part, root=settings.root, limit=limit if limit < there else None, size=net.size,
                            channels=net.channels, shuffle_labels=net.shuffled)
            for part, there in zip(("train", "test"), net.pictures, strict=True)
        }  # fmt: skip
        for seed in range(settings.seeds):
            followed = _follow_one(settings, name, seed, images)
            settings.say(f"{name}, seed {seed}: accuracy {followed.path.accuracy[-1]:.2%} on training data")
            yield followed


def _follow_one(settings: Settings, name: str, seed: int, images: dict[str, Images]) -> Followed:
    net, folder = NETS[name], settings.folder / f"{name}-{seed}"
    model = zoo.model(net.model, classes=len(images["train"].classes), seed=seed)
    fit(
        model, images["train"], images["test"], epochs=settings.epochs or net.epochs, batch_size=net.batch, seed=seed,
        checkpoints=folder, progress=False, device="cuda" if torch.cuda.is_available() else "cpu",
    )  # fmt: skip
    files = sorted(folder.glob("epoch-*.safetensors"))
    train, test = ([_recorded(net, model, file, images[part], part) for file in files] for part in ("train", "test"))
    return Followed(name, seed, images, model, files, train, trajectory(train, test, [file.stem for file in files]))


def _recorded(net: Net, model: nn.Module, file: Path, images: Images, part: str) -> FiringStats:
    target = file.with_suffix(f".{part}.stats")
    if not target.exists():
        load_checkpoint(model, file)
        record(
            model, images.batches(512 if net.dense else 128), progress=False, maps=False, covariance=False,
            histograms="auto" if part == "train" else "none", by_class="auto" if net.dense else False,
            cofiring="auto" if net.dense else "none",
        ).save(target)  # fmt: skip
    return load(target)


def load_checkpoint(model: nn.Module, file: Path) -> None:
    """Give the model the weights of a checkpoint."""
    load_weights(model, file, ignore=("optimizer.", "history.", "rng."))


def related(path: Trajectory, layer: str, measure: str, against: str = "accuracy") -> dict[str, float]:
    """How a series of a trajectory goes with accuracy."""
    found = trajectories.related(path.values[layer, measure], getattr(path, against))
    return {key: found[key] for key in ("pearson", "spearman", "partial_spearman", "differences")}


def all_rows(settings: Settings, new: list[dict], names: Sequence[str] = tuple(NETS)) -> list[dict]:
    """The rows of this run, and those of an earlier one for nets that this one did not train, in the order of the names."""
    trained = {row["net"] for row in new}
    rows = [*(row for row in settings.earlier() if row["net"] not in trained), *new]
    return sorted(rows, key=lambda row: (names.index(row["net"]), row["seed"]))


def by_net(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Rows by the name of their net."""
    return {name: [row for row in rows if row["net"] == name] for name in dict.fromkeys(row["net"] for row in rows)}


def origin(settings: Settings, train: Images, test: Images, model: nn.Module) -> dict:
    """How a row came to be: what a reader needs to make it again."""
    return {
        "command": settings.command, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "torch": torch.__version__,
        "cofire": __version__, "machine": f"{platform.machine()} {platform.system()}",
        "device": str(next(model.parameters()).device), "pictures": len(train), "tests": len(test),
        "shape": "x".join(map(str, train.shape)),
    }  # fmt: skip


def origin_of(followed: Followed, settings: Settings) -> dict:
    """How the row of a training that was followed came to be, and how far the training went."""
    counts = followed.train[0].class_counts
    return {
        **origin(settings, followed.images["train"], followed.images["test"], followed.model),
        "checkpoints": len(followed.files), "most_frequent": int(counts.max()) / int(counts.sum()),
        "best": float(followed.path.accuracy.max()),
    }  # fmt: skip


def judged(rows: Sequence[dict]) -> tuple[list[dict], str]:
    """The rows of trainings that are large enough to judge by, and a sentence on the others.

    Too small is one with fewer than ten checkpoints or, with true labels, one whose accuracy never reached twice the share of
    the most frequent class.
    """

    def enough(row: dict) -> bool:
        how = row["made"]
        learned = NETS[row["net"]].shuffled or how["best"] >= 2 * how["most_frequent"]
        return how["checkpoints"] >= _FEWEST and learned

    small = dict.fromkeys(row["net"] for row in rows if not enough(row))
    return [row for row in rows if enough(row)], f" Too small to judge: {', '.join(small)}." if small else ""


def made(rows: Sequence[dict]) -> Table:
    """How every net was trained, by which command."""
    lines, kept = [], judged(rows)[0]
    for name, group in by_net(rows).items():
        net, how = NETS[name], group[0]["made"]
        lines.append([
            name, net.data + (", labels shuffled" if net.shuffled else ""), net.model, how["shape"], f"{how['pictures']:,}",
            f"{how['tests']:,}", how["checkpoints"], net.batch, len(group), f"`{how['command']}`",
            f"{how['date']}, {how['device']}, torch {how['torch']}", "" if group[0] in kept else "too small",
        ])  # fmt: skip
    columns = ["net", "data", "model", "pictures of", "to train", "to test", "checkpoints", "batch", "seeds", "command", "made",
               "to judge"]  # fmt: skip
    note = (
        f"Too small to judge is a training with fewer than {_FEWEST} checkpoints or, with true labels, one whose accuracy "
        "never reached twice the share of the most frequent class."
    )
    return Table("How each net was trained", columns, lines, note)
