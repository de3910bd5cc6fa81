"""Where things lie below a root, and which names may be part of a path.

::

    artifacts/<asset>/<partition>/<version>/attempt-…/<file>     the data of one writer's attempt
    artifacts/<asset>/<partition>/<version>/attempt-….json       marker: the attempt runs, and what it reads
    artifacts/<asset>/<partition>/<version>/complete.json        which attempt won; size and sha256 of each file
    artifacts/<asset>/<partition>/<version>/condemned.json       object stores only: gc is removing this version
    artifacts/<asset>/<partition>/current.json                   the pointer
    blobs/…    pins/<name>.json    leases/…                      cache, pinned versions, lock files (local disks)
    grids/<area>/<definition>.json                               the grid of an area, never replaced

An asset may have several parts (``earth_search/scenes``); no asset's key may begin with another's.
A part that starts with ``attempt-`` is reserved, so every path can be read without a registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from geostack_pipeline.errors import SettingsError

ARTIFACTS = "artifacts"
BLOBS = "blobs"
PINS = "pins"
GRIDS = "grids"
LEASES = "leases"
COMPLETE = "complete.json"
CURRENT = "current.json"
CONDEMNED = "condemned.json"
ATTEMPT = "attempt-"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]{0,127}")
_RESERVED = {COMPLETE, CURRENT, CONDEMNED}
_FILE_PART = re.compile(r"[A-Za-z0-9_.=+@~,-][A-Za-z0-9_.=+@~, -]{0,199}")
_KEY_LIMIT = 900


def check_part(part: str, what: str) -> str:
    """Return a partition key, a version or one part of an asset's key, if it is safe as a folder name.

    Raises:
        SettingsError: It is empty, too long, reserved, or holds a separator, ``..``, ``#`` or the like.
    """
    if not _PART.fullmatch(part) or part in _RESERVED or part.startswith(ATTEMPT) or part.endswith("."):
        raise SettingsError(
            f"{what} cannot be part of a path",
            subject=repr(part)[:80],
            found="other characters than letters, digits and _ . = + @ -, a reserved name, or more than 128 of them",
            action=f"use a plain {what} such as 2024-06-01 or scenes",
        )
    return part


def check_asset(asset: str) -> str:
    """Return an asset's key (parts joined by ``/``), if each part is safe as a folder name."""
    for part in asset.split("/"):
        check_part(part, "asset key")
    return asset


def check_file(path: str) -> str:
    """Return a file's path inside an attempt, if it is relative and plain.

    Raises:
        SettingsError: It is empty, absolute, too long, or has a part such as ``..`` or ``a#1``.
    """
    parts = path.split("/")
    if len(path) > _KEY_LIMIT or not all(_FILE_PART.fullmatch(p) and p not in {".", ".."} for p in parts):
        raise SettingsError(
            "the path of a file in an artifact is not plain",
            subject=repr(path)[:120],
            found="an empty, absolute or over-long path, '..', '#', '%', a backslash or another special character",
            action="name files by letters, digits and _ . = + @ ~ , - and use '/' between folders",
        )
    return path


def partition_key(asset: str, partition: str) -> str:
    """Return the folder of a partition, its names checked."""
    return f"{ARTIFACTS}/{check_asset(asset)}/{check_part(partition, 'partition key')}"


def version_key(asset: str, partition: str, version: str) -> str:
    """Return the folder of a version, its names checked."""
    return f"{partition_key(asset, partition)}/{check_part(version, 'version')}"


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a key below ``artifacts/`` belongs to."""

    asset: str
    partition: str
    version: str | None
    """None for the pointer, which lies beside the versions."""
    attempt: str | None
    """The attempt's id, for its files and its marker."""
    file: str
    """Path inside the attempt, or the name of the document (``complete.json`` …); a marker has an empty one."""


def place_of(key: str) -> Place | None:
    """Return what a key belongs to; None for a key that this layout does not know."""
    parts = key.split("/")
    if len(parts) < 4 or parts[0] != ARTIFACTS:
        return None
    inner = parts[1:]
    for index, part in enumerate(inner):
        if part.startswith(ATTEMPT) and index >= 3:
            *asset, partition, version = inner[:index]
            marker = index == len(inner) - 1
            if marker and not part.endswith(".json"):
                return None
            return Place(
                asset="/".join(asset),
                partition=partition,
                version=version,
                attempt=part.removesuffix(".json") if marker else part,
                file="/".join(inner[index + 1 :]),
            )
    name = inner[-1]
    if name == CURRENT and len(inner) >= 3:
        return Place(asset="/".join(inner[:-2]), partition=inner[-2], version=None, attempt=None, file=name)
    if name in {COMPLETE, CONDEMNED} and len(inner) >= 4:
        return Place(
            asset="/".join(inner[:-3]), partition=inner[-3], version=inner[-2], attempt=None, file=name
        )
    return None


def split_reference(text: str) -> tuple[str, str]:
    """Return asset and partition of an upstream's name ``<asset>/<partition>``."""
    asset, slash, partition = text.rpartition("/")
    if not slash:
        raise SettingsError(
            "an upstream is named by asset and partition",
            subject=repr(text)[:80],
            action="write it as <asset>/<partition>, e.g. earth_search/scenes/2024-06-01",
        )
    check_asset(asset)
    check_part(partition, "partition key")
    return asset, partition
