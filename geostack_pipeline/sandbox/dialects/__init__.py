"""How catalogs publish the one world: a dialect turns scenes into items, objects and a protocol."""

from __future__ import annotations

from geostack_pipeline.sandbox.dialects.base import Addresses, Dialect, Publication, StoredObject
from geostack_pipeline.sandbox.dialects.earth_search import EarthSearchDialect

DIALECTS: dict[str, type[Dialect]] = {"earth_search": EarthSearchDialect}
"""Provider key -> dialect."""

__all__ = ["DIALECTS", "Addresses", "Dialect", "EarthSearchDialect", "Publication", "StoredObject"]
