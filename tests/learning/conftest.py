"""A network and a training small enough for tests."""

from __future__ import annotations

import dataclasses

import pytest

from geostack_pipeline.learning.profiles import PROFILES, Architecture, Recipe
from geostack_pipeline.stages import candidate_model

TINY = dataclasses.replace(
    PROFILES["demo"],
    architecture=Architecture(widths=(4, 8), groups=2),
    steps=6,
    batch=4,
    crop=16,
    checkpoint_every=2,
)


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return TINY


@pytest.fixture
def tiny_profile(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Make the demo profile tiny."""
    monkeypatch.setattr(candidate_model, "PROFILES", {**PROFILES, "demo": TINY})
    return TINY
