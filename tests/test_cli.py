"""The command line: each command run as a person would, in a folder of its own."""

import json
import subprocess
import sys
import warnings

import pandas as pd
import pytest
from typer.testing import CliRunner

import cofire
from cofire.cli import app, outputs, run
from cofire.errors import CofireWarning, InputError
from cofire.export import write_frame, write_graph
from cofire.plots import form_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments, fails=False):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=not fails)
    assert fails or result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def test_train_record_measure_report(here):
    assert "accuracy: train" in command("train", "fcnn:64-32-16-10", "--epochs", 2, "-o", "w.safetensors")
    said = command("record", "fcnn:64-32-16-10", "--weights", "w.safetensors", "-o", "train.stats")
    assert "2 layers, 48 units, 1,437 samples of 10 classes" in said
    command("record", "fcnn:64-32-16-10", "--weights", "w.safetensors", "--split", "test", "-o", "test.stats")
    stats = cofire.load("train.stats")
    assert stats.header["command"].startswith("cofire")
    assert stats.header["data"]["name"] == "digits"
    said = command("measure", "train.stats", "--csv", "units.csv")
    assert "mutual_information_excess" in said
    assert len(pd.read_csv("units.csv")) == 48
    assert command("measure", "train.stats", "--units", "--top", 3).count("relu") == 3
    assert "written to report.html" in command("report", "train.stats", "--test", "test.stats")
    assert json.loads((here / "report.json").read_text())


def test_recordings_against_a_reference_add(here):
    command("record", "fcnn:64-32-10", "-o", "train.stats")
    with pytest.warns(CofireWarning, match="have values outside the range that the reference saw"):
        command("record", "fcnn:64-32-10", "--split", "test", "-o", "test.stats", "--reference", "train.stats")
    total = cofire.load("train.stats") + cofire.load("test.stats")
    assert total.samples == 1797
    assert total["relu1"].histogram is not None


def test_layers_lists_them(here):
    assert command("layers", "fcnn:64-32-10:sigmoid").splitlines()[1].split() == ["sigmoid1", "sigmoid", "dense", "32", "32"]


def test_demo_writes_what_it_says(here):
    said = command("demo", "--epochs", 3)
    names = ["report.html", "report.json", "stats.safetensors", "test-stats.safetensors", "units.csv", "weights.safetensors"]
    assert sorted(path.name for path in (here / "cofire-demo").iterdir()) == names
    assert "The report is cofire-demo/report.html" in said
    assert "1,024 units" in said
    assert (here / "cofire-demo" / "report.html").stat().st_size < 1_500_000


def test_boost_and_trust_write_what_they_find_into_reports(here):
    command("train", "fcnn:64-32-10", "--epochs", 2, "-o", "w.safetensors")
    command("record", "fcnn:64-32-10", "--weights", "w.safetensors", "-o", "train.stats")
    model = ["fcnn:64-32-10", "--weights", "w.safetensors", "--stats", "train.stats"]
    said = command("boost", *model, "--no-controls", "-o", "b.safetensors", "--table", "gains.csv", "--report", "boost.html")
    assert said.endswith("boost written to b.safetensors\ntable written to gains.csv\nreport written to boost.html\n")
    numbers = json.loads((here / "boost.json").read_text())
    assert numbers["title"] == "Boost of fcnn:64-32-10"
    said_of = "It is fitted to 1,437 pictures of digits train; 180 of its test pictures decide how much of it is taken, and 180 others"
    assert said_of in numbers["notes"]
    assert [row["method"] for row in numbers["boost"]["rows"]] == pd.read_csv("gains.csv")["method"].tolist()
    assert all(f"- {word}\n" in said for word in numbers["boost"]["words"])
    assert numbers["trust"] is None

    said = command("trust", *model, "--doubtful", 0, "-o", "t.safetensors", "--table", "scores.csv", "--report", "trust.html")
    assert said.endswith("trust written to t.safetensors\ntable written to scores.csv\nreport written to trust.html\n")
    assert "doubtful" not in said
    numbers = json.loads((here / "trust.json").read_text())
    assert numbers["trust"]["words"] in said
    assert "It is fitted to and judged on the 360 pictures of digits test" in numbers["notes"]
    assert [row["auroc"] for row in numbers["trust"]["scores"]] == pytest.approx(pd.read_csv("scores.csv")["auroc"], rel=1e-5)
    assert len(numbers["unusual"]["rows"]) == 24
    assert numbers["boost"] is None


def test_statistics_of_other_data_and_a_report_of_another_model_are_said(here):
    command("train", "fcnn:64-8-10", "--epochs", 1, "-o", "w.safetensors")
    command("record", "fcnn:64-8-10", "--weights", "w.safetensors", "--shuffle-labels", "-o", "mixed.stats")
    with pytest.warns(
        CofireWarning, match="mixed.stats is of 'digits mixed', not of 'digits': what follows rests on statistics"
    ):
        command("boost", "fcnn:64-8-10", "--weights", "w.safetensors", "--stats", "mixed.stats", "--no-controls")
    digits = cofire.data.load("digits")
    net, other = cofire.zoo.model("fcnn:64-8-10", seed=1), cofire.zoo.model("fcnn:64-8-10", seed=2)
    stats, parts = cofire.record(net, digits.batches(), progress=False), list(digits.batches(700))
    better = cofire.boost(net, parts[:1], stats, validation=parts[1:], controls=False, progress=False)
    with pytest.raises(InputError, match="statistics must be of this model"):
        cofire.report.write(cofire.record(other, digits.batches(), progress=False), "r.html", boost=better)


def test_endings_are_those_that_are_written(here):
    for ending in outputs.TABLES:
        write_frame(pd.DataFrame({"a": [1]}), here / f"a{ending}", "a table")
    assert [form_of(f"a{ending}") for ending in outputs.PICTURES] == ["pdf", "svg", "png"]
    with pytest.raises(InputError, match=f"a graph is written as {' or '.join(outputs.GRAPHS)}; found"):
        write_graph(None, here / "a.dot")


def test_a_warning_is_said_once_in_a_command(monkeypatch, capsys):
    def again():
        warnings.warn("few samples", CofireWarning, stacklevel=2)

    def command():
        again()
        again()

    monkeypatch.setattr("cofire.cli.app", command)
    with warnings.catch_warnings():
        warnings.resetwarnings()
        run()
    assert capsys.readouterr().err == "cofire: few samples\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("measure", "none.stats"), "cofire: wanted a statistics file; found no file 'none.stats'. Make one with"),
        (("record", "fcnn:63-8-10", "-o", "a.stats"), "cofire: this is FCNN's own error, on inputs float32"),
        (
            ("train", "fcnn:63-8-10", "-o", "w.safetensors"),
            "cofire: this is FCNN's own error, on inputs float32 [256, 1, 8, 8]",
        ),
        (
            ("record", "fcnn:64-8-10", "-o", "a.stats", "--layers", "fc9"),
            "cofire: no layer named 'fc9' in FCNN; closest: 'fc1'",
        ),
        (("record", "fcnn:64-8-10", "-o", "a.stats", "--data", "mnist", "--data-root", "."), "cofire: "),
        (("record", "zoo:none", "-o", "a.stats"), "cofire: "),
        (("record", "fcnn:64-8-10", "-o", "/proc/none/a.stats"), "cofire: could not write /proc/none/a.stats"),
        (("train", "fcnn:64-8-10", "-o", "."), "cofire: wanted the name of a file to write; '.' is a folder"),
        (
            ("boost", "zoo:none", "-o", f"{__file__}/b.safetensors"),
            f"cofire: could not write {__file__}/b.safetensors; {__file__!r} is a file, where a folder is wanted",
        ),
        (("boost", "zoo:none", "--report", "x.txt"), "cofire: --report names a file that ends in .html or .htm; found 'x.txt'"),
        (
            ("trust", "zoo:none", "--table", "x.xlsx"),
            "cofire: --table names a file that ends in .csv, .json or .parquet; found 'x.xlsx'",
        ),
        (("ablate", "zoo:none", "--figure", "x.docx"), "cofire: --figure names a file that ends in .pdf, .svg or .png; found"),
        (("ablate", "zoo:none", "--out", "x.json"), "cofire: --out names a file that ends in .html or .htm; found 'x.json'"),
        (
            ("boost", "fcnn:64-8-10", "-o", "same.html", "--report", "same.html"),
            "cofire: what a command reads and writes are different files; --report and --out are both 'same.html'. Name another",
        ),
        (
            ("boost", "fcnn:64-8-10", "--table", "same.json", "--report", "same.html"),
            "cofire: what a command reads and writes are different files; the numbers of --report and --table are both",
        ),
        (
            ("trust", "fcnn:64-8-10", "-o", "w.safetensors", "--weights", "./w.safetensors"),
            "cofire: what a command reads and writes are different files; --out and --weights are both",
        ),
        (
            ("train", "fcnn:64-8-10", "-o", "w.safetensors", "--device", "gpu"),
            "cofire: device must be one that PyTorch has here",
        ),
        (("reproduce", "001", "-o", __file__), f"cofire: could not write {__file__}; {__file__!r} is a file"),
    ],
)
def test_errors_are_one_sentence_on_stderr_and_exit_code_2(here, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["cofire", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(message)
    assert not list(here.iterdir())


def test_version_and_help_with_an_example_for_each():
    assert command("--version") == f"cofire {cofire.__version__}\n"
    names = [info.name or info.callback.__name__ for info in app.registered_commands]
    assert {"demo", "record", "report", "boost", "trust"} < set(names)
    for name in names:
        assert "Example: cofire " + name in " ".join(command(name, "--help").split())


@pytest.mark.slow
def test_torchrun_gives_what_one_process_gives(here):
    arguments = ["-m", "cofire", "record", "fcnn:64-32-10", "--batch-size", "100"]
    command("record", "fcnn:64-32-10", "-o", "one.stats")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    result = subprocess.run([*torchrun, *arguments, "-o", "two.stats"], capture_output=True, text=True, cwd=here, timeout=300)
    assert result.returncode == 0, result.stderr
    one, two = cofire.load("one.stats"), cofire.load("two.stats")
    assert two.samples == one.samples == 1437
    assert (two["relu1"].fire - one["relu1"].fire).abs().max() <= 1  # the model's own rounding differs between batch sizes
    assert two["relu1"].histogram.sum() == one["relu1"].histogram.sum()
