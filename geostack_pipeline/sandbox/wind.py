"""The wind that a reanalysis would give for the sandbox's world: hourly on a coarse grid, and not quite the true one."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

STEP_DEG = 0.25
"""Spacing of the grid, as of ERA5."""
SPEED_SIGMA = 0.25
"""Relative 1-sigma of the speed against the wind that the plumes drift in."""
DIRECTION_SIGMA_DEG = 15.0
"""1-sigma of the direction."""
STATED_SIGMA = 0.3
"""What the table says its relative 1-sigma is: somewhat more than it has, as the error of a place is not known."""
HOURS = range(-2, 4)
"""Hours around an overpass that the table covers, from the full hour before it."""


def wind_table(truth: Sequence[Mapping[str, Any]], seed: int) -> bytes:
    """Return a Parquet table with ``time, longitude, latitude, u10, v10, wind_speed_sigma``.

    Every overpass with plumes has one error of its own, the same at all hours and grid points around it, as errors of a
    weather model are; the plumes of one overpass see the mean of their winds.

    Args:
        truth: The planted plumes, see :class:`~geostack_pipeline.sandbox.world.scene.PlumeTruth`.
        seed: Of the world.
    """
    import pyarrow as pa  # noqa: PLC0415 - the process that only watches the servers needs none
    import pyarrow.parquet as pq  # noqa: PLC0415

    passes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for plume in truth:
        passes.setdefault((str(plume["area"]), str(plume["time"])[:13]), []).append(plume)
    rows: list[dict[str, Any]] = []
    for (area, hour), plumes in sorted(passes.items()):
        key = zlib.crc32(f"wind/{area}/{hour}".encode())
        stream = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, key])))
        angles = [math.radians(plume["wind_to_deg"]) for plume in plumes]
        speeds = [plume["wind_m_s"] for plume in plumes]
        speed = sum(speeds) / len(speeds) * max(1.0 + SPEED_SIGMA * float(stream.standard_normal()), 0.2)
        to = math.atan2(sum(map(math.sin, angles)), sum(map(math.cos, angles)))
        to += math.radians(DIRECTION_SIGMA_DEG) * float(stream.standard_normal())
        start = datetime.fromisoformat(str(plumes[0]["time"])).replace(minute=0, second=0, microsecond=0)
        middle = [
            round(sum(plume[name] for plume in plumes) / len(plumes) / STEP_DEG) * STEP_DEG
            for name in ("longitude", "latitude")
        ]
        for step in HOURS:
            # It freshens through the day, by a few per cent an hour.
            here = speed * (1.0 + 0.03 * step)
            for east in (-1, 0, 1):
                for north in (-1, 0, 1):
                    slope = 1.0 + 0.02 * east - 0.02 * north
                    rows.append(
                        {
                            "time": start + timedelta(hours=step),
                            "longitude": middle[0] + east * STEP_DEG,
                            "latitude": middle[1] + north * STEP_DEG,
                            "u10": here * slope * math.sin(to),
                            "v10": here * slope * math.cos(to),
                            "wind_speed_sigma": STATED_SIGMA * here,
                        }
                    )
    schema = pa.schema(
        [
            ("time", pa.timestamp("us", tz="UTC")),
            *((name, pa.float64()) for name in ("longitude", "latitude", "u10", "v10", "wind_speed_sigma")),
        ]
    )
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()
