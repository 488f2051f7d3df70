"""Convolutions, residual blocks and transformers: smaller nets that give what they should, and refusals with a reason."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import cofire
from cofire.batches import Batch
from cofire.cli import app
from cofire.errors import CofireWarning, InputError, ModelError, WeightsError
from cofire.grouping import groups_of
from cofire.pruning import accuracy_of
from cofire.weights import save_weights

pytest.importorskip("torch_pruning")


def images(count=40, size=8, channels=3, classes=4):
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0)), torch.arange(count) % classes


def recorded(net, batch, **options):
    return cofire.record(net, [batch], progress=False, covariance=True, **options)


def plain(seed=0, padding=0):
    """Convolutions, a max pool between them, a flattening, and a linear map."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=padding), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 2, bias=False, padding=padding), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(4),
    ).eval()  # fmt: skip


class Residual(nn.Module):
    """A stem and two blocks that add to it."""

    def __init__(self, width=8, kernel=3):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a1, self.a2, self.b1, self.b2 = (nn.Conv2d(width, width, kernel, padding=kernel // 2) for _ in range(4))
        self.r0, self.ra, self.r1, self.rb, self.r2 = (nn.ReLU() for _ in range(5))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        x = self.r0(self.norm(self.stem(x)))
        x = self.r1(x + self.a2(self.ra(self.a1(x))))
        x = self.r2(x + self.b2(self.rb(self.b1(x))))
        return self.head(x.mean((2, 3)))


def held(net, stats, batch, kept):
    """The model's output with units that go held at their means, one plain forward pass with hooks."""

    def hook(name):
        def hold(_module, _inputs, output):
            layer = stats[name]
            gone = torch.ones(layer.units, dtype=torch.bool)
            gone[kept[name]] = False
            mean = (layer.sum.sum(0) / layer.samples).to(output.dtype)
            output = output.clone()
            axis = 1 if layer.layout == "conv" else -1
            output.movedim(axis, -1)[..., gone] = mean[gone]
            return output

        return hold

    handles = [net.get_submodule(name).register_forward_hook(hook(name)) for name in stats]
    try:
        with torch.no_grad():
            return net(batch[0])
    finally:
        for handle in handles:
            handle.remove()


def groups(net, batch, names):
    return groups_of(net, Batch(batch[0], batch[1]), names, names)


# ---------------------------------------------------------------- without compensation: an ablation with fill="mean"


def test_pruned_convolutions_without_padding_give_what_ablated_ones_give():
    net, batch = plain(), images()
    with torch.no_grad():
        net(batch[0])
    stats = recorded(net, batch)
    small = cofire.prune(net, batch, stats, by="std", keep=0.5, compensate=False)
    kept = {
        name: layer.square_sum.sum(0).div(40).sub(layer.sum.sum(0).div(40) ** 2).argsort()[layer.units // 2 :]
        for name, layer in stats.items()
    }
    assert [small[0].out_channels, small[1].num_features, small[4].in_channels, small[4].out_channels] == [3, 3, 3, 4]
    assert small[7].in_features == net[7].in_features // 2
    with torch.no_grad():
        assert torch.allclose(small(batch[0]), held(net, stats, batch, kept), atol=1e-5)


def test_a_pruned_residual_net_gives_what_the_ablated_one_gives():
    net, batch = Residual(kernel=1).eval(), images()
    stats = recorded(net, batch)
    scores = {name: torch.arange(8.0) if name in ("r0", "r1", "r2") else -torch.arange(8.0) for name in stats}
    small = cofire.prune(net, batch, stats, by=scores, keep=0.25, compensate=False)
    kept = {name: torch.tensor([6, 7] if name in ("r0", "r1", "r2") else [0, 1]) for name in stats}
    with torch.no_grad():
        assert torch.allclose(small(batch[0]), held(net, stats, batch, kept), atol=1e-5)


def test_a_pruned_transformer_gives_what_the_ablated_one_gives():
    vision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = vision.models.VisionTransformer(32, 8, 2, 4, 24, 48, num_classes=4).eval()
    nn.init.normal_(net.heads.head.weight)
    batch = images(12, 32)
    stats = recorded(net, batch)
    small = cofire.prune(net, batch, stats, by="mean", keep=0.25, compensate=False)
    kept = {name: layer.sum.sum(0).argsort()[36:] for name, layer in stats.items()}
    with torch.no_grad():
        assert torch.allclose(small(batch[0]), held(net, stats, batch, kept), atol=1e-5)
    block = small.encoder.layers.encoder_layer_0
    assert (block.mlp[0].out_features, block.mlp[3].in_features) == (12, 12)
    assert block.self_attention.embed_dim == 24


def test_a_text_classifier_of_transformers_is_pruned():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=4
    )
    net = transformers.BertForSequenceClassification(config).eval()
    words, mask = torch.randint(30, (12, 7)), torch.ones(12, 7, dtype=torch.int64)
    batch = {"input_ids": words, "attention_mask": mask, "labels": torch.arange(12) % 4}
    stats = recorded(net, batch)
    names = [name for name in stats if "intermediate" in name]
    inputs = {"input_ids": words, "attention_mask": mask}
    small = cofire.prune(net, inputs, stats, by="std", keep=0.5, layers=names)
    layer = small.bert.encoder.layer[1]
    assert (layer.intermediate.dense.out_features, layer.output.dense.in_features) == (12, 12)
    with torch.no_grad():
        assert small(**inputs).logits.shape == (12, 4)


# ---------------------------------------------------------------- units that do nothing go without a trace


def test_dead_channels_of_a_residual_stream_go_without_a_change():
    net, batch = Residual().eval(), images()
    dead = torch.tensor([1, 2, 5, 6])
    with torch.no_grad():
        for module in (net.stem, net.a2, net.b2, net.a1, net.b1):
            module.weight[dead] = 0
            module.bias[dead] = -1
    stats = recorded(net, batch)
    small = cofire.prune(net, batch, stats, by="firing_rate", keep=0.5)
    assert {module.out_channels for module in small.modules() if isinstance(module, nn.Conv2d)} == {4}
    with torch.no_grad():
        assert torch.allclose(small(batch[0]), net(batch[0]), atol=1e-5)


def test_compensation_takes_over_from_copies_through_a_depthwise_convolution():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1, bias=False),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for module in (net[0], net[2]):
            module.weight[4:] = module.weight[:4]
            module.bias[4:] = module.bias[:4]
    batch = images(200)
    stats = recorded(net, batch)
    made = {how: cofire.prune(net, batch, stats, keep={"3": 4}, layers=["3"], compensate=how) for how in (True, False)}
    small = made[True]
    assert (small[0].out_channels, small[2].groups, small[4].in_channels) == (4, 4, 4)
    with torch.no_grad():
        apart = {how: float((net_(batch[0]) - net(batch[0])).abs().max()) for how, net_ in made.items()}
        spread = float(net(batch[0]).std(0).max())
    assert apart[True] < 0.02 * spread
    assert apart[False] > 10 * apart[True]
    assert small[4].bias is not None


def test_with_batches_a_convolution_is_fitted_by_least_squares_over_all_positions():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    batch = images(300)
    stats = recorded(net, batch)
    scores, kept = {"1": torch.arange(12.0)}, torch.arange(7, 12)
    made = {b is not None: cofire.prune(net, batch, stats, scores, keep=5, batches=b) for b in (None, [batch])}
    with torch.no_grad():
        read = net[1](net[0](batch[0])).movedim(1, -1).flatten(0, -2).double()
        wanted = net[2](net[1](net[0](batch[0])))
        design = torch.cat([read[:, kept], torch.ones(len(read), 1, dtype=torch.float64)], 1)
        target = wanted.movedim(1, -1).flatten(0, -2).double()
        best = float((design @ torch.linalg.lstsq(design, target).solution - target).square().sum())
        error = {how: float((small[:3](batch[0]) - wanted).square().sum()) for how, small in made.items()}
    assert best < error[True] < 1.001 * best
    assert error[False] > error[True]


def test_compensation_keeps_the_accuracy_of_a_trained_convolutional_net():
    digits, test = cofire.data.load("digits"), list(cofire.data.load("digits", "test").batches(256))
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24),
        nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(24, 10),
    )  # fmt: skip
    cofire.fit(net, digits, epochs=8, lr=3e-3, seed=0, progress=False)
    stats = cofire.record(net, digits.batches(), progress=False, covariance=True)
    base = accuracy_of(net, test, 10)
    assert base > 0.9
    for by in ("obs", "random"):
        small, bare = (cofire.prune(net, test[0], stats, by=by, keep=0.5, compensate=how) for how in (True, False))
        assert accuracy_of(small, test, 10) > accuracy_of(bare, test, 10) + 0.1
    fisher = cofire.prune(net, test[0], stats, by="fisher", keep=0.7, batches=test)
    assert accuracy_of(fisher, test, 10) > base - 0.1
    kept = cofire.prune(net, test[0], stats, max_drop=0.03, batches=test)
    assert accuracy_of(kept, test, 10) >= base - 0.03
    assert kept[0].out_channels < 16


# ---------------------------------------------------------------- which units go together


def test_a_sum_couples_layers_and_their_scores_are_added_in_units_of_their_spread():
    net, batch = Residual().eval(), images()
    stats = recorded(net, batch)
    found, refused = groups(net, batch, list(stats))
    assert refused == {}
    assert sorted(sorted(group.layers) for group in found) == [["r0", "r1", "r2"], ["ra"], ["rb"]]
    scores = {name: torch.zeros(8) for name in stats}
    scores["r0"] = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8])
    scores["r1"] = 1000 * torch.tensor([8.0, 0, 0, 0, 0, 0, 0, 0])
    small = cofire.prune(net, batch, stats, by=scores, keep={"r0": 2}, layers=["r0"], compensate=False)
    spread = [scores[name].double().std() for name in ("r0", "r1")]
    kept = (scores["r0"] / spread[0] + scores["r1"] / spread[1]).argsort()[6:].sort().values
    assert torch.equal(small.stem.weight, net.stem.weight[kept])
    assert torch.equal(small.a2.weight, net.a2.weight[kept])
    with pytest.raises(InputError, match=r"must keep the same units; found 2, 3\. They go together"):
        cofire.prune(net, batch, stats, by="std", keep={"r0": 2, "r2": 3})


def test_branches_that_are_put_together_are_pruned_apart():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.head = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(3, 6, 3, padding=1),
                nn.Conv2d(10, 5, 1),
                nn.Linear(5, 4),
            )

        def forward(self, x):
            x = torch.cat([F.relu(self.a(x)), F.gelu(self.b(x))], 1)
            return self.head(F.relu(self.c(x)).mean((2, 3)))

    torch.manual_seed(0)
    net, batch = Branches().eval(), images()
    stats = recorded(net, batch)
    small = cofire.prune(net, batch, stats, keep={"gelu": 2}, layers="gelu")
    assert (small.a.out_channels, small.b.out_channels, small.c.in_channels) == (4, 2, 6)
    assert torch.equal(small.c.weight[:, :4], net.c.weight[:, :4])


@pytest.mark.parametrize(
    ("name", "size"),
    [("zoo:resnet18_cifar", 32), ("zoo:vgg16_cifar", 32), ("timm:vit_tiny_patch16_224", 224), ("torchvision:mobilenet_v2", 64)],
)
def test_whole_nets_become_smaller_and_load_again(name, size, tmp_path):
    pytest.importorskip(name.partition(":")[0].replace("zoo", "torchvision"))
    net, batch = cofire.zoo.model(name, classes=4, seed=0), images(8, size)
    stats = recorded(net, batch, classes=4)
    small = cofire.prune(net, batch, stats, by="weight_std", keep=0.5)
    before, after = cofire.cost(net, batch, repeats=1), cofire.cost(small, batch, repeats=1)
    assert after.parameters < 0.75 * before.parameters
    assert after.flops < 0.75 * before.flops
    save_weights(small, tmp_path / "small.safetensors")
    again = cofire.load_pruned(net, tmp_path / "small.safetensors")
    with torch.no_grad():
        assert torch.equal(again(batch[0]), small(batch[0]))
        assert str(again) == str(small)


def test_a_pruned_net_is_the_same_in_a_fresh_process_and_as_an_export(tmp_path):
    net, batch = cofire.zoo.model("zoo:resnet18_cifar", classes=4, seed=0), images(8, 32)
    small = cofire.prune(net, batch, recorded(net, batch), by="std", keep=0.25)
    save_weights(small, tmp_path / "small.safetensors")
    torch.save(batch[0], tmp_path / "x.pt")
    script = (
        "import cofire, torch; net = cofire.load_pruned(cofire.zoo.model('zoo:resnet18_cifar', classes=4), 'small.safetensors');"
        "torch.save(net(torch.load('x.pt')).detach(), 'y.pt')"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "y.pt"), small(batch[0]), atol=1e-6)
        exported = torch.export.export(small, (batch[0],)).module()
        assert torch.allclose(exported(batch[0]), small(batch[0]), atol=1e-6)
    with pytest.raises(WeightsError):
        cofire.load_pruned(cofire.zoo.model("zoo:vgg16_cifar", classes=4), tmp_path / "small.safetensors")


# ---------------------------------------------------------------- refusals


class Between(nn.Module):
    """A convolution, something between, and what reads it."""

    def __init__(self, between, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.between, self.two = nn.Conv2d(3, 8, 1), between, after or nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.two(self.between(F.relu(self.one(x)))).mean((2, 3)))


class Gate(nn.Module):
    """Scales channels by what their means say."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return x * self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None]


REFUSED = [
    (Between(nn.GroupNorm(2, 8)), "no linear map or convolution reads its units as they are"),
    (
        Between(nn.BatchNorm2d(8).eval(), nn.Conv2d(8, 8, 1, groups=2)),
        "no linear map or convolution reads its units as they are",
    ),
    (Between(nn.Identity(), nn.Conv2d(8, 8, 1, groups=2)), "no linear map or convolution reads its units as they are"),
    (Between(Gate()), "'two' reads its units too, and not as a layer of the statistics gives them"),
    (Between(nn.ChannelShuffle(2)), "holds only some of its units, or others too|reads its units too|gives something else"),
]


@pytest.mark.parametrize(("net", "words"), REFUSED, ids=lambda value: str(value)[:20])
def test_what_cannot_be_pruned_is_refused_with_a_reason(net, words):
    batch = images()
    stats = recorded(net, batch)
    with pytest.raises(ModelError, match=rf"cannot be pruned; 'relu': .*({words}).*These can: none"):
        cofire.prune(net, batch, stats, by="std", keep=0.5)


def test_what_is_left_as_it_is_is_said():
    net = nn.Sequential(Between(Gate()), nn.ReLU(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)).eval()
    batch = images()
    stats = recorded(net, batch)
    with pytest.warns(cofire.CofireWarning, match="left as they are: '0/relu': '0.two' reads its units too"):
        small = cofire.prune(net, batch, stats, by="std", keep=0.5)
    assert small[2].out_features == 3
    with pytest.raises(ModelError, match="These can: '1', '3'"):
        cofire.prune(net, batch, stats, by="std", keep=0.5, layers="0/relu")


def test_means_and_gradients_are_asked_for():
    net, batch = plain(), images()
    with torch.no_grad():
        net(batch[0])
    with pytest.raises(InputError, match=r"units are held at their means; '2' was recorded with pool=\"max\""):
        cofire.prune(net, batch, recorded(net, batch, pool="max"), by="std", keep=0.5)
    with pytest.raises(InputError, match="'fisher' needs gradients; found no batches="):
        cofire.prune(net, batch, recorded(net, batch), by="fisher", keep=0.5)


# ---------------------------------------------------------------- command line


def test_the_command_prunes_a_convolutional_net(tmp_path):
    out = tmp_path / "small.safetensors"
    words = "prune zoo:resnet18_cifar --data digits --channels 3 --size 8 --limit 30 --keep 0.5 --layers layer1.0.relu --by std"
    with pytest.warns(CofireWarning, match="no --weights: .* with random weights unless it brings its own"):
        done = CliRunner().invoke(app, [*words.split(), "-o", str(out)])
    assert done.exit_code == 0, done.output
    rows = {line.split()[0]: line.split() for line in done.output.splitlines() if line.strip().startswith(("before", "after"))}
    before, after = (int(rows[what][1].replace(",", "")) for what in ("before", "after"))
    assert before - after == 2 * 32 * 64 * 9 + 2 * 32 - 64  # two convolutions and a norm are smaller, one has a bias more
    loaded = cofire.load_pruned(cofire.zoo.model("zoo:resnet18_cifar"), out)
    assert loaded.layer1[0].conv1.out_channels == 32
