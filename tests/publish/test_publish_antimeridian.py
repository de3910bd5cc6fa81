"""Results across the antimeridian: what GeoJSON (RFC 7946), STAC and GeoParquet say, with other people's readers."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pyproj
import pystac
import pytest
import rustac
import shapely
import xarray as xr
from test_publish_stac import ORIGIN, a_collection, a_field, a_plume

from geostack_pipeline.methane.outline import georeference, outline
from geostack_pipeline.publish.antimeridian import box_around, cut
from geostack_pipeline.publish.cog import placement
from geostack_pipeline.publish.geoparquet import items_parquet
from geostack_pipeline.publish.items import extent, field_item
from geostack_pipeline.publish.plume_picture import _window
from geostack_pipeline.publish.products import sensor
from geostack_pipeline.publish.report_map import area_map
from geostack_pipeline.publish.root import PublishedDate, root_catalog
from geostack_pipeline.publish.schemas import problems
from geostack_pipeline.stages.published_plumes import plume_feature

GEOD = pyproj.Geod(ellps="WGS84")
GRIDS = {
    "the zone in the west": ("EPSG:32660", 179.9, 51.0),
    "the zone in the east": ("EPSG:32601", -179.9, 51.0),
    "the south": ("EPSG:32760", 179.95, -45.0),
    "degrees beyond 180": ("EPSG:4326", 179.97, 10.0),
    "degrees beyond -180": ("EPSG:4326", -180.05, 10.0),
}
"""CRS, and longitude and latitude of a corner in the west or the middle, of grids on both sides."""


def across(code: str, longitude: float, latitude: float) -> xr.Dataset:
    """Return a node of 60 rows and 80 columns that holds 180 degrees."""
    crs = pyproj.CRS(code)
    step = 0.001 if crs.is_geographic else 500.0
    x, y = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True).transform(longitude, latitude)
    columns = (np.arange(80) + 0.5) * step if crs.is_geographic else (np.arange(80) - 39.5) * step
    return xr.Dataset(
        {"ch4_enhancement": (("y", "x"), np.zeros((60, 80), np.float32))},
        {
            "x": x + columns,
            "y": y - (np.arange(60) - 29.5) * step,
            "spatial_ref": ((), 0, {"crs_wkt": crs.to_wkt()}),
        },
    )


def item_of(fields: xr.Dataset) -> dict[str, Any]:
    return field_item(
        item_id="ch4-across",
        collection="methane-enhancement-emit",
        title="Methane across",
        time=datetime(2024, 6, 7, 0, 10, tzinfo=UTC),
        place=placement(fields),
        sensor=sensor("emit"),
        platforms=["iss"],
        cloud_cover=None,
        assets=a_field("emit")["assets"],
        origin=ORIGIN,
    )


def centres(fields: xr.Dataset) -> tuple[Any, Any]:
    """Longitudes in [-180, 180] and latitudes of all pixels."""
    x, y = np.meshgrid(fields["x"].values, fields["y"].values)
    crs = pyproj.CRS.from_wkt(fields["spatial_ref"].attrs["crs_wkt"])
    longitude, latitude = pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(x, y)
    return (longitude + 180.0) % 360.0 - 180.0, latitude


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_field_is_cut_at_180_and_its_box_runs_from_west_to_east(grid: tuple[str, float, float]) -> None:
    fields = across(*grid)
    longitude, latitude = centres(fields)
    assert (longitude > 179.0).any()
    assert (longitude < -179.0).any()
    item = item_of(fields)
    assert problems(item) == []
    read = pystac.Item.from_dict(json.loads(json.dumps(item)))
    assert (read.geometry, read.bbox) == (item["geometry"], item["bbox"])
    shape = shapely.geometry.shape(read.geometry)
    assert shape.geom_type == "MultiPolygon"
    assert shape.is_valid
    west_part, east_part = sorted(shapely.get_parts(shape), key=lambda part: -part.bounds[0])
    assert west_part.bounds[2] == 180.0
    assert east_part.bounds[0] == -180.0
    assert all(part.exterior.is_ccw for part in (west_part, east_part))
    # It holds every pixel and nothing else.
    assert shapely.contains_xy(shape, longitude, latitude).all()
    place = placement(fields)
    edge = pyproj.Transformer.from_crs(place.crs, "OGC:CRS84", always_xy=True)
    corners = [edge.transform(*place.xy(column, row)) for column, row in [(0, 0), (0, 60), (80, 60), (80, 0)]]
    whole = abs(GEOD.polygon_area_perimeter(*zip(*corners, strict=True))[0])
    parts = sum(
        abs(GEOD.geometry_area_perimeter(shapely.segmentize(part, 0.01))[0])
        for part in (west_part, east_part)
    )
    assert parts == pytest.approx(whole, rel=2e-3)
    west, south, east, north = item["bbox"]
    assert west > 179.0 > -179.0 > east
    assert (west, east) == pytest.approx(
        (longitude[longitude > 0].min(), longitude[longitude < 0].max()), abs=0.01
    )
    assert (south, north) == pytest.approx((latitude.min(), latitude.max()), abs=0.01)


def test_a_field_on_one_side_is_what_it_was() -> None:
    fields = across("EPSG:32660", 179.9, 51.0).isel(x=slice(0, 20))
    item = item_of(fields)
    ring = placement(fields).outline()
    assert item["geometry"] == {"type": "Polygon", "coordinates": [[list(point) for point in ring]]}
    assert item["bbox"] == list(shapely.Polygon(ring).bounds)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_a_plume_has_the_same_box_in_its_item_and_its_file(grid: tuple[str, float, float]) -> None:
    fields = across(*grid)
    mask = np.zeros((60, 80), bool)
    mask[20:30, :] = True
    mask[24, 4] = False
    made = outline(mask, georeference(fields))
    item = a_plume(geometry=shapely.to_wkb(made))
    assert problems(item) == []
    longitude, latitude = centres(fields)
    shape = shapely.geometry.shape(item["geometry"])
    assert shape.is_valid
    assert shape.geom_type == "MultiPolygon"
    np.testing.assert_array_equal(shapely.contains_xy(shape, longitude, latitude), mask)
    assert item["bbox"][0] > 179.0 > -179.0 > item["bbox"][2]
    feature = plume_feature({"plume_id": "p", "geometry": shapely.to_wkb(made)})
    assert (feature["geometry"], feature["bbox"]) == (item["geometry"], item["bbox"])


def test_a_plume_lies_on_its_map_on_either_side() -> None:
    mask = np.zeros((60, 80), bool)
    mask[25:35, 20:45] = True
    windows = []
    for west in (20.0, 179.97, -180.05):
        fields = across("EPSG:4326", west, 10.0)
        place = placement(fields)
        shape = shapely.transform(outline(mask, georeference(fields)), place.from_degrees)
        # The corners of the mask's pixels, whatever side of 180 degrees they are on.
        left, bottom, right, top = shape.bounds
        assert place.pixel(left, top) == pytest.approx((20.0, 25.0), abs=1e-3)
        assert place.pixel(right, bottom) == pytest.approx((45.0, 35.0), abs=1e-3)
        assert shapely.union_all(shapely.get_parts(shape)).geom_type == "Polygon"
        windows.append([edge for part in _window(shape, place) for edge in (part.start, part.stop)])
    # To the pixel that rounded degrees may move it by.
    assert np.ptp(windows, axis=0).max() <= 1


def test_the_map_of_an_area_holds_both_of_its_sides() -> None:
    drawn = []
    for west in (20.0, 179.9):
        parts = [
            (west, 10.0, west + 0.1, 10.1),
            (west + 0.1 - (360.0 if west > 90.0 else 0.0), 10.0, 0.0, 10.1),
        ]
        parts[1] = (*parts[1][:2], parts[1][0] + 0.1, 10.1)
        shape = shapely.MultiPolygon([shapely.box(*part) for part in parts])
        halves = [shapely.box(part[0] + 0.01, 10.04, part[2] - 0.01, 10.06) for part in parts]
        row = {
            "geometry": shapely.to_wkb(shapely.MultiPolygon(halves)), "source_longitude": halves[1].centroid.x,
            "source_latitude": 10.05, "wind_speed_m_s": None, "emission_rate_kg_h": None, "ime_kg": 1.0,
        }  # fmt: skip
        svg = area_map("fiji", parts, footprints=[shapely.geometry.mapping(shape)], plumes=[(1, row)])
        drawn.append(re.findall(r' d="(M[^"]*)"| cx="([^"]*)"', re.sub(r'class="grid"[^>]*', "", svg)))
        numbers = [float(each) for each in re.findall(r'text-anchor="middle">([-0-9.]+)°', svg)]
        assert all(-180.0 <= number < 180.0 for number in numbers)
    assert drawn[0] == drawn[1]


def test_a_ring_around_a_pole_holds_it() -> None:
    longitude = np.arange(-175.0, 190.0, 10.0)
    ring = np.column_stack([(longitude + 180.0) % 360.0 - 180.0, np.full(longitude.size, 80.0)])
    shape = cut(shapely.Polygon(ring))
    assert shape.is_valid
    assert shape.bounds == (-180.0, 80.0, 180.0, 90.0)
    assert shape.area == pytest.approx(3600.0)


@pytest.mark.parametrize(
    ("boxes", "wanted"),
    [
        ([[170, 0, 180, 1], [-180, 0, -170, 2]], [-180, 0, 180, 2]),  # neither crosses: as plain numbers
        ([[179, 0, -179, 1]], [179, 0, -179, 1]),
        ([[179, 0, -179, 1], [178, -1, 178.5, 0], [-178, 0, -177, 1]], [178, -1, -177, 1]),
        ([[179, 0, -179, 1], [54, 0, 55, 1]], [54, 0, -179, 1]),
        ([[179, 0, -179, 1], [-110, 0, -100, 1]], [179, 0, -100, 1]),
        ([[170, 0, -170, 1], [-175, 0, 0, 1]], [170, 0, 0, 1]),
        ([[179, 0, -179, 1], [-180, 0, 180, 1]], [-180, 0, 180, 1]),
    ],
)
def test_the_box_around_boxes(boxes: list[list[float]], wanted: list[float]) -> None:
    assert box_around(boxes) == wanted
    assert box_around(boxes[::-1]) == wanted


def test_collections_and_the_table_of_items(tmp_path: Any) -> None:
    geopandas = pytest.importorskip("geopandas")
    item, other = item_of(across(*GRIDS["the zone in the west"])), a_field("emit", "EPSG:4326", 0.0005)
    collection = a_collection([item])
    assert problems(collection) == []
    assert collection["extent"]["spatial"]["bbox"] == [item["bbox"]]
    both = extent([item, other])["spatial"]["bbox"][0]
    assert both == [other["bbox"][0], other["bbox"][1], item["bbox"][2], item["bbox"][3]]
    path = tmp_path / "items.parquet"
    path.write_bytes(items_parquet([item, other]))
    # GeoParquet 1.1: boxes of rows and file are those of RFC 7946; a covering of such rows is "unsupported".
    column = json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]
    assert column["bbox"] == both
    assert "covering" not in column
    rows = pq.read_table(path, columns=["id", "bbox"]).to_pylist()
    assert {row["id"]: list(row["bbox"].values()) for row in rows} == {
        one["id"]: one["bbox"] for one in (item, other)
    }
    for read in rustac.read_sync(str(path))["features"]:
        wanted = item if read["id"] == item["id"] else other
        assert list(read["bbox"]) == wanted["bbox"]
        assert shapely.geometry.shape(read["geometry"]).equals(shapely.geometry.shape(wanted["geometry"]))
    table = geopandas.read_parquet(path).set_index("id")
    assert table.geometry[item["id"]].equals(shapely.geometry.shape(item["geometry"]))
    path.write_bytes(items_parquet([other]))
    assert "covering" in json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]
    catalog = root_catalog(
        [PublishedDate(url="file:///a/", documents={"c/i/i.json": item, "c/collection.json": collection})]
    )
    catalog.write(tmp_path / "catalog")
    assert catalog.collections[0]["extent"]["spatial"]["bbox"] == [item["bbox"]]
