"""Measured tasks: judging methods on whole granules, and choosing a line and thresholds on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from geostack_pipeline.learning.fields import Background, matched_filter_score
from geostack_pipeline.learning.judging import (
    LEVELS,
    THRESHOLDS,
    Granule,
    Method,
    baseline,
    best_threshold,
    calibrated,
    difference,
    interval_of,
    judge,
)
from geostack_pipeline.learning.targets import target

_THRESHOLD_PPM_M = 250.0


def granules(count: int, edge: int) -> Iterator[Granule]:
    """Yield granules of noise; all but every fourth hold two plumes, weak or strong."""
    for number in range(count):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:edge, :edge]
        plumes = np.zeros((edge, edge), np.int32)
        for plume in (1, 2) if number % 4 else ():
            row, column = rng.uniform(0.2, 0.8, 2) * edge
            plumes[((y - row) / 6.0) ** 2 + ((x - column) / 15.0) ** 2 < 1.0] = plume
        gas = rng.uniform(80.0, 500.0) * gaussian_filter((plumes > 0).astype(np.float64), 2.0)
        stack = np.stack(
            [
                gas + 200.0 * rng.standard_normal((edge, edge)),
                np.full((edge, edge), 200.0),
                np.ones((edge, edge)),
            ]
        ).astype(np.float32)
        yield Granule(
            item_id=f"{number:03d}",
            stack=stack,
            plumes=plumes,
            target=target(plumes > 0, np.isfinite(stack[0]), 2),
            rates_kg_h=(700.0, 3000.0) if number % 4 else (),
        )


def probability(stack: np.ndarray, about: Background) -> np.ndarray:
    """Return a probability that needs no network: the logistic of the blurred filter's score."""
    score = matched_filter_score(stack, about)
    return (1.0 / (1.0 + np.exp((250.0 - score) / 60.0))).astype(np.float32)


METHODS = (
    Method(name="candidate", score=probability, threshold=0.5, levels=LEVELS),
    baseline(_THRESHOLD_PPM_M),
)


def judging(granules: int, edge: int) -> Callable[[], dict[str, Any]]:
    """Judge two methods as the evaluation does, with the intervals of both and of their difference."""
    read = _reader(granules, edge)

    def work() -> dict[str, Any]:
        results = judge(METHODS, read, seed=0)
        mine, theirs = results.values()
        sure = {name: interval_of(each, count=1000, seed=0)["auprc"] for name, each in results.items()}
        gap = difference(mine, theirs, count=1000, seed=0).auprc
        return {
            "auprc": [each.value for each in sure.values()],
            "bounds": [[each.low, each.high] for each in (*sure.values(), gap)],
            "pixels": granules * edge**2,
            "methods": len(METHODS),
        }

    return work


def in_memory(granules: int, edge: int) -> Callable[[], dict[str, Any]]:
    """Average precision of the same scores, all pixels in one array per method: NumPy's sort, float64 sums."""
    from geostack_pipeline.learning.fields import background
    from geostack_pipeline.learning.targets import IGNORED, PLUME

    read = _reader(granules, edge)

    def work() -> dict[str, Any]:
        scores: list[list[np.ndarray]] = [[] for _ in METHODS]
        truth = []
        for granule in read():
            counted = granule.target != IGNORED
            truth.append((granule.target == PLUME)[counted])
            about = background(granule.stack)
            for method, those in zip(METHODS, scores, strict=True):
                those.append(method.score(granule.stack, about)[counted].astype(np.float32))
        plume = np.concatenate(truth)
        return {
            "auprc": [_average_precision(np.concatenate(those), plume) for those in scores],
            "pixels": granules * edge**2,
            "methods": len(METHODS),
        }

    return work


def _average_precision(score: np.ndarray, plume: np.ndarray) -> float:
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    hits = np.cumsum(plume[order], dtype=np.float64)[last]
    return float((np.diff(hits, prepend=0.0) * hits / (last + 1.0)).sum() / hits[-1])


def choosing(granules: int, edge: int) -> Callable[[], dict[str, Any]]:
    """Fit the line of the calibration and choose both thresholds as a training does at its end."""
    read = _reader(granules, edge)

    def work() -> dict[str, Any]:
        line = calibrated(probability, read)
        return {
            "line": [line.scale, line.shift],
            "thresholds": [
                best_threshold(probability, read, THRESHOLDS),
                best_threshold(matched_filter_score, read),
            ],
            "pixels": granules * edge**2,
            "methods": 2,
        }

    return work


def _reader(count: int, edge: int) -> Callable[[], Iterator[Granule]]:
    return lambda: granules(count, edge)
