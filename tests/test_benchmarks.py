"""Every benchmark runs and compares the same job, and documents show the numbers that are committed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCHMARKS = ROOT / "benchmarks"
PEER = "captum"
PAGE = "# A page\n\n<!-- results: begin -->\nold\n<!-- results: end -->\n\nThe rest.\n"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmarks fork, which this system cannot")


def run(name: str, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(BENCHMARKS / f"{name}.py"), *words], capture_output=True, text=True, timeout=300)


def quickly(name: str, folder: Path, *words: str) -> tuple[dict, str]:
    """A quick run of a benchmark: the numbers that it wrote, and what it printed."""
    done = run(name, "--quick", "--output", str(folder / f"{name}.json"), *words)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / f"{name}.json").read_text("utf8")), done.stdout


def loaded(name: str):
    """A benchmark's module."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick run of our own ways, the papers' and one peer: what it wrote, and its page."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "page.md").write_text(PAGE, "utf8")
    only = [f"digits*/{name}" for name in ("cofire-*", "papers", "papers-by-class")] + [f"digits/{PEER}"]
    results, _ = quickly("record", folder, "--rounds", "1", "--page", str(folder / "page.md"), "--only", *only)
    return results, (folder / "page.md").read_text("utf8")


def test_results_say_on_what_they_were_measured(quick):
    results, _ = quick
    assert results["format"] == 1
    assert results["quick"] is True
    assert results["settings"] == {"rounds": 1, "seed": 0, "threads": 1, "bins": 30}
    assert {"system", "processor", "cores", "load"} == results["machine"].keys()
    assert {"python", "cofire", "torch", "numpy"} <= {name for name, version in results["versions"].items() if version}
    assert [workload["name"] for workload in results["workloads"]] == ["digits", "digits-conv"]


def test_every_row_has_its_numbers(quick):
    results, _ = quick
    for workload in results["workloads"]:
        assert workload["samples"] > 0 < workload["batch_size"]
        assert workload["plain"]["seconds"]["min"] > 0 <= workload["plain"]["peak_bytes"]
        for row in workload["contenders"]:
            if row["name"] == PEER:
                continue
            assert row["skipped"] is None
            assert len(row["rounds"]) == 1
            assert 0 < row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
            assert row["seconds"]["median"] > 0 <= row["peak_bytes"]
            assert (row["share"], row["samples"]) == (1, workload["samples"])
            assert (row["reading"] is None) == row["name"].startswith("cofire")


def test_rows_that_do_the_same_job_agree(quick):
    results, _ = quick
    for workload in results["workloads"]:
        off = {row["name"]: row["off_bits"] for row in workload["contenders"]}
        exact = [name for name in off if name.startswith("cofire-") and name not in ("cofire-none", "cofire-sketch")]
        assert len(exact) == (3 if workload["name"] == "digits" else 2)
        assert all(off[name]["max"] < 1e-3 for name in exact)
        assert off.get("cofire-sketch", {"mean": 0})["mean"] < 1e-2
        assert off["cofire-none"] is None


def test_the_page_is_made_from_the_results(quick):
    results, page = quick
    assert page.startswith("# A page\n")
    assert page.endswith("The rest.\n")
    assert "old" not in page
    assert all(f"## {workload['title']}" in page for workload in results["workloads"])
    rows = [row for workload in results["workloads"] for row in workload["contenders"] if row["name"] != PEER]
    assert all(f"| {row['title']} | {row['does']}" in page for row in rows)
    assert loaded("_table").page(page, results) == page


def test_a_peer_that_is_not_there_is_skipped_with_a_word(quick):
    results, page = quick
    row = next(row for row in results["workloads"][0]["contenders"] if row["name"] == PEER)
    if importlib.util.find_spec(PEER):
        pytest.skip(f"{PEER} is installed here")
    assert row["skipped"].startswith("not installed")
    assert (row["ratio"], row["rounds"], row["peak_bytes"]) == (None, [], None)
    assert f"| {row['title']} | not run: not installed" in page


def test_the_committed_page_shows_the_committed_results():
    committed, page = BENCHMARKS / "results.json", ROOT / "docs" / "benchmarks.md"
    if not committed.is_file():
        pytest.skip("no results are committed")
    results = json.loads(committed.read_text("utf8"))
    text = page.read_text("utf8")
    assert loaded("_table").page(text, results) == text
    assert results["quick"] is False


def test_a_name_that_is_none_is_refused():
    done = run("record", "--quick", "--only", "dig1ts")
    assert done.returncode == 2
    assert "names no workload; there are mlp, vgg16, resnet18, digits, digits-conv" in done.stderr


# ---------------------------------------------------------------- the others

DOCUMENTS = {
    "ablation": "benchmarks", "boosting": "boost", "communities": "communities", "gate": "boost", "graphs": "benchmarks", "heads": "ablation",
    "latency": "benchmarks", "models": "results", "monitor": "benchmarks", "pruning": "ablation", "regularisation": "regularisation",
    "removing": "ablation", "trust": "trust",
}  # fmt: skip


def test_every_benchmark_has_a_document():
    scripts = {path.stem for path in BENCHMARKS.glob("[a-z]*.py")}
    assert scripts == {*DOCUMENTS, "record"}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_document_shows_the_committed_numbers(name):
    committed = BENCHMARKS / f"{name}.json"
    if not committed.is_file():
        pytest.skip("no results are committed")
    for package in {"heads": ["timm"], "latency": ["torchvision"], "pruning": ["torch_pruning"]}.get(name, []):
        pytest.importorskip(package)
    text = loaded(name).page(json.loads(committed.read_text("utf8")))
    assert text in (ROOT / "docs" / f"{DOCUMENTS[name]}.md").read_text("utf8")


def graphs_compare_only_what_is_equal(result, printed):
    assert [len(group["rows"]) >= 2 for group in result["groups"]] == [True] * 5
    assert all(row["seconds"] > 0 for group in result["groups"] for row in group["rows"])
    assert "NumPy pair loop" in printed


def trust_has_every_score(result, printed):
    found = {row["score"]: row for row in result["rows"] if row["task"] == "wrong"}
    assert found["msp"]["gain"] == [0, 0, 0]
    assert {"KNN", "ViM", "familiarity, threshold", "outputs + class", "trust head, mean"} <= found.keys()
    assert all(0 <= row["auroc"] <= 1 for row in found.values())
    assert sum(row["samples"] for row in result["rows"] if row["task"] == "agreement") == 360
    assert "| msp | " in printed


def watching_changes_no_weight(result, printed):  # the script itself compares them
    [net] = result["nets"]
    assert net["seconds_of_a_plain_step"]["median"] > 0
    assert [len(net["ratios"][every]["rounds"]) for every in ("1", "10")] == [2, 2]
    assert net["scalars"] <= 20 * net["layers"] + 10
    assert "| training step, batch 128 | plain, s | every=1 | every=10 |" in printed


def ablation_is_that_of_masks(result, printed):
    assert [row["layers"] for row in result["rows"]][-1] == "all layers"
    assert all(row["most_samples_unequal"] <= 2 < row["points"] for row in result["rows"])
    assert "| all layers | zero | 97 | " in printed


def every_term_moves_its_measure(result, printed):
    rows = {(row["term"], row["strength"], row["seed"]): row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == (1 + 3 * 4) * 2
    for term in ("entropy", "modularity", "class selectivity"):
        for seed in range(2):
            assert rows[term, -1.0, seed]["value"] > rows[term, 1.0, seed]["value"]
    assert all(0.5 < row["train"] <= 1 for key, row in rows.items() if key[0] == "none")
    assert "Of 12 intervals" in printed
    value = sum(rows["entropy", 1.0, seed]["value"] for seed in range(2)) / 2
    gain = 100 * sum(rows["entropy", 1.0, seed]["test"] - rows["none", 0.0, seed]["test"] for seed in range(2)) / 2
    [line] = [line for line in printed.splitlines() if line.startswith("| digits | entropy | +1 | ")]
    assert f"| {value:.2f} | " in line
    assert f"{gain:+.2f} [" in line


def training_sharpens_the_graph_of_true_labels(result, printed):
    true, shuffled = result["runs"]
    assert (true["shuffled_labels"], shuffled["shuffled_labels"]) == (False, True)
    for run in (true, shuffled):
        graphs = {(row["epoch"], row["layer"], row["restrict"]): row for row in run["graphs"]}
        assert len(graphs) == len(run["graphs"]) == 2 * 2 * 2
        for (epoch, layer, _), row in graphs.items():
            assert row["edges"] <= graphs[epoch, layer, "union"]["edges"]
            assert row["modularity"]["bisection"]["value"] <= 1
    assert true["graphs"][-1]["train_accuracy"] > shuffled["graphs"][-1]["train_accuracy"] + 0.1
    assert "| digits, labels shuffled | relu2 | 2 | " in printed


def one_picture_is_timed(result, printed):
    [row] = result["rows"]
    assert row["batch"] == 1
    assert 0 < row["ratio"]["min"] <= row["ratio"]["median"] <= row["ratio"]["max"]
    assert row["seconds"] > 0 < result["units"]
    assert "| batch of 1 | " in printed


def heads_that_stay_make_up_for_those_that_go(result, printed):
    rows = {(row["by"], row["way"], row["draw"]): row["accuracy"] for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 2 * 3 + 1 + 3 * 5
    bare, fitted = (
        sum(sum(values) for (_, way, _), values in rows.items() if way == wanted) for wanted in ("bare", "compensated")
    )
    assert fitted > bare
    assert '| random | compensation, across="loss" | ' in printed


def a_boost_stands_beside_its_controls(result, printed):
    row = result["cells"]["digits"]["rows"][0]
    controls = {"last hidden layer", "all hidden layers by gradients", "one more epoch", "random labels", "paper"}
    assert controls < row["methods"].keys()
    assert row["taken"] == "auto"
    assert row["methods"]["boosted"]["gain"] > row["methods"]["random labels"]["gain"]
    assert "| digits | all | 1 | " in printed


def nothing_is_taken_where_nothing_can_be_gained(result, printed):
    rows = result["rows"]["random nets"]
    assert [row["held"] for row in rows] == [50, 100, 200, 500, 2000]
    assert all((row["boosts"], row["temperatures"], row["largest"]) == (0, 0, 0.0) for row in rows)
    assert all(row["always"] > 0 for row in rows)
    assert "| random nets | 2,000 | 3 | 0 | 0 | 0.00000 | 0.000 | " in printed


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("ablation", ablation_is_that_of_masks),
        pytest.param("boosting", a_boost_stands_beside_its_controls, marks=pytest.mark.slow),
        pytest.param("communities", training_sharpens_the_graph_of_true_labels, marks=pytest.mark.slow),
        ("gate", nothing_is_taken_where_nothing_can_be_gained),
        ("graphs", graphs_compare_only_what_is_equal),
        pytest.param("heads", heads_that_stay_make_up_for_those_that_go, marks=pytest.mark.slow),
        ("latency", one_picture_is_timed),
        ("monitor", watching_changes_no_weight),
        ("regularisation", every_term_moves_its_measure),
        pytest.param("trust", trust_has_every_score, marks=pytest.mark.slow),
    ],
)
def test_a_quick_run(name, holds, tmp_path):
    for package in {"heads": ["timm"], "latency": ["torchvision"]}.get(name, []):
        pytest.importorskip(package)
    result, printed = quickly(name, tmp_path)
    part = next(iter(result.get("cells", {name: result}).values()))
    assert {"command", "date", "machine"} <= part.keys()
    holds(result, printed)


def measured(name: str, folder: Path, root: Path, *words: str) -> tuple[dict, str]:
    """A small run of a benchmark on real data: the numbers that it wrote, and what it printed."""
    done = run(name, "--data-root", str(root), "--output", str(folder / "out.json"), "--epochs", "1", "--limit", "300", *words)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "out.json").read_text("utf8")), done.stdout


@pytest.mark.data
@pytest.mark.slow
def test_a_small_run_of_the_main_job(tmp_path, data_root):
    pytest.importorskip("torchvision")
    result, printed = measured("models", tmp_path, data_root, "--pictures", "20", "--models", "resnet50")
    assert result["command"].endswith("--limit 300 --pictures 20 --models resnet50")
    assert result["mnist"]["samples"] == 300
    assert result["mnist"]["largest_difference_of_firing_probability"] < 1e-9
    assert result["mnist"]["largest_difference_of_activation_entropy_bits"] < 1e-4
    [row] = result["cifar10"]
    assert (row["model"], row["samples"], row["layers"]) == ("resnet50", 20, 49)
    assert "| resnet50 | 64 px | 20 | 49 | " in printed


@pytest.mark.data
@pytest.mark.slow
def test_a_small_run_of_removing(tmp_path, data_root):
    result, printed = measured("removing", tmp_path, data_root, "--seeds", "1")
    curves = [row for row in result["ablation"] if "area" in row]
    assert len(curves) == 4 * 2 * (3 * 2 + 3 + 1)  # layers and all of them, fills, orders
    assert len({row["accuracy"] for row in curves}) == 1
    assert all(0 <= row["area"] <= 1 for row in curves)
    assert [row["verdict"] == "first" for row in result["depth"]].count(True) == 3
    assert len(result["depth"]) == 2 + 4 + 6
    assert "| random | zero | " in printed


def test_a_part_of_the_regularisation_benchmark_does_not_replace_the_whole():
    done = run("regularisation", "--only", "digits")
    assert done.returncode == 2
    assert "name a file with --output" in done.stderr


def test_the_pruning_benchmark_runs_and_keeps_what_others_wrote(tmp_path):
    pytest.importorskip("torch_pruning")
    out = tmp_path / "pruning.json"

    def prune(*words):
        done = subprocess.run(
            [
                sys.executable, str(ROOT / "benchmarks" / "pruning.py"), "--quick", "--nets", "FCNN", "--seeds", "0",
                "--cache", str(tmp_path), "--output", str(out), *words,
            ],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text("utf8")), done.stdout

    first, _ = prune("--by", "obs", "magnitude")
    second, said = prune("--by", "random", "Taylor", "--parts", "rows")
    found = {(row["source"], row["by"], row["way"]): row for row in second["rows"]}
    assert len(found) == len(second["rows"]) == 4 + 6 + 4
    assert [row for row in second["rows"] if row["by"] in ("obs", "magnitude")] == first["rows"]
    assert second["tuned"] == first["tuned"]
    assert [row["source"] for row in first["tuned"]].count("whole") == 1
    for row in found.values():
        assert row["removed"] == sorted(row["removed"])
        assert 0 <= row["removable"] <= row["removed"][-1] < 1
        assert all(0 <= value <= 1 for value in row["accuracy"] + row["operations"])
    bare, fitted = (found["cofire", "obs", way]["accuracy"] for way in ("bare", "compensated"))
    assert sum(fitted) > sum(bare)
    assert "| Taylor (torch-pruning) | no compensation, global | " in said
    assert "**Against torch-pruning's best**" in said


def test_the_share_that_can_go_lies_on_straight_lines():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        removable = pytest.importorskip("pruning").removable
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    assert removable([0.1, 0.2, 0.4], [0.9, 0.89, 0.87], 0.9) == 0.2
    assert removable([0.1, 0.2, 0.4], [0.91, 0.9, 0.88], 0.9) == 0.3
    assert removable([0.1, 0.2], [0.8, 0.95], 0.9) == 0.01
    assert removable([0.1, 0.2], [0.9, 0.9], 0.9) == 0.2
