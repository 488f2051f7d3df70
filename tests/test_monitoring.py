"""The Monitor sees what the training does and nothing else, leaves no trace on the model, and goes on where it stopped.

The file is also the program of the processes that train together: ``python test_monitoring.py RANK WORLD FOLDER``.
"""

import contextlib
import copy
import csv
import gc
import io
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import cofire
from cofire.errors import CofireWarning, FileError, InputError, LayerError, ModelError
from cofire.scalars import by_class, scalars

CLASSES = 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, CLASSES))


def batches(count, size=20, seed=1):
    random = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, 6, generator=random), torch.randint(CLASSES, (size,), generator=random)) for _ in range(count)]


def train(model, data, monitor=None, lr=0.1):
    """Plain gradient descent, watched or not."""
    for x, y in data:
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
                parameter.grad = None
        if monitor is not None:
            monitor.step(y)


def sketched(model, data):
    return cofire.record(
        model, data, histograms="sketch", by_class=False, covariance=False, maps=False, progress=False, classes=CLASSES
    )


def same(mine, theirs):
    """Whether two layers hold the same numbers, whatever was chosen beside."""
    left = {name: value for name, value in mine.tensors.items() if name not in ("cofire", "representative", "cofire_means")}
    return left.keys() == theirs.tensors.keys() and all(torch.equal(left[name], theirs.tensors[name]) for name in left)


def untouched(model):
    return (
        all(not (m._forward_hooks or m._forward_pre_hooks or m._forward_hooks_always_called) for m in model.modules())
        and not torch._C._len_torch_function_stack()
    )


# ---------------------------------------------------------------- closed forms


def test_a_net_whose_numbers_are_known():
    """Unit 0 fires for class 0 alone, unit 1 always, unit 2 never: their information is 1, 0 and 0 bits."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 0.5, -1.0]))
    x, y = torch.eye(2).repeat(4, 1), torch.tensor([0, 1]).repeat(4)
    with cofire.Monitor(model) as monitor:
        model(x)
        monitor.step(y)
        numbers = monitor.log(epoch=7)
    assert numbers["epoch"] == 7
    assert numbers["cofire/samples"] == 8
    assert numbers["cofire/left_out"] == 0
    layer = {name.removeprefix("cofire/1/"): value for name, value in numbers.items() if name.startswith("cofire/1/")}
    assert layer["dead_units"] == 1
    assert layer["always_on_units"] == 1
    assert layer["firing_rate"] == pytest.approx((4 + 8) / 24)
    assert layer["mutual_information"] == pytest.approx((1 + 0) / 2)
    assert math.isnan(layer["modularity"])
    assert cofire.firing_probability(monitor.stats["1"]).tolist() == [[1, 1, 0], [0, 1, 0]]


def test_by_class_gives_every_measure():
    model, data = network(), batches(4)
    with cofire.Monitor(model) as monitor:
        for _ in range(2):
            train(model, data, monitor)
            numbers = monitor.log()
    frame = by_class(monitor.stats)
    assert set(frame.measure) == {row.name for row in cofire.MEASURES} | {
        "dead_units", "modularity", "modularity_independent", "unique_units",
    }  # fmt: skip
    layer = monitor.stats["1"]
    of = frame[frame.layer == "1"].set_index(["measure", "class"]).value
    for c in range(CLASSES):
        rates = [float(layer.fire[c, u]) / float(layer.class_counts[c]) for u in range(16) if layer.fire[:, u].sum()]
        assert of["firing_probability", str(c)] == pytest.approx(sum(rates) / len(rates))
        assert of["dead_units", str(c)] == sum(int(layer.fire[c, u]) == 0 for u in range(16))
    assert of["modularity"].item() == numbers["cofire/1/modularity"]


# ---------------------------------------------------------------- laws


def test_of_a_model_at_rest_it_gives_what_record_gives():
    model, data = network(), batches(5)
    with cofire.Monitor(model) as monitor:
        train(model, data, monitor, lr=0.0)
        monitor.log()
    recorded = sketched(model, data)
    assert list(monitor.stats) == list(recorded) == ["1", "3"]
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)
    assert torch.equal(monitor.stats.confusion, recorded.confusion)


def test_training_is_what_it_was():
    plain, watched, data = network(), network(), batches(10)
    train(plain, data)
    with cofire.Monitor(watched) as monitor:
        train(watched, data, monitor)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert untouched(watched)


def test_every_watches_the_first_of_so_many_steps():
    model, data = network(), batches(10)
    with cofire.Monitor(model, every=4) as monitor:
        train(model, data, monitor, lr=0.0)
        monitor.log()
    recorded = sketched(model, data[::4])
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)
    assert monitor.steps == 10


def test_between_watched_steps_nothing_is_on_the_model():
    model, data = network(), batches(2)
    with cofire.Monitor(model, every=3) as monitor:
        train(model, data[:1], monitor)
        assert untouched(model)
        train(model, data[1:], monitor)
        train(model, data[1:], monitor)
        assert not untouched(model)


def test_accumulated_gradients():
    """Several forward passes and then one step, with their labels as a list or as one tensor."""
    model, data = network(), batches(6)
    found = []
    for join in (list, torch.cat):
        with cofire.Monitor(model, every=2) as monitor:
            for group in (data[:2], data[2:4], data[4:]):
                for x, y in group:
                    F.cross_entropy(model(x), y).backward()
                monitor.step(join([y for _, y in group]))
            monitor.log()
        found.append(monitor.stats)
    assert found[0] == found[1]
    recorded = sketched(model, data[:2] + data[4:])
    assert all(same(found[0][name], recorded[name]) for name in recorded)


class Blocks(nn.Module):
    """Labels as a keyword, and blocks whose activations may be computed again in the backward pass."""

    def __init__(self, reentrant=None):
        super().__init__()
        self.reentrant = reentrant
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(3))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x, labels=None):
        for block in self.blocks:
            if self.reentrant is not None and self.training:
                x = checkpoint(block, F.relu(x), use_reentrant=self.reentrant)
            else:
                x = block(F.relu(x))
        logits = self.head(x)
        return logits if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def blocks(reentrant=None):
    torch.manual_seed(0)
    return Blocks(reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_counts_each_sample_once(reentrant):
    model, data = blocks(reentrant), [(x.requires_grad_(), y) for x, y in batches(4)]
    with cofire.Monitor(model) as monitor:
        train(model, data, monitor, lr=0.0)
        monitor.log()
    recorded = sketched(blocks(), [(x.detach(), y) for x, y in data])
    assert len(recorded) == 6
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_model_that_is_checkpointed_as_a_whole_counts_once(reentrant):
    model, data = network(), batches(4)
    with cofire.Monitor(model) as monitor:
        for x, y in data:
            F.cross_entropy(checkpoint(model, x.requires_grad_(), use_reentrant=reentrant), y).backward()
            monitor.step(y)
        monitor.log()
    recorded = sketched(network(), [(x.detach(), y) for x, y in data])
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)


def test_labels_as_a_keyword_or_before_the_pass():
    model, data = blocks(), batches(4)
    with cofire.Monitor(model) as monitor:
        for x, y in data[:2]:
            model(x, labels=y)["loss"].backward()
            monitor.step()
        for x, y in data[2:]:
            monitor.labels = y
            model(x)
            monitor.step(y)
        monitor.log()
    recorded = sketched(blocks(), data)
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)
    assert torch.equal(monitor.stats.confusion, recorded.confusion)


def test_validation_and_passes_without_labels_count_for_nothing():
    model, data = network(), batches(4)
    with cofire.Monitor(model) as monitor:
        for x, y in data:
            model(x)  # nobody says what these are
            monitor.step()
            model.eval()
            model(x)
            model.train()
            model(x)
            monitor.step(y)
        monitor.log()
    recorded = sketched(model, data)
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)


def test_two_monitors_of_one_model():
    model, data = blocks(), batches(4)
    with cofire.Monitor(model) as first, cofire.Monitor(model, every=2) as second:
        for x, y in data:
            F.cross_entropy(model(x), y).backward()
            first.step(y)
            second.step(y)
        first.log()
        second.log()
    for monitor, seen in ((first, data), (second, data[::2])):
        recorded = sketched(blocks(), seen)
        assert all(same(monitor.stats[name], recorded[name]) for name in recorded)


def test_a_single_number_beside_the_inputs():
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, temperature, x):
            return self.net(x) / temperature

    model, ((x, y), *_) = Tempered(), batches(1)
    with cofire.Monitor(model) as monitor:
        model(torch.tensor(2.0), x)
        monitor.step(y)
        assert monitor.log()["cofire/samples"] == 20


def test_a_value_that_the_model_changes_later_is_read_before():
    class Later(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            hidden = F.relu(self.net[0](x))
            hidden.add_(100)
            return self.net[4](F.relu(self.net[2](hidden)))

    model, data = Later(), batches(3)
    with cofire.Monitor(model) as monitor:
        for x, y in data:
            model(x)
            monitor.step(y)
        monitor.log()
    assert same(monitor.stats["relu"], sketched(model, data)["relu"])
    assert monitor.stats["relu"].high.max() < 50


def test_autocast():
    """Half precision is what the layers gave, and statistics are as exact as ever."""
    model, data = network(), batches(3)
    hidden = []
    with cofire.Monitor(model) as monitor:
        for x, y in data:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
                hidden.append(model[:2].eval()(x).float())
                model.train()
            loss.backward()
            monitor.step(y)
        with torch.autocast("cpu", torch.bfloat16):
            monitor.log()
            train(model, data, monitor, lr=0.0)
            monitor.log()
    layer = monitor.stats["1"]
    acts, y = torch.cat(hidden).detach(), torch.cat([y for _, y in data])
    assert all(layer.fire[c].tolist() == (acts[y == c] > 0).sum(0).tolist() for c in range(CLASSES))
    assert torch.allclose(layer.sum, torch.stack([acts[y == c].double().sum(0) for c in range(CLASSES)]), rtol=1e-12)
    with cofire.Monitor(model) as again:
        for x, y in data:
            with torch.autocast("cpu", torch.bfloat16):
                model(x)
            again.step(y)
        again.log()
    assert same(
        again.stats["3"],
        type(layer)(**{**vars(monitor.stats["3"]), "cofire": None, "representative": None, "cofire_means": None}),
    )


@pytest.mark.slow
def test_no_memory_growth_over_ten_thousand_steps():
    def tensors():
        gc.collect()
        held = [
            thing
            for thing in gc.get_objects()
            if type(thing) in (torch.Tensor, nn.Parameter) and thing.layout == torch.strided  # others have no storage
        ]
        return len(held), sum(tensor.untyped_storage().nbytes() for tensor in held)

    model, data = network(), batches(1, size=8)
    with cofire.Monitor(model) as monitor:
        found = []
        for _ in range(2):
            train(model, data * 5000, monitor)
            monitor.log()
            found.append(tensors())
    assert monitor.steps == 10_000
    # The first window has no co-firing counts: those of the two layers are all that may come.
    assert found[1][0] - found[0][0] <= 20
    assert found[1][1] - found[0][1] < 2**16


def test_the_graph_is_gone_with_the_loss():
    model, data = network(), batches(1)
    alive = []

    class Mark(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark = Marked(alive)
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    model.append(nn.Identity())
    model[1].register_forward_hook(lambda _module, _inputs, output: Mark.apply(output))
    with cofire.Monitor(model) as monitor:
        x, y = data[0]
        loss = F.cross_entropy(model(x), y)
        assert len(alive) == 1
        del loss
        assert alive == []
        monitor.step(y)


class Marked:
    def __init__(self, alive):
        self.alive = alive
        alive.append(1)

    def __del__(self):
        self.alive.pop()


# ---------------------------------------------------------------- the model while watched


def test_the_model_pickles_saves_and_copies_while_watched():
    model, data = network(), batches(3)
    keys = list(model.state_dict())
    with cofire.Monitor(model) as monitor:
        train(model, data[:1], monitor)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torch.load(buffer, weights_only=False)]
        assert list(model.state_dict()) == keys
        fresh = network(1)
        fresh.load_state_dict(model.state_dict())
        for one in [*copies, fresh]:
            train(one, data[1:])  # a copy trains on, and nobody watches it
        train(model, data[1:], monitor)
        monitor.log()
    assert all(torch.equal(one[0].weight, model[0].weight) for one in [*copies, fresh])
    assert monitor.stats.samples == 60


def test_whatever_happens_the_hooks_are_gone():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.error = network(), None

        def forward(self, x):
            hidden = self.net[:2](x)
            if self.error is not None:
                raise self.error
            return self.net[2:](hidden)

    model, ((x, y), *_) = Fails(), batches(1)
    with cofire.Monitor(model) as monitor:
        model.error = RuntimeError("out of memory")
        with pytest.raises(RuntimeError, match="out of memory"):
            model(x)
        assert not torch._C._len_torch_function_stack()
        model.error = None
        model(x)  # the batch again
        monitor.step(y)
        assert monitor.log()["cofire/samples"] == 20
    assert untouched(model)
    model.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), cofire.Monitor(model):
        model(x)
    assert untouched(model)


@pytest.mark.parametrize("way", ["function", "method"])
def test_a_compiled_model_runs_eagerly_where_it_is_watched(way):
    torch.compiler.reset()  # it compiles one function only so often, and other tests have it too
    calls = []

    def backend(graph, _inputs):
        def run(*args):
            calls.append(1)
            return graph(*args)

        return run

    model, data = network(), batches(4)
    if way == "function":
        compiled = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
        compiled = model
    with torch.no_grad(), cofire.Monitor(compiled, every=2) as monitor:
        for x, y in data:
            compiled(x)
            monitor.step(y)
        monitor.log()
    assert len(calls) == 2  # two of four steps were not watched
    recorded = sketched(network(), data[::2])
    assert all(same(monitor.stats[name], recorded[name]) for name in recorded)


# ---------------------------------------------------------------- going on where it stopped


@pytest.mark.parametrize("stop", [0, 3, 8, 13, 16])
def test_a_resumed_run_ends_with_the_same_statistics(stop):
    """Two windows of eight steps, stopped after so many: everything is bit for bit what an unbroken run gives."""
    data = [*batches(7), *batches(1, size=3)]
    whole, model = network(), network()

    def run(net, monitor, first, last):
        numbers = None
        for step in range(first, last):
            train(net, data[step % 8 : step % 8 + 1], monitor)
            if step % 8 == 7:
                numbers = monitor.log(epoch=step // 8)
        return numbers

    with cofire.Monitor(whole, every=2) as unbroken:
        last = run(whole, unbroken, 0, 17)
    with cofire.Monitor(model, every=2) as monitor:
        run(model, monitor, 0, stop)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "monitor": monitor.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)  # weights only: plain values and tensors
    model = network(5)
    model.load_state_dict(saved["model"])
    with cofire.Monitor(model, every=2) as resumed:
        resumed.load_state_dict(saved["monitor"])
        again = run(model, resumed, stop, 17)
    assert resumed.steps == unbroken.steps == 17
    if stop < 16:
        assert resumed.stats == unbroken.stats
        assert again == last
    for name in ("fire", "sum", "square_sum", "cofire"):
        mine, theirs = (m.state_dict()["tensors"] for m in (resumed, unbroken))
        assert all(torch.equal(mine[f"{index}.{name}"], theirs[f"{index}.{name}"]) for index in range(2))


def test_a_state_that_is_logged_at_once():
    model, data = network(), batches(3)
    with cofire.Monitor(model) as monitor:
        train(model, data, monitor)
        state = monitor.state_dict()
        monitor.log()
    with cofire.Monitor(model) as resumed:
        resumed.load_state_dict(state)
        resumed.log()
    assert resumed.stats == monitor.stats


# ---------------------------------------------------------------- reference: plain loops


def test_co_firing_over_the_means_of_the_window_before():
    """Pairs of the units with the largest class means of the first window, above those means in the second."""
    model, first, second, top = network(), batches(4, seed=3), batches(3, seed=4), 3
    with cofire.Monitor(model, top=top) as monitor:
        hidden = []
        for window in (first, second):
            train(model, window, monitor, lr=0.0)
            numbers = monitor.log()
            x, y = (torch.cat(parts) for parts in zip(*window, strict=True))
            hidden.append((model[:2](x).tolist(), y.tolist()))
    (before, old), (after, new) = hidden
    layer = monitor.stats["1"]
    for c in range(CLASSES):
        mine = [row for row, label in zip(before, old, strict=True) if label == c]
        means = [math.fsum(row[unit] for row in mine) / len(mine) for unit in range(16)]
        units = sorted(range(16), key=lambda unit: (-means[unit], unit))[:top]
        assert layer.representative[c].tolist() == units
        for i, a in enumerate(units):
            for j, b in enumerate(units):
                both = sum(row[a] > means[a] and row[b] > means[b] for row, label in zip(after, new, strict=True) if label == c)
                assert int(layer.cofire[c, i, j]) == both
    graph = cofire.coactivation(layer)
    assert numbers["cofire/1/modularity"] == cofire.modularity(graph)
    assert numbers["cofire/1/modularity_independent"] == cofire.modularity(graph.independent())


# ---------------------------------------------------------------- loggers and files


def test_at_most_twenty_scalars_a_layer():
    model, data = network(), batches(2)
    seen = []
    with cofire.Monitor(model, log=seen.append) as monitor:
        for epoch in range(2):
            train(model, data, monitor)
            numbers = monitor.log(epoch=epoch)
    for layer in ("1", "3"):
        assert 12 <= sum(name.startswith(f"cofire/{layer}/") for name in numbers) <= 20
    assert seen[1] == numbers
    assert not any(math.isnan(value) for value in seen[0].values())
    assert seen[0].keys() == {name for name in numbers if "modularity" not in name and "unique" not in name}
    assert {**numbers, "epoch": 1} == {"epoch": 1, "cofire/left_out": 0, **scalars(monitor.stats)}


def test_names_that_every_logger_takes():
    """mlflow takes letters, digits and ``_-./ :`` alone; a ReLU that is used twice is ``relu#2``."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.relu = network(), nn.ReLU()

        def forward(self, x):
            return self.net[4](self.relu(self.net[2](self.relu(self.net[0](x)))))

    model, ((x, y), *_) = Twice(), batches(1)
    with cofire.Monitor(model) as monitor:
        model(x)
        monitor.step(y)
        names = list(monitor.log())
    assert "cofire/relu-2/dead_units" in names
    assert all(all(letter.isalnum() or letter in "_-./ :" for letter in name) for name in names)


class Run:
    """As wandb's runs and mlflow's module take numbers."""

    def __init__(self):
        self.logged = []

    def log(self, numbers):
        self.logged.append(numbers)


class Flow:
    def __init__(self):
        self.logged = []

    def log_metrics(self, numbers, step=None):
        self.logged.append((step, numbers))


def test_objects_with_a_log(tmp_path):
    model, data, run, flow = network(), batches(2), Run(), Flow()
    with cofire.Monitor(model, log=[run, flow, tmp_path / "a.csv"]) as monitor:
        train(model, data, monitor)
        numbers = monitor.log(epoch=1)
    assert run.logged == [{name: value for name, value in numbers.items() if not math.isnan(value)}]
    assert flow.logged == [(2, run.logged[0])]
    [row] = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert {"window": "0", "step": "2", "epoch": "1"}.items() <= row.items()
    assert float(row["cofire/3/firing_rate"]) == numbers["cofire/3/firing_rate"]
    assert row["cofire/3/modularity"] == ""


def test_csv_of_a_run_that_was_resumed(tmp_path):
    """Rows after the state, and one torn by a kill, give way to the resumed run's; a new run begins a new file."""
    path, data = tmp_path / "run.csv", batches(2)

    def run(model, monitor, windows):
        for _ in range(windows):
            train(model, data, monitor)
            monitor.log()

    model = network()
    with cofire.Monitor(model, log=path) as monitor:
        run(model, monitor, 2)
        weights, state = copy.deepcopy(model.state_dict()), monitor.state_dict()
        run(model, monitor, 2)
    whole = path.read_text()
    path.write_text(whole[:-30])
    model.load_state_dict(weights)
    with cofire.Monitor(model, log=path) as monitor:
        monitor.load_state_dict(state)
        run(model, monitor, 2)
    assert path.read_text() == whole
    assert [row["window"] for row in csv.DictReader(io.StringIO(whole))] == ["0", "1", "2", "3"]
    with cofire.Monitor(model, log=path) as monitor:
        run(model, monitor, 1)
    assert [row["window"] for row in csv.DictReader(io.StringIO(path.read_text()))] == ["0"]


def read_back(folder):
    """Scalars by name as (step, value), from TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_it_back(tmp_path):
    model, data, folder = network(), batches(2), tmp_path / "runs"
    with cofire.Monitor(model, log=folder) as monitor:
        train(model, data, monitor)
        first = monitor.log(epoch=0)
        weights, state = copy.deepcopy(model.state_dict()), monitor.state_dict()
        train(model, data, monitor)
        monitor.log(epoch=1)
    model.load_state_dict(weights)
    with cofire.Monitor(model, log=str(folder)) as monitor:  # resumed: step 4 comes once
        monitor.load_state_dict(state)
        train(model, data, monitor)
        second = monitor.log(epoch=1)
    found = read_back(folder)
    assert found.keys() == second.keys()
    for name, value in second.items():
        assert found[name][-1] == (4, pytest.approx(value, rel=1e-6))
    assert [step for step, _ in found["cofire/1/firing_rate"]] == [2, 4]
    assert found["cofire/1/firing_rate"][0][1] == pytest.approx(first["cofire/1/firing_rate"])
    assert [step for step, _ in found["cofire/1/modularity"]] == [4]


@pytest.mark.data
def test_the_script_of_the_page_on_real_mnist(data_root, tmp_path):
    """The first script of docs/training.md in a process of its own, with MNIST for the digits; TensorBoard's files are read back."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "training.md").read_text("utf8")
    code = page.partition("```python\n")[2].partition("```")[0]
    loads = f'cofire.data.load("mnist", root={str(data_root)!r}, limit=12_800)'
    script = code.replace('cofire.data.load("digits")', loads).replace("fcnn:64-", "fcnn:784-")
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    assert script.count("mnist") == script.count("784") == 1
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12800 True ")
    found = read_back(tmp_path / "runs" / "digits")
    stats = cofire.load(tmp_path / "digits.safetensors")
    assert [step for step, _ in found["cofire/accuracy"]] == [100, 200, 300]
    accuracies = [value for _, value in found["cofire/accuracy"]]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] == pytest.approx(stats.accuracy)
    assert accuracies[-1] > 0.9
    for name in ("relu1", "relu2"):
        layer = stats[name]
        assert len(found[f"cofire/{name}/modularity"]) == 2
        assert sum(key.startswith(f"cofire/{name}/") for key in found) == 15
        live = cofire.live_units(layer)
        expected = {
            "dead_units": int(cofire.dead_units(layer).sum()),
            "mutual_information": float(cofire.mutual_information(layer)[live].mean()),
            "modularity": cofire.modularity(cofire.coactivation(layer, 32)),
        }
        for key, value in expected.items():
            assert found[f"cofire/{name}/{key}"][-1][1] == pytest.approx(value, rel=1e-6)


def test_full_statistics_in_one_file_or_one_for_each_window(tmp_path):
    model, data = network(), batches(2)
    for save in (tmp_path / "last.safetensors", tmp_path / "all"):
        with cofire.Monitor(model, save=save, class_names=["a", "b", "c"]) as monitor:
            for epoch in range(2):
                train(model, data, monitor)
                monitor.log(epoch=epoch)
    assert cofire.load(tmp_path / "last.safetensors").header["training"]["epoch"] == 1
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        "window-00000.safetensors",
        "window-00001.safetensors",
    ]
    loaded = cofire.load(tmp_path / "all" / "window-00001.safetensors")
    assert loaded == monitor.stats
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.header["training"] == {"window": 1, "steps": 4, "every": 1, "epoch": 1}


def test_values_beside_may_be_tensors(tmp_path):
    model, data = network(), batches(1)
    with cofire.Monitor(model, log=tmp_path / "a.csv", save=tmp_path / "a.safetensors") as monitor:
        train(model, data, monitor)
        numbers = monitor.log(loss=torch.tensor(0.5, requires_grad=True), accuracy=np.float32(0.25), epoch=1)
        with pytest.raises(InputError, match=r"^losses must be a number; found Tensor\. Average it first\.$"):
            monitor.log(losses=torch.ones(2))
    expected = {"loss": 0.5, "accuracy": 0.25, "epoch": 1}
    assert expected.items() <= numbers.items()
    assert expected.items() <= cofire.load(tmp_path / "a.safetensors").header["training"].items()
    [row] = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert (row["loss"], row["accuracy"], row["epoch"]) == ("0.5", "0.25", "1")


# ---------------------------------------------------------------- two processes


def share(rank, world):
    """Dyadic numbers, so that no sum is rounded and the order of processes cannot show."""
    return [((x * 8).round() / 8, y) for x, y in batches(8)][rank::world]


def dyadic():
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter * 8).round() / 8)
    return model


def train_together(rank, world, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    model = nn.parallel.DistributedDataParallel(dyadic())
    watched, data = model if rank else model.module, share(rank, world)
    options = {"log": folder / "run.csv", "save": folder / "last.safetensors"}
    with cofire.Monitor(watched, **options) as monitor:
        train(model, data, monitor, lr=0.0)
        monitor.log()
        train(model, data[:1], monitor, lr=0.0)
        state = monitor.state_dict()
    with cofire.Monitor(watched, **options) as monitor:  # in the middle of the second window
        monitor.load_state_dict(state)
        train(model, data[1:], monitor, lr=0.0)
        numbers = monitor.log()
    monitor.stats.save(folder / f"{rank}.safetensors")
    (folder / f"{rank}.json").write_text(json.dumps(numbers))
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_give_the_numbers_of_all(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(Path(__file__).resolve())]
    started = [subprocess.Popen([*words, str(rank), "2", str(tmp_path)], env=environment) for rank in range(2)]
    assert [process.wait(120) for process in started] == [0, 0]
    model = dyadic()
    with cofire.Monitor(model) as alone:
        for _ in range(2):
            train(model, share(0, 1), alone, lr=0.0)
            numbers = alone.log()
    for rank in range(2):
        assert cofire.load(tmp_path / f"{rank}.safetensors") == alone.stats
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(numbers)
    assert cofire.load(tmp_path / "last.safetensors") == alone.stats
    assert (tmp_path / "run.csv").read_text().count("\n") == 3  # one process writes


# ---------------------------------------------------------------- degenerate


def test_activations_that_are_not_finite_are_left_out():
    model, data = network(), batches(2)
    with cofire.Monitor(model) as monitor:
        model(data[0][0] * torch.inf)
        with pytest.warns(CofireWarning, match="activations that are not finite: the batch is left out of the statistics"):
            monitor.step(data[0][1])
        model(data[1][0])
        monitor.step(data[1][1])
        numbers = monitor.log()
    assert (numbers["cofire/samples"], numbers["cofire/left_out"]) == (20, 20)


def test_a_training_that_has_diverged_goes_on():
    model, ((x, y), *_), seen = network(), batches(1), []
    with cofire.Monitor(model, log=seen.append) as monitor:
        for scale in (1, torch.inf, 1):
            model(x * scale)
            with pytest.warns(CofireWarning) if scale > 1 else contextlib.nullcontext():
                monitor.step(y)
            monitor.log()
    assert seen[1] == {"cofire/samples": 0, "cofire/left_out": 20}
    assert "cofire/1/modularity" in seen[2]  # over the means of the first


def test_a_later_window_may_be_empty():
    """As where windows of so many steps and epochs end together: a training of hours does not break off."""
    model, data, seen = network(), batches(1), []
    with cofire.Monitor(model, log=seen.append) as monitor:
        for _ in range(2):
            train(model, data, monitor)
            monitor.log()
            monitor.log(epoch=3)
    assert seen[1] == seen[3] == {"epoch": 3, "cofire/samples": 0, "cofire/left_out": 0}
    assert "cofire/1/modularity" in seen[2]  # over the means of the last window that had samples
    assert repr(monitor) == "Monitor(Sequential, 2 layers: 2 steps, 4 windows, 0 samples in this one)"


def test_a_window_in_which_a_class_is_absent():
    model, ((x, y), *_) = network(), batches(1)
    with cofire.Monitor(model) as monitor:
        for _ in range(2):
            model(x[y != 1])
            monitor.step(y[y != 1])
            numbers = monitor.log()
    assert numbers["cofire/samples"] == int((y != 1).sum())
    assert not math.isnan(numbers["cofire/1/modularity"])


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("training", "passes", "labels", "error", "words"),
    [
        (True, 1, lambda y: y[1:], InputError, "there must be one label per sample; found 19 labels for 20 samples."),
        (True, 1, lambda y: y * 0 + 3, InputError, "labels must lie in [0, 3); found 3."),
        (True, 2, lambda y: y, InputError, "labels must be those of all forward passes since the last step; found 20 labels for 40 "
         "samples in 2 passes. Call monitor.step(labels) after each batch, or monitor.step() where a batch has none."),
        (False, 1, lambda y: y, ModelError, "the watched Sequential must be called in training mode before a step with labels; it "
         "was called in eval mode. Call model.train() before the loop."),
        (True, 0, lambda y: y, ModelError, "the watched Sequential must be called in training mode before a step with labels; it "
         "was not called. Watch the module that the loop calls."),
    ],
    ids=["too few", "no such class", "two passes", "eval mode", "not called"],
)  # fmt: skip
def test_a_step_whose_labels_do_not_fit(training, passes, labels, error, words):
    model, ((x, y), *_) = network().train(training), batches(1)
    with cofire.Monitor(model) as monitor:
        for _ in range(passes):
            model(x)
        with pytest.raises(error) as found:
            monitor.step(labels(y))
        model.train()(x)  # the next step knows nothing of it
        monitor.step(y)
        assert monitor.log()["cofire/samples"] == 20
    assert str(found.value) == words


def test_a_window_without_a_batch():
    with cofire.Monitor(network()) as monitor, pytest.raises(InputError) as found:
        monitor.log()
    assert str(found.value) == (
        "the first window must hold at least one labelled batch; none was seen in 0 steps. "
        "Call the watched model in training mode, and monitor.step(labels) after it."
    )


def test_labels_that_never_come():
    model, ((x, _), *_) = network(), batches(1, size=1)
    with cofire.Monitor(model):
        for _ in range(1024):
            model(x)
        with pytest.raises(InputError) as found:
            model(x)
    assert str(found.value) == (
        "labels must follow the forward passes; found 1,025 passes without. "
        "Call monitor.step(labels) after each batch, or monitor.step() where there are none."
    )


def test_a_layer_that_does_not_exist_is_told_at_the_first_step():
    model, ((x, y), *_) = network(), batches(1)
    with cofire.Monitor(model, layers=["fc1"]) as monitor:
        model(x)
        with pytest.raises(LayerError, match="no layer named 'fc1' in Sequential"):
            monitor.step(y)


def test_an_output_without_classes():
    class Silent(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x).sum()

    model, ((x, y), *_) = Silent(), batches(1)
    with cofire.Monitor(model) as monitor:
        model(x)
        with pytest.raises(
            InputError, match=r"the number of classes must be known; the model's output holds no class scores .*Name it"
        ):
            monitor.step(y)
    with cofire.Monitor(model, classes=CLASSES) as monitor:
        model(x)
        monitor.step(y)
        assert "cofire/accuracy" not in monitor.log()


def test_a_single_output_is_a_probability_where_the_model_ends_with_any_sigmoid():
    model, x = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Hardsigmoid()), torch.randn(40, 6)
    with torch.no_grad():
        model[2].bias -= model[:3](x).median()
    guess = (model(x)[:, 0] > 0.5).long()
    assert 0 < int(guess.sum()) < len(guess)
    with cofire.Monitor(model) as monitor:
        model(x)
        monitor.step(guess)
        assert monitor.log()["cofire/accuracy"] == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every must be a whole number of at least 1; found 0."),
        ({"classes": 2.0}, "classes must be a whole number of at least 1; found 2.0."),
        ({"bins": 0}, "bins must be a whole number of at least 1; found 0."),
        ({"log": 3}, "log must be a path, a function of a dictionary, or an object with log, log_metrics or add_scalar; found int."),
    ],
)  # fmt: skip
def test_settings_out_of_range(options, words):
    with pytest.raises(InputError) as found:
        cofire.Monitor(network(), **options)
    assert str(found.value) == words


def test_a_state_of_another_process():
    model, data = network(), batches(3)
    with cofire.Monitor(model) as monitor:
        for _ in range(2):
            train(model, data, monitor)
            state = monitor.state_dict()
            monitor.log()
    state["header"]["process"] = [1, 2]
    words = "a monitor's state is of process 1 of 2 and this is 0 of 1: the window begins anew"
    with cofire.Monitor(model) as monitor:
        with pytest.warns(CofireWarning, match=words):
            monitor.load_state_dict(state)
        assert (monitor.samples, monitor.steps, monitor.windows) == (0, 6, 1)
        train(model, data, monitor)
        assert not math.isnan(monitor.log()["cofire/1/modularity"])  # over the means of the window before, which all have
    assert monitor.stats.samples == 60


def test_a_state_of_another_monitor():
    model, data = network(), batches(1)
    with cofire.Monitor(model, bins=20) as monitor:
        train(model, data, monitor)
    with pytest.raises(
        InputError, match=r"a state goes on with the same bins; it has 20, this monitor 30\. Make the monitor as it was\."
    ):
        cofire.Monitor(model).load_state_dict(monitor.state_dict())


def test_outside_the_context():
    monitor = cofire.Monitor(network())
    with pytest.raises(InputError, match="a step belongs inside the context"):
        monitor.step(torch.zeros(1))
    with monitor, pytest.raises(InputError, match="a monitor watches once at a time; it is already entered"), monitor:
        pass


def test_a_csv_file_of_something_else(tmp_path):
    model, data = network(), batches(1)
    (tmp_path / "a.csv").write_text("name,age\nAda,36\n")
    with cofire.Monitor(model, log=tmp_path / "a.csv") as monitor:
        train(model, data, monitor)
        monitor.windows = 1
        with pytest.raises(FileError, match="wanted the CSV file of this training to go on with"):
            monitor.log()


def test_without_tensorboard(monkeypatch, tmp_path):
    monkeypatch.setattr("cofire.loggers.find_spec", lambda name: None)
    with pytest.raises(
        InputError,
        match=r"TensorBoard's files need the package tensorboard; it is not installed\. pip install 'cofire\[track\]'",
    ):
        cofire.Monitor(network(), log=tmp_path / "runs")


if __name__ == "__main__":
    train_together(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
