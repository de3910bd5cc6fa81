"""Plume candidates of a node of methane fields, as a GeoParquet table."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.methane.detection import (
    SPECTROMETER,
    Candidate,
    Detection,
    DetectionSettings,
    Judgement,
    find_candidates,
)
from geostack_pipeline.methane.masking import Quality
from geostack_pipeline.methane.mass import integrated_mass
from geostack_pipeline.methane.misfit import Misfit
from geostack_pipeline.methane.outline import Georeference, georeference, outline
from geostack_pipeline.methane.plume_table import plume_rows
from geostack_pipeline.methane.rates import instrument_of

SOURCE_METHOD = "largest smoothed enhancement"
"""The wind is unknown here, so the most upwind pixel is too."""
RATES_ELSEWHERE = "given in the asset plumes"
"""A rate needs a wind, and a new wind must not ask for new retrievals."""
_METHODS = {1: "mbsp", 2: "mbmp"}
PROBABILITY = "plume_probability"
NO_MAP = "no map: the granule is in sensor geometry without a look-up table"


def detect(
    fields: xr.Dataset, *, area: str, settings: DetectionSettings | None = None, provider: str = ""
) -> pa.Table:
    """Return the plume candidates in a node of methane fields, all times.

    Of Sentinel-2 (:func:`~geostack_pipeline.methane.retrieve.retrieve`) the multi-pass or single-pass signal is searched,
    with the tests of B11; of an imaging spectrometer (:func:`~geostack_pipeline.methane.swath_retrieve.retrieve_granule`)
    the linear enhancement, which has no B11.  Fields without a map give no candidates, and ``geostack:rejected`` says so.

    The table has :func:`~geostack_pipeline.methane.plume_table.plume_schema` and ``geo`` metadata; without
    candidates it has zero rows.  A time with a multi-pass signal is searched there alone: its single-pass pixels carry
    the surface and would only add false alarms; a time without is searched on the single pass with a higher
    threshold.  How many candidates each test rejected stands in the schema metadata ``geostack:rejected``.
    Where the fields hold ``plume_probability``, candidates are what that model takes for plumes, and the table has its
    columns.  No emission rate is given: that needs a wind, which the asset ``plumes`` knows.
    """
    spectral = "signal_source" not in fields
    judged = PROBABILITY in fields
    settings = settings or (SPECTROMETER if spectral else DetectionSettings())
    if spectral and not {"y", "x"} <= set(map(str, fields["ch4_enhancement"].dims)):
        return plume_rows([], rejected={NO_MAP: 1}, judged=judged)
    place = georeference(fields)
    rows: list[dict[str, Any]] = []
    rejected: Counter[str] = Counter()
    for index in range(fields.sizes["time"]):
        step = fields.isel(time=index).load()
        method, enhancement, found = (_spectral if spectral else _two_band)(step, place, settings)
        rejected.update(found.rejected)
        rows += [
            _row(step, enhancement, found, candidate, place, area, provider, method)
            for candidate in found.candidates
        ]
    return plume_rows(rows, rejected=rejected, judged=judged)


def _two_band(
    step: xr.Dataset, place: Georeference, settings: DetectionSettings
) -> tuple[str, NDArray[np.float32], Detection]:
    source = step["signal_source"].values
    method = 2 if (source == 2).any() else 1
    enhancement = np.where(source == method, step["ch4_enhancement"].values, np.nan).astype(np.float32)
    found = find_candidates(
        enhancement,
        pixel_m=place.pixel_m,
        seed_z=settings.seed_z if method == 2 else settings.seed_z_single,
        settings=settings,
        signal=step[_METHODS[method]].values,
        b11_contrast=step["b11_contrast"].values,
    )
    return _METHODS[method], enhancement, found


def _spectral(
    step: xr.Dataset, place: Georeference, settings: DetectionSettings
) -> tuple[str, NDArray[np.float32], Detection]:
    name = "ch4_enhancement_linear" if "ch4_enhancement_linear" in step else "ch4_enhancement"
    enhancement = np.asarray(step[name].values, np.float32)
    misfit = None
    if "spectral_misfit" in step:
        bands = int(step.attrs["bands_filtered"])
        misfit = Misfit(values=np.asarray(step["spectral_misfit"].values, np.float32), bands=bands)
    found = find_candidates(
        enhancement,
        pixel_m=place.pixel_m,
        seed_z=settings.seed_z,
        settings=settings,
        misfit=misfit,
        judgement=_judgement(step),
    )
    return str(step.attrs["method"]), enhancement, found


def _judgement(step: xr.Dataset) -> Judgement | None:
    """Return what the plume model says of a step; None where none was asked."""
    if PROBABILITY not in step:
        return None
    said = step[PROBABILITY]
    return Judgement(
        probability=np.asarray(said.values, np.float32), threshold=float(said.attrs["model_threshold"])
    )


def _row(
    step: xr.Dataset,
    enhancement: NDArray[np.float32],
    found: Detection,
    candidate: Candidate,
    place: Georeference,
    area: str,
    provider: str,
    method: str,
) -> dict[str, Any]:
    inside = found.labels == candidate.label
    # Smoothing may bring in no pixel without a value: labels lie on valid pixels only.
    excess = enhancement - found.background
    mass = integrated_mass(
        excess,
        inside,
        np.isfinite(enhancement) & (found.labels == 0),
        pixel_area_m2=place.pixel_area_m2,
        bias_relative=float(step.attrs.get("air_mass_bias_relative", 0.0)),
    )
    longitude, latitude = place.point(*candidate.peak)
    time = step["time"].values.astype("datetime64[us]")
    reference = step["reference_time"].values.astype("datetime64[us]") if method == "mbmp" else None
    names = step["scene"].values
    seen = [int(scene) for scene in np.unique(step["source_scene"].values[inside]) if scene >= 0]
    spectral = "signal_source" not in step
    clipped = (step["quality_flags"].values[inside] & (0 if spectral else int(Quality.CLIPPED))) != 0
    noise = step["ch4_uncertainty"].values[inside]
    return {
        "plume_id": _plume_id(area, str(time.astype("datetime64[s]")), longitude, latitude, provider),
        "provider": provider,
        "instrument": instrument_of(str(step.attrs.get("instrument", ""))),
        "area": area,
        "time": time.item(),
        "method": method,
        "maturity": str(step.attrs.get("maturity", "screening")),
        "geometry": shapely.to_wkb(outline(inside, place)),
        "source_longitude": longitude,
        "source_latitude": latitude,
        "source_method": SOURCE_METHOD,
        "area_m2": float(inside.sum()) * place.pixel_area_m2,
        "pixels": int(inside.sum()),
        "max_enhancement_ppm_m": float(excess[inside].max()),
        "mean_enhancement_ppm_m": float(excess[inside].mean(dtype=np.float64)),
        "background_ppm_m": float(found.background[inside].mean(dtype=np.float64)),
        "noise_ppm_m": float(np.median(noise)) if np.isfinite(noise).all() else None,
        "ime_kg": mass.ime_kg,
        "ime_noise_kg": mass.noise_kg if np.isfinite(mass.noise_kg) else None,
        "ime_sigma_kg": mass.sigma_kg if np.isfinite(mass.sigma_kg) else None,
        "peak_z": candidate.peak_z,
        "significance": candidate.significance,
        "negative_controls": candidate.controls,
        "elongation": candidate.elongation,
        "clipped_fraction": float(clipped.mean()),
        "rate_missing_reason": RATES_ELSEWHERE,
        "reference_time": None if reference is None else reference.item(),
        "item_ids": [str(names[scene]) for scene in seen],
        "reference_item_ids": str(step["reference_scene"].values).split() if method == "mbmp" else [],
        **_said(step, inside),
    }


def _said(step: xr.Dataset, inside: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the columns of the plume model; none where none was asked."""
    if PROBABILITY not in step:
        return {}
    said = step[PROBABILITY]
    values = said.values[inside].astype(np.float64)
    return {
        "probability_max": float(np.nanmax(values)),
        "probability_mean": float(np.nanmean(values)),
        "model_name": str(said.attrs["model_name"]),
        "model_version": str(said.attrs["model_version"]),
    }


def _plume_id(area: str, time: str, longitude: float, latitude: float, provider: str) -> str:
    """Return e.g. ``korpezhe-20240601T072131-38.49410N-54.19765E-earth_search``; the position to about a metre."""
    stamp = time.replace("-", "").replace(":", "")
    north, east = ("N" if latitude >= 0 else "S"), ("E" if longitude >= 0 else "W")
    parts = [area, stamp, f"{abs(latitude):.5f}{north}", f"{abs(longitude):.5f}{east}"]
    return "-".join([*parts, provider] if provider else parts)
