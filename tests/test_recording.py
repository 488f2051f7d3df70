"""Recording: a model and batches in, exact statistics out, however the data comes and whatever goes wrong."""

import copy

import pytest
import torch
from torch import nn

import cofire
import naive
from cofire import data
from cofire.errors import ActivationError, CofireWarning, InputError
from cofire.recording import described


def mlp(seed=0, inputs=6, classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, 12), nn.GELU(), nn.Linear(12, classes))


def dyadic(model):
    """Weights of few bits, so that the model's own float32 sums are exact and only our arithmetic is tested."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 16).round() / 16)
    return model


def samples(count=500, inputs=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(count, inputs, generator=generator) * 16).round() / 16
    return x, torch.randint(0, classes, (count,), generator=generator)


def batched(x, y, size):
    return list(zip(x.split(size), y.split(size), strict=True))


# Closed form


def test_accuracy_and_confusion_are_those_of_the_model():
    model, (x, y) = mlp(), samples()
    stats = cofire.record(model, batched(x, y, 64))
    guess = model(x).argmax(1)
    assert stats.accuracy == pytest.approx(float((guess == y).double().mean()))
    assert int(stats.confusion[1, 2]) == int(((y == 1) & (guess == 2)).sum())
    assert stats.class_accuracy[3] == pytest.approx(float((guess == y)[y == 3].double().mean()))
    assert stats.samples == 500


@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_output_stands_for_two_classes(sigmoid):
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1)] + [nn.Sigmoid()] * sigmoid
    model, (x, y) = nn.Sequential(*layers), samples(classes=2)
    stats = cofire.record(model, batched(x, y, 50))
    assert stats.classes == 2
    guess = (model(x)[:, 0] > (0.5 if sigmoid else 0)).long()
    assert stats.accuracy == pytest.approx(float((guess == y).double().mean()))


class Rounded(nn.Module):
    """Its sigmoid is not the tensor that it gives."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.kind = nn.Linear(6, 8), nn.Linear(8, 1), nn.Sigmoid()

    def forward(self, x):
        return self.kind(self.fc2(torch.relu(self.fc1(x)))).double()


@pytest.mark.parametrize("kind", [nn.Sigmoid, nn.Hardsigmoid])
def test_a_sigmoid_at_the_end_is_known_in_any_form(kind):
    torch.manual_seed(0)
    model, (x, y) = Rounded(), samples(classes=2)
    model.kind = kind()
    guess = (model(x)[:, 0] > 0.5).long()
    assert 0 < int(guess.sum()) < len(guess)
    assert cofire.record(model, batched(x, y, 50)).accuracy == pytest.approx(float((guess == y).double().mean()))


def test_outputs_that_are_not_the_classes_give_no_accuracy():
    model, (x, y) = mlp(classes=9), samples()
    assert cofire.record(model, batched(x, y, 50), classes=4).accuracy is None


def test_thresholds_follow_the_kind_unless_given():
    model = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    x, y = samples()
    stats = cofire.record(model, batched(x, y, 50))
    assert [layer.threshold for layer in stats.values()] == [0.5, 0.0]
    hidden = torch.sigmoid(model[0](x))
    assert torch.equal(stats["1"].fire.sum(0), (hidden > 0.5).sum(0))
    assert cofire.record(model, batched(x, y, 50), threshold=0.25)["3"].threshold == 0.25


def test_class_names_and_number_come_from_the_data():
    digits = data.load("digits", "test", limit=60)
    stats = cofire.record(cofire.zoo.model("fcnn:64-8-10"), digits.batches(32))
    assert stats.class_names == list(digits.classes)
    said = {"name": "digits", "split": "test", "digest": digits.digest}
    assert stats.header["data"] == said | {"reading": "1x8x8"}
    assert described(digits.batches(normalize=((0.5,), (2.0,)))) == said | {"reading": "1x8x8, normalised by ((0.5,), (2.0,))"}
    assert described([(torch.zeros(1), torch.zeros(1))]) == {"name": "list"}
    assert stats.header["model"]["digest"]


# Laws: how the data comes does not matter


@pytest.mark.parametrize("histograms", ["cache", "two-pass"])
@pytest.mark.parametrize("size", [1, 7, 100, 500])
def test_batch_size_order_and_way_do_not_matter(histograms, size):
    model, (x, y) = dyadic(mlp()), samples()
    model[3] = nn.ReLU()  # GELU itself rounds differently with the place in a vector register
    reference = cofire.record(model, [(x, y)], levels=3)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(size))
    other = cofire.record(model, batched(x[order], y[order], size), histograms=histograms, levels=3)
    for name, layer in reference.items():
        for field, value in layer.tensors.items():
            mine = other[name].tensors[field]
            if field in ("sum", "square_sum", "product_sum"):
                assert torch.allclose(mine, value, rtol=1e-12, atol=1e-12), field
            else:
                assert torch.equal(mine, value), field


def test_a_small_budget_takes_the_second_pass_and_gives_the_same():
    model, (x, y) = mlp(), samples()
    batches = batched(x, y, 50)
    full, small = (
        cofire.record(model, batches, by_class=True, cofiring="class"),
        cofire.record(model, batches, by_class=True, cofiring="class", memory="4kB"),
    )
    assert (full.header["histograms"], small.header["histograms"]) == ("exact (cache)", "exact (two passes)")
    assert small.equal(full)


def test_a_small_budget_on_data_that_can_be_read_once_takes_the_sketch():
    model, (x, y) = mlp(), samples()
    batches = batched(x, y, 50)
    once = cofire.record(model, iter(batches), memory="4kB")
    assert once.header["histograms"] == "sketch"
    assert once.equal(cofire.record(model, batches, histograms="sketch")) or once["1"].sketch is not None
    assert torch.equal(once["1"].sketch, cofire.record(model, batches, histograms="sketch")["1"].sketch)


def test_parts_recorded_against_a_reference_add_exactly():
    model, (x, y) = mlp(), samples()
    whole = cofire.record(model, [(x, y)])
    parts = [cofire.record(model, [(a, b)], reference=whole, classes=4) for a, b in batched(x, y, 125)]
    total = parts[2] + parts[0] + parts[3] + parts[1]
    for field in ("fire", "zeros", "histogram", "class_histogram", "low", "high", "class_counts"):
        assert torch.equal(getattr(total["1"], field), getattr(whole["1"], field)), field
    assert total.accuracy == whole.accuracy


def test_saved_and_loaded_without_the_model(tmp_path):
    stats = cofire.record(mlp(), batched(*samples(), 64))
    stats.save(tmp_path / "a.safetensors")
    loaded = cofire.load(tmp_path / "a.safetensors")
    assert loaded == stats
    assert loaded.header == stats.header
    assert list(loaded) == list(stats)


# Reference: the papers' way, loops over stored activations


def test_against_the_naive_reference():
    model, (x, y) = mlp(), samples()
    stats = cofire.record(model, batched(x, y, 64))
    hidden = model[1](model[0](x)).detach().numpy()
    layer, labels = stats["1"], y.numpy()
    close = {"rtol": 0, "atol": 1e-9}
    assert torch.allclose(
        cofire.firing_probability(layer), torch.as_tensor(naive.firing_probability(hidden, labels, 4, 0.0)), **close
    )
    assert torch.allclose(
        cofire.mutual_information(layer), torch.as_tensor(naive.mutual_information(hidden, labels, 4, 0.0)), **close
    )
    assert torch.allclose(cofire.activation_entropy(layer), torch.as_tensor(naive.activation_entropy(hidden, 30)), atol=1e-3)


def test_maps_are_mean_maps_over_channels():
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 36, 3))
    x, y = torch.randn(30, 1, 8, 8), torch.arange(30) % 3
    layer = cofire.record(model, batched(x, y, 8), classes=3)["1"]
    expected = model[1](model[0](x))[y == 2].mean((0, 1))
    assert torch.allclose((layer.maps[2] / 10).float(), expected, atol=1e-6)


# Degenerate


def test_an_empty_class_is_named_and_nan():
    x, y = samples(classes=3)
    with pytest.warns(CofireWarning, match="no sample of class '3'; what is said of it is NaN"):
        stats = cofire.record(mlp(), batched(x, y, 100))
    with pytest.warns(CofireWarning, match="no sample of class 3 in layer '1'"):
        assert cofire.firing_probability(stats["1"])[3].isnan().all()


def test_many_classes_leave_histograms_by_class_out():
    x, y = samples(classes=4)
    stats = cofire.record(mlp(), batched(x, y, 100), memory=1000)
    assert stats["1"].class_histogram is None
    with pytest.raises(InputError, match="by_class=True needs histograms by class, which layer '1' does not hold"):
        cofire.activation_entropy(stats["1"], by_class=True)


def test_a_model_without_parameters_and_a_loader_with_workers():
    class Free(nn.Module):
        def forward(self, x):
            return torch.relu(x) * 2

    x, y = samples(classes=4)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=50, num_workers=1)
    assert cofire.record(Free(), loader, classes=4)["relu"].samples == 500


# Errors


def test_no_sample():
    with pytest.raises(InputError, match="there must be at least one sample; the batches are empty"):
        cofire.record(mlp(), [])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, 9]), r"labels must lie in \[0, 4\); found 9"),
        (torch.tensor([0, -1, 2]), r"labels must lie in \[0, classes\); found -1"),
        (
            torch.tensor([0.0, 1.0, 2.0]),
            "labels must be whole numbers, the class indices; found float32 in batch 0. Convert them with",
        ),
        (torch.tensor([0, 1]), "there must be one label per sample; found 2 labels for 3 samples"),
        (
            torch.eye(3).long(),
            r"labels must be one-dimensional, \[samples\]; found shape \(3, 3\) in batch 0. One-hot labels become",
        ),
        (
            torch.zeros(3, dtype=torch.long, device="meta"),
            "labels must be on a device that holds data; found the meta device",
        ),
        ("abc", "labels must be a tensor or an array of class indices; found <class 'str'>"),
    ],
)
def test_wrong_labels(labels, message):
    with pytest.raises(InputError, match=message):
        cofire.record(mlp(), [(torch.zeros(3, 6), labels)])


@pytest.mark.parametrize("label", [2, torch.tensor(2), torch.tensor(2).numpy()], ids=["int", "tensor", "array"])
def test_single_samples_in_place_of_batches(label):
    words = (
        r"^a batch must hold the labels of its samples; batch 0 has the one label 2\. A data set of single samples needs a Data"
    )
    with pytest.raises(InputError, match=words):
        cofire.record(mlp(), [(torch.zeros(6), label)])


def test_batches_that_are_not_inputs_and_labels():
    with pytest.raises(
        InputError,
        match=r"a batch must be \(inputs, labels\) or a mapping with labels; batch 0 is Tensor of shape \(3, 6\)",
    ):
        cofire.record(mlp(), [torch.zeros(3, 6)])
    with pytest.raises(InputError, match="a batch that is a mapping must hold its labels under one of labels, label"):
        cofire.record(mlp(), [{"x": torch.zeros(3, 6)}])
    with pytest.raises(InputError, match="batches must be iterable; found int"):
        cofire.record(mlp(), 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite(value):
    x, y = samples()
    x[130, 2] = value
    with pytest.raises(
        ActivationError,
        match=r"finite numbers, in layer '1'; found [\d,]+ NaN and [\d,]+ infinite among 800 values of batch 2",
    ):
        cofire.record(mlp(), batched(x, y, 50))


def test_random_augmentation_in_the_second_pass_is_noticed():
    x, y = samples()

    class Noisy:
        def __iter__(self):
            return iter([(x + torch.randn_like(x), y)])

    with pytest.raises(
        ActivationError, match=r"the second pass must see the samples of the first.*Switch random augmentation off"
    ):
        cofire.record(mlp(), Noisy(), histograms="two-pass")


def test_choices_that_make_no_sense():
    batches = batched(*samples(), 100)
    for options, message in (
        ({"histograms": "exact"}, "histograms must be one of auto, cache, two-pass, sketch, none; found 'exact'"),
        ({"bins": 0}, "bins must be a whole number of at least 1; found 0"),
        ({"pool": "median"}, 'pool must be "mean", "max" or "none"; found \'median\''),
        ({"memory": "much"}, "memory must be bytes or a size such as '2GB'; found 'much'"),
        ({"levels": 1}, "levels must be a whole number of at least 2; found 1"),
        ({"by_class": "maybe"}, "by_class must be True, False or \"auto\"; found 'maybe'"),
    ):
        with pytest.raises(InputError, match=message):
            cofire.record(mlp(), batches, **options)
    with pytest.raises(InputError, match="reads the data twice; these batches are an iterator"):
        cofire.record(mlp(), iter(batches), histograms="two-pass")


def test_a_reference_must_count_the_same():
    model, batches = mlp(), batched(*samples(), 100)
    reference = cofire.record(model, batches)
    with pytest.raises(InputError, match="a reference must be recorded with the same bins; layer '1' has 30 there, 10 here"):
        cofire.record(model, batches, reference=reference, bins=10)
    sketch = cofire.record(model, batches, histograms="sketch", by_class=False)
    with pytest.raises(InputError, match="a reference must hold exact histograms"):
        cofire.record(model, batches, reference=sketch, by_class=False)


def test_statistics_of_other_weights_do_not_add():
    batches = batched(*samples(), 100)
    with pytest.raises(cofire.errors.MergeError, match="only where they are of one model; found weights with digests"):
        cofire.record(mlp(0), batches) + cofire.record(mlp(1), batches)


def test_recording_leaves_random_state_and_gradients_alone():
    model, batches = mlp(), batched(*samples(), 100)
    state, before = torch.get_rng_state(), copy.deepcopy(model.state_dict())
    cofire.record(model, batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# Real data


@pytest.mark.data
def test_mnist_end_to_end(data_root):
    train = data.load("mnist", "train", root=data_root, limit=2000)
    model = cofire.zoo.model("zoo:001-mnist", seed=0)
    cofire.fit(model, train, epochs=3, seed=0, progress=False)
    stats = cofire.record(model, train.batches(256))
    assert stats.accuracy > 0.9
    excess = {name: float(cofire.mutual_information_excess(layer).mean()) for name, layer in stats.items()}
    shuffled = data.load("mnist", "train", root=data_root, limit=2000, shuffle_labels=True)
    control = cofire.record(model, shuffled.batches(256))
    null = {name: float(cofire.mutual_information_excess(layer).mean()) for name, layer in control.items()}
    assert all(excess[name] > 0.02 > 10 * abs(null[name]) for name in stats)


def test_names_for_fewer_classes_than_asked_for():
    net, digits = cofire.zoo.model("fcnn:64-8-11"), cofire.data.load("digits", limit=100)
    with pytest.raises(
        InputError, match=r"there must be one name per class; found 10 names for 11 classes\. Pass class_names="
    ):
        cofire.record(net, digits.batches(), classes=11, progress=False)
