"""Granules of the sandbox's world for the benchmark of the plume model: as tiles, with outlines, with the truth.

Rendered granules are kept in the folder that ``GEOSTACK_SCENARIOS`` names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy.ndimage import label

from geostack_pipeline.learning.batches import Tile
from geostack_pipeline.learning.fields import background
from geostack_pipeline.learning.judging import Granule
from geostack_pipeline.learning.targets import target

EDGE = 96
"""Lines and samples of a granule, pixels of 60 m."""
LEAKS_PER_KM2 = 0.022
"""Denser than in the study of retrievals: what a model learns from was chosen for its leaks."""
TRUTH_PPM_M = 200.0
_FIELDS = ("CH4ENH", "CH4UNCERT", "CH4SENS")


def tile(number: int) -> Tile:
    """Return a granule as one tile to learn from, by what an analyst would outline."""
    arrays = _rendered(number)
    stack = _stack(arrays)
    return Tile(
        stack=stack,
        target=target(arrays["labels"] > 0, np.isfinite(stack[0]), 2),
        background=background(stack).array,
        weight=1.0,
    )


def labelled(number: int) -> Granule:
    """Return a granule with what an analyst outlined."""
    arrays = _rendered(number)
    stack = _stack(arrays)
    present = np.unique(arrays["labels"][arrays["labels"] > 0])
    return Granule(
        item_id=str(number),
        stack=stack,
        plumes=np.searchsorted(present, arrays["labels"], side="right").astype(np.int32)
        * (arrays["labels"] > 0),
        target=target(arrays["labels"] > 0, np.isfinite(stack[0]), 2),
        rates_kg_h=tuple(float(arrays["rates"][one - 1]) for one in present),
    )


def true(number: int) -> Granule:
    """Return a granule with what was planted; the pixels at the edge of a plume are ignored."""
    arrays = _rendered(number)
    stack = _stack(arrays)
    plumes, count = label(arrays["column"] > TRUTH_PPM_M, np.ones((3, 3)))
    return Granule(
        item_id=str(number),
        stack=stack,
        plumes=plumes.astype(np.int32),
        target=target(plumes > 0, np.isfinite(stack[0]), 1),
        rates_kg_h=(None,) * count,
    )


def _stack(arrays: dict[str, np.ndarray]) -> np.ndarray:
    stack = np.stack([arrays[name] for name in _FIELDS]).astype(np.float32)
    stack[:, ~np.isfinite(stack).all(axis=0)] = np.nan
    return stack


_HELD: dict[int, dict[str, np.ndarray]] = {}


def _rendered(number: int) -> dict[str, np.ndarray]:
    if number not in _HELD:
        _HELD[number] = _render(number)
    return _HELD[number]


def _render(number: int) -> dict[str, np.ndarray]:
    from geostack_pipeline.sandbox.world.scenario import scenario

    kept = os.environ.get("GEOSTACK_SCENARIOS")
    file = Path(kept) / f"{number}.npz" if kept else None
    if file is not None and file.exists():
        with np.load(file) as stored:
            return {name: stored[name] for name in ("labels", "column", "rates", *_FIELDS)}
    planned = scenario(number, lines=EDGE, samples=EDGE, plumes_per_km2=LEAKS_PER_KM2)
    granule = planned.render()
    arrays = {
        "labels": granule.labels,
        "column": granule.column,
        "rates": np.array([plume.rate_kg_h for plume in granule.plumes]),
        **{name: np.asarray(granule.level2[name]) for name in _FIELDS},
    }
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **arrays)
    return arrays
