"""Paper 001's tables 3 to 6 for any training and over seeds: closed forms, and the same from statistics, scipy and loops."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

import cofire
from cofire.errors import InputError
from cofire.following import checkpoint_list, followed
from cofire.hypotheses import TABLES, class_entropies, community_sizes, entropies, modularities
from cofire.runs import averaged, over_runs
from cofire.trajectories import Trajectory

FORMS = {
    "modularity_bisection": cofire.modularity_bisection, "modularity": cofire.modularity,
    "modularity_shen": cofire.modularity_shen, "modularity_chen": cofire.modularity_chen,
}  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    digits = cofire.data.load("digits", limit=500)
    net = cofire.zoo.model("fcnn:64-48-32-10", seed=0)
    found = [cofire.record(net, digits.batches(), progress=False)]
    for epoch in range(5):
        cofire.fit(net, digits, epochs=1, lr=0.01, seed=epoch, progress=False)
        found.append(cofire.record(net, digits.batches(), progress=False))
    return found


@pytest.fixture(scope="module")
def path(seen):
    return cofire.trajectory(seen)


def graph_of(layer):
    return cofire.coactivation(layer, layer.units // 4)


def assert_correlated(row, x, y):
    """Whether a row holds scipy's correlations of two series."""
    assert row["pearson"] == pytest.approx(scipy_stats.pearsonr(x, y).statistic, abs=1e-9)
    assert row["spearman"] == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-9)


# ---------------------------------------------------------------- closed form


def test_a_class_that_spreads_as_it_is_learned():
    """Class b's four samples have one, two and four different values: 0, 1 and 2 bits. Class a has one throughout."""
    labels, checkpoints = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), []
    for right, values in ((1, [1.0, 1, 1, 1]), (2, [1.0, 1, 2, 2]), (4, [1.0, 2, 3, 4])):
        acts = torch.tensor([[5.0]] * 4 + [[value] for value in values])
        guess = torch.tensor([0, 0, 0, 0] + [1] * right + [0] * (4 - right))
        confusion = torch.zeros(2, 2, dtype=torch.int64).index_put_((labels, guess), torch.tensor(1), accumulate=True)
        plain = cofire.FiringStats.from_activations({"fc1": acts}, labels, bins=4)
        checkpoints.append(cofire.FiringStats(plain.layers, plain.class_counts, confusion, {"class_names": ["a", "b"]}))
    path = cofire.trajectory(checkpoints)
    assert path.by_class["b", "activation_entropy_total"].tolist() == [0, 1, 2]
    assert path.by_class["b", "accuracy"].tolist() == [0.25, 0.5, 1]
    one, other = class_entropies(path).to_dict("records")
    assert (one["class"], one["note"]) == ("a", "the measure is constant")
    assert (other["class"], other["spearman"]) == ("b", 1)
    assert_correlated(other, [0, 1, 2], [0.25, 0.5, 1])


# ---------------------------------------------------------------- reference


def test_table_3_is_that_of_communities(seen, path):
    rows = community_sizes(path).set_index("layer").to_dict("index")
    assert list(rows) == ["relu1", "relu2"]
    for layer, row in rows.items():
        found = [cofire.communities(graph_of(stats[layer])) for stats in seen]
        means = [len(groups.labels) / len(set(groups.labels.tolist())) for groups in found]
        assert_correlated(row, means, path.accuracy)
        for end, groups in (("first", found[0]), ("last", found[-1])):
            sizes = sorted(np.bincount(groups.labels.tolist()), reverse=True)
            assert row[end] == f"{len(sizes)}: {' '.join(map(str, sizes[:8]))}"


def test_table_4_is_that_of_the_four_forms(seen, path):
    table = modularities(path)
    assert list(zip(table.measure, table.layer, strict=True)) == [(form, name) for form in FORMS for name in ("relu1", "relu2")]
    for row in table.to_dict("records"):
        values = [FORMS[row["measure"]](graph_of(stats[row["layer"]])) for stats in seen]
        assert_correlated(row, values, path.accuracy)


def test_table_5_is_that_of_all_units_beside_the_trivial_ones(seen, path):
    table = entropies(path)
    assert table.measure.tolist() == ["activation_entropy_total", "checkpoint_index", "weight_norm", "active_share"]
    totals = [sum(float(cofire.activation_entropy(layer).sum()) for layer in stats.values()) for stats in seen]
    assert_correlated(table.iloc[0], totals, path.accuracy)
    assert_correlated(table.iloc[1], range(len(seen)), path.accuracy)


def test_table_6_is_that_of_each_class(seen, path):
    table = class_entropies(path).set_index("class")
    for c in range(10):
        totals = [
            sum(float(cofire.activation_entropy(layer, by_class=True)[c].sum()) for layer in stats.values()) for stats in seen
        ]
        accuracies = [int(stats.confusion[c, c]) / int(stats.class_counts[c]) for stats in seen]
        assert_correlated(table.loc[str(c)], totals, accuracies)


def test_test_accuracy_has_rows_of_its_own(seen):
    path = cofire.trajectory(seen, seen[::-1])
    assert modularities(path).against.value_counts().to_dict() == {"accuracy": 8, "test_accuracy": 8}


# ---------------------------------------------------------------- degenerate


def test_what_was_not_recorded_has_no_rows():
    digits, net = cofire.data.load("digits", limit=100), cofire.zoo.model("fcnn:64-16-10", seed=0)
    bare = cofire.record(net, digits.batches(), histograms="none", covariance=False, progress=False)
    path = cofire.trajectory([bare] * 3)
    assert [len(TABLES[number](path)) for number in (3, 4, 6)] == [0, 0, 0]
    assert "active_share" in entropies(path).measure.tolist()


def test_windows_of_a_monitor_make_a_trajectory(tmp_path):
    """Of which the first has no co-firing counts."""
    digits, net = cofire.data.load("digits", limit=300), cofire.zoo.model("fcnn:64-48-10", seed=0).train()
    with cofire.Monitor(net, save=tmp_path) as monitor:
        for epoch in range(4):
            for x, y in digits.batches(50, shuffle=True, seed=epoch):
                net(x * (1 + epoch))
                monitor.step(y)
            monitor.log()
    path = followed(checkpoint_list([tmp_path]))
    assert path.accuracy.tolist() == [cofire.load(file).accuracy for file in sorted(tmp_path.iterdir())]
    [row] = community_sizes(path).to_dict("records")
    second = cofire.load(tmp_path / "window-00001.safetensors")["relu1"]
    assert row["checkpoints"] == 3
    assert row["first"].startswith(f"{cofire.communities(graph_of(second)).count}: ")


def test_statistics_without_predictions(seen):
    blind = [cofire.FiringStats(stats.layers, stats.class_counts) for stats in seen]
    path = cofire.trajectory(blind)
    assert [len(TABLES[number](path)) for number in (4, 5, 6)] == [0, 0, 0]
    assert community_sizes(path)["note"].tolist() == ["fewer than three checkpoints have both"] * 2


def test_a_class_without_samples():
    x, y = next(iter(cofire.data.load("digits", limit=200).batches(200)))
    batch = [(x[y != 3], y[y != 3])]
    found = []
    for seed in range(3):
        with pytest.warns(cofire.CofireWarning, match="no sample of class '3'"):
            found.append(cofire.record(cofire.zoo.model("fcnn:64-48-10", seed=seed), batch, classes=10, progress=False))
    table = class_entropies(cofire.trajectory(found)).set_index("class")
    assert table.loc["3", "note"] == "fewer than three checkpoints have both"
    assert table.drop(index="3").checkpoints.tolist() == [3] * 9


# ---------------------------------------------------------------- over seeds

ACCURACY = np.array([0.1, 0.4, 0.3, 0.6])
STATISTICS = ("pearson", "spearman", "partial_spearman", "differences")


def run_of(series, layer="fc1", by_class=None):
    """A trajectory of four checkpoints in which one layer has this modularity."""
    values = {(layer, "modularity"): np.array(series, dtype=float), ("all layers", "checkpoint_index"): np.arange(4.0)}
    return Trajectory(tuple("0123"), values, ACCURACY, by_class=by_class or {})


def class_of(name, series):
    """The series of a class whose accuracy is that of the whole."""
    return {(name, "accuracy"): ACCURACY, (name, "activation_entropy_total"): np.array(series, dtype=float)}


def one(frame, **wanted):
    """The only row of a frame with these values."""
    (row,) = (row for row in frame.to_dict("records") if all(row[name] == value for name, value in wanted.items()))
    return row


@pytest.fixture(scope="module")
def paths():
    digits, found = cofire.data.load("digits", limit=300), []
    for seed in range(3):
        net, seen = cofire.zoo.model("fcnn:64-24-10", seed=seed), []
        for epoch in range(5):
            if epoch:
                cofire.fit(net, digits, epochs=1, lr=0.01, seed=epoch, progress=False)
            seen.append(cofire.record(net, digits.batches(), progress=False))
        found.append(cofire.trajectory(seen))
    return found


def test_two_seeds_that_rise_and_one_that_falls():
    joined = over_runs([run_of(ACCURACY), run_of(2 * ACCURACY), run_of(-ACCURACY)])
    row = one(joined.frame(modularities), statistic="pearson")
    assert row["mean"] == pytest.approx(1 / 3)
    assert [row[name] for name in ("layer", "measure", "against", "runs", "same_sign")] == [
        "fc1",
        "modularity",
        "accuracy",
        3,
        2,
    ]
    assert (row["mean_low"], row["mean_high"]) == pytest.approx((-1, 1))
    assert row["beyond_checkpoint_index"] == pytest.approx(1 - scipy_stats.pearsonr(range(4), ACCURACY).statistic)


def test_a_mean_of_nothing_has_the_sign_of_none():
    row = one(over_runs([run_of(ACCURACY), run_of(-ACCURACY)]).frame(modularities), statistic="spearman")
    assert (row["mean"], row["same_sign"]) == (0, 0)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=12))
def test_an_average_lies_among_its_runs(values):
    """min <= low <= high <= max; turning all signs turns the mean and no more; at least the run that decides it has its sign."""
    mine, turned = (
        averaged([pd.DataFrame([{"class": "a", "pearson": sign * value}]) for value in values]).iloc[0] for sign in (1, -1)
    )
    assert list(mine.index) == ["class", "statistic", "runs", "mean", "mean_low", "mean_high", "same_sign"]
    assert turned["mean"] == -mine["mean"]
    assert turned["same_sign"] == mine["same_sign"] <= mine["runs"] == len(values)
    assert mine["same_sign"] > 0 or mine["mean"] == 0
    if len(values) == 1:
        assert math.isnan(mine["mean_low"])
        assert math.isnan(mine["mean_high"])
    else:
        assert min(values) - 1e-12 <= mine["mean_low"] <= mine["mean_high"] <= max(values) + 1e-12


def test_an_interval_is_that_of_a_plain_bootstrap_over_runs():
    values, level, seed = [0.9, -0.2, 0.4, 0.55, 0.1], 0.8, 3
    row = averaged([pd.DataFrame([{"layer": "fc1", "pearson": value}]) for value in values], level, seed).iloc[0]
    means = []
    for draw in np.random.default_rng(seed).integers(5, size=(2000, 5)).tolist():
        means.append(sum(values[run] for run in draw) / 5)
    means.sort()
    ends = []
    for share in (0.1, 0.9):
        place = share * 1999
        below, above = means[math.floor(place)], means[math.floor(place) + 1]
        ends.append(below + (place % 1) * (above - below))
    assert (row["mean_low"], row["mean_high"]) == pytest.approx(ends, abs=1e-12)


@pytest.mark.parametrize("number", TABLES)
def test_a_table_over_seeds_is_that_of_each_averaged(paths, number):
    table = TABLES[number]
    each, frame = [table(path) for path in paths], over_runs(paths).frame(table)
    keys = [name for name in ("layer", "class", "measure", "against") if name in each[0]]
    wanted = [(*row, statistic) for row in each[0][keys].itertuples(index=False, name=None) for statistic in STATISTICS]
    assert list(frame[[*keys, "statistic"]].itertuples(index=False, name=None)) == wanted  # in the paper's order
    for row in frame.to_dict("records"):
        values = [one(run, **{key: row[key] for key in keys})[row["statistic"]] for run in each]
        known = [value for value in values if not math.isnan(value)]
        assert row["runs"] == len(known)
        if known:
            assert row["mean"] == pytest.approx(sum(known) / len(known), abs=1e-12)
            assert row["same_sign"] == sum(value * row["mean"] > 0 for value in known)
        if row.get("against"):
            norms = [one(run.correlations(), measure="weight_norm")[row["statistic"]] for run in paths]
            pairs = [abs(a) - abs(b) for a, b in zip(values, norms, strict=True) if not math.isnan(a + b)]
            assert row["beyond_weight_norm"] == pytest.approx(sum(pairs) / len(pairs) if pairs else math.nan, nan_ok=True)


@pytest.mark.parametrize("number", TABLES)
def test_one_run_beside_its_control_has_the_numbers_of_its_own_table(paths, number):
    mine, theirs = TABLES[number](paths[0]), TABLES[number](paths[1])
    frame = over_runs(paths[:1], paths[1:2]).frame(TABLES[number])
    for statistic in STATISTICS:
        rows = frame[frame.statistic == statistic]
        assert np.array_equal(rows["mean"], mine[statistic], equal_nan=True)
        assert np.array_equal(rows["shuffled"], theirs[statistic], equal_nan=True)
    assert frame[["mean_low", "mean_high"]].isna().all().all()


def test_a_class_that_varies_in_one_run_only():
    flat, known = (run_of(ACCURACY, by_class=class_of("a", series)) for series in ([1, 1, 1, 1], -ACCURACY))
    frame = over_runs([flat, known, flat]).frame(class_entropies)
    row = one(frame, statistic="pearson")
    assert (row["class"], row["runs"], row["same_sign"]) == ("a", 1, 1)
    assert row["mean"] == pytest.approx(-1)
    assert math.isnan(row["mean_low"])
    assert not [name for name in frame if name.startswith("beyond")]


def test_what_no_run_recorded_has_no_rows_over_seeds():
    assert len(over_runs([run_of(ACCURACY), run_of(-ACCURACY)]).frame(class_entropies)) == 0


def test_runs_that_do_not_belong_together():
    here = run_of(ACCURACY, by_class=class_of("a", ACCURACY))
    with pytest.raises(InputError, match=r"^all runs must be of one architecture; number 1 has other layers than the first\.$"):
        over_runs([here, run_of(ACCURACY, layer="fc2")])
    other = run_of(ACCURACY, by_class=class_of("b", ACCURACY))
    with pytest.raises(
        InputError, match=r"^all runs must be on one data set; number 2 has other classes than those before it\.$"
    ):
        over_runs([run_of(ACCURACY), here, other])
