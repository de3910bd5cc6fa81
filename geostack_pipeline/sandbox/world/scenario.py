"""Random granules of an EMIT-like spectrometer with known plumes, by seed: for studies and as training data.

A scenario is the same world as the sandbox's (ground, confusers, plumes, sky, detector), with everything the plan
fixes drawn at random: where it is, what lies on the ground, how many leaks of which rate in which wind, how cloudy.
Nothing is written to disk::

    for seed in range(100):
        granule = scenario(seed, lines=128, samples=128).render()
        granule.radiance, granule.column, granule.labels
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world import sky
from geostack_pipeline.sandbox.world.grids import Floats, site_centre
from geostack_pipeline.sandbox.world.ground import Ground
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.outlines import Noticing, core, outline
from geostack_pipeline.sandbox.world.plan import PassPlan, PlumePlan, SitePlan, SurfaceMix, TilePlan
from geostack_pipeline.sandbox.world.render import SceneRenderer, halved
from geostack_pipeline.sandbox.world.scene import PhysicalScene, scenes_of
from geostack_pipeline.sandbox.world.simple_filter import enhancement
from geostack_pipeline.sandbox.world.spectra import Bands, bands_of
from geostack_pipeline.sandbox.world.swath import Swath
from geostack_pipeline.sandbox.world.view import View

RATES_KG_H = (100.0, 12_000.0)
WINDS_M_S = (1.5, 8.0)
WINDOW_NM = (2040.0, 2495.0)
"""Bands that a scenario has unless others are asked for: around methane's absorption."""
_PLACES = (
    # longitude, latitude, UTM zone: dry regions with oil and gas
    (54.0, 38.5, 32640),
    (3.3, 32.9, 32631),
    (-103.5, 31.8, 32613),
    (47.5, 29.9, 32638),
)
_PLUMES_PER_KM2 = 0.0075
"""So that the blurred filter reaches a pixel F1 of about 0.5, see ``docs/retrieval-quality.md``."""


@dataclass(frozen=True, kw_only=True)
class Granule:
    """What a scenario gives: measurements, products and the truth, (lines, samples, ...)."""

    seed: int
    radiance: Floats
    """uW cm-2 sr-1 nm-1, (lines, samples, bands)."""
    bands: Bands
    air_mass: float
    """Light path in vertical columns."""
    sun_zenith_deg: float
    view_zenith_deg: float
    masks: Mapping[str, npt.NDArray[np.bool_]]
    """``cloud``, ``water``, ``flare`` as the ground segment flags them."""
    column: Floats
    """Truth: methane above the background, ppm m."""
    columns: tuple[Floats, ...]
    """The same of each plume."""
    plumes: tuple[PlumePlan, ...]
    covers: Mapping[str, Floats]
    """Truth: confuser -> share of each pixel."""
    clouds: Floats
    """Truth: share of each pixel under clouds."""
    level2: Mapping[str, Floats]
    """``CH4ENH``, ``CH4UNCERT`` (ppm m), ``CH4SENS`` (1) of the ground segment; NaN where masked."""
    labels: npt.NDArray[np.int32]
    """Plumes as an analyst outlines them: number of the plume from 1, else 0.  Weak ones are not noticed."""
    pixel_m: float

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Pixels without any flag."""
        return np.asarray(~np.logical_or.reduce(list(self.masks.values())))


@dataclass(frozen=True, kw_only=True)
class Sentinel2Pair:
    """The same scenario through Sentinel-2, on 20 m pixels."""

    scene: PhysicalScene
    """With the plumes; knows the sun, the view and the grid."""
    b11: tuple[Floats, ...]
    """Reflectance with and without the plumes."""
    b12: tuple[Floats, ...]
    column: Floats
    """Truth: methane above the background, ppm m."""
    columns: tuple[Floats, ...]
    """The same of each plume."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A granule as it is planned; nothing is rendered yet."""

    seed: int
    site: SitePlan
    swath: Swath
    start: datetime
    view_zenith_deg: float
    cloud_share: float
    plumes: tuple[PlumePlan, ...]
    bands: Bands

    @property
    def sun(self) -> sky.Sun:
        """Where the sun stands."""
        return sky.sun_at(self.start, self.site.longitude, self.site.latitude)

    @cached_property
    def view(self) -> View:
        """The forward model of the spectrometer."""
        return View(
            self.seed,
            self.site,
            self.swath,
            key=f"scenario/{self.seed}",
            bands=self.bands,
            sun=self.sun,
            view_zenith_deg=self.view_zenith_deg,
            plumes=self.plumes,
            plumes_when=self.start.isoformat(),
            cloud_share=self.cloud_share,
        )

    def render(self) -> Granule:
        """Return the granule; under a second for 128 x 128 pixels of 61 bands."""
        view = self.view
        radiance = view.radiance()
        masks = view.masks(radiance)
        good = ~np.logical_or.reduce(list(masks.values()))
        assert self.bands.noise is not None
        level2 = enhancement(radiance, good, self.bands, view.air_mass, self.bands.noise)
        return Granule(
            seed=self.seed,
            radiance=radiance,
            bands=self.bands,
            air_mass=view.air_mass,
            sun_zenith_deg=view.sun.zenith_deg,
            view_zenith_deg=self.view_zenith_deg,
            masks=masks,
            column=view.column,
            columns=view.columns,
            plumes=self.plumes,
            covers=view.covers,
            clouds=view.clouds,
            level2=level2,
            labels=_labels(view.columns, level2),
            pixel_m=self.swath.pixel_m,
        )

    def sentinel2(self) -> Sentinel2Pair:
        """Return what Sentinel-2A saw at the same moment, and ten days before any leak; no clouds."""
        ground = Ground(self.seed, self.site).tile(self.site.tiles[0])
        overpass = PassPlan(
            site=self.site.name,
            start=self.start,
            platform="S2A",
            relative_orbit=63,
            absolute_orbit=40_000,
            view_zenith_deg=4.0,
            cloud_cover=0.0,
            plumes=self.plumes,
        )
        before = replace(overpass, start=self.start - timedelta(days=10), plumes=())
        scenes = tuple(next(scenes_of(self.site, each)) for each in (overpass, before))
        renderers = [SceneRenderer(self.seed, scene, ground) for scene in scenes]
        columns = [renderer.enhancement() for renderer in renderers]
        images = {
            band: tuple(r.reflectance(band, c) for r, c in zip(renderers, columns, strict=True))
            for band in ("B11", "B12")
        }
        return Sentinel2Pair(
            scene=scenes[0],
            b11=images["B11"],
            b12=images["B12"],
            column=halved(columns[0]),
            columns=tuple(halved(renderers[0].enhancement((each,))) for each in self.plumes),
        )


def scenario(
    seed: int,
    *,
    lines: int = 128,
    samples: int = 128,
    window_nm: tuple[float, float] = WINDOW_NM,
    plumes: int | None = None,
    plumes_per_km2: float = _PLUMES_PER_KM2,
    place: tuple[float, float, int] | None = None,
    start: datetime | None = None,
) -> Scenario:
    """Return a random granule.

    Args:
        seed: Fixes everything.
        lines: Along the track, 60 m each.
        samples: Across it.
        window_nm: First and last wavelength of the bands to render.
        plumes: How many leaks; drawn by default, and none in some.
        plumes_per_km2: Their mean where they are drawn; by default one per 133 km2.
        place: Longitude, latitude and the code of their UTM zone; by default one of a few dry regions.
        start: When it is seen, UTC; by default some hour of daylight in 2024.
    """
    rng = generator(seed, "scenario")
    drawn = _PLACES[rng.integers(len(_PLACES))]
    longitude, latitude, epsg = place or drawn
    start_drawn = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(
        days=int(rng.integers(366)), hours=float(rng.uniform(9.0, 15.0)) - drawn[0] / 15.0
    )
    start = start or start_drawn
    km2 = lines * samples * 0.0036
    tile = (lines * 6 + 40, samples * 6 + 40)
    edge = max(tile)
    name = f"scenario-{seed}"
    site = SitePlan(
        name=name,
        longitude=longitude,
        latitude=latitude,
        half_size_m=float(rng.uniform(1200.0, 2400.0)),
        tile_pixels=edge,
        block_pixels=128,
        tiles=(TilePlan(mgrs="00XXX", epsg=epsg, west_m=-tile[1] * 5.0, south_m=-tile[0] * 5.0),),
        tile_shape=tile,
        mix=_mix(rng, (edge / 100.0) ** 2),
    )
    x, y = site_centre(site)
    swath = Swath(epsg=epsg, x=x, y=y, heading_deg=0.0, lines=lines, samples=samples)
    count = int(rng.poisson(plumes_per_km2 * km2)) if plumes is None else plumes
    wind, to = np.exp(rng.uniform(*np.log(WINDS_M_S))), rng.uniform(0.0, 360.0)
    planted = tuple(
        PlumePlan(
            name=f"{name}-{number}",
            east_m=float(rng.uniform(-0.46, 0.46) * samples * 60.0),
            north_m=float(rng.uniform(-0.46, 0.46) * lines * 60.0),
            rate_kg_h=float(np.exp(rng.uniform(*np.log(RATES_KG_H)))),
            wind_m_s=float(np.clip(wind * np.exp(0.1 * rng.standard_normal()), *WINDS_M_S)),
            wind_to_deg=float((to + 12.0 * rng.standard_normal()) % 360.0),
        )
        for number in range(count)
    )
    return Scenario(
        seed=seed,
        site=site,
        swath=swath,
        start=start.replace(microsecond=0),
        view_zenith_deg=float(rng.uniform(0.0, 12.0)),
        cloud_share=float(rng.uniform(0.02, 0.2)) if rng.random() < 0.5 else 0.0,
        plumes=planted,
        bands=bands_of("emit").between(*window_nm),
    )


def _mix(rng: np.random.Generator, km2: float) -> SurfaceMix:
    """Return what lies on the ground of a site of so many square kilometres."""

    def count(per_km2: float) -> int:
        return int(rng.poisson(per_km2 * km2 * np.exp(0.6 * rng.standard_normal())))

    def share(typical: float) -> float:
        return float(min(typical * np.exp(0.7 * rng.standard_normal()), 0.1))

    return SurfaceMix(
        salt=float(rng.uniform(-3.5, -1.5)),
        clay=float(rng.uniform(-2.0, 0.0)),
        carbonate=share(0.009),
        magnesium=share(0.008),
        tar=share(0.005),
        solar=count(0.03),
        plastic=count(0.08),
        water=count(0.03),
        flares=count(0.05),
    )


def _labels(columns: tuple[Floats, ...], level2: Mapping[str, Floats]) -> npt.NDArray[np.int32]:
    """Return the outlines that a careful analyst would draw of the plumes that stand out."""
    measured = level2["CH4ENH"]
    known = np.isfinite(measured)
    analyst = Noticing(measured, known)
    out = np.zeros(measured.shape, np.int32)
    for number, column in enumerate(columns, start=1):
        if analyst.notices(core(column, known)):
            out[outline(column, known) & (out == 0)] = number
    return out
