"""From names on the command line to a model and its data, each process of a torchrun with its own share."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from cofire.images import Images
    from cofire.stats import FiringStats

__all__ = ["DataSource", "ModelSource", "processes", "share", "subject"]


@dataclass(frozen=True)
class DataSource:
    """A data set as the command line names it; the fields are the options of the same names."""

    data: str = "digits"
    split: str = "train"
    root: Path | None = None
    size: int | None = None
    channels: int | None = None
    limit: int | None = None
    seed: int = 0
    shuffle_labels: bool = False
    cache: Path | None = None
    download: bool = False

    def load(self, split: str | None = None) -> "Images":
        """The pictures of a split, by default of this one; of another all, where they are fewer than the limit."""
        from cofire.data import load

        return load(
            self.data, split or self.split, root=self.root, size=self.size, channels=self.channels, limit=self.limit,
            clip=split not in (None, self.split), seed=self.seed, shuffle_labels=self.shuffle_labels, cache=self.cache,
            download=self.download,
        )  # fmt: skip


@dataclass(frozen=True)
class ModelSource:
    """A model as the command line names it."""

    name: str
    weights: Path | None = None
    classes: int | None = None
    seed: int = 0

    def build(self, images: "Images | None" = None, device: str | None = None) -> "nn.Module":
        """The model on a device, with as many outputs as the data has classes where that is open."""
        from cofire.wrappers import device_of
        from cofire.zoo import model

        fixed = ":" not in self.name or not self.name.startswith(("zoo:", "torchvision:", "timm:"))
        classes = self.classes if self.classes is not None else None if fixed or images is None else len(images.classes)
        net = model(self.name, weights=self.weights, classes=classes, seed=self.seed)
        return net if device is None else net.to(device_of(net, device))


def subject(
    model: ModelSource, data: DataSource, stats: Path | None, normalize: Any, device: str | None = None, **choices: Any
) -> "tuple[nn.Module, Any, FiringStats]":
    """A model, batches of its training data, and its statistics.

    Args:
        model: The model.
        data: Its training data.
        stats: A file of its statistics; else its training data is recorded now.
        normalize: As for batches.
        device: Where the model is to be.
        choices: How to record.
    """
    from cofire.errors import CofireWarning
    from cofire.recording import record
    from cofire.stats import load

    images = data.load()
    net = model.build(images, device)
    if model.weights is None and not model.name.endswith(".pt2"):
        said = f"no --weights: {model.name} is as it is made, with random weights unless it brings its own"
        warnings.warn(said, CofireWarning, stacklevel=2)
    batches = images.batches(256, normalize=normalize)
    if stats is None:
        return net, batches, record(net, batches, **choices)
    loaded = load(stats)
    if (held := loaded.header.get("data", {}).get("name", images.name)) != images.name:
        said = f"{stats} is of {held!r}, not of {images.name!r}: what follows rests on statistics of other data"
        warnings.warn(said, CofireWarning, stacklevel=2)
    return net, batches, loaded


@contextmanager
def processes() -> Iterator[tuple[int, int]]:
    """Rank and number of processes; joins those that torchrun started."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    import torch
    import torch.distributed as dist

    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def share(images: "Images", rank: int, world: int) -> Any:
    """Every world-th picture from the rank-th on: shares that do not overlap and leave nothing out."""
    return images if world == 1 else images.subset(range(rank, len(images), world))
