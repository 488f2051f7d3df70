"""The co-firing graph of a layer: counts, weights and sets against loops, laws, degenerate layers, errors.

The file is also the program of one of four processes: ``python test_graphs.py RANK WORLD FOLDER``.
"""

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cofire
import naive_graphs as naive
from activations import KINDS, apart, column, law, layer_of, realistic, recordings
from cofire import FiringStats, coactivation, representative_units, shared_units, unique_units
from cofire.errors import CofireWarning, InputError
from test_processes import SAMPLES, network, samples, shard

PAIRS = ("representative", "cofire")


@st.composite
def quarters(draw, least=1, most=24):
    """Multiples of a quarter, of which no sum is rounded: ties, constants, negative values, dead units, empty classes, a top."""
    classes, units = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    count = draw(st.integers(least, most))
    values = st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0, 2.0, -0.25, -1.0])
    acts = draw(hnp.arrays(draw(st.sampled_from([np.float32, np.float64])), (count, units), elements=values))
    kind = draw(st.sampled_from(["any", "relu", "constant"]))
    if kind == "relu":
        acts = np.maximum(acts, 0)
    if kind == "constant":
        acts[:, 0] = acts[0, 0]
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count))
    return torch.tensor(acts), torch.tensor(labels), classes, draw(st.integers(1, units + 2))


def stats_of(acts, labels, classes=None, **options) -> FiringStats:
    return FiringStats.from_activations({"fc1": acts}, labels, classes, **options)


def graph_of(layer, *args, **options) -> cofire.Coactivation:
    """Small layers are all too small for their top."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CofireWarning)
        return coactivation(layer, *args, **options)


def counted(layer, acts, labels, restrict: str) -> list:
    """Loops, laid out as the field is."""
    chosen = naive.representative_units(acts.tolist(), labels, layer.classes, layer.choices.top, layer.threshold)
    units = naive.paired(chosen, restrict)
    width = layer.cofire.shape[1]
    tables = []
    for c, counts in enumerate(naive.cofire_counts(acts.tolist(), labels, layer.classes, units)):
        places = [*units[c], *[None] * (width - len(units[c]))]
        tables.append([[counts.get((p, q), 0) for q in places] for p in places])
    return tables


def listed(representative) -> list[list[int]]:
    return [[unit for unit in row if unit >= 0] for row in representative.tolist()]


def same_pairs(one, other) -> bool:
    """Integers equal, means as well within rounding."""
    means = torch.allclose(one.cofire_means, other.cofire_means, rtol=1e-12, atol=1e-12)
    return means and all(torch.equal(getattr(one, name), getattr(other, name)) for name in PAIRS)


class Given(torch.nn.Module):
    """A model whose only hidden layer gives its input, and whose output has three classes."""

    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Identity()

    def forward(self, x):
        return self.hidden(x)[:, :3] * 2


def record(acts, labels, size, **options) -> cofire.LayerStats:
    batches = list(zip(acts.split(size), torch.as_tensor(labels).split(size), strict=True))
    return cofire.record(Given(), batches, ["hidden"], progress=False, classes=3, threshold=0.0, **options)["hidden"]


# ---------------------------------------------------------------- closed form


def test_two_units_that_fire_together_and_one_that_does_not():
    """Class 0: units 0 and 1 above their means in the same half of the samples, unit 2 in the other half."""
    acts = torch.tensor([[4.0, 3, 0], [4, 3, 0], [0, 0, 2], [0, 0, 2]]).repeat(1, 5)[:, :12]
    graph = coactivation(layer_of(acts, [0] * 4, top=3))
    assert graph.vertices.tolist() == [0, 3, 6]  # ties by index
    graph = coactivation(layer_of(acts[:, :3], [0] * 4))
    assert graph.adjacency.tolist() == [[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]]
    assert (len(graph), graph.edges, graph.density, graph.classes) == (3, 1, 1 / 3, 1)


def test_the_weight_is_a_sum_of_shares_over_classes():
    """A pair that fires together in half of the samples of each of two classes of unlike sizes has weight 1/2 + 1/2."""
    acts = torch.tensor([[1.0, 1], [0, 0]]).repeat(5, 4)
    layer = layer_of(acts, [0, 0, *[1] * 8], top=2)
    assert coactivation(layer).adjacency.tolist() == [[0, 1], [1, 0]]


def test_both_units_must_be_above_their_own_means():
    """The printed equation 7 tests only the first unit of a pair."""
    acts = torch.tensor([[9.0, 1], [9, 2], [0, 3], [0, 0]])
    assert layer_of(acts, [0] * 4, cofiring="class").cofire.tolist() == [[[2, 1], [1, 2]]]


def test_what_a_graph_says_of_itself():
    acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 4], [0, 0, 1, 2]]).repeat(1, 3)[:, :8]
    graph = coactivation(layer_of(acts, [0, 0, 1, 1], top=2))
    assert repr(graph) == "Coactivation('fc1', 4 vertices, 2 edges, 2 classes, top 2, restrict 'class')"
    assert graph.cover.tolist() == [[True, False, False, True], [False, True, True, False]]
    assert graph.partition.tolist() == [0, 1, 1, 0]
    assert (graph.samples.tolist(), graph.live) == ([2, 2], 8)


# ---------------------------------------------------------------- laws


@law
@given(quarters(), st.sampled_from(["class", "union"]))
def test_counts_are_those_of_loops(recording, cofiring):
    """Ties, constants, negative values, dead units, classes without samples, a top above the units; float32 and float64."""
    acts, labels, classes, top = recording
    layer = layer_of(acts, labels, classes, top=top, cofiring=cofiring)
    chosen = naive.representative_units(acts.tolist(), labels, classes, top)
    assert layer.representative.shape == (classes, min(top, acts.shape[1]))
    assert listed(layer.representative) == listed(representative_units(layer)) == chosen
    assert layer.cofire.tolist() == counted(layer, acts, labels, cofiring)
    assert (layer.cofire.dtype, layer.representative.dtype, layer.cofire_means.dtype) == (
        torch.int32,
        torch.int32,
        torch.float64,
    )
    for c, mean in enumerate(naive.exact_means(acts.tolist(), labels, classes)):
        for unit, own in zip(naive.paired(chosen, cofiring)[c], layer.cofire_means[c].tolist(), strict=False):
            assert own == pytest.approx(float(mean[unit]) if mean else float("inf"), abs=1e-12)


@law
@given(quarters(least=2), st.sampled_from(["class", "union"]), st.data())
def test_parts_with_one_reference_add_to_the_whole(recording, cofiring, data):
    """Samples in any order, cut anywhere, added in any order."""
    acts, labels, classes, top = recording
    options = {"top": top, "cofiring": cofiring}
    whole = stats_of(acts, labels, classes, **options)
    order = torch.tensor(data.draw(st.permutations(range(len(acts)))))
    acts, labels = acts[order], labels[order]
    cuts = sorted(data.draw(st.lists(st.integers(1, len(acts) - 1), min_size=1, max_size=2, unique=True)))
    spans = zip([0, *cuts], [*cuts, len(acts)], strict=True)
    first, *more = (stats_of(acts[i:j], labels[i:j], classes, reference=whole, **options) for i, j in spans)
    assert same_pairs(stats_of(acts, labels, classes, **options)["fc1"], whole["fc1"])
    for part in more:
        first = part + first
    assert same_pairs(first["fc1"], whole["fc1"])
    assert torch.equal(graph_of(first["fc1"]).adjacency, graph_of(whole["fc1"]).adjacency)


@law
@given(quarters(), st.sampled_from(["class", "union"]), st.integers(1, 8))
def test_weights_are_those_of_loops(recording, restrict, fewer):
    """Either restriction, and any top up to the recorded one, from one recording."""
    acts, labels, classes, top = recording
    layer = layer_of(acts, labels, classes, top=top, cofiring="union")
    graph = graph_of(layer, top=min(fewer, top), restrict=restrict)
    vertices, weights = naive.cofiring_graph(acts.tolist(), labels, classes, min(fewer, top), restrict)
    assert graph.vertices.tolist() == vertices
    assert apart(graph.adjacency, weights) <= 1e-12
    assert graph.restrict == restrict
    if restrict == "class":
        own = graph_of(layer_of(acts, labels, classes, top=top, cofiring="class"), top=min(fewer, top))
        assert torch.equal(own.adjacency, graph.adjacency)


@law
@given(quarters())
def test_weights_are_symmetric_and_at_most_the_classes(recording):
    """A = Aᵀ, no self-loops, 0 <= A <= classes with samples; pairs of one class only can but lack weight."""
    acts, labels, classes, top = recording
    layer = layer_of(acts, labels, classes, top=top, cofiring="union")
    own, union = (graph_of(layer, restrict=restrict) for restrict in ("class", "union"))
    for graph in (own, union):
        assert torch.equal(graph.adjacency, graph.adjacency.T)
        assert not graph.adjacency.diagonal().any()
        assert graph.adjacency.dtype == torch.float64
        assert bool((graph.adjacency >= 0).all())
        assert float(graph.adjacency.max() if len(graph) else 0) <= len(set(labels.tolist())) + 1e-12
        assert 0 <= graph.density <= 1
    assert torch.equal(own.vertices, union.vertices)
    assert bool((own.adjacency <= union.adjacency + 1e-12).all())


@law
@given(quarters())
def test_a_pair_fires_no_more_often_than_each_of_the_two(recording):
    """B_c <= min(diagonal), and at most the class's samples; the rates are the diagonal over the samples."""
    acts, labels, classes, top = recording
    layer = layer_of(acts, labels, classes, top=top)
    alone = layer.cofire.diagonal(dim1=1, dim2=2)
    assert bool((layer.cofire <= torch.minimum(alone[:, :, None], alone[:, None])).all())
    assert bool((alone <= layer.class_counts[:, None]).all())
    graph = graph_of(layer, restrict="union")
    rates = alone.numpy() / layer.class_counts.clamp(min=1).numpy()[:, None]
    assert apart(graph.rates, rates) == 0
    expected = sum((np.outer(row, row) for row in rates), np.zeros((len(graph), len(graph))))
    np.fill_diagonal(expected, 0)
    assert apart(graph.independent().adjacency, expected) <= 1e-12


@law
@given(quarters())
def test_every_vertex_belongs_to_the_class_of_largest_mean_among_its_own(recording):
    acts, labels, classes, top = recording
    graph = graph_of(layer_of(acts, labels, classes, top=top))
    chosen = naive.representative_units(acts.tolist(), labels, classes, top)
    means = naive.exact_means(acts.tolist(), labels, classes)
    for place, unit in enumerate(graph.vertices.tolist()):
        held = [c for c in range(classes) if unit in chosen[c]]
        assert graph.cover[:, place].nonzero()[:, 0].tolist() == held
        assert int(graph.partition[place]) == max(held, key=lambda c: (means[c][unit], -c))


@law
@given(quarters())
def test_sets_are_those_of_set_arithmetic(recording):
    """Of a graph and of a layer alike."""
    acts, labels, classes, top = recording
    layer = layer_of(acts, labels, classes, top=top)
    sets = [set(row) for row in naive.representative_units(acts.tolist(), labels, classes, top)]
    for held in (layer, graph_of(layer)):
        assert unique_units(held).tolist() == naive.unique_units(sets)
        assert shared_units(held).tolist() == naive.shared_units(sets)


@law
@given(quarters())
def test_unique_units_fit_into_the_sets(recording):
    """A row of unique units sums to at most its set, which shared units need not; unique <= shared; both symmetric."""
    acts, labels, classes, top = recording
    graph = graph_of(layer_of(acts, labels, classes, top=top))
    unique, shared = unique_units(graph), shared_units(graph)
    assert unique.dtype == shared.dtype == torch.int64
    assert bool((unique.sum(1) <= graph.cover.sum(1)).all())
    assert torch.equal(unique.diagonal(), shared.diagonal())
    assert bool((unique <= shared).all())
    assert torch.equal(unique, unique.T)
    assert torch.equal(shared, shared.T)
    assert int(unique.triu().sum()) == int((graph.cover.sum(0) <= 2).sum())


@law
@given(recordings(), st.randoms(use_true_random=False))
def test_names_of_classes_do_not_matter(recording, random):
    """Renaming classes permutes the sets and leaves the graph."""
    acts, labels, classes = recording
    names = torch.tensor(random.sample(range(classes), classes))
    before, after = (graph_of(layer_of(acts, which, classes, top=2)) for which in (labels, names[labels]))
    assert torch.equal(before.representative, after.representative[names])
    assert torch.equal(before.vertices, after.vertices)
    assert apart(before.adjacency, after.adjacency) <= 1e-12


@law
@given(quarters(), st.sampled_from(["class", "union", "none"]))
def test_saved_equals_loaded(tmp_path_factory, recording, cofiring):
    acts, labels, classes, top = recording
    stats = stats_of(acts, labels, classes, top=top, cofiring=cofiring)
    path = tmp_path_factory.mktemp("graphs") / "a"
    stats.save(path)
    loaded = cofire.load(path)
    assert loaded == stats
    assert loaded["fc1"].choices == stats["fc1"].choices
    if cofiring != "none":
        assert torch.equal(graph_of(loaded["fc1"]).adjacency, graph_of(stats["fc1"]).adjacency)


# ---------------------------------------------------------------- reference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_real_numbers_against_loops(kind, dtype):
    acts, labels = realistic(kind, 300, 12, dtype=dtype)
    layer = layer_of(acts, labels, top=5, cofiring="union")
    assert layer.cofire.tolist() == counted(layer, acts, labels, "union")
    layer = layer_of(acts, labels, top=5, cofiring="class")
    assert layer.cofire.tolist() == counted(layer, acts, labels, "class")


@pytest.mark.parametrize("size", [1, 7, 64, 300])
def test_the_way_of_recording_does_not_matter(size):
    """Cache, two passes and a reference, in batches of any size, negative activations among them."""
    acts, labels = realistic("gelu", 300, 9, classes=3)
    one = layer_of(acts, labels, 3, top=4, cofiring="class")
    for options in (
        {"histograms": "cache"}, {"histograms": "two-pass"}, {"histograms": "auto"},
        {"histograms": "two-pass", "by_class": False, "cofiring": "class"}, {"memory": 9000, "cofiring": "class"},
        {"reference": FiringStats({"hidden": replace(one, name="hidden")}, one.class_counts), "cofiring": "class"},
    ):  # fmt: skip
        assert same_pairs(record(acts, labels, size, top=4, **options), one), options
    union = layer_of(acts, labels, 3, top=4, cofiring="union")
    assert same_pairs(record(acts, labels, size, top=4, cofiring="union"), union)


def test_many_classes_and_more_samples_than_a_block():
    acts, labels = realistic("relu", 20_000, 60, classes=100)
    labels, values = np.array(labels), acts.double().numpy()
    layer = layer_of(acts, labels, top=6, cofiring="class")
    graph = coactivation(layer)
    weights = np.zeros((60, 60))
    for c in range(100):
        rows = values[labels == c]
        chosen = np.argsort(-rows.mean(0), kind="stable")[:6]
        above = rows[:, chosen] > rows[:, chosen].mean(0)
        weights[np.ix_(chosen, chosen)] += (above[:, :, None] & above[:, None]).mean(0)
    np.fill_diagonal(weights, 0)
    assert apart(graph.adjacency, weights[np.ix_(graph.vertices, graph.vertices)]) <= 1e-12
    assert apart(unique_units(graph), naive.unique_units([set(row) for row in layer.representative.tolist()])) == 0


def test_a_graph_becomes_one_of_networkx_and_of_scipy():
    acts, labels = realistic("relu", 200, 20)
    graph = coactivation(layer_of(acts, labels, top=4))
    other = graph.to_networkx()
    assert list(other) == graph.vertices.tolist()
    assert [other.nodes[unit]["class"] for unit in other] == graph.partition.tolist()
    assert apart(nx.to_numpy_array(other), graph.adjacency) == 0
    assert (other.number_of_edges(), other.graph) == (graph.edges, {"layer": "fc1"})
    assert apart(graph.to_scipy().toarray(), graph.adjacency) == 0
    assert graph.to_scipy().nnz == 2 * graph.edges


@pytest.mark.parametrize("width", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_around_it_does_not_round_the_counts(width):
    """Counts above 256 and 2048, which bfloat16 and float16 do not hold."""
    acts, labels = realistic("relu", 12_000, 16, classes=2)
    outside = layer_of(acts, labels, top=8)
    with torch.autocast("cpu", dtype=width):
        inside = layer_of(acts, labels, top=8)
        graph = graph_of(inside, restrict="union")
        shares = [unique_units(graph), shared_units(graph), graph.independent().adjacency]
    assert int(outside.cofire.max()) > 2048
    assert same_pairs(inside, outside)
    graph = graph_of(outside, restrict="union")
    found = [unique_units(graph), shared_units(graph), graph.independent().adjacency]
    assert all(torch.equal(a, b) for a, b in zip(shares, found, strict=True))


# ---------------------------------------------------------------- degenerate


@pytest.mark.parametrize("by_class", [True, False])
def test_a_unit_that_is_constant_within_a_class_is_never_above_its_mean(by_class):
    """Not even where the sum of equal values is rounded: of 0.1 a few times, or a thousand times."""
    for count in (*range(1, 80), 1000):
        acts = column(*[0.1] * count, *[-5.0, 5.3] * count, dtype=torch.float64)
        layer = layer_of(acts, [0] * count + [1] * 2 * count, by_class=by_class)
        assert layer.cofire[:, 0, 0].tolist() == [0, count], count


def test_neighbouring_numbers_are_told_apart():
    """The mean of 1 and three times the next float32 rounds to the latter, which is above it all the same."""
    for near in (1.0, -1.0, 1e-45, 3e38):
        low = torch.tensor(near)
        high = torch.nextafter(low, torch.tensor(torch.inf))
        acts = torch.stack([low, high, high, high, high - high + 5])[:, None]
        assert int(layer_of(acts, [0, 0, 0, 0, 1]).cofire[0, 0, 0]) == 3, near


def test_counts_do_not_depend_on_the_order_of_the_sum():
    """The mean is 0.5, which is one of the values, however the float64 sum is rounded."""
    values = [0.1, 0.9, 0.1, 0.6, 0.4, 0.7, 0.2, 0.0, 0.4, 0.3, 0.5, 0.8, 0.7, 1.3]
    acts, random, found = column(*values, dtype=torch.float64), np.random.default_rng(0), set()
    for _ in range(100):
        found.add(int(layer_of(acts[random.permutation(len(acts))]).cofire))
    assert len(found) == 1


@pytest.mark.parametrize("restrict", ["class", "union"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_layer_of_dead_units_has_an_empty_graph(value, restrict):
    layer = layer_of(torch.full((6, 8), value), [0, 0, 0, 2, 2, 2], 3, top=2)
    graph = coactivation(layer, restrict=restrict)
    assert (len(graph), graph.edges, graph.density) == (0, 0, 0)
    assert graph.representative.tolist() == [[-1, -1]] * 3
    assert graph.partition.tolist() == []
    assert graph.cover.shape == (3, 0)
    assert unique_units(graph).tolist() == shared_units(graph).tolist() == [[0] * 3] * 3
    assert graph.to_networkx().number_of_nodes() == 0
    assert graph.to_scipy().shape == (0, 0)
    assert len(graph.independent()) == 0


def test_one_sample_of_each_class_has_no_edge():
    graph = graph_of(layer_of(torch.eye(3), [0, 1, 2], top=1))
    assert (graph.vertices.tolist(), graph.edges, graph.density) == ([0, 1, 2], 0, 0)


def test_a_class_without_samples_has_no_units():
    layer = layer_of(torch.tensor([[1.0, 2], [3, 1]]), [0, 2], 4, top=1)
    graph = graph_of(layer)
    assert graph.representative.tolist() == [[1], [-1], [0], [-1]]
    assert unique_units(graph).diagonal().tolist() == [1, 0, 1, 0]
    assert not graph.adjacency.isnan().any()


def test_a_part_without_a_class_gives_its_units_to_no_empty_class():
    """A part recorded with a reference holds the sets of the whole; its own mean of a class that it lacks is NaN."""
    acts = torch.rand(40, 20, generator=torch.Generator().manual_seed(0)) + torch.tensor([2.0] * 3 + [0.0] * 17)
    labels = torch.arange(40) % 2
    whole = stats_of(acts, labels, top=4)
    part = stats_of(acts[labels == 0], labels[labels == 0], 2, top=4, reference=whole)
    graph, everything = coactivation(part["fc1"]), coactivation(whole["fc1"])
    assert torch.equal(graph.representative, everything.representative)
    assert torch.equal(graph.partition[everything.partition == 0], everything.partition[everything.partition == 0])
    assert bool(graph.cover.gather(0, graph.partition[None]).all())  # and every vertex to a class that it represents


# ---------------------------------------------------------------- sums of recordings made apart


def test_a_sum_of_recordings_made_apart_says_that_its_counts_do_not_add(tmp_path):
    acts, labels = realistic("relu", 80, 8, classes=2)
    a, b = (stats_of(acts[rows], labels[rows], 2, top=2) for rows in (slice(40), slice(40, None)))
    total = a + b
    total.save(tmp_path / "sum")
    for stats in (total, b + a, total + a, a + total, cofire.load(tmp_path / "sum")):
        layer = stats["fc1"]
        assert (layer.cofire, layer.representative, layer.cofire_means, layer.choices.cofiring) == (None, None, None, "apart")
        with pytest.raises(InputError, match=r"'fc1' must hold co-firing counts; they are a sum of recordings over different"):
            coactivation(layer)
        assert listed(representative_units(layer))  # the sets need no counts
        assert int(unique_units(layer).sum()) > 0


@pytest.mark.parametrize("cofiring", ["class", "union"])
def test_a_sum_with_a_recording_without_counts_has_none(cofiring):
    acts, labels = realistic("relu", 80, 8, classes=2)
    a = stats_of(acts, labels, 2, cofiring=cofiring)
    b = stats_of(acts, labels, 2, cofiring="none", reference=a)
    for layer in ((a + b)["fc1"], (b + a)["fc1"]):
        assert (layer.cofire, layer.choices.cofiring) == (None, "none")
        assert layer.histogram is not None
        with pytest.raises(InputError, match="they were recorded without"):
            coactivation(layer)


def test_all_pairs_and_pairs_by_class_do_not_add():
    acts, labels = realistic("relu", 80, 8, classes=2)
    a, b = (stats_of(acts, labels, 2, top=3, cofiring=cofiring) for cofiring in ("class", "union"))
    assert (a + b)["fc1"].cofire is None
    with pytest.raises(InputError, match="a reference must be recorded with the same cofiring"):
        stats_of(acts, labels, 2, top=3, cofiring="union", reference=a)


@pytest.mark.parametrize("held", ["class", "union", "none"])
def test_what_was_not_chosen_follows_the_reference(held):
    """cofiring="auto" asks for nothing that the reference does not hold."""
    acts, labels = realistic("relu", 80, 9, classes=3)
    whole = FiringStats.from_activations({"hidden": acts}, labels, 3, top=4, cofiring=held)
    whole = FiringStats({"hidden": replace(whole["hidden"], threshold=0.0)}, whole.class_counts)
    assert FiringStats.from_activations({"hidden": acts}, labels, 3, top=4, reference=whole)["hidden"].choices.cofiring == held
    assert record(acts, labels, 20, top=4, reference=whole).choices.cofiring == held


# ---------------------------------------------------------------- four processes


def in_group(rank: int, world: int, folder: Path) -> None:
    import torch.distributed as dist

    warnings.simplefilter("ignore")
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=30))
    for name, (options, last) in GROUPS.items():
        reference = {"reference": cofire.load(folder / "one")} if name == "reference" else {}
        batches = shard(rank, world, last=last)
        cofire.record(network(), batches, progress=False, **options, **reference).save(folder / f"{name}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


GROUPS = {
    "class": ({"top": 5, "cofiring": "class"}, None),
    "union": ({"top": 5, "cofiring": "union"}, None),
    "two passes": ({"top": 5, "cofiring": "union", "histograms": "two-pass"}, None),
    "empty ranks": ({"top": 5, "cofiring": "union"}, 1),
    "reference": ({"top": 5, "cofiring": "union"}, None),
}
"""How each process records, and the last of them that has samples."""


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    for name, cofiring in (("one", "union"), ("one by class", "class")):
        cofire.record(network(), [samples()], progress=False, top=5, cofiring=cofiring).save(folder / name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with (folder / "log").open("w") as log:
        command = [sys.executable, __file__]
        running = [
            subprocess.Popen([*command, str(rank), "4", str(folder)], env=environment, stdout=log, stderr=log)
            for rank in range(4)
        ]
        try:
            for process in running:
                process.wait(90)
        finally:
            for process in running:
                process.kill()
                process.wait()
    return folder


def test_four_processes_are_one(four):
    for name in GROUPS:
        one = cofire.load(four / ("one by class" if name == "class" else "one"))
        assert one.samples == SAMPLES
        for rank in range(4):
            place = four / f"{name}.{rank}"
            assert place.exists(), (four / "log").read_text()[-2000:]
            stats = cofire.load(place)
            for layer in one:
                assert same_pairs(stats[layer], one[layer]), (name, rank, layer)
                assert torch.equal(graph_of(stats[layer]).adjacency, graph_of(one[layer]).adjacency)


# ---------------------------------------------------------------- warnings and errors


def test_a_top_above_a_quarter_of_the_units_is_warned_of():
    acts, labels = realistic("relu", 100, 20)
    layer = layer_of(acts, labels, top=8)
    match = r"^top 8 is more than a quarter of the 20 units of layer 'fc1'.*sets overlap.*Take top=5 or less$"
    with pytest.warns(CofireWarning, match=match) as caught:
        coactivation(layer)
    assert caught[0].filename == __file__
    coactivation(layer, top=5)  # what it says to take is silent


@pytest.mark.parametrize(("units", "top"), [(1, 1), (3, 2), (5, 3), (7, 7), (4, 50)])
def test_the_top_to_take_instead_is_not_warned_of(units, top):
    layer = layer_of(torch.rand(8, units), [0, 1] * 4, top=top)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coactivation(layer)
    for warning in caught:
        advised = int(str(warning.message).split("Take top=")[1].split()[0])
        assert coactivation(layer, top=advised).representative.shape[1] == advised


def test_one_class_has_nothing_to_overlap_with():
    assert len(coactivation(layer_of(torch.rand(8, 4), top=4))) == 4  # and no warning, which would be an error here


@pytest.mark.parametrize("top", [0, -1, 6, 2.0, "3", True, [2]], ids=str)
def test_a_top_that_was_not_recorded(top):
    acts, labels = realistic("relu", 100, 20)
    match = r"^top must be a whole number from 1 to 5, the number of representative units recorded; found .*larger top="
    with pytest.raises(InputError, match=match):
        coactivation(layer_of(acts, labels, top=5), top=top)


@pytest.mark.parametrize("top", [0, -1, 2.0, "3", True], ids=str)
def test_a_top_that_is_no_number_of_units(top):
    with pytest.raises(InputError, match="top must be a whole number of at least 1; found "):
        representative_units(layer_of(torch.rand(4, 4), [0, 1] * 2), top)
    for cofiring in ("auto", "class", "union", "none"):
        with pytest.raises(InputError, match="top must be a whole number of at least 1; found "):
            layer_of(torch.rand(4, 4), [0, 1] * 2, top=top, cofiring=cofiring)


def test_restrictions_that_do_not_exist_or_were_not_recorded():
    acts, labels = realistic("relu", 100, 20)
    layer = layer_of(acts, labels, top=5, cofiring="class")
    with pytest.raises(InputError, match=r'restrict must be "class" or "union"; found \'all\''):
        coactivation(layer, restrict="all")
    with pytest.raises(InputError, match=r'restrict="union" needs the counts of all pairs.*Record with cofiring="union"\.$'):
        coactivation(layer, restrict="union")
    for cofiring in ("apart", "all", None):
        with pytest.raises(InputError, match=r'cofiring must be "auto", "class", "union" or "none"; found '):
            layer_of(acts, labels, cofiring=cofiring)
        with pytest.raises(InputError, match=r'cofiring must be "auto", "class", "union" or "none"; found '):
            record(acts, [0] * 100, 10, cofiring=cofiring)


@pytest.mark.parametrize("options", [{"cofiring": "none"}, {"histograms": "sketch"}], ids=str)
def test_a_recording_without_counts_says_how_to_get_them(options):
    acts, labels = realistic("relu", 100, 9, classes=3)
    held = {"cofiring": "none", **options}
    for layer in (layer_of(acts, labels, **options), record(acts, labels, 10, **options)):
        assert layer.choices.cofiring == held["cofiring"]
        with pytest.raises(InputError, match=r'^layer .* must hold co-firing counts; they were recorded without.*"two-pass"'):
            coactivation(layer)
    assert record(acts, labels, 10, memory=500).cofire is None  # over the budget
    with pytest.raises(InputError, match="or over the budget"):
        coactivation(record(acts, labels, 10, memory=500))


def test_all_pairs_are_counted_while_they_are_few():
    few, many = layer_of(torch.rand(20, 40), [0, 1] * 10), layer_of(torch.rand(20, 3000), range(20))
    assert (few.choices.cofiring, many.choices.cofiring) == ("union", "class")


if __name__ == "__main__":
    in_group(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
