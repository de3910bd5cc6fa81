"""Methane fields of a Sentinel-2 cube node: single-pass and multi-pass signals, enhancement, uncertainty, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.methane.acquisition import Acquisition, check_cube, read_acquisition, read_scenes
from geostack_pipeline.methane.air_mass import air_mass_factor
from geostack_pipeline.methane.masking import Quality, quality_attributes
from geostack_pipeline.methane.reference import MIN_SHARED, Choice, choose_reference, same_grid
from geostack_pipeline.methane.robust import local_scatter
from geostack_pipeline.methane.transmittance import (
    TABLE_AIR_MASS,
    TABLE_AIR_MASS_BIAS,
    band_table,
    enhancement_from_fraction,
)

NOISE_BLOCK_PX = 64
"""Side of the tiles whose scatter is the local noise; a plume fills a small part of one."""
NOISE_MIN_COUNT = 400
"""Tiles with fewer clear pixels take the whole scene's scatter."""
SOURCE_NONE, SOURCE_MBSP, SOURCE_MBMP = 0, 1, 2

_LAYERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "mbsp": ("float32", {"long_name": "single-pass fractional signal (c R12 - R11) / R11", "units": "1"}),
    "mbmp": (
        "float32",
        {"long_name": "multi-pass fractional signal, MBSP less that of the reference", "units": "1"},
    ),
    "b11_contrast": (
        "float32",
        {
            "long_name": "ln of B11 over the reference's B11, or of B11 where there is no reference, less its median",
            "units": "1",
            "comment": "near zero over a plume, which B11 hardly sees; not over a changed or different surface",
        },
    ),
    "ch4_enhancement": ("float32", {"long_name": "methane column enhancement", "units": "ppm m"}),
    "ch4_uncertainty": (
        "float32",
        {
            "long_name": "1-sigma noise of the methane column enhancement of one pixel",
            "units": "ppm m",
            "comment": "local scaled MAD of the signal through the slope of the conversion; without the common "
            "factor air_mass_bias_relative",
        },
    ),
    "quality_flags": ("uint16", quality_attributes()),
    "signal_source": (
        "uint8",
        {
            "long_name": "signal that the enhancement comes from",
            "flag_values": np.array([SOURCE_NONE, SOURCE_MBSP, SOURCE_MBMP], dtype=np.uint8),
            "flag_meanings": "none mbsp mbmp",
        },
    ),
}


def retrieve(cube: xr.Dataset, references: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the methane fields of ``cube``, a Sentinel-2 node on a projected grid, for each of its times.

    ``references`` are cube nodes of earlier dates of the same area; only those on the same grid and seen from the same
    relative orbit are read (see :mod:`~geostack_pipeline.methane.reference`).

    The result has dimensions (time, y, x) and, float32 and NaN where there is nothing: ``mbsp``, ``mbmp`` (all NaN
    at a time without reference), ``b11_contrast``, ``ch4_enhancement`` and ``ch4_uncertainty`` (ppm m; from mbmp where
    there is one, else from mbsp); ``quality_flags`` (uint16, CF flag masks) and ``signal_source`` (uint8);
    ``source_scene`` and the coordinates of ``scene`` as in the cube; coordinates ``reference_time`` (NaT: none),
    ``reference_scene`` (item ids, separated by blanks) and ``reference_sigma`` (scatter of mbmp) over time.

    Memory: about forty bytes per pixel and time, plus one reference at a time.  The same input gives the
    same bytes on the same machine.  Raises `GeostackError` for a cube without B11 or B12.
    """
    check_cube(cube, "methane retrieval")
    usable = [reference for reference in references if same_grid(cube, reference)]
    shape = (cube.sizes["time"], cube.sizes["y"], cube.sizes["x"])
    layers: dict[str, NDArray[Any]] = {
        name: np.full(shape, np.nan if dtype == "float32" else 0, dtype=dtype)
        for name, (dtype, _) in _LAYERS.items()
    }
    choices: list[Choice] = []
    for index in range(shape[0]):
        target = read_acquisition(cube, index)
        choice = choose_reference(target, usable)
        for name, image in _fields(target, choice).items():
            layers[name][index] = image[: shape[1], : shape[2]]
        choices.append(choice)
    return _dataset(cube, layers, choices, other_grid=len(references) - len(usable))


def _fields(target: Acquisition, choice: Choice) -> dict[str, NDArray[Any]]:
    """Return the padded images of one time, by variable."""
    nothing = np.full(target.signal.shape, np.nan, dtype=np.float32)
    reference = choice.reference
    multi = nothing if reference is None else reference.fraction
    use_multi = np.isfinite(multi)
    use_single = np.isfinite(target.signal) & ~use_multi

    flags = target.flags.copy()
    flags[use_single] |= np.uint16(Quality.NO_REFERENCE)
    if reference is not None:
        flags[use_multi & ~reference.same_platform] |= np.uint16(Quality.OTHER_PLATFORM)

    fraction = np.where(use_multi, multi, target.signal)
    noise = np.where(use_multi, _noise(multi), _noise(target.signal))
    enhancement, slope = _convert(target, fraction, flags)
    return {
        "mbsp": target.signal,
        "mbmp": nothing if reference is None else reference.multi_pass,
        "b11_contrast": np.where(
            use_single, _log_b11(target), nothing if reference is None else reference.b11_change
        ),
        "ch4_enhancement": enhancement,
        "ch4_uncertainty": np.where(np.isfinite(enhancement), noise * slope, np.nan),
        "quality_flags": flags,
        "signal_source": (use_single * SOURCE_MBSP + use_multi * SOURCE_MBMP).astype(np.uint8),
    }


def _log_b11(target: Acquisition) -> NDArray[np.float32]:
    logarithm = np.full(target.r11.shape, np.nan, dtype=np.float32)
    np.log(target.r11, out=logarithm, where=target.clear)
    return logarithm - np.float32(np.median(logarithm[target.clear])) if target.clear.any() else logarithm


def _noise(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    valid = np.isfinite(signal)
    if not valid.any():
        return np.full(signal.shape, np.nan, dtype=np.float32)
    _, sigma = local_scatter(
        jnp.asarray(signal), jnp.asarray(valid), block=NOISE_BLOCK_PX, min_count=NOISE_MIN_COUNT
    )
    return np.asarray(sigma)


def _convert(
    target: Acquisition, fraction: NDArray[np.float32], flags: NDArray[np.uint16]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return enhancement and |slope| of the conversion; sets the flags that come of it."""
    scenes = target.scenes
    view_known = np.isfinite(scenes.view_zenith)
    per_scene = air_mass_factor(scenes.sun_zenith, np.where(view_known, scenes.view_zenith, 0.0))
    air_mass = np.append(per_scene, np.nan)[target.source].astype(np.float32)
    enhancement = np.full(fraction.shape, np.nan, dtype=np.float32)
    slope = enhancement.copy()
    extrapolated = np.zeros(fraction.shape, dtype=bool)
    clipped = extrapolated.copy()
    for platform in sorted({name for name in scenes.platform if name is not None}):
        of_platform = np.array([*(name == platform for name in scenes.platform), False])[target.source]
        if not of_platform.any():
            continue
        converted = enhancement_from_fraction(
            jnp.asarray(fraction), jnp.asarray(air_mass), band_table(platform)
        )
        enhancement = np.where(of_platform, np.asarray(converted.enhancement), enhancement)
        slope = np.where(of_platform, np.asarray(converted.slope), slope)
        extrapolated |= of_platform & np.asarray(converted.extrapolated)
        clipped |= of_platform & np.asarray(converted.clipped)
    signal = np.isfinite(fraction)
    flags[extrapolated] |= np.uint16(Quality.EXTRAPOLATED)
    flags[clipped] |= np.uint16(Quality.CLIPPED)
    flags[signal & ~np.isfinite(enhancement)] |= np.uint16(Quality.NO_CONVERSION)
    assumed = np.append(~view_known, False)[target.source]
    flags[np.isfinite(enhancement) & assumed] |= np.uint16(Quality.VIEW_ASSUMED)
    return enhancement, slope


def _dataset(
    cube: xr.Dataset, layers: Mapping[str, NDArray[Any]], choices: Sequence[Choice], *, other_grid: int
) -> xr.Dataset:
    mapping = {"grid_mapping": "spatial_ref"} if "spatial_ref" in cube.coords else {}
    dims = ("time", "y", "x")
    variables: dict[str, Any] = {
        name: (dims, layers[name], {**attributes, **mapping}) for name, (_, attributes) in _LAYERS.items()
    }
    variables["source_scene"] = (dims, cube["source_scene"].values, dict(cube["source_scene"].attrs))
    found = [choice.reference for choice in choices]
    times = [np.datetime64("NaT", "ns") if one is None else one.time for one in found]
    coords: dict[str, Any] = {str(name): cube.coords[name] for name in cube.coords if name != "band"}
    coords["reference_time"] = (
        "time",
        np.array(times, dtype="datetime64[ns]"),
        {"long_name": "time of the reference of mbmp; missing where there is none"},
    )
    coords["reference_scene"] = (
        "time",
        np.array(["" if one is None else " ".join(one.item_ids) for one in found], dtype=object),
        {"long_name": "item ids of the reference, separated by blanks"},
    )
    coords["reference_sigma"] = (
        "time",
        np.array([np.nan if one is None else one.sigma for one in found], dtype=np.float32),
        {"long_name": "robust standard deviation of mbmp over the scene", "units": "1"},
    )
    return xr.Dataset(variables, coords=coords, attrs=_attributes(cube, choices, other_grid))


def _attributes(cube: xr.Dataset, choices: Sequence[Choice], other_grid: int) -> dict[str, Any]:
    platforms = sorted({name for name in read_scenes(cube).platform if name is not None})
    return {
        "title": "Methane enhancement from Sentinel-2 (screening)",
        "method": "MBMP" if any(choice.reference for choice in choices) else "MBSP",
        "maturity": "screening",
        "references": "Varon et al. 2021, Atmos. Meas. Tech. 14, 2771-2785",
        "instrument": "Sentinel-2 MSI, surface reflectance (L2A)",
        "platforms": " ".join(platforms),
        "conversion": "fractional signal T12/T11 - 1 by data/ch4_sentinel2.csv (mag1c's MODTRAN radiances and ESA's "
        "spectral responses); air mass 1/cos(sun zenith) + 1/cos(view zenith); multi-pass signal divided "
        "by 1 + MBSP of the reference, less its clipped median",
        "air_mass_table_assumed": TABLE_AIR_MASS,
        "air_mass_bias_relative": TABLE_AIR_MASS_BIAS,
        "air_mass_bias_comment": "the radiance table does not document its angles; all enhancements of a scene share "
        "this relative 1-sigma factor",
        "reference_rule": "same relative orbit, at least 12 h earlier, "
        f"at least {MIN_SHARED:.0%} of the clear pixels shared, least scatter of mbmp",
        "reference_candidates": sum(choice.tried for choice in choices),
        "reference_candidates_too_cloudy": sum(choice.too_cloudy for choice in choices),
        "references_on_another_grid": other_grid,
    }
