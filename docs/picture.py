"""A picture of a report, for README: title, key numbers, the spread of the measures and the firing probabilities.

    python docs/picture.py cofire-demo/report.html docs/demo.png
    python docs/picture.py cofire-demo/report.html docs/graph.png graph        # one section, its first 900 pixels

It needs playwright and a Chromium on the system (or named by CHROMIUM). The picture is 1280 pixels wide and below 300 kB.
"""

import os
import shutil
import sys
from io import BytesIO
from pathlib import Path

MOST = 300_000
WIDTH = 1280
# What would not be read in a picture goes: navigation, notes, controls and the long tables.
HIDDEN = """
  #nav, section:not(#firing) .note, .controls, footer, section > .lead, .findings li:nth-child(n+6),
  #overview h3, #overview .scroll, details,
  #softmax, #graph, #units, #maps, #table, #ablation, #boost, #trust, #carry, #reproduction,
  .legend .swatch, .legend .swatch + span { display: none !important; }
  body { grid-template-columns: minmax(0, 1fr) !important; }
  main { max-width: none !important; padding: 26px 40px 30px !important; }
  section { margin-top: 18px !important; padding-top: 16px !important; }
  .findings { columns: 2; column-gap: 48px; max-width: none !important; font-size: 14px; }
  .findings li { break-inside: avoid; }
  .panels { grid-template-columns: repeat(6, minmax(0, 1fr)) !important; gap: 10px 22px !important; }
  figcaption strong { font-size: 13.5px !important; text-decoration: none !important; }
  figcaption span { font-size: 12.5px !important; }
"""


def chromium() -> str:
    """The Chromium to draw with."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit("no Chromium on this system; install one, or name it with CHROMIUM=/path/to/it")
    return found


def small(png: bytes) -> bytes:
    """The picture below 300 kB, with fewer colours if need be."""
    from PIL import Image

    for colours in (256, 128, 64, 32):
        if len(png) <= MOST:
            break
        out = BytesIO()
        Image.open(BytesIO(png)).convert("RGB").quantize(colours, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
        png = out.getvalue()
    return png


def main(report: str, picture: str, section: str | None = None) -> None:
    """Open the report, hide what would not be read, and save the rest; or save the top of one section."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--headless", "--no-sandbox", "--disable-gpu"])
        # The page's own policy forbids other styles; a picture may have them.
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, bypass_csp=True)
        page.goto(Path(report).resolve().as_uri())
        page.wait_for_selector("html[data-ready=yes]")
        if section is None:
            page.add_style_tag(content=HIDDEN)
            page.wait_for_timeout(500)
            png = small(page.screenshot(full_page=True))
        else:
            page.locator(f"#{section}").scroll_into_view_if_needed()
            page.wait_for_timeout(500)
            place = page.locator(f"#{section}").bounding_box()
            top = place["y"] + page.evaluate("scrollY")
            clip = {"x": place["x"], "y": top, "width": place["width"], "height": min(place["height"], 1100)}
            png = small(page.screenshot(full_page=True, clip=clip))
        browser.close()
    Path(picture).write_bytes(png)
    print(f"{picture}: {len(png):,} bytes")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit("usage: python docs/picture.py REPORT.html PICTURE.png [SECTION]")
    main(*sys.argv[1:])
