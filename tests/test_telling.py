"""Telling nets that memorise from nets that learn: areas, ranks and verdicts, on rows that are made up."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from cofire.baselines import BASELINES
from cofire.detection import auroc
from cofire.measures import MEASURES
from cofire.rankings import granulated_kendall
from cofire.recipes.telling import FAMILIES, STOPS, areas, compared, findings, tables

NUMBERS = (
    "mutual_information_excess", "mutual_information_excess_total", "davies_bouldin", "participation_ratio", "scatter_ratio",
    "activation_entropy", "activation_entropy_total", "softmax_entropy", "epochs", "mean_loss", "mean_accuracy",
)  # fmt: skip


def row(noise, value, **more) -> dict:
    return {"noise": noise, "values": {} if value is None else {"m": value}, **more}


def nets(value, right=lambda net: 0.5) -> list[dict]:
    """A whole grid, with value(name, net) for every number and right(net) for the test accuracy."""
    rows = []
    for family, data, noise, width, dropout, rate, stop in itertools.product(
        FAMILIES, ("mnist", "cifar10"), (0.0, 0.2, 1.0), (1, 2), (0.0, 0.5), (0.1, 0.2), STOPS
    ):
        net = {"family": family, "data": data, "noise": noise, "width": width, "dropout": dropout, "rate": rate, "stop": stop}
        values = {name: float(value(name, net)) for name in NUMBERS}
        rows.append({**net, "seed": 0, "test_accuracy": right(net), "values": values})
    return rows


@pytest.fixture(scope="module")
def chance():
    """Nets whose numbers are drawn by lot, and what is told of them."""
    rows = nets(lambda name, net: lots(name, str(net)), lambda net: lots("right", str(net)))
    return rows, compared(rows)


def lots(*things) -> float:
    return random.Random(repr(things)).random()


def verdicts(rows) -> dict[str, str]:
    return {finding.claim: finding.verdict for finding in findings(compared(rows), rows)}


# ---------------------------------------------------------------- closed forms


def test_an_area_among_all_and_within_groups():
    rows = [row(0, 10, data="a"), row(0.2, 1, data="a"), row(0, 3, data="b"), row(1, 2, data="b")]
    assert areas(rows, "m")[0] == 1.0
    rows[3] = row(1, 20, data="b")
    assert areas(rows, "m")[0] == 0.5  # 10 and 3 above 1, neither above 20
    assert areas(rows, "m", ["data"])[0] == 0.5
    rows[0] = row(0, 30, data="a")
    assert areas(rows, "m")[0] == 0.75
    assert areas(rows, "m", ["data"])[0] == 0.5


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, 1), row(0, 2)],
        [row(1, 1), row(0.2, 2)],
        [],
        [*[row(0, 1), row(1, 2)] * 8, row(0, None), row(1, None)],  # a ninth of them is not known
    ],
)
def test_an_area_that_is_not_known(rows):
    assert all(math.isnan(value) for value in areas(rows, "m"))


def test_an_area_counts_the_nets_that_have_the_number():
    rows = [*[row(0, 2), row(1, 1)] * 10, row(1, None)]
    assert areas(rows, "m") == (1.0, 1.0, 1.0)


# ---------------------------------------------------------------- laws and references

ROWS = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 1.0]), st.integers(-5, 5), st.sampled_from("ab")), min_size=1, max_size=30)


@budget(deadline=None)
@given(ROWS)
def test_areas_are_those_of_the_detection_room(drawn):
    rows = [row(noise, value, data=data) for noise, value, data in drawn]

    def reference(mine: list[dict]) -> float:
        scores = torch.tensor([row["values"]["m"] for row in mine])
        return auroc(scores, torch.tensor([row["noise"] == 0 for row in mine]))

    assert areas(rows, "m")[0] == pytest.approx(reference(rows), nan_ok=True)
    groups = [group for name in "ab" if (group := [row for row in rows if row["data"] == name])]
    each = [area for group in groups if not math.isnan(area := reference(group))]
    value, low, high = areas(rows, "m", ["data"])
    assert value == pytest.approx(sum(each) / len(each) if each else math.nan, nan_ok=True)
    assert math.isnan(value) or 0 <= low <= high <= 1


def test_an_interval_covers_what_it_should():
    """Of normal scores a distance of 1 apart, whose area is known, 95 % intervals of 30 nets miss about one in twenty."""
    true = float(torch.special.ndtr(torch.tensor(2**-0.5)))
    covered = 0
    for seed in range(100):
        scores = torch.randn(30, generator=torch.Generator().manual_seed(seed))
        rows = [row(float(at < 15), float(score) + (at >= 15)) for at, score in enumerate(scores)]
        _, low, high = areas(rows, "m")
        covered += low <= true <= high
    assert 85 <= covered <= 100


def test_ranks_are_within_a_family_and_a_task():
    """The family, the data and the share of random labels say all of test accuracy, and half of a number: no rank follows."""

    def right(net):
        return 0.1 * (net["family"] == "conv") + 0.2 * (net["data"] == "mnist") - 0.1 * net["noise"] + 0.01 * net["width"]

    def value(name, net):
        return {"epochs": 10 * right(net) - net["width"], "mean_loss": net["width"]}.get(name, lots(name, str(net)))

    told = compared(nets(value, right))["both families"]
    assert told["epochs"].tau > 0.5
    assert told["epochs"].granulated[0] == -1.0
    assert told["mean_loss"].granulated == (1.0, 1.0, 1.0)


def test_granulated_taus_are_means_over_tasks_without_random_labels_alone(chance):
    rows, told = chance
    mine = [row for row in rows if row["stop"] == "loss 0.1"]
    means = []
    for family, data, noise in itertools.product(FAMILIES, ("mnist", "cifar10"), (0.0, 0.2)):
        task = [row for row in mine if (row["family"], row["data"], row["noise"]) == (family, data, noise)]
        grid = [{key: row[key] for key in ("width", "dropout", "rate")} for row in task]
        values = [row["values"]["epochs"] for row in task]
        means.append(granulated_kendall(values, [row["test_accuracy"] for row in task], grid).mean)
    assert told["both families"]["epochs"].granulated[0] == pytest.approx(sum(means) / len(means))


# ---------------------------------------------------------------- verdicts follow from the rows

EXCESS = "The excess of mutual information and its sum over units tell nets with true labels from those with random ones"
RIVALS = "So do the Davies-Bouldin index, the participation ratio (an effective rank) and the ratio of scatters (like NC1)"
TWINS, ALIKE = "where nothing but the labels differs", "among nets with other settings on the same pictures"
WHOLE = "with one threshold for all data"
ENTROPY = "Activation entropy is no score of quality, neither its mean over live units nor its sum."


def test_claims_hold_where_the_rows_say_so():
    def value(name, net):
        if name.startswith("mutual"):
            return (net["noise"] == 0) + 0.1 * net["width"]
        if name in ("davies_bouldin", "participation_ratio", "scatter_ratio"):
            return -(net["noise"] == 0) + 10 * (net["data"] == "mnist")  # another threshold for each data set
        if name == "softmax_entropy":
            return (net["noise"] == 0) - 0.1 * net["width"]
        return lots(name, str(net))

    said = verdicts(nets(value, lambda net: 0.01 * net["width"]))
    assert said[f"{EXCESS}, {ALIKE}."] == "holds"
    assert said[f"{EXCESS}, {WHOLE}."] == "holds"
    assert said[f"{RIVALS}, {ALIKE}."] == "holds"
    assert said[f"{RIVALS}, {WHOLE}."] == "does not hold"
    assert said["The excess and its sum rank nets of one task by their test accuracy."] == "holds"
    assert said["Softmax entropy reverses: what means true labels between tasks means worse within one."] == "holds"
    assert said["(Does any number tell without a net to compare with?)"] == "yes"


def test_a_number_that_follows_the_settings_tells_twins_only():
    def value(name, net):
        return (net["noise"] == 0) + 100 * net["width"] + 10 * net["dropout"] + 30 * net["rate"]

    said = verdicts(nets(value))
    assert [said[f"{EXCESS}, {words}."] for words in (TWINS, ALIKE, WHOLE)] == ["holds", "does not hold", "does not hold"]
    assert said["(Does any number tell without a net to compare with?)"] == "no"


def test_claims_do_not_hold_on_chance(chance):
    rows, told = chance
    said = {finding.claim: finding.verdict for finding in findings(told, rows)}
    assert said[f"{EXCESS}, {ALIKE}."] == "does not hold"
    assert said["(Does any number tell without a net to compare with?)"] == "no"
    assert said[ENTROPY] == "holds"
    sharper = [row | {"values": row["values"] | {"activation_entropy": float(row["noise"] == 0)}} for row in rows]
    assert verdicts(sharper)[ENTROPY] == "depends"  # the mean tells, the sum does not


def test_a_claim_that_holds_in_one_family_depends():
    def value(name, net):
        return float(net["noise"] == 0) if net["family"] == "conv" else lots(name, str(net))

    assert verdicts(nets(value))[f"{EXCESS}, {ALIKE}."] == "depends"


def test_the_gap_in_training_accuracy_is_said():
    def value(name, net):
        return 0.97 - 0.02 * (net["noise"] > 0 and net["stop"] == "loss 0.1") if name == "mean_accuracy" else 1.0

    rows = nets(value)
    found = next(finding for finding in findings(compared(rows), rows) if finding.claim.startswith("(Are nets compared"))
    assert found.verdict == "within 2.0 points"
    assert "97.0 and 95.0 % at loss 0.1" in found.why


def test_where_nets_with_true_labels_do_not_learn():
    def value(name, net):
        return float(net["noise"] == 0) if net["data"] == "mnist" else 1.0

    rows = nets(value, lambda net: {"mnist": 0.9, "cifar10": 0.3}[net["data"]] * (net["noise"] == 0))
    found = next(finding for finding in findings(compared(rows), rows) if finding.claim == "(Do nets with true labels learn?)")
    assert found.verdict == "AUROC of the excess by data set 0.50 to 1.00"
    assert "mnist, fully connected nets 0.90 (0.90 to 0.90): mutual_information_excess 1.00," in found.why
    assert "cifar10, convolutional nets 0.30 (0.30 to 0.30): mutual_information_excess 0.50," in found.why


def test_tables_have_a_line_for_every_number_and_stop(chance):
    rows, told = chance
    stopped, *each, by_data = tables(told, rows, 100)
    assert len(stopped.rows) == len(FAMILIES) * len(STOPS) * 3
    assert [line[3] for line in stopped.rows] == [16] * len(stopped.rows)
    assert [table.title for table in each] == [f"Every number: {scope}" for scope in (*FAMILIES.values(), "both families")]
    for table in each:
        assert {line[0].removesuffix(" (control)") for line in table.rows} == set(NUMBERS)
        assert all(len(line) == len(table.columns) for line in table.rows)
    assert by_data.columns[1:] == [f"{data}, {title}" for title in FAMILIES.values() for data in ("mnist", "cifar10")]
    line = next(line for line in by_data.rows if line[0] == "epochs")
    mine = [row for row in rows if (row["family"], row["data"], row["stop"]) == ("conv", "cifar10", "loss 0.1")]
    area, _, _ = areas(mine, "epochs")
    assert line[-1] in (round(area, 2), round(1 - area, 2))


# ---------------------------------------------------------------- words rest on the run

DOCS = Path(__file__).parents[1] / "docs"
NETS = ("data", "family", "noise", "width", "dropout", "rate", "seed")


@pytest.fixture(scope="module")
def run():
    """What the run in the documentation said, the numbers that it kept, and what is told of them."""
    whole = json.loads((DOCS / "reproduced" / "memorise.json").read_text("utf8"))
    names = whole["numbers"]["columns"]
    numbers = names[names.index("test_accuracy") + 1 :]
    rows = [dict(zip(names, line, strict=True)) for line in whole["numbers"]["rows"]]
    rows = [{**row, "values": {name: row[name] for name in numbers if row[name] is not None}} for row in rows]
    return whole, rows, compared(rows)


def test_the_run_has_every_number_on_enough_nets(run):
    _, rows, told = run
    assert len({tuple(row[key] for key in NETS) for row in rows}) >= 60
    assert {row["data"] for row in rows} == {"mnist", "fashion-mnist", "cifar10"}
    assert {row["family"] for row in rows} == set(FAMILIES)
    assert {row["noise"] for row in rows} == {0.0, 0.2, 0.4, 1.0}
    measures = {row.name for row in MEASURES} - {"firing_probability"}  # which is of a class and a unit
    assert {row.name for row in BASELINES} | measures | {"weight_noise", "epochs"} <= set(told["both families"])


def test_what_the_run_says_follows_from_its_numbers(run):
    whole, rows, told = run
    assert [vars(finding) for finding in findings(told, rows)] == whole["findings"]


def test_words_follow_from_the_run(run):
    _, _, scopes = run
    families = [scopes[title] for title in FAMILIES.values()]
    excess, entropies = NUMBERS[:2], ("activation_entropy", "activation_entropy_total")

    def tells(name: str, kind: str) -> bool:
        return all(told[name].least(getattr(told[name], kind)) >= 0.9 for told in families)

    def ranks(name: str) -> bool:
        return all(told[name].ranks > 0 for told in families)

    short, definitions = ((DOCS / page).read_text("utf8") for page in ("reproduced.md", "definitions.md"))
    assert "**in their labels only** are told apart by many numbers: the excess of mutual information and its sum, the" in short
    assert all(tells(name, "twins") for name in (*excess, "participation_ratio", "scatter_ratio", "weight_norm"))
    assert "the ratio of scatters alone tells at every stop in\n  both families" in short
    assert [name for name in scopes["both families"] if tells(name, "alike")] == ["scatter_ratio"]
    assert "on Fashion-MNIST, less well on MNIST, and worst on grey CIFAR-10" in short
    for family in FAMILIES:
        by_data = [scopes["both families"][excess[0]].tasks[family, data][0] for data in ("fashion-mnist", "mnist", "cifar10")]
        assert by_data == sorted(by_data, reverse=True)
    assert "**One threshold for all data**: no number tells." in short
    assert not any(tells(name, "whole") for name in scopes["both families"])
    assert (
        "neither the excess nor its sum nor the mean activation entropy ranks nets by their test accuracy in\n  both" in short
    )
    assert [name for name in (*excess, *entropies) if ranks(name)] == ["activation_entropy_total"]
    conv = families[list(FAMILIES).index("conv")]
    assert conv["activation_entropy_total"].granulated[0] < conv["parameters"].granulated[0]
    assert "None of them is a score of quality" in definitions
    assert not any(tells(name, "alike") for name in entropies)
    assert "between nets of other widths, dropouts and learning rates it tells less" in definitions
    assert all(told[name].least(told[name].alike) < told[name].least(told[name].twins) for told in families for name in excess)


# ---------------------------------------------------------------- degenerate


def test_nothing_is_said_where_nothing_can_be_compared():
    rows = [row for row in nets(lambda name, net: 1.0) if row["noise"] == 0]
    assert compared(rows) == {}
    assert findings({}, rows) == []


def test_a_family_without_nets_is_left_out(chance):
    rows = [row for row in chance[0] if row["family"] == "fcnn"]
    assert list(compared(rows)) == ["fully connected nets", "both families"]
    assert all("convolutional" not in finding.why for finding in findings(compared(rows), rows))
