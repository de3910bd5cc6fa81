"""What the writers of a published version share: where its files go, and the methane that they show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geostack_pipeline.stages import cube
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.digest import sha256_bytes
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import xarray as xr

    from geostack_pipeline.publish.items import Document, Origin, StoredVersion
    from geostack_pipeline.storage.attempt import Attempt

NAME = "published"
REPORT = "report.html"
CATALOG = "catalog.json"
_UP = "../../../../../.."
"""From an item's folder to the folder of all artifacts: item, collection, attempt, version, date, asset."""


@dataclass
class Shelf:
    """Files of one version on their way into it."""

    attempt: Attempt
    items: list[Document] = field(default_factory=list)
    licences: dict[str, set[str]] = field(default_factory=dict)
    """Collection -> terms of the scenes."""
    pictures: dict[str, bytes] = field(default_factory=dict)
    """Plume -> its picture."""

    def put(self, path: str, data: bytes) -> Document:
        """Write a file and return size and checksum."""
        from geostack_pipeline.publish.items import file_facts

        self.attempt.put(path, data)
        return file_facts(data, sha256_bytes(data))

    def add(self, item: Document, origin: Origin) -> None:
        """Write an item."""
        self.items.append(item)
        terms = self.licences.setdefault(item["collection"], set())
        terms.update(href for source in origin.sources for href in source.licences)
        self.put_json(f"{item['collection']}/{item['id']}/{item['id']}.json", item)

    def put_json(self, path: str, document: Document) -> None:
        """Write a document."""
        self.attempt.put(
            path, (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        )

    def of(self, collection: str) -> list[Document]:
        """Return the items of a collection, by time."""
        own = [item for item in self.items if item["collection"] == collection]
        return sorted(own, key=lambda item: (item["properties"]["datetime"], item["id"]))


@dataclass(frozen=True)
class Retrieval:
    """One provider's methane of the date."""

    ws: Workspace
    snapshot: Snapshot

    @property
    def provider(self) -> str:
        """Its key."""
        return self.snapshot.asset.rpartition("/")[0]

    @cached_property
    def tree(self) -> xr.DataTree:
        """The fields, a node per area or granule."""
        opened: xr.DataTree = self.snapshot.open()
        return opened

    @cached_property
    def lists(self) -> Any:
        """The scene lists that the fields lead back to."""
        from geostack_pipeline.stages.lineage import SceneLists

        return SceneLists.of(self.ws, self.provider, self.snapshot)

    @cached_property
    def cube(self) -> xr.DataTree | None:
        """The cube that the fields were made from, for the colours of the ground."""
        asset = asset_name(self.provider, cube.NAME)
        found = self.ws.artifacts.find(
            asset, self.snapshot.partition, self.snapshot.upstream[f"{asset}/{self.snapshot.partition}"]
        )
        return None if found is None else found.open()

    @cached_property
    def colours(self) -> dict[str, NDArray[np.float32] | None]:
        """True colours under the node that was asked for last."""
        return {}

    def ground(self, name: str, scene: str) -> list[xr.Dataset]:
        """Return the cube node of this name, then the others of the same scene; none where there is no cube any more."""
        if self.cube is None:
            return []
        others = [
            key
            for key, node in sorted(self.cube.children.items())
            if scene and key != name and node.attrs.get("scene") == scene
        ]
        return [self.cube[key].to_dataset() for key in (name, *others) if key in self.cube.children]

    def stored(self) -> StoredVersion:
        """Return what items say of it as their source."""
        return stored_version(self.snapshot)


def retrievals_of(ws: Workspace, counted: Snapshot) -> Iterator[Retrieval]:
    """Yield the methane that plumes were counted from, in exactly those versions.

    Raises:
        StorageError: One is gone.
    """
    for name, wanted in sorted(counted.upstream.items()):
        yield Retrieval(ws, ws.source(name, wanted))


def stored_version(snapshot: Snapshot) -> StoredVersion:
    """Return what an item says of a version that its results come from."""
    from geostack_pipeline.publish.items import StoredVersion

    where = f"{_UP}/{snapshot.asset}/{snapshot.partition}/{snapshot.version}/complete.json"
    return StoredVersion(
        asset=snapshot.asset, partition=snapshot.partition, version=snapshot.version, href=where
    )


def times_of(node: xr.Dataset) -> list[datetime]:
    """Return the times of a node, UTC."""
    values = np.atleast_1d(node["time"].values).astype("datetime64[us]")
    return [value.item().replace(tzinfo=UTC) for value in values]
