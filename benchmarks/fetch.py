"""Fetch: an area's crop against whole files, and whole objects against fsspec and ``curl --parallel``.

Each way runs in a process of its own against a server in another one, on the loopback; bytes are counted by the server.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.objects import AREA, CRS, SIDE, tile_bytes, write_bulk, write_cogs
from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.web import counts, running
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.fetch_tasks"
_AREA_WAYS = {"crop_area": "ours: crop of the area", "download_all": "ours: whole files"}
_BULK_WAYS = {
    "download_all": "ours: storage.transfer.download, 8 threads",
    "obstore_get": "obstore alone, 8 threads: no hash, no resume",
    "curl_parallel": "curl --parallel --parallel-max 16",
    "fsspec_get": "fsspec http, get",
    "fsspec_cat": "fsspec http, cat and write",
}
_LATENCY_S = 0.025

Run = tuple[Measured, dict[str, int]]


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes small files."""
    cogs, side = (2, 2560) if quick else (6, SIDE)
    objects, size = (8, 256 << 10) if quick else (100, 4 << 20)
    skipped, ways = [], dict(_BULK_WAYS)
    if shutil.which("curl") is None:
        ways.pop("curl_parallel")
        skipped.append("curl is not installed")
    if find_spec("fsspec") is None or find_spec("aiohttp") is None:
        ways = {name: text for name, text in ways.items() if not name.startswith("fsspec")}
        skipped.append("fsspec and aiohttp are not installed (extra `bench`)")
    if quick:
        ways.pop("obstore_get")
        ways.pop("fsspec_cat", None)
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as name:
        folder = Path(name)
        names = write_cogs(folder, cogs, side)
        least = sum(tile_bytes(folder / one) for one in names)
        whole = sum((folder / one).stat().st_size for one in names)
        area, area_targets = _area(folder, names, least, whole, () if quick else (_LATENCY_S,), repeat)
        bulk, bulk_targets = _bulk(folder, write_bulk(folder, objects, size), size, ways, repeat)
    return Report(
        name="fetch",
        about=f"{cogs} COGs of {side}² uint16 (DEFLATE, predictor 2, tiles of 512), {objects} objects of "
        f"{size / 2**20:g} MiB; loopback; medians of {repeat}",
        tables=[*area, bulk],
        targets=[*area_targets, *bulk_targets],
        skipped=skipped,
    )


def _area(
    folder: Path, names: list[str], least: int, whole: int, latencies: tuple[float, ...], repeat: int
) -> tuple[list[Table], list[Target]]:
    tables = []
    targets: list[Target] = []
    for latency in (0.0, *latencies):
        with running("benchmarks.object_server", "--folder", str(folder), "--latency", str(latency)) as url:
            more = {"crop_area": {"bounds": AREA, "crs": CRS}, "download_all": {}}
            runs = repeated({way: partial(_once, url, way, names, **more[way]) for way in _AREA_WAYS}, repeat)
        rows = []
        for way, text in _AREA_WAYS.items():
            moved = runs[way][-1][1]["bytes"]
            rows.append(
                [
                    text,
                    *_figures(runs[way], len(names)),
                    moved / 1e6,
                    ratio(moved, least),
                    ratio(whole, moved),
                ]
            )
        tables.append(
            Table(
                title=f"an area of 13.4 km out of {len(names)} files, {latency * 1000:g} ms a request",
                columns=["way", *_COLUMNS, "moved MB", "moved / tiles", "whole / moved"],
                rows=rows,
                note=f"the intersecting tiles are {least / 1e6:.2f} MB by tifffile, the files {whole / 1e6:.1f} MB",
            )
        )
        if not targets:
            moved = runs["crop_area"][-1][1]["bytes"]
            said = runs["crop_area"][-1][0].facts["said_moved"]
            if said != moved:
                raise RuntimeError(f"the crop says {said} bytes moved, the server sent {moved}")
            targets = [
                _target("bytes moved / intersecting tiles", ratio(moved, least), 1.1, at_most=True),
                _target("whole files / bytes moved", ratio(whole, moved), 10),
            ]
    return tables, targets


def _bulk(
    folder: Path, names: list[str], size: int, ways: dict[str, str], repeat: int
) -> tuple[Table, list[Target]]:
    with running("benchmarks.object_server", "--folder", str(folder)) as url:
        runs = repeated({way: partial(_once, url, way, names) for way in ways}, repeat)
    total = size * len(names)
    speed: dict[str, float] = {}
    rows = []
    for way, text in ways.items():
        for measured, counted in runs[way]:
            if measured.facts.get("written") != total or counted["bytes"] != total:
                raise RuntimeError(f"{way}: {total} bytes expected, {measured.facts}, {counted}")
        figures = _figures(runs[way], len(names))
        speed[way] = total / 2**20 / figures[0]
        rows.append([text, *figures, speed[way]])
    table = Table(
        title=f"{len(names)} objects of {size / 2**20:g} MiB to files, 0 ms a request",
        columns=["way", *_COLUMNS, "MiB/s"],
        rows=rows,
        note="ours also hashes (sha256), checks sizes and entity tags, and renames part files; client and server share the cores",
    )
    targets = []
    if "curl_parallel" in ways:
        found = ratio(speed["download_all"], speed["curl_parallel"])
        targets.append(_target("throughput, ours / curl --parallel", found, 0.8))
    if "fsspec_get" in ways:
        best = max(speed[way] for way in ways if way.startswith("fsspec"))
        targets.append(_target("throughput, ours / the faster fsspec", ratio(speed["download_all"], best), 5))
    return table, targets


_COLUMNS = ["wall s", "CPU s", "peak MB", "requests", "files"]


def _figures(runs: list[Run], files: int) -> list[Any]:
    for measured, _ in runs:
        if measured.facts.get("files") != files:
            raise RuntimeError(f"{files} files expected, found {measured.facts}")
    return [
        middle([measured.wall_s for measured, _ in runs]),
        middle([measured.cpu_s for measured, _ in runs]),
        middle([measured.peak_mb for measured, _ in runs]),
        runs[-1][1]["requests"],
        files,
    ]


def _target(what: str, found: float, limit: float, *, at_most: bool = False) -> Target:
    return Target(what=what, found=found, unit="x", limit=limit, at_most=at_most)


def _once(url: str, way: str, names: list[str], **more: Any) -> Run:
    counts(url)
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as folder:
        measured = measure(f"{_TASKS}:{way}", url=url, folder=folder, names=names, **more)
    return measured, counts(url)
