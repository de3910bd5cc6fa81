"""Published items as one stac-geoparquet table."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import rustac

from geostack_pipeline.errors import StorageError
from geostack_pipeline.publish.antimeridian import box_around, crosses
from geostack_pipeline.publish.schemas import STAC_VERSION

_TEMPLATE: dict[str, Any] = {
    "type": "Feature", "stac_version": STAC_VERSION, "stac_extensions": [], "id": "template", "collection": "none",
    "geometry": {"type": "Point", "coordinates": [0.0, 0.0]}, "bbox": [0.0, 0.0, 0.0, 0.0],
    "properties": {"datetime": "2000-01-01T00:00:00Z"}, "links": [], "assets": {},
}  # fmt: skip
"""Encoded in place of no items, and cut off again: an empty day is a table as well."""


def items_parquet(items: Sequence[dict[str, Any]]) -> bytes:
    """Return the items, by collection and id; the same items give the same bytes.

    Raises:
        StorageError: The temporary folder cannot be written, or the table is not what was put in.
    """
    ordered = sorted(items, key=lambda item: (item["collection"], item["id"]))
    with tempfile.TemporaryDirectory(prefix="geostack-") as folder:
        path = Path(folder, "items.parquet")
        try:
            rustac.write_sync(str(path), ordered or [_TEMPLATE], parquet_compression="uncompressed")
            with pq.ParquetFile(path) as file:
                table = file.read(use_threads=False)
                metadata = file.metadata.metadata or {}
        except OSError as error:
            raise StorageError(
                "the published items cannot be written",
                subject=f"temporary folder {tempfile.gettempdir()}",
                found=str(error),
                action="free space there, or set TMPDIR to another folder",
            ) from error
    kept = {key: metadata[key] for key in (b"geo", b"stac-geoparquet") if key in metadata}
    table = table.replace_schema_metadata({**kept, b"geo": _geo(kept[b"geo"], ordered)})
    table = table if ordered else table.slice(1)
    if table.column("id").to_pylist() != [item["id"] for item in ordered]:
        raise StorageError(
            "the table of published items lost or reordered rows",
            subject=f"{len(ordered)} items",
            action="report this as a defect of the publication",
        )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _geo(written: bytes, items: Sequence[dict[str, Any]]) -> bytes:
    """Return the format's metadata; of items across the antimeridian with what GeoParquet 1.1 says of those.

    Boxes have west > east then, of a row and of the file.  The rows' boxes are no covering: a reader that takes them for
    one compares numbers and would miss these rows.
    """
    boxes = [item["bbox"] for item in items]
    if not any(map(crosses, boxes)):
        return written
    geo: dict[str, Any] = json.loads(written)
    column = geo["columns"][geo["primary_column"]]
    column["bbox"] = box_around(boxes)
    column.pop("covering", None)
    return json.dumps(geo, separators=(",", ":")).encode()
