"""The variables of a granule's methane node, whatever made them, and how a node is put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.methane.swath_quality import SwathQuality, quality_attributes

Method = str
"""``mag1c``, ``cmf`` or ``l2b``."""

LAYERS: Mapping[str, dict[str, Any]] = {
    "ch4_enhancement": {"long_name": "methane column enhancement", "units": "ppm m"},
    "ch4_enhancement_linear": {
        "long_name": "methane column enhancement by the same filter without non-negativity and sparsity",
        "units": "ppm m",
        "comment": "its noise has two sides: detection and mass use it",
    },
    "ch4_uncertainty": {
        "long_name": "1-sigma of the methane column enhancement of one pixel over its sensitivity",
        "units": "ppm m",
    },
    "ch4_sensitivity": {
        "long_name": "share of a methane column enhancement that the retrieval shows",
        "units": "1",
    },
    "spectral_misfit": {
        "long_name": "squared distance of the spectrum from background and methane, per degree of freedom",
        "units": "1",
        "comment": "about 1 for ground like its surroundings; a mineral or a roof that looks like methane has more",
    },
}
"""Name -> attributes; the linear one is left out where it is the enhancement itself."""


class NotRetrievedError(Exception):
    """A granule of which no methane can be made; the text is the reason, kept with the date.

    Args:
        reason: What is missing.
        ordinary: Whether nothing is wrong: clouds, night, or another granule of the scene is used.
    """

    def __init__(self, reason: str, *, ordinary: bool = False) -> None:
        self.ordinary = ordinary
        super().__init__(reason)


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """Fields of one granule in the geometry of its cube node."""

    layers: Mapping[str, NDArray[np.float32]]
    """Name in `LAYERS` -> plane; NaN where there is no value."""
    flags: NDArray[np.uint16]
    """`SwathQuality` per pixel."""
    attributes: Mapping[str, Any]
    """``method``, ``maturity``, ``instrument`` and whatever else describes the retrieval."""


def planes(found: Retrieved, dims: tuple[str, str]) -> xr.Dataset:
    """Return the fields as variables with these two dimensions."""
    variables: dict[str, Any] = {
        name: (dims, found.layers[name], dict(about))
        for name, about in LAYERS.items()
        if name in found.layers
    }
    variables["quality_flags"] = (dims, found.flags, quality_attributes())
    return xr.Dataset(variables)


def finish(fields: xr.Dataset, node: xr.Dataset, found: Retrieved) -> xr.Dataset:
    """Return a node: ``fields`` with a time of length 1, the scene they show, and what describes them.

    Adds ``source_scene`` (index into ``scene``, -1 where there is no value) and the coordinate ``scene`` with the id of the
    granule's item, as the nodes of Sentinel-2 have them.
    """
    mapping = {"grid_mapping": "spatial_ref"} if "spatial_ref" in fields.coords else {}
    for name in fields.data_vars:
        fields[name].attrs.pop("_FillValue", None)
        fields[name].attrs.update(mapping)
    seen = np.isfinite(fields["ch4_enhancement"].values)
    fields["source_scene"] = (
        fields["ch4_enhancement"].dims,
        np.where(seen, 0, -1).astype(np.int16),
        {"long_name": "index of the scene; -1 where no value is", **mapping},
    )
    stamp = node["time"].values.astype("datetime64[ns]")
    timed = fields.drop_vars("time", errors="ignore").expand_dims(time=[stamp])
    timed["time"].attrs = {"long_name": "start of the acquisition", "standard_name": "time"}
    timed = timed.assign_coords(
        scene=("scene", np.array([str(node.attrs["item_id"])], dtype=object), {"long_name": "item id"}),
        platform=("scene", np.array([str(node.attrs.get("platform", ""))], dtype=object)),
    )
    kept = (
        "item_id",
        "scene",
        "collection",
        "datetime",
        "platform",
        "area",
        "source_objects",
        "source_sha256",
    )
    timed.attrs = {
        **{key: value for key, value in fields.attrs.items() if key.startswith(("proj:", "spatial:"))},
        "Conventions": "CF-1.11",
        **{key: node.attrs[key] for key in kept if key in node.attrs},
        **found.attributes,
    }
    return timed


def no_value(flags: NDArray[np.uint16], enhancement: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the flags, with those of pixels that have no value and no reason saying that there is no data."""
    silent = ~np.isfinite(enhancement) & (flags & np.uint16(0xFFFF & ~int(SwathQuality.NO_CLOUD_MASK)) == 0)
    result: NDArray[np.uint16] = np.where(silent, flags | np.uint16(SwathQuality.NO_DATA), flags)
    return result
