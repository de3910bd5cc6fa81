"""Matched filters: mag1c's own program against ours on one cube, all columns: do they agree, and what does it take?

mag1c needs torch, which is an extra (``bench-torch``); it may live in an environment of its own, whose interpreter the
variable ``GEOSTACK_MAG1C_PYTHON`` names.  Without it the comparison is with the float64 twin, on a part of the columns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, Table, Target, middle, ratio
from benchmarks.worker import Measured, measure

_TASKS = "benchmarks.filters_tasks"
_TWIN_COLUMNS = 24


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures; ``quick`` takes a few short columns."""
    lines, columns = (160, 12) if quick else (1280, 1242)
    program = os.environ.get("GEOSTACK_MAG1C_PYTHON", sys.executable)
    skipped = []
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as name:
        folder = Path(name)
        _make(folder, lines, columns)
        twins = [_once("twin", folder, columns=min(columns, _TWIN_COLUMNS))]
        # One core and two: what a figure per core is made of, and what a user of a small machine waits for.
        ours = [_once("ours", folder, method="mag1c", cores=1) for _ in range(repeat)]
        two = [_once("ours", folder, method="mag1c", cores=2) for _ in range(repeat)]
        cmf = [_once("ours", folder, method="cmf", cores=1) for _ in range(repeat)]
        theirs: list[Measured] = []
        why = _lacks_mag1c(program)
        if why is None:
            theirs = [_once("mag1c", folder, python=program) for _ in range(1 if quick else min(repeat, 2))]
        else:
            skipped.append(f"mag1c's own program: {why}; install the extra bench-torch")
        found = {each.stem: np.load(each) for each in folder.glob("*.npy")}
    twin = found["out-twin"]
    reference = found.get("out-mag1c")
    compared = twin if reference is None else reference
    difference = found["out-ours-mag1c-1"][: len(compared)] - compared
    rows = [
        _row("mag1c 1.2.0, torch float64, one thread", theirs, columns, columns),
        _row("ours, mag1c, one core", ours, columns, columns),
        _row("ours, mag1c, two cores", two, columns, columns),
        _row("ours, CMF with leave-one-out shrinkage, one core", cmf, columns, columns),
        _row(f"NumPy float64 twin of mag1c, {len(twin)} columns, scaled", twins, len(twin), columns),
    ]
    base = theirs or twins
    scale = 1.0 if theirs else columns / len(twin)
    cpu = middle([each.cpu_s for each in base]) * scale
    targets = [
        Target(
            what="largest difference to mag1c", found=_max(difference), unit="ppm m", limit=5.0, at_most=True
        ),
        Target(
            what="rms difference to mag1c", found=_rms(difference), unit="ppm m", limit=0.05, at_most=True
        ),
        Target(
            what="pixels that are zero in one and not in the other",
            found=float(((found["out-ours-mag1c-1"][: len(compared)] > 0) != (compared > 0)).sum()),
            unit="pixels",
            limit=0.0,
            at_most=True,
        ),
        Target(
            what="CPU time of mag1c per core over ours" if theirs else "CPU time of the twin over ours",
            found=ratio(cpu, middle([each.cpu_s for each in ours])),
            unit="x",
            limit=12.0,
            at_most=False,
        ),
        Target(
            what="two devices against one, largest difference",
            found=_max(found["out-ours-mag1c-2"] - found["out-ours-mag1c-1"]),
            unit="ppm m",
            limit=0.1,
            at_most=True,
        ),
    ]
    if reference is not None:
        targets.append(
            Target(
                what="the tests' float64 twin against mag1c, largest difference",
                found=_max(twin - reference[: len(twin)]),
                unit="ppm m",
                limit=0.01,
                at_most=True,
            )
        )
    return Report(
        name="filters",
        about=f"{columns} detector columns of {lines} lines and {twins[0].facts['bands']} bands, 30 iterations",
        tables=[
            Table(
                title="one granule in memory, in sensor geometry",
                columns=["way", "wall s", "CPU s", "peak MB", "ms CPU per column"],
                rows=[row for row in rows if row],
                note=f"without the first call, which compiles: {ours[0].facts['first_call_s']:.1f} s for mag1c, "
                f"{cmf[0].facts['first_call_s']:.1f} s for CMF; kept on disk afterwards. "
                f"The array takes {lines * columns * twins[0].facts['bands'] * 4 / 1e6:.0f} MB",
            )
        ],
        targets=targets,
        skipped=skipped,
    )


def _make(folder: Path, lines: int, columns: int) -> None:
    from benchmarks.radiance_cube import make_cube
    from geostack_pipeline.methane.noise import emit_noise
    from geostack_pipeline.methane.target import unit_absorption

    cube = make_cube(lines, columns, seed=1, plumes=12)
    np.save(folder / "in-radiance.npy", np.ascontiguousarray(cube.radiance.transpose(1, 0, 2)))
    np.save(folder / "in-unit.npy", unit_absorption(cube.wavelength, cube.fwhm, air_mass=2.0))
    np.save(folder / "in-noise.npy", emit_noise().coefficients(cube.wavelength))


def _once(task: str, folder: Path, *, python: str | None = None, **arguments: Any) -> Measured:
    done = measure(f"{_TASKS}:{task}", timeout_s=1800.0, python=python, folder=str(folder), **arguments)
    if "error" in done.facts:
        raise RuntimeError(f"{task}: {done.facts['error']}")
    return done


def _lacks_mag1c(python: str) -> str | None:
    done = subprocess.run(
        [python, "-c", "import torch, mag1c.mag1c"], capture_output=True, text=True, timeout=300, check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it does not start"])[-1]


def _row(way: str, runs: list[Measured], done: int, columns: int) -> list[Any] | None:
    if not runs:
        return None
    scale = columns / done
    cpu = middle([each.cpu_s for each in runs]) * scale
    return [
        way,
        middle([each.wall_s for each in runs]) * scale,
        cpu,
        middle([each.peak_mb for each in runs]),
        cpu / columns * 1000.0,
    ]


def _max(difference: Any) -> float:
    return float(np.abs(difference).max())


def _rms(difference: Any) -> float:
    return float(np.sqrt((difference.astype(np.float64) ** 2).mean()))
