"""What the tests of a report share: reports that are written once, and pages of a Chromium that may ask nobody for anything."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cofire import report

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def reports(factory, given: Callable[[str], dict[str, Any]]) -> Callable[[str], tuple[Path, dict, dict]]:
    """Writes a report of one kind, once; gives its path, its JSON twin and what it was made of.

    Args:
        factory: pytest's of temporary folders.
        given: The arguments of `report.write` for a kind, without the path.
    """
    done = {}

    def make(kind: str):
        if kind not in done:
            of = given(kind)
            path = report.write(path=factory.mktemp("report") / "report.html", **of)
            done[kind] = path, json.loads(path.with_suffix(".json").read_text("utf8")), of
        return done[kind]

    return make


def page_of(browser, path: Path, width: int = 1280, scheme: str = "light"):
    """A page with the network cut, once it is drawn; its context; and all that it asked for, logged or threw.

    Its reader asked for less motion: a page that still scrolls, as after a focus, is elsewhere when the mouse arrives.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def cut(route):
        if route.request.url.startswith("file:"):
            route.continue_()
        else:
            heard.append(f"request: {route.request.url}")
            route.abort()

    page.route("**/*", cut)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=30_000)
    return page, context, heard


def settle(page) -> None:
    """Waits until what was asked for is drawn."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def into_view(page, node) -> None:
    """Scrolls to the node, at once: a page that still moves takes its tooltip away."""
    node.evaluate("node => node.scrollIntoView({ block: 'center', behavior: 'instant' })")
    settle(page)


def tip(page) -> dict[str, str]:
    """The pairs of the tooltip in view."""
    pairs = page.locator("#tip .pair").evaluate_all(
        "all => all.map(node => [node.querySelector('span').textContent, node.querySelector('b').dataset.value])"
    )
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs) if page.locator("#tip").is_visible() else {}
