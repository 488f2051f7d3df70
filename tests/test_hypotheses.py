"""Paper 001's tables 3 to 6 for any training: closed forms, and the same from statistics and scipy, checkpoint by checkpoint."""

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

import cofire
from cofire.following import checkpoint_list, followed
from cofire.hypotheses import TABLES, class_entropies, community_sizes, entropies, modularities

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
