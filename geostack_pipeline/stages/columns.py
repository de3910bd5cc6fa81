"""Which columns of a stored table people look at first, on a terminal and on an asset's page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "scenes": ("id", "datetime", "platform", "eo:cloud_cover", "processing:baseline", "geostack:scene"),
    "rejected": ("id", "reason", "detail"),
    "selected": ("id", "datetime", "eo:cloud_cover", "geostack:scene"),
    "dropped": ("id", "geostack_scene", "reason", "detail"),
    "granules": ("area", "item_id", "asset", "form", "size", "source_size"),
    "plumes": (
        "plume_id", "time", "source_longitude", "source_latitude", "ime_kg", "emission_rate_kg_h",
        "emission_rate_sigma_kg_h", "rate_missing_reason", "members", "providers",
    ),
    "published": ("id", "collection", "datetime", "title"),
    "members": ("plume", "provider", "representative", "significance", "ime_kg", "version"),
}  # fmt: skip
"""Table -> columns; a table that is not named here is shown as it is."""


def first_columns(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    """Return the columns of a table that are shown first; without geometries and nested columns where none is named."""
    chosen = [name for name in COLUMNS.get(table, ()) if name in frame.columns]
    if not chosen:
        # Geometries as bytes (also under a type of their own) and nested columns say nothing as text.
        chosen = [
            name
            for name, dtype in frame.schema.items()
            if not dtype.is_nested() and "Binary" not in str(dtype)
        ]
    return frame.select(chosen)
