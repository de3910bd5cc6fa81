"""What a catalog changed, and when: the question behind a sensor that misses nothing.

A STAC datetime says when a scene was seen.  Scenes are listed days later, plumes weeks later; both are revised and
some are deleted.  Only the catalog's own revision dates show that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol, runtime_checkable

from geostack_pipeline.providers.coerce import format_time


@dataclass(frozen=True, kw_only=True)
class Revision:
    """The newest state of one granule that the catalog added, revised or deleted."""

    concept_id: str
    """The catalog's own identity of the granule, the same through all its revisions."""
    item: str
    """Id of its item in the scene list."""
    collection: str
    """Collection of its item."""
    revision_id: int | None
    """Counts the granule's revisions from 1; None for a deletion, whose number the catalog does not tell."""
    revision_date: datetime
    """When the catalog took the revision in, UTC."""
    deleted: bool
    dates: tuple[date, ...]
    """UTC dates whose scene list the granule belongs to now; none after a deletion, or where no time can be read."""
    named: date | None
    """UTC date that the granule's name tells: where a list may still hold it that it belongs to no more."""
    bbox: tuple[float, float, float, float] | None
    """West, south, east, north of its footprint (west > east crosses the antimeridian); None where it tells none."""

    @property
    def change(self) -> str:
        """Identity of this change: the same however often it is told, another one for each revision."""
        state = f"deleted {format_time(self.revision_date)}" if self.deleted else str(self.revision_id)
        return f"{self.concept_id} {state}"


@runtime_checkable
class RevisionSource(Protocol):
    """A provider whose catalog tells what it changed."""

    key: str

    def revisions(self, since: datetime, until: datetime) -> list[Revision]:
        """Return what was added, revised or deleted between two instants, both included, in order of revision.

        A granule that was revised twice is told once, by its newest revision.  Deletions are kept by the catalog for
        a year: those before are not told.

        Raises:
            CatalogError: The catalog contradicts itself, or refuses; :class:`IncompleteSearchError` when it gives
                another number of changes than it counts. Never a shorter list.
            CatalogUnavailableError: No answer, 429 or 5xx until the last attempt.
        """
        ...
