"""Attributes of swath cubes: CF names and units of what EMIT and EnMAP measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from geostack_pipeline.cube.conventions import GRID_MAPPING

WAVELENGTH: dict[str, Any] = {
    "long_name": "centre of the spectral band",
    "standard_name": "radiation_wavelength",
    "units": "nm",
}
WAVELENGTH_OF_COLUMN: dict[str, Any] = {
    "long_name": "centre of the spectral band in the detector column",
    "units": "nm",
    "comment": "the spectral smile: nominal centre and the polynomial of the product",
}
FWHM: dict[str, Any] = {"long_name": "full width of the spectral band at half maximum", "units": "nm"}
GOOD: dict[str, Any] = {
    "long_name": "whether the product calls the band usable",
    "flag_values": np.array([0, 1], np.uint8),
    "flag_meanings": "strong_water_vapour_absorption usable",
}
BAND_NUMBER: dict[str, Any] = {
    "long_name": "number of the band in the product, counted from 1",
    "units": "1",
}
TIME: dict[str, Any] = {"long_name": "start of the acquisition", "standard_name": "time"}

RADIANCE: dict[str, Any] = {
    "long_name": "radiance at the sensor",
    "standard_name": "toa_outgoing_radiance_per_unit_wavelength",
    "units": "uW cm-2 sr-1 nm-1",
}
REFLECTANCE: dict[str, Any] = {
    "long_name": "surface reflectance",
    "standard_name": "surface_bidirectional_reflectance",
    "units": "1",
}
REFLECTANCE_UNCERTAINTY: dict[str, Any] = {
    "long_name": "uncertainty of the surface reflectance",
    "units": "1",
}
MAIN: dict[str, dict[str, Any]] = {
    "radiance": RADIANCE,
    "reflectance": REFLECTANCE,
    "reflectance_uncertainty": REFLECTANCE_UNCERTAINTY,
}
"""Main variable of a NetCDF product -> attributes."""

LOCATION: dict[str, dict[str, Any]] = {
    "lon": {"long_name": "longitude", "standard_name": "longitude", "units": "degrees_east"},
    "lat": {"long_name": "latitude", "standard_name": "latitude", "units": "degrees_north"},
    "elev": {"long_name": "elevation of the ground", "standard_name": "surface_altitude", "units": "m"},
}
GLT: dict[str, dict[str, Any]] = {
    "glt_x": {
        "long_name": "sample seen by the pixel of the geographic grid, counted from 1; 0 for none",
        "units": "1",
        "grid_mapping": GRID_MAPPING,
    },
    "glt_y": {
        "long_name": "line seen by the pixel of the geographic grid, counted from 1; 0 for none",
        "units": "1",
        "grid_mapping": GRID_MAPPING,
    },
}

OBSERVATION: dict[str, tuple[str, dict[str, Any]]] = {
    "path length": ("path_length", {"long_name": "distance from the sensor to the ground", "units": "m"}),
    "to-sensor azimuth": (
        "sensor_azimuth",
        {
            "long_name": "direction to the sensor, clockwise from north",
            "standard_name": "sensor_azimuth_angle",
            "units": "degree",
        },
    ),
    "to-sensor zenith": (
        "sensor_zenith",
        {
            "long_name": "zenith angle of the sensor",
            "standard_name": "sensor_zenith_angle",
            "units": "degree",
        },
    ),
    "to-sun azimuth": (
        "solar_azimuth",
        {
            "long_name": "direction to the sun, clockwise from north",
            "standard_name": "solar_azimuth_angle",
            "units": "degree",
        },
    ),
    "to-sun zenith": (
        "solar_zenith",
        {"long_name": "zenith angle of the sun", "standard_name": "solar_zenith_angle", "units": "degree"},
    ),
    "solar phase": (
        "phase_angle",
        {"long_name": "angle between the directions to sensor and sun", "units": "degree"},
    ),
    "slope": ("slope", {"long_name": "slope of the ground", "units": "degree"}),
    "aspect": (
        "aspect",
        {"long_name": "direction in which the ground falls, clockwise from north", "units": "degree"},
    ),
    "cosine(i)": (
        "cosine_of_incidence",
        {"long_name": "cosine of the angle between sun and ground", "units": "1"},
    ),
    "utc time": ("utc_hour", {"long_name": "hour of the day, UTC", "units": "h"}),
    "earth-sun distance": ("earth_sun_distance", {"long_name": "distance of earth and sun", "units": "ua"}),
}
"""Beginning of a band's name in L1B OBS, lower case -> (variable, attributes)."""

MASK: dict[str, tuple[str, dict[str, Any]]] = {
    "cloud flag": ("mask_cloud", {"long_name": "cloud"}),
    "cirrus flag": ("mask_cirrus", {"long_name": "cirrus"}),
    "water flag": ("mask_water", {"long_name": "standing water"}),
    "standing water flag": ("mask_water", {"long_name": "standing water"}),
    "spacecraft flag": ("mask_spacecraft", {"long_name": "spacecraft in the view"}),
    "dilated cloud": ("mask_dilated_cloud", {"long_name": "cloud or close to a cloud"}),
    "aggregate": ("mask_aggregate", {"long_name": "any reason not to use the pixel"}),
    "spectf-cloud flag": ("mask_spectf_cloud", {"long_name": "cloud by the SpecTf model"}),
}
"""Beginning of a flag's name in L2A MASK, lower case -> (variable, attributes); the names differ between versions."""
MASK_FLAGS: dict[str, Any] = {
    "flag_values": np.array([0, 1, 255], np.uint8),
    "flag_meanings": "no yes no_data",
}
BAND_MASK: dict[str, Any] = {
    "long_name": "whether the product masks the band of the pixel: its number was interpolated",
}
BAND_MASK_PACKED: dict[str, Any] = {
    "long_name": "mask of single bands, eight to a byte; 255 in all bytes for no data",
    "units": "1",
    "comment": "band n, counted from 1, is bit 7 - (n - 1) % 8 of byte (n - 1) // 8, as numpy.unpackbits has it",
}
MASK_QUANTITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "aod550": (
        "aerosol_optical_depth",
        {
            "long_name": "aerosol optical depth at 550 nm",
            "standard_name": "atmosphere_optical_thickness_due_to_ambient_aerosol_particles",
            "units": "1",
        },
    ),
    "h2o": (
        "water_vapour",
        {
            "long_name": "column of water vapour",
            "standard_name": "atmosphere_mass_content_of_water_vapor",
            "units": "g cm-2",
        },
    ),
    "spectf-cloud probability": (
        "spectf_cloud_probability",
        {"long_name": "probability of cloud by the SpecTf model", "units": "1"},
    ),
    "spectf-buffer distance": (
        "spectf_buffer_distance",
        {"long_name": "distance to the next cloud by the SpecTf model", "units": "1"},
    ),
}

METHANE: dict[str, tuple[str, dict[str, Any]]] = {
    "CH4ENH": (
        "ch4_enhancement",
        {"long_name": "methane column above the background, by a matched filter", "units": "ppm m"},
    ),
    "CH4UNCERT": (
        "ch4_uncertainty",
        {"long_name": "standard uncertainty of the methane enhancement", "units": "ppm m"},
    ),
    "CH4SENS": (
        "ch4_sensitivity",
        {"long_name": "share of a methane enhancement that the matched filter shows", "units": "1"},
    ),
    "CH4PLM": (
        "plume_enhancement",
        {"long_name": "methane enhancement inside the plumes that analysts outlined", "units": "ppm m"},
    ),
}
"""Asset -> (variable, attributes)."""
_YES_NO: dict[str, Any] = {"flag_values": np.array([0, 1], np.uint8), "flag_meanings": "no yes"}
PLUME_MASK: dict[str, Any] = {
    "long_name": "number of the plume complex that analysts outlined; 0 for none",
    "units": "1",
    "comment": "no plume is no proof of absence: outlines follow weeks after the granule",
}
QUALITY: dict[str, dict[str, Any]] = {
    "QUALITY_CLASSES": {
        "long_name": "quality classes",
        "flag_values": np.array([0, 1, 2, 3], np.uint8),
        "flag_meanings": "missing_inside_the_scene land water background",
    },
    "QUALITY_CLOUD": {"long_name": "cloud", **_YES_NO},
    "QUALITY_CLOUDSHADOW": {"long_name": "shadow of a cloud", **_YES_NO},
    "QUALITY_HAZE": {"long_name": "haze", **_YES_NO},
    "QUALITY_CIRRUS": {
        "long_name": "cirrus",
        "flag_values": np.array([0, 1, 2, 3], np.uint8),
        "flag_meanings": "none thin medium thick",
    },
    "QUALITY_SNOW": {"long_name": "snow", **_YES_NO},
    "QUALITY_TESTFLAGS": {
        "long_name": "test flags",
        "flag_masks": np.array([3, 3, 3, 3, 4, 8, 16, 32, 64, 128], np.uint8),
        "flag_values": np.array([0, 1, 2, 3, 4, 8, 16, 32, 64, 128], np.uint8),
        "flag_meanings": "quality_nominal quality_reduced quality_low quality_not_produced interpolated_swir "
        "interpolated_vnir saturated_swir saturated_vnir artefact_swir artefact_vnir",
        "comment": "meanings of the bits as ESA's SNAP reader of EnMAP has them",
    },
    "QUALITY_PIXELMASK": {
        "long_name": "mask of defective pixels, the numbers as the product has them",
        "units": "1",
    },
}
"""Asset of an EnMAP product -> attributes of the variable, which has its name in lower case."""

GAIN: dict[str, Any] = {
    "long_name": "radiance per stored number of the product",
    "units": "W m-2 sr-1 nm-1",
}
OFFSET: dict[str, Any] = {"long_name": "radiance of the stored number 0", "units": "W m-2 sr-1 nm-1"}


def no_data(value: float | None, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the attribute that marks a stored number as no data; none where the type cannot hold it: no pixel has it."""
    if value is None:
        return {}
    if dtype.kind == "f":
        return {"_FillValue": dtype.type(value)}
    held = float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    return {"_FillValue": dtype.type(int(value))} if held else {}
