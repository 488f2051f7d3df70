"""The recipes, on few pictures: every claim gets a verdict that its numbers bear out, and the page says what was run."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import cofire
from cofire import cli
from cofire.errors import FileError, InputError
from cofire.images import spread
from cofire.recipes import RECIPES, Settings, reproduce, rewrite
from cofire.recipes.depth import _findings as depth_findings
from cofire.recipes.entropies import _dropping
from cofire.recipes.following import NETS, judged
from cofire.recipes.running import Finding, Found, Table, mean_and_range, measured, page_of, read, verdict_of, write

WRITTEN = sorted((Path(__file__).parent.parent / "docs" / "reproduced").glob("*.json"))

SMALL = {
    "000-entropy": ("mnist", "mnist-mixed"), "000-boost": ("mnist",), "001": ("mnist", "mnist-mixed"), "002": ("mnist",),
    "004": ("004-2x200",),
}  # fmt: skip


def settings(folder, **changes) -> Settings:
    root = os.environ.get("COFIRE_DATA")
    given = {"root": root, "seeds": 1, "limit": 600, "epochs": 3, "only": None, "folder": folder, "say": lambda text: None}
    return Settings(**{**given, **changes})


def after_modules(net, inputs, count):
    for module in list(net)[:count]:
        inputs = module(inputs)
    return inputs


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
    ("held", "cases", "verdict"), [(3, 3, "holds"), (0, 3, "does not hold"), (1, 3, "depends"), (0, 0, "not judged")]
)
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
    page, numbers = write("cats", "Do cats bark?", settings(tmp_path, command="cofire reproduce cats"), found, tmp_path / "new")
    text = page.read_text("utf8")
    assert "| Cats bark. | **does not hold** | In 0 of 4 cases. |" in text
    assert "| Tom | 0 |\n| Kit | - |" in text
    assert "Made by `cofire reproduce cats`" in text
    assert json.loads(numbers.read_text("utf8"))["numbers"] == [{"cat": "Tom"}]


@pytest.mark.parametrize("numbers", WRITTEN, ids=lambda path: path.stem)
def test_the_pages_of_this_project_are_those_of_their_numbers(numbers):
    """No word or number of them was typed, and none is older than what writes them."""
    page = numbers.with_suffix(".md").read_text("utf8")
    again = f"write it again: cofire reproduce {numbers.stem} --page-only -o docs/reproduced"
    assert page == page_of(RECIPES[numbers.stem].title, read(numbers)), again


def test_the_figures_of_this_project_are_those_of_its_pages():
    named = {figure["file"] for numbers in WRITTEN for figure in read(numbers).get("figures", [])}
    assert named == {file.name for file in WRITTEN[0].parent.glob("*.svg")}
    assert {numbers.stem for numbers in WRITTEN if read(numbers).get("figures")} == {
        name for name, recipe in RECIPES.items() if recipe.draws
    }


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.draws])
def test_a_figure_is_drawn_of_the_numbers(name, tmp_path):
    committed = next(numbers for numbers in WRITTEN if numbers.stem == name)
    whole = read(committed)
    (tmp_path / committed.name).write_text(json.dumps({**whole, "figures": []}))
    rewrite(name, tmp_path)
    assert read(tmp_path / committed.name)["figures"] == whole["figures"]
    for figure in whole["figures"]:
        assert f"]({figure['file']})" in (tmp_path / f"{name}.md").read_text("utf8")
        assert "</svg>" in (tmp_path / figure["file"]).read_text("utf8")


def test_every_page_of_this_project_has_numbers():
    assert [file.stem for file in sorted(WRITTEN[0].parent.glob("*.md"))] == [file.stem for file in WRITTEN] == sorted(RECIPES)


def test_a_page_is_written_again_from_its_numbers(tmp_path):
    found = Found([], [Table("Cats", ["cat", "barks"], [["Tom", 0.123456], ["Kit", float("nan")]], "Two.")], "Two cats.", [1.5])
    page, numbers = write("002", RECIPES["002"].title, settings(tmp_path, command="cofire reproduce 002"), found, tmp_path)
    wanted, kept = page.read_text("utf8"), numbers.read_bytes()
    page.write_text("something older")
    done = CliRunner().invoke(cli.app, ["reproduce", "002", "--page-only", "-o", str(tmp_path)])
    assert (done.exit_code, done.output) == (0, f"page written to {page}\n")
    assert page.read_text("utf8") == wanted
    assert numbers.read_bytes() == kept


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.adds])
def test_verdicts_of_parts_that_were_joined_are_made_anew(name, tmp_path):
    """From the numbers of this project alone come its verdicts and tables; without a net, others."""
    committed = WRITTEN[0].parent / f"{name}.json"
    whole = read(committed)
    (tmp_path / committed.name).write_text(json.dumps({**whole, "findings": [], "tables": [], "scale": ""}))
    assert rewrite(name, tmp_path).read_text("utf8") == committed.with_suffix(".md").read_text("utf8")
    fewer = [row for row in whole["numbers"] if row["net"] == "mnist"]
    (tmp_path / committed.name).write_text(json.dumps({**whole, "numbers": fewer}))
    rewrite(name, tmp_path)
    assert read(tmp_path / committed.name)["findings"] != whole["findings"]


def test_numbers_come_back_as_they_were(tmp_path):
    assert measured(tmp_path / "none.json") == []
    found = Found([], [], "", [{"net": "mnist", "values": [1.5, float("nan")], "words": {"a": "b"}}])
    _, numbers = write("cats", "Cats", settings(tmp_path), found, tmp_path)
    (row,) = measured(numbers)
    assert (row["net"], row["values"][0], row["words"]) == ("mnist", 1.5, {"a": "b"})
    assert np.isnan(row["values"][1])


@pytest.mark.parametrize(
    ("net", "checkpoints", "best", "small"),
    [("mnist", 10, 0.2, False), ("mnist", 9, 0.9, True), ("mnist", 10, 0.19, True), ("mnist-mixed", 10, 0.12, False)],
)
def test_a_training_that_is_too_small_is_not_judged(net, checkpoints, best, small):
    row = {"net": net, "made": {"checkpoints": checkpoints, "most_frequent": 0.1, "best": best}}
    assert judged([row]) == (([], f" Too small to judge: {net}.") if small else ([row], ""))


def test_the_parts_are_the_nets():
    assert RECIPES["000-entropy"].parts == tuple(NETS)
    assert RECIPES["001"].parts == tuple(name for name, net in NETS.items() if net.dense)


def test_dropout_goes_on_in_eval_mode():
    net = cofire.zoo.model("zoo:001-mnist", seed=0)
    images = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    dropping = _dropping(net).eval()
    assert torch.equal(after_modules(dropping, images, 3), after_modules(net, images, 3))
    before, after = after_modules(net, images, 3), after_modules(dropping, images, 4)
    kept = after != 0
    assert torch.allclose(after[kept], before[kept] / 0.8)
    assert 0.75 < kept.sum() / (before != 0).sum() < 0.85
    assert torch.equal(after_modules(net, images, 4), before)


def training(net, seed, **pearson):
    """A row of recipe 001: one layer, and Pearson's correlation by measure."""
    layers = [
        {"layer": "relu1", "measure": measure, "pearson": value, "spearman": 0.5, "partial_spearman": math.nan,
         "differences": value / 2, "before": 0.1, "last": 0.2 + seed}
        for measure, value in pearson.items()
    ]  # fmt: skip
    how = {"shape": "1x28x28", "pictures": 100, "tests": 100, "command": "cofire", "date": "2026-01-01", "device": "cpu",
           "torch": "2", "checkpoints": 20, "most_frequent": 0.1, "best": 0.9}  # fmt: skip
    return {"net": net, "seed": seed, "made": how, "layers": layers}


def test_recipe_001_averages_over_seeds_and_counts_signs(tmp_path):
    forms = {"modularity_shen": 0.9, "modularity_chen": 0.4, "unique_units": 0.6}
    rows = [training("mnist", seed, modularity_bisection=value, nodes_per_community=-value, **forms)
            for seed, value in enumerate((0.8, -0.2, 0.9))]  # fmt: skip
    rows += [training("mnist-mixed", seed, modularity_bisection=-0.5, nodes_per_community=0.1, **forms) for seed in range(2)]
    found = RECIPES["001"].run(settings(tmp_path, only=("none of them",), earlier=lambda: rows))
    verdicts = {finding.claim: (finding.verdict, finding.why) for finding in found.findings}
    verdict, why = verdicts["Kernighan-Lin bisection gives consistent results."]
    assert verdict == "depends"
    assert why == (
        "All seeds give Pearson's correlation one sign in 1 of 2 layers of nets that were trained more than once; not in relu1 "
        "of mnist."
    )
    assert verdicts["Communities grow as training accuracy rises."][0] == "depends"  # in one of three
    assert verdicts["On shuffled labels they do not."] == (
        "holds", "Pearson of the mean number of nodes per community between -0.3 and 0.3 in 2 of 2 cases: 0.10 (0.10 to 0.10).",
    )  # fmt: skip
    table, other, _ = found.tables
    assert (table.title, other.title) == ("mnist", "mnist-mixed")
    lines = {line[0]: line[1:] for line in table.rows}
    assert lines["modularity_bisection"] == [
        "relu1", "0.24", "0.50 (-0.20 to 0.90)", "2 of 3", "0.50 (0.50 to 0.50)", "-", "0.25 (-0.10 to 0.45)",
        "0.10 (0.10 to 0.10)", "1.20 (0.20 to 2.20)",
    ]  # fmt: skip
    assert lines["modularity"] == ["relu1", "0.22", *["-"] * 7]  # a row of an earlier run may lack a measure


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
@pytest.mark.slow
@pytest.mark.parametrize("name", ["000-entropy", "001"])
def test_parts_run_one_by_one_come_together(name, tmp_path, data_root):
    made = {only: settings(tmp_path / "work", only=only, root=data_root, epochs=9, limit=300)
            for only in (("mnist-mixed",), ("mnist",), ("mnist", "mnist-mixed"))}  # fmt: skip
    first, last, both = made.values()
    reproduce(name, first, tmp_path / "parts")
    parts, page, _ = reproduce(name, last, tmp_path / "parts")
    whole, _, _ = reproduce(name, both, tmp_path / "whole")
    assert parts.findings == whole.findings
    assert [table.rows for table in parts.tables[:-1]] == [table.rows for table in whole.tables[:-1]]
    for only in ("mnist", "mnist-mixed"):
        command = f"`cofire reproduce {name} --seeds 1 --limit 300 --epochs 9 --only {only}`"
        assert f"| 300 | 300 | 10 | 128 | 1 | {command} |" in page.read_text("utf8")
    (tmp_path / "parts" / f"{name}.json").write_text("[]")
    with pytest.raises(FileError, match=r"^wanted what a recipe measured; '.*json' holds something else\. Remove it, or"):
        reproduce(name, last, tmp_path / "parts")


@pytest.mark.data
@pytest.mark.slow
def test_entropies_under_other_choices_are_those_of_plain_loops(tmp_path, data_root):
    made = settings(tmp_path / "work", only=("mnist",), root=data_root, epochs=2, limit=100)
    (row,) = reproduce("000-entropy", made, tmp_path)[0].numbers
    train, test = (cofire.data.load("mnist", part, root=data_root, limit=100) for part in ("train", "test"))
    test = test.subset(spread(test.labels.numpy(), 10, 0, equal=True))
    net = cofire.zoo.model("zoo:001-mnist", seed=0)

    def entropy(values, bins, low=None):
        total = 0.0
        for unit in values.T:
            live = unit[unit != 0]
            if len(np.unique(live)) > 1:
                counts, _ = np.histogram(live, bins, (live.min() if low is None else low, live.max()))
                shares = counts[counts > 0] / counts.sum()
                total -= (shares * np.log2(shares)).sum()
        return total

    series = {"10 bins": [], "100 bins": [], "as many test pictures": [], "class 3": [], "accuracy": [], "accuracy of 3": []}
    for file in sorted((tmp_path / "work" / "mnist-0").glob("epoch-*.safetensors")):
        cofire.zoo.load_weights(net, file, ignore=("optimizer.", "history.", "rng."))
        with torch.no_grad():
            acts = {part: np.concatenate([after_modules(net, images.pixels / 255, count) for count in (3, 6)], 1).astype(float)
                    for part, images in (("train", train), ("test", test))}  # fmt: skip
            right = (net(train.pixels / 255).argmax(1) == train.labels).numpy()
        third = train.labels.numpy() == 3
        for choice, bins in (("10 bins", 10), ("100 bins", 100)):
            series[choice].append(entropy(acts["train"], bins))
        series["as many test pictures"].append(entropy(acts["test"], 30))
        series["class 3"].append(entropy(acts["train"][third], 30))
        series["accuracy"].append(right.mean())
        series["accuracy of 3"].append(right[third].mean())
    for choice in ("10 bins", "100 bins", "as many test pictures"):
        wanted = np.corrcoef(series[choice], series["accuracy"])[0, 1]
        assert row["choices"][choice]["pearson"] == pytest.approx(wanted, abs=1e-3)
    assert row["choices"]["a tenth of the pictures"] != row["choices"]["a tenth, dropout on"]
    assert np.ptp(series["accuracy of 3"])
    wanted = np.corrcoef(series["class 3"], series["accuracy of 3"])[0, 1]
    assert row["classes"][3]["pearson"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("accuracies", "verdict", "said"),
    [
        (
            ({2: 0.7, 3: 0.6, 4: 0.5}, {2: 0.8, 3: 0.7, 4: 0.6}),
            "holds",
            "in 2 of 2 cases: cifar10: 0.5500 (0.5000 to 0.6000), ",
        ),
        (
            ({2: 0.7, 3: 0.6, 4: 0.5}, {2: 0.6, 3: 0.7, 4: 0.5}),
            "depends",
            "in 1 of 2 cases: cifar10: 0.5000 (0.5000 to 0.5000), ",
        ),
        (({2: 0.5, 3: 0.6, 4: 0.7}, {2: 0.6, 3: 0.6, 4: 0.5}), "does not hold", "in 0 of 2 cases: cifar10: 0.6000"),
    ],
)
def test_the_way_from_four_layers_to_two_gains_where_every_step_does(accuracies, verdict, said):
    def layer(at):  # the entropy rises from the second layer to the third
        entropy = 0.9 + (at == 2) / 20
        return {
            "layer": f"relu{at}", "entropies": [entropy], "scale_free_entropies": [entropy], "fall": (0.05, -0.05, 0.05)[at - 1],
            "without": 0.5,
        }  # fmt: skip

    rows = [
        {
            "net": "cifar10",
            "seed": seed,
            "layers": layers,
            "accuracy": accuracy,
            "found": [layer(1 + at % 3) for at in range(layers)],
        }
        for seed, of_depth in enumerate(accuracies)
        for layers, accuracy in of_depth.items()
    ]
    claims = {finding.claim: finding for finding in depth_findings(rows)}
    found = claims["Deleting layers whose entropy does not fall, from four to three to two, gains each time."]
    assert found.verdict == verdict
    assert said in found.why
    assert "The paper has 0.3935, 0.6283, 0.6626, on CIFAR-10." in found.why
    assert found.why.endswith("is in 4 of 4 of the nets with four and three.")
    assert not any("Deleting" in claim.claim for claim in depth_findings([row for row in rows if row["layers"] != 3]))


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
    behind = sum(
        areas["all, scores compared", by, "ascending", "mean"] < areas["all", "random", "random", "mean"]
        for by in ("firing_entropy", "mutual_information")
    )
    whole = next(finding for finding in found.findings if finding.claim.startswith("Over the whole net"))
    assert whole.verdict == verdict_of(behind, 2)
    assert f"in {behind} of 2 cases" in whole.why
    levels = [row["mean"] for row in found.numbers if row.get("level") == "kl_selectivity"]
    deeper = next(finding for finding in found.findings if finding.claim.startswith("Deeper layers have larger KL"))
    assert deeper.verdict == verdict_of(levels == sorted(levels), 1)
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
        told, drawn = ([row for row in rows if row["family"] == family and row["noise"] == noise] for noise in (0.0, 1.0))
        # A sum of what is there exceeds the mean; of random labels there is only chance, of either sign.
        assert all(row["mutual_information_excess_total"] > row["mutual_information_excess"] for row in told)
        assert min(row["mutual_information_excess_total"] for row in told) > max(
            row["mutual_information_excess_total"] for row in drawn
        )
    assert all(row["mean_accuracy"] >= 0.95 for row in rows if row["stop"] == "accuracy 0.95")
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
    with pytest.raises(InputError, match=r"a recipe is one of .*; found '003'"):
        rewrite("003", tmp_path)
    with pytest.raises(FileError, match=r"^wanted what a recipe measured; there is no '.*004\.json'\. Run the recipe, or name"):
        rewrite("004", tmp_path)
    (tmp_path / "004.json").write_text("{")
    with pytest.raises(FileError, match=r"^wanted what a recipe measured; '.*004\.json' holds something else\. Remove it, or"):
        rewrite("004", tmp_path)
    assert not (tmp_path / "004.md").exists()
