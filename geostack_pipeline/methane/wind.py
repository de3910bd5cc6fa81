"""Wind near the ground, from a table or a Zarr that the user names: what a plume's emission rate is made with.

A table (Parquet, GeoParquet or CSV) has one row per time and place; a Zarr has ``u10`` and ``v10`` over time, latitude
and longitude, as ERA5 comes.  Nothing is interpolated: the record nearest in space and time is taken and named, and
where none is near enough the answer says so.  A wind is never made up.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.storage.digest import sha256_bytes
from geostack_pipeline.storage.roots import Root, open_root

if TYPE_CHECKING:
    import polars as pl
    import xarray as xr

Box = tuple[float, float, float, float]
"""West, south, east, north in degrees; west > east crosses the antimeridian."""

EARTH_RADIUS_KM = 6371.0088
_NAMES: Mapping[str, tuple[str, ...]] = {
    "time": ("time", "valid_time", "datetime"),
    "longitude": ("longitude", "lon", "x"),
    "latitude": ("latitude", "lat", "y"),
    "u": ("u10", "u", "eastward_wind"),
    "v": ("v10", "v", "northward_wind"),
    "speed": ("wind_speed", "speed"),
    "from": ("wind_from_direction", "direction"),
    "sigma": ("wind_speed_sigma", "sigma"),
}
"""What is read -> names it may have; those of ERA5 and of CF come first."""
_METRES_PER_SECOND = frozenset(
    {"ms-1", "m/s", "ms**-1", "ms^-1", "meters/second", "meterspersecond", "m/sec"}
)
"""Units of a wind without their blanks and dots; ERA5 writes ``m s**-1``."""
ENDINGS = (".parquet", ".geoparquet", ".csv", ".zarr")


@dataclass(frozen=True, kw_only=True)
class WindRecord:
    """The wind at one time and place, 10 m above the ground."""

    time: datetime
    longitude: float
    latitude: float
    east_m_s: float
    """Speed towards the east."""
    north_m_s: float
    """Speed towards the north."""
    sigma_m_s: float | None
    """1-sigma of the speed as the source states it."""
    distance_km: float
    """From the place that was asked for."""

    @property
    def speed_m_s(self) -> float:
        """Wind speed."""
        return math.hypot(self.east_m_s, self.north_m_s)

    @property
    def from_deg(self) -> float:
        """Direction from which it blows, degrees clockwise from north."""
        return math.degrees(math.atan2(-self.east_m_s, -self.north_m_s)) % 360.0


@dataclass(frozen=True, kw_only=True)
class WindLimits:
    """How far away a record may be."""

    max_hours: float = 1.5
    max_distance_km: float = 40.0
    """ERA5's grid of 0.25 degrees has a point within 20 km of every place."""


@dataclass(frozen=True, kw_only=True)
class WindRecords:
    """Some records of a source, columns of equal length."""

    source: str
    """The file, without the folder where it lies on a local disk."""
    time: NDArray[np.datetime64]
    longitude: NDArray[np.float64]
    latitude: NDArray[np.float64]
    east: NDArray[np.float64]
    north: NDArray[np.float64]
    sigma: NDArray[np.float64]
    """NaN where the source states none."""
    unusable: int = 0
    """Records of the source that were left out: no time, place or wind (ERA5-Land has none over the sea)."""

    @cached_property
    def digest(self) -> str:
        """The sha256 over the records, whatever file they were in and in whichever order."""
        columns = (
            self.time.astype("datetime64[us]").astype(np.int64).astype(np.float64),
            *(part.round(6) for part in (self.longitude, self.latitude, self.east, self.north, self.sigma)),
        )
        table = np.stack(columns, axis=1) + 0.0
        order = np.lexsort(table.T[::-1])
        return sha256_bytes(np.ascontiguousarray(table[order], dtype="<f8").tobytes())

    def near(self, time: datetime, longitude: float, latitude: float, limits: WindLimits) -> WindRecord | str:
        """Return the nearest record, or why there is none.

        Near in both: the one with the smallest sum of squares of distance and time, each in units of its limit.
        """
        if not self.time.size:
            return f"no wind within {limits.max_hours:g} h and {limits.max_distance_km:g} km"
        moment = np.datetime64(time.astimezone(UTC).replace(tzinfo=None), "us")
        hours = (self.time.astype("datetime64[us]") - moment) / np.timedelta64(1, "h")
        km = _distance_km(longitude, latitude, self.longitude, self.latitude)
        in_time, in_space = np.abs(hours) <= limits.max_hours, km <= limits.max_distance_km
        good = in_time & in_space
        if not good.any():
            if not in_time.any():
                nearest = float(hours[np.argmin(np.abs(hours))])
                return f"no wind within {limits.max_hours:g} h: the nearest is {abs(nearest):.1f} h away"
            nearest = float(km[in_time].min())
            return f"no wind within {limits.max_distance_km:g} km: the nearest is {nearest:.0f} km away"
        score = (hours / max(limits.max_hours, 1e-9)) ** 2 + (km / max(limits.max_distance_km, 1e-9)) ** 2
        # Of equally near ones the earliest, southernmost, westernmost: the order of the file does not matter.
        order = np.lexsort((self.longitude, self.latitude, self.time, np.where(good, score, np.inf).round(9)))
        index = int(order[0])
        sigma = float(self.sigma[index])
        return WindRecord(
            time=self.time[index].astype("datetime64[us]").item().replace(tzinfo=UTC),
            longitude=float(self.longitude[index]),
            latitude=float(self.latitude[index]),
            east_m_s=float(self.east[index]),
            north_m_s=float(self.north[index]),
            sigma_m_s=sigma if math.isfinite(sigma) else None,
            distance_km=float(km[index]),
        )


def _distance_km(
    longitude: float, latitude: float, longitudes: NDArray[np.float64], latitudes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return great-circle distances by the haversine formula."""
    here, there = math.radians(latitude), np.radians(latitudes)
    east = np.radians(longitudes - longitude)
    inner = np.sin((there - here) / 2) ** 2 + math.cos(here) * np.cos(there) * np.sin(east / 2) ** 2
    return np.asarray(2.0 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(inner, 0.0, 1.0))))


class WindSource:
    """The wind that the settings name.  Opening it reads nothing; a table is read once, of a Zarr only what is asked.

    Args:
        source: Path or URL (``file:``, ``s3://``, ``az://``) ending in .parquet, .geoparquet, .csv or .zarr.
        options: Options of an object store, as for a root.
        limits: How far away a record may be.

    Raises:
        SettingsError: The ending is another one.
    """

    def __init__(
        self, source: str, *, options: Mapping[str, str] | None = None, limits: WindLimits | None = None
    ) -> None:
        self.limits = limits or WindLimits()
        self._folder, _, self._name = source.rstrip("/").rpartition("/")
        if self._folder == "" and source.startswith("file:"):
            self._folder, self._name = "file:.", self._name.removeprefix("file:")
        self._options = dict(options or {})
        if not self._name.endswith(ENDINGS):
            raise SettingsError(
                "the wind is neither a table nor a Zarr",
                subject=f"setting wind.source: {self._name!r}",
                action=f"name a file that ends in one of {', '.join(ENDINGS)}",
            )

    @cached_property
    def _root(self) -> Root:
        return open_root(self._folder or ".", self._options or None)

    @property
    def name(self) -> str:
        """The source as results name it: a URL, or a local file's name without its folder."""
        return self._name if self._root.path is not None else f"{self._root.url}/{self._name}"

    def of(self, first: datetime, last: datetime, boxes: Sequence[Box]) -> WindRecords:
        """Return the records that may be near an instant between two, in one of the boxes.

        Args:
            first: First instant.
            last: Last instant, included.
            boxes: Where the plumes lie; grown by the limit of distance.

        Raises:
            SettingsError: The source cannot be read as wind; says what is missing.
        """
        reach = timedelta(hours=self.limits.max_hours)
        begin, end = (
            np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
            for moment in (first - reach, last + reach)
        )
        grown = [_grow(box, self.limits.max_distance_km) for box in boxes]
        if self._name.endswith(".zarr"):
            return self._of_tree(begin, end, grown)
        table = self._table
        inside = (table.time >= begin) & (table.time <= end) & _within(table.longitude, table.latitude, grown)
        return WindRecords(
            source=self.name,
            time=table.time[inside],
            longitude=table.longitude[inside],
            latitude=table.latitude[inside],
            east=table.east[inside],
            north=table.north[inside],
            sigma=table.sigma[inside],
            unusable=table.unusable,
        )

    @cached_property
    def _table(self) -> WindRecords:
        import polars as pl  # noqa: PLC0415 - a planner without plumes needs none

        try:
            data = self._root.read(self._name)
        except FileNotFoundError:
            raise self._wrong("the file does not exist", None, "correct wind.source, or remove it") from None
        try:
            frame = (
                pl.read_csv(io.BytesIO(data), try_parse_dates=True)
                if self._name.endswith(".csv")
                else pl.read_parquet(io.BytesIO(data))
            )
        except (pl.exceptions.PolarsError, OSError) as error:
            raise self._wrong("the table cannot be read", str(error)[:200], "check the file") from error
        return self._records(frame)

    def _records(self, frame: pl.DataFrame) -> WindRecords:
        names = {key: _first(frame.columns, known) for key, known in _NAMES.items()}
        if names["longitude"] is None and names["latitude"] is None and "geometry" in frame.columns:
            longitude, latitude = _points(frame["geometry"].to_list())
        else:
            longitude, latitude = (self._numbers(frame, names[key], key) for key in ("longitude", "latitude"))
        if names["u"] is not None and names["v"] is not None:
            east, north = (self._numbers(frame, names[key], key) for key in ("u", "v"))
        elif names["speed"] is not None and names["from"] is not None:
            speed, come = (self._numbers(frame, names[key], key) for key in ("speed", "from"))
            east, north = -speed * np.sin(np.radians(come)), -speed * np.cos(np.radians(come))
            east = np.where(speed < 0.0, np.nan, east)
        else:
            raise self._wrong(
                "the table has no wind",
                f"columns {', '.join(frame.columns)}",
                "give u10 and v10, or wind_speed and wind_from_direction (degrees clockwise from north)",
            )
        sigma = (
            np.full(frame.height, np.nan)
            if names["sigma"] is None
            else self._numbers(frame, names["sigma"], "sigma")
        )
        return self._checked(self._times(frame, names["time"]), longitude, latitude, east, north, sigma)

    def _checked(
        self,
        time: NDArray[np.datetime64],
        longitude: NDArray[np.float64],
        latitude: NDArray[np.float64],
        east: NDArray[np.float64],
        north: NDArray[np.float64],
        sigma: NDArray[np.float64],
    ) -> WindRecords:
        longitude = np.where(longitude > 180.0, longitude - 360.0, longitude)
        good = ~np.isnat(time) & np.isfinite(longitude) & np.isfinite(latitude)
        good &= (
            np.isfinite(east) & np.isfinite(north) & (np.abs(latitude) <= 90.0) & (np.abs(longitude) <= 180.0)
        )
        columns = [
            part[good] for part in (longitude, latitude, east, north, np.where(sigma > 0.0, sigma, np.nan))
        ]
        return WindRecords(
            source=self.name,
            time=time[good].astype("datetime64[us]"),
            longitude=columns[0],
            latitude=columns[1],
            east=columns[2],
            north=columns[3],
            sigma=columns[4],
            unusable=int((~good).sum()),
        )

    def _numbers(self, frame: pl.DataFrame, name: str | None, key: str) -> NDArray[np.float64]:
        import polars as pl  # noqa: PLC0415 - as above

        if name is None:
            raise self._wrong(
                f"the table has no {key}",
                f"columns {', '.join(frame.columns)}",
                f"name a column {' or '.join(_NAMES[key])}",
            )
        try:
            return np.array(frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy(), np.float64)
        except pl.exceptions.PolarsError as error:
            raise self._wrong(
                f"the column {name} holds no numbers", str(error)[:200], "correct it"
            ) from error

    def _times(self, frame: pl.DataFrame, name: str | None) -> NDArray[np.datetime64]:
        import polars as pl  # noqa: PLC0415 - as above

        if name is None:
            raise self._wrong(
                "the table has no time",
                f"columns {', '.join(frame.columns)}",
                f"name a column {' or '.join(_NAMES['time'])} (UTC where it names no zone)",
            )
        column = frame[name]
        try:
            if column.dtype == pl.String:
                column = column.str.to_datetime(time_unit="us", time_zone="UTC")
            if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
                column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return np.array(column.cast(pl.Datetime("us")).to_numpy(), "datetime64[us]")
        except pl.exceptions.PolarsError as error:
            raise self._wrong(f"the column {name} holds no times", str(error)[:200], "correct it") from error

    def _of_tree(self, begin: np.datetime64, end: np.datetime64, boxes: Sequence[Box]) -> WindRecords:
        node = self._tree
        names = {
            key: _first(list(node.variables), _NAMES[key])
            for key in ("time", "longitude", "latitude", "u", "v")
        }
        missing = [key for key, name in names.items() if name is None]
        if missing:
            raise self._wrong(
                f"the Zarr has no {' and no '.join(missing)}",
                f"variables {', '.join(map(str, node.variables))}",
                "give u10 and v10 over time, latitude and longitude",
            )
        time_name, x_name, y_name, u_name, v_name = (
            str(names[key]) for key in ("time", "longitude", "latitude", "u", "v")
        )
        if set(node[u_name].dims) != {time_name, y_name, x_name}:
            raise self._wrong(
                f"{u_name} has dimensions {', '.join(map(str, node[u_name].dims))}",
                None,
                f"give it over {time_name}, {y_name} and {x_name} alone",
            )
        for name in (u_name, v_name):
            said = str(node[name].attrs.get("units", ""))
            plain = said.casefold().replace("metre", "meter").translate(str.maketrans("", "", " ._"))
            if said and plain not in _METRES_PER_SECOND:
                raise self._wrong(f"{name} is in {said}", None, "give it in m s-1")
        times = node[time_name].values.astype("datetime64[us]")
        x = node[x_name].values.astype(np.float64)
        y = node[y_name].values.astype(np.float64)
        kept_t = np.flatnonzero((times >= begin) & (times <= end))
        grid_x, grid_y = np.meshgrid(np.where(x > 180.0, x - 360.0, x), y)
        inside = _within(grid_x, grid_y, boxes)
        kept_y, kept_x = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        part = node[[u_name, v_name]].isel({time_name: kept_t, y_name: kept_y, x_name: kept_x})
        part = part.transpose(time_name, y_name, x_name).load()
        shape = (kept_t.size, kept_y.size, kept_x.size)
        full = [
            np.broadcast_to(times[kept_t][:, None, None], shape),
            np.broadcast_to(x[kept_x], shape),
            np.broadcast_to(y[kept_y][:, None], shape),
            part[u_name].values.astype(np.float64),
            part[v_name].values.astype(np.float64),
        ]
        flat = [column.ravel() for column in full]
        return self._checked(flat[0], flat[1], flat[2], flat[3], flat[4], np.full(flat[0].size, np.nan))

    @cached_property
    def _tree(self) -> xr.Dataset:
        import xarray as xr  # noqa: PLC0415 - tables need none
        import zarr  # noqa: PLC0415
        from zarr.storage import ObjectStore  # noqa: PLC0415

        path = self._root.path
        if path is not None and not (path / self._name).is_dir():
            raise self._wrong("the Zarr does not exist", None, "correct wind.source, or remove it")
        store = ObjectStore(self._root.prefixed(self._name), read_only=True)
        try:
            return xr.open_dataset(store, engine="zarr", chunks=None)  # type: ignore[arg-type]
        except (FileNotFoundError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
            raise self._wrong("the Zarr cannot be opened", str(error)[:200], "check what it is") from error

    def _wrong(self, problem: str, found: str | None, action: str) -> SettingsError:
        return SettingsError(problem, subject=f"wind {self.name}", found=found, action=action)


def _first(columns: Sequence[Any], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in columns), None)


def _points(geometries: Sequence[bytes | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import shapely  # noqa: PLC0415 - most tables have columns

    points = shapely.centroid(shapely.from_wkb(np.array(geometries, dtype=object)))
    return shapely.get_x(points), shapely.get_y(points)


def _grow(box: Box, km: float) -> Box:
    """Return a box that holds every place within a distance of it; all longitudes near the poles."""
    west, south, east, north = box
    up = math.degrees(km / EARTH_RADIUS_KM)
    shrink = math.cos(math.radians(min(max(abs(south), abs(north)) + up, 89.9)))
    aside = up / shrink
    width = (east - west) % 360.0 if west > east else east - west
    south, north = max(south - up, -90.0), min(north + up, 90.0)
    if width + 2 * aside >= 360.0:
        return -180.0, south, 180.0, north
    return (west - aside + 180.0) % 360.0 - 180.0, south, (east + aside + 180.0) % 360.0 - 180.0, north


def _within(x: NDArray[np.float64], y: NDArray[np.float64], boxes: Sequence[Box]) -> NDArray[np.bool_]:
    inside = np.zeros(x.shape, bool)
    for west, south, east, north in boxes:
        along = (x >= west) & (x <= east) if west <= east else (x >= west) | (x <= east)
        inside |= along & (y >= south) & (y <= north)
    return inside
