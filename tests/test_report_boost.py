"""Boost and trust in a report: what a browser draws and tells, against the numbers of the JSON twin, and these by plain loops."""

import re

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import nn

import cofire
from browsing import into_view, reports, tip
from cofire import report
from cofire.boosted import Boosted, Rereading
from cofire.controls import AS_THEY_ARE
from cofire.errors import InputError
from cofire.familiarities import Familiarity
from cofire.images import Images
from cofire.report.boosts import METHODS
from cofire.report.page import bundle
from cofire.selective import HEAD, Trust
from cofire.stats import FiringStats

torch.set_num_threads(1)  # threads that compete with other processes for a core are slower by far

HOSTILE = ("<img src=x onerror=alert(1)>", "a & b", "</script>")


def digits():
    """A net with something to gain, of which a head knows more than the softmax does."""
    train, test = cofire.data.load("digits"), cofire.data.load("digits", "test")
    held, new = test.split(0.5, seed=0)
    net = cofire.zoo.model("fcnn:64-64-32-10", seed=0)
    cofire.fit(net, train, epochs=6, seed=0, progress=False)
    stats = cofire.record(net, train.batches(), progress=False)
    return {
        "stats": stats,
        "boost": cofire.boost(
            net, train.batches(), stats, validation=held.batches(), test=new.batches(), progress=False, rate=1e-3
        ),
        "trust": cofire.trust(net, train.batches(), stats, validation=held.batches()),
        "familiar": (cofire.familiarity(stats, net, test.batches()), test),
    }


def plain() -> FiringStats:
    acts = torch.randn(90, 8, generator=torch.Generator().manual_seed(0)).relu()
    return FiringStats.from_activations({HOSTILE[0]: acts}, torch.arange(90) % 3, 3, class_names=list(HOSTILE))


def made_up_row(method: str, split: str, accuracy: float, gain: float) -> dict:
    differences = ("gain", "loss_gain", "boost_minus", "loss_boost_minus")
    ends = {f"{what}_{end}": gain + far for what in differences for end, far in (("low", -0.02), ("high", 0.02))}
    return {"method": method, "split": split, "samples": 40, "accuracy": accuracy, "log_loss": 0.5, "calibration_error": 0.1,
            "mcnemar": 0.25, **dict.fromkeys(differences, gain), **ends}  # fmt: skip


def odd():
    """Hostile names, one split, no wrong prediction, colour pictures that are larger than what is shown, two of them."""
    rows = [made_up_row("model", "held-out", 0.8, 0.0), made_up_row("boosted", "held-out", 0.75, -0.05)]
    bins = [{"method": method, "split": "held-out", "samples": 40, "confidence": 0.5, "accuracy": 1.0, "low": 0.9, "high": 1.0}
            for method in ("model", "boosted")]  # fmt: skip
    classes = [{"class": name, "split": "held-out", "samples": 13, "accuracy": 0.8, "boosted": 0.7, "change": -0.1}
               for name in HOSTILE]  # fmt: skip
    record = {"method": "auto", "decision": "auto", "rows": rows, "classes": classes, "reliability": bins,
              "words": [f"Words of {HOSTILE[0]}."]}  # fmt: skip
    sure = torch.linspace(3, 0, 30, dtype=torch.float64)
    never = torch.zeros(30, dtype=torch.bool)
    layers = {HOSTILE[0]: torch.zeros(2, dtype=torch.float64)}
    pairs = {HOSTILE[0]: torch.zeros(0, 2, dtype=torch.int64)}
    seen = Familiarity(torch.tensor([1.0, -2.0]).double(), layers, torch.tensor([[0], [2]]), torch.tensor([0, 1]), pairs, {},
                       list(HOSTILE))  # fmt: skip
    pixels = torch.rand(2, 3, 128, 64, generator=torch.Generator().manual_seed(0))
    return {
        "stats": plain(),
        "boost": Boosted(nn.Linear(2, 3), Rereading(1.0, torch.zeros(3)), {}, record),
        "trust": Trust(
            nn.Linear(2, 3), plain(), None, None, "msp", {"msp": sure}, never, sure, torch.arange(len(sure)), "logits"
        ),  # type: ignore[arg-type]
        "familiar": (seen, Images(pixels, torch.tensor([0, 2]), HOSTILE)),
    }


MAKERS = {"digits": digits, "odd": odd, "none": lambda: {"stats": plain()}}


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return reports(tmp_path_factory, lambda kind: {**MAKERS[kind](), "title": "A report"})


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", path)]


def on_a_line(pairs: list[tuple[float, float]], near: float) -> float:
    """The slope of a straight line on which all pairs of a number and a place lie."""
    (low, at_low), (high, at_high) = min(pairs), max(pairs)
    slope = (at_high - at_low) / (high - low)
    assert all(abs(at_low + slope * (value - low) - at) < near for value, at in pairs)
    return slope


def numbers_of(row) -> list[float | None]:
    return [
        float(value) if value else None for value in row.locator("td").evaluate_all("all => all.map(td => td.dataset.value)")
    ]


# ---------------------------------------------------------------- the numbers


def test_the_page_carries_the_sections():
    script = bundle("main.js")
    for name in ("boost", "reliability", "trust", "riskcurves", "unusual"):
        assert f'modules["sections/{name}.js"]' in script


def test_the_twin_holds_the_gains(made):
    _, numbers, given = made("digits")
    rows, table = numbers["boost"]["rows"], given["boost"].summary().to_dict("records")
    assert len(rows) == len(table) > 20
    for row, wanted in zip(rows, table, strict=True):
        assert row["method"] == wanted["method"]
        assert row["gain_low"] == pytest.approx(wanted["gain_low"], rel=1e-5)
        assert numbers["boost"]["methods"][row["method"]] == METHODS[row["method"]]
    assert set(AS_THEY_ARE) <= METHODS.keys()
    assert [row["change"] for row in numbers["boost"]["classes"]] == pytest.approx(
        given["boost"].by_class()["change"], rel=1e-5
    )


def test_bins_give_the_calibration_error_and_the_accuracy(made):
    boost = made("digits")[1]["boost"]
    for method in ("model", "boosted"):
        (row,) = [row for row in boost["rows"] if row["method"] == method and row["split"] == "test"]
        bins = [one for one in boost["reliability"] if one["method"] == method]
        assert {one["split"] for one in bins} == {"test"}
        total = sum(one["samples"] for one in bins)
        assert total == row["samples"]
        gaps = sum(one["samples"] / total * abs(one["accuracy"] - one["confidence"]) for one in bins)
        assert gaps == pytest.approx(row["calibration_error"], abs=1e-5)
        assert sum(one["samples"] * one["accuracy"] for one in bins) / total == pytest.approx(row["accuracy"], abs=1e-5)
        for one in bins:
            right = round(one["samples"] * one["accuracy"])
            interval = binomtest(right, one["samples"]).proportion_ci(method="wilson")
            assert (one["low"], one["high"]) == pytest.approx((interval.low, interval.high), abs=1e-4)


def test_curves_and_thresholds_are_those_of_plain_loops(made):
    _, numbers, given = made("digits")
    about, trust = numbers["trust"], given["trust"]
    samples = about["samples"]
    assert about["answer"] == trust.answer == HEAD

    def risk(score: str, count: int) -> float:
        order = sorted(range(samples), key=lambda i: -float(trust.scores[score][i]))
        return sum(bool(trust.wrong[i]) for i in order[:count]) / count

    curve = about["curve"]
    assert 100 < len(curve["coverage"]) <= 200
    assert curve["coverage"][-1] == 1
    for at in range(0, len(curve["coverage"]), 7):
        count = round(curve["coverage"][at] * samples)
        assert curve["risk"][at] == pytest.approx(risk(HEAD, count), abs=1e-5)
        assert curve["msp"][at] == pytest.approx(risk("msp", count), abs=1e-5)
        assert curve["perfect"][at] == pytest.approx(max(count - samples + about["wrong"], 0) / count, abs=1e-5)
    assert [row["coverage"] for row in about["thresholds"]] == pytest.approx([k / 20 for k in range(20, 0, -1)])
    for row in about["thresholds"]:
        given_now = int((trust.final >= trust.threshold(row["coverage"])).sum())
        assert row["samples"] == given_now
        assert row["risk"] == pytest.approx(risk(HEAD, row["samples"]), abs=1e-5)
        assert row["msp"] == pytest.approx(risk("msp", row["samples"]), abs=1e-5)
        assert row["bound"] > row["risk"]
    assert about["thresholds"][0]["threshold"] is None


def test_long_curves_are_thinned(made):
    sure = torch.linspace(0, 1, 5000, dtype=torch.float64)
    wrong = torch.arange(5000) % 10 == 0
    trust = Trust(nn.Linear(2, 3), plain(), None, None, "msp", {"msp": sure}, wrong, sure, torch.arange(len(sure)), "logits")  # type: ignore[arg-type]
    curve = report.payload(plain(), trust=trust).meta["trust"]["curve"]
    assert {len(values) for values in curve.values()} == {200}
    assert (curve["coverage"][0], curve["coverage"][-1], curve["risk"][-1]) == (1 / 5000, 1.0, 0.1)


def test_the_least_familiar_are_shown_first(made):
    _, numbers, given = made("digits")
    seen, images = given["familiar"]
    rows = numbers["unusual"]["rows"]
    wanted = sorted(range(len(seen)), key=lambda i: float(seen.score[i]))[:24]
    assert [row["sample"] for row in rows] == wanted
    pictures = np.array(numbers["columns"]["unusual"]["values"])
    assert pictures.shape == (24, 1, 8, 8)
    for row, picture in zip(rows, pictures, strict=True):
        sample = row["sample"]
        assert row["predicted"] == images.classes[int(seen.predicted[sample])]
        assert row["true"] == images.classes[int(images.labels[sample])]
        assert row["familiarity"] == pytest.approx(float(seen.score[sample]), rel=1e-5)
        assert row["suits"] == [images.classes[c] for c in seen.classes[sample].tolist()]
        assert row["words"] == str(seen.explain(sample))
        agrees = dict(zip(numbers["unusual"]["layers"], seen.agrees[sample].tolist(), strict=True))
        assert row["disagree"] == [layer for layer, agreed in agrees.items() if not agreed]
        assert np.abs(picture - images[sample][0].numpy()).max() <= 0.005 + 1e-6
    assert numbers["unusual"]["median"] == pytest.approx(sorted(seen.score.tolist())[(len(seen) - 1) // 2], rel=1e-5)


def test_large_pictures_are_shown_small(made):
    _, numbers, given = made("odd")
    pictures = np.array(numbers["columns"]["unusual"]["values"])
    assert [row["sample"] for row in numbers["unusual"]["rows"]] == [1, 0]
    pixels = given["familiar"][1].pixels[1].numpy()
    means = pixels.reshape(3, 64, 2, 32, 2).mean((2, 4))
    assert np.abs(pictures[0] - means).max() <= 0.005 + 1e-6


def test_pictures_of_another_number_are_refused(tmp_path):
    seen, images = odd()["familiar"]
    with pytest.raises(InputError) as caught:
        report.write(plain(), tmp_path / "r.html", familiar=(seen, images.subset([0])))
    assert str(caught.value) == (
        "familiar must be a familiarity and the pictures that it is of; found a familiarity of 2 samples and pictures of 1."
    )
    assert list(tmp_path.iterdir()) == []


def test_a_report_with_pictures_is_small(made, tmp_path):
    numbers = torch.zeros(100, dtype=torch.float64)
    names = [str(c) for c in range(10)]
    seen = Familiarity(numbers, {"a": numbers}, torch.zeros(100, 1).long(), torch.zeros(100).long(),
                       {"a": torch.zeros(0, 2).long()}, {}, names)  # fmt: skip
    pixels = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    path = report.write(plain(), tmp_path / "r.html", familiar=(seen, Images(pixels, torch.zeros(100).long(), tuple(names))))
    without = report.write(plain(), tmp_path / "without.html")
    assert path.stat().st_size - without.stat().st_size < 60_000


# ---------------------------------------------------------------- in a browser


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_table_holds_and_draws_the_gains(opened, made, scheme):
    page = opened("digits", scheme=scheme)
    about = made("digits")[1]["boost"]
    section = page.locator("#boost")
    assert section.locator(".lead").all_inner_texts() == about["words"]
    for split in ("held-out", "test"):
        section.get_by_label("Measured on", exact=True).select_option(split)
        rows = [row for row in about["rows"] if row["split"] == split]
        shown = section.locator(".gains tbody tr").all()
        assert len(shown) == len(rows)
        drawn: dict[str, list] = {"gain": [], "boost_minus": []}
        for node, row in zip(shown, rows, strict=True):
            own = {"model": "gain", "boosted": "boost_minus"}.get(row["method"])
            cells = ["accuracy", "gain", "boost_minus", "log_loss", "calibration_error", "mcnemar"]
            assert node.locator("th").inner_text() == row["method"]
            assert numbers_of(node) == [None if cell == own else row[cell] for cell in cells]
            marks = node.locator(".interval").evaluate_all("""all => all.map(svg => [
              svg.querySelector("circle").getAttribute("cx"), svg.querySelector(".reach").getAttribute("x1"),
              svg.querySelector(".reach").getAttribute("x2"), svg.querySelector(".zero").getAttribute("x1"),
            ].map(Number))""")
            for (middle, low, high, zero), key in zip(marks, [key for key in drawn if key != own], strict=True):
                places = [(row[key], middle), (row[f"{key}_low"], low), (row[f"{key}_high"], high), (0.0, zero)]
                drawn[key] += places
                assert all(0 <= x <= 120 for _, x in places)
        assert all(on_a_line(places, 1e-6) > 0 for places in drawn.values())
        chosen = section.locator(".gains .chosen th").all_inner_texts()
        assert chosen == ["boosted"]
        assert section.locator("figcaption").first.inner_text().count(f"On 180 {split} samples") == 1
    control = section.get_by_text("one more epoch", exact=True)
    into_view(page, control)
    control.hover()
    assert METHODS["one more epoch"] in page.locator("#tip").inner_text()


@pytest.mark.browser
def test_bins_are_drawn_where_they_are(opened, made):
    page = opened("digits")
    reliability = made("digits")[1]["boost"]["reliability"]
    for at, method in enumerate(("model", "boosted")):
        bins = [one for one in reliability if one["method"] == method]
        dots = page.locator("#boost .panels.two > div").nth(at).locator(".bin").all()
        assert len(dots) == len(bins)
        found = [[float(dot.locator("circle").get_attribute(key)) for key in ("cx", "cy", "r")] for dot in dots]
        assert on_a_line([(one["confidence"], x) for one, (x, _, _) in zip(bins, found, strict=True)], 1e-6) > 0
        assert on_a_line([(one["accuracy"], y) for one, (_, y, _) in zip(bins, found, strict=True)], 1e-6) < 0
        largest = max(range(len(bins)), key=lambda i: bins[i]["samples"])
        assert found[largest][2] == max(r for _, _, r in found)
        into_view(page, dots[largest])
        dots[largest].locator("circle").hover()
        pairs = tip(page)
        assert float(pairs["share that is right"]) == bins[largest]["accuracy"]
        assert float(pairs["mean largest probability"]) == bins[largest]["confidence"]


@pytest.mark.browser
def test_classes_tell_what_changes(opened, made):
    page = opened("digits")
    rows = made("digits")[1]["boost"]["classes"]
    bars = page.locator("#boost figure:has-text('What changes for each class') g.bar")
    assert bars.count() == 10
    into_view(page, bars.nth(3))
    bars.nth(3).locator("rect.hit").hover()
    pairs = tip(page)
    assert float(pairs[f"model, of {rows[3]['samples']}"]) == rows[3]["accuracy"]
    assert float(pairs[f"boosted, of {rows[3]['samples']}"]) == rows[3]["boosted"]


@pytest.mark.browser
def test_trust_is_told_in_tables(opened, made):
    page = opened("digits")
    about = made("digits")[1]["trust"]
    section = page.locator("#trust")
    assert section.locator(".lead").inner_text() == about["words"]
    scores = section.locator(".gains tbody tr").all()
    for node, row in zip(scores, about["scores"], strict=True):
        gain = None if row["score"] == "msp" else row["gain"]
        assert node.locator("th").inner_text() == row["score"]
        assert numbers_of(node) == [row["auroc"], gain, row["aupr_wrong"], row["fpr95"], row["aurc"], row["augrc"]]
    assert section.locator(".gains .chosen th").all_inner_texts() == [HEAD]
    for node, row in zip(section.locator(".thresholds tbody tr").all(), about["thresholds"], strict=True):
        assert numbers_of(node) == [row["samples"], row["threshold"], row["risk"], row["msp"], row["bound"]]


@pytest.mark.browser
def test_risk_is_drawn_over_coverage_and_told(opened, made):
    page = opened("digits")
    curve = made("digits")[1]["trust"]["curve"]
    picture = page.locator("#trust svg[role=img]")
    across, up, places = [], [], {}
    for key in ("risk", "msp", "perfect"):
        places[key] = points(picture.locator(f"path.line.{key}").get_attribute("d"))
        across += [(value, x) for value, (x, _) in zip(curve["coverage"], places[key], strict=True)]
        up += [(value, y) for value, (_, y) in zip(curve[key], places[key], strict=True)]
    assert on_a_line(across, 0.2) > 0
    assert on_a_line(up, 0.2) < 0
    into_view(page, picture)
    box, at = picture.bounding_box(), len(curve["coverage"]) // 2
    page.mouse.move(box["x"] + places["risk"][at][0], box["y"] + 60)
    wanted = {
        name: f"{100 * curve[key][at]:.2f} %" for name, key in ((HEAD, "risk"), ("msp", "msp"), ("a perfect score", "perfect"))
    }
    assert tip(page) == wanted
    assert page.locator("#tip .head").inner_text() == f"{100 * curve['coverage'][at]:.1f} % given"
    page.mouse.move(5, 5)
    assert tip(page) == {}
    picture.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tip .head").inner_text() == f"{100 * curve['coverage'][1]:.1f} % given"
    page.mouse.click(5, 5)
    assert tip(page) == {}


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["digits", "odd"])
def test_unusual_predictions_are_shown_with_the_layers_that_disagree(opened, made, kind):
    page = opened(kind)
    numbers = made(kind)[1]
    seen, pictures = numbers["unusual"], np.array(numbers["columns"]["unusual"]["values"])
    cards = page.locator("#trust .unusual-card").all()
    assert len(cards) == len(seen["rows"])
    for card, row, picture in zip(cards, seen["rows"], pictures, strict=True):
        data = card.locator("canvas").evaluate("""canvas =>
          [canvas.height, canvas.width, ...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]""")
        assert tuple(data[:2]) == picture.shape[1:]
        pixels = np.array(data[2:]).reshape(*picture.shape[1:], 4)
        wanted = np.broadcast_to(255 * picture, (3, *picture.shape[1:])).transpose(1, 2, 0)
        assert np.abs(pixels[..., :3] - wanted).max() <= 0.5 + 1e-6
        assert (pixels[..., 3] == 255).all()
        other = "" if row["true"] == row["predicted"] else row["true"]
        verdict = f"{row['predicted']}, but it is {other}" if other else f"{row['predicted']}, rightly"
        assert card.locator(".verdict").inner_text() == verdict
        assert float(card.locator("b[data-value]").get_attribute("data-value")) == row["familiarity"]
        boxes = card.locator(".layer-strip span").evaluate_all("all => all.map(box => box.className)")
        assert boxes == ["agrees" if suits == row["predicted"] else "disagrees" for suits in row["suits"]]
        assert card.locator(".why").inner_text() == row["words"]
    into_view(page, cards[0])
    cards[0].locator(".layer-strip span").first.hover()
    tips = page.locator("#tip > div").all_inner_texts()
    assert tips[0] == seen["layers"][0]
    assert tips[1].startswith(f"fires most like {seen['rows'][0]['suits'][0]}: ")


@pytest.mark.browser
def test_odd_names_and_numbers_are_shown(opened, made):
    page = opened("odd")
    main = page.locator("main")
    assert main.locator("img, script").count() == 0
    assert f"Words of {HOSTILE[0]}." in page.locator("#boost").inner_text()
    assert page.locator("#boost").get_by_label("Measured on", exact=True).count() == 0
    row = page.locator("#trust .gains tbody tr")
    assert numbers_of(row)[:2] == [None, None]  # without a wrong prediction nothing can be told apart
    assert "NaN" not in main.inner_html()
    assert page.locator("#trust .thresholds thead th").count() == 5
    assert "30 validation predictions, 0 of them wrong" in page.locator("#trust").inner_text()


@pytest.mark.browser
def test_a_report_without_either_says_so(opened):
    page = opened("none")
    assert page.locator("#boost .absent").inner_text() == (
        "There is no boost here: make the report with what cofire.boost gave (boost= in Python, or cofire boost --report on the "
        "command line)."
    )
    assert page.locator("#trust .absent").inner_text() == (
        "There is no trust here: make the report with what cofire.trust and cofire.familiarity gave (trust= and familiar= in "
        "Python, or cofire trust --report on the command line)."
    )
    links = page.locator("#nav a").all_inner_texts()
    assert links[links.index("Ablation") + 1 :][:2] == ["Boost", "Trust"]


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["digits", "odd"])
def test_nothing_sticks_out_of_a_narrow_window(opened, kind):
    page = opened(kind, 400)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    card = page.locator("#trust .unusual-card").first.bounding_box()
    assert card["x"] >= 0
    assert card["x"] + card["width"] <= 400
