"""Blocks of detector columns through a matched filter, on whatever devices there are.

Each column is a problem of its own.  A CPU works best on one after the other (its 256 KB stay in the cache: `lax.map`),
an accelerator on all at once (`vmap`); where there are several devices the columns of a block are shared out.

Shapes are static: lines are padded with weight 0 to a multiple of `LINES`, columns to whole blocks, so that a kernel
is compiled once for all granules of an instrument.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from numpy.typing import NDArray

from geostack_pipeline.methane.cmf import cmf_column
from geostack_pipeline.methane.mag1c import SCALING, mag1c_column
from geostack_pipeline.methane.runtime import one_thread_per_factor
from geostack_pipeline.methane.whitening import EXACT

Method = Literal["mag1c", "cmf"]
METHODS: tuple[Method, ...] = ("mag1c", "cmf")
COLUMNS = 64
"""Columns of a block: 16 MB of EMIT's radiance."""
LINES = 128
_FEW_LINES = 4096
"""Longer ones (clusters of a whole map) grow to powers of two."""
_LEAST = float(np.finfo(np.float32).tiny)


class ColumnFields(NamedTuple):
    """Fields of a block of columns, (columns, lines) float32 unless said; NaN where not retrieved."""

    enhancement: NDArray[np.float32]
    """ppm m; of mag1c zero where nothing was found."""
    linear: NDArray[np.float32]
    """ppm m: what the filter gives without non-negativity and sparsity; of cmf the enhancement itself."""
    uncertainty: NDArray[np.float32]
    """ppm m: 1-sigma of ``enhancement / sensitivity``, from the noise of the instrument; where that is not known, from
    the scatter of ``linear`` over the column, which the surface is part of."""
    sensitivity: NDArray[np.float32]
    """Share of a true enhancement that ``enhancement`` shows."""
    usable: NDArray[np.bool_]
    """(columns,): whether the column could be filtered."""
    shrinkage: NDArray[np.float32]
    """(columns,): share of the diagonal in the covariance."""
    misfit: NDArray[np.float32]
    """How far the spectrum is from background plus methane: `~geostack_pipeline.methane.mag1c.Filtered.misfit`."""


def filter_columns(
    radiance: NDArray[np.float32],
    good: NDArray[np.bool_],
    unit: NDArray[np.float64],
    noise: NDArray[np.float64] | None,
    *,
    method: Method,
    block: int = COLUMNS,
) -> ColumnFields:
    """Return the methane of up to ``block`` columns, each filtered by itself.

    Args:
        radiance: (columns, lines, S), float32; whatever is not ``good`` may be anything, NaN as well.
        good: (columns, lines): pixels that the background is estimated from and that get a value.
        unit: Unit absorptions per ppm m, (columns, S).
        noise: Coefficients a, b, c of the noise ``|a sqrt(b + L) + c|`` in units of radiance, (3, S); None where it is
            not known.
        method: ``mag1c`` or ``cmf``.
        block: Columns that the kernel is compiled for.

    A column with fewer than 2 S good pixels, or whose bands are mostly dead, is not retrieved: ``usable`` says so.
    """
    columns, lines, bands = radiance.shape
    if columns > block:
        raise ValueError(f"{columns} columns in a block of at most {block}")
    good = good & np.isfinite(radiance).all(axis=-1)
    right = block - columns
    x = np.zeros((block, padded_lines(lines), bands), np.float32)
    np.copyto(x[:columns, :lines], radiance, where=good[..., None])
    weight = np.zeros(x.shape[:2], np.float32)
    weight[:columns, :lines] = good
    target = np.pad(np.asarray(unit, np.float64), ((0, right), (0, 0)))
    known = np.full((3, bands), np.nan) if noise is None else noise
    # 64-bit types exist in this block alone: the rest of the package computes in 32.  mag1c uses them where they are
    # cheap, for its one factor.
    with jax.enable_x64(method == "cmf" or jax.default_backend() == "cpu"), one_thread_per_factor():
        dtype = np.float64 if method == "cmf" else np.float32
        found = filter_block(
            x,
            weight,
            target.astype(dtype),
            known.astype(np.float32),
            method=method,
            devices=len(jax.local_devices()),
        )
        enhancement, linear, uncertainty, sensitivity, usable, shrinkage, misfit = (
            np.asarray(each) for each in found
        )
    usable = usable[:columns]
    valid = good & usable[:, None]

    def field(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.where(valid, values[:columns, :lines], np.float32(np.nan))

    return ColumnFields(
        enhancement=field(enhancement),
        linear=field(linear),
        uncertainty=field(uncertainty),
        sensitivity=field(sensitivity),
        usable=usable,
        shrinkage=shrinkage[:columns],
        misfit=field(misfit),
    )


def padded_lines(lines: int) -> int:
    """Return the number of lines that so many are padded to: few different ones, so that few kernels are compiled."""
    if lines <= _FEW_LINES:
        return max(LINES, lines + -lines % LINES)
    return 1 << (lines - 1).bit_length()


@partial(jax.jit, static_argnames=("method", "devices"))
def filter_block(
    x: jax.Array, good: jax.Array, unit: jax.Array, noise: jax.Array, *, method: Method, devices: int
) -> Any:
    """Return the fields of a padded block as `ColumnFields` has them, not yet masked."""
    one = partial(_column, noise=noise, method=method)

    def several(x: jax.Array, good: jax.Array, unit: jax.Array) -> Any:
        if jax.default_backend() == "cpu":
            return jax.lax.map(lambda column: one(*column), (x, good, unit))
        return jax.vmap(one)(x, good, unit)

    run: Callable[..., Any] = several
    if devices > 1 and x.shape[0] % devices == 0:
        split = PartitionSpec("column")  # type: ignore[no-untyped-call]
        run = jax.shard_map(
            several, mesh=_mesh(devices), in_specs=(split, split, split), out_specs=split, check_vma=False
        )
    return run(x, good, unit)


@cache
def _mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.local_devices()[:devices]), ("column",))


def _column(
    x: jax.Array, good: jax.Array, unit: jax.Array, *, noise: jax.Array, method: Method
) -> tuple[jax.Array, ...]:
    found = (mag1c_column if method == "mag1c" else cmf_column)(x, good, unit)
    # Both are properties of the linear filter q (Fahlen et al. 2024): what it makes of a change of the radiance by
    # one unit of methane, x s, and by noise that is independent from band to band.
    scaled = (unit * SCALING).astype(x.dtype)
    response = jnp.abs(jnp.matmul(x, found.weights * scaled, precision=EXACT))
    sigma = noise[0] * jnp.sqrt(jnp.maximum(noise[1] + x, 0.0)) + noise[2]
    noisy = jnp.sqrt(jnp.matmul(sigma * sigma, found.weights * found.weights, precision=EXACT))
    filtered = jnp.matmul(x, found.weights, precision=EXACT)
    n = jnp.maximum(jnp.sum(good), 1.0)
    apart = (filtered - jnp.sum(filtered * good) / n) * good
    spread = jnp.where(jnp.isnan(noise[0, 0]), jnp.sqrt(jnp.sum(apart * apart) / n), noisy)
    uncertainty = spread / jnp.maximum(response, _LEAST) * SCALING
    return (
        found.enhancement,
        found.linear,
        uncertainty,
        response / found.gain,
        found.usable,
        found.shrinkage,
        found.misfit,
    )
