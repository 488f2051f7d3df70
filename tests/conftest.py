"""What tests share: the place of the real data."""

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
