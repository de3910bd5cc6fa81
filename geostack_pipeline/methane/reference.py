"""The earlier overpass that a multi-pass signal is taken against.

A candidate must be seen from the same relative orbit (same view of the same ground), at least half a day earlier, on
the same grid, with at least `MIN_SHARED` of the target's clear pixels clear as well.  Among those
the one wins whose difference to the target scatters least (scaled MAD over the shared pixels): what a reference is
for is cancelling the surface, and the scatter measures just that, be it spoilt by age, rain, haze or
another satellite's bands.  Equal scatter: the newest, then the first handed in.  The median-based scatter does not see
small plumes, so a plume does not drive the choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from geostack_pipeline.methane.acquisition import Acquisition, check_cube, read_acquisition, read_scenes
from geostack_pipeline.methane.mbmp import absorbed_fraction, mbmp

MIN_SHARED = 0.5
"""Share of the target's clear pixels that must be clear, and of the same orbit, in the reference."""
MIN_AGE = np.timedelta64(12, "h")
"""Least age of a reference: an earlier solar day, never the neighbouring tile of the same pass."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The chosen reference and what follows from it; images padded like the target's."""

    time: np.datetime64
    """Time of the reference, UTC."""
    item_ids: tuple[str, ...]
    """Items that gave it pixels."""
    sigma: float
    """Robust standard deviation of the multi-pass signal over the shared pixels."""
    multi_pass: NDArray[np.float32]
    """MBMP signal; NaN where not shared."""
    fraction: NDArray[np.float32]
    """Absorbed fraction, the multi-pass signal rid of the surface term; NaN where not shared."""
    b11_change: NDArray[np.float32]
    """ln(R11 target / R11 reference) less its median; near zero over a plume, not over a changed surface."""
    same_platform: NDArray[np.bool_]
    """Where target and reference were seen by the same satellite."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What became of the candidates."""

    reference: Reference | None
    """The chosen one; None when no candidate qualifies."""
    tried: int
    """Overpasses of the same orbit that were compared with the target."""
    too_cloudy: int
    """Of those, how many share too few clear pixels."""


def choose_reference(target: Acquisition, candidates: Sequence[xr.Dataset]) -> Choice:
    """Return the best reference for ``target`` among all time steps of ``candidates`` (on the target's grid)."""
    best: Reference | None = None
    tried = too_cloudy = 0
    for candidate in _same_orbit(target, candidates):
        tried += 1
        found = _compare(target, candidate)
        if found is None:
            too_cloudy += 1
        elif best is None or (found.sigma, _age(found.time, target)) < (best.sigma, _age(best.time, target)):
            best = found
    return Choice(reference=best, tried=tried, too_cloudy=too_cloudy)


def same_grid(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Return whether two cube nodes have the same pixels (equal coordinates and CRS)."""
    if any(not np.array_equal(one[axis].values, other[axis].values) for axis in ("x", "y")):
        return False
    names = [
        ds["spatial_ref"].attrs.get("crs_wkt") if "spatial_ref" in ds.coords else None for ds in (one, other)
    ]
    return names[0] == names[1]


def _age(time: np.datetime64, target: Acquisition) -> int:
    return int((target.time - time) / np.timedelta64(1, "s"))


def _same_orbit(target: Acquisition, candidates: Sequence[xr.Dataset]) -> Iterator[Acquisition]:
    """Yield, one at a time, the earlier overpasses that share a known orbit; others are not read."""
    wanted = {int(target.scenes.orbit[index]) for index in target.used} - {-1}
    for candidate in candidates:
        check_cube(candidate, "methane reference")
        if not wanted & set(read_scenes(candidate).orbit.tolist()):
            continue
        for index, time in enumerate(candidate["time"].values):
            if time > target.time - MIN_AGE:
                continue
            acquisition = read_acquisition(candidate, index)
            if wanted & {int(acquisition.scenes.orbit[used]) for used in acquisition.used}:
                yield acquisition


def _compare(target: Acquisition, candidate: Acquisition) -> Reference | None:
    orbit = target.orbit
    shared = target.clear & candidate.clear & (orbit >= 0) & (orbit == candidate.orbit)
    if not target.clear.any() or shared.sum() < MIN_SHARED * target.clear.sum():
        return None
    here = jnp.asarray(np.where(shared, target.signal, np.nan))
    there = jnp.asarray(np.where(shared, candidate.signal, np.nan))
    difference = mbmp(here, there)
    ratio = np.ones(shared.shape, dtype=np.float32)
    np.divide(target.r11, candidate.r11, out=ratio, where=shared)
    change = np.where(shared, np.log(ratio), np.nan).astype(np.float32)
    return Reference(
        time=candidate.time,
        item_ids=tuple(candidate.scenes.ids[index] for index in candidate.used),
        sigma=float(difference.sigma),
        multi_pass=np.asarray(difference.signal),
        fraction=np.asarray(absorbed_fraction(here, there)),
        b11_change=change - np.float32(np.nanmedian(change)),
        same_platform=_platforms(target) == _platforms(candidate),
    )


def _platforms(acquisition: Acquisition) -> NDArray[np.str_]:
    names = np.array([*(name or "?" for name in acquisition.scenes.platform), "-"])
    result: NDArray[np.str_] = names[acquisition.source]
    return result
