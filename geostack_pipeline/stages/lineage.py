"""What a result was made from: every stored version before it, and the catalog items at the beginning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import urljoin

from geostack_pipeline.publish.items import GEOJSON, Source
from geostack_pipeline.stages import scenes
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.snapshot import Snapshot

UMM = "application/vnd.nasa.cmr.umm+json"


def ancestors(ws: Workspace, snapshot: Snapshot) -> dict[str, Snapshot]:
    """Return every version that a version was made from, directly or not: ``<asset>/<date>`` -> snapshot.

    A model is among them, what it was trained on is not (``stages/model_trail.py`` tells that).

    Raises:
        StorageError: One is gone.
    """
    found: dict[str, Snapshot] = {}
    todo = dict(snapshot.upstream)
    while todo:
        name, version = todo.popitem()
        if name in found:
            continue
        source = found[name] = ws.source(name, version)
        # What a model learnt from is no source of what it judges, and may be other versions of the same dates.
        if source.kind != "model":
            todo |= source.upstream
    return found


@dataclass(frozen=True)
class SceneLists:
    """The scene lists that one provider's methane was made from; each is read once."""

    ws: Workspace
    provider: str
    lists: Mapping[str, Snapshot]
    """Date -> scene list."""
    _read: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(ws: Workspace, provider: str, methane: Snapshot) -> SceneLists:
        """Return the lists behind a version of a provider's methane."""
        asset = asset_name(provider, scenes.NAME)
        lists = {
            source.partition: source for source in ancestors(ws, methane).values() if source.asset == asset
        }
        return SceneLists(ws, provider, lists)

    @cached_property
    def _home(self) -> str:
        provider = self.ws.settings.build_provider(self.provider)
        return provider.url.rstrip("/")

    def _rows(self, day: str) -> dict[str, Any]:
        if day not in self._read:
            frame = self.lists[day].open()
            wanted = [
                name
                for name in ("id", "collection", "links", "platform", "cmr:concept_id")
                if name in frame.columns
            ]
            self._read[day] = {row["id"]: row for row in frame.select(wanted).iter_rows(named=True)}
        return self._read[day]

    def row(self, item_id: str) -> Mapping[str, Any]:
        """Return what the list says of an item: the newest list that has it; empty where none does."""
        for day in sorted(self.lists, reverse=True):
            row = self._rows(day).get(item_id)
            if row is not None:
                return row  # type: ignore[no-any-return]
        return {}

    def source(self, item_id: str) -> Source:
        """Return an item with the address at which its catalog has it.

        That is the item's own link where it was kept, else the path that STAC API prescribes below the catalog.
        """
        row = self.row(item_id)
        links = [link for link in row.get("links") or [] if link]
        own = next((link["href"] for link in links if link["rel"] == "self"), None)
        collection = row.get("collection")
        href = own or f"{self._home}/collections/{collection}/items/{item_id}"
        # A catalog may link within its own server (DLR's does); beside our item such a path leads nowhere.
        href, kind = urljoin(f"{self._home}/", href), GEOJSON
        if (self.ws.settings.provider(self.provider).kind or self.provider) == "earthaccess":
            # No STAC API: CMR has a granule under its concept.
            href, kind = f"{self._home}/concepts/{row.get('cmr:concept_id')}.umm_json", UMM
        return Source(
            item_id=item_id,
            href=href,
            media_type=kind,
            collection=collection,
            licences=tuple(link["href"] for link in links if link["rel"] == "license"),
        )

    def sources(self, item_ids: Iterable[str]) -> list[Source]:
        """Return several, each once, in order of id."""
        return [self.source(item_id) for item_id in sorted(set(item_ids))]

    def platforms(self, item_ids: Iterable[str]) -> list[str]:
        """Return the platforms that saw the items."""
        named = {self.row(item_id).get("platform") for item_id in item_ids}
        return sorted(str(name) for name in named if name)
