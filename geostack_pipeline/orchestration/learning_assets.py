"""The learning loop as assets: training set, candidate, evaluation, champion; without partitions, in one job.

Annotations are evaluated in this module: Dagster reads the config type of a body from the object, not from a string.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg
import polars as pl

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.orchestration.assets import OWNERS, StageConfig
from geostack_pipeline.orchestration.metadata import data_uri, lineage_metadata, markdown, thumbnail
from geostack_pipeline.orchestration.processes import sign
from geostack_pipeline.orchestration.sensors import RETRAIN
from geostack_pipeline.settings import Settings
from geostack_pipeline.stages import candidate_model, champion_model, cube, evaluation, training_set
from geostack_pipeline.stages.progress import Event, listening
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace
from geostack_pipeline.storage.snapshot import Snapshot

GROUP = "learning"
MOST_ITEMS = 500
"""Items of a training set that its page lists; `geostack model trail` lists all."""
_SHOWN = (
    "training_set",
    "candidate",
    "champion",
    "evaluation",
    "replaced",
    "weak_negatives",
    "tiles_train",
    "tiles_validation",
    "test_granules",
    "dropped",
    "profile",
    "steps",
    "parameters",
    "threshold",
    "loss",
    "auprc",
    "f1",
)


@dataclass(frozen=True, kw_only=True)
class _Stage:
    name: str
    io_manager: str
    kinds: frozenset[str]
    code_version: str
    description: str
    checks: Mapping[str, str]
    build: Callable[[Workspace], Outcome | None]


_STAGES = (
    _Stage(
        name=training_set.NAME,
        io_manager="trees",
        kinds=frozenset({"zarr", "xarray"}),
        code_version=training_set.CODE_VERSION,
        description="Tiles of EMIT's methane fields with what analysts outlined in them, split by site and time. The "
        "version is the digest of granules, files and label revisions; any stored one can be cut again exactly.",
        checks={
            "trainable": "There are tiles with and without plumes to learn from.",
            "testable": "A granule with plumes lies in a cell of the test set.",
        },
        build=training_set.build,
    ),
    _Stage(
        name=candidate_model.NAME,
        io_manager="models",
        kinds=frozenset({"jax"}),
        code_version=candidate_model.CODE_VERSION,
        description="A small U-Net trained on the training set. A training that was killed goes on from its last "
        "checkpoint, with the same result.",
        checks={"loss_fell": "The loss at the end is below that of the beginning."},
        build=candidate_model.build,
    ),
    _Stage(
        name=evaluation.NAME,
        io_manager="tables",
        kinds=frozenset({"jax", "parquet"}),
        code_version=evaluation.CODE_VERSION,
        description="Candidate, champion and blurred matched filter on whole granules of places that no model learnt "
        "from: pixels, plumes, calibration, and the paired bootstrap of the differences.",
        checks={"enough_test_granules": "There are granules enough that chance does not decide."},
        build=evaluation.build,
    ),
    _Stage(
        name=champion_model.NAME,
        io_manager="models",
        kinds=frozenset({"jax", "stac"}),
        code_version=champion_model.CODE_VERSION,
        description="The model that the daily inference uses. A candidate replaces it only when it is surely better and "
        "nowhere worse; `geostack model rollback` brings an earlier one back.",
        checks={
            "promotion_gate": "The candidate is surely better than the champion, with no more false plumes, no fewer "
            "small ones and the injected ones recovered, on granules enough; otherwise the champion stays."
        },
        build=champion_model.build,
    ),
)


def learning_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    """Return the four assets; none where learning is off or no provider has EMIT's methane products."""
    if not settings.learning.enabled:
        return []
    providers = training_set.providers(settings)
    if not providers:
        return []
    before: list[dg.AssetKey] = [dg.AssetKey([key, cube.NAME]) for key in providers]
    made = []
    for stage in _STAGES:
        made.append(_asset(stage, before))
        before = [dg.AssetKey([stage.name])]
    return made


def _asset(stage: _Stage, deps: list[dg.AssetKey]) -> dg.AssetsDefinition:
    key = dg.AssetKey([stage.name])

    # Read from the store by the stage itself: what is judged is decided there, at one moment.
    @dg.asset(
        key=key,
        deps=deps,
        io_manager_key=stage.io_manager,
        required_resource_keys={"workspace"},
        code_version=stage.code_version,
        group_name=GROUP,
        kinds=set(stage.kinds),
        owners=OWNERS,
        description=stage.description,
        tags={"geostack/stage": stage.name},
        pool=RETRAIN,
        # A first candidate that is refused leaves no champion.
        output_required=stage.name != champion_model.NAME,
        check_specs=[
            dg.AssetCheckSpec(name, asset=key, description=text) for name, text in stage.checks.items()
        ],
    )
    def body(context: dg.AssetExecutionContext, config: StageConfig) -> Iterator[Any]:
        sign(context)
        ws: Workspace = context.resources.workspace.open(run_id=context.run.run_id, pins=config.pins)
        try:
            with listening(lambda event: _tell(context, stage.name, event)):
                outcome = stage.build(ws)
        except GeostackError as error:
            # The message says it all; a traceback would bury it.
            raise dg.Failure(description=str(error), allow_retries=error.retryable) from None
        if outcome is None:
            judged = ws.current(evaluation.NAME, evaluation.PARTITION)
            assert judged is not None
            yield from _results([champion_model.gate_check(judged)])
            return
        with warnings.catch_warnings():
            # A data version of one's own is beta; the constraints file pins the Dagster that it was tested with.
            warnings.simplefilter("ignore", dg.BetaWarning)
            output = dg.Output(
                outcome.snapshot,
                metadata=_metadata(stage.name, outcome),
                data_version=dg.DataVersion(outcome.snapshot.version),
            )
        yield output
        yield from _results(outcome.checks)

    return body


def tell_champion(instance: dg.DagsterInstance, snapshot: Snapshot) -> None:
    """Have the page of the champion show a model that came into use without a run, and mark as stale what it judges."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            asset_key=dg.AssetKey([champion_model.NAME]),
            description="brought back by geostack model rollback",
            metadata=_metadata(champion_model.NAME, Outcome(snapshot=snapshot, reused=True)),
            tags={
                "dagster/code_version": champion_model.CODE_VERSION,
                "dagster/data_version": snapshot.version,
                "dagster/data_version_is_user_provided": "true",
            },
        )
    )


def _tell(context: dg.AssetExecutionContext, stage: str, event: Event) -> None:
    if event.stage == stage and event.status in {"moved", "waits"}:
        context.log.info(
            ", ".join(
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in event.info.items()
            )
        )


def _results(checks: tuple[Check, ...] | list[Check]) -> Iterator[dg.AssetCheckResult]:
    for check in checks:
        yield dg.AssetCheckResult(
            check_name=check.name,
            passed=check.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description="; ".join(f"{key}: {value}" for key, value in check.detail.items()),
            metadata={key: dg.MetadataValue.text(str(value)) for key, value in check.detail.items()},
        )


def _metadata(stage: str, outcome: Outcome) -> dict[str, Any]:
    """Return what the asset's page shows."""
    snapshot = outcome.snapshot
    where = dg.MetadataValue.path if snapshot.url().startswith("file:") else dg.MetadataValue.url
    entries: dict[str, Any] = {
        "dagster/uri": where(snapshot.url()),
        "version": snapshot.version,
        "reused": outcome.reused,
    }
    entries |= {name: snapshot.meta[name] for name in _SHOWN if snapshot.meta.get(name) is not None}
    if "labelled" in snapshot.meta:
        entries["labelled granules"] = len(snapshot.meta["labelled"])
    if isinstance(snapshot.meta.get("rows"), int):
        entries["dagster/row_count"] = snapshot.meta["rows"]
    entries |= lineage_metadata(snapshot)
    if stage == training_set.NAME:
        entries["items"] = _items(snapshot)
    table = _table(stage, snapshot)
    if table is not None and table.height:
        entries["table"] = dg.MetadataValue.md(markdown(table))
    pictures = sorted(path for path in snapshot.files if path.startswith("quicklook-"))
    if pictures:
        shown = data_uri(thumbnail([snapshot.read(path) for path in pictures[:2]]))
        entries["picture"] = dg.MetadataValue.md(f"![{stage}]({shown})")
    if "README.md" in snapshot.files:
        entries["model card"] = dg.MetadataValue.md(snapshot.read("README.md").decode())
    entries |= {f"run/{name}": value for name, value in outcome.stats.items()}
    return entries


def _items(snapshot: Snapshot) -> dg.MetadataValue:
    """Return what a training set was cut from, down to item, label and cube versions."""
    columns = ("item_id", "digest", "state", "split", "label_revision", "labels", "day", "cube")
    rows: pl.DataFrame = snapshot.open("members").select(columns).sort("item_id")
    records = [
        dg.TableRecord(
            {
                name: ", ".join(value) if isinstance(value, list) else value or ""
                for name, value in row.items()
            }
        )
        for row in rows.head(MOST_ITEMS).iter_rows(named=True)
    ]
    schema = dg.TableSchema([dg.TableColumn(name, type="string") for name in columns])
    return dg.MetadataValue.table(records, schema=schema)


def _table(stage: str, snapshot: Snapshot) -> pl.DataFrame | None:
    if stage == training_set.NAME:
        table: pl.DataFrame = snapshot.open("members")
        return table.select("item_id", "state", "split", "tiles_train", "plume_pixels")
    if stage == evaluation.NAME:
        names = ("method", "auprc", "f1", "precision", "recall", "false_per_granule", "calibration_error")
        results = snapshot.meta["results"].values()
        return pl.DataFrame(
            [{name: result[name] for name in names} for result in results], infer_schema_length=None
        )
    return None
