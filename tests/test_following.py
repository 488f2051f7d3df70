"""Checkpoints on the disk: found, recorded once, followed; a killed run ends with the same tables, byte for byte."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cofire
from cofire import cli
from cofire.checkpointing import settings_in
from cofire.errors import CofireWarning, FileError, InputError, WeightsError
from cofire.following import checkpoint_list
from cofire.weights import save_weights

NET = "fcnn:64-24-10"


def run(*words):
    """What the command prints."""
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 0, done.output + repr(done.exception)
    return done.output


def refused(*words):
    """The sentence of the command's error."""
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code, done.output
    return str(done.exception)


def tables(folder):
    """Every table of a folder, as bytes."""
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in sorted(folder.rglob("*.csv"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trainings of three epochs: two seeds, and two seeds on shuffled labels, of 400 pictures each."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in range(2):
        for kind, option in (("seed", ()), ("mixed", ("--shuffle-labels",))):
            words = ("--limit", 400, "--epochs", 3, "--lr", 0.01, "--seed", seed, "--checkpoints", folder / f"{kind}{seed}")
            run("train", NET, *words, *option, "-o", folder / "w.safetensors")
    return folder


# ---------------------------------------------------------------- which files


def test_checkpoints_are_taken_in_numerical_order(tmp_path):
    for name in ("net-10", "net-2", "net-1"):
        (tmp_path / f"{name}.safetensors").touch()
    (tmp_path / "notes.txt").touch()
    assert list(checkpoint_list([tmp_path])) == ["net-1", "net-2", "net-10"]
    (tmp_path / "net-3.stats").touch()
    named = [tmp_path / f"net-{number}.safetensors" for number in (10, 1, 2)]
    assert list(checkpoint_list(named)) == ["net-10", "net-1", "net-2"]  # in the order in which they are named


def test_the_optimisers_state_is_none(trained):
    assert list(checkpoint_list([trained / "seed0"])) == [f"epoch-00{epoch}" for epoch in range(4)]


def test_folders_that_the_trainer_of_transformers_makes(tmp_path):
    for step in (500, 1000, 1500):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in ("model.safetensors", "optimizer.pt"):
            (tmp_path / f"checkpoint-{step}" / name).touch()
    found = checkpoint_list([tmp_path])
    assert list(found) == ["checkpoint-500", "checkpoint-1000", "checkpoint-1500"]
    assert found["checkpoint-1000"] == tmp_path / "checkpoint-1000" / "model.safetensors"


def test_files_of_one_name_are_told_apart(tmp_path):
    files = [tmp_path / place for place in ("a/1.safetensors", "a/2.safetensors", "b/1.safetensors")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert list(checkpoint_list(files)) == ["a-1", "a-2", "b-1"]
    with pytest.raises(FileError, match="checkpoints must have different names"):
        checkpoint_list([*files, files[0]])


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileError, match=r"^wanted checkpoints; there is no '.*nowhere'\.$"):
        checkpoint_list([tmp_path / "nowhere"])
    with pytest.raises(
        FileError, match=r"^wanted a folder of checkpoints, \.safetensors files; '.*' has none\. Write weights with"
    ):
        checkpoint_list([tmp_path])
    torch.save({}, tmp_path / "net.pt")
    with pytest.raises(
        FileError, match=r"has none; 'net\.pt' is a pickle, which is never opened here: reading one can run any code"
    ):
        checkpoint_list([tmp_path])


# ---------------------------------------------------------------- follow


def test_following_is_recording_each_and_joining(trained, tmp_path):
    images, test = (cofire.data.load("digits", split, limit=200) for split in ("train", "test"))
    net, before = cofire.zoo.model(NET, seed=7), cofire.zoo.model(NET, seed=7)
    with pytest.warns(
        CofireWarning, match="had other pictures or labels than these: accuracy is not that on its training data"
    ):
        path = cofire.follow(net, trained / "seed0", images.batches(), tmp_path, test.batches())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))
    seen, unseen = [], []
    for file in sorted((trained / "seed0").glob("epoch-*.safetensors")):
        one = cofire.zoo.model(NET, weights=file)
        seen.append(cofire.record(one, images.batches()))
        unseen.append(cofire.record(one, test.batches()))
    whole = cofire.trajectory(seen, unseen, [f"epoch-00{epoch}" for epoch in range(4)])
    assert path.frame().equals(whole.frame())
    assert path.correlations().equals(whole.correlations())


def test_checkpoints_of_the_trainer_of_transformers(tmp_path):
    """Which names tensors otherwise in its files than in its models."""
    transformers = pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    models = [transformers.ViTForImageClassification(config) for _ in range(3)]
    for step, model in enumerate(models):
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
    batches = [{"pixel_values": x, "labels": y} for x, y in cofire.data.load("digits", limit=50).batches(25)]
    path = cofire.follow(transformers.ViTForImageClassification(config), tmp_path, batches, tmp_path / "stats")
    assert path.names == ("checkpoint-0", "checkpoint-1", "checkpoint-2")
    for step, model in enumerate(models):
        assert cofire.load(tmp_path / "stats" / f"checkpoint-{step}.stats") == cofire.record(model, batches)
    assert cofire.follow(models[0], tmp_path, batches, tmp_path / "stats", say=pytest.fail).names == path.names


def test_what_is_there_is_left_and_what_has_changed_is_recorded_again(trained, tmp_path):
    def followed(net="seed0", said=(), **choices):
        lines = []
        images = cofire.data.load("digits", limit=400, **choices)
        cofire.follow(cofire.zoo.model(NET), tmp_path / net, images.batches(), tmp_path / "out", say=lines.append)
        assert [line.split()[1].strip(",") for line in lines] == list(said)
        return cofire.load(tmp_path / "out" / "epoch-002.stats")

    every = [f"epoch-00{epoch}" for epoch in range(4)]
    shutil.copytree(trained / "seed0", tmp_path / "seed0")
    first = followed(said=every)
    (tmp_path / "out" / "epoch-001.stats").unlink()
    assert followed(said=every[1:2]) == first
    save_weights(cofire.zoo.model(NET, seed=9), tmp_path / "seed0" / "epoch-002.safetensors")
    assert followed(said=every[2:3]) != first
    with pytest.warns(CofireWarning, match="other pictures or labels"):
        mixed = followed(said=every, shuffle_labels=True)
    assert mixed.header["data"]["digest"] != first.header["data"]["digest"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        followed(said=every)


@pytest.mark.parametrize(
    ("size", "normalize", "words"),
    [(None, ((0.5,), (0.5,)), "another normalisation"), (16, None, "another size or other channels")],
)
def test_pictures_that_are_read_otherwise_are_other_data(tmp_path, size, normalize, words):
    images, lines = cofire.data.load("digits", limit=100), []
    otherwise = cofire.data.load("digits", limit=100, size=size)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10))
    cofire.fit(net, images, epochs=2, checkpoints=tmp_path / "weights", progress=False)
    cofire.follow(net, tmp_path / "weights", images.batches(), tmp_path, say=lines.append)
    with pytest.warns(CofireWarning, match=f"had {words} than these: accuracy is not that on its training data. Name the data"):
        cofire.follow(net, tmp_path / "weights", otherwise.batches(normalize=normalize), tmp_path, say=lines.append)
    assert len(lines) == 6


def test_batches_that_end(trained, tmp_path):
    batches = cofire.data.load("digits", limit=400).batches()
    with pytest.raises(
        InputError, match=r"^every checkpoint reads the batches anew; found an iterator\. Pass a DataLoader or a list"
    ):
        cofire.follow(cofire.zoo.model(NET), trained / "seed0", iter(batches), tmp_path)


def test_weights_of_another_architecture(trained, tmp_path):
    files = [trained / "seed0" / f"epoch-00{epoch}.safetensors" for epoch in range(2)]
    save_weights(cofire.zoo.model("fcnn:64-20-10"), tmp_path / "odd.safetensors")
    batches = cofire.data.load("digits", limit=400).batches()
    with pytest.raises(
        WeightsError, match=r"odd\.safetensors does not fit FCNN; of another shape fc1\.bias \(20,\) for \(24,\)"
    ):
        cofire.follow(cofire.zoo.model(NET), [*files, tmp_path / "odd.safetensors"], batches, tmp_path / "out")


def test_a_state_that_is_none(tmp_path):
    (tmp_path / "state.safetensors").write_text("nothing")
    assert settings_in(tmp_path) == {}


# ---------------------------------------------------------------- the command


def test_the_command_writes_every_table_and_statistics_alone_give_the_same(trained, tmp_path):
    said = run("trajectory", trained / "seed0", "--model", NET, "--limit", 400, "--test", "test", "-o", tmp_path / "a")
    assert said.splitlines()[3] == "a: recorded epoch-003, 4 of 4"
    assert said.count("Given the checkpoint's number") == 2
    assert "goes most with accuracy" in said
    assert "goes most with test accuracy" in said
    found = tables(tmp_path / "a")
    assert list(found) == [*(f"001-table-{number}.csv" for number in (3, 4, 5, 6)), "correlations.csv", "trajectory.csv"]
    page = tmp_path / "training.html"
    said = run("trajectory", tmp_path / "a", "-o", tmp_path / "b", "--report", page)
    assert "recorded" not in said.splitlines()[0]
    assert "goes most with test accuracy" in said  # which lies in the folder, though no split was named
    assert f"report written to {page}" in said
    twin = json.loads(page.with_suffix(".json").read_text("utf8"))
    assert twin["title"] == "b at epoch-003"
    (drawn,) = twin["training"]["runs"]
    history = json.loads((trained / "seed0" / "history.json").read_text("utf8"))
    assert drawn["name"] == "b"
    assert len(drawn["test_accuracy"]) == len(history["test_accuracy"])
    assert tables(tmp_path / "b") == found
    frame = pd.read_csv(tmp_path / "a" / "trajectory.csv")
    test = cofire.data.load("digits", "test")
    last = cofire.record(cofire.zoo.model(NET, weights=trained / "seed0" / "epoch-003.safetensors"), test.batches())
    assert frame[frame.name == "epoch-003"].test_accuracy.tolist() == [last.accuracy] * (len(frame) // 4)
    assert {"weight_norm", "checkpoint_index", "active_share"} < set(frame.measure)


def test_each_training_is_followed_on_its_own_data_beside_its_control(trained, tmp_path):
    """The seed of a training chose its pictures and shuffled its labels; none of it has to be said again."""
    folders, mixed = ([trained / f"{kind}{seed}" for seed in range(2)] for kind in ("seed", "mixed"))
    control = [word for folder in mixed for word in ("--control", folder)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = run("trajectory", *folders, *control, "--model", NET, "--limit", 400, "-o", tmp_path)
    assert said.count("recorded epoch-") == 16
    assert "seed1: recorded epoch-003, 4 of 4" in said
    assert "mixed1: recorded epoch-003, 4 of 4" in said
    assert "On shuffled labels it has" in said or "in two runs or more" in said
    frame = pd.read_csv(tmp_path / "runs.csv")
    key = ["layer", "measure", "against"]
    for column, places in (("mean", ["seed0", "seed1"]), ("shuffled", ["control/mixed0", "control/mixed1"])):
        each = [pd.read_csv(tmp_path / place / "correlations.csv").set_index(key).pearson for place in places]
        ours = frame[frame.statistic == "pearson"].set_index(key)[column]
        assert ours.sub(sum(each) / 2).abs().max() < 1e-12
    for number, about in ((3, ["layer"]), (4, key), (5, key), (6, ["class"])):
        name, each = f"001-table-{number}.csv", []
        for place in ("seed0", "seed1"):
            each.append(pd.read_csv(tmp_path / place / name).set_index(about).spearman)
        joined = pd.read_csv(tmp_path / f"runs-{name}", dtype={"class": each[0].index.dtype})
        ours = joined[joined.statistic == "spearman"].set_index(about)
        assert ours.index.equals(each[0].index)
        assert ours["mean"].sub(pd.concat(each, axis=1).mean(axis=1)).abs().max() < 1e-12
        assert set(ours.same_sign) <= {0, 1, 2}
    for seed in range(2):
        images = cofire.data.load("digits", limit=400, seed=seed, shuffle_labels=True)
        last = cofire.zoo.model(NET, weights=mixed[seed] / "epoch-003.safetensors")
        stats = cofire.load(tmp_path / "control" / f"mixed{seed}" / "epoch-003.stats")
        assert stats == cofire.record(last, images.batches())
    words = (*folders, *control, "--model", NET, "--limit", 400, "-o", tmp_path)
    assert "recorded" not in run("trajectory", *words)


def test_one_run_beside_one_control(trained, tmp_path):
    words = ("--control", trained / "mixed0", "--model", NET, "--limit", 400, "-o", tmp_path)
    said = run("trajectory", trained / "seed0", *words)
    assert "In one run" in said or "in the run" in said
    frame = pd.read_csv(tmp_path / "runs.csv")
    assert frame[frame.measure == "modularity_chen"].shuffled.notna().any()
    assert frame.shuffled_low.isna().all()
    joined, alone = (pd.read_csv(tmp_path / f"{name}001-table-4.csv") for name in ("runs-", ""))
    assert joined[joined.statistic == "pearson"]["mean"].tolist() == alone.pearson.tolist()


def test_wrong_input_of_the_command(trained, tmp_path):
    files = [trained / "seed0" / f"epoch-00{epoch}.safetensors" for epoch in range(4)]
    out = ("-o", tmp_path / "out")
    assert refused("trajectory", *files[:2], "--model", NET, *out) == (
        f"a trajectory needs at least three checkpoints; found {files[0]}, {files[1]}. "
        "Name the folder that holds all of one training; its untrained model is one."
    )
    assert not (tmp_path / "out").exists()  # nothing was recorded for it
    assert refused("trajectory", trained / "seed0", *out) == (
        f"wanted a statistics file of cofire; found another safetensors file, {str(files[0])!r}. "
        "If these are weights, name their model with --model."
    )
    assert refused("trajectory", tmp_path / "none", *out) == f"wanted checkpoints; there is no {str(tmp_path / 'none')!r}."
    torch.save({}, tmp_path / "net.pt")
    pickles = [tmp_path / "net.pt", *files[1:3]]
    assert "is a pickle, which is never opened here: reading one can run any code" in refused(
        "trajectory", *pickles, "--model", NET, *out
    )
    assert "'" + str(tmp_path / "net.pt") + "' is a pickle, which is never opened here" in refused("trajectory", *pickles, *out)
    twins = tmp_path / "again" / "seed0"
    shutil.copytree(trained / "seed0", twins)
    assert refused("trajectory", trained / "seed0", twins, "--model", NET, *out).startswith(
        "the folders of several runs must have different names; found "
    )


def test_a_warning_is_a_sentence_on_the_terminal(trained, tmp_path, monkeypatch, capsys):
    words = ["trajectory", str(trained / "seed0"), "--model", NET, "--limit", "300", "-o", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["cofire", *words])
    warnings.simplefilter("default")  # pytest puts it back
    with pytest.raises(SystemExit, match="0"):
        cli.run()
    assert capsys.readouterr().err == (
        f"cofire: the training in {trained / 'seed0'} had other pictures or labels than these: "
        "accuracy is not that on its training data. Name the data and options that it had, a limit among them.\n"
    )


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_tables(trained, tmp_path):
    """SIGKILL at random points of a real process, in one folder, until one gets through: same files, byte for byte."""
    words = [sys.executable, "-m", "cofire", "trajectory", str(trained / "seed0"), "--model", NET, "--limit", "400"]
    words += ["--test", "test", "-o"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}

    def started(folder):
        return subprocess.Popen(
            [*words, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    whole = started(tmp_path / "whole")
    _, wrong = whole.communicate(timeout=120)
    assert whole.returncode == 0, wrong
    seed = random.randrange(10**6)
    draw, names = random.Random(seed), []
    for after in (1, 2, 0):  # so many recordings further on, and then a moment: in a recording, a file, the tables
        process = started(tmp_path / "killed")
        for _ in range(after):
            names.append(process.stdout.readline())
        time.sleep(draw.uniform(0, 4 if not after else 0.3))
        process.send_signal(signal.SIGKILL)
        names += process.communicate()[0].splitlines(keepends=True)
    last = started(tmp_path / "killed")
    names += last.communicate(timeout=120)[0].splitlines(keepends=True)
    assert last.returncode == 0
    told = [line for line in names if "recorded" in line]
    assert told
    assert len(set(told)) == len(told), f"recorded twice; seed {seed}"
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole"), f"seed {seed}"
    for file in sorted((tmp_path / "whole").rglob("*.stats")):
        again = tmp_path / "killed" / file.relative_to(tmp_path / "whole")
        assert cofire.load(again) == cofire.load(file), f"seed {seed}"
    left = [file.name for file in (tmp_path / "killed").rglob("*") if ".tmp-" in file.name]
    assert left == [], f"seed {seed}"
