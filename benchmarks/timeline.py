"""Timeline: a year of dates as one lazy dataset, against xarray's own ways of joining the same nodes."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from typing import Any

from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.timeline_tasks"
_COLUMNS = ["way", "wall s", "CPU s", "peak MB", "dates"]


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures: opening, and opening with the series of one pixel."""
    days, height, width = (4, 60, 80) if quick else (365, 300, 400)
    ways = {"**ours**: load_timeline": "ours"}
    skipped = []
    if find_spec("dask"):
        ways |= {"xr.open_zarr each, xr.concat": "concat", "xr.open_mfdataset": "mfdataset"}
    else:
        skipped.append("xarray's own ways of joining dates: dask is not installed")
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as folder:
        made = measure(f"{_TASKS}:store", folder=folder, days=days, height=height, width=width)
        if made.facts.get("days") != days:
            raise RuntimeError(f"{days} stored dates expected, found {made.facts}")
        runs = repeated(
            {
                (way, pixel): (
                    lambda task=task, pixel=pixel: measure(
                        f"{_TASKS}:{task}", folder=folder, days=days, pixel=pixel
                    )
                )
                for pixel in (False, True)
                for way, task in ways.items()
            },
            repeat,
        )
    sums = {one.facts.get("sum") for (_, pixel), found in runs.items() for one in found if pixel}
    if len(sums) != 1 or any(one.facts.get("dates") != days for found in runs.values() for one in found):
        raise RuntimeError(
            f"the same series of {days} dates expected: {[one.facts for found in runs.values() for one in found]}"
        )

    def rows(pixel: bool) -> list[list[Any]]:
        return [_row(way, runs[way, pixel], days) for way in ways]

    opening = middle([one.wall_s for one in runs[next(iter(ways)), False]])
    targets = [Target(what="opening the dates", found=opening, unit="s", limit=2, at_most=True)]
    targets += [
        Target(
            what=f"opening, against {way}",
            found=ratio(middle([one.wall_s for one in runs[way, False]]), opening),
            unit="x",
            limit=2,
            at_most=False,
        )
        for way in list(ways)[1:]
    ]
    return Report(
        name="timeline",
        about=f"{days} stored dates of ({height}, {width}) pixels, 5 bands, on a local disk; medians of {repeat}",
        tables=[
            Table(title="opened, nothing read", columns=_COLUMNS, rows=rows(False)),
            Table(title="opened, and one pixel's series of a band read", columns=_COLUMNS, rows=rows(True)),
        ],
        targets=targets,
        skipped=skipped,
    )


def _row(text: str, found: list[Measured], days: int) -> list[Any]:
    return [
        text,
        middle([one.wall_s for one in found]),
        middle([one.cpu_s for one in found]),
        middle([one.peak_mb for one in found]),
        days,
    ]
