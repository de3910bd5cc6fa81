"""Plumes: the methane candidates of a date over all providers, one row per physical plume.

Several catalogs publish the same scene, neighbouring scenes of one overpass overlap, and granules cut what lies on their
edges, so one plume may have several candidates (:mod:`~geostack_pipeline.stages.plumes_links` says which).  What is linked,
also by way of others, is one row, and every candidate is kept as a member.  Of the same ground the best candidate stands
for the plume; parts on both sides of a granule's edge are put together
(:mod:`~geostack_pipeline.stages.plumes_parts`).

Each row and each candidate gets its emission rate here, from the wind that the settings name, or the reason why it has
none.  The version is addressed by the methane versions of the date (a provider without one is left out, and its name
noted) and by the wind's records near it: a new wind makes new rates, and no new retrieval; another month in the same
file changes nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geostack_pipeline.errors import GeostackError, IntegrityError
from geostack_pipeline.methane.plume_table import concat_plumes, geo_metadata, plume_schema, to_geoparquet
from geostack_pipeline.methane.rates import with_rate
from geostack_pipeline.methane.wind import Box, WindLimits, WindRecords
from geostack_pipeline.settings import Settings, WindSettings
from geostack_pipeline.stages import cube, granules, methane
from geostack_pipeline.stages.plumes_links import (
    MOSAICS,
    SAME_PASS_S,
    Candidate,
    are_parts,
    one_map,
    pass_of,
    same_pass_parts,
    same_plume,
)
from geostack_pipeline.stages.plumes_parts import together
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, parse_day
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "plumes"
CODE_VERSION = "5"

Rating = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Gives a plume row its emission rate, or the reason why it has none."""
_MOST_TURNS = 5

_ROW_FIELDS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("representative", pa.string(), "plume_id of the member that the other columns are taken from"),
    (
        "part_ids",
        pa.list_(pa.string()),
        "plume_id of the members put together, the representative first: several where granules' edges cut the plume",
    ),
    ("members", pa.int64(), "number of candidates that are this plume"),
    ("member_ids", pa.list_(pa.string()), "plume_id of each member"),
    ("providers", pa.list_(pa.string()), "providers with a member"),
    ("scenes", pa.list_(pa.string()), "physical scenes under the members' outlines"),
)
_MEMBER_FIELDS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("plume", pa.string(), "plume_id of the row that this candidate belongs to"),
    ("representative", pa.bool_(), "whether the row shows this candidate"),
    ("scenes", pa.list_(pa.string()), "physical scenes under the outline"),
    ("version", pa.string(), "version of the provider's methane that holds the candidate"),
    ("node", pa.string(), "its node: the map on which the candidate was found"),
)


def providers(settings: Settings) -> tuple[str, ...]:
    """Return the configured providers whose scenes may show methane."""
    return tuple(key for key in settings.providers if settings.provider_spec(key).product.methane)


def detections(ws: Workspace, day: str) -> dict[str, Snapshot]:
    """Return the methane version of each provider that has one for the date."""
    found: dict[str, Snapshot] = {}
    for key in providers(ws.settings):
        asset = asset_name(key, methane.NAME)
        # A version that was lost is made anew by a run of its provider; the others must not wait for that.
        pinned = f"{asset}/{day}" in ws.pins
        snapshot = ws.current(asset, day) if pinned else ws.stored(asset, day)
        if snapshot is not None:
            found[key] = snapshot
    return found


def version(versions: Mapping[str, str], wind: Mapping[str, Any] | None = None) -> str:
    """Return the version that the methane versions of a date (provider -> version) and its wind lead to."""
    return version_of({"code": CODE_VERSION, "methane": dict(versions), "wind": wind})


def target(ws: Workspace, day: str, sources: Mapping[str, Snapshot]) -> str:
    """Return the version that the present methane of a date and its wind lead to.

    Raises:
        SettingsError: The wind that the settings name cannot be read.
    """
    wind = _wind(ws, day, sources)
    versions = {key: snapshot.version for key, snapshot in sources.items()}
    return version(versions, None if wind is None else _essence(ws, wind))


def _wind(ws: Workspace, day: str, sources: Mapping[str, Snapshot]) -> WindRecords | None:
    """Return the wind's records near a date; None where no wind is named, or no candidate asks for one."""
    if ws.wind is None or not any(snapshot.meta["plumes"] for snapshot in sources.values()):
        return None
    first = datetime.combine(parse_day(day), time.min, tzinfo=UTC)
    boxes = [box for snapshot in sources.values() for box in _boxes(snapshot)]
    return ws.wind.of(first, first + timedelta(days=1), boxes)


def _boxes(snapshot: Snapshot) -> list[Box]:
    """Return the bounds of the candidates of each node; granules are larger than areas, and so plumes may lie outside."""
    found = []
    for path in _tables_of(snapshot) if snapshot.meta["plumes"] else ():
        metadata = pq.read_schema(io.BytesIO(snapshot.read(path))).metadata
        west, south, east, north = json.loads(metadata[b"geo"])["columns"]["geometry"].get(
            "bbox", (None,) * 4
        )
        if west is not None:
            found.append((west, south, east, north))
    return found


def _tables_of(snapshot: Snapshot) -> list[str]:
    """Return the paths of the candidates' tables in a version of methane: one per node."""
    return [path for path in sorted(snapshot.files) if PurePosixPath(path).match("plumes*.parquet")]


def _essence(ws: Workspace, wind: WindRecords) -> dict[str, Any]:
    """Return what a wind says and how it is used; not where it lies."""
    own = ws.settings.wind or WindSettings(source="")
    limits = ws.wind.limits if ws.wind is not None else WindLimits()
    return {
        "digest": wind.digest,
        "source": wind.source,
        "max_hours": limits.max_hours,
        "max_distance_km": limits.max_distance_km,
        "relative_sigma": own.relative_sigma,
        "calm_m_s": own.calm_m_s,
        "calibration_sigma": own.calibration_sigma,
    }


def build(ws: Workspace, day: str) -> Outcome:
    """Count the plumes of one date over all providers.

    Raises:
        GeostackError: No provider has methane for the date.
    """
    turns = [_count(ws, day)]
    # Another provider's run may have moved on meanwhile and pointed first: whoever points last looks once more.
    while len(turns) < _MOST_TURNS and target(ws, day, detections(ws, day)) != turns[-1][0].version:
        turns.append(_count(ws, day))
    snapshot = turns[-1][0]
    return Outcome(snapshot=snapshot, reused=all(reused for _, reused in turns), checks=_checks(ws, snapshot))


def _count(ws: Workspace, day: str) -> tuple[Snapshot, bool]:
    """Point the date at the version that the present methane leads to; return it, and whether it was there."""
    sources = detections(ws, day)
    if not sources:
        raise GeostackError(
            "no provider has methane for this date",
            subject=f"{NAME} {day}",
            found=f"configured providers that may: {', '.join(providers(ws.settings)) or 'none'}",
            action="run the date of one of them first",
        )
    wanted = target(ws, day, sources)
    stored = ws.artifacts.find(NAME, day, wanted)
    snapshot = stored if stored is not None else _write(ws, day, wanted, sources)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return snapshot, stored is not None


def best(candidates: Iterable[Candidate]) -> Candidate:
    """Return the candidate that represents a plume.

    A single-pass signal comes last, since its scores carry the surface; before that, a spectrometer's spectrum comes before
    the two bands that only screen; then the highest score counts; equal ones (the same scene from two catalogs) are told
    apart by their ids.
    """
    return min(candidates, key=_rank)


def _rank(one: Candidate) -> tuple[bool, bool, float, float, str]:
    row = one.row
    single, screening = row["method"] == "mbsp", row["method"] in MOSAICS
    return single, screening, -row["significance"], -row["peak_z"], row["plume_id"]


def shown(candidates: Sequence[Candidate]) -> tuple[Candidate, list[Candidate]]:
    """Return what stands for a plume, and the candidates that it was put together of, the one that leads first.

    Args:
        candidates: All of the plume.
    """
    parts = [sorted((candidates[index] for index in part), key=_rank) for part in same_pass_parts(candidates)]
    # Put together before they are compared: half a plume must not stand for one that another catalog has whole.
    wholes = [together(part) for part in parts]
    chosen = best(wholes)
    return chosen, next(part for part, whole in zip(parts, wholes, strict=True) if whole is chosen)


def tables(candidates: Sequence[Candidate], rate: Rating = dict) -> tuple[pa.Table, pa.Table]:
    """Return one row per plume, and one row per candidate, both as GeoParquet-ready tables.

    Args:
        candidates: Without rates.
        rate: Gives each row its rate; by default none.
    """
    rows: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    for group in same_plume(candidates):
        own = sorted((candidates[index] for index in group), key=lambda one: (one.row["plume_id"], one.node))
        whole, parts = shown(own)
        # The provider is part of a candidate's id, and not of a plume's.
        plume = str(whole.row["plume_id"]).removesuffix(f"-{whole.row['provider']}")
        rows.append(
            {
                **rate(whole.row),
                "plume_id": plume,
                "representative": whole.row["plume_id"],
                "part_ids": [one.row["plume_id"] for one in parts],
                "members": len(own),
                "member_ids": [one.row["plume_id"] for one in own],
                "providers": sorted({one.row["provider"] for one in own}),
                "scenes": sorted({scene for one in own for scene in one.scenes}),
            }
        )
        members += [
            {
                **rate(one.row),
                "plume": plume,
                "representative": one is parts[0],
                "scenes": list(one.scenes),
                "version": one.version,
                "node": one.node,
            }
            for one in own
        ]
    rows.sort(key=lambda row: (row["time"], row["area"], row["plume_id"]))
    members.sort(key=lambda row: (row["plume"], row["plume_id"], row["node"]))
    return _table(rows, _ROW_FIELDS), _table(members, _MEMBER_FIELDS)


def _table(rows: Sequence[Mapping[str, Any]], extra: Iterable[tuple[str, pa.DataType, str]]) -> pa.Table:
    fields = [pa.field(name, kind, metadata={"description": meaning}) for name, kind, meaning in extra]
    schema = pa.schema([*plume_schema(judged=True), *fields])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    return table.replace_schema_metadata({"geo": json.dumps(geo_metadata([row["geometry"] for row in rows]))})


NO_WIND = "no wind is named in the settings"


def rating(ws: Workspace, wind: WindRecords | None) -> Rating:
    """Return what gives a row of a workspace its emission rate from a wind, or the reason why it has none."""
    own = ws.settings.wind or WindSettings(source="")
    limits = ws.wind.limits if ws.wind is not None else WindLimits()
    source = "" if wind is None else f"{wind.source} sha256:{wind.digest}"

    def rate(row: Mapping[str, Any]) -> dict[str, Any]:
        here = (row["time"], row["source_longitude"], row["source_latitude"])
        return with_rate(
            row,
            NO_WIND if wind is None else wind.near(*here, limits),
            source=source,
            relative_wind_sigma=own.relative_sigma,
            calm_m_s=own.calm_m_s,
            calibration_sigma=own.calibration_sigma,
        )

    return rate


def _write(ws: Workspace, day: str, target: str, sources: Mapping[str, Snapshot]) -> Snapshot:
    wind = _wind(ws, day, sources)
    candidates = [one for snapshot in sources.values() for one in _candidates(ws, snapshot)]
    rows, members = tables(candidates, rating(ws, wind))
    if members.num_rows != len(candidates):
        raise IntegrityError(
            "candidates were lost while plumes were counted",
            subject=f"{NAME} {day}",
            found=f"{len(candidates)} candidates, {members.num_rows} members",
            action="report this as a defect of the plumes stage",
        )
    with ws.artifacts.begin(
        NAME,
        day,
        target,
        kind="table",
        code_version=CODE_VERSION,
        upstream={f"{snapshot.asset}/{day}": snapshot.version for snapshot in sources.values()},
    ) as attempt:
        attempt.put("plumes.parquet", to_geoparquet(rows))
        attempt.put("members.parquet", to_geoparquet(members))
        return attempt.commit(
            meta={
                "rows": rows.num_rows,
                "members": members.num_rows,
                "providers": {
                    key: sum(one.row["provider"] == key for one in candidates) for key in sorted(sources)
                },
                "missing": sorted(set(providers(ws.settings)) - set(sources)),
                "rates": sum(rate is not None for rate in rows["emission_rate_kg_h"].to_pylist()),
                "wind": None
                if wind is None
                else {**_essence(ws, wind), "records": int(wind.time.size), "unusable": wind.unusable},
            }
        )


def _candidates(ws: Workspace, snapshot: Snapshot) -> list[Candidate]:
    """Return the candidates of one provider's date with the scenes that they lie in."""
    found = {
        path: concat_plumes([pq.read_table(io.BytesIO(snapshot.read(path)))]).to_pylist()
        for path in _tables_of(snapshot)
    }
    if not any(found.values()):
        return []
    scenes = _scenes(ws, snapshot)
    return [
        Candidate(
            row=row,
            scenes=tuple(sorted({scenes[item] for item in row["item_ids"]})),
            version=snapshot.version,
            node=PurePosixPath(path).stem.removeprefix("plumes").removeprefix("-"),
        )
        for path, rows in found.items()
        for row in rows
    ]


def _scenes(ws: Workspace, snapshot: Snapshot) -> dict[str, str]:
    """Return item id -> physical scene, from the manifest that a date's methane was made of."""
    found = snapshot
    provider = snapshot.asset.rpartition("/")[0]
    for stage in (cube.NAME, granules.NAME):
        name = f"{asset_name(provider, stage)}/{snapshot.partition}"
        found = ws.source(name, found.upstream[name])
    return dict(found.open().select("item_id", "scene").unique().iter_rows())


def _checks(ws: Workspace, snapshot: Snapshot) -> tuple[Check, ...]:
    rows: pl.DataFrame = snapshot.open()
    members: pl.DataFrame = snapshot.open("members")
    repeated = _repeated(rows, members)
    counted = 0
    for name, wanted in snapshot.upstream.items():
        asset, _, day = name.rpartition("/")
        source = ws.artifacts.find(asset, day, wanted)
        counted += source.meta["plumes"] if source is not None else 0
    shown = members.filter("representative")
    without = rows.filter(pl.col("emission_rate_kg_h").is_null() & pl.col("rate_missing_reason").is_null())
    return (
        Check(
            name="rates_or_reasons",
            passed=without.height == 0,
            detail={
                "plumes": rows.height,
                "with a rate": rows["emission_rate_kg_h"].count(),
                "reasons": "; ".join(rows["rate_missing_reason"].drop_nulls().unique().sort()) or "none",
            },
        ),
        Check(
            name="one_row_per_plume",
            passed=not repeated,
            detail={"plumes": rows.height, "shown twice": "; ".join(repeated[:3]) or "none"},
        ),
        Check(
            name="members_accounted_for",
            passed=counted == members.height == int(rows["members"].sum())
            and sorted(shown["plume"]) == sorted(rows["plume_id"])
            and set(members["plume"]) == set(rows["plume_id"]),
            detail={
                "candidates of the providers": counted,
                "members": members.height,
                "plumes": rows.height,
                "providers without the date": ", ".join(snapshot.meta["missing"]) or "none",
            },
        ),
    )


def _repeated(rows: pl.DataFrame, members: pl.DataFrame) -> list[str]:
    """Return the pairs of rows that members of one pass in one place say are the same plume."""
    if rows["plume_id"].n_unique() != rows.height:
        return ["two rows have one plume_id"]
    spots = [
        Candidate(row=row, scenes=tuple(row["scenes"]), version=row["version"], node=row["node"])
        for row in members.rows(named=True)
    ]
    outlines = shapely.from_wkb([spot.row["geometry"] for spot in spots])
    found = set()
    for index, spot in enumerate(spots):
        # Every pair anew, without the tree and the links that the rows were made with.
        near = shapely.intersects(outlines[index], outlines[index + 1 :])
        for other, meets in zip(spots[index + 1 :], near, strict=True):
            if spot.row["plume"] == other.row["plume"]:
                continue
            if (meets and _same_pass(spot, other)) or are_parts(spot, other):
                found.add(" and ".join(sorted((spot.row["plume"], other.row["plume"]))))
    return sorted(found)


def _same_pass(one: Candidate, other: Candidate) -> bool:
    if one_map(one.row, other.row):
        return False
    seen: tuple[datetime, datetime] = one.row["time"], other.row["time"]
    return (
        not set(map(pass_of, one.scenes)).isdisjoint(map(pass_of, other.scenes))
        or abs((seen[0] - seen[1]).total_seconds()) <= SAME_PASS_S
    )
