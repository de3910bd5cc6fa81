"""Solar days: which acquisitions make one picture of an area."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta


def solar_day(moment: datetime, longitude: float) -> date:
    """Return the date by the sun at a longitude: the UTC time moved by four minutes per degree.

    An overpass in daylight lies far from solar midnight, so all scenes of one overpass have the
    same solar day, also where the UTC day ends between two of them.

    Args:
        moment: Time with time zone.
        longitude: Degrees, east positive, within [-180, 180].
    """
    if moment.tzinfo is None:
        raise ValueError(f"the time {moment} has no time zone")
    return (moment.astimezone(UTC) + timedelta(hours=longitude / 15.0)).date()


def by_solar_day(moments: Sequence[datetime], longitude: float) -> dict[date, list[int]]:
    """Return the indices of acquisitions by solar day: days in order, indices in the order given.

    Used within one UTC date: a solar day that two UTC dates share (an area near the
    antimeridian) gives one picture in each of them.
    """
    days: dict[date, list[int]] = {}
    for i, moment in enumerate(moments):
        days.setdefault(solar_day(moment, longitude), []).append(i)
    return dict(sorted(days.items()))
