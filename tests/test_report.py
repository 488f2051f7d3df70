"""The report: its numbers, its size, its safety, and what a browser without a network makes of it."""

import base64
import csv
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import cofire
from browsing import into_view, reports
from cofire import report
from cofire.errors import InputError
from cofire.report.choosing import fewer_bins, spread
from cofire.report.columns import column, decimals, encode, plain
from cofire.report.ordering import by_class, by_likeness
from cofire.report.page import bundle, embedded
from cofire.report.violins import outline, quartiles
from cofire.stats import FiringStats

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far

SECTIONS = (
    "overview", "measures", "firing", "softmax", "graph", "units", "maps", "table", "ablation", "boost", "trust", "training",
    "carry", "reproduction",
)  # fmt: skip
HOSTILE = [
    "<script>alert(1)</script>",
    "a class name that goes on and on",
    "empty",
    '=1+2</script><img src=x onerror="alert(2)">',
]


def drawn(units: int = 60, classes: int = 4, samples: int = 400, seed: int = 0, signed: bool = False) -> torch.Tensor:
    """Activations of which each unit prefers one class, more or less."""
    generator = torch.Generator().manual_seed(seed)
    lift = torch.linspace(0, 3, units)[None] * (
        (torch.arange(samples) % classes)[:, None] == torch.arange(units)[None] % classes
    )
    values = torch.randn(samples, units, generator=generator) + lift - 0.4
    return values.tanh() if signed else values.relu()


def statistics(classes: int = 4, samples: int = 400, layers: dict | None = None, **kinds) -> FiringStats:
    layers = {"a": drawn(60, classes, samples), "b": drawn(30, classes, samples, 1)} if layers is None else layers
    return FiringStats.from_activations(layers, torch.arange(samples) % classes, classes, **kinds)


def odd() -> FiringStats:
    """Hostile names, an empty class, a dead layer, negative activations."""
    labels = torch.arange(400) % 4
    labels[labels == 2] = 3
    layers = {'<b>layer</b> & "quotes"': drawn(), "dead": torch.zeros(400, 12), "tanh": drawn(30, signed=True)}
    return FiringStats.from_activations(layers, labels, 4, class_names=HOSTILE)


def digits() -> tuple[FiringStats, FiringStats]:
    train, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
    net = cofire.zoo.fcnn([48, 32], 64, 10, seed=0)
    cofire.fit(net, train, test, epochs=4, lr=0.01, progress=False)
    return cofire.record(net, train.batches(256), progress=False), cofire.record(net, test.batches(256), progress=False)


def convolutional() -> FiringStats:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    pictures, labels = torch.randn(60, 3, 32, 32), torch.arange(60) % 5
    batches = [(pictures[i : i + 20], labels[i : i + 20]) for i in range(0, 60, 20)]
    return cofire.record(models.resnet18(num_classes=5), batches, progress=False)


MAKERS = {
    "digits": digits,
    "convolutional": lambda: (convolutional(), None),
    "odd": lambda: (odd(), None),
    "one layer": lambda: (statistics(layers={"only": drawn()}), None),
    "one class": lambda: (statistics(classes=1), None),
    "a hundred classes": lambda: (statistics(100, 1000), statistics(100, 500)),
    "sketch": lambda: (statistics(histograms="sketch"), None),
    "no layers": lambda: (FiringStats({}, torch.zeros(3, dtype=torch.int64)), None),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    def given(kind: str):
        stats, test = MAKERS[kind]()
        said = {"title": "A report", "command": "cofire demo", "seed": 7, "notes": "Notes & <i>more</i>"}
        return {"stats": stats, "test": test, **said}

    return reports(tmp_path_factory, given)


# ---------------------------------------------------------------- the numbers


def decoded(html: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The plain values and the columns that a page carries, read by other code than the viewer's."""
    meta = json.loads(re.search(r'<script type="application/json" id="meta">(.*?)</script>', html, re.S)[1])
    packed = re.search(r'<script type="application/octet-stream" id="data">(.*?)</script>', html, re.S)[1]
    data = gzip.decompress(base64.b64decode(packed))
    columns = {}
    for name, head in meta["columns"].items():
        kind = np.dtype("<" + head["type"])
        stored = np.frombuffer(data, kind, int(np.prod(head["shape"])), head["at"]).reshape(head["shape"])
        missing = np.iinfo(kind).max if head["type"].startswith("u") else np.iinfo(kind).min
        columns[name] = np.where(stored == missing, np.nan, stored / head["per"])
    return meta, columns


@pytest.mark.parametrize("kind", MAKERS)
def test_page_and_twin_hold_the_same_numbers(made, kind):
    path, numbers, _ = made(kind)
    meta, columns = decoded(path.read_text("utf8"))
    assert numbers["schema"] == report.contents.SCHEMA
    assert numbers["columns"].keys() == columns.keys()
    for name, values in columns.items():
        theirs = np.array(numbers["columns"][name]["values"], dtype=float).reshape(values.shape)
        assert np.array_equal(values, theirs, equal_nan=True), name
    assert {key: value for key, value in meta.items() if key not in ("columns", "numbers_file")} == {
        key: value for key, value in numbers.items() if key not in ("columns", "derived")
    }


def test_the_numbers_are_those_of_the_measures(made):
    _, numbers, given = made("digits")
    stats = given["stats"]
    columns = {name: np.array(entry["values"], dtype=float) for name, entry in numbers["columns"].items()}
    for index, layer in enumerate(stats.values()):
        first = numbers["layers"][index]["first"]
        here = slice(first, first + layer.units)
        assert np.abs(columns[f"firing/{index}"] - cofire.firing_probability(layer).T.numpy()).max() <= 0.5e-4
        assert np.abs(columns["entropy/mean_first"][index] - cofire.softmax_entropy(layer).numpy()).max() <= 0.5e-6
        assert np.abs(columns["unit/mutual_information"][here] - cofire.mutual_information(layer).numpy()).max() <= 0.5e-5
        means = cofire.class_means(layer).T.numpy()
        assert np.allclose(columns[f"means/{index}"], means, atol=means.max() * 1e-4)
        assert columns[f"shares/{index}"].sum(0) == pytest.approx(1, abs=1e-3)
        counts = columns[f"histogram/{index}"].sum(1)
        assert np.array_equal(counts + columns["unit/zeros"][here], np.full(layer.units, layer.samples))
        by_class = columns[f"by_class/{index}"].sum(2) + columns[f"by_class_zeros/{index}"]
        assert np.array_equal(by_class, np.broadcast_to(layer.class_counts.numpy(), by_class.shape))


def test_the_maps_are_means(made):
    _, numbers, given = made("convolutional")
    stats = given["stats"]
    for index, layer in enumerate(stats.values()):
        if layer.maps is None:
            assert f"maps/{index}" not in numbers["columns"]
            continue
        maps = (layer.maps / layer.class_counts[:, None, None]).numpy()
        assert np.allclose(numbers["columns"][f"maps/{index}"]["values"], maps, atol=np.abs(maps).max() * 1e-3)


def test_the_reproduction_block_is_complete(made):
    _, numbers, given = made("digits")
    stats = given["stats"]
    block = numbers["reproduction"]
    assert block["command"] == "cofire demo"
    assert block["seed"] == 7
    assert block["model"]["digest"] == stats.header["model"]["digest"]
    assert len(block["data"]["digest"]) == 64
    assert block["versions"]["torch"] == torch.__version__
    assert block["choices"]["bins"] == 30
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", block["created"])
    assert os.uname().nodename not in json.dumps(block) or len(os.uname().nodename) < 4


def test_every_measure_and_column_has_words(made):
    _, numbers, _ = made("digits")
    known = {row["name"] for row in numbers["glossary"]["measures"]} | set(numbers["glossary"]["columns"])
    for name in numbers["columns"]:
        group, _, part = name.partition("/")
        assert group in known or part in known, name
    assert all(row["words"] and row["unit"] and row["source"] for row in numbers["glossary"]["measures"])


# ---------------------------------------------------------------- size


def test_a_report_on_a_thousand_units_is_small(tmp_path):
    layers = {"fc1": drawn(512, 10, 2000), "fc2": drawn(512, 10, 2000, 1)}
    stats = statistics(10, 2000, layers)
    path = report.write(stats, tmp_path / "r.html", test=stats)
    assert path.stat().st_size < 1_500_000


def test_what_is_left_out_is_said():
    stats = statistics(1000, 1000, {"wide": drawn(900, 1000, 1000), "narrow": drawn(20, 1000, 1000)}, by_class=False)
    shown = report.payload(stats)
    assert shown.columns["firing/0"].stored.size + shown.columns["firing/1"].stored.size <= 600_000
    assert len(shown.columns["profile_units/0"].stored) == 580
    assert "profile_units/1" not in shown.columns  # a small layer stays whole
    assert shown.meta["left_out"]["firing"] == [
        "To keep this page small, values by class cover 600 of 920 units: those of each layer with the largest mutual information."
    ]
    assert len(json.dumps(report.twin(shown))) < 20_000_000


def test_many_bins_are_joined():
    assert report.payload(statistics(bins=600)).columns["histogram/0"].stored.shape[1] == 60
    prime = report.payload(statistics(bins=997))
    assert prime.columns["histogram/0"].stored.shape[1] == 30
    assert prime.meta["left_out"]["units"] == [
        "The 997 bins of 'a' do not join evenly into fewer: there are no histograms by class."
    ]


# ---------------------------------------------------------------- safety


def test_the_page_allows_only_its_own_script_and_style(made):
    html = made("odd")[0].read_text("utf8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)[1]
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy


def test_names_are_never_markup(made):
    html = made("odd")[0].read_text("utf8")
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "<b>layer" not in html
    assert "<i>more" not in html
    assert json.loads(embedded({"a": "</script><!--"})) == {"a": "</script><!--"}
    assert not set("<>&") & set(embedded({"a": "</script><!-- & -->"}))


def test_the_page_names_no_other_host(made):
    html = made("digits")[0].read_text("utf8").replace("http://www.w3.org/2000/svg", "")
    assert (
        re.findall(r"""(?:https?:)?//[a-z0-9-]+\.[a-z]{2,}""", re.sub(r"<script type=.*?</script>", "", html, flags=re.S)) == []
    )


def test_the_title_is_escaped(tmp_path):
    path = report.write(statistics(), tmp_path / "r.html", title="</title><script>alert(3)</script>")
    assert "<script>alert" not in path.read_text("utf8")


def test_the_viewer_is_one_script_of_small_modules():
    script = bundle("main.js")
    assert not re.search(r"^(import|export) ", script, re.M)
    assert "</script" not in script
    folder = files("cofire.report") / "viewer"
    sources = {
        entry.name: entry.read_text("utf8")
        for entry in [*folder.iterdir(), *(folder / "sections").iterdir()]
        if entry.is_file()
    }
    assert {f"{name}.js" for name in SECTIONS} <= sources.keys()
    assert [name for name, text in sources.items() if len(text.splitlines()) > 400] == []
    assert [name for name in sources if name.endswith(".js") and not sources[name].startswith("// ")] == []
    assert [name for name, text in sources.items() if "innerHTML" in text or "eval(" in text] == []


# ---------------------------------------------------------------- laws of the parts

numbers_or_nan = st.floats(-1e5, 1e5) | st.just(float("nan"))


@settings(deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(1, 4)), elements=numbers_or_nan),
    st.sampled_from([1, 10, 10_000]),
)
def test_a_column_keeps_numbers_to_half_a_step(values, per):
    kept = np.array(plain(column(values, "a b", per)), dtype=float).reshape(values.shape)
    assert np.array_equal(np.isnan(kept), np.isnan(values))
    assert np.all(np.nan_to_num(np.abs(kept - values)) <= 0.5 / per + 1e-9)


@given(arrays(np.float64, 7, elements=st.floats(0, 1)))
def test_a_column_read_back_from_bytes_is_the_same(values):
    made = {"a": column(values, "units", 1000), "b": column(-values, "units", 1000)}
    headers, text = encode(made)
    data = gzip.decompress(base64.b64decode(text))
    for name, one in made.items():
        head = headers[name]
        assert head["at"] % 4 == 0
        assert np.array_equal(np.frombuffer(data, "<" + head["type"], 7, head["at"]), one.stored)


@given(st.floats(1e-12, 1e12), st.integers(1, 6))
def test_decimals_leave_the_digits_asked_for(size, digits):
    per = decimals(size, digits)
    assert size * per < 10.0**digits * 1.001
    assert size * per >= 10.0 ** (digits - 1) * 0.999


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 300), min_size=1), st.integers(1, 2000), st.integers(1, 5))
def test_a_budget_is_kept_and_used(units, budget, cost):
    costs = dict.fromkeys(units, cost)
    counts = spread(units, costs, budget)
    assert sum(counts.values()) * cost <= budget
    assert all(counts[name] <= units[name] for name in units)
    if counts != units:
        assert sum(min(units[name], max(counts.values()) + 1) for name in units) * cost > budget


@given(arrays(np.float64, st.tuples(st.integers(1, 20), st.integers(1, 5)), elements=st.floats(0, 1)))
def test_orders_hold_every_unit_once(profiles):
    assert sorted(by_likeness(profiles)) == list(range(len(profiles)))
    preferred = np.where(profiles.any(1), profiles.argmax(1), -1)
    order = by_class(preferred, profiles.max(1))
    assert sorted(order) == list(range(len(profiles)))
    groups = [p if p >= 0 else 99 for p in preferred[order]]
    assert groups == sorted(groups)


@given(arrays(np.float64, st.integers(0, 50), elements=st.floats(0, 10)))
def test_an_outline_is_a_share_of_its_peak(values):
    shape = outline(values)
    assert shape.shape == (64,)
    assert shape.min() >= 0
    assert shape.max() == pytest.approx(1) or not shape.any()
    ends = quartiles(values)
    assert np.isnan(ends).all() if not len(values) else (np.diff(ends[:5]) >= 0).all()


def test_an_outline_follows_the_density():
    values = np.random.default_rng(0).normal(size=20_000)
    at = np.linspace(values.min(), values.max(), 64)
    assert np.abs(outline(values) - np.exp(-(at**2) / 2)).max() < 0.06


@given(st.integers(1, 10_000))
def test_fewer_bins_nest(bins):
    found = fewer_bins(bins)
    assert found is None or (bins % found == 0 and found <= 60)


# ---------------------------------------------------------------- errors


def test_a_path_for_the_twin_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        report.write(statistics(), tmp_path / "r.json")
    assert str(caught.value).startswith("path names the HTML file; found ")
    assert str(caught.value).endswith("which is where the numbers go. Let it end in .html.")
    assert list(tmp_path.iterdir()) == []


def test_test_statistics_of_other_layers_are_refused(tmp_path):
    with pytest.raises(InputError, match="only one of them has 'b', 'c'"):
        report.write(statistics(), tmp_path / "r.html", test=statistics(layers={"a": drawn(), "c": drawn(30)}))


# ---------------------------------------------------------------- in a browser

DRAWN = """section => {
  const shapes = [...section.querySelectorAll("svg :is(path, rect, line, circle):not(.hit)")].filter(node => {
    const box = node.getBoundingClientRect();
    return box.width + box.height > 1;
  }).length;
  const pictures = [...section.querySelectorAll("canvas")].filter(canvas => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 4; at < data.length; at += 4)
      if (data[at] !== data[0] || data[at + 1] !== data[1] || data[at + 3] !== data[3]) return true;
    return false;
  }).length;
  const rows = section.querySelectorAll("tbody tr, dl > div").length;
  const why = [...section.querySelectorAll(".absent, .gone")].map(node => node.textContent);
  return { shapes, pictures, rows, why };
}"""


@pytest.mark.browser
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "no layers"])
def test_every_section_shows_something(opened, kind):
    page = opened(kind)
    for name in SECTIONS:
        section = page.locator(f"#{name}")
        found = section.evaluate(DRAWN)
        if name in ("overview", "table", "reproduction"):
            assert found["rows"] > 0, name
        elif name == "maps" and kind != "convolutional":
            assert found["why"][0].startswith("No layer here is convolutional")
        elif name == "carry" and kind not in ("digits", "a hundred classes"):
            assert found["why"][0].startswith("There is nothing to compare with")
        elif name == "ablation":
            assert found["why"][0].startswith("There is no ablation here")
        elif name in ("boost", "trust", "training"):
            assert found["why"][0].startswith(f"There is no {name} here")
        elif name == "graph" and kind == "sketch":
            assert "co-firing counts were not recorded" in found["why"][0]
        else:
            assert found["shapes"] + found["pictures"] > 0, name
            assert not [text for text in found["why"] if "could not be drawn" in text], name


@pytest.mark.browser
def test_statistics_without_layers_say_so(browser, made):
    context = browser.new_context()
    page = context.new_page()
    page.goto(made("no layers")[0].as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    assert "there is no layer" in page.locator("#firing").inner_text()
    assert page.locator("#reproduction dl > div").count() > 5
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("kind", ["digits", "odd", "convolutional"])
def test_nothing_sticks_out_sideways(opened, kind, width):
    page = opened(kind, width)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def value_in_tip(page, label: str) -> float:
    return float(page.locator(f"#tip .pair:has-text('{label}') b").get_attribute("data-value"))


@pytest.mark.browser
def test_hovering_over_the_heat_map_tells_unit_class_and_value(opened, made):
    page = opened("digits")
    numbers = made("digits")[1]
    canvas = page.locator("canvas.heat")
    into_view(page, canvas)
    box = canvas.bounding_box()
    seen = set()
    for share in (0.05, 0.3, 0.62, 0.95):
        for c in (0, 4, 9):
            page.mouse.move(box["x"] + share * box["width"], box["y"] + (c + 0.5) * 24)
            head, name = page.locator("#tip > div").nth(0).inner_text(), page.locator("#tip > div").nth(1).inner_text()
            unit, layer = re.fullmatch(r"unit (\d+) of (.+)", head).groups()
            assert name == f"class {c}"
            index = [entry["name"] for entry in numbers["layers"]].index(layer)
            for label, group in (("P(fires", "firing"), ("mean activation", "means")):
                assert value_in_tip(page, label) == numbers["columns"][f"{group}/{index}"]["values"][int(unit)][c]
            seen.add(unit)
    assert len(seen) == 4
    page.mouse.move(5, 5)
    assert page.locator("#tip").is_hidden()


@pytest.mark.browser
def test_the_heat_map_works_from_the_keyboard(opened):
    page = opened("digits")
    page.locator("canvas.heat").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    unit = re.match(r"unit (\d+) of", page.locator("#tip > div").nth(0).inner_text())[1]
    assert page.locator("#tip > div").nth(1).inner_text() == "class 1"
    page.keyboard.press("Enter")
    assert page.locator("#units h3").first.inner_text().startswith(f"Unit {unit} of ")


@pytest.mark.browser
def test_other_layers_orders_and_widths_repaint_the_heat_map(opened):
    page = opened("digits")
    section = page.locator("#firing")
    pictures = [page.locator("canvas.heat").evaluate("c => c.toDataURL()")]
    for label, value in (
        ("Layer", "0"),
        ("Units ordered by", "likeness"),
        ("Colour", "means"),
        ("Units ordered by", "unit"),
        ("Width", "12"),
    ):
        section.get_by_label(label, exact=True).select_option(value)
        page.wait_for_timeout(50)
        pictures.append(page.locator("canvas.heat").evaluate("c => c.toDataURL()"))
    assert len(set(pictures)) >= 5


@pytest.mark.browser
def test_the_unit_table_sorts_filters_and_picks(opened, made):
    page = opened("digits")
    numbers = made("digits")[1]
    table = page.locator("#table")
    names = [row["name"] for row in numbers["glossary"]["measures"] if f"unit/{row['name']}" in numbers["columns"]]
    at = 4 + names.index("class_selectivity")

    def cells(place: int) -> list[str]:
        return table.locator("tbody tr:not(.gap)").evaluate_all(f"rows => rows.map(row => row.children[{place}].textContent)")

    values = np.array(numbers["columns"]["unit/class_selectivity"]["values"])
    table.get_by_role("button", name="Class selectivity").click()
    assert cells(at)[0] == f"{values.max():.4f}"
    assert [float(v) for v in cells(at)] == sorted((float(v) for v in cells(at)), reverse=True)
    table.get_by_role("button", name="Class selectivity").click()
    assert [float(v) for v in cells(at)] == sorted(float(v) for v in cells(at))

    status, words = table.get_by_role("status"), table.get_by_role("searchbox")
    words.fill("class_selectivity > 0.5 and dead = no")
    wanted = int((values > 0.5).sum())
    assert status.inner_text().startswith(f"{wanted} of 80 units")
    words.fill("class_selectivity > 0.5 and layer = relu2")
    assert set(cells(0)) == {"relu2"}
    words.fill("no_such_column > 1")
    assert status.inner_text().startswith("No column is called “no_such_column”. There are layer, unit,")
    words.fill("mean > much")
    assert status.inner_text() == "“much” is not a number."
    words.fill("")
    table.get_by_label("dead only").check()
    dead = int(np.sum(numbers["columns"]["unit/dead"]["values"]))
    assert status.inner_text().startswith(f"{dead} of 80 units")
    table.get_by_label("dead only").uncheck()
    table.get_by_label("Layer", exact=True).select_option("0")
    assert status.inner_text().startswith("48 of 80 units")

    row = table.locator("tbody tr:not(.gap)").nth(2)
    unit = row.locator("td").nth(1).inner_text()
    row.click()
    assert page.locator("#units h3").first.inner_text() == f"Unit {unit} of relu1"


@pytest.mark.browser
def test_picking_a_unit_shows_its_own_numbers(opened, made):
    page = opened("digits")
    columns = {name: entry["values"] for name, entry in made("digits")[1]["columns"].items()}
    units = page.locator("#units")
    units.get_by_label("Layer", exact=True).select_option("1")
    units.get_by_role("spinbutton").fill("5")
    units.get_by_role("spinbutton").press("Enter")
    assert units.locator("h3").first.inner_text() == "Unit 5 of relu2"
    row = 48 + 5
    assert (
        float(units.locator("tr:has-text('KL selectivity') td").first.get_attribute("data-value"))
        == columns["unit/kl_selectivity"][row]
    )
    bar = units.locator("figure:has-text('What it does for each class') g.bar").nth(3)
    bar.locator("rect.hit").hover()
    assert value_in_tip(page, "P(fires") == columns["firing/1"][5][3]
    counts = columns["histogram/1"][5]
    most = int(np.argmax(counts))
    units.locator("figure:has-text('over all samples') g.bar rect.hit").nth(most).hover()
    assert value_in_tip(page, "samples") == counts[most]
    units.get_by_role("button", name="Next unit").click()
    assert units.locator("h3").first.inner_text() == "Unit 6 of relu2"


@pytest.mark.browser
def test_the_table_downloads_as_csv(opened, made, tmp_path):
    page = opened("odd")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download CSV").click()
    waiting.value.save_as(tmp_path / "units.csv")
    with (tmp_path / "units.csv").open(newline="", encoding="utf8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 102
    assert {row["layer"] for row in rows} == {'<b>layer</b> & "quotes"', "dead", "tanh"}
    preferred = {row["preferred_class"] for row in rows}
    assert "<script>alert(1)</script>" in preferred
    assert not [name for name in preferred if name.startswith("=")]  # a spreadsheet would run it
    first = next(row for row in rows if row["layer"] == "tanh" and row["unit"] == "0")
    assert float(first["mutual_information"]) == made("odd")[1]["columns"]["unit/mutual_information"]["values"][72]


@pytest.mark.browser
def test_names_are_shown_as_text(opened):
    page = opened("odd")
    text = page.locator("main").inner_text()
    for name in (HOSTILE[0], '<b>layer</b> & "quotes"', "Notes & <i>more</i>"):
        assert name in text
    assert page.locator("main :is(img, script, i)").count() == 0
    assert "There is no sample of class 'empty'" in text


@pytest.mark.browser
def test_the_scheme_follows_the_reader(opened):
    seen = []
    for scheme in ("light", "dark"):
        page = opened("digits", scheme=scheme)
        seen.append(
            (
                page.evaluate("getComputedStyle(document.body).backgroundColor"),
                page.locator("canvas.heat").evaluate("c => c.toDataURL()"),
            )
        )
        # Words stand out from the paper: at least 4.5 to 1.
        contrast = page.evaluate("""() => {
          const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          const paper = light(getComputedStyle(document.body).backgroundColor);
          return Math.min(...[...document.querySelectorAll("p, li, th, td, figcaption span, .tile small, svg text")].map((node) => {
            const style = getComputedStyle(node);
            const own = light(node instanceof SVGElement ? style.fill : style.color);
            return (Math.max(own, paper) + 0.05) / (Math.min(own, paper) + 0.05);
          }));
        }""")
        assert contrast >= 4.5
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


@pytest.mark.browser
def test_the_colours_step_evenly_in_lightness(opened):
    page = opened("digits")
    for name in ("sequential", "diverging"):
        steps = page.evaluate(f"""() => {{
          const light = ([r, g, b]) => {{
            const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            const l = Math.cbrt(0.4122214708 * x + 0.5363325363 * y + 0.0514459929 * z);
            const m = Math.cbrt(0.2119034982 * x + 0.6806995451 * y + 0.1073969566 * z);
            const n = Math.cbrt(0.0883024619 * x + 0.2817188376 * y + 0.6299787005 * z);
            return 0.2104542553 * l + 0.793617785 * m - 0.0040720468 * n;
          }};
          return modules["colours.js"].{name}().map(light);
        }}""")
        half = np.array(steps if name == "sequential" else steps[128:])
        change = np.diff(half)
        assert (change < 0.002).all()  # light paper: ever darker
        assert np.abs(np.convolve(change, np.ones(16) / 16, "valid") - change.mean()).max() < 0.4 * abs(change.mean())


@pytest.mark.browser
def test_a_report_prints_on_light_paper(opened):
    page = opened("digits", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--paper')").strip() == "#fcfbf8"
    assert page.locator("#nav").is_hidden()


@pytest.mark.browser
def test_the_picture_for_readme_is_small(browser, made, tmp_path):
    script = Path(__file__).resolve().parent.parent / "docs" / "picture.py"
    target = tmp_path / "demo.png"
    done = subprocess.run([sys.executable, script, made("digits")[0], target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    png = target.read_bytes()
    assert len(png) < 300_000
    assert int.from_bytes(png[16:20], "big") == 1280


@pytest.mark.browser
@pytest.mark.slow
def test_fifty_thousand_units_stay_smooth(browser, tmp_path):
    layers = {f"l{i}": drawn(5000, 10, 200, i) for i in range(10)}
    path = report.write(statistics(10, 200, layers, by_class=False), tmp_path / "r.html")
    assert path.stat().st_size < 8_000_000
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=30_000)
    assert page.locator("#table tbody tr").count() < 60
    page.locator("#table .units").evaluate("view => { view.scrollTop = 700000; }")
    page.wait_for_timeout(200)
    assert page.locator("#table tbody tr").count() < 60
    assert int(page.locator("#table tbody tr:not(.gap)").nth(8).get_attribute("aria-rowindex")) > 24_000
    page.locator("#table input[type=search]").fill("mutual_information > 0.2 and layer = l3")
    page.wait_for_timeout(600)
    assert " of 50,000 units" in page.locator("#table [role=status]").inner_text()
    context.close()


def test_the_twin_holds_places_and_shares_of_zeros():
    acts = torch.tensor([[3.0, 0, 1, 2], [1, 0, 0, 2], [0, 0, 0, 4], [0, 0, 1, 3]])
    stats = FiringStats.from_activations({"a": acts, "b": acts.flip(1)}, torch.tensor([0, 0, 1, 1]), top=1)
    numbers = report.twin(report.payload(stats))
    assert numbers["derived"]["zero_share"] == [0.5, 1.0, 0.5, 0.0, 0.0, 0.5, 1.0, 0.5]
    assert numbers["derived"]["place/mutual_information"] == [1, None, 2, 2, 2, 2, None, 1]
    values = numbers["columns"]["unit/activation_entropy"]["values"]
    for first in (0, 4):
        live = [values[first + unit] for unit in range(4) if not numbers["columns"]["unit/dead"]["values"][first + unit]]
        for unit in range(4):
            place = numbers["derived"]["place/activation_entropy"][first + unit]
            assert place is None or place == 1 + sum(other > values[first + unit] for other in live)
