"""How the files of a version become data: parquet to polars, Zarr to a lazy ``xarray.DataTree``.

polars, xarray and zarr are imported when something is opened: a planner that compares versions
should not pay seconds for them.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.roots import reopen

if TYPE_CHECKING:
    import polars as pl
    import xarray as xr

    from geostack_pipeline.storage.snapshot import Snapshot

_TREE = "tree.zarr"


def open_named(snapshot: Snapshot, name: str | None) -> Any:
    """Return a version's table (``polars.DataFrame``) or tree (``xarray.DataTree``); see ``Snapshot.open``."""
    if name is None:
        name = "tree" if snapshot.kind == "tree" else snapshot.asset.rsplit("/", 1)[-1]
    tables = _tables(snapshot, name)
    if tables:
        return _open_tables(snapshot, tables)
    if f"{name}.zarr/zarr.json" in snapshot.files:
        return _open_tree(snapshot, f"{name}.zarr")
    if f"{_TREE}/{name}/zarr.json" in snapshot.files:
        return _open_tree(snapshot, f"{_TREE}/{name}")
    raise snapshot.missing(f"table or tree {name!r}")


def _tables(snapshot: Snapshot, name: str) -> list[str]:
    """Return the parquet files of a table, in the order they were numbered."""
    whole = f"{name}.parquet"
    if whole in snapshot.files:
        return [whole]
    start = f"{name}-"
    parts = [path for path in snapshot.files if path.startswith(start) and path.endswith(".parquet")]
    return sorted((path for path in parts if "/" not in path), key=lambda path: (len(path), path))


def _open_tables(snapshot: Snapshot, paths: list[str]) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415 - see the module's docstring

    frames = []
    for path in paths:
        data = snapshot.read(path)
        try:
            frames.append(pl.read_parquet(io.BytesIO(data)))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise snapshot.damaged(f"{path} is no readable parquet: {error}"[:300]) from error
    # Relaxed: a column that is all null in one file has no type there, and structs gain fields.
    return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")


def _open_tree(snapshot: Snapshot, path: str) -> xr.DataTree:
    import xarray as xr  # noqa: PLC0415 - see the module's docstring
    from zarr.storage import ObjectStore  # noqa: PLC0415

    root = reopen(snapshot.root_url)
    key = snapshot.key(path)
    if root.path is not None and not (root.path / key).is_dir():
        raise snapshot.damaged(f"{path} is gone")
    store = ObjectStore(root.prefixed(key), read_only=True)
    with storage_errors(root.describe(key), "opening a tree"):
        return xr.open_datatree(store, engine="zarr", chunks=None)  # type: ignore[arg-type]
