"""Ledger: what each run asked and moved for a date, per provider and host.

The numbers of a run are no part of what it made: the same inputs give the same version however often they were fetched.
So they have a table of their own, ``<provider>/ledger`` by date, that only grows: every run adds its rows to those that
are there and moves the pointer only if nobody else did meanwhile; otherwise it begins again with the winner's rows.
Old versions hold nothing that the new one lacks, so ``gc`` may take them.

A run that is killed leaves no rows of the date it was working on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Literal

import polars as pl

from geostack_pipeline.errors import GeostackError, StorageError
from geostack_pipeline.providers import logins
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.digest import version_of

NAME = "ledger"
CODE_VERSION = "1"

Purpose = Literal["search", "login", "fetch"]

SCHEMA: Mapping[str, Any] = {
    "run": pl.String,
    "recorded_at": pl.Datetime("us", "UTC"),
    "purpose": pl.String,
    "host": pl.String,
    "requests": pl.Int64,
    "bytes_moved": pl.Int64,
    "cache_hits": pl.Int64,
    "fetched": pl.Int64,
}
"""``host`` is a host, or the bucket or container that was read; ``bytes_moved`` is null where a client did not show
them; ``cache_hits`` and ``fetched`` count objects."""

_MOST_TRIES = 30
_PAUSE_S = 0.02


@contextmanager
def recording(ws: Workspace, provider: str, day: str, purpose: Purpose) -> Iterator[Traffic]:
    """Count what the block moves and add it to the date's ledger, also when the block fails.

    Raises:
        StorageError: The ledger cannot be written.
    """
    traffic = Traffic()
    try:
        yield traffic
    except BaseException:
        # What went wrong matters more than that it could not be written down.
        with contextlib.suppress(GeostackError):
            append(ws, provider, day, _rows(ws, purpose, traffic))
        raise
    append(ws, provider, day, _rows(ws, purpose, traffic))


def append(ws: Workspace, provider: str, day: str, rows: pl.DataFrame) -> None:
    """Add rows to a date's ledger; none changes nothing."""
    if not rows.height:
        return
    asset = asset_name(provider, NAME)
    for turn in range(_MOST_TRIES):
        before = ws.artifacts.pointer(asset, day)
        stored = None if before is None else ws.artifacts.find(asset, day, before.version)
        frame = rows if stored is None else pl.concat([stored.open(), rows])
        target = version_of(
            {"code": CODE_VERSION, "rows": [[str(cell) for cell in row] for row in frame.rows()]}
        )
        with ws.artifacts.begin(
            asset, day, target, kind="table", code_version=CODE_VERSION, upstream={}
        ) as attempt:
            attempt.put(f"{NAME}.parquet", parquet_bytes(frame))
            snapshot = attempt.commit(
                meta={
                    "rows": frame.height,
                    "requests": int(frame["requests"].sum()),
                    "bytes_moved": int(frame["bytes_moved"].sum()),
                }
            )
        if ws.artifacts.replace(snapshot, before, run_id=ws.run_id):
            return
        time.sleep(_PAUSE_S * min(turn + 1, 10))
    raise StorageError(
        "its ledger could not be written",
        subject=f"{asset} {day}",
        found=f"other runs wrote it {_MOST_TRIES} times in between",
        action="run again when fewer runs work on this date",
        retryable=True,
    )


def read(ws: Workspace, provider: str, day: str) -> pl.DataFrame:
    """Return all rows of a date, the oldest run first; none where nothing was ever moved for it."""
    snapshot = ws.artifacts.current(asset_name(provider, NAME), day)
    frame: pl.DataFrame = pl.DataFrame(schema=SCHEMA) if snapshot is None else snapshot.open()
    return frame


def _rows(ws: Workspace, purpose: Purpose, traffic: Traffic) -> pl.DataFrame:
    now = ws.now()
    rows: list[tuple[Any, ...]] = [
        (
            ws.run_id,
            now,
            purpose,
            host,
            counts.requests,
            None if counts.unseen else counts.moved,
            counts.hits,
            counts.fetched,
        )
        for host, counts in sorted(traffic.stores.items())
        if counts.requests or counts.hits or counts.fetched
    ]
    rows += [_login(ws.run_id, now, host, *seen) for host, seen in sorted(logins.take().items())]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _login(run: str | None, now: datetime, host: str, requests: int, size: int) -> tuple[Any, ...]:
    return (run, now, "login", host, requests, size, 0, 0)
