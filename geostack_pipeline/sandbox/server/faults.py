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
=================== ====================================================================================

``target`` is a provider key or a bucket name; without it every server shows the fault.
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
    }
)
PAGES = frozenset({"wrong-count", "drop-item", "repeat-token"}) | ITEMS
HOSTILE_HREF = "http://169.254.169.254/latest/meta-data/iam/security-credentials/"
SEARCH_PATH = "/search"


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
    asset: str = "swir22"
    """Which asset is taken away or made hostile."""

    @property
    def status(self) -> int | None:
        """The status of a plain refusal."""
        return int(self.kind) if self.kind.isdigit() else None

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
    known = kind in TRANSPORT | PAGES or (kind.isdigit() and 400 <= int(kind) <= 599)
    unknown = set(fields) - set(Fault.__dataclass_fields__)
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
            action=f"use a status 400..599 or one of {', '.join(sorted(TRANSPORT | PAGES))}, "
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
        """Return the faults that this request meets, and count them: of transport faults the first, of page faults all."""
        met: list[Fault] = []
        with self._lock:
            for number, fault in list(self._faults.items()):
                if not fault.concerns(target, path):
                    continue
                if fault.kind not in PAGES and any(each.kind not in PAGES for each in met):
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
            page["numberMatched"] += 1
            page["context"]["matched"] += 1
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
                link["body"].pop("next")
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
            item.get("assets", {}).pop(fault.asset, None)
        case "hostile-href":
            if fault.asset in item.get("assets", {}):
                item["assets"][fault.asset]["href"] = HOSTILE_HREF
        case "wrong-offset-flag":
            properties = item.get("properties", {})
            flag = "earthsearch:boa_offset_applied"
            if flag in properties:
                properties[flag] = not properties[flag]
