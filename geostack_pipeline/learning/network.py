"""The network: a small U-Net with group normalisation over features of the matched filter's products."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from geostack_pipeline.learning.fields import BLUR_PIXELS
from geostack_pipeline.learning.profiles import Architecture

FEATURES = 7
_BLUR_RADIUS = 4


class Block(eqx.Module):
    """Two 3x3 convolutions, each normalised and rectified: (in, y, x) -> (out, y, x)."""

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm]

    def __init__(self, inside: int, outside: int, groups: int, key: Array) -> None:
        one, two = jax.random.split(key)
        self.first = eqx.nn.Conv2d(inside, outside, 3, padding=1, use_bias=False, key=one)
        self.second = eqx.nn.Conv2d(outside, outside, 3, padding=1, use_bias=False, key=two)
        self.norms = (eqx.nn.GroupNorm(groups, outside), eqx.nn.GroupNorm(groups, outside))

    def __call__(self, x: Array) -> Array:
        """Return (out, y, x) of (in, y, x)."""
        x = jax.nn.relu(self.norms[0](self.first(x)))
        return jax.nn.relu(self.norms[1](self.second(x)))


class PlumeNet(eqx.Module):
    """Logit of plume for each pixel of a tile whose edge is a multiple of 2^(levels - 1).

    The features also reach the logit directly, so that training starts from a blurred matched filter.
    """

    down: tuple[Block, ...]
    up: tuple[Block, ...]
    head: eqx.nn.Conv2d
    direct: eqx.nn.Conv2d

    def __init__(self, architecture: Architecture, key: Array) -> None:
        widths, groups = architecture.widths, architecture.groups
        keys = jax.random.split(key, 2 * len(widths) + 2)
        self.down = tuple(
            Block(inside, outside, groups, keys[level])
            for level, (inside, outside) in enumerate(zip((FEATURES, *widths), widths, strict=False))
        )
        self.up = tuple(
            Block(widths[level] + widths[level + 1], widths[level], groups, keys[len(widths) + level])
            for level in range(len(widths) - 1)
        )
        self.head = eqx.nn.Conv2d(widths[0], 1, 1, key=keys[-2])
        self.direct = eqx.nn.Conv2d(FEATURES, 1, 1, use_bias=False, key=keys[-1])

    def __call__(self, features: Array) -> Array:
        """Return logits (y, x) of features (7, y, x)."""
        kept = []
        x = features
        for level, block in enumerate(self.down):
            x = block(_halved(x) if level else x)
            kept.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            x = self.up[level](jnp.concatenate([kept[level], _doubled(x)]))
        return (self.head(x) + self.direct(features))[0] - 3.0


def _halved(x: Array) -> Array:
    channels, high, wide = x.shape
    return x.reshape(channels, high // 2, 2, wide // 2, 2).max(axis=(2, 4))


def _doubled(x: Array) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def features(stack: Array, background: Array) -> Array:
    """Return what the network sees, (7, y, x), finite everywhere.

    Args:
        stack: Enhancement, uncertainty (ppm m) and sensitivity (1), (3, y, x), NaN where masked.
        background: :attr:`Background.array` of the whole granule.
    """
    centre, scatter, blurred_centre, blurred_scatter, typical = background
    good = jnp.isfinite(stack[0])
    enhancement, uncertainty, sensitivity = jnp.where(good, stack, jnp.array([[[0.0]], [[1.0]], [[1.0]]]))
    smooth = _blurred(jnp.where(good, enhancement, 0.0), good)
    parts = [
        jnp.arcsinh((enhancement - centre) / scatter / 3.0),
        jnp.arcsinh(enhancement / uncertainty / 3.0),
        jnp.arcsinh((smooth - blurred_centre) / blurred_scatter / 5.0),
        jnp.log(uncertainty / typical),
        jnp.clip(sensitivity - 1.0, -2.0, 2.0),
        jnp.arcsinh(smooth / 500.0),
        jnp.ones_like(enhancement),
    ]
    return jnp.stack(parts) * good


def _blurred(values: Array, good: Array) -> Array:
    """Return values blurred over the good pixels alone, as ``fields.blurred`` does it.

    As products with band matrices: far faster on a CPU than convolutions of one channel.
    """

    def along(x: Array) -> Array:
        return jnp.asarray(_band(x.shape[0])) @ x @ jnp.asarray(_band(x.shape[1]))

    return along(values) / jnp.maximum(along(good.astype(values.dtype)), 1e-6)


def _band(size: int) -> npt.NDArray[np.float32]:
    offsets = np.arange(size)
    distance = np.abs(offsets[:, None] - offsets[None, :])
    kernel = np.exp(-0.5 * (distance / BLUR_PIXELS) ** 2) * (distance <= _BLUR_RADIUS)
    near = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    return np.asarray(kernel / np.exp(-0.5 * (near / BLUR_PIXELS) ** 2).sum(), np.float32)


def logits(model: PlumeNet, stack: Array, background: Array) -> Array:
    """Return the logits (tile, y, x) of tiles (tile, 3, y, x) with the background of each one's granule."""
    return jax.vmap(lambda one, about: model(features(one, about)))(stack, background)


def skeleton(architecture: Architecture) -> PlumeNet:
    """Return a network with shapes in place of weights."""
    made: PlumeNet = eqx.filter_eval_shape(PlumeNet, architecture, jax.random.key(0))
    return made


def new_network(architecture: Architecture, seed: int) -> PlumeNet:
    """Return a network with initial weights that the seed decides: He et al. 2015, by NumPy, without a compilation.

    The direct way starts as a blurred matched filter, the rest close to nothing.
    """
    shapes, static = eqx.partition(
        skeleton(architecture), lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)
    )
    leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    made = []
    for number, (path, leaf) in enumerate(leaves):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name.endswith("bias"):
            values = np.zeros(leaf.shape)
        elif "norms" in name:
            values = np.ones(leaf.shape)
        else:
            rng = np.random.default_rng([seed, number])
            values = rng.standard_normal(leaf.shape) * np.sqrt(2.0 / np.prod(leaf.shape[1:]))
        made.append(jnp.asarray(values, leaf.dtype))
    network: PlumeNet = eqx.combine(jax.tree.unflatten(structure, made), static)
    direct = np.zeros(network.direct.weight.shape, np.float32)
    direct[0, 2] = 3.0
    started: PlumeNet = eqx.tree_at(
        lambda tree: (tree.head.weight, tree.direct.weight),
        network,
        (network.head.weight * 0.1, jnp.asarray(direct)),
    )
    return started


def parameters(model: PlumeNet) -> int:
    """Return the number of weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
