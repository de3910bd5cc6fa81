"""Pins: versions that ``gc`` keeps, with everything they were made from, though no pointer leads to them."""

from __future__ import annotations

from dataclasses import dataclass

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.storage.digest import canonical_json
from geostack_pipeline.storage.layout import COMPLETE, PINS, check_part, version_key
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.snapshot import FORMAT, read_document, unreadable


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One pinned version."""

    name: str
    """Name of the pin, unique in the root."""
    asset: str
    """Asset key."""
    partition: str
    """Partition key."""
    version: str
    """The version to keep."""
    reason: str
    """Why, for people."""


def pin(root: Root, name: str, *, asset: str, partition: str, version: str, reason: str) -> Pin:
    """Keep a version until :func:`unpin`; a pin of the same name is replaced.

    Raises:
        ArtifactNotFoundError: The version is not complete.
    """
    if root.size(f"{version_key(asset, partition, version)}/{COMPLETE}") is None:
        raise ArtifactNotFoundError(
            "only a complete version can be pinned",
            subject=f"{asset} {partition} {version}",
            action="list the versions of the partition",
        )
    made = Pin(name=name, asset=asset, partition=partition, version=version, reason=reason)
    document = {
        "format": FORMAT,
        "asset": asset,
        "partition": partition,
        "version": version,
        "reason": reason,
    }
    root.put(_key(name), canonical_json(document))
    return made


def unpin(root: Root, name: str) -> None:
    """Remove a pin, if there is one."""
    root.delete(_key(name))


def pins(root: Root) -> list[Pin]:
    """Return all pins, sorted by name.

    Raises:
        StorageError: A pin cannot be read: guessing what it keeps would lose data.
    """
    _, names = root.folders(PINS)
    found = []
    for file in names:
        if not file.endswith(".json"):
            continue
        document = read_document(root.read(f"{PINS}/{file}"), f"pin {file}", file)
        try:
            found.append(
                Pin(
                    name=file.removesuffix(".json"),
                    asset=str(document["asset"]),
                    partition=str(document["partition"]),
                    version=str(document["version"]),
                    reason=str(document.get("reason", "")),
                )
            )
        except KeyError as error:
            raise unreadable(f"pin {file}", file, f"no {error}") from error
    return found


def _key(name: str) -> str:
    return f"{PINS}/{check_part(name, 'pin name')}.json"
