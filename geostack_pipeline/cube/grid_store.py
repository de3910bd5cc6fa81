"""Grids of areas as they are stored: written once per area, read by all providers from then on.

The failure: a grid is computed anew at each use, a newer PROJ projects a corner across a pixel's edge, and from that
day on the cubes of an area lie on another grid than those before.  The rule: whoever needs a grid first writes it by
one create-only put, whose loser takes the winner's, and nobody ever replaces it.  The key is a digest of what the grid is
computed from, so that an area that was changed gets another file, and one that is changed back finds its first.

::

    grids/<area>/<digest of the definition>.json
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyproj

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.grid import SNAP, GridSpec, grid_for
from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.digest import canonical_json, version_of
from geostack_pipeline.storage.failures import storage_errors
from geostack_pipeline.storage.layout import GRIDS, check_part
from geostack_pipeline.storage.local import create_flushed
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import FORMAT, read_document, unreadable


def grid_key(area: Area) -> str:
    """Return the key in the root of an area's grid."""
    return f"{_folder(area.name)}/{version_of(_definition(area))}.json"


def stored_grid(root: Root, area: Area) -> GridSpec | None:
    """Return the grid that is stored for an area as it is defined now; None where there is none.  One read.

    Raises:
        StorageError: The file is damaged, or belongs to another area; it is named.
    """
    key = grid_key(area)
    try:
        data = root.read(key)
    except FileNotFoundError:
        return None
    return _decoded(data, area, root.describe(key))


def settled_grid(root: Root, area: Area) -> GridSpec:
    """Return the grid that is stored for an area, computing and storing it where there is none.

    Writers that come at the same time get the same grid, whatever each of them computed.

    Raises:
        SettingsError: The area has no grid (see :func:`~geostack_pipeline.cube.grid.grid_for`).
        StorageError: The file cannot be read or written, is damaged, or belongs to another area.
    """
    known = stored_grid(root, area)
    if known is not None:
        return known
    grid = grid_for(area)
    key = grid_key(area)
    if _create(root, key, _encoded(area, grid)):
        return grid
    winner = stored_grid(root, area)
    if winner is None:
        raise StorageError(
            "the grid that another writer stored was removed at once",
            subject=f"grid of area {area.name}",
            found=f"no {root.describe(key)}",
            action="find out what removes files below the root, then run again",
            retryable=True,
        )
    return winner


def definitions(root: Root, area: str) -> list[str]:
    """Return the keys of all grids that an area of this name ever had in the root, sorted."""
    folder = _folder(area)
    return [f"{folder}/{name}" for name in root.folders(folder)[1] if name.endswith(".json")]


def _folder(area: str) -> str:
    return f"{GRIDS}/{check_part(area, 'area name')}"


def _create(root: Root, key: str, data: bytes) -> bool:
    if root.path is None:
        return root.create(key, data)
    # Flushed before it has its name: a file cut by a lost power supply would stop every run that follows.
    with storage_errors(root.describe(key), "writing"):
        return create_flushed(root.path / key, data)


def _definition(area: Area) -> dict[str, Any]:
    """Return what a grid is computed from, and nothing else of an area: its numbers as floats, however they were written."""
    return {
        "bbox": [float(edge) + 0.0 for edge in area.bbox],  # no negative zero: it is the same place
        "crs": area.crs,
        "resolution": float(area.resolution_m),
        "snap": SNAP,
    }


def _encoded(area: Area, grid: GridSpec) -> bytes:
    content = {"area": area.name, "definition": _definition(area), "grid": grid.as_dict()}
    # For whoever wonders later why another release computes another grid.
    made_with = {"proj": pyproj.proj_version_str, "pyproj": pyproj.__version__}
    return canonical_json(
        {"format": FORMAT, **content, "digest": version_of(content), "made_with": made_with}
    )


def _decoded(data: bytes, area: Area, url: str) -> GridSpec:
    subject = f"grid of area {area.name}"
    document = read_document(data, subject, url)
    try:
        content = {name: document[name] for name in ("area", "definition", "grid")}
        if document["digest"] != version_of(content):
            raise unreadable(subject, url, "another content than its digest says: it was edited or damaged")
        if (content["area"], content["definition"]) != (area.name, _definition(area)):
            found = f"the grid of area {content['area']!r} with {content['definition']}"
            raise unreadable(subject, url, found[:300])
        return _spec(content["grid"])
    except (KeyError, TypeError, ValueError) as error:
        raise unreadable(subject, url, f"{type(error).__name__}: {error}") from error


def _spec(grid: Mapping[str, Any]) -> GridSpec:
    a, b, c, d, e, f = (float(number) for number in grid["transform"])
    return GridSpec(
        crs=str(grid["crs"]),
        transform=(a, b, c, d, e, f),
        width=int(grid["width"]),
        height=int(grid["height"]),
    )
