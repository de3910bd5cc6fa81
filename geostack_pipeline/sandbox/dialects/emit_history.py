"""CMR over time: granules that are held back and released, revised and deleted while the sandbox runs.

A world has no history of its own.  Here it gets one, by hand (``POST /changes`` of the control endpoint), so that a test
can play what happens over weeks: a scene that is listed late, an outline that is drawn anew, a granule that is
withdrawn, a label that is wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import shapely

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.dialects.base import StoredObject
from geostack_pipeline.sandbox.dialects.emit_granules import PROTECTED, Record, objects
from geostack_pipeline.sandbox.dialects.emit_labels import KINDS, redraw

ACTIONS = ("release", "revise", "delete")


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """One granule that CMR has no more."""

    record: Record
    when: datetime


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What one change came to."""

    names: tuple[str, ...]
    """Granules that changed."""
    objects: Mapping[str, Mapping[str, StoredObject]] = field(default_factory=dict)
    """Bucket -> key -> object whose bytes are other ones now."""


class EmitHistory:
    """The granules that CMR lists now, and those it has deleted.  Thread-safe.

    Args:
        records: Every granule of the world, in its first state.
        areas: What users look at: a wrong outline is put there.
    """

    def __init__(self, records: Sequence[Record], areas: Sequence[shapely.Polygon] = ()) -> None:
        self._lock = threading.RLock()
        self._areas = shapely.union_all(list(areas)) if areas else None
        self._first = {record.name: record for record in records}
        self._listed = dict(self._first)
        self._held: dict[str, Record] = {}
        self._held_first: dict[str, Record] = {}
        self._deleted: dict[str, Deletion] = {}
        self.state = 0
        """Counts the changes: who keeps something made of :meth:`listed` makes it anew when it differs."""
        self.buckets = objects(records)
        """Bucket -> key -> object as it is served now; changes in place."""
        self.files = {
            f"{bucket}/{key}": stored
            for bucket, contents in self.buckets.items()
            for key, stored in contents.items()
        }
        """The same by path; changes in place."""

    def listed(self) -> list[Record]:
        """Return the granules that are listed now, by time and name."""
        with self._lock:
            return sorted(self._listed.values(), key=lambda record: (record.start, record.name))

    def deleted(self) -> list[Deletion]:
        """Return the granules that were deleted and not listed again, by time."""
        with self._lock:
            return sorted(self._deleted.values(), key=lambda each: (each.when, each.record.name))

    def hold(self, parts: Sequence[str]) -> None:
        """Take back every granule with one of these texts in its name, as if it had never been listed.

        Raises:
            SettingsError: A text that is in no name.
        """
        with self._lock:
            for part in parts:
                for name in self._matching(self._first, [part], "hold"):
                    if name in self._listed:
                        self._held[name] = self._listed.pop(name)
            self._held_first = dict(self._held)
            self.state += 1

    def reset(self) -> Changed:
        """Forget every change: what was held back at the start is held back again."""
        with self._lock:
            redrawn = {
                f"{record.folder}/{file}": stored
                for record in self._first.values()
                for file, stored in record.files.items()
                if self.buckets[PROTECTED][f"{record.folder}/{file}"] is not stored
            }
            changed = sorted(
                name
                for name in self._first
                if (self._first[name] is not self._listed.get(name)) != (name in self._held_first)
            )
            self._held = dict(self._held_first)
            self._listed = {name: record for name, record in self._first.items() if name not in self._held}
            self._deleted = {}
            self._put(redrawn)
            self.state += 1
        return Changed(names=tuple(changed), objects={PROTECTED: redrawn} if redrawn else {})

    def _put(self, contents: Mapping[str, StoredObject]) -> None:
        self.buckets[PROTECTED].update(contents)
        self.files.update({f"{PROTECTED}/{key}": stored for key, stored in contents.items()})

    def apply(self, change: Mapping[str, Any]) -> Changed:
        """Change every granule whose name holds the text ``item``, or one of several; all of them in one instant.

        ``release`` lists what was held back or deleted; ``revise`` counts the revision up, and with ``label`` redraws
        the outline of a plume (:data:`~geostack_pipeline.sandbox.dialects.emit_labels.KINDS`); ``delete`` takes it out.
        ``at`` sets the revision date, which otherwise is now.

        Raises:
            SettingsError: An unknown action or label, or no such granule.
        """
        unknown = sorted(set(change) - {"action", "item", "label", "at"})
        action, item = change.get("action"), change.get("item", "")
        parts = [str(part) for part in item] if isinstance(item, list | tuple) else [str(item)]
        if unknown or action not in ACTIONS:
            raise SettingsError(
                "there is no such change",
                subject=f"sandbox change {action!r}",
                found=", ".join(unknown) or None,
                action=f"give action ({', '.join(ACTIONS)}) and item, and with revise perhaps label",
            )
        label = change.get("label")
        if label is not None and (label not in KINDS or action != "revise"):
            raise SettingsError(
                "there is no such label",
                subject=f"sandbox change label {label!r}",
                action=f"choose among {', '.join(KINDS)}, with the action revise",
            )
        when = datetime.fromisoformat(change["at"]).astimezone(UTC) if change.get("at") else datetime.now(UTC)
        # CMR tells milliseconds.
        when = when.replace(microsecond=when.microsecond // 1000 * 1000)
        with self._lock:
            done = (
                self._release(parts, when)
                if action == "release"
                else self._delete(parts, when)
                if action == "delete"
                else self._revise(parts, when, label)
            )
            self.state += 1
        return done

    def report(self) -> dict[str, Any]:
        """Return what is listed, held back and deleted, by name."""
        with self._lock:
            return {
                "listed": {
                    record.name: {"revision": record.revision, "revised": record.revised.isoformat()}
                    for record in self.listed()
                },
                "held": sorted(self._held),
                "deleted": {each.record.name: each.when.isoformat() for each in self.deleted()},
            }

    def _release(self, parts: Sequence[str], when: datetime) -> Changed:
        there = {**self._held, **{name: each.record for name, each in self._deleted.items()}}
        names = self._matching(there, parts, "release")
        for name in names:
            # A granule that comes back goes on counting: the deletion was a revision too.
            revision = self._deleted[name].record.revision + 2 if name in self._deleted else 1
            self._listed[name] = replace(there[name], revised=when, revision=revision)
            self._held.pop(name, None)
            self._deleted.pop(name, None)
        return Changed(names=tuple(names))

    def _delete(self, parts: Sequence[str], when: datetime) -> Changed:
        names = self._matching(self._listed, parts, "delete")
        for name in names:
            self._deleted[name] = Deletion(record=self._listed.pop(name), when=when)
        return Changed(names=tuple(names))

    def _revise(self, parts: Sequence[str], when: datetime, label: str | None) -> Changed:
        names = self._matching(self._listed, parts, "revise")
        contents: dict[str, StoredObject] = {}
        for name in names:
            record = self._listed[name]
            if label is not None:
                # Drawn from the first state: a label that was wrong can be put right.
                drawn = redraw(self._first[name], label, self._room(record))
                contents |= {f"{drawn.folder}/{file}": stored for file, stored in drawn.files.items()}
                record = replace(record, files=drawn.files, footprint=drawn.footprint)
            self._listed[name] = replace(record, revised=when, made=when, revision=record.revision + 1)
        self._put(contents)
        return Changed(names=tuple(names), objects={PROTECTED: contents} if contents else {})

    def _room(self, record: Record) -> shapely.Geometry | None:
        scenes = [each.footprint for each in self._first.values() if each.name in record.sources]
        if not scenes:
            return self._areas
        room = shapely.union_all(scenes)
        return room if self._areas is None else shapely.intersection(room, self._areas)

    @staticmethod
    def _matching(records: Mapping[str, Record], parts: Sequence[str], action: str) -> list[str]:
        names: set[str] = set()
        for part in parts or [""]:
            found = {name for name in records if part in name}
            if not part or not found:
                raise SettingsError(
                    "there is no such granule",
                    subject=f"sandbox change {action} {part!r}",
                    found=f"{len(records)} granules that it could be",
                    action="give a part of a granule's name, such as CH4PLM_002_20240607; GET /changes lists them",
                )
            names |= found
        return sorted(names)
