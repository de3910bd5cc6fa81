"""Grids of areas: zone, lattice, coverage, coordinates."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pyproj
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.days import by_solar_day, solar_day
from geostack_pipeline.cube.grid import GridSpec, grid_for, utm_crs
from geostack_pipeline.errors import SettingsError


@pytest.mark.parametrize(
    ("lon", "lat", "crs"),
    [
        (54.0, 38.5, "EPSG:32640"),
        (9.0, 45.0, "EPSG:32632"),
        (-180.0, 10.0, "EPSG:32601"),
        (179.99, -10.0, "EPSG:32760"),
        (180.5, 10.0, "EPSG:32601"),
        (5.0, 60.0, "EPSG:32632"),
        (2.9, 60.0, "EPSG:32631"),
        (8.0, 78.0, "EPSG:32631"),
        (9.0, 78.0, "EPSG:32633"),
        (40.0, 78.0, "EPSG:32637"),
        (10.0, 85.0, "EPSG:5041"),
        (10.0, -81.0, "EPSG:5042"),
        (0.0, -1e-9, "EPSG:32731"),
    ],
)
def test_zone(lon: float, lat: float, crs: str) -> None:
    assert utm_crs(lon, lat) == crs


@pytest.mark.parametrize(("lon", "lat"), [(54.3, 38.5), (-3.1, 12.0), (170.2, -44.0), (-70.0, 5.5)])
def test_zone_is_the_one_pyproj_names(lon: float, lat: float) -> None:
    found = pyproj.database.query_utm_crs_info(
        datum_name="WGS 84", area_of_interest=pyproj.aoi.AreaOfInterest(lon, lat, lon, lat)
    )
    assert utm_crs(lon, lat) == f"EPSG:{found[0].code}"


@settings(max_examples=60, deadline=None)
@given(
    lon=st.floats(-179, 178),
    lat=st.floats(-75, 75),
    width=st.floats(0.01, 0.5),
    height=st.floats(0.01, 0.5),
    resolution=st.sampled_from([10.0, 20.0, 60.0, 33.3]),
)
def test_grid_covers_its_area_on_the_lattice(
    lon: float, lat: float, width: float, height: float, resolution: float
) -> None:
    grid = grid_for(Area(name="a", bbox=(lon, lat, lon + width, lat + height), resolution_m=resolution))
    a, b, c, d, e, f = grid.transform
    assert (a, b, d, e) == (resolution, 0.0, 0.0, -resolution)
    assert c / resolution == pytest.approx(round(c / resolution), abs=1e-6)
    assert f / resolution == pytest.approx(round(f / resolution), abs=1e-6)
    transformer = pyproj.Transformer.from_crs("EPSG:4326", grid.crs, always_xy=True)
    lons, lats = np.meshgrid(np.linspace(lon, lon + width, 37), np.linspace(lat, lat + height, 37))
    x, y = transformer.transform(lons.ravel(), lats.ravel())
    west, south, east, north = grid.bounds
    slack = 1e-5 * resolution
    assert west - slack <= x.min() < west + 1.001 * resolution
    assert east - 1.001 * resolution < x.max() <= east + slack
    assert south - slack <= y.min()
    assert y.max() <= north + slack
    assert grid.x.shape == (grid.width,)
    assert grid.y.shape == (grid.height,)
    assert grid.x[0] == pytest.approx(west + resolution / 2)
    assert grid.y[-1] == pytest.approx(south + resolution / 2)


def test_sentinel_2_tile_corners_are_on_the_lattice() -> None:
    grid = grid_for(Area(name="a", bbox=(9.0, 45.0, 9.1, 45.1), resolution_m=20))
    for corner in (399960, 499980, 5000040, 4900020):
        assert corner % 60 == 0
    assert grid.transform[2] % 20 == 0
    assert grid.transform[5] % 20 == 0


def test_area_across_the_antimeridian_is_one_grid() -> None:
    grid = grid_for(Area(name="a", bbox=(179.9, 51.0, -179.9, 51.1), resolution_m=100))
    assert 130 <= grid.width <= 150
    degrees = grid_for(Area(name="a", bbox=(179.9, 51.0, -179.9, 51.1), resolution_m=0.01, crs="EPSG:4326"))
    assert (degrees.width, degrees.height) == (20, 10)
    assert degrees.bounds == pytest.approx((179.9, 51.0, 180.1, 51.1))


@pytest.mark.parametrize(
    ("crs", "bbox", "zone"),
    [
        ("EPSG:3857", (179.9, 51.0, -179.9, 51.3), "EPSG:32601"),
        ("EPSG:3857", (179.5, 51.0, -179.9, 51.3), "EPSG:32660"),
        ("EPSG:3857", (60.0, -40.0, 50.0, 70.0), None),
        ("EPSG:6933", (179.9, -51.3, -179.9, -51.0), "EPSG:32701"),
        ("ESRI:54009", (179.0, 51.0, -179.0, 51.3), "EPSG:32601"),
        # cut elsewhere: the middle of this Mercator is 150 degrees east
        ("EPSG:3832", (-30.1, 51.0, -29.9, 51.3), "EPSG:32626"),
    ],
)
def test_an_area_across_the_cut_of_a_projection_is_refused(
    crs: str, bbox: tuple[float, float, float, float], zone: str | None
) -> None:
    with pytest.raises(SettingsError, match="cut inside the area") as raised:
        grid_for(Area(name="far_east", bbox=bbox, resolution_m=100.0 if zone else 10_000.0, crs=crs))
    text = str(raised.value)
    assert "far_east" in text
    assert crs in text
    assert ("antimeridian" in text) is (crs != "EPSG:3832")
    if zone is not None:
        assert zone in text
        assert grid_for(Area(name="a", bbox=bbox, resolution_m=100.0, crs=zone)).width < 2000


@pytest.mark.parametrize(
    ("crs", "bbox"),
    [
        ("EPSG:3857", (-180.0, 51.0, 180.0, 60.0)),
        ("EPSG:3857", (179.0, 51.0, 180.0, 51.5)),
        ("EPSG:3857", (-180.0, 51.0, -179.0, 51.5)),
        ("EPSG:3832", (179.9, 51.0, -179.9, 51.3)),
        ("EPSG:32601", (179.9, 51.0, -179.9, 51.3)),
        ("EPSG:32633", (-60.0, 10.0, 80.0, 70.0)),
        # around a pole x goes back and forth
        ("EPSG:3995", (179.9, 51.0, -179.9, 51.3)),
        ("EPSG:3413", (-180.0, 60.0, 180.0, 90.0)),
        ("EPSG:3413", (45.0, 60.0, -45.0, 90.0)),
        ("EPSG:3995", (80.0, 70.0, 100.0, 90.0)),
        ("ESRI:54009", (-180.0, -90.0, 180.0, 90.0)),
    ],
)
def test_an_area_beside_the_cut_of_a_projection_is_not(
    crs: str, bbox: tuple[float, float, float, float]
) -> None:
    west, south, east, north = bbox
    east += 360.0 if west > east else 0.0
    grid = grid_for(Area(name="a", bbox=bbox, resolution_m=10_000.0, crs=crs))
    lon, lat = np.meshgrid(np.linspace(west, east, 23)[1:-1], np.linspace(south, north, 23)[1:-1])
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
    left, bottom, right, top = grid.bounds
    assert (x.min() >= left, x.max() <= right, y.min() >= bottom, y.max() <= top) == (True,) * 4


def test_polar_area() -> None:
    grid = grid_for(Area(name="a", bbox=(10.0, 85.0, 12.0, 85.2), resolution_m=100))
    assert grid.crs == "EPSG:5041"
    assert grid.width > 10


@pytest.mark.parametrize(
    ("area", "text"),
    [
        (Area(name="north", bbox=(0, 0, 1, 1), resolution_m=0), "north"),
        (Area(name="north", bbox=(0, 0, 1, 1), resolution_m=float("nan")), "resolution"),
        (Area(name="north", bbox=(0, 0, 10, 10), resolution_m=0.1), "too many pixels"),
        (Area(name="north", bbox=(10, 45, 11, 46), crs="EPSG:4326"), "own unit, degrees"),
        (
            Area(name="north", bbox=(0, -90, 1, 1), resolution_m=100, crs="+proj=ortho +lat_0=90"),
            "whole area",
        ),
    ],
)
def test_bad_areas_are_named(area: Area, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        grid_for(area)


def test_grids_are_values() -> None:
    grid = GridSpec(crs="EPSG:32632", transform=(20.0, 0.0, 0.0, 0.0, -20.0, 0.0), width=3, height=2)
    assert grid == GridSpec(**{**grid.as_dict(), "transform": tuple(grid.as_dict()["transform"])})
    assert grid.bounds == (0, -40, 60, 0)
    assert grid.shape == (2, 3)


@pytest.mark.parametrize(
    ("moment", "longitude", "day"),
    [
        (datetime(2024, 6, 1, 10, 20, tzinfo=UTC), 9.0, date(2024, 6, 1)),
        (datetime(2024, 6, 1, 23, 50, tzinfo=UTC), 179.0, date(2024, 6, 2)),
        (datetime(2024, 6, 1, 0, 10, tzinfo=UTC), -170.0, date(2024, 5, 31)),
        (datetime(2024, 6, 1, 22, 10, tzinfo=UTC), 179.0, date(2024, 6, 2)),
    ],
)
def test_solar_day(moment: datetime, longitude: float, day: date) -> None:
    assert solar_day(moment, longitude) == day


def test_one_overpass_across_utc_midnight_is_one_solar_day() -> None:
    moments = [
        datetime(2024, 6, 1, 22, 40, tzinfo=UTC),
        datetime(2024, 6, 1, 0, 5, tzinfo=UTC),
        datetime(2024, 6, 1, 22, 39, tzinfo=UTC),
    ]
    assert by_solar_day(moments, 178.0) == {date(2024, 6, 1): [1], date(2024, 6, 2): [0, 2]}
    with pytest.raises(ValueError, match="time zone"):
        solar_day(datetime(2024, 6, 1), 0.0)
