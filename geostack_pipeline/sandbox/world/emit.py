"""What the imaging spectrometer EMIT saw of the sandbox's world: granules with the files of every product.

The same ground and, on the days of a Sentinel-2 pass, the same plumes: between the passes of one day a plume
stands still.  One leak is also seen on a day on which no other satellite passes, and one granule shows no plume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import shapely

from geostack_pipeline.sandbox.world.plan import PassPlan, PlumePlan, SitePlan
from geostack_pipeline.sandbox.world.products import appear
from geostack_pipeline.sandbox.world.scene import PlumeTruth
from geostack_pipeline.sandbox.world.swath import Swath

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.world import World

_SECONDS = 12
"""Length of a granule in time."""


@dataclass(frozen=True, kw_only=True)
class EmitPass:
    """One granule as it is planned; everything of it is known without rendering."""

    site: SitePlan
    start: datetime
    scene: str
    swath: Swath
    plumes: tuple[tuple[str, PlumePlan], ...]
    """(plume number, plume)."""
    plumes_when: str
    """Moment that fixes the plumes' shapes: that of the other satellite's pass where there is one."""
    view_zenith_deg: float
    cloud_share: float

    @property
    def end(self) -> datetime:
        """End of the acquisition."""
        return self.start + timedelta(seconds=_SECONDS)

    @property
    def orbit(self) -> str:
        """Year, day of the year and orbit of the day: ``2415805``."""
        return f"{self.start:%y%j}{1 + self.start.hour * 60 // 93:02d}"

    @property
    def stem(self) -> str:
        """``<start>_<orbit>_<scene>``, which ends the names of all its products."""
        return f"{self.start:%Y%m%dT%H%M%S}_{self.orbit}_{self.scene}"


@dataclass(frozen=True, kw_only=True)
class EmitPlume:
    """A plume as the analysts outlined it: a granule of its own in the catalog."""

    number: str
    """Six digits, e.g. ``003723``; not in order of time."""
    single_date_time: datetime
    """Start of its earliest scene: the granule's ``SingleDateTime``."""
    footprint: shapely.Polygon
    """Extent of the raster, longitude and latitude."""
    scenes: tuple[str, ...]
    """CH4ENH granules it lies in."""
    files: Mapping[str, Path]
    """``CH4PLM`` and ``CH4PLMMETA``."""

    @property
    def name(self) -> str:
        """``<start>_<number>``, which ends the names of both files."""
        return f"{self.single_date_time:%Y%m%dT%H%M%S}_{self.number}"


@dataclass(frozen=True, kw_only=True)
class EmitGranule:
    """One scene of EMIT with the files of all products; the names of the files are the products' own."""

    area: str
    """Which site it shows."""
    start: datetime
    end: datetime
    orbit: str
    """Seven digits, e.g. ``2415805``."""
    scene: str
    """Three digits, e.g. ``025``."""
    footprint: shapely.Polygon
    """Outer edge, longitude and latitude, counter-clockwise."""
    cloud_cover: int | None
    """Percent; None where the catalog does not tell."""
    sun_zenith_deg: float
    sun_azimuth_deg: float
    files: Mapping[str, Path]
    """``CH4ENH CH4UNCERT CH4SENS RAD OBS RFL MASK``."""
    plumes: Sequence[EmitPlume]
    """Plumes whose earliest scene this is."""
    truth: Sequence[PlumeTruth]
    """What was planted below it."""

    @property
    def name(self) -> str:
        """``<start>_<orbit>_<scene>``, which ends the names of all its products."""
        return f"{self.start:%Y%m%dT%H%M%S}_{self.orbit}_{self.scene}"


def emit_granules(world: World) -> list[EmitGranule]:
    """Return the granules of a world, by time; renders what is missing, which takes seconds the first time."""
    from geostack_pipeline.sandbox.world.emit_files import load, render  # noqa: PLC0415 - it brings GDAL and HDF5

    granules = []
    for planned in passes(world):
        folder = world.folder / "emit" / planned.stem
        appear(folder, lambda work, planned=planned: render(world.seed, planned, work))  # type: ignore[misc]
        granules.append(load(planned, folder))
    return granules


def passes(world: World) -> list[EmitPass]:
    """Return what EMIT sees of a world, by time."""
    sites = {site.name: site for site in world.plan.sites}
    full = world.plan.size == "full"
    # A filter that works column by column needs at least twice as many lines as it has bands.
    lines, samples = (192, 116) if full else (112, 64)

    def planned(
        site: str,
        when: tuple[int, int, int, int],
        *,
        scene: str,
        heading: float,
        view: float,
        offset: tuple[float, float] = (0.02, -0.03),
        numbers: tuple[str, ...] = (),
        plumes: tuple[PlumePlan, ...] = (),
        plumes_when: datetime | None = None,
        clouds: float = 0.0,
    ) -> EmitPass:
        from geostack_pipeline.sandbox.world.grids import site_centre  # noqa: PLC0415 - it brings PROJ

        place = sites[site]
        x, y = site_centre(place)
        start = datetime(2024, 6, *when, tzinfo=UTC)
        return EmitPass(
            site=place,
            start=start,
            scene=scene,
            swath=Swath(
                epsg=place.tiles[0].epsg,
                x=x + offset[0] * place.half_size_m,
                y=y + offset[1] * place.half_size_m,
                heading_deg=heading,
                lines=lines,
                samples=samples,
            ),
            plumes=tuple(zip(numbers, plumes, strict=True)),
            plumes_when=(plumes_when or start).isoformat(),
            view_zenith_deg=view,
            cloud_share=clouds,
        )

    sixth, seventh = _pass(world, "hassi", 6), _pass(world, "korpezhe", 7)
    again = replace(seventh.plumes[0], rate_kg_h=11_000.0, wind_m_s=2.8, wind_to_deg=48.0)
    return [
        planned(
            "hassi", (3, 13, 2, 8), scene="009", heading=132.0, view=6.2, offset=(0.9, -0.5), clouds=0.18
        ),
        planned(
            "hassi",
            (6, 10, 2, 47),
            scene="025",
            heading=48.0,
            view=3.1,
            numbers=("004102",),
            plumes=sixth.plumes,
            plumes_when=sixth.start,
        ),
        planned(
            "korpezhe",
            (7, 7, 41, 12),
            scene="017",
            heading=47.0,
            view=7.4,
            numbers=("003723",),
            plumes=seventh.plumes,
            plumes_when=seventh.start,
        ),
        planned(
            "korpezhe",
            (9, 6, 4, 33),
            scene="011",
            heading=131.0,
            view=1.8,
            numbers=("003987",),
            plumes=(again,),
        ),
    ]


def winds_of_own_passes(world: World) -> list[dict[str, Any]]:
    """Return the wind over each plume that EMIT alone sees, with the names that a plume's truth has; renders nothing."""
    from geostack_pipeline.sandbox.world.grids import project, site_centre  # noqa: PLC0415 - it brings PROJ

    found = []
    for seen in passes(world):
        if seen.plumes_when != seen.start.isoformat():
            continue
        x, y = site_centre(seen.site)
        for _, plume in seen.plumes:
            longitude, latitude = project(seen.swath.epsg, 4326, x + plume.east_m, y + plume.north_m)
            found.append(
                {
                    "area": seen.site.name,
                    "time": seen.start.isoformat(),
                    "longitude": float(longitude),
                    "latitude": float(latitude),
                    "wind_m_s": plume.wind_m_s,
                    "wind_to_deg": plume.wind_to_deg,
                }
            )
    return found


def _pass(world: World, site: str, day: int) -> PassPlan:
    return next(each for each in world.plan.passes if each.site == site and each.start.day == day)
