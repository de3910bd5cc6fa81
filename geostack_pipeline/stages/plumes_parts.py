"""One plume of the parts that the edges of granules have cut it into.

Ground that two granules show counts once: of every part, as much as the share of its area that those before it lack.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geostack_pipeline.methane.outline import DECIMALS
from geostack_pipeline.stages.plumes_links import Candidate


def together(parts: Sequence[Candidate]) -> Candidate:
    """Return the parts of one plume as one candidate; one part is returned as it is.

    Outlines are united; mass, area, pixels and significance are sums, without what was counted before; the largest
    values are the largest of all; means are weighted by area.  Of the mass's uncertainty, the noise adds in quadrature and
    the air-mass bias, which is common to a pass, as it is.  Id, time, and what no rule is named for are those of the first
    part.  There is no rate: that is for whoever knows the wind.

    Args:
        parts: The one that leads comes first; of one provider and instrument.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    whole, shares = _united([shapely.from_wkb(part.row["geometry"]) for part in parts])
    rows = [part.row for part in parts]
    areas = [share * row["area_m2"] for share, row in zip(shares, rows, strict=True)]

    def total(name: str) -> float:
        return float(sum(share * row[name] for share, row in zip(shares, rows, strict=True)))

    def mean(name: str) -> float | None:
        known = [(area, row[name]) for area, row in zip(areas, rows, strict=True) if row[name] is not None]
        weight = sum(area for area, _ in known)
        return sum(area * value for area, value in known) / weight if weight > 0.0 else None

    def largest(name: str) -> Any:
        return max((row[name] for row in rows if row.get(name) is not None), default=None)

    top = max(rows, key=lambda row: float(row["peak_z"]))
    noise, sigma = _uncertainty(rows, shares)
    merged = {
        **first.row,
        "method": "+".join(sorted({row["method"] for row in rows})),
        "geometry": shapely.to_wkb(whole),
        "bbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), whole.bounds, strict=True)),
        **{name: top[name] for name in ("source_longitude", "source_latitude", "source_method")},
        "area_m2": total("area_m2"),
        "pixels": round(total("pixels")),
        "max_enhancement_ppm_m": largest("max_enhancement_ppm_m"),
        "mean_enhancement_ppm_m": mean("mean_enhancement_ppm_m"),
        "background_ppm_m": mean("background_ppm_m"),
        "noise_ppm_m": None if any(row["noise_ppm_m"] is None for row in rows) else mean("noise_ppm_m"),
        "ime_kg": total("ime_kg"),
        "ime_noise_kg": noise,
        "ime_sigma_kg": sigma,
        "peak_z": largest("peak_z"),
        "significance": total("significance"),
        "negative_controls": largest("negative_controls"),
        "elongation": elongation(whole),
        "clipped_fraction": mean("clipped_fraction"),
        "item_ids": sorted({item for row in rows for item in row["item_ids"]}),
        "reference_item_ids": sorted({item for row in rows for item in row["reference_item_ids"] or []}),
    }
    if any(row.get("probability_max") is not None for row in rows):
        said = next(row for row in rows if row.get("probability_max") is not None)
        merged |= {
            "probability_max": largest("probability_max"),
            "probability_mean": mean("probability_mean"),
            **{name: said[name] for name in ("model_name", "model_version")},
        }
    scenes = tuple(sorted({scene for part in parts for scene in part.scenes}))
    return replace(first, row=merged, scenes=scenes)


def _united(shapes: Sequence[Any]) -> tuple[Any, list[float]]:
    """Return the union of outlines, and of each the share of its area that is in none before it."""
    step = 10.0**-DECIMALS
    whole, shares = shapes[0], [1.0]
    for shape in shapes[1:]:
        shares.append(float(shapely.difference(shape, whole).area / shape.area))
        # On the grid that outlines are rounded to, so that their edges meet where they are the same.
        whole = shapely.union(whole, shape, grid_size=step)
    return shapely.orient_polygons(whole), shares


def _uncertainty(
    rows: Sequence[Mapping[str, Any]], shares: Sequence[float]
) -> tuple[float | None, float | None]:
    """Return noise and 1-sigma of the mass of all parts; None where one that counts has none."""
    counted = [(share, row) for share, row in zip(shares, rows, strict=True) if share > 0.0]
    if any(row["ime_noise_kg"] is None or row["ime_sigma_kg"] is None for _, row in counted):
        return None, None
    noise = math.hypot(*(share * row["ime_noise_kg"] for share, row in counted))
    bias = sum(
        share * math.sqrt(max(row["ime_sigma_kg"] ** 2 - row["ime_noise_kg"] ** 2, 0.0))
        for share, row in counted
    )
    return noise, math.hypot(noise, bias)


def elongation(shape: Any) -> float:
    """Return length over mean width of a shape in degrees, as the detection tells it of pixels.

    A filled bar of length L has a standard deviation of L / sqrt(12) along it.
    """
    turned = shapely.get_parts(shapely.orient_polygons(shape))
    rings = [ring for part in turned for ring in (part.exterior, *part.interiors)]
    scale = math.cos(math.radians(shape.centroid.y))
    origin = shapely.get_coordinates(shape)[0]
    # Area, first and second moments by Green's theorem; holes turn the other way.
    moments = sum((_moments(shapely.get_coordinates(ring), origin, scale) for ring in rings), np.zeros(6))
    area, x, y, xx, yy, xy = (float(value) for value in moments)
    spread = np.array([[xx, xy], [xy, yy]]) / area - np.outer([x, y], [x, y]) / area**2
    return float(12.0 * np.linalg.eigvalsh(spread)[-1] / area)


def _moments(ring: NDArray[np.float64], origin: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return the signed area of a ring and its moments x, y, xx, yy, xy in degrees of latitude, around an origin."""
    east = ((ring[:, 0] - origin[0] + 180.0) % 360.0 - 180.0) * scale
    north = ring[:, 1] - origin[1]
    (a, b), (c, d) = (east[:-1], east[1:]), (north[:-1], north[1:])
    turn = a * d - b * c
    return np.array(
        [
            turn.sum() / 2.0,
            (turn * (a + b)).sum() / 6.0,
            (turn * (c + d)).sum() / 6.0,
            (turn * (a * a + a * b + b * b)).sum() / 12.0,
            (turn * (c * c + c * d + d * d)).sum() / 12.0,
            (turn * (a * d + 2.0 * a * c + 2.0 * b * d + b * c)).sum() / 24.0,
        ]
    )
