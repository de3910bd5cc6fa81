"""Ranges that cover the dates to run, and the stages that there are."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import Product
from geostack_pipeline.stages.plan import STAGES, contiguous, stages_of

DAYS = st.lists(st.dates(date(2024, 1, 1), date(2024, 4, 1)).map(date.isoformat), unique=True, max_size=20)


def _spread(first: str, last: str) -> list[str]:
    start = date.fromisoformat(first)
    return [
        (start + timedelta(days=step)).isoformat()
        for step in range((date.fromisoformat(last) - start).days + 1)
    ]


def test_gaps_up_to_the_bridge_are_joined() -> None:
    assert contiguous(["2024-06-01", "2024-06-02", "2024-06-06"], bridge=3) == [("2024-06-01", "2024-06-06")]
    assert contiguous(["2024-06-01", "2024-06-06"], bridge=3) == [
        ("2024-06-01", "2024-06-01"),
        ("2024-06-06", "2024-06-06"),
    ]


def test_a_blocked_date_is_never_bridged() -> None:
    assert contiguous(["2024-06-01", "2024-06-03"], blocked=["2024-06-02"]) == [
        ("2024-06-01", "2024-06-01"),
        ("2024-06-03", "2024-06-03"),
    ]


@given(days=DAYS, blocked=DAYS, bridge=st.integers(0, 10))
def test_every_date_is_covered_once_and_no_blocked_one_is(
    days: list[str], blocked: list[str], bridge: int
) -> None:
    wanted = sorted(set(days) - set(blocked))
    ranges = contiguous(wanted, blocked=blocked, bridge=bridge)
    covered = [day for first, last in ranges for day in _spread(first, last)]
    assert len(covered) == len(set(covered))
    assert set(wanted) <= set(covered)
    assert not set(blocked) & set(covered)
    assert ranges == sorted(ranges)


def test_a_provider_without_methane_ends_with_its_cube() -> None:
    surface = Product(kind="surface", bands=("B12",), default_bands=("B12",), methane=True)
    swath = Product(kind="swath", bands=("RAD",), default_bands=("RAD",))
    assert stages_of(surface) == STAGES
    assert stages_of(swath) == ("scenes", "selected", "granules", "cube")
    assert stages_of(swath, "selected") == ("scenes", "selected")
    with pytest.raises(SettingsError, match=r"its scenes do not go through this stage.*choose one of scenes"):
        stages_of(swath, "methane")
    with pytest.raises(SettingsError, match="there is no such stage"):
        stages_of(surface, "maps")
