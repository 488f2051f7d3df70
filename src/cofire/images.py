"""Labelled pictures in memory, and the batches that a model is fed with."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, final

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from cofire.errors import InputError, checked_seed

__all__ = ["Batches", "Images", "Normalize", "spread"]

Normalize = Literal["imagenet"] | tuple[Sequence[float], Sequence[float]] | None

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's mode L


@final
@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Labelled pictures, kept as they were stored; resized and recoloured only as they are read.

    A map-style data set: `len`, and `images[i]` gives `(picture, label)`, so that a torch `DataLoader` works on it.
    `batches` is much faster.

    Attributes:
        pixels: uint8 from 0 to 255, or floats from 0 to 1, [samples, channels, height, width].
        labels: int64 class indices, [samples].
        classes: The class names in index order.
        name: The data set's.
        part: The split that these are (`train`, `test`, `ood`, ...).
        size: Height and width of what is read, or None for the stored ones. Pictures are cut from the middle to
            this shape, then resized (antialiased bilinear).
        channels: 1 turns colour to gray (ITU-R 601), 3 repeats gray, None leaves both.

    Raises:
        InputError: Shapes or types other than these, or a label that is no class index.

    Example:
        >>> images = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("no", "yes"))
        >>> images
        Images(images all: 4 of 1x8x8, 2 classes)
        >>> [inputs.shape[0] for inputs, labels in images.batches(3)]
        [3, 1]
    """

    pixels: Shaped[Tensor, "samples stored_channels stored_height stored_width"]
    labels: Int64[Tensor, " samples"]
    classes: tuple[str, ...]
    name: str = "images"
    part: str = "all"
    size: tuple[int, int] | None = None
    channels: int | None = None

    def __post_init__(self):
        pixels, labels = self.pixels, self.labels
        if pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
            raise InputError(
                "pixels are uint8 or floats, [samples, channels, height, width]",
                f"found {pixels.dtype} {list(pixels.shape)}",
            )
        if labels.dtype != torch.int64 or list(labels.shape) != [len(pixels)]:
            raise InputError(f"labels are int64 [{len(pixels)}]", f"found {labels.dtype} {list(labels.shape)}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            span = f"{int(labels.min())} to {int(labels.max())}"
            raise InputError(f"labels go from 0 to {len(self.classes) - 1}, one per class", f"found {span}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError("size is a height and a width from 1 up", f"found {self.size}")
        if self.channels is not None and (self.channels not in (1, 3) or pixels.shape[1] not in (1, 3)):
            raise InputError("channels is 1 (gray) or 3 (colour)", f"found {self.channels} for pictures of {pixels.shape[1]}")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "channels height width"], int]:
        label = int(self.labels[index])  # an index out of range is an IndexError, which ends a plain loop
        return self._read(self.pixels[index][None])[0], label

    def __repr__(self):
        shape = "x".join(str(length) for length in self.shape)
        return f"Images({self.name} {self.part}: {len(self):,} of {shape}, {len(self.classes)} classes)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one picture as it is read."""
        _, channels, height, width = self.pixels.shape
        height, width = self.size or (height, width)
        return self.channels or channels, height, width

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the stored pixels and the labels, in hexadecimal; `size` and `channels` do not enter."""
        total = hashlib.sha256(f"{self.pixels.dtype} {tuple(self.pixels.shape)}".encode())
        total.update(self.pixels.cpu().contiguous().numpy().data)
        total.update(self.labels.cpu().contiguous().numpy().data)
        return total.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray | Tensor) -> "Images":
        """The pictures of these indices, in this order.

        Raises:
            InputError: An index that is not there.
        """
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(self):
            raise InputError(f"indices go from 0 to {len(self) - 1}", f"found {int(chosen.min())} to {int(chosen.max())}")
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen])

    def split(self, fraction: float, seed: int = 0) -> "tuple[Images, Images]":
        """Two disjoint parts, each with the classes in the same proportions (as nearly as whole pictures allow).

        Args:
            fraction: Share of the first part, between 0 and 1; it gets `round(fraction * len(self))` pictures.
            seed: Which pictures go where. The order inside each part stays.

        Raises:
            InputError: A fraction that leaves one part empty.
        """
        count = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < count < len(self):
            raise InputError("fraction is between 0 and 1 and leaves neither part empty", f"found {fraction} of {len(self)}")
        first = spread(self.labels.numpy(), count, checked_seed(seed), equal=False)
        return self.subset(first), self.subset(np.setdiff1d(np.arange(len(self)), first))

    def batches(
        self,
        batch_size: int = 256,
        *,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        normalize: Normalize = None,
    ) -> "Batches":
        """Batches of `(inputs, labels)` that can be run through any number of times; see `Batches`."""
        return Batches(self, batch_size, shuffle=shuffle, seed=seed, device=device, normalize=normalize)

    def _read(self, pixels: Tensor) -> Float[Tensor, "batch channels height width"]:
        # A copy always: what a caller does to a batch in place stays out of the data.
        inputs = pixels.to(torch.float32, copy=True)
        if pixels.dtype == torch.uint8:
            inputs /= 255
        if self.channels == 1 and inputs.shape[1] == 3:
            inputs = (inputs * inputs.new_tensor(_LUMINANCE).view(3, 1, 1)).sum(1, keepdim=True)
        if self.size is not None and tuple(inputs.shape[2:]) != self.size:
            inputs = _fit(inputs, *self.size)
        return inputs.repeat(1, 3, 1, 1) if self.channels == 3 and inputs.shape[1] == 1 else inputs


@final
class Batches:
    """Slices of `Images` as float32 inputs from 0 to 1 (or normalised) and int64 labels.

    Each `iter()` starts anew. With `shuffle` each one has its own order, set by the seed and by `epoch`, which counts
    the passes; assign `epoch` to repeat one.

    Args:
        dataset: The pictures.
        batch_size: Samples in each batch but the last, which has the rest. With ``shuffle``, which is for training, a rest of
            one goes to the batch before it: normalisation over a batch needs two.
        shuffle: Whether the order changes with each pass.
        seed: Of the orders.
        device: Where the batches are put; None leaves them where the pictures are.
        normalize: `"imagenet"`, or a mean and a standard deviation per channel, subtracted and divided by.

    Raises:
        InputError: A batch size below 1, a negative seed, or means and deviations that are not one per channel.
    """

    def __init__(
        self,
        dataset: Images,
        batch_size: int = 256,
        *,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        normalize: Normalize = None,
    ):
        if batch_size < 1:
            raise InputError("batch_size is 1 or more", f"found {batch_size}")
        self.dataset, self.batch_size, self.shuffle, self.device = dataset, batch_size, shuffle, device
        self.seed = checked_seed(seed)
        self.epoch = 0
        self.normalize = _IMAGENET if normalize == "imagenet" else normalize
        if self.normalize is not None:
            lengths, channels = [len(part) for part in self.normalize], dataset.shape[0]
            if lengths != [channels, channels] or min(self.normalize[1]) <= 0:
                raise InputError(
                    f"normalize is a mean and a positive deviation for each of {channels} channels",
                    f"found {self.normalize}",
                    "Load the data with channels=3 for ImageNet's." if normalize == "imagenet" else "",
                )

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[tuple[Float[Tensor, "batch channels height width"], Int64[Tensor, " batch"]]]:
        order = None
        if self.shuffle:
            order = torch.from_numpy(np.random.default_rng([self.seed, self.epoch]).permutation(len(self.dataset)))
        self.epoch += 1
        return self._slices(order)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names in index order."""
        return self.dataset.classes

    @property
    def reading(self) -> str:
        """How the pictures are read: their shape and the normalisation, which the digest of the data does not know."""
        normalised = "" if self.normalize is None else f", normalised by {self.normalize}"
        return f"{'x'.join(map(str, self.dataset.shape))}{normalised}"

    @property
    def samples(self) -> int:
        """How many pictures one pass gives."""
        return len(self.dataset)

    def _starts(self) -> list[int]:
        starts = list(range(0, len(self.dataset), self.batch_size))
        alone = self.shuffle and self.batch_size > 1 and len(starts) > 1 and starts[-1] == len(self.dataset) - 1
        return starts[:-1] if alone else starts

    def _slices(self, order: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
        pixels, labels = self.dataset.pixels, self.dataset.labels
        for start, end in pairwise([*self._starts(), len(labels)]):
            part = slice(start, end) if order is None else order[start:end]
            inputs = self.dataset._read(pixels[part].to(device=self.device))
            if self.normalize is not None:
                mean, deviation = (inputs.new_tensor(list(values)).view(-1, 1, 1) for values in self.normalize)
                inputs = (inputs - mean) / deviation
            yield inputs, labels[part].to(device=self.device, copy=True)


def spread(labels: np.ndarray, count: int, seed: int, *, equal: bool) -> np.ndarray:
    """Indices of a random part that is spread over the classes, in ascending order.

    Args:
        labels: Class indices [samples].
        count: How many to take.
        seed: Which ones.
        equal: Take equally many of each class while they last; otherwise keep the classes' proportions.

    Returns:
        Indices [count].
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels[order]
    grouped = np.argsort(shuffled, kind="stable")
    _, starts, counts = np.unique(shuffled[grouped], return_index=True, return_counts=True)
    rank = np.empty(len(labels))
    rank[grouped] = np.arange(len(labels)) - np.repeat(starts, counts)  # each sample's place within its class
    if not equal:
        rank[grouped] = (rank[grouped] + 0.5) / np.repeat(counts, counts)
    return np.sort(order[np.argsort(rank, kind="stable")[:count]])


def _fit(inputs: Tensor, height: int, width: int) -> Tensor:
    before, across = inputs.shape[2:]
    if before * width != across * height:  # cut the longer side, so that nothing is stretched
        tall, wide = min(before, round(across * height / width)), min(across, round(before * width / height))
        top, left = (before - tall) // 2, (across - wide) // 2
        inputs = inputs[:, :, top : top + max(tall, 1), left : left + max(wide, 1)]
    return torch.nn.functional.interpolate(inputs, (height, width), mode="bilinear", antialias=True)
