"""Faults that the sandbox's servers show on demand: at start, or at run time through the control endpoint.

A fault is written ``kind``, ``kind@target`` or ``kind@target?count=3&skip=1&seconds=2&path=/search&item=40SBH``:

=================== ====================================================================================
``400`` … ``599``   that status; 429 and 503 say ``Retry-After: <seconds>`` when ``seconds`` is given
``hang``            no answer for ``seconds`` (default 120), then the connection closes
``drip``            the body in small pieces over ``seconds`` (default 30)
``cut``             the connection closes after half of the body
``truncated``       half of the body, as if it were whole
``html``            status 200 and a login page
``corrupt``         the right number of bytes, some of them wrong
``wrong-count``     ``numberMatched`` and ``context.matched`` one too high
``drop-item``       one item missing from the page, the count right
``repeat-token``    a next link that leads to the same page again
``missing-geometry`` ``missing-bbox`` ``missing-datetime`` ``null-geometry`` ``missing-asset``
``hostile-href``    ``wrong-offset-flag``: one item of each page spoiled; ``item`` says which one
``type-drift``      one item whose numbers have become text, whose text has become lists
``expired-login``   before this request is answered, every login that the sandbox has given out ends: tokens,
                    sessions, cookies, signatures. Once, unless ``count`` says otherwise
``revoked-token``   the login of this very request is refused, where the server looks at logins
``short-token``     a token server's tokens last ``seconds`` (default 2), where they say how long they last
=================== ====================================================================================

``target`` is a provider key, a bucket name or the name of another server, such as ``pc-sas``; without it every server
shows the fault.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

from geostack_pipeline.errors import SettingsError

TRANSPORT = frozenset({"hang", "drip", "cut", "truncated", "html", "corrupt"})
ITEMS = frozenset(
    {
        "missing-geometry",
        "missing-bbox",
        "missing-datetime",
        "null-geometry",
        "missing-asset",
        "hostile-href",
        "wrong-offset-flag",
        "type-drift",
    }
)
PAGES = frozenset({"wrong-count", "drop-item", "repeat-token"}) | ITEMS
LOGINS = frozenset({"expired-login", "revoked-token", "short-token"})
KINDS = TRANSPORT | PAGES | LOGINS
"""Every kind but the statuses."""
HOSTILE_HREF = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
SEARCH_PATH = "/search"
ASSET = "swir22"
"""Asset that faults take when none is named; for a catalog without one of that name its first asset with data."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One kind of misbehaviour, and when it shows."""

    kind: str
    target: str | None = None
    """Provider key or bucket; None: all."""
    count: int | None = None
    """For how many matching requests; None: always."""
    skip: int = 0
    """How many matching requests pass unharmed first."""
    seconds: float | None = None
    path: str | None = None
    """Only requests with this text in their path; page faults default to searches."""
    item: str | None = None
    """Only items with this text in their id; None: the first of the page."""
    asset: str = ASSET
    """Which asset is taken away or made hostile."""

    @property
    def status(self) -> int | None:
        """The status of a plain refusal."""
        return int(self.kind) if self.kind.isdigit() else None

    @property
    def is_wire(self) -> bool:
        """Whether it spoils the answer as a whole: one answer shows one such fault."""
        return self.kind not in PAGES | LOGINS

    def concerns(self, target: str, path: str) -> bool:
        """Tell whether a request to ``target`` is one that this fault is about."""
        wanted = self.path or (SEARCH_PATH if self.kind in PAGES else "")
        return (self.target is None or self.target == target) and wanted in path


def parse_fault(text: str) -> Fault:
    """Return the fault of its text form.

    Raises:
        SettingsError: The text names no fault, or an option is malformed.
    """
    head, _, options = text.strip().partition("?")
    kind, _, target = head.partition("@")
    return make_fault(
        {"kind": kind, "target": target or None, **dict(parse_qsl(options, keep_blank_values=True))}
    )


def make_fault(fields: dict[str, Any]) -> Fault:
    """Return the fault of its members (numbers may be text); raises ``SettingsError`` like :func:`parse_fault`."""
    fields = dict(fields)
    kind = str(fields.get("kind", ""))
    known = kind in KINDS or (kind.isdigit() and 400 <= int(kind) <= 599)
    unknown = set(fields) - set(Fault.__dataclass_fields__)
    if kind == "expired-login":
        fields.setdefault("count", 1)
    try:
        for name, convert in (("count", int), ("skip", int), ("seconds", float)):
            if fields.get(name) is not None:
                fields[name] = None if fields[name] == "always" else convert(fields[name])
    except ValueError as error:
        unknown.add(str(error))
    if not known or unknown:
        raise SettingsError(
            "is no fault of the sandbox" if not known else "has an option that no fault has",
            subject=f"fault {kind!r}",
            found=", ".join(sorted(unknown)) or None,
            action=f"use a status 400..599 or one of {', '.join(sorted(KINDS))}, "
            "as kind@target?count=3&seconds=2",
        )
    return Fault(**fields)


class FaultBoard:
    """Which faults are on; counts them down."""

    def __init__(self, faults: list[Fault] | None = None) -> None:
        self._lock = Lock()
        self._faults: dict[int, Fault] = {}
        self._number = 0
        self.shown = 0
        for fault in faults or []:
            self.add(fault)

    def add(self, fault: Fault) -> int:
        """Switch a fault on and return its number."""
        with self._lock:
            self._number += 1
            self._faults[self._number] = fault
            return self._number

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._faults.clear()

    def active(self) -> list[dict[str, Any]]:
        """Return the faults that are on, with what is left of their counts."""
        with self._lock:
            return [{"number": number, **asdict(fault)} for number, fault in self._faults.items()]

    def take(self, target: str, path: str) -> list[Fault]:
        """Return the faults that this request meets, and count them: of those of the wire the first, of others all."""
        met: list[Fault] = []
        with self._lock:
            for number, fault in list(self._faults.items()):
                if not fault.concerns(target, path):
                    continue
                if fault.is_wire and any(each.is_wire for each in met):
                    continue
                if fault.skip > 0:
                    self._faults[number] = replace(fault, skip=fault.skip - 1)
                    continue
                if fault.count is not None:
                    if fault.count <= 1:
                        del self._faults[number]
                    else:
                        self._faults[number] = replace(fault, count=fault.count - 1)
                if fault.count is None or fault.count > 0:
                    met.append(fault)
            self.shown += len(met)
        return met


def spoil_page(scope: Any, page: dict[str, Any], token: Any) -> dict[str, Any]:
    """Return a search page with the page faults of this request; ``token`` is the one that asked for the page."""
    faults = [fault for fault in scope.get("sandbox.faults", ()) if fault.kind in PAGES]
    if not faults:
        return page
    page = copy.deepcopy(page)
    for fault in faults:
        if fault.kind == "wrong-count":
            for holder, name in ((page, "numberMatched"), (page.get("context") or {}, "matched")):
                if name in holder:
                    holder[name] += 1
        elif fault.kind == "drop-item":
            del page["features"][:1]
        elif fault.kind == "repeat-token":
            _repeat(page, token)
        else:
            named = [
                item for item in page["features"] if fault.item is None or fault.item in item.get("id", "")
            ]
            for item in named[:1] if fault.item is None else named:
                _spoil_item(item, fault)
    return page


def _repeat(page: dict[str, Any], token: Any) -> None:
    for link in page["links"]:
        if link["rel"] == "next" and "body" in link:
            if token is None:
                link["body"].pop("next", None)
            else:
                link["body"]["next"] = token


def _spoil_item(item: dict[str, Any], fault: Fault) -> None:
    match fault.kind:
        case "missing-geometry":
            item.pop("geometry", None)
        case "null-geometry":
            item["geometry"] = None
            item.pop("bbox", None)
        case "missing-bbox":
            item.pop("bbox", None)
        case "missing-datetime":
            item.get("properties", {}).pop("datetime", None)
        case "missing-asset":
            item.get("assets", {}).pop(_asset(item, fault), None)
        case "hostile-href":
            if (name := _asset(item, fault)) in item.get("assets", {}):
                item["assets"][name]["href"] = HOSTILE_HREF
        case "type-drift":
            drift(item.get("properties", {}))
        case "wrong-offset-flag":
            properties = item.get("properties", {})
            flag = "earthsearch:boa_offset_applied"
            if flag in properties:
                properties[flag] = not properties[flag]


def _asset(item: dict[str, Any], fault: Fault) -> str:
    """Return which asset is meant: the one that is named, or what stands for it where the catalog names it otherwise."""
    assets: dict[str, Any] = item.get("assets", {})
    if fault.asset in assets or fault.asset != ASSET:
        return fault.asset
    for name, asset in assets.items():
        if "data" in (asset.get("roles") or ()):
            return name
    return next(iter(assets), fault.asset)


def drift(properties: dict[str, Any]) -> None:
    """Change the types of an item's properties as catalogs do over the years; time stays, and what it means."""
    for name, value in properties.items():
        if isinstance(value, bool | int | float | list):
            properties[name] = str(value)
        elif isinstance(value, str) and "time" not in name.lower():
            properties[name] = [value]
