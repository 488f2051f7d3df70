"""The recipes, on few pictures: every claim gets a verdict that its numbers bear out, and the page says what was run."""

import json
import os
import subprocess
import sys

import pytest

from cofire.errors import InputError
from cofire.recipes import Settings, reproduce
from cofire.recipes.running import Finding, Found, Table, mean_and_range, verdict_of, write

SMALL = {
    "000-entropy": ("mnist", "mnist-mixed"), "000-boost": ("mnist",), "001": ("mnist", "mnist-mixed"), "002": ("mnist",),
    "004": ("004-2x200",),
}  # fmt: skip


def settings(folder, **changes) -> Settings:
    root = os.environ.get("COFIRE_DATA")
    given = {"root": root, "seeds": 1, "limit": 600, "epochs": 3, "only": None, "folder": folder, "say": lambda text: None}
    return Settings(**{**given, **changes})


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("held", "cases", "verdict"), [(3, 3, "holds"), (0, 3, "does not hold"), (1, 3, "depends")])
def test_verdicts(held, cases, verdict):
    assert verdict_of(held, cases) == verdict


def test_ranges_leave_out_what_is_not_known():
    assert mean_and_range([1.0, float("nan"), 3.0]) == "2.00 (1.00 to 3.00)"
    assert mean_and_range([float("nan")]) == "-"


def test_a_page_and_its_numbers(tmp_path):
    found = Found(
        [Finding("Cats bark.", "does not hold", "In 0 of 4 cases.")], [Table("Cats", ["cat", "barks"], [["Tom", 0.0], ["Kit", float("nan")]])],
        "Four cats.", [{"cat": "Tom"}],
    )  # fmt: skip
    page, numbers = write("cats", "Do cats bark?", "cofire reproduce cats", settings(tmp_path), found, tmp_path / "new")
    text = page.read_text("utf8")
    assert "| Cats bark. | **does not hold** | In 0 of 4 cases. |" in text
    assert "| Tom | 0 |\n| Kit | - |" in text
    assert "Made by `cofire reproduce cats`" in text
    assert json.loads(numbers.read_text("utf8"))["numbers"] == [{"cat": "Tom"}]


# ---------------------------------------------------------------- the recipes, small


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_recipe_runs_and_goes_on_where_it_was(name, tmp_path, data_root):
    epochs = 1 if name == "000-boost" else 3
    made = settings(tmp_path / "work", only=SMALL[name], root=data_root, epochs=epochs)
    found, page, numbers = reproduce(name, made, tmp_path)
    whole = json.loads(numbers.read_text("utf8"))
    assert whole["command"].startswith(f"cofire reproduce {name} --seeds 1 --limit 600 --epochs {epochs} --only")
    assert str(tmp_path) not in page.read_text("utf8") + numbers.read_text("utf8")
    assert [finding["claim"] for finding in whole["findings"]] == [finding.claim for finding in found.findings]
    assert len(found.findings) >= 2
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert all(table.rows for table in found.tables)
    kept = sorted((tmp_path / "work").rglob("epoch-*.safetensors"))
    times = [file.stat().st_mtime_ns for file in kept]
    assert kept
    _, _, again = reproduce(name, made, tmp_path / "again")
    assert [file.stat().st_mtime_ns for file in kept] == times
    assert json.loads(again.read_text("utf8")) == whole


@pytest.mark.data
def test_verdicts_of_004_follow_from_its_rows(tmp_path, data_root):
    made = settings(tmp_path / "work", only=("004-2x200",), root=data_root, epochs=1)
    found, _, _ = reproduce("004", made, tmp_path)
    areas = {(row["layer"], row["by"], row["order"], row["fill"]): row["area"] for row in found.numbers if "area" in row}
    last = [row["layer"] for row in found.numbers if "level" in row][-1]
    ahead = sum(
        areas[last, by, "descending", fill] > areas[last, by, "ascending", fill]
        for by in ("mutual_information", "kl_selectivity")
        for fill in ("mean", "zero")
    )
    claim = next(finding for finding in found.findings if finding.claim.startswith("Counter-intuitively"))
    assert claim.verdict == verdict_of(ahead, 4)
    assert len(found.curves) == 3 * 2 * 7  # two layers and all; two fills; three measures in both directions, and random


@pytest.mark.data
@pytest.mark.slow
def test_nets_that_memorise_are_told_from_those_that_learn(tmp_path, data_root, monkeypatch):
    for name, values in (("_WIDTHS", (128,)), ("_DROPOUTS", (0.0,)), ("_NOISE", (0.0, 1.0))):
        monkeypatch.setattr(f"cofire.recipes.memorising.{name}", values)
    made = settings(tmp_path / "work", only=("mnist",), root=data_root, limit=200, epochs=120)
    found, page, numbers = reproduce("memorise", made, tmp_path)
    rows = [dict(zip(found.numbers["columns"], row, strict=True)) for row in found.numbers["rows"]]
    for family in ("fcnn", "conv"):
        mine = [row for row in rows if row["family"] == family and row["stop"] == "loss 0.1"]
        assert [row["noise"] for row in mine] == [0.0, 0.0, 1.0, 1.0]  # two learning rates each
        assert all(0.05 < row["mean_loss"] <= 0.1 for row in mine)
        clean, random = ([row["scatter_ratio"] for row in mine if row["noise"] == noise] for noise in (0.0, 1.0))
        assert max(clean) < min(random)
        assert min(row["test_accuracy"] for row in mine if row["noise"] == 0) > 0.6
    assert all(row["mean_accuracy"] >= 0.95 for row in rows if row["stop"] == "accuracy 0.95")
    assert all(row["mutual_information_excess_total"] > row["mutual_information_excess"] for row in rows)
    assert "| scatter_ratio | lower |" in page.read_text("utf8")
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    kept = sorted((tmp_path / "work").rglob("*.json"))
    assert len(kept) == 8
    times = [file.stat().st_mtime_ns for file in kept]
    kept[0].unlink()
    _, _, again = reproduce("memorise", made, tmp_path / "again")
    assert json.loads(again.read_text("utf8")) == json.loads(numbers.read_text("utf8"))
    assert [file.stat().st_mtime_ns for file in kept[1:]] == times[1:]
    with pytest.raises(InputError, match=r"no net reached the first of the stops, loss 0\.5; 1 epochs were too few"):
        reproduce("memorise", settings(tmp_path, only=("mnist",), root=data_root, limit=60, epochs=1), tmp_path)


@pytest.mark.data
@pytest.mark.slow
def test_the_command_says_what_holds(tmp_path, data_root):
    words = [
        "reproduce",
        "004",
        "--only",
        "004-2x200",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--limit",
        "600",
        "-o",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "cofire", *words, "--data-root", str(data_root)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "- Bias balancing flattens the curves. " in done.stdout
    assert {"004-curves.html", "004.md", "004.json"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / "004.json").read_text("utf8"))["recipe"] == "004"


# ---------------------------------------------------------------- errors


def test_wrong_input(tmp_path):
    with pytest.raises(InputError, match="a recipe is one of 000-entropy, 000-boost, 001, 002, memorise, 004; found '003'"):
        reproduce("003", settings(tmp_path), tmp_path)
    with pytest.raises(InputError, match="the parts of 004 are 004-2x200, 004-3x200; found 'mnist'"):
        reproduce("004", settings(tmp_path, only=("mnist",)), tmp_path)
    with pytest.raises(InputError, match="there must be at least one seed; found 0"):
        reproduce("004", settings(tmp_path, seeds=0), tmp_path)
