"""Pruning, depth and removal: smaller models that compute what they should, verdicts that follow their rule."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cofire
from cofire.cli import app
from cofire.errors import InputError, LayerError, ModelError, WeightsError
from cofire.orders import obs_order
from cofire.pruning import accuracy_of
from cofire.refitting import compensated
from cofire.removals import check_layer, without_layer
from cofire.weights import save_weights


def trained(name="fcnn:64-48-40-32-10", epochs=8, seed=0):
    digits = cofire.data.load("digits")
    net = cofire.zoo.model(name, seed=seed)
    cofire.fit(net, digits, epochs=epochs, seed=seed, progress=False)
    return net


@pytest.fixture(scope="module")
def net():
    return trained()


@pytest.fixture(scope="module")
def digits():
    return list(cofire.data.load("digits").batches(256)), list(cofire.data.load("digits", "test").batches(256))


@pytest.fixture(scope="module")
def stats(net, digits):
    return cofire.record(net, digits[0], progress=False, covariance=True)


def outputs(net, batches):
    with torch.no_grad():
        return torch.cat([net(x) for x, _ in batches])


# ---------------------------------------------------------------- without compensation


def test_a_pruned_net_gives_what_the_ablated_one_gives(net, digits, stats):
    by = "mutual_information"
    small = cofire.prune(net, digits[0][0], stats, by=by, keep=0.5, compensate=False)
    order = {name: cofire.mutual_information(stats[name]).sort(stable=True).indices for name in stats}
    with torch.no_grad():
        x = torch.cat([x for x, _ in digits[1]]).flatten(1)
        for at, name in enumerate(stats, 1):
            x = torch.relu(getattr(net, f"fc{at}")(x))
            gone = order[name][: stats[name].units // 2]
            x[:, gone] = (stats[name].sum.sum(0) / stats[name].samples).float()[gone]
        expected = net.head(x)
    assert float((outputs(small, digits[1]) - expected).abs().max()) < 1e-5
    assert [small.fc1.out_features, small.fc2.out_features, small.fc3.out_features] == [24, 20, 16]


def test_the_model_itself_is_left_as_it_was(net, digits, stats):
    before = cofire.zoo.digest(net)
    small = cofire.prune(net, digits[0][0], stats, keep=0.5)
    assert cofire.zoo.digest(net) == before
    assert type(small) is type(net)
    assert small.training == net.training


def test_keeping_all_changes_nothing_beyond_rounding(net, digits, stats):
    for compensate in (True, False):
        small = cofire.prune(net, digits[0][0], stats, keep=1.0, compensate=compensate)
        apart = (outputs(small, digits[1]) - outputs(net, digits[1])).abs().max()
        assert float(apart) < 1e-5


# ---------------------------------------------------------------- compensation


def test_compensation_is_least_squares_on_the_activations():
    random = torch.Generator().manual_seed(0)
    x = (
        torch.randn(500, 8, generator=random, dtype=torch.float64) @ torch.randn(8, 8, generator=random, dtype=torch.float64)
        + 3
    )
    weights, bias = torch.randn(5, 8, generator=random, dtype=torch.float64), torch.randn(5, generator=random).double()
    kept = torch.tensor([0, 2, 3, 7])
    mean = x.mean(0)
    spread = (x - mean).T @ (x - mean) / 500
    fitted, shift = compensated(weights, bias, mean, spread, kept, ridge=0.0)
    design = torch.cat([x[:, kept], torch.ones(500, 1, dtype=torch.float64)], 1)
    expected = torch.linalg.lstsq(design, x @ weights.T + bias).solution
    assert torch.allclose(fitted, expected[:-1].T, atol=1e-9)
    assert torch.allclose(shift, expected[-1], atol=1e-9)


def test_compensation_leaves_at_most_the_error_of_the_means():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(400, 12, generator=random, dtype=torch.float64) @ torch.randn(12, 12, generator=random, dtype=torch.float64)
    weights, mean = torch.randn(6, 12, generator=random, dtype=torch.float64), x.mean(0)
    spread = (x - mean).T @ (x - mean) / 400
    target = x @ weights.T
    for count in (1, 4, 9, 12):
        kept = obs_order(weights, spread)[12 - count :].sort().values
        fitted, shift = compensated(weights, torch.zeros(6), mean, spread, kept)
        filled = mean.expand_as(x).clone()
        filled[:, kept] = x[:, kept]
        error = float((x[:, kept] @ fitted.T + shift - target).square().sum())
        assert error <= float((filled @ weights.T - target).square().sum()) * 1.001 + 1e-9


def test_units_that_repeat_others_can_all_go():
    random = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    wide = nn.Sequential(nn.Linear(6, 15), nn.ReLU(), nn.Linear(15, 3))
    with torch.no_grad():
        wide[0].weight.copy_(net[0].weight.repeat(3, 1))
        wide[0].bias.copy_(net[0].bias.repeat(3))
        wide[2].weight.copy_(net[2].weight.repeat(1, 3) / 3)
        wide[2].bias.copy_(net[2].bias)
    x, y = torch.randn(300, 6, generator=random), torch.arange(300) % 3
    stats = cofire.record(wide, [(x, y)], progress=False, covariance=True)
    small = cofire.prune(wide, x[:2], stats, keep=5)
    bare = cofire.prune(wide, x[:2], stats, keep=5, compensate=False)
    with torch.no_grad():
        assert float((small(x) - wide(x)).abs().max()) < 0.02
        assert float((bare(x) - wide(x)).abs().max()) > 0.1


def test_a_quarter_of_the_units_is_enough_with_compensation(net, digits, stats):
    base = accuracy_of(net, digits[1], 10)
    small = cofire.prune(net, digits[0][0], stats, keep=0.4)
    bare = cofire.prune(net, digits[0][0], stats, keep=0.4, by="random", compensate=False)
    assert accuracy_of(small, digits[1], 10) > base - 0.03
    assert accuracy_of(small, digits[1], 10) > accuracy_of(bare, digits[1], 10) + 0.1


def test_max_drop_is_kept(net, digits, stats):
    base = accuracy_of(net, digits[0], 10)
    found = [cofire.prune(net, digits[0][0], stats, max_drop=drop, batches=digits[0]) for drop in (0.0, 0.02, 0.2)]
    for drop, small in zip((0.0, 0.02, 0.2), found, strict=True):
        assert accuracy_of(small, digits[0], 10) >= base - drop - 1e-9
    sizes = [cofire.cost(small, digits[0][0], repeats=1).parameters for small in found]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0]


def test_cost_counts_parameters_and_operations():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False))
    found = cofire.cost(net, torch.zeros(4, 6), repeats=2)
    assert (found.parameters, found.flops) == (6 * 5 + 5 + 15, 2 * (30 + 15))
    assert found.milliseconds > 0


# ---------------------------------------------------------------- where it applies


def test_the_head_of_a_convolutional_net_is_pruned_without_torch_pruning(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10)
    )
    images = list(cofire.data.load("digits").batches(100))
    stats = cofire.record(net, images, progress=False, covariance=True)
    small = cofire.prune(net, images[0], stats, keep=0.5, layers="4")
    assert small[3].out_features == 10
    assert small[6].in_features == 10
    with pytest.raises(ModelError, match=r"torch-pruning is needed.*not installed. Run: pip install 'cofire\[prune\]'"):
        cofire.prune(net, images[0], stats, keep=0.5)


WRONG = [
    ({}, "either keep= or max_drop= must be given"),
    ({"keep": 0.5, "max_drop": 0.1}, "either keep= or max_drop= must be given"),
    ({"max_drop": 0.1}, "needs batches="),
    ({"keep": 0.0}, "layer 'relu1' must keep between 1 and its 48 units; found 0.0, that is 0"),
    ({"keep": 500}, "must keep between 1 and its 48 units"),
    ({"keep": "half"}, "keep must be a share"),
    ({"keep": {"relu2": 0.5, "relu1": True}}, "keep must be a share"),
    ({"keep": math.nan}, "keep must be a share"),
    ({"keep": {"relu1": 0.5}, "layers": "relu2"}, "keep must be of layers that are pruned; found 'relu1'. These are: 'relu2'"),
    ({"keep": 0.5, "batches": iter([])}, "batches must be readable more than once"),
    ({"keep": 0.5, "by": "beauty"}, "by must be one of"),
]


@pytest.mark.parametrize(("options", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_input(net, digits, stats, options, words):
    with pytest.raises(InputError, match=words):
        cofire.prune(net, digits[0][0], stats, **options)


def test_a_layer_to_keep_units_of_must_exist(net, digits, stats):
    with pytest.raises(LayerError, match="no layer named 'relu9'"):
        cofire.prune(net, digits[0][0], stats, keep={"relu9": 0.5})
    with pytest.raises(LayerError, match="must name at least one layer"):
        cofire.prune(net, digits[0][0], stats, keep=0.5, layers=[])
    assert cofire.prune(net, digits[0][0], stats, keep=0.5, layers="*[23]").fc1.out_features == net.fc1.out_features
    small = cofire.prune(net, digits[0][0], stats, keep={"relu2": 0.5})
    assert torch.equal(small.fc1.weight, net.fc1.weight)
    assert torch.equal(small.head.bias, net.head.bias)


def test_covariance_is_asked_for_where_it_is_needed(net, digits):
    bare = cofire.record(net, digits[0], progress=False, covariance=False)
    with pytest.raises(InputError, match="must hold the covariance of its 48 units; it was recorded without"):
        cofire.prune(net, digits[0][0], bare, keep=0.5)
    with pytest.raises(InputError, match="must hold the covariance"):
        cofire.prune(net, digits[0][0], bare, by="kl_selectivity", keep=0.5, compensate=True)
    assert cofire.prune(net, digits[0][0], bare, by="kl_selectivity", keep=0.5, compensate=False).fc1.out_features == 24
    with pytest.warns(cofire.CofireWarning, match="the covariance of 'relu1', 'relu2', 'relu3' was not recorded"):
        assert cofire.prune(net, digits[0][0], bare, by="kl_selectivity", keep=0.5).fc1.out_features == 24


def test_a_pruned_model_is_the_same_in_a_fresh_process(net, digits, stats, tmp_path):
    small = cofire.prune(net, digits[0][0], stats, keep={"relu1": 10, "relu3": 0.5})
    assert (small.fc1.out_features, small.fc2.out_features, small.fc3.out_features) == (10, 40, 16)
    save_weights(small, tmp_path / "small.safetensors")
    script = (
        "import cofire, torch; net = cofire.load_pruned(cofire.zoo.model('fcnn:64-48-40-32-10'), 'small.safetensors');"
        "x = torch.cat([x for x, _ in cofire.data.load('digits', 'test').batches(256)]);"
        "print(net(x).argmax(1).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout) == outputs(small, digits[1]).argmax(1).tolist()
    with pytest.raises(WeightsError):
        cofire.load_pruned(cofire.zoo.model("fcnn:64-48-10"), tmp_path / "small.safetensors")


def test_a_linear_map_called_by_keyword_is_read_like_any_other(digits):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 16), nn.Linear(16, 12), nn.Linear(12, 10)

        def forward(self, x):
            return self.c(torch.relu(self.b(input=torch.relu(self.a(x.flatten(1))))))

    torch.manual_seed(0)
    net, (train, test) = Named(), digits
    stats = cofire.record(net, train, progress=False, covariance=True)
    small = cofire.prune(net, train[0], stats, keep=0.5, compensate=False)
    curve = cofire.ablate(net, test, stats, "obs", steps=[0, 14], progress=False)
    assert (small.a.out_features, small.b.in_features, small.b.out_features) == (8, 8, 6)
    assert accuracy_of(small, test, 10) == pytest.approx(float(curve.accuracy[1]))


# ---------------------------------------------------------------- depth


def two_layers(first, second, classes=4):
    labels = torch.arange(len(first)) % classes
    return cofire.FiringStats.from_activations({"fc1": first, "fc2": second}, labels)


def test_the_verdict_follows_the_rule():
    even, sharp = torch.ones(8, 16) + 0.1 * torch.eye(16)[:8], torch.ones(8, 16) * 0.2 + 6 * torch.eye(16).repeat(2, 1)[:8]
    assert [row.verdict for row in cofire.depth(two_layers(even, sharp)).layers] == ["first", "adds"]
    assert [row.verdict for row in cofire.depth(two_layers(sharp, even)).layers] == ["first", "rises"]
    assert [row.verdict for row in cofire.depth(two_layers(sharp, sharp)).layers] == ["first", "flat"]
    scaled = cofire.depth(two_layers(sharp, 3 * sharp))
    assert scaled.layers[1].verdict == "scale"
    assert scaled.layers[1].scale_free_fall == pytest.approx(0, abs=1e-7)
    assert "the scale of the activations" in scaled.layers[1].words
    assert cofire.depth(two_layers(sharp, sharp)).flat == ["fc2"]


def test_depth_looks_at_fully_connected_layers_only():
    with pytest.raises(InputError, match="a fully connected layer of two units or more"):
        cofire.depth(cofire.FiringStats.from_activations({"fc1": torch.ones(4, 1)}, torch.arange(4)))
    frame = cofire.depth(two_layers(torch.rand(8, 5), torch.rand(8, 7))).frame()
    assert list(frame.columns) == [
        "layer", "units", "entropy", "fall", "scale_free", "scale_free_fall", "classes_that_fall", "verdict",
    ]  # fmt: skip


def test_a_layer_that_does_nothing_goes_without_loss(digits):
    net = trained("fcnn:64-32-10")
    deep = cofire.zoo.model("fcnn:64-32-32-10", seed=0)
    with torch.no_grad():  # the second layer hands on what it gets
        deep.fc1.load_state_dict(net.fc1.state_dict())
        deep.head.load_state_dict(net.head.state_dict())
        deep.fc2.weight.copy_(torch.eye(32))
        deep.fc2.bias.zero_()
    stats = cofire.record(deep, digits[0], progress=False)
    assert cofire.depth(stats).flat == ["relu2"]
    made = without_layer(deep, stats, "relu2", digits[0])
    assert float((outputs(made, digits[1]) - outputs(net, digits[1])).abs().max()) < 0.3
    found = check_layer(deep, stats, "relu2", digits[0], digits[1])
    assert abs(found.refitted - found.before) < 0.02
    assert found.parameters == (64 * 32 + 32 + 32 * 32 + 32 + 330, 64 * 32 + 32 + 330)
    assert str(found).startswith("without relu2: ")


def test_a_layer_that_cannot_be_removed_says_why(net, digits, stats):
    with pytest.raises(ModelError, match=r"layer 'relu1' cannot be removed.*These can: 'relu2', 'relu3'"):
        without_layer(net, stats, "relu1", digits[0])

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10)

        def forward(self, x):
            return self.c(torch.sigmoid(self.b(torch.sigmoid(self.a(x.flatten(1))))))

    made = Functional()
    recorded = cofire.record(made, digits[0], progress=False)
    with pytest.raises(ModelError, match="is a function call and cannot be taken out"):
        without_layer(made, recorded, list(recorded)[1], digits[0])


class Shared(nn.Module):
    """Three linear maps with one non-linearity for all."""

    def __init__(self, activation):
        super().__init__()
        self.a, self.b, self.c, self.act = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10), activation

    def forward(self, x):
        return self.c(self.act(self.b(self.act(self.a(x.flatten(1))))))


def test_a_shared_module_is_left_in_place_only_where_twice_is_once(digits):
    made = Shared(nn.Sigmoid())
    words = "layer 'act#2' cannot be removed; its non-linearity, sigmoid, is that of other calls of 'act' too"
    with pytest.raises(ModelError, match=words):
        without_layer(made, cofire.record(made, digits[0], progress=False), "act#2", digits[0])
    made = Shared(nn.ReLU())
    small = without_layer(made, cofire.record(made, digits[0], progress=False), "act#2", digits[0])
    x = digits[1][0][0]
    with torch.no_grad():
        assert torch.equal(small(x), small.c(torch.relu(made.a(x.flatten(1)))))


def test_accuracy_of_is_the_share_that_is_right(net, digits):
    right = (outputs(net, digits[1]).argmax(1) == torch.cat([y for _, y in digits[1]])).double().mean()
    assert accuracy_of(net, digits[1], 10) == pytest.approx(float(right))


@pytest.mark.parametrize("ending", [[], [nn.Sigmoid()]], ids=["logit", "probability"])
def test_accuracy_of_a_single_output_is_that_of_two_classes(ending):
    x = torch.tensor([[0.2], [0.9], [-3.0]])
    model = nn.Sequential(nn.Identity(), *ending)
    assert accuracy_of(model, [(x[:2], torch.tensor([1, 1])), (x[2:], torch.tensor([1]))], 2) == pytest.approx(2 / 3)


# ---------------------------------------------------------------- command line


def test_the_commands_run_from_end_to_end(tmp_path):
    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    model, weights, stats = "fcnn:64-32-32-10", tmp_path / "w.safetensors", tmp_path / "s.stats"
    run("train", model, "--epochs", 3, "-o", weights)
    run("record", model, "--weights", weights, "-o", stats)
    assert "A layer adds where" in run("depth", stats)
    said = run("depth", stats, "--check", "--layer", "relu2", "--model", model, "--weights", weights)
    assert "without relu2" in said
    said = run("prune", model, "--weights", weights, "--keep", 0.5, "-o", tmp_path / "small.safetensors")
    rows = {line[:18].strip(): line[18:].split() for line in said.splitlines() if line.endswith("%")}
    assert list(rows) == ["before", "after", "random", "random, not fitted"]
    assert rows["before"][:2] == ["3,466", "6,784"]
    assert all(rows[what][:2] == ["1,482", "2,880"] for what in list(rows)[1:])
    accuracies = {what: float(row[3].rstrip("%")) for what, row in rows.items()}
    assert accuracies["random"] > accuracies["random, not fitted"]
    assert "operations a sample" in said
    assert rows["after"][3].endswith("%")
    out = tmp_path / "ablation.html"
    said = run("ablate", model, "--weights", weights, "--by", "std", "--seeds", 2, "-o", out, "--csv", tmp_path / "c.csv")
    assert "Curve(std ascending, fill mean, 2 layers" in said
    assert "Removing at random gives" in said
    assert out.exists()
    assert (tmp_path / "c.csv").read_text().startswith("layers,by,order,fill,removed,share,accuracy")
