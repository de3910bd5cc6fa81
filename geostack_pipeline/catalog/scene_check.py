"""Whether a scene table holds exactly these rows, asked of its columns.

Rebuilding the items of a table costs as much as encoding them did.  Here pyarrow, which had no part in
encoding, builds each column anew from the items, and whole columns are compared: the same question
in a fifth of the time, and a second opinion on the encoder.  The answer is cautious: whatever columns
cannot show is a no, and then the items must be rebuilt and compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import shapely

from geostack_pipeline.providers.contract import CANONICAL_PROPERTIES, Item

_MEMBERS = frozenset({"id", "collection", "stac_extensions", "links", "assets"})
"""Columns that hold a member of the item; the others hold properties."""


def holds(table: pa.Table, rows: Sequence[Item]) -> bool:
    """Return whether a table certainly holds these rows, in their order.

    Says nothing about members without a column, nor about nulls inside of assets and links, which look
    like missing members in a column: the caller answers for these.

    Args:
        table: Read from the file, with the encoder's columns.
        rows: Canonical items as they went to the encoder.
    """
    if table.num_rows != len(rows):
        return False
    try:
        return all(map(_plain, rows)) and all(
            _holds_column(name, column, rows)
            for name, column in zip(table.column_names, table.columns, strict=True)
        )
    except (pa.ArrowException, LookupError, TypeError, ValueError, OverflowError, shapely.GEOSException):
        # a value that pyarrow cannot put into the column: the slow comparison says which
        return False


def _plain(row: Item) -> bool:
    return (
        bool(row["type"] == "Feature")
        # not read back: reading states it
        and row["stac_version"] == "1.0.0"
        and row["properties"].keys() >= CANONICAL_PROPERTIES.keys()
    )


def _holds_column(name: str, column: pa.ChunkedArray, rows: Sequence[Item]) -> bool:
    if name in {"type", "stac_version"}:
        return bool(column.null_count == 0)
    if name == "assets" and any(map(_has_empty_list, column.chunks)):
        # rustac does not read back all of them
        return False
    expected = _expected(name, column.type, rows)
    return bool(column.equals(pa.chunked_array([expected])))


def _expected(name: str, kind: pa.DataType, rows: Sequence[Item]) -> pa.Array:
    """Return the column that these rows must give."""
    if name == "geometry":
        texts = [json.dumps(row["geometry"]) for row in rows]
        return pa.array(shapely.to_wkb(shapely.from_geojson(texts)), type=kind)
    if name == "bbox":
        names = [field.name for field in kind]
        return pa.array([dict(zip(names, row["bbox"], strict=True)) for row in rows], type=kind)
    if name == "stac_extensions":
        # written as null, read as none
        return pa.array([row[name] or None for row in rows], type=kind)
    if name in _MEMBERS:
        return pa.array([row[name] for row in rows], type=kind)
    values = [row["properties"].get(name) for row in rows]
    if pa.types.is_timestamp(kind):
        # what does not fit is in the column for exact times
        return pc.cast(pa.array(values, pa.string()), pa.timestamp("us", "UTC")).cast(kind, safe=False)
    return pa.array(values, type=kind)


def _has_empty_list(array: pa.Array) -> bool:
    return any(
        pc.min(pc.list_value_length(part)).as_py() == 0
        for part in _parts(array)
        if pa.types.is_list(part.type)
    )


def _parts(array: pa.Array) -> Iterator[pa.Array]:
    """Yield an array and the arrays within it."""
    yield array
    if pa.types.is_struct(array.type):
        for field in array.flatten():
            yield from _parts(field)
    elif pa.types.is_list(array.type):
        yield from _parts(array.flatten())
