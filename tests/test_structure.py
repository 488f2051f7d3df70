"""What is said of a co-firing graph in numbers and words, its layout, and the files that other tools open."""

import math
import xml.etree.ElementTree as ET

import networkx as nx
import pytest
import torch
from typer.testing import CliRunner

import cofire
from activations import layer_of
from cofire.cli import app
from cofire.errors import InputError
from cofire.export import annotated
from cofire.findings import findings
from cofire.layouts import force_layout
from cofire.structure import entangled_pairs, in_words, structure


def planted(samples=1200, units=120, classes=4, shared=0, together=True, seed=0):
    """Activations in which each class lights 20 units of its own, which fire together or not; classes 0 and 1 share some."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % classes
    acts = 0.1 * torch.rand(samples, units, generator=random)
    for c in range(classes):
        rows, first = (labels == c).nonzero()[:, 0], 20 * c - (shared if c == 1 else 0)
        common = torch.rand(len(rows), 1, generator=random)
        own = common if together else torch.rand(len(rows), 20, generator=random)
        acts[rows[:, None], torch.arange(first, first + 20)] += 1 + own
    return acts, labels


def graph_of(**options) -> cofire.Coactivation:
    acts, labels = planted(**options)
    return cofire.coactivation(layer_of(acts, labels, top=20))


# ---------------------------------------------------------------- numbers


def test_noise_with_random_labels_has_a_modular_graph_that_the_sets_alone_explain():
    random = torch.Generator().manual_seed(0)
    acts = torch.randn(6000, 512, generator=random).relu()
    layer = layer_of(acts, torch.randint(0, 10, (6000,), generator=random))
    rows = {row.form: row for row in structure(cofire.coactivation(layer)).modularities}
    for form in ("newman", "shen", "chen"):
        assert rows[form].value > 0.3
        assert abs(rows[form].value - rows[form].independent) < 0.002
    wide = {row.form: row for row in structure(cofire.coactivation(layer, restrict="union")).modularities}
    assert all(abs(wide[form].value) < 0.005 for form in ("newman", "shen", "chen", "louvain"))


def test_units_that_fire_together_stand_clear_of_independent_ones():
    found = {}
    for together in (True, False):
        acts, labels = planted(together=together)
        graph = cofire.coactivation(layer_of(acts, labels, top=20), restrict="union")
        found[together] = cofire.modularity_chen(graph) - cofire.modularity_chen(graph.independent())
    assert found[True] > 0.03 > 0.005 > abs(found[False])


def test_the_independent_graph_is_the_product_of_rates():
    acts, labels = planted(shared=5)
    graph = cofire.coactivation(layer_of(acts, labels, top=20))
    expected = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    for c in range(4):
        rows = acts[labels == c].double()
        above = (rows > rows.mean(0)).double().mean(0)[graph.vertices] * graph.cover[c]
        expected += above[:, None] * above
    assert torch.allclose(graph.independent().adjacency, expected.fill_diagonal_(0), atol=1e-12)


def test_the_pair_that_shares_most_comes_first():
    graph = graph_of(shared=12)
    first = entangled_pairs(graph)[0]
    assert (first.first, first.second, first.shared, first.unique, first.size) == (0, 1, 12, 12, 20)
    assert first.expected == pytest.approx(20 * 20 / 120)
    assert [pair.shared for pair in entangled_pairs(graph)[1:]] == [0] * 5


def test_the_table_has_every_form_and_its_control():
    found = structure(graph_of(), seeds=3)
    frame = found.frame().set_index("form")
    assert list(frame.index) == ["newman", "unweighted", "shen", "chen", "bisection", "louvain", "leiden"]
    assert frame.independent.notna().tolist() == [True] * 4 + [False] * 3
    assert frame.spread.notna().tolist() == [False] * 4 + [True] * 3
    assert found.communities.agreement == pytest.approx(1.0)
    words = "\n".join(in_words(found, found.communities, ["a", "b", "c", "d"]))
    assert "80 units represent the 4 classes (20 each)" in words
    assert "louvain finds 4 communities of 20.0 units on average; agreement with the classes 1.00" in words


# ---------------------------------------------------------------- words


def test_findings_name_the_entangled_classes_and_the_control():
    acts, labels = planted(shared=12)
    stats = cofire.FiringStats.from_activations({"fc1": acts}, labels, top=20, class_names=["cat", "dog", "car", "sky"])
    first, second = (finding for finding in findings(stats) if finding.kind == "graph")
    assert first.text.startswith("In 'fc1', classes 'cat' and 'dog' are the most entangled: 12 of the 20 units")
    assert "sets drawn by lot would share 3.3" in first.text
    assert second.level == "caution"
    assert "independent firing" in second.text


def test_shuffled_labels_are_not_called_entangled():
    random = torch.Generator().manual_seed(1)
    acts, labels = torch.randn(4000, 400, generator=random).relu(), torch.randint(0, 10, (4000,), generator=random)
    stats = cofire.FiringStats.from_activations({"fc1": acts}, labels, top=20)
    said = [finding.text for finding in findings(stats) if finding.kind == "graph"]
    assert not any("entangled" in text for text in said)
    assert any("nearly all of it comes from the sets" in text for text in said)


# ---------------------------------------------------------------- layout


def test_a_layout_parts_the_planted_blocks():
    graph = graph_of()
    place, label = force_layout(graph.adjacency), graph.partition
    middles = torch.stack([place[label == c].mean(0) for c in range(4)])
    near = (place[:, None] - middles).norm(dim=2).argmin(1)
    assert torch.equal(near, label)
    assert place.norm(dim=1).max() == pytest.approx(1.0)
    assert torch.equal(place, force_layout(graph.adjacency))
    assert not torch.equal(place, force_layout(graph.adjacency, seed=1))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["empty", "complete", "one edge"])
def test_a_layout_of_any_graph_is_finite_and_parts_all_vertices(count, kind):
    adjacency = torch.zeros(count, count) if kind != "complete" else torch.ones(count, count).fill_diagonal_(0)
    if kind == "one edge" and count > 1:
        adjacency[0, 1] = adjacency[1, 0] = 3.0
    place = force_layout(adjacency)
    assert place.shape == (count, 2)
    assert bool(place.isfinite().all())
    if count > 1:
        apart = (place[:, None] - place).norm(dim=2).fill_diagonal_(1)
        assert float(apart.min()) > 1e-4


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("ending", ["gexf", "graphml"])
def test_a_graph_that_was_written_is_read_back_whole(tmp_path, ending):
    acts, labels = planted(shared=5)
    layer = layer_of(acts, labels, top=20)
    graph, names = cofire.coactivation(layer), ["cat & <dog>", "b", "c", "d"]
    cofire.write_graph(graph, tmp_path / f"g.{ending}", layer=layer, class_names=names)
    read = nx.read_gexf if ending == "gexf" else nx.read_graphml
    made = read(tmp_path / f"g.{ending}", node_type=int)
    assert sorted(made.nodes) == graph.vertices.tolist()
    assert made.number_of_edges() == graph.edges
    information, entropy = cofire.mutual_information(layer), cofire.activation_entropy(layer)
    for at, unit in enumerate(graph.vertices.tolist()):
        node = made.nodes[unit]
        assert node["class"] == names[int(graph.partition[at])]
        assert node["represents"].split(", ") == [n for n, inside in zip(names, graph.cover[:, at], strict=True) if inside]
        assert node["mutual_information"] == pytest.approx(float(information[unit]), abs=1e-12)
        assert node["activation_entropy"] == pytest.approx(float(entropy[unit]), abs=1e-12)
        assert isinstance(node["community"], int)
    for v, w in list(made.edges)[:50]:
        at = [graph.vertices.tolist().index(unit) for unit in (v, w)]
        assert made.edges[v, w]["weight"] == pytest.approx(float(graph.adjacency[at[0], at[1]]), abs=1e-12)


def test_colours_places_and_sizes_are_where_gephi_looks(tmp_path):
    graph = graph_of()
    cofire.write_graph(graph, tmp_path / "g.gexf")
    viz = "{http://www.gexf.net/1.2draft/viz}"
    nodes = ET.parse(tmp_path / "g.gexf").getroot().findall(".//{http://www.gexf.net/1.2draft}node")
    colours = {tuple(node.find(f"{viz}color").get(part) for part in "rgb") for node in nodes}
    assert len(nodes) == len(graph)
    assert len(colours) == 4
    assert all(
        math.isfinite(float(node.find(f"{viz}position").get("x"))) and node.find(f"{viz}size") is not None for node in nodes
    )
    cofire.write_graph(graph, tmp_path / "g.graphml")
    flat = nx.read_graphml(tmp_path / "g.graphml", node_type=int)
    assert {"x", "y", "size", "r", "g", "b", "label"} <= flat.nodes[int(graph.vertices[0])].keys()


def test_only_the_strongest_edges_are_kept():
    graph = graph_of()
    kept = sorted(weight for *_, weight in annotated(graph, edges=30).edges(data="weight"))
    everything = sorted(weight for *_, weight in graph.to_networkx().edges(data="weight"))
    assert kept == everything[-30:]
    assert annotated(graph, edges=0).number_of_edges() == 0
    assert annotated(graph, edges=10**6).number_of_edges() == graph.edges


def test_what_cannot_be_written_is_said(tmp_path):
    graph = graph_of()
    with pytest.raises(InputError, match=r"a graph is written as \.gexf or \.graphml; found 'g\.dot'"):
        cofire.write_graph(graph, tmp_path / "g.dot")
    with pytest.raises(InputError, match="one name per class; found 2 names for 4 classes"):
        cofire.write_graph(graph, tmp_path / "g.gexf", class_names=["a", "b"])
    with pytest.raises(InputError, match="edges must not be negative"):
        cofire.write_graph(graph, tmp_path / "g.gexf", edges=-1)
    assert not list(tmp_path.iterdir())


def test_a_graph_without_vertices_or_edges_can_be_written(tmp_path):
    layer = layer_of(torch.zeros(4, 8), torch.tensor([0, 0, 1, 1]), top=2)
    graph = cofire.coactivation(layer)
    assert len(graph) == 0
    cofire.write_graph(graph, tmp_path / "g.gexf", layer=layer)
    assert len(nx.read_gexf(tmp_path / "g.gexf")) == 0
    assert "0 units represent the 2 classes" in in_words(structure(graph), cofire.communities(graph), ["a", "b"])[0]


# ---------------------------------------------------------------- command line


def test_the_command_prints_and_writes(tmp_path):
    acts, labels = planted(shared=12)
    stats = cofire.FiringStats.from_activations({"fc1": acts, "fc2": acts.flip(1)}, labels, top=20)
    stats.save(tmp_path / "s.stats")
    done = CliRunner().invoke(app, ["graph", str(tmp_path / "s.stats"), "--layer", "fc1", "-o", str(tmp_path / "g.gexf")])
    assert done.exit_code == 0, done.output
    assert "fc1: 68 units represent the 4 classes (20 each)" in done.output
    assert "0 and 1: 12 of 20" in done.output
    assert "if independent" in done.output
    assert len(nx.read_gexf(tmp_path / "g.gexf")) == 68
    last = CliRunner().invoke(app, ["graph", str(tmp_path / "s.stats"), "--method", "leiden", "--restrict", "union"])
    assert last.output.startswith("fc2: 68 units")
    assert "leiden finds" in last.output
