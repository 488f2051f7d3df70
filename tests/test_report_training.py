"""Trainings in a report: what a browser draws and tells, against the numbers of the JSON twin, and these of the trajectory."""

import math
import re

import numpy as np
import pytest
import torch

import cofire
from browsing import into_view, reports, settle, tip
from cofire import report
from cofire.report.page import bundle
from cofire.stats import FiringStats
from cofire.trajectories import Trajectory

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far

HOSTILE = "<img src=x onerror=alert(1)>"
CHOICES = ("pearson", "spearman", "partial_spearman", "differences")


def digits():
    """Two trainings, one of them with test data."""
    train, test = cofire.data.load("digits", limit=400), cofire.data.load("digits", "test")
    runs = {}
    for seed in (0, 1):
        net = cofire.zoo.model("fcnn:64-24-16-10", seed=seed)
        seen, unseen = [], []
        for epoch in range(4):
            if epoch:
                cofire.fit(net, train, epochs=1, seed=epoch, lr=0.01, progress=False)
            seen.append(cofire.record(net, train.batches(), progress=False))
            unseen.append(cofire.record(net, test.batches(), progress=False))
        runs[f"seed {seed}"] = cofire.trajectory(seen, unseen if seed else None, [f"checkpoint-{at}" for at in range(4)])
    return {"stats": seen[-1], "trajectories": runs}


def plain() -> FiringStats:
    acts = torch.randn(90, 8, generator=torch.Generator().manual_seed(0)).relu()
    return FiringStats.from_activations({"fc1": acts}, torch.arange(90) % 3, 3)


def odd():
    """Hostile names, holes, a constant series, no series that is drawn first, accuracy that is not known."""
    values = {(HOSTILE, HOSTILE): np.array([1.0, math.nan, 3.0, 2.0]), (HOSTILE, "constant"): np.full(4, 2.0)}
    return {"stats": plain(), "trajectories": {HOSTILE: Trajectory((HOSTILE, "b", "c", "d"), values, np.full(4, math.nan))}}


MAKERS = {"digits": digits, "odd": odd, "none": lambda: {"stats": plain()}}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return reports(tmp_path_factory, lambda kind: {**MAKERS[kind](), "title": "A report"})


def places(path) -> np.ndarray:
    return np.array(re.findall(r"([\d.-]+),([\d.-]+)", path.get_attribute("d")), dtype=float)


def on_a_line(values, at, falling: bool) -> None:
    slope, start = np.polyfit(values, at, 1)
    assert np.allclose(slope * np.asarray(values) + start, at, atol=0.1)
    assert bool(slope < 0) is falling


# ---------------------------------------------------------------- the numbers


def test_the_twin_holds_every_series(made):
    _, numbers, given = made("digits")
    about = numbers["training"]
    assert [run["name"] for run in about["runs"]] == ["seed 0", "seed 1"]
    assert about["runs"][0]["test_accuracy"] is None
    for run, path in zip(about["runs"], given["trajectories"].values(), strict=True):
        assert run["accuracy"] == pytest.approx(path.accuracy, rel=1e-5)
        assert run["words"] == path.verdict()
        assert [(series["layer"], series["measure"]) for series in run["series"]] == list(path.values)
        related = path.correlations().query("against == 'accuracy'").set_index(["layer", "measure"])
        for series, values in zip(run["series"], path.values.values(), strict=True):
            assert series["values"] == [None if math.isnan(value) else pytest.approx(value, rel=1e-5) for value in values]
            for key in CHOICES:
                wanted = related.loc[(series["layer"], series["measure"]), key]
                assert series[key] == (None if math.isnan(wanted) else pytest.approx(wanted, rel=1e-5))
            assert series["baseline"] is (series["measure"] in ("checkpoint_index", "active_share", "weight_norm", "davies_bouldin",
                "scatter_ratio", "participation_ratio", "dormant_share"))  # fmt: skip
    assert {series["measure"] for series in about["runs"][0]["series"]} == about["measures"].keys()
    assert all(said["words"] for said in about["measures"].values())


def test_without_trainings_there_is_none():
    assert report.payload(plain()).meta["training"] is None


# ---------------------------------------------------------------- in a browser


def test_the_page_carries_the_section():
    script = bundle("main.js")
    assert 'modules["sections/training.js"]' in script
    assert 'modules["sections/trainingdrawing.js"]' in script


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_are_drawn_where_they_are(opened, made, scheme):
    page = opened("digits", scheme=scheme)
    runs = made("digits")[1]["training"]["runs"]
    section = page.locator("#training")
    assert section.locator(".lead").inner_text() == runs[0]["words"]
    assert section.locator("path.line").count() == 2  # no test accuracy
    section.get_by_label("Training", exact=True).select_option("1")
    settle(page)
    assert section.locator(".lead").inner_text() == runs[1]["words"]
    for layer, measure in (("all layers", "activation_entropy_total"), ("relu1", "mutual_information")):
        section.get_by_label("Layer", exact=True).select_option(layer)
        section.get_by_label("Measure", exact=True).select_option(measure)
        (series,) = [one for one in runs[1]["series"] if (one["layer"], one["measure"]) == (layer, measure)]
        drawn = {"measure": series["values"], "accuracy": runs[1]["accuracy"], "test_accuracy": runs[1]["test_accuracy"]}
        for scale in ("own", "measured"):
            section.get_by_label("Vertically", exact=True).select_option(scale)
            settle(page)
            found = {key: places(section.locator(f"svg[role=img] path.line.{key}")) for key in drawn}
            for key, values in drawn.items():
                on_a_line(range(4), found[key][:, 0], falling=False)
                on_a_line(values, found[key][:, 1], falling=True)
            if scale == "own":  # all have one smallest and one largest place
                assert len({tuple(np.round([at[:, 1].min(), at[:, 1].max()])) for at in found.values()}) == 1
            else:  # accuracies share a scale, below the measure
                both = [np.concatenate([found[key][:, 1] for key in ("accuracy", "test_accuracy")]),
                        drawn["accuracy"] + drawn["test_accuracy"]]  # fmt: skip
                on_a_line(both[1], both[0], falling=True)
                assert found["measure"][:, 1].max() < both[0].min()
        shown = section.locator(".related b").evaluate_all("all => all.map(node => node.dataset.value)")
        assert [float(value) if value else None for value in shown] == [series[key] for key in CHOICES]


@pytest.mark.browser
def test_a_checkpoint_is_told_to_pointer_and_keys(opened, made):
    page = opened("digits")
    section, run = page.locator("#training"), made("digits")[1]["training"]["runs"][0]
    picture = section.locator("svg[role=img]")
    into_view(page, picture)
    (series,) = [one for one in run["series"] if one["measure"] == "activation_entropy_total" and one["layer"] == "all layers"]
    wanted = [{"activation entropy total": str(value), "training accuracy": f"{100 * right:.2f} %"}
              for value, right in zip(series["values"], run["accuracy"], strict=True)]  # fmt: skip
    box, at = picture.bounding_box(), places(picture.locator("path.line.measure"))
    page.mouse.move(box["x"] + at[2, 0] + 3, box["y"] + 100)
    assert tip(page) == wanted[2]
    assert page.locator("#tip .head").inner_text() == run["checkpoints"][2]
    page.mouse.move(5, 5)
    assert tip(page) == {}
    picture.focus()
    for step in range(6):
        page.keyboard.press("ArrowRight")
        assert tip(page) == wanted[min(step, 3)]
    page.keyboard.press("ArrowLeft")
    assert tip(page) == wanted[2]
    page.mouse.click(5, 5)
    assert tip(page) == {}


@pytest.mark.browser
def test_odd_names_and_holes_are_shown(opened):
    page = opened("odd")
    section = page.locator("#training")
    assert page.locator("main img, main script").count() == 0
    assert section.get_by_label("Training", exact=True).count() == 0
    assert section.get_by_label("Layer", exact=True).input_value() == HOSTILE
    assert section.locator("path.line").count() == 1
    assert section.locator("path.line").get_attribute("d").count("M") == 2
    section.get_by_label("Measure", exact=True).select_option("constant")
    section.get_by_label("Vertically", exact=True).select_option("measured")
    settle(page)
    at = places(section.locator("path.line"))
    assert len(at) == 4
    assert len(set(at[:, 1])) == 1
    assert "NaN" not in section.inner_html()


@pytest.mark.browser
def test_a_report_without_trainings_says_so(opened):
    assert opened("none").locator("#training .absent").inner_text() == (
        "There is no training here: make the report with trajectories (trajectories= in Python, or cofire trajectory --report on "
        "the command line)."
    )


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["digits", "odd"])
def test_nothing_sticks_out_of_a_narrow_window(opened, kind):
    page = opened(kind, 400)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    for text in page.locator("#training svg[role=img] text").all():
        box = text.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
