"""Methane of a swath provider: one node per granule, by a matched filter or from the catalog's own product.

A granule's version is that of its cube node, of the nodes of the same scene that hold its masks, of the target spectrum
and of the settings.  A scene that comes as radiance and as methane product is used once, as the settings say.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.stages import candidate_model, champion_model, training_set
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.workspace import Check, Workspace, asset_name
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

    from geostack_pipeline.learning.inference import PlumeModel
    from geostack_pipeline.storage.artifacts import Attempt

CODE_VERSION = "4"
"""Counts changes of swath nodes; the code version of the stage counts with it."""
JUDGED_VERSION = "3"
"""Counts changes of what is made of a plume model's probability; nodes that no model judges do not depend on it."""
ENHANCEMENT_RANGE = (-50_000.0, 200_000.0)
"""ppm m: beyond it a field is broken."""
MASKED_SHARE = 0.5
"""A granule has a cloud mask where one tells of at least so many of its pixels with a value; edges may have none."""

SUMMARY_SCHEMA: Mapping[str, Any] = {
    "area": pl.String,
    "node": pl.String,
    "time": pl.String,
    "method": pl.String,
    "maturity": pl.String,
    "finite_fraction": pl.Float64,
    "background_std": pl.Float64,
    "smallest": pl.Float64,
    "largest": pl.Float64,
    "columns_not_retrieved": pl.Int64,
    "cloud_mask": pl.Boolean,
}


@dataclass(frozen=True)
class Choice:
    """Which nodes of a cube are retrieved, with what, and why the others are not."""

    wanted: dict[str, list[str]] = field(default_factory=dict)
    """Node -> nodes of the same scene that may hold its masks."""
    left: dict[str, str] = field(default_factory=dict)
    """Node -> reason; nothing is wrong with these."""
    products: set[str] = field(default_factory=set)
    """Those of the wanted nodes that are the catalog's own methane product, which the plume model learnt from."""


def settings_of(ws: Workspace) -> dict[str, Any]:
    """Return the settings that a version depends on besides the cube."""
    own = ws.settings.methane
    return {
        "swath": CODE_VERSION,
        "filter": own.filter,
        "target": _target_digest(own.target),
        "detection": own.detection.model_dump(exclude_none=True),
    }


def model_of(ws: Workspace) -> Snapshot | None:
    """Return the plume model to use: the champion, where learning is on and one was promoted."""
    return champion_model.champion(ws) if ws.settings.learning.enabled else None


def _with_model(ws: Workspace, settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the model's version; without a model they are as they were."""
    if not ws.settings.learning.enabled:
        return settings
    name = f"{champion_model.NAME}/{champion_model.PARTITION}"
    pointer = ws.artifacts.pointer(champion_model.NAME, champion_model.PARTITION)
    chosen = ws.pins.get(name) or (None if pointer is None else pointer.version)
    return settings if chosen is None else {**settings, "model": chosen, "judged": JUDGED_VERSION}


def _target_digest(path: str | None) -> str | None:
    """Return the digest of the user's target table; the project's own counts with the code version."""
    if path is None:
        return None
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise SettingsError(
            "the target table cannot be read",
            subject=f"setting methane.target, {path}",
            found=type(error).__name__,
            action="point it at a table (docs/methane.md), or leave it out",
        ) from None


def version(ws: Workspace, cube_version: str, code: str) -> str:
    """Return the version that a cube leads to under the present settings."""
    return version_of({"code": code, "cube": cube_version, **_with_model(ws, settings_of(ws))})


def choose(tree: xr.DataTree, names: Mapping[str, str], chosen: str) -> Choice:
    """Return which nodes of a date's cube are retrieved under the setting ``methane.filter``: one of each scene.

    Of several levels of a scene's spectra, the one with most of what the filter needs is taken: in sensor geometry with a
    look-up table, else radiance on a map, else reflectance, and last what has no map and so no plumes.
    """
    from geostack_pipeline.methane.swath_retrieve import is_readable

    nodes = {name: tree[name].to_dataset() for name in sorted(names)}
    scenes = {name: str(node.attrs.get("scene", name)) for name, node in nodes.items()}
    products = {scenes[name] for name, node in nodes.items() if "ch4_enhancement" in node}
    own = [name for name, node in nodes.items() if is_readable(node) and "ch4_enhancement" not in node]
    # Of one level twice, the last by name: items end in the version of their processing.
    spectra = {scenes[name]: name for name in sorted(own, key=lambda name: (-_level(nodes[name]), name))}
    choice = Choice()
    for name, node in nodes.items():
        scene = scenes[name]
        if not is_readable(node):
            choice.left[name] = (
                "serves as the mask of its scene"
                if scene in spectra
                else "holds neither radiance nor methane: masks, angles, outlines or reflectance in sensor geometry alone"
            )
        elif "ch4_enhancement" in node and scene in spectra and chosen != "product":
            choice.left[name] = f"the radiance of its scene is filtered by {chosen}"
        elif "ch4_enhancement" not in node and scene in products and chosen == "product":
            choice.left[name] = "the methane product of its scene is used"
        elif "ch4_enhancement" not in node and spectra[scene] != name:
            choice.left[name] = f"{spectra[scene]} of its scene is used"
        else:
            if "ch4_enhancement" in node:
                choice.products.add(name)
            choice.wanted[name] = [other for other in nodes if other != name and scenes[other] == scene]
    return choice


def _level(node: xr.Dataset) -> int:
    """Return how well the spectra of a node serve, 0 the best: two levels of one scene would show every plume twice."""
    if "radiance" in node:
        return 1 if {"y", "x"} <= set(map(str, node["radiance"].dims)) else 0
    if "radiance_swir" in node:
        return 0 if "swir_glt_x" in node else 3
    return 2


def nodes(ws: Workspace, cube: Snapshot, choice: Choice, code: str) -> dict[str, str]:
    """Return the version of each granule's node; the model counts for those that it judges."""
    own = settings_of(ws)
    with_model = _with_model(ws, own)
    return {
        name: version_of(
            {
                "code": code,
                **(with_model if name in choice.products else own),
                "cube": cube.nodes[name],
                "companions": {other: cube.nodes[other] for other in companions},
            }
        )
        for name, companions in choice.wanted.items()
    }


def write(
    ws: Workspace, provider: Provider, day: str, target: str, cube: Snapshot, code: str
) -> tuple[Snapshot, dict[str, Any]]:
    """Write a date's methane; return it and what was computed."""
    from geostack_pipeline.cube.write import finish_tree
    from geostack_pipeline.methane.plume_table import plume_rows, to_geoparquet
    from geostack_pipeline.methane.swath_fields import NotRetrievedError
    from geostack_pipeline.methane.target import read_target
    from geostack_pipeline.stages.compiling import prepare_kernels
    from geostack_pipeline.stages.cube import TREE, take_over
    from geostack_pipeline.stages.methane import NAME, node_paths

    prepare_kernels(ws)
    asset = asset_name(provider.key, NAME)
    own = ws.settings.methane
    table = None if own.target is None else read_target(Path(own.target))
    tree: xr.DataTree | None = cube.open() if cube.nodes else None
    choice = choose(tree, cube.nodes, own.filter) if tree is not None else Choice()
    wanted = nodes(ws, cube, choice, code)
    champion = model_of(ws)
    model = None if champion is None or not choice.products else _loaded(ws, champion)
    unasked = {} if model is None or tree is None else _of_other_products(tree, choice.products, model)
    previous = ws.stored(asset, day)
    failed: dict[str, str] = {}
    with ws.artifacts.begin(
        asset,
        day,
        target,
        kind="tree",
        code_version=code,
        upstream={
            f"{cube.asset}/{day}": cube.version,
            **({} if champion is None else {f"{champion.asset}/{champion.partition}": champion.version}),
        },
    ) as attempt:
        taken = take_over(attempt, previous, wanted, node_paths)
        plumes = 0
        for name in list(wanted):
            if name in taken:
                assert previous is not None
                stored = io.BytesIO(previous.read(f"plumes-{name}.parquet"))
                plumes += pq.ParquetFile(stored).metadata.num_rows
                continue
            assert tree is not None
            try:
                judge = model if name in choice.products else None
                others = choice.wanted[name]
                plumes += _granule(
                    ws, provider, day, attempt, tree, name, others, table, judge, unasked.get(name)
                )
            except NotRetrievedError as error:
                del wanted[name]
                (choice.left if error.ordinary else failed)[name] = str(error)
        if not wanted:
            attempt.put("plumes.parquet", to_geoparquet(plume_rows([])))
        finish_tree(attempt.zarr_store(TREE), {"provider": provider.key, "partition": day})
        snapshot = attempt.commit(
            meta={
                "rows": len(wanted),
                "granules": sorted(wanted),
                "plumes": plumes,
                "left_out": dict(sorted(choice.left.items())),
                "not_retrieved": dict(sorted(failed.items())),
                **_judged_by(model, choice.products, unasked),
            },
            nodes=wanted,
        )
    return snapshot, {"computed": len(wanted) - len(taken), "taken_over": len(taken)}


def _granule(
    ws: Workspace,
    provider: Provider,
    day: str,
    attempt: Attempt,
    tree: xr.DataTree,
    name: str,
    companions: list[str],
    table: Any,
    model: PlumeModel | None = None,
    unasked: str | None = None,
) -> int:
    """Write one granule's node; return its number of plume candidates."""
    from dataclasses import replace

    from geostack_pipeline.cube.write import write_node
    from geostack_pipeline.methane.detection import SPECTROMETER
    from geostack_pipeline.methane.plume_table import to_geoparquet
    from geostack_pipeline.methane.plumes import detect
    from geostack_pipeline.methane.swath_retrieve import retrieve_granule
    from geostack_pipeline.publish.swath_quicklook import picture
    from geostack_pipeline.stages.cube import TREE

    own = ws.settings.methane
    node = tree[name].to_dataset()
    fields = retrieve_granule(
        node,
        [tree[other].to_dataset() for other in companions],
        method="cmf" if own.filter == "cmf" else "mag1c",
        target=table,
    )
    fields.attrs.update({"provider": provider.key, "partition": day})
    if model is not None:
        fields = _judged(fields, model, unasked)
    area = str(node.attrs["area"])
    limits = replace(SPECTROMETER, **own.detection.model_dump(exclude_none=True))
    candidates = detect(fields, area=area, settings=limits, provider=provider.key)
    write_node(attempt.zarr_store(TREE), name, fields)
    attempt.put(f"plumes-{name}.parquet", to_geoparquet(candidates))
    attempt.put(
        f"quicklook-{name}.png",
        picture(fields.isel(time=0), "ch4_enhancement", title=f"{provider.key} {name}"),
    )
    attempt.put(f"summary-{name}.parquet", _summary(name, area, fields))
    return int(candidates.num_rows)


def _loaded(ws: Workspace, champion: Snapshot) -> PlumeModel:
    """Return the model in use; of one whose meta do not tell its product version, the training set does."""
    from dataclasses import replace

    model = candidate_model.load(champion)
    if model.product_version is not None:
        return model
    learnt = ws.artifacts.find(training_set.NAME, training_set.PARTITION, str(champion.meta["training_set"]))
    return model if learnt is None else replace(model, product_version=str(learnt.meta["recipe"]["product"]))


def _of_other_products(tree: xr.DataTree, products: set[str], model: PlumeModel) -> dict[str, str]:
    """Return the nodes of another product version than the model learnt from, each with the reason why it is not asked."""
    versions = {
        name: str(tree[name].attrs.get("collection", ""))[-3:] or "unknown" for name in sorted(products)
    }
    known = model.product_version or "nobody knows which"
    return {
        name: f"it learnt from product version {known}, this is {version}"
        for name, version in versions.items()
        if version != model.product_version
    }


def _judged_by(model: PlumeModel | None, products: set[str], unasked: Mapping[str, str]) -> dict[str, Any]:
    """Return what a date's facts tell of the model: who judged, and which nodes were not judged and why."""
    if model is None:
        return {}
    asked = {"model": model.name, "model_version": model.version} if products - set(unasked) else {}
    return {**asked, **({"not_judged": dict(unasked)} if unasked else {})}


def _judged(fields: xr.Dataset, model: PlumeModel, unasked: str | None = None) -> xr.Dataset:
    """Return a granule's fields with the probability of plume, and which model gave it.

    A product without uncertainty, or of another version than the model learnt from (``unasked`` says so), cannot be
    judged: its candidates are found as without a model, and it says why.
    """
    from geostack_pipeline.learning.inference import probability

    why = unasked
    if why is None and not np.isfinite(fields["ch4_uncertainty"].values).any():
        why = "no ch4_uncertainty"
    if why is not None:
        return fields.assign_attrs(plume_model=f"{model.name} {model.version} not asked: {why}")
    found = [probability(fields.isel(time=index), model) for index in range(fields.sizes["time"])]
    values = np.stack([each.values for each in found])
    dims = ("time", *found[0].dims)
    judged = fields.assign(plume_probability=(dims, values, found[0].attrs))
    judged.attrs.update({"model_name": model.name, "model_version": model.version})
    return judged


def _summary(name: str, area: str, fields: xr.Dataset) -> bytes:
    from geostack_pipeline.methane.swath_quality import SwathQuality

    values = fields["ch4_enhancement"].values
    finite = values[np.isfinite(values)]
    uncertainty = fields["ch4_uncertainty"].values
    known = uncertainty[np.isfinite(uncertainty)]
    masked = (fields["quality_flags"].values & np.uint16(SwathQuality.NO_CLOUD_MASK)) == 0
    row = {
        "area": area,
        "node": name,
        "time": str(np.datetime_as_string(fields["time"].values[0], unit="s")),
        "method": fields.attrs["method"],
        "maturity": fields.attrs["maturity"],
        "finite_fraction": float(np.isfinite(values).mean()),
        "background_std": float(np.median(known)) if known.size else None,
        "smallest": float(finite.min()) if finite.size else None,
        "largest": float(finite.max()) if finite.size else None,
        "columns_not_retrieved": int(fields.attrs.get("columns_not_retrieved", 0)),
        "cloud_mask": bool(finite.size and masked[np.isfinite(values)].mean() >= MASKED_SHARE),
    }
    return parquet_bytes(pl.DataFrame([row], schema=SUMMARY_SCHEMA))


def within(table: pl.DataFrame, limits: tuple[float, float]) -> Check:
    """Judge whether all enhancements of a summary lie within what the retrieval can return, ppm m."""
    low, high = limits
    outside = table.filter((pl.col("smallest") < low) | (pl.col("largest") > high))
    return Check(
        name="enhancement_range",
        passed=outside.height == 0,
        detail={
            "smallest ppm m": table["smallest"].min() if table.height else None,
            "largest ppm m": table["largest"].max() if table.height else None,
            "allowed": f"{low:g} to {high:g}",
        },
    )


def checks(snapshot: Snapshot, table: pl.DataFrame) -> tuple[Check, ...]:
    """Judge a date by the summaries of its nodes; a date without any passes."""
    if not table.height:
        table = pl.DataFrame(schema=SUMMARY_SCHEMA)
    failed: Mapping[str, str] = snapshot.meta["not_retrieved"]
    left: Mapping[str, str] = snapshot.meta["left_out"]
    return (
        within(table, ENHANCEMENT_RANGE),
        Check(
            name="granules_retrieved",
            passed=not failed,
            detail={
                "granules": table.height,
                "not retrieved": "; ".join(f"{name}: {why}" for name, why in failed.items()) or "none",
                "left out": "; ".join(f"{name}: {why}" for name, why in left.items()) or "none",
                "without a cloud mask": table.filter(~pl.col("cloud_mask")).height,
            },
        ),
    )
