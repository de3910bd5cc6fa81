"""Where the sun stands: for catalogs that list scenes without their angles."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_J2000 = datetime(2000, 1, 1, 12, tzinfo=UTC)


def sun_elevation(moment: datetime, longitude: float, latitude: float) -> float:
    """Return the geometric elevation of the sun above the horizon, degrees, without refraction.

    The Astronomical Almanac's approximate solar position (Michalsky 1988, Solar Energy 40, 227), good to 0.01 degrees
    between 1950 and 2050.

    Args:
        moment: Aware time.
        longitude: Degrees east, WGS 84.
        latitude: Degrees north.
    """
    since = moment.astimezone(UTC) - _J2000
    days = since.total_seconds() / 86400.0
    mean_longitude = 280.460 + 0.9856474 * days
    anomaly = math.radians(357.528 + 0.9856003 * days)
    ecliptic = math.radians(mean_longitude + 1.915 * math.sin(anomaly) + 0.020 * math.sin(2.0 * anomaly))
    obliquity = math.radians(23.439 - 0.0000004 * days)
    ascension = math.atan2(math.cos(obliquity) * math.sin(ecliptic), math.cos(ecliptic))
    declination = math.asin(math.sin(obliquity) * math.sin(ecliptic))
    universal = (days + 0.5) % 1.0 * 24.0
    sidereal = 6.697375 + 0.0657098242 * days + universal
    hour_angle = math.radians(15.0 * sidereal + longitude) - ascension
    phi = math.radians(latitude)
    sine = math.sin(declination) * math.sin(phi) + math.cos(declination) * math.cos(phi) * math.cos(
        hour_angle
    )
    return math.degrees(math.asin(max(-1.0, min(1.0, sine))))
