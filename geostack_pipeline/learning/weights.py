"""Weights on disk: safetensors, which hold numbers and names and can run nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.learning.network import PlumeNet, skeleton
from geostack_pipeline.learning.profiles import Architecture

Named = dict[str, npt.NDArray[Any]]


def named(model: Any) -> Named:
    """Return the arrays of a network by their paths in it."""
    return {name: np.asarray(leaf) for name, leaf in _leaves(model)}


def _leaves(model: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(model, _is_weight))
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _is_weight(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def fill(model: PlumeNet, arrays: Named, subject: str) -> PlumeNet:
    """Return a network, given as it is or as its shapes alone, with other weights.

    Raises:
        IntegrityError: Names or shapes are those of another architecture.
    """
    own = dict(_leaves(model))
    odd = sorted(
        name
        for name in own.keys() | arrays.keys()
        if name not in own
        or name not in arrays
        or own[name].shape != arrays[name].shape
        or own[name].dtype != arrays[name].dtype
    )
    if odd:
        name = odd[0]
        raise IntegrityError(
            "the weights are of another architecture",
            subject=subject,
            found=f"{len(odd)} arrays differ, e.g. {name}: {_shape(arrays, name)}, wanted {_shape(own, name)}",
            action="use the architecture that the weights were trained with, or train again",
        )
    ordered = iter([arrays[name] for name in own])
    dynamic, static = eqx.partition(model, _is_weight)
    filled = jax.tree.map(lambda _: jnp.asarray(next(ordered)), dynamic)
    return cast("PlumeNet", eqx.combine(filled, static))


def _shape(arrays: Mapping[str, Any], name: str) -> str:
    return f"{arrays[name].dtype}{list(arrays[name].shape)}" if name in arrays else "none"


def save_weights(model: PlumeNet, architecture: Architecture) -> bytes:
    """Return a network as safetensors; the architecture is in the file's metadata."""
    return save(named(model), metadata={"architecture": json.dumps(architecture.as_dict(), sort_keys=True)})


def load_weights(data: bytes, architecture: Architecture, subject: str) -> PlumeNet:
    """Return the network that :func:`save_weights` wrote.

    Raises:
        IntegrityError: No safetensors, or weights of another architecture.
    """
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise IntegrityError(
            "the weights cannot be read",
            subject=subject,
            found=str(error)[:160],
            action="roll back to another version, or train again",
        ) from None
    return fill(skeleton(architecture), arrays, subject)
