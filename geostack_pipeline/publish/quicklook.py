"""Small PNG pictures of cubes and methane fields; the same input gives the same bytes.

Drawn with matplotlib's Agg canvas and its own fonts (no display, no global state), reduced to 256 colours, no time
stamps inside.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyproj
import shapely
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Stroke, withStroke
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

MAX_BYTES = 400_000
"""Size that no picture exceeds."""
_MAX_PIXELS = 900
"""Longer side of the image panel that is still drawn pixel by pixel; larger images are averaged down."""
_HEAT = LinearSegmentedColormap.from_list(
    "plume", ["#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"], N=256
)
_OUTLINE = "#19e6ff"
_INK = "#1b1f24"
_NO_DATA = 0.80
_BRIGHT_OR_DARK = (0, 1, 3, 8, 9, 10, 11)
"""Scene classes that must not set the contrast: no data, saturated, shadow, clouds, snow."""
_FONTS = {"family": "DejaVu Sans", "size": 9}


def true_colour(cube: xr.Dataset, *, time_index: int = 0, title: str = "") -> bytes:
    """Return a PNG of B04, B03 and B02 of one time of a cube node, stretched; without them, of B12 or B11 in grey.

    At most `MAX_BYTES`.  Pixels without data are light grey.
    """
    picture = _background(cube, time_index)

    def draw(scale: float) -> bytes:
        figure, axes, _ = _frame(cube, picture, scale, colour_bar=False)
        _title(axes, title, _stamp(cube, time_index))
        return _png(figure, legend=False)

    return _small_enough(draw)


def methane(
    cube: xr.Dataset,
    fields: xr.Dataset,
    plumes: pa.Table | None = None,
    *,
    time_index: int = 0,
    title: str = "",
) -> bytes:
    """Return a PNG of the methane enhancement of one time over the dimmed true colour, with plume outlines.

    ``cube`` and ``fields`` are nodes of the same grid and times; ``plumes`` a plume table, of which rows of this
    time are drawn and labelled with their mass.  The enhancement is smoothed by one pixel for the eye and fades
    out towards its noise.  At most `MAX_BYTES`.
    """
    picture = 0.18 + 0.6 * _background(cube, time_index, grey=True)
    step = fields.isel(time=time_index)
    enhancement = np.asarray(step["ch4_enhancement"].values, dtype=np.float32)
    noise = np.asarray(step["ch4_uncertainty"].values, dtype=np.float32)
    rows = _rows_of(plumes, fields, time_index)
    top = _top(enhancement, noise, rows)
    method = "MBMP" if (step["signal_source"].values == 2).any() else "MBSP"

    def draw(scale: float) -> bytes:
        figure, axes, bar = _frame(cube, picture, scale, colour_bar=True)
        x, y = cube["x"].values, cube["y"].values
        factor = _factor(enhancement.shape)
        level, sigma = _reduce(enhancement, factor), _reduce(noise, factor)
        level = _soften(level)
        alpha = np.clip((np.nan_to_num(level) / np.where(sigma > 0, sigma, np.inf) - 0.6) / 0.9, 0.0, 0.95)
        axes.imshow(
            np.nan_to_num(level),
            cmap=_HEAT,
            norm=Normalize(0.0, top),
            alpha=alpha,
            extent=_extent(x, y),
            interpolation="nearest",
        )
        _draw_plumes(axes, rows, fields)
        _draw_colour_bar(bar, top)
        _title(axes, title, f"{_stamp(fields, time_index)} · {method} · screening · {_count(rows)}")
        return _png(figure, legend=True)

    return _small_enough(draw)


def _small_enough(draw: Any) -> bytes:
    """Return the picture at the largest of a few scales that fits `MAX_BYTES`."""
    for scale in (1.0, 0.8, 0.65, 0.5, 0.35):
        picture: bytes = draw(scale)
        if len(picture) <= MAX_BYTES:
            break
    return picture


def _count(rows: list[dict[str, Any]]) -> str:
    return "no plume" if not rows else f"{len(rows)} plume{'s' if len(rows) > 1 else ''}"


def _stamp(dataset: xr.Dataset, index: int) -> str:
    return str(dataset["time"].values[index].astype("datetime64[m]")).replace("T", " ") + " UTC"


def _rows_of(plumes: pa.Table | None, fields: xr.Dataset, index: int) -> list[dict[str, Any]]:
    if plumes is None:
        return []
    moment = fields["time"].values[index].astype("datetime64[us]").item()
    rows: list[dict[str, Any]] = plumes.to_pylist()
    return [row for row in rows if row["time"].replace(tzinfo=None) == moment]


def _top(enhancement: NDArray[np.float32], noise: NDArray[np.float32], rows: list[dict[str, Any]]) -> float:
    """Return the upper end of the colours, rounded to two digits: above the noise, below single bright pixels."""
    if not np.isfinite(enhancement).any():
        return 1000.0
    value = 4.0 * float(np.nanmedian(noise)) if np.isfinite(noise).any() else 1000.0
    if rows:
        value = max(value, 3.0 * max(row["mean_enhancement_ppm_m"] for row in rows))
    value = max(value, 100.0)
    digits = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / digits) * digits


def _factor(shape: tuple[int, ...]) -> int:
    return max(1, math.ceil(max(shape) / _MAX_PIXELS))


def _reduce(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Return block means that leave out NaN; incomplete blocks at the far edges are averaged as they are."""
    if factor == 1:
        return image
    below, right = -image.shape[0] % factor, -image.shape[1] % factor
    grown = np.pad(image, ((0, below), (0, right)), constant_values=np.nan)
    blocks = grown.reshape(grown.shape[0] // factor, factor, grown.shape[1] // factor, factor)
    known = np.isfinite(blocks)
    count = known.sum(axis=(1, 3))
    total = np.where(known, blocks, 0.0).sum(axis=(1, 3), dtype=np.float64)
    result = np.full(count.shape, np.nan, dtype=np.float32)
    np.divide(total, count, out=result, where=count > 0, casting="same_kind")
    return result


def _soften(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the image under a Gaussian of one pixel that leaves out NaN; NaN where it was NaN."""
    known = np.isfinite(image)
    weight = ndimage.gaussian_filter(known.astype(np.float32), 1.0)
    total = ndimage.gaussian_filter(np.where(known, image, 0.0).astype(np.float32), 1.0)
    result = np.full(image.shape, np.nan, dtype=np.float32)
    np.divide(total, weight, out=result, where=known)
    return result


def _background(cube: xr.Dataset, index: int, *, grey: bool = False) -> NDArray[np.float32]:
    """Return an RGB image in [0, 1], float32, averaged down to the drawing size; light grey without data."""
    bands = [str(band) for band in cube["band"].values]
    colours = ["B04", "B03", "B02"]
    names = (
        colours if all(name in bands for name in colours) else [b for b in ("B12", "B11") if b in bands][:1]
    )
    names = names or bands[:1]
    step = cube["reflectance"].isel(time=index)
    factor = _factor((cube.sizes["y"], cube.sizes["x"]))
    planes = [
        _reduce(np.asarray(step.isel(band=bands.index(name)).values, dtype=np.float32), factor)
        for name in names
    ]
    cloudy = np.isin(np.asarray(cube["scl"].isel(time=index).values), _BRIGHT_OR_DARK)
    clear = _reduce(np.where(cloudy, np.nan, 0.0).astype(np.float32), factor)
    low, high = _limits([plane[np.isfinite(clear)] for plane in planes], planes)
    stretched = [
        np.clip((np.nan_to_num(plane, nan=low) - low) / (high - low), 0.0, 1.0) ** 0.9 for plane in planes
    ]
    image = np.stack(stretched if len(stretched) == 3 else stretched * 3, axis=-1)
    if grey:
        luminance = image @ np.array([0.30, 0.59, 0.11], dtype=np.float32)
        image = 0.25 * image + 0.75 * luminance[..., None]
    image[~np.isfinite(np.stack(planes)).all(axis=0)] = _NO_DATA
    return image.astype(np.float32)


def _limits(clear: list[NDArray[np.float32]], planes: list[NDArray[np.float32]]) -> tuple[float, float]:
    """Return the reflectances drawn black and white, common to the bands so that hues stay: 1st and 99th percentile.

    Taken from the clear pixels, or from all where few are clear; (0, 1) without any.
    """
    known = [plane[np.isfinite(plane)] for plane in clear]
    if sum(part.size for part in known) < 0.05 * sum(np.isfinite(plane).sum() for plane in planes):
        known = [plane[np.isfinite(plane)] for plane in planes]
    ranges = [np.percentile(part, [1.0, 99.0]) for part in known if part.size]
    if not ranges:
        return 0.0, 1.0
    high = 1.05 * float(max(ends[1] for ends in ranges))
    # A floor well below the darkest keeps a flat surface from being stretched into noise, and its hue.
    low = 0.5 * max(float(min(ends[0] for ends in ranges)), 0.0)
    return low, max(high, low + 0.01)


def _extent(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, float]:
    step_x = float(x[1] - x[0]) if x.size > 1 else 20.0
    step_y = float(y[1] - y[0]) if y.size > 1 else -20.0
    return (
        float(x[0]) - step_x / 2,
        float(x[-1]) + step_x / 2,
        float(y[-1]) + step_y / 2,
        float(y[0]) - step_y / 2,
    )


def _frame(
    cube: xr.Dataset, picture: NDArray[np.float32], scale: float, *, colour_bar: bool
) -> tuple[Figure, Any, Any]:
    """Return a figure with the picture in place, its axes, and axes for a colour bar (None without)."""
    x, y = cube["x"].values, cube["y"].values
    west, east, south, north = _extent(x, y)
    aspect = (north - south) / (east - west)
    width = 6.4 if aspect <= 1.2 else 6.4 * 1.2 / aspect
    height = max(width * aspect, 1.5)
    left, right, bottom, top = 0.12, (0.95 if colour_bar else 0.12), 0.12, 0.55
    total_w, total_h = left + width + right, bottom + height + top
    figure = Figure(figsize=(total_w, total_h), dpi=130 * scale, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((left / total_w, bottom / total_h, width / total_w, height / total_h))
    axes.imshow(picture, extent=(west, east, south, north), interpolation="nearest")
    axes.set_xlim(west, east)
    axes.set_ylim(south, north)
    axes.set_aspect("auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#8a929b")
        spine.set_linewidth(0.6)
    _scale_bar(axes, west, south, east - west, north - south)
    bar = None
    if colour_bar:
        bar_height = min(height, 3.2)
        bar = figure.add_axes(
            ((left + width + 0.14) / total_w, bottom / total_h, 0.14 / total_w, bar_height / total_h)
        )
    return figure, axes, bar


def _scale_bar(axes: Any, west: float, south: float, width: float, height: float) -> None:
    """Draw a bar of a round length near a quarter of the width; the axes are in metres."""
    digits = 10.0 ** math.floor(math.log10(max(width / 4.0, 1.0)))
    length = max(step * digits for step in (1.0, 2.0, 5.0) if step * digits <= width / 4.0 or step == 1.0)
    x, y = west + 0.03 * width, south + 0.035 * height
    thick = 0.009 * height
    for part, colour in ((0, "white"), (1, _INK)):
        axes.add_patch(
            Rectangle((x + part * length / 2, y), length / 2, thick, facecolor=colour, edgecolor=_INK, lw=0.6)
        )
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(
        x,
        y + 1.8 * thick,
        label,
        color="white",
        va="bottom",
        fontdict=_FONTS,
        path_effects=[withStroke(linewidth=2.0, foreground=_INK)],
    )


def _draw_plumes(axes: Any, rows: list[dict[str, Any]], fields: xr.Dataset) -> None:
    if not rows:
        return
    crs = pyproj.CRS.from_wkt(fields["spatial_ref"].attrs["crs_wkt"])
    project = pyproj.Transformer.from_crs("OGC:CRS84", crs, always_xy=True)
    low, high = axes.get_ylim()
    west, east = axes.get_xlim()
    for row in rows:
        shape = shapely.transform(
            shapely.from_wkb(row["geometry"]),
            lambda xy: np.column_stack(project.transform(xy[:, 0], xy[:, 1])),
        )
        lines = [shapely.get_coordinates(ring) for part in shapely.get_parts(shape) for ring in _rings(part)]
        axes.add_collection(
            LineCollection(
                lines,
                colors=_OUTLINE,
                linewidths=1.1,
                path_effects=[Stroke(linewidth=2.2, foreground="#00303a", alpha=0.6), Stroke(linewidth=1.1)],
            )
        )
        x, y = project.transform(row["source_longitude"], row["source_latitude"])
        axes.plot([x], [y], marker="+", color="white", markersize=7, markeredgewidth=1.3)
        left, _, right, top = shape.bounds
        label = f"{row['ime_kg']:,.0f} kg"
        if row["ime_sigma_kg"] is not None:
            label = f"{row['ime_kg']:,.0f} ± {row['ime_sigma_kg']:,.0f} kg"
        above = top + 0.04 * (high - low) < high
        middle = min(max((left + right) / 2, west + 0.12 * (east - west)), east - 0.12 * (east - west))
        axes.text(
            middle,
            top + 0.008 * (high - low) if above else shape.bounds[1] - 0.008 * (high - low),
            label,
            color="white",
            ha="center",
            va="bottom" if above else "top",
            fontdict=_FONTS,
            path_effects=[withStroke(linewidth=2.0, foreground=_INK)],
        )


def _rings(polygon: Any) -> list[Any]:
    return [polygon.exterior, *polygon.interiors]


def _draw_colour_bar(axes: Any, top: float) -> None:
    axes.imshow(
        np.linspace(0.0, 1.0, 256)[:, None],
        cmap=_HEAT,
        aspect="auto",
        origin="lower",
        extent=(0.0, 1.0, 0.0, top),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    ticks = np.linspace(0.0, top, 5)
    axes.set_yticks(ticks, [f"{tick:,.0f}" for tick in ticks], fontfamily=_FONTS["family"], fontsize=8)
    axes.set_ylabel("CH₄ enhancement (ppm m)", fontfamily=_FONTS["family"], fontsize=8, color=_INK)
    axes.tick_params(length=2, width=0.6, color="#8a929b", labelcolor=_INK)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
        spine.set_color("#8a929b")


def _title(axes: Any, title: str, subtitle: str) -> None:
    where = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "left", "va": "bottom"}
    axes.annotate(subtitle, (0, 1), (0, 5), fontfamily=_FONTS["family"], fontsize=8, color="#57606a", **where)
    if title:
        axes.annotate(
            title,
            (0, 1),
            (0, 18),
            fontfamily=_FONTS["family"],
            fontsize=11,
            color=_INK,
            fontweight="bold",
            **where,
        )


def _png(figure: Figure, *, legend: bool) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba")
    width, height = figure.canvas.get_width_height()
    image = Image.frombytes("RGBA", (width, height), buffer.getvalue()).convert("RGB")
    pixels = np.asarray(image)
    if legend:
        # Its colours are few pixels but matter: they count as much as a quarter of the picture.
        ramp = (_HEAT(np.linspace(0.0, 1.0, 128))[:, :3] * 255).astype(np.uint8)
        wide = np.repeat(ramp, math.ceil(width / 128), axis=0)[:width]
        pixels = np.concatenate([pixels, np.tile(wide[None], (max(1, height // 4), 1, 1))])
    found = Image.fromarray(pixels).quantize(252).getpalette() or []
    fixed = [255, 255, 255, *(int(code[at : at + 2], 16) for code in (_OUTLINE, _INK) for at in (1, 3, 5))]
    palette = Image.new("P", (1, 1))
    palette.putpalette(found[: 252 * 3] + fixed)
    out = io.BytesIO()
    drawn = image.quantize(palette=palette, dither=Image.Dither.NONE)
    index = np.asarray(drawn).copy()
    # The nearest colour is looked up coarsely; paper that is not quite white would show on a page.
    index[(np.asarray(image) == 255).all(axis=-1)] = 252
    exact = Image.fromarray(index, mode="P")
    exact.putpalette(drawn.getpalette() or [])
    exact.save(out, format="PNG", optimize=True)
    return out.getvalue()
