"""Pixels of a granule on a map in clusters of like brightness and colour, each of which is filtered by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

_PIXELS_PER_CLUSTER = 20_000
_MOST_CLUSTERS = 8


def cluster_labels(values: NDArray[np.float32], good: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a cluster number per pixel, -1 for those that are not good: like colours in few bands, without methane.

    Clusters are by the slope and the brightness of the window's first four bands, where methane hardly absorbs, so that no
    plume is a cluster of its own.  The same input gives the same numbers.

    Args:
        values: Spectra within methane's window, (rows, columns, bands), any unit.
        good: Pixels to filter, (rows, columns).
    """
    labels = np.full(good.shape, -1, np.int64)
    count = int(np.clip(good.sum() // _PIXELS_PER_CLUSTER, 1, _MOST_CLUSTERS))
    if not good.any():
        return labels
    labels[good] = 0
    if count == 1:
        return labels
    spectra = values[good]
    clear = np.log(np.maximum(spectra[:, [0, 1, 2, 3]], 1e-6))
    features = np.stack([clear.mean(axis=1), clear[:, 3] - clear[:, 0]], axis=1)
    features = (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)
    _, found = kmeans2(features.astype(np.float64), count, minit="++", seed=0)
    _, labels[good] = np.unique(found, return_inverse=True)
    return labels
