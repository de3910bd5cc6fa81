"""The asset graph: up to five assets per provider, the plumes over all of them and their publication, by UTC date.

Annotations are evaluated in this module: Dagster reads the config type of a body from the object, not from a string.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.orchestration.io_managers import ALLOW_MISSING
from geostack_pipeline.orchestration.metadata import day_metadata
from geostack_pipeline.orchestration.processes import sign
from geostack_pipeline.orchestration.recording import DayResult, input_tags, record_days
from geostack_pipeline.providers.contract import Product, Provider
from geostack_pipeline.stages import (
    champion_model,
    cube,
    granules,
    methane,
    methane_swath,
    plumes,
    published,
    scenes,
    selected,
)
from geostack_pipeline.stages.plan import stages_of
from geostack_pipeline.stages.progress import Event, Status, emit
from geostack_pipeline.stages.workspace import Outcome, Workspace, asset_name, require
from geostack_pipeline.storage.snapshot import Snapshot

OWNERS = ["team:earth-observation"]


class StageConfig(dg.Config):
    """What a run may ask of a stage."""

    refresh: bool = False
    """Ask the catalog and the sources again, also for frozen dates."""
    pins: dict[str, str] = Field(default_factory=dict)
    """``<asset>/<date>`` -> stored version to read instead of the current one."""


@dataclass(frozen=True, kw_only=True)
class _Stage:
    name: str
    io_manager: str
    kinds: frozenset[str]
    code_version: str
    description: str
    checks: Mapping[str, str]
    resources: frozenset[str] = frozenset()
    """Resources beside the workspace of an asset over all providers."""
    side_by_side: int = 1
    """Dates worked on at once: several where a date waits for somebody else's answers."""


_STAGES = (
    _Stage(
        name=scenes.NAME,
        io_manager="tables",
        kinds=frozenset({"stac", "parquet"}),
        code_version=scenes.CODE_VERSION,
        description="Everything the catalog has for the areas of interest on this date: normalised items as "
        "stac-geoparquet, and the rejected ones with their reason. Content-addressed: an unchanged catalog gives "
        "an unchanged version.",
        checks={
            "scene_list_schema": "Every canonical column is there and no item is listed twice.",
            "scene_list_count": "Rows and rejections add up to what the search returned.",
        },
        side_by_side=4,
    ),
    _Stage(
        name=selected.NAME,
        io_manager="tables",
        kinds=frozenset({"duckdb", "parquet"}),
        code_version=selected.CODE_VERSION,
        description="The scenes that survive the SQL filter, the coverage of the areas and the de-duplication of "
        "scenes; every dropped row with its reason.",
        checks={
            "one_row_per_scene": "No physical scene is selected twice.",
            "drops_have_reasons": "Every dropped row says why.",
        },
    ),
    _Stage(
        name=granules.NAME,
        io_manager="tables",
        kinds=frozenset({"cog", "parquet"}),
        code_version=granules.CODE_VERSION,
        description="Manifest of cached bytes: for each selected scene and area only the COG tiles that intersect "
        "it, copied without decoding.",
        checks={
            "cache_integrity": "Every cached object is there with its size.",
            "assets_complete": "Every selected scene has all wanted assets.",
        },
    ),
    _Stage(
        name=cube.NAME,
        io_manager="trees",
        kinds=frozenset({"zarr", "xarray"}),
        code_version=cube.CODE_VERSION,
        description="Zarr tree with one node per area on its own grid: reflectance, scene classification and the "
        "scene that each pixel comes from.",
        checks={
            "valid_fraction": "Every time has valid pixels.",
            "physical_range": "Reflectance lies within what a surface can reflect.",
        },
    ),
    _Stage(
        name=methane.NAME,
        io_manager="trees",
        kinds=frozenset({"jax", "zarr"}),
        code_version=methane.CODE_VERSION,
        description="Methane enhancement by MBSP and MBMP, and plume candidates. Screening: Sentinel-2 sees only "
        "strong plumes over even ground.",
        checks={
            "enhancement_range": "The enhancement lies within what the retrieval can return.",
            "reference_found": "A reference date of the same orbit was found.",
        },
    ),
)

_SWATH: Mapping[str, _Stage] = {
    cube.NAME: replace(
        next(stage for stage in _STAGES if stage.name == cube.NAME),
        description="Zarr tree with one node per granule: radiance, reflectance or methane fields with the outlines that "
        "analysts drew, cut to the areas.",
        checks={
            "valid_fraction": "Every granule has valid pixels.",
            "physical_range": "The main variable lies within what noise and light allow.",
            "outlines_read": "The metadata of every outline could be read; the others are drawn in no granule.",
        },
    ),
    methane.NAME: _Stage(
        name=methane.NAME,
        io_manager="trees",
        kinds=frozenset({"jax", "zarr"}),
        code_version=f"{methane.CODE_VERSION}-{methane_swath.CODE_VERSION}",
        description="Methane enhancement, uncertainty and sensitivity of each granule by a matched filter (mag1c or CMF) "
        "on radiance, or from the catalog's own methane product, on a map; and plume candidates.",
        checks={
            "enhancement_range": "The enhancement lies within what the retrieval can return.",
            "granules_retrieved": "Every granule with radiance or methane gave a field, or is cloudy.",
        },
    ),
}
"""Stages that are another thing for swaths."""

_PLUMES = _Stage(
    name=plumes.NAME,
    io_manager="tables",
    kinds=frozenset({"parquet", "geospatial"}),
    code_version=plumes.CODE_VERSION,
    resources=frozenset({"wind"}),
    description="The plume candidates of this date over all providers, one row per physical plume: what several "
    "catalogs or neighbouring scenes of one overpass show is counted once, and every candidate is kept as a member. "
    "Emission rates come from the wind that the settings name; without one they are null and say why.",
    checks={
        "rates_or_reasons": "Every plume has an emission rate, or the reason why it has none.",
        "one_row_per_plume": "No two rows are candidates of one pass with outlines that meet.",
        "members_accounted_for": "Every candidate of every provider is a member of exactly one plume.",
    },
)

_PUBLISHED = _Stage(
    name=published.NAME,
    io_manager="tables",
    kinds=frozenset({"stac", "cog", "zarr"}),
    code_version=published.CODE_VERSION,
    description="The results of this date as a static STAC catalog: enhancement fields as COG and Zarr, plumes as "
    "GeoParquet and GeoJSON, every item with links to the items and stored versions that it was made from, and one page "
    "to read. `geostack serve` serves all dates as a STAC API.",
    checks={
        "stac_valid": "Catalog, collections and items are valid by the schemas of STAC 1.1 and its extensions.",
        "assets_present": "Every asset of every item is a file of the version.",
        "every_plume_published": "There is one item per plume.",
        "sources_named": "Every item names the catalog items that it was made from.",
    },
)


def partitions(start: date, end: date | None = None) -> dg.DailyPartitionsDefinition:
    """Return the daily UTC partitions that all providers share.

    Without an end today's is included: its list is asked again tomorrow.
    """
    if end is not None:
        return dg.DailyPartitionsDefinition(
            start_date=start.isoformat(), end_date=(end + timedelta(days=1)).isoformat()
        )
    return dg.DailyPartitionsDefinition(start_date=start.isoformat(), end_offset=1)


def provider_assets(
    key: str, days: dg.DailyPartitionsDefinition, product: Product, *, judged: bool = False
) -> list[dg.AssetsDefinition]:
    """Return the assets of a provider: one for each stage that its scenes go through.

    ``judged``: its methane is judged by the plume model in use, where there is one.
    """
    make: dict[str, Callable[..., dg.AssetsDefinition]] = {
        scenes.NAME: _scenes,
        selected.NAME: _selected,
        granules.NAME: _granules,
        cube.NAME: _cube,
        methane.NAME: partial(_methane, judged=judged),
    }
    there = stages_of(product)
    return [
        make[stage.name](key, days, _SWATH.get(stage.name, stage) if product.kind == "swath" else stage)
        for stage in _STAGES
        if stage.name in there
    ]


def _decorate(
    key: str,
    days: dg.DailyPartitionsDefinition,
    stage: _Stage,
    ins: Mapping[str, dg.AssetIn],
    deps: Sequence[dg.AssetKey] = (),
) -> Any:
    asset_key = dg.AssetKey(_path(key, stage.name))
    return dg.asset(
        key=asset_key,
        ins=dict(ins),
        deps=list(deps),
        partitions_def=days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        io_manager_key=stage.io_manager,
        # dagster.yaml limits the runs of a pool.
        pool=key or None,
        required_resource_keys={"workspace", *([key] if key else stage.resources)},
        code_version=stage.code_version,
        group_name=stage.name,
        kinds=set(stage.kinds),
        owners=OWNERS,
        description=stage.description,
        tags={"geostack/stage": stage.name, **({"geostack/provider": key} if key else {})},
        check_specs=[
            # With partitions of its own, a check shows each date's evaluation under its date in the UI.
            dg.AssetCheckSpec(name, asset=asset_key, description=text, partitions_def=days)
            for name, text in stage.checks.items()
        ],
    )


def _upstream(key: str, stage: str) -> dict[str, dg.AssetIn]:
    return {stage: dg.AssetIn(key=[key, stage], metadata={ALLOW_MISSING: True})}


def _scenes(key: str, days: dg.DailyPartitionsDefinition, stage: _Stage) -> dg.AssetsDefinition:
    def body(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        provider = _provider(context, key)

        def one(ws: Workspace, day: str) -> Outcome:
            return scenes.build(ws, provider, day, refresh=config.refresh)

        yield from _run(context, key, stage, config, one)

    return _decorate(key, days, stage, {})(body)  # type: ignore[no-any-return]


def _selected(key: str, days: dg.DailyPartitionsDefinition, stage: _Stage) -> dg.AssetsDefinition:
    def body(
        context: dg.AssetExecutionContext,
        config: StageConfig,
        scenes: dict[str, Snapshot],
    ) -> Iterator[Any]:
        provider = _provider(context, key)

        def one(ws: Workspace, day: str) -> Outcome:
            return selected.build(ws, provider, day, _input(ws, key, "scenes", day, scenes))

        yield from _run(context, key, stage, config, one)

    return _decorate(key, days, stage, _upstream(key, "scenes"))(body)  # type: ignore[no-any-return]


def _granules(key: str, days: dg.DailyPartitionsDefinition, stage: _Stage) -> dg.AssetsDefinition:
    def body(
        context: dg.AssetExecutionContext,
        config: StageConfig,
        selected: dict[str, Snapshot],
    ) -> Iterator[Any]:
        provider = _provider(context, key)

        def one(ws: Workspace, day: str) -> Outcome:
            source = _input(ws, key, "selected", day, selected)
            return granules.build(ws, provider, day, source, refresh=config.refresh)

        yield from _run(context, key, stage, config, one)

    return _decorate(key, days, stage, _upstream(key, "selected"))(body)  # type: ignore[no-any-return]


def _cube(key: str, days: dg.DailyPartitionsDefinition, stage: _Stage) -> dg.AssetsDefinition:
    def body(
        context: dg.AssetExecutionContext,
        config: StageConfig,
        granules: dict[str, Snapshot],
    ) -> Iterator[Any]:
        provider = _provider(context, key)

        def one(ws: Workspace, day: str) -> Outcome:
            return cube.build(ws, provider, day, _input(ws, key, "granules", day, granules))

        yield from _run(context, key, stage, config, one)

    return _decorate(key, days, stage, _upstream(key, "granules"))(body)  # type: ignore[no-any-return]


def _methane(
    key: str, days: dg.DailyPartitionsDefinition, stage: _Stage, *, judged: bool
) -> dg.AssetsDefinition:
    # The references are earlier dates of the cube, read from the store.  They are part of the version, not of the
    # partition mapping: with a look-back there, a backfill of a date launches the 30 dates after it as well.
    def body(
        context: dg.AssetExecutionContext,
        config: StageConfig,
        cube: dict[str, Snapshot],
    ) -> Iterator[Any]:
        provider = _provider(context, key)

        def one(ws: Workspace, day: str) -> Outcome:
            own = _input(ws, key, "cube", day, cube)
            return methane.build(ws, provider, day, own, methane.references(ws, provider, day))

        yield from _run(context, key, stage, config, one)

    # Read from the store as well: there may be no model yet.
    model = [dg.AssetKey([champion_model.NAME])] if judged else []
    return _decorate(key, days, stage, _upstream(key, "cube"), model)(body)  # type: ignore[no-any-return]


def plumes_asset(providers: Sequence[str], days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """Return the asset that counts the plumes of these providers."""
    # Read from the store, not handed over: a provider that has nothing for a date must not stop the others.
    deps = [dg.AssetKey([key, methane.NAME]) for key in providers]

    def body(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        def one(ws: Workspace, day: str) -> Outcome:
            return plumes.build(replace(ws, wind=context.resources.wind.open()), day)

        yield from _run(context, "", _PLUMES, config, one)

    return _decorate("", days, _PLUMES, {}, deps)(body)  # type: ignore[no-any-return]


def published_asset(providers: Sequence[str], days: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """Return the asset that publishes the plumes, and the methane of these providers."""
    deps = [dg.AssetKey([plumes.NAME]), *(dg.AssetKey([key, methane.NAME]) for key in providers)]

    def body(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        yield from _run(context, "", _PUBLISHED, config, published.build)

    return _decorate("", days, _PUBLISHED, {}, deps)(body)  # type: ignore[no-any-return]


def _provider(context: dg.AssetExecutionContext, key: str) -> Provider:
    provider: Provider = getattr(context.resources, key).provider()
    return provider


def _path(key: str, stage: str) -> list[str]:
    """Return the parts of the key of a stage's asset; without a provider for what is over all of them."""
    return [key, stage] if key else [stage]


def _input(ws: Workspace, key: str, stage: str, day: str, loaded: Mapping[str, Snapshot]) -> Snapshot:
    """Return the version of a date that the run reads: the pinned one, else what the I/O manager loaded."""
    asset = asset_name(key, stage)
    pinned = f"{asset}/{day}" in ws.pins
    # A date that the I/O manager left out is asked for again: the error then says what is wrong with this one.
    snapshot = ws.current(asset, day) if pinned or day not in loaded else loaded[day]
    if snapshot is None:
        raise GeostackError(
            "no version is stored for this date",
            subject=f"{asset} {day}",
            action=f"materialise {asset} first",
        )
    return snapshot


def _run(
    context: dg.AssetExecutionContext,
    key: str,
    stage: _Stage,
    config: StageConfig,
    one: Callable[[Workspace, str], Outcome],
) -> Iterator[Any]:
    """Try every date of the run, record the finished ones, then fail naming the rest."""
    sign(context)
    tags = input_tags(context)
    ws: Workspace = context.resources.workspace.open(run_id=context.run.run_id, pins=config.pins)
    done: dict[str, DayResult] = {}
    failed: dict[str, str] = {}

    def attempt(day: str) -> _Tried:
        emit(Event(provider=key, stage=stage.name, day=day, status="started"))
        try:
            outcome = one(ws, day)
            require(outcome.snapshot, outcome.checks)
            # Inside the guard too: a picture that cannot be read is that date's failure, not the range's.
            metadata = day_metadata(stage.name, outcome)
        except Exception as error:  # noqa: BLE001 - one broken date must not take the others with it
            return error
        return outcome, metadata

    for day, result in _each(attempt, context.partition_keys, stage.side_by_side):
        if isinstance(result, tuple):
            outcome, metadata = result
            done[day] = DayResult(
                value=outcome.snapshot,
                version=outcome.snapshot.version,
                metadata=metadata,
                checks={check.name: (check.passed, check.detail) for check in outcome.checks},
            )
            info = {
                **outcome.stats,
                **{f"meta/{name}": value for name, value in outcome.snapshot.meta.items()},
            }
            status: Status = "reused" if outcome.reused else "built"
            emit(
                Event(
                    provider=key,
                    stage=stage.name,
                    day=day,
                    status=status,
                    version=done[day].version,
                    info=info,
                )
            )
            continue
        if isinstance(result, GeostackError):
            # The message says it all; a traceback would bury it.
            failed[day] = str(result)
            context.log.error("%s: %s", day, result)
        else:
            failed[day] = (
                f"{'/'.join(_path(key, stage.name))} {day}: unexpected {type(result).__name__}: {result}"
            )
            context.log.error("%s: unexpected error", day, exc_info=result)
        emit(Event(provider=key, stage=stage.name, day=day, status="failed", error=failed[day]))
    yield from record_days(context, tags, stage.code_version, done, failed)


_Tried = tuple[Outcome, dict[str, Any]] | Exception
"""What came of a date, with its metadata, or what went wrong."""


def _each(
    work: Callable[[str], _Tried], days: Sequence[str], side_by_side: int
) -> Iterator[tuple[str, _Tried]]:
    """Yield each date with what came of it, in order; several are worked on at once where that helps."""
    if side_by_side == 1 or len(days) == 1:
        for day in days:
            yield day, work(day)
        return
    with ThreadPoolExecutor(side_by_side) as pool:
        jobs = [pool.submit(work, day) for day in days]
        try:
            for day, job in zip(days, jobs, strict=True):
                yield day, job.result()
        finally:
            for job in jobs:
                job.cancel()
