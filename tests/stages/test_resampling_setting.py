"""Resampling as a setting: whose word counts, which versions it changes, and that the cube is made so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import parse_settings
from geostack_pipeline.stages import cube, granules
from geostack_pipeline.stages.workspace import open_workspace


@pytest.fixture
def version(tmp_path: Path) -> Callable[[dict[str, Any], dict[str, Any]], str]:
    """The version of a cube under settings of an area and of the provider."""

    def of(area: dict[str, Any], provider: dict[str, Any]) -> str:
        box = {"bbox": [10.0, 45.0, 10.1, 45.1]}
        raw = {"areas": {"one": {**box, **area}, "two": box}, "providers": {"earth_search": provider}}
        settings = parse_settings({"root": (tmp_path / "store").as_uri(), **raw})
        return cube.version(open_workspace(settings), settings.build_provider("earth_search"), "granules")

    return of


def test_the_default_leaves_stored_versions_valid_and_another_makes_new_ones(
    version: Callable[[dict[str, Any], dict[str, Any]], str],
) -> None:
    default = version({}, {})
    assert version({"resampling": "auto"}, {"resampling": "auto"}) == default
    assert version({}, {"resampling": "auto"}) == default
    others = {
        how: (version({"resampling": how}, {}), version({}, {"resampling": how}))
        for how in ("nearest", "bilinear", "average")
    }
    assert len({default, *(one for pair in others.values() for one in pair)}) == 7
    # the area's word goes before the provider's
    assert version({"resampling": "auto"}, {"resampling": "average"}) != others["average"][1]
    assert version({"resampling": "bilinear"}, {"resampling": "bilinear"}) == others["bilinear"][1]


def test_what_is_cut_follows_the_weights(tmp_path: Path) -> None:
    def base(area: dict[str, Any], provider: dict[str, Any]) -> str:
        raw = {
            "areas": {"one": {"bbox": [10.0, 45.0, 10.1, 45.1], **area}},
            "providers": {"earth_search": provider},
        }
        settings = parse_settings({"root": (tmp_path / "store").as_uri(), **raw})
        return granules.base(open_workspace(settings), settings.build_provider("earth_search"), "selected")

    default = base({}, {})
    assert base({"resampling": "average"}, {"resampling": "nearest"}) == default
    assert base({"resampling": "bilinear"}, {}) == base({}, {"resampling": "bilinear"}) != default
    assert base({"resampling": "auto"}, {"resampling": "bilinear"}) == default


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"providers": {"earth_search": {"resampling": "cubic"}}}, "earth_search.resampling"),
        ({"areas": {"a": {"bbox": [1, 2, 3, 4], "resampling": "mode"}}}, "a.resampling"),
        ({"providers": {"cmr_stac": {"resampling": "bilinear"}}}, "sensor's own geometry"),
    ],
)
def test_what_cannot_be_is_refused(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        parse_settings(raw)
