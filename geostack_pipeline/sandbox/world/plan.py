"""What happens in the sandbox's world: places, overpasses, processings and planted plumes.

The plan is data.  Two Sentinel-2 orbits over two oil and gas regions in June 2024, in three UTM zones:

* ``korpezhe`` lies where two tiles of two UTM zones meet, so that one overpass needs a mosaic of both;
* ``hassi`` lies at a swath's edge (part of it is never seen), has one overcast overpass of another orbit,
  and one partly cloudy overpass.

The seed changes the texture of everything, never the plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

FIRST_DAY = date(2024, 6, 1)
LAST_DAY = date(2024, 6, 12)
FACTOR = {"B02": 1, "B03": 1, "B04": 1, "B08": 1, "B11": 2, "B12": 2}
"""Pixel size of a band in units of 10 m."""


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """A tile of the Sentinel-2 grid; the world keeps a square part of it."""

    mgrs: str
    """Name in the military grid, e.g. ``40SBH``."""
    epsg: int
    """UTM zone of its pixels."""
    west_m: float
    """Where its west edge lies, metres east of the site's centre."""
    south_m: float
    """Where its south edge lies, metres north of the site's centre."""


@dataclass(frozen=True, kw_only=True)
class SurfaceMix:
    """What lies on the ground of a site besides desert, roads, pads and fields."""

    salt: float = -2.4
    """How common salt flats are against sand: logarithm of their weight."""
    clay: float = -1.0
    carbonate: float = 0.0
    """Share of the ground under outcrops of carbonate rock."""
    magnesium: float = 0.0
    """Share of the ground under outcrops of serpentine and the like."""
    tar: float = 0.0
    """Share of the ground soaked with oil."""
    solar: int = 0
    """Number of solar parks."""
    plastic: int = 0
    """Number of greenhouses."""
    water: int = 0
    """Number of ponds."""
    flares: int = 0


@dataclass(frozen=True, kw_only=True)
class SitePlan:
    """A place of interest and the tiles that show it."""

    name: str
    longitude: float
    latitude: float
    half_size_m: float
    """Half the edge of the square area of interest."""
    tile_pixels: int
    """Edge of each tile in 10 m pixels; a multiple of 12."""
    block_pixels: int
    """Edge of the internal tiles of the rasters."""
    tiles: tuple[TilePlan, ...]
    mix: SurfaceMix = SurfaceMix()
    tile_shape: tuple[int, int] | None = None
    """Rows and columns of the tiles in 10 m pixels where they are not squares of :attr:`tile_pixels`; both even."""


@dataclass(frozen=True, kw_only=True)
class PlumePlan:
    """A plume: where it starts, how much, and in which wind."""

    name: str
    east_m: float
    """Source, metres east of the site's centre."""
    north_m: float
    rate_kg_h: float
    wind_m_s: float
    wind_to_deg: float
    """Direction towards which the plume drifts, degrees clockwise from north."""


@dataclass(frozen=True, kw_only=True)
class ProcessingPlan:
    """One processing of an overpass by the ground segment."""

    baseline: str
    """Processing baseline, e.g. ``05.10``."""
    delay: timedelta
    """From the acquisition to this processing."""
    gain: float = 1.0
    """Radiometric difference to the newest processing."""


@dataclass(frozen=True, kw_only=True)
class PassPlan:
    """One overpass over one site."""

    site: str
    start: datetime
    """Sensing start of the datatake, UTC, whole seconds."""
    platform: str
    """``S2A`` or ``S2B``."""
    relative_orbit: int
    absolute_orbit: int
    view_zenith_deg: float
    cloud_cover: float
    """Share of the ground under clouds."""
    clear_radius_m: float = 0.0
    """Radius around the site's centre that has fewer clouds."""
    swath_edge_m: float | None = None
    """Metres east of the site's centre where the swath ends; None: the tiles are fully seen."""
    processings: tuple[ProcessingPlan, ...] = (ProcessingPlan(baseline="05.10", delay=timedelta(hours=4)),)
    """From the newest to the oldest."""
    plumes: tuple[PlumePlan, ...] = ()
    quirks: frozenset[str] = frozenset()
    """Mishaps of one publisher, e.g. ``earth_search:offset-not-applied``."""


@dataclass(frozen=True, kw_only=True)
class WorldPlan:
    """Everything that happens."""

    size: str
    """``full`` or ``small``; part of the cache key."""
    sites: tuple[SitePlan, ...]
    passes: tuple[PassPlan, ...]
    bands: tuple[str, ...] = ("B02", "B03", "B04", "B08", "B11", "B12")
    """Reflectance bands that are kept; the scene classification comes along."""


_REPROCESSED = (
    ProcessingPlan(baseline="05.00", delay=timedelta(days=260)),
    ProcessingPlan(baseline="02.14", delay=timedelta(hours=3), gain=0.995),
)
"""As recorded for 2020: the collection was processed again, and both are still published."""


def full_plan() -> WorldPlan:
    """Return the world of the demo: 20.4 km tiles, areas of interest of 4.6 km."""
    return _plan(size="full", tile_pixels=2040, block_pixels=256, half_size_m=2300.0)


def small_plan() -> WorldPlan:
    """Return the same world for tests: 4.8 km tiles, areas of interest of 1.7 km."""
    return _plan(size="small", tile_pixels=480, block_pixels=128, half_size_m=850.0)


def _plan(*, size: str, tile_pixels: int, block_pixels: int, half_size_m: float) -> WorldPlan:
    tile_m = tile_pixels * 10.0
    unit = half_size_m / 2300.0

    def metres(value: float) -> float:
        return round(value * unit, 1)

    # An area of interest of 4.6 km fits into 2 x 2 internal tiles of 2.56 km when a corner of four of them
    # lies in its middle: then a crop moves few bytes.
    corner = block_pixels * 10.0 * round(0.43 * tile_pixels / block_pixels)
    # Objects per square kilometre are those of an oil field in dry country.
    km2 = (tile_m / 1000.0) ** 2
    mix = SurfaceMix(
        carbonate=0.006,
        magnesium=0.006,
        tar=0.003,
        solar=max(1, round(0.01 * km2)),
        plastic=max(2, round(0.03 * km2)),
        water=max(1, round(0.01 * km2)),
        flares=max(1, round(0.01 * km2)),
    )
    korpezhe = SitePlan(
        name="korpezhe",
        longitude=54.03,
        latitude=38.50,
        half_size_m=half_size_m,
        tile_pixels=tile_pixels,
        block_pixels=block_pixels,
        mix=mix,
        tiles=(
            TilePlan(mgrs="40SBH", epsg=32640, west_m=-metres(700.0), south_m=corner - tile_m),
            TilePlan(mgrs="39SYC", epsg=32639, west_m=metres(1200.0) - tile_m, south_m=corner - tile_m),
        ),
    )
    hassi = SitePlan(
        name="hassi",
        longitude=3.32,
        latitude=32.90,
        half_size_m=half_size_m,
        tile_pixels=tile_pixels,
        block_pixels=block_pixels,
        mix=mix,
        tiles=(TilePlan(mgrs="31SES", epsg=32631, west_m=-corner, south_m=corner - tile_m),),
    )

    def plume(name: str, east: float, north: float, rate: float, wind: float, to: float) -> PlumePlan:
        return PlumePlan(
            name=name,
            east_m=metres(east),
            north_m=metres(north),
            rate_kg_h=rate,
            wind_m_s=wind,
            wind_to_deg=to,
        )

    def over_korpezhe(day: int, platform: str, orbit: int, **more: object) -> PassPlan:
        return PassPlan(
            site="korpezhe",
            start=datetime(2024, 6, day, 7, 16, 21, tzinfo=UTC),
            platform=platform,
            relative_orbit=63,
            absolute_orbit=orbit,
            view_zenith_deg=3.7,
            cloud_cover=0.0,
            **more,  # type: ignore[arg-type]
        )

    def over_hassi(day: int, platform: str, orbit: int, **more: object) -> PassPlan:
        fields: dict[str, object] = {
            "site": "hassi",
            "start": datetime(2024, 6, day, 10, 30, 31, tzinfo=UTC),
            "platform": platform,
            "relative_orbit": 108,
            "absolute_orbit": orbit,
            "view_zenith_deg": 9.1,
            "cloud_cover": 0.0,
            "swath_edge_m": metres(2000.0),
        }
        return PassPlan(**(fields | more))  # type: ignore[arg-type]

    return WorldPlan(
        size=size,
        sites=(korpezhe, hassi),
        passes=(
            over_hassi(1, "S2A", 46713),
            over_korpezhe(2, "S2B", 37818, processings=_REPROCESSED),
            over_hassi(
                4,
                "S2B",
                37849,
                start=datetime(2024, 6, 4, 10, 20, 29, tzinfo=UTC),
                relative_orbit=8,
                view_zenith_deg=6.4,
                cloud_cover=0.94,
                swath_edge_m=None,
            ),
            over_hassi(
                6,
                "S2B",
                37877,
                cloud_cover=0.30,
                clear_radius_m=metres(3600.0),
                plumes=(plume("hassi-c", -900.0, 1000.0, 12_000.0, 3.4, 165.0),),
                quirks=frozenset({"earth_search:offset-not-applied", "cdse:offset-forgotten"}),
            ),
            over_korpezhe(
                7,
                "S2A",
                46797,
                plumes=(plume("korpezhe-a", -600.0, 500.0, 14_000.0, 3.1, 70.0),),
            ),
            over_hassi(
                11,
                "S2A",
                46856,
                plumes=(
                    plume("hassi-c", -900.0, 1000.0, 20_000.0, 4.6, 120.0),
                    plume("hassi-d", -1500.0, -1300.0, 2_500.0, 2.4, 60.0),
                ),
            ),
            over_korpezhe(
                12,
                "S2B",
                37961,
                plumes=(
                    plume("korpezhe-a", -600.0, 500.0, 9_000.0, 2.6, 20.0),
                    plume("korpezhe-b", 500.0, -1500.0, 18_000.0, 3.9, 320.0),
                ),
            ),
        ),
    )
