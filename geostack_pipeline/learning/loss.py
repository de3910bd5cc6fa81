"""Loss: binary cross-entropy and the Tversky index, over the pixels that count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import Array

from geostack_pipeline.learning.profiles import Recipe
from geostack_pipeline.learning.targets import IGNORED, PLUME


def loss(recipe: Recipe, logits: Array, target: Array, weight: Array) -> Array:
    """Return the loss of a batch, a scalar.

    Tversky index (Salehi et al. 2017): TP / (TP + alpha FP + beta FN), of the whole batch, since most tiles have no
    plume.

    Args:
        recipe: Weights of the terms.
        logits: (tile, y, x).
        target: 1 plume, 0 none, 255 ignored, (tile, y, x).
        weight: Of each tile, (tile,).
    """
    counted = (target != IGNORED) * weight[:, None, None]
    truth = (target == PLUME).astype(logits.dtype)
    entropy = optax.sigmoid_binary_cross_entropy(logits, truth)
    mean = (entropy * counted).sum() / jnp.maximum(counted.sum(), 1.0)
    probability = jax.nn.sigmoid(logits)
    hit = (probability * truth * counted).sum()
    false = (probability * (1.0 - truth) * counted).sum()
    missed = ((1.0 - probability) * truth * counted).sum()
    index = (hit + 1.0) / (hit + recipe.alpha * false + recipe.beta * missed + 1.0)
    value: Array = (1.0 - recipe.tversky) * mean + recipe.tversky * (1.0 - index)
    return value
