"""The co-firing graph in a report: what a browser draws, tells and lets one do, against the numbers of the JSON twin."""

import os
import re
from bisect import bisect_right
from pathlib import Path

import numpy as np
import pytest
import torch

import cofire
from browsing import into_view, reports, settle
from cofire.report.page import bundle
from cofire.stats import FiringStats

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far

AIR = 30  # pixels that the drawing leaves free around the vertices


def drawn(units: int = 60, classes: int = 4, samples: int = 400, seed: int = 0) -> torch.Tensor:
    """Activations of which each unit prefers one class, more or less."""
    generator = torch.Generator().manual_seed(seed)
    lift = torch.linspace(0, 3, units)[None] * (
        (torch.arange(samples) % classes)[:, None] == torch.arange(units)[None] % classes
    )
    return (torch.randn(samples, units, generator=generator) + lift - 0.4).relu()


def statistics(layers: dict, classes: int = 4, **kinds) -> FiringStats:
    samples = len(next(iter(layers.values())))
    return FiringStats.from_activations(layers, torch.arange(samples) % classes, classes, **kinds)


def digits() -> FiringStats:
    train = cofire.data.load("digits")
    net = cofire.zoo.fcnn([96, 64], 64, 10, seed=0)
    cofire.fit(net, train, train, epochs=4, lr=0.01, progress=False)
    return cofire.record(net, train.batches(256), progress=False, cofiring="union")


def odd() -> FiringStats:
    """Hostile names, an empty class, a layer that never fires, and one whose graph has no edge."""
    labels = torch.arange(400) % 4
    labels[labels == 2] = 3
    layers = {"<b>layer</b> & 'quotes'": drawn(), "dead": torch.zeros(400, 12), "tiny": drawn(3)}
    names = ["<script>alert(1)</script>", "a class name that goes on and on", "empty", "=1+2</script>"]
    return FiringStats.from_activations(layers, labels, 4, class_names=names)


def hundred() -> FiringStats:
    return statistics({"wide": drawn(900, 100, 2000)}, 100, class_names=[f"a kind of fish {c}" for c in range(100)])


def resnet50() -> FiringStats:
    """The last stage of torchvision's ResNet-50 over test images of CIFAR-10, with random weights."""
    root = os.environ.get("COFIRE_DATA") or Path(__file__).parents[2] / "shared" / "data"
    images = cofire.data.load("cifar10", "test", root=root, size=64, limit=60)
    net = cofire.zoo.model("torchvision:resnet50", classes=10, seed=0)
    return cofire.record(net, images.batches(20), layers="layer4.2.relu*", progress=False)


MAKERS = {
    "resnet50": resnet50,
    "digits": digits,
    "odd": odd,
    "a hundred classes": hundred,
    "one class": lambda: statistics({"a": drawn(60, 1)}, 1),
    "pairs of each class": lambda: statistics({"a": drawn()}, cofiring="class"),
    "no counts": lambda: statistics({"a": drawn()}, cofiring="none"),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return reports(tmp_path_factory, lambda kind: {"stats": MAKERS[kind](), "title": "A report"})


# ---------------------------------------------------------------- what a test knows of a drawing


class Graph:
    """The last graph of a twin, which is the one that a page shows first."""

    def __init__(self, numbers: dict, index: int = -1):
        index = range(len(numbers["graphs"]))[index]
        self.about = numbers["graphs"][index]
        self.classes = numbers["classes"]["names"]
        self.layer = numbers["layers"][self.about["layer"]]["name"]
        for name in ("unit", "x", "y", "class", "community", "strength", "members", "from", "to", "weight", "unique", "shared"):
            setattr(self, name, np.array(numbers["columns"][f"graph/{index}/{name}"]["values"]))

    def places(self, box: dict) -> np.ndarray:
        """Where vertices stand in the window while all are in view: the whole graph in the canvas, its shape kept."""
        wide, high = np.ptp(self.x), np.ptp(self.y)
        scale = min((box["width"] - 2 * AIR) / wide, (box["height"] - 2 * AIR) / high)
        x = box["x"] + box["width"] / 2 + (self.x - (self.x.max() + self.x.min()) / 2) * scale
        y = box["y"] + box["height"] / 2 + (self.y - (self.y.max() + self.y.min()) / 2) * scale
        return np.stack([x, y], 1)

    def strong(self, least: float) -> int:
        return bisect_right((-self.weight).tolist(), -least + 1e-9)

    def lonely(self, box: dict) -> list[int]:
        """Vertices without another one near them, so that a pointer cannot mean another, away from the buttons."""
        at = self.places(box)
        far = np.linalg.norm(at[:, None] - at, axis=2) + 1e9 * np.eye(len(at))
        free = (far.min(1) > 20) & ((at[:, 0] < box["x"] + box["width"] - 60) | (at[:, 1] > box["y"] + 100))
        return np.flatnonzero(free).tolist()


def drawing(page):
    canvas = page.locator("canvas.graph")
    into_view(page, page.locator("#graph .graph-frame"))
    return canvas, canvas.bounding_box()


def pixels(page) -> str:
    settle(page)
    return page.locator("canvas.graph").evaluate("canvas => canvas.toDataURL()")


def colourful(page) -> float:
    """Share of the drawing's pixels that have a strong colour."""
    settle(page)
    return page.locator("canvas.graph").evaluate("""canvas => {
      const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      [copy.canvas.width, copy.canvas.height] = [canvas.width, canvas.height];
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
      let strong = 0;
      for (let at = 0; at < data.length; at += 4) {
        const [least, most] = [Math.min(...data.slice(at, at + 3)), Math.max(...data.slice(at, at + 3))];
        strong += data[at + 3] > 200 && most - least > 70;
      }
      return strong / (canvas.width * canvas.height);
    }""")


def tip(page) -> list[str]:
    return page.locator("#tip > div").all_inner_texts() if page.locator("#tip").is_visible() else []


def value_in_tip(page, label: str) -> str:
    return page.locator(f"#tip .pair:has-text('{label}') b").get_attribute("data-value")


def edges_in_words(page) -> tuple[int, int, float]:
    words = page.locator("#graph output").inner_text()
    shown, total, least = re.match(r"Drawn: ([\d,]+) of ([\d,]+) edges?, of weight ([\d.]+) or more", words).groups()
    return int(shown.replace(",", "")), int(total.replace(",", "")), float(least)


# ---------------------------------------------------------------- tests


def test_the_page_carries_the_section():
    script = bundle("main.js")
    assert script.index('modules["sections/softmax.js"]') < script.index('modules["sections/graph.js"]')
    for name in ("graph", "graphdata", "graphdrawing", "graphtables"):
        assert f'modules["sections/{name}.js"]' in script


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["digits", "a hundred classes", "odd", "one class"])
def test_the_drawing_is_not_blank(opened, kind, scheme):
    page = opened(kind, scheme=scheme)
    assert [link for link in page.locator("#nav a").all_inner_texts() if link == "Co-firing graph"]
    if kind == "odd":
        page.locator("#graph").get_by_label("Layer", exact=True).select_option("0")
    canvas, _ = drawing(page)
    assert canvas.get_attribute("role") == "img"
    assert re.match(r"Co-firing graph of .+: [\d,]+ units coloured by class, ", canvas.get_attribute("aria-label"))
    assert 0.003 < colourful(page) < 0.5
    assert "could not be drawn" not in page.locator("#graph").inner_text()


@pytest.mark.browser
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("data_root")
def test_the_last_stage_of_a_resnet50_on_cifar10(opened, made):
    pytest.importorskip("torchvision")
    page, graph = opened("resnet50"), Graph(made("resnet50")[1])
    assert graph.layer == "layer4.2.relu#3"
    _, box = drawing(page)
    assert 0.003 < colourful(page) < 0.6
    vertex = graph.lonely(box)[0]
    page.mouse.move(*(graph.places(box)[vertex] + 1))
    assert tip(page)[0] == f"unit {graph.unit[vertex]} of layer4.2.relu#3"


@pytest.mark.browser
def test_hovering_over_a_vertex_tells_its_unit_and_classes(opened, made):
    page = opened("digits")
    graph = Graph(made("digits")[1])
    _, box = drawing(page)
    at = graph.places(box)
    shown = edges_in_words(page)[0]
    lonely = graph.lonely(box)
    assert len(lonely) >= 5
    several = [v for v in lonely if graph.members[:, v].sum() > 1][:2]
    for v in lonely[:4] + several:
        page.mouse.move(*(at[v] + 1))
        lines = tip(page)
        own = [graph.classes[c] for c in np.flatnonzero(graph.members[:, v])]
        assert lines[0] == f"unit {graph.unit[v]} of {graph.layer}"
        assert lines[1] == (f"represents class {own[0]}" if len(own) == 1 else
                            f"represents classes {', '.join(own[:-1])} and {own[-1]}")  # fmt: skip
        if len(own) > 1:
            assert value_in_tip(page, "largest mean") == graph.classes[graph.__dict__["class"][v]]
        assert value_in_tip(page, "community") == str(graph.community[v])
        assert float(value_in_tip(page, "strength")) == graph.strength[v]
        strong = slice(0, shown)
        edges = ((graph.__dict__["from"][strong] == v) | (graph.to[strong] == v)).sum()
        assert value_in_tip(page, "edges drawn") == str(edges)
    assert several
    page.mouse.move(5, 5)
    assert tip(page) == []


@pytest.mark.browser
def test_a_click_keeps_a_group_and_escape_releases_it(opened, made):
    page = opened("digits")
    graph = Graph(made("digits")[1])
    group = graph.__dict__["class"]
    _, box = drawing(page)
    v = graph.lonely(box)[0]
    x, y = graph.places(box)[v]
    legend = page.locator("#graph .graph-group")
    before, colours = pixels(page), colourful(page)

    def aside():
        page.mouse.move(5, 5)
        return pixels(page)

    page.mouse.click(x, y)
    kept = aside()
    assert kept != before
    assert colourful(page) < 0.6 * colours
    assert legend.nth(group[v]).get_attribute("aria-pressed") == "true"
    assert "stands out" in page.locator("canvas.graph").get_attribute("aria-label")
    own = int((group == group[v]).sum())
    more = int(graph.members[group[v]].sum()) - own
    words = page.locator("#graph [role=status]").inner_text()
    assert words.startswith(f"Class {graph.classes[group[v]]}: {own} units with their largest mean for it, and {more} more")
    page.keyboard.press("Escape")
    assert aside() == before
    assert page.locator("#graph .graph-group[aria-pressed=true]").count() == 0

    page.mouse.click(x, y)
    assert aside() == kept
    page.mouse.click(x, y)  # the same again
    assert aside() == before
    page.mouse.click(x, y)
    page.mouse.click(box["x"] + 4, box["y"] + 4)  # empty ground
    assert aside() == before
    legend.nth(group[v]).click()
    assert aside() == kept
    legend.nth(group[v]).click()
    assert aside() == before
    assert page.locator("#units h3").first.inner_text() != f"Unit {graph.unit[v]} of {graph.layer}" or v == 0


@pytest.mark.browser
def test_communities_colour_and_can_be_kept(opened, made):
    page = opened("digits")
    graph = Graph(made("digits")[1])
    _, box = drawing(page)
    before = pixels(page)
    page.locator("#graph").get_by_label("Colour by", exact=True).select_option("community")
    assert pixels(page) != before
    legend = page.locator("#graph .graph-group")
    assert legend.count() == graph.about["communities"]["count"]
    assert [int(text) for text in legend.locator(".many").all_inner_texts()] == graph.about["communities"]["sizes"]
    v = graph.lonely(box)[3]
    page.mouse.click(*graph.places(box)[v])
    assert legend.nth(graph.community[v]).get_attribute("aria-pressed") == "true"
    size = graph.about["communities"]["sizes"][graph.community[v]]
    assert page.locator("#graph [role=status]").inner_text().startswith(f"Community {graph.community[v]}: {size} units.")


@pytest.mark.browser
def test_the_slider_says_how_many_edges_are_drawn(opened, made):
    page = opened("digits")
    graph = Graph(made("digits")[1])
    drawing(page)
    slider = page.get_by_role("slider", name="Edges from weight")
    seen, drawings = [], []
    for key in (None, "ArrowRight", "End", "Home"):
        if key:
            slider.press(key)
        shown, total, least = edges_in_words(page)
        assert total == graph.about["edges"]
        assert shown == graph.strong(least)
        assert slider.get_attribute("aria-valuetext") == page.locator("#graph output").inner_text()
        seen.append(shown)
        drawings.append(pixels(page))
    assert seen[2] < seen[1] < seen[0] < seen[3] == graph.about["drawn_edges"]
    assert seen[2] >= 1
    assert len(set(drawings)) == 4
    assert ("holds only these" in page.locator("#graph output").inner_text()) == (seen[3] < graph.about["edges"])


@pytest.mark.browser
def test_the_drawing_moves_and_zooms(opened):
    page = opened("digits")
    canvas, box = drawing(page)
    whole = pixels(page)
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reset = page.locator("#graph").get_by_role("button", name="Reset view")

    page.mouse.move(*middle)
    top = page.evaluate("scrollY")
    page.mouse.wheel(0, 60)  # the page scrolls on, for the drawing has not been asked for
    page.wait_for_timeout(500)
    assert page.evaluate("scrollY") > top
    canvas, box = drawing(page)
    page.mouse.move(5, 5)
    assert pixels(page) == whole

    canvas.focus()
    for keys in (["+"], ["-"], ["ArrowLeft"], ["ArrowDown"], ["+", "ArrowUp", "ArrowRight"]):
        for key in keys:
            page.keyboard.press(key)
        assert pixels(page) != whole, keys
        page.keyboard.press("0")
        assert pixels(page) == whole, keys
    top = page.evaluate("scrollY")
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.wheel(0, -100)
    zoomed = pixels(page)
    assert zoomed != whole
    assert page.evaluate("scrollY") == top
    reset.click()
    assert pixels(page) == whole
    _, box = drawing(page)
    page.mouse.move(box["x"] + 6, box["y"] + 6)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 50, steps=4)
    page.mouse.up()
    page.mouse.move(5, 5)
    assert pixels(page) != whole
    assert page.locator("#graph .graph-group[aria-pressed=true]").count() == 0  # a drag is no click
    reset.click()
    assert pixels(page) == whole
    for name in ("Zoom in", "Zoom out"):
        page.locator("#graph").get_by_role("button", name=name).click()
        assert pixels(page) != whole
        reset.click()


@pytest.mark.browser
def test_ctrl_and_the_wheel_zoom_without_a_click(opened):
    page = opened("digits")
    _, box = drawing(page)
    whole = pixels(page)
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    assert pixels(page) != whole


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["digits", "a hundred classes"])
def test_the_heat_maps_tell_the_numbers(opened, made, kind):
    page = opened(kind)
    graph = Graph(made(kind)[1])
    names = {name: c for c, name in enumerate(graph.classes)}
    assert np.array_equal(np.diag(graph.unique), np.diag(graph.shared))
    for k, table in enumerate((graph.unique, graph.shared)):
        canvas = page.locator("#graph canvas.cells").nth(k)
        into_view(page, canvas)
        box = canvas.bounding_box()
        seen = set()
        for row in np.linspace(0.25, 0.98, 8):
            for across in np.linspace(0.25, 0.98, 8):
                page.mouse.move(box["x"] + across * box["width"], box["y"] + row * box["height"])
                lines = tip(page)
                if not lines:
                    continue
                one, two = re.fullmatch(r"class (.+)|classes .+", lines[0])[1], lines[0].removeprefix("classes ").split(" and ")
                i, j = (names[one], names[one]) if one is not None else (names[two[0]], names[two[1]])
                value = page.locator("#tip .pair b").get_attribute("data-value")
                assert int(value) == table[i, j], lines
                seen.add((i, j))
        assert len(seen) > 30
        page.mouse.move(5, 5)
        assert tip(page) == []
        canvas.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
        assert (
            tip(page)[0] == f"classes {graph.classes[1]} and {graph.classes[1]}" or tip(page)[0] == f"class {graph.classes[1]}"
        )
        page.locator("#graph canvas.graph").focus()


@pytest.mark.browser
def test_the_tables_hold_the_numbers_of_the_twin(opened, made):
    page = opened("digits")
    graph = Graph(made("digits")[1])
    rows = page.locator("#graph table.pairs tbody tr").all_inner_texts()
    assert len(rows) == len(graph.about["pairs"])
    for text, pair in zip(rows, graph.about["pairs"], strict=True):
        names, shared, unique, lot = text.split("\t")
        assert names == f"{graph.classes[pair['first']]} and {graph.classes[pair['second']]}"
        assert shared == f"{pair['shared']} of {pair['size']}"
        assert (int(unique), float(lot)) == (pair["unique"], pytest.approx(pair["expected"], abs=0.051))
        assert graph.shared[pair["first"], pair["second"]] == pair["shared"]
    rows = page.locator("#graph table.modularity tbody tr")
    blocks = (graph.about["modularity"], graph.about["modularity_union"])
    assert page.locator("#graph table.modularity .block").all_inner_texts() == [
        "Pairs within each class's own set",
        "All pairs of representative units",
    ]
    for k, (one, two) in enumerate(zip(*blocks, strict=True)):
        assert rows.nth(k).locator("th").inner_text().split("\n")[0] == one["of"]
        cells = [cell.replace("−", "-").removeprefix("± ") for cell in rows.nth(k).locator("td").all_inner_texts()]
        wanted = [row[key] for row in (one, two) for key in ("value", "spread", "independent")]
        for cell, value in zip(cells, wanted, strict=True):
            assert cell == "" if value is None else float(cell) == pytest.approx(value, abs=0.51e-4)
    found = graph.about["communities"]
    words = page.locator("#graph .lead.communities").inner_text()
    assert words.startswith(
        f"Louvain finds {found['count']} communities of on average {found['mean_size']:.1f}".removesuffix(".0")
    )
    for value in (found["agreement"], found["purity"], found["stability"]):
        assert f"{value:.3f}" in words
    cells = page.locator("#graph table.communities tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('td')].map(cell => Number(cell.dataset.value)))"
    )
    assert [row[:-1] for row in cells] == found["by_class"]
    assert [row[-1] for row in cells] == found["sizes"]


@pytest.mark.browser
def test_pairs_of_each_class_alone_give_one_block(opened, made):
    page = opened("pairs of each class")
    assert made("pairs of each class")[1]["graphs"][0]["modularity_union"] is None
    assert page.locator("#graph table.modularity .block").count() == 0
    assert page.locator("#graph table.modularity thead th").all_inner_texts() == ["Of", "Value", "Over seeds", "If independent"]


@pytest.mark.browser
def test_a_hundred_classes_stay_usable(opened, made):
    page = opened("a hundred classes")
    graph = Graph(made("a hundred classes")[1])
    group = graph.__dict__["class"]
    drawing(page)
    before = pixels(page)
    legend = page.locator("#graph .graph-group")
    sizes = np.bincount(group, minlength=100)
    assert [int(text) for text in legend.locator(".many").all_inner_texts()] == sorted(sizes, reverse=True)[:12]
    every = page.locator("#graph").get_by_label("All 100 classes")
    assert every.locator("option").count() == 101
    every.select_option("57")
    assert pixels(page) != before
    assert page.locator("#graph [role=status]").inner_text().startswith(f"Class a kind of fish 57: {sizes[57]} units")
    page.keyboard.press("Escape")
    assert pixels(page) == before
    assert every.input_value() == ""
    largest = int(np.lexsort((np.arange(100), -sizes))[0])
    legend.first.click()
    assert every.input_value() == str(largest)
    assert page.locator("#graph table.communities").count() == 0  # too large to be read
    assert page.locator("#graph table.pairs tbody tr").count() == 10


@pytest.mark.browser
def test_another_layer_brings_its_own_graph(opened, made):
    page = opened("digits")
    graph = Graph(made("digits")[1], 0)
    _, box = drawing(page)
    before = pixels(page)
    page.locator("#graph .graph-group").first.click()
    page.locator("#graph").get_by_label("Layer", exact=True).select_option("0")
    assert pixels(page) != before
    assert page.locator("#graph .graph-group[aria-pressed=true]").count() == 0
    assert f"{graph.about['vertices']} units of {graph.layer}" in page.locator("#graph .note").first.inner_text()
    assert edges_in_words(page)[1] == graph.about["edges"]
    _, box = drawing(page)
    v = graph.lonely(box)[0]
    page.mouse.move(*graph.places(box)[v])
    assert tip(page)[0] == f"unit {graph.unit[v]} of {graph.layer}"


@pytest.mark.browser
def test_layers_without_a_graph_or_an_edge_say_so(opened):
    page = opened("odd")
    section = page.locator("#graph")
    assert section.locator("output").inner_text() == "There is no edge."
    assert section.get_by_role("slider").is_disabled()
    section.get_by_label("Layer", exact=True).select_option("1")
    assert section.locator(".absent").inner_text() == "No unit of dead stands for a class: there is no graph to draw."
    assert section.locator("canvas:visible").count() == 0
    section.get_by_label("Layer", exact=True).select_option("0")
    drawing(page)
    assert colourful(page) > 0.003
    assert section.locator(".absent:visible").count() == 0
    assert "<script>alert(1)</script>" in section.locator(".graph-group").first.inner_text()


@pytest.mark.browser
def test_statistics_without_counts_say_so(opened):
    page = opened("no counts")
    words = page.locator("#graph .absent").inner_text()
    assert "co-firing counts were not recorded" in words
    for choice in ("cache", "two-pass", "class", "union"):
        assert f"“{choice}”" in words
    assert page.locator("#graph canvas").count() == 0


@pytest.mark.browser
def test_the_schemes_differ_and_a_change_repaints(opened):
    page = opened("digits")
    drawing(page)
    light = [pixels(page), page.locator("#graph canvas.cells").first.evaluate("canvas => canvas.toDataURL()")]
    shade = "node => getComputedStyle(node).backgroundColor"
    swatch = page.locator("#graph .dot").first.evaluate(shade)
    page.emulate_media(color_scheme="dark")
    dark = [pixels(page), page.locator("#graph canvas.cells").first.evaluate("canvas => canvas.toDataURL()")]
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert page.locator("#graph .dot").first.evaluate(shade) != swatch


@pytest.mark.browser
@pytest.mark.parametrize("count", [2, 12, 30, 100])
def test_colours_of_groups_differ_and_stand_out(opened, count):
    for scheme in ("light", "dark"):
        page = opened("one class", scheme=scheme)
        found = page.evaluate(f"modules['colours.js'].categories({count})")
        assert len({tuple(colour) for colour in found}) == count
        paper = np.array(page.evaluate("modules['colours.js'].bytes('panel')"))
        assert min(contrast(np.array(colour), paper) for colour in found) > 2


def contrast(one: np.ndarray, two: np.ndarray) -> float:
    light = []
    for colour in (one, two):
        share = colour / 255
        light.append(np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])
    return (max(light) + 0.05) / (min(light) + 0.05)


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["digits", "a hundred classes", "odd"])
def test_nothing_sticks_out_of_a_narrow_window(opened, kind):
    page = opened(kind, 400)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    _, box = drawing(page)
    assert box["width"] <= 400
    assert page.locator("#graph .graph-group").first.is_visible()
