"""Modularity and bisection: planted graphs, laws, networkx and loops, graphs with nothing in them, errors."""

import warnings

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import naive_graphs as naive
from activations import law, layer_of, realistic
from cofire import coactivation, modularity, modularity_bisection, modularity_chen, modularity_shen
from cofire.bisection import bisect
from cofire.errors import InputError

EPS = 1e-12
OVERLAPPING = [modularity_shen, modularity_chen]


@st.composite
def graphs(draw, least=2):
    """Weights of any size and density, and a number of vertices."""
    vertices, seed = draw(st.integers(least, 14)), draw(st.integers(0, 10**6))
    density, scale = draw(st.sampled_from([0.1, 0.4, 1.0])), draw(st.sampled_from([1.0, 1e-9, 1e9]))
    weights = naive.random_graph(vertices, density, seed) * scale
    if draw(st.booleans()):
        weights = np.sign(weights)
    if not weights.any():
        weights[0, 1] = weights[1, 0] = scale
    return weights


def drawn(weights, seed: int, communities: int = 3):
    """A partition and a cover in which a vertex may be in none or all."""
    random = np.random.default_rng(seed)
    return random.integers(0, communities, len(weights)), random.random((communities, len(weights))) < 0.5


def one_hot(partition) -> np.ndarray:
    """The cover whose communities are those of a partition."""
    names = np.unique(partition)
    return np.array([[label == name for label in partition] for name in names]).reshape(len(names), len(partition))


def all_forms(graph, partition, cover) -> list[float]:
    return [
        modularity(graph, partition),
        modularity(graph, partition, weighted=False),
        modularity_shen(graph, cover),
        modularity_chen(graph, cover),
    ]


def cut(weights, side) -> float:
    return sum(weights[v][w] for v in range(len(side)) for w in range(v) if side[v] != side[w])


# ---------------------------------------------------------------- closed form


@pytest.mark.parametrize("blocks", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [2, 5])
def test_cliques_apart_from_each_other(blocks, size):
    """Q = 1 - 1/k for k equal components, whatever their weights' unit."""
    weights, partition = naive.planted([size] * blocks, inside=0.37, seed=blocks)
    for found in all_forms(weights, partition, one_hot(partition)):
        assert found == pytest.approx(1 - 1 / blocks, abs=EPS)


@pytest.mark.parametrize("outside", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("blocks", [2, 4])
def test_blocks_with_weight_between_them(blocks, outside):
    """Q = share of the weight inside - 1/k; on the 0/1 graph that is complete, inside = (s - 1) / (ks - 1)."""
    weights, partition = naive.planted([6] * blocks, 1.0, outside, seed=1)
    inside = 5 / (5 + 6 * (blocks - 1) * outside)
    complete = 5 / (6 * blocks - 1)
    expected = [inside - 1 / blocks, complete - 1 / blocks, complete - 1 / blocks, inside - 1 / blocks]
    assert all_forms(weights, partition, one_hot(partition)) == pytest.approx(expected, abs=EPS)


def test_every_vertex_alone_in_a_complete_graph():
    """Q = -1/n."""
    weights, _ = naive.planted([9])
    for found in all_forms(weights, range(9), np.eye(9, dtype=bool)):
        assert found == pytest.approx(-1 / 9, abs=EPS)


def test_a_complete_bipartite_graph_and_its_sides():
    """Q = -1/2, the least there is."""
    weights, sides = naive.planted([4, 4], inside=0.0, outside=3.0)
    for found in all_forms(weights, sides, one_hot(sides)):
        assert found == pytest.approx(-0.5, abs=EPS)


def test_two_cliques_that_share_a_vertex():
    """Two triangles at one vertex, which is in both: by Shen and Chen alike half of it counts in each."""
    weights = np.zeros((5, 5))
    for clique in ((0, 1, 2), (2, 3, 4)):
        weights[np.ix_(clique, clique)] = 1
    np.fill_diagonal(weights, 0)
    cover = [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]
    # Within each: 2 for the pair that is its own, and 4 halves for the shared vertex; degrees 2 + 2 + 4 / 2 = 6 of 12.
    expected = 2 * ((2 + 4 / 2) / 12 - (6 / 12) ** 2)
    for form in OVERLAPPING:
        assert form(weights, cover) == pytest.approx(expected, abs=EPS)


def test_a_vertex_belongs_by_its_weight():
    """Vertex 2 has weight 3 to the first community and 1 to the second: it belongs 3/4 and 1/4."""
    weights = np.array([[0.0, 1, 3, 0], [1, 0, 0, 0], [3, 0, 0, 1], [0, 0, 1, 0]])
    cover = [[True, True, True, False], [False, False, True, True]]
    expected = (2 + 6 * 3 / 4 + 2 / 4) / 10 - ((4 + 1 + 3) / 10) ** 2 - ((1 + 1) / 10) ** 2
    assert modularity_chen(weights, cover) == pytest.approx(expected, abs=EPS)


def test_a_member_without_weight_in_its_communities_belongs_to_each_alike():
    """Vertex 2 has its only edge to a vertex outside both of its communities."""
    weights = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 2], [0, 0, 2, 0]])
    cover = [[True, True, True, False], [False, True, True, False]]
    assert naive.belonging(weights, cover)[:, 2].tolist() == [0.5, 0.5]
    assert modularity_chen(weights, cover) == pytest.approx(naive.modularity_chen(weights, cover), abs=EPS)


@pytest.mark.parametrize("blocks", [[8, 8], [20, 20], [2, 2]])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_planted_blocks_are_the_halves(blocks, seed):
    weights, planted = naive.planted(blocks, 1.0, 0.1, seed=seed)
    side = bisect(torch.tensor(weights), seed=seed)
    assert naive.by_size(side.tolist()) == naive.by_size(planted)
    assert modularity_bisection(weights, seed) == pytest.approx(modularity(weights, planted), abs=EPS)


# ---------------------------------------------------------------- laws


@law
@given(graphs(), st.integers(0, 10**6))
def test_on_a_disjoint_cover_all_forms_are_newmans(weights, seed):
    """Shen = Newman on the 0/1 graph, Chen = Newman weighted."""
    partition, _ = drawn(weights, seed)
    newman, unweighted, shen, chen = all_forms(weights, partition, one_hot(partition))
    assert shen == pytest.approx(unweighted, abs=EPS)
    assert chen == pytest.approx(newman, abs=EPS)


@law
@given(graphs(), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_vertices_and_communities_does_not_matter(weights, seed, random):
    partition, cover = drawn(weights, seed)
    order, names = random.sample(range(len(weights)), len(weights)), np.array(random.sample(range(3), 3))
    other = all_forms(weights[np.ix_(order, order)], names[partition][order], cover[names][:, order])
    assert other == pytest.approx(all_forms(weights, partition, cover), abs=EPS)


@law
@given(graphs(), st.integers(0, 10**6), st.sampled_from([1e-200, 1e-3, 3.0, 1e200]))
def test_the_unit_of_weights_does_not_matter(weights, seed, factor):
    drawings = drawn(weights, seed)
    assert all_forms(weights * factor, *drawings) == pytest.approx(all_forms(weights, *drawings), abs=EPS)


@law
@given(graphs(), st.integers(0, 10**6))
def test_the_stated_ranges(weights, seed):
    """-0.5 <= Newman < 1, -1 <= Shen, Chen < 1; one community of all gives 0."""
    partition, cover = drawn(weights, seed)
    newman, unweighted, shen, chen = all_forms(weights, partition, cover)
    assert min(newman, unweighted) >= -0.5 - EPS
    assert min(shen, chen) >= -1 - EPS
    assert max(newman, unweighted, shen, chen) < 1
    everything = all_forms(weights, [0] * len(weights), [[True] * len(weights)])
    assert everything == pytest.approx([0, 0, 0, 0], abs=EPS)


@law
@given(graphs(), st.integers(0, 10**6))
def test_without_weights_the_forms_agree(weights, seed):
    """On a 0/1 graph, weighted or not is the same."""
    partition, _ = drawn(weights, seed)
    assert modularity(np.sign(weights), partition) == pytest.approx(modularity(weights, partition, weighted=False), abs=EPS)


@law
@given(graphs(), st.integers(0, 10**6))
def test_an_empty_community_and_an_isolated_vertex_change_nothing(weights, seed):
    partition, cover = drawn(weights, seed)
    wider = np.pad(weights, (0, 1))
    more = np.pad(cover, ((0, 1), (0, 1)))
    assert all_forms(wider, [*partition, 7], more) == pytest.approx(all_forms(weights, partition, cover), abs=EPS)


@law
@given(graphs(), st.integers(0, 1000))
def test_halves_are_balanced_and_the_same_for_a_seed(weights, seed):
    """Sizes differ by at most one; a second call gives the same; the given start stays as it was."""
    graph = torch.tensor(weights)
    side = bisect(graph, seed=seed)
    assert side.dtype == torch.int64
    assert int(side.sum()) == len(weights) // 2
    assert torch.equal(side, bisect(graph, seed=seed))
    start = torch.arange(len(weights)) % 2
    bisect(graph, start=start)
    assert start.tolist() == [v % 2 for v in range(len(weights))]
    assert modularity_bisection(weights, seed) == pytest.approx(modularity(weights, side), abs=EPS)


@law
@given(graphs(), st.integers(0, 1000), st.integers(0, 4))
def test_the_cut_never_grows(weights, seed, sweeps):
    """Neither over the start nor with another sweep."""
    start = torch.tensor(np.random.default_rng(seed).permutation(np.arange(len(weights)) % 2))
    graph = torch.tensor(weights)
    first, second = (bisect(graph, start=start, sweeps=most) for most in (sweeps, sweeps + 1))
    slack = EPS * weights.sum()
    assert cut(weights, second) <= cut(weights, first) + slack <= cut(weights, start) + 2 * slack
    assert int(first.sum()) == int(second.sum()) == int(start.sum())
    if not sweeps:
        assert torch.equal(first, start)


# ---------------------------------------------------------------- reference


@law
@given(graphs(), st.integers(0, 10**6))
def test_newman_is_that_of_networkx(weights, seed):
    partition, _ = drawn(weights, seed)
    graph, groups = nx.from_numpy_array(weights), naive.by_size(partition)
    newman = nx.community.modularity(graph, groups)
    assert modularity(weights, partition) == pytest.approx(newman, abs=EPS)
    assert naive.modularity(weights, partition) == pytest.approx(newman, abs=EPS)
    unweighted = nx.community.modularity(graph, groups, weight=None)
    assert modularity(weights, partition, weighted=False) == pytest.approx(unweighted, abs=EPS)


@law
@given(graphs(), st.integers(0, 10**6))
def test_overlapping_forms_are_those_of_loops(weights, seed):
    """Vertices in no community, in one and in all."""
    _, cover = drawn(weights, seed)
    assert modularity_shen(weights, cover) == pytest.approx(naive.modularity_shen(weights, cover), abs=EPS)
    assert modularity_chen(weights, cover) == pytest.approx(naive.modularity_chen(weights, cover), abs=EPS)


@pytest.mark.parametrize("vertices", [300, 611])
def test_a_graph_that_is_read_in_blocks(vertices):
    weights, communities = naive.random_graph(vertices, 0.3, 0), 7
    partition, cover = drawn(weights, 0, communities)
    graph, groups = nx.from_numpy_array(weights), naive.by_size(partition)
    assert modularity(weights, partition) == pytest.approx(nx.community.modularity(graph, groups), abs=EPS)
    unweighted = nx.community.modularity(graph, groups, weight=None)
    assert modularity(weights, partition, weighted=False) == pytest.approx(unweighted, abs=EPS)
    edges, belong = np.sign(weights), cover / np.maximum(cover.sum(0), 1)
    for form, matrix, alpha in (
        (modularity_shen, edges, belong),
        (modularity_chen, weights, naive.belonging(weights, cover)),
    ):
        degrees = matrix.sum(0)
        null = matrix - np.outer(degrees, degrees) / degrees.sum()
        expected = sum(row @ null @ row for row in alpha) / degrees.sum()
        assert form(weights, cover) == pytest.approx(expected, abs=EPS)


@pytest.mark.parametrize("vertices", [2, 9, 30, 61])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_halves_are_those_of_networkx(vertices, density):
    """From the same start. Weights are whole numbers, so that no sum is rounded, and of many digits, so that no gains tie."""
    for seed in range(12):
        weights = np.floor(naive.random_graph(vertices, density, seed) * 2**30)
        if weights.max(0).min() == 0:
            continue  # vertices without an edge tie
        start = np.random.default_rng(seed).permutation(np.arange(vertices) % 2)
        sides = [set(np.flatnonzero(start == half).tolist()) for half in (1, 0)]  # networkx calls the first of them 1
        theirs = nx.community.kernighan_lin_bisection(nx.from_numpy_array(weights), sides)
        ours = bisect(torch.tensor(weights), start=torch.tensor(start))
        assert [set(np.flatnonzero(ours == half).tolist()) for half in (0, 1)] == list(theirs), seed


# ---------------------------------------------------------------- of a co-firing graph


def test_by_default_it_is_of_the_classes():
    acts, labels = realistic("relu", 400, 40)
    graph = coactivation(layer_of(acts, labels, top=8), restrict="union")
    found = [modularity(graph), modularity(graph, weighted=False), modularity_shen(graph), modularity_chen(graph)]
    assert found == all_forms(graph, graph.partition, graph.cover)
    weights, partition, cover = graph.adjacency.numpy(), graph.partition.tolist(), graph.cover.tolist()
    expected = [
        naive.modularity(weights, partition), naive.modularity(np.sign(weights), partition),
        naive.modularity_shen(weights, cover), naive.modularity_chen(weights, cover),
    ]  # fmt: skip
    assert found == pytest.approx(expected, abs=EPS)
    assert found == pytest.approx(all_forms(graph.adjacency, partition, cover), abs=EPS)
    assert modularity_bisection(graph, 3) == modularity_bisection(graph.adjacency, 3)


def test_half_precision_around_it_does_not_round():
    weights = naive.random_graph(50, 0.5, 0)
    outside = [*all_forms(weights, *drawn(weights, 0)), modularity_bisection(weights)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [*all_forms(weights, *drawn(weights, 0)), modularity_bisection(weights)] == outside


@pytest.mark.parametrize("kind", ["float32", "int", "bool", "list", "bfloat16", "array", "turned"])
def test_graphs_of_any_number_type(kind):
    weights, partition = naive.planted([3, 4], 1.0, 0.0, seed=0)
    graph = torch.tensor(weights)
    same = {
        "float32": graph.float(), "int": graph.int(), "bool": graph.bool(), "list": weights.tolist(),
        "bfloat16": graph.bfloat16(), "array": weights.astype(np.float32), "turned": np.asfortranarray(weights),
    }[kind]  # fmt: skip
    assert all_forms(same, partition, one_hot(partition)) == all_forms(weights, partition, one_hot(partition))


@pytest.mark.parametrize("change", [lambda a: a[::-1], lambda a: a.astype(">i8")], ids=["reversed", "big-endian"])
def test_arrays_that_torch_does_not_take(change):
    weights, partition = naive.planted([3, 4], 1.0, 0.2, seed=0)
    partition, cover = np.array(partition), one_hot(partition).astype(int)
    expected = all_forms(weights, change(partition).tolist(), change(cover).tolist())
    assert all_forms(weights, change(partition), change(cover)) == expected
    edges = np.sign(weights).astype(int)
    assert modularity(np.flip(change(edges)), partition) == modularity(np.flip(change(edges)).tolist(), partition)


def test_partitions_of_any_number_type():
    weights, partition = naive.planted([3, 4], 1.0, 0.0, seed=0)
    expected = modularity(weights, partition)
    labels = np.array(partition)
    for same in (tuple(partition), labels, labels == 1, torch.tensor(labels) - 5, labels.astype(np.int8), labels * 10**12):
        assert modularity(weights, same) == expected
    cover = one_hot(partition)
    for same in (cover.tolist(), cover.astype(int), torch.tensor(cover).double()):
        assert modularity_shen(weights, same) == modularity_shen(weights, cover)
        assert modularity_chen(weights, same) == modularity_chen(weights, cover)


# ---------------------------------------------------------------- degenerate


@pytest.mark.parametrize("vertices", [0, 1, 2, 5])
def test_a_graph_without_edges_departs_from_nothing(vertices):
    weights = torch.zeros(vertices, vertices)
    cover = torch.ones(2, vertices, dtype=torch.bool)
    assert all_forms(weights, torch.zeros(vertices, dtype=torch.long), cover) == [0, 0, 0, 0]
    assert modularity_bisection(weights) == 0
    assert modularity_bisection(weights, weighted=False) == 0
    assert sorted(bisect(weights).tolist()) == [0] * (vertices - vertices // 2) + [1] * (vertices // 2)


def test_a_cover_of_no_community():
    weights, _ = naive.planted([4])
    for cover in (torch.zeros(0, 4), torch.zeros(3, 4)):
        assert [form(weights, cover) for form in OVERLAPPING] == [0, 0]


def test_a_complete_graph_has_no_communities():
    """No halves of it are better than chance: Q = (n/2 - 1) / (n - 1) - 1/2 < 0."""
    weights, _ = naive.planted([10])
    assert modularity_bisection(weights) == pytest.approx(4 / 9 - 1 / 2, abs=EPS)


def test_a_co_firing_graph_without_vertices():
    graph = coactivation(layer_of(torch.zeros(4, 8), [0, 0, 1, 1], top=2), restrict="union")
    assert [modularity(graph), modularity_shen(graph), modularity_chen(graph), modularity_bisection(graph)] == [0, 0, 0, 0]


def test_a_disconnected_graph_with_vertices_alone():
    weights, partition = naive.planted([4, 4, 1, 1, 1], seed=2)
    for found in all_forms(weights, partition, one_hot(partition)):
        assert found == pytest.approx(0.5, abs=EPS)


# ---------------------------------------------------------------- errors


def everything(graph) -> list:
    """Calls of every form on a graph of four vertices."""
    cover = torch.ones(2, 4)
    return [
        lambda: modularity(graph, [0, 0, 1, 1]),
        lambda: modularity(graph, [0, 0, 1, 1], weighted=False),
        lambda: modularity_shen(graph, cover),
        lambda: modularity_chen(graph, cover),
        lambda: modularity_bisection(graph),
    ]


def altered(value, at=(0, 1), both=True):
    weights = torch.tensor(naive.planted([4])[0])
    weights[at] = value
    if both:
        weights[at[::-1]] = value
    return weights


@pytest.mark.parametrize(
    ("graph", "match"),
    [
        (altered(-0.5), r"^weights must be finite and not negative; found -0.5 to 1\.$"),
        (altered(torch.nan), "^weights must be finite and not negative; found nan"),
        (altered(torch.nan, (2, 2)), "^weights must be finite and not negative; found nan"),
        (altered(torch.inf), "^weights must be finite and not negative; found 0 to inf"),
        (altered(2.0, both=False), "^a graph must be symmetric; found a matrix that differs from its transpose"),
        (altered(1.001, both=False), "^a graph must be symmetric"),
        (torch.zeros(4), r"^a graph must be a square matrix \[vertices, vertices\]; found shape \(4,\)"),
        (torch.zeros(4, 3), r"^a graph must be a square matrix \[vertices, vertices\]; found shape \(4, 3\)"),
        (torch.zeros(1, 4, 4), r"^a graph must be a square matrix \[vertices, vertices\]; found shape \(1, 4, 4\)"),
        (torch.tensor(0.5), r"^a graph must be a square matrix \[vertices, vertices\]; found shape \(\)"),
    ],
)
def test_what_is_no_graph(graph, match):
    for call in everything(graph):
        with pytest.raises(InputError, match=match):
            call()


def test_one_entry_without_its_twin_is_found_in_a_large_graph():
    weights = torch.tensor(naive.random_graph(800, 0.5, 0))
    weights[700, 3] += 0.01
    with pytest.raises(InputError, match="a graph must be symmetric"):
        modularity(weights, [0] * 800)


def test_a_rounding_error_is_no_asymmetry():
    weights = torch.tensor(naive.random_graph(50, 0.5, 0))
    weights[3, 4] *= 1 + 1e-15
    assert modularity(weights, [0] * 50) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "graph",
    [
        nx.path_graph(4),
        nx.to_scipy_sparse_array(nx.path_graph(4)),
        torch.eye(4).to_sparse(),
        "abcd",
        None,
        {0: 1},
        [[0, 1], [1]],
    ],
    ids=["networkx", "scipy", "sparse", "words", "None", "mapping", "ragged"],
)
def test_other_objects_are_no_graphs(graph):
    """Without the test of numbers, torch would speak of data types and lengths."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for call in everything(graph):
            with pytest.raises(InputError, match="a graph must be"):
                call()


@pytest.mark.parametrize("partition", [[0, 1], [[0, 0, 1, 1]], 3, torch.zeros(5)], ids=str)
def test_a_partition_of_other_vertices(partition):
    with pytest.raises(InputError, match=r"^a partition must name the community of each of 4 vertices; found \("):
        modularity(naive.planted([4])[0], partition)


@pytest.mark.parametrize("cover", [[0, 0, 1, 1], torch.zeros(4, 2), torch.zeros(2, 4, 1)], ids=str)
@pytest.mark.parametrize("form", OVERLAPPING)
def test_a_cover_of_other_vertices(form, cover):
    with pytest.raises(InputError, match=r"^a cover must be \[communities, 4 vertices\]; found \("):
        form(naive.planted([4])[0], cover)


@pytest.mark.parametrize("groups", [[{0, 1}, {2, 3}], [[0, 1, 2], [3]], "abc"], ids=str)
def test_sets_of_vertices_are_no_partition_and_no_cover(groups):
    """They are networkx's form of both, so that someone will try them."""
    weights = naive.planted([4])[0]
    with pytest.raises(InputError, match="a partition must name"):
        modularity(weights, groups)
    for form in OVERLAPPING:
        with pytest.raises(InputError, match="a cover must be"):
            form(weights, groups)


def test_names_of_communities_must_be_numbers():
    with pytest.raises(InputError, match="a partition must name"):
        modularity(naive.planted([4])[0], ["cat", "cat", "dog", "dog"])
    with pytest.raises(InputError, match="a partition must name"):
        modularity(naive.planted([4])[0], [0.0, 0.0, float("nan"), float("nan")])


def test_a_matrix_alone_does_not_know_the_classes():
    weights = naive.planted([4])[0]
    with pytest.raises(InputError, match=r"^a matrix alone does not know the classes: partition= must be given"):
        modularity(weights)
    for form in OVERLAPPING:
        with pytest.raises(InputError, match=r"^a matrix alone does not know the classes: cover= must be given"):
            form(weights)
