"""One asset graph of the satellite catalogs: scene lists, cached rasters, Zarr cubes, methane maps.

In a notebook::

    import geostack_pipeline as gp

    scenes = gp.load("earth_search/scenes", "2024-06-01")          # polars.DataFrame
    cube = gp.load("earth_search/cube", "2024-06-01")              # xarray.DataTree, lazy
    plumes = gp.load("earth_search/methane", "2024-06-01", name="plumes")
    year = gp.load_timeline("earth_search", "korpezhe", "2024-01-01", "2024-12-31")  # xarray.Dataset, lazy
    grid = gp.load_grid("korpezhe")                                # where the pixels of all its cubes lie
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    import polars as pl
    import xarray as xr

    from geostack_pipeline.cube.grid import GridSpec

__all__ = ["load", "load_grid", "load_timeline"]


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
        name: A table beside the main one, e.g. ``rejected`` of scenes, ``dropped`` of selected, ``plumes`` of
            methane; or a group of the tree, e.g. ``korpezhe/overviews`` of a cube that has any.
        settings: Settings file; None finds it as the command line does.

    Raises:
        ArtifactNotFoundError: Nothing is stored for the date, or not in this version.
    """
    # Imported late: `import geostack_pipeline` alone stays free of numpy, xarray and jax.
    from geostack_pipeline.reading import load_artifact  # noqa: PLC0415

    return load_artifact(asset, partition, version, name=name, settings=settings)


def load_timeline(
    provider: str,
    area: str,
    start: str | date,
    end: str | date,
    *,
    versions: Mapping[str, str] | None = None,
    mask_and_scale: bool = True,
    settings: str | Path | None = None,
) -> xr.Dataset:
    """Return an area's cubes of many dates as one lazy dataset along ``time``; nothing is copied.

    The variables are those of a single date (``reflectance(time, band, y, x)`` as floats with NaN, ``scl``,
    ``source_scene``).  ``scene`` runs on from date to date, and ``source_scene`` is an index along it; the
    coordinate ``cube_version(time)`` names the version of each step.  Dates without a cube of the area are not on
    the axis; a date may have several times.  No dask: ``.chunk()`` brings it in where it is wanted.

    Args:
        provider: Name of the provider, e.g. ``earth_search``; one whose cubes lie on a grid.
        area: Name of the area, which is the name of the node.
        start: First UTC date, ``YYYY-MM-DD`` or a ``datetime.date``.
        end: Last UTC date, included.
        versions: Date -> stored version to take instead of the current one.
        mask_and_scale: As in xarray: False leaves reflectance in its 16-bit numbers, a quarter of the memory, with
            ``scale_factor``, ``add_offset`` and ``_FillValue`` among the attributes.
        settings: Settings file; None finds it as the command line does.

    Raises:
        ArtifactNotFoundError: No date of the range has a cube of this area.
        SettingsError: The provider's cubes are swaths, a date or a version does not exist, or some dates differ from
            the others in grid, bands, packing or chunks (cubes made with other settings, or by an older release).
    """
    from geostack_pipeline.reading import load_timeline as load_dates  # noqa: PLC0415 - see `load`

    return load_dates(
        provider, area, start, end, versions=versions, mask_and_scale=mask_and_scale, settings=settings
    )


def load_grid(area: str, *, settings: str | Path | None = None) -> GridSpec:
    """Return the grid of an area: the one that all cubes of it lie on, of all providers and dates.

    It was stored by the first run that needed it, and is never computed again: ``crs``, ``transform``, ``width``, ``height``,
    and ``x``, ``y``, the coordinates of the pixels' centres.

    Args:
        area: Name of the area in the settings.
        settings: Settings file; None finds it as the command line does.

    Raises:
        ArtifactNotFoundError: No run has stored it yet, as the settings define the area.
        SettingsError: There is no such area.
        StorageError: The stored grid is damaged; the file is named.
    """
    from geostack_pipeline.reading import load_grid as load_area  # noqa: PLC0415 - see `load`

    return load_area(area, settings=settings)
