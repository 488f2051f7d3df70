"""Training: it learns, it repeats itself bit for bit, it resumes, and it says what is wrong."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from cofire import checkpointing, training, zoo
from cofire.data import Images, load
from cofire.errors import ActivationError, FileError, InputError, ModelError
from cofire.training import History, checkpoint_files, fit


@pytest.fixture(scope="module")
def digits() -> Images:
    return load("digits", limit=400)


def net(seed=0, **options) -> nn.Module:
    return zoo.fcnn([32, 16], 64, 10, **{"dropout": 0.3, "batch_norm": True, **options}, seed=seed)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class StopError(Exception):
    pass


class StopsAt:
    """Batches that fail in the third batch of a pass, as a process that is killed there does."""

    def __init__(self, images: Images, epoch: int, error=StopError):
        self.batches, self.epoch, self.error = images.batches(64, shuffle=True), epoch, error

    def __iter__(self):
        for number, batch in enumerate(self.batches):
            if number == 2 and self.batches.epoch == self.epoch:
                raise self.error
            yield batch


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


@pytest.mark.parametrize("options", [{}, {"every": 3}, {"augment": True}, {"lr": 0.01, "weight_decay": 0.01}])
def test_two_epochs_and_two_more_are_four(tmp_path, digits, options):
    whole, parts, plain = net(), net(), net()
    history = fit(whole, digits, digits, epochs=4, checkpoints=tmp_path / "whole", **options)
    fit(parts, digits, digits, epochs=2, checkpoints=tmp_path / "parts", **options)
    another = net(seed=7)  # what it starts from does not matter any more
    resumed = fit(another, digits, digits, epochs=4, checkpoints=tmp_path / "parts", **options)
    fit(plain, digits, epochs=4, **{key: value for key, value in options.items() if key != "every"})
    assert zoo.digest(another) == zoo.digest(whole) == zoo.digest(plain)
    columns = ["epochs", "train_loss", "train_accuracy", "test_accuracy"]
    assert resumed.frame()[columns].equals(history.frame()[columns])
    wanted = {"every": [0, 2, 3, 4]}.get(next(iter(options), ""), [0, 1, 2, 3, 4])
    assert list(checkpoint_files(tmp_path / "parts")) == wanted
    fresh = net()
    zoo.load_weights(fresh, tmp_path / "whole" / "epoch-000.safetensors")
    assert zoo.digest(fresh) == zoo.digest(net())


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
def test_a_stop_in_an_epoch_loses_that_epoch_only(tmp_path, digits, error):
    model = net()
    with pytest.raises(error):
        fit(model, StopsAt(digits, 3, error), epochs=4, checkpoints=tmp_path, schedule="cosine")
    assert not any(layer.training for layer in model.modules())
    assert names(tmp_path) == [
        *(f"epoch-00{epoch}.safetensors" for epoch in range(3)),
        "history.json",
        "state.safetensors",
    ]


KILLED = """
import sys, time
from cofire import zoo
from cofire.data import load
from cofire.training import fit
fit(zoo.fcnn([32, 16], 64, 10, dropout=0.3, batch_norm=True, seed=0), load("digits", limit=400), epochs=100_000,
    checkpoints=sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
def test_a_killed_training_goes_on_bit_for_bit(tmp_path, digits):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)])
    deadline = time.monotonic() + 60
    while len(checkpoint_files(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = max(checkpoint_files(tmp_path))
    assert done >= 3
    resumed, whole = net(), net()
    fit(resumed, digits, epochs=done + 2, checkpoints=tmp_path)
    fit(whole, digits, epochs=done + 2)
    assert zoo.digest(resumed) == zoo.digest(whole)
    assert [name for name in names(tmp_path) if ".tmp-" in name] == []


def test_a_cosine_training_that_was_stopped_goes_on(tmp_path, digits, monkeypatch):
    whole, parts = net(), net()
    fit(whole, digits, epochs=4, schedule="cosine")
    keep = checkpointing.keep

    def keep_and_stop(folder, model, optimizer, settings, history):
        keep(folder, model, optimizer, settings, history)
        if history.epochs[-1] == 2:
            raise StopError

    monkeypatch.setattr(checkpointing, "keep", keep_and_stop)
    with pytest.raises(StopError):
        fit(parts, digits, epochs=4, schedule="cosine", checkpoints=tmp_path)
    monkeypatch.undo()
    fit(parts, digits, epochs=4, schedule="cosine", checkpoints=tmp_path)
    assert zoo.digest(parts) == zoo.digest(whole)


def test_a_kill_between_two_files_leaves_something_to_go_on_from(tmp_path, digits, monkeypatch):
    whole, parts = net(), net()
    fit(whole, digits, epochs=3)
    fit(parts, digits, epochs=2, checkpoints=tmp_path)

    def weights_only(folder, model, *rest):
        zoo.save_weights(model, folder / "epoch-003.safetensors")
        raise StopError

    monkeypatch.setattr(checkpointing, "keep", weights_only)
    with pytest.raises(StopError):
        fit(parts, digits, epochs=3, checkpoints=tmp_path)
    monkeypatch.undo()
    resumed = net()
    assert fit(resumed, digits, epochs=3, checkpoints=tmp_path).epochs == [0, 1, 2, 3]
    assert zoo.digest(resumed) == zoo.digest(whole)


def test_a_finished_training_is_read_not_repeated(tmp_path, digits):
    model = net()
    history = fit(model, digits, digits, epochs=3, checkpoints=tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = net(seed=5)
    assert fit(again, digits, digits, epochs=3, checkpoints=tmp_path).seconds == history.seconds
    assert zoo.digest(again) == zoo.digest(model)
    fewer = net(seed=5)
    assert fit(fewer, digits, digits, epochs=1, checkpoints=tmp_path).epochs == [0, 1]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == stamps
    one = net()
    zoo.load_weights(one, checkpoint_files(tmp_path)[1])
    assert zoo.digest(fewer) == zoo.digest(one)


def test_starting_anew_removes_its_own_files_only(tmp_path, digits):
    fit(net(), digits, epochs=3, checkpoints=tmp_path)
    (tmp_path / "mine.txt").write_text("stays")
    (tmp_path / f"state.safetensors.tmp-{2**22 + 1}-0123abcd").write_text("of a dead process")
    history = fit(net(), digits, epochs=1, checkpoints=tmp_path, resume=False, lr=0.5)
    assert history.epochs == [0, 1]
    wanted = ["epoch-000.safetensors", "epoch-001.safetensors", "history.json", "mine.txt", "state.safetensors"]
    assert names(tmp_path) == wanted


# ---------------------------------------------------------------- parts


def test_history_is_a_frame_and_a_file(tmp_path, digits):
    history = fit(net(), digits, epochs=1, checkpoints=tmp_path)
    assert list(history.frame().columns) == ["epochs", "train_loss", "train_accuracy", "test_accuracy", "seconds"]
    found = (tmp_path / "history.json").read_text()
    assert json.loads(found)["train_loss"][0] is None
    assert History.from_json(found).frame().equals(history.frame())
    assert history.frame()["test_accuracy"].isna().all()


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


def test_other_settings_in_a_folder_of_checkpoints_are_refused(tmp_path, digits):
    fit(net(), digits, epochs=1, checkpoints=tmp_path)
    with pytest.raises(InputError) as raised:
        fit(net(), digits, epochs=2, checkpoints=tmp_path, lr=0.01)
    assert str(raised.value) == (
        f"the checkpoints in {tmp_path} were made with lr=0.001; found lr=0.01. Name another folder, or pass "
        "resume=False to remove them and start anew."
    )
    for model, data, options, words in (
        (net(), digits, {"seed": 1}, "seed=0; found seed=1"),
        (net(), digits, {"batch_size": 64}, "'batch_size': 128"),
        (net(), digits, {"schedule": "cosine"}, "schedule=None"),
        (net(dropout=0.5), digits, {}, "model="),
        (net(), digits.subset(range(399)), {}, "train="),
        (net(), load("digits", limit=400, shuffle_labels=True), {}, "train="),
    ):
        with pytest.raises(InputError, match=words):
            fit(model, data, epochs=2, checkpoints=tmp_path, **options)


def test_damaged_checkpoints_are_seen(tmp_path, digits):
    fit(net(), digits, epochs=2, checkpoints=tmp_path)
    zoo.save_weights(net(seed=3), tmp_path / "epoch-002.safetensors")
    with pytest.raises(FileError, match=r"belongs to other weights than epoch-002.safetensors"):
        fit(net(), digits, epochs=3, checkpoints=tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"words")
    with pytest.raises(FileError, match=r"state.safetensors could not be read; .* Pass resume=False to start anew."):
        fit(net(), digits, epochs=3, checkpoints=tmp_path)


def test_fewer_epochs_than_were_kept(tmp_path, digits):
    fit(net(), digits, epochs=3, every=3, checkpoints=tmp_path)
    with pytest.raises(InputError, match="has 3 epochs; 2 were wanted"):
        fit(net(), digits, epochs=2, every=3, checkpoints=tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": -1}, "epochs is 0 or more; found -1"),
        ({"lr": 0.0}, "lr is above 0; found 0.0"),
        ({"lr": math.nan}, "lr is above 0; found nan"),
        ({"weight_decay": -1.0}, "weight_decay is 0 or more"),
        ({"batch_size": 0}, "batch_size is 1 or more"),
        ({"seed": -1}, "seed is 0 or more"),
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


def test_a_loss_that_explodes_is_an_error_and_not_a_checkpoint(tmp_path, digits):
    bad = Images(digits.pixels.clone(), digits.labels, digits.classes)
    bad.pixels[3] = math.inf
    with pytest.raises(ActivationError, match=r"a loss is a finite number; found nan in epoch 1\. Lower lr"):
        fit(net(), bad, epochs=2, checkpoints=tmp_path)
    assert list(checkpoint_files(tmp_path)) == [0]
