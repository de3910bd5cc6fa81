"""I/O managers: what an input gets is decided by its annotation, and an output holds exactly its dates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from geostack_pipeline.errors import ArtifactNotFoundError, IntegrityError, StorageError
from geostack_pipeline.orchestration.io_managers import (
    ALLOW_MISSING,
    SnapshotIOManager,
    TableIOManager,
    TreeIOManager,
    wants_mapping,
)
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import open_workspace
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.snapshot import Snapshot

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

KEY = dg.AssetKey(["earth_search", "scenes"])
ASSET = "earth_search/scenes"
DAYS = dg.DailyPartitionsDefinition(start_date="2024-06-01")
ONE, TWO, THREE = "2024-06-01", "2024-06-02", "2024-06-03"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file with an empty store."""
    path = tmp_path / "geostack.yaml"
    path.write_text("root: file:store\n", encoding="utf-8")
    return path


@pytest.fixture
def store(file: Path) -> ArtifactStore:
    """The store behind the settings file."""
    return open_workspace(load_settings(file)).artifacts


def _write(store: ArtifactStore, day: str, *, asset: str = ASSET, kind: Any = "table") -> Snapshot:
    with store.begin(asset, day, f"v{day}", kind=kind, code_version="1", upstream={}) as attempt:
        attempt.put("scenes.parquet", b"bytes of no meaning")
        snapshot = attempt.commit(meta={"rows": 1})
    store.point(snapshot)
    return snapshot


def _input(
    file: Path, annotation: Any, first: str, last: str, metadata: Mapping[str, Any] | None = None
) -> Any:
    context = dg.build_input_context(
        asset_key=KEY,
        asset_partitions_def=DAYS,
        asset_partition_key_range=dg.PartitionKeyRange(first, last),
        partition_key=first if first == last else None,
        definition_metadata=dict(metadata or {}),
        dagster_type=dg.DagsterType(lambda _, _value: True, name="anything", typing_type=annotation),
    )
    return TableIOManager(settings_file=str(file)).load_input(context)


def _output(manager: type[SnapshotIOManager], file: Path, value: Any, first: str, last: str) -> None:
    with dg.DagsterInstance.ephemeral() as instance:

        @dg.asset(
            key=KEY,
            partitions_def=DAYS,
            io_manager_key="io",
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def stage() -> Any:
            return value

        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        dg.materialize(
            [stage], instance=instance, resources={"io": manager(settings_file=str(file))}, tags=tags
        )


@pytest.mark.parametrize("annotation", [dict[str, Snapshot], dict, Mapping[str, Snapshot], Mapping])
def test_an_input_annotated_as_a_mapping_gets_one_also_for_one_date(
    annotation: Any, file: Path, store: ArtifactStore
) -> None:
    _write(store, ONE)
    loaded = _input(file, annotation, ONE, ONE)
    assert {day: snapshot.version for day, snapshot in loaded.items()} == {ONE: f"v{ONE}"}


def test_an_input_annotated_as_a_snapshot_gets_it_bare(file: Path, store: ArtifactStore) -> None:
    _write(store, ONE)
    loaded = _input(file, Snapshot, ONE, ONE)
    assert isinstance(loaded, Snapshot)
    assert loaded.partition == ONE


def test_a_range_gets_every_date_under_its_own_name(file: Path, store: ArtifactStore) -> None:
    for day in (ONE, TWO, THREE):
        _write(store, day)
    loaded = _input(file, dict[str, Snapshot], ONE, THREE)
    assert {day: snapshot.partition for day, snapshot in loaded.items()} == {
        day: day for day in (ONE, TWO, THREE)
    }


def test_a_range_does_not_fit_one_snapshot(file: Path, store: ArtifactStore) -> None:
    _write(store, ONE)
    _write(store, TWO)
    with pytest.raises(IntegrityError, match=r"covers 2 dates.*annotate it as dict\[str, Snapshot\]"):
        _input(file, Snapshot, ONE, TWO)


def test_a_missing_date_is_named(file: Path, store: ArtifactStore) -> None:
    _write(store, ONE)
    with pytest.raises(ArtifactNotFoundError, match=f"{ASSET} {TWO}: no version is stored"):
        _input(file, dict[str, Snapshot], ONE, TWO)
    with pytest.raises(ArtifactNotFoundError, match=THREE):
        _input(file, Snapshot, THREE, THREE)


def test_where_missing_dates_are_allowed_they_are_left_out(file: Path, store: ArtifactStore) -> None:
    _write(store, TWO)
    allowed = {ALLOW_MISSING: True}
    assert set(_input(file, dict[str, Snapshot], ONE, THREE, allowed)) == {TWO}
    assert _input(file, dict[str, Snapshot], ONE, ONE, allowed) == {}
    assert _input(file, Snapshot, ONE, ONE, allowed) is None


def test_a_damaged_date_is_left_out_where_it_may_be_and_an_error_elsewhere(
    file: Path, store: ArtifactStore
) -> None:
    for day in (ONE, TWO):
        _write(store, day)
    assert store.root.path is not None
    (store.root.path / f"artifacts/{ASSET}/{ONE}/v{ONE}/complete.json").unlink()
    assert set(_input(file, dict[str, Snapshot], ONE, TWO, {ALLOW_MISSING: True})) == {TWO}
    with pytest.raises(StorageError, match="its pointer leads to a version that is not there"):
        _input(file, dict[str, Snapshot], ONE, TWO)


def test_an_output_holds_exactly_the_dates_of_its_run(file: Path, store: ArtifactStore) -> None:
    stored = {day: _write(store, day) for day in (ONE, TWO, THREE)}
    _output(TableIOManager, file, {day: stored[day] for day in (ONE, TWO)}, ONE, TWO)
    for wrong, odd in (((ONE,), TWO), ((ONE, TWO, THREE), THREE)):
        with pytest.raises(IntegrityError, match=f"dates missing or too many: {odd}"):
            _output(TableIOManager, file, {day: stored[day] for day in wrong}, ONE, TWO)


def test_an_output_under_another_dates_name_is_refused(file: Path, store: ArtifactStore) -> None:
    stored = {day: _write(store, day) for day in (ONE, TWO)}
    with pytest.raises(IntegrityError, match=f"{ONE}: an output of kind table holds something else"):
        _output(TableIOManager, file, {ONE: stored[TWO], TWO: stored[ONE]}, ONE, TWO)


def test_an_output_of_another_kind_or_asset_is_refused(file: Path, store: ArtifactStore) -> None:
    table = _write(store, ONE)
    with pytest.raises(IntegrityError, match=f"of kind tree holds something else.*table {ASSET} {ONE}"):
        _output(TreeIOManager, file, {ONE: table}, ONE, ONE)
    other = _write(store, ONE, asset="earth_search/selected")
    with pytest.raises(IntegrityError, match=f"table earth_search/selected {ONE}"):
        _output(TableIOManager, file, {ONE: other}, ONE, ONE)


def test_a_bare_snapshot_may_be_the_output_of_one_date(file: Path, store: ArtifactStore) -> None:
    _output(TableIOManager, file, _write(store, ONE), ONE, ONE)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (dict[str, Snapshot], True),
        (Mapping[str, Snapshot], True),
        (Snapshot, False),
        (Any, False),
        (None, False),
    ],
)
def test_annotations(annotation: Any, expected: bool) -> None:
    assert wants_mapping(annotation) is expected
