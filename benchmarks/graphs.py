"""What the co-firing graph costs: ours beside loops, matrix products, networkx and igraph, in turn in one process.

    python benchmarks/graphs.py                 # some minutes
    python benchmarks/graphs.py --quick         # small graphs, seconds; writes no file unless told where

One thread, processor time. In every group the contenders take turns, every second round backwards; a ratio is a contender's
median over ours (for the matrix kernels: over one reading of the matrix). Those that compute the same thing must first agree.
igraph is used where it is installed. Writes benchmarks/graphs.json and its table on docs/benchmarks.md.
"""

# ruff: noqa: E402
import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # before NumPy and torch are loaded

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from _results import made, publish

import cofire
from cofire.bisection import bisect
from cofire.cofiring import Cofiring
from cofire.graphs import Coactivation
from cofire.layouts import force_layout

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- graphs: begin -->", "<!-- graphs: end -->"
IGRAPH = importlib.util.find_spec("igraph") is not None


def timed(contenders: dict[str, Callable], rounds: int) -> dict[str, list[float]]:
    """Seconds of processor time of every contender in every round, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            start = time.process_time()
            contenders[name]()
            if turn:
                found[name].append(time.process_time() - start)
    return found


def group(title: str, over: str, contenders: dict[str, Callable], rounds: int, notes: dict[str, str] | None = None) -> dict:
    """One group's results, as ratios to one of its contenders."""
    print(title, file=sys.stderr)
    seconds = timed(contenders, rounds)
    base = statistics.median(seconds[over])
    rows = [
        {
            "name": name,
            "seconds": statistics.median(times),
            "ratio": statistics.median(times) / base,
            "least": min(times) / base,
            "most": max(times) / base,
            "note": (notes or {}).get(name, ""),
        }
        for name, times in seconds.items()
    ]
    return {"title": title, "over": over, "rounds": rounds, "rows": rows}


def cofiring(samples: int, units: int, rounds: int) -> dict:
    """All pairs of one class's units; the pair loop is timed on some rows of the result and scaled."""
    values = torch.relu(torch.randn(samples, units, generator=torch.Generator().manual_seed(0)))
    means, everyone = values.double().mean(0)[None], torch.arange(units)[None]
    above = (values.double() > means).numpy()
    share = max(1, units // 32)

    def ours() -> torch.Tensor:
        counter = Cofiring(everyone, means, torch.float32)
        for block in values.split(4096):
            counter.update(block, 0)
        return counter.counts[0]

    def loop() -> np.ndarray:
        counts = np.zeros((share, units), dtype=np.int64)
        for p in range(share):
            for q in range(units):
                counts[p, q] = np.logical_and(above[:, p], above[:, q]).sum()
        return counts

    def gathered() -> torch.Tensor:
        counter = Cofiring(everyone[:, :50], means[:, :50], torch.float32)
        for block in values.split(4096):
            counter.update(block, 0)
        return counter.counts[0]

    flags = torch.from_numpy(above).float()
    assert np.array_equal(ours()[:share].numpy(), loop()), "the counts differ"
    made = group(
        f"co-firing counts of {units} units, {samples:,} samples",
        "cofire",
        {
            "cofire": ours,
            "cofire, 50 representative units": gathered,
            "float32 product alone, comparisons made before": lambda: flags.T @ flags,
            "NumPy pair loop": loop,
        },
        rounds,
        {"NumPy pair loop": f"timed on {share} of {units} rows, scaled"},
    )
    for row in made["rows"]:
        if row["name"] == "NumPy pair loop":
            for key in ("seconds", "ratio", "least", "most"):
                row[key] *= units / share
    return made


def graph_of(vertices: int, classes: int = 10) -> Coactivation:
    """A graph with blocks, about as dense as those of trained nets, whose cover overlaps."""
    random = torch.Generator().manual_seed(1)
    label = torch.randint(classes, (vertices,), generator=random)
    near = torch.where(label[:, None] == label, 0.9, 0.15)
    weight = torch.rand(vertices, vertices, generator=random, dtype=torch.float64)
    weight = torch.triu(weight * (torch.rand(vertices, vertices, generator=random) < near), 1)
    cover = (torch.rand(classes, vertices, generator=random) < 0.1) | (torch.arange(classes)[:, None] == label)
    width = int(cover.sum(1).max())
    sets = torch.full((classes, width), -1)
    for c in range(classes):
        members = cover[c].nonzero()[:, 0]
        sets[c, : len(members)] = members
    means = torch.rand(classes, vertices, generator=random, dtype=torch.float64)
    counts = torch.full((classes,), 100)
    return Coactivation(weight + weight.T, torch.arange(vertices), sets, means, "", "class", counts, vertices, means)


def closed_forms(vertices: int, rounds: int) -> dict:
    """The modularities against one reading of the matrix, and networkx where that takes seconds."""
    graph = graph_of(vertices)
    ones = torch.ones(vertices, dtype=torch.float64)
    contenders: dict[str, Callable] = {
        "one reading of the matrix": lambda: graph.adjacency @ ones,
        "cofire modularity": lambda: cofire.modularity(graph),
        "cofire modularity, 0/1": lambda: cofire.modularity(graph, weighted=False),
        "cofire modularity_shen": lambda: cofire.modularity_shen(graph),
        "cofire modularity_chen": lambda: cofire.modularity_chen(graph),
    }
    notes = {}
    if vertices <= 500:
        drawn, sets = nx.from_numpy_array(graph.adjacency.numpy()), sets_of(graph.partition)
        assert abs(nx.community.modularity(drawn, sets) - cofire.modularity(graph)) < 1e-12, "the modularities differ"
        contenders["networkx modularity"] = lambda: nx.community.modularity(drawn, sets)
        notes["networkx modularity"] = "on a graph built before"
    if IGRAPH:
        built, labels = igraph_of(graph), graph.partition.tolist()
        there = built.modularity(labels, weights="weight", directed=False)
        assert abs(there - cofire.modularity(graph)) < 1e-12, "the modularities differ"
        contenders["igraph modularity"] = lambda: built.modularity(labels, weights="weight", directed=False)
        notes["igraph modularity"] = "on a graph built before"
    return group(f"modularity, {vertices:,} vertices", "one reading of the matrix", contenders, rounds, notes)


def sets_of(labels: torch.Tensor) -> list[set[int]]:
    """Communities as sets of vertices."""
    return [set((labels == k).nonzero()[:, 0].tolist()) for k in labels.unique().tolist()]


def igraph_of(graph: Coactivation):
    """The graph in igraph."""
    import igraph

    edges = graph.adjacency.triu(1).nonzero()
    built = igraph.Graph(n=len(graph), edges=edges.tolist())
    built.es["weight"] = graph.adjacency[edges[:, 0], edges[:, 1]].tolist()
    return built


def searches(vertices: int, rounds: int) -> dict:
    """Communities from a dense matrix, with what it takes to build each library's own graph."""
    graph = graph_of(vertices)
    found: dict[str, float] = {}

    def ours(method: str) -> Callable:
        return lambda: found.update({f"cofire {method}": cofire.communities(graph, method).modularity})

    def networkx() -> None:
        drawn = nx.from_numpy_array(graph.adjacency.numpy())
        labels = torch.zeros(vertices, dtype=torch.int64)
        for k, members in enumerate(nx.community.louvain_communities(drawn, seed=0)):
            labels[list(members)] = k
        found["networkx louvain"] = cofire.modularity(graph, labels)

    def igraph(method: str) -> Callable:
        def search() -> None:
            built = igraph_of(graph)
            if method == "leiden":
                clusters = built.community_leiden("modularity", weights="weight", n_iterations=-1)
            else:
                clusters = built.community_multilevel(weights="weight")
            found[f"igraph {method}"] = cofire.modularity(graph, clusters.membership)

        return search

    contenders = {"cofire louvain": ours("louvain"), "cofire leiden": ours("leiden")}
    if vertices <= 500:
        contenders["networkx louvain"] = networkx
    if IGRAPH:
        contenders |= {"igraph multilevel": igraph("multilevel"), "igraph leiden": igraph("leiden")}
    made = group(f"communities, {vertices:,} vertices", "cofire louvain", contenders, rounds)
    for row in made["rows"]:
        row["note"] = f"modularity {found[row['name']]:.4f}"
    return made


def halves(vertices: int, rounds: int) -> dict:
    """Kernighan and Lin from the same start; the halves must be the same."""
    graph = graph_of(vertices)
    drawn = nx.from_numpy_array(graph.adjacency.numpy())
    start = torch.zeros(vertices, dtype=torch.int64)
    start[torch.randperm(vertices, generator=torch.Generator().manual_seed(0))[: vertices // 2]] = 1
    sides = [set((start == side).nonzero()[:, 0].tolist()) for side in (1, 0)]
    mine = {frozenset(part) for part in sets_of(bisect(graph.adjacency, start=start))}
    assert mine == {frozenset(part) for part in nx.community.kernighan_lin_bisection(drawn, sides)}, "the halves differ"
    contenders = {
        "cofire": lambda: bisect(graph.adjacency, start=start),
        "networkx": lambda: nx.community.kernighan_lin_bisection(drawn, sides),
    }
    return group(f"Kernighan-Lin bisection, {vertices:,} vertices", "cofire", contenders, rounds, {"networkx": "same halves"})


def layouts(vertices: int, rounds: int) -> dict:
    """A hundred steps of a layout."""
    graph = graph_of(vertices)
    drawn = nx.from_numpy_array(graph.adjacency.numpy())
    contenders = {
        "cofire": lambda: force_layout(graph.adjacency, steps=100),
        "networkx forceatlas2": lambda: nx.forceatlas2_layout(drawn, max_iter=100, weight="weight", seed=0),
    }
    return group(f"layout, 100 steps, {vertices:,} vertices", "cofire", contenders, rounds)


def page(result: dict) -> str:
    """The generated part of docs/benchmarks.md."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [f"{result['date']}, {result['machine']}, one thread. {versions}.", ""]
    lines += ["| what | contender | seconds | ratio | to | note |", "| --- | --- | --: | --: | --- | --- |"]
    for group in result["groups"]:
        for row in group["rows"]:
            name = f"**{row['name']}**" if row["name"].startswith("cofire") else row["name"]
            span = "" if row["name"] == group["over"] else f" ({row['least']:.2g} to {row['most']:.2g})"
            cells = (group["title"], name, f"{row['seconds']:.2g}", f"{row['ratio']:.3g}{span}", group["over"], row["note"])
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small graphs, one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-root", type=Path, help="not needed here; all benchmarks take it")
    parser.add_argument("--output", type=Path, help="where to write the numbers (default benchmarks/graphs.json)")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.quick:
        groups = [cofiring(2000, 64, 1), closed_forms(100, 1), searches(100, 1), halves(100, 1), layouts(100, 1)]
    else:
        few = min(chosen.rounds, 3)
        groups = [
            cofiring(60_000, 512, few), closed_forms(500, chosen.rounds), closed_forms(2000, chosen.rounds),
            searches(500, few), searches(2000, few), searches(5000, 1), halves(500, few), layouts(500, few), layouts(2000, 1),
        ]  # fmt: skip
    names = ("cofire", "torch", "numpy", "networkx", "scikit-network", *(("igraph",) if IGRAPH else ()))
    result = {
        **made(" ".join(["graphs.py", *sys.argv[1:]]), cores=True),
        "quick": chosen.quick,
        "versions": {name: cofire.__version__ if name == "cofire" else version(name) for name in names},
        "groups": groups,
    }
    output = chosen.output or (None if chosen.quick else HERE / "graphs.json")
    publish(result, page(result), output, "graphs", "benchmarks.md", BEGIN, END)


if __name__ == "__main__":
    main()
