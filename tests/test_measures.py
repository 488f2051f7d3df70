"""The table of measures and what is made of it: ranges that hold, names that stay, numbers that loops give too."""

import inspect
import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import cofire
import naive
from activations import KINDS, apart, column, law, layer_of, realistic, recordings
from cofire import FiringStats
from cofire.errors import CofireWarning, InputError
from cofire.measures import MEASURES, measure, summary, table, unit_values

COMPANIONS = {"softmax_entropy_scale_free": "softmax_entropy"}
"""Rows that are an option of another function."""

by_measure = pytest.mark.parametrize("row", MEASURES, ids=lambda row: row.name)


def stats_of(*layers, labels, classes=None, **options) -> FiringStats:
    return FiringStats.from_activations({f"fc{i}": acts for i, acts in enumerate(layers, 1)}, labels, classes, **options)


def values_of(row, layer) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CofireWarning)  # an empty class is expected here
        return row.function(layer)


# ---------------------------------------------------------------- closed form


def test_the_names_are_an_interface():
    """Reports, options and saved tables carry these: a change belongs under *Numbers* in the changelog."""
    assert [row.name for row in MEASURES] == [
        "firing_probability", "activation_entropy", "firing_entropy", "mutual_information", "mutual_information_excess",
        "kl_selectivity", "class_selectivity", "softmax_entropy", "softmax_entropy_scale_free",
    ]  # fmt: skip
    stats = stats_of(torch.ones(4, 2), labels=[0, 0, 1, 1])
    assert list(table(stats)) == [
        "layer", "unit", "firing_rate", "activation_entropy", "firing_entropy", "mutual_information",
        "mutual_information_excess", "kl_selectivity", "class_selectivity", "mean", "std", "preferred_class", "dead", "always_on",
    ]  # fmt: skip
    assert list(summary(stats)) == [
        "layer", "kind", "layout", "units", "live", "dead", "always_on", "samples", "bins", "firing_rate",
        "activation_entropy_total", "activation_entropy", "firing_entropy", "mutual_information", "mutual_information_excess",
        "kl_selectivity", "class_selectivity", "softmax_entropy", "softmax_entropy_scale_free",
    ]  # fmt: skip


def test_a_table_one_can_check_by_hand():
    acts = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    stats = stats_of(acts, -acts, labels=[0, 0, 1, 1], class_names=["cat", "dog"])
    frame = table(stats)
    assert frame["layer"].tolist() == ["fc1"] * 3 + ["fc2"] * 3
    assert frame["unit"].tolist() == [0, 1, 2, 0, 1, 2]
    first = frame[frame["layer"] == "fc1"]
    assert first["firing_rate"].tolist() == [0.5, 0, 1]
    assert first["mutual_information"].tolist() == pytest.approx([1, 0, 0], abs=1e-12)
    assert first["activation_entropy"].tolist() == pytest.approx([1, 0, 0], abs=1e-12)
    assert first["mean"].tolist() == [1, 0, 2]
    assert first["std"].tolist() == pytest.approx([math.sqrt(1.5), 0, 0])
    assert first["preferred_class"].tolist() == ["cat", "", "cat"]  # a tie goes to the first class, a dead unit to none
    assert first["dead"].tolist() == [False, True, False]
    assert first["always_on"].tolist() == [False, False, True]
    assert frame[frame["layer"] == "fc2"]["dead"].all()


def test_a_summary_one_can_check_by_hand():
    acts = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 0.0, 2.0]])
    row = summary(stats_of(acts, labels=[0, 0, 1, 1], bins=10)).iloc[0]
    assert row[["layer", "kind", "layout"]].tolist() == ["fc1", "given", "dense"]
    assert row[["units", "live", "dead", "always_on", "samples", "bins"]].tolist() == [3, 2, 1, 1, 4, 10]
    assert row["firing_rate"] == 0.5
    assert row["activation_entropy_total"] == pytest.approx(1)  # over all units
    assert row["activation_entropy"] == pytest.approx(0.5)  # over the two that live
    assert row["mutual_information"] == pytest.approx(0.5)
    assert row["mutual_information_excess"] == pytest.approx(0.5 - 1 / (8 * math.log(2)))


# ---------------------------------------------------------------- laws


@law
@given(recordings(), st.booleans(), st.integers(0, 2))
def test_every_measure_obeys_its_stated_range(recording, sketch, empty):
    """least <= value <= most for every unit and class, whatever was recorded; NaN only for a class without samples."""
    acts, labels, classes = recording
    layer = layer_of(acts, labels, classes + empty, histograms="sketch" if sketch else "exact")
    for row in MEASURES:
        values = values_of(row, layer)
        assert values.dtype == torch.float64, row.name
        sizes = {"units": acts.shape[1], "classes": classes + empty}
        assert list(values.shape) == [sizes[axis] for axis in row.axes.split()], row.name
        known = values[:classes] if row.axes.startswith("classes") else values
        assert bool(known.isfinite().all()), row.name
        assert row.least is None or bool((known >= row.least(layer) - 1e-12).all()), row.name
        assert row.most is None or bool((known <= row.most(layer) + 1e-12).all()), row.name


@law
@given(recordings(negative=False))
def test_class_selectivity_has_a_range_where_it_claims_one(recording):
    """0 to 1 where activations are not negative; the row states no range, since there is none otherwise."""
    acts, labels, classes = recording
    values = measure("class_selectivity").function(layer_of(acts, labels, classes))
    assert bool(((values >= 0) & (values <= 1)).all())
    assert (measure("class_selectivity").least, measure("class_selectivity").most) == (None, None)


def test_every_range_is_reached():
    """The bounds are no loose ones: each is attained, but for the excess, which its bias keeps from the information's limit."""
    labels = torch.arange(60) % 2
    named = layer_of(torch.stack([labels.float(), 1 - labels.float(), torch.arange(1, 61.0)], 1), labels)
    flat, peak = layer_of(torch.ones(60, 2), labels), layer_of(torch.eye(200)[[0] * 60] * 900, labels)
    for row in MEASURES:
        if row.least is None:
            continue
        lowest = min(float(values_of(row, layer).min() - row.least(layer)) for layer in (named, flat, peak))
        highest = min(float(row.most(layer) - values_of(row, layer).max()) for layer in (named, flat, peak))
        assert lowest == pytest.approx(0, abs=1e-9), row.name
        short = 1 / (120 * math.log(2)) if row.name == "mutual_information_excess" else 0
        assert highest == pytest.approx(short, abs=1e-9), row.name


# ---------------------------------------------------------------- reference


@by_measure
def test_every_row_is_a_function_of_cofire(row):
    name = COMPANIONS.get(row.name, row.name)
    assert name in cofire.__all__
    function = getattr(cofire, name)
    if row.name == name:
        assert row.function is function
    else:
        option = row.name.removeprefix(f"{name}_")
        assert option in inspect.signature(function).parameters
        layer = layer_of(*realistic("relu", 50, 4))
        assert torch.equal(row.function(layer), function(layer, **{option: True}))


@by_measure
def test_every_row_and_its_function_say_what_they_are(row):
    assert row.words.endswith(".")
    assert all((row.symbol, row.better, row.source))
    assert row.unit in ("bits", "share", "ratio")
    assert row.axes in ("units", "classes", "classes units")
    assert row.per_unit == (row.axes == "units")
    text = getattr(cofire, COMPANIONS.get(row.name, row.name)).__doc__
    for part in (".. math::", "Range:", "Source:", "Args:", "Returns:"):
        assert part in text, f"{row.name} lacks {part}"


@pytest.mark.parametrize("kind", KINDS)
def test_table_and_summary_against_the_naive_reference(kind):
    acts, labels = realistic(kind, 500, 6)
    acts[:, 2] = 0
    threshold = 0.5 if kind == "sigmoid" else 0.0
    stats = stats_of(acts, labels=labels, threshold=threshold)
    expected = {
        "activation_entropy": naive.activation_entropy(acts),
        "firing_entropy": naive.firing_entropy(acts, threshold),
        "mutual_information": naive.mutual_information(acts, labels, 4, threshold),
        "mutual_information_excess": naive.mutual_information_excess(acts, labels, 4, threshold),
        "kl_selectivity": naive.kl_selectivity(acts, labels, 4, threshold),
        "class_selectivity": naive.class_selectivity(acts, labels, 4),
    }
    rates = (naive.as_array(acts) > threshold).mean(0)
    frame = table(stats)
    for name, values in expected.items():
        assert apart(frame[name], values) <= 1e-9 * max(1, np.abs(values).max()), name
    assert apart(frame["mean"], naive.as_array(acts).mean(0)) <= 1e-9
    assert apart(frame["std"], naive.std(acts)) <= 1e-6
    assert apart(frame["firing_rate"], rates) <= 1e-7
    means = naive.class_means(acts, labels, 4)
    assert frame["preferred_class"].tolist() == [
        "" if rate == 0 else str(c) for c, rate in zip(means.argmax(0), rates, strict=True)
    ]
    assert frame["dead"].tolist() == (rates == 0).tolist()
    assert frame["always_on"].tolist() == (rates == 1).tolist()

    row, live = summary(stats).iloc[0], rates > 0
    assert (row["live"], row["dead"], row["always_on"]) == (live.sum(), 6 - live.sum(), (rates == 1).sum())
    assert row["activation_entropy_total"] == pytest.approx(expected["activation_entropy"].sum(), abs=1e-9)
    for name, values in expected.items():
        mean = values[live].mean() if live.any() else math.nan
        assert row[name] == pytest.approx(mean, abs=1e-9 * max(1, np.abs(values).max()), nan_ok=True), name
    assert row["softmax_entropy"] == pytest.approx(naive.softmax_entropy(acts, labels, 4).mean(), abs=1e-9)
    scale_free = naive.softmax_entropy(acts, labels, 4, scale_free=True).mean()
    assert row["softmax_entropy_scale_free"] == pytest.approx(scale_free, abs=1e-9)


# ---------------------------------------------------------------- degenerate


def test_an_empty_class_gives_a_summary_without_a_word():
    """firing_probability warns of it; a summary does not depend on it and stays quiet (warnings are errors here)."""
    acts, labels = realistic("relu", 60, 3, classes=2)
    few, more = (stats_of(acts, labels=labels, classes=classes) for classes in (2, 4))
    assert summary(few).equals(summary(more))
    assert table(few).equals(table(more))


def test_a_dead_layer_has_no_mean_over_live_units():
    row = summary(stats_of(torch.zeros(4, 3), labels=[0, 0, 1, 1])).iloc[0]
    assert (row["live"], row["dead"], row["activation_entropy_total"], row["firing_rate"]) == (0, 3, 0, 0)
    assert math.isnan(row["mutual_information"])
    assert math.isnan(row["activation_entropy"])


def test_no_layer_at_all():
    nothing = FiringStats({}, torch.zeros(2, dtype=torch.long))
    assert table(nothing).empty
    assert summary(nothing).empty


def test_without_histograms_their_columns_are_left_out():
    stats = stats_of(torch.ones(4, 2), labels=[0, 0, 1, 1])
    bare = replace(stats, layers={"fc1": replace(stats["fc1"], histogram=None, histogram_edges=None)})
    assert list(table(stats).columns.difference(table(bare).columns)) == ["activation_entropy"]
    lost = summary(stats).columns.difference(summary(bare).columns)
    assert list(lost) == ["activation_entropy", "activation_entropy_total"]


def test_tables_are_plain_frames():
    stats = stats_of(*[realistic("gelu", 40, 3)[0]] * 2, labels=[0, 1] * 20)
    frame = table(stats)
    assert frame.index.tolist() == list(range(6))
    assert all(pd.api.types.is_float_dtype(frame[row.name]) for row in MEASURES if row.per_unit)
    assert frame.notna().all().all()
    assert len(summary(stats)) == 2


def test_rates_have_double_precision():
    stats = stats_of(column(1, 1, 0), labels=[0, 0, 1])
    assert table(stats)["firing_rate"].tolist() == [2 / 3]
    assert summary(stats)["firing_rate"].tolist() == [2 / 3]


# ---------------------------------------------------------------- errors


def test_a_measure_that_does_not_exist():
    with pytest.raises(
        InputError,
        match=r"^no measure named 'entropy'; there are firing_probability, activation_entropy, .*, softmax_entropy_scale_free\.$",
    ):
        measure("entropy")
    with pytest.raises(InputError, match=r"^no measure named 'entropy'"):
        unit_values(layer_of(column(1.0)), "entropy")
    assert measure("kl_selectivity").source == "004, eq. 5"
