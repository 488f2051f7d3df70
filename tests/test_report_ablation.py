"""Ablation curves in a report: what a browser draws, tells and lets one choose, against the numbers of the JSON twin."""

import re

import pytest
import torch

import cofire
from browsing import into_view, reports, settle, tip
from cofire.curves import Curve
from cofire.report.page import bundle
from cofire.stats import FiringStats

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far

HOSTILE = "<b>layer</b> & 'quotes'"
WORDS = {"ascending": "low values first", "descending": "high values first"}


def digits() -> tuple[FiringStats, list[Curve]]:
    """Two layers and both together, held at mean or zero, by three measures and at random; in one place by one more."""
    train, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
    net = cofire.zoo.model("fcnn:64-32-32-10", seed=0)
    cofire.fit(net, train, epochs=6, lr=0.01, seed=0, progress=False)
    stats = cofire.record(net, train.batches(256), covariance=True, progress=False)

    def curve(layers, fill, by, order, **kinds):
        return cofire.ablate(net, test.batches(256), stats, by, order, layers, fill, progress=False, **kinds)

    curves = []
    for layers, fill in (("relu1", "mean"), ("relu1", "zero"), (None, "mean")):
        for by in ("mutual_information", "std", "obs"):
            curves += [curve(layers, fill, by, order) for order in WORDS]
        curves.append(curve(layers, fill, "mutual_information", "random", seeds=3))
    return stats, [*curves, curve("relu2", "zero", "firing_rate", "ascending", steps=5)]


def plain() -> FiringStats:
    generator = torch.Generator().manual_seed(0)
    acts = torch.randn(400, 40, generator=generator).relu()
    return FiringStats.from_activations({HOSTILE: acts}, torch.arange(400) % 4, 4)


def made_up(by: str, order: str, removed: list[int], accuracies: list[list[float]], **others) -> Curve:
    shares = torch.tensor(accuracies, dtype=torch.float64)
    kinds = {"losses": 3 - 2 * shares, "fill": "mean", "layers": (HOSTILE,), "notes": ()} | others
    return Curve(torch.tensor(removed), shares, kinds.pop("losses"), shares[..., None].expand(-1, -1, 4), by, order,
                 units=40, sequences=(), samples=400, **kinds)  # fmt: skip


def odd() -> tuple[FiringStats, list[Curve]]:
    """Unknown and hostile names, two curves alike, losses that are no numbers, steps and starts that differ, notes twice."""
    note = "A <script>alert(1)</script> note."
    nowhere = torch.full((1, 3), torch.nan, dtype=torch.float64)
    return plain(), [
        made_up("scores", "ascending", [0, 20, 40], [[0.9, 0.8, 0.25]], notes=(note,)),
        made_up("scores", "ascending", [0, 10, 40], [[0.9, 0.5, 0.25]], notes=(note, "Another.")),
        made_up("<img src=x>", "descending", [0, 4, 8], [[0.7, 0.6, 0.5]], losses=nowhere),
        made_up("random", "random", [8, 16], [[0.6, 0.4]]),
    ]


def many() -> tuple[FiringStats, list[Curve]]:
    kinds = ["mutual_information", "class_selectivity", "firing_entropy", "std", "mean", "obs", "weight_std", "firing_rate"]
    return plain(), [
        made_up(by, order, [0, 20, 40], [[0.9, (0.8 if order == "ascending" else 0.5) - 0.01 * place, 0.25]])
        for place, by in enumerate(kinds)
        for order in WORDS
    ] + [made_up("random", "random", [0, 20, 40], [[0.9, 0.7, 0.25], [0.9, 0.5, 0.25]])]


MAKERS = {"digits": digits, "odd": odd, "many": many, "none": lambda: (plain(), [])}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    def given(kind: str):
        stats, curves = MAKERS[kind]()
        return {"stats": stats, "curves": curves, "title": "A report"}

    return reports(tmp_path_factory, given)


# ---------------------------------------------------------------- what a test knows of a drawing


def chosen(numbers: dict, layers: list[str], fill: str) -> list[dict]:
    return [curve for curve in numbers["ablation"] if curve["layers"] == layers and curve["fill"] == fill]


def named(numbers: dict, curve: dict) -> str:
    words = numbers["glossary"]
    measures = {row["name"]: row for row in words["measures"]}
    known = words["orders"].get(curve["by"]) or measures.get(curve["by"]) or words["columns"].get(curve["by"])
    label = known["label"] if known else curve["by"]
    return label if curve["order"] == "random" else f"{label}, {WORDS[curve['order']]}"


def drawing(page):
    """The picture and its box in the window, in view."""
    settle(page)
    picture = page.locator("#ablation svg[role=img]")
    into_view(page, picture)
    return picture, picture.bounding_box()


def paths(page) -> dict[str, str]:
    """The path of every curve drawn, by its key."""
    settle(page)
    return page.locator("#ablation .curve").evaluate_all(
        "all => Object.fromEntries(all.map(node => [node.dataset.curve, node.querySelector('.line').getAttribute('d')]))"
    )


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", path)]


def axis(page, numbers: list[tuple[float, float]]) -> tuple[float, float]:
    """The slope and start of a straight line through pairs; they must lie on it to the tenth of a pixel that a path keeps."""
    (low, at_low), (high, at_high) = min(numbers), max(numbers)
    slope = (at_high - at_low) / (high - low)
    assert all(abs(at_low + slope * (value - low) - at) < 0.2 for value, at in numbers)
    return slope, at_low - slope * low


def select(page, label: str, value: str) -> None:
    page.locator("#ablation").get_by_label(label, exact=True).select_option(value)


def rows(page) -> list[tuple[str, list]]:
    """The table: of each row its name and its numbers."""
    return [
        (name, [float(value) if value else None for value in values])
        for name, values in page.locator("#ablation .orders tbody tr").evaluate_all("""all => all.map(row => [
          [...row.querySelector("th").childNodes].find(node => node.nodeType === 3).textContent,
          [...row.querySelectorAll("td")].map(cell => cell.dataset.value ?? null),
        ])""")
    ]


# ---------------------------------------------------------------- tests


def test_the_page_carries_the_section():
    script = bundle("main.js")
    assert re.search(r"table, ablation, boost, trust, training, carry", script)
    for name in ("ablation", "ablationdata", "ablationdrawing"):
        assert f'modules["sections/{name}.js"]' in script


def test_the_twin_has_words_for_every_order(made):
    for kind in ("digits", "many"):
        numbers = made(kind)[1]
        assert all(named(numbers, curve).split(",")[0] != curve["by"] for curve in numbers["ablation"])
    assert "Area" in made("none")[1]["glossary"]["columns"]["ablation"]["words"]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_curves_are_drawn_where_their_numbers_are(opened, made, scheme):
    page = opened("digits", scheme=scheme)
    numbers = made("digits")[1]
    _, box = drawing(page)
    curves = chosen(numbers, ["relu1"], "mean")
    found = paths(page)
    assert len(found) == len(curves) == 7
    across, up = [], []
    for curve in curves:
        at = points(found[f"{curve['by']} 1 {curve['order']}"])
        assert len(at) == len(curve["removed"]) == 33
        across += [(removed, x) for removed, (x, _) in zip(curve["removed"], at, strict=True)]
        up += [(value, y) for value, (_, y) in zip(curve["accuracy"], at, strict=True)]
    assert axis(page, across)[0] > 0
    slope, start = axis(page, up)
    assert slope < 0
    assert all(0 <= x <= box["width"] for _, x in across)
    assert all(0 <= y <= box["height"] for _, y in up)
    whole = curves[0]["accuracy"][0]
    level = float(page.locator("#ablation .one-point").get_attribute("y1"))
    assert abs(level - (start + slope * (whole - 0.01))) < 0.2
    (random,) = [curve for curve in curves if curve["order"] == "random"]
    band = points(page.locator("#ablation .curve .curve-band").get_attribute("d"))
    wanted = random["most"] + random["least"][::-1]
    assert all(abs(start + slope * value - y) < 0.2 for value, (_, y) in zip(wanted, band, strict=True))


@pytest.mark.browser
def test_the_table_holds_the_numbers_of_the_twin(opened, made):
    page = opened("digits")
    numbers = made("digits")[1]
    for group, (layers, fill) in (("0", (["relu1"], "mean")), ("1", (["relu1", "relu2"], "mean"))):
        select(page, "Units of", group)
        curves = sorted(chosen(numbers, layers, fill), key=lambda curve: -curve["area"])
        found = rows(page)
        assert [name for name, _ in found] == [named(numbers, curve) for curve in curves]
        for (_, values), curve in zip(found, curves, strict=True):
            steps = [min(range(len(curve["removed"])), key=lambda i: abs(curve["removed"][i] - share * curve["units"]))
                     for share in (0.25, 0.5, 0.75)]  # fmt: skip
            assert values == [curve["area"], curve["removable"], *(curve["accuracy"][step] for step in steps)]
        marked = page.locator("#ablation .orders .by-chance th")
        assert marked.count() == 1
        assert marked.inner_text() == "Random 3 runs"


@pytest.mark.browser
def test_toggles_hide_and_show(opened):
    page = opened("digits")
    section = page.locator("#ablation")
    everyone = paths(page)
    button = section.get_by_role("button", name="Standard deviation, high values first")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    fewer = paths(page)
    assert everyone.keys() - fewer.keys() == {"std 1 descending"}
    assert {key: everyone[key] for key in fewer} == fewer  # the axes stay as they were
    assert section.locator("[role=status]").inner_text().startswith("6 of 7 curves drawn.")
    assert len(rows(page)) == 7
    select(page, "Removed units held at", "zero")
    assert "std 1 descending" not in paths(page)
    select(page, "Removed units held at", "mean")
    button.click()
    assert paths(page) == everyone

    section.get_by_role("button", name="high first", exact=True).click()
    assert {key.split()[2] for key in paths(page)} == {"ascending", "random"}
    section.get_by_role("button", name="low first", exact=True).click()
    assert list(paths(page)) == ["random 1 random"]
    section.get_by_role("button", name="Random", exact=True).click()
    assert paths(page) == {}
    assert "No curve is switched on." in section.locator("svg[role=img]").text_content()
    section.get_by_role("button", name="low first", exact=True).click()
    assert {key.split()[2] for key in paths(page)} == {"ascending"}


@pytest.mark.browser
def test_pointing_at_the_drawing_tells_every_value(opened, made):
    page = opened("digits")
    numbers = made("digits")[1]
    curves = chosen(numbers, ["relu1"], "mean")
    _, box = drawing(page)
    at = points(paths(page)["obs 1 ascending"])
    for step in (0, 9, 20, 32):
        page.mouse.move(box["x"] + at[step][0], box["y"] + at[step][1] + 1)
        found = tip(page)
        head = page.locator("#tip .head").inner_text()
        assert head == f"{step} of 32 units removed ({100 * step / 32:.1f} %)"
        assert len(found) == len(curves)
        for curve in curves:
            text = found[named(numbers, curve)]
            assert text.startswith(f"{100 * curve['accuracy'][step]:.2f} %")
            assert ("to" in text) == (curve["order"] == "random")
        values = [float(text.split()[0]) for text in found.values()]
        assert values == sorted(values, reverse=True)
        assert page.locator("#ablation .curve-cursor circle").count() == len(curves)
    assert page.locator("#ablation .curve.near").count() == 1
    select(page, "Vertically", "loss")
    drawing(page)
    page.locator("#ablation").get_by_role("button", name="low first", exact=True).click()
    picture, _ = drawing(page)
    picture.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    found = tip(page)
    kept = [curve for curve in curves if curve["order"] != "ascending"]
    assert len(found) == len(kept)
    for curve in kept:
        assert float(found[named(numbers, curve)]) == pytest.approx(curve["loss"][2], rel=1e-3)
    page.mouse.click(5, 5)
    assert tip(page) == {}


@pytest.mark.browser
def test_the_choices_change_the_drawing(opened, made):
    page = opened("digits")
    numbers = made("digits")[1]
    section = page.locator("#ablation")
    mean = paths(page)
    words = section.locator(".body > .note").first
    assert "Units of relu1 are removed" in words.inner_text()
    assert "held at its mean" in words.inner_text()
    select(page, "Removed units held at", "zero")
    zero = paths(page)
    assert zero.keys() == mean.keys()
    assert zero["obs 1 ascending"] != mean["obs 1 ascending"]
    assert "held at zero" in words.inner_text()
    assert next(name for name, _ in rows(page)) == named(
        numbers, max(chosen(numbers, ["relu1"], "zero"), key=lambda curve: curve["area"])
    )

    select(page, "Vertically", "loss")
    loss = paths(page)
    assert all(loss[key] != zero[key] for key in zero)
    assert section.locator(".one-point, .curve .curve-band").count() == 0
    up = [
        (value, y)
        for curve in chosen(numbers, ["relu1"], "zero")
        for value, (_, y) in zip(curve["loss"], points(loss[f"{curve['by']} 1 {curve['order']}"]), strict=True)
    ]
    assert axis(page, up)[0] < 0
    select(page, "Vertically", "accuracy")
    assert paths(page) == zero

    titles = section.locator("svg[role=img] .axis")
    assert "units removed, %" in titles.all_text_contents()
    select(page, "Horizontally", "number")
    assert paths(page) == zero  # all curves of a group have the same units: only the numbers below them change
    assert "units removed, of 32" in titles.all_text_contents()

    options = section.get_by_label("Units of", exact=True).locator("option").all_inner_texts()
    assert options == ["relu1", "2 layers together", "relu2"]
    select(page, "Units of", "2")  # one curve, at five steps, held at zero
    assert list(paths(page)) == ["firing_rate 1 ascending"]
    assert section.locator(".curve circle").count() == 5
    assert not section.get_by_label("Removed units held at", exact=True).is_visible()
    assert "There is no random order here" in words.inner_text()


@pytest.mark.browser
def test_a_legend_or_table_entry_makes_its_curve_stand_out(opened):
    page = opened("digits")
    section = page.locator("#ablation")
    section.get_by_role("button", name="Mutual information, low values first").hover()
    assert section.locator(".curve.dim").count() == 6
    assert section.locator(".curve:not(.dim)").get_attribute("data-curve") == "mutual_information 1 ascending"
    section.locator(".by-chance").hover()
    assert section.locator(".curve:not(.dim)").get_attribute("data-curve") == "random 1 random"
    page.mouse.move(5, 5)
    assert section.locator(".curve.dim").count() == 0


@pytest.mark.browser
def test_lines_tell_measures_and_orders_apart(opened):
    for scheme in ("light", "dark"):
        page = opened("digits", scheme=scheme)
        found = page.locator("#ablation .curve").evaluate_all("""all => all.map(node => {
          const { stroke, strokeDasharray } = getComputedStyle(node.querySelector(".line"));
          return [...node.dataset.curve.split(" "), stroke, strokeDasharray];
        })""")
        colours: dict[str, set] = {}
        for by, _, order, colour, dashes in found:
            colours.setdefault(by, set()).add(colour)
            assert (dashes == "none") == (order != "descending")
        assert all(len(own) == 1 for own in colours.values())
        assert len(set.union(*colours.values())) == len(colours) == 4
    page = opened("digits")
    strokes = "all => all.map(node => getComputedStyle(node).stroke)"
    light = page.locator("#ablation :is(.curve, .orders) .line").evaluate_all(strokes)
    page.emulate_media(color_scheme="dark")
    settle(page)
    dark = page.locator("#ablation :is(.curve, .orders) .line").evaluate_all(strokes)
    assert len(light) == len(dark) == 14
    assert not [one for one, other in zip(light, dark, strict=True) if one == other]


@pytest.mark.browser
def test_odd_curves_are_drawn_and_explained(opened):
    page = opened("odd")
    section = page.locator("#ablation")
    names = [name for name, _ in rows(page)]
    assert set(names) == {"Given scores, low values first", "Given scores (2), low values first", "Random",
                          "<img src=x>, high values first"}  # fmt: skip
    values = dict(rows(page))
    assert values["Given scores, low values first"][2:] == [None, 0.8, None]  # no step near a quarter
    assert "do not start from the same accuracy" in section.locator(".note.wrong").inner_text()
    assert section.locator(".one-point").count() == 0
    notes = section.locator(".note").all_inner_texts()
    assert notes.count("A <script>alert(1)</script> note.") == 1
    assert notes.count("Another.") == 1
    drawn = paths(page)
    assert len(drawn) == 4
    _, box = drawing(page)
    page.mouse.move(box["x"] + points(drawn["scores 2 ascending"])[1][0], box["y"] + 100)
    assert tip(page) == {
        "Given scores, low values first": "≈ 85.00 %",
        "Given scores (2), low values first": "50.00 %",
        "Random": "≈ 55.00 %",
    }
    select(page, "Vertically", "loss")
    assert paths(page)["<img src=x> 1 descending"] == ""
    assert "NaN" not in "".join(paths(page).values())


@pytest.mark.browser
def test_of_many_curves_the_best_the_worst_and_chance_come_first(opened, made):
    page = opened("many")
    curves = made("many")[1]["ablation"]
    ranked = sorted((curve for curve in curves if curve["order"] != "random"), key=lambda curve: -curve["area"])
    wanted = {f"{curve['by']} 1 {curve['order']}" for curve in ranked[:6] + ranked[-2:]}
    assert paths(page).keys() == wanted | {"random 1 random"}
    said = page.locator("#ablation [role=status]")
    assert said.inner_text().startswith("9 of 17 curves drawn: the best 6, the worst 2, and chance.")
    page.locator("#ablation").get_by_role("button", name="low first", exact=True).click()
    assert said.inner_text().startswith("11 of 17 curves drawn.")


@pytest.mark.browser
def test_a_report_without_curves_says_so(opened):
    page = opened("none")
    assert page.locator("#ablation .absent").inner_text() == (
        "There is no ablation here: make the report with curves from cofire.ablate (curves= in Python, or cofire ablate on the "
        "command line)."
    )
    assert page.locator("#ablation svg, #ablation select").count() == 0
    links = page.locator("#nav a").all_inner_texts()
    assert links[links.index("Table of units") + 1] == "Ablation"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["digits", "odd", "many", "none"])
def test_nothing_sticks_out_of_a_narrow_window(opened, kind, scheme):
    page = opened(kind, 400, scheme)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    if kind == "none":
        return
    _, box = drawing(page)
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 400
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.5 * box["height"])
    shown = page.locator("#tip").bounding_box()
    assert shown["x"] >= 0
    assert shown["x"] + shown["width"] <= 400
