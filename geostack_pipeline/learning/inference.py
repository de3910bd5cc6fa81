"""Inference: a granule in overlapping tiles, blended by Hann windows; the same numbers on every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from geostack_pipeline.learning.calibration import Platt
from geostack_pipeline.learning.fields import FIELDS, Background, Floats, background, stacked
from geostack_pipeline.learning.network import PlumeNet, logits
from geostack_pipeline.learning.tiles import corners, cut, hann

if TYPE_CHECKING:
    import xarray as xr

BATCH = 4
"""Tiles at a time: one shape for all granules, so that their order changes no sum."""


@dataclass(frozen=True, kw_only=True)
class PlumeModel:
    """A trained network with what is needed to use it."""

    network: PlumeNet
    version: str
    """Version of the model: that of the candidate it was promoted from."""
    name: str
    tile: int
    """Edge of the tiles, pixels."""
    overlap: int
    threshold: float
    """Probability from which a pixel belongs to a plume candidate."""
    calibration: Platt = field(default_factory=Platt)
    """What makes a probability of what the network says."""
    product_version: str | None = None
    """Version of EMIT's methane products that it learnt from, three digits; None where that is not known."""

    def _batch(self, stack: Floats, about: Floats) -> jax.Array:
        line = np.float32(self.calibration.scale), np.float32(self.calibration.shift)
        return _sigmoids(self.network, stack, about, *line)

    def probabilities(self, stack: Floats, about: Background | None = None) -> Floats:
        """Return the probability of plume, (y, x), NaN where masked.

        Args:
            stack: See :func:`~geostack_pipeline.learning.fields.stacked`.
            about: Statistics of the granule; those of the stack when not given.
        """
        numbers = (about or background(stack)).array
        shape = (stack.shape[1], stack.shape[2])
        tile = min(self.tile, _covering(shape))
        places = list(corners(shape, tile, min(self.overlap, tile // 2)))
        window = hann(tile).astype(np.float64)
        total, weight = np.zeros(shape), np.zeros(shape)
        for first in range(0, len(places), BATCH):
            here = places[first : first + BATCH]
            parts = [cut(stack, row, column, tile, np.nan) for row, column in here]
            parts += [parts[0]] * (BATCH - len(parts))
            found = np.asarray(self._batch(np.stack(parts), np.stack([numbers] * BATCH)))
            for (row, column), values in zip(here, found, strict=False):
                high, wide = min(tile, shape[0] - row), min(tile, shape[1] - column)
                box = np.s_[row : row + high, column : column + wide]
                total[box] += (values * window)[:high, :wide]
                weight[box] += window[:high, :wide]
        out = (total / weight).astype(np.float32)
        out[~np.isfinite(stack[0])] = np.nan
        return out


@eqx.filter_jit
def _sigmoids(network: PlumeNet, stack: Any, about: Any, scale: Any, shift: Any) -> jax.Array:
    return jax.nn.sigmoid(scale * logits(network, stack, about) + shift)


def _covering(shape: tuple[int, int]) -> int:
    """Return the edge of the square, a multiple of 32, that holds a whole granule."""
    return -(-max(shape) // 32) * 32


def probability(fields: xr.Dataset, model: PlumeModel) -> xr.DataArray:
    """Return ``plume_probability`` of a granule's methane fields, (y, x), NaN where they are masked.

    Args:
        fields: ``ch4_enhancement``, ``ch4_uncertainty`` (ppm m) and, where the product has it, ``ch4_sensitivity``.
        model: What judges them; its name and version are attributes of the result.

    Raises:
        RasterError: A field is missing.
    """
    import xarray as xr  # noqa: PLC0415 - training needs no xarray

    # A field that the product lacks may be there without a value.
    present: Mapping[str, Any] = {
        name: fields[name].values
        for name in FIELDS
        if name in fields and bool(np.isfinite(fields[name].values).any())
    }
    values = model.probabilities(stacked(present, str(fields.attrs.get("item_id", "granule"))))
    main = fields[FIELDS[0]]
    attributes = {
        "long_name": "probability that a pixel shows a methane plume",
        "units": "1",
        "valid_range": np.array([0.0, 1.0], np.float32),
        "model_name": model.name,
        "model_version": model.version,
        "model_threshold": model.threshold,
    }
    if "grid_mapping" in main.attrs:
        attributes["grid_mapping"] = main.attrs["grid_mapping"]
    return xr.DataArray(
        values,
        dims=main.dims,
        coords={name: coord for name, coord in main.coords.items() if set(coord.dims) <= set(main.dims)},
        name="plume_probability",
        attrs=attributes,
    )
