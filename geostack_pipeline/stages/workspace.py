"""What every stage works in: the stores, the areas and the settings of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from geostack_pipeline.areas import Area, Resampling
from geostack_pipeline.errors import IntegrityError, SettingsError, StorageError
from geostack_pipeline.methane.wind import WindSource
from geostack_pipeline.settings import ProviderSettings, Settings
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.blobs import BlobCache
from geostack_pipeline.storage.layout import split_reference
from geostack_pipeline.storage.roots import open_root
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.cube.grid import GridSpec


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The stores and settings of a run."""

    settings: Settings
    artifacts: ArtifactStore
    blobs: BlobCache
    run_id: str | None = None
    """Run that moves the pointers, kept in them."""
    pins: Mapping[str, str] = field(default_factory=dict)
    """``<asset>/<partition>`` -> version to read instead of the current one."""
    wind: WindSource | None = None
    """What emission rates are made with; it reads nothing before it is asked."""
    _grids: dict[Area, GridSpec] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Grids that were looked up: each is asked for by every date of a range, and a stored one never changes."""

    @property
    def areas(self) -> tuple[Area, ...]:
        """The areas of interest, sorted by name."""
        return self.settings.area_list

    def grid(self, area: Area) -> GridSpec:
        """Return the grid of an area: the stored one, else the one that the first run will store.  Writes nothing.

        Raises:
            SettingsError: The area has no grid.
            StorageError: The stored one cannot be read.
        """
        # Imported late, here and below: reading a stored table needs no rasterio.
        from geostack_pipeline.cube.grid import grid_for
        from geostack_pipeline.cube.grid_store import stored_grid

        if area not in self._grids:
            self._grids[area] = stored_grid(self.artifacts.root, area) or grid_for(area)
        return self._grids[area]

    def settle_grids(self) -> None:
        """Store the grids of all areas that have none yet; called before anything is made that lies on them.

        Raises:
            SettingsError: An area has no grid.
            StorageError: A grid cannot be read or written.
        """
        from geostack_pipeline.cube.grid_store import settled_grid

        for area in self.areas:
            self._grids[area] = settled_grid(self.artifacts.root, area)

    def provider_settings(self, provider: str) -> ProviderSettings:
        """Return the settings of one provider."""
        return self.settings.provider(provider)

    def resampling(self, provider: str, area: Area) -> Resampling:
        """Return how a provider's reflectance comes onto an area's grid: the area's word goes before the provider's."""
        return area.resampling or self.provider_settings(provider).resampling

    def reads_overviews(self, provider: str, area: Area) -> bool:
        """Return whether a provider's scenes come onto an area's grid from their overviews: the area's word goes before the provider's."""
        own = area.read_overviews
        return self.provider_settings(provider).read_overviews if own is None else own

    def current(self, asset: str, day: str) -> Snapshot | None:
        """Return the version of a date that this run reads: the pinned one, else the current one."""
        pinned = self.pins.get(f"{asset}/{day}")
        if pinned is None:
            return self.artifacts.current(asset, day)
        snapshot = self.artifacts.find(asset, day, pinned)
        if snapshot is None:
            raise SettingsError(
                f"the pinned version {pinned} is not stored",
                subject=f"{asset} {day}",
                found=", ".join(self.artifacts.versions(asset, day)) or "no version at all",
                action="pin one of the stored versions",
            )
        return snapshot

    def stored(self, asset: str, day: str) -> Snapshot | None:
        """Return the version that a writer of a date may start from; None also where the current one is gone.

        A reader must hear that a stored version was lost (:meth:`current`); whoever is about to write it anew,
        as that error asks for, must not be stopped by it.
        """
        pointer = self.artifacts.pointer(asset, day)
        return None if pointer is None else self.artifacts.find(asset, day, pointer.version)

    def source(self, name: str, version: str) -> Snapshot:
        """Return a version that a result was made from; ``name`` is ``<asset>/<partition>``.

        Raises:
            StorageError: It is gone.
        """
        asset, partition = split_reference(name)
        found = self.artifacts.find(asset, partition, version)
        if found is None:
            raise StorageError(
                "a version that the result was made from is gone",
                subject=f"{name} {version}",
                action=f"run the date of {asset.partition('/')[0]} again",
            )
        return found

    def now(self) -> datetime:
        """Return the present instant, UTC."""
        return datetime.now(UTC)


def open_workspace(
    settings: Settings, *, run_id: str | None = None, pins: Mapping[str, str] | None = None
) -> Workspace:
    """Open the stores that the settings name."""
    root = open_root(settings.root, settings.resolved_root_options())
    return Workspace(
        settings=settings,
        artifacts=ArtifactStore(root),
        blobs=BlobCache(root),
        run_id=run_id,
        pins=dict(pins or {}),
        wind=settings.wind_source(),
    )


@dataclass(frozen=True, kw_only=True)
class Check:
    """One judgement on a date's artifact."""

    name: str
    passed: bool
    detail: Mapping[str, Any]
    """Numbers behind the judgement, shown in the UI."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What building one date of one stage came to."""

    snapshot: Snapshot
    reused: bool
    """Whether the version was there already, so that nothing was computed."""
    checks: tuple[Check, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    """Facts of this run that are no part of the version: requests, bytes moved, seconds."""


BLOCKING = frozenset(
    {"scene_list_schema", "scene_list_count", "cache_integrity", "stac_valid", "assets_present"}
)
"""Checks of integrity: a date that fails one is a failed date, and its version is never shown; the others only warn."""


def require(snapshot: Snapshot, checks: Iterable[Check]) -> None:
    """Refuse a version that fails a check of integrity; called before the pointer moves to it.

    Raises:
        IntegrityError: Naming the check and the numbers behind it.
    """
    for check in checks:
        if check.name in BLOCKING and not check.passed:
            raise IntegrityError(
                f"the check {check.name} did not pass",
                subject=f"{snapshot.asset} {snapshot.partition}",
                found="; ".join(f"{name}: {value}" for name, value in check.detail.items()),
                action="look at the stored version, then run the date again with refresh",
            )


def asset_name(provider: str, stage: str) -> str:
    """Return the asset of a stage, e.g. ``earth_search/scenes``."""
    return f"{provider}/{stage}"


def parse_day(day: str) -> date:
    """Return the date of a partition key, or say what is wrong with it."""
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise SettingsError(
            "the date is not of the form YYYY-MM-DD",
            subject=f"date {day!r}",
            action="write it like 2024-06-01",
        ) from None
