"""Measures over checkpoints: the series, correlations with their controls, and what is said of them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

import cofire
from cofire import FiringStats
from cofire.correlations import partial_correlation
from cofire.errors import InputError
from cofire.runs import over_runs
from cofire.trajectories import Trajectory, values_of


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
    assert row["note"] == "the measure only follows the checkpoint's number"
    text = path_of({"m": steps**2}, np.log1p(steps)).verdict()
    assert "The number of the checkpoint alone does as well (1.00), so that says nothing" in text
    assert text.endswith("nothing is left to relate: accuracy, or each of the measures, only follows it.")
    wobble = np.random.default_rng(6).normal(size=15)
    assert row_of(path_of({"m": wobble}, np.log1p(steps)), "m")["note"] == "accuracy only follows the checkpoint's number"
    assert row_of(path_of({"m": wobble}, wobble[::-1]), "m")["note"] == ""


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
    with pytest.raises(InputError, match="on the same samples; checkpoint '3' has other numbers of samples by class"):
        cofire.trajectory([*seen[:3], unseen[3]])
    net, mixed = cofire.zoo.model("fcnn:64-48-32-10"), cofire.data.load("digits", shuffle_labels=True)
    odd = cofire.record(net, mixed.batches(), progress=False)
    assert odd.class_counts.tolist() == seen[0].class_counts.tolist()
    with pytest.raises(InputError, match="on the same samples; checkpoint 'last' has other pictures or labels"):
        cofire.trajectory([*seen[:2], odd], names=["a", "b", "last"])
    renamed = FiringStats(seen[2].layers, seen[2].class_counts, header={"class_names": list("abcdefghij")})
    with pytest.raises(InputError, match="on the same samples; checkpoint '2' has other classes"):
        cofire.trajectory([*seen[:2], renamed])
    with pytest.raises(InputError, match="test statistics for every checkpoint"):
        cofire.trajectory(seen, unseen[:2])
    with pytest.raises(InputError, match="one name per checkpoint"):
        cofire.trajectory(seen, names=["a"])
    path = cofire.trajectory(seen)
    with pytest.raises(InputError, match=r"^an interval over runs needs at least two of them; found 1\.$"):
        over_runs([path])
    with pytest.raises(InputError, match=r"^all runs must be of one architecture; number 1 has other layers than the first\.$"):
        over_runs([path, path_of({"m": [1, 2, 3]}, [1, 2, 3])])
    with pytest.raises(InputError, match=r"^every run must know its accuracy; number 1 was recorded without"):
        over_runs([path_of({"m": [1, 2, 3]}, [1, 2, 3]), path_of({"m": [1, 2, 3]}, [math.nan] * 3)])


def test_statistics_without_predictions_have_no_correlations():
    acts = [torch.rand(20, 8, generator=torch.Generator().manual_seed(at)) for at in range(3)]
    seen = [cofire.FiringStats.from_activations({"fc1": values}, torch.arange(20) % 2, top=2) for values in acts]
    path = cofire.trajectory(seen)
    assert np.isnan(path.accuracy).all()
    assert len(path.correlations()) == 0
    assert path.verdict().startswith("Nothing can be said")


# ---------------------------------------------------------------- over seeds


def rows_of(joined, measure, statistic="spearman"):
    frame = joined.frame()
    (row,) = frame[(frame.measure == measure) & (frame.statistic == statistic)].to_dict("records")
    return row


def test_runs_are_averaged_and_compared_with_the_trivial_ones():
    accuracy, steps = np.array([0.1, 0.4, 0.3, 0.6]), np.arange(4.0)
    up = path_of({"m": accuracy * 2}, accuracy)
    down = path_of({"m": -accuracy}, accuracy)
    index = scipy_stats.spearmanr(steps, accuracy).statistic
    row = rows_of(over_runs([up, up]), "m")
    assert (row["runs"], row["mean"], row["mean_low"], row["mean_high"]) == (2, 1, 1, 1)
    assert row["beyond_checkpoint_index"] == pytest.approx(1 - index)
    row = rows_of(over_runs([up, down], shuffled=[down, down]), "m")
    assert (row["mean"], row["mean_low"], row["mean_high"]) == (0, -1, 1)
    assert row["beyond_checkpoint_index"] == pytest.approx(1 - index)  # sizes are compared, not signs
    assert (row["shuffled"], row["shuffled_low"], row["shuffled_high"]) == (-1, -1, -1)


def test_the_interval_is_over_runs_and_not_over_checkpoints():
    """All resamples of three runs: the ends of the interval are the smallest and the largest run."""
    random = np.random.default_rng(0)
    paths = [path_of({"m": random.normal(size=30)}, random.normal(size=30)) for _ in range(3)]
    each = [row_of(path, "m")["spearman"] for path in paths]
    row = rows_of(over_runs(paths), "m")
    assert row["mean"] == pytest.approx(np.mean(each))
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((min(each), max(each)))


def test_a_run_that_lacks_a_number_is_left_out_of_its_mean():
    accuracy = [0.1, 0.4, 0.3, 0.6]
    paths = [path_of({"m": accuracy}, accuracy), path_of({"m": [1, 1, 1, 1]}, accuracy), path_of({"m": accuracy}, accuracy)]
    row = rows_of(over_runs(paths), "m")
    assert (row["runs"], row["mean"]) == (2, 1)
    alone = rows_of(over_runs(paths[:2]), "m")
    assert (alone["runs"], alone["mean"]) == (1, 1)
    assert math.isnan(alone["mean_low"])
    assert over_runs(paths).verdict().startswith("Over 2 of 3 runs and given the checkpoint's number, m of fc1")
    assert over_runs(paths[:2]).verdict() == (
        "Nothing can be said: given the checkpoint's number, no measure relates to accuracy in two runs or more. "
        "Where accuracy rises with every checkpoint, the number leaves nothing to relate: train for longer."
    )


def test_one_run_beside_its_control():
    random = np.random.default_rng(4)
    accuracy = random.normal(size=12)
    mine, theirs = (path_of({"m": series}, accuracy) for series in (accuracy + 0.1 * random.normal(size=12), -accuracy))
    joined = over_runs([mine], [theirs])
    row = rows_of(joined, "m", "partial_spearman")
    assert (row["runs"], row["mean"], row["shuffled"]) == (1, row_of(mine, "m")["partial_spearman"], -1)
    assert math.isnan(row["mean_low"])
    assert joined.verdict() == (
        f"In one run and given the checkpoint's number, m of fc1 goes most with accuracy: {row['mean']:+.2f}, the largest of 1. "
        f"Its Spearman correlation beats that of checkpoint_index ({rows_of(joined, 'm')['beyond_checkpoint_index']:+.2f}). "
        "On shuffled labels it has -1.00. One run has no interval: repeat it with other seeds before you believe it."
    )


def test_the_verdict_says_what_survives():
    random, steps = np.random.default_rng(3), np.arange(12.0)

    def run(real):
        accuracy = steps + 6 * random.normal(size=12)
        path = path_of({"m": accuracy + random.normal(size=12) if real else random.normal(size=12)}, accuracy)
        path.values["all layers", "weight_norm"] = steps**2
        return path

    text = over_runs([run(True) for _ in range(4)], shuffled=[run(False) for _ in range(4)]).verdict()
    assert "Over 4 runs and given the checkpoint's number, m of fc1 goes most with accuracy: +0.9" in text
    assert "Its interval leaves out 0. Its Spearman correlation beats that of checkpoint_index" in text
    assert "beats that of weight_norm" in text
    assert "On shuffled labels it has" in text
    assert text.endswith("With 4 runs an interval is hardly more than the smallest and the largest.")
    noise = over_runs([run(False) for _ in range(8)]).verdict()
    assert "Its interval holds 0. Its Spearman correlation does not beat that of checkpoint_index" in noise
    assert "hardly more" not in noise


def test_the_norm_of_the_weights_and_baselines_are_series(trained):
    seen, _ = trained
    path = cofire.trajectory(seen)
    net = cofire.zoo.model("fcnn:64-48-32-10", seed=0)
    squares = [float((weight**2).sum()) for name, weight in net.state_dict().items() if name.endswith("weight")]
    assert path.values["all layers", "weight_norm"][0] == pytest.approx(math.sqrt(sum(squares)), rel=1e-6)
    assert (np.diff(path.values["all layers", "weight_norm"]) > 0).all()
    numbers = values_of(seen[2])
    assert numbers["relu1", "davies_bouldin"] == path.values["relu1", "davies_bouldin"][2]
    assert "checkpoint_index" not in {measure for _, measure in numbers}
    assert "davies_bouldin" not in path.verdict()
