"""Checkpoints: what was stopped goes on and ends the same, bit for bit."""

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

from cofire import checkpointing, zoo
from cofire.data import Images, load
from cofire.errors import ActivationError, FileError, InputError
from cofire.training import History, checkpoint_files, fit


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


# ---------------------------------------------------------------- laws


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


# One thread as here: kernels on another number of threads may differ in the last bit.
KILLED = """
import sys, torch
torch.set_num_threads(1)
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


def test_history_is_a_frame_and_a_file(tmp_path, digits):
    history = fit(net(), digits, epochs=1, checkpoints=tmp_path)
    assert list(history.frame().columns) == ["epochs", "train_loss", "train_accuracy", "test_accuracy", "seconds"]
    found = (tmp_path / "history.json").read_text()
    assert json.loads(found)["train_loss"][0] is None
    assert History.from_json(found).frame().equals(history.frame())
    assert history.frame()["test_accuracy"].isna().all()


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


def test_a_loss_that_explodes_is_an_error_and_not_a_checkpoint(tmp_path, digits):
    bad = Images(digits.pixels.clone(), digits.labels, digits.classes)
    bad.pixels[3] = math.inf
    with pytest.raises(ActivationError, match=r"a loss is a finite number; found nan in epoch 1\. Lower lr"):
        fit(net(), bad, epochs=2, checkpoints=tmp_path)
    assert list(checkpoint_files(tmp_path)) == [0]
