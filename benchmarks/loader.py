"""Loader: GB/s of a stored cube into a jitted reduction, against ``xr.open_zarr(...).values`` and ``jnp.asarray``."""

from __future__ import annotations

import math
import tempfile
from typing import Any

from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.loader_tasks"


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures."""
    days, height, width = (2, 150, 200) if quick else (24, 1024, 1024)
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "**ours**: blocks of stored numbers, 2 ahead": ("ahead", {"prefetch": 2, "threads": 2}),
        "ours, one thread": ("ahead", {"prefetch": 2, "threads": 1}),
        "xr.open_zarr(...).values, jnp.asarray": ("plain", {"blockwise": False, "decoded": True}),
        "the same, time by time": ("plain", {"blockwise": True, "decoded": True}),
        "the same, decoded on the device": ("plain", {"blockwise": True, "decoded": False}),
        "zarr-python into NumPy alone": ("decoding", {}),
    }
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as folder:
        made = measure(f"{_TASKS}:store", folder=folder, days=days, height=height, width=width)
        if "bytes" not in made.facts:
            raise RuntimeError(f"the cube was not stored: {made.facts}")
        size = made.facts["bytes"] / 1e9
        found = repeated(
            {
                text: (
                    lambda task=task, arguments=arguments: measure(
                        f"{_TASKS}:{task}", folder=folder, **arguments
                    )
                )
                for text, (task, arguments) in ways.items()
            },
            repeat,
        )
    for text, runs in found.items():
        for one in runs:
            if "seconds" not in one.facts:
                raise RuntimeError(f"{text}: {one.facts}")
    sums = [one.facts["sum"] for runs in found.values() for one in runs if "sum" in one.facts]
    if not all(math.isclose(one, sums[0], rel_tol=1e-4) for one in sums):
        raise RuntimeError(f"one sum expected, found {sums}")
    speed = {text: middle([size / one.facts["seconds"] for one in runs]) for text, runs in found.items()}
    ours, peer = (
        speed["**ours**: blocks of stored numbers, 2 ahead"],
        speed["xr.open_zarr(...).values, jnp.asarray"],
    )
    return Report(
        name="loader",
        about=f"{days} times of (5, {height}, {width}) uint16, {size:.2f} GB, into one sum; medians of {repeat}",
        tables=[
            Table(
                title="from Zarr into a jitted reduction",
                columns=["way", "GB/s", "wall s", "CPU s", "peak MB", "above imports MB"],
                rows=[_row(text, speed[text], runs) for text, runs in found.items()],
                note="GB are those of the stored 16-bit numbers, uncompressed",
            )
        ],
        targets=[
            Target(
                what="against .values and jnp.asarray",
                found=ratio(ours, peer),
                unit="x",
                limit=2,
                at_most=False,
            ),
            Target(
                what="of what zarr-python decodes into NumPy",
                found=ratio(ours, speed["zarr-python into NumPy alone"]),
                unit="x",
                limit=0.8,
                at_most=False,
            ),
        ],
    )


def _row(text: str, speed: float, runs: list[Measured]) -> list[Any]:
    return [
        text,
        speed,
        middle([one.wall_s for one in runs]),
        middle([one.cpu_s for one in runs]),
        middle([one.peak_mb for one in runs]),
        middle([one.peak_mb - one.base_mb for one in runs]),
    ]
