"""I/O managers over the artifact store: assets hand on lazy snapshots, never data.

An asset's body builds and commits each date itself, so that finished dates survive a failing one; storing an
output therefore checks that every date of the run is there.  Loading an input reads one small pointer per
date.  Whether a consumer gets a :class:`Snapshot` or a ``dict[str, Snapshot]`` is decided by its annotation:
a range of one date stays a range.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_origin

import dagster as dg

from geostack_pipeline.errors import ArtifactNotFoundError, IntegrityError, StorageError
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import open_workspace
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.snapshot import Snapshot

WHOLE = "all"
"""Partition in the store of an asset that has none in Dagster."""
ALLOW_MISSING = "allow_missing_partitions"
"""Metadata key of an input whose dates without a stored version are simply left out."""


class SnapshotIOManager(dg.ConfigurableIOManager):
    """Moves snapshots of one kind of artifact between assets."""

    settings_file: str = ""

    @property
    def kind(self) -> Literal["table", "tree", "model"]:
        """The kind of artifact that this manager accepts."""
        raise TypeError(f"{type(self).__name__} does not say which kind of artifact it moves")

    def _store(self) -> ArtifactStore:
        return open_workspace(load_settings(self.settings_file or None)).artifacts

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Check that every date of the run has a complete, current version of the right kind."""
        if obj is None:
            return
        snapshots: Mapping[str, Snapshot] = (
            obj if isinstance(obj, Mapping) else {_partitions(context)[0]: obj}
        )
        subject = context.asset_key.to_user_string()
        expected = set(_partitions(context))
        if set(snapshots) != expected:
            odd = sorted(expected.symmetric_difference(snapshots))
            raise IntegrityError(
                "an output must hold exactly the dates of its run",
                subject=subject,
                found=f"dates missing or too many: {', '.join(odd)}",
                action="store the finished dates and fail the step for the others",
            )
        for day, snapshot in snapshots.items():
            if (snapshot.asset, snapshot.partition, snapshot.kind) != (
                "/".join(context.asset_key.path),
                day,
                self.kind,
            ):
                raise IntegrityError(
                    f"an output of kind {self.kind} holds something else",
                    subject=f"{subject} {day}",
                    found=f"{snapshot.kind} {snapshot.asset} {snapshot.partition}",
                    action="return the snapshot that the stage committed",
                )

    def load_input(self, context: dg.InputContext) -> Snapshot | dict[str, Snapshot] | None:
        """Return the current versions of the input's dates: one small read each, no data.

        An input that allows missing dates gets a mapping without them, or None in place of a single snapshot.
        """
        asset = "/".join(context.asset_key.path)
        store = self._store()
        optional = bool((context.definition_metadata or {}).get(ALLOW_MISSING, False))
        found: dict[str, Snapshot | None] = {}
        for day in _partitions(context):
            try:
                found[day] = store.current(asset, day)
            except StorageError as error:
                if not optional:
                    raise
                # One damaged date must not stop the others; whoever needs it meets the error again.
                context.log.warning("%s", error)
                found[day] = None
        present = {day: snapshot for day, snapshot in found.items() if snapshot is not None}
        missing = sorted(set(found) - set(present))
        if missing and not optional:
            raise ArtifactNotFoundError(
                "no version is stored",
                subject=f"{asset} {', '.join(missing[:5])}",
                action=f"materialise {asset} for these dates first",
            )
        if wants_mapping(context.dagster_type.typing_type):
            return present
        if len(found) != 1:
            raise IntegrityError(
                f"the input is annotated as one Snapshot but covers {len(found)} dates",
                subject=asset,
                action="annotate it as dict[str, Snapshot]",
            )
        return next(iter(present.values())) if present else None


class TableIOManager(SnapshotIOManager):
    """Snapshots of tables: stac-geoparquet and parquet."""

    @property
    def kind(self) -> Literal["table", "tree", "model"]:
        """The kind of artifact that this manager accepts."""
        return "table"


class TreeIOManager(SnapshotIOManager):
    """Snapshots of Zarr trees."""

    @property
    def kind(self) -> Literal["table", "tree", "model"]:
        """The kind of artifact that this manager accepts."""
        return "tree"


class ModelIOManager(SnapshotIOManager):
    """Snapshots of models: weights as safetensors with what describes them."""

    @property
    def kind(self) -> Literal["table", "tree", "model"]:
        """The kind of artifact that this manager accepts."""
        return "model"


def _partitions(context: dg.OutputContext | dg.InputContext) -> list[str]:
    """Return the partitions of an input or output in the store."""
    return list(context.asset_partition_keys) if context.has_asset_partitions else [WHOLE]


def wants_mapping(annotation: Any) -> bool:
    """Whether an annotation asks for all dates by name."""
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)
