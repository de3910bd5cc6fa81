"""Pictures that a service makes of the areas: which ones a selection asks for, and how they come into the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.providers.contract import AreaRenderer, Item, Provider, RenderRequest
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Skipped, Target, targets
from geostack_pipeline.storage.blobs import Blob, BlobCache

if TYPE_CHECKING:
    from geostack_pipeline.stages.tables import Tables
    from geostack_pipeline.stages.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture to have in the cache."""

    area: str
    request: RenderRequest
    item: Item
    """The item that stands for all it is made of."""
    coverage: float
    """Largest share of the area that one of its scenes covers."""

    @property
    def key(self) -> str:
        """Cache key."""
        return BlobCache.key(self.request.canonical)


def rendering_of(provider: Provider) -> str | None:
    """Return what names the way a provider makes pictures; None for one whose assets are files."""
    return provider.rendering if isinstance(provider, AreaRenderer) else None


def shots(ws: Workspace, provider: Provider, selected: Tables) -> tuple[list[Shot], list[Skipped]]:
    """Return every picture to make for a selection, and the scenes that lack a wanted asset with the reason.

    Raises:
        SettingsError: The service cannot make pictures of an area or of a band.
    """
    assert isinstance(provider, AreaRenderer)
    renderer: AreaRenderer = provider
    bands = ws.provider_settings(provider.key).bands
    wanted: list[Shot] = []
    skipped: list[Skipped] = []
    by_area: dict[str, list[Target]] = {}
    for target in targets(ws, provider, selected):
        by_area.setdefault(target.area, []).append(target)
    for area in ws.areas:
        members: list[Target] = []
        assets: list[str] = []
        for target in sorted(by_area.get(area.name, []), key=_rank):
            wants = provider.wants(target.item, bands)
            lacking = [
                want.asset for want in wants if want.required and want.asset not in target.item["assets"]
            ]
            if lacking:
                reason = ("asset missing", "the item has no such asset")
                skipped.append((area.name, target.item["id"], ",".join(lacking), *reason))
                continue
            assets = [want.asset for want in wants]
            members.append(target)
        if not members:
            continue
        known = {target.item["id"]: target for target in members}
        wanted += [
            Shot(
                area=area.name,
                request=request,
                item=known[request.items[0]].item,
                coverage=max(known[name].coverage for name in request.items),
            )
            for request in renderer.render(ws.grid(area), [target.item for target in members], assets)
        ]
    return wanted, skipped


def _rank(target: Target) -> tuple[float, float, str]:
    """Order scenes as the cube does: most of the area covered, then least cloud, then item id."""
    cloud = target.item["properties"].get("eo:cloud_cover")
    return (-target.coverage, float("inf") if cloud is None else cloud, target.item["id"])


class Studio:
    """Brings pictures into the cache; called from several threads.

    Args:
        ws: Where the cache is.
        provider: For messages.
        scratch: Folder for files on their way into the cache.
        traffic: Counts what is moved.
        moved: Called with the bytes of each picture.
    """

    def __init__(
        self,
        ws: Workspace,
        provider: Provider,
        scratch: Path,
        traffic: Traffic,
        *,
        moved: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._cache: BlobCache = ws.blobs
        self._provider = provider
        self._scratch = scratch
        self._traffic = traffic
        self._moved = moved

    def take(self, shot: Shot) -> Blob:
        """Return the cached picture, asking for it when needed.

        A picture is what its request and its items make it: it is never asked for again, also by a refresh.  When the
        ground segment processes a scene again, the item is another one, and so is the picture.

        Raises:
            GeostackError: As :attr:`RenderRequest.perform`, with area and provider as the subject.
        """
        request = shot.request
        known = self._cache.find(shot.key)
        if known is not None:
            self._traffic.add(request.service, hits=1)
            return known
        file = self._scratch / f"{shot.key}.tif"
        try:
            made = request.perform(file)
            self._traffic.add(request.service, moved=made.bytes_moved, requests=made.requests, fetched=1)
            self._moved(made.bytes_moved)
            return self._cache.add(
                shot.key,
                file,
                origin=request.canonical,
                etag=None,
                source_size=made.size,
                suffix=".tif",
                extra={"form": "picture", "items": [*request.items], "empty": made.empty},
            )
        except GeostackError as error:
            error.subject = f"{self._provider.key} picture of {shot.area} ({error.subject})"
            raise
        finally:
            file.unlink(missing_ok=True)


def distinct(wanted: Sequence[Shot]) -> dict[str, Shot]:
    """Return one shot per picture: areas with one extent share it."""
    return {shot.key: shot for shot in wanted}
