"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recorded exchanges, sample rasters and physical tables beside the checkout."""
    if not (_SHARED / "samples").is_dir():
        pytest.skip(f"recorded samples are not at hand: {_SHARED.name}/samples is no folder beside the checkout")
    return _SHARED
