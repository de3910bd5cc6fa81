"""EMIT's catalogs over time: what is released, revised, redrawn and deleted, and that all of it can be taken back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.features
import rasterio.warp
import shapely

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.dialects.emit_granules import PROTECTED, Record, records
from geostack_pipeline.sandbox.dialects.emit_history import EmitHistory

PLUME = "CH4PLM_002_20240607"
WHEN = "2026-03-01T12:00:00.123456+00:00"


@pytest.fixture(scope="module")
def first(swath_world: Any) -> list[Record]:
    return records(swath_world)


@pytest.fixture
def history(first: list[Record], swath_world: Any) -> EmitHistory:
    return EmitHistory(first, [shapely.box(*area.bbox) for area in swath_world.areas])


def only(history: EmitHistory, part: str) -> Record:
    (record,) = (each for each in history.listed() if part in each.name)
    return record


def content(stored: StoredObject) -> bytes:
    return stored.data if stored.path is None else stored.path.read_bytes()


def drawn(history: EmitHistory) -> tuple[shapely.Geometry, shapely.Geometry, Record]:
    """Return the outline by the raster, by GDAL, and by the metadata, as the archive serves them."""
    record = only(history, PLUME)
    files = {
        name.rsplit(".", 1)[-1]: content(history.files[f"{PROTECTED}/{record.folder}/{name}"])
        for name in record.files
    }
    with rasterio.MemoryFile(files["tif"]) as memory, memory.open() as raster:
        inside: npt.NDArray[np.bool_] = raster.read(1) != raster.nodata
        assert raster.crs.to_epsg() == 4326
        shapes = rasterio.features.shapes(inside.astype("u1"), mask=inside, transform=raster.transform)
        by_raster = shapely.union_all([shapely.geometry.shape(each) for each, _ in shapes])
        assert shapely.box(*raster.bounds).equals_exact(record.footprint, 1e-9)
    features = json.loads(files["json"])["features"]
    by_metadata = shapely.geometry.shape(features[0]["geometry"])
    assert (
        by_raster.covers(shapely.Point(features[1]["geometry"]["coordinates"][:2]))
        or by_raster.distance(shapely.Point(features[1]["geometry"]["coordinates"][:2])) < 0.01
    )
    return by_raster, by_metadata, record


def test_an_outline_is_drawn_anew_wrongly_and_right_again(history: EmitHistory) -> None:
    true, told, before = drawn(history)
    assert true.symmetric_difference(told).area < 0.2 * true.area
    done = history.apply({"action": "revise", "item": PLUME, "label": "wider", "at": WHEN})
    wider, told, record = drawn(history)
    assert wider.buffer(1e-9).covers(true)
    assert wider.area > true.area
    assert wider.symmetric_difference(told).area < 0.2 * wider.area
    assert (record.revision, record.revised) == (
        before.revision + 1,
        datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC),
    )
    assert set(done.objects[PROTECTED]) == {f"{record.folder}/{name}" for name in record.files}

    history.apply({"action": "revise", "item": PLUME, "label": "wrong"})
    wrong, told, record = drawn(history)
    assert wrong.intersection(true).area == 0.0
    assert wrong.intersection(told).area > 0.8 * told.area
    # A user of the area sees it.
    assert wrong.intersects(shapely.union_all([shapely.box(*box) for box in _areas(history)]))

    history.apply({"action": "revise", "item": PLUME, "label": "true"})
    assert drawn(history)[0].equals(true)
    assert only(history, PLUME).revision == before.revision + 3


def _areas(history: EmitHistory) -> list[tuple[float, float, float, float]]:
    assert history._areas is not None
    return [part.bounds for part in getattr(history._areas, "geoms", [history._areas])]


def test_everything_can_be_taken_back(history: EmitHistory, first: list[Record]) -> None:
    history.hold(["20240609"])
    start, files = history.report(), dict(history.files)
    history.apply({"action": "release", "item": "20240609"})
    history.apply({"action": "revise", "item": PLUME, "label": "wrong"})
    history.apply({"action": "delete", "item": "20240603"})
    assert len(history.deleted()) == 4
    assert history.report() != start
    done = history.reset()
    assert history.report() == start
    assert history.files == files
    assert len(done.objects[PROTECTED]) == 2
    assert {name for name in done.names if "20240607" in name} == {only(history, PLUME).name}
    assert len(history.listed()) == len(first) - len(start["held"])
    assert history.reset().names == ()


def test_several_granules_change_in_one_instant(history: EmitHistory) -> None:
    history.hold(["20240607", "20240609"])
    done = history.apply({"action": "release", "item": ["CH4ENH_002_20240607", "CH4PLM_002_20240609"]})
    assert len(done.names) == 2
    listed = history.report()["listed"]
    assert len({listed[name]["revised"] for name in done.names}) == 1
    before = history.report()
    with pytest.raises(SettingsError, match="no such granule"):
        history.apply({"action": "delete", "item": ["CH4ENH_002_20240607", "nothing"]})
    assert history.report() == before


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"action": "revise", "item": []},
        {"action": "burn", "item": PLUME},
        {"action": "revise", "item": ""},
        {"action": "revise", "item": "nothing"},
        {"action": "release", "item": PLUME},
        {"action": "revise", "item": PLUME, "label": "pretty"},
        {"action": "delete", "item": PLUME, "label": "wrong"},
        {"action": "revise", "item": "CH4ENH_002_20240607", "label": "wrong"},
        {"action": "revise", "item": PLUME, "size": 3},
    ],
)
def test_changes_that_are_refused_change_nothing(history: EmitHistory, change: dict[str, Any]) -> None:
    before = history.report()
    with pytest.raises(SettingsError):
        history.apply(change)
    assert history.report() == before
