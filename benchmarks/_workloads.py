"""The nets and pictures that the benchmarks run on."""

import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import cofire
from cofire import data, zoo
from cofire.nets import seeded

__all__ = ["FULL", "QUICK", "Workload", "build"]

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """A model in eval mode and labelled batches, ready in memory.

    Args:
        name: Short, for the command line.
        title: For the table.
        weights: What the model's weights are.
        model: The model.
        batches: Inputs as float32 and labels.
        classes: Number of classes.
        bars: The most that our own ways may cost, by the end of their name; from the design.
    """

    name: str
    title: str
    weights: str
    model: nn.Module
    batches: list[Batch]
    classes: int
    bars: dict[str, float]

    @property
    def samples(self) -> int:
        """Number of samples."""
        return sum(len(labels) for _, labels in self.batches)

    @property
    def labels(self) -> Tensor:
        """All labels, [samples]."""
        return torch.cat([labels for _, labels in self.batches])

    @property
    def convolutional(self) -> bool:
        """Whether units are channels."""
        return any(isinstance(module, nn.Conv2d) for module in self.model.modules())

    def part(self, share: float) -> "Workload":
        """The first batches, this share of them and at least one."""
        return replace(self, batches=self.batches[: max(1, math.ceil(share * len(self.batches)))])


def _batches(images: data.Images, size: int, seed: int) -> list[Batch]:
    # Shuffled, since archives may be sorted by class; converted here, so that the plain pass is as fast as it can be.
    return list(images.batches(size, shuffle=True, seed=seed))


def _mnist(root: str | None, seed: int) -> Workload:
    images = data.load("mnist", root=root)
    model = zoo.fcnn([512, 512], 784, 10, seed=seed)
    _trained(model, images, seed)
    title = "MLP 784-512-512-10, MNIST's 60,000 training images, batch 256"
    bars = {"cofire-none": 1.5, "cofire-cache": 1.9, "cofire-cache-by-class": 1.9, "cofire-sketch": 2.3}
    return Workload("mlp", title, "one epoch of training", model.eval(), _batches(images, 256, seed), 10, bars)


def _cifar(name: str, title: str, samples: int, size: int, root: str | None, seed: int) -> Workload:
    images = data.load("cifar10", root=root, limit=samples, seed=seed)
    model = zoo.model(f"zoo:{name}", classes=10, seed=seed)
    title = f"{title}, {samples:,} training images of CIFAR-10 at 32x32, batch {size}"
    bars = dict.fromkeys(("cofire-none", "cofire-cache", "cofire-maps"), 1.1)
    short = name.partition("_")[0]
    return Workload(short, title, "random", model, _batches(images, size, seed), 10, bars)


def _digits(_root: str | None, seed: int) -> Workload:
    images = data.load("digits")
    model = zoo.fcnn([64, 32], 64, 10, seed=seed).eval()
    title = "MLP 64-64-32-10, 1,437 digits of scikit-learn, batch 128"
    return Workload("digits", title, "random", model, _batches(images, 128, seed), 10, {})


def _digits_conv(_root: str | None, seed: int) -> Workload:
    images = data.load("digits", limit=200, size=16, seed=seed)
    with seeded(seed):
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )  # fmt: skip
    title = "two convolutions, 200 digits of scikit-learn at 16x16, batch 64"
    return Workload("digits-conv", title, "random", model.eval(), _batches(images, 64, seed), 10, {})


def _vgg(root: str | None, seed: int) -> Workload:
    return _cifar("vgg16_cifar", "VGG-16", 192, 64, root, seed)


def _resnet(root: str | None, seed: int) -> Workload:
    return _cifar("resnet18_cifar", "ResNet-18", 128, 64, root, seed)


FULL: dict[str, Callable] = {"mlp": _mnist, "vgg16": _vgg, "resnet18": _resnet}
QUICK: dict[str, Callable] = {"digits": _digits, "digits-conv": _digits_conv}


def build(name: str, root: str | None, seed: int) -> Workload:
    """A workload by name; ``root`` is the folder of the data sets.

    Raises:
        DataError: The data are not on this disk.
    """
    return {**FULL, **QUICK}[name](root, seed)


def _trained(model: nn.Module, images: data.Images, seed: int) -> None:
    """Train for an epoch in a process of its own: a process that has gone backwards may not fork safely."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        process = multiprocessing.get_context("fork").Process(target=_train, args=(model, images, seed, os.fspath(file)))
        process.start()
        process.join()
        if not file.is_file():
            raise RuntimeError("training the model failed; its words are above")
        zoo.load_weights(model, file)


def _train(model: nn.Module, images: data.Images, seed: int, file: str) -> None:
    cofire.fit(model, images, epochs=1, batch_size=256, seed=seed, progress=False)
    zoo.save_weights(model, file)
