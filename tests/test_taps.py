"""Taps: every hidden activation of any model is found, and the model is left as it was."""

import copy
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import cofire
from cofire.errors import LayerError, ModelError
from cofire.taps import Taps


def names(model, example, **options):
    return [layer.name for layer in cofire.layers(model, example, **options)]


def seen(model, inputs, samples, **options):
    """What one forward pass of a second batch hands to the sink, by name."""
    found = {}
    with Taps(model, **options) as taps:
        for _ in range(2):  # the first pass judges, the second one is the fast path
            found = {}
            taps.forward(inputs, samples, lambda info, units, maps: found.__setitem__(info.name, units.clone()))  # noqa: B023
    return found


def untouched(model):
    return (
        all(not (m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_always_called) for m in model.modules())
        and not torch._C._len_torch_function_stack()
    )


class Functional(nn.Module):
    """Functional calls, an in-place one, a clamp, and branches that depend on the data."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        for _ in range(2 if x.sum() > 0 else 1):
            x = self.fc2(x).relu_()
        return self.head(torch.tanh(x).clamp(min=0))


class Recurrent(nn.Module):
    def __init__(self, packed=False, batch_first=False):
        super().__init__()
        self.lstm, self.head, self.packed = nn.LSTM(4, 5, batch_first=batch_first), nn.Linear(5, 3), packed

    def forward(self, x):
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([3, 1]), batch_first=True, enforce_sorted=False)
        return self.head(self.lstm(x)[1][0][0])


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.Conv2d(8, 2, 1),
            nn.Conv2d(2, 8, 1),
            nn.Linear(8, 3),
        )

    def forward(self, x):
        x = self.conv(x)
        x = x * torch.sigmoid(x)  # SiLU by hand
        scale = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.head((scale * x).mean((2, 3)))


# Closed form: known models


@pytest.mark.parametrize(
    ("name", "size", "calls", "modules"),
    [("resnet50", 32, 49, 49), ("vgg16", 32, 15, 15), ("inception_v3", 96, 94, 0)],
)
def test_torchvision_counts(name, size, calls, modules):
    arguments = {"init_weights": False, "aux_logits": True} if name == "inception_v3" else {}
    model = torchvision.models.get_model(name, weights=None, **arguments)
    found = cofire.layers(model, torch.zeros(2, 3, size, size))
    assert len(found) == calls
    assert sum("/" not in layer.name for layer in found) == modules
    assert not found.skipped


def test_every_call_of_a_reused_module_is_a_layer_of_its_own():
    block = cofire.layers(torchvision.models.resnet18(weights=None), torch.zeros(2, 3, 32, 32))
    assert [layer.name for layer in block[:3]] == ["relu", "layer1.0.relu", "layer1.0.relu#2"]
    assert block[0].shape == (64, 16, 16)
    assert block[0].layout == "conv"
    assert block[0].units == 64


def test_functional_calls_are_named_after_the_module_that_calls():
    model = torchvision.models.inception_v3(weights=None, init_weights=False)
    assert "Mixed_5b.branch1x1/relu" in names(model, torch.zeros(2, 3, 96, 96))


def test_values_are_those_after_the_nonlinearity_even_in_place():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, 3))
    x = torch.randn(7, 4)
    found = seen(model, x, 7)
    assert torch.equal(found["1"], F.relu(model[0](x)))
    assert torch.equal(found["3"], torch.sigmoid(model[2](F.relu(model[0](x)))))


def test_a_value_changed_in_place_later_is_read_before_the_change():
    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            hidden = F.relu(self.fc(x))
            hidden.add_(100)
            return self.head(hidden)

    model, x = Later(), torch.randn(5, 4)
    assert torch.equal(seen(model, x, 5)["relu"], F.relu(model.fc(x)))
    stats = cofire.record(model, [(x, torch.tensor([0, 1, 2, 0, 1]))] * 3)
    assert stats["relu"].high.max() < 50


def test_vision_transformer_and_convnext_units_are_features():
    vit = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24, num_classes=3)
    found = cofire.layers(vit, torch.zeros(2, 3, 32, 32))
    assert [(layer.kind, layer.layout, layer.shape) for layer in found] == [("gelu", "tokens", (17, 24))] * 2
    assert cofire.layers(torchvision.models.convnext_tiny(weights=None), torch.zeros(2, 3, 32, 32))[0].layout == "tokens"


# Laws: what must hold for every model

MODELS = {
    "functional": (Functional(), torch.randn(5, 4), 5),
    "recurrent": (Recurrent(), torch.randn(7, 5, 4), 5),
    "gates": (SqueezeExcite(), torch.randn(4, 3, 9, 9), 4),
    "transformer": (nn.TransformerEncoderLayer(6, 2, batch_first=True, dim_feedforward=9), torch.randn(3, 4, 6), 3),
    "mobilenet": (torchvision.models.mobilenet_v3_small(weights=None), torch.randn(2, 3, 32, 32), 2),
}


@pytest.mark.parametrize(("model", "inputs", "samples"), MODELS.values(), ids=MODELS)
def test_the_model_is_as_it_was(model, inputs, samples):
    model.train()
    next(model.children()).eval()
    modes = [m.training for m in model.modules()]
    state = copy.deepcopy(model.state_dict())
    with Taps(model) as taps:
        taps.forward(inputs, samples, lambda *_: None)
        assert not model.training
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert untouched(model)
    assert pickle.loads(pickle.dumps(model)) is not None


@pytest.mark.parametrize(("model", "inputs", "samples"), MODELS.values(), ids=MODELS)
def test_watching_changes_no_output(model, inputs, samples):
    model.eval()
    with torch.no_grad():
        plain = model(inputs)
    with Taps(model) as taps:
        watched = taps.forward(inputs, samples, lambda *_: None)
    # PyTorch runs a transformer layer fused when nobody looks, which rounds in another order.
    fused = isinstance(model, nn.TransformerEncoderLayer)
    assert torch.allclose(watched, plain, atol=1e-5) if fused else torch.equal(watched, plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "sink"])
def test_whatever_happens_the_hooks_are_gone(error, where):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act, self.head, self.calls = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), 0

        def forward(self, x):
            hidden = self.act(self.fc(x))
            self.calls += 1
            if where == "model" and self.calls == 2:
                raise error("stop")
            return self.head(hidden)

    model = Fails().train()

    def batches():
        yield torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
        if where == "sink":
            raise error("stop")
        yield torch.randn(4, 4), torch.tensor([0, 1, 2, 0])

    with pytest.raises(error):
        cofire.record(model, batches())
    assert untouched(model)
    assert model.training
    pickle.dumps(model.state_dict())


def test_a_models_own_error_comes_through_with_a_note():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        cofire.layers(model, torch.zeros(2, 5))
    assert caught.value.__notes__ == ["cofire: this is Sequential's own error, on inputs float32 [2, 5] on cpu"]


# Reference: against what can be computed by hand


def test_recurrent_outputs_are_averaged_over_time():
    model, x = Recurrent(), torch.randn(7, 5, 4)
    assert torch.allclose(seen(model, x, 5)["lstm"], model.lstm(x)[0].mean(0), atol=1e-6)
    first = Recurrent(batch_first=True)
    assert torch.allclose(seen(first, x, 7)["lstm"], first.lstm(x)[0].mean(1), atol=1e-6)


def test_padded_steps_of_a_packed_sequence_do_not_count():
    model, x = Recurrent(packed=True, batch_first=True), torch.randn(2, 3, 4)
    output = model.lstm(x)[0]
    assert torch.allclose(seen(model, x, 2)["lstm"], torch.stack([output[0].mean(0), output[1, 0]]), atol=1e-6)


def test_a_copy_of_a_watched_model_is_not_watched():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    found = []
    with Taps(net) as taps:
        for _ in range(2):
            taps.forward(torch.randn(5, 4), 5, lambda info, units, maps: found.append(len(units)))
        copy.deepcopy(net)(torch.randn(7, 4))
        taps.forward(torch.randn(5, 4), 5, lambda info, units, maps: found.append(len(units)))
    assert found == [5, 5, 5]


def test_gates_are_left_out_and_a_silu_by_hand_is_one():
    found = cofire.layers(SqueezeExcite(), torch.randn(4, 3, 9, 9))
    assert [(layer.name, layer.kind) for layer in found] == [("silu", "silu"), ("relu", "relu")]
    reasons = {layer.name: layer.reason for layer in found.skipped}
    assert reasons["sigmoid#2"] == "it gates another tensor"
    model, x = SqueezeExcite(), torch.randn(4, 3, 9, 9)
    assert torch.allclose(seen(model, x, 4)["silu"], F.silu(model.conv(x)).mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize(("pool", "expected"), [("mean", (4, 8)), ("max", (4, 8)), ("none", (4, 8 * 49))])
def test_pooling(pool, expected):
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(392, 3)), torch.randn(4, 3, 9, 9)
    units = seen(model, x, 4, pool=pool)["1"]
    maps = F.relu(model[0](x))
    wanted = {"mean": maps.mean((2, 3)), "max": maps.amax((2, 3)), "none": maps.flatten(1)}[pool]
    assert units.shape == expected
    assert torch.allclose(units, wanted)


def test_dynamic_control_flow_shows_new_layers_when_they_are_called():
    torch.manual_seed(1)
    model = Functional()
    with torch.no_grad():
        model.fc1.weight.fill_(1.0)
        model.fc1.bias.zero_()
    with Taps(model) as taps:
        taps.forward(-torch.ones(5, 4), 5, lambda *_: None)
        short = [layer.name for layer in taps.layers]
        taps.forward(torch.ones(5, 4), 5, lambda *_: None)
    assert short == ["relu", "relu#2", "tanh", "relu#3"]
    assert "relu#4" in [layer.name for layer in taps.layers]


def test_bf16_and_autocast():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    with torch.autocast("cpu", torch.bfloat16):
        stats = cofire.record(model, batches, classes=3)
    assert stats["1"].low.dtype == torch.float32
    half = cofire.record(copy.deepcopy(model).bfloat16(), [(batches[0][0].bfloat16(), batches[0][1])], classes=3)
    assert torch.equal(half["1"].fire, stats["1"].fire)


def test_outputs_of_every_form():
    hidden = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(9, 4), torch.randint(0, 3, (9,))
    expected = float((hidden(x).argmax(1) == y).double().mean())
    forms = [
        lambda out: out, lambda out: (out, None), lambda out: {"loss": 0, "logits": out}, lambda out: [out],
        lambda out: types.SimpleNamespace(logits=out),
    ]  # fmt: skip
    for form in forms:

        class Wrapped(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = hidden

            def forward(self, x):
                return form(self.net(x))  # noqa: B023

        assert cofire.record(Wrapped(), [(x, y)], classes=3).accuracy == pytest.approx(expected)


def test_batches_of_every_form():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, a, b=None):
            return self.head(F.relu(self.fc(a if b is None else a + b)))

    model, a, b, y = Two(), torch.randn(5, 4), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    reference = cofire.record(model, [(a + b, y)])
    for batch in (
        (a, b, y),
        ((a, b), y),
        ({"a": a, "b": b}, y),
        {"a": a, "b": b, "labels": y},
        [a + b, y],
        (a + b, y.tolist()),
    ):
        assert cofire.record(model, [batch]).equal(reference)
    numbers = (a + b).numpy(), y.numpy()
    assert cofire.record(model, [numbers]).equal(reference)


def test_padded_tokens_do_not_count():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.fc, self.head = nn.Embedding(9, 4), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, input_ids, attention_mask):
            return {"logits": self.head(F.gelu(self.fc(self.embed(input_ids))).mean(1))}

    model = Text()
    long = {"input_ids": torch.tensor([[1, 2, 0, 0]]), "attention_mask": torch.tensor([[1, 1, 0, 0]])}
    short = {"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.tensor([[1, 1]])}
    twice = [{name: value.repeat(2, 1) for name, value in batch.items()} for batch in (long, short)]
    sums = [cofire.record(model, [(batch, [0, 1])])["gelu"].sum for batch in twice]
    assert torch.allclose(sums[0], sums[1], atol=1e-6)


def test_exported_programs_are_seen(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    program = torch.export.export(model, (torch.randn(5, 4),), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=64)},))
    found = seen(program.module(), torch.randn(5, 4), 5)
    assert [tuple(units.shape) for units in found.values()] == [(5, 6)]


def test_hugging_face_image_classifier():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
        num_labels=3,
    )
    model = transformers.ViTForImageClassification(config)
    batch = {"pixel_values": torch.randn(6, 3, 16, 16), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}
    stats = cofire.record(model, [batch])
    assert [(layer.kind, layer.units) for layer in stats.values()] == [("gelu", 24)] * 2
    assert stats.accuracy is not None


# Degenerate and wrapped models


def test_wrappers_are_looked_through():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x = torch.randn(5, 4)
    assert names(nn.DataParallel(model), x) == ["1"]
    assert names(nn.DataParallel(model), x, layers=["module.1"]) == ["1"]
    assert names(torch.compile(model, backend="eager"), x) == ["1"]


def test_a_compiled_model_that_has_run_is_watched_eagerly():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    outer = nn.Sequential(compiled)
    outer(x)
    inplace = copy.deepcopy(model)
    inplace.compile(backend="eager")
    inplace(x)
    for watched in (compiled, outer, inplace):
        assert [layer.samples for layer in cofire.record(watched, [(x, y)]).values()] == [5]


def test_scripted_models_are_refused():
    with pytest.warns((DeprecationWarning, FutureWarning)):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    with pytest.raises(ModelError, match="must run eagerly; it is scripted or traced, which hides activations from every hook"):
        cofire.layers(scripted, torch.zeros(2, 4))


def test_a_model_without_a_hidden_activation():
    with pytest.raises(
        ModelError, match=r"no hidden activation was seen in Sequential.*'1' was skipped: it is the model's output"
    ):
        cofire.layers(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), torch.zeros(2, 4))
    assert names(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.zeros(2, 4), layers=["0"]) == ["0"]


def test_no_module_is_no_model():
    with pytest.raises(ModelError, match=r"must be a torch\.nn\.Module; found function"):
        cofire.layers(lambda x: x, torch.zeros(2, 4))


# Choosing layers


def test_layers_by_name_glob_module_and_predicate():
    model = torchvision.models.resnet18(weights=None)
    x = torch.zeros(2, 3, 32, 32)
    assert names(model, x, layers=["layer1.0.relu"]) == ["layer1.0.relu"]
    assert names(model, x, layers=["layer1.*"]) == [
        "layer1.0.relu",
        "layer1.0.relu#2",
        "layer1.1.relu",
        "layer1.1.relu#2",
    ]
    assert names(model, x, layers="layer4.1.conv2") == ["layer4.1.conv2"]
    assert names(model, x, layers=lambda layer: layer.units == 512) == [
        "layer4.0.relu", "layer4.0.relu#2", "layer4.1.relu", "layer4.1.relu#2",
    ]  # fmt: skip


def test_unknown_layer_names_the_closest():
    model = torchvision.models.resnet18(weights=None)
    with pytest.raises(LayerError, match=r"no layer named 'fc1' in ResNet; closest: 'fc'. List them with cofire\.layers"):
        cofire.layers(model, torch.zeros(2, 3, 32, 32), layers=["fc1"])


def test_a_module_that_is_never_called_is_an_error_not_an_empty_result():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.unused, self.head = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(F.relu(self.fc(x)))

    with pytest.raises(LayerError, match="no layer named 'unused' in Unused; it was not called"):
        cofire.layers(Unused(), torch.zeros(2, 4), layers=["unused"])
