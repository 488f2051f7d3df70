"""Data sets by name: what is in them, where they are found, what is said when they are not there."""

import gzip
import hashlib
import json
import os
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from cofire import archives
from cofire.data import Batches, catalog, load
from cofire.errors import DataError, FileError, InputError
from pictures import cifar_of, counts, idx_of, png, same, tar_of

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


# ---------------------------------------------------------------- laws


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


# ---------------------------------------------------------------- reference: layouts


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
    with pytest.raises(InputError, match=f"between 1 and the 1,437 pictures there are in train; found {limit}"):
        load("digits", limit=limit)


def test_a_missing_crops_file_is_named(tmp_path):
    tar_of(tmp_path / "plantvillage" / "plantvillage-segmented64-jpg95.tar.gz", {"train/a b/1.png": png(1)})
    with pytest.raises(FileError, match=r"crops.json maps class folders to crops"):
        load("plantvillage-crops", root=tmp_path)
    (tmp_path / "plantvillage" / "crops.json").write_text(json.dumps({"a b": "corn"}))
    assert load("plantvillage-crops", root=tmp_path).classes == ("corn",)
    assert isinstance(load("plantvillage-crops", root=tmp_path).batches(), Batches)
