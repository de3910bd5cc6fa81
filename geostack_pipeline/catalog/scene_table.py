"""Scene lists as stac-geoparquet, and back, without losing anything.

rustac encodes the items (one column per property, WKB footprints, structs of assets).  It
takes column types from the items at hand, so that a day without a single orbit number has
no such column, or one of type null.  Each chunk is therefore encoded behind the provider's
template item, which has a value in every column, and the template's row is cut off again:
every day has the same columns with the same types, an empty day too.

Two things do not survive that encoding and are carried by one more column,
``geostack:exact``: microseconds (time columns hold milliseconds), and nothing else that
the check after writing has found.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import rustac

from geostack_pipeline.catalog.diff import differences
from geostack_pipeline.catalog.scene_check import holds
from geostack_pipeline.errors import CatalogError, StorageError
from geostack_pipeline.providers.coerce import format_time, parse_time
from geostack_pipeline.providers.contract import CANONICAL_PROPERTIES, Item

CHUNK = 500
"""Items encoded at once; bounds the memory."""

EXACT = "geostack:exact"
"""Column with the times that milliseconds cannot hold: a JSON object, property -> time."""

TIMES = (
    "datetime",
    "created",
    "updated",
    "start_datetime",
    "end_datetime",
    "published",
    "expires",
    "unpublished",
)
"""Properties that stac-geoparquet holds as timestamps; rustac writes milliseconds."""

_SCALARS = frozenset({str, float, int, bool})
_FORMAT_KEYS = (b"geo", b"stac-geoparquet")


def canonical_digest(items: Sequence[Item]) -> str:
    """Return the sha256 (64 hex digits) of the canonical rows, in the order of id and collection.

    Independent of the order of the items and of members within them; the content-addressed
    version of a scene list.
    """
    digest = hashlib.sha256()
    for item in _ordered(items):
        digest.update(_line(item))
    return digest.hexdigest()


def to_parquet(items: Sequence[Item], template: Item) -> dict[str, bytes]:
    """Return the scene list as stac-geoparquet files: name -> bytes.

    One file, ``scenes.parquet``, when all items fit the columns of the template; otherwise
    ``scenes-0.parquet``, ``scenes-1.parquet`` … with items of compatible types in each (columns
    with another type than the template's have nowhere else to go).  No items give a table
    with zero rows, all columns and the format's metadata.  Identical items give identical
    bytes with the same versions of rustac and pyarrow.

    Args:
        items: Canonical items, in any order; written in the order of id and collection.
        template: A canonical item with a value in every canonical column.

    Raises:
        CatalogError: An item cannot be encoded, or reading back gives another row: the message names it.
        StorageError: The temporary folder cannot be written.
    """
    groups = _groups(_ordered(items), template)
    names = (
        ["scenes.parquet"]
        if len(groups) == 1
        else [f"scenes-{index}.parquet" for index in range(len(groups))]
    )
    files: dict[str, bytes] = {}
    for name, group in zip(names, groups, strict=True):
        rows = [_with_exact(item) for item in group.items]
        data = _encode(group, rows)
        _verify(group, rows, data)
        files[name] = data
    return files


def from_parquet(data: bytes) -> list[Item]:
    """Return the canonical items of a scene list, in its order."""
    file = pq.ParquetFile(io.BytesIO(data))
    return [
        item
        for batch in file.iter_batches(batch_size=CHUNK)
        for item in items_of(pa.Table.from_batches([batch]))
    ]


def items_of(table: pa.Table) -> list[Item]:
    """Return the canonical items of rows of a scene table, in their order."""
    if table.num_rows == 0:
        return []
    return [_restored(item) for item in rustac.from_arrow(_compact(table))["features"]]


def _compact(table: pa.Table) -> pa.Table:
    """Return a table with no more in its buffers than its rows: rustac panics on slices of nested columns."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


# -- writing --------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Items whose values have compatible types."""

    items: list[Item]
    kinds: dict[str, str]
    """Path -> column type, of all items so far."""
    template: Item | None
    """The template, where these items share its columns' types."""
    exactly: bool
    """Whether the items have no column that the template has not, and no null but for missing canonical properties."""

    def take(self, item: Item, kinds: Mapping[str, str]) -> bool:
        """Add an item if none of its values has another type than here."""
        if any(self.kinds.get(path, kind) != kind for path, kind in kinds.items()):
            return False
        self.items.append(item)
        self.kinds.update(kinds)
        return True


def _groups(items: list[Item], template: Item) -> list[_Group]:
    if all(_fits(item, template) for item in items):
        return [_Group(items, {}, template, exactly=True)]
    groups = [_Group([], dict(_kinds(template)), template, exactly=False)]
    for item in items:
        kinds = dict(_kinds(item))
        if not any(group.take(item, kinds) for group in groups):
            group = _Group([], {}, None, exactly=False)
            group.take(item, kinds)
            groups.append(group)
    return [group for group in groups if group.items]


def _fits(value: Any, sample: Any, nullable: Container[str] = ()) -> bool:
    """Return whether every value stands where the template has one of the same type. Plain loops: it is called often.

    Nulls are the members named ``nullable``, and the canonical ones among an item's properties.
    """
    kind = type(value)
    if kind is not type(sample):
        return False
    if kind is dict:
        for key, member in value.items():
            if key in {"geometry", "bbox"} or (member is None and key in nullable):
                continue
            known = sample.get(key)
            if type(member) in _SCALARS:
                if type(member) is not type(known):
                    return False
            elif not _fits(member, known, CANONICAL_PROPERTIES if key == "properties" else ()):
                return False
    elif kind is list:
        known = sample[0] if sample else None
        if type(known) in _SCALARS:
            return {*map(type, value)} <= {type(known)}
        for element in value:
            if not _fits(element, known):
                return False
    # a null where none may be: the format would drop it
    return value is not None


def _kinds(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the paths of all values with their column types; elements of a list share one path."""
    if value is None or path in {"/geometry", "/bbox"}:
        return
    if isinstance(value, dict):
        yield path, "object"
        for key, member in value.items():
            yield from _kinds(member, f"{path}/{key}")
    elif isinstance(value, list):
        yield path, "list"
        for element in value:
            yield from _kinds(element, f"{path}/*")
    elif isinstance(value, bool):
        yield path, "bool"
    elif isinstance(value, int | float):
        yield path, "number"
    else:
        yield path, "text"


def _encode(group: _Group, rows: Sequence[Item]) -> bytes:
    """Return one parquet file with the items; chunk by chunk where the template fixes all columns."""
    items = group.items
    # columns beyond the template's: all items must be seen before the schema is known
    size = CHUNK if group.exactly else max(1, len(items))
    sink = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    for start in range(0, max(1, len(items)), size):
        table = _table(rows[start : start + size], group.template)
        if writer is None:
            schema = table.schema.with_metadata(_metadata(table, items))
            writer = pq.ParquetWriter(sink, schema, compression="zstd", compression_level=3)
        writer.write_table(table.replace_schema_metadata(schema.metadata))
    assert writer is not None
    writer.close()
    return sink.getvalue()


def _table(rows: Sequence[Item], template: Item | None) -> pa.Table:
    """Return the rows as rustac encodes them, with the template's columns."""
    first = [] if template is None else [{**_with_exact(template), "id": "template"}]
    with tempfile.TemporaryDirectory(prefix="geostack-") as folder:
        path = Path(folder, "scenes.parquet")
        try:
            rustac.write_sync(str(path), [*first, *rows], parquet_compression="uncompressed")
            with pq.ParquetFile(path) as file:
                # one thread: dates are written side by side
                table = file.read(use_threads=False)
                metadata = file.metadata.metadata or {}
        except OSError as error:
            raise StorageError(
                "the scene table cannot be written",
                subject=f"temporary folder {tempfile.gettempdir()}",
                found=str(error),
                action="free space there, or set TMPDIR to another folder",
            ) from None
        except rustac.RustacError as error:
            raise CatalogError(
                "the scene table cannot be encoded",
                subject=f"{len(rows)} items from {rows[0]['id'] if rows else 'the template'}",
                found=str(error)[:200],
                action="report the item: the provider's normalisation lets something through that it should not",
            ) from None
    table = table.replace_schema_metadata({key: metadata[key] for key in _FORMAT_KEYS})
    if template is not None:
        table = table.slice(1)
    if table.column("id").to_pylist() != [row["id"] for row in rows]:
        raise CatalogError("the scene table lost or reordered rows", subject=f"{len(rows)} items")
    return table


def _metadata(table: pa.Table, items: Sequence[Item]) -> dict[bytes, bytes]:
    """Return the format's metadata with the footprints' own extent: rustac counted the template's too."""
    metadata = dict(table.schema.metadata)
    geo = json.loads(metadata[b"geo"])
    column = geo["columns"][geo["primary_column"]]
    column["geometry_types"] = sorted({item["geometry"]["type"] for item in items})
    column.pop("bbox", None)
    boxes = [item["bbox"] for item in items]
    if boxes and all(box[0] <= box[2] for box in boxes):
        low = [min(box[axis] for box in boxes) for axis in (0, 1)]
        high = [max(box[axis] for box in boxes) for axis in (2, 3)]
        column["bbox"] = [*low, *high]
    metadata[b"geo"] = json.dumps(geo, sort_keys=True, separators=(",", ":")).encode()
    return metadata


def _with_exact(item: Item) -> Item:
    """Return an item with the times that need it in the column for exact times."""
    properties = item["properties"]
    exact = {
        name: properties[name]
        for name in TIMES
        if isinstance(properties.get(name), str) and not _fits_milliseconds(properties[name])
    }
    if item["id"] == "template":
        exact = {"datetime": "text"}
    if not exact:
        return item
    return {**item, "properties": {**properties, EXACT: json.dumps(exact, sort_keys=True)}}


def _fits_milliseconds(text: str) -> bool:
    moment = parse_time(text)
    return moment is not None and moment.microsecond % 1000 == 0 and format_time(moment) == text


# -- reading --------------------------------------------------------------------------------------


def _restored(item: Mapping[str, Any]) -> Item:
    """Return an item as it was before encoding: rustac leaves out nulls and empty lists and rewrites times."""
    # a struct without a value comes back as null
    properties = {name: value for name, value in item["properties"].items() if value is not None}
    for name in TIMES:
        moment = parse_time(properties.get(name))
        if moment is not None:
            properties[name] = format_time(moment)
    exact = properties.pop(EXACT, None)
    if exact is not None:
        properties |= json.loads(exact)
    for name in CANONICAL_PROPERTIES:
        properties.setdefault(name, None)
    return {
        "type": "Feature",
        # rustac states the version it knows, not the one the items were written in
        "stac_version": "1.0.0",
        "stac_extensions": list(item.get("stac_extensions") or []),
        "id": item["id"],
        "collection": item["collection"],
        "geometry": item["geometry"],
        "bbox": list(item["bbox"]),
        "properties": dict(sorted(properties.items())),
        "links": list(item.get("links") or []),
        "assets": {
            # an object inside an asset that it lacks comes back as null, too
            key: {name: value for name, value in asset.items() if value is not None}
            for key, asset in sorted(item["assets"].items())
            if asset is not None
        },
    }


def _verify(group: _Group, rows: Sequence[Item], data: bytes) -> None:
    """Read the file back and compare every row: the format must not drop or change a value.

    Rows with the template's columns are compared column by column, and one of each chunk also as
    it is read; where that leaves a doubt, and for all other rows, the items are rebuilt and compared.
    """
    file = pq.ParquetFile(io.BytesIO(data))
    if file.metadata.num_rows != len(group.items):
        raise CatalogError(
            "the scene table has another number of rows than items",
            subject=f"{len(group.items)} items",
            found=f"{file.metadata.num_rows} rows",
        )
    start = 0
    for index in range(file.num_row_groups):
        table = file.read_row_group(index, use_threads=False)
        part = slice(start, start + table.num_rows)
        items = group.items[part]
        if group.exactly and holds(table, rows[part]):
            items = items[:1]
        for first in range(0, len(items), CHUNK):
            some = items[first : first + CHUNK]
            _compare(some, items_of(table.slice(first, len(some))))
        start = part.stop


def _compare(items: Sequence[Item], read: Sequence[Item]) -> None:
    for before, after in zip(items, read, strict=True):
        # text against text: 1, 1.0 and true are equal in Python, but not the same row
        if _line(before) == _line(after):
            continue
        change = next(differences(before, after), ("a type or a null", (None, None)))
        raise CatalogError(
            "the scene table would change a value",
            subject=f"item {before['id']}",
            found=f"{change[0]} was {str(change[1][0])[:80]!r}, reads {str(change[1][1])[:80]!r}",
            action="report the item: the provider's normalisation lets something through that the format cannot hold",
        )


def _line(item: Item) -> bytes:
    """Return a row's canonical JSON: what ``storage.digest.canonical_json`` gives for plain dicts and lists, in a third of the time."""
    text = json.dumps(item, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _ordered(items: Sequence[Item]) -> list[Item]:
    return sorted(items, key=lambda item: (item["id"], item["collection"]))
