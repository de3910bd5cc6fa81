"""From raw items to canonical rows: the provider's meaning, and the day and areas checked again.

Nothing a catalog says about its own filtering is believed: some ignore a filter without a
word, all answer closed intervals and boxes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog import footprints
from geostack_pipeline.catalog.windows import day_bounds
from geostack_pipeline.providers.coerce import parse_time
from geostack_pipeline.providers.contract import Item, Provider, RejectedItemError

RAW_LIMIT = 1 << 20
"""Characters of a rejected item that are kept."""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An item that the scene table does not hold."""

    id: str
    """As the catalog gave it; empty where it gave none."""
    reason: str
    """Stable short code: one of the provider's, or ``outside_day``, ``outside_areas``, ``repeated``."""
    detail: str
    """What was found."""
    raw: str
    """The item as JSON text, cut after :data:`RAW_LIMIT` characters."""


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """Every item of a search, once: as a canonical row or as a rejection."""

    items: list[Item]
    """Canonical, sorted by id, then collection."""
    rejected: list[Rejected]
    """Sorted by id, then reason and text."""


def normalise(provider: Provider, items: Iterable[Item], day: date, areas: Sequence[Area]) -> Normalised:
    """Return the canonical items of a UTC day whose footprints touch an area, and the rest with reasons.

    A day holds the instants from midnight up to, not including, the next midnight.  Of items
    that share id and collection the last updated is kept.

    Args:
        provider: Says what its items mean.
        items: Raw items; read once, not changed.
        day: UTC date.
        areas: Areas of interest.
    """
    start, end = day_bounds(day)
    planes = [footprints.plane(area) for area in areas]
    kept: dict[tuple[str, str], Item] = {}
    rejected: list[Rejected] = []
    for raw in items:
        try:
            item = provider.canonical(raw)
        except RejectedItemError as error:
            rejected.append(_rejection(raw, error.reason, error.detail))
            continue
        moment = parse_time(item["properties"]["datetime"])
        if moment is None or not start <= moment < end:
            when = item["properties"]["datetime"]
            rejected.append(_rejection(raw, "outside_day", f"{when} is not on {day.isoformat()} UTC"))
            continue
        if not footprints.touches(footprints.footprint(item["geometry"]), planes):
            rejected.append(
                _rejection(raw, "outside_areas", f"footprint within {item['bbox']} touches no area")
            )
            continue
        key = (item["id"], item["collection"])
        if key in kept:
            older, item = sorted((kept[key], item), key=_age)
            rejected.append(
                _rejection(older, "repeated", "another item has the same id and was updated later")
            )
        kept[key] = item
    return Normalised(
        items=[kept[key] for key in sorted(kept)],
        rejected=sorted(rejected, key=lambda one: (one.id, one.reason, one.raw)),
    )


def _age(item: Item) -> tuple[str, str]:
    # the text settles ties, so that the order in which pages arrived does not matter
    return str(item["properties"].get("updated") or ""), json.dumps(item, sort_keys=True)


def _rejection(raw: Item, reason: str, detail: str) -> Rejected:
    try:
        text = json.dumps(raw, sort_keys=True, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        text = "not to be written as JSON"
    identifier = raw.get("id")
    # lone surrogates cannot be written to a table
    name = identifier if isinstance(identifier, str) else ""
    return Rejected(
        id=name.encode("utf-8", "replace").decode()[:256], reason=reason, detail=detail, raw=text[:RAW_LIMIT]
    )
