"""The papers' nets, and doors to models by name."""

import json
import sys
import zipfile
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cofire import zoo
from cofire.errors import FileError, InputError, ModelError


def equal(one: nn.Module, other: nn.Module) -> bool:
    return zoo.digest(one) == zoo.digest(other)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class ExecutedError(Exception):
    """Raised by a pickle that was opened."""


def explode():
    raise ExecutedError


class Bomb:
    def __reduce__(self):
        return explode, ()


# ---------------------------------------------------------------- closed form


@pytest.mark.parametrize(
    ("name", "widths", "inputs", "classes", "kind"),
    [  # 001, Table 1; 004, the printed class
        ("001-mnist", [512, 512], 784, 10, nn.ReLU),
        ("001-fashion-mnist", [512, 512], 784, 10, nn.ReLU),
        ("001-cifar10", [1024, 1024, 1024, 512, 256, 128], 1024, 10, nn.ReLU),
        ("004-2x200", [200, 200], 784, 10, nn.Sigmoid),
        ("004-3x200", [200, 200, 200], 784, 10, nn.Sigmoid),
    ],
)
def test_the_papers_nets(name, widths, inputs, classes, kind):
    net = zoo.paper(name, seed=0)
    sizes = [inputs, *widths, classes]
    assert parameters(net) == sum(a * b + b for a, b in pairwise(sizes))
    assert sum(isinstance(layer, kind) for layer in net) == len(widths)
    assert sum(isinstance(layer, nn.Dropout) for layer in net) == (len(widths) if name.startswith("001") else 0)
    assert net.config["widths"] == tuple(widths)
    assert net(torch.zeros(2, 1, inputs, 1)).shape == (2, classes)


def test_the_plantvillage_net_takes_its_input_size():
    with torch.device("meta"):
        net = zoo.paper("001-plantvillage", inputs=65536)
    assert net.fc1.weight.shape == (8192, 65536)  # pyright: ignore[reportAttributeAccessIssue]
    assert net.head.weight.shape == (9, 64)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_net_computes_what_its_names_say():
    net = zoo.fcnn([5, 4], 6, 3, "tanh", dropout=0.5, batch_norm=True, seed=1).eval()
    assert [name for name, _ in net.named_children()] == (
        ["flatten"] + [f"{kind}{i}" for i in (1, 2) for kind in ("fc", "bn", "tanh", "dropout")] + ["head"]
    )
    x = torch.randn(7, 2, 3)
    hidden = x.reshape(7, 6)
    for i in (1, 2):
        hidden = net.get_submodule(f"bn{i}")(net.get_submodule(f"fc{i}")(hidden)).tanh()
    assert torch.equal(net(x), net.get_submodule("head")(hidden))
    assert equal(zoo.fcnn(**net.config, seed=1), net)


def test_a_slice_of_a_net_is_a_plain_sequence_of_its_layers():
    net = zoo.fcnn([5, 4], 6, 3, seed=1)
    part = net[:3]
    assert type(part) is nn.Sequential
    assert list(dict(part.named_children())) == ["flatten", "fc1", "relu1"]
    assert part.fc1 is net.fc1 is net[1]
    x = torch.randn(2, 6)
    assert torch.equal(net[3:](net[:3](x)), net(x))
    assert len(net[9:]) == 0


@pytest.mark.parametrize(("build", "count"), [("resnet18_cifar", 11_173_962), ("vgg16_cifar", 14_714_688 + 8_448 + 267_786)])
def test_the_convolutional_nets_keep_small_pictures(build, count):
    net = getattr(zoo, build)(10, seed=0).eval()
    seen = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert (seen[0], parameters(net)) == (32, count)
    assert getattr(zoo, build)(4, channels=1)(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("build", ["resnet18_cifar", "vgg16_cifar"])
def test_a_slim_net_is_the_same_net_with_fewer_channels(build):
    pytest.importorskip("torchvision")
    make = getattr(zoo, build)
    slim, whole = make(10, width=16, seed=0).eval(), make(10, seed=0)
    assert slim(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    for (name, found), (wanted_name, wanted) in zip(slim.named_modules(), whole.named_modules(), strict=True):
        assert (name, type(found)) == (wanted_name, type(wanted))
        if isinstance(found, nn.Conv2d):
            assert (4 * found.out_channels, found.stride) == (wanted.out_channels, wanted.stride)
            assert float(found.weight.detach().std()) == pytest.approx(
                (2 / (found.out_channels * found.weight[0, 0].numel())) ** 0.5, rel=0.1
            )
    assert equal(slim, make(10, width=16, seed=0))


def test_vgg_has_torchvisions_convolutions():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        wanted = models.vgg16_bn().features.state_dict()
    found = zoo.vgg16_cifar(10).get_submodule("features").state_dict()
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in wanted.items()}


# ---------------------------------------------------------------- laws


def test_a_seed_draws_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [zoo.model("fcnn:9-8-3", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert equal(nets[0], nets[1])
    assert not equal(nets[0], nets[2])
    assert not equal(zoo.model("fcnn:9-8-3"), zoo.model("fcnn:9-8-3"))


# ---------------------------------------------------------------- doors


@pytest.mark.parametrize(
    ("name", "options", "shape", "classes"),
    [
        ("zoo:001-mnist", {}, (1, 28, 28), 10),
        ("zoo:001-mnist", {"channels": 3, "size": 8, "classes": 4}, (3, 8, 8), 4),
        ("zoo:001-cifar10", {"channels": 3, "size": 32}, (3, 32, 32), 10),
        ("zoo:fcnn:12-5-3", {"channels": 3, "size": 2, "classes": 3}, (3, 2, 2), 3),
        ("fcnn:12-3:gelu", {}, (12,), 3),
        ("zoo:vgg16_cifar", {"classes": 7}, (3, 32, 32), 7),
        ("torchvision:resnet18", {"classes": 7}, (3, 32, 32), 7),
        ("torchvision:inception_v3", {"classes": 5}, (3, 96, 96), 5),
        ("torchvision:googlenet", {}, (3, 64, 64), 1000),
        ("torchvision:vit_b_32", {"classes": 3, "size": 64}, (3, 64, 64), 3),
        ("timm:resnet10t", {"classes": 3, "channels": 1}, (1, 32, 32), 3),
        ("timm:vit_tiny_patch16_224", {"classes": 3, "size": 32}, (3, 32, 32), 3),
    ],
)
def test_models_by_name(name, options, shape, classes):
    if name.partition(":")[0] in ("torchvision", "timm"):
        pytest.importorskip(name.partition(":")[0])
    net = zoo.model(name, **options, seed=0)
    assert not any(layer.training for layer in net.modules())
    assert net(torch.zeros(1, *shape)).shape == (1, classes)
    if "inception" in name:
        assert isinstance(net.train()(torch.zeros(2, 3, 96, 96)), torch.Tensor)


def test_auxiliary_heads_in_a_file_are_passed_over(tmp_path):
    pytest.importorskip("torchvision")
    net = zoo.model("torchvision:googlenet", classes=2)
    state = {**net.state_dict(), "aux1.conv.conv.weight": torch.zeros(2)}
    save_file(state, tmp_path / "a.safetensors")
    assert equal(zoo.model("torchvision:googlenet", classes=2, weights=tmp_path / "a.safetensors"), net)


def test_a_callable_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "nets_of_mine.py").write_text(
        "import torch\nclass Place:\n    @staticmethod\n    def net():\n        return torch.nn.Linear(3, 2)\n"
        "instance = torch.nn.Linear(3, 4)\ndef wrong():\n    return 'a string'\ndef broken():\n    raise KeyError('k')\n"
        "def needs():\n    import torchvision_of_nobody\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert zoo.model("nets_of_mine:Place.net").weight.shape == (2, 3)
    assert zoo.model("nets_of_mine:instance").weight.shape == (4, 3)
    assert equal(zoo.model("nets_of_mine:Place.net", seed=1), zoo.model("nets_of_mine:Place.net", seed=1))
    assert sys.path == path
    for name, words in (
        ("nets_of_mine:wrong", "was to give an nn.Module; it gave str. Return the model."),
        ("nets_of_mine:broken", r"gave no model; KeyError: 'k'\. It is imported, then called with no arguments"),
        ("nets_of_mine:absent", "gave no model; AttributeError: .*absent"),
        ("nets_of_nobody:net", "there is no module 'nets_of_nobody'. Looked in .* a prefix is zoo:"),
        ("nets_of_mine:needs", "there is no module 'torchvision_of_nobody'"),
    ):
        with pytest.raises(ModelError, match=words):
            zoo.model(name)
    assert sys.path == path


class Exportable(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.5))
        self.bn = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.bn(self.block(x)))


def exported(model: nn.Module, path):
    batch = {0: torch.export.Dim("batch")}
    torch.export.save(torch.export.export(model, (torch.randn(6, 4),), dynamic_shapes=(batch,)), path)
    return path


def test_an_exported_file_keeps_its_module_names(tmp_path):
    original = Exportable().eval()
    net = zoo.model(str(exported(original, tmp_path / "net.pt2")))
    x = torch.randn(9, 4)
    assert torch.equal(net(x), original(x))
    assert {"block.0", "block.1", "bn", "head"} <= {name for name, _ in net.named_modules()}
    assert not any(layer.training for layer in net.modules())
    seen = []
    net.get_submodule("block.1").register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(x)
    assert torch.equal(seen[0], original.block[1](original.block[0](x)))
    other = Exportable()
    zoo.save_weights(other, tmp_path / "a.safetensors")
    assert torch.equal(zoo.model(str(tmp_path / "net.pt2"), weights=tmp_path / "a.safetensors")(x), other.eval()(x))


def test_an_exported_file_in_training_mode_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"exported in eval mode; .* in training mode, for good. Call model.eval"):
        zoo.model(str(exported(Exportable().train(), tmp_path / "net.pt2")))


def rewritten(path, change):
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in change(entries).items():
            archive.writestr(name, content)


def test_an_exported_file_that_would_be_unpickled_is_refused(tmp_path):
    def sample(entries):
        torch.save(Bomb(), tmp_path / "bomb")
        (name,) = (name for name in entries if "sample_inputs" in name)
        return {**entries, name: (tmp_path / "bomb").read_bytes()}

    def weight(entries):
        (name,) = (name for name in entries if name.endswith("weights_config.json"))
        content = json.loads(entries[name])
        content["config"]["head.weight"]["use_pickle"] = True
        return {**entries, name: json.dumps(content).encode()}

    def constant(entries):
        (name,) = (name for name in entries if name.endswith("constants_config.json"))
        part = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
        return {**entries, name: json.dumps({"config": {"x": part}}).encode()}

    for change in (sample, weight, constant):
        path = exported(Exportable().eval(), tmp_path / "net.pt2")
        rewritten(path, change)
        with pytest.raises(FileError, match=r"was to be a file of torch.export.save with plain tensors"):
            zoo.model(str(path))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("resnet18", {}, ModelError, "a model is zoo:NAME, fcnn:784-512-10, .*; found 'resnet18'"),
        ("zoo:001-mnst", {}, ModelError, "no net in the zoo named '001-mnst'; closest: 'zoo:001-mnist'"),
        ("torchvision:resnet81", {}, ModelError, "no torchvision model named 'resnet81'; closest: 'torchvision:resnet"),
        ("timm:vit_tny_patch16_224", {}, ModelError, "closest: 'timm:vit_tiny_patch16_224'"),
        ("torchvision:resnet18", {"channels": 1}, InputError, "3 channels; found 1. Load the data with channels=3."),
        ("fcnn:784-x-10", {}, InputError, "fcnn:INPUTS-WIDTHS-CLASSES"),
        ("fcnn:784", {}, InputError, "fcnn:INPUTS-WIDTHS-CLASSES"),
        ("fcnn:784-0-10", {}, InputError, r"whole numbers from 1 up; found \[784, 0, 10\]"),
        ("fcnn:784-10:relo", {}, InputError, "an activation is one of elu, gelu, .*; found 'relo'"),
        ("fcnn:784-10", {"classes": 9}, InputError, "has 10 classes; found 9 in the data"),
        ("fcnn:784-10", {"size": 8}, InputError, "takes 784 values; the data gives 1 x 8 x 8 = 64"),
        ("nowhere.pt2", {}, FileError, "nowhere.pt2 was to be a file of torch.export.save .* FileNotFoundError"),
    ],
)
def test_names_that_cannot_be(name, options, error, words):
    if name.partition(":")[0] in ("torchvision", "timm"):
        pytest.importorskip(name.partition(":")[0])
    with pytest.raises(error, match=words):
        zoo.model(name, **options)


def test_nets_check_what_they_are_given():
    with pytest.raises(InputError, match="dropout is a share"):
        zoo.fcnn([4], 3, 2, dropout=1.0)
    with pytest.raises(ModelError, match="no net of the papers named '001'; closest: 'zoo:001-"):
        zoo.paper("001")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models", raising=False)
    with pytest.raises(ModelError, match=r"torchvision is needed for this; .* Run: pip install 'cofire\[vision\]'."):
        zoo.resnet18_cifar(10)
