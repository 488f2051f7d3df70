"""Figures for papers: what is drawn is what was measured."""

import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cofire
from cofire import cli, plots
from cofire.ablation import curves_of
from cofire.checkpointing import History
from cofire.errors import InputError
from cofire.trajectories import Trajectory


@pytest.fixture(scope="module")
def recorded():
    digits = list(cofire.data.load("digits", limit=400).batches(100))
    net = cofire.zoo.model("fcnn:64-16-12-10", seed=0)
    return net, digits, cofire.record(net, digits, progress=False)


@pytest.fixture(scope="module")
def curves(recorded):
    net, digits, stats = recorded
    return curves_of(net, digits, stats, ["firing_entropy", "std"], each=True, fill="both", seeds=3, progress=False)


def path(epochs=3, tested=True):
    rising = np.linspace(0.1, 0.9, epochs)
    names = tuple(map(str, range(epochs)))
    series = {("all layers", "activation_entropy_total"): np.arange(epochs) + 5.0, ("relu1", "mean"): rising}
    return Trajectory(names, series, rising, rising / 2 if tested else None)


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title() == title)


# ---------------------------------------------------------------- what is drawn


def test_every_curve_is_a_line_of_its_panel(curves):
    figure = plots.curves(curves)
    assert [axes.get_title() for axes in figure.axes] == [
        f"{where}, {fill} fill" for fill in ("mean", "zero") for where in ("relu1", "relu2", "all 2 layers")
    ]
    assert sum(len(axes.lines) for axes in figure.axes) == len(curves) == 6 * 5
    for curve in curves:
        where = curve.layers[0] if len(curve.layers) == 1 else "all 2 layers"
        words = {"ascending": f"{curve.by}, low first", "descending": f"{curve.by}, high first", "random": "random"}
        lines = panel(figure, f"{where}, {curve.fill} fill").lines
        line = next(line for line in lines if line.get_label() == words[curve.order])
        assert line.get_xdata() == pytest.approx(100 * curve.removed / curve.units)
        assert line.get_ydata() == pytest.approx(100 * curve.accuracy)


def test_the_band_of_several_runs_reaches_from_the_least_to_the_largest(curves):
    curve = next(curve for curve in curves if curve.order == "random")
    (band,) = plots.curves([curve]).axes[0].collections
    low, high = curve.band
    ends = band.get_paths()[0].get_extents()
    assert (ends.ymin, ends.ymax) == pytest.approx((100 * float(low.min()), 100 * float(high.max())))
    single = next(curve for curve in curves if curve.order == "ascending")
    assert not plots.curves([single]).axes[0].collections


def test_a_measure_has_one_colour_in_all_panels_and_a_direction_one_style(curves):
    found = {}
    for axes in plots.curves(curves).axes:
        for line in axes.lines:
            found.setdefault(line.get_label(), set()).add((line.get_color(), line.get_linestyle()))
    assert all(len(looks) == 1 for looks in found.values())
    colours = {label: next(iter(looks))[0] for label, looks in found.items()}
    assert colours["std, low first"] == colours["std, high first"] != colours["firing_entropy, low first"]
    assert len(set(colours.values())) == 3


def test_layers_have_the_titles_that_are_given(curves):
    assert plots.curves(curves[:1], {curves[0].layers[0]: "first"}).axes[0].get_title() == "first, mean fill"


@pytest.mark.parametrize("panels", [1, 2, 6])
def test_the_legend_is_no_wider_than_the_figure(curves, panels):
    places = list(dict.fromkeys((curve.layers, curve.fill) for curve in curves))[:panels]
    figure = plots.curves([curve for curve in curves if (curve.layers, curve.fill) in places])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    extent = legend.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width
    assert all(axes.get_window_extent().height > 100 for axes in figure.axes)


def test_a_violin_stands_for_each_layer_with_its_median(recorded):
    stats = recorded[2]
    figure = plots.violins(stats, ["activation_entropy", "firing_entropy"])
    frame = cofire.table(stats)
    for axes in figure.axes:
        medians = [lines for lines in axes.collections if type(lines).__name__ == "LineCollection"]
        drawn = [lines.get_segments()[0][0][1] for lines in medians]
        assert drawn == pytest.approx([frame[axes.get_title()][frame.layer == layer].median() for layer in stats])
        assert [label.get_text() for label in axes.get_xticklabels()] == list(stats)


def test_units_without_a_number_are_left_out_of_violins():
    nothing = torch.zeros(40, 6)
    nothing[:, 0] = torch.linspace(-1, 1, 40)
    stats = cofire.FiringStats.from_activations({"a": nothing, "b": torch.zeros(40, 3)}, torch.arange(40) % 2, classes=2)
    figure = plots.violins(stats)
    assert len(figure.axes) == 3


def test_numbers_by_layer_are_violins_too():
    figure = plots.distributions({"size": {"a": [1.0, 2.0, 4.0, float("nan")], "b": [], "c": [3.0, 3.0]}})
    (axes,) = figure.axes
    medians = [lines for lines in axes.collections if type(lines).__name__ == "LineCollection"]
    assert [tuple(lines.get_segments()[0].mean(0)) for lines in medians] == [(0.0, 2.0), (2.0, 3.0)]


def test_losses_and_accuracies_are_lines_of_their_epochs():
    nan = float("nan")
    histories = {
        "one": History([0, 1, 2], [nan, 2.0, 1.0], [nan, 0.25, 0.5], [0.1, 0.2, 0.4], []),
        "two": History([0, 1], [nan, 3.0], [nan, 0.125], [nan, nan], []),
    }
    losses, accuracies = plots.learning(histories).axes
    assert [line.get_ydata()[1:].tolist() for line in losses.lines] == [[2, 1], [3]]
    drawn = {line.get_label(): line.get_ydata() for line in accuracies.lines}
    assert list(drawn) == ["one", "one, test", "two"]
    assert drawn["one, test"] == pytest.approx([10, 20, 40])
    with pytest.raises(InputError, match="a figure needs at least one training"):
        plots.learning({})


def test_a_training_has_its_measure_and_its_accuracy(tmp_path):
    figure = plots.trainings({"one": path(), "two": path(tested=False)})
    own, others = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in own] == ["one", "two"]
    assert own[0].lines[0].get_ydata().tolist() == [5, 6, 7]
    assert [len(axes.lines) for axes in others] == [2, 1]
    assert others[0].lines[1].get_ydata() == pytest.approx([5, 25, 45])
    plots.save(figure, tmp_path / "figure.png")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("form", ["pdf", "svg", "png"])
def test_a_figure_is_the_same_file_each_time(tmp_path, curves, form):
    files = [tmp_path / part / f"curves.{form}" for part in ("first", "second")]
    for file in files:
        plots.save(plots.curves(curves[:3]), file)
    first, second = (file.read_bytes() for file in files)
    assert first == second
    assert first.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[form])
    assert [file.name for file in files[0].parent.iterdir()] == [files[0].name]
    if form == "svg":
        assert "firing_entropy, low first" in first.decode()  # words stay words


def test_a_figure_leaves_nothing_open(curves):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plots.curves(curves[:1])
    assert plt.get_fignums() == before


def test_the_command_draws_what_it_measured(tmp_path):
    words = ["ablate", "fcnn:64-16-10", "--data", "digits", "--limit", "200", "--by", "std", "--seeds", "2", "--steps", "5"]
    done = CliRunner().invoke(
        cli.app, [*words, "-o", str(tmp_path / "a.html"), "--figure", str(tmp_path / "a.svg")], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    text = (tmp_path / "a.svg").read_text("utf8")
    assert set(re.findall(">(std, [a-z]+ first|random)<", text)) == {"std, low first", "std, high first", "random"}


# ---------------------------------------------------------------- wrong input


def test_what_cannot_be_drawn_is_refused(recorded, tmp_path):
    with pytest.raises(InputError, match="a figure needs at least one curve"):
        plots.curves([])
    with pytest.raises(InputError, match="a figure needs at least one training"):
        plots.trainings({})
    with pytest.raises(InputError, match=r"a measure is one of .*firing_entropy.*found 'fire'"):
        plots.violins(recorded[2], ["fire"])
    with pytest.raises(InputError, match="'one' has no std of relu1; it has activation_entropy_total of all layers"):
        plots.trainings({"one": path()}, "relu1", "std")
    with pytest.raises(InputError, match=r"a figure is a \.pdf, \.svg or \.png; found 'curves\.docx'"):
        plots.form_of("curves.docx")


def test_another_ending_is_said_before_the_work(tmp_path):
    done = CliRunner().invoke(cli.app, ["ablate", "fcnn:64-16-10", "--figure", "a.docx", "-o", str(tmp_path / "a.html")])
    assert done.exit_code != 0
    assert not (tmp_path / "a.html").exists()
