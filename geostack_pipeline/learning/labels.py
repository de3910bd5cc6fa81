"""Which outlines belong to which granule: joined by geometry and time, never by number.

Plume numbers are not in the order of time, one plume may span several scenes and carries the time of the earliest, and
outlines follow weeks after the granule.  So a granule without outlines is *unlabelled*; only after the review
window it counts as a weak negative.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from geostack_pipeline.learning.sites import Box
from geostack_pipeline.storage.digest import version_of

SAME_PASS_S = 60.0
"""A plume's time is the start of its earliest scene; scenes of a pass follow each other by 12 s."""
NONE = "reviewed-empty"
"""Label revision of a granule whose review window ended without an outline."""
_RATE = "Emissions Rate Estimate (kg/hr)"
_MOST_KG_H = 1e12
"""No plume: a number beyond it is damaged, and may be more than a float holds."""

State = Literal["labelled", "weak_negative", "unlabelled", "unusable"]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What granules and outlines share: an item of a cube, where and when it is."""

    item_id: str
    version: str
    """Three digits: version of the product."""
    moment: datetime
    box: Box
    """West, south, east, north in degrees, of what the cube holds of it."""
    digest: str
    """Digest of its files."""
    provider: str
    day: str
    """Date of the cube that holds it."""
    node: str
    """Node of that cube."""


@dataclass(frozen=True, kw_only=True)
class Label(Placed):
    """One outline of a plume complex."""

    scenes: tuple[str, ...] = ()
    """Granules that its metadata name, lower case; empty where they name none."""
    rate_kg_h: float | None = None
    """Emission rate as the analysts estimate it."""
    problem: str | None = None
    """Why it cannot be used; the granules it belongs to are then no evidence either."""
    blobs: tuple[str, ...] = ()
    """Cached objects that it was read from."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One granule with what is known about plumes in it."""

    granule: Placed
    labels: tuple[Label, ...]
    state: State

    @property
    def label_revision(self) -> str:
        """Digest of the outlines; changes when one is added, revised or deleted."""
        if not self.labels:
            return NONE
        return version_of(sorted([label.item_id, label.digest] for label in self.labels))


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Granules with their labels, and labels that belong to none."""

    members: tuple[Member, ...]
    strays: Mapping[str, str] = field(default_factory=dict)
    """Label -> why it belongs to no granule."""


def join(granules: Iterable[Placed], labels: Iterable[Label], *, now: datetime, review: timedelta) -> Joined:
    """Return every granule with its outlines.

    An outline belongs to a granule of the same product version when its time is that of the granule or of a scene
    shortly before it in the pass, their boxes meet, and its metadata name the granule or none at all.
    """
    waiting = sorted(labels, key=lambda label: label.item_id)
    used: set[str] = set()
    members = []
    for granule in sorted(granules, key=lambda each: each.item_id):
        own = tuple(label for label in waiting if _belongs(label, granule))
        used.update(label.item_id for label in own)
        members.append(Member(granule=granule, labels=own, state=_state(granule, own, now, review)))
    strays = {label.item_id: label.problem or "no granule" for label in waiting if label.item_id not in used}
    return Joined(members=tuple(members), strays=strays)


def _state(granule: Placed, labels: Sequence[Label], now: datetime, review: timedelta) -> State:
    if any(label.problem is not None for label in labels):
        return "unusable"
    if labels:
        return "labelled"
    return "weak_negative" if now - granule.moment >= review else "unlabelled"


def _belongs(label: Label, granule: Placed) -> bool:
    after = (granule.moment - label.moment).total_seconds()
    if label.version != granule.version or not 0.0 <= after < SAME_PASS_S:
        return False
    if label.scenes and not names_scene(label.scenes, granule.item_id):
        return False
    return _meet(label.box, granule.box)


def names_scene(names: Iterable[str], item_id: str) -> bool:
    """Return whether a list of scenes holds a granule, by its id or by the start time in it (``emit<start>``)."""
    parts = item_id.lower().split("_")
    start = f"emit{parts[-3]}" if len(parts) > 3 else item_id.lower()
    listed = {name.lower() for name in names}
    return item_id.lower() in listed or start in listed


@dataclass(frozen=True, kw_only=True)
class About:
    """What the metadata of an outline tell."""

    scenes: tuple[str, ...]
    rate_kg_h: float | None


def read_metadata(data: bytes) -> About:
    """Return what a CH4PLM GeoJSON tells of its plume.

    Raises:
        ValueError: It is no GeoJSON of a plume; the message says why.
    """
    try:
        document = json.loads(data)
        features: list[Any] = document["features"]
        properties = [_object(feature["properties"]) for feature in features]
        shapes = [str(feature["geometry"]["type"]) for feature in features]
        scenes = {
            name.lower()
            for each in properties
            for key in ("DAAC Scene Names", "Scene FIDs")
            for name in _texts(each.get(key))
        }
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no GeoJSON of features: {type(error).__name__} {error}"[:160]) from None
    if not {"Polygon", "MultiPolygon"} & set(shapes):
        raise ValueError(f"no outline among its geometries: {', '.join(shapes) or 'none'}"[:160])
    rates = [each.get(_RATE) for each in properties]
    known = [float(rate) for rate in rates if isinstance(rate, int | float) and 0 < rate < _MOST_KG_H]
    return About(scenes=tuple(sorted(scenes)), rate_kg_h=known[0] if known else None)


def _object(value: Any) -> Mapping[str, Any]:
    """Return the properties of a feature, which GeoJSON allows to be null."""
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"properties are {type(value).__name__}")
    return value or {}


def _texts(value: Any) -> list[str]:
    """Return a list of names; one alone is a list of one."""
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"names of scenes are {value!r}")
    return names


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
