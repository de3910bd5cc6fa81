"""What is published: one collection per product, and what each field in it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """An instrument as STAC names it."""

    title: str
    constellation: str | None
    instruments: tuple[str, ...]
    provider: Mapping[str, Any]
    """Who made the scenes, as a STAC provider."""
    bands: tuple[Mapping[str, Any], ...]
    """Bands that methane shows in, as ``eo:bands``."""


SENSORS: Mapping[str, Sensor] = {
    "sentinel-2": Sensor(
        title="Sentinel-2 MSI",
        constellation="sentinel-2",
        instruments=("msi",),
        provider={"name": "ESA", "roles": ["producer", "licensor"], "url": "https://sentinels.copernicus.eu"},
        bands=(
            {"name": "B11", "common_name": "swir16", "center_wavelength": 1.61, "full_width_half_max": 0.143},
            {"name": "B12", "common_name": "swir22", "center_wavelength": 2.19, "full_width_half_max": 0.242},
        ),
    ),
    "emit": Sensor(
        title="EMIT",
        constellation=None,
        instruments=("emit",),
        provider={
            "name": "NASA LP DAAC",
            "roles": ["producer", "licensor"],
            "url": "https://lpdaac.usgs.gov",
        },
        bands=({"name": "swir", "description": "2137 to 2493 nm", "center_wavelength": 2.315},),
    ),
    "enmap": Sensor(
        title="EnMAP HSI",
        constellation=None,
        instruments=("hsi",),
        provider={"name": "DLR", "roles": ["producer", "licensor"], "url": "https://www.enmap.org"},
        bands=({"name": "swir", "description": "2122 to 2450 nm", "center_wavelength": 2.29},),
    ),
}
"""Instrument -> how STAC names it."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A field that is published as a COG."""

    variable: str
    title: str
    unit: str
    roles: tuple[str, ...]


LAYERS: tuple[Layer, ...] = (
    Layer(variable="ch4_enhancement", title="Methane column enhancement", unit="ppm m", roles=("data",)),
    Layer(
        variable="ch4_enhancement_linear",
        title="Enhancement without non-negativity and sparsity",
        unit="ppm m",
        roles=("data",),
    ),
    Layer(
        variable="ch4_uncertainty",
        title="1-sigma of the enhancement",
        unit="ppm m",
        roles=("data", "uncertainty"),
    ),
    Layer(variable="ch4_sensitivity", title="Sensitivity of the matched filter", unit="1", roles=("data",)),
    Layer(
        variable="spectral_misfit",
        title="Distance of the spectrum from background and methane",
        unit="1",
        roles=("data", "quality"),
    ),
    Layer(variable="plume_probability", title="Probability of a plume", unit="1", roles=("data",)),
    Layer(variable="quality_flags", title="Quality flags", unit="", roles=("data", "quality")),
)
"""Fields in the order in which they are shown; a node without one has no such asset."""

PLUMES = "methane-plumes"
PROCESSOR: Mapping[str, Any] = {"name": "geostack_pipeline", "roles": ["processor"]}
UNKNOWN = "unknown"


def sensor(instrument: str) -> Sensor:
    """Return how STAC names an instrument; one that is not known is named as it is."""
    return SENSORS.get(instrument) or Sensor(
        title=instrument or UNKNOWN,
        constellation=None,
        instruments=(instrument or UNKNOWN,),
        provider={"name": UNKNOWN, "roles": ["producer"]},
        bands=(),
    )


def fields_collection(instrument: str) -> str:
    """Return the id of the collection of an instrument's fields."""
    kept = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in instrument.casefold())
    return f"methane-enhancement-{kept or UNKNOWN}"


def platform_of(name: str) -> str:
    """Return a platform as STAC names it: ``S2A`` is ``sentinel-2a``."""
    if len(name) == 3 and name.upper().startswith("S2"):
        return f"sentinel-2{name[2].lower()}"
    return name.lower()
