"""Cube: twelve scenes of two UTM zones onto one grid, against odc-stac, stackstac, rioxarray and GDAL; and how it grows.

Every way runs in a process of its own; files lie on the disk, or come from a server in another process on the loopback.
The COGs (2.3 GB) are made once and kept in ``.geostack/benchmarks``.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.cube_scenes import BANDS, DAYS, FULL, QUICK, folder, scenes, target
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
_NEEDED = {
    "odc_stac": "odc.stac",
    "odc_stac_dask": "odc.stac",
    "stackstac": "stackstac",
    "rioxarray": "rioxarray",
}
_SLOW = frozenset({"stackstac", "gdal_exact", "rioxarray"})
"""Ways that are run once: they take minutes."""
_OVER_HTTP = ("ours", "odc_stac", "gdal")
_QUICK_WAYS = ("ours", "odc_stac", "gdal_exact")
_SHARES = (4, 2, 1)
_SCENES = (1, 4, 16)


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes scenes of a hundredth of the pixels."""
    side = QUICK if quick else FULL
    place = folder(side, _CACHE)
    wanted = _QUICK_WAYS if quick else tuple(_WAYS)
    ways = [way for way in wanted if way not in _NEEDED or _installed(_NEEDED[way])]
    skipped = [f"{_WAYS[way][1]}: not installed (extra `bench`)" for way in wanted if way not in ways]
    _measure("ours", side, place, str(place))  # compiles, where the machine has not yet
    disk = _compare(ways, side, place, str(place), repeat)
    with running("benchmarks.object_server", "--folder", str(place)) as url:
        net = _compare([way for way in ways if way in _OVER_HTTP], side, place, url, repeat)
    tables = [
        _table("files on the disk", disk),
        _table("the same files over HTTP on the loopback", net),
    ]
    grown, areas = _growth(side, place, repeat)
    return Report(
        name="cube",
        about=f"{len(scenes(side))} scenes, {len(scenes(side)) * len(BANDS)} COGs of {side}² uint16 (DEFLATE, predictor 2, "
        f"two UTM zones) to {DAYS} days x {len(BANDS)} bands x {target(side).side}², nearest, first valid scene of a day; "
        f"medians of {repeat}",
        tables=[*tables, *grown],
        targets=_targets(disk, net, areas),
        skipped=skipped,
    )


Runs = dict[str, list[Measured]]


def _installed(name: str) -> bool:
    return find_spec(name.split(".", maxsplit=1)[0]) is not None and find_spec(name) is not None


def _measure(way: str, side: int, place: Path, base: str, **more: Any) -> Measured:
    task, text, own = _WAYS[way]
    measured = measure(f"{_TASKS}:{task}", folder=str(place), base=base, side=side, **own, **more)
    if "error" in measured.facts:
        raise RuntimeError(f"{text}: {measured.facts['error']}")
    return measured


def _compare(ways: list[str], side: int, place: Path, base: str, repeat: int) -> Runs:
    runs = {way: partial(_counted, way, side, place, base) for way in ways}
    found = repeated({way: work for way, work in runs.items() if way not in _SLOW}, repeat)
    found.update(repeated({way: work for way, work in runs.items() if way in _SLOW}, 1))
    return {way: found[way] for way in ways}


def _counted(way: str, side: int, place: Path, base: str) -> Measured:
    if not base.startswith("http"):
        return _measure(way, side, place, base)
    counts(base)
    measured = _measure(way, side, place, base)
    return Measured(**{**vars(measured), "facts": {**measured.facts, **counts(base)}})


def _table(title: str, runs: Runs) -> Table:
    over_http = all("requests" in found[-1].facts for found in runs.values())
    rows = []
    for way, found in runs.items():
        row: list[Any] = [_WAYS[way][1], *_figures(found), found[-1].facts["equal"]]
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


def _growth(side: int, place: Path, repeat: int) -> tuple[list[Table], list[tuple[float, float]]]:
    """Return tables of ours with more area and more scenes, and (cube MB, MB above the start) per area."""
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
    return [
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
    ], points


def _targets(disk: Runs, net: Runs, areas: list[tuple[float, float]]) -> list[Target]:
    found = [
        Target(
            what="pixels equal to exact GDAL, ours",
            found=100.0 * min(one.facts["equal"] for one in [*disk["ours"], *net["ours"]]),
            unit="%",
            limit=99.99,
            at_most=False,
        )
    ]
    for where, runs in (("disk", disk), ("HTTP", net)):
        if "odc_stac" not in runs:
            continue
        mine, theirs = _figures(runs["ours"]), _figures(runs["odc_stac"])
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
