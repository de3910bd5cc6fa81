"""What the imaging spectrometer EnMAP saw of the sandbox's world: scenes of its Level-2A product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import shapely

from geostack_pipeline.sandbox.world.plan import PlumePlan, SitePlan
from geostack_pipeline.sandbox.world.products import appear
from geostack_pipeline.sandbox.world.scene import PlumeTruth
from geostack_pipeline.sandbox.world.swath import Swath

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.world import World


@dataclass(frozen=True, kw_only=True)
class EnmapPass:
    """One scene as it is planned; everything of it is known without rendering."""

    site: SitePlan
    start: datetime
    processed: datetime
    datatake: str
    tile: str
    version: str
    raster: Swath
    """The product's map: lines from north to south, 30 m."""
    seen: Swath
    """What the sensor saw of it; the rest has no data."""
    plumes: tuple[PlumePlan, ...]
    plumes_when: str
    """Moment that fixes the plumes' shapes: that of the other satellite's pass where there is one."""
    across_off_nadir_deg: float

    @property
    def id(self) -> str:
        """The product's id, which begins the names of its files."""
        return (
            f"ENMAP01-____L2A-{self.datatake}_{self.start:%Y%m%dT%H%M%SZ}_{self.tile}_{self.version}_"
            f"{self.processed:%Y%m%dT%H%M%SZ}"
        )


@dataclass(frozen=True, kw_only=True)
class EnmapScene:
    """One tile of a datatake, processed to surface reflectance."""

    id: str
    """``ENMAP01-____L2A-<datatake>_<start>_<tile>_<version>_<processed>``."""
    area: str
    """Which site it shows."""
    datatake: str
    """E.g. ``DT0000077412``."""
    tile: str
    """Three digits, e.g. ``001``."""
    version: str
    """E.g. ``V010502``."""
    start: datetime
    end: datetime
    processed: datetime
    footprint: shapely.Polygon
    """What was seen, longitude and latitude, counter-clockwise."""
    epsg: int
    """UTM zone of the rasters."""
    transform: tuple[float, float, float, float, float, float]
    """Affine a to f of the rasters."""
    shape: tuple[int, int]
    """Rows and columns of the rasters."""
    cloud_cover: int
    """Percent."""
    sun_elevation_deg: float
    sun_azimuth_deg: float
    files: Mapping[str, Path]
    """``SPECTRAL_IMAGE METADATA QUALITY_CLASSES THUMBNAIL``."""
    truth: Sequence[PlumeTruth]
    """What was planted below it."""


def enmap_scenes(world: World) -> list[EnmapScene]:
    """Return the scenes of a world, by time; renders what is missing, which takes seconds the first time."""
    from geostack_pipeline.sandbox.world.enmap_files import load, render  # noqa: PLC0415 - it brings GDAL

    scenes = []
    for planned in passes(world):
        folder = world.folder / "enmap" / planned.id
        appear(folder, lambda work, planned=planned: render(world.seed, planned, work))  # type: ignore[misc]
        scenes.append(load(planned, folder))
    return scenes


def passes(world: World) -> list[EnmapPass]:
    """Return what EnMAP sees of a world, by time: twice with another satellite's plumes below, once without any."""
    from geostack_pipeline.sandbox.world.grids import site_centre  # noqa: PLC0415 - it brings PROJ

    sites = {site.name: site for site in world.plan.sites}
    size = 216 if world.plan.size == "full" else 96
    planned = []
    for site, when, datatake, tile, angle in (
        ("hassi", datetime(2024, 6, 5, 10, 46, 17, tzinfo=UTC), "DT0000077105", "003", 7.4),
        ("korpezhe", datetime(2024, 6, 7, 7, 33, 58, tzinfo=UTC), "DT0000077190", "001", -12.9),
        ("hassi", datetime(2024, 6, 11, 10, 51, 40, tzinfo=UTC), "DT0000077352", "012", 3.1),
    ):
        place = sites[site]
        epsg = place.tiles[0].epsg
        x, y = (round(value / 30.0) * 30.0 for value in site_centre(place))
        below = [each for each in world.plan.passes if each.site == site and each.start.date() == when.date()]
        inner = round(0.86 * size)
        planned.append(
            EnmapPass(
                site=place,
                start=when,
                processed=when + timedelta(days=1, hours=3, minutes=11),
                datatake=datatake,
                tile=tile,
                version="V010502",
                # Lines count southwards when the map is taken as a swath flown to the south, samples to its right
                # would count westwards: the columns are turned where the raster is written.
                raster=Swath(epsg=epsg, x=x, y=y, pixel_m=30.0, heading_deg=180.0, lines=size, samples=size),
                seen=Swath(epsg=epsg, x=x, y=y, pixel_m=30.0, heading_deg=192.3, lines=inner, samples=inner),
                plumes=below[0].plumes if below else (),
                plumes_when=(below[0].start if below else when).isoformat(),
                across_off_nadir_deg=angle,
            )
        )
    return planned
