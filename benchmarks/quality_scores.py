"""Scores of methane maps against the truth: pixels, plumes and rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve

from geostack_pipeline.methane.mass import integrated_mass
from geostack_pipeline.methane.rates import emission_rate

Floats = NDArray[np.float32]
TRUE_PPM_M = 200.0
"""A pixel of a plume has at least this column."""
CLEAN_PPM_M = 1.0
"""A pixel without methane has less."""
STRONG_PPM_M = 1000.0
FALSE_PER_100_KM2 = 1.0
"""All methods are compared at the threshold that gives them so many false plumes."""
LEAST_PIXELS = 3
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True)
class Leak:
    """One planted plume on a map."""

    rate_kg_h: float
    wind_m_s: float
    column: Floats
    """Its own methane, ppm m."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """What a method made of one granule."""

    seed: int
    estimate: Floats
    """ppm m; NaN where masked."""
    column: Floats
    """Truth, ppm m."""
    leaks: Sequence[Leak]
    pixel_m: float

    @cached_property
    def near(self) -> NDArray[np.bool_]:
        """Pixels in or beside a plume, its thin parts as well."""
        return np.asarray(ndimage.binary_dilation(self.column >= TRUE_PPM_M / 4.0, _EIGHT))

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Pixels with a value."""
        return np.isfinite(self.estimate)


@dataclass(kw_only=True)
class Scores:
    """Of one method over all granules, and by seed."""

    noise_ppm_m: list[float] = field(default_factory=list)
    """Robust scatter over pixels without methane, by seed."""
    tail_ppm_m: list[float] = field(default_factory=list)
    """Their 99.9th percentile over their median: what confusers reach."""
    bias_ppm_m: list[float] = field(default_factory=list)
    """Mean error over plume pixels, by seed."""
    slope: list[float] = field(default_factory=list)
    """Least-squares slope through zero over plume pixels, by seed."""
    auprc: list[float] = field(default_factory=list)
    auprc_strong: list[float] = field(default_factory=list)
    """For pixels of at least `STRONG_PPM_M`; NaN where a seed has none."""
    f1: list[float] = field(default_factory=list)
    """By seed, all at the threshold that is best over all seeds together."""
    f1_all: float = float("nan")
    threshold: float = float("nan")
    """ppm m of that best F1."""
    curve: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    """Recall and precision over all seeds."""
    plume_threshold: float = float("nan")
    """ppm m at which plumes are looked for."""
    rates: list[float] = field(default_factory=list)
    """kg/h of every planted plume that is not wholly masked."""
    found: list[bool] = field(default_factory=list)
    estimated: list[float] = field(default_factory=list)
    """kg/h of every plume; NaN where not found."""


def score(maps: Sequence[Map]) -> Scores:
    """Return the scores of one method."""
    out = Scores()
    seeds = sorted({each.seed for each in maps})
    by_seed = {seed: [each for each in maps if each.seed == seed] for seed in seeds}
    pooled = {seed: _pooled(group) for seed, group in by_seed.items()}
    truth = np.concatenate([pooled[seed][0] for seed in seeds])
    estimate = np.concatenate([pooled[seed][1] for seed in seeds])
    precision, recall, thresholds = precision_recall_curve(truth >= TRUE_PPM_M, estimate)
    f1 = 2.0 * precision * recall / np.maximum(precision + recall, 1e-12)
    best = int(np.argmax(f1[:-1]))
    out.f1_all, out.threshold = float(f1[best]), float(thresholds[best])
    step = max(1, len(recall) // 2000)
    out.curve = (recall[::step], precision[::step])
    for seed in seeds:
        column, values = pooled[seed]
        clean, plume = values[column < CLEAN_PPM_M], column >= TRUE_PPM_M
        middle = np.median(clean)
        out.noise_ppm_m.append(1.4826 * float(np.median(np.abs(clean - middle))))
        out.tail_ppm_m.append(float(np.quantile(clean, 0.999) - middle))
        out.bias_ppm_m.append(float((values[plume] - column[plume]).mean()))
        out.slope.append(float(values[plume] @ column[plume] / (column[plume] @ column[plume])))
        out.auprc.append(float(average_precision_score(plume, values)))
        strong = column >= STRONG_PPM_M
        out.auprc_strong.append(float(average_precision_score(strong, values)) if strong.any() else np.nan)
        said = values >= out.threshold
        out.f1.append(float(2.0 * (said & plume).sum() / max(said.sum() + plume.sum(), 1)))
    out.plume_threshold = _plume_threshold(maps)
    for each in maps:
        _plumes(each, out)
    return out


def _pooled(maps: Sequence[Map]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    column = np.concatenate([each.column[each.known] for each in maps])
    estimate = np.concatenate([each.estimate[each.known] for each in maps])
    return column.astype(np.float64), estimate.astype(np.float64)


def _objects(each: Map, threshold: float) -> tuple[NDArray[np.int32], int, NDArray[np.bool_]]:
    """Return labels of connected pixels above a threshold, how many, and which (from 1) touch no plume."""
    labels, count = ndimage.label(np.where(each.known, each.estimate, -np.inf) >= threshold, _EIGHT)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    labels[sizes[labels] < LEAST_PIXELS] = 0
    touched = np.zeros(count + 1, bool)
    touched[np.unique(labels[each.near])] = True
    large = sizes >= LEAST_PIXELS
    return labels, count, ~touched & large & (np.arange(count + 1) > 0)


def _plume_threshold(maps: Sequence[Map]) -> float:
    """Return the least threshold with at most `FALSE_PER_100_KM2` false objects, ppm m."""
    area = sum(each.known.sum() * each.pixel_m**2 for each in maps) / 1e8
    values = np.concatenate([each.estimate[each.known] for each in maps])
    low, high = float(np.quantile(values, 0.9)), float(values.max())

    # From the top down, where there are few and small groups: below the first excess there are only more.
    grid = np.geomspace(max(low, 1.0), high, 40)[::-1]
    best = high
    for threshold in grid:
        if sum(_objects(each, threshold)[2].sum() for each in maps) > FALSE_PER_100_KM2 * area:
            break
        best = float(threshold)
    return best


def _plumes(each: Map, out: Scores) -> None:
    """Add which plumes of a map are found at the plume threshold, and at what rate."""
    labels, _, false = _objects(each, out.plume_threshold)
    outside = each.known & ~ndimage.binary_dilation(labels > 0, _EIGHT, iterations=2)
    background = float(np.median(each.estimate[outside]))
    excess = np.where(each.known, each.estimate - background, 0.0).astype(np.float32)
    for leak in each.leaks:
        foot = leak.column >= min(TRUE_PPM_M, 0.5 * float(leak.column.max()))
        if not leak.column.any() or not (foot & each.known).any():
            continue
        out.rates.append(leak.rate_kg_h)
        hits = [number for number in np.unique(labels[foot & each.known]) if number and not false[number]]
        out.found.append(bool(hits))
        if not hits:
            out.estimated.append(float("nan"))
            continue
        inside = np.isin(labels, hits)
        mass = integrated_mass(excess, inside, outside, pixel_area_m2=each.pixel_m**2, bias_relative=0.15)
        rate = emission_rate(
            instrument="emit" if each.pixel_m > 30.0 else "sentinel-2",
            ime_kg=mass.ime_kg,
            ime_sigma_kg=None,
            area_m2=float(inside.sum()) * each.pixel_m**2,
            wind_m_s=leak.wind_m_s,
            wind_sigma_m_s=None,
        )
        out.estimated.append(float("nan") if isinstance(rate, str) else rate.q_kg_h)
