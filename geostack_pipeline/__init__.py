"""One asset graph of the satellite catalogs: scene lists, cached rasters, Zarr cubes, methane maps.

In a notebook::

    import geostack_pipeline as gp

    scenes = gp.load("earth_search/scenes", "2024-06-01")          # polars.DataFrame
    cube = gp.load("earth_search/cube", "2024-06-01")              # xarray.DataTree, lazy
    plumes = gp.load("earth_search/methane", "2024-06-01", name="plumes")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl
    import xarray as xr

__all__ = ["load"]


def load(
    asset: str,
    partition: str,
    version: str | None = None,
    *,
    name: str | None = None,
    settings: str | Path | None = None,
) -> pl.DataFrame | xr.DataTree:
    """Return a stored table or tree.

    Args:
        asset: Provider and stage, e.g. ``earth_search/cube``.
        partition: UTC date, ``YYYY-MM-DD``.
        version: A stored version; None takes the current one.
        name: A table beside the main one, e.g. ``rejected`` of scenes, ``dropped`` of selected, ``plumes`` of methane.
        settings: Settings file; None finds it as the command line does.

    Raises:
        ArtifactNotFoundError: Nothing is stored for the date, or not in this version.
    """
    # Imported late: `import geostack_pipeline` alone stays free of numpy, xarray and jax.
    from geostack_pipeline.reading import load_artifact  # noqa: PLC0415

    return load_artifact(asset, partition, version, name=name, settings=settings)
