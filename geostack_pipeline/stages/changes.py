"""Which dates a catalog's changes concern, and which runs they lead to: each change once, whatever crashes in between.

The decision is a pure function of the cursor and of what the catalog tells (:func:`advance`); docs/automation.md has the
failure sequences it is made for.  A turn does two things that are committed together, as the next cursor: it hands out
the runs that the cursor *already* held as pending, and writes down as pending what it has just found.  The runs of a turn
therefore depend on the committed cursor alone: a turn that is repeated after a crash hands out the same runs under
the same keys, and whoever launches them recognises the keys.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.coerce import format_time
from geostack_pipeline.providers.revisions import Revision, RevisionSource
from geostack_pipeline.stages import scenes
from geostack_pipeline.stages.workspace import Workspace, asset_name
from geostack_pipeline.storage.digest import version_of

if TYPE_CHECKING:
    from geostack_pipeline.areas import Area

LONGEST_SPAN = timedelta(days=7)
"""Longest span of revision dates that one turn asks for: a cursor that is far behind catches up turn by turn."""
FARTHEST = timedelta(days=364)
"""How far back a first turn looks: the catalog forgets deletions after a year."""
_FORM = 1


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """What one provider's changes have come to so far."""

    since: datetime
    """Whole second, UTC; everything revised before it is done with."""
    seen: Mapping[str, datetime] = field(default_factory=dict)
    """Change that is pending or handed out -> its revision date, for those not before ``since``: they are told again."""
    pending: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Date -> changes whose run was not handed out yet."""


@dataclass(frozen=True, kw_only=True)
class RunWanted:
    """One date to ask again."""

    day: str
    changes: tuple[str, ...]
    """The changes that it is for, sorted."""

    @property
    def key(self) -> str:
        """The same for the same changes of the same date, and for nothing else."""
        return f"{self.day}/{version_of({'changes': list(self.changes)})}"


@dataclass(frozen=True, kw_only=True)
class Touched:
    """The dates that a change concerns, or why it concerns none."""

    days: frozenset[str]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one turn decides."""

    runs: tuple[RunWanted, ...]
    cursor: Cursor
    """To be committed together with the runs."""
    found: int
    """Changes that are told for the first time and concern some date."""
    ignored: Mapping[str, int]
    """Why changes concern nothing -> how many."""


def advance(
    cursor: Cursor,
    revisions: Iterable[Revision],
    until: datetime,
    touched: Callable[[Revision], Touched],
    *,
    overlap: timedelta,
    most: int,
) -> Turn:
    """Decide a turn.  Pure.

    Args:
        cursor: The committed one.
        revisions: What the catalog tells of ``cursor.since`` to ``until``; a list that is not complete must never
            come here.
        touched: Which dates a change concerns as things are now.  What concerns none is asked again until it is older
            than the overlap: a run on its way may just be storing what was deleted.
        overlap: How long after its revision date a change may still become visible.
        most: Largest number of runs.
    """
    handed = sorted(cursor.pending)[:most]
    pending = {day: set(changes) for day, changes in cursor.pending.items() if day not in handed}
    seen = dict(cursor.seen)
    ignored: Counter[str] = Counter()
    found = 0
    for revision in revisions:
        if revision.change in seen:
            continue
        concerned = touched(revision)
        if not concerned.days:
            ignored[concerned.reason] += 1
            continue
        found += 1
        seen[revision.change] = revision.revision_date
        for day in concerned.days:
            pending.setdefault(day, set()).add(revision.change)
    # Whole seconds, as the catalog is asked: what is told again must still be known.
    since = max(cursor.since, (until - overlap).replace(microsecond=0))
    return Turn(
        runs=tuple(RunWanted(day=day, changes=cursor.pending[day]) for day in handed),
        cursor=Cursor(
            since=since,
            seen={change: when for change, when in seen.items() if when >= since},
            pending={day: tuple(sorted(changes)) for day, changes in sorted(pending.items())},
        ),
        found=found,
        ignored=dict(ignored),
    )


def take_turn(
    ws: Workspace,
    provider: RevisionSource,
    cursor: Cursor | None,
    *,
    overlap: timedelta,
    most: int,
    now: datetime | None = None,
) -> Turn:
    """Ask a catalog what changed and decide.

    Args:
        cursor: The committed one; None begins where the oldest stored scene list was last asked.
        overlap: As for :func:`advance`.
        most: As for :func:`advance`.
        now: The present, UTC.

    Raises:
        CatalogError: See :meth:`RevisionSource.revisions`; nothing is decided then.
    """
    now = now or ws.now()
    if cursor is None:
        cursor = Cursor(since=_beginning(ws, provider.key, now, overlap))
    until = min(now, cursor.since + LONGEST_SPAN + overlap)
    lists = SceneLists(ws, provider.key)
    first, last = ws.settings.start_date, min(ws.settings.end_date or now.date(), now.date())

    def concerned(revision: Revision) -> Touched:
        return touched_days(revision, ws.areas, lists.holds, first=first, last=last)

    revisions = provider.revisions(cursor.since, until)
    return advance(cursor, revisions, until, concerned, overlap=overlap, most=most)


def touched_days(
    revision: Revision,
    areas: Iterable[Area],
    holds: Callable[[str, str], bool],
    *,
    first: date,
    last: date,
) -> Touched:
    """Return the dates whose scene list a change alters.

    These are the dates whose stored list holds the granule, looked for around the date in its name, and, unless it was
    deleted, the date that it belongs to now where its footprint meets an area.

    Args:
        revision: The change.
        areas: Areas of interest.
        holds: Whether the stored list of a date holds an item.
        first: First partition.
        last: Last partition.
    """
    near = {
        day + timedelta(days=offset)
        for day in {*revision.dates, *([revision.named] if revision.named else [])}
        for offset in (-1, 0, 1)
    }
    there = {day for day in near if first <= day <= last}
    days = {day.isoformat() for day in there if holds(day.isoformat(), revision.item)}
    if revision.deleted:
        if days:
            return Touched(days=frozenset(days))
        return Touched(days=frozenset(), reason="deleted and in no stored scene list")
    inside = _meets(revision.bbox, areas)
    if inside:
        days |= {day.isoformat() for day in revision.dates if day in there}
    if days:
        return Touched(days=frozenset(days))
    if not revision.dates:
        reason = "without a time"
    elif not inside:
        reason = "outside the areas"
    else:
        reason = "outside the partitions"
    return Touched(days=frozenset(), reason=reason)


class SceneLists:
    """The ids of one provider's stored scene lists. What a version holds is remembered by the process."""

    _ids: dict[tuple[str, str, str, str], frozenset[str]] = {}  # noqa: RUF012 - shared on purpose: versions never change

    def __init__(self, ws: Workspace, provider: str) -> None:
        self._ws = ws
        self._asset = asset_name(provider, scenes.NAME)
        self._stored = frozenset(ws.artifacts.partitions(self._asset))
        self._now: dict[str, frozenset[str]] = {}

    def holds(self, day: str, item: str) -> bool:
        """Return whether the current list of a date, or what it rejected, has an item."""
        if day not in self._stored:
            return False
        if day not in self._now:
            self._now[day] = self._read(day)
        return item in self._now[day]

    def _read(self, day: str) -> frozenset[str]:
        pointer = self._ws.artifacts.pointer(self._asset, day)
        if pointer is None:
            return frozenset()
        key = (self._ws.artifacts.root.url, self._asset, day, pointer.version)
        if key not in self._ids:
            snapshot = self._ws.artifacts.find(self._asset, day, pointer.version)
            if snapshot is None:
                return frozenset()
            if len(self._ids) > 20_000:
                self._ids.clear()
            self._ids[key] = frozenset(
                [*snapshot.open()["id"].to_list(), *snapshot.open("rejected")["id"].to_list()]
            )
        return self._ids[key]


def encode(cursors: Mapping[str, Cursor]) -> str:
    """Return the cursors of some providers as text."""
    return json.dumps(
        {
            "form": _FORM,
            "providers": {
                key: {
                    "since": format_time(cursor.since),
                    "seen": {change: format_time(when) for change, when in sorted(cursor.seen.items())},
                    "pending": {day: list(changes) for day, changes in cursor.pending.items()},
                }
                for key, cursor in sorted(cursors.items())
            },
        },
        separators=(",", ":"),
    )


def decode(text: str | None) -> dict[str, Cursor]:
    """Return the cursors that :func:`encode` wrote; none where there is no text.

    Raises:
        SettingsError: It is no such text.
    """
    if not text:
        return {}
    try:
        content = json.loads(text)
        known = {_FORM: content}[content["form"]]
        return {
            str(key): Cursor(
                since=_moment(each["since"]),
                seen={str(change): _moment(when) for change, when in each["seen"].items()},
                pending={str(day): tuple(map(str, changes)) for day, changes in each["pending"].items()},
            )
            for key, each in known["providers"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            "the sensor's cursor cannot be read",
            subject="sensor new_emit_granules",
            found=f"{type(error).__name__}: {error}"[:160],
            action="reset the cursor in the UI: it then begins where the oldest scene list was last asked",
        ) from None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _beginning(ws: Workspace, key: str, now: datetime, overlap: timedelta) -> datetime:
    """Return when the stored list that was asked longest ago was asked: later changes are in none for certain."""
    asset = asset_name(key, scenes.NAME)
    asked = [now]
    for day in ws.artifacts.partitions(asset):
        pointer = ws.artifacts.pointer(asset, day)
        if pointer is not None:
            asked.append(_moment(pointer.confirmed_at))
    return max(min(asked) - overlap, now - FARTHEST).replace(microsecond=0)


def _meets(bbox: tuple[float, float, float, float] | None, areas: Iterable[Area]) -> bool:
    """Return whether a box meets an area; one that is not known may."""
    if bbox is None:
        return True
    west, south, east, north = bbox
    for area in areas:
        left, bottom, right, top = area.bbox
        if bottom <= north and south <= top and _share(west, east, left, right):
            return True
    return False


def _share(west: float, east: float, left: float, right: float) -> bool:
    """Return whether two spans of longitude have a part in common; one with west > east crosses the antimeridian."""
    spans = [[(a, b)] if a <= b else [(a, b + 360.0)] for a, b in ((west, east), (left, right))]
    return any(
        a <= d + turn and c + turn <= b
        for a, b in spans[0]
        for c, d in spans[1]
        for turn in (-720.0, -360.0, 0.0, 360.0, 720.0)
    )
