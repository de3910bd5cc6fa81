"""What an asset's page shows of a date: where it lies, how much it holds, a table and a picture."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl
from PIL import Image

from geostack_pipeline.stages import champion_model, cube, methane, published
from geostack_pipeline.stages.columns import first_columns
from geostack_pipeline.stages.workspace import Outcome
from geostack_pipeline.storage.snapshot import Snapshot

TABLE_ROWS = 8
UNPARTITIONED = "all"
"""What the store calls the one partition of an asset without partitions."""
INLINE_CHARACTERS = 1000
"""Markdown of this length or more is hidden behind a link in the UI; the rows of a table stay below it."""
PICTURE_PIXELS = 560
"""Longest side of a picture in the event log; the full one lies beside the data."""
PICTURE_QUALITY = 80
"""WebP: 16 kB for a quicklook, a quarter of a PNG with a palette, which also loses the rare colours of a plume."""


def day_metadata(stage: str, outcome: Outcome) -> dict[str, Any]:
    """Return the metadata of one finished date."""
    snapshot = outcome.snapshot
    entries: dict[str, Any] = {
        "dagster/uri": dg.MetadataValue.path(snapshot.url())
        if _is_local(snapshot)
        else dg.MetadataValue.url(snapshot.url()),
        "version": snapshot.version,
        "reused": outcome.reused,
    }
    rows = snapshot.meta.get("rows")
    if isinstance(rows, int):
        entries["dagster/row_count"] = rows
    table = _table(stage, snapshot)
    if snapshot.kind == "table":
        entries["dagster/column_schema"] = _schema(table)
        table = first_columns(table, stage)
    if table.height:
        entries["table"] = dg.MetadataValue.md(markdown(table))
    picture = _picture(snapshot)
    if picture is not None:
        entries["picture"] = dg.MetadataValue.md(f"![{stage} {snapshot.partition}]({data_uri(picture)})")
    if published.REPORT in snapshot.files:
        # A browser opens no file from a page of a server: the path is there to be copied.
        place = snapshot.local_path(published.REPORT)
        entries["report"] = (
            dg.MetadataValue.url(snapshot.url(published.REPORT))
            if place is None
            else dg.MetadataValue.path(str(place))
        )
    entries |= lineage_metadata(snapshot)
    for key in ("rejected", "dropped", "skipped", "plumes", "members", "matched", "fields", "rates"):
        if isinstance(snapshot.meta.get(key), int):
            entries[key] = snapshot.meta[key]
    stores = outcome.stats.get("stores")
    if stores:
        entries["run/hosts"] = dg.MetadataValue.md(markdown(pl.DataFrame(_by_host(stores))))
    for key, value in outcome.stats.items():
        if key == "stores":
            continue
        # A number that the artifact itself tells, or an empty list, says nothing about the run.
        if value in (None, "", [], {}) or entries.get(key) == value:
            continue
        entries[f"run/{key}"] = value if isinstance(value, int | float | str) else str(value)
    return entries


_MOST_LINKS = 12


def lineage_metadata(snapshot: Snapshot) -> dict[str, Any]:
    """Return what a version was made from, as links to the pages of these assets, and the plume model among it."""
    entries: dict[str, Any] = {}
    if snapshot.upstream:
        lines = []
        for name, version in list(snapshot.upstream.items())[:_MOST_LINKS]:
            asset, _, partition = name.rpartition("/")
            query = "" if partition == UNPARTITIONED else f"?partition={partition}"
            lines.append(f"- [{name.removesuffix(f'/{UNPARTITIONED}')}](/assets/{asset}{query}) {version}")
        if len(snapshot.upstream) > _MOST_LINKS:
            lines.append(f"- {len(snapshot.upstream) - _MOST_LINKS} more")
        entries["made from"] = dg.MetadataValue.md("\n".join(lines))
    if snapshot.meta.get("model_version"):
        entries["model"] = dg.MetadataValue.asset(dg.AssetKey([champion_model.NAME]))
        entries["model version"] = str(snapshot.meta["model_version"])
    return entries


def _by_host(stores: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """Return what the run moved for this date, one row per host or bucket."""
    names = {"requests": "requests", "bytes": "bytes_moved", "cache hits": "cache_hits", "fetched": "fetched"}
    return [
        {"host": host, **{title: counts[name] for title, name in names.items()}}
        for host, counts in stores.items()
    ]


def markdown(frame: pl.DataFrame) -> str:
    """Return the first rows of a frame as a Markdown table, short enough to be shown in place; cells are escaped."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    length = sum(len(line) + 1 for line in lines) + len(_more(frame.height))
    shown = 0
    for row in frame.head(TABLE_ROWS).iter_rows():
        line = "| " + " | ".join(_cell(value) for value in row) + " |"
        length += len(line) + 1
        if shown and length >= INLINE_CHARACTERS:
            break
        lines.append(line)
        shown += 1
    if frame.height > shown:
        lines.append(_more(frame.height - shown))
    return "\n".join(lines)


def _more(rows: int) -> str:
    return f"\n{rows} more row(s)"


_ACTIVE = re.compile(r"([\\`*_~\[\]<>&|])")
"""What Markdown could make an image, a link or a tag of: a catalog's text must not make the browser ask anyone."""


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, datetime):
        utc = value.astimezone(UTC) if value.tzinfo else value
        return utc.strftime("%Y-%m-%dT%H:%M:%S")
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return _ACTIVE.sub(r"\\\1", " ".join(str(value).split()))


def _table(stage: str, snapshot: Snapshot) -> pl.DataFrame:
    if stage == cube.NAME:
        return cube.summary(snapshot)
    if stage == methane.NAME:
        return methane.summary(snapshot)
    frame: pl.DataFrame = snapshot.open()
    return frame


def _schema(frame: pl.DataFrame) -> dg.MetadataValue:
    return dg.MetadataValue.table_schema(
        dg.TableSchema([dg.TableColumn(name, type=_type(dtype)) for name, dtype in frame.schema.items()])
    )


def _type(dtype: pl.DataType) -> str:
    text = str(dtype)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _picture(snapshot: Snapshot) -> bytes | None:
    names = sorted(
        path
        for path in snapshot.files
        if path == "preview.png" or path.startswith("quicklook-") or path.endswith("/quicklook.png")
    )
    return thumbnail([snapshot.read(name) for name in names[:2]]) if names else None


def thumbnail(pictures: list[bytes]) -> bytes:
    """Return pictures side by side in one WebP, small enough for an event log."""
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures]
    for image in opened:
        image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    sheet = Image.new(
        "RGB", (sum(image.width for image in opened), max(image.height for image in opened)), "white"
    )
    left = 0
    for image in opened:
        sheet.paste(image, (left, 0))
        left += image.width
    buffer = io.BytesIO()
    sheet.save(buffer, format="WEBP", quality=PICTURE_QUALITY)
    return buffer.getvalue()


def data_uri(webp: bytes) -> str:
    """Return a WebP picture as a data URI, which the UI shows without asking anyone."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def _is_local(snapshot: Snapshot) -> bool:
    return snapshot.url().startswith("file:")
