"""Weights that fit, that do not, and that are pickles."""

import pickle
import struct
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cofire import zoo
from cofire.errors import FileError, WeightsError


def equal(one: nn.Module, other: nn.Module) -> bool:
    return zoo.digest(one) == zoo.digest(other)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4, bias=False)
        self.decoder = nn.Linear(4, 4, bias=False)
        self.decoder.weight = self.encoder.weight


class ExecutedError(Exception):
    """Raised by a pickle that was opened."""


def explode():
    raise ExecutedError


class Bomb:
    def __reduce__(self):
        return explode, ()


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("name", ["fcnn:6-5-3:tanh", "zoo:004-2x200", "zoo:resnet18_cifar"])
def test_saved_equals_loaded(tmp_path, name):
    net = zoo.model(name, seed=0)
    zoo.save_weights(net, tmp_path / "a.safetensors", {"epoch": 3, "classes": ["a", "b"]})
    other = zoo.model(name, seed=1)
    assert not equal(net, other)
    assert zoo.load_weights(other, tmp_path / "a.safetensors") == {"epoch": 3, "classes": ["a", "b"]}
    assert equal(net, other)
    assert equal(zoo.model(name, weights=tmp_path / "a.safetensors"), net)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_tied_weights_are_kept_once_and_stay_tied(tmp_path):
    net, other = Tied(), Tied()
    zoo.save_weights(net, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_size < 64 + 300
    assert zoo.load_weights(other, tmp_path / "a.safetensors") == {}
    assert torch.equal(other.decoder.weight, net.encoder.weight)
    assert other.decoder.weight is other.encoder.weight


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_prefixes_of_wrappers_are_stripped(tmp_path, prefix):
    net, other = zoo.model("fcnn:6-5-3"), zoo.model("fcnn:6-5-3")
    save_file({prefix + name: value for name, value in net.state_dict().items()}, tmp_path / "a.safetensors")
    zoo.load_weights(other, tmp_path / "a.safetensors")
    assert equal(net, other)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch 2.11, of its own compiler
def test_wrapped_models_save_load_and_are_named_as_what_is_inside(tmp_path):
    net = zoo.model("fcnn:6-5-3", seed=0)
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        assert zoo.digest(wrapped) == zoo.digest(net)  # pyright: ignore[reportArgumentType]
        zoo.save_weights(wrapped, tmp_path / "a.safetensors")  # pyright: ignore[reportArgumentType]
        assert equal(zoo.model("fcnn:6-5-3", weights=tmp_path / "a.safetensors"), net)
        zoo.load_weights(wrapped, tmp_path / "a.safetensors")  # pyright: ignore[reportArgumentType]


def test_a_child_really_called_module_keeps_its_name(tmp_path):
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    zoo.save_weights(net, tmp_path / "a.safetensors")
    other = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    zoo.load_weights(other, tmp_path / "a.safetensors")
    assert equal(net, other)


def test_digest_sees_values_names_types_and_buffers():
    net = zoo.fcnn([4], 3, 2, batch_norm=True, seed=0)
    digests = {zoo.digest(net)}
    net.get_buffer("bn1.running_mean").add_(1)
    digests.add(zoo.digest(net))
    digests.add(zoo.digest(net.to(torch.bfloat16)))
    with torch.no_grad():
        net.get_parameter("head.bias").neg_()
    digests.add(zoo.digest(net))
    assert len(digests) == 4
    assert zoo.digest(net.train()) == zoo.digest(net.eval())


# ---------------------------------------------------------------- pickles are never opened


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, length):
    net, path = nn.Linear(3, 2), tmp_path / "a.safetensors"
    save_file(dict(net.state_dict()), path)
    more = length - int.from_bytes(path.read_bytes()[:8], "little")
    data = path.read_bytes()
    header = data[8 : -4 * 8].rstrip()
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + data[-4 * 8 :])
    assert more > 0
    assert path.read_bytes()[:2] == length.to_bytes(2, "little")
    other = nn.Linear(3, 2)
    zoo.load_weights(other, path)
    assert equal(net, other)


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_is_refused_unopened_with_the_way_out(tmp_path, protocol):
    net = zoo.model("fcnn:6-5-3")
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Bomb(), protocol))
    torch.save(Bomb(), tmp_path / "b.pth")
    torch.save(Bomb(), tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(WeightsError, match="is a pickle, which is never opened here"):
            zoo.load_weights(net, path)
    with pytest.raises(WeightsError) as raised:
        zoo.model("fcnn:6-5-3", weights=tmp_path / "b.pth")
    assert str(raised.value).splitlines()[1:] == [
        "    import torch, safetensors.torch",
        "    safetensors.torch.save_file(torch.load('b.pth', weights_only=True), 'b.safetensors')",
    ]


def test_the_way_out_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = zoo.model("fcnn:6-5-3", seed=0)
    torch.save(net.state_dict(), "b.pth")
    with pytest.raises(WeightsError) as raised:
        zoo.load_weights(net, "b.pth")
    code = "\n".join(line.strip() for line in raised.value.remedy.splitlines()[1:])
    subprocess.run([sys.executable, "-c", code], check=True)
    assert equal(zoo.model("fcnn:6-5-3", weights="b.safetensors"), net)


# ---------------------------------------------------------------- errors


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    zoo.save_weights(zoo.model("fcnn:6-5-3"), tmp_path / "a.safetensors")
    net = zoo.model("fcnn:6-5-4-3", seed=0)
    before = zoo.digest(net)
    with pytest.raises(WeightsError) as raised:
        zoo.load_weights(net, tmp_path / "a.safetensors")
    assert str(raised.value) == (
        f"{tmp_path}/a.safetensors does not fit FCNN; missing fc2.weight (4, 5), fc2.bias (4,); of another shape "
        "head.weight (3, 5) for (3, 4). Build the model as it was when the weights were saved: same layers, inputs and "
        "classes."
    )
    assert zoo.digest(net) == before
    with pytest.raises(WeightsError, match=r"unexpected fc1.bias \(5,\), fc1.weight .*; of another|missing weight"):
        zoo.load_weights(nn.Linear(6, 3), tmp_path / "a.safetensors")


def test_a_file_that_is_no_safetensors_file(tmp_path):
    path = tmp_path / "a.safetensors"
    zoo.save_weights(zoo.model("fcnn:6-5-3"), path)
    whole = path.read_bytes()
    for content in (b"", b"words and more words", whole[:-5], struct.pack("<Q", 2**60) + whole[8:]):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is damaged or none"):
            zoo.load_weights(zoo.model("fcnn:6-5-3"), path)
    with pytest.raises(FileError, match=r"no weights could be read from .*nowhere"):
        zoo.load_weights(zoo.model("fcnn:6-5-3"), tmp_path / "nowhere")
    with pytest.raises(FileError, match="no weights could be read from"):
        zoo.load_weights(zoo.model("fcnn:6-5-3"), tmp_path)


FULL = """
import resource, sys
from cofire import zoo
from cofire.errors import FileError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    zoo.save_weights(zoo.model("fcnn:64-64-10"), sys.argv[1])
except FileError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit to set there")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.stdout.startswith(f"could not write {path}; "), done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert path.read_bytes() == b"old"
