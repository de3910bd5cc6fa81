"""Is a provider ready?  What is configured, does its search answer, does its login work, can a byte be read.

Each step is tried for real, with little patience, and ends in a :class:`Finding` that says what to do next.  Nothing
is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import obstore

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.retry import RetryPolicy
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import AuthError, GeostackError, SettingsError
from geostack_pipeline.providers.contract import Item, ObjectRef, Provider
from geostack_pipeline.providers.credentials import Credentials
from geostack_pipeline.raster.fetch import web_page
from geostack_pipeline.settings import Settings
from geostack_pipeline.storage.retry import transfer_error

Step = Literal["settings", "search", "login", "read"]
State = Literal["ok", "failed", "skipped"]

_HEAD = 512
"""Bytes read of one object: enough to tell a login page from a file."""
_IMPATIENT = RetryPolicy(attempts=2, deadline_s=60.0, walk_timeout_s=45.0, cap_s=2.0, retry_after_cap_s=5.0)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one step came to."""

    step: Step
    state: State
    detail: str
    """What was seen; never a secret."""
    action: str = ""
    """What to do next; empty where all is well."""


def examine(
    settings: Settings, key: str, *, day: date, back: int = 5, credentials: Credentials | None = None
) -> Iterator[Finding]:
    """Yield the findings of one provider, step by step; a step that needs a failed one before it is skipped.

    Args:
        settings: Areas and providers.
        key: Provider.
        day: Date to search.
        back: Further dates before it that are searched while none has had an item.
        credentials: Login; None reads the environment.
    """
    try:
        provider = settings.build_provider(key, credentials)
    except (SettingsError, AuthError) as error:
        yield _failed("settings", error)
        yield from _skipped("search", "login", "read")
        return
    yield _configured(settings, key)
    try:
        items, said = _find(provider, settings, day, back)
    except AuthError as error:
        # A catalog that asks for a login answers nothing without it.
        yield Finding(step="search", state="skipped", detail="needs the login")
        yield _failed("login", error)
        yield from _skipped("read")
        return
    except GeostackError as error:
        yield _failed("search", error)
        yield from _skipped("login", "read")
        return
    yield Finding(step="search", state="ok", detail=said)
    if not items:
        yield from _skipped("login", "read", why="no item was found to try it on: give another --date")
        return
    yield from _access(provider, settings, items)


def _configured(settings: Settings, key: str) -> Finding:
    fields = settings.credential_fields(key)
    there = set(settings.provider_credentials(key))
    shown = ", ".join(f"{field.variable} {'set' if field.name in there else 'not set'}" for field in fields)
    lacking = [field for field in fields if field.required and field.name not in there]
    if lacking:
        return Finding(
            step="settings",
            state="failed",
            detail=shown,
            action="set " + ", ".join(f"{field.variable} ({field.purpose})" for field in lacking),
        )
    return Finding(step="settings", state="ok", detail=shown or "no login needed")


def _find(provider: Provider, settings: Settings, day: date, back: int) -> tuple[list[Item], str]:
    found = 0
    for offset in range(back + 1):
        asked = day - timedelta(days=offset)
        result = search(provider, asked, settings.area_list, policy=_IMPATIENT)
        items = normalise(provider, result.items, asked, settings.area_list).items
        found += len(result.items)
        if items:
            return items, f"{len(items)} scene(s) on {asked}"
    return [], f"answers; no scene of the areas from {day - timedelta(days=back)} to {day} ({found} item(s))"


def _access(provider: Provider, settings: Settings, items: Sequence[Item]) -> Iterator[Finding]:
    bands = settings.provider(provider.key).bands
    item, asset = _first_asset(provider, items, bands)
    if asset is None:
        yield from _skipped("login", "read", why="no item has an asset that is wanted")
        return
    subject = f"item {item['id']} asset {asset}"
    refused: GeostackError | None = None
    try:
        for ref in provider.routes(item, asset):
            try:
                size = _read(provider, ref)
            except AuthError as error:
                refused = error
                continue
            yield Finding(
                step="login",
                state="ok",
                detail="accepted" if _has_login(settings, provider) else "none needed",
            )
            yield Finding(
                step="read", state="ok", detail=f"{subject}: {size} bytes in all, by {ref.store_id}"
            )
            return
    except AuthError as error:
        refused = error
    except GeostackError as error:
        yield Finding(step="login", state="skipped", detail="the place of the file could not be read")
        yield _failed("read", error)
        return
    assert refused is not None
    yield _failed("login", refused)
    yield from _skipped("read")


def _first_asset(provider: Provider, items: Sequence[Item], bands: Sequence[str]) -> tuple[Item, str | None]:
    for item in items:
        for want in provider.wants(item, bands):
            if want.asset in item["assets"]:
                return item, want.asset
    return items[0], None


def _read(provider: Provider, ref: ObjectRef) -> int:
    """Return the size of an object after reading its beginning."""
    try:
        answer: Any = obstore.get(provider.store(ref.store_id), ref.key, options={"range": (0, _HEAD)})
        start = bytes(answer.bytes())
    except GeostackError:
        raise
    except Exception as error:
        raise transfer_error(error, ref.canonical) from error
    if web_page(start) is not None:
        raise provider.explain_page(start, ref.canonical)
    return int(answer.meta["size"])


def _has_login(settings: Settings, provider: Provider) -> bool:
    return bool(settings.provider_credentials(provider.key))


def _failed(step: Step, error: GeostackError) -> Finding:
    return Finding(
        step=step,
        state="failed",
        detail=f"{error.problem}" + (f": {error.found}" if error.found else ""),
        action=error.action or "see the message",
    )


def _skipped(*steps: Step, why: str = "a step before it failed") -> Iterator[Finding]:
    for step in steps:
        yield Finding(step=step, state="skipped", detail=why)
