"""Training: it learns, it repeats itself bit for bit, and it says what is wrong."""

import math

import pytest
import torch
from torch import nn

from cofire import training, zoo
from cofire.data import Images, load
from cofire.errors import InputError, ModelError
from cofire.training import fit


@pytest.fixture(autouse=True)
def one_thread():
    """Nets this small are no slower on one thread, and much faster when another process has the other cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits", limit=400)


def net(seed=0, **options) -> nn.Module:
    return zoo.fcnn([32, 16], 64, 10, **{"dropout": 0.3, "batch_norm": True, **options}, seed=seed)


# ---------------------------------------------------------------- it learns


def test_digits_are_learned():
    history = fit(zoo.fcnn([512, 512], 64, 10, dropout=0.2, seed=0), load("digits"), load("digits", "test"), epochs=15)
    assert history.test_accuracy[-1] > 0.94
    assert history.train_accuracy[-1] > 0.97
    assert history.test_accuracy[0] < 0.3
    assert history.epochs == list(range(16))
    assert math.isnan(history.train_loss[0])
    assert history.train_loss[1] > history.train_loss[-1]


@pytest.mark.data
def test_a_papers_net_learns_mnist(data_root):
    train, test = load("mnist", root=data_root, limit=10_000), load("mnist", "test", root=data_root)
    history = fit(zoo.paper("001-mnist", seed=0), train, test, epochs=2)
    assert history.test_accuracy[-1] > 0.9


def test_accuracy_and_loss_are_those_of_a_plain_loop(digits):
    model = net(dropout=0.0, batch_norm=False)
    twin = net(dropout=0.0, batch_norm=False)
    history = fit(model, digits, digits, epochs=2, batch_size=50, lr=0.01, weight_decay=0.1, label_smoothing=0.1, seed=4)
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, weight_decay=0.1)
    batches = digits.batches(50, shuffle=True, seed=4)
    for epoch in (1, 2):
        batches.epoch = epoch
        losses = []
        for inputs, labels in batches:
            loss = nn.functional.cross_entropy(twin(inputs), labels, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses) / len(losses) == pytest.approx(history.train_loss[epoch], rel=1e-4)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    inputs, labels = next(iter(digits.batches(len(digits))))
    assert (model(inputs).argmax(1) == labels).float().mean().item() == pytest.approx(history.test_accuracy[-1])


# ---------------------------------------------------------------- laws: the same again


def test_training_repeats_itself_and_leaves_the_generators_alone(digits):
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        before = torch.get_rng_state()
        model = net()
        fit(model, digits, digits, epochs=2, schedule="cosine", label_smoothing=0.1)
        assert torch.equal(torch.get_rng_state(), before)
        assert not any(layer.training for layer in model.modules())
        results.append(zoo.digest(model))
    assert results[0] == results[1]
    other = net()
    fit(other, digits, epochs=2, schedule="cosine", label_smoothing=0.1, seed=1)
    assert zoo.digest(other) != results[0]


def test_looking_at_test_data_changes_nothing(digits):
    models = [net(), net(), net()]
    for model, test in zip(models, (None, digits, digits.batches(7)), strict=True):
        fit(model, digits, test, epochs=2)
    assert len({zoo.digest(model) for model in models}) == 1


# ---------------------------------------------------------------- parts


def test_augmentation_shifts_and_flips_whole_pictures():
    ramp = torch.arange(1.0, 65.0).view(1, 1, 8, 8).repeat(400, 2, 1, 1)
    torch.manual_seed(0)
    found = training._augmented(ramp)
    padded = nn.functional.pad(ramp[:1], (1, 1, 1, 1))
    windows = [padded[0, :, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    allowed = {tuple(w.flatten().tolist()) for w in (*windows, *(window.flip(-1) for window in windows))}
    seen = [tuple(picture.flatten().tolist()) for picture in found]
    assert set(seen) == allowed
    assert max(seen.count(picture) for picture in allowed) < 60


def test_cosine_goes_from_lr_towards_zero(digits, monkeypatch):
    rates = []
    original = training._epoch

    def watched(model, batches, optimizer, *rest):
        rates.append(optimizer.param_groups[0]["lr"])
        return original(model, batches, optimizer, *rest)

    monkeypatch.setattr(training, "_epoch", watched)
    fit(net(), digits, epochs=4, lr=0.1, schedule="cosine")
    assert rates == pytest.approx([0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5))])


def test_frozen_parameters_stay(digits):
    model = net()
    for parameter in model.get_submodule("fc1").parameters():
        parameter.requires_grad_(False)
    before = model.get_parameter("fc1.weight").clone()
    fit(model, digits, epochs=1)
    assert torch.equal(model.get_parameter("fc1.weight"), before)


class WithLogits(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return type("Output", (), {"logits": self.net(x)})()


class WithHeads(WithLogits):
    def forward(self, x):
        logits = self.net(x)
        return (logits, logits * 2)


@pytest.mark.parametrize("kind", [WithLogits, WithHeads])
def test_outputs_that_hold_logits(digits, kind):
    model, plain = kind(), net()
    fit(model, digits, epochs=1)
    fit(plain, digits, epochs=1)
    assert zoo.digest(model.net) == zoo.digest(plain)


def test_a_data_loader_and_lists_train_too(digits):
    loader = torch.utils.data.DataLoader(digits, batch_size=100, shuffle=True)
    results = []
    for _ in range(2):
        model = net()
        assert fit(model, loader, list(digits.batches(100)), epochs=1).test_accuracy[-1] > 0.1
        results.append(zoo.digest(model))
    assert results[0] == results[1]


def test_the_bar_is_for_terminals(digits, capsys, monkeypatch):
    fit(net(), digits, epochs=1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FORCE_COLOR", "1")
    fit(net(), digits, digits, epochs=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1 of 1, loss" in err
    assert "test accuracy" in err


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": -1}, "epochs is 0 or more; found -1"),
        ({"lr": 0.0}, "lr is above 0; found 0.0"),
        ({"lr": math.nan}, "lr is above 0; found nan"),
        ({"weight_decay": -1.0}, "weight_decay is 0 or more"),
        ({"batch_size": 0}, "batch_size is 1 or more"),
        ({"seed": -1}, "seed must be a whole number from 0 to"),
        ({"schedule": "step"}, "schedule is None or 'cosine'; found 'step'"),
        ({"label_smoothing": 1.0}, "label_smoothing is from 0 up to"),
        ({"every": 0}, "every is 1 or more"),
    ],
)
def test_settings_out_of_range(digits, options, words):
    with pytest.raises(InputError, match=words):
        fit(net(), digits, **options)


def test_data_and_models_that_cannot_be_trained(digits):
    for model, train, test, error, words in (
        (net(), iter(digits.batches()), None, InputError, "again and again; found an iterator. Pass a list"),
        (net(), digits, iter(digits.batches()), InputError, "found an iterator"),
        (net(), [], None, InputError, "training data has samples; found none"),
        (zoo.fcnn([8], 64, 9), digits, None, InputError, "labels are below the model's 9 outputs; found 9"),
        (zoo.fcnn([8], 64, 9), list(digits.batches()), None, InputError, "labels are below the model's 9 outputs"),
        (nn.Flatten(), digits, None, ModelError, "Flatten has none"),
        (nn.Conv2d(1, 3, 3), digits, None, ModelError, r"a classifier gives logits \[128, classes\]; found \[128, 3"),
    ):
        with pytest.raises(error, match=words):
            fit(model, train, test, epochs=1)
    flat = [(inputs.flatten(1), labels) for inputs, labels in digits.batches()]
    with pytest.raises(InputError, match=r"augment wants pictures .*; found \[256, 64\]"):
        fit(net(), flat, epochs=1, augment=True)
