"""Search: from a catalog of 10,000 items, 100 ms a page, to items and to stac-geoparquet, beside rustac and pystac-client.

Each way runs in a process of its own against a server in another one.  Then the catalog lies, and each way is asked
what it made of that.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from typing import Any

from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.web import counts, running
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.search_tasks"
_WAYS = {
    "search_to": "rustac.search_to, once",
    "search_to_days": "rustac.search_to per date, 4 at once, unsupervised",
    "pystac_client": "pystac-client dicts + stac_geoparquet",
    "supervised": "ours, 4 dates at once: search, normalise, write, read back",
    "stage": "ours, the whole scenes stage: also digest, map, commit, checks",
}
_WALKS = {
    "rustac_walk": "rustac.search, once",
    "pystac_walk": "pystac-client dicts",
    "supervised_walk": "ours, 4 dates at once: supervised windows, streamed",
    "rustac_windows": "the same, windows walked by rustac instead of our own pager",
}
_PEERS = {"pystac_client", "pystac_walk"}
_LONG = {"rustac_walk", "pystac_walk", "rustac_windows", "search_to_days", "stage"}
"""Left out where only the working is shown."""
_FAULTS = {
    "none": "an honest catalog",
    "count": "counts one item more than it gives",
    "cut": "page 2 lacks a quarter of its items",
    "ends": "page 2 has no next link",
    "torn": "page 2 breaks off, each time",
    "error": "page 2 is a 500, each time",
}


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes 300 items and no latency."""
    items, days, latency = (300, 2, 0.0) if quick else (10_000, 30, 0.1)
    peers = find_spec("pystac_client") is not None and find_spec("stac_geoparquet") is not None
    skipped = [] if peers else ["pystac-client and stac-geoparquet are not installed (extra `bench`)"]
    ways = {name: text for name, text in (_WALKS | _WAYS).items() if peers or name not in _PEERS}
    if quick:
        ways = {name: text for name, text in ways.items() if name not in _LONG}
    with running(
        "benchmarks.catalog_server",
        "--items", str(items), "--days", str(days), "--latency", str(latency),
    ) as url:  # fmt: skip
        runs = repeated({name: lambda name=name: _once(url, name, days) for name in ways}, repeat)
    figures = {name: _medians(results, items) for name, results in runs.items()}
    tables = [
        _table(f"{items:,} items into memory, counted", _WALKS, figures),
        _table(
            f"{items:,} items into stac-geoparquet files, rows counted",
            _WAYS,
            figures,
            "peers write items as they come; ours also makes them canonical and compares every row read back",
        ),
        _faults(["cut"] if quick else list(_FAULTS), peers=peers),
    ]
    one = figures["search_to"]["wall s"]
    walk, whole = figures["supervised_walk"], figures["supervised"]
    return Report(
        name="search",
        about=f"{items:,} items, {latency * 1000:g} ms a page, 200 items a page, {days} dates; medians of {repeat}",
        tables=tables,
        targets=[
            _at_most("peak memory of the supervised walk", walk["peak MB"], "MB", 250),
            _at_least("one search_to / supervised walk, wall", ratio(one, walk["wall s"]), 2),
            _at_most("peak memory of search to scene lists", whole["peak MB"], "MB", 250),
            _at_least("one search_to / search to scene lists, wall", ratio(one, whole["wall s"]), 2),
        ],
        skipped=skipped,
    )


def _at_most(what: str, found: float, unit: str, limit: float) -> Target:
    return Target(what=what, found=found, unit=unit, limit=limit, at_most=True)


def _at_least(what: str, found: float, limit: float) -> Target:
    return Target(what=what, found=found, unit="x", limit=limit, at_most=False)


def _once(url: str, name: str, days: int) -> tuple[Measured, dict[str, int]]:
    counts(url)
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as folder:
        measured = measure(f"{_TASKS}:{name}", url=url, folder=folder, days=days)
    return measured, counts(url)


def _medians(results: list[tuple[Measured, dict[str, int]]], items: int) -> dict[str, Any]:
    for measured, _ in results:
        if measured.facts.get("items") != items:
            raise RuntimeError(f"{items} items expected, found {measured.facts}")
    last, counted = results[-1]
    crashes = sum(measured.exit_code != 0 for measured, _ in results)
    return {
        "wall s": middle([measured.wall_s for measured, _ in results]),
        "CPU s": middle([measured.cpu_s for measured, _ in results]),
        "peak MB": middle([measured.peak_mb for measured, _ in results]),
        "after imports MB": middle([measured.base_mb for measured, _ in results]),
        "requests": counted["requests"],
        "items": last.facts["items"],
        "file MB": last.facts.get("file_mb"),
        "crashes at exit": crashes,
    }


def _table(title: str, ways: dict[str, str], figures: dict[str, dict[str, Any]], note: str = "") -> Table:
    rows = [[text, *figures[name].values()] for name, text in ways.items() if name in figures]
    return Table(title=title, columns=["way", *figures["search_to"]], rows=rows, note=note)


def _faults(faults: list[str], *, peers: bool) -> Table:
    """Return what each way makes of 500 items of one date from a catalog that lies."""
    items = 500
    rows = []
    names = ["search_to", *(["pystac_client"] if peers else []), "supervised"]
    for fault in faults:
        with running(
            "benchmarks.catalog_server", "--items", str(items), "--days", "1", "--fault", fault
        ) as url:
            row: list[Any] = [_FAULTS[fault]]
            for name in names:
                with tempfile.TemporaryDirectory(prefix="geostack-bench-") as folder:
                    more = {"attempts": 2} if name == "supervised" else {}
                    facts = measure(f"{_TASKS}:{name}", url=url, folder=folder, days=1, **more).facts
                row.append(_outcome(facts, items, fault))
            rows.append(row)
    columns = ["the catalog", *(f"{_SHORT[name]}" for name in names)]
    return Table(
        title=f"faults: {items} items of one date, what each way makes of them", columns=columns, rows=rows
    )


_SHORT = {"search_to": "rustac.search_to", "pystac_client": "pystac-client", "supervised": "ours"}


def _outcome(facts: dict[str, Any], items: int, fault: str) -> str:
    if "error" in facts:
        return f"error: {facts['error'].split(':')[0]}"
    found = facts["items"]
    if found < items:
        return f"{found} items, silently"
    return f"{found} items" + (", the count unseen" if fault == "count" else "")
