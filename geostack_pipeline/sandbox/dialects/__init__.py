"""How catalogs publish the one world: a dialect turns scenes into items, objects and a protocol."""

from __future__ import annotations

from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.cdse import CdseDialect
from geostack_pipeline.sandbox.dialects.cmr_stac import CmrStacDialect
from geostack_pipeline.sandbox.dialects.dlr_geoservice import DlrGeoserviceDialect
from geostack_pipeline.sandbox.dialects.earth_search import EarthSearchDialect
from geostack_pipeline.sandbox.dialects.earthaccess import EarthaccessDialect
from geostack_pipeline.sandbox.dialects.planetary_computer import PlanetaryComputerDialect
from geostack_pipeline.sandbox.dialects.sentinel_hub import SentinelHubDialect
from geostack_pipeline.sandbox.dialects.stac_api import StacApiDialect

DIALECTS: dict[str, type[Dialect]] = {
    "earth_search": EarthSearchDialect,
    "planetary_computer": PlanetaryComputerDialect,
    "cdse": CdseDialect,
    "sentinel_hub": SentinelHubDialect,
    "cmr_stac": CmrStacDialect,
    "earthaccess": EarthaccessDialect,
    "dlr_geoservice": DlrGeoserviceDialect,
    "stac_api": StacApiDialect,
}
"""Provider key -> dialect."""

__all__ = ["DIALECTS", "Addresses", "Dialect", "EarthSearchDialect", "Publication", "StoredObject"]
