"""Methane of a granule of an imaging spectrometer: which pixels, which target, which filter, and on which map.

* Radiance in sensor geometry (EMIT L1B, EnMAP L1B): per detector column, since each has a calibration of its own.
* Radiance or reflectance on a map (EnMAP L1C, L2A): its columns are no detector columns any more, so that pixels are
  filtered in clusters of like brightness and colour over the whole granule.  Reflectance serves as radiance does: the
  light that a pixel's ratio to its mean is made of cancels.
* A methane product (EMIT L2B) is taken as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.methane.air_mass import air_mass_factor
from geostack_pipeline.methane.columns import COLUMNS, Method, filter_columns
from geostack_pipeline.methane.noise import emit_noise
from geostack_pipeline.methane.swath_clusters import cluster_labels
from geostack_pipeline.methane.swath_detectors import carried, from_detector
from geostack_pipeline.methane.swath_fields import NotRetrievedError, Retrieved, finish, no_value, planes
from geostack_pipeline.methane.swath_quality import (
    SwathQuality,
    bright_in_blue,
    bright_reflectance,
    from_band_mask,
    from_masks,
    from_radiance,
    is_good,
    unfit_masks,
)
from geostack_pipeline.methane.target import MIN_BANDS, WINDOW_NM, TargetTable, built_in, unit_absorption
from geostack_pipeline.methane.transmittance import TABLE_AIR_MASS_BIAS

_MAIN = ("ch4_enhancement", "radiance_swir", "radiance", "reflectance")
"""What methane is made of, one of these."""
SENSOR = ("downtrack", "crosstrack")
MAP = ("y", "x")
RADIANCE_UNITS = ("uW cm-2 sr-1 nm-1",)
_PPM_M = ("ppm m", "ppm-m", "ppm*m")
PRODUCT_UNITS = {
    "ch4_enhancement": _PPM_M,
    "ch4_uncertainty": _PPM_M,
    "ch4_sensitivity": ("1", "", "unitless", "dimensionless"),
}
"""Field of the methane product -> its units, first as EMIT's user guide has them; what states none has these."""
ORBIT_KM = 643.0
"""Height of EnMAP, the only instrument whose product tells the angle at the satellite instead of that at the ground."""
_EARTH_KM = 6371.0
_PIXELS_PER_BAND = 4
"""A covariance of fewer pixels is mostly its own noise."""
_DARK_REFLECTANCE = 0.01
"""Median in the window below which there is water or deep shadow."""
_GOOD_SHARE = 0.01
"""A granule with a smaller share of good pixels shows nothing."""
_BROKEN_SHARE = 0.5
"""Where more of it has no data, no filter or impossible radiance, a granule without result is no matter of weather."""
_FIELDS = {
    "ch4_enhancement": "enhancement",
    "ch4_enhancement_linear": "linear",
    "ch4_uncertainty": "uncertainty",
    "ch4_sensitivity": "sensitivity",
    "spectral_misfit": "misfit",
}
"""Variable -> what `filter_columns` calls it."""
_REFERENCES = {
    "mag1c": "Foote et al. 2020, IEEE TGRS 58(9), 6480; Fahlen et al. 2024 for uncertainty and sensitivity",
    "cmf": "Thompson et al. 2015, AMT 8, 4383; Theiler 2012, Proc. SPIE 8390; Fahlen et al. 2024",
}


def is_readable(node: xr.Dataset) -> bool:
    """Return whether a cube node holds what methane is made of; masks and observation angles alone do not."""
    return any(name in node for name in _MAIN[:3]) or (
        "reflectance" in node and set(MAP) <= set(map(str, node["reflectance"].dims))
    )


def retrieve_granule(
    node: xr.Dataset,
    companions: list[xr.Dataset],
    *,
    method: Method = "mag1c",
    target: TargetTable | None = None,
) -> xr.Dataset:
    """Return the methane fields of one granule on its map grid, dimensions (time, y, x), time of length 1.

    Float32, NaN where there is nothing: ``ch4_enhancement``, ``ch4_uncertainty`` (ppm m), ``ch4_sensitivity`` and, of our own
    filters, ``spectral_misfit`` (1), of mag1c ``ch4_enhancement_linear``; ``quality_flags`` (uint16, CF masks),
    ``source_scene`` and the coordinate ``scene``.
    What has no map (EnMAP L1B without rational polynomials) keeps the dimensions (time, downtrack, crosstrack).

    Args:
        node: A node of a swath cube, decoded; its radiance is read in blocks of columns.
        companions: Nodes of the same scene that may hold its masks, such as EMIT L2A.
        method: Filter of radiances and reflectances.
        target: A table of the user's own; None takes the project's.

    Raises:
        NotRetrievedError: The granule cannot give methane; says why.
        GeostackError: The target table does not fit the bands.
    """
    main = next((name for name in _MAIN if name in node), None)
    if main is not None and not node[main].size:
        raise NotRetrievedError(f"the granule has no pixel: {main} of {'x'.join(map(str, node[main].shape))}")
    if "ch4_enhancement" in node:
        return _product(node)
    if "radiance_swir" in node:
        from geostack_pipeline.cube.swath_enmap import detector  # noqa: PLC0415 - it brings rasterio

        part = detector(node, "swir").assign_coords(time=node["time"])
        part.attrs = dict(node.attrs)
        vnir = carried(node, part)
        masks = companions if vnir is None else [vnir, *companions]
        found = _columns(part, masks, method, target or built_in(), blue=vnir)
        fields = planes(found, SENSOR)
        return finish(_on_map(fields, part) if "glt_x" in part else fields, node, found)
    if "radiance" in node and SENSOR[0] in node["radiance"].dims:
        found = _columns(node, companions, method, target or built_in())
        return finish(_on_map(planes(found, SENSOR), node), node, found)
    found = _clusters(node, companions, method, target or built_in())
    place = node.coords.to_dataset().drop_vars(
        [name for name, each in node.coords.items() if set(map(str, each.dims)) - set(MAP)] + ["time"],
        errors="ignore",
    )
    fields = planes(found, MAP).assign_coords(place.coords)
    fields.attrs = dict(node.attrs)
    return finish(fields, node, found)


def _on_map(fields: xr.Dataset, node: xr.Dataset) -> xr.Dataset:
    """Return fields in sensor geometry on the map of the node's look-up table."""
    from geostack_pipeline.cube.ortho import orthorectify  # noqa: PLC0415 - it compiles

    on_map = orthorectify(fields[[name for name in fields if name != "quality_flags"]], node)
    flags = orthorectify(fields[["quality_flags"]], node, fill=int(SwathQuality.NO_DATA))
    on_map["quality_flags"] = flags["quality_flags"]
    return on_map


def _product(node: xr.Dataset) -> xr.Dataset:
    """Return EMIT's own retrieval in the form of ours.

    Raises:
        NotRetrievedError: It has no valid pixel, or states other units.
    """
    enhancement = np.asarray(node["ch4_enhancement"].values, np.float32)
    if not np.isfinite(enhancement).any():
        raise NotRetrievedError("the methane product has no valid pixel inside the areas")
    layers = {"ch4_enhancement": enhancement}
    for name, units in PRODUCT_UNITS.items():
        said = str(node[name].attrs.get("units", units[0])) if name in node else units[0]
        if said not in units:
            raise NotRetrievedError(f"{name} of the methane product in {said!r}, expected is {units[0]}")
    for name in ("ch4_uncertainty", "ch4_sensitivity"):
        layers[name] = (
            np.asarray(node[name].values, np.float32)
            if name in node
            else np.full(enhancement.shape, np.nan, np.float32)
        )
    flags = np.where(np.isfinite(enhancement), 0, int(SwathQuality.NO_DATA)).astype(np.uint16)
    found = Retrieved(
        layers=layers,
        flags=flags,
        attributes={
            "title": "Methane enhancement from EMIT L2B",
            "method": "l2b",
            "maturity": "science",
            "instrument": "EMIT imaging spectrometer, methane enhancement (L2B)",
            "references": "EMIT L2B greenhouse-gas ATBD; Thompson et al. 2015",
        },
    )
    coords = {name: node.coords[name] for name in ("y", "x", "spatial_ref") if name in node.coords}
    fields = planes(found, MAP).assign_coords(coords)
    fields.attrs = dict(node.attrs)
    return finish(fields, node, found)


def _bands(node: xr.Dataset) -> tuple[list[int], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the bands of the window, their centres and widths."""
    wavelength = np.asarray(node["wavelength"].values, np.float64)
    inside = (wavelength >= WINDOW_NM[0]) & (wavelength <= WINDOW_NM[1])
    if "good_wavelengths" in node.coords:
        inside &= np.asarray(node["good_wavelengths"].values) != 0
    bands = np.flatnonzero(inside)
    if bands.size < MIN_BANDS:
        raise NotRetrievedError(
            f"{bands.size} bands from {WINDOW_NM[0]:.0f} to {WINDOW_NM[1]:.0f} nm, at least {MIN_BANDS} are needed: "
            "see the setting wavelengths_nm"
        )
    width = np.asarray(node["fwhm"].values, np.float64)[bands] if "fwhm" in node.coords else None
    return bands.tolist(), wavelength[bands], width


def _check_units(node: xr.Dataset) -> None:
    units = str(node["radiance"].attrs.get("units", ""))
    if units not in RADIANCE_UNITS:
        raise NotRetrievedError(f"radiance in {units or 'no units'}, expected is {RADIANCE_UNITS[0]}")


def _columns(
    node: xr.Dataset,
    companions: list[xr.Dataset],
    method: Method,
    target: TargetTable,
    *,
    blue: xr.Dataset | None = None,
) -> Retrieved:
    """Return the fields of a granule in sensor geometry, filtered per detector column.

    ``blue`` holds the radiance in blue of the same pixels, where another detector measures it.
    """
    _check_units(node)
    bands, centre, width = _bands(node)
    radiance = node["radiance"].transpose(*SENSOR, "wavelength").isel(wavelength=bands)
    shape = (radiance.sizes[SENSOR[0]], radiance.sizes[SENSOR[1]])
    air_mass, sun = _air_mass_of_columns(node, shape)
    flags = from_masks(shape, SENSOR, node, *companions)
    flags |= from_detector(shape, SENSOR, bands, node)
    if "band_number" in node.coords:
        numbers = np.asarray(node["band_number"].values, np.int64)[bands]
        flags |= from_band_mask(shape, numbers, node, *companions)
    unmasked = _unmasked(flags)
    bright = bright_in_blue(node if blue is None else blue, sun) if unmasked.any() else None
    if bright is not None:
        flags[bright & unmasked] |= np.uint16(SwathQuality.CLOUD)
    emit = _is_emit(node)
    noise = emit_noise().coefficients(centre) if emit else None
    groups = _groups(shape, len(bands))
    per_air_mass = _per_air_mass(node, bands, centre, width, groups, target)
    scaled = target.air_mass is not None
    layers = {name: np.full(shape, np.nan, np.float32) for name in _FIELDS}
    unusable = done = 0
    for chosen in _blocks(groups):
        block = slice(chosen[0].start, chosen[-1].stop)
        values = np.asarray(radiance.isel(crosstrack=block).values, np.float32)
        flags[:, block] |= from_radiance(values, centre)
        good = is_good(flags[:, block])
        factor = air_mass[block] if scaled else np.ones(values.shape[1])
        own = [slice(each.start - block.start, each.stop - block.start) for each in chosen]
        wide = max(each.stop - each.start for each in own)
        x = np.full((len(own), wide, shape[0], len(bands)), np.nan, np.float32)
        weight = np.zeros(x.shape[:3], bool)
        for number, each in enumerate(own):
            size = each.stop - each.start
            x[number, :size] = values[:, each].transpose(1, 0, 2)
            weight[number, :size] = good[:, each].T
        means = np.array([factor[each].mean() for each in own])
        unit = means[:, None] * per_air_mass[done : done + len(own)]
        done += len(own)
        found = filter_columns(
            x.reshape(len(own), wide * shape[0], len(bands)),
            weight.reshape(len(own), wide * shape[0]),
            unit,
            noise,
            method=method,
        )
        for number, each in enumerate(chosen):
            size = each.stop - each.start
            for name, source in _FIELDS.items():
                plane = getattr(found, source)[number].reshape(wide, shape[0])
                layers[name][:, each] = plane[:size].T
            if not found.usable[number]:
                flags[:, each][good[:, own[number]]] |= np.uint16(SwathQuality.COLUMN_NOT_RETRIEVED)
                unusable += size
    _check_any(layers["ch4_enhancement"], flags)
    return Retrieved(
        layers=_without_twin(layers, method),
        flags=no_value(flags, layers["ch4_enhancement"]),
        attributes={
            **_about(node, method, target, "per detector column"),
            **_unused_masks(shape, SENSOR, node, companions),
            "maturity": "science" if emit else "experimental",
            "air_mass": float(np.nanmean(air_mass)),
            "columns_not_retrieved": unusable,
            "bands_filtered": len(bands),
            "columns_filtered_together": max(each.stop - each.start for each in groups),
        },
    )


def _unmasked(flags: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Return where no mask tells of clouds."""
    where: NDArray[np.bool_] = (flags & np.uint16(SwathQuality.NO_CLOUD_MASK)) != 0
    return where


def _unused_masks(
    shape: tuple[int, int], dims: tuple[str, str], node: xr.Dataset, companions: list[xr.Dataset]
) -> dict[str, str]:
    """Return the attribute that names masks of another size; nothing where all fit."""
    unfit = unfit_masks(shape, dims, node, *companions)
    return {"masks_not_used": "; ".join(unfit)} if unfit else {}


def _per_air_mass(
    node: xr.Dataset,
    bands: list[int],
    centre: NDArray[np.float64],
    width: NDArray[np.float64] | None,
    groups: list[slice],
    target: TargetTable,
) -> NDArray[np.float64]:
    """Return unit absorptions of groups of columns at an air mass of 1, (groups, S), by the centres of their own bands."""
    if "wavelength_of_column" not in node.coords:
        nominal = unit_absorption(centre, width, air_mass=1.0, table=target)
        return np.broadcast_to(nominal, (len(groups), len(bands)))
    own = node["wavelength_of_column"].transpose(SENSOR[1], "wavelength").values[:, bands]
    return np.stack(
        [unit_absorption(own[each].mean(axis=0), width, air_mass=1.0, table=target) for each in groups]
    )


def _without_twin(layers: dict[str, NDArray[np.float32]], method: Method) -> dict[str, NDArray[np.float32]]:
    return layers if method == "mag1c" else {k: v for k, v in layers.items() if k != "ch4_enhancement_linear"}


def _check_any(enhancement: NDArray[np.float32], flags: NDArray[np.uint16]) -> None:
    if np.isfinite(enhancement).mean() < _GOOD_SHARE:
        shares = {
            str(flag.name).lower(): float(((flags & np.uint16(flag)) != 0).mean())
            for flag in SwathQuality
            if flag != SwathQuality.NO_CLOUD_MASK
        }
        why = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0.005)
        # No weather saturates a detector, nor burns everywhere: such radiance is in other units than it says.
        broken = sum(shares[name] for name in ("no_data", "column_not_retrieved", "saturated", "flare"))
        raise NotRetrievedError(
            f"less than {_GOOD_SHARE:.0%} of the pixels can be used: {why or 'no pixel at all'}",
            ordinary=broken < _BROKEN_SHARE,
        )


def _groups(shape: tuple[int, int], bands: int) -> list[slice]:
    """Return the columns that are filtered together: one by one, unless a granule is too short for its covariance.

    With 1280 lines a column stands for itself; a granule of fewer than four lines per band takes neighbours together.
    """
    lines, columns = shape
    together = max(1, -(-_PIXELS_PER_BAND * bands // max(lines, 1)))
    count = max(1, columns // together)
    edges = np.linspace(0, columns, count + 1).round().astype(int)
    return [slice(int(low), int(high)) for low, high in itertools.pairwise(edges)]


def _blocks(groups: list[slice]) -> Iterator[list[slice]]:
    for start in range(0, len(groups), COLUMNS):
        yield groups[start : start + COLUMNS]


def _is_emit(node: xr.Dataset) -> bool:
    platform = str(node.attrs.get("platform", "")).upper()
    collection = str(node.attrs.get("collection", "")).upper()
    return platform in {"ISS", "EMIT"} or collection.startswith("EMIT")


def _air_mass_of_columns(node: xr.Dataset, shape: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """Return the air-mass factor of each column and the sun's mean zenith angle.

    Raises:
        NotRetrievedError: The angles are not known.
    """
    if "solar_zenith" in node and "sensor_zenith" in node:
        sun, view = (
            np.asarray(node[name].values, np.float64).reshape(shape)
            for name in ("solar_zenith", "sensor_zenith")
        )
        factor = air_mass_factor(sun, view)
        known = np.isfinite(factor)
        if known.any():
            mean = float(factor[known].mean())
            count = known.sum(axis=0)
            total = np.where(known, factor, 0.0).sum(axis=0)
            return np.where(count > 0, total / np.maximum(count, 1), mean), float(np.nanmean(sun[known]))
        raise NotRetrievedError("the observation angles are all missing, or the sun is too low")
    of_scene, sun_zenith = _air_mass_of_scene(node)
    return np.full(shape[1], of_scene), sun_zenith


def _air_mass_of_scene(node: xr.Dataset) -> tuple[float, float]:
    elevation = node.attrs.get("sun_elevation_deg")
    if elevation is None:
        raise NotRetrievedError(
            "the angles of sun and sensor are not known: fetch OBS (METADATA of EnMAP) with the radiance"
        )
    sun = 90.0 - float(elevation)
    off_nadir = abs(float(node.attrs.get("across_off_nadir_deg", 0.0)))
    # The earth curves away below the satellite: the ground is seen more slantingly than the satellite looks.
    sine = (1.0 + ORBIT_KM / _EARTH_KM) * np.sin(np.radians(off_nadir))
    if not sine < 1.0:
        raise NotRetrievedError(f"the sensor does not look at the ground: {off_nadir:g} degrees off nadir")
    factor = float(air_mass_factor(sun, np.degrees(np.arcsin(sine))))
    if not np.isfinite(factor):
        raise NotRetrievedError(
            f"the sun is too low for a retrieval: elevation {float(elevation):.1f} degrees"
        )
    return factor, sun


def _about(node: xr.Dataset, method: Method, target: TargetTable, how: str) -> dict[str, Any]:
    emit = _is_emit(node)
    return {
        "title": f"Methane enhancement from {'EMIT' if emit else 'EnMAP'}",
        "method": method,
        "instrument": f"{'EMIT' if emit else 'EnMAP'} imaging spectrometer, "
        f"{'reflectance' if 'reflectance' in node else 'radiance'}, filtered {how}",
        "references": _REFERENCES[method],
        "target": target.name,
        "target_sha256": target.digest,
        "uncertainty": "noise of the instrument" if emit else "scatter of the column or cluster",
        "air_mass_bias_relative": 0.0 if target.air_mass is None else TABLE_AIR_MASS_BIAS,
    }


def _clusters(
    node: xr.Dataset, companions: list[xr.Dataset], method: Method, target: TargetTable
) -> Retrieved:
    """Return the fields of a granule on a map, filtered per cluster."""
    name = "radiance" if "radiance" in node else "reflectance"
    if name == "radiance":
        _check_units(node)
    bands, centre, width = _bands(node)
    factor, sun = _air_mass_of_scene(node)
    image = node[name].transpose(*MAP, "wavelength").isel(wavelength=bands)
    values = np.asarray(image.values, np.float32)
    shape = (values.shape[0], values.shape[1])
    flags = from_masks(shape, MAP, node, *companions)
    flags |= from_detector(shape, MAP, bands, node)
    unmasked = _unmasked(flags)
    if name == "radiance":
        flags |= from_radiance(values, centre)
        bright = bright_in_blue(node, sun) if unmasked.any() else None
        if bright is not None:
            flags[bright & unmasked] |= np.uint16(SwathQuality.CLOUD)
    else:
        known: NDArray[np.bool_] = np.asarray(np.isfinite(values).all(axis=-1))
        flags[~known] |= np.uint16(SwathQuality.NO_DATA)
        middle: NDArray[np.float32] = np.asarray(
            np.median(np.where(known[..., None], values, np.float32(1.0)), axis=-1), np.float32
        )
        flags[np.less(middle, _DARK_REFLECTANCE)] |= np.uint16(SwathQuality.DEFECTIVE_OR_DARK)
        if unmasked.any():
            flags[bright_reflectance(node) & unmasked] |= np.uint16(SwathQuality.CLOUD)
    good = is_good(flags)
    unit = unit_absorption(centre, width, air_mass=factor, table=target)
    layers = {key: np.full(shape, np.nan, np.float32) for key in _FIELDS}
    labels = cluster_labels(values, good)
    for label in range(labels.max() + 1):
        members = labels == label
        spectra = values[members]
        found = filter_columns(
            spectra[None], np.ones((1, len(spectra)), bool), unit[None], None, method=method, block=1
        )
        for key, source in _FIELDS.items():
            layers[key][members] = getattr(found, source)[0]
        if not found.usable[0]:
            flags[members] |= np.uint16(SwathQuality.COLUMN_NOT_RETRIEVED)
    _check_any(layers["ch4_enhancement"], flags)
    return Retrieved(
        layers=_without_twin(layers, method),
        flags=no_value(flags, layers["ch4_enhancement"]),
        attributes={
            **_about(node, method, target, "per cluster"),
            **_unused_masks(shape, MAP, node, companions),
            "maturity": "experimental",
            "air_mass": factor,
            "clusters": int(labels.max()) + 1,
            "bands_filtered": len(bands),
        },
    )
