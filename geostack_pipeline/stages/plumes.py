"""Plumes: the methane candidates of a date over all providers, one row per physical plume.

Several catalogs publish the same scene, and neighbouring scenes of one overpass overlap, so one plume may have
several candidates.  Two candidates are one plume when their outlines meet and they were seen in the same pass:
their scenes belong to one datatake, or their times differ by no more than two minutes.  What is linked that way, also
by way of others, is one row; the best candidate represents it, and every candidate is kept as a member.

Each row and each candidate gets its emission rate here, from the wind that the settings name, or the reason why it has
none.  The version is addressed by the methane versions of the date (a provider without one is left out, and its name
noted) and by the wind's records near it: a new wind makes new rates, and no new retrieval; another month in the same
file changes nothing.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from geostack_pipeline.errors import GeostackError, IntegrityError, StorageError
from geostack_pipeline.methane.plume_table import concat_plumes, geo_metadata, plume_schema, to_geoparquet
from geostack_pipeline.methane.rates import with_rate
from geostack_pipeline.methane.wind import WindLimits, WindRecords
from geostack_pipeline.settings import Settings, WindSettings
from geostack_pipeline.stages import cube, granules, methane
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name, parse_day
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "plumes"
CODE_VERSION = "2"

SAME_PASS_S = 120.0
"""Candidates of scenes that share no datatake belong to one pass when their times differ by no more than this: tiles
of one overpass differ by seconds, two satellites over one place by far more."""
_MOST_TURNS = 5

_ROW_FIELDS: tuple[tuple[str, pa.DataType, str], ...] = (
    ("representative", pa.string(), "plume_id of the member that the other columns are taken from"),
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
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One row of a provider's plume table."""

    row: Mapping[str, Any]
    """The columns of :func:`~geostack_pipeline.methane.plume_table.plume_schema`."""
    scenes: tuple[str, ...]
    """Physical scenes (``geostack:scene``) under the outline, sorted."""
    version: str
    """Version of the provider's methane."""


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
    return ws.wind.of(first, first + timedelta(days=1), [area.bbox for area in ws.areas])


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


def same_plume(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Return the indices of the candidates that are one plume each, both levels in order."""
    leader = list(range(len(candidates)))

    def find(index: int) -> int:
        while leader[index] != index:
            leader[index] = leader[leader[index]]
            index = leader[index]
        return index

    for one, other in _links(candidates):
        low, high = sorted((find(one), find(other)))
        leader[high] = low
    groups: dict[int, list[int]] = {}
    for index in range(len(candidates)):
        groups.setdefault(find(index), []).append(index)
    return list(groups.values())


def _links(candidates: Sequence[Candidate]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of candidates that are one plume by themselves."""
    outlines = shapely.from_wkb([candidate.row["geometry"] for candidate in candidates])
    tree = shapely.STRtree(outlines)
    passes = [frozenset(map(_pass, candidate.scenes)) for candidate in candidates]
    left, right = tree.query(outlines, predicate="intersects")
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        if one >= other or _one_map(candidates[one].row, candidates[other].row):
            continue
        apart = abs((candidates[one].row["time"] - candidates[other].row["time"]).total_seconds())
        if passes[one] & passes[other] or apart <= SAME_PASS_S:
            yield one, other


def _one_map(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two candidates were told apart on one map already: they may touch, yet are two."""
    return all(one[name] == other[name] for name in ("provider", "area", "time"))


def _pass(scene: str) -> str:
    """Return what the scenes of one overpass share: of a Sentinel-2 scene all but the tile."""
    return re.sub(r"_T\d{2}[A-Z]{3}$", "", scene)


def best(candidates: Iterable[Candidate]) -> Candidate:
    """Return the candidate that represents a plume.

    A multi-pass signal comes before a single-pass one, whose scores carry the surface; then the highest score counts;
    equal ones (the same scene from two catalogs) are told apart by their ids.
    """
    return min(
        candidates,
        key=lambda one: (
            one.row["method"] != "mbmp",
            -one.row["significance"],
            -one.row["peak_z"],
            one.row["plume_id"],
        ),
    )


def tables(candidates: Sequence[Candidate]) -> tuple[pa.Table, pa.Table]:
    """Return one row per plume, and one row per candidate, both as GeoParquet-ready tables."""
    rows: list[dict[str, Any]] = []
    members: list[dict[str, Any]] = []
    for group in same_plume(candidates):
        own = sorted((candidates[index] for index in group), key=lambda one: str(one.row["plume_id"]))
        shown = best(own)
        # The provider is part of a candidate's id, and not of a plume's.
        plume = str(shown.row["plume_id"]).removesuffix(f"-{shown.row['provider']}")
        rows.append(
            {
                **shown.row,
                "plume_id": plume,
                "representative": shown.row["plume_id"],
                "members": len(own),
                "member_ids": [one.row["plume_id"] for one in own],
                "providers": sorted({one.row["provider"] for one in own}),
                "scenes": sorted({scene for one in own for scene in one.scenes}),
            }
        )
        members += [
            {
                **one.row,
                "plume": plume,
                "representative": one is shown,
                "scenes": list(one.scenes),
                "version": one.version,
            }
            for one in own
        ]
    rows.sort(key=lambda row: (row["time"], row["area"], row["plume_id"]))
    members.sort(key=lambda row: (row["plume"], row["plume_id"]))
    return _table(rows, _ROW_FIELDS), _table(members, _MEMBER_FIELDS)


def _table(rows: Sequence[Mapping[str, Any]], extra: Iterable[tuple[str, pa.DataType, str]]) -> pa.Table:
    fields = [pa.field(name, kind, metadata={"description": meaning}) for name, kind, meaning in extra]
    schema = pa.schema([*plume_schema(), *fields])
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=schema)
    return table.replace_schema_metadata({"geo": json.dumps(geo_metadata([row["geometry"] for row in rows]))})


NO_WIND = "no wind is named in the settings"


def rated(ws: Workspace, candidates: Iterable[Candidate], wind: WindRecords | None) -> list[Candidate]:
    """Return the candidates with their emission rates, or the reasons why they have none."""
    own = ws.settings.wind or WindSettings(source="")
    limits = ws.wind.limits if ws.wind is not None else WindLimits()
    source = "" if wind is None else f"{wind.source} sha256:{wind.digest}"
    made = []
    for one in candidates:
        row = one.row
        here = (row["time"], row["source_longitude"], row["source_latitude"])
        row = with_rate(
            row,
            NO_WIND if wind is None else wind.near(*here, limits),
            source=source,
            relative_wind_sigma=own.relative_sigma,
            calm_m_s=own.calm_m_s,
        )
        made.append(replace(one, row=row))
    return made


def _write(ws: Workspace, day: str, target: str, sources: Mapping[str, Snapshot]) -> Snapshot:
    wind = _wind(ws, day, sources)
    candidates = rated(ws, (one for snapshot in sources.values() for one in _candidates(ws, snapshot)), wind)
    rows, members = tables(candidates)
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
    paths = [path for path in sorted(snapshot.files) if PurePosixPath(path).match("plumes*.parquet")]
    table = concat_plumes(pq.read_table(io.BytesIO(snapshot.read(path))) for path in paths)
    if not table.num_rows:
        return []
    scenes = _scenes(ws, snapshot)
    return [
        Candidate(
            row=row,
            scenes=tuple(sorted({scenes[item] for item in row["item_ids"]})),
            version=snapshot.version,
        )
        for row in table.to_pylist()
    ]


def _scenes(ws: Workspace, snapshot: Snapshot) -> dict[str, str]:
    """Return item id -> physical scene, from the manifest that a date's methane was made of."""
    found = snapshot
    provider = snapshot.asset.rpartition("/")[0]
    for stage in (cube.NAME, granules.NAME):
        asset = asset_name(provider, stage)
        wanted = found.upstream[f"{asset}/{snapshot.partition}"]
        source = ws.artifacts.find(asset, snapshot.partition, wanted)
        if source is None:
            raise StorageError(
                "the version that the plumes' scenes are looked up in is gone",
                subject=f"{asset} {snapshot.partition} {wanted}",
                action=f"run the date of {provider} again",
            )
        found = source
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
    spots = members.select("plume", "provider", "area", "time", "scenes", "geometry").rows(named=True)
    outlines = shapely.from_wkb([spot["geometry"] for spot in spots])
    found = set()
    for index, spot in enumerate(spots):
        # Every pair anew, without the tree and the links that the rows were made with.
        near = shapely.intersects(outlines[index], outlines[index + 1 :])
        for other, meets in zip(spots[index + 1 :], near, strict=True):
            if meets and spot["plume"] != other["plume"] and _same_pass(spot, other):
                found.add(" and ".join(sorted((spot["plume"], other["plume"]))))
    return sorted(found)


def _same_pass(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if _one_map(one, other):
        return False
    seen: tuple[datetime, datetime] = one["time"], other["time"]
    return (
        not {_pass(scene) for scene in one["scenes"]}.isdisjoint(_pass(scene) for scene in other["scenes"])
        or abs((seen[0] - seen[1]).total_seconds()) <= SAME_PASS_S
    )
