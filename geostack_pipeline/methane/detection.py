"""Plume candidates in one enhancement map: smoothing, z-scores, hysteresis, and tests that kill false alarms.

1. The map is smoothed with a Gaussian (masked pixels have no weight), its local median taken away and divided by its
   local scatter: ``z``.  The scatter is that of the smoothed map, so neighbours that vary together count.
2. Connected pixels with ``z >= grow_z`` (eight neighbours) are kept when one of them reaches ``seed_z``.
3. A candidate must cover `min_area_m2`, must not be a line (roads, canals, edges), nor one bright pixel (a flare, a
   defect) that the smoothing has spread.
4. Methane leaves B11 almost alone; another surface does not.  Pixels whose B11 stands out comparably to their signal
   cannot join a candidate, and a candidate whose B11 as a whole stands out from the ring round it is a surface.
5. The spectra of a candidate must depart from the background as methane makes them depart (`misfit`), where the filter
   says how far they do otherwise.
6. Negative control: the same steps on ``-z`` find only noise, surface, and plumes in the reference.  A candidate
   weaker than more than `max_controls` of those is no better than what the scene makes by itself.

Where a plume model judged the pixels (:class:`Judgement`), its probability takes the place of ``z`` in step 2, and knows
lines, surfaces and the scene's own scatter better than steps 5 and 6: candidates are what it takes for plumes, as long as
they show an enhancement of some area.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geostack_pipeline.methane.misfit import UNLIKE, Departures, Misfit, departures
from geostack_pipeline.methane.padding import MULTIPLE
from geostack_pipeline.methane.robust import local_scatter

_EIGHT = np.ones((3, 3), dtype=bool)
_SIGMA_FLOOR_PPM_M = 1.0
"""A map without scatter (nothing real) would divide by zero."""


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """Thresholds of the detection; lengths in metres, so that they hold at any resolution."""

    smoothing_m: float = 40.0
    """Standard deviation of the Gaussian."""
    seed_z: float = 5.2
    """A candidate needs one pixel with at least this z where the signal is multi-pass.  Pure noise under the default
    smoothing passes it about once in 18 scenes of 20 km x 20 km (excursions of a Gaussian field: pixels / (2 s^2)
    z exp(-z^2 / 2) / (2 pi)^1.5, s the smoothing in pixels)."""
    seed_z_single: float = 7.0
    """The same for single-pass signals, which carry the contrasts of the surface."""
    grow_z: float = 2.5
    """Pixels down to this z belong to a candidate."""
    min_area_m2: float = 6000.0
    """Least area."""
    max_elongation: float = 16.0
    """Largest ratio of length to mean width."""
    surface_ratio: float = 0.5
    """A pixel or candidate is surface when its |contrast of ln B11| exceeds this share of its signal (plus noise)."""
    misfit_ratio: float = 1.0
    """A pixel or candidate is no methane when its spectra depart from the background in other directions by more than
    this share of what methane explains (plus noise); of signals that come with a misfit."""
    max_controls: int = 1
    """How many sign-flipped candidates may be as strong: one, since the reference may hold a plume."""
    block_m: float = 1280.0
    """Side of the tiles for the local median and scatter."""
    grow_share: float = 0.5
    """Pixels down to this share of a plume model's threshold belong to a candidate."""
    mean_z: float = 1.0
    """Mean z over the pixels that a candidate of a plume model needs: less is no enhancement."""


SPECTROMETER = DetectionSettings(
    smoothing_m=60.0, seed_z=7.0, min_area_m2=14_000.0, max_elongation=20.0, block_m=3840.0
)
"""For matched filters of imaging spectrometers, whose pixels are 30 to 60 m wide: four pixels of EMIT at least; tiles
that a plume of some kilometres fills in part only."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What a plume model says of a map."""

    probability: NDArray[np.float32]
    """Of plume, shape (h, w), NaN where masked."""
    threshold: float
    """The model's own: a candidate needs one pixel with at least this probability."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One candidate; its pixels are those of its ``label``."""

    label: int
    """Number in `Detection.labels`, from 1."""
    peak: tuple[int, int]
    """Row and column of the largest smoothed enhancement."""
    peak_z: float
    """Largest z."""
    significance: float
    """Sum of z over the pixels: what candidates and controls are compared by."""
    controls: int
    """Sign-flipped candidates at least as significant."""
    elongation: float
    """Length over mean width."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Candidates of a map, and what was let go."""

    candidates: list[Candidate]
    """Those kept, the most significant first."""
    labels: NDArray[np.int32]
    """Shape (h, w); the candidate's label per pixel, 0 elsewhere."""
    background: NDArray[np.float32]
    """Local median of the unsmoothed map around the candidates kept, ppm m."""
    rejected: dict[str, int]
    """Number of candidates by the reason for their rejection."""


@dataclass(frozen=True, kw_only=True)
class _Blob:
    label: int
    pixels: int
    peak: tuple[int, int]
    peak_z: float
    significance: float
    elongation: float


def find_candidates(
    enhancement: NDArray[np.float32],
    *,
    pixel_m: tuple[float, float],
    seed_z: float,
    settings: DetectionSettings,
    signal: NDArray[np.float32] | None = None,
    b11_contrast: NDArray[np.float32] | None = None,
    misfit: Misfit | None = None,
    judgement: Judgement | None = None,
) -> Detection:
    """Return the candidates in ``enhancement`` (h, w), ppm m, NaN where not valid.

    ``pixel_m`` is width and height of a pixel in metres.  ``signal`` and ``b11_contrast`` are the fractional signal and
    the logarithm of B11 over what is expected there; without them the surface tests are skipped.  ``misfit`` says how far
    the spectra are from background and methane; without it they are not judged.  With a `judgement` candidates are
    regions of probability, their spectra are not judged again, ``seed_z`` is for the negative control alone, and that
    rejects none.
    """
    valid = np.isfinite(enhancement)
    labels = np.zeros(enhancement.shape, dtype=np.int32)
    size = float(np.sqrt(pixel_m[0] * pixel_m[1]))
    if not valid.any():
        return Detection(candidates=[], labels=labels, background=enhancement.copy(), rejected={})
    block = max(16, round(settings.block_m / size / 16) * 16)
    sigma_px = settings.smoothing_m / size
    smooth, solid = _smooth(enhancement, valid, sigma_px)
    median, sigma = _local(smooth, solid, block)
    sigma = np.maximum(sigma, _SIGMA_FLOOR_PPM_M) * _edge_noise(valid, sigma_px)
    z = np.where(solid, (smooth - median) / sigma, 0.0).astype(np.float32)
    excess = np.where(valid, enhancement - median, 0.0)

    if signal is not None and b11_contrast is not None:
        z[_is_surface(signal, b11_contrast, solid, sigma_px, block, settings)] = 0.0

    apart, hidden = None, 0
    if misfit is not None and judgement is None:
        near, smoothed = partial(_local, block=block), partial(_smooth, sigma_px=sigma_px)
        apart = departures(enhancement, misfit, near)
        surface = apart.surface(smoothed, near, settings.misfit_ratio, round(2.0 * sigma_px))
        hidden = _without_surfaces(z, surface, apart, seed_z, settings)

    def problem(blob: _Blob, of: NDArray[np.int32], sign: float) -> str | None:
        reason = _shape_problem(blob, size, settings)
        if reason is None and judgement is not None and blob.significance < settings.mean_z * blob.pixels:
            reason = "no enhancement"
        if reason is None and _is_speck(sign * excess[of == blob.label]):
            reason = "a single bright pixel"
        if reason is None and signal is not None and b11_contrast is not None:
            reason = _surface_problem(of == blob.label, valid, signal, b11_contrast, settings)
        if reason is None and apart is not None:
            reason = apart.problem(of == blob.label, settings.misfit_ratio)
        return reason

    if judgement is None:
        seeds, members = z >= seed_z, z >= settings.grow_z
    else:
        probability = np.where(valid, np.nan_to_num(judgement.probability, nan=-1.0), -1.0)
        seeds = probability >= judgement.threshold
        members = probability >= judgement.threshold * settings.grow_share
    raw, blobs = _blobs(z, smooth, seeds, members)
    flipped, controls = _blobs(-z, -smooth, -z >= seed_z, -z >= settings.grow_z)
    # Controls pass the same tests: a surface that changed the other way says nothing about what is left.
    strengths = [blob.significance for blob in controls if problem(blob, flipped, -1.0) is None]
    rejected: Counter[str] = Counter({UNLIKE: hidden} if hidden else {})
    kept: list[tuple[_Blob, int]] = []
    for blob in blobs:
        stronger = sum(strength >= blob.significance for strength in strengths)
        reason = problem(blob, raw, 1.0)
        if reason is None and judgement is None and stronger > settings.max_controls:
            reason = "as strong as the negative control"
        if reason is None:
            kept.append((blob, stronger))
        else:
            rejected[reason] += 1
    kept.sort(key=lambda pair: (-pair[0].significance, pair[0].peak))
    candidates = []
    for number, (blob, stronger) in enumerate(kept, start=1):
        labels[raw == blob.label] = number
        candidates.append(
            Candidate(
                label=number,
                peak=blob.peak,
                peak_z=blob.peak_z,
                significance=blob.significance,
                controls=stronger,
                elongation=blob.elongation,
            )
        )
    # The plumes' own pixels, and their faint rims, would lift the median that they are measured against.
    rims = ndimage.binary_dilation(labels > 0, _EIGHT, iterations=2)
    around, _ = _local(enhancement, valid & ~rims, block)
    # Where they leave nothing of the map, the median that they were found against has to do.
    background = np.where(np.isfinite(around), around, median).astype(np.float32)
    return Detection(candidates=candidates, labels=labels, background=background, rejected=dict(rejected))


def _without_surfaces(
    z: NDArray[np.float32],
    surface: NDArray[np.bool_],
    apart: Departures,
    seed_z: float,
    settings: DetectionSettings,
) -> int:
    """Set z to 0, in place, on the surfaces in groups that are no methane as a whole; return how many groups it ends.

    What passes as a whole is left as it is: a weak plume beside an outcrop would lose its core.
    """
    ended = 0
    for sign in (1.0, -1.0):
        labels, _ = ndimage.label(sign * z >= settings.grow_z, structure=_EIGHT)
        for label in np.unique(labels[sign * z >= seed_z]).tolist():
            group = labels == label
            if apart.problem(group, settings.misfit_ratio) is not None:
                z[group & surface] = 0.0
                # Not lost silently: it counts as rejected.
                ended += bool(sign > 0.0 and not (z[group] >= seed_z).any())
    return ended


def _local(
    image: NDArray[np.float32], valid: NDArray[np.bool_], block: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return local median and scatter, shape of ``image``; tiles fit the padded image, or one covers it."""
    height, width = image.shape
    # Whole tiles, and few different shapes: each is compiled once.
    multiple = math.lcm(block, MULTIPLE)
    below, right = -height % multiple, -width % multiple
    grown = np.pad(image, ((0, below), (0, right)), constant_values=np.nan)
    mask = np.pad(valid, ((0, below), (0, right)))
    median, sigma = local_scatter(
        jnp.asarray(grown), jnp.asarray(mask), block=block, min_count=block * block // 10
    )
    return np.asarray(median)[:height, :width], np.asarray(sigma)[:height, :width]


def _smooth(
    image: NDArray[np.float32], valid: NDArray[np.bool_], sigma_px: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the masked Gaussian mean and where it rests on enough pixels to be trusted."""
    filled = np.where(valid, image, 0.0).astype(np.float32)
    weight = ndimage.gaussian_filter(valid.astype(np.float32), sigma_px, mode="constant")
    total = ndimage.gaussian_filter(filled, sigma_px, mode="constant")
    solid = valid & (weight > 0.5)
    smooth = np.zeros(image.shape, dtype=np.float32)
    np.divide(total, weight, out=smooth, where=solid)
    return smooth, solid


def _edge_noise(valid: NDArray[np.bool_], sigma_px: float) -> NDArray[np.float32]:
    """Return how much noisier the masked Gaussian mean is near masked pixels and the rim than inside, at least 1.

    A mean with weights g of independent pixels has the variance sum(g^2) / sum(g)^2, and g^2 of a Gaussian is a
    Gaussian narrower by sqrt(2).
    """
    mask = valid.astype(np.float32)
    weight = ndimage.gaussian_filter(mask, sigma_px, mode="constant")
    square = ndimage.gaussian_filter(mask, sigma_px / np.sqrt(2.0), mode="constant")
    ratio = np.ones(valid.shape, dtype=np.float32)
    np.divide(np.sqrt(np.maximum(square, 0.0)), weight, out=ratio, where=weight > 0.01)
    return np.maximum(ratio, 1.0)


def _is_speck(excess: NDArray[np.float32]) -> bool:
    """Return whether one pixel holds more than half of the sum: plumes share theirs among many."""
    total = float(np.sum(excess, dtype=np.float64))
    return total <= 0.0 or float(excess.max()) > 0.5 * total


def _blobs(
    z: NDArray[np.float32],
    smooth: NDArray[np.float32],
    seeds: NDArray[np.bool_],
    members: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], list[_Blob]]:
    """Return the regions of `members` numbered, and those with a seed in them."""
    labels, _ = ndimage.label(members, structure=_EIGHT)
    blobs = []
    for label in np.unique(labels[seeds]).tolist():
        rows, columns = np.nonzero(labels == label)
        here = z[rows, columns]
        top = int(np.argmax(smooth[rows, columns]))
        blobs.append(
            _Blob(
                label=label,
                pixels=rows.size,
                peak=(int(rows[top]), int(columns[top])),
                peak_z=float(here.max()),
                significance=float(here.sum(dtype=np.float64)),
                elongation=_elongation(rows, columns),
            )
        )
    return labels, blobs


def _elongation(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> float:
    """Return length over mean width: a filled bar of length L has a standard deviation of L / sqrt(12) along it."""
    if rows.size < 3:
        return float(rows.size)
    covariance = np.cov(np.stack([rows, columns]).astype(np.float64))
    # 1/12 is the spread of a pixel itself.
    length = float(np.sqrt(12.0 * (np.linalg.eigvalsh(covariance)[-1] + 1.0 / 12.0)))
    return length * length / rows.size


def _shape_problem(blob: _Blob, size: float, settings: DetectionSettings) -> str | None:
    if blob.pixels * size * size < settings.min_area_m2:
        return "too small"
    if blob.elongation > settings.max_elongation:
        return "a line"
    return None


def _is_surface(
    signal: NDArray[np.float32],
    b11_contrast: NDArray[np.float32],
    solid: NDArray[np.bool_],
    sigma_px: float,
    block: int,
    settings: DetectionSettings,
) -> NDArray[np.bool_]:
    """Return the pixels whose smoothed B11 stands out by four sigma and comparably to the smoothed signal."""
    valid = solid & np.isfinite(signal) & np.isfinite(b11_contrast)
    contrast, known = _smooth(b11_contrast, valid, sigma_px)
    depth, _ = _smooth(signal, valid, sigma_px)
    around, spread = _local(contrast, known, block)
    level, _ = _local(depth, known, block)
    shift = np.abs(contrast - around)
    surface: NDArray[np.bool_] = (
        known & (shift > 4.0 * spread) & (shift > settings.surface_ratio * np.abs(depth - level))
    )
    return surface


def _surface_problem(
    inside: NDArray[np.bool_],
    valid: NDArray[np.bool_],
    signal: NDArray[np.float32],
    b11_contrast: NDArray[np.float32],
    settings: DetectionSettings,
) -> str | None:
    """Say so when B11 inside differs from a ring round it, comparably to the signal."""
    known = valid & np.isfinite(signal) & np.isfinite(b11_contrast)
    rows, columns = np.nonzero(inside)
    reach = 12
    window = (
        slice(max(rows.min() - reach, 0), rows.max() + reach + 1),
        slice(max(columns.min() - reach, 0), columns.max() + reach + 1),
    )
    core, known = inside[window], known[window]
    near = ndimage.binary_dilation(core, _EIGHT, iterations=2)
    ring = ndimage.binary_dilation(near, _EIGHT, iterations=reach - 2) & ~near & known
    core = core & known
    if ring.sum() < 20 or not core.any():
        return None
    contrast, fraction = b11_contrast[window], signal[window]
    around = float(np.median(contrast[ring]))
    spread = 1.4826 * float(np.median(np.abs(contrast[ring] - around)))
    shift = abs(float(np.mean(contrast[core])) - around)
    depth = abs(float(np.mean(fraction[core])) - float(np.median(fraction[ring])))
    allowed = settings.surface_ratio * depth + 2.0 * spread / float(np.sqrt(core.sum()))
    return "seen in B11 too" if shift > allowed else None
