"""What tests share: the place of the real data, and a browser."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets: COFIRE_DATA, or ../shared/data beside the checkout."""
    root = Path(os.environ.get("COFIRE_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / "mnist").is_dir():
        pytest.skip(f"no data sets in {root}; set COFIRE_DATA to their folder")
    return root


@pytest.fixture(scope="session")  # there can be only one at a time in a process
def browser():
    """A Chromium of this system."""
    from browsing import CHROMIUM, QUIET

    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this system; install one, or name it with CHROMIUM=/path/to/it")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--headless", "--no-sandbox", *QUIET])
        yield opened
        opened.close()


@pytest.fixture
def opened(browser, made):
    """Opens a report that the test file's `made` writes; at the end nothing may have been asked for, logged or thrown."""
    from browsing import page_of

    pages = []

    def open_it(kind: str, width: int = 1280, scheme: str = "light"):
        page, *rest = page_of(browser, made(kind)[0], width, scheme)
        pages.append(rest)
        return page

    yield open_it
    for context, heard in pages:
        context.close()
        assert heard == []
