"""Sentences: each says what the numbers say, and nothing is said that they do not carry."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofire.errors import InputError
from cofire.findings import Finding, findings
from cofire.stats import FiringStats

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far

LABELS = torch.arange(400) % 4


def made(layers: dict[str, torch.Tensor], labels=LABELS, right: list[int] | None = None, **kinds) -> FiringStats:
    """Statistics of these activations; `right` says how many samples of each class were classified correctly."""
    stats = FiringStats.from_activations(layers, labels, **kinds)
    if right is None:
        return stats
    correct = torch.diag(torch.tensor(right))
    wrong = stats.class_counts - torch.tensor(right)
    return replace(stats, confusion=correct + torch.diag(wrong).roll(1, 1))


def noise(units: int = 60, seed: int = 0, samples: int = 400) -> torch.Tensor:
    return torch.randn(samples, units, generator=torch.Generator().manual_seed(seed)).relu()


def selective(strength: float, units: int = 60, seed: int = 0, labels=LABELS) -> torch.Tensor:
    values = torch.randn(len(labels), units, generator=torch.Generator().manual_seed(seed))
    return (values + strength * (labels[:, None] == torch.arange(units)[None] % 4)).relu()


def said(stats: FiringStats, kind: str, test: FiringStats | None = None) -> list[str]:
    return [finding.text for finding in findings(stats, test) if finding.kind == kind]


# ---------------------------------------------------------------- what is said


def test_size_comes_first():
    first = findings(made({"a": noise(), "b": noise(5)}))[0]
    assert str(first) == "65 units in 2 layers, seen on 400 samples of 4 classes."
    assert first.numbers == {"units": 65, "layers": 2, "samples": 400, "classes": 4}


def test_dead_and_always_on_units_are_counted_and_placed():
    dead, busy = noise(10), noise(10) + 1
    dead[:, :3] = 0
    assert said(made({"a": dead, "b": busy}), "firing") == [
        "3 of 20 units never fire (15 %), all of them in 'a'.",
        "10 of 20 units fire for every sample (50 %), all of them in 'b'; whether they fire tells nothing about the class.",
    ]
    assert said(made({"a": noise(10)}), "firing") == ["Every one of the 10 units fires for some sample."]


def test_information_names_the_layer_and_the_chance_level():
    (text, *_) = said(made({"plain": noise(), "knows": selective(4.0)}), "information")
    assert text.startswith("Knowing whether a unit of 'knows' fires tells 0.2")
    assert text.endswith(
        "bits about the class on average, more than in any other layer; shuffled labels would give 0.005 bits."
    )


def test_labels_that_mean_nothing_are_called_chance():
    shuffled = findings(made({"fc1": noise()}))
    (chance,) = [finding for finding in shuffled if finding.kind == "information"]
    assert chance.level == "caution"
    assert "shuffled labels would give up to 0.005 bits, so it may be chance" in chance.text


def test_the_better_of_two_layers_is_named_with_its_lead():
    first, second = selective(0.5), selective(4.0)
    (text,) = said(made({"a": first, "b": second}), "selectivity")
    assert text.startswith("The second layer is ")
    assert " % more class-selective than the first (0." in text
    (back,) = said(made({"a": second, "b": first}), "selectivity")
    assert " % less class-selective than the first (0." in back
    (same,) = said(made({"a": first, "b": first}), "selectivity")
    assert same.startswith("Both layers are about equally class-selective (")


def test_a_trend_with_depth_needs_a_trend():
    rising = {f"l{i}": selective(0.4 * i, seed=i) for i in range(8)}
    (text,) = said(made(rising), "selectivity")
    assert text.startswith("Units become more class-selective with depth: from 0.")
    flat = {f"l{i}": selective(1.0, seed=i) for i in range(8)}
    (text,) = said(made(flat), "selectivity")
    assert text.startswith("Class selectivity has no clear trend with depth; it is highest in 'l")


def test_selectivity_is_not_compared_where_activations_are_negative():
    values = torch.randn(400, 60, generator=torch.Generator().manual_seed(0)).tanh()
    assert said(made({"a": values, "b": values}), "selectivity") == []


def test_the_class_of_the_most_selective_units_is_named():
    values = noise(300)
    values[:, :40] += 3.0 * (LABELS[:, None] == 2)
    names = ["ape", "bee", "cat", "dog"]
    (text,) = said(made({"fc1": values}, class_names=names), "selectivity")
    assert (
        text
        == "Of the 30 units of 'fc1' with the largest KL selectivity, 30 are most active for class 'cat'; an equal share would be 8."
    )
    assert said(made({"fc1": selective(3.0, 300)}), "selectivity") == []


def test_a_fall_of_softmax_entropy_by_scale_alone_is_called_that():
    values = selective(2.0)
    (text,) = said(made({"a": values, "b": 5 * values}), "softmax")
    assert text.startswith("From the first to the last layer, softmax entropy falls for all 4 classes (mean ")
    assert "With the scale of the activations removed it falls for none of them" in text
    assert text.endswith("the fall is one of scale, not of a sharper pattern.")


def test_a_sharper_pattern_survives_the_removal_of_scale():
    sharp = noise(60)
    sharp[:, 4:] *= 0.02
    (text,) = said(made({"a": noise(60), "b": noise(60, 1), "c": sharp * 20}), "softmax")
    assert "With the scale of the activations removed it still falls for all of them" in text
    assert "at every step for" in text


# ---------------------------------------------------------------- accuracy


def test_a_gap_comes_with_its_interval():
    train, test = made({"a": noise()}, right=[99, 99, 99, 99]), made({"a": noise()}, right=[80, 80, 80, 80])
    (text,) = said(train, "accuracy", test)
    assert text == (
        "The model classifies 99.0 % of these samples and 80.0 % of the test samples correctly: "
        "a gap of 19.0 points (95 % interval 15.0 to 23.0)."
    )


def test_a_gap_within_chance_is_called_that():
    train, test = made({"a": noise()}, right=[99, 99, 99, 99]), made({"a": noise()}, right=[98, 99, 99, 99])
    (text,) = said(train, "accuracy", test)
    assert text.endswith("correctly; the difference is within chance.")


def test_the_hardest_class_is_named_only_where_it_stands_out():
    assert said(made({"a": noise()}, right=[95, 96, 40, 97]), "accuracy")[1:] == [
        "Class '2' is the hardest: 40 % of its 100 samples are right, against 82 % of all."
    ]
    assert len(said(made({"a": noise()}, right=[95, 96, 92, 95]), "accuracy")) == 1


def test_a_model_that_guesses_is_told():
    last = [finding for finding in findings(made({"a": noise()}, right=[25, 25, 25, 25])) if finding.kind == "accuracy"][-1]
    assert last.text == "That is no better than always naming the most frequent class (25 %)."
    assert last.level == "caution"


def test_without_predictions_nothing_is_said_of_accuracy():
    assert said(made({"a": noise()}), "accuracy") == []


# ---------------------------------------------------------------- data and test data


def test_classes_without_samples_are_named():
    stats = made({"a": noise()}, LABELS.clamp(max=2), classes=4, class_names=["ape", "bee", "cat", "dog"])
    (text,) = [finding.text for finding in findings(stats) if finding.level == "caution" and finding.kind == "data"]
    assert text == "There is no sample of class 'dog': nothing is said of it."
    many = made({"a": noise()}, LABELS, classes=10)
    assert "There is no sample of classes '4', '5', '6' and 3 more: nothing is said of them." in said(many, "data")


def test_uneven_classes_are_told():
    labels = torch.cat([torch.zeros(390, dtype=torch.int64), torch.ones(10, dtype=torch.int64)])
    assert said(made({"a": noise()}, labels), "data")[1] == (
        "Classes are uneven: 390 samples of '0', 10 of '1'. Measures over all samples lean towards the large classes."
    )


def test_whether_informative_units_stay_so_is_said():
    strengths = torch.linspace(0, 4, 60)[None]
    lift = strengths * (LABELS[:, None] == torch.arange(60)[None] % 4)
    train, test = ((torch.randn(400, 60, generator=torch.Generator().manual_seed(seed)) + lift).relu() for seed in (0, 1))
    (text,) = said(made({"a": train}), "carry", made({"a": test}))
    assert text.startswith("Which units are informative carries over")
    assert said(made({"a": noise()}), "carry", made({"a": noise(seed=1)})) == []


def test_statistics_of_another_model_are_refused():
    with pytest.raises(InputError, match="layer 'a' has 60 and 5 units"):
        findings(made({"a": noise()}), made({"a": noise(5)}))


# ---------------------------------------------------------------- degenerate cases and laws


def test_a_hundred_layers_are_not_listed():
    found = findings(made({f"layer{i}.with.a.long.name": selective(i / 50, 12, i) for i in range(100)}))
    assert len(found) < 12
    assert max(len(finding.text) for finding in found) < 400


def test_there_may_be_nothing_to_say():
    nothing = FiringStats({}, torch.zeros(3, dtype=torch.int64))
    assert [finding.text for finding in findings(nothing)] == ["No layer was recorded."]


@pytest.mark.parametrize(
    "layers",
    [
        {"dead": torch.zeros(400, 3)},
        {"one": torch.ones(400, 1)},
        {"a": noise(1), "b": torch.zeros(400, 2), "c": noise(1)},
    ],
    ids=["dead", "constant", "mixed"],
)
@pytest.mark.parametrize("labels", [LABELS, torch.zeros(400, dtype=torch.int64)], ids=["classes", "one class"])
def test_degenerate_layers_are_spoken_of_without_nonsense(layers, labels):
    for finding in findings(made(layers, labels)):
        assert "nan" not in finding.text.lower()
        assert finding.text.endswith(".")


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 4), st.floats(0, 4), st.integers(0, 10**6))
def test_every_finding_is_a_sentence_with_its_numbers(units, classes, strength, seed):
    labels = torch.arange(80) % classes
    values = torch.randn(80, units, generator=torch.Generator().manual_seed(seed))
    values = (values + strength * (labels[:, None] == torch.arange(units)[None] % 4)).relu()
    for finding in findings(made({"a": values, "b": 2 * values}, labels)):
        assert isinstance(finding, Finding)
        assert finding.text[0].isupper() or finding.text[0].isdigit()
        assert finding.text.endswith(".")
        assert "  " not in finding.text
        assert finding.level in ("fact", "caution")
        assert finding.numbers
