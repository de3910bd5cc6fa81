"""Memory of judging whole granules one at a time, against all their pixels in memory; the same numbers come out."""

from __future__ import annotations

from typing import Any

from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.learning_memory_tasks"


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures."""
    many, few, edge = (8, 4, 96) if quick else (100, 25, 500)
    chosen = 4 if quick else 40
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        f"**ours**: judging {many} granules": ("judging", {"granules": many, "edge": edge}),
        f"ours: judging {few} granules": ("judging", {"granules": few, "edge": edge}),
        f"the pixels of {many} granules in one array, one sort": (
            "in_memory",
            {"granules": many, "edge": edge},
        ),
        f"**ours**: calibration and thresholds on {chosen} granules": (
            "choosing",
            {"granules": chosen, "edge": edge},
        ),
    }
    found = repeated(
        {
            text: (lambda task=task, arguments=arguments: measure(f"{_TASKS}:{task}", **arguments))
            for text, (task, arguments) in ways.items()
        },
        repeat,
    )
    for text, runs in found.items():
        for one in runs:
            if "error" in one.facts:
                raise RuntimeError(f"{text}: {one.facts}")
    ours, less, array, _ = found.values()
    worst = max(
        abs(a - b)
        for one, other in zip(ours, array, strict=True)
        for a, b in zip(one.facts["auprc"], other.facts["auprc"], strict=True)
    )
    above = [middle([one.peak_mb - one.base_mb for one in runs]) for runs in (ours, less, array)]
    return Report(
        name="learning_memory",
        about=f"granules of {edge} x {edge} pixels, two methods, 66 thresholds, 1000 resamples; medians of {repeat}",
        tables=[
            Table(
                title="peak memory",
                columns=(
                    "way",
                    "peak MB",
                    "above imports MB",
                    "bytes per pixel and method",
                    "wall s",
                    "CPU s",
                ),
                rows=[_row(text, runs) for text, runs in found.items()],
                note="the array is judged by AUPRC alone, without thresholds and resamples",
            )
        ],
        targets=[
            Target(
                what=f"memory above imports, {many} granules over {few}",
                found=ratio(above[0], above[1]),
                unit="x",
                limit=1.5,
                at_most=True,
            ),
            Target(
                what="memory above imports, all pixels in one array over one granule at a time",
                found=ratio(above[2], above[0]),
                unit="x",
                limit=3.0,
                at_most=False,
            ),
            Target(
                what="largest difference in AUPRC from the one sort",
                found=worst,
                unit="",
                limit=1e-12,
                at_most=True,
            ),
        ],
    )


def _row(text: str, runs: list[Measured]) -> list[Any]:
    above = middle([one.peak_mb - one.base_mb for one in runs])
    return [
        text,
        middle([one.peak_mb for one in runs]),
        above,
        above * 1e6 / runs[0].facts["pixels"] / runs[0].facts["methods"],
        middle([one.wall_s for one in runs]),
        middle([one.cpu_s for one in runs]),
    ]
