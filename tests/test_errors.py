"""What every front-door function says of a seed that is none."""

import inspect
from functools import cache
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest
import torch

import cofire
from cofire import report
from cofire.errors import InputError, checked_seed

# ---------------------------------------------------------------- closed forms


def test_whole_numbers_are_seeds():
    assert [checked_seed(seed) for seed in (0, 2**32 - 1, torch.arange(4).numpy()[3])] == [0, 2**32 - 1, 3]
    assert type(checked_seed(torch.arange(4).numpy()[3])) is int


# ---------------------------------------------------------------- errors


def with_a_seed(holder, prefix="") -> set[str]:
    """Everything public in a module that takes a seed, the methods of its classes too."""
    found = set()
    for name in holder.__all__:
        value = getattr(holder, name)
        if isinstance(value, ModuleType):
            found |= with_a_seed(value, f"{name}.")
        elif callable(value):
            code = inspect.getmembers(value, inspect.isfunction) if inspect.isclass(value) else [("__init__", value)]
            seeded = [place for place, function in code if "seed" in inspect.signature(function).parameters]
            found |= {f"{prefix}{name}" if place == "__init__" else f"{prefix}{name}.{place}" for place in seeded}
    return found


@cache
def parts():
    digits = cofire.data.load("digits", limit=60)
    net = cofire.zoo.model("fcnn:64-8-10", seed=0)
    batches = list(digits.batches())
    return digits, net, batches, cofire.record(net, batches, progress=False)


def read(function, seed, **options):
    _, net, batches, stats = parts()
    return function(net, batches, stats, seed=seed, progress=False, **options)


def graph():
    return cofire.coactivation(parts()[3]["relu1"], top=2)


def table():
    return pd.DataFrame([{"layer": "fc1", "pearson": 0.5}])


CALLS = {
    "ablate": lambda seed: read(cofire.ablate, seed, by="std"),
    "boost": lambda seed: read(cofire.boost, seed, validation=parts()[2]),
    "communities": lambda seed: cofire.communities(graph(), seed=seed),
    "data.Batches": lambda seed: cofire.data.Batches(parts()[0], 10, seed=seed),
    "data.Images.batches": lambda seed: parts()[0].batches(seed=seed),
    "data.Images.split": lambda seed: parts()[0].split(0.5, seed=seed),
    "data.load": lambda seed: cofire.data.load("digits", seed=seed),
    "fit": lambda seed: cofire.fit(parts()[1], parts()[0], epochs=0, seed=seed),
    "modularity_bisection": lambda seed: cofire.modularity_bisection(graph(), seed=seed),
    "rankings.compare": lambda seed: cofire.rankings.compare(
        [{("", "a"): 1.0}] * 2, [1.0, 2.0], [{"a": 1}, {"a": 2}], seed=seed
    ),
    "rankings.granulated_kendall": lambda seed: cofire.rankings.granulated_kendall(
        [1.0, 2.0], [1.0, 2.0], [{"a": 1}, {"a": 2}], seed=seed
    ),
    "runs.Runs.frame": lambda seed: cofire.runs.Runs((SimpleNamespace(correlations=table),)).frame(seed=seed),
    "runs.averaged": lambda seed: cofire.runs.averaged([table()], seed=seed),
    "trust": lambda seed: read(cofire.trust, seed, validation=parts()[2]),
    "zoo.fcnn": lambda seed: cofire.zoo.fcnn((4,), 4, 2, seed=seed),
    "zoo.model": lambda seed: cofire.zoo.model("fcnn:4-4-2", seed=seed),
    "zoo.paper": lambda seed: cofire.zoo.paper("001-mnist", seed=seed),
    "zoo.resnet18_cifar": lambda seed: cofire.zoo.resnet18_cifar(2, width=2, seed=seed),
    "zoo.vgg16_cifar": lambda seed: cofire.zoo.vgg16_cifar(2, seed=seed),
}


def test_every_front_door_function_with_a_seed_is_tried():
    assert with_a_seed(cofire) - {"errors.checked_seed"} <= set(CALLS)


@pytest.mark.parametrize("seed", ["x", None, 1.5, True, -1, 2**32], ids=repr)
@pytest.mark.parametrize("name", CALLS)
def test_a_seed_is_a_whole_number(name, seed):
    if seed is None and name.startswith("zoo."):
        CALLS[name](seed)  # weights are drawn from the global generator
        return
    with pytest.raises(InputError) as caught:
        CALLS[name](seed)
    assert str(caught.value) == f"seed must be a whole number from 0 to 4,294,967,295; found {seed!r}."


@pytest.fixture(scope="module")
def small():
    digits = list(cofire.data.load("digits", limit=200).batches(batch_size=100))
    net = cofire.zoo.model("fcnn:64-16-10", seed=0)
    return net, digits, cofire.record(net, digits, progress=False)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda net, digits, stats: cofire.record(net, 3), "batches must be iterable; found int"),
        (lambda net, digits, stats: cofire.boost(net, None, stats, validation=digits), "batches must be iterable; found NoneType"),
        (lambda net, digits, stats: cofire.boost(net, digits, stats, validation=3), "validation must be iterable; found int"),
        (lambda net, digits, stats: cofire.boost(net, digits, 3, validation=digits), "stats must be firing statistics; found int"),
        (lambda net, digits, stats: cofire.trust(net, None, stats, validation=digits), "batches must be iterable; found NoneType"),
        (lambda net, digits, stats: cofire.trust(net, digits, stats, validation=3), "validation must be iterable; found int"),
        (lambda net, digits, stats: cofire.ablate(net, None, stats), "batches must be iterable; found NoneType"),
        (lambda net, digits, stats: cofire.ablate(net, digits, net), "stats must be firing statistics; found FCNN"),
        (lambda net, digits, stats: cofire.ablate(net, digits, stats, seeds=True), "seeds must be a whole number .* found True"),
        (lambda net, digits, stats: cofire.depth(3), "stats must be firing statistics; found int"),
        (lambda net, digits, stats: report.write(net, "r.html"), "stats must be firing statistics; found FCNN"),
        (lambda net, digits, stats: report.write(stats, "r.html", test=net), "test must be firing statistics; found FCNN"),
        (lambda net, digits, stats: report.write(stats, "r.html", boost=net), "boost must hold a cofire.Boosted; found FCNN"),
        (lambda net, digits, stats: report.write(stats, "r.html", trust=3), "trust must hold a cofire.Trust; found int"),
        (lambda net, digits, stats: report.write(stats, "r.html", curves=[net]), "curves must hold a cofire.Curve; found FCNN"),
        (lambda net, digits, stats: report.write(stats, "r.html", curves=net), "curves must hold a cofire.Curve; found FCNN"),
        (lambda net, digits, stats: report.write(stats, "r.html", familiar=net), "familiar must hold a cofire.Familiarity"),
        (lambda net, digits, stats: report.write(stats, "r.html", trajectories={"a": 3}), "trajectories must hold a cofire.Traj"),
    ],
)  # fmt: skip
def test_what_is_given_in_place_of_something_else_is_named(small, call, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        call(*small)
    assert list(tmp_path.iterdir()) == []
