"""Overviews as a setting: whose word counts, which versions it changes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import parse_settings
from geostack_pipeline.stages import cube, granules
from geostack_pipeline.stages.workspace import open_workspace

Versions = Callable[..., tuple[str, str]]


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """The versions of manifest and cube under settings of an area and of the provider."""

    def of(area: dict[str, Any], provider: dict[str, Any]) -> tuple[str, str]:
        box = {"bbox": [10.0, 45.0, 10.1, 45.1]}
        raw = {"areas": {"one": {**box, **area}, "two": box}, "providers": {"earth_search": provider}}
        settings = parse_settings({"root": (tmp_path / "store").as_uri(), **raw})
        ws, own = open_workspace(settings), settings.build_provider("earth_search")
        return granules.base(ws, own, "selected"), cube.version(ws, own, "granules")

    return of


def test_the_default_leaves_stored_versions_valid_and_another_makes_new_ones(versions: Versions) -> None:
    default = versions({}, {})
    assert versions({"read_overviews": False}, {"read_overviews": False}) == default
    # the area's word goes before the provider's
    one, both, other = (
        versions({"read_overviews": True}, {}),
        versions({}, {"read_overviews": True}),
        versions({"read_overviews": False}, {"read_overviews": True}),
    )
    for index in (0, 1):
        assert len({kind[index] for kind in (default, one, both, other)}) == 4
    assert versions({"read_overviews": True}, {"read_overviews": True}) == both


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"providers": {"earth_search": {"read_overviews": "deep"}}}, "earth_search.read_overviews"),
        ({"areas": {"a": {"bbox": [1, 2, 3, 4], "read_overviews": 4}}}, "a.read_overviews"),
        ({"providers": {"cmr_stac": {"read_overviews": True}}}, "sensor's own geometry"),
    ],
)
def test_what_cannot_be_is_refused(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        parse_settings(raw)
