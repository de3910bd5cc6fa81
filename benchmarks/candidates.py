"""How many plume candidates are plumes: on random granules of EMIT and EnMAP of the sandbox's world.

``python -m benchmarks.candidates [--seeds 6] [--granules 4] [--first 30000] [--jobs 2] [--filter cmf]`` prints the
tables of ``docs/retrieval-quality.md``; ten minutes on two quiet cores.

Each granule is rendered, retrieved and searched as the pipeline does it (`retrieve_granule`, `find_candidates`), once
with the test of the spectra and once without it.  The thresholds were chosen on the granules from `TUNED`; what is
printed by default comes from others.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import machine
from geostack_pipeline.cube.conventions import GRID_MAPPING, spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.methane.columns import Method
from geostack_pipeline.methane.detection import SPECTROMETER, Detection, DetectionSettings, find_candidates
from geostack_pipeline.methane.misfit import Misfit
from geostack_pipeline.methane.swath_retrieve import retrieve_granule
from geostack_pipeline.sandbox.world import plume, sky
from geostack_pipeline.sandbox.world.enmap import EnmapPass, passes
from geostack_pipeline.sandbox.world.enmap_files import _reflectance
from geostack_pipeline.sandbox.world.grids import site_centre
from geostack_pipeline.sandbox.world.ground import Ground
from geostack_pipeline.sandbox.world.scenario import Scenario, scenario
from geostack_pipeline.sandbox.world.spectra import bands_of
from geostack_pipeline.sandbox.world.swath import Swath
from geostack_pipeline.sandbox.world.world import World

LINES = 160
"""Edge of a granule in pixels of 60 m."""
LEAKS_PER_KM2 = 0.022
"""One per 45 km2, so that few granules show many."""
TUNED, FIRST = 10_000, 30_000
"""Seeds of the granules on which thresholds were chosen, and of those that are reported."""
INSTRUMENTS = ("EMIT L1B", "EnMAP L2A")
BINS = ((100.0, 300.0), (300.0, 1000.0), (1000.0, 3000.0), (3000.0, 20_001.0))
TRUE_PPM_M, NEAR_PPM_M = 200.0, 50.0
"""A candidate is a plume when it meets one's column of so much; it is false when all around it is below the other."""
_EIGHT = np.ones((3, 3), bool)
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One granule of one instrument, retrieved."""

    seed: int
    instrument: str
    pixel_m: float
    enhancement: Floats
    misfit: Misfit
    rates: tuple[float, ...]
    columns: tuple[Floats, ...]
    """Truth: methane of each leak, ppm m."""


@dataclass(kw_only=True)
class Counted:
    """What was found in some granules."""

    km2: float = 0.0
    false: int = 0
    rates: list[float] = field(default_factory=list)
    """Of every leak of which anything is visible, kg/h."""
    found: list[bool] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def cases(number: int, *, method: Method = "cmf", size: int = LINES) -> list[Case]:
    """Return a random granule as each instrument shows it."""
    planned = scenario(number, lines=size, samples=size, plumes_per_km2=LEAKS_PER_KM2)
    return [emit(number, planned, method), enmap(number, planned, method)]


def emit(seed: int, planned: Scenario, method: Method) -> Case:
    """Return a granule of EMIT, filtered per detector column, with the masks of the ground segment."""
    granule = planned.render()
    sensor = ("downtrack", "crosstrack")
    lines, samples = granule.column.shape
    place = _place(planned, granule.pixel_m, (lines, samples))
    line, sample = np.mgrid[1 : lines + 1, 1 : samples + 1].astype(np.int32)
    attributes = _about(seed, "ISS", "EMITL1BRAD_001")
    node = xr.Dataset(
        {
            "radiance": ((*sensor, "wavelength"), granule.radiance, {"units": "uW cm-2 sr-1 nm-1"}),
            "solar_zenith": (sensor, np.full((lines, samples), granule.sun_zenith_deg, np.float32)),
            "sensor_zenith": (sensor, np.full((lines, samples), granule.view_zenith_deg, np.float32)),
            "glt_x": (("ortho_y", "ortho_x"), sample),
            "glt_y": (("ortho_y", "ortho_x"), line),
        },
        coords={
            "wavelength": ("wavelength", granule.bands.wavelength),
            "fwhm": ("wavelength", granule.bands.fwhm),
            GRID_MAPPING: place[GRID_MAPPING],
            "ortho_y": ("ortho_y", place["y"].values),
            "ortho_x": ("ortho_x", place["x"].values),
            "time": np.datetime64(planned.start.replace(tzinfo=None), "ns"),
        },
        attrs=attributes,
    )
    masks = xr.Dataset(
        {f"mask_{name}": (sensor, granule.masks[name].astype(np.uint8)) for name in ("cloud", "water")},
        attrs=attributes,
    )
    fields = retrieve_granule(node, [masks], method=method)
    return _case(seed, INSTRUMENTS[0], granule.pixel_m, fields, planned, granule.columns)


def enmap(seed: int, planned: Scenario, method: Method) -> Case:
    """Return the same ground and leaks as EnMAP's reflectance on a map, filtered as a whole; without clouds."""
    site, size = planned.site, 2 * planned.swath.lines
    x, y = site_centre(site)
    raster = Swath(
        epsg=planned.swath.epsg, x=x, y=y, pixel_m=30.0, heading_deg=180.0, lines=size, samples=size
    )
    overpass = EnmapPass(
        site=site,
        start=planned.start,
        processed=planned.start,
        datatake=f"DT{seed:010d}",
        tile="001",
        version="V010502",
        raster=raster,
        seen=raster,
        plumes=planned.plumes,
        plumes_when=planned.start.isoformat(),
        across_off_nadir_deg=planned.view_zenith_deg,
    )
    return enmap_case(seed, overpass, method)


def demo_scenes(seed: int, method: Method = "cmf") -> list[Case]:
    """Return EnMAP's scenes of a whole demo world, which has fewer confusers and strong leaks; nothing is written."""
    world = World(Path(tempfile.gettempdir()) / "geostack-candidates", seed=seed)
    return [enmap_case(seed, overpass, method) for overpass in passes(world)]


def enmap_case(seed: int, overpass: EnmapPass, method: Method) -> Case:
    """Return a scene of EnMAP, retrieved."""
    bands = bands_of("enmap").between(2100.0, 2500.0)
    site, raster = overpass.site, overpass.raster
    sun = sky.sun_at(overpass.start, site.longitude, site.latitude)
    air_mass = sky.air_mass_factor(sun.zenith_deg, abs(overpass.across_off_nadir_deg))
    image = _reflectance(seed, overpass, bands, air_mass)
    place = _place(overpass, raster.pixel_m, image.shape[:2])
    node = xr.Dataset(
        {"reflectance": (("wavelength", "y", "x"), np.moveaxis(image, 2, 0))},
        coords={
            **place,
            "wavelength": ("wavelength", bands.wavelength),
            "fwhm": ("wavelength", bands.fwhm),
            "time": np.datetime64(overpass.start.replace(tzinfo=None), "ns"),
        },
        attrs={
            **_about(seed, "enmap", "ENMAP_HSI_L2A"),
            "sun_elevation_deg": 90.0 - sun.zenith_deg,
            "across_off_nadir_deg": overpass.across_off_nadir_deg,
        },
    )
    fields = retrieve_granule(node, [], method=method)
    patch = raster.patch(Ground(seed, site).grid)
    columns = tuple(
        raster.sample(plume.enhancement(seed, site, patch, each, when=overpass.plumes_when), patch)[:, ::-1]
        for each in overpass.plumes
    )
    return _case(seed, INSTRUMENTS[1], raster.pixel_m, fields, overpass, columns)


def _about(seed: int, platform: str, collection: str) -> dict[str, Any]:
    return {
        "item_id": f"granule-{seed}",
        "scene": f"scene-{seed}",
        "collection": collection,
        "platform": platform,
        "area": "a",
    }


def _place(planned: Scenario | EnmapPass, pixel_m: float, shape: tuple[int, ...]) -> Mapping[str, Any]:
    """Return coordinates of a map of squares around the site; the candidates are compared pixel by pixel."""
    epsg = planned.swath.epsg if isinstance(planned, Scenario) else planned.raster.epsg
    x, y = (round(value / pixel_m) * pixel_m for value in site_centre(planned.site))
    west, north = x - shape[1] * pixel_m / 2.0, y + shape[0] * pixel_m / 2.0
    grid = GridSpec(
        crs=f"EPSG:{epsg}",
        transform=(pixel_m, 0.0, west, 0.0, -pixel_m, north),
        width=shape[1],
        height=shape[0],
    )
    return spatial_coordinates(grid)


def _case(
    seed: int,
    instrument: str,
    pixel_m: float,
    fields: xr.Dataset,
    planned: Scenario | EnmapPass,
    columns: Sequence[Floats],
) -> Case:
    step = fields.isel(time=0)
    name = "ch4_enhancement_linear" if "ch4_enhancement_linear" in step else "ch4_enhancement"
    return Case(
        seed=seed,
        instrument=instrument,
        pixel_m=pixel_m,
        enhancement=step[name].values,
        misfit=Misfit(values=step["spectral_misfit"].values, bands=int(fields.attrs["bands_filtered"])),
        rates=tuple(each.rate_kg_h for each in planned.plumes),
        columns=tuple(columns),
    )


def search(case: Case, settings: DetectionSettings, *, spectra: bool) -> Detection:
    """Return the candidates of a granule, with or without the test of the spectra."""
    return find_candidates(
        case.enhancement,
        pixel_m=(case.pixel_m, case.pixel_m),
        seed_z=settings.seed_z,
        settings=settings,
        misfit=case.misfit if spectra else None,
    )


def count(case: Case, found: Detection, into: Counted) -> None:
    """Add what is true and what is false of a granule's candidates."""
    known = np.isfinite(case.enhancement)
    into.km2 += float(known.sum()) * case.pixel_m**2 / 1e6
    into.reasons.update(found.rejected)
    total = np.asarray(sum(case.columns, np.zeros(known.shape, np.float32)))
    near = ndimage.binary_dilation(total >= NEAR_PPM_M, _EIGHT)
    touching = set(np.unique(found.labels[near]).tolist())
    into.false += sum(each.label not in touching for each in found.candidates)
    for rate, column in zip(case.rates, case.columns, strict=True):
        foot = known & (column >= min(TRUE_PPM_M, 0.5 * float(column.max()))) & (column > 0.0)
        if foot.any():
            into.rates.append(rate)
            into.found.append(bool((found.labels[foot] > 0).any()))


def study(
    numbers: Sequence[int], jobs: int, method: Method, settings: DetectionSettings
) -> dict[tuple[str, bool], Counted]:
    """Return (instrument, whether the spectra were tested) -> what was counted."""
    out = {(name, spectra): Counted() for name in INSTRUMENTS for spectra in (False, True)}
    # Processes, not threads: they hold Python's lock while they render.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done, group in enumerate(pool.map(partial(cases, method=method), numbers), start=1):
            for case in group:
                for spectra in (False, True):
                    found = search(case, settings, spectra=spectra)
                    count(case, found, out[case.instrument, spectra])
            print(f"{done} of {len(numbers)} granules", file=sys.stderr, flush=True)
    return out


def table(counted: Mapping[tuple[str, bool], Counted]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| instrument | spectra tested | false candidates | per 100 km2 | "
        + " | ".join(f"found, {low:,.0f} to {high:,.0f} kg/h" for low, high in BINS)
        + " |",
        "|---" * (4 + len(BINS)) + "|",
    ]
    for (name, spectra), one in counted.items():
        rates, found = np.array(one.rates), np.array(one.found, bool)
        cells = []
        for low, high in BINS:
            here = (rates >= low) & (rates < high)
            cells.append(f"{int(found[here].sum())} of {int(here.sum())}")
        lines.append(
            f"| {name} | {'yes' if spectra else 'no'} | {one.false} | {100.0 * one.false / one.km2:.2f} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.candidates", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="sets of granules (default 6)")
    parser.add_argument("--granules", type=int, default=4, help="granules of a set (default 4)")
    parser.add_argument("--first", type=int, default=FIRST, help=f"first seed (default {FIRST})")
    parser.add_argument("--filter", choices=("cmf", "mag1c"), default="cmf")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument(
        "--worlds", type=int, nargs="*", help="EnMAP's scenes of the demo with these seeds instead"
    )
    chosen = parser.parse_args(arguments)
    for seed in chosen.worlds or ():
        counted = {(INSTRUMENTS[1], spectra): Counted() for spectra in (False, True)}
        for case in demo_scenes(seed, chosen.filter):
            for (_, spectra), into in counted.items():
                count(case, search(case, SPECTROMETER, spectra=spectra), into)
        print(f"demo world {seed}\n\n{table(counted)}", flush=True)
    if chosen.worlds:
        return 0
    began = time.perf_counter()
    numbers = [
        chosen.first + 1000 * seed + each for seed in range(chosen.seeds) for each in range(chosen.granules)
    ]
    counted = study(numbers, chosen.jobs, chosen.filter, SPECTROMETER)
    print(machine.text(machine.describe()))
    print(
        f"{chosen.seeds} seeds of {chosen.granules} granules of {LINES * 0.06:g} km square, filter {chosen.filter}; "
        f"{time.perf_counter() - began:.0f} s.\n\n{table(counted)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
