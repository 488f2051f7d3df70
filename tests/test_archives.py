"""Readers of pictures: they agree with each other, and say what is wrong with a file."""

import gzip
import io
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from cofire import archives
from cofire.data import load
from cofire.errors import DataError, FileError
from pictures import cifar_of, folder_of, idx_of, png, same, tar_of

# ---------------------------------------------------------------- reference


def test_archive_folder_and_hugging_face_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    datasets.disable_progress_bars()
    with tarfile.open(cifar_of(tmp_path)) as archive:
        archive.extractall(tmp_path / "open", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # from 3.11.4
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
    before = threading.active_count()
    found = load(f"folder:{folder_of(tmp_path, {'a/1.png': stream.getvalue(), 'b/2.png': png(3, (96, 96), 'L')})}")
    assert found.shape == (3, 96, 96)
    assert np.array_equal(found.pixels[0].permute(1, 2, 0).numpy(), noise)
    assert threading.active_count() <= before


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not gzip", "Not a gzipped file"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x05"), "starts with 00 00 08 03, not 00 00 08 01"),
        (gzip.compress(b"\0\0\x08\x03\0\0\0\x02\0\0\0\x01\0\0\0\x01\x05"), "17 bytes where its header"),
        (gzip.compress(b""), "not an empty file"),
        (gzip.compress(bytes(1000))[:-6], "ended before"),
    ],
    ids=["foreign", "labels", "short", "empty", "truncated"],
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
