"""How well the retrievals find and measure the plumes of random granules of the sandbox's world.

``python -m benchmarks.retrieval_quality [--seeds 6] [--granules 20] [--jobs 2] [--write]``; ``--write`` puts tables and pictures into
``docs/retrieval-quality.md`` and ``docs/images/``.  Six minutes on two quiet cores.

Every seed is a set of granules.  A spectrometer's granule is filtered by detector columns; Sentinel-2 sees the same
ground, leaks and moment on 20 m pixels, with a reference ten days before and without clouds.  Truth and measurement
come from the sandbox, which shares no code or table with the retrievals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from benchmarks import machine
from benchmarks.quality_scores import Leak, Map, Scores, score
from geostack_pipeline.methane.air_mass import air_mass_factor
from geostack_pipeline.methane.columns import COLUMNS, Method, filter_columns
from geostack_pipeline.methane.mbmp import absorbed_fraction, mbsp
from geostack_pipeline.methane.noise import emit_noise
from geostack_pipeline.methane.target import WINDOW_NM, unit_absorption
from geostack_pipeline.methane.transmittance import band_table, enhancement_from_fraction
from geostack_pipeline.sandbox.world.scenario import Granule, Scenario, Sentinel2Pair, scenario

LINES, SAMPLES = 640, 64
FIRST = 2000
"""Seeds of granules begin here; the sandbox's constants were chosen by looking at 1000 to 1239."""
_WATER_B12 = 0.05
METHODS = (
    "CMF",
    "CMF, blurred",
    "mag1c",
    "mag1c, blurred",
    "mag1c, linear",
    "mag1c, linear, blurred",
    "L2B product",
    "MBMP",
    "MBMP, blurred",
)


def numbers(seeds: int, each: int) -> list[tuple[int, int]]:
    """Return (seed, number of the granule): ``each`` granules of every seed."""
    return [(seed, FIRST + 1000 * seed + number) for seed in range(seeds) for number in range(each)]


def blurred(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a map smoothed by a Gaussian of one pixel, masked pixels without weight."""
    known = np.isfinite(values)
    weight = gaussian_filter(known.astype(np.float32), 1.0)
    smooth = gaussian_filter(np.where(known, values, 0.0), 1.0) / np.maximum(weight, 1e-3)
    return np.where(known, smooth, np.nan).astype(np.float32)


def filtered(granule: Granule, method: Method) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return enhancement and linear enhancement of a granule as the pipeline retrieves them, (lines, samples), ppm m."""
    nm = granule.bands.wavelength
    inside = (nm >= WINDOW_NM[0]) & (nm <= WINDOW_NM[1])
    air_mass = float(air_mass_factor(granule.sun_zenith_deg, granule.view_zenith_deg))
    unit = unit_absorption(nm[inside], granule.bands.fwhm[inside], air_mass=air_mass)
    by_column = np.ascontiguousarray(np.moveaxis(granule.radiance[..., inside], 1, 0))
    good = np.ascontiguousarray(granule.good.T)
    noise = emit_noise().coefficients(nm[inside])
    parts = [
        filter_columns(
            by_column[first : first + COLUMNS],
            good[first : first + COLUMNS],
            np.broadcast_to(unit, (len(by_column[first : first + COLUMNS]), len(unit))),
            noise,
            method=method,
        )
        for first in range(0, len(by_column), COLUMNS)
    ]
    return (
        np.concatenate([part.enhancement for part in parts]).T,
        np.concatenate([part.linear for part in parts]).T,
    )


def multi_pass(pair: Sentinel2Pair) -> NDArray[np.float32]:
    """Return the enhancement that two Sentinel-2 scenes give, as the methane stage computes it, ppm m."""
    valid = np.logical_and.reduce([np.isfinite(band) & (band > 0.01) for band in (*pair.b11, *pair.b12)])
    valid &= np.logical_and.reduce([band > _WATER_B12 for band in pair.b12])
    mask = jnp.asarray(valid)
    signals = [
        mbsp(jnp.asarray(a), jnp.asarray(b), mask).signal for a, b in zip(pair.b11, pair.b12, strict=True)
    ]
    fraction = absorbed_fraction(*signals)
    scene = pair.scene
    air_mass = float(air_mass_factor(scene.sun.zenith_deg, scene.view_zenith_deg))
    found = enhancement_from_fraction(
        fraction, jnp.full(fraction.shape, air_mass), band_table(scene.platform)
    )
    return np.asarray(found.enhancement)


def maps_of(seed: int, planned: Scenario) -> dict[str, Map]:
    """Return method -> map of one granule."""
    granule = planned.render()
    (cmf, _), (mag1c, linear) = filtered(granule, "cmf"), filtered(granule, "mag1c")
    estimates = {
        "CMF": cmf,
        "CMF, blurred": blurred(cmf),
        "mag1c": mag1c,
        "mag1c, blurred": blurred(mag1c),
        "mag1c, linear": linear,
        "mag1c, linear, blurred": blurred(linear),
        "L2B product": granule.level2["CH4ENH"],
    }
    leaks = _leaks(planned, granule.columns)
    found = {
        name: Map(seed=seed, estimate=values, column=granule.column, leaks=leaks, pixel_m=granule.pixel_m)
        for name, values in estimates.items()
    }
    pair = planned.sentinel2()
    multi = multi_pass(pair)
    leaks = _leaks(planned, pair.columns)
    for name, values in (("MBMP", multi), ("MBMP, blurred", blurred(multi))):
        found[name] = Map(seed=seed, estimate=values, column=pair.column, leaks=leaks, pixel_m=20.0)
    return found


def _leaks(planned: Scenario, columns: tuple[NDArray[np.float32], ...]) -> list[Leak]:
    return [
        Leak(rate_kg_h=plume.rate_kg_h, wind_m_s=plume.wind_m_s, column=column)
        for plume, column in zip(planned.plumes, columns, strict=True)
    ]


def study(seeds: int, each: int, jobs: int) -> tuple[Mapping[str, Scores], dict[str, Map]]:
    """Return method -> scores, and the maps of the granule with the most methane for a picture."""
    maps: dict[str, list[Map]] = {name: [] for name in METHODS}
    richest: dict[str, Map] = {}
    # Processes, not threads: they hold Python's lock while they render.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for (seed, number), found in zip(
            numbers(seeds, each), pool.map(_one, numbers(seeds, each)), strict=True
        ):
            for name, one in found.items():
                maps[name].append(one)
            if not richest or _interest(found["CMF"]) > _interest(richest["CMF"]):
                richest = found
            print(f"seed {seed}, granule {number}", file=sys.stderr, flush=True)
    return {name: score(group) for name, group in maps.items()}, richest


def _one(which: tuple[int, int]) -> dict[str, Map]:
    seed, number = which
    return maps_of(seed, scenario(number, lines=LINES, samples=SAMPLES))


def _interest(one: Map) -> float:
    return float((one.column >= 500.0).sum()) if len(one.leaks) >= 3 else 0.0


def tables(scores: Mapping[str, Scores]) -> str:
    """Return the figures as Markdown."""

    def spread(values: list[float], digits: int) -> str:
        return (
            f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1) if len(values) > 1 else 0.0:.{digits}f}"
        )

    lines = [
        "| method | noise ppm m | 99.9 % of clean pixels | bias ppm m | slope | AUPRC | AUPRC > 1000 | F1 | F1 at ppm m |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in scores.items():
        lines.append(
            f"| {name} | {spread(s.noise_ppm_m, 0)} | {spread(s.tail_ppm_m, 0)} | {spread(s.bias_ppm_m, 0)} "
            f"| {spread(s.slope, 2)} | {spread(s.auprc, 2)} | {spread(s.auprc_strong, 2)} | {spread(s.f1, 2)} "
            f"| {s.threshold:.0f} |"
        )
    edges = BINS
    lines += [
        "",
        "| found of planted, by kg/h | "
        + " | ".join(f"{low:,.0f} to {high:,.0f}" for low, high in edges)
        + " | threshold ppm m |",
        "|---" * (len(edges) + 2) + "|",
    ]
    for name, s in scores.items():
        rates, found = np.array(s.rates), np.array(s.found)
        cells = []
        for low, high in edges:
            here = (rates >= low) & (rates < high)
            cells.append(f"{int(found[here].sum())} of {int(here.sum())}")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {s.plume_threshold:.0f} |")
    lines += [
        "",
        "| rate of found plumes over the truth | plumes | median | 16 to 84 % | median absolute error |",
        "|---|---|---|---|---|",
    ]
    for name, s in scores.items():
        ratio = np.array(s.estimated) / np.array(s.rates)
        ratio = ratio[np.isfinite(ratio)]
        if len(ratio):
            low, middle, high = np.quantile(ratio, [0.16, 0.5, 0.84])
            error = f"{100 * np.median(np.abs(ratio - 1.0)):.0f} %"
            lines.append(f"| {name} | {len(ratio)} | {middle:.2f} | {low:.2f} to {high:.2f} | {error} |")
    return "\n".join(lines)


BINS = ((100.0, 300.0), (300.0, 1000.0), (1000.0, 3000.0), (3000.0, 12_001.0))
_MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")


def main(arguments: list[str] | None = None) -> int:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval_quality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="sets of granules (default 6)")
    parser.add_argument("--granules", type=int, default=20, help="granules of a set (default 20)")
    parser.add_argument(
        "--write", action="store_true", help="write docs/retrieval-quality.md and its pictures"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    chosen = parser.parse_args(arguments)
    began = time.perf_counter()
    scores, richest = study(chosen.seeds, chosen.granules, chosen.jobs)
    said = (
        f"{chosen.seeds} seeds of {chosen.granules} granules of {LINES} x {SAMPLES} pixels of 60 m, "
        f"{len(scores['CMF'].rates)} plumes; {time.perf_counter() - began:.0f} s.\n\n{tables(scores)}"
    )
    print(machine.text(machine.describe()))
    print(said)
    if chosen.write:
        from benchmarks.quality_plots import draw

        docs = Path(__file__).parents[1] / "docs"
        draw(scores, richest, docs / "images", bins=BINS)
        page = docs / "retrieval-quality.md"
        text = page.read_text(encoding="utf-8")
        before, after = text.split(_MARKS[0])[0], text.split(_MARKS[1])[1]
        page.write_text(f"{before}{_MARKS[0]}\n{said}\n{_MARKS[1]}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
