"""A network and a training small enough for tests."""

from __future__ import annotations

import pytest
from learning_world import TINY_RECIPE

from geostack_pipeline.learning.profiles import PROFILES, Recipe
from geostack_pipeline.stages import candidate_model


@pytest.fixture(scope="session")
def tiny() -> Recipe:
    return TINY_RECIPE


@pytest.fixture
def tiny_profile(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Make the demo profile tiny."""
    monkeypatch.setattr(candidate_model, "PROFILES", {**PROFILES, "demo": TINY_RECIPE})
    return TINY_RECIPE
