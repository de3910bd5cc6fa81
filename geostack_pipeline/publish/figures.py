"""Small pictures that tell what an artifact holds: kept beside the data and shown on the asset's page."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import polars as pl
import shapely
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from shapely.geometry import shape

from geostack_pipeline.areas import Area

INK = "#22313f"
KEPT = "#1f6fb2"
DROPPED = "#b8bec4"
AREA = "#d1495b"


def footprint_map(footprints: Sequence[Mapping[str, Any]], areas: Sequence[Area]) -> bytes:
    """Return a PNG of scene footprints over the areas, one panel per group of areas near each other.

    Args:
        footprints: Mappings with ``geometry`` (GeoJSON or WKB, longitude and latitude), ``kept`` and
            ``cloud_cover`` in percent (None where unknown).
        areas: The areas of interest.
    """
    shapes = [
        (_shape(entry["geometry"]), bool(entry["kept"]), entry.get("cloud_cover")) for entry in footprints
    ]
    shown = list(areas)[:4]
    figure = Figure(figsize=(2.9 * max(len(shown), 1), 2.9), dpi=80)
    figure.subplots_adjust(left=0.14 / max(len(shown), 1), right=0.985, bottom=0.09, top=0.91, wspace=0.28)
    FigureCanvasAgg(figure)
    scale = mpl.colormaps["YlGnBu_r"]
    norm = Normalize(0, 100)
    for position, area in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), position)
        west, south, east, north = area.parts[0]
        box = shapely.box(west, south, east, north)
        near = [entry for entry in shapes if entry[0] is not None and entry[0].intersects(box)]
        for outline, kept, cloud in near:
            colour = scale(norm(cloud)) if kept and cloud is not None else (KEPT if kept else DROPPED)
            for part in getattr(outline, "geoms", [outline]):
                if part.geom_type == "Polygon":
                    x, y = part.exterior.xy
                    axes.fill(
                        x, y, facecolor=colour, edgecolor=INK, linewidth=0.7, alpha=0.45 if kept else 0.35
                    )
        axes.add_patch(
            Rectangle((west, south), east - west, north - south, fill=False, ec=AREA, lw=1.6, zorder=3)
        )
        pad = 0.6 * max(east - west, north - south, 0.05)
        axes.set_xlim(west - pad, east + pad)
        axes.set_ylim(south - pad, north + pad)
        axes.set_title(
            f"{area.name}: {sum(kept for _, kept, _ in near)} of {len(near)}", fontsize=8, color=INK
        )
        axes.tick_params(labelsize=6, colors=INK)
        axes.locator_params(nbins=4)
        axes.set_aspect(1.0 / max(float(_cos(0.5 * (south + north))), 0.05))
    if not shown:
        figure.text(0.5, 0.5, "no areas", ha="center", va="center", color=INK)
    return png(figure)


def bytes_chart(manifest: pl.DataFrame) -> bytes:
    """Return a PNG of cached bytes against the size of the whole files, one bar pair per asset name."""
    figure = Figure(figsize=(4.2, 2.2), dpi=80)
    figure.subplots_adjust(left=0.1, right=0.97, bottom=0.2, top=0.97)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if manifest.height:
        per_asset = (
            manifest.group_by("asset")
            .agg(pl.col("size").sum(), pl.col("source_size").sum())
            .sort("asset")
            .rows()
        )
        names = [row[0] for row in per_asset]
        axes.barh(names, [(row[2] or 0) / 1e6 for row in per_asset], color=DROPPED, label="whole files")
        axes.barh(names, [row[1] / 1e6 for row in per_asset], color=KEPT, label="kept")
        axes.set_xscale("log")
        axes.set_xlabel("megabytes (log scale)", fontsize=7, color=INK)
        axes.legend(fontsize=6, frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing to fetch on this date", ha="center", va="center", fontsize=8, color=INK)
        axes.set_axis_off()
    axes.tick_params(labelsize=7, colors=INK)
    return png(figure)


def png(figure: Figure) -> bytes:
    """Return a figure as PNG bytes that are the same for the same picture (no date, no version inside)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _shape(geometry: Any) -> Any:
    if geometry is None:
        return None
    return shapely.from_wkb(geometry) if isinstance(geometry, bytes | bytearray) else shape(geometry)


def _cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))
