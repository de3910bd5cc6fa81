"""What changed between two scene lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from geostack_pipeline.providers.coerce import escape
from geostack_pipeline.providers.contract import Item

Change = tuple[Any, Any]
"""Old and new value; None where there was or is none."""


@dataclass(frozen=True, kw_only=True)
class SceneDiff:
    """Items added, removed and changed, by id."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, dict[str, Change]]
    """Id -> JSON pointer of each differing value -> old and new value."""

    def __bool__(self) -> bool:
        """Return whether anything differs."""
        return bool(self.added or self.removed or self.changed)


def diff(old: Sequence[Item], new: Sequence[Item]) -> SceneDiff:
    """Return how the canonical items of two versions of a scene list differ.

    Items are compared by collection and id; the names in the result are ids, preceded by
    ``collection/`` where an id occurs in two collections.
    """
    before, after = _by_name(old, new)
    changed: dict[str, dict[str, Change]] = {}
    for name in sorted(before.keys() & after.keys()):
        changes = dict(differences(before[name], after[name]))
        if changes:
            changed[name] = changes
    return SceneDiff(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=changed,
    )


def differences(old: Any, new: Any, pointer: str = "") -> Iterator[tuple[str, Change]]:
    """Yield the JSON pointers at which two JSON values differ, with both values.

    Objects are compared member by member, lists of equal length element by element.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(old.get(key), new.get(key), f"{pointer}/{escape(key)}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, f"{pointer}/{index}")
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield pointer, (old, new)


def _by_name(old: Sequence[Item], new: Sequence[Item]) -> tuple[dict[str, Item], dict[str, Item]]:
    collections: dict[str, set[str]] = {}
    for item in (*old, *new):
        collections.setdefault(item["id"], set()).add(item["collection"])

    def name(item: Item) -> str:
        many = len(collections[item["id"]]) > 1
        return f"{item['collection']}/{item['id']}" if many else str(item["id"])

    return {name(item): item for item in old}, {name(item): item for item in new}
