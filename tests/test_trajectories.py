"""Measures over checkpoints: the series, correlations with their controls, and what is said of them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from typer.testing import CliRunner

import cofire
from cofire.cli import app
from cofire.cli.checkpoints import checkpoint_list
from cofire.errors import FileError, InputError
from cofire.trajectories import Trajectory, partial_correlation


@pytest.fixture(scope="module")
def trained():
    digits, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
    net = cofire.zoo.model("fcnn:64-48-32-10", seed=0)
    seen, unseen = [], []
    for epoch in range(5):
        if epoch:
            cofire.fit(net, digits, epochs=1, seed=epoch, progress=False)
        seen.append(cofire.record(net, digits.batches(), progress=False))
        unseen.append(cofire.record(net, test.batches(), progress=False))
    return seen, unseen


def path_of(series, accuracy):
    series = {("fc1", name): np.array(values, dtype=float) for name, values in series.items()}
    series |= {("all layers", "checkpoint_index"): np.arange(len(accuracy), dtype=float)}
    return Trajectory(tuple(map(str, range(len(accuracy)))), series, np.array(accuracy, dtype=float))


def row_of(path, measure, against="accuracy"):
    frame = path.correlations()
    (row,) = frame[(frame.measure == measure) & (frame.against == against)].to_dict("records")
    return row


def test_series_are_the_means_of_the_table(trained):
    seen, unseen = trained
    path = cofire.trajectory(seen, unseen)
    for at, stats in enumerate(seen):
        summary = cofire.summary(stats).set_index("layer")
        for layer in stats:
            for measure in ("mutual_information", "activation_entropy", "activation_entropy_total", "softmax_entropy"):
                assert path.values[layer, measure][at] == pytest.approx(summary.loc[layer, measure], abs=1e-12)
            graph = cofire.coactivation(stats[layer], top=stats[layer].units // 4)
            assert path.values[layer, "modularity_chen"][at] == cofire.modularity_chen(graph)
        total = sum(summary.activation_entropy_total)
        assert path.values["all layers", "activation_entropy_total"][at] == pytest.approx(total)
        assert (path.accuracy[at], path.test_accuracy[at]) == (stats.accuracy, unseen[at].accuracy)
    frame = path.frame()
    assert len(frame) == 5 * len(path.values)
    assert set(path.correlations().against) == {"accuracy", "test_accuracy"}


def test_correlations_are_those_of_scipy():
    random = np.random.default_rng(0)
    x, y = random.normal(size=12), random.normal(size=12)
    row = row_of(path_of({"m": x}, y), "m")
    assert row["pearson"] == pytest.approx(scipy_stats.pearsonr(x, y).statistic)
    assert row["spearman"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert row["differences"] == pytest.approx(scipy_stats.pearsonr(np.diff(x), np.diff(y)).statistic)


def test_the_partial_correlation_is_that_of_residuals():
    random = np.random.default_rng(1)
    x, y, z = random.normal(size=(3, 30))
    design = np.stack([z, np.ones(30)], 1)
    left, right = (v - design @ np.linalg.lstsq(design, v, rcond=None)[0] for v in (x, y))
    assert partial_correlation(x, y, z) == pytest.approx(scipy_stats.pearsonr(left, right).statistic)


def test_two_series_that_only_drift_have_nothing_left():
    steps = np.arange(15.0)
    row = row_of(path_of({"m": steps**2}, np.log1p(steps)), "m")
    assert row["spearman"] == 1
    assert math.isnan(row["partial_spearman"])  # both are the index
    text = path_of({"m": steps**2}, np.log1p(steps)).verdict()
    assert "The number of the checkpoint alone does as well (1.00), so that says nothing" in text


def test_a_real_relation_survives_the_index():
    random = np.random.default_rng(2)
    steps, wobble = np.arange(40.0), random.normal(size=40)
    path = path_of({"m": steps + 8 * wobble, "drift": steps}, steps + 8 * wobble + 0.1 * random.normal(size=40))
    assert row_of(path, "m")["partial_spearman"] > 0.9
    assert "the strongest is m of fc1" in path.verdict()
    assert "more than chance would give" in path.verdict()
    noise = path_of({f"m{i}": random.normal(size=8) for i in range(30)}, random.normal(size=8))
    assert "chance alone may give as much" in noise.verdict()


def test_a_constant_series_is_not_a_zero():
    row = row_of(path_of({"m": [1, 1, 1, 1]}, [0.1, 0.2, 0.4, 0.3]), "m")
    assert math.isnan(row["pearson"])
    assert math.isnan(row["spearman"])
    assert row["note"] == "the measure is constant"
    assert row_of(path_of({"m": [1, 2, 3, 4]}, [0.5] * 4), "m")["note"] == "accuracy is constant"
    assert path_of({"m": [1, 1, 1]}, [0.5] * 3).verdict().startswith("Nothing can be said")


def test_wrong_input(trained):
    seen, unseen = trained
    with pytest.raises(InputError, match="at least three checkpoints; found 2"):
        cofire.trajectory(seen[:2])
    other = cofire.record(cofire.zoo.model("fcnn:64-20-10"), cofire.data.load("digits").batches(), progress=False)
    with pytest.raises(InputError, match="of one architecture; checkpoint '2' has other layers"):
        cofire.trajectory([*seen[:2], other])
    with pytest.raises(InputError, match="on the same samples; checkpoint '3'"):
        cofire.trajectory([*seen[:3], unseen[3]])
    with pytest.raises(InputError, match="test statistics for every checkpoint"):
        cofire.trajectory(seen, unseen[:2])
    with pytest.raises(InputError, match="one name per checkpoint"):
        cofire.trajectory(seen, names=["a"])


def test_statistics_without_predictions_have_no_correlations():
    acts = [torch.rand(20, 8, generator=torch.Generator().manual_seed(at)) for at in range(3)]
    seen = [cofire.FiringStats.from_activations({"fc1": values}, torch.arange(20) % 2, top=2) for values in acts]
    path = cofire.trajectory(seen)
    assert np.isnan(path.accuracy).all()
    assert len(path.correlations()) == 0
    assert path.verdict().startswith("Nothing can be said")


def test_the_command_records_what_is_missing_and_goes_on(tmp_path):
    def run(*words):
        done = CliRunner().invoke(app, [str(word) for word in words])
        assert done.exit_code == 0, done.output
        return done.output

    model, folder, out = "fcnn:64-24-10", tmp_path / "checkpoints", tmp_path / "out"
    run("train", model, "--epochs", 3, "--checkpoints", folder, "-o", tmp_path / "w.safetensors")
    said = run("trajectory", folder, "--model", model, "-o", out)
    assert said.count("recorded epoch-") == 4
    assert "Given the checkpoint's number" in said
    table, correlations = ((out / name).read_bytes() for name in ("trajectory.csv", "correlations.csv"))
    (out / "epoch-002.stats").unlink()
    (out / "trajectory.csv").unlink()
    said = run("trajectory", folder, "--model", model, "-o", out)
    assert said.count("recorded epoch-") == 1
    assert (out / "trajectory.csv").read_bytes() == table
    again = run("trajectory", *(out / f"epoch-00{at}.stats" for at in range(4)), "-o", tmp_path / "other")
    assert "recorded" not in again.splitlines()[0]
    assert (tmp_path / "other" / "correlations.csv").read_bytes() == correlations


def test_checkpoints_are_taken_in_numerical_order(tmp_path):
    for name in ("epoch10.stats", "epoch2.stats", "notes.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in checkpoint_list([tmp_path])] == ["epoch2.stats", "epoch10.stats"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=r"holds no \.safetensors or \.stats file"):
        checkpoint_list([tmp_path / "empty"])
