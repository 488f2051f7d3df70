"""The benchmark of recording runs, compares the same job, and writes what its page is made of."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "record.py"
PEER = "captum"
PAGE = "# A page\n\n<!-- results: begin -->\nold\n<!-- results: end -->\n\nThe rest.\n"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the benchmarks fork, which this system cannot")


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick run of our own ways, the papers' and one peer: what it wrote, and its page."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "page.md").write_text(PAGE, "utf8")
    only = [f"digits*/{name}" for name in ("cofire-*", "papers", "papers-by-class")] + [f"digits/{PEER}"]
    done = run(
        "--quick", "--rounds", "1", "--output", str(folder / "results.json"), "--page", str(folder / "page.md"), "--only", *only
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text("utf8")), (folder / "page.md").read_text("utf8")


def table():
    """The module that makes the page."""
    spec = importlib.util.spec_from_file_location("benchmark_table", SCRIPT.with_name("_table.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert table().page(page, results) == page


def test_a_peer_that_is_not_there_is_skipped_with_a_word(quick):
    results, page = quick
    row = next(row for row in results["workloads"][0]["contenders"] if row["name"] == PEER)
    if importlib.util.find_spec(PEER):
        pytest.skip(f"{PEER} is installed here")
    assert row["skipped"].startswith("not installed")
    assert (row["ratio"], row["rounds"], row["peak_bytes"]) == (None, [], None)
    assert f"| {row['title']} | not run: not installed" in page


def test_the_committed_page_shows_the_committed_results():
    committed, page = SCRIPT.with_name("results.json"), ROOT / "docs" / "benchmarks.md"
    if not committed.is_file():
        pytest.skip("no results are committed")
    results = json.loads(committed.read_text("utf8"))
    text = page.read_text("utf8")
    assert table().page(text, results) == text
    assert results["quick"] is False


def test_a_name_that_is_none_is_refused():
    done = run("--quick", "--only", "dig1ts")
    assert done.returncode == 2
    assert "names no workload; there are mlp, vgg16, resnet18, digits, digits-conv" in done.stderr


def test_the_graph_benchmark_runs_and_compares_only_what_is_equal(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "graphs.py"), "--quick", "--output", str(tmp_path / "graphs.json")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "graphs.json").read_text("utf8"))
    assert [len(group["rows"]) >= 2 for group in result["groups"]] == [True] * 5
    assert all(row["seconds"] > 0 for group in result["groups"] for row in group["rows"])
    assert "NumPy pair loop" in done.stdout


@pytest.mark.slow
def test_the_trust_benchmark_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "trust.py"), "--quick", "--output", str(tmp_path / "trust.json")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "trust.json").read_text("utf8"))["rows"]
    found = {row["score"]: row for row in rows if row["task"] == "wrong"}
    assert found["msp"]["gain"] == [0, 0, 0]
    assert {"KNN", "ViM", "familiarity, threshold", "outputs + class", "trust head, mean"} <= found.keys()
    assert all(0 <= row["auroc"] <= 1 for row in found.values())
    assert sum(row["samples"] for row in rows if row["task"] == "agreement") == 360
    assert "| msp | " in done.stdout


def test_the_training_benchmark_runs_and_watching_changes_no_weight(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "monitor.py"), "--quick", "--output", str(tmp_path / "monitor.json")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [net] = json.loads((tmp_path / "monitor.json").read_text("utf8"))["nets"]
    assert net["seconds_of_a_plain_step"]["median"] > 0
    assert [len(net["ratios"][every]["rounds"]) for every in ("1", "10")] == [2, 2]
    assert net["scalars"] <= 20 * net["layers"] + 10
    assert "| training step, batch 128 | plain, s | every=1 | every=10 |" in done.stdout


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
    second, said = prune("--by", "random", "Taylor", "--no-tuning")
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
