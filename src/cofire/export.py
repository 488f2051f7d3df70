"""Statistics and graphs in files that other tools open."""

import colorsys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cofire.curves import Curve
from cofire.errors import InputError
from cofire.files import atomic
from cofire.graphs import Coactivation
from cofire.layer import LayerStats
from cofire.layouts import force_layout
from cofire.measures import MEASURES, table, unit_values
from cofire.partitions import Communities, communities
from cofire.stats import FiringStats

if TYPE_CHECKING:
    import networkx
    import pandas

__all__ = ["annotated", "write_curves", "write_frame", "write_graph", "write_units"]

_SPAN = 1000.0  # width of the drawing in Gephi's units


def write_units(stats: FiringStats, path: str | Path) -> None:
    """Write the table of units, by the file's ending: ``.csv``, ``.json`` (records) or ``.parquet`` (needs pyarrow).

    Raises:
        InputError: Another ending.
        FileError: The file cannot be written.
    """
    write_frame(table(stats), Path(path), "a table of units")


def write_frame(frame: "pandas.DataFrame", path: Path, what: str) -> None:
    """Write a pandas frame, by the file's ending: ``.csv``, ``.json`` (records) or ``.parquet`` (needs pyarrow).

    Args:
        frame: The frame.
        path: The file.
        what: What it is, for the error.

    Raises:
        InputError: Another ending.
        FileError: The file cannot be written.
    """
    writers = {
        ".csv": lambda temporary: frame.to_csv(temporary, index=False),
        ".json": lambda temporary: frame.to_json(temporary, orient="records", indent=1),
        ".parquet": lambda temporary: frame.to_parquet(temporary, index=False),
    }
    if path.suffix.lower() not in writers:
        raise InputError(f"{what} is written as {', '.join(writers)}", f"found {path.name!r}")
    with atomic(path) as temporary:
        writers[path.suffix.lower()](temporary)


def write_curves(curves: Sequence[Curve], path: str | Path) -> None:
    """Write ablation curves as one table, a row per step, by the file's ending: ``.csv``, ``.json`` or ``.parquet``.

    Raises:
        InputError: Another ending, or no curve.
        FileError: The file cannot be written.
    """
    import pandas as pd

    if not curves:
        raise InputError("there must be at least one curve", "found none")
    parts = []
    for curve in curves:
        frame = curve.frame()
        for place, (name, value) in enumerate(
            {"layers": " + ".join(curve.layers), "by": curve.by, "order": curve.order, "fill": curve.fill}.items()
        ):
            frame.insert(place, name, value)
        parts.append(frame)
    write_frame(pd.concat(parts, ignore_index=True), Path(path), "curves")


def write_graph(
    graph: Coactivation, path: str | Path, *, layer: LayerStats | None = None, class_names: Sequence[str] | None = None,
    groups: Communities | None = None, edges: int | None = None,
) -> None:  # fmt: skip
    """Write a co-firing graph for Gephi, Cytoscape or yEd, by the file's ending: ``.gexf`` or ``.graphml``.

    Every vertex has its unit, class, the classes that it represents, community, strength, a place, a size and its class's
    colour, and with ``layer`` every per-unit measure; every edge has its weight.

    Args:
        graph: The graph.
        path: The file to write.
        layer: The statistics that the graph was made from.
        class_names: Names of the classes; by default their numbers.
        groups: Communities; by default Louvain's.
        edges: Keep only so many edges, the strongest.

    Raises:
        InputError: Another ending, names that do not fit, or a number of edges that is negative.
        FileError: The file cannot be written.
    """
    import networkx

    path = Path(path)
    writers: dict[str, Callable[[networkx.Graph, str], None]] = {
        ".gexf": _write_gexf,
        ".graphml": lambda drawn, name: networkx.write_graphml_xml(_flat(drawn), name),
    }
    if path.suffix not in writers:
        raise InputError(f"a graph is written as {' or '.join(writers)}", f"found {path.name!r}")
    made = annotated(graph, layer=layer, class_names=class_names, groups=groups, edges=edges)
    with atomic(path) as temporary:
        writers[path.suffix](made, str(temporary))


def annotated(
    graph: Coactivation, *, layer: LayerStats | None = None, class_names: Sequence[str] | None = None,
    groups: Communities | None = None, edges: int | None = None,
) -> "networkx.Graph":  # fmt: skip
    """The networkx graph that :func:`write_graph` writes, with the same arguments.

    >>> import cofire, torch
    >>> acts = torch.tensor([[3.0, 2, 0, 0], [1, 1, 0, 0], [0, 0, 5, 4], [0, 0, 1, 2]]).repeat_interleave(4, 1)
    >>> stats = cofire.FiringStats.from_activations({"fc1": acts}, torch.tensor([0, 0, 1, 1]), top=4)
    >>> made = annotated(cofire.coactivation(stats["fc1"]), class_names=["cat", "dog"])
    >>> made.nodes[0]["label"], made.nodes[0]["class"], made.nodes[8]["class"]
    ('unit 0', 'cat', 'dog')
    """
    names = [str(c) for c in range(graph.classes)] if class_names is None else [str(name) for name in class_names]
    if len(names) != graph.classes:
        raise InputError("there must be one name per class", f"found {len(names)} names for {graph.classes} classes")
    if edges is not None and edges < 0:
        raise InputError("edges must not be negative", f"found {edges}")
    groups = communities(graph) if groups is None else groups
    made, cover = graph.to_networkx(edges), graph.cover.tolist()
    strength = graph.adjacency.sum(1)
    place, most = (force_layout(graph.adjacency) * _SPAN / 2).tolist(), float(strength.max()) if len(graph) else 1.0
    measures = _measures(layer, graph)
    for at, (unit, node) in enumerate(made.nodes(data=True)):
        c = node["class"]
        node.update({
            "label": f"unit {unit}", "unit": unit, "class": names[c],
            "represents": ", ".join(name for name, members in zip(names, cover, strict=True) if members[at]),
            "community": groups[at], "strength": float(strength[at]), **{name: values[at] for name, values in measures.items()},
            "viz": {
                "position": {"x": place[at][0], "y": place[at][1], "z": 0.0}, "color": {**_colour(c, graph.classes), "a": 1.0},
                "size": 4 + 12 * float(strength[at]) / max(most, 1e-12),
            },
        })  # fmt: skip
    return made


def _write_gexf(made: "networkx.Graph", path: str) -> None:
    """networkx writes the vertices; the edges, of which there may be millions, need no tree in memory."""
    import networkx

    head, tail = "\n".join(networkx.generate_gexf(networkx.create_empty_copy(made))).split("<edges />")
    with open(path, "w", encoding="utf8") as file:
        file.write(f"{head}<edges>\n")
        file.writelines(
            f'      <edge source="{one}" target="{other}" id="{at}" weight="{weight}" />\n'
            for at, (one, other, weight) in enumerate(made.edges(data="weight"))
        )
        file.write(f"    </edges>{tail}\n")


def _measures(layer: LayerStats | None, graph: Coactivation) -> dict[str, list[float]]:
    if layer is None:
        return {}
    found = {row.name: unit_values(layer, row.name) for row in MEASURES if row.per_unit}
    rate = layer.fire.sum(0).double() / layer.samples
    values = {"firing_rate": rate, **{name: value for name, value in found.items() if value is not None}}
    return {name: value[graph.vertices].tolist() for name, value in values.items()}


def _colour(c: int, classes: int) -> dict[str, int]:
    """Hues around the circle, every second one lighter, so that neighbours differ."""
    red, green, blue = colorsys.hls_to_rgb(c / max(classes, 1), 0.42 + 0.18 * (c % 2), 0.75)
    return {"r": round(255 * red), "g": round(255 * green), "b": round(255 * blue)}


def _flat(made: "networkx.Graph") -> "networkx.Graph":
    """GraphML has no place for colours; Gephi reads them from attributes of these names."""
    made = made.copy()
    for _, node in made.nodes(data=True):
        viz = node.pop("viz")
        node.update({"x": viz["position"]["x"], "y": viz["position"]["y"], "size": viz["size"]})
        node.update({name: viz["color"][name] for name in "rgb"})
    return made
