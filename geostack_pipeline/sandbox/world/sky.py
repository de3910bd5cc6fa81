"""The sky over a scene: the sun, the air, clouds with their shadows, and the scene classification that follows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from geostack_pipeline.sandbox.world.grids import Floats

NODATA, SHADOW, VEGETATION, SOIL, CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS = 0, 3, 4, 5, 8, 9, 10
"""Codes of Sentinel-2's scene classification that occur in this world."""
CLOUD_REFLECTANCE = {"B02": 0.72, "B03": 0.71, "B04": 0.72, "B08": 0.75, "B11": 0.42, "B12": 0.30}


@dataclass(frozen=True, kw_only=True)
class Sun:
    """Where the sun stands."""

    zenith_deg: float
    azimuth_deg: float


def sun_at(when: datetime, longitude: float, latitude: float) -> Sun:
    """Return the sun's position (Spencer 1971, to about 0.1 degrees); ``when`` is UTC."""
    day = when.timetuple().tm_yday - 1 + (when.hour - 12) / 24.0
    g = 2.0 * np.pi * day / 365.0
    declination = (
        0.006918
        - 0.399912 * np.cos(g)
        + 0.070257 * np.sin(g)
        - 0.006758 * np.cos(2 * g)
        + 0.000907 * np.sin(2 * g)
        - 0.002697 * np.cos(3 * g)
        + 0.00148 * np.sin(3 * g)
    )
    equation = 229.18 * (
        0.000075
        + 0.001868 * np.cos(g)
        - 0.032077 * np.sin(g)
        - 0.014615 * np.cos(2 * g)
        - 0.040849 * np.sin(2 * g)
    )
    minutes = when.hour * 60 + when.minute + when.second / 60.0 + equation + 4.0 * longitude
    hour = np.radians(minutes / 4.0 - 180.0)
    phi = np.radians(latitude)
    cosine = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour)
    zenith = np.arccos(cosine)
    south = np.arctan2(np.sin(hour), np.cos(hour) * np.sin(phi) - np.tan(declination) * np.cos(phi))
    return Sun(
        zenith_deg=float(np.degrees(zenith)),
        azimuth_deg=float((np.degrees(south) + 180.0) % 360.0),
    )


def air_mass_factor(sun_zenith_deg: float, view_zenith_deg: float) -> float:
    """Return the light path in vertical columns, on a spherical Earth (Kasten and Young 1989)."""

    def path(zenith: float) -> float:
        elevation = 90.0 - zenith
        return float(1.0 / (np.sin(np.radians(elevation)) + 0.50572 * (elevation + 6.07995) ** -1.6364))

    return path(sun_zenith_deg) + path(view_zenith_deg)


def cloud_height(fields: tuple[Floats, Floats], distance_m: Floats, clear_radius_m: float) -> Floats:
    """Return the field whose highest parts are clouds; within ``clear_radius_m`` of the centre they are rarer."""
    height = fields[0] + np.float32(0.25) * fields[1]
    if clear_radius_m > 0.0:
        height -= np.float32(1.1) * np.exp(-((distance_m / clear_radius_m) ** 4)).astype(np.float32)
    return height


def classify(
    thickness: Floats, shadow: npt.NDArray[np.bool_], vegetated: Floats, seen: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Return the scene classification on 20 m pixels, uint8; 0 where nothing was seen."""
    scl = np.full(thickness.shape, SOIL, np.uint8)
    scl[vegetated > 0.4] = VEGETATION
    scl[shadow] = SHADOW
    scl[thickness > 0.02] = CIRRUS
    scl[thickness > 0.25] = CLOUD_MEDIUM
    scl[thickness > 0.7] = CLOUD_HIGH
    scl[~seen] = NODATA
    return scl
