"""What a cube is built of: scenes with their bands as rasters on a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CLASSIFICATION = "SCL"
"""Key of the scene classification among a scene's bands."""


@dataclass(frozen=True, kw_only=True)
class BandLayer:
    """One band of a scene as a raster file: reflectance = number * scale + offset."""

    store: ObjectStore
    """Where the file lies."""
    key: str
    """Key in the store."""
    scale: float
    """Reflectance per stored unit; ignored for the classification."""
    offset: float
    """Reflectance at the stored number 0; ignored for the classification."""
    nodata: float | None
    """Stored number that means no data; None takes the file's own."""
    band: int = 1
    """Band of the file, counted from 1."""
    is_overview: bool = False
    """Whether the file holds an overview of the source in place of its full image."""


@dataclass(frozen=True, kw_only=True)
class SceneLayer:
    """One scene that may give pixels to a cube."""

    item_id: str
    """Id of its catalog item, which the cube names as the source of pixels."""
    scene: str
    """Identity of the physical scene, the same for all items of it."""
    datetime: datetime
    """Time of acquisition, UTC."""
    platform: str
    """Satellite, e.g. ``sentinel-2a``."""
    relative_orbit: int | None
    """Relative orbit; None where unknown."""
    sun_zenith: float | None
    """Sun zenith angle in degrees; None where unknown."""
    view_zenith: float | None
    """Sensor zenith angle in degrees; None where unknown."""
    bands: Mapping[str, BandLayer]
    """Rasters by band name, with ``SCL`` for the scene classification; bands may be missing."""
