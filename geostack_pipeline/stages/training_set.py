"""Training set: tiles of EMIT's methane fields with what analysts outlined in them.

One tree with a node of tiles per granule that teaches something, ``members.parquet`` with every granule that has
cubes and its split, and ``dropped.parquet`` with the outlines and granules that are left out and why.  The version is the
digest of the sorted (item id, digest of its files, label revision) and of the settings; the cubes it was cut from
are its upstream, so ``gc`` keeps them as long as the set is kept, and :func:`rebuild` makes the same tiles again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import obstore
import polars as pl

from geostack_pipeline.errors import ArtifactNotFoundError, GeostackError, IntegrityError
from geostack_pipeline.learning.labels import About, Joined, Label, Member, Placed, join, read_metadata
from geostack_pipeline.learning.sites import Box, Splitter
from geostack_pipeline.settings import LearningSettings, Settings
from geostack_pipeline.stages import cube as cube_stage
from geostack_pipeline.stages import granules as granules_stage
from geostack_pipeline.stages.progress import Event, emit
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace, asset_name
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import xarray as xr

NAME = "training_set"
PARTITION = "all"
CODE_VERSION = "1"
TREE = "tree.zarr"
ENHANCEMENT, PLUME, PLUME_METADATA = "CH4ENH", "CH4PLM", "CH4PLMMETA"


def providers(settings: Settings) -> tuple[str, ...]:
    """Return the configured providers whose cubes hold EMIT's methane fields, in order."""
    return tuple(
        key for key in sorted(settings.providers) if ENHANCEMENT in settings.provider_spec(key).product.bands
    )


def labelled_now(ws: Workspace) -> set[tuple[str, str]]:
    """Return (item id, label revision) of every stored granule with usable outlines.

    Cheap enough for a sensor: one small read per date; what a cube's version holds is remembered by the process.
    """
    return {
        (member.granule.item_id, member.label_revision)
        for member in joined(ws).members
        if member.state == "labelled"
    }


def members_of(snapshot: Snapshot) -> set[tuple[str, str]]:
    """Return (item id, label revision) of the labelled granules of a training set, or of a champion's."""
    return {(str(item), str(revision)) for item, revision in snapshot.meta["labelled"]}


def joined(ws: Workspace, *, now: datetime | None = None) -> Joined:
    """Return the stored granules of the wanted product version with their outlines."""
    return _join(ws, inventory(ws), now)


def _join(ws: Workspace, stored: Inventory, now: datetime | None) -> Joined:
    own = ws.settings.learning
    return join(
        [each for each in stored.granules if each.version == own.product_version],
        [each for each in stored.labels if each.version == own.product_version],
        now=now or ws.now(),
        review=timedelta(days=own.review_days),
    )


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What the stored cubes hold of EMIT's methane products."""

    granules: tuple[Placed, ...]
    labels: tuple[Label, ...]
    cubes: Mapping[tuple[str, str], Snapshot]
    """(provider, date) -> cube."""


def inventory(ws: Workspace) -> Inventory:
    """Return granules and outlines of all current cubes; what two providers have is taken from the first."""
    granules: dict[str, Placed] = {}
    labels: dict[str, Label] = {}
    cubes: dict[tuple[str, str], Snapshot] = {}
    for key in providers(ws.settings):
        asset = asset_name(key, cube_stage.NAME)
        for day in ws.artifacts.partitions(asset):
            pointer = ws.artifacts.pointer(asset, day)
            version = ws.pins.get(f"{asset}/{day}") or (pointer.version if pointer else None)
            if version is None:
                continue
            found = _holdings(ws, key, day, version)
            if found is None:
                continue
            cubes[key, day] = found.cube
            for granule in found.granules:
                granules.setdefault(granule.item_id, granule)
            for label in found.labels:
                labels.setdefault(label.item_id, label)
    return Inventory(granules=tuple(granules.values()), labels=tuple(labels.values()), cubes=cubes)


@dataclass(frozen=True, kw_only=True)
class _Holdings:
    cube: Snapshot
    granules: tuple[Placed, ...]
    labels: tuple[Label, ...]


_REMEMBERED: dict[tuple[str, str, str, str], _Holdings | None] = {}
_MOST_REMEMBERED = 20_000


def _holdings(ws: Workspace, provider: str, day: str, version: str) -> _Holdings | None:
    """Return what one version of a cube holds; None where it is gone.  Versions never change: it is remembered."""
    key = (ws.artifacts.root.url, provider, day, version)
    if key not in _REMEMBERED:
        if len(_REMEMBERED) >= _MOST_REMEMBERED:
            _REMEMBERED.clear()
        cube = ws.artifacts.find(asset_name(provider, cube_stage.NAME), day, version)
        if cube is None:
            return None
        _REMEMBERED[key] = _read_holdings(ws, provider, day, cube)
    return _REMEMBERED[key]


def _read_holdings(ws: Workspace, provider: str, day: str, cube: Snapshot) -> _Holdings:
    granules: list[Placed] = []
    labels: list[Label] = []
    manifest: pl.DataFrame | None = None
    for node, about in _attributes(cube).items():
        assets = about.get("source_assets") or ()
        if ENHANCEMENT not in assets and PLUME not in assets:
            continue
        place: dict[str, Any] = {
            "item_id": str(about["item_id"]),
            "version": str(about["collection"])[-3:],
            "moment": datetime.fromisoformat(str(about["datetime"])),
            "box": tuple(float(side) for side in about["proj:bbox"]),
            "digest": version_of(sorted(zip(assets, about["source_sha256"], strict=True))),
            "provider": provider,
            "day": day,
            "node": node,
        }
        if PLUME not in assets:
            granules.append(Placed(**place))
            continue
        if manifest is None:
            manifest = _manifest(ws, provider, day, cube)
        labels.append(_label(ws, place, manifest))
    return _Holdings(cube=cube, granules=tuple(granules), labels=tuple(labels))


def _attributes(cube: Snapshot) -> dict[str, dict[str, Any]]:
    """Return the attributes of a cube's nodes; reads the tree's consolidated metadata alone."""
    if not cube.nodes:
        return {}
    return {name: dict(node.attrs) for name, node in cube.open().children.items()}


def _manifest(ws: Workspace, provider: str, day: str, cube: Snapshot) -> pl.DataFrame:
    asset = asset_name(provider, granules_stage.NAME)
    version = cube.upstream.get(f"{asset}/{day}", "")
    snapshot = ws.artifacts.find(asset, day, version) if version else None
    if snapshot is None:
        raise ArtifactNotFoundError(
            "the manifest that a cube was made from is not stored",
            subject=f"{asset} {day}",
            found=version or "the cube names none",
            action="run the date's granules and cube again",
        )
    table: pl.DataFrame = snapshot.open()
    return table


def _label(ws: Workspace, place: Mapping[str, Any], manifest: pl.DataFrame) -> Label:
    rows = manifest.filter((pl.col("item_id") == place["item_id"]) & (pl.col("asset") == PLUME_METADATA))
    if not rows.height:
        # Its raster alone tells where the plume is; it then belongs to every granule that it meets.
        return Label(**place)
    blob, digest = str(rows.item(0, "blob")), str(rows.item(0, "sha256"))
    revision = {**place, "digest": version_of([place["digest"], digest])}
    try:
        about = _read_blob(ws, blob)
    except ValueError as error:
        return Label(**revision, problem=f"its metadata are {error}", blobs=(blob,))
    return Label(**revision, scenes=about.scenes, rate_kg_h=about.rate_kg_h, blobs=(blob,))


def _read_blob(ws: Workspace, blob: str) -> About:
    return read_metadata(bytes(obstore.get(ws.artifacts.root.store, blob).bytes()))


# --- the artifact ------------------------------------------------------------------------------------------


def splitter(own: LearningSettings) -> Splitter:
    """Return the rule that the settings give."""
    return Splitter(
        cell_deg=own.site_degrees, test_share=own.test_share, validation_share=own.validation_share
    )


def recipe(own: LearningSettings) -> dict[str, Any]:
    """Return the settings that decide what a training set holds."""
    return {
        "code": CODE_VERSION,
        "product": own.product_version,
        "tile": own.tile,
        "overlap": own.overlap,
        "ring": own.ring_pixels,
        "cells": [own.site_degrees, own.test_share, own.validation_share],
    }


def content_version(own: LearningSettings, members: Sequence[Member]) -> str:
    """Return the version that granules, files and label revisions lead to."""
    return version_of(
        {
            **recipe(own),
            "members": sorted(
                [each.granule.item_id, each.granule.digest, each.label_revision] for each in members
            ),
        }
    )


def build(ws: Workspace, *, now: datetime | None = None) -> Outcome:
    """Cut the tiles of all that is known now.

    Args:
        now: Moment at which review windows are judged; the present one when not given.

    Raises:
        GeostackError: No provider of EMIT's methane products is configured.
    """
    if not providers(ws.settings):
        raise GeostackError(
            "no provider of EMIT's methane products is configured",
            subject=NAME,
            found=", ".join(ws.settings.providers) or "no provider",
            action="add cmr_stac or earthaccess under `providers:`",
        )
    own = ws.settings.learning
    stored = inventory(ws)
    found = _join(ws, stored, now)
    taught = [each for each in found.members if each.state in {"labelled", "weak_negative"}]
    target = content_version(own, taught)
    snapshot = ws.artifacts.find(NAME, PARTITION, target)
    reused = snapshot is not None
    if snapshot is None:
        snapshot = _write(ws, target, taught, _drops(ws, stored, found), stored.cubes)
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=checks(snapshot))


def _drops(ws: Workspace, stored: Inventory, found: Joined) -> list[dict[str, str]]:
    """Return everything that is left out, with the reason."""
    wanted = ws.settings.learning.product_version
    rows = [
        {
            "item_id": each.item_id,
            "reason": "product_version",
            "detail": f"{each.version}, wanted is {wanted}",
        }
        for each in (*stored.granules, *stored.labels)
        if each.version != wanted
    ]
    rows += [
        {
            "item_id": item_id,
            "reason": "label_without_granule" if why == "no granule" else "label_unreadable",
            "detail": why,
        }
        for item_id, why in found.strays.items()
    ]
    for each in found.members:
        problems = [f"{label.item_id}: {label.problem}" for label in each.labels if label.problem is not None]
        if each.state == "unlabelled":
            rows.append(
                {
                    "item_id": each.granule.item_id,
                    "reason": "unlabelled",
                    "detail": f"no outline yet, and its review window of {ws.settings.learning.review_days} days is open",
                }
            )
        elif each.state == "unusable":
            rows.append(
                {"item_id": each.granule.item_id, "reason": "label_unreadable", "detail": "; ".join(problems)}
            )
    return sorted(rows, key=lambda row: (row["item_id"], row["reason"]))


MEMBERS_SCHEMA: Mapping[str, Any] = {
    "item_id": pl.String,
    "state": pl.String,
    "label_revision": pl.String,
    "labels": pl.List(pl.String),
    "rates_kg_h": pl.List(pl.Float64),
    "split": pl.String,
    "tiles_train": pl.Int64,
    "tiles_validation": pl.Int64,
    "plume_pixels": pl.Int64,
    "background_pixels": pl.Int64,
    "datetime": pl.String,
    "west": pl.Float64,
    "south": pl.Float64,
    "east": pl.Float64,
    "north": pl.Float64,
    "digest": pl.String,
    "provider": pl.String,
    "day": pl.String,
    "node": pl.String,
    "cube": pl.String,
    "label_nodes": pl.List(pl.String),
    "tiles_sha256": pl.String,
}
DROPPED_SCHEMA: Mapping[str, Any] = {"item_id": pl.String, "reason": pl.String, "detail": pl.String}


def _write(
    ws: Workspace,
    target: str,
    taught: Sequence[Member],
    drops: list[dict[str, str]],
    cubes: Mapping[tuple[str, str], Snapshot],
) -> Snapshot:
    from geostack_pipeline.cube.write import finish_tree, write_node

    own = ws.settings.learning
    labels = {label.item_id: label for member in taught for label in member.labels}
    used = {(each.granule.provider, each.granule.day) for each in taught}
    used |= {(label.provider, label.day) for label in labels.values()}
    upstream = {f"{cubes[key].asset}/{key[1]}": cubes[key].version for key in sorted(used)}
    rows: list[dict[str, Any]] = []
    with ws.artifacts.begin(
        NAME, PARTITION, target, kind="tree", code_version=CODE_VERSION, upstream=upstream
    ) as attempt:
        zarr = attempt.zarr_store(TREE)
        for number, member in enumerate(taught, start=1):
            row, node = member_tiles(own, member, cubes)
            if node is not None:
                write_node(zarr, member.granule.node, node, chunks=_chunks(node))
            elif row["split"] != "test":
                reason = "between_splits" if row["split"] is None else "no_tile"
                drops.append(
                    {
                        "item_id": member.granule.item_id,
                        "reason": reason,
                        "detail": "its place straddles cells for learning and for the test"
                        if row["split"] is None
                        else "no tile of it has valid pixels within one split",
                    }
                )
            rows.append(row)
            if number % 10 == 0 or number == len(taught):
                info = {"granules": number, "of": len(taught)}
                emit(Event(provider="", stage=NAME, day=PARTITION, status="moved", info=info))
        finish_tree(zarr, {"tile": own.tile, "overlap": own.overlap})
        table = pl.DataFrame(rows, schema=MEMBERS_SCHEMA)
        attempt.put("members.parquet", parquet_bytes(table))
        dropped = pl.DataFrame(drops, schema=DROPPED_SCHEMA).sort("item_id", "reason", "detail")
        attempt.put("dropped.parquet", parquet_bytes(dropped))
        blobs = sorted({blob for label in labels.values() for blob in label.blobs})
        return attempt.commit(meta=_meta(own, taught, table, drops), blobs=blobs)


def _chunks(node: xr.Dataset) -> dict[str, tuple[int, ...]]:
    return {str(name): (1, *v.shape[1:]) for name, v in node.data_vars.items() if v.ndim == 3}


def _meta(
    own: LearningSettings, taught: Sequence[Member], table: pl.DataFrame, drops: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    learnt = table.filter(pl.col("split") != "test")
    return {
        "rows": table.height,
        "recipe": recipe(own),
        "labelled": sorted(
            [each.granule.item_id, each.label_revision] for each in taught if each.state == "labelled"
        ),
        "weak_negatives": int((table["state"] == "weak_negative").sum()),
        "tiles_train": int(table["tiles_train"].sum()),
        "tiles_validation": int(table["tiles_validation"].sum()),
        "plume_pixels": int(learnt["plume_pixels"].sum()),
        "background_pixels": int(learnt["background_pixels"].sum()),
        "test_granules": int((table["split"] == "test").sum()),
        "test_granules_with_plumes": table.filter(
            (pl.col("split") == "test") & (pl.col("state") == "labelled")
        ).height,
        "dropped": len(drops),
    }


WEAK_WEIGHT = 0.5
"""Weight of a granule that nobody outlined anything in: reviewers discard candidates that they are not sure of."""
_SMALLEST_VALID = 0.05
"""Share of valid pixels that a tile needs."""


def member_tiles(
    own: LearningSettings, member: Member, cubes: Mapping[tuple[str, str], Snapshot]
) -> tuple[dict[str, Any], xr.Dataset | None]:
    """Return a member's row, and its tiles where it has any for learning."""
    granule = read_granule(member, cubes, own.ring_pixels)
    rule = splitter(own)
    whole = rule.of(member.granule.box, member.granule.moment)
    tiles = None if whole == "test" else _tiles(own, member, granule, rule)
    learnt = granule.target if tiles is None else tiles["target"].values
    weights = [] if tiles is None else tiles["split"].values.tolist()
    row = {
        "item_id": member.granule.item_id,
        "state": member.state,
        "label_revision": member.label_revision,
        "labels": [label.item_id for label in member.labels],
        "rates_kg_h": [label.rate_kg_h for label in member.labels],
        "split": whole if tiles is None or whole is not None else "several",
        "tiles_train": weights.count(0),
        "tiles_validation": weights.count(1),
        "plume_pixels": int((learnt == 1).sum()),
        "background_pixels": int((learnt == 0).sum()),
        "datetime": member.granule.moment.isoformat(),
        **dict(zip(("west", "south", "east", "north"), member.granule.box, strict=True)),
        "digest": member.granule.digest,
        "provider": member.granule.provider,
        "day": member.granule.day,
        "node": member.granule.node,
        "cube": cubes[member.granule.provider, member.granule.day].version,
        "label_nodes": [
            f"{label.provider}/{label.day}/{cubes[label.provider, label.day].version}/{label.node}"
            for label in member.labels
        ],
        "tiles_sha256": None if tiles is None else tiles_digest(tiles),
    }
    return row, tiles


@dataclass(frozen=True, kw_only=True)
class Fields:
    """A whole granule as the model sees it."""

    stack: npt.NDArray[np.float32]
    """(3, y, x): enhancement, uncertainty (ppm m), sensitivity (1); NaN where masked."""
    plumes: npt.NDArray[np.int32]
    """Number, from 1, of the outline that has each pixel; 0 for none."""
    target: npt.NDArray[np.uint8]
    """1 plume, 0 none, 255 ignored."""
    box: Box
    pixel_deg: tuple[float, float]


def read_granule(member: Member, cubes: Mapping[tuple[str, str], Snapshot], ring_pixels: int) -> Fields:
    """Return a granule's fields and targets from the cubes that hold it and its outlines.

    Raises:
        IntegrityError: An outline does not lie on the granule's lattice.
    """
    import numpy as np

    from geostack_pipeline.learning import fields, targets

    node = _open_node(cubes[member.granule.provider, member.granule.day], member.granule.node)
    stack = fields.stacked(
        {name: node[name].values for name in fields.FIELDS if name in node}, member.granule.item_id
    )
    shape = (stack.shape[1], stack.shape[2])
    masks = [
        _outline(node, _open_node(cubes[label.provider, label.day], label.node), shape, label.item_id)
        for label in member.labels
    ]
    plumes = targets.numbered(masks, shape)
    valid = np.isfinite(stack[0])
    x, y = node["x"].values, node["y"].values
    return Fields(
        stack=stack,
        plumes=plumes,
        target=targets.target(plumes > 0, valid, ring_pixels),
        box=member.granule.box,
        pixel_deg=(_step(x), _step(y)),
    )


@lru_cache(maxsize=4)
def _tree(cube: Snapshot) -> xr.DataTree:
    tree: xr.DataTree = cube.open()
    return tree


def _open_node(cube: Snapshot, node: str) -> xr.Dataset:
    return _tree(cube)[node].to_dataset()


def _step(axis: npt.NDArray[np.floating]) -> float:
    return float(axis[1] - axis[0]) if axis.size > 1 else 1.0


def _outline(
    granule: xr.Dataset, label: xr.Dataset, shape: tuple[int, int], subject: str
) -> npt.NDArray[np.bool_]:
    """Return the pixels of the granule inside an outline, whose raster lies on the granule's lattice."""
    import numpy as np

    from geostack_pipeline.learning.targets import placed

    x, y = granule["x"].values, granule["y"].values
    column = (float(label["x"].values[0]) - float(x[0])) / _step(x)
    row = (float(label["y"].values[0]) - float(y[0])) / _step(y)
    if max(abs(column - round(column)), abs(row - round(row))) > 0.1:
        raise IntegrityError(
            "an outline does not lie on the granule's lattice",
            subject=subject,
            found=f"{column:.2f} columns and {row:.2f} rows from its corner",
            action="look at both files with gdalinfo",
        )
    return placed(shape, np.isfinite(label["plume_enhancement"].values), round(row), round(column))


def _tiles(own: LearningSettings, member: Member, granule: Fields, rule: Splitter) -> xr.Dataset | None:
    """Return the tiles of a granule that lie wholly in one split for learning; None where there are none."""
    import numpy as np
    import xarray as xr

    from geostack_pipeline.learning import fields, targets, tiles

    west, south, east, north = granule.box
    shape = granule.target.shape
    wide, high = (east - west) / shape[1], (north - south) / shape[0]
    chosen: list[tuple[int, int, int]] = []
    for row, column in tiles.corners((shape[0], shape[1]), own.tile, own.overlap):
        bottom, right = min(row + own.tile, shape[0]), min(column + own.tile, shape[1])
        box = (west + column * wide, north - bottom * high, west + right * wide, north - row * high)
        split = rule.of(box, member.granule.moment, granule.box)
        part = granule.target[row:bottom, column:right]
        if split not in {"train", "validation"} or (part != targets.IGNORED).mean() < _SMALLEST_VALID:
            continue
        chosen.append((row, column, int(split == "validation")))
    if not chosen:
        return None
    about = fields.background(granule.stack)

    def cut(values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        return np.stack([tiles.cut(values, row, column, own.tile, fill) for row, column, _ in chosen])

    stack = cut(granule.stack, np.nan)
    weight = 1.0 if member.state == "labelled" else WEAK_WEIGHT
    variables: dict[str, Any] = {
        name: (("tile", "y", "x"), stack[:, index]) for index, name in enumerate(fields.FIELDS)
    }
    variables["target"] = (("tile", "y", "x"), cut(granule.target, targets.IGNORED))
    for name, values, dtype in (
        ("row", [each[0] for each in chosen], np.int32),
        ("column", [each[1] for each in chosen], np.int32),
        ("split", [each[2] for each in chosen], np.uint8),
        ("weight", [weight] * len(chosen), np.float32),
    ):
        variables[name] = ("tile", np.asarray(values, dtype))
    return xr.Dataset(
        variables,
        attrs={
            "item_id": member.granule.item_id,
            "label_revision": member.label_revision,
            **{f"background_{name}": value for name, value in about.as_dict().items()},
        },
    )


def tiles_digest(tiles: xr.Dataset) -> str:
    """Return the sha256 over the numbers of a node of tiles, whatever way they are stored."""
    import hashlib

    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(map(str, tiles.data_vars)):
        values = np.ascontiguousarray(tiles[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def checks(snapshot: Snapshot) -> tuple[Check, ...]:
    """Judge a training set: whether something can be learnt from it, and tested."""
    meta = snapshot.meta
    learnable = problem(snapshot) is None
    return (
        Check(
            name="trainable",
            passed=learnable,
            detail={
                "tiles": meta["tiles_train"],
                "plume pixels": meta["plume_pixels"],
                "background pixels": meta["background_pixels"],
                "labelled granules": len(meta["labelled"]),
                "what is missing": problem(snapshot) or "nothing",
            },
        ),
        Check(
            name="testable",
            passed=meta["test_granules_with_plumes"] > 0,
            detail={
                "granules of the test set": meta["test_granules"],
                "with plumes": meta["test_granules_with_plumes"],
            },
        ),
    )


def problem(snapshot: Snapshot) -> str | None:
    """Return why nothing can be learnt from a training set; None where something can."""
    meta = snapshot.meta
    if not meta["labelled"] and not meta["weak_negatives"]:
        return "no granule has outlines yet, and no review window has ended"
    if not meta["labelled"]:
        return "no granule has an outline: all are weak negatives"
    if not meta["tiles_train"]:
        return "no tile lies in a cell for learning: all granules are for the test or between the splits"
    if not meta["plume_pixels"]:
        return "no pixel of the tiles is plume"
    if not meta["background_pixels"]:
        return "every pixel of the tiles is plume or ignored"
    return None


# --- making it again ---------------------------------------------------------------------------------------


def stored_members(ws: Workspace, snapshot: Snapshot) -> list[tuple[Member, dict[tuple[str, str], Snapshot]]]:
    """Return the members of a stored training set, each with the versions of the cubes that it was cut from."""
    return [stored_member(ws, row) for row in snapshot.open("members").iter_rows(named=True)]


def stored_member(ws: Workspace, row: Mapping[str, Any]) -> tuple[Member, dict[tuple[str, str], Snapshot]]:
    """Return the member of a stored row, and the versions of the cubes that it was cut from."""
    cubes: dict[tuple[str, str], Snapshot] = {}
    moment = datetime.fromisoformat(row["datetime"])
    place: dict[str, Any] = {
        "version": "",
        "moment": moment,
        "box": (row["west"], row["south"], row["east"], row["north"]),
    }
    labels = []
    for item_id, reference, rate in zip(row["labels"], row["label_nodes"], row["rates_kg_h"], strict=True):
        provider, day, version, node = reference.split("/")
        cubes[provider, day] = _cube(ws, provider, day, version)
        where = {"provider": provider, "day": day, "node": node}
        labels.append(Label(item_id=item_id, digest="", rate_kg_h=rate, **place, **where))
    cubes[row["provider"], row["day"]] = _cube(ws, row["provider"], row["day"], row["cube"])
    granule = Placed(
        item_id=row["item_id"],
        digest=row["digest"],
        provider=row["provider"],
        day=row["day"],
        node=row["node"],
        **place,
    )
    return _Stored(
        granule=granule, labels=tuple(labels), state=row["state"], revision=row["label_revision"]
    ), cubes


@dataclass(frozen=True, kw_only=True)
class _Stored(Member):
    """A member whose label revision is what was stored."""

    revision: str

    @property
    def label_revision(self) -> str:
        """The stored revision."""
        return self.revision


def _cube(ws: Workspace, provider: str, day: str, version: str) -> Snapshot:
    asset = asset_name(provider, cube_stage.NAME)
    snapshot = ws.artifacts.find(asset, day, version)
    if snapshot is None:
        raise ArtifactNotFoundError(
            "a cube that a training set was cut from is not stored any more",
            subject=f"{asset} {day} {version}",
            action="restore the root from a copy; gc keeps the cubes of every pinned or current training set",
        )
    return snapshot


def rebuild(ws: Workspace, version: str) -> list[str]:
    """Cut a stored training set anew from its pinned cubes; return the granules whose tiles came out differently.

    Raises:
        ArtifactNotFoundError: The training set or one of its cubes is not stored.
        IntegrityError: It was cut by another release.
    """
    snapshot = ws.artifacts.find(NAME, PARTITION, version)
    if snapshot is None:
        raise ArtifactNotFoundError(
            "no such training set is stored",
            subject=f"{NAME} {version}",
            found=", ".join(ws.artifacts.versions(NAME, PARTITION)) or "none",
            action="choose one of these",
        )
    made = snapshot.meta["recipe"]
    if made["code"] != CODE_VERSION:
        raise IntegrityError(
            "the training set was cut by another release",
            subject=f"{NAME} {version}",
            found=f"code version {made['code']}, this one is {CODE_VERSION}",
            action="read its stored tiles, or use the release that cut it",
        )
    cells = dict(zip(("site_degrees", "test_share", "validation_share"), made["cells"], strict=True))
    own = ws.settings.learning.model_copy(
        update={"tile": made["tile"], "overlap": made["overlap"], "ring_pixels": made["ring"], **cells}
    )
    table = snapshot.open("members")
    expected = dict(zip(table["item_id"], table["tiles_sha256"], strict=True))
    differing = []
    for member, cubes in stored_members(ws, snapshot):
        row, _ = member_tiles(own, member, cubes)
        if row["tiles_sha256"] != expected[member.granule.item_id]:
            differing.append(member.granule.item_id)
    return differing
