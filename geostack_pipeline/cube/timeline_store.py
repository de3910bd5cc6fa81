"""A read-only Zarr store in which arrays of many dates stand one after another, without a copy of a chunk.

Every date keeps its cube as a tree of its own, written once and by one writer.  All dates of an area share grid,
chunks and codecs, and a chunk (a shard, where there are shards) holds one step of time.  So the arrays of the dates
are one array along their first dimension, once the first number of a chunk's key is counted on from date to date.
zarr-python reads it like any other array: many chunks at once, byte ranges inside shards, missing chunks as fill.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import ObjectStore

from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import Root, reopen

METADATA = "zarr.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One date's group of arrays."""

    asset: str
    partition: str
    version: str
    folder: str
    """Key in the root of the version's files."""
    path: str
    """Path of the group among them."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Arrays of the same name, one after another along their first dimension; or one array of one part."""

    metadata: Mapping[str, Any]
    """Document ``zarr.json`` of the whole array."""
    parts: tuple[int, ...]
    """Which parts it is made of, in order."""
    starts: tuple[int, ...]
    """First chunk of each part along the first dimension, increasing, from 0."""


class TimelineStore(Store):
    """Serves a group whose arrays are joined from those of several parts; see the module.

    It holds names and numbers only, so that it pickles; the root is reopened by its URL in the other process.

    Args:
        root_url: URL of an opened root.
        parts: The dates' groups.
        attributes: Attributes of the group.
        arrays: Its arrays by name.
    """

    def __init__(
        self,
        root_url: str,
        parts: Sequence[Part],
        attributes: Mapping[str, Any],
        arrays: Mapping[str, Joined],
    ) -> None:
        super().__init__(read_only=True)
        self.root_url = root_url
        self.parts = tuple(parts)
        self.attributes = dict(attributes)
        self.arrays = dict(arrays)
        self._is_open = True

    def __reduce__(self) -> tuple[object, ...]:
        return (TimelineStore, (self.root_url, self.parts, self.attributes, self.arrays))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TimelineStore) and (
            self.root_url,
            self.parts,
            self.attributes,
            self.arrays,
        ) == (other.root_url, other.parts, other.attributes, other.arrays)

    __hash__ = None  # type: ignore[assignment]  # like zarr's other stores, which compare by value

    def __repr__(self) -> str:
        return f"TimelineStore({self.root_url!r}, {len(self.parts)} dates, {len(self.arrays)} arrays)"

    @property
    def supports_writes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Never."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Always."""
        return True

    def with_read_only(self, read_only: bool = False) -> Self:  # noqa: FBT001, FBT002 - zarr's signature
        """Return the store itself, which is read-only."""
        if not read_only:
            raise ValueError("a timeline is read-only")
        return self

    @cached_property
    def _root(self) -> Root:
        return reopen(self.root_url)

    @cached_property
    def _below(self) -> ObjectStore[Any]:
        return ObjectStore(self._root.store, read_only=True)

    @cached_property
    def _documents(self) -> dict[str, bytes]:
        """Return the metadata documents: of the group, which has all in one, and of each array."""
        arrays = {name: dict(joined.metadata) for name, joined in sorted(self.arrays.items())}
        group = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": self.attributes,
            "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
        }
        return {METADATA: json.dumps(group).encode()} | {
            f"{name}/{METADATA}": json.dumps(document).encode() for name, document in arrays.items()
        }

    def _place(self, key: str) -> tuple[Part, str] | None:
        """Return the part that holds a chunk, and the chunk's path in the part's version."""
        name, _, chunk = key.partition("/")
        joined = self.arrays.get(name)
        if joined is None or not (chunk == "c" or chunk.startswith("c/")):
            return None
        if chunk == "c":
            part, own = 0, chunk
        else:
            first, *rest = chunk.removeprefix("c/").split("/")
            part = bisect_right(joined.starts, int(first)) - 1
            own = "/".join(("c", str(int(first) - joined.starts[part]), *rest))
        found = self.parts[joined.parts[part]]
        return found, f"{found.path}/{name}/{own}"

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a document or a chunk; None for a chunk that holds fill values alone, and so was never written.

        Raises:
            StorageError: The chunk was written and is gone: a version was removed while it was in use.
        """
        prototype = prototype or default_buffer_prototype()
        document = self._documents.get(key)
        if document is not None:
            return prototype.buffer.from_bytes(document)
        place = self._place(key)
        if place is None:
            return None
        part, path = place
        data = await self._below.get(f"{part.folder}/{path}", prototype, byte_range)
        if data is None and await asyncio.to_thread(self._recorded, part, path):
            raise StorageError(
                "a file of the timeline is gone",
                subject=f"{part.asset} {part.partition} {part.version}",
                found=f"no {path}",
                action="open the timeline again: the version was removed since; if it is current, run the date again",
            )
        return data

    def _recorded(self, part: Part, path: str) -> bool:
        """Return whether a version has a file: nothing else tells an empty chunk from a lost one."""
        known: dict[Part, frozenset[str]] = self.__dict__.setdefault("_files", {})
        if part not in known:
            snapshot = ArtifactStore(self._root).find(part.asset, part.partition, part.version)
            if snapshot is None:
                return True
            known[part] = frozenset(snapshot.files)
        return path in known[part]

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return byte ranges of documents and chunks."""
        return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether a document or a chunk is there."""
        if key in self._documents:
            return True
        place = self._place(key)
        return place is not None and await self._below.exists(f"{place[0].folder}/{place[1]}")

    async def list(self) -> AsyncIterator[str]:
        """Yield all keys."""
        for key in self._documents:
            yield key
        for name, joined in self.arrays.items():
            for number, start in zip(joined.parts, joined.starts, strict=True):
                part = self.parts[number]
                folder = f"{part.folder}/{part.path}/{name}/"
                async for key in self._below.list_prefix(folder):
                    kind, *chunk = key.removeprefix(folder).split("/")
                    if kind == "c":
                        first = [str(int(chunk[0]) + start)] if chunk else []
                        yield "/".join((name, kind, *first, *chunk[1:]))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that begin with a text."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a folder."""
        if not prefix.strip("/"):
            for name in (METADATA, *self.arrays):
                yield name
            return
        seen = set()
        start = f"{prefix.rstrip('/')}/"
        async for key in self.list_prefix(start):
            name = key.removeprefix(start).split("/", 1)[0]
            if name not in seen:
                seen.add(name)
                yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: dates are written by their own runs."""
        raise self._refused(key, len(value))

    async def delete(self, key: str) -> None:
        """Refuse: dates are written by their own runs."""
        raise self._refused(key)

    def _refused(self, key: str, size: int | None = None) -> ValueError:
        what = "nothing can be removed" if size is None else f"{size} bytes cannot be written"
        return ValueError(f"{key}: {what}, a timeline is read-only; dates are written by their own runs")
