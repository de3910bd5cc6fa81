"""Swath: a window of bands of a full-size EMIT granule to a cube, and results onto the map, against h5py, xarray and NumPy."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.granules import BANDS, CHUNKS, FULL, write_granule
from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.swath_tasks"
_CUBE_WAYS = {
    "cube": "ours: granule to a cube in Zarr",
    "xarray_to_zarr": "xarray + h5netcdf, to_zarr, same chunks and codec",
    "h5py_read": "h5py, read into memory only",
    "h5netcdf_read": "h5netcdf, read into memory only",
}
_ORTHO_WAYS = {"ortho_ours": "ours: compiled gather", "ortho_numpy": "the published rule in NumPy"}
_WINDOW = 50
"""Bands; the last ones, in which methane absorbs."""
_COLUMNS = ["wall s", "CPU s", "peak MB"]


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes a small granule."""
    lines, samples = (160, 124) if quick else FULL
    tables: list[Table] = []
    targets: list[Target] = []
    sizes = []
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as name:
        for packed in (True, False):
            path = Path(name) / f"EMIT_L1B_RAD_{packed}.nc"
            write_granule(path, lines, samples, packed=packed)
            sizes.append(path.stat().st_size)
            table, found = _cube(path, "deflate 1" if packed else "in one piece", repeat)
            tables.append(table)
            targets += found
            if packed:
                maps, map_targets = _ortho(path, (1,) if quick else (1, 4), repeat)
            path.unlink()
    return Report(
        name="swath",
        about=f"EMIT L1B of {lines} x {samples} x {BANDS} float32: deflate 1 and shuffle in chunks of "
        f"{' x '.join(map(str, CHUNKS))} ({sizes[0] / 1e6:,.0f} MB), and in one piece ({sizes[1] / 1e6:,.0f} MB); "
        f"the last {_WINDOW} bands; warm file; medians of {repeat}",
        tables=[*tables, *maps],
        targets=[*targets, *map_targets],
    )


def _cube(path: Path, layout: str, repeat: int) -> tuple[Table, list[Target]]:
    runs = repeated({way: partial(_once, way, path) for way in _CUBE_WAYS}, repeat)
    figures = {way: _figures(found) for way, found in runs.items()}
    plain = min(figures["h5py_read"][0], figures["h5netcdf_read"][0])
    table = Table(
        title=f"{_WINDOW} of {BANDS} bands, {layout}",
        columns=["way", *_COLUMNS, "wall / plain read"],
        rows=[[text, *figures[way], ratio(figures[way][0], plain)] for way, text in _CUBE_WAYS.items()],
        note="ours also writes location and look-up table, and is compared with the file value by value afterwards",
    )
    ours, peer = figures["cube"], figures["xarray_to_zarr"]
    return table, [
        Target(what=f"cube, {layout}: peak memory", found=ours[2], unit="MB", limit=1000, at_most=True),
        Target(
            what=f"cube, {layout}: wall, ours / xarray to_zarr",
            found=ratio(ours[0], peer[0]),
            unit="x",
            limit=1,
            at_most=True,
        ),
    ]


def _ortho(path: Path, counts: tuple[int, ...], repeat: int) -> tuple[list[Table], list[Target]]:
    tables, targets = [], []
    for bands in counts:
        found = measure(f"{_TASKS}:digest", path=str(path), bands=bands).facts
        if found.get("equal") is not True:
            raise RuntimeError(f"the two ways differ: {found}")
        runs = repeated(
            {way: partial(measure, f"{_TASKS}:{way}", path=str(path), bands=bands) for way in _ORTHO_WAYS},
            repeat,
        )
        figures = {way: _figures(each) for way, each in runs.items()}
        what = "one field" if bands == 1 else f"{bands} bands"
        tables.append(
            Table(
                title=f"{what} onto the map of {' x '.join(str(size) for size in found['shape'][:2])} pixels",
                columns=["way", *_COLUMNS],
                rows=[[text, *figures[way]] for way, text in _ORTHO_WAYS.items()],
                note="results equal bit for bit",
            )
        )
        wall = ratio(figures["ortho_ours"][0], figures["ortho_numpy"][0])
        targets.append(
            Target(what=f"ortho of {what}: wall, ours / NumPy", found=wall, unit="x", limit=1, at_most=True)
        )
    return tables, targets


def _once(way: str, path: Path) -> Measured:
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as folder:
        window = {"path": str(path), "folder": folder, "first": BANDS - _WINDOW, "stop": BANDS}
        measured = measure(f"{_TASKS}:{way}", **window)
        if "error" in measured.facts:
            raise RuntimeError(f"{way}: {measured.facts['error']}")
        if way in {"cube", "xarray_to_zarr"}:
            compared = measure(f"{_TASKS}:check", **window).facts
            if compared.get("equal") is not True:
                raise RuntimeError(f"{way}: the cube is not the file: {compared}")
    return measured


def _figures(runs: list[Measured]) -> list[Any]:
    for measured in runs:
        if "error" in measured.facts:
            raise RuntimeError(str(measured.facts))
    return [
        middle([measured.wall_s for measured in runs]),
        middle([measured.cpu_s for measured in runs]),
        middle([measured.peak_mb for measured in runs]),
    ]
