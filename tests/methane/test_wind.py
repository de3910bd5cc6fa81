"""Winds from tables and Zarrs: the same record whatever the form, nearest by an independent reckoning, errors that name things."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyproj
import pytest
import shapely
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.methane.wind import WindLimits, WindRecord, WindRecords, WindSource

NOON = datetime(2024, 6, 7, 7, 16, 21, tzinfo=UTC)
DAY = (datetime(2024, 6, 7, tzinfo=UTC), datetime(2024, 6, 8, tzinfo=UTC))
BOX = (53.9, 38.4, 54.2, 38.6)
HOURS = [datetime(2024, 6, 7, hour) for hour in (5, 6, 7, 8)]
LONGITUDES, LATITUDES = (53.75, 54.0, 54.25), (38.75, 38.5, 38.25)


def grid() -> xr.Dataset:
    """Return a small ERA5: latitudes fall, as they do there."""
    stream = np.random.default_rng(5)
    shape = (len(HOURS), len(LATITUDES), len(LONGITUDES))
    axes = ("time", "latitude", "longitude")
    return xr.Dataset(
        {name: (axes, stream.normal(3.0, 2.0, shape).astype(np.float32)) for name in ("u10", "v10")},
        {
            "time": np.array(HOURS, "datetime64[ns]"),
            "latitude": list(LATITUDES),
            "longitude": list(LONGITUDES),
        },
    )


def table() -> pl.DataFrame:
    frame = pl.from_pandas(grid().to_dataframe().reset_index())
    return frame.select(pl.col("time").dt.cast_time_unit("us"), "longitude", "latitude", "u10", "v10")


def forms(folder: Path) -> dict[str, Path]:
    """Write the same wind in every form."""
    frame = table()
    frame.write_parquet(folder / "wind.parquet")
    frame.write_csv(folder / "wind.csv")
    u, v = frame["u10"].cast(pl.Float64), frame["v10"].cast(pl.Float64)
    points = [shapely.to_wkb(shapely.Point(*xy)) for xy in frame.select("longitude", "latitude").iter_rows()]
    pl.DataFrame(
        {
            "geometry": points,
            "valid_time": frame["time"].dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Ashgabat"),
            "speed": (u**2 + v**2).sqrt(),
            "direction": np.degrees(np.arctan2(-u.to_numpy(), -v.to_numpy())) % 360.0,
        }
    ).write_parquet(folder / "wind.geoparquet")
    grid().to_zarr(folder / "wind.zarr", zarr_format=3)
    return {path.name: path for path in folder.iterdir()}


def test_every_form_gives_the_same_record(tmp_path: Path) -> None:
    wanted = grid().sel(time=HOURS[2], latitude=38.5, longitude=54.0)
    for name, path in forms(tmp_path).items():
        source = WindSource(str(path))
        record = source.of(*DAY, [BOX]).near(NOON, 54.03, 38.5, source.limits)
        assert isinstance(record, WindRecord), name
        assert (record.time, record.longitude, record.latitude) == (
            HOURS[2].replace(tzinfo=UTC),
            54.0,
            38.5,
        ), name
        assert record.east_m_s == pytest.approx(float(wanted["u10"]), rel=1e-6), name
        assert record.north_m_s == pytest.approx(float(wanted["v10"]), rel=1e-6), name
        assert record.sigma_m_s is None
        _, _, metres = pyproj.Geod(ellps="sphere").inv(54.03, 38.5, 54.0, 38.5)
        assert record.distance_km == pytest.approx(metres / 1000.0, rel=2e-3)
        assert source.name == name


def test_the_digest_is_of_the_records_near_and_not_of_the_file(tmp_path: Path) -> None:
    frame = table()
    paths = [tmp_path / name for name in ("one.parquet", "other.parquet", "changed.parquet")]
    frame.write_parquet(paths[0])
    later = frame.with_columns(pl.col("time") + timedelta(days=30))
    pl.concat([later, frame.sample(fraction=1.0, shuffle=True, seed=1)]).write_parquet(paths[1])
    frame.with_columns(pl.col("u10") + 0.01).write_parquet(paths[2])
    one, other, changed = (WindSource(str(path)).of(*DAY, [BOX]).digest for path in paths)
    assert one == other
    assert one != changed


@given(
    places=st.lists(
        st.tuples(st.floats(-180, 180), st.floats(-89, 89), st.integers(-300, 300)), min_size=1, max_size=8
    ),
    at=st.tuples(st.floats(-180, 180), st.floats(-89, 89)),
)
def test_a_record_is_never_further_away_than_the_limits(places, at) -> None:
    limits = WindLimits(max_hours=2.0, max_distance_km=3000.0)
    columns = np.array([(x, y) for x, y, _ in places], float).reshape(-1, 2)
    times = np.array(
        [np.datetime64(NOON.replace(tzinfo=None), "us") + np.timedelta64(m, "m") for *_, m in places]
    )
    ones = np.ones(len(places))
    records = WindRecords(
        source="w",
        time=times,
        longitude=columns[:, 0],
        latitude=columns[:, 1],
        east=ones,
        north=ones,
        sigma=ones,
    )
    geod = pyproj.Geod(a=6371008.8, b=6371008.8)
    km = np.array([geod.inv(*at, x, y)[2] / 1000.0 for x, y, _ in places])
    hours = np.abs([m for *_, m in places]) / 60.0
    allowed = (km <= 3000.0) & (hours <= 2.0)
    found = records.near(NOON, *at, limits)
    if isinstance(found, str):
        assert not allowed.any() or np.abs(km[allowed] - 3000.0).min() < 1e-6
        assert found.startswith("no wind within")
    else:
        best = ((km / 3000.0) ** 2 + (hours / 2.0) ** 2)[allowed].min()
        took = (found.distance_km / 3000.0) ** 2 + (abs((found.time - NOON).total_seconds()) / 7200.0) ** 2
        assert took == pytest.approx(best, abs=1e-6)


def test_why_there_is_no_wind(tmp_path: Path) -> None:
    table().write_parquet(tmp_path / "wind.parquet")
    source = WindSource(str(tmp_path / "wind.parquet"))
    records = source.of(*DAY, [BOX])
    late = records.near(NOON + timedelta(hours=6), 54.0, 38.5, source.limits)
    assert late == "no wind within 1.5 h: the nearest is 5.3 h away"
    far = records.near(NOON, 54.0, 40.0, source.limits)
    assert isinstance(far, str)
    assert far.startswith("no wind within 40 km: the nearest is 139 km")
    assert source.of(DAY[0] + timedelta(days=9), DAY[1] + timedelta(days=9), [BOX]).time.size == 0


def test_records_without_a_wind_are_left_out_and_counted(tmp_path: Path) -> None:
    frame = table().with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(float("nan")).otherwise(pl.col("u10")).alias("u10")
    )
    frame.write_parquet(tmp_path / "wind.parquet")
    records = WindSource(str(tmp_path / "wind.parquet")).of(*DAY, [BOX])
    assert records.unusable == 12
    assert records.time.size == 24
    assert np.isfinite(records.east).all()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"longitude": [1.0], "latitude": [1.0], "u10": [1.0], "v10": [1.0]}, ("no time", "valid_time")),
        ({"time": ["2024-06-01"], "latitude": [1.0], "u10": [1.0], "v10": [1.0]}, ("no longitude", "lon")),
        ({"time": ["2024-06-01"], "longitude": [1.0], "latitude": [1.0], "u10": [1.0]}, ("no wind", "v10")),
        (
            {"time": ["soon"], "longitude": [1.0], "latitude": [1.0], "u10": [1.0], "v10": [1.0]},
            ("holds no times", "time"),
        ),
        (
            {"time": ["2024-06-01T00:00"], "longitude": [1.0], "latitude": [1.0], "u10": ["a"], "v10": [1.0]},
            ("holds no numbers", "u10"),
        ),
    ],
)
def test_a_table_that_is_no_wind_says_what_it_lacks(tmp_path: Path, columns, words) -> None:
    pl.DataFrame(columns).write_parquet(tmp_path / "odd.parquet")
    with pytest.raises(SettingsError) as caught:
        WindSource(str(tmp_path / "odd.parquet")).of(*DAY, [BOX])
    assert all(word in str(caught.value) for word in (*words, "odd.parquet"))
    assert str(tmp_path) not in str(caught.value)


def test_a_source_that_is_not_there_or_no_wind_at_all(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="neither a table nor a Zarr"):
        WindSource("wind.grib")
    for name in ("gone.parquet", "gone.zarr"):
        with pytest.raises(SettingsError, match="does not exist"):
            WindSource(str(tmp_path / name)).of(*DAY, [BOX])
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(SettingsError, match="cannot be read"):
        WindSource(str(tmp_path / "bad.parquet")).of(*DAY, [BOX])
    grid().drop_vars("v10").to_zarr(tmp_path / "half.zarr", zarr_format=3)
    with pytest.raises(SettingsError, match="no v"):
        WindSource(str(tmp_path / "half.zarr")).of(*DAY, [BOX])


@pytest.mark.parametrize("units", ["knots", "km h-1"])
def test_a_wind_in_other_units_is_refused(tmp_path: Path, units: str) -> None:
    wind = grid()
    for name, said in (("u10", "m s**-1"), ("v10", units)):
        wind[name].attrs["units"] = said
    wind.to_zarr(tmp_path / "wind.zarr", zarr_format=3)
    with pytest.raises(SettingsError, match=units):
        WindSource(str(tmp_path / "wind.zarr")).of(*DAY, [BOX])
    wind["v10"].attrs["units"] = "m s**-1"
    wind.to_zarr(tmp_path / "right.zarr", zarr_format=3)
    assert WindSource(str(tmp_path / "right.zarr")).of(*DAY, [BOX]).time.size


def test_longitudes_to_360_and_boxes_over_the_antimeridian(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "time": [HOURS[2]] * 3,
            "longitude": [180.2, 179.9, 0.0],
            "latitude": [10.0, 10.0, 10.0],
            "u10": [1.0, 2.0, 3.0],
            "v10": [0.0, 0.0, 0.0],
        }
    ).write_parquet(tmp_path / "wind.parquet")
    source = WindSource(str(tmp_path / "wind.parquet"))
    records = source.of(*DAY, [(179.8, 9.9, -179.9, 10.1)])
    assert sorted(records.longitude.round(6)) == [-179.8, 179.9]
    record = records.near(NOON, -179.95, 10.0, source.limits)
    assert isinstance(record, WindRecord)
    assert record.east_m_s == 1.0
    assert record.from_deg == pytest.approx(270.0)
