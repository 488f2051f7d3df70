"""The Monitor as a callback: what a plain loop gives, others give too, and checkpoints go on where they stopped.

The file is also the program of the processes that train together: ``python test_callbacks.py FOLDER``.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cofire
from cofire import callbacks
from cofire.errors import InputError, ModelError
from test_monitoring import CLASSES, batches, network, read_back

lightning = pytest.importorskip("lightning.pytorch", reason="the extra 'lightning' is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore:::lightning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


class Loader:
    """Batches that go on in mid-epoch where they stopped, as Lightning asks of a loader."""

    def __init__(self, items):
        self.items, self.first, self.at = items, 0, 0

    def __len__(self):
        return len(self.items)

    def __iter__(self):
        first, self.first = self.first, 0
        for index in range(first, len(self.items)):
            self.at = index + 1
            yield self.items[index]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.first = state["at"] % len(self.items)


class Net(lightning.LightningModule):
    def __init__(self, whole=False):
        super().__init__()
        self.net, self.whole = network(), whole

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _index):
        x, y = batch
        return F.cross_entropy(self(x) if self.whole else self.net(x), y)

    def validation_step(self, batch, _index):
        x, y = batch
        self.log("validation", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder, callback, module=None, checkpoint=None, others=(), validation=True, **options):
    trainer = lightning.Trainer(
        accelerator="cpu", enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[callback, *others], **{"max_epochs": 2, "logger": False, **options},
    )  # fmt: skip
    data = Loader(batches(6))
    trainer.fit(module or Net(), data, Loader(batches(2, seed=9)) if validation else None, ckpt_path=checkpoint)
    return trainer


def plain(epochs=2, accumulate=1, **options):
    """What a plain loop gives: numbers of each window."""
    model, found = network(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with cofire.Monitor(model, log=found.append, **options) as monitor:
        for epoch in range(epochs):
            for index, (x, y) in enumerate(batches(6)):
                (F.cross_entropy(model(x), y) / accumulate).backward()
                if index % accumulate == accumulate - 1:
                    optimizer.step()
                    optimizer.zero_grad()
                monitor.step(y)
            monitor.log(epoch=epoch)
    return found, monitor


# ---------------------------------------------------------------- Lightning


@pytest.mark.parametrize("whole", [False, True])
def test_lightning_gives_what_a_plain_loop_gives(tmp_path, whole):
    found = []
    callback = callbacks.lightning(log=found.append, every=2)
    fit(tmp_path, callback, Net(whole))
    expected, monitor = plain(every=2)
    assert found == expected
    assert callback.monitor.stats == monitor.stats
    assert not callback.monitor._watch.model._forward_hooks


def test_lightning_with_accumulated_gradients(tmp_path):
    found = []
    fit(tmp_path, callbacks.lightning(log=found.append), accumulate_grad_batches=3)
    assert found == plain(accumulate=3)[0]


def test_lightning_windows_of_some_steps(tmp_path):
    found = []
    fit(tmp_path, callbacks.lightning(log=found.append, window=4))
    assert [(numbers["epoch"], numbers["cofire/samples"]) for numbers in found] == [(0, 80), (1, 80), (1, 80)]


def test_lightning_writes_to_the_trainers_loggers(tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, name="", version="runs")
    callback = callbacks.lightning()
    fit(tmp_path, callback, logger=logger, accumulate_grad_batches=2, log_every_n_steps=1)
    found = read_back(tmp_path / "runs")
    rate = float(callback.monitor.stats["1"].fire.sum()) / (120 * 16)
    assert found["cofire/1/firing_rate"][-1] == (6, pytest.approx(rate))
    assert [step for step, _ in found["cofire/1/firing_rate"]] == [3, 6]  # the trainer's steps, two batches each


def test_lightning_goes_on_from_a_checkpoint_in_mid_epoch(tmp_path):
    checkpoints = lightning.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=4)
    found, again = [], []
    whole = callbacks.lightning(log=found.append)
    fit(tmp_path, whole, others=[checkpoints], max_epochs=3, validation=False)
    assert found == plain(3)[0]
    for step, left in ((4, 3), (8, 2), (16, 1)):
        resumed = callbacks.lightning(log=again.append)
        fit(tmp_path, resumed, checkpoint=tmp_path / f"step={step}.ckpt", max_epochs=3, validation=False)
        assert again == found[-left:]
        assert resumed.monitor.stats == whole.monitor.stats
        again.clear()


def fit_together(folder):
    """Two processes with batches of their own: a whole training, and one that goes on in its second epoch."""
    process = os.environ.get("LOCAL_RANK", "0")
    options = {
        "accelerator": "cpu", "devices": 2, "strategy": "ddp", "max_epochs": 2, "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "default_root_dir": folder,
    }  # fmt: skip
    kept = lightning.callbacks.ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=4)
    for name, others, start in (("whole", [kept], None), ("resumed", [], folder / "step=8.ckpt")):
        watch = callbacks.lightning()
        trainer = lightning.Trainer(callbacks=[watch, *others], enable_checkpointing=bool(others), **options)
        trainer.fit(Net(whole=True), Loader(batches(6, seed=1 + int(process))), ckpt_path=start)
        watch.monitor.stats.save(folder / f"{name}-{process}.stats")


@pytest.mark.slow
def test_each_process_goes_on_from_its_own_statistics(tmp_path):
    done = subprocess.run([sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    labels = torch.cat([y for seed in (1, 2) for _, y in batches(6, seed=seed)])
    for process in range(2):
        whole, resumed = (cofire.load(tmp_path / f"{name}-{process}.stats") for name in ("whole", "resumed"))
        assert whole == resumed
        assert whole.class_counts.tolist() == labels.bincount().tolist()


def test_lightning_lets_go_when_training_fails(tmp_path):
    class Fails(Net):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            if index == 3:
                raise RuntimeError("enough")
            return loss

    module = Fails()
    with pytest.raises(RuntimeError, match="enough"):
        fit(tmp_path, callbacks.lightning(log=print), module)
    assert not module.net._forward_hooks


def test_which_module_lightning_watches(tmp_path):
    class Two(Net):
        def __init__(self):
            super().__init__()
            self.other = nn.Linear(2, 2)

    with pytest.raises(ModelError, match=r"the watched Two must be called in training mode .*; it was not called"):
        fit(tmp_path, callbacks.lightning(log=print), Two())
    found = []
    fit(tmp_path, callbacks.lightning(log=found.append, model="net"), Two())
    assert found == plain()[0]
    with pytest.raises(ModelError) as error:
        fit(tmp_path, callbacks.lightning(log=print, model="nett"), Two())
    assert str(error.value) == "model must name a module of Two; 'nett' is NoneType. It has net, other."


def test_batches_of_another_form(tmp_path):
    class Odd(Net):
        def training_step(self, batch, _index):
            x, y = batch["inputs"]
            return F.cross_entropy(self.net(x), y)

    found = []
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[callbacks.lightning(log=found.append, labels=lambda batch: batch["inputs"][1])],
    )  # fmt: skip
    trainer.fit(Odd(), Loader([{"inputs": batch} for batch in batches(6)]))
    assert found == plain(1)[0]


@pytest.mark.data
def test_lightning_on_real_mnist(data_root, tmp_path):
    """The scalars in TensorBoard's files are those of the monitor; the net learns, and its units come together."""
    from lightning.pytorch.loggers import TensorBoardLogger

    class Mnist(Net):
        def __init__(self):
            super().__init__()
            self.net = cofire.zoo.model("fcnn:784-64-32-10", seed=0).train()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 3e-3)

    images, watch = cofire.data.load("mnist", root=data_root, limit=3000), callbacks.lightning()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[watch], logger=TensorBoardLogger(tmp_path, name="", version="runs"),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(Mnist(), torch.utils.data.DataLoader(images, 60, shuffle=True))
    check_what_was_learned(read_back(tmp_path / "runs"), watch.monitor.stats, ["relu1", "relu2"], [50, 100, 150])


def check_what_was_learned(found, stats, layers, steps):
    """What three epochs of a real training leave behind."""
    assert stats.samples == 3000
    assert list(stats) == layers
    assert found["cofire/samples"] == [(step, 3000) for step in steps]
    accuracies = [value for _, value in found["cofire/accuracy"]]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] == pytest.approx(stats.accuracy)
    assert accuracies[-1] > accuracies[0] + 0.1
    for name in layers:
        assert found[f"cofire/{name}/dead_units"][-1] == (steps[-1], int(cofire.dead_units(stats[name]).sum()))
        information = cofire.mutual_information(stats[name])[cofire.live_units(stats[name])].mean()
        assert found[f"cofire/{name}/mutual_information"][-1][1] == pytest.approx(float(information), rel=1e-6)
        assert [step for step, _ in found[f"cofire/{name}/modularity"]] == steps[1:]
        assert sum(key.startswith(f"cofire/{name}/") for key in found) <= 20


@pytest.mark.parametrize("make", [callbacks.lightning, callbacks.transformers])
def test_a_window_out_of_range(make):
    with pytest.raises(InputError, match="window must be a whole number of at least 1, or None for an epoch; found 0"):
        make(window=0)


def test_importing_callbacks_imports_neither():
    code = "import sys, cofire.callbacks; print({'lightning', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# ---------------------------------------------------------------- Transformers


def tiny():
    """A small image classifier with random weights."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=1, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=CLASSES
    )
    return ResNetForImageClassification(config)


def pictures(count=24, seed=1):
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=random)
    return [{"pixel_values": torch.randn(1, 12, 12, generator=random) + label, "labels": int(label)} for label in labels]


def collated(items):
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "labels": torch.tensor([item["labels"] for item in items]),
    }


class Loop:
    """The events of ``transformers.Trainer`` in their order, through its own handler of callbacks, one epoch after the other."""

    def __init__(self, folder, callback, model, save=None, accumulate=1):
        from transformers import TrainerControl, TrainerState
        from transformers.trainer_callback import CallbackHandler

        self.args = SimpleNamespace(output_dir=str(folder), process_index=0)
        self.state, self.control, self.model = TrainerState(), TrainerControl(), model
        self.handler = CallbackHandler([callback], model, None, None, None)
        self.save, self.accumulate = save, accumulate

    def tell(self, event):
        getattr(self.handler, event)(self.args, self.state, self.control)

    def train(self, epochs, at=0, hide=False):
        groups = [pictures()[index : index + 4] for index in range(0, 24, 4)]
        steps = len(groups) // self.accumulate
        self.state.global_step, self.state.epoch = at, at / steps
        self.model.train()
        self.tell("on_train_begin")
        for step in range(at, epochs * steps):
            if step % steps == 0 or step == at:
                self.tell("on_epoch_begin")
            first = step % steps * self.accumulate
            for group in groups[first : first + self.accumulate]:
                batch = collated(group)
                labels = batch.pop("labels") if hide else None
                output = self.model(**batch)
                (output.loss if labels is None else F.cross_entropy(output.logits, labels)).backward()
            with torch.no_grad():
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.05 * parameter.grad
                        parameter.grad = None
            self.state.global_step, self.state.epoch = step + 1, (step + 1) / steps
            self.tell("on_step_end")
            if self.save == step + 1:
                self.kept = copy.deepcopy(self.model.state_dict())
                self.tell("on_save")
            if step % steps == steps - 1:
                self.tell("on_epoch_end")
        self.tell("on_train_end")


@pytest.fixture
def hugging():
    pytest.importorskip("transformers", reason="the extra 'hf' is not installed")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_transformers_counts_every_sample_once(hugging, tmp_path, accumulate):
    found = []
    callback = callbacks.transformers(log=found.append)
    Loop(tmp_path, callback, tiny(), accumulate=accumulate).train(2)
    assert [(numbers["epoch"], numbers["cofire/samples"]) for numbers in found] == [(1, 24), (2, 24)]
    labels = [item["labels"] for item in pictures()]
    assert callback.monitor.stats.class_counts.tolist() == [labels.count(c) for c in range(CLASSES)]
    assert any(name.endswith("/modularity") for name in found[1])
    assert len(callback.monitor.stats) == 5


def test_transformers_in_a_process_that_was_not_there(hugging, tmp_path):
    """It takes the counters of the first, so that all begin their windows together."""
    loop = Loop(tmp_path, callbacks.transformers(), tiny(), save=8)
    loop.train(2)
    watch = callbacks.transformers()
    again = Loop(tmp_path, watch, tiny())
    again.args.process_index = 1
    again.train(2, at=8)
    assert (watch.monitor.steps, watch.monitor.windows) == (12, 2)


@pytest.mark.parametrize("stop", [3, 6, 8])
def test_transformers_goes_on_from_a_checkpoint(hugging, tmp_path, stop):
    whole, found, again = tiny(), [], []
    loop = Loop(tmp_path, callbacks.transformers(log=found.append), whole, save=stop)
    loop.train(3)
    model = tiny()
    model.load_state_dict(loop.kept)
    Loop(tmp_path, callbacks.transformers(log=again.append), model).train(3, at=stop)
    assert again == found[-len(again) :]
    assert [numbers["epoch"] for numbers in again] == ([1, 2, 3] if stop <= 6 else [2, 3])


def test_a_model_that_is_called_without_labels(hugging, tmp_path):
    with pytest.raises(InputError) as error:
        Loop(tmp_path, callbacks.transformers(), tiny()).train(1, hide=True)
    assert str(error.value) == (
        "the Trainer must call the model with labels; it did not in the first step. "
        'Where it keeps them, hand them over in compute_loss: callback.monitor.labels = inputs["labels"].'
    )


@pytest.mark.data
def test_the_trainer_on_real_mnist(hugging, data_root, tmp_path):
    """A small vision transformer under gradient accumulation and checkpointing, watched as TensorBoard's files show."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=28, patch_size=7,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    images = cofire.data.load("mnist", root=data_root, limit=3000)
    pairs = [{"pixel_values": pixels, "labels": label} for pixels, label in images]
    watch = callbacks.transformers(log=tmp_path / "runs")
    arguments = TrainingArguments(
        str(tmp_path / "out"), num_train_epochs=3, per_device_train_batch_size=30, gradient_accumulation_steps=2,
        learning_rate=3e-3, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, seed=1,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()  # the older name
    Trainer(model, arguments, train_dataset=pairs, data_collator=collated, callbacks=[watch]).train()
    layers = [f"vit.layers.{index}.mlp.activation_fn" for index in range(2)]
    check_what_was_learned(read_back(tmp_path / "runs"), watch.monitor.stats, layers, [50, 100, 150])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_trainer_itself(hugging, tmp_path, smoothing):
    """Two epochs of a small image classifier with random weights, read back from TensorBoard; resumed in mid-epoch."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    class Handing(Trainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            if smoothing and model.training:
                callback.monitor.labels = inputs["labels"]
            return super().compute_loss(model, inputs, *args, **kwargs)

    def run(folder, resume=None):
        arguments = TrainingArguments(
            str(tmp_path / "out"), num_train_epochs=2, per_device_train_batch_size=4, save_strategy="steps", save_steps=4,
            report_to="none", use_cpu=True, label_smoothing_factor=smoothing, disable_tqdm=True, eval_strategy="epoch",
            remove_unused_columns=False, seed=1,
        )  # fmt: skip
        trainer = Handing(
            tiny(),
            arguments,
            data_collator=collated,
            train_dataset=pictures(),
            eval_dataset=pictures(8, 5),
            callbacks=[callback],
        )
        trainer.train(resume_from_checkpoint=resume)
        return callback.monitor.stats, read_back(folder)

    callback = callbacks.transformers(log=tmp_path / "whole")
    stats, scalars = run(tmp_path / "whole")
    assert stats.samples == 24
    assert [step for step, _ in scalars["cofire/samples"]] == [6, 12]
    callback = callbacks.transformers(log=tmp_path / "resumed")
    again, _ = run(tmp_path / "resumed", str(tmp_path / "out" / "checkpoint-4"))
    assert again == stats


if __name__ == "__main__":
    fit_together(Path(sys.argv[1]))
