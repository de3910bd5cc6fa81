"""Pictures of swath cubes: methane as heat, spectra in true colour, each as the node has it."""

from __future__ import annotations

import io

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from geostack_pipeline.publish.quicklook import MAX_BYTES

_COLOURS_NM = (660.0, 560.0, 480.0)
_NEAR_NM = 60.0
"""A band further from a colour does not stand for it."""
_MOST_PIXELS = 900


def picture(node: xr.Dataset, main: str, *, title: str = "") -> bytes:
    """Return a PNG of a node's main variable: methane as heat with a colour bar, spectra as true colour or in grey.

    ``node`` is decoded (NaN for no data) and read in steps of whole pixels, no more than needed. At most `MAX_BYTES`.
    """
    values = node[main]
    # The detectors of EnMAP L1B have wavelengths of their own: swir_wavelength.
    spectral = next((str(dim) for dim in values.dims if str(dim).endswith("wavelength")), None)
    if spectral is not None:
        image = _true_colour(values.rename({spectral: "wavelength"}))
        heat = None
    else:
        heat = _thinned(values)
        image = heat
    for scale in (1.0, 0.75, 0.5, 0.35):
        drawn = _draw(image, node, main, title, scale, heat=heat is not None)
        if len(drawn) <= MAX_BYTES:
            break
    return drawn


def _thinned(values: xr.DataArray) -> NDArray[np.float32]:
    """Return a plane with at most :data:`_MOST_PIXELS` rows and columns, every n-th pixel."""
    step = max(1, -(-max(values.shape) // _MOST_PIXELS))
    return np.asarray(values[::step, ::step].values, np.float32)


def _true_colour(values: xr.DataArray) -> NDArray[np.float32]:
    wavelength = np.asarray(values["wavelength"].values, np.float64)
    bands = [int(np.argmin(np.abs(wavelength - nm))) for nm in _COLOURS_NM]
    if any(abs(wavelength[band] - nm) > _NEAR_NM for band, nm in zip(bands, _COLOURS_NM, strict=True)):
        bands = [int(len(wavelength) // 2)] * 3
    planes = {band: _thinned(values.isel(wavelength=band)) for band in set(bands)}
    image = np.stack([planes[band] for band in bands], axis=-1)
    known = np.isfinite(image).all(axis=-1)
    low, high = (0.0, 1.0)
    if known.any():
        low, high = (float(value) for value in np.percentile(image[known], [1.0, 99.0]))
        low *= 0.5
    stretched = np.clip((np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-6), 0.0, 1.0) ** 0.9
    stretched[~known] = 0.92
    return np.asarray(stretched, np.float32)


def _draw(
    image: NDArray[np.float32], node: xr.Dataset, main: str, title: str, scale: float, *, heat: bool
) -> bytes:
    height, width = image.shape[:2]
    figure = Figure(
        figsize=(6.4, max(2.0, 5.6 * height / max(width, 1)) + 0.8), dpi=120 * scale, facecolor="white"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(1, 1, 1)
    if heat:
        known = image[np.isfinite(image)]
        top = float(np.percentile(known, 99.5)) if known.size else 1.0
        shown = axes.imshow(image, cmap="inferno", vmin=0.0, vmax=max(top, 1.0), interpolation="nearest")
        bar = figure.colorbar(shown, ax=axes, shrink=0.8)
        units = node[main].attrs.get("units", "")
        bar.set_label(f"{node[main].attrs.get('long_name', main)} ({units})", fontsize=7)
        bar.ax.tick_params(labelsize=7)
    else:
        axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    stamp = str(node["time"].values.astype("datetime64[s]")).replace("T", " ") + " UTC"
    axes.set_title(f"{title}\n{stamp}" if title else stamp, fontsize=8, loc="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None}, bbox_inches="tight")
    return buffer.getvalue()
