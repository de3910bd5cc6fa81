"""Cube: twelve scenes of two UTM zones onto one grid, against odc-stac, stackstac, rioxarray and GDAL; and how it grows.

Every way runs in a process of its own; files lie on the disk, or come from a server in another process on the loopback.
The COGs (2.3 GB) are made once and kept in ``.geostack/benchmarks``.
How it grows is drawn in the folder that ``GEOSTACK_FIGURES`` names.
"""

from __future__ import annotations

import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cube_scenes import BANDS, DAYS, FULL, QUICK, folder, parts_folder, scenes, target
from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.web import counts, running
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.cube_tasks"
_CACHE = Path(__file__).parents[1] / ".geostack" / "benchmarks"
_WAYS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours": ("ours", "ours, 2 threads", {}),
    "odc_stac": ("odc_stac", "odc.stac.load, pool of 2", {}),
    "odc_stac_array": ("odc_stac", "odc.stac.load, pool of 2, bands as one array", {"one_array": True}),
    "odc_stac_dask": ("odc_stac_dask", "odc.stac.load, Dask with 2 threads", {}),
    "stackstac": ("stackstac", "stackstac + mosaic, Dask with 2 threads", {}),
    "gdal": ("gdal", "GDAL WarpedVRT, 2 threads, default tolerance", {}),
    "gdal_exact": ("gdal", "GDAL WarpedVRT, 2 threads, tolerance 1e-4", {"tolerance": 1e-4}),
    "rioxarray": ("rioxarray", "rioxarray open, reproject, concat", {}),
}
_STORED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ours_stored": ("ours_stored", "ours, band by band, 2 threads", {}),
    "odc_stac_stored": ("odc_stac_stored", "odc.stac.load, pool of 2, to_zarr", {}),
    "odc_stac_stored_dask": (
        "odc_stac_stored",
        "odc.stac.load, to_zarr, Dask with 2 threads",
        {"dask": True},
    ),
}
"""Ways that end with the cube in a Zarr store on the disk."""
_NEEDED = {
    "odc_stac_stored": "odc.stac",
    "odc_stac_stored_dask": "odc.stac",
    "odc_stac": "odc.stac",
    "odc_stac_dask": "odc.stac",
    "stackstac": "stackstac",
    "rioxarray": "rioxarray",
}
_ALL = _WAYS | _STORED
_SLOW = frozenset({"stackstac", "gdal_exact", "rioxarray"})
"""Ways that are run once: they take minutes."""
_OVER_HTTP = ("ours", "odc_stac", "gdal")
_QUICK_WAYS = ("ours", "odc_stac", "gdal_exact", "ours_stored", "odc_stac_stored")
_LONGER = 4 * DAYS
"""Days of a longer cube: what a way holds of it in memory outweighs what it starts with."""
_SHARES = (4, 2, 1)
_SCENES = (1, 4, 16)


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes scenes of a hundredth of the pixels."""
    side = QUICK if quick else FULL
    place = folder(side, _CACHE)
    wanted = _QUICK_WAYS if quick else (*_WAYS, *_STORED)
    there = [way for way in wanted if way not in _NEEDED or _installed(_NEEDED[way])]
    skipped = [f"{_ALL[way][1]}: not installed (extra `bench`)" for way in wanted if way not in there]
    ways = [way for way in there if way in _WAYS]
    _measure("ours", side, place, str(place))  # compiles, where the machine has not yet
    disk = _compare(ways, side, place, str(place), repeat)
    storing = [way for way in there if way in _STORED]
    stored = _compare(storing, side, place, str(place), repeat)
    longer = _compare(storing, side, place, str(place), repeat, days=_LONGER)
    with running("benchmarks.object_server", "--folder", str(place)) as url:
        net = _compare([way for way in ways if way in _OVER_HTTP], side, place, url, repeat)
    tables = [
        _table("files on the disk", disk),
        _table("the same files over HTTP on the loopback", net),
        _table("files on the disk, the cube into a Zarr store on the disk", stored),
        _table(f"the same of {_LONGER} days", longer),
    ]
    grown, areas, shared_mb = _growth(side, place, repeat)
    if (figures := os.environ.get("GEOSTACK_FIGURES")) is not None:
        from benchmarks.cube_plots import draw_growth

        draw_growth(grown, Path(figures))
    return Report(
        name="cube",
        about=f"{len(scenes(side))} scenes, {len(scenes(side)) * len(BANDS)} COGs of {side}² uint16 (DEFLATE, predictor 2, "
        f"two UTM zones) to {DAYS} days x {len(BANDS)} bands x {target(side).side}², nearest, first valid scene of a day; "
        f"medians of {repeat}",
        tables=[*tables, *grown],
        targets=[*_targets(disk, net, stored, longer, areas), _shared_target(shared_mb)],
        skipped=skipped,
    )


Runs = dict[str, list[Measured]]


def _installed(name: str) -> bool:
    return find_spec(name.split(".", maxsplit=1)[0]) is not None and find_spec(name) is not None


def _measure(way: str, side: int, place: Path, base: str, **more: Any) -> Measured:
    task, text, own = _ALL[way]
    measured = measure(f"{_TASKS}:{task}", folder=str(place), base=base, side=side, **own, **more)
    if "error" in measured.facts:
        raise RuntimeError(f"{text}: {measured.facts['error']}")
    return measured


def _compare(ways: list[str], side: int, place: Path, base: str, repeat: int, **more: Any) -> Runs:
    runs = {way: partial(_counted, way, side, place, base, **more) for way in ways}
    found = repeated({way: work for way, work in runs.items() if way not in _SLOW}, repeat)
    found.update(repeated({way: work for way, work in runs.items() if way in _SLOW}, 1))
    return {way: found[way] for way in ways}


def _counted(way: str, side: int, place: Path, base: str, **more: Any) -> Measured:
    if not base.startswith("http"):
        return _measure(way, side, place, base, **more)
    counts(base)
    measured = _measure(way, side, place, base, **more)
    return Measured(**{**vars(measured), "facts": {**measured.facts, **counts(base)}})


def _table(title: str, runs: Runs) -> Table:
    over_http = all("requests" in found[-1].facts for found in runs.values())
    rows = []
    for way, found in runs.items():
        row: list[Any] = [_ALL[way][1], *_figures(found), found[-1].facts["equal"]]
        if over_http:
            row += [found[-1].facts["requests"], found[-1].facts["bytes"] / 1e6]
        rows.append(row)
    return Table(
        title=title,
        columns=["way", *_COLUMNS, "equal to exact GDAL", *(["requests", "moved MB"] if over_http else [])],
        rows=rows,
        note="CPU of all threads, without imports; peak of the whole process, imports (`before MB`) included",
    )


_COLUMNS = ["wall s", "CPU s", "peak MB", "before MB"]


def _figures(found: list[Measured]) -> list[float]:
    return [
        middle([one.wall_s for one in found]),
        middle([one.cpu_s for one in found]),
        middle([one.peak_mb for one in found]),
        middle([one.base_mb for one in found]),
    ]


def _growth(
    side: int, place: Path, repeat: int
) -> tuple[list[Table], list[tuple[float, float]], list[float]]:
    """Return tables of ours with more area and more scenes, (cube MB, MB above the start) per area, and MB per scenes."""
    base = str(place)
    areas: Runs = repeated(
        {
            str(share): partial(_measure, "ours", side, place, base, share=share, only=4, one_day=True)
            for share in _SHARES
        },
        repeat,
    )
    offered: Runs = repeated(
        {
            str(number): partial(_measure, "ours", side, place, base, share=2, only=number, one_day=True)
            for number in _SCENES
        },
        repeat,
    )
    shared: Runs = repeated({str(number): partial(_shared, side, number) for number in _SCENES}, repeat)
    points = []
    area_rows = []
    for share in _SHARES:
        found = areas[str(share)]
        wall, cpu, peak, before = _figures(found)
        cube = found[-1].facts["pixels"] * 2 / 1e6
        points.append((cube, peak - before))
        area_rows.append(
            [f"x{(_SHARES[0] // share) ** 2}", target(side, share).side, cube, wall, cpu, peak, peak - before]
        )
    scene_rows = []
    for number in _SCENES:
        found = offered[str(number)]
        wall, cpu, peak, before = _figures(found)
        scene_rows.append([number, found[-1].facts["valid"], wall, cpu, peak, peak - before])
    shared_rows = []
    for number in _SCENES:
        found = shared[str(number)]
        wall, cpu, peak, before = _figures(found)
        used, valid = found[-1].facts["used"], found[-1].facts["valid"]
        shared_rows.append([number, used, valid, wall, cpu, peak, peak - before])
    return (
        [
            Table(
                title="ours, one day of four scenes, a growing area",
                columns=["area", "side px", "cube MB", "wall s", "CPU s", "peak MB", "peak - before MB"],
                rows=area_rows,
                note="`cube MB`: reflectance alone; the source scene of each pixel is a quarter more",
            ),
            Table(
                title=f"ours, one day, {target(side, 2).side}² pixels, more and more scenes offered",
                columns=["scenes", "valid", "wall s", "CPU s", "peak MB", "peak - before MB"],
                rows=scene_rows,
                note="a scene that no empty pixel needs is not read",
            ),
            Table(
                title=f"ours, one day, {target(side, 2).side}² pixels, shared by more and more scenes, all needed",
                columns=["scenes", "used", "valid", "wall s", "CPU s", "peak MB", "peak - before MB"],
                rows=shared_rows,
                note="each scene covers a part that no other has, every other one lies in another zone",
            ),
        ],
        points,
        [row[-1] for row in shared_rows],
    )


def _shared(side: int, number: int) -> Measured:
    place = parts_folder(side, number, _CACHE)
    measured = _measure("ours", side, place, str(place), share=2, one_day=True, shared_by=number)
    if measured.facts["used"] != number or measured.facts["valid"] < 1.0:
        raise RuntimeError(f"of {number} scenes that are needed: {measured.facts}")
    return measured


def _shared_target(mb: list[float]) -> Target:
    return Target(
        what=f"memory above the start, {_SCENES[-1]} scenes that are needed / {_SCENES[0]}",
        found=ratio(mb[-1], mb[0]),
        unit="x",
        limit=1.3,
        at_most=True,
    )


def _targets(
    disk: Runs, net: Runs, stored: Runs, longer: Runs, areas: list[tuple[float, float]]
) -> list[Target]:
    found = [
        Target(
            what="pixels equal to exact GDAL, ours",
            found=100.0
            * min(
                one.facts["equal"]
                for one in [*disk["ours"], *net["ours"], *stored["ours_stored"], *longer["ours_stored"]]
            ),
            unit="%",
            limit=99.99,
            at_most=False,
        )
    ]
    for where, runs, own, peer in (
        ("disk", disk, "ours", "odc_stac"),
        ("HTTP", net, "ours", "odc_stac"),
        ("to Zarr", stored, "ours_stored", "odc_stac_stored"),
        (f"to Zarr, {_LONGER} days", longer, "ours_stored", "odc_stac_stored"),
    ):
        if peer not in runs:
            continue
        mine, theirs = _figures(runs[own]), _figures(runs[peer])
        for what, place, limit in (("CPU", 1, 0.5), ("wall", 0, 0.6), ("peak memory", 2, 0.5)):
            found.append(
                Target(
                    what=f"{what}, ours / odc.stac.load, {where}",
                    found=ratio(mine[place], theirs[place]),
                    unit="x",
                    limit=limit,
                    at_most=True,
                )
            )
    if "odc_stac_array" in disk:
        found.append(
            Target(
                what="peak memory, ours / odc.stac.load as one array, disk",
                found=ratio(_figures(disk["ours"])[2], _figures(disk["odc_stac_array"])[2]),
                unit="x",
                limit=0.5,
                at_most=True,
            )
        )
    (small, low), (large, high) = areas[0], areas[-1]
    found.append(
        Target(
            what="memory above the start that a MB of cube adds",
            found=(high - low) / (large - small),
            unit="MB",
            limit=2.0,
            at_most=True,
        )
    )
    return found
