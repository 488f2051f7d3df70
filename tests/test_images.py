"""Pictures in memory and their batches: nothing lost, nothing stretched, the same again."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cofire.data import Images, load
from cofire.errors import InputError
from cofire.images import spread
from pictures import counts, same


def made(samples=30, classes=3, stored=3, side=8, **options) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (samples, stored, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(samples) % classes
    return Images(pixels, labels, tuple(f"class {index}" for index in range(classes)), **options)


# ---------------------------------------------------------------- laws: batches


@pytest.mark.parametrize("batch_size", [1, 7, 30, 100])
def test_batches_are_the_pictures_in_order(batch_size):
    images = made()
    batches = images.batches(batch_size)
    found = list(batches)
    assert len(found) == len(batches)
    assert (batches.samples, batches.classes, batches.dataset) == (30, images.classes, images)
    inputs, labels = (torch.cat(part) for part in zip(*found, strict=True))
    assert torch.equal(inputs, images.pixels.float() / 255)
    assert torch.equal(labels, images.labels)
    assert torch.equal(inputs, torch.stack([picture for picture, _ in images]))


def test_batches_agree_with_a_data_loader():
    images = made(samples=20, stored=1, size=(6, 6), channels=3)
    for (one, a), (other, b) in zip(images.batches(8), DataLoader(images, batch_size=8), strict=True):
        assert one.shape == other.shape == (len(a), 3, 6, 6)
        assert torch.allclose(one, other, atol=1e-6)
        assert torch.equal(a, b)


def test_a_rest_of_one_is_no_batch_to_train_on():
    images = made()
    size = next(size for size in range(2, len(images)) if len(images) % size == 1)
    training = images.batches(size, shuffle=True)
    assert [len(labels) for _, labels in training] == [size] * (len(training) - 1) + [size + 1]
    assert [len(labels) for _, labels in images.batches(size)][-1] == 1


def test_each_pass_has_its_own_order_and_can_be_repeated():
    batches = made().batches(4, shuffle=True, seed=3)
    passes = [torch.cat([inputs for inputs, _ in batches]) for _ in range(3)]
    assert not torch.equal(passes[0], passes[1])
    assert torch.equal(passes[0].flatten().sort()[0], passes[1].flatten().sort()[0])
    batches.epoch = 1
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), passes[1])
    other = made().batches(30, shuffle=True, seed=3)
    assert torch.equal(next(iter(other))[0], passes[0])


def test_changing_a_batch_leaves_the_data_alone():
    images = Images(torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64), ("one",))
    before = images.digest
    for inputs, labels in images.batches(2):
        inputs.zero_()
        labels.fill_(9)
    assert Images(images.pixels, images.labels, ("one",)).digest == before


def test_pixels_are_scaled_and_normalised():
    images = made()
    (inputs, _), (plain, _) = next(iter(images.batches(normalize="imagenet"))), next(iter(images.batches()))
    assert (plain.min() >= 0, plain.max() <= 1) == (True, True)
    for channel, (mean, deviation) in enumerate(zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)):
        assert torch.allclose(inputs[:, channel], (plain[:, channel] - mean) / deviation)


def test_gray_and_colour_turn_into_each_other():
    colour = made()
    gray = Images(colour.pixels, colour.labels, colour.classes, channels=1)
    wanted = [np.asarray(Image.fromarray(p.permute(1, 2, 0).numpy()).convert("L")) for p in colour.pixels]
    (found, _) = next(iter(gray.batches(30)))
    assert np.abs(found[:, 0].numpy() * 255 - np.stack(wanted)).max() <= 1
    back = Images(made(stored=1).pixels, colour.labels, colour.classes, channels=3)
    inputs, _ = next(iter(back.batches()))
    assert back.shape == (3, 8, 8)
    assert torch.equal(inputs[:, 0], inputs[:, 2])


def test_resizing_is_antialiased_lazy_and_never_stretches():
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    images = Images(checks.to(torch.uint8).expand(2, 1, 8, 8), torch.tensor([0, 0]), ("one",), size=(4, 4))
    (inputs, _) = next(iter(images.batches()))
    assert (images.pixels.shape[2], inputs.shape[2]) == (8, 4)
    assert (inputs - 0.5).abs().max() < 0.15  # without antialiasing a checkerboard gives 0 and 1
    ramp = torch.arange(16, dtype=torch.uint8).repeat(8, 1).expand(1, 1, 8, 16)
    wide = Images(ramp, torch.tensor([0]), ("one",), size=(8, 8))
    assert torch.equal(wide[0][0] * 255, ramp[0, :, :, 4:12].float())


def test_digest_sees_pixels_and_labels_only():
    images = made()
    assert images.digest == Images(images.pixels.clone(), images.labels.clone(), images.classes, "x", size=(4, 4)).digest
    assert images.digest != Images(images.pixels, images.labels.flip(0), images.classes).digest
    assert images.digest != images.subset(range(29)).digest


# ---------------------------------------------------------------- laws: parts


def test_a_limit_takes_classes_equally_while_they_last():
    labels = np.array([0] * 50 + [1] * 3 + [2] * 50)
    chosen = spread(labels, 23, seed=0, equal=True)
    assert np.bincount(labels[chosen]).tolist() == [10, 3, 10]
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert not np.array_equal(chosen, spread(labels, 23, seed=1, equal=True))


def test_a_split_keeps_proportions_and_shares_nothing():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    images = Images(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), labels, ("a", "b", "c"))
    first, second = images.split(0.7, seed=2)
    assert (counts(first), counts(second)) == ([42, 21, 7], [18, 9, 3])
    assert sorted([*first.pixels.flatten().tolist(), *second.pixels.flatten().tolist()]) == list(range(100))
    assert same(images.split(0.7, seed=2)[0], first)


# ---------------------------------------------------------------- degenerate


def test_no_pictures_make_no_batches():
    empty = made().subset([])
    assert (len(empty), len(empty.batches()), list(empty.batches())) == (0, 0, [])
    assert len(empty.digest) == 64
    with pytest.raises(IndexError):
        empty[0]


def test_one_picture_of_one_class():
    one = made(samples=1, classes=1)
    ((inputs, labels),) = one.batches()
    assert (inputs.shape, labels.tolist()) == ((1, 3, 8, 8), [0])
    assert repr(one) == "Images(images all: 1 of 3x8x8, 1 classes)"


# ---------------------------------------------------------------- errors


def test_images_check_what_they_are_given():
    pixels, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    for arguments, words in (
        ((pixels[0], labels, ("a", "b")), r"\[samples, channels, height, width\]; found torch.uint8 \[3, 4, 4\]"),
        ((pixels, labels[:1], ("a", "b")), r"labels are int64 \[2\]; found torch.int64 \[1\]"),
        ((pixels, labels.float(), ("a", "b")), r"found torch.float32 \[2\]"),
        ((pixels, labels, ("a",)), "labels go from 0 to 0, one per class; found 0 to 1"),
        ((pixels[:, :2], labels, ("a", "b"), "x", "all", None, 3), "channels is 1 .gray. or 3 .colour.; found 3"),
        ((pixels, labels, ("a", "b"), "x", "all", (0, 4)), "size is a height and a width"),
    ):
        with pytest.raises(InputError, match=words):
            Images(*arguments)


def test_batches_and_parts_check_what_they_are_given():
    images = made(stored=1)
    for call, words in (
        (lambda: images.batches(0), "batch_size is 1 or more; found 0"),
        (lambda: images.batches(seed=-1), "seed must be a whole number from 0 to"),
        (lambda: images.batches(normalize="imagenet"), "each of 1 channels; .*Load the data with channels=3"),
        (lambda: images.batches(normalize=((0.5,), (0.0,))), "positive deviation"),
        (lambda: images.split(1.0), "found 1.0 of 30"),
        (lambda: images.split(0.001), "leaves neither part empty"),
        (lambda: images.subset([30]), "indices go from 0 to 29; found 30 to 30"),
        (lambda: load("digits", seed=-1), "seed must be a whole number from 0 to"),
    ):
        with pytest.raises(InputError, match=words):
            call()
