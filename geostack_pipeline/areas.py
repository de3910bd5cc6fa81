"""Areas of interest: a name, an extent in longitude and latitude, and how it is gridded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Resampling = Literal["auto", "nearest", "bilinear", "average"]
"""How reflectance comes onto a grid.

``auto``: the nearest pixel, and from 1.5 source pixels per grid pixel on (10 m on a 20 m grid) the mean of those under it.
``nearest``, ``bilinear``, ``average``: this one, whatever the pixel sizes.  Pixels that lie on the grid already are copied,
and classes are always the nearest.
"""


@dataclass(frozen=True, kw_only=True)
class Area:
    """One area of interest.

    ``bbox`` is (west, south, east, north) in degrees, WGS 84; west > east means that
    the area crosses the antimeridian.
    """

    name: str
    """Lower-case name, used as the node name of trees: ``[a-z0-9][a-z0-9_-]*``."""
    bbox: tuple[float, float, float, float]
    """West, south, east, north; degrees, WGS 84."""
    resolution_m: float = 20.0
    """Pixel size of the area's grid in metres (units of its CRS)."""
    crs: str | None = None
    """``EPSG:…`` of the grid; None takes the UTM zone of the area's centre."""
    resampling: Resampling | None = None
    """How reflectance comes onto the grid; None takes what each provider's settings say."""
    read_overviews: bool | None = None
    """Whether a coarser grid is made of the sources' overviews; None takes what each provider's settings say."""

    @property
    def centre(self) -> tuple[float, float]:
        """Longitude and latitude of the centre, degrees; longitude within [-180, 180)."""
        west, south, east, north = self.bbox
        if west > east:
            east += 360.0
        longitude = (west + east) / 2.0
        return ((longitude + 180.0) % 360.0 - 180.0, (south + north) / 2.0)

    @property
    def parts(self) -> tuple[tuple[float, float, float, float], ...]:
        """The bounding boxes with west <= east that cover the area: two across the antimeridian."""
        west, south, east, north = self.bbox
        if west <= east:
            return (self.bbox,)
        return ((west, south, 180.0, north), (-180.0, south, east, north))
