"""What a selection makes the pipeline fetch: which asset of which scene, for which box, from which places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.scene_table import from_parquet
from geostack_pipeline.cube.levels import image_for, whole_image_for
from geostack_pipeline.errors import GeostackError
from geostack_pipeline.providers.contract import Item, ObjectRef, Provider, Want
from geostack_pipeline.raster.crop import CropPlan, plan_crop
from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.blobs import BlobCache

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from geostack_pipeline.cube.grid import GridSpec
    from geostack_pipeline.stages.tables import Tables
    from geostack_pipeline.storage.ranges import Meter

GEOGRAPHIC = "EPSG:4326"

Skipped = tuple[str, str, str, str, str]
"""Area, item id, asset, reason, detail."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """One object to have in the cache."""

    area: str
    """Area it is for; of a swath all areas it touches, joined by ``+``."""
    bounds: tuple[float, float, float, float]
    """Box that a window covers, in ``crs``; in degrees west > east crosses the antimeridian."""
    crs: str
    item: Item
    want: Want
    coverage: float
    """Share of the area that the scene covers; of a swath the largest."""
    routes: Sequence[ObjectRef]
    """Places to try, in this order."""
    coarse: GridSpec | None = None
    """The area's grid where an overview may stand for the full image on it; None: the full image."""
    blended: GridSpec | None = None
    """The area's grid where pixels of the full image beyond its edge have weight on it; None: one around it is enough."""

    @property
    def asset(self) -> str:
        """Canonical asset key."""
        return self.want.asset

    @property
    def canonical(self) -> str:
        """Identity of the object."""
        return self.routes[0].canonical

    @property
    def whole_key(self) -> str:
        """Cache key of the whole object."""
        return BlobCache.key(self.canonical)

    @property
    def window_key(self) -> str:
        """Cache key of the window; where the grid's pixels decide what is cut, they are in it."""
        crop: dict[str, object] = {"crs": self.crs, "bounds": [*self.bounds]}
        for name, grid in (("coarse", self.coarse), ("blended", self.blended)):
            if grid is not None:
                crop[name] = [*grid.shape]
        return BlobCache.key(self.canonical, crop=crop)

    def plan(self, store: ObjectStore, ref: ObjectRef, meter: Meter) -> CropPlan | None:
        """Return what to move for the window, as :func:`~geostack_pipeline.raster.crop.plan_crop` does."""
        choose = None
        if self.coarse is not None:
            choose = image_for(self.coarse)
        elif self.blended is not None:
            choose = whole_image_for(self.blended)
        return plan_crop(store, ref.key, self.bounds, self.crs, choose=choose, meter=meter)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A scene and the box it is wanted for."""

    area: str
    bounds: tuple[float, float, float, float]
    crs: str
    item: Item
    coverage: float
    coarse: GridSpec | None = None
    """The area's grid where the settings want overviews."""
    blended: GridSpec | None = None
    """The area's grid where they want pixels weighted, of the full image."""


def wishes(ws: Workspace, provider: Provider, selected: Tables) -> tuple[list[Wish], list[Skipped]]:
    """Return every object to fetch for a selection, and the scenes that lack a wanted asset with the reason.

    Raises:
        HrefRefusedError: An href lies outside the provider's allow-list; names item and asset.
        AuthError: Finding the place of an asset needs a login that was refused.
    """
    bands = ws.provider_settings(provider.key).bands
    wanted: list[Wish] = []
    skipped: list[Skipped] = []
    for target in targets(ws, provider, selected):
        wants = provider.wants(target.item, bands)
        assets = target.item["assets"]
        lacking = [want.asset for want in wants if want.required and want.asset not in assets]
        if lacking:
            skipped.append(
                (
                    target.area,
                    target.item["id"],
                    ",".join(lacking),
                    "asset missing",
                    "the item has no such asset",
                )
            )
            continue
        for want in wants:
            if want.asset not in assets:
                continue
            try:
                routes = provider.routes(target.item, want.asset)
            except GeostackError as error:
                error.subject = f"{provider.key} item {target.item['id']} asset {want.asset}: {error.subject}"
                raise
            wanted.append(
                Wish(
                    area=target.area,
                    bounds=target.bounds,
                    crs=target.crs,
                    item=target.item,
                    want=want,
                    coverage=target.coverage,
                    routes=routes,
                    # Means of classes are no classes.
                    **(
                        {"coarse": target.coarse, "blended": target.blended}
                        if want.asset != provider.product.classification
                        else {}
                    ),
                )
            )
    return wanted, skipped


def targets(ws: Workspace, provider: Provider, selected: Tables) -> Iterator[Target]:
    """Yield each scene once per area it covers; each granule of a swath once, for all areas it covers."""
    least = ws.provider_settings(provider.key).min_coverage
    coverage = {
        (row["item_id"], row["area"]): row["coverage"]
        for row in selected.open("coverage").iter_rows(named=True)
    }
    items = from_parquet(selected.read("selected.parquet"))
    covered = {
        item["id"]: [
            (area, share)
            for area in ws.areas
            if (share := coverage.get((item["id"], area.name), 0.0)) > 0.0 and share >= least
        ]
        for item in items
    }
    if provider.product.kind == "swath":
        for item in items:
            areas = covered[item["id"]]
            if areas:
                yield Target(
                    area="+".join(area.name for area, _ in areas),
                    bounds=joint_box([area for area, _ in areas]),
                    crs=GEOGRAPHIC,
                    item=item,
                    coverage=max(share for _, share in areas),
                )
        return
    for area in ws.areas:
        grid = ws.grid(area)
        coarse = grid if ws.reads_overviews(provider.key, area) else None
        blended = grid if coarse is None and ws.resampling(provider.key, area) == "bilinear" else None
        for item in items:
            for touched, share in covered[item["id"]]:
                if touched.name == area.name:
                    yield Target(
                        area=area.name,
                        bounds=grid.bounds,
                        crs=grid.crs,
                        item=item,
                        coverage=share,
                        coarse=coarse,
                        blended=blended,
                    )


def joint_box(areas: Sequence[Area]) -> tuple[float, float, float, float]:
    """Return the smallest box around areas, degrees; west > east where it crosses the antimeridian."""
    reference = areas[0].bbox[0]
    west = south = float("inf")
    east = north = float("-inf")
    for area in areas:
        left, bottom, right, top = area.bbox
        width = (right - left) % 360.0 or 360.0
        # Longitudes near the first area's, so that boxes on both sides of the antimeridian are neighbours.
        shifted = (left - reference + 180.0) % 360.0 - 180.0 + reference
        west, east = min(west, shifted), max(east, shifted + width)
        south, north = min(south, bottom), max(north, top)
    if east - west >= 360.0:
        return (-180.0, south, 180.0, north)
    return (_wrapped(west), south, _wrapped(east), north)


def _wrapped(longitude: float) -> float:
    return longitude if -180.0 <= longitude <= 180.0 else (longitude + 180.0) % 360.0 - 180.0
