"""Data sets: what is in them, how they are cut into batches, and what is said when they are not there."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from cofire import archives
from cofire.data import Batches, Images, catalog, load
from cofire.errors import DataError, FileError, InputError
from cofire.images import spread

MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
LEAVES_TEST = [126, 124, 55, 328, 300, 103, 238, 197, 232, 375, 199, 296, 222, 91]
CROPS_TEST = {
    "apple": 633,
    "blueberry and cherry": 300,
    "corn": 770,
    "orange": 375,
    "peach and pepper": 495,
    "strawberry and squash": 313,
}


def counts(images: Images) -> list[int]:
    return torch.bincount(images.labels, minlength=len(images.classes)).tolist()


def made(samples=30, classes=3, stored=3, side=8, **options) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (samples, stored, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(samples) % classes
    return Images(pixels, labels, tuple(f"class {index}" for index in range(classes)), **options)


def same(one: Images, other: Images) -> bool:
    return (one.digest, one.classes, one.shape) == (other.digest, other.classes, other.shape)


def png(value: int, side=(8, 8), mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full(side, value, np.uint8)).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def tar_of(path, files: dict[str, bytes]):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder_of(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def idx_of(path, values: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def cifar_of(root, side=(8, 8)):
    """A root whose CIFAR-10 archive has three classes, in two splits."""
    names = {"test": 2, "train": 5}
    files = {
        f"{split}/{name}/{index}.png": png(40 * place + index + 7 * (split == "test"), side)
        for split, count in names.items()
        for place, name in enumerate(("cat", "dog", "ship"))
        for index in range(count)
    }
    return tar_of(root / "cifar10" / "cifar10-jpg95.tar.gz", files)


# ---------------------------------------------------------------- closed form: the sets that everybody knows


def test_digits_are_scikit_learns_split_by_class():
    from sklearn.datasets import load_digits

    train, test = load("digits"), load("digits", "test")
    assert (len(train), len(test), train.shape) == (1437, 360, (1, 8, 8))
    assert train.pixels.dtype == torch.float32
    assert (train.pixels.min(), train.pixels.max()) == (0, 1)
    whole = load_digits()
    assert [a + b for a, b in zip(counts(train), counts(test), strict=True)] == np.bincount(whole.target).tolist()
    assert max(abs(b / (a + b) - 0.2) for a, b in zip(counts(train), counts(test), strict=True)) < 0.01
    rows = {row.tobytes() for row in (whole.images / 16).astype(np.float32)}
    assert {row.tobytes() for row in torch.cat([train.pixels, test.pixels]).numpy()} == rows


@pytest.mark.data
def test_mnist_is_the_original_byte_for_byte(data_root):
    train, test = load("mnist", root=data_root), load("mnist", "test", root=data_root)
    assert (counts(train), counts(test)) == (MNIST_TRAIN, MNIST_TEST)
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    assert hashlib.md5(header + train.pixels.numpy().tobytes()).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    marks = bytes.fromhex("00000801 00002710") + test.labels.to(torch.uint8).numpy().tobytes()
    assert hashlib.md5(marks).hexdigest() == "27ae3e4e09519cfbb04c329615203637"


@pytest.mark.data
def test_fashion_mnist_is_the_original_byte_for_byte(data_root):
    test = load("fashion-mnist", "test", root=data_root)
    assert counts(test) == [1000] * 10
    assert test.classes[0] == "T-shirt/top"
    assert test.classes[9] == "Ankle boot"
    published = (data_root / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").read_bytes()
    assert hashlib.md5(published).hexdigest() == "bef4ecab320f06d8554ea6380940ec79"
    assert gzip.decompress(published)[16:] == test.pixels.numpy().tobytes()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "classes", "first"),
    [("cifar10", 10, "airplane/aeroplane_s_000002.jpg"), ("cifar100", 100, "apple/apple_s_000022.jpg")],
)
def test_cifar_has_equal_classes_in_the_usual_order_and_the_archives_pictures(data_root, name, classes, first):
    test = load(name, "test", root=data_root)
    assert (test.shape, counts(test)) == ((3, 32, 32), [10_000 // classes] * classes)
    assert list(test.classes) == sorted(test.classes)
    assert first.startswith(test.classes[0])
    with tarfile.open(data_root / name / f"{name}-jpg95.tar.gz") as archive:
        member = next(member for member in archive if member.isfile())
        file = archive.extractfile(member)
        assert file is not None
        assert np.array_equal(test.pixels[0].permute(1, 2, 0).numpy(), np.asarray(Image.open(file)))
    assert member.name == f"test/{first}"


@pytest.mark.data
def test_plantvillage_by_leaf_by_crop_and_out_of_distribution(data_root, tmp_path):
    leaves = load("plantvillage", "test", root=data_root, cache=tmp_path)
    crops = load("plantvillage-crops", "test", root=data_root, cache=tmp_path)
    ood = load("plantvillage", "ood", root=data_root)
    assert (counts(leaves), leaves.shape) == (LEAVES_TEST, (3, 64, 64))
    assert dict(zip(crops.classes, counts(crops), strict=True)) == CROPS_TEST
    assert torch.equal(crops.pixels, leaves.pixels)
    assert (ood.classes, len(ood)) == (("Raspberry___healthy",), 371)
    assert same(load("plantvillage", "test", root=data_root, cache=tmp_path), leaves)


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


# ---------------------------------------------------------------- laws: subsets


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


def test_shuffled_labels_are_a_permutation_set_by_the_seed():
    plain, mixed = load("digits"), load("digits", shuffle_labels=True)
    assert counts(mixed) == counts(plain)
    assert 0.05 < (mixed.labels == plain.labels).float().mean() < 0.15
    assert mixed.digest == load("digits", shuffle_labels=True).digest
    assert mixed.digest != load("digits", shuffle_labels=True, seed=1).digest
    assert mixed.name == "digits mixed"


def test_limit_decodes_only_what_it_takes(tmp_path, monkeypatch):
    cifar_of(tmp_path)
    decoded = []
    original = archives._picture
    monkeypatch.setattr(archives, "_picture", lambda file, *rest: decoded.append(file) or original(file, *rest))
    whole = load("cifar10", root=tmp_path, limit=15)
    assert len(decoded) == 15
    part = load("cifar10", root=tmp_path, limit=6, seed=4)
    assert len(decoded) == 21
    assert counts(part) == [2, 2, 2]
    kept = {bytes(pixels.numpy().tobytes()) for pixels in whole.pixels}
    assert {bytes(pixels.numpy().tobytes()) for pixels in part.pixels} <= kept


# ---------------------------------------------------------------- reference: readers


def test_archive_folder_and_hugging_face_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    with tarfile.open(cifar_of(tmp_path)) as archive:
        archive.extractall(tmp_path / "open", filter="data")
    for split in ("train", "test"):
        tar = load("cifar10", split, root=tmp_path)
        folder = load(f"folder:{tmp_path / 'open'}", split)
        face = load(f"hf:{tmp_path / 'open'}", split)
        assert same(tar, folder)
        assert face.classes == tar.classes
        order = face.pixels[:, 0, 0, 0].argsort()
        assert torch.equal(face.pixels[order], tar.pixels[tar.pixels[:, 0, 0, 0].argsort()])
    with pytest.raises(DataError, match="gave no split 'validation'"):
        load(f"hf:{tmp_path / 'open'}", "validation")


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("end", [".gz", ""])
def test_idx_files_are_found_in_both_layouts(tmp_path, place, end, monkeypatch):
    pixels = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    idx_of(tmp_path / place / f"t10k-images-idx3-ubyte{end}", pixels)
    idx_of(tmp_path / place / f"t10k-labels-idx1-ubyte{end}", np.array([7, 0, 9], np.uint8))
    monkeypatch.setenv("COFIRE_DATA", str(tmp_path))
    found = load("mnist", "test")
    assert np.array_equal(found.pixels[:, 0].numpy(), pixels)
    assert found.labels.tolist() == [7, 0, 9]


def test_torchvisions_cifar_is_read_by_torchvision(tmp_path, monkeypatch):
    sets = pytest.importorskip("torchvision.datasets")
    pickle = pytest.importorskip("pickle")  # only to forge the files that torchvision reads
    raw = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    sums = {}
    for name, content in (
        ("test_batch", {"data": raw.reshape(4, -1), "labels": [3, 1, 0, 3]}),
        ("batches.meta", {"label_names": [str(index) for index in range(10)]}),
    ):
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(sets.CIFAR10, "train_list", [])
    monkeypatch.setattr(sets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(sets.CIFAR10, "meta", {**sets.CIFAR10.meta, "md5": sums["batches.meta"]})
    found = load("cifar10", "test", root=tmp_path)
    assert np.array_equal(found.pixels.numpy(), raw)
    assert found.labels.tolist() == [3, 1, 0, 3]
    (folder / "test_batch").write_bytes(b"another")
    with pytest.raises(DataError, match="torchvision could not bring cifar10"):
        load("cifar10", "test", root=tmp_path)


def test_a_folder_without_splits_is_every_split(tmp_path):
    folder_of(tmp_path, {"b/1.png": png(1), "a/2.PNG": png(2), "a/notes.txt": b"no picture"})
    found = load(f"folder:{tmp_path}", "test")
    assert (found.part, found.classes, found.labels.tolist()) == ("all", ("a", "b"), [0, 1])
    assert found.pixels[:, 0, 0, 0].tolist() == [2, 1]


def test_classes_are_numbered_as_in_train(tmp_path):
    folder_of(tmp_path, {"train/a/1.png": png(1), "train/b/1.png": png(1), "test/b/1.png": png(1)})
    test = load(f"folder:{tmp_path}", "test")
    assert (test.classes, test.labels.tolist()) == (("a", "b"), [1])
    folder_of(tmp_path, {"test/c/1.png": png(1)})
    with pytest.raises(DataError, match=r"classes that .*train has not; c"):
        load(f"folder:{tmp_path}", "test")


@pytest.mark.parametrize(
    ("mode", "value", "shape"),
    [("L", 9, 1), ("1", 255, 1), ("LA", 9, 1), ("P", 9, 3), ("RGBA", 9, 3), ("I;16", 9, 1)],
)
def test_every_kind_of_picture_is_read_at_its_value(tmp_path, mode, value, shape):
    stream = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.full((4, 4), value * 257, np.uint16)).save(stream, "PNG")
    else:
        Image.fromarray(np.full((4, 4), value, np.uint8)).convert(mode).save(stream, "PNG")
    found = load(f"folder:{folder_of(tmp_path, {'a/1.png': stream.getvalue()})}")
    assert (found.shape, found.pixels.unique().tolist()) == ((shape, 4, 4), [value])


def test_gray_among_colour_becomes_colour_and_large_files_use_threads(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > archives._THREADED_FROM
    found = load(f"folder:{folder_of(tmp_path, {'a/1.png': stream.getvalue(), 'b/2.png': png(3, (96, 96), 'L')})}")
    assert found.shape == (3, 96, 96)
    assert np.array_equal(found.pixels[0].permute(1, 2, 0).numpy(), noise)
    assert threading.active_count() < 8


# ---------------------------------------------------------------- cache


def test_the_cache_gives_the_same_and_is_used_only_for_the_same_files(tmp_path, monkeypatch):
    archive, cache = cifar_of(tmp_path), tmp_path / "cache"
    plain = load("cifar10", root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10"]
    assert same(load("cifar10", root=tmp_path, cache=cache), plain)
    reads = []
    original = archives._picture
    monkeypatch.setattr(archives, "_picture", lambda *arguments: reads.append(1) or original(*arguments))
    assert same(load("cifar10", root=tmp_path, cache=cache), plain)
    load("cifar10", root=tmp_path, cache=cache, size=5, channels=1, shuffle_labels=True)
    assert reads == []
    assert len(load("cifar10", root=tmp_path, cache=cache, limit=4)) == 4
    assert len(reads) == 4
    reads.clear()
    os.utime(archive, (1, 1))
    load("cifar10", root=tmp_path, cache=cache)
    assert len(reads) == 15
    assert [path.name for path in cache.iterdir() if "tmp" in path.name] == []


def test_a_damaged_cache_is_written_anew(tmp_path):
    cifar_of(tmp_path)
    plain = load("cifar10", root=tmp_path, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert same(load("cifar10", root=tmp_path, cache=tmp_path / "cache"), plain)
    assert same(load("cifar10", root=tmp_path, cache=tmp_path / "cache"), plain)


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


def test_catalog_names_what_load_takes():
    assert {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "plantvillage", "plantvillage-crops"} < set(catalog())
    for line in catalog().values():
        assert len(line) < 100


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("fashion_mnist", "train", "no data set named 'fashion_mnist'; closest: 'fashion-mnist'. See cofire.data"),
        ("xyz", "train", "no data set named 'xyz'; known: digits, mnist"),
        ("digits", "ood", "digits has no split 'ood'; it has train, test."),
        ("folder:", "train", "no data set named 'folder:'"),
    ],
)
def test_unknown_names(name, split, words):
    with pytest.raises(DataError) as raised:
        load(name, split)
    assert str(raised.value).startswith(words)


def test_missing_data_says_where_it_was_looked_for_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as raised:
        load("mnist", root=tmp_path)
    assert str(raised.value) == (
        f"mnist is not on this disk; looked for {tmp_path}/mnist/train-images-idx3-ubyte.gz and "
        f"{tmp_path}/MNIST/raw/train-images-idx3-ubyte.gz. Put it there, or name the folder that holds it with "
        "--data-root (root=) or COFIRE_DATA, or pass --download (download=True)."
    )
    with pytest.raises(DataError, match=r"looked for .*cifar100-jpg95.tar.gz and .*cifar-100-python.*--download"):
        load("cifar100", root=tmp_path)
    with pytest.raises(DataError) as raised:
        load("plantvillage", root=tmp_path, download=True)
    assert "--data-root" in str(raised.value)
    assert "--download" not in str(raised.value)


@pytest.mark.parametrize("limit", [0, -1, 1438])
def test_a_limit_that_cannot_be(limit):
    with pytest.raises(InputError, match=f"between 1 and the 1,437 pictures there are; found {limit}"):
        load("digits", limit=limit)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not gzip", "Not a gzipped file"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"), "starts with 00 00 08 03, not 00 00 08 01"),
        (gzip.compress(b"\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x01\x05"), "17 bytes where its header"),
        (gzip.compress(b""), "not an empty file"),
        (gzip.compress(bytes(1000))[:-6], "ended before"),
    ],
)
def test_a_damaged_idx_file(tmp_path, content, words):
    folder_of(tmp_path / "mnist", {"train-images-idx3-ubyte.gz": content})
    idx_of(tmp_path / "mnist" / "train-labels-idx1-ubyte.gz", np.zeros(2, np.uint8))
    with pytest.raises(FileError, match=words):
        load("mnist", root=tmp_path)


def test_pictures_and_labels_of_different_sets(tmp_path):
    idx_of(tmp_path / "mnist" / "train-images-idx3-ubyte", np.zeros((3, 2, 2), np.uint8))
    idx_of(tmp_path / "mnist" / "train-labels-idx1-ubyte", np.zeros(2, np.uint8))
    with pytest.raises(FileError, match="belong together; found 3 pictures, 2 labels"):
        load("mnist", root=tmp_path)


@pytest.mark.parametrize("cut", [20, 200, -8])
def test_a_truncated_archive(tmp_path, cut):
    archive = cifar_of(tmp_path)
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(FileError, match=r"cifar10-jpg95.tar.gz could not be read"):
        load("cifar10", "test", root=tmp_path)


def test_an_archive_with_links_or_other_things_is_refused(tmp_path):
    archive = cifar_of(tmp_path)
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("train/cat/1.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(FileError, match=r"train/cat/1.png is a link or a device"):
        load("cifar10", root=tmp_path)
    tar_of(archive, {"train/cat/1.png": b"no picture"})
    with pytest.raises(FileError, match="cannot identify image file"):
        load("cifar10", root=tmp_path)
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        load("cifar10", "test", root=tmp_path)


def test_folders_that_hold_no_data_set(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no pictures in"):
        load(f"folder:{tmp_path}")
    folder_of(tmp_path, {"train/a/1.png": png(1)})
    with pytest.raises(DataError, match="has no split 'test'; it has train"):
        load(f"folder:{tmp_path}", "test")


def test_differing_sizes_want_a_size_and_are_then_cut_not_stretched(tmp_path):
    tall = np.zeros((12, 4), np.uint8)
    tall[4:8] = 200
    stream = io.BytesIO()
    Image.fromarray(tall).save(stream, "PNG")
    folder_of(tmp_path, {"a/1.png": png(5, mode="L"), "a/2.png": stream.getvalue()})
    with pytest.raises(DataError, match=r"differ in size; found 8x8 and 12x4 \(height x width\). Pass size="):
        load(f"folder:{tmp_path}")
    for _ in range(2):
        found = load(f"folder:{tmp_path}", size=4, cache=tmp_path / "cache")
        assert found.shape == (1, 4, 4)
        assert found.pixels[1].unique().tolist() == [200]
    assert load(f"folder:{tmp_path}", size=2, cache=tmp_path / "cache").pixels.shape[2:] == (2, 2)


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
        (lambda: images.batches(seed=-1), "seed is 0 or more"),
        (lambda: images.batches(normalize="imagenet"), "each of 1 channels; .*Load the data with channels=3"),
        (lambda: images.batches(normalize=((0.5,), (0.0,))), "positive deviation"),
        (lambda: images.split(1.0), "found 1.0 of 30"),
        (lambda: images.split(0.001), "leaves neither part empty"),
        (lambda: images.subset([30]), "indices go from 0 to 29; found 30 to 30"),
        (lambda: load("digits", seed=-1), "seed is 0 or more"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_a_missing_crops_file_is_named(tmp_path):
    tar_of(tmp_path / "plantvillage" / "plantvillage-segmented64-jpg95.tar.gz", {"train/a b/1.png": png(1)})
    with pytest.raises(FileError, match=r"crops.json maps class folders to crops"):
        load("plantvillage-crops", root=tmp_path)
    (tmp_path / "plantvillage" / "crops.json").write_text(json.dumps({"a b": "corn"}))
    assert load("plantvillage-crops", root=tmp_path).classes == ("corn",)
    assert isinstance(load("plantvillage-crops", root=tmp_path).batches(), Batches)
